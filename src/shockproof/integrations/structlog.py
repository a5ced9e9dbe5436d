"""
structlog: events of a level and above, into the error log of a service.

``ErrorLogProcessor(recovery)`` is one of the ``processors`` of ``structlog.configure``.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from shockproof.integrations.optional import missing
from shockproof.memory.error_log.log_messages import LogMessages, Message, is_traceback
from shockproof.service import check_recovery

try:
    from structlog.processors import NAME_TO_LEVEL
except ImportError as error:
    raise missing("structlog", "structlog", error) from error

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

    from shockproof.service import ErrorRecoveryService

__all__ = ["ErrorLogProcessor"]


class ErrorLogProcessor:
    """
    A processor that puts events into the error log of a service, and passes every event on as it came.

    It never waits for a disk, nor for another thread, and never raises. The name of the logger (``logger``, as
    ``add_logger_name`` sets it, else ``"structlog"``) becomes the ``service_name`` (a key ``service_name`` says another),
    the level the severity, the event with the exception's text the ``error_message``, ``exc_info`` type and
    traceback, and all other keys, on top of `recovery.context(...)`, the ``context``. Secrets are taken out as everywhere.

    Behind a processor that turned ``exc_info`` into the text ``exception`` it has the traceback, but not the
    error's type; so put it in front.

    The records are in the files and in `recovery.read_errors`, not in summary, health and events: those are
    about calls.

    Args:
        recovery: whose error log it is.
        level: the least level that is taken. Default ``"warning"``.

    Raises:
        ValueError: a level that there is not.
    """

    def __init__(self, recovery: ErrorRecoveryService, level: str | int = "warning") -> None:
        check_recovery(recovery)
        self._messages = LogMessages(recovery._error_log, recovery._clock, recovery._redactor)
        if isinstance(level, str) and level.lower() not in NAME_TO_LEVEL:
            raise ValueError(f"level must be one of {', '.join(NAME_TO_LEVEL)}, or a number, got {level!r}")
        self._level = level if isinstance(level, int) else NAME_TO_LEVEL[level.lower()]

    def __call__(self, logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
        """Take the event down if it is of the level, and pass it on."""
        level = _level_of(method_name, event_dict)
        if level >= self._level:
            self._messages.take(_message_in, (logger, level, event_dict))
        return event_dict


def _message_in(source: tuple[WrappedLogger, int, EventDict]) -> Message:
    logger, level, event_dict = source
    fields: dict[str, Any] = dict(event_dict)  # Any: the user's own values
    for internal in ("_record", "_from_structlog"):
        fields.pop(internal, None)
    event = fields.pop("event", "")
    error = _error_in(fields.pop("exc_info", None))
    text = fields.pop("exception") if is_traceback(fields.get("exception")) else None
    name = fields.get("logger") or getattr(logger, "name", None)
    service = fields.pop("service_name") if isinstance(fields.get("service_name"), str) else name
    function = fields.get("func_name")
    return Message(
        text=event if isinstance(event, str) else repr(event),
        level=level,
        service_name=service if isinstance(service, str) else "structlog",
        function_name=function if isinstance(function, str) else "",
        fields=fields,
        error=error,
        stack_trace=text,
    )


def _level_of(method_name: str, event_dict: EventDict) -> int:
    number = event_dict.get("level_number")
    if isinstance(number, int):
        return number
    named = event_dict.get("level")
    level = NAME_TO_LEVEL.get(named.lower()) if isinstance(named, str) else None
    return NAME_TO_LEVEL.get(method_name, logging.INFO) if level is None else level


def _error_in(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1] if len(exc_info) == 3 else None
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None

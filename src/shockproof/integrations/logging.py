"""
The standard library's `logging`: what other code logs, into the error log of a service.

``logging.getLogger().addHandler(ErrorLogHandler(recovery))`` is all that it takes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from shockproof.memory.error_log.log_messages import LogMessages, Message, is_traceback
from shockproof.service import check_recovery

if TYPE_CHECKING:
    from shockproof.service import ErrorRecoveryService

__all__ = ["ErrorLogHandler"]

# taskName is one of them from Python 3.12 on; message and asctime are set by other handlers' formatters.
_NOT_EXTRA: Final = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "taskName", "message", "asctime"}
)


class ErrorLogHandler(logging.Handler):
    """
    Puts records into the error log of a service: never waits for a disk, nor for another thread, and never raises.

    A record's logger becomes the ``service_name`` (``extra={"service_name": ...}`` says another), its level the
    severity, its message with the exception's text the ``error_message``, ``exc_info`` type and traceback, and
    ``extra``, on top of `recovery.context(...)`, the ``context``, with ``logger``, ``level`` and ``line``.
    Secrets are taken out as everywhere. Filters work as with any handler; a formatter is not used.

    The records are in the files and in `recovery.read_errors`, not in summary, health and events: those are
    about calls. `flush` does nothing, since it may be called on a loop: ``await recovery.aclose()``, or the
    program's end, writes what is queued.

    Args:
        recovery: whose error log it is.
        level: the least level that is taken. Default ``logging.WARNING``.
    """

    def __init__(self, recovery: ErrorRecoveryService, level: int | str = logging.WARNING) -> None:
        super().__init__(level)
        check_recovery(recovery)
        self._messages = LogMessages(recovery._error_log, recovery._clock, recovery._redactor)

    def handle(self, record: logging.LogRecord) -> bool:
        """
        Take the record down if the filters let it pass, without the handler's lock.

        The queue behind needs none, and a thread that is interrupted with the lock in its hands would hold up the loop.
        """
        passed: bool | logging.LogRecord = self.filter(record)
        if passed:
            self.emit(
                passed if isinstance(passed, logging.LogRecord) else record
            )  # from 3.12 on it may be another
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Take the record down and queue it."""
        self._messages.take(_message_in, record)


def _message_in(record: logging.LogRecord) -> Message:
    fields: dict[str, object] = {
        "logger": record.name,
        "level": record.levelname,
        "line": f"{record.filename}:{record.lineno}",
    }
    try:
        text = record.getMessage()
    except Exception as failure:  # noqa: BLE001  a wrong format, or a __str__ that raises: the rest is worth keeping
        text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        fields["arguments"] = record.args
        fields["not_formatted"] = f"{type(failure).__name__}: {failure}"
    fields |= {name: value for name, value in vars(record).items() if name not in _NOT_EXTRA}
    if record.stack_info:
        fields["stack_info"] = record.stack_info
    service = fields.pop("service_name") if isinstance(fields.get("service_name"), str) else record.name
    return Message(
        text=text,
        level=record.levelno,
        service_name=str(service),
        function_name=record.funcName or "",
        fields=fields,
        error=record.exc_info[1] if record.exc_info else None,
        stack_trace=record.exc_text if is_traceback(record.exc_text) else None,
        timestamp=record.created,
    )

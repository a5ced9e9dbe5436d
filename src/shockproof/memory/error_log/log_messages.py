"""
What a program says to loggers of its own, taken down as records of the error log.

The doors are in `shockproof.integrations`: a handler for `logging`, a processor for structlog. Both end
here, where a message becomes a record on the caller's thread in microseconds, and goes to the queue of
the one writer: nobody waits for a disk, and nothing of the caller's is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeGuard, TypeVar

from shockproof.memory.error_log.capture import CapturedError, capture
from shockproof.memory.error_log.context import current_context
from shockproof.memory.error_log.error_log import ErrorLog
from shockproof.memory.error_log.frozen_values import clean_text, freeze, safe_repr
from shockproof.memory.error_log.redaction import Redactor
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.statuses import ErrorSeverity

__all__ = ["MESSAGE", "LogMessages", "Message", "is_traceback", "severity_of"]

T = TypeVar("T")

MESSAGE: Final = "LogMessage"
"""The ``error_type`` of a message that came without an exception."""

_LONGEST_MESSAGE: Final = 8_000
_LONGEST_NAME: Final = 200
_LONGEST_STACK: Final = 32_000
_DEEPEST: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a logger of somebody's was told."""

    text: str
    """With an error, its own text follows behind a colon."""
    level: int
    """The number of a level of `logging`, which decides the severity."""
    service_name: str
    """The service that it is about, or the name of the logger."""
    function_name: str = ""
    """Where it was said."""
    fields: Mapping[str, object] = field(default_factory=dict[str, object])
    """What was said besides: for the record's context, on top of `recovery.context(...)`."""
    error: BaseException | None = None
    stack_trace: str | None = None
    """Where somebody has rendered it already: see `is_traceback`."""
    timestamp: float | None = None
    """Wall seconds; None: now."""


class LogMessages:
    """The way of messages into one error log. Any thread may use it at any time."""

    def __init__(self, log: ErrorLog, clock: Clock, redactor: Redactor) -> None:
        self._log = log
        self._clock = clock
        self._redactor = redactor
        self._here = threading.local()

    def take(self, read: Callable[[T], Message], source: T) -> None:
        """
        Read a message out of what some library calls one, and queue it for the disk. Never raises.

        Reading runs code of the user's (``__str__``, ``__repr__``), which may log in turn: that is taken down
        too, but what *it* causes is not, so that no message ever causes an endless row of others. For the
        same reason nothing is taken that the writer's own loop says.
        """
        depth: int = getattr(self._here, "depth", 0)
        if depth >= _DEEPEST or self._log.is_writing_here:
            return
        self._here.depth = depth + 1
        try:
            try:
                error = self._captured(read(source))
            except Exception as failure:  # noqa: BLE001  values with ideas of their own must not hurt the one who logs
                text = f"<a log message that could not be taken down: {safe_repr(failure)}>"
                error = self._captured(Message(text=text, level=40, service_name="shockproof"))
            self._log.put(error)
        finally:
            self._here.depth = depth

    def _captured(self, message: Message) -> CapturedError:
        when = self._clock.time() if message.timestamp is None else message.timestamp
        around = current_context()
        context = {**around, **message.fields} if around else message.fields
        if message.error is not None:
            return capture(
                message.error,
                severity=severity_of(message.level),
                service_name=message.service_name,
                function_name=message.function_name,
                retry_count=0,
                timestamp=when,
                context=context,
                captured_at=self._clock.monotonic(),
                redactor=self._redactor,
                said=message.text,
            )
        redactor, stack = self._redactor, message.stack_trace
        frozen, size = freeze(context, redactor)
        text = clean_text(message.text, _LONGEST_MESSAGE, redactor)
        stack = None if stack is None else clean_text(stack, _LONGEST_STACK, redactor)
        return CapturedError(
            timestamp=when,
            error_type=MESSAGE,
            error_message=text,
            severity=severity_of(message.level),
            service_name=clean_text(message.service_name, _LONGEST_NAME),
            function_name=clean_text(message.function_name, _LONGEST_NAME),
            stack_trace=stack,
            context=frozen or None,
            captured_at=self._clock.monotonic(),
            redactor=redactor,
            size=500 + len(text) + len(stack or "") + size,
        )


def is_traceback(text: object) -> TypeGuard[str]:
    """Whether this is what a record's ``stack_trace`` may hold."""
    return isinstance(text, str) and text.startswith("Traceback (most recent call last)")


def severity_of(level: int) -> ErrorSeverity:
    """CRITICAL from 50 on, HIGH from 40 (``ERROR``), MEDIUM from 30 (``WARNING``), else LOW."""
    if level >= 50:
        return ErrorSeverity.CRITICAL
    if level >= 40:
        return ErrorSeverity.HIGH
    return ErrorSeverity.MEDIUM if level >= 30 else ErrorSeverity.LOW

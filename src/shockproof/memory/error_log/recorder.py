"""
One way in for every failed attempt: captured once, kept in the history, queued for the disk.
"""

from __future__ import annotations

from typing import Protocol

from shockproof.memory.error_log.capture import capture
from shockproof.memory.error_log.context import current_context
from shockproof.memory.error_log.error_log import ErrorLog
from shockproof.memory.error_log.history import ErrorHistory
from shockproof.memory.error_log.redaction import Redactor
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.statuses import ErrorSeverity

__all__ = ["NoRecorder", "Recorder", "Recording"]


class Recording(Protocol):
    """Takes failed attempts down; never waits for a disk and never raises."""

    def record(
        self,
        error: BaseException,
        severity: ErrorSeverity,
        service_name: str,
        function_name: str,
        retry_count: int,
        now: float,
        at: float | None = None,
        text: str | None = None,
    ) -> None:
        """Keep *error*, or do not; *now* is the monotonic time, *at* the wall's and *text* the error's, if they were asked for already."""
        ...


class NoRecorder:
    """For policies that stand alone: nothing is kept."""

    def record(
        self,
        error: BaseException,
        severity: ErrorSeverity,
        service_name: str,
        function_name: str,
        retry_count: int,
        now: float,
        at: float | None = None,
        text: str | None = None,
    ) -> None:
        pass


class Recorder:
    """Records failed attempts; never waits for a disk and never raises."""

    __slots__ = ("_clock", "_history", "_log", "_redactor")

    def __init__(self, history: ErrorHistory, log: ErrorLog, clock: Clock, redactor: Redactor) -> None:
        self._history = history
        self._log = log
        self._clock = clock
        self._redactor = redactor

    def record(
        self,
        error: BaseException,
        severity: ErrorSeverity,
        service_name: str,
        function_name: str,
        retry_count: int,
        now: float,
        at: float | None = None,
        text: str | None = None,
    ) -> None:
        """See `Recording`: in memory, and queued for the error log."""
        captured = capture(  # by position: to match so many names takes a tenth of all this
            error,
            severity,
            service_name,
            function_name,
            retry_count,
            self._clock.time() if at is None else at,
            now,
            current_context(),
            self._redactor,
            text,
        )
        self._history.add(captured)
        self._log.put(captured)

"""The last errors in memory, for summaries and health."""

from __future__ import annotations

from collections import Counter, deque
from datetime import datetime
from typing import Final

from shockproof.memory.error_log.capture import CapturedError
from shockproof.vocabulary.statuses import ErrorSeverity

__all__ = ["ERRORS_KEPT", "ErrorHistory"]

ERRORS_KEPT: Final = 1_000
_SHOWN: Final = 10


class ErrorHistory:
    """
    The last 1,000 errors, oldest first. Any thread may add and ask at any time; nobody waits.
    """

    def __init__(self, *, kept: int = ERRORS_KEPT) -> None:
        self._errors: deque[CapturedError] = deque(maxlen=kept)
        self.add = self._errors.append
        """Remember an error, and forget the oldest if there are too many."""

    def __len__(self) -> int:
        return len(self._errors)

    def __repr__(self) -> str:
        return f"<ErrorHistory of {len(self._errors)} errors>"

    def clear(self) -> None:
        """Forget all."""
        self._errors.clear()

    def recent_count(self, now: float, within: float = 300.0) -> int:
        """How many of them are at most ``within`` seconds old, by the monotonic clock."""
        count = 0
        for error in reversed(self._moment()):
            if now - error.captured_at > within:
                break
            count += 1
        return count

    def latest(self, most: int) -> list[CapturedError]:
        """The last ones, newest first."""
        return self._moment()[: -most - 1 : -1]

    def summary(
        self,
        since: datetime | float | None = None,
        service_name: str | None = None,
        min_severity: ErrorSeverity | None = None,
    ) -> dict[str, object]:
        """
        Counts and the last ten errors, as a JSON-ready dict without secrets.

        Args:
            since: only from this moment on; a naive datetime is local time, a number seconds since
                1970 UTC.
            service_name: only of this service.
            min_severity: only as bad as this, or worse.
        """
        start = since.timestamp() if isinstance(since, datetime) else since
        lowest = 0 if min_severity is None else min_severity.rank
        errors = [
            error
            for error in self._moment()
            if (start is None or error.timestamp >= start)
            and (service_name is None or error.service_name == service_name)
            and error.severity.rank >= lowest
        ]
        return {
            "total_errors": len(errors),
            "errors_by_service": dict(Counter(error.service_name for error in errors)),
            "errors_by_type": dict(Counter(error.error_type for error in errors)),
            "errors_by_severity": dict(Counter(error.severity.value for error in errors)),
            "recent_errors": [error.to_fields() for error in errors[-_SHOWN:]],
        }

    def _moment(self) -> list[CapturedError]:
        # Copying a deque is one step under the interpreter lock; without that lock it may fail and
        # is tried again.
        while True:
            try:
                return list(self._errors)
            except RuntimeError:
                continue

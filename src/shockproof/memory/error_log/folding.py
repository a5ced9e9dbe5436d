"""
Storms of identical errors, folded: the first stands in the log at once, the last with how many there were.

What happened is decided here, with the times handed in; the error log queues what it is given.
"""

from __future__ import annotations

import re
import threading
from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias

from shockproof.memory.error_log.capture import CapturedError, iso_time

if TYPE_CHECKING:
    from shockproof.vocabulary.models import ErrorRecord

__all__ = ["Folding", "times"]

_MOST_OPEN: Final = 256
"""Different errors that are folded at the same time; further ones are written one by one."""
_NUMBERS: Final = re.compile(r"\b[0-9a-fA-F]{8,}\b|\d+(?:[.,:]\d+)*")
_Key: TypeAlias = tuple[str, str, str, str, str]


class _Fold:
    """One error that comes again and again."""

    __slots__ = ("began", "counter", "due", "first", "last", "number")

    def __init__(self, began: float, due: float) -> None:
        self.began = began
        self.due = due
        self.counter = count(1)
        self.number = 0
        self.first: CapturedError | None = None
        self.last: CapturedError | None = None


class Folding:
    """
    Which records are written, and which are counted only.

    Records are identical when service, function, type, severity and message are. The first is written;
    those that follow within ``seconds`` are counted, and at the end of that time the last of them is
    written, with ``context["folded"]``: ``count``, itself included, and the times ``from`` and ``to``. What
    comes later is a first one again. So each error is in the log at once, a storm makes two lines in each
    ``seconds``, and the counts add up.

    The time is the records' own (the monotonic reading that they carry), so that virtual time is followed;
    a storm that just stops is ended by whoever calls `end_due`. Any thread may add; a signal handler
    or a finalizer may do so in the middle of another call.

    Args:
        seconds: how long, more than 0.
        ignore_numbers: whether messages that differ in numbers only (and in words of eight hexadecimal
            digits or more) are identical.
    """

    def __init__(self, seconds: float, *, ignore_numbers: bool = False) -> None:
        self._seconds = seconds
        self._ignore_numbers = ignore_numbers
        self.clear()

    def clear(self) -> None:
        """Forget everything: for a forked child, whose parent writes it."""
        # Re-entrant for signal handlers and finalizers; it protects a few assignments.
        self._lock = threading.RLock()
        self._open: dict[_Key, _Fold] = {}
        self._swallowed = count(1)
        self._number_swallowed = 0
        self._written_for = 0

    def add(self, error: CapturedError, now: float) -> tuple[CapturedError, ...]:
        """
        What has to be written because of this record: itself, nothing, or a storm's end and itself.

        *now* is real monotonic time, by which `end_due` goes.
        """
        key = self._key_of(error)
        at = error.captured_at
        with self._lock:
            fold = self._open.get(key)
            if fold is not None and 0 <= at - fold.began < self._seconds:
                fold.number = next(fold.counter)
                if fold.first is None:
                    fold.first = error
                fold.last = error
                self._number_swallowed = next(self._swallowed)
                return ()
            end = None if fold is None else self._end(key, fold)
            if len(self._open) < _MOST_OPEN:
                self._open[key] = _Fold(at, now + self._seconds)
        return (error,) if end is None else (end, error)

    def end_due(self, now: float) -> list[CapturedError]:
        """The ends of the storms whose time is over, to be written."""
        return self._end_all(now)

    def end(self) -> list[CapturedError]:
        """The ends of all storms so far, to be written: somebody wants to have everything on the disk."""
        return self._end_all(None)

    @property
    def next_due(self) -> float | None:
        """When `end_due` should be called next; None: nothing is being counted."""
        with self._lock:
            return min([fold.due for fold in self._open.values()], default=None)

    @property
    def waiting(self) -> int:
        """Records that are counted and whose end is not written yet."""
        with self._lock:
            return sum([fold.number for fold in self._open.values()])

    @property
    def folded(self) -> int:
        """Records that have no line of their own, but are counted in another's."""
        with self._lock:
            return self._number_swallowed - self._written_for - self.waiting

    def _end_all(self, now: float | None) -> list[CapturedError]:
        ends: list[CapturedError] = []
        with self._lock:
            for key, fold in list(self._open.items()):
                if now is None or fold.due <= now:
                    end = self._end(key, fold)
                    if end is not None:
                        ends.append(end)
        return ends

    def _end(self, key: _Key, fold: _Fold) -> CapturedError | None:
        # Out of the table first: what comes in the middle of this begins another fold.
        self._open.pop(key, None)
        first, last = fold.first, fold.last
        if first is None or last is None:
            return None
        self._written_for += 1
        if fold.number == 1:
            return last
        folded = {
            "count": fold.number,
            "from": iso_time(first.timestamp),
            "to": iso_time(last.timestamp),
        }
        return CapturedError(
            timestamp=last.timestamp,
            error_type=last.error_type,
            error_message=last._message,
            severity=last.severity,
            service_name=last.service_name,
            function_name=last.function_name,
            retry_count=last.retry_count,
            stack_trace=last._stack,
            context={**(last._context or {}), "folded": folded},
            captured_at=last.captured_at,
            redactor=last._redactor,
            chain=last.chain,
            size=last.size + 100,
        )

    def _key_of(self, error: CapturedError) -> _Key:
        text = error._message  # as it came: taking secrets out takes long, and is the writer's
        if self._ignore_numbers:
            text = _NUMBERS.sub("#", text)
        return error.service_name, error.function_name, error.error_type, error.severity.value, text


def times(record: ErrorRecord) -> int:
    """How many errors a record stands for: more than one when it ends a storm that was folded."""
    folded = None if record.context is None else record.context.get("folded")
    number = folded.get("count") if isinstance(folded, dict) else None
    return number if isinstance(number, int) and number > 0 else 1

"""
How many calls, failures and slow calls there were lately: in the last seconds, or among the last calls.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple, Protocol

__all__ = ["CallWindow", "Counts", "TimeWindow", "Window"]

_SLICES = 10


class Counts(NamedTuple):
    """What a window holds."""

    calls: int
    failures: int
    slow: int


class Window(Protocol):
    """Counts of what ended lately. Not safe to share by itself: the circuit holds its lock around it."""

    def add(self, now: float, *, failed: bool, slow: bool) -> Counts:
        """Count one call that ended at *now*, and tell what the window holds with it."""
        ...

    def counts(self, now: float) -> Counts:
        """What the window holds at *now*."""
        ...


class TimeWindow:
    """
    Counts over the last *seconds*, in ten slices: constant memory, and exact to a tenth of the window.

    A slice is cleared when its turn comes again, and all are after an idle gap of a whole window, so
    that failures of long ago never add to those of now.
    """

    __slots__ = ("_counts", "_current", "_slice_seconds")

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / _SLICES
        self._counts = [[0, 0, 0] for _ in range(_SLICES)]
        self._current: int | None = None

    def add(self, now: float, *, failed: bool, slow: bool) -> Counts:
        """Count one call that ended at *now*, and tell what the window holds with it."""
        current = self._turn_to(now)
        counts = self._counts[current % _SLICES]
        counts[0] += 1
        counts[1] += failed
        counts[2] += slow
        return self.counts(now)

    def counts(self, now: float) -> Counts:
        """What the window holds at *now*."""
        self._turn_to(now)
        calls, failures, slow = map(sum, zip(*self._counts, strict=True))
        return Counts(calls, failures, slow)

    def _turn_to(self, now: float) -> int:
        due = int(now // self._slice_seconds)
        current = due if self._current is None else self._current
        if due < current - _SLICES:
            # No loop is as late as that: the clock is another one, and what was counted has no age in it.
            self._counts = [[0, 0, 0] for _ in range(_SLICES)]
            current = due
        # A loop whose clock is a little behind counts into the current slice.
        for passed in range(current + 1, min(due, current + _SLICES) + 1):
            self._counts[passed % _SLICES] = [0, 0, 0]
        self._current = max(due, current)
        return self._current


class CallWindow:
    """
    Counts over the last *calls* calls; with *seconds*, only those that ended within that time.

    A ring of two arrays: the memory is that of *calls* numbers, however many come. Each call enters
    once and leaves once, so that counting takes the same time whatever the size.
    """

    __slots__ = ("_ended", "_failures", "_first", "_held", "_kinds", "_seconds", "_size", "_slow")

    def __init__(self, calls: int, seconds: float | None = None) -> None:
        self._size = calls
        self._seconds = seconds
        self._kinds = bytearray(calls)
        self._ended = array("d") if seconds is None else array("d", bytes(8 * calls))
        self._first = 0
        self._held = 0
        self._failures = 0
        self._slow = 0

    def add(self, now: float, *, failed: bool, slow: bool) -> Counts:
        """Count one call that ended at *now*, and tell what the window holds with it."""
        if self._held == self._size:
            self._drop_first()
        place = (self._first + self._held) % self._size
        self._kinds[place] = failed | slow << 1
        if self._seconds is not None:
            self._ended[place] = now
        self._held += 1
        self._failures += failed
        self._slow += slow
        return self.counts(now)

    def counts(self, now: float) -> Counts:
        """What the window holds at *now*."""
        if self._seconds is not None:
            # What ended later than now was timed by another clock: its age is not known.
            while self._held and abs(now - self._ended[self._first]) >= self._seconds:
                self._drop_first()
        return Counts(self._held, self._failures, self._slow)

    def _drop_first(self) -> None:
        kind = self._kinds[self._first]
        self._failures -= kind & 1
        self._slow -= kind >> 1
        self._first = (self._first + 1) % self._size
        self._held -= 1

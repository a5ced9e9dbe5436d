"""
How many calls, failures and slow calls there were in the last seconds.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Counts", "Window"]

_SLICES = 10


class Counts(NamedTuple):
    """What a window holds."""

    calls: int
    failures: int
    slow: int


class Window:
    """
    Counts over the last *seconds*, in ten slices: constant memory, and exact to a tenth of the window.

    A slice is cleared when its turn comes again, and all are after an idle gap of a whole window, so
    that failures of long ago never add to those of now. Not safe to share by itself: the circuit
    holds its lock around it.
    """

    __slots__ = ("_counts", "_current", "_slice_seconds")

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / _SLICES
        self._counts = [[0, 0, 0] for _ in range(_SLICES)]
        self._current: int | None = None

    def add(self, now: float, *, failed: bool, slow: bool) -> Counts:
        """Count one call that ended at *now*, and tell what the window holds with it."""
        self._turn_to(now)
        assert self._current is not None
        counts = self._counts[self._current % _SLICES]
        counts[0] += 1
        counts[1] += failed
        counts[2] += slow
        return self.counts(now)

    def counts(self, now: float) -> Counts:
        """What the window holds at *now*."""
        self._turn_to(now)
        calls, failures, slow = map(sum, zip(*self._counts, strict=True))
        return Counts(calls, failures, slow)

    def _turn_to(self, now: float) -> None:
        due = int(now / self._slice_seconds)
        if self._current is None:
            self._current = due
        # A loop whose clock is a little behind counts into the current slice.
        for passed in range(self._current + 1, min(due, self._current + _SLICES) + 1):
            self._counts[passed % _SLICES] = [0, 0, 0]
        if due - self._current > _SLICES:
            self._counts = [[0, 0, 0] for _ in range(_SLICES)]
        self._current = max(due, self._current)

"""
How long calls took, counted in buckets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from shockproof.vocabulary.outcomes import Outcome

__all__ = ["Durations", "Histogram"]


class Histogram(NamedTuple):
    """What was counted so far."""

    up_to: tuple[int, ...]
    """For each bound how many were at most so long, and at last how many there were."""
    total: float
    """The sum of all of them, in seconds."""


class Durations:
    """
    The durations of the calls of one service, by how they ended: as many numbers as there are buckets.

    Counting takes no lock: on CPython with its interpreter lock each count is atomic, as in `ServiceState`.
    """

    __slots__ = ("_counts", "_totals", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        """Seconds, ascending: a bucket ends at each, and one more holds what took longer."""
        self._counts: dict[Outcome, list[int]] = {}
        self._totals: dict[Outcome, float] = {}

    def add(self, outcome: Outcome, seconds: float) -> None:
        """A call ended so after so long."""
        counts = self._counts.get(outcome)
        if counts is None:
            counts = self._counts.setdefault(outcome, [0] * (len(self.bounds) + 1))
            self._totals.setdefault(outcome, 0.0)
        bucket = bisect_left(self.bounds, seconds)
        counts[bucket] += 1
        self._totals[outcome] += seconds

    def histograms(self) -> dict[Outcome, Histogram]:
        """What was counted so far, by outcome."""
        totals = dict(self._totals)
        return {
            outcome: Histogram(tuple(accumulate(list(counts))), totals.get(outcome, 0.0))
            for outcome, counts in dict(self._counts).items()
        }

"""
A quantile of latencies, followed in constant memory.

Each sample moves the estimate by a step: up when it is above, down when it is below, in the proportion
that makes the steps cancel out at the quantile; the step follows the spread of the samples. It forgets
as it goes, so that it follows a service that becomes slower ("frugal streaming", Ma, Muthukrishnan and
Sandler, 2013, with a step of the samples' own size).
"""

from __future__ import annotations

import math

__all__ = ["LatencyQuantile"]

_SHARE_OF_SPREAD = 0.01
_MEMORY = 0.05
"""What a new sample counts in mean and spread: about the last twenty matter."""


class LatencyQuantile:
    """
    The *quantile* (between 0 and 1) of the latencies told, in seconds; unknown before *enough* of them.

    It begins with the quantile of the first ones and moves from there.
    """

    __slots__ = ("_estimate", "_first", "_mean", "_missing", "_quantile", "_variance")

    def __init__(self, quantile: float, *, enough: int = 20) -> None:
        self._quantile = quantile
        self._missing = enough
        self._first: list[float] = []
        self._estimate = 0.0
        self._mean = 0.0
        self._variance = 0.0

    @property
    def value(self) -> float | None:
        """The quantile, or None as long as too few latencies are known."""
        return None if self._missing else self._estimate

    def add(self, seconds: float) -> None:
        """One more latency."""
        difference = seconds - self._mean if self._mean else 0.0
        self._mean = self._mean + _MEMORY * difference if self._mean else seconds
        self._variance = (1 - _MEMORY) * (self._variance + _MEMORY * difference * difference)
        if self._missing:
            self._first.append(seconds)
            self._missing -= 1
            if not self._missing:
                ordered = sorted(self._first)
                self._estimate = ordered[int(self._quantile * len(ordered))]
                self._first = []
            return
        step = max(math.sqrt(self._variance) * _SHARE_OF_SPREAD, 1e-9)
        if seconds > self._estimate:
            self._estimate += step * self._quantile / (1 - self._quantile)
        elif seconds < self._estimate:
            self._estimate = max(0.0, self._estimate - step)

"""Which shares of failed or slow calls open a circuit, over which window."""

from __future__ import annotations

from typing import Final, NamedTuple

from shockproof.policies.window import CallWindow, Counts, TimeWindow, Window

__all__ = ["NO_RATES", "Rates"]


class Rates(NamedTuple):
    """
    Trip rules over a window, beside the failures in a row.

    The circuit opens when, of at least `min_calls` calls in the window, a share of at least
    `failure_rate` failed, or a share of at least `slow_call_rate` took longer than `slow_call_after`
    seconds. None switches a rule off.

    The window is the last `window` seconds (None: 10); with `window_calls` it is the last so many
    calls, and with both those of the last so many calls that ended in the last `window` seconds.
    """

    failure_rate: float | None = None
    slow_call_after: float | None = None
    slow_call_rate: float | None = None
    window: float | None = None
    window_calls: int | None = None
    min_calls: int = 10

    @property
    def are_on(self) -> bool:
        """Whether there is any rule at all."""
        return self.failure_rate is not None or self.slow_call_rate is not None

    def new_window(self) -> Window:
        """An empty window of the kind that is asked for."""
        if self.window_calls is not None:
            return CallWindow(self.window_calls, self.window)
        return TimeWindow(_WINDOW_SECONDS if self.window is None else self.window)

    def is_slow(self, duration: float) -> bool:
        """Whether a call of *duration* seconds counts as slow."""
        return self.slow_call_after is not None and duration > self.slow_call_after

    def trip(self, counts: Counts) -> bool:
        """Whether *counts* meet one of the rules; a share that is reached is enough."""
        if counts.calls < self.min_calls:
            return False
        if self.failure_rate is not None and counts.failures >= self.failure_rate * counts.calls:
            return True
        return self.slow_call_rate is not None and counts.slow >= self.slow_call_rate * counts.calls


_WINDOW_SECONDS: Final = 10.0
NO_RATES: Final = Rates()
"""Failures in a row alone."""

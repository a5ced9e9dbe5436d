"""
How late an event loop is: something small is due there every so often, and is late by what held the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from shockproof.memory.services.durations import Durations, Histogram
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.outcomes import Outcome

__all__ = ["BOUNDS", "EVERY", "LoopLag"]

EVERY: Final = 0.25
"""Seconds between two beats."""

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: the same for every loop and process, so that counts can be added up."""


class LoopLag:
    """
    Measures one loop: `beat` is awaited there by one task every `EVERY` seconds, the rest asked from anywhere.

    A task that begins anew, on the same loop or another, begins a new row of beats. *told* gets the lag of
    each beat, and must not raise.
    """

    def __init__(self, clock: Clock, told: Callable[[float], None] | None = None) -> None:
        self._clock = clock
        self._told = told
        self._task: asyncio.Task[Any] | None = None  # Any: whatever the task that beats returns
        self._due = 0.0
        self._late = Durations(BOUNDS)
        self.bounds = BOUNDS

    async def beat(self) -> None:
        """It is time."""
        now, task = self._clock.monotonic(), asyncio.current_task()
        if task is self._task:
            late = max(0.0, now - self._due)
            self._late.add(Outcome.SUCCESS, late)
            if self._told is not None:
                self._told(late)
        self._due, self._task = now + EVERY, task

    def histogram(self) -> Histogram:
        """How late the beats were."""
        nothing = Histogram((0,) * (len(BOUNDS) + 1), 0.0)
        return self._late.histograms().get(Outcome.SUCCESS, nothing)

    def stalled_for(self) -> float | None:
        """Seconds by which the next beat is late now; None where no loop runs that should beat."""
        task = self._task
        if task is None or task.done() or not task.get_loop().is_running():
            return None
        return max(0.0, self._clock.monotonic() - self._due)

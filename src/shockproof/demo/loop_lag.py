"""How late the event loop is: a ticker that measures how much later than asked it wakes up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["LoopLag"]

_EVERY = 0.01


class LoopLag:
    """Seconds of delay that anything on this loop suffers; `run` it as a task."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.on_lag: Callable[[float], None] | None = None
        """Told each measurement, a hundred times a second."""
        self._latest = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_EVERY)
            lag = max(0.0, time.perf_counter() - before - _EVERY)
            self._latest = max(self._latest, lag)
            self.worst = max(self.worst, lag)
            if self.on_lag is not None:
                self.on_lag(lag)

    def take(self) -> float:
        """The worst lag since the last call."""
        latest, self._latest = self._latest, 0.0
        return latest

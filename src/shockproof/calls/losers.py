"""
Requests that have lost a hedged race, until they have ended.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

__all__ = ["Losers"]

_LOOK_EVERY = 0.01
"""Seconds between two looks at what runs on another loop."""


class Losers:
    """
    Cancels the losers of one recovery service, and keeps them until they have ended: the loop itself
    refers to a task only weakly.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()  # Any: whatever the request returns
        # Reentrant: a garbage collection inside it may end a call of a dead loop.
        self._lock = threading.RLock()

    def add(self, task: asyncio.Task[Any]) -> None:  # Any: as above
        """Cancel *task*, of the running loop."""
        task.cancel()
        with self._lock:
            # What was on a loop that is closed never ends, and would stay here for ever.
            self._tasks = {other for other in self._tasks if not other.get_loop().is_closed()} | {task}
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:  # Any: as above
        with self._lock:
            self._tasks.discard(task)

    @property
    def living(self) -> list[asyncio.Task[Any]]:  # Any: as above
        """Those that run still."""
        with self._lock:
            return [task for task in self._tasks if not (task.done() or task.get_loop().is_closed())]

    async def reap(self) -> None:
        """Wait until all have ended. They are not cancelled again: that would cut their cleaning up short."""
        here = asyncio.get_running_loop()
        while living := self.living:
            own = [task for task in living if task.get_loop() is here]
            if own:
                await asyncio.wait(own)
            else:
                await asyncio.sleep(_LOOK_EVERY)

"""
Something that happens by itself every so often, on whatever loop the program runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

__all__ = ["Periodic"]

_log = logging.getLogger("shockproof")


class Periodic:
    """
    Runs *action* every *every()* seconds, first after one such wait.

    Belongs to no loop: `ensure` starts it on the running one, and again on the next when that has
    ended. An action that fails is logged and tried again at its next time.
    """

    def __init__(
        self,
        name: str,
        *,
        every: Callable[[], float],
        action: Callable[[], Awaitable[object]],
        sleep: Callable[[float], Awaitable[None]],
        on_loop_end: Callable[[], None],
    ) -> None:
        self.name = name
        self._every = every
        self._action = action
        self._sleep = sleep
        self._on_loop_end = on_loop_end
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def ensure(self) -> None:
        """Run on the current loop, unless it runs on a living one already."""
        task = self._task
        if self._stopped or (task is not None and not task.done() and not task.get_loop().is_closed()):
            return
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"shockproof {self.name}")

    def stop(self) -> None:
        """Never run again; an action in flight is cancelled."""
        self._stopped = True
        self.pause()

    def pause(self) -> None:
        """Stop running until the next `ensure`."""
        task, self._task = self._task, None
        if task is None or task.done() or task.get_loop().is_closed():
            return
        if task.get_loop() is asyncio._get_running_loop():
            task.cancel()
        else:
            try:
                task.get_loop().call_soon_threadsafe(task.cancel)
            except RuntimeError:
                pass  # that loop has just ended, and the task with it

    async def _run(self) -> None:
        try:
            while True:
                await self._sleep(self._every())
                try:
                    await self._action()
                except Exception:  # noqa: BLE001 - whatever it was, it is logged and tried again
                    _log.exception("%s failed; it is tried again at its next time", self.name)
        finally:
            self._on_loop_end()

"""
Ends the wait for an item when a feed has been silent for too long.

One timer of the loop for a connection, however many items it gives: an item costs a few assignments.
"""

from __future__ import annotations

import asyncio
from typing import Any

from shockproof.calls.timer import clock_of, running_task
from shockproof.policies.silence import Silence

__all__ = ["SilenceWatch"]


class SilenceWatch:
    """
    Watches one connection on the running loop, from now until `stop`.

    Whoever waits for an item sets `task`, `cancels` and `silence.waits_since`, and takes the last back. As with a `Timer` the task's count of cancellation requests is taken before
    the wait: taken at expiry it would swallow a cancellation that the caller makes in the same turn.
    """

    __slots__ = ("_handle", "cancels", "clock", "has_fired", "loop", "silence", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop, stale_after: float) -> None:
        self.loop = loop
        self.clock = clock_of(loop)
        self.silence = Silence(stale_after, self.clock())
        self.task: asyncio.Task[Any] | None = None  # Any: whatever the task returns
        self.cancels = 0
        self.has_fired = False
        self._handle: asyncio.Handle | None = None
        self._look()

    def _look(self) -> None:
        self._handle = None
        wait = self.silence.look(self.clock())
        if wait is None:
            self.has_fired = True
            if self.task is not None:
                self.task.cancel()
        elif wait:
            self._handle = self.loop.call_later(wait, self._look)
        else:
            self._handle = self.loop.call_soon(self._look)

    @property
    def seconds(self) -> float:
        """The limit."""
        return self.silence.stale_after

    @property
    def stalled(self) -> bool:
        """False: while our own loop stands still nothing counts as silence."""
        return False

    def stop(self) -> bool:
        """
        The wait is over, and so is the connection. True when it was ended by this watch and by nobody else.

        A cancellation that this watch has made is taken back; otherwise the task would stay half-cancelled.
        """
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        return self._take_back()

    def go_on(self) -> None:
        """An item came although the wait for it was cancelled: it is an item."""
        self._take_back()
        self._look()

    def _take_back(self) -> bool:
        self.silence.waits_since = None
        task, self.task = self.task, None
        if not self.has_fired:
            return False
        self.has_fired = False
        if task is None or running_task() is not task:
            return False
        return task.uncancel() <= self.cancels

"""
Requests that have lost a hedged race, until they have ended.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from shockproof.memory.services.service_state import ServiceState

__all__ = ["Losers"]

_LOOK_EVERY = 0.01
"""Seconds between two looks at what runs on another loop."""

_log = logging.getLogger("shockproof")


class _Loser:
    """Whose request it was."""

    __slots__ = ("function_name", "is_left_behind", "state")

    def __init__(self, state: ServiceState, function_name: str) -> None:
        self.state = state
        self.function_name = function_name
        self.is_left_behind = False


class Losers:
    """
    Cancels the losers of one recovery service, and keeps them until they have ended: the loop itself
    refers to a task only weakly.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], _Loser] = {}  # Any: whatever the request returns
        # Reentrant: a garbage collection inside it may end a call of a dead loop.
        self._lock = threading.RLock()

    def add(
        self,
        task: asyncio.Task[Any],  # Any: as above
        state: ServiceState,
        function_name: str,
    ) -> None:
        """Cancel *task*, of the running loop, which has asked *state*'s service by that function."""
        task.cancel()
        with self._lock:
            # What was on a loop that is closed never ends, and would stay here for ever.
            dead = [other for other in self._tasks if other.get_loop().is_closed()]
            self._tasks[task] = _Loser(state, function_name)
        for other in dead:
            self._ended(other)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:  # Any: as above
        with self._lock:
            loser = self._tasks.pop(task, None)
        if loser is not None and loser.is_left_behind:
            loser.state.attempt_came_back()

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

    def leave_behind(self) -> None:
        """
        Nobody waits any longer: name those that run still in the log, each once.

        They count as abandoned attempts of their service until they really end.
        """
        for task in self.living:
            with self._lock:
                loser = self._tasks.get(task)
                if loser is None or loser.is_left_behind:
                    continue
                loser.is_left_behind = True
                loser.state.abandon_attempt()  # inside, so that it cannot come back before
            _log.warning(
                "a hedged request of %r lost, and %s has not ended since it was cancelled: it runs on and keeps what it holds",
                loser.state.name,
                loser.function_name,
            )

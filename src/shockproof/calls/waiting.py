"""
One call that waits in a queue of its service, on its own loop.
"""

from __future__ import annotations

import asyncio

from shockproof.memory.services.waiters import wake
from shockproof.policies.rate_limit import Sent, Weight

__all__ = ["Waiting"]


class Waiting:
    """One call in a queue, on its own loop."""

    __slots__ = ("_woken", "granted", "loop", "rank", "sent", "weight")

    def __init__(self, weight: Weight, rank: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self.loop.create_future()
        self.granted = False
        self.sent: Sent | None = None
        self.weight = weight
        self.rank = rank

    def wake(self) -> bool:
        """Tell it that its wait is over; False when its loop has ended, and the call with it."""
        return wake(self._woken)

    async def wait(self, seconds: float | None) -> bool:
        """Wait until granted or turned away, at most *seconds*; whether it was granted."""
        if not self.granted:
            await asyncio.wait({self._woken}, timeout=seconds)
        return self.granted

"""
Silence behind an order: the venue books it, and from then on answers nothing.

That is the hardest moment for a trader to die in: its order is there, and it cannot know.
"""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["Silence"]

_LONGEST: Final = 10.0
"""Seconds after which it ends by itself, should nobody end it."""


class Silence:
    """`arm` it, and it falls behind the next order that is booked, until `end`."""

    def __init__(self) -> None:
        self.is_armed = False
        self._fell: asyncio.Future[str | None] | None = None
        self._ended: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Fall behind the next order."""
        self.end()
        self.is_armed = True
        self._fell = asyncio.get_running_loop().create_future()

    async def fell(self) -> str | None:
        """
        Wait until it falls, once it is armed; the client order id of the order that is not answered, or None
        if it was ended before.
        """
        if self._fell is None:
            raise RuntimeError("the silence is not armed")
        return await asyncio.shield(self._fell)

    def fall(self, client_order_id: str) -> None:
        """That order is booked: nothing is answered any more."""
        self.is_armed = False
        self._ended = asyncio.Event()
        self._timer = asyncio.get_running_loop().call_later(_LONGEST, self.end)
        if self._fell is not None and not self._fell.done():
            self._fell.set_result(client_order_id)

    async def pass_by(self) -> None:
        """Wait for its end; not at all where there is none."""
        if self._ended is not None:
            await self._ended.wait()

    def end(self) -> None:
        """Whatever is not answered yet is answered now, and nothing is armed any more."""
        self.is_armed = False
        if self._fell is not None and not self._fell.done():
            self._fell.set_result(None)
        self._fell = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ended is not None:
            self._ended.set()
            self._ended = None

"""
Orders that begin in one turn of the event loop go on in portions: what runs beside them has its turn in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary, ref

__all__ = ["AT_ONCE", "Portions", "turn_here"]

AT_ONCE: Final = 32
"""Orders of one portion: about a millisecond, up to where each is with the journal."""


class Portions:
    """Of one loop: the first orders of a turn go on at once, and the others wait for a turn of their own, in their order."""

    __slots__ = ("__weakref__", "_left", "_waiting", "_will_renew")

    def __init__(self) -> None:
        self._left = AT_ONCE
        self._will_renew = False
        """Whether the loop's next turn begins another portion."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    def turn(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        """What one more order waits for, behind those that wait already; None: it goes on in this turn."""
        if not self._will_renew:
            self._will_renew = True
            loop.call_soon(self._renew, loop)
        if self._left:
            self._left -= 1
            return None
        waiter = loop.create_future()
        self._waiting.append(waiter)
        return waiter

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = AT_ONCE
        while self._waiting and self._left:
            waiter = self._waiting.popleft()
            if not waiter.done():  # else it was cancelled
                self._left -= 1
                waiter.set_result(None)
        self._will_renew = self._left < AT_ONCE
        if self._will_renew:
            loop.call_soon(self._renew, loop)


_of_loops: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, ref[Portions]]()
"""The loop alone holds it, by the turn that will renew it: who waits holds the loop, and would keep one that was closed for ever."""


def turn_here() -> asyncio.Future[None] | None:
    """See `Portions.turn`; on the running loop."""
    loop = asyncio.get_running_loop()
    known = _of_loops.get(loop)
    portions = None if known is None else known()
    if portions is None:  # whatever was there had nobody waiting, and its whole portion left
        portions = Portions()
        _of_loops[loop] = ref(portions)
    return portions.turn(loop)

"""
The connections of a store, those of each loop apart: made at first need, and closed when they were given back and nobody uses
them any more. So whoever gives them back cuts off nobody else, and nobody else's use outlives them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["Connections"]

C = TypeVar("C")


_STEPS_AT_ONCE: Final = 64
"""Fewer than the hundred connections that a client has at most, of which each watch takes one."""


class _Open(Generic[C]):
    def __init__(self, client: C) -> None:
        self.client = client
        self.steps = asyncio.Semaphore(_STEPS_AT_ONCE)
        self.users = 0
        self.is_given_back = False


class Connections(Generic[C]):
    """
    What *make* gives, once for each loop, until *close*.

    Args:
        make: called on the loop that needs it.
        close: must not raise.
    """

    def __init__(self, make: Callable[[], C], close: Callable[[C], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, _Open[C]] = WeakKeyDictionary()

    @asynccontextmanager
    async def used(self) -> AsyncGenerator[C]:
        """As long as something is watched."""
        async with self._used() as mine:
            yield mine.client

    @asynccontextmanager
    async def step(self) -> AsyncGenerator[C]:
        """For a step, when it is its turn: of hundreds at a time some wait for the others."""
        async with self._used() as mine, mine.steps:
            yield mine.client

    @asynccontextmanager
    async def _used(self) -> AsyncGenerator[_Open[C]]:
        loop = asyncio.get_running_loop()
        mine = self._open.get(loop)
        if mine is None:
            mine = self._open[loop] = _Open(self._make())
        mine.users += 1
        try:
            yield mine
        finally:
            mine.users -= 1
            await self._close_if_over(mine)

    async def aclose(self) -> None:
        """Give back those of this loop; whoever needs some next gets others."""
        mine = self._open.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            mine.is_given_back = True
            await self._close_if_over(mine)

    async def _close_if_over(self, one: _Open[C]) -> None:
        if one.is_given_back and not one.users:
            await self._close(one.client)

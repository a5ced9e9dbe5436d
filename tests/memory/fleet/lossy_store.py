"""A store behind a bad network: slow, with answers that are lost, steps that are done late, and lost data."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from shockproof import MemoryStore, StoreChange, StoreConflictError, StoreEntry, StoreUnavailableError
from shockproof.testing import VirtualClock
from tests.memory.fleet.forgetful_store import Forgetful

T = TypeVar("T")
TIMEOUT = 1.0


class Server:
    """What the processes share; `restart` loses everything, and its versions begin anew."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.inner = Forgetful(clock)
        self.is_down = False
        self.cut = asyncio.Event()

    def restart(self) -> None:
        self.inner = Forgetful(self._clock, self.inner.starts + 1)
        self.cut_off()

    async def goes_back(self) -> None:
        """It is started again, and has what it had written down last."""
        await self.inner.starts_again()
        self.cut_off()

    def cut_off(self) -> None:
        self.cut.set()
        self.cut = asyncio.Event()


class LossyStore:
    """One process's way to the server. *loss*: the share of steps whose answer is lost; *delay*: seconds at the most."""

    def __init__(self, server: Server, seed: int, *, delay: float = 0.0, loss: float = 0.0) -> None:
        self._server = server
        self._rng = random.Random(seed)
        self._delay = delay
        self._loss = loss
        self.steps = 0
        self._late: set[asyncio.Task[Any]] = set()

    async def _do(self, step: Callable[[MemoryStore], Coroutine[Any, Any, T]]) -> T:
        self.steps += 1

        async def on_its_way() -> T:
            await asyncio.sleep(self._rng.random() * self._delay)
            if self._server.is_down:
                raise StoreUnavailableError("it is down")
            return await step(self._server.inner)

        if self._rng.random() >= self._loss:
            answer = await on_its_way()
            await asyncio.sleep(self._rng.random() * self._delay)
            return answer

        async def late() -> None:
            with contextlib.suppress(StoreUnavailableError, StoreConflictError):  # nobody hears of it
                await asyncio.sleep(self._rng.random() * 3 * TIMEOUT)
                await on_its_way()

        task = asyncio.ensure_future(late())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        await asyncio.sleep(TIMEOUT)
        raise StoreUnavailableError(
            "it has not answered in time; what was asked is done, or will be, or never"
        )

    async def get(self, key: str) -> StoreEntry | None:
        return await self._do(lambda inner: inner.get(key))

    async def entries(self, prefix: str) -> list[StoreEntry]:
        return await self._do(lambda inner: inner.entries(prefix))

    async def put(self, key: str, value: bytes, **options: Any) -> int:
        return await self._do(lambda inner: inner.put(key, value, **options))

    async def renew(self, key: str, version: int) -> bool:
        return await self._do(lambda inner: inner.renew(key, version))

    async def delete(self, key: str, **options: Any) -> bool:
        return await self._do(lambda inner: inner.delete(key, **options))

    async def era(self) -> str:
        return await self._do(lambda inner: inner.era())

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[StoreChange]]:
        if self._server.is_down:
            raise StoreUnavailableError("it is down")
        cut = self._server.cut
        async with self._server.inner.watch(prefix) as changes:
            yield self._until(cut, changes)

    async def _until(
        self, cut: asyncio.Event, changes: AsyncIterator[StoreChange]
    ) -> AsyncIterator[StoreChange]:
        is_cut = asyncio.ensure_future(cut.wait())
        try:
            while True:
                change: asyncio.Task[StoreChange] = asyncio.ensure_future(anext(changes))  # type: ignore[arg-type]  # it is a coroutine
                try:
                    await asyncio.wait({change, is_cut}, return_when=asyncio.FIRST_COMPLETED)
                    if not change.done():
                        raise StoreUnavailableError("the watch was cut")
                    yield change.result()
                finally:
                    change.cancel()
        finally:
            is_cut.cancel()

    async def aclose(self) -> None:
        pass

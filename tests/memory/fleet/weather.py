"""What may befall a store between it and a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shockproof import MemoryStore, StoreChange, StoreEntry, StoreUnavailableError


class Weather:
    """One process's way to a store: it can be away, hang, be full, or be broken; what is asked is counted."""

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner
        self.kind = "fair"
        self.steps = 0
        self._silences = 0
        self._watching: set[asyncio.Task[Any]] = set()

    def turn(self, kind: str) -> None:
        self.kind = kind
        if kind not in {"fair", "full", "slow"}:
            for task in self._watching:
                task.get_loop().call_soon(task.cancel)

    def falls_silent(self) -> None:
        """The watches of now tell nothing any more, and nobody is told so; later ones do."""
        self._silences += 1

    async def _pass(self) -> None:
        self.steps += 1
        if self.kind == "away":
            raise StoreUnavailableError("nobody answers")
        if self.kind == "hangs":
            await asyncio.sleep(1.0)
            raise StoreUnavailableError("has not answered within 1 s")
        if self.kind == "slow":
            await asyncio.sleep(0.4)
        if self.kind == "broken":
            raise ZeroDivisionError("a mistake in a store")

    async def get(self, key: str) -> StoreEntry | None:
        await self._pass()
        return await self.inner.get(key)

    async def entries(self, prefix: str) -> list[StoreEntry]:
        await self._pass()
        return await self.inner.entries(prefix)

    async def put(self, key: str, value: bytes, **options: Any) -> int:
        await self._pass()
        if self.kind == "full":
            raise StoreUnavailableError("it is full")
        return await self.inner.put(key, value, **options)

    async def renew(self, key: str, version: int) -> bool:
        await self._pass()
        return await self.inner.renew(key, version)

    async def delete(self, key: str, **options: Any) -> bool:
        await self._pass()
        return await self.inner.delete(key, **options)

    async def era(self) -> str:
        await self._pass()
        return await self.inner.era()

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[StoreChange]]:
        await self._pass()
        async with self.inner.watch(prefix) as changes:
            yield self._cut(changes)

    async def _cut(self, changes: AsyncIterator[StoreChange]) -> AsyncIterator[StoreChange]:
        silences = self._silences
        while True:
            getting: asyncio.Task[StoreChange] = asyncio.ensure_future(anext(changes))  # type: ignore[arg-type]  # it is a coroutine
            self._watching.add(getting)
            try:
                change = await asyncio.shield(getting)
            except asyncio.CancelledError:
                if getting.cancelled() and self.kind != "fair":
                    raise StoreUnavailableError("the watch was cut") from None
                getting.cancel()
                raise
            finally:
                self._watching.discard(getting)
            if silences == self._silences:
                yield change

    async def aclose(self) -> None:
        pass

    async def loses_everything(self) -> None:
        """The server was started again, with nothing in it."""
        for entry in await self.inner.entries(""):
            await self.inner.delete(entry.key)

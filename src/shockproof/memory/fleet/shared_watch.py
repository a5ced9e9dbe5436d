"""
One watch of the store for all records of a kind: each watch is a connection of its own, of which a store has only so many.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from shockproof.memory.stores.state_store import StateStore, StoreChange
from shockproof.vocabulary.errors import StoreUnavailableError

__all__ = ["SharedWatch"]

_log = logging.getLogger("shockproof")

_TOLD_WITHIN: Final = 5.0
"""Seconds in which a watch tells of what was read, or it is taken for dead: a network may drop a connection without a word."""

_News = asyncio.Queue[StoreChange | str]
"""Changes, or at last why there will be no more."""


class SharedWatch:
    """
    Of everything under *prefix* in *store*, on each loop where somebody wants to know of a key there, while anybody does.
    """

    def __init__(self, store: StateStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._listening: WeakValueDictionary[int, _Listening] = WeakValueDictionary()
        """By the identity of its loop, which lives as long as it; who wants to know holds it."""

    @asynccontextmanager
    async def watch(self, key: str) -> AsyncGenerator[AsyncIterator[StoreChange]]:
        """
        As `StateStore.watch`, of *key* alone.

        Raises:
            StoreUnavailableError: the store did not answer, or has ended the watch.
        """
        here = id(asyncio.get_running_loop())
        listening = self._listening.get(here)
        if listening is None or listening.task.done():
            listening = self._listening[here] = _Listening(self._store, self._prefix)
        news: _News = asyncio.Queue()
        listening.wanted.setdefault(key, []).append(news)
        try:
            await listening.has_begun()
            yield _changes(news)
        finally:
            listening.wanted[key].remove(news)
            if not listening.wanted[key]:
                del listening.wanted[key]
            if not listening.wanted:
                if self._listening.get(here) is listening:
                    del self._listening[here]
                await listening.end()

    def doubt(self, key: str, version: int) -> None:
        """That was read, and not told of as yet: unless anything is told soon, begin anew, for all on this loop who want to know."""
        listening = self._listening.get(id(asyncio.get_running_loop()))
        if listening is not None:
            listening.doubt(key, version)


class _Listening:
    """The watch on one loop, by key who wants to know."""

    def __init__(self, store: StateStore, prefix: str) -> None:
        self.wanted: dict[str, list[_News]] = {}
        self._store = store
        self._prefix = prefix
        self._began = asyncio.Event()
        self._ended_because: str | None = None
        self._told: dict[str, int] = {}
        """The latest version of each key."""
        self._doubt: asyncio.TimerHandle | None = None
        self.task = asyncio.create_task(self._listen(), name=f"shockproof fleet listens to {prefix}")

    async def has_begun(self) -> None:
        """Return when everything is told from here on."""
        await self._began.wait()
        if self._ended_because is not None:
            raise StoreUnavailableError(self._ended_because)

    def doubt(self, key: str, version: int) -> None:
        # It may have been told a moment ago, and be on its way from here to who has read it.
        if self._doubt is None and self._told.get(key, 0) < version:
            self._doubt = asyncio.get_running_loop().call_later(_TOLD_WITHIN, self._is_silent)

    def _is_silent(self) -> None:
        _log.info("a watch of %r tells nothing any more, and is begun anew", self._store)
        self.task.cancel()

    def _is_trusted(self) -> None:
        if self._doubt is not None:
            self._doubt.cancel()
            self._doubt = None

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _listen(self) -> None:
        why = "the watch was ended"
        try:
            async with self._store.watch(self._prefix) as changes:
                self._began.set()
                async for change in changes:
                    self._is_trusted()
                    self._told[change.key] = change.version
                    for news in self.wanted.get(change.key, ()):
                        news.put_nowait(change)
            why = f"{self._store!r} has ended the watch"
        except StoreUnavailableError as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait, who try again
            why = f"{type(error).__name__}: {error}"
        finally:
            self._is_trusted()
            self._ended_because = why
            self._began.set()
            for waiting in self.wanted.values():
                for news in waiting:
                    news.put_nowait(why)


async def _changes(news: _News) -> AsyncIterator[StoreChange]:
    while not isinstance(told := await news.get(), str):
        yield told
    raise StoreUnavailableError(told)

"""
A store for the services of one process: for tests, and for programs that may become several later.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shockproof.memory.stores.state_store import (
    Guard,
    StoreChange,
    StoreEntry,
    check_expected,
    check_guard,
    check_key,
    check_lifetime,
    check_value,
)
from shockproof.vocabulary.arguments import Seconds
from shockproof.vocabulary.clock import Clock, as_clock
from shockproof.vocabulary.errors import StoreConflictError

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Kept:
    value: bytes
    version: int
    seconds: float | None
    until: float


class MemoryStore:
    """
    A `StateStore` in the memory of this process, shared by its threads and loops; gone when it ends.

    Args:
        clock: where time comes from, see `Clock`. Default: the real time.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = as_clock(clock)
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._last = 0
        self._watchers: set[_Watcher] = set()

    async def get(self, key: str) -> StoreEntry | None:
        """What is under *key* now."""
        with self._lock:
            kept = self._alive(check_key("key", key))
            return None if kept is None else StoreEntry(key, kept.value, kept.version)

    async def entries(self, prefix: str) -> list[StoreEntry]:
        """Everything whose key begins with *prefix*, by key."""
        with self._lock:
            keys = sorted(key for key in self._kept if key.startswith(prefix))
            found = [(key, self._alive(key)) for key in keys]
        return [StoreEntry(key, kept.value, kept.version) for key, kept in found if kept is not None]

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expect: int | None = None,
        expires_after: Seconds | None = None,
        guard: Guard | None = None,
    ) -> int:
        """Put *value* under *key*, and return its version."""
        check_key("key", key)
        lifetime = check_lifetime(expires_after)
        kept = _Kept(check_value(value), 0, lifetime, 0.0)
        expected, guard = check_expected(expect), check_guard(guard)
        with self._lock:
            self._refuse_another(key, expected)
            if guard is not None:
                self._refuse_another(*guard)
            kept.version = self._next_version()
            kept.until = 0.0 if lifetime is None else self._clock.monotonic() + lifetime
            self._kept[key] = kept
            self._tell(StoreChange(key, kept.value, kept.version))
        return kept.version

    async def renew(self, key: str, version: int) -> bool:
        """Begin the time of what was put anew; False: it is gone, or has another version."""
        with self._lock:
            kept = self._alive(check_key("key", key))
            if kept is None or kept.version != version:
                return False
            if kept.seconds is not None:
                kept.until = self._clock.monotonic() + kept.seconds
            return True

    async def delete(self, key: str, *, expect: int | None = None, guard: Guard | None = None) -> bool:
        """Remove *key*; False: nothing was there."""
        check_key("key", key)
        expected, guard = check_expected(expect), check_guard(guard)
        with self._lock:
            if guard is not None:
                self._refuse_another(*guard)
            if self._alive(key) is None:
                return False
            self._refuse_another(key, expected)
            del self._kept[key]
            self._tell(StoreChange(key, None, self._next_version()))
        return True

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncGenerator[AsyncIterator[StoreChange]]:
        """Be told of what changes under *prefix*."""
        watcher = _Watcher(prefix, asyncio.get_running_loop())
        with self._lock:
            self._watchers.add(watcher)
        try:
            yield watcher.changes()
        finally:
            with self._lock:
                self._watchers.discard(watcher)

    async def era(self) -> str:
        """Always the same."""
        return ""

    async def aclose(self) -> None:
        """Nothing to give back: the values stay."""

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._kept)} values>"

    # -- inside: the lock is held ----------------------------------------------------------------------

    def _alive(self, key: str) -> _Kept | None:
        kept = self._kept.get(key)
        if kept is not None and kept.seconds is not None and kept.until <= self._clock.monotonic():
            del self._kept[key]
            return None
        return kept

    def _refuse_another(self, key: str, expected: int | None) -> None:
        kept = self._alive(key)
        found = 0 if kept is None else kept.version
        if expected is not None and found != expected:
            raise StoreConflictError(key, expected, found)

    def _next_version(self) -> int:
        self._last += 1
        return self._last

    def _tell(self, change: StoreChange) -> None:
        for watcher in list(self._watchers):
            if change.key.startswith(watcher.prefix) and not watcher.tell(change):
                self._watchers.discard(watcher)


class _Watcher:
    """One who is told: of each key the last change, in the order in which they first changed."""

    def __init__(self, prefix: str, loop: asyncio.AbstractEventLoop) -> None:
        self.prefix = prefix
        self._loop = loop
        self._news: dict[str, StoreChange] = {}
        self._is_there = asyncio.Event()

    def tell(self, change: StoreChange) -> bool:
        """From any thread; False: its loop has ended."""
        try:
            self._loop.call_soon_threadsafe(self._add, change)
        except RuntimeError:
            return False
        return True

    def _add(self, change: StoreChange) -> None:
        self._news[change.key] = change
        self._is_there.set()

    async def changes(self) -> AsyncIterator[StoreChange]:
        while True:
            await self._is_there.wait()
            self._is_there.clear()
            while self._news:
                yield self._news.pop(next(iter(self._news)))

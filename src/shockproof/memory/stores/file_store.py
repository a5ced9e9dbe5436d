"""
A store in one file, for the processes of one machine.

SQLite does the work: it locks, and a crash leaves a change whole or not done. Each step opens the file, in the
disk's thread, and a fork waits for its end, so that there is nothing to carry over a fork, and nothing left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from shockproof.memory.disk.boot import this_boot
from shockproof.memory.disk.fork_barrier import ForkBarrier
from shockproof.memory.disk.writer import writer_for
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
from shockproof.vocabulary.arguments import Seconds, seconds
from shockproof.vocabulary.errors import StoreConflictError, StoreUnavailableError

if TYPE_CHECKING:
    import sqlite3

__all__ = ["FileStore"]

T = TypeVar("T")

_FORMAT_VERSION: Final = 1
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS last (version INTEGER NOT NULL)",
    (
        "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL, "
        "seconds REAL, begun REAL) WITHOUT ROWID"
    ),
    f"PRAGMA user_version = {_FORMAT_VERSION}",
)
# SQLite counts in the memory of a process which of its threads has which file locked. A child that was forked in the
# middle of a step waits for ever for a thread that it does not have.
_steps: Final = ForkBarrier()
# These came later, and a version that does not know them can do without. The index is for clearing away: a value is
# long, and lies in front of the numbers behind it.
_LATER_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS start (boot TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS expiring ON entries (begun, seconds) WHERE seconds IS NOT NULL",
)
# One machine's processes read the same monotonic clock.
_IS_OVER: Final = "begun + seconds <= ?"
_IS_ALIVE: Final = f"(seconds IS NULL OR NOT {_IS_OVER})"


class FileStore:
    """
    A `StateStore` in one file, for several processes of one machine. The file is made at first need.

    It must lie on a disk of this machine: the locks of network file systems do not hold what they promise.

    Args:
        path: the file; its directory is made.
        timeout: seconds one step may take in all, more than 0, others' steps included. Default 5.0.
        poll_every: seconds between two looks of a `watch`, more than 0. Default 0.25.

    Raises:
        TypeError, ValueError: a value that is not allowed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: Seconds = 5.0, poll_every: Seconds = 0.25
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f'path must be a file such as "data/shared.db", got {path!r}')
        if not os.fspath(path):
            raise ValueError('path must be a file such as "data/shared.db", got an empty one')
        self.path = Path(os.path.abspath(path))
        """The file; absolute."""
        self._timeout = seconds("timeout", timeout, more_than=0)
        self._poll_every = seconds("poll_every", poll_every, more_than=0)
        self._writer = writer_for(self.path)

    async def get(self, key: str) -> StoreEntry | None:
        """What is under *key* now."""
        check_key("key", key)
        found = await self._read("key = ?", key)
        return found[0] if found else None

    async def entries(self, prefix: str) -> list[StoreEntry]:
        """Everything whose key begins with *prefix*, by key."""
        return await self._read("substr(key, 1, ?) = ?", len(prefix), prefix)

    async def _read(self, which: str, *values: object) -> list[StoreEntry]:
        def step(database: sqlite3.Connection) -> list[StoreEntry]:
            now = time.monotonic()
            rows = database.execute(
                f"SELECT key, value, version FROM entries WHERE {which} AND {_IS_ALIVE} ORDER BY key",  # noqa: S608 - both are ours
                (*values, now),
            )
            return [StoreEntry(str(key), bytes(value), int(version)) for key, value, version in rows]

        return await self._do(step)

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
        check_value(value)
        lifetime, expected, guard = check_lifetime(expires_after), check_expected(expect), check_guard(guard)

        def step(database: sqlite3.Connection) -> int:
            now = time.monotonic()
            _refuse_another(database, key, expected, now)
            if guard is not None:
                _refuse_another(database, *guard, now)
            database.execute(f"DELETE FROM entries WHERE seconds IS NOT NULL AND {_IS_OVER}", (now,))  # noqa: S608 - it is ours
            version = _next_version(database)
            database.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", (key, value, version, lifetime, now)
            )
            return version

        return await self._do(step)

    async def renew(self, key: str, version: int) -> bool:
        """Begin the time of what was put anew; False: it is gone, or has another version."""
        check_key("key", key)

        def step(database: sqlite3.Connection) -> bool:
            now = time.monotonic()
            done = database.execute(
                f"UPDATE entries SET begun = ? WHERE key = ? AND version = ? AND {_IS_ALIVE}",  # noqa: S608 - it is ours
                (now, key, version, now),
            )
            return done.rowcount == 1

        return await self._do(step)

    async def delete(self, key: str, *, expect: int | None = None, guard: Guard | None = None) -> bool:
        """Remove *key*; False: nothing was there."""
        check_key("key", key)
        expected, guard = check_expected(expect), check_guard(guard)

        def step(database: sqlite3.Connection) -> bool:
            now = time.monotonic()
            if guard is not None:
                _refuse_another(database, *guard, now)
            if not _version_of(database, key, now):
                return False
            _refuse_another(database, key, expected, now)
            database.execute("DELETE FROM entries WHERE key = ?", (key,))
            return True

        return await self._do(step)

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncGenerator[AsyncIterator[StoreChange]]:
        """Be told of what changes under *prefix*: the file is looked at every *poll_every* seconds."""
        known = {entry.key: entry for entry in await self.entries(prefix)}

        async def changes() -> AsyncIterator[StoreChange]:
            nonlocal known
            while True:
                await asyncio.sleep(self._poll_every)
                now = {entry.key: entry for entry in await self.entries(prefix)}
                before, known = known, now
                for key, old in before.items():
                    if key not in now:
                        yield StoreChange(key, None, old.version)
                for key, entry in now.items():
                    if key not in before or before[key].version != entry.version:
                        yield StoreChange(*entry)

        yield changes()

    async def era(self) -> str:
        """Always the same."""
        return ""

    async def aclose(self) -> None:
        """Nothing to give back: between two steps the file is closed."""

    def __repr__(self) -> str:
        return f"<FileStore {str(self.path)!r}>"

    async def _do(self, step: Callable[[sqlite3.Connection], T]) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._writer.run(self._step, step)
        except TimeoutError:
            raise StoreUnavailableError(f"{self!r} has not answered within {self._timeout:g} s") from None

    def _step(self, step: Callable[[sqlite3.Connection], T]) -> T:
        if _steps.is_cut:
            raise StoreUnavailableError(
                f"{self!r}: this process was forked while its parent had waited for the disk for long, in the middle of a step: "
                "start it anew, or fork it before the store is used"
            )
        with _steps:
            return self._whole_step(step)

    def _whole_step(self, step: Callable[[sqlite3.Connection], T]) -> T:
        import sqlite3  # here, in the disk's thread: it takes milliseconds

        try:
            self._make()
            with contextlib.closing(
                sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None)
            ) as database:
                database.execute("BEGIN IMMEDIATE")
                with database:  # commits, or rolls back
                    found = database.execute("PRAGMA user_version").fetchone()[0]
                    if found > _FORMAT_VERSION:
                        raise StoreUnavailableError(
                            f"{self!r} was written by a newer version: update this one"
                        )
                    if not found:
                        for statement in _TABLES:
                            database.execute(statement)
                    for statement in _LATER_TABLES:
                        database.execute(statement)
                    _notice_the_start(database)
                    return step(database)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailableError(f"{self!r}: {type(error).__name__}: {error}") from error

    def _make(self) -> None:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o600))


def _notice_the_start(database: sqlite3.Connection) -> None:
    """
    Let what expires begin its time anew when the machine was started anew, and its clock with it.

    Nobody can tell how long ago the machine went down: whoever had a lease is gone, and what he did with it may have been a moment
    before. So it ends late rather than early.
    """
    now, boot = time.monotonic(), this_boot() or ""
    known = database.execute("SELECT boot FROM start").fetchone()
    if known is not None and known[0] == boot:
        if boot:
            return
        # No name for a start: the clock tells, until it is as late again as it was.
        latest = database.execute("SELECT max(begun) FROM entries WHERE seconds IS NOT NULL").fetchone()[0]
        if latest is None or latest <= now:
            return
    database.execute("UPDATE entries SET begun = ? WHERE seconds IS NOT NULL", (now,))
    database.execute("DELETE FROM start")
    database.execute("INSERT INTO start VALUES (?)", (boot,))
    # Whatever becomes of the step that comes now: one that is refused is taken back.
    database.execute("COMMIT")
    database.execute("BEGIN IMMEDIATE")


def _version_of(database: sqlite3.Connection, key: str, now: float) -> int:
    row = database.execute(
        f"SELECT version FROM entries WHERE key = ? AND {_IS_ALIVE}",  # noqa: S608 - it is ours
        (key, now),
    ).fetchone()
    return int(row[0]) if row else 0


def _refuse_another(database: sqlite3.Connection, key: str, expected: int | None, now: float) -> None:
    if expected is not None and (found := _version_of(database, key, now)) != expected:
        raise StoreConflictError(key, expected, found)


def _next_version(database: sqlite3.Connection) -> int:
    # From the wall clock, so that versions go on where the file was removed; higher than all before in any case.
    row = database.execute("SELECT max(version) FROM last").fetchone()
    version = max(int(time.time() * 1e6), 1 + (row[0] or 0))
    database.execute("DELETE FROM last")
    database.execute("INSERT INTO last VALUES (?)", (version,))
    return version

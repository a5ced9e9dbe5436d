"""
One record of the store that many processes write, kept up by a task in the background: what limits and budgets have in common.

Each life of a process has a name that no other ever has, and a lease by it. Who stands in the record and has no lease any more
is dead. What is put goes with the version that was read and the own lease: so nobody overwrites what he has not seen, and
nobody writes whom the others take for dead.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, Final, Protocol, TypeVar

from shockproof.memory.fleet import background_task
from shockproof.memory.fleet.marked import marked, unmarked
from shockproof.memory.fleet.shared_watch import SharedWatch
from shockproof.memory.stores.lease import Lease, take_lease
from shockproof.memory.stores.state_store import StateStore, StoreChange
from shockproof.policies.backoff import Backoff, Randomness
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import StoreConflictError, StoreUnavailableError

__all__ = ["CONFLICT_APART", "LIFE", "ROUND", "SharedRecord", "process_of"]

LIFE: Final = 15.0
"""Seconds for which a process goes on without the store."""
ROUND: Final = LIFE / 3
"""Seconds between two renewals of the lease."""
CONFLICT_APART: Final = 0.01
"""Seconds, at random, by which those who write at the same moment get out of each other's way."""
_EARLIER: Final = "earlier"
"""Under this name a lease that nobody renews stands for those whom a store has forgotten."""
_APART: Final = 0.02
"""Seconds between two looks at what is wanted; who finds enough asks nobody."""

_log = logging.getLogger("shockproof")


class _Written(Protocol):
    def to_bytes(self) -> bytes: ...


R = TypeVar("R", bound=_Written)


def process_of(member: str) -> str:
    """The name of the process whose life *member* is."""
    return member.rsplit("/", 2)[-2]


class SharedRecord(ABC):
    """
    The task, its wakings and its lease. What stands in the record, and what is done about it, says who inherits.

    Args:
        store: what the processes share.
        key: where the record is.
        what: it is about, for the log.
        process: the name of this one, to be shown.
        clock: by what this process counts.
        rng: what spreads the requests of many.
        watch: of the store, together with others; None: its own.
    """

    def __init__(
        self,
        store: StateStore,
        key: str,
        what: str,
        process: str,
        *,
        clock: Clock,
        rng: Randomness,
        watch: SharedWatch | None = None,
    ) -> None:
        self._store = store
        self._watch = SharedWatch(store, key) if watch is None else watch
        self._key = key
        self.what = what
        self._process = process
        self._clock = clock
        self._rng = rng
        self._lease: Lease | None = None
        self._dead: frozenset[str] = frozenset()
        """Members who do nothing any more, and never will: no other life has the same name."""
        self._round_at = 0.0
        self._has_news = True
        self._era = ""
        """That of the store, when this process began to watch it."""
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._was_looked_at = asyncio.Event()
        self._is_woken = False
        self._backoff = Backoff(base_delay=0.1, max_delay=5.0, factor=2.0, jitter="full", rng=rng)
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the store has not done what it was asked for."""
        self._told: str | None = None
        """What failed, as last told in the log, since it last did not."""
        self._passed_over: int | None = None
        """The version of what is no record of now, as last told in the log."""
        self.mismatch: str | None = None
        """In what another process was told something else about it than this one; None: in nothing."""

    # -- what is in the record ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def is_used(self) -> bool:
        """Whether there is anything to keep up."""

    @property
    @abstractmethod
    def health(self) -> dict[str, Any]:  # Any: JSON
        """What is known of it."""

    @property
    @abstractmethod
    def _version(self) -> int | None:
        """Of the record as it was read or put last."""

    @property
    @abstractmethod
    def _length(self) -> float:
        """Seconds for which the lease of a life has to be taken."""

    @abstractmethod
    async def _turn(self) -> float:
        """Do what is to be done now; when to look again."""

    @abstractmethod
    def _forget(self) -> None:
        """End this life; the next one begins with nothing."""

    @abstractmethod
    async def _leave(self) -> None:
        """Give back what was not used; the task has ended."""

    def _differs(self, mismatch: str | None) -> None:
        """Say so once, when what others were told begins to differ, or ends."""
        if mismatch == self.mismatch:
            return
        self.mismatch = mismatch
        if mismatch is None:
            _log.info("%s: all processes were told the same again", self.what)
        else:
            _log.warning("%s: %s", self.what, mismatch)

    # -- from any thread ---------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._is_woken = True
        task = self._task
        if task is None or task.done() or task.get_loop().is_closed():
            if asyncio._get_running_loop() is not None:
                self.ensure()
            return
        background_task.wake(task, self._woken)

    def is_short(self) -> None:
        """Something did not fit in, or runs low."""
        if not self._is_woken or self._task is None or self._task.done():
            self._wake()

    def in_the_child(self) -> None:
        """What the parent has leased it goes on using; the child begins with nothing."""
        self._task = None
        self._forget()

    # -- the task ----------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Keep it up on the current loop, unless a living one does already."""
        with background_task.beginning:
            if not self.is_used or background_task.is_alive(self._task):
                return
            self._woken, self._is_woken = asyncio.Event(), True
            self._was_looked_at = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"shockproof {self.what}")

    async def looked(self) -> None:
        """Return when the store was asked for the first time, whether it answered or not."""
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():
            await self._was_looked_at.wait()

    def pause(self) -> None:
        """Keep it up no longer, until a call needs it."""
        background_task.end(self._task)

    async def aclose(self) -> None:
        """Use nothing any more, and give back what was not used."""
        task, self._task = self._task, None
        if task is not None and background_task.is_alive(task):
            await background_task.end_where_it_runs(task, self._leave_if_possible)

    async def _leave_if_possible(self) -> None:
        try:
            await self._leave()
        except (StoreConflictError, StoreUnavailableError):
            pass  # it ends with the lease

    @abstractmethod
    def _orphaned(self) -> None:
        """See to it that whoever waits on another loop starts the task there: that of this one has ended."""

    async def _run(self) -> None:
        try:
            await self._keep_up()
        finally:
            # Without a loop it is only collected, after its own was closed in the middle.
            if asyncio._get_running_loop() is not None and self._task is asyncio.current_task():
                self._task = None
                self._orphaned()

    async def _keep_up(self) -> None:
        failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                async with self._watch.watch(self._key) as changes:
                    self._has_news = True
                    self._era = await self._store.era()
                    await self._keep(changes)
            except StoreUnavailableError as error:
                _log.debug("%s: %s", self.what, error)
                self.on_failure()
            except Exception as error:  # noqa: BLE001 - nothing may end the task: whatever it is, it is told and tried again
                if self._told != (told := f"{type(error).__name__}: {error}"):
                    self._told = told
                    _log.exception("%s: sharing it failed; it is tried again", self.what)
            self._was_looked_at.set()
            failures = 0 if self._clock.monotonic() - began > ROUND else failures + 1
            await self._clock.sleep(self._backoff.delay(failures, 0.0))

    async def _keep(self, changes: AsyncIterator[StoreChange]) -> None:
        listening = asyncio.create_task(self._listen(changes), name=f"shockproof {self.what} listens")
        listening.add_done_callback(lambda _: self._woken.set())
        try:
            while not listening.done():
                self._woken.clear()
                self._is_woken = False
                due = await self._turn()
                self._told = None
                self._was_looked_at.set()
                await self._clock.sleep(_APART)  # what comes together is looked at together
                await background_task.rest(self._clock, max(due - self._clock.monotonic(), 0.0), self._woken)
            await listening
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, changes: AsyncIterator[StoreChange]) -> None:
        async for change in changes:
            if change.version != self._version:
                self._has_news = True
                self._woken.set()

    async def _read(self, parse: Callable[[bytes], R], begin: Callable[[str], R]) -> tuple[R, int]:
        """
        The record by *parse* and its version; where there is none, none that can be read, or one of an earlier era of the store,
        what *begin* makes of the name of a lease that stands for those who are forgotten.

        Raises:
            StoreUnavailableError: the store did not answer, or somebody else has begun it in between.
        """
        self._has_news, had_news, known = False, self._has_news, self._version
        entry = await self._store.get(self._key)
        if entry is not None:
            if known is not None and entry.version > known and not (had_news or self._has_news):
                self._watch.doubt(self._key, entry.version)
            value = unmarked(entry.value, self._era)
            if value is None:  # others may have noticed first
                self._era = await self._store.era()
                value = unmarked(entry.value, self._era)
            is_told, self._passed_over = self._passed_over == entry.version, entry.version
            if value is not None:
                try:
                    return parse(value), entry.version
                except ValueError as error:
                    if not is_told:
                        _log.warning("what stands under %r in %r is none: %s", self._key, self._store, error)
            elif not is_told:
                _log.warning(
                    "%r was started again and may have lost the last of what it was told: for %s it is taken for a new one",
                    self._store,
                    self.what,
                )
        earlier = await self._take(_EARLIER)
        record = begin(earlier.name)
        expect = 0 if entry is None else entry.version
        try:
            return record, await self._put(record, expect, earlier)
        except StoreConflictError:
            raise StoreUnavailableError(f"somebody else has begun {self._key!r} at the same moment") from None

    async def _put(self, record: _Written, expect: int, lease: Lease) -> int:
        """
        Put it, in place of the version that is expected, as the holder of the lease; its version.

        Raises:
            StoreConflictError: there is another version, or the lease is over.
            StoreUnavailableError: the store did not answer.
        """
        value = marked(record.to_bytes(), self._era)
        return await self._store.put(self._key, value, expect=expect, guard=lease.guard)

    # -- its lease ---------------------------------------------------------------------------------------

    async def _join(self) -> Lease:
        """A life begins."""
        self._dead = frozenset()
        self._round_at = self._clock.monotonic() + ROUND
        return await self._take(self._process)

    async def _take(self, who: str) -> Lease:
        """A lease that nobody else has had or will have."""
        name = f"{self._key}/{who}/{secrets.token_hex(8)}"
        lease = await take_lease(
            self._store, name, length=self._length, holder=self._process, clock=self._clock
        )
        if lease is None:
            raise StoreUnavailableError(f"{self._store!r} says that {name!r} is taken already")
        return lease

    async def _look_for_the_dead(self, members: Collection[str], lease: Lease) -> None:
        """Find those whose lease is over; asked after the record was read, which nobody joins without one."""
        key, _ = lease.guard
        before = key.removesuffix(lease.name)
        held = {
            entry.key.removeprefix(before) for entry in await self._store.entries(f"{before}{self._key}/")
        }
        self._dead = frozenset(set(members) - held - {lease.name})

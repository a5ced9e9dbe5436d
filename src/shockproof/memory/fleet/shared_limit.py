"""
One service's rate limit, divided among the processes that share a store: fetched ahead, never waited for.

Each life of a process has a lease in the store that outlasts the longest window. Its holder sends only as long as the
lease holds for a whole window more, by its own clock from before it asked; when the store has let the lease go, nothing that
its holder sent is in any window any more, and its share is free. Where the record is missing, a lease that nobody renews
stands for those whom the store has forgotten, and has all of the limit until it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

from shockproof.memory.stores.lease import LEASE_MARGIN, Lease, take_lease
from shockproof.memory.stores.state_store import StateStore, StoreChange
from shockproof.policies.backoff import Backoff, Randomness
from shockproof.policies.fleet_limit import Demand, FleetLimit, LimitMember, LimitRecord, Plan, key_of
from shockproof.policies.rate_limit import Rate
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import StoreConflictError, StoreUnavailableError

__all__ = ["Divided", "SharedLimit"]

_RECORDS: Final = "limits/"
_LIFE: Final = 15.0
"""Seconds for which a process sends on without the store."""
_ROUND: Final = _LIFE / 3
_APART: Final = 0.02
"""Seconds between two looks at what is wanted; who finds enough asks nobody."""
_LEAVES_EVERY: Final = 50
"""In so many parts of a window it is looked whether enough has left it for a share to go to others."""
_CONFLICT_APART: Final = 0.01

_log = logging.getLogger("shockproof")


class Divided(Protocol):
    """What is divided: the rolling windows of one service, and the queue in front of them. From any thread."""

    def allow(self, shares: Mapping[Rate, int]) -> None:
        """Send no more than this from now on, and wake who fits in."""
        ...

    def demand(self) -> tuple[dict[Rate, int], dict[Rate, int], int, bool]:
        """What was sent, what the next call needs, how many wait, and whether anything was sent since."""
        ...


class SharedLimit:
    """
    The share of this process. The task that `run` is keeps it; until it has, and where it cannot, nothing is sent.

    Args:
        store: what the processes share.
        service: whose rate limit it is.
        process: the name of this one, to be shown.
        clock: by what this process counts.
        rng: what spreads the requests of many.
    """

    def __init__(
        self, store: StateStore, service: str, process: str, *, clock: Clock, rng: Randomness
    ) -> None:
        self._store = store
        self._service = service
        self._key = _RECORDS + service
        self._process = process
        self._clock = clock
        self._rng = rng
        self._divided: Divided | None = None
        self._rates: tuple[Rate, ...] = ()
        self._limits: dict[str, int] = {}
        self._longest = 0.0
        self._lease: Lease | None = None
        self._fleet: FleetLimit | None = None
        self._dead: frozenset[str] = frozenset()
        """Members who send nothing any more, and never will: no other life has the same name."""
        self._round_at = 0.0
        self._has_news = True
        self._has_sent = False
        self._is_contested = False
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._was_looked_at = asyncio.Event()
        self._is_woken = False
        self._backoff = Backoff(base_delay=0.1, max_delay=5.0, factor=2.0, jitter="full", rng=rng)
        self.may_grow = True
        """Whether a larger share is to be had soon, as far as is known: then it is worth waiting for."""

    # -- told by the queue, from any thread --------------------------------------------------------------

    def divide(self, divided: Divided, rates: tuple[Rate, ...]) -> None:
        """These are the rates, and who waits for them, from now on."""
        self._divided = divided
        # Of several that count the same in the same time the lowest decides.
        self._limits = {key_of(rate): rate.limit for rate in sorted(rates, reverse=True)}
        self._longest = max([self._longest, *(rate.seconds for rate in rates)])
        self._rates = rates
        self._wake()

    @property
    def is_certain(self) -> bool:
        """Whether everything that is sent now will have left every window before the lease is over."""
        lease = self._lease
        return lease is not None and lease.remaining > self._longest

    @property
    def _length(self) -> float:
        return (_LIFE + self._longest) / (1 - LEASE_MARGIN)

    def sent(self) -> None:
        """Something was sent: where others are short, that is news to them."""
        if self._is_contested:
            self.is_short()

    def is_short(self) -> None:
        """A call did not fit in, or the share runs low."""
        if not self._is_woken or self._task is None or self._task.done():
            self._wake()

    def _wake(self) -> None:
        self._is_woken = True
        task = self._task
        if task is None or task.done() or task.get_loop().is_closed():
            if asyncio._get_running_loop() is not None:
                self.ensure()
            return
        loop = task.get_loop()
        if loop is asyncio._get_running_loop():
            self._woken.set()
        else:
            try:
                loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:
                pass  # it has just ended; the next one looks at everything

    def in_the_child(self) -> None:
        """What the parent has leased it goes on using; the child begins with nothing."""
        self._task = None
        self._forget()

    @property
    def is_used(self) -> bool:
        """Whether the service has a rate limit."""
        return self._divided is not None

    @property
    def health(self) -> dict[str, Any]:  # Any: JSON
        """How many processes share the limit, as far as is known, and whether this one may send of its share."""
        fleet = self._fleet
        members = {} if fleet is None else fleet.record.members
        living = [name for name, one in members.items() if one.wants and name not in self._dead]
        return {"processes": len(living), "is_certain": self.is_certain}

    # -- the task ----------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Keep the share on the current loop, unless a living one does already."""
        task = self._task
        if self._divided is None or (
            task is not None and not task.done() and not task.get_loop().is_closed()
        ):
            return
        self._woken, self._is_woken = asyncio.Event(), True
        self._was_looked_at = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="shockproof shared limit")

    async def looked(self) -> None:
        """Return when the store was asked for the first time, whether it answered or not."""
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():
            await self._was_looked_at.wait()

    def pause(self) -> None:
        """Keep it no longer, until a call needs it."""
        task = self._task
        if task is not None and not task.done():
            with contextlib.suppress(RuntimeError):  # its loop has just ended
                task.get_loop().call_soon_threadsafe(task.cancel)

    async def aclose(self) -> None:
        """Send nothing any more, and give back what was not used."""
        task, self._task = self._task, None
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        divided, lease, fleet = self._divided, self._lease, self._fleet
        self._forget()
        if divided is None or lease is None or fleet is None:
            return
        divided.allow({})
        left = fleet.leaving(self._by_key(divided.demand()[0]))
        try:
            await self._store.put(self._key, left.to_bytes(), expect=fleet.version, guard=lease.guard)
            if fleet.me not in left.members:
                await lease.release()
        except (StoreConflictError, StoreUnavailableError):
            pass  # it ends with the lease

    async def _run(self) -> None:
        failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                async with self._store.watch(self._key) as changes:
                    self._has_news = True
                    await self._keep(changes)
            except StoreUnavailableError as error:
                _log.debug("the shared rate limit of %r: %s", self._service, error)
            except Exception:  # noqa: BLE001 - nothing may end the task: whatever it is, it is told and tried again
                _log.exception("sharing the rate limit of %r failed; it is tried again", self._service)
            self._was_looked_at.set()
            failures = 0 if self._clock.monotonic() - began > _ROUND else failures + 1
            await self._clock.sleep(self._backoff.delay(failures, 0.0))

    async def _keep(self, changes: AsyncIterator[StoreChange]) -> None:
        listening = asyncio.create_task(self._listen(changes), name="shockproof shared limit listens")
        listening.add_done_callback(lambda _: self._woken.set())
        try:
            while not listening.done():
                self._woken.clear()
                self._is_woken = False
                due = await self._turn()
                self._was_looked_at.set()
                await self._clock.sleep(_APART)  # what comes together is looked at together
                waiting = asyncio.ensure_future(self._clock.sleep(max(due - self._clock.monotonic(), 0.0)))
                woken = asyncio.ensure_future(self._woken.wait())
                try:
                    await asyncio.wait({waiting, woken}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                    woken.cancel()
            await listening
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, changes: AsyncIterator[StoreChange]) -> None:
        async for change in changes:
            fleet = self._fleet
            if change.key == self._key and (fleet is None or change.version != fleet.version):
                self._has_news = True
                self._woken.set()

    async def _turn(self) -> float:
        """Do what is to be done now; when to look again."""
        divided = self._divided
        assert divided is not None
        lease, fleet, is_round = self._lease, self._fleet, False
        # A lease of before a longer window came would be over before what is sent now has left that.
        if lease is None or fleet is None or lease.seconds < self._length:
            lease, fleet = await self._join()
            is_round = True
        elif self._clock.monotonic() >= self._round_at:
            is_round = True
            if not await lease.renew():
                return self._lost(divided)
            self._round_at = self._clock.monotonic() + _ROUND
        if is_round or self._has_news:
            await self._look(fleet)
        if is_round:
            await self._look_for_the_dead(fleet, lease)
        while (plan := self._plan(fleet, divided, is_round=is_round)).record is not None:
            fleet.putting(plan)
            known = fleet.version
            try:
                version = await self._store.put(
                    self._key, plan.record.to_bytes(), expect=known, guard=lease.guard
                )
            except StoreConflictError:
                await self._clock.sleep(_CONFLICT_APART * self._rng.random())
                await self._look(fleet)
                if fleet.version == known and not await lease.renew():
                    return self._lost(divided)
            else:
                fleet.put(plan, version)
                is_round = False
        if not plan.gives_later:
            return self._round_at
        shortest = min(rate.seconds for rate in self._rates)
        return min(self._round_at, self._clock.monotonic() + min(1.0, shortest / _LEAVES_EVERY))

    def _plan(self, fleet: FleetLimit, divided: Divided, *, is_round: bool) -> Plan:
        fleet.limits, rates = self._limits, self._rates
        sent, needs, waiting, has_sent = divided.demand()
        while True:
            self._has_sent |= has_sent
            needed = self._by_key(needs)
            every = {key: count * waiting for key, count in needed.items()}
            plan = fleet.plan(
                Demand(self._by_key(sent), needed, every, self._has_sent), self._dead, is_round=is_round
            )
            self._is_contested, self.may_grow = plan.is_contested, plan.may_grow
            divided.allow({rate: plan.allowed.get(key_of(rate), 0) for rate in rates})
            # Somebody may have sent in between, from another thread or because it was allowed to.
            before = sent, needs, waiting
            sent, needs, waiting, has_sent = divided.demand()
            if (sent, needs, waiting) == before and not has_sent:
                break
        if plan.record is not None:
            self._has_sent = False
        return plan

    def _lost(self, divided: Divided) -> float:
        """The store knows the lease no more: whoever comes next may count on nothing being sent here."""
        self._forget()
        divided.allow({})
        return self._clock.monotonic()

    def _forget(self) -> None:
        self._lease, self._fleet = None, None

    async def _join(self) -> tuple[Lease, FleetLimit]:
        self._dead = frozenset()
        lease = await self._take(self._process)
        fleet = FleetLimit(lease.name, self._limits)
        self._lease, self._fleet = lease, fleet
        self._round_at = self._clock.monotonic() + _ROUND
        return lease, fleet

    async def _take(self, who: str) -> Lease:
        """A lease that nobody else has had or will have."""
        name = f"{self._key}/{who}/{secrets.token_hex(8)}"
        lease = await take_lease(
            self._store, name, length=self._length, holder=self._process, clock=self._clock
        )
        if lease is None:
            raise StoreUnavailableError(f"{self._store!r} says that {name!r} is taken already")
        return lease

    async def _look(self, fleet: FleetLimit) -> None:
        """Read the record; where there is none, begin one in which those that are forgotten have everything."""
        self._has_news = False
        entry = await self._store.get(self._key)
        record = None
        if entry is not None:
            try:
                record = LimitRecord.from_bytes(entry.value)
            except ValueError as error:
                _log.warning("what stands under %r in %r is no limit: %s", self._key, self._store, error)
        if entry is not None and record is not None:
            fleet.learned(record, entry.version)
            return
        earlier = await self._take("earlier")
        record = LimitRecord({earlier.name: LimitMember(0, self._limits)})
        expect = 0 if entry is None else entry.version
        try:
            version = await self._store.put(self._key, record.to_bytes(), expect=expect, guard=earlier.guard)
        except StoreConflictError:
            raise StoreUnavailableError(f"somebody else has begun {self._key!r} at the same moment") from None
        fleet.learned(record, version)

    async def _look_for_the_dead(self, fleet: FleetLimit, lease: Lease) -> None:
        """Find those members whose lease is over; asked after the record was read, which nobody joins without one."""
        key, _ = lease.guard
        before = key.removesuffix(lease.name)
        held = {
            entry.key.removeprefix(before) for entry in await self._store.entries(f"{before}{self._key}/")
        }
        self._dead = frozenset(fleet.record.members.keys() - held - {fleet.me})

    def _by_key(self, amounts: Mapping[Rate, int]) -> dict[str, int]:
        return {key_of(rate): count for rate, count in amounts.items()}

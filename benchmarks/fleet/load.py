"""How load on the store grows with the number of processes, on virtual time: circuits through an outage, and a rate limit."""

from __future__ import annotations

import asyncio
import collections
import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fleet.venue import counts_in
from shockproof import MemoryStore, take_lease
from shockproof.calls.rate_queue import RateQueue
from shockproof.memory.fleet.fleet import Fleet
from shockproof.memory.fleet.shared_limit import SharedLimit
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import Circuit, CircuitState
from shockproof.policies.fleet_limit import LimitMember, LimitRecord, key_of
from shockproof.policies.rate_limit import Sent, parse_rates
from shockproof.testing import VirtualClock


@dataclass
class Work:
    """What the store was asked for."""

    steps: collections.Counter[str] = field(default_factory=collections.Counter[str])
    """By kind: get, entries, put, renew, delete."""
    values: int = 0
    """What `entries` gave."""
    read: int = 0
    """Bytes of values that were given."""
    written: int = 0
    news: int = 0
    """Changes told, to each who watches."""

    @property
    def total(self) -> int:
        return sum(self.steps.values())


class Counting(MemoryStore):
    """Counts its steps by the second."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self._now = clock.monotonic
        self.by_second: collections.Counter[int] = collections.Counter()
        self.work = Work()

    def begin(self) -> None:
        self.work = Work()
        self.by_second.clear()

    def _count(self, kind: str) -> None:
        self.by_second[int(self._now())] += 1
        self.work.steps[kind] += 1

    async def entries(self, prefix: str) -> Any:
        self._count("entries")
        found = await super().entries(prefix)
        self.work.values += len(found)
        self.work.read += sum(len(entry.value) for entry in found)
        return found

    async def get(self, key: str) -> Any:
        self._count("get")
        found = await super().get(key)
        self.work.read += 0 if found is None else len(found.value)
        return found

    async def put(self, key: str, value: bytes, **options: Any) -> int:
        self._count("put")
        version = await super().put(key, value, **options)
        self.work.written += len(value)
        if key.startswith(("circuits/", "limits/")):
            self.work.news += len(self._watchers)
        return version

    async def renew(self, key: str, version: int) -> bool:
        self._count("renew")
        return await super().renew(key, version)

    async def delete(self, key: str, **options: Any) -> bool:
        self._count("delete")
        return await super().delete(key, **options)


# -- circuits --------------------------------------------------------------------------------------------------------


@dataclass
class Outage:
    """What one outage did to a fleet, and the fleet to its store."""

    processes: int
    calm: float
    """Steps in a second before it."""
    peak: int
    """Most steps in one second of it."""
    more: float
    """Steps in a second of it, above those of calm."""
    news: int
    met: int
    """Calls that the venue got while it was down."""
    closed: int
    """Circuits that were closed afterwards."""


class Telling:
    """Tells a fleet what becomes of the circuits of its process."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def circuit_moved(self, state: ServiceState, to: CircuitState, now: float) -> None:
        del now
        self._fleet.transitioned(state, to)

    def circuit_would_open(self, state: ServiceState, now: float) -> None:
        """None of them only watches."""


def an_outage(processes: int) -> Outage:
    """A minute of calm, then all fail within a second, then three failed probes and a good one."""
    clock = VirtualClock()
    answer: Outage = clock.run(_an_outage(processes, clock))
    return answer


async def _an_outage(processes: int, clock: VirtualClock) -> Outage:
    store, rng = Counting(clock), random.Random(7)
    states: list[ServiceState] = []
    fleets: list[Fleet] = []
    for number in range(processes):
        state = ServiceState("venue", Circuit(threshold=3, timeout=30.0))
        name = f"p{number}"
        fleet = Fleet(store, name=name, machine=name, clock=clock, rng=rng, on_loop_end=lambda: None)
        state.watcher, state.circuit.observer = Telling(fleet), state
        fleet.share(state, 2)
        fleet.ensure()
        states.append(state)
        fleets.append(fleet)
    met, is_down = 0, False

    def call(state: ServiceState) -> None:
        nonlocal met
        now = clock.monotonic()
        ticket = state.circuit.admit(now, lease=2.0)
        if ticket is None:
            state.rejections += 1
        else:
            met += is_down
            ticket.failed(now, "down") if is_down else ticket.succeeded(now)

    async def calls(seconds: float) -> None:
        for _ in range(round(seconds)):
            for state in states:
                call(state)
            await asyncio.sleep(1.0)

    await calls(60.0)
    calm = sum(store.by_second[int(clock.monotonic()) - back] for back in range(1, 31)) / 30
    store.begin()
    is_down = True
    for state in states:  # their failures come one after the other, within a second
        for _ in range(3):
            call(state)
        await asyncio.sleep(1.0 / processes)
    await calls(95.0)
    is_down = False
    await calls(40.0)
    closed = sum(state.circuit.state(clock.monotonic()) == "closed" for state in states)
    for fleet in fleets:
        await fleet.aclose()
    return Outage(
        processes,
        calm,
        peak=max(store.by_second.values()),
        more=max(0.0, store.work.total / 136 - calm),
        news=store.work.news,
        met=met,
        closed=closed,
    )


# -- a rate limit ----------------------------------------------------------------------------------------------------

WINDOW = 10.0
LIVE = 20
"""Of more processes in calm only so many live by default, and stand for all: in calm none of them asks because of another one."""
MOST_IN_WANT = 100
"""Beyond so many it is not simulated what happens when all want more than there is: each asks because of each."""
JOINING = 10.0
"""Seconds within which they start, one after the other."""
SETTLING, MEASURED = 20.0, 30.0


@dataclass
class Shared:
    """What a rate limit that so many processes share asks of its store, in a second."""

    processes: int
    wanted: float
    """What they want, as a part of the limit."""
    sent: float
    """What they sent, as a part of what they might."""
    steps: dict[str, float]
    values: float
    bytes: float
    record: int
    """Bytes of the record."""
    most: float
    """The most that was sent in a window, as a part of the limit."""

    @property
    def total(self) -> float:
        return sum(self.steps.values())


def a_limit(processes: int, wanted: float, live: int = LIVE) -> Shared:
    """
    Every process calls about once a second; together they want *wanted* of the limit.

    Where that is no more than there is, *live* of them do, and the others only have their lines in the record, and their leases.
    """
    clock = VirtualClock()
    with _read_once():
        answer: Shared = clock.run(_a_limit(processes, wanted, live, clock))
    return answer


@contextmanager
def _read_once() -> Iterator[None]:
    """One record that all read is parsed once: they are all here, and it is the same."""
    parse = LimitRecord.from_bytes
    LimitRecord.from_bytes = functools.lru_cache(8)(parse)  # type: ignore[method-assign]  # until the end of the block
    try:
        yield
    finally:
        LimitRecord.from_bytes = parse  # type: ignore[method-assign]  # as above


async def _a_limit(processes: int, wanted: float, live: int, clock: VirtualClock) -> Shared:
    store, rng = Counting(clock), random.Random(7)
    limit = max(1, round(processes * WINDOW / wanted))
    rates = parse_rates("rate_limit", f"{limit}/{WINDOW:g}s")
    living = min(processes, live) if wanted <= 1.0 else processes
    members: dict[str, LimitMember] = {}
    for number in range(processes - living):
        lease = await take_lease(store, f"limits/venue/q{number}/{number:016x}", length=1e6, clock=clock)
        assert lease is not None
        share = {key_of(rates[0]): round(1.2 * WINDOW)}
        members[lease.name] = LimitMember(number + 1, share, {}, share)
    # It is there, so that the store is not taken for a new one.
    await store.put("limits/venue", LimitRecord(members, len(members) + 1).to_bytes())
    ledger: list[float] = []
    tasks: list[asyncio.Task[None]] = []
    shares: list[SharedLimit] = []

    async def process(queue: RateQueue) -> None:
        while True:
            if isinstance(queue.take(1, 0), Sent):
                ledger.append(clock.monotonic())
            await asyncio.sleep(0.5 + rng.random())

    for number in range(living):
        share_of_one = SharedLimit(store, "venue", f"p{number}", clock=clock, rng=rng)
        queue = RateQueue(rates, clock)
        queue.share(share_of_one)
        share_of_one.divide(queue, rates)
        share_of_one.ensure()
        shares.append(share_of_one)
        tasks.append(asyncio.create_task(process(queue)))
        await asyncio.sleep(JOINING / living)
    await asyncio.sleep(SETTLING)
    store.begin()
    begun = len(ledger)
    await asyncio.sleep(MEASURED)
    work, sent = store.work, (len(ledger) - begun) * processes / living
    record = await store.get("limits/venue")
    for task in tasks:
        task.cancel()
    for share_of_one in shares:
        share_of_one.pause()
    await asyncio.gather(*tasks, return_exceptions=True)
    factor = processes / living / MEASURED
    return Shared(
        processes,
        wanted,
        sent=sent / MEASURED / min(processes, limit / WINDOW),
        steps={kind: count * factor for kind, count in work.steps.items()},
        values=work.values * factor,
        bytes=(work.read + work.written) * factor,
        record=len(record.value),
        most=max(counts_in(ledger, WINDOW)) / limit,
    )

"""A fleet of a hundred: what it costs the venue and the store when the venue goes down. `benchmarks/fleet.py` goes to 10,000."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

import pytest

from shockproof import MemoryStore
from shockproof.memory.fleet.fleet import Fleet
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import Circuit
from shockproof.testing import VirtualClock
from tests.policies.told import Told

pytestmark = pytest.mark.asyncio


class Counting(MemoryStore):
    puts = 0

    async def put(self, key: str, value: bytes, **options: Any) -> int:
        self.puts += 1
        return await super().put(key, value, **options)


class Member:
    """One process's circuit, without everything around it."""

    def __init__(self, name: str, store: MemoryStore, clock: VirtualClock) -> None:
        self.clock = clock
        self.state = ServiceState("venue", Circuit(threshold=3, timeout=30.0))
        rng = random.Random(name)
        self.fleet = Fleet(store, name=name, machine=name, clock=clock, rng=rng, on_loop_end=lambda: None)
        self.state.circuit.observer = Told(self._changed)
        self.fleet.share(self.state, 2)
        self.fleet.ensure()
        self.sent = 0

    def _changed(self, to: Any, now: float) -> None:
        self.fleet.transitioned(self.state, to)

    def call(self, *, is_down: bool) -> None:
        now = self.clock.monotonic()
        ticket = self.state.circuit.admit(now, lease=2.0)
        if ticket is None:
            self.state.rejections += 1
            return
        self.sent += 1
        verdict = partial(ticket.failed, now, "down") if is_down else partial(ticket.succeeded, now)
        verdict()


async def an_outage(count: int, clock: VirtualClock) -> tuple[int, int, int]:
    """Calls that met the outage, puts it took for each process, and how many are well afterwards."""
    store = Counting(clock=clock)
    members = [Member(f"p{number}", store, clock) for number in range(count)]
    await asyncio.sleep(1.0)
    for member in members:
        for _ in range(3):
            member.call(is_down=True)
        await asyncio.sleep(1.0 / count)
    for _ in range(95):  # three probes fail
        for member in members:
            member.call(is_down=True)
        await asyncio.sleep(1.0)
    met = sum(member.sent for member in members)
    for _ in range(40):
        for member in members:
            member.call(is_down=False)
        await asyncio.sleep(1.0)
    well = sum(member.state.circuit.state(clock.monotonic()) == "closed" for member in members)
    for member in members:
        await member.fleet.aclose()
    return met, store.puts // count, well


@pytest.mark.parametrize("count", [2, 100])
async def test_how_often_a_venue_that_is_down_is_called_does_not_depend_on_how_many_there_are(
    clock: VirtualClock, count: int
) -> None:
    """Five failures until all know, and one probe for each time that it was open."""
    met, puts, well = await an_outage(count, clock)
    assert met == 5 + 3
    assert puts <= 12
    assert well == count

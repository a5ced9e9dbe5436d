"""What a lease's holder knows by its own clock, whatever the store's says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from shockproof import MemoryStore, StoreUnavailableError, take_lease
from shockproof.memory.stores import lease as leases
from shockproof.memory.stores.state_store import Guard
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


class SlowStore(MemoryStore):
    """Each step takes some seconds of the holder's clock, half of them on the way there; or the store is away."""

    def __init__(self, clock: VirtualClock, seconds: float = 0.0) -> None:
        super().__init__(clock=clock)
        self._holders = clock
        self.seconds = seconds
        self.is_away = False

    async def put(self, key: str, value: bytes, **options: object) -> int:
        self._holders.advance(self.seconds / 2)
        version = await super().put(key, value, **options)  # type: ignore[arg-type]  # passed on as they came
        self._holders.advance(self.seconds / 2)
        return version

    async def renew(self, key: str, version: int) -> bool:
        if self.is_away:
            raise StoreUnavailableError("away")
        return await super().renew(key, version)

    async def is_free(self, guard: Guard) -> bool:
        return await self.get(guard[0]) is None


async def test_the_holder_stops_before_anybody_else_can_have_it(clock: VirtualClock) -> None:
    """It counts from before it asked, and a tenth less; the store begins to count later."""
    store = SlowStore(clock, seconds=4.0)
    lease = await take_lease(store, "journal", length=20.0, clock=clock)
    assert lease is not None
    assert lease.remaining == pytest.approx(14.0)
    clock.advance(14.0)
    assert not lease.is_held
    assert not await store.is_free(lease.guard)
    clock.advance(4.0)
    assert await store.is_free(lease.guard)


async def test_a_lease_goes_on_ending_while_its_holders_machine_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store does not sleep: its holder counts by the clock that goes on, and not by the one that stands still."""
    running = [1000.0]
    clocks = SimpleNamespace(clock_gettime=lambda number: running[number], monotonic=lambda: 5.0)
    monkeypatch.setattr(leases, "time", clocks)
    monkeypatch.setattr(leases, "_RUNNING", 0)
    lease = await take_lease(MemoryStore(), "journal", length=20.0)
    assert lease is not None
    assert lease.remaining == pytest.approx(18.0)
    running[0] += 18.0
    assert not lease.is_held


async def test_a_lease_that_took_too_long_to_come_is_not_held(clock: VirtualClock) -> None:
    """The answer may be older than the lease."""
    lease = await take_lease(SlowStore(clock, seconds=30.0), "journal", length=20.0, clock=clock)
    assert lease is not None
    assert not lease.is_held


async def test_a_renewal_gives_the_whole_length_and_one_that_nobody_answers_takes_nothing(
    clock: VirtualClock,
) -> None:
    """A store that is away ends no lease before its time; nor does it make one longer."""
    store = SlowStore(clock)
    lease = await take_lease(store, "journal", length=20.0, clock=clock)
    assert lease is not None
    clock.advance(10.0)
    assert await lease.renew()
    assert lease.remaining == pytest.approx(18.0)
    store.is_away = True
    clock.advance(10.0)
    with pytest.raises(StoreUnavailableError):
        await lease.renew()
    assert lease.remaining == pytest.approx(8.0)
    clock.advance(8.0)
    assert not lease.is_held


async def test_a_lease_that_is_over_is_not_renewed(clock: VirtualClock) -> None:
    """Who comes back after its time has to take it anew, with a new token."""
    store = SlowStore(clock)
    former = await take_lease(store, "journal", length=20.0, clock=clock)
    assert former is not None
    clock.advance(20.0)
    assert not await former.renew()
    assert "0.000 s left" in repr(former)
    lease = await take_lease(store, "journal", length=20.0, clock=clock)
    assert lease is not None
    assert lease.token > former.token


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": ""}, "name must be a string"),
        ({"length": 0}, "length must be seconds"),
        ({"holder": ""}, "holder must be a string"),
    ],
)
async def test_a_lease_without_name_or_length_is_refused(wrong: dict[str, object], told: str) -> None:
    """The argument, its value and what is allowed."""
    with pytest.raises(ValueError, match=told):
        await take_lease(**{"store": MemoryStore(), "name": "a", **wrong})  # type: ignore[arg-type]  # the mistakes under test

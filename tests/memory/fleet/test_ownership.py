"""Only one process at a time writes for an account, whatever befalls it, the store and the way between them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from shockproof import ErrorRecoveryService, HaltedError, MemoryStore
from shockproof.testing import VirtualClock
from tests.memory.fleet.weather import Weather

pytestmark = pytest.mark.asyncio


class Bot:
    """A process that would send orders for the account."""

    def __init__(self, recovery: ErrorRecoveryService, way: Weather) -> None:
        self.recovery = recovery
        self.way = way
        self.orders = recovery.service("orders", effect="unsafe", max_retries=0)
        self.closes = recovery.service("orders", effect="unsafe", risk_reducing=True, max_retries=0)
        self.quotes = recovery.service("orders", max_retries=0)

    async def may_send(self) -> bool:
        async def send() -> None: ...

        try:
            await self.orders.call(send)
        except HaltedError as error:
            return (
                "does not own 'account 7'" not in error.reason
            )  # by hand, it would be a mistake of the test
        return True

    @property
    def owner(self) -> dict[str, object]:
        told: dict[str, object] = self.recovery.get_health_status()["shared"]["owns"]
        return told


@pytest.fixture
def inner(clock: VirtualClock) -> MemoryStore:
    return MemoryStore(clock=clock)


Joins = Callable[[], Awaitable[Bot]]


@pytest_asyncio.fixture
async def joins(clock: VirtualClock, inner: MemoryStore, tmp_path: Path) -> AsyncIterator[Joins]:
    bots: list[Bot] = []

    async def join() -> Bot:
        name, way = f"bot-{len(bots)}", Weather(inner)
        recovery = ErrorRecoveryService(
            tmp_path / name / "state",
            tmp_path / name / "errors",
            store=way,
            owns="account 7",
            process_name=name,
            clock=clock,
        )
        bots.append(Bot(recovery, way))
        await recovery.start()
        return bots[-1]

    yield join
    for bot in bots:
        await bot.recovery.aclose()


async def senders(bots: list[Bot], seconds: float) -> list[list[int]]:
    """Who may send, ten times a second; never two at a time."""
    seen: list[list[int]] = []
    for _ in range(round(seconds * 10)):
        await asyncio.sleep(0.1)
        may = [number for number, bot in enumerate(bots) if await bot.may_send()]
        assert len(may) <= 1
        seen.append(may)
    return seen


async def pair(joins: Joins) -> list[Bot]:
    """The first is the owner."""
    first = await joins()
    await first.recovery.owned()
    return [first, await joins()]


async def test_one_of_two_sends_and_both_read_and_reduce_risk(joins: Joins) -> None:
    """A second bot that is started by mistake, or to stand by, sends nothing."""
    bots = await pair(joins)
    assert await senders(bots, 120.0) == [[0]] * 1200

    async def answer() -> str:
        return "fine"

    assert await bots[1].quotes.call(answer) == "fine"
    assert await bots[1].closes.call(answer) == "fine"
    assert (bots[0].owner["is_owner"], bots[1].owner["is_owner"]) == (True, False)


async def test_who_closes_hands_over_at_once_and_the_next_has_a_higher_token(joins: Joins) -> None:
    """A planned restart costs some seconds."""
    first, second = await pair(joins)
    token = (await first.recovery.owned()).token
    await first.recovery.aclose()
    async with asyncio.timeout(5.0):
        lease = await second.recovery.owned()
    assert await second.may_send()
    assert lease.token > token
    assert second.owner["token"] == lease.token


@pytest.mark.parametrize("kind", ["away", "hangs"])
async def test_an_owner_that_is_cut_off_stops_before_the_next_one_begins(joins: Joins, kind: str) -> None:
    """It goes on for as long as the lease surely is its own, and the other waits for as long as it may be."""
    bots = await pair(joins)
    await asyncio.sleep(30.0)
    bots[0].way.turn(kind)
    seen = await senders(bots, 30.0)
    assert seen[80] == [0], "what is short is survived"
    assert seen[-1] == [1]
    assert [] in seen
    bots[0].way.turn("fair")
    assert (await senders(bots, 30.0))[-1] == [1], "who comes back stands by"


async def test_an_owner_whose_machine_stood_still_sends_nothing_when_it_wakes_up(
    joins: Joins, clock: VirtualClock
) -> None:
    """Its own clock tells before any task of it has run."""
    first, _ = await pair(joins)
    clock.advance(14.0)
    assert not await first.may_send()


async def test_a_store_that_lost_everything_interrupts_no_owner_that_is_the_first_to_notice(
    joins: Joins,
) -> None:
    """It knows better than anybody that there is no other."""
    first = await joins()
    await first.recovery.owned()
    await first.way.loses_everything()
    assert await senders([first], 60.0) == [[0]] * 600


async def test_where_another_notices_first_it_begins_when_the_owner_has_ended(joins: Joins) -> None:
    """There is a gap then, and never two."""
    bots = await pair(joins)
    await bots[0].way.loses_everything()
    seen = await senders(bots, 60.0)
    assert seen[0] == [0]
    assert seen.count([]) <= 155, "the length of a lease, at most"
    assert len(seen[-1]) == 1


async def test_where_the_store_lost_everything_the_next_owner_waits_for_one_that_may_not_know(
    joins: Joins,
) -> None:
    """An owner that is cut off from a store that came back empty is still one, until its lease would have ended."""
    bots = await pair(joins)
    bots[0].way.turn("away")
    await asyncio.sleep(0.1)
    await bots[0].way.loses_everything()
    third = await joins()
    seen = await senders([*bots, third], 20.0)
    assert seen[100] == [0]
    assert seen[-1] in ([1], [2])


async def test_who_waited_for_another_and_left_makes_nobody_begin_sooner(joins: Joins) -> None:
    """That somebody had the lease is not yet that the owner before has ended."""
    bots = await pair(joins)
    bots[0].way.turn("away")
    await asyncio.sleep(0.1)
    await bots[0].way.loses_everything()
    await asyncio.sleep(4.0)
    await bots[1].recovery.aclose()
    third = await joins()
    assert (await senders([bots[0], third], 20.0))[-1] == [1]


async def test_the_first_owner_ever_waits_and_later_ones_do_not(joins: Joins, clock: VirtualClock) -> None:
    """A store that knows of no owner may have forgotten one."""
    began = clock.monotonic()
    first = await joins()
    assert not await first.may_send()
    await first.recovery.owned()
    assert 15.0 <= clock.monotonic() - began <= 15.5
    await first.recovery.aclose()
    second = await joins()
    assert await second.may_send()


async def test_reconciling_waits_until_it_is_ones_own_to_do(joins: Joins) -> None:
    """Two never settle the same orders."""
    first, second = await pair(joins)
    waiting = asyncio.create_task(second.recovery.reconcile())
    await asyncio.sleep(60.0)
    assert not waiting.done()
    await first.recovery.aclose()
    assert await waiting == []


async def test_waiting_to_own_can_be_cancelled(joins: Joins) -> None:
    """And leaves nothing behind."""
    _, second = await pair(joins)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60.0):
            await second.recovery.owned()
    assert second.recovery._ownership is not None
    assert second.recovery._ownership.waiting == set()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_owns_nothing_of_what_its_parent_owns(joins: Joins) -> None:
    """Two processes with one lease would both send."""
    first = await joins()
    await first.recovery.owned()
    assert first.recovery._ownership is not None
    child = os.fork()
    if not child:
        is_owner = first.recovery._ownership.is_held
        os._exit(1 if is_owner else 0)
    assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - it ends at once
    assert await first.may_send()


async def test_owning_needs_a_store_and_a_name(tmp_path: Path, clock: VirtualClock) -> None:
    """What is agreed with nobody is owned by everybody."""
    with pytest.raises(ValueError, match="owns='account 7' needs where that is agreed on"):
        ErrorRecoveryService(tmp_path, tmp_path, owns="account 7")
    with pytest.raises(ValueError, match="owns must be a string"):
        ErrorRecoveryService(tmp_path, tmp_path, store=MemoryStore(), owns="")
    with pytest.raises(ValueError, match="there is nothing to own"):
        await ErrorRecoveryService(tmp_path, tmp_path, clock=clock).owned()

"""Whoever is closed keeps the account as long as an order that it began may still be sent: no other machine sends it meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from shockproof import NOT_FOUND, ErrorRecoveryService, Found, LookUp, MemoryStore, OutcomeUnknownError
from shockproof.testing import VirtualClock
from tests.memory.fleet.weather import Weather

pytestmark = pytest.mark.asyncio


class Venue:
    """It shows at once what it has booked, and each machine has a way to it that may hang."""

    def __init__(self) -> None:
        self.booked: list[str] = []
        self.opens = asyncio.Event()

    async def find(self, client_order_id: str) -> LookUp[str]:
        return Found("found") if self.booked else NOT_FOUND

    async def books(self, client_order_id: str) -> str:
        self.booked.append(client_order_id)
        return "placed"

    async def books_late(self, client_order_id: str) -> str:
        """A client that takes its cancellation for a disturbance, and goes on."""
        while not self.opens.is_set():
            try:
                await self.opens.wait()
            except asyncio.CancelledError:
                continue
        return await self.books(client_order_id)


class Bot:
    """A machine that may send for the account, with a journal of its own."""

    def __init__(self, recovery: ErrorRecoveryService, way: Weather, venue: Venue) -> None:
        self.recovery, self.way, self.venue = recovery, way, venue

    async def place(self, submit: Callable[[str], Awaitable[str]]) -> str:
        orders = self.recovery.service("orders", effect="unsafe", max_retries=0, timeout=1.0, grace=0.5)
        once = orders.once("K", confirm=self.venue.find, key_argument="client_order_id", settle=2.0)
        return await once.call(submit)

    @property
    def is_owner(self) -> bool:
        is_owner: bool = self.recovery.get_health_status()["shared"]["owns"]["is_owner"]
        return is_owner


Joins = Callable[[], Awaitable[Bot]]


@pytest_asyncio.fixture
async def venue() -> Venue:
    return Venue()


@pytest_asyncio.fixture
async def joins(clock: VirtualClock, venue: Venue, tmp_path: Path) -> AsyncIterator[Joins]:
    store = MemoryStore(clock=clock)
    bots: list[Bot] = []

    async def join() -> Bot:
        name, way = f"bot-{len(bots)}", Weather(store)
        recovery = ErrorRecoveryService(
            tmp_path / name / "state",
            tmp_path / name / "errors",
            store=way,
            owns="account 7",
            process_name=name,
            clock=clock,
        )
        bots.append(Bot(recovery, way, venue))
        await recovery.start()
        return bots[-1]

    yield join
    venue.opens.set()
    for bot in bots:
        await bot.recovery.aclose()


async def has_left_one_behind(bot: Bot, venue: Venue) -> None:
    await bot.recovery.owned()
    with pytest.raises(OutcomeUnknownError):
        await bot.place(venue.books_late)


async def test_an_order_that_was_left_behind_keeps_the_account_beyond_the_end(
    joins: Joins, venue: Venue, caplog: pytest.LogCaptureFixture
) -> None:
    """Another machine that asked meanwhile would not find it, send it, and then there were two."""
    first, second = await joins(), await joins()
    await has_left_one_behind(first, venue)
    await first.recovery.aclose()
    assert "an order that is under way, or was left behind, may still be sent" in caplog.text
    await asyncio.sleep(60.0)
    assert (first.is_owner, second.is_owner) == (True, False)

    venue.opens.set()
    await second.recovery.owned()  # time is virtual, and the journal's thread is not: no limit
    assert not first.is_owner
    assert await second.place(venue.books) == "found"
    assert venue.booked == ["K"]


async def test_an_order_that_is_under_way_keeps_the_account_however_it_ends(
    joins: Joins, venue: Venue
) -> None:
    """It is left behind only after its time limit, when the bot was closed long before."""
    first, second = await joins(), await joins()
    await first.recovery.owned()
    placing = asyncio.ensure_future(first.place(venue.books_late))
    await asyncio.sleep(0.5)
    await first.recovery.aclose()
    with pytest.raises(OutcomeUnknownError):
        await placing
    await asyncio.sleep(60.0)
    assert not second.is_owner

    venue.opens.set()
    await second.recovery.owned()
    assert await second.place(venue.books) == "found"
    assert venue.booked == ["K"]


async def test_who_keeps_the_account_for_what_it_left_behind_can_be_used_and_closed_again(
    joins: Joins, venue: Venue
) -> None:
    """It is the owner still, so that nothing has to be waited for."""
    first, second = await joins(), await joins()
    await has_left_one_behind(first, venue)
    await first.recovery.aclose()
    await first.recovery.owned()
    await asyncio.sleep(20.0)
    assert (first.is_owner, second.is_owner) == (True, False)
    await first.recovery.aclose()
    await asyncio.sleep(20.0)
    assert not second.is_owner

    venue.opens.set()
    await asyncio.sleep(0.1)
    await first.recovery.aclose()
    async with asyncio.timeout(4.0):
        await second.recovery.owned()


async def test_who_is_cut_off_while_it_keeps_the_account_loses_it_and_goes_on_no_more(
    joins: Joins, venue: Venue, caplog: pytest.LogCaptureFixture
) -> None:
    """No lease helps against that; and a store that hangs or has a mistake does not end the keeping."""
    first, second = await joins(), await joins()
    await has_left_one_behind(first, venue)
    await first.recovery.aclose()
    for trouble in ("hangs", "broken"):
        first.way.turn(trouble)
        await asyncio.sleep(8.0)
        first.way.turn("fair")
        await asyncio.sleep(2.0)
        assert first.is_owner
    first.way.turn("away")
    await second.recovery.owned()
    assert not first.is_owner
    first.way.turn("fair")
    await asyncio.sleep(20.0)
    assert (first.is_owner, second.is_owner) == (False, True)
    assert "this process has lost 'account 7'" in caplog.text


async def test_a_loop_that_ends_while_the_account_is_kept_says_so(
    joins: Joins, venue: Venue, caplog: pytest.LogCaptureFixture
) -> None:
    """The threads of a process end with it, and the lease some seconds later."""
    caplog.set_level(logging.WARNING, "shockproof")
    first = await joins()
    await has_left_one_behind(first, venue)
    await first.recovery.aclose()
    (keeping,) = [one for one in asyncio.all_tasks() if "keeps what it owns" in one.get_name()]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert not first.is_owner
    assert "has not given it back, for its loop has ended" in caplog.text


async def test_a_disk_that_hangs_at_the_end_gives_nothing_away_that_was_left_behind(
    joins: Joins, venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be flushed is no reason to let another machine send what is on its way here."""
    first, second = await joins(), await joins()
    await has_left_one_behind(first, venue)

    async def hangs(timeout: float) -> None:
        await asyncio.sleep(3600.0)

    monkeypatch.setattr(first.recovery._error_log, "flush", hangs)
    await first.recovery.aclose()
    monkeypatch.undo()
    await asyncio.sleep(60.0)
    assert (first.is_owner, second.is_owner) == (True, False)
    venue.opens.set()
    await second.recovery.owned()  # time is virtual, and the journal's thread is not: no limit

"""Only one process at a time writes for an account, whatever befalls it, the store and the way between them."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio

from shockproof import (
    UNKNOWN,
    CallInfo,
    ErrorRecoveryService,
    Event,
    HaltedError,
    LookUp,
    MemoryStore,
    Outcome,
    OutcomeUnknownError,
    OwnershipLost,
    OwnershipTaken,
    StoreEntry,
    Verdict,
    attempts_of,
)
from shockproof.command_line.screen import Screen
from shockproof.command_line.status_lines import show_head
from shockproof.endpoints.checks import is_ready, readiness
from shockproof.integrations.measurements import METRICS, Measured
from shockproof.memory.fleet.ownership import Ownership
from shockproof.memory.services.listeners import Listeners
from shockproof.testing import VirtualClock
from shockproof.views.status import status_of
from shockproof.views.status_history import StatusHistory
from shockproof.views.status_page import parts_of
from tests.forked_child import ForkedChild
from tests.memory.fleet.forgetful_store import Forgetful
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
def inner(clock: VirtualClock) -> Forgetful:
    return Forgetful(clock)


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


async def test_where_the_store_came_back_as_it_was_long_before_the_next_owner_waits_for_one_that_may_not_know(
    joins: Joins, inner: Forgetful
) -> None:
    """It knows that there was an owner once, and has forgotten the lease that it has renewed since: that is not its end."""
    bots = await pair(joins)
    await inner.writes_down()
    await asyncio.sleep(100.0)
    for bot in bots:
        bot.way.turn("away")
    await asyncio.sleep(0.1)
    await inner.starts_again()
    bots[1].way.turn("fair")
    third = await joins()
    seen = await senders([*bots, third], 40.0)
    assert seen[50] == [0]
    assert len(seen[-1]) == 1
    assert seen[-1] != [0]
    await bots[seen[-1][0]].recovery.aclose() if seen[-1] == [1] else await third.recovery.aclose()
    async with asyncio.timeout(5.0):
        await (third if seen[-1] == [1] else bots[1]).recovery.owned()


async def test_where_the_store_came_back_with_everything_its_owner_goes_on_and_the_next_does_not_wait(
    joins: Joins, inner: Forgetful
) -> None:
    """Who owned it all the time says so, in what the store may have lost of nobody since."""
    bots = await pair(joins)
    await asyncio.sleep(1.0)
    for bot in bots:
        bot.way.turn("away")
    await asyncio.sleep(0.1)
    await inner.starts_again(with_everything=True)
    for bot in bots:
        bot.way.turn("fair")
    assert await senders(bots, 20.0) == [[0]] * 200
    await bots[0].recovery.aclose()
    async with asyncio.timeout(5.0):
        await bots[1].recovery.owned()


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


async def test_an_owner_with_much_to_tell_a_slow_store_stays_the_owner(joins: Joins) -> None:
    """A venue that goes down opens the circuits of all its services; nobody's orders wait for the news of it, nor does the next news."""
    bot, other = await joins(), await joins()
    await bot.recovery.owned()
    names = [f"symbol {number}" for number in range(40)]
    services = {
        name: [one.recovery.service(name, shared=True, max_retries=0) for one in (bot, other)]
        for name in names
    }

    async def fails() -> None:
        raise ConnectionError("down")

    bot.way.turn("slow")
    for _ in range(5):
        for service, _ in services.values():
            with suppress(ConnectionError):
                await service.call(fails)
    for _ in range(6):
        await asyncio.sleep(0.5)
        assert await bot.may_send()
    assert set(other.recovery.get_health_status()["shared"]["votes"]) == set(names)

    for _ in range(30):
        await asyncio.sleep(1.0)
        assert await bot.may_send()


class Sleepy(MemoryStore):
    """One whose answer about the first owner reaches its asker late."""

    def __init__(self, inner: MemoryStore, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self._inner = inner
        self.is_awake = asyncio.Event()

    async def get(self, key: str) -> StoreEntry | None:
        found = await self._inner.get(key)
        await self.is_awake.wait()
        return found

    def __getattribute__(self, name: str) -> Any:  # Any: whatever a store has
        if name in {"put", "renew", "delete", "entries"}:
            return getattr(self._inner, name)
        return super().__getattribute__(name)


class Files:
    """Tell whose journal was there before."""

    hindrance = None
    may_still_send = False

    def __init__(self) -> None:
        self.former: list[str | None] = []

    def before_owning(self) -> None: ...

    async def take_over(self, account: str, former: str | None) -> str | None:
        self.former.append(former)
        return f"journal {id(self)}"

    async def seen(self, account: str, owner: str) -> None: ...

    def while_owning(self) -> None: ...

    def no_longer(self) -> None: ...


async def keep_until(ownership: Ownership, store: MemoryStore) -> None:
    wait = await ownership.keep(store)
    while not ownership.is_held:
        await asyncio.sleep(max(wait, 0.001))
        wait = await ownership.keep(store)


async def test_who_stood_still_while_another_one_was_the_first_owner_knows_of_it(
    inner: Forgetful, clock: VirtualClock
) -> None:
    """Else it would take itself for the first of all, and send an order blindly that the other one has sent."""
    theirs, files, sleepy = Files(), Files(), Sleepy(inner, clock)
    sleeper = Ownership("account 7", "sleeper", files, clock, Listeners())
    asleep = asyncio.create_task(sleeper.keep(sleepy))
    await keep_until(Ownership("account 7", "first", theirs, clock, Listeners()), inner)
    assert theirs.former == [None]
    await asyncio.sleep(40.0)  # it has died

    sleepy.is_awake.set()
    await asleep
    assert not sleeper.is_held
    await keep_until(sleeper, sleepy)

    assert files.former == [f"journal {id(theirs)}"]


async def test_who_stood_still_while_another_one_owned_the_account_takes_it_over_from_that_one(
    inner: Forgetful, clock: VirtualClock
) -> None:
    """And not from the one before, of whose journal it may be itself: the lease is not to be had by what was read then."""
    await keep_until(Ownership("account 7", "before", Files(), clock, Listeners()), inner)
    await asyncio.sleep(40.0)
    theirs, files, sleepy = Files(), Files(), Sleepy(inner, clock)
    sleeper = Ownership("account 7", "sleeper", files, clock, Listeners())
    asleep = asyncio.create_task(sleeper.keep(sleepy))
    await asyncio.sleep(0.1)
    await keep_until(Ownership("account 7", "next", theirs, clock, Listeners()), inner)
    await asyncio.sleep(40.0)

    sleepy.is_awake.set()
    await asleep
    assert not sleeper.is_held
    await keep_until(sleeper, sleepy)
    assert files.former == [f"journal {id(theirs)}"]


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
    ownership = first.recovery._ownership
    assert ownership is not None
    assert ForkedChild(lambda: ownership.is_held).answer() is False
    assert await first.may_send()


async def test_owning_needs_a_store_and_a_name(tmp_path: Path, clock: VirtualClock) -> None:
    """What is agreed with nobody is owned by everybody."""
    with pytest.raises(ValueError, match="owns='account 7' needs where that is agreed on"):
        ErrorRecoveryService(tmp_path, tmp_path, owns="account 7")
    with pytest.raises(ValueError, match="owns must be a string"):
        ErrorRecoveryService(tmp_path, tmp_path, store=MemoryStore(), owns="")
    with pytest.raises(ValueError, match="there is nothing to own"):
        await ErrorRecoveryService(tmp_path, tmp_path, clock=clock).owned()


def everywhere(bot: Bot) -> tuple[str, list[str]]:
    """The overall health, and what else tells of the fleet: the check, the head of the command, the page, the metrics."""
    health = bot.recovery.get_health_status()
    checks = readiness(health)
    assert is_ready(checks), "a circuit, an order: what is not there is no reason to restart it"
    history = StatusHistory(bot.recovery)
    status = status_of(bot.recovery, history)
    page = {part.id: part.markup for part in parts_of(status, matching="", can_change=False)}
    history.close()
    trouble = health["shared"]["trouble"]
    assert status["shared"] == health["shared"]
    assert (trouble is None) == ('class="pill good"' in page["verdict"])
    assert trouble is None or escape(trouble[1:]) in page["banner"]
    out = io.StringIO()
    show_head(status, "here", Screen(out))
    measured = Measured(bot.recovery)
    return health["overall_health"], [
        *(str(check) for check in checks if check.name == "shared"),
        *(line for line in out.getvalue().splitlines() if line.startswith("shared")),
        *(
            f"{metric.name} {point.value:g}"
            for metric in METRICS
            if metric.name in ("shockproof.is_owner", "shockproof.shared_store.up")
            for point in metric.read(measured)
        ),
    ]


async def test_who_may_not_write_says_so_everywhere(joins: Joins) -> None:
    """An owner without its store refuses every order, and nobody may think that all is well."""
    first, second = await pair(joins)
    fine = ["[+]shared ok", "shared: this process owns 'account 7'"]
    up = ["shockproof.shared_store.up 1", "shockproof.is_owner 1"]
    assert everywhere(first) == ("healthy", [*fine, *up])
    why = "this process does not own 'account 7', 'bot-0' does; recovery.owned() waits for that"
    up[1] = "shockproof.is_owner 0"
    assert everywhere(second) == ("degraded", [f"[!]shared warns: {why}", f"shared: {why}", *up])
    assert (second.owner["state"], second.owner["holder"]) == ("standby", "bot-0")
    first.way.turn("away")
    await asyncio.sleep(0.1)
    word, lines = everywhere(first)
    assert word == "degraded"
    assert "shared: the store is away, this process may write for 'account 7' for another 13 s" in lines[1]
    await asyncio.sleep(20.0)
    why = "this process does not own 'account 7', or cannot be certain of it: nobody answers; recovery.owned() waits for that"
    down = ["shockproof.shared_store.up 0", "shockproof.is_owner 0"]
    assert everywhere(first) == ("degraded", [f"[!]shared warns: {why}", f"shared: {why}", *down])
    assert first.owner["state"] == "uncertain"


async def test_a_store_that_is_not_asked_is_neither_up_nor_down(
    clock: VirtualClock, inner: MemoryStore, tmp_path: Path
) -> None:
    """Before the start and after the end nobody knows."""
    recovery = ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", store=inner, owns="account 7", clock=clock
    )
    (up,) = [metric for metric in METRICS if metric.name == "shockproof.shared_store.up"]

    def measured() -> list[float]:
        return [point.value for point in up.read(Measured(recovery))]

    assert measured() == []
    async with recovery:
        await recovery.owned()
        assert measured() == [1.0]
    assert measured() == []


async def test_taking_and_losing_it_is_logged_once_each(
    joins: Joins, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With the moment: the loss while the store is away, when it happens."""
    caplog.set_level(logging.INFO, "shockproof")
    first = await joins()
    await first.recovery.owned()
    first.way.turn("away")
    lost_by = clock.monotonic() + 13.9
    while not any("has lost" in record.message for record in caplog.records):
        assert clock.monotonic() < lost_by
        await asyncio.sleep(0.1)
    await asyncio.sleep(30.0)
    first.way.turn("fair")
    await first.recovery.owned()
    await first.recovery.aclose()
    told = [
        (one.levelname, one.message.split(":")[0]) for one in caplog.records if "account 7" in one.message
    ]
    assert told == [
        ("INFO", "the store knows of no owner of 'account 7'"),
        ("INFO", "this process owns 'account 7' from now on"),
        ("WARNING", told[2][1]),
        ("WARNING", "this process has lost 'account 7' and writes nothing for it"),
        ("INFO", "this process owns 'account 7' from now on"),
        ("INFO", "this process has given 'account 7' back"),
    ]
    assert told[2][1].startswith(
        "the store of the fleet is away, this process may write for 'account 7' for another "
    )


async def test_who_waits_for_a_new_store_says_for_how_long(joins: Joins, clock: VirtualClock) -> None:
    """A first start refuses all orders for 15 seconds; it owns nothing before that, nor claims so later."""
    first = await joins()
    await asyncio.sleep(5.0)

    async def send() -> None: ...

    with pytest.raises(
        HaltedError, match="does not own 'account 7' yet, and waits another 10 s: the store is new"
    ):
        await first.orders.call(send)
    assert (first.owner["state"], first.owner["since"]) == ("waiting", None)
    await first.recovery.owned()
    began = clock.time()
    assert datetime.fromisoformat(str(first.owner["since"])).timestamp() == pytest.approx(began, abs=0.5)


async def test_a_holder_of_the_same_name_is_told_apart(
    joins: Joins, tmp_path: Path, clock: VirtualClock
) -> None:
    """Started again at once after it was killed, a process waits for its own earlier lease."""
    first, _ = await pair(joins)
    again = ErrorRecoveryService(
        tmp_path / "state",
        tmp_path / "errors",
        store=first.way,
        owns="account 7",
        process_name="bot-0",
        clock=clock,
    )
    await again.start()
    assert (
        "'bot-0' does, which is its own name: an earlier life"
        in again.get_health_status()["shared"]["trouble"]
    )
    await again.aclose()


async def test_taking_losing_and_giving_back_are_told_to_listeners_once_each(joins: Joins) -> None:
    """What follows them, such as cancelling all orders, is the program's own business."""
    told: list[tuple[str, str, str]] = []

    async def note(event: Event) -> None:
        if isinstance(event, OwnershipTaken):
            told.append((event.service_name, event.owns, ""))
        elif isinstance(event, OwnershipLost):
            told.append((event.service_name, event.owns, event.reason))

    bot = await joins()
    bot.recovery.on_event(note)
    await bot.recovery.owned()
    await asyncio.sleep(60.0)
    bot.way.turn("away")
    await asyncio.sleep(60.0)
    bot.way.turn("fair")
    await bot.recovery.owned()
    await bot.recovery.aclose()
    assert told == [
        ("", "account 7", ""),
        ("", "account 7", "nobody answers"),
        ("", "account 7", ""),
        ("", "account 7", "given back"),
    ]


async def test_who_cannot_flush_everything_in_time_keeps_nobody_from_owning_it(joins: Joins) -> None:
    """It is not handed over, and not renewed either: a process may live on for days behind `aclose`."""
    first, second = await pair(joins)

    async def never_comes_back(event: Event) -> None:
        await asyncio.Event().wait()

    ends = second.recovery.on_event(never_comes_back)
    first.way.turn("away")
    await second.recovery.owned()
    first.way.turn("fair")
    await second.recovery.aclose(timeout=1.0)
    ends()

    assert not second.owner["is_owner"]
    async with asyncio.timeout(25.0):
        await first.recovery.owned()


async def test_a_store_that_two_services_use_is_closed_by_the_last_of_them(
    tmp_path: Path, clock: VirtualClock
) -> None:
    """Closed by the first, it would take the connections from under the other."""

    class Closing(MemoryStore):
        """Counts how often its connections were given back."""

        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    store = Closing(clock=clock)
    first, second = (
        ErrorRecoveryService(tmp_path / name, tmp_path / name, store=store, owns=name, clock=clock)
        for name in ("account 7", "account 8")
    )
    async with second:
        async with first:
            await second.start()
        assert store.closed == 0
        async with first:  # and again
            pass
        assert store.closed == 0
    assert store.closed == 1


async def test_what_the_owner_before_has_halted_the_next_one_finds_halted(
    tmp_path: Path, clock: VirtualClock, inner: MemoryStore
) -> None:
    """It stood by over the same directory, and had seen it before."""
    first, second = (
        ErrorRecoveryService(
            tmp_path / "state", tmp_path / name, store=inner, owns="account 7", process_name=name, clock=clock
        )
        for name in ("bot-0", "bot-1")
    )
    await first.start()
    await first.owned()
    await second.start()
    bot = Bot(second, Weather(inner))
    await first.halt("lost the risk feed")
    await first.aclose()
    await second.owned()

    async def send() -> None: ...

    with pytest.raises(HaltedError, match="lost the risk feed"):
        await bot.orders.call(send)
    await second.resume()
    assert await bot.may_send()
    await second.aclose()


@pytest.mark.parametrize("effect", ["none", None])
async def test_an_order_whose_process_loses_the_account_before_it_is_repeated_says_what_is_known_of_it(
    joins: Joins, effect: Literal["none"] | None
) -> None:
    """Its own error, and why it was not sent again, where nothing has happened for certain; else it is unknown, and pending."""
    bot = (await pair(joins))[0]

    def classify(value: object, call: CallInfo) -> Verdict | None:
        return Verdict(Outcome.FAILURE, effect=effect) if isinstance(value, ConnectionError) else None

    orders = bot.recovery.service("venue", max_retries=3, base_delay=20.0, classify=classify)
    once = orders.once("A-1", confirm=lambda key: nobody_knows(), settle=5.0)

    async def send() -> None:
        bot.way.turn("away")
        raise ConnectionError("no route to the venue")

    with pytest.raises(ConnectionError if effect else OutcomeUnknownError) as caught:
        await once.call(send)

    if effect:
        notes = " ".join(getattr(caught.value, "__notes__", []))
        assert "it was halted: this process does not own 'account 7'" in notes
    assert len(attempts_of(caught.value if effect else caught.value.__cause__ or caught.value)) == 1
    state = await bot.recovery.restore_state()
    pending = [] if state is None else [one["key"] for one in state.active_operations]
    assert pending == ([] if effect else ["A-1"])
    bot.way.turn("fair")


async def nobody_knows() -> LookUp[None]:
    return UNKNOWN

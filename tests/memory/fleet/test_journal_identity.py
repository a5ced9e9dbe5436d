"""The next owner of an account has another journal: what the one before has sent it never sends a second time unseen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    ErrorRecoveryService,
    Found,
    HaltedError,
    LookUp,
    MemoryStore,
    OutcomeUnknownError,
)
from shockproof.command_line.program import main
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal import journal as journals
from shockproof.memory.journal.identity import IDENTITY_NAME
from shockproof.memory.journal.incomplete import INCOMPLETE_NAME
from shockproof.testing import VirtualClock, cancel_at_each_await
from tests.memory.fleet.forgetful_store import Forgetful
from tests.memory.fleet.weather import Weather

pytestmark = pytest.mark.asyncio

SETTLE = 30.0


class Venue:
    """Books whatever it gets, as often as it gets it, and shows it a while later."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.booked: list[str] = []
        self.asked: list[str] = []
        self.mood: Literal["well", "answers get lost", "lost on the way", "blind"] = "well"
        self._shown_from: dict[str, float] = {}

    async def submit(self, *, key: str) -> str:
        if self.mood == "lost on the way":
            raise ConnectionResetError
        self.booked.append(key)
        self._shown_from.setdefault(key, self._clock.monotonic() + SETTLE - 1.0)
        if self.mood == "answers get lost":
            raise ConnectionResetError
        return f"placed {key}"

    async def find(self, key: str) -> LookUp[str]:
        self.asked.append(key)
        if self.mood in ("blind", "answers get lost"):
            return UNKNOWN
        is_shown = key in self._shown_from and self._clock.monotonic() >= self._shown_from[key]
        return Found(f"found {key}") if is_shown else NOT_FOUND


class Machines:
    """Each has a state directory of its own; a bot is started on one, by its number."""

    def __init__(self, path: Path, clock: VirtualClock) -> None:
        self._path = path
        self._clock = clock
        self.store: MemoryStore = Forgetful(clock)
        self.venue = Venue(clock)
        self.bots: list[ErrorRecoveryService] = []
        self.ways: dict[ErrorRecoveryService, Weather] = {}

    def state_dir(self, machine: int) -> Path:
        return self._path / f"machine {machine}" / "state"

    async def start(self, machine: int, **options: Any) -> ErrorRecoveryService:
        """A bot that waits until the account is its own."""
        bot = await self.stands_by(machine, **options)
        await bot.owned()
        return bot

    async def stands_by(self, machine: int, **options: Any) -> ErrorRecoveryService:
        bot = self.make(machine, **options)
        await bot.start()
        return bot

    def make(self, machine: int, **options: Any) -> ErrorRecoveryService:
        way = Weather(self.store)
        bot = ErrorRecoveryService(
            self.state_dir(machine),
            self._path / f"machine {machine}" / "errors",
            store=way,
            owns="account 7",
            process_name=f"bot-{len(self.bots)}",
            clock=self._clock,
            **options,
        )
        self.bots.append(bot)
        self.ways[bot] = way
        return bot

    async def order(self, key: str, bot: ErrorRecoveryService, **options: Any) -> str:
        orders = bot.service("orders", effect="unsafe", max_retries=0)
        once = orders.once(key, confirm=self.venue.find, key_argument="key", settle=SETTLE, **options)
        return await once.call(self.venue.submit)

    async def stops(self, bot: ErrorRecoveryService) -> None:
        """In good order; the next life knows nothing but what is on the disk."""
        await bot.aclose()
        self.bots.remove(bot)
        journals._journals.pop(str(bot._journal.directory), None)

    async def dies(self, bot: ErrorRecoveryService) -> None:
        """The store hears of it no more, and its lease is over."""
        self.ways[bot].turn("away")
        await asyncio.sleep(40.0)


def told(bot: ErrorRecoveryService) -> str | None:
    health = bot.get_health_status()
    assert health["overall_health"] == "healthy", "it is no trouble"
    elsewhere: str | None = health["journal"]["owned_elsewhere"]
    return elsewhere


@pytest_asyncio.fixture
async def machines(tmp_path: Path, clock: VirtualClock) -> AsyncIterator[Machines]:
    machines = Machines(tmp_path, clock)
    yield machines
    for way in machines.ways.values():
        way.turn("fair")
    for bot in machines.bots:
        await bot.aclose()


@pytest.mark.parametrize("share_state", [False, True])
async def test_what_a_dead_owner_has_sent_its_successor_on_another_machine_finds(
    machines: Machines, *, share_state: bool
) -> None:
    """Whether its answer was lost, or only the one who knew it; and nothing had been saved since."""
    first, venue = await machines.start(1, share_state=share_state), machines.venue
    assert await machines.order("K-1", first) == "placed K-1"
    venue.mood = "answers get lost"
    with pytest.raises(OutcomeUnknownError):
        await machines.order("K-2", first)
    assert venue.asked.count("K-1") == 0, "the first owner of all knows everything that was sent"
    venue.mood = "well"
    await machines.dies(first)

    second = await machines.start(2, share_state=share_state)
    await second.restore_state()
    assert await second.reconcile() == [], "nobody here knows of them"
    assert await machines.order("K-1", second) == "found K-1"
    assert await machines.order("K-2", second) == "found K-2"
    assert venue.booked == ["K-1", "K-2"]
    assert "another journal" in str(told(second))


async def test_what_is_not_found_is_sent_and_only_behind_the_window_that_began_with_the_take_over(
    machines: Machines, clock: VirtualClock
) -> None:
    """The former owner may have sent it in its last moment; later a key costs one question and no wait."""
    await machines.stops(await machines.start(1))
    second, venue = await machines.start(2), machines.venue
    began = clock.monotonic()
    assert await machines.order("K-1", second) == "placed K-1"
    assert SETTLE <= clock.monotonic() - began <= SETTLE + 1.0
    venue.asked.clear()
    began = clock.monotonic()
    assert await machines.order("K-2", second) == "placed K-2"
    assert (venue.asked, clock.monotonic() - began) == (["K-2"], pytest.approx(0.0, abs=0.1))
    venue.asked.clear()
    assert await machines.order("K-3", second) == "placed K-3"
    assert venue.booked == ["K-1", "K-2", "K-3"]


async def test_the_window_is_longer_by_what_an_attempt_may_take(
    machines: Machines, clock: VirtualClock
) -> None:
    """One that the former owner had under way when it lost the account goes on, as here."""
    await machines.stops(await machines.start(1))
    second = await machines.start(2)
    orders = second.service("slow", effect="unsafe", max_retries=0, timeout=20.0)
    once = orders.once("K-1", confirm=machines.venue.find, key_argument="key", settle=SETTLE)
    began = clock.monotonic()
    await once.call(machines.venue.submit)
    assert clock.monotonic() - began >= SETTLE + 19.0


async def test_where_nobody_can_tell_it_is_not_sent(machines: Machines) -> None:
    """The venue gives no answer that proves anything: its outcome is unknown, as of any order."""
    first = await machines.start(1)
    await machines.order("K-1", first)
    await machines.dies(first)
    second = await machines.start(2)
    machines.venue.mood = "blind"
    with pytest.raises(OutcomeUnknownError):
        await machines.order("K-1", second)
    machines.venue.mood = "well"
    assert await machines.order("K-1", second) == "found K-1"
    assert machines.venue.booked == ["K-1"]


async def test_keys_that_once_makes_itself_need_no_look_up(machines: Machines) -> None:
    """Nobody else can have sent them."""
    await machines.stops(await machines.start(1))
    second, venue = await machines.start(2), machines.venue
    orders = second.service("orders", effect="unsafe", max_retries=0)
    await orders.once(confirm=venue.find, key_argument="key", settle=SETTLE).call(venue.submit)
    assert (len(venue.booked), venue.asked) == (1, [])


@pytest.mark.parametrize("key_argument", [True, False])
async def test_key_that_once_made_and_the_owner_in_between_has_sent_is_found(
    machines: Machines, *, key_argument: bool
) -> None:
    """It was refused here, given to the owner, as the docs say, and called again when the account had come back."""
    first, venue = await machines.start(1), machines.venue
    orders = first.service("orders", effect="unsafe", max_retries=0)
    once: Any = orders.once(confirm=venue.find, key_argument="key" if key_argument else None, settle=SETTLE)
    arguments = {} if key_argument else {"key": once.key}
    await machines.dies(first)
    with pytest.raises(HaltedError):
        await once.call(venue.submit, **arguments)
    second = await machines.start(2)
    await asyncio.sleep(SETTLE)
    assert await machines.order(once.key, second) == f"placed {once.key}"
    machines.ways[first].turn("fair")
    await machines.stops(second)
    await first.owned()
    assert await once.call(venue.submit, **arguments) == f"found {once.key}"
    assert venue.booked == [once.key]


async def test_key_that_once_makes_behind_the_take_over_needs_no_look_up_on_the_way_back(
    machines: Machines,
) -> None:
    """Only what was made before it may have been sent by the owner in between."""
    first, venue = await machines.start(1), machines.venue
    await machines.dies(first)
    await machines.stops(await machines.start(2))
    machines.ways[first].turn("fair")
    await first.owned()
    orders = first.service("orders", effect="unsafe", max_retries=0)
    await orders.once(confirm=venue.find, key_argument="key", settle=SETTLE).call(venue.submit)
    assert (len(venue.booked), venue.asked) == (1, [])


@pytest.mark.parametrize("machine", [1, 2])
async def test_a_restart_costs_nothing_on_its_own_machine(
    machines: Machines, clock: VirtualClock, machine: int
) -> None:
    """The journal is the one of before. On another one it is not, which stays so over its own restarts."""
    await machines.stops(await machines.start(1))
    again, venue = await machines.start(machine), machines.venue
    await asyncio.sleep(SETTLE)
    await machines.stops(again)
    again = await machines.start(machine)
    began = clock.monotonic()
    await machines.order("K-1", again)
    assert venue.asked == ([] if machine == 1 else ["K-1"])
    assert clock.monotonic() - began < 1.0, "the window began with the take-over, and not with this life"
    assert (told(again) is None) is (machine == 1)


async def test_two_bots_with_one_directory_have_one_journal(machines: Machines) -> None:
    """Whichever of them owns the account knows what the other has sent."""
    first, second = await machines.start(1), await machines.stands_by(1)
    await machines.order("K-1", first)
    await asyncio.sleep(60.0)
    await first.aclose()
    await second.owned()
    await machines.order("K-2", second)
    assert machines.venue.asked == []
    assert told(second) is None


async def test_who_owns_it_again_does_not_know_what_was_sent_meanwhile(machines: Machines) -> None:
    """A to B to A: both ways."""
    first, venue = await machines.start(1), machines.venue
    await machines.order("K-1", first)
    machines.ways[first].turn("away")
    second = await machines.start(2)
    machines.ways[first].turn("fair")
    await asyncio.sleep(SETTLE)
    await machines.order("K-2", second)
    await asyncio.sleep(SETTLE)
    await machines.dies(second)
    await first.owned()
    assert await machines.order("K-2", first) == "found K-2"
    assert venue.booked == ["K-1", "K-2"]
    await machines.stops(first)
    assert told(await machines.start(1)) is not None, "and so it stays"


async def test_what_was_left_pending_here_may_have_been_sent_by_the_owner_in_between(
    machines: Machines,
) -> None:
    """Its own window has long closed, and the venue does not show yet what the other one sent in its last moment."""
    first, venue = await machines.start(1), machines.venue
    venue.mood = "lost on the way"
    once = first.service("orders", effect="unsafe", max_retries=0).once(
        "K-1", confirm=blind, key_argument="key", settle=SETTLE
    )
    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit)
    venue.mood = "well"
    machines.ways[first].turn("away")
    second = await machines.start(2)
    await asyncio.sleep(SETTLE)
    assert await machines.order("K-1", second) == "placed K-1"
    machines.ways[first].turn("fair")
    await second.aclose()
    await first.owned()
    assert await machines.order("K-1", first) == "found K-1"
    assert venue.booked == ["K-1"]


@pytest.mark.parametrize("risk_reducing", [False, True])
async def test_operation_pending_here_that_the_owner_in_between_ran_may_have_run(
    machines: Machines, *, risk_reducing: bool
) -> None:
    """What is known of it here is old, in each life until its end; what begins behind the take-over is not."""
    first = await machines.start(1)

    async def is_interrupted(bot: ErrorRecoveryService, key: str) -> bool:
        op = bot.operation("rebalance", key=key, risk_reducing=risk_reducing)
        with contextlib.suppress(ConnectionError):
            async with op:
                await op.checkpoint(leg=1)
                raise ConnectionError
        return op.may_have_run

    assert [await is_interrupted(first, "day") for _ in range(2)] == [False, False], "nobody else was there"
    await machines.dies(first)
    second = await machines.start(2)
    async with second.operation("rebalance", key="day") as op:
        assert op.may_have_run
    machines.ways[first].turn("fair")
    await machines.stops(second)
    await first.owned()
    assert await is_interrupted(first, "day")
    assert [await is_interrupted(first, "new") for _ in range(2)] == [True, False]
    await machines.stops(first)
    again = await machines.start(1)
    assert [await is_interrupted(again, key) for key in ("day", "new")] == [True, False]
    async with again.operation("rebalance", key="day") as op:
        assert (op.resumed, op.may_have_run, op.progress) == (True, True, {"leg": 1})


async def test_the_third_machine_knows_neither_of_the_two_before(machines: Machines) -> None:
    """A to B to C."""
    for machine in (1, 2):
        bot = await machines.start(machine)
        await machines.order(f"K-{machine}", bot)
        await machines.dies(bot)
    third = await machines.start(3)
    assert [await machines.order(f"K-{number}", third) for number in (1, 2)] == ["found K-1", "found K-2"]
    assert machines.venue.booked == ["K-1", "K-2"]


@pytest.mark.parametrize("key", ["K-1", None])
async def test_an_order_that_waits_for_its_repetition_while_the_account_is_elsewhere_is_not_repeated(
    machines: Machines, key: str | None
) -> None:
    """It was known not to be there, then another owner sent it, and the account came back."""
    first, venue = await machines.start(1), machines.venue
    orders = first.service("orders", effect="unsafe", max_retries=1, base_delay=300.0, max_delay=300.0)
    tries = 0

    async def refused_at_first(*, key: str) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ConnectionRefusedError
        return await venue.submit(key=key)

    once = orders.once(key, confirm=venue.find, key_argument="key", settle=SETTLE)
    repeated = asyncio.ensure_future(once.call(refused_at_first))
    while not tries:  # noqa: ASYNC110 - it begins in a thread of the disk
        await asyncio.sleep(0.1)
    await first._fleet._ownership.give_back()  # type: ignore[union-attr]  # in the middle of its life
    second = await machines.start(2)
    assert await machines.order(once.key, second) == f"placed {once.key}"
    await second.aclose()
    await first.owned()
    with pytest.raises((HaltedError, ConnectionRefusedError)):
        await repeated
    assert venue.booked == [once.key]


@pytest.mark.parametrize("what", ["empty", "another store", "as it was long before"])
async def test_a_store_that_forgot_who_owned_the_account_last_is_not_believed(
    machines: Machines, clock: VirtualClock, what: str
) -> None:
    """The standby had seen that it was another one; or owned it itself before that one."""
    store = machines.store
    assert isinstance(store, Forgetful)
    first = await machines.start(1)
    second = await machines.stands_by(2)
    await asyncio.sleep(60.0)
    if what == "as it was long before":
        await first.aclose()
        await second.owned()
        await store.writes_down()
        await second.aclose()
        await first.start()
        await first.owned()
    await machines.order("K-1", first)
    await machines.stops(second)
    machines.ways[first].turn("away")
    if what == "empty":
        await machines.ways[first].loses_everything()
    elif what == "another store":
        machines.store = MemoryStore(clock=clock)
    else:
        await store.starts_again()
    second = await machines.start(2)
    await asyncio.sleep(SETTLE)
    assert await machines.order("K-1", second) == "found K-1"
    assert machines.venue.booked == ["K-1"]


async def test_an_owner_that_knows_no_identities_leaves_nobody_knowing(machines: Machines) -> None:
    """It is an older shockproof: that it was there is all that it has told."""
    await machines.store.put("owned/account 7", b"start 0\nbot of old")
    bot = await machines.start(1)
    await machines.order("K-1", bot)
    assert machines.venue.asked.count("K-1") > 0


def refuses_the_journal(monkeypatch: pytest.MonkeyPatch, call: str = "create") -> None:
    does: Any = getattr(SystemFiles, call)

    def refuses(layer: SystemFiles, path: Path, **options: Any) -> Any:
        if path.name == IDENTITY_NAME or (call == "create" and "journal" in path.parts):
            raise OSError(5, "Input/output error")
        return does(layer, path, **options)

    monkeypatch.setattr(SystemFiles, call, refuses)


async def identity_in_store(machines: Machines) -> str:
    entry = await machines.store.get("owned/account 7")
    assert entry is not None
    return str(json.loads(entry.value.partition(b"\n")[2])["journal"])


async def test_a_disk_that_does_not_take_the_identity_keeps_nobody_from_owning(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends without `once` needs no journal. The store says that nobody can tell which it is, until the disk takes it."""
    with monkeypatch.context() as full:
        refuses_the_journal(full)
        first = await machines.start(1)

        async def send() -> str:
            return "sent"

        assert await first.service("alerts", effect="unsafe").call(send) == "sent"
        assert await identity_in_store(machines) == ""
    await asyncio.sleep(10.0)
    assert await identity_in_store(machines) != ""


async def test_a_disk_that_could_not_be_read_for_a_moment_leaves_no_trace(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the journal of before after all: what was thought of it until then is forgotten."""
    await machines.stops(await machines.start(1))
    with monkeypatch.context() as unreadable:
        refuses_the_journal(unreadable, "stamp")
        again = await machines.start(1)
        assert told(again) is not None
    await asyncio.sleep(10.0)
    assert told(again) is None
    await machines.order("K-1", again)
    assert machines.venue.asked == []


async def test_an_owner_beside_which_another_one_stands_in_the_store_looks_up(machines: Machines) -> None:
    """The store has lost the last that it acknowledged, its lease among that, and had given it to another one meanwhile."""
    first = await machines.start(1)
    before = await machines.store.get("owned/account 7")
    assert before is not None
    await machines.dies(first)
    second = await machines.start(2)
    await asyncio.sleep(60.0)
    machines.venue.booked.append("K-1")
    machines.venue._shown_from["K-1"] = 0.0
    await machines.store.put(before.key, before.value)
    await machines.store.delete("lease/owner of account 7")
    taken_over = second._journal.times_taken_over
    await asyncio.sleep(10.0)
    assert second._journal.times_taken_over == taken_over + 1
    assert await machines.order("K-1", second) == "found K-1"


@pytest.mark.parametrize("call", ["create", "stamp"])
async def test_what_could_not_be_marked_on_the_disk_is_known_all_the_same(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """There is space again before anybody has asked the disk once more; and behind that the next life knows it, too."""
    first = await machines.start(1)
    await machines.order("K-1", first)
    await machines.dies(first)
    with monkeypatch.context() as full:
        refuses_the_journal(full, call)
        second = await machines.start(2)
        await asyncio.sleep(SETTLE)
    second._journal._again_at = 0.0  # the disk is asked again after a second of the real time
    for _ in range(2):
        assert await machines.order("K-1", second) == "found K-1"
        journals_of_2 = machines.state_dir(2) / "journal"
        await asyncio.sleep(10.0)
        assert (journals_of_2 / INCOMPLETE_NAME).exists()
        await machines.stops(second)
        for segment in journals_of_2.glob("*.wal"):
            segment.unlink()  # that it was found
        (journals_of_2.with_name("journal_position.json")).unlink(missing_ok=True)
        second = await machines.start(2)
    assert machines.venue.booked == ["K-1"]


async def test_a_copy_of_a_state_directory_is_another_journal(machines: Machines) -> None:
    """What its original has sent since is not in it."""
    await machines.stops(await machines.start(1))
    shutil.copytree(machines.state_dir(1), machines.state_dir(2), copy_function=shutil.copy2)
    first = await machines.start(1)
    await machines.order("K-1", first)
    await machines.dies(first)
    assert await machines.order("K-1", await machines.start(2)) == "found K-1"
    assert machines.venue.booked == ["K-1"]


async def test_trust_ends_it(machines: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever knows that nothing of before is open says so once, and each key of the next life is sent at once."""
    await machines.stops(await machines.start(1))
    second = await machines.start(2)
    await machines.order("K-1", second)
    await machines.stops(second)
    machines.venue.asked.clear()
    state_dir = str(machines.state_dir(2))
    assert await asyncio.to_thread(main, ["journal", "verify", "--state-dir", state_dir]) == 0
    shown = capsys.readouterr().out
    assert "It is not all there is: 'account 7' was owned by a process with another journal" in shown
    assert "until: shockproof journal trust" in shown
    assert await asyncio.to_thread(main, ["journal", "trust", "--state-dir", state_dir]) == 0
    assert "counts as new again" in capsys.readouterr().out
    second = await machines.start(2)
    await machines.order("K-2", second)
    assert machines.venue.asked == []
    assert told(second) is None


async def test_what_is_missing_from_a_journal_stays_missing_when_the_account_is_taken_over(
    machines: Machines,
) -> None:
    """One mark tells of both, and each ends with `trust` alone."""
    await machines.stops(await machines.start(1))
    mark = machines.state_dir(2) / "journal" / INCOMPLETE_NAME
    mark.parent.mkdir(parents=True)
    mark.touch()
    second = await machines.start(2)
    health = second.get_health_status()
    assert (health["overall_health"], health["journal"]["incomplete"]) == (
        "degraded",
        "by hand: incomplete.json is empty",
    )
    fields = json.loads(mark.read_text())
    assert (fields["reason"], "since" in fields["owned_elsewhere"]) == (
        "by hand: incomplete.json is empty",
        True,
    )


async def test_one_that_owns_two_accounts_for_the_first_time_knows_all_of_both(
    machines: Machines, clock: VirtualClock
) -> None:
    """That the journal has an identity since the first says nothing of the second."""
    first = await machines.start(1)
    other = ErrorRecoveryService(
        machines.state_dir(1),
        machines.state_dir(1) / "errors",
        store=machines.store,
        owns="account 8",
        clock=clock,
    )
    await other.start()
    await other.owned()
    await machines.order("K-1", other)
    assert machines.venue.asked == []
    assert (machines.state_dir(1) / "journal" / IDENTITY_NAME).exists()
    await other.aclose()
    assert told(first) is None


@pytest.mark.parametrize("has_its_own", [False, True])
async def test_take_over_of_one_account_concerns_the_orders_of_another_one_where_both_have_one_journal(
    machines: Machines, clock: VirtualClock, *, has_its_own: bool
) -> None:
    """They are looked up, and the first waits for the window once; with a journal of its own each account is for itself."""
    first, venue = await machines.start(1), machines.venue
    await machines.order("K-1", first)
    for place in (3, 2 if has_its_own else 1):
        other = ErrorRecoveryService(
            machines.state_dir(place),
            machines.state_dir(place) / "errors",
            store=machines.store,
            owns="account 8",
            process_name=f"other on {place}",
            clock=clock,
        )
        await other.start()
        await other.owned()
        if place == 3:
            await other.aclose()
    began = clock.monotonic()
    assert [await machines.order(key, first) for key in ("K-2", "K-3")] == ["placed K-2", "placed K-3"]
    assert sorted(set(venue.asked)) == ([] if has_its_own else ["K-2", "K-3"])
    assert (clock.monotonic() - began >= SETTLE - 1.0) is not has_its_own
    assert venue.booked == ["K-1", "K-2", "K-3"]
    await other.aclose()


async def test_an_operation_that_is_not_known_here_says_that_it_may_have_run(machines: Machines) -> None:
    """It begins from nothing, on the next machine as after damage; what its orders were, their own keys find out."""
    first = await machines.start(1)
    async with first.operation("rebalance", key="2026-11-26") as operation:
        assert not operation.may_have_run
        await machines.order("2026-11-26/AAPL", first)
    await machines.dies(first)
    second = await machines.start(2)
    async with second.operation("rebalance", key="2026-11-26") as operation:
        assert (operation.resumed, operation.may_have_run) == (False, True)
        assert await machines.order("2026-11-26/AAPL", second) == "found 2026-11-26/AAPL"
    with pytest.raises(ZeroDivisionError):
        async with second.operation("hedge", key="2026-11-26"):
            raise ZeroDivisionError
    async with second.operation("hedge", key="2026-11-26") as operation:
        assert (operation.resumed, operation.may_have_run) == (True, False), "this journal knows it"
    assert machines.venue.booked == ["2026-11-26/AAPL"]


async def blind(key: str) -> LookUp[str]:
    return UNKNOWN


class Delays(Weather):
    """What is put as the account's owner waits until it is let through."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.waits = asyncio.Event()
        self.lets_through = asyncio.Event()

    async def put(self, key: str, value: bytes, **options: Any) -> int:
        if key.startswith("owned/"):
            self.waits.set()
            await self.lets_through.wait()
        return await super().put(key, value, **options)


async def test_nothing_is_sent_before_the_store_says_with_which_journal(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next owner would not know that there was one. What comes too late it does not overwrite either."""
    await machines.stops(await machines.start(1))
    monkeypatch.setattr("tests.memory.fleet.test_journal_identity.Weather", Delays)
    starting = asyncio.ensure_future(machines.stands_by(2))
    await asyncio.sleep(0.0)
    monkeypatch.undo()
    second = machines.bots[-1]
    way = machines.ways[second]
    assert isinstance(way, Delays)
    await way.waits.wait()
    with pytest.raises(HaltedError, match="that is being told to the store"):
        await machines.order("K-1", second)
    await asyncio.sleep(20.0)
    third = await machines.start(3)
    await machines.order("K-1", third)
    entry = await machines.store.get("owned/account 7")
    way.lets_through.set()
    await starting
    await asyncio.sleep(30.0)
    assert await machines.store.get("owned/account 7") == entry
    await third.aclose()
    await second.owned()
    assert await machines.order("K-1", second) == "found K-1"
    assert machines.venue.booked == ["K-1"]


class Dies(Weather):
    """At that step the process is killed: before the store has done it, or behind that."""

    at = 0
    is_before = True

    async def _pass(self) -> None:
        await super()._pass()
        if self.steps == Dies.at and Dies.is_before:
            self.kind = "away"
            await super()._pass()

    async def put(self, key: str, value: bytes, **options: Any) -> int:
        version = await super().put(key, value, **options)
        if self.steps == Dies.at:
            self.kind = "away"
            await self._pass()
        return version


@pytest.mark.parametrize("is_before", [True, False])
async def test_whichever_step_of_the_take_over_is_its_last_the_next_life_sends_nothing_blindly(
    tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, *, is_before: bool
) -> None:
    """The identity stands in the store and the mark on the disk, or neither counts."""
    for at in range(1, 40):
        machines = Machines(tmp_path / str(at), clock)
        first = await machines.start(1)
        await machines.order("K-1", first)
        await machines.dies(first)
        Dies.at, Dies.is_before = at, is_before
        with monkeypatch.context() as dies:
            dies.setattr("tests.memory.fleet.test_journal_identity.Weather", Dies)
            killed = await machines.stands_by(2)
        way = machines.ways[killed]
        if way.kind == "fair":  # it took over in fewer steps
            assert killed.get_health_status()["shared"]["owns"]["is_owner"]
        await machines.stops(killed)
        await asyncio.sleep(40.0)
        second = await machines.start(2)
        assert await machines.order("K-1", second) == "found K-1"
        assert machines.venue.booked == ["K-1"]
        for bot in list(machines.bots):
            machines.ways[bot].turn("fair")
            await machines.stops(bot)
        if way.kind == "fair" and way.steps < at:
            break
    assert 5 < at < 39


async def test_after_a_restart_of_the_machine_the_window_begins_once_more_and_not_with_each_life(
    machines: Machines, clock: VirtualClock
) -> None:
    """Nobody can tell how long ago the take-over was: it was before this life, which is written down."""
    clock.boot = "one start"
    await machines.stops(await machines.start(1))
    await machines.stops(await machines.start(2))
    await asyncio.sleep(3600.0)
    clock.boot = "another start"
    second = await machines.start(2)
    waits = asyncio.ensure_future(machines.order("K-1", second))
    await asyncio.sleep(SETTLE / 2)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert machines.venue.booked == []
    await machines.stops(second)
    began = clock.monotonic()
    await machines.order("K-2", await machines.start(2))
    assert SETTLE / 2 - 1.0 <= clock.monotonic() - began <= SETTLE / 2 + 1.0


async def test_a_new_machine_beside_a_store_that_came_back_as_it_was_long_before_looks_up(
    machines: Machines,
) -> None:
    """Who owned the account last is forgotten; that somebody did is not."""
    first = await machines.start(1)
    assert isinstance(machines.store, Forgetful)
    await machines.store.writes_down()
    await machines.order("K-1", first)
    machines.ways[first].turn("away")
    await machines.store.starts_again()
    second = await machines.start(2)
    await asyncio.sleep(SETTLE)
    assert await machines.order("K-1", second) == "found K-1"
    assert machines.venue.booked == ["K-1"]


async def test_who_uses_such_a_journal_without_a_store_looks_up_too(
    machines: Machines, clock: VirtualClock
) -> None:
    """What it does not know does not depend on who asks."""
    first = await machines.start(1)
    await machines.order("K-1", first)
    await machines.dies(first)
    await machines.stops(await machines.start(2))
    state_dir = machines.state_dir(2)
    async with ErrorRecoveryService(state_dir, state_dir / "errors", clock=clock) as alone:
        assert await machines.order("K-1", alone) == "found K-1"
    assert machines.venue.booked == ["K-1"]


async def test_a_take_over_that_is_cancelled_at_any_moment_is_done_anew_and_whole(machines: Machines) -> None:
    """A bot that is closed while it takes the account over, and used again."""
    first = await machines.start(1)
    await machines.order("K-1", first)
    await machines.stops(first)
    await asyncio.sleep(SETTLE)

    async def take_over() -> None:
        bot = machines.make(len(machines.ways) + 1)
        assert bot._ownership is not None
        bot._ownership.is_asked_again(await machines.store.era())
        await bot._ownership.keep(machines.ways[bot])

    cancelled = 0
    async for run in cancel_at_each_await(take_over):
        bot = machines.bots[-1]
        assert run.delay == 0.0
        if run.was_cancelled:
            assert isinstance(run.error, asyncio.CancelledError), run
            cancelled += 1
        await bot.owned()
        assert await machines.order("K-1", bot) == "found K-1"
        await machines.stops(bot)
        await asyncio.sleep(SETTLE)
    assert cancelled > 3
    assert machines.venue.booked == ["K-1"]

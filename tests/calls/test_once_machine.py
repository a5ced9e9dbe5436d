"""
Orders in any order of events: no key is ever booked twice, none is lost, and no verdict is wrong.

A venue that books late, cuts, hangs and answers nonsense; a disk that breaks, hangs and loses its power; crashes, restarts of the
machine, clocks that are set; cancellations at any step; a halt; people who settle by hand. Two services, an order in one of two
symbols, looked up by its key alone, in its own symbol, or by the details that it was journalled with; lives with another configuration than the
one before. A venue's ledger is the judge.

`ORDERS_MACHINE=10000` plays so many histories in place of the usual few.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    AttemptTimeoutError,
    CallInfo,
    CallRejectedError,
    DeadlineExceededError,
    ErrorRecoveryService,
    Found,
    JournalUnavailableError,
    KeyReusedError,
    OperationBusyError,
    OperationCompletedError,
    Outcome,
    OutcomeUnknownError,
    Verdict,
)
from shockproof.memory.journal import journal as journals
from shockproof.memory.journal.journal import Journal, Session, _Request, _sync
from shockproof.memory.journal.name import name_of_sending
from shockproof.memory.journal.operation_table import OperationEntry
from shockproof.memory.journal.record import Kind
from shockproof.memory.journal.sending import is_sending, key_of, service_of
from shockproof.testing import VirtualClock, VirtualTimeLoop
from shockproof.vocabulary.statuses import ErrorSeverity
from tests.memory.disk.simulated_disk import SimulatedDisk, crash_states

TIMEOUT, LATEST, SETTLE, SHORT_SETTLE = 2.0, 4.0, 10.0, 5.0
"""Seconds of an attempt; that a request may be on its way behind its attempt; and of the settle windows."""

HISTORIES = int(os.environ.get("ORDERS_MACHINE", "40"))
LARGE = HISTORIES > 40

if LARGE:
    pytestmark = pytest.mark.timeout(0)  # it takes as long as it takes

HOME = Path("/nowhere")
"""All that would be written there is written to a simulated disk."""

SERVICES = ("orders", "others")
SYMBOLS = ("EUR", "GBP")
KEYS = ("a", "b", "c")
"""The first two always mean the same symbol; the third one is used again for another one, too."""

Place = tuple[str, str]
"""A service, and a key of it."""
PLACES: tuple[Place, ...] = tuple(itertools.product(SERVICES, KEYS))

CONFIRMS = ("of all", "of all", "of its symbol", "of its details")
"""How an order is looked up: whatever its symbol is; in the one that it is for; or in the one that it was journalled with."""
MOODS = (
    "well", "refused", "no", "lost", "answer lost", "late", "late", "late", "slow", "sends at its end", "sends at its end", "hangs",
    "taken", "stubborn",
)  # fmt: skip
LOOK_UPS = ("well", "well", "unknown", "raises", "hangs", "slow")


class RejectedError(Exception):
    """The venue said no."""


def classify(ended_with: object, call: CallInfo) -> Verdict | None:
    if isinstance(ended_with, RejectedError):
        return Verdict(Outcome.NEUTRAL, effect="done" if "taken" in str(ended_with) else "none")
    return None


class Loop(VirtualTimeLoop):
    """Nothing here works outside of it: what holds time elsewhere holds none."""

    def hold_time(self) -> AbstractContextManager[None]:  # type: ignore[override]  # a context manager like the other
        return nullcontext()


class Disk:
    """The thread of a journal, as a part of the loop: each of its turns is a callback, which a hung disk holds back."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.is_hung = self.is_dead = False
        self.waiting: list[Callable[[], object]] = []

    def submit(self, work: Callable[[], object]) -> None:
        self.loop.call_soon(self._run, work)

    def _run(self, work: Callable[[], object]) -> None:
        if self.is_dead:
            return
        if self.is_hung:
            self.waiting.append(work)
        else:
            work()

    def comes_back(self) -> None:
        self.is_hung = False
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            self.submit(work)


class LoopJournal(Journal):
    """A journal without a thread. Its outcomes linger in virtual time, so that a power cut finds them unsynced."""

    def __init__(
        self, home: Path, files: SimulatedDisk, disk: Disk, clock: VirtualClock, numbers: Any
    ) -> None:
        super().__init__(home, layer=files, monotonic=clock.monotonic, segment_bytes=4096)
        self._files._identity = lambda: next(numbers).to_bytes(16, "little")
        self._writer: Any = disk
        self._disk = disk

    def _work_until_idle(self) -> None:
        while not self._queue.empty():
            batch: list[_Request] = []
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            self._deliver(self._commit(batch))
        self._working.release()
        if self._has_unsynced or self._waits_for_the_disk:
            self._disk.loop.call_later(0.02 if self._has_unsynced else 5.0, self._again)

    def _drain(self, timeout: float) -> str | None:
        return None  # its loop has ended before the program does

    def _again(self) -> None:
        if not self._disk.is_dead and (self._has_unsynced or self._waits_for_the_disk):
            self._put(_Request(_sync, needs_open=False))


@dataclass(eq=False)
class Life:
    """One run of the program."""

    recovery: ErrorRecoveryService
    journal: LoopJournal
    files: SimulatedDisk
    disk: Disk
    configuration: Configuration
    calls: list[Call] = field(default_factory=list["Call"])
    reconciliations: list[asyncio.Task[Any]] = field(default_factory=list[asyncio.Task[Any]])
    is_dead: bool = False


@dataclass(eq=False)
class Call:
    """One call of `once`, by whom and for what."""

    life: Life
    service: str
    key: str
    symbol: str
    qty: int
    is_close: bool
    moods: list[str] = field(default_factory=list[str])
    """What the venue does to each of its attempts; then it is well."""
    task: asyncio.Task[Any] | None = None
    is_wanted: bool = True

    @property
    def place(self) -> Place:
        return self.service, self.key


@dataclass
class Booking:
    """An order in the venue's ledger."""

    call: Call
    symbol: str
    qty: int


class Venue:
    """
    Knows every order that it ever took, and each that is on its way to it. The same id twice is two orders.

    Each service is a venue of its own, with a ledger of its own.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.bookings: dict[Place, list[Booking]] = {place: [] for place in PLACES}
        self.on_its_way: Counter[Place] = Counter()
        self.trying: Counter[Place] = Counter()
        self.look_up = "well"
        self.last_tried: dict[Place, float] = {}

    def may_have(self, place: Place) -> bool:
        return bool(self.bookings[place] or self.on_its_way[place] or self.trying[place])

    def _send(self, call: Call, lag: float) -> None:
        if call.life.is_dead:
            return
        self.on_its_way[call.place] += 1
        self.loop.call_later(lag, self._book, call)

    def _book(self, call: Call) -> None:
        self.on_its_way[call.place] -= 1
        self.bookings[call.place].append(Booking(call, call.symbol, call.qty))

    async def submit(self, symbol: str, qty: int, call: Call, *, client_order_id: str) -> dict[str, Any]:
        assert client_order_id == call.key
        assert call.is_wanted or call.life.is_dead, "it was sent although it is not wanted any more"
        self.trying[call.place] += 1
        self.last_tried[call.place] = self.loop.time()
        try:
            return await self._take(call)
        finally:
            self.trying[call.place] -= 1

    async def _take(self, call: Call) -> dict[str, Any]:
        mood = call.moods.pop(0) if call.moods else "well"
        if mood == "refused":
            raise ConnectionRefusedError
        if mood == "stubborn":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3.0)
            await asyncio.sleep(8.0)
            self._send(call, LATEST)
            raise ConnectionResetError
        await asyncio.sleep(0.1)
        if mood == "no":
            raise RejectedError("no")
        if mood == "taken" and self.bookings[call.place]:
            raise RejectedError("taken")
        if mood == "hangs":
            await asyncio.sleep(1e6)
        if mood == "sends at its end":
            await asyncio.sleep(TIMEOUT - 0.15)
        if mood in {"late", "sends at its end"}:
            self._send(call, LATEST)
        elif mood != "lost":
            self._send(call, 0.0)
        await asyncio.sleep(1e6 if mood in {"slow", "sends at its end"} else 0.1)
        if mood in {"lost", "answer lost", "late"}:
            raise ConnectionResetError
        return {"key": call.key, "symbol": call.symbol, "qty": call.qty}

    def confirm(self, which: str, service: str, symbol: str) -> Callable[..., Awaitable[Any]]:
        async def of_all(key: str) -> Any:
            return await self._find((service, key), None)

        async def of_its_symbol(key: str) -> Any:
            return await self._find((service, key), symbol)

        async def of_its_details(key: str, details: Mapping[str, Any]) -> Any:
            return await self._find((service, key), details["symbol"])

        confirms: dict[str, Callable[..., Awaitable[Any]]] = {
            "of all": of_all,
            "of its symbol": of_its_symbol,
            "of its details": of_its_details,
        }
        return confirms[which]

    async def _find(self, place: Place, symbol: str | None) -> Any:
        how = self.look_up
        if how == "unknown":
            return UNKNOWN
        if how == "raises":
            raise ConnectionResetError("the look-up")
        if how == "hangs":
            await asyncio.sleep(1e6)
        found = [one for one in self.bookings[place] if symbol in {None, one.symbol}]
        one = found[0] if found else None
        answer = NOT_FOUND if one is None else Found({"key": place[1], "symbol": one.symbol, "qty": one.qty})
        await asyncio.sleep(3.0 if how == "slow" else 0.05)
        return answer


class Recorded:
    """In place of the error log, whose files have no part in this: notes what went without the journal."""

    def __init__(self, machine: Orders, life: Life) -> None:
        self.machine, self.life = machine, life

    def record(
        self,
        error: BaseException,
        severity: ErrorSeverity,
        service_name: str,
        function_name: str,
        *told: Any,
        **more: Any,
    ) -> None:
        if function_name == "once":
            self.machine.without |= {
                call.place for call in self.life.calls if call.is_close and not self.machine.is_done(call)
            }


WAYS: tuple[dict[str, Any], ...] = (
    {"timeout": TIMEOUT},
    {"timeout": TIMEOUT, "deadline": 9.0},
    {"timeout": TIMEOUT, "grace": 0.5},
    {},
)


@dataclass(frozen=True)
class Configuration:
    """What a life may do otherwise than the one before."""

    registers: str | None = "of all"
    """How all orders of a service are looked up; None: nobody says so before they are placed."""
    settle: float = SETTLE
    max_retries: int = 2
    rate_limit: str | None = None


CONFIGURATIONS = (
    Configuration(), Configuration(), Configuration("of its details"), Configuration(None),
    Configuration(settle=SHORT_SETTLE, max_retries=0), Configuration(None, SHORT_SETTLE, rate_limit="5/s"),
)  # fmt: skip


class Orders(RuleBasedStateMachine):
    """The rules are what may happen; the checks stand where something is told, and where a life ends."""

    @initialize()
    def start(self) -> None:
        gc.collect()
        self.clock = VirtualClock()
        self.clock.boot = "first"
        self.loop = Loop(self.clock)
        self.boots, self.numbers = itertools.count(), itertools.count(1)
        self.wrong: list[BaseException] = []
        """What was found in a callback of the loop, which tells nobody by itself."""
        self.loop.set_exception_handler(lambda loop, context: self.wrong.append(_found(context)))
        self.venue = Venue(self.loop)
        self.without: set[Place] = set()
        """Closes that went without the journal: a crash may forget them."""
        self.life = self.begin(SimulatedDisk({}, takes=1 << 20))

    # ---- lives

    def begin(self, files: SimulatedDisk, configuration: Configuration = CONFIGURATIONS[0]) -> Life:
        disk = Disk(self.loop)
        journal = LoopJournal(HOME / "journal", files, disk, self.clock, self.numbers)
        journals._journals[str(HOME / "journal")] = journal
        recovery = ErrorRecoveryService(
            HOME, HOME / "errors", clock=self.clock, rng=random.Random(1), max_retries=configuration.max_retries,
            circuit_threshold=4, circuit_timeout=20.0,
        )  # fmt: skip
        assert recovery._journal is journal
        life = Life(recovery, journal, files, disk, configuration)
        recovery._halt._submit = lambda job: job()
        recovery._halt._layer = SimulatedDisk()
        recovery._runtime.recorder = Recorded(self, life)
        if configuration.registers is not None:
            for service in SERVICES:
                confirm = self.venue.confirm(configuration.registers, service, "")
                handle = self.handle(life, service, {}, is_close=False)
                handle.once(confirm=confirm, settle=configuration.settle)
        return life

    def handle(self, life: Life, service: str, way: dict[str, Any], *, is_close: bool) -> Any:
        handle = life.recovery.service(service, classify=classify, rate_limit=life.configuration.rate_limit)
        return handle.using(risk_reducing=is_close, **way)

    @property
    def running(self) -> list[Call]:
        return [call for call in self.life.calls if not self.is_done(call)] if hasattr(self, "life") else []

    @staticmethod
    def is_done(call: Call) -> bool:
        return call.task is not None and call.task.done()

    def turns(self, number: int) -> None:
        async def wait() -> None:
            for _ in range(number):
                await asyncio.sleep(0)

        self.do(wait())

    def run(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    def do(self, what: Awaitable[Any]) -> Any:
        """Run the loop until this is done; what was found wrong meanwhile is raised."""
        result = self.loop.run_until_complete(what)
        if self.wrong:
            raise self.wrong[0]
        return result

    def kill(self) -> None:
        """Nothing of this life does anything any more; what is on its way at the venue's side goes on."""
        self.life.is_dead = self.life.disk.is_dead = True

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            while others:
                for task in others:
                    task.cancel()
                await asyncio.wait(others, timeout=10.0)
                others = asyncio.all_tasks() - {asyncio.current_task()}

        self.do(end())
        self.venue.trying.clear()

    # ---- what is told

    def over(self, call: Call, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if call.life.is_dead or task.cancelled():
            return
        venue, key = self.venue, call.place
        booked = venue.bookings[key]
        by_this = [one for one in booked if one.call is call]
        is_known = key not in self.without
        if error is None:
            assert task.result() == {"key": call.key, "symbol": call.symbol, "qty": call.qty}, (
                "another order was taken for this one"
            )
            assert booked, f"{key} was called placed and is not there"
        elif isinstance(error, OperationBusyError):
            others = [other for other in call.life.calls if other.place == key and other is not call]
            assert others or call.life.reconciliations, "nobody sends it, and nobody looks it up"
        elif isinstance(error, KeyReusedError):
            told = {
                name
                for one in booked
                for name in ("qty", "symbol")
                if getattr(one, name) != getattr(call, name)
            }
            assert told, "nothing with this key is another order"
            assert told.issuperset(error.differs)
            assert not by_this
        elif isinstance(error, OperationCompletedError):
            assert booked, f"{key} was called placed and is not there"
            assert not by_this
        elif isinstance(error, OutcomeUnknownError):
            if is_known:
                entry = self.known(call.life, key)
                assert entry is not None, f"{key} is unknown, and the journal knows nothing of it"
        elif isinstance(error, JournalUnavailableError | CallRejectedError):
            assert not by_this, f"{key} was called not sent and is there"
        else:
            certain = (
                RejectedError,
                ConnectionRefusedError,
                ConnectionResetError,
                AttemptTimeoutError,
                DeadlineExceededError,
            )
            assert isinstance(error, certain), repr(error)
            assert not by_this, f"{key} was called not placed and is there"
            # Others may send it right behind this one's end.
            if (
                is_known
                and not venue.trying[key]
                and all(self.is_done(one) for one in call.life.calls if one.place == key)
            ):
                assert not venue.may_have(key), f"{key} was called not placed and may be there: {error!r}"

    def reconciled(self, life: Life, began: float, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if life.is_dead or task.cancelled():
            return
        if error is not None:
            assert isinstance(error, JournalUnavailableError), repr(error)
            return
        for one in task.result():
            place = one.service_name, one.key
            is_stale = self.venue.last_tried.get(place, 0.0) >= began
            if isinstance(one.outcome, Found):
                assert self.venue.bookings[place]
            elif one.outcome is NOT_FOUND and not is_stale:
                assert not self.venue.may_have(place), f"{place} was called not there, and it comes"

    def known(self, life: Life, place: Place) -> OperationEntry | None:
        return life.journal._files.table.get(name_of_sending(*place))

    def check_ledger(self) -> None:
        for key, booked in self.venue.bookings.items():
            if key not in self.without:
                assert len(booked) <= 1, f"{key} is there {len(booked)} times"
            in_a_life = Counter(id(one.call.life) for one in booked)
            assert not [count for count in in_a_life.values() if count > 1], (
                f"{key} was sent twice by one life"
            )

    def check_journal(self, life: Life) -> None:
        """What a new life finds: each order that is there, or may come, and nothing that is not."""
        for key in PLACES:
            entry = self.known(life, key)
            if self.venue.may_have(key) and key not in self.without:
                assert entry is not None, (
                    f"{key} is lost: it is there, or may come, and the journal does not know it"
                )
            if entry is not None and entry.is_completed:
                assert self.venue.bookings[key], f"{key} is completed in the journal and not there"

    # ---- rules

    @rule(
        service=st.sampled_from(["orders", "orders", "others"]), key=st.sampled_from(KEYS), is_other=st.booleans(),
        confirm=st.sampled_from(CONFIRMS), settle=st.sampled_from([SETTLE, SETTLE, SHORT_SETTLE]), qty=st.sampled_from([1, 1, 1, 2]), way=st.sampled_from(WAYS),
        moods=st.lists(st.sampled_from(MOODS), min_size=1, max_size=3), is_close=st.sampled_from([False, False, False, True]),
        valid_for=st.sampled_from([None, None, None, 1.5, 15.0]), turns=st.integers(0, 12),
        look_up=st.sampled_from([None, None, *LOOK_UPS]), seconds=st.sampled_from([0.0, 0.0, 0.15, 2.2, 14.0]),
    )  # fmt: skip
    def place(
        self,
        service: str,
        key: str,
        is_other: bool,
        confirm: str,
        settle: float,
        qty: int,
        way: dict[str, Any],
        moods: list[str],
        is_close: bool,
        valid_for: float | None,
        turns: int,
        look_up: str | None,
        seconds: float,
    ) -> None:
        if look_up is not None:
            self.venue.look_up = look_up
        if "grace" not in way:
            moods = [mood for mood in moods if mood != "stubborn"]
        if not way:
            moods = [mood for mood in moods if mood not in {"hangs", "slow", "sends at its end"}]
        symbol = SYMBOLS[is_other if key == "c" else KEYS.index(key)]
        if key == "c" and confirm == "of its symbol":
            confirm = "of its details"  # one that looks elsewhere has nothing to say about an earlier order
        details = {"symbol": symbol} if key == "c" or confirm == "of its details" else None
        call = Call(self.life, service, key, symbol, qty, is_close, list(moods))
        until = None if valid_for is None else datetime.fromtimestamp(self.clock.time() + valid_for, UTC)
        once = self.handle(self.life, service, way, is_close=is_close).once(
            key, confirm=self.venue.confirm(confirm, service, symbol), details=details,
            key_argument="client_order_id", settle=settle, valid_until=until, still_wanted=lambda: call.is_wanted,
        )  # fmt: skip
        call.task = self.loop.create_task(once.call(self.venue.submit, symbol, qty, call))
        call.task.add_done_callback(lambda task: self.over(call, task))
        self.life.calls.append(call)
        self.turns(turns)
        if seconds:
            self.time_passes(seconds)

    @rule(service=st.sampled_from(SERVICES), key=st.sampled_from(KEYS), is_other=st.booleans())
    def an_order_is_left_unknown(self, service: str, key: str, is_other: bool) -> None:
        """It is there, and no look-up has said so."""
        self.place(
            service=service, key=key, is_other=is_other, confirm="of its details", settle=SETTLE, qty=1, way=WAYS[0],
            moods=["answer lost"], is_close=False, valid_for=None, turns=0, look_up="raises", seconds=40.0,
        )  # fmt: skip

    @rule(service=st.sampled_from(SERVICES), mood=st.sampled_from(MOODS))
    def a_key_is_used_again_for_another_symbol(self, service: str, mood: str) -> None:
        """What is known of it was sent for the symbol that the journal says."""
        booked = self.venue.bookings[service, "c"]
        self.place(
            service=service, key="c", is_other=bool(booked and booked[0].symbol == SYMBOLS[0]), confirm="of its details",
            settle=SETTLE, qty=1, way=WAYS[0], moods=[mood], is_close=False, valid_for=None, turns=0, look_up="well", seconds=14.0,
        )  # fmt: skip

    @rule(turns=st.integers(1, 20))
    def a_few_steps(self, turns: int) -> None:
        self.turns(turns)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.15, 1.0, 2.0, 2.5, 5.0, 12.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(seconds)
        self.check_ledger()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), turns=st.integers(0, 3))
    def the_caller_is_cancelled(self, data: st.DataObject, turns: int) -> None:
        running = self.running
        call = running[data.draw(st.integers(0, len(running) - 1), "call")]
        assert call.task is not None
        call.task.cancel()
        self.turns(turns)

    @precondition(lambda self: self.running)
    @rule()
    def nothing_is_wanted_any_more(self) -> None:
        for call in self.life.calls:
            if not self.venue.trying[call.place]:
                call.is_wanted = False

    @rule(turns=st.integers(0, 5), look_up=st.sampled_from(LOOK_UPS))
    def reconcile(self, turns: int, look_up: str = "well") -> None:
        self.venue.look_up = look_up
        life, began = self.life, self.loop.time()
        task = self.loop.create_task(life.recovery.reconcile())
        task.add_done_callback(lambda done: self.reconciled(life, began, done))
        life.reconciliations.append(task)
        self.turns(turns)

    @precondition(
        lambda self: hasattr(self, "life") and any(not task.done() for task in self.life.reconciliations)
    )
    @rule()
    def reconciliation_is_cancelled(self) -> None:
        for task in self.life.reconciliations:
            task.cancel()

    @rule(failing=st.sampled_from([None, 1, 2, 10_000]))
    def disk_refuses(self, failing: int | None) -> None:
        """From now on so many calls, or none any more."""
        files, begun = self.life.files, self.life.files.calls
        files.fails = (
            (lambda call, what: False) if failing is None else (lambda call, what: call <= begun + failing)
        )

    @rule()
    def disk_hangs(self) -> None:
        self.life.disk.is_hung = True

    @rule()
    def disk_comes_back(self) -> None:
        self.life.files.fails = lambda call, what: False
        self.life.disk.comes_back()

    @rule(is_halted=st.booleans())
    def halt_or_resume(self, is_halted: bool) -> None:
        change = self.life.recovery.halt("a test") if is_halted else self.life.recovery.resume()
        self.do(_await(change))

    @rule(seconds=st.sampled_from([-3600.0, -5.0, 5.0, 86_400.0]))
    def wall_clock_is_set(self, seconds: float) -> None:
        self.clock.step_wall(seconds)

    @precondition(lambda self: hasattr(self, "life") and not sum(self.venue.trying.values()))
    @rule(seconds=st.sampled_from([0.5, 1.5, 60.0]))
    def loop_stands_still(self, seconds: float) -> None:
        """Not while an attempt runs: what it does then is its own."""
        self.clock.advance(seconds)

    @rule(
        power=st.sampled_from([None, None, 0, 1, 5, 30]), machine=st.booleans(), reconciles=st.booleans(),
        before=st.sampled_from([0.0, 0.0, 0.15, 2.2]), configuration=st.sampled_from(CONFIGURATIONS),
    )  # fmt: skip
    def crash(
        self,
        power: int | None,
        machine: bool,
        reconciles: bool = False,
        before: float = 0.0,
        configuration: Configuration = CONFIGURATIONS[0],
    ) -> None:
        """The process is killed, or the power fails and the disk keeps any part of what was not synced."""
        if before:
            self.run(before)
        files = self.life.files
        left = files.files()
        if power is not None:
            states = list(itertools.islice(crash_states(files, len(files.steps)), power + 1))
            left = states[-1]
        self.kill()
        if power is not None or machine:
            self.clock.boot = f"boot {next(self.boots)}"
        self.life = self.begin(SimulatedDisk(left, takes=1 << 20), configuration)
        self.check_ledger()
        self.open_and_check()
        if reconciles:
            self.reconcile(0)

    @rule(configuration=st.sampled_from(CONFIGURATIONS))
    def orderly_restart(self, configuration: Configuration) -> None:
        life = self.life
        self.disk_comes_back()
        for call in life.calls:
            assert call.task is not None
            call.task.cancel()
        self.reconciliation_is_cancelled()
        self.run(0.5)
        if any(life.recovery.service(service).plan.state.abandoned_attempts for service in SERVICES):
            return  # the journal stays owned until they have ended
        self.do(life.recovery._sendings.stop())
        self.do(life.journal.aclose())
        assert not life.journal._files.is_open, f"it is held by {dict(life.journal.claims._holders)}"
        self.kill()
        self.life = self.begin(SimulatedDisk(life.files.files(), takes=1 << 20), configuration)
        self.open_and_check()

    def open_and_check(self) -> None:
        """The journal is opened by the first that asks for it."""

        async def look() -> None:
            await self.life.journal.ask(lambda session: None)

        self.do(look())
        self.check_journal(self.life)

    @precondition(lambda self: hasattr(self, "life") and not self.venue.on_its_way.total())
    @rule(data=st.data())
    def somebody_settles_by_hand(self, data: st.DataObject) -> None:
        """While the program is down, and knowing what the venue has."""
        self.crash(None, machine=False)
        pending = [entry for entry in self.life.journal._files.table.pending() if is_sending(entry)]
        if not pending:
            return
        entry = pending[data.draw(st.integers(0, len(pending) - 1), "order")]
        is_there = bool(self.venue.bookings[service_of(entry), key_of(entry)])

        def act(session: Session) -> None:
            session.require(
                Kind.END,
                {
                    "operation": entry.name.operation,
                    "key": entry.name.key,
                    "status": "completed" if is_there else "abandoned",
                    "at": self.clock.time(),
                    "result": None,
                    "resolved": {"outcome": "found" if is_there else "absent", "by": "me"},
                },
            )

        async def settle() -> None:
            await self.life.journal.ask(act)
            await self.life.journal.aclose()

        self.do(settle())

    # ---- the end

    def teardown(self) -> None:
        if not hasattr(self, "life"):
            return
        try:
            self.all_comes_out()
        finally:
            with contextlib.suppress(Exception):
                self.kill()
            self.loop.close()

    def all_comes_out(self) -> None:
        """In the end everything works again: nothing stays pending, and whoever places all of it again has each order once."""
        self.venue.look_up = "well"
        self.crash(None, machine=False)
        settled = self.do(self.life.recovery.reconcile())
        assert not [one for one in settled if one.outcome is UNKNOWN], settled
        assert not list(self.life.journal._files.table.pending())
        self.check_ledger()
        for place in PLACES:
            service, key = place
            booked = self.venue.bookings[place]
            symbol, qty = (booked[0].symbol, booked[0].qty) if booked else (SYMBOLS[0], 1)
            call = Call(self.life, service, key, symbol, qty, is_close=False)
            once = self.handle(self.life, service, WAYS[0], is_close=False).once(
                key,
                confirm=self.venue.confirm("of all", service, symbol),
                key_argument="client_order_id",
                settle=SETTLE,
            )
            with contextlib.suppress(OperationCompletedError):
                self.do(once.call(self.venue.submit, symbol, qty, call))
            assert self.venue.bookings[place]
        self.check_ledger()


def _found(context: dict[str, Any]) -> BaseException:
    error = context.get("exception")
    return error if isinstance(error, BaseException) else AssertionError(context["message"])


async def _await(change: Any) -> None:
    await change


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The journal says so each time that a disk refuses. And what is forgotten is not found by the collector by chance."""
    caplog.set_level(logging.CRITICAL + 1, "shockproof")
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


TestOrders = Orders.TestCase
TestOrders.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=60 if LARGE else 30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

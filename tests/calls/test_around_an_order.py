"""Calls around an order: nothing they do makes another one while nobody knows what became of the first."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    AttemptTimeoutError,
    BulkheadFullError,
    CallRejectedError,
    ErrorRecoveryService,
    Found,
    Handle,
    LookUp,
    OperationBusyError,
    OperationCompletedError,
    Outcome,
    OutcomeUnknownError,
    attempts_of,
)
from shockproof.testing import VirtualClock
from shockproof.vocabulary.clock import Clock, SystemClock

Booked = dict[str, str]
Place = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture
def recovery(tmp_path: Path, clock: VirtualClock) -> ErrorRecoveryService:
    return ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", base_delay=0.5, circuit_threshold=50, clock=clock
    )


class Desk:
    """Places orders, each with a key of its own, at a venue that books at once and answers after a while, if at all."""

    def __init__(self, recovery: ErrorRecoveryService, clock: Clock, *, takes: float = 100.0) -> None:
        self.clock = clock
        self.takes = takes
        self.loses = False
        self.is_closed = False
        self.is_seen = True
        self.booked: list[str] = []
        self.recovery = recovery
        self.trading = recovery.service("trading", max_retries=0)
        self.terms: dict[str, Any] = {}
        self.under_way: asyncio.Task[Booked] | None = None

    async def submit(self, client_order_id: str) -> Booked:
        if self.is_closed:
            raise ConnectionRefusedError("nobody listens")
        self.booked.append(client_order_id)
        await self.clock.sleep(self.takes)
        if self.loses:
            raise ConnectionResetError("the answer is lost")
        return {"id": client_order_id}

    async def blindly(self) -> Booked:
        return await self.submit("without once")

    async def find(self, key: str) -> LookUp[Booked]:
        if not self.is_seen:
            return UNKNOWN
        return Found({"id": key}) if key in self.booked else NOT_FOUND

    async def place(self, key: str | None = None) -> Booked:
        once = self.trading.once(
            key, confirm=self.find, key_argument="client_order_id", settle=5.0, **self.terms
        )
        return await once.call(self.submit)


@pytest.fixture
def desk(recovery: ErrorRecoveryService, clock: VirtualClock) -> Desk:
    return Desk(recovery, clock)


def causes_of(error: BaseException | None) -> list[type[BaseException]]:
    found = list[type[BaseException]]()
    while error is not None:
        found.append(type(error))
        error = error.__cause__
    return found


async def in_attempts(handle: Handle, place: Place) -> None:
    async for attempt in handle.attempts():
        async with attempt:
            await place()


async def in_a_group(place: Place) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(place())


async def in_a_group_of_anyio(place: Place) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(place)


async def in_wait(place: Place) -> None:
    await asyncio.wait({asyncio.ensure_future(place())})


async def in_time(place: Place) -> None:
    async with asyncio.timeout(1.0):
        await place()


async def in_time_of_anyio(place: Place) -> None:
    with anyio.fail_after(1.0):
        await place()


async def given_up(place: Place) -> None:
    with anyio.move_on_after(1.0) as scope:
        await place()
    if scope.cancelled_caught:
        raise ConnectionError("too slow")


async def with_an_error_of_its_own(place: Place) -> None:
    try:
        async with asyncio.timeout(1.0):
            await place()
    except TimeoutError:
        raise ValueError("not placed, as far as is known") from None


async def as_completed(place: Place, timeout: float | None = None) -> None:
    for first in asyncio.as_completed([place()], timeout=timeout):
        await first


async def behind_an_event(place: Place) -> None:
    has_ended = asyncio.Event()
    placing = asyncio.create_task(place())
    placing.add_done_callback(lambda _: has_ended.set())
    await has_ended.wait()


async def behind_a_condition(place: Place) -> None:
    condition = asyncio.Condition()

    async def places() -> None:
        await place()
        async with condition:
            condition.notify_all()

    placing = {asyncio.create_task(places())}
    async with condition:
        await condition.wait_for(lambda: all(one.done() for one in placing))


async def given_up_beside_it(place: Place) -> None:
    placing = [asyncio.create_task(place())]
    try:
        async with asyncio.timeout(1.0):
            await asyncio.Event().wait()
    except TimeoutError:
        raise ConnectionError(f"too slow: {len(placing)}") from None


CUT_OFF: dict[str, tuple[dict[str, Any], Callable[[Place], Awaitable[Any]]]] = {
    "timeout": ({"timeout": 1.0}, lambda place: place()),
    "deadline": ({"deadline": 1.0}, lambda place: place()),
    "timeout and grace": ({"timeout": 1.0, "grace": 1.0}, lambda place: place()),
    "timeout around gather": ({"timeout": 1.0}, lambda place: asyncio.gather(place(), asyncio.sleep(50.0))),
    "timeout around a group": ({"timeout": 1.0}, in_a_group),
    "timeout around a group of anyio": ({"timeout": 1.0}, in_a_group_of_anyio),
    "timeout around shield": ({"timeout": 1.0}, lambda place: asyncio.shield(asyncio.ensure_future(place()))),
    "timeout around wait": ({"timeout": 1.0}, in_wait),
    "timeout around as_completed": ({"timeout": 1.0}, as_completed),
    "timeout of as_completed": ({}, lambda place: as_completed(place, 1.0)),
    "timeout around an event": ({"timeout": 1.0}, behind_an_event),
    "timeout around a condition": ({"timeout": 1.0}, behind_a_condition),
    "given up beside it": ({}, given_up_beside_it),
    "asyncio.timeout": ({}, in_time),
    "asyncio.wait_for": ({}, lambda place: asyncio.wait_for(place(), 1.0)),
    "anyio.fail_after": ({}, in_time_of_anyio),
    "anyio.move_on_after": ({}, given_up),
    "an error of its own": ({}, with_an_error_of_its_own),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("how", CUT_OFF)
@pytest.mark.parametrize("form", ["call", "decorated", "attempts"])
async def test_order_that_a_time_limit_cuts_off_is_final_for_the_call_around_it(
    recovery: ErrorRecoveryService, clock: VirtualClock, desk: Desk, how: str, form: str
) -> None:
    """It may have been placed; a retry or a fallback would place another one, with another key."""
    options, cut_off = CUT_OFF[how]
    elsewhere = Desk(recovery, clock)
    around = recovery.service("strategy", max_retries=3, **options)

    async def strategy() -> None:
        await cut_off(desk.place)

    forms: dict[str, Place] = {
        "call": lambda: around.using(fallback=elsewhere.place).call(strategy),
        "decorated": around(strategy),
        "attempts": lambda: in_attempts(around, strategy),
    }
    with pytest.raises((TimeoutError, ConnectionError, ValueError)) as caught:
        await forms[form]()

    await clock.sleep(300.0)
    assert (len(desk.booked), elsewhere.booked) == (1, [])
    assert causes_of(caught.value)[-1] is OutcomeUnknownError
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert recovery.get_error_summary()["errors_by_severity"]["critical"] >= 1


@pytest.mark.asyncio
async def test_error_of_a_call_around_an_order_cut_off_names_the_order(
    recovery: ErrorRecoveryService, desk: Desk
) -> None:
    """So that whoever gets it can place it again with its key."""
    with pytest.raises(AttemptTimeoutError) as caught:
        await recovery.service("strategy", timeout=1.0).call(desk.place)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, OutcomeUnknownError):
        error = error.__cause__
    assert isinstance(error, OutcomeUnknownError)
    assert ([error.key], error.service_name) == (desk.booked, "trading")
    assert any("may have been placed" in note for note in caught.value.__notes__)


@pytest.mark.asyncio
async def test_order_left_behind_by_the_grace_of_a_call_around_it_is_final(
    recovery: ErrorRecoveryService, clock: VirtualClock, desk: Desk
) -> None:
    """It still runs when the call has ended."""

    async def stubborn() -> None:
        placing = asyncio.ensure_future(desk.place())
        while not placing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(placing)

    with pytest.raises(AttemptTimeoutError):
        await recovery.service("strategy", timeout=1.0, grace=1.0).call(stubborn)
    await clock.sleep(300.0)
    assert len(desk.booked) == 1


@pytest.mark.asyncio
async def test_order_that_was_certainly_not_sent_is_tried_again_by_the_call_around_it(
    recovery: ErrorRecoveryService, clock: VirtualClock, desk: Desk
) -> None:
    """Its time was up before: that is a timeout like any other."""
    waits = [10.0, 0.0]
    desk.takes = 0.0

    async def strategy() -> Booked:
        await clock.sleep(waits.pop(0))
        return await desk.place()

    placed = await recovery.service("strategy", timeout=1.0, max_retries=1).call(strategy)
    assert desk.booked == [placed["id"]]


@pytest.mark.asyncio
async def test_order_that_waits_for_its_turn_when_its_time_is_up_is_tried_again(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It stood in the queue of its service: nothing was sent, or left pending."""
    desk = Desk(recovery, clock, takes=2.0)
    desk.trading = recovery.service("narrow", max_retries=0, max_concurrent=1, max_queue=5)
    first = asyncio.ensure_future(desk.place("bot-1"))
    await clock.sleep(0.5)
    desk.takes = 0.5

    placed = await recovery.service("strategy", timeout=1.0, max_retries=1, base_delay=5.0).call(desk.place)
    await first
    assert desk.booked == ["bot-1", placed["id"]]
    state = await recovery.restore_state()
    assert state is None or state.active_operations == []


@pytest.mark.asyncio
async def test_order_proven_not_placed_is_tried_again_by_the_call_around_it(
    recovery: ErrorRecoveryService, desk: Desk
) -> None:
    """A refused connection is a proof, for whoever is around as well."""
    desk.is_closed, desk.takes = True, 0.0

    async def strategy() -> Booked:
        try:
            return await desk.place()
        finally:
            desk.is_closed = False

    placed = await recovery.service("strategy", max_retries=1).call(strategy)
    assert desk.booked == [placed["id"]]


@pytest.mark.asyncio
@pytest.mark.parametrize("key", [None, "bot-1"])
async def test_call_that_fails_behind_an_order_it_placed_is_repeated_only_with_a_key_of_the_users(
    recovery: ErrorRecoveryService, clock: VirtualClock, key: str | None
) -> None:
    """A repetition makes a new key where the user gave none, and so another order."""
    desk, began = Desk(recovery, clock, takes=1.0), 0

    async def strategy() -> None:
        nonlocal began
        began += 1
        await desk.place(key)
        raise ConnectionError("what comes behind it")

    around = recovery.service("strategy", max_retries=2, fallback=desk.place if key is None else "none")
    with contextlib.suppress(ConnectionError):
        await around.call(strategy)
    assert len(desk.booked) == 1
    assert began == (1 if key is None else 3)


@pytest.mark.asyncio
async def test_read_behind_an_order_is_repeated(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """An order that was there before the call began is not inside of it, whatever became of it."""
    desk, asked = Desk(recovery, clock, takes=1.0), 0
    await desk.place()
    desk.loses, desk.is_seen = True, False
    with pytest.raises(OutcomeUnknownError):
        await desk.place()

    async def fetch() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise ConnectionError("no")
        return "answer"

    assert await recovery.service("market").call(fetch) == "answer"


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["OutcomeUnknownError", "asyncio.timeout"])
async def test_fallback_whose_order_is_unknown_is_the_last_one_asked(
    recovery: ErrorRecoveryService, clock: VirtualClock, desk: Desk, how: str
) -> None:
    """The next one would place another order, and a value would hide this one."""
    third = Desk(recovery, clock)
    desk.takes, desk.loses, desk.is_seen = 2.0, True, False

    async def second() -> None:
        await (in_time(desk.place) if how == "asyncio.timeout" else desk.place())

    async def refused() -> None:
        raise ConnectionRefusedError("nobody listens")

    around = recovery.service("strategy", max_retries=0, fallback=[second, third.place, "none"])
    with pytest.raises((OutcomeUnknownError, TimeoutError)):
        await around.call(refused)
    assert (len(desk.booked), third.booked) == (1, [])


@pytest.mark.asyncio
@pytest.mark.parametrize("first_waits", [0.0, 5.0])
async def test_hedged_call_around_an_order_places_one(
    recovery: ErrorRecoveryService, clock: VirtualClock, first_waits: float
) -> None:
    """Whichever of its requests comes to its order first: the other one is refused before it sends."""
    desk, waits = Desk(recovery, clock, takes=10.0), [first_waits, 1.0]
    refused = list[str]()

    async def strategy() -> Booked:
        await clock.sleep(waits.pop(0))
        try:
            return await desk.place()
        except CallRejectedError as error:
            refused.append(error.policy)
            raise

    placed = await recovery.service("strategy", hedge_after=0.5).call(strategy)

    await clock.sleep(100.0)
    assert desk.booked == [placed["id"]]
    assert refused == (["hedge"] if first_waits else [])
    assert len(waits) == (0 if first_waits else 1)


@pytest.mark.asyncio
async def test_hedged_call_whose_order_is_unknown_is_final(
    recovery: ErrorRecoveryService, clock: VirtualClock, desk: Desk
) -> None:
    """Also where the other request was refused before."""
    desk.takes, desk.loses, desk.is_seen = 10.0, True, False
    waits, elsewhere = [5.0, 1.0, 0.0, 0.0], Desk(recovery, clock)

    async def strategy() -> Booked:
        await clock.sleep(waits.pop(0))
        return await desk.place()

    around = recovery.service("strategy", hedge_after=0.5, max_retries=2, fallback=elsewhere.place)
    with pytest.raises((OutcomeUnknownError, CallRejectedError)):
        await around.call(strategy)
    assert (len(desk.booked), elsewhere.booked) == (1, [])


async def with_a_fallback(recovery: ErrorRecoveryService, place: Place, elsewhere: Desk) -> Any:
    return await recovery.service("with a fallback", max_retries=0, fallback=elsewhere.blindly).call(place)


async def as_a_fallback(recovery: ErrorRecoveryService, place: Place, elsewhere: Desk) -> Any:
    async def fails() -> None:
        raise ConnectionError("no price")

    inner = recovery.service("first of two", max_retries=0, fallback=[place, elsewhere.blindly])
    return await inner.call(fails)


async def in_words_of_its_own(recovery: ErrorRecoveryService, place: Place, elsewhere: Desk) -> Any:
    async def says() -> Any:
        try:
            return await place()
        except CallRejectedError as error:
            raise ValueError("not placed") from error

    return await with_a_fallback(recovery, says, elsewhere)


@pytest.mark.asyncio
@pytest.mark.parametrize("inner", [with_a_fallback, as_a_fallback, in_words_of_its_own])
@pytest.mark.parametrize("loses", [True, False])
async def test_fallback_inside_a_hedged_call_answers_for_no_order_that_gave_way(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    inner: Callable[[ErrorRecoveryService, Place, Desk], Awaitable[Any]],
    *,
    loses: bool,
) -> None:
    """The order of the other request is under way, or unknown: the fallback would place another one."""
    desk, elsewhere, waits = Desk(recovery, clock, takes=10.0), Desk(recovery, clock), [1.0, 1.0]
    desk.loses, desk.is_seen = loses, False

    async def place() -> Booked:
        await clock.sleep(waits.pop(0))
        return await desk.place()

    around = recovery.service("strategy", hedge_after=0.5, max_retries=0)
    with pytest.raises((OutcomeUnknownError, CallRejectedError)) if loses else contextlib.nullcontext():
        await around.call(inner, recovery, place, elsewhere)
    await clock.sleep(100.0)
    assert (len(desk.booked), elsewhere.booked, waits) == (1, [], [])


@pytest.mark.asyncio
async def test_fallback_answers_for_no_order_that_a_repetition_around_it_places(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It was left alone before it was sent, and is refused when its turn comes."""
    desk, elsewhere, is_first = Desk(recovery, clock, takes=1.0), Desk(recovery, clock), True
    desk.trading = recovery.service("narrow", max_retries=0, max_concurrent=1, max_queue=5)
    busy = asyncio.ensure_future(desk.place("bot-0"))
    await clock.sleep(0.1)

    async def fails() -> None:
        await clock.sleep(0.5)
        raise ConnectionError("what stands beside it")

    async def strategy() -> None:
        nonlocal is_first
        placing = with_a_fallback(recovery, desk.place, elsewhere)
        if is_first:
            is_first = False
            await asyncio.gather(placing, fails())
        await placing

    await recovery.service("strategy", max_retries=1).call(strategy)
    await clock.sleep(100.0)
    await busy
    assert (len(desk.booked), elsewhere.booked) == (2, [])


async def was_placed_before(desk: Desk) -> None:
    desk.takes = 0.0
    await desk.place("bot-1")


async def is_another_one(desk: Desk) -> None:
    desk.takes = 0.0

    async def of_another_size(_qty: int, *, client_order_id: str) -> Booked:
        return await desk.submit(client_order_id)

    once = desk.trading.once("bot-1", confirm=desk.find, key_argument="client_order_id")
    await once.call(of_another_size, 7)


async def is_under_way(desk: Desk) -> None:
    desk.under_way = asyncio.create_task(desk.place("bot-1"))
    await desk.clock.sleep(0.1)


async def is_halted(desk: Desk) -> None:
    await desk.recovery.halt("by hand")


async def comes_too_late(desk: Desk) -> None:
    desk.terms["valid_until"] = datetime.fromtimestamp(desk.clock.time() - 1.0, UTC)


async def is_not_wanted(desk: Desk) -> None:
    desk.terms["still_wanted"] = lambda: False


@pytest.mark.asyncio
@pytest.mark.parametrize("form", ["handle", "with_fallback"])
@pytest.mark.parametrize(
    "situation",
    [was_placed_before, is_another_one, is_under_way, is_halted, comes_too_late, is_not_wanted],
)
async def test_fallback_places_no_order_in_the_place_of_one_that_must_not_be_sent(
    recovery: ErrorRecoveryService,
    desk: Desk,
    situation: Callable[[Desk], Awaitable[None]],
    form: str,
) -> None:
    """It is there already, or under way, or nobody wants it: the fallback's order would be one too many."""
    await situation(desk)
    elsewhere, booked = Desk(recovery, desk.clock), len(desk.booked)

    async def strategy() -> Booked:
        return await desk.place("bot-1")

    forms: dict[str, Place] = {
        "handle": lambda: recovery.service("strategy", max_retries=0, fallback=elsewhere.blindly).call(
            strategy
        ),
        "with_fallback": lambda: recovery.with_fallback(strategy, elsewhere.blindly, max_retries=0),
    }
    with pytest.raises((CallRejectedError, OperationCompletedError, OperationBusyError)):
        await forms[form]()
    assert (len(desk.booked), elsewhere.booked) == (booked, [])
    if desk.under_way is not None:
        await desk.under_way


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error", [ConnectionError("what comes behind it"), BulkheadFullError("prices", "bulkhead")]
)
@pytest.mark.parametrize("retries", [0, 1])
async def test_fallback_places_no_order_where_one_with_a_key_of_the_users_is_there(
    recovery: ErrorRecoveryService, clock: VirtualClock, retries: int, error: Exception
) -> None:
    """What comes behind it has failed, also in an attempt that did not come as far as the order again."""
    desk, elsewhere, is_first = Desk(recovery, clock, takes=1.0), Desk(recovery, clock), True

    async def strategy() -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            await desk.place("bot-1")
        raise error

    around = recovery.service("strategy", max_retries=retries, fallback=elsewhere.blindly)
    with pytest.raises(type(error)):
        await around.call(strategy)
    assert (desk.booked, elsewhere.booked) == (["bot-1"], [])


@pytest.mark.asyncio
async def test_fallback_answers_for_an_order_that_the_venue_has_refused(
    recovery: ErrorRecoveryService, clock: VirtualClock, desk: Desk
) -> None:
    """That is what it is for; an order that was placed before the call is not inside of it."""
    desk.takes = 1.0
    await desk.place("bot-0")
    await clock.sleep(1.0)
    desk.is_closed, elsewhere = True, Desk(recovery, clock, takes=1.0)

    async def strategy() -> Booked:
        return await desk.place("bot-1")

    around = recovery.service("strategy", max_retries=0, fallback=elsewhere.blindly)
    await around.call(strategy)
    assert (desk.booked, elsewhere.booked) == (["bot-0"], ["without once"])


@pytest.mark.asyncio
async def test_hedge_places_the_order_that_certainly_was_not_placed(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """What was refused by the venue does not stand in the way of the other request."""
    desk = Desk(recovery, clock, takes=1.0)
    desk.is_closed = True

    async def strategy() -> Booked:
        try:
            return await desk.place()
        except ConnectionRefusedError:
            desk.is_closed = False
            raise

    placed = await recovery.service("strategy", hedge_after=0.5).call(strategy)
    assert desk.booked == [placed["id"]]


@pytest.mark.asyncio
@pytest.mark.parametrize("ends", ["unknown", "there"])
async def test_order_inside_an_order_makes_the_outer_one_final(
    recovery: ErrorRecoveryService, clock: VirtualClock, ends: str
) -> None:
    """What proves that the outer one was not placed proves nothing about the other, which would be placed again."""
    leg, outer = Desk(recovery, clock, takes=1.0), Desk(recovery, clock)
    leg.loses, leg.is_seen = ends == "unknown", ends == "there"
    outer.trading = recovery.service("outer", max_retries=3)
    outer.is_closed = True

    async def submit(client_order_id: str) -> Booked:
        await leg.place()
        return await outer.submit(client_order_id)

    once = outer.trading.once(confirm=outer.find, key_argument="client_order_id", settle=1.0)
    with pytest.raises((OutcomeUnknownError, ConnectionRefusedError)):
        await once.call(submit)
    assert (len(leg.booked), outer.booked) == (1, [])


@pytest.mark.asyncio
@pytest.mark.parametrize("key", [None, "basket-1"])
@pytest.mark.parametrize("ends", ["cut off", "answer lost"])
@pytest.mark.parametrize("leg_ends", ["unknown", "there", "cut off"])
async def test_outer_order_that_is_not_there_is_not_sent_again_where_it_sent_another(
    recovery: ErrorRecoveryService, clock: VirtualClock, leg_ends: str, ends: str, key: str | None
) -> None:
    """Its own look-up proves nothing about the order inside, however its attempt ended."""
    leg, outer = Desk(recovery, clock, takes=1.0), Desk(recovery, clock)
    leg.loses, leg.is_seen = leg_ends == "unknown", leg_ends == "there"
    leg.takes = 100.0 if leg_ends == "cut off" else 1.0
    outer.trading = recovery.service("outer", max_retries=3, timeout=10.0)

    async def submit(client_order_id: str) -> Booked:
        with contextlib.suppress(OutcomeUnknownError):
            await leg.place()
        if ends == "cut off":
            await clock.sleep(100.0)
        raise ConnectionResetError("what comes behind it")

    once = outer.trading.once(key, confirm=outer.find, key_argument="client_order_id", settle=1.0)
    with pytest.raises((AttemptTimeoutError, ConnectionResetError)):
        await once.call(submit)
    assert len(leg.booked) == 1


@pytest.mark.asyncio
async def test_leg_that_its_outer_order_did_not_wait_for_is_not_sent_beside_the_next_attempt(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A `gather` that has failed lets it go on, and it was not sent yet when it became certain that there is no outer order."""
    leg, outer, is_first = Desk(recovery, clock, takes=1.0), Desk(recovery, clock, takes=0.0), True
    leg.trading = recovery.service("narrow", max_retries=0, max_concurrent=1, max_queue=5)
    busy = asyncio.ensure_future(leg.place("bot-0"))
    await clock.sleep(0.1)
    outer.trading = recovery.service("outer", max_retries=3)

    async def loses_its_answer() -> None:
        nonlocal is_first
        await clock.sleep(0.1)
        if is_first:
            is_first = False
            raise ConnectionResetError("the answer is lost")

    async def submit(client_order_id: str) -> Booked:
        await asyncio.gather(leg.place(), loses_its_answer())
        return await outer.submit(client_order_id)

    once = outer.trading.once(confirm=outer.find, key_argument="client_order_id", settle=0.2)
    placed = await once.call(submit)
    await busy
    await clock.sleep(100.0)
    assert (outer.booked, len(leg.booked)) == ([placed["id"]], 2)


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["a loop of its own", "the loop that waits for it"])
async def test_orders_of_a_plain_function_are_inside_the_call_around_it(tmp_path: Path, how: str) -> None:
    """It runs them in its thread, or hands them to the loop that waits for it."""
    loop = asyncio.get_running_loop()
    async with ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.0) as recovery:
        desk = Desk(recovery, SystemClock(), takes=0.0)

        def strategy() -> None:
            if how == "a loop of its own":
                asyncio.run(desk.place())
            else:
                asyncio.run_coroutine_threadsafe(desk.place(), loop).result(60)
            raise ConnectionError("what comes behind it")

        with pytest.raises(ConnectionError):
            await recovery.service("strategy", max_retries=3).call(strategy)
        assert len(desk.booked) == 1


def in_its_own_loop(loop: asyncio.AbstractEventLoop, place: Place) -> Any:
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(
        60
    )  # by then somebody waits for this thread
    return asyncio.run(place())


def in_the_loop(loop: asyncio.AbstractEventLoop, place: Place) -> Any:
    return asyncio.run_coroutine_threadsafe(place(), loop).result(60)


THREADS: dict[str, Callable[[asyncio.AbstractEventLoop, Place], Awaitable[Any]]] = {
    "asyncio.to_thread": lambda loop, place: asyncio.to_thread(in_its_own_loop, loop, place),
    "run_in_executor": lambda loop, place: loop.run_in_executor(None, in_its_own_loop, loop, place),
    "to_thread and back": lambda loop, place: asyncio.to_thread(in_the_loop, loop, place),
    "run_in_executor and back": lambda loop, place: loop.run_in_executor(None, in_the_loop, loop, place),
    "anyio and back": lambda _, place: anyio.to_thread.run_sync(anyio.from_thread.run, place),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("how", THREADS)
async def test_order_that_a_call_reaches_through_a_thread_is_inside_it(tmp_path: Path, how: str) -> None:
    """The thread is waited for, whatever its loop, and whether or not it hands the order back to this one."""
    loop = asyncio.get_running_loop()
    async with ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.0) as recovery:
        desk = Desk(recovery, SystemClock(), takes=0.0)

        async def strategy() -> None:
            await THREADS[how](loop, desk.place)
            raise ConnectionError("what comes behind it")

        with pytest.raises(ConnectionError):
            await recovery.service("strategy", max_retries=3).call(strategy)
        assert len(desk.booked) == 1


@pytest.mark.asyncio
async def test_read_that_was_handed_a_task_with_an_order_is_repeated(
    recovery: ErrorRecoveryService, clock: VirtualClock, desk: Desk
) -> None:
    """It did not begin it: a repetition begins no other one."""
    asked = 0

    async def fetch(placing: asyncio.Task[Booked], *others: asyncio.Task[Booked]) -> str:
        nonlocal asked
        asked += 1
        await clock.sleep(20.0)
        if asked < 3:
            raise ConnectionError(f"no, and {placing}, {others}")
        return "answer"

    placing = asyncio.create_task(desk.place())
    assert await recovery.service("market").call(fetch, placing, placing) == "answer"
    await placing
    assert asked == 3


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["retry", "attempts", "fallback", "hedge"])
async def test_order_left_alone_before_it_was_sent_is_not_sent_beside_the_repetition(
    recovery: ErrorRecoveryService, clock: VirtualClock, how: str
) -> None:
    """A `gather` that has failed lets the others go on; what comes in its place sends the order."""
    desk, refused, is_first = Desk(recovery, clock, takes=1.0), list[str](), True
    desk.trading = recovery.service("narrow", max_retries=0, max_concurrent=1, max_queue=5)
    busy = asyncio.ensure_future(desk.place("bot-0"))
    await clock.sleep(0.1)

    async def place() -> None:
        try:
            await desk.place()
        except CallRejectedError as error:
            refused.append(error.policy)
            raise

    async def fails() -> None:
        await clock.sleep(0.5)
        raise ConnectionError("what stands beside it")

    async def strategy() -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            await asyncio.gather(place(), fails())
        await place()

    around = {
        "retry": lambda: recovery.service("strategy", max_retries=1).call(strategy),
        "attempts": lambda: in_attempts(recovery.service("strategy", max_retries=1), strategy),
        "fallback": lambda: recovery.service("strategy", max_retries=0, fallback=strategy).call(strategy),
        "hedge": lambda: recovery.service("strategy", hedge_after=50.0).call(strategy),
    }
    await around[how]()
    await clock.sleep(100.0)
    await busy
    assert (len(desk.booked), refused) == (2, ["repetition"])


@pytest.mark.asyncio
async def test_read_beside_an_order_in_a_group_is_repeated(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """What runs beside the body of a block is not inside of the calls that the body makes."""
    desk, asked = Desk(recovery, clock, takes=1.0), 0
    desk.loses, desk.is_seen = True, False

    async def fetch() -> str:
        nonlocal asked
        asked += 1
        await clock.sleep(20.0)
        if asked < 3:
            raise ConnectionError("no")
        return "answer"

    async def place() -> None:
        with contextlib.suppress(OutcomeUnknownError):
            await desk.place()

    async with asyncio.TaskGroup() as group:
        group.create_task(place())
        assert await recovery.service("market", timeout=60.0).call(fetch) == "answer"


@pytest.mark.asyncio
@pytest.mark.parametrize("ends", ["placed", "unknown"])
async def test_group_whose_body_fails_behind_an_order_is_not_repeated(
    recovery: ErrorRecoveryService, clock: VirtualClock, ends: str
) -> None:
    """Nobody waited for the order when it ended; the group is in the call all the same."""
    desk = Desk(recovery, clock, takes=1.0)
    desk.loses, desk.is_seen = ends == "unknown", False

    async def place() -> None:
        with contextlib.suppress(OutcomeUnknownError):
            await desk.place()

    async def strategy() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(place())
            await clock.sleep(50.0)
            raise ConnectionError("the body")

    with pytest.raises(ExceptionGroup):
        await recovery.service("strategy", max_retries=2).call(strategy)
    assert len(desk.booked) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("options", [{"grace": 1.0}, {"hedge_after": 50.0, "max_retries": 2}], ids=str)
async def test_order_that_nobody_waits_for_is_inside_an_attempt_with_a_task_of_its_own(
    recovery: ErrorRecoveryService, clock: VirtualClock, desk: Desk, options: dict[str, Any]
) -> None:
    """What the attempt started is known by where it was started."""
    started = list[asyncio.Task[Booked]]()

    async def strategy() -> None:
        started.append(asyncio.create_task(desk.place()))
        await clock.sleep(5.0)
        raise ConnectionError("what stands beside it")

    with pytest.raises(ConnectionError):
        await recovery.service("strategy", **options).call(strategy)
    assert len(desk.booked) == 1
    await asyncio.gather(*started)


@pytest.mark.asyncio
@pytest.mark.parametrize("place", ["except", "finally"])
async def test_fallback_of_a_call_that_comes_while_an_orders_end_is_handled_answers(
    recovery: ErrorRecoveryService, place: str
) -> None:
    """Python writes what is being handled behind each error that is raised there: it is none of the call's."""

    async def down() -> float:
        raise ConnectionRefusedError("nobody listens")

    async def stand_in() -> float:
        return 101.5

    quotes = recovery.service("quotes", max_retries=0, fallback=stand_in)
    asked: list[float] = []

    async def asks() -> None:
        try:
            raise OperationCompletedError("trading.once", "a", None)
        except OperationCompletedError:
            if place == "finally":
                raise
            asked.append(await quotes.call(down))
        finally:
            if place == "finally":
                asked.append(await quotes.call(down))

    with contextlib.suppress(OperationCompletedError):
        await asks()
    assert asked == [101.5]


@pytest.mark.asyncio
async def test_fallback_of_a_read_answers_whatever_became_of_an_order_that_it_has_waited_for(
    recovery: ErrorRecoveryService, desk: Desk
) -> None:
    """Who declares that nothing is sent, knows better."""
    desk.takes = 0.0

    async def position() -> float:
        await asyncio.wait([asyncio.ensure_future(desk.place("a"))])
        raise ConnectionRefusedError("nobody listens")

    async def stand_in() -> float:
        return 1.0

    reads = recovery.service("positions", max_retries=0, effect="read", fallback=stand_in)
    assert await reads.call(position) == 1.0


# ---- what is left behind


async def alone(place: Place) -> None:
    await place()


@pytest.mark.parametrize("way", [in_a_group, in_wait, alone])
@pytest.mark.parametrize("ends", [False, True])
def test_loop_that_is_closed_is_freed_with_its_orders(
    tmp_path: Path, way: Callable[[Place], Coroutine[Any, Any, None]], ends: bool
) -> None:
    """Also by hand and in the middle of one: whoever starts a loop for each burst of orders would keep them all."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    desk = Desk(recovery, SystemClock(), takes=0.0 if ends else 100.0)

    def lives_and_ends() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # it is told of tasks that are still pending
        submit = desk.submit

        async def submit_and_stop(client_order_id: str) -> Booked:
            if not ends:
                asyncio.get_running_loop().stop()
            return await submit(client_order_id)

        desk.submit = submit_and_stop  # type: ignore[method-assign]  # the same, and it stops the loop
        trading = loop.create_task(way(desk.place))
        if ends:
            loop.run_until_complete(trading)
        else:
            loop.run_forever()
        loop.close()
        return weakref.ref(loop)

    loop = lives_and_ends()
    gc.collect()
    asyncio.run(recovery.aclose())
    recovery._state_writer.submit(lambda: None).result(
        60.0
    )  # no thread is still at what it has told that loop
    gc.collect()
    assert desk.booked
    assert loop() is None

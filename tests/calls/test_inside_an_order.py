"""What a function does through other handles while `once` sends its order: only `once` sends the order again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    NOT_FOUND,
    AttemptTimeoutError,
    CircuitOpenError,
    ErrorRecoveryService,
    Found,
    Handle,
    KeyedOnce,
    LookUp,
    Retry,
)
from shockproof.testing import VirtualClock

Booked = dict[str, str]


@pytest.fixture
def recovery(tmp_path: Path, clock: VirtualClock) -> ErrorRecoveryService:
    return ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", base_delay=0.0, circuit_threshold=50, clock=clock
    )


class Venue:
    """Books whatever it is sent, as often as it is sent, and loses as many answers as it is told."""

    def __init__(self, clock: VirtualClock, *, loses: int = 0) -> None:
        self.clock = clock
        self.loses = loses
        self.booked: list[str] = []
        self.asked = 0

    async def submit(self, client_order_id: str) -> Booked:
        await self.clock.sleep(1.0)
        return self.book(client_order_id)

    def book(self, client_order_id: str) -> Booked:
        self.booked.append(client_order_id)
        if self.loses:
            self.loses -= 1
            raise ConnectionResetError("the answer is lost")
        return {"id": client_order_id}

    async def slowly(self, client_order_id: str) -> Booked:
        booked = self.book(client_order_id)
        await self.clock.sleep(1.0)
        return booked

    async def find(self, key: str) -> LookUp[Booked]:
        self.asked += 1
        return Found({"id": key}) if key in self.booked else NOT_FOUND


def order(trading: Handle, venue: Venue, key: str | None = None) -> KeyedOnce[Booked]:
    return trading.once(key, confirm=venue.find, key_argument="client_order_id", settle=1.0)


def in_attempts(http: Handle, venue: Venue) -> Callable[..., Any]:
    async def submit(client_order_id: str) -> Booked | None:
        async for attempt in http.attempts():
            async with attempt:
                return await venue.submit(client_order_id)
        return None

    return submit


def in_tasks(http: Handle, venue: Venue) -> Callable[..., Any]:
    async def submit(client_order_id: str) -> Booked:
        async with asyncio.TaskGroup() as group:
            sent = group.create_task(http.call(venue.submit, client_order_id))
        return sent.result()

    return submit


def in_a_thread(http: Handle, venue: Venue) -> Callable[..., Any]:
    def submit(client_order_id: str) -> Any:
        return asyncio.run(http.call(venue.book, client_order_id))

    return submit


def in_the_executor(http: Handle, venue: Venue) -> Callable[..., Any]:
    def send(loop: asyncio.AbstractEventLoop, client_order_id: str) -> Any:
        # By then somebody waits for this thread, which was given no context.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)
        return asyncio.run(http.call(venue.book, client_order_id))

    async def submit(client_order_id: str) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, send, loop, client_order_id)

    return submit


def given_back(http: Handle, venue: Venue) -> Callable[..., Any]:
    return lambda client_order_id: http.call(venue.submit, client_order_id)


def through_two(http: Handle, venue: Venue) -> Callable[..., Any]:
    return Retry(max_retries=3, base_delay=0.0)(http(venue.submit))


FORMS: dict[str, Callable[[Handle, Venue], Callable[..., Any]]] = {
    "decorated": lambda http, venue: http(venue.submit),
    "attempts": in_attempts,
    "tasks": in_tasks,
    "thread": in_a_thread,
    "run_in_executor": in_the_executor,
    "an awaitable of a plain function": given_back,
    "a policy that stands alone": through_two,
}


@pytest.mark.asyncio
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grace", [None, 1.0])
async def test_handle_inside_an_order_sends_it_once(
    recovery: ErrorRecoveryService, clock: VirtualClock, form: str, grace: float | None
) -> None:
    """Its retries would send the order's key again, unjournalled and not looked up; `once` finds it."""
    venue = Venue(clock, loses=9)
    submit = FORMS[form](recovery.service("http", max_retries=3), venue)

    placed = await order(recovery.service("trading", timeout=60.0, grace=grace), venue, "bot-1").call(submit)

    assert (placed, venue.booked) == ({"id": "bot-1"}, ["bot-1"])


@pytest.mark.asyncio
async def test_order_left_behind_is_not_repeated_by_the_handle_inside_it(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It still runs after everybody has stopped waiting for it, and it still is a part of the order."""
    venue, http = Venue(clock, loses=9), recovery.service("http", max_retries=3)

    async def submit(client_order_id: str) -> Booked:
        try:
            await clock.sleep(10.0)
        except asyncio.CancelledError:
            await clock.sleep(1.5)
        return await http.call(venue.submit, client_order_id)

    trading = recovery.service("trading", timeout=1.0, grace=1.0, max_retries=0)
    assert await order(trading, venue, "bot-1").call(submit) == {"id": "bot-1"}
    await clock.sleep(10.0)
    assert venue.booked == ["bot-1"]


async def in_wait(sending: Coroutine[Any, Any, Booked]) -> Booked:
    task = asyncio.ensure_future(sending)
    await asyncio.wait({task})
    return task.result()


@pytest.mark.asyncio
@pytest.mark.parametrize("options", [{"max_retries": 3}, {"hedge_after": 0.7}], ids=str)
@pytest.mark.parametrize("waits", [asyncio.shield, in_wait])
async def test_call_that_outlives_its_order_cut_off_is_not_repeated(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    waits: Callable[..., Awaitable[Booked]],
    options: dict[str, Any],
) -> None:
    """It began inside of it, and has its key."""
    venue, http = Venue(clock, loses=9), recovery.service("http", **options)

    async def submit(client_order_id: str) -> Booked:
        return await waits(http.call(venue.submit, client_order_id))

    once = recovery.service("trading", timeout=0.5, max_retries=0).once(
        "bot-1", confirm=venue.find, key_argument="client_order_id", settle=20.0
    )
    assert await once.call(submit) == {"id": "bot-1"}
    await clock.sleep(20.0)
    assert venue.booked == ["bot-1"]


@pytest.mark.asyncio
async def test_call_that_waited_for_its_rate_while_its_order_was_cut_off_is_not_repeated(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It came inside of it, however late it is sent."""
    venue, http = Venue(clock, loses=9), recovery.service("http", max_retries=3, rate_limit="1/5s")
    await http.call(clock.sleep, 0.0)

    async def submit(client_order_id: str) -> Booked:
        return await asyncio.shield(http.call(venue.submit, client_order_id))

    once = recovery.service("trading", timeout=0.5, max_retries=0).once(
        "bot-1", confirm=venue.find, key_argument="client_order_id", settle=20.0
    )
    assert await once.call(submit) == {"id": "bot-1"}
    await clock.sleep(60.0)
    assert venue.booked == ["bot-1"]


@pytest.mark.asyncio
@pytest.mark.parametrize(("effect", "elsewhere"), [(None, []), ("read", ["bot-1"])])
async def test_fallback_of_a_call_that_outlives_its_order_cut_off_sends_nothing_elsewhere(
    recovery: ErrorRecoveryService, clock: VirtualClock, effect: str | None, elsewhere: list[str]
) -> None:
    """Unless what it does is declared to be read."""
    venue, other = Venue(clock, loses=9), Venue(clock)
    options: Any = {} if effect is None else {"effect": effect}
    http = recovery.service("http", max_retries=0, fallback=other.submit, **options)

    async def submit(client_order_id: str) -> Booked:
        return await asyncio.shield(http.call(venue.submit, client_order_id))

    once = recovery.service("trading", timeout=0.5, max_retries=0).once(
        "bot-1", confirm=venue.find, key_argument="client_order_id", settle=20.0
    )
    assert await once.call(submit) == {"id": "bot-1"}
    await clock.sleep(20.0)
    assert (venue.booked, other.booked) == (["bot-1"], elsewhere)


@pytest.mark.asyncio
async def test_handle_inside_an_order_is_not_hedged(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A hedge is the same order a second time."""
    venue = Venue(clock)
    http = recovery.service("http", hedge_after=0.1)

    assert await order(recovery.service("trading"), venue, "bot-1").call(http(venue.slowly)) == {
        "id": "bot-1"
    }
    await clock.sleep(10.0)
    assert venue.booked == ["bot-1"]


@pytest.mark.asyncio
@pytest.mark.parametrize("fallback", ["a value", "a function"])
async def test_fallback_inside_an_order_does_not_answer_for_it(
    recovery: ErrorRecoveryService, clock: VirtualClock, fallback: str
) -> None:
    """Its answer would be taken for the venue's."""
    venue, elsewhere = Venue(clock, loses=1), Venue(clock)
    answers: Any = "placed, says the fallback" if fallback == "a value" else elsewhere.submit
    http = recovery.service("http", max_retries=0, fallback=answers)

    placed = await order(recovery.service("trading"), venue, "bot-1").call(http(venue.submit))

    assert placed == {"id": "bot-1"}
    assert (venue.booked, elsewhere.booked) == (["bot-1"], [])


@pytest.mark.asyncio
@pytest.mark.parametrize("is_decorated", [True, False])
async def test_fallback_behind_an_open_circuit_inside_an_order_does_not_answer_for_it(
    recovery: ErrorRecoveryService, clock: VirtualClock, is_decorated: bool
) -> None:
    """Nothing was sent, so that `once` must not hear of an order that is there."""
    venue = Venue(clock)
    http = recovery.service("http", max_retries=0, fallback="placed, says the fallback")
    trading = recovery.service("trading", max_retries=0)

    async def called(client_order_id: str) -> Any:
        return await http.call(venue.submit, client_order_id)

    submit = http(venue.submit) if is_decorated else called
    await http.call(venue.find, "bot-0")
    recovery.set_circuit_mode("http", "forced-open", "for a test")
    answered: object = await http.call(venue.find, "bot-0")
    assert answered == "placed, says the fallback"
    with pytest.raises(CircuitOpenError):
        await order(trading, venue, "bot-1").call(submit)
    assert venue.booked == []


@pytest.mark.asyncio
@pytest.mark.parametrize("effect", ["read", "idempotent"])
async def test_call_inside_an_order_that_is_declared_harmless_is_repeated(
    recovery: ErrorRecoveryService, clock: VirtualClock, effect: Any
) -> None:
    """Such as a price that the order needs."""
    venue, prices, asked = Venue(clock), recovery.service("prices", max_retries=3, effect=effect), 0

    async def price() -> float:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise ConnectionResetError("the answer is lost")
        return 1.0

    async def submit(client_order_id: str) -> Booked:
        await prices.call(price)
        return await venue.submit(client_order_id)

    assert await order(recovery.service("trading"), venue, "bot-1").call(submit) == {"id": "bot-1"}
    assert (asked, venue.booked) == (3, ["bot-1"])


@pytest.mark.asyncio
async def test_undeclared_call_inside_a_harmless_retry_inside_an_order_is_not_repeated(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The mark of the retry does not hide that of the order, also for a hedge."""
    venue = Venue(clock)
    prices, http = recovery.service("prices", effect="read"), recovery.service("http", hedge_after=0.1)
    asked = 0

    async def second_time_lucky(client_order_id: str) -> Booked:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ConnectionResetError("the answer is lost")
        return await http.call(venue.slowly, client_order_id)

    async def submit(client_order_id: str) -> Booked:
        return await prices.call(second_time_lucky, client_order_id)

    await order(recovery.service("trading"), venue, "bot-1").call(submit)
    await clock.sleep(10.0)
    assert (asked, venue.booked) == (2, ["bot-1"])


@pytest.mark.asyncio
async def test_looking_up_an_order_is_repeated_also_for_one_inside_another(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """To ask what became of it does no harm, whatever runs around it."""
    inner, outer = Venue(clock, loses=1), Venue(clock)
    lookups, legs = recovery.service("lookups", max_retries=3), recovery.service("legs")
    failures = [ConnectionResetError("busy"), ConnectionResetError("busy")]

    async def find(key: str) -> LookUp[Booked]:
        if failures:
            raise failures.pop()
        return await inner.find(key)

    questions = 0

    async def confirm(key: str) -> LookUp[Booked]:
        nonlocal questions
        questions += 1
        return await lookups.call(find, key)

    leg = legs.once("leg-1", confirm=confirm, key_argument="client_order_id", settle=1.0)

    async def submit(client_order_id: str) -> Booked:
        await leg.call(inner.submit)
        return await outer.submit(client_order_id)

    await order(recovery.service("trading"), outer, "bot-1").call(submit)
    assert (inner.booked, questions, outer.booked) == (["leg-1"], 1, ["bot-1"])


@pytest.mark.asyncio
@pytest.mark.parametrize("timeout", [60.0, 0.5])
async def test_task_that_outlives_an_order_retries_again(
    recovery: ErrorRecoveryService, clock: VirtualClock, timeout: float
) -> None:
    """Such as the reader of a connection that the first order opened."""
    venue, http, asked = Venue(clock), recovery.service("http", max_retries=3), 0
    readers = list[asyncio.Task[None]]()

    async def read() -> None:
        nonlocal asked
        asked += 1
        raise ConnectionResetError("the answer is lost")

    async def later() -> None:
        await clock.sleep(10.0)
        await http.call(read)

    async def submit(client_order_id: str) -> Booked:
        readers.append(asyncio.create_task(later()))
        return await venue.submit(client_order_id)

    with contextlib.suppress(AttemptTimeoutError):
        await order(recovery.service("trading", timeout=timeout, max_retries=0), venue, "bot-1").call(submit)
    with pytest.raises(ConnectionResetError):
        await readers[0]
    assert asked == 4


@pytest.mark.asyncio
async def test_why_a_call_inside_an_order_was_not_repeated_is_on_its_error(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It names the way out."""
    venue, http = Venue(clock, loses=1), recovery.service("http")
    notes = list[str]()

    async def submit(client_order_id: str) -> Booked:
        try:
            return await http.call(venue.submit, client_order_id)
        except ConnectionResetError as error:
            notes.extend(error.__notes__)
            raise

    await order(recovery.service("trading"), venue, "bot-1").call(submit)
    assert any("effect='read'" in note for note in notes)

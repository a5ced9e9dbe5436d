"""Guarded calls inside a guarded function: what one of them says of itself is no proof for the one around it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    NOT_FOUND,
    AttemptTimeoutError,
    CallRejectedError,
    ErrorRecoveryService,
    Found,
    HaltedError,
    Outcome,
    OutcomeUnknownError,
    Verdict,
    attempts_of,
)
from shockproof.testing import VirtualClock

BOOKED = {"id": "bot-1"}


@pytest.fixture
def recovery(tmp_path: Path) -> ErrorRecoveryService:
    return ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", base_delay=0.0, max_threads=1, clock=VirtualClock()
    )


class Venue:
    """Books whatever it is sent, as often as it is sent."""

    def __init__(self) -> None:
        self.booked: list[str] = []

    def book(self, key: str) -> dict[str, str]:
        self.booked.append(key)
        return BOOKED

    async def find(self, key: str) -> Any:
        return Found(BOOKED) if key in self.booked else NOT_FOUND


async def nothing() -> None: ...


def refusing(recovery: ErrorRecoveryService, how: str) -> Any:
    """A call that is refused by another service."""
    if how == "circuit":
        other = recovery.service("other", effect="unsafe")
        recovery.set_circuit_mode("other", "forced-open", "for a test")
        return other.call(nothing)
    once = recovery.service("leg").once(
        key="leg-1", confirm=Venue().find, still_wanted=iter([True, False]).__next__
    )
    return once.call(nothing)


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["circuit", "once"])
async def test_refusal_of_a_call_inside_an_order_is_no_proof_that_it_was_not_sent(
    recovery: ErrorRecoveryService, how: str
) -> None:
    """It is looked up, and found; so it is not sent again under the same key."""
    venue = Venue()

    async def submit(client_order_id: str) -> dict[str, str]:
        booked = venue.book(client_order_id)
        await refusing(recovery, how)
        return booked

    once = recovery.service("orders").once(
        key="bot-1", confirm=venue.find, key_argument="client_order_id", settle=0.0
    )
    assert await once.call(submit) == BOOKED
    assert venue.booked == ["bot-1"]


@pytest.mark.asyncio
async def test_order_refused_inside_before_it_was_sent_is_raised_and_not_sent_again(
    recovery: ErrorRecoveryService,
) -> None:
    """Nothing is found, so nothing stays pending, and the refusal is raised as it is."""
    venue, calls = Venue(), 0

    async def submit(client_order_id: str) -> None:
        nonlocal calls
        calls += 1
        await refusing(recovery, "circuit")

    once = recovery.service("orders", max_retries=3).once(
        key="bot-1", confirm=venue.find, key_argument="client_order_id", settle=0.0
    )
    with pytest.raises(CallRejectedError):
        await once.call(submit)

    assert calls == 1
    state = await recovery.restore_state()
    assert state is None or state.active_operations == []


@pytest.mark.asyncio
async def test_unsafe_call_with_a_refusal_from_inside_is_not_answered_by_a_fallback(
    recovery: ErrorRecoveryService,
) -> None:
    """Nobody knows what it had sent before."""
    first, second = Venue(), Venue()

    async def submit(key: str) -> None:
        first.book(key)
        await refusing(recovery, "circuit")

    async def elsewhere(key: str) -> None:
        second.book(key)

    with pytest.raises(CallRejectedError) as caught:
        await recovery.service("orders", effect="unsafe", fallback=elsewhere).call(submit, "bot-1")

    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert (first.booked, second.booked) == (["bot-1"], [])


@pytest.mark.asyncio
async def test_unsafe_plain_function_halted_in_its_queue_did_not_run(recovery: ErrorRecoveryService) -> None:
    """Its own refusal is proof: nothing is recorded, and nothing unknown is left."""
    gate, sent = threading.Event(), list[str]()
    busy = asyncio.ensure_future(recovery.service("orders").call(gate.wait, 60))
    await asyncio.sleep(0)
    order = asyncio.ensure_future(recovery.service("orders", effect="unsafe").call(sent.append, "bot-1"))
    await asyncio.sleep(0)
    await recovery.halt("for a test")
    gate.set()

    with pytest.raises(HaltedError) as caught:
        await order
    assert attempts_of(caught.value) == ()
    assert sent == []
    await busy


@pytest.mark.asyncio
@pytest.mark.parametrize("ended_by", ["caller", "timeout"])
async def test_call_inside_an_order_that_waits_for_a_thread_is_no_proof_that_the_order_was_not_sent(
    recovery: ErrorRecoveryService, ended_by: str
) -> None:
    """That it never began is true of itself only."""
    venue, gate, waits = Venue(), threading.Event(), asyncio.Event()
    reads = recovery.service("reads")
    busy = asyncio.ensure_future(reads.call(gate.wait, 60))
    await asyncio.sleep(0)

    async def submit(client_order_id: str) -> None:
        venue.book(client_order_id)
        waits.set()
        await reads.call(gate.wait, 60)

    timeout = 0.01 if ended_by == "timeout" else None
    once = recovery.service("orders", timeout=timeout, max_retries=0).once(
        key="bot-1", confirm=venue.find, key_argument="client_order_id", settle=0.0
    )
    order = asyncio.ensure_future(once.call(submit))
    await waits.wait()
    if ended_by == "timeout":
        assert await order == BOOKED
    else:
        order.cancel()
        with pytest.raises(asyncio.CancelledError):
            await order
        state = await recovery.restore_state()
        assert state is not None
        assert [operation["key"] for operation in state.active_operations] == ["bot-1"]
    gate.set()
    await busy


@pytest.mark.asyncio
async def test_unsafe_call_whose_inside_waited_for_a_thread_when_its_time_was_up_is_unknown(
    recovery: ErrorRecoveryService,
) -> None:
    """So no fallback sends it elsewhere."""
    venue, gate = Venue(), threading.Event()
    reads = recovery.service("reads")
    busy = asyncio.ensure_future(reads.call(gate.wait, 60))
    await asyncio.sleep(0)

    async def submit(key: str) -> None:
        venue.book(key)
        await reads.call(gate.wait, 60)

    with pytest.raises(AttemptTimeoutError) as caught:
        await recovery.service("orders", effect="unsafe", timeout=0.01, fallback="none").call(submit, "bot-1")
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    gate.set()
    await busy


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "way", ["call", "decorated", "attempts", "retry_with_backoff", "with_fallback", "group"]
)
@pytest.mark.parametrize("effect", ["read", "idempotent", "unsafe"])
async def test_order_of_which_nothing_can_be_proven_is_final_for_every_call_around_it(
    recovery: ErrorRecoveryService, way: str, effect: Any
) -> None:
    """Another attempt, or a fallback, would send another order."""
    venue, elsewhere = Venue(), list[str]()
    around = recovery.service("strategy", max_retries=2, effect=effect, classify=a_failure)

    async def place() -> None:
        venue.book(f"bot-{len(venue.booked)}")
        raise OutcomeUnknownError("bot-1", "trading", "ConnectionResetError")

    async def place_elsewhere() -> None:
        elsewhere.append("bot-1")

    async def in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(place())

    async def in_order() -> None:
        if way == "call":
            await around.using(fallback=place_elsewhere).call(place)
        elif way == "decorated":
            await around(place)()
        elif way == "attempts":
            async for attempt in around.attempts():
                async with attempt:
                    await place()
        elif way == "retry_with_backoff":
            await recovery.retry_with_backoff(place, service_name="plain")
        elif way == "with_fallback":
            await recovery.with_fallback(place, place_elsewhere, service_name="plain")
        else:
            await around.using(fallback=place_elsewhere).call(in_a_group)

    with pytest.raises((OutcomeUnknownError, ExceptionGroup)):
        await in_order()

    assert (len(venue.booked), elsewhere) == (1, [])


def a_failure(end: object, call: object) -> Verdict:
    """What a user says who has not thought of orders."""
    return Verdict(Outcome.FAILURE)

"""Calls that hang: they count as failures before they end, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shockproof import (
    AttemptTimeoutError,
    CallOverdue,
    CircuitBreaker,
    CircuitOpened,
    CircuitOpenError,
    ErrorRecoveryService,
    Event,
    Handle,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Answer = Callable[[], Coroutine[Any, Any, str]]


def counts(recovery: ErrorRecoveryService) -> dict[str, Any]:
    found: dict[str, Any] = recovery.get_health_status()["services"]["venue"]
    return found


def answering_after(clock: VirtualClock, seconds: float, error: Exception | None = None) -> Answer:
    async def answer() -> str:
        await clock.sleep(seconds)
        if error is not None:
            raise error
        return "answer"

    return answer


def hanging(venue: Handle, clock: VirtualClock, *seconds: float) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(venue.call(answering_after(clock, each))) for each in seconds]


async def ended(tasks: list[asyncio.Task[str]]) -> list[object]:
    for task in tasks:
        task.cancel()
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def test_calls_that_hang_open_the_circuit_before_any_of_them_ends(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Exactly when the last that is needed has been in flight for too long, with nobody calling meanwhile."""
    events: list[Event] = []

    async def heard(event: Event) -> None:
        events.append(event)

    recovery.on_event(heard)
    venue = recovery.service("venue", circuit_threshold=2, max_retries=0, max_call_age=5.0)
    tasks = hanging(venue, clock, 100.0)
    await clock.sleep(1.0)
    tasks += hanging(venue, clock, 100.0)
    await clock.sleep(4.999)
    assert not recovery.is_circuit_open("venue")
    await clock.sleep(0.002)
    assert recovery.is_circuit_open("venue")
    assert counts(recovery)["overdue"] == 2
    with pytest.raises(CircuitOpenError, match=r"a call has been in flight for 5 s"):
        await venue.call(answering_after(clock, 0.0))
    await clock.sleep(1.0)
    overdue = [(event.age, event.function_name) for event in events if isinstance(event, CallOverdue)]
    assert overdue == [(5.0, "answer")] * 2
    assert [event.retry_after for event in events if isinstance(event, CircuitOpened)] == [60.0]
    await ended(tasks)


@pytest.mark.parametrize("error", [None, ConnectionError("reset")])
async def test_the_late_end_of_a_call_that_was_overdue_is_not_counted(
    recovery: ErrorRecoveryService, clock: VirtualClock, error: Exception | None
) -> None:
    """Neither does its success reset the count, nor is its failure a second one."""
    venue = recovery.service("venue", circuit_threshold=2, max_retries=0, max_call_age=5.0)
    (result,) = await asyncio.gather(venue.call(answering_after(clock, 7.0, error)), return_exceptions=True)
    assert result == ("answer" if error is None else error)
    assert not recovery.is_circuit_open("venue")
    with pytest.raises(ConnectionError):
        await venue.call(answering_after(clock, 0.0, ConnectionError("no")))
    assert recovery.is_circuit_open("venue")


async def test_a_call_that_ends_in_time_counts_as_ever(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A success resets the count, a failure is one, and nobody is overdue later."""
    venue = recovery.service("venue", circuit_threshold=2, max_retries=0, max_call_age=5.0)
    fails = answering_after(clock, 4.9, ConnectionError("no"))
    for function, opens in (
        (fails, False),
        (answering_after(clock, 4.9), False),
        (fails, False),
        (fails, True),
    ):
        await asyncio.gather(venue.call(function), return_exceptions=True)
        assert recovery.is_circuit_open("venue") is opens
    await clock.sleep(50.0)
    assert counts(recovery)["overdue"] == 0
    assert counts(recovery)["circuit_trips"] == 1


async def test_a_cancelled_call_is_neutral_before_its_age_and_stays_counted_after_it(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """What the venue did not answer in time it did not answer, whatever the caller does then."""
    venue = recovery.service("venue", circuit_threshold=1, max_retries=0, max_call_age=5.0)
    early = hanging(venue, clock, 100.0)
    await clock.sleep(4.9)
    await ended(early)
    await clock.sleep(10.0)
    assert not recovery.is_circuit_open("venue")
    late = hanging(venue, clock, 100.0)
    await clock.sleep(5.1)
    assert [type(one) for one in await ended(late)] == [asyncio.CancelledError]
    assert recovery.is_circuit_open("venue")
    assert counts(recovery)["circuit_trips"] == 1


async def test_a_hung_probe_opens_the_circuit_again_and_keeps_its_place(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """With a largest age silence is a verdict; the probe is in flight, and nobody joins it in the next round."""
    venue = recovery.service(
        "venue", circuit_threshold=1, circuit_timeout=10.0, probe_lease=60.0, max_retries=0, max_call_age=5.0
    )
    with pytest.raises(ConnectionError):
        await venue.call(answering_after(clock, 0.0, ConnectionError("no")))
    await clock.sleep(10.0)
    probe = hanging(venue, clock, 100.0)
    await clock.sleep(5.001)
    assert counts(recovery)["circuit"] == "open"
    assert counts(recovery)["retry_after"] == 9.999
    await clock.sleep(10.0)
    assert counts(recovery)["circuit"] == "half-open"
    with pytest.raises(CircuitOpenError):
        await venue.call(answering_after(clock, 0.0))
    await ended(probe)
    assert await venue.call(answering_after(clock, 0.0)) == "answer"
    assert counts(recovery)["circuit"] == "closed"


async def test_the_wait_for_a_place_is_no_age(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """The venue has not seen the call yet."""
    venue = recovery.service(
        "venue", circuit_threshold=1, max_retries=0, max_call_age=5.0, max_concurrent=1, max_queue=5
    )
    tasks = hanging(venue, clock, 4.0, 4.0, 4.0)
    assert await asyncio.gather(*tasks) == ["answer"] * 3
    assert counts(recovery)["overdue"] == 0
    assert not recovery.is_circuit_open("venue")


async def test_each_attempt_has_an_age_of_its_own(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A retry begins anew, and the wait before it does not count."""
    venue = recovery.service("venue", circuit_threshold=9, base_delay=4.0, max_retries=2, max_call_age=5.0)
    with pytest.raises(ConnectionError):
        await venue.call(answering_after(clock, 4.0, ConnectionError("no")))
    assert counts(recovery)["overdue"] == 0
    assert counts(recovery)["failures"] == 3


@pytest.mark.parametrize("form", ["decorated", "guard", "attempts", "plain"])
async def test_every_way_of_calling_has_an_age(
    recovery: ErrorRecoveryService, clock: VirtualClock, form: str
) -> None:
    """The healthy path's short way is closed where ages count."""
    venue = recovery.service("venue", circuit_threshold=1, max_retries=0, max_call_age=5.0)
    answer = answering_after(clock, 7.0)

    async def call() -> str:
        if form == "decorated":
            return await venue(answer)()
        if form == "plain":
            return await venue.call(lambda _: answer(), None)
        if form == "guard":
            async with venue.guard():
                return await answer()
        async for attempt in venue.attempts():
            async with attempt:
                return await answer()
        raise AssertionError("the loop ended without an answer")

    assert await call() == "answer"
    assert counts(recovery)["overdue"] == 1
    assert recovery.is_circuit_open("venue")


async def test_a_handle_made_before_the_age_was_declared_counts_too(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It belongs to the service."""
    earlier = recovery.service("venue", max_retries=0, circuit_threshold=1)
    assert await earlier.call(answering_after(clock, 0.0)) == "answer"
    recovery.service("venue", max_call_age=5.0)
    assert await earlier.call(answering_after(clock, 7.0)) == "answer"
    assert recovery.is_circuit_open("venue")


async def test_a_timeout_below_the_age_ends_the_call_first(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Then it is one failure, as ever."""
    venue = recovery.service("venue", circuit_threshold=2, max_retries=0, max_call_age=5.0, timeout=4.0)
    with pytest.raises(AttemptTimeoutError):
        await venue.call(answering_after(clock, 50.0))
    await clock.sleep(10.0)
    assert counts(recovery)["overdue"] == 0
    assert not recovery.is_circuit_open("venue")


async def test_many_calls_that_are_overdue_at_once_are_all_counted(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """More than are told of in one turn of the loop."""
    venue = recovery.service("venue", circuit_threshold=200, max_retries=0, max_call_age=5.0)
    tasks = hanging(venue, clock, *[100.0] * 199)
    await clock.sleep(5.001)
    assert counts(recovery)["overdue"] == 199
    assert not recovery.is_circuit_open("venue")
    tasks += hanging(venue, clock, 100.0)
    await clock.sleep(5.001)
    assert recovery.is_circuit_open("venue")
    await ended(tasks)


async def test_the_time_in_which_our_own_loop_stood_still_is_no_age(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The answer may have been waiting in the socket all along."""
    venue = recovery.service("venue", circuit_threshold=1, max_retries=0, max_call_age=5.0)
    tasks = hanging(venue, clock, 100.0)
    await clock.sleep(2.0)
    clock.advance(30.0)  # what a blocking call does to a loop
    await clock.sleep(2.4)
    assert counts(recovery)["overdue"] == 0
    await clock.sleep(0.2)
    assert counts(recovery)["overdue"] == 1
    await ended(tasks)


async def test_no_timer_is_left_when_no_call_is_in_flight(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """An idle program is not woken, and the next call is watched again."""
    venue = recovery.service("venue", circuit_threshold=2, max_retries=0, max_call_age=4.0)
    await venue.call(answering_after(clock, 0.5))
    await clock.sleep(2.0)
    (queue,) = recovery._registry.get_or_create("venue").call_ages._queues.values()
    assert queue.in_flight == {}
    assert not queue._is_looking
    await venue.call(answering_after(clock, 4.5))
    assert counts(recovery)["overdue"] == 1


async def test_where_no_age_is_declared_nothing_watches(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It costs nothing: the healthy path is the short one, and a call may take for ever."""
    venue = recovery.service("venue", circuit_threshold=1, max_retries=0)
    await venue.call(answering_after(clock, 1e6))
    state = recovery._registry.get_or_create("venue")
    assert state.call_ages is None
    assert state.circuit.entrance.lane is not None


async def test_a_breaker_alone_has_ages_too(clock: VirtualClock) -> None:
    """The same option."""
    breaker = CircuitBreaker(circuit_threshold=1, max_call_age=5.0, clock=clock)
    tasks = hanging(breaker, clock, 100.0)
    await clock.sleep(5.001)
    assert breaker.state == "open"
    await ended(tasks)

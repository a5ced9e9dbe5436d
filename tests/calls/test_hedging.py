"""A call that is made a second time when it takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, Hedge, RetryBudget
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Answer = float | tuple[float, Exception]
Fetch = Callable[[], Coroutine[Any, Any, int]]


def answering(log: list[str], *answers: Answer) -> Fetch:
    """A function whose calls take these seconds, or fail after them."""
    numbers = iter(range(len(answers)))

    async def fetch() -> int:
        number = next(numbers)
        log.append(f"begin {number}")
        answer = answers[number]
        try:
            await asyncio.sleep(answer[0] if isinstance(answer, tuple) else answer)
        except asyncio.CancelledError:
            log.append(f"cancelled {number}")
            raise
        if isinstance(answer, tuple):
            raise answer[1]
        return number

    return fetch


def counts(recovery: ErrorRecoveryService) -> dict[str, Any]:
    found: dict[str, Any] = recovery.get_health_status()["services"]["quotes"]
    return found


async def test_a_quick_answer_needs_no_hedge(recovery: ErrorRecoveryService) -> None:
    """Nothing is sent twice."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=1.0)

    assert await quotes.call(answering(log, 0.5)) == 0
    assert log == ["begin 0"]


async def test_the_first_answer_wins_and_the_loser_is_cancelled(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The caller has its answer at once, and nobody is left behind."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=1.0)
    begun = clock.monotonic()

    assert await quotes.call(answering(log, 60.0, 0.5)) == 1
    assert clock.monotonic() - begun == 1.5
    await asyncio.sleep(0)
    assert log == ["begin 0", "begin 1", "cancelled 0"]
    assert counts(recovery)["hedges"] == 1
    assert counts(recovery)["successes"] == 1


async def test_a_failure_starts_the_next_at_once(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """There is nothing to wait for."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=10.0)
    begun = clock.monotonic()

    assert await quotes.call(answering(log, (1.0, ConnectionError("down")), 0.5)) == 1
    assert clock.monotonic() - begun == 1.5


async def test_when_all_fail_the_first_ones_error_is_raised(recovery: ErrorRecoveryService) -> None:
    """Both are recorded, and the circuit has heard of both."""
    first = ConnectionError("first")
    quotes = recovery.service("quotes", hedge_after=1.0, circuit_threshold=2)

    with pytest.raises(ConnectionError) as raised:
        await quotes.call(answering([], (3.0, first), (0.5, ConnectionError("second"))))

    assert raised.value is first
    assert recovery.get_error_summary()["total_errors"] == 2
    assert recovery.is_circuit_open("quotes")


async def test_no_more_than_max_hedges_are_in_flight(recovery: ErrorRecoveryService) -> None:
    """Two beside the first, however long it takes."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=1.0, max_hedges=2)

    assert await quotes.call(answering(log, 30.0, 20.0, 10.0)) == 2
    assert [line for line in log if line.startswith("begin")] == ["begin 0", "begin 1", "begin 2"]


async def test_a_hedge_replaces_the_retry_unless_both_are_asked_for(recovery: ErrorRecoveryService) -> None:
    """max_retries given: the pair is tried again."""
    log: list[str] = []
    down = (0.1, ConnectionError("down"))
    with pytest.raises(ConnectionError):
        await recovery.service("quotes", hedge_after=1.0).call(answering(log, down, down, down))
    assert len(log) == 2

    both = recovery.service("quotes", hedge_after=1.0, max_retries=1)
    assert await both.call(answering([], down, down, 0.1)) == 2


async def test_callers_cancellation_ends_every_leg(recovery: ErrorRecoveryService) -> None:
    """At once, and counted nowhere."""
    log: list[str] = []
    task = asyncio.create_task(recovery.service("quotes", hedge_after=1.0).call(answering(log, 60.0, 60.0)))
    await asyncio.sleep(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)

    assert sorted(log[2:]) == ["cancelled 0", "cancelled 1"]
    assert recovery.get_error_summary()["total_errors"] == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_each_leg_has_the_whole_timeout(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """The hedge is an attempt like the first."""
    quotes = recovery.service("quotes", hedge_after=1.0, timeout=2.0)
    begun = clock.monotonic()

    assert await quotes.call(answering([], 60.0, 1.5)) == 1
    assert clock.monotonic() - begun == 2.5


async def test_hedges_take_places_and_give_them_back(recovery: ErrorRecoveryService) -> None:
    """A loser's place is free when it has ended; a hedge for which there is none is not made."""
    quotes = recovery.service("quotes", hedge_after=1.0, max_concurrent=2)

    assert await quotes.call(answering([], 60.0, 0.5)) == 1
    await asyncio.sleep(0)
    assert counts(recovery)["in_flight"] == 0

    recovery.service("one", hedge_after=1.0, max_concurrent=1)
    assert await recovery.service("one", hedge_after=1.0).call(answering([], 3.0, 0.1)) == 0


async def test_an_open_circuit_is_not_hedged_into(recovery: ErrorRecoveryService) -> None:
    """A half-open circuit lets its probe through, and no second one."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=1.0, circuit_threshold=1)
    with pytest.raises(ConnectionError):
        await quotes.call(answering([], *[(0.1, ConnectionError("down"))] * 2))
    await asyncio.sleep(60)

    assert await quotes.call(answering(log, 3.0, 0.1)) == 0
    assert log == ["begin 0"]


async def test_quantile_is_learnt_before_anything_is_hedged(recovery: ErrorRecoveryService) -> None:
    """Twenty answers of 0.1 s: then one that takes long is asked again soon after."""
    quotes = recovery.service("quotes", hedge_after="p95")
    for _ in range(20):
        await quotes.call(answering([], 0.1, 0.1))
    log: list[str] = []

    assert await quotes.call(answering(log, 60.0, 0.1)) == 1
    assert counts(recovery)["hedges"] == 1


async def test_services_budget_bounds_the_extra_load(recovery: ErrorRecoveryService) -> None:
    """When it is empty, there is one call and no more."""
    log: list[str] = []
    budget = RetryBudget(capacity=1)
    budget.take()
    quotes = recovery.service("quotes", hedge_after=1.0, retry_budget=budget)

    assert await quotes.call(answering(log, 3.0, 0.1)) == 0
    assert log == ["begin 0"]


async def test_unsafe_call_is_never_hedged(recovery: ErrorRecoveryService) -> None:
    """Refused when the handle is built, whichever half comes first."""
    with pytest.raises(ValueError, match="it would be sent twice"):
        recovery.service("orders", hedge_after=1.0, effect="unsafe")
    with pytest.raises(ValueError, match="it would be sent twice"):
        recovery.service("orders", hedge_after=1.0).using(effect="unsafe")


async def test_wrong_arguments_are_raised_at_once(recovery: ErrorRecoveryService) -> None:
    """And counted nowhere."""
    with pytest.raises(TypeError):
        await recovery.service("quotes", hedge_after=1.0).call(answering([], 1.0), 5)  # type: ignore[call-arg]  # wrong on purpose
    assert recovery.get_error_summary()["total_errors"] == 0


async def test_hedge_stands_alone(clock: VirtualClock) -> None:
    """As a decorator of its own."""
    begun = clock.monotonic()
    fetch = Hedge(hedge_after=0.5)(answering([], 60.0, 0.25))

    assert await fetch() == 1
    assert clock.monotonic() - begun == 0.75

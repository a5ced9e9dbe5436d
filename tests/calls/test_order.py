"""The built-in order of the policies, pair by pair: what each layer sees of the one around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import (
    AttemptTimeoutError,
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorRecoveryService,
    RateLimitedError,
    ServiceStatus,
    attempts_of,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


async def answers() -> str:
    return "answer"


def counts(recovery: ErrorRecoveryService) -> dict[str, Any]:
    found: dict[str, Any] = recovery.get_health_status()["services"]["api"]
    return found


async def test_a_fallback_stands_outside_the_deadline(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It answers when the time is up, and has time of its own."""

    async def slow_second_source() -> str:
        await clock.sleep(10)
        return "second"

    async def hangs() -> str:
        await clock.sleep(3600)
        return "never"

    api = recovery.service("api", deadline=2.0, fallback=slow_second_source)
    began = clock.monotonic()
    assert await api.call(hangs) == "second"
    assert clock.monotonic() - began == 12.0


async def test_a_fallback_stands_outside_the_retry(recovery: ErrorRecoveryService, script: Script) -> None:
    """It is asked once, after the last attempt, and not repeated."""
    fetch, second = script(ConnectionError()), script(OSError("second"))
    with pytest.raises(OSError, match="second"):
        await recovery.service("api", max_retries=2, fallback=second).call(fetch)
    assert (fetch.calls, second.calls) == (3, 1)


async def test_a_fallback_stands_outside_the_limits(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It answers for a refused call without a place of its own."""
    api = recovery.service("api", max_concurrent=1, fallback="second")
    holding = asyncio.create_task(api.call(clock.sleep, 5))
    await asyncio.sleep(0)
    assert await api.call(answers) == "second"
    await holding


async def test_the_deadline_covers_attempts_waits_and_queues(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """Whatever the time goes into."""
    api = recovery.service("api", rate_limit="1/10s", deadline=15.0, base_delay=1.0)
    began = clock.monotonic()
    with pytest.raises(ConnectionError) as raised:
        await api.call(script(ConnectionError()))
    # At once, at 10 s when the rate allows it, and a third one could not be sent before 20 s.
    assert len(attempts_of(raised.value)) == 2
    assert clock.monotonic() - began <= 15.0


async def test_each_attempt_asks_the_circuit(recovery: ErrorRecoveryService, script: Script) -> None:
    """The breaker counts attempts, and ends the loop when it opens."""
    fetch = script(ConnectionError())
    with pytest.raises(ConnectionError):
        await recovery.service("api", max_retries=5, circuit_threshold=2).call(fetch)
    assert fetch.calls == 2
    assert recovery.is_circuit_open("api")


async def test_each_attempt_pays_for_its_rate(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A retry is a request like any."""
    fetch = script(ConnectionError(), ConnectionError(), "answer")
    api = recovery.service("api", rate_limit="1/10s", base_delay=1.0)
    assert await api.call(fetch) == "answer"
    assert fetch.times == [0.0, 10.0, 20.0]


async def test_an_open_circuit_costs_no_rate(recovery: ErrorRecoveryService, script: Script) -> None:
    """A refused call was not sent."""
    api = recovery.service("api", rate_limit="2/h", circuit_threshold=1, circuit_timeout=10.0, max_retries=0)
    with pytest.raises(ConnectionError):
        await api.call(script(ConnectionError()))
    for _ in range(5):
        with pytest.raises(CircuitOpenError):
            await api.call(script("never"))
    await asyncio.sleep(10)
    assert await api.call(script("answer")) == "answer"  # the second of two


async def test_a_place_is_not_held_while_the_rate_is_waited_for(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """The rate limit stands outside the bulkhead."""
    api = recovery.service("api", rate_limit="1/10s", max_concurrent=1, max_queue=5)
    await api.call(script("first"))
    waiting = asyncio.create_task(api.call(script("second")))
    await clock.sleep(1)
    assert (counts(recovery)["in_flight"], counts(recovery)["queued"]) == (0, 1)
    assert await waiting == "second"


async def test_a_place_is_not_held_between_two_attempts(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """The retry stands outside the bulkhead: somebody else may go meanwhile."""
    api = recovery.service("api", max_concurrent=1, base_delay=5.0)
    repeating = asyncio.create_task(api.call(script(ConnectionError(), "answer")))
    await clock.sleep(1)
    assert await api.call(script("another")) == "another"
    assert await repeating == "answer"


async def test_the_attempt_timeout_does_not_count_our_own_queues(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It measures the other side: queueing for 5 s is no timeout of 2 s, and no slow call."""
    api = recovery.service("api", max_concurrent=1, max_queue=5, timeout=2.0, max_retries=0)
    holding = asyncio.create_task(api.using(timeout=None).call(clock.sleep, 5))
    await asyncio.sleep(0)
    await api.call(clock.sleep, 1.5)
    await holding
    assert counts(recovery)["timeouts"] == 0
    with pytest.raises(AttemptTimeoutError):
        await api.call(clock.sleep, 2.5)


async def test_an_attempt_timeout_counts_for_the_circuit_and_is_repeated(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It stands inside both."""
    api = recovery.service("api", timeout=1.0, max_retries=5, circuit_threshold=3, base_delay=0.5)
    with pytest.raises(AttemptTimeoutError) as raised:
        await api.call(clock.sleep, 60)
    assert len(attempts_of(raised.value)) == 3
    assert recovery.is_circuit_open("api")


@pytest.mark.parametrize(
    ("limits", "refusal"),
    [
        ({"max_concurrent": 1}, BulkheadFullError),
        ({"rate_limit": "1/min", "max_wait": 1.0}, RateLimitedError),
    ],
)
async def test_a_refusal_of_our_own_is_no_verdict_on_the_service(
    recovery: ErrorRecoveryService, clock: VirtualClock, limits: dict[str, Any], refusal: type[Exception]
) -> None:
    """It is neither repeated nor counted: the circuit stands outside the limits and does not hear of it."""
    api = recovery.service("api", circuit_threshold=1, max_retries=3, **limits)
    holding = asyncio.create_task(api.call(clock.sleep, 30))
    await asyncio.sleep(0)
    began = clock.monotonic()
    with pytest.raises(refusal):
        await api.call(clock.sleep, 1)
    assert clock.monotonic() == began
    assert not recovery.is_circuit_open("api")
    assert api.status is ServiceStatus.OPERATIONAL
    await holding


async def test_a_deadline_ends_a_hedged_call_with_all_its_requests(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The deadline stands outside the hedge, the attempt timeout inside."""
    api = recovery.service("api", deadline=2.0, hedge_after=0.5)
    began = clock.monotonic()
    with pytest.raises(DeadlineExceededError):
        await api.call(clock.sleep, 60)
    assert clock.monotonic() - began == 2.0
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}

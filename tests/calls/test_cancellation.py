"""
Cancellation always wins: never swallowed, retried, recorded or delayed, at any await of any form.

Each case is run again and again, cancelled at one await more each time, until it ends by itself; or after
one step more, which is a turn of the loop, and now and then a quarter of a virtual second.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shockproof import CircuitOpenError, ErrorRecoveryService, Handle, LastGood, OnError
from shockproof.testing import VirtualClock, cancel_at_each_await

pytestmark = pytest.mark.asyncio

Function = Callable[[], Awaitable[str]]
_MOST_STEPS = 400


class Callee:
    """Works for a while at each call, fails the first few times, and knows how often it was begun and ended."""

    def __init__(self, clock: VirtualClock, failures: int) -> None:
        self.clock = clock
        self.failures = failures
        self.begun = self.ended = 0

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await asyncio.sleep(0)
            await self.clock.sleep(0.25)
            await asyncio.sleep(0)
        finally:
            self.ended += 1
        if self.begun <= self.failures:
            raise ConnectionError(f"failure {self.begun}")
        return "answer"


async def stand_in() -> str:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return "stand-in"


async def failing_stand_in() -> str:
    await asyncio.sleep(0)
    # A refusal makes no record, which would be taken for one of the cancellation.
    raise CircuitOpenError("cache")


async def called(recovery: ErrorRecoveryService, handle: Handle, function: Function) -> str:
    return await handle.call(function)


async def decorated(recovery: ErrorRecoveryService, handle: Handle, function: Function) -> str:
    return await handle(function)()


async def guarded(recovery: ErrorRecoveryService, handle: Handle, function: Function) -> str:
    async with handle.guard():
        return await function()


async def repeated(recovery: ErrorRecoveryService, handle: Handle, function: Function) -> str:
    async for attempt in handle.attempts():
        async with attempt:
            return await function()
    raise AssertionError("the loop ended without an answer and without an error")


async def with_fallback(recovery: ErrorRecoveryService, handle: Handle, function: Function) -> str:
    result: str = await recovery.with_fallback(function, stand_in, service_name="api", max_retries=1)
    return result


async def retried(recovery: ErrorRecoveryService, handle: Handle, function: Function) -> str:
    return await recovery.retry_with_backoff(function, service_name="api", max_retries=2)


async def plain(recovery: ErrorRecoveryService, handle: Handle, function: Function) -> str:
    # A plain function in a thread, whose awaitable result is awaited on the loop.
    return await handle.call(lambda _: function(), None)


ON_THE_LOOP = (called, decorated, guarded, repeated, with_fallback, retried)
FORMS = (*ON_THE_LOOP, plain)

OPTIONS: dict[str, dict[str, Any]] = {
    "bare": {},
    "timeout": {"timeout": 30.0},
    "short timeout": {"timeout": 0.125},
    "timeout and deadline": {"timeout": 1.0, "deadline": 2.0},
    "own task": {"timeout": 1.0, "grace": 0.5},
    "short timeout in own task": {"timeout": 0.125, "grace": 0.5},
    "no waits": {"base_delay": 0.0},
    "fallback": {"fallback": stand_in, "max_retries": 1},
    "fallback chain": {
        "fallback": [
            OnError(KeyError, 1),
            failing_stand_in,
            LastGood(max_age=60.0),
            OnError(OSError, stand_in),
        ],
        "max_retries": 1,
    },
    "unwanted results": {"retry_if_result": lambda result: False},
    "unsafe": {"effect": "unsafe"},
}


async def step(clock: VirtualClock, number: int) -> None:
    if number % 6 == 5:
        await clock.sleep(0.25)
    else:
        await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def state_of(recovery: ErrorRecoveryService) -> Any:
    state = recovery._registry.get("api")
    assert state is not None
    return state


@pytest.mark.parametrize("failures", [0, 1, 99])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("form", ON_THE_LOOP)
async def test_a_cancellation_at_any_await_comes_out_at_once(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    form: Callable[..., Awaitable[str]],
    options: dict[str, Any],
    failures: int,
) -> None:
    """CancelledError, in no time, once; nothing recorded for it, nothing counted twice, nothing left running."""
    recovery.service("api", circuit_threshold=None, base_delay=0.5)
    handle = recovery.service("api", **{"max_retries": 2, "base_delay": 0.5, **options})
    callee, cancelled_in_flight = Callee(clock, failures), 0

    def call() -> Awaitable[str]:
        nonlocal callee
        callee = Callee(clock, failures)
        return form(recovery, handle, callee)

    errors_before = 0
    async for run in cancel_at_each_await(call):
        begun = callee.begun
        errors = recovery.get_health_status()["recent_error_count"] - errors_before
        errors_before += errors
        if not run.was_cancelled:
            continue
        assert run.delay == 0, f"{run}: the cancellation was delayed"
        assert callee.ended == begun, f"{run}: the callee runs on"
        await settle()
        assert callee.begun == begun, f"{run}: the callee ran again"
        assert errors <= begun, f"{run}: the cancellation was recorded as an error"
        cancelled_in_flight += 1
    assert cancelled_in_flight >= 2
    state = state_of(recovery)
    assert state.abandoned_attempts == state.abandoned_threads == 0
    assert not state.waiting
    assert not recovery.is_circuit_open("api")


@pytest.mark.parametrize("failures", [0, 99])
@pytest.mark.parametrize("options", ["bare", "timeout", "own task", "fallback", "unwanted results"])
@pytest.mark.parametrize("form", ON_THE_LOOP)
async def test_a_cancelled_probe_gives_its_place_back_after_any_number_of_steps(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    form: Callable[..., Awaitable[str]],
    options: str,
    failures: int,
) -> None:
    """At a half-open circuit the next caller is let in at once, and the cancellation is no verdict."""
    recovery.service("api", circuit_threshold=1, circuit_timeout=50.0, probe_lease=10_000.0)
    handle = recovery.service("api", **{"max_retries": 2, "base_delay": 0.5, **OPTIONS[options]})

    async def fails() -> str:
        raise ConnectionError("down")

    async def answers() -> str:
        return "answer"

    for steps in itertools.count():
        assert steps < _MOST_STEPS, "the call never ended by itself"
        recovery.reset_circuit_breaker("api")
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fails, service_name="api", max_retries=0)
        await clock.sleep(50)
        assert recovery.get_health_status()["circuit_breakers"] == {"api": "half-open"}
        callee = Callee(clock, failures)

        async def call(callee: Callee = callee) -> str:
            return await form(recovery, handle, callee)

        task: asyncio.Task[str] = asyncio.create_task(call())
        for number in range(steps):
            await step(clock, number)
        verdict = recovery.get_health_status()["circuit_breakers"]["api"]
        if task.done():
            await asyncio.gather(task, return_exceptions=True)
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The probe's own end, before the cancellation, may have been a verdict; the cancellation is none.
        assert recovery.get_health_status()["circuit_breakers"]["api"] == verdict
        if verdict == "half-open":
            assert await recovery.retry_with_backoff(answers, service_name="api") == "answer"
            assert recovery.get_health_status()["circuit_breakers"]["api"] == "closed"


async def test_a_cancellation_is_not_delayed_by_a_refusing_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A task that is cancelled before its first step never calls, and holds nothing."""
    recovery.service("api", circuit_threshold=1)
    callee = Callee(clock, 0)
    task = asyncio.create_task(recovery.retry_with_backoff(callee, service_name="api"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert callee.begun == 0


async def test_a_cancelled_call_in_a_closed_circuit_neither_counts_nor_resets(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Between two failures it changes nothing: the second one opens the circuit."""
    recovery.service("api", circuit_threshold=2, max_retries=0)

    async def fails() -> None:
        raise ConnectionError("down")

    for expected in (False, True):
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fails, service_name="api", max_retries=0)
        assert recovery.is_circuit_open("api") is expected
        if not expected:
            for _ in range(5):
                task = asyncio.create_task(recovery.retry_with_backoff(clock.sleep, 50, service_name="api"))
                await clock.sleep(1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
    with pytest.raises(CircuitOpenError):
        await recovery.retry_with_backoff(fails, service_name="api")


@pytest.mark.parametrize("form", FORMS)
async def test_a_cancellation_during_the_callees_cleanup_comes_out(
    recovery: ErrorRecoveryService, clock: VirtualClock, form: Callable[..., Awaitable[str]]
) -> None:
    """The callee may await in its finally; what comes out is still the cancellation."""
    cleaned: list[bool] = []

    async def careful() -> str:
        try:
            await clock.sleep(50)
        finally:
            await clock.sleep(1)
            cleaned.append(True)
        return "answer"

    async def call() -> str:
        return await form(recovery, recovery.service("api"), careful)

    task = asyncio.create_task(call())
    await clock.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [True]
    assert recovery.get_error_summary()["total_errors"] == 0


@pytest.mark.parametrize("form", FORMS)
async def test_an_error_while_the_callee_is_cancelled_is_the_callees_own(
    recovery: ErrorRecoveryService, clock: VirtualClock, form: Callable[..., Awaitable[str]]
) -> None:
    """
    A callee that turns its cancellation into an error hides it from us; the retry must not go on as if
    nobody had asked to stop.
    """
    begun: list[int] = []

    async def stubborn() -> str:
        begun.append(1)
        try:
            await clock.sleep(50)
        except asyncio.CancelledError:
            raise ConnectionError("connection lost while being cancelled") from None
        return "answer"

    async def call() -> str:
        return await form(recovery, recovery.service("api", max_retries=2), stubborn)

    task = asyncio.create_task(call())
    await clock.sleep(5)
    task.cancel()
    results = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(results[0], ConnectionError | asyncio.CancelledError)
    assert len(begun) == 1


@pytest.mark.parametrize("form", FORMS)
async def test_a_group_that_holds_a_cancellation_passes_untouched(
    recovery: ErrorRecoveryService, clock: VirtualClock, form: Callable[..., Awaitable[str]]
) -> None:
    """Also beside a failure: not retried, not recorded, not answered by a fallback."""
    group = BaseExceptionGroup("both", [ConnectionError("no"), asyncio.CancelledError()])
    begun: list[int] = []

    async def raises() -> str:
        begun.append(1)
        raise group

    with pytest.raises(BaseExceptionGroup) as raised:
        await form(recovery, recovery.service("api", fallback=stand_in), raises)
    assert raised.value is group
    assert begun == [1]
    assert recovery.get_error_summary()["total_errors"] == 0
    assert state_of(recovery).failures == 0


LIMITS: dict[str, dict[str, Any]] = {
    "a full bulkhead with a queue": {"max_concurrent": 1, "max_queue": 5},
    "a bulkhead and a bounded wait": {"max_concurrent": 1, "max_queue": 5, "max_wait": 30.0},
    "a rate": {"rate_limit": "1/2s"},
    "a rate and a bulkhead": {"rate_limit": "1/2s", "max_concurrent": 1, "max_queue": 5},
}


@pytest.mark.parametrize("options", ["bare", "timeout", "own task", "unwanted results"])
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
@pytest.mark.parametrize("form", ON_THE_LOOP)
async def test_what_a_cancelled_call_took_of_the_limits_is_given_back_after_any_number_of_steps(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    form: Callable[..., Awaitable[str]],
    limits: dict[str, Any],
    options: str,
) -> None:
    """Permits and places in the queue: another call is under way first, so that the cancelled one waits."""
    recovery.service("api", circuit_threshold=None, **limits)
    handle = recovery.service("api", **{"max_retries": 1, "base_delay": 0.5, **OPTIONS[options]})

    async def holds() -> str:
        await clock.sleep(0.75)
        return "held"

    def in_use() -> tuple[int | None, int]:
        found = recovery.get_health_status()["services"]["api"]
        return found["in_flight"], found["queued"]

    for steps in itertools.count():
        assert steps < _MOST_STEPS, "the call never ended by itself"
        await clock.sleep(10)  # the rate has recovered
        holding = asyncio.create_task(recovery.service("api").call(holds))
        await asyncio.sleep(0)
        callee = Callee(clock, 1)

        async def call(callee: Callee = callee) -> str:
            return await form(recovery, handle, callee)

        task: asyncio.Task[str] = asyncio.create_task(call())
        for number in range(steps):
            await step(clock, number)
        if task.done():
            await asyncio.gather(task, holding, return_exceptions=True)
            break
        task.cancel()
        cancelled_at = clock.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.monotonic() == cancelled_at, "the cancellation was delayed"
        assert callee.ended == callee.begun
        assert await holding == "held"
        assert in_use() in {(0, 0), (None, 0)}
    await clock.sleep(10)
    if form is guarded:
        async with handle.guard():
            assert in_use()[0] in {1, None}
    assert await recovery.service("api").call(holds) == "held"


async def test_a_turn_that_a_cancelled_call_had_in_the_rate_goes_to_the_next(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A call that did not run pays nothing: the one behind it moves up, after any number of steps."""
    api = recovery.service("api", rate_limit="1/2s", circuit_threshold=None)

    async def answers() -> float:
        return clock.monotonic()

    for steps in range(12):
        await clock.sleep(100)
        began = await api.call(answers)
        cancelled = asyncio.create_task(api.call(answers))
        await asyncio.sleep(0)
        behind = asyncio.create_task(api.call(answers))
        for number in range(steps):
            await step(clock, number)
        if not cancelled.cancel():
            break
        await asyncio.gather(cancelled, return_exceptions=True)
        assert cancelled.cancelled()
        assert await behind - began == 2.0

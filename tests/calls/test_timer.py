"""Time limits: ours told from the callee's own and from the caller's, at any nesting and in any order."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    AttemptTimeoutError,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorRecoveryService,
    Handle,
    attempts_of,
)
from shockproof.calls.timer import BLOCKS, LimitQueue
from shockproof.testing import VirtualClock, cancel_at_each_await

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]
Run = Callable[[Handle, Callable[[], Awaitable[Any]]], Awaitable[Any]]


async def called(handle: Handle, function: Callable[[], Awaitable[Any]]) -> Any:
    return await handle.call(function)


async def decorated(handle: Handle, function: Callable[[], Awaitable[Any]]) -> Any:
    return await handle(function)()


async def guarded(handle: Handle, function: Callable[[], Awaitable[Any]]) -> Any:
    async with handle.guard():
        return await function()


async def repeated(handle: Handle, function: Callable[[], Awaitable[Any]]) -> Any:
    async for attempt in handle.attempts():
        async with attempt:
            return await function()
    raise AssertionError("the loop ended without an answer and without an error")


every_form = pytest.mark.parametrize("run", [called, decorated, guarded, repeated])


def counts(recovery: ErrorRecoveryService, name: str = "api") -> tuple[int, int]:
    """Successes and failures."""
    found = recovery.get_health_status()["services"][name]
    return found["successes"], found["failures"]


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


# -- one limit ---------------------------------------------------------------------------------------


@every_form
async def test_an_attempt_that_takes_too_long_is_ended(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """At its timeout, with an error that names the service and the seconds; the task is as before."""
    api = recovery.service("api", timeout=2.0, max_retries=0)
    began = clock.monotonic()
    for _ in range(2):
        with pytest.raises(AttemptTimeoutError, match=r"'api'.*2 s") as raised:
            await run(api, lambda: clock.sleep(50))
        assert raised.value.seconds == 2.0
        assert cancelling() == 0
    assert clock.monotonic() - began == 4.0
    assert counts(recovery) == (0, 2)
    async with asyncio.timeout(10):  # the task is none the worse
        await clock.sleep(1)


@every_form
async def test_the_timeouts_cause_shows_where_the_attempt_hung(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """The cancellation that ended it, with the callee's frames."""

    async def hangs_here() -> None:
        await clock.sleep(50)

    with pytest.raises(AttemptTimeoutError) as raised:
        await run(recovery.service("api", timeout=2.0, max_retries=0), hangs_here)
    cause = raised.value.__cause__
    assert isinstance(cause, asyncio.CancelledError)
    assert "hangs_here" in [frame.name for frame in traceback.extract_tb(cause.__traceback__)]


@every_form
async def test_an_attempt_that_ends_in_time_is_not_touched(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """Neither then nor later."""
    api = recovery.service("api", timeout=2.0)
    await run(api, lambda: clock.sleep(1.75))
    await clock.sleep(50)
    assert counts(recovery) == (1, 0)


@every_form
async def test_a_timeout_is_retried_like_any_failure(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """Each attempt has the whole timeout; a guard has one attempt."""
    api = recovery.service("api", timeout=2.0, max_retries=2)
    began = clock.monotonic()
    with pytest.raises(AttemptTimeoutError) as raised:
        await run(api, lambda: clock.sleep(50))
    expected = (2.0, 1) if run is guarded else (9.0, 3)
    assert (clock.monotonic() - began, len(attempts_of(raised.value))) == expected


@every_form
async def test_the_callees_own_timeout_error_passes_unchanged(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """Its own is its own, also when it comes from asyncio.timeout inside."""
    own = TimeoutError("the callee's own")

    async def fails() -> None:
        raise own

    async def limits_itself() -> None:
        async with asyncio.timeout(1):
            await clock.sleep(50)

    api = recovery.service("api", timeout=2.0, max_retries=0)
    with pytest.raises(TimeoutError) as raised:
        await run(api, fails)
    assert raised.value is own
    with pytest.raises(TimeoutError) as raised:
        await run(api, limits_itself)
    assert not isinstance(raised.value, AttemptTimeoutError)
    assert cancelling() == 0
    assert recovery.get_health_status()["services"]["api"]["timeouts"] == 0


@every_form
async def test_asyncio_timeout_around_us_is_the_callers_cancellation(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """The outer limit is shorter: asyncio's TimeoutError comes out of its block, and we count nothing."""
    api = recovery.service("api", timeout=5.0)
    with pytest.raises(TimeoutError) as raised:
        async with asyncio.timeout(1):
            await run(api, lambda: clock.sleep(50))
    assert not isinstance(raised.value, AttemptTimeoutError)
    assert counts(recovery) == (0, 0)
    assert cancelling() == 0


@every_form
async def test_our_timeout_inside_a_longer_asyncio_timeout_is_ours(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """The outer block is not ended by it, and still works afterwards."""
    api = recovery.service("api", timeout=1.0, max_retries=0)
    with pytest.raises(TimeoutError) as raised:  # noqa: PT012 - the block is what is tested
        async with asyncio.timeout(5) as outer:
            with pytest.raises(AttemptTimeoutError):
                await run(api, lambda: clock.sleep(50))
            assert cancelling() == 0
            await clock.sleep(50)
    assert outer.expired()
    assert not isinstance(raised.value, AttemptTimeoutError)
    assert cancelling() == 0


@every_form
async def test_our_timeout_around_a_longer_asyncio_timeout_is_ours(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """asyncio.timeout inside the callee passes our cancellation on."""

    async def limits_itself() -> None:
        async with asyncio.timeout(5):
            await clock.sleep(50)

    with pytest.raises(AttemptTimeoutError):
        await run(recovery.service("api", timeout=1.0, max_retries=0), limits_itself)
    assert cancelling() == 0


@every_form
async def test_a_task_group_inside_the_callee_is_ended_with_it(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """Its tasks are cancelled, and what comes out is our timeout."""
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await clock.sleep(50)
        finally:
            ended.append(name)

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child("a"))
            tasks.create_task(child("b"))

    with pytest.raises(AttemptTimeoutError):
        await run(recovery.service("api", timeout=1.0, max_retries=0), group)
    assert sorted(ended) == ["a", "b"]
    assert cancelling() == 0


@every_form
async def test_a_task_group_around_us_cancels_us_as_the_caller(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """A sibling's failure ends our call: neutral for us."""

    async def fails() -> None:
        await clock.sleep(1)
        raise ZeroDivisionError

    api = recovery.service("api", timeout=5.0)
    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012 - the block is what is tested
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
            call = tasks.create_task(run(api, lambda: clock.sleep(50)))  # type: ignore[arg-type]  # a coroutine
    assert [type(error) for error in raised.value.exceptions] == [ZeroDivisionError]
    assert call.cancelled()
    assert counts(recovery) == (0, 0)


# -- ours in ours ------------------------------------------------------------------------------------


@every_form
async def test_the_timer_of_an_outer_service_is_the_callers_cancellation_for_an_inner_one(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """The outer one fails, the inner one counts nothing."""
    outer = recovery.service("outer", timeout=1.0, max_retries=0)
    inner = recovery.service("inner", timeout=5.0)
    with pytest.raises(AttemptTimeoutError, match="'outer'"):
        await run(outer, lambda: run(inner, lambda: clock.sleep(50)))
    assert counts(recovery, "outer") == (0, 1)
    assert counts(recovery, "inner") == (0, 0)
    assert cancelling() == 0


@every_form
async def test_the_timer_of_an_inner_service_is_a_failure_of_both(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """For the outer one it is an error like any, passed unchanged."""
    outer = recovery.service("outer", timeout=5.0, max_retries=0)
    inner = recovery.service("inner", timeout=1.0, max_retries=0)
    with pytest.raises(AttemptTimeoutError, match="'inner'"):
        await run(outer, lambda: run(inner, lambda: clock.sleep(50)))
    assert counts(recovery, "outer") == (0, 1)
    assert counts(recovery, "inner") == (0, 1)


@every_form
async def test_when_two_of_ours_fire_in_one_turn_the_outer_one_wins(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """The same limit begun at the same moment: the inner one is neutral, the task as before."""
    outer = recovery.service("outer", timeout=2.0, max_retries=0)
    inner = recovery.service("inner", timeout=2.0, max_retries=0)
    with pytest.raises(AttemptTimeoutError, match="'outer'"):
        await run(outer, lambda: run(inner, lambda: clock.sleep(50)))
    assert counts(recovery, "outer") == (0, 1)
    assert counts(recovery, "inner") == (0, 0)
    assert cancelling() == 0


# -- the same turn as the user's cancellation --------------------------------------------------------


@every_form
@pytest.mark.parametrize("first", ["ours", "the user's"])
async def test_a_cancellation_in_the_same_turn_as_our_expiry_wins(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run, first: str
) -> None:
    """Whichever comes first in the turn: CancelledError comes out, and nothing is counted."""
    api = recovery.service("api", timeout=2.0)
    loop = asyncio.get_running_loop()
    handles: list[asyncio.TimerHandle] = []

    async def hangs() -> None:
        await clock.sleep(50)

    async def call() -> None:
        await run(api, hangs)

    task: asyncio.Task[None] = loop.create_task(call())
    if first == "the user's":  # registered before our timer, so first among those that are due
        handles.append(loop.call_later(2.0, task.cancel))
    await asyncio.sleep(0)
    if first == "ours":
        handles.append(loop.call_later(2.0, task.cancel))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() >= 1
    assert counts(recovery) == (0, 0)
    assert recovery.get_error_summary()["total_errors"] == 0


@every_form
async def test_a_second_cancellation_while_ours_is_under_way_wins(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """The callee takes its time to clean up after our timeout; meanwhile the user cancels."""
    api = recovery.service("api", timeout=2.0)

    async def slow_to_end() -> None:
        try:
            await clock.sleep(50)
        finally:
            await clock.sleep(3)

    async def call() -> None:
        await run(api, slow_to_end)

    task = asyncio.create_task(call())
    await clock.sleep(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counts(recovery) == (0, 0)


@every_form
async def test_a_limit_in_the_cleanup_of_a_cancelled_task_works(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """The task has been cancelled before; its count stays what it was, and ours is still told apart."""
    api = recovery.service("api", timeout=2.0, max_retries=0)
    found: list[object] = []

    async def work() -> None:
        try:
            await clock.sleep(50)
        finally:
            try:
                await run(api, lambda: clock.sleep(50))
            except AttemptTimeoutError as error:
                found.append(error.seconds)
            found.append(cancelling())

    task = asyncio.create_task(work())
    await clock.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert found == [2.0, 1]


# -- callees with a will of their own ----------------------------------------------------------------


@every_form
async def test_an_answer_in_spite_of_our_cancellation_is_the_answer(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """A real result that arrives with the timer is the result; our cancellation is taken back."""

    async def answers_anyway() -> str:
        try:
            await clock.sleep(50)
        except asyncio.CancelledError:
            return "answer"
        raise AssertionError("must be cancelled")

    assert await run(recovery.service("api", timeout=1.0), answers_anyway) == "answer"
    assert cancelling() == 0
    assert counts(recovery) == (1, 0)


@every_form
async def test_an_error_in_spite_of_our_cancellation_is_the_error(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """The user's exception is never masked by our timeout."""

    async def fails_anyway() -> None:
        try:
            await clock.sleep(50)
        except asyncio.CancelledError:
            raise ZeroDivisionError from None

    with pytest.raises(ZeroDivisionError):
        await run(recovery.service("api", timeout=1.0, max_retries=0), fails_anyway)
    assert cancelling() == 0
    assert counts(recovery) == (0, 1)


@every_form
async def test_a_callee_that_cancels_itself_is_not_a_timeout(
    recovery: ErrorRecoveryService, clock: VirtualClock, run: Run
) -> None:
    """A CancelledError of the callee's own, for example of a future it awaits, passes and counts nowhere."""

    async def awaits_a_cancelled_future() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(asyncio.CancelledError):
        await run(recovery.service("api", timeout=1.0), awaits_a_cancelled_future)
    assert counts(recovery) == (0, 0)
    await clock.sleep(5)
    assert cancelling() == 0


# -- a stalled loop ----------------------------------------------------------------------------------


async def test_our_own_stall_does_not_open_the_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A timer that fires long after its time says that our loop stood still, not that the venue is down."""
    api = recovery.service("api", timeout=1.0, max_retries=0, circuit_threshold=1)

    async def blocks_the_loop() -> None:
        await asyncio.sleep(0)
        clock.advance(30)  # as a long computation on the loop would
        await clock.sleep(5)

    with pytest.raises(TimeoutError):
        await api.call(blocks_the_loop)
    assert not recovery.is_circuit_open("api")


async def test_a_timeout_without_a_stall_does_open_the_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The counterpart: the same without the stall is a failure like any."""
    api = recovery.service("api", timeout=1.0, max_retries=0, circuit_threshold=1)
    with pytest.raises(TimeoutError):
        await api.call(clock.sleep, 5)
    assert recovery.is_circuit_open("api")


async def test_many_calls_that_are_late_at_once_all_get_their_timeout(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """None is forgotten, none is ended twice, and those that came in later have their whole time."""
    api = recovery.service("api", timeout=2.0, max_retries=0, circuit_threshold=None)
    began = clock.monotonic()
    early = [asyncio.create_task(api.call(clock.sleep, 50)) for _ in range(300)]
    await clock.sleep(1)
    later = [asyncio.create_task(api.call(clock.sleep, 1.75)) for _ in range(300)]
    results = await asyncio.gather(*early, return_exceptions=True)
    assert [type(result) for result in results] == [AttemptTimeoutError] * 300
    assert clock.monotonic() - began == 2.0
    assert await asyncio.gather(*later) == [None] * 300
    assert clock.monotonic() - began == 2.75
    assert counts(recovery) == (300, 300)


# -- deadlines ---------------------------------------------------------------------------------------


async def test_a_deadline_that_ends_an_attempt(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """DeadlineExceededError, with the seconds of the deadline; no other attempt follows."""
    began = clock.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"'api'.*3 s") as raised:
        await recovery.service("api", deadline=3.0).call(clock.sleep, 50)
    assert raised.value.seconds == 3.0
    assert isinstance(raised.value, TimeoutError)
    assert clock.monotonic() - began == 3.0
    assert len(attempts_of(raised.value)) == 1


async def test_a_deadline_shortens_the_last_attempt(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """2 s, a wait of 1 s, and what is left: 1.5 s of a timeout of 2 s."""
    began = clock.monotonic()
    with pytest.raises(DeadlineExceededError) as raised:
        await recovery.service("api", timeout=2.0, deadline=4.5).call(clock.sleep, 50)
    assert clock.monotonic() - began == 4.5
    assert [attempt.duration for attempt in attempts_of(raised.value)] == [2.0, 1.5]
    assert [attempt.error_type for attempt in attempts_of(raised.value)] == [
        "AttemptTimeoutError",
        "DeadlineExceededError",
    ]


async def test_a_deadline_that_would_pass_in_a_backoff_raises_the_last_real_error_at_once(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """No sleep that cannot end in an attempt."""
    error = ConnectionError("real")
    fetch = script(error)
    with pytest.raises(ConnectionError) as raised:
        await recovery.service("api", deadline=2.5).call(fetch)
    assert raised.value is error
    assert fetch.times == [0.0, 1.0]
    assert clock.monotonic() - fetch.began == 1.0


async def test_a_deadline_counts_from_the_call(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Not from when the handle was made, and anew for each call."""
    api = recovery.service("api", deadline=3.0, max_retries=0)
    await clock.sleep(100)
    for _ in range(3):
        await api.call(clock.sleep, 2.5)
    assert counts(recovery) == (3, 0)


async def test_a_deadline_is_answered_by_the_fallback(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It is a failure like any; the fallback stands outside it."""

    async def cached(seconds: float) -> str:
        await clock.sleep(10)
        return "cached"

    assert await recovery.service("api", deadline=3.0, fallback=cached).call(clock.sleep, 50) == "cached"


# -- in a queue --------------------------------------------------------------------------------------


async def test_a_timeout_while_waiting_for_a_thread_is_neutral(clock: VirtualClock, tmp_path: Path) -> None:
    """The function did not run: no failure of the service, no record, and it never runs later."""
    recovery = ErrorRecoveryService(tmp_path, tmp_path, max_threads=1, clock=clock, circuit_threshold=1)
    release, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    ran: list[str] = []

    def hang() -> None:
        loop.call_soon_threadsafe(begun.set)
        release.wait(60)

    api = recovery.service("api", timeout=1.0, max_retries=0)
    hanging = asyncio.create_task(api.using(timeout=None).call(hang))
    try:
        await begun.wait()
        queued = asyncio.create_task(api.call(ran.append, "queued"))
        await asyncio.sleep(0)
        clock.advance(1.0)  # time stands still while threads work: it is moved by hand
        with pytest.raises(TimeoutError):
            await queued
        assert recovery.get_error_summary()["total_errors"] == 0
        assert not recovery.is_circuit_open("api")
    finally:
        release.set()
    await hanging
    assert ran == []


async def test_a_refused_call_starts_no_timer(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """Refusals are immediate, whatever the limits are."""
    api = recovery.service("api", timeout=1.0, deadline=5.0, circuit_threshold=1, max_retries=0)
    with pytest.raises(ValueError, match="no"):
        await api.call(script(ValueError("no")))
    for _ in range(3):
        with pytest.raises(CircuitOpenError):
            await api.call(clock.sleep, 50)
    await clock.sleep(10)
    assert cancelling() == 0


# -- cancelled anywhere ------------------------------------------------------------------------------


def in_force() -> list[LimitQueue]:
    """The limits that would end somebody on this loop, if time passed."""
    loop: Any = asyncio.get_running_loop()
    looks = [
        getattr(handle._callback, "__self__", None) for handle in loop._scheduled if not handle.cancelled()
    ]
    queues = [queue for queue in looks if isinstance(queue, LimitQueue)]
    return [queue for queue in queues if queue.is_single or queue.waiting or queue.fired]


@every_form
@pytest.mark.parametrize("calls", [0.5, 60.0], ids=["in time", "late"])
@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 1.0},
        {"deadline": 2.0},
        {"timeout": 1.0, "deadline": 2.0},
        {"timeout": 1.0, "grace": 0.5},
        {"timeout": 1.0, "grace": 0.5, "deadline": 2.5},
    ],
    ids=str,
)
async def test_a_cancellation_at_each_await_leaves_no_limit_behind(
    recovery: ErrorRecoveryService, run: Run, options: dict[str, Any], calls: float
) -> None:
    """It comes out as the only one, and no timer is left that would end what the task does next."""
    api = recovery.service("api", circuit_threshold=None, max_retries=1, base_delay=0.25, **options)
    before = set(BLOCKS)
    cleaned_up = 0

    async def fetch() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(calls)
        return "answer"

    async def call() -> str:
        nonlocal cleaned_up
        try:
            answer: str = await run(api, fetch)
        except asyncio.CancelledError:
            assert cancelling() == 1
            cleaned_up += 1
            raise
        except (AttemptTimeoutError, DeadlineExceededError):
            assert cancelling() == 0
            return "late"
        return answer

    cancelled, found = 0, None
    async for one in cancel_at_each_await(call):
        assert one.delay == 0.0, str(one)
        assert in_force() == [], str(one)
        assert set(BLOCKS) == before, str(one)
        cancelled += one.was_cancelled
        found = one.result
    assert found == ("answer" if calls < 1 else "late")
    assert 3 < cancelled == cleaned_up

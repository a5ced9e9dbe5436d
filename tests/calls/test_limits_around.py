"""A retry knows the time limits of the calls around it, and begins no wait that one of them would cut."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from shockproof import (
    AttemptTimeoutError,
    BulkheadFullError,
    DeadlineExceededError,
    ErrorRecoveryService,
    Handle,
    RateLimitedError,
    RetryBudget,
    Timeout,
)
from shockproof.calls.limits_around import time_left_around
from shockproof.calls.timer import BLOCKS, UNNOTICED, queues_here
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]
Inner = Callable[[], Awaitable[Any]]


def assert_that_nothing_waits() -> None:
    assert not BLOCKS
    assert not any(queue.waiting or queue.fired for queue in queues_here())


async def decorated(outer: Handle, inner: Inner) -> Any:
    @outer
    async def call() -> Any:
        return await inner()

    return await call()


async def called(outer: Handle, inner: Inner) -> Any:
    return await outer.call(inner)


async def guarded(outer: Handle, inner: Inner) -> Any:
    async with outer.guard():
        return await inner()


async def repeated(outer: Handle, inner: Inner) -> Any:
    async for attempt in outer.attempts():
        async with attempt:
            return await inner()
    raise AssertionError("the loop ended without an answer and without an error")


async def in_own_task(outer: Handle, inner: Inner) -> Any:
    return await outer.using(grace=1.0).call(inner)


async def hedged(outer: Handle, inner: Inner) -> Any:
    return await outer.using(hedge_after=4.0).call(inner)


async def in_a_thread(outer: Handle, inner: Inner) -> Any:
    return await outer.call(lambda _: inner(), None)


async def in_limits(outer: Handle, inner: Inner) -> Any:
    outer.plan.runtime.declare(outer.service_name, {"max_concurrent": 3}, "here")
    return await outer.call(inner)


FORMS = (decorated, called, guarded, repeated, in_own_task, hedged, in_a_thread, in_limits)


async def gathered(inner: Inner) -> Any:
    return (await asyncio.gather(inner(), asyncio.sleep(0)))[0]


async def gathered_twice(inner: Inner) -> Any:
    return (await asyncio.gather(asyncio.gather(inner()), asyncio.sleep(0)))[0][0]


async def in_a_task_group(inner: Inner) -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_running(inner))
    except ExceptionGroup as several:
        (error,) = several.exceptions
        raise error from None
    return task.result()


async def in_a_task_that_is_awaited(inner: Inner) -> Any:
    return await asyncio.create_task(_running(inner))


async def in_a_task_of_a_task(inner: Inner) -> Any:
    return await asyncio.create_task(gathered(inner))


async def waited_for(inner: Inner) -> Any:
    return await asyncio.wait_for(inner(), timeout=600.0)


async def _running(inner: Inner) -> Any:
    return await inner()


CHILDREN = (
    gathered,
    gathered_twice,
    in_a_task_group,
    in_a_task_that_is_awaited,
    in_a_task_of_a_task,
    waited_for,
)


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
@pytest.mark.parametrize("form", FORMS)
async def test_a_wait_that_the_outer_limit_would_cut_is_not_begun(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    script: Script,
    form: Callable[[Handle, Inner], Awaitable[Any]],
    limit: str,
) -> None:
    """The caller gets the real error at once, and not a timeout later."""
    outer = recovery.service("outer", max_retries=0, **{limit: 5.0})
    inner = recovery.service("inner", max_retries=3, base_delay=5.0)
    fetch, began = script(ConnectionError("no")), clock.monotonic()
    with pytest.raises(ConnectionError) as raised:
        await form(outer, inner(fetch))
    legs = 2 if form is hedged else 1  # where one leg fails, the next is sent at once
    assert (fetch.calls, clock.monotonic() - began) == (legs, 0.0)
    assert any("the time limit of a call around it" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("form", FORMS)
async def test_a_wait_that_fits_into_the_outer_limit_is_begun(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    script: Script,
    form: Callable[[Handle, Inner], Awaitable[Any]],
) -> None:
    """Only what would be cut is left out: the second wait, not the first."""
    outer = recovery.service("outer", max_retries=0, deadline=5.0)
    inner = recovery.service("inner", max_retries=3, base_delay=2.0)
    fetch, began = script(ConnectionError("no")), clock.monotonic()
    with pytest.raises(ConnectionError):
        await form(outer, inner(fetch))
    legs = 2 if form is hedged else 1
    assert (fetch.calls, clock.monotonic() - began) == (2 * legs, 2.0 * legs)


async def test_what_is_left_counts_and_not_the_whole_limit(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """Four of five seconds are gone before the inner call is made."""
    outer = recovery.service("outer", max_retries=0, deadline=5.0)
    inner = recovery.service("inner", max_retries=3, base_delay=1.0)
    fetch = script(ConnectionError("no"))

    @outer
    async def slow() -> None:
        await clock.sleep(4.0)
        assert time_left_around() == 1.0
        await inner.call(fetch)

    with pytest.raises(ConnectionError):
        await slow()
    assert fetch.calls == 1


async def test_the_nearest_of_several_limits_counts(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Whichever layer would cut first, wherever it stands."""
    seen: list[float | None] = []

    async def look() -> None:
        seen.append(time_left_around())

    for inside, outside in ((3.0, 9.0), (9.0, 3.0)):
        outer = recovery.service(f"outer {outside}", timeout=outside)
        inner = recovery.service(f"inner {inside}", timeout=inside)
        await outer.call(inner.call, look)
        await decorated(outer, inner(look))
        async with outer.guard(), inner.guard():
            await look()
        async with Timeout(timeout=outside):
            await inner.call(look)
    assert seen == [3.0] * 8


async def test_a_wait_the_other_side_asked_for_is_not_begun_either(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A Retry-After is honoured within the limits around it, or not at all."""

    class TooManyError(Exception):
        retry_after = 7.0

    outer = recovery.service("outer", max_retries=0, deadline=5.0)
    inner = recovery.service("inner", max_retries=3, base_delay=0.1)
    fetch, began = script(TooManyError()), clock.monotonic()
    with pytest.raises(TooManyError):
        await outer.call(inner.call, fetch)
    assert clock.monotonic() == began


async def test_budget_pays_nothing_for_a_wait_that_is_not_begun(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The limit is looked at before the budget."""
    budget = RetryBudget(capacity=3)
    outer = recovery.service("outer", max_retries=0, deadline=0.5)
    inner = recovery.service("inner", retry_budget=budget)
    with pytest.raises(ConnectionError):
        await outer.call(inner.call, script(ConnectionError("no")))
    assert budget.tokens == 3


async def test_nothing_is_left_of_a_limit_when_its_call_is_over(recovery: ErrorRecoveryService) -> None:
    """After the block, after the call, and in a task that outlives both."""
    outer = recovery.service("outer", timeout=5.0)
    release = asyncio.Event()

    async def later() -> float | None:
        await release.wait()
        return time_left_around()

    async with outer.guard():
        task = asyncio.create_task(later())
    await outer.call(asyncio.sleep, 0)
    assert time_left_around() is None
    release.set()
    assert await task is None


async def test_blocks_that_are_left_out_of_order_are_told_apart(recovery: ErrorRecoveryService) -> None:
    """Whichever is left first, the other goes on."""
    for first, second, left in ((0, 2, 5.0), (1, 0, 7.0), (2, 1, 3.0)):
        entered = [
            recovery.service(f"service {limit}").using(timeout=limit).guard() for limit in (3.0, 5.0, 7.0)
        ]
        for block in entered:
            await block.__aenter__()
        assert time_left_around() == 3.0
        await entered[first].__aexit__(None, None, None)
        await entered[second].__aexit__(None, None, None)
        assert time_left_around() == left
        (last,) = set(entered) - {entered[first], entered[second]}
        await last.__aexit__(None, None, None)
        assert time_left_around() is None
    assert_that_nothing_waits()


async def test_blocks_of_a_task_under_the_same_limit_are_told_apart(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Whichever is left first, the time of the other goes on."""
    outer = recovery.service("outer", timeout=5.0)
    await outer.call(asyncio.sleep, 0)  # from now on blocks take the short way
    for first, left in ((0, 5.0), (1, 4.0)):
        entered = [outer.guard(), outer.guard()]
        await entered[0].__aenter__()
        await clock.sleep(1.0)
        await entered[1].__aenter__()
        assert time_left_around() == 4.0
        await entered[first].__aexit__(None, None, None)
        assert time_left_around() == left
        await entered[1 - first].__aexit__(None, None, None)
        assert time_left_around() is None
    assert_that_nothing_waits()


async def test_a_block_under_the_limit_of_one_that_is_over_has_a_time_of_its_own(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The body has swallowed that its time was over, and enters another block of the same service."""
    outer = recovery.service("outer", timeout=5.0, circuit_threshold=None)
    task = asyncio.current_task()
    assert task is not None
    await outer.call(asyncio.sleep, 0)  # from now on blocks take the short way

    async with outer.guard():
        with suppress(asyncio.CancelledError):
            await clock.sleep(60.0)
        assert time_left_around() == 0.0
        began = clock.monotonic()
        with pytest.raises(AttemptTimeoutError):
            async with outer.guard():
                await clock.sleep(60.0)
        assert clock.monotonic() - began == 5.0
        assert task.cancelling() == 1  # the outer one's, which it takes back
        assert time_left_around() == 0.0

    assert task.cancelling() == 0
    assert_that_nothing_waits()


async def test_nothing_is_kept_of_a_block_however_it_ends(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Answered, failed, timed out, cancelled: the table of blocks is empty again."""
    outer = recovery.service("outer", timeout=5.0, circuit_threshold=None)

    async def ends(how: str) -> None:
        async with outer.guard():
            if how == "fails":
                raise ConnectionError
            await clock.sleep(60.0 if how == "hangs" else 0.1)

    tasks = [asyncio.create_task(ends(how)) for how in ("answers", "fails", "hangs", "is cancelled")]
    await asyncio.sleep(0)
    tasks[-1].cancel()
    await asyncio.wait(tasks)
    assert_that_nothing_waits()


async def test_a_sibling_task_is_not_affected(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Limits are those of the task, and of nobody else on the loop."""
    outer = recovery.service("outer", timeout=5.0)
    running = asyncio.create_task(outer.call(clock.sleep, 1.0))
    await asyncio.sleep(0)
    assert time_left_around() is None
    await running


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
async def test_an_eager_task_is_not_inside_the_call_that_starts_it(recovery: ErrorRecoveryService) -> None:
    """It runs on top of its starter's stack at first, but nobody cuts it."""
    outer = recovery.service("outer", timeout=5.0)
    seen: list[float | None] = []

    async def look() -> None:
        seen.append(time_left_around())

    async def starts() -> None:
        await asyncio.eager_task_factory(asyncio.get_running_loop(), look())  # type: ignore[attr-defined]  # new in Python 3.12

    await outer.call(starts)
    assert seen == [None]


async def test_a_block_left_in_another_task_limits_nobody(recovery: ErrorRecoveryService) -> None:
    """It belongs to the task that entered it, wherever it is left."""
    outer, next_one = recovery.service("outer", timeout=5.0), recovery.service("next", timeout=7.0)
    for _ in range(3):
        block = outer.guard()
        await block.__aenter__()
        await asyncio.create_task(block.__aexit__(None, None, None))  # type: ignore[arg-type]  # a coroutine
        assert time_left_around() is None
        async with next_one.guard():
            assert time_left_around() == 7.0


async def test_a_limit_that_has_just_fired_leaves_no_time(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A callee that cleans up after its cancellation begins no wait any more."""
    outer = recovery.service("outer", max_retries=0, timeout=5.0)
    seen: list[float | None] = []

    async def cleans_up() -> None:
        try:
            await clock.sleep(60.0)
        finally:
            seen.append(time_left_around())

    with pytest.raises(TimeoutError):
        await outer.call(cleans_up)
    with pytest.raises(TimeoutError):
        await decorated(outer, cleans_up)
    with pytest.raises(TimeoutError):
        await guarded(outer, cleans_up)
    assert seen == [0.0] * 3


@pytest.mark.parametrize("form", [decorated, called, guarded])
async def test_a_retry_without_a_wait_is_not_begun_when_a_limit_around_it_has_just_fired(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    form: Callable[[Handle, Inner], Awaitable[Any]],
) -> None:
    """The callee swallowed the cancellation of the outer limit and failed: nobody waits for another attempt."""
    outer = recovery.service("outer", max_retries=0, timeout=5.0)
    inner = recovery.service("inner", max_retries=3, base_delay=0.0)
    unnoticed, began, calls = UNNOTICED.calls, clock.monotonic(), 0

    async def fetch() -> None:
        nonlocal calls
        calls += 1
        with suppress(asyncio.CancelledError):
            await clock.sleep(60.0)
        raise ConnectionError("closed")

    with pytest.raises(ConnectionError, match="closed"):
        await form(outer, lambda: inner.call(fetch))
    assert (calls, clock.monotonic() - began) == (1, 5.0)
    assert unnoticed == UNNOTICED.calls


async def test_outside_of_any_task_there_is_no_limit(clock: VirtualClock) -> None:
    """A callback of the loop may ask as well."""
    asked: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: asked.set_result(time_left_around()))
    assert await asked is None


@pytest.mark.parametrize("child", CHILDREN)
@pytest.mark.parametrize("form", FORMS)
async def test_a_child_task_is_under_the_limits_of_whoever_awaits_it(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    script: Script,
    form: Callable[[Handle, Inner], Awaitable[Any]],
    child: Callable[[Inner], Awaitable[Any]],
) -> None:
    """Quotes are fetched side by side, and the deadline of the decision holds for each of them."""
    outer = recovery.service("outer", max_retries=0, deadline=5.0)
    inner = recovery.service("inner", max_retries=3, base_delay=5.0)
    fetch, began = script(ConnectionError("no")), clock.monotonic()
    with pytest.raises(ConnectionError):
        await form(outer, lambda: child(lambda: inner.call(fetch)))
    legs = 2 if form is hedged else 1
    assert (fetch.calls, clock.monotonic() - began) == (legs, 0.0)


async def test_a_task_that_nobody_would_cut_is_under_no_limit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A task behind a shield, one that is only looked at, one that goes on by itself."""
    outer = recovery.service("outer", timeout=5.0)
    seen: list[float | None] = []

    async def look() -> None:
        await clock.sleep(1.0)
        seen.append(time_left_around())

    async def shields() -> None:
        await asyncio.shield(look())

    async def looks_on() -> None:
        await asyncio.wait([asyncio.create_task(look())])

    async def lets_go() -> None:
        task = asyncio.create_task(look())
        await clock.sleep(2.0)
        assert task.done()

    for call in (shields, looks_on, lets_go):
        await outer.call(call)
    assert seen == [None] * 3


async def test_a_callback_of_the_users_own_makes_nobody_wait(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It may know a gather that others await, and call off other tasks: nobody waits for this one."""
    outer = recovery.service("outer", timeout=5.0)
    seen: list[float | None] = []

    async def look() -> None:
        await clock.sleep(1.0)
        seen.append(time_left_around())

    async def decide() -> None:
        bystander = asyncio.create_task(look())
        others = asyncio.gather(clock.sleep(2.0), clock.sleep(3.0))
        bystander.add_done_callback(lambda _: None if others.done() else seen.append(-1.0))
        current = asyncio.current_task()
        assert current is not None
        bystander.add_done_callback(current.remove_done_callback)
        await others

    await outer.call(decide)
    assert seen == [None, -1.0]


async def test_a_limit_inside_a_task_group_is_not_around_its_tasks(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """What the body of the group awaits has limits of its own; only what is around the group cuts its tasks."""
    outer, aside = recovery.service("outer", timeout=60.0), recovery.service("aside", timeout=5.0)
    seen: list[float | None] = []

    async def look() -> None:
        for _ in range(2):
            await clock.sleep(1.5)
            seen.append(time_left_around())

    async def decide() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(look())
            await aside.call(clock.sleep, 2.0)

    await outer.call(decide)
    assert seen == [None, 57.0]


@pytest.mark.parametrize("child", [*CHILDREN, _running])
async def test_a_queue_that_a_limit_around_would_cut_is_not_joined(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    script: Script,
    child: Callable[[Inner], Awaitable[Any]],
) -> None:
    """When its turn would come is known: the refusal comes now, and says so. What fits is waited for."""
    venue = recovery.service("venue", rate_limit="1/10s", max_retries=0)
    fetch = script("answer")
    await venue.call(fetch)
    began = clock.monotonic()
    with pytest.raises(RateLimitedError) as raised:
        await recovery.service("hurried", deadline=10.0, max_retries=0).call(child, lambda: venue.call(fetch))
    assert (clock.monotonic() - began, raised.value.retry_after, fetch.calls) == (0.0, 10.0, 1)
    assert venue.plan.state.limits.queued == 0
    patient = recovery.service("patient", deadline=10.5, max_retries=0)
    assert await patient.call(child, lambda: venue.call(fetch)) == "answer"
    assert clock.monotonic() - began == 10.0


async def test_a_retry_that_could_not_be_sent_in_time_raises_the_real_error(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """Its backoff would fit, its turn at the rate limit would not."""
    venue = recovery.service("venue", rate_limit="1/10s", base_delay=1.0)
    fetch, began = script(ConnectionError("real")), clock.monotonic()
    with pytest.raises(ConnectionError, match="real"):
        await recovery.service("outer", deadline=5.0, max_retries=0).call(venue.call, fetch)
    assert (fetch.calls, clock.monotonic() - began) == (1, 1.0)


async def test_how_long_a_place_takes_is_not_known_and_waited_for(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """Until the limit around cuts the wait; after that no place is waited for any more."""
    broker = recovery.service("broker", max_concurrent=1, max_queue=5, max_retries=0)
    holding = asyncio.create_task(broker.call(clock.sleep, 60.0))
    await asyncio.sleep(0)
    outer = recovery.service("outer", deadline=5.0, max_retries=0)
    began, refused_at = clock.monotonic(), list[float]()

    async def decide() -> None:
        try:
            await broker.call(script("answer"))
        finally:
            with pytest.raises(BulkheadFullError):
                await broker.call(script("cleaned up"))
            refused_at.append(clock.monotonic() - began)

    with pytest.raises(DeadlineExceededError):
        await outer.call(decide)
    assert refused_at == [5.0]
    assert broker.plan.state.limits.queued == 0
    holding.cancel()
    await asyncio.wait([holding])


@pytest.mark.parametrize("options", [{"base_delay": 10.0}, {"rate_limit": "1/10s"}])
async def test_a_stream_waits_until_the_limit_around_it_is_over(
    recovery: ErrorRecoveryService, clock: VirtualClock, options: dict[str, Any]
) -> None:
    """It is meant to outlast an outage; a loop with a time limit ends with that, and not with a lost connection."""
    feed, got = recovery.service("prices", **{"base_delay": 1.0, **options}), list[int]()

    async def connect() -> AsyncIterator[int]:
        yield len(got)

    async def follow() -> None:
        async with feed.stream(connect) as ticks:
            async for tick in ticks:
                got.append(tick)

    began = clock.monotonic()
    with pytest.raises(DeadlineExceededError):
        await recovery.service("outer", deadline=25.0, max_retries=0, circuit_threshold=None).call(follow)
    assert clock.monotonic() - began == 25.0
    assert len(got) >= 2


async def test_an_inner_loop_of_attempts_heeds_the_limits_around_it_too(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The block's own error comes out at once."""
    inner, numbers, began = recovery.service("inner", base_delay=5.0), list[int](), clock.monotonic()

    async def repeats() -> None:
        async for attempt in inner.attempts():
            async with attempt:
                numbers.append(attempt.number)
                raise ConnectionError("no")

    with pytest.raises(ConnectionError):
        await recovery.service("outer", deadline=5.0, max_retries=0).call(repeats)
    assert (numbers, clock.monotonic() - began) == ([1], 0.0)

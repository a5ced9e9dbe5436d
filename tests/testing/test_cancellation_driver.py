"""The driver that cancels a call at each of its waits: it finds what it is made to find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import ErrorRecoveryService
from shockproof.testing import CancelledRun, CancelMoment, VirtualClock, cancel_at_await, cancel_at_each_await

pytestmark = pytest.mark.asyncio


async def three_waits(clock: VirtualClock) -> str:
    await asyncio.sleep(0)
    await clock.sleep(1)
    await asyncio.sleep(0)
    return "answer"


async def runs_of(make_call: Callable[[], Any], **options: Any) -> list[CancelledRun[Any]]:
    return [run async for run in cancel_at_each_await(make_call, **options)]


async def test_each_wait_is_cancelled_in_both_ways_and_the_last_run_ends(clock: VirtualClock) -> None:
    """Three waits make six cancelled runs and one that ends by itself."""
    runs = await runs_of(lambda: three_waits(clock))

    assert [(run.number, run.moment) for run in runs if run.was_cancelled] == [
        (number, moment) for number in (1, 2, 3) for moment in ("waiting", "woken")
    ]
    assert runs[-1].result == "answer"
    assert runs[-1].waits == 3
    assert all(isinstance(run.error, asyncio.CancelledError) for run in runs[:-1])
    assert all(run.delay == 0 for run in runs)


async def test_a_run_says_where_it_was_cancelled(clock: VirtualClock) -> None:
    """The innermost place comes first: that is the await to look at."""
    run = await cancel_at_await(three_waits(clock), 2)

    assert "wait number 2 (waiting)" in str(run)
    assert " in three_waits" in run.where
    assert "tasks.py" in run.where.split(" < ")[0]


async def test_a_woken_call_is_cancelled_when_what_it_waited_for_is_there(clock: VirtualClock) -> None:
    """A second has passed by then, where a waiting call is cancelled before."""
    began = clock.monotonic()
    await cancel_at_await(three_waits(clock), 2, moment="waiting")
    assert clock.monotonic() == began
    await cancel_at_await(three_waits(clock), 2, moment="woken")
    assert clock.monotonic() == began + 1


async def test_waits_of_the_calls_own_tasks_count(clock: VirtualClock) -> None:
    """A call that only waits for its task is cancelled at each wait of that task, too."""

    async def call() -> str:
        return await asyncio.create_task(three_waits(clock))

    runs = await runs_of(call)

    assert runs[-1].waits == 4
    assert sum(run.was_cancelled for run in runs) == 8


async def test_a_task_of_somebody_else_is_left_alone(clock: VirtualClock) -> None:
    """It neither counts, nor is it taken for left behind."""
    other = asyncio.create_task(clock.sleep(100))
    await asyncio.sleep(0)

    runs = await runs_of(lambda: three_waits(clock))

    assert runs[-1].waits == 3
    assert not other.done()
    other.cancel()


async def test_a_lost_item_is_found_by_the_woken_cancellation(clock: VirtualClock) -> None:
    """The race that a cancellation while waiting never shows: the permit was handed over and is lost."""

    class Leaky:
        def __init__(self) -> None:
            self.free = 0
            self.waiter: asyncio.Future[None] | None = None

        def release(self) -> None:
            if self.waiter is not None and not self.waiter.done():
                self.waiter.set_result(None)
            else:
                self.free += 1

        async def take(self) -> None:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter

    lost = []
    moments: tuple[CancelMoment, ...] = ("waiting", "woken")
    for moment in moments:
        leaky = Leaky()
        asyncio.get_running_loop().call_later(1, leaky.release)
        await cancel_at_await(leaky.take(), 1, moment=moment)
        await clock.sleep(2)
        lost.append(leaky.free == 0)

    assert lost == [False, True]


async def test_a_swallowed_cancellation_is_reported_with_its_place(clock: VirtualClock) -> None:
    """What the call did instead stands in the message."""

    async def swallows() -> str:
        try:
            await clock.sleep(1)
        except asyncio.CancelledError:
            return "all is well"
        return "answer"

    with pytest.raises(AssertionError, match=r"number 1 \(waiting\).*swallows.*returned 'all is well'"):
        await runs_of(swallows)
    assert (await cancel_at_await(swallows(), 1, must_raise=False)).result == "all is well"


async def test_a_cancellation_that_became_an_error_is_reported(clock: VirtualClock) -> None:
    """The error is the cause of the report."""

    async def translates() -> None:
        try:
            await clock.sleep(1)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    with pytest.raises(AssertionError, match="raised ConnectionError") as caught:
        await runs_of(translates)
    assert isinstance(caught.value.__cause__, ConnectionError)


async def test_a_task_that_is_left_behind_is_reported(clock: VirtualClock) -> None:
    """It is named, so that one can find who started it."""
    left: list[asyncio.Task[None]] = []

    async def careless() -> None:
        left.append(asyncio.create_task(clock.sleep(50), name="forgotten"))
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match=r"left running: .*forgotten"):
        await runs_of(careless)
    await runs_of(careless, may_leave_tasks=True)
    for task in left:
        task.cancel()


async def test_what_runs_on_after_the_call_is_no_wait_of_it(clock: VirtualClock) -> None:
    """Cleaning up in the background cannot be cancelled by cancelling the call."""

    async def cleans_up() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def call() -> asyncio.Task[None]:
        return asyncio.create_task(cleans_up())

    (run,) = await runs_of(call)

    assert run.waits == 0


async def test_a_task_that_was_cancelled_before_its_first_step_is_fine(clock: VirtualClock) -> None:
    """Watching it must not leave a coroutine that was never awaited."""

    async def call() -> None:
        task = asyncio.create_task(clock.sleep(1))
        task.cancel()
        await asyncio.wait({task})

    runs = await runs_of(call)

    assert not runs[-1].was_cancelled


async def test_a_call_without_an_end_is_reported(clock: VirtualClock) -> None:
    """In place of a test that never ends."""

    async def endless() -> None:
        while True:  # noqa: ASYNC110 - waiting for nothing is what it is for
            await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="still waits after 20 waits"):
        await runs_of(endless, most=20)


async def test_a_delayed_cancellation_shows_in_the_delay(clock: VirtualClock) -> None:
    """Cleanup that takes its time is no error, and can be asserted on."""

    async def slow_to_end() -> None:
        try:
            await clock.sleep(1)
        finally:
            await clock.sleep(3)

    run = await cancel_at_await(slow_to_end(), 1)

    assert run.delay == 3


async def test_the_task_factory_is_put_back(clock: VirtualClock) -> None:
    """Also around one that was set before, which still makes the tasks."""
    loop, made = asyncio.get_running_loop(), []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        await runs_of(lambda: three_waits(clock))
        assert loop.get_task_factory() is factory
        assert len(made) == 7  # two moments for each of three waits, and the run that ends by itself
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize(
    ("number", "moment", "kind"),
    [
        (0, "waiting", ValueError),
        (1.5, "waiting", TypeError),
        (True, "waiting", TypeError),
        (1, "soon", ValueError),
    ],
)
async def test_bad_arguments_are_refused_by_name(number: Any, moment: Any, kind: type[Exception]) -> None:
    """The value that was wrong stands in the message."""
    call = asyncio.sleep(0)
    with pytest.raises(kind, match=r"number must be|moment must be"):
        await cancel_at_await(call, number, moment=moment)
    call.close()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"timeout": 30.0},
        {"timeout": 0.25, "max_retries": 1},
        {"timeout": 0.25, "grace": 0.5, "max_retries": 1},
        {"timeout": 30.0, "grace": 1.0},
        {"max_concurrent": 1, "rate_limit": "1000/s"},
        {"hedge_after": 0.25, "max_retries": 1},
    ],
    ids=str,
)
async def test_our_own_calls_stand_it_in_every_form(
    recovery: ErrorRecoveryService, clock: VirtualClock, options: dict[str, Any]
) -> None:
    """A call, a function, a guard and a loop of attempts: the cancellation comes out at once, everywhere."""
    handle = recovery.service("api", base_delay=0.5, circuit_threshold=None, **options)
    failures = iter(range(10**6))

    def in_flight() -> int:
        state = recovery._registry.get("api")
        assert state is not None
        return 0 if state.limits is None else state.limits.in_flight or 0

    async def fails_every_other_time() -> str:
        await clock.sleep(0.5)
        if next(failures) % 2 == 0:
            raise ConnectionError("down")
        return "answer"

    async def guarded() -> None:
        async with handle.guard():
            await clock.sleep(0.5)

    async def repeated() -> None:
        async for attempt in handle.attempts():
            async with attempt:
                await fails_every_other_time()

    for make_call in (
        lambda: handle.call(fails_every_other_time),
        handle(fails_every_other_time),
        guarded,
        repeated,
    ):
        async for run in cancel_at_each_await(make_call):
            assert run.delay == 0, run
            assert in_flight() == 0, run

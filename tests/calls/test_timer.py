"""Time limits: exact, shared by all calls under one limit, and gone when nobody needs them."""

from __future__ import annotations

import asyncio

import pytest

from shockproof.calls import timer as timers
from shockproof.calls.timer import start_single_timer, start_timer
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


async def held(seconds: float, sleep: float) -> bool:
    """Whether a block of *sleep* seconds is ended by a limit of *seconds*."""
    timer = start_timer(seconds)
    try:
        await asyncio.sleep(sleep)
    except asyncio.CancelledError:
        if not timer.stop():
            raise
        return True
    timer.stop()
    return False


async def test_a_block_is_ended_exactly_when_it_is_due(clock: VirtualClock) -> None:
    """Each call has the whole limit, however many began before it."""
    begun = clock.monotonic()

    async def later(after: float) -> float:
        await asyncio.sleep(after)
        assert await held(1.0, 60)
        return clock.monotonic() - begun

    assert await asyncio.gather(*(later(after) for after in (0.0, 0.25, 0.75))) == [1.0, 1.25, 1.75]


async def test_a_block_that_ends_in_time_is_left_alone(clock: VirtualClock) -> None:
    """A stopped timer never fires, also when others are waiting behind it."""
    assert await asyncio.gather(held(1.0, 0.5), held(1.0, 60), held(1.0, 0.9)) == [False, True, False]


async def test_calls_that_expire_together_are_all_ended(clock: VirtualClock) -> None:
    """More than are cancelled in one turn of the loop, and none is forgotten."""
    results = await asyncio.gather(*(held(2.0, 60) for _ in range(500)))

    assert all(results)


async def test_callers_own_cancellation_in_the_same_turn_wins(clock: VirtualClock) -> None:
    """Our expiry does not swallow a cancellation of somebody else's."""
    task = asyncio.create_task(held(1.0, 60))
    asyncio.get_running_loop().call_later(1.0, task.cancel)

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_swallowed_expiry_leaves_the_task_uncancelled(clock: VirtualClock) -> None:
    """A callee that answers in spite of its cancellation leaves no request behind in the task."""
    timer = start_timer(1.0)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        pass
    timer.stop()
    task = asyncio.current_task()

    assert task is not None
    assert task.cancelling() == 0


async def test_an_idle_limit_leaves_no_timer_behind(clock: VirtualClock) -> None:
    """When nobody came for a whole limit, the loop is free of it."""
    assert not await held(7.5, 0.1)
    await asyncio.sleep(30)

    assert not timers._queues[7.5]


async def test_limit_that_went_idle_works_again(clock: VirtualClock) -> None:
    """The next call under it brings its timer back."""
    await held(3.5, 0.1)
    await asyncio.sleep(30)

    assert await held(3.5, 60)


async def test_single_timer_is_exact_too(clock: VirtualClock) -> None:
    """What is left of a deadline is measured as exactly, and not kept among the limits."""
    begun, known = clock.monotonic(), set(timers._queues)
    timer = start_single_timer(0.375)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)

    assert timer.stop()
    assert clock.monotonic() - begun == 0.375
    assert set(timers._queues) == known

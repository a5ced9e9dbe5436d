"""The queues behind time limits: exact, shared by all calls under one limit, and gone when nobody needs them."""

from __future__ import annotations

import asyncio

import pytest

from shockproof.calls.timer import TimeLimit, start_single_timer, time_limit
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


async def held(limit: TimeLimit, sleep: float) -> bool:
    """Whether a block of *sleep* seconds is ended by *limit*."""
    timer = limit.start()
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
    begun, limit = clock.monotonic(), time_limit(1.0)

    async def later(after: float) -> float:
        await asyncio.sleep(after)
        assert await held(limit, 60)
        return clock.monotonic() - begun

    assert await asyncio.gather(*(later(after) for after in (0.0, 0.25, 0.75))) == [1.0, 1.25, 1.75]


async def test_a_block_that_ends_in_time_is_left_alone(clock: VirtualClock) -> None:
    """A stopped timer never fires, also when others are waiting behind it."""
    limit = time_limit(1.0)

    assert await asyncio.gather(held(limit, 0.5), held(limit, 60), held(limit, 0.9)) == [False, True, False]


async def test_calls_that_expire_together_are_all_ended(clock: VirtualClock) -> None:
    """More than are cancelled in one turn of the loop, and none is forgotten."""
    limit = time_limit(2.0)

    assert all(await asyncio.gather(*(held(limit, 60) for _ in range(500))))
    assert all(not queue.fired and not queue.waiting for queue in limit.queues.values())


async def test_an_idle_limit_leaves_no_timer_behind(clock: VirtualClock) -> None:
    """When nobody came for a whole limit, the loop is free of it."""
    limit = time_limit(7.5)
    assert not await held(limit, 0.1)
    assert limit.queues
    await asyncio.sleep(30)

    assert not limit.queues


async def test_limit_that_went_idle_works_again(clock: VirtualClock) -> None:
    """The next call under it brings its timer back."""
    limit = time_limit(3.5)
    await held(limit, 0.1)
    await asyncio.sleep(30)

    assert await held(limit, 60)


async def test_all_who_have_the_same_limit_share_its_queue(clock: VirtualClock) -> None:
    """Ten thousand services with one time limit keep the loop as busy as one."""
    limit = time_limit(4.25)
    await asyncio.gather(held(limit, 0.1), held(time_limit(4.25), 0.1))

    assert len(limit.queues) == 1


async def test_single_timer_is_exact_too(clock: VirtualClock) -> None:
    """What is left of a deadline is measured as exactly, and is nobody else's."""
    begun = clock.monotonic()
    timer = start_single_timer(0.375)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)

    assert timer.stop()
    assert clock.monotonic() - begun == 0.375


async def test_limit_too_short_for_the_clock_is_over_all_the_same(clock: VirtualClock) -> None:
    """What rounding leaves of a deadline may be less than a virtual clock can move by."""
    timer = start_single_timer(2.0**-43)  # a quarter of it is lost beside 1000 s

    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)
    assert timer.stop()


async def test_a_stalled_loop_is_seen_wherever_it_stood_still(clock: VirtualClock) -> None:
    """Also when it runs again just before the time is up."""
    timer = time_limit(1.0).start()
    await asyncio.sleep(0)
    clock.advance(0.9)  # nothing ran for nine tenths of the limit
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)

    assert timer.stop()
    assert timer.stalled


async def test_a_loop_that_ran_all_the_time_is_not_called_stalled(clock: VirtualClock) -> None:
    """Then the timeout says something about the other side."""
    timer = time_limit(1.0).start()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)

    assert timer.stop()
    assert not timer.stalled

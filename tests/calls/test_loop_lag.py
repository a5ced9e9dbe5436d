"""How late the loop is, on a clock of the test's own."""

from __future__ import annotations

import asyncio

from shockproof.calls.loop_lag import EVERY, LoopLag
from shockproof.testing import VirtualClock


def test_a_beat_that_comes_late_is_counted_and_one_in_time_is_not_late() -> None:
    """The first beat of a task has nothing to be late for."""
    clock = VirtualClock()
    lag = LoopLag(clock)

    async def beat() -> None:
        await lag.beat()
        clock.advance(EVERY)
        await lag.beat()
        clock.advance(EVERY + 0.3)
        await lag.beat()
        assert lag.stalled_for() == 0.0
        clock.advance(EVERY + 2.0)
        assert lag.stalled_for() == 2.0

    asyncio.run(beat())
    counted = lag.histogram()
    assert counted.up_to[-1] == 2
    assert abs(counted.total - 0.3) < 1e-9
    assert lag.stalled_for() is None  # that loop has ended


def test_a_task_that_begins_anew_is_not_late_for_the_time_between() -> None:
    """A program that closes its services, or runs a second loop, has not stalled meanwhile."""
    clock = VirtualClock()
    lag = LoopLag(clock)
    asyncio.run(lag.beat())
    clock.advance(3600.0)
    asyncio.run(lag.beat())
    assert lag.histogram().up_to[-1] == 0

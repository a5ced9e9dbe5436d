"""The timer that ends the wait for an item."""

from __future__ import annotations

import asyncio

import pytest

from shockproof.calls.silence_watch import SilenceWatch
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


async def test_a_watch_that_is_stopped_leaves_no_timer(clock: VirtualClock) -> None:
    """Else each connection would leave one that ticks for ever."""
    watch = SilenceWatch(asyncio.get_running_loop(), 4.0)
    await asyncio.sleep(10)
    timer = watch._handle
    watch.stop()
    assert timer is not None
    assert timer.cancelled()


async def test_a_watch_that_nobody_waits_on_ends_nothing(clock: VirtualClock) -> None:
    """However long that lasts."""
    watch = SilenceWatch(asyncio.get_running_loop(), 4.0)
    await asyncio.sleep(1000)
    assert not watch.has_fired
    watch.stop()

"""`vocabulary.clock`: by which time a loop goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from shockproof.testing import VirtualTimeLoop
from shockproof.vocabulary.clock import SystemClock, goes_by_real_time


class PatchedLoop(asyncio.SelectorEventLoop):
    """A test's own time, in the class."""

    def time(self) -> float:
        return 7.0


@pytest.mark.parametrize(
    ("make", "is_real"),
    [
        (asyncio.new_event_loop, True),
        (uvloop.new_event_loop, True),
        (VirtualTimeLoop, False),
        (PatchedLoop, False),
    ],
)
def test_a_loop_goes_by_the_real_time_unless_it_has_one_of_its_own(
    make: Callable[[], asyncio.AbstractEventLoop], is_real: bool
) -> None:
    """The time of the beginning of its turn, as uvloop tells it, is no other one."""
    loop = make()
    try:
        assert goes_by_real_time(loop) is is_real
        loop.time = lambda: 7.0  # type: ignore[method-assign]  # as a test may do
        assert not goes_by_real_time(loop)
    finally:
        loop.close()


def test_on_uvloop_the_time_goes_on_within_a_turn_of_the_loop() -> None:
    """What came later in a turn is known to be later."""
    clock = SystemClock()

    async def readings() -> tuple[float, float]:
        first, until = clock.monotonic(), time.monotonic() + 0.005
        while time.monotonic() < until:
            pass
        return first, clock.monotonic()

    loop = uvloop.new_event_loop()
    try:
        first, second = loop.run_until_complete(readings())
    finally:
        loop.close()
    assert second - first >= 0.005

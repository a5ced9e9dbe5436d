"""A machine that is bad for long, and failures elsewhere meanwhile that are no outage."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis.strategies import integers, lists, tuples

from shockproof import MemoryStore
from shockproof.testing import VirtualClock
from tests.memory.fleet.test_fleet import REFUSED, Bot, recovery_of, settled


@given(strays=lists(tuples(integers(0, 2), integers(1, 2)), max_size=12), size=integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_a_bad_machine_and_any_number_of_stray_failures_open_no_other_machines_circuits(
    strays: list[tuple[int, int]], size: int
) -> None:
    """Each of the others calls all the time, and now and then one or two calls fail, fewer than open a circuit: that is no outage."""
    clock = VirtualClock()

    async def session(directory: Path) -> None:
        store = MemoryStore(clock=clock)
        bad = [Bot(recovery_of(directory, f"bad-{number}", store, clock, "bad")) for number in range(size)]
        good = [Bot(recovery_of(directory, name, store, clock, name)) for name in ("b", "c", "d")]
        for bot in bad + good:
            await bot.recovery.start()
        try:
            for bot in bad:
                bot.is_down = True
            for stray in [None, None, *strays]:
                for _ in range(3):
                    for bot in bad:
                        assert await bot.call() in {"failed", REFUSED}
                    await settled()
                if stray is not None:
                    bot, failures = good[stray[0]], stray[1]
                    bot.is_down = True
                    assert [await bot.call() for _ in range(failures)] == ["failed"] * failures
                    bot.is_down = False
                    await settled()
                assert [await bot.call() for bot in good] == ["fine"] * 3
                await asyncio.sleep(13.0)
        finally:
            for bot in bad + good:
                await bot.recovery.aclose()

    with TemporaryDirectory() as directory:
        clock.run(session(Path(directory)))

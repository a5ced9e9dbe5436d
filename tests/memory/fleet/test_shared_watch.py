"""All records of a kind are told of by one watch of the store."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from shockproof import ErrorRecoveryService, MemoryStore, StoreUnavailableError
from shockproof.memory.fleet.shared_watch import SharedWatch
from shockproof.testing import VirtualClock
from tests.memory.fleet.weather import Weather

pytestmark = pytest.mark.asyncio


@pytest.fixture
def way(clock: VirtualClock) -> Weather:
    return Weather(MemoryStore(clock=clock))


async def test_each_is_told_of_its_own_key_by_one_watch(way: Weather) -> None:
    """A store has only so many connections, and each watch takes one."""
    shared = SharedWatch(way, "limits/")
    async with AsyncExitStack() as stack:
        keys = [f"limits/{number}" for number in range(200)]
        watched = [await stack.enter_async_context(shared.watch(key)) for key in keys]
        again = await stack.enter_async_context(shared.watch("limits/0"))
        assert way.steps == 1
        for key in reversed(keys):
            await way.inner.put(key, key.encode())
        for changes, key in zip([*watched, again], [*keys, "limits/0"], strict=True):
            change = await anext(changes)
            assert (change.key, change.value) == (key, key.encode())


async def test_the_watch_ends_with_the_last_who_wants_it_and_begins_anew(way: Weather) -> None:
    """Nothing runs for nobody."""
    shared = SharedWatch(way, "limits/")
    for _ in range(2):
        async with shared.watch("limits/a"):
            async with shared.watch("limits/b"):
                pass
            async with shared.watch("limits/b") as changes:
                await way.inner.put("limits/b", b"x")
                assert (await anext(changes)).value == b"x"
        assert [task for task in asyncio.all_tasks() if "listens" in task.get_name()] == []
    assert way.steps == 2


async def test_when_it_breaks_off_all_are_told_and_the_next_one_works(way: Weather) -> None:
    """As of a watch of their own."""
    shared = SharedWatch(way, "limits/")
    async with shared.watch("limits/a") as first, shared.watch("limits/b") as second:
        way.turn("away")
        for changes in (first, second):
            with pytest.raises(StoreUnavailableError, match="the watch was cut"):
                await anext(changes)
        with pytest.raises(StoreUnavailableError, match="nobody answers"):
            async with shared.watch("limits/c"):
                pass
        way.turn("fair")
        async with shared.watch("limits/a") as changes:
            await way.inner.put("limits/a", b"x")
            assert (await anext(changes)).value == b"x"


async def test_who_gives_up_before_it_has_begun_takes_it_from_nobody(way: Weather) -> None:
    """The store is asked once for both."""
    shared = SharedWatch(way, "limits/")
    way.turn("slow")

    async def watch() -> bytes | None:
        async with shared.watch("limits/a") as changes:
            return (await anext(changes)).value

    hasty, patient = asyncio.create_task(watch()), asyncio.create_task(watch())
    await asyncio.sleep(0.1)
    hasty.cancel()
    await asyncio.sleep(1.0)
    await way.inner.put("limits/a", b"x")
    assert await patient == b"x"
    with pytest.raises(asyncio.CancelledError):
        await hasty
    assert way.steps == 1


async def test_one_that_tells_nothing_of_what_was_read_is_begun_anew_for_all(way: Weather) -> None:
    """A network may forget a connection without a word to anybody."""
    shared = SharedWatch(way, "limits/")
    async with shared.watch("limits/a") as first, shared.watch("limits/b") as second:
        way.falls_silent()
        shared.doubt("limits/a", 1)
        shared.doubt("limits/b", 1)
        for changes in (first, second):
            with pytest.raises(StoreUnavailableError):
                await anext(changes)
    async with shared.watch("limits/a") as changes:
        shared.doubt("limits/a", 1)
        version = await way.inner.put("limits/a", b"x")
        assert (await anext(changes)).value == b"x"
        shared.doubt("limits/a", version)
        await asyncio.sleep(60.0)  # it was only late
        await way.inner.put("limits/a", b"y")
        assert (await anext(changes)).value == b"y"


async def test_a_process_whose_watches_were_lost_without_a_word_has_news_at_once_again(
    clock: VirtualClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It looks now and then, finds what it was not told, and draws its conclusion: of circuits, and of a rate limit."""
    caplog.set_level(logging.INFO, "shockproof")
    inner = MemoryStore(clock=clock)
    ways = [Weather(inner) for _ in range(3)]
    bots = [
        ErrorRecoveryService(
            tmp_path / str(number) / "state", tmp_path / str(number) / "errors", store=way, clock=clock,
            process_name=f"bot-{number}", machine_name=f"machine-{number}", rng=random.Random(number),
        )
        for number, way in enumerate(ways)
    ]  # fmt: skip
    services = [
        bot.service(
            "venue", shared=True, rate_limit="100/s", max_retries=0, circuit_threshold=1, circuit_quorum=1
        )
        for bot in bots
    ]
    for bot in bots[:2]:
        await bot.start()
    await asyncio.sleep(60.0)

    async def fails() -> None:
        raise ConnectionError("down")

    async def delay() -> float:
        """Seconds until the other one knows that this one has opened."""
        bots[0].reset_circuit_breaker("venue")
        await asyncio.sleep(30.0)
        with pytest.raises(ConnectionError):
            await services[0].call(fails)
        at = clock.monotonic()
        while "bot-0" not in bots[1].get_health_status()["shared"]["votes"].get("venue", []):  # noqa: ASYNC110 - the store says so
            await asyncio.sleep(0.01)
        return clock.monotonic() - at

    assert await delay() < 0.1
    ways[1].falls_silent()
    await bots[2].start()  # which changes the record of the limit
    await delay()
    await asyncio.sleep(15.0)
    assert caplog.text.count("begun anew") == 2
    assert await delay() < 0.1
    await asyncio.sleep(60.0)
    assert caplog.text.count("begun anew") == 2
    for bot in bots:
        await bot.aclose()

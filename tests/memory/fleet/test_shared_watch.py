"""All records of a kind are told of by one watch of the store."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from shockproof import MemoryStore, StoreUnavailableError
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

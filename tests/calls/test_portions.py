"""`calls.portions`: a burst of orders goes on in portions, in its order, and what it is beside has its turn in between."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
import pytest_asyncio

from shockproof import NOT_FOUND, CallRejectedError, ErrorRecoveryService, Found, LookUp
from shockproof.calls.portions import AT_ONCE, Portions, turn_here

pytestmark = pytest.mark.asyncio


class Burst:
    """Orders that are all begun in one turn of the loop, and the turn in which each went on."""

    def __init__(self, recovery: ErrorRecoveryService) -> None:
        self.trading = recovery.service("trading", max_retries=0)
        self.turn = 0
        self.went_on: dict[str, int] = {}
        self.booked: list[str] = []

    def find(self, key: str) -> Any:  # Any: a plain function is asked whether it gives something to await
        self.went_on.setdefault(key, self.turn)
        return self.look_up(key)

    async def look_up(self, key: str) -> LookUp[str]:
        return Found(key) if key in self.booked else NOT_FOUND

    async def submit(self, key: str) -> str:
        self.booked.append(key)
        return key

    async def place(self, key: str, **options: Any) -> str:
        handle = self.trading.using(**options) if options else self.trading
        return await handle.once(key, confirm=self.find, key_argument="key").call(self.submit)

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def burst(recovery: ErrorRecoveryService) -> Burst:
    burst = Burst(recovery)
    await burst.place("warm up")  # what is loaded for the first one is waited for
    burst.went_on.clear()
    return burst


async def test_burst_of_orders_goes_on_in_portions_in_its_order(burst: Burst) -> None:
    """A thousand of them would hold the loop for as long as all of them take up to the journal."""
    keys = [f"bot-{number}" for number in range(3 * AT_ONCE + 5)]
    counting = asyncio.ensure_future(burst.count_turns())
    await asyncio.gather(*map(burst.place, keys))
    counting.cancel()

    assert list(burst.went_on) == keys
    turns = list(burst.went_on.values())
    assert [turns.count(turn) for turn in sorted(set(turns))] == [AT_ONCE, AT_ONCE, AT_ONCE, 5]
    assert sorted(burst.booked) == sorted(["warm up", *keys])


async def test_order_that_reduces_risk_waits_for_no_portion(burst: Burst) -> None:
    """A close goes out before all that was begun together with it."""
    orders = [asyncio.ensure_future(burst.place(f"bot-{number}")) for number in range(2 * AT_ONCE)]
    orders.append(asyncio.ensure_future(burst.place("close", risk_reducing=True)))
    await asyncio.gather(*orders)

    assert list(burst.went_on).index("close") == AT_ONCE


async def test_order_that_is_cancelled_before_its_portion_is_not_sent_and_takes_no_place(
    burst: Burst,
) -> None:
    """The cancellation passes at once, and the next one goes on in its place."""
    orders = [asyncio.ensure_future(burst.place(f"bot-{number}")) for number in range(2 * AT_ONCE + 1)]
    await asyncio.sleep(0)
    orders[AT_ONCE].cancel()
    done = await asyncio.gather(*orders, return_exceptions=True)

    assert [index for index, end in enumerate(done) if isinstance(end, BaseException)] == [AT_ONCE]
    assert f"bot-{AT_ONCE}" not in burst.booked
    assert len(burst.went_on) == 2 * AT_ONCE


async def test_order_left_alone_before_its_portion_is_not_sent_beside_the_repetition(
    burst: Burst, recovery: ErrorRecoveryService
) -> None:
    """It was wanted before it had to wait: whoever repeats the call around it knows of it."""
    others = [asyncio.ensure_future(burst.place(f"bot-{number}")) for number in range(AT_ONCE)]
    refused: list[str] = []
    attempts = 0

    async def place(key: str) -> None:
        try:
            await burst.place(key)
        except CallRejectedError as error:
            refused.append(error.policy)
            raise

    async def fails() -> None:
        raise ConnectionError("what stands beside it")

    async def strategy() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.gather(place("first"), fails())
        await place("second")

    await recovery.service("strategy", max_retries=1, base_delay=0.0).call(strategy)
    await asyncio.gather(*others)
    assert refused == ["repetition"]
    assert "first" not in burst.booked
    assert "second" in burst.booked


async def test_who_comes_while_others_wait_stands_behind_them() -> None:
    """Else a stream of new orders would keep the old ones waiting for ever."""
    loop, portions = asyncio.get_running_loop(), Portions()
    first = [portions.turn(loop) for _ in range(2 * AT_ONCE + 1)]
    assert [one is None for one in first].count(True) == AT_ONCE
    await asyncio.sleep(0)
    late = portions.turn(loop)

    assert late is not None
    assert [one.done() for one in first if one is not None].count(True) == AT_ONCE
    await asyncio.sleep(0)
    assert late.done()
    await asyncio.sleep(0)
    assert portions.turn(loop) is None


async def test_who_is_cancelled_while_it_waits_takes_no_place_of_a_portion() -> None:
    """A portion is what really goes on."""
    loop, portions = asyncio.get_running_loop(), Portions()
    waiting = [turn for _ in range(2 * AT_ONCE + 1) if (turn := portions.turn(loop)) is not None]
    waiting[0].cancel()
    await asyncio.sleep(0)

    assert all(turn.done() for turn in waiting)


async def test_loop_that_is_closed_while_orders_wait_for_their_portion_is_freed() -> None:
    """Who waits holds its loop: whatever knows of it beside the loop would keep both for ever."""

    def lives_and_ends() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()

        async def burst() -> None:
            waiting = [turn for _ in range(3 * AT_ONCE) if (turn := turn_here()) is not None]
            assert len(waiting) == 2 * AT_ONCE

        loop.run_until_complete(burst())
        loop.close()
        return weakref.ref(loop)

    ended = await asyncio.to_thread(lives_and_ends)
    gc.collect()
    assert ended() is None

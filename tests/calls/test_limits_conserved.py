"""Nothing that is taken is ever lost or given back twice: cancelled at any await, over threads, on dead loops."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shockproof import AdaptiveConcurrency, BulkheadFullError, CircuitOpenError, ErrorRecoveryService, Handle
from shockproof.testing import VirtualClock, VirtualTimeLoop

Work = Callable[[], Awaitable[None]]


async def called(handle: Handle, work: Work) -> None:
    await handle.call(work)


async def decorated(handle: Handle, work: Work) -> None:
    await handle(work)()


async def guarded(handle: Handle, work: Work) -> None:
    async with handle.guard():
        await work()


async def repeated(handle: Handle, work: Work) -> None:
    async for attempt in handle.attempts():
        async with attempt:
            await work()


OPTIONS: dict[str, dict[str, Any]] = {
    "places enough": {"max_concurrent": 9},
    "bulkhead": {"max_concurrent": 1, "max_queue": 4},
    "rate limit": {"rate_limit": "1/s"},
    "both": {"max_concurrent": 1, "max_queue": 4, "rate_limit": ("2/s", "20/min")},
    "with timeout": {"max_concurrent": 1, "max_queue": 4, "rate_limit": "1/s", "timeout": 0.25},
    "with max_wait": {"max_concurrent": 1, "max_queue": 4, "max_wait": 0.75},
    "in own task": {"max_concurrent": 1, "max_queue": 4, "timeout": 0.25, "grace": 0.5},
    "places that find themselves": {
        "max_concurrent": AdaptiveConcurrency(initial=1, maximum=2),
        "max_queue": 4,
        "timeout": 0.5,
    },
    "half-open": {"max_concurrent": 1, "max_queue": 4, "circuit_threshold": 1, "circuit_timeout": 0.25},
}


async def step(number: int) -> None:
    await asyncio.sleep(0.25 if number % 6 == 5 else 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("form", [called, decorated, guarded, repeated])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
@pytest.mark.parametrize("more", [{}, {"priority": "low"}, {"risk_reducing": True}], ids=str)
async def test_call_cancelled_at_any_await_leaves_nothing_behind(
    clock: VirtualClock,
    tmp_path: Path,
    form: Callable[[Handle, Work], Awaitable[None]],
    options: dict[str, Any],
    more: dict[str, Any],
) -> None:
    """Cancelled one step later each time: every place is free, nobody waits, and only what was sent counts."""
    for steps in itertools.count():
        recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", clock=clock)
        venue = recovery.service("venue", max_retries=1, base_delay=0.25, **options)
        await venue.call(asyncio.sleep, 0)  # prepares it: from now on the healthy path is short
        sent = 1

        async def work() -> None:
            nonlocal sent
            sent += 1
            await asyncio.sleep(0)
            await asyncio.sleep(0.25)
            if sent % 2:
                raise ConnectionError("now and then")

        others = [asyncio.create_task(form(venue, work)) for _ in range(2)]
        target = asyncio.create_task(form(venue.using(**more) if more else venue, work))
        others.append(asyncio.create_task(form(venue, work)))
        for number in range(steps):
            if target.done():
                break
            await step(number)
        ended_by_itself = target.done()
        target.cancel()
        await asyncio.gather(target, *others, return_exceptions=True)
        await asyncio.sleep(2)  # what was left behind ends, too

        health = recovery.get_health_status()["services"]["venue"]
        assert health["in_flight"] in {None, 0}, f"after {steps} steps"
        assert health["queued"] == 0, f"after {steps} steps"
        for rate in health["rate_limit"]:
            if rate["seconds"] == 60.0:
                assert rate["used"] == sent, f"after {steps} steps"
        await recovery.aclose()
        if ended_by_itself:
            assert steps > 1
            return


@pytest.fixture
def often_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(
    ("places", "rate"),
    [(3, None), (3, "100000/min"), (AdaptiveConcurrency(initial=2, maximum=3), None)],
    ids=["places", "places and rate", "places that find themselves"],
)
def test_two_loops_in_two_threads_share_places_and_rate(
    tmp_path: Path, often_switching: None, places: int | AdaptiveConcurrency, rate: str | None
) -> None:
    """Never more in flight than places, whichever loop they are on, and each wakes the other's."""
    recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e")
    venue = recovery.service("venue", max_concurrent=places, max_queue=1000, rate_limit=rate, max_retries=0)
    lock, inside, most, made = threading.Lock(), 0, 0, 0

    async def work() -> None:
        nonlocal inside, most, made
        with lock:
            inside += 1
            made += 1
            most = max(most, inside)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            with lock:
                inside -= 1

    decorated_work = venue(work)

    async def main(seed: int) -> None:
        tasks = [
            asyncio.create_task(
                venue.using(priority=("high", "normal", "low")[number % 3]).call(work)
                if number % 2
                else decorated_work()
            )
            for number in range(300)
        ]
        for number, task in enumerate(tasks):
            if number % 7 == seed:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    threads = [threading.Thread(target=lambda seed=seed: asyncio.run(main(seed))) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    health = recovery.get_health_status()["services"]["venue"]
    assert most <= 3
    assert made > 400
    assert (health["in_flight"], health["queued"]) == (0, 0)
    assert [one["used"] for one in health["rate_limit"]] == ([] if rate is None else [made])


def test_place_granted_to_a_loop_that_has_ended_goes_to_the_next(
    tmp_path: Path, clock_by_hand: VirtualClock
) -> None:
    """A loop was closed without ending its tasks: its calls are gone, their turn is not."""
    recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", clock=clock_by_hand)
    venue = recovery.service("venue", max_concurrent=1, max_queue=9, rate_limit="1000/s", max_retries=0)
    made = list[str]()

    async def work(name: str) -> None:
        made.append(name)
        await asyncio.sleep(1)

    async def wait_here() -> None:
        kept.append(asyncio.get_running_loop().create_task(venue.call(work, "lost")))
        for _ in range(5):
            await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []
    other = VirtualTimeLoop(clock_by_hand)

    async def main() -> None:
        first = asyncio.create_task(venue.call(work, "first"))
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: other.run_until_complete(wait_here()))
        thread.start()
        thread.join(60)
        other.close()
        await asyncio.gather(first, venue.call(work, "next"))

    clock_by_hand.run(main())
    task = kept.pop()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # the loss is what is tested
    task.get_coro().close()  # type: ignore[union-attr]  # what the collector does some day
    del task

    assert made == ["first", "next"]
    health = recovery.get_health_status()["services"]["venue"]
    assert (health["in_flight"], health["queued"]) == (0, 0)


@pytest.fixture
def clock_by_hand() -> VirtualClock:
    return VirtualClock()


@pytest.mark.asyncio
async def test_displaced_call_that_is_cancelled_in_the_same_turn_takes_nothing(
    recovery: ErrorRecoveryService,
) -> None:
    """Turned away and cancelled at once: it is not in the queue any more, and nobody else loses a turn."""
    venue = recovery.service("venue", max_concurrent=1, max_queue=1, max_retries=0)
    busy = asyncio.create_task(venue.call(asyncio.sleep, 1))
    await asyncio.sleep(0)
    quote = asyncio.create_task(venue.using(priority="low").call(asyncio.sleep, 0))
    await asyncio.sleep(0)
    order = asyncio.create_task(venue.call(asyncio.sleep, 0))
    await asyncio.sleep(0)
    quote.cancel()
    results = await asyncio.gather(busy, order, quote, return_exceptions=True)

    assert results[:2] == [None, None]
    assert isinstance(results[2], asyncio.CancelledError | BulkheadFullError)
    assert recovery.get_health_status()["services"]["venue"]["in_flight"] == 0


@pytest.mark.asyncio
async def test_circuit_that_opened_during_the_wait_leaves_token_and_place(
    recovery: ErrorRecoveryService,
) -> None:
    """The call was not sent: both go back."""
    venue = recovery.service(
        "venue", max_concurrent=1, max_queue=9, rate_limit="10/min", circuit_threshold=1, max_retries=0
    )

    async def fail() -> None:
        await asyncio.sleep(1)
        raise ConnectionError("down")

    results = await asyncio.gather(*(venue.call(fail) for _ in range(4)), return_exceptions=True)

    assert [type(result) for result in results] == [ConnectionError, *[CircuitOpenError] * 3]
    health = recovery.get_health_status()["services"]["venue"]
    assert (health["in_flight"], health["rate_limit"][0]["used"]) == (0, 1)

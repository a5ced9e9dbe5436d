"""A healthy call of a service with a bulkhead takes a place in passing; whatever else is to be asked, is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shockproof import AdaptiveConcurrency, BulkheadFullError, CircuitOpenError, ErrorRecoveryService, Handle
from shockproof.testing import FaultInjector, VirtualClock

pytestmark = pytest.mark.asyncio


async def nothing() -> None: ...


async def prepared(recovery: ErrorRecoveryService, **options: Any) -> Handle:
    venue = recovery.service("venue", **{"max_concurrent": 1, "max_retries": 0, **options})
    await venue.call(nothing)
    return venue


def health(recovery: ErrorRecoveryService) -> dict[str, Any]:
    found: dict[str, Any] = recovery.get_health_status()["services"]["venue"]
    return found


@pytest.mark.parametrize("form", ["call", "decorated", "guard"])
async def test_place_is_held_while_the_call_runs_and_given_back_when_it_ends(
    recovery: ErrorRecoveryService, form: str
) -> None:
    """Well, with an error of its own, or with wrong arguments."""
    venue = await prepared(recovery)

    async def work(error: Exception | None) -> None:
        assert health(recovery)["in_flight"] == 1
        if error is not None:
            raise error

    async def guarded(*args: Any) -> None:
        async with venue.guard():
            await work(*args)

    async def called(*args: Any) -> None:
        await venue.call(work, *args)

    run = {"call": called, "decorated": venue(work), "guard": guarded}[form]
    await run(None)
    assert health(recovery)["in_flight"] == 0
    with pytest.raises(ValueError, match="mine"):
        await run(ValueError("mine"))
    assert health(recovery)["in_flight"] == 0
    with pytest.raises(TypeError):
        await run()
    assert health(recovery)["in_flight"] == 0
    assert health(recovery)["successes"] == 2


async def test_retry_takes_its_place_anew(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """During the wait before it the place is free for another."""
    venue = await prepared(recovery, max_retries=1, base_delay=1.0)
    outcomes = iter([ConnectionError("reset"), None])

    @venue
    async def fetch() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    task = asyncio.create_task(fetch())
    await clock.sleep(0.5)
    assert health(recovery)["in_flight"] == 0
    await venue.call(nothing)
    await task


async def test_no_place_and_no_queue_is_refused_in_every_form(recovery: ErrorRecoveryService) -> None:
    """The short way does not let anybody in beside the bound."""
    venue = await prepared(recovery)
    busy = asyncio.create_task(venue.call(asyncio.sleep, 1))
    await asyncio.sleep(0)
    for refused in (venue.call(nothing), venue(nothing)()):
        with pytest.raises(BulkheadFullError):
            await refused
    with pytest.raises(BulkheadFullError):
        async with venue.guard():
            pass
    await busy


async def test_place_given_back_on_the_short_way_wakes_who_waits(recovery: ErrorRecoveryService) -> None:
    """In order, and by whatever form it was held."""
    venue = await prepared(recovery, max_queue=9)
    order = list[int]()

    @venue
    async def work(number: int) -> None:
        order.append(number)
        await asyncio.sleep(1)

    await asyncio.gather(*(work(number) for number in range(4)))

    assert order == [0, 1, 2, 3]
    assert health(recovery)["in_flight"] == 0


async def test_open_circuit_is_seen_on_the_short_way(recovery: ErrorRecoveryService) -> None:
    """And takes no place."""
    venue = await prepared(recovery, circuit_threshold=1)

    @venue
    async def fail() -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        await fail()
    with pytest.raises(CircuitOpenError):
        await fail()
    assert health(recovery)["in_flight"] == 0


async def test_function_decorated_before_the_limit_keeps_it(recovery: ErrorRecoveryService) -> None:
    """Its text knows nothing of places; the executor does."""
    venue = recovery.service("venue", max_retries=0)
    early = venue(nothing)
    await early()
    recovery.service("venue", max_concurrent=1)
    await early()
    busy = asyncio.create_task(venue.call(asyncio.sleep, 1))
    await asyncio.sleep(0)
    with pytest.raises(BulkheadFullError):
        await early()
    await busy


@pytest.mark.parametrize(
    "change", [{"rate_limit": "2/min", "max_wait": 0.0}, {"max_concurrent": AdaptiveConcurrency(initial=2)}]
)
async def test_limit_that_has_to_be_asked_closes_the_short_way(
    recovery: ErrorRecoveryService, change: dict[str, Any]
) -> None:
    """A rate, or a limit that learns from every call, is added while functions are decorated already."""
    venue = await prepared(recovery)
    fetch = venue(nothing)
    await fetch()
    venue.configure(**change)
    await fetch()

    used = [one["used"] for one in health(recovery)["rate_limit"]]
    assert used == ([1] if "rate_limit" in change else [])
    assert health(recovery)["max_concurrent"] == (1 if "rate_limit" in change else 2)


async def test_time_limit_ends_a_call_that_holds_a_place(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The place is free as soon as the caller is told."""
    venue = await prepared(recovery, timeout=1.0)
    hang = venue(asyncio.sleep)
    with pytest.raises(TimeoutError):
        await hang(60)
    with pytest.raises(TimeoutError):
        await venue.call(asyncio.sleep, 60)
    assert health(recovery)["in_flight"] == 0


@pytest.mark.parametrize("form", ["call", "decorated", "guard"])
async def test_faults_are_met_although_the_way_was_short(recovery: ErrorRecoveryService, form: str) -> None:
    """A fault that a test puts on the service is played by the executor, and the place is given back."""
    venue = await prepared(recovery)

    async def guarded() -> None:
        async with venue.guard():
            pass

    run = {"call": lambda: venue.call(nothing), "decorated": venue(nothing), "guard": guarded}[form]
    with FaultInjector(recovery).on("venue", ConnectionError("injected")), pytest.raises(ConnectionError):
        await run()
    await run()

    assert health(recovery)["in_flight"] == 0


async def test_errors_of_a_decorated_call_say_nothing_of_how_its_place_was_looked_for(
    recovery: ErrorRecoveryService,
) -> None:
    """Neither the function's own error nor a refusal has an IndexError of ours as its context."""
    venue = await prepared(recovery, max_concurrent=2)
    release = asyncio.Event()

    @venue
    async def hold() -> None:
        await release.wait()

    @venue
    async def fail() -> None:
        raise ValueError("mine")

    first = asyncio.create_task(hold())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="mine") as own:  # the second place is made for it
        await fail()
    second = asyncio.create_task(hold())
    await asyncio.sleep(0)
    with pytest.raises(BulkheadFullError) as refused:
        await fail()

    assert own.value.__context__ is None
    assert refused.value.__context__ is None
    release.set()
    await asyncio.gather(first, second)

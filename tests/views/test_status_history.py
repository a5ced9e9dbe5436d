"""What the pictures of the status page are made of: the last quarter of an hour, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from shockproof import ErrorRecoveryService, LoopStalled
from shockproof.testing import VirtualClock
from shockproof.views.status import status_of
from shockproof.views.status_history import BOUNDS, STEPS, WINDOW, StatusHistory, quantile

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def history(recovery: ErrorRecoveryService) -> AsyncIterator[StatusHistory]:
    history = StatusHistory(recovery)
    yield history
    history.close()


async def fails() -> None:
    raise ConnectionError("reset")


def timeline(recovery: ErrorRecoveryService, history: StatusHistory) -> list[tuple[str | None, float]]:
    (service,) = status_of(recovery, history)["services"]
    return [(one["state"], round(one["seconds"], 3)) for one in service["timeline"]]


async def test_a_circuit_is_seen_open_and_then_half_open_although_nobody_called(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """Its open time ends by itself: no event tells of that."""
    broken = recovery.service("news", circuit_threshold=1, circuit_timeout=60.0, max_retries=0)
    await clock.sleep(100.0)
    with pytest.raises(ConnectionError):
        await broken.call(fails)
    await clock.sleep(40.0)
    assert timeline(recovery, history) == [(None, 760.0), ("closed", 100.0), ("open", 40.0)]
    await clock.sleep(30.0)
    assert timeline(recovery, history)[1:] == [("closed", 100.0), ("open", 60.0), ("half-open", 10.0)]
    recovery.reset_circuit_breaker("news")
    await clock.sleep(5.0)
    assert timeline(recovery, history)[2:] == [("open", 60.0), ("half-open", 10.0), ("closed", 5.0)]
    await clock.sleep(WINDOW)
    assert timeline(recovery, history) == [("closed", WINDOW)]


async def test_a_circuit_in_somebodys_hands_is_seen_as_such(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """Held open looks different from open, and what happened stands there with the reason."""
    recovery.service("venue")
    await clock.sleep(10.0)
    recovery.set_circuit_mode("venue", "forced-open", "maintenance")
    await clock.sleep(10.0)
    assert timeline(recovery, history)[1:] == [("closed", 10.0), ("forced-open", 10.0)]
    await recovery.halt("lost the risk feed")
    happenings = status_of(recovery, history)["history"]["happenings"]
    assert [(one["service_name"], one["what"], one["detail"]) for one in happenings] == [
        ("", "halted", "lost the risk feed"),
        ("venue", "circuit forced-open", "maintenance"),
    ]


async def test_a_circuit_that_flaps_keeps_its_newest_changes_and_no_more(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """What was before them nobody knows any more."""
    recovery.service("venue")
    for _ in range(100):
        recovery.set_circuit_mode("venue", "forced-open")
        await clock.sleep(1.0)
        recovery.set_circuit_mode("venue", "normal")
        await clock.sleep(1.0)
    stretches = timeline(recovery, history)
    assert len(stretches) == 65
    assert stretches[0] == (None, WINDOW - 64.0)
    assert sum(seconds for _, seconds in stretches) == WINDOW
    assert len(history.happenings) == 100


async def test_an_open_circuit_of_an_earlier_life_is_seen_as_it_is(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """Nothing was told when it was restored."""
    broken = recovery.service("news", circuit_threshold=1, max_retries=0)
    with pytest.raises(ConnectionError):
        await broken.call(fails)
    later = StatusHistory(recovery)
    await clock.sleep(10.0)
    assert timeline(recovery, later) == [(None, WINDOW - 10.0), ("open", 10.0)]
    later.close()


async def test_a_circuit_that_never_changed_was_closed_all_the_time(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """Also behind the beginning of the window."""
    recovery.service("venue")
    await clock.sleep(WINDOW + 100.0)
    recovery.set_circuit_mode("venue", "forced-open")
    await clock.sleep(1.0)
    assert timeline(recovery, history) == [("closed", WINDOW - 1.0), ("forced-open", 1.0)]


async def test_calls_are_counted_by_how_long_they_took(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """By the minute for each service, by the quarter of it for all together."""
    venue = recovery.service("venue", max_retries=0)
    for _ in range(40):
        await venue.call(clock.sleep, 0.03)
    with pytest.raises(ConnectionError):
        await venue.call(fails)
    status = status_of(recovery, history)
    calls = status["services"][0]["calls"]
    assert (calls["lately"], calls["failed_lately"]) == (41, 1)
    assert 0.02 < calls["p50"] <= calls["p95"] <= calls["p99"] <= 0.05
    assert sum(status["history"]["calls"][-1]) == 41
    assert status["history"]["failed"][-1] == 1
    await clock.sleep(3600.0)
    later = status_of(recovery, history)
    assert later["services"][0]["calls"]["p95_by_minute"] == [None] * 15
    assert later["history"]["failed"] == [0] * STEPS
    assert later["services"][0]["calls"]["per_second"] == 0.0


async def test_a_rate_is_that_of_the_last_minute(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """Also in the first seconds, and just behind the turn of a minute."""
    venue = recovery.service("venue")

    def rate() -> float:
        return float(status_of(recovery, history)["services"][0]["calls"]["per_second"])

    for second in range(61):
        if second == 10:
            assert rate() == 2.0
        await venue.call(clock.sleep, 0.0)
        await venue.call(clock.sleep, 0.0)
        await clock.sleep(1.0)
    assert 1.9 < rate() < 2.1


async def test_a_loop_that_stood_still_was_late_all_the_time(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """The steps in which nothing ran are the worst of all, and no gap in the picture."""
    await clock.sleep(20.0)
    clock.advance(50.0)
    await clock.sleep(10.0)
    worst = status_of(recovery, history)["history"]["worst_lag"]
    assert worst[:3] == [0.0, 0.0, 0.0]
    assert [lag for lag in worst if lag and lag > 40.0] == worst[4:15]


async def test_what_held_the_loop_is_told_beside_what_the_circuits_did(
    recovery: ErrorRecoveryService, history: StatusHistory
) -> None:
    """Where a monitor has seen the line; and else why there is none."""
    for where, cause in (("strategy.py:41 in rank", "blocked"), (None, "not the loop")):
        stalled: Any = LoopStalled(
            service_name="", at=0.0, duration=1.25, where=where, stack=(), task=None, cause=cause
        )
        recovery._listeners.publish(stalled)
    told = [(one.what, one.detail) for one in history.happenings]
    assert told == [
        ("loop stood still", "for 1.2 s: strategy.py:41 in rank"),
        ("loop stood still", "for 1.2 s: not the loop"),
    ]


async def test_what_is_closed_records_nothing_and_costs_nothing(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The short way of a call is as short as before."""
    history = StatusHistory(recovery)
    venue = recovery.service("venue")
    history.close()
    await venue.call(clock.sleep, 0.0)
    recovery.set_circuit_mode("venue", "forced-open")
    assert sum(history.steps(clock.monotonic())[-1].counts) == 0
    assert not history.happenings
    assert recovery._listeners.active == ()
    assert recovery._registry.get_or_create("venue").call_timers == ()


async def test_a_retired_service_is_forgotten(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """Programs that make services as they go would fill the memory."""
    recovery.service("symbol")
    recovery.set_circuit_mode("symbol", "forced-open")
    recovery.retire_service("symbol")
    await clock.sleep(WINDOW + 60.0)
    assert history._changes == {}
    assert not any(history._minutes)


async def test_threads_may_tell_at_the_same_time(
    recovery: ErrorRecoveryService, clock: VirtualClock, history: StatusHistory
) -> None:
    """A service is shared by threads, and each of them is told where it happens."""

    def count() -> None:
        for _ in range(1_000):
            recovery.set_circuit_mode("venue", "forced-open")
            recovery.set_circuit_mode("venue", "normal")

    recovery.service("venue")
    await asyncio.gather(*(asyncio.to_thread(count) for _ in range(3)))
    await clock.sleep(1.0)
    assert timeline(recovery, history)[-1] == ("closed", 1.0)


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        ({}, 0.5, None),
        ({0: 10}, 0.5, 0.00025),
        ({3: 4}, 1.0, 0.005),
        ({3: 4}, 0.5, 0.0035),
        ({3: 90, 8: 10}, 0.95, 0.15),
        ({15: 1}, 0.5, 30.0),
    ],
)
async def test_quantiles_are_taken_from_buckets(
    counts: dict[int, int], share: float, seconds: float | None
) -> None:
    """Within one they are spread evenly; beyond the last bound nobody knows more than that."""
    row = [counts.get(bucket, 0) for bucket in range(len(BOUNDS) + 1)]
    found = quantile([*row, 7], share)
    assert found == seconds if seconds is None else found == pytest.approx(seconds)


async def test_two_pages_of_one_service_record_it_once(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Each success would be counted once more for each page; the last page that is left ends it."""
    market = recovery.service("market")
    one, other = StatusHistory.of(recovery), StatusHistory.of(recovery)
    assert one is other
    assert len(recovery._registry._call_timers) == 1
    await market.call(asyncio.sleep, 0)
    assert sum(one.minutes("market", clock.monotonic())[-1]) == 1
    one.close()
    await market.call(asyncio.sleep, 0)
    assert sum(one.minutes("market", clock.monotonic())[-1]) == 2
    other.close()
    assert recovery._registry._call_timers == ()
    later = StatusHistory.of(recovery)
    assert later is not one
    later.close()

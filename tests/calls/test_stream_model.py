"""
Any feed, any consumer, against a model: nothing is repeated, nothing is lost without a gap, everything is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shockproof import ErrorRecoveryService, Event, StreamGap, StreamLost
from shockproof.testing import VirtualClock

# No sum of the waits below is ever equal to one of these: a tie has no right answer.
STALE_AFTER = 3.3
STABLE_AFTER = 4.1
BASE, FACTOR, LONGEST = 1.0, 2.0, 8.0

ITEM, FAIL, END, HANG = "item", "fail", "end", "hang"

Steps = list[str | float]


class OverError(Exception):
    """The plan is at its end."""


@dataclass
class Venue:
    """Plays its plan, and writes down what it gave and when it was opened and closed."""

    plan: list[Steps]
    clock: VirtualClock
    given: list[int] = field(default_factory=list[int])
    opened: list[float] = field(default_factory=list[float])
    open_now: int = 0

    async def items(self) -> AsyncIterator[int]:
        steps = self.plan.pop(0) if self.plan else None
        self.opened.append(round(self.clock.monotonic() - 1000, 6))
        self.open_now += 1
        try:
            if steps is None:
                raise OverError
            for step in steps:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif step == ITEM:
                    self.given.append(len(self.given))
                    yield self.given[-1]
                elif step == FAIL:
                    raise OSError
                elif step == END:
                    return
                else:
                    await asyncio.sleep(1e9)
            raise OSError
        finally:
            self.open_now -= 1

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[AsyncIterator[int]]:
        self.open_now += 1
        try:
            yield self.items()
        finally:
            self.open_now -= 1

    async def awaited(self) -> AsyncIterator[int]:
        return self.items()


@dataclass
class Expected:
    """What the model says."""

    opened: list[float] = field(default_factory=list[float])
    gap_before: set[int] = field(default_factory=set[int])
    items: int = 0
    losses: int = 0
    failures: int = 0


def model(plan: list[Steps], pause: float) -> Expected:
    """The same in plain numbers: one connection after the other, one step after the other."""
    expected, now, in_a_row = Expected(), 0.0, 0
    for steps in plan:
        expected.opened.append(round(now, 6))
        there_at, asked_at, last = None, now, now
        is_silent = False
        for step in [*steps, FAIL]:
            if step in {FAIL, END}:
                break
            if isinstance(step, float) and now + step - asked_at < STALE_AFTER:
                now += step
            elif step == ITEM:
                if there_at is None:
                    there_at = now
                    if expected.items:
                        expected.gap_before.add(expected.items)
                expected.items += 1
                last = now
                now += pause
                asked_at = now
            else:
                is_silent = True
                now = asked_at + STALE_AFTER
                break
        expected.failures += 1
        if there_at is not None:
            expected.losses += 1
            if (last if is_silent else now) - there_at >= STABLE_AFTER:
                in_a_row = 0
        now += min(LONGEST, BASE * FACTOR**in_a_row)
        in_a_row += 1
    expected.opened.append(round(now, 6))
    return expected


steps = st.lists(st.sampled_from([ITEM, ITEM, ITEM, 0.5, 1.0, 2.0, FAIL, END, HANG]), max_size=6)
plans = st.lists(steps, max_size=6)
forms = st.sampled_from([Venue.items, Venue.connected, Venue.awaited])
graces = st.sampled_from([None, 1.0])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


def service_on(clock: VirtualClock, directory: Path) -> ErrorRecoveryService:
    return ErrorRecoveryService(
        directory / "state",
        directory / "errors",
        clock=clock,
        base_delay=BASE,
        backoff_factor=FACTOR,
        max_delay=LONGEST,
        circuit_threshold=None,
    )


@settings(max_examples=150)
@given(plan=plans, pause=st.sampled_from([0.0, 0.0, 7.0]), form=forms, grace=graces)
def test_a_stream_does_what_the_model_says(
    directory: Path, plan: list[Steps], pause: float, form: Callable[[Venue], Any], grace: float | None
) -> None:
    """Items, gaps, times of opening, counts, events: all of it, for any plan of the venue's."""
    clock = VirtualClock()
    venue = Venue([list(steps) for steps in plan], clock)
    events: list[Event] = []
    received: list[tuple[int, bool]] = []

    async def main() -> None:
        recovery = service_on(clock, directory)

        async def listener(event: Event) -> None:
            events.append(event)

        recovery.on_event(listener)
        feed = recovery.service("feed", retry_on=lambda error: not isinstance(error, OverError), grace=grace)
        ticks = feed.stream(lambda: form(venue), stale_after=STALE_AFTER, stable_after=STABLE_AFTER)
        with contextlib.suppress(OverError):
            async for tick in ticks:
                received.append((tick, ticks.gap is not None))
                if pause:
                    await asyncio.sleep(pause)
        counted = recovery.get_health_status()["services"]["feed"]
        assert counted["failures"] == expected.failures + 1
        assert counted["abandoned_attempts"] == 0
        await recovery.aclose()
        assert len(asyncio.all_tasks()) == 1

    expected = model(plan, pause)
    clock.run(main())
    assert [tick for tick, _ in received] == venue.given == list(range(expected.items))
    assert {tick for tick, is_after_gap in received if is_after_gap} == expected.gap_before
    assert venue.opened == expected.opened
    assert venue.open_now == 0
    gaps = [event for event in events if isinstance(event, StreamGap)]
    assert [gap.number for gap in gaps] == list(range(1, len(expected.gap_before) + 1))
    assert len([event for event in events if isinstance(event, StreamLost)]) == expected.losses


@settings(max_examples=150)
@given(
    plan=plans,
    form=forms,
    grace=graces,
    moment=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.3, 4.3, 5.5, 8.0]),
    turns=st.integers(0, 12),
)
def test_a_stream_that_is_cancelled_anywhere_leaves_nothing_behind(
    directory: Path,
    plan: list[Steps],
    form: Callable[[Venue], Any],
    grace: float | None,
    moment: float,
    turns: int,
) -> None:
    """At any await: the connection is closed, its place is free, nothing is counted, no task is left."""
    clock = VirtualClock()
    venue = Venue([list(steps) for steps in plan], clock)

    async def main() -> None:
        recovery = service_on(clock, directory)
        feed = recovery.service(
            "feed",
            retry_on=lambda error: not isinstance(error, OverError),
            grace=grace,
            max_concurrent=1,
            timeout=2.6,
        )

        async def consume() -> None:
            async with feed.stream(lambda: form(venue), stale_after=STALE_AFTER) as ticks:
                async for _ in ticks:
                    await asyncio.sleep(0)

        consumer = asyncio.create_task(consume())
        await asyncio.sleep(moment)
        for _ in range(turns):
            await asyncio.sleep(0)
        was_cancelled = consumer.cancel()
        with contextlib.suppress(OverError, asyncio.CancelledError):
            await consumer
        assert consumer.cancelled() == was_cancelled
        counted = recovery.get_health_status()["services"]["feed"]
        assert counted["in_flight"] == 0
        assert counted["streams"] == []
        assert venue.open_now == 0
        await recovery.aclose()
        assert len(asyncio.all_tasks()) == 1

    clock.run(main())


def test_two_loops_in_two_threads_read_feeds_of_one_service(tmp_path: Path) -> None:
    """Each has its own connections; circuit, counts and health are shared."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.001)
    feed = recovery.service("feed", circuit_threshold=None)
    failed: list[BaseException] = []

    def consume() -> None:
        lost = 0

        async def connect() -> AsyncIterator[int]:
            nonlocal lost
            for number in range(20):
                yield number
                await asyncio.sleep(0)
            lost += 1
            raise OSError

        async def main() -> None:
            async with feed.stream(connect, stale_after=30.0, stable_after=0.0) as ticks:
                found = [await anext(ticks) for _ in range(200)]
            assert found == [*range(20)] * 10
            assert (lost, ticks.gaps) == (9, 9)

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=consume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    counted = recovery.get_health_status()["services"]["feed"]
    assert (counted["successes"], counted["failures"], counted["streams"]) == (20, 18, [])
    asyncio.run(recovery.aclose())

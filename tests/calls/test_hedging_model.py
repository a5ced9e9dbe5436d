"""Hedged calls of every course against a model of a few lines; what they took is conserved."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import NamedTuple

import pytest  # noqa: TC002 - Hypothesis reads the annotations when it runs
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from shockproof import ErrorRecoveryService, RetryBudget
from shockproof.testing import VirtualClock, VirtualTimeLoop


class Course(NamedTuple):
    """What becomes of one request: it ends after so many eighths of a second, well or not."""

    eighths: int
    is_well: bool


class Ending(NamedTuple):
    """What becomes of the call: who has answered, or None; when; how many were sent, and how many failed."""

    winner: int | None
    at: float
    sent: int
    failed: int


def model(courses: list[Course], hedge_after: int, most: int) -> Ending:
    """Requests by number; the next is sent *hedge_after* after the last thing that happened, or at a failure."""
    now, sent, failed, in_flight = 0, 1, 0, {0: courses[0].eighths}
    while True:
        first = min(in_flight, key=lambda number: in_flight[number])
        ends = in_flight[first]
        assume(list(in_flight.values()).count(ends) == 1)
        if sent <= most:
            assume(ends != now + hedge_after)
            if now + hedge_after < ends:
                now += hedge_after
                in_flight[sent] = now + courses[sent].eighths
                sent += 1
                continue
        now = ends
        del in_flight[first]
        if courses[first].is_well:
            return Ending(first, now / 8, sent, failed)
        failed += 1
        if sent <= most:
            in_flight[sent] = now + courses[sent].eighths
            sent += 1
        if not in_flight:
            return Ending(None, now / 8, sent, failed)


async def really(
    directory: Path, clock: VirtualClock, courses: list[Course], hedge_after: int, most: int
) -> Ending:
    recovery = ErrorRecoveryService(directory, directory, clock=clock, rng=random.Random(1))
    budget = RetryBudget(capacity=10, per_success=0.0)
    api = recovery.service(
        "api", hedge_after=hedge_after / 8, max_hedges=most, retry_budget=budget, max_concurrent=10,
        circuit_threshold=None,
    )  # fmt: skip
    sent = ended = 0

    async def request() -> int:
        nonlocal sent, ended
        number, sent = sent, sent + 1
        try:
            await asyncio.sleep(courses[number].eighths / 8)
        finally:
            ended += 1
        if not courses[number].is_well:
            raise ConnectionError(f"request {number}")
        return number

    began = clock.monotonic()
    try:
        winner: int | None = await api.call(request)
    except ConnectionError as error:  # the first request's, whichever has failed last
        winner = None if str(error) == "request 0" else -1
    at = clock.monotonic() - began
    for _ in range(3):
        await asyncio.sleep(0)
    found = recovery.get_health_status()["services"]["api"]
    assert sent == ended, "a request runs on"
    assert (found["in_flight"], found["queued"]) == (0, 0)
    assert budget.tokens == 10 - found["hedges"] == 10 - (sent - 1)
    assert found["successes"] == (winner is not None)
    assert recovery.get_error_summary()["total_errors"] == found["failures"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return Ending(winner, at, sent, found["failures"])


@settings(max_examples=300)
@given(
    st.lists(st.builds(Course, st.integers(1, 40), st.booleans()), min_size=4, max_size=4),
    st.integers(1, 16),
    st.integers(1, 3),
)
@example([Course(4, False), Course(9, True), Course(1, True), Course(1, True)], 8, 1)
@example([Course(30, True), Course(9, False), Course(1, False), Course(3, True)], 8, 3)
def test_every_course_of_a_hedged_call_is_that_of_the_model(
    tmp_path_factory: pytest.TempPathFactory, courses: list[Course], hedge_after: int, most: int
) -> None:
    """Who wins, when, how many were sent, how many failed; places and budget are what they were."""
    expected = model(courses, hedge_after, most)
    clock = VirtualClock()
    directory = tmp_path_factory.getbasetemp() / "hedging"
    assert clock.run(really(directory, clock, courses, hedge_after, most)) == expected


def test_two_loops_in_two_threads_share_budget_and_places(tmp_path: Path) -> None:
    """Nothing is lost and nothing paid twice, whatever the order."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    budget = RetryBudget(capacity=1000, per_success=0.0)
    api = recovery.service(
        "api", hedge_after=0.002, max_concurrent=50, retry_budget=budget, circuit_threshold=None
    )

    async def request(number: int) -> int:
        await asyncio.sleep(0.005 if number % 3 else 0.0)
        if number % 5 == 0:
            raise ConnectionError
        return number

    async def work() -> None:
        for start in range(0, 200, 20):
            calls = [api.call(request, number) for number in range(start, start + 20)]
            await asyncio.gather(*calls, return_exceptions=True)

    def run() -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(work())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(recovery.aclose())
    found = recovery.get_health_status()["services"]["api"]
    assert (found["in_flight"], found["queued"]) == (0, 0)
    assert found["hedges"] > 0
    assert budget.tokens == 1000 - found["hedges"]
    assert recovery._runtime.losers.living == []

"""
A limit that finds itself, through real calls in virtual time: what the policy decides reaches the queue.

One server that works on twenty calls at once, a tenth of a second on each; callers that always want more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import (
    AdaptiveConcurrency,
    AttemptTimeoutError,
    Bulkhead,
    BulkheadFullError,
    ErrorRecoveryService,
    Handle,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


class Server:
    def __init__(self, clock: VirtualClock, capacity: int = 20) -> None:
        self.clock, self.rng = clock, random.Random(5)
        self.free_at = [clock.monotonic()] * capacity
        self.hangs = False
        self.in_flight = self.most = self.answered = 0

    async def serve(self) -> None:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            if self.hangs:
                await asyncio.sleep(3600)
            now = self.clock.monotonic()
            self.free_at.sort()
            self.free_at[0] = max(now, self.free_at[0]) + 0.1 * self.rng.uniform(0.5, 1.5)
            await asyncio.sleep(self.free_at[0] - now)
            self.answered += 1
        finally:
            self.in_flight -= 1


async def load(
    handle: Handle, server: Server, clock: VirtualClock, seconds: float, callers: int = 120
) -> None:
    """So many callers that ask again as soon as they are answered, for so many seconds."""
    ends = clock.monotonic() + seconds

    async def caller() -> None:
        while clock.monotonic() < ends:
            try:
                await handle.call(server.serve)
            except (AttemptTimeoutError, BulkheadFullError):
                await asyncio.sleep(0.05)

    await asyncio.gather(*(caller() for _ in range(callers)))


def adaptive(recovery: ErrorRecoveryService, **options: Any) -> Handle:
    return recovery.service(
        "venue",
        **{
            "max_concurrent": AdaptiveConcurrency(maximum=100),
            "max_queue": 200,
            "max_retries": 0,
            "circuit_threshold": None,
            **options,
        },
    )


def limit_of(recovery: ErrorRecoveryService) -> int:
    limit: int = recovery.get_health_status()["services"]["venue"]["max_concurrent"]
    return limit


@pytest.mark.parametrize("form", ["call", "guard", "attempts"])
async def test_limit_settles_where_the_server_is_busy_and_hardly_anybody_waits_there(
    recovery: ErrorRecoveryService, clock: VirtualClock, form: str
) -> None:
    """The rest waits in our queue, where it can be ordered, refused and cancelled."""
    venue, server = adaptive(recovery), Server(clock)

    async def guarded(work: Callable[[], Any]) -> None:
        async with venue.guard():
            await work()

    async def repeated(work: Callable[[], Any]) -> None:
        async for attempt in venue.attempts():
            async with attempt:
                await work()

    class Form:
        call = staticmethod({"call": venue.call, "guard": guarded, "attempts": repeated}[form])

    await load(Form(), server, clock, 20.0)  # type: ignore[arg-type]  # it calls, and no more is asked

    assert 16 <= limit_of(recovery) <= 40
    assert server.answered > 0.85 * 200 * 20


async def test_constant_timeouts_do_not_move_it_up_and_it_comes_back(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A minute in which nothing is answered; then everything is, as before."""
    venue, server = adaptive(recovery, timeout=1.0), Server(clock)
    await load(venue, server, clock, 10.0)
    before = limit_of(recovery)
    server.hangs = True
    await load(venue, server, clock, 30.0)
    assert limit_of(recovery) < before / 2
    server.hangs = False
    await load(venue, server, clock, 30.0)
    server.answered = 0
    await load(venue, server, clock, 10.0)

    assert server.answered > 0.8 * 200 * 10


async def test_calls_that_are_cancelled_or_fail_by_themselves_leave_it_alone(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Neither says anything about how much there is to do."""
    venue = adaptive(recovery)

    async def refuse() -> None:
        await asyncio.sleep(0.001)
        raise ValueError("unknown symbol")

    for _ in range(30):
        tasks = [asyncio.create_task(venue.call(refuse)) for _ in range(20)]
        cancelled = [asyncio.create_task(venue.call(asyncio.sleep, 9)) for _ in range(10)]
        await asyncio.sleep(0.01)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*tasks, *cancelled, return_exceptions=True)

    assert limit_of(recovery) == 10
    assert recovery.get_health_status()["services"]["venue"]["in_flight"] == 0


async def test_answers_that_say_too_much_shrink_it(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A 503 at once is no fast answer."""
    venue = adaptive(recovery)

    class UnavailableError(Exception):
        status = 503

    async def refuse() -> None:
        await asyncio.sleep(0.01)
        raise UnavailableError

    for _ in range(20):
        await asyncio.gather(*(venue.call(refuse) for _ in range(20)), return_exceptions=True)

    assert limit_of(recovery) < 5


async def test_what_was_left_of_a_deadline_is_no_verdict_on_the_server(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Half of the deadline went by in the queue: the rest was too short for a server that is well."""
    venue = adaptive(recovery, deadline=1.0)

    for _ in range(30):
        await asyncio.gather(*(venue.call(asyncio.sleep, 0.7) for _ in range(20)), return_exceptions=True)

    assert recovery.get_health_status()["services"]["venue"]["timeouts"] > 100
    assert limit_of(recovery) >= 10


async def test_fixed_number_takes_over_while_it_runs(recovery: ErrorRecoveryService) -> None:
    """And the other way round."""
    venue = adaptive(recovery)
    venue.configure(max_concurrent=3)
    assert limit_of(recovery) == 3
    venue.configure(max_concurrent=AdaptiveConcurrency(initial=7))
    assert limit_of(recovery) == 7


async def test_bulkhead_that_stands_alone_adapts_too(clock: VirtualClock) -> None:
    """The same object as its max_concurrent."""
    server = Server(clock, capacity=5)
    bulkhead = Bulkhead(max_concurrent=AdaptiveConcurrency(initial=50), max_queue=200, clock=clock)
    await load(bulkhead, server, clock, 20.0)
    server.most = 0
    await load(bulkhead, server, clock, 5.0)

    assert server.most < 25

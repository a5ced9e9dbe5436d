"""Bulkhead, rate limit and retry budget around real calls: FIFO, bounded, and nothing ever lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shockproof import (
    Bulkhead,
    BulkheadFullError,
    CircuitOpenError,
    ErrorRecoveryService,
    RateLimit,
    RateLimitedError,
    RetryBudget,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


def health(recovery: ErrorRecoveryService, name: str = "venue") -> dict[str, int]:
    found: dict[str, int] = recovery.get_health_status()["services"][name]
    return found


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_calls_than_places_are_in_flight(recovery: ErrorRecoveryService) -> None:
    """The others wait, in the order they came, and all are served."""
    venue = recovery.service("venue", max_concurrent=2, max_queue=10)
    inside, most, order = 0, 0, list[int]()

    async def work(number: int) -> None:
        nonlocal inside, most
        order.append(number)
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(1)
        inside -= 1

    await asyncio.gather(*(venue.call(work, number) for number in range(6)))

    assert most == 2
    assert order == list(range(6))
    assert health(recovery)["in_flight"] == 0


async def test_a_full_bulkhead_refuses_and_nothing_is_counted(recovery: ErrorRecoveryService) -> None:
    """A refusal of ours is no failure of the venue's."""
    venue = recovery.service("venue", max_concurrent=1, circuit_threshold=1)
    busy = asyncio.create_task(venue.call(asyncio.sleep, 5))
    await settle()

    with pytest.raises(BulkheadFullError) as refused:
        await venue.call(asyncio.sleep, 0)
    await busy

    assert refused.value.service_name == "venue"
    assert refused.value.policy == "bulkhead"
    assert recovery.get_error_summary()["total_errors"] == 0
    assert not recovery.is_circuit_open("venue")


async def test_a_wait_longer_than_max_wait_is_refused(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The caller is told after max_wait, and its place in the queue is free again."""
    venue = recovery.service("venue", max_concurrent=1, max_queue=1, max_wait=2.0)
    busy = asyncio.create_task(venue.call(asyncio.sleep, 5))
    await settle()
    begun = clock.monotonic()

    with pytest.raises(BulkheadFullError):
        await venue.call(asyncio.sleep, 0)

    assert clock.monotonic() - begun == 2.0
    assert health(recovery)["queued"] == 0
    await busy


async def test_cancels_go_first_and_find_room_in_a_full_queue(recovery: ErrorRecoveryService) -> None:
    """A risk-reducing call overtakes the orders that wait."""
    venue = recovery.service("venue", max_concurrent=1, max_queue=1)
    cancels = venue.using(risk_reducing=True)
    order = list[str]()

    async def work(name: str) -> None:
        order.append(name)
        await asyncio.sleep(1)

    tasks = [asyncio.create_task(venue.call(work, name)) for name in ("first", "second")]
    await settle()
    tasks.append(asyncio.create_task(cancels.call(work, "cancel")))
    await asyncio.gather(*tasks)

    assert order == ["first", "cancel", "second"]


@pytest.mark.parametrize("turns", range(12))
async def test_a_caller_cancelled_anywhere_leaves_every_place_free(
    recovery: ErrorRecoveryService, turns: int
) -> None:
    """In the queue, at the grant, or in flight: places and tokens are conserved."""
    venue = recovery.service("venue", max_concurrent=1, max_queue=5, rate_limit="100/s", timeout=3.0)
    first = asyncio.create_task(venue.call(asyncio.sleep, 0))
    second = asyncio.create_task(venue.call(asyncio.sleep, 0))
    for _ in range(turns):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)

    assert health(recovery)["in_flight"] == 0
    assert health(recovery)["queued"] == 0
    await venue.call(asyncio.sleep, 0)


async def test_a_block_holds_its_place_until_it_is_left(recovery: ErrorRecoveryService) -> None:
    """A guard is one call in flight, also when it fails."""
    venue = recovery.service("venue", max_concurrent=1)

    with pytest.raises(ValueError, match="mine"):  # noqa: PT012  the block is what fails
        async with venue.guard():
            assert health(recovery)["in_flight"] == 1
            raise ValueError("mine")

    assert health(recovery)["in_flight"] == 0


async def test_an_abandoned_thread_keeps_its_place_until_it_ends(recovery: ErrorRecoveryService) -> None:
    """Its caller has gone, but the venue is still being asked."""
    venue = recovery.service("venue", max_concurrent=1)
    release, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> None:
        loop.call_soon_threadsafe(begun.set)
        release.wait(60)

    task = asyncio.create_task(venue.call(hang))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert health(recovery)["in_flight"] == 1
    release.set()
    while health(recovery)["abandoned_threads"]:  # noqa: ASYNC110  a thread ends it
        await asyncio.sleep(0)
    assert health(recovery)["in_flight"] == 0


async def test_an_attempt_left_behind_keeps_its_place_until_it_ends(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Grace frees the caller, not the place."""
    venue = recovery.service("venue", max_concurrent=1, timeout=1.0, grace=0.5, max_retries=0)
    ends = clock.monotonic() + 10

    async def stubborn() -> None:
        while clock.monotonic() < ends:
            try:
                await asyncio.sleep(ends - clock.monotonic())
            except asyncio.CancelledError:
                continue

    with pytest.raises(TimeoutError):
        await venue.call(stubborn)
    assert health(recovery)["in_flight"] == 1
    await asyncio.sleep(10)
    assert health(recovery)["in_flight"] == 0


async def test_the_rate_is_kept_and_the_order_too(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Two a second: the third waits for the first to leave the window, and nobody overtakes."""
    venue = recovery.service("venue", rate_limit="2/s")
    begun, sent = clock.monotonic(), list[tuple[int, float]]()

    async def send(number: int) -> None:
        sent.append((number, clock.monotonic() - begun))

    await asyncio.gather(*(venue.call(send, number) for number in range(5)))

    assert sent == [(0, 0.0), (1, 0.0), (2, 1.0), (3, 1.0), (4, 2.0)]


async def test_a_heavy_call_is_not_starved_by_light_ones(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """First come, first served, whatever it weighs."""
    venue = recovery.service("venue", rate_limit="5/s")
    sent = list[str]()

    async def send(name: str) -> None:
        sent.append(name)

    await venue.using(weight=4).call(send, "first")
    await asyncio.gather(venue.using(weight=5).call(send, "heavy"), venue.call(send, "light"))

    assert sent == ["first", "heavy", "light"]


async def test_what_cannot_be_sent_in_time_is_refused_at_once(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The refusal says when there will be room, and comes before the wait, not after it."""
    venue = recovery.service("venue", rate_limit="1/min", max_wait=5.0)
    await venue.call(asyncio.sleep, 0)
    begun = clock.monotonic()

    with pytest.raises(RateLimitedError) as refused:
        await venue.call(asyncio.sleep, 0)

    assert refused.value.retry_after == 60.0
    assert clock.monotonic() == begun


async def test_a_call_cancelled_in_the_queue_gives_its_turn_to_the_next(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A token nobody used is not lost."""
    venue = recovery.service("venue", rate_limit="1/s")
    begun = clock.monotonic()
    await venue.call(asyncio.sleep, 0)
    second = asyncio.create_task(venue.call(asyncio.sleep, 0))
    third = asyncio.create_task(venue.call(asyncio.sleep, 0))
    await settle()
    second.cancel()
    await third

    assert clock.monotonic() - begun == 1.0


async def test_a_token_comes_back_when_the_bulkhead_refuses(recovery: ErrorRecoveryService) -> None:
    """What was not sent does not count at the venue either."""
    venue = recovery.service("venue", rate_limit="2/min", max_concurrent=1)
    busy = asyncio.create_task(venue.call(asyncio.sleep, 1))
    await settle()
    for _ in range(5):
        with pytest.raises(BulkheadFullError):
            await venue.call(asyncio.sleep, 0)
    await busy

    await venue.call(asyncio.sleep, 0)


async def test_the_circuit_is_asked_again_after_a_wait(recovery: ErrorRecoveryService) -> None:
    """It opened while the call was in the queue: the call is refused, and its place is free."""
    venue = recovery.service("venue", max_concurrent=1, max_queue=5, circuit_threshold=1, max_retries=0)

    async def fail() -> None:
        await asyncio.sleep(1)
        raise ConnectionError("down")

    first = asyncio.create_task(venue.call(fail))
    await settle()
    with pytest.raises(CircuitOpenError):
        await venue.call(asyncio.sleep, 0)
    with pytest.raises(ConnectionError):
        await first

    assert health(recovery)["in_flight"] == 0


async def test_each_attempt_pays_the_rate_limit(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """A retry is a request like any other."""
    venue = recovery.service("venue", rate_limit="1/10s", max_retries=2, base_delay=1.0)
    sent = list[float]()

    async def fail() -> None:
        sent.append(clock.monotonic())
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        await venue.call(fail)

    assert [moment - sent[0] for moment in sent] == [0.0, 10.0, 20.0]


async def test_an_empty_budget_ends_the_retries_with_the_real_error(recovery: ErrorRecoveryService) -> None:
    """The note says why there was no other attempt."""
    budget = RetryBudget(capacity=1)
    venue = recovery.service("venue", max_retries=5, base_delay=0, retry_budget=budget)
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError("down")

    with pytest.raises(ConnectionError) as raised:
        await venue.call(fail)

    assert calls == 2
    assert any("budget" in note for note in raised.value.__notes__)


async def test_a_retry_that_succeeds_gets_its_cost_back(recovery: ErrorRecoveryService) -> None:
    """A dependency that recovers is not made to pay."""
    budget = RetryBudget(capacity=2)
    venue = recovery.service("venue", base_delay=0, retry_budget=budget)
    answers = iter([ConnectionError("down"), None])

    async def fetch() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    await venue.call(fetch)

    assert budget.is_full


async def test_a_retry_cancelled_while_it_waits_gives_its_unit_back(recovery: ErrorRecoveryService) -> None:
    """It is held through the wait, and was never used."""
    budget = RetryBudget(capacity=2)
    venue = recovery.service("venue", base_delay=60, retry_budget=budget)

    async def fail() -> None:
        raise ConnectionError("down")

    task = asyncio.create_task(venue.call(fail))
    await settle()
    assert budget.tokens == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert budget.is_full


async def test_successes_of_any_call_fill_the_budget(recovery: ErrorRecoveryService) -> None:
    """Also those that never needed a retry."""
    budget = RetryBudget(capacity=2, per_success=0.5)
    budget.take(2)
    venue = recovery.service("venue", retry_budget=budget)
    for _ in range(3):
        await venue.call(asyncio.sleep, 0)

    assert budget.tokens == 1.5


async def test_limits_declared_later_hold_for_functions_decorated_before(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """They belong to the service, wherever they are declared."""
    begun = clock.monotonic()

    @recovery.service("venue")
    async def fetch() -> float:
        return clock.monotonic() - begun

    await fetch()
    recovery.service("venue", rate_limit="1/s")

    assert [await fetch(), await fetch()] == [0.0, 1.0]


async def test_a_weight_that_could_never_be_sent_is_refused_when_the_handle_is_built(
    recovery: ErrorRecoveryService,
) -> None:
    """It would wait for ever."""
    venue = recovery.service("venue", rate_limit=("10/s", "20/min"))

    with pytest.raises(ValueError, match="weight=11 can never be sent"):
        venue.using(weight=11)


async def test_bulkhead_and_rate_limit_stand_alone(clock: VirtualClock) -> None:
    """As blocks, in many tasks at once."""
    begun, ended = clock.monotonic(), list[float]()
    places, rate = (
        Bulkhead(max_concurrent=1, max_queue=5, clock=clock),
        RateLimit(rate_limit="1/s", clock=clock),
    )

    async def work() -> None:
        async with places, rate:
            await asyncio.sleep(0.25)
            ended.append(clock.monotonic() - begun)

    await asyncio.gather(work(), work(), work())

    assert ended == [0.25, 1.25, 2.25]

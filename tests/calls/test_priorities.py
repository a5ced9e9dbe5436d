"""Cancels before orders before market data, in both queues, and limits that change while calls wait."""

from __future__ import annotations

import asyncio

import pytest

from shockproof import Bulkhead, BulkheadFullError, ErrorRecoveryService, Handle, RateLimit, RateLimitedError
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Desk:
    """Writes down in which order its calls were made."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.made: list[str] = []

    async def work(self, name: str) -> None:
        self.made.append(name)
        await asyncio.sleep(1)

    def start(self, name: str, **options: object) -> asyncio.Task[None]:
        handle = self.handle.using(**options) if options else self.handle  # type: ignore[arg-type]  # as given
        return asyncio.create_task(handle.call(self.work, name))


async def queued(desk: Desk) -> list[asyncio.Task[None]]:
    tasks = [desk.start("first")]
    await settle()
    tasks += [
        desk.start("quote", priority="low"),
        desk.start("order"),
        desk.start("second order"),
        desk.start("exit", priority="high"),
        desk.start("cancel", risk_reducing=True),
    ]
    await settle()
    return tasks


async def test_places_go_to_cancels_then_orders_then_market_data(recovery: ErrorRecoveryService) -> None:
    """Whoever came first matters only among equals."""
    desk = Desk(recovery.service("venue", max_concurrent=1, max_queue=9))
    await asyncio.gather(*await queued(desk))

    assert desk.made == ["first", "cancel", "exit", "order", "second order", "quote"]


async def test_tokens_go_to_cancels_then_orders_then_market_data(recovery: ErrorRecoveryService) -> None:
    """The queue of the rate limit has the same order."""
    desk = Desk(recovery.service("venue", rate_limit="1/s"))
    await asyncio.gather(*await queued(desk))

    assert desk.made == ["first", "cancel", "exit", "order", "second order", "quote"]


async def test_important_call_passes_a_heavy_unimportant_one(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """There is room for the order now, and the quote that waits has no claim on it."""
    desk = Desk(recovery.service("venue", rate_limit="10/s"))
    begun = clock.monotonic()
    tasks = [desk.start("filler", weight=8)]
    await settle()
    tasks.append(desk.start("heavy quote", priority="low", weight=10))
    await settle()
    tasks.append(desk.start("order"))
    await settle()

    assert desk.made == ["filler", "order"]
    await asyncio.gather(*tasks)
    assert clock.monotonic() - begun == 2.0


async def test_important_call_that_may_not_wait_is_not_refused_for_unimportant_ones(
    recovery: ErrorRecoveryService,
) -> None:
    """Who waits behind it is no reason; an equal that waits before it is."""
    venue = recovery.service("venue", rate_limit="10/s", max_retries=0)
    desk = Desk(venue)
    tasks = [desk.start("filler", weight=8)]
    await settle()
    tasks.append(desk.start("heavy quote", priority="low", weight=10))
    await settle()
    venue.configure(max_wait=0.0)

    with pytest.raises(RateLimitedError):
        await desk.handle.using(priority="low").call(desk.work, "light quote")
    await desk.handle.call(desk.work, "order")
    await asyncio.gather(*tasks)
    assert desk.made == ["filler", "order", "heavy quote"]


async def test_order_displaces_the_last_quote_from_a_full_queue(recovery: ErrorRecoveryService) -> None:
    """The quote is told at once, and everybody else is served."""
    desk = Desk(recovery.service("venue", max_concurrent=1, max_queue=2, max_retries=0))
    tasks = [desk.start("first")]
    await settle()
    tasks += [desk.start("old quote", priority="low"), desk.start("new quote", priority="low")]
    await settle()
    tasks.append(desk.start("order"))
    await settle()

    with pytest.raises(BulkheadFullError):
        await tasks.pop(2)
    await asyncio.gather(*tasks)
    assert desk.made == ["first", "order", "old quote"]


async def test_more_places_are_taken_at_once(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Nobody has to end for those who wait."""
    desk = Desk(recovery.service("venue", max_concurrent=1, max_queue=9))
    tasks = [desk.start(str(number)) for number in range(4)]
    await settle()
    desk.handle.configure(max_concurrent=3)
    await settle()

    assert desk.made == ["0", "1", "2"]
    await asyncio.gather(*tasks)


async def test_fewer_places_let_the_excess_drain(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """What is in flight ends as it would have; then the new bound holds."""
    desk = Desk(recovery.service("venue", max_concurrent=3, max_queue=9))
    begun, tasks = clock.monotonic(), [desk.start(str(number)) for number in range(5)]
    await settle()
    desk.handle.configure(max_concurrent=1, max_queue=0)
    with pytest.raises(BulkheadFullError):
        await desk.handle.call(desk.work, "refused")
    await asyncio.gather(*tasks)

    assert desk.made == ["0", "1", "2", "3", "4"]
    assert clock.monotonic() - begun == 3.0


async def test_bound_that_is_taken_away_lets_everybody_in(recovery: ErrorRecoveryService) -> None:
    """None is any number; the places in use are given back all the same."""
    desk = Desk(recovery.service("venue", max_concurrent=1, max_queue=9))
    tasks = [desk.start(str(number)) for number in range(4)]
    await settle()
    desk.handle.configure(max_concurrent=None)
    await settle()

    assert len(desk.made) == 4
    await asyncio.gather(*tasks)
    assert recovery.get_health_status()["services"]["venue"]["in_flight"] == 0


async def test_bound_that_comes_while_a_call_is_in_flight_does_not_count_it_twice(
    recovery: ErrorRecoveryService,
) -> None:
    """It took no place, so it gives none back."""
    desk = Desk(recovery.service("venue", rate_limit="100/s"))
    task = desk.start("before")
    await settle()
    desk.handle.configure(max_concurrent=2)
    await task

    assert recovery.get_health_status()["services"]["venue"]["in_flight"] == 0


async def test_new_rate_counts_what_was_sent_and_wakes_who_waits(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A rate that is raised is used now; one that is lowered holds now."""
    desk = Desk(recovery.service("venue", rate_limit="1/min"))
    tasks = [desk.start(str(number)) for number in range(4)]
    await settle()
    assert desk.made == ["0"]
    desk.handle.configure(rate_limit="3/min")
    await settle()
    assert desk.made == ["0", "1", "2"]

    begun = clock.monotonic()
    desk.handle.configure(rate_limit="1/10s")
    await asyncio.gather(*tasks)
    assert desk.made == ["0", "1", "2", "3"]
    assert clock.monotonic() - begun == pytest.approx(11.0)


async def test_rate_that_is_taken_away_lets_everybody_go(recovery: ErrorRecoveryService) -> None:
    """None is no limit."""
    desk = Desk(recovery.service("venue", rate_limit="1/min"))
    tasks = [desk.start(str(number)) for number in range(3)]
    await settle()
    desk.handle.configure(rate_limit=None)
    await settle()

    assert len(desk.made) == 3
    await asyncio.gather(*tasks)


async def test_rates_that_a_handle_could_never_keep_are_refused(recovery: ErrorRecoveryService) -> None:
    """Its calls would wait for ever; nothing is changed."""
    venue = recovery.service("venue", rate_limit="100/min")
    heavy = venue.using(weight=50)

    with pytest.raises(ValueError, match="weight=50 can never be sent: only 20 weight in 60 s"):
        venue.configure(rate_limit="20/min")
    await heavy.call(asyncio.sleep, 0)


async def test_declaration_that_is_repeated_leaves_the_change_alone(recovery: ErrorRecoveryService) -> None:
    """A module that is loaded later declares what it always did."""
    venue = recovery.service("venue", max_concurrent=1, max_queue=3)
    venue.configure(max_concurrent=2)
    recovery.service("venue", max_concurrent=1, max_queue=3)

    assert recovery.get_health_status()["services"]["venue"]["max_concurrent"] == 2


async def test_configure_takes_limits_only_and_checks_them(recovery: ErrorRecoveryService) -> None:
    """The message says what it takes."""
    venue = recovery.service("venue", max_concurrent=1)

    with pytest.raises(TypeError, match="configure takes max_concurrent, max_queue, max_wait, rate_limit"):
        venue.configure(timeout=1.0)  # type: ignore[call-arg]  # what is tested
    with pytest.raises(ValueError, match="max_concurrent must be a whole number of at least 1, got 0"):
        venue.configure(max_concurrent=0)


async def test_policies_that_stand_alone_have_priorities_and_change_too(clock: VirtualClock) -> None:
    """The same options, without a recovery service."""
    places = Desk(Bulkhead(max_concurrent=1, max_queue=9, clock=clock))
    tasks = await queued(places)
    places.handle.configure(max_concurrent=2)
    await asyncio.gather(*tasks)
    rate = Desk(RateLimit(rate_limit="1/s", clock=clock))
    await asyncio.gather(*await queued(rate))

    assert places.made == rate.made == ["first", "cancel", "exit", "order", "second order", "quote"]


async def test_orders_and_weight_are_limits_of_their_own(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Ten orders in a second and so much weight in a minute are taken together; a quote is no order."""
    venue = recovery.service(
        "venue", rate_limit=("2 orders/s", "100 weight/min"), max_wait=0.0, max_retries=0
    )
    quotes = venue.using(weight={"weight": 30})

    async def send() -> None: ...

    await venue.using(weight=10).call(send)
    await venue.call(send)
    with pytest.raises(RateLimitedError) as refused:
        await venue.call(send)
    assert refused.value.retry_after == 1.0
    await quotes.call(send)
    await quotes.call(send)
    used = {
        one["name"]: one["used"] for one in recovery.get_health_status()["services"]["venue"]["rate_limit"]
    }
    assert used == {"orders": 2, "weight": 71}


async def test_weight_of_what_no_rate_counts_is_refused_when_the_handle_is_built(
    recovery: ErrorRecoveryService,
) -> None:
    """A slip of the pen would else count nothing."""
    venue = recovery.service("venue", rate_limit=("2 orders/s", "100/min"))

    with pytest.raises(ValueError, match="counts 'order', and there are only rates of orders, weight"):
        venue.using(weight={"order": 1})
    with pytest.raises(ValueError, match="counts nothing"):
        venue.using(weight={"orders": 0})

"""Each feature, on whatever can be called, and in blocks that one task enters and another leaves."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from shockproof import (
    NOT_FOUND,
    AdaptiveConcurrency,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    ErrorRecoveryService,
    Found,
    LastGood,
    RateLimitedError,
    RetryBudget,
    Timeout,
)
from shockproof.testing import Fails, FaultInjector, VirtualClock

pytestmark = pytest.mark.asyncio

FEATURES: dict[str, dict[str, Any]] = {
    "places": {"max_concurrent": 1, "max_queue": 5},
    "places that find themselves": {"max_concurrent": AdaptiveConcurrency(), "max_queue": 5},
    "rate": {"rate_limit": "100/s"},
    "budget": {"retry_budget": RetryBudget()},
    "adaptive": {"adaptive": True},
    "hedge": {"hedge_after": 5.0, "max_retries": 2},
    "age": {"max_call_age": 5.0},
    "grace": {"timeout": 5.0, "grace": 1.0},
    "time limits": {"timeout": 5.0, "deadline": 50.0},
    "last good": {"fallback": LastGood(max_age=60.0)},
    "shadow": {"circuit_mode": "shadow"},
}


class Market:
    """Somebody's client: each way to get a quote fails at first, and answers then."""

    failures = 1

    @classmethod
    def may_fail(cls, symbol: str) -> str:
        if Market.failures:
            Market.failures -= 1
            raise ConnectionError("reset")
        return f"{symbol} 150.25"

    async def method(self, symbol: str, *, venue: str = "any") -> str:
        await asyncio.sleep(0)
        return self.may_fail(symbol)

    @classmethod
    async def of_the_class(cls, symbol: str) -> str:
        return cls.may_fail(symbol)

    @staticmethod
    async def static(symbol: str) -> str:
        return Market.may_fail(symbol)

    async def __call__(self, symbol: str) -> str:
        return self.may_fail(symbol)


async def function(symbol: str) -> str:
    return Market.may_fail(symbol)


CALLABLES: dict[str, Callable[..., Any]] = {
    "function": function,
    "bound method": Market().method,
    "class method": Market.of_the_class,
    "static method": Market.static,
    "callable object": Market(),
    "partial": functools.partial(function, symbol="AAPL"),
    "partial of a method": functools.partial(Market().method, venue="NYSE"),
    "partial of an object": functools.partial(Market()),
}


@pytest.fixture(autouse=True)
def _fails_once() -> None:
    Market.failures = 1


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("kind", CALLABLES)
async def test_each_feature_holds_for_each_callable(
    recovery: ErrorRecoveryService, kind: str, feature: str
) -> None:
    """Decorated or handed to call(): the first attempt fails, the second answers, and nothing is left in use."""
    market = recovery.service("market_data", **FEATURES[feature])
    fn, args = CALLABLES[kind], () if kind == "partial" else ("AAPL",)
    assert await market(fn)(*args) == "AAPL 150.25"
    Market.failures = 1
    assert await market.call(fn, *args) == "AAPL 150.25"
    service = recovery.get_health_status()["services"]["market_data"]
    assert (service["successes"], service["failures"], service["in_flight"] or 0) == (2, 2, 0)


@pytest.mark.parametrize("feature", FEATURES)
async def test_each_feature_holds_for_methods_decorated_in_a_class(
    recovery: ErrorRecoveryService, feature: str
) -> None:
    """Where people write their decorators."""
    market = recovery.service("market_data", **FEATURES[feature])

    class Feed:
        def __init__(self, price: float) -> None:
            self.price = price

        @market
        async def quote(self, symbol: str) -> str:
            Market.may_fail(symbol)
            return f"{symbol} {self.price}"

        @classmethod
        @market
        async def of_the_class(cls, symbol: str) -> str:
            return f"{cls.__name__} {Market.may_fail(symbol)}"

        @staticmethod
        @market
        async def static(symbol: str) -> str:
            return Market.may_fail(symbol)

    assert await Feed(1.0).quote("AAPL") == "AAPL 1.0"
    assert await Feed(2.0).quote(symbol="MSFT") == "MSFT 2.0"
    Market.failures = 1
    assert await Feed.of_the_class("AAPL") == "Feed AAPL 150.25"
    Market.failures = 1
    assert await Feed.static("AAPL") == "AAPL 150.25"


@pytest.mark.parametrize("kind", CALLABLES)
async def test_faults_are_met_by_each_callable(
    recovery: ErrorRecoveryService, clock: VirtualClock, kind: str
) -> None:
    """What a test puts in the way of a service does not ask what is called."""
    Market.failures = 0
    market = recovery.service("market_data", max_retries=2)
    fn, args = CALLABLES[kind], () if kind == "partial" else ("AAPL",)
    decorated = market(fn)
    with FaultInjector(recovery).on("market_data", plan=[ConnectionError, TimeoutError]) as injected:
        assert await decorated(*args) == "AAPL 150.25"
    assert injected.injected == 2


class Venue:
    """A client whose order function is whatever is asked for."""

    def __init__(self) -> None:
        self.booked: list[str] = []

    async def place(self, symbol: str, *, client_order_id: str) -> str:
        self.booked.append(client_order_id)
        raise ConnectionResetError("after it arrived")

    async def __call__(self, symbol: str, *, client_order_id: str) -> str:
        return await self.place(symbol, client_order_id=client_order_id)

    async def find(self, key: str) -> Any:
        return Found("filled") if key in self.booked else NOT_FOUND


@pytest.mark.parametrize(
    "form",
    [
        lambda venue: (venue.place, ("AAPL",)),
        lambda venue: (venue, ("AAPL",)),
        lambda venue: (functools.partial(venue.place, "AAPL"), ()),
        lambda venue: (functools.partial(venue, symbol="AAPL"), ()),
    ],
    ids=["method", "callable object", "partial of a method", "partial of an object"],
)
@pytest.mark.parametrize("confirm", [lambda venue: venue.find, lambda venue: functools.partial(venue.find)])
async def test_order_is_sent_once_by_each_callable(
    recovery: ErrorRecoveryService,
    form: Callable[[Venue], tuple[Callable[..., Any], tuple[str, ...]]],
    confirm: Callable[[Venue], Callable[..., Any]],
) -> None:
    """The key gets to it, and it is looked up instead of being sent again."""
    venue = Venue()
    async with recovery:
        once = recovery.service("orders").once(confirm=confirm(venue), key_argument="client_order_id")
        fn, args = form(venue)
        assert await once.call(fn, *args) == "filled"
    assert venue.booked == [once.key]


class Prices:
    """A feed that is lost after one item; whatever opens it counts."""

    def __init__(self) -> None:
        self.opened = 0

    async def connect(self) -> AsyncIterator[int]:
        self.opened += 1
        yield self.opened

    def __call__(self) -> AsyncIterator[int]:
        return self.connect()


@pytest.mark.parametrize(
    "form",
    [
        lambda prices: prices.connect,
        lambda prices: prices,
        lambda prices: functools.partial(Prices.connect, prices),
    ],
    ids=["method", "callable object", "partial"],
)
async def test_a_feed_is_opened_by_each_callable(
    recovery: ErrorRecoveryService, form: Callable[[Prices], Callable[[], Any]]
) -> None:
    """And opened again by it."""
    feed, got = recovery.service("prices"), list[int]()
    async with feed.stream(form(Prices()), stale_after=5.0) as ticks:
        async for tick in ticks:
            got.append(tick)
            if tick == 3:
                break
    assert got == [1, 2, 3]


async def in_another_task(awaitable: Any) -> Any:
    async def run() -> Any:
        return await awaitable

    return await asyncio.create_task(run())


@pytest.mark.parametrize("ends_with", [None, ConnectionError("reset"), asyncio.CancelledError()])
@pytest.mark.parametrize(
    "feature", [name for name in FEATURES if name not in {"hedge", "grace", "last good"}]
)
async def test_each_feature_holds_for_a_block_that_another_task_leaves(
    recovery: ErrorRecoveryService, clock: VirtualClock, feature: str, ends_with: BaseException | None
) -> None:
    """Whatever was taken is given back there, and nobody is cancelled later."""
    market = recovery.service("market_data", **FEATURES[feature])
    kind = None if ends_with is None else type(ends_with)
    for _ in range(3):
        guard = market.guard()
        await in_another_task(guard.__aenter__())
        await clock.sleep(1.0)
        await in_another_task(guard.__aexit__(kind, ends_with, None))
    await clock.sleep(100.0)
    service = recovery.get_health_status()["services"]["market_data"]
    failures = 3 if isinstance(ends_with, ConnectionError) else 0
    successes = 3 if ends_with is None else 0
    assert (service["successes"], service["failures"], service["in_flight"] or 0) == (successes, failures, 0)
    assert await market.call(asyncio.sleep, 0, "answer") == "answer"


@pytest.mark.parametrize("has_ended", [True, False], ids=["it has ended", "it goes on"])
async def test_a_policy_as_a_block_may_be_left_in_another_task_than_it_was_entered_in(
    clock: VirtualClock, has_ended: bool
) -> None:
    """As a fixture does it: the place comes back, the error counts, and whoever entered is not ended later."""
    places, limit = Bulkhead(max_concurrent=1, clock=clock), Timeout(timeout=5.0, clock=clock)
    breaker = CircuitBreaker(circuit_threshold=3, clock=clock)
    error = ConnectionError("reset")
    go_on = asyncio.Event()

    async def enters(policy: Any) -> None:
        await policy.__aenter__()
        if not has_ended:
            await go_on.wait()

    for policy in (places, limit, breaker) * 3:
        entering = asyncio.create_task(enters(policy))
        await clock.sleep(1.0)
        assert entering.done() is has_ended
        await in_another_task(policy.__aexit__(ConnectionError, error, None))
        await clock.sleep(10.0)
        go_on.set()
        await entering
        go_on.clear()
    assert breaker.state == "open"
    async with places, limit:
        pass


async def test_a_block_of_a_policy_that_is_left_by_nobody_in_particular_is_refused(
    clock: VirtualClock,
) -> None:
    """Two tasks are in one, a third leaves: which of them is not known; each can still leave its own."""
    places, go_on = Bulkhead(max_concurrent=2, clock=clock), asyncio.Event()

    async def is_in() -> None:
        async with places:
            await go_on.wait()

    tasks = [asyncio.create_task(is_in()) for _ in range(2)]
    await clock.sleep(1.0)
    with pytest.raises(RuntimeError, match=r"policy\.guard"):
        await places.__aexit__(None, None, None)
    go_on.set()
    await asyncio.gather(*tasks)
    async with places, places:
        pass


@pytest.mark.filterwarnings("ignore")  # the loop is dropped on purpose, and says so
async def test_a_block_of_a_policy_on_a_loop_that_is_dropped_gives_its_place_back() -> None:
    """Nobody leaves it but Python, when the task is collected: no loop runs it any more."""
    places = Bulkhead(max_concurrent=1)

    async def is_in() -> None:
        async with places:
            await asyncio.get_running_loop().create_future()

    def drops_a_loop() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(is_in())
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        assert not task.done()
        loop.close()

    await asyncio.to_thread(drops_a_loop)
    gc.collect()
    async with places:
        pass


@pytest.mark.filterwarnings("ignore")  # the loop is dropped on purpose, and says so
async def test_a_block_may_be_left_by_the_collector_while_another_is_being_left() -> None:
    """Garbage is collected wherever it is: in the thread that holds the lock, too."""
    places, kept = Bulkhead(max_concurrent=2), list[object]()

    async def is_in() -> None:
        async with places:
            await asyncio.get_running_loop().create_future()

    def drops_a_loop() -> None:
        loop = asyncio.new_event_loop()
        kept.append(loop.create_task(is_in()))
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        loop.close()

    class Collecting(dict[Any, Any]):
        def pop(self, key: Any, /, *default: Any) -> Any:
            kept.clear()
            gc.collect()
            return super().pop(key, *default)

    async def comes_and_goes() -> None:
        async with places:
            pass

    await asyncio.to_thread(drops_a_loop)
    places._entered = Collecting(places._entered)
    leaving = threading.Thread(target=lambda: asyncio.run(comes_and_goes()), daemon=True)
    leaving.start()
    await asyncio.to_thread(leaving.join, 60.0)
    assert not leaving.is_alive(), "it waits for itself"
    async with places, places:
        pass


async def test_a_place_in_a_block_is_held_until_whoever_leaves_it(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The task that entered has long ended."""
    broker = recovery.service("broker", max_concurrent=1)
    guard = broker.guard()
    await in_another_task(guard.__aenter__())
    with pytest.raises(BulkheadFullError):
        await broker.call(asyncio.sleep, 0)
    await in_another_task(guard.__aexit__(None, None, None))
    await broker.call(asyncio.sleep, 0)


async def test_a_token_of_a_block_is_spent_whoever_leaves_it(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It was sent."""
    venue = recovery.service("venue", rate_limit="1/10s", max_wait=0.0)
    guard = venue.guard()
    await in_another_task(guard.__aenter__())
    await in_another_task(guard.__aexit__(None, None, None))
    with pytest.raises(RateLimitedError):
        await venue.call(asyncio.sleep, 0)


@pytest.mark.parametrize(
    "feature", [name for name in FEATURES if name not in {"hedge", "grace", "last good"}]
)
async def test_attempts_go_on_although_each_block_is_left_in_another_task(
    recovery: ErrorRecoveryService, feature: str
) -> None:
    """The second block answers what the first did not."""
    market, numbers = recovery.service("market_data", **FEATURES[feature]), list[int]()
    async for attempt in market.attempts():
        await in_another_task(attempt.__aenter__())
        numbers.append(attempt.number)
        error = ConnectionError("reset") if attempt.number == 1 else None
        handled = await in_another_task(
            attempt.__aexit__(None if error is None else type(error), error, None)
        )
        assert handled is (error is not None)
    assert numbers == [1, 2]
    service = recovery.get_health_status()["services"]["market_data"]
    assert (service["successes"], service["failures"], service["in_flight"] or 0) == (1, 1, 0)


async def test_a_fault_in_a_block_follows_it_into_another_task(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The answer is lost where the block is left."""
    market = recovery.service("market_data")
    with FaultInjector(recovery).on("market_data", Fails(ConnectionError, sent=True)):
        guard = market.guard()
        await in_another_task(guard.__aenter__())
        with pytest.raises(ConnectionError):
            await in_another_task(guard.__aexit__(None, None, None))
    assert recovery.get_health_status()["services"]["market_data"]["failures"] == 1

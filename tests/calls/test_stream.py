"""stream(): a feed that is opened again when it is lost, and knows when it went silent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, Self

import pytest

from shockproof import (
    UNKNOWN,
    AttemptTimeoutError,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorRecoveryService,
    Event,
    Handle,
    LookUp,
    OutcomeUnknownError,
    RateLimitedError,
    RetryBudget,
    ServiceStatus,
    Stream,
    StreamEndedError,
    StreamGap,
    StreamLost,
    StreamSilentError,
    attempts_of,
)
from shockproof.testing import Fails, FaultInjector, VirtualClock, cancel_at_each_await

pytestmark = pytest.mark.asyncio


class Venue:
    """A venue that plays a plan for each connection: items, waits, errors; what it has no plan for is silent."""

    __name__ = "venue"

    def __init__(self, clock: VirtualClock, *plans: list[object]) -> None:
        self.clock = clock
        self.plans = list(plans)
        self.began = clock.monotonic()
        self.opened: list[float] = []
        self.closed: list[float] = []
        self.closing: list[str] = []

    @property
    def is_open(self) -> bool:
        return len(self.opened) > len(self.closed)

    def now(self) -> float:
        return round(self.clock.monotonic() - self.began, 6)

    async def __call__(self) -> AsyncIterator[Any]:
        plan = self.plans.pop(0) if self.plans else []
        self.opened.append(self.now())
        why = "end"
        try:
            for step in plan:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, BaseException):
                    raise step
                elif step == "end":
                    return
                else:
                    yield step
            await asyncio.sleep(1e9)
        except BaseException as error:
            why = type(error).__name__
            raise
        finally:
            self.closed.append(self.now())
            self.closing.append(why)


async def take(ticks: Stream[Any], count: int) -> list[Any]:
    """The first items; then the stream is closed."""
    found: list[Any] = []
    async with ticks:
        async for tick in ticks:
            found.append(tick)
            if len(found) == count:
                break
    return found


async def read(ticks: Stream[Any], found: list[Any], *, error: Exception | None = None) -> None:
    """All its items into *found*; with *error*, a consumer that fails at the first."""
    async with ticks:
        async for tick in ticks:
            found.append(tick)
            if error is not None:
                raise error


def health(recovery: ErrorRecoveryService, name: str = "feed") -> dict[str, Any]:
    found: dict[str, Any] = recovery.get_health_status()["services"][name]
    return found


def heard(recovery: ErrorRecoveryService) -> list[Event]:
    events: list[Event] = []

    async def listener(event: Event) -> None:
        events.append(event)

    recovery.on_event(listener)
    return events


async def settled() -> None:
    """Let tasks that are due run: closers, listeners."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def feed(recovery: ErrorRecoveryService) -> Handle:
    return recovery.service("feed")


# -- opening and reading -----------------------------------------------------------------------------


async def test_nothing_is_opened_before_the_first_item_is_asked_for(
    feed: Handle, clock: VirtualClock
) -> None:
    """A stream that is made and never read leaves nothing behind."""
    venue = Venue(clock, [1, 2])
    ticks = feed.stream(venue)
    await settled()
    assert venue.opened == []
    assert await take(ticks, 2) == [1, 2]
    assert (venue.opened, venue.closed) == ([0.0], [0.0])


async def test_the_source_is_read_only_when_an_item_is_asked_for(feed: Handle, clock: VirtualClock) -> None:
    """Nothing is buffered: a slow consumer leaves what it has not asked for with the source."""
    taken: list[int] = []

    async def connect() -> AsyncIterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    async with feed.stream(connect, stale_after=1.0) as ticks:
        async for tick in ticks:
            await asyncio.sleep(50)
            assert taken == list(range(tick + 1))
            if tick == 3:
                break
    assert ticks.gaps == 0


class Connected:
    """A connection as libraries have them: entered, read, closed."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def __aenter__(self) -> Self:
        self.log.append("enter")
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self.log.append(f"exit {getattr(kind, '__name__', None)}")

    def __aiter__(self) -> Connected:
        return self

    async def __anext__(self) -> int:
        self.log.append("read")
        return 7


class AwaitableAndManager(Connected):
    """As the connect() of a WebSocket library: to be awaited, or entered; here it must be entered."""

    def __await__(self) -> Any:
        raise AssertionError("it was awaited, and nobody would close it")
        yield


class Closable:
    """A connection that has only a close()."""

    def __init__(self, *, is_async: bool) -> None:
        self.is_closed = False
        self.is_async = is_async

    def __aiter__(self) -> AsyncIterator[int]:
        return self._items()

    async def _items(self) -> AsyncIterator[int]:
        yield 7

    def close(self) -> Awaitable[None] | None:
        self.is_closed = True
        return asyncio.sleep(0) if self.is_async else None


@pytest.mark.parametrize("kind", [Connected, AwaitableAndManager])
async def test_a_context_manager_is_entered_and_left(feed: Handle, kind: type[Connected]) -> None:
    """Also one that could be awaited: entering it is what closes it."""
    connected = kind()
    assert await take(feed.stream(lambda: connected), 2) == [7, 7]
    assert connected.log == ["enter", "read", "read", "exit GeneratorExit"]


async def test_a_coroutine_that_gives_a_context_manager_is_awaited_and_entered(feed: Handle) -> None:
    """As a session object does that has to log in first."""
    connected = Connected()

    async def connect() -> Connected:
        return connected

    assert await take(feed.stream(connect), 1) == [7]
    assert connected.log == ["enter", "read", "exit GeneratorExit"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_connection_with_nothing_but_a_close_is_closed(feed: Handle, is_async: bool) -> None:
    """What connect gave belongs to the stream."""
    connected = Closable(is_async=is_async)

    async def connect() -> Closable:
        return connected

    assert await take(feed.stream(connect), 1) == [7]
    assert connected.is_closed


async def test_an_async_context_manager_function_sees_how_its_feed_ended(
    feed: Handle, clock: VirtualClock
) -> None:
    """Its body is left by the feed's own error, as with an ordinary async with."""
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[AsyncIterator[Any]]:
        try:
            yield Venue(clock, [1, OSError("cut")])()
        except OSError as error:
            seen.append(str(error))
            raise

    assert await take(feed.stream(connect), 2) == [1, 1]
    assert seen == ["cut"]


@pytest.mark.parametrize("connect", [lambda: [1, 2], lambda: None, lambda: (x for x in "ab")])
async def test_something_that_cannot_be_read_is_refused_at_once(
    recovery: ErrorRecoveryService, feed: Handle, connect: Callable[[], Any]
) -> None:
    """A mistake of the caller's is no failure of the feed, and is not repeated for ever."""
    with pytest.raises(TypeError, match="cannot be read with `async for`"):
        await take(feed.stream(connect), 1)
    assert health(recovery)["failures"] == 0


async def test_a_connect_that_needs_arguments_is_refused_at_once(
    recovery: ErrorRecoveryService, feed: Handle
) -> None:
    """Python's own message comes through, once."""

    async def connect(symbol: str) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'symbol'"):
        await take(feed.stream(connect), 1)  # type: ignore[call-overload]  # the mistake under test
    assert health(recovery)["failures"] == 0


async def test_what_is_opened_already_is_refused_with_the_way_out(feed: Handle, clock: VirtualClock) -> None:
    """An iterator can be read once, and a feed is opened again and again."""
    with pytest.raises(TypeError, match=r"connect must be a function .* got Venue.__call__\(\.\.\.\)"):
        feed.stream(Venue(clock)())  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(TypeError, match="connect must be a function"):
        feed.stream(settled())  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(TypeError, match=r"connect must be a function .* got 5"):
        feed.stream(5)  # type: ignore[call-overload]  # the mistake under test


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stale_after": 0}, "stale_after must be seconds"),
        ({"stale_after": "5"}, "stale_after must be seconds"),
        ({"stable_after": -1}, "stable_after must be seconds"),
        ({"may_end": 1}, "may_end must be True or False, got 1"),
    ],
)
async def test_options_of_a_stream_are_checked_where_they_are_given(
    feed: Handle, clock: VirtualClock, options: dict[str, Any], message: str
) -> None:
    """With their name, the value and what is allowed."""
    with pytest.raises((TypeError, ValueError), match=message):
        feed.stream(Venue(clock), **options)


async def test_a_handle_that_must_not_repeat_is_refused(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A feed is opened again and again: that is a contradiction."""
    with pytest.raises(ValueError, match="effect='unsafe' forbids to repeat"):
        recovery.service("orders", effect="unsafe").stream(Venue(clock))


# -- losing and reopening ----------------------------------------------------------------------------


async def test_a_feed_that_fails_is_opened_again_after_the_backoff(feed: Handle, clock: VirtualClock) -> None:
    """The wait grows with each failure in a row, and no item comes twice."""
    venue = Venue(clock, [1, OSError()], [OSError()], [OSError()], [2])
    assert await take(feed.stream(venue), 2) == [1, 2]
    assert venue.opened == [0.0, 1.0, 3.0, 7.0]
    assert venue.closed == [0.0, 1.0, 3.0, 7.0]


async def test_a_feed_that_goes_silent_is_closed_and_opened_again(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """Exactly stale_after seconds after its last item; silence is a failure like any other."""
    venue = Venue(clock, [1, 0.75, 2], [3])
    assert await take(feed.stream(venue, stale_after=timedelta(seconds=5)), 3) == [1, 2, 3]
    assert venue.closed[0] == 5.75
    assert venue.closing[0] == "CancelledError"
    assert venue.opened == [0.0, 6.75]
    (record,) = recovery.get_error_summary()["recent_errors"]
    assert (record["error_type"], record["severity"]) == ("StreamSilentError", "medium")
    assert "no item came for 5 s" in record["error_message"]
    assert health(recovery)["timeouts"] == 1


async def test_a_feed_may_be_silent_for_ever_unless_told_otherwise(feed: Handle, clock: VirtualClock) -> None:
    """An order feed has nothing to say for days."""
    venue = Venue(clock, [1, 1e6, 2])
    assert await take(feed.stream(venue), 2) == [1, 2]
    assert venue.opened == [0.0]


async def test_a_slow_consumer_is_no_silence_of_the_feed(feed: Handle, clock: VirtualClock) -> None:
    """Only the time in which an item is waited for counts."""
    venue = Venue(clock, [1, 2, 3])
    async with feed.stream(venue, stale_after=1.0) as ticks:
        async for tick in ticks:
            await asyncio.sleep(100)
            if tick == 3:
                break
    assert venue.opened == [0.0]


async def test_a_stall_of_our_own_loop_is_no_silence_of_the_feed(feed: Handle, clock: VirtualClock) -> None:
    """While we could not hear, the item may have been waiting in the socket all along."""
    venue = Venue(clock, [1, 4.5, 2])
    asyncio.get_running_loop().call_later(0.5, clock.advance, 20.0)
    assert await take(feed.stream(venue, stale_after=4.0), 2) == [1, 2]
    assert venue.opened == [0.0]


async def test_an_end_of_the_source_is_a_failure(feed: Handle, clock: VirtualClock) -> None:
    """A venue that closes the connection in good order has still stopped telling prices."""
    venue = Venue(clock, [1, "end"], [2])
    ticks = feed.stream(venue)
    assert await take(ticks, 2) == [1, 2]
    assert venue.opened == [0.0, 1.0]
    assert ticks.gaps == 1


@pytest.mark.parametrize("plan", [[1, 2, "end"], ["end"]])
async def test_an_end_ends_the_stream_that_may_end(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock, plan: list[object]
) -> None:
    """A replay, or a download in pages, is done when it is done; also an empty one."""
    items = [step for step in plan if step != "end"]
    assert [tick async for tick in feed.stream(Venue(clock, plan), may_end=True)] == items
    assert health(recovery)["successes"] == 1
    assert health(recovery)["failures"] == 0
    assert recovery.get_error_summary()["total_errors"] == 0


async def test_connecting_has_the_timeout_up_to_the_first_item(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """A connection without an item is none; later items have stale_after."""
    venue = Venue(clock, [2.5, 1], [1.5, 2, 3.5, 3])
    timed = feed.using(timeout=2.0)
    assert await take(timed.stream(venue, stale_after=4.0), 2) == [2, 3]
    assert venue.opened == [0.0, 3.0]
    (record,) = recovery.get_error_summary()["recent_errors"]
    assert record["error_type"] == "AttemptTimeoutError"


async def test_without_a_timeout_connecting_may_be_silent_as_long_as_the_feed(
    feed: Handle, clock: VirtualClock
) -> None:
    """There is no way to hang for ever once stale_after is given."""
    venue = Venue(clock, [6.0, 1], [2])
    assert await take(feed.stream(venue, stale_after=5.0), 1) == [2]
    assert venue.closed[0] == 5.0


async def test_a_quiet_feed_is_there_as_soon_as_it_is_connected(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """Where silence is no failure, an item is not waited for: the timeout is for connecting alone."""
    venue = Venue(clock, [1000.0, 1])

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[AsyncIterator[Any]]:
        await asyncio.sleep(0.5)
        yield venue()

    reading = asyncio.create_task(take(feed.using(timeout=1.0).stream(connect), 1))
    await asyncio.sleep(100)
    assert health(recovery)["streams"][0]["phase"] == "live"
    assert health(recovery)["successes"] == 1
    assert await reading == [1]
    assert venue.opened == [0.5]


# -- how long, and how often -------------------------------------------------------------------------


async def test_a_feed_is_opened_again_for_ever(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """The retries of the recovery service are for calls: a consumer has nothing better to do than to wait."""
    venue = Venue(clock, *[[OSError()]] * 200, [1])
    feed = recovery.service("feed", circuit_threshold=None)
    assert await take(feed.stream(venue), 1) == [1]
    assert len(venue.opened) == 201


async def test_a_number_of_retries_on_the_handle_is_for_failures_in_a_row(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """Then the feed's own error comes out unchanged, with its history, and the service is UNAVAILABLE."""
    last = OSError("third")
    venue = Venue(clock, [1, 10.0, OSError()], [2, 10.0, OSError("first")], [OSError("second")], [last])
    found: list[int] = []
    with pytest.raises(OSError, match="third") as raised:
        await read(feed.using(max_retries=2).stream(venue), found)
    assert raised.value is last
    assert found == [1, 2]
    assert [attempt.error_message for attempt in attempts_of(last)] == ["first", "second", "third"]
    assert recovery.get_service_status("feed") is ServiceStatus.UNAVAILABLE
    assert [one["severity"] for one in recovery.get_error_summary()["recent_errors"]] == [
        "medium", "medium", "medium", "high",
    ]  # fmt: skip
    assert health(recovery)["streams"] == []


async def test_a_connection_that_does_not_last_is_no_fresh_start(feed: Handle, clock: VirtualClock) -> None:
    """One that greets with an item and hangs up must not be hammered: the waits go on growing."""
    venue = Venue(clock, *[[1, 0.5, OSError()]] * 4, [1, 5.0, OSError()], [2])
    assert await take(feed.stream(venue, stable_after=5.0), 6) == [1, 1, 1, 1, 1, 2]
    waits = [opened - closed for closed, opened in zip(venue.closed, venue.opened[1:], strict=False)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 1.0]


async def test_silence_does_not_count_as_having_lasted(feed: Handle, clock: VirtualClock) -> None:
    """An item and then nothing for a minute is a connection of no time at all."""
    venue = Venue(clock, [1], [1], [1], [2])
    assert await take(feed.stream(venue, stale_after=60.0, stable_after=5.0), 4) == [1, 1, 1, 2]
    assert venue.opened == [0.0, 61.0, 123.0, 187.0]


async def test_errors_that_are_not_retried_end_the_stream(feed: Handle, clock: VirtualClock) -> None:
    """A wrong key does not become right by trying again."""
    narrow = feed.using(retry_on=ConnectionError)
    venue = Venue(clock, [1, ConnectionError()], [2, PermissionError("key")])
    found: list[int] = []
    with pytest.raises(PermissionError):
        await read(narrow.stream(venue), found)
    assert found == [1, 2]


async def test_silence_an_end_and_a_timeout_are_always_worth_another_attempt(
    feed: Handle, clock: VirtualClock
) -> None:
    """Whatever retry_on says of the feed's own errors: that is what stale_after was given for."""
    narrow = feed.using(retry_on=KeyError, timeout=3.0)
    venue = Venue(clock, [1], [2, "end"], [4.0], [3])
    assert await take(narrow.stream(venue, stale_after=5.0), 3) == [1, 2, 3]
    assert issubclass(StreamSilentError, TimeoutError)
    assert issubclass(StreamEndedError, ConnectionError)


async def test_a_deadline_is_for_the_longest_time_without_a_connection(
    feed: Handle, clock: VirtualClock
) -> None:
    """Not for the life of the stream: each loss begins it anew, and its last real error comes out."""
    venue = Venue(clock, [1, 100.0, OSError()], [OSError()], [2, 1.0, OSError()], *[[OSError("last")]] * 9)
    found: list[int] = []
    with pytest.raises(OSError, match="last"):
        await read(feed.using(deadline=5.0).stream(venue, stable_after=50.0), found)
    assert found == [1, 2]
    assert venue.opened == [0.0, 101.0, 103.0, 108.0]


async def test_a_deadline_that_ends_an_attempt_is_raised_as_such(feed: Handle, clock: VirtualClock) -> None:
    """As for any call."""
    venue = Venue(clock, [1, OSError()], [1e6])
    with pytest.raises(DeadlineExceededError):
        await take(feed.using(deadline=10.0).stream(venue), 2)
    assert venue.now() == 10.0


async def test_a_wait_the_venue_asks_for_is_honoured(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """However long: a call would give up, a feed waits."""

    class TooManyConnectionsError(Exception):
        retry_after = 300.0

    for name, threshold in (("one", 5), ("two", None)):
        venue = Venue(clock, [TooManyConnectionsError()], [1])
        feed = recovery.service(name, circuit_threshold=threshold)
        assert await take(feed.stream(venue), 1) == [1]
        assert venue.opened == [0.0, 300.0]


# -- other policies ----------------------------------------------------------------------------------


async def test_an_open_circuit_is_waited_for(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """Five failures open it; the feed does not die of that, and its next connection is the probe."""
    venue = Venue(clock, *[[OSError()]] * 5, [1])
    reading = asyncio.create_task(take(feed.stream(venue), 1))
    await asyncio.sleep(16)
    assert recovery.is_circuit_open("feed")
    assert recovery.get_service_status("feed") is ServiceStatus.UNAVAILABLE
    assert await reading == [1]
    assert venue.opened == [0.0, 1.0, 3.0, 7.0, 15.0, 75.0]
    assert recovery.get_health_status()["circuit_breakers"]["feed"] == "closed"
    assert recovery.get_service_status("feed") is ServiceStatus.OPERATIONAL


async def test_a_feed_that_waits_for_the_circuit_goes_on_when_somebody_closes_it(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """By hand, or by another caller's success: at once, not when the wait would have ended."""
    feed = recovery.service("feed", circuit_threshold=1, circuit_timeout=600.0)
    venue = Venue(clock, [OSError()], [1])
    reading = asyncio.create_task(take(feed.stream(venue), 1))
    await asyncio.sleep(50)
    recovery.reset_circuit_breaker("feed")
    assert await reading == [1]
    assert venue.opened == [0.0, 50.0]


async def test_a_feed_waits_for_a_circuit_that_is_held_open_by_hand(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """And goes on at once when it is let go."""
    recovery.set_circuit_mode("feed", "forced-open")
    venue = Venue(clock, [1])
    reading = asyncio.create_task(take(feed.stream(venue), 1))
    await asyncio.sleep(1000)
    assert venue.opened == []
    recovery.set_circuit_mode("feed", "normal")
    assert await reading == [1]
    assert venue.opened == [1000.0]


async def test_a_stream_that_begins_behind_an_open_circuit_waits_too(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It was not there when the circuit opened, and nobody would start it again."""
    feed = recovery.service("feed", circuit_threshold=1, circuit_timeout=30.0, max_retries=0)

    async def fails() -> None:
        raise OSError

    with pytest.raises(OSError):
        await feed.call(fails)
    venue = Venue(clock, [1])
    assert await take(feed.using(max_retries=None).stream(venue), 1) == [1]
    assert venue.opened == [30.0]
    assert health(recovery)["rejections"] == 1


async def test_a_deadline_ends_the_wait_for_a_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """At once, when the circuit stays open for longer: a refusal for who never had an attempt."""
    feed = recovery.service("feed", circuit_threshold=1, circuit_timeout=30.0, max_retries=0)

    async def fails() -> None:
        raise OSError

    with pytest.raises(OSError):
        await feed.call(fails)
    with pytest.raises(CircuitOpenError):
        await take(feed.using(deadline=10.0).stream(Venue(clock, [1])), 1)


async def test_a_lost_connection_is_one_failure_for_the_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Its first item was a success, its loss a failure, each failed attempt after it another one."""
    feed = recovery.service("feed", circuit_threshold=3)
    venue = Venue(clock, [1, OSError()], [OSError()], [OSError()], [2])
    reading = asyncio.create_task(take(feed.stream(venue), 2))
    await asyncio.sleep(3.5)
    assert recovery.is_circuit_open("feed")
    assert await reading == [1, 2]
    assert venue.opened == [0.0, 1.0, 3.0, 63.0]
    counted = health(recovery)
    assert (counted["successes"], counted["failures"]) == (2, 3)


async def test_a_connection_of_hours_is_no_slow_call(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """How long a feed lasted says nothing about how fast the service answers."""
    feed = recovery.service("feed", slow_call_after=1.0, slow_call_rate=0.1, min_calls=1, window=3600.0)
    venue = Venue(clock, [1, 1000.0, OSError()], [2])
    assert await take(feed.stream(venue), 2) == [1, 2]
    assert health(recovery)["circuit_trips"] == 0


async def test_a_connection_holds_its_place_until_it_is_closed(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The venue counts connections: so do we. A second one waits, and gets the place when the first is gone."""
    feed = recovery.service("feed", max_concurrent=1)
    one, two = Venue(clock, [1]), Venue(clock, [2])
    first = feed.stream(one)
    assert await anext(first) == 1
    second = asyncio.create_task(take(feed.stream(two), 1))
    await asyncio.sleep(10)
    assert two.opened == []
    assert health(recovery)["in_flight"] == 1
    await first.aclose()
    assert await second == [2]
    assert health(recovery)["in_flight"] == 0


async def test_each_connection_takes_a_token_of_the_rate_limit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Venues limit how often one may connect; what the limit refuses is asked again, not given up."""
    feed = recovery.service("feed", rate_limit="2/min", max_wait=5.0, base_delay=0.0, circuit_threshold=None)
    venue = Venue(clock, [OSError()], [OSError()], [1])
    assert await take(feed.stream(venue), 1) == [1]
    assert venue.opened == [0.0, 0.0, 60.0]
    assert await take(feed.stream(Venue(clock, [2])), 1) == [2]
    with pytest.raises(RateLimitedError):
        await take(feed.using(deadline=1.0).stream(venue), 1)


async def test_an_empty_retry_budget_slows_a_feed_down(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It waits max_delay where a call would end; what it took comes back with the connection."""
    budget = RetryBudget(capacity=1.0, per_success=0.0)
    feed = recovery.service("feed", retry_budget=budget, max_delay=20.0, circuit_threshold=None)
    venue = Venue(clock, [OSError()], [OSError()], [OSError()], [1])
    assert await take(feed.stream(venue), 1) == [1]
    assert venue.opened == [0.0, 1.0, 21.0, 41.0]
    assert budget.tokens == 0.0


async def test_a_refusal_inside_connect_is_waited_out(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """The token for the feed comes from another service, whose circuit is open: neither a failure nor an end."""
    login = recovery.service("login", circuit_threshold=1, circuit_timeout=40.0, max_retries=0)
    script: list[Exception | None] = [OSError(), None]

    async def token() -> str:
        outcome = script.pop(0)
        if outcome is not None:
            raise outcome
        return "token"

    async def connect() -> AsyncIterator[str]:
        yield await login.call(token)

    found = await take(feed.stream(connect), 1)
    assert found == ["token"]
    assert health(recovery)["failures"] == 1


async def test_a_call_inside_a_reconnecting_feed_makes_one_attempt(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """Layers do not multiply; the consumer's own calls are no part of that."""
    calls: list[float] = []
    inner = recovery.service("rest", max_retries=1, circuit_threshold=None)

    async def fails() -> None:
        calls.append(clock.monotonic())
        raise OSError

    async def connect() -> AsyncIterator[int]:
        if len(calls) < 5:
            await inner.call(fails)
        yield 1
        raise OSError

    async with feed.stream(connect) as ticks:
        async for _ in ticks:
            with pytest.raises(OSError):
                await inner.call(fails)
            if ticks.gaps:
                break
    # 2 for the first connection, 1 for each of three more, then 2 for each of the consumer's own.
    assert len(calls) == 2 + 3 + 2 + 2


async def test_a_probe_of_a_feed_has_the_time_that_its_silence_has(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Else its first item would come after its lease, and decide nothing."""
    feed = recovery.service("feed", circuit_threshold=1, circuit_timeout=60.0)
    venue = Venue(clock, [OSError()], [100.0, 1])
    assert await take(feed.stream(venue, stale_after=120.0), 1) == [1]
    assert recovery.get_health_status()["circuit_breakers"]["feed"] == "closed"


async def test_a_probe_that_is_cancelled_gives_its_place_back(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The next one may try at once."""
    feed = recovery.service("feed", circuit_threshold=1, circuit_timeout=60.0)
    reading = asyncio.create_task(take(feed.stream(Venue(clock, [OSError()], [])), 1))
    await asyncio.sleep(61)
    reading.cancel()
    await settled()
    assert await take(feed.stream(Venue(clock, [1])), 1) == [1]
    assert clock.monotonic() == 1061.0


async def test_a_probe_that_waits_for_room_and_is_cancelled_gives_its_place_back(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It holds one while it stands in the queue of the bulkhead."""
    feed = recovery.service("feed", circuit_threshold=1, circuit_timeout=60.0, max_concurrent=1, max_queue=1)
    await opened_circuit(feed)
    holder = feed.using(risk_reducing=True).stream(Venue(clock, [1]))
    assert await anext(holder) == 1
    await asyncio.sleep(60)
    reading = asyncio.create_task(take(feed.stream(Venue(clock)), 1))
    await asyncio.sleep(1)
    assert health(recovery)["queued"] == 1
    reading.cancel()
    await holder.aclose()
    await settled()
    began = clock.monotonic()
    assert await take(feed.stream(Venue(clock, [2])), 1) == [2]
    assert clock.monotonic() == began


async def test_a_probe_for_which_there_is_no_room_gives_its_place_back(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """And asks again later: an ordinary call may be the probe meanwhile."""
    feed = recovery.service("feed", circuit_threshold=1, circuit_timeout=60.0, max_concurrent=1)
    await opened_circuit(feed)
    holder = feed.using(risk_reducing=True).stream(Venue(clock, [1]))
    assert await anext(holder) == 1
    await asyncio.sleep(60)
    venue = Venue(clock, [2])
    reading = asyncio.create_task(take(feed.stream(venue), 1))
    await asyncio.sleep(0.5)
    await holder.aclose()
    assert await reading == [2]
    assert venue.opened == [1.0]


async def test_a_feed_whose_circuit_opens_while_it_waits_for_room_gives_the_room_back(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It is admitted for a circuit that is closed no more: place and token are for others."""
    feed = recovery.service(
        "feed", circuit_threshold=1, circuit_timeout=60.0, max_concurrent=1, max_queue=5, rate_limit="5/h"
    )
    holder = Venue(clock, [1, 5.0, OSError()])
    first = asyncio.create_task(take(feed.using(max_retries=0).stream(holder), 2))
    await asyncio.sleep(1)
    venue = Venue(clock, [2])
    second = asyncio.create_task(take(feed.stream(venue), 1))
    await asyncio.sleep(5)
    assert first.done()
    assert recovery.is_circuit_open("feed")
    assert (health(recovery)["in_flight"], venue.opened) == (0, [])
    assert await second == [2]
    assert venue.opened == [64.0]
    with pytest.raises(OSError):
        first.result()


async def opened_circuit(feed: Handle) -> None:
    """A circuit with a threshold of 1, opened by a call."""

    async def fails() -> None:
        raise OSError

    with pytest.raises(OSError):
        await feed.using(max_retries=0).call(fails)


async def test_a_circuit_whose_probe_is_out_is_asked_again_with_growing_waits(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Nobody knows when the probe of somebody else comes back; a connection in between begins them anew."""
    feed = recovery.service("feed", circuit_threshold=1, circuit_timeout=60.0, probe_lease=1000.0)
    await opened_circuit(feed)

    async def slow() -> None:
        await asyncio.sleep(20)
        raise OSError

    await asyncio.sleep(60)
    probe = asyncio.create_task(feed.using(max_retries=0).call(slow))
    await settled()
    reading = asyncio.create_task(take(feed.stream(Venue(clock, [1])), 1))
    asked = [health(recovery)["rejections"]]
    for _ in range(18):
        await asyncio.sleep(1)
        asked.append(health(recovery)["rejections"])
    assert [second for second in range(1, 19) if asked[second] > asked[second - 1]] == [1, 2, 4, 8, 16]
    reading.cancel()
    with pytest.raises(OSError):
        await probe


async def test_a_feed_that_is_cancelled_while_it_waits_for_a_circuit_leaves_nothing(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Neither the timer's task nor its entry among those who are woken when it closes."""
    feed = recovery.service("feed", circuit_threshold=1)
    await opened_circuit(feed)
    reading = asyncio.create_task(take(feed.stream(Venue(clock)), 1))
    await asyncio.sleep(1)
    reading.cancel()
    await settled()
    assert len(asyncio.all_tasks()) == 1
    assert feed.plan.state.waiting_for_the_circuit == set()


async def test_a_stall_while_connecting_is_no_verdict_for_the_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """As for a call: the answer may have been there."""
    feed = recovery.service("feed", circuit_threshold=1, timeout=4.0)
    venue = Venue(clock, [1e6], [1])
    asyncio.get_running_loop().call_later(1.0, clock.advance, 20.0)
    assert await take(feed.stream(venue), 1) == [1]
    assert health(recovery)["circuit_trips"] == 0


async def test_a_feed_that_is_cancelled_in_its_backoff_gives_the_budget_back(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The retry was never made."""
    budget = RetryBudget(capacity=3.0)
    feed = recovery.service("feed", retry_budget=budget)
    reading = asyncio.create_task(take(feed.stream(Venue(clock, [OSError()])), 1))
    await asyncio.sleep(0.5)
    assert budget.tokens == 2.0
    reading.cancel()
    await settled()
    assert budget.tokens == 3.0


async def test_hedge_and_fallback_of_the_handle_do_not_apply(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """As for blocks: two connections would give each item twice."""
    feed = recovery.service("feed", hedge_after=0.1, fallback="cached")
    venue = Venue(clock, [1.0, 1, OSError()], [2])
    assert await take(feed.stream(venue), 2) == [1, 2]
    assert venue.opened == [0.0, 2.0]


async def test_a_risk_reducing_feed_passes_an_open_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The feed of one's own fills is needed most when things go wrong."""
    feed = recovery.service("feed", circuit_threshold=1)
    venue = Venue(clock, [OSError()], [1])
    assert await take(feed.using(risk_reducing=True).stream(venue), 1) == [1]
    assert venue.opened == [0.0, 1.0]
    assert recovery.is_circuit_open("feed")


async def test_settings_that_change_hold_for_a_running_stream(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """configure() reaches it as it reaches functions decorated long ago."""
    venue = Venue(clock, [1, 5.0, OSError()], [2])
    reading = asyncio.create_task(take(feed.stream(venue), 2))
    await asyncio.sleep(1)
    recovery.configure(base_delay=30.0)
    assert await reading == [1, 2]
    assert venue.opened == [0.0, 35.0]


# -- gaps --------------------------------------------------------------------------------------------


async def test_a_gap_is_in_hand_together_with_the_first_item_after_it(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """An order book resynchronises before it uses that item, and not again for the next one."""
    events = heard(recovery)
    venue = Venue(clock, [1, 2.0, 2, 3.0, OSError("cut")], [OSError("refused")], [0.5, 3, 4])
    seen: list[tuple[int, StreamGap | None]] = []
    ticks = feed.stream(venue)
    async with ticks:
        async for tick in ticks:
            seen.append((tick, ticks.gap))
            if tick == 4:
                break
    assert [tick for tick, gap in seen] == [1, 2, 3, 4]
    assert [gap is not None for _, gap in seen] == [False, False, True, False]
    gap = seen[2][1]
    assert gap == StreamGap(
        service_name="feed",
        at=clock.time(),
        function_name="venue",
        number=1,
        began_at=clock.time() - 6.5,
        duration=6.5,
        attempts=2,
        error_type="OSError",
        error_message="cut",
    )
    await settled()
    assert [event for event in events if isinstance(event, StreamGap)] == [gap]
    assert ticks.gaps == 1


async def test_a_loss_is_told_when_it_happens(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """Not only when the feed is back: that may take a while. A secret in the text is taken out."""
    recovery.register_secret("sesame")
    events = heard(recovery)
    venue = Venue(clock, [1, 2.0, 2, OSError("sesame")], [1e6])
    ticks = feed.stream(venue)
    assert [await anext(ticks), await anext(ticks)] == [1, 2]
    waiting = asyncio.ensure_future(anext(ticks))
    await asyncio.sleep(0.25)
    (lost,) = [event for event in events if isinstance(event, StreamLost)]
    assert (lost.items, lost.duration, lost.error_type, lost.error_message) == (2, 2.0, "OSError", "***")
    assert not any(isinstance(event, StreamGap) for event in events)
    waiting.cancel()


async def test_no_gap_before_the_first_item(feed: Handle, clock: VirtualClock) -> None:
    """However long connecting took: the consumer had nothing yet."""
    venue = Venue(clock, [OSError()], [OSError()], [1])
    async with feed.stream(venue) as ticks:
        assert await anext(ticks) == 1
        assert ticks.gap is None
        assert ticks.gaps == 0


async def test_a_gap_that_nobody_has_seen_goes_on(feed: Handle, clock: VirtualClock) -> None:
    """A quiet feed is connected again and lost again before its next item: that is one gap, from the first loss."""
    plans: list[list[object]] = [[1, 10.0, OSError("one")], [10.0, OSError("two")], [2]]
    venue = Venue(clock, *plans)

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[AsyncIterator[Any]]:
        yield venue()

    async with feed.stream(connect) as ticks:
        assert await anext(ticks) == 1
        assert await anext(ticks) == 2
        gap = ticks.gap
        assert gap is not None
        assert (gap.number, gap.duration, gap.error_message, gap.attempts) == (1, 22.0, "one", 2)


# -- health ------------------------------------------------------------------------------------------


async def test_health_tells_the_age_of_the_last_item(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """For whoever must not trade on an old price; also of a stream that is being opened again."""
    venue = Venue(clock, [1, 4.0, 2, 3.0, OSError()], [3])
    ticks = feed.stream(venue, stale_after=10.0)
    assert health(recovery)["streams"] == []
    assert ticks.last_item_age is None
    assert [await anext(ticks), await anext(ticks)] == [1, 2]
    await asyncio.sleep(1.5)
    assert ticks.last_item_age == 1.5
    assert health(recovery)["streams"] == [
        {
            "function_name": "venue",
            "phase": "live",
            "last_item_age": 1.5,
            "stale_after": 10.0,
            "items": 2,
            "gaps": 0,
        }
    ]
    assert recovery.get_health_status()["overall_health"] == "healthy"
    waiting = asyncio.ensure_future(anext(ticks))
    await asyncio.sleep(3.5)
    (told,) = health(recovery)["streams"]
    assert (told["phase"], told["last_item_age"]) == ("lost", 5.0)
    assert recovery.get_service_status("feed") is ServiceStatus.DEGRADED
    assert recovery.get_health_status()["overall_health"] == "degraded"
    assert await waiting == 3
    assert recovery.get_service_status("feed") is ServiceStatus.OPERATIONAL
    assert health(recovery)["streams"][0]["gaps"] == 1
    await ticks.aclose()
    assert health(recovery)["streams"] == []


async def test_a_feed_that_cannot_be_opened_shows_in_the_health(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """Also when it was never there."""
    reading = asyncio.create_task(take(feed.stream(Venue(clock, [2.0, OSError()])), 1))
    await asyncio.sleep(1)
    assert health(recovery)["streams"][0]["phase"] == "connecting"
    assert recovery.get_service_status("feed") is ServiceStatus.OPERATIONAL
    await asyncio.sleep(1.5)
    assert health(recovery)["streams"][0]["phase"] == "lost"
    assert recovery.get_service_status("feed") is ServiceStatus.DEGRADED
    reading.cancel()


async def test_a_stream_that_is_closed_while_it_is_lost_degrades_nothing_any_more(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """What nobody reads is nobody's concern."""
    ticks = feed.stream(Venue(clock, [1, OSError()]))
    await anext(ticks)
    waiting = asyncio.ensure_future(anext(ticks))
    await asyncio.sleep(0.5)
    assert recovery.get_service_status("feed") is ServiceStatus.DEGRADED
    waiting.cancel()
    await settled()
    assert recovery.get_service_status("feed") is ServiceStatus.OPERATIONAL


# -- cancelling, leaving, closing --------------------------------------------------------------------


@pytest.mark.parametrize("moment", [0.25, 1.0, 2.5, 3.25])
async def test_a_cancellation_passes_at_once_wherever_it_comes(
    recovery: ErrorRecoveryService, clock: VirtualClock, moment: float
) -> None:
    """While connecting, waiting for an item, closing, backing off: closed, counted nowhere, all given back."""
    feed = recovery.service("feed", max_concurrent=1)

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[AsyncIterator[Any]]:
        await asyncio.sleep(0.5)
        try:
            yield Venue(clock, [1, 1.0, OSError()])()
        finally:
            await asyncio.sleep(1.25)

    async def consume() -> None:
        async with feed.stream(connect, stale_after=5.0) as ticks:
            async for _ in ticks:
                pass

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(moment)
    failures = health(recovery)["failures"]
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert health(recovery)["failures"] == failures
    assert health(recovery)["in_flight"] == 0
    assert health(recovery)["streams"] == []
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancellation_in_the_same_turn_as_the_silence_is_the_callers(
    feed: Handle, clock: VirtualClock
) -> None:
    """Our own limit never swallows it."""
    venue = Venue(clock, [1])

    async def consume() -> None:
        async for _ in feed.stream(venue, stale_after=5.0):
            pass

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(1)
    asyncio.get_running_loop().call_later(4.0, consumer.cancel)
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert not venue.is_open


async def test_a_timeout_of_the_consumers_own_is_not_taken_for_the_feeds(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """A time limit around the loop ends as it would around any other."""
    venue = Venue(clock, [1])
    with pytest.raises(TimeoutError) as raised:
        await asyncio.wait_for(read(feed.stream(venue, stale_after=5.0), []), 3.0)
    assert not isinstance(raised.value, StreamSilentError)
    assert not venue.is_open
    assert health(recovery)["failures"] == 0


async def test_after_silence_the_task_is_not_left_half_cancelled(feed: Handle, clock: VirtualClock) -> None:
    """Our cancellation is taken back, so that a timeout around it still judges right."""
    venue = Venue(clock, [1], [2])
    assert await take(feed.stream(venue, stale_after=5.0), 2) == [1, 2]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_item_that_comes_in_spite_of_the_cancellation_is_an_item(
    feed: Handle, clock: VirtualClock
) -> None:
    """A source that answers when it is cancelled has answered; nothing is lost, and the watch goes on."""

    async def connect() -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            yield 2
        await asyncio.sleep(1e6)

    began = clock.monotonic()
    ticks = feed.stream(connect, stale_after=5.0)
    assert [await anext(ticks), await anext(ticks)] == [1, 2]
    assert ticks.gaps == 0
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await anext(ticks) == 1
    assert ticks.gaps == 1
    assert clock.monotonic() - began == 5.0 + 5.0 + 1.0
    await ticks.aclose()


async def test_a_loop_that_is_left_closes_the_connection_soon(feed: Handle, clock: VirtualClock) -> None:
    """Python closes the generator on the loop, without anybody's help; nothing is left behind."""
    venue = Venue(clock, [1, 2])
    async for _ in feed.stream(venue, stale_after=5.0):
        break
    await settled()
    assert not venue.is_open
    assert len(asyncio.all_tasks()) == 1


async def test_a_stream_that_is_forgotten_needs_no_collector(feed: Handle, clock: VirtualClock) -> None:
    """No cycle holds it: it goes with its last reference, also after a loss."""
    venue = Venue(clock, [1, OSError()], [2])
    gc.collect()
    gc.disable()
    try:
        ticks: Stream[Any] | None = feed.stream(venue, stale_after=5.0)
        assert ticks is not None
        assert [await anext(ticks), await anext(ticks)] == [1, 2]
        ticks = None
        await settled()
        assert not venue.is_open
    finally:
        gc.enable()


async def test_the_consumers_own_error_is_none_of_the_feeds(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """It comes out of the loop unchanged, counts nowhere, and the connection is closed."""
    venue = Venue(clock, [1, 2])
    error = KeyError("mine")
    with pytest.raises(KeyError) as raised:
        await read(feed.stream(venue), [], error=error)
    assert raised.value is error
    assert not venue.is_open
    assert health(recovery)["failures"] == 0
    assert recovery.get_error_summary()["total_errors"] == 0
    assert recovery.get_service_status("feed") is ServiceStatus.OPERATIONAL


async def test_a_cancellation_that_the_source_hides_passes_untouched(
    recovery: ErrorRecoveryService, feed: Handle
) -> None:
    """The source turned it into an error of its own: that is no failure, and is not repeated."""
    opened = 0

    async def connect() -> AsyncIterator[int]:
        nonlocal opened
        opened += 1
        yield 1
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    async def consume() -> None:
        async for _ in feed.stream(connect):
            pass

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(1)
    consumer.cancel()
    with pytest.raises(ConnectionError):
        await consumer
    assert opened == 1
    assert health(recovery)["failures"] == 0


async def test_a_stream_is_over_after_a_cancelled_wait(feed: Handle, clock: VirtualClock) -> None:
    """As with any async generator: an item may be lost in the source, so that going on would be a lie."""
    venue = Venue(clock, [1, 50.0, 2])
    ticks = feed.stream(venue)
    assert await anext(ticks) == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(ticks), 1.0)
    with pytest.raises(StopAsyncIteration):
        await anext(ticks)
    assert not venue.is_open


async def test_a_stream_may_be_read_in_another_task_than_it_was_entered_in(
    feed: Handle, clock: VirtualClock
) -> None:
    """Its limits belong to whoever waits for an item at the time."""
    venue = Venue(clock, [1], [2, 3])
    ticks = await feed.stream(venue, stale_after=5.0).__aenter__()
    assert await asyncio.create_task(take_one(ticks)) == 1
    assert await asyncio.create_task(take_one(ticks)) == 2
    assert await take_one(ticks) == 3
    await asyncio.create_task(ticks.aclose())
    assert not venue.is_open


async def take_one(ticks: Stream[Any]) -> Any:
    return await anext(ticks)


async def test_two_tasks_may_not_read_one_stream_at_a_time(feed: Handle, clock: VirtualClock) -> None:
    """Python refuses it, and the one that waits is not disturbed."""
    ticks = feed.stream(Venue(clock, [1.0, 1]))
    waiting = asyncio.ensure_future(anext(ticks))
    await asyncio.sleep(0.5)
    with pytest.raises(RuntimeError, match="already running"):
        await anext(ticks)
    assert await waiting == 1
    await ticks.aclose()


async def test_a_failure_to_close_is_logged_and_changes_nothing(
    feed: Handle, caplog: pytest.LogCaptureFixture
) -> None:
    """The feed is gone anyway; its own error is what matters."""

    class Stubborn(Connected):
        async def __anext__(self) -> int:
            self.log.append("read")
            if len(self.log) % 3 == 0:
                raise OSError("cut")
            return 7

        async def __aexit__(self, kind: object, error: object, trace: object) -> None:
            raise ValueError("cannot close")

    stubborn = Stubborn()
    with caplog.at_level(logging.WARNING, logger="shockproof"):
        assert await take(feed.stream(lambda: stubborn), 2) == [7, 7]
    assert [record.message for record in caplog.records] == ["a feed could not be closed"] * 2


async def test_closing_has_no_more_time_than_opening(
    feed: Handle, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The handshake with a dead venue must not keep us from the one that lives again."""
    venue = Venue(clock, [1], [2])

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[AsyncIterator[Any]]:
        try:
            yield venue()
        finally:
            await asyncio.sleep(1e6)

    with caplog.at_level(logging.WARNING, logger="shockproof"):
        assert await take(feed.stream(connect, stale_after=5.0), 2) == [1, 2]
    assert venue.opened == [0.0, 11.0]
    assert "did not close within 5 s" in caplog.records[0].message


@pytest.mark.parametrize("grace", [None, 1.0])
async def test_a_cancellation_at_each_await_leaves_nothing_behind(
    recovery: ErrorRecoveryService, clock: VirtualClock, grace: float | None
) -> None:
    """Connecting, reading, closing, in a queue, in a backoff: waiting, or just woken."""
    budget = RetryBudget(capacity=5.0, per_success=0.0)
    feed = recovery.service(
        "feed",
        max_concurrent=1,
        retry_budget=budget,
        circuit_threshold=None,
        grace=grace,
        rate_limit="1000/s",
    )
    venues: list[Venue] = []

    async def consume() -> list[int]:
        venue = Venue(clock, [0.5, 1, 0.5, OSError()], [OSError()], [2], [3])
        venues.append(venue)

        @contextlib.asynccontextmanager
        async def connect() -> AsyncIterator[AsyncIterator[Any]]:
            await asyncio.sleep(0.25)
            try:
                yield venue()
            finally:
                await asyncio.sleep(0.25)

        return await take(feed.stream(connect, stale_after=5.0), 3)

    results: list[object] = []
    async for run in cancel_at_each_await(consume):
        counted = health(recovery)
        assert (counted["in_flight"], counted["queued"], counted["streams"]) == (0, 0, []), str(run)
        assert not any(venue.is_open for venue in venues), str(run)
        assert budget.tokens >= 5.0 - counted["failures"], str(run)
        results.append(run.result)
    assert results[-1] == [1, 2, 3]
    assert len(results) > 20


async def test_faults_that_a_test_puts_on_the_service_stand_in_the_way_of_a_connection(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """As for a block: before it connects, or after its first item has come, which is lost then."""
    faults = FaultInjector(recovery)
    venue = Venue(clock, [1], [2])
    with faults.on("feed", plan=[ConnectionError, Fails(OSError, sent=True), None]):
        assert await take(feed.stream(venue), 1) == [2]
    assert venue.opened == [1.0, 3.0]
    assert venue.closed == [1.0, 3.0]
    assert health(recovery)["failures"] == 2


async def test_a_fault_with_a_broken_condition_is_no_verdict_on_the_feed(
    recovery: ErrorRecoveryService, feed: Handle, clock: VirtualClock
) -> None:
    """The mistake is the test's: it comes out at once."""
    venue = Venue(clock, [1])
    broken = FaultInjector(recovery).on("feed", Fails(OSError), where=lambda call: 1 / 0 > 0)
    with broken, pytest.raises(ZeroDivisionError):
        await take(feed.stream(venue), 1)
    assert venue.opened == []
    assert health(recovery)["failures"] == 0


class Failing(Connected):
    """One whose second entry fails, in the one or the other way."""

    def __init__(self, outcomes: list[Exception | None]) -> None:
        super().__init__()
        self.outcomes = outcomes

    async def __aenter__(self) -> Self:
        outcome = self.outcomes.pop(0)
        self.log.append("enter")
        if outcome is not None:
            raise outcome
        return self


async def test_a_context_manager_that_could_not_be_entered_is_not_left(feed: Handle) -> None:
    """As with an ordinary async with."""
    failing = Failing([OSError(), None])
    assert await take(feed.stream(lambda: failing), 1) == [7]
    assert failing.log == ["enter", "enter", "read", "exit GeneratorExit"]


async def test_a_context_manager_that_raises_the_feeds_own_error_again_is_no_news(
    feed: Handle, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Every one made by asynccontextmanager does that: nothing is logged."""

    class Raises(Connected):
        async def __anext__(self) -> int:
            self.log.append("read")
            if len(self.log) == 3:
                raise OSError("cut")
            return 7

        async def __aexit__(self, kind: object, error: object, trace: object) -> None:
            await super().__aexit__(kind, error, trace)
            if isinstance(error, OSError):
                raise error

    raises = Raises()
    with caplog.at_level(logging.WARNING, logger="shockproof"):
        assert await take(feed.stream(lambda: raises), 2) == [7, 7]
    assert raises.log.count("exit OSError") == 1
    assert caplog.records == []


# -- grace -------------------------------------------------------------------------------------------


class Deaf:
    """A source that ignores its cancellation until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.opened = 0

    async def __call__(self) -> AsyncIterator[int]:
        self.opened += 1
        yield self.opened
        while not self.let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.let_go.wait()


async def test_a_source_that_ignores_its_cancellation_is_left_behind_after_the_grace(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The consumer goes on; what was left is counted and keeps its place until it really ends."""
    feed = recovery.service("feed", max_concurrent=3, grace=2.0)
    deaf = Deaf()
    began = clock.monotonic()
    ticks = feed.stream(deaf, stale_after=5.0)
    assert [await anext(ticks), await anext(ticks)] == [1, 2]
    assert clock.monotonic() - began == 5.0 + 2.0 + 1.0
    counted = health(recovery)
    assert (counted["abandoned_attempts"], counted["in_flight"]) == (1, 2)
    await ticks.aclose()
    deaf.let_go.set()
    await settled()
    counted = health(recovery)
    assert (counted["abandoned_attempts"], counted["in_flight"]) == (0, 0)
    assert len(asyncio.all_tasks()) == 1


async def test_with_grace_nothing_is_read_ahead_either(feed: Handle, clock: VirtualClock) -> None:
    """The task of the source reads when it is asked: an item that was not asked for is not taken."""
    taken: list[int] = []

    async def connect() -> AsyncIterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    async with feed.using(grace=1.0).stream(connect, stale_after=5.0) as ticks:
        for number in range(3):
            assert await anext(ticks) == number
            await asyncio.sleep(20)
            assert taken == list(range(number + 1))


async def test_with_grace_a_feed_is_opened_read_and_closed_in_one_task(feed: Handle) -> None:
    """Sources that count on it, such as task groups, are at home."""
    tasks: list[object] = []

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[AsyncIterator[int]]:
        tasks.append(asyncio.current_task())
        try:
            yield items()
        finally:
            tasks.append(asyncio.current_task())

    async def items() -> AsyncIterator[int]:
        tasks.append(asyncio.current_task())
        yield 1
        raise OSError

    assert await take(feed.using(grace=1.0).stream(connect, stale_after=5.0), 2) == [1, 1]
    assert len(tasks) == 6
    assert len(set(tasks)) == 2
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    ("plan", "error"),
    [([OSError("own")], OSError), ([1e6], AttemptTimeoutError), (["end"], StreamEndedError)],
)
async def test_with_grace_failures_come_through_as_without(
    feed: Handle, clock: VirtualClock, plan: list[object], error: type[Exception]
) -> None:
    """The task of the source changes nothing in what is raised, and is gone afterwards."""
    graced = feed.using(grace=1.0, max_retries=0, timeout=3.0)
    with pytest.raises(error):
        await take(graced.stream(Venue(clock, plan)), 1)
    await settled()
    assert len(asyncio.all_tasks()) == 1


async def test_with_grace_a_source_that_closes_slowly_has_the_time_for_it(
    feed: Handle, clock: VirtualClock
) -> None:
    """One that ended by itself is not cancelled in its clean-up; it is told the error that ended it."""
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[AsyncIterator[Any]]:
        try:
            yield Venue(clock, [1, OSError("cut")])()
        except BaseException as error:
            log.append(type(error).__name__)
            raise
        finally:
            await asyncio.sleep(0.5)
            log.append("closed")

    graced = feed.using(grace=1.0).stream(connect, stale_after=5.0)
    assert await take(graced, 2) == [1, 1]
    assert log == ["OSError", "closed", "GeneratorExit", "closed"]


async def test_with_grace_a_cancellation_closes_the_source(feed: Handle, clock: VirtualClock) -> None:
    """And does not wait longer for it than the grace."""
    venue = Venue(clock, [1])

    async def consume() -> None:
        async for _ in feed.using(grace=1.0).stream(venue):
            pass

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(1)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert venue.closing == ["CancelledError"]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("grace", [None, 1.0])
async def test_a_feed_whose_opening_may_have_placed_an_order_is_not_opened_again(
    recovery: ErrorRecoveryService, grace: float | None
) -> None:
    """It would place another one. What the consumer has placed is no part of an opening."""
    sent: list[str] = []

    async def nobody_knows(key: str) -> LookUp[str]:
        return UNKNOWN

    async def place(mood: str) -> None:
        async def submit(*, client_id: str) -> None:
            sent.append(mood)
            if mood == "hangs":
                await asyncio.Event().wait()
            raise ConnectionResetError

        once = recovery.service("orders", max_retries=0).once(
            confirm=nobody_knows, key_argument="client_id", settle=0.1
        )
        await once.call(submit)

    async def source() -> AsyncIterator[int]:
        if len(openings) > 1:
            await place("hangs")
        openings.append(len(openings))
        yield openings[-1]

    openings: list[int] = []
    feed = recovery.service("feed", timeout=1.0, grace=grace, max_retries=5, base_delay=0.01)

    async def consume() -> None:
        async for _ in feed.stream(source):
            with contextlib.suppress(OutcomeUnknownError):
                await place("by the consumer")

    with pytest.raises(AttemptTimeoutError):
        await consume()
    assert sent == ["by the consumer", "by the consumer", "hangs"]

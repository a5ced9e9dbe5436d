"""Who is told what happened: off the call's path, in order, bounded, and harmless."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import (
    AttemptFailed,
    CallFailed,
    CallRejected,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    CircuitOpenError,
    ErrorRecoveryService,
    Event,
    FallbackAnswered,
    RetryScheduled,
)
from shockproof.memory.services.listeners import Listeners
from shockproof.testing import VirtualClock, virtual_time
from shockproof.vocabulary import events

pytestmark = pytest.mark.asyncio


def event(number: int = 0) -> Event:
    return Event(service_name=f"service {number}", at=float(number))


async def fails(*args: object) -> None:
    raise ConnectionError("no")


async def answers(*args: object) -> str:
    return "answer"


async def test_a_plain_listener_is_told_in_a_thread_of_its_own() -> None:
    """Never on the loop's thread."""
    listeners, threads = Listeners(), list[int]()
    listeners.subscribe(lambda event: threads.append(threading.get_ident()))
    listeners.publish(event())
    await listeners.drain()
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_a_coroutine_listener_is_told_on_the_loop() -> None:
    """In a task, after the one who published has gone on."""
    listeners, told = Listeners(), list[tuple[Event, int]]()

    async def listener(event: Event) -> None:
        told.append((event, threading.get_ident()))

    listeners.subscribe(listener)
    listeners.publish(event())
    assert told == []
    await listeners.drain()
    assert told == [(event(), threading.get_ident())]


@pytest.mark.parametrize("is_async", [False, True])
async def test_events_come_in_the_order_they_were_published(is_async: bool) -> None:
    """One after another, also when the listener takes its time."""
    listeners, told = Listeners(), list[int]()

    async def slow(event: Event) -> None:
        for _ in range(int(event.at) % 3):
            await asyncio.sleep(0)
        told.append(int(event.at))

    def plain(event: Event) -> None:
        told.append(int(event.at))

    listeners.subscribe(slow if is_async else plain)
    for number in range(100):
        listeners.publish(event(number))
        if number % 7 == 0:
            await asyncio.sleep(0)
    await listeners.drain()
    assert told == list(range(100))


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_listener_that_raises_is_logged_and_told_again(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It hurts neither the others nor its own next event."""
    listeners, told = Listeners(), list[int]()

    async def raises_async(event: Event) -> None:
        told.append(int(event.at))
        raise ZeroDivisionError

    def raises(event: Event) -> None:
        told.append(int(event.at))
        raise ZeroDivisionError

    listeners.subscribe(raises_async if is_async else raises)
    with caplog.at_level(logging.ERROR, "shockproof"):
        listeners.publish(event(1))
        listeners.publish(event(2))
        await listeners.drain()
    assert told == [1, 2]
    assert caplog.text.count("a listener failed") == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_listener_that_exits_ends_nobody_elses_events(is_async: bool) -> None:
    """SystemExit in a listener is a failure of the listener; the queue is worked off, and drain returns."""
    listeners, told = Listeners(), list[int]()

    async def exits_async(event: Event) -> None:
        raise asyncio.CancelledError

    def exits(event: Event) -> None:
        raise SystemExit(3)

    listeners.subscribe(exits_async if is_async else exits)
    listeners.subscribe(lambda event: told.append(int(event.at)))
    for number in (1, 2, 3):
        listeners.publish(event(number))
    async with asyncio.timeout(60):  # only a failure takes that long
        await listeners.drain()
    assert told == [1, 2, 3]


async def test_a_listener_that_cannot_follow_loses_the_newest_and_the_loss_is_counted() -> None:
    """The queue is bounded; publishing never waits."""
    listeners, told = Listeners(), list[int]()
    entered, release = threading.Event(), threading.Event()

    def stuck(event: Event) -> None:
        entered.set()
        release.wait(60)
        told.append(int(event.at))

    listeners.subscribe(stuck)
    try:
        listeners.publish(event(0))
        entered.wait(60)
        for number in range(1, 5_000):
            listeners.publish(event(number))
        assert listeners.dropped > 0
    finally:
        release.set()
    await listeners.drain()
    assert len(told) + listeners.dropped == 5_000
    assert told == list(range(len(told)))


async def test_a_stuck_listener_holds_back_no_other_kind() -> None:
    """Coroutine listeners are told while a plain one hangs."""
    listeners, told = Listeners(), list[int]()
    release = threading.Event()

    async def listener(event: Event) -> None:
        told.append(int(event.at))

    listeners.subscribe(lambda event: release.wait(60) and None)
    listeners.subscribe(listener)
    try:
        listeners.publish(event(1))
        for _ in range(5):
            await asyncio.sleep(0)
        assert told == [1]
    finally:
        release.set()
    await listeners.drain()


async def test_virtual_time_stands_still_until_a_plain_listener_was_told(
    recovery: ErrorRecoveryService, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a test that waits a second for it would be told now and then that it was not called."""
    monkeypatch.setattr(virtual_time, "_PATIENCE", 60.0)
    entered, told = threading.Event(), list[float]()

    def slow(event: Event) -> None:
        entered.wait(60)
        told.append(clock.monotonic())

    recovery.on_event(slow)
    began = clock.monotonic()
    with pytest.raises(ConnectionError):
        await recovery.retry_with_backoff(fails, max_retries=0)
    asyncio.get_running_loop().call_later(0, threading.Timer(0.05, entered.set).start)
    await asyncio.sleep(3600)
    assert told == [began, began]  # AttemptFailed, CallFailed
    await asyncio.sleep(1)
    assert clock.monotonic() - began == 3601


async def test_a_plain_listener_that_left_holds_no_virtual_time(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is still at work on."""
    monkeypatch.setattr(virtual_time, "_PATIENCE", 60.0)
    listeners, release = Listeners(), threading.Event()
    stop = listeners.subscribe(lambda event: release.wait(60) and None)
    try:
        listeners.publish(event())
        stop()
        await asyncio.sleep(3600)
        assert not release.is_set()
    finally:
        release.set()


async def test_unsubscribing_stops_it() -> None:
    """Once or twice; the others stay."""
    listeners, told = Listeners(), list[str]()
    stop = listeners.subscribe(lambda event: told.append("a"))
    listeners.subscribe(lambda event: told.append("b"))
    listeners.publish(event())
    await listeners.drain()
    stop()
    stop()
    listeners.publish(event())
    await listeners.drain()
    assert sorted(told) == ["a", "b", "b"]


async def test_one_listener_may_subscribe_twice_and_leave_once() -> None:
    """Each subscription is its own."""
    listeners, told = Listeners(), list[int]()

    def listener(event: Event) -> None:
        told.append(1)

    stop = listeners.subscribe(listener)
    listeners.subscribe(listener)
    stop()
    listeners.publish(event())
    await listeners.drain()
    assert told == [1]


async def test_what_cannot_listen_is_refused() -> None:
    """With what it was."""
    with pytest.raises(TypeError, match=r"listener must be .*got 5"):
        Listeners().subscribe(5)  # type: ignore[arg-type]  # the mistake under test


async def test_a_bound_method_and_a_callable_object_may_listen() -> None:
    """Async or not."""
    listeners, told = Listeners(), list[str]()

    class Desk:
        async def on_event(self, event: Event) -> None:
            told.append("method")

        async def __call__(self, event: Event) -> None:
            told.append("object")

    listeners.subscribe(Desk().on_event)
    listeners.subscribe(Desk())
    listeners.publish(event())
    await listeners.drain()
    assert sorted(told) == ["method", "object"]


async def test_a_listener_outlives_a_loop() -> None:
    """Events of the next loop come to it there."""
    listeners, told = Listeners(), list[int]()

    async def listener(event: Event) -> None:
        await asyncio.sleep(0)
        told.append(int(event.at))

    async def main(number: int) -> None:
        listeners.publish(event(number))
        await listeners.drain()

    def run() -> None:
        for number in (1, 2, 3):
            asyncio.run(main(number))

    listeners.subscribe(listener)
    other = threading.Thread(target=run)
    other.start()
    other.join()
    assert told == [1, 2, 3]


# -- what is told ------------------------------------------------------------------------------------


async def test_the_life_of_a_call_is_told(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Typed, frozen events with the service, the time and what happened."""
    told: list[Event] = []
    recovery.on_event(told.append)
    recovery.service("api", circuit_threshold=2)
    began = clock.time()
    with pytest.raises(ConnectionError):
        await recovery.retry_with_backoff(fails, service_name="api")
    with pytest.raises(CircuitOpenError):
        await recovery.retry_with_backoff(fails, service_name="api")
    assert await recovery.with_fallback(fails, "cached", service_name="api") == "cached"
    await clock.sleep(60)
    await recovery.retry_with_backoff(answers, service_name="api")
    await recovery.aclose()
    kinds = [type(one) for one in told]
    assert [kind for kind in kinds if kind is not CallRejected] == [
        AttemptFailed,
        RetryScheduled,
        CircuitOpened,
        AttemptFailed,
        CallFailed,
        FallbackAnswered,
        CircuitHalfOpened,
        CircuitClosed,
    ]
    first = told[0]
    assert isinstance(first, AttemptFailed)
    assert (first.service_name, first.function_name, first.attempt) == ("api", "fails", 1)
    assert (first.error_type, first.error_message, first.at) == ("ConnectionError", "no", began)
    scheduled = told[1]
    assert isinstance(scheduled, RetryScheduled)
    assert (scheduled.attempt, scheduled.delay) == (2, 1.0)
    opened = next(one for one in told if isinstance(one, CircuitOpened))
    assert (opened.retry_after, opened.last_error) == (60.0, "ConnectionError: no")
    failed = next(one for one in told if isinstance(one, CallFailed))
    assert failed.attempts == 2
    assert "circuit" in failed.reason
    rejected = next(one for one in told if isinstance(one, CallRejected))
    assert (rejected.policy, rejected.retry_after) == ("circuit_breaker", 60.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.attempt = 5  # type: ignore[misc]  # the mistake under test


async def test_no_event_is_built_when_nobody_listens(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not somebody listened before."""
    built: list[Any] = []
    original = Event.__init__

    def counting(self: Event, *args: Any, **kwargs: Any) -> None:
        built.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(AttemptFailed, "__init__", counting)
    stop = recovery.on_event(lambda event: None)
    stop()
    with pytest.raises(ConnectionError):
        await recovery.retry_with_backoff(fails)
    assert built == []


@pytest.mark.parametrize("kind", ["raising", "raising async", "stuck"])
async def test_a_bad_listener_does_not_touch_the_call(
    recovery: ErrorRecoveryService, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Same result, same waits, same circuit; a test on virtual time goes on as well."""
    monkeypatch.setattr(virtual_time, "_PATIENCE", 0.01)
    release = threading.Event()

    async def raises_async(event: Event) -> None:
        raise ZeroDivisionError

    def raises(event: Event) -> None:
        raise ZeroDivisionError

    def stuck(event: Event) -> None:
        release.wait(60)

    listener: Callable[[Event], Any] = {"raising": raises, "raising async": raises_async, "stuck": stuck}[
        kind
    ]
    recovery.on_event(listener)
    began = clock.monotonic()
    try:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await recovery.retry_with_backoff(fails, service_name="api")
        assert recovery.is_circuit_open("api")
        assert clock.monotonic() - began == 7.0
    finally:
        release.set()


async def test_a_listener_may_use_the_service_itself(recovery: ErrorRecoveryService) -> None:
    """No lock is held while it is told: it may ask, reset and subscribe."""
    asked: list[object] = []

    def listener(event: Event) -> None:
        if isinstance(event, CircuitOpened):
            asked.append(recovery.is_circuit_open(event.service_name))
            recovery.reset_circuit_breaker(event.service_name)
            asked.append(recovery.get_health_status()["circuit_breakers"])
            recovery.on_event(lambda other: None)

    recovery.on_event(listener)
    recovery.service("api", circuit_threshold=1)
    with pytest.raises(ConnectionError):
        await recovery.retry_with_backoff(fails, service_name="api", max_retries=0)
    await recovery.aclose()
    assert asked == [True, {"api": "closed"}]


async def test_a_listener_that_hangs_silences_nobody_else() -> None:
    """Each has a queue and a thread of its own."""
    listeners, release, told = Listeners(), threading.Event(), list[str]()
    listeners.subscribe(lambda event: release.wait(30) and None)
    listeners.subscribe(lambda event: told.append(event.service_name))
    for number in range(4):
        listeners.publish(Event(service_name=f"s{number}", at=0.0))
    while len(told) < 4:  # noqa: ASYNC110  a thread ends it
        await asyncio.sleep(0)
    release.set()
    await listeners.drain()

    assert told == ["s0", "s1", "s2", "s3"]


async def test_a_coroutine_listener_cancelled_at_birth_is_told_the_next_time() -> None:
    """Shutdown code that cancels every task does not end it for good."""
    listeners, told = Listeners(), list[str]()

    async def listen(event: Event) -> None:
        told.append(event.service_name)

    listeners.subscribe(listen)
    listeners.publish(Event(service_name="first", at=0.0))
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    listeners.publish(Event(service_name="second", at=0.0))
    await listeners.drain()

    assert told == ["first", "second"]


# -- while it is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_listener_that_unsubscribes_is_told_nothing_more(is_async: bool) -> None:
    """Not even what waits in its queue already."""
    listeners, told, stops = Listeners(), list[int](), list[Callable[[], None]]()

    def once(event: Event) -> None:
        told.append(int(event.at))
        stops[0]()

    async def once_async(event: Event) -> None:
        once(event)

    stops.append(listeners.subscribe(once_async if is_async else once))
    rest: list[int] = []
    listeners.subscribe(lambda event: rest.append(int(event.at)))
    for number in range(10):
        listeners.publish(event(number))
    await listeners.drain()
    assert told == [0]
    assert rest == list(range(10))
    assert len(listeners.active) == 1


async def test_what_waits_for_a_listener_that_leaves_is_not_told() -> None:
    """It was busy with the first when it left."""
    listeners, told = Listeners(), list[int]()
    entered, release = threading.Event(), threading.Event()

    def slow(event: Event) -> None:
        told.append(int(event.at))
        entered.set()
        release.wait(60)

    stop = listeners.subscribe(slow)
    for number in range(5):
        listeners.publish(event(number))
    entered.wait(60)
    subscription = listeners.active[0]
    stop()
    release.set()
    while subscription.is_busy():  # noqa: ASYNC110  a thread ends it
        await asyncio.sleep(0)
    assert told == [0]


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_event_that_was_being_handed_out_comes_too_late_for_one_that_has_left(
    is_async: bool,
) -> None:
    """Another thread publishes while it unsubscribes: no event is told after that."""
    listeners, told = Listeners(), list[Event]()

    async def listen_async(event: Event) -> None:
        told.append(event)

    stop = listeners.subscribe(listen_async if is_async else told.append)
    subscription = listeners.active[0]
    stop()
    subscription.tell(event())
    assert not subscription.is_busy()
    assert told == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_listener_that_subscribes_another_while_it_is_told(is_async: bool) -> None:
    """The new one is told from the next event on; no lock is held meanwhile."""
    listeners, told = Listeners(), list[int]()

    def adds(event: Event) -> None:
        if int(event.at) == 0:
            listeners.subscribe(lambda event: told.append(int(event.at)))

    async def adds_async(event: Event) -> None:
        adds(event)

    listeners.subscribe(adds_async if is_async else adds)
    listeners.publish(event(0))
    await listeners.drain()
    listeners.publish(event(1))
    await listeners.drain()
    assert told == [1]


async def test_a_coroutine_listener_that_hangs_is_bounded_and_silences_nobody_else() -> None:
    """Its queue is full after a thousand, what it missed is counted, and the others are told everything."""
    listeners, told = Listeners(), list[int]()
    release = asyncio.Event()

    async def hangs(event: Event) -> None:
        await release.wait()

    async def follows(event: Event) -> None:
        told.append(int(event.at))

    listeners.subscribe(hangs)
    listeners.subscribe(follows)
    for number in range(1_500):
        listeners.publish(event(number))
        if number % 100 == 0:
            await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert told == list(range(1_500))
    assert listeners.dropped == 499  # one is being told, a thousand wait
    release.set()
    await listeners.drain()


async def test_the_end_of_the_service_waits_for_a_hanging_listener_no_longer_than_it_may(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It is left as it is; what else was to be flushed is."""

    async def hangs(event: Event) -> None:
        await asyncio.sleep(3600)

    recovery.on_event(hangs)
    with pytest.raises(ConnectionError):
        await recovery.retry_with_backoff(fails, max_retries=0)
    began = clock.monotonic()
    await recovery.aclose(timeout=2.0)
    assert clock.monotonic() - began == pytest.approx(2.0)
    assert recovery.get_health_status()["error_log"]["written"] == 1


@pytest.mark.parametrize("is_async", [False, True])
async def test_two_loops_in_two_threads_tell_one_listener_everything(is_async: bool) -> None:
    """In the order of each, none twice, none lost; and one that raises or comes and goes disturbs nobody."""
    listeners, told = Listeners(), list[Event]()

    def listen(event: Event) -> None:
        told.append(event)

    async def listen_async(event: Event) -> None:
        await asyncio.sleep(0)
        told.append(event)

    async def raises(event: Event) -> None:
        raise ZeroDivisionError

    listeners.subscribe(listen_async if is_async else listen)
    logging.getLogger("shockproof").disabled = True
    listeners.subscribe(raises)

    async def publishes(name: str) -> None:
        for number in range(300):
            stop = listeners.subscribe(lambda event: None)
            listeners.publish(Event(service_name=name, at=float(number)))
            stop()
            await asyncio.sleep(0)
        while any(one.is_busy() for one in listeners.active):  # noqa: ASYNC110  the other thread may end it
            await asyncio.sleep(0)

    threads = [threading.Thread(target=lambda name=name: asyncio.run(publishes(name))) for name in ("a", "b")]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        logging.getLogger("shockproof").disabled = False
    await listeners.drain()
    for name in ("a", "b"):
        assert [int(one.at) for one in told if one.service_name == name] == list(range(300))


async def test_every_event_is_frozen_and_typed() -> None:
    """No listener can change what the next one sees, and each field says what it is."""
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
    assert len(kinds) > 8
    for kind in kinds:
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]  # what dataclass leaves
        assert not hasattr(kind, "__dict__") or "__dict__" not in kind.__slots__
        assert all(field.kw_only for field in dataclasses.fields(kind))


async def test_each_event_is_built_only_when_somebody_listens(
    recovery: ErrorRecoveryService, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of circuits, refusals, fallbacks and hedges."""
    built: list[str] = []
    for kind in vars(events).values():
        if isinstance(kind, type) and issubclass(kind, Event):

            def counting(self: Event, kind: type[Event] = kind, **fields: object) -> None:
                built.append(kind.__name__)
                for name, value in fields.items():
                    object.__setattr__(self, name, value)

            monkeypatch.setattr(kind, "__init__", counting)

    async def some_trouble() -> None:
        recovery.reset_circuit_breaker("api")
        api = recovery.service("api", circuit_threshold=2)
        with pytest.raises(ConnectionError):
            await api.using(max_retries=1).call(fails)  # attempts, a retry, the circuit opens
        with pytest.raises(CircuitOpenError):
            await api.call(fails)
        assert await api.using(fallback="cached").call(fails) == "cached"
        await clock.sleep(60)
        await api.call(answers)
        with pytest.raises(ConnectionError):
            await api.using(hedge_after=0.5).call(fails)
        await recovery.save_state(force=True)

    await some_trouble()
    assert built == []
    stop = recovery.on_event(lambda event: None)
    await some_trouble()
    stop()
    assert {
        "AttemptFailed", "CallFailed", "CallHedged", "CallRejected", "CircuitClosed", "CircuitHalfOpened",
        "CircuitOpened", "FallbackAnswered", "RetryScheduled",
    } <= set(built)  # fmt: skip

"""Recorded events: there at once, found by type and field, waited for, and shown when they are missed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from shockproof import (
    AttemptFailed,
    CallFailed,
    CallRejected,
    CircuitClosed,
    CircuitOpened,
    CircuitOpenError,
    ErrorRecoveryService,
    RetryScheduled,
)
from shockproof.testing import RecordedEvents, VirtualClock, record_events

pytestmark = pytest.mark.asyncio


async def fail(recovery: ErrorRecoveryService, times: int, name: str = "api") -> None:
    """One call that fails so many times."""

    async def broken() -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        await recovery.retry_with_backoff(broken, service_name=name, max_retries=times - 1)


async def test_events_are_there_when_the_call_is_back(
    recovery: ErrorRecoveryService, events: RecordedEvents
) -> None:
    """In order, without a turn of the loop: a listener would be told some time later."""
    await fail(recovery, 2)

    assert [type(event) for event in events] == [AttemptFailed, RetryScheduled, AttemptFailed, CallFailed]
    assert len(events) == 4
    assert isinstance(events[-1], CallFailed)
    assert isinstance(events[0:1], list)


async def test_events_are_found_by_type_and_field(
    recovery: ErrorRecoveryService, events: RecordedEvents
) -> None:
    """The type of the result is that of the question."""
    await fail(recovery, 3)
    await fail(recovery, 1, "other")

    assert [one.attempt for one in events.of(AttemptFailed, service_name="api")] == [1, 2, 3]
    assert events.only(RetryScheduled, attempt=3).delay == 2.0
    events.assert_none(CircuitOpened)
    events.assert_order(AttemptFailed, RetryScheduled, CallFailed)


async def test_a_failed_question_shows_what_happened(
    recovery: ErrorRecoveryService, events: RecordedEvents
) -> None:
    """A line for each event, with its time since the first, so that nobody has to run it again to see."""
    await fail(recovery, 2)

    with pytest.raises(AssertionError) as caught:
        events.only(CircuitOpened, service_name="api")
    text = str(caught.value)
    assert text.startswith("expected one CircuitOpened(service_name='api'), there are 0 of 4 events:")
    assert "    1.000 s  api  AttemptFailed" in text
    with pytest.raises(AssertionError, match=r"expected one AttemptFailed, there are 2"):
        events.only(AttemptFailed)
    with pytest.raises(AssertionError, match=r"expected no AttemptFailed\(attempt=2\), there are 1"):
        events.assert_none(AttemptFailed, attempt=2)
    with pytest.raises(
        AssertionError, match="expected a RetryScheduled after CallFailed, there is none among"
    ):
        events.assert_order(CallFailed, RetryScheduled)


async def test_many_events_show_the_last_ones(recovery: ErrorRecoveryService, events: RecordedEvents) -> None:
    """A message is read by a person."""
    recovery.service("api", circuit_threshold=None)
    await fail(recovery, 20)

    assert str(events).splitlines()[1] == "  ... 10 earlier"
    assert len(str(events).splitlines()) == 32
    assert repr(events) == "<RecordedEvents: 40>"


async def test_waiting_ends_with_the_event(
    recovery: ErrorRecoveryService, events: RecordedEvents, clock: VirtualClock
) -> None:
    """On virtual time a minute of waiting takes none."""
    began = clock.monotonic()
    task = asyncio.create_task(fail(recovery, 9))
    opened = await events.wait_for(CircuitOpened)

    assert opened.service_name == "api"
    assert clock.monotonic() - began == 1 + 2 + 4 + 8
    await task


async def test_waits_follow_each_other(recovery: ErrorRecoveryService, events: RecordedEvents) -> None:
    """Each begins where the last one found its event, and what has happened before is found too."""
    await fail(recovery, 3)

    assert [(await events.wait_for(AttemptFailed)).attempt for _ in range(3)] == [1, 2, 3]
    with pytest.raises(AssertionError, match="no AttemptFailed within 5 s; there are"):
        await events.wait_for(AttemptFailed, timeout=5)
    await fail(recovery, 1)
    assert (await events.wait_for(AttemptFailed)).attempt == 1


async def test_a_wait_that_is_cancelled_finds_nothing(
    recovery: ErrorRecoveryService, events: RecordedEvents
) -> None:
    """The next one finds it."""
    task = asyncio.create_task(events.wait_for(AttemptFailed))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await fail(recovery, 1)
    assert (await events.wait_for(AttemptFailed)).attempt == 1


async def test_events_of_another_thread_wake_a_wait(
    recovery: ErrorRecoveryService, events: RecordedEvents
) -> None:
    """A service is shared by loops, and so are its events."""
    thread = threading.Thread(target=lambda: VirtualClock().run(fail(recovery, 1)))
    asyncio.get_running_loop().call_later(1, thread.start)
    waiting = asyncio.create_task(events.wait_for(AttemptFailed, timeout=10))
    await asyncio.sleep(1)
    with asyncio.get_running_loop().hold_time():  # type: ignore[attr-defined]  # the loop of the clock
        await waiting
    thread.join()


async def test_recording_can_stop_and_forget(recovery: ErrorRecoveryService) -> None:
    """What was recorded stays until it is cleared."""
    with record_events(recovery) as events:
        await fail(recovery, 1)
    await fail(recovery, 1)
    assert len(events) == 2
    events.clear()
    assert str(events) == "no events"
    assert not recovery._listeners


async def test_circuit_events_and_refusals_are_recorded(
    recovery: ErrorRecoveryService, events: RecordedEvents, clock: VirtualClock
) -> None:
    """Everything a listener would be told."""
    recovery.service("api", circuit_threshold=1)
    await fail(recovery, 1)
    with pytest.raises(CircuitOpenError):
        await recovery.retry_with_backoff(clock.sleep, 0, service_name="api")
    await clock.sleep(60)
    await recovery.retry_with_backoff(clock.sleep, 0, service_name="api")

    events.assert_order(CircuitOpened, CallRejected, CircuitClosed)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda events: events.of("CircuitOpened"), "kind must be a type of event"),
        (
            lambda events: events.of(CircuitOpened, service="api"),
            "has no field 'service'; there are service_name",
        ),
        (lambda events: events.assert_order(int), "kind must be a type of event"),
        (lambda events: record_events("api"), "recovery must be"),  # type: ignore[arg-type]  # the mistake under test
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    events: RecordedEvents, ask: Any, message: str
) -> None:
    """A field with a typing error would match nothing, silently."""
    with pytest.raises(TypeError, match=message):
        ask(events)

"""A service's circuit in somebody's hands: forced open, switched off, only watching."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import (
    CircuitBreaker,
    CircuitModeChanged,
    CircuitOpened,
    CircuitOpenError,
    CircuitWouldOpen,
    ErrorRecoveryService,
    Event,
    ServiceStatus,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


def service_health(recovery: ErrorRecoveryService, name: str = "api") -> dict[str, Any]:
    health = recovery.get_health_status()
    assert json.loads(json.dumps(health, allow_nan=False)) == health
    found: dict[str, Any] = health["services"][name]
    return found


def listening(recovery: ErrorRecoveryService) -> list[Event]:
    events: list[Event] = []

    async def heard(event: Event) -> None:
        events.append(event)

    recovery.on_event(heard)
    return events


# -- forced open -----------------------------------------------------------------------------------------


async def test_a_service_that_is_forced_open_refuses_at_once_and_says_why(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """No call goes out, whatever its form, until somebody lets it go."""
    events = listening(recovery)
    api = recovery.service("api", max_retries=0)
    fetch = script("answer")
    assert await api.call(fetch) == "answer"
    recovery.set_circuit_mode("api", "forced-open", "venue maintenance")
    await clock.sleep(1e6)
    for call in (lambda: api.call(fetch), api(fetch), lambda: api.guard().__aenter__()):
        with pytest.raises(CircuitOpenError) as refused:
            await call()
        assert str(refused.value) == "service 'api': the circuit was forced open: venue maintenance"
        assert (refused.value.forced, refused.value.retry_after) == ("venue maintenance", None)
    assert fetch.calls == 1
    assert recovery.is_circuit_open("api")
    assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE
    assert recovery.get_health_status()["circuit_breakers"] == {"api": "open"}
    found = service_health(recovery)
    assert found["circuit_mode"] == "forced-open"
    assert found["circuit_mode_reason"] == "venue maintenance"
    assert found["retry_after"] is None
    assert found["rejections"] == 3
    assert found["circuit_trips"] == 0

    recovery.set_circuit_mode("api", "normal", "it is back")
    assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL
    assert await api.call(fetch) == "answer"
    await clock.sleep(1)
    changes = [event for event in events if not isinstance(event, CircuitModeChanged)]
    assert [type(event).__name__ for event in changes] == ["CallRejected"] * 3
    told = [event for event in events if isinstance(event, CircuitModeChanged)]
    assert [(one.previous, one.mode, one.reason) for one in told] == [
        ("normal", "forced-open", "venue maintenance"),
        ("forced-open", "normal", "it is back"),
    ]
    assert told[0].at == clock.time() - 1e6 - 1


async def test_without_a_reason_the_refusal_still_says_that_it_was_somebody(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """And it pickles like any other."""
    recovery.service("api")
    recovery.set_circuit_mode("api", "forced-open")
    with pytest.raises(CircuitOpenError) as refused:
        await recovery.retry_with_backoff(script("answer"), service_name="api")
    assert str(pickle.loads(pickle.dumps(refused.value))) == "service 'api': the circuit was forced open"
    assert refused.value.forced == ""


async def test_a_circuit_that_opened_by_itself_was_not_forced(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The error tells the two apart."""
    api = recovery.service("api", circuit_threshold=1, max_retries=0)
    with pytest.raises(ConnectionError):
        await api.call(script(ConnectionError("no")))
    with pytest.raises(CircuitOpenError) as refused:
        await api.call(script("answer"))
    assert (refused.value.forced, refused.value.retry_after) == (None, 60.0)


async def test_a_call_that_reduces_risk_passes_a_circuit_that_is_forced_open(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """Orders must be cancelled especially when somebody has stopped the venue; it decides nothing."""
    api = recovery.service("api", circuit_threshold=1, max_retries=0)
    recovery.set_circuit_mode("api", "forced-open")
    cancel = api.using(risk_reducing=True)
    assert await cancel.call(script("cancelled")) == "cancelled"
    with pytest.raises(ConnectionError):
        await cancel.call(script(ConnectionError("no")))
    assert service_health(recovery)["circuit_mode"] == "forced-open"


async def test_a_fallback_answers_behind_a_circuit_that_is_forced_open(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """As behind any open one."""
    fetch = script("answer")
    recovery.service("api")
    recovery.set_circuit_mode("api", "forced-open")
    assert await recovery.with_fallback(fetch, lambda: "stand-in", service_name="api") == "stand-in"
    assert fetch.calls == 0
    assert recovery.get_service_status("api") is ServiceStatus.DEGRADED


async def test_a_reset_does_not_let_go_what_somebody_forced_open(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """A program that resets by itself must not undo what a person did."""
    recovery.service("api")
    recovery.set_circuit_mode("api", "forced-open")
    recovery.reset_circuit_breaker("api")
    assert recovery.is_circuit_open("api")
    assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE


async def test_retries_that_wait_end_when_the_circuit_is_forced_open(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """With their last error, at once, as when it opens by itself."""
    fetch = script(ConnectionError("no"))
    api = recovery.service("api", max_retries=3, base_delay=50.0)
    task = asyncio.create_task(api.call(fetch))
    await clock.sleep(10.0)
    began = clock.monotonic()
    recovery.set_circuit_mode("api", "forced-open")
    with pytest.raises(ConnectionError):
        await task
    assert clock.monotonic() == began
    assert fetch.calls == 1


async def test_a_call_in_flight_is_not_touched_and_decides_nothing(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Its answer is the caller's; the circuit stays as somebody wants it."""
    api = recovery.service("api", max_retries=0)
    await api.call(clock.sleep, 0)
    task = asyncio.create_task(api.call(clock.sleep, 10))
    await clock.sleep(5)
    recovery.set_circuit_mode("api", "forced-open")
    await task
    assert recovery.is_circuit_open("api")


# -- switched off ------------------------------------------------------------------------------------------


async def test_a_service_whose_circuit_is_disabled_is_never_refused(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """Errors come through as they are, health shows a closed circuit, and the mode."""
    events = listening(recovery)
    api = recovery.service("api", max_retries=0, circuit_threshold=1, circuit_mode="disabled")
    for _ in range(10):
        with pytest.raises(ConnectionError):
            await api.call(script(ConnectionError("no")))
    assert await api.call(script("answer")) == "answer"
    assert recovery.get_health_status()["circuit_breakers"] == {"api": "closed"}
    found = service_health(recovery)
    assert (found["circuit_mode"], found["circuit_mode_reason"]) == ("disabled", None)
    assert (found["circuit_shadow"], found["circuit_trips"]) == (None, 0)
    assert found["status"] == "operational"
    await clock.sleep(1)
    assert not [event for event in events if isinstance(event, CircuitOpened | CircuitModeChanged)]


async def test_a_disabled_circuit_keeps_the_short_way(recovery: ErrorRecoveryService, script: Script) -> None:
    """Switching it off makes no call slower."""
    api = recovery.service("api", circuit_mode="disabled")
    await api.call(script("answer"))
    state = recovery._registry.get_or_create("api")
    assert state.circuit.entrance.lane is state.circuit.closed is not None


# -- only watching -------------------------------------------------------------------------------------------


async def test_a_shadow_refuses_nobody_and_tells_what_it_would_have_done(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """How a breaker is tried out on a live system before it may refuse anything."""
    events = listening(recovery)
    api = recovery.service("api", max_retries=0, circuit_threshold=2, circuit_mode="shadow")
    down = script(ConnectionError("no"))
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await api.call(down)
    assert down.calls == 5
    assert not recovery.is_circuit_open("api")
    found = service_health(recovery)
    assert (found["circuit"], found["retry_after"]) == ("closed", 0.0)
    assert found["circuit_shadow"] == {"circuit": "open", "trips": 1, "refusals": 3}
    assert (found["circuit_trips"], found["rejections"]) == (0, 0)
    await clock.sleep(60.0)
    assert service_health(recovery)["circuit_shadow"]["circuit"] == "half-open"
    assert await api.call(script("answer")) == "answer"
    assert service_health(recovery)["circuit_shadow"]["circuit"] == "closed"
    await clock.sleep(1)
    would = [event for event in events if type(event).__name__.startswith("Circuit")]
    assert [
        (type(one), one.last_error, one.retry_after) for one in would if isinstance(one, CircuitWouldOpen)
    ] == [(CircuitWouldOpen, "ConnectionError: no", 60.0)]
    assert len(would) == 1


async def test_a_shadow_changes_nothing_about_retries_hedges_and_statuses(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """With and without it a call goes exactly the same way."""
    seen = []
    for name, options in (("off", {"circuit_threshold": None}), ("shadow", {"circuit_mode": "shadow"})):
        api = recovery.service(name, **options, max_retries=6, base_delay=1.0, hedge_after=0.5)
        fetch = script(*[ConnectionError("no")] * 9, "answer")
        answer = await asyncio.gather(api.call(fetch), return_exceptions=True)
        found = service_health(recovery, name)
        seen.append((answer, fetch.times, found["status"], found["retries"], found["hedges"]))
    assert seen[0] == seen[1]
    assert service_health(recovery, "shadow")["circuit_shadow"]["trips"] == 1


# -- by hand ------------------------------------------------------------------------------------------------


async def test_an_unknown_service_is_refused_with_those_there_are(recovery: ErrorRecoveryService) -> None:
    """A circuit that is to be held open under a wrong name would hold back nothing."""
    with pytest.raises(ValueError, match=r"there is no service 'brokr'; there are none yet"):
        recovery.set_circuit_mode("brokr", "forced-open")
    recovery.service("broker")
    with pytest.raises(
        ValueError, match=r"there are 'broker'\. Declare it first with recovery\.service\('brokr'\)"
    ):
        recovery.set_circuit_mode("brokr", "forced-open")
    assert recovery.get_all_service_statuses().keys() == {"broker"}


async def test_a_mode_that_does_not_exist_is_refused_with_those_that_do(
    recovery: ErrorRecoveryService,
) -> None:
    """At run time, as an option, and alone."""
    recovery.service("api")
    message = r"mode must be one of 'normal', 'forced-open', 'disabled', 'shadow', got 'open'"
    wrong: Any = "open"
    with pytest.raises(ValueError, match=message):
        recovery.set_circuit_mode("api", wrong)
    with pytest.raises(ValueError, match=f"circuit_{message}"):
        recovery.service("other", circuit_mode=wrong)
    with pytest.raises(ValueError, match=message):
        CircuitBreaker().set_mode(wrong)
    no_reason: Any = 5
    with pytest.raises(TypeError, match=r"reason must be a string or None, got 5"):
        recovery.set_circuit_mode("api", "disabled", no_reason)
    assert service_health(recovery)["circuit_mode"] == "normal"


async def test_what_is_set_by_hand_beats_what_is_declared_before_and_after(
    recovery: ErrorRecoveryService,
) -> None:
    """Saying again what was said before is no change."""
    recovery.service("api", circuit_mode="shadow")
    recovery.set_circuit_mode("api", "forced-open")
    recovery.service("api", circuit_mode="shadow")
    assert service_health(recovery)["circuit_mode"] == "forced-open"
    recovery.service("other")
    recovery.set_circuit_mode("other", "forced-open")
    recovery.service("other", circuit_mode="shadow")
    assert service_health(recovery, "other")["circuit_mode"] == "forced-open"
    with pytest.raises(ValueError, match=r"circuit_mode='disabled' at .* differs from circuit_mode='shadow'"):
        recovery.service("api", circuit_mode="disabled")


async def test_the_same_mode_again_is_no_event(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Only the reason is the newer one."""
    recovery.service("api")
    events = listening(recovery)
    recovery.set_circuit_mode("api", "disabled", "first")
    recovery.set_circuit_mode("api", "disabled", "second")
    await clock.sleep(1)
    assert len(events) == 1
    assert service_health(recovery)["circuit_mode_reason"] == "second"


async def test_a_breaker_alone_takes_the_modes_too(clock: VirtualClock, script: Script) -> None:
    """As an option, and by hand."""
    breaker = CircuitBreaker(circuit_threshold=1, circuit_mode="shadow", clock=clock)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await breaker.call(script(ConnectionError("no")))
    assert (breaker.mode, breaker.state) == ("shadow", "closed")
    breaker.set_mode("forced-open", "no more")
    assert (breaker.mode, breaker.state) == ("forced-open", "open")
    breaker.reset()
    with pytest.raises(CircuitOpenError, match=r"forced open: no more"):
        await breaker.call(script("answer"))
    breaker.set_mode("normal")
    assert await breaker.call(script("answer")) == "answer"

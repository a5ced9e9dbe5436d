"""How everything is doing, as one plain dict."""

from __future__ import annotations

import gc
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.services.halt import Halt
from shockproof.memory.services.health import RECENT_SECONDS, health_report
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import Circuit
from shockproof.vocabulary.clock import SystemClock

LOG: dict[str, Any] = {"state": "ok", "written": 1, "queued": 0, "dropped": 0}


def service(name: str, condition: str) -> ServiceState:
    state = ServiceState(name, Circuit(threshold=1, timeout=60.0))
    if condition in {"open", "half-open"}:
        ticket = state.circuit.admit(100.0 if condition == "open" else 0.0)
        assert ticket is not None
        ticket.failed(100.0 if condition == "open" else 0.0, "ValueError: no")
        state.circuit_opened()
    elif condition == "degraded":
        state.answered_by_fallback()
    elif condition == "unavailable":
        state.failed_for_good()
    return state


def report(*conditions: str) -> dict[str, Any]:
    return health_of([service(f"s{number}", condition) for number, condition in enumerate(conditions)])


def health_of(services: list[ServiceState], kept_sends: str = "ok") -> dict[str, Any]:
    return health_report(
        services,
        now=100.0,
        wall=1_767_225_600.0,
        recent_errors=3,
        error_log=LOG,
        journal={"incomplete": None},
        kept_sends={"state": kept_sends},
        halt=Halt(Path("nowhere"), clock=SystemClock(), submit=lambda job: None, on_change=lambda: None),
        loop=None,
        shared=None,
    )


@pytest.mark.parametrize(
    ("conditions", "overall"),
    [
        ((), "healthy"),
        (("good",), "healthy"),
        (("good", "degraded"), "degraded"),
        (("half-open", "good"), "degraded"),
        (("degraded", "unavailable"), "unhealthy"),
        (("open", "half-open"), "unhealthy"),
        (("unavailable", "good"), "unhealthy"),
    ],
)
def test_the_worst_service_decides(conditions: tuple[str, ...], overall: str) -> None:
    """Any unavailable one, else any degraded one, else healthy."""
    assert report(*conditions)["overall_health"] == overall


@pytest.mark.parametrize(("state", "overall"), [("closed", "healthy"), ("degraded", "degraded")])
def test_what_is_sent_and_not_kept_degrades_the_health(state: str, overall: str) -> None:
    """A kill would make the program forget it; one that keeps nothing has nothing to forget."""
    assert health_of([service("s0", "good")], state)["overall_health"] == overall


def test_the_parts_of_the_contract_are_there() -> None:
    """With lower-case values; circuits are told as they are at the moment."""
    found = report("good", "open", "half-open", "degraded")
    assert found["service_statuses"] == {
        "s0": "operational",
        "s1": "unavailable",
        "s2": "degraded",
        "s3": "degraded",
    }
    assert found["circuit_breakers"] == {"s0": "closed", "s1": "open", "s2": "half-open", "s3": "closed"}
    assert found["recent_error_count"] == 3
    assert found["error_log"] == LOG
    assert datetime.fromisoformat(found["timestamp"]) == datetime(2026, 1, 1, tzinfo=UTC)
    assert RECENT_SECONDS == 300.0


def test_it_is_ready_for_json() -> None:
    """Nothing but plain values."""
    found = report("good", "open", "half-open", "degraded", "unavailable")
    assert json.loads(json.dumps(found)) == found


def test_counts_are_told_by_service() -> None:
    """What a dashboard needs to know beside the status."""
    counts = report("degraded", "open")["services"]
    assert counts["s0"]["fallbacks"] == 1
    assert counts["s1"]["circuit_trips"] == 1
    assert counts["s1"]["retry_after"] == 60.0
    wanted = {"successes", "failures", "retries", "timeouts", "fallbacks", "rejections", "abandoned_threads"}
    assert wanted <= counts["s0"].keys()


def calls_to_tell_of(services: list[ServiceState]) -> int:
    """How many functions of Python the report goes through."""
    calls = 0

    def count(frame: object, event: str, of: object) -> None:
        nonlocal calls
        calls += event == "call"

    gc.disable()  # what it calls for objects of other tests is none of the report's
    sys.setprofile(count)
    try:
        health_of(services)
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


def test_a_service_that_is_well_takes_few_steps_to_tell_of() -> None:
    """A thousand of them are looked at in one go, and on their loop: what one has not, nobody asks for."""
    few, many = ([service(f"s{number}", "good") for number in range(count)] for count in (10, 60))
    assert (calls_to_tell_of(many) - calls_to_tell_of(few)) / 50 <= 8

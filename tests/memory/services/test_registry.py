"""Services by name: one state each, and one declaration of what belongs to the service."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from shockproof.memory.services.registry import SERVICE_OPTIONS, Registry
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import CircuitState

HERE, THERE = "here.py:1", "there.py:2"


def registry(told: list[tuple[str, CircuitState]] | None = None) -> Registry:
    def on_transition(state: ServiceState, to: CircuitState, now: float) -> None:
        if told is not None:
            told.append((state.name, to))

    return Registry(circuit_threshold=2, circuit_timeout=60.0, on_transition=on_transition)


def trip(state: ServiceState, now: float = 0.0) -> None:
    for _ in range(2):
        ticket = state.circuit.admit(now)
        assert ticket is not None
        ticket.failed(now, "ValueError: no")


def test_a_name_has_one_state() -> None:
    """Made at first need, and found again."""
    services = registry()
    assert services.get("api") is None
    state = services.get_or_create("api")
    assert services.get_or_create("api") is state is services.get("api")
    assert state.name == "api"
    assert services.all() == [state]


def test_services_are_listed_in_the_order_of_first_sight() -> None:
    """As health and summaries show them."""
    services = registry()
    for name in ("b", "a", "c", "a"):
        services.get_or_create(name)
    assert [state.name for state in services.all()] == ["b", "a", "c"]


def test_threads_that_ask_at_once_get_the_same_state() -> None:
    """Whoever comes first makes it."""
    services, got = registry(), list[ServiceState]()
    barrier = threading.Barrier(8)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def ask() -> None:
        for number in range(50):
            barrier.wait()
            got.append(services.get_or_create(f"service {number}"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(got) == 400
    assert len({id(state) for state in got}) == 50


def test_a_declaration_sets_what_belongs_to_the_service() -> None:
    """At once, also for a state that is in use."""
    services = registry()
    state = services.get_or_create("api")
    services.declare(
        "api",
        {"circuit_threshold": 7, "circuit_timeout": 5.0, "half_open_probes": 3, "critical": True},
        HERE,
    )
    assert (state.circuit.threshold, state.circuit.timeout, state.circuit.probes) == (7, 5.0, 3)
    assert state.critical is True


def test_the_same_value_may_be_declared_again() -> None:
    """And another option may follow later."""
    services = registry()
    services.declare("api", {"critical": True}, HERE)
    services.declare("api", {"critical": True, "half_open_probes": 2}, THERE)
    assert services.get_or_create("api").circuit.probes == 2


def test_a_different_value_names_both_places_and_changes_nothing() -> None:
    """The refused declaration leaves no half behind."""
    services = registry()
    services.declare("api", {"circuit_threshold": 7}, HERE)
    with pytest.raises(ValueError, match=r"'api'.*=9 at there.py:2.*=7 at here.py:1"):
        services.declare("api", {"critical": True, "circuit_threshold": 9}, THERE)
    state = services.get_or_create("api")
    assert state.circuit.threshold == 7
    assert state.critical is False
    services.declare("api", {"critical": False}, THERE)


def test_names_are_declared_apart() -> None:
    """One service's value is no other's."""
    services = registry()
    services.declare("a", {"circuit_threshold": 7}, HERE)
    services.declare("b", {"circuit_threshold": 9}, THERE)
    assert services.get_or_create("a").circuit.threshold == 7
    assert services.get_or_create("c").circuit.threshold == 2


def test_new_defaults_reach_every_service_without_a_value_of_its_own() -> None:
    """Those that exist and those to come."""
    services = registry()
    plain = services.get_or_create("plain")
    own = services.declare("own", {"circuit_threshold": 7}, HERE)
    services.configure(circuit_threshold=5, circuit_timeout=9.0)
    later = services.get_or_create("later")
    assert (plain.circuit.threshold, plain.circuit.timeout) == (5, 9.0)
    assert (own.circuit.threshold, own.circuit.timeout) == (7, 9.0)
    assert (later.circuit.threshold, later.circuit.timeout) == (5, 9.0)


def test_transitions_are_told_with_the_state_they_belong_to() -> None:
    """And the status follows before anybody is told."""
    told: list[tuple[str, CircuitState]] = []
    services = registry(told)
    state = services.get_or_create("api")
    trip(state)
    state.circuit.reset(1.0)
    assert told == [("api", "open"), ("api", "closed")]


def test_the_lock_is_not_held_while_somebody_is_told() -> None:
    """A listener may ask the registry itself."""
    asked: list[Any] = []

    def on_transition(state: ServiceState, to: CircuitState, now: float) -> None:
        asked.append(services.all())
        asked.append(services.get_or_create("another"))

    services = Registry(circuit_threshold=2, circuit_timeout=60.0, on_transition=on_transition)
    trip(services.get_or_create("api"))
    assert len(asked) == 2


def test_the_options_of_a_service_are_those_of_the_contract() -> None:
    """What belongs to the service rather than to a handle: breaker, limits, health."""
    expected = {
        "circuit_threshold", "circuit_timeout", "failure_rate", "window", "min_calls", "slow_call_after",
        "slow_call_rate", "half_open_probes", "probe_lease", "critical", "health_check", "check_every",
    }  # fmt: skip
    assert expected <= set(SERVICE_OPTIONS)
    assert {"max_retries", "timeout", "deadline", "fallback", "effect", "weight"}.isdisjoint(SERVICE_OPTIONS)

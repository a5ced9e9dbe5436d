"""
The services of one recovery service by name, shared by threads and loops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import Circuit, CircuitState, Rates

__all__ = ["LIMIT_OPTIONS", "SERVICE_OPTIONS", "Registry"]

LIMIT_OPTIONS = ("max_concurrent", "max_queue", "max_wait", "rate_limit")

SERVICE_OPTIONS = (
    "circuit_threshold",
    "circuit_timeout",
    "failure_rate",
    "window",
    "min_calls",
    "slow_call_after",
    "slow_call_rate",
    "half_open_probes",
    "probe_lease",
    *LIMIT_OPTIONS,
    "retry_budget",
    "critical",
    "health_check",
    "check_every",
)
"""What belongs to the service: one value for its name, however many handles there are."""


class Registry:
    """
    Hands out one `ServiceState` for a name.

    The lock protects the dictionary and what is declared for a name; it is never held across an
    await or user code.
    """

    def __init__(
        self,
        *,
        circuit_threshold: int | None,
        circuit_timeout: float,
        on_transition: Callable[[ServiceState, CircuitState, float], None],
    ) -> None:
        self._lock = threading.Lock()
        self._services: dict[str, ServiceState] = {}
        self._threshold = circuit_threshold
        self._timeout = circuit_timeout
        self._on_transition = on_transition

    def get(self, name: str) -> ServiceState | None:
        """The state of a service that was seen or declared, or None."""
        return self._services.get(name)

    def get_or_create(self, name: str) -> ServiceState:
        """The state of *name*, made at first need."""
        state = self._services.get(name)
        if state is not None:
            return state
        with self._lock:
            state = self._services.get(name)
            if state is None:
                state = self._services[name] = self._new(name)
            return state

    def _new(self, name: str) -> ServiceState:
        circuit = Circuit(threshold=self._threshold, timeout=self._timeout)
        state = ServiceState(name, circuit)
        told = self._on_transition

        def on_transition(to: CircuitState, now: float) -> None:
            if to == "open":
                state.circuit_opened()
            told(state, to, now)

        circuit.on_transition = on_transition
        return state

    def declare(self, name: str, options: Mapping[str, Any], place: str) -> ServiceState:  # Any: per option
        """
        The state of *name* with the options that belong to the service set.

        Raises:
            ValueError: another place has declared a different value for the same name.
        """
        state = self.get_or_create(name)
        with self._lock:
            for option, value in options.items():
                if option in state.set_by_hand and state.set_by_hand[option] != value:
                    raise ValueError(
                        f"service {name!r}: {option}={value!r} at {place} differs from "
                        f"{option}={state.set_by_hand[option]!r} at {state.declared_at[option]}; "
                        "it belongs to the service, so declare it in one place"
                    )
            for option, value in options.items():
                state.set_by_hand[option] = value
                state.declared_at.setdefault(option, place)
                _apply(state, option, value)
            rates: dict[str, Any] = {  # Any: each has a type of its own
                name: value for name, value in state.set_by_hand.items() if name in _RATES
            }
            if rates and Rates(**rates) != state.circuit.rates:
                state.circuit.watch(Rates(**rates))
                state.stirred = True
        return state

    def configure(self, *, circuit_threshold: int | None, circuit_timeout: float) -> None:
        """New defaults, at once for every service that did not declare its own."""
        with self._lock:
            self._threshold, self._timeout = circuit_threshold, circuit_timeout
            for state in self._services.values():
                if "circuit_threshold" not in state.set_by_hand:
                    state.circuit.threshold = circuit_threshold
                if "circuit_timeout" not in state.set_by_hand:
                    state.circuit.timeout = circuit_timeout

    def all(self) -> list[ServiceState]:
        """Every service known so far, in the order of first sight."""
        with self._lock:
            return list(self._services.values())


_RATES = tuple(field.name for field in fields(Rates))


def _apply(state: ServiceState, option: str, value: Any) -> None:  # Any: checked by settings before
    if option == "circuit_threshold":
        state.circuit.threshold = value
    elif option == "circuit_timeout":
        state.circuit.timeout = value
    elif option == "half_open_probes":
        state.circuit.probes = value
    elif option == "retry_budget":
        state.retry_budget = value
        state.stirred = True
    elif option not in _RATES and option not in LIMIT_OPTIONS:
        setattr(state, option, value)

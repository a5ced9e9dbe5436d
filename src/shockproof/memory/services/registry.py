"""
The services of one recovery service by name, shared by threads and loops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from shockproof.memory.services.halt import Halt
from shockproof.memory.services.service_state import CallTimer, ServiceState
from shockproof.policies.backoff import Randomness
from shockproof.policies.circuit_breaker import Circuit, CircuitState
from shockproof.policies.open_time import OpenTime
from shockproof.policies.trip_rates import NO_RATES, Rates
from shockproof.vocabulary.statuses import ServiceStatus

__all__ = [
    "CIRCUIT_OPTIONS",
    "LIMIT_OPTIONS",
    "SERVICE_OPTIONS",
    "Registry",
    "check_together",
    "refuse_second_value",
]

LIMIT_OPTIONS = ("max_concurrent", "max_queue", "max_wait", "rate_limit")

CIRCUIT_OPTIONS = (
    "circuit_threshold",
    "circuit_timeout",
    "circuit_timeout_factor",
    "max_circuit_timeout",
    "circuit_jitter",
    "circuit_mode",
    "failure_rate",
    "window",
    "window_calls",
    "min_calls",
    "slow_call_after",
    "slow_call_rate",
    "half_open_probes",
    "probe_lease",
    "max_call_age",
)

SERVICE_OPTIONS = (
    *CIRCUIT_OPTIONS,
    *LIMIT_OPTIONS,
    "retry_budget",
    "shared",
    "circuit_quorum",
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
        on_would_open: Callable[[ServiceState, float], None] = lambda state, now: None,
        rng: Randomness | None = None,
        halt: Halt | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._services: dict[str, ServiceState] = {}
        self._threshold = circuit_threshold
        self._timeout = circuit_timeout
        self._on_transition = on_transition
        self._on_would_open = on_would_open
        self._rng = rng
        self._halt = halt
        self._call_timers: tuple[CallTimer, ...] = ()
        self._tracer: object = None
        self.stood_still: Callable[[float], float] | None = None
        """Of the services made from now on; see `ServiceState.stood_still`."""
        self._retired: WeakValueDictionary[str, ServiceState] = WeakValueDictionary()

    def get(self, name: str) -> ServiceState | None:
        """The state of a service that was seen or declared, or None."""
        return self._services.get(name)

    def get_or_create(self, name: str) -> ServiceState:
        """The state of *name*, made at first need, for somebody who is going to use it."""
        state = self._services.get(name)
        if state is not None:
            if state.is_only_restored:
                state.is_only_restored = False
            return state
        with self._lock:
            state = self._services.get(name)
            if state is None:
                # A handle may still hold the one that was retired: there is never a second one beside it.
                state = self._retired.pop(name, None)
                if state is None:
                    state = self._new(name)
                self._services[name] = state
            if state.is_only_restored:
                state.is_only_restored = False
            return state

    def restored(self, name: str, status: ServiceStatus) -> None:
        """An earlier life knew the service *name*, and had this to say of it; one that was retired stays so."""
        with self._lock:
            state = self._services.get(name)
            if state is None and name not in self._retired:
                state = self._services[name] = self._new(name)
                state.is_only_restored = True
            if state is not None:
                state.restored_status = status

    def retire(self, name: str) -> ServiceState | None:
        """Forget *name* until it is used again; its state, or None for a name that is not known."""
        with self._lock:
            state = self._services.pop(name, None)
            if state is not None:
                self._retired[name] = state
        if state is not None:
            state.prepare(is_prepared=False)  # a call through an old handle comes by `readmit` first
        return state

    def readmit(self, state: ServiceState) -> None:
        """A service is called; one that was retired is known again."""
        if self._services.get(state.name) is not state:
            with self._lock:
                if self._retired.pop(state.name, None) is state:
                    self._services[state.name] = state

    def time_calls(self, timer: CallTimer) -> Callable[[], None]:
        """Tell *timer* how long the calls of all services take; what is returned stops that."""

        def put_in_force(timers: tuple[CallTimer, ...]) -> None:
            with self._lock:
                self._call_timers = timers
                known = [*self._services.values(), *self._retired.values()]
            for state in known:
                state.time_calls(timers)

        put_in_force((*self._call_timers, timer))
        return lambda: put_in_force(tuple(one for one in self._call_timers if one is not timer))

    def trace_calls(self, tracer: object) -> Callable[[], None]:
        """
        Tell *tracer*, a `Tracer` of the layer above, of the calls of all services; what is returned stops that.

        Raises:
            ValueError: another one is told already.
        """

        def put_in_force(tracer: object) -> None:
            with self._lock:
                if tracer is not None and self._tracer is not None:
                    raise ValueError("these calls are traced already: stop that first")
                self._tracer = tracer
                known = [*self._services.values(), *self._retired.values()]
            for state in known:
                state.trace_calls(tracer)

        def stop() -> None:
            if self._tracer is tracer:
                put_in_force(None)

        put_in_force(tracer)
        return stop

    def _new(self, name: str) -> ServiceState:
        circuit = Circuit(threshold=self._threshold, timeout=self._timeout)
        state = ServiceState(name, circuit, self._halt)
        state.time_calls(self._call_timers)
        if self._tracer is not None:
            state.trace_calls(self._tracer)
        state.stood_still = self.stood_still
        state.watcher = self
        circuit.observer = state
        return state

    def circuit_moved(self, state: ServiceState, to: CircuitState, now: float) -> None:
        """The circuit of a service went to another state."""
        self._on_transition(state, to, now)

    def circuit_would_open(self, state: ServiceState, now: float) -> None:
        """The circuit of a service would have opened, if it did not only watch."""
        self._on_would_open(state, now)

    def declare(self, name: str, options: Mapping[str, Any], place: str) -> ServiceState:  # Any: per option
        """
        The state of *name* with the options that belong to the service set.

        Raises:
            ValueError: another place has declared a different value for the same name, or values that
                cannot be together.
        """
        state = self.get_or_create(name)
        if not options:
            return state
        with self._lock:
            check_together({**state.set_by_hand, **options})
            refuse_second_value(name, options, place, state.set_by_hand, state.declared_at)
            for option, value in options.items():
                is_new = option not in state.set_by_hand
                state.set_by_hand = {**state.set_by_hand, option: value}
                state.declared_at = {option: place, **state.declared_at}
                # A mode may have been changed by hand since: saying again what was said before is no change.
                if option == "circuit_mode":
                    if is_new and not state.circuit.mode_is_by_hand:
                        state.set_circuit_mode(value, None, by_hand=False)
                else:
                    _apply(state, option, value)
            times: dict[str, Any] = {  # Any: checked to be numbers before
                ours: state.set_by_hand[name]
                for name, ours in _OPEN_TIME.items()
                if name in state.set_by_hand
            }
            if times:
                state.circuit.open_time, state.circuit.rng = OpenTime(**times), self._rng
            rates: dict[str, Any] = {  # Any: each has a type of its own
                name: value for name, value in state.set_by_hand.items() if name in _RATES
            }
            if rates and Rates(**rates) != state.circuit.rates:
                state.circuit.watch(Rates(**rates))
                state.entrance.stirred = True
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


def check_together(options: Mapping[str, Any]) -> None:  # Any: each option has a type of its own
    """
    See that checked *options* of one service make sense beside each other.

    Raises:
        ValueError: they do not; names them, and the way out.
    """
    calls, least = options.get("window_calls"), options.get("min_calls", NO_RATES.min_calls)
    if calls is not None and calls < least:
        raise ValueError(
            f"window_calls={calls} is fewer than min_calls={least}: the window would never hold enough "
            f"calls for a rate to count; give min_calls={calls} or less"
        )
    timeout, longest = options.get("circuit_timeout"), options.get("max_circuit_timeout")
    if timeout is not None and longest is not None and longest < timeout:
        raise ValueError(
            f"max_circuit_timeout={longest:g} is less than circuit_timeout={timeout:g}, with which the open "
            "time begins; make it at least as long"
        )


def refuse_second_value(
    name: str,
    options: Mapping[str, object],
    place: str,
    declared: Mapping[str, object],
    declared_at: Mapping[str, str],
) -> None:
    """
    Refuse *options* of the service *name* that differ from those *declared* before.

    Raises:
        ValueError: with both places.
    """
    for option, value in options.items():
        if option in declared and declared[option] != value:
            raise ValueError(
                f"service {name!r}: {option}={value!r} at {place} differs from "
                f"{option}={declared[option]!r} at {declared_at[option]}; "
                "it belongs to the service, so declare it in one place"
            )


_RATES = Rates._fields
_OPEN_TIME = {
    "circuit_timeout_factor": "factor",
    "max_circuit_timeout": "longest",
    "circuit_jitter": "jitter",
}


_NOT_ITS_OWN = {*_RATES, *_OPEN_TIME, *LIMIT_OPTIONS, "max_call_age"}


def _apply(state: ServiceState, option: str, value: Any) -> None:  # Any: checked by settings before
    if option == "circuit_threshold":
        state.circuit.threshold = value
    elif option == "circuit_timeout":
        state.circuit.timeout = value
    elif option == "half_open_probes":
        state.circuit.probes = value
    elif option == "retry_budget":
        state.retry_budget = value
        state.entrance.stirred = True
        state.budget_is_there()
    elif option not in _NOT_ITS_OWN:
        setattr(state, option, value)

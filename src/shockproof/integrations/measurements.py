"""
What can be measured from outside: one table, which each metrics library is told in its own words.

Everything is read when somebody asks. What is counted is counted anyway; nothing here is on a call's way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import CircuitState
from shockproof.vocabulary.statuses import CIRCUIT_MODES, ErrorSeverity, ServiceStatus

if TYPE_CHECKING:
    from shockproof.calls.loop_monitor import LoopMonitor
    from shockproof.service import ErrorRecoveryService

__all__ = ["BUCKETS", "METRICS", "Measured", "Metric", "Point", "check_buckets"]

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from what a local cache takes to what nobody waits for."""


class Point(NamedTuple):
    """One number, and the values of its metric's labels."""

    labels: tuple[str, ...]
    value: float


class Measured:
    """A recovery service at the moment of one reading."""

    def __init__(self, recovery: ErrorRecoveryService) -> None:
        self.now = recovery._clock.monotonic()
        self.services = recovery._registry.all()
        self.error_log = recovery._error_log.statistics()
        self.journal = recovery._journal.status()
        self.is_halted = recovery._halt.mark is not None
        self.shared = recovery._shared_report()
        self.saved_at = recovery._saver.saved_at
        self.loop_monitor = recovery._loop_monitor


Read = Callable[[Measured], Iterable[Point]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is measured, under its name with dots; a counter only grows, until the process or the service ends."""

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    labels: tuple[str, ...]
    unit: str = ""
    """``s`` for seconds; empty for numbers."""
    read: Read


def check_buckets(buckets: Iterable[float]) -> tuple[float, ...]:
    """
    The bounds of a histogram as they are used.

    Raises:
        TypeError, ValueError: they are no numbers of seconds above 0, or do not ascend.
    """
    allowed = "buckets must be seconds above 0 in ascending order, such as (0.01, 0.1, 1.0)"
    try:
        bounds = tuple(float(bound) for bound in buckets)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{allowed}, got {buckets!r}") from error
    ascend = all(lower < upper for lower, upper in zip((0.0, *bounds), bounds, strict=False))
    if not bounds or not ascend or not math.isfinite(bounds[-1]):
        raise ValueError(f"{allowed}, got {bounds!r}")
    return bounds


# -- of each service -----------------------------------------------------------------------------------

OfService = Callable[[ServiceState, float], Iterable[tuple[tuple[str, ...], float]]]


def _each(of_service: OfService) -> Read:
    """Read it from every service; its name is the first label."""

    def read(measured: Measured) -> Iterator[Point]:
        for state in measured.services:
            for labels, value in of_service(state, measured.now):
                yield Point((state.name, *labels), value)

    return read


def _number(of: Callable[[ServiceState], float]) -> Read:
    return _each(lambda state, _: [((), of(state))])


def _one_of(values: Iterable[str], actual: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """One number for each value that there may be: 1 for the one that there is, and 0 for the others."""
    for value in values:
        yield (value,), float(value == actual)


def _calls(state: ServiceState, _: float) -> Iterator[tuple[tuple[str, ...], float]]:
    yield ("success",), state.successes
    yield ("failure",), state.failed_calls
    yield ("unknown",), state.unknown_calls
    yield ("rejected",), state.rejections


def _rejections(state: ServiceState, _: float) -> Iterator[tuple[tuple[str, ...], float]]:
    by_others = dict(state.refused_by)
    yield ("circuit_breaker",), max(0, state.rejections - sum(by_others.values()))
    for policy, count in by_others.items():
        yield (policy,), count


def _transitions(state: ServiceState, _: float) -> Iterator[tuple[tuple[str, ...], float]]:
    counted = dict(state.transitions)
    # Also those that have not happened: a series that begins with its first event seems not to have grown.
    for way in {**dict.fromkeys(_USUAL_WAYS, 0), **counted}:
        yield way, counted.get(way, 0)


_USUAL_WAYS: Final[tuple[tuple[CircuitState, CircuitState], ...]] = (
    ("closed", "open"),
    ("open", "half-open"),
    ("half-open", "open"),
    ("half-open", "closed"),
)


def _open_for(state: ServiceState, now: float) -> Iterator[tuple[tuple[str, ...], float]]:
    seconds = state.circuit.open_for(now)
    if math.isfinite(seconds):  # one that is forced open has no such time
        yield (), seconds


def _of_limits(of: Callable[[Any, float], float | None]) -> Read:  # Any: `Limits`, which a service may have
    def of_service(state: ServiceState, now: float) -> Iterator[tuple[tuple[str, ...], float]]:
        value = None if state.limits is None else of(state.limits, now)
        if value is not None:
            yield (), value

    return _each(of_service)


def _rates(key: str) -> Read:
    def of_service(state: ServiceState, now: float) -> Iterator[tuple[tuple[str, ...], float]]:
        for rate in [] if state.limits is None else state.limits.usage(now):
            yield (f"{rate['limit']} {rate['name']}/{rate['seconds']:g}s",), rate[key]

    return _each(of_service)


def _budget(state: ServiceState, _: float) -> Iterator[tuple[tuple[str, ...], float]]:
    budget = state.paying_budget
    if budget is not None:
        yield (), budget.left / budget.capacity


def _send_rate(state: ServiceState, _: float) -> Iterator[tuple[tuple[str, ...], float]]:
    limit = None if state.adaptive is None else state.adaptive.send_rate.limit
    if limit is not None:
        yield (), limit


def _feeds(state: ServiceState, _: float) -> Iterator[tuple[tuple[str, ...], float]]:
    streams = state.streams
    for phase in ("connecting", "live", "lost") if streams else ():
        yield (phase,), sum(stream.phase == phase for stream in streams)


def _oldest_item(state: ServiceState, now: float) -> Iterator[tuple[tuple[str, ...], float]]:
    ages = [age for stream in state.streams if (age := stream.last_item_age(now)) is not None]
    if ages:
        yield (), max(ages)


# -- of the process ------------------------------------------------------------------------------------


def _dropped(measured: Measured) -> Iterator[Point]:
    for severity in ErrorSeverity:
        yield Point((severity.value,), measured.error_log.dropped_by_severity.get(severity.value, 0))


def _state_of(part: Callable[[Measured], str], states: tuple[str, ...]) -> Read:
    return lambda measured: [Point(*one) for one in _one_of(states, part(measured))]


def _single(of: Callable[[Measured], float | None]) -> Read:
    def read(measured: Measured) -> Iterator[Point]:
        value = of(measured)
        if value is not None:
            yield Point((), value)

    return read


def _of_the_loop(of: Callable[[LoopMonitor], float]) -> Read:
    return _single(
        lambda measured: None if measured.loop_monitor is None else float(of(measured.loop_monitor))
    )


def _of_what_is_shared(of: Callable[[dict[str, Any]], float | None]) -> Read:  # Any: JSON
    return _single(
        lambda measured: (
            None if measured.shared is None or (value := of(measured.shared)) is None else float(value)
        )
    )


def _is_owner(measured: Measured) -> Iterator[Point]:
    owns = None if measured.shared is None else measured.shared["owns"]
    if owns is not None:
        yield Point((owns["name"],), float(owns["is_owner"]))


METRICS: Final = (
    Metric(
        name="shockproof.calls",
        kind="counter",
        text="Calls by how they ended; a rejected one was refused by a policy before its function ran.",
        labels=("service", "outcome"),
        read=_each(_calls),
    ),
    Metric(
        name="shockproof.failures",
        kind="counter",
        text="Attempts that failed, by the type of their error.",
        labels=("service", "error_type"),
        read=_each(lambda state, _: [((kind,), n) for kind, n in state.failures_by_type.to_dict().items()]),
    ),
    Metric(
        name="shockproof.retries",
        kind="counter",
        text="Attempts that were repeated, by the type of the error before.",
        labels=("service", "error_type"),
        read=_each(lambda state, _: [((kind,), n) for kind, n in state.retries_by_type.to_dict().items()]),
    ),
    Metric(
        name="shockproof.rejections",
        kind="counter",
        text="Calls that were refused, by the policy that did.",
        labels=("service", "policy"),
        read=_each(_rejections),
    ),
    Metric(
        name="shockproof.fallbacks",
        kind="counter",
        text="Calls that a fallback answered in place of the service.",
        labels=("service",),
        read=_number(lambda state: state.fallbacks),
    ),
    Metric(
        name="shockproof.timeouts",
        kind="counter",
        text="Attempts that a time limit ended.",
        labels=("service",),
        read=_number(lambda state: state.timeouts),
    ),
    Metric(
        name="shockproof.overdue",
        kind="counter",
        text="Calls that were in flight for longer than max_call_age.",
        labels=("service",),
        read=_number(lambda state: state.overdue),
    ),
    Metric(
        name="shockproof.hedges",
        kind="counter",
        text="Hedges that were sent.",
        labels=("service",),
        read=_number(lambda state: state.hedges),
    ),
    Metric(
        name="shockproof.health",
        kind="gauge",
        text="1 for the status that the service has, 0 for the others.",
        labels=("service", "status"),
        read=_each(
            lambda state, now: _one_of((one.value for one in ServiceStatus), state.status_at(now).value)
        ),
    ),
    Metric(
        name="shockproof.critical",
        kind="gauge",
        text="1 for a service that is marked critical, else 0.",
        labels=("service",),
        read=_number(lambda state: float(state.critical)),
    ),
    Metric(
        name="shockproof.breaker.state",
        kind="gauge",
        text="1 for the state that the circuit is in, 0 for the others.",
        labels=("service", "state"),
        read=_each(lambda state, now: _one_of(get_args(CircuitState), state.circuit.state(now))),
    ),
    Metric(
        name="shockproof.breaker.mode",
        kind="gauge",
        text="1 for the mode that the circuit is in, 0 for the others.",
        labels=("service", "mode"),
        read=_each(lambda state, _: _one_of(CIRCUIT_MODES, state.circuit.mode)),
    ),
    Metric(
        name="shockproof.breaker.transitions",
        kind="counter",
        text="Changes of the circuit's state.",
        labels=("service", "from_state", "to_state"),
        read=_each(_transitions),
    ),
    Metric(
        name="shockproof.breaker.open_for",
        kind="gauge",
        unit="s",
        text="How long the circuit still refuses calls; absent while it is forced open.",
        labels=("service",),
        read=_each(_open_for),
    ),
    Metric(
        name="shockproof.bulkhead.in_flight",
        kind="gauge",
        text="Calls that have a place in the bulkhead; absent without max_concurrent.",
        labels=("service",),
        read=_of_limits(lambda limits, _: limits.in_flight),
    ),
    Metric(
        name="shockproof.bulkhead.limit",
        kind="gauge",
        text="Places in the bulkhead; absent without max_concurrent.",
        labels=("service",),
        read=_of_limits(lambda limits, _: limits.max_concurrent),
    ),
    Metric(
        name="shockproof.queued",
        kind="gauge",
        text="Calls that wait for a place or for the rate limit; absent without limits.",
        labels=("service",),
        read=_of_limits(lambda limits, _: limits.queued),
    ),
    Metric(
        name="shockproof.rate_limit.used",
        kind="gauge",
        text="What counts in a rate now.",
        labels=("service", "rate"),
        read=_rates("used"),
    ),
    Metric(
        name="shockproof.rate_limit.limit",
        kind="gauge",
        text="The most that may count in a rate.",
        labels=("service", "rate"),
        read=_rates("limit"),
    ),
    Metric(
        name="shockproof.rate_limit.paused",
        kind="gauge",
        unit="s",
        text="How long nothing is sent because the other side said so; absent without limits.",
        labels=("service",),
        read=_of_limits(lambda limits, now: limits.paused_for(now)),
    ),
    Metric(
        name="shockproof.send_rate",
        kind="gauge",
        text="Calls a second that adaptive retries let through; absent while nothing throttles them.",
        labels=("service",),
        read=_each(_send_rate),
    ),
    Metric(
        name="shockproof.retry_budget.ratio",
        kind="gauge",
        text="What is left of the retry budget, 0 to 1, of all processes that share it; absent without one.",
        labels=("service",),
        read=_each(_budget),
    ),
    Metric(
        name="shockproof.abandoned.attempts",
        kind="gauge",
        text="Attempts that ignored their cancellation and run on.",
        labels=("service",),
        read=_number(lambda state: state.abandoned_attempts),
    ),
    Metric(
        name="shockproof.abandoned.threads",
        kind="gauge",
        text="Threads of cancelled calls that run on.",
        labels=("service",),
        read=_number(lambda state: state.abandoned_threads),
    ),
    Metric(
        name="shockproof.streams",
        kind="gauge",
        text="Feeds that somebody reads, by phase; absent without any.",
        labels=("service", "phase"),
        read=_each(_feeds),
    ),
    Metric(
        name="shockproof.stream.item_age",
        kind="gauge",
        unit="s",
        text="Time since the last item of the feed that has been silent for longest.",
        labels=("service",),
        read=_each(_oldest_item),
    ),
    Metric(
        name="shockproof.error_log.written",
        kind="counter",
        text="Error records handed to the operating system.",
        labels=(),
        read=_single(lambda measured: measured.error_log.written),
    ),
    Metric(
        name="shockproof.error_log.dropped",
        kind="counter",
        text="Error records lost because the queue was full.",
        labels=("severity",),
        read=_dropped,
    ),
    Metric(
        name="shockproof.error_log.queued",
        kind="gauge",
        text="Error records that wait for the disk.",
        labels=(),
        read=_single(lambda measured: measured.error_log.queued),
    ),
    Metric(
        name="shockproof.error_log.state",
        kind="gauge",
        text="1 for the state that the error log is in, 0 for the others.",
        labels=("state",),
        read=_state_of(lambda measured: measured.error_log.state, ("ok", "degraded", "closed")),
    ),
    Metric(
        name="shockproof.journal.pending",
        kind="gauge",
        text="Operations and orders that began and did not end.",
        labels=(),
        read=_single(lambda measured: measured.journal.pending),
    ),
    Metric(
        name="shockproof.journal.state",
        kind="gauge",
        text="1 for the state that the journal is in, 0 for the others.",
        labels=("state",),
        read=_state_of(
            lambda measured: measured.journal.state, ("closed", "open", "locked", "no space", "failed")
        ),
    ),
    Metric(
        name="shockproof.state.saved_timestamp",
        kind="gauge",
        unit="s",
        text="When the state on the disk was saved, since 1970 UTC; absent when none was saved or restored.",
        labels=(),
        read=_single(lambda measured: measured.saved_at),
    ),
    Metric(
        name="shockproof.halted",
        kind="gauge",
        text="1 while the kill switch refuses writes, else 0.",
        labels=(),
        read=_single(lambda measured: float(measured.is_halted)),
    ),
    Metric(
        name="shockproof.shared_store.up",
        kind="gauge",
        text="1 while the store that processes share answers, else 0; absent without a store, and while it is not asked.",
        labels=(),
        read=_of_what_is_shared(
            lambda shared: None if shared["state"] == "unused" else shared["state"] == "reachable"
        ),
    ),
    Metric(
        name="shockproof.is_owner",
        kind="gauge",
        text="1 while this process may write for what owns= names, else 0; absent without owns=.",
        labels=("owns",),
        read=_is_owner,
    ),
    Metric(
        name="shockproof.loop.stalls",
        kind="counter",
        text="Times that the event loop stood still; absent without a loop_monitor.",
        labels=(),
        read=_of_the_loop(lambda monitor: monitor.stalls),
    ),
    Metric(
        name="shockproof.loop.degraded",
        kind="gauge",
        text="1 while the event loop is, or lately was, too late, else 0; absent without a loop_monitor.",
        labels=(),
        read=_of_the_loop(lambda monitor: monitor.is_degraded),
    ),
)
"""Everything but histograms, which each library makes in its own way."""

"""
The options of a handle: their names, their defaults, and the check of each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypedDict

from shockproof.calls.callables import is_async, name_of
from shockproof.memory.services.registry import SERVICE_OPTIONS, check_together
from shockproof.policies.backoff import JITTERS, BackoffOption, Jitter, parse_backoff
from shockproof.policies.classification import Classify, ResultCheck
from shockproof.policies.hedge import parse_hedge_after
from shockproof.policies.priority import PRIORITIES, Priority
from shockproof.policies.rate_limit import RollingWindows, Weight, parse_rates
from shockproof.policies.retry import RetryOn
from shockproof.policies.retry_budget import RetryBudget
from shockproof.vocabulary.arguments import Seconds, at_least, one_of, out_of, seconds, takes, whole_number
from shockproof.vocabulary.outcomes import CallEffect
from shockproof.vocabulary.statuses import CIRCUIT_MODES, CircuitMode

if TYPE_CHECKING:
    from shockproof.policies.adaptive_concurrency import AdaptiveConcurrency

__all__ = [
    "HANDLE_OPTIONS",
    "HandleOptions",
    "LimitOptions",
    "ServiceOptions",
    "calling_frame",
    "calling_place",
    "check_options",
    "outside_level",
]


class HandleOptions(TypedDict, total=False):
    """What may differ between two functions on one service. Seconds are floats or timedeltas."""

    max_retries: int | None
    """Retries after the first call. Default and None: the service's (3)."""
    base_delay: Seconds
    """Seconds before the first retry. Default: the service's (1.0)."""
    max_delay: Seconds
    """The longest wait. Default: the service's (60.0)."""
    backoff_factor: float
    """What each wait is multiplied by, at least 1. Default: the service's (2.0)."""
    backoff: BackoffOption
    """
    How waits grow: ``"exponential"`` (default), ``"linear"``, ``"constant"``, a sequence of seconds whose
    last is for all that follow, or a function ``(retry, error) -> seconds``; `max_delay` and `jitter` apply.
    """
    jitter: Jitter
    """``"none"`` (default), ``"full"`` (recommended), ``"equal"`` or ``"decorrelated"``."""
    retry_on: RetryOn
    """Which errors are repeated: types or a predicate. Default: every ``Exception``."""
    adaptive: bool
    """
    Whether retries follow the kind of error, and throttling answers slow the sending of the service down.
    Default: False.
    """
    retry_if_result: ResultCheck | None
    """A result for which this is true counts as a failure. Default: none does."""
    timeout: Seconds | None
    """Seconds one attempt may take. Default: no limit."""
    deadline: Seconds | None
    """Seconds all attempts and waits may take together. Default: no limit."""
    grace: Seconds | None
    """
    Seconds a callee may take to end once it is cancelled; the attempt then has a task of its own, and
    one that ignores its cancellation is left behind. Default: it runs in the caller's task, and holds it.
    """
    hedge_after: Seconds | str | None
    """
    Seconds without an answer, or ``"p95"`` of the handle's own latencies, after which the call is made a
    second time; the first answer wins. It replaces the retry unless `max_retries` is given. Default: never.
    """
    max_hedges: int
    """How many such calls there may be beside the first, at least 1. Default: 1."""
    effect: CallEffect
    """``"read"`` (default), ``"idempotent"``, or ``"unsafe"``: never repeated blindly."""
    risk_reducing: bool
    """Cancels and closes: they pass an open circuit, and go first in every queue. Default: False."""
    priority: Priority
    """
    ``"high"``, ``"normal"`` (default) or ``"low"``: whose turn comes first where calls of the service wait.
    """
    classify: Classify | None
    """``(error_or_result, call) -> Verdict | None``; None leaves it to the rules."""
    weight: Weight
    """
    What one call counts in the rate limit: a number of at least 1 for rates of weight, and 1 for rates of
    anything else; or how much of what, ``{"orders": 1, "weight": 4}``. Default: 1.
    """
    fallback: Any  # Any: a callable, a value, or a list of those
    """
    What answers when the call failed for good: a function, a value, an `OnError`, a `LastGood`, or a list
    that makes a chain.
    """


class LimitOptions(TypedDict, total=False):
    """The limits of a service: one value for its name, which may be changed while it runs."""

    max_concurrent: int | AdaptiveConcurrency | None
    """
    Most calls in flight at once, at least 1; or an `AdaptiveConcurrency`, which finds out how many.
    Default: any number.
    """
    max_queue: int
    """Most calls that wait for a place among them, at least 0; risk-reducing ones not counted. Default: 0."""
    max_wait: Seconds | None
    """Seconds a call may wait for a place and for the rate limit together. Default: no limit."""
    rate_limit: str | tuple[str, ...] | None
    """
    ``"10/s"``, or several at once: ``("10 orders/s", "1200 weight/min")``; exact in any stretch. Default: none.
    """


class ServiceOptions(HandleOptions, LimitOptions, total=False):
    """The handle's options and those that belong to the service: one value for its name."""

    circuit_threshold: int | None
    """Failed attempts in a row that open the circuit; None: never. Default: the service's (5)."""
    circuit_timeout: Seconds
    """Seconds it stays open. Default: the service's (60.0)."""
    circuit_timeout_factor: float
    """What that is multiplied by each time it opens again without having recovered, at least 1. Default: 1.0."""
    max_circuit_timeout: Seconds
    """The longest it then stays open, at least circuit_timeout. Default: 600.0."""
    circuit_jitter: float
    """Share of the open time (0 up to 1) by which it is shortened at random, at most. Default: 0.0."""
    circuit_mode: CircuitMode
    """``"normal"`` (default), ``"forced-open"``, ``"disabled"`` or ``"shadow"``: it watches, and refuses nobody."""
    failure_rate: float | None
    """Share of failed calls (more than 0, up to 1) that opens it too. Default: only failures in a row do."""
    window: Seconds
    """Seconds over which the rates are taken. Default: 10.0; with window_calls: no limit."""
    window_calls: int | None
    """How many of the last calls the rates are taken over, at least min_calls. Default: a time decides."""
    min_calls: int
    """Calls in the window below which no rate counts, at least 1. Default: 10."""
    slow_call_after: Seconds | None
    """Seconds after which a call counts as slow. Default: none does."""
    slow_call_rate: float | None
    """Share of slow calls (more than 0, up to 1) that opens it too. Default: none does."""
    half_open_probes: int
    """Most probes in flight, and the successes that close it. Default: 1."""
    probe_lease: Seconds | None
    """Seconds after which a silent probe loses its place. Default: a little more than the timeout, else circuit_timeout."""
    max_call_age: Seconds | None
    """Seconds in flight after which a call counts as a failure before it ends. Default: it has to end first."""
    retry_budget: RetryBudget | None
    """What pays for retries; one object may serve several services. Default: none is needed."""
    shared: bool
    """Whether all processes with the same ``store`` know what one of them finds out about it. Default: False."""
    circuit_quorum: int
    """How many of them have to open its circuit for themselves to open it for all, at least 1. Default: 2."""
    critical: bool
    """Its errors are recorded as CRITICAL. Default: False."""
    health_check: Callable[[], Awaitable[object]] | Callable[[], object] | None
    """Called every `check_every` seconds; an exception or False is a failure. Default: none."""
    check_every: Seconds
    """Seconds between two health checks. Default: 30.0."""


def _choice(*allowed: str) -> Callable[[str, object], object]:
    return lambda name, value: one_of(name, value, allowed)


def _optional(check: Callable[[str, object], object]) -> Callable[[str, object], object]:
    return lambda name, value: None if value is None else check(name, value)


def _positive(name: str, value: object) -> float:
    return seconds(name, value, more_than=0)


def _share(name: str, value: object) -> float:
    share = at_least(name, value, 0)
    if not 0 < share <= 1:
        raise ValueError(f"{name} must be a share, more than 0 and up to 1, got {value!r}")
    return share


def _jitter_share(name: str, value: object) -> float:
    share = at_least(name, value, 0)
    if share > 1:
        raise ValueError(f"{name} must be a share, at least 0 and up to 1, got {value!r}")
    return share


def _window_calls(name: str, value: object) -> int:
    calls = whole_number(name, value, minimum=1)
    if calls > _LARGEST_WINDOW:
        raise ValueError(
            f"{name} must be a whole number of at most {_LARGEST_WINDOW}, for each call takes memory, "
            f"got {value!r}; count over a time with window= instead"
        )
    return calls


_LARGEST_WINDOW: Final = 1_000_000


def _fallback(name: str, value: object) -> object:
    if isinstance(value, list | tuple) and not value:
        raise ValueError(
            f"{name}={value!r} is a chain of nothing; to answer with an empty one write {name}=[{value!r}], and "
            f"{name}=None for no fallback"
        )
    return value


def _budget(name: str, value: object) -> RetryBudget:
    if not isinstance(value, RetryBudget):
        raise TypeError(f"{name} must be a RetryBudget such as RetryBudget(capacity=10.0), got {value!r}")
    return value


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _max_concurrent(name: str, value: object) -> int | AdaptiveConcurrency:
    if isinstance(value, int):
        return whole_number(name, value, minimum=1)
    from shockproof.policies.adaptive_concurrency import AdaptiveConcurrency

    return value if isinstance(value, AdaptiveConcurrency) else whole_number(name, value, minimum=1)


def _weight(name: str, value: object) -> Weight:
    if not isinstance(value, Mapping):
        return whole_number(name, value, minimum=1)
    counts = {str(what): whole_number(f"{name}[{what!r}]", count, minimum=0) for what, count in value.items()}
    if not any(counts.values()):
        raise ValueError(f"{name}={value!r} counts nothing: say how much of what one call is")
    return counts


def _function(name: str, value: object) -> object:
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return value


def _predicate(name: str, value: object, *parameters: str) -> object:
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    if is_async(value):  # a coroutine object is true, whatever would have come of it
        raise TypeError(
            f"{name} is asked on the loop and answers at once: it must be a plain function, "
            f"got the coroutine function {name_of(value)}"
        )
    takes(name, value, *parameters)
    return value


def _retry_on(name: str, value: object) -> object:
    kinds = value if isinstance(value, tuple) else (value,)
    if all(isinstance(kind, type) for kind in kinds):
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise TypeError(
                    f"{name} must name Exception types, got {kind!r}; cancellation and exits are never retried"
                )
        if not kinds:
            raise ValueError(f"{name} is empty, so nothing would be retried: say max_retries=0 instead")
        return value
    if callable(value):
        return _predicate(name, value, "error")
    raise TypeError(
        f"{name} must be an exception type, a tuple of them, or a predicate (error) -> bool, got {value!r}"
    )


_CHECKS: Final[Mapping[str, Callable[[str, object], object]]] = {
    "max_retries": _optional(lambda name, value: whole_number(name, value, minimum=0)),
    "base_delay": seconds,
    "max_delay": seconds,
    "backoff_factor": lambda name, value: at_least(name, value, 1),
    "backoff": parse_backoff,
    "jitter": _choice(*JITTERS),
    "retry_on": _retry_on,
    "adaptive": _boolean,
    "retry_if_result": _optional(lambda name, value: _predicate(name, value, "result")),
    "timeout": _optional(_positive),
    "deadline": _optional(_positive),
    "grace": _optional(seconds),
    "hedge_after": _optional(parse_hedge_after),
    "max_hedges": lambda name, value: whole_number(name, value, minimum=1),
    "effect": _choice("read", "idempotent", "unsafe"),
    "risk_reducing": _boolean,
    "classify": _optional(lambda name, value: _predicate(name, value, "error_or_result", "call")),
    "priority": _choice(*PRIORITIES),
    "weight": _weight,
    "fallback": _fallback,
    "circuit_threshold": _optional(lambda name, value: whole_number(name, value, minimum=1)),
    "circuit_timeout": _positive,
    "circuit_timeout_factor": lambda name, value: at_least(name, value, 1),
    "max_circuit_timeout": _positive,
    "circuit_jitter": _jitter_share,
    "circuit_mode": _choice(*CIRCUIT_MODES),
    "failure_rate": _optional(_share),
    "window": _positive,
    "window_calls": _optional(_window_calls),
    "min_calls": lambda name, value: whole_number(name, value, minimum=1),
    "slow_call_after": _optional(_positive),
    "slow_call_rate": _optional(_share),
    "half_open_probes": lambda name, value: whole_number(name, value, minimum=1),
    "probe_lease": _optional(_positive),
    "max_call_age": _optional(_positive),
    "max_concurrent": _optional(_max_concurrent),
    "max_queue": lambda name, value: whole_number(name, value, minimum=0),
    "max_wait": _optional(seconds),
    "rate_limit": _optional(parse_rates),
    "retry_budget": _optional(_budget),
    "shared": _boolean,
    "circuit_quorum": lambda name, value: whole_number(name, value, minimum=1),
    "critical": _boolean,
    "health_check": _optional(_function),
    "check_every": _positive,
}

HANDLE_OPTIONS: Final = tuple(HandleOptions.__annotations__)


def check_options(
    options: Mapping[str, Any],  # Any: each has a type of its own
    *,
    handle_only: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The handle's part and the service's part of *options*, each value checked and durations as floats.

    Raises:
        TypeError: an unknown name, or a value of the wrong type.
        ValueError: a value out of range.
    """
    checked: dict[str, Any] = {}  # Any: each has a type of its own
    if not options:
        return checked, {}
    for name, value in options.items():
        if name not in _CHECKS:
            raise TypeError(
                f"unknown option {name!r}; {out_of(name, HANDLE_OPTIONS if handle_only else _CHECKS)}"
            )
        if handle_only and name in SERVICE_OPTIONS:
            raise TypeError(f"{name} belongs to the service: give it to recovery.service(...), not here")
        checked[name] = _CHECKS[name](name, value)
    if checked.get("slow_call_rate") is not None and checked.get("slow_call_after") is None:
        raise ValueError(
            f"slow_call_rate={checked['slow_call_rate']:g} needs slow_call_after: the seconds after which "
            "a call counts as slow"
        )
    check_together(checked)
    if checked.get("rate_limit") is not None:
        RollingWindows(checked["rate_limit"]).check(checked.get("weight", 1))
    handle = {name: value for name, value in checked.items() if name not in SERVICE_OPTIONS}
    service = {name: value for name, value in checked.items() if name in SERVICE_OPTIONS}
    return handle, service


_OWN_FILES = str(Path(__file__).parents[1]) + os.sep


def calling_frame() -> FrameType:
    """The nearest frame outside shockproof."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN_FILES):
        frame = frame.f_back
    return frame


def calling_place() -> str:
    """The nearest line outside shockproof, as file:line, to name it in a message."""
    frame = calling_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def outside_level() -> int:
    """The ``stacklevel`` with which the caller's warning names the nearest line outside shockproof."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN_FILES):
        frame, level = frame.f_back, level + 1
    return level

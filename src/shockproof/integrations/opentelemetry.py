"""
OpenTelemetry: spans of calls and attempts, with events, and metrics. Only its API is needed.

```python
from shockproof import ErrorRecoveryService
from shockproof.integrations.opentelemetry import export_metrics, trace_calls

recovery = ErrorRecoveryService()
stop_tracing = trace_calls(recovery)
stop_exporting = export_metrics(recovery)
```
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from enum import Enum
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from shockproof.calls.history_of_attempts import describe
from shockproof.integrations.measurements import BUCKETS, METRICS, Measured, Metric, check_buckets
from shockproof.integrations.optional import missing
from shockproof.vocabulary.errors import CallRejectedError
from shockproof.vocabulary.events import AttemptFailed, Event
from shockproof.vocabulary.outcomes import Outcome

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, Status, StatusCode, TracerProvider
except ImportError as error:
    raise missing("opentelemetry-api", "opentelemetry", error) from error

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from shockproof.service import ErrorRecoveryService

__all__ = ["export_metrics", "trace_calls"]

P = ParamSpec("P")
R = TypeVar("R")
Value = str | bool | int | float

_SCOPE: Final = "shockproof"
_log = logging.getLogger("shockproof")


def trace_calls(
    recovery: ErrorRecoveryService, *, tracer_provider: TracerProvider | None = None
) -> Callable[[], None]:
    """
    Make a span of each call of *recovery* from now on, with a child for each attempt.

    The span that is current where the call is made is its parent; during an attempt the attempt's own is
    current, so that what a client's instrumentation makes is below it. Events of the call, such as a
    refusal, a retry or a circuit that opens, are events of the span that is current there. Messages of
    errors are without secrets, as in the error log; arguments and stack traces are not in a span.

    While calls are traced, each takes the long way, through the executor. Feeds have events and no spans;
    policies that stand alone have neither. Calls that are in flight when it is switched on have none.

    Args:
        recovery: whose calls.
        tracer_provider: where the spans go. Default: the global one, as it is now.

    Returns:
        A function that stops it. Spans of calls in flight end with their calls.

    Raises:
        ValueError: its calls are traced already.
    """
    tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
    stop = recovery._registry.trace_calls(_Tracer(tracer, recovery._redactor.text))
    leave = recovery._listeners.add(_SpanEvents())

    def stop_both() -> None:
        stop()
        leave()

    return stop_both


def export_metrics(
    recovery: ErrorRecoveryService,
    *,
    meter_provider: MeterProvider | None = None,
    durations: bool = False,
    buckets: Iterable[float] = BUCKETS,
    loop_lag: bool = False,
) -> Callable[[], None]:
    """
    Let a meter observe what *recovery* counts: calls know nothing of it.

    Names and meanings are those for Prometheus, with dots: ``shockproof.breaker.state``.

    Args:
        recovery: whose numbers.
        meter_provider: who observes. Default: the global one, as it is now.
        durations: also record how long each call takes, ``shockproof.call.duration``. Then each success
            costs a little more. Default: False.
        buckets: the upper bounds of that histogram in seconds, ascending; a view of the SDK may say
            otherwise. Default: 14, from 0.001 to 30.
        loop_lag: also record how late the event loop is, ``shockproof.loop.lag``: something small happens
            there four times a second, from the first call on; where the service has a ``loop_monitor``, what that
            measures. Default: False.

    Returns:
        A function that stops it: nothing is observed any more.

    Raises:
        TypeError, ValueError: buckets that are none.
    """
    bounds = check_buckets(buckets)
    meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
    undo: list[Callable[[], None]] = []
    watched: list[ErrorRecoveryService] = [recovery]
    for metric in METRICS:
        _observe(meter, metric, watched)
    if durations:
        undo.append(_record_durations(recovery, meter, bounds))
    if loop_lag:
        undo.append(_record_lag(recovery, meter))

    def stop() -> None:
        watched.clear()  # the API knows no way to take an instrument back
        while undo:
            undo.pop()()

    return stop


# -- metrics -------------------------------------------------------------------------------------------


def _observe(meter: Meter, metric: Metric, watched: list[ErrorRecoveryService]) -> None:
    names = [_attribute(label) for label in metric.labels]

    def observe(options: CallbackOptions) -> Iterator[Observation]:
        for recovery in watched:
            for point in metric.read(Measured(recovery)):
                yield Observation(point.value, dict(zip(names, point.labels, strict=True)))

    create = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
    create(metric.name, [observe], unit=metric.unit, description=metric.text)


def _record_durations(
    recovery: ErrorRecoveryService, meter: Meter, bounds: tuple[float, ...]
) -> Callable[[], None]:
    histogram = meter.create_histogram(
        "shockproof.call.duration",
        unit="s",
        description="How long calls took from their beginning, with the waits between attempts.",
        explicit_bucket_boundaries_advisory=bounds,
    )

    @_harmless
    def record(service_name: str, outcome: Outcome, seconds: float) -> None:
        histogram.record(seconds, {"shockproof.service": service_name, "shockproof.outcome": outcome.value})

    return recovery._registry.time_calls(record)


def _record_lag(recovery: ErrorRecoveryService, meter: Meter) -> Callable[[], None]:
    histogram = meter.create_histogram(
        "shockproof.loop.lag", unit="s", description="How late the event loop came to what was due."
    )

    @_harmless
    def record(seconds: float) -> None:
        histogram.record(seconds)

    _, stop = recovery._watch_loop(record)
    return stop


# -- traces --------------------------------------------------------------------------------------------


def _harmless(method: Callable[P, R]) -> Callable[P, R | None]:
    """*method*, whose failure is logged: a processor of spans that fails is no business of the call's."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return method(*args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever an exporter's code raises
            _log.exception("telemetry failed; the call it was about is not affected")
            return None

    return call


class _Tracer:
    def __init__(self, tracer: trace.Tracer, redact: Callable[[str], str]) -> None:
        self._tracer = tracer
        self._redact = redact

    @_harmless
    def call(self, service_name: str, function_name: str) -> _CallSpan:
        return _CallSpan(self._tracer, self._redact, service_name, function_name)


class _Current:
    """A span, and what was current before it."""

    def __init__(self, span: Span, around: Context | None = None) -> None:
        self.span = span
        self._context = trace.set_span_in_context(span, around)
        self._before: Context | None = None

    def enter(self) -> None:
        self._before = context.get_current()
        context.attach(self._context)

    def leave(self) -> None:
        # Not `detach`: a block may be left in another task than it was entered in, which the token's context
        # forbids. There the span is not current, or only because that task was started inside the block.
        before, self._before = self._before, None
        if before is not None and trace.get_current_span() is self.span:
            context.attach(before)


class _CallSpan:
    def __init__(
        self, tracer: trace.Tracer, redact: Callable[[str], str], service_name: str, function_name: str
    ) -> None:
        self._tracer = tracer
        self._redact = redact
        self._name = f"{service_name} {function_name}"
        self._attributes: dict[str, Value] = {
            "shockproof.service": service_name,
            "code.function.name": function_name,
        }
        span = tracer.start_span(self._name, attributes=self._attributes)
        self._current = _Current(span)
        self._outcome: str | None = None
        self._is_over = False

    @_harmless
    def enter(self) -> None:
        self._current.enter()

    @_harmless
    def leave(self) -> None:
        self._current.leave()

    @_harmless
    def attempt(self, number: int, *, is_hedge: bool) -> _AttemptSpan:
        attributes = {**self._attributes, "shockproof.attempt": number, "shockproof.hedge": is_hedge}
        around = trace.set_span_in_context(self._current.span)
        span = self._tracer.start_span(f"{self._name} attempt", around, attributes=attributes)
        return _AttemptSpan(span, self._redact)

    def judged(self, outcome: Outcome) -> None:
        self._outcome = outcome.value

    @_harmless
    def raises(self, error: BaseException) -> None:
        if isinstance(error, CallRejectedError):
            self._current.span.set_attribute("shockproof.policy", error.policy)
            self._outcome = self._outcome or "rejected"
        elif isinstance(error, asyncio.CancelledError):
            self._outcome = "cancelled"
        _tell_error(self._current.span, error, self._redact)

    @_harmless
    def ended(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._outcome is not None:
            self._current.span.set_attribute("shockproof.outcome", self._outcome)
        self._current.span.end()

    def __del__(self) -> None:
        # A loop over attempts() that is left between two of them tells nobody.
        if not getattr(self, "_is_over", True):
            self.ended()


class _AttemptSpan:
    def __init__(self, span: Span, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._current = _Current(span, context.get_current())
        self._current.enter()

    @_harmless
    def ended(self, error: BaseException | None) -> None:
        self._current.leave()
        if error is not None:
            _tell_error(self._current.span, error, self._redact)
        self._current.span.end()


def _tell_error(span: Span, error: BaseException, redact: Callable[[str], str]) -> None:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):  # the caller's wish, and no error
        return
    kind, message = describe(error)
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, redact(message)))


class _SpanEvents:
    """Events of the recovery service, as events of the span that is current where they happen."""

    dropped = 0

    @_harmless
    def tell(self, event: Event) -> None:
        span = trace.get_current_span()
        # A failed attempt has a span of its own.
        if not isinstance(event, AttemptFailed) and span.is_recording():
            span.add_event(_name_of(type(event).__name__), dict(_attributes_of(event)))

    def is_busy(self) -> bool:
        return False


@functools.cache
def _name_of(kind: str) -> str:
    return "shockproof." + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()


def _attributes_of(event: Event) -> Iterator[tuple[str, Value]]:
    for field in fields(event):
        value = getattr(event, field.name)
        if value is None or field.name == "at":
            continue
        if isinstance(value, Enum):
            value = value.value
        if not (isinstance(value, float) and not math.isfinite(value)):
            yield (
                _attribute(field.name.removesuffix("_name") if field.name == "service_name" else field.name),
                value,
            )


def _attribute(name: str) -> str:
    return {"error_type": "error.type", "function_name": "code.function.name"}.get(name, f"shockproof.{name}")

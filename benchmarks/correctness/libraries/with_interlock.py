from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tenacity
from interlock import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    Config,
    Pipeline,
    WindowType,
)
from interlock.integrations.tenacity import retry_unless_open

from correctness.library import Call, Circuit, Fallback, Library


class Ignoring:
    """A FailureClassifier, as the documentation shows one."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def is_failure(self, *, result: object, exception: Exception | None) -> bool:
        return exception is not None and not isinstance(exception, self.kind)


class FastClock:
    """Its windows are whole seconds; nobody wants to wait for those."""

    def __init__(self, times: float) -> None:
        self.times = times

    def monotonic(self) -> float:
        return time.monotonic() * self.times


class Adapter(Library):
    distribution = "interlock-cb"
    names_what_counts = True
    counts_in_a_row = False
    circuit_open = (CircuitOpenError,)
    bulkhead_full = (BulkheadFullError,)
    timed_out = (CallTimeoutError,)

    def retry(self, function: Call, *, attempts: int, delay: float = 0.0, on: Any = Exception) -> Call:
        kinds = on if isinstance(on, tuple) else (on,)
        return (
            Pipeline.builder()
            .retry(attempts=attempts, retry=retry_unless_open(*kinds), wait=tenacity.wait_fixed(delay))
            .build()(function)
        )

    def retry_growing(self, function: Call, *, attempts: int, base: float, cap: float, jitter: bool) -> Call:
        wait = (
            tenacity.wait_random_exponential(multiplier=base, max=cap)
            if jitter
            else tenacity.wait_exponential(multiplier=base, max=cap)
        )
        return Pipeline.builder().retry(attempts=attempts, wait=wait).build()(function)

    def retry_result(self, function: Call, unwanted: Callable[[Any], bool], *, attempts: int) -> Call:
        rule = tenacity.retry_if_result(unwanted)
        return (
            Pipeline.builder()
            .retry(attempts=attempts, retry=rule, wait=tenacity.wait_none())
            .build()(function)
        )

    def retry_after(self, function: Call, *, attempts: int, deadline: float | None = None) -> Call:
        if deadline is not None:
            self.no("a limit on all attempts together")
        wait = tenacity.wait_exception(lambda error: error.retry_after)
        return Pipeline.builder().retry(attempts=attempts, wait=wait).build()(function)

    def retry_by_kind(self, function: Call, delays: dict[type[Exception], float], *, attempts: int) -> Call:
        wait = tenacity.wait_exception(lambda error: delays[type(error)])
        return Pipeline.builder().retry(attempts=attempts, wait=wait).build()(function)

    def _circuit(self, function: Call, name: str = "scoreboard", **options: Any) -> Circuit:
        classifier = options.pop("classifier", None)
        listener = options.pop("listener", None)
        policy = CircuitBreaker(name=name, config=Config(**options), classifier=classifier, listener=listener)
        return Circuit(
            policy(function),
            reset=policy.reset,
            hold_open=policy.force_open,
            time_left=lambda error: error.retry_after,
        )

    def breaker(
        self,
        function: Call,
        *,
        failures: int = 3,
        open_for: float = 0.03,
        successes: int = 1,
        ignore: type[Exception] | None = None,
    ) -> Circuit:
        return self._circuit(
            function,
            failure_rate_threshold=0.5,
            minimum_number_of_calls=failures,
            permitted_calls_in_half_open=successes,
            wait_duration_in_open=open_for,
            classifier=None if ignore is None else Ignoring(ignore),
        )

    def rate_breaker(self, function: Call, *, calls: int, window: float) -> Circuit:
        config = Config(
            failure_rate_threshold=0.5,
            minimum_number_of_calls=calls,
            window_type=WindowType.TIME_BASED,
            window_size=10,
        )
        policy = CircuitBreaker(name="window", config=config, clock=FastClock(10 / window))
        return Circuit(policy(function))

    def count_breaker(self, function: Call, *, calls: int) -> Circuit:
        return self._circuit(
            function,
            failure_rate_threshold=0.5,
            minimum_number_of_calls=calls,
            window_type=WindowType.COUNT_BASED,
            window_size=calls,
        )

    def growing_breaker(self, function: Call, *, open_for: float, factor: float) -> Circuit:
        return self._circuit(
            function,
            failure_rate_threshold=0.5,
            minimum_number_of_calls=3,
            permitted_calls_in_half_open=1,
            wait_duration_in_open=open_for,
            wait_duration_backoff_multiplier=factor,
        )

    def slow_breaker(self, function: Call, *, slow_after: float, calls: int) -> Circuit:
        return self._circuit(
            function,
            minimum_number_of_calls=calls,
            slow_call_duration_threshold=slow_after,
            slow_call_rate_threshold=0.5,
        )

    def heard_breaker(self, function: Call, listener: Callable[..., Any], *, failures: int) -> Circuit:
        class Heard:  # "a listener may implement just the ones it needs"
            def on_state_change(self, **told: Any) -> Any:
                return listener(told)

        return self._circuit(function, minimum_number_of_calls=failures, listener=Heard())

    def shadow_breaker(self, function: Call, *, failures: int) -> Circuit:
        policy = CircuitBreaker(name="shadow", config=Config(minimum_number_of_calls=failures))
        policy.metrics_only()
        return Circuit(policy(function))

    def timeout(self, function: Call, seconds: float) -> Call:
        return Pipeline.builder().timeout(seconds).build()(function)

    def fallback(self, function: Call, handler: Fallback) -> Call:
        return Pipeline.builder().fallback(lambda error: handler()).build()(function)

    def fallback_for(self, function: Call, kind: type[Exception], handler: Fallback) -> Call:
        return Pipeline.builder().fallback(lambda error: handler(), on=(kind,)).build()(function)

    def async_fallback(self, function: Call, handler: Any) -> Call:
        self.no("fallbacks that are coroutine functions")

    def bulkhead(self, function: Call, *, limit: int) -> Call:
        return Pipeline.builder().bulkhead(limit).build()(function)

    def queueing_bulkhead(self, function: Call, *, limit: int) -> Call:
        return Pipeline.builder().bulkhead(limit, max_wait=60.0).build()(function)

    def waiting_bulkhead(self, function: Call, *, limit: int, max_wait: float) -> Call:
        return Pipeline.builder().bulkhead(limit, max_wait=max_wait).build()(function)

    def stack(
        self,
        function: Call,
        *,
        fallback: Fallback | None = None,
        attempts: int | None = None,
        failures: int | None = None,
        open_for: float = 10.0,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> Call:
        builder = Pipeline.builder()  # README: "the recommended order for the full stack"
        if fallback is not None:
            builder.fallback(lambda error: fallback())
        if attempts is not None:
            builder.retry(attempts=attempts, wait=tenacity.wait_none())
        if failures is not None:
            config = Config(minimum_number_of_calls=failures, wait_duration_in_open=open_for)
            builder.circuit_breaker(CircuitBreaker(name="stack", config=config))
        if limit is not None:
            builder.bulkhead(limit)
        if timeout is not None:
            builder.timeout(timeout)
        return builder.build()(function)

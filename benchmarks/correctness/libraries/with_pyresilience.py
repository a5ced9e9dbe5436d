from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyresilience import (
    BulkheadConfig,
    BulkheadFullError,
    CircuitBreakerConfig,
    CircuitOpenError,
    FallbackConfig,
    RateLimiterConfig,
    RateLimitExceededError,
    ResilienceConfig,
    ResilienceRegistry,
    ResilienceTimeoutError,
    RetryBudgetConfig,
    RetryConfig,
    TimeoutConfig,
    resilient,
)

from correctness.library import Call, Circuit, Fallback, Library


class Adapter(Library):
    distribution = "pyresilience"
    token_bucket = True
    circuit_open = (CircuitOpenError,)
    bulkhead_full = (BulkheadFullError,)
    rate_limited = (RateLimitExceededError,)
    timed_out = (ResilienceTimeoutError,)

    def retry(self, function: Call, *, attempts: int, delay: float = 0.0, on: Any = Exception) -> Call:
        kinds = on if isinstance(on, tuple) else (on,)
        config = RetryConfig(
            max_attempts=attempts, delay=delay, backoff_factor=1.0, jitter=False, retry_on=kinds
        )
        return resilient(retry=config)(function)

    def retry_everything_but(self, function: Call, kind: type[Exception], *, attempts: int) -> Call:
        return resilient(retry=RetryConfig(max_attempts=attempts, delay=0.0, ignore_on=(kind,)))(function)

    def retry_growing(self, function: Call, *, attempts: int, base: float, cap: float, jitter: bool) -> Call:
        config = RetryConfig(max_attempts=attempts, delay=base, max_delay=cap, jitter=jitter)
        return resilient(retry=config)(function)

    def retry_result(self, function: Call, unwanted: Callable[[Any], bool], *, attempts: int) -> Call:
        config = RetryConfig(max_attempts=attempts, delay=0.0, retry_on_result=unwanted)
        return resilient(retry=config)(function)

    def retry_within(self, function: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        return resilient(
            retry=RetryConfig(max_attempts=attempts, delay=delay, backoff_factor=1.0, jitter=False),
            timeout=TimeoutConfig(seconds=deadline, per_attempt=False),
        )(function)

    def retry_cut_at(self, function: Call, *, attempts: int, deadline: float) -> Call:
        return self.retry_within(function, attempts=attempts, delay=0.0, deadline=deadline)

    def retry_after(self, function: Call, *, attempts: int, deadline: float | None = None) -> Call:
        return resilient(
            retry=RetryConfig(
                max_attempts=attempts,
                delay=0.0,
                delay_func=lambda attempt, trigger: getattr(trigger, "retry_after", None),
            ),
            timeout=None if deadline is None else TimeoutConfig(seconds=deadline, per_attempt=False),
        )(function)

    def retry_budget(self, *, attempts: int, retries: int) -> Callable[[Call], Call]:
        # The README's RetryConfig(retry_budget=...) is refused by this version; a registry entry shares one.
        registry = ResilienceRegistry()
        config = ResilienceConfig(
            retry=RetryConfig(max_attempts=attempts, delay=0.0),
            retry_budget=RetryBudgetConfig(max_retries=retries, refill_rate=0.1),
        )
        registry.register("dependency", config)
        return registry.decorator("dependency")

    def retry_by_kind(self, function: Call, delays: dict[type[Exception], float], *, attempts: int) -> Call:
        config = RetryConfig(
            max_attempts=attempts, delay=0.0, delay_func=lambda attempt, trigger: delays[type(trigger)]
        )
        return resilient(retry=config)(function)

    def breaker(
        self,
        function: Call,
        *,
        failures: int = 3,
        open_for: float = 0.03,
        successes: int = 1,
        ignore: type[Exception] | None = None,
    ) -> Circuit:
        config = CircuitBreakerConfig(
            failure_threshold=failures,
            recovery_timeout=open_for,
            success_threshold=successes,
            ignore_on=() if ignore is None else (ignore,),
        )
        return Circuit(resilient(circuit_breaker=config)(function))

    def count_breaker(self, function: Call, *, calls: int) -> Circuit:
        config = CircuitBreakerConfig(
            sliding_window_size=calls, minimum_calls=calls, failure_rate_threshold=0.5
        )
        return Circuit(resilient(circuit_breaker=config)(function))

    def slow_breaker(self, function: Call, *, slow_after: float, calls: int) -> Circuit:
        config = CircuitBreakerConfig(
            sliding_window_size=calls, slow_call_duration=slow_after, slow_call_rate_threshold=0.5
        )
        return Circuit(resilient(circuit_breaker=config)(function))

    def heard_breaker(self, function: Call, listener: Callable[..., Any], *, failures: int) -> Circuit:
        config = CircuitBreakerConfig(failure_threshold=failures)
        return Circuit(resilient(circuit_breaker=config, listeners=[listener])(function))

    def timeout(self, function: Call, seconds: float) -> Call:
        return resilient(timeout=TimeoutConfig(seconds=seconds))(function)

    def fallback(self, function: Call, handler: Fallback) -> Call:
        return resilient(fallback=FallbackConfig(handler=lambda error: handler()))(function)

    def fallback_for(self, function: Call, kind: type[Exception], handler: Fallback) -> Call:
        config = FallbackConfig(handler=lambda error: handler(), fallback_on=(kind,))
        return resilient(fallback=config)(function)

    def async_fallback(self, function: Call, handler: Callable[[], Any]) -> Call:
        async def stand_in(error: BaseException) -> Any:
            return await handler()

        return resilient(fallback=FallbackConfig(handler=stand_in))(function)

    def bulkhead(self, function: Call, *, limit: int) -> Call:
        return resilient(bulkhead=BulkheadConfig(max_concurrent=limit))(function)

    def queueing_bulkhead(self, function: Call, *, limit: int) -> Call:
        return self.waiting_bulkhead(function, limit=limit, max_wait=60.0)

    def waiting_bulkhead(self, function: Call, *, limit: int, max_wait: float) -> Call:
        return resilient(bulkhead=BulkheadConfig(max_concurrent=limit, max_wait=max_wait))(function)

    def rate_limit(self, function: Call, *, calls: int, per: float) -> Call:
        return resilient(rate_limiter=RateLimiterConfig(max_calls=calls, period=per))(function)

    def waiting_rate_limit(self, function: Call, *, calls: int, per: float) -> Call:
        return self.bounded_rate_limit(function, calls=calls, per=per, max_wait=60.0)

    def bounded_rate_limit(self, function: Call, *, calls: int, per: float, max_wait: float) -> Call:
        config = RateLimiterConfig(max_calls=calls, period=per, max_wait=max_wait)
        return resilient(rate_limiter=config)(function)

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
        # One decorator, in its own fixed order.
        return resilient(
            fallback=None if fallback is None else FallbackConfig(handler=lambda error: fallback()),
            retry=None if attempts is None else RetryConfig(max_attempts=attempts, delay=0.0),
            circuit_breaker=None
            if failures is None
            else CircuitBreakerConfig(failure_threshold=failures, recovery_timeout=open_for),
            bulkhead=None if limit is None else BulkheadConfig(max_concurrent=limit),
            timeout=None if timeout is None else TimeoutConfig(seconds=timeout),
        )(function)

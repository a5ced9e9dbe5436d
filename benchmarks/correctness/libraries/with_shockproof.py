from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from correctness.library import Call, Circuit, Fallback, Library
from shockproof import (
    AdaptiveConcurrency,
    AttemptTimeoutError,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorRecoveryService,
    Hedge,
    LastGood,
    OnError,
    Outcome,
    RateLimit,
    RateLimitedError,
    Retry,
    RetryBudget,
    Stale,
    Timeout,
    Verdict,
    attempts_of,
)
from shockproof import Fallback as FallbackPolicy


class Adapter(Library):
    distribution = "shockproof"
    circuit_open = (CircuitOpenError,)
    bulkhead_full = (BulkheadFullError,)
    rate_limited = (RateLimitedError,)
    timed_out = (AttemptTimeoutError, DeadlineExceededError)

    def __init__(self) -> None:
        self._waits: list[float] = []
        self._service: ErrorRecoveryService | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def service(self) -> ErrorRecoveryService:
        if self._service is None:
            self._directory = tempfile.TemporaryDirectory()
            place = self._directory.name
            self._service = ErrorRecoveryService(f"{place}/state", f"{place}/errors", base_delay=0.0)
        return self._service

    async def close(self) -> None:
        if self._service is not None:
            await self._service.aclose()
        if self._directory is not None:
            self._directory.cleanup()

    def retry(self, function: Call, *, attempts: int, delay: float = 0.0, on: Any = Exception) -> Call:
        return Retry(max_retries=attempts - 1, base_delay=delay, backoff_factor=1.0, retry_on=on)(function)

    def retry_everything_but(self, function: Call, kind: type[Exception], *, attempts: int) -> Call:
        return self.retry(function, attempts=attempts, on=lambda error: not isinstance(error, kind))

    def retry_growing(self, function: Call, *, attempts: int, base: float, cap: float, jitter: bool) -> Call:
        policy = Retry(
            max_retries=attempts - 1, base_delay=base, max_delay=cap, jitter="full" if jitter else "none"
        )
        guarded = policy(function)

        async def call(*args: Any) -> Any:
            try:
                return await guarded(*args)
            except Exception as error:
                self._waits.extend(told.delay for told in attempts_of(error) if told.delay)
                raise

        return call

    @asynccontextmanager
    async def waits(self) -> AsyncIterator[list[float]]:
        self._waits = []  # real ones: the scenarios ask for waits too short to matter
        yield self._waits

    def retry_result(self, function: Call, unwanted: Callable[[Any], bool], *, attempts: int) -> Call:
        return Retry(max_retries=attempts - 1, base_delay=0.0, retry_if_result=unwanted)(function)

    def retry_within(self, function: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        return Retry(max_retries=attempts - 1, base_delay=delay, deadline=deadline)(function)

    def retry_cut_at(self, function: Call, *, attempts: int, deadline: float) -> Call:
        return Retry(max_retries=attempts - 1, base_delay=0.0, deadline=deadline)(function)

    def retry_after(self, function: Call, *, attempts: int, deadline: float | None = None) -> Call:
        return Retry(max_retries=attempts - 1, base_delay=0.0, deadline=deadline)(function)

    def retry_by_kind(self, function: Call, delays: dict[type[Exception], float], *, attempts: int) -> Call:
        return Retry(max_retries=attempts - 1, backoff=lambda retry, error: delays[type(error)])(function)

    def retry_block(self, *, attempts: int) -> Any:
        return Retry(max_retries=attempts - 1, base_delay=0.0).attempts()

    def attempt(self, attempt: Any) -> Any:
        return attempt

    def retry_budget(self, *, attempts: int, retries: int) -> Callable[[Call], Call]:
        budget = RetryBudget(capacity=float(retries))
        return Retry(max_retries=attempts - 1, base_delay=0.0, retry_budget=budget)

    def attempts_told(self, call: Call, error: BaseException) -> int:
        return len(attempts_of(error))

    def breaker(
        self,
        function: Call,
        *,
        failures: int = 3,
        open_for: float = 0.03,
        successes: int = 1,
        ignore: type[Exception] | None = None,
    ) -> Circuit:
        policy = CircuitBreaker(
            circuit_threshold=failures,
            circuit_timeout=open_for,
            half_open_probes=successes,
            classify=None
            if ignore is None
            else lambda result, call: Verdict(Outcome.NEUTRAL) if isinstance(result, ignore) else None,
        )
        return Circuit(
            policy(function),
            reset=policy.reset,
            hold_open=lambda: policy.set_mode("forced-open"),
            time_left=lambda error: error.retry_after,
        )

    def rate_breaker(self, function: Call, *, calls: int, window: float) -> Circuit:
        policy = CircuitBreaker(
            circuit_threshold=None, failure_rate=0.5, min_calls=calls, window=window, circuit_timeout=10.0
        )
        return Circuit(policy(function))

    def count_breaker(self, function: Call, *, calls: int) -> Circuit:
        policy = CircuitBreaker(
            circuit_threshold=None,
            failure_rate=0.5,
            min_calls=calls,
            window_calls=calls,
            circuit_timeout=10.0,
        )
        return Circuit(policy(function))

    def slow_breaker(self, function: Call, *, slow_after: float, calls: int) -> Circuit:
        policy = CircuitBreaker(
            circuit_threshold=None,
            slow_call_after=slow_after,
            slow_call_rate=0.5,
            min_calls=calls,
            circuit_timeout=10.0,
        )
        return Circuit(policy(function))

    def shadow_breaker(self, function: Call, *, failures: int) -> Circuit:
        return Circuit(CircuitBreaker(circuit_threshold=failures, circuit_mode="shadow")(function))

    def age_breaker(self, function: Call, *, oldest: float, failures: int) -> Circuit:
        policy = CircuitBreaker(circuit_threshold=failures, max_call_age=oldest, circuit_timeout=10.0)
        return Circuit(policy(function))

    def growing_breaker(self, function: Call, *, open_for: float, factor: float) -> Circuit:
        policy = CircuitBreaker(circuit_threshold=3, circuit_timeout=open_for, circuit_timeout_factor=factor)
        return Circuit(policy(function))

    def heard_breaker(self, function: Call, listener: Callable[..., Any], *, failures: int) -> Circuit:
        self.service().on_event(listener)
        handle = self.service().service(
            "heard", circuit_threshold=failures, circuit_timeout=10.0, max_retries=0
        )
        return Circuit(handle(function))

    def timeout(self, function: Call, seconds: float) -> Call:
        return Timeout(timeout=seconds)(function)

    def hard_timeout(self, function: Call, seconds: float, *, grace: float) -> Call:
        return Timeout(timeout=seconds, grace=grace)(function)

    def fallback(self, function: Call, handler: Fallback) -> Call:
        return FallbackPolicy(fallback=handler)(function)

    def fallback_chain(self, function: Call, *handlers: Fallback) -> Call:
        return FallbackPolicy(fallback=list(handlers))(function)

    def fallback_for(self, function: Call, kind: type[Exception], handler: Fallback) -> Call:
        return FallbackPolicy(fallback=OnError(kind, handler))(function)

    def last_good(self, function: Call, *, max_age: float) -> Call:
        return FallbackPolicy(fallback=LastGood(max_age=max_age))(function)

    def read_answer(self, answer: Any) -> tuple[Any, float | None]:
        return (answer.value, answer.age) if isinstance(answer, Stale) else (answer, None)

    def bulkhead(self, function: Call, *, limit: int) -> Call:
        return Bulkhead(max_concurrent=limit)(function)

    def queueing_bulkhead(self, function: Call, *, limit: int) -> Call:
        return Bulkhead(max_concurrent=limit, max_queue=100)(function)

    def waiting_bulkhead(self, function: Call, *, limit: int, max_wait: float) -> Call:
        return Bulkhead(max_concurrent=limit, max_queue=100, max_wait=max_wait)(function)

    def priority_bulkhead(self, function: Call, *, limit: int) -> tuple[Call, Call]:
        policy = Bulkhead(max_concurrent=limit, max_queue=100)
        return policy.using(priority="high")(function), policy(function)

    def resizable_bulkhead(self, function: Call, *, limit: int) -> tuple[Call, Callable[[int], Any]]:
        policy = Bulkhead(max_concurrent=limit, max_queue=100)
        return policy(function), lambda places: policy.configure(max_concurrent=places)

    def adaptive_bulkhead(
        self, function: Call, *, first: int, most: int, timeout: float
    ) -> tuple[Call, Callable[[], float]]:
        limit = AdaptiveConcurrency(initial=first, maximum=most)
        handle = self.service().service(
            "adaptive",
            max_concurrent=limit,
            max_queue=100,
            timeout=timeout,
            max_retries=0,
            circuit_threshold=None,
        )
        health = self.service().get_health_status
        return handle(function), lambda: health()["services"]["adaptive"]["max_concurrent"]

    def rate_limit(self, function: Call, *, calls: int, per: float) -> Call:
        return RateLimit(rate_limit=f"{calls}/{per}s")(function)

    waiting_rate_limit = rate_limit

    def bounded_rate_limit(self, function: Call, *, calls: int, per: float, max_wait: float) -> Call:
        return RateLimit(rate_limit=f"{calls}/{per}s", max_wait=max_wait)(function)

    def weighted_rate_limit(self, function: Call, *, units: int, per: float) -> Callable[[int], Call]:
        policy = RateLimit(rate_limit=f"{units}/{per}s")
        return lambda weight: policy.using(weight=weight)(function)

    def two_rate_limits(self, function: Call, *limits: tuple[int, float]) -> Call:
        return RateLimit(rate_limit=tuple(f"{calls}/{per}s" for calls, per in limits))(function)

    def pausing_rate_limit(self, function: Call) -> Call:
        return RateLimit(rate_limit="1000/s")(function)

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
        options: dict[str, Any] = {
            "circuit_threshold": failures,
            "circuit_timeout": open_for,
            "max_retries": 0 if attempts is None else attempts - 1,
            "max_concurrent": limit,
            "timeout": timeout,
        }
        if fallback is not None:
            options["fallback"] = fallback
        return self.service().service("stack", **options)(function)

    def nested_deadline(self, inner: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        retried = self.service().service("inner", max_retries=attempts - 1, base_delay=delay)(inner)

        async def outer(*args: Any) -> Any:
            return await retried(*args)

        return self.service().service("outer", max_retries=0, deadline=deadline)(outer)

    def hedge(self, function: Call, *, after: float) -> Call:
        return Hedge(hedge_after=after)(function)

    def hedge_unsafe(self, function: Call, *, after: float) -> Call:
        return self.service().service("orders", effect="unsafe", hedge_after=after)(function)

    def feed(self, connect: Callable[[], AsyncIterator[Any]], *, stale_after: float) -> AsyncIterator[Any]:
        return self.service().service("feed").stream(connect, stale_after=stale_after)

    def send_once(self, function: Call, *, attempts: int, timeout: float) -> Call:
        handle = self.service().service("orders", effect="unsafe", max_retries=attempts - 1, timeout=timeout)
        return handle(function)

    def async_fallback(self, function: Call, handler: Callable[[], Awaitable[Any]]) -> Call:
        return FallbackPolicy(fallback=handler)(function)

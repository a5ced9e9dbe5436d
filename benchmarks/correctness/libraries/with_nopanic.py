from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import nopanic

from correctness.library import Call, Circuit, Fallback, Library


class Adapter(Library):
    distribution = "nopanic"
    names_what_counts = True
    token_bucket = True
    counts_in_a_row = False
    circuit_open = (nopanic.CircuitOpen,)
    bulkhead_full = (nopanic.BulkheadFull,)
    rate_limited = (nopanic.RateLimited,)

    def retry(self, function: Call, *, attempts: int, delay: float = 0.0, on: Any = Exception) -> Call:
        return nopanic.retry(attempts=attempts, on=on, backoff=delay)(function)

    def retry_everything_but(self, function: Call, kind: type[Exception], *, attempts: int) -> Call:
        return self.retry(function, attempts=attempts, on=lambda error: not isinstance(error, kind))

    def retry_growing(self, function: Call, *, attempts: int, base: float, cap: float, jitter: bool) -> Call:
        growing = nopanic.backoff.full_jitter if jitter else nopanic.backoff.exponential
        return nopanic.retry(attempts=attempts, backoff=growing(base=base, cap=cap))(function)

    def retry_result(self, function: Call, unwanted: Callable[[Any], bool], *, attempts: int) -> Call:
        return nopanic.retry(attempts=attempts, backoff=0.0, on_result=unwanted)(function)

    def retry_within(self, function: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        return nopanic.retry(attempts=attempts, backoff=delay, max_time=deadline)(function)

    def retry_cut_at(self, function: Call, *, attempts: int, deadline: float) -> Call:
        # README: compose(deadline(10.0), retry(...), timeout(2.0)) gives every call its own budget
        return nopanic.compose(
            nopanic.deadline(deadline), nopanic.retry(attempts=attempts, backoff=0.0), nopanic.timeout(60.0)
        )(function)

    def retry_after(self, function: Call, *, attempts: int, deadline: float | None = None) -> Call:
        return nopanic.retry(attempts=attempts, backoff=0.0, max_time=deadline)(function)

    def retry_budget(self, *, attempts: int, retries: int) -> Callable[[Call], Call]:
        # The floor, min_retries_per_sec, is counted over the window of 10 s.
        budget = nopanic.RetryBudget(ratio=0.1, min_retries_per_sec=retries / 10)
        return nopanic.retry(attempts=attempts, backoff=0.0, budget=budget)

    def breaker(
        self,
        function: Call,
        *,
        failures: int = 3,
        open_for: float = 0.03,
        successes: int = 1,
        ignore: type[Exception] | None = None,
    ) -> Circuit:
        policy = nopanic.circuit_breaker(
            failure_threshold=0.5,
            min_calls=failures,
            reset_timeout=open_for,
            half_open_max_calls=successes,
            on=Exception if ignore is None else lambda error: not isinstance(error, ignore),
        )
        return Circuit(
            policy(function),
            reset=policy.reset,
            hold_open=policy.force_open,
            time_left=lambda error: error.retry_after,
        )

    def rate_breaker(self, function: Call, *, calls: int, window: float) -> Circuit:
        return Circuit(
            nopanic.circuit_breaker(failure_threshold=0.5, min_calls=calls, window=window)(function)
        )

    def slow_breaker(self, function: Call, *, slow_after: float, calls: int) -> Circuit:
        return Circuit(
            nopanic.circuit_breaker(
                min_calls=calls, slow_call_duration=slow_after, slow_call_threshold=0.5, reset_timeout=10.0
            )(function)
        )

    def heard_breaker(self, function: Call, listener: Callable[..., Any], *, failures: int) -> Circuit:
        policy = nopanic.circuit_breaker(min_calls=failures, reset_timeout=10.0, on_state_change=listener)
        return Circuit(policy(function))

    def timeout(self, function: Call, seconds: float) -> Call:
        return nopanic.timeout(seconds)(function)

    def fallback(self, function: Call, handler: Fallback) -> Call:
        return nopanic.fallback(lambda error: handler())(function)

    def bulkhead(self, function: Call, *, limit: int) -> Call:
        return nopanic.bulkhead(limit, max_wait=0)(function)

    def queueing_bulkhead(self, function: Call, *, limit: int) -> Call:
        return nopanic.bulkhead(limit)(function)

    def waiting_bulkhead(self, function: Call, *, limit: int, max_wait: float) -> Call:
        return nopanic.bulkhead(limit, max_wait=max_wait)(function)

    def rate_limit(self, function: Call, *, calls: int, per: float) -> Call:
        return nopanic.rate_limit(calls, per=per)(function)

    waiting_rate_limit = rate_limit

    def bounded_rate_limit(self, function: Call, *, calls: int, per: float, max_wait: float) -> Call:
        return nopanic.rate_limit(calls, per=per, max_wait=max_wait)(function)

    def nested_deadline(self, inner: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        retried = nopanic.retry(attempts=attempts, backoff=delay)(inner)

        async def outer(*args: Any) -> Any:
            async with nopanic.deadline(deadline):
                return await retried(*args)

        return outer

    def fallback_for(self, function: Call, kind: type[Exception], handler: Fallback) -> Call:
        return nopanic.fallback(lambda error: handler(), on=kind)(function)

    def last_good(self, function: Call, *, max_age: float) -> Call:
        # A cache first of all: what is younger than its ttl is not asked for again.
        return nopanic.cache(ttl=0.001, stale_ttl=max_age)(function)

    def pausing_rate_limit(self, function: Call) -> Call:
        return nopanic.adaptive_rate_limit(1000)(function)

    def feed(self, connect: Callable[[], AsyncIterator[Any]], *, stale_after: float) -> AsyncIterator[Any]:
        # README, Streams: "@retry @timeout(10.0, first_item=30.0)", a limit for each item
        policies = nopanic.compose(nopanic.retry(attempts=10, backoff=0.0), nopanic.timeout(stale_after))
        return policies(connect)()

    def hedge(self, function: Call, *, after: float) -> Call:
        return nopanic.hedge(delay=after, max_hedges=1)(function)

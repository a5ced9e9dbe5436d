from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hyx.bulkhead import bulkhead
from hyx.bulkhead.exceptions import BulkheadFull
from hyx.circuitbreaker import consecutive_breaker
from hyx.circuitbreaker.exceptions import BreakerFailing
from hyx.fallback import fallback
from hyx.ratelimit import tokenbucket
from hyx.ratelimit.exceptions import RateLimitExceeded
from hyx.retry import retry
from hyx.retry.backoffs import expo
from hyx.retry.jitters import full
from hyx.timeout import timeout
from hyx.timeout.exceptions import MaxDurationExceeded

from correctness.library import Call, Circuit, Fallback, Library


class Adapter(Library):
    distribution = "hyx"
    names_what_counts = True
    token_bucket = True
    package = "hyx"
    circuit_open = (BreakerFailing,)
    bulkhead_full = (BulkheadFull,)
    rate_limited = (RateLimitExceeded,)
    timed_out = (MaxDurationExceeded,)

    def retry(self, function: Call, *, attempts: int, delay: float = 0.0, on: Any = Exception) -> Call:
        # "How many times do we need to retry": its attempts are the retries after the first call.
        return retry(on=on, attempts=attempts - 1, backoff=delay)(function)

    def retry_growing(self, function: Call, *, attempts: int, base: float, cap: float, jitter: bool) -> Call:
        backoff = expo(min_delay_secs=base, max_delay_secs=cap, jitter=full if jitter else None)
        return retry(attempts=attempts - 1, backoff=backoff)(function)

    def breaker(
        self,
        function: Call,
        *,
        failures: int = 3,
        open_for: float = 0.03,
        successes: int = 1,
        ignore: type[Exception] | None = None,
    ) -> Circuit:
        policy = consecutive_breaker(
            # Only errors named here count: the scenarios fail with ConnectionError.
            exceptions=Exception if ignore is None else ConnectionError,
            failure_threshold=failures,
            recovery_time_secs=open_for,
            recovery_threshold=successes,
        )
        return Circuit(policy(function))

    def timeout(self, function: Call, seconds: float) -> Call:
        return timeout(seconds)(function)

    def fallback(self, function: Call, handler: Fallback) -> Call:
        async def stand_in(result: Any, *args: Any) -> Any:
            return handler()  # only coroutine functions are taken

        return fallback(stand_in)(function)

    def fallback_for(self, function: Call, kind: type[Exception], handler: Fallback) -> Call:
        async def stand_in(result: Any, *args: Any) -> Any:
            return handler()

        return fallback(stand_in, on=kind)(function)

    def async_fallback(self, function: Call, handler: Callable[[], Awaitable[Any]]) -> Call:
        async def stand_in(result: Any, *args: Any) -> Any:
            return await handler()

        return fallback(stand_in)(function)

    def bulkhead(self, function: Call, *, limit: int) -> Call:
        return bulkhead(max_concurrency=limit, max_capacity=limit)(function)

    def queueing_bulkhead(self, function: Call, *, limit: int) -> Call:
        return bulkhead(max_concurrency=limit, max_capacity=limit + 100)(function)

    def rate_limit(self, function: Call, *, calls: int, per: float) -> Call:
        return tokenbucket(max_executions=calls, per_time_secs=per)(function)

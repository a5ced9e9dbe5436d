"""
The same with other libraries, wired as their documentation shows it. What one does not have is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiobreaker
import nopanic
import purgatory
import stamina
import tenacity
from hyx.bulkhead import bulkhead as hyx_bulkhead
from hyx.circuitbreaker import consecutive_breaker
from hyx.fallback import fallback as hyx_fallback
from hyx.retry import retry as hyx_retry
from hyx.timeout import timeout as hyx_timeout
from pyresilience import (
    BulkheadConfig,
    CircuitBreakerConfig,
    FallbackConfig,
    RetryConfig,
    TimeoutConfig,
    resilient,
)
from resilix import CircuitBreaker, protect

Call = Callable[[int], Awaitable[int]]
Wrap = Callable[[Call], Any]  # Any: each library returns a type of its own

DISTRIBUTIONS = (
    "nopanic",
    "resilix",
    "hyx",
    "pyresilience",
    "tenacity",
    "stamina",
    "aiobreaker",
    "purgatory",
)


def _hyx_stack(function: Call) -> Any:
    guarded = hyx_timeout(5.0)(function)
    guarded = consecutive_breaker(failure_threshold=5, recovery_time_secs=60.0)(guarded)
    return hyx_fallback(lambda *_: None, on=Exception)(hyx_retry(attempts=3, backoff=0.0)(guarded))


def _resilix_stack(function: Call) -> Any:
    guarded = CircuitBreaker(failures=5, reset_timeout=60.0)(protect.timeout(5.0)(function))
    return protect.when(Exception, retry=4, delay=0.0, fallback=lambda *_: 0)(guarded)


def _nopanic_stack(function: Call) -> Any:
    return nopanic.compose(
        nopanic.fallback(lambda _: 0),
        nopanic.retry(attempts=4, backoff=0.0),
        nopanic.circuit_breaker(reset_timeout=60.0),
        nopanic.timeout(5.0),
    )(function)


def _pyresilience_stack(function: Call) -> Any:
    return resilient(
        retry=RetryConfig(max_attempts=4, delay=0.0),
        circuit_breaker=CircuitBreakerConfig(failure_threshold=5, recovery_timeout=60.0),
        timeout=TimeoutConfig(seconds=5.0),
        fallback=FallbackConfig(handler=lambda _: 0),
    )(function)


def _tenacity_stack(function: Call) -> Any:
    breaker = aiobreaker.CircuitBreaker(fail_max=5)

    @tenacity.retry(stop=tenacity.stop_after_attempt(4))
    async def call(x: int) -> int:
        async with asyncio.timeout(5.0):
            return await breaker.call_async(function, x)

    return call


def _stamina(function: Call) -> Any:
    return stamina.retry(on=Exception, attempts=4)(function)


def _tenacity(function: Call) -> Any:
    return tenacity.retry(stop=tenacity.stop_after_attempt(4))(function)


HEALTHY: dict[str, Wrap] = {
    "nopanic, retry alone": nopanic.retry(attempts=4),
    "resilix, breaker alone": CircuitBreaker(failures=5),
    "hyx, breaker alone": consecutive_breaker(),
    "tenacity, retry alone": _tenacity,
    "stamina, retry alone": _stamina,
}
STACKS: dict[str, Wrap] = {
    "resilix": _resilix_stack,
    "nopanic": _nopanic_stack,
    "pyresilience": _pyresilience_stack,
    "hyx": _hyx_stack,
    "tenacity, aiobreaker, asyncio.timeout": _tenacity_stack,
}
REFUSING: dict[str, Wrap] = {  # behind one failure, which opens them
    "resilix": CircuitBreaker(failures=1, reset_timeout=600.0),
    "hyx": consecutive_breaker(failure_threshold=1, recovery_time_secs=600.0),
    "purgatory": purgatory.AsyncCircuitBreakerFactory()("cost", threshold=1, ttl=600.0),
    "pyresilience": resilient(
        circuit_breaker=CircuitBreakerConfig(failure_threshold=1, recovery_timeout=600.0)
    ),
}
STANDING_IN: dict[str, Wrap] = {
    "pyresilience": resilient(
        circuit_breaker=CircuitBreakerConfig(failure_threshold=1, recovery_timeout=600.0),
        fallback=FallbackConfig(handler=lambda _: 0),
    ),
    "resilix": lambda function: protect.when(Exception, fallback=lambda *_: 0)(
        CircuitBreaker(failures=1, reset_timeout=600.0)(function)
    ),
}
REPEATING: dict[str, Wrap] = {
    "resilix": lambda function: protect.when(Exception, retry=4, delay=0.0)(
        CircuitBreaker(failures=5)(function)
    ),
    "nopanic": nopanic.retry(attempts=4, backoff=0.0),
    "tenacity": _tenacity,
}
PLACES: dict[str, Wrap] = {
    "nopanic": nopanic.bulkhead(100),
    "hyx": hyx_bulkhead(max_concurrency=100, max_capacity=100),
    "resilix": protect.bulkhead(100),
    "pyresilience": resilient(bulkhead=BulkheadConfig(max_concurrent=100)),
}


async def hyx_breaker_block(n: int, function: Call) -> None:
    breaker = consecutive_breaker()
    for _ in range(n):
        async with breaker:
            await function(1)


async def hyx_timeout_block(n: int, function: Call) -> None:
    for _ in range(n):
        async with hyx_timeout(5.0):
            await function(1)


async def tenacity_attempts(n: int, function: Call) -> None:
    for _ in range(n):
        async for attempt in tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(4)):
            with attempt:
                await function(1)

"""
The cases of shockproof: all of it switched on that a row names, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from shockproof import (
    AdaptiveConcurrency,
    AttemptTimeoutError,
    CircuitOpenError,
    ErrorRecoveryService,
    Handle,
    RetryBudget,
)

Call = Callable[[int], Awaitable[int]]
Case = Callable[[int], Awaitable[None]]


POLICIES: dict[str, dict[str, Any]] = {  # Any: what each of the options takes
    "a rate limit": {"rate_limit": "1000000000/s"},
    "a bulkhead that sizes itself": {"max_concurrent": AdaptiveConcurrency(initial=100)},
    "a retry budget": {"retry_budget": RetryBudget()},
    "retries that follow the kind of error": {"adaptive": True},
    "a failure rate": {"failure_rate": 0.5},
    "slow calls": {"slow_call_after": 1.0, "slow_call_rate": 0.5},
    "calls that hang": {"max_call_age": 60.0},
    "a hedge": {"hedge_after": 5.0},
    "a timeout": {"timeout": 5.0},
    "a timeout with a grace": {"timeout": 5.0, "grace": 1.0},
    "results that are failures": {"retry_if_result": lambda result: result is None},
}


class Ours:
    """One service for each state a service can be in."""

    def __init__(self, recovery: ErrorRecoveryService, function: Call) -> None:
        self.function = function
        self.recovery = recovery
        self.plain = recovery.service("plain")
        self.timed = self.plain.using(timeout=5.0, deadline=20.0)
        self.places = recovery.service("places", max_concurrent=100)
        self.opened = recovery.service("opened", circuit_threshold=1, circuit_timeout=3600.0, max_retries=0)
        self.repeating = recovery.service("repeating", base_delay=0.0)

        async def cached(x: int) -> int:
            return x

        with_fallback = self.plain.using(fallback=cached)
        self.decorated = with_fallback(function)
        self.twenty = [with_fallback(function) for _ in range(20)]
        self.timed_decorated = self.timed.using(fallback=cached)(function)
        self.in_places = self.places(function)
        self.timed_in_places = self.places.using(timeout=5.0)(function)

        @self.opened
        async def refused(x: int) -> int:
            raise OSError(x)

        self.refused = refused
        self.stood_in = self.opened.using(fallback=cached)(refused.__wrapped__)  # type: ignore[attr-defined]  # functools.wraps gives it

        self.policies: dict[str, Call] = {
            name: recovery.service(name, **options)(function) for name, options in POLICIES.items()
        }
        """Each with the defaults, and one policy more."""

    async def open(self) -> None:
        """Open the circuit of `opened`."""
        with contextlib.suppress(OSError):
            await self.refused(1)

    def called(self, handle: Handle) -> Case:
        async def case(n: int) -> None:
            function = self.function
            for _ in range(n):
                await handle.call(function, 1)

        return case

    async def in_turn(self, n: int) -> None:
        """Functions of one signature, which share the code that is around them."""
        for _ in range(n // 20):
            for call in self.twenty:
                await call(1)

    def guarded(self, handle: Handle) -> Case:
        async def case(n: int) -> None:
            function = self.function
            for _ in range(n):
                async with handle.guard():
                    await function(1)

        return case

    async def attempts(self, n: int) -> None:
        function = self.function
        for _ in range(n):
            async for attempt in self.plain.attempts():
                async with attempt:
                    await function(1)

    async def refused_through_call(self, n: int) -> None:
        for _ in range(n):
            try:
                await self.opened.call(self.function, 1)
            except CircuitOpenError:
                pass

    async def check_that_timers_are_armed(self) -> None:
        """
        A hung call is ended, in each form that a row with a timeout measures.

        Raises:
            RuntimeError: one was not.
        """

        async def hang(x: int) -> int:
            await asyncio.Event().wait()
            return x

        short = self.plain.using(timeout=0.01, max_retries=0)
        decorated = short(hang)
        in_place = self.places.using(timeout=0.01, max_retries=0)(hang)

        async def block() -> None:
            async with short.guard():
                await hang(1)

        for attempt in (lambda: decorated(1), lambda: short.call(hang, 1), lambda: in_place(1), block):
            try:
                async with asyncio.timeout(30.0):
                    await attempt()
            except AttemptTimeoutError:
                continue
            raise RuntimeError("a hung call was not ended by its timeout")
        for handle in (self.plain, self.places):
            self.recovery.reset_circuit_breaker(handle.service_name)

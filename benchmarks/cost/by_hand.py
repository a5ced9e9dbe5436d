"""
What somebody would write who needs only this one function, and nothing of what a library keeps beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

Call = Callable[[int], Awaitable[int]]


class Counts:
    """All there is to a service."""

    __slots__ = ("failures", "is_open", "stirred", "successes")

    def __init__(self, *, is_open: bool = False) -> None:
        self.is_open = is_open
        self.stirred = False
        self.successes = 0
        self.failures = 0


class RefusedError(Exception):
    """The circuit is open."""


def one_coroutine(function: Call) -> Call:
    """Retry, breaker and counters in one coroutine of the function's own signature."""
    counts = Counts()

    async def call(x: int) -> int:
        if counts.is_open:
            raise RefusedError
        for _ in range(4):
            try:
                result = await function(x)
            except Exception as failure:  # noqa: BLE001 - whatever it is, it is tried again
                counts.failures += 1
                error = failure
            else:
                counts.successes += 1
                return result
        raise error

    return call


def with_timeout(function: Call) -> Call:
    """The same on the timer of the standard library."""
    counts = Counts()

    async def call(x: int) -> int:
        if counts.is_open:
            raise RefusedError
        for _ in range(4):
            try:
                async with asyncio.timeout(5.0):
                    result = await function(x)
            except Exception as failure:  # noqa: BLE001 - whatever it is, it is tried again
                counts.failures += 1
                error = failure
            else:
                counts.successes += 1
                return result
        raise error

    return call


def refusing(function: Call) -> Call:
    """An open circuit: one test, and a new error."""
    counts = Counts(is_open=True)

    async def call(x: int) -> int:
        if counts.is_open:
            raise RefusedError("venue", "circuit_breaker", 60.0 - time.monotonic(), None)
        return await function(x)

    return call


def standing_in(function: Call) -> Call:
    """An open circuit whose fallback answers."""
    counts = Counts(is_open=True)

    async def call(x: int) -> int:
        if counts.is_open:
            return x
        return await function(x)

    return call


def with_places(function: Call) -> Call:
    """A bulkhead that has room."""
    places = asyncio.Semaphore(100)

    async def call(x: int) -> int:
        async with places:
            return await function(x)

    return call

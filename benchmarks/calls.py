"""
What a call through shockproof costs, as ratios to a bare await of the same coroutine.

    ./run sh python benchmarks/calls.py

All cases run interleaved in one process; each figure is the median over the rounds of the ratio to
the bare await of the same round. It cannot tell what a disk or another thread does to the loop.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

from shockproof import CircuitOpenError, ErrorRecoveryService
from shockproof.integrations.prometheus import ShockproofCollector

ROUNDS = 11
CALLS = 10_000

Case = Callable[[int], Awaitable[float]]


async def bare(x: int) -> int:
    return x


def repeated(function: Callable[[int], Awaitable[object]]) -> Case:
    async def case(n: int) -> float:
        begun = time.perf_counter()
        for _ in range(n):
            await function(1)
        return (time.perf_counter() - begun) / n

    return case


def cases(directory: str) -> dict[str, Case]:
    recovery = ErrorRecoveryService(f"{directory}/state", f"{directory}/errors")
    plain = recovery.service("plain")
    timed = plain.using(timeout=5.0, deadline=20.0)
    with_fallback = plain.using(fallback=lambda x: x)
    timed_decorated = timed(bare)
    decorated = with_fallback(bare)

    places = recovery.service("places", max_concurrent=100)
    in_places = places(bare)
    timed_in_places = places.using(timeout=5.0)(bare)

    watched = ErrorRecoveryService(f"{directory}/watched-state", f"{directory}/watched-errors")
    ShockproofCollector(watched, durations=True)
    timed_by_collector = watched.service("timed by a collector")

    opened = recovery.service("opened", circuit_threshold=1, max_retries=0)

    @opened
    async def refused(x: int) -> int:
        raise OSError(x)

    async def call(n: int) -> float:
        begun = time.perf_counter()
        for _ in range(n):
            await plain.call(bare, 1)
        return (time.perf_counter() - begun) / n

    async def call_timed(n: int) -> float:
        begun = time.perf_counter()
        for _ in range(n):
            await timed.call(bare, 1)
        return (time.perf_counter() - begun) / n

    async def call_watched(n: int) -> float:
        begun = time.perf_counter()
        for _ in range(n):
            await timed_by_collector.call(bare, 1)
        return (time.perf_counter() - begun) / n

    async def call_in_places(n: int) -> float:
        begun = time.perf_counter()
        for _ in range(n):
            await places.call(bare, 1)
        return (time.perf_counter() - begun) / n

    async def guard_in_places(n: int) -> float:
        begun = time.perf_counter()
        for _ in range(n):
            async with places.guard():
                await bare(1)
        return (time.perf_counter() - begun) / n

    async def guard(n: int) -> float:
        begun = time.perf_counter()
        for _ in range(n):
            async with plain.guard():
                await bare(1)
        return (time.perf_counter() - begun) / n

    async def attempts(n: int) -> float:
        begun = time.perf_counter()
        for _ in range(n):
            async for attempt in plain.attempts():
                async with attempt:
                    await bare(1)
        return (time.perf_counter() - begun) / n

    async def refusal(n: int) -> float:
        try:
            await refused(1)
        except (OSError, CircuitOpenError):
            pass
        begun = time.perf_counter()
        for _ in range(n):
            try:
                await refused(1)
            except CircuitOpenError:
                pass
        return (time.perf_counter() - begun) / n

    async def one_extra_frame(x: int) -> int:
        return await bare(x)

    return {
        "bare await": repeated(bare),
        "one extra coroutine": repeated(one_extra_frame),
        "decorated: retry, breaker, fallback, health": repeated(decorated),
        "the same through call": call,
        "decorated, with timeout and deadline": repeated(timed_decorated),
        "the same through call, with timeout and deadline": call_timed,
        "guard() block": guard,
        "attempts() block": attempts,
        "decorated, with a bulkhead that has room": repeated(in_places),
        "the same, with timeout": repeated(timed_in_places),
        "the same through call, without timeout": call_in_places,
        "guard() block of a bulkhead that has room": guard_in_places,
        "Handle.call, timed by a collector": call_watched,
        "refused by an open circuit, decorated": refusal,
    }


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        table = cases(directory)
        ratios: dict[str, list[float]] = {name: [] for name in table}
        for case in table.values():
            await case(1_000)
        gc.collect()
        gc.disable()
        for _ in range(ROUNDS):
            seconds = {name: await case(CALLS) for name, case in table.items()}
            for name, value in seconds.items():
                ratios[name].append(value / seconds["bare await"])
        print(f"CPython {platform.python_version()}, {ROUNDS} rounds of {CALLS:,} calls, {sys.platform}")
        for name, values in ratios.items():
            print(f"{name:50} {statistics.median(values):6.2f} x bare")


if __name__ == "__main__":
    asyncio.run(main())

"""
What an item through a stream costs, as ratios to a bare ``async for`` over the same source.

    ./run sh python benchmarks/streams.py       # on a terminal
    ./run bench streams                         # and into docs/policies/stream.md

All cases run interleaved in one process; each figure is the median over the rounds of the ratio to the
bare loop of the same round. The source gives items without ever waiting: a feed that has to be waited
for costs more by itself, and the rest is the same.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from published import SECTIONS, setting

from shockproof import ErrorRecoveryService

ROUNDS = 11
ITEMS = 100_000
FEW = 1_000
"""Items of the cases that take long."""

Case = Callable[[int], Awaitable[float]]


async def source(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


async def bare(n: int) -> float:
    begun = time.perf_counter()
    async for _ in source(n):
        pass
    return (time.perf_counter() - begun) / n


async def timeout_each(n: int) -> float:
    items = source(n)
    begun = time.perf_counter()
    for _ in range(n):
        async with asyncio.timeout(5.0):
            await anext(items)
    return (time.perf_counter() - begun) / n


async def wait_for_each(n: int) -> float:
    items = source(n)
    begun = time.perf_counter()
    for _ in range(n):
        await asyncio.wait_for(anext(items), 5.0)
    return (time.perf_counter() - begun) / n


def cases(directory: str) -> dict[str, tuple[Case, int]]:
    feed = ErrorRecoveryService(f"{directory}/state", f"{directory}/errors").service("feed")

    def streamed(handle: Any, **options: Any) -> Case:  # Any: a handle and what its stream takes
        async def case(n: int) -> float:
            begun = time.perf_counter()
            async for _ in handle.stream(lambda: source(n), may_end=True, **options):
                pass
            return (time.perf_counter() - begun) / n

        return case

    return {
        "bare async for": (bare, ITEMS),
        "stream(connect)": (streamed(feed), ITEMS),
        "stream(connect, stale_after=5.0)": (streamed(feed, stale_after=5.0), ITEMS),
        "the same with grace: a task of its own": (streamed(feed.using(grace=1.0), stale_after=5.0), FEW),
        "an asyncio.timeout for each item": (timeout_each, FEW),
        "an asyncio.wait_for for each item": (wait_for_each, FEW),
    }


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        table = cases(directory)
        ratios: dict[str, list[float]] = {name: [] for name in table}
        for case, _ in table.values():
            await case(FEW)
        gc.collect()
        gc.disable()
        base: list[float] = []
        for _ in range(ROUNDS):
            seconds = {name: await case(n) for name, (case, n) in table.items()}
            base.append(seconds["bare async for"])
            for name, value in seconds.items():
                ratios[name].append(value / seconds["bare async for"])
        unit = f"A bare `async for` takes {statistics.median(base) * 1e9:.0f} ns an item."
        rows = [(name, f"{statistics.median(values):.1f}") for name, values in ratios.items()]
        text = table(["an item", "times a bare `async for`"], rows)
        print(f"{setting()}. {unit}\n\n{text}")
        if "--write" in sys.argv[1:]:
            SECTIONS["streams"].write(
                text,
                method=f"{ROUNDS} rounds of {ITEMS:,} items, medians. {unit}",
                cannot_tell="what waiting for an item costs: the source here never waits, and a feed does.",
            )


if __name__ == "__main__":
    asyncio.run(main())

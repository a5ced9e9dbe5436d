"""
Some rows of calls.py under another interpreter or event loop, which needs nothing installed for that: prints them as JSON.

    python3.13 benchmarks/cost/elsewhere.py src
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

ROUNDS = 11
CALLS = 20_000

Case = Callable[[int], Awaitable[None]]


async def bare(x: int) -> int:
    return x


async def fails(x: int) -> int:
    raise OSError(x)


async def main() -> dict[str, float]:
    from shockproof import CircuitOpenError, ErrorRecoveryService

    with tempfile.TemporaryDirectory() as directory:
        recovery = ErrorRecoveryService(f"{directory}/state", f"{directory}/errors")
        plain = recovery.service("plain")
        timed = recovery.service("timed", timeout=5.0, deadline=20.0)
        opened = recovery.service("opened", circuit_threshold=1, circuit_timeout=3600.0, max_retries=0)
        decorated, decorated_timed, refused = plain(bare), timed(bare), opened(fails)
        with contextlib.suppress(OSError):
            await refused(1)

        async def base(n: int) -> None:
            for _ in range(n):
                await bare(1)

        async def in_decorated(n: int) -> None:
            for _ in range(n):
                await decorated(1)

        async def by_call(n: int) -> None:
            for _ in range(n):
                await plain.call(bare, 1)

        async def in_timed(n: int) -> None:
            for _ in range(n):
                await decorated_timed(1)

        async def guarded(n: int) -> None:
            for _ in range(n):
                async with plain.guard():
                    await bare(1)

        async def turned_away(n: int) -> None:
            for _ in range(n):
                try:
                    await refused(1)
                except CircuitOpenError:
                    pass

        cases: dict[str, Case] = {
            "decorated": in_decorated,
            "`call`": by_call,
            "timeout and deadline": in_timed,
            "`guard()` block": guarded,
            "refused": turned_away,
        }
        gc.disable()

        async def seconds(case: Case) -> float:
            begun = time.thread_time()
            await case(CALLS)
            return time.thread_time() - begun

        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            one = await seconds(base)
            for name, case in cases.items():
                found[name].append(await seconds(case) / one)
        return {name: statistics.median(ratios) for name, ratios in found.items()}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    if sys.argv[2:] == ["uvloop"]:
        import uvloop

        told = uvloop.run(main())
    else:
        told = asyncio.run(main())
    version = ".".join(map(str, sys.version_info[:3]))
    print(json.dumps({"version": version, **told}), flush=True)
    os._exit(0)  # there is nothing to be written, and perhaps nothing to write it with

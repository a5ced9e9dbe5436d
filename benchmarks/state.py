"""
What saving and restoring a large state costs, and how long the event loop waits for it.

    ./run sh python benchmarks/state.py [DIRECTORY]

A state of 50 MB with 170,000 entries is saved whole, saved again with 1 % of its entries changed in place, and restored, while a
task on the same loop asks to be woken every millisecond. A gap is how much later than a millisecond that was, at
the worst, less the same for the ticker alone in the same round; seconds of a processor are those of the whole process, and
vary less on a machine that has other things to do. Figures are medians over the rounds; the last rows are what people do today. DIRECTORY (default: the current one) should be on the disk in question.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import shockproof
from shockproof import ErrorRecoveryService

ROUNDS = int(os.environ.get("ROUNDS", "5"))
ENTRIES = int(os.environ.get("ENTRIES", "170000"))
CHANGED = ENTRIES // 100


def entry(rng: random.Random, number: int) -> dict[str, Any]:
    """What a bot keeps of one instrument: about 300 bytes of JSON, one list in it."""
    return {
        "symbol": f"SYM{number:06d}",
        "venue": "XNAS",
        "price": rng.random() * 100,
        "bid": rng.random() * 100,
        "ask": rng.random() * 100,
        "volume": rng.randrange(10**9),
        "halted": False,
        "note": "x" * 40,
        "levels": [rng.random() for _ in range(4)],
    }


async def watched(work: Callable[[], Awaitable[object]]) -> tuple[float, float, float]:
    """Seconds that *work* took, those of a processor, and the worst lateness of a ticker of 1 ms meanwhile."""
    worst, is_over = 0.0, False

    async def tick() -> None:
        nonlocal worst
        while not is_over:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - due)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    worst = 0.0
    begun, processor = time.perf_counter(), time.process_time()
    await work()
    taken, processor = time.perf_counter() - begun, time.process_time() - processor
    await asyncio.sleep(0.005)
    is_over = True
    await ticker
    return taken, processor, worst


async def one_round(directory: Path, rng: random.Random) -> dict[str, tuple[float, float, float]]:
    """Seconds, those of a processor and the gap of each case."""
    found: dict[str, tuple[float, float, float]] = {}
    state = {f"SYM{number:06d}": entry(rng, number) for number in range(ENTRIES)}

    async def measure(name: str, work: Callable[[], Awaitable[object]]) -> None:
        gc.collect()
        seconds, processor, late = await watched(work)
        _, _, alone = await watched(lambda: asyncio.sleep(max(0.5, min(seconds, 2.0))))
        found[name] = (seconds, processor, max(0.0, late - alone))

    recovery = ErrorRecoveryService(directory / "state", directory / "errors")
    await recovery.start()
    await recovery.save_state(cached_data={"warm": 1})
    await measure("saved, everything new", lambda: recovery.save_state(cached_data=state, force=True))
    for number, name in enumerate(state):
        state[name]["price"] = rng.random() * 100 + number
    await measure("saved, everything changed", lambda: recovery.save_state(cached_data=state, force=True))
    for again in ("saved, 1 % changed", "saved, 1 % changed, again"):
        for name in rng.sample(list(state), CHANGED):
            state[name]["price"] = rng.random() * 100
        await measure(again, lambda: recovery.save_state(cached_data=state, force=True))
    await measure("saved, nothing changed", lambda: recovery.save_state(cached_data=state, force=True))

    restored: list[Any] = []
    reborn = ErrorRecoveryService(directory / "state", directory / "errors")

    async def restore() -> None:
        restored.append(await reborn.restore_state())

    await measure("restored", restore)
    assert restored.pop().cached_data == state

    gc.collect()
    gc.disable()
    await measure("restored, the collector off", restore)
    restored.clear()
    gc.enable()
    gc.collect()

    plain = directory / "plain.json"
    await measure(
        "json.dumps in a thread", lambda: asyncio.to_thread(lambda: plain.write_text(json.dumps(state)))
    )
    await measure("json.loads in a thread", lambda: asyncio.to_thread(lambda: json.loads(plain.read_text())))
    await recovery.aclose()
    return found


def main() -> None:
    """Print the table."""
    where = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    rounds: list[dict[str, tuple[float, float, float]]] = []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=where) as directory:
            rounds.append(asyncio.run(one_round(Path(directory), random.Random(number))))
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr)
        gc.collect()
    print(f"benchmarks/state.py: {ENTRIES:,} entries, median of {ROUNDS} rounds")
    print(f"shockproof {shockproof.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores")
    print()
    print("| case | seconds | of a processor | gap, ms |")
    print("| --- | --- | --- | --- |")
    for name in rounds[0]:
        seconds, processor, gap = (statistics.median(one[name][of] for one in rounds) for of in range(3))
        print(f"| {name} | {seconds:.2f} | {processor:.2f} | {gap * 1000:.0f} |")


if __name__ == "__main__":
    main()

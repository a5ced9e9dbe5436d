"""
What saving and restoring a large state costs, and how long the event loop waits for it.

    ./run sh python benchmarks/state.py [DIRECTORY]     # the table, on a terminal
    ./run bench state                                   # and into docs/explanation/large-states.md

A state of 50 MB with 170,000 entries is saved whole, saved again with 1 % of its entries changed in place, and restored, while a
task on the same loop asks to be woken every millisecond. A gap is how much later than a millisecond that was, at
the worst, less the same for the ticker alone in the same round; seconds of a processor are those of the whole process, and
vary less on a machine that has other things to do. Figures are medians over the rounds; the last rows are what people do today. DIRECTORY (default: the current one) should be on the disk in question.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from published import SECTIONS, Bar, bars, table

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


CANNOT_TELL = (
    "what your entries cost: try yours. Nor what a slow disk adds: a save waits for two syncs of the disk. On a machine that "
    "has other things to do the gaps are as long as the system lets this program wait; the seconds of a processor hardly change."
)


def picture(gaps: dict[str, float]) -> str:
    """The gaps alone: what the event loop feels."""
    groups = {"saving": "saved", "restoring": "restored"}
    today = {"saving": "json.dumps in a thread", "restoring": "json.loads in a thread"}
    return bars(
        "How long the event loop waits for a state of 50 MB",
        "milliseconds",
        {
            group: [
                Bar(name, max(gap, 0.1), name not in today.values(), f"{gap:.0f}")
                for name, gap in gaps.items()
                if name.startswith(begin) or name == today[group]
            ]
            for group, begin in groups.items()
        },
    )


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("directory", nargs="?", default=".", type=Path)
    parser.add_argument("--write", action="store_true", help=f"rewrite the table of {SECTIONS['state'].page}")
    given = parser.parse_args()
    rounds: list[dict[str, tuple[float, float, float]]] = []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=given.directory) as directory:
            rounds.append(asyncio.run(one_round(Path(directory), random.Random(number))))
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr)
        gc.collect()
    medians = {
        name: [statistics.median(one[name][of] for one in rounds) for of in range(3)] for name in rounds[0]
    }
    rows = [
        (name, f"{seconds:.2f}", f"{processor:.2f}", f"{gap * 1000:.0f}")
        for name, (seconds, processor, gap) in medians.items()
    ]
    text = table(["case", "seconds", "of a processor", "gap, ms"], rows)
    print(text)
    if given.write:
        SECTIONS["state"].write(
            text,
            method=f"{ENTRIES:,} entries, median of {ROUNDS} rounds.",
            cannot_tell=CANNOT_TELL,
            pictures={
                "large-states.svg": picture({name: 1000 * gap for name, (_, _, gap) in medians.items()})
            },
        )


if __name__ == "__main__":
    main()

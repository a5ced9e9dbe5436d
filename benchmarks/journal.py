"""
What a journalled operation costs, as ratios to one write and fdatasync on the same disk in the same run.

    ./run sh python benchmarks/journal.py [DIRECTORY]

Each round measures, one after the other: the disk itself (write 200 bytes behind each other, fdatasync each
time), sqlite3 (WAL, synchronous=FULL, one commit each, in a thread of its own), and operations that begin, with
1, 16, 64 and 1000 at the same time. Figures are medians over the rounds. DIRECTORY (default: the current one) should be on
the disk in question; a tmpfs has nothing to sync.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

from shockproof import ErrorRecoveryService

ROUNDS = 7
CONCURRENT = (1, 16, 64, 1000)
SYNCS = 300


def disk(directory: Path) -> float:
    """Seconds for one write and fdatasync behind the last one, in a file with its space reserved."""
    path = directory / "plain"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(handle, 0, 4 << 20)
        os.fsync(handle)
        taken = []
        for _ in range(SYNCS):
            begun = time.perf_counter()
            os.write(handle, b"x" * 200)
            os.fdatasync(handle)
            taken.append(time.perf_counter() - begun)
    finally:
        os.close(handle)
        path.unlink()
    return statistics.median(taken)


def sqlite(directory: Path) -> float:
    """Seconds for one commit of a row of 200 bytes."""
    path = directory / "rows.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        connection.execute("create table rows (body blob)")
        taken = []
        for _ in range(SYNCS):
            begun = time.perf_counter()
            connection.execute("insert into rows values (?)", (b"x" * 200,))
            taken.append(time.perf_counter() - begun)
    finally:
        connection.close()
        for each in directory.glob("rows.sqlite*"):
            each.unlink()
    return statistics.median(taken)


async def operations(
    recovery: ErrorRecoveryService, concurrent: int, round_: int
) -> tuple[float, float, float]:
    """Seconds that the median beginning took, beginnings per second, and the worst stall of the loop."""
    each = max(2, 600 // concurrent)
    taken: list[float] = []
    running = True
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while running:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - before - 0.001)

    async def worker(number: int) -> None:
        for turn in range(each):
            operation = recovery.operation("bench", key=f"{concurrent}.{round_}.{number}.{turn}", size=turn)
            begun = time.perf_counter()
            await operation.__aenter__()
            taken.append(time.perf_counter() - begun)
            operation.abandon()
            await operation.__aexit__(None, None, None)

    watcher = asyncio.ensure_future(watch())
    begun = time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(concurrent)))
    elapsed = time.perf_counter() - begun
    running = False
    await watcher
    return statistics.median(taken), 2 * len(taken) / elapsed, worst


async def main(directory: Path) -> None:
    recovery = ErrorRecoveryService(directory / "state", directory / "errors")
    async with recovery.operation("warm up"):
        pass
    plain: list[float] = []
    rows: list[float] = []
    found: dict[int, list[tuple[float, float, float]]] = {concurrent: [] for concurrent in CONCURRENT}
    gc.disable()
    for round_ in range(ROUNDS):
        plain.append(disk(directory))
        rows.append(sqlite(directory))
        for concurrent in CONCURRENT:
            found[concurrent].append(await operations(recovery, concurrent, round_))
            gc.collect()
    await recovery.aclose()
    sync = statistics.median(plain)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {directory}")
    print(f"one write + fdatasync        {sync * 1000:8.3f} ms   1.00")
    commit = statistics.median(rows)
    print(
        f"one sqlite3 commit           {commit * 1000:8.3f} ms   {commit / sync:.2f}   {1 / commit:10,.0f} /s"
    )
    for concurrent, rounds in found.items():
        begin = statistics.median(one[0] for one in rounds)
        rate = statistics.median(one[1] for one in rounds)
        worst = statistics.median(one[2] for one in rounds)
        print(
            f"begin, {concurrent:4} at a time       {begin * 1000:8.3f} ms   {begin / sync:.2f}   "
            f"{rate:10,.0f} records/s   {1 / rate / sync:.3f} syncs each   worst stall {worst * 1000:.1f} ms"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as place:
        asyncio.run(main(Path(place)))

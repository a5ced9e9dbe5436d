"""
What the journal costs, as ratios to one write and fdatasync on the same disk in the same run.

    ./run sh python benchmarks/journal.py [DIRECTORY] [--rounds 15]     # the table, on a terminal
    ./run bench journal                                                 # and into docs/explanation/journal.md
    ./run sh python benchmarks/journal.py [DIRECTORY] --keys 100000

Three things, with 1, 16, 64 and 1000 of them at the same time: an operation begins; an operation begins and ends; an order
goes through ``once``, to a venue that answers at once. And one commit to sqlite3 (WAL, synchronous=FULL) of a connection in this
thread. Each is measured once in a round, in an order that changes, and the disk itself (200 bytes written behind each other in a
file whose space is reserved, fdatasync each time) right before and right behind it: the ratio is to the mean of these two. Shown
are medians over the rounds and, in brackets, the quartiles; and the best round of each beside the best of the disk, which is what
is left when others use the machine as well.

With ``--keys``: what so many completed keys take of memory, how long a new segment with all of them takes, and how
long a new life to take them over.

DIRECTORY (default: the current one) should be on the disk in question; a tmpfs has nothing to sync.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sqlite3
import statistics
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

from published import SECTIONS, setting, table

from shockproof import NOT_FOUND, ErrorRecoveryService
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.journal_files import JournalFiles, read_journal
from shockproof.memory.journal.record import Kind
from shockproof.vocabulary.look_up import LookUp

CONCURRENT = (1, 16, 64, 1000)
SYNCS = 100
FEWEST = 400
"""Fewest of a kind in one measurement."""


class Disk:
    """The disk itself."""

    def __init__(self, directory: Path) -> None:
        self.handle = os.open(directory / "plain", os.O_WRONLY | os.O_CREAT, 0o600)
        os.posix_fallocate(self.handle, 0, 4 << 20)
        os.fsync(self.handle)

    def sync(self) -> float:
        """Seconds for one write and fdatasync behind the last one: the median of some."""
        os.lseek(self.handle, 0, os.SEEK_SET)
        taken = []
        for _ in range(SYNCS):
            begun = time.perf_counter()
            os.write(self.handle, b"x" * 200)
            os.fdatasync(self.handle)
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken)


class Sqlite:
    """A table of rows of 200 bytes."""

    def __init__(self, directory: Path) -> None:
        self.connection = sqlite3.connect(directory / "rows.sqlite", isolation_level=None)
        self.connection.execute("pragma journal_mode=wal")
        self.connection.execute("pragma synchronous=full")
        self.connection.execute("create table rows (body blob)")

    async def measure(self) -> tuple[float, float, float]:
        """Seconds for a commit; commits per second; no loop to stall."""
        taken = []
        for _ in range(SYNCS):
            begun = time.perf_counter()
            self.connection.execute("insert into rows values (?)", (b"x" * 200,))
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken), len(taken) / sum(taken), 0.0


async def many(
    one: Callable[[str], Awaitable[float]], concurrent: int, name: str
) -> tuple[float, float, float]:
    """Seconds that the median took, how many per second, and the worst stall of the loop."""
    each = -(-FEWEST // concurrent)
    taken: list[float] = []
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - before - 0.001)

    async def worker(number: int) -> None:
        for turn in range(each):
            taken.append(await one(f"{name}.{number}.{turn}"))  # noqa: PERF401  in the order in which they end

    gc.collect()
    watcher = asyncio.ensure_future(watch())
    begun = time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(concurrent)))
    elapsed = time.perf_counter() - begun
    watcher.cancel()
    return statistics.median(taken), len(taken) / elapsed, worst


def kinds(recovery: ErrorRecoveryService) -> dict[str, Callable[[str], Awaitable[float]]]:
    """What is measured: does it once, and gives the seconds."""
    orders = recovery.service("orders", timeout=30.0)

    async def submit(client_order_id: str) -> dict[str, str]:
        return {"id": client_order_id}

    async def find(key: str) -> LookUp[dict[str, str]]:
        return NOT_FOUND

    async def begin(key: str) -> float:
        operation = recovery.operation("begin", key=key, size=10)
        begun = time.perf_counter()
        await operation.__aenter__()
        taken = time.perf_counter() - begun
        operation.abandon()
        await operation.__aexit__(None, None, None)
        return taken

    async def begin_and_end(key: str) -> float:
        begun = time.perf_counter()
        async with recovery.operation("begin and end", key=key, size=10):
            pass
        return time.perf_counter() - begun

    async def once(key: str) -> float:
        begun = time.perf_counter()
        await orders.once(key, confirm=find, key_argument="client_order_id").call(submit)
        return time.perf_counter() - begun

    return {
        "an operation begins": begin,
        "an operation begins and ends": begin_and_end,
        "an order goes through once": once,
    }


def spread(values: list[float], form: str) -> str:
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


CANNOT_TELL = (
    "how long your disk takes: that is the unit, and the slower it is, the smaller the ratios. What is above one sync is the way "
    "through two threads, and from 16 at a time on Python's own work."
)


async def compare(directory: Path, rounds: int, *, writes: bool) -> None:
    """Print the table, or write it."""
    disk, sqlite = Disk(directory), Sqlite(directory)
    recovery = ErrorRecoveryService(directory / "state", directory / "errors")
    async with recovery.operation("warm up"):
        pass
    things: dict[str, Callable[[str], Awaitable[tuple[float, float, float]]]] = {
        "one sqlite3 commit (WAL, synchronous=FULL)": lambda _: sqlite.measure()
    }
    for kind, one in kinds(recovery).items():
        for concurrent in CONCURRENT:
            things[f"{kind}, {concurrent} at a time"] = lambda name, one=one, concurrent=concurrent: many(  # type: ignore[misc]  # mypy gives up on lambdas with defaults
                one, concurrent, name
            )
    found: dict[str, list[tuple[float, float, float, float]]] = {thing: [] for thing in things}
    plain: list[float] = []
    rng = random.Random(1)
    gc.disable()
    for round_ in range(rounds):
        order = list(things)
        rng.shuffle(order)
        before = disk.sync()
        for thing in order:
            took, rate, stall = await things[thing](f"{thing}.{round_}")
            after = disk.sync()
            found[thing].append((took, 1 / rate, stall, (before + after) / 2))
            before = after
            plain.append(after)
    await recovery.aclose()
    unit = f"one write and fdatasync {spread([one * 1000 for one in plain], '.3f')} ms"
    print(f"{setting()}, {rounds} rounds; {unit}, best {min(plain) * 1000:.3f} ms")
    print(f"{'in syncs':46} {'one waits':24} {'best':>6}   {'each costs':24} {'best':>6}   worst stall, ms")
    for thing, rows in found.items():
        waits, costs = [row[0] / row[3] for row in rows], [row[1] / row[3] for row in rows]
        best_wait, best_cost = min(row[0] for row in rows), min(row[1] for row in rows)
        print(
            f"{thing:46} {spread(waits, '.2f'):24} {best_wait / min(plain):6.2f}   "
            f"{spread(costs, '.3f'):24} {best_cost / min(plain):6.3f}   "
            f"{spread([row[2] * 1000 for row in rows], '.1f')}"
        )
    if writes:
        shown = [
            (
                thing,
                two_digits(statistics.median(row[0] / row[3] for row in rows)),
                two_digits(statistics.median(row[1] / row[3] for row in rows)),
                f"{statistics.median(row[2] for row in rows) * 1000:.1f}" if row_has_a_loop(thing) else "-",
            )
            for thing, rows in found.items()
        ]
        SECTIONS["journal"].write(
            table(["in syncs of the disk", "one waits", "each costs", "the loop stood still, ms"], shown),
            method=f"{rounds} rounds, medians; {unit}.",
            cannot_tell=CANNOT_TELL,
        )


def two_digits(number: float) -> str:
    """To be read: 0.58, 6.2, 37, 920."""
    return f"{float(f'{number:.2g}'):.0f}" if number >= 10 else f"{number:.2g}"


def row_has_a_loop(thing: str) -> bool:
    return "sqlite3" not in thing


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def many_keys(directory: Path, count: int) -> None:
    """Print what so many completed keys cost."""
    place = directory / "journal"
    files = JournalFiles(place, layer=SystemFiles())
    files.open()
    gc.collect()
    before = resident()
    for number in range(count):
        key = f"sp{number:016d}"
        result = {
            "id": key,
            "symbol": "BTCUSDT",
            "price": {"$": "decimal", "v": "64000.10"},
            "status": "FILLED",
        }
        files.table.apply(
            Kind.END,
            {
                "operation": "orders.once",
                "key": key,
                "status": "completed",
                "result": result,
                "at": 1e9 + number,
            },
        )
    gc.collect()
    held = resident() - before
    begun = time.perf_counter()
    files.begin_segment()
    written = time.perf_counter() - begun
    size = next(place.glob("journal-*.wal")).stat().st_size // 2
    begun = time.perf_counter()
    found = read_journal(SystemFiles(), place)
    read = time.perf_counter() - begun
    assert len(found.table) == count
    files.close()
    print(
        f"{count:,} completed keys with a result of about 100 bytes: {held / count:.0f} bytes of memory and "
        f"{size / count:.0f} on the disk for each; a segment with all of them {written:.2f} s, taking them over {read:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("directory", nargs="?", default=".")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--write", action="store_true", help=f"rewrite the table of {SECTIONS['journal'].page}"
    )
    parser.add_argument("--keys", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds {arguments.rounds}: quartiles need 2 or more")
    with tempfile.TemporaryDirectory(dir=arguments.directory) as place:
        if arguments.keys:
            many_keys(Path(place), arguments.keys)
        else:
            asyncio.run(compare(Path(place), arguments.rounds, writes=arguments.write))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

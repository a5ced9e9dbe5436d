"""
What holds the event loop up, and what does not: gaps of the loop, and records that are where they belong.

    ./run sh python benchmarks/loop.py [--rounds 5] [--without-state]   # the tables, on a terminal
    ./run bench loop                                                    # and into docs/explanation/the-loop.md

A task on the loop asks to be woken every millisecond. A gap is how much later than that it was, at the worst, less the same for the
ticker alone in the same round; p99.9 is of all its wake-ups while the case ran. The large state is that of benchmarks/state.py. In
the second table another thread does something, over and over, for half a second. In the third, programs record errors
and end in every way that there is; each line of their files is read back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiofiles
import state
from published import SECTIONS, Bar, bars, setting, table

from shockproof import ErrorRecoveryService
from shockproof.testing import VirtualClock

RECORDS = 2_000
PATIENCE = 120.0
SHORT_ONES = 4
"""How often in each round what takes half a second is done: one gap says little."""


@dataclass(frozen=True)
class Gap:
    """One round of one case, in milliseconds."""

    worst: float
    alone: float
    p999: float = 0.0
    took: float = 0.0

    @property
    def beyond(self) -> float:
        return max(0.0, self.worst - self.alone)


class Ticker:
    """Wakes every millisecond on the running loop, and keeps how late that was."""

    def __init__(self) -> None:
        self.lates: list[float] = []

    async def tick(self) -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            self.lates.append(1000 * (time.perf_counter() - due))


async def watched(work: Callable[[], Awaitable[object]]) -> Gap:
    """The gaps while *work* runs, and those of the ticker alone for as long."""
    ticker = Ticker()
    task = asyncio.create_task(ticker.tick())
    await asyncio.sleep(0.05)
    gc.collect()
    await asyncio.sleep(0.01)
    ticker.lates.clear()
    begun = time.perf_counter()
    await work()
    took = time.perf_counter() - begun
    await asyncio.sleep(0.02)
    lates = sorted(ticker.lates)
    ticker.lates.clear()
    await asyncio.sleep(min(1.0, max(0.3, took)))
    alone = max(ticker.lates)
    task.cancel()
    return Gap(lates[-1], alone, lates[int(len(lates) * 0.999)], 1000 * took)


async def failing(number: int) -> None:
    raise ConnectionError(f"{os.getpid()}/{number}")


async def record(recovery: ErrorRecoveryService, count: int, first: int = 0) -> None:
    """*count* errors of one service, each in a turn of the loop of its own."""
    api = recovery.service("api", max_retries=0, circuit_threshold=None)
    for number in range(first, first + count):
        with contextlib.suppress(ConnectionError):
            await api.call(failing, number)
        await asyncio.sleep(0)


# -- gaps of the loop ---------------------------------------------------------------------------------------------------

FIRST_ERROR = """
import asyncio, json, sys, time
{imports}
async def failing():
    raise ConnectionError("reset")

async def main():
    {setup}
    lates = []
    async def tick():
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            lates.append(1000 * (time.perf_counter() - due))
    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.3)
    alone = max(lates)
    lates.clear()
    {error}
    await asyncio.sleep(0.5)
    found = sorted(lates)
    print(json.dumps([found[-1], alone, found[int(len(found) * 0.999)]]))

asyncio.run(main())
"""

OURS = {
    "imports": "from shockproof import ErrorRecoveryService",
    "setup": "api = ErrorRecoveryService('state', 'errors').service('api', max_retries=0)",
    "error": "await asyncio.gather(api.call(failing), return_exceptions=True)",
}
BY_HAND = {
    "imports": "",
    "setup": "",
    "error": """
    try:
        await failing()
    except ConnectionError as error:
        import traceback
        from pydantic import BaseModel
        class Record(BaseModel):
            error_type: str
            error_message: str
            stack_trace: str | None = None
        record = Record(error_type="ConnectionError", error_message=str(error), stack_trace=traceback.format_exc())
        with open("errors.jsonl", "a") as file:
            file.write(record.model_dump_json() + "\\n")
    """.strip(),
}


def first_error(program: dict[str, str]) -> Gap:
    """In a process of its own, whose first error it is."""
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-c", FIRST_ERROR.format(**program)],
            cwd=place,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
    worst, alone, p999 = json.loads(done.stdout)
    return Gap(worst, alone, p999)


async def full_executor(directory: Path, write: Callable[[Path], Awaitable[object]]) -> Gap:
    """*write*, while calls that block for two seconds fill the default executor."""
    loop, over = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(4))
    blocked = [loop.run_in_executor(None, over.wait, 2.0) for _ in range(4)]
    gap = await watched(lambda: write(directory))
    over.set()
    await asyncio.gather(*blocked)
    return gap


async def write_ours(directory: Path) -> None:
    async with ErrorRecoveryService(directory / "state", directory / "errors") as recovery:
        await record(recovery, 100)
        await recovery.save_state(cached_data={"AAPL": 150.25}, force=True)


async def write_with_aiofiles(directory: Path) -> None:
    for number in range(100):
        async with aiofiles.open(directory / "errors.jsonl", "a") as file:
            await file.write(json.dumps({"error": number}) + "\n")


async def midnight(directory: Path) -> Gap:
    """Errors over midnight, with closed days compressed and old ones deleted."""
    clock = VirtualClock()
    clock.step_wall(datetime(2026, 11, 25, 23, 59, 59, tzinfo=UTC).timestamp() - clock.time())
    errors = directory / "errors"
    errors.mkdir(parents=True)
    for day in range(1, 25):
        (errors / f"errors_202611{day:02d}.jsonl").write_text('{"x": "%s"}\n' % ("x" * 1000) * 2_000)
    options: Any = {"compress": True, "keep_days": 10}
    recovery = ErrorRecoveryService(directory / "state", errors, clock=clock, error_log=options)

    async def over_midnight() -> None:
        await record(recovery, 1_000)
        clock.step_wall(2.0)
        await record(recovery, 1_000, 1_000)
        await recovery.aclose()

    return await watched(over_midnight)


async def gaps_of(directory: Path) -> dict[str, Gap]:
    found = {
        "default executor full of blocking calls: 100 errors and a save": await full_executor(
            directory / "ours", write_ours
        )
    }
    (directory / "aiofiles").mkdir()
    found["the same with aiofiles: 100 lines"] = await full_executor(
        directory / "aiofiles", write_with_aiofiles
    )
    found["midnight: 2,000 errors, old days compressed and deleted"] = await midnight(directory / "midnight")
    return found


def with_gaps_of_states(rounds: int) -> dict[str, list[Gap]]:
    found: dict[str, list[Gap]] = {}
    wanted = {
        "saved, everything changed": "saving 50 MB, everything changed",
        "saved, 1 % changed": "the same, 1 % changed",
        "json.dumps in a thread": "the same with json.dumps in a thread",
        "restored": "restoring that state while the loop runs",
        "restored, the collector off": "the same, the collector off",
        "json.loads in a thread": "the same with json.loads in a thread",
    }
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=".") as place:
            cases = asyncio.run(state.one_round(Path(place), random.Random(number)))
        for case, name in wanted.items():
            seconds, _, gap = cases[case]
            found.setdefault(name, []).append(Gap(1000 * gap, 0.0, math.nan, 1000 * seconds))
        gc.collect()
    return found


# -- what another thread does -----------------------------------------------------------------------------------------

SCRATCH = os.open(os.devnull, os.O_WRONLY)
DOCUMENT = {str(number): [number] * 10 for number in range(30_000)}
HEAP = [{"n": number} for number in range(300_000)]


def busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


THREADS: dict[str, Callable[[], object]] = {
    "nothing": lambda: time.sleep(0.01),
    "Python without a pause": lambda: busy(0.01),
    "300 us of Python, then a small write": lambda: (busy(0.0003), os.write(SCRATCH, b"x")),
    "the same and time.sleep(0.00005)": lambda: (busy(0.0003), os.write(SCRATCH, b"x"), time.sleep(0.00005)),
    "one json.dumps of 2 MB": lambda: json.dumps(DOCUMENT),
    "one full garbage collection, 300,000 objects alive": gc.collect,
}


async def beside(work: Callable[[], object]) -> Gap:
    """The gaps of the loop while another thread does *work* over and over."""
    over = threading.Event()

    def again() -> None:
        while not over.is_set():
            work()

    thread = threading.Thread(target=again)

    async def run() -> None:
        thread.start()
        await asyncio.sleep(0.5)
        over.set()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)

    return await watched(run)


async def share_of_a_processor(*, monitor: bool) -> float:
    """Percent that a loop takes which does nothing, for two seconds."""
    with tempfile.TemporaryDirectory() as place:
        recovery = ErrorRecoveryService(f"{place}/state", f"{place}/errors", loop_monitor=monitor)
        await recovery.start()
        await asyncio.sleep(0.2)
        begun, processor = time.perf_counter(), time.process_time()
        await asyncio.sleep(2.0)
        share = (time.process_time() - processor) / (time.perf_counter() - begun)
        await recovery.aclose()
    return 100 * share


# -- programs that end ------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, contextlib, os, signal, sys, warnings
from shockproof import ErrorRecoveryService

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads
recovery = ErrorRecoveryService(sys.argv[1] + "/state", sys.argv[1] + "/errors")
api = recovery.service("api", max_retries=0, circuit_threshold=None)

async def failing(number):
    raise ConnectionError(f"{os.getpid()}/{number}")

async def record(count, first=0):
    for number in range(first, first + count):
        with contextlib.suppress(ConnectionError):
            await api.call(failing, number)
        await asyncio.sleep(0)

"""

ENDS: dict[str, str] = {
    "the last statement": "asyncio.run(record(COUNT))",
    "sys.exit": "asyncio.run(record(COUNT)); sys.exit(3)",
    "an exception": "asyncio.run(record(COUNT)); raise SystemError('over')",
    "SIGTERM, handled as the docs say": """
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    async with recovery:
        await record(COUNT)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
with contextlib.suppress(asyncio.CancelledError):
    asyncio.run(main())
""",
    "SIGTERM that nobody handles": "asyncio.run(record(COUNT)); os.kill(os.getpid(), signal.SIGTERM)",
    "kill -9": "asyncio.run(record(COUNT)); os.kill(os.getpid(), signal.SIGKILL)",
    "fork: half by the child": """
asyncio.run(record(COUNT // 4))
child = os.fork()
asyncio.run(record(COUNT // 2 if child == 0 else COUNT // 4, COUNT // 2))
if child:
    os.waitpid(child, 0)
""",
}


@dataclass(frozen=True)
class Found:
    """What is on the disk when a program has ended."""

    recorded: int
    whole: int
    right: int
    torn: int

    @property
    def row(self) -> tuple[str, ...]:
        return tuple(
            f"{n:,}" for n in (self.recorded, self.whole, self.right, self.torn, self.recorded - self.whole)
        )


def read_back(errors: Path, recorded: int, zone: Any = UTC) -> Found:
    """Each line of the files, each record counted once."""
    seen: Counter[str] = Counter()
    right = torn = 0
    for path in sorted(errors.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                fields = json.loads(line)
            except ValueError:
                torn += 1
                continue
            seen[fields["error_message"]] += 1
            day = datetime.fromisoformat(fields["timestamp"]).astimezone(zone)
            right += path.name == f"errors_{day:%Y%m%d}.jsonl"
    assert not seen or max(seen.values()) == 1, "a record was written twice"
    return Found(recorded, len(seen), right, torn)


def ended(code: str, processes: int = 1) -> Found:
    """What *processes* programs leave that share a directory."""
    with tempfile.TemporaryDirectory() as place:
        each = RECORDS // processes
        command = [sys.executable, "-c", PROGRAM + code.replace("COUNT", str(each)), place]
        running = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(processes)]  # noqa: S603 - as above
        for one in running:
            one.wait(PATIENCE)
        return read_back(Path(place) / "errors", each * processes)


async def days(begin: datetime, jumps: Iterator[float], zone: ZoneInfo | None) -> Found:
    """Errors while the wall clock goes by *jumps* of seconds, each in the file of its own date."""
    with tempfile.TemporaryDirectory() as place:
        clock = VirtualClock()
        clock.step_wall(begin.timestamp() - clock.time())
        errors = Path(place) / "errors"
        recovery = ErrorRecoveryService(Path(place) / "state", errors, clock=clock, error_log={"zone": zone})
        for count, jump in enumerate(jumps):
            await record(recovery, 1, count)
            clock.step_wall(jump)
        await recovery.aclose()
        return read_back(errors, RECORDS, zone or UTC)


def programs() -> dict[str, Found]:
    found = {name: ended(code) for name, code in ENDS.items()}
    found["four processes on one file"] = ended("asyncio.run(record(COUNT))", 4)
    berlin, step = ZoneInfo("Europe/Berlin"), 3 * 86_400 / RECORDS
    jumps = random.Random(7)
    courses: dict[str, tuple[datetime, Iterator[float], ZoneInfo | None]] = {
        "three days around the beginning of summer time, Berlin": (
            datetime(2026, 3, 28, tzinfo=UTC),
            (step for _ in range(RECORDS)),
            berlin,
        ),
        "three days around its end": (
            datetime(2026, 10, 24, tzinfo=UTC),
            (step for _ in range(RECORDS)),
            berlin,
        ),
        "a clock that is set, forward and back by up to two days": (
            datetime(2026, 11, 25, 12, tzinfo=UTC),
            (jumps.uniform(-172_800, 172_800) for _ in range(RECORDS)),
            None,
        ),
    }
    for name, course in courses.items():
        found[name] = asyncio.run(days(*course))
    return found


# -- the page -----------------------------------------------------------------------------------------------------------

CANNOT_TELL = (
    "what your own code does on the loop: [the monitor](../how-to/loop-monitor.md) names it. Nor what a slow disk does, see "
    "[what an error costs](cost-of-an-error.md). With other programs on the processors every gap is as long as the system lets this one wait, and the "
    "ticker alone takes only part of that out. A SIGKILL, or a SIGTERM that nobody handles, loses what was not written yet; "
    "how much that is depends on the moment."
)


def measured(rounds: int, *, with_state: bool) -> tuple[dict[str, list[Gap]], dict[str, list[Gap]]]:
    gaps: dict[str, list[Gap]] = {}
    threads: dict[str, list[Gap]] = {}
    for number in range(rounds):
        ours = {
            "the first error of a process": first_error(OURS),
            "the same by hand: pydantic, traceback, a file": first_error(BY_HAND),
        }
        with tempfile.TemporaryDirectory(dir=".") as place:
            ours |= asyncio.run(gaps_of(Path(place)))
        for name, gap in ours.items():
            gaps.setdefault(name, []).append(gap)
        for _ in range(SHORT_ONES):
            for name, work in THREADS.items():
                threads.setdefault(name, []).append(asyncio.run(beside(work)))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    if with_state:
        HEAP.clear()
        gaps |= with_gaps_of_states(rounds)
    return gaps, threads


def median(gaps: list[Gap], of: Callable[[Gap], float]) -> float:
    return statistics.median(of(gap) for gap in gaps)


def picture(gaps: dict[str, list[Gap]], threads: dict[str, list[Gap]]) -> str:
    def group(cases: dict[str, list[Gap]], ours: Callable[[str], bool]) -> list[Bar]:
        medians = {name: median(rounds, lambda gap: gap.beyond) for name, rounds in cases.items()}
        return [Bar(name, max(0.1, gap), ours(name), f"{gap:.1f}") for name, gap in medians.items()]

    return bars(
        "How long the event loop stands still",
        "milliseconds",
        {
            "on the loop and for the disk": group(
                gaps, lambda name: "by hand" not in name and "the same with" not in name
            ),
            "another thread does, over and over": group(threads, lambda name: "sleep" in name),
        },
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--without-state", action="store_true", help="leave out the large state, which takes longest"
    )
    parser.add_argument("--write", action="store_true", help=f"rewrite the tables of {SECTIONS['loop'].page}")
    given = parser.parse_args()
    if given.write and given.without_state:
        parser.error("--write needs all cases: leave --without-state out")
    gaps, threads = measured(given.rounds, with_state=not given.without_state)
    found = programs()
    idle = {
        name: statistics.median(
            asyncio.run(share_of_a_processor(monitor=monitor)) for _ in range(given.rounds)
        )
        for name, monitor in {"without": False, "with `loop_monitor=True`": True}.items()
    }

    def number(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.1f}"

    parts = [
        table(
            ["case", "gap, ms", "p99.9, ms", "took, s"],
            [
                (
                    name,
                    number(median(rounds, lambda gap: gap.beyond)),
                    number(median(rounds, lambda gap: gap.p999)),
                    f"{median(rounds, lambda gap: gap.took) / 1000:.2f}" if rounds[0].took else "-",
                )
                for name, rounds in gaps.items()
            ],
        ),
        table(
            ["another thread does, over and over", "gap of the loop, ms", "p99.9, ms"],
            [
                (
                    name,
                    number(median(rounds, lambda gap: gap.beyond)),
                    number(median(rounds, lambda gap: gap.p999)),
                )
                for name, rounds in threads.items()
            ],
        ),
        table(
            [
                "how it ends, or what the clock does",
                "recorded",
                "whole lines",
                "in the file of its date",
                "torn",
                "lost",
            ],
            [(name, *one.row) for name, one in found.items()],
        ),
        table(
            ["a loop that does nothing", "of a processor, %"],
            [(name, f"{share:.2f}") for name, share in idle.items()],
        ),
    ]
    text = "\n\n".join(parts)
    print(f"{setting(('aiofiles',))}\n\n{text}")
    if given.write:
        SECTIONS["loop"].write(
            text,
            method=f"Medians of {given.rounds} rounds; {RECORDS:,} records for each program.",
            cannot_tell=CANNOT_TELL,
            versions=("aiofiles", "pydantic"),
            pictures={"the-loop.svg": picture(gaps, threads)},
        )
    lossy = {"SIGTERM that nobody handles", "kill -9"}
    wrong = [
        name
        for name, one in found.items()
        if one.right != one.whole or one.torn or (one.whole != one.recorded and name not in lossy)
    ]
    for name in wrong:
        print(f"not as it should be: {name}: {found[name]}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

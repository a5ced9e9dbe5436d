"""One run of one case: in a process of its own, that `benchmarks/errors.py` starts and whose answer it reads."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flood.contenders import CONTENDERS, FILE, Contender, Ours
from flood.failures import failing
from shockproof import ErrorRecoveryService

TICK = 0.001
ALONE = 0.5
PER_TURN = 10


class Ticker:
    """Asks to be woken every millisecond, and keeps how late it was."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            self.late.append(time.perf_counter() - due)

    async def alone(self) -> float:
        """The worst without any work."""
        await asyncio.sleep(ALONE)
        worst = max(self.late)
        self.late.clear()
        return worst

    async def figures(self, alone: float) -> dict[str, float]:
        await asyncio.sleep(2 * TICK)
        self.task.cancel()
        late = sorted(self.late)
        return {
            "gap_ms": 1000 * max(0.0, late[-1] - alone),
            "p999_ms": 1000 * late[min(len(late) - 1, int(len(late) * 0.999))],
            "alone_ms": 1000 * alone,
        }


def read_back(directory: Path) -> tuple[set[int], int, int]:
    """The numbers of all records, how many lines there are, and how many records gaps tell of."""
    numbers: set[int] = set()
    lines = dropped = 0
    for path in sorted(directory.glob("errors_*")):
        for line in path.open("rb"):
            record = json.loads(line)
            if record["error_type"] == "RecordsDropped":
                dropped += sum(record["context"]["dropped"].values())
            else:
                lines += 1
                numbers.add(record["context"]["number"])
    return numbers, lines, dropped


async def flood(name: str, count: int, stacks: int = 1) -> dict[str, float]:
    """All at once: ten errors in each turn of the loop, from so many different stacks in turn."""
    with tempfile.TemporaryDirectory() as folder:
        log_dir = Path(folder, "log")
        log_dir.mkdir()
        fail = failing(Path(folder), stacks)
        contender: Contender = CONTENDERS[name]()
        errors = [contender.prepare(fail(number), number) for number in range(count)]
        await contender.open(log_dir / FILE)
        gc.collect()
        gc.freeze()
        ticker = Ticker()
        alone = await ticker.alone()
        begun, loop_time, cpu = time.perf_counter(), time.thread_time(), time.process_time()
        for first in range(0, count, PER_TURN):
            for error in errors[first : first + PER_TURN]:
                await contender.log(error)
            await asyncio.sleep(0)
        emitted, loop_time = time.perf_counter() - begun, time.thread_time() - loop_time
        await contender.close()
        durable, cpu = time.perf_counter() - begun, time.process_time() - cpu
        figures = await ticker.figures(alone)
        numbers, lines, _ = read_back(log_dir)
        assert lines == len(numbers) == count, (lines, len(numbers))
        size = sum(path.stat().st_size for path in log_dir.iterdir())
        return figures | {
            "emitted_per_s": count / emitted,
            "durable_per_s": count / durable,
            "loop_us": 1e6 * loop_time / count,
            "cpu_us": 1e6 * cpu / count,
            "line_bytes": size / count,
        }


async def slow(name: str, seconds: float) -> dict[str, float]:
    """A thousand errors a second are asked for, while every write to a file hangs."""
    wanted = 2.0 + 2 * seconds
    with tempfile.TemporaryDirectory() as folder:
        log_dir = Path(folder, "log")
        log_dir.mkdir()
        fail = failing(Path(folder))
        contender: Contender = CONTENDERS[name]()
        errors = [contender.prepare(fail(number), number) for number in range(int(wanted / TICK))]
        await contender.open(log_dir / FILE)
        gc.collect()
        gc.freeze()
        ticker = Ticker()
        alone = await ticker.alone()
        flag = Path(os.environ["SLOW_WHILE"])
        flag.touch()
        submitted = most_queued = 0
        begun = time.perf_counter()
        while (now := time.perf_counter() - begun) < wanted:
            for error in errors[submitted : int(now / TICK)]:
                await contender.log(error)
                submitted += 1
                if time.perf_counter() - begun >= wanted:  # some wait for the disk in here
                    break
            if isinstance(contender, Ours):
                most_queued = max(most_queued, contender.errors.statistics().queued_bytes)
            await asyncio.sleep(TICK)
        figures = await ticker.figures(alone)
        written = sum(path.read_bytes().count(b"\n") for path in log_dir.iterdir())
        flag.unlink()
        await contender.close()
        _, lines, dropped = read_back(log_dir)
        assert lines + dropped == submitted, (lines, dropped, submitted)
        return figures | {
            "submitted": submitted,
            "written_meanwhile": written,
            "dropped": dropped,
            "queued_bytes": most_queued,
        }


async def mishap(kind: str) -> dict[str, float]:
    """The disk refuses for half a second, and is back: seconds until records are written again."""
    with tempfile.TemporaryDirectory() as folder:
        log_dir = Path(folder, "log")
        fail = failing(Path(folder))
        ours = Ours()
        if (
            os.getuid() == 0
        ):  # nothing is forbidden to root; after a first record, for which modules are imported
            await ours.open(Path(folder, "first", FILE))
            await ours.log(ours.prepare(fail(-1), -1))
            await ours.close()
            Path(folder).chmod(0o777)
            os.seteuid(65_534)
        await ours.open(log_dir / FILE)
        path = log_dir / FILE
        submitted = 0
        states: set[str] = set()
        kept = 0

        async def go_on(seconds: float) -> None:
            nonlocal submitted
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                await ours.log(ours.prepare(fail(submitted), submitted))
                submitted += 1
                await asyncio.sleep(TICK)
                states.add(ours.errors.statistics().state)

        await go_on(0.3)
        assert await ours.errors.flush(30.0)
        states.clear()
        if kind == "full":
            saved = path.with_name("saved")
            path.rename(saved)
            path.symlink_to("/dev/full")
        elif kind == "directory removed":
            kept = path.read_bytes().count(b"\n")
            shutil.rmtree(log_dir)
            log_dir.write_text("in the way")  # else it would just be made again
        else:
            log_dir.chmod(0)
        await go_on(0.5)
        assert "degraded" in states, states
        if kind == "full":
            path.unlink()
            saved.rename(path)
        elif kind == "directory removed":
            log_dir.unlink()
        else:
            log_dir.chmod(0o700)
        back = time.perf_counter()
        before = ours.errors.statistics().written
        while ours.errors.statistics().written == before:
            await go_on(0.001)
        resumed = time.perf_counter() - back
        await go_on(0.1)
        await ours.close()
        os.seteuid(os.getuid())
        _, lines, dropped = read_back(log_dir)
        assert dropped == 0
        assert lines + kept == submitted, (lines, kept, submitted)
        return {"resumed_s": resumed}


async def executor_full(name: str) -> dict[str, float]:
    """Every thread of the loop's default executor is blocked for half a second: until one error is in the file."""
    with tempfile.TemporaryDirectory() as folder:
        log_dir = Path(folder, "log")
        log_dir.mkdir()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(8))
        contender: Contender = CONTENDERS[name]()
        error = contender.prepare(failing(Path(folder))(0), 0)
        await contender.open(log_dir / FILE)
        blocked = [loop.run_in_executor(None, time.sleep, 0.5) for _ in range(16)]
        begun = time.perf_counter()
        await contender.log(error)
        while not ((log_dir / FILE).exists() and (log_dir / FILE).stat().st_size):
            await asyncio.sleep(TICK)
        took = time.perf_counter() - begun
        await asyncio.gather(*blocked)
        await contender.close()
        return {"ms": 1000 * took}


async def first_error() -> dict[str, float]:
    """The loop while a process has its first error: imports, threads, files."""
    with tempfile.TemporaryDirectory() as folder:
        recovery = ErrorRecoveryService(f"{folder}/state", f"{folder}/errors")

        async def fetch() -> None:
            raise ConnectionError("reset by peer")

        ticker = Ticker()
        alone = await ticker.alone()
        try:
            await recovery.retry_with_backoff(fetch, service_name="market", max_retries=0)
        except ConnectionError:
            pass
        await asyncio.sleep(0.5)
        figures = await ticker.figures(alone)
        await recovery.aclose()
        return figures


CASES: dict[str, Any] = {
    "flood": lambda name, count, stacks: flood(name, int(count), int(stacks)),
    "slow": lambda name, seconds: slow(name, float(seconds)),
    "mishap": mishap,
    "executor_full": executor_full,
    "first_error": first_error,
}

"""
What logging errors does to the event loop: shockproof's error log, and what people do today.

    ./run sh python benchmarks/errors.py             # the tables, on a terminal: some ten minutes
    ./run sh python benchmarks/errors.py --ours      # without the others: two minutes
    ./run bench errors                               # all, into docs/explanation/cost-of-an-error.md

Each run of a case is a process of its own. On its loop a ticker asks to be woken every millisecond: a gap is how much later
than that it was, at the worst, less the same for the ticker alone in the same process. Figures are medians over RUNS
processes (environment; 5), in the first table with the lowest and the highest behind them. All log the same records, nine fields with 2 KB of traceback, no two the same, and one stack unless a row says so; every line is read back,
parsed and counted. Disks that hang are made by a library that is loaded in front of the system's (it needs a C compiler, `cc`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from flood.contenders import CONTENDERS
from published import SECTIONS, setting

HERE = Path(__file__).resolve().parent
SECTION = SECTIONS["errors"]
RUNS = int(os.environ.get("RUNS", "5"))
COUNT = int(os.environ.get("COUNT", "100000"))
FEW = COUNT // 5
"""For those that take seconds for it."""
SLOW = {"loguru, enqueue", "aiofiles, one write each"}
STACKS = 1_000
"""More than are remembered as they stand in the file."""
HANGS = (0.05, 1.0, 5.0)
DISTRIBUTIONS = ("loguru", "aiofiles", "orjson")

Figures = dict[str, float]


class Runs:
    """Starts the cases, and makes the disk that hangs."""

    def __init__(self, folder: Path) -> None:
        self._flag = folder / "slow"
        self._library = folder / "slow_writes.so"
        self.can_hang = shutil.which("cc") is not None
        if self.can_hang:
            command = [
                "cc",
                "-shared",
                "-fPIC",
                "-O2",
                "-o",
                str(self._library),
                str(HERE / "flood" / "slow_writes.c"),
                "-ldl",
            ]
            subprocess.run(command, check=True)  # noqa: S603 - our own source

    def medians(self, case: str, *words: str, hangs: float | None = None, runs: int = RUNS) -> Figures:
        """The medians of a case's figures over some processes."""
        return medians(self.rounds(case, *words, hangs=hangs, runs=runs))

    def rounds(self, case: str, *words: str, hangs: float | None = None, runs: int = RUNS) -> list[Figures]:
        """A case's figures of each process."""
        return [self._one(case, *words, hangs=hangs) for _ in range(runs)]

    def _one(self, case: str, *words: str, hangs: float | None) -> Figures:
        environment = dict(os.environ, PYTHONPATH=str(HERE))
        if hangs is not None:
            environment |= {
                "LD_PRELOAD": str(self._library),
                "SLOW_SECONDS": str(hangs),
                "SLOW_WHILE": str(self._flag),
            }
        program = (
            "import asyncio, json, sys; from flood.cases import CASES; "
            "print(json.dumps(asyncio.run(CASES[sys.argv[1]](*sys.argv[2:]))))"
        )
        done = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-c", program, case, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{case} {words}: {done.stderr}")
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        print(f"  {case} {' '.join(words)}: {figures}", file=sys.stderr)
        return figures


def medians(rounds: list[Figures]) -> Figures:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def spread(rounds: list[Figures], name: str, form: str) -> str:
    """The median, and between which it lay."""
    found = [one[name] for one in rounds]
    shown = format(statistics.median(found), form)
    return shown if len(found) == 1 else f"{shown} ({min(found):{form}} to {max(found):{form}})"


def floods(runs: Runs, names: list[str]) -> list[str]:
    lines = [
        f"| {COUNT:,} errors as fast as the loop can | logged per second | in the file per second | longest gap | 99.9 % | loop's time per error | processor time per error |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, stacks in [(name, 1) for name in names] + [("shockproof", STACKS)]:
        rounds = runs.rounds("flood", name, str(FEW if name in SLOW else COUNT), str(stacks))
        one = medians(rounds)
        mark = f" ({FEW:,})" if name in SLOW else "" if stacks == 1 else f", {stacks:,} different stacks"
        lines.append(
            f"| {name}{mark} | {one['emitted_per_s']:,.0f} | {spread(rounds, 'durable_per_s', ',.0f')} | {spread(rounds, 'gap_ms', '.1f')} ms "
            f"| {one['p999_ms']:.1f} ms | {one['loop_us']:.1f} us | {one['cpu_us']:.0f} us |"
        )
    return lines


def hanging(runs: Runs, names: list[str]) -> list[str]:
    lines = [
        "| every write hangs for | who logs | logged | in the file meanwhile | longest gap | 99.9 % | dropped, and marked | waited in memory |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for seconds in HANGS:
        for name in names:
            one = runs.medians("slow", name, str(seconds), hangs=seconds, runs=min(RUNS, 3))
            is_ours = name.startswith("shockproof")
            queued = f"{one['queued_bytes'] / 2**20:.1f} MiB" if is_ours else "-"
            dropped = f"{one['dropped']:,.0f}" if is_ours else "-"
            lines.append(
                f"| {seconds:g} s | {name} | {one['submitted']:,.0f} | {one['written_meanwhile']:,.0f} "
                f"| {one['gap_ms']:,.1f} ms | {one['p999_ms']:,.1f} ms | {dropped} | {queued} |"
            )
    return lines


def others(runs: Runs, *, with_rivals: bool) -> list[str]:
    lines = ["| case | shockproof | aim |", "| --- | ---: | ---: |"]
    for kind in ("full", "directory removed", "permissions lost"):
        resumed = runs.medians("mishap", kind)["resumed_s"]
        lines.append(f"| disk {kind}, then back: until it writes again | {resumed:.2f} s | 1 s |")
    gap = runs.medians("first_error")
    lines.append(f"| the first error of a process: longest gap | {gap['gap_ms']:.1f} ms | 5 ms |")
    took = runs.medians("executor_full", "shockproof")["ms"]
    lines.append(
        f"| all threads of the loop's executor blocked for 1 s: until an error is in the file | {took:.0f} ms | - |"
    )
    if with_rivals:
        took = runs.medians("executor_full", "aiofiles, one write each")["ms"]
        lines.append(f"| the same with aiofiles on that executor, one write each | {took:.0f} ms | - |")
    return lines


def markdown(*, with_rivals: bool) -> str:
    names = [name for name in CONTENDERS if with_rivals or name.startswith("shockproof")]
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        tables = [floods(runs, [name for name in names if name != "shockproof, bounded"])]
        if runs.can_hang:
            steady = (
                "shockproof, bounded",
                "logging.FileHandler on the loop",
                "logging.QueueHandler",
                "loguru, enqueue",
                "aiofiles in batches, orjson",
            )
            tables.append(hanging(runs, [name for name in steady if name in names]))
        tables.append(others(runs, with_rivals=with_rivals))
    return "\n\n".join("\n".join(lines) for lines in tables)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="without the other libraries")
    parser.add_argument("--write", action="store_true", help=f"into {SECTION.page}")
    given = parser.parse_args()
    if given.write and given.ours:
        parser.error("--write needs the other libraries: leave --ours out")
    if given.write and shutil.which("cc") is None:
        parser.error("--write needs a C compiler, cc, for the disk that hangs")
    text = markdown(with_rivals=not given.ours)
    print(f"{setting(() if given.ours else DISTRIBUTIONS)}\n\n{text}")
    if given.write:
        SECTION.write(
            text,
            method=f"Medians of {RUNS} runs, in brackets the lowest and the highest.",
            versions=DISTRIBUTIONS,
        )


if __name__ == "__main__":
    main()

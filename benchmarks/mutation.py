"""
What the last ``./run mutate`` found, file by file; with a word behind it, also the survivors of that file.

    ./run mutate
    ./run sh python benchmarks/mutation.py
    ./run sh python benchmarks/mutation.py rate_limit

A mutant that made a test hang counts as killed, one that no test ran as survived.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

KILLED = {"killed", "timeout"}
UNKNOWN = {"not checked", "skipped", "suspicious", "segfault"}


def results() -> list[tuple[str, str, str]]:
    """File, name and status of each mutant, from the tool's own report."""
    report = subprocess.run(  # noqa: S603 - the tool beside this interpreter
        [Path(sys.executable).with_name("mutmut"), "results", "--all", "true"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = []
    for line in report.splitlines():
        name, _, status = line.strip().rpartition(": ")
        if name:
            found.append((name.rsplit(".", 2)[1], name, status))
    return found


def main() -> int:
    statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
    survivors = []
    for file, name, status in results():
        if status in UNKNOWN:
            print(f"{name} has no verdict: {status}", file=sys.stderr)
        statuses[file][status] += 1
        if status not in KILLED and file in sys.argv[1:]:
            survivors.append(f"{name}: {status}")
    print("| file | mutants | killed | survived | score |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for file, counts in [*sorted(statuses.items()), ("**all**", sum(statuses.values(), Counter()))]:
        killed, mutants = sum(counts[status] for status in KILLED), counts.total()
        score = f"{100 * killed / mutants:.1f} %" if mutants else "none"
        print(f"| {file} | {mutants} | {killed} | {mutants - killed} | {score} |")
    print(*survivors, sep="\n", end="\n" if survivors else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())

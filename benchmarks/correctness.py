"""
What resilience libraries do, scenario by scenario.

    python benchmarks/correctness.py                       all, as a table; --why shows the reasons
    python benchmarks/correctness.py --only shockproof     one library; --match late: some scenarios
    ./run bench scoreboard                                 all, into docs/explanation/scoreboard.md

Needs the rivals: ``python -m venv bench && bench/bin/pip install -r requirements/bench.txt -e .``
"""

from __future__ import annotations

import argparse
import sys
import time

from correctness.judge import work
from correctness.libraries import MODULES
from correctness.running import run_all
from correctness.scenarios import all_scenarios
from correctness.table import printed, write
from published import SECTIONS


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(MODULES), help="this library, and no other")
    parser.add_argument("--match", default="", help="scenarios with this in their name")
    parser.add_argument("--why", action="store_true", help="show the reason of everything but a pass")
    parser.add_argument(
        "--write", action="store_true", help=f"write the tables of {SECTIONS['scoreboard'].page}"
    )
    parser.add_argument("--worker", nargs=3, metavar=("LIBRARY", "FIRST", "MATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, first, match = options.worker
        work(name, int(first), match)
        return 0
    scenarios = [found for found in all_scenarios() if options.match in found.name]
    begun = time.monotonic()
    board = run_all(options.only or list(MODULES), scenarios, options.match)
    took = time.monotonic() - begun
    print(printed(board, scenarios, why=options.why))
    print(f"\n{len(scenarios)} scenarios, {len(board)} libraries, {took:.0f} s")
    if options.write:
        if options.only or options.match:
            parser.error("--write writes the whole table: leave --only and --match away")
        write(board, scenarios, took)
    ours = board.get("shockproof")
    return int(ours is not None and any(verdict.kind in {"fail", "error", "varies"} for verdict in ours))


if __name__ == "__main__":
    sys.exit(main())

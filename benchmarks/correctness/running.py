"""
A process for each library, so that none meets what another has patched, swallowed or left running.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

from correctness.judge import ERROR, FAIL, STUCK, Verdict
from correctness.scenarios import Scenario

SCRIPT = Path(__file__).parents[1] / "correctness.py"
SILENCE = 40.0  # seconds without a verdict: the scenario blocks the loop itself

Board = dict[str, list[Verdict]]


def run_all(names: list[str], scenarios: list[Scenario], match: str) -> Board:
    """The verdicts for each library that is installed."""
    board: Board = {}
    for name in names:
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        verdicts = _run_one(name, len(scenarios), match)
        if verdicts is None:
            print("not installed", file=sys.stderr)
        else:
            board[name] = verdicts
    print(file=sys.stderr)
    return board


def _run_one(name: str, count: int, match: str) -> list[Verdict] | None:
    verdicts: list[Verdict] = []
    while len(verdicts) < count:
        worker = subprocess.Popen(  # noqa: S603 - this script itself
            [sys.executable, "-W", "ignore", str(SCRIPT), "--worker", name, str(len(verdicts)), match],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        complaints: list[str] = []
        reader = threading.Thread(target=lambda: complaints.append(worker.stderr.read()))  # noqa: B023 - of this turn
        reader.start()
        silent = False
        while True:
            watch = threading.Timer(SILENCE, worker.kill)
            watch.start()
            line = worker.stdout.readline()
            silent = not watch.is_alive()
            watch.cancel()
            if not line:
                break
            verdicts.append(Verdict(*json.loads(line)))
        code = worker.wait()
        reader.join()
        if code == 0:
            break
        if "ModuleNotFoundError" in complaints[0] and not verdicts:
            return None
        if code != STUCK:
            last = complaints[0].strip().rsplit("\n", 1)[-1]
            verdicts.append(Verdict(FAIL, "it blocks the event loop") if silent else Verdict(ERROR, last))
    return verdicts

"""The owner of an account under SIGKILL, in the middle of its orders: benchmarks/fleet.py, in small."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

for name in ("aiohttp", "ccxt"):
    pytest.importorskip(name, reason=f"{name} is not installed")

FLEET = Path(__file__).parents[2] / "benchmarks" / "fleet.py"
PATIENCE = 240.0  # real seconds: processes and sockets know no other

pytestmark = pytest.mark.timeout(PATIENCE + 30)


@pytest.mark.parametrize("where", ["one directory", "machines"])
def test_of_eight_processes_one_sends_and_whoever_follows_it_doubles_no_order(where: str) -> None:
    """
    It is killed, with leases that are shorter than in earnest, and another one goes on: the venue's ledger has each order once.

    On a machine of its own that one has a journal that knows nothing of them: without a look-up each was booked once more.
    """
    apart = ["--machines"] if where == "machines" else []
    intents = "16" if apart else "40"
    ran = subprocess.run(
        [sys.executable, str(FLEET), "orders", "--file", "--lease", "1.5", "--intents", intents, "--kills", "1", "--stops", "0", *apart],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert "doubled 0, lost 0, wrong words 0, left pending 0" in ran.stdout
    told = re.search(r"(\d+) owners killed and 0 stopped, (\d+) owners in all", ran.stdout)
    assert told is not None, ran.stdout
    assert (int(told[1]), int(told[2]) > 1) == (1, True)


def test_a_run_in_which_something_of_what_it_promises_did_not_happen_is_not_as_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However well its orders went: nothing has befallen them."""
    monkeypatch.syspath_prepend(FLEET.parent)
    orders = importlib.import_module("fleet.orders")
    task = orders.Task(intents=40, kills=2, stops=1, seed=1, troubles=2, cuts=1)
    missed = orders.Outcome(task, kills=1, stood=1)
    assert [
        line.partition(" were ")[0].partition(" befell ")[0].partition(" separated ")[0]
        for line in missed.complaints
    ] == [
        "orders: only 1 of 2 owners",
        "orders: only 0 of 1 owners",
        "orders: only 1 of 2 troubles",
        "orders: only 0 of 1 cuts",
    ]
    hit = orders.Outcome(task, kills=2, stops=1, stood=1, emptied=1, cuts=1)
    assert hit.complaints == []
    hit.requests = [0.01 * number for number in range(orders.LIMIT + 1)]
    assert hit.complaints == [f"orders: windows of 5 s with more than {orders.LIMIT} of them: 1"]

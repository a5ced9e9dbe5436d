"""Orders under SIGKILL, against the demo's venue and through real clients: benchmarks/orders.py, in small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

for name in ("aiohttp", "alpaca", "ccxt"):
    pytest.importorskip(name, reason=f"{name} is not installed")

ORDERS = Path(__file__).parents[2] / "benchmarks" / "orders.py"
PATIENCE = 240.0  # real seconds: processes and sockets know no other

pytestmark = pytest.mark.timeout(PATIENCE + 30)


class Ran:
    """What the benchmark says."""

    def __init__(self, *words: str) -> None:
        ran = subprocess.run(
            [sys.executable, str(ORDERS), *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        print(ran.stdout, ran.stderr)  # noqa: T201  pytest shows it, and the seed, where the test fails
        self.exit_code = ran.returncode
        lines = [line for line in ran.stdout.splitlines() if line.startswith("|")]
        names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        self.rows = [dict(zip(names, row, strict=True)) for row in rows]


def test_trader_that_is_killed_again_and_again_places_each_order_once() -> None:
    """With and without a venue that knows its ids: none twice, none lost, no wrong word, nothing left open."""
    ran = Ran("--intents", "120", "--kills", "24", "--traders", "6", "--seed", "3")

    assert [row["venue"] for row in ran.rows] == ["binance", "alpaca"]
    for row in ran.rows:
        told = {name: row[name] for name in ("duplicated", "lost", "wrong verdicts", "left pending")}
        assert told == {"duplicated": "0", "lost": "0", "wrong verdicts": "0", "left pending": "0"}
        assert int(row["kills"]) > 0  # how many is up to the machine: some end before their kill comes
        assert int(row["orders that met a fault"]) > 0
    assert ran.exit_code == 0


def test_client_that_retries_by_itself_places_orders_twice() -> None:
    """The test above would notice."""
    ran = Ran(
        "--intents",
        "80",
        "--kills",
        "0",
        "--traders",
        "2",
        "--seed",
        "3",
        "--way",
        "client",
        "--venue",
        "binance",
    )

    (row,) = ran.rows
    assert int(row["duplicated"]) > 0

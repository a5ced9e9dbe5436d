"""Orders under SIGKILL, against a venue that books and cuts the connection: benchmarks/orders.py, in small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ORDERS = Path(__file__).parents[2] / "benchmarks" / "orders.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ORDERS), *words], capture_output=True, text=True, timeout=100, check=False
    )


def test_trader_that_is_killed_again_and_again_places_each_order_once() -> None:
    """None twice, none lost, and it comes to an end."""
    ran = run("--intents", "80", "--kills", "6", "--seed", "3")

    assert "0 placed twice, 0 lost" in ran.stdout, ran.stdout + ran.stderr
    assert ran.returncode == 0


def test_trader_that_simply_retries_places_orders_twice() -> None:
    """The test above would notice."""
    ran = run("--intents", "80", "--kills", "2", "--seed", "3", "--way", "retry")

    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "placed twice" in ran.stdout
    assert " 0 placed twice" not in ran.stdout

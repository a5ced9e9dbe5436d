"""The trader, killed with SIGKILL at random moments: whenever it dies, book and ledger agree in the end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")
pytest.importorskip("ccxt", reason="the demo extra is not installed: no ccxt")

from shockproof import ErrorRecoveryService
from shockproof.demo.book import OPERATION, Book
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind, FaultPlan, FaultWindow
from shockproof.demo.venue.server import VenueServer
from shockproof.demo.verdict import compare_ledger

# For other seeds: DEMO_SEEDS=100-120 ./run test tests/demo/test_trader_killed.py -s
FIRST, _, LAST = os.environ.get("DEMO_SEEDS", "1-4").partition("-")
SEEDS = range(int(FIRST), int(LAST or FIRST) + 1)
MORTAL = str(Path(__file__).with_name("mortal_trader.py"))
CLIENT_TIMEOUT = 0.5  # as in there
LIVES = 4
MORE = 6
"""Orders that the last life adds before it may end."""
ORDERS = frozenset({Endpoint.PLACE_ORDER, Endpoint.CANCEL_ORDER})
FAULTS = {
    FaultKind.CUT_BEFORE: 0.1,
    FaultKind.ERROR_AFTER: 0.1,
    FaultKind.CUT_AFTER: 0.1,
    FaultKind.BOOKED_LATER: 0.2,
}


def a_plan(seed: int) -> FaultPlan:
    """Of two answers in five the venue says nothing, for as long as it takes."""
    windows = tuple(FaultWindow(kind, 0.0, 3600.0, ORDERS, rate) for kind, rate in FAULTS.items())
    return FaultPlan(seed, 3600.0, CLIENT_TIMEOUT, windows)


async def see_it_through(trader: asyncio.subprocess.Process) -> None:
    """Follow its reports, and stop the last life when it has gone on with new orders."""
    assert trader.stdout is not None
    assert trader.stdin is not None
    life, enough = 0, 0
    async for line in trader.stdout:
        try:
            report: dict[str, Any] = json.loads(line)
        except ValueError:  # empty, or torn by a SIGKILL
            continue
        if report["kind"] == "life":
            life = report["number"]
        elif life == LIVES and report["kind"] == "up":
            enough = report["orders"] + MORE
        elif life == LIVES and report["kind"] == "snapshot" and sum(report["orders"].values()) >= enough:
            trader.stdin.write(b"stop\n")


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_trader_killed_at_random_moments_doubles_no_order_and_loses_none(
    tmp_path: Path, seed: int
) -> None:
    """Each life dies somewhere between two steps; the last one ends in order, with nothing pending."""
    rng = random.Random(seed)
    deaths = [
        rng.choice((f"file:{rng.randrange(1, 300)}", f"request:{rng.randrange(1, 20)}"))
        for _ in range(LIVES - 1)
    ]
    print(f"seed {seed}: killed at its steps {deaths}")  # noqa: T201 - shown where it fails, and with -s
    state_dir, error_log_dir = tmp_path / "state", tmp_path / "errors"
    async with VenueServer(a_plan(seed), day_seconds=0.1) as venue:
        trader = await asyncio.create_subprocess_exec(
            sys.executable,
            MORTAL,
            ",".join(deaths),
            f"--base-url={venue.base_url}",
            f"--stream-url={venue.stream_url}",
            f"--reference-url={venue.reference_url}",
            f"--state-dir={state_dir}",
            f"--error-log-dir={error_log_dir}",
            "--seconds=3600",
            f"--seed={seed}",
            f"--begun={time.time()}",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=2**22,
        )
        assert trader.stderr is not None
        _, said = await asyncio.gather(see_it_through(trader), trader.stderr.read())
        print(said.decode())  # noqa: T201 - as above
        assert await trader.wait() == 0
        ledger = venue.exchange.ledger_report()

    recovery = ErrorRecoveryService(state_dir, error_log_dir)
    state = await recovery.restore_state()
    await recovery.aclose()
    assert state is not None
    pending = [one["key"] for one in state.active_operations if one["operation"] == OPERATION]
    verdict = compare_ledger(ledger, Book.from_state(state.cached_data["settled_orders"]), pending)
    print(verdict.compared)  # noqa: T201 - as above
    assert verdict.differences == ()
    assert state.active_operations == []
    assert (verdict.doubled, verdict.lost, verdict.pending) == (0, 0, 0)
    assert len(ledger["orders"]) >= 1

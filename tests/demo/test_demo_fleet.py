"""Several traders of one account: one is killed, another one takes over, and the venue counts."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")
pytest.importorskip("ccxt", reason="the demo extra is not installed: no ccxt")

from shockproof.demo.fleet_board import FleetBoard, Member
from shockproof.demo.fleet_session import FleetSession
from shockproof.demo.options import Options
from shockproof.demo.scoreboard import Happening
from shockproof.demo.shared_store import open_store, start_store

HURRIED = (sys.executable, str(Path(__file__).with_name("hurried_trader.py")))


class Watching:
    """A view that ends the session when the second owner has settled what the first one left, and has traded."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.session: FleetSession | None = None

    def happened(self, happening: Happening) -> None:
        self.lines.append(happening.text)

    def status(self, elapsed: float, text: str) -> None:
        session = self.session
        if session is None or session.hand_over is None or session.was_stopped:
            return
        owner = session.board.owner
        if not session.board.settled("reconcile"):
            return  # what the first one left is asked after again and again, beside what is new
        if owner is not None and sum(owner.snapshot.get("orders", {}).values()) > 2:
            session.stop()


@pytest.mark.asyncio
async def test_an_owner_that_is_killed_is_followed_by_another_and_no_order_is_doubled(tmp_path: Path) -> None:
    """The venue has booked its order and it has not heard of it: the next one finds it in the journal, and goes on."""
    view = Watching()
    # Ten minutes, so that nothing comes too late on a slow machine; it is stopped long before.
    session = FleetSession(
        Options(seconds=600.0, faults="none", fleet=2), tmp_path, view, kill_at=0.0, trader=HURRIED
    )
    view.session = session
    summary = await session.run()
    assert [line for verdict in summary.verdicts for line in verdict.differences] == []
    assert (summary.deaths, summary.orders_doubled, summary.orders_lost) == (1, 0, 0)
    assert summary.hand_over is not None
    assert summary.pending_at_take_over > 0
    assert summary.settled_by_reconcile > 0
    assert sum(summary.orders.values()) > 2
    assert sum(len(moments) for moments in session.arrivals.values()) > 0
    assert any("in flight: the venue has booked it, and not answered" in line for line in view.lines)
    assert any("owns the account now, and takes over" in line for line in view.lines)


@pytest.mark.asyncio
async def test_without_a_redis_the_traders_share_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo needs nothing that has to be installed beside it."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    async with start_store(tmp_path) as shared:
        assert shared.url == f"file:{tmp_path / 'shared.db'}"
        assert shared.what == "a file: there is no redis-server to be started"
        store = open_store(shared.url)
        await store.put("key", b"value")
    assert (tmp_path / "shared.db").exists()


@pytest.mark.asyncio
async def test_a_redis_without_its_client_is_not_started_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a first `./run demo`, which installs no more than the demo cannot do without."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    async with start_store(tmp_path) as shared:
        assert shared.url.startswith("file:")
        assert "pip install redis" in shared.what


@pytest.mark.asyncio
@pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="Redis is not installed (Debian: apt-get install redis-server)",
)
async def test_a_redis_of_the_demos_own_is_gone_when_it_ends(tmp_path: Path) -> None:
    """It listens at no port, and leaves nothing behind."""
    pytest.importorskip("redis", reason="the redis extra is not installed")
    async with start_store(tmp_path) as shared:
        assert shared.what == "a Redis of its own"
        place = Path(shared.url.removeprefix("unix://")).parent
        store = open_store(shared.url)
        await store.put("key", b"value")
        await store.aclose()
    assert not place.exists()
    assert not (tmp_path / "shared.db").exists()


def test_a_life_that_was_killed_counts_with_what_it_said_last() -> None:
    """It may have written more; one that ended in order has exactly what it said at its end."""
    board = FleetBoard(60.0)
    killed = board.members[1] = Member(1, "trader-1")
    ended = board.members[2] = Member(2, "trader-2")
    for member in (killed, ended):
        board.report(member, {"kind": "snapshot", "error_log": {"written": 3}})
        assert member.role == "standby"
    board.report(ended, {"kind": "end", "error_log": {"written": 4}})
    assert [(one.number, one.written, one.was_killed) for one in board.lives()] == [
        (1, 3, True),
        (2, 4, False),
    ]

"""
Whole sessions, with real processes, sockets, signals and files: however the trader ends, its book and
the venue's ledger agree.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")
pytest.importorskip("ccxt", reason="the demo extra is not installed: no ccxt")
pytest.importorskip("rich", reason="the demo extra is not installed: no rich")

from shockproof.demo import session as sessions
from shockproof.demo.book import OrderState
from shockproof.demo.options import Options
from shockproof.demo.scoreboard import Happening, Scoreboard
from shockproof.demo.session import Session
from shockproof.demo.summary import Summary
from shockproof.testing import VirtualClock
from tests.free_port import free_port

DEMO = [sys.executable, "-m", "shockproof", "demo"]
DYING = str(Path(__file__).with_name("dying_trader.py"))
LOSING_ANSWERS = "error_after,cut_after,late"
UNTIL_STOPPED = 600.0
"""Seconds: a session that is stopped long before that, so that nothing comes too late in it on a slow machine."""
PATIENT = (
    sys.executable,
    "-c",
    "import sys; from shockproof.demo import trader; trader._HURRY = 60.0; sys.exit(trader.main())",
)
"""The trader, which sees what is under way through when it is asked to end, however slow the machine is."""


class Watching:
    """A view that looks for a moment, and then does something, once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.moment: Callable[[Scoreboard], bool] | None = None
        self.then: Callable[[], None] | None = None

    def happened(self, happening: Happening) -> None:
        self.lines.append(happening.text)

    def refresh(self, board: Scoreboard) -> None:
        if self.moment is not None and self.then is not None and self.moment(board):
            then, self.then = self.then, None
            then()


def is_gone(pid: int) -> bool:
    """Whether no process has that id; one that ended and was not waited for counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def has_gone_on(board: Scoreboard, deaths: int, more: int = 0) -> bool:
    """Whether the life behind so many deaths says itself that it has more orders than it has found."""
    if len(board.restored) != deaths or board.snapshot.get("life") != deaths + 1:
        return False
    return sum(board.orders().values()) > board.restored[-1]["orders"] + more


def at_the_venue(board: Scoreboard) -> int:
    """How many orders it has booked, as far as the trader knows."""
    return sum(count for state, count in board.orders().items() if OrderState(state).is_at_venue)


def assert_agrees(summary: Summary) -> None:
    assert [line for verdict in summary.verdicts for line in verdict.differences] == []
    assert summary.agrees


def test_the_demo_ends_by_itself_and_everything_agrees(tmp_path: Path) -> None:
    """Piped, with every fault of the normal plan, killed in the middle; as a new user starts it."""
    output = tmp_path / "kept"
    done = subprocess.run(
        [*DEMO, "--seconds", "6", "--seed", "3", "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "shockproof demo: 6 s, seed 3, faults normal"
    assert "The venue's ledger and the trader's book agree, and no error record is missing." in lines
    assert any("SIGKILL: the trader is dead" in line for line in lines)
    assert any("the trader is up again, state restored" in line for line in lines)

    summary = json.loads((output / "summary.json").read_text())
    ledger = json.loads((output / "ledger.json").read_text())
    state = json.loads((output / "state" / "system_state.json").read_text())
    assert summary["agrees"] is True
    assert (summary["deaths"], summary["states_restored"]) == (1, 1)
    assert (summary["orders_doubled"], summary["orders_lost"]) == (0, 0)
    settled = summary["settled_by_look_up"] + summary["settled_by_reconcile"]
    assert summary["unknown_outcomes"] == settled
    assert summary["failures_survived"] > 0
    assert summary["records_dropped"] == 0
    assert state["active_operations"] == []
    assert len(ledger["orders"]) > 0
    assert summary["faults_injected"]["outage"] > 0
    on_disk = sum(len(path.read_text().splitlines()) for path in (output / "errors").glob("errors_*.jsonl"))
    assert on_disk == summary["errors_logged"] > 0
    assert lines[-1] == f"With pictures: {output / 'report.html'}"
    page = (output / "report.html").read_text()
    assert f'aria-label="{on_disk} errors over time' in page
    assert "The venue&#x27;s ledger and the trader&#x27;s book agree" in page


def test_ctrl_c_ends_it_in_order_and_leaves_no_process_behind(tmp_path: Path) -> None:
    """A summary, exit code 130, and neither venue nor trader outlives it; all that stays is the report."""
    demo = subprocess.Popen(
        [*DEMO, "--seconds", "30", "--faults", "none"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts jobs in the background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads here
    )
    assert demo.stdout is not None
    said: list[str] = []
    for line in demo.stdout:
        said.append(line)
        if "orders:" in line:
            demo.send_signal(signal.SIGINT)
            break
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children")
    pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    rest, errors = demo.communicate()
    assert (demo.returncode, errors) == (130, "")
    assert "Stopped by SIGINT" in rest
    # What it could not see through in the time that it has stays pending: then the book has less to agree with.
    assert "ledger and the trader's book agree" in rest or "Nothing contradicts the ledger" in rest
    assert [pid for pid in pids if not is_gone(pid)] == []
    (report,) = tmp_path.iterdir()
    assert rest.splitlines()[-1] == f"With pictures: {report}"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("point", "number"),
    [("before_the_send", 4), ("before_the_answer", 4), ("in_the_middle_of_a_save", 9)],
)
async def test_a_sigkill_leaves_book_and_ledger_in_agreement(tmp_path: Path, point: str, number: int) -> None:
    """At the three points that matter most; the next life looks up what is pending, and goes on."""
    view = Watching()
    options = Options(seconds=UNTIL_STOPPED, faults=LOSING_ANSWERS)
    session = Session(options, tmp_path, view, trader=(sys.executable, DYING, point, str(number)))
    view.moment = lambda board: has_gone_on(board, deaths=1, more=3)
    view.then = session.stop
    summary = await session.run()
    assert_agrees(summary)
    assert (summary.deaths, summary.states_restored) == (1, 1)
    assert "the trader was ended by signal 9" in view.lines
    assert sum(summary.orders.values()) > session.board.restored[0]["orders"]  # it went on


@pytest.mark.asyncio
async def test_sigkills_with_an_order_in_flight_leave_book_and_ledger_in_agreement(tmp_path: Path) -> None:
    """
    Each time the venue has booked an order and the trader has not heard of it: the next life reconciles it. Its status page
    is where the one of the life before was.
    """
    view = Watching()
    port = free_port()
    options = Options(seconds=UNTIL_STOPPED, faults="none", status_page=port)
    session = Session(options, tmp_path, view, kills=(0.0, 0.0))
    pages: list[dict[str, Any]] = []

    def look_and_stop() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status.json", timeout=60) as answer:
            pages.append(json.load(answer))
        session.stop()

    view.moment = lambda board: has_gone_on(board, deaths=2) and board.settled("reconcile") >= 2
    view.then = look_and_stop
    summary = await session.run()
    assert_agrees(summary)
    assert (summary.deaths, summary.states_restored) == (2, 2)
    assert (summary.orders_doubled, summary.orders_lost) == (0, 0)
    assert len([line for line in view.lines if "in flight: the venue has booked it" in line]) == 2
    assert summary.settled_by_reconcile >= 2
    assert "binance.orders" in {service["name"] for service in pages[0]["services"]}


class QuietVenue:
    """A venue that no order comes to."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def fall_silent_behind_the_next_order(self) -> None:
        self.asked.append("silence")

    async def order_in_flight(self) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def speak_again(self) -> None:
        self.asked.append("speak")


class IdleTrader:
    """A trader's process that only ends."""

    def __init__(self) -> None:
        self.ending: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        self.ending.set_result(-signal.SIGKILL)


@pytest.mark.asyncio
@pytest.mark.parametrize("ends", [False, True])
async def test_a_sigkill_waits_for_an_order_but_not_for_ever(
    tmp_path: Path, clock: VirtualClock, *, ends: bool
) -> None:
    """Without an order it comes all the same; a trader that ends in order meanwhile is not killed."""
    view, venue, trader = Watching(), QuietVenue(), IdleTrader()
    session = Session(Options(seconds=30.0), tmp_path, view)
    begun = clock.monotonic()
    if ends:
        asyncio.get_running_loop().call_later(1.0, trader.ending.set_result, 0)
    await session._kill(
        venue,  # type: ignore[arg-type]  # as much of it as is asked
        trader,  # type: ignore[arg-type]  # as above
        trader.ending,
    )
    assert trader.ending.result() == (0 if ends else -signal.SIGKILL)
    assert clock.monotonic() - begun == pytest.approx(1.0 if ends else 3.0)
    assert view.lines == ([] if ends else ["SIGKILL: the trader is dead, with nothing in flight"])
    assert venue.asked == ["silence", "speak"]


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["asked by its supervisor", "SIGTERM"])
async def test_an_orderly_end_in_the_middle_leaves_book_and_ledger_in_agreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Whoever asks: what is under way is seen through, saved, and nothing is left open."""
    monkeypatch.setattr(sessions, "_PATIENCE", 60.0)
    view = Watching()
    session = Session(Options(seconds=UNTIL_STOPPED, faults="latency"), tmp_path, view, trader=PATIENT)
    view.moment = lambda board: at_the_venue(board) >= 5

    def sigterm() -> None:
        assert session._trader is not None
        os.kill(session._trader.pid, signal.SIGTERM)

    view.then = session.stop if way != "SIGTERM" else sigterm
    summary = await session.run()
    assert_agrees(summary)
    assert len(session.ledger["orders"]) >= 5
    assert summary.deaths == 0


@pytest.mark.asyncio
async def test_a_trader_whose_supervisor_is_gone_ends_by_itself(tmp_path: Path) -> None:
    """Its standard input closes, and it takes that for the order to stop."""
    view = Watching()
    session = Session(Options(seconds=UNTIL_STOPPED, faults="none"), tmp_path, view, trader=PATIENT)
    view.moment = lambda board: sum(board.orders().values()) >= 2

    def leave() -> None:
        assert session._trader is not None
        stdin = session._trader._process.stdin
        assert stdin is not None
        stdin.close()

    view.then = leave
    assert_agrees(await asyncio.wait_for(session.run(), 100))

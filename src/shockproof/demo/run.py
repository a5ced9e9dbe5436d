"""The demo as a command: which view, which directory, which exit code; and Ctrl-C at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from shockproof.demo.fleet_session import FleetSession
from shockproof.demo.options import Options
from shockproof.demo.plain_view import PlainView
from shockproof.demo.reckoning import Reckoning
from shockproof.demo.report import write_report
from shockproof.demo.scoreboard import Happening, Scoreboard
from shockproof.demo.session import Session, SessionError
from shockproof.demo.venue.process import VenueStartError

__all__ = ["run"]


class _Screen(Protocol):
    """What both views can do."""

    on_broken: Callable[[], None] | None

    def line(self, text: str, tone: str = "plain") -> None: ...
    def shown(self, seconds: float) -> AbstractContextManager[object]: ...
    def happened(self, happening: Happening) -> None: ...
    def refresh(self, board: Scoreboard) -> None: ...


def run(options: Options) -> int:
    """Run a session, show it and its summary; the exit code as `shockproof.__main__.main` says."""
    title = f"shockproof demo: {options.seconds:g} s, seed {options.seed}, faults {options.faults}"
    if options.fleet is not None:
        title += f", {options.fleet} traders of one account"
    make: Callable[[Path], Session | FleetSession]
    if options.fleet is None:
        screen = _screen(title, options)
        make = partial(Session, options, view=screen)
        about = "a ccxt trader goes on through shockproof"
    else:
        screen = lines = PlainView(sys.stdout)
        make = partial(FleetSession, options, view=lines)
        about = "the trader that owns the account is killed, and another one goes on"
    screen.line(title, "title")
    screen.line(f"A venue on this machine misbehaves by plan; {about}.")
    if options.status_page is not None:
        screen.line(f"While it lives, its status page is http://127.0.0.1:{options.status_page}/status")
    with _directory(options.output) as directory:
        code = asyncio.run(_run(options, make(directory), screen, title))
    _let_go_of_stdout()
    return code


def _screen(title: str, options: Options) -> _Screen:
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return PlainView(sys.stdout)
    from shockproof.demo.live_view import LiveView
    from shockproof.demo.timing import Timing
    from shockproof.demo.venue.fault_plan import FaultPlan

    plan = FaultPlan.make(
        options.faults,
        seconds=options.seconds,
        seed=options.seed,
        client_timeout=Timing.for_session(options.seconds).timeout,
    )
    return LiveView(title, plan)


async def _run(options: Options, session: Session | FleetSession, screen: _Screen, title: str) -> int:
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        session.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, stop, number)
    screen.on_broken = lambda: stop(signal.SIGPIPE)
    try:
        with screen.shown(options.seconds):
            summary: Reckoning = await session.run()
    except (SessionError, VenueStartError, OSError) as error:
        screen.line(f"shockproof demo: {error}", "bad")
        return 128 + received[0] if received else 1
    _conclude(screen, summary, received)
    if options.output is not None:
        _keep(options.output, session, summary)
        screen.line(f"State, error log, ledger, faults and summary are in {options.output}")
    page = title, session.state_dir, session.error_log_dir, summary, options.output
    try:
        screen.line(f"With pictures: {await write_report(*page)}")
    except OSError as error:
        screen.line(f"The report was not written: {error}", "bad")
    if not summary.agrees:
        return 1
    return 128 + received[0] if received else 0


def _conclude(screen: _Screen, summary: Reckoning, received: list[signal.Signals]) -> None:
    screen.line("")
    if received:
        screen.line(f"Stopped by {received[0].name} after {summary.seconds:g} s", "title")
    else:
        screen.line(f"Summary of {summary.seconds:g} s", "title")
    for text, tone in summary.lines():
        screen.line(text, tone)
    screen.line("")
    screen.line(summary.conclusion(), "good" if summary.agrees else "bad")


@contextmanager
def _directory(wanted: Path | None) -> Generator[Path]:
    """Where the session keeps its files: the wanted directory, or one that is removed afterwards."""
    if wanted is not None:
        yield wanted
        return
    directory = Path(tempfile.mkdtemp(prefix="shockproof-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _keep(directory: Path, session: Session | FleetSession, summary: Reckoning) -> None:
    for name, content in (
        ("ledger", session.ledger),
        ("faults", session.faults),
        *([("arrivals", session.arrivals)] if isinstance(session, FleetSession) else []),
        ("summary", summary.to_dict()),
    ):
        (directory / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _let_go_of_stdout() -> None:
    """A reader that has gone away is no reason for a complaint at the very end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""
One session from its beginning to the verdict: the venue, the trader with its lives, and the reckoning.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from shockproof import ErrorRecoveryService
from shockproof.demo.book import OPERATION, Book, name_of
from shockproof.demo.options import Options
from shockproof.demo.scoreboard import Happening, Scoreboard
from shockproof.demo.summary import Summary
from shockproof.demo.timing import Timing
from shockproof.demo.trader_process import TRADER, TraderProcess
from shockproof.demo.venue.fault_plan import FaultKind, FaultPlan
from shockproof.demo.venue.process import VenueProcess
from shockproof.demo.verdict import compare_ledger, compare_log, count_lines

__all__ = ["Session", "SessionError", "View", "read_error_lines"]

_REFRESH = 0.1
_MOST_UNPLANNED_DEATHS = 3
_MOST_WITHOUT_ORDERS = 0.1
"""Part of the session that a SIGKILL waits for an order."""
_MOST_OVERTIME = 30.0
"""Seconds behind the end of the session, or its own start, that a trader gets for seeing its orders through."""
_PATIENCE = 8.0
"""Seconds that a trader gets for its end when it was asked to stop."""


class SessionError(Exception):
    """The session cannot go on; the text says why."""


class View(Protocol):
    """Shows what happens, to whoever watches. Never waits."""

    def happened(self, happening: Happening) -> None:
        """Something worth a line."""
        ...

    def refresh(self, board: Scoreboard) -> None:
        """Called ten times a second."""
        ...


class Session:
    """
    Runs once.

    Args:
        options: what was asked for.
        directory: where state and error log are kept while it runs.
        view: shows it.
        kills: seconds of the session behind which the trader is killed, with its next order in flight; None: as
            the fault plan says.
        trader: the command that starts the trader, without its arguments.
    """

    def __init__(
        self,
        options: Options,
        directory: Path,
        view: View,
        *,
        kills: Sequence[float] | None = None,
        trader: Sequence[str] = TRADER,
    ) -> None:
        self.options = options
        self.state_dir = directory / "state"
        self.error_log_dir = directory / "errors"
        self.board = Scoreboard(options.seconds)
        self.timing = Timing.for_session(options.seconds)
        self.plan = FaultPlan.make(
            options.faults,
            seconds=options.seconds,
            seed=options.seed,
            client_timeout=self.timing.timeout,
        )
        planned = [window.start for window in self.plan.of_kind(FaultKind.KILL)]
        self._kills = sorted(planned if kills is None else kills)
        self._view = view
        self._command = trader
        self._begun: float | None = None
        self._is_up = False
        """Whether this life of the trader has said anything yet."""
        self._is_ending = asyncio.Event()
        """This life of the trader has said that it begins nothing new."""
        self._trader: TraderProcess | None = None
        self._stopping = asyncio.Event()
        self._stops = 0
        self.deaths = 0
        self.ledger: dict[str, Any] = {}  # Any: the venue's JSON
        self.faults: dict[str, Any] = {}  # Any: the venue's JSON

    def stop(self) -> None:
        """End in order and soon; said a second time, at once."""
        self._stops += 1
        self._stopping.set()
        if self._trader is not None:
            if self._stops == 1:
                self._trader.stop()
            else:
                self._trader.kill()

    @property
    def was_stopped(self) -> bool:
        return self._stopping.is_set()

    async def run(self) -> Summary:
        """
        The whole session.

        Raises:
            SessionError: venue or trader do not work at all.
        """
        watching = asyncio.create_task(self._watch(), name="view")
        try:
            async with VenueProcess.start(
                seconds=self.options.seconds,
                seed=self.options.seed,
                faults=self.options.faults,
                client_timeout=self.timing.timeout,
            ) as venue:
                self._say(f"the venue is up, process {venue.pid}, at {venue.base_url}", "good")
                self.board.phase = "starting the trader"
                await self._live_and_die(venue)
                self.board.phase = "comparing ledger and book"
                if not venue.is_running:
                    raise SessionError("the venue ended before the session did")
                self.ledger = await venue.ledger()
                self.faults = await venue.fault_log()
            return await self._reckon()
        finally:
            watching.cancel()
            if self._trader is not None:
                self._trader.kill()
                await self._trader.wait()

    # -- the trader's lives ----------------------------------------------------------------------------

    async def _live_and_die(self, venue: VenueProcess) -> None:
        unplanned = 0
        while not self.was_stopped:
            self._is_up = False
            self._is_ending.clear()
            self._trader = trader = await TraderProcess.start(self._trader_command(venue), self._report)
            if self._stopping.is_set():  # meanwhile
                trader.stop()
            code = await self._one_life(venue, trader)
            # A planned death was announced; any other signal comes from somebody else.
            self.board.life_ended(was_killed=code < 0)
            if code == 0 or (trader.was_killed and self._stopping.is_set()):
                return
            if code > 0:
                raise SessionError(f"the trader failed (exit code {code}):\n  " + "\n  ".join(trader.said))
            self.deaths += 1
            if not trader.was_killed:
                unplanned += 1
                self._say(f"the trader was ended by signal {-code}", "bad")
                if unplanned > _MOST_UNPLANNED_DEATHS:
                    raise SessionError(f"the trader was ended by signal {-code} again and again")
            self.board.phase = "starting the trader again"

    async def _one_life(self, venue: VenueProcess, trader: TraderProcess) -> int:
        """Kill it when the plan says so, or see it to its end; its exit code."""
        ending = asyncio.ensure_future(trader.wait())
        try:
            while self._kills:
                await self._until(self._kills[0], ending)
                if ending.done() or self.was_stopped:
                    break
                self._kills.pop(0)
                await self._kill(venue, trader, ending)
                if trader.was_killed:
                    return await ending
            left = (
                self.options.seconds
                if self._begun is None
                else self._begun + self.options.seconds - time.time()
            )
            patience = max(0.0, left) + _MOST_OVERTIME
            stopped = asyncio.ensure_future(self._stopping.wait())
            await asyncio.wait({ending, stopped}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not ending.done() and not self.was_stopped:
                self._say("the trader does not come to an end by itself: asked to stop", "bad")
                trader.stop()
            await asyncio.wait({ending}, timeout=_PATIENCE)
            if not ending.done():
                self._say("the trader does not stop: killed", "bad")
                trader.kill()
            return await ending
        finally:
            if not ending.done():
                ending.cancel()

    async def _kill(self, venue: VenueProcess, trader: TraderProcess, ending: asyncio.Future[int]) -> None:
        """
        SIGKILL, as soon as the venue has booked an order of which the trader does not know it; without one, when
        there has been none for a while, or none comes any more, as where the machine stood still until then.
        """
        await venue.fall_silent_behind_the_next_order()
        in_flight = asyncio.ensure_future(venue.order_in_flight())
        stopped = asyncio.ensure_future(self._stopping.wait())
        no_more = asyncio.ensure_future(self._is_ending.wait())
        try:
            moments: set[asyncio.Future[Any]] = {
                in_flight,
                stopped,
                no_more,
                ending,
            }  # Any: each has a result of its own
            await asyncio.wait(
                moments,
                timeout=_MOST_WITHOUT_ORDERS * self.options.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ending.done() or self.was_stopped:
                return
            trader.kill()
            await asyncio.wait({ending})
            if in_flight.done():
                what = f"{name_of(in_flight.result())} in flight: the venue has booked it, and not answered"
            else:
                what = "nothing in flight"
            self._say(f"SIGKILL: the trader is dead, with {what}", "weather")
        finally:
            stopped.cancel()
            no_more.cancel()
            await venue.speak_again()
            in_flight.cancel()
            await asyncio.wait({in_flight})

    async def _until(self, moment: float, ending: asyncio.Future[int]) -> None:
        while not ending.done() and not self.was_stopped:
            if self._is_up and self._begun is not None and time.time() >= self._begun + moment:
                return
            await asyncio.sleep(0.01)

    def _trader_command(self, venue: VenueProcess) -> list[str]:
        command = [
            *self._command,
            f"--base-url={venue.base_url}",
            f"--stream-url={venue.stream_url}",
            f"--reference-url={venue.reference_url}",
            f"--state-dir={self.state_dir}",
            f"--error-log-dir={self.error_log_dir}",
            f"--seconds={self.options.seconds}",
            f"--seed={self.options.seed}",
            f"--faults={self.options.faults}",
        ]
        if self._begun is not None:
            command.append(f"--begun={self._begun}")
        if self.options.status_page is not None:
            command.append(f"--status-page={self.options.status_page}")
        return command

    # -- watching --------------------------------------------------------------------------------------

    def _report(self, line: dict[str, Any]) -> None:  # Any: the trader's JSON
        if line.get("kind") == "up":
            self.board.phase = "trading"
            self._is_up = True
            if self._begun is None:
                self._begun = line["begun"]
        if line.get("kind") == "ending":
            self._is_ending.set()
        happening = self.board.report(line)
        if happening is not None:
            self._view.happened(happening)

    def _say(self, text: str, tone: str = "plain") -> None:
        self._view.happened(self.board.happened(text, tone))

    async def _watch(self) -> None:
        while True:
            if self._begun is not None:
                self.board.elapsed = time.time() - self._begun
            self._look_at_the_weather()
            self._view.refresh(self.board)
            await asyncio.sleep(_REFRESH)

    def _look_at_the_weather(self) -> None:
        if self._begun is None:
            return
        now = tuple(dict.fromkeys(window.kind.value for window in self.plan.active(self.board.elapsed)))
        before, self.board.weather = self.board.weather, now
        for kind in now:
            if kind not in before:
                self._say(f"fault begins: {FAULTS_IN_WORDS.get(kind, kind)}", "weather")
        over = [kind for kind in before if kind not in now]
        if over:
            self._say(f"over: {', '.join(over)}", "weather")

    # -- the reckoning ---------------------------------------------------------------------------------

    async def _reckon(self) -> Summary:
        recovery = ErrorRecoveryService(self.state_dir, self.error_log_dir)
        state = await recovery.restore_state()  # what is on disk, not what the trader says is
        await recovery.aclose()
        book, pending = Book(), list[str]()
        if state is not None:
            book = Book.from_state(state.cached_data["settled_orders"])
            pending = [one["key"] for one in state.active_operations if one["operation"] == OPERATION]
        by_ledger = compare_ledger(self.ledger, book, pending, may_be_pending=self.was_stopped)
        lines = count_lines(await asyncio.to_thread(read_error_lines, self.error_log_dir))
        by_log = compare_log(lines, self.board.lives.values())
        return Summary.make(self.board, book, lines, self.faults["counts"], self.deaths, by_ledger, by_log)


FAULTS_IN_WORDS = {
    "latency": "slow answers, within the time limit",
    "rate_limit": "429 Too Many Requests, with Retry-After",
    "error_before": "502 and 503, nothing booked",
    "error_after": "503 and 504 although the order was booked",
    "cut_before": "connections cut before the order was booked",
    "cut_after": "connections cut after the order was booked",
    "late": "booked, and answered after the time limit",
    "booked_later": "504 first, booked a moment later",
    "outage": "total outage: the exchange and its streams are away",
    "stream_cut": "every price stream is cut",
    "reference_outage": "the second price source is away, too",
    "slow_disk": "the trader's own disk is slow",
}


def read_error_lines(directory: Path) -> list[bytes]:
    """All lines of the error log in *directory*."""
    lines: list[bytes] = []
    for path in sorted(directory.glob("errors_*.jsonl")):
        lines += path.read_bytes().splitlines()
    return lines

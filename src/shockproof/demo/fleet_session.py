"""
A session with several traders of one account: one owns it and trades, the others stand by. The owner is killed, and another
one takes over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from shockproof import ErrorRecoveryService
from shockproof.demo.account import ALLOWED
from shockproof.demo.book import OPERATION, Book, name_of
from shockproof.demo.fleet_board import FleetBoard, Member
from shockproof.demo.fleet_summary import FleetSummary
from shockproof.demo.options import Options
from shockproof.demo.scoreboard import Happening
from shockproof.demo.session import SessionError, read_error_lines
from shockproof.demo.shared_store import start_store
from shockproof.demo.timing import Timing
from shockproof.demo.trader import LOST
from shockproof.demo.trader_process import TRADER, TraderProcess
from shockproof.demo.venue.process import VenueProcess
from shockproof.demo.verdict import compare_ledger, compare_limits, compare_log, count_lines

__all__ = ["FleetSession", "FleetView"]

_REFRESH: Final = 0.1
_KILLED_AT: Final = 0.25
"""Part of the session behind which the owner is killed: in the rest another one has to take over, and to trade."""
_MOST_WITHOUT_ORDERS: Final = 0.1
"""Part of the session that a SIGKILL waits for an order."""
_UNTIL_OWNED: Final = 60.0
"""Seconds until somebody must own the account: three times as long as it takes."""
_MOST_OVERTIME: Final = 30.0
"""Seconds behind the end of the session that the owner gets for seeing its orders through."""
_PATIENCE: Final = 8.0
"""Seconds that a trader gets for its end when it was asked to stop."""
_MOST_LOST: Final = 5
"""So often may traders lose the account and be started again: on a machine that stands still for seconds they do."""


class FleetView(Protocol):
    """Shows what happens, to whoever watches. Never waits."""

    def happened(self, happening: Happening) -> None:
        """Something worth a line."""
        ...

    def status(self, elapsed: float, text: str) -> None:
        """How everything stands, ten times a second."""
        ...


class FleetSession:
    """
    Runs once.

    Args:
        options: what was asked for.
        directory: where state, journal, error log and a shared file are kept while it runs.
        view: shows it.
        kill_at: seconds of the session behind which the owner is killed, with its next order in flight; None: in
            the first half of it.
        trader: the command that starts a trader, without its arguments.
    """

    def __init__(
        self,
        options: Options,
        directory: Path,
        view: FleetView,
        *,
        kill_at: float | None = None,
        trader: Sequence[str] = TRADER,
    ) -> None:
        assert options.fleet is not None
        self.options = options
        self.state_dir = directory / "state"
        self.error_log_dir = directory / "errors"
        self.board = FleetBoard(options.seconds)
        self.timing = Timing.for_session(options.seconds)
        self._count = options.fleet
        self._kill_at = _KILLED_AT * options.seconds if kill_at is None else kill_at
        self._directory = directory
        self._view = view
        self._command = trader
        self._started_at = time.monotonic()
        self._store = ""
        self._traders: dict[int, TraderProcess] = {}
        self._ends: dict[int, asyncio.Task[int]] = {}
        self._begun: float | None = None
        """Wall time at which the first owner began to trade."""
        self._stopping = asyncio.Event()
        self._stops = 0
        self.deaths = 0
        self.losses = 0
        self.hand_over: float | None = None
        """Seconds from the death of the owner until another one had the account."""
        self.ledger: dict[str, Any] = {}  # Any: the venue's JSON
        self.faults: dict[str, Any] = {}  # Any: the venue's JSON
        self.arrivals: dict[str, list[float]] = {}

    def stop(self) -> None:
        """End in order and soon; said a second time, at once."""
        self._stops += 1
        self._stopping.set()
        for trader in self._traders.values():
            if self._stops == 1:
                trader.stop()
            else:
                trader.kill()

    @property
    def was_stopped(self) -> bool:
        return self._stopping.is_set()

    async def run(self) -> FleetSummary:
        """
        The whole session.

        Raises:
            SessionError: venue or traders do not work at all.
        """
        watching = asyncio.create_task(self._watch(), name="view")
        try:
            async with (
                start_store(self._directory) as store,
                VenueProcess.start(
                    seconds=self.options.seconds,
                    seed=self.options.seed,
                    faults=self.options.faults,
                    client_timeout=self.timing.timeout,
                ) as venue,
            ):
                self._store = store.url
                self._say(f"the venue is up, process {venue.pid}, at {venue.base_url}", "good")
                self._say(f"what the traders share is in {store.what}", "good")
                self._say(
                    "the store is new: nobody sends for some 20 s, as those whom it might have forgotten could have used "
                    "the account up to now"
                )
                for _ in range(self._count):
                    await self._start(venue)
                await self._trade(venue)
                await self._end_all()
                if not venue.is_running:
                    raise SessionError("the venue ended before the session did")
                self.ledger = await venue.ledger()
                self.faults = await venue.fault_log()
                self.arrivals = await venue.arrivals()
            return await self._reckon()
        finally:
            watching.cancel()
            for trader in self._traders.values():
                trader.kill()
            await asyncio.gather(*self._ends.values(), return_exceptions=True)

    # -- the traders -----------------------------------------------------------------------------------

    async def _start(self, venue: VenueProcess) -> None:
        life = len(self.board.members) + 1
        member = self.board.members[life] = Member(life, f"trader-{life}")
        trader = await TraderProcess.start(
            [
                *self._command,
                f"--base-url={venue.base_url}",
                f"--stream-url={venue.stream_url}",
                f"--reference-url={venue.reference_url}",
                f"--state-dir={self.state_dir}",
                f"--error-log-dir={self.error_log_dir}",
                f"--seconds={self.options.seconds}",
                f"--seed={self.options.seed}",
                f"--faults={self.options.faults}",
                f"--store={self._store}",
                f"--name={member.name}",
                f"--life={life}",
            ],
            lambda line: self._report(member, line),
        )
        self._traders[life] = trader
        self._ends[life] = asyncio.create_task(self._see_end(member, trader), name=member.name)
        if self.was_stopped:  # meanwhile
            trader.stop()

    async def _see_end(self, member: Member, trader: TraderProcess) -> int:
        code = await trader.wait()
        member.role = "gone"
        return code

    async def _trade(self, venue: VenueProcess) -> None:
        """Until the owner has come to the end of the session, or somebody says stop."""
        owned_by = time.monotonic() + _UNTIL_OWNED
        is_killed, died_at = False, 0.0
        while not self.was_stopped:
            if await self._is_over(venue):
                return
            owner = self.board.owner
            if owner is None:
                if time.monotonic() > owned_by:
                    raise SessionError(f"nobody owned the account within {_UNTIL_OWNED:g} s")
            else:
                owned_by = time.monotonic() + _UNTIL_OWNED
                if is_killed and self.hand_over is None:
                    self.hand_over = time.monotonic() - died_at
                    self._say(f"{owner.name} has taken over {self.hand_over:.1f} s after the SIGKILL", "good")
                elapsed = 0.0 if self._begun is None else time.time() - self._begun
                if not is_killed and elapsed >= self._kill_at:
                    died_at = time.monotonic()
                    is_killed = await self._kill(venue, owner)
                if elapsed > self.options.seconds + _MOST_OVERTIME:
                    self._say(f"{owner.name} does not come to an end by itself: asked to stop", "bad")
                    return
            await asyncio.sleep(0.02)

    async def _is_over(self, venue: VenueProcess) -> bool:
        """Whether the owner has ended in order; others that have ended are replaced."""
        for life, end in list(self._ends.items()):
            if not end.done():
                continue
            code, trader = end.result(), self._traders[life]
            member = self.board.members[life]
            if code == 0 and member.has_owned:
                return True
            del self._ends[life], self._traders[life]
            if code == 0:
                continue
            if code == LOST:
                self.losses += 1
                self._say(f"{member.name} has lost the account", "bad")
                if self.losses > _MOST_LOST:
                    raise SessionError("the account is lost again and again: this machine is too slow for it")
            elif code > 0:
                raise SessionError(f"{member.name} failed (exit code {code}):\n  " + "\n  ".join(trader.said))
            elif not trader.was_killed:
                raise SessionError(f"{member.name} was ended by signal {-code}")
            await self._start(venue)
        return False

    async def _kill(self, venue: VenueProcess, owner: Member) -> bool:
        """
        SIGKILL, as soon as the venue has booked an order of which the owner does not know it; without one, when there
        has been none for a while. Whether it was killed.
        """
        trader, end = self._traders[owner.life], self._ends[owner.life]
        await venue.fall_silent_behind_the_next_order()
        in_flight = asyncio.ensure_future(venue.order_in_flight())
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            moments: set[asyncio.Future[Any]] = {in_flight, stopped, end}  # Any: each has a result of its own
            await asyncio.wait(
                moments,
                timeout=_MOST_WITHOUT_ORDERS * self.options.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if end.done() or self.was_stopped:
                return False
            trader.kill()
            await asyncio.wait({end})
            self.deaths += 1
            if in_flight.done():
                what = f"{name_of(in_flight.result())} in flight: the venue has booked it, and not answered"
            else:
                what = "nothing in flight"
            self._say(f"SIGKILL: {owner.name} is dead, with {what}", "weather")
            return True
        finally:
            stopped.cancel()
            await venue.speak_again()
            in_flight.cancel()
            await asyncio.wait({in_flight})

    async def _end_all(self) -> None:
        for trader in self._traders.values():
            trader.stop()
        if self._ends:
            _, late = await asyncio.wait(set(self._ends.values()), timeout=_PATIENCE)
            for life, end in self._ends.items():
                if end in late:
                    self._say(f"{self.board.members[life].name} does not stop: killed", "bad")
                    self._traders[life].kill()
            await asyncio.wait(set(self._ends.values()))

    # -- watching --------------------------------------------------------------------------------------

    def _report(self, member: Member, line: dict[str, Any]) -> None:  # Any: the trader's JSON
        if line.get("kind") == "up" and self._begun is None:
            self._begun = line["begun"]
        if line.get("kind") == "ending" and member.role == "owner":
            for life, trader in self._traders.items():
                if life != member.life:
                    trader.stop()  # there is nothing left to take over
        happening = self.board.report(member, line)
        if happening is not None:
            self._view.happened(happening)

    def _say(self, text: str, tone: str = "plain") -> None:
        self._view.happened(self.board.happened(text, tone))

    async def _watch(self) -> None:
        while True:
            self.board.elapsed = time.monotonic() - self._started_at
            self._view.status(self.board.elapsed, self.board.status_line())
            await asyncio.sleep(_REFRESH)

    # -- the reckoning ---------------------------------------------------------------------------------

    async def _reckon(self) -> FleetSummary:
        recovery = ErrorRecoveryService(self.state_dir, self.error_log_dir)
        state = await recovery.restore_state()  # what is on disk, not what the traders say is
        await recovery.aclose()
        book, pending = Book(), list[str]()
        if state is not None:
            book = Book.from_state(state.cached_data.get("settled_orders", []))
            pending = [one["key"] for one in state.active_operations if one["operation"] == OPERATION]
        by_ledger = compare_ledger(self.ledger, book, pending, may_be_pending=self.was_stopped)
        lines = count_lines(await asyncio.to_thread(read_error_lines, self.error_log_dir))
        return FleetSummary.make(
            self.board,
            book,
            lines,
            self.faults["counts"],
            deaths=self.deaths,
            losses=self.losses,
            hand_over=self.hand_over,
            by_ledger=by_ledger,
            by_limits=compare_limits(self.arrivals, ALLOWED),
            by_log=compare_log(lines, self.board.lives()),
        )

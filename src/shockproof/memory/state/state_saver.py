"""
When the state is written: at most once in an interval, at most one write at a time, the latest wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shockproof.memory.disk.file_layer import FileStamp
from shockproof.memory.disk.pacing import Pace
from shockproof.memory.disk.writer import wait_on_this_loop
from shockproof.memory.state.packed import let_go_packed
from shockproof.memory.state.secrets import SecretNotSavedWarning
from shockproof.memory.state.state_capture import NOTHING_KNOWN, CapturedState, capture_state
from shockproof.memory.state.state_files import RestoredState, StateFiles
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import ShockproofError, StateNotSavedError, StateVersionError

__all__ = ["SaveSchedule", "StateSaver", "Submit", "flush_all_blocking"]

Submit = Callable[[Callable[[], Any]], "Future[Any]"]  # Any: whatever the function returns
"""Runs a function in the writer's thread."""

_RETRY_AFTER = 1.0
# Seconds before a write that nobody waits for is tried again, at the least.

_log = logging.getLogger("shockproof")


@dataclass(slots=True)
class SaveSchedule:
    """Decides whether a save is written now. Seconds throughout; the time is handed in."""

    interval: float
    last_write: float | None = None
    """When the last write was started."""

    def wait(self, now: float, *, force: bool) -> float:
        """0.0 to write now, else the seconds until the interval ends. The first save never waits."""
        if force or self.last_write is None:
            return 0.0
        # The clock of another loop may be behind: then the interval begins anew, once.
        self.last_write = min(self.last_write, now)
        return max(0.0, self.last_write + self.interval - now)


class _Saving(NamedTuple):
    """A captured state, and its place in the order of the calls."""

    ticket: int
    captured: CapturedState
    at: float
    """Wall time of the capture, in seconds since 1970 UTC."""


class StateSaver:
    """
    Saves the state of one service: `save` from any number of loops and threads.

    ``submit`` runs a function in the writer's thread and gives a concurrent future; all file work is
    done there. A save that comes too early is kept, only the latest of them, and written when the
    interval ends (as long as the loop that it came from runs), with the next save after that, or by
    `flush`.
    """

    def __init__(self, files: StateFiles, *, clock: Clock, interval: float, submit: Submit) -> None:
        self._files = files
        self._clock = clock
        self._submit = submit
        self._schedule = SaveSchedule(interval)
        self._tickets = itertools.count(1)
        # Held for a few assignments, never across an await, a write or anybody's code.
        self._lock = threading.Lock()
        self._pending: _Saving | None = None
        self._known = NOTHING_KNOWN
        """The large parts of the last copy; the next one shares what has not changed."""
        self._saved_ticket = 0
        self._writing: int | None = None
        """The ticket that is being written, 0 just before; None when no write is in flight."""
        self._write_again = False
        """Something came up during the write that should not wait for the next interval."""
        self._waiters: list[tuple[int, Future[None]]] = []
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
        self._may_replace = False
        """Whether what is on disk is known to who saves: it was restored, or they have saved by themselves."""
        self._left: dict[str, FileStamp | None] | None = None
        """What `leave` has left there, which is known to them as well."""
        self._refused: str | None = None
        """Why what is on disk could not be restored; saving would lose it."""
        self._has_held_back = False
        self.on_written: Callable[[CapturedState, float], None] | None = None
        """Told, in the writer's thread, of each state that is durable, and when it was saved; it must not raise."""
        self.saved_at: float | None = None
        """Wall time of the state that is on the disk, in seconds since 1970 UTC; None: it is not known of one."""

    def __repr__(self) -> str:
        state = "writing" if self._writing is not None else "pending" if self._pending else "saved"
        return f"<StateSaver {str(self._files.directory)!r} {state}>"

    @property
    def pending(self) -> bool:
        """Whether something was saved that is not durable yet."""
        return self._pending is not None

    @property
    def interval(self) -> float:
        """Seconds between two writes; may be set while running, and counts from the last write."""
        return self._schedule.interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        with self._lock:
            self._schedule.interval = seconds
            timer = self._timer
        if timer is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                timer[0].call_soon_threadsafe(self._rearm, timer)

    async def save(
        self, sections: Mapping[str, object], *, force: bool = False, automatic: bool = False
    ) -> bool:
        """
        Save *sections* as they are now. True: they, or newer ones, are durable. False: kept for later.

        An *automatic* one does not replace what an earlier life has left before `load` has restored it, or somebody has
        saved who is not automatic: then it is False, and nothing is kept.

        When cancelled before the state is copied, nothing happened; after that the write goes on by
        itself, and only the waiting ends.

        Raises:
            StateNotSavedError: the disk refused; the state is kept, and tried again when the interval ends and
                with the next save.
            UnsavableValueError: a value that could not be restored; nothing was kept.
            StateVersionError: the files in the directory are a newer program's, or the last `load` has refused them.
            TypeError: a section is not what its name says.
        """
        if automatic:
            if not await self._may_replace_by_itself():
                return False
        elif self._refused is not None:
            raise StateVersionError(
                f"the state was not saved, for it would replace one that could not be restored. {self._refused}"
            )
        ticket = next(self._tickets)
        at = self._clock.time()
        captured = await capture_state(sections, secrets=self._files.secrets, timestamp=at, known=self._known)
        self._known = captured.packed
        if captured.left_out:
            warnings.warn(
                f"secrets were left out of the saved state, for there is no key to encrypt them with: "
                f"{', '.join(captured.left_out)}; configure a key, or redact=() to save them as they are",
                SecretNotSavedWarning,
                stacklevel=4,
            )
        self._may_replace = True
        with self._lock:
            if ticket > self._saved_ticket and (self._pending is None or self._pending.ticket < ticket):
                self._let_go(self._pending)
                self._pending = _Saving(ticket, captured, at)
            now = self._clock.monotonic()
            wait = self._schedule.wait(now, force=force)
            if wait > 0:
                self._arm(wait)
                return False
            self._schedule.last_write = now
            waiter = self._wait_for(ticket)
        self._start_writing()
        try:
            await wait_on_this_loop(waiter)
        except StateNotSavedError:
            with self._lock:
                self._arm(max(self._schedule.interval, _RETRY_AFTER))
            raise
        return True

    async def flush(self) -> None:
        """
        Return when everything that was saved before is durable; cancelling ends only the waiting.

        Raises:
            StateNotSavedError, StateVersionError: as `save`.
        """
        waiter = self._flush_soon()
        if waiter is not None:
            await wait_on_this_loop(waiter)

    async def leave(self) -> None:
        """
        The program has come to its end, and may go on: from here on another one may save, of which who saves knows nothing.

        Cancelled, or where the disk does not tell what is there, it is asked for a restore then.
        """
        if self._may_replace:
            self._may_replace, self._left = False, None
            with contextlib.suppress(OSError, RuntimeError):
                self._left = await wait_on_this_loop(self._submit(self._files.stamps))

    def flush_blocking(self, timeout: float) -> None:
        """
        `flush` for the end of the program, when no loop runs: blocks for up to *timeout* seconds.

        Raises:
            StateNotSavedError: as `save`, or the time was up.
        """
        waiter = self._flush_soon()
        if waiter is not None:
            self._wait_blocking(waiter, time.monotonic() + timeout, timeout)

    async def load(self) -> RestoredState:
        """
        What is on disk, see `StateFiles.load`; a state that is still pending is not.

        Raises:
            StateVersionError, OSError: see there.
        """
        try:
            restored: RestoredState = await wait_on_this_loop(self._submit(self._files.load))
        except StateVersionError as error:
            self._refused = str(error)
            raise
        self._refused, self._may_replace = None, True
        if restored.state is not None and self.saved_at is None:
            self.saved_at = restored.state.timestamp.timestamp()
        return restored

    def after_fork(self) -> None:
        """In a child process: forget the writes in flight and what is pending. They are the parent's."""
        self._lock = threading.Lock()
        self._pending = None
        self._writing = None
        self._waiters = []
        self._timer = None

    async def _may_replace_by_itself(self) -> bool:
        if self._refused is None:
            if self._may_replace or not await self._is_anything_there():
                return True
            why = "was not restored by this one. Call restore_state() first, or save_state() once if it is of no use"
        else:
            why = f"could not be restored: {self._refused}"
        if not self._has_held_back:
            self._has_held_back = True
            _log.warning(
                "automatic saving does not overwrite the state that an earlier life of the program has left in %s, which %s",
                self._files.directory,
                why,
            )
        return False

    async def _is_anything_there(self) -> bool:
        try:
            found: bool = await wait_on_this_loop(self._submit(self._is_anybody_elses_there))
        except OSError as error:
            raise StateNotSavedError(
                f"the state was not saved by itself in {self._files.directory}, for what an earlier life has left there cannot be "
                f"seen: {error}. It is asked again the next time: make the directory readable, or use another state_dir"
            ) from error
        return found

    def _is_anybody_elses_there(self) -> bool:
        return self._files.hold_a_state() and (self._left is None or self._files.stamps() != self._left)

    # ---- waiting

    def _flush_soon(self) -> Future[None] | None:
        with self._lock:
            self._disarm()
            if self._pending is None:  # a write in flight is pending until it has succeeded
                return None
            waiter = self._wait_for(self._pending.ticket)
        self._start_writing()
        return waiter

    def _wait_blocking(self, waiter: Future[None], until: float, limit: float) -> None:
        try:
            waiter.result(max(0.0, until - time.monotonic()))
        except TimeoutError as error:
            raise self._not_saved(f"not within {round(limit, 1):g} s", error) from error

    def _wait_for(self, ticket: int) -> Future[None]:
        waiter: Future[None] = Future()
        # From here on it cannot be cancelled: whoever stops waiting only stops waiting.
        waiter.set_running_or_notify_cancel()
        if ticket <= self._saved_ticket:
            waiter.set_result(None)
        else:
            self._waiters.append((ticket, waiter))
        return waiter

    # ---- writing

    def _let_go(self, saving: _Saving | None) -> None:
        """One that a newer save has replaced is freed in the writer's thread, which can take its time."""
        if saving is not None and saving.captured.packed and saving.ticket != self._writing:
            parts = list(saving.captured.packed.values())
            with contextlib.suppress(RuntimeError):  # the system has no thread left
                self._submit(lambda: let_go_packed(parts, Pace()))

    def _start_writing(self) -> None:
        with self._lock:
            if self._pending is None:
                return
            if self._writing is not None:
                self._write_again = self._pending.ticket != self._writing
                return
            self._writing = 0
            self._disarm()
        try:
            job = self._submit(self._write)
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait are told
            self._failed(None, error)
        else:
            job.add_done_callback(self._ended)

    def _ended(self, job: Future[Any]) -> None:  # Any: its result is None
        if job.cancelled():
            self._failed(None, RuntimeError("the writer was closed before it came to it"))

    def _write(self) -> None:
        """Write what is pending, and again as long as somebody waits for more. In the writer's thread."""
        while True:
            with self._lock:
                saving = self._pending
                if saving is None:
                    self._writing = None
                    return
                self._writing = saving.ticket
                self._write_again = False
            try:
                self._files.write(saving.captured)
            except BaseException as error:
                if not isinstance(error, Exception):
                    self._failed(None, error)
                    raise
                self._failed(saving, error)
            else:
                self._succeeded(saving)
                if self.on_written is not None:
                    self.on_written(saving.captured, saving.at)
            with self._lock:
                if not self._waiters and not self._write_again:
                    self._writing = None
                    return

    def _succeeded(self, saving: _Saving) -> None:
        with self._lock:
            self._saved_ticket = saving.ticket
            self.saved_at = saving.at
            if self._pending is saving:
                self._pending = None
            ready = self._take_waiters(saving.ticket)
        for waiter in ready:
            waiter.set_result(None)

    def _failed(self, saving: _Saving | None, cause: BaseException) -> None:
        with self._lock:
            # Nothing was written at all: then nobody waits any longer, whatever for.
            ready = self._take_waiters(None if saving is None else saving.ticket)
            if saving is None:
                self._writing = None
        if not ready:
            _log.error("the state in %s was not saved: %s", self._files.directory, cause)
        for waiter in ready:
            # One for each of them: a traceback belongs to one task.
            waiter.set_exception(self._error(cause))

    def _take_waiters(self, ticket: int | None) -> list[Future[None]]:
        ready = [waiter for wanted, waiter in self._waiters if ticket is None or wanted <= ticket]
        self._waiters = [] if ticket is None else [entry for entry in self._waiters if entry[0] > ticket]
        return ready

    def _error(self, cause: BaseException) -> BaseException:
        if isinstance(cause, ShockproofError):
            # Its text says it all; the same object cannot be raised in several tasks.
            error: BaseException = type(cause)(*cause.args)
        else:
            error = self._not_saved(str(cause) or type(cause).__name__, cause)
        error.__cause__ = cause
        return error

    def _not_saved(self, why: str, cause: BaseException) -> StateNotSavedError:
        path: Path = self._files.directory
        return StateNotSavedError(
            f"the state was not saved in {path}: {why}. It is kept in memory and tried again when the "
            "interval ends and with the next save: free the disk or make the directory writable, or use another state_dir"
        )

    # ---- the end of the interval

    def _arm(self, wait: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None or self._timer[0].is_closed():
            timer = (loop, loop.call_later(wait, self._interval_ended))
            self._timer = timer

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                # Another thread's loop may be the owner, and only there a timer may be touched.
                timer[0].call_soon_threadsafe(timer[1].cancel)

    def _interval_ended(self) -> None:
        with self._lock:
            self._timer = None
            if self._pending is None:
                return
            wait = self._schedule.wait(self._clock.monotonic(), force=False)
            if wait > 0:
                self._arm(wait)
                return
            self._schedule.last_write = self._clock.monotonic()
        self._start_writing()
        with self._lock:
            # Should it fail with nobody waiting, this tries again.
            self._arm(max(self._schedule.interval, _RETRY_AFTER))

    def _rearm(self, timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle]) -> None:
        with self._lock:
            if self._timer is not timer:
                return
            timer[1].cancel()
            self._timer = None
            if self._pending is not None:
                self._arm(self._schedule.wait(self._clock.monotonic(), force=False))


def flush_all_blocking(savers: Iterable[StateSaver], timeout: float) -> list[str]:
    """
    `StateSaver.flush_blocking` for several at a time; gives what each that failed has to say.

    All are started before any is waited for, and *timeout* (seconds) is for all together: a disk that
    hangs does not take the time of the others.
    """
    until = time.monotonic() + timeout
    started = [(saver, waiter) for saver in savers if (waiter := saver._flush_soon()) is not None]
    left_behind: list[str] = []
    for saver, waiter in started:
        try:
            saver._wait_blocking(waiter, until, timeout)
        except ShockproofError as error:
            left_behind.append(str(error))
    return left_behind

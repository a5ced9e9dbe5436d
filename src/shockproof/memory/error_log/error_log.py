"""
The error log: every recorded error becomes one line of JSON on disk, and no event loop waits for it.

`ErrorLog.put` adds to a bounded queue and returns. A task on the background writer's private loop
takes batches from it, renders and encodes them in short bursts, and appends them through aiofiles.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import date, datetime, tzinfo
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from shockproof.memory.disk import writer as background
from shockproof.memory.disk.file_layer import SYSTEM_FILES, FileLayer
from shockproof.memory.error_log.bounded_queue import BoundedQueue, Gap, WhenFull
from shockproof.memory.error_log.capture import CapturedError
from shockproof.memory.error_log.error_files import day_in, error_files, file_name
from shockproof.vocabulary.clock import Clock, SystemClock
from shockproof.vocabulary.statuses import ErrorSeverity

if TYPE_CHECKING:
    from shockproof.memory.disk.append_file import AppendFile
    from shockproof.memory.error_log.error_reading import ErrorReading
    from shockproof.memory.error_log.error_retention import Retention
    from shockproof.memory.error_log.folding import Folding
    from shockproof.memory.error_log.last_lines import LastLines

__all__ = ["ErrorLog", "ErrorLogStatistics"]

T = TypeVar("T")

_LINGER: Final = 0.01
"""Seconds a record may wait for company, so that a trickle makes a hundred writes a second at most."""
_LARGE: Final = 256 * 1024
"""Bytes of waiting records at which waiting for more is pointless."""
_BATCH_BYTES: Final = 1024 * 1024
_BATCH_RECORDS: Final = 2_048
_MOST_OPEN: Final = 4
_LOOK_EVERY: Final = 4
"""Records between two looks at the clock: one takes some microseconds."""
_FIRST_RETRY: Final = 0.1
_LAST_RETRY: Final = 1.0
_IDLE: Final = 5.0
_NAP: Final = 0.00005
_WAY_EVERY: Final = 0.0005
_WAY_SELDOM: Final = 0.02
_HUNG: Final = 1.0
"""Seconds without an answer after which the disk counts as hanging."""
_SEVERITIES: Final = tuple(ErrorSeverity)


class ErrorLogStatistics(NamedTuple):
    """One moment of the log. ``submitted == written + queued + dropped + folded``, always."""

    state: Literal["ok", "degraded", "closed"]
    """Degraded: the disk refuses or hangs; records wait, within bounds, and are written when it is back."""
    submitted: int
    """Records given to the log."""
    written: int
    """Handed to the operating system."""
    queued: int
    """Waiting in memory, or being written."""
    dropped: int
    """Lost, because the queue was full."""
    dropped_by_severity: Mapping[str, int]
    """The same by severity, worst last; only those that occur."""
    queued_bytes: int
    """About how much memory waits."""
    folded: int
    """Counted in the line of another that says the same; 0 unless ``fold`` is on."""
    last_error: str | None
    """What the disk said last, None if nothing is wrong with it."""


class _Lines(NamedTuple):
    """What goes to one file."""

    day: date
    text: bytes
    number: int


class _Flush:
    """Somebody waits until everything before a mark is written."""

    def __init__(self, mark: int, *, sync: bool) -> None:
        self.mark = mark
        self.sync = sync
        self.done: Future[bool] = Future()
        # Running from the start: who waits may be cancelled, the future may not.
        self.done.set_running_or_notify_cancel()

    def answer(self, *, written: bool) -> None:
        if not self.done.done():
            self.done.set_result(written)


class ErrorLog:
    """
    The files of one directory, as one process writes them.

    Any thread and any loop may use it, and none is needed. Several processes may share a directory;
    within one process one log per directory is meant, and two are harmless.

    Args:
        directory: where the files are; made when the first record is written, or by `prepare`.
        clock: tells which day is today, for retention.
        zone: the time zone whose days the files are; None: UTC.
        max_records: how many records may wait.
        max_bytes: how much memory they may take, about.
        when_full: which record goes when there is no room: ``"drop_lowest"`` the oldest of the
            lowest severity, ``"drop_oldest"`` the oldest, ``"drop_new"`` the newcomer.
        fsync: whether `flush` and `aclose` also have the disk make it durable, which survives a power
            failure; without it what is flushed survives the death of the process.
        max_file_bytes: about how large a file may become before the day goes on in another part;
            None: any size.
        keep_days: days before today whose files are kept; None: all.
        keep_bytes: bytes of files that are kept, the oldest going first; None: all.
        compress: whether the files of closed days are compressed.
        fold: seconds in which identical records become two lines, the first and the last with how many there
            were, see `Folding`; None: every record is a line. A line that counts others may be dropped as any other.
        fold_numbers: whether messages that differ in numbers only count as identical.
        layer: what does the file work.

    ``keep_days``, ``keep_bytes`` and ``compress`` are done when a record is written and the day is a new one, or a new part
    has begun; they never touch today's files, nor any whose name is not ours. Where somebody has set the clock by hours
    or more, nothing is done before it has stood so for one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock | None = None,
        zone: tzinfo | None = None,
        max_records: int = 10_000,
        max_bytes: int = 8 * 2**20,
        when_full: WhenFull = "drop_lowest",
        fsync: bool = False,
        max_file_bytes: int | None = None,
        keep_days: int | None = None,
        keep_bytes: int | None = None,
        compress: bool = False,
        fold: float | None = None,
        fold_numbers: bool = False,
        layer: FileLayer = SYSTEM_FILES,
    ) -> None:
        self.directory = directory
        self._layer = layer
        self._clock = clock if clock is not None else SystemClock()
        self._writer = background.writer_for(directory)
        self._queue: BoundedQueue[CapturedError] = BoundedQueue(
            max_records=max_records, max_bytes=max_bytes, when_full=when_full, ranks=len(_SEVERITIES)
        )
        # What a hanging disk holds, a batch and the next, takes room from those who come: a quarter of it at most.
        self._batch_records = min(_BATCH_RECORDS, max(1, max_records // 8))
        self._batch_bytes = min(_BATCH_BYTES, max(1, max_bytes // 8), max_file_bytes or _BATCH_BYTES)
        self._day_of = day_in(zone)
        self._fsync = fsync
        self._max_file_bytes = max_file_bytes
        self._retention: Retention | None = None
        if keep_days is not None or keep_bytes is not None or compress:
            from shockproof.memory.error_log.error_retention import Retention

            self._retention = Retention(
                directory, keep_days=keep_days, keep_bytes=keep_bytes, compress=compress, layer=layer
            )
        self._folding: Folding | None = None
        if fold is not None:
            from shockproof.memory.error_log.folding import Folding

            self._folding = Folding(fold, ignore_numbers=fold_numbers)
        self._files: dict[date, tuple[int, AppendFile]] = {}
        self._last_lines: LastLines | None = None
        self._last_error: str | None = None
        self._start_over()
        background.after_fork(self._in_the_child)

    def __repr__(self) -> str:
        return f"<ErrorLog {str(self.directory)!r} {self.statistics()}>"

    def put(self, error: CapturedError) -> None:
        """
        Give a record to the log: never waits for the disk, never raises; what had to be dropped is counted.

        A flood that leaves the writer's thread no time to run is slowed by some 0.1 ms every 0.5 ms, as
        long as the queue is more than half full and that helps the writer.
        """
        try:
            if self._folding is None:
                self._enqueue(error)
            else:
                for one in self._folding.add(error, time.monotonic()):
                    self._enqueue(one)
        except Exception as failure:  # noqa: BLE001  a log must not hurt the one who logs
            self._last_error = f"{type(failure).__name__}: {failure}"

    def _enqueue(self, error: CapturedError) -> None:
        self._queue.put(error, error.severity.rank, error.size, error.timestamp)
        if self._is_asleep:
            self._wake()
        elif self._queue.is_crowded:
            self._give_way()

    @property
    def is_writing_here(self) -> bool:
        """Whether this is the loop on which the log is written: what is said here is about the writing itself."""
        return self._writer.is_running_here

    def statistics(self) -> ErrorLogStatistics:
        """What became of the records so far; waits for nobody."""
        counts = self._queue.counts()
        folding = self._folding
        folded, waiting = (0, 0) if folding is None else (folding.folded, folding.waiting)
        last_error = self._last_error
        state: Literal["ok", "degraded", "closed"] = "closed" if self._is_closed else "ok"
        asked_at = self._asked_disk_at
        if last_error is None and asked_at is not None and time.monotonic() - asked_at > _HUNG:
            last_error = f"the disk has not answered for {time.monotonic() - asked_at:.1f} s"
        if last_error is not None:
            state = "degraded"
        return ErrorLogStatistics(
            state=state,
            submitted=counts.submitted + folded + waiting,
            written=counts.settled,
            queued=counts.queued + waiting,
            dropped=sum(counts.dropped),
            dropped_by_severity=MappingProxyType(
                {_SEVERITIES[rank].value: count for rank, count in enumerate(counts.dropped) if count}
            ),
            queued_bytes=counts.queued_bytes,
            folded=folded,
            last_error=last_error,
        )

    async def prepare(self) -> None:
        """
        Make the directory now, so that a bad one is refused here and not at the first error.

        Raises:
            OSError: of the kind the system raised, naming the setting, its value and the way out.
        """
        from shockproof.memory.disk.directory import make_writable

        await self._writer.run(make_writable, self.directory, "error_log_dir", self._layer)

    async def flush(self, timeout: float = 5.0) -> bool:  # real seconds, on a loop of any kind of time
        """
        Wait until everything that was put before is written; True if it is.

        False after ``timeout`` real seconds: then it is still queued, and written when the disk takes
        it. On any loop. Cancelling only stops the waiting.
        """
        return await background.wait_on_this_loop(self._flush_soon(timeout))

    def flush_blocking(self, timeout: float = 5.0) -> bool:
        """`flush` for threads without a loop: blocks."""
        return self._wait_blocking(self._flush_soon(timeout), timeout)

    async def aclose(self, timeout: float = 5.0) -> bool:  # as in flush
        """
        `flush`, then close the files and let the threads go.

        Whatever could not be written in time stays queued and is still tried. A later `put` opens
        the log again.
        """
        return await background.wait_on_this_loop(self._close_soon(timeout))

    def close_blocking(self, timeout: float = 5.0) -> bool:
        """`aclose` for threads without a loop: blocks."""
        return self._wait_blocking(self._close_soon(timeout), timeout)

    def read(
        self,
        *,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        service_name: str | None = None,
        min_severity: ErrorSeverity | None = None,
    ) -> ErrorReading:
        """
        The records in all files of the directory, in the order of the files: an async iterator.

        Also those of other processes and of the original program, of parts, and of compressed days.
        What is queued is flushed first. Lines that are no records are skipped and counted
        (`ErrorReading.skipped`), files that cannot be read to their end are named (`ErrorReading.damaged`). Files are read in slices by the disk's thread, and only those of
        days that can matter.

        Args:
            since: only from this moment on; a naive datetime is local time, a number seconds since
                1970 UTC.
            until: only before this moment.
            service_name: only of this service.
            min_severity: only as bad as this, or worse.
        """
        from shockproof.memory.error_log.error_reading import ErrorReading, Wanted

        wanted = Wanted.of(since=since, until=until, service_name=service_name, min_severity=min_severity)
        return ErrorReading(
            self.directory, wanted, self._writer, first=partial(self.flush, 1.0), layer=self._layer
        )

    # Waking, flushing and closing: on the side of the producers

    def _start_over(self) -> None:
        self._is_asleep = True
        self._is_closed = False
        self._is_registered = False
        self._is_worth_waiting = True
        """At the end of the program: until the disk has once not answered in time."""
        self._gave_way_at = 0.0
        self._way_every = _WAY_EVERY
        self._beats = self._beats_seen = 0  # of the task, as a sign of life
        self._last_error = None
        self._asked_disk_at: float | None = None
        # What follows is touched on the private loop only.
        self._task: asyncio.Task[None] | None = None
        self._bell: asyncio.Event | None = None
        self._flushes: list[_Flush] = []
        self._closings: list[_Flush] = []
        self._tidied_on: date | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._batch: list[CapturedError | Gap] = []
        self._next_batch: list[CapturedError | Gap] = []
        self._next_groups: list[_Lines] | None = None

    def _in_the_child(self) -> None:
        # What waits belongs to the parent, which will write it.
        self._queue.clear()
        if self._folding is not None:
            self._folding.clear()
        self._left_to_the_parent = [file.leave_to_parent() for _, file in self._files.values()], self._task
        self._files = {}
        self._start_over()

    def _wake(self) -> None:
        if sys.is_finalizing():
            self._write_here()
            return
        self._is_asleep = False
        self._is_closed = False
        try:
            if not self._is_registered:
                self._is_registered = True
                background.at_exit(self._drain_at_exit)
            self._writer.call_soon(self._ring)
        except BaseException:
            self._is_asleep = True  # the next record tries again
            raise
        if background.is_exiting() and self._is_worth_waiting:  # nobody else will wait for it any more
            # Not for one after the other, where the disk hangs; and for long enough where the machine only stands still.
            self._is_worth_waiting = self.close_blocking(background.EXIT_TIMEOUT)

    def _give_way(self) -> None:
        # A loop that never rests releases the interpreter lock for moments only, in which the writer's
        # thread does not wake up: it would be starved for seconds and the queue would overflow in front
        # of a good disk. A short nap now and then lets it in; where that helps nobody, because the disk
        # hangs, it becomes rare.
        now = time.perf_counter()
        if now - self._gave_way_at > self._way_every:
            time.sleep(_NAP)
            beats = self._beats
            self._way_every = (
                _WAY_EVERY if beats != self._beats_seen else min(2 * self._way_every, _WAY_SELDOM)
            )
            self._beats_seen = beats
            self._gave_way_at = time.perf_counter()

    def _flush_soon(self, timeout: float) -> Future[bool]:
        self._end_storms()
        flush = _Flush(self._queue.mark(), sync=self._fsync)
        if self._queue.is_empty() and (self._task is None or not self._fsync):
            flush.answer(written=True)
        else:
            self._ask(flush, timeout)
        return flush.done

    def _end_storms(self) -> None:
        if self._folding is not None:
            for end in self._folding.end():
                self._enqueue(end)

    def _close_soon(self, timeout: float) -> Future[bool]:
        self._end_storms()
        flush = _Flush(self._queue.mark(), sync=self._fsync)
        if self._queue.is_empty() and self._task is None:
            self._is_closed = True
            flush.answer(written=True)
        else:
            self._ask(flush, timeout, and_close=True)
        return flush.done

    def _wait_blocking(self, future: Future[bool], timeout: float) -> bool:
        try:
            return self._writer.wait_blocking(
                future, timeout + 0.5
            )  # it ends itself before, if its thread lives
        except FutureTimeoutError:
            return False

    def _ask(self, flush: _Flush, timeout: float, *, and_close: bool = False) -> None:
        try:
            self._writer.call_soon(partial(self._accept, flush, timeout, and_close))
        except RuntimeError as error:
            self._last_error = f"{type(error).__name__}: {error}"
            flush.answer(written=False)

    def _write_here(self) -> None:
        # In the thread that records, loop or not: no other gets the interpreter any more.
        why: object = "the interpreter is shutting down"
        if self._last_lines is not None and not self._batch and not self._next_batch:
            try:
                self._queue.settle(self._last_lines.write(self._take()))
                return
            except OSError as error:
                why = f"{type(error).__name__}: {error}"
        self._is_asleep = False  # not again for each of them
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"shockproof: errors can no longer be written to {self.directory} ({why})\n")

    def _drain_at_exit(self, timeout: float) -> str | None:
        from shockproof.memory.error_log.last_lines import LastLines

        self._last_lines = LastLines(self.directory, self._day_of, self._layer)
        if self.close_blocking(timeout):
            return None
        self._is_worth_waiting = False
        left = self.statistics()
        why = f" ({left.last_error})" if left.last_error else ""
        return f"{left.queued} error records could not be written to {self.directory} in time{why}"

    # The task: on the private loop

    def _ring(self) -> None:
        if self._task is None:
            self._bell = asyncio.Event()
            self._task = self._writer.start_task(self._work())
        elif self._bell is not None:
            self._bell.set()

    def _accept(self, flush: _Flush, timeout: float, and_close: bool) -> None:  # a callback's argument
        (self._closings if and_close else self._flushes).append(flush)
        asyncio.get_running_loop().call_later(timeout, self._give_up, flush)
        self._ring()

    def _give_up(self, flush: _Flush) -> None:
        for waiting in (self._flushes, self._closings):
            if flush in waiting:
                waiting.remove(flush)
        flush.answer(written=False)

    async def _work(self) -> None:
        try:
            while True:
                if self._queue.is_empty():
                    await self._answer()
                    self._is_asleep = True  # and look again: a record that comes after that look rings
                    if (
                        self._queue.is_empty()
                        and (self._closings or not await self._rings_within(self._patience()))
                        and not self._goes_on_counting()
                    ):
                        break
                    self._is_asleep = False
                    continue
                if not self._is_hurried() and self._queue.counts().queued_bytes < _LARGE:
                    await self._rings_within(_LINGER)
                try:
                    await self._write_batch()
                except Exception as failure:  # noqa: BLE001  no memory, a clock that raises: the batch is kept
                    self._last_error = f"{type(failure).__name__}: {failure}"
                    await asyncio.sleep(_LAST_RETRY)
                self._goes_on_counting()
                await self._answer()
        finally:
            await self._close_files()
            self._task = self._bell = None
            self._is_asleep = True
            closings, self._closings = self._closings, []
            if self._queue.is_empty() and not self._flushes:
                self._is_closed = bool(closings)
                for closing in closings:
                    closing.answer(written=True)
            else:  # somebody came while the files were being closed
                self._closings = closings
                self._ring()

    def _patience(self) -> float:
        due = None if self._folding is None else self._folding.next_due
        return _IDLE if due is None else min(_IDLE, max(0.0, due - time.monotonic()))

    def _goes_on_counting(self) -> bool:
        # Ends the storms whose time is over; True if there is something to write or to wait for.
        folding = self._folding
        if folding is None:
            return False
        ends = folding.end() if self._closings else folding.end_due(time.monotonic())
        for end in ends:
            self._enqueue(end)
        return bool(ends) or folding.next_due is not None

    def _is_hurried(self) -> bool:
        return bool(self._flushes or self._closings)

    async def _rings_within(self, seconds: float) -> bool:
        bell = self._bell
        assert bell is not None  # the task's own
        timer = asyncio.get_running_loop().call_later(seconds, _ring_for_nothing, bell, silence := [False])
        try:
            await bell.wait()
        finally:
            timer.cancel()
            bell.clear()
        return not silence[0]

    async def _answer(self) -> None:
        # Closings are answered where the task ends.
        due = [flush for flush in self._flushes if self._queue.is_settled(flush.mark)]
        if self._queue.is_empty():
            due += self._closings
        if not due:
            return
        if any(flush.sync for flush in due):
            try:
                for _, file in self._files.values():
                    await self._asking_disk(file.sync())
                self._last_error = None
            except OSError as error:
                self._last_error = f"fsync: {type(error).__name__}: {error}"
                for flush in due:
                    self._give_up(flush)
                return
        for flush in due:
            if flush in self._flushes:
                self._flushes.remove(flush)
                flush.answer(written=True)

    async def _write_batch(self) -> None:
        groups: list[_Lines] | None = None
        if not self._batch:
            self._batch, groups = self._next_batch, self._next_groups
            self._next_batch, self._next_groups = [], None
        if not self._batch:
            self._batch = self._take()
        for group in self._encoded(self._batch) if groups is None else groups:
            await self._append(group)
        self._tidy_at_new_day()

    def _take(self) -> list[CapturedError | Gap]:
        return self._queue.take(max_records=self._batch_records, max_bytes=self._batch_bytes)

    def _encode_next(self) -> None:
        # While the disk is busy with another batch. Of a trickle none is taken before its time: batches would be small.
        if not self._next_batch and self._queue.waiting_bytes >= _LARGE:
            self._next_batch = self._take()
            self._next_groups = self._encoded(self._next_batch)

    def _encoded(self, batch: list[CapturedError | Gap]) -> list[_Lines]:
        # The first error of the process imports json here, off everybody's loop.
        with background.imports:
            from shockproof.memory.disk.pacing import Pace
            from shockproof.memory.error_log.json_line import add_line

        groups: list[_Lines] = []
        pieces: list[bytes] = []
        count = 0
        last_day: date | None = None
        day_of = self._day_of
        pace = Pace()
        for number, entry in enumerate(batch):
            day = day_of(entry.begins if isinstance(entry, Gap) else entry.timestamp)
            if day != last_day:
                if last_day is not None:
                    groups.append(_Lines(last_day, b"".join(pieces), count))
                pieces, count, last_day = [], 0, day
            add_line(entry, pieces)
            count += 1
            if not number % _LOOK_EVERY:
                self._beats += 1
                pace.keep()
        if last_day is not None:
            groups.append(_Lines(last_day, b"".join(pieces), count))
        return groups

    async def _append(self, group: _Lines) -> None:
        day, lines, count = group.day, group.text, group.number
        retry_after = _FIRST_RETRY
        while lines:
            done = 0
            error: Exception | None = None
            try:
                file = await self._asking_disk(self._file_for(day, len(lines)))
                writing = asyncio.create_task(self._asking_disk(file.append(lines)))
                await asyncio.sleep(0)  # now the disk's thread has it
                with contextlib.suppress(
                    Exception
                ):  # made again when it is its turn, and the error told then
                    self._encode_next()
                done, error = await writing
            except Exception as failure:  # noqa: BLE001  whatever it is, the records wait for better times
                error = failure
            if done:
                settled = count if done == len(lines) else lines.count(b"\n", 0, done)
                self._queue.settle(settled)
                del self._batch[:settled]
                lines, count = lines[done:], count - settled
                retry_after = _FIRST_RETRY
            if error is None:
                self._last_error = None
                continue
            self._last_error = f"{type(error).__name__}: {error}"
            await self._answer()
            await self._rings_within(retry_after)
            retry_after = min(retry_after * 2, _LAST_RETRY)

    async def _file_for(self, day: date, size: int) -> AppendFile:
        known_file = self._files.get(day)
        if known_file is not None:
            part, file = known_file
        else:
            part = 0
            if self._max_file_bytes is not None:
                known = await asyncio.get_running_loop().run_in_executor(
                    self._writer.disk,
                    partial(error_files, self.directory, first=day, last=day, layer=self._layer),
                )
                part = max((one.part for one in known), default=0)
            while len(self._files) >= _MOST_OPEN:  # the one that was opened first
                await self._files.pop(next(iter(self._files)))[1].close()
            file = self._open(day, part)
        await file.prepare()
        while self._max_file_bytes is not None and file.size and file.size + size > self._max_file_bytes:
            await file.close()
            part += 1
            file = self._open(day, part)
            await file.prepare()
            self._tidied_on = None  # a day that grows makes older ones go
        return file

    def _open(self, day: date, part: int) -> AppendFile:
        with background.imports:
            from shockproof.memory.disk.append_file import AppendFile

        file = AppendFile(self.directory / file_name(day, part), self._writer.disk, self._layer)
        self._files[day] = (part, file)
        return file

    async def _close_files(self) -> None:
        files, self._files = self._files, {}
        for _, file in files.values():
            with contextlib.suppress(OSError):
                await self._asking_disk(file.close())

    async def _asking_disk(self, question: Awaitable[T]) -> T:
        self._asked_disk_at = time.monotonic()
        try:
            return await question
        finally:
            self._asked_disk_at = None
            self._beats += 1

    def _tidy_at_new_day(self) -> None:
        if self._retention is None:
            return
        now = self._clock.time()
        today = self._day_of(now)
        # Asked each time: it has to know what the clock showed before.
        if not self._retention.set_clock.is_believed(now, self._clock.monotonic()):
            return
        if today != self._tidied_on and (self._tidying is None or self._tidying.done()):
            self._tidied_on = today
            self._tidying = self._writer.start_task(self._retention.tidy(today, self._writer))


def _ring_for_nothing(bell: asyncio.Event, silence: list[bool]) -> None:
    silence[0] = True
    bell.set()

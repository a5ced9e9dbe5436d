"""
Group commit: whatever was asked for while the disk worked becomes durable with its next turn.

One thread for each directory does everything: it decides who may begin, writes, and syncs. The loops of
the program hand requests over and wait for futures; none of them ever waits for a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from shockproof.memory.disk import writer as background
from shockproof.memory.disk.file_layer import FileLayer, SystemFiles
from shockproof.memory.disk.writer import after_fork, at_exit, writer_for
from shockproof.memory.journal.claims import Claims
from shockproof.memory.journal.earlier_sends import EarlierSend
from shockproof.memory.journal.identity import identity_with, read_identity
from shockproof.memory.journal.incomplete import OwnedElsewhere, read_incomplete
from shockproof.memory.journal.journal_files import SEGMENT_BYTES, JournalFiles, read_journal
from shockproof.memory.journal.journal_status import JournalStatus
from shockproof.memory.journal.name import Name, is_name_of_sendings
from shockproof.memory.journal.operation_table import Body, OperationEntry, OperationTable
from shockproof.memory.journal.record import MAX_BODY, Kind, encode_body
from shockproof.vocabulary.errors import (
    JournalLockedError,
    JournalUnavailableError,
    ShockproofError,
    StateVersionError,
)
from shockproof.vocabulary.moment import Moment
from shockproof.vocabulary.shared_lock import shared_lock

__all__ = ["Journal", "RecordTooLargeError", "Session", "journal_for"]

T = TypeVar("T")

_LINGER: Final = 0.02
"""Seconds an outcome waits for others before it is synced by itself."""
_MOST_AT_ONCE: Final = 4096
_AGAIN_AFTER: Final = 1.0
"""Seconds after a failure before the disk is asked again."""
_BY_ITSELF_AFTER: Final = 5.0
"""Seconds after which what only the memory knows is written although nobody asks for anything; each failure doubles them."""
_BY_ITSELF_AT_MOST: Final = 60.0
_MOST_UNHEARD: Final = 10_000
_SLOW_SYNC: Final = 1.0
_DELIVERED_AT_ONCE: Final = 64

_log = logging.getLogger("shockproof")


class RecordTooLargeError(ValueError):
    """What should be journalled is larger than a record may be."""


class Session:
    """
    What a request may do, in the journal's thread: look at the table, and have something recorded.

    Everything a request records counts at once for those behind it, and is taken back if it cannot be made
    durable. Not an outcome, nor what one was recorded on top of: what happened has happened.
    """

    def __init__(self, table: OperationTable, claims: Claims) -> None:
        self.table = table
        self.claims = claims
        self.has_space = True
        self.records: list[tuple[Kind, bytes]] = []
        self.is_to_sync = False
        self.is_to_close = False
        self.has_outcomes = False
        self.take_back: list[Callable[[], object]] = []

    def require(self, kind: Kind, body: Body, *, even_without_space: bool = False) -> None:
        """
        Record what has to be durable before the request is answered.

        *even_without_space* is for what reduces risk: on a full disk it takes of what is kept for outcomes.

        Raises:
            JournalUnavailableError: the disk is full.
            RecordTooLargeError: the body is too large.
        """
        if not self.has_space and not even_without_space:
            raise JournalUnavailableError(_NO_SPACE)
        self._record(kind, body, self.take_back.append)
        self.is_to_sync = True

    def tell(self, kind: Kind, body: Body) -> None:
        """Record an outcome, which becomes durable with the next batch."""
        self._record(kind, body, lambda take_back: None)
        self.has_outcomes = True

    def _record(self, kind: Kind, body: Body, remember: Callable[[Callable[[], object]], object]) -> None:
        encoded = encode_body(body)
        if len(encoded) > MAX_BODY:
            raise RecordTooLargeError(
                f"{len(encoded):,} bytes are too many for the journal, which takes {MAX_BODY:,} for a record: "
                "keep large values in save_state(cached_data=...) or a file, and only what leads to them here"
            )
        remember(self.table.apply(kind, body))
        self.records.append((kind, encoded))


_NO_SPACE = (
    "the disk is full: the journal keeps what space it has for the outcomes of what was begun; "
    "nothing was done. Free some space and try again"
)

Act = Callable[[Session], T]
_Loop = asyncio.AbstractEventLoop
_Answer = tuple["_Request", object, BaseException | None]


class _Request:
    """Something to be done in the journal's thread, and who waits for it."""

    __slots__ = ("act", "is_withdrawn", "loop", "needs_open", "until_heard", "waiter")

    def __init__(
        self,
        act: Act[Any],  # Any: its own answer
        *,
        needs_open: bool = True,
        until_heard: bool = False,
    ) -> None:
        self.act = act
        self.needs_open = needs_open
        self.until_heard = until_heard
        self.is_withdrawn = False
        """Whoever asked was told that it is not done."""
        self.loop: _Loop | None = None
        self.waiter: asyncio.Future[Any] | Future[Any] | None = None  # Any: as above


class Journal:
    """
    The journal of one directory, for all services, loops and threads of the process.

    The directory is owned from the first request on that needs it. A journal that failed refuses what has
    to be durable, remembers outcomes, and tries another segment with the next request a second later; by itself a
    little later than that, where it has outcomes to write.
    """

    def __init__(
        self,
        directory: Path,
        *,
        layer: FileLayer | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.directory = directory
        self._layer: FileLayer = SystemFiles() if layer is None else layer
        self._monotonic = monotonic
        self._files = JournalFiles(directory, layer=self._layer, segment_bytes=segment_bytes)
        self._writer = writer_for(directory)
        self.pending_elsewhere: set[Name] = set()
        """Orders that the journal of another machine had pending, and that this one could not be told of."""
        self.times_taken_over = 0
        """How often this process, or one that it was forked from, has taken over from another journal's owner."""
        self._forget()
        after_fork(self._in_the_child)

    def __repr__(self) -> str:
        return f"<Journal {str(self.directory)!r} {self.status().state}>"

    def _forget(self) -> None:
        self._queue: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._working = threading.Lock()
        """Held while a turn of the thread is submitted or runs: nobody ever waits for it."""
        self._has_unsynced = False
        self._has_unwritten = False
        """Outcomes that only the memory knows, because the segment failed."""
        self._unheard: deque[_Request] = deque(maxlen=_MOST_UNHEARD)
        """What was told `until_heard`, and waits for a journal that could not be opened yet."""
        self._by_itself_after = _BY_ITSELF_AFTER
        self._failure: str | None = None
        self._again_at = 0.0
        self._pending = 0
        self._pending_on_disk = 0
        """When it was last read, or closed."""
        self.claims = Claims()
        self.left_behind: set[Name] = set()
        """What runs on in this process although nobody waits for it, and will tell when it ends."""
        self.lost: str | None = None
        """What was missing of it when it was opened: it may have known what it does not know."""
        self.owned_elsewhere: OwnedElsewhere | None = None
        """What another journal's owner may have sent: also that this one does not know."""
        self.loss_noticed: Moment | None = None
        """When somebody first asked for a key that may be lost."""
        self.earlier_sends: tuple[EarlierSend, ...] = ()
        """What was sent under rate limits before it was opened, or last looked at by `pending`, as far as it is still told."""
        self._closes_later = False
        """It would have been given up, but for what was left behind."""
        self._is_given_up = False
        """It is another process's from when nothing runs here any more."""
        self.locked: JournalLockedError | None = None
        """Which other process had it when it was last asked for; None: none, or it was not asked for."""
        self.life = object()
        """Another one in a forked child: what runs in the parent is not the child's to record."""
        self._tenure_ended()

    def _tenure_ended(self) -> None:
        self.tenure = object()
        """Another one each time it was given up: what is known of others' work held only until then."""

    def _in_the_child(self) -> None:
        self._files.forked()
        self._forget()

    @property
    def has_lost_something(self) -> bool:
        """Whether a key that it does not know may have been sent all the same."""
        return self.lost is not None or self.owned_elsewhere is not None

    @property
    def may_still_send(self) -> bool:
        """Whether an order is under way here, or one that was left behind may still be sent; from any thread."""
        return bool(self.left_behind) or any(
            is_name_of_sendings(name.operation) for name in self.claims.names()
        )

    def status(self) -> JournalStatus:
        """How it is doing, as last seen by its thread."""
        state: Literal["closed", "open", "locked", "no space", "failed"] = "open"
        locked = self.locked
        elsewhere = None if self.owned_elsewhere is None else self.owned_elsewhere.why
        if self._failure is not None:
            state = "failed"
        elif locked is not None:
            return JournalStatus("locked", self._pending, str(locked), self.lost, elsewhere)
        elif not self._files.is_open:
            state = "closed"
        elif not self._files.has_reserve:
            state = "no space"
        return JournalStatus(state, self._pending, self._failure, self.lost, elsewhere)

    def known(self, name: Name) -> OperationEntry | None:
        """What stands in memory of an operation, at once and in any thread; nothing of a journal that is not open."""
        return self._files.table.get(name)

    def pending_now(self) -> list[OperationEntry]:
        """
        What has not ended, oldest first, as it stands in memory: at once and in any thread.

        Nothing of a journal that is not open; `pending` reads the disk.
        """
        while True:
            try:
                return list(self._files.table.pending())
            except RuntimeError:  # its thread has changed the table meanwhile
                continue

    # ---- asking

    async def ask(self, act: Act[T], *, needs_open: bool = True) -> T:
        """
        Run *act* in the journal's thread, and wait until what it records is durable.

        Cancelled while it waits, it is done all the same: whoever asked has to tell the journal what that
        means. The answer comes to this loop; time stands still meanwhile on a loop with virtual time.

        Raises:
            JournalLockedError: another process owns the directory.
            JournalUnavailableError: it is not durable.
            Exception: what *act* raises.
        """
        request = _Request(act, needs_open=needs_open)
        loop = request.loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()
        request.waiter = waiter
        hold: Callable[[], AbstractContextManager[object]] | None = getattr(loop, "hold_time", None)
        self._put(request)
        if hold is None:
            return await waiter
        with hold():
            return await waiter

    def tell(self, act: Act[None], *, needs_open: bool = True, until_heard: bool = False) -> None:
        """
        Run *act* in the journal's thread, soon and unobserved; from any thread, and never waits.

        Where the journal cannot be opened it is never run; with *until_heard* it waits until it can be, in the order
        in which it was told.
        """
        self._put(_Request(act, needs_open=needs_open, until_heard=until_heard))

    async def flush(self) -> None:
        """
        Return when everything that was told before is durable.

        Raises:
            JournalUnavailableError: it is not.
        """
        if self._has_to_write():
            self._again_at = 0.0
            await self.ask(_sync, needs_open=False)

    async def aclose(self) -> None:
        """
        `flush`, then give the directory up if nothing runs; the next request takes it again.

        As long as something that was left behind may still send, another process must not: the directory stays owned,
        which is logged, until that has ended, or the process.

        Raises:
            JournalUnavailableError: something is not durable; the directory stays owned.
        """
        await self.flush()
        if self._files.is_open:
            await self.ask(_close, needs_open=False)

    def give_up(self) -> None:
        """
        Let another process have it as soon as nothing runs here any more; from any thread, and never waits.

        What is under way ends first, and what was told becomes durable. The next request takes it again.
        """

        def act(session: Session) -> None:
            self._is_given_up, self.locked = self._files.is_open, None

        self.tell(act, needs_open=False)

    async def take(self) -> None:
        """
        Own the directory from now on, whether or not there is anything to record.

        Raises:
            JournalLockedError, JournalUnavailableError, StateVersionError: it cannot be.
        """

        def act(session: Session) -> None:
            self._is_given_up = False

        await self.ask(act)

    async def take_over(self, account: str, former: str | None, at: Moment) -> str:
        """
        Be the journal of *account* from *at* on, and give this journal's identity, for the store: before anything is sent.

        *former* is that of the owner before: ``""`` if nobody can tell which, None if there was none. Where it was another one,
        what that owner sent is not known here: from now on a key that this journal does not know may have been sent until *at*. That is
        durable before the identity is given.

        Raises:
            JournalLockedError, JournalUnavailableError, StateVersionError, OSError: it is not durable.
        """

        def look(session: Session) -> str | None:
            if not read_identity(self._layer, self.directory).follows(former, account):
                return None
            if self._has_taken_over(at):
                self.owned_elsewhere = None  # it could not be read then, and is as it should be
            self._learned(read_incomplete(self._layer, self.directory).elsewhere)
            return identity_with(self._layer, self.directory, account)

        def mark(session: Session) -> str:
            assert self.owned_elsewhere is not None
            self._files.mark_owned_elsewhere(self.owned_elsewhere)
            return identity_with(self._layer, self.directory, account)

        own = await self.ask(look, needs_open=False)
        if own is not None:
            return own
        self.taken_over(account, at)
        return await self.ask(mark)

    def taken_over(self, account: str, at: Moment) -> None:
        """Somebody else may have sent for *account* until *at* what is not known here. Never waits; it is not durable."""
        if self._has_taken_over(at):
            return  # it is tried again
        self.times_taken_over += 1
        self.owned_elsewhere = OwnedElsewhere(_owned_elsewhere(account), at)

    def taken_over_by(self, moment: Moment) -> None:
        """
        It was before *moment* that this journal became the account's, as far as anybody can tell. Never waits.

        Later lives know it, too: however often the program is started again, the window that counts from then comes to its end.
        """
        if self.owned_elsewhere is None:
            return
        elsewhere = self.owned_elsewhere = self.owned_elsewhere._replace(since=moment)

        def act(session: Session) -> None:
            if self._files.is_open:
                with contextlib.suppress(OSError):
                    self._files.mark_owned_elsewhere(elsewhere)

        self.tell(act, needs_open=False)

    def _has_taken_over(self, at: Moment) -> bool:
        return self.owned_elsewhere is not None and self.owned_elsewhere.since is at

    def _learned(self, elsewhere: OwnedElsewhere | None) -> None:
        """What an earlier life has taken over; what this one has is known better."""
        if self.owned_elsewhere is None:
            self.owned_elsewhere = elsewhere

    async def remember(self, account: str, owner: str) -> None:
        """
        Have it durable that *account* is that of *owner*, an identity, unless that is this journal: whatever the store may forget.

        Raises:
            JournalUnavailableError, OSError: it is not.
        """

        def act(session: Session) -> None:
            if read_identity(self._layer, self.directory).text != owner:
                identity_with(self._layer, self.directory, account)

        await self.ask(act, needs_open=False)

    async def pending(self, of: Callable[[OperationEntry], T]) -> list[T]:
        """
        What *of* makes, in the journal's thread, of each operation that has not ended, oldest first.

        Raises: as `look`.
        """
        return await self.look(lambda table: [of(entry) for entry in table.pending()])

    async def look(self, at: Callable[[OperationTable], T]) -> T:
        """
        What *at* makes of all that is known, in the journal's thread.

        A journal that is not owned is only looked at, whoever owns it.

        Raises:
            StateVersionError, OSError: it cannot be read.
            JournalUnavailableError: the system has no thread left for it.
        """

        def act(session: Session) -> T:
            table = session.table
            if not self._files.is_open:
                recovered = read_journal(self._layer, self.directory)
                table, self.earlier_sends = recovered.table, recovered.sends
                self._pending_on_disk = len(table.pending())
            return at(table)

        return await self.ask(act, needs_open=False)

    def _has_to_write(self) -> bool:
        is_to_hear = bool(self._unheard) and self._failure is not None  # else it is another process's journal
        return self._working.locked() or self._has_unsynced or self._has_unwritten or is_to_hear

    def _drain(self, timeout: float) -> str | None:
        """At the end of the program: make everything durable that was told."""
        if not self._has_to_write():
            return None
        self._again_at = 0.0
        request = _Request(_sync, needs_open=False)
        waiter: Future[Any] = Future()  # Any: there is no answer
        request.waiter = waiter
        try:
            self._put(request)
            waiter.result(timeout)
        except TimeoutError:
            return f"the journal in {self.directory} was not saved within {round(timeout, 1):g} s"
        except Exception as error:  # noqa: BLE001  whatever it is, it is told
            return str(error)
        return None

    # ---- the journal's thread

    def _put(self, request: _Request) -> None:
        self._queue.put(request)
        if self._working.acquire(blocking=False):
            try:
                self._writer.submit(self._work)
            except RuntimeError as error:  # the system has no thread left, or the program ends
                self._working.release()
                if request.waiter is None:
                    return  # what was told waits for the next request
                request.is_withdrawn = True
                raise JournalUnavailableError(
                    f"the journal in {self.directory} has no thread to write in: {error}. Nothing was done"
                ) from error

    def _work(self) -> None:
        try:
            self._work_until_idle()
        except BaseException:
            self._working.release()
            raise

    def _work_until_idle(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                self._deliver(self._commit(batch))
                continue
            if self._has_unsynced:
                self._deliver(self._commit([_Request(_sync, needs_open=False)]))
                continue
            if self._waits_for_the_disk:
                # Nobody may ask for anything for hours, and then the program may die.
                self._by_itself_after = min(2 * self._by_itself_after, _BY_ITSELF_AT_MOST)
                self._deliver(self._commit([_Request(_sync, needs_open=False)]))
                continue
            self._by_itself_after = _BY_ITSELF_AFTER
            self._working.release()
            # Whoever put something before that has not started another turn.
            if self._queue.empty() or not self._working.acquire(blocking=False):
                return

    @property
    def _waits_for_the_disk(self) -> bool:
        return self._failure is not None and (self._has_unwritten or bool(self._unheard))

    def _next_batch(self) -> list[_Request]:
        batch: list[_Request] = []
        linger = (
            _LINGER if self._has_unsynced else self._by_itself_after if self._waits_for_the_disk else None
        )
        try:
            batch.append(self._queue.get_nowait() if linger is None else self._queue.get(timeout=linger))
            while len(batch) < _MOST_AT_ONCE:
                batch.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _commit(self, batch: list[_Request]) -> list[_Answer]:
        is_wanted = any(request.needs_open for request in batch) or self._waits_for_the_disk
        self._closes_later = self._closes_later and not is_wanted
        is_needed = self._has_unwritten or is_wanted
        refusal = self._make_usable() if is_needed else None
        session = Session(self._files.table, self.claims)
        session.has_space = self._files.has_reserve or refusal is not None
        answers: list[_Answer] = []
        concerned: set[_Request] = set()
        if self._files.is_open:
            batch = [*self._unheard, *batch]
            self._unheard.clear()
        for request in batch:
            if request.is_withdrawn:
                continue
            if request.until_heard and not self._files.is_open:
                self._keep(request)
                continue
            if request.needs_open and refusal is not None and not self._files.is_open:
                answers.append((request, None, _again(refusal)))
                continue
            recorded = len(session.records)
            try:
                answers.append((request, request.act(session), None))
            except Exception as error:  # noqa: BLE001  whatever it is belongs to the one who asked
                answers.append((request, None, error))
            if len(session.records) > recorded:
                concerned.add(request)
        is_idle = not self.left_behind and not self.claims
        if (self._closes_later and not self.left_behind) or (self._is_given_up and is_idle):
            _close(session)
        # Another process's journal hears of what goes without it only when it is ours one day.
        is_unheard = bool(self._unheard) and isinstance(refusal, JournalUnavailableError)
        is_behind = self._has_unsynced or self._has_unwritten or is_unheard
        try:
            if session.records or (session.is_to_sync and is_behind):
                if refusal is not None:
                    raise refusal
                self._write(session)
        except Exception as error:  # noqa: BLE001  it is told to all whom it concerns
            for take_back in reversed(session.take_back):
                take_back()
            self._has_unwritten = self._has_unwritten or session.has_outcomes or self._has_unsynced
            if error is not refusal:
                self._failed(error)
            is_behind = self._has_unwritten or is_unheard
            if is_behind:
                concerned.update(request for request in batch if request.act is _sync)
            answers = [
                (request, None, failure or self._unavailable())
                if request in concerned
                else (request, value, failure)
                for request, value, failure in answers
            ]
        pending = len(self._files.table.pending())
        if self._files.is_open:
            self._pending_on_disk = pending
        self._pending = max(pending, self._pending_on_disk)
        if session.is_to_close:
            self._close_if_idle()
        return answers

    def _keep(self, request: _Request) -> None:
        if len(self._unheard) == _MOST_UNHEARD:
            _log.error("more was told than is kept for the journal in %s: the oldest is lost", self.directory)
        self._unheard.append(request)

    def _make_usable(self) -> Exception | None:
        """Own the directory and have a segment to write to, or say why not."""
        files = self._files
        is_astray = files.is_usable and not files.is_in_place
        if is_astray:
            # Everything is known here: nobody has to be refused for it.
            _log.error("the journal's file is not in %s any more: another one is begun there", self.directory)
            self._again_at = 0.0
        try:
            if files.is_open and files.is_usable and not is_astray:
                if not files.has_reserve and self._may_try():
                    files.make_reserve()
                return None
            if not self._may_try():
                return self._unavailable()
            if files.is_open:
                files.begin_segment()
                self._has_unwritten = self._has_unsynced = False
                _log.warning("the journal in %s can be written again", self.directory)
            else:
                at_exit(self._drain)
                with background.imports:
                    importlib.import_module("json")  # now, and for good: a fork waits for it
                    with contextlib.suppress(ImportError):  # there are Pythons without it
                        importlib.import_module("ctypes")
                recovered = files.open()
                self.lost = recovered.damage or recovered.incomplete
                self._learned(recovered.owned_elsewhere)
                self.earlier_sends = recovered.sends
        except (JournalLockedError, StateVersionError) as error:
            self._again_at = 0.0
            self.locked = error if isinstance(error, JournalLockedError) else None
            if not files.is_open:
                self._failure = None  # the disk has answered: it is another one's
            return error
        except Exception as error:  # noqa: BLE001  it is told to all who wait
            self._failed(error)
            return self._unavailable()
        self._failure = None
        self._again_at = 0.0
        self.locked = None
        return None

    def _may_try(self) -> bool:
        now = self._monotonic()
        if now < self._again_at:
            return False
        self._again_at = now + _AGAIN_AFTER
        return True

    def _write(self, session: Session) -> None:
        files = self._files
        begun = self._monotonic()
        if not files.is_usable or not files.room_for(body for _, body in session.records):
            files.begin_segment()  # with everything that is known, these records' effects included
            self._has_unsynced = False
            return
        if session.records:
            files.append(session.records)
            self._has_unsynced = True
        if session.is_to_sync and self._has_unsynced:
            files.sync()
            self._has_unsynced = False
        took = self._monotonic() - begun
        if took > _SLOW_SYNC:
            _log.warning("the disk took %.1f s to make the journal in %s durable", took, self.directory)

    def _failed(self, error: Exception) -> None:
        self._failure = f"{type(error).__name__}: {error}"
        self._has_unsynced = False
        self._again_at = self._monotonic() + _AGAIN_AFTER
        _log.error("the journal in %s cannot be written: %s", self.directory, self._failure)

    def _unavailable(self) -> JournalUnavailableError:
        return JournalUnavailableError(
            f"the journal in {self.directory} cannot be written ({self._failure}): nothing that has to be known "
            "after a crash is done. Another file is tried with the next operation: free the disk, make the "
            "directory writable, or use another state_dir"
        )

    def _close_if_idle(self) -> None:
        # Behind the whole batch: whatever else it holds was decided by this table, and is written from it.
        if self.claims or self._has_unsynced or self._has_unwritten:
            return
        if self.left_behind:
            self._closes_later = True
            _log.warning(
                "the journal in %s stays locked: %d that were left behind may still send; it is given up when they, or "
                "this process, have ended",
                self.directory,
                len(self.left_behind),
            )
            return
        self._closes_later = self._is_given_up = False
        self._files.tell_position()
        self._files.close()
        self._files.table = OperationTable()
        self._tenure_ended()

    # ---- answering

    def _deliver(self, answers: list[_Answer]) -> None:
        by_loop: dict[_Loop, deque[_Answer]] = {}
        for answer in answers:
            request, value, error = answer
            if request.loop is not None:
                by_loop.setdefault(request.loop, deque()).append(answer)
            elif isinstance(request.waiter, Future):
                if error is None:
                    request.waiter.set_result(value)
                else:
                    request.waiter.set_exception(error)
            elif error is not None and not isinstance(error, ShockproofError):
                _log.error("an outcome was not journalled in %s: %r", self.directory, error)
        for loop, waiting in by_loop.items():
            with contextlib.suppress(RuntimeError):  # that loop is closed, and nobody waits
                loop.call_soon_threadsafe(_hand_out, loop, waiting)


def _hand_out(loop: _Loop, answers: deque[_Answer]) -> None:
    # A few at a time: a thousand tasks that wake up in one turn of the loop hold up everything else.
    for _ in range(min(len(answers), _DELIVERED_AT_ONCE)):
        request, value, error = answers.popleft()
        waiter = request.waiter
        if waiter is None or waiter.done():
            continue
        if error is None:
            waiter.set_result(value)
        else:
            waiter.set_exception(error)
    if answers:
        loop.call_soon(_hand_out, loop, answers)


def _owned_elsewhere(account: str) -> str:
    return (
        f"{account!r} was owned by a process with another journal, or the store cannot tell: of a key that is not known here, "
        "confirm is asked before it is sent"
    )


def _sync(session: Session) -> None:
    session.is_to_sync = True


def _close(session: Session) -> None:
    session.is_to_sync = session.is_to_close = True


def _again(error: Exception) -> Exception:
    # One for each of those who wait: a traceback belongs to one task.
    return type(error)(*error.args)


_journals: weakref.WeakValueDictionary[str, Journal] = weakref.WeakValueDictionary()
_journals_lock = shared_lock()


def journal_for(directory: Path) -> Journal:
    """The one journal of this process for a directory; made when there is none, opened at first need."""
    path = os.path.abspath(directory)  # resolve() would ask the disk
    with _journals_lock:
        journal = _journals.get(path)
        if journal is None:
            journal = _journals[path] = Journal(Path(path))
        return journal

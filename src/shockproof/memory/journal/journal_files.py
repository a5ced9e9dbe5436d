"""
The journal's directory: which segment is written, how it is begun, and what was found before.

    journal-0000000000000007.wal    the one segment that matters: all that is known, and what happened since
    reserve.wal                     space for one more segment, so that a full disk stops no outcome
    lock                            the number of the process that owns the journal
    damaged/                        segments, or parts of them, that hold what could not be read
    incomplete.json                 something was lost, or sent with another journal, and nobody has said yet that it does not
                                    matter any more
    identity.json                   which journal it is, where several processes could write for one account
    ../journal_position.json        how far it has come, at least: told when a segment is begun, and when it is given up

A segment is begun under a temporary name with everything that is known, synced, renamed, and the directory
synced; only then anything is written behind that, and only then the segment before is removed. So one whole
segment is there at any instant; nothing is ever appended to a file that was found; and a file whose sync
failed is left alone, since what is known stands in memory too.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from shockproof.memory.disk.directory import make_durable
from shockproof.memory.disk.file_layer import FileLayer, NotAFileError, write_all
from shockproof.memory.journal.earlier_sends import EarlierSend
from shockproof.memory.journal.incomplete import (
    COMPLETE,
    INCOMPLETE_NAME,
    Incomplete,
    OwnedElsewhere,
    mark_incomplete,
    read_incomplete,
)
from shockproof.memory.journal.operation_table import OperationTable
from shockproof.memory.journal.position import Position, read_position, write_position
from shockproof.memory.journal.record import Kind, encode, size_of
from shockproof.memory.journal.segment import (
    HEAD_BYTES,
    NewerSegmentError,
    SegmentContent,
    name_of,
    number_in,
    read_segment,
    seed_of,
    segment_head,
)
from shockproof.memory.journal.stopped_process import is_stopped
from shockproof.vocabulary.errors import JournalLockedError, StateVersionError

__all__ = ["SEGMENT_BYTES", "JournalFiles", "Recovered", "read_journal"]

SEGMENT_BYTES: Final = 4 << 20
"""The space of a segment, unless twice what is known needs more."""

LOCK_NAME: Final = "lock"
RESERVE_NAME: Final = "reserve.wal"
DAMAGED_DIRECTORY: Final = "damaged"

_MAX_BYTES: Final = 4 << 30
_RECORDS_AT_ONCE: Final = 4096
_ZEROS_AT_ONCE: Final = 1 << 20
_RACES: Final = 5
_LAST_NUMBER: Final = 10**18 - 2
_LAST_SEQUENCE: Final = 2**63
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger("shockproof")


def _owner() -> bytes:
    return b"%d\n" % os.getpid()


class Recovered(NamedTuple):
    """What a journal's directory holds."""

    table: OperationTable
    last_number: int
    """Of the segments; 0 when there is none."""
    last_sequence: int
    segments: tuple[SegmentContent, ...]
    """All that are there, oldest first."""
    incomplete: str | None = None
    """Why what an earlier life, or a person, knew to be missing still counts; None: nothing is known to be missing."""
    hole: str | None = None
    """What should be there and is not."""
    behind: str | None = None
    """What had been recorded later than all that is there."""
    sends: tuple[EarlierSend, ...] = ()
    """What was sent under rate limits and may still count there; that of each service in its order."""
    is_elsewhere: bool = False
    """Whether its files are others than those that were written last: a copy, of which the first may still be in use."""
    owned_elsewhere: OwnedElsewhere | None = None
    """What an owner with another journal may have sent; None: nothing that is known. It is no loss."""

    @property
    def damage(self) -> str | None:
        """What is wrong with data that had been acknowledged, or None."""
        words = [f"{name_of(one.number)}: {one.damage}" for one in self.segments if one.damage]
        return "; ".join([*words, *filter(None, (self.hole, self.behind))]) or None

    @property
    def has_lost_something(self) -> bool:
        """Whether a key that is not known may have been sent all the same."""
        return self.damage is not None or self.incomplete is not None


def read_journal(layer: FileLayer, directory: Path) -> Recovered:
    """
    Everything in the journal's directory; changes nothing, and needs no lock.

    Raises:
        StateVersionError: a newer program wrote it.
        OSError: it cannot be read.
    """
    for last_try in (False,) * _RACES + (True,):
        try:
            found = _read(layer, directory)
            if (found.hole is None and found.behind is None) or last_try:
                return found
        except FileNotFoundError:  # its owner has just begun another segment
            if last_try:
                raise
    raise AssertionError  # the last try returned or raised


def _refuse_the_end(recovered: Recovered) -> None:
    # Nobody gets there by using it: somebody has made that file.
    if recovered.last_number >= _LAST_NUMBER or recovered.last_sequence >= _LAST_SEQUENCE:
        raise OSError(
            errno.EOVERFLOW,
            f"its numbers have come to their end (segment {recovered.last_number}, record {recovered.last_sequence}): "
            "settle what is pending with shockproof operations, and move the directory away",
        )


def _read(layer: FileLayer, directory: Path) -> Recovered:
    position = read_position(layer, directory)  # before the segments, which its owner carries on meanwhile
    try:
        names = layer.list_directory(directory)
    except FileNotFoundError:
        names = []
    except NotADirectoryError as error:
        way_out = "it or a parent is no directory: move what has its name away, or use another state_dir"
        raise NotADirectoryError(errno.ENOTDIR, way_out, str(directory)) from error
    numbers = sorted(number for name in names if (number := number_in(name)) is not None)
    segments: list[SegmentContent] = []
    for number in numbers:
        path = directory / name_of(number)
        try:
            content = read_segment(number, layer.read(path, _MAX_BYTES))
        except NotAFileError as error:
            _log.warning("%s is no segment of the journal and is passed over: %s", path, error.strerror)
            continue
        except NewerSegmentError as error:
            raise StateVersionError(
                f"journal segment {path} has format version {error}: use the newer shockproof that wrote it, "
                "or another state_dir. Nothing was moved"
            ) from None
        if content.damage is None and not any(one.kind == Kind.COMPLETE for one in content.records):
            # It got its name only after its beginning was synced.
            content = content._replace(damage="the end of its beginning is missing")
        segments.append(content)
    # By what they were made as: somebody may have renamed one.
    segments = sorted(segments, key=lambda one: (one.made_as or one.number, one.number == one.made_as))
    table = OperationTable()
    # The newest holds everything. What is older is only asked where that one has lost something.
    wanted = segments if segments and segments[-1].damage else segments[-1:]
    wanted = list(
        {content.made_as or -content.number: content for content in wanted}.values()
    )  # of two copies one
    last_sequence = 0
    for content in wanted:
        for record in content.records:
            table.replay(record.kind, record.body)
            last_sequence = max(last_sequence, record.sequence)
    hole = None
    if not segments and RESERVE_NAME in names:
        # That was made behind a segment, and from then on there is always one.
        hole = "its segment was removed or renamed"
    incomplete = read_incomplete(layer, directory) if INCOMPLETE_NAME in names else COMPLETE
    last_number = max((*numbers, *(content.made_as for content in segments)), default=0)
    behind = None
    is_elsewhere = False
    if position is not None:
        if hole is None and not any(content.damage for content in wanted):  # else that is told
            behind = _missing_since(position, last_sequence, is_there=bool(segments))
        here = _position_at(layer, directory, 0, 0)
        is_elsewhere = position.is_of_another(here) or position.is_copied
        # A segment that is newer was not exchanged together with it, and holds everything.
        if behind is None and position.was_put_over(here) and last_number <= position.segment:
            behind = "an older copy was put over it, and what was recorded since is not in it"
        # What comes next is ahead of it again.
        last_number, last_sequence = (
            max(last_number, position.segment),
            max(last_sequence, position.sequence),
        )
    return Recovered(
        table,
        last_number,
        last_sequence,
        tuple(segments),
        incomplete.lost,
        hole,
        behind,
        tuple(table.sends),
        is_elsewhere,
        incomplete.elsewhere,
    )


def _missing_since(position: Position, last_sequence: int, *, is_there: bool) -> str | None:
    if last_sequence >= position.sequence:
        return None
    if not is_there:
        return f"its segment {position.segment} is gone, with all records up to {position.sequence}"
    return (
        f"it ends with record {last_sequence}, and {position.sequence} had been acknowledged as durable: its end was "
        "overwritten, or an older copy was put in its place"
    )


def _position_at(layer: FileLayer, directory: Path, segment: int, sequence: int) -> Position:
    lock = directory / LOCK_NAME
    try:
        return Position(segment, sequence, layer.stamp(lock).number, layer.born_at(lock))
    except OSError:
        return Position(segment, sequence)


class JournalFiles:
    """
    Writes the journal of one directory. Everything blocks: for the journal's thread alone.

    After an OSError from `append`, `sync` or `begin_segment`, `is_usable` is false until `begin_segment`
    succeeds: no fsync is tried again on the same file, since the kernel may have dropped the data.
    """

    def __init__(
        self,
        directory: Path,
        *,
        layer: FileLayer,
        segment_bytes: int = SEGMENT_BYTES,
        identity: Callable[[], bytes] = lambda: os.urandom(16),
    ) -> None:
        self.directory = directory
        self.table = OperationTable()
        self.is_usable = False
        self.has_reserve = False
        """Whether there is space for one more segment, come what may."""
        self._asked_for = 0
        """Bytes of the reserve, if this program has made it."""
        self._layer = layer
        self._segment_bytes = segment_bytes
        self._identity = identity
        self._lock: int | None = None
        self._handle: int | None = None
        self._number = 0
        self._sequence = 0
        self._durable = 0
        self._checksum = 0
        self._seed = 0
        self._size = 0
        self._room = 0
        self._told: Position | None = None
        """How far a later life knows that it came, whatever it finds."""
        self._only_copies: set[int] = set()
        """Damaged segments of which no copy could be made."""

    @property
    def is_open(self) -> bool:
        """Whether the directory is owned."""
        return self._lock is not None

    @property
    def is_in_place(self) -> bool:
        """Whether the segment that is written is the one that a later life will find; false when there is none."""
        if self._handle is None:
            return False
        try:
            return self._layer.leads_to(self.directory / name_of(self._number), self._handle)
        except OSError:
            return True  # nobody can tell; the next sync says what it thinks

    def open(self) -> Recovered:
        """
        Own the directory, take over what is known, and begin a segment.

        Raises:
            JournalLockedError: another process owns it.
            StateVersionError: a newer program wrote it; nothing was moved.
            OSError: the disk refuses; nothing is owned.
        """
        make_durable(self._layer, self.directory)
        self._own()
        try:
            recovered = read_journal(self._layer, self.directory)
            _refuse_the_end(recovered)
            self.table = recovered.table
            self._number, self._sequence = recovered.last_number, recovered.last_sequence
            for name in self._layer.list_directory(self.directory):
                if name.endswith(".tmp"):
                    self._remove_leftover(self.directory / name)
            self._keep_what_is_wrong(recovered)
            self._tell_what_is_missing(recovered)
            if recovered.damage is not None and recovered.incomplete is None:
                self._mark_incomplete(recovered)
            self.begin_segment()
        except BaseException:
            self.close()
            raise
        return recovered

    def _tell_what_is_missing(self, recovered: Recovered) -> None:
        missing = "; ".join(filter(None, (recovered.hole, recovered.behind)))
        if missing:
            _log.error(
                "something of the journal in %s is missing: %s. An operation may be missing, or pending that had ended. "
                "If the directory was removed on purpose: shockproof journal trust",
                self.directory,
                missing,
            )
        elif recovered.is_elsewhere:
            _log.warning(
                "the journal in %s is a copy, or was put back from one: what was sent since the copy was made is not in "
                "it, and a program that still uses the other one sends the same orders. If either may be so: "
                "stop, touch %s, and start again",
                self.directory,
                self.directory / INCOMPLETE_NAME,
            )

    def _mark_incomplete(self, recovered: Recovered) -> None:
        try:
            incomplete = Incomplete(str(recovered.damage), recovered.owned_elsewhere)
            mark_incomplete(self._layer, self.directory, incomplete)
        except OSError as error:
            # Then the damaged files stay, and the next life sees them again.
            self._only_copies.update(content.number for content in recovered.segments if content.damage)
            _log.error(
                "%s could not be written (%s), and the damaged segments stay where they are",
                self.directory / INCOMPLETE_NAME,
                error.strerror,
            )

    def mark_owned_elsewhere(self, elsewhere: OwnedElsewhere) -> None:
        """
        Let later lives know, durably, that another journal's owner may have sent what this one does not know.

        Raises:
            OSError: the disk refuses.
        """
        known = read_incomplete(self._layer, self.directory)
        mark_incomplete(self._layer, self.directory, known._replace(elsewhere=elsewhere))

    def _remove_leftover(self, path: Path) -> None:
        try:
            self._layer.unlink(path)
        except OSError as error:
            _log.warning(
                "%s cannot be removed and is left alone: %s: %s", path, type(error).__name__, error.strerror
            )

    def _own(self) -> None:
        path = self.directory / LOCK_NAME
        try:
            self._lock = self._layer.own(path, _owner())
        except BlockingIOError:
            pid: int | None = None
            with contextlib.suppress(OSError, ValueError):
                pid = int(self._layer.read(path, 32))
            raise JournalLockedError(
                str(self.directory), pid, is_stopped=pid is not None and is_stopped(self._layer, pid)
            ) from None

    def _own_again_if_removed(self) -> None:
        # Somebody has removed or moved the directory of a running program. What is known stands in memory too.
        owned = self._lock
        if owned is None:
            return
        make_durable(self._layer, self.directory)
        if self._layer.leads_to(self.directory / LOCK_NAME, owned):
            return
        self._own()
        with contextlib.suppress(OSError):
            self._layer.close(owned)

    def close(self) -> None:
        """Give everything up, synced or not. `open` begins anew."""
        self._give_up_segment()
        self._told = None
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                self._layer.close(lock)

    def room_for(self, bodies: Iterable[bytes]) -> bool:
        """Whether these records fit into the segment."""
        return self.is_usable and sum(map(size_of, bodies)) <= self._room

    def append(self, records: Iterable[tuple[Kind, bytes]]) -> None:
        """
        Write records behind the others; `sync` makes them durable.

        Raises:
            OSError: the disk refuses.
        """
        assert self._handle is not None  # the segment is usable
        data = self._encoded(records)
        try:
            write_all(self._layer, self._handle, data)
        except BaseException:
            self._give_up_segment()
            raise
        self._room -= len(data)

    def sync(self) -> None:
        """
        Return when everything that was appended survives a power cut.

        Raises:
            OSError: the disk refuses; whether it survives is unknown.
        """
        assert self._handle is not None  # the segment is usable
        try:
            self._layer.sync_data(self._handle)
        except BaseException:
            self._give_up_segment()
            raise
        self._durable = self._sequence

    def begin_segment(self) -> None:
        """
        Begin another segment with everything that is known, and remove the ones before. It is durable then.

        Raises:
            OSError: the disk refuses; if there was a good segment, it is not written to any more.
            JournalLockedError: the directory was removed or moved, and another process owns what has its name now.
        """
        self._give_up_segment()
        self._own_again_if_removed()
        self.table.forget_old()
        sends, operations = list(self.table.sends.snapshot()), list(self.table.snapshot())
        needed = HEAD_BYTES + sum(map(size_of, itertools.chain(sends, operations))) + 64
        size = max(self._segment_bytes, 2 * needed)
        # A number is never used twice: what a failed try has left behind stays apart.
        self._number += 1
        number, identity = self._number, self._identity()
        path = self.directory / name_of(number)
        temporary = self.directory / f".{path.name}.tmp"
        handle, was_reserve = self._new_file(temporary, size)
        try:
            self._seed, self._checksum = seed_of(identity), 0
            records = itertools.chain(
                ((Kind.SENT, body) for body in sends),
                ((Kind.OPERATION, body) for body in operations),
                [(Kind.COMPLETE, b'{"operations":%d}' % len(operations))],
            )
            content, written = segment_head(number, identity, self._layer.size(handle)), 0
            # In pieces: there may be a hundred thousand.
            while piece := content + self._encoded(itertools.islice(records, _RECORDS_AT_ONCE)):
                write_all(self._layer, handle, piece)
                content, written = b"", written + len(piece)
            self._layer.fsync(handle)
            self._layer.replace(temporary, path)
            self._layer.fsync_directory(self.directory)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._layer.close(handle)
            with contextlib.suppress(OSError):
                if was_reserve and isinstance(error, OSError) and error.errno in _FULL:
                    self._give_back(temporary)
            with contextlib.suppress(OSError):
                self._layer.unlink(temporary)
            raise
        self._handle, self._size, self._room = handle, size, size - written
        self._durable = self._sequence
        self.is_usable = True
        self._remove_older(number)
        self.make_reserve()
        self.tell_position()

    def tell_position(self) -> None:
        """Let later lives know how far it has come, whatever they find. What a disk does not take tells less, and no lie."""
        if not self.is_usable:
            return
        position = _position_at(self._layer, self.directory, self._number, self._durable)
        if position == self._told:
            return
        try:
            write_position(self._layer, self.directory, position)
        except OSError as error:
            _log.warning(
                "how far the journal in %s has come could not be written beside it: %s",
                self.directory,
                error.strerror or type(error).__name__,
            )
        else:
            self._told = position

    def make_reserve(self) -> bool:
        """See to it that there is space for one more segment as large as this one; whether there is."""
        path = self.directory / RESERVE_NAME
        reserved = self._reserved(path)
        self.has_reserve = reserved is not None and reserved >= self._size
        if not self.has_reserve:
            # The one that is too small stays until there is a larger one: it is better than none.
            new = path if reserved is None else self.directory / f".{RESERVE_NAME}.tmp"
            try:
                handle = self._layer.create(new)
                try:
                    self._layer.preallocate(handle, self._size)
                finally:
                    self._layer.close(handle)
                if new != path:
                    self._layer.replace(new, path)
                self._asked_for = self._size
                self.has_reserve = True
            except OSError:
                with contextlib.suppress(OSError):
                    self._layer.unlink(new)
        return self.has_reserve

    def _reserved(self, path: Path) -> int | None:
        """The bytes of the reserve; None: there is none."""
        try:
            # Some systems allocate nothing in advance: there, what was asked for is all there can be.
            return max(self._layer.stamp(path).size, self._asked_for)
        except OSError:
            return None

    def forked(self) -> None:
        """In a child process: everything belongs to the parent, and only these handles are ours to close."""
        self.close()
        self.table = OperationTable()

    # ---- writing

    def _encoded(self, records: Iterable[tuple[Kind, bytes]]) -> bytes:
        pieces: list[bytes] = []
        for kind, body in records:
            self._sequence += 1
            piece, self._checksum = encode(
                kind,
                body,
                sequence=self._sequence,
                durable=self._durable,
                previous=self._checksum,
                seed=self._seed,
            )
            pieces.append(piece)
        return b"".join(pieces)

    def _new_file(self, temporary: Path, size: int) -> tuple[int, bool]:
        """A handle to write to, and whether that was the reserve."""
        handle = self._layer.create(temporary)
        try:
            self._layer.preallocate(handle, size)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._layer.close(handle)
            self._layer.unlink(temporary)
            if error.errno not in _FULL:
                raise
            try:
                self._layer.stamp(self.directory / RESERVE_NAME)  # no directory must take the segment's name
                self._layer.replace(self.directory / RESERVE_NAME, temporary)
            except (FileNotFoundError, NotAFileError):
                raise error from None
            self.has_reserve, self._asked_for = False, 0
            return self._layer.rewrite(temporary), True
        except BaseException:
            self._layer.close(handle)
            raise
        return handle, False

    def _give_back(self, temporary: Path) -> None:
        # It was too small for all that is known: it is kept for when less is pending, without what was written to it.
        size = self._layer.stamp(temporary).size
        handle = self._layer.rewrite(temporary)
        try:
            for begin in range(0, size, _ZEROS_AT_ONCE):
                write_all(self._layer, handle, bytes(min(_ZEROS_AT_ONCE, size - begin)))
        finally:
            self._layer.close(handle)
        self._layer.replace(temporary, self.directory / RESERVE_NAME)

    def _give_up_segment(self) -> None:
        handle, self._handle = self._handle, None
        self.is_usable = False
        if handle is not None:
            with contextlib.suppress(OSError):
                self._layer.close(handle)

    def _remove_older(self, number: int) -> None:
        # The names are durable: nothing is lost if this is not.
        for name in self._layer.list_directory(self.directory):
            older = number_in(name)
            if older is not None and older < number and older not in self._only_copies:
                with contextlib.suppress(OSError):
                    self._layer.unlink(self.directory / name)

    # ---- what was found

    def _keep_what_is_wrong(self, recovered: Recovered) -> None:
        self._only_copies = set()
        for content in recovered.segments:
            path = self.directory / name_of(content.number)
            if content.damage is not None:
                kept = self._keep(f"{path.name}.whole", self._layer.read(path, _MAX_BYTES).rstrip(b"\0"))
                if kept is None:
                    self._only_copies.add(content.number)
                _log.error(
                    "the journal was damaged after it had been acknowledged as durable: %s: %s. What could be "
                    "read is used, and an operation may be missing, or pending that had ended; kept as %s",
                    path,
                    content.damage,
                    kept or path,
                )
            elif content.tail and content is recovered.segments[-1]:
                kept = self._keep(f"{path.name}.tail", content.tail)
                _log.warning(
                    "the end of %s was torn by a crash while it was written: nothing in it had been "
                    "acknowledged; kept as %s",
                    path,
                    kept or "nothing, for the disk refused",
                )

    def _keep(self, name: str, data: bytes) -> Path | None:
        aside = self.directory / DAMAGED_DIRECTORY
        try:
            make_durable(self._layer, aside)
            taken = set(self._layer.list_directory(aside))
            while name in taken:
                name += "_"
            handle = self._layer.create(aside / name)
            try:
                write_all(self._layer, handle, data)
                self._layer.fsync(handle)
            finally:
                self._layer.close(handle)
            self._layer.fsync_directory(aside)
        except OSError:
            return None  # a full disk: what can be read is still worth having
        return aside / name

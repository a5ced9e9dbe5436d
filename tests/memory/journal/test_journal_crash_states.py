"""
Every state in which a power cut can leave the journal, over two lives; and every call of the disk that can fail.

What was acknowledged must be there, and nothing that never was.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shockproof.memory.journal import earlier_sends, journal_files, segment
from shockproof.memory.journal.journal import Journal, Session, _close, _Request, _sync
from shockproof.memory.journal.journal_files import JournalFiles, Recovered, read_journal
from shockproof.memory.journal.name import Name
from shockproof.memory.journal.operation_table import OperationEntry, OperationTable
from shockproof.memory.journal.position import position_path
from shockproof.memory.journal.record import Kind, Record, record_at, size_of
from tests.memory.disk.crash_histories import Findings, Known, complaints_where_calls_fail, crash_everywhere
from tests.memory.disk.simulated_disk import Files, SimulatedDisk
from tests.memory.disk.wrong_disks import (
    WRONG_DISKS,
    OverwritesTheTarget,
    RemovesTheTargetFirst,
    SyncsDirectoriesAfterTheAnswer,
)

HOME = Path("/journal")
SEGMENT = 1536


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The journal says so each time that a disk refuses: thousands of times here."""
    caplog.set_level(logging.CRITICAL, "shockproof")


# ---- the program


class Fact(NamedTuple):
    """What the program knows of one operation."""

    is_acknowledged: bool = False
    acknowledged_index: int = 0
    issued_index: int = 0
    acknowledged_sent: float = 0.0
    is_end_issued: bool = False
    is_end_durable: bool = False
    acknowledged_sends: int = 0
    issued_sends: int = 0


Facts = tuple[tuple[str, Fact], ...]


class Program:
    """Uses the journal as the library does, batch by batch, and remembers after which step it knew what."""

    def __init__(self, disk: SimulatedDisk, facts: Facts, life: int) -> None:
        self.disk = disk
        self.clock = 1_000.0 * life
        self.journal = Journal(HOME, layer=disk, monotonic=lambda: self.clock, segment_bytes=SEGMENT)
        chance = random.Random(life)  # the same again: states that are the same are then seen to be
        self.journal._files._identity = lambda: chance.randbytes(16)
        self.facts = dict(facts)
        self.ended: set[str] = set()
        """What ended in this life: an end of an earlier one may have been lost in the crash."""
        self.known: Known[Facts] = Known(disk, facts)

    def know(self, name: str, **more: Any) -> None:
        self.facts[name] = self.facts.get(name, Fact())._replace(**more)

    def batch(self, *wishes: tuple[str, str]) -> None:
        """One turn of the journal's thread: ("begin", "A"), ("step", "A"), ("send", "A"), ("end", "A"), ..., ("sync", ""), ("close", "")."""
        self.clock += 10.0
        for what, name in wishes:
            if what == "step":
                self.know(name, issued_index=self.facts[name].issued_index + 1)
            elif what == "send":
                self.know(name, issued_sends=self.facts.get(name, Fact()).issued_sends + 1)
            elif what == "give up":
                self.know(name, is_acknowledged=False)  # and nothing of it need be left, but that it was sent
            elif what == "end":
                self.know(name, is_end_issued=True)
                self.ended.add(name)
            elif name:
                self.know(name)
        self.known.now(tuple(self.facts.items()))  # issued, and from here on possible
        answers = self.journal._commit([_Request(self.act(what, name)) for what, name in wishes])
        for (what, name), (_, _, error) in zip(wishes, answers, strict=True):
            if error is not None:
                continue
            if what in ("begin", "send"):
                self.know(name, is_acknowledged=True)
            if what == "send":
                self.know(name, acknowledged_sent=self.clock)
                self.know(name, acknowledged_sends=self.facts[name].acknowledged_sends + 1)
            if what == "step":
                self.know(name, acknowledged_index=self.facts[name].issued_index)
        if all(error is None for _, _, error in answers) and any(
            what not in ("end", "close") for what, _ in wishes
        ):
            # Outcomes ride along with what was synced here.
            for name in self.ended:
                self.know(name, is_end_durable=True)
        self.known.now(tuple(self.facts.items()))

    def act(self, what: str, name: str) -> Callable[[Session], None]:
        body: dict[str, Any] = {"operation": name, "key": "k"}
        if what == "begin":
            return lambda session: session.require(Kind.BEGIN, body)
        if what == "send":
            counted = {"service": name, "weight": 1, "counts_for": 600.0}
            sent = {**body, **counted, "at": self.clock, "sent_at": self.clock}
            return lambda session: session.require(Kind.SEND, sent)
        if what == "step":
            progress = {"index": self.facts[name].issued_index, "more": "x" * 120}
            return lambda session: session.require(Kind.CHECKPOINT, {**body, "progress": progress})
        if what == "end":
            return lambda session: session.tell(Kind.END, {**body, "status": "completed", "result": name})
        if what == "give up":
            return lambda session: session.tell(Kind.END, {**body, "status": "abandoned"})
        if what == "interrupt":
            return lambda session: session.tell(Kind.INTERRUPT, {**body, "why": "a test"})
        return _close if what == "close" else _sync


def first_life(program: Program) -> None:
    program.batch(("begin", "A"))
    program.batch(("begin", "B"), ("begin", "C"))
    program.batch(("step", "A"))
    program.batch(("end", "B"))
    program.batch(("begin", "D"))
    program.batch(("send", "G"))
    program.batch(("step", "A"), ("step", "D"), ("send", "J"))
    program.batch(("interrupt", "C"), ("give up", "J"))
    program.batch(("step", "A"))
    program.batch(("end", "D"))
    program.batch(("step", "A"))
    program.batch(("send", "G"))
    program.batch(("step", "C"), ("begin", "E"))
    program.batch(("sync", ""))
    program.batch(("close", ""))
    program.batch(("begin", "H"), ("close", ""))


def second_life(program: Program) -> None:
    program.batch(("begin", "F"))
    program.batch(("step", "F"))
    program.batch(("end", "F"))
    program.batch(("sync", ""))
    program.batch(("close", ""))


class Operations:
    """A program that has operations and sends orders, and what its journal owes it."""

    at_first: Facts = ()

    def __init__(self) -> None:
        self.read: dict[frozenset[tuple[Path, bytes]], Recovered] = {}

    def live(self, disk: SimulatedDisk, facts: Facts, life: int) -> Known[Facts]:
        program = Program(disk, facts, life)
        (first_life if life == 1 else second_life)(program)
        return program.known

    def complaint(self, disk: SimulatedDisk, facts: Facts) -> str | None:
        # Segments and the position are all that is read; most states differ in others.
        segments = frozenset(
            (path, data)
            for path, data in disk.files().items()
            if segment.number_in(path.name) is not None or path == position_path(HOME)
        )
        if segments not in self.read:
            self.read[segments] = read_journal(disk, HOME)
        recovered = self.read[segments]
        if recovered.damage is not None:
            return f"a crash looks like damage: {recovered.damage}"
        known = dict(facts)
        for entry in recovered.table.pending():
            if entry.name.operation not in known:
                return f"{entry.name} was never begun"
        sends: Counter[str] = Counter()
        for one in recovered.sends:
            sends[one.service_name] += one.times
        for name, fact in facts:
            if not fact.acknowledged_sends <= sends[name] <= fact.issued_sends:
                return f"{name} counts {sends[name]} times, and was sent {fact.acknowledged_sends} times"
            if fact.is_acknowledged:
                complaint = self.complaint_about(name, fact, recovered.table.get(Name(name, "k")))
                if complaint is not None:
                    return complaint
        return None

    def complaint_about(self, name: str, fact: Fact, entry: OperationEntry | None) -> str | None:
        if entry is None:
            return f"{name} is lost"
        if entry.is_completed:
            if not fact.is_end_issued:
                return f"{name} is completed, and never ended"
            return None if entry.body["result"] == name else f"{name} has a wrong result"
        if fact.is_end_durable:
            return f"the end of {name} is lost"
        index = entry.body["progress"].get("index", 0)
        if not fact.acknowledged_index <= index <= fact.issued_index:
            return f"{name} is at {index}, and {fact.acknowledged_index} was acknowledged"
        if entry.body.get("sent_at", 0.0) < fact.acknowledged_sent:
            return f"{name} was sent later than it is known"
        return None


def crashes(
    kind: Callable[[Files], SimulatedDisk], *, second_life_each: int, most: int | None = None
) -> Findings:
    return crash_everywhere(Operations(), kind, second_life_each=second_life_each, most=most)


def test_whatever_a_crash_leaves_what_was_acknowledged_is_there() -> None:
    """Also when the program died once more after it came back."""
    findings = crashes(SimulatedDisk, second_life_each=60)
    print(f"journal: {findings}")

    assert findings.wrong == []
    assert findings.states > 20_000
    assert findings.second_crashes > 15_000


class FullFromTheSecondSegmentOn(SimulatedDisk):
    """There is space for one segment and the reserve, and then for nothing new."""

    def __init__(self, files: Files | None = None, *, takes: int = 500) -> None:
        super().__init__(files, takes=takes)
        self.failure = errno.ENOSPC
        segments = 0

        def is_full(call: int, what: str) -> bool:
            nonlocal segments
            segments += what == "preallocate"
            return what == "preallocate" and segments > 2

        self.fails = is_full


def test_whatever_a_crash_leaves_on_a_full_disk_what_was_acknowledged_is_there() -> None:
    """The reserve takes the place of a segment, with a crash at each step of that."""
    findings = crashes(FullFromTheSecondSegmentOn, second_life_each=40)
    print(f"journal on a full disk: {findings}")

    assert findings.wrong == []
    assert findings.states > 2_000


# ---- disks and protocols that do one thing wrong


class ForgetsToSyncRecords(SimulatedDisk):
    def sync_data(self, handle: int) -> None:
        """Forgotten."""


class ForgetsToSyncNewSegments(SimulatedDisk):
    def fsync(self, handle: int) -> None:
        """Forgotten."""

    def sync_data(self, handle: int) -> None:
        super().fsync(handle)


class SyncsRecordsAfterTheAnswer(SimulatedDisk):
    late: int | None = None

    def sync_data(self, handle: int) -> None:
        if self.late in self.open and self.late is not None:
            super().fsync(self.late)
        self.late = handle


class RemovesTheOldSegmentFirst(SimulatedDisk):
    def replace(self, source: Path, target: Path) -> None:
        for name in [name for name in self.names if segment.number_in(name.name) is not None]:
            self.unlink(name)
            super().fsync_directory(HOME)
        super().replace(source, target)


HARMLESS_HERE = (RemovesTheTargetFirst, OverwritesTheTarget, SyncsDirectoriesAfterTheAnswer)
"""A segment's name is always a new one; and more names change before anything is answered."""

JOURNAL_DISKS = [
    ForgetsToSyncRecords,
    ForgetsToSyncNewSegments,
    SyncsRecordsAfterTheAnswer,
    RemovesTheOldSegmentFirst,
    *(kind for kind in WRONG_DISKS if kind not in HARMLESS_HERE),
]


@pytest.mark.parametrize("kind", JOURNAL_DISKS)
def test_step_left_out_or_out_of_order_is_caught(kind: type[SimulatedDisk]) -> None:
    """The test above would notice."""
    assert crashes(kind, second_life_each=10, most=1).wrong


Patch = Callable[[pytest.MonkeyPatch], None]


def no_checksum(patch: pytest.MonkeyPatch) -> None:
    def unchecked(data: bytes, offset: int, seed: int) -> Any:
        record = record_at(data, offset, seed)
        if record is not None:
            return record
        head = data[offset : offset + 32]
        if len(head) < 32 or not 0 < int.from_bytes(head[:4], "little") < 1000:
            return None
        # Whatever the checksum says, with the numbers that stand there.
        length, checksum, previous, sequence, durable, what = struct.unpack_from("<IIIQQB", data, offset)
        body = data[offset + 29 : offset + 29 + length]
        return Record(what, sequence, durable, previous, checksum, body, offset + size_of(body))

    patch.setattr(segment, "record_at", unchecked)


def outcomes_count_as_synced(patch: pytest.MonkeyPatch) -> None:
    """A sync that is asked for when only outcomes were written does nothing."""

    def write(self: Journal, session: Session) -> None:
        files = self._files
        if not files.is_usable or not files.room_for(body for _, body in session.records):
            files.begin_segment()
            return
        files.append(session.records)
        if session.records and session.is_to_sync:
            files.sync()

    patch.setattr(Journal, "_write", write)


def appends_to_what_was_found(patch: pytest.MonkeyPatch) -> None:
    """After a crash it goes on in the old file, behind whatever is there."""
    begin = JournalFiles.begin_segment

    def begin_or_go_on(self: JournalFiles) -> None:
        path = HOME / segment.name_of(self._number)
        layer = self._layer
        assert isinstance(layer, SimulatedDisk)
        if self._handle is not None or path not in layer.names or self.is_usable:
            begin(self)
            return
        content = segment.read_segment(self._number, layer.names[path].data)
        data = layer.names[path].data.rstrip(b"\0")
        at = len(data) + -len(data) % 8
        self._handle = layer.handle(layer.names[path], at)
        self._seed = segment.seed_of(layer.names[path].data[24:40])
        self._checksum = content.records[-1].checksum if content.records else 0
        self._durable = self._sequence
        self._room = SEGMENT - at
        self.is_usable = True

    patch.setattr(JournalFiles, "begin_segment", begin_or_go_on)


def begins_segments_with_nothing(patch: pytest.MonkeyPatch) -> None:
    """Compaction forgets what is pending."""
    patch.setattr("shockproof.memory.journal.operation_table.OperationTable.snapshot", lambda self: [])


def carries_no_sends_along(patch: pytest.MonkeyPatch) -> None:
    """Compaction forgets what was sent and is not pending any more."""
    patch.setattr("shockproof.memory.journal.recent_sends.RecentSends.snapshot", lambda self: [])


def counts_sends_of_operations_again(patch: pytest.MonkeyPatch) -> None:
    """What was carried along already, and is pending."""

    def count(self: OperationTable, kind: int, body: dict[str, Any]) -> Any:
        take_back = counted(self, kind, body)
        if kind == Kind.OPERATION and self._are_sends_told:
            sent = earlier_sends.sent_under_a_limit(kind, body)
            return None if sent is None else self.sends.add(sent)
        return take_back

    counted = OperationTable._count
    patch.setattr(OperationTable, "_count", count)


def reads_the_oldest_segment(patch: pytest.MonkeyPatch) -> None:
    def oldest_last(found: Any, key: Any = None) -> Any:
        return sorted(found, key=key, reverse=True)

    patch.setattr(journal_files, "sorted", oldest_last, raising=False)


def reads_only_the_beginning(patch: pytest.MonkeyPatch) -> None:
    read = segment.read_segment

    def beginning(number: int, data: bytes) -> Any:
        content = read(number, data)
        kinds = [record.kind for record in content.records]
        end = kinds.index(Kind.COMPLETE) + 1 if Kind.COMPLETE in kinds else 0
        return content._replace(records=content.records[:end])

    patch.setattr(journal_files, "read_segment", beginning)


def writes_segments_in_place(patch: pytest.MonkeyPatch) -> None:
    """Compaction overwrites the one file."""

    def begin(self: JournalFiles) -> None:
        layer = self._layer
        assert isinstance(layer, SimulatedDisk)
        path = HOME / segment.name_of(1)
        self._give_up_segment()
        handle = layer.rewrite(path) if path in layer.names else layer.create(path)
        identity = b"0123456789abcdef"
        self._seed, self._checksum = segment.seed_of(identity), 0
        bodies = [(Kind.OPERATION, body) for body in self.table.snapshot()]
        content = segment.segment_head(1, identity) + self._encoded([*bodies, (Kind.COMPLETE, b"{}")])
        self._write(handle, content)
        layer.fsync(handle)
        layer.fsync_directory(HOME)
        self._handle, self._room, self._durable = handle, SEGMENT - len(content), self._sequence
        self.is_usable = True

    patch.setattr(JournalFiles, "begin_segment", begin)


def checkpoints_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    require = Session.require

    def unsynced(self: Session, kind: Kind, body: dict[str, Any], **more: Any) -> None:
        if kind == Kind.CHECKPOINT:
            self.tell(kind, body)
        else:
            require(self, kind, body, **more)

    patch.setattr(Session, "require", unsynced)


def tells_the_position_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """After a crash it says that something is missing which nobody was ever promised."""
    append = JournalFiles.append

    def append_and_tell(self: JournalFiles, records: Any) -> None:
        append(self, records)
        durable, self._durable = self._durable, self._sequence
        self.tell_position()
        self._durable = durable

    patch.setattr(JournalFiles, "append", append_and_tell)


WRONG_PROTOCOLS: list[Patch] = [
    no_checksum,
    outcomes_count_as_synced,
    appends_to_what_was_found,
    begins_segments_with_nothing,
    carries_no_sends_along,
    counts_sends_of_operations_again,
    reads_the_oldest_segment,
    reads_only_the_beginning,
    writes_segments_in_place,
    checkpoints_are_not_synced,
    tells_the_position_before_it_is_durable,
]


@pytest.mark.parametrize("mutate", WRONG_PROTOCOLS)
def test_wrong_protocol_is_caught(mutate: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would notice. (Errors of the journal itself count: it met what it cannot read.)"""
    mutate(monkeypatch)
    try:
        found = crashes(SimulatedDisk, second_life_each=1_000_000, most=1).wrong
        found = found or crashes(SimulatedDisk, second_life_each=3, most=1).wrong
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        found = [repr(error)]
    assert found


def test_at_least_twelve_mistakes_are_tried() -> None:
    """What catches two or three may do so by luck."""
    assert len(JOURNAL_DISKS) + len(WRONG_PROTOCOLS) >= 12


# ---- calls that fail


@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_whichever_call_fails_what_was_acknowledged_is_there(failure: int, is_lasting: bool) -> None:
    """The Nth call for every N, until it is not reached any more."""
    calls, complaints = complaints_where_calls_fail(Operations(), failure, is_lasting=is_lasting)

    assert complaints == []
    assert calls > 30


def retries_the_sync(patch: pytest.MonkeyPatch) -> None:
    def sync(self: JournalFiles) -> None:
        assert self._handle is not None
        try:
            self._layer.sync_data(self._handle)
        except OSError:
            self._layer.sync_data(self._handle)
        self._durable = self._sequence

    patch.setattr(JournalFiles, "sync", sync)


def swallows_the_error(patch: pytest.MonkeyPatch) -> None:
    def sync(self: JournalFiles) -> None:
        assert self._handle is not None
        with contextlib.suppress(OSError):
            self._layer.sync_data(self._handle)
        self._durable = self._sequence

    patch.setattr(JournalFiles, "sync", sync)


@pytest.mark.parametrize("mutate", [retries_the_sync, swallows_the_error])
def test_a_failed_sync_that_is_not_taken_seriously_is_caught(
    mutate: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would notice."""
    mutate(monkeypatch)
    assert complaints_where_calls_fail(Operations(), errno.EIO, is_lasting=False)[1]

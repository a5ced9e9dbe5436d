"""
Every state in which a power cut can leave the journal, over two lives; and every call of the disk that can fail.

A simulated disk records what is asked of it. A crash keeps what was synced; of the rest it keeps any part: each
write whole, its first half, its second half or not at all; each change of a name or not. Then the journal is read, or
opened and written to again until the next crash. What was acknowledged must be there, and nothing that never was.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.journal import journal_files, segment
from shockproof.memory.journal.journal import Journal, Session, _Request, _sync
from shockproof.memory.journal.journal_files import JournalFiles, read_journal
from shockproof.memory.journal.operation_table import Name
from shockproof.memory.journal.record import Kind, record_at

HOME = Path("/journal")
SEGMENT = 1536

Files = dict[Path, bytes]


# ---- the disk


@dataclass(eq=False)
class Inode:
    """A file without its names: what is on the disk for sure, and what was written since."""

    synced: bytes = b""
    data: bytes = b""
    clean_until: int = 0
    """Writes before this one are clean in the kernel's eyes, whether they reached the disk or not."""


@dataclass(frozen=True)
class Step:
    """One thing that was done to the disk."""

    what: str
    path: Path = HOME
    inode: Inode = field(default_factory=Inode)
    source: Path = HOME
    data: bytes = b""
    offset: int = 0


class SimulatedDisk:
    """A FileLayer in memory that remembers every step. Writes are short, as real ones may be."""

    def __init__(self, files: Files | None = None) -> None:
        self.names = {path: Inode(data, data) for path, data in (files or {}).items()}
        self.before = dict(self.names)
        self.steps: list[Step] = []
        self.open: dict[int, tuple[Inode, int]] = {}
        self.handles = itertools.count(1)
        self.calls = 0
        self.fails: Callable[[int, str], bool] = lambda call, what: False
        self.failure = errno.EIO

    def called(self, what: str) -> None:
        self.calls += 1
        if self.fails(self.calls, what):
            raise OSError(self.failure, "the disk refuses")

    def make_directory(self, path: Path) -> None:
        """Directories are there."""

    def list_directory(self, path: Path) -> list[str]:
        return [name.name for name in self.names if name.parent == path]

    def read(self, path: Path, limit: int) -> bytes:
        if path not in self.names:
            raise FileNotFoundError(path)
        return self.names[path].data[:limit]

    def handle(self, inode: Inode) -> int:
        handle = next(self.handles)
        self.open[handle] = (inode, 0)
        return handle

    def create(self, path: Path) -> int:
        if path in self.names:
            raise FileExistsError(path)
        self.called("create")
        inode = self.names[path] = Inode()
        self.steps.append(Step("create", path, inode))
        return self.handle(inode)

    def rewrite(self, path: Path) -> int:
        return self.handle(self.names[path])

    def preallocate(self, handle: int, size: int) -> None:
        self.called("preallocate")
        inode, _ = self.open[handle]
        more = bytes(max(0, size - len(inode.data)))
        self.steps.append(Step("write", inode=inode, data=more, offset=len(inode.data)))
        inode.data += more

    def write(self, handle: int, data: memoryview) -> int:
        self.called("write")
        taken = bytes(data[:500])
        inode, at = self.open[handle]
        inode.data = inode.data[:at] + taken + inode.data[at + len(taken) :]
        self.open[handle] = (inode, at + len(taken))
        self.steps.append(Step("write", inode=inode, data=taken, offset=at))
        return len(taken)

    def fsync(self, handle: int) -> None:
        inode, _ = self.open[handle]
        try:
            self.called("fsync")
        except OSError:
            # The kernel drops what it could not write, says so once, and thinks of it as clean.
            self.steps.append(Step("drop", inode=inode))
            raise
        self.steps.append(Step("fsync", inode=inode))

    def sync_data(self, handle: int) -> None:
        self.fsync(handle)

    def close(self, handle: int) -> None:
        del self.open[handle]

    def replace(self, source: Path, target: Path) -> None:
        if source not in self.names:
            raise FileNotFoundError(source)
        self.called("replace")
        inode = self.names[target] = self.names.pop(source)
        self.steps.append(Step("replace", target, inode, source))

    def unlink(self, path: Path) -> None:
        if path not in self.names:
            raise FileNotFoundError(path)
        self.called("unlink")
        self.steps.append(Step("unlink", path, self.names.pop(path)))

    def fsync_directory(self, path: Path) -> None:
        self.called("fsync_directory")
        self.steps.append(Step("fsync_directory", path))

    def own(self, path: Path, owner: bytes) -> int:
        return self.handle(Inode())


def apply(names: dict[Path, Inode], step: Step) -> None:
    """Do to the names what the step does."""
    if step.what in ("create", "replace"):
        names[step.path] = step.inode
    if step.what == "replace" and names.get(step.source) is step.inode:
        del names[step.source]
    if step.what == "unlink":
        names.pop(step.path, None)


def written(data: bytes, offset: int, more: bytes) -> bytes:
    return data[:offset].ljust(offset, b"\0") + more + data[offset + len(more) :]


def crash_states(disk: SimulatedDisk, steps: int) -> Iterator[Files]:
    """What may be on the disk when the power fails after so many steps."""
    durable = dict(disk.before)
    changes: list[Step] = []
    synced = {inode: inode.synced for inode in durable.values()}
    dirty: dict[Inode, list[Step]] = {}
    for step in disk.steps[:steps]:
        if step.what == "write":
            dirty.setdefault(step.inode, []).append(step)
        elif step.what == "fsync":
            for write in dirty.pop(step.inode, []):
                synced[step.inode] = written(synced.get(step.inode, b""), write.offset, write.data)
        elif step.what == "drop":
            dirty.pop(step.inode, None)
        elif step.what == "fsync_directory":
            for change in changes:
                apply(durable, change)
            changes = []
        else:
            changes.append(step)
    seen: set[frozenset[tuple[Path, bytes]]] = set()
    for chosen in selections(changes):
        names = dict(durable)
        for step in chosen:
            apply(names, step)
        inodes = list(dict.fromkeys(names.values()))
        kept = [list(contents(synced.get(inode, b""), dirty.get(inode, []))) for inode in inodes]
        for combination in itertools.product(*kept):
            content = dict(zip(inodes, combination, strict=True))
            state = {path: content[inode] for path, inode in names.items()}
            key = frozenset(state.items())
            if key not in seen:
                seen.add(key)
                yield state


def selections(steps: list[Step]) -> Iterator[tuple[Step, ...]]:
    """Any selection of the steps; of more than five, the beginnings and those without one."""
    if len(steps) <= 5:
        for size in range(len(steps) + 1):
            yield from itertools.combinations(steps, size)
        return
    for size in range(len(steps) + 1):
        yield tuple(steps[:size])
    yield from itertools.combinations(steps, len(steps) - 1)


def contents(kept: bytes, writes: list[Step]) -> Iterator[bytes]:
    """What a crash can make of the synced content and the writes since; of many, only the last three in all ways."""
    for write in writes[:-3]:
        kept = written(kept, write.offset, write.data)
    for parts in itertools.product(range(4), repeat=len(writes[-3:])):
        content = kept
        for part, write in zip(parts, writes[-3:], strict=True):
            half = len(write.data) // 2
            if part == 3:
                content = written(content, write.offset, write.data)
            elif part == 1:
                content = written(content, write.offset, write.data[:half])
            elif part == 2:
                content = written(content, write.offset + half, write.data[half:])
        yield content


# ---- the program


@dataclass
class Fact:
    """What the program knows of one operation."""

    is_acknowledged: bool = False
    acknowledged_index: int = 0
    issued_index: int = 0
    is_end_issued: bool = False
    is_end_durable: bool = False


Facts = dict[str, Fact]


class Program:
    """Uses the journal as the library does, batch by batch, and remembers after which step it knew what."""

    def __init__(self, disk: SimulatedDisk, facts: Facts | None = None) -> None:
        self.disk = disk
        self.clock = 0.0
        self.journal = Journal(HOME, layer=disk, monotonic=lambda: self.clock, segment_bytes=SEGMENT)
        self.facts: Facts = {name: Fact(**vars(fact)) for name, fact in (facts or {}).items()}
        self.ended: set[str] = set()
        """What ended in this life: an end of an earlier one may have been lost in the crash."""
        self.known: list[tuple[int, Facts]] = [(0, self.copy())]

    def copy(self) -> Facts:
        return {name: Fact(**vars(fact)) for name, fact in self.facts.items()}

    def batch(self, *wishes: tuple[str, str]) -> None:
        """One turn of the journal's thread: ("begin", "A"), ("step", "A"), ("end", "A"), ("interrupt", "A"), ("sync", "")."""
        self.clock += 10.0
        for what, name in wishes:
            if name:
                fact = self.facts.setdefault(name, Fact())
                fact.issued_index += what == "step"
                fact.is_end_issued |= what == "end"
                self.ended |= {name} if what == "end" else set()
        self.known.append((len(self.disk.steps), self.copy()))  # issued, and from here on possible
        answers = self.journal._commit([_Request(self.act(what, name)) for what, name in wishes])
        for (what, name), (_, _, error) in zip(wishes, answers, strict=True):
            if error is None and what == "begin":
                self.facts[name].is_acknowledged = True
            if error is None and what == "step":
                self.facts[name].acknowledged_index = self.facts[name].issued_index
        if all(error is None for _, _, error in answers) and any(what != "end" for what, _ in wishes):
            # Outcomes ride along with what was synced here.
            for name in self.ended:
                self.facts[name].is_end_durable = True
        self.known.append((len(self.disk.steps), self.copy()))

    def act(self, what: str, name: str) -> Callable[[Session], None]:
        body: dict[str, Any] = {"operation": name, "key": "k"}
        if what == "begin":
            return lambda session: session.require(Kind.BEGIN, body)
        if what == "step":
            progress = {"index": self.facts[name].issued_index, "more": "x" * 120}
            return lambda session: session.require(Kind.CHECKPOINT, {**body, "progress": progress})
        if what == "end":
            return lambda session: session.tell(Kind.END, {**body, "status": "completed", "result": name})
        if what == "interrupt":
            return lambda session: session.tell(Kind.INTERRUPT, {**body, "why": "a test"})
        return _sync


def first_life(program: Program) -> None:
    program.batch(("begin", "A"))
    program.batch(("begin", "B"), ("begin", "C"))
    program.batch(("step", "A"))
    program.batch(("end", "B"))
    program.batch(("begin", "D"))
    program.batch(("step", "A"), ("step", "D"))
    program.batch(("interrupt", "C"))
    program.batch(("step", "A"))
    program.batch(("end", "D"))
    program.batch(("step", "A"))
    program.batch(("step", "C"), ("begin", "E"))
    program.batch(("sync", ""))


def second_life(program: Program) -> None:
    program.batch(("begin", "F"))
    program.batch(("step", "F"))
    program.batch(("end", "F"))
    program.batch(("sync", ""))


def wrong(disk: SimulatedDisk, facts: Facts) -> str | None:
    """What is wrong with the journal on the disk, for a program that knew this when it died."""
    recovered = read_journal(disk, HOME)
    if recovered.damage is not None:
        return f"a crash looks like damage: {recovered.damage}"
    for entry in recovered.table.pending():
        if entry.name.operation not in facts:
            return f"{entry.name} was never begun"
    for name, fact in facts.items():
        entry = recovered.table.get(Name(name, "k"))
        if not fact.is_acknowledged:
            continue
        if entry is None:
            return f"{name} is lost"
        if entry.is_completed:
            if not fact.is_end_issued:
                return f"{name} is completed, and never ended"
            if entry.body["result"] != name:
                return f"{name} has a wrong result"
            continue
        if fact.is_end_durable:
            return f"the end of {name} is lost"
        index = entry.body["progress"].get("index", 0)
        if not fact.acknowledged_index <= index <= fact.issued_index:
            return f"{name} is at {index}, and {fact.acknowledged_index} was acknowledged"
    return None


def facts_at(program: Program, steps: int) -> Facts:
    """What the program knew after so many steps of the disk, and what it had asked for."""
    return [facts for at, facts in program.known if at <= steps][-1]


def violations(
    kind: type[SimulatedDisk], *, second_lives_each: int, most: int | None = None
) -> tuple[int, list[str]]:
    """How many states there were, and what was wrong in them."""
    first = Program(kind())
    first_life(first)
    states = 0
    found: list[str] = []
    for steps in range(len(first.disk.steps) + 1):
        facts = facts_at(first, steps)
        for files in crash_states(first.disk, steps):
            states += 1
            complaint = wrong(kind(files), facts)
            if complaint is not None:
                found.append(f"after step {steps}: {complaint}")
            elif states % second_lives_each == 0:
                second = Program(kind(files), facts)
                second_life(second)
                for later in range(len(second.disk.steps) + 1):
                    facts_then = facts_at(second, later)
                    for more in crash_states(second.disk, later):
                        states += 1
                        complaint = wrong(kind(more), facts_then)
                        if complaint is not None:
                            found.append(f"after step {steps}, and {later} of the next life: {complaint}")
            if found and most is not None and len(found) >= most:
                return states, found
    return states, found


def test_whatever_a_crash_leaves_what_was_acknowledged_is_there() -> None:
    """Also when the program died once more after it came back."""
    states, found = violations(SimulatedDisk, second_lives_each=40)

    assert found == []
    assert states > 20_000


# ---- disks and protocols that do one thing wrong


class NoSyncOfData(SimulatedDisk):
    def sync_data(self, handle: int) -> None:
        """Forgotten."""


class NoSyncOfNewSegments(SimulatedDisk):
    def fsync(self, handle: int) -> None:
        """Forgotten."""

    def sync_data(self, handle: int) -> None:
        super().fsync(handle)


class NoSyncOfTheDirectory(SimulatedDisk):
    def fsync_directory(self, path: Path) -> None:
        """Forgotten."""


class SyncOfDataTooLate(SimulatedDisk):
    """Acknowledges first: what should be synced now is synced with the next call."""

    late: int | None = None

    def sync_data(self, handle: int) -> None:
        if self.late in self.open and self.late is not None:
            super().fsync(self.late)
        self.late = handle


class RenamesBeforeTheSync(SimulatedDisk):
    def fsync(self, handle: int) -> None:
        self.waiting = handle

    def sync_data(self, handle: int) -> None:
        super().fsync(handle)

    def fsync_directory(self, path: Path) -> None:
        super().fsync_directory(path)
        super().fsync(self.waiting)


class RemovesTheOldSegmentFirst(SimulatedDisk):
    def replace(self, source: Path, target: Path) -> None:
        for name in [name for name in self.names if segment.number_in(name.name) is not None]:
            self.unlink(name)
            super().fsync_directory(HOME)
        super().replace(source, target)


class TakesShortWritesForWhole(SimulatedDisk):
    def write(self, handle: int, data: memoryview) -> int:
        super().write(handle, data[: len(data) // 2] if len(data) > 64 else data)
        return len(data)


WRONG_DISKS = [
    NoSyncOfData,
    NoSyncOfNewSegments,
    NoSyncOfTheDirectory,
    SyncOfDataTooLate,
    RenamesBeforeTheSync,
    RemovesTheOldSegmentFirst,
    TakesShortWritesForWhole,
]


@pytest.mark.parametrize("kind", WRONG_DISKS)
def test_a_step_left_out_or_out_of_order_is_caught(kind: type[SimulatedDisk]) -> None:
    """The test above would notice."""
    assert violations(kind, second_lives_each=10, most=1)[1]


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
        import struct

        from shockproof.memory.journal.record import Record, size_of

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
        self._handle = layer.handle(layer.names[path])
        layer.open[self._handle] = (layer.names[path], at)
        self._seed = segment.seed_of(layer.names[path].data[24:40])
        self._checksum = content.records[-1].checksum if content.records else 0
        self._durable = self._sequence
        self._room = SEGMENT - at
        self.is_usable = True

    patch.setattr(JournalFiles, "begin_segment", begin_or_go_on)


def begins_segments_with_nothing(patch: pytest.MonkeyPatch) -> None:
    """Compaction forgets what is pending."""
    patch.setattr("shockproof.memory.journal.operation_table.OperationTable.snapshot", lambda self: [])


def reads_the_oldest_segment(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal_files, "sorted", lambda numbers: sorted(numbers, reverse=True), raising=False)


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


WRONG_PROTOCOLS: list[Patch] = [
    no_checksum,
    outcomes_count_as_synced,
    appends_to_what_was_found,
    begins_segments_with_nothing,
    reads_the_oldest_segment,
    reads_only_the_beginning,
    writes_segments_in_place,
    checkpoints_are_not_synced,
]


@pytest.mark.parametrize("mutate", WRONG_PROTOCOLS)
def test_a_wrong_protocol_is_caught(mutate: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would notice. (Errors of the journal itself count: it met what it cannot read.)"""
    mutate(monkeypatch)
    try:
        found = violations(SimulatedDisk, second_lives_each=1_000_000, most=1)[1]
        found = found or violations(SimulatedDisk, second_lives_each=3, most=1)[1]
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        found = [repr(error)]
    assert found


# ---- calls that fail


def complaint_when(fails: Callable[[int, str], bool], failure: int) -> tuple[int, str | None]:
    """Run a life on a disk that fails, and see what is there if the power is cut at its end."""
    disk = SimulatedDisk()
    disk.fails, disk.failure = fails, failure
    program = Program(disk)
    first_life(program)
    for files in crash_states(disk, len(disk.steps)):
        complaint = wrong(SimulatedDisk(files), program.facts)
        if complaint is not None:
            return disk.calls, complaint
    return disk.calls, None


def failures(failure: int, *, is_lasting: bool) -> list[str]:
    found: list[str] = []
    number = 1
    while True:
        calls, complaint = complaint_when(
            lambda call, what, number=number: call >= number if is_lasting else call == number, failure
        )
        if complaint is not None:
            found.append(f"call {number} fails: {complaint}")
        if calls < number:
            return found
        number += 1


@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_whichever_call_fails_what_was_acknowledged_is_there(failure: int, is_lasting: bool) -> None:
    """The Nth call for every N, until it is not reached any more."""
    assert failures(failure, is_lasting=is_lasting) == []


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
    assert failures(errno.EIO, is_lasting=False)

"""
Every state in which a power cut can leave the disk, for a file and for the state directory.

A simulated disk records what is asked of it. A crash keeps what was synced; of the rest it keeps any
part: names in order or in any selection, data whole, torn, as zeros, or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shockproof.memory.disk.durable_file import Replacement, replace_durably
from shockproof.memory.state.secrets import SecretNames
from shockproof.memory.state.state_capture import CapturedState, StateSecrets, capture_state
from shockproof.memory.state.state_files import StateFiles

HOME = Path("/state")


@dataclass(eq=False)
class Inode:
    """A file without its names."""

    data: bytes = b""


@dataclass(frozen=True)
class Step:
    """One thing that was done to the disk."""

    what: str
    path: Path = HOME
    inode: Inode = field(default_factory=Inode)
    source: Path = HOME
    data: bytes = b""


class SimulatedDisk:
    """A FileLayer in memory that remembers every step. Writes are short, as real ones may be."""

    def __init__(self, files: dict[Path, bytes] | None = None) -> None:
        self.names = {path: Inode(data) for path, data in (files or {}).items()}
        self.before = dict(self.names)
        self.steps: list[Step] = []
        self.open: dict[int, Inode] = {}

    def make_directory(self, path: Path) -> None:
        """Directories are there."""

    def list_directory(self, path: Path) -> list[str]:
        return [name.name for name in self.names if name.parent == path]

    def read(self, path: Path, limit: int) -> bytes:
        if path not in self.names:
            raise FileNotFoundError(path)
        return self.names[path].data[:limit]

    def create(self, path: Path) -> int:
        if path in self.names:
            raise FileExistsError(path)
        inode = self.names[path] = Inode()
        self.steps.append(Step("create", path, inode))
        self.open[len(self.steps)] = inode
        return len(self.steps)

    def write(self, handle: int, data: memoryview) -> int:
        taken = bytes(data[:150])
        inode = self.open[handle]
        inode.data += taken
        self.steps.append(Step("write", inode=inode, data=taken))
        return len(taken)

    def fsync(self, handle: int) -> None:
        self.steps.append(Step("fsync", inode=self.open[handle]))

    def close(self, handle: int) -> None:
        del self.open[handle]

    def link(self, existing: Path, new: Path) -> None:
        if existing not in self.names:
            raise FileNotFoundError(existing)
        self.names[new] = self.names[existing]
        self.steps.append(Step("link", new, self.names[new]))

    def replace(self, source: Path, target: Path) -> None:
        inode = self.names[source]
        if self.names.get(target) is inode:
            return  # as rename(2) says: of two names of one file, both stay
        del self.names[source]
        self.names[target] = inode
        self.steps.append(Step("replace", target, inode, source))

    def unlink(self, path: Path) -> None:
        if path not in self.names:
            raise FileNotFoundError(path)
        self.steps.append(Step("unlink", path, self.names.pop(path)))

    def fsync_directory(self, path: Path) -> None:
        self.steps.append(Step("fsync_directory", path))

    @contextlib.contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        yield

    def files(self) -> dict[Path, bytes]:
        return {path: inode.data for path, inode in self.names.items()}


def apply(names: dict[Path, Inode], step: Step) -> None:
    """Do to the names what the step does."""
    if step.what in ("create", "link", "replace"):
        names[step.path] = step.inode
    if step.what == "replace" and names.get(step.source) is step.inode:
        del names[step.source]
    if step.what == "unlink":
        names.pop(step.path, None)


def crash_states(disk: SimulatedDisk, steps: int) -> Iterator[dict[Path, bytes]]:
    """What may be on the disk when the power fails after so many steps."""
    durable = dict(disk.before)
    waiting: list[Step] = []
    written: dict[Inode, bytes] = dict.fromkeys(disk.names.values(), b"")
    synced: dict[Inode, bytes] = {inode: inode.data for inode in durable.values()}
    for step in disk.steps[:steps]:
        if step.what == "write":
            written[step.inode] = written.get(step.inode, b"") + step.data
        elif step.what == "fsync":
            synced[step.inode] = written.get(step.inode, b"")
        elif step.what == "fsync_directory":
            for earlier in waiting:
                apply(durable, earlier)
            waiting = []
        else:
            waiting.append(step)

    seen: set[frozenset[tuple[Path, bytes]]] = set()
    for chosen in selections(waiting):
        names = dict(durable)
        for step in chosen:
            apply(names, step)
        inodes = list(dict.fromkeys(names.values()))
        for contents in itertools.product(
            *(contents_after_crash(synced, written, inode) for inode in inodes)
        ):
            content = dict(zip(inodes, contents, strict=True))
            state = {path: content[inode] for path, inode in names.items()}
            key = frozenset(state.items())
            if key not in seen:
                seen.add(key)
                yield state


def selections(steps: list[Step]) -> Iterator[tuple[Step, ...]]:
    """Any selection of the steps; of more than eight, those without one or two, and the beginnings."""
    if len(steps) <= 8:
        for size in range(len(steps) + 1):
            yield from itertools.combinations(steps, size)
        return
    for size in range(len(steps) + 1):
        yield tuple(steps[:size])
    for missing in range(3):
        yield from itertools.combinations(steps, len(steps) - missing)


def contents_after_crash(
    synced: dict[Inode, bytes], written: dict[Inode, bytes], inode: Inode
) -> list[bytes]:
    """The synced content, and what a crash can make of more that was written."""
    kept, full = synced.get(inode, b""), written.get(inode, b"")
    if len(full) <= len(kept):
        return [kept]
    torn = full[: (len(kept) + len(full)) // 2]
    return [kept, torn, torn.ljust(len(full), b"\0"), full]


# ---- disks, or protocols, that do one thing wrong


class NoFsync(SimulatedDisk):
    def fsync(self, handle: int) -> None:
        """Forgotten."""


class NoDirectoryFsync(SimulatedDisk):
    def fsync_directory(self, path: Path) -> None:
        """Forgotten."""


class ReplaceBeforeFsync(SimulatedDisk):
    def __init__(self, files: dict[Path, bytes] | None = None) -> None:
        super().__init__(files)
        self.late: list[Step] = []

    def fsync(self, handle: int) -> None:
        self.late.append(Step("fsync", inode=self.open[handle]))

    def fsync_directory(self, path: Path) -> None:
        self.steps += self.late
        super().fsync_directory(path)


class FsyncBeforeWrite(SimulatedDisk):
    def create(self, path: Path) -> int:
        handle = super().create(path)
        super().fsync(handle)
        return handle

    def fsync(self, handle: int) -> None:
        """Done too early."""


class InPlace(SimulatedDisk):
    """Opens the file itself and overwrites it."""

    def create(self, path: Path) -> int:
        name = path.name.split(".", 1)[1].rsplit(".", 3)[0]
        handle = super().create(path)
        self.steps.append(Step("replace", HOME / name, self.open[handle], path))
        self.names[HOME / name] = self.names[path]
        return handle

    def replace(self, source: Path, target: Path) -> None:
        self.names.pop(source, None)


WRONG_DISKS = [NoFsync, NoDirectoryFsync, ReplaceBeforeFsync, FsyncBeforeWrite, InPlace]


# ---- one file


def violations_of_a_file(kind: type[SimulatedDisk]) -> tuple[int, int]:
    old, new = b"old" * 100, b"new" * 150
    disk = kind({HOME / "file": old})
    replace_durably(disk, HOME, [Replacement("file", [new])])
    states = wrong = 0
    for steps in range(len(disk.steps) + 1):
        allowed = {old, new} if steps < len(disk.steps) else {new}
        for state in crash_states(disk, steps):
            states += 1
            wrong += state.get(HOME / "file") not in allowed
    return states, wrong


def test_crash_during_a_replacement_leaves_the_old_or_the_new_file() -> None:
    """Whatever the disk keeps, the file is old or new; once reported as saved, it is new."""
    states, wrong = violations_of_a_file(SimulatedDisk)

    assert states > 20
    assert wrong == 0


@pytest.mark.parametrize("kind", WRONG_DISKS)
def test_step_left_out_of_a_replacement_is_caught(kind: type[SimulatedDisk]) -> None:
    """The test above would notice if a step were missing or out of order."""
    assert violations_of_a_file(kind)[1] > 0


# ---- the state directory


def captured(number: int) -> CapturedState:
    sections = {"cached_data": {"number": number, "more": ["x"] * 20}, "configuration": {}}
    return asyncio.run(
        capture_state(sections, secrets=StateSecrets(SecretNames()), timestamp=1_760_000_000 + number)
    )


def violations_of_the_state(kind: type[SimulatedDisk], *, saves_before: int) -> tuple[int, int]:
    disk = SimulatedDisk()
    for number in range(1, saves_before + 1):
        StateFiles(HOME, layer=disk).write(captured(number))
    wrong_disk = kind(disk.files())
    StateFiles(HOME, layer=wrong_disk).write(captured(saves_before + 1))
    states = wrong = 0
    for steps in range(len(wrong_disk.steps) + 1):
        allowed = {saves_before, saves_before + 1} if steps < len(wrong_disk.steps) else {saves_before + 1}
        for files in crash_states(wrong_disk, steps):
            states += 1
            after = SimulatedDisk(files)
            state = StateFiles(HOME, layer=after).load().state
            found = 0 if state is None else state.cached_data["number"]
            wrong += found not in allowed
    return states, wrong


@pytest.mark.parametrize("saves_before", [0, 1, 2])
def test_crash_during_a_save_leaves_the_old_or_the_new_state(saves_before: int) -> None:
    """What a program finds after a crash is the state before the save or the one after, never older."""
    states, wrong = violations_of_the_state(SimulatedDisk, saves_before=saves_before)

    assert states > 60
    assert wrong == 0


# Not InPlace: one file after the other, and the other one stands by.
@pytest.mark.parametrize("kind", [kind for kind in WRONG_DISKS if kind is not InPlace])
def test_step_left_out_of_a_save_is_caught(kind: type[SimulatedDisk]) -> None:
    """The test above would notice, although the pickle and the previous generation stand by."""
    assert violations_of_the_state(kind, saves_before=2)[1] > 0


def test_save_after_a_crash_at_any_step_goes_through() -> None:
    """Leftover temporary files, second names and torn files do not stop the next save."""
    disk = SimulatedDisk()
    StateFiles(HOME, layer=disk).write(captured(1))
    second = SimulatedDisk(disk.files())
    StateFiles(HOME, layer=second).write(captured(2))
    for steps in range(len(second.steps) + 1):
        for files in crash_states(second, steps):
            after = SimulatedDisk(files)

            StateFiles(HOME, layer=after).write(captured(3))

            state = StateFiles(HOME, layer=after).load().state
            assert state is not None
            assert state.cached_data["number"] == 3
            assert not [path for path in after.names if path.name.endswith(".tmp")]

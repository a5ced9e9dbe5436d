"""
A file layer in memory that knows every state in which a power cut could leave the disk.

It records what is asked of it. A crash keeps what was synced; of the rest it keeps any part: each write whole, its
first half, its second half, zeros in its place, or nothing; each change of a name or not, in any selection. A
sync that fails drops what was written since the last one, says so once, and takes it for clean, as kernels do.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shockproof.memory.disk.file_layer import FileStamp

__all__ = ["Files", "Inode", "SimulatedDisk", "Step", "crash_states"]

Files = dict[Path, bytes]

_EVERY_WAY = 3
"""So many of the last unsynced writes to a file are torn in every way."""
_EVERY_SELECTION = 5
"""Up to so many unsynced changes of names are kept in every selection."""
_EVERY_COMBINATION = 512
"""Up to so many combinations of what several files can hold."""


@dataclass(eq=False)
class Inode:
    """A file without its names."""

    data: bytes = b""


@dataclass(frozen=True)
class Step:
    """One thing that was done to the disk."""

    what: str
    path: Path = Path()
    inode: Inode = field(default_factory=Inode)
    source: Path = Path()
    data: bytes = b""
    offset: int = 0


class SimulatedDisk:
    """
    A FileLayer in memory that remembers every step.

    *takes* is how many bytes of a write it accepts at once. Directories are always there. `fails` is asked at each
    call that changes something, with its number and its name, whether the disk refuses it with `failure`.
    """

    def __init__(self, files: Files | None = None, *, takes: int = 500) -> None:
        self.names = {path: Inode(data) for path, data in (files or {}).items()}
        self.before = dict(self.names)
        self.durable = {inode: inode.data for inode in self.names.values()}
        self.takes = takes
        self.steps: list[Step] = []
        self.open: dict[int, tuple[Inode, int]] = {}
        """Of each handle the file, and where its next write goes."""
        self.calls = 0
        self.fails: Callable[[int, str], bool] = lambda call, what: False
        self.failure = errno.EIO
        self._handles = itertools.count(1)

    def files(self) -> Files:
        """What is there as long as there is no crash."""
        return {path: inode.data for path, inode in self.names.items()}

    def handle(self, inode: Inode, at: int = 0) -> int:
        """A handle to write to the file from *at* on."""
        handle = next(self._handles)
        self.open[handle] = (inode, at)
        return handle

    def called(self, what: str) -> None:
        self.calls += 1
        if self.fails(self.calls, what):
            raise OSError(self.failure, "the disk refuses")

    # ---- the file layer

    def make_directory(self, path: Path) -> None:
        """Directories are there."""

    def list_directory(self, path: Path) -> list[str]:
        return [name.name for name in self.names if name.parent == path]

    def read(self, path: Path, limit: int) -> bytes:
        return self._inode(path).data[:limit]

    def stamp(self, path: Path) -> FileStamp:
        inode = self._inode(path)
        return FileStamp(len(inode.data), 0, id(inode))

    def create(self, path: Path) -> int:
        if path in self.names:
            raise FileExistsError(path)
        self.called("create")
        inode = self.names[path] = Inode()
        self.steps.append(Step("create", path, inode))
        return self.handle(inode)

    def rewrite(self, path: Path) -> int:
        return self.handle(self._inode(path))

    def write(self, handle: int, data: memoryview) -> int:
        self.called("write")
        inode, at = self.open[handle]
        taken = bytes(data[: self.takes])
        self.put(inode, at, taken)
        self.open[handle] = (inode, at + len(taken))
        return len(taken)

    def put(self, inode: Inode, at: int, data: bytes) -> None:
        """Write, without a handle."""
        inode.data = _written(inode.data, at, data)
        self.steps.append(Step("write", inode=inode, data=data, offset=at))

    def preallocate(self, handle: int, size: int) -> None:
        self.called("preallocate")
        inode, _ = self.open[handle]
        self.put(inode, len(inode.data), bytes(max(0, size - len(inode.data))))

    def size(self, handle: int) -> int:
        return len(self.open[handle][0].data)

    def leads_to(self, path: Path, handle: int) -> bool:
        return self.names.get(path) is self.open[handle][0]

    def fsync(self, handle: int) -> None:
        inode, _ = self.open[handle]
        try:
            self.called("fsync")
        except OSError:
            self.steps.append(Step("drop", inode=inode))
            raise
        self.steps.append(Step("fsync", inode=inode))

    def sync_data(self, handle: int) -> None:
        self.fsync(handle)

    def close(self, handle: int) -> None:
        del self.open[handle]

    def link(self, existing: Path, new: Path) -> None:
        inode = self._inode(existing)
        if new in self.names:
            raise FileExistsError(new)
        self.called("link")
        self.names[new] = inode
        self.steps.append(Step("link", new, inode))

    def replace(self, source: Path, target: Path) -> None:
        inode = self._inode(source)
        self.called("replace")
        if self.names.get(target) is inode:
            return  # as rename(2) says: of two names of one file, both stay
        del self.names[source]
        self.names[target] = inode
        if source.parent == target.parent:
            self.steps.append(Step("replace", target, inode, source))
        else:  # each directory remembers its own part
            self.steps += [Step("link", target, inode), Step("unlink", source, inode)]

    def unlink(self, path: Path) -> None:
        self._inode(path)
        self.called("unlink")
        self.steps.append(Step("unlink", path, self.names.pop(path)))

    def fsync_directory(self, path: Path) -> None:
        self.called("fsync_directory")
        self.steps.append(Step("fsync_directory", path))

    @contextlib.contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        yield

    def own(self, path: Path, owner: bytes) -> int:
        return self.handle(Inode())

    def _inode(self, path: Path) -> Inode:
        if path not in self.names:
            raise FileNotFoundError(path)
        return self.names[path]


def crash_states(disk: SimulatedDisk, steps: int) -> Iterator[Files]:
    """What may be on the disk when the power fails after so many steps; none of them twice."""
    names = dict(disk.before)
    synced = dict(disk.durable)
    changes: list[Step] = []
    dirty: dict[Inode, list[Step]] = {}
    for step in disk.steps[:steps]:
        if step.what == "write":
            dirty.setdefault(step.inode, []).append(step)
        elif step.what == "fsync":
            for write in dirty.pop(step.inode, []):
                synced[step.inode] = _written(synced.get(step.inode, b""), write.offset, write.data)
        elif step.what == "drop":
            dirty.pop(step.inode, None)
        elif step.what == "fsync_directory":
            for change in changes:
                if change.path.parent == step.path:
                    _apply(names, change)
            changes = [change for change in changes if change.path.parent != step.path]
        else:
            changes.append(step)
    seen: set[frozenset[tuple[Path, bytes]]] = set()
    for chosen in _selections(changes):
        then = dict(names)
        for step in chosen:
            _apply(then, step)
        inodes = list(dict.fromkeys(then.values()))
        kept = [_contents(synced.get(inode, b""), dirty.get(inode, [])) for inode in inodes]
        for combination in _combinations(kept):
            content = dict(zip(inodes, combination, strict=True))
            state = {path: content[inode] for path, inode in then.items()}
            key = frozenset(state.items())
            if key not in seen:
                seen.add(key)
                yield state


def _apply(names: dict[Path, Inode], step: Step) -> None:
    if step.what == "unlink":
        names.pop(step.path, None)
    else:
        names[step.path] = step.inode
    if step.what == "replace" and names.get(step.source) is step.inode:
        del names[step.source]


def _written(data: bytes, offset: int, more: bytes) -> bytes:
    return data[:offset].ljust(offset, b"\0") + more + data[offset + len(more) :]


def _selections(steps: list[Step]) -> Iterator[tuple[Step, ...]]:
    """Every selection of a few steps; of more, the beginnings and those without one or two."""
    if len(steps) <= _EVERY_SELECTION:
        for size in range(len(steps) + 1):
            yield from itertools.combinations(steps, size)
        return
    for size in range(len(steps) + 1):
        yield tuple(steps[:size])
    for missing in (1, 2):
        yield from itertools.combinations(steps, len(steps) - missing)


def _contents(kept: bytes, writes: list[Step]) -> list[bytes]:
    """What a crash can make of the synced content and the writes since."""
    earlier = kept
    for write in writes[:-_EVERY_WAY]:
        earlier = _written(earlier, write.offset, write.data)
    found = dict.fromkeys([kept])
    for base in (kept, earlier):
        for parts in itertools.product(range(5), repeat=min(len(writes), _EVERY_WAY)):
            content = base
            for part, write in zip(parts, writes[-_EVERY_WAY:], strict=False):
                content = _torn(content, write, part)
            found[content] = None
    return list(found)


def _torn(content: bytes, write: Step, part: int) -> bytes:
    half = len(write.data) // 2
    if part == 1:
        return _written(content, write.offset, write.data[:half])
    if part == 2:
        return _written(content, write.offset + half, write.data[half:])
    if part == 3 and write.offset >= len(content):
        return _written(
            content, write.offset, bytes(len(write.data))
        )  # its size reached the disk, and it did not
    if part == 4:
        return _written(content, write.offset, write.data)
    return content


def _combinations(kept: list[list[bytes]]) -> Iterator[tuple[bytes, ...]]:
    """Every combination; of too many, those in which one file differs from all nothing, or from all whole."""
    number = 1
    for contents in kept:
        number *= len(contents)
    if number <= _EVERY_COMBINATION:
        yield from itertools.product(*kept)
        return
    for others in (0, -1):
        for place, contents in enumerate(kept):
            for content in contents:
                combination = [each[others] for each in kept]
                combination[place] = content
                yield tuple(combination)

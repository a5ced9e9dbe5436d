"""
A file layer in memory that knows every state in which a power cut could leave the disk.

It records what is asked of it. A crash keeps what was synced; of the rest it keeps any part: each write whole, its
first half, its second half, zeros in its place, or nothing; each change of a name or not, in any selection; and
nothing that is in a directory whose own name was lost. A sync that fails drops what was written since the last one, says so once, and takes it for clean, as kernels do.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase, BytesIO, FileIO
from pathlib import Path
from typing import Any

from shockproof.memory.disk.file_layer import FileStamp

__all__ = ["Files", "Inode", "SimulatedDisk", "Step", "crash_states"]

Files = dict[Path, bytes]

ROOT = Path("/")

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

    *takes* is how many bytes of a write it accepts at once. The root, *directories* and those of *files* are there.
    `fails` is asked at each call that changes something, with its number and its name, whether the disk refuses it
    with `failure`.
    """

    def __init__(
        self, files: Files | None = None, *, takes: int = 500, directories: Iterable[Path] = ()
    ) -> None:
        self.names = {path: Inode(data) for path, data in (files or {}).items()}
        there = {ROOT, *directories, *(parent for path in self.names for parent in path.parents)}
        self.directories = {path: Inode() for path in there}
        self.before = {**self.names, **self.directories}
        self.durable = {inode: inode.data for inode in self.names.values()}
        self.takes = takes
        self.steps: list[Step] = []
        self.open: dict[int, tuple[Inode, int]] = {}
        """Of each handle the file, and where its next write goes."""
        self.appending: set[int] = set()
        """Those whose writes go to the end, wherever it is."""
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

    def is_directory(self, path: Path) -> bool:
        return path in self.directories

    def make_directory(self, path: Path) -> None:
        self._is_free(path)
        self.called("make_directory")
        self.directories[path] = Inode()
        self.steps.append(Step("make_directory", path, self.directories[path]))

    def list_directory(self, path: Path) -> list[str]:
        self._is_there(path)
        return [name.name for name in (*self.names, *self.directories) if name.parent == path != name]

    def read(self, path: Path, limit: int) -> bytes:
        return self._inode(path).data[:limit]

    def is_writable(self, path: Path) -> bool:
        return True

    def stamp(self, path: Path, *, follow_links: bool = True) -> FileStamp:
        inode = self._inode(path)
        return FileStamp(len(inode.data), 0, id(inode))

    def born_at(self, path: Path) -> int | None:
        return None

    def open_to_read(self, path: Path) -> BufferedIOBase:
        self.called("open_to_read")
        return BytesIO(self._inode(path).data)

    def open_to_append(self, path: Path) -> FileIO:
        self.called("open_to_append")
        if path not in self.names:
            self._is_free(path)
            self._create(path)
        handle = self.handle(self.names[path])
        self.appending.add(handle)
        return AppendedFile(self, handle)

    def create(self, path: Path) -> int:
        self._is_free(path)
        self.called("create")
        return self.handle(self._create(path))

    def _create(self, path: Path) -> Inode:
        inode = self.names[path] = Inode()
        self.steps.append(Step("create", path, inode))
        return inode

    def rewrite(self, path: Path) -> int:
        return self.handle(self._inode(path))

    def write(self, handle: int, data: memoryview) -> int:
        self.called("write")
        inode, at = self.open[handle]
        if handle in self.appending:
            at = len(inode.data)
        taken = bytes(data[: self.takes])
        self.put(inode, at, taken)
        self.open[handle] = (inode, at + len(taken))
        return len(taken)

    def put(self, inode: Inode, at: int, data: bytes) -> None:
        """Write, without a handle."""
        inode.data = _written(inode.data, at, data)
        self.steps.append(Step("write", inode=inode, data=data, offset=at))

    def truncate(self, handle: int, size: int) -> None:
        self.called("truncate")
        inode, _ = self.open[handle]
        inode.data = inode.data[:size].ljust(size, b"\0")
        self.steps.append(Step("truncate", inode=inode, offset=size))

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
        self._is_free(new)
        self.called("link")
        self.names[new] = inode
        self.steps.append(Step("link", new, inode))

    def replace(self, source: Path, target: Path) -> None:
        inode = self._inode(source)
        self._is_there(target.parent)
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
        self._is_there(path)
        self.called("fsync_directory")
        self.steps.append(Step("fsync_directory", path))

    @contextlib.contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        self._is_there(path)
        yield

    def hold(self, handle: int) -> bool:
        return True

    def let_go(self, handle: int) -> None:
        """Nobody else is there."""

    def own(self, path: Path, owner: bytes) -> int:
        self._is_there(path.parent)
        return self.handle(Inode())

    def _inode(self, path: Path) -> Inode:
        if path not in self.names:
            raise FileNotFoundError(path)
        return self.names[path]

    def _is_there(self, directory: Path) -> None:
        if directory not in self.directories:
            raise FileNotFoundError(directory)

    def _is_free(self, path: Path) -> None:
        self._is_there(path.parent)
        if path in self.names or path in self.directories:
            raise FileExistsError(path)


class AppendedFile(FileIO):
    """A file of the simulated disk as aiofiles takes it; of the real disk it only has the null device."""

    def __init__(self, disk: SimulatedDisk, handle: int) -> None:
        super().__init__(os.devnull)
        self._disk = disk
        self._handle = handle
        self._at = 0

    def fileno(self) -> int:
        return self._handle

    def write(self, data: Any) -> int:
        return self._disk.write(self._handle, memoryview(data))

    def seek(self, at: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        self._disk.called("read")
        data = self._disk.open[self._handle][0].data
        return data[self._at :][: len(data) if size is None or size < 0 else size]

    def truncate(self, size: int | None = None) -> int:
        assert size is not None
        self._disk.truncate(self._handle, size)
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._disk.close(self._handle)


def crash_states(disk: SimulatedDisk, steps: int) -> Iterator[Files]:
    """What may be on the disk when the power fails after so many steps; none of them twice."""
    names = dict(disk.before)
    all_directories = set(disk.directories.values())
    synced = dict(disk.durable)
    changes: list[Step] = []
    dirty: dict[Inode, list[Step]] = {}
    for step in disk.steps[:steps]:
        if step.what in ("write", "truncate"):
            dirty.setdefault(step.inode, []).append(step)
        elif step.what == "fsync":
            for write in dirty.pop(step.inode, []):
                synced[step.inode] = _changed(synced.get(step.inode, b""), write)
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
        lost = disk.directories.keys() - then.keys()
        then = {path: inode for path, inode in then.items() if inode not in all_directories}
        if lost:
            then = {path: inode for path, inode in then.items() if lost.isdisjoint(path.parents)}
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


def _changed(data: bytes, step: Step) -> bytes:
    if step.what == "truncate":
        return data[: step.offset].ljust(step.offset, b"\0")
    return _written(data, step.offset, step.data)


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
        earlier = _changed(earlier, write)
    found = dict.fromkeys([kept])
    for base in (kept, earlier):
        for parts in itertools.product(range(5), repeat=min(len(writes), _EVERY_WAY)):
            content = base
            for part, write in zip(parts, writes[-_EVERY_WAY:], strict=False):
                content = _torn(content, write, part)
            found[content] = None
    return list(found)


def _torn(content: bytes, write: Step, part: int) -> bytes:
    if write.what == "truncate":
        return _changed(content, write) if part == 4 else content
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

"""Disks on which a protocol does one thing wrong: a step is missing, or comes too early, or too late."""

from __future__ import annotations

from pathlib import Path

from tests.memory.disk.simulated_disk import Inode, SimulatedDisk

__all__ = ["WRONG_DISKS"]


class ForgetsToSyncFiles(SimulatedDisk):
    """Their content is never made durable."""

    def fsync(self, handle: int) -> None:
        """Forgotten."""


class ForgetsToSyncDirectories(SimulatedDisk):
    """Their names are never made durable."""

    def fsync_directory(self, path: Path) -> None:
        """Forgotten."""


class ForgetsToSyncMadeDirectories(SimulatedDisk):
    """The names of directories are never made durable, and with them goes what is in them."""

    def fsync_directory(self, path: Path) -> None:
        if not any(directory.parent == path for directory in self.directories if directory != path):
            super().fsync_directory(path)


class SyncsAfterTheAnswer(SimulatedDisk):
    """What should be durable now becomes so with the next sync of another."""

    late: int | None = None

    def fsync(self, handle: int) -> None:
        late, self.late = self.late, handle
        if late in self.open and late is not None:
            super().fsync(late)


class SyncsDirectoriesAfterTheAnswer(SimulatedDisk):
    """The names become durable before the next change."""

    late: Path | None = None

    def called(self, what: str) -> None:
        late, self.late = self.late, None
        if late is not None and what != "fsync_directory":
            super().fsync_directory(late)
        super().called(what)

    def fsync_directory(self, path: Path) -> None:
        self.late = path


class RenamesBeforeTheSync(SimulatedDisk):
    """The new name is durable before the content is."""

    def __init__(self, files: dict[Path, bytes] | None = None, *, takes: int = 500) -> None:
        super().__init__(files, takes=takes)
        self.late: list[Inode] = []

    def fsync(self, handle: int) -> None:
        self.late.append(self.open[handle][0])

    def sync_data(self, handle: int) -> None:
        super().fsync(handle)

    def fsync_directory(self, path: Path) -> None:
        super().fsync_directory(path)
        late, self.late = self.late, []
        for inode in late:
            super().fsync(self.handle(inode))


class SyncsBeforeItWrites(SimulatedDisk):
    """In the wrong order."""

    def create(self, path: Path) -> int:
        handle = super().create(path)
        super().fsync(handle)
        return handle

    def fsync(self, handle: int) -> None:
        """Done too early."""


class SyncsTheDirectoryBeforeItRenames(SimulatedDisk):
    """In the wrong order."""

    def replace(self, source: Path, target: Path) -> None:
        super().fsync_directory(target.parent)
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        super().fsync_directory(path.parent)
        super().unlink(path)

    def fsync_directory(self, path: Path) -> None:
        """Done too early."""


class RemovesTheTargetFirst(SimulatedDisk):
    """For an instant nothing has the name."""

    def replace(self, source: Path, target: Path) -> None:
        if target in self.names:
            self.unlink(target)
            super().fsync_directory(target.parent)
        super().replace(source, target)


class OverwritesTheTarget(SimulatedDisk):
    """Where something has the name, its content is written over."""

    def replace(self, source: Path, target: Path) -> None:
        if target not in self.names:
            super().replace(source, target)
            return
        inode, data = self.names[target], self.names[source].data
        data = data.ljust(len(inode.data))
        for at in range(0, len(data), self.takes):
            self.put(inode, at, data[at : at + self.takes])
        super().fsync(self.handle(inode))
        self.unlink(source)


class CopiesInsteadOfRenaming(SimulatedDisk):
    """The copy has another file, which nobody syncs."""

    def replace(self, source: Path, target: Path) -> None:
        data = self.names[source].data
        self.unlink(source)
        if target in self.names:
            self.unlink(target)
        inode, _ = self.open[self.create(target)]
        self.put(inode, 0, data)


class TakesShortWritesForWhole(SimulatedDisk):
    """Half of what was not taken at once is missing."""

    def write(self, handle: int, data: memoryview) -> int:
        super().write(handle, data[: len(data) // 2] if len(data) > 64 else data)
        return len(data)


WRONG_DISKS: list[type[SimulatedDisk]] = [
    ForgetsToSyncFiles,
    ForgetsToSyncDirectories,
    ForgetsToSyncMadeDirectories,
    SyncsAfterTheAnswer,
    SyncsDirectoriesAfterTheAnswer,
    RenamesBeforeTheSync,
    SyncsBeforeItWrites,
    SyncsTheDirectoryBeforeItRenames,
    RemovesTheTargetFirst,
    OverwritesTheTarget,
    CopiesInsteadOfRenaming,
    TakesShortWritesForWhole,
]
"""What any protocol of files and names can do wrong."""

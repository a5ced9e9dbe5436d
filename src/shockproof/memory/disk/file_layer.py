"""
The few things asked of a file system: one small interface, so that a simulated disk can take its place.

State, journal, halt and error log reach their files through it, and through nothing else. Everything here
blocks, and belongs in the writer's thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager
from io import BufferedIOBase, BufferedReader, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING or sys.platform != "win32":
    import fcntl

__all__ = ["PATIENCE", "SYSTEM_FILES", "FileLayer", "FileStamp", "NotAFileError", "SystemFiles", "write_all"]


PATIENCE: Final = 10.0
"""Seconds for which another writer is waited for, and a disk by what could go on without it."""

_CANNOT: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says to what it never does for anybody: FUSE and network shares, mostly."""

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF, errno.ENOSYS)
"""What some network file systems say to every lock."""


class NotAFileError(OSError):
    """What has the name is there and no regular file: a directory, a pipe, a loop of symbolic links."""


class FileStamp(NamedTuple):
    """What tells whether somebody has written a file, or put another in its place."""

    size: int
    changed_at: int
    """When its content was written last, in nanoseconds of the file system's clock."""
    number: int


class FileLayer(Protocol):
    """What durable files need of a file system. Every method blocks and raises OSError."""

    def is_directory(self, path: Path) -> bool:
        """Whether a directory has that name."""
        ...

    def make_directory(self, path: Path) -> None:
        """
        Make the directory *path* in one that is there.

        Raises:
            FileExistsError: something has that name.
        """
        ...

    def list_directory(self, path: Path) -> list[str]:
        """The names in *path*."""
        ...

    def is_writable(self, path: Path) -> bool:
        """Whether this user may make files in the directory *path*."""
        ...

    def read(self, path: Path, limit: int) -> bytes:
        """
        The first *limit* bytes of the file, or all when it is shorter.

        Raises:
            NotAFileError: it is none. A pipe would hold the reader until somebody writes.
            FileNotFoundError: nothing has that name.
        """
        ...

    def stamp(self, path: Path, *, follow_links: bool = True) -> FileStamp:
        """
        Size, time and number of the file.

        Raises:
            NotAFileError: it is none; without *follow_links*, nor is a symbolic link.
            FileNotFoundError: nothing has that name.
        """
        ...

    def born_at(self, path: Path) -> int | None:
        """
        When the file was made, in nanoseconds of the file system's clock; None: it does not tell, or there is no such file.

        No copy takes that along, and neither a rename, nor a new owner, nor a hard link changes it.
        """
        ...

    def open_to_read(self, path: Path) -> BufferedIOBase:
        """
        The file from its beginning; to be closed by the caller.

        Raises:
            NotAFileError: it is none.
            FileNotFoundError: nothing has that name.
        """
        ...

    def open_to_append(self, path: Path) -> FileIO:
        """
        A file to read, and to write to at its end, wherever others have moved that; made if it is missing.

        One call writes one piece. A new file is readable by its owner only. ``fileno()`` is a handle, for
        as long as the file is open.

        Raises:
            FileNotFoundError: its directory is missing.
        """
        ...

    def create(self, path: Path) -> int:
        """A handle to write to a file that did not exist, readable by its owner only."""
        ...

    def write(self, handle: int, data: memoryview) -> int:
        """How many bytes of *data* were taken: at least one, maybe not all."""
        ...

    def fsync(self, handle: int) -> None:
        """Return when the file's content survives a power cut. Never tried again after an error."""
        ...

    def sync_data(self, handle: int) -> None:
        """
        `fsync` without what only tells when the file was changed; faster where the size stays.

        Raises:
            FileNotFoundError: the file has lost its name meanwhile; nobody can find it after a crash.
        """
        ...

    def preallocate(self, handle: int, size: int) -> None:
        """Have *size* bytes of disk for the file, zeros so far, without moving where the next write goes."""
        ...

    def size(self, handle: int) -> int:
        """How many bytes the file has."""
        ...

    def leads_to(self, path: Path, handle: int) -> bool:
        """Whether *path* still names the file of *handle*; a directory above it may have been moved."""
        ...

    def rewrite(self, path: Path) -> int:
        """A handle to write to an existing file from its beginning, in the space that it has."""
        ...

    def close(self, handle: int) -> None:
        """Close the handle; a write error may only show here."""
        ...

    def link(self, existing: Path, new: Path) -> None:
        """Give the file *existing* a second name that was free."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename *source* to *target*, over whatever has that name; readers see one or the other."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove the name *path*."""
        ...

    def fsync_directory(self, path: Path) -> None:
        """Return when the names in *path* survive a power cut."""
        ...

    def locked(self, path: Path) -> AbstractContextManager[None]:
        """Hold the directory *path* against other writers, threads and processes alike."""
        ...

    def hold(self, handle: int) -> bool:
        """
        Hold the open file against other writers that ask for it, threads and processes alike, until `let_go` or the end of the process.

        False: another one holds it. Never waits for that one. True also where the file system has no locks.
        """
        ...

    def let_go(self, handle: int) -> None:
        """Give the file to the next one that asks to `hold` it."""
        ...

    def own(self, path: Path, owner: bytes) -> int:
        """
        Own the lock file *path* until the handle is closed or the process ends, and write *owner* into it.

        Raises:
            BlockingIOError: it has another owner; never waits for that one.
            OSError: it cannot be made, or is a symbolic link, whose target is left alone.
        """
        ...


class SystemFiles:
    """
    The real file system.

    ``lock_timeout`` is how long `locked` waits for another writer, in seconds, before it raises
    BlockingIOError.
    """

    def __init__(self, lock_timeout: float = PATIENCE) -> None:
        self._lock_timeout = lock_timeout

    def is_directory(self, path: Path) -> bool:
        return path.is_dir()

    def make_directory(self, path: Path) -> None:
        path.mkdir()

    def list_directory(self, path: Path) -> list[str]:
        return os.listdir(path)  # noqa: PTH208 - names are wanted, not paths

    def read(self, path: Path, limit: int) -> bytes:
        with _open_regular(path) as file:
            # In one go where that is possible: joining large pieces holds up every thread.
            expected = os.fstat(file.fileno()).st_size + 1
            pieces: list[bytes] = []
            while limit > 0 and (piece := file.read(min(limit, max(expected, 1 << 16)))):
                pieces.append(piece)
                limit -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def is_writable(self, path: Path) -> bool:
        return os.access(path, os.W_OK | os.X_OK)

    def stamp(self, path: Path, *, follow_links: bool = True) -> FileStamp:
        found = path.stat(follow_symlinks=follow_links)
        if not stat.S_ISREG(found.st_mode):
            raise NotAFileError(errno.EINVAL, "it is no regular file", str(path))
        return FileStamp(found.st_size, found.st_mtime_ns, found.st_ino)

    def born_at(self, path: Path) -> int | None:
        if sys.platform == "linux":
            # Only the journal asks, and what it takes to ask is long to import.
            from shockproof.memory.disk.birth_time import told_by_statx

            return told_by_statx(path)
        else:
            try:
                born: float | None = getattr(path.stat(), "st_birthtime", None)
            except OSError:
                return None
            return None if born is None else int(born * 1e9)

    def open_to_read(self, path: Path) -> BufferedIOBase:
        return BufferedReader(_open_regular(path))

    def open_to_append(self, path: Path) -> FileIO:
        return FileIO(path, "a+", opener=_open_for_owner)

    def create(self, path: Path) -> int:
        flags = (
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        )
        return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)

    def write(self, handle: int, data: memoryview) -> int:
        return os.write(handle, data)

    def fsync(self, handle: int) -> None:
        if sys.platform == "darwin":
            # There, fsync reaches the drive and not the platter.
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        else:
            os.fsync(handle)

    def sync_data(self, handle: int) -> None:
        if sys.platform == "linux":
            os.fdatasync(handle)
        else:
            self.fsync(handle)
        if not os.fstat(handle).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "the file was removed while it was written")

    def preallocate(self, handle: int, size: int) -> None:
        if not hasattr(os, "posix_fallocate"):
            return  # macOS, Windows: the file grows as it is written
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def leads_to(self, path: Path, handle: int) -> bool:
        if sys.platform == "win32":
            return True  # no directory is moved there that holds an open file
        try:
            return os.path.samestat(path.stat(), os.fstat(handle))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def rewrite(self, path: Path) -> int:
        return os.open(
            path,
            os.O_WRONLY
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_CLOEXEC", 0)
            | getattr(os, "O_BINARY", 0),
        )

    def close(self, handle: int) -> None:
        os.close(handle)

    def link(self, existing: Path, new: Path) -> None:
        new.hardlink_to(existing)

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def fsync_directory(self, path: Path) -> None:
        if sys.platform == "win32":
            return  # no such call there: the file system journals its names
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def locked(self, path: Path) -> Generator[None]:
        if sys.platform == "win32":
            yield  # two writers may interleave there; each file is still replaced whole
            return
        # The lock sits on the directory itself: no lock file to leave behind, and the kernel drops it
        # when its owner dies.
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._lock(handle, path)
            yield
        finally:
            os.close(handle)

    def hold(self, handle: int) -> bool:
        if sys.platform != "win32":
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        return True

    def let_go(self, handle: int) -> None:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # there are none here, or no file any more
                fcntl.flock(handle, fcntl.LOCK_UN)

    def own(self, path: Path, owner: bytes) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            handle = os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno != errno.ELOOP or not path.is_symlink():
                raise
            raise OSError(
                error.errno, "it is a symbolic link, whose target is left alone: remove it", str(path)
            ) from None
        try:
            if sys.platform != "win32":
                # flock and not lockf: its lock ends with this handle, and not with any other of the file.
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, 0)
            os.write(handle, owner)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _lock(self, handle: int, path: Path) -> None:
        if sys.platform == "win32":
            return
        give_up_at = time.monotonic() + self._lock_timeout
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= give_up_at:
                    raise BlockingIOError(
                        errno.EAGAIN,
                        f"another writer has held this directory for {self._lock_timeout:g} s",
                        str(path),
                    ) from None
                time.sleep(0.005)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return  # some network file systems have no locks: as on Windows, above
                raise


def _open_regular(path: Path) -> FileIO:
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except OSError as error:
        # A socket; symbolic links in a circle; on Windows, a directory.
        if error.errno in (errno.ENXIO, errno.ELOOP) or (sys.platform == "win32" and path.is_dir()):
            raise NotAFileError(
                error.errno, f"it is no regular file ({error.strerror})", str(path)
            ) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotAFileError(errno.EINVAL, "it is no regular file", str(path))
    return FileIO(handle, "rb")


def _open_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)


SYSTEM_FILES: Final = SystemFiles()
"""For who asks nothing of the lock."""


def write_all(layer: FileLayer, handle: int, data: bytes) -> None:
    """Write all of *data*, in as few calls as the disk allows."""
    rest = memoryview(data)
    while rest:
        rest = rest[layer.write(handle, rest) :]

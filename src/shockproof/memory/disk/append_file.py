"""
A file that several processes append whole lines to, and that may vanish, be replaced or be full at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shockproof.memory.disk import writer as background
from shockproof.memory.disk.directory import make_durable
from shockproof.memory.disk.file_layer import SYSTEM_FILES, FileLayer
from shockproof.memory.disk.writer import DiskThread

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncFileIO

__all__ = ["AppendFile"]

_LOOKS: Final = 10
_BETWEEN_LOOKS: Final = 0.002


class AppendFile:
    """
    One open file, for the coroutines of a private loop; every system call is made by the disk's thread.

    Reading and writing are aiofiles', with that thread as its executor. What it has not, and what must not be interrupted by
    another's turn, is a function that the thread runs in one go.

    Opened unbuffered with O_APPEND, so that one call appends one batch at the end, wherever other
    processes have moved it. New files are readable by their owner only; missing directories are made.
    """

    def __init__(self, path: Path, disk: DiskThread, layer: FileLayer = SYSTEM_FILES) -> None:
        self.path = path
        self.size = 0
        """Of the file when last looked at, plus what was written since."""
        self._disk = disk
        self._layer = layer
        self._raw: FileIO | None = None
        self._file: AsyncFileIO | None = None
        """The same, through aiofiles."""
        self._has_durable_name = False
        self._must_look = True
        self._needs_newline = False

    async def prepare(self) -> None:
        """
        Make the next `append` go to the file that has the path now, at the beginning of a line.

        Raises:
            OSError: the disk refuses.
        """
        loop = asyncio.get_running_loop()
        if self._file is not None and not await loop.run_in_executor(self._disk, self._is_current):
            await self.close()
        if self._file is None:
            await self._open()
        if self._must_look:
            await self._look_at_ending()

    async def append(self, lines: bytes) -> tuple[int, OSError | None]:
        """
        Append whole lines in one call to the operating system, or in as few as it allows.

        Returns how many bytes of whole lines are in the file now, and what stopped it. A line that
        only fitted in part is taken back, so that what others append does not end up in it; if that
        fails too, the next `prepare` ends it by a newline.
        """
        assert self._file is not None  # prepare came before
        rest = memoryview(lines)
        try:
            if self._needs_newline:
                await self._file.write(b"\n")
                self._needs_newline = False
            while rest:
                written = await self._file.write(rest)
                self.size += written
                rest = rest[written:]
        except OSError as error:
            done = len(lines) - len(rest)
            whole = lines.rfind(b"\n", 0, done) + 1
            self._must_look = True
            if whole < done:
                with contextlib.suppress(OSError):
                    await asyncio.get_running_loop().run_in_executor(
                        self._disk, self._take_back, lines[whole:done]
                    )
            return whole, error
        return len(lines), None

    async def sync(self) -> None:
        """Have the disk make durable what was appended, and the name of the file."""
        if self._file is not None:
            await asyncio.get_running_loop().run_in_executor(self._disk, self._sync)

    async def close(self) -> None:
        """Close the file; the next `prepare` opens it again."""
        file, self._file, self._raw = self._file, None, None
        if file is not None:
            with contextlib.suppress(OSError):  # what was appended has left our hands long ago
                await file.close()

    def leave_to_parent(self) -> object:
        """In a forked child: give up the open file without closing what belongs to another loop."""
        file, self._file, self._raw = self._file, None, None
        return file

    async def _open(self) -> None:
        with background.imports:
            from aiofiles.threadpool import wrap

        loop = asyncio.get_running_loop()
        self._raw = raw = await loop.run_in_executor(self._disk, self._opened)
        self._file = wrap(raw, loop=loop, executor=self._disk)
        self._must_look, self._has_durable_name = True, False

    def _opened(self) -> FileIO:
        try:
            return self._layer.open_to_append(self.path)
        except FileNotFoundError:
            make_durable(self._layer, self.path.parent)
            return self._layer.open_to_append(self.path)

    def _sync(self) -> None:
        assert self._raw is not None  # only called while it is open
        self._layer.fsync(self._raw.fileno())
        if not self._has_durable_name:
            make_durable(self._layer, self.path.parent)
            self._layer.fsync_directory(self.path.parent)
            self._has_durable_name = True

    def _is_current(self) -> bool:
        assert self._raw is not None  # only called while it is open
        try:
            return self._layer.leads_to(self.path, self._raw.fileno())
        except OSError:
            return False

    async def _look_at_ending(self) -> None:
        assert self._file is not None  # only called while it is open
        assert self._raw is not None  # as above
        file, handle = self._file, self._raw.fileno()
        loop = asyncio.get_running_loop()
        for look in range(_LOOKS):
            if look:
                # Another process may be in the middle of an append, of which a part shows already.
                await asyncio.sleep(_BETWEEN_LOOKS)
            self.size = await loop.run_in_executor(self._disk, self._layer.size, handle)
            self._needs_newline = False
            if self.size:
                try:
                    await file.seek(self.size - 1)
                    self._needs_newline = await file.read(1) != b"\n"
                except OSError:
                    self._needs_newline = (
                        True  # an empty line hurts nobody, one torn by two records loses both
                    )
            if not self._needs_newline:
                break
        self._must_look = False

    def _take_back(self, fragment: bytes) -> None:
        # In one go: what another process appends between the look and the cut would be cut off.
        assert self._raw is not None  # only called while it is open
        size = self._layer.size(self._raw.fileno())
        self._raw.seek(max(size - len(fragment), 0))
        if self._raw.read(len(fragment)) == fragment:
            self._raw.truncate(size - len(fragment))

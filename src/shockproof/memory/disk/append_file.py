"""
A file that several processes append whole lines to, and that may vanish, be replaced or be full at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shockproof.memory.disk import writer as background
from shockproof.memory.disk.file_layer import SYSTEM_FILES, FileLayer
from shockproof.memory.disk.line_file import LineFile
from shockproof.memory.disk.writer import DiskThread

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedIOBase

__all__ = ["AppendFile"]

_BETWEEN_LOOKS: Final = 0.002


class AppendFile:
    """
    One open file, for the coroutines of a private loop; every system call is made by the disk's thread.

    aiofiles hands what is written to that thread, its executor, where a `LineFile` looks, appends and takes back in
    one go. New files are readable by their owner only; missing directories are made.
    """

    def __init__(self, path: Path, disk: DiskThread, layer: FileLayer = SYSTEM_FILES) -> None:
        self.path = path
        self._disk = disk
        self._lines = LineFile(path, layer)
        self._file: AsyncBufferedIOBase | None = None
        """The same, through aiofiles."""

    @property
    def size(self) -> int:
        """Of the file when last looked at, plus what was written since."""
        return self._lines.size

    async def prepare(self) -> None:
        """
        Open the file, unless it is open.

        Raises:
            OSError: the disk refuses.
        """
        if self._file is not None:
            return
        with background.imports:
            from aiofiles.threadpool import wrap

        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._disk, self._lines.open)
        self._file = wrap(self._lines, loop=loop, executor=self._disk)

    async def append(self, lines: bytes) -> tuple[int, OSError | None]:
        """
        Append whole lines to the file that has the path now, in one call to the operating system or in as few as it allows.

        Returns how many bytes of whole lines are in the file now, and what stopped it, as `LineFile.write`
        says. For a process that is in the middle of an append it waits, a moment, while the disk's thread serves others.
        """
        assert self._file is not None  # prepare came before
        while True:
            done = await self._file.write(lines)
            error = self._lines.stopped_by
            if done or error is not None:
                return done, error
            await asyncio.sleep(_BETWEEN_LOOKS)

    async def sync(self) -> None:
        """Have the disk make durable what was appended, and the name of the file."""
        if self._file is not None:
            await asyncio.get_running_loop().run_in_executor(self._disk, self._lines.sync)

    async def close(self) -> None:
        """Close the file; the next `prepare` opens it again."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what was appended has left our hands long ago
                await file.close()

    def leave_to_parent(self) -> object:
        """In a forked child: give up the open file without closing what belongs to another loop."""
        return self._file, self._lines

"""Reading what may be long, with a progress bar: an error log, the files of a state, a journal."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shockproof.command_line.progress import Advance, progress
from shockproof.memory.disk.file_layer import FileLayer, SystemFiles
from shockproof.memory.error_log.error_reading import ErrorReading

if TYPE_CHECKING:
    from shockproof.vocabulary.models import ErrorRecord

__all__ = ["files_with_progress", "nothing_first", "with_progress"]

_EVERY: Final = 500
_SHORT: Final = 32 << 20
"""Bytes that are read before a bar is there."""


async def with_progress(reading: ErrorReading, advance: Advance) -> AsyncIterator[ErrorRecord]:
    """The records of *reading*, while the bar is told how far it is."""
    number = 0
    async for record in reading:
        number += 1
        if number % _EVERY == 0:
            advance(reading.bytes_read, reading.bytes_to_read)
        yield record


async def nothing_first() -> None:
    """Nothing of this process has to be written before the log is read."""


@contextlib.contextmanager
def files_with_progress(directory: Path) -> Generator[FileLayer]:
    """The disk, with a bar that knows how much of the files of *directory* was read; none where that is little."""
    total = _bytes_in(directory)
    if total < _SHORT:
        yield SystemFiles()
        return
    with progress(f"reading {directory}") as advance:
        yield _Told(total, advance)


class _Told(SystemFiles):
    """Tells the bar of each file when it begins and when it was read."""

    def __init__(self, total: int, advance: Advance) -> None:
        super().__init__()
        self._done, self._total = 0, total
        self._advance = advance
        advance(0, total)

    def read(self, path: Path, limit: int) -> bytes:
        data = super().read(path, limit)
        self._done += len(data)
        self._advance(self._done, max(self._total, self._done))  # a program that runs may have added to them
        return data


def _bytes_in(directory: Path) -> int:
    """Of the files right in it; 0 where that cannot be known, as whoever reads them will say why."""
    try:
        found = [entry.stat(follow_symlinks=False) for entry in os.scandir(directory)]
    except OSError:
        return 0
    return sum(one.st_size for one in found if stat.S_ISREG(one.st_mode))

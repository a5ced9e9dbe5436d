"""What is recorded while the interpreter is taken down: no thread gets it any more, and no module can be loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Final

from shockproof.memory.disk.file_layer import FileLayer
from shockproof.memory.disk.line_file import LineFile
from shockproof.memory.error_log.bounded_queue import Gap
from shockproof.memory.error_log.capture import CapturedError
from shockproof.memory.error_log.error_files import error_files, file_name
from shockproof.memory.error_log.json_line import add_line

__all__ = ["LastLines"]

_BETWEEN_LOOKS: Final = 0.002


class LastLines:
    """
    Writes records in the thread that hands them in, as finalizers of a module's objects do: nothing else runs any more.

    To be made when the program ends, as long as there is something to import.
    """

    def __init__(self, directory: Path, day_of: Callable[[float], date], layer: FileLayer) -> None:
        self._directory = directory
        self._day_of = day_of
        self._layer = layer

    def write(self, entries: Iterable[CapturedError | Gap]) -> int:
        """
        Append each to the file of its day; blocks. Returns how many.

        Raises:
            OSError: the disk refuses, or another process holds the file.
        """
        number = 0
        for entry in entries:
            day = self._day_of(entry.begins if isinstance(entry, Gap) else entry.timestamp)
            parts = error_files(self._directory, first=day, last=day, layer=self._layer)
            part = max((file.part for file in parts), default=0)
            pieces: list[bytes] = []
            add_line(entry, pieces)
            with LineFile(self._directory / file_name(day, part), self._layer) as file:
                _append(file, b"".join(pieces))
            number += 1
        return number


def _append(file: LineFile, lines: bytes) -> None:
    while not file.write(lines):
        if file.stopped_by is not None:
            raise file.stopped_by
        time.sleep(_BETWEEN_LOOKS)

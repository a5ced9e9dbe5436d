"""
Small files that know which file they were written to: a copy stands in another one, and is told from them by that.
"""

from __future__ import annotations

import contextlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from shockproof.memory.disk.file_layer import FileLayer, write_all

__all__ = ["OwnFile", "are_others", "read_own_file", "write_own_file"]

_MOST_BYTES: Final = 1 << 16
_RACES: Final = 5

File: TypeAlias = tuple[int | None, int | None]
"""The number of a file, and when it was made, nanoseconds since 1970; None: not known."""


class OwnFile(NamedTuple):
    """What such a file holds, and where."""

    content: dict[str, Any]  # Any: numbers and texts
    written_to: File
    here: File

    @property
    def is_copied(self) -> bool:
        """Whether it was read from another file than the one that it was written to, as far as numbers tell."""
        return are_others(self.written_to, self.here)

    @property
    def is_surely_copied(self) -> bool:
        """As that, and by when both were made: some file systems give files other numbers each time they are mounted."""
        born, born_here = self.written_to[1], self.here[1]
        return None not in {born, born_here} and born != born_here


def are_others(told: File, here: File) -> bool:
    """Whether these are two files, as far as what is known of both tells."""
    (number, born), (number_here, born_here) = told, here
    if number is not None and number != number_here:
        return True
    return born is not None and born_here is not None and born != born_here


def _file_at(layer: FileLayer, path: Path) -> File:
    # Windows gives a file that takes the name of another one the birth of that one.
    return layer.stamp(path).number, None if sys.platform == "win32" else layer.born_at(path)


def read_own_file(layer: FileLayer, path: Path, format_version: int) -> OwnFile | None:
    """
    What stands there; None: what is there is damaged, or a newer program's.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    file, read = _file_at(layer, path), layer.read(path, _MOST_BYTES)
    for _ in range(_RACES):  # its owner replaces it meanwhile
        if (read_from := _file_at(layer, path)) == file:
            break
        file, read = read_from, layer.read(path, _MOST_BYTES)
    try:
        content = json.loads(read)
        checksum = content.pop("checksum")
        if checksum != _checksum(content) or content["format_version"] != format_version:
            return None
        return OwnFile(content, (content.get("file"), content.get("file_born")), file)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write_own_file(
    layer: FileLayer,
    path: Path,
    content: dict[str, Any],  # Any: numbers and texts
    *,
    temporary: str,
    instead: bool = True,
) -> None:
    """
    Put *content* there, durably, by way of a file named *temporary* beside it, which a crash may leave.

    With *instead* in place of what is there; without, only where nothing is, however many do so at the same time.

    Raises:
        FileExistsError: something is there.
        OSError: the disk refuses.
    """
    beside = path.with_name(temporary)
    try:
        handle = layer.create(beside)
    except FileExistsError:  # a crash has left it
        layer.unlink(beside)
        handle = layer.create(beside)
    try:
        try:
            number, born = _file_at(layer, beside)
            told = {**content, "file": number, "file_born": born}
            told["checksum"] = _checksum(told)
            write_all(layer, handle, (json.dumps(told, indent=2) + "\n").encode())
            layer.fsync(handle)
        finally:
            layer.close(handle)
        if instead:
            layer.replace(beside, path)
        else:
            _name_a_second_time(layer, beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            layer.unlink(beside)
        raise
    layer.fsync_directory(path.parent)


def _name_a_second_time(layer: FileLayer, beside: Path, path: Path) -> None:
    try:
        layer.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here: of two at the same instant, the later one's stays
        layer.replace(beside, path)
    else:
        layer.unlink(beside)


def _checksum(content: dict[str, Any]) -> int:  # Any: as above
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())

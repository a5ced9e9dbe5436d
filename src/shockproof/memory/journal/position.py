"""
How far a journal has come, told beside its directory: ``journal_position.json``.

A journal that was removed, one whose end was overwritten with zeros, and an older copy in its place look like sound ones.
What is outside of the directory, and was written later, tells them from those. It is never ahead of what is durable,
so no crash makes it tell of a loss; and a journal without one, as an older shockproof leaves it, is taken as it is.

It knows which file it was written to. One that stands in another file was copied: with the lock beside it, which a copy of
the whole directory does not keep, that is a copy that was put over the original.

It is a file of its own, and not a part of a segment's head: whatever a crash makes of it, the segment stays whole.
"""

from __future__ import annotations

import contextlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from shockproof.memory.disk.file_layer import FileLayer, write_all

__all__ = ["Position", "forget_position", "position_path", "read_position", "write_position"]

_FORMAT_VERSION: Final = 1
_MOST_BYTES: Final = 4096
_RACES: Final = 5


class Position(NamedTuple):
    """What was durable, at least."""

    segment: int
    sequence: int
    """Of the last record."""
    lock: int | None = None
    """The number that the file system has given to the lock file: in a copy it is another one. None: not known."""
    born: int | None = None
    """When that file was made, nanoseconds since 1970: one that got the number of a removed one is younger. None: not known."""
    is_copied: bool = False
    """Whether it was read from another file than the one that it was written to, as far as numbers tell."""
    is_surely_copied: bool = False
    """As that, and by when both were made: some file systems give files other numbers each time they are mounted."""

    def is_of_another(self, here: Position) -> bool:
        """Whether it was told of another lock file than the one that is there now, as *here* tells."""
        return _differ((self.lock, self.born), (here.lock, here.born))

    def was_put_over(self, here: Position) -> bool:
        """Whether it is a copy, in the very directory that it was told of: what was there came later."""
        is_here = self.lock is not None and self.lock == here.lock
        return self.is_surely_copied and is_here and self.born is not None and self.born == here.born


_File: TypeAlias = tuple[int | None, int | None]
"""The number of a file, and when it was made."""


def _differ(told: _File, here: _File) -> bool:
    (number, born), (number_here, born_here) = told, here
    if number is not None and number != number_here:
        return True
    return born is not None and born_here is not None and born != born_here


def _file_at(layer: FileLayer, path: Path) -> _File:
    # Windows gives a file that takes the name of another one the birth of that one.
    return layer.stamp(path).number, None if sys.platform == "win32" else layer.born_at(path)


def position_path(directory: Path) -> Path:
    """Where the position of the journal in *directory* stands."""
    return directory.with_name(f"{directory.name}_position.json")


def read_position(layer: FileLayer, directory: Path) -> Position | None:
    """How far it had come, at least; None: nobody knows, for the file is missing, damaged, or a newer program's."""
    path = position_path(directory)
    try:
        file, read = _file_at(layer, path), layer.read(path, _MOST_BYTES)
        for _ in range(_RACES):  # its owner replaces it meanwhile
            if (read_from := _file_at(layer, path)) == file:
                break
            file, read = read_from, layer.read(path, _MOST_BYTES)
        content = json.loads(read)
        checksum = content.pop("checksum")
        if checksum != _checksum(content) or content["format_version"] != _FORMAT_VERSION:
            return None
        written_to: _File = content.get("file"), content.get("file_born")
        return Position(
            int(content["segment"]),
            int(content["sequence"]),
            content["lock"],
            content.get("born"),
            is_copied=_differ(written_to, file),
            is_surely_copied=None not in {written_to[1], file[1]} and written_to[1] != file[1],
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write_position(layer: FileLayer, directory: Path, position: Position) -> None:
    """Replace it, durably; who calls this owns the journal. Raises OSError."""
    path = position_path(directory)
    # Not `replace_durably`, which needs the lock of the directory: the state may hold it for seconds.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        handle = layer.create(temporary)
    except FileExistsError:  # a crash has left it
        layer.unlink(temporary)
        handle = layer.create(temporary)
    try:
        try:
            number, born = _file_at(layer, temporary)
            content: dict[str, Any] = {  # Any: numbers
                "format_version": _FORMAT_VERSION,
                "segment": position.segment,
                "sequence": position.sequence,
                "lock": position.lock,
                "born": position.born,
                "file": number,
                "file_born": born,
            }
            content["checksum"] = _checksum(content)
            write_all(layer, handle, (json.dumps(content, indent=2) + "\n").encode())
            layer.fsync(handle)
        finally:
            layer.close(handle)
        layer.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            layer.unlink(temporary)
        raise
    layer.fsync_directory(path.parent)


def forget_position(layer: FileLayer, directory: Path) -> None:
    """Whatever is found there counts as all there is; who calls this owns the journal, if there is one. Raises OSError."""
    path = position_path(directory)
    with contextlib.suppress(FileNotFoundError):
        layer.unlink(path)
        layer.fsync_directory(path.parent)


def _checksum(content: dict[str, Any]) -> int:  # Any: numbers
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())

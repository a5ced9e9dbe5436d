"""
How far a journal has come, told beside its directory: ``journal_position.json``.

A journal that was removed, one whose end was overwritten with zeros, and an older copy in its place look like sound ones.
What is outside of the directory, and was written later, tells them from those. It is never ahead of what is durable,
so no crash makes it tell of a loss; and a journal without one, as an older shockproof leaves it, is taken as it is.

It is a file of its own, and not a part of a segment's head: whatever a crash makes of it, the segment stays whole.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple

from shockproof.memory.disk.file_layer import FileLayer, write_all

__all__ = ["Position", "forget_position", "position_path", "read_position", "write_position"]

_FORMAT_VERSION: Final = 1
_MOST_BYTES: Final = 4096


class Position(NamedTuple):
    """What was durable, at least."""

    segment: int
    sequence: int
    """Of the last record."""
    lock: int | None = None
    """The number that the file system has given to the lock file: in a copy it is another one. None: not known."""
    born: int | None = None
    """When that file was made, nanoseconds since 1970: one that got the number of a removed one is younger. None: not known."""

    def is_of_another(self, here: Position) -> bool:
        """Whether it was told of another lock file than the one that is there now, as *here* tells."""
        if self.lock is not None and self.lock != here.lock:
            return True
        return self.born is not None and here.born is not None and self.born != here.born


def position_path(directory: Path) -> Path:
    """Where the position of the journal in *directory* stands."""
    return directory.with_name(f"{directory.name}_position.json")


def read_position(layer: FileLayer, directory: Path) -> Position | None:
    """How far it had come, at least; None: nobody knows, for the file is missing, damaged, or a newer program's."""
    try:
        content = json.loads(layer.read(position_path(directory), _MOST_BYTES))
        checksum = content.pop("checksum")
        if checksum != _checksum(content) or content["format_version"] != _FORMAT_VERSION:
            return None
        return Position(
            int(content["segment"]), int(content["sequence"]), content["lock"], content.get("born")
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write_position(layer: FileLayer, directory: Path, position: Position) -> None:
    """Replace it, durably; who calls this owns the journal. Raises OSError."""
    path = position_path(directory)
    # Not `replace_durably`, which needs the lock of the directory: the state may hold it for seconds.
    temporary = path.with_name(f".{path.name}.tmp")
    content: dict[str, Any] = {"format_version": _FORMAT_VERSION, **position._asdict()}  # Any: numbers
    content["checksum"] = _checksum(content)
    try:
        handle = layer.create(temporary)
    except FileExistsError:  # a crash has left it
        layer.unlink(temporary)
        handle = layer.create(temporary)
    try:
        try:
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

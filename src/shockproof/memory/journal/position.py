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
from pathlib import Path
from typing import Final, NamedTuple

from shockproof.memory.disk.file_layer import FileLayer
from shockproof.memory.journal.own_file import are_others, read_own_file, write_own_file

__all__ = ["Position", "forget_position", "position_path", "read_position", "write_position"]

_FORMAT_VERSION: Final = 1


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
        return are_others((self.lock, self.born), (here.lock, here.born))

    def was_put_over(self, here: Position) -> bool:
        """Whether it is a copy, in the very directory that it was told of: what was there came later."""
        is_here = self.lock is not None and self.lock == here.lock
        return self.is_surely_copied and is_here and self.born is not None and self.born == here.born


def position_path(directory: Path) -> Path:
    """Where the position of the journal in *directory* stands."""
    return directory.with_name(f"{directory.name}_position.json")


def read_position(layer: FileLayer, directory: Path) -> Position | None:
    """How far it had come, at least; None: nobody knows, for the file is missing, damaged, or a newer program's."""
    try:
        read = read_own_file(layer, position_path(directory), _FORMAT_VERSION)
        if read is None:
            return None
        content = read.content
        return Position(
            int(content["segment"]),
            int(content["sequence"]),
            content["lock"],
            content.get("born"),
            is_copied=read.is_copied,
            is_surely_copied=read.is_surely_copied,
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_position(layer: FileLayer, directory: Path, position: Position) -> None:
    """Replace it, durably; who calls this owns the journal. Raises OSError."""
    path = position_path(directory)
    content = {
        "format_version": _FORMAT_VERSION,
        "segment": position.segment,
        "sequence": position.sequence,
        "lock": position.lock,
        "born": position.born,
    }
    # Not `replace_durably`, which needs the lock of the directory: the state may hold it for seconds.
    write_own_file(layer, path, content, temporary=f".{path.name}.tmp")


def forget_position(layer: FileLayer, directory: Path) -> None:
    """Whatever is found there counts as all there is; who calls this owns the journal, if there is one. Raises OSError."""
    path = position_path(directory)
    with contextlib.suppress(FileNotFoundError):
        layer.unlink(path)
        layer.fsync_directory(path.parent)

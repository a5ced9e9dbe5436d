"""Directories are made so that they survive a power cut, or refused with a word about the way out."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from shockproof.memory.disk.file_layer import SYSTEM_FILES, FileLayer

__all__ = ["DurableDirectory", "make_durable", "make_writable"]


def make_durable(layer: FileLayer, directory: Path) -> None:
    """
    Make a directory with its missing parents; return when their names survive a power cut.

    One that is there is fine, and its name is made durable too: whoever made it may have died before that,
    and with the directory everything in it would be lost.

    Raises:
        FileExistsError: a file has that name.
        NotADirectoryError: a file has the name of a parent.
        OSError: the disk refuses.
    """
    missing: list[Path] = []
    there = directory
    while not layer.is_directory(there) and there != there.parent:
        missing.append(there)
        there = there.parent
    if there != there.parent:
        with contextlib.suppress(PermissionError):  # who may not even look into it has not made this one
            layer.fsync_directory(there.parent)
    for one in reversed(missing):
        try:
            layer.make_directory(one)
        except FileExistsError:
            if not layer.is_directory(one):  # nor has somebody else made it meanwhile
                if one == directory:
                    raise
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(one)) from None
        layer.fsync_directory(one.parent)


class DurableDirectory:
    """A directory that is made when it is needed, and again when somebody has removed it."""

    def __init__(self, layer: FileLayer, path: Path) -> None:
        self.path = path
        self._layer = layer
        self._is_durable = False

    def make(self) -> None:
        """`make_durable`, at the first time and where it is missing."""
        if not (self._is_durable and self._layer.is_directory(self.path)):
            make_durable(self._layer, self.path)
            self._is_durable = True


def make_writable(directory: Path, setting: str, layer: FileLayer = SYSTEM_FILES) -> None:
    """
    Make a directory, with its parents, and see that files can be made in it.

    Raises:
        OSError: of the kind the system raised (PermissionError, NotADirectoryError, ...), naming the
            setting, its value and the way out.
    """
    try:
        make_durable(layer, directory)
        if not layer.is_writable(directory):
            raise PermissionError(errno.EACCES, "it is not writable")
    except OSError as error:
        # Built from errno, so that except clauses for the kind still work.
        reason = error.strerror or type(error).__name__
        way_out = f"make it a directory that this user may write to, or pass another {setting}="
        message = f"{setting}={str(directory)!r} cannot be used: {reason}; {way_out}"
        raise type(error)(error.errno, message) from error

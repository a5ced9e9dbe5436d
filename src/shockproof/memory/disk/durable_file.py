"""
Replacing files so that a crash at any instant leaves the old content or the new.

The order is what matters. Every new file is written under a temporary name in the same directory and
made durable *before* any name changes; the old content keeps a second name; then the names change; then
the directory is made durable, and only after that is anything reported as saved. Leaving out any of
these steps loses data at a power cut, on ordinary file systems.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from shockproof.memory.disk.file_layer import FileLayer, write_all

__all__ = ["Replacement", "replace_durably"]

_WRITE_AT_ONCE = 256 * 1024
# A thread that mixes short calculations with short writes starves the event loop of the interpreter
# lock; large writes do not.

_counter = itertools.count(1)
_LEFTOVER = r"\..+\.\d+\.\d+\.tmp"


class Replacement(NamedTuple):
    """One file to be replaced."""

    name: str
    content: Iterable[bytes]
    """The new content in pieces; consumed once, in the calling thread."""
    previous: str | None = None
    """The name under which the old content stays, or None to give it up."""


def replace_durably(layer: FileLayer, directory: Path, replacements: Iterable[Replacement]) -> None:
    """
    Replace files of one directory, which the caller has locked; return when they are durable.

    Nothing changes its name before all new files are durable. The names then change one after another:
    a crash in between leaves some old and some new, each of them whole. Temporary files that a crash
    left behind are removed first, which is why the lock matters.

    Raises:
        OSError: the disk refused. No temporary file is left, as far as the disk allows, and no fsync is
            tried again: after a failed one the kernel may have dropped the data and say that all is well.
        Exception: whatever producing the content raises.
    """
    for name in layer.list_directory(directory):
        if re.fullmatch(_LEFTOVER, name):
            with contextlib.suppress(OSError):
                layer.unlink(directory / name)
    written: list[tuple[Replacement, Path]] = []
    try:
        for replacement in replacements:
            temporary = _temporary_name(directory, replacement.name)
            written.append((replacement, temporary))
            _write(layer, temporary, replacement.content)
        for replacement, temporary in written:
            target = directory / replacement.name
            if replacement.previous is not None:
                _keep_previous(layer, target, directory / replacement.previous)
            layer.replace(temporary, target)
    except BaseException:
        for _, temporary in written:
            with contextlib.suppress(OSError):
                layer.unlink(temporary)
        raise
    layer.fsync_directory(directory)


def _temporary_name(directory: Path, name: str) -> Path:
    return directory / f".{name}.{os.getpid()}.{next(_counter)}.tmp"


def _write(layer: FileLayer, path: Path, content: Iterable[bytes]) -> None:
    handle = layer.create(path)
    try:
        for block in _blocks(content):
            write_all(layer, handle, block)
        layer.fsync(handle)
    except BaseException:
        with contextlib.suppress(OSError):
            layer.close(handle)
        raise
    layer.close(handle)


def _blocks(content: Iterable[bytes]) -> Iterator[bytes]:
    block = bytearray()
    for piece in content:
        block += piece
        if len(block) >= _WRITE_AT_ONCE:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _keep_previous(layer: FileLayer, current: Path, previous: Path) -> None:
    # link() refuses a name that is taken, and there must be no instant without a previous generation:
    # so the second name is made under a temporary one and moved.
    temporary = _temporary_name(current.parent, previous.name)
    try:
        layer.link(current, temporary)
    except FileNotFoundError:
        return  # the first save
    except OSError:
        # No hard links here (FAT, some network shares). For an instant only the previous name exists;
        # whoever loads reads that one too.
        with contextlib.suppress(FileNotFoundError):
            layer.replace(current, previous)
        return
    try:
        layer.replace(temporary, previous)
    finally:
        # Renaming one of two names of the same file onto the other does nothing and leaves both.
        with contextlib.suppress(OSError):
            layer.unlink(temporary)

"""
Files that cannot be read: set aside with the time, and never deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from shockproof.memory.disk.directory import make_durable
from shockproof.memory.disk.file_layer import FileLayer

__all__ = ["DAMAGED_DIRECTORY", "DamagedFile", "set_aside"]

DAMAGED_DIRECTORY = "damaged"


class DamagedFile(NamedTuple):
    """A file that could not be read."""

    path: Path
    reason: str
    moved_to: Path | None
    """Where it was set aside, or None when it could not be moved."""


def set_aside(layer: FileLayer, directory: Path, name: str, reason: str, at: datetime) -> DamagedFile:
    """Move the file away, with the time in its name; where that is refused, it stays."""
    source = directory / name
    try:
        aside = directory / DAMAGED_DIRECTORY
        make_durable(layer, aside)
        taken = set(layer.list_directory(aside))
        stem = f"{name}.{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        unique = next(name for name in _numbered(stem) if name not in taken)
        layer.replace(source, aside / unique)
        layer.fsync_directory(aside)
        layer.fsync_directory(directory)
    except OSError:
        # A directory that may not be written to: what can be read is still worth having.
        return DamagedFile(source, reason, None)
    return DamagedFile(source, reason, aside / unique)


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}.{number}"
        number += 1

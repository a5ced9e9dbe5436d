"""
The mark that a journal has lost something: ``incomplete.json`` beside its segments.

A program that finds damage writes it before it goes on, so that later lives know too; a person who puts an older copy of
the directory in place makes an empty one. As long as it is there, a key that the journal does not know may have been sent
all the same, and is looked up first.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final

from shockproof.memory.disk.durable_file import Replacement, replace_durably
from shockproof.memory.disk.file_layer import FileLayer

__all__ = ["INCOMPLETE_NAME", "mark_incomplete", "mark_removed", "read_incomplete"]

INCOMPLETE_NAME: Final = "incomplete.json"

_FORMAT_VERSION: Final = 1
_MOST_BYTES: Final = 1 << 20


def read_incomplete(layer: FileLayer, directory: Path) -> str | None:
    """Why the journal counts as incomplete; None: it does not."""
    try:
        content = layer.read(directory / INCOMPLETE_NAME, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{INCOMPLETE_NAME} cannot be read: {error.strerror or error}"
    # That it is there is what counts.
    if not content.strip():
        return f"by hand: {INCOMPLETE_NAME} is empty"
    try:
        return str(json.loads(content)["reason"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return f"for a reason that cannot be read: {INCOMPLETE_NAME} is damaged"


def mark_incomplete(layer: FileLayer, directory: Path, reason: str) -> None:
    """Make the mark, durably; who calls this owns the journal. Raises OSError."""
    content = json.dumps({"format_version": _FORMAT_VERSION, "reason": reason}, indent=2) + "\n"
    replace_durably(layer, directory, [Replacement(INCOMPLETE_NAME, [content.encode()])])


def mark_removed(layer: FileLayer, directory: Path) -> None:
    """Take the mark away, durably; who calls this owns the journal. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        layer.unlink(directory / INCOMPLETE_NAME)
    layer.fsync_directory(directory)

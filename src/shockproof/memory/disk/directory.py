"""Directories that settings name are made, or refused with a word about the way out."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["make_writable"]


def make_writable(directory: Path, setting: str) -> None:
    """
    Make a directory, with its parents, and see that files can be made in it.

    Raises:
        OSError: of the kind the system raised (PermissionError, NotADirectoryError, ...), naming the
            setting, its value and the way out.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(13, "it is not writable")
    except OSError as error:
        # Built from errno, so that except clauses for the kind still work.
        reason = error.strerror or type(error).__name__
        way_out = f"make it a directory that this user may write to, or pass another {setting}="
        message = f"{setting}={str(directory)!r} cannot be used: {reason}; {way_out}"
        raise type(error)(error.errno, message) from error

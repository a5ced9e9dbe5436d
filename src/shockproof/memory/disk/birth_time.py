"""
When a file was made, by Linux: Python's own `os.stat` does not ask for that there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["told_by_statx"]

# struct statx, the same on every architecture: linux/stat.h
_SIZE: Final = 256
_BIRTH_AT: Final = 80
_HERE: Final = -100
"""AT_FDCWD."""
_BIRTH: Final = 0x800
"""STATX_BTIME."""


def told_by_statx(path: Path) -> int | None:
    """Nanoseconds since 1970; None: there is no such file, or the file system, the C library or this Python cannot tell."""
    try:
        import ctypes

        statx = ctypes.CDLL(None).statx
    except (ImportError, OSError, AttributeError):
        return None
    found = ctypes.create_string_buffer(_SIZE)
    if statx(_HERE, os.fsencode(path), 0, _BIRTH, found) != 0:
        return None
    answer = found.raw
    if not int.from_bytes(answer[:4], sys.byteorder) & _BIRTH:
        return None
    seconds = int.from_bytes(answer[_BIRTH_AT : _BIRTH_AT + 8], sys.byteorder, signed=True)
    return seconds * 10**9 + int.from_bytes(answer[_BIRTH_AT + 8 : _BIRTH_AT + 12], sys.byteorder)

"""
Which start of the machine this is.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

__all__ = ["this_boot"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def this_boot() -> str | None:
    """Linux's boot id; None: other systems have no name for a start."""
    try:  # no file of a disk: the kernel makes it up when it is asked
        return _BOOT_ID.read_bytes().decode("ascii").strip()
    except (OSError, ValueError):
        return None

"""Who owns a journal, found out without taking its lock."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from shockproof.memory.journal.journal_files import LOCK_NAME

__all__ = ["Owner", "owner_of", "process_name"]

_LOCKS = Path("/proc/locks")


class Owner(NamedTuple):
    """What can be known of the process that owns a journal."""

    pid: int | None
    """Of whoever took it last; None: nobody ever did, or it cannot be read."""
    is_owned: bool | None
    """None: this system does not tell, and that process is alive."""

    def __str__(self) -> str:
        if self.pid is None or self.is_owned is False:
            return "nobody, as far as this machine knows"
        words = f"process {self.pid}{process_name(self.pid)}"
        return words if self.is_owned else f"maybe {words}"


def owner_of(journal: Path) -> Owner:
    """
    The owner of the journal in a directory.

    Asking the kernel for the lock would take it for a moment, and refuse a program that starts in that moment. So
    the kernel's list of locks is read instead. A process in another container, or on another machine, is not in it.
    """
    path = journal / LOCK_NAME
    try:
        pid, inode = int(path.read_bytes()[:32]), path.stat().st_ino
    except (OSError, ValueError):
        return Owner(None, False)
    try:
        lines = [line.split() for line in _LOCKS.read_text("ascii", "replace").splitlines()]
    except OSError:
        return Owner(pid, None if _is_alive(pid) else False)
    # 1: FLOCK  ADVISORY  WRITE 4711 fe:01:1180531 0 EOF
    held = any(
        len(words) >= 6
        and words[1] == "FLOCK"
        and words[4] == str(pid)
        and words[5].rpartition(":")[2] == str(inode)
        for words in lines
    )
    return Owner(pid, held)


def process_name(pid: int) -> str:
    """The name of a process in brackets, where the system tells; never its arguments, which may be secrets."""
    try:
        return f" ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it belongs to somebody else
    return True

"""
What a process and its machine are called where nobody has named them. Of one on this machine its name tells whether it is gone.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["gone", "own_machine", "own_name"]

_DIGITS: Final = 4
_PROCESSES: Final = Path("/proc/self/ns/pid")
"""Those that are numbered together, which are a container's own."""


def own_machine() -> str:
    """That on which this process runs; a container is one of its own."""
    return socket.gethostname()


def own_name() -> str:
    """
    That of this process: its machine, its number, and eight digits.

    Containers that have their host's name all begin to count at 1. The first four digits tell whose numbers these are, the
    others are random.
    """
    return f"{own_machine()}:{os.getpid()}-{_numbering()}{_random_digits()}"


@functools.cache
def _numbering() -> str:
    try:
        space = str(_PROCESSES.readlink())
    except OSError:
        space = ""  # a system where there is one for all
    return hashlib.sha256(space.encode()).hexdigest()[:_DIGITS]


@functools.cache
def _random_digits() -> str:
    return secrets.token_hex(_DIGITS // 2)  # the same in a forked child, which has another number


def gone(names: Iterable[str]) -> frozenset[str]:
    """Those of *names* that `own_name` has given on this machine to a process that is there no longer, as far as can be told."""
    if os.name != "posix":  # elsewhere asking for a process ends it
        return frozenset()
    here, numbering = re.escape(own_machine()), _numbering()
    own = re.compile(rf"{here}:([0-9]+)-{numbering}[0-9a-f]{{{_DIGITS}}}")
    return frozenset(name for name in names if (found := own.fullmatch(name)) and _is_gone(int(found[1])))


def _is_gone(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False  # it belongs to somebody else
    return False

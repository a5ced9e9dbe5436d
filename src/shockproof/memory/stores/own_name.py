"""
What a process and its machine are called where nobody has named them. Of one on this machine its name tells whether it is gone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

__all__ = ["gone", "own_machine", "own_name"]


def own_machine() -> str:
    """That on which this process runs; a container is one of its own."""
    return socket.gethostname()


def own_name() -> str:
    """That of this process: its machine and its number."""
    return f"{own_machine()}:{os.getpid()}"


def gone(names: Iterable[str]) -> frozenset[str]:
    """Those of *names* that `own_name` has given on this machine to a process that is there no longer, as far as can be told."""
    if os.name != "posix":  # elsewhere asking for a process ends it
        return frozenset()
    here = own_machine()
    return frozenset(
        name
        for name in names
        for machine, _, number in [name.rpartition(":")]
        if machine == here and number.isascii() and number.isdigit() and _is_gone(int(number))
    )


def _is_gone(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False  # it belongs to somebody else
    return False

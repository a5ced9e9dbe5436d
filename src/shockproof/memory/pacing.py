"""How a background thread works without starving the event loops of the other threads."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["Pace"]

_BURST: Final = 0.0003


class Pace:
    """
    Gives the interpreter lock away after every 0.3 ms of Python.

    A thread that waits for the lock asks for it after 5 ms only, and one that releases it for a short
    system call takes it back before anybody else wakes up: so a thread that mixes a little Python
    with small writes can hold up an event loop for a second. ``time.sleep(0)`` really lets go;
    ``sched_yield`` and short writes do not.
    """

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.perf_counter() + _BURST

    def keep(self) -> None:
        """Between two small pieces of work."""
        if time.perf_counter() > self._until:
            time.sleep(0)
            self._until = time.perf_counter() + _BURST

"""How a background thread works without starving the event loops of the other threads."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["Pace"]

_BURST: Final = 0.0002
_NAP: Final = 0.00005
_UNDISTURBED: Final = 0.0002
"""A nap shorter than this (timers add some 60 us) found nobody who wanted the lock."""
_BURST_ALONE: Final = 0.0005
_BURSTS_ALONE: Final = 4


class Pace:
    """
    Gives the interpreter lock away after every 0.2 to 0.5 ms of Python.

    A thread that waits for the lock asks for it after 5 ms only, and one that releases it for a short
    system call takes it back before anybody else wakes up: so a thread that mixes a little Python
    with small writes can hold up an event loop for a second. Neither ``sched_yield`` nor a short write
    lets go for long enough; a real nap of 50 us does. It takes twice that by the system's own slack, which is a
    third of the speed, and ``sleep(0)`` half of that. So for as long as naps find nobody waiting, bursts are of
    0.5 ms and only every fifth ends in a nap, the others in ``sleep(0)``: a loop that wakes up meanwhile waits
    0.5 ms as a rule and 2.5 ms at most.
    """

    __slots__ = ("_bursts_alone", "_until")

    def __init__(self) -> None:
        self._bursts_alone = 0
        self._until = time.perf_counter() + _BURST

    def keep(self) -> None:
        """Between two small pieces of work."""
        now = time.perf_counter()
        if now < self._until:
            return
        if self._bursts_alone:
            self._bursts_alone -= 1
            time.sleep(0)
            self._until = time.perf_counter() + _BURST_ALONE
            return
        time.sleep(_NAP)
        after = time.perf_counter()
        is_alone = after - now < _UNDISTURBED
        self._bursts_alone = _BURSTS_ALONE if is_alone else 0
        self._until = after + (_BURST_ALONE if is_alone else _BURST)

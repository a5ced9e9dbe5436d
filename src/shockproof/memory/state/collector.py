"""
Making many objects that stay, without having Python's garbage collector walk through all there are again and again.

Each time that the number of objects has grown by a quarter, CPython (until 3.13) walks through every one of them, in one
go and with the interpreter lock held: 70 ms and more for 170,000 entries, several times while they are made.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Generator
from typing import Final

__all__ = ["no_full_collections"]

_NEVER: Final = 2**31 - 1
_COLLECTS_IN_STEPS: Final = sys.version_info >= (3, 14)

_lock = threading.Lock()
_users = 0
_theirs: tuple[int, int, int] | None = None
"""What was set before the first of us; None when nothing was changed."""


@contextlib.contextmanager
def no_full_collections() -> Generator[None]:
    """
    What is young is collected meanwhile, in all threads, and nobody walks through what is old.

    Nor right after it: the count that leads to a full collection begins anew. One that somebody asks for takes place.
    Whoever has switched the collector off, or changes its thresholds meanwhile, gets what they want; who has frozen objects
    keeps them frozen, and may have a full collection of the others soon after. Any number of threads may be inside.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _users, _theirs
    with _lock:
        _users += 1
        if _users == 1 and not _COLLECTS_IN_STEPS and gc.isenabled():
            _theirs = gc.get_threshold()
            gc.set_threshold(*_theirs[:2], _NEVER)


def _leave() -> None:
    global _users, _theirs
    with _lock:
        _users -= 1
        if _users or _theirs is None:
            return
        theirs, _theirs = _theirs, None
        if gc.get_threshold() != (*theirs[:2], _NEVER):
            return  # somebody has set them meanwhile
        if not gc.get_freeze_count():
            # Takes no time, however many there are; it makes all of them old, and the counts zero.
            gc.freeze()
            gc.unfreeze()
        gc.set_threshold(*theirs)

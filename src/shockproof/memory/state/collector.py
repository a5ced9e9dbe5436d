"""
Having Python's garbage collector not walk through a large state again and again, in one go and with the interpreter lock held.

Each time that the number of objects has grown by a quarter, CPython (until 3.13) walks through every one of them: 70 ms and
more for 170,000 entries, several times while they are made. And the first 700 objects that are made beside a copy of which
entries there are have it walk through that copy, which takes 7 ms, for hardly any of it is in the processor's cache.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Generator
from typing import Final

from shockproof.vocabulary.shared_lock import shared_lock

__all__ = ["no_full_collections", "rare_young_collections"]

_NEVER: Final = 2**31 - 1
_RARE: Final = 50_000
"""Young objects, instead of 700: a limit all the same, for a program may leave its event loop in the middle of a copy."""
_COLLECTS_IN_STEPS: Final = sys.version_info >= (3, 14)

_Thresholds = tuple[int, int, int]

_lock = shared_lock()
_restoring = _copying = 0
_theirs: _Thresholds | None = None
"""What was set before the first of us; None when nothing was changed."""
_ours: _Thresholds | None = None
"""What we have set since; None as well where somebody has set others meanwhile."""


@contextlib.contextmanager
def no_full_collections() -> Generator[None]:
    """
    What is young is collected meanwhile, in all threads, and nobody walks through what is old.

    Nor right after it: the count that leads to a full collection begins anew. One that somebody asks for takes place.
    Whoever has switched the collector off, or changes its thresholds meanwhile, gets what they want; who has frozen objects
    keeps them frozen, and may have a full collection of the others soon after. Any number of threads may be inside.
    """
    _count(restoring=1)
    try:
        yield
    finally:
        _count(restoring=-1)


@contextlib.contextmanager
def rare_young_collections() -> Generator[None]:
    """
    What is young is collected after 50,000 new objects meanwhile, in all threads, instead of after 700.

    For a copy that is given up again before the end: what lives longer is walked through then. Thresholds are left as
    whoever else wants them, as above.
    """
    _count(copying=1)
    try:
        yield
    finally:
        _count(copying=-1)


def _in_the_child() -> None:
    """Nobody there restores or copies: the threads that did are the parent's."""
    global _restoring, _copying, _theirs, _ours
    if _theirs is not None and gc.get_threshold() == _ours:
        gc.set_threshold(*_theirs)
    _restoring = _copying = 0
    _theirs = _ours = None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_the_child)


def _count(*, restoring: int = 0, copying: int = 0) -> None:
    global _restoring, _copying, _theirs, _ours
    with _lock:
        if not (_restoring or _copying) and gc.isenabled():
            _theirs = _ours = gc.get_threshold()
        # Not less than none: what forked in the middle leaves it in the child, too.
        _restoring = max(0, _restoring + restoring)
        _copying = max(0, _copying + copying)
        if _theirs is None or _ours is None or gc.get_threshold() != _ours:
            _ours = None
        else:
            if restoring < 0 and not _restoring and not _COLLECTS_IN_STEPS and not gc.get_freeze_count():
                # Takes no time, however many there are; it makes all of them old, and the counts zero.
                gc.freeze()
                gc.unfreeze()
            young, middle, old = _theirs
            _ours = (
                max(young, _RARE) if _copying and young else young,
                middle,
                _NEVER if _restoring and not _COLLECTS_IN_STEPS else old,
            )
            gc.set_threshold(*_ours)
        if not (_restoring or _copying):
            _theirs = _ours = None

"""
What a fork may not cut in two: it waits until no thread is in the middle of it.

A forked child has the memory of its parent and none of its other threads. What one of those was doing in a library
that keeps its own account of who is inside, such as SQLite, is never finished there, and stands in everybody's way.
"""

from __future__ import annotations

import os
import threading
from typing import Final

__all__ = ["ForkBarrier"]

_PATIENCE: Final = 10.0
"""Seconds for which a fork waits: a disk that hangs may not hold it up for ever."""


class ForkBarrier:
    """
    A context manager for any number of threads, around what has to be whole when the process forks. Not reentrant.

    A fork waits until all have left, at most 10 seconds, and nobody enters meanwhile.
    """

    def __init__(self) -> None:
        self.is_cut = False
        """Whether this process was forked although a thread of its parent was inside: what it did there is never finished here."""
        self._begin()
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(
                before=self._before, after_in_parent=self._in_the_parent, after_in_child=self._in_the_child
            )

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._forks = 0

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def _before(self) -> None:
        self._changed.acquire()  # held until the process has forked, except while this waits
        self._forks += 1
        try:
            self._changed.wait_for(lambda: not self._inside, _PATIENCE)
        finally:
            self._forks -= 1

    def _in_the_parent(self) -> None:
        self._changed.notify_all()
        self._changed.release()

    def _in_the_child(self) -> None:
        self.is_cut = self.is_cut or self._inside > 0
        self._begin()

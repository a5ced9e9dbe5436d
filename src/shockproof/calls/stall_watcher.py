"""
The thread that looks at loops which may stand still: one for a process, and only while a loop is watched.

What holds the interpreter lock holds this thread, too: its look comes late by as much, and says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Final, Protocol

from shockproof.calls.frames import current_frames
from shockproof.memory.disk.writer import after_fork

__all__ = ["WATCHER", "Frames", "StallWatcher", "Watched"]

Frames = Callable[[], Mapping[int, FrameType]]
"""Where each thread is now."""


class Watched(Protocol):
    """What is looked at; `look` is called by the watching thread, and must not raise."""

    look_every: float

    def look(self, frames: Frames, late: float) -> None:
        """It is time, and *late* seconds past it."""
        ...


class StallWatcher:
    """Looks at everything that was added, as often as the most impatient asks for, in a thread of its own."""

    def __init__(self, frames: Frames = current_frames) -> None:
        self._frames = frames
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        # Also in a forked child: there the thread is gone, and who is watched as well.
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._watched: tuple[Watched, ...] = ()
        self._thread: threading.Thread | None = None

    @property
    def thread(self) -> threading.Thread | None:
        """The thread that looks, while there is one."""
        return self._thread

    def add(self, watched: Watched) -> None:
        """Look at it from now on. Where the system refuses another thread, nothing is looked at until the next one."""
        with self._lock:
            self._watched = (*self._watched, watched)
            self._wake.set()
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="shockproof-watch", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return
            self._thread = thread

    def remove(self, watched: Watched) -> None:
        """Look at it no more."""
        with self._lock:
            self._watched = tuple(other for other in self._watched if other is not watched)
            self._wake.set()

    def look(self, late: float) -> None:
        """Look at each now."""
        for watched in self._watched:
            watched.look(self._frames, late)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._wake.clear()
                if not self._watched:
                    self._thread = None
                    return
                wait = min(watched.look_every for watched in self._watched)
            begun = time.monotonic()
            if not self._wake.wait(wait):
                self.look(max(0.0, time.monotonic() - begun - wait))


WATCHER: Final = StallWatcher()
"""The one of this process."""

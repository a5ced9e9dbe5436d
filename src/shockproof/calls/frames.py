"""
The frames of what runs, and of what waits, and what stands in those of known functions.

Only of functions whose code is known: what a user's own ``locals()`` gave is left alone.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from shockproof.calls.strangers import held_by, is_really
from shockproof.vocabulary.shared_lock import shared_lock

__all__ = ["current_frames", "frames_below", "frames_in", "frames_of", "locals_of"]

_DEEPEST: Final = 1000
"""Frames that are looked through: as many as Python lets there be, unless it was told otherwise."""
_one_looks: Final = threading.RLock()
"""Before 3.13 two threads that look at one frame are given the same copy."""
_WAYS_IN: Final = (("cr_frame", "cr_await"), ("ag_frame", "ag_await"), ("gi_frame", "gi_yieldfrom"))


def frames_below(innermost: FrameType | None) -> Iterator[FrameType]:
    """Those of a thread, *innermost* first."""
    frame = innermost
    for _ in range(_DEEPEST):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def frames_of(task: asyncio.Task[Any]) -> Iterator[FrameType]:  # Any: whatever it returns
    """The frames of a task that waits, outermost first."""
    return frames_in(task.get_coro())


def frames_in(running: object) -> Iterator[FrameType]:
    """The same of a coroutine."""
    while running is not None:
        for frame_name, next_name in _WAYS_IN:
            frame = held_by(running, frame_name)
            if is_really(frame, FrameType):
                yield frame
                running = held_by(running, next_name)
                break
        else:
            return


def locals_of(frame: FrameType, *names: str) -> list[Any]:  # Any: whatever they hold
    """The local variables with these *names*, of a function of ours or of a library's that is known; None where there is none."""
    with _one_looks:
        held = frame.f_locals
        found = [held.get(name) for name in names]
        if type(held) is dict:
            # Before 3.13 it is a copy that the frame keeps: of its own failure as well, which would be a cycle.
            held.clear()
    return found


_one_at_a_time: Final = shared_lock()


def current_frames() -> dict[int, FrameType]:
    """
    The innermost frame of each thread, by its ident: `sys._current_frames`, without a garbage collection inside it.

    CPython holds a lock meanwhile that a thread needs to begin and to end. A collection there may run Python code, which lets
    another thread go on, and if that one is about to begin or to end, all stand still for ever (3.11; gh-106883).
    """
    with _one_at_a_time:
        collects = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if collects:
                gc.enable()

"""
What goes on when a thread has ended its work: the futures that asyncio's executors, and anyio's threads, set then.

They stand in private places, in the frames of the thread, which are read with care: where something is not as expected,
nobody is known to wait.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

__all__ = ["futures_of_this_thread", "futures_of_threads_that_hold"]

_WORK: Final = {"concurrent.futures.thread": "self", "anyio._backends._asyncio": "future"}
"""In whose functions ``run`` a thread does its work, and the local name that leads to its future."""
_DEEPEST: Final = 1000
"""Frames that are looked through: as many as Python lets there be, unless it was told otherwise."""


def futures_of_this_thread() -> Iterator[object]:
    """Those that are set when what the running thread does for somebody has ended, innermost first."""
    for frame in _from(sys._getframe(1)):
        if _is_work(frame):
            yield _future_of(frame)


def futures_of_threads_that_hold(future: object) -> Iterator[object]:
    """The same of the other threads whose work has *future* at hand, and so waits for it, or looks at it."""
    here = threading.get_ident()
    for thread, innermost in sys._current_frames().items():
        if thread == here:
            continue
        inside = list[FrameType]()
        for frame in _from(innermost):
            if not _is_work(frame):
                inside.append(frame)
            elif any(_holds(one, future) for one in inside):
                yield _future_of(frame)


def _is_work(frame: FrameType) -> bool:
    return frame.f_code.co_name == "run" and frame.f_globals.get("__name__") in _WORK


def _future_of(work: FrameType) -> object:
    local = work.f_locals
    held = local.get(_WORK[work.f_globals["__name__"]])
    if isinstance(
        local, dict
    ):  # a copy, before Python 3.13: it would keep all that alive as long as the thread
        local.clear()
    return held if isinstance(held, asyncio.Future) else getattr(held, "future", None)


def _holds(frame: FrameType, future: object) -> bool:
    if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return False  # a module's, whose variables are everybody's
    return any(value is future for value in tuple(frame.f_locals.values()))


def _from(innermost: FrameType) -> Iterator[FrameType]:
    frame: FrameType | None = innermost
    for _ in range(_DEEPEST):
        if frame is None:
            return
        yield frame
        frame = frame.f_back

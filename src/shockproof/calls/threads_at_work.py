"""
What threads do for coroutines: in the context of whom, and what is set when it has ended.

Known are the threads of asyncio's executors, anyio's and our own. What they are at stands in private places, in the frames
of the thread, which are read with care: where something is not as expected, nobody is known to wait.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import Context
from types import FrameType
from typing import Any, Final, NamedTuple

from shockproof.calls.frames import current_frames, frames_below, locals_of
from shockproof.calls.strangers import held_by, is_really

__all__ = ["Work", "work_of_other_threads", "work_of_this_thread", "work_that_waits_for"]

_EXECUTORS: Final = ("concurrent.futures.thread", "_WorkItem.run")
_ANYIOS: Final = ("anyio._backends._asyncio", "WorkerThread.run")
_OURS: Final = ("shockproof.calls.threads", "_Job.run")
_DOES_WORK: Final = {name: module for module, name in (_EXECUTORS, _ANYIOS, _OURS)}
_WAITS: Final = "concurrent.futures._base"
"""In whose functions a thread waits for a future: in ``self``, or among ``fs``."""
_LOOKS_EVERY: Final = 0.05
"""Seconds between two looks at a thread that tells nobody of its end."""


class Work(NamedTuple):
    """One piece of work that a thread is at."""

    thread: int
    """Its ident."""
    in_hand: object
    """Another one for each piece of work."""
    future: object
    """Set when it has ended, unless that was cancelled before; None: there is none."""
    context: Context | None
    """In which it runs; None: it was given none, as by ``run_in_executor``."""

    def end(self) -> concurrent.futures.Future[Any]:  # Any: nobody asks for the result
        """Done when it has really ended, whoever was cancelled before."""
        if isinstance(self.future, concurrent.futures.Future):
            return self.future  # one whose work has begun cannot be cancelled
        ended = concurrent.futures.Future[None]()
        looks = threading.Thread(target=self._look_until, args=(ended,), name="shockproof-end", daemon=True)
        # Without another thread nobody hears of the end: it counts as going on for as long as the process lives.
        with contextlib.suppress(RuntimeError):
            looks.start()
        return ended

    def _look_until(self, ended: concurrent.futures.Future[None]) -> None:
        while self._goes_on():
            time.sleep(_LOOKS_EVERY)
        ended.set_result(None)

    def _goes_on(self) -> bool:
        innermost = current_frames().get(self.thread)
        return any(work.in_hand is self.in_hand for work in _work_from(self.thread, innermost))


def work_of_this_thread() -> Iterator[Work]:
    """That which the running thread is at, innermost first."""
    return _work_from(threading.get_ident(), sys._getframe(1))


def work_of_other_threads() -> Iterator[Work]:
    """That which the others are at."""
    for thread, innermost in _other_threads().items():
        yield from _work_from(thread, innermost)


def work_that_waits_for(future: object) -> Iterator[Work]:
    """That which other threads are at, and which waits for *future*, a thread's."""
    for thread, innermost in _other_threads().items():
        if any(_waits_for(frame, future) for frame in frames_below(innermost)):
            yield from _work_from(thread, innermost)


def _other_threads() -> dict[int, FrameType]:
    """The innermost frame of each other thread, by its ident."""
    frames = current_frames()
    frames.pop(threading.get_ident(), None)  # it would hold itself: a cycle
    return frames


def _work_from(thread: int, innermost: FrameType | None) -> Iterator[Work]:
    for frame in frames_below(innermost):
        name = frame.f_code.co_qualname
        if name not in _DOES_WORK or frame.f_globals.get("__name__") != _DOES_WORK[name]:
            continue
        item, future, context = locals_of(frame, "self", "future", "context")
        in_hand = future if name == _ANYIOS[1] else item
        if in_hand is None:
            continue  # it waits for some, or has just ended
        if name == _EXECUTORS[1]:
            future, context = held_by(item, "future"), _context_of(item)
        elif name == _OURS[1]:
            future, context = held_by(item, "done"), held_by(item, "context")
        yield Work(thread, in_hand, future, context)


def _context_of(item: object) -> Context | None:
    # As asyncio.to_thread hands it over: partial(context.run, ...); from Python 3.14 on in a tuple with its arguments.
    handed = held_by(item, "fn") or (held_by(item, "task") or (None,))[0]
    run = handed.func if is_really(handed, functools.partial) else handed
    context = held_by(run, "__self__")
    return context if is_really(context, Context) else None


def _waits_for(frame: FrameType, future: object) -> bool:
    if frame.f_globals.get("__name__") != _WAITS:
        return False
    one, several = locals_of(frame, "self", "fs")
    return one is future or (type(several) is set and any(other is future for other in tuple(several)))

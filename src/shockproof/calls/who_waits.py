"""
The task that waits for another one, and would pass its own cancellation on to it.

asyncio says so in public from Python 3.14 on, and then also of waits that pass nothing on, as those of
``asyncio.wait``. Until then it stands in private places, which are read with care: where something is
not as expected, nobody is known to wait.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import Iterator
from contextvars import Context
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

from shockproof.calls.strangers import enclosed_by, held_by, is_really
from shockproof.calls.threads_at_work import work_of_this_thread, work_that_waits_for

__all__ = [
    "GATHERING",
    "contexts_around",
    "group_of",
    "task_that_waits_for",
    "tasks_told_by",
    "tasks_told_by_this_thread",
]

GATHERING: Final[type[Any]] = getattr(asyncio.tasks, "_GatheringFuture", type(None))  # Any: private
_OF_GATHER: Final = next(
    (
        code
        for code in asyncio.gather.__code__.co_consts
        if isinstance(code, CodeType) and "outer" in code.co_freevars
    ),
    None,
)
"""Of the callback by which `gather` learns of each end."""
_OUTER: Final = -1 if _OF_GATHER is None else _OF_GATHER.co_freevars.index("outer")
"""Where in its closure that stands which `gather` gives."""
_RELEASE: Final[object] = getattr(asyncio.tasks, "_release_waiter", None)
_OF_ASYNCIO: Final = frozenset[type]((asyncio.Task, asyncio.Future, GATHERING))
_DEEPEST: Final = 16
"""How many gathers may stand in each other."""


def task_that_waits_for(
    awaited: asyncio.Future[Any], depth: int = 0
) -> asyncio.Task[Any] | None:  # Any: whatever they return
    """
    The task that awaits *awaited* now: by itself, in `gather`, `wait_for`, or at the end of a task group.

    One that is protected by `shield`, or only looked at by `asyncio.wait`, has none.
    """
    for callback, _ in held_by(awaited, "_callbacks") or ():
        owner = held_by(callback, "__self__")
        if is_really(owner, asyncio.Task):
            if _waits_for(owner, awaited):
                return owner
        elif is_really(owner, asyncio.TaskGroup):
            # Only at its end: what its body awaits before may have limits that the group is not in.
            parent, end = held_by(owner, "_parent_task"), held_by(owner, "_on_completed_fut")
            if is_really(parent, asyncio.Task) and _waits_for(parent, end):
                return parent
        else:
            waiter = _future_behind(callback)
            if waiter is not None and depth < _DEEPEST:
                task = task_that_waits_for(waiter, depth + 1)
                if task is not None:
                    return task
    return None


def group_of(task: asyncio.Task[Any]) -> asyncio.TaskGroup | None:  # Any: whatever it returns
    """The task group that *task* runs in."""
    for callback, _ in held_by(task, "_callbacks") or ():
        if type(callback) is MethodType and is_really(callback.__self__, asyncio.TaskGroup):
            return callback.__self__
    return None


def tasks_told_by(awaited: object, depth: int = 0) -> list[asyncio.Task[Any]]:  # Any: as above
    """
    The tasks that go on when *awaited*, a future of asyncio's or of a thread's, is done, in whatever way they wait for it.

    Those of `task_that_waits_for`, and those that would not pass their own cancellation on: behind `shield`, in
    ``asyncio.wait`` or ``as_completed``, behind another future that somebody's callback sets, and what waits for a thread that
    waits for it. Not those at an event, a queue or a semaphore that a callback lets go on: they may wait there for anything.
    """
    found: list[asyncio.Task[Any]] = []  # Any: as above
    is_of_a_thread = type(awaited) not in _OF_ASYNCIO and _is_of_a_thread(awaited)
    for callback in _callbacks_of(awaited, is_of_a_thread=is_of_a_thread):
        # Each order looks here several times, and most are awaited, or in `gather`: that comes first, with few questions.
        if type(callback) is FunctionType and not callback.__closure__:
            continue
        if depth < _DEEPEST and type(callback) is FunctionType and callback.__code__ is _OF_GATHER:
            outer = (callback.__closure__ or ())[_OUTER].cell_contents  # few of the rest hold anything else
            found += tasks_told_by(outer, depth + 1)
            continue
        owner = held_by(callback, "__self__")
        if is_really(owner, asyncio.Task):
            if _waits_for(owner, awaited):
                found.append(owner)
        elif depth < _DEEPEST:
            for behind in _futures_behind(callback, owner):
                found += tasks_told_by(behind, depth + 1)
    if is_of_a_thread and depth < _DEEPEST:
        for work in work_that_waits_for(awaited):
            found += tasks_told_by(work.future, depth + 1)
    return found


def tasks_told_by_this_thread() -> Iterator[asyncio.Task[Any]]:  # Any: as above
    """Those that go on when what the running thread does has ended."""
    for work in work_of_this_thread():
        yield from tasks_told_by(work.future)


def contexts_around(future: object) -> Iterator[Context]:
    """Those of the code that waits for *future*, a thread's, as by ``run_in_executor``, and of that which has asked for it."""
    for callback in _callbacks_of(future, is_of_a_thread=True) if _is_of_a_thread(future) else ():
        for behind in _futures_behind(callback, None):
            for _, context in held_by(behind, "_callbacks") or ():
                yield context


def _is_of_a_thread(future: object) -> bool:
    return is_really(future, concurrent.futures.Future)


def _callbacks_of(future: object, *, is_of_a_thread: bool) -> list[object]:
    if is_of_a_thread:
        return list(held_by(future, "_done_callbacks") or ())
    return [callback for callback, _ in held_by(future, "_callbacks") or ()]


def _futures_behind(callback: object, owner: object) -> Iterator[object]:
    held = [owner, *enclosed_by(callback)]
    if is_really(callback, functools.partial):
        held.extend(callback.args)
    for one in held:
        if is_really(one, asyncio.Future) or _is_of_a_thread(one):
            yield one
            continue
        end = held_by(one, "_on_completed_fut")
        if is_really(end, asyncio.Future):  # the end of a task group
            yield end
        if held_by(callback, "__module__") == asyncio.tasks.__name__:
            yield from _waiters_of_as_completed(one)


def _waiters_of_as_completed(one: object) -> Iterator[asyncio.Future[Any]]:  # Any: whatever it returns
    # Of a user's own queue nobody knows what it is waited at for; from 3.13 on that of asyncio stands in an object.
    queue = one if is_really(one, asyncio.Queue) else held_by(one, "_done")
    if is_really(queue, asyncio.Queue):
        yield from tuple(held_by(queue, "_getters") or ())


def _waits_for(task: asyncio.Task[Any], future: object) -> bool:  # Any: whatever it returns
    return future is not None and held_by(task, "_fut_waiter") is future


def _future_behind(callback: object) -> asyncio.Future[Any] | None:  # Any: whatever it returns
    if is_really(callback, FunctionType) and callback.__module__ == asyncio.tasks.__name__:  # gather's
        for held in enclosed_by(callback):
            if is_really(held, GATHERING):
                return held  # type: ignore[no-any-return]  # a future, of a private class
    elif is_really(callback, functools.partial) and callback.func is _RELEASE:  # wait_for's, before 3.12
        waiter = callback.args[0]
        return waiter if is_really(waiter, asyncio.Future) else None
    return None

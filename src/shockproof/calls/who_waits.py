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
from types import FrameType, FunctionType
from typing import Any, Final

from shockproof.calls.waiting_threads import futures_of_this_thread, futures_of_threads_that_hold

__all__ = ["frames_of", "group_of", "task_that_waits_for", "tasks_told_by", "tasks_told_by_this_thread"]

_GATHERING: Final[type[Any]] = getattr(asyncio.tasks, "_GatheringFuture", type(None))  # Any: private
_RELEASE: Final[object] = getattr(asyncio.tasks, "_release_waiter", None)
_DEEPEST: Final = 16
"""How many gathers may stand in each other."""


def task_that_waits_for(
    awaited: asyncio.Future[Any], depth: int = 0
) -> asyncio.Task[Any] | None:  # Any: whatever they return
    """
    The task that awaits *awaited* now: by itself, in `gather`, `wait_for`, or at the end of a task group.

    One that is protected by `shield`, or only looked at by `asyncio.wait`, has none.
    """
    for callback, _ in getattr(awaited, "_callbacks", None) or ():
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task):
            if _waits_for(owner, awaited):
                return owner
        elif isinstance(owner, asyncio.TaskGroup):
            # Only at its end: what its body awaits before may have limits that the group is not in.
            parent, end = getattr(owner, "_parent_task", None), getattr(owner, "_on_completed_fut", None)
            if isinstance(parent, asyncio.Task) and _waits_for(parent, end):
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
    for callback, _ in getattr(task, "_callbacks", None) or ():
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.TaskGroup):
            return owner
    return None


def tasks_told_by(awaited: object, depth: int = 0) -> Iterator[asyncio.Task[Any]]:  # Any: as above
    """
    The tasks that go on when *awaited*, a future of asyncio's or of a thread's, is done, in whatever way they wait for it.

    Those of `task_that_waits_for`, and those that would not pass their own cancellation on: behind `shield`, in
    ``asyncio.wait`` or ``as_completed``, behind another future, event or queue that somebody's callback sets, and what
    waits for a thread that waits for it.
    """
    for callback in _callbacks_of(awaited):
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task):
            if _waits_for(owner, awaited):
                yield owner
        elif depth < _DEEPEST:
            for behind in _futures_behind(callback, owner):
                yield from tasks_told_by(behind, depth + 1)
    if _is_of_a_thread(awaited) and depth < _DEEPEST:
        for behind in futures_of_threads_that_hold(awaited):
            yield from tasks_told_by(behind, depth + 1)


def tasks_told_by_this_thread() -> Iterator[asyncio.Task[Any]]:  # Any: as above
    """Those that go on when what the running thread does has ended."""
    for future in futures_of_this_thread():
        yield from tasks_told_by(future)


def _is_of_a_thread(future: object) -> bool:
    return isinstance(future, concurrent.futures.Future)


def _callbacks_of(future: object) -> list[object]:
    if _is_of_a_thread(future):
        return list(getattr(future, "_done_callbacks", ()))
    return [callback for callback, _ in getattr(future, "_callbacks", None) or ()]


def _futures_behind(callback: object, owner: object) -> Iterator[object]:
    held = [owner]
    if isinstance(callback, FunctionType):
        for cell in callback.__closure__ or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:  # not bound yet
                continue
    elif isinstance(callback, functools.partial):
        held.extend(callback.args)
    for one in held:
        if isinstance(one, asyncio.Future) or _is_of_a_thread(one):
            yield one
            continue
        end = getattr(one, "_on_completed_fut", None)
        if isinstance(end, asyncio.Future):  # the end of a task group
            yield end
        # That of as_completed stands in an object of its own from Python 3.13 on.
        is_of_asyncio = type(one).__module__ == asyncio.tasks.__name__
        yield from _waiters_of(getattr(one, "_done", one) if is_of_asyncio else one)


def _waiters_of(one: object) -> Iterator[asyncio.Future[Any]]:  # Any: as above
    if isinstance(one, asyncio.Queue | asyncio.Event | asyncio.Semaphore):
        waiting = getattr(one, "_getters", None) or getattr(one, "_waiters", None) or ()
        yield from (waiter for waiter in tuple(waiting) if isinstance(waiter, asyncio.Future))


def _waits_for(task: asyncio.Task[Any], future: object) -> bool:  # Any: whatever it returns
    return future is not None and getattr(task, "_fut_waiter", None) is future


def _future_behind(callback: object) -> asyncio.Future[Any] | None:  # Any: whatever it returns
    if isinstance(callback, FunctionType) and callback.__module__ == asyncio.tasks.__name__:  # gather's
        for cell in callback.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            if isinstance(held, _GATHERING):
                return held  # type: ignore[no-any-return]  # a future, of a private class
    elif isinstance(callback, functools.partial) and callback.func is _RELEASE:  # wait_for's, before 3.12
        waiter = callback.args[0]
        return waiter if isinstance(waiter, asyncio.Future) else None
    return None


def frames_of(task: asyncio.Task[Any]) -> Iterator[FrameType]:  # Any: whatever it returns
    """The frames of a task that waits, outermost first."""
    running: object = task.get_coro()
    while running is not None:
        for frame_name, next_name in _WAYS_IN:
            frame = getattr(running, frame_name, None)
            if isinstance(frame, FrameType):
                yield frame
                running = getattr(running, next_name, None)
                break
        else:
            return


_WAYS_IN: Final = (("cr_frame", "cr_await"), ("ag_frame", "ag_await"), ("gi_frame", "gi_yieldfrom"))

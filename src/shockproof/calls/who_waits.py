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

from shockproof.calls.strangers import held_by, is_really
from shockproof.calls.waiting_threads import futures_of_this_thread, futures_of_threads_that_hold

__all__ = [
    "frames_in",
    "frames_of",
    "group_of",
    "task_that_waits_for",
    "tasks_told_by",
    "tasks_told_by_this_thread",
]

_GATHERING: Final[type[Any]] = getattr(asyncio.tasks, "_GatheringFuture", type(None))  # Any: private
_RELEASE: Final[object] = getattr(asyncio.tasks, "_release_waiter", None)
_WAITED_AT: Final = (asyncio.Queue, asyncio.Event)
"""Not at a semaphore: who waits there wants a place, and not what became of the order that leaves it."""
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
        owner = held_by(callback, "__self__")
        if is_really(owner, asyncio.TaskGroup):
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
        owner = held_by(callback, "__self__")
        if is_really(owner, asyncio.Task):
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
    return is_really(future, concurrent.futures.Future)


def _callbacks_of(future: object) -> list[object]:
    if _is_of_a_thread(future):
        return list(held_by(future, "_done_callbacks") or ())
    return [callback for callback, _ in held_by(future, "_callbacks") or ()]


def _futures_behind(callback: object, owner: object) -> Iterator[object]:
    held = [owner]
    if is_really(callback, FunctionType):
        for cell in callback.__closure__ or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:  # not bound yet
                continue
    elif is_really(callback, functools.partial):
        held.extend(callback.args)
    for one in held:
        if is_really(one, asyncio.Future) or _is_of_a_thread(one):
            yield one
            continue
        end = held_by(one, "_on_completed_fut")
        if is_really(end, asyncio.Future):  # the end of a task group
            yield end
        # That of as_completed stands in an object of its own from Python 3.13 on.
        is_of_asyncio = type(one).__module__ == asyncio.tasks.__name__
        yield from _waiters_of(held_by(one, "_done") or one if is_of_asyncio else one)


def _waiters_of(one: object) -> Iterator[asyncio.Future[Any]]:  # Any: as above
    if any(is_really(one, kind) for kind in _WAITED_AT):
        waiting = held_by(one, "_getters") or held_by(one, "_waiters") or ()
        yield from (waiter for waiter in tuple(waiting) if is_really(waiter, asyncio.Future))


def _waits_for(task: asyncio.Task[Any], future: object) -> bool:  # Any: whatever it returns
    return future is not None and held_by(task, "_fut_waiter") is future


def _future_behind(callback: object) -> asyncio.Future[Any] | None:  # Any: whatever it returns
    if is_really(callback, FunctionType) and callback.__module__ == asyncio.tasks.__name__:  # gather's
        for cell in callback.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            if is_really(held, _GATHERING):
                return held  # type: ignore[no-any-return]  # a future, of a private class
    elif is_really(callback, functools.partial) and callback.func is _RELEASE:  # wait_for's, before 3.12
        waiter = callback.args[0]
        return waiter if is_really(waiter, asyncio.Future) else None
    return None


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


_WAYS_IN: Final = (("cr_frame", "cr_await"), ("ag_frame", "ag_await"), ("gi_frame", "gi_yieldfrom"))

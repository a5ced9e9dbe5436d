"""
The time limits that other calls have around this one: a retry asks before it begins a wait.

A healthy call pays nothing for it. Whoever awaits a call is below it on the stack of its task, so the
limits are looked up there, when a retry has to decide, in the frames that hold a timer. What the
stack does not show is written down: the blocks with a limit that each task is in, and for a task that
shockproof itself starts, in a context variable, what surrounds it. A task that somebody awaits, in a
`gather` or a task group too, is under the limits of whoever awaits it: they would cut it as well.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

from shockproof.calls.frames import frames_of, locals_of
from shockproof.calls.timer import BLOCKS, Block, LimitQueue, limits_exist, queues_here
from shockproof.calls.who_waits import task_that_waits_for

__all__ = [
    "TIMED_WRAPPER_FILE",
    "WRAPPER_FILE",
    "Limit",
    "begin_block",
    "carry",
    "end_block",
    "holds_timer",
    "limits_around",
    "time_left_around",
]

WRAPPER_FILE: Final = "<shockproof wrapper "
"""How the file names of generated wrappers begin."""
TIMED_WRAPPER_FILE: Final = f"{WRAPPER_FILE}with a timer "
"""And of those that wait for something under a limit."""

Limit = tuple[LimitQueue, object]
"""A queue, and what the call waits in it as."""

F = TypeVar("F", bound=Callable[..., Any])  # Any: any function

_carried: ContextVar[tuple[Limit, ...]] = ContextVar("shockproof_limits_around", default=())

# By its name most of a stack is told apart at once: the hash of a code object takes longer than all the rest.
_WRAPPERS_NAME: Final = "call"
_holders: Final[dict[str, list[CodeType]]] = {_WRAPPERS_NAME: []}


def holds_timer(function: F) -> F:
    """
    Mark a coroutine function that awaits something under a limit.

    Its local `timer` is that limit, or it waits in its local `queue` as its local `coroutine`.
    """
    _holders.setdefault(function.__name__, []).append(function.__code__)
    return function


def time_left_around() -> float | None:
    """Seconds until the first limit around the running code ends it, 0 when one just has; None without any."""
    if not limits_exist():
        return None
    left = [queue.left(key) for queue, key in limits_around()]
    return min((seconds for seconds in left if seconds is not None), default=None)


def limits_around() -> tuple[Limit, ...]:
    """All limits around the running code that still run."""
    task = asyncio.current_task()
    found = [*_on_the_stack(task), *_of_blocks(task), *_carried.get(), *_of_those_who_wait(task)]
    return tuple(limit for limit in found if _is_alive(limit))


def _on_the_stack(task: asyncio.Task[Any] | None) -> Iterator[Limit]:  # Any: whatever the task returns
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _holders:  # most are not, and calling for each would cost a microsecond
            limit = _limit_of(frame)
            # An eagerly started task runs on top of the one that started it, which is not around it.
            if limit is not None and limit[0].is_of(limit[1], task):
                yield limit
        frame = frame.f_back


def _of_those_who_wait(task: asyncio.Task[Any] | None) -> Iterator[Limit]:  # Any: whatever the task returns
    # No circle: each waits for one thing, and the first of them for what runs.
    while task is not None and (task := task_that_waits_for(task)) is not None:
        for frame in frames_of(task):
            limit = _limit_of(frame)
            if limit is not None:
                yield limit
        yield from _of_blocks(task)


def _limit_of(frame: FrameType) -> Limit | None:
    code = frame.f_code
    if code.co_name not in _holders:
        return None
    if any(code is holder for holder in _holders.get(code.co_name, ())):
        timer, queue, coroutine = locals_of(frame, "timer", "queue", "coroutine")
        if timer is not None:
            return timer.limit  # type: ignore[no-any-return]  # a Timer
        return None if queue is None else (queue, coroutine)
    if code.co_name == _WRAPPERS_NAME and code.co_filename.startswith(TIMED_WRAPPER_FILE):
        queue, coroutine = locals_of(frame, "queue_", "coroutine_")
        return None if queue is None else (queue, coroutine)
    return None


def _of_blocks(task: asyncio.Task[Any] | None) -> Iterator[Limit]:  # Any: whatever the task returns
    if task is None:
        return
    for queue in queues_here():
        if task in queue.waiting or task in queue.fired:
            yield queue, task
    block = BLOCKS.get(task)
    while block is not None:
        queue, key, block = block
        yield queue, key


def _is_alive(limit: Limit) -> bool:
    return limit[0].left(limit[1]) is not None


def begin_block(
    task: asyncio.Task[Any],  # Any: whatever the task returns
    queue: LimitQueue,
    key: object,
) -> None:
    """A block of *task* begins that waits in *queue* as *key*, which is not the task itself."""
    BLOCKS[task] = (queue, key, _still_running(BLOCKS.get(task)))


def _still_running(block: Block | None) -> Block | None:
    # Itself, or what is around it if it is over: one that nobody has left was ended all the same.
    while block is not None and block[0].left(block[1]) is None:
        block = block[2]
    return block


def end_block(task: asyncio.Task[Any], key: object) -> None:  # Any: whatever the task returns
    """The block that waits as *key* is left, wherever that is; others may have been left before it or not."""
    inside: list[Block] = []
    block = BLOCKS.pop(task, None)
    while block is not None and block[1] is not key:
        inside.append(block)
        block = block[2]
    rest = None if block is None else block[2]
    for queue, other, _ in reversed(inside):
        rest = (queue, other, rest)
    if rest is not None:
        BLOCKS[task] = rest


def carry(limits: tuple[Limit, ...]) -> None:
    """The current task, which is a part of a call, is under these limits of the task that started it."""
    if limits:
        _carried.set(limits)

"""
An attempt in a task of its own, so that a callee which ignores its cancellation cannot hold the caller.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any

from shockproof.calls.limits import Held
from shockproof.calls.limits_around import Limit, carry, limits_around
from shockproof.calls.orders_inside import begin_part_of
from shockproof.calls.threads import mark_never_began, never_began
from shockproof.calls.timer import Timer, running_task
from shockproof.memory.services.service_state import ServiceState

__all__ = ["run_in_own_task"]

# What was abandoned must be referenced by somebody until it ends: the loop itself does not.
_abandoned: set[asyncio.Task[Any]] = set()  # Any: whatever the callee returns


async def run_in_own_task(
    state: ServiceState,
    awaitable: Awaitable[Any],  # Any: whatever the callee returns
    grace: float,
    timer: Timer | None,
    held: Held | None,
) -> Any:  # Any: whatever the callee returns
    """
    Await *awaitable* in a task of its own.

    When this task is cancelled, by *timer* or by anybody else, the callee is cancelled and given *grace*
    seconds to end. One that does not is left behind: counted in ``abandoned_attempts`` until it really
    ends, its result thrown away; so long it keeps what is *held*. Another cancellation ends even that wait.

    Raises:
        asyncio.CancelledError: this task was cancelled, and no answer came within the grace; if it was
            the caller who cancelled, an answer makes no difference.
        Exception: the callee's own error.
    """
    task = asyncio.get_running_loop().create_task(_awaited(awaitable, limits_around(), running_task()))
    try:
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as cancelled:
            await _end(state, task, grace, held)
            if timer is not None and timer.has_ended_it() and task.done() and not task.cancelled():
                return task.result()  # a real answer that came with the limit is the answer
            if task.done() and (_is_not_begun(awaitable) or _never_began(task)):
                mark_never_began(cancelled)
            raise
        try:
            return task.result()
        except asyncio.CancelledError as cancelled:  # a loop that ends cancels all tasks, this one as well
            if _is_not_begun(awaitable):
                mark_never_began(cancelled)
            raise
    finally:
        if inspect.iscoroutine(awaitable) and _is_not_begun(awaitable):
            awaitable.close()  # its task was cancelled before its first step: without this Python warns of it
        del task  # it holds its error, whose traceback holds this frame: no cycle


def _is_not_begun(awaitable: Awaitable[Any]) -> bool:  # Any: as above
    return inspect.iscoroutine(awaitable) and inspect.getcoroutinestate(awaitable) == inspect.CORO_CREATED


def _never_began(task: asyncio.Task[Any]) -> bool:  # Any: as above
    try:
        task.result()
    except asyncio.CancelledError as inner:
        return never_began(inner)
    except BaseException:  # noqa: BLE001 - its own error: it ran
        return False
    return False


async def _awaited(
    awaitable: Awaitable[Any],
    limits: tuple[Limit, ...],
    whole: asyncio.Task[Any] | None,  # Any: as above
) -> Any:  # Any: whatever the callee returns
    carry(limits)
    begin_part_of(whole)
    return await awaitable


async def _end(
    state: ServiceState,
    task: asyncio.Task[Any],  # Any: as above
    grace: float,
    held: Held | None,
) -> None:
    task.cancel()
    try:
        await asyncio.wait({task}, timeout=grace)
    finally:
        if task.done():
            _look_at(task)
        else:
            state.abandon_attempt()
            _abandoned.add(task)
            if held is not None:
                held.keep()
            task.add_done_callback(lambda ended: _came_back(state, ended, held))


def _came_back(state: ServiceState, task: asyncio.Task[Any], held: Held | None) -> None:  # Any: as above
    _abandoned.discard(task)
    state.attempt_came_back()
    if held is not None:
        held.really_ended()
    _look_at(task)


def _look_at(task: asyncio.Task[Any]) -> None:  # Any: as above
    # An error nobody looks at is reported when the task is collected; this one has no reader left.
    if not task.cancelled():
        task.exception()

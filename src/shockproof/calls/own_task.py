"""
An attempt in a task of its own, so that a callee which ignores its cancellation cannot hold the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from shockproof.calls.limits import Held
from shockproof.calls.timer import was_stalled
from shockproof.memory.service_state import ServiceState

__all__ = ["TookTooLongError", "run_in_own_task"]

# What was abandoned must be referenced by somebody until it ends: the loop itself does not.
_abandoned: set[asyncio.Task[Any]] = set()  # Any: whatever the callee returns


class TookTooLongError(Exception):
    """The time limit of `limit` seconds passed; `stalled` tells whether our own loop stood still meanwhile."""

    def __init__(self, limit: float, *, stalled: bool) -> None:
        super().__init__(limit, stalled)
        self.limit = limit
        self.stalled = stalled


async def run_in_own_task(
    state: ServiceState,
    awaitable: Awaitable[Any],  # Any: whatever the callee returns
    limit: float | None,
    grace: float,
    held: Held | None,
) -> Any:  # Any: whatever the callee returns
    """
    Await *awaitable* in a task of its own, for at most *limit* seconds.

    At the limit, and when the caller is cancelled, the task is cancelled and given *grace* seconds to
    end. One that does not is left behind: counted in ``abandoned_attempts`` until it really ends, its
    result thrown away; so long it keeps what is *held*. A second cancellation of the caller ends even that wait.

    Raises:
        TookTooLongError: the limit passed.
        Exception: the callee's own error.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(_awaited(awaitable))
    begun = loop.time()
    try:
        try:
            await asyncio.wait({task}, timeout=limit)
        except asyncio.CancelledError:
            await _end(state, task, grace, held)
            raise
        if task.done():
            return task.result()
        assert limit is not None
        stalled = was_stalled(loop.time() - begun - limit, limit)
        await _end(state, task, grace, held)
        if task.done() and not task.cancelled() and task.exception() is None:
            return task.result()  # a real answer that came with the limit is the answer
        raise TookTooLongError(limit, stalled=stalled)
    finally:
        del task  # it holds its error, whose traceback holds this frame: no cycle


async def _awaited(awaitable: Awaitable[Any]) -> Any:  # Any: whatever the callee returns
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

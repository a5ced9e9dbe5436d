"""
What the tasks in the background have in common: they rest until something is due, and are woken and ended from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.shared_lock import shared_lock

__all__ = ["beginning", "end", "end_where_it_runs", "is_alive", "rest", "wake"]

beginning: Final = shared_lock()
"""Held while it is looked whether there is a task, and one is begun: loops of two threads may need it at the same moment."""


def is_alive(task: asyncio.Task[None] | None) -> bool:
    """Whether *task* goes on."""
    return task is not None and not task.done() and not task.get_loop().is_closed()


def wake(task: asyncio.Task[None], woken: asyncio.Event) -> None:
    """Set *woken* on the loop of *task*, from any thread."""
    loop = task.get_loop()
    if loop is asyncio._get_running_loop():
        woken.set()
    else:
        with contextlib.suppress(RuntimeError):  # it has just ended; the next task looks at everything
            loop.call_soon_threadsafe(woken.set)


def end(task: asyncio.Task[None] | None) -> None:
    """Cancel *task*, from any thread, without waiting for its end."""
    if task is not None and not task.done():
        with contextlib.suppress(RuntimeError):  # its loop has just ended
            task.get_loop().call_soon_threadsafe(task.cancel)


async def end_where_it_runs(
    task: asyncio.Task[None],
    leave: Callable[[], Coroutine[Any, Any, None]],  # Any: what a coroutine may be sent
) -> bool:
    """
    Cancel *task*, then *leave*, both on its loop; whether that was done: a loop that stands still does nothing.

    Cancelled, so is what was begun there.
    """

    async def ends() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await leave()

    loop = task.get_loop()
    if loop is asyncio.get_running_loop():
        await ends()
        return True
    if not loop.is_running():
        end(task)
        return False
    ending = ends()
    try:
        there = asyncio.run_coroutine_threadsafe(ending, loop)
    except RuntimeError:  # it has just been closed
        ending.close()
        return False
    await asyncio.wrap_future(there)
    return True


async def rest(clock: Clock, seconds: float, woken: asyncio.Event) -> None:
    """Return when *seconds* have passed, or *woken* is set."""
    waiting = asyncio.ensure_future(clock.sleep(seconds))
    waking = asyncio.ensure_future(woken.wait())
    try:
        await asyncio.wait({waiting, waking}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        waking.cancel()

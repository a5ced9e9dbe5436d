"""
What the tasks in the background have in common: they rest until something is due, and are woken and ended from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib

from shockproof.vocabulary.clock import Clock

__all__ = ["end", "rest", "wake"]


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


async def rest(clock: Clock, seconds: float, woken: asyncio.Event) -> None:
    """Return when *seconds* have passed, or *woken* is set."""
    waiting = asyncio.ensure_future(clock.sleep(seconds))
    waking = asyncio.ensure_future(woken.wait())
    try:
        await asyncio.wait({waiting, waking}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        waking.cancel()

"""
Those who wait for news of a service, on whatever loop, and are woken from whatever thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

__all__ = ["wake", "wake_all"]


def wake_all(waiters: Collection[asyncio.Future[None]]) -> None:
    """Wake all *waiters*, from any thread."""
    for waiter in tuple(waiters):
        wake(waiter)


def wake(waiter: asyncio.Future[None]) -> bool:
    """Wake *waiter*, from any thread; False: its loop has ended, and the one who waited with it."""
    try:
        waiter.get_loop().call_soon_threadsafe(_wake, waiter)
    except RuntimeError:
        return False
    return True


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

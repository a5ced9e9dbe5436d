"""
Those who wait for news of a service, on whatever loop, and are woken from whatever thread.
"""

from __future__ import annotations

import asyncio

__all__ = ["wake_all"]


def wake_all(waiters: set[asyncio.Future[None]]) -> None:
    """Wake all *waiters*, from any thread."""
    for waiter in tuple(waiters):
        try:
            waiter.get_loop().call_soon_threadsafe(_wake, waiter)
        except RuntimeError:
            pass  # that loop has ended, and the one who waited with it


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

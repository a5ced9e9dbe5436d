"""A stream on its way to one reader: at the reader's pace, and until one of the two has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

__all__ = ["relay"]


async def relay(
    pieces: AsyncGenerator[bytes], write: Callable[[bytes], Awaitable[None]], gone: Awaitable[object]
) -> None:
    """
    Write piece by piece, the next one when the one before has left, until there are no more or *gone* is there.

    Raises:
        Exception: what *write* or *pieces* raise.

    Cancelled, it ends both at once. *pieces* is closed in any case.
    """

    async def pour() -> None:
        async for piece in pieces:
            await write(piece)

    pouring = asyncio.ensure_future(pour())
    leaving = asyncio.ensure_future(gone)
    both: set[asyncio.Future[object]] = {pouring, leaving}  # type: ignore[arg-type] # results that nobody reads
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in both:
            one.cancel()
        await asyncio.wait(both)
        await pieces.aclose()
    if not leaving.cancelled():
        leaving.exception()  # a connection that is reset is as good as one that is closed
    if not pouring.cancelled():
        pouring.result()

"""
The event loop must be asyncio's; whoever brings another one is told so at once.
"""

from __future__ import annotations

import asyncio

__all__ = ["require_running_loop"]


def require_running_loop() -> asyncio.AbstractEventLoop:
    """
    The running asyncio loop.

    Raises:
        RuntimeError: none is running here (trio, for one, is not supported).
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "shockproof needs a running asyncio event loop: start the program with asyncio.run(...); "
            "trio is not supported"
        ) from None

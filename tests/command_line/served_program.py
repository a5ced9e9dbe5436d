"""
A program that serves its health on the socket of its state directory until its input ends.

One service is well, a second is held open. It prints READY when somebody may ask.
"""

from __future__ import annotations

import asyncio
import sys

from shockproof import ErrorRecoveryService
from shockproof.endpoints import serve_socket


async def main() -> None:
    recovery = ErrorRecoveryService(sys.argv[1], sys.argv[2], max_retries=0)

    async def answers() -> None:
        await asyncio.sleep(0)

    async def fails() -> None:
        raise ConnectionResetError("reset; password=hunter2")

    venue = recovery.service("venue", max_concurrent=4)
    async with recovery, serve_socket(recovery):
        await recovery.restore_state()
        try:
            await recovery.service("news", circuit_threshold=1, circuit_timeout=3000.0).call(fails)
        except ConnectionResetError:
            pass
        await venue.call(answers)
        running = recovery.operation("rebalance", key="2026-11-26")
        await running.__aenter__()
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main())

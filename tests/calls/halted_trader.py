"""A program that halts, says so, and lives on until it is killed: `python halted_trader.py STATE_DIR`."""

from __future__ import annotations

import asyncio
import sys

from shockproof import ErrorRecoveryService


async def main(state_dir: str) -> None:
    recovery = ErrorRecoveryService(state_dir, state_dir)
    await recovery.halt("lost the risk feed")
    sys.stdout.write("halted\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1]))

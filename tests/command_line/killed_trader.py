"""
A trader that dies by SIGKILL and leaves work behind: an order of unknown outcome, a job that failed, and one that ran.

It prints READY when everything is on the disk, then waits for a line, or the end, of its input.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from decimal import Decimal

from shockproof import (
    UNKNOWN,
    ErrorRecoveryService,
    OutcomeUnknownError,
    SecretNotSavedWarning,
    register_type,
)


@register_type
@dataclass
class Quote:
    """A class that only this program has."""

    bid: Decimal


async def main() -> None:
    warnings.simplefilter("ignore", SecretNotSavedWarning)
    recovery = ErrorRecoveryService(state_dir=sys.argv[1], error_log_dir=sys.argv[2])
    trading = recovery.service("trading", timeout=5.0, max_retries=0)

    async def blind(key: str) -> object:
        return UNKNOWN

    async def submit(symbol: str, client_order_id: str) -> None:
        raise ConnectionResetError("on the way back; password=hunter2-in-text")

    async with recovery.operation("import", key="done-1") as op:
        op.result = Decimal("1.50")
    once = trading.once("bot-5", confirm=blind, key_argument="client_order_id", settle=0.001)
    try:
        await once.call(submit, "AAPL")
    except OutcomeUnknownError:
        pass
    try:
        async with recovery.operation(
            "import", key="bars", account="A1", password="hunter2-in-details"
        ) as op:
            await op.checkpoint(index=3, price=Decimal("1.10"))
            raise ValueError("no bars")
    except ValueError:
        pass
    running = recovery.operation("rebalance", key="2026-11-25")
    await running.__aenter__()
    await running.checkpoint(index=1)
    await recovery.save_state(cached_data={"generation": 1}, force=True)
    await recovery.save_state(
        active_operations=[{"operation": "fetch", "symbol": "AAPL"}],
        cached_data={"AAPL": {"price": Decimal("150.25"), "quote": Quote(Decimal("1.0"))}},
        configuration={"mode": "paper", "api_key": "hunter2-in-state"},
        force=True,
    )
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main())

"""A trader of the demo whose leases are short, and whose store is not new: so that a test need not wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from shockproof import StoreConflictError, StoreUnavailableError
from shockproof.demo import trader
from shockproof.demo.account import ACCOUNT
from shockproof.demo.shared_store import open_store
from shockproof.memory.fleet import ownership
from shockproof.memory.fleet.marked import marked
from shockproof.policies.fleet_limit import LimitRecord

ownership._LENGTH = 3.0  # type: ignore[misc]  # seconds; fifteen, as it is


async def use(url: str) -> None:
    """Somebody has used it before: nobody need wait for those whom it could have forgotten."""
    store = open_store(url)
    kept = {
        f"owned/{ACCOUNT}": b"an earlier trader",
        "limits/binance.orders": LimitRecord({}).to_bytes(),
        "limits/binance.reads": LimitRecord({}).to_bytes(),
    }
    while kept:
        key, value = next(iter(kept.items()))
        # Another trader may have said so already; and a store has a second for each step, which a slow machine may take.
        with contextlib.suppress(StoreUnavailableError):
            with contextlib.suppress(StoreConflictError):
                await store.put(key, marked(value, await store.era()), expect=0)
            del kept[key]
    await store.aclose()


if __name__ == "__main__":
    (url,) = [word.removeprefix("--store=") for word in sys.argv if word.startswith("--store=")]
    asyncio.run(use(url))
    sys.exit(trader.main())

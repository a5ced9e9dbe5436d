"""What a healthy call costs with sharing on, as a ratio to one with sharing off."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from fleet.bots import store_at
from shockproof import ErrorRecoveryService
from shockproof.memory.fleet.marked import marked
from shockproof.policies.fleet_limit import LimitRecord

ROUNDS = 21
CALLS = 20_000
ENOUGH = "100000000/s"
"""A rate limit that never holds anything back: what is measured is the counting."""


async def cost(rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, float]:
    """The median ratio of a circuit, and of a circuit with a rate limit."""
    from tests.integrations import store_servers

    async def answer() -> None: ...

    async def timed(handle: Any) -> float:
        begun = time.thread_time()
        for _ in range(calls):
            await handle.call(answer)
        return time.thread_time() - begun

    async def ratio(shared: Any, alone: Any) -> float:
        ratios = []
        await timed(shared)
        await timed(alone)
        for number in range(rounds):
            if number % 2:
                with_, without = await timed(shared), await timed(alone)
            else:
                without, with_ = await timed(alone), await timed(shared)
            ratios.append(with_ / without)
        return statistics.median(ratios)

    store_servers.HOST = "127.0.0.1"
    with tempfile.TemporaryDirectory() as folder, store_servers.redis_server(Path(folder) / "data") as server:
        store = store_at(f"redis://{server.address}", timeout=5.0)
        await store.put(
            "limits/shared limit", marked(LimitRecord({}).to_bytes(), await store.era())
        )  # so that it is not taken for a new one
        async with ErrorRecoveryService(
            Path(folder) / "state", Path(folder) / "errors", store=store, max_retries=0
        ) as recovery:
            circuits = recovery.service("shared", shared=True), recovery.service("alone")
            limits = (
                recovery.service("shared limit", shared=True, rate_limit=ENOUGH),
                recovery.service("limit", rate_limit=ENOUGH),
            )
            return {
                "circuit": await ratio(*circuits),
                "circuit and rate limit": await ratio(*limits),
            }

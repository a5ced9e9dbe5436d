"""Services that divide one rate limit through a real Redis and a real etcd, which are paused, killed and restarted empty."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from shockproof import ErrorRecoveryService, RateLimitedError
from shockproof.memory.fleet.marked import marked
from shockproof.policies.fleet_limit import LimitRecord
from tests.integrations.store_servers import PATIENCE, Server, needs_servers, store_at, until

pytestmark = [needs_servers, pytest.mark.asyncio]

LIMIT = 60
HOUR = 3600.0
"""The window: nothing leaves it while the test runs, however slow the machine is."""


async def test_one_limit_is_one_through_everything_that_befalls_its_store(
    server_of_its_own: Server, tmp_path: Path
) -> None:
    """What the venue has counted is the limit in the end, and never more: also when the store has forgotten everything."""
    store = store_at(server_of_its_own, timeout=PATIENCE)
    await store.put("limits/venue", marked(LimitRecord({}).to_bytes(), await store.era()))
    received: list[tuple[float, str]] = []

    async def send(name: str) -> None:
        received.append((time.monotonic(), name))

    bots: dict[str, ErrorRecoveryService] = {}

    async def join(name: str) -> ErrorRecoveryService:
        bots[name] = recovery = ErrorRecoveryService(
            tmp_path / name / "state",
            tmp_path / name / "errors",
            store=store_at(server_of_its_own),
            process_name=name,
        )
        recovery.service("venue", shared=True, max_retries=0, rate_limit=f"{LIMIT}/h")
        await recovery.start()
        return recovery

    def limit_of(name: str) -> dict[str, object]:
        shared = bots[name].get_health_status()["shared"]
        limits: dict[str, object] = shared["limits"]["venue"]
        return limits

    async def try_all() -> int:
        """Everybody tries to send more than there is, and waits for nothing; how much got through."""
        before = len(received)
        for _ in range(LIMIT):
            for name, recovery in bots.items():
                try:
                    await recovery.service("venue", max_retries=0, max_wait=0.0).call(send, name)
                except RateLimitedError:
                    pass
        return len(received) - before

    for name in "abc":
        await join(name)
    assert await asyncio.wait_for(asyncio.gather(*(
        recovery.service("venue", max_retries=0).call(send, name) for name, recovery in bots.items()
    )), PATIENCE) == [None] * 3  # fmt: skip
    assert {name for _, name in received} == set("abc")
    with server_of_its_own.paused():
        await try_all()
        assert len(received) <= LIMIT
    await until(lambda: all(limit_of(name)["is_certain"] for name in bots))

    async def all_is_sent() -> None:
        while len(received) < LIMIT:
            await try_all()
            await asyncio.sleep(0.01)

    await asyncio.wait_for(all_is_sent(), PATIENCE)
    assert len(received) == LIMIT

    server_of_its_own.kill()
    assert await try_all() == 0
    server_of_its_own.start()  # with nothing in it
    await join("d")
    await until(lambda: limit_of("d")["is_certain"] is True)
    await until(lambda: limit_of("a")["processes"] == len(bots))
    assert await try_all() == 0, "it waits for what those have sent whom the store has forgotten"
    assert received[-1][0] - received[0][0] < HOUR
    for recovery in bots.values():
        await recovery.aclose()
    await store.aclose()

"""A Redis without memory and an etcd without space: calls go on, health and the log say so, and all know afterwards."""

from __future__ import annotations

import base64
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, Handle, StateStore, StoreUnavailableError
from tests.integrations.store_servers import (
    PATIENCE,
    Server,
    etcd_server,
    needs_servers,
    redis_server,
    store_at,
    until,
)

pytestmark = [needs_servers, pytest.mark.asyncio]

QUOTA = 1_000_000


class Redis:
    """With a bound that is set in the middle."""

    reason = "OutOfMemoryError: command not allowed when used memory > 'maxmemory'"

    def server(self, folder: Path) -> Server:
        return redis_server(folder, "--maxmemory-policy", "noeviction")

    async def fill(self, server: Server) -> None:
        await self._allow(server, 1)

    async def make_room(self, server: Server) -> None:
        await self._allow(server, 0)

    async def _allow(self, server: Server, most: int) -> None:
        import redis.asyncio

        async with redis.asyncio.Redis.from_url(f"redis://{server.address}") as admin:
            await admin.config_set("maxmemory", most)


class Etcd:
    """Full of what somebody else has put there, until that is compacted and the alarm is switched off, as the how-to says."""

    reason = "database space exceeded"

    def server(self, folder: Path) -> Server:
        return etcd_server(folder, "--quota-backend-bytes", str(QUOTA))

    async def fill(self, server: Server) -> None:
        key, value = (base64.b64encode(one).decode() for one in (b"somebody else's", b"x" * (QUOTA // 5)))
        for _ in range(20):
            if "error" in await self._ask(server, "kv/put", key=key, value=value):
                return
        pytest.fail("it takes everything")

    async def make_room(self, server: Server) -> None:
        key = base64.b64encode(b"somebody else's").decode()
        revision = (await self._ask(server, "kv/deleterange", key=key))["header"]["revision"]
        await self._ask(server, "kv/compaction", revision=revision, physical=True)
        await self._ask(server, "maintenance/defragment")
        (alarm,) = (await self._ask(server, "maintenance/alarm", action="GET"))["alarms"]
        await self._ask(server, "maintenance/alarm", action="DEACTIVATE", **alarm)

    async def _ask(self, server: Server, what: str, **words: Any) -> dict[str, Any]:
        import httpx2

        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as admin:
            answer: dict[str, Any] = (
                await admin.post(f"http://{server.address}/v3/{what}", json=words)
            ).json()
            return answer


class Bot:
    """A process of the fleet, and what the store has refused it."""

    def __init__(self, name: str, store: StateStore, folder: Path) -> None:
        self.refused: list[str] = []
        put = store.put

        async def counted(*args: Any, **options: Any) -> int:
            try:
                return await put(*args, **options)
            except StoreUnavailableError as error:
                self.refused.append(str(error))
                raise

        store.put = counted  # type: ignore[method-assign]  # to be told of each refusal
        self.recovery = ErrorRecoveryService(
            folder / name / "state",
            folder / name / "errors",
            store=store,
            process_name=name,
            machine_name=name,
        )
        self.venue: Handle = self.recovery.service(
            "venue", shared=True, max_retries=0, circuit_threshold=3, circuit_timeout=3600.0
        )

    @property
    def shared(self) -> dict[str, Any]:
        told: dict[str, Any] = self.recovery.get_health_status()["shared"]
        return told

    async def call(self, error: Exception | None = None) -> str:
        async def send() -> str:
            if error is not None:
                raise error
            return "fine"

        return await self.venue.call(send)

    async def fails(self, times: int) -> None:
        for _ in range(times):
            with pytest.raises(ConnectionError):
                await self.call(ConnectionError("reset"))


@pytest.mark.parametrize("kind", [Redis(), Etcd()], ids=["redis", "etcd"])
async def test_what_is_found_out_while_the_store_is_full_is_told_when_there_is_room_again(
    kind: Redis | Etcd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers whoever reads. Nothing fails by it; one warning says why, however often it refuses, and one word that it is over."""
    caplog.set_level("INFO", "shockproof")

    def told(what: str) -> list[str]:
        return [one.getMessage() for one in caplog.records if what in one.getMessage()]

    with kind.server(tmp_path / "data") as server:
        async with AsyncExitStack() as stack:
            a, b = (Bot(name, store_at(server, timeout=PATIENCE), tmp_path) for name in "ab")
            for bot in (a, b):
                await stack.enter_async_context(bot.recovery)
            await until(lambda: all(bot.shared["state"] == "reachable" for bot in (a, b)))
            await kind.fill(server)
            await a.fails(3)
            await until(lambda: len(a.refused) >= 2)
            assert a.shared["state"] == "away"
            assert kind.reason in a.shared["last_error"]
            assert kind.reason in a.shared["trouble"]
            assert a.recovery.get_health_status()["overall_health"] != "healthy"
            assert await b.call() == "fine"
            assert b.shared["votes"] == {}
            await until(lambda: len(a.refused) >= 3)
            assert [kind.reason in line for line in told("is away")] == [True]
            assert told("is back") == []

            await kind.make_room(server)
            await until(lambda: b.shared["votes"] == {"venue": ["a"]})
            await b.fails(2)  # under suspicion
            await until(lambda: all(bot.shared["open_for_all"] == ["venue"] for bot in (a, b)))
            assert a.recovery.is_circuit_open("venue")
            assert b.recovery.is_circuit_open("venue")
            assert (a.shared["state"], a.shared["trouble"]) == ("reachable", None)
            assert (len(told("is away")), len(told("is back"))) == (1, 1)

"""Processes that share a circuit through a real Redis and a real etcd, which are killed, paused and restarted empty."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from shockproof import CircuitOpenError, ErrorRecoveryService
from shockproof.memory.fleet.marked import marked
from tests.integrations.store_servers import PATIENCE, Server, needs_servers, store_at, until

pytestmark = [needs_servers, pytest.mark.asyncio]


Joins = Callable[[str], Awaitable[ErrorRecoveryService]]


@pytest_asyncio.fixture
async def joins(server_of_its_own: Server, tmp_path: Path) -> AsyncIterator[Joins]:
    joined: list[ErrorRecoveryService] = []

    async def join(name: str) -> ErrorRecoveryService:
        recovery = ErrorRecoveryService(
            tmp_path / name / "state",
            tmp_path / name / "errors",
            store=store_at(server_of_its_own),
            process_name=name,
        )
        recovery.service("venue", shared=True, max_retries=0, circuit_threshold=3, circuit_timeout=3600.0)
        joined.append(recovery)
        await recovery.start()
        return recovery

    yield join
    for recovery in joined:
        await recovery.aclose()


async def fails(recovery: ErrorRecoveryService, times: int) -> None:
    async def send() -> None:
        raise ConnectionError("reset")

    for _ in range(times):
        with pytest.raises(ConnectionError):
            await recovery.service("venue", max_retries=0).call(send)


async def test_a_large_state_goes_through_the_store_to_the_next_machine(
    server_of_its_own: Server, tmp_path: Path
) -> None:
    """Larger than what etcd takes at a time."""
    admin = store_at(server_of_its_own, timeout=PATIENCE)
    await admin.put(
        "owned/account 7", marked(b"an earlier owner: nobody has to wait for it", await admin.era())
    )
    await admin.aclose()
    large = random.Random(1).randbytes(1_600_000).hex()
    for number in range(2):
        bot = ErrorRecoveryService(
            tmp_path / f"machine {number}" / "state",
            tmp_path / f"machine {number}" / "errors",
            store=store_at(server_of_its_own, timeout=PATIENCE),  # at its end it puts a state once
            owns="account 7",
            share_state=True,
        )
        await bot.start()
        await bot.owned()
        state = await bot.restore_state()
        assert (None if state is None else state.cached_data) == (
            {"large": large, "saved by": number - 1} if number else None
        )
        assert await bot.save_state(cached_data={"large": large, "saved by": number})
        await bot.aclose(timeout=PATIENCE)


async def test_a_process_with_a_service_for_each_of_many_symbols_shares_all_of_them(
    server_of_its_own: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """More of them than a client has connections, each with a rate limit."""
    recovery = ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", store=store_at(server_of_its_own, timeout=PATIENCE)
    )
    for number in range(102):
        recovery.service(f"symbol {number}", shared=True, rate_limit="1000/min")
    await recovery.start()
    admin = store_at(server_of_its_own, timeout=PATIENCE)
    async with asyncio.timeout(PATIENCE):
        while len(await admin.entries("lease/limits/")) < 102:  # noqa: ASYNC110 - what is waited for happens on a server
            await asyncio.sleep(0.05)
    assert recovery.get_health_status()["shared"]["state"] == "reachable"
    assert "failed" not in caplog.text
    await admin.aclose()
    await recovery.aclose(timeout=PATIENCE)


async def test_a_fleet_is_one_through_everything_that_befalls_its_store(
    server_of_its_own: Server, joins: Joins
) -> None:
    """Paused, killed, back and empty: calls go on at once, and afterwards all know what any has found out."""
    a, b, c = [await joins(name) for name in "abc"]
    bots = [a, b, c]

    def state_of(recovery: ErrorRecoveryService) -> str:
        return str(recovery.get_health_status()["shared"]["state"])

    await until(lambda: all(state_of(one) == "reachable" for one in bots))
    await fails(a, 3)
    await until(lambda: c.get_health_status()["shared"]["votes"] == {"venue": ["a"]})
    await until(lambda: b.get_health_status()["shared"]["votes"] == {"venue": ["a"]})
    assert not c.is_circuit_open("venue")
    await fails(b, 2)  # under suspicion
    await until(lambda: all(one.is_circuit_open("venue") for one in bots))
    c.reset_circuit_breaker("venue")
    await until(lambda: not any(one.is_circuit_open("venue") for one in bots))
    await until(lambda: all(one.get_health_status()["shared"]["votes"] == {} for one in bots))

    with server_of_its_own.paused():
        await fails(a, 3)
        await until(lambda: state_of(a) == "away")
        assert not b.is_circuit_open("venue")
    await until(lambda: b.get_health_status()["shared"]["votes"] == {"venue": ["a"]})

    server_of_its_own.kill()
    await until(lambda: all(state_of(one) == "away" for one in bots))
    await fails(b, 2)  # still suspicious: what was known stays known
    with pytest.raises(CircuitOpenError):
        await b.service("venue").call(fails, b, 1)
    assert not c.is_circuit_open("venue")
    server_of_its_own.start()  # with nothing in it
    await until(lambda: all(one.is_circuit_open("venue") for one in bots))
    late = await joins("d")
    await until(lambda: late.is_circuit_open("venue"))

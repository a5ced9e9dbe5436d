"""Services that a saved state names: known again after a restart, and not for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, ServiceStatus
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


async def earlier_life(clock: VirtualClock, place: Path) -> None:
    """A program that has left a degraded service and one that is well."""

    async def fails() -> None:
        raise ConnectionError("down")

    async with ErrorRecoveryService(place / "state", place / "errors", clock=clock) as recovery:
        await recovery.with_fallback(fails, lambda: 1, service_name="quotes")
        await recovery.retry_with_backoff(lambda: 1, service_name="orders")
        await recovery.save_state(force=True)


async def test_a_restored_service_shows_before_it_is_called(
    clock: VirtualClock, tmp_path: Path, script: Script
) -> None:
    """With the status that it had beside the one that it has, of which nobody has seen anything bad yet."""
    await earlier_life(clock, tmp_path)
    async with ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock) as recovery:
        await recovery.restore_state()
        health = recovery.get_health_status()
        assert health["overall_health"] == "healthy"
        assert health["service_statuses"] == {"quotes": "operational", "orders": "operational"}
        assert {name: one["restored_status"] for name, one in health["services"].items()} == {
            "quotes": "degraded",
            "orders": "operational",
        }
        await recovery.retry_with_backoff(script("answer"), service_name="quotes")
        services = recovery.get_health_status()["services"]
        assert (services["quotes"]["restored_status"], services["orders"]["restored_status"]) == (
            None,
            "operational",
        )


async def test_a_service_that_nobody_uses_any_more_is_not_handed_on(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """Else the names that a program makes for each symbol would be known for ever."""
    await earlier_life(clock, tmp_path)
    async with ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock) as recovery:
        await recovery.restore_state()
        recovery.service("orders")
        await recovery.save_state(force=True)
        assert recovery.get_all_service_statuses().keys() == {"quotes", "orders"}
        state = await recovery.restore_state()
        assert state is not None
        assert state.service_statuses == {"orders": ServiceStatus.OPERATIONAL}


async def test_a_service_that_was_retired_is_not_restored(clock: VirtualClock, tmp_path: Path) -> None:
    """A state that is read once more brings nothing back that the program has forgotten by intent."""
    await earlier_life(clock, tmp_path)
    async with ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock) as recovery:
        handle = recovery.service("quotes")
        await recovery.restore_state()
        assert recovery.retire_service("quotes")
        await recovery.restore_state()
        assert recovery.get_all_service_statuses().keys() == {"orders"}
        assert await handle.call(lambda: 1) == 1
        assert recovery.get_all_service_statuses().keys() == {"orders", "quotes"}

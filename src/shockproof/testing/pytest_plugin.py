"""
Fixtures for pytest: `clock` puts a test on virtual time, `recovery` gives it a service on that clock.

Load it in a conftest: ``pytest_plugins = ["shockproof.testing.pytest_plugin"]``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from shockproof.service import ErrorRecoveryService
from shockproof.testing.virtual_time import VirtualClock, VirtualTimeLoop

__all__ = ["clock", "recovery"]


@pytest.hookimpl(trylast=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests that ask for `clock`, themselves or through a fixture, run on a loop with virtual time, others on a real one."""
    names: list[str] = getattr(item, "fixturenames", [])
    if "clock" in names:
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}


@pytest_asyncio.fixture
async def clock() -> VirtualClock:
    """The virtual clock of the loop this test runs on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop.clock


@pytest_asyncio.fixture
async def recovery(clock: VirtualClock, tmp_path: Path) -> AsyncIterator[ErrorRecoveryService]:
    """A recovery service on virtual time with directories of its own; closed after the test."""
    service = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock, rng=random.Random(7))
    yield service
    await service.aclose()

"""A program whose default executor is full of calls that block, as aiofiles and `to_thread` of others leave it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shockproof import ErrorRecoveryService

PATIENCE = 60.0


async def fails() -> None:
    raise ConnectionError("reset")


def test_what_goes_to_the_disk_waits_for_no_thread_of_the_programs_own(tmp_path: Path) -> None:
    """Errors, state, operations, plain functions: all have threads of their own."""
    over = threading.Event()

    async def everything() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        blocked = [loop.run_in_executor(None, over.wait) for _ in range(8)]
        async with ErrorRecoveryService(tmp_path / "state", tmp_path / "errors") as recovery:
            with pytest.raises(ConnectionError):
                await recovery.retry_with_backoff(fails, max_retries=0)
            assert await recovery.save_state(cached_data={"AAPL": 150.25})
            async with recovery.operation("rebalance") as operation:
                await operation.checkpoint(index=1)
            assert await recovery.service("plain").call(threading.get_ident) != threading.get_ident()
            state = await recovery.restore_state()
            assert state is not None
            assert state.cached_data == {"AAPL": 150.25}
        assert [record.error_message async for record in recovery.read_errors()] == ["reset"]
        assert not any(future.done() for future in blocked)
        over.set()
        await asyncio.gather(*blocked)

    try:
        asyncio.run(asyncio.wait_for(everything(), PATIENCE))
    finally:
        over.set()

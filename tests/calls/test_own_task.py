"""Attempts with grace: a callee that ignores its cancellation cannot hold the caller."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shockproof import NOT_FOUND, AttemptTimeoutError, ErrorRecoveryService
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


async def stubborn(clock: VirtualClock, ends: float, answer: str = "late") -> str:
    """Runs until *ends*, whoever cancels it."""
    while clock.monotonic() < ends:
        try:
            await asyncio.sleep(ends - clock.monotonic())
        except asyncio.CancelledError:
            continue
    return answer


def abandoned(recovery: ErrorRecoveryService) -> int:
    count: int = recovery.get_health_status()["services"]["venue"]["abandoned_attempts"]
    return count


async def test_caller_waits_at_most_timeout_and_grace(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The caller gets its timeout after the grace, and the straggler is counted until it ends."""
    venue = recovery.service("venue", timeout=1.0, grace=0.5, max_retries=0)
    begun = clock.monotonic()

    with pytest.raises(AttemptTimeoutError):
        await venue.call(stubborn, clock, begun + 10)

    assert clock.monotonic() - begun == 1.5
    assert abandoned(recovery) == 1
    await asyncio.sleep(10)
    assert abandoned(recovery) == 0


async def test_an_answer_within_the_grace_is_the_answer(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A callee that finishes what it was doing is not thrown away."""
    venue = recovery.service("venue", timeout=1.0, grace=0.5, max_retries=0)

    assert await venue.call(stubborn, clock, clock.monotonic() + 1.2, "in time") == "in time"


async def test_cancelled_caller_waits_no_longer_than_the_grace(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The caller's own cancellation is passed to the callee and comes out after the grace at the latest."""
    venue = recovery.service("venue", grace=0.5)
    task = asyncio.create_task(venue.call(stubborn, clock, clock.monotonic() + 60))
    await asyncio.sleep(0.25)
    cancelled_at = clock.monotonic()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert clock.monotonic() - cancelled_at == 0.5
    assert recovery.get_error_summary()["total_errors"] == 0
    assert abandoned(recovery) == 1
    await asyncio.sleep(60)
    assert abandoned(recovery) == 0


async def test_callees_own_error_passes_unchanged(recovery: ErrorRecoveryService) -> None:
    """The task around the attempt does not change what the callee raises."""
    error = ValueError("no such symbol")

    async def fails() -> None:
        raise error

    with pytest.raises(ValueError, match="no such symbol") as raised:
        await recovery.service("venue", grace=1.0, max_retries=0).call(fails)

    assert raised.value is error


@pytest.mark.parametrize("both", [False, True])
async def test_cancelled_before_its_first_step_nothing_ran(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    """A loop that ends cancels all tasks: Python would warn of what nobody awaited, and call an order unknown that was never sent."""
    ran: list[str] = []
    loop = asyncio.get_running_loop()
    create_task = loop.create_task

    async def submit(key: str) -> None:
        ran.append(key)

    async def find(key: str) -> object:
        return NOT_FOUND

    def cancelled_at_once(coroutine: Any, **more: Any) -> Any:
        task = create_task(coroutine, **more)
        task.cancel()
        if both:
            order.cancel()
        return task

    once = recovery.service("venue", grace=0.5).once("mine", confirm=find)
    order = create_task(once.call(submit, "mine"))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "create_task", cancelled_at_once)
        await asyncio.wait({order})

    assert order.cancelled()
    assert ran == []
    assert await recovery.restore_state() is None

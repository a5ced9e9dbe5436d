"""Whatever goes wrong at the service and whenever callers are cancelled: what was taken is given back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest  # noqa: TC002 - Hypothesis reads the annotations
from hypothesis import given, settings
from hypothesis import strategies as st

from shockproof import ErrorRecoveryService, Handle, RetryBudget, ShockproofError
from shockproof.testing import Delays, Fails, FaultInjector, Hangs, VirtualClock
from shockproof.testing.pytest_plugin import left_behind

STEPS = [
    None,
    ConnectionError,
    Fails(TimeoutError, sent=True),
    Delays(0.7),
    Delays(0.7, sent=True),
    (Delays(0.3), Fails(ConnectionError)),
    Hangs(),
    Hangs(sent=True),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"grace": 0.5},
    {"max_concurrent": 1, "max_queue": 3, "max_wait": 2.0},
    {"rate_limit": "2/s"},
    {"max_concurrent": 2, "rate_limit": "3/s", "max_queue": 2},
    {"circuit_threshold": 2, "circuit_timeout": 0.5},
    {"hedge_after": 0.4, "max_hedges": 2, "max_concurrent": 3},
    {"failure_rate": 0.5, "min_calls": 2, "half_open_probes": 2, "circuit_timeout": 0.5},
]


async def called(handle: Handle, clock: VirtualClock) -> None:
    await handle.call(clock.sleep, 0.2)


async def guarded(handle: Handle, clock: VirtualClock) -> None:
    async with handle.guard():
        await clock.sleep(0.2)


async def repeated(handle: Handle, clock: VirtualClock) -> None:
    async for attempt in handle.attempts():
        async with attempt:
            await clock.sleep(0.2)


@settings(max_examples=150, deadline=None)
@given(
    options=st.sampled_from(OPTIONS),
    plan=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8),
    calls=st.lists(
        st.tuples(
            st.sampled_from([called, guarded, repeated]),
            st.floats(0, 3),  # when it begins
            st.none() | st.floats(0, 4),  # when it is cancelled
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_nothing_is_left_after_any_faults_and_any_cancellations(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any], plan: list[Any], calls: list[Any]
) -> None:
    """Places, tokens, probes, budget and waits are all back when the last call has ended."""
    directory = tmp_path_factory.getbasetemp()
    clock = VirtualClock()
    recovery = ErrorRecoveryService(directory / "s", directory / "e", clock=clock, base_delay=0.1)
    budget = RetryBudget(capacity=5, per_success=0)
    handle = recovery.service("api", timeout=1.0, deadline=6.0, retry_budget=budget, max_retries=2, **options)

    async def one(form: Any, begins: float, cancelled: float | None) -> None:
        await clock.sleep(begins)
        task = asyncio.ensure_future(form(handle, clock))
        if cancelled is not None:
            await clock.sleep(cancelled)
            task.cancel()
        try:
            await task
        except (OSError, TimeoutError, ShockproofError):
            pass
        except asyncio.CancelledError:
            assert cancelled is not None

    async def all_of_them() -> None:
        with FaultInjector(recovery).on("api", plan=plan, repeat=True):
            await asyncio.gather(*(one(*call) for call in calls))
            await clock.sleep(70)  # longer than any circuit is open
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert left_behind(recovery) == []
        assert 0 <= budget.tokens <= budget.capacity
        await handle.call(clock.sleep, 0)  # whatever it was: it is over
        await recovery.aclose()

    clock.run(all_of_them())

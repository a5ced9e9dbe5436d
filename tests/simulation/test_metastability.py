"""
A storm that outlives its cause: does the load come down again when the trigger is over?

One server, 100 calls a second, first in first out; it works off what nobody waits for any more. Clients
ask 80 times a second and wait one second. For ten seconds the server has half its capacity. Naive
retries then keep it overloaded for ever ("Metastable Failures in the Wild", OSDI 2022).
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, RetryBudget
from shockproof.testing import VirtualClock

CAPACITY, OFFERED = 100.0, 80.0
TRIGGER_BEGINS, TRIGGER_ENDS = 10.0, 20.0


@dataclass
class Result:
    """What came of it after the trigger."""

    goodput: float
    """Share of the calls begun in the last ten seconds that were answered."""
    load: float
    """Requests that reached the server in those seconds, for each call that was begun."""


async def storm(
    clock: VirtualClock, directory: Path, options: dict[str, Any], *, seconds: float = 60.0
) -> Result:
    """The same storm, whatever the options: arrivals and service times are drawn from fixed seeds."""
    arrivals, service_times = random.Random(1), random.Random(2)
    recovery = ErrorRecoveryService(directory / "s", directory / "e", clock=clock, rng=random.Random(3))
    backend = recovery.service("backend", timeout=1.0, **options)
    begun = clock.monotonic()
    busy_until, requests, calls, answered = begun, 0, 0, 0

    def counts() -> bool:
        return clock.monotonic() - begun >= seconds - 10

    async def serve() -> None:
        nonlocal busy_until, requests
        now = clock.monotonic()
        requests += counts()
        halved = TRIGGER_BEGINS <= now - begun < TRIGGER_ENDS
        work = service_times.expovariate(CAPACITY / 2 if halved else CAPACITY)
        busy_until = max(now, busy_until) + work
        await asyncio.sleep(busy_until - now)

    async def call() -> None:
        nonlocal calls, answered
        late = counts()
        calls += late
        try:
            await backend.call(serve)
        except Exception:  # noqa: BLE001 - whatever it was: it was not answered
            return
        answered += late

    running: set[asyncio.Task[None]] = set()
    while clock.monotonic() - begun < seconds:
        task = asyncio.create_task(call())
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(arrivals.expovariate(OFFERED))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await recovery.aclose()
    return Result(goodput=answered / calls, load=requests / calls)


PRESET: dict[str, Any] = {
    "jitter": "full",
    "circuit_threshold": None,
    "failure_rate": 0.5,
    "circuit_timeout": 5.0,
}
NAIVE: dict[str, Any] = {"jitter": "full", "circuit_threshold": None}


@pytest.mark.asyncio
async def test_naive_retries_keep_the_server_down_for_ever(clock: VirtualClock, tmp_path: Path) -> None:
    """Forty seconds after the trigger nearly nobody is answered, and several times the load arrives."""
    result = await storm(clock, tmp_path, NAIVE)

    assert result.goodput < 0.2
    assert result.load > 2


@pytest.mark.asyncio
async def test_preset_recovers_when_the_trigger_is_over(clock: VirtualClock, tmp_path: Path) -> None:
    """A breaker by rate and a budget funded by successes: all is well within thirty seconds."""
    result = await storm(clock, tmp_path, {**PRESET, "retry_budget": RetryBudget()})

    assert result.goodput > 0.95
    assert result.load < 1.3


@pytest.mark.asyncio
async def test_seeds_defaults_end_the_storm_and_rest_for_a_minute(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """Five failures in a row open the circuit: the server is left alone, and nobody is served meanwhile."""
    result = await storm(clock, tmp_path, {})

    assert result.goodput == 0.0
    assert result.load == 0.0


@pytest.mark.asyncio
async def test_seeds_defaults_serve_again_after_their_minute(clock: VirtualClock, tmp_path: Path) -> None:
    """The probe finds the server well, and the storm does not come back."""
    result = await storm(clock, tmp_path, {}, seconds=100.0)

    assert result.goodput > 0.95
    assert result.load < 1.3

"""Processes that call often, rarely and hardly ever, through an outage and its end: few probes, and none too late."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis.strategies import floats, integers, lists, none, sampled_from

from shockproof import CircuitOpenError, ErrorRecoveryService, MemoryStore
from shockproof.testing import VirtualClock

LONGEST = 5.0
"""Seconds that a call takes at most."""


class Fleet:
    """Each process calls every so many seconds; what is sent where the circuit is not closed is a probe."""

    def __init__(self, every: list[float], rng: random.Random) -> None:
        self.bots: list[ErrorRecoveryService] = []
        self.every = every
        self.is_down = True
        self.probing = self.most = 0
        self._rng = rng

    def is_closed(self, number: int) -> bool:
        return self.bots[number].service("venue").plan.state.circuit.closed is not None

    async def call(self, number: int) -> None:
        async def send() -> None:
            is_probe = not self.is_closed(number)
            self.probing += is_probe
            self.most = max(self.most, self.probing)
            try:
                await asyncio.sleep(LONGEST * self._rng.random())
            finally:
                self.probing -= is_probe
            if self.is_down:
                raise ConnectionError("down")

        try:
            await self.bots[number].service("venue").call(send)
        except (ConnectionError, CircuitOpenError):
            pass

    async def calls(self, number: int) -> None:
        while True:
            await asyncio.sleep(self.every[number] * self._rng.uniform(0.5, 1.0))
            await self.call(number)


@given(
    every=lists(sampled_from([0.5, 1.0, 7.0, 20.0, 45.0, 100.0, 300.0]), min_size=2, max_size=6),
    probes=integers(1, 2),
    timeout=none() | sampled_from([6.0, 20.0]),
    circuit_timeout=sampled_from([5.0, 30.0, 60.0]),
    outage=floats(1.0, 200.0),
    seed=integers(0, 1000),
)
@settings(max_examples=5, deadline=None)
def test_however_rarely_each_process_calls_a_venue_that_is_back_is_found_and_never_probed_by_more_than_may(
    every: list[float],
    probes: int,
    timeout: float | None,
    circuit_timeout: float,
    outage: float,
    seed: int,
) -> None:
    """A lease for probing that is over too soon, or that is kept from others, would leave the circuit open for ever."""
    clock, fleet = VirtualClock(), Fleet(every, random.Random(seed))

    async def session(directory: Path) -> None:
        store = MemoryStore(clock=clock)
        for number in range(len(every)):
            recovery = ErrorRecoveryService(
                directory / f"{number}" / "state",
                directory / f"{number}" / "errors",
                store=store,
                process_name=f"bot-{number}",
                machine_name=f"machine {number % 3}",
                clock=clock,
                rng=random.Random(seed + number),
            )
            recovery.service(
                "venue", shared=True, max_retries=0, circuit_threshold=3, circuit_timeout=circuit_timeout,
                half_open_probes=probes, timeout=timeout,
            )  # fmt: skip
            fleet.bots.append(recovery)
            await recovery.start()
        numbers = range(len(every))
        try:
            for number in numbers:
                while fleet.is_closed(number):
                    await fleet.call(number)
            calling = [asyncio.create_task(fleet.calls(number)) for number in numbers]
            await asyncio.sleep(outage)
            fleet.is_down = False
            async with asyncio.timeout(3 * circuit_timeout + 20 * probes * min(every) + 300.0):
                while not all(fleet.is_closed(number) for number in numbers):  # noqa: ASYNC110 - time is virtual
                    await asyncio.sleep(1.0)
            for task in calling:
                task.cancel()
            await asyncio.gather(*calling, return_exceptions=True)
        finally:
            for recovery in fleet.bots:
                await recovery.aclose()
        assert fleet.most <= probes

    with TemporaryDirectory() as directory:
        clock.run(session(Path(directory)))

"""
What a call took of a circuit it gives back exactly once, and what it found out is told exactly once.

Whichever way it is made, whatever the circuit's mode and state, and wherever it is cancelled.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shockproof import CircuitBreaker, CircuitOpenError, ErrorRecoveryService, Handle
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import Admission, Circuit
from shockproof.policies.open_time import OpenTime
from shockproof.policies.trip_rates import Rates
from shockproof.testing import VirtualClock, VirtualTimeLoop, cancel_at_each_await
from shockproof.vocabulary.statuses import CIRCUIT_MODES, CircuitMode

CAUSE = "ConnectionError: down"
Function = Callable[[], Awaitable[str]]


async def called(handle: Handle, function: Function) -> str:
    return await handle.call(function)


async def decorated(handle: Handle, function: Function) -> str:
    return await handle(function)()


async def guarded(handle: Handle, function: Function) -> str:
    async with handle.guard():
        return await function()


async def repeated(handle: Handle, function: Function) -> str:
    async for attempt in handle.attempts():
        async with attempt:
            return await function()
    raise AssertionError("the loop ended without an answer and without an error")


FORMS = (called, decorated, guarded, repeated)


def in_flight(state: ServiceState) -> int:
    """What calls hold of the circuit's places, of the queues of ages, and of the limits."""
    ages = 0 if state.call_ages is None else sum(len(q.in_flight) for q in state.call_ages._queues.values())
    limits = 0 if state.limits is None else state.limits.in_flight + state.limits.queued
    return state.circuit.probing + ages + int(limits)


# -- cancelled at every await ----------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "bare": {},
    "ages": {"max_call_age": 0.75},
    "rates over calls": {"failure_rate": 0.5, "window_calls": 10},
    "limits": {"max_concurrent": 1, "max_queue": 1},
    "limits and ages": {"max_concurrent": 1, "max_queue": 1, "max_call_age": 0.75},
    "timeout": {"timeout": 0.75},
    "own task": {"timeout": 0.75, "grace": 0.5, "max_call_age": 0.5},
    "hedge": {"hedge_after": 0.25, "max_retries": 1, "max_call_age": 0.5},
    "fallback": {"fallback": "stand-in"},
}


async def stands_before(state: ServiceState, where: str, now: float) -> None:
    """Put a fresh circuit where a call is to find it."""
    circuit = state.circuit
    if where in {"open", "half-open"}:
        opened_at = now if where == "open" else now - circuit.timeout
        ticket = circuit.admit(opened_at)
        assert ticket is not None
        ticket.failed(opened_at, CAUSE)
    elif where != "closed":
        mode: Any = where
        state.set_circuit_mode(mode, None)


@pytest.mark.asyncio
@pytest.mark.parametrize("failures", [0, 1, 99])
@pytest.mark.parametrize("where", ["closed", "open", "half-open", "shadow", "disabled", "forced-open"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
async def test_a_call_that_is_cancelled_at_any_await_leaves_the_circuit_as_it_found_it(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    form: Callable[[Handle, Function], Awaitable[str]],
    options: str,
    where: str,
    failures: int,
) -> None:
    """Nothing is held, the verdict is that of the attempts which ended, and the next call is admitted."""
    number = itertools.count()
    begun: list[int] = []
    ended: list[int] = []
    current: list[ServiceState] = []

    def make_call() -> Awaitable[str]:
        begun.clear()
        ended.clear()

        async def answer() -> str:
            begun.append(1)
            await asyncio.sleep(0)
            await clock.sleep(0.5)
            ended.append(1)
            if len(ended) <= failures:
                raise ConnectionError("down")
            return "answer"

        async def call() -> str:
            name = f"api {next(number)}"
            handle = recovery.service(
                name, **{"circuit_threshold": 1, "max_retries": 1, "base_delay": 0.25, **OPTIONS[options]}
            )
            current[:] = [recovery._registry.get_or_create(name)]
            await stands_before(current[0], where, clock.monotonic())
            return await form(handle, answer)

        return call()

    seen_cancelled = 0
    async for run in cancel_at_each_await(make_call):
        (state,) = current
        assert in_flight(state) == 0, run
        circuit = state.circuit
        if not run.was_cancelled:
            continue
        seen_cancelled += 1
        assert run.delay == 0.0
        overdue = state.overdue or state.timeouts
        if where == "half-open" and failures == 0 and not overdue:
            assert circuit.state(clock.monotonic()) == "half-open", run
            assert circuit.admit(clock.monotonic()) is not None
        if where == "closed" and not ended and not overdue:
            assert repr(circuit) == "<Circuit closed, 0 of 1 failures in a row>", run
        if where in {"shadow", "disabled"}:
            assert circuit.state(clock.monotonic()) == "closed"
            assert circuit.admit(clock.monotonic()) is not None
    if where in {"open", "forced-open"}:
        assert not begun
    else:
        assert seen_cancelled > 0


# -- against a circuit that is told by hand ---------------------------------------------------------------

AGE = 4.0


class CallsAgainstCircuit(RuleBasedStateMachine):
    """
    Calls of every form that succeed, fail, hang and are cancelled, in virtual time, in any order.

    Beside the breaker stands a bare circuit, which the called functions tell themselves what became
    of them. Whatever the executor tells too often, too late, or not at all, makes a difference.
    """

    @initialize(
        threshold=st.sampled_from([1, 2, 3]),
        probes=st.integers(1, 3),
        lease=st.sampled_from([None, 2.0, 100.0]),
        rates=st.sampled_from(
            [
                {},
                {"failure_rate": 0.5, "min_calls": 3},
                {"slow_call_after": 2.0, "slow_call_rate": 0.5, "min_calls": 2, "window_calls": 4},
            ]
        ),
        has_ages=st.booleans(),
        factor=st.sampled_from([1.0, 2.0]),
    )
    def start(
        self,
        threshold: int,
        probes: int,
        lease: float | None,
        rates: dict[str, Any],
        has_ages: bool,
        factor: float,
    ) -> None:
        self.clock = VirtualClock()
        self.loop = VirtualTimeLoop(self.clock)
        self.lease = lease
        self.age = AGE if has_ages else None
        self.breaker = CircuitBreaker(
            clock=self.clock,
            circuit_threshold=threshold,
            circuit_timeout=8.0,
            circuit_timeout_factor=factor,
            half_open_probes=probes,
            probe_lease=lease,
            max_call_age=self.age,
            **rates,
        )
        self.circuit = self.breaker.plan.state.circuit
        self.twin = Circuit(threshold=threshold, timeout=8.0, probes=probes)
        self.twin.open_time = OpenTime(factor=factor)
        self.twin.watch(Rates(**rates))
        self.tasks: list[asyncio.Task[None]] = []

    def now(self) -> float:
        return self.clock.monotonic()

    async def make(
        self,
        form: Callable[[Handle, Function], Awaitable[str]],
        outcome: str,
        seconds: float,
        *,
        risk_reducing: bool,
    ) -> None:
        ticket = self.twin.admit(self.now(), lease=self.lease)

        async def function() -> str:
            assert ticket is not None or risk_reducing
            return await self.told(ticket, outcome, seconds)

        handle = self.breaker.using(risk_reducing=True) if risk_reducing else self.breaker
        try:
            assert await form(handle, function) == "answer"
        except CircuitOpenError:
            assert ticket is None
        except ConnectionError:
            assert outcome == "failed"

    async def told(self, ticket: Admission | None, outcome: str, seconds: float) -> str:
        began = self.now()
        is_overdue = False

        def overdue() -> None:
            nonlocal is_overdue
            is_overdue = True
            if ticket is not None and self.age is not None:
                ticket.overdue(self.now(), CAUSE, self.age)

        timer = None if self.age is None else self.loop.call_later(self.age, overdue)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if ticket is not None:
                ticket.released()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if ticket is not None:
            if is_overdue:
                ticket.released()
            elif outcome == "failed":
                ticket.failed(self.now(), CAUSE, self.now() - began)
            else:
                ticket.succeeded(self.now(), self.now() - began)
        if outcome == "failed":
            raise ConnectionError("down")
        return "answer"

    def turn(self, seconds: float) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            for _ in range(5):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            if not task.cancelled():
                task.result()

    @rule(
        form=st.sampled_from(FORMS),
        outcome=st.sampled_from(["succeeded", "failed"]),
        seconds=st.sampled_from([0.0, 0.5, 1.5, 3.0, 6.0, 50.0]),
        callers=st.sampled_from([1, 1, 3]),
        risk_reducing=st.sampled_from([False, False, False, True]),
    )
    def call(
        self,
        form: Callable[[Handle, Function], Awaitable[str]],
        outcome: str,
        seconds: float,
        callers: int,
        risk_reducing: bool,
    ) -> None:
        for _ in range(callers):
            made = self.make(form, outcome, seconds, risk_reducing=risk_reducing)
            self.tasks.append(self.loop.create_task(made))
        self.turn(0.0)

    @rule(index=st.integers(0, 20))
    def cancel(self, index: int) -> None:
        if self.tasks:
            self.tasks[index % len(self.tasks)].cancel()
            self.turn(0.0)

    @rule(seconds=st.sampled_from([0.25, 1.0, 3.0, 8.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.turn(seconds)

    @rule(dice=st.integers(0, 3), mode=st.sampled_from(CIRCUIT_MODES))
    def set_mode(self, dice: int, mode: CircuitMode) -> None:
        if dice == 0:
            self.breaker.set_mode(mode)
            self.twin.set_mode(mode)

    @rule(dice=st.integers(0, 3))
    def reset(self, dice: int) -> None:
        if dice == 0:
            self.breaker.reset()
            self.twin.reset(self.now())

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "twin"):
            return
        now, circuit, twin = self.now(), self.circuit, self.twin
        assert circuit.state_by_rules(now) == twin.state_by_rules(now)
        assert circuit.open_by_rules_for(now) == twin.open_by_rules_for(now)
        assert (circuit.trips, circuit.shadow_trips) == (twin.trips, twin.shadow_trips)
        assert circuit.shadow_refusals == twin.shadow_refusals
        assert circuit.probing == twin.probing <= circuit.probes
        assert repr(circuit) == repr(twin)

    def teardown(self) -> None:
        if not hasattr(self, "twin"):
            return
        for task in self.tasks:
            task.cancel()
        self.turn(0.0)
        assert in_flight(self.breaker.plan.state) == 0
        self.loop.close()


CallsAgainstCircuit.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestCallsAgainstCircuit = CallsAgainstCircuit.TestCase


# -- two loops in two threads -----------------------------------------------------------------------------


@pytest.mark.usefixtures("_eager_switching")
def test_loops_in_two_threads_never_exceed_the_probes_and_leave_nothing_behind() -> None:
    """Calls that succeed, fail and are cancelled, while the time and the modes are moved from both."""
    seconds = [1_000.0]
    breaker = CircuitBreaker(
        circuit_threshold=2,
        circuit_timeout=1.0,
        circuit_timeout_factor=2.0,
        max_circuit_timeout=2.0,
        half_open_probes=2,
        probe_lease=1e9,
        max_call_age=1e6,
        failure_rate=0.5,
        min_calls=4,
        window_calls=8,
        clock=lambda: seconds[0],
    )
    state = breaker.plan.state
    circuit = state.circuit
    probes_seen: set[int] = set()
    barrier = threading.Barrier(2)

    def run(seed: int) -> None:
        rng = random.Random(seed)

        async def function(turns: int, *, fails: bool) -> None:
            probes_seen.add(circuit.probing)
            for _ in range(turns):
                await asyncio.sleep(0)
            if fails:
                raise ConnectionError("down")

        async def main() -> None:
            for turn in range(200):
                barrier.wait()  # otherwise one thread may be done before the other has begun
                seconds[0] += 0.5
                if turn % 20 == seed:
                    breaker.set_mode("normal" if turn % 40 < 20 else rng.choice(CIRCUIT_MODES))
                if turn % 50 == seed:
                    breaker.reset()
                tasks = [
                    asyncio.create_task(breaker.call(function, rng.randrange(4), fails=rng.random() < 0.4))
                    for _ in range(6)
                ]
                await asyncio.sleep(0)
                rng.choice(tasks).cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        try:
            asyncio.run(main())
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken
    assert probes_seen == {0, 1, 2}
    assert in_flight(state) == 0
    breaker.set_mode("disabled")
    breaker.set_mode("normal")
    assert repr(circuit) == "<Circuit closed, 0 of 2 failures in a row>"

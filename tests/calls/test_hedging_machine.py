"""Hedged calls in any order of events against a model of a few lines; what they took is conserved at every step."""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shockproof import ErrorRecoveryService, RetryBudget
from shockproof.testing import VirtualClock, VirtualTimeLoop

ANSWER, FAIL, REFUSE = "answers", "fails", "refuses"

TICK = 1 / 1024
"""Seconds that each event takes. All waits are whole eighths, so that no two things are ever due at once."""

CLEANING = 0.25
"""Seconds that a loser of the slow kind cleans up."""


class RefusedError(Exception):
    """The other side has answered no; no repetition is worth it."""


@dataclass(eq=False)
class Leg:
    """One request: how it is told to end, and how it has ended."""

    number: int
    end: asyncio.Future[str]
    ended: str = ""


@dataclass(eq=False)
class Call:
    """One call: what really became of it, and what the model says."""

    loser: str
    legs: list[Leg] = field(default_factory=list[Leg])
    task: asyncio.Task[int] | None = None
    # The model's.
    expected: list[str] = field(default_factory=lambda: [""])
    due: float | None = None
    cleaned_at: float = 0.0
    hedges: int = 0
    first_failed: bool = False
    outcome: str = ""

    @property
    def flying(self) -> list[int]:
        return [number for number, ended in enumerate(self.expected) if not ended]


class HedgedCalls(RuleBasedStateMachine):
    """
    Several calls share a budget and places; requests answer, fail, are refused, hang, and lose.

    The model knows each call's requests, when its next hedge is due, and what the budget holds.
    """

    @initialize(
        most=st.integers(1, 3),
        capacity=st.sampled_from([1.0, 2.0, 5.0, 20.0, 50.0]),
        per_success=st.sampled_from([0.0, 0.5, 1.0]),
        hedge_after=st.sampled_from([0.125, 0.5, 1.0]),
    )
    def start(self, most: int, capacity: float, per_success: float, hedge_after: float) -> None:
        self.clock = VirtualClock()
        self.loop = VirtualTimeLoop(self.clock)
        self.directory = tempfile.TemporaryDirectory()
        self.recovery = ErrorRecoveryService(
            self.directory.name, self.directory.name, clock=self.clock, rng=random.Random(1)
        )
        self.budget = RetryBudget(capacity=capacity, per_success=per_success)
        self.api = self.recovery.service(
            "api", hedge_after=hedge_after, max_hedges=most, retry_budget=self.budget, max_concurrent=100,
            circuit_threshold=1000, retry_on=ConnectionError,
        )  # fmt: skip
        self.most, self.hedge_after = most, hedge_after
        self.tokens = capacity
        self.successes = self.failures = self.in_a_row = self.hedges = 0
        self.calls: list[Call] = []

    # -- the real thing ------------------------------------------------------------------------------

    async def request(self, call: Call) -> int:
        leg = Leg(len(call.legs), self.loop.create_future())
        call.legs.append(leg)
        try:
            told = await leg.end
        except asyncio.CancelledError:
            if call.loser == "cleans up":
                await asyncio.sleep(CLEANING)
            leg.ended = "cancelled"
            if call.loser == "fails":
                raise ConnectionError("while it was cancelled") from None
            raise
        leg.ended = told
        if told == FAIL:
            raise ConnectionError(f"request {leg.number}")
        if told == REFUSE:
            raise RefusedError(f"request {leg.number}")
        return leg.number

    def turn(self, seconds: float) -> None:
        self.turns(8)
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.turns(8)

    def turns(self, number: int) -> None:
        async def wait() -> None:
            for _ in range(number):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def pass_time(self, seconds: float) -> None:
        self.turn(seconds)
        self.advance_model()

    # -- the model -----------------------------------------------------------------------------------

    def now(self) -> float:
        return self.clock.monotonic()

    def advance_model(self) -> None:
        while due := [call for call in self.calls if call.due is not None and call.due <= self.now()]:
            call = min(due, key=lambda one: one.due or 0.0)
            assert call.due is not None
            self.hedge_at(call, call.due)

    def hedge_at(self, call: Call, moment: float) -> None:
        call.due = None
        if call.hedges == self.most:
            return
        if self.tokens < 1:
            call.hedges = self.most  # not now, and so not later
            return
        self.tokens -= 1
        self.hedges += 1
        call.hedges += 1
        call.expected.append("")
        if call.hedges < self.most:
            call.due = moment + self.hedge_after

    def failed(self) -> None:
        self.failures += 1
        self.in_a_row += 1

    def over(self, call: Call, outcome: str) -> None:
        call.outcome, call.due = outcome, None
        call.cleaned_at = self.now() + (CLEANING if call.loser == "cleans up" else 0.0)
        for number in call.flying:
            call.expected[number] = "cancelled"

    def ends(self, call: Call, number: int, how: str) -> None:
        call.expected[number] = how
        if how == ANSWER:
            self.successes += 1
            self.in_a_row = 0
            if call.first_failed:
                self.failed()
            self.tokens = min(self.budget.capacity, self.tokens + self.budget.per_success)
            self.over(call, f"answer {number}")
        elif how == REFUSE:
            self.failed()
            self.over(call, f"request {number}")
        else:
            if number == 0:
                call.first_failed = True  # told to nobody before it is known how the call ends
            else:
                self.failed()
            self.hedge_at(call, self.now())
            if not call.flying:
                self.failed()
                self.over(call, "request 0")

    # -- rules ---------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Call]:
        return [call for call in getattr(self, "calls", []) if not call.outcome]

    @precondition(lambda self: len(self.running) < 4)
    @rule(loser=st.sampled_from(["ends", "cleans up", "fails"]), callers=st.integers(1, 3))
    def call(self, loser: str, callers: int) -> None:
        for _ in range(callers):
            one = Call(loser, due=self.now() + self.hedge_after)
            one.task = self.loop.create_task(self.api.call(self.request, one))
            self.calls.append(one)
            self.pass_time(TICK)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from([FAIL, FAIL, ANSWER, REFUSE]))
    def a_request_ends(self, data: st.DataObject, how: str) -> None:
        one = data.draw(st.sampled_from(self.running), "call")
        number = data.draw(st.sampled_from(one.flying), "request")
        one.legs[number].end.set_result(how)
        self.ends(one, number, how)
        self.pass_time(TICK)

    @precondition(lambda self: any(len(call.flying) > 1 for call in self.running))
    @rule(data=st.data(), how=st.sampled_from([FAIL, REFUSE]))
    def an_answer_comes_in_the_turn_of_a_failure(self, data: st.DataObject, how: str) -> None:
        one = data.draw(st.sampled_from([call for call in self.running if len(call.flying) > 1]), "call")
        bad, good = data.draw(st.permutations(one.flying), "requests")[:2]
        one.legs[bad].end.set_result(how)
        one.legs[good].end.set_result(ANSWER)
        one.expected[bad] = how  # and nobody asks any more
        self.ends(one, good, ANSWER)
        self.pass_time(TICK)

    @precondition(lambda self: len(self.running) > 2)
    @rule(data=st.data())
    def the_caller_is_cancelled(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.running), "call")
        assert one.task is not None
        one.task.cancel()
        self.over(one, "cancelled")
        self.pass_time(TICK)

    @precondition(lambda self: len(self.running) < 4)
    @rule(loser=st.sampled_from(["ends", "cleans up", "fails"]), turns=st.integers(0, 6))
    def the_caller_is_cancelled_while_the_first_is_sent(self, loser: str, turns: int) -> None:
        one = Call(loser)
        one.task = self.loop.create_task(self.api.call(self.request, one))
        self.calls.append(one)
        self.turns(turns)
        one.task.cancel()
        self.turns(8)
        one.expected = [""] * len(one.legs)
        self.over(one, "cancelled")
        self.pass_time(TICK)

    @precondition(lambda self: len(self.running) > 2 and any(call.expected[0] == "" for call in self.running))
    @rule(data=st.data(), turns=st.integers(1, 5))
    def the_caller_is_cancelled_while_a_hedge_is_made(self, data: st.DataObject, turns: int) -> None:
        one = data.draw(st.sampled_from([call for call in self.running if call.expected[0] == ""]), "call")
        if one.flying == [0] and (one.hedges == self.most or self.tokens < 1):
            return  # the call ends with this failure
        assert one.task is not None
        one.legs[0].end.set_result(FAIL)
        self.turns(turns)
        one.task.cancel()
        self.turns(8)
        one.expected[0] = FAIL
        if len(one.legs) > len(one.expected):  # else it was not sent, and costs nothing
            self.hedge_at(one, self.now())
        self.over(one, "cancelled")
        self.pass_time(TICK)

    @precondition(lambda self: hasattr(self, "calls"))
    @rule(eighths=st.sampled_from([1, 2, 4, 9, 30]))
    def time_passes(self, eighths: int) -> None:
        self.pass_time(eighths / 8)

    # -- what holds after each -----------------------------------------------------------------------

    def really(self, call: Call) -> str:
        assert call.task is not None
        if not call.task.done():
            return ""
        if call.task.cancelled():
            return "cancelled"
        error = call.task.exception()
        return f"answer {call.task.result()}" if error is None else str(error)

    def counted(self) -> dict[str, Any]:
        found: dict[str, Any] = self.recovery.get_health_status()["services"]["api"]
        return found

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "calls"):
            return
        in_flight = 0
        for call in self.calls:
            assert self.really(call) == call.outcome
            cleans = bool(call.outcome) and self.now() < call.cleaned_at
            still = ["" if cleans and how == "cancelled" else how for how in call.expected]
            assert [leg.ended for leg in call.legs] == still
            in_flight += still.count("")
        found = self.counted()
        assert (found["in_flight"], found["queued"]) == (in_flight, 0)
        assert (found["successes"], found["failures"]) == (self.successes, self.failures)
        circuit = self.recovery._registry.get_or_create("api").circuit
        assert repr(circuit) == f"<Circuit closed, {self.in_a_row} of 1000 failures in a row>"
        assert (found["hedges"], self.budget.tokens) == (self.hedges, self.tokens)

    def teardown(self) -> None:
        if not hasattr(self, "calls"):
            return
        try:
            for call in self.running:
                assert call.task is not None
                call.task.cancel()
                self.over(call, "cancelled")
            self.turn(CLEANING)
            self.agrees()
            assert self.counted()["in_flight"] == 0
            assert self.recovery._runtime.losers._tasks == {}
            self.loop.run_until_complete(self.recovery.aclose())
            assert asyncio.all_tasks(self.loop) == set()
        finally:
            self.loop.close()
            self.directory.cleanup()


TestHedgedCalls = HedgedCalls.TestCase
TestHedgedCalls.settings = settings(max_examples=100, stateful_step_count=40)

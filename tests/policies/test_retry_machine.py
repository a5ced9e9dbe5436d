"""
Retry rule, budget and whole retried calls against simple models, in sequences that Hypothesis makes up.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from fractions import Fraction
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shockproof import ErrorRecoveryService, RetryBudget
from shockproof.policies.backoff import Backoff
from shockproof.policies.error_kinds import ERROR_KINDS
from shockproof.policies.retry import RetryRule
from shockproof.testing import VirtualClock, VirtualTimeLoop

CAP = 8.0
SHAPES: dict[str, Any] = {
    "exponential": lambda n: 0.5 * 2**n,
    "linear": lambda n: 0.5 * (n + 1),
    "constant": lambda n: 0.5,
    "sequence": lambda n: [0.25, 20.0, 3.0][min(n, 2)],
    "function": lambda n: 1.5 * (n + 1),
}


class RetryOfOneCall(RuleBasedStateMachine):
    """One call that fails again and again: its waits, its end, and the deadline that it never passes."""

    @initialize(
        shape=st.sampled_from(list(SHAPES)), most=st.integers(0, 6), deadline=st.none() | st.floats(0.1, 60.0)
    )
    def begin(self, shape: str, most: int, deadline: float | None) -> None:
        given: Any = {"sequence": (0.25, 20.0, 3.0), "function": lambda retry, error: 1.5 * retry}
        self.shape, self.most, self.deadline = SHAPES[shape], most, deadline
        self.now, self.retries, self.previous = 0.0, 0, 0.0
        self.is_over = False
        backoff = Backoff(
            base_delay=0.5,
            max_delay=CAP,
            factor=2.0,
            jitter="none",
            rng=random.Random(1),
            shape=given.get(shape, shape),
        )
        self.rule = RetryRule(max_retries=most, backoff=backoff, retry_on=OSError)

    @precondition(lambda self: not self.is_over)
    @rule(
        took=st.floats(0, 5),
        is_wanted=st.booleans(),
        asked=st.none() | st.floats(0, 30),
    )
    def an_attempt_fails(self, took: float, is_wanted: bool, asked: float | None) -> None:
        self.now += took
        remaining = None if self.deadline is None else self.deadline - self.now
        decision = self.rule.after_failure(
            OSError() if is_wanted else ValueError(),
            retries=self.retries,
            previous_delay=self.previous,
            retry_after=asked,
            remaining=remaining,
        )
        wanted = max(min(CAP, self.shape(self.retries)), asked or 0.0)
        is_too_long = remaining is None and asked is not None and asked > CAP
        would_pass = remaining is not None and wanted >= remaining
        if self.retries >= self.most or not is_wanted or is_too_long or would_pass:
            assert decision.delay is None
            assert decision.reason
            self.is_over = True
            return
        assert decision.delay == wanted
        assert remaining is None or decision.delay < remaining
        self.previous = decision.delay
        self.retries += 1
        self.now += decision.delay

    @precondition(lambda self: self.is_over)
    @rule()
    def the_next_call_begins(self) -> None:
        # The rule is stateless: what one call did changes nothing for the next.
        self.now, self.retries, self.previous, self.is_over = 0.0, 0, 0.0, False


class Budget(RuleBasedStateMachine):
    """A budget against exact arithmetic: what is taken is there, and never more than fits comes back."""

    @initialize(capacity=st.integers(1, 5), tenths=st.integers(0, 20))
    def begin(self, capacity: int, tenths: int) -> None:
        self.budget = RetryBudget(
            capacity=capacity, per_success=tenths / 10, costs={"timeout": 2.0, "throttled": 0.5}
        )
        self.capacity, self.funds = Fraction(capacity), Fraction(tenths, 10)
        self.tokens = self.capacity
        self.held: list[float] = []

    @rule(kind=st.sampled_from(ERROR_KINDS))
    def a_retry_begins(self, kind: Any) -> None:
        cost = self.budget.cost(kind)
        model = min(
            self.capacity, {"timeout": Fraction(2), "throttled": Fraction(1, 2)}.get(kind, Fraction(1))
        )
        assert cost == model
        taken = self.budget.take(cost)
        assert taken == (self.tokens >= model)
        if taken:
            self.tokens -= model
            self.held.append(cost)

    @precondition(lambda self: self.held)
    @rule()
    def the_retry_succeeds_or_is_cancelled(self) -> None:
        cost = self.held.pop()
        self.budget.give_back(cost)
        self.tokens = min(self.capacity, self.tokens + Fraction(cost))

    @precondition(lambda self: self.held)
    @rule()
    def the_retry_fails(self) -> None:
        self.held.pop()

    @rule(times=st.integers(1, 30))
    def calls_succeed(self, times: int) -> None:
        for _ in range(times):
            self.budget.succeeded()
            self.tokens = min(self.capacity, self.tokens + self.funds)

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        if hasattr(self, "tokens"):
            assert abs(self.budget.tokens - float(self.tokens)) < 1e-6
            assert 0 <= self.budget.tokens <= self.budget.capacity


class RetriedCalls(RuleBasedStateMachine):
    """
    Whole calls on a virtual loop, adaptive or not, cancelled at any moment: tokens and turns are conserved.

    Nothing funds the budget here, so that it holds its capacity less what failed retries have cost and
    what those that wait or run hold now.
    """

    @initialize(adaptive=st.booleans())
    def begin(self, adaptive: bool) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.clock = VirtualClock()
        self.runner = asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(self.clock))
        self.budget = RetryBudget(capacity=12, per_success=0, costs={"timeout": 2.0, "throttled": 0.5})
        self.recovery = ErrorRecoveryService(
            f"{self.directory.name}/s", f"{self.directory.name}/e", clock=self.clock, rng=random.Random(7)
        )
        self.api = self.recovery.service(
            "api",
            adaptive=adaptive,
            retry_budget=self.budget,
            circuit_threshold=None,
            max_retries=3,
            base_delay=0.1,
        )
        self.calls: list[asyncio.Task[Any]] = []
        self.spent = 0.0

    async def call(self, outcomes: list[str], is_block: bool) -> str:
        attempts = 0
        price = 0.0

        async def fetch() -> str:
            nonlocal attempts, price
            attempts += 1
            # A retry that has been made and fails has cost what the error before it costs.
            paid = price
            await asyncio.sleep(0.05)
            outcome = outcomes[min(attempts, len(outcomes)) - 1]
            if outcome == "answer":
                return outcome
            if attempts > 1:
                self.spent += paid
            error: Exception = TimeoutError() if outcome == "timeout" else ConnectionError()
            price = 2.0 if outcome == "timeout" else 1.0
            if outcome == "throttled":
                error.retry_after, price = 0.0, 0.5  # type: ignore[attr-defined]  # an error of some client
            raise error

        if not is_block:
            return await self.api.call(fetch)
        async for attempt in self.api.attempts():
            async with attempt:
                return await fetch()
        raise AssertionError("the loop ended without an answer and without an error")

    @rule(
        outcomes=st.lists(
            st.sampled_from(["answer", "timeout", "throttled", "refused"]), min_size=1, max_size=4
        ),
        is_block=st.booleans(),
    )
    def a_call_begins(self, outcomes: list[str], is_block: bool) -> None:
        async def begin() -> None:
            self.calls.append(asyncio.ensure_future(self.call(outcomes, is_block)))
            await asyncio.sleep(0)

        self.runner.run(begin())

    @rule(seconds=st.sampled_from([0.0, 0.03, 0.05, 0.1, 0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 50), turns=st.integers(0, 6))
    def a_call_is_cancelled(self, which: int, turns: int) -> None:
        async def cancel() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            self.calls[which % len(self.calls)].cancel()
            await asyncio.sleep(0)

        self.runner.run(cancel())

    @invariant()
    def no_more_is_gone_than_was_spent_or_is_held(self) -> None:
        if hasattr(self, "calls"):
            running = sum(not call.done() for call in self.calls)
            assert 0 <= self.budget.tokens <= 12 - self.spent + 1e-9
            assert self.budget.tokens >= 12 - self.spent - 2.0 * running - 1e-9

    def teardown(self) -> None:
        if not hasattr(self, "calls"):
            return

        async def end() -> None:
            await asyncio.gather(*self.calls, return_exceptions=True)
            await self.recovery.aclose()

        try:
            self.runner.run(end())
            assert abs(self.budget.tokens - (12 - self.spent)) < 1e-6
            adaptive = self.api.plan.adaptive
            if adaptive is not None:
                now = self.clock.monotonic() + 100
                assert adaptive.send_rate.wait(adaptive.send_rate.take(now), now) == 0.0
        finally:
            self.runner.close()
            self.directory.cleanup()


TestRetryOfOneCall = RetryOfOneCall.TestCase
TestBudget = Budget.TestCase
TestRetriedCalls = RetriedCalls.TestCase
TestRetriedCalls.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)

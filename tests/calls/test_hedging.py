"""A call that is made a second time when it takes long."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    AttemptFailed,
    BulkheadFullError,
    CallHedged,
    CallInfo,
    ErrorRecoveryService,
    Event,
    Hedge,
    Outcome,
    RetryBudget,
    Verdict,
    attempts_of,
)
from shockproof.testing import VirtualClock, VirtualTimeLoop

pytestmark = pytest.mark.asyncio

Answer = float | tuple[float, Exception]
Fetch = Callable[[], Coroutine[Any, Any, int]]


def answering(log: list[str], *answers: Answer) -> Fetch:
    """A function whose calls take these seconds, or fail after them."""
    numbers = iter(range(len(answers)))

    async def fetch() -> int:
        number = next(numbers)
        log.append(f"begin {number}")
        answer = answers[number]
        try:
            await asyncio.sleep(answer[0] if isinstance(answer, tuple) else answer)
        except asyncio.CancelledError:
            log.append(f"cancelled {number}")
            raise
        if isinstance(answer, tuple):
            raise answer[1]
        return number

    return fetch


def counts(recovery: ErrorRecoveryService) -> dict[str, Any]:
    found: dict[str, Any] = recovery.get_health_status()["services"]["quotes"]
    return found


async def test_a_quick_answer_needs_no_hedge(recovery: ErrorRecoveryService) -> None:
    """Nothing is sent twice."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=1.0)

    assert await quotes.call(answering(log, 0.5)) == 0
    assert log == ["begin 0"]


async def test_the_first_answer_wins_and_the_loser_is_cancelled(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The caller has its answer at once, and nobody is left behind."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=1.0)
    begun = clock.monotonic()

    assert await quotes.call(answering(log, 60.0, 0.5)) == 1
    assert clock.monotonic() - begun == 1.5
    await asyncio.sleep(0)
    assert log == ["begin 0", "begin 1", "cancelled 0"]
    assert counts(recovery)["hedges"] == 1
    assert counts(recovery)["successes"] == 1


async def test_a_failure_starts_the_next_at_once(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """There is nothing to wait for."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=10.0)
    begun = clock.monotonic()

    assert await quotes.call(answering(log, (1.0, ConnectionError("down")), 0.5)) == 1
    assert clock.monotonic() - begun == 1.5


async def test_when_all_fail_the_first_ones_error_is_raised(recovery: ErrorRecoveryService) -> None:
    """Both are recorded, and the circuit has heard of both."""
    first = ConnectionError("first")
    quotes = recovery.service("quotes", hedge_after=1.0, circuit_threshold=2)

    with pytest.raises(ConnectionError) as raised:
        await quotes.call(answering([], (3.0, first), (0.5, ConnectionError("second"))))

    assert raised.value is first
    assert recovery.get_error_summary()["total_errors"] == 2
    assert recovery.is_circuit_open("quotes")


async def test_no_more_than_max_hedges_are_in_flight(recovery: ErrorRecoveryService) -> None:
    """Two beside the first, however long it takes."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=1.0, max_hedges=2)

    assert await quotes.call(answering(log, 30.0, 20.0, 10.0)) == 2
    assert [line for line in log if line.startswith("begin")] == ["begin 0", "begin 1", "begin 2"]


async def test_a_hedge_replaces_the_retry_unless_both_are_asked_for(recovery: ErrorRecoveryService) -> None:
    """max_retries given: the pair is tried again."""
    log: list[str] = []
    down = (0.1, ConnectionError("down"))
    with pytest.raises(ConnectionError):
        await recovery.service("quotes", hedge_after=1.0).call(answering(log, down, down, down))
    assert len(log) == 2

    both = recovery.service("quotes", hedge_after=1.0, max_retries=1)
    assert await both.call(answering([], down, down, 0.1)) == 2


async def test_callers_cancellation_ends_every_leg(recovery: ErrorRecoveryService) -> None:
    """At once, and counted nowhere."""
    log: list[str] = []
    task = asyncio.create_task(recovery.service("quotes", hedge_after=1.0).call(answering(log, 60.0, 60.0)))
    await asyncio.sleep(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)

    assert sorted(log[2:]) == ["cancelled 0", "cancelled 1"]
    assert recovery.get_error_summary()["total_errors"] == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_each_leg_has_the_whole_timeout(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """The hedge is an attempt like the first."""
    quotes = recovery.service("quotes", hedge_after=1.0, timeout=2.0)
    begun = clock.monotonic()

    assert await quotes.call(answering([], 60.0, 1.5)) == 1
    assert clock.monotonic() - begun == 2.5


async def test_hedges_take_places_and_give_them_back(recovery: ErrorRecoveryService) -> None:
    """A loser's place is free when it has ended; a hedge for which there is none is not made."""
    quotes = recovery.service("quotes", hedge_after=1.0, max_concurrent=2)

    assert await quotes.call(answering([], 60.0, 0.5)) == 1
    await asyncio.sleep(0)
    assert counts(recovery)["in_flight"] == 0

    recovery.service("one", hedge_after=1.0, max_concurrent=1)
    assert await recovery.service("one", hedge_after=1.0).call(answering([], 3.0, 0.1)) == 0


async def test_an_open_circuit_is_not_hedged_into(recovery: ErrorRecoveryService) -> None:
    """A half-open circuit lets its probe through, and no second one."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=1.0, circuit_threshold=1)
    with pytest.raises(ConnectionError):
        await quotes.call(answering([], *[(0.1, ConnectionError("down"))] * 2))
    await asyncio.sleep(60)
    told: list[Event] = []
    recovery.on_event(told.append)

    assert await quotes.call(answering(log, 3.0, 0.1)) == 0
    assert log == ["begin 0"]
    await recovery.aclose()
    assert not any(isinstance(event, CallHedged) for event in told)


async def test_quantile_is_learnt_before_anything_is_hedged(recovery: ErrorRecoveryService) -> None:
    """Twenty answers of 0.1 s: then one that takes long is asked again soon after."""
    quotes = recovery.service("quotes", hedge_after="p95")
    for _ in range(20):
        await quotes.call(answering([], 0.1, 0.1))
    log: list[str] = []

    assert await quotes.call(answering(log, 60.0, 0.1)) == 1
    assert counts(recovery)["hedges"] == 1


async def test_services_budget_bounds_the_extra_load(recovery: ErrorRecoveryService) -> None:
    """When it is empty, there is one call and no more."""
    log: list[str] = []
    budget = RetryBudget(capacity=1)
    budget.take()
    quotes = recovery.service("quotes", hedge_after=1.0, retry_budget=budget)

    assert await quotes.call(answering(log, 3.0, 0.1)) == 0
    assert log == ["begin 0"]


async def test_unsafe_call_is_never_hedged(recovery: ErrorRecoveryService) -> None:
    """Refused when the handle is built, whichever half comes first."""
    with pytest.raises(ValueError, match="it would be sent twice"):
        recovery.service("orders", hedge_after=1.0, effect="unsafe")
    with pytest.raises(ValueError, match="it would be sent twice"):
        recovery.service("orders", hedge_after=1.0).using(effect="unsafe")


async def test_wrong_arguments_are_raised_at_once(recovery: ErrorRecoveryService) -> None:
    """And counted nowhere."""
    with pytest.raises(TypeError):
        await recovery.service("quotes", hedge_after=1.0).call(answering([], 1.0), 5)  # type: ignore[call-arg]  # wrong on purpose
    assert recovery.get_error_summary()["total_errors"] == 0


# -- what a failure starts, and what it does not ------------------------------------------------------


async def test_a_failure_that_a_hedge_made_good_is_recorded_all_the_same(
    recovery: ErrorRecoveryService,
) -> None:
    """It happened: the circuit, the records and the listeners hear of it."""
    told: list[Event] = []
    recovery.on_event(told.append)
    quotes = recovery.service("quotes", hedge_after=10.0)

    assert await quotes.call(answering([], (1.0, ConnectionError("down")), 0.5)) == 1
    await recovery.aclose()

    assert recovery.get_error_summary()["errors_by_type"] == {"ConnectionError": 1}
    assert counts(recovery)["failures"] == 1
    assert [type(event) for event in told] == [CallHedged, AttemptFailed]


async def test_the_hedges_errors_hang_on_the_firsts_as_notes(recovery: ErrorRecoveryService) -> None:
    """Whoever reads the first one's traceback reads what became of the other request."""
    first = ConnectionError("first")
    quotes = recovery.service("quotes", hedge_after=1.0)
    with pytest.raises(ConnectionError) as raised:
        await quotes.call(answering([], (3.0, first), (0.5, OSError("second"))))

    assert raised.value is first
    assert [(one.number, one.error_message, one.is_hedge) for one in attempts_of(first)] == [
        (1, "second", True),
        (1, "first", False),
    ]
    assert "hedge of attempt 1 failed after 0.5 s with OSError: second" in first.__notes__[0]


async def test_an_error_that_is_not_retried_is_not_hedged(recovery: ErrorRecoveryService) -> None:
    """The same would come again: the call ends at once, whichever request it came from."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=1.0, retry_on=OSError)
    with pytest.raises(ValueError, match="no such symbol"):
        await quotes.call(answering(log, (0.5, ValueError("no such symbol")), 0.1))
    assert log == ["begin 0"]

    with pytest.raises(ValueError, match="no such symbol"):
        await quotes.call(answering(log, 60.0, (0.5, ValueError("no such symbol"))))
    await asyncio.sleep(0)
    assert log[1:] == ["begin 0", "begin 1", "cancelled 0"]


async def test_an_error_that_classify_takes_for_an_answer_is_not_hedged(
    recovery: ErrorRecoveryService,
) -> None:
    """It is asked once for each request."""
    log: list[str] = []
    asked: list[object] = []

    def classify(value: object, call: CallInfo) -> Verdict | None:
        asked.append(value)
        return Verdict(Outcome.NEUTRAL) if isinstance(value, ValueError) else None

    quotes = recovery.service("quotes", hedge_after=1.0, classify=classify)
    with pytest.raises(ValueError, match="insufficient funds"):
        await quotes.call(answering(log, (0.5, ValueError("insufficient funds")), 0.1))
    assert log == ["begin 0"]
    assert len(asked) == 1
    assert recovery.get_error_summary()["total_errors"] == 0


async def test_an_answer_beats_an_error_of_the_same_turn(recovery: ErrorRecoveryService) -> None:
    """Whichever request it comes from, and although the error alone would end the call."""
    quotes = recovery.service("quotes", hedge_after=1.0, retry_on=OSError)
    assert await quotes.call(answering([], (2.0, ValueError("no")), 1.0)) == 1
    assert await quotes.call(answering([], 2.0, (1.0, ValueError("no")))) == 0


async def test_nothing_more_is_sent_after_an_unknown_outcome(recovery: ErrorRecoveryService) -> None:
    """What is in flight may still answer."""
    log: list[str] = []

    def classify(value: object, call: CallInfo) -> Verdict | None:
        return Verdict(Outcome.UNKNOWN) if isinstance(value, ConnectionResetError) else None

    quotes = recovery.service("quotes", hedge_after=1.0, max_hedges=3, effect="idempotent", classify=classify)
    assert await quotes.call(answering(log, 10.0, (0.5, ConnectionResetError()), 0.5, 0.5)) == 0
    assert log == ["begin 0", "begin 1"]


async def test_a_probe_that_fails_in_the_turn_of_a_cancellation_gives_its_place_back(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The cancellation wins, and the failure has nobody left to judge it."""
    quotes = recovery.service("quotes", hedge_after=10.0, circuit_threshold=1, probe_lease=10_000.0)
    with pytest.raises(ConnectionError):
        await quotes.call(answering([], *[(0.1, ConnectionError("down"))] * 2))
    await clock.sleep(60)
    task = asyncio.create_task(quotes.call(answering([], (1.0, ConnectionError("down")))))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(1.0, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert await quotes.call(answering([], 0.1)) == 0


# -- limits ------------------------------------------------------------------------------------------


async def test_nothing_is_hedged_while_the_call_waits_in_our_own_queue(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A second request would stand behind the first; refused, the call fails with the refusal."""
    log: list[str] = []
    quotes = recovery.service("quotes", hedge_after=0.5, max_concurrent=1, max_queue=5, max_wait=2.0)
    holding = asyncio.create_task(quotes.using(hedge_after=None).call(clock.sleep, 10.0))
    await asyncio.sleep(0)

    with pytest.raises(BulkheadFullError):
        await quotes.call(answering(log, 1.0))
    assert log == []
    assert (counts(recovery)["hedges"], counts(recovery)["rejections"], counts(recovery)["queued"]) == (
        0,
        1,
        0,
    )
    await holding


async def test_a_hedge_that_a_limit_refuses_costs_nothing_and_is_no_refusal_of_the_call(
    recovery: ErrorRecoveryService,
) -> None:
    """It is not made: its cost goes back, and the call is answered by the first request."""
    budget = RetryBudget(capacity=1, per_success=0.0)
    quotes = recovery.service("quotes", hedge_after=0.5, max_concurrent=1, retry_budget=budget)

    assert await quotes.call(answering([], 3.0)) == 0
    assert budget.tokens == 1
    assert (counts(recovery)["hedges"], counts(recovery)["rejections"]) == (0, 0)


async def test_a_refused_hedge_of_a_repeated_attempt_does_not_end_the_call(
    recovery: ErrorRecoveryService,
) -> None:
    """The attempt itself is in flight and answers."""
    quotes = recovery.service("quotes", hedge_after=1.0, max_retries=1, max_concurrent=1)
    assert await quotes.call(answering([], (0.1, ConnectionError("down")), 3.0)) == 1


@pytest.mark.parametrize("way", ["using", "service"])
async def test_handles_made_for_each_call_share_what_pays_for_hedges(
    recovery: ErrorRecoveryService, way: str
) -> None:
    """Ten to begin with for the service, however its handles come about."""
    quotes = recovery.service("quotes", hedge_after=0.5)
    hedges = 0
    for _ in range(30):
        one = quotes.using(deadline=60.0) if way == "using" else recovery.service("quotes", hedge_after=0.5)
        log: list[str] = []
        await one.call(answering(log, 2.0, 2.0))
        hedges += "begin 1" in log
    assert hedges == 11  # thirty answers have paid for one more


async def test_handles_made_for_each_call_learn_together(recovery: ErrorRecoveryService) -> None:
    """using() takes over the latencies, too."""
    quotes = recovery.service("quotes", hedge_after="p95")
    for _ in range(20):
        await quotes.using(deadline=60.0).call(answering([], 0.1, 0.1))

    assert await quotes.call(answering([], 60.0, 0.1)) == 1


# -- cancellation, and the end -------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{}, {"max_concurrent": 2, "max_queue": 1}, {"rate_limit": "100/s"}])
@pytest.mark.parametrize("failures", [0, 1, 2])
async def test_a_cancellation_after_any_number_of_steps_leaves_nothing_behind(
    recovery: ErrorRecoveryService, clock: VirtualClock, limits: dict[str, Any], failures: int
) -> None:
    """It comes out at once; every request is ended, its place free, and the probe of no circuit is lost."""
    budget = RetryBudget(capacity=1000, per_success=0.0)
    quotes = recovery.service(
        "quotes", hedge_after=0.25, max_retries=1, base_delay=0.5, retry_budget=budget,
        circuit_threshold=None, **limits,
    )  # fmt: skip
    before = asyncio.all_tasks()
    for steps in itertools.count():
        assert steps < 200, "the call never ended by itself"
        begun = ended = 0

        async def fetch() -> str:
            nonlocal begun, ended
            begun += 1
            mine = begun
            try:
                await clock.sleep(0.75)
            finally:
                ended += 1
            if mine <= failures:
                raise ConnectionError("down")
            return "answer"

        tokens, hedges, retries = budget.tokens, counts(recovery)["hedges"], counts(recovery)["retries"]
        task = asyncio.create_task(quotes.call(fetch))
        for number in range(steps):
            await (clock.sleep(0.25) if number % 6 == 5 else asyncio.sleep(0))
        if task.done():
            assert await task == "answer"
            break
        task.cancel()
        cancelled_at = clock.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.monotonic() == cancelled_at
        for _ in range(5):
            await asyncio.sleep(0)
        assert begun == ended
        assert asyncio.all_tasks() == before
        found = counts(recovery)
        assert (found["in_flight"] or 0, found["queued"]) == (0, 0)
        # A hedge that was sent is paid for; a retry that was cancelled before its verdict is not.
        paid = tokens - budget.tokens - (found["hedges"] - hedges)
        assert 0 <= paid <= found["retries"] - retries
    assert steps > 5


async def test_losers_end_before_the_service_does(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The service waits for one that takes its time to end."""
    ended: list[str] = []

    async def careful() -> str:
        if not ended:
            ended.append("begun")
            try:
                await clock.sleep(60)
            finally:
                await clock.sleep(2)
                ended.append("ended")
        return "answer"

    assert await recovery.service("quotes", hedge_after=0.5).call(careful) == "answer"
    assert ended == ["begun"]
    await recovery.aclose()
    assert ended == ["begun", "ended"]


async def test_a_loser_that_ignores_its_cancellation_holds_nobody_for_ever(
    recovery: ErrorRecoveryService, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of the service waits for it as long as it was told to, names it once, and counts it until it ends."""
    release, begun = asyncio.Event(), 0

    async def first_ignores_it() -> str:
        nonlocal begun
        begun += 1
        while begun == 1 and not release.is_set():
            try:
                await clock.sleep(3600)
            except asyncio.CancelledError:
                await release.wait()
        return "answer"

    quotes = recovery.service("quotes", hedge_after=0.5, max_concurrent=5)
    assert await quotes.call(first_ignores_it) == "answer"
    assert (counts(recovery)["abandoned_attempts"], counts(recovery)["in_flight"]) == (0, 1)
    began = clock.monotonic()
    begun = 1
    await asyncio.sleep(0)
    for _ in range(2):
        await recovery.aclose(timeout=3.0)
        assert (counts(recovery)["abandoned_attempts"], counts(recovery)["in_flight"]) == (1, 1)
    assert clock.monotonic() - began == 6.0
    named = [record.message for record in caplog.records if "has not ended" in record.message]
    assert len(named) == 1
    assert "'quotes'" in named[0]
    assert "first_ignores_it" in named[0]
    release.set()
    await recovery.aclose()
    assert recovery._runtime.losers.living == []
    assert (counts(recovery)["abandoned_attempts"], counts(recovery)["in_flight"]) == (0, 0)


async def test_with_grace_a_loser_that_ignores_its_cancellation_is_left_behind_after_it(
    recovery: ErrorRecoveryService, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, and keeps its place; the end of the service need not wait for it."""
    release, begun = asyncio.Event(), 0

    async def first_ignores_it() -> str:
        nonlocal begun
        begun += 1
        if begun == 1:
            while not release.is_set():
                with suppress(asyncio.CancelledError):
                    await release.wait()
        return "answer"

    quotes = recovery.service("quotes", hedge_after=0.5, grace=1.0, max_concurrent=5)
    assert await quotes.call(first_ignores_it) == "answer"
    began = clock.monotonic()
    await recovery.aclose(timeout=3.0)
    assert clock.monotonic() - began == 1.0
    assert (counts(recovery)["abandoned_attempts"], counts(recovery)["in_flight"]) == (1, 1)
    assert caplog.text == ""
    release.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (counts(recovery)["abandoned_attempts"], counts(recovery)["in_flight"]) == (0, 0)


async def test_losers_of_a_loop_that_has_ended_are_forgotten(tmp_path: Path) -> None:
    """The loop's end has cancelled them; the service goes on with the next loop."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    quotes = recovery.service("quotes", hedge_after=0.5)

    async def one_call() -> None:
        assert await quotes.call(answering([], 60.0, 0.1)) == 1

    def three_loops() -> None:
        for _ in range(3):
            with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                runner.run(one_call())

    other = threading.Thread(target=three_loops)
    other.start()
    other.join()
    await recovery.aclose()
    assert recovery._runtime.losers.living == []


async def test_context_variables_reach_every_request_and_stay_with_it(recovery: ErrorRecoveryService) -> None:
    """Both see what the caller has set; what a request sets is its own."""
    order: ContextVar[str] = ContextVar("order")
    seen: list[str] = []

    async def fetch() -> str:
        seen.append(order.get())
        order.set(f"set by request {len(seen)}")
        await asyncio.sleep(60 if len(seen) == 1 else 0.1)
        return "answer"

    order.set("A-1")
    assert await recovery.service("quotes", hedge_after=0.5).call(fetch) == "answer"
    assert seen == ["A-1", "A-1"]
    assert order.get() == "A-1"


async def test_hedge_stands_alone(clock: VirtualClock) -> None:
    """As a decorator of its own."""
    begun = clock.monotonic()
    fetch = Hedge(hedge_after=0.5)(answering([], 60.0, 0.25))

    assert await fetch() == 1
    assert clock.monotonic() - begun == 0.75


async def test_a_hedge_that_still_waits_for_a_place_when_the_answer_comes_costs_nothing(
    recovery: ErrorRecoveryService,
) -> None:
    """It was never sent: its cost goes back, and it is not counted."""
    budget = RetryBudget(capacity=1, per_success=0.0)
    quotes = recovery.service("quotes", hedge_after=0.5, max_concurrent=1, max_queue=1, retry_budget=budget)

    assert await quotes.call(answering([], 3.0)) == 0
    assert budget.tokens == 1
    assert counts(recovery)["hedges"] == 0


async def test_a_hedge_that_waits_for_a_place_when_the_caller_cancels_costs_nothing(
    recovery: ErrorRecoveryService,
) -> None:
    """The same, and the queue is empty."""
    budget = RetryBudget(capacity=1, per_success=0.0)
    quotes = recovery.service("quotes", hedge_after=0.5, max_concurrent=1, max_queue=1, retry_budget=budget)

    call = asyncio.create_task(quotes.call(answering([], 3.0)))
    await asyncio.sleep(1.0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.1)

    assert budget.tokens == 1
    assert (counts(recovery)["hedges"], counts(recovery)["queued"]) == (0, 0)

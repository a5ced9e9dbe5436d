"""Adaptive retries in calls: throttling slows all senders of a service down, and a storm ends by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, Handle, RateLimitedError, Retry, RetryBudget, attempts_of
from shockproof.policies.adaptive_retry import SendRate
from shockproof.testing import VirtualClock, cancel_at_each_await

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


class Turns:
    """Counts what is taken of any send rate and not given back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept = 0
        take, give_back, lock = SendRate.take, SendRate.give_back, threading.Lock()

        def counted_take(rate: SendRate, now: float) -> int | None:
            place = take(rate, now)
            with lock:
                self.kept += place is not None
            return place

        def counted_give_back(rate: SendRate, place: int | None) -> None:
            give_back(rate, place)
            with lock:
                self.kept -= place is not None

        monkeypatch.setattr(SendRate, "take", counted_take)
        monkeypatch.setattr(SendRate, "give_back", counted_give_back)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    return Turns(monkeypatch)


class TooManyError(Exception):
    status = 429


class ServerError(Exception):
    status = 503


def rate_of(handle: Handle) -> float | None:
    adaptive = handle.plan.state.adaptive
    assert adaptive is not None
    return adaptive.send_rate.limit


async def throttled(handle: Handle) -> None:
    """Let one call of *handle* be throttled, so that its service is slowed down to the least rate."""

    async def too_many() -> None:
        raise TooManyError

    with pytest.raises(TooManyError):
        await handle.using(max_retries=0).call(too_many)


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (ConnectionResetError("no"), [0.5, 1.0, 2.0]),
        (ServerError("no"), [1.0, 2.0, 4.0]),
        (TimeoutError("no"), [2.0, 4.0, 8.0]),
        (ValueError("no"), [1.0, 2.0, 4.0]),
    ],
)
async def test_waits_follow_the_kind_of_error(
    recovery: ErrorRecoveryService, script: Script, error: Exception, waits: list[float]
) -> None:
    """A refused connection is tried again sooner, a timeout later."""
    with pytest.raises(type(error)) as raised:
        await recovery.service("api", adaptive=True).call(script(error))
    assert [attempt.delay for attempt in attempts_of(raised.value)] == [*waits, None]


async def test_what_the_waits_are_may_change_from_attempt_to_attempt(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The strategy follows the errors: each wait is that of the error before it."""
    fetch = script(ConnectionResetError("no"), TimeoutError("no"), ServerError("no"), "answer")
    assert await recovery.service("api", adaptive=True).call(fetch) == "answer"
    assert fetch.times == [0.0, 0.5, 4.5, 8.5]


@pytest.mark.parametrize(
    ("error", "cost"),
    [(TimeoutError("no"), 2.0), (TooManyError("no"), 0.5), (ServerError("no"), 1.0)],
)
async def test_a_retry_costs_what_its_kind_costs_and_gets_it_back(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script, error: Exception, cost: float
) -> None:
    """Held while it waits, returned when the retried call succeeds."""
    api = recovery.service("api", adaptive=True)
    task = asyncio.create_task(api.call(script(error, "answer")))
    await clock.sleep(0.1)
    budget = api.plan.retry_budget
    assert budget is not None
    assert budget.tokens == 10.0 - cost
    assert await task == "answer"
    assert budget.tokens == 10.0


async def test_a_declared_budget_is_taken_and_its_costs_win(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The service's own budget pays in place of the adaptive one."""
    budget = RetryBudget(capacity=10, costs={"timeout": 3.0})
    api = recovery.service(
        "api", adaptive=True, retry_budget=budget, max_retries=2, base_delay=0, circuit_threshold=None
    )
    with pytest.raises(TimeoutError):
        await api.call(script(TimeoutError("no")))
    assert budget.tokens == 4.0
    with pytest.raises(ConnectionError):
        await api.call(script(ConnectionError("no")))
    assert budget.tokens == 2.0


async def test_a_storm_stops_retrying_by_itself(recovery: ErrorRecoveryService, script: Script) -> None:
    """A hundred calls that time out: five retries, and from then on none."""
    api = recovery.service("api", adaptive=True, circuit_threshold=None, base_delay=0)
    fetch = script(TimeoutError("no"))
    for _ in range(100):
        with pytest.raises(TimeoutError):
            await api.call(fetch)
    assert fetch.calls == 105
    for _ in range(20):
        await api.call(script("answer"))
    with pytest.raises(TimeoutError):
        await api.call(fetch)
    assert fetch.calls == 107


async def test_a_handle_that_is_not_adaptive_is_left_as_it_is(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """On the same service: its own waits, no budget, and no turns."""
    adaptive = recovery.service("api", adaptive=True, circuit_threshold=None)
    await throttled(adaptive)
    plain = adaptive.using(adaptive=False)
    assert plain.plan.retry_budget is None
    fetch = script(ConnectionResetError("no"))
    with pytest.raises(ConnectionResetError):
        await plain.call(fetch)
    assert fetch.times == [0.0, 1.0, 3.0, 7.0]


@pytest.mark.parametrize("form", ["call", "decorated", "guard", "attempts"])
async def test_a_throttling_answer_slows_the_first_attempts_of_all_callers_down(
    recovery: ErrorRecoveryService, clock: VirtualClock, form: str
) -> None:
    """In every form of a call, also those that have not failed."""
    api = recovery.service("api", adaptive=True)
    await throttled(api)
    rate, began = rate_of(api), clock.monotonic()
    assert rate is not None
    sent: list[float] = []

    async def send() -> None:
        sent.append(clock.monotonic() - began)
        await asyncio.sleep(100)  # no answer, so that the rate stays as it is

    async def one() -> None:
        if form == "call":
            await api.call(send)
        elif form == "decorated":
            await api(send)()
        elif form == "guard":
            async with api.guard():
                await send()
        else:
            async for attempt in api.attempts():
                async with attempt:
                    await send()

    tasks = [asyncio.create_task(one()) for _ in range(5)]
    await clock.sleep(50)
    assert sent == pytest.approx([n / rate for n in range(1, 6)])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    "asked",
    [
        {"retry_after": 0.0},
        {"status": 429},
        {"headers": {"Retry-After": "0"}},
        {"response": type("R", (), {"status_code": 418})()},
    ],
)
async def test_whatever_says_slower_slows_down(
    recovery: ErrorRecoveryService, script: Script, asked: dict[str, Any]
) -> None:
    """A status, an attribute, a header."""
    error = ConnectionError("no")
    vars(error).update(asked)
    api = recovery.service("api", adaptive=True, max_retries=0)
    with pytest.raises(ConnectionError):
        await api.call(script(error))
    assert rate_of(api) is not None


async def test_a_verdict_of_the_user_slows_down_and_a_plain_failure_does_not(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """``classify`` may find in a result what no status tells."""
    from shockproof import CallInfo, Outcome, Verdict

    def classify(ended_with: object, call: CallInfo) -> Verdict | None:
        return Verdict(Outcome.FAILURE, retry_after=0.5) if ended_with == "slow down" else None

    api = recovery.service("api", adaptive=True, max_retries=0, classify=classify)
    with pytest.raises(ValueError, match="no"):
        await api.call(script(ValueError("no")))
    assert rate_of(api) is None
    assert await api.call(script("slow down")) == "slow down"
    assert rate_of(api) is not None


async def test_a_turn_that_would_come_too_late_is_refused_at_once(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """By the deadline, by max_wait, or by the limit of a call around it; nothing is counted or kept."""
    api = recovery.service("api", adaptive=True, circuit_threshold=None)
    for _ in range(5):
        await throttled(api)
        await clock.sleep(3.0)
    slow = recovery.service("slow", adaptive=True, max_wait=0.25)
    await throttled(slow)
    await throttled(api)
    began, fetch = clock.monotonic(), script("answer")
    for refused in (
        api.using(deadline=0.25).call(fetch),
        slow.call(fetch),
        recovery.service("outer", deadline=0.25).call(api.call, fetch),
    ):
        with pytest.raises(RateLimitedError) as raised:
            await refused
        assert raised.value.policy == "adaptive_retry"
        assert raised.value.retry_after is not None
        assert raised.value.retry_after > 0.25
    assert (fetch.calls, clock.monotonic()) == (0, began)
    assert await api.call(fetch) == "answer"


async def test_a_retry_whose_turn_would_come_too_late_raises_the_real_error(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A refusal is for calls that never got an attempt."""
    api = recovery.service("api", adaptive=True, base_delay=0.01, deadline=1.0)
    fetch = script(TooManyError("real"))
    with pytest.raises(TooManyError, match="real") as raised:
        await api.call(fetch)
    assert fetch.calls < 4
    assert raised.value.__notes__[-1].startswith("shockproof api: not repeated")


async def test_risk_reducing_calls_take_their_turn_at_once_and_the_others_wait_the_longer(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A cancel of an order does not stand in line behind quotes."""
    api = recovery.service("api", adaptive=True)
    await throttled(api)
    rate, began = rate_of(api), clock.monotonic()
    assert rate is not None
    urgent = api.using(risk_reducing=True)
    hangs = [asyncio.create_task(urgent.call(clock.sleep, 30.0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert clock.monotonic() == began
    fetch = script("answer")
    await api.call(fetch)
    assert clock.monotonic() - began == pytest.approx(4 / rate)
    await asyncio.gather(*hangs)


async def test_calls_in_line_go_when_their_turn_comes_and_ask_for_it_only_when_it_has_changed(
    recovery: ErrorRecoveryService, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in front leaves, and those behind go so much earlier; the rate is free, and all go at once."""
    api = recovery.service("api", adaptive=True)
    await throttled(api)
    rate, began = rate_of(api), clock.monotonic()
    assert rate is not None
    sent: list[float] = []
    asked, wait = 0, SendRate.wait

    def counted(rate: SendRate, place: int | None, now: float) -> float:
        nonlocal asked
        asked += 1
        return wait(rate, place, now)

    monkeypatch.setattr(SendRate, "wait", counted)

    async def send() -> None:
        sent.append(clock.monotonic() - began)
        await asyncio.sleep(1000)  # no answer, so that the rate stays as it is

    tasks = [asyncio.create_task(api.call(send)) for _ in range(200)]
    await clock.sleep(0.1)
    assert asked == 200
    tasks[0].cancel()
    await clock.sleep(2 / rate)
    assert sent == pytest.approx([1 / rate, 2 / rate])
    assert asked < 210
    await clock.sleep(60.25 - (clock.monotonic() - began))
    assert len(sent) == int(60.25 * rate)
    await api.using(risk_reducing=True).call(asyncio.sleep, 0)
    await asyncio.sleep(0)
    await clock.sleep(0.001)
    assert len(sent) == 199
    assert sent[-1] == 60.25
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_circuit_is_asked_again_after_the_wait(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """What opened while a call stood in line refuses it."""
    api = recovery.service("api", adaptive=True, circuit_threshold=2)
    await throttled(api)
    fetch = script("answer")
    waiting = asyncio.create_task(api.call(fetch))
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError):
        await api.using(adaptive=False, max_retries=0).call(script(ConnectionError("no")))
    with pytest.raises(Exception, match="circuit is open"):
        await waiting
    assert fetch.calls == 0


@pytest.mark.parametrize("form", ["call", "guard", "attempts"])
async def test_cancelled_anywhere_it_keeps_no_turn_and_no_budget(
    recovery: ErrorRecoveryService, clock: VirtualClock, form: str, turns: Turns
) -> None:
    """At every await of a call that waits for its turn, fails, waits, and is repeated."""
    api = recovery.service("api", adaptive=True, circuit_threshold=None, max_retries=2, base_delay=0.1)
    budget = api.plan.retry_budget
    adaptive = api.plan.adaptive
    assert budget is not None
    assert adaptive is not None

    sent, spent = 0, 0.0

    async def fails_twice(left: list[int]) -> str:
        nonlocal sent, spent
        sent += 1
        await clock.sleep(0.01)
        if left.pop():
            spent += 2.0 if len(left) < 2 else 0.0  # a retry after a timeout, that failed
            raise TimeoutError
        return "answer"

    async def call() -> str:
        left = [0, 1, 1]
        if form == "call":
            return await api.call(fails_twice, left)
        if form == "guard":
            async with api.guard():
                return await fails_twice([0])
        async for attempt in api.attempts():
            async with attempt:
                return await fails_twice(left)
        raise AssertionError("the loop ended without an answer and without an error")

    await clock.sleep(70)
    await throttled(api)
    waits, taken = 0, turns.kept
    async for run in cancel_at_each_await(call):
        # Turns were taken for what was sent, and tokens for retries that failed; for nothing else.
        assert turns.kept - taken == sent, str(run)
        if run.was_cancelled:
            assert budget.tokens == pytest.approx(budget.capacity - spent), str(run)
        waits += run.was_cancelled
        budget.tokens = budget.capacity
        await throttled(api)  # slowed down again, so that the next run waits too
        taken, sent, spent = turns.kept, 0, 0.0
    assert waits > 3
    await clock.sleep(30)
    assert rate_of(api) is not None
    assert adaptive.send_rate.wait(adaptive.send_rate.take(clock.monotonic()), clock.monotonic()) == 0.0


async def test_what_is_left_of_the_rate_shows_in_the_health(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """None while it is free, and for services without."""
    api = recovery.service("api", adaptive=True)
    await recovery.service("plain").call(script("answer"))
    shown = recovery.get_health_status()["services"]
    assert (shown["api"]["send_rate"], shown["api"]["retry_budget"]) == (None, 10.0)
    assert (shown["plain"]["send_rate"], shown["plain"]["retry_budget"]) == (None, None)
    await throttled(api)
    assert recovery.get_health_status()["services"]["api"]["send_rate"] == pytest.approx(1.4)


async def test_it_stands_alone_as_well(clock: VirtualClock, script: Script) -> None:
    """A `Retry` with adaptive=True has a rate and a budget of its own."""
    retry = Retry(adaptive=True, clock=clock, max_retries=1)
    fetch = script(ConnectionResetError("no"), "answer")
    assert await retry.call(fetch) == "answer"
    assert fetch.times == [0.0, 0.5]


async def test_handles_on_one_service_share_one_rate(recovery: ErrorRecoveryService) -> None:
    """Whoever is throttled slows all of them down."""
    one, other = recovery.service("api", adaptive=True), recovery.service("api", adaptive=True, timeout=5.0)
    await throttled(one)
    assert rate_of(other) == rate_of(one) is not None


async def test_two_loops_in_two_threads_share_one_rate(tmp_path: Any, turns: Turns) -> None:
    """Together they send no faster than the rate, and nobody is lost."""
    clock = VirtualClock()
    recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", clock=clock)
    api = recovery.service("api", adaptive=True, circuit_threshold=None)
    adaptive = api.plan.adaptive
    assert adaptive is not None
    adaptive.send_rate.answered(clock.monotonic(), sent_at=clock.monotonic(), throttled=True)
    refused: list[int] = []
    barrier = threading.Barrier(2)

    async def answers() -> None:
        return None

    def work() -> None:
        async def main() -> int:
            found = 0
            for _ in range(200):
                try:
                    await api.using(deadline=0.001).call(answers)
                except RateLimitedError:
                    found += 1
            return found

        barrier.wait()
        refused.append(asyncio.run(main()))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The clock stands still: no send is due, and whoever was refused has given its place back.
    assert refused == [200, 200]
    assert turns.kept == 0
    await recovery.aclose()

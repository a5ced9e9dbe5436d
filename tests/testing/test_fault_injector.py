"""Faults on a service: the policies take them for the service's own, and nothing is left when they are off."""

from __future__ import annotations

import asyncio
import random
import threading
import warnings
from typing import Any

import pytest

from shockproof import (
    AttemptTimeoutError,
    CircuitOpenError,
    ErrorRecoveryService,
    Handle,
    Timeout,
    attempts_of,
    set_error_recovery_service,
    with_error_recovery,
)
from shockproof.testing import (
    Answers,
    Delays,
    Fails,
    FaultInjector,
    FaultyCall,
    Hangs,
    VirtualClock,
    cancel_at_each_await,
)


class Service:
    """Counts how often it was really called."""

    def __init__(self) -> None:
        self.calls = 0

    async def quote(self, symbol: str = "AAPL") -> float:
        self.calls += 1
        return 150.25


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def market(recovery: ErrorRecoveryService) -> Handle:
    return recovery.service("market_data", base_delay=1.0, timeout=2.0)


# -- what happens -------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_failing_service_is_retried_and_recorded(
    faults: FaultInjector, recovery: ErrorRecoveryService, market: Handle, service: Service
) -> None:
    """The retry sees the fault as the service's own error, and so do the records."""
    with faults.on("market_data", plan=[ConnectionError, None]) as injected:
        assert await market.call(service.quote) == 150.25

    assert service.calls == 1
    assert (injected.injected, injected.passed) == (1, 1)
    (error,) = recovery.get_error_summary()["recent_errors"]
    assert (error["error_type"], error["function_name"]) == ("ConnectionError", "quote")


@pytest.mark.asyncio
async def test_a_failing_service_opens_its_circuit(
    faults: FaultInjector, recovery: ErrorRecoveryService, market: Handle, service: Service
) -> None:
    """Five failures in a row, as if they were real; the function was never called."""
    with faults.on("market_data", ConnectionError):
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await market.call(service.quote)
        with pytest.raises(CircuitOpenError):
            await market.call(service.quote)
    assert service.calls == 0


@pytest.mark.asyncio
async def test_an_answer_that_is_lost_was_sent(
    faults: FaultInjector, market: Handle, service: Service
) -> None:
    """What matters for an order: the other side has done it, and the caller does not know."""
    with faults.on("market_data", Fails(ConnectionResetError, sent=True), most=1):
        await market.call(service.quote)
    assert service.calls == 2


@pytest.mark.asyncio
async def test_an_error_of_the_function_itself_stays_when_the_answer_would_be_lost(
    faults: FaultInjector, market: Handle
) -> None:
    """There is no answer to lose."""

    async def fails() -> None:
        raise KeyError("own")

    with (
        faults.on("market_data", Fails(ConnectionResetError, sent=True)),
        pytest.raises(KeyError, match="own"),
    ):
        await market.using(max_retries=0).call(fails)


@pytest.mark.asyncio
@pytest.mark.parametrize("sent", [False, True])
async def test_a_hang_is_ended_by_the_timeout(
    faults: FaultInjector, market: Handle, service: Service, clock: VirtualClock, sent: bool
) -> None:
    """Two seconds, then it is repeated; a hang after the call has sent it."""
    began = clock.monotonic()
    with faults.on("market_data", Hangs(sent=sent), most=1):
        await market.call(service.quote)

    assert clock.monotonic() - began == 3.0
    assert service.calls == 1 + sent


@pytest.mark.asyncio
async def test_a_delay_adds_to_the_calls_own_time(
    faults: FaultInjector, market: Handle, service: Service, clock: VirtualClock
) -> None:
    """Before and after it; more than the timeout allows is a timeout."""
    began = clock.monotonic()
    with faults.on("market_data", (Delays(0.5), Delays(0.25, sent=True))):
        await market.call(service.quote)
    assert clock.monotonic() - began == 0.75

    with faults.on("market_data", Delays(2.5)), pytest.raises(AttemptTimeoutError):
        await market.using(max_retries=0).call(service.quote)


@pytest.mark.asyncio
async def test_drawn_delays_repeat_with_their_seed(
    market: Handle, service: Service, clock: VirtualClock
) -> None:
    """Between two bounds, or from a function of the source."""
    for seconds in ((0.25, 0.5), lambda rng: rng.uniform(0.25, 0.5)):
        runs = []
        for _ in range(2):
            took = []
            with FaultInjector(market, rng=random.Random(3)).on(market, Delays(seconds)):
                for _ in range(5):
                    began = clock.monotonic()
                    await market.call(service.quote)
                    took.append(round(clock.monotonic() - began, 9))
            assert all(0.25 <= one <= 0.5 for one in took)
            assert len(set(took)) == 5
            runs.append(took)
        assert runs[0] == runs[1]


@pytest.mark.asyncio
async def test_an_answer_can_be_replaced(faults: FaultInjector, market: Handle, service: Service) -> None:
    """In place of the call, or of what it returned; a function looks at the call."""
    with faults.on("market_data", Answers(0.0)):
        assert await market.call(service.quote) == 0.0
    assert service.calls == 0
    with faults.on("market_data", Answers(make=lambda call: f"{call.args} {call.attempt}", sent=True)):
        assert await market.call(service.quote, "MSFT") == "('MSFT',) 1"
    assert service.calls == 1


@pytest.mark.asyncio
async def test_a_replaced_answer_is_judged_like_any(
    faults: FaultInjector, market: Handle, service: Service
) -> None:
    """`retry_if_result` sees it."""
    wary = market.using(retry_if_result=lambda result: result == 0.0)
    with faults.on("market_data", plan=[Answers(0.0)]):
        assert await wary.call(service.quote) == 150.25


@pytest.mark.asyncio
async def test_an_error_says_that_it_was_injected(
    faults: FaultInjector, market: Handle, service: Service
) -> None:
    """Once, however often the same object is raised; in staging a log must tell it from a real one."""
    mine = ConnectionError("mine")
    with faults.on("market_data", mine), pytest.raises(ConnectionError) as caught:
        await market.call(service.quote)
    assert caught.value is mine
    assert mine.__notes__.count("injected by shockproof.testing") == 1
    assert len(attempts_of(mine)) == 4


# -- which attempts -----------------------------------------------------------------------------------


async def outcomes(market: Handle, service: Service, calls: int) -> list[bool]:
    """For each of so many single attempts, whether it failed."""
    failed = []
    for _ in range(calls):
        try:
            await market.using(max_retries=0).call(service.quote)
        except ConnectionError:
            failed.append(True)
        else:
            failed.append(False)
    return failed


@pytest.fixture
def tough(recovery: ErrorRecoveryService) -> Handle:
    return recovery.service("tough", circuit_threshold=None)


@pytest.mark.asyncio
async def test_a_rate_hits_its_share_and_repeats(tough: Handle, service: Service) -> None:
    """The same attempts with the same seed, others with another."""
    runs = []
    for seed in (1, 1, 2):
        with FaultInjector(tough, rng=random.Random(seed)).on(tough, ConnectionError, rate=0.3):
            runs.append(await outcomes(tough, service, 400))
    assert runs[0] == runs[1] != runs[2]
    assert 90 < sum(runs[0]) < 150


@pytest.mark.asyncio
async def test_a_rate_of_nothing_and_of_all(faults: FaultInjector, tough: Handle, service: Service) -> None:
    """The ends mean what they say."""
    with faults.on("tough", ConnectionError, rate=0):
        assert sum(await outcomes(tough, service, 50)) == 0
    with faults.on("tough", ConnectionError, rate=1):
        assert sum(await outcomes(tough, service, 50)) == 50


@pytest.mark.asyncio
async def test_a_plan_is_gone_through_once_or_again_and_again(
    faults: FaultInjector, tough: Handle, service: Service
) -> None:
    """After its end all attempts pass, unless it is repeated."""
    plan = [None, ConnectionError, ConnectionError]
    with faults.on("tough", plan=plan):
        assert await outcomes(tough, service, 7) == [False, True, True, False, False, False, False]
    with faults.on("tough", plan=plan, repeat=True):
        assert await outcomes(tough, service, 7) == [False, True, True, False, True, True, False]


@pytest.mark.asyncio
async def test_attempts_are_chosen_by_number(faults: FaultInjector, market: Handle, service: Service) -> None:
    """The first and the third of each call."""
    seen: list[int] = []

    def where(call: FaultyCall) -> bool:
        seen.append(call.attempt)
        return True

    with faults.on("market_data", ConnectionError, attempts=1, where=where) as injected:
        for _ in range(3):
            await market.call(service.quote)
    assert (injected.injected, injected.passed, seen) == (3, 3, [1, 1, 1])
    with faults.on("market_data", ConnectionError, attempts=(1, 2)) as injected:
        await market.call(service.quote)
    assert (injected.injected, injected.passed) == (2, 1)


@pytest.mark.asyncio
async def test_a_window_of_time_counts_from_the_beginning_of_the_block(
    faults: FaultInjector, tough: Handle, service: Service, clock: VirtualClock
) -> None:
    """From the first second on, and before the second one."""
    hits = []
    with faults.on("tough", ConnectionError, during=(10, 20)):
        for _ in range(6):
            hits += await outcomes(tough, service, 1)
            await clock.sleep(5)
    assert hits == [False, False, True, True, False, False]
    with faults.on("tough", ConnectionError, during=(5, None)):
        assert await outcomes(tough, service, 1) == [False]
        await clock.sleep(1000)
        assert await outcomes(tough, service, 1) == [True]


@pytest.mark.asyncio
async def test_a_condition_sees_arguments_and_context(
    faults: FaultInjector, recovery: ErrorRecoveryService, tough: Handle, service: Service
) -> None:
    """What `recovery.context` has put in force is part of it."""
    one = tough.using(max_retries=0)
    with faults.on("tough", ConnectionError, where=lambda call: call.kwargs.get("symbol") == "AAPL"):
        await one.call(service.quote, symbol="MSFT")
        with pytest.raises(ConnectionError):
            await one.call(service.quote, symbol="AAPL")
    with faults.on("tough", ConnectionError, where=lambda call: call.context.get("desk") == "fx"):
        await one.call(service.quote)
        with recovery.context(desk="fx"), pytest.raises(ConnectionError):
            await one.call(service.quote)


@pytest.mark.asyncio
async def test_a_condition_that_fails_is_raised_and_takes_nothing(
    faults: FaultInjector, recovery: ErrorRecoveryService, service: Service
) -> None:
    """A mistake in a test is shown at once: no retry, no verdict on the service, no place kept."""
    limited = recovery.service("limited", max_concurrent=1)

    def broken(call: FaultyCall) -> bool:
        raise ZeroDivisionError

    async def guarded() -> None:
        async with limited.guard():
            raise AssertionError("the body ran")

    with faults.on("limited", ConnectionError, where=broken):
        for call in (limited.call(service.quote), guarded()):
            with pytest.raises(ZeroDivisionError):
                await call
    assert recovery.get_error_summary()["total_errors"] == 0
    assert await limited.call(service.quote) == 150.25


@pytest.mark.asyncio
async def test_at_most_so_many_are_injected(faults: FaultInjector, tough: Handle, service: Service) -> None:
    """Then the service is well."""
    with faults.on("tough", ConnectionError, most=2):
        assert await outcomes(tough, service, 5) == [True, True, False, False, False]


@pytest.mark.asyncio
async def test_the_innermost_block_that_has_a_fault_wins(
    faults: FaultInjector, tough: Handle, service: Service
) -> None:
    """Where it has none, the one around it is asked; left in any order, each takes only its own away."""
    outer = faults.on("tough", Answers("outer"))
    inner = faults.on("tough", plan=[Answers("inner")])
    with outer:
        with inner:
            assert [await tough.call(service.quote) for _ in range(2)] == ["inner", "outer"]
        assert await tough.call(service.quote) == "outer"
    assert await tough.call(service.quote) == 150.25

    first, second = faults.on("tough", Answers(1)), faults.on("tough", Answers(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert await tough.call(service.quote) == 2
    second.__exit__(None, None, None)
    assert await tough.call(service.quote) == 150.25


@pytest.mark.asyncio
async def test_several_services_at_once_are_apart(
    faults: FaultInjector, market: Handle, tough: Handle, service: Service
) -> None:
    """Each has its own."""
    with faults.on("tough", Answers("tough")), faults.on("market_data", Answers("market")):
        assert await tough.call(service.quote) == "tough"
        assert await market.call(service.quote) == "market"


# -- in which forms -----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_decorated_function_is_hit_although_it_was_decorated_before(
    faults: FaultInjector, market: Handle, service: Service
) -> None:
    """Also one that has made healthy calls: its short way is closed while faults are on, and no longer."""
    quote = market(service.quote)
    await quote()
    assert market.plan.entrance.lane is not None
    with faults.on("market_data", plan=[ConnectionError]) as injected:
        assert market.plan.entrance.lane is None
        await quote("AAPL")
    assert injected.injected == 1
    assert market.plan.entrance.lane is not None


@pytest.mark.asyncio
async def test_a_function_of_the_process_is_hit(
    faults: FaultInjector, recovery: ErrorRecoveryService, service: Service
) -> None:
    """Code under test that uses the decorator of the process needs no change."""
    set_error_recovery_service(recovery)
    try:
        quote = with_error_recovery("api", max_retries=1)(service.quote)
        recovery.service("api")
        with faults.on("api", plan=[ConnectionError]) as injected:
            await quote()
        assert injected.injected == 1
    finally:
        set_error_recovery_service(None)


@pytest.mark.asyncio
async def test_a_plain_function_is_hit_before_its_thread_and_after_it(
    faults: FaultInjector, market: Handle
) -> None:
    """What is not sent starts no thread."""
    threads: list[int] = []

    def blocking() -> str:
        threads.append(threading.get_ident())
        return "answer"

    with faults.on("market_data", plan=[ConnectionError, Fails(TimeoutError, sent=True)]):
        assert await market.call(blocking) == "answer"
    assert len(threads) == 2


@pytest.mark.asyncio
async def test_each_leg_of_a_hedge_is_an_attempt_of_its_own(
    faults: FaultInjector, recovery: ErrorRecoveryService, service: Service, clock: VirtualClock
) -> None:
    """The first hangs, the second answers."""
    hedged = recovery.service("hedged", hedge_after=0.5)
    began = clock.monotonic()
    with faults.on("hedged", plan=[Hangs()]):
        assert await hedged.call(service.quote) == 150.25
    assert clock.monotonic() - began == 0.5


@pytest.mark.asyncio
async def test_an_attempt_in_a_task_of_its_own_is_hit_there(
    faults: FaultInjector, recovery: ErrorRecoveryService, service: Service
) -> None:
    """With a grace, a hang that was cancelled ends at once."""
    own = recovery.service("own", timeout=1.0, grace=5.0, max_retries=1)
    with faults.on("own", plan=[Hangs()]):
        assert await own.call(service.quote) == 150.25


@pytest.mark.asyncio
async def test_a_guarded_block_fails_on_its_way_in(
    faults: FaultInjector, recovery: ErrorRecoveryService, market: Handle
) -> None:
    """The body does not run, the error comes out of the with statement, and the breaker counts it."""
    with faults.on("market_data", ConnectionError):
        for _ in range(5):
            with pytest.raises(ConnectionError):
                async with market.guard():
                    raise AssertionError("the body ran")
    assert recovery.is_circuit_open("market_data")
    (error, *_) = recovery.get_error_summary()["recent_errors"]
    assert error["function_name"] == "test_a_guarded_block_fails_on_its_way_in"


@pytest.mark.asyncio
@pytest.mark.parametrize("sent", [False, True])
async def test_a_guarded_block_that_hangs_ends_with_the_timeout(
    faults: FaultInjector, market: Handle, sent: bool
) -> None:
    """On its way in the body never runs, on its way out it has."""
    ran = 0
    with faults.on("market_data", Hangs(sent=sent)), pytest.raises(AttemptTimeoutError):
        async with market.guard():
            ran += 1
    assert ran == sent


@pytest.mark.asyncio
async def test_a_loop_of_attempts_repeats_what_failed_on_its_way_in(
    faults: FaultInjector, recovery: ErrorRecoveryService, market: Handle, clock: VirtualClock
) -> None:
    """The body runs at the attempt that gets through, which knows its number."""
    began, numbers = clock.monotonic(), []
    with faults.on("market_data", plan=[ConnectionError, Hangs()]):
        async for attempt in market.attempts():
            async with attempt:
                numbers.append(attempt.number)
    assert numbers == [3]
    assert clock.monotonic() - began == 1.0 + 2.0 + 2.0  # a wait, the timeout, a longer wait
    assert [one["retry_count"] for one in recovery.get_error_summary()["recent_errors"]] == [0, 1]


@pytest.mark.asyncio
async def test_a_loop_of_attempts_repeats_a_body_whose_answer_was_lost(
    faults: FaultInjector, market: Handle
) -> None:
    """The body has run and runs again."""
    numbers = []
    with faults.on("market_data", plan=[Fails(ConnectionError, sent=True)]):
        async for attempt in market.attempts():
            async with attempt:
                numbers.append(attempt.number)
    assert numbers == [1, 2]


@pytest.mark.asyncio
@pytest.mark.parametrize("sent", [False, True])
async def test_a_loop_of_attempts_ends_with_the_last_error(
    faults: FaultInjector, market: Handle, sent: bool
) -> None:
    """After the last retry it is raised, with the attempts on it."""

    async def repeated() -> None:
        async for attempt in market.attempts():
            async with attempt:
                pass

    with (
        faults.on("market_data", Fails(ConnectionError, sent=sent)),
        pytest.raises(ConnectionError) as caught,
    ):
        await repeated()
    assert len(attempts_of(caught.value)) == 4


@pytest.mark.asyncio
async def test_a_block_has_no_result_to_replace(faults: FaultInjector, market: Handle) -> None:
    """The message says what to do instead."""
    with faults.on("market_data", Answers(1)), pytest.raises(TypeError, match=r"not call\.is_block"):
        async with market.guard():
            pass


@pytest.mark.asyncio
async def test_a_policy_that_stands_alone_is_hit(clock: VirtualClock, service: Service) -> None:
    """It has no name to be found by, and is handed in itself."""
    timeout = Timeout(timeout=1.0, clock=clock)
    with FaultInjector(timeout).on(timeout, Hangs()), pytest.raises(AttemptTimeoutError):
        await timeout.call(service.quote)
    assert await timeout.call(service.quote) == 150.25


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "fault", [Hangs(), Delays(0.5), Hangs(sent=True), (Delays(0.5), Fails(ConnectionError))]
)
@pytest.mark.parametrize(
    "options", [{}, {"timeout": 1.0}, {"timeout": 1.0, "grace": 0.5}, {"max_concurrent": 1}], ids=str
)
async def test_a_cancellation_passes_through_any_fault_at_once(
    faults: FaultInjector,
    recovery: ErrorRecoveryService,
    service: Service,
    fault: Any,
    options: dict[str, Any],
) -> None:
    """At each await of a call and of both blocks; nothing is kept."""
    handle = recovery.service("api", circuit_threshold=None, max_retries=1, **options)

    async def guarded() -> None:
        async with handle.guard():
            await service.quote()

    async def repeated() -> None:
        async for attempt in handle.attempts():
            async with attempt:
                await service.quote()

    for make_call in (lambda: handle.call(service.quote), guarded, repeated):
        with faults.on("api", plan=[fault], repeat=True) as injected:
            if isinstance(fault, Hangs) and "timeout" not in options:
                task = asyncio.ensure_future(make_call())
                await asyncio.sleep(1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                async for run in cancel_at_each_await(make_call):
                    assert run.delay == 0, run
        assert injected.injected > 0
        assert await handle.call(service.quote) == 150.25


@pytest.mark.asyncio
async def test_wrong_arguments_stay_the_callers_mistake(
    faults: FaultInjector, recovery: ErrorRecoveryService, market: Handle, service: Service
) -> None:
    """Raised at once, as without a fault: no retry and no record."""
    with (
        faults.on("market_data", Delays(0.5)) as injected,
        pytest.raises(TypeError, match="unexpected keyword"),
    ):
        await market.call(service.quote, quantity=1)  # type: ignore[call-overload]  # the mistake under test
    assert injected.injected == 1
    assert recovery.get_error_summary()["total_errors"] == 0


def test_two_loops_in_two_threads_share_a_plan(recovery: ErrorRecoveryService, service: Service) -> None:
    """Each step is taken once, whoever takes it."""
    tough = recovery.service("tough", circuit_threshold=None)
    faults = FaultInjector(recovery)
    failed: list[int] = []

    def loop() -> None:
        failed.append(sum(VirtualClock().run(outcomes(tough, service, 200))))

    with faults.on("tough", plan=[ConnectionError, None] * 100) as injected:
        threads = [threading.Thread(target=loop) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(failed) == injected.injected == 100
    assert injected.passed == 300


# -- safety -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_faults_end_with_their_block_also_when_it_fails(
    faults: FaultInjector, market: Handle, service: Service
) -> None:
    """Nothing is on afterwards, and the counts stay to be looked at."""
    injected = faults.on("market_data", ConnectionError)

    def fails() -> None:
        with injected:
            assert injected.is_on
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not injected.is_on
    assert await market.call(service.quote) == 150.25
    assert repr(injected) == "<faults on 'market_data': 0 injected, 0 passed, off>"


def test_faults_that_are_never_switched_on_give_a_warning(faults: FaultInjector, market: Handle) -> None:
    """A forgotten `with` would make a test that tests nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        faults.on("market_data", ConnectionError)
    assert "never switched on" in str(caught[0].message)
    assert "test_fault_injector.py" in str(caught[0].message)


def test_an_unknown_service_is_refused_with_those_there_are(faults: FaultInjector, market: Handle) -> None:
    """A name with a typing error would otherwise inject nothing, silently."""
    with pytest.raises(
        ValueError, match=r"no service 'marketdata' \(known: 'market_data'\).*recovery\.service"
    ):
        faults.on("marketdata", ConnectionError)


def test_a_service_with_the_real_clock_is_refused_unless_that_is_meant(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In production nobody meets a fault by accident; in staging the log says that they are on."""
    real = ErrorRecoveryService(tmp_path / "s", tmp_path / "e")
    real.service("api")
    with pytest.raises(RuntimeError, match="real_time=True"), FaultInjector(real).on("api", ConnectionError):
        pass
    with FaultInjector(real, real_time=True).on("api", ConnectionError):
        pass
    assert [record.getMessage().split(", from")[0] for record in caplog.records] == [
        "faults are on for service 'api'",
        "faults are off for service 'api': 0 injected",
    ]


def test_a_block_is_entered_once(faults: FaultInjector, market: Handle) -> None:
    """Its plan and its window have begun."""
    injected = faults.on("market_data", ConnectionError)
    with injected:
        pass
    with pytest.raises(RuntimeError, match=r"call on\(\) anew"), injected:
        pass


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((), {}, TypeError, "needs a fault or plan"),
        ((ConnectionError,), {"plan": [None]}, TypeError, "needs a fault or plan"),
        (("error",), {}, TypeError, "fault must be Fails, Delays"),
        ((asyncio.CancelledError,), {}, TypeError, "cancel the task instead"),
        ((int,), {}, TypeError, "error must be an Exception type"),
        ((Hangs,), {}, TypeError, r"fault got the class Hangs: write Hangs\(\.\.\.\)"),
        (((),), {}, ValueError, "empty tuple"),
        (((Fails(ValueError), Delays(1)),), {}, ValueError, "can never happen after"),
        (((Delays(1, sent=True), Delays(1)),), {}, ValueError, "put it first"),
        ((), {"plan": []}, ValueError, "plan is empty"),
        ((), {"plan": "ok, fail"}, TypeError, "plan must be a sequence"),
        ((), {"plan": [None, 3]}, TypeError, "step 2 of plan must be"),
        ((ValueError,), {"repeat": True}, TypeError, "repeat=True is for a plan"),
        ((ValueError,), {"rate": 1.5}, ValueError, "rate must be from 0 to 1, got 1.5"),
        ((ValueError,), {"rate": "0.5"}, TypeError, "rate must be a number"),
        ((ValueError,), {"attempts": 0}, ValueError, "attempts must be a whole number of at least 1"),
        ((ValueError,), {"attempts": ()}, ValueError, "attempts is empty"),
        ((ValueError,), {"attempts": "1"}, TypeError, "attempts must be a number or several"),
        ((ValueError,), {"during": 10}, TypeError, "during must be a pair"),
        ((ValueError,), {"during": (20, 10)}, ValueError, "to after from"),
        ((ValueError,), {"most": 0}, ValueError, "most must be a whole number of at least 1"),
        ((ValueError,), {"where": "AAPL"}, TypeError, "where must be a function"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    faults: FaultInjector, market: Handle, arguments: Any, options: Any, kind: type[Exception], message: str
) -> None:
    """Before anything is switched on."""
    with pytest.raises(kind, match=message):
        faults.on("market_data", *arguments, **options)


class NeedsTwoError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda: Fails(NeedsTwoError),
            TypeError,
            "NeedsTwoError cannot be made from one text.*lambda call: NeedsTwoError",
        ),
        (lambda: Fails(KeyboardInterrupt()), TypeError, "cancel the task instead"),  # type: ignore[arg-type]  # the mistake under test
        (lambda: Fails(3), TypeError, "error must be an exception"),  # type: ignore[arg-type]  # the mistake under test
        (lambda: Delays(-1), ValueError, "seconds must be seconds"),
        (lambda: Delays((2, 1)), ValueError, "in this order"),
        (lambda: Delays((1, 2, 3)), ValueError, "must be a pair"),  # type: ignore[arg-type]  # the mistake under test
        (Answers, TypeError, "a value or make"),
        (lambda: Answers(1, make=lambda call: 2), TypeError, "and not both"),
        (lambda: FaultInjector("api"), TypeError, "recovery must be"),  # type: ignore[arg-type]  # the mistake under test
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(make: Any, kind: type[Exception], message: str) -> None:
    """Where it is written, not where it would happen."""
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.asyncio
async def test_what_a_function_of_the_user_gives_is_checked_when_it_is_used(
    faults: FaultInjector, market: Handle, service: Service
) -> None:
    """The message names the fault."""
    one = market.using(max_retries=0)
    with (
        faults.on("market_data", Fails(lambda call: "error")),
        pytest.raises(TypeError, match="function for Fails"),
    ):  # type: ignore[arg-type, return-value]  # the mistake under test
        await one.call(service.quote)
    with (
        faults.on("market_data", Delays(lambda rng: -1.0)),
        pytest.raises(ValueError, match="function for Delays"),
    ):
        await one.call(service.quote)

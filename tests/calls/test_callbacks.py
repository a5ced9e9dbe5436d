"""What users hand in may fail: that never leaks a slot, changes a verdict or masks the call's own result."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shockproof import (
    CallInfo,
    CircuitOpenError,
    ErrorRecoveryService,
    Handle,
    Outcome,
    ServiceStatus,
    Verdict,
    attempts_of,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


class Broken:
    """A callback that raises, whatever it is asked."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.asked = 0

    def __call__(self, *args: object) -> Any:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("option", "function", "says"),
    [
        ("classify", lambda error: None, r"classify\(error_or_result, call\), which .* too many"),
        ("retry_on", lambda: True, r"retry_on\(error\), which .* too many"),
        ("retry_if_result", lambda result, call: True, r"retry_if_result\(result\), which .* missing"),
        ("backoff", lambda retry: 1.0, r"backoff\(retry, error\), which .* too many"),
    ],
)
async def test_one_that_takes_other_arguments_is_refused_where_it_is_given(
    recovery: ErrorRecoveryService, option: str, function: Callable[..., object], says: str
) -> None:
    """It would fail each time it is asked, and all that anybody saw of it would be the log."""
    options: Any = {option: function}
    with pytest.raises(TypeError, match=says):
        recovery.service("api").using(**options)


async def called(handle: Handle, function: Callable[[], Awaitable[Any]]) -> Any:
    return await handle.call(function)


async def guarded(handle: Handle, function: Callable[[], Awaitable[Any]]) -> Any:
    async with handle.guard():
        return await function()


async def repeated(handle: Handle, function: Callable[[], Awaitable[Any]]) -> Any:
    async for attempt in handle.attempts():
        async with attempt:
            return await function()
    raise AssertionError("the loop ended without an answer and without an error")


async def hedged(handle: Handle, function: Callable[[], Awaitable[Any]]) -> Any:
    return await handle.using(hedge_after=1.0).call(function)


async def half_open(recovery: ErrorRecoveryService, clock: VirtualClock, script: Script) -> None:
    recovery.service("api", circuit_threshold=1, probe_lease=10_000.0)
    with pytest.raises(ConnectionError):
        await recovery.retry_with_backoff(script(ConnectionError("down")), service_name="api", max_retries=0)
    await clock.sleep(60)


# -- predicates and classify -------------------------------------------------------------------------


async def test_retry_on_that_raises_means_no(recovery: ErrorRecoveryService, script: Script) -> None:
    """The call's own error comes out, once."""
    error = ConnectionError("no")
    fetch = script(error)
    broken = Broken(ZeroDivisionError())
    with pytest.raises(ConnectionError) as raised:
        await recovery.service("api", retry_on=broken).call(fetch)
    assert raised.value is error
    assert error.__context__ is None
    assert (fetch.calls, broken.asked) == (1, 1)


async def test_classify_that_raises_leaves_it_to_the_rules(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """An error is a failure, an answer an answer."""
    broken = Broken(ZeroDivisionError())
    api = recovery.service("api", classify=broken)
    assert await api.call(script(ConnectionError("no"), "answer")) == "answer"
    assert broken.asked == 2
    assert recovery.get_error_summary()["errors_by_type"] == {"ConnectionError": 1}


async def test_retry_if_result_that_raises_takes_the_result(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """It was the function's, and stays it."""
    api = recovery.service("api", retry_if_result=Broken(ZeroDivisionError()))
    fetch = script("answer")
    assert await api.call(fetch) == "answer"
    assert fetch.calls == 1


@pytest.mark.parametrize("run", [called, guarded, repeated])
@pytest.mark.parametrize("option", ["classify", "retry_on", "retry_if_result"])
async def test_an_exit_in_a_callback_gives_the_probe_back(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    script: Script,
    run: Callable[..., Awaitable[Any]],
    option: str,
) -> None:
    """What is no Exception passes; the place at a half-open circuit is free again."""
    await half_open(recovery, clock, script)
    api = recovery.service("api", **{option: Broken(SystemExit(3)), "max_retries": 1})
    function = script("answer") if option == "retry_if_result" else script(ConnectionError("no"))
    try:
        await run(api, function)
    except (SystemExit, ConnectionError):
        pass
    if recovery.is_circuit_open("api"):
        await clock.sleep(60)  # the failed probe was a verdict of its own
    assert await recovery.retry_with_backoff(script("answer"), service_name="api") == "answer"


@pytest.mark.parametrize("option", ["retry_on", "retry_if_result", "classify"])
async def test_a_callback_that_answers_at_once_is_no_coroutine_function(
    recovery: ErrorRecoveryService, option: str
) -> None:
    """Its coroutine would be true, whatever it says, and never run."""

    async def asks_somebody(*args: object) -> bool:
        return False

    with pytest.raises(TypeError, match=f"{option} is asked on the loop.*plain function.*asks_somebody"):
        recovery.service("api", **{option: asks_somebody})


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("option", ["classify", "retry_on"])
async def test_an_exit_in_a_callback_of_a_hedged_call_gives_the_probe_back(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    script: Script,
    option: str,
    kind: type[BaseException],
) -> None:
    """The callback is asked while other requests may be in flight: they end, too."""
    await half_open(recovery, clock, script)
    api = recovery.service("api", **{option: Broken(kind())})
    with pytest.raises(kind):
        await hedged(api, script(ConnectionError("no")))
    assert recovery.get_health_status()["circuit_breakers"]["api"] == "half-open"
    assert await recovery.retry_with_backoff(script("answer"), service_name="api") == "answer"


@pytest.mark.parametrize("run", [called, guarded, repeated, hedged])
@pytest.mark.parametrize("option", ["classify", "retry_on", "retry_if_result"])
async def test_a_callback_that_raises_masks_nothing_in_any_form(
    recovery: ErrorRecoveryService, script: Script, run: Callable[..., Awaitable[Any]], option: str
) -> None:
    """The call's own error comes out and its own result; the callback's error hangs on neither."""
    api = recovery.service("api", **{option: Broken(ZeroDivisionError())}, max_concurrent=3)
    error = ConnectionError("no")
    with pytest.raises(ConnectionError) as raised:
        await run(api, script(error))
    assert raised.value is error
    assert error.__context__ is error.__cause__ is None
    assert await run(api, script("answer")) == "answer"
    assert recovery.get_health_status()["services"]["api"]["in_flight"] == 0


async def test_an_error_with_hostile_attributes_is_judged_all_the_same(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """__str__, retry_after and __notes__ are the user's code: they may raise, the probe comes back."""

    class HostileError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

        @property
        def retry_after(self) -> float:
            raise ZeroDivisionError

        @property
        def __notes__(self) -> list[str]:
            raise ZeroDivisionError

    await half_open(recovery, clock, script)
    with pytest.raises(HostileError):
        await recovery.service("api").call(script(HostileError()))
    await clock.sleep(60)
    assert await recovery.retry_with_backoff(script("answer"), service_name="api") == "answer"


async def test_predicates_and_classify_run_on_the_loop(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """On its thread, also for plain functions that run elsewhere."""
    threads: set[int] = set()

    def seen(*args: object) -> bool:
        threads.add(threading.get_ident())
        return False

    api = recovery.service(
        "api", retry_on=seen, retry_if_result=seen, classify=lambda value, call: seen() or None
    )
    await api.call(lambda: "answer")
    with pytest.raises(ZeroDivisionError):
        await api.call(lambda: 1 / 0)
    assert threads == {threading.get_ident()}


# -- fallbacks ---------------------------------------------------------------------------------------


async def test_several_fallbacks_make_a_chain(recovery: ErrorRecoveryService, script: Script) -> None:
    """Each gets its turn until one answers; each failure is recorded."""
    api = recovery.service("api", fallback=[script(KeyError("a")), script(ValueError("b")), script("c")])
    assert await api.using(max_retries=0).call(script(ConnectionError())) == "c"
    assert recovery.get_error_summary()["errors_by_type"] == {
        "ConnectionError": 1,
        "KeyError": 1,
        "ValueError": 1,
    }
    assert recovery.get_service_status("api") is ServiceStatus.DEGRADED


async def test_a_chain_may_end_in_a_value(recovery: ErrorRecoveryService, script: Script) -> None:
    """What is not callable is returned as it is."""
    api = recovery.service("api", fallback=[script(KeyError("a")), {"price": None}], max_retries=0)
    assert await api.call(script(ConnectionError())) == {"price": None}


async def test_when_all_fail_the_last_fallbacks_error_is_raised(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """With the primary's as its cause."""
    primary, first, last = ConnectionError("primary"), KeyError("first"), ValueError("last")
    api = recovery.service("api", fallback=[script(first), script(last)], max_retries=1)
    with pytest.raises(ValueError, match="last") as raised:
        await api.call(script(primary))
    assert raised.value is last
    assert last.__cause__ is primary
    assert len(attempts_of(primary)) == 2
    assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE


async def test_a_fallback_that_raises_the_primarys_own_error_makes_no_loop(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """An error is never its own cause."""
    error = ConnectionError("same")
    api = recovery.service("api", fallback=script(error), max_retries=0)
    with pytest.raises(ConnectionError) as raised:
        await api.call(script(error))
    assert raised.value is error
    assert error.__cause__ is None


async def test_a_failing_fallback_behind_an_open_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """Its error, with the refusal as cause."""
    api = recovery.service("api", circuit_threshold=1, max_retries=0)
    with pytest.raises(ConnectionError):
        await api.call(script(ConnectionError()))
    with pytest.raises(KeyError) as raised:
        await api.using(fallback=script(KeyError("cache"))).call(script("answer"))
    assert isinstance(raised.value.__cause__, CircuitOpenError)
    assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE


@pytest.mark.parametrize(
    ("fallback", "expected"),
    [
        (lambda *args, **kwargs: (args, kwargs), (("AAPL",), {"depth": 5})),
        (lambda symbol, depth: (symbol, depth), ("AAPL", 5)),
        (lambda symbol, **rest: (symbol, rest), ("AAPL", {"depth": 5})),
        (lambda: "nothing", "nothing"),
        (lambda symbol="default": symbol, "default"),
        (dict, {"depth": 5}),
    ],
)
async def test_a_fallback_gets_the_arguments_if_it_can_bind_them(
    recovery: ErrorRecoveryService, script: Script, fallback: Callable[..., object], expected: object
) -> None:
    """All of them or none."""
    args = () if fallback is dict else ("AAPL",)
    api = recovery.service("api", fallback=fallback, max_retries=0)
    assert await api.call(script(ConnectionError()), *args, depth=5) == expected


async def test_a_type_error_inside_a_fallback_is_its_failure(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """It is not taken for arguments that do not fit."""
    calls: list[int] = []

    async def broken(symbol: str) -> str:
        calls.append(1)
        raise TypeError("inside")

    with pytest.raises(TypeError, match="inside"):
        await recovery.service("api", fallback=broken, max_retries=0).call(script(ConnectionError()), "A")
    assert calls == [1]


async def test_a_fallback_that_cannot_be_guarded_is_refused_when_the_handle_is_built(
    recovery: ErrorRecoveryService,
) -> None:
    """A coroutine object answers once, an async generator never."""

    async def cached() -> str:
        return "cached"

    async def ticks() -> Any:
        yield 1

    with pytest.raises(TypeError, match=r"coroutine object .*cached"):
        recovery.service("api", fallback=cached())
    with pytest.raises(TypeError, match="ticks is an async generator"):
        recovery.service("api", fallback=ticks)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
async def test_a_fallback_that_is_cancelled_or_exits_ends_the_call(
    recovery: ErrorRecoveryService, script: Script, kind: type[BaseException]
) -> None:
    """The next one is not asked."""
    other = script("other")
    with pytest.raises(kind):
        await recovery.service("api", fallback=[script(kind()), other], max_retries=0).call(
            script(ConnectionError())
        )
    assert other.calls == 0


async def test_a_verdict_of_success_on_an_error_does_not_ask_the_fallback(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The user has said that the service answered."""

    def classify(value: object, call: CallInfo) -> Verdict | None:
        return Verdict(Outcome.SUCCESS) if isinstance(value, KeyError) else None

    cached = script("cached")
    with pytest.raises(KeyError):
        await recovery.service("api", classify=classify, fallback=cached).call(script(KeyError()))
    assert cached.calls == 0


# -- groups ------------------------------------------------------------------------------------------


async def test_a_group_with_one_failure_is_a_failure(recovery: ErrorRecoveryService, script: Script) -> None:
    """Judged by its leaves: retried, recorded, raised unchanged."""
    group = ExceptionGroup("both", [CircuitOpenError("other"), ConnectionError("no")])
    fetch = script(group)
    with pytest.raises(ExceptionGroup) as raised:
        await recovery.service("api", max_retries=1).call(fetch)
    assert raised.value is group
    assert fetch.calls == 2
    assert recovery.get_error_summary()["total_errors"] == 2


async def test_a_group_of_refusals_is_neutral(recovery: ErrorRecoveryService, script: Script) -> None:
    """As each of them would be."""
    fetch = script(ExceptionGroup("all", [CircuitOpenError("a"), CircuitOpenError("b")]))
    with pytest.raises(ExceptionGroup):
        await recovery.service("api").call(fetch)
    assert fetch.calls == 1
    assert recovery.get_error_summary()["total_errors"] == 0


async def test_a_group_is_retried_only_when_each_leaf_would_be(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """retry_on looks at the leaves."""
    api = recovery.service("api", retry_on=ConnectionError)
    fetch = script(ExceptionGroup("", [ConnectionError(), ConnectionResetError()]), "answer")
    assert await api.call(fetch) == "answer"
    mixed = script(ExceptionGroup("", [ConnectionError(), ValueError()]))
    with pytest.raises(ExceptionGroup):
        await api.call(mixed)
    assert mixed.calls == 1


async def test_a_group_with_an_exit_passes_untouched(recovery: ErrorRecoveryService, script: Script) -> None:
    """It is no Exception."""
    group = BaseExceptionGroup("", [ConnectionError(), KeyboardInterrupt()])
    fetch = script(group)
    with pytest.raises(BaseExceptionGroup) as raised:
        await recovery.service("api", fallback="cached").call(fetch)
    assert raised.value is group
    assert fetch.calls == 1
    assert recovery.get_error_summary()["total_errors"] == 0

"""Handles: one service, several ways to use it, and what belongs to whom."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import warnings
import weakref
from collections.abc import Callable
from datetime import timedelta
from email.utils import formatdate
from typing import Any

import pytest

from shockproof import (
    AttemptTimeoutError,
    CallInfo,
    CircuitOpenError,
    ErrorRecoveryService,
    Outcome,
    ServiceStatus,
    Verdict,
    attempts_of,
    set_error_recovery_service,
    with_error_recovery,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


def counts(recovery: ErrorRecoveryService, name: str = "api") -> dict[str, Any]:
    found: dict[str, Any] = recovery.get_health_status()["services"][name]
    return found


# -- one state, other options ------------------------------------------------------------------------


async def test_a_call_gets_its_arguments_and_gives_its_result(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """Everything that is handed to call goes to the function, whatever it is called."""
    fetch = script({"price": 1.0})
    keywords = {"self": 1, "fn": 2, "args": 3, "service_name": 4, "max_retries": 5, "timeout": 6}
    assert await recovery.service("api").call(fetch, "AAPL", **keywords) == {"price": 1.0}
    assert fetch.arguments == [(("AAPL",), keywords)]


async def test_other_options_use_the_same_state(recovery: ErrorRecoveryService, script: Script) -> None:
    """`using` changes the way of calling; circuit, status and counts are the service's."""
    api = recovery.service("api", max_retries=0)
    once_more = api.using(max_retries=1, base_delay=0.5)
    fetch = script(ConnectionError("no"))
    with pytest.raises(ConnectionError):
        await once_more.call(fetch)
    assert fetch.times == [0.0, 0.5]
    with pytest.raises(ConnectionError):
        await api.call(fetch)
    assert fetch.calls == 3
    assert counts(recovery)["failures"] == 3
    assert api.status is once_more.status is ServiceStatus.UNAVAILABLE
    assert api.service_name == once_more.service_name == "api"


async def test_what_is_not_named_stays_as_it_was(recovery: ErrorRecoveryService, script: Script) -> None:
    """`using(...).using(...)` adds up, and None switches a limit or a policy off."""
    api = recovery.service("api", max_retries=1, base_delay=0.5, timeout=5.0, fallback="cached")
    assert await api.using(base_delay=0.25).call(script(ConnectionError())) == "cached"
    bare = api.using(timeout=None).using(fallback=None)
    fetch = script(ConnectionError())
    with pytest.raises(ConnectionError):
        await bare.call(fetch)
    assert fetch.times == [0.0, 0.5]


async def test_two_functions_on_one_service_may_have_different_options(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """What belongs to the handle may differ."""
    a = recovery.service("api", max_retries=0, timeout=1.0)
    b = recovery.service("api", max_retries=2, timeout=2.0, fallback="cached")
    fetch = script(ConnectionError())
    with pytest.raises(ConnectionError):
        await a.call(fetch)
    assert await b.call(fetch) == "cached"
    assert fetch.calls == 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"circuit_threshold": 3}, {"circuit_threshold": 4}),
        ({"circuit_timeout": 3.0}, {"circuit_timeout": 4}),
        ({"half_open_probes": 1}, {"half_open_probes": 2}),
        ({"critical": True}, {"critical": False}),
        ({"probe_lease": 1.0}, {"probe_lease": None}),
        ({"failure_rate": 0.5}, {"failure_rate": 0.6}),
        ({"window": 5.0, "failure_rate": 0.5}, {"window": 6.0}),
    ],
)
async def test_a_second_value_for_what_belongs_to_the_service_is_refused(
    recovery: ErrorRecoveryService, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Both places are named, so that one of them can be changed."""
    recovery.service("api", **first)
    here = inspect.currentframe()
    assert here is not None
    first_line, second_line = here.f_lineno - 3, here.f_lineno + 2
    with pytest.raises(ValueError, match="belongs to the service") as raised:
        recovery.service("api", **second)
    said = str(raised.value)
    assert "'api'" in said
    assert f"{__file__}:{first_line}" in said
    assert f"{__file__}:{second_line}" in said


async def test_a_refused_second_value_changes_nothing(recovery: ErrorRecoveryService, script: Script) -> None:
    """Not even the options beside it."""
    recovery.service("api", circuit_threshold=2)
    with pytest.raises(ValueError, match="circuit_threshold"):
        recovery.service("api", circuit_threshold=9, circuit_timeout=1.0)
    api = recovery.service("api", max_retries=0)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await api.call(script(ConnectionError()))
    with pytest.raises(CircuitOpenError) as raised:
        await api.call(script("answer"))
    assert raised.value.retry_after == 60.0


async def test_the_same_value_may_be_said_twice(recovery: ErrorRecoveryService) -> None:
    """Also in another spelling."""
    recovery.service("api", circuit_timeout=60, circuit_threshold=5)
    recovery.service("api", circuit_timeout=timedelta(minutes=1), circuit_threshold=5)


async def test_a_decorator_cannot_contradict_a_handle(recovery: ErrorRecoveryService) -> None:
    """One for its name, however it is declared: refused where it is decorated."""
    recovery.service("api", circuit_threshold=3)
    set_error_recovery_service(recovery)
    try:
        with pytest.raises(ValueError, match=r"circuit_threshold=4 at .*circuit_threshold=3 at "):
            with_error_recovery("api", circuit_threshold=4)
    finally:
        set_error_recovery_service(None)


async def test_a_decorator_that_contradicts_a_later_service_is_refused_at_its_first_call(
    recovery: ErrorRecoveryService,
) -> None:
    """It could not be known before; the function does not run."""

    @with_error_recovery("api", circuit_threshold=4)
    async def fetch() -> None:
        raise AssertionError("must not run")

    recovery.service("api", circuit_threshold=3)
    set_error_recovery_service(recovery)
    try:
        with pytest.raises(ValueError, match=r"circuit_threshold=4 at .*circuit_threshold=3 at "):
            await fetch()
    finally:
        set_error_recovery_service(None)


async def test_two_decorators_of_one_service_cannot_contradict_each_other() -> None:
    """Known before there is a service at all, with both places; a function that is gone decides nothing."""

    def decorated(threshold: int) -> object:
        @with_error_recovery("prices", circuit_threshold=threshold)
        async def fetch() -> None: ...

        return fetch

    kept = decorated(3)
    with pytest.raises(
        ValueError, match=rf"circuit_threshold=4 at {re.escape(__file__)}:.*=3 at {re.escape(__file__)}:"
    ):
        decorated(4)
    decorated(3)
    del kept
    gc.collect()
    assert decorated(4) is not None


async def test_what_belongs_to_the_service_is_not_for_using(recovery: ErrorRecoveryService) -> None:
    """Said with the way out."""
    with pytest.raises(TypeError, match=r"circuit_threshold belongs to the service.*service\("):
        recovery.service("api").using(circuit_threshold=3)  # type: ignore[call-arg]  # the mistake under test


@pytest.mark.parametrize("name", ["retries", "Timeout", "service_name"])
async def test_an_unknown_option_is_refused_with_those_that_exist(
    recovery: ErrorRecoveryService, name: str
) -> None:
    """By service and by using alike."""
    with pytest.raises(TypeError, match=rf"'{name}'.*max_retries.*timeout"):
        recovery.service("api", **{name: 1})
    with pytest.raises(TypeError, match=rf"'{name}'.*max_retries.*timeout"):
        recovery.service("api").using(**{name: 1})


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"max_retries": -1}, ValueError, "max_retries must be .*got -1"),
        ({"timeout": 0}, ValueError, "timeout must be .*more than 0, got 0"),
        ({"timeout": "1"}, TypeError, "timeout must be .*got '1'"),
        ({"deadline": float("inf")}, ValueError, "deadline must be .*got inf"),
        ({"deadline": 10**400}, ValueError, "deadline must be .*got 1000"),
        ({"backoff_factor": 10**400}, ValueError, "backoff_factor must be .*got 1000"),
        ({"deadline": -1.0}, ValueError, "deadline must be .*got -1.0"),
        ({"jitter": "some"}, ValueError, "jitter must be one of .*got 'some'"),
        ({"effect": "write"}, ValueError, "effect must be one of .*'unsafe'.*got 'write'"),
        ({"risk_reducing": 1}, TypeError, "risk_reducing must be True or False, got 1"),
        ({"retry_on": "ValueError"}, TypeError, "retry_on must be .*got 'ValueError'"),
        ({"retry_on": KeyboardInterrupt}, TypeError, "retry_on .*KeyboardInterrupt"),
        ({"retry_on": BaseException}, TypeError, "retry_on .*BaseException"),
        ({"retry_on": ()}, ValueError, "retry_on is empty"),
        ({"fallback": []}, ValueError, r"fallback=\[\] is a chain of nothing.*write fallback=\[\[\]\]"),
        ({"fallback": ()}, ValueError, r"fallback=\(\) is a chain of nothing"),
        ({"classify": 5}, TypeError, "classify must be a function, got 5"),
        ({"half_open_probes": 0}, ValueError, "half_open_probes must be .*got 0"),
        ({"probe_lease": 0}, ValueError, "probe_lease must be .*got 0"),
        ({"circuit_threshold": 0}, ValueError, "circuit_threshold must be .*got 0"),
        ({"check_every": 0}, ValueError, "check_every must be .*got 0"),
        ({"failure_rate": 1.5}, ValueError, "failure_rate must be .*got 1.5"),
        ({"slow_call_rate": 0.5}, ValueError, "slow_call_rate.*slow_call_after"),
        ({"window_calls": 0}, ValueError, "window_calls must be .*at least 1, got 0"),
        ({"window_calls": 1_000_001}, ValueError, "window_calls .*at most 1000000.*got 1000001; .*window="),
        ({"window_calls": 5}, ValueError, "window_calls=5 is fewer than min_calls=10.*min_calls=5 or less"),
        ({"window_calls": 5, "min_calls": 6}, ValueError, "window_calls=5 is fewer than min_calls=6"),
        ({"max_call_age": 0}, ValueError, "max_call_age must be .*more than 0, got 0"),
        ({"circuit_timeout_factor": 0.9}, ValueError, "circuit_timeout_factor must be .*at least 1, got 0.9"),
        ({"max_circuit_timeout": 0}, ValueError, "max_circuit_timeout must be .*more than 0, got 0"),
        (
            {"max_circuit_timeout": 30, "circuit_timeout": 40},
            ValueError,
            "max_circuit_timeout=30 is less than circuit_timeout=40.*at least as long",
        ),
        ({"circuit_jitter": -0.1}, ValueError, "circuit_jitter must be .*got -0.1"),
        (
            {"circuit_jitter": 1.1},
            ValueError,
            "circuit_jitter must be a share, at least 0 and up to 1, got 1.1",
        ),
        ({"circuit_mode": "off"}, ValueError, "circuit_mode must be one of .*'shadow', got 'off'"),
    ],
)
async def test_a_bad_value_is_refused_when_the_handle_is_built(
    recovery: ErrorRecoveryService, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    """With name, value and what is allowed; no service comes into being."""
    with pytest.raises(error, match=says):
        recovery.service("api", **options)
    assert recovery.get_all_service_statuses() == {}


@pytest.mark.parametrize(
    "options",
    [
        {"window_calls": 10},
        {"window_calls": 1_000_000, "window": 60.0},
        {"window_calls": 1, "min_calls": 1},
        {"window_calls": None},
        {"max_call_age": None},
        {"circuit_timeout_factor": 1},
        {"max_circuit_timeout": 40, "circuit_timeout": 40},
        {"max_circuit_timeout": 1},
        {"circuit_jitter": 0},
        {"circuit_jitter": 1},
        {"circuit_mode": "forced-open"},
    ],
)
@pytest.mark.filterwarnings("ignore:.* has no effect without:UserWarning")
async def test_a_value_at_the_edge_of_what_is_allowed_is_taken(
    recovery: ErrorRecoveryService, options: dict[str, Any]
) -> None:
    """The ranges of the reference include their ends."""
    recovery.service("api", **options)


async def test_options_of_two_places_must_make_sense_together(recovery: ErrorRecoveryService) -> None:
    """What one place could not have said, two cannot either; nothing of the second is taken over."""
    recovery.service("api", window_calls=20, failure_rate=0.5, circuit_threshold=None, max_retries=0)
    with pytest.raises(ValueError, match="window_calls=20 is fewer than min_calls=30"):
        recovery.service("api", min_calls=30, circuit_threshold=None, half_open_probes=7)
    assert recovery._registry.get_or_create("api").circuit.probes == 1


@pytest.mark.parametrize("name", ["", None, 5])
async def test_a_service_needs_a_name(recovery: ErrorRecoveryService, name: Any) -> None:
    """A string with something in it."""
    with pytest.raises((TypeError, ValueError), match="name must be"):
        recovery.service(name)


async def test_seconds_may_be_timedeltas(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """Every duration of a handle."""
    api = recovery.service(
        "api",
        max_retries=1,
        base_delay=timedelta(milliseconds=500),
        timeout=timedelta(seconds=2),
        deadline=timedelta(minutes=1),
        circuit_timeout=timedelta(minutes=2),
    )
    fetch = script(ConnectionError())
    with pytest.raises(ConnectionError):
        await api.call(fetch)
    assert fetch.times == [0.0, 0.5]
    with pytest.raises(AttemptTimeoutError) as raised:
        await api.using(max_retries=0).call(clock.sleep, 10)
    assert raised.value.seconds == 2.0


# -- dangerous combinations --------------------------------------------------------------------------


async def test_an_attempt_timeout_longer_than_the_deadline_is_warned_about(
    recovery: ErrorRecoveryService,
) -> None:
    """When the handle is built, at the line that builds it."""
    with pytest.warns(UserWarning, match=r"timeout=5 is longer than deadline=2") as warned:
        recovery.service("api", timeout=5.0, deadline=2.0)
    assert warned[0].filename == __file__


@pytest.mark.parametrize("later", [{"timeout": 30.0}])
async def test_the_same_is_warned_about_when_it_comes_together_by_using(
    recovery: ErrorRecoveryService, later: dict[str, Any]
) -> None:
    """One half from the handle, the other from `using`."""
    api = recovery.service("api", timeout=5.0, deadline=10.0)
    with pytest.warns(UserWarning, match="is longer than deadline") as warned:
        api.using(**later)
    assert warned[0].filename == __file__


async def test_the_decorator_warns_too(recovery: ErrorRecoveryService) -> None:
    """with_error_recovery takes the same options."""
    with pytest.warns(UserWarning, match=r"timeout=5 is longer than deadline=2") as warned:
        with_error_recovery("api", timeout=5.0, deadline=2.0)
    assert warned[0].filename == __file__


async def test_a_retry_inside_a_retry_on_one_service_is_warned_about(
    recovery: ErrorRecoveryService,
) -> None:
    """Decorating twice for the same service."""
    api = recovery.service("api")

    @api
    async def fetch() -> None:
        pass

    with pytest.warns(UserWarning, match=r"fetch.*already guarded by service 'api'") as warned:
        api.using(max_retries=1)(fetch)
    assert warned[0].filename == __file__


async def test_two_services_around_one_function_are_fine(recovery: ErrorRecoveryService) -> None:
    """No warning for different names."""

    async def fetch() -> str:
        return "answer"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = recovery.service("outer")(recovery.service("inner")(fetch))
    assert await both() == "answer"


# -- what an error means -----------------------------------------------------------------------------


async def test_retry_on_narrows_what_is_repeated(recovery: ErrorRecoveryService, script: Script) -> None:
    """Other errors are raised at once, recorded as final."""
    api = recovery.service("api", retry_on=(ConnectionError, TimeoutError))
    fetch = script(ConnectionError(), ValueError("no such symbol"), "answer")
    with pytest.raises(ValueError, match="no such symbol"):
        await api.call(fetch)
    assert fetch.calls == 2
    assert recovery.get_error_summary()["errors_by_severity"] == {"medium": 1, "high": 1}


async def test_an_unwanted_result_is_repeated(recovery: ErrorRecoveryService, script: Script) -> None:
    """retry_if_result: a failure like an error, until a good one comes."""
    api = recovery.service("api", retry_if_result=lambda result: result is None)
    fetch = script(None, None, "filled")
    assert await api.call(fetch) == "filled"
    assert fetch.times == [0.0, 1.0, 3.0]
    assert recovery.get_error_summary()["total_errors"] == 2


async def test_the_last_unwanted_result_is_returned(recovery: ErrorRecoveryService, script: Script) -> None:
    """There is no error to raise: the caller sees what the function returned."""
    api = recovery.service("api", retry_if_result=lambda result: result == "pending", max_retries=1)
    fetch = script("pending")
    assert await api.call(fetch) == "pending"
    assert fetch.calls == 2
    assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE


async def test_unwanted_results_open_the_circuit(recovery: ErrorRecoveryService, script: Script) -> None:
    """They are failures for all policies; the loop ends at once with the last result."""
    api = recovery.service("api", retry_if_result=lambda result: result is None, max_retries=9)
    fetch = script(None)
    assert await api.call(fetch) is None
    assert fetch.calls == 5
    assert recovery.is_circuit_open("api")


async def test_an_unwanted_result_is_answered_by_the_fallback(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """As an error would be."""
    api = recovery.service("api", retry_if_result=lambda result: result is None, max_retries=0, fallback=7)
    assert await api.call(script(None)) == 7
    assert recovery.get_service_status("api") is ServiceStatus.DEGRADED


async def test_an_error_classified_neutral_counts_nowhere(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """A bad request of our own: raised unchanged at once, no record, no count, no fallback."""
    error = ValueError("bad request")
    api = recovery.service(
        "api", classify=lambda value, call: Verdict(Outcome.NEUTRAL), fallback="cached", circuit_threshold=1
    )
    fetch = script(error)
    with pytest.raises(ValueError, match="bad request") as raised:
        await api.call(fetch)
    assert raised.value is error
    assert fetch.calls == 1
    assert recovery.get_error_summary()["total_errors"] == 0
    assert counts(recovery)["failures"] == 0
    assert not recovery.is_circuit_open("api")
    assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL


async def test_an_error_classified_as_a_success_is_raised_and_counts_as_one(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """An error such as "order not found" is an answer: the service works."""
    for _ in range(4):
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(script(ConnectionError()), service_name="api", max_retries=0)
    api = recovery.service("api", classify=lambda value, call: Verdict(Outcome.SUCCESS))
    fetch = script(KeyError("order"))
    with pytest.raises(KeyError):
        await api.call(fetch)
    assert fetch.calls == 1
    assert counts(recovery)["successes"] == 1
    assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL
    with pytest.raises(ConnectionError):
        await recovery.retry_with_backoff(script(ConnectionError()), service_name="api", max_retries=0)
    assert not recovery.is_circuit_open("api")


async def test_a_result_classified_as_a_failure_is_one(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """An error in the body of an answer; its retry_after is honoured."""

    def classify(value: object, call: CallInfo) -> Verdict | None:
        return Verdict(Outcome.FAILURE, retry_after=7.0) if value == {"code": -1003} else None

    fetch = script({"code": -1003}, {"price": 1})
    assert await recovery.service("api", classify=classify).call(fetch) == {"price": 1}
    assert fetch.times == [0.0, 7.0]


async def test_classify_is_told_about_the_call(recovery: ErrorRecoveryService, script: Script) -> None:
    """Service, function, number of the attempt, effect."""
    told: list[CallInfo] = []

    def classify(value: object, call: CallInfo) -> Verdict | None:
        told.append(call)
        return None

    await recovery.service("api", classify=classify, effect="idempotent").call(script(ValueError(), "answer"))
    assert told == [
        CallInfo("api", "scripted", 1, "idempotent"),
        CallInfo("api", "scripted", 2, "idempotent"),
    ]


async def test_an_error_classified_unknown_ends_the_call(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """Never repeated blindly, CRITICAL, and no stand-in answers for it."""
    api = recovery.service("api", classify=lambda value, call: Verdict(Outcome.UNKNOWN), fallback="cached")
    fetch = script(ConnectionError())
    with pytest.raises(ConnectionError) as raised:
        await api.call(fetch)
    assert fetch.calls == 1
    assert attempts_of(raised.value)[0].outcome is Outcome.UNKNOWN
    assert recovery.get_error_summary()["errors_by_severity"] == {"critical": 1}


async def test_retry_after_is_honoured(recovery: ErrorRecoveryService, script: Script) -> None:
    """An attribute of the error, longer than the backoff."""
    error = ConnectionError("429")
    error.retry_after = 12.0  # type: ignore[attr-defined]  # as HTTP clients' errors have it
    fetch = script(error, "answer")
    assert await recovery.service("api").call(fetch) == "answer"
    assert fetch.times == [0.0, 12.0]


@pytest.mark.parametrize("classify", [None, lambda value, call: None])
async def test_a_date_to_come_back_at_is_counted_on_the_clock_of_the_service(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script, classify: Any
) -> None:
    """A test on virtual time that answers with a date of its own today waits for it, whatever the year is outside."""
    error = ConnectionError("429")
    error.headers = {"Retry-After": formatdate(clock.time() + 12, usegmt=True)}  # type: ignore[attr-defined]  # as above
    fetch = script(error, "answer")
    assert await recovery.service("api", classify=classify).call(fetch) == "answer"
    assert fetch.times == [0.0, 12.0]


@pytest.mark.parametrize("form", ["call", "without retries", "guard"])
async def test_a_wait_longer_than_max_delay_pauses_the_service(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script, form: str
) -> None:
    """Without a deadline the error is raised at once, and calls are refused until the time is over."""
    api = recovery.service("api", max_retries=0 if form == "without retries" else 3)
    error = ConnectionError("429")
    error.retry_after = 100.0  # type: ignore[attr-defined]  # as HTTP clients' errors have it
    fetch = script(error, "answer")

    async def guarded() -> None:
        async with api.guard():
            await fetch()

    with pytest.raises(ConnectionError):
        await (guarded() if form == "guard" else api.call(fetch))
    assert fetch.times == [0.0]
    await clock.sleep(99)
    with pytest.raises(CircuitOpenError) as raised:
        await api.call(fetch)
    assert raised.value.retry_after == 1.0
    await clock.sleep(1)
    assert await api.call(fetch) == "answer"
    assert fetch.calls == 2


# -- unsafe and risk-reducing calls ------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), ValueError()])
async def test_an_unsafe_call_is_not_repeated(
    recovery: ErrorRecoveryService, script: Script, error: Exception
) -> None:
    """The original error, outcome unknown, CRITICAL; no fallback: the order may be in the market."""
    orders = recovery.service("orders", effect="unsafe", fallback="other venue")
    submit = script(error, "accepted")
    with pytest.raises(type(error)) as raised:
        await orders.call(submit)
    assert raised.value is error
    assert submit.calls == 1
    assert [attempt.outcome for attempt in attempts_of(error)] == [Outcome.UNKNOWN]
    assert recovery.get_error_summary()["errors_by_severity"] == {"critical": 1}
    assert recovery.get_service_status("orders") is ServiceStatus.UNAVAILABLE


async def test_an_unsafe_call_that_proves_that_nothing_happened_is_repeated(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """A refused connection never reached anybody."""
    orders = recovery.service("orders", effect="unsafe")
    submit = script(ConnectionRefusedError(), "accepted")
    assert await orders.call(submit) == "accepted"
    assert submit.calls == 2


async def test_a_timeout_of_an_unsafe_call_is_unknown(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Sent, and no answer: nobody knows."""
    orders = recovery.service("orders", effect="unsafe", timeout=1.0)
    with pytest.raises(AttemptTimeoutError) as raised:
        await orders.call(clock.sleep, 5)
    assert [attempt.outcome for attempt in attempts_of(raised.value)] == [Outcome.UNKNOWN]
    assert recovery.get_error_summary()["errors_by_severity"] == {"critical": 1}


async def test_an_unsafe_call_behind_an_open_circuit_may_be_answered(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """A refusal proves that nothing happened."""
    orders = recovery.service("orders", effect="unsafe", circuit_threshold=1, fallback="other venue")
    with pytest.raises(ValueError, match="first"):
        await orders.call(script(ValueError("first")))
    submit = script("accepted")
    assert await orders.call(submit) == "other venue"
    assert submit.calls == 0


@pytest.mark.parametrize("form", ["guard", "attempts"])
async def test_an_unsafe_block_is_not_repeated(recovery: ErrorRecoveryService, form: str) -> None:
    """Blocks follow the same rule."""
    orders = recovery.service("orders", effect="unsafe")
    entered = 0

    async def guarded() -> None:
        nonlocal entered
        async with orders.guard():
            entered += 1
            raise ValueError("sent")

    async def repeated() -> None:
        nonlocal entered
        async for attempt in orders.attempts():
            async with attempt:
                entered += 1
                raise ValueError("sent")

    with pytest.raises(ValueError, match="sent"):
        await (guarded() if form == "guard" else repeated())
    assert entered == 1
    assert recovery.get_error_summary()["errors_by_severity"] == {"critical": 1}


async def test_an_undeclared_effect_is_retried_as_a_read(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """As in the original."""
    assert await recovery.service("api").call(script(ConnectionResetError(), "answer")) == "answer"


async def test_risk_reducing_calls_pass_an_open_circuit(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """A cancel goes out whatever the circuit says, and its answer does not decide it."""
    orders = recovery.service("orders", circuit_threshold=1, max_retries=0)
    with pytest.raises(ValueError, match="down"):
        await orders.call(script(ValueError("down")))
    cancel = script("cancelled")
    reducing = orders.using(risk_reducing=True)
    assert await reducing.call(cancel) == "cancelled"
    assert await reducing(cancel)() == "cancelled"
    async with reducing.guard():
        await cancel()
    assert cancel.calls == 3
    with pytest.raises(CircuitOpenError):
        await orders.call(cancel)


async def test_risk_reducing_calls_are_retried_behind_an_open_circuit(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The open circuit does not end their loop either."""
    orders = recovery.service("orders", circuit_threshold=1)
    with pytest.raises(ValueError, match="down"):
        await orders.call(script(ValueError("down")))
    cancel = script(ConnectionError(), ConnectionError(), "cancelled")
    assert await orders.using(risk_reducing=True).call(cancel) == "cancelled"
    assert cancel.times == [0.0, 1.0, 3.0]


# -- half-open ---------------------------------------------------------------------------------------


async def open_circuit(recovery: ErrorRecoveryService, script: Script, name: str = "api") -> None:
    with pytest.raises(ConnectionError):
        await recovery.service(name, max_retries=0, circuit_threshold=1).call(script(ConnectionError("no")))


async def test_callers_at_a_half_open_circuit_are_refused_at_once(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """However many arrive, one probe is in flight."""
    await open_circuit(recovery, script)
    await clock.sleep(60)
    running = most = ran = 0

    async def fetch() -> str:
        nonlocal running, most, ran
        running, ran = running + 1, ran + 1
        most = max(most, running)
        await clock.sleep(5)
        running -= 1
        return "answer"

    began = clock.monotonic()
    api = recovery.service("api")
    results = await asyncio.gather(*(api.call(fetch) for _ in range(50)), return_exceptions=True)
    assert most == ran == 1
    assert results.count("answer") == 1
    assert sum(isinstance(result, CircuitOpenError) for result in results) == 49
    assert clock.monotonic() == began + 5
    assert recovery.get_health_status()["circuit_breakers"]["api"] == "closed"


async def test_several_probes_close_it_together(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """half_open_probes is the most in flight and the number of successes that close."""
    recovery.service("api", half_open_probes=3)
    await open_circuit(recovery, script)
    await clock.sleep(60)
    api = recovery.service("api")
    for expected in ("half-open", "half-open", "closed"):
        assert await api.call(script("answer")) == "answer"
        assert recovery.get_health_status()["circuit_breakers"]["api"] == expected


@pytest.mark.parametrize(
    ("options", "lease"),
    [({"probe_lease": 3.0, "timeout": 90.0}, 3.0), ({}, 60.0)],
)
async def test_a_probe_that_hangs_loses_its_lease(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    script: Script,
    options: dict[str, Any],
    lease: float,
) -> None:
    """The next caller is let in after the lease: probe_lease, else circuit_timeout."""
    api = recovery.service("api", max_retries=0, **options)
    await open_circuit(recovery, script)
    await clock.sleep(60)
    hanging = asyncio.create_task(api.call(clock.sleep, 1_000))
    await clock.sleep(lease - 0.25)
    with pytest.raises(CircuitOpenError):
        await api.call(script("answer"))
    await clock.sleep(0.25)
    assert await api.call(script("answer")) == "answer"
    assert recovery.get_health_status()["circuit_breakers"]["api"] == "closed"
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    assert recovery.get_health_status()["circuit_breakers"]["api"] == "closed"


async def test_a_probe_that_our_own_timeout_ends_opens_the_circuit_again(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A backend that hangs is left alone for another circuit_timeout: its lease outlasts the timeout."""
    api = recovery.service("api", max_retries=0, timeout=5.0)
    await open_circuit(recovery, script)
    await clock.sleep(60)
    for _ in range(3):
        with pytest.raises(AttemptTimeoutError):
            await api.call(clock.sleep, 1_000)
        assert recovery.is_circuit_open("api")
        await clock.sleep(60)
    assert await api.call(script("answer")) == "answer"


async def test_a_probe_that_ignores_its_timeout_loses_its_place(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """It holds its caller, and nobody else: the next one is let in a little after the timeout."""
    api = recovery.service("api", max_retries=0, timeout=4.0)
    await open_circuit(recovery, script)
    await clock.sleep(60)
    ends = clock.monotonic() + 50

    async def stubborn() -> None:
        while clock.monotonic() < ends:
            try:
                await clock.sleep(ends - clock.monotonic())
            except asyncio.CancelledError:
                continue

    hanging = asyncio.create_task(api.call(stubborn))
    await clock.sleep(4.0)
    with pytest.raises(CircuitOpenError):
        await api.call(script("answer"))
    await clock.sleep(1.0)
    assert await api.call(script("answer")) == "answer"
    await hanging


async def test_a_repr_shows_service_and_options(recovery: ErrorRecoveryService) -> None:
    """For the person debugging at night."""
    assert repr(recovery.service("api", timeout=2.0)) == "<Handle on 'api', timeout=2.0>"


async def test_a_function_that_was_called_is_not_kept_alive_by_what_it_holds(
    recovery: ErrorRecoveryService,
) -> None:
    """The handle remembers the last function, but neither one with a closure nor the object of a method."""

    class Client:
        async def quote(self) -> int:
            return 1

    handle = recovery.service("market")

    async def called() -> weakref.ref[Client]:
        client = Client()

        async def held() -> int:
            return await client.quote()

        for _ in range(3):
            assert await handle.call(client.quote) == 1
            assert await handle.call(held) == 1
        return weakref.ref(client)

    assert (await called())() is None

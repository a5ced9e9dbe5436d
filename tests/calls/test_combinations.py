"""Options and layers that make no sense together: refused, warned about, or accepted, each with its reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import (
    Bulkhead,
    CircuitBreaker,
    ErrorRecoveryService,
    Fallback,
    Hedge,
    LastGood,
    OnError,
    OutcomeUnknownError,
    RateLimit,
    Retry,
    ShockproofError,
    Timeout,
    with_error_recovery,
)

pytestmark = pytest.mark.asyncio

Options = dict[str, Any]
Make = Callable[[ErrorRecoveryService], object]


async def fetch() -> str:
    return "answer"


async def second_source() -> str:
    return "second"


def said(recovery: ErrorRecoveryService, options: Options) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recovery.service("api", **options)
    assert [one.filename for one in caught] == [__file__] * len(caught)
    return [str(one.message) for one in caught]


USELESS: list[tuple[Options, str]] = [
    ({"max_hedges": 2}, "max_hedges=2 has no effect without hedge_after"),
    ({"max_queue": 5}, "max_queue=5 has no effect without max_concurrent"),
    ({"max_queue": 5, "rate_limit": "10/s"}, "max_queue=5 has no effect without max_concurrent.* max_wait"),
    ({"max_wait": 5.0}, r"max_wait=5\.0 has no effect without max_concurrent, rate_limit or adaptive"),
    ({"check_every": 5.0}, r"check_every=5\.0 has no effect without health_check"),
    ({"window": 5.0}, r"window=5\.0 has no effect without failure_rate or slow_call_rate"),
    ({"window_calls": 50}, "window_calls=50 has no effect without failure_rate"),
    ({"min_calls": 5}, "min_calls=5 has no effect without failure_rate"),
    ({"slow_call_after": 5.0}, r"slow_call_after=5\.0 has no effect without slow_call_rate"),
    ({"circuit_threshold": None, "circuit_timeout": 5.0}, "circuit_timeout=5.0 .* the circuit never opens"),
    ({"circuit_threshold": None, "half_open_probes": 2}, "half_open_probes=2 .* the circuit never opens"),
    ({"circuit_threshold": None, "probe_lease": 2.0}, "probe_lease=2.0 .* the circuit never opens"),
    ({"max_retries": 0, "base_delay": 0.5}, r"base_delay=0\.5 has no effect without retries"),
    ({"max_retries": 0, "backoff_factor": 3.0}, r"backoff_factor=3\.0 has no effect without retries"),
    *(
        ({"circuit_threshold": None, name: value}, f"{name}={value} .* the circuit never opens")
        for name, value in (
            ("circuit_timeout_factor", 2.0),
            ("max_circuit_timeout", 300.0),
            ("circuit_jitter", 0.2),
        )
    ),
    ({"max_retries": 0, "backoff": "linear"}, "backoff='linear' has no effect without retries"),
    ({"backoff": (0.5, 2.0), "base_delay": 0.5}, r"base_delay=0\.5 has no effect without a backoff by name"),
    ({"backoff": "linear", "backoff_factor": 3.0}, r"backoff_factor=3\.0 has no effect without exponential"),
    (
        {"jitter": "decorrelated", "backoff_factor": 3.0},
        r"backoff_factor=3\.0 has no effect without exponential",
    ),
    ({"max_retries": 0, "jitter": "full"}, "jitter='full' has no effect without retries"),
    (
        {"hedge_after": 0.5, "jitter": "full"},
        "jitter='full' has no effect without retries: .* a hedge stands",
    ),
    ({"timeout": 5.0, "deadline": 2.0}, "timeout=5 is longer than deadline=2"),
    ({"timeout": 2.0, "hedge_after": 2.0}, "hedge_after=2 is not shorter than timeout=2"),
    ({"deadline": 2.0, "hedge_after": 3.0}, "hedge_after=3 is not shorter than deadline=2"),
    ({"deadline": 2.0, "max_wait": 3.0, "rate_limit": "1/s"}, "max_wait=3 is longer than deadline=2"),
    (
        {"timeout": 2.0, "slow_call_after": 3.0, "slow_call_rate": 0.5},
        "slow_call_after=3 is longer than timeout=2",
    ),
    ({"deadline": 1.0, "base_delay": 1.0}, "base_delay=1 is not shorter than deadline=1: .* nothing is ever"),
    ({"fallback": [0.0, second_source]}, r"the value 0\.0 always answers"),
]


@pytest.mark.parametrize(
    ("options", "says"), USELESS, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
async def test_an_option_that_can_have_no_effect_is_warned_about(
    recovery: ErrorRecoveryService, options: Options, says: str
) -> None:
    """Once, at the user's line, with the reason and the way out."""
    with pytest.warns(UserWarning, match=says):
        recovery.service("first", **options)
    found = said(recovery, options)
    assert len(found) == 1
    assert ";" in found[0]


ACCEPTED: list[Options] = [
    {"max_queue": 5, "max_concurrent": 2, "rate_limit": "10/s"},
    {"backoff": "linear", "base_delay": 0.5},
    {"backoff": (0.5, 2.0), "jitter": "full"},
    {"backoff": "exponential", "backoff_factor": 3.0, "jitter": "full"},
    {"circuit_timeout_factor": 2.0, "max_circuit_timeout": 300.0, "circuit_jitter": 0.2},
    {"max_wait": 5.0, "rate_limit": "10/s"},
    {"max_wait": 5.0, "adaptive": True},
    {"max_queue": 5, "max_wait": 5.0, "max_concurrent": 2},
    {"max_hedges": 2, "hedge_after": "p95", "timeout": 0.001},
    {"hedge_after": 0.5, "max_retries": 1, "jitter": "full", "timeout": 2.0, "deadline": 10.0},
    {"circuit_threshold": None, "failure_rate": 0.5, "half_open_probes": 2, "window": 5.0, "min_calls": 20},
    {"circuit_threshold": None},
    {"slow_call_after": 2.0, "slow_call_rate": 0.5, "timeout": 2.0},
    {"max_retries": 0, "max_delay": 5.0},
    {"max_retries": 0, "retry_if_result": lambda result: result is None},
    {"grace": 1.0},
    {"weight": 5},
    {"probe_lease": 1.0, "timeout": 2.0},
    {"deadline": 1.0, "base_delay": 2.0, "jitter": "full"},
    {"deadline": 1.0},
    {"health_check": fetch, "check_every": 5.0},
    {"fallback": [second_source, LastGood(max_age=60), OnError(OSError, 1), 0.0]},
    {"effect": "unsafe", "fallback": second_source},
    {"max_queue": 0, "base_delay": 0.0, "max_retries": 0},
]


@pytest.mark.parametrize("options", ACCEPTED, ids=str)
async def test_what_makes_sense_is_accepted_in_silence(
    recovery: ErrorRecoveryService, options: Options
) -> None:
    """A warning that cries wolf is switched off, and the next one with it."""
    assert said(recovery, options) == []


async def test_an_option_may_come_before_the_one_it_needs_if_that_is_known(
    recovery: ErrorRecoveryService,
) -> None:
    """What another place has declared for the service counts."""
    recovery.service("api", max_concurrent=3)
    assert said(recovery, {"max_queue": 5}) == []


async def test_using_warns_of_what_is_said_there_and_of_nothing_else(recovery: ErrorRecoveryService) -> None:
    """What a handle has inherited is overruled on purpose: hurrying one call is no mistake."""
    api = recovery.service("api", base_delay=0.5, timeout=2.0, deadline=10.0, hedge_after=1.0, max_retries=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        api.using(max_retries=0)
        api.using(deadline=1.0)
        api.using(timeout=0.5)
        api.using(hedge_after=None, fallback=None)
    with pytest.warns(UserWarning, match="max_hedges=2 has no effect") as warned:
        api.using(hedge_after=None, max_hedges=2)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Retry(max_retries=0, base_delay=0.5), "base_delay"),
        (lambda: CircuitBreaker(min_calls=5), "min_calls"),
        (lambda: CircuitBreaker(circuit_threshold=None, half_open_probes=2), "half_open_probes"),
        (lambda: Fallback(fallback=[1, fetch]), "always answers"),
        (lambda: with_error_recovery("api", max_queue=5), "max_queue"),
    ],
)
async def test_policies_that_stand_alone_and_the_decorator_warn_too(
    make: Callable[[], object], says: str
) -> None:
    """At the user's line."""
    with pytest.warns(UserWarning, match=says) as warned:
        make()
    assert [one.filename for one in warned] == [__file__]


# -- layers ------------------------------------------------------------------------------------------

DOUBTFUL: dict[str, tuple[Make, str]] = {
    "one service twice": (
        lambda recovery: recovery.service("api")(recovery.service("api")(fetch)),
        "'fetch' is already guarded by service 'api'",
    ),
    "one service twice by name": (
        lambda recovery: with_error_recovery("api")(with_error_recovery("api")(fetch)),
        "'fetch' is already guarded by service 'api'",
    ),
    "a retry in a retry": (lambda recovery: Retry()(Retry()(fetch)), "retries inside retries"),
    "a fallback inside a retry": (
        lambda recovery: Retry()(Fallback(fallback=0.0)(fetch)),
        "the fallback of 'fallback' always answers, so that 'retry' around it never sees a failure",
    ),
    "a fallback inside a breaker": (
        lambda recovery: CircuitBreaker()(Fallback(fallback=0.0)(fetch)),
        "'circuitbreaker' around it never sees a failure",
    ),
    "a fallback inside a hedge": (
        lambda recovery: Hedge(hedge_after=1.0)(Fallback(fallback=0.0)(fetch)),
        "'hedge' around it never sees a failure",
    ),
    "a hedge around a retry": (
        lambda recovery: Hedge(hedge_after=1.0)(Retry()(fetch)),
        "'hedge' hedges what 'retry' repeats",
    ),
    "a rate limit around a retry": (
        lambda recovery: RateLimit(rate_limit="10/s")(Retry()(fetch)),
        "the rate limit of 'ratelimit' counts one call for all attempts of 'retry'",
    ),
    "a shorter timeout around a longer one": (
        lambda recovery: Timeout(timeout=1.0)(Timeout(timeout=2.0)(fetch)),
        "'timeout' ends it after 1 s, before the timeout of 'timeout', 2 s",
    ),
}


@pytest.mark.parametrize("case", DOUBTFUL.values(), ids=DOUBTFUL.keys())
async def test_layers_in_a_doubtful_order_are_warned_about(
    recovery: ErrorRecoveryService, case: tuple[Make, str]
) -> None:
    """At the line that decorates, naming the function and both layers."""
    make, says = case
    with pytest.warns(UserWarning, match=says) as warned:
        make(recovery)
    assert [one.filename for one in warned] == [__file__]


SOUND: dict[str, Make] = {
    "the built-in order by hand": lambda recovery: Fallback(fallback=0.0)(
        Retry()(
            CircuitBreaker()(
                RateLimit(rate_limit="10/s")(Bulkhead(max_concurrent=2)(Timeout(timeout=1.0)(fetch)))
            )
        )
    ),
    "a hedge inside a retry": lambda recovery: Retry()(Hedge(hedge_after=1.0)(fetch)),
    "a timeout around a retry": lambda recovery: Timeout(timeout=10.0)(Retry()(Timeout(timeout=2.0)(fetch))),
    "a breaker around a retry": lambda recovery: CircuitBreaker()(Retry()(fetch)),
    "a bulkhead around a retry": lambda recovery: Bulkhead(max_concurrent=2)(Retry()(fetch)),
    "a fallback that may fail, inside": lambda recovery: Retry()(Fallback(fallback=second_source)(fetch)),
    "a fallback for some errors, inside": lambda recovery: Retry()(
        Fallback(fallback=OnError(OSError, 1))(fetch)
    ),
    "two services": lambda recovery: recovery.service("a")(recovery.service("b")(fetch)),
    "one handle on two functions": lambda recovery: (
        recovery.service("a")(fetch),
        recovery.service("a")(fetch),
    ),
    "unsafe in unsafe": lambda recovery: recovery.service("a", effect="unsafe")(
        recovery.service("b", effect="unsafe")(fetch)
    ),
    "a timeout in unsafe": lambda recovery: recovery.service("a", effect="unsafe")(
        Timeout(timeout=5.0)(fetch)
    ),
    "a retry of what proves that nothing happened, in unsafe": lambda recovery: recovery.service(
        "a", effect="unsafe"
    )(Retry(retry_on=ConnectionRefusedError)(fetch)),
    "what is declared harmless, in unsafe": lambda recovery: recovery.service("a", effect="unsafe")(
        recovery.service("b", effect="idempotent")(fetch)
    ),
    "a timeout around unsafe": lambda recovery: Timeout(timeout=5.0)(
        recovery.service("a", effect="unsafe")(fetch)
    ),
}


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND.keys())
async def test_layers_in_a_sound_order_are_accepted_in_silence(
    recovery: ErrorRecoveryService, make: Make
) -> None:
    """Free nesting."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(recovery)


HARMFUL: dict[str, tuple[Make, str]] = {
    "repeated": (
        lambda recovery: Retry()(recovery.service("orders", effect="unsafe")(fetch)),
        "'fetch' is unsafe for 'orders', and 'retry' around it would repeat",
    ),
    "repeated by a service": (
        lambda recovery: recovery.service("a")(recovery.service("orders", effect="unsafe")(fetch)),
        "'a' around it would repeat",
    ),
    "repeated by the service of the process": (
        lambda recovery: with_error_recovery("a")(with_error_recovery("orders", effect="unsafe")(fetch)),
        "'a' around it would repeat",
    ),
    "hedged": (
        lambda recovery: Hedge(hedge_after=1.0)(recovery.service("orders", effect="unsafe")(fetch)),
        "'hedge' around it would hedge",
    ),
    "sent elsewhere": (
        lambda recovery: Fallback(fallback=second_source)(recovery.service("orders", effect="unsafe")(fetch)),
        "'fallback' around it would send elsewhere",
    ),
    "repeated by a layer inside": (
        lambda recovery: recovery.service("orders", effect="unsafe")(recovery.service("http")(fetch)),
        "'http' inside it would repeat",
    ),
    "hedged inside": (
        lambda recovery: recovery.service("orders", effect="unsafe")(Hedge(hedge_after=1.0)(fetch)),
        "'hedge' inside it would hedge",
    ),
    "below another layer": (
        lambda recovery: Retry()(Timeout(timeout=5.0)(recovery.service("orders", effect="unsafe")(fetch))),
        "'retry' around it would repeat",
    ),
}


@pytest.mark.parametrize("case", HARMFUL.values(), ids=HARMFUL.keys())
async def test_an_outer_layer_that_would_repeat_an_unsafe_call_is_refused(
    recovery: ErrorRecoveryService, case: tuple[Make, str]
) -> None:
    """One order must not become two because the outer layer does not know what the inner one does."""
    make, says = case
    with pytest.raises(ValueError, match=says) as raised:
        make(recovery)
    assert "declare effect='unsafe' there, too" in str(raised.value)


async def test_the_marks_of_layers_hurt_no_mock(recovery: ErrorRecoveryService) -> None:
    """A Mock has every attribute."""
    from unittest.mock import AsyncMock

    assert await recovery.service("api")(AsyncMock(return_value=5))() == 5


@pytest.mark.parametrize(
    "wanted", [OutcomeUnknownError, ShockproofError, (TimeoutError, OutcomeUnknownError)]
)
@pytest.mark.parametrize("place", ["service", "using", "policy"])
async def test_retry_of_an_order_whose_outcome_is_unknown_is_refused(
    recovery: ErrorRecoveryService, wanted: Any, place: str
) -> None:
    """It would send another order; the error names the way out."""
    market = recovery.service("market")
    make: dict[str, Callable[[], object]] = {
        "service": lambda: recovery.service("strategy", retry_on=wanted),
        "using": lambda: market.using(retry_on=wanted),
        "policy": lambda: Retry(retry_on=wanted),
    }
    with pytest.raises(ValueError, match=r"retry_on=.*OutcomeUnknownError.*once\(\) again.*reconcile"):
        make[place]()

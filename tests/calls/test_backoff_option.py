"""The option `backoff` in calls: what it says is waited, within the cap, the deadline, and what the other side asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, Retry, attempts_of
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"backoff": "constant", "base_delay": 2.0}, [0.0, 2.0, 4.0, 6.0]),
        ({"backoff": "linear", "base_delay": 2.0}, [0.0, 2.0, 6.0, 12.0]),
        ({"backoff": (0.5, 3.0)}, [0.0, 0.5, 3.5, 6.5]),
        ({"backoff": (0.5, 3.0), "max_delay": 1.0}, [0.0, 0.5, 1.5, 2.5]),
        ({"backoff": lambda retry, error: retry * 10.0}, [0.0, 10.0, 30.0, 60.0]),
    ],
)
async def test_attempts_are_made_when_the_backoff_says(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    script: Script,
    options: dict[str, Any],
    times: list[float],
) -> None:
    """Through a service and through the policy alone."""
    fetch = script(ConnectionError("no"))
    with pytest.raises(ConnectionError):
        await recovery.service("api", **options).call(fetch)
    assert fetch.times == times
    alone = script(ConnectionError("no"))
    with pytest.raises(ConnectionError):
        await Retry(clock=clock, **options).call(alone)
    assert [time - alone.times[0] for time in alone.times] == times


async def test_what_the_other_side_asks_for_is_waited_when_it_is_longer(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """A Retry-After is honoured beside any backoff."""

    class TooManyError(Exception):
        retry_after = 7.0

    fetch = script(TooManyError(), ConnectionError("no"), "answer")
    assert await recovery.service("api", backoff=(1.0, 2.0)).call(fetch) == "answer"
    assert fetch.times == [0.0, 7.0, 9.0]


async def test_a_deadline_is_not_passed_by_any_backoff(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A wait that would use it up is not begun."""
    fetch, began = script(ConnectionError("no")), clock.monotonic()
    with pytest.raises(ConnectionError):
        await recovery.service("api", backoff=(1.0, 20.0), deadline=10.0).call(fetch)
    assert (fetch.calls, clock.monotonic() - began) == (2, 1.0)


async def test_a_raising_function_masks_nothing(
    recovery: ErrorRecoveryService, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets the call's own error, after as many attempts as ever."""

    def waits(retry: int, error: Exception | None) -> float:
        raise ZeroDivisionError

    own = ConnectionError("the call's own")
    fetch = script(own)
    with caplog.at_level(logging.ERROR, logger="shockproof"), pytest.raises(ConnectionError) as raised:
        await recovery.service("api", backoff=waits).call(fetch)
    assert raised.value is own
    assert fetch.times == [0.0, 1.0, 3.0, 7.0]
    assert "ZeroDivisionError" in caplog.text


async def test_a_function_that_ends_the_program_takes_nothing_with_it(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """SystemExit out of it passes, and the half-open circuit has had its verdict."""

    def waits(retry: int, error: Exception | None) -> float:
        raise SystemExit(3)

    api = recovery.service("api", backoff=waits, circuit_threshold=2)
    with pytest.raises(SystemExit):
        await api.call(script(ConnectionError("no")))
    assert await api.call(script("answer")) == "answer"


async def test_a_function_is_told_nothing_of_an_unwanted_result(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """There is no error to tell of: it gets None."""
    told: list[Exception | None] = []

    def waits(retry: int, error: Exception | None) -> float:
        told.append(error)
        return 0.0

    api = recovery.service("api", backoff=waits, retry_if_result=lambda result: result is None)
    assert await api.call(script(None, None, "answer")) == "answer"
    assert told == [None, None]


async def test_waits_are_in_the_history(recovery: ErrorRecoveryService, script: Script) -> None:
    """What was waited is what `attempts_of` tells."""
    with pytest.raises(ConnectionError) as raised:
        await recovery.service("api", backoff=[0.25, 4]).call(script(ConnectionError("no")))
    assert [attempt.delay for attempt in attempts_of(raised.value)] == [0.25, 4.0, 4.0, None]


async def test_decorrelated_jitter_beside_a_backoff_is_refused_where_the_handle_is_built(
    recovery: ErrorRecoveryService,
) -> None:
    """Not at the first failure, days later."""
    with pytest.raises(ValueError, match="backoff='linear' with jitter='decorrelated'"):
        recovery.service("api", backoff="linear", jitter="decorrelated")

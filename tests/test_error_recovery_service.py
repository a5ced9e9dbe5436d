"""
The recovery service as its first description promises it, made asynchronous: section 1 of the contract.

Everything that waits runs on virtual time. One service has one circuit, so tests that need many
failures switch it off or name services apart.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

import shockproof
from shockproof import (
    Attempt,
    CircuitOpenError,
    ErrorRecord,
    ErrorRecoveryService,
    ErrorSeverity,
    Outcome,
    ServiceStatus,
    StateNotSavedError,
    SystemState,
    attempts_of,
    get_error_recovery_service,
    set_error_recovery_service,
    with_error_recovery,
)
from shockproof.testing import VirtualClock

Script = Callable[..., Any]  # Any: plays outcomes for any signature, and knows its calls


def nothing_counted(recovery: ErrorRecoveryService) -> bool:
    """No error recorded, and no circuit that is anything but closed."""
    return recovery.get_error_summary()["total_errors"] == 0 and all(
        state == "closed" for state in recovery.get_health_status()["circuit_breakers"].values()
    )


async def fail_times(recovery: ErrorRecoveryService, count: int, name: str = "api") -> None:
    """*count* failed attempts, one call each."""
    for _ in range(count):
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(raise_connection_error, service_name=name, max_retries=0)


async def raise_connection_error(*args: object, **kwargs: object) -> None:
    raise ConnectionError("no route")


async def answer(*args: object, **kwargs: object) -> str:
    return "answer"


@pytest.fixture
def process_service(recovery: ErrorRecoveryService) -> Iterator[ErrorRecoveryService]:
    """`recovery` as the service of the whole process."""
    set_error_recovery_service(recovery)
    yield recovery
    set_error_recovery_service(None)


@pytest.mark.asyncio
class TestErrorRecoveryService:
    """Retries, their delays, and what is raised in the end."""

    async def test_retry_with_backoff(self, recovery: ErrorRecoveryService, script: Script) -> None:
        """Two failures, then an answer: three calls, 1 s and 2 s apart, each with the arguments."""
        fetch = script(ConnectionError("1"), ConnectionError("2"), {"price": 150.0})
        result = await recovery.retry_with_backoff(
            fetch, symbol="AAPL", service_name="market_data", max_retries=3
        )
        assert result == {"price": 150.0}
        assert fetch.times == [0.0, 1.0, 3.0]
        assert fetch.arguments == [((), {"symbol": "AAPL"})] * 3

    async def test_three_retries_are_at_most_four_calls(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """max_retries counts retries after the first call: 1 s, 2 s and 4 s apart, exactly."""
        fetch = script(ConnectionError("no"))
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fetch, service_name="market_data")
        assert fetch.times == [0.0, 1.0, 3.0, 7.0]

    async def test_no_retries_are_one_call(self, recovery: ErrorRecoveryService, script: Script) -> None:
        """max_retries=0 means one call and no wait."""
        fetch = script(ConnectionError("no"))
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fetch, max_retries=0)
        assert fetch.times == [0.0]

    async def test_max_retries_of_the_call_beats_that_of_the_service(
        self, clock: VirtualClock, script: Script, tmp_path: Path
    ) -> None:
        """And None means the service's."""
        recovery = ErrorRecoveryService(tmp_path, tmp_path, 1, clock=clock)
        for given, calls in ((None, 2), (2, 3), (0, 1)):
            fetch = script(ConnectionError("no"))
            with pytest.raises(ConnectionError):
                await recovery.retry_with_backoff(fetch, service_name=f"s{given}", max_retries=given)
            assert fetch.calls == calls

    async def test_delays_follow_the_settings_of_the_service(
        self, clock: VirtualClock, script: Script, tmp_path: Path
    ) -> None:
        """base_delay, backoff_factor and max_delay, exact by default."""
        recovery = ErrorRecoveryService(
            tmp_path, tmp_path, 4, 0.5, 5.0, 3.0, circuit_threshold=None, clock=clock
        )
        fetch = script(ConnectionError("no"))
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fetch)
        assert fetch.times == [0.0, 0.5, 2.0, 6.5, 11.5]

    async def test_full_jitter_is_one_argument_away(
        self, clock: VirtualClock, script: Script, tmp_path: Path
    ) -> None:
        """jitter="full" draws each delay between nothing and the exact one, repeatably from a seed."""

        class Half:
            def random(self) -> float:
                return 0.5

        recovery = ErrorRecoveryService(tmp_path, tmp_path, jitter="full", clock=clock, rng=Half())
        fetch = script(ConnectionError("no"))
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fetch)
        assert fetch.times == [0.0, 0.5, 1.5, 3.5]

    @pytest.mark.parametrize(
        "error",
        [ValueError(), KeyError(), TypeError("inside"), AssertionError(), OSError(), StopAsyncIteration()],
    )
    async def test_every_exception_is_retried(
        self, recovery: ErrorRecoveryService, script: Script, error: Exception
    ) -> None:
        """By default nothing is picked out, a TypeError from inside the function included."""
        fetch = script(error, "answer")
        assert await recovery.retry_with_backoff(fetch) == "answer"
        assert fetch.calls == 2

    async def test_our_own_refusals_are_never_retried(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """Another service's open circuit passes at once, and counts nowhere here."""
        refused = CircuitOpenError("inner")
        fetch = script(refused)
        with pytest.raises(CircuitOpenError) as raised:
            await recovery.retry_with_backoff(fetch, service_name="outer")
        assert raised.value is refused
        assert fetch.calls == 1
        assert nothing_counted(recovery)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
    async def test_what_is_no_exception_passes_untouched(
        self, recovery: ErrorRecoveryService, script: Script, kind: type[BaseException]
    ) -> None:
        """Exits and cancellations are never retried, recorded or counted."""
        leaving = kind("leaving")
        fetch = script(leaving)
        with pytest.raises(kind) as raised:
            await recovery.retry_with_backoff(fetch, service_name="api")
        assert raised.value is leaving
        assert fetch.calls == 1
        assert nothing_counted(recovery)

    async def test_the_last_error_is_raised_unchanged(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """The same object, with its own traceback, and nothing put into its cause or context."""
        errors = [ConnectionError(str(n)) for n in range(4)]
        fetch = script(*errors)
        with pytest.raises(ConnectionError) as raised:
            await recovery.retry_with_backoff(fetch)
        assert raised.value is errors[3]
        assert raised.value.args == ("3",)
        assert raised.value.__cause__ is None
        assert raised.value.__context__ is None
        assert raised.value.__suppress_context__ is False
        frames = traceback.extract_tb(raised.value.__traceback__)
        assert (frames[-1].name, frames[-1].filename) == ("__call__", inspect.getfile(type(fetch)))

    async def test_a_cause_of_the_users_own_stays(self, recovery: ErrorRecoveryService) -> None:
        """`raise ... from ...` inside the function is not overwritten."""
        root = KeyError("root")

        async def fetch() -> None:
            raise ConnectionError("no") from root

        with pytest.raises(ConnectionError) as raised:
            await recovery.retry_with_backoff(fetch)
        assert raised.value.__cause__ is root

    async def test_attempts_of_summarises_each_attempt(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Number, type and text, start, duration, and the delay that followed."""
        began = clock.time()

        async def fetch(errors: list[Exception]) -> None:
            await clock.sleep(0.25)
            raise errors.pop(0)

        with pytest.raises(TimeoutError) as raised:
            await recovery.retry_with_backoff(
                fetch, [ConnectionError("a"), ValueError("b"), TimeoutError("c")], max_retries=2
            )
        first, second, third = attempts_of(raised.value)
        assert first == Attempt(1, "ConnectionError", "a", began, 0.25, 1.0, Outcome.FAILURE)
        assert second == Attempt(2, "ValueError", "b", began + 1.25, 0.25, 2.0, Outcome.FAILURE)
        assert third == Attempt(3, "TimeoutError", "c", began + 3.5, 0.25, None, Outcome.FAILURE)

    async def test_a_single_attempt_is_told_too(self, recovery: ErrorRecoveryService) -> None:
        """With max_retries=0 there is one attempt, and it is told."""
        with pytest.raises(ConnectionError) as raised:
            await recovery.retry_with_backoff(raise_connection_error, max_retries=0)
        assert [attempt.number for attempt in attempts_of(raised.value)] == [1]

    async def test_attempts_of_other_errors_is_empty(self) -> None:
        """An error that no call ended has no attempts."""
        assert attempts_of(ValueError()) == ()

    async def test_earlier_attempts_hang_on_the_error_as_notes(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """Each earlier attempt is one note with its type and text; the last is the error itself."""
        fetch = script(ValueError("first"), KeyError("second"), ConnectionError("third"))
        with pytest.raises(ConnectionError) as raised:
            await recovery.retry_with_backoff(fetch, max_retries=2)
        notes = raised.value.__notes__
        assert sum("ValueError" in note and "first" in note for note in notes) == 1
        assert sum("KeyError" in note and "second" in note for note in notes) == 1
        assert not any("third" in note for note in notes)

    async def test_notes_are_bounded(self, recovery: ErrorRecoveryService, script: Script) -> None:
        """A thousand attempts with long texts make few and short notes; attempts_of has them all."""
        api = recovery.service("api", circuit_threshold=None, base_delay=0.0)
        fetch = script(*[ConnectionError(f"{n} " + "x" * 10_000) for n in range(1_001)])
        with pytest.raises(ConnectionError) as raised:
            await api.using(max_retries=1_000).call(fetch)
        assert len(attempts_of(raised.value)) == 1_001
        notes = raised.value.__notes__
        assert len(notes) <= 20
        assert sum(map(len, notes)) < 20_000

    async def test_no_note_is_there_twice_when_the_same_object_is_raised_again(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """The second call's history replaces the first one's, and the user's own notes stay."""
        error = ConnectionError("again and again")
        error.add_note("the user's")
        for _ in range(3):
            with pytest.raises(ConnectionError) as raised:
                await recovery.service("api", circuit_threshold=None).call(script(error))
            assert raised.value is error
            assert len(attempts_of(error)) == 4
        notes = error.__notes__
        assert notes.count("the user's") == 1
        assert len(set(notes)) == len(notes)
        assert len(notes) <= 1 + 3 + 1  # the user's, three earlier attempts, why there is no other

    async def test_an_attempts_summary_keeps_no_exception_alive(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Numbers and texts only: nothing in it refers to an object of the call."""
        with pytest.raises(ConnectionError) as raised:
            await recovery.retry_with_backoff(raise_connection_error)
        for attempt in attempts_of(raised.value):
            values = [getattr(attempt, name) for name in Attempt.__slots__]
            assert all(isinstance(value, int | float | str | Outcome | None) for value in values)

    async def test_an_error_without_room_for_attributes_is_raised_all_the_same(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """A class that refuses new attributes does not hide the call's error."""

        class ClosedError(Exception):
            def __setattr__(self, name: str, value: object) -> None:
                raise AttributeError(name)

        async def fetch() -> None:
            raise ClosedError("no")

        with pytest.raises(ClosedError):
            await recovery.retry_with_backoff(fetch)

    async def test_an_error_whose_text_cannot_be_made_is_raised_all_the_same(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """A broken __str__ is said to be broken, in the records and the attempts."""

        class MuteError(Exception):
            def __str__(self) -> str:
                raise ZeroDivisionError

        async def fetch() -> None:
            raise MuteError

        with pytest.raises(MuteError) as raised:
            await recovery.retry_with_backoff(fetch, max_retries=1)
        assert len(attempts_of(raised.value)) == 2
        assert recovery.get_error_summary()["errors_by_type"] == {"MuteError": 2}

    @pytest.mark.parametrize("is_plain", [False, True])
    async def test_wrong_arguments_are_raised_at_once_and_neutral(
        self, recovery: ErrorRecoveryService, is_plain: bool
    ) -> None:
        """An error in calling the function is nobody's failure: one try, no record, no count."""

        async def fetch(symbol: str) -> None:
            raise AssertionError("must not run")

        def plain(symbol: str) -> None:
            raise AssertionError("must not run")

        function: Callable[..., Any] = plain if is_plain else fetch
        for _ in range(6):
            with pytest.raises(TypeError, match="depth"):
                await recovery.retry_with_backoff(function, "AAPL", depth=5, service_name="api")
        assert nothing_counted(recovery)
        assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL

    @pytest.mark.parametrize("kind", ["method", "object", "partial of a plain function"])
    async def test_arguments_that_a_partial_has_taken_already_are_wrong_ones(
        self, recovery: ErrorRecoveryService, kind: str
    ) -> None:
        """Whatever the callable is made of, an error in calling it is neutral."""

        class Broker:
            async def fetch(self, symbol: str) -> str:
                raise AssertionError("must not run")

            async def __call__(self, symbol: str) -> str:
                raise AssertionError("must not run")

        def plain(symbol: str) -> str:
            raise AssertionError("must not run")

        functions: dict[str, Callable[..., Any]] = {
            "method": partial(Broker().fetch, "A"),
            "object": partial(Broker(), "A"),
            "partial of a plain function": partial(plain, "A"),
        }
        with pytest.raises(TypeError):
            await recovery.retry_with_backoff(functions[kind], "B", service_name="api")
        assert nothing_counted(recovery)

    async def test_only_service_name_and_max_retries_are_ours(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
    ) -> None:
        """Every other keyword goes to the function, also those that are options elsewhere."""
        fetch = script("answer")
        keywords = {
            "func": 1, "fn": 2, "self": 3, "timeout": 4, "deadline": 5, "base_delay": 6, "fallback": 7,
            "args": 8, "kwargs": 9, "name": 10, "plan": 11, "clock": 12, "call": 13,
        }  # fmt: skip
        await recovery.retry_with_backoff(
            fetch, "first", "second", service_name="market_data", max_retries=1, **keywords
        )
        assert fetch.arguments == [(("first", "second"), keywords)]
        assert list(recovery.get_all_service_statuses()) == ["market_data"]

    async def test_only_our_own_keywords_of_with_fallback_are_kept(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """As above: the function gets everything but service_name and max_retries."""
        fetch = script("answer")
        keywords = {"func": 1, "fn": 2, "self": 3, "timeout": 4, "fallback": 5}
        await recovery.with_fallback(
            fetch, answer, "first", service_name="market_data", max_retries=1, **keywords
        )
        assert fetch.arguments == [(("first",), keywords)]

    async def test_a_call_without_a_name_belongs_to_unknown(self, recovery: ErrorRecoveryService) -> None:
        """As in the original."""
        await recovery.retry_with_backoff(answer)
        assert list(recovery.get_all_service_statuses()) == ["unknown"]

    @pytest.mark.parametrize(
        ("options", "error", "says"),
        [
            ({"max_retries": -1}, ValueError, "max_retries must be .* at least 0, got -1"),
            ({"max_retries": 1.5}, TypeError, "max_retries .*got 1.5"),
            ({"max_retries": "3"}, TypeError, "max_retries .*got '3'"),
            ({"service_name": ""}, ValueError, "service_name"),
            ({"service_name": None}, TypeError, "service_name .*got None"),
        ],
    )
    async def test_a_bad_option_is_refused_before_the_call(
        self,
        recovery: ErrorRecoveryService,
        script: Script,
        options: dict[str, Any],
        error: type[Exception],
        says: str,
    ) -> None:
        """With its name, its value and what is allowed; the function does not run."""
        fetch = script("answer")
        with pytest.raises(error, match=says):
            await recovery.retry_with_backoff(fetch, **options)
        with pytest.raises(error, match=says):
            await recovery.with_fallback(fetch, answer, **options)
        assert fetch.calls == 0


@pytest.mark.asyncio
class TestFallback:
    """with_fallback, as the original has it."""

    async def test_the_fallback_answers_when_the_primary_fails(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """After the same retries as any call, with the call's arguments; the service is DEGRADED."""
        live, cached = script(ConnectionError("no")), script("cached")
        result = await recovery.with_fallback(
            primary_func=live, fallback_func=cached, symbol="AAPL", service_name="market_data"
        )
        assert result == "cached"
        assert live.times == [0.0, 1.0, 3.0, 7.0]
        assert cached.times == [7.0]
        assert cached.arguments == [((), {"symbol": "AAPL"})]
        assert recovery.get_service_status("market_data") is ServiceStatus.DEGRADED

    async def test_the_fallback_is_not_asked_when_the_primary_answers(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """One failure and an answer: the answer counts, and the service is OPERATIONAL."""
        live, cached = script(ConnectionError("no"), "live"), script("cached")
        assert await recovery.with_fallback(live, cached, service_name="market_data") == "live"
        assert cached.calls == 0
        assert recovery.get_service_status("market_data") is ServiceStatus.OPERATIONAL

    async def test_both_fail(self, recovery: ErrorRecoveryService, script: Script) -> None:
        """The fallback's error is raised with the primary's as its cause, and the service is UNAVAILABLE."""
        primary, other = ConnectionError("primary"), KeyError("fallback")
        with pytest.raises(KeyError) as raised:
            await recovery.with_fallback(script(primary), script(other), service_name="market_data")
        assert raised.value is other
        assert raised.value.__cause__ is primary
        assert len(attempts_of(primary)) == 4
        assert recovery.get_service_status("market_data") is ServiceStatus.UNAVAILABLE

    async def test_the_fallback_answers_behind_an_open_circuit(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """The primary gets no attempt; the service is DEGRADED though its circuit is open."""
        await fail_times(recovery, 5, "market_data")
        live = script("live")
        assert await recovery.with_fallback(live, answer, service_name="market_data") == "answer"
        assert live.calls == 0
        assert recovery.is_circuit_open("market_data")
        assert recovery.get_service_status("market_data") is ServiceStatus.DEGRADED
        assert recovery.get_health_status()["overall_health"] == "degraded"

    @pytest.mark.parametrize("value", [None, 0, "cached", ["a", "list"], {"price": 1.0}])
    async def test_a_value_is_returned_as_it_is(self, recovery: ErrorRecoveryService, value: object) -> None:
        """What is not callable is the answer itself, None and lists included."""
        result = await recovery.with_fallback(raise_connection_error, value, max_retries=0)
        assert result is value

    async def test_a_fallback_without_parameters_gets_none(self, recovery: ErrorRecoveryService) -> None:
        """Arguments are handed over if they fit, else none of them."""

        async def cached() -> str:
            return "cached"

        result = await recovery.with_fallback(
            raise_connection_error, cached, "AAPL", depth=5, service_name="market_data", max_retries=0
        )
        assert result == "cached"

    async def test_a_plain_fallback_works(self, recovery: ErrorRecoveryService) -> None:
        """Both functions may be plain ones."""

        def live(symbol: str) -> str:
            raise ConnectionError(symbol)

        result = await recovery.with_fallback(live, lambda symbol: f"cached {symbol}", "AAPL", max_retries=1)
        assert result == "cached AAPL"

    async def test_wrong_arguments_of_the_primary_are_not_covered_up(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """A mistake in the program is no failure of the service: the fallback is not asked."""

        async def live(symbol: str) -> str:
            return symbol

        with pytest.raises(TypeError):
            await recovery.with_fallback(live, "cached", nonsense=1)
        assert nothing_counted(recovery)

    async def test_a_cancellation_is_not_answered(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
    ) -> None:
        """The fallback is for failures only."""
        cached = script("cached")
        task = asyncio.create_task(recovery.with_fallback(asyncio.sleep, cached, 100))
        await clock.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cached.calls == 0


@pytest.mark.asyncio
class TestCircuitBreaker:
    """Consecutive failed attempts open it, time half-opens it, one success closes it."""

    async def test_failed_attempts_count_across_calls(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """Four attempts of one call and one of the next make five."""
        fetch = script(ConnectionError("no"))
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fetch, service_name="api")
        assert not recovery.is_circuit_open("api")
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fetch, service_name="api")
        assert fetch.calls == 5
        assert recovery.is_circuit_open("api")

    async def test_a_retry_loop_ends_at_once_when_the_circuit_opens(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
    ) -> None:
        """With the real error, a note that says so, and no wait after it."""
        errors = [ConnectionError(str(n)) for n in range(9)]
        fetch = script(*errors)
        with pytest.raises(ConnectionError) as raised:
            await recovery.retry_with_backoff(fetch, service_name="api", max_retries=8)
        assert raised.value is errors[4]
        assert fetch.times == [0.0, 1.0, 3.0, 7.0, 15.0]
        assert clock.monotonic() - fetch.began == 15.0
        assert any("circuit" in note for note in raised.value.__notes__)

    async def test_a_waiting_retry_loop_ends_at_once_when_others_open_the_circuit(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
    ) -> None:
        """No sleep that cannot end in an attempt: the loop in its backoff does not sit it out."""
        api = recovery.service("api", base_delay=30.0)
        error = ConnectionError("the real one")
        waiting = asyncio.create_task(api.call(script(error)))
        began = clock.monotonic()
        await clock.sleep(1)
        await fail_times(recovery, 4)
        assert recovery.is_circuit_open("api")
        with pytest.raises(ConnectionError) as raised:
            await waiting
        assert raised.value is error
        assert any("circuit" in note for note in error.__notes__)
        assert clock.monotonic() - began == 1.0

    async def test_a_loop_that_comes_back_to_an_open_circuit_raises_the_real_error(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
    ) -> None:
        """CircuitOpenError is for calls that never got an attempt."""
        error = ConnectionError("the real one")
        waiting = asyncio.create_task(recovery.retry_with_backoff(script(error), service_name="api"))
        await clock.sleep(0.5)
        await fail_times(recovery, 4)
        with pytest.raises(ConnectionError) as raised:
            await waiting
        assert raised.value is error

    async def test_an_open_circuit_refuses_without_calling(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
    ) -> None:
        """CircuitOpenError says which service, when to come back, and what the last error was."""
        await fail_times(recovery, 5)
        await clock.sleep(20)
        fetch = script("answer")
        with pytest.raises(CircuitOpenError) as raised:
            await recovery.retry_with_backoff(fetch, service_name="api")
        assert fetch.calls == 0
        assert raised.value.service_name == "api"
        assert raised.value.retry_after == 40.0
        assert raised.value.last_error == "ConnectionError: no route"
        assert "api" in str(raised.value)
        assert "40" in str(raised.value)
        assert clock.monotonic() == 1_020.0

    async def test_one_success_resets_the_count(self, recovery: ErrorRecoveryService) -> None:
        """Four failures, one answer, four failures: still closed."""
        for _ in range(3):
            await fail_times(recovery, 4)
            await recovery.retry_with_backoff(answer, service_name="api")
        assert not recovery.is_circuit_open("api")

    async def test_a_success_within_a_retry_loop_resets_the_count(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """What counts is attempts in a row, wherever they were made."""
        for _ in range(4):
            fetch = script(*[ConnectionError("no")] * 3, "answer")
            await recovery.retry_with_backoff(fetch, service_name="api")
        assert not recovery.is_circuit_open("api")

    async def test_it_is_no_longer_open_as_soon_as_its_timeout_has_passed(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Without needing a call; health then shows half-open."""
        await fail_times(recovery, 5)
        await clock.sleep(59.75)
        assert recovery.is_circuit_open("api")
        assert recovery.get_health_status()["circuit_breakers"] == {"api": "open"}
        await clock.sleep(0.25)
        assert not recovery.is_circuit_open("api")
        assert recovery.get_health_status()["circuit_breakers"] == {"api": "half-open"}

    async def test_the_first_answer_after_the_timeout_closes_it(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """One probe by default."""
        await fail_times(recovery, 5)
        await clock.sleep(60)
        assert await recovery.retry_with_backoff(answer, service_name="api") == "answer"
        assert recovery.get_health_status()["circuit_breakers"] == {"api": "closed"}
        assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL

    async def test_a_failed_probe_opens_it_again_and_ends_its_loop(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
    ) -> None:
        """The probe's own error is raised, without a retry."""
        await fail_times(recovery, 5)
        await clock.sleep(60)
        fetch = script(KeyError("still"))
        with pytest.raises(KeyError):
            await recovery.retry_with_backoff(fetch, service_name="api")
        assert fetch.calls == 1
        assert recovery.is_circuit_open("api")
        await clock.sleep(59)
        assert recovery.is_circuit_open("api")

    async def test_unknown_names_are_not_open_and_resetting_them_does_nothing(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """Asking makes no service either."""
        assert recovery.is_circuit_open("nobody") is False
        recovery.reset_circuit_breaker("nobody")
        assert recovery.get_service_status("nobody") is ServiceStatus.OPERATIONAL
        assert recovery.get_all_service_statuses() == {}
        assert recovery.get_health_status()["service_statuses"] == {}

    async def test_a_reset_closes_it(self, recovery: ErrorRecoveryService) -> None:
        """Calls pass at once, the count begins at zero, and the open circuit is no longer the status."""
        await fail_times(recovery, 5)
        recovery.reset_circuit_breaker("api")
        assert not recovery.is_circuit_open("api")
        assert recovery.get_service_status("api") is not ServiceStatus.UNAVAILABLE
        await fail_times(recovery, 4)
        assert not recovery.is_circuit_open("api")

    async def test_services_have_circuits_of_their_own(self, recovery: ErrorRecoveryService) -> None:
        """One being open refuses nobody else."""
        await fail_times(recovery, 5, "a")
        assert recovery.is_circuit_open("a")
        assert not recovery.is_circuit_open("b")
        assert await recovery.retry_with_backoff(answer, service_name="b") == "answer"

    async def test_threshold_and_timeout_are_the_constructors(
        self, clock: VirtualClock, tmp_path: Path
    ) -> None:
        """circuit_threshold and circuit_timeout, the latter also as a timedelta."""
        recovery = ErrorRecoveryService(
            tmp_path, tmp_path, circuit_threshold=2, circuit_timeout=timedelta(minutes=5), clock=clock
        )
        await fail_times(recovery, 2)
        await clock.sleep(299)
        assert recovery.is_circuit_open("api")
        await clock.sleep(1)
        assert not recovery.is_circuit_open("api")

    async def test_the_wall_clock_does_not_matter(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Time is monotonic: setting the clock forward or back neither closes nor prolongs."""
        await fail_times(recovery, 5)
        clock.step_wall(86_400)
        assert recovery.is_circuit_open("api")
        clock.step_wall(-200_000)
        await clock.sleep(60)
        assert not recovery.is_circuit_open("api")


@pytest.mark.asyncio
class TestRecords:
    """One record per failed attempt, and what summaries make of them."""

    async def test_each_failed_attempt_is_recorded_once(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """retry_count 0, 1, 2 ...; MEDIUM when another attempt follows, HIGH when none does."""
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(raise_connection_error, service_name="api", max_retries=2)
        recent = recovery.get_error_summary()["recent_errors"]
        assert [(error["retry_count"], error["severity"]) for error in recent] == [
            (0, "medium"),
            (1, "medium"),
            (2, "high"),
        ]
        first = recent[0]
        assert first["service_name"] == "api"
        assert first["function_name"] == "raise_connection_error"
        assert first["error_type"] == "ConnectionError"
        assert first["error_message"] == "no route"
        assert first["stack_trace"].startswith("Traceback (most recent call last)")
        assert "raise_connection_error" in first["stack_trace"]
        assert first["context"] is None
        moment = datetime.fromisoformat(first["timestamp"])
        assert moment == datetime.fromtimestamp(clock.time() - 3.0, UTC)

    async def test_the_attempt_that_opens_the_circuit_is_high(self, recovery: ErrorRecoveryService) -> None:
        """No other attempt follows it."""
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(raise_connection_error, service_name="api", max_retries=8)
        recent = recovery.get_error_summary()["recent_errors"]
        assert [error["severity"] for error in recent] == ["medium"] * 4 + ["high"]

    async def test_a_recovered_failure_stays_medium(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """One failure, then an answer: one record."""
        await recovery.retry_with_backoff(script(ValueError("x"), "answer"))
        assert recovery.get_error_summary()["errors_by_severity"] == {"medium": 1}

    async def test_errors_of_a_critical_service_are_critical(self, recovery: ErrorRecoveryService) -> None:
        """All of them, the retried ones too."""
        recovery.service("risk", critical=True)
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(raise_connection_error, service_name="risk", max_retries=1)
        assert recovery.get_error_summary()["errors_by_severity"] == {"critical": 2}

    async def test_an_unknown_outcome_is_critical(self, recovery: ErrorRecoveryService) -> None:
        """An unsafe call that may have happened."""
        with pytest.raises(ConnectionError):
            await recovery.service("orders", effect="unsafe").call(raise_connection_error)
        assert recovery.get_error_summary()["errors_by_severity"] == {"critical": 1}

    async def test_refusals_and_cancellations_make_no_record(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Five errors open the circuit; what is refused or cancelled adds none."""
        await fail_times(recovery, 5)
        with pytest.raises(CircuitOpenError):
            await recovery.retry_with_backoff(answer, service_name="api")
        task = asyncio.create_task(recovery.retry_with_backoff(asyncio.sleep, 9, service_name="other"))
        await clock.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert recovery.get_error_summary()["total_errors"] == 5

    async def test_a_cancelled_backoff_leaves_the_record_of_its_failure(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
    ) -> None:
        """The failure was real; the cancellation adds nothing, and the function does not run again."""
        fetch = script(ConnectionError("no"))
        task = asyncio.create_task(recovery.retry_with_backoff(fetch, service_name="api"))
        await clock.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await clock.sleep(10)
        assert fetch.calls == 1
        assert recovery.get_error_summary()["total_errors"] == 1

    async def test_the_history_holds_the_last_thousand(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """The oldest go first."""
        api = recovery.service("api", circuit_threshold=None, max_retries=1_004, base_delay=0.0)
        with pytest.raises(ConnectionError):
            await api.call(raise_connection_error)
        summary = recovery.get_error_summary()
        assert summary["total_errors"] == 1_000
        assert summary["errors_by_severity"] == {"medium": 999, "high": 1}
        assert summary["recent_errors"][-1]["retry_count"] == 1_004

    async def test_the_summary_has_its_five_parts(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """Counts by service, type and severity, and the last ten errors, oldest first."""
        recovery.configure(circuit_threshold=None)
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(raise_connection_error, service_name="a", max_retries=10)
        with pytest.raises(KeyError):
            await recovery.retry_with_backoff(
                script(ValueError("v"), KeyError("k")), service_name="b", max_retries=1
            )
        summary = recovery.get_error_summary()
        assert summary["total_errors"] == 13
        assert summary["errors_by_service"] == {"a": 11, "b": 2}
        assert summary["errors_by_type"] == {"ConnectionError": 11, "ValueError": 1, "KeyError": 1}
        assert summary["errors_by_severity"] == {"medium": 11, "high": 2}
        recent = summary["recent_errors"]
        assert [error["retry_count"] for error in recent] == [3, 4, 5, 6, 7, 8, 9, 10, 0, 1]
        assert recent[0].keys() >= {
            "timestamp", "error_type", "error_message", "severity", "service_name",
            "function_name", "retry_count", "stack_trace", "context",
        }  # fmt: skip
        assert json.loads(json.dumps(summary)) == summary

    async def test_an_empty_summary_has_the_same_parts(self, recovery: ErrorRecoveryService) -> None:
        """Nothing went wrong: zeros and empty collections."""
        summary = recovery.get_error_summary()
        assert summary["total_errors"] == 0
        assert summary["recent_errors"] == []
        for part in ("errors_by_service", "errors_by_type", "errors_by_severity"):
            assert summary[part] == {}

    async def test_the_summary_can_be_narrowed(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """By moment, service and severity; LOW is the lowest, CRITICAL the highest."""
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(raise_connection_error, service_name="a", max_retries=1)
        await clock.sleep(3_600)
        moment = datetime.fromtimestamp(clock.time(), UTC)
        await fail_times(recovery, 3, "b")
        summary = recovery.get_error_summary
        assert summary(since=moment)["errors_by_service"] == {"b": 3}
        assert summary(service_name="a")["total_errors"] == 2
        assert summary(min_severity=ErrorSeverity.HIGH)["errors_by_service"] == {"a": 1, "b": 3}
        assert summary(min_severity=ErrorSeverity.LOW)["total_errors"] == 5
        assert summary(min_severity=ErrorSeverity.CRITICAL)["total_errors"] == 0
        assert summary(moment, "a")["total_errors"] == 0

    async def test_a_naive_moment_is_local_time(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """As `datetime.now() - timedelta(hours=1)` in the original's examples."""
        await fail_times(recovery, 1)
        await clock.sleep(100)
        now = datetime.fromtimestamp(clock.time())
        assert now.tzinfo is None
        assert recovery.get_error_summary(since=now - timedelta(seconds=101))["total_errors"] == 1
        assert recovery.get_error_summary(since=now - timedelta(seconds=99))["total_errors"] == 0

    async def test_clearing_forgets_the_history_only(self, recovery: ErrorRecoveryService) -> None:
        """The circuit and the files stay as they are."""
        await fail_times(recovery, 5)
        recovery.clear_error_history()
        assert recovery.get_error_summary()["total_errors"] == 0
        assert recovery.get_health_status()["recent_error_count"] == 0
        assert recovery.is_circuit_open("api")
        assert len([record async for record in recovery.read_errors()]) == 5

    async def test_what_is_in_force_fills_the_context(self, recovery: ErrorRecoveryService) -> None:
        """Inner data is laid over outer data, and both end with their blocks."""
        with recovery.context(strategy="pairs", order="A1"):
            with recovery.context(order="B2"):
                await fail_times(recovery, 1)
            await fail_times(recovery, 1)
        await fail_times(recovery, 1)
        recent = recovery.get_error_summary()["recent_errors"]
        assert [error["context"] for error in recent] == [
            {"strategy": "pairs", "order": "B2"},
            {"strategy": "pairs", "order": "A1"},
            None,
        ]

    async def test_errors_can_be_read_back_from_the_files(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """An async iterator of ErrorRecord, narrowed like the summary."""
        with recovery.context(symbol="AAPL"), pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(raise_connection_error, service_name="a", max_retries=1)
        await fail_times(recovery, 1, "b")
        found = recovery.read_errors()
        assert isinstance(found, AsyncIterator)
        records = [record async for record in found]
        assert all(isinstance(record, ErrorRecord) for record in records)
        assert [(record.service_name, record.retry_count) for record in records] == [
            ("a", 0),
            ("a", 1),
            ("b", 0),
        ]
        assert records[1].severity is ErrorSeverity.HIGH
        assert records[0].context == {"symbol": "AAPL"}
        assert records[0].timestamp.tzinfo is not None
        narrowed = [
            record.service_name async for record in recovery.read_errors(min_severity=ErrorSeverity.HIGH)
        ]
        assert narrowed == ["a", "b"]
        assert [record async for record in recovery.read_errors(service_name="nobody")] == []

    async def test_each_record_is_one_line_of_the_day(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """One file, errors_YYYYMMDD.jsonl in error_log_dir, the day being the record's in UTC."""
        await fail_times(recovery, 2)
        await recovery.aclose()
        day = datetime.fromtimestamp(clock.time(), UTC).strftime("%Y%m%d")
        lines = (recovery.error_log_dir / f"errors_{day}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["error_type"] for line in lines] == ["ConnectionError"] * 2


@pytest.mark.asyncio
class TestStatusAndHealth:
    """The status of each service, and of all together."""

    async def test_a_service_never_seen_is_operational(self, recovery: ErrorRecoveryService) -> None:
        """Nothing is known against it."""
        assert recovery.get_service_status("nobody") is ServiceStatus.OPERATIONAL

    async def test_a_success_makes_it_operational(self, recovery: ErrorRecoveryService) -> None:
        """Whatever it was before."""
        await fail_times(recovery, 1)
        assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE
        await recovery.retry_with_backoff(answer, service_name="api")
        assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL

    async def test_a_failure_that_is_still_retried_changes_nothing(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Only the final failure makes it UNAVAILABLE."""
        task = asyncio.create_task(recovery.retry_with_backoff(raise_connection_error, service_name="api"))
        await clock.sleep(6.5)  # in the third backoff
        assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL
        with pytest.raises(ConnectionError):
            await task
        assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE

    async def test_an_answer_of_the_fallback_makes_it_degraded(self, recovery: ErrorRecoveryService) -> None:
        """Until the service itself answers again."""
        await recovery.with_fallback(raise_connection_error, "cached", service_name="api", max_retries=0)
        assert recovery.get_service_status("api") is ServiceStatus.DEGRADED
        await recovery.with_fallback(answer, "cached", service_name="api")
        assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL

    async def test_an_open_circuit_makes_it_unavailable(self, recovery: ErrorRecoveryService) -> None:
        """Also when it was degraded before."""
        await recovery.with_fallback(raise_connection_error, "cached", service_name="api", max_retries=0)
        await fail_times(recovery, 4)
        assert recovery.is_circuit_open("api")
        assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE

    async def test_a_half_open_circuit_makes_it_degraded(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """As soon as the open time is over."""
        await fail_times(recovery, 5)
        await clock.sleep(60)
        assert recovery.get_service_status("api") is ServiceStatus.DEGRADED
        assert recovery.get_health_status()["overall_health"] == "degraded"

    async def test_a_neutral_end_changes_nothing(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """A cancelled call leaves the status as it was."""
        await fail_times(recovery, 1)
        task = asyncio.create_task(recovery.retry_with_backoff(asyncio.sleep, 9, service_name="api"))
        await clock.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE

    async def test_all_statuses(self, recovery: ErrorRecoveryService) -> None:
        """By name, as enum members with lower-case values."""
        await recovery.retry_with_backoff(answer, service_name="a")
        await fail_times(recovery, 1, "b")
        assert recovery.get_all_service_statuses() == {
            "a": ServiceStatus.OPERATIONAL,
            "b": ServiceStatus.UNAVAILABLE,
        }

    async def test_overall_health_is_that_of_the_worst_service(self, recovery: ErrorRecoveryService) -> None:
        """It is healthy, degraded if any is degraded, unhealthy if any is unavailable."""
        assert recovery.get_health_status()["overall_health"] == "healthy"
        await recovery.retry_with_backoff(answer, service_name="a")
        assert recovery.get_health_status()["overall_health"] == "healthy"
        await recovery.with_fallback(raise_connection_error, 1, service_name="b", max_retries=0)
        assert recovery.get_health_status()["overall_health"] == "degraded"
        await fail_times(recovery, 1, "c")
        assert recovery.get_health_status()["overall_health"] == "unhealthy"

    async def test_the_health_has_its_parts(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """A plain JSON-ready dict; its timestamp carries the offset."""
        await recovery.retry_with_backoff(answer, service_name="a")
        await fail_times(recovery, 2, "b")
        await fail_times(recovery, 5, "c")
        await recovery.aclose()
        health = recovery.get_health_status()
        assert health["service_statuses"] == {"a": "operational", "b": "unavailable", "c": "unavailable"}
        assert health["circuit_breakers"] == {"a": "closed", "b": "closed", "c": "open"}
        assert health["recent_error_count"] == 7
        log = health["error_log"]
        assert (log["written"], log["queued"], log["dropped"]) == (7, 0, 0)
        assert isinstance(log["state"], str)
        assert datetime.fromisoformat(health["timestamp"]) == datetime.fromtimestamp(clock.time(), UTC)
        assert json.loads(json.dumps(health)) == health

    async def test_recent_errors_are_those_of_five_minutes(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Counted by monotonic time, whatever the wall clock does."""
        await fail_times(recovery, 2, "a")
        await clock.sleep(200)
        await fail_times(recovery, 1, "b")
        clock.step_wall(-5_000)
        assert recovery.get_health_status()["recent_error_count"] == 3
        await clock.sleep(101)
        assert recovery.get_health_status()["recent_error_count"] == 1
        await clock.sleep(200)
        assert recovery.get_health_status()["recent_error_count"] == 0
        assert recovery.get_error_summary()["total_errors"] == 3


@pytest.mark.asyncio
class TestPlainFunctions:
    """Functions that are not coroutine functions run in threads; everything callable works."""

    async def test_a_plain_function_runs_in_a_worker_thread(self, recovery: ErrorRecoveryService) -> None:
        """Not on the loop's thread, with its arguments and its result."""

        def fetch(symbol: str, *, depth: int) -> tuple[str, int, int]:
            return symbol, depth, threading.get_ident()

        symbol, depth, thread = await recovery.retry_with_backoff(fetch, "AAPL", depth=5)
        assert (symbol, depth) == ("AAPL", 5)
        assert thread != threading.get_ident()

    async def test_a_plain_function_is_retried_like_any(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """The last error is the same object, with its own traceback."""
        errors = [ConnectionError(str(n)) for n in range(3)]
        remaining = list(errors)
        times: list[float] = []

        def fetch() -> None:
            times.append(clock.monotonic() - 1_000)
            raise remaining.pop(0)

        with pytest.raises(ConnectionError) as raised:
            await recovery.retry_with_backoff(fetch, max_retries=2)
        assert raised.value is errors[2]
        assert raised.value.__cause__ is None
        assert raised.value.__context__ is None
        assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "fetch"
        assert times == [0.0, 1.0, 3.0]

    async def test_context_variables_reach_the_thread(self, recovery: ErrorRecoveryService) -> None:
        """The function sees what is in force around the call."""
        from contextvars import ContextVar

        account: ContextVar[str] = ContextVar("account", default="none")
        account.set("A-17")
        assert await recovery.retry_with_backoff(account.get) == "A-17"

    async def test_an_awaitable_result_is_awaited_on_the_loop(self, recovery: ErrorRecoveryService) -> None:
        """A lambda around a coroutine function is guarded whole."""
        threads: list[int] = []

        async def fetch() -> str:
            threads.append(threading.get_ident())
            return "answer"

        assert await recovery.retry_with_backoff(lambda symbol: fetch(), "AAPL") == "answer"
        assert threads == [threading.get_ident()]

    async def test_an_awaitable_result_that_fails_is_retried(
        self, recovery: ErrorRecoveryService, script: Script
    ) -> None:
        """Each attempt makes a coroutine of its own."""
        fetch = script(ConnectionError("no"), "answer")
        assert await recovery.retry_with_backoff(lambda symbol: fetch(), "AAPL") == "answer"
        assert fetch.calls == 2

    @pytest.mark.parametrize("kind", [Mock, MagicMock, AsyncMock])
    async def test_mocks_work(self, recovery: ErrorRecoveryService, kind: type[Mock]) -> None:
        """With their side effects, one call for each attempt."""
        mock = kind(side_effect=[ConnectionError("no"), "answer"])
        assert await recovery.retry_with_backoff(mock, "AAPL", depth=5) == "answer"
        assert mock.call_count == 2
        mock.assert_called_with("AAPL", depth=5)

    async def test_a_mock_that_makes_coroutines_is_awaited(self, recovery: ErrorRecoveryService) -> None:
        """Mock(side_effect=coroutine function)."""
        assert await recovery.retry_with_backoff(Mock(side_effect=answer)) == "answer"

    async def test_everything_callable_works(self, recovery: ErrorRecoveryService) -> None:
        """Partials, bound methods, callable objects, classes and built-ins, async or not."""

        class Broker:
            async def fetch(self, symbol: str) -> str:
                return f"async {symbol}"

            def fetch_plain(self, symbol: str) -> str:
                return f"plain {symbol}"

            @classmethod
            async def of_class(cls, symbol: str) -> str:
                return f"{cls.__name__} {symbol}"

            @staticmethod
            def static(symbol: str) -> str:
                return f"static {symbol}"

            async def __call__(self, symbol: str) -> str:
                return f"object {symbol}"

        class Plain:
            def __call__(self, symbol: str) -> str:
                return f"plain object {symbol}"

        broker = Broker()
        call = recovery.retry_with_backoff
        assert await call(broker.fetch, "A") == "async A"
        assert await call(broker.fetch_plain, symbol="A") == "plain A"
        assert await call(Broker.of_class, "A") == "Broker A"
        assert await call(Broker.static, "A") == "static A"
        assert await call(broker, "A") == "object A"
        assert await call(Plain(), "A") == "plain object A"
        assert await call(partial(broker.fetch, symbol="A")) == "async A"
        assert await call(partial(partial(broker.fetch_plain, "A"))) == "plain A"
        assert await call(dict, a=1) == {"a": 1}
        assert await call(len, "abc") == 3

    async def test_names_in_the_records_are_those_a_person_knows(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """Partials and methods show what they wrap, objects their class."""

        class Broker:
            async def fetch(self) -> None:
                raise ConnectionError

            async def __call__(self) -> None:
                raise ConnectionError

        recovery.configure(circuit_threshold=None)
        for function in (Broker().fetch, partial(Broker().fetch), Broker()):
            with pytest.raises(ConnectionError):
                await recovery.retry_with_backoff(function, max_retries=0)
        recent = recovery.get_error_summary()["recent_errors"]
        assert [error["function_name"] for error in recent] == ["fetch", "fetch", "Broker"]

    async def test_an_async_generator_is_refused_with_the_way_out(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """When called and when decorated."""

        async def ticks() -> AsyncIterator[int]:
            yield 1

        with pytest.raises(TypeError, match=r"ticks is an async generator.*attempts\(\)"):
            await recovery.retry_with_backoff(ticks)
        with pytest.raises(TypeError, match="ticks is an async generator"):
            with_error_recovery("feed")(ticks)  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(TypeError, match="ticks is an async generator"):
            recovery.service("feed")(partial(ticks))
        assert nothing_counted(recovery)

    async def test_a_plain_function_that_returns_an_async_generator_is_refused(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """It would run unguarded: told at once, neutral, and not retried."""

        async def ticks() -> AsyncIterator[int]:
            yield 1

        calls: list[int] = []

        def make() -> AsyncIterator[int]:
            calls.append(1)
            return ticks()

        with pytest.raises(TypeError, match="generator"):
            await recovery.retry_with_backoff(make)
        assert calls == [1]
        assert nothing_counted(recovery)

    async def test_a_coroutine_object_is_refused_with_the_way_out(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """It can run only once; told by name, and closed so that Python does not complain as well."""
        coroutine = answer("AAPL")
        with pytest.raises(TypeError, match=r"coroutine object answer.*pass the function"):
            await recovery.retry_with_backoff(coroutine)  # type: ignore[call-overload]  # the mistake under test
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        with pytest.raises(TypeError, match="coroutine object answer"):
            with_error_recovery("api")(answer())  # type: ignore[type-var]  # the mistake under test

    @pytest.mark.parametrize("thing", [None, 5, "fetch"])
    async def test_what_cannot_be_called_is_refused(
        self, recovery: ErrorRecoveryService, thing: object
    ) -> None:
        """With what it was."""
        with pytest.raises(TypeError, match=f"{thing!r}.*cannot be called"):
            await recovery.retry_with_backoff(thing)  # type: ignore[call-overload]  # the mistake under test

    async def test_a_thread_left_behind_is_counted_and_keeps_its_place(
        self, clock: VirtualClock, tmp_path: Path
    ) -> None:
        """Cancelled, the call ends at once; the next call waits until the thread has really ended."""
        recovery = ErrorRecoveryService(tmp_path, tmp_path, max_threads=1, clock=clock)
        release, begun = threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hang() -> None:
            loop.call_soon_threadsafe(begun.set)
            release.wait(60)

        def left_behind() -> int:
            count: int = recovery.get_health_status()["services"]["api"]["abandoned_threads"]
            return count

        try:
            hanging = asyncio.create_task(recovery.retry_with_backoff(hang, service_name="api"))
            await begun.wait()
            assert left_behind() == 0
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            assert left_behind() == 1
            second = asyncio.create_task(recovery.retry_with_backoff(lambda: "answer", service_name="api"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not second.done()
            # Another service has threads of its own.
            assert await recovery.retry_with_backoff(lambda: "other", service_name="other") == "other"
            assert not second.done()
        finally:
            release.set()
        assert await second == "answer"
        assert left_behind() == 0
        assert nothing_counted(recovery)

    async def test_a_call_cancelled_before_its_thread_began_is_not_left_behind(
        self, clock: VirtualClock, tmp_path: Path
    ) -> None:
        """Still in the queue, it leaves the queue, and its function never runs."""
        recovery = ErrorRecoveryService(tmp_path, tmp_path, max_threads=1, clock=clock)
        release, begun = threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        ran: list[str] = []

        def hang() -> None:
            loop.call_soon_threadsafe(begun.set)
            release.wait(60)

        try:
            hanging = asyncio.create_task(recovery.retry_with_backoff(hang, service_name="api"))
            await begun.wait()
            queued = asyncio.create_task(
                recovery.retry_with_backoff(ran.append, "queued", service_name="api")
            )
            await asyncio.sleep(0)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
        finally:
            release.set()
        await hanging
        await recovery.retry_with_backoff(ran.append, "last", service_name="api")
        assert ran == ["last"]
        assert recovery.get_health_status()["services"]["api"]["abandoned_threads"] == 0

    async def test_a_thread_that_raises_stop_iteration_does_not_hang(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """Python cannot carry it through a coroutine; it comes out as the cause of a RuntimeError."""
        with pytest.raises(RuntimeError) as raised:
            await recovery.retry_with_backoff(next, iter([]), max_retries=0)
        assert isinstance(raised.value.__cause__, StopIteration)


@pytest.mark.asyncio
class TestDecorator:
    """with_error_recovery, through the process's service."""

    async def test_a_decorated_coroutine_function_recovers(
        self, process_service: ErrorRecoveryService, script: Script
    ) -> None:
        """Its calls are retried under the service's name."""
        played = script(ConnectionError("no"), "bought")

        @with_error_recovery("trading_service", max_retries=3)
        async def place_order(symbol: str, qty: int, side: str = "buy") -> str:
            """Place an order."""
            result: str = await played(symbol, qty, side)
            return result

        assert await place_order("AAPL", qty=10) == "bought"
        assert played.arguments == [(("AAPL", 10, "buy"), {})] * 2
        assert process_service.get_service_status("trading_service") is ServiceStatus.OPERATIONAL
        assert process_service.get_error_summary()["errors_by_service"] == {"trading_service": 1}

    async def test_a_decorated_function_keeps_signature_name_and_docstring(
        self, process_service: ErrorRecoveryService
    ) -> None:
        """And it is a coroutine function, whatever it was before."""

        async def fetch(symbol: str, depth: int = 5) -> str:
            """Fetch a quote."""
            return symbol

        def plain(symbol: str, depth: int = 5) -> str:
            """Fetch a quote."""
            return symbol

        for function in (fetch, plain):
            decorated = with_error_recovery("market_data")(function)
            assert inspect.iscoroutinefunction(decorated)
            assert decorated.__name__ == function.__name__
            assert decorated.__qualname__ == function.__qualname__
            assert decorated.__doc__ == "Fetch a quote."
            assert decorated.__module__ == __name__
            assert inspect.signature(decorated) == inspect.signature(function)
            assert await decorated("AAPL") == "AAPL"

    async def test_a_decorated_method_is_bound(
        self, process_service: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Methods, static methods and class methods (below @classmethod)."""

        class Broker:
            name = "broker"

            @with_error_recovery("broker")
            async def fetch(self, symbol: str) -> str:
                return f"{self.name} {symbol}"

            @with_error_recovery("broker")
            def plain(self, symbol: str) -> str:
                return f"{self.name} plain {symbol}"

            @classmethod
            @with_error_recovery("broker")
            async def of_class(cls, symbol: str) -> str:
                return f"{cls.__name__} {symbol}"

            @staticmethod
            @with_error_recovery("broker")
            async def static(symbol: str) -> str:
                return f"static {symbol}"

        broker = Broker()
        assert await broker.fetch("A") == "broker A"
        assert await broker.plain("A") == "broker plain A"
        assert await Broker.of_class("A") == "Broker A"
        assert await broker.static("A") == "static A"

    async def test_everything_callable_can_be_decorated(
        self, process_service: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Mocks, partials, bound methods and callable objects, async or not."""

        class Broker:
            async def fetch(self, symbol: str) -> str:
                return f"method {symbol}"

            def __call__(self, symbol: str) -> str:
                return f"object {symbol}"

        async def fetch(symbol: str, depth: int) -> str:
            return f"partial {symbol} {depth}"

        guard = with_error_recovery("market_data")
        for mock in (Mock, MagicMock, AsyncMock):
            made = mock(side_effect=[ConnectionError("no"), "mocked"])
            assert await guard(made)("A") == "mocked"
            made.assert_called_with("A")
        functions: list[tuple[Callable[..., Any], str]] = [
            (Broker().fetch, "method A"),
            (Broker(), "object A"),
            (partial(fetch, depth=5), "partial A 5"),
            (partial(Broker(), "A"), "object A"),
        ]
        for function, expected in functions:
            decorated = guard(function)
            assert inspect.iscoroutinefunction(decorated)
            assert isinstance(decorated.__name__, str)
            assert await (
                decorated() if isinstance(function, partial) and function.args else decorated("A")
            ) == (expected)

    async def test_the_decorator_takes_a_fallback(self, process_service: ErrorRecoveryService) -> None:
        """It gets the call's arguments; the service is DEGRADED."""

        @with_error_recovery("market_data", max_retries=0, fallback=lambda symbol: f"cached {symbol}")
        async def fetch(symbol: str) -> str:
            raise ConnectionError

        assert await fetch("AAPL") == "cached AAPL"
        assert process_service.get_service_status("market_data") is ServiceStatus.DEGRADED

    async def test_wrong_arguments_of_a_decorated_function_are_neutral(
        self, process_service: ErrorRecoveryService
    ) -> None:
        """Raised at once, at the first call and at later ones."""

        @with_error_recovery("market_data")
        async def fetch(symbol: str) -> str:
            return symbol

        for _ in range(2):
            with pytest.raises(TypeError, match="nonsense"):
                await fetch("A", nonsense=1)  # type: ignore[call-arg]  # the mistake under test
            await fetch("A")
        assert nothing_counted(process_service)

    async def test_an_unknown_option_is_refused_when_decorating(self) -> None:
        """With its name and those that exist; before any service is made."""
        with pytest.raises(TypeError, match=r"'retries'.*max_retries"):
            with_error_recovery("market_data", retries=3)  # type: ignore[call-arg]  # the mistake under test
        with pytest.raises(ValueError, match=r"max_retries .*got -1"):
            with_error_recovery("market_data", max_retries=-1)

    async def test_a_forgotten_service_name_is_refused(self) -> None:
        """`@with_error_recovery` without parentheses hands the function in as the name."""
        with pytest.raises(TypeError, match="service_name"):

            @with_error_recovery  # type: ignore[arg-type]  # the mistake under test
            async def fetch() -> None:
                pass

    async def test_a_function_decorated_earlier_follows_a_new_service(
        self, process_service: ErrorRecoveryService, clock: VirtualClock, tmp_path: Path
    ) -> None:
        """set_error_recovery_service takes effect at the next call."""

        @with_error_recovery("market_data", max_retries=0)
        async def fetch() -> None:
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await fetch()
        other = ErrorRecoveryService(tmp_path / "o", tmp_path / "o", clock=clock)
        set_error_recovery_service(other)
        with pytest.raises(ConnectionError):
            await fetch()
        assert process_service.get_error_summary()["total_errors"] == 1
        assert other.get_error_summary()["total_errors"] == 1


class TestProcessService:
    """get_error_recovery_service: one per process."""

    @pytest.fixture(autouse=True)
    def _own_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.chdir(tmp_path)
        set_error_recovery_service(None)
        yield
        set_error_recovery_service(None)

    def test_it_is_one_for_the_process(self) -> None:
        """Asked from several threads at once, it is made once."""
        barrier = threading.Barrier(8)
        got: list[ErrorRecoveryService] = []

        def ask() -> None:
            barrier.wait()
            got.append(get_error_recovery_service())

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 8
        assert len(set(map(id, got))) == 1

    def test_decorating_makes_no_service(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment is read at construction: one set after decorating still counts."""

        @with_error_recovery("market_data")
        async def fetch() -> None:
            pass

        monkeypatch.setenv("ERROR_RECOVERY_MAX_RETRIES", "7")
        assert get_error_recovery_service().max_retries == 7

    def test_tests_may_put_their_own_in_its_place(self, tmp_path: Path) -> None:
        """And None makes a new one at the next need."""
        own = ErrorRecoveryService(tmp_path, tmp_path)
        set_error_recovery_service(own)
        assert get_error_recovery_service() is own
        set_error_recovery_service(None)
        assert get_error_recovery_service() is not own

    def test_something_else_is_refused(self) -> None:
        """With what it was."""
        with pytest.raises(TypeError, match="got 'service'"):
            set_error_recovery_service("service")  # type: ignore[arg-type]  # the mistake under test

    def test_nothing_is_made_on_disk_before_it_is_needed(self, tmp_path: Path) -> None:
        """Neither importing nor constructing touches a directory."""
        get_error_recovery_service()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
class TestState:
    """save_state and restore_state, seen from outside; the files have tests of their own."""

    async def test_what_was_saved_is_restored(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """All five fields, the statuses being those of the moment."""
        await fail_times(recovery, 1, "api")
        saved = await recovery.save_state(
            active_operations=[{"operation": "fetch", "symbol": "AAPL", "status": "pending"}],
            cached_data={"AAPL": {"price": 150.0}},
            configuration={"region": "eu"},
            force=True,
        )
        assert saved is True
        state = await recovery.restore_state()
        assert isinstance(state, SystemState)
        assert state.active_operations == [{"operation": "fetch", "symbol": "AAPL", "status": "pending"}]
        assert state.cached_data == {"AAPL": {"price": 150.0}}
        assert state.configuration == {"region": "eu"}
        assert state.service_statuses == {"api": ServiceStatus.UNAVAILABLE}
        assert state.timestamp == datetime.fromtimestamp(clock.time(), UTC)
        assert state.timestamp.tzinfo is not None
        assert SystemState.from_dict(state.to_dict()) == state

    async def test_true_means_that_another_program_can_restore_it(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """The JSON file is there, whole and readable, when save_state returns."""
        assert await recovery.save_state(cached_data={"AAPL": 1}) is True
        text = (recovery.state_dir / "system_state.json").read_text(encoding="utf-8")
        assert json.loads(text)["cached_data"] == {"AAPL": 1}
        other = ErrorRecoveryService(recovery.state_dir, recovery.error_log_dir)
        state = await other.restore_state()
        assert state is not None
        assert state.cached_data == {"AAPL": 1}

    async def test_without_a_saved_state_there_is_none(self, recovery: ErrorRecoveryService) -> None:
        """Nothing there yet is no error, and makes no directory."""
        assert await recovery.restore_state() is None

    async def test_the_first_save_is_never_skipped(self, recovery: ErrorRecoveryService) -> None:
        """Nor is it when the program has just begun."""
        assert await recovery.save_state(cached_data={"n": 1}) is True

    async def test_a_second_save_within_the_interval_is_skipped_and_kept(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """False; the newest skipped one is written when the interval ends."""
        await recovery.save_state(cached_data={"n": 1})
        await clock.sleep(10)
        assert await recovery.save_state(cached_data={"n": 2}) is False
        assert await recovery.save_state(cached_data={"n": 3}) is False
        before = await recovery.restore_state()
        assert before is not None
        assert before.cached_data == {"n": 1}
        await clock.sleep(49)
        just_before = await recovery.restore_state()
        assert just_before is not None
        assert just_before.cached_data == {"n": 1}
        await clock.sleep(2)
        after = await recovery.restore_state()
        assert after is not None
        assert after.cached_data == {"n": 3}

    async def test_after_the_interval_a_save_is_written(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """The default interval is 60 s."""
        await recovery.save_state(cached_data={"n": 1})
        await clock.sleep(60)
        assert await recovery.save_state(cached_data={"n": 2}) is True

    async def test_force_saves_at_once(self, recovery: ErrorRecoveryService) -> None:
        """Whatever the interval says, and what was kept before does not come back later."""
        await recovery.save_state(cached_data={"n": 1})
        assert await recovery.save_state(cached_data={"n": 2}) is False
        assert await recovery.save_state(cached_data={"n": 3}, force=True) is True
        await recovery.aclose()
        state = await recovery.restore_state()
        assert state is not None
        assert state.cached_data == {"n": 3}

    async def test_an_argument_left_out_is_saved_as_empty(self, recovery: ErrorRecoveryService) -> None:
        """As in the original: nothing is carried over from an earlier save."""
        await recovery.save_state([{"operation": "a"}], {"b": 1}, {"c": 2}, force=True)
        await recovery.save_state(force=True)
        state = await recovery.restore_state()
        assert state is not None
        assert (state.active_operations, state.cached_data, state.configuration) == ([], {}, {})

    async def test_a_skipped_save_is_written_when_the_service_is_closed(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """At exit nothing is lost."""
        await recovery.save_state(cached_data={"n": 1})
        assert await recovery.save_state(cached_data={"n": 2}) is False
        await recovery.aclose()
        state = await recovery.restore_state()
        assert state is not None
        assert state.cached_data == {"n": 2}

    async def test_leaving_the_context_manager_flushes_everything(
        self, clock: VirtualClock, tmp_path: Path
    ) -> None:
        """State and error log."""
        async with ErrorRecoveryService(tmp_path / "s", tmp_path / "e", clock=clock) as recovery:
            await recovery.save_state(cached_data={"n": 1})
            await recovery.save_state(cached_data={"n": 2})
            await fail_times(recovery, 3)
        text = (tmp_path / "s" / "system_state.json").read_text(encoding="utf-8")
        assert json.loads(text)["cached_data"] == {"n": 2}
        (log,) = (tmp_path / "e").glob("errors_*.jsonl")
        assert len(log.read_text(encoding="utf-8").splitlines()) == 3

    async def test_a_shorter_interval_brings_a_save_that_waits_forward(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """configure(state_save_interval=...) holds for the one that was kept for later, too."""
        await recovery.save_state(cached_data={"n": 1})
        assert await recovery.save_state(cached_data={"n": 2}) is False
        recovery.configure(state_save_interval=5.0)
        await clock.sleep(6)
        state = await recovery.restore_state()
        assert state is not None
        assert state.cached_data == {"n": 2}

    async def test_a_state_that_cannot_be_saved_does_not_keep_the_errors_from_the_disk(
        self, clock: VirtualClock, tmp_path: Path
    ) -> None:
        """Closing raises what was not saved, after everything else was flushed."""
        (tmp_path / "file").write_text("in the way")
        recovery = ErrorRecoveryService(tmp_path / "file" / "state", tmp_path / "e", clock=clock)
        recovery.track_state(lambda: {"cached_data": {"n": 1}})
        await fail_times(recovery, 2)
        with pytest.raises(StateNotSavedError):
            await recovery.aclose()
        (log,) = (tmp_path / "e").glob("errors_*.jsonl")
        assert len(log.read_text(encoding="utf-8").splitlines()) == 2
        (tmp_path / "file").unlink()
        await recovery.aclose()

    async def test_leaving_the_context_manager_by_an_error_flushes_and_passes_it_on(
        self, clock: VirtualClock, tmp_path: Path
    ) -> None:
        """The program's own error comes out."""
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with ErrorRecoveryService(tmp_path / "s", tmp_path / "e", clock=clock) as recovery:
                await fail_times(recovery, 2)
                raise ZeroDivisionError
        (log,) = (tmp_path / "e").glob("errors_*.jsonl")
        assert len(log.read_text(encoding="utf-8").splitlines()) == 2

    async def test_a_state_that_is_changed_after_the_save_is_saved_as_it_was(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """Also when the save was kept for later."""
        await recovery.save_state(force=True)
        cached = {"prices": [1, 2]}
        await recovery.save_state(cached_data=cached)
        cached["prices"].append(3)
        await recovery.aclose()
        state = await recovery.restore_state()
        assert state is not None
        assert state.cached_data == {"prices": [1, 2]}

    async def test_a_disk_that_refuses_raises(self, clock: VirtualClock, tmp_path: Path) -> None:
        """StateNotSavedError names the place; what was refused is kept, and written when the disk is well."""
        (tmp_path / "file").write_text("in the way")
        recovery = ErrorRecoveryService(tmp_path / "file" / "state", tmp_path / "e", clock=clock)
        with pytest.raises(StateNotSavedError, match="file"):
            await recovery.save_state(cached_data={"n": 1})
        with pytest.raises(StateNotSavedError):
            await recovery.save_state(cached_data={"n": 1}, force=True)
        (tmp_path / "file").unlink()
        await recovery.aclose()
        restored = await recovery.restore_state()
        assert restored is not None
        assert restored.cached_data == {"n": 1}

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"active_operations": {"a": 1}}, "active_operations must be a list of dicts"),
            ({"active_operations": ["a"]}, "active_operations must be a list of dicts"),
            ({"cached_data": [1]}, "cached_data must be a dict"),
            ({"configuration": "x"}, "configuration must be a dict"),
        ],
    )
    async def test_wrong_arguments_are_refused_by_name(
        self, recovery: ErrorRecoveryService, arguments: dict[str, Any], says: str
    ) -> None:
        """Before anything is written."""
        with pytest.raises(TypeError, match=says):
            await recovery.save_state(**arguments, force=True)
        assert await recovery.restore_state() is None

    async def test_tracked_state_is_saved_by_itself(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """Every so often, and when the service is closed; the returned function stops it."""
        index = 0

        def provider() -> dict[str, Any]:
            return {"active_operations": [{"operation": "process", "index": index}]}

        async def saved() -> object:
            state = await recovery.restore_state()
            return None if state is None else state.active_operations[0]["index"]

        stop = recovery.track_state(provider, every=10.0)
        index = 1
        await clock.sleep(9)
        assert await saved() is None
        await clock.sleep(2)
        assert await saved() == 1
        index = 2
        await clock.sleep(10)
        assert await saved() == 2
        index = 3
        await recovery.aclose()
        assert await saved() == 3
        stop()
        index = 4
        await clock.sleep(100)
        await recovery.aclose()
        assert await saved() == 3

    async def test_a_provider_may_be_a_coroutine_function_or_give_a_tuple(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """The three arguments of save_state in either form; by default every state_save_interval."""

        async def provider() -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
            return [], {"n": 1}, {"c": 2}

        recovery.track_state(provider)
        await clock.sleep(61)
        state = await recovery.restore_state()
        assert state is not None
        assert (state.cached_data, state.configuration) == ({"n": 1}, {"c": 2})

    async def test_a_provider_that_fails_at_the_end_is_named_and_stops_no_closing(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What it gave before stays saved, what another one gives is, and the journal is closed."""
        fails = False

        def broken() -> dict[str, Any]:
            if fails:
                raise LookupError("gone")
            return {"cached_data": {"n": 1}}

        recovery.track_state(broken, every=10.0)
        await clock.sleep(11)
        fails = True

        await recovery.aclose()

        (record,) = [record for record in caplog.records if "while the service was closed" in record.message]
        assert "broken" in record.message
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)
        state = await recovery.restore_state()
        assert state is not None
        assert state.cached_data == {"n": 1}
        assert recovery.get_health_status()["journal"]["state"] == "closed"


class TestSettings:
    """What can be read, changed and refused; tests/test_settings.py has the environment."""

    def test_directories_become_absolute_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Later changes of the working directory do not move them."""
        monkeypatch.chdir(tmp_path)
        recovery = ErrorRecoveryService("data/s", Path("data") / ".." / "e")
        monkeypatch.chdir("/")
        assert recovery.state_dir == tmp_path / "data" / "s"
        assert recovery.error_log_dir == tmp_path / "e"
        assert recovery.state_dir.is_absolute()

    def test_the_constructor_checks_values_only(self, tmp_path: Path) -> None:
        """It makes no directory, and does not mind one that cannot be made."""
        (tmp_path / "file").write_text("in the way")
        ErrorRecoveryService(tmp_path / "file" / "state", tmp_path / "file" / "errors")
        ErrorRecoveryService(tmp_path / "a", tmp_path / "b")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    @pytest.mark.asyncio
    async def test_start_makes_the_directories(self, tmp_path: Path, clock: VirtualClock) -> None:
        """With all that lies above them."""
        recovery = ErrorRecoveryService(tmp_path / "a" / "s", tmp_path / "b" / "e", clock=clock)
        await recovery.start()
        assert (tmp_path / "a" / "s").is_dir()
        assert (tmp_path / "b" / "e").is_dir()
        await recovery.aclose()

    @pytest.mark.asyncio
    @pytest.mark.parametrize("which", ["state_dir", "error_log_dir"])
    async def test_start_refuses_a_directory_that_cannot_be_made(
        self, tmp_path: Path, clock: VirtualClock, which: str
    ) -> None:
        """With the setting's name and the path."""
        (tmp_path / "file").write_text("in the way")
        places = {"state_dir": tmp_path / "s", "error_log_dir": tmp_path / "e"}
        places[which] = tmp_path / "file" / "below"
        recovery = ErrorRecoveryService(**places, clock=clock)
        with pytest.raises(OSError, match=f"{which}.*below"):
            await recovery.start()

    def test_all_settings_are_readable(self, tmp_path: Path) -> None:
        """Under the names of their arguments, seconds as floats."""
        recovery = ErrorRecoveryService(
            tmp_path, tmp_path, 5, timedelta(seconds=2), 30, 3,
            circuit_threshold=7, circuit_timeout=90, state_save_interval=timedelta(minutes=2),
        )  # fmt: skip
        assert recovery.max_retries == 5
        assert recovery.base_delay == 2.0
        assert recovery.max_delay == 30.0
        assert recovery.backoff_factor == 3.0
        assert recovery.circuit_threshold == 7
        assert recovery.circuit_timeout == 90.0
        assert recovery.state_save_interval == 120.0
        for name in ("base_delay", "max_delay", "backoff_factor", "circuit_timeout", "state_save_interval"):
            assert isinstance(getattr(recovery, name), float)

    def test_the_private_attributes_of_the_original_still_work(self, tmp_path: Path) -> None:
        """Each forwards to configure, with a warning that shows the new spelling."""
        recovery = ErrorRecoveryService(tmp_path, tmp_path)
        with pytest.warns(DeprecationWarning, match=r"configure\(circuit_threshold=10\)") as warned:
            recovery._circuit_breaker_threshold = 10
        assert warned[0].filename == __file__
        with pytest.warns(DeprecationWarning, match=r"configure\(circuit_timeout=120.0\)"):
            recovery._circuit_breaker_timeout = 120.0
        with pytest.warns(DeprecationWarning, match=r"configure\(state_save_interval=30.0\)"):
            recovery._state_save_interval = 30.0
        assert (recovery.circuit_threshold, recovery.circuit_timeout) == (10, 120.0)
        assert recovery.state_save_interval == 30.0
        assert recovery._circuit_breaker_threshold == 10
        assert recovery._circuit_breaker_timeout == 120.0
        assert recovery._state_save_interval == 30.0

    def test_a_bad_value_of_a_private_attribute_is_refused(self, tmp_path: Path) -> None:
        """As configure would."""
        recovery = ErrorRecoveryService(tmp_path, tmp_path)
        with (
            pytest.warns(DeprecationWarning, match="circuit_timeout"),
            pytest.raises(ValueError, match=r"circuit_timeout.*got -1"),
        ):
            recovery._circuit_breaker_timeout = -1

    @pytest.mark.asyncio
    async def test_configure_takes_effect_while_running(
        self, recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
    ) -> None:
        """On services in use, handles made and functions decorated before, and open circuits."""
        handle = recovery.service("api")
        fetch = script(ConnectionError("no"))

        @handle
        async def decorated() -> None:
            await fetch()

        await fail_times(recovery, 2)
        recovery.configure(circuit_threshold=3, circuit_timeout=10.0, max_retries=0)
        for call in (handle.call(fetch),):
            with pytest.raises(ConnectionError):
                await call
        assert fetch.calls == 1
        assert recovery.is_circuit_open("api")
        await clock.sleep(9)
        recovery.configure(circuit_timeout=timedelta(seconds=20))
        await clock.sleep(9)
        assert recovery.is_circuit_open("api")
        await clock.sleep(2)
        assert not recovery.is_circuit_open("api")
        recovery.configure(max_retries=1, base_delay=0.5, circuit_threshold=None)
        recovery.reset_circuit_breaker("api")
        fetch.times.clear()
        began = clock.monotonic() - fetch.began
        with pytest.raises(ConnectionError):
            await decorated()
        assert fetch.times == [began, began + 0.5]

    @pytest.mark.asyncio
    async def test_configure_does_not_override_what_a_service_declared(
        self, recovery: ErrorRecoveryService
    ) -> None:
        """A threshold of its own stays its own."""
        recovery.service("api", circuit_threshold=2)
        recovery.configure(circuit_threshold=50)
        await fail_times(recovery, 2)
        assert recovery.is_circuit_open("api")

    @pytest.mark.asyncio
    async def test_a_changed_interval_holds_for_the_next_save(
        self, recovery: ErrorRecoveryService, clock: VirtualClock
    ) -> None:
        """state_save_interval while running."""
        await recovery.save_state(cached_data={"n": 1})
        recovery.configure(state_save_interval=5.0)
        await clock.sleep(5)
        assert await recovery.save_state(cached_data={"n": 2}) is True

    def test_configure_changes_all_or_nothing(self, tmp_path: Path) -> None:
        """One bad value, and nothing is changed."""
        recovery = ErrorRecoveryService(tmp_path, tmp_path)
        with pytest.raises(ValueError, match="base_delay"):
            recovery.configure(circuit_threshold=9, base_delay=-1)
        with pytest.raises(TypeError, match="nonsense"):
            recovery.configure(circuit_threshold=9, nonsense=1)
        assert recovery.circuit_threshold == 5


class TestLoopsAndThreads:
    """Made anywhere, used on any loop, shared by threads, and refused where there is no asyncio."""

    def test_a_service_made_outside_a_loop_outlives_asyncio_run(self, tmp_path: Path) -> None:
        """Counts, circuits and history go on from loop to loop."""
        clock = VirtualClock()
        recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", clock=clock)
        api = recovery.service("api")

        @api
        async def fetch() -> None:
            raise ConnectionError("no")

        async def main() -> None:
            with pytest.raises(ConnectionError):
                await fetch()

        clock.run(main())
        assert not recovery.is_circuit_open("api")
        clock.run(main())
        assert recovery.is_circuit_open("api")
        assert recovery.get_error_summary()["total_errors"] == 5

    def test_plain_functions_state_and_log_work_on_the_next_loop_too(self, tmp_path: Path) -> None:
        """Nothing hangs on a loop that has ended."""
        recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e")

        async def main(number: int) -> None:
            assert await recovery.retry_with_backoff(lambda: number, service_name="plain") == number
            assert await recovery.save_state(cached_data={"n": number}, force=True)
            with pytest.raises(ConnectionError):
                await recovery.retry_with_backoff(raise_connection_error, max_retries=0)
            state = await recovery.restore_state()
            assert state is not None
            assert state.cached_data == {"n": number}
            assert len([record async for record in recovery.read_errors()]) == number

        for number in (1, 2, 3):
            asyncio.run(main(number))

    def test_a_closed_service_can_be_used_again(self, tmp_path: Path) -> None:
        """Closing flushes; what is needed afterwards starts again."""

        async def main() -> None:
            recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e")
            for expected in (1, 2):
                with pytest.raises(ConnectionError):
                    await recovery.retry_with_backoff(raise_connection_error, max_retries=0)
                await recovery.aclose()
                (log,) = (tmp_path / "e").glob("errors_*.jsonl")
                assert len(log.read_text(encoding="utf-8").splitlines()) == expected

        asyncio.run(main())

    def test_several_threads_and_loops_share_one_service(self, tmp_path: Path) -> None:
        """No call is lost or counted twice, in the service's counts or in the files."""
        recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", 1, 0.0, circuit_threshold=None)
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        problems: list[BaseException] = []

        async def main(seed: int) -> None:
            handle = recovery.service("shared")

            async def call(n: int) -> None:
                tries = 0

                async def fetch() -> int:
                    nonlocal tries
                    tries += 1
                    await asyncio.sleep(0)
                    if n % 3 == 0 and tries == 1:
                        raise ConnectionError("once")
                    return n

                result = await (
                    handle.call(fetch) if n % 2 else recovery.retry_with_backoff(fetch, service_name="shared")
                )
                assert result == n

            await asyncio.gather(*(call(n) for n in range(300)))

        def run(seed: int) -> None:
            try:
                asyncio.run(main(seed))
            except BaseException as error:  # noqa: BLE001 - told to the test's thread
                problems.append(error)

        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)
        assert problems == []
        counts = recovery.get_health_status()["services"]["shared"]
        assert (counts["successes"], counts["failures"], counts["retries"]) == (900, 300, 300)
        asyncio.run(recovery.aclose())
        log = recovery.get_health_status()["error_log"]
        assert (log["written"], log["queued"], log["dropped"]) == (300, 0, 0)

    @pytest.mark.parametrize("form", ["retry_with_backoff", "with_fallback", "call", "decorated", "plain"])
    def test_without_asyncio_it_is_refused_clearly(self, tmp_path: Path, form: str) -> None:
        """Under trio, or driven by hand, no asyncio loop runs: said so, before the function is called."""
        recovery = ErrorRecoveryService(tmp_path, tmp_path)
        called: list[int] = []

        async def fetch() -> None:
            called.append(1)

        coroutine: Any = {
            "retry_with_backoff": lambda: recovery.retry_with_backoff(fetch),
            "with_fallback": lambda: recovery.with_fallback(fetch, 1),
            "call": lambda: recovery.service("api").call(fetch),
            "decorated": recovery.service("api")(fetch),
            "plain": lambda: recovery.retry_with_backoff(lambda: called.append(1)),
        }[form]()
        with pytest.raises(RuntimeError, match=r"asyncio.*trio"):
            coroutine.send(None)
        assert called == []

    def test_blocks_are_refused_without_asyncio_too(self, tmp_path: Path) -> None:
        """guard() and attempts()."""
        recovery = ErrorRecoveryService(tmp_path, tmp_path)
        handle = recovery.service("api")

        async def guarded() -> None:
            async with handle.guard():
                raise AssertionError("must not be entered")

        async def repeated() -> None:
            async for attempt in handle.attempts():
                async with attempt:
                    raise AssertionError("must not be entered")

        for function in (guarded, repeated):
            coroutine = function()
            with pytest.raises(RuntimeError, match=r"asyncio.*trio"):
                coroutine.send(None)

    @pytest.mark.parametrize("method", ["save_state", "restore_state", "start", "aclose"])
    def test_what_touches_the_disk_is_refused_without_asyncio_too(self, tmp_path: Path, method: str) -> None:
        """It says what is missing instead of "no running event loop"."""
        recovery = ErrorRecoveryService(tmp_path, tmp_path)
        coroutine = getattr(recovery, method)()
        with pytest.raises(RuntimeError, match=r"asyncio.*trio"):
            coroutine.send(None)

    @pytest.mark.parametrize("ending", ["returns", "raises", "exits"])
    def test_what_was_recorded_is_flushed_when_the_program_ends(self, tmp_path: Path, ending: str) -> None:
        """In any orderly way, without aclose: the errors and a save that was kept for later."""
        program = f"""
            import asyncio, sys
            from shockproof import ErrorRecoveryService

            recovery = ErrorRecoveryService("s", "e")

            async def bad():
                raise ConnectionError("no")

            async def main():
                await recovery.save_state(cached_data={{"n": 1}})
                assert not await recovery.save_state(cached_data={{"n": 2}})
                try:
                    await recovery.retry_with_backoff(bad, max_retries=0)
                except ConnectionError:
                    pass
                if "{ending}" == "raises":
                    raise ValueError("the program's own")
                if "{ending}" == "exits":
                    sys.exit(3)

            asyncio.run(main())
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == {"returns": 0, "raises": 1, "exits": 3}[ending], done.stderr
        (log,) = (tmp_path / "e").glob("errors_*.jsonl")
        assert [json.loads(line)["error_type"] for line in log.read_text().splitlines()] == [
            "ConnectionError"
        ]
        assert json.loads((tmp_path / "s" / "system_state.json").read_text())["cached_data"] == {"n": 2}


class TestModels:
    """ErrorRecord, SystemState and the enums, importable from the package."""

    def test_enum_values_are_lower_case(self) -> None:
        """As they stand in files and dicts."""
        assert [severity.value for severity in ErrorSeverity] == ["low", "medium", "high", "critical"]
        assert [status.value for status in ServiceStatus] == ["operational", "degraded", "unavailable"]

    def test_a_record_has_the_nine_fields(self) -> None:
        """stack_trace and context are optional."""
        record = ErrorRecord(
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
            error_type="ValueError",
            error_message="no",
            severity=ErrorSeverity.HIGH,
            service_name="api",
            function_name="fetch",
            retry_count=2,
        )
        assert record.to_dict() == {
            "timestamp": "2026-01-01T00:00:00Z",
            "error_type": "ValueError",
            "error_message": "no",
            "severity": "high",
            "service_name": "api",
            "function_name": "fetch",
            "retry_count": 2,
            "stack_trace": None,
            "context": None,
        }

    def test_a_naive_time_is_local_and_gets_its_offset(self) -> None:
        """Everything written carries its offset."""
        naive = datetime(2026, 1, 1, 12, 0, 0)
        state = SystemState(timestamp=naive)
        assert state.timestamp == naive.astimezone()
        assert state.timestamp.tzinfo is not None
        assert datetime.fromisoformat(state.to_dict()["timestamp"]).tzinfo is not None

    def test_a_state_has_the_five_fields(self) -> None:
        """And comes back from what it gave."""
        state = SystemState.from_dict(
            {
                "timestamp": "2026-01-01T00:00:00+00:00",
                "service_statuses": {"api": "degraded"},
                "active_operations": [{"operation": "fetch"}],
                "cached_data": {"a": 1},
                "configuration": {},
            }
        )
        assert state.service_statuses == {"api": ServiceStatus.DEGRADED}
        assert list(state.to_dict()) == [
            "timestamp",
            "service_statuses",
            "active_operations",
            "cached_data",
            "configuration",
        ]
        assert SystemState.from_dict(state.to_dict()) == state

    def test_everything_of_section_one_is_importable(self) -> None:
        """From the package itself."""
        for name in (
            "ErrorRecoveryService", "get_error_recovery_service", "set_error_recovery_service",
            "with_error_recovery", "ErrorRecord", "SystemState", "ServiceStatus", "ErrorSeverity", "attempts_of",
        ):  # fmt: skip
            assert name in shockproof.__all__
            assert getattr(shockproof, name) is not None

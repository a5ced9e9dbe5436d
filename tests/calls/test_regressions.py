"""What a review once found broken, each told with the situation that broke it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from shockproof import (
    CircuitOpenError,
    ErrorRecoveryService,
    Outcome,
    Retry,
    RetryBudget,
    attempts_of,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


async def down() -> None:
    raise ConnectionError("down")


async def well() -> str:
    return "well"


class BusyError(Exception):
    """What a venue answers that asks for silence."""

    retry_after = 300.0


async def test_call_that_gets_no_thread_is_never_run_later(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system had no thread for the first order: the second must not send both."""
    await recovery.start()  # whether an earlier life was halted takes a thread, too
    venue = recovery.service("venue", max_retries=0, effect="unsafe")
    sent: list[str] = []
    with monkeypatch.context() as refused:
        refused.setattr(
            threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("no more"))
        )
        with pytest.raises(Exception, match="too many calls are in flight"):
            await venue.call(sent.append, "first")

    await venue.call(sent.append, "second")
    assert sent == ["second"]
    assert recovery.get_error_summary()["total_errors"] == 0


async def test_declaring_the_same_rates_again_forgets_nothing(recovery: ErrorRecoveryService) -> None:
    """A program that asks for its handle at each call has a circuit that opens all the same."""
    for _ in range(4):
        venue = recovery.service(
            "venue", failure_rate=0.5, min_calls=4, circuit_threshold=None, max_retries=0
        )
        with pytest.raises(ConnectionError):
            await venue.call(down)

    assert recovery.is_circuit_open("venue")


async def test_a_limit_declared_later_keeps_those_in_flight(recovery: ErrorRecoveryService) -> None:
    """One place stays one place."""
    venue = recovery.service("venue", max_concurrent=1)
    busy = asyncio.create_task(venue.call(asyncio.sleep, 10))
    await asyncio.sleep(0)
    recovery.service("venue", max_wait=1.0)
    again = asyncio.create_task(venue.call(asyncio.sleep, 0))
    await asyncio.sleep(0)

    assert recovery.get_health_status()["services"]["venue"]["in_flight"] == 1
    await asyncio.gather(busy, again, return_exceptions=True)


async def test_late_success_of_an_earlier_period_does_not_hide_the_next_reset(
    recovery: ErrorRecoveryService,
) -> None:
    """Trip, close, fail, late success, success, fail: that is one failure in a row, not two."""
    venue = recovery.service("venue", circuit_threshold=2, max_retries=0)
    release = asyncio.Event()
    late = asyncio.create_task(venue.call(release.wait))
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await venue.call(down)
    recovery.reset_circuit_breaker("venue")
    with pytest.raises(ConnectionError):
        await venue.call(down)
    release.set()
    await late
    await venue.call(well)
    with pytest.raises(ConnectionError):
        await venue.call(down)

    assert not recovery.is_circuit_open("venue")


async def test_with_grace_a_wait_for_a_thread_is_neutral_too(clock: VirtualClock, tmp_path: Path) -> None:
    """Nothing of an unsafe call ran, so its outcome is not unknown."""
    recovery = ErrorRecoveryService(tmp_path, tmp_path, max_threads=1, clock=clock, circuit_threshold=1)
    await recovery.start()  # else the halt is read while the time is moved, and the limits begin behind that
    venue = recovery.service("venue", max_retries=0)
    release, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> None:
        loop.call_soon_threadsafe(begun.set)
        release.wait(60)

    hanging = asyncio.create_task(venue.call(hang))
    await begun.wait()
    sent: list[str] = []
    order = venue.using(timeout=1.0, grace=0.5, effect="unsafe")
    queued = asyncio.create_task(order.call(sent.append, "order"))
    await asyncio.sleep(0)
    for _ in range(8):  # time stands still while threads work: it is moved by hand
        clock.advance(0.25)
        for _ in range(5):
            await asyncio.sleep(0)
    with pytest.raises(TimeoutError) as raised:
        await queued
    release.set()
    await hanging

    assert sent == []
    assert all(attempt.outcome is not Outcome.UNKNOWN for attempt in attempts_of(raised.value))
    assert not recovery.is_circuit_open("venue")


async def test_with_grace_a_loop_that_stood_still_opens_no_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """In the middle of the limit, and running again before its end."""
    venue = recovery.service("venue", timeout=1.0, grace=0.5, max_retries=0, circuit_threshold=1)
    call = asyncio.create_task(venue.call(asyncio.sleep, 60))
    await asyncio.sleep(0)
    clock.advance(0.9)
    with pytest.raises(TimeoutError):
        await call

    assert not recovery.is_circuit_open("venue")


async def test_retry_that_is_refused_inside_raises_the_real_error(recovery: ErrorRecoveryService) -> None:
    """The inner circuit opened: its refusal is no answer to what went wrong."""
    inner = recovery.service("inner", circuit_threshold=1, max_retries=0)
    outer = recovery.service("outer", max_retries=3)

    with pytest.raises(ConnectionError) as raised:
        await outer.call(inner(down))

    assert len(attempts_of(raised.value)) == 1
    assert any("refused" in note for note in raised.value.__notes__)
    assert recovery.get_all_service_statuses()["outer"].value == "unavailable"


async def test_clock_that_is_not_the_loops_spoils_no_deadline(tmp_path: Path) -> None:
    """A fake clock a thousand million seconds away: the retries are made, and durations are durations."""

    class Away:
        def monotonic(self) -> float:
            return 1e9

        def time(self) -> float:
            return 1e9

        async def sleep(self, seconds: float) -> None:
            pass

    recovery = ErrorRecoveryService(tmp_path, tmp_path, clock=Away(), circuit_threshold=None)
    venue = recovery.service("venue", deadline=10.0, max_retries=3)
    decorated = venue(down)
    await venue.call(well)
    with pytest.raises(ConnectionError) as raised:
        await decorated()

    assert len(attempts_of(raised.value)) == 4
    assert all(attempt.duration < 10 for attempt in attempts_of(raised.value))
    await recovery.aclose()


async def test_error_that_trips_and_asks_for_silence_is_one_trip(recovery: ErrorRecoveryService) -> None:
    """And the circuit stays open for as long as was asked."""
    venue = recovery.service("venue", circuit_threshold=1, max_retries=0)

    async def busy() -> None:
        raise BusyError

    with pytest.raises(BusyError):
        await venue.call(busy)
    with pytest.raises(CircuitOpenError) as refused:
        await venue.call(well)

    assert refused.value.retry_after == 300.0
    assert recovery.get_health_status()["services"]["venue"]["circuit_trips"] == 1


async def test_retry_that_stands_alone_has_no_circuit_to_open(clock: VirtualClock) -> None:
    """Nobody asked for a breaker."""
    retry = Retry(max_retries=1, clock=clock)

    async def busy() -> None:
        raise BusyError

    with pytest.raises(BusyError):
        await retry.call(busy)
    assert await retry.call(well) == "well"


async def test_loop_of_attempts_that_is_left_gives_its_budget_back(recovery: ErrorRecoveryService) -> None:
    """Between two attempts nothing is held."""
    budget = RetryBudget(capacity=1)
    venue = recovery.service("venue", retry_budget=budget, max_retries=3)
    async for attempt in venue.attempts():
        async with attempt:
            raise ConnectionError("down")
        break

    assert budget.is_full


async def test_loop_of_attempts_pays_for_each_repetition(recovery: ErrorRecoveryService) -> None:
    """When the budget has run dry, the last error is raised with the reason."""
    venue = recovery.service(
        "venue", retry_budget=RetryBudget(capacity=2), max_retries=9, circuit_threshold=None
    )
    attempts = 0
    with pytest.raises(ConnectionError) as raised:  # noqa: PT012  the loop is what fails
        async for attempt in venue.attempts():
            async with attempt:
                attempts += 1
                raise ConnectionError("down")

    assert attempts == 3
    assert any("budget" in note for note in raised.value.__notes__)


async def test_refused_declaration_declares_nothing(recovery: ErrorRecoveryService) -> None:
    """A weight that fits no rate: the rate is not left behind."""
    with pytest.raises(ValueError, match="weight=5 can never be sent"):
        recovery.service("venue", rate_limit="1/s", weight=5)

    recovery.service("venue", rate_limit="10/s", weight=5)


async def test_health_check_that_hangs_is_not_the_last(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It is ended when the next is due, and that one is made."""
    asked = 0

    async def check() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(1_000_000)

    recovery.service("venue", health_check=check, check_every=10.0, circuit_threshold=None)
    await asyncio.sleep(100)

    assert asked >= 4
    assert recovery.get_service_status("venue").value == "unavailable"


async def test_closing_flushes_the_error_log_although_a_provider_hangs(
    recovery: ErrorRecoveryService,
) -> None:
    """What hangs holds back nothing else."""

    async def hang() -> dict[str, object]:
        await asyncio.sleep(1_000_000)
        return {}

    stop = recovery.track_state(hang)
    with pytest.raises(ConnectionError):
        await recovery.service("venue", max_retries=0).call(down)
    await recovery.aclose(timeout=2.0)
    stop()

    assert recovery.get_health_status()["error_log"]["written"] == 1


async def test_secrets_are_taken_out_of_refusals_and_attempts(recovery: ErrorRecoveryService) -> None:
    """They end up in logs that are not ours."""
    venue = recovery.service("venue", max_retries=1, circuit_threshold=2, base_delay=0)

    async def leaks() -> None:
        raise ConnectionError("GET https://venue/order?signature=c0ffee00c0ffee00 failed")

    with pytest.raises(ConnectionError) as raised:
        await venue.call(leaks)
    with pytest.raises(CircuitOpenError) as refused:
        await venue.call(well)

    assert "c0ffee" not in str(refused.value)
    assert "c0ffee" not in repr(attempts_of(raised.value))
    assert not any("c0ffee" in note for note in raised.value.__notes__)


async def test_what_is_no_severity_and_no_moment_is_refused_by_name(recovery: ErrorRecoveryService) -> None:
    """The message says what to write instead."""
    with pytest.raises(TypeError, match=r"min_severity must be an ErrorSeverity such as ErrorSeverity\.HIGH"):
        recovery.get_error_summary(min_severity="high")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="since must be a datetime"):
        recovery.read_errors(since="yesterday")  # type: ignore[arg-type]  # wrong on purpose

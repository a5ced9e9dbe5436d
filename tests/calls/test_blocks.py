"""guard() and attempts(): the policies around a block."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import (
    AttemptTimeoutError,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorRecoveryService,
    Handle,
    ServiceStatus,
    attempts_of,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


def counts(recovery: ErrorRecoveryService, name: str = "api") -> dict[str, Any]:
    found: dict[str, Any] = recovery.get_health_status()["services"][name]
    return found


async def guarded(handle: Handle, function: Callable[[], Any]) -> Any:
    async with handle.guard():
        return await function()


async def repeated(handle: Handle, function: Callable[[], Any]) -> Any:
    async for attempt in handle.attempts():
        async with attempt:
            return await function()
    raise AssertionError("the loop ended without an answer and without an error")


# -- guard -------------------------------------------------------------------------------------------


async def test_a_guarded_block_that_ends_well_is_a_success(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """Counted, and the status is OPERATIONAL."""
    api = recovery.service("api")
    assert await guarded(api, script("answer")) == "answer"
    assert counts(recovery)["successes"] == 1
    assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL


async def test_a_guarded_block_is_not_repeated(recovery: ErrorRecoveryService, script: Script) -> None:
    """Its own error comes out unchanged, recorded once as HIGH under the function that holds the block."""
    error = ConnectionError("no")
    fetch = script(error)
    with pytest.raises(ConnectionError) as raised:
        await guarded(recovery.service("api", max_retries=3), fetch)
    assert raised.value is error
    assert error.__cause__ is None
    assert fetch.times == [0.0]
    (record,) = recovery.get_error_summary()["recent_errors"]
    assert (record["severity"], record["retry_count"], record["function_name"]) == ("high", 0, "guarded")
    assert len(attempts_of(error)) == 1
    assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE


async def test_a_guard_has_no_fallback(recovery: ErrorRecoveryService, script: Script) -> None:
    """The final failure is final: the error comes out, and the service is UNAVAILABLE."""
    api = recovery.service("api", fallback="cached")
    with pytest.raises(ConnectionError):
        await guarded(api, script(ConnectionError()))
    assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE


async def test_attempts_have_no_fallback(recovery: ErrorRecoveryService, script: Script) -> None:
    """As above, after the last attempt."""
    api = recovery.service("api", fallback="cached", max_retries=1)
    fetch = script(ConnectionError())
    with pytest.raises(ConnectionError):
        await repeated(api, fetch)
    assert fetch.calls == 2
    assert recovery.get_service_status("api") is ServiceStatus.UNAVAILABLE


async def test_guarded_failures_open_the_circuit_and_an_open_circuit_refuses_the_block(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The block is not entered."""
    api = recovery.service("api", circuit_threshold=2)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await guarded(api, script(ConnectionError()))
    fetch = script("answer")
    with pytest.raises(CircuitOpenError):
        await guarded(api, fetch)
    assert fetch.calls == 0
    assert recovery.get_error_summary()["total_errors"] == 2


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"timeout": 2.0}, AttemptTimeoutError), ({"deadline": 2.0}, DeadlineExceededError)],
)
async def test_a_guarded_block_that_takes_too_long_is_ended(
    recovery: ErrorRecoveryService, clock: VirtualClock, options: dict[str, Any], kind: type[Exception]
) -> None:
    """By the timeout or the deadline; a failure."""
    began = clock.monotonic()
    with pytest.raises(kind) as raised:
        await guarded(recovery.service("api", **options), lambda: clock.sleep(50))
    assert isinstance(raised.value, TimeoutError)
    assert clock.monotonic() - began == 2.0
    assert counts(recovery)["failures"] == counts(recovery)["timeouts"] == 1


async def test_each_guard_is_entered_once(recovery: ErrorRecoveryService) -> None:
    """Each entry needs a fresh one, said with the way out."""
    guard = recovery.service("api").guard()
    async with guard:
        pass
    with pytest.raises(RuntimeError, match=r"guard\(\) anew"):
        async with guard:
            raise AssertionError("must not be entered")


async def test_guards_nest_freely(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Also of one service in itself: the inner timeout ends the inner block alone."""
    api = recovery.service("api", timeout=10.0)
    reached = []
    async with api.guard():
        with pytest.raises(AttemptTimeoutError) as raised:
            async with api.using(timeout=1.0).guard():
                await clock.sleep(50)
        reached.append(raised.value.seconds)
        async with recovery.service("other", timeout=1.0).guard():
            reached.append(0.0)
    assert reached == [1.0, 0.0]
    assert counts(recovery)["successes"] == 1
    assert counts(recovery)["failures"] == 1


async def test_a_block_may_be_left_in_another_task(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The timer is only disarmed there, and nobody is cancelled later."""
    api = recovery.service("api", timeout=5.0)
    guard = api.guard()
    entered = asyncio.create_task(guard.__aenter__())
    await entered
    left = asyncio.create_task(guard.__aexit__(None, None, None))
    await left
    await clock.sleep(100)
    assert counts(recovery)["successes"] == 1
    assert counts(recovery)["failures"] == 0


async def test_the_task_that_entered_is_left_alone_when_the_block_was_left_elsewhere(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It goes on with other work beyond the limit of a block that another task has left."""
    guard = recovery.service("api", timeout=5.0).guard()

    async def enters_and_goes_on() -> str:
        await guard.__aenter__()
        await clock.sleep(50)
        return "undisturbed"

    entering = asyncio.create_task(enters_and_goes_on())
    await clock.sleep(1)
    await asyncio.create_task(guard.__aexit__(None, None, None))
    assert await entering == "undisturbed"
    assert entering.cancelling() == 0


async def test_the_error_of_a_block_left_in_another_task_counts(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """As for an async generator that another task closes."""
    api = recovery.service("api", timeout=5.0)
    guard = api.guard()
    await asyncio.create_task(guard.__aenter__())
    error = ConnectionError("no")
    await asyncio.create_task(guard.__aexit__(ConnectionError, error, None))
    await clock.sleep(100)
    assert counts(recovery)["failures"] == 1


async def test_a_probe_in_a_block_gives_its_place_back(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A half-open circuit lets one block in; cancelled, it lets the next one in."""
    api = recovery.service("api", circuit_threshold=1)
    with pytest.raises(ConnectionError):
        await guarded(api, script(ConnectionError()))
    await clock.sleep(60)
    probing = asyncio.create_task(guarded(api, lambda: clock.sleep(50)))
    await clock.sleep(1)
    with pytest.raises(CircuitOpenError):
        await guarded(api, script("answer"))
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    assert await guarded(api, script("answer")) == "answer"
    assert not recovery.is_circuit_open("api")


# -- attempts ----------------------------------------------------------------------------------------


async def test_attempts_repeat_the_block(recovery: ErrorRecoveryService, script: Script) -> None:
    """With the waits of a call, numbered from 1, until it ends well."""
    fetch = script(ConnectionError(), ConnectionError(), "answer")
    numbers: list[int] = []
    async for attempt in recovery.service("api").attempts():
        numbers.append(attempt.number)
        async with attempt:
            answer = await fetch()
    assert answer == "answer"
    assert numbers == [1, 2, 3]
    assert fetch.times == [0.0, 1.0, 3.0]
    assert recovery.get_service_status("api") is ServiceStatus.OPERATIONAL
    assert counts(recovery)["retries"] == 2


async def test_an_attempt_keeps_its_number(recovery: ErrorRecoveryService, script: Script) -> None:
    """Before, inside and after its block."""
    fetch = script(ConnectionError(), ConnectionError(), "answer")
    before, inside, after = list[int](), list[int](), list[int]()
    async for attempt in recovery.service("api").attempts():
        before.append(attempt.number)
        async with attempt:
            inside.append(attempt.number)
            await fetch()
        after.append(attempt.number)
    assert before == inside == after == [1, 2, 3]


async def test_an_error_that_the_block_handles_itself_is_none(recovery: ErrorRecoveryService) -> None:
    """What does not leave the block did not fail."""
    entered = 0
    async for attempt in recovery.service("api").attempts():
        async with attempt:
            entered += 1
            try:
                raise ConnectionError
            except ConnectionError:
                pass
    assert entered == 1
    assert counts(recovery)["failures"] == 0


async def test_the_last_error_comes_out_of_the_loop_unchanged(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The same object with its own traceback, the attempts on it."""
    errors = [ConnectionError(str(n)) for n in range(3)]
    fetch = script(*errors)
    with pytest.raises(ConnectionError) as raised:
        await repeated(recovery.service("api", max_retries=2), fetch)
    assert raised.value is errors[2]
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert len(attempts_of(errors[2])) == 3
    assert traceback.extract_tb(errors[2].__traceback__)[-1].name == "__call__"
    recent = recovery.get_error_summary()["recent_errors"]
    assert [(one["retry_count"], one["severity"]) for one in recent] == [
        (0, "medium"),
        (1, "medium"),
        (2, "high"),
    ]


async def test_attempts_end_at_once_when_the_circuit_opens(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """With the real error, and no wait after it."""
    fetch = script(ConnectionError("real"))
    with pytest.raises(ConnectionError, match="real"):
        await repeated(recovery.service("api", max_retries=9, circuit_threshold=2), fetch)
    assert fetch.times == [0.0, 1.0]
    with pytest.raises(CircuitOpenError):
        await repeated(recovery.service("api"), fetch)
    assert fetch.calls == 2


async def test_waiting_attempts_end_at_once_when_others_open_the_circuit(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """The real error comes out of the loop, at the moment of the trip."""
    api = recovery.service("api", circuit_threshold=2, base_delay=30.0)
    began = clock.monotonic()
    waiting = asyncio.create_task(repeated(api, script(ConnectionError("real"))))
    await clock.sleep(1)
    with pytest.raises(KeyError):
        await guarded(api, script(KeyError()))
    with pytest.raises(ConnectionError, match="real"):
        await waiting
    assert clock.monotonic() - began == 1.0


async def test_break_and_return_end_the_loop(recovery: ErrorRecoveryService, script: Script) -> None:
    """Both leave the block well: a success."""
    api = recovery.service("api")
    assert await repeated(api, script("answer")) == "answer"
    async for attempt in api.attempts():
        async with attempt:
            break
    assert counts(recovery)["successes"] == 2


async def test_a_break_after_a_failure_ends_the_loop(recovery: ErrorRecoveryService, script: Script) -> None:
    """The user's own decision to stop: nothing is left behind."""
    api = recovery.service("api")
    async for attempt in api.attempts():
        async with attempt:
            await script(ConnectionError())()
        break
    assert counts(recovery)["failures"] == 1
    assert await api.call(script("answer")) == "answer"


async def test_the_deadline_bounds_the_whole_loop(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A wait that would pass it is not begun: the last real error."""
    fetch = script(ConnectionError("real"))
    api = recovery.service("api", deadline=2.5, max_retries=9, circuit_threshold=None)
    with pytest.raises(ConnectionError, match="real"):
        await repeated(api, fetch)
    assert fetch.times == [0.0, 1.0]
    assert clock.monotonic() - fetch.began == 1.0


async def test_each_attempt_has_the_timeout(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Two attempts of 2 s, 1 s between them."""
    began = clock.monotonic()
    with pytest.raises(AttemptTimeoutError):
        await repeated(recovery.service("api", timeout=2.0, max_retries=1), lambda: clock.sleep(50))
    assert clock.monotonic() - began == 5.0


async def test_an_attempt_that_is_not_entered_is_a_mistake(recovery: ErrorRecoveryService) -> None:
    """Said at the next turn, with what to write."""
    with pytest.raises(RuntimeError, match="async with attempt"):
        async for _ in recovery.service("api").attempts():
            pass


async def test_an_attempt_is_entered_once(recovery: ErrorRecoveryService) -> None:
    """A second entry is refused."""
    async for attempt in recovery.service("api").attempts():
        async with attempt:
            pass
        with pytest.raises(RuntimeError, match="entered once"):
            async with attempt:
                raise AssertionError("must not be entered")
    assert counts(recovery)["successes"] == 1


async def test_a_plain_for_is_refused(recovery: ErrorRecoveryService) -> None:
    """With what to write instead."""
    with pytest.raises(TypeError, match="async for attempt in"):  # noqa: PT012 - the loop is what is tested
        for _ in recovery.service("api").attempts():  # the mistake under test
            raise AssertionError("must not be entered")


async def test_each_loop_needs_fresh_attempts(recovery: ErrorRecoveryService) -> None:
    """One object does not run twice."""
    attempts = recovery.service("api").attempts()
    async for attempt in attempts:
        async with attempt:
            pass
    with pytest.raises(RuntimeError, match=r"attempts\(\) anew"):  # noqa: PT012 - the loop is what is tested
        async for _ in attempts:
            raise AssertionError("must not be entered")


async def test_an_unfinished_loop_leaves_nothing_behind(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A loop that is left by an error outside the block holds no probe and marks no retry as running."""
    api = recovery.service("api", circuit_threshold=1)
    with pytest.raises(ConnectionError):
        await guarded(api, script(ConnectionError()))
    await clock.sleep(60)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the loop is what is tested
        async for _attempt in api.attempts():
            raise ZeroDivisionError
    assert await api.call(script("answer")) == "answer"


async def test_two_loops_may_run_at_the_same_time(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """Each counts its own attempts."""
    api = recovery.service("api", circuit_threshold=None, max_retries=2)
    results = await asyncio.gather(
        *(repeated(api, script(ConnectionError(), ConnectionError(), n)) for n in range(20))
    )
    assert results == list(range(20))
    assert counts(recovery)["retries"] == 40


async def test_the_context_in_force_is_that_of_the_block(recovery: ErrorRecoveryService) -> None:
    """What is in force when the block fails fills the record."""
    with recovery.context(order="A1"), pytest.raises(ConnectionError):
        async with recovery.service("api").guard():
            raise ConnectionError
    (record,) = recovery.get_error_summary()["recent_errors"]
    assert record["context"] == {"order": "A1"}

"""Circuits over a restart: what was open stays open for the time that is left, whatever the clock did."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shockproof import CircuitOpened, CircuitOpenError, ErrorRecoveryService, Event, ServiceStatus
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]
Make = Callable[..., ErrorRecoveryService]


@pytest_asyncio.fixture
async def process(clock: VirtualClock, tmp_path: Path) -> AsyncIterator[Make]:
    """`process()`: a recovery service like one of a program that was started anew, on the same directories."""
    made: list[ErrorRecoveryService] = []

    def make(**settings: Any) -> ErrorRecoveryService:
        made.append(ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock, **settings))
        return made[-1]

    yield make
    for service in made:
        await service.aclose()


async def fail(recovery: ErrorRecoveryService, times: int = 1, name: str = "api") -> None:
    async def fails() -> None:
        raise ConnectionError("down")

    for _ in range(times):
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fails, service_name=name, max_retries=0)


def left(recovery: ErrorRecoveryService, name: str = "api") -> float:
    seconds: float = recovery.get_health_status()["services"][name]["retry_after"]
    return seconds


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0.0, 30.0), (-3_600.0, 40.0), (-1e8, 40.0), (5.0, 25.0), (3_600.0, 0.0), (1e8, 0.0), (None, 30.0)],
)
async def test_an_open_circuit_is_open_after_a_restart_for_the_time_that_is_left(
    process: Make, clock: VirtualClock, script: Script, step: float | None, expected: float
) -> None:
    """
    The 10 s between the two processes count; a clock set back counts as none, and nothing makes it longer.

    No step: it is set while the machine runs on, which makes no difference.
    """
    first = process()
    await fail(first, 5)
    await clock.sleep(20)
    assert await first.save_state()
    await clock.sleep(10)
    clock.step_wall(3_600.0 if step is None else step)
    if step is not None:
        clock.boot = "another"
    second = process()
    events: list[Event] = []

    async def heard(event: Event) -> None:
        events.append(event)

    second.on_event(heard)
    assert await second.restore_state() is not None
    assert left(second) == pytest.approx(expected, abs=1e-3)
    assert second.is_circuit_open("api") is (expected > 0)
    fetch = script("answer")
    if expected:
        with pytest.raises(CircuitOpenError, match=r"ConnectionError: down") as refused:
            await second.retry_with_backoff(fetch, service_name="api")
        assert refused.value.retry_after == pytest.approx(expected, abs=1e-3)
    assert second.get_service_status("api") is (
        ServiceStatus.UNAVAILABLE if expected else ServiceStatus.DEGRADED
    )
    await clock.sleep(expected)
    assert second.get_health_status()["circuit_breakers"] == {"api": "half-open"}
    assert await second.retry_with_backoff(fetch, service_name="api") == "answer"
    assert second.get_health_status()["circuit_breakers"] == {"api": "closed"}
    assert second.get_health_status()["services"]["api"]["circuit_trips"] == 0
    (opened,) = [event for event in events if isinstance(event, CircuitOpened)]
    assert opened.last_error == "ConnectionError: down"
    assert opened.retry_after == pytest.approx(expected, abs=1e-3)


async def test_options_that_are_declared_after_restoring_bound_the_time_too(
    process: Make, clock: VirtualClock
) -> None:
    """The order of the two lines in a program makes no difference."""
    first = process()
    await fail(first, 5)
    await first.save_state()
    second = process()
    await second.restore_state()
    assert left(second) == 60.0
    second.service("api", circuit_timeout=10.0)
    assert left(second) == 10.0


async def test_closed_circuits_leave_no_trace_in_the_file(
    process: Make, clock: VirtualClock, tmp_path: Path
) -> None:
    """Counts belong to the process that counted, and a file without open circuits is as it always was."""
    first = process()
    await fail(first, 4)
    await first.save_state()
    saved = json.loads((tmp_path / "state" / "system_state.json").read_text())
    assert "circuit_breakers" not in saved
    second = process()
    await second.restore_state()
    await fail(second, 4)
    assert not second.is_circuit_open("api")


async def test_the_file_shows_open_circuits_to_people(
    process: Make, clock: VirtualClock, tmp_path: Path
) -> None:
    """Beside the five fields, and in what restore_state gives."""
    first = process()
    await fail(first, 5)
    await clock.sleep(20)
    await first.save_state()
    expected = {
        "api": {
            "remaining": 40.0,
            "openings": 1,
            "is_paused": False,
            "last_error": "ConnectionError: down",
            "is_forced_open": False,
            "reason": None,
        }
    }
    saved = json.loads((tmp_path / "state" / "system_state.json").read_text())
    assert saved["circuit_breakers"] == expected
    state = await process().restore_state()
    assert state is not None
    assert state.to_dict()["circuit_breakers"] == expected
    assert state.cached_data == {}


async def test_what_somebody_forced_open_stays_so_over_a_restart(
    process: Make, clock: VirtualClock, script: Script
) -> None:
    """With the reason, whatever time has passed, and over the next restart as well."""
    first = process()
    first.service("api")
    first.set_circuit_mode("api", "forced-open", "maintenance")
    await first.save_state()
    await clock.sleep(1e6)
    second = process()
    await second.restore_state()
    with pytest.raises(CircuitOpenError, match=r"forced open: maintenance"):
        await second.retry_with_backoff(script("answer"), service_name="api")
    await second.save_state()
    third = process()
    third.service("api", circuit_mode="shadow")
    await third.restore_state()
    assert third.is_circuit_open("api")  # by hand, whatever the program declares
    fourth = process()
    await fail(fourth)
    await fourth.restore_state()
    assert fourth.is_circuit_open("api")  # also when it has been called before
    assert fourth.get_service_status("api") is ServiceStatus.UNAVAILABLE
    fourth.service("api", circuit_mode="shadow")
    assert fourth.is_circuit_open("api")
    fourth.set_circuit_mode("api", "normal")
    await fourth.restore_state()
    assert not fourth.is_circuit_open("api")  # by hand as well, and later
    await fourth.save_state(force=True)
    fifth = process()
    await fifth.restore_state()
    assert not fifth.is_circuit_open("api")


@pytest.mark.parametrize("outcome", ["success", "failure"])
async def test_a_service_that_was_called_already_knows_better(
    process: Make, clock: VirtualClock, script: Script, outcome: str
) -> None:
    """What this process has seen is newer than any file."""
    first = process()
    await fail(first, 5)
    await first.save_state()
    second = process()
    if outcome == "success":
        await second.retry_with_backoff(script("answer"), service_name="api")
    else:
        await fail(second)
    await second.restore_state()
    assert second.get_health_status()["circuit_breakers"] == {"api": "closed"}


async def test_a_pause_that_the_venue_asked_for_outlives_a_restart(
    process: Make, clock: VirtualClock
) -> None:
    """A ban of ten minutes is longer than the circuit's own open time, and not over because we restarted."""

    class BannedError(Exception):
        retry_after = 600.0

    async def banned() -> None:
        raise BannedError

    first = process()
    with pytest.raises(BannedError):
        await first.retry_with_backoff(banned, service_name="api")
    assert left(first) == 600.0
    await clock.sleep(100)
    await first.save_state()
    second = process()
    await second.restore_state()
    assert left(second) == 500.0


@pytest.mark.parametrize(
    ("circuits", "complaint"),
    [
        ([1], "the saved circuits were not restored: they are a list"),
        (
            {"api": {"remaining": "soon"}},
            "the saved circuit of service 'api' was not restored: its remaining is 'soon'",
        ),
        ({"": {"remaining": 1.0}}, "the saved circuit of service '' was not restored: '' is no name"),
    ],
)
async def test_what_cannot_be_read_is_logged_and_stops_nothing(
    process: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, circuits: Any, complaint: str
) -> None:
    """Somebody edited the file: the rest is restored all the same."""
    if isinstance(circuits, dict):
        circuits["good"] = {"remaining": 30.0, "openings": 1}
    first = process()
    await first.save_state(cached_data={"AAPL": 150.0})
    path = tmp_path / "state" / "system_state.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "circuit_breakers": circuits, "checksum": None}))
    second = process()
    with caplog.at_level(logging.WARNING, logger="shockproof"):
        state = await second.restore_state()
    assert state is not None
    assert state.cached_data == {"AAPL": 150.0}
    assert complaint in caplog.messages
    assert not second.is_circuit_open("api")
    assert second.is_circuit_open("good") is isinstance(circuits, dict)


async def test_a_cancelled_restoring_opens_nothing(process: Make, clock: VirtualClock) -> None:
    """All or nothing: the circuits follow the file in one step."""
    first = process()
    await fail(first, 5)
    await first.save_state()
    for steps in range(50):
        second = process()
        task = asyncio.create_task(second.restore_state())
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not second.is_circuit_open("api")
    assert steps > 0

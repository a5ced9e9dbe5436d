"""What runs by itself: health checks, and the loop that carries them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, ServiceStatus
from shockproof.calls.periodic import Periodic
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


class Check:
    """A health check that answers what it is told to, and knows when it was asked."""

    def __init__(self, clock: VirtualClock, answer: object = True) -> None:
        self.clock = clock
        self.answer = answer
        self.began = clock.monotonic()
        self.times: list[float] = []

    async def __call__(self) -> object:
        self.times.append(self.clock.monotonic() - self.began)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_health_check_runs_by_itself(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Every check_every seconds, without a call of the user's."""
    check = Check(clock)
    recovery.service("venue", health_check=check, check_every=10.0)
    await clock.sleep(35)
    assert check.times == [10.0, 20.0, 30.0]
    assert recovery.get_service_status("venue") is ServiceStatus.OPERATIONAL


@pytest.mark.parametrize("answer", [False, ConnectionError("down")])
async def test_a_check_that_fails_is_an_error_of_the_service(
    recovery: ErrorRecoveryService, clock: VirtualClock, answer: object
) -> None:
    """An exception or False: recorded, the service is UNAVAILABLE, and the next good check heals it."""
    check = Check(clock, answer)
    recovery.service("venue", health_check=check, check_every=10.0)
    await clock.sleep(11)
    assert recovery.get_service_status("venue") is ServiceStatus.UNAVAILABLE
    assert recovery.get_error_summary()["errors_by_service"] == {"venue": 1}
    check.answer = True
    await clock.sleep(10)
    assert recovery.get_service_status("venue") is ServiceStatus.OPERATIONAL


@pytest.mark.parametrize("answer", [None, 0, "", True])
async def test_only_false_is_a_bad_answer(
    recovery: ErrorRecoveryService, clock: VirtualClock, answer: object
) -> None:
    """A check that returns nothing has found nothing wrong."""
    recovery.service("venue", health_check=Check(clock, answer), check_every=10.0)
    await clock.sleep(11)
    assert recovery.get_service_status("venue") is ServiceStatus.OPERATIONAL
    assert recovery.get_error_summary()["total_errors"] == 0


async def test_failed_checks_open_the_circuit_and_a_good_one_closes_it(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It is the probe when the open time is over: nobody's order has to be."""
    check = Check(clock, ConnectionError("down"))
    recovery.service("venue", health_check=check, check_every=10.0, circuit_threshold=2)
    await clock.sleep(21)
    assert recovery.is_circuit_open("venue")
    check.answer = True
    await clock.sleep(70)
    assert recovery.get_health_status()["circuit_breakers"]["venue"] == "closed"
    assert all(not 20.0 < moment < 80.0 for moment in check.times)


async def test_a_check_is_not_retried(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """The next one comes anyway."""
    check = Check(clock, ConnectionError("down"))
    recovery.service("venue", health_check=check, check_every=10.0, max_retries=5)
    await clock.sleep(11)
    assert check.times == [10.0]


async def test_a_plain_check_works(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """In a thread, as any plain function."""
    asked: list[int] = []

    def check() -> bool:
        asked.append(1)
        return False

    recovery.service("venue", health_check=check, check_every=10.0)
    await clock.sleep(11)
    assert asked == [1]
    assert recovery.get_service_status("venue") is ServiceStatus.UNAVAILABLE


async def test_checks_end_when_the_service_is_closed(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """No task is left behind."""
    check = Check(clock)
    recovery.service("venue", health_check=check, check_every=10.0)
    await clock.sleep(11)
    before = asyncio.all_tasks()
    await recovery.aclose()
    await asyncio.sleep(0)
    await clock.sleep(100)
    assert check.times == [10.0]
    assert asyncio.all_tasks() < before


async def test_checks_declared_outside_a_loop_begin_with_the_first_call_on_each(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """A service made at import time checks on whatever loop the program runs, and on the next one too."""
    import threading

    problems: list[BaseException] = []

    def run() -> None:
        own = VirtualClock()
        recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", clock=own)
        check = Check(own)
        recovery.service("venue", health_check=check, check_every=10.0)

        async def main() -> None:
            await recovery.retry_with_backoff(asyncio.sleep, 0, service_name="other")
            await own.sleep(25)

        try:
            own.run(main())
            assert check.times == [10.0, 20.0]
            own.run(main())
            assert check.times == [10.0, 20.0, 35.0, 45.0]
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            problems.append(error)

    other = threading.Thread(target=run)
    other.start()
    other.join()
    assert problems == []


def periodic(clock: VirtualClock, action: Any, every: float = 10.0, name: str = "test") -> Periodic:
    return Periodic(name, every=lambda: every, action=action, sleep=clock.sleep, on_loop_end=lambda: None)


async def test_an_action_that_fails_is_tried_again(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At its next time; the failure is logged with its name."""
    action = Check(clock, ZeroDivisionError())
    this = periodic(clock, action, name="saving")
    this.ensure()
    await clock.sleep(25)
    this.stop()
    assert action.times == [10.0, 20.0]
    assert caplog.text.count("saving failed") == 2


async def test_it_runs_once_however_often_it_is_ensured(clock: VirtualClock) -> None:
    """ensure() starts no second task."""
    action = Check(clock)
    this = periodic(clock, action)
    for _ in range(5):
        this.ensure()
    await clock.sleep(15)
    this.stop()
    assert action.times == [10.0]


async def test_a_pause_ends_with_the_next_ensure_and_a_stop_never(clock: VirtualClock) -> None:
    """The interval begins anew after a pause."""
    action = Check(clock)
    this = periodic(clock, action)
    this.ensure()
    await clock.sleep(5)
    this.pause()
    await clock.sleep(50)
    this.ensure()
    await clock.sleep(15)
    assert action.times == [65.0]
    this.stop()
    this.ensure()
    await clock.sleep(50)
    assert action.times == [65.0]

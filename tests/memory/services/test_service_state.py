"""What is known about one service: status, counts, and who is told when the circuit opens."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from shockproof import ServiceStatus
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import Circuit, Ticket


def fresh(threshold: int = 1) -> ServiceState:
    return ServiceState("api", Circuit(threshold=threshold, timeout=60.0))


def admitted(state: ServiceState, now: float = 0.0) -> Ticket:
    ticket = state.circuit.admit(now)
    assert ticket is not None
    return ticket


def opened() -> ServiceState:
    state = fresh()
    admitted(state).failed(0.0, "ValueError: no")
    state.circuit_opened()
    return state


def test_a_fresh_service_is_operational() -> None:
    """Nothing is known against it."""
    state = fresh()
    assert state.status_at(0.0) is ServiceStatus.OPERATIONAL
    assert state.entrance.stirred is False


def test_a_final_failure_makes_it_unavailable_and_a_success_operational() -> None:
    """Each is noticed by the next success: the flag is up until then."""
    state = fresh(threshold=5)
    state.failed_for_good()
    assert state.status_at(0.0) is ServiceStatus.UNAVAILABLE
    assert state.entrance.stirred is True
    state.settle(admitted(state), 0.0)
    assert state.status_at(0.0) is ServiceStatus.OPERATIONAL
    assert state.entrance.stirred is False


def test_an_answer_of_the_fallback_makes_it_degraded() -> None:
    """Until the service itself answers."""
    state = fresh()
    state.answered_by_fallback()
    assert state.status_at(0.0) is ServiceStatus.DEGRADED
    assert state.entrance.stirred is True
    assert state.fallbacks == 1
    state.settle(admitted(state), 0.0)
    assert state.status_at(0.0) is ServiceStatus.OPERATIONAL


def test_an_open_circuit_is_unavailable_and_a_half_open_one_degraded() -> None:
    """By the time alone, without a call."""
    state = opened()
    assert state.status_at(59.0) is ServiceStatus.UNAVAILABLE
    assert state.status_at(60.0) is ServiceStatus.DEGRADED


def test_a_fallback_behind_an_open_circuit_is_degraded() -> None:
    """And half-open it is degraded anyway."""
    state = opened()
    state.answered_by_fallback()
    assert state.status_at(59.0) is ServiceStatus.DEGRADED
    assert state.status_at(60.0) is ServiceStatus.DEGRADED


def test_a_trip_after_a_fallbacks_answer_is_unavailable() -> None:
    """The last thing that happened counts."""
    state = fresh()
    state.answered_by_fallback()
    admitted(state).failed(0.0, "ValueError: no")
    state.circuit_opened()
    assert state.status_at(0.0) is ServiceStatus.UNAVAILABLE


def test_a_reset_forgets_the_last_verdict() -> None:
    """Closed and operational."""
    state = opened()
    state.reset(1.0)
    assert state.circuit.state(1.0) == "closed"
    assert state.status_at(1.0) is ServiceStatus.OPERATIONAL


def test_a_success_settles_the_streak() -> None:
    """One failure, one success: the streak is gone."""
    state = fresh(threshold=2)
    admitted(state).failed(0.0, "ValueError: no")
    state.entrance.stirred = True
    state.settle(admitted(state), 0.0)
    admitted(state).failed(0.0, "ValueError: no")
    assert state.circuit.state(0.0) == "closed"


@pytest.mark.parametrize(
    ("leave", "come_back", "count"),
    [
        ("abandon_thread", "thread_came_back", "abandoned_threads"),
        ("abandon_attempt", "attempt_came_back", "abandoned_attempts"),
    ],
)
def test_what_was_left_behind_is_counted_by_all_threads(leave: str, come_back: str, count: str) -> None:
    """None is lost or counted twice, however the threads take turns."""
    state = fresh()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work() -> None:
        for _ in range(500):
            getattr(state, leave)()
            getattr(state, come_back)()
        getattr(state, leave)()

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert getattr(state, count) == 4


@pytest.mark.asyncio
async def test_those_who_wait_are_woken_when_the_circuit_opens() -> None:
    """Also when it is opened in another thread; one whose loop has ended does no harm."""
    state = fresh()
    loop = asyncio.get_running_loop()
    mine: asyncio.Future[None] = loop.create_future()
    ended = asyncio.new_event_loop()
    gone: asyncio.Future[None] = ended.create_future()
    ended.close()
    state.wait_for_opening(mine)
    state.wait_for_opening(gone)
    opener = threading.Thread(target=state.circuit_opened)
    opener.start()
    await mine
    opener.join()
    assert mine.done()
    assert not gone.done()


@pytest.mark.asyncio
async def test_one_who_waits_no_more_is_left_alone() -> None:
    """Cancelled in the same turn in which the circuit opens."""
    state = fresh()
    mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    state.wait_for_opening(mine)
    state.circuit_opened()
    mine.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert mine.cancelled()


def test_a_repr_shows_the_live_state() -> None:
    """For the person debugging at night."""
    shown = repr(fresh())
    assert "'api'" in shown
    assert "operational" in shown
    assert "Circuit closed" in shown

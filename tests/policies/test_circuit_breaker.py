"""The circuit alone: no event loop, time handed in as a number."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from shockproof.policies.circuit_breaker import Admission, Circuit, Ticket
from shockproof.policies.trip_rates import Rates
from tests.policies.told import Told

CAUSE = "ValueError: no"


def admitted(circuit: Circuit, now: float, *, lease: float | None = None) -> Admission:
    ticket = circuit.admit(now, lease=lease)
    assert ticket is not None
    return ticket


def opened(*, timeout: float = 60.0, probes: int = 1, at: float = 0.0) -> Circuit:
    """A circuit that one failure at *at* has opened."""
    circuit = Circuit(threshold=1, timeout=timeout, probes=probes)
    admitted(circuit, at).failed(at, CAUSE)
    assert circuit.state(at) == "open"
    return circuit


# -- closed ------------------------------------------------------------------------------------------


def test_the_threshold_itself_opens() -> None:
    """The fifth failure in a row opens a circuit with threshold 5, and the fourth does not."""
    circuit = Circuit(threshold=5, timeout=60.0)
    states = []
    for now in range(5):
        admitted(circuit, now).failed(now, CAUSE)
        states.append(circuit.state(now))
    assert states == ["closed"] * 4 + ["open"]
    assert circuit.trips == 1
    assert circuit.last_error == CAUSE


def test_a_new_circuit_has_nothing_to_tell() -> None:
    """No error, no reason for its mode, and no lane before somebody opens it."""
    circuit = Circuit(threshold=5, timeout=60.0)
    assert (circuit.last_error, circuit.mode_reason, circuit.entrance.lane) == (None, None, None)


def test_one_success_resets_the_count() -> None:
    """What counts is failures in a row."""
    circuit = Circuit(threshold=2, timeout=60.0)
    for now in range(20):
        admitted(circuit, now).failed(now, CAUSE)
        admitted(circuit, now).succeeded(now)
    assert circuit.state(20) == "closed"


def test_what_is_given_back_without_a_verdict_neither_counts_nor_resets() -> None:
    """A cancelled call is neutral in a closed circuit: the streak stays as it was."""
    circuit = Circuit(threshold=2, timeout=60.0)
    admitted(circuit, 0).failed(0, CAUSE)
    for now in range(10):
        admitted(circuit, now).released()
    assert circuit.state(10) == "closed"
    admitted(circuit, 10).failed(10, CAUSE)
    assert circuit.state(10) == "open"


def test_without_a_threshold_nothing_opens_it() -> None:
    """threshold=None switches the breaker off."""
    circuit = Circuit(threshold=None, timeout=60.0)
    for now in range(1_000):
        admitted(circuit, now).failed(now, CAUSE)
    assert circuit.state(1_000) == "closed"


# -- open --------------------------------------------------------------------------------------------


def test_an_open_circuit_refuses_until_its_timeout_has_passed() -> None:
    """Refused up to the last instant, with the seconds that are left."""
    circuit = opened(timeout=60.0, at=100.0)
    assert circuit.admit(100.0) is None
    assert circuit.admit(159.999) is None
    assert circuit.open_for(130.0) == 30.0


def test_an_open_circuit_is_half_open_as_soon_as_its_timeout_has_passed() -> None:
    """It needs no call to be seen as half-open."""
    circuit = opened(timeout=60.0, at=100.0)
    assert circuit.state(159.999) == "open"
    assert circuit.state(160.0) == "half-open"
    assert circuit.open_for(160.0) == 0.0


def test_a_late_failure_does_not_prolong_the_open_time() -> None:
    """A call from before the trip that fails afterwards changes nothing."""
    circuit = Circuit(threshold=1, timeout=60.0)
    early, late = admitted(circuit, 0), admitted(circuit, 0)
    early.failed(0, CAUSE)
    late.failed(50, "KeyError: late")
    assert circuit.state(60.0) == "half-open"
    assert circuit.trips == 1
    assert circuit.last_error == CAUSE


def test_a_late_success_does_not_close_an_open_circuit() -> None:
    """A call from before the trip that succeeds afterwards changes nothing."""
    circuit = Circuit(threshold=1, timeout=60.0)
    early, late = admitted(circuit, 0), admitted(circuit, 0)
    early.failed(0, CAUSE)
    late.succeeded(1)
    assert circuit.state(1) == "open"


# -- half-open ---------------------------------------------------------------------------------------


def test_only_as_many_probes_as_configured_are_in_flight() -> None:
    """However many callers arrive at a half-open circuit, the rest is refused at once."""
    circuit = opened(probes=3)
    assert [circuit.admit(60.0) is not None for _ in range(10)] == [True] * 3 + [False] * 7


def test_as_many_successes_as_probes_close_it() -> None:
    """With two probes the first success does not close it yet."""
    circuit = opened(probes=2)
    first, second = admitted(circuit, 60.0), admitted(circuit, 60.0)
    first.succeeded(61.0)
    assert circuit.state(61.0) == "half-open"
    second.succeeded(61.0)
    assert circuit.state(61.0) == "closed"


def test_one_failed_probe_opens_it_again_for_the_whole_timeout() -> None:
    """The open time starts anew at the failure."""
    circuit = opened(timeout=60.0, probes=2)
    admitted(circuit, 60.0).succeeded(60.0)
    admitted(circuit, 61.0).failed(70.0, "KeyError: again")
    assert circuit.state(129.9) == "open"
    assert circuit.state(130.0) == "half-open"
    assert circuit.last_error == "KeyError: again"


def test_a_round_that_cannot_close_any_more_ends_at_once() -> None:
    """With three probes out the first failure decides: nobody waits for the others, and they decide nothing."""
    for others in ("succeeded", "failed"):
        circuit = opened(timeout=60.0, probes=3)
        first, second, third = (admitted(circuit, 60.0) for _ in range(3))
        first.succeeded(61.0)
        second.failed(62.0, "KeyError: again")
        assert circuit.state(62.0) == "open"
        assert circuit.open_for(62.0) == 60.0
        if others == "succeeded":
            third.succeeded(63.0)
        else:
            third.failed(63.0, CAUSE)
        assert circuit.open_for(63.0) == 59.0
        assert circuit.trips == 2
        assert circuit.last_error == "KeyError: again"


def test_a_round_closes_although_a_probe_lost_its_lease() -> None:
    """The lost one is no verdict, and another takes its place: the round can still close."""
    circuit = opened(probes=2)
    admitted(circuit, 60.0, lease=5.0)
    admitted(circuit, 60.0).succeeded(61.0)
    admitted(circuit, 65.0).succeeded(65.0)
    assert circuit.state(65.0) == "closed"


def test_successes_of_an_earlier_round_do_not_count() -> None:
    """Each half-open period counts from zero."""
    circuit = opened(timeout=60.0, probes=2)
    admitted(circuit, 60.0).succeeded(60.0)
    admitted(circuit, 60.0).failed(60.0, CAUSE)
    admitted(circuit, 120.0).succeeded(120.0)
    assert circuit.state(120.0) == "half-open"


def test_a_probe_without_a_verdict_gives_its_place_back() -> None:
    """A cancelled probe neither opens nor closes, and the next caller is let in at once."""
    circuit = opened()
    admitted(circuit, 60.0).released()
    assert circuit.state(60.0) == "half-open"
    assert circuit.admit(60.0) is not None


def test_a_place_is_given_back_exactly_once() -> None:
    """Giving back twice does not free the place of somebody else."""
    circuit = opened()
    first = admitted(circuit, 60.0)
    first.released()
    admitted(circuit, 60.0)
    first.released()
    assert circuit.admit(60.0) is None


def test_a_probe_that_never_ends_loses_its_place() -> None:
    """After its lease the next caller is let in: a hung probe does not wedge the circuit."""
    circuit = opened()
    admitted(circuit, 60.0, lease=5.0)
    assert circuit.admit(64.9) is None
    assert circuit.admit(65.0) is not None


def test_the_lease_is_the_open_time_unless_said_otherwise() -> None:
    """Without a lease of its own a probe keeps its place as long as the circuit stays open."""
    circuit = opened(timeout=60.0)
    admitted(circuit, 60.0)
    assert circuit.admit(119.9) is None
    assert circuit.admit(120.0) is not None


@pytest.mark.parametrize("place_is_taken", [False, True])
def test_the_answer_of_a_probe_without_lease_is_no_verdict(place_is_taken: bool) -> None:
    """Whether or not somebody took its place: late it neither opens nor closes."""
    circuit = opened()
    slow, slower = admitted(circuit, 60.0, lease=5.0), None
    if place_is_taken:
        slower = circuit.admit(65.0, lease=5.0)
        assert slower is not None
    slow.succeeded(66.0)
    assert circuit.state(66.0) == "half-open"
    assert (circuit.admit(66.0) is None) is place_is_taken
    circuit = opened()
    slow = admitted(circuit, 60.0, lease=5.0)
    slow.failed(66.0, "KeyError: late")
    assert circuit.state(66.0) == "half-open"
    assert circuit.last_error == CAUSE


def test_the_answer_of_an_earlier_round_changes_nothing() -> None:
    """A probe of the first round that answers in the second is not heard."""
    for late_answer_is_good in (True, False):
        circuit = opened(probes=2)
        early = admitted(circuit, 60.0, lease=1_000.0)
        admitted(circuit, 60.0).failed(60.0, CAUSE)  # the round is over
        second = admitted(circuit, 120.0)
        if late_answer_is_good:
            early.succeeded(121.0)
        else:
            early.failed(121.0, "KeyError: early")
        assert circuit.state(121.0) == "half-open"
        second.succeeded(121.0)
        assert circuit.state(121.0) == "half-open"  # one of two


def test_a_probe_of_an_earlier_round_still_takes_its_place() -> None:
    """Never more probes in flight than configured: one that is still out counts until its lease ends."""
    circuit = opened(probes=2)
    admitted(circuit, 60.0, lease=100.0)
    admitted(circuit, 60.0).failed(60.0, CAUSE)  # the round is over, its other probe still out
    second = admitted(circuit, 120.0, lease=100.0)
    assert circuit.admit(120.0) is None
    second.released()
    admitted(circuit, 120.0, lease=100.0)
    assert circuit.admit(159.0) is None
    assert circuit.admit(160.0) is not None


@pytest.mark.parametrize("verb", ["succeeded", "failed", "released"])
def test_a_probe_of_an_earlier_round_gives_its_place_back_when_it_ends(verb: str) -> None:
    """Whatever its answer: it is no verdict, and the place is free."""
    circuit = opened(probes=2)
    early = admitted(circuit, 60.0, lease=1_000.0)
    admitted(circuit, 60.0).failed(60.0, CAUSE)
    admitted(circuit, 120.0)
    assert circuit.admit(120.0) is None
    ends: dict[str, Callable[[], None]] = {
        "succeeded": lambda: early.succeeded(121.0),
        "failed": lambda: early.failed(121.0, CAUSE),
        "released": early.released,
    }
    ends[verb]()
    assert circuit.admit(121.0) is not None
    assert circuit.state(121.0) == "half-open"


def test_the_answer_of_an_old_probe_does_not_touch_a_closed_circuit() -> None:
    """A probe's failure that comes after others closed the circuit counts nowhere."""
    circuit = opened(probes=2)
    slow = admitted(circuit, 60.0)
    for _ in range(2):
        admitted(circuit, 60.0).succeeded(60.0)
    assert circuit.state(60.0) == "closed"
    slow.failed(61.0, "KeyError: late")
    assert circuit.state(61.0) == "closed"
    assert repr(circuit) == "<Circuit closed, 0 of 1 failures in a row>"


def test_the_answer_from_before_the_trip_does_not_decide_a_half_open_circuit() -> None:
    """Neither a late success nor a late failure of the closed period is a probe's verdict."""
    circuit = Circuit(threshold=1, timeout=60.0)
    good, bad, trip = admitted(circuit, 0), admitted(circuit, 0), admitted(circuit, 0)
    trip.failed(0, CAUSE)
    probe = admitted(circuit, 60.0)
    good.succeeded(61.0)
    assert circuit.state(61.0) == "half-open"
    bad.failed(61.0, "KeyError: late")
    assert circuit.state(61.0) == "half-open"
    probe.succeeded(62.0)
    assert circuit.state(62.0) == "closed"


def test_a_slow_answer_from_before_the_trip_does_not_open_the_next_period() -> None:
    """Neither as a slow success nor as a failure: rates count what belongs to their own period."""
    circuit = Circuit(threshold=None, timeout=60.0)
    circuit.watch(Rates(slow_call_after=1.0, slow_call_rate=0.5, failure_rate=0.5, min_calls=2))
    late = [admitted(circuit, 0.0) for _ in range(6)]
    for _ in range(2):
        admitted(circuit, 0.0).failed(0.0, CAUSE, 0.1)
    assert circuit.state(0.0) == "open"
    admitted(circuit, 60.0).succeeded(60.0, 0.1)
    assert circuit.state(60.0) == "closed"
    for ticket in late[:3]:
        ticket.succeeded(60.0, 60.0)
    for ticket in late[3:]:
        ticket.failed(60.0, CAUSE, 60.0)
    assert circuit.state(60.0) == "closed"
    assert circuit.trips == 1


def test_the_answer_of_an_earlier_closed_period_does_not_count_in_the_next() -> None:
    """After a trip and a recovery the streak begins at zero, and old failures are not added."""
    circuit = Circuit(threshold=2, timeout=60.0)
    old = [admitted(circuit, 0) for _ in range(4)]
    old.pop().failed(0, CAUSE)
    old.pop().failed(0, CAUSE)
    admitted(circuit, 60.0).succeeded(60.0)
    for ticket in old:
        ticket.failed(61.0, "KeyError: late")
    assert circuit.state(61.0) == "closed"


# -- overdue -----------------------------------------------------------------------------------------


def test_a_call_that_is_overdue_counts_as_a_failure_with_its_age_as_duration() -> None:
    """In a row, and in the rates, as failed and as slow."""
    circuit = Circuit(threshold=2, timeout=60.0)
    for now in (5.0, 6.0):
        admitted(circuit, 0.0).overdue(now, "it hangs", 5.0)
    assert circuit.open_for(6.0) == 60.0
    assert circuit.last_error == "it hangs"
    circuit = Circuit(threshold=None, timeout=60.0)
    circuit.watch(Rates(slow_call_after=4.0, slow_call_rate=1.0, min_calls=1))
    admitted(circuit, 0.0).overdue(5.0, "it hangs", 5.0)
    assert circuit.state(5.0) == "open"


def test_a_probe_that_is_overdue_opens_the_circuit_and_keeps_its_place_until_it_ends() -> None:
    """It is in flight: two probes of which one hangs are one probe in the next round."""
    circuit = opened(probes=2)
    hung = admitted(circuit, 60.0, lease=1_000.0)
    hung.overdue(65.0, "it hangs", 5.0)
    assert circuit.open_for(65.0) == 60.0
    assert circuit.last_error == "it hangs"
    admitted(circuit, 125.0, lease=1_000.0)
    assert circuit.admit(125.0) is None
    hung.released()
    assert circuit.admit(125.0) is not None


def test_a_probe_of_an_earlier_round_that_is_overdue_decides_nothing_and_keeps_its_place() -> None:
    """Its round is over, but it is in flight."""
    circuit = opened(probes=2)
    hung = admitted(circuit, 60.0, lease=1_000.0)
    admitted(circuit, 60.0).failed(61.0, CAUSE)
    hung.overdue(65.0, "it hangs", 5.0)
    assert circuit.trips == 2
    admitted(circuit, 121.0)
    assert circuit.admit(121.0) is None


def test_a_probe_that_has_lost_its_lease_is_not_overdue_as_well() -> None:
    """The lease ended first, and that was no verdict."""
    circuit = opened()
    hung = admitted(circuit, 60.0, lease=5.0)
    hung.overdue(65.0, "it hangs", 5.0)
    assert circuit.state(65.0) == "half-open"


# -- by hand -----------------------------------------------------------------------------------------


def test_a_reset_closes_and_forgets() -> None:
    """Closed again, with no failure counted and no last error."""
    circuit = Circuit(threshold=2, timeout=60.0)
    admitted(circuit, 0).failed(0, CAUSE)
    assert circuit.reset(0) is False
    admitted(circuit, 1).failed(1, CAUSE)
    assert circuit.state(1) == "closed"
    admitted(circuit, 1).failed(1, CAUSE)
    assert circuit.reset(2) is True
    assert circuit.state(2) == "closed"
    assert circuit.last_error is None


def test_a_probe_from_before_a_reset_decides_nothing() -> None:
    """Reset while a probe is out: its failure does not open the circuit again."""
    circuit = opened()
    probe = admitted(circuit, 60.0)
    circuit.reset(61.0)
    probe.failed(62.0, CAUSE)
    assert circuit.state(62.0) == "closed"


def test_transitions_are_told_in_order_and_once() -> None:
    """open, half-open, open, half-open, closed: each with its time."""
    told: list[tuple[str, float]] = []
    circuit = Circuit(threshold=1, timeout=60.0, probes=2)
    circuit.observer = Told(lambda state, now: told.append((state, now)))
    late = admitted(circuit, 0.0)
    admitted(circuit, 0.0).failed(0.0, CAUSE)
    late.failed(1.0, CAUSE)
    admitted(circuit, 60.0).failed(61.0, CAUSE)
    for _ in range(2):
        admitted(circuit, 121.0).succeeded(122.0)
    admitted(circuit, 122.0).succeeded(122.0)
    assert told == [
        ("open", 0.0),
        ("half-open", 60.0),
        ("open", 61.0),
        ("half-open", 121.0),
        ("closed", 122.0),
    ]


def test_a_lane_that_nobody_opened_stays_closed_when_the_circuit_closes() -> None:
    """The short way is open only when somebody says so, and then again after each recovery."""
    for is_open in (False, True):
        circuit = opened()
        if is_open:
            circuit.open_lane(is_open=True)
        assert circuit.entrance.lane is None
        admitted(circuit, 60.0).succeeded(60.0)
        assert circuit.state(60.0) == "closed"
        assert (circuit.entrance.lane is circuit.closed) is is_open


def test_the_first_period_is_the_entrance_and_decides_nothing_in_a_later_one() -> None:
    """Two objects would be two waits for memory among many services; what is counted there of a period ends with it."""
    circuit = Circuit(threshold=2, timeout=60.0)
    first, entrance = admitted(circuit, 0.0), circuit.entrance
    assert first is entrance
    first.failed(0.0, CAUSE)
    first.failed(0.0, CAUSE)
    assert circuit.state(0.0) == "open"
    admitted(circuit, 60.0).succeeded(60.0)
    assert circuit.closed is not entrance is circuit.entrance

    first.failed(61.0, CAUSE)
    first.failed(61.0, CAUSE)
    assert circuit.state(61.0) == "closed"
    admitted(circuit, 61.0).failed(61.0, CAUSE)
    first.succeeded(61.0)
    admitted(circuit, 61.0).failed(61.0, CAUSE)
    assert circuit.state(61.0) == "open"


def test_a_lane_that_is_closed_sends_everybody_the_long_way() -> None:
    """A service that gets a limit or a listener at run time asks for each call again."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.open_lane(is_open=True)
    assert circuit.entrance.lane is circuit.closed is not None
    circuit.open_lane(is_open=False)
    assert circuit.entrance.lane is None
    assert circuit.closed is not None


def test_a_probe_that_decides_nothing_is_not_told() -> None:
    """One that lost its lease, and one of two that have to succeed, close nothing."""
    told: list[tuple[str, float]] = []
    circuit = opened(probes=2)
    late, first = admitted(circuit, 60.0, lease=1.0), admitted(circuit, 60.0)
    circuit.observer = Told(lambda state, now: told.append((state, now)))
    late.succeeded(62.0)
    first.succeeded(62.0)
    assert circuit.state(62.0) == "half-open"
    assert told == []


def test_a_call_whose_duration_is_not_told_is_not_slow() -> None:
    """Whoever has nothing to measure need not invent a time."""
    circuit = Circuit(threshold=None, timeout=60.0)
    circuit.watch(Rates(slow_call_after=0.5, slow_call_rate=0.5, min_calls=2))
    for _ in range(4):
        admitted(circuit, 0.0).succeeded(0.0)
        admitted(circuit, 0.0).failed(0.0, CAUSE)
    assert circuit.state(0.0) == "closed"


def test_a_reset_is_told_when_it_closes_something() -> None:
    """Whoever reset it knows; whoever watches it learns it here, and hears nothing of a reset that changed nothing."""
    told: list[tuple[str, float]] = []
    circuit = opened(at=5.0)
    circuit.observer = Told(lambda state, now: told.append((state, now)))
    circuit.reset(7.0)
    circuit.reset(8.0)
    assert told == [("closed", 7.0)]


def test_a_trip_by_slow_successes_is_told_once_with_its_cause() -> None:
    """The success that opens it is told like a failure that does, and a later one of that period is not."""
    told: list[tuple[str, float]] = []
    circuit = Circuit(threshold=None, timeout=60.0)
    circuit.watch(Rates(slow_call_after=1.0, slow_call_rate=1.0, min_calls=2))
    circuit.observer = Told(lambda state, now: told.append((state, now)))
    tickets = [admitted(circuit, 0.0) for _ in range(3)]
    for now, ticket in enumerate(tickets, 2):
        ticket.succeeded(now, 1.5)
    assert told == [("open", 3)]
    assert circuit.last_error == "too many calls were slow"


def test_no_lock_is_held_while_a_transition_is_told() -> None:
    """Whoever is told may ask, admit and reset."""
    asked: list[object] = []
    circuit = Circuit(threshold=1, timeout=60.0)

    def told(state: str, now: float) -> None:
        other = threading.Thread(target=lambda: asked.append((state, circuit.state(now), circuit.admit(now))))
        other.start()
        other.join()

    circuit.observer = Told(told)
    admitted(circuit, 0.0).failed(0.0, CAUSE)
    admitted(circuit, 60.0).succeeded(60.0)
    circuit.reset(61.0)
    assert [one[:2] for one in asked if isinstance(one, tuple)] == [
        ("open", "open"),
        ("half-open", "half-open"),
        ("closed", "closed"),
    ]


def test_a_repr_shows_the_live_state() -> None:
    """What a person sees at night: the streak, the open time, the probes."""
    circuit = Circuit(threshold=1, timeout=60.0, probes=2)
    assert repr(circuit) == "<Circuit closed, 0 of 1 failures in a row>"
    admitted(circuit, 5.0).failed(5.0, CAUSE)
    assert "open since 5.000 for 60 s" in repr(circuit)
    admitted(circuit, 65.0)
    assert repr(circuit) == "<Circuit half-open, 1 probing, 0 of 2 succeeded>"


# -- threads -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_eager_switching")
def test_threads_that_rush_at_a_half_open_circuit_get_no_more_places_than_there_are() -> None:
    """Eight threads ask at once, round after round: two are let in each time."""
    circuit = opened(probes=2)
    rounds, threads = 100, 8
    barrier = threading.Barrier(threads)
    got: list[list[Ticket]] = [[] for _ in range(rounds)]

    def rush() -> None:
        for taken in got:
            barrier.wait()
            ticket = circuit.admit(60.0)
            if ticket is not None:
                taken.append(ticket)
            if barrier.wait() == 0:
                for one in taken:
                    one.released()
            barrier.wait()

    workers = [threading.Thread(target=rush) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [len(taken) for taken in got] == [2] * rounds


@pytest.mark.usefixtures("_eager_switching")
def test_failures_of_several_threads_are_all_counted() -> None:
    """None is lost between two threads: the circuit opens exactly at the threshold."""
    circuit = Circuit(threshold=4_000, timeout=60.0)

    def fail() -> None:
        for _ in range(1_000):
            ticket = circuit.admit(0.0)
            if ticket is not None:
                ticket.failed(0.0, CAUSE)

    workers = [threading.Thread(target=fail) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert circuit.state(0.0) == "open"

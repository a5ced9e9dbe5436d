"""A circuit that is held open, switched off, or only watches."""

from __future__ import annotations

import math

import pytest

from shockproof.policies.circuit_breaker import PASS_THROUGH, Circuit, CircuitState
from shockproof.policies.trip_rates import Rates
from shockproof.vocabulary.statuses import CircuitMode
from tests.policies.told import Told

CAUSE = "ValueError: no"
NEWS = list[tuple[CircuitState, float]]


def fail(circuit: Circuit, now: float, times: int = 1) -> None:
    for _ in range(times):
        ticket = circuit.admit(now)
        assert ticket is not None
        ticket.failed(now, CAUSE)


def watched(circuit: Circuit) -> tuple[NEWS, list[float]]:
    """What it tells of transitions, and of those that would have been."""
    told, would = NEWS(), list[float]()
    circuit.observer = Told(lambda state, now: told.append((state, now)), would.append)
    return told, would


# -- forced open -----------------------------------------------------------------------------------------


def test_a_circuit_that_is_forced_open_refuses_for_ever() -> None:
    """No time, no success and no reset closes it."""
    circuit = Circuit(threshold=1, timeout=60.0)
    early = circuit.admit(0.0)
    assert early is not None
    assert circuit.mode_is_by_hand is False
    assert circuit.set_mode("forced-open", "maintenance") == "normal"
    assert circuit.mode_is_by_hand is True
    early.succeeded(1.0)
    for now in (0.0, 60.0, 1e9):
        assert circuit.admit(now) is None
        assert circuit.state(now) == circuit.state_by_rules(now) == "open"
        assert circuit.open_for(now) == circuit.open_by_rules_for(now) == math.inf
        assert circuit.reset(now) is False
    assert circuit.mode_reason == "maintenance"
    assert circuit.trips == 0


def test_a_forced_open_circuit_has_no_lane() -> None:
    """The healthy path must not pass it either, also when its lane is opened meanwhile."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.open_lane(is_open=True)
    assert circuit.entrance.lane is circuit.closed is not None
    circuit.set_mode("forced-open")
    assert circuit.entrance.lane is None
    circuit.open_lane(is_open=True)
    assert circuit.entrance.lane is None
    circuit.set_mode("normal")
    assert circuit.entrance.lane is circuit.closed is not None


def test_a_forced_open_circuit_is_neither_paused_nor_told_of() -> None:
    """What somebody holds open has no end that a header could move, and is no transition."""
    circuit = Circuit(threshold=1, timeout=60.0)
    told, would = watched(circuit)
    circuit.set_mode("forced-open")
    circuit.pause(0.0, 5.0, "429")
    circuit.reset(1.0)
    assert circuit.open_for(10.0) == math.inf
    assert (told, would) == ([], [])


def test_a_circuit_that_is_let_go_begins_closed_with_nothing_counted() -> None:
    """Neither the failures from before nor calls that were in flight open it."""
    circuit = Circuit(threshold=2, timeout=60.0)
    fail(circuit, 0.0)
    late = circuit.admit(0.0)
    assert late is not None
    circuit.set_mode("forced-open")
    assert circuit.set_mode("normal") == "forced-open"
    assert circuit.state(0.0) == "closed"
    late.failed(0.0, CAUSE)
    fail(circuit, 0.0)
    assert circuit.state(0.0) == "closed"
    fail(circuit, 0.0)
    assert circuit.state(0.0) == "open"


def test_a_probe_from_before_it_was_forced_open_decides_nothing() -> None:
    """Neither its success nor its failure, before it is let go or after."""
    for ends in ("succeeded", "failed"):
        circuit = Circuit(threshold=1, timeout=60.0)
        fail(circuit, 0.0)
        probe = circuit.admit(60.0)
        assert probe is not None
        circuit.set_mode("forced-open")
        if ends == "succeeded":
            probe.succeeded(61.0)
        else:
            probe.failed(61.0, CAUSE)
        assert circuit.open_for(61.0) == math.inf
        circuit.set_mode("normal")
        assert circuit.state(61.0) == "closed"


# -- switched off -----------------------------------------------------------------------------------------


def test_a_disabled_circuit_counts_nothing_and_never_opens() -> None:
    """Everybody passes, and what they say is not heard."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.watch(Rates(failure_rate=0.1, min_calls=1))
    circuit.open_lane(is_open=True)
    assert circuit.set_mode("disabled") == "normal"
    assert circuit.entrance.lane is PASS_THROUGH
    for now in range(100):
        fail(circuit, now)
    circuit.pause(100.0, 50.0, "429")
    assert circuit.state(100.0) == "closed"
    assert circuit.open_for(100.0) == 0.0
    assert circuit.trips == 0
    assert repr(circuit) == "<Circuit disabled>"


@pytest.mark.parametrize("change", ["reset", "watch"])
def test_a_disabled_circuit_stays_so_through_a_reset_and_other_rates(change: str) -> None:
    """Only another mode makes it count again."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.set_mode("disabled")
    if change == "reset":
        circuit.reset(0.0)
    else:
        circuit.watch(Rates(failure_rate=0.1, min_calls=1))
    fail(circuit, 0.0, 10)
    assert circuit.state(0.0) == "closed"
    circuit.set_mode("normal")
    fail(circuit, 0.0)
    assert circuit.state(0.0) == "open"


def test_an_open_circuit_that_is_disabled_lets_everybody_pass_at_once() -> None:
    """Whoever switches it off wants calls to go through now."""
    circuit = Circuit(threshold=1, timeout=60.0)
    fail(circuit, 0.0)
    circuit.set_mode("disabled")
    assert circuit.admit(1.0) is PASS_THROUGH
    assert circuit.last_error is None


# -- only watching -------------------------------------------------------------------------------------------


def test_a_shadow_never_refuses_and_counts_what_it_would_have_refused() -> None:
    """It opens, half-opens, reopens and closes by its rules, and nobody notices."""
    circuit = Circuit(threshold=2, timeout=60.0)
    told, would = watched(circuit)
    circuit.set_mode("shadow")
    fail(circuit, 0.0, 2)
    assert circuit.state_by_rules(0.0) == "open"
    assert circuit.open_by_rules_for(10.0) == 50.0
    for now in (0.0, 59.9):
        passed = circuit.admit(now)
        assert passed is PASS_THROUGH
        passed.succeeded(now)
    assert circuit.state_by_rules(60.0) == "half-open"
    probe = circuit.admit(60.0)
    assert probe is not PASS_THROUGH
    assert circuit.admit(60.0) is PASS_THROUGH  # beside the one probe
    assert probe is not None
    probe.failed(61.0, CAUSE)
    assert circuit.open_by_rules_for(61.0) == 60.0
    for now in (0.0, 61.0, 121.0):
        assert circuit.state(now) == "closed"
        assert circuit.open_for(now) == 0.0
    second = circuit.admit(121.0)
    assert second is not None
    second.succeeded(121.0)
    assert circuit.state_by_rules(121.0) == "closed"
    assert circuit.shadow_refusals == 3
    assert circuit.shadow_trips == 2
    assert circuit.trips == 0
    assert told == []
    assert would == [0.0, 61.0]


def test_what_a_shadow_let_pass_decides_nothing() -> None:
    """A working breaker would not have seen those calls: they must not close it, nor open it again."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.set_mode("shadow")
    fail(circuit, 0.0)
    for now in (1.0, 2.0):
        fail(circuit, now)
        passed = circuit.admit(now)
        assert passed is not None
        passed.succeeded(now)
    assert circuit.open_by_rules_for(2.0) == 58.0
    assert circuit.shadow_trips == 1


def test_a_shadow_pauses_as_if_it_worked() -> None:
    """What the other side asks for would have been heard."""
    circuit = Circuit(threshold=1, timeout=60.0)
    told, would = watched(circuit)
    circuit.set_mode("shadow")
    circuit.pause(0.0, 300.0, "429")
    assert circuit.open_by_rules_for(0.0) == 300.0
    assert circuit.admit(0.0) is PASS_THROUGH
    assert (told, would) == ([], [0.0])


def test_a_shadow_without_anybody_to_tell_works_as_well() -> None:
    """Nobody has to listen."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.set_mode("shadow")
    fail(circuit, 0.0)
    assert circuit.shadow_trips == 1


def test_a_shadow_that_becomes_a_breaker_begins_closed() -> None:
    """It was only counting: the first call after the change is not refused for what happened before it."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.set_mode("shadow")
    fail(circuit, 0.0)
    assert circuit.admit(0.0) is PASS_THROUGH
    assert circuit.set_mode("normal") == "shadow"
    assert circuit.state(0.0) == "closed"
    assert (circuit.shadow_trips, circuit.shadow_refusals) == (0, 0)
    fail(circuit, 0.0)
    assert circuit.admit(0.0) is None
    assert circuit.trips == 1


def test_an_open_circuit_that_only_watches_from_now_on_lets_everybody_pass() -> None:
    """And its probes from before decide nothing."""
    circuit = Circuit(threshold=1, timeout=60.0)
    fail(circuit, 0.0)
    probe = circuit.admit(60.0)
    assert probe is not None
    circuit.set_mode("shadow")
    assert circuit.state_by_rules(60.0) == "closed"
    probe.failed(60.0, CAUSE)
    assert circuit.state_by_rules(60.0) == "closed"


# -- all of them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["normal", "forced-open", "disabled", "shadow"])
def test_the_same_mode_again_changes_nothing_but_the_reason(mode: CircuitMode) -> None:
    """Saying it twice does not forget what was counted."""
    circuit = Circuit(threshold=2, timeout=60.0)
    circuit.set_mode(mode, "first")
    before = circuit.closed
    assert circuit.set_mode(mode, "second") is None
    assert circuit.closed is before
    assert (circuit.mode, circuit.mode_reason) == (mode, "second")


def test_a_change_of_the_mode_forgets_how_often_it_opened_in_a_row() -> None:
    """The open time begins anew with the timeout."""
    from shockproof.policies.open_time import OpenTime

    circuit = Circuit(threshold=1, timeout=10.0)
    circuit.open_time = OpenTime(factor=2.0)
    fail(circuit, 0.0)
    fail(circuit, 10.0)
    assert circuit.open_for(10.0) == 20.0
    circuit.set_mode("disabled")
    circuit.set_mode("normal")
    fail(circuit, 10.0)
    assert circuit.open_for(10.0) == 10.0


def test_a_repr_names_the_mode() -> None:
    """What a person sees at night says that it was somebody."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.set_mode("forced-open")
    assert repr(circuit) == "<Circuit forced-open>"
    circuit.set_mode("shadow")
    assert repr(circuit) == "<Circuit shadow closed, 0 of 1 failures in a row>"
    fail(circuit, 5.0)
    assert repr(circuit) == "<Circuit shadow open since 5.000 for 60 s>"
    circuit.admit(65.0)
    assert repr(circuit) == "<Circuit shadow half-open, 1 probing, 0 of 1 succeeded>"


# -- between circuits ------------------------------------------------------------------------------------


def test_what_becomes_of_one_circuit_is_nothing_to_another() -> None:
    """They share what those have in common that have never opened, and each has its own from its first outage on."""
    modes: list[CircuitMode] = ["forced-open", "shadow", "disabled", "normal"]
    one = Circuit(threshold=1, timeout=60.0, probes=2)
    for mode in modes:
        one.set_mode(mode)
        one.reset(0.0)
        one.pause(0.0, 5.0, "429")
        for now in (0.0, 10.0, 70.0, 200.0):
            ticket = one.admit(now)
            if ticket is not None:
                ticket.failed(now, CAUSE)
    assert one.trips
    other, fresh = Circuit(threshold=1, timeout=60.0), Circuit(threshold=1, timeout=60.0)
    assert (other.trips, other.probing, other.mode, other.probes) == (0, 0, "normal", 1)
    fail(other, 7.0)
    assert (other.open_for(8.0), other.state(67.0), fresh.trips) == (59.0, "half-open", 0)

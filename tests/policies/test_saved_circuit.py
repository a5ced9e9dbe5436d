"""A circuit over a restart: open for what is left of its time, whatever the clocks did."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.circuit_breaker import Circuit, CircuitState
from shockproof.policies.open_time import OpenTime
from shockproof.policies.saved_circuit import SavedCircuit
from shockproof.policies.trip_rates import Rates
from tests.policies.told import Told

CAUSE = "ValueError: no"
WEEK = 7 * 86_400.0


def fail(circuit: Circuit, now: float) -> None:
    ticket = circuit.admit(now)
    assert ticket is not None
    ticket.failed(now, CAUSE)


def opened(*, timeout: float = 60.0, at: float = 0.0) -> Circuit:
    circuit = Circuit(threshold=1, timeout=timeout)
    fail(circuit, at)
    return circuit


def exported(circuit: Circuit, now: float) -> SavedCircuit:
    saved = circuit.export(now)
    assert saved is not None
    return SavedCircuit.from_dict(json.loads(json.dumps(saved.to_dict())))


# -- what is saved ---------------------------------------------------------------------------------------


def test_a_closed_circuit_leaves_nothing_behind() -> None:
    """Its counts are what this process saw, and stale in the next."""
    circuit = Circuit(threshold=3, timeout=60.0)
    fail(circuit, 0.0)
    assert circuit.export(0.0) is None


def test_an_open_circuit_leaves_its_remaining_time() -> None:
    """A length, no moment: no clock of one process means anything in the next."""
    assert opened().export(20.0) == SavedCircuit(40.0, 1, is_paused=False, last_error=CAUSE)


def test_a_half_open_circuit_leaves_no_time() -> None:
    """Whether its probe is out or nobody came yet: the next process has to ask."""
    circuit = opened()
    assert exported(circuit, 70.0).remaining == 0.0
    circuit.admit(70.0)
    assert circuit.export(70.0) == SavedCircuit(0.0, 1, is_paused=False, last_error=CAUSE)


def test_a_half_open_circuit_leaves_no_time_although_its_timeout_was_raised() -> None:
    """Its probes are out already: what would be left under the new timeout is nobody's wait."""
    circuit = opened()
    circuit.admit(70.0)
    circuit.timeout = 600.0
    assert exported(circuit, 70.0).remaining == 0.0
    assert circuit.open_for(70.0) == 0.0


def test_a_pause_is_saved_as_one() -> None:
    """It may be longer than the circuit's own times."""
    circuit = opened()
    circuit.pause(0.0, 300.0, "429")
    assert circuit.export(10.0) == SavedCircuit(290.0, 1, is_paused=True, last_error=CAUSE)
    circuit.admit(300.0)
    assert circuit.export(300.0) == SavedCircuit(0.0, 1, is_paused=False, last_error=CAUSE)


def test_of_the_modes_only_what_was_forced_open_by_hand_is_saved() -> None:
    """A mode that the program declares comes back by itself; a breaker that is off must not stay off unseen."""
    circuit = opened()
    circuit.set_mode("forced-open", "maintenance")
    assert circuit.export(0.0) == SavedCircuit(is_forced_open=True, reason="maintenance")
    for mode in ("disabled", "shadow"):
        circuit.set_mode(mode)
        assert circuit.export(0.0) is None
    fail(circuit, 0.0)
    assert circuit.state_by_rules(0.0) == "open"
    assert circuit.export(0.0) is None
    circuit.set_mode("forced-open", by_hand=False)
    assert circuit.export(0.0) is None


# -- what is restored ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elapsed", "left"), [(0.0, 40.0), (15.0, 25.0), (40.0, 0.0), (1e9, 0.0), (-5.0, 40.0), (-1e9, 40.0)]
)
def test_the_time_that_is_left_counts_on_whatever_the_wall_clock_did(elapsed: float, left: float) -> None:
    """Set back it counts as no time, and far ahead as all of it: never longer than there was left."""
    told: list[tuple[CircuitState, float]] = []
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.observer = Told(lambda state, now: told.append((state, now)))
    assert circuit.restore(exported(opened(), 20.0), 5_000.0, elapsed) is True
    assert circuit.open_for(5_000.0) == left
    assert circuit.state(5_000.0) == ("open" if left else "half-open")
    assert circuit.state(5_000.0 + left) == "half-open"
    assert circuit.last_error == CAUSE
    assert circuit.trips == 0
    assert told == [("open", 5_000.0)]


def test_a_restored_circuit_is_open_no_longer_than_its_options_allow() -> None:
    """The new program says 10 s where the old one said 60 s, whenever it says so."""
    circuit = Circuit(threshold=1, timeout=10.0)
    circuit.restore(SavedCircuit(remaining=55.0, openings=1), 0.0, 0.0)
    assert circuit.open_for(0.0) == 10.0
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.restore(SavedCircuit(remaining=55.0, openings=1), 0.0, 0.0)
    circuit.timeout = 10.0
    assert circuit.open_for(0.0) == 10.0


def test_a_restored_pause_is_bounded_by_a_week() -> None:
    """Not by the timeout: the other side asked for it."""
    for remaining, left in ((900.0, 900.0), (9e9, WEEK)):
        circuit = Circuit(threshold=1, timeout=60.0)
        circuit.restore(SavedCircuit(remaining=remaining, is_paused=True), 100.0, 0.0)
        assert circuit.open_for(100.0) == left


def test_a_restored_circuit_goes_on_where_it_was_in_its_growth() -> None:
    """The probe that fails after the restart makes the third opening in a row."""
    first = opened(timeout=10.0)
    first.open_time = OpenTime(factor=2.0)
    fail(first, 10.0)
    assert first.open_for(10.0) == 20.0
    second = Circuit(threshold=1, timeout=10.0)
    second.open_time = OpenTime(factor=2.0, jitter=0.5)
    second.restore(exported(first, 12.0), 100.0, 0.0)
    assert second.open_for(100.0) == 18.0
    fail(second, 118.0)
    assert second.open_for(118.0) == 40.0


def test_a_restored_circuit_is_probed_and_closed_like_any_other() -> None:
    """One probe, and its success closes."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.restore(exported(opened(), 20.0), 0.0, 0.0)
    assert circuit.admit(39.9) is None
    probe = circuit.admit(40.0)
    assert probe is not None
    assert circuit.admit(40.0) is None
    probe.succeeded(41.0)
    assert circuit.state(41.0) == "closed"
    fail(circuit, 41.0)
    assert circuit.open_for(41.0) == 60.0
    assert circuit.trips == 1


def test_a_circuit_that_knows_better_stays_as_it_is() -> None:
    """It has opened by itself, has no rules, or is in somebody's hands."""
    saved = SavedCircuit(remaining=55.0, openings=3)
    circuit = opened()
    assert circuit.restore(saved, 10.0, 0.0) is False
    assert circuit.open_for(10.0) == 50.0
    probe = circuit.admit(60.0)
    assert probe is not None
    probe.succeeded(60.0)
    assert circuit.restore(saved, 60.0, 0.0) is False
    assert circuit.state(60.0) == "closed"
    circuit = Circuit(threshold=None, timeout=60.0)
    assert circuit.restore(saved, 0.0, 0.0) is False
    assert circuit.state(0.0) == "closed"
    circuit.watch(Rates(failure_rate=0.5))
    assert circuit.restore(saved, 0.0, 0.0) is True
    for mode in ("disabled", "shadow", "forced-open"):
        circuit = Circuit(threshold=1, timeout=60.0)
        circuit.set_mode(mode)
        assert circuit.restore(saved, 0.0, 0.0) is False
        assert circuit.open_by_rules_for(0.0) == (math.inf if mode == "forced-open" else 0.0)


@given(
    st.floats(0, 1e6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(1, 50),
    st.booleans(),
    st.floats(1, 3),
    st.floats(0, 1),
)
def test_no_clock_step_makes_a_circuit_open_for_longer(
    remaining: float, elapsed: float, openings: int, is_paused: bool, factor: float, jitter: float
) -> None:
    """At most what was left, at most what is configured, at least nothing, and half-open in the end."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.open_time = OpenTime(factor=factor, longest=500.0, jitter=jitter)
    saved = SavedCircuit(remaining=remaining, openings=openings, is_paused=is_paused)
    circuit.restore(saved, 1_000.0, elapsed)
    left = circuit.open_for(1_000.0)
    assert 0.0 <= left <= min(remaining, WEEK if is_paused else 500.0) + 1e-6
    assert circuit.state(1_000.0 + left + 1e-3) == "half-open"


# -- what is on disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "complaint"),
    [
        ([], "it is no object but list"),
        (None, "it is no object but NoneType"),
        ({"remaining": "12"}, "its remaining is '12'"),
        ({"remaining": -1.0}, "its remaining is -1.0"),
        ({"remaining": math.nan}, "its remaining is nan"),
        ({"remaining": math.inf}, "its remaining is inf"),
        ({"remaining": 10**400}, f"its remaining is {10**400}"),
        ({"remaining": True}, "its remaining is True"),
        ({"openings": 1.5}, "its openings is 1.5"),
        ({"openings": -1}, "its openings is -1"),
        ({"is_paused": 1}, "its is_paused is 1"),
        ({"last_error": 5}, "its last_error is 5"),
        ({"is_forced_open": "yes"}, "its is_forced_open is 'yes'"),
        ({"reason": []}, "its reason is []"),
    ],
)
def test_what_is_no_saved_circuit_is_refused_with_what_is_wrong(saved: Any, complaint: str) -> None:
    """Somebody edited the file, or another program wrote it."""
    with pytest.raises(ValueError, match=r"^its? ") as refused:
        SavedCircuit.from_dict(saved)
    assert str(refused.value) == complaint


def test_what_a_newer_program_adds_is_passed_over() -> None:
    """And what is left out has its default."""
    assert SavedCircuit.from_dict({"remaining": 5, "mood": "bad"}) == SavedCircuit(remaining=5)
    assert tuple(SavedCircuit.from_dict({})) == (0.0, 0, False, None, False, None)

"""A circuit that is opened for as long as the other side asked for."""

from __future__ import annotations

from shockproof.policies.circuit_breaker import Circuit


def test_paused_circuit_admits_nobody_until_the_pause_is_over() -> None:
    """The pause is what was asked for, not the circuit's own timeout."""
    circuit = Circuit(threshold=5, timeout=60.0)
    circuit.pause(100.0, 300.0, "429")

    assert circuit.admit(399.0) is None
    assert circuit.open_for(100.0) == 300.0
    assert circuit.admit(400.0) is not None


def test_pause_of_less_than_a_second_is_as_long_as_was_asked_for() -> None:
    """Also on a clock that has just begun; and why it is open is shown."""
    circuit = Circuit(threshold=5, timeout=60.0)
    circuit.pause(0.0, 0.25, "429")

    assert circuit.open_for(0.0) == 0.25
    assert circuit.last_error == "429"
    assert repr(circuit) == "<Circuit open since 0.000 for 0.25 s>"


def test_shorter_pause_does_not_cut_a_longer_one() -> None:
    """Two answers that ask for different times: the longer one counts."""
    circuit = Circuit(threshold=5, timeout=60.0)
    circuit.pause(100.0, 300.0, "429")
    circuit.pause(110.0, 20.0, "429")

    assert circuit.state(399.0) == "open"


def test_pause_ends_with_a_probe_that_closes_the_circuit() -> None:
    """After it the circuit is half-open like after any other open time."""
    circuit = Circuit(threshold=5, timeout=60.0)
    circuit.pause(100.0, 300.0, "429")
    probe = circuit.admit(400.0)
    assert probe is not None
    probe.succeeded(401.0, 0.1)

    assert circuit.state(401.0) == "closed"

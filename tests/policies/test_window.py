"""The counts over the last seconds, and the rates that open a circuit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.circuit_breaker import Circuit, Rates
from shockproof.policies.window import Counts, Window


def test_a_window_holds_what_ended_within_it() -> None:
    """Calls, failures and slow calls of the last seconds are counted."""
    window = Window(10.0)
    window.add(100.0, failed=True, slow=False)
    window.add(105.0, failed=False, slow=True)

    assert window.counts(105.0) == Counts(calls=2, failures=1, slow=1)


def test_a_slice_is_forgotten_when_its_turn_comes_again() -> None:
    """What is older than the window no longer counts, and what is younger does."""
    window = Window(10.0)
    window.add(100.0, failed=True, slow=False)
    window.add(105.0, failed=True, slow=False)

    assert window.counts(110.5) == Counts(calls=1, failures=1, slow=0)


def test_an_idle_gap_of_a_whole_window_clears_everything() -> None:
    """Failures of long ago never add to those of now."""
    window = Window(10.0)
    for _ in range(20):
        window.add(100.0, failed=True, slow=False)

    assert window.counts(400.0) == Counts(0, 0, 0)


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_a_window_is_exact_to_a_tenth_of_its_length(steps: list[tuple[float, bool]]) -> None:
    """It never counts what is older than its length, and misses only what is in the oldest tenth."""
    window, now, ended = Window(10.0), 50.0, list[tuple[float, bool]]()
    for gap, failed in steps:
        now += gap
        window.add(now, failed=failed, slow=False)
        ended.append((now, failed))

    counts = window.counts(now)

    assert sum(when > now - 9 for when, _ in ended) <= counts.calls
    assert counts.calls <= sum(when > now - 10 for when, _ in ended)


def circuit_with(rates: Rates) -> Circuit:
    circuit = Circuit(threshold=None, timeout=60.0)
    circuit.watch(rates)
    return circuit


def feed(circuit: Circuit, outcomes: str, *, duration: float = 0.1) -> None:
    for outcome in outcomes:
        ticket = circuit.admit(100.0)
        assert ticket is not None
        if outcome == "f":
            ticket.failed(100.0, "OSError", duration)
        else:
            ticket.succeeded(100.0, duration)


def test_a_failure_rate_that_is_reached_opens_the_circuit() -> None:
    """Half of the calls failing opens a circuit whose failure_rate is 0.5."""
    circuit = circuit_with(Rates(failure_rate=0.5, min_calls=4))
    feed(circuit, "sfsf")

    assert circuit.state(100.0) == "open"


@pytest.mark.parametrize("outcomes", ["ssf", "fff", "sssff"])
def test_too_few_calls_or_failures_leave_it_closed(outcomes: str) -> None:
    """Below min_calls no rate counts, and above it a smaller share does not."""
    circuit = circuit_with(Rates(failure_rate=0.5, min_calls=4))
    feed(circuit, outcomes)

    assert circuit.state(100.0) == "closed"


def test_slow_successes_open_it_when_their_share_is_reached() -> None:
    """A venue that answers, but takes for ever, is one to leave alone."""
    circuit = circuit_with(Rates(slow_call_after=1.0, slow_call_rate=1.0, min_calls=3))
    feed(circuit, "sss", duration=1.5)

    assert circuit.state(100.0) == "open"


def test_a_call_exactly_at_the_limit_is_not_slow() -> None:
    """Slow is what took longer than slow_call_after."""
    circuit = circuit_with(Rates(slow_call_after=1.0, slow_call_rate=0.5, min_calls=2))
    feed(circuit, "ssss", duration=1.0)

    assert circuit.state(100.0) == "closed"


def test_a_window_begins_anew_when_the_circuit_closes() -> None:
    """What was counted before the trip does not open it again."""
    circuit = circuit_with(Rates(failure_rate=0.5, min_calls=2))
    feed(circuit, "ff")
    probe = circuit.admit(161.0)
    assert probe is not None
    probe.succeeded(161.0, 0.1)
    feed(circuit, "f")

    assert circuit.state(161.0) == "closed"

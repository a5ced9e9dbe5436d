"""How long a circuit stays open: the formula, and which openings are in a row."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.circuit_breaker import Circuit
from shockproof.policies.open_time import OpenTime

CAUSE = "ValueError: no"


class Drawn:
    """A source of randomness that gives the numbers it was made with, and no more."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)


def circuit_with(open_time: OpenTime, *drawn: float, timeout: float = 10.0) -> Circuit:
    circuit = Circuit(threshold=1, timeout=timeout, rng=Drawn(*drawn))
    circuit.open_time = open_time
    return circuit


def end(circuit: Circuit, now: float, outcome: str) -> None:
    ticket = circuit.admit(now)
    assert ticket is not None
    if outcome == "failed":
        ticket.failed(now, CAUSE)
    else:
        ticket.succeeded(now)


def fail_until(circuit: Circuit, openings: int, now: float = 1_000.0) -> tuple[list[float], float]:
    """The open times of so many openings in a row, each begun by a failed probe; and when the last ends."""
    times = []
    for _ in range(openings):
        end(circuit, now, "failed")
        times.append(circuit.open_for(now))
        now += times[-1]
    return times, now


# -- the formula ---------------------------------------------------------------------------------------


def test_by_default_nothing_grows_and_nothing_is_drawn() -> None:
    """Exactly the timeout, time after time, and seeded randomness is not disturbed."""
    assert fail_until(circuit_with(OpenTime()), 5)[0] == [10.0] * 5


def test_the_open_time_grows_with_each_opening_up_to_the_longest() -> None:
    """Ten seconds, doubled with each failed probe, and never more than the cap."""
    circuit = circuit_with(OpenTime(factor=2.0, longest=60.0))
    assert fail_until(circuit, 5)[0] == [10.0, 20.0, 40.0, 60.0, 60.0]


def test_a_timeout_beyond_the_longest_is_kept() -> None:
    """The cap bounds the growth; the timeout itself is what somebody asked for."""
    circuit = circuit_with(OpenTime(factor=2.0, longest=60.0), timeout=90.0)
    assert fail_until(circuit, 3)[0] == [90.0, 90.0, 90.0]


def test_growth_ends_at_ten_minutes_unless_said_otherwise() -> None:
    """An open time that doubles does not become a day by itself."""
    assert fail_until(circuit_with(OpenTime(factor=100.0)), 3)[0] == [10.0, 600.0, 600.0]


def test_growth_beyond_all_floats_is_the_longest() -> None:
    """A power that overflows is long past any cap."""
    assert OpenTime(factor=10.0).seconds(10.0, 100_000, 0.0) == 600.0


def test_jitter_shortens_by_a_share_at_most() -> None:
    """With 0.2 and a draw of one half it is a tenth shorter, after the cap; a draw is one opening's."""
    circuit = circuit_with(OpenTime(factor=10.0, longest=50.0, jitter=0.2), 0.5, 0.0, 0.999999)
    times, _ = fail_until(circuit, 3)
    assert times == pytest.approx([9.0, 50.0, 40.0], abs=1e-4)


@given(
    st.floats(0.1, 1e4),
    st.floats(1, 10),
    st.floats(0.1, 1e5),
    st.floats(0, 1),
    st.integers(0, 5_000),
    st.floats(0, 1, exclude_max=True),
)
def test_no_open_time_is_longer_than_its_cap(
    timeout: float, factor: float, longest: float, jitter: float, opening: int, draw: float
) -> None:
    """Whatever the options: at most the cap, and at least the timeout without the jitter."""
    seconds = OpenTime(factor=factor, longest=longest, jitter=jitter).seconds(timeout, opening, draw)
    assert (1 - jitter) * timeout * (1 - 1e-9) <= seconds <= max(longest, timeout)


def test_many_processes_that_opened_together_do_not_probe_together() -> None:
    """A hundred circuits that opened in one moment come back over a fifth of the time."""
    times = []
    for seed in range(100):
        circuit = Circuit(threshold=1, timeout=60.0, rng=random.Random(seed))
        circuit.open_time = OpenTime(jitter=0.2)
        end(circuit, 0.0, "failed")
        times.append(circuit.open_for(0.0))
    assert 48.0 <= min(times) < 49.0
    assert 59.0 < max(times) <= 60.0


# -- which openings are in a row -------------------------------------------------------------------------


def grown() -> tuple[Circuit, float]:
    """A circuit that has opened three times in a row, for 10, 20 and 40 s, and was closed again by a probe."""
    circuit = circuit_with(OpenTime(factor=2.0))
    times, now = fail_until(circuit, 3)
    assert times == [10.0, 20.0, 40.0]
    end(circuit, now, "succeeded")
    assert circuit.state(now) == "closed"
    return circuit, now


def test_a_circuit_that_stayed_closed_as_long_as_it_was_open_has_recovered() -> None:
    """The next outage begins with the timeout again."""
    circuit, now = grown()
    end(circuit, now + 40.0, "failed")
    assert circuit.open_for(now + 40.0) == 10.0


def test_a_circuit_that_fails_again_sooner_has_not_recovered() -> None:
    """One lucky probe in the middle of an outage does not begin it anew."""
    circuit, now = grown()
    end(circuit, now + 39.0, "failed")
    assert circuit.open_for(now + 39.0) == 80.0


def test_a_reset_by_hand_forgets_the_growth() -> None:
    """Somebody says that it is well."""
    for resets in (True, False):
        circuit = circuit_with(OpenTime(factor=2.0))
        _, now = fail_until(circuit, 3)
        if resets:
            circuit.reset(now)
        end(circuit, now, "failed")
        assert circuit.open_for(now) == (10.0 if resets else 80.0)


def test_a_change_of_the_mode_forgets_the_growth() -> None:
    """Also of a circuit that has just closed, and would not have recovered yet."""
    circuit, now = grown()
    circuit.set_mode("shadow")
    circuit.set_mode("normal")
    end(circuit, now, "failed")
    assert circuit.open_for(now) == 10.0


def test_a_pause_does_not_count_as_an_opening() -> None:
    """The other side asked for it: what follows begins with the timeout."""
    circuit = circuit_with(OpenTime(factor=2.0))
    circuit.pause(0.0, 300.0, "429")
    end(circuit, 300.0, "failed")
    assert circuit.open_for(300.0) == 10.0
    end(circuit, 310.0, "failed")
    assert circuit.open_for(310.0) == 20.0


def test_a_timeout_that_is_changed_while_it_is_open_counts_at_once() -> None:
    """Also for one that has grown."""
    circuit = circuit_with(OpenTime(factor=2.0))
    _, now = fail_until(circuit, 1)
    end(circuit, now, "failed")
    assert circuit.open_for(now) == 20.0
    circuit.timeout = 30.0
    assert circuit.open_for(now) == 60.0
    assert circuit.state(now + 59.9) == "open"
    assert circuit.state(now + 60.0) == "half-open"


def test_a_repr_shows_the_grown_time() -> None:
    """What a person sees is what is in force."""
    circuit, now = grown()
    end(circuit, now, "failed")
    assert repr(circuit).endswith("for 80 s>")

"""The counts over the last seconds, and the rates that open a circuit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.circuit_breaker import Circuit
from shockproof.policies.trip_rates import Rates
from shockproof.policies.window import CallWindow, Counts, TimeWindow


def test_a_window_holds_what_ended_within_it() -> None:
    """Calls, failures and slow calls of the last seconds are counted."""
    window = TimeWindow(10.0)
    window.add(100.0, failed=True, slow=False)
    window.add(105.0, failed=False, slow=True)

    assert window.counts(105.0) == Counts(calls=2, failures=1, slow=1)


def test_a_slice_is_forgotten_when_its_turn_comes_again() -> None:
    """What is older than the window no longer counts, and what is younger does."""
    window = TimeWindow(10.0)
    window.add(100.0, failed=True, slow=False)
    window.add(105.0, failed=True, slow=False)

    assert window.counts(110.5) == Counts(calls=1, failures=1, slow=0)


def test_an_idle_gap_of_a_whole_window_clears_everything() -> None:
    """Failures of long ago never add to those of now."""
    window = TimeWindow(10.0)
    for _ in range(20):
        window.add(100.0, failed=True, slow=False)

    assert window.counts(400.0) == Counts(0, 0, 0)


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_a_window_is_exact_to_a_tenth_of_its_length(steps: list[tuple[float, bool]]) -> None:
    """It never counts what is older than its length, and misses only what is in the oldest tenth."""
    window, now, ended = TimeWindow(10.0), 50.0, list[tuple[float, bool]]()
    for gap, failed in steps:
        now += gap
        window.add(now, failed=failed, slow=False)
        ended.append((now, failed))

    counts = window.counts(now)

    assert sum(when > now - 9 for when, _ in ended) <= counts.calls
    assert counts.calls <= sum(when > now - 10 for when, _ in ended)


def test_a_slice_counts_until_its_turn_comes_again_and_not_a_moment_longer() -> None:
    """Ten slices of a second: what ended in second 100 counts up to the end of second 109."""
    window = TimeWindow(10.0)
    window.add(100.0, failed=True, slow=True)

    assert window.counts(109.999) == Counts(1, 1, 1)
    assert window.counts(110.0) == Counts(0, 0, 0)


@pytest.mark.parametrize("seconds", [0.5, 4.0, 40.0, 3_600.0])
def test_a_window_is_as_long_as_it_was_made(seconds: float) -> None:
    """Its slices are tenths of its own length: a call counts for nine of them at least, and for ten at most."""
    window = TimeWindow(seconds)
    begun = 100.0 * seconds
    window.add(begun, failed=True, slow=False)
    window.add(begun + 0.45 * seconds, failed=True, slow=False)

    assert window.counts(begun + 0.89 * seconds).calls == 2
    assert window.counts(begun + 1.01 * seconds).calls == 1
    assert window.counts(begun + 1.51 * seconds).calls == 0


@pytest.mark.parametrize("gap", [10.0, 11.0, 19.0, 20.0, 21.0, 1e9])
def test_an_idle_gap_leaves_nothing_whatever_its_length(gap: float) -> None:
    """Every slice that was skipped is cleared, also when the ring was turned more than once."""
    window = TimeWindow(10.0)
    for second in range(10):
        window.add(100.0 + second, failed=True, slow=False)

    assert window.add(109.0 + gap, failed=False, slow=False) == Counts(1, 0, 0)


def test_a_clock_that_is_a_little_behind_counts_into_the_current_slice() -> None:
    """Two loops read their clocks one after the other: the later reading does not lose the earlier one."""
    window = TimeWindow(10.0)
    window.add(105.0, failed=True, slow=False)
    window.add(104.0, failed=True, slow=False)
    window.add(95.0, failed=True, slow=False)

    assert window.counts(114.9) == Counts(3, 3, 0)
    assert window.counts(115.0) == Counts(0, 0, 0)


def test_a_clock_that_fell_far_behind_begins_the_window_anew() -> None:
    """What was counted would otherwise stay until the clock has caught up, which may be for ever."""
    window = TimeWindow(10.0)
    window.add(1_000.0, failed=True, slow=False)

    assert window.add(989.9, failed=False, slow=True) == Counts(1, 0, 1)
    assert window.counts(999.8) == Counts(0, 0, 0)


@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), max_size=60))
def test_a_clock_that_jumps_about_never_keeps_a_call_for_good(steps: list[tuple[float, bool]]) -> None:
    """Whatever the clock did: once it runs on for two windows nothing is left."""
    window, now = TimeWindow(10.0), 100.0
    for jump, failed in steps:
        now = max(0.0, now + jump)
        counts = window.add(now, failed=failed, slow=not failed)
        assert counts.calls == counts.failures + counts.slow >= 1

    assert window.counts(now + 20.1) == Counts(0, 0, 0)


# -- the last calls ------------------------------------------------------------------------------------


def test_a_window_of_calls_holds_the_last_so_many_whatever_their_age() -> None:
    """The oldest leaves when one more comes."""
    window = CallWindow(3)
    window.add(0.0, failed=True, slow=False)
    window.add(1.0, failed=False, slow=True)

    assert window.add(2.0, failed=True, slow=True) == Counts(3, 2, 2)
    assert window.add(9e9, failed=False, slow=False) == Counts(3, 1, 2)
    assert window.add(9e9, failed=False, slow=False) == Counts(3, 1, 1)
    assert window.add(9e9, failed=False, slow=False) == Counts(3, 0, 0)


def test_a_window_of_calls_and_seconds_forgets_what_is_older() -> None:
    """An idle gap leaves nothing, and a call counts for the whole time but not at its end."""
    window = CallWindow(3, 10.0)
    window.add(100.0, failed=True, slow=False)
    window.add(105.0, failed=True, slow=True)

    assert window.counts(109.999) == Counts(2, 2, 1)
    assert window.counts(110.0) == Counts(1, 1, 1)
    assert window.add(115.0, failed=False, slow=False) == Counts(1, 0, 0)


def test_a_window_of_calls_and_seconds_does_not_keep_what_another_clock_timed() -> None:
    """After a step back of more than its length nothing of before is left."""
    window = CallWindow(3, 10.0)
    window.add(1_000.0, failed=True, slow=False)

    assert window.counts(990.1) == Counts(1, 1, 0)
    assert window.counts(990.0) == Counts(0, 0, 0)


@given(
    st.integers(1, 7),
    st.sampled_from([None, 5.0]),
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 3.0, 5.0]), st.booleans(), st.booleans())),
)
def test_a_window_of_calls_is_the_end_of_the_list_of_calls(
    size: int, seconds: float | None, steps: list[tuple[float, bool, bool]]
) -> None:
    """Counted anew from a list of everything, the counts are the same after each call."""
    window, now, ended = CallWindow(size, seconds), 50.0, list[tuple[float, bool, bool]]()
    for gap, failed, slow in steps:
        now += gap
        ended.append((now, failed, slow))
        held = [one for one in ended[-size:] if seconds is None or now - one[0] < seconds]
        expected = Counts(len(held), sum(one[1] for one in held), sum(one[2] for one in held))

        assert window.add(now, failed=failed, slow=slow) == expected


# -- the rates -----------------------------------------------------------------------------------------


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


def test_a_share_of_slow_calls_below_the_rate_leaves_it_closed() -> None:
    """One of four is no half, two of four are."""
    circuit = circuit_with(Rates(slow_call_after=1.0, slow_call_rate=0.5, min_calls=4, window_calls=4))
    feed(circuit, "sss")
    feed(circuit, "s", duration=1.5)
    assert circuit.state(100.0) == "closed"
    feed(circuit, "s", duration=1.5)
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


@pytest.mark.parametrize(
    ("rates", "kind"),
    [
        (Rates(failure_rate=0.5), TimeWindow),
        (Rates(failure_rate=0.5, window=3.0), TimeWindow),
        (Rates(failure_rate=0.5, window_calls=20), CallWindow),
        (Rates(failure_rate=0.5, window_calls=20, window=3.0), CallWindow),
    ],
)
def test_the_window_is_of_time_unless_a_number_of_calls_is_given(rates: Rates, kind: type) -> None:
    """With both it is of calls, and a time bounds it."""
    assert type(rates.new_window()) is kind


def test_the_window_is_ten_seconds_unless_said_otherwise() -> None:
    """A failure of eleven seconds ago is forgotten, and one of nine is not."""
    for seconds, expected in ((8.9, 1), (10.0, 0)):
        window = Rates(failure_rate=0.5).new_window()
        window.add(100.0, failed=True, slow=False)
        assert window.counts(100.0 + seconds).calls == expected
    window = Rates(failure_rate=0.5, window=3.0).new_window()
    window.add(100.0, failed=True, slow=False)
    assert window.counts(102.6).calls == 1
    assert window.counts(103.0).calls == 0
    window = Rates(failure_rate=0.5, window_calls=9, window=3.0).new_window()
    window.add(100.0, failed=True, slow=False)
    assert window.counts(102.9).calls == 1
    assert window.counts(103.0).calls == 0
    window = Rates(failure_rate=0.5, window_calls=9).new_window()
    window.add(100.0, failed=True, slow=False)
    assert window.counts(1e9).calls == 1


def test_rates_over_the_last_calls_open_the_circuit() -> None:
    """Five of the last ten failed, however long ago the others were."""
    circuit = circuit_with(Rates(failure_rate=0.5, min_calls=10, window_calls=10))
    feed(circuit, "ssssssfsfs")
    feed(circuit, "fsf")
    assert circuit.state(100.0) == "closed"
    feed(circuit, "f")
    assert circuit.state(100.0) == "open"


def test_a_slow_failure_counts_as_slow_too() -> None:
    """What failed after a long time is both."""
    circuit = circuit_with(Rates(slow_call_after=1.0, slow_call_rate=1.0, min_calls=2))
    feed(circuit, "f", duration=1.5)
    assert circuit.state(100.0) == "closed"
    feed(circuit, "f", duration=1.5)
    assert circuit.state(100.0) == "open"


def test_a_call_that_was_given_back_is_in_no_window() -> None:
    """Cancelled calls make no rate."""
    for rates in (Rates(failure_rate=0.5, min_calls=4), Rates(failure_rate=0.5, min_calls=4, window_calls=4)):
        circuit = circuit_with(rates)
        feed(circuit, "ff")
        for _ in range(10):
            ticket = circuit.admit(100.0)
            assert ticket is not None
            ticket.released()
        feed(circuit, "f")
        assert circuit.state(100.0) == "closed"
        feed(circuit, "s")
        assert circuit.state(100.0) == "open"

"""Delays: the cap first, then the jitter, and never anything beyond the cap."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.backoff import JITTERS, Backoff, Jitter


class Always:
    """A random source that gives one number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


def backoff(
    *,
    base_delay: float = 1.0,
    max_delay: float = 60.0,
    factor: float = 2.0,
    jitter: Jitter = "none",
    drawn: float = 0.5,
) -> Backoff:
    return Backoff(
        base_delay=base_delay, max_delay=max_delay, factor=factor, jitter=jitter, rng=Always(drawn)
    )


def test_delays_double_and_stop_at_the_cap() -> None:
    """Without jitter the delays are exactly those of the original: 1, 2, 4 ... and 60 from there on."""
    rule = backoff()
    assert [rule.delay(n, 0.0) for n in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_factor_of_one_gives_constant_delays() -> None:
    """backoff_factor=1 means that each wait is like the first."""
    rule = backoff(base_delay=0.5, factor=1.0)
    assert [rule.delay(n, 0.0) for n in range(4)] == [0.5] * 4


def test_a_cap_below_the_base_delay_wins() -> None:
    """No delay is longer than max_delay, not even the first."""
    assert backoff(base_delay=10.0, max_delay=3.0).delay(0, 0.0) == 3.0


@pytest.mark.parametrize("retry", [1_100, 10_000, 10**9])
def test_a_power_beyond_all_floats_is_the_cap(retry: int) -> None:
    """The thousandth retry waits max_delay; it does not overflow."""
    assert backoff().delay(retry, 60.0) == 60.0


def test_no_base_delay_means_no_delay_however_often() -> None:
    """0 times anything is 0, also where the power overflows on its way."""
    assert [backoff(base_delay=0.0).delay(n, 0.0) for n in (0, 3, 5_000)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("drawn", "expected"), [(0.0, 0.0), (0.5, 4.0), (0.75, 6.0)])
def test_full_jitter_draws_between_nothing_and_the_capped_delay(drawn: float, expected: float) -> None:
    """full: uniform in [0, e(n)]."""
    assert backoff(jitter="full", drawn=drawn).delay(3, 0.0) == expected


@pytest.mark.parametrize(("drawn", "expected"), [(0.0, 4.0), (0.5, 6.0), (0.75, 7.0)])
def test_equal_jitter_draws_from_the_upper_half(drawn: float, expected: float) -> None:
    """equal: uniform in [e(n)/2, e(n)]."""
    assert backoff(jitter="equal", drawn=drawn).delay(3, 0.0) == expected


@pytest.mark.parametrize("jitter", ["full", "equal"])
def test_delays_at_the_cap_still_differ(jitter: Jitter) -> None:
    """Cap first, then jitter: callers that all wait the longest do not come back together."""
    rule = Backoff(base_delay=1.0, max_delay=10.0, factor=2.0, jitter=jitter, rng=random.Random(1))
    drawn = [rule.delay(20, 10.0) for _ in range(50)]
    assert len(set(drawn)) == 50
    assert max(drawn) <= 10.0


def test_decorrelated_jitter_does_not_pile_up_at_the_cap() -> None:
    """The repaired form draws below min(cap, 3 * previous); the published one clips half of them."""
    rule = Backoff(base_delay=1.0, max_delay=4.0, factor=2.0, jitter="decorrelated", rng=random.Random(1))
    delays = [0.0]
    for n in range(500):
        delays.append(rule.delay(n, delays[-1]))
    assert sum(delay >= 4.0 for delay in delays) == 0
    assert all(1.0 <= now <= max(1.0, 3 * before) for before, now in pairwise(delays[1:]))


@given(
    jitter=st.sampled_from(JITTERS),
    base_delay=st.floats(0, 1e3),
    max_delay=st.floats(0, 1e4),
    factor=st.floats(1, 100),
    drawn=st.floats(0, 1, exclude_max=True),
    retries=st.integers(1, 60),
)
def test_every_delay_is_within_its_bounds(
    jitter: Jitter, base_delay: float, max_delay: float, factor: float, drawn: float, retries: int
) -> None:
    """Whatever the settings: never negative, never above max_delay, never not a number."""
    rule = Backoff(
        base_delay=base_delay, max_delay=max_delay, factor=factor, jitter=jitter, rng=Always(drawn)
    )
    previous = 0.0
    for n in range(retries):
        previous = rule.delay(n, previous)
        assert 0.0 <= previous <= max_delay


@pytest.mark.parametrize("jitter", JITTERS)
def test_a_seed_repeats_the_delays(jitter: Jitter) -> None:
    """Randomness is handed in: the same seed gives the same delays."""

    def delays() -> list[float]:
        rule = Backoff(base_delay=1.0, max_delay=60.0, factor=2.0, jitter=jitter, rng=random.Random(7))
        found = [0.0]
        for n in range(6):
            found.append(rule.delay(n, found[-1]))
        return found

    assert delays() == delays()

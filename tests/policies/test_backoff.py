"""Delays: the cap first, then the jitter, and never anything beyond the cap."""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.backoff import JITTERS, Backoff, BackoffFunction, Jitter, parse_backoff


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
    shape: Any = "exponential",
) -> Backoff:
    return Backoff(
        base_delay=base_delay,
        max_delay=max_delay,
        factor=factor,
        jitter=jitter,
        rng=Always(drawn),
        shape=shape,
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
    shape=st.sampled_from(["exponential", "linear", "constant"])
    | st.lists(st.floats(0, 1e5), min_size=1).map(tuple)
    | st.floats(0).map(lambda said: lambda retry, error: said),
)
def test_every_delay_is_within_its_bounds(
    jitter: Jitter, base_delay: float, max_delay: float, factor: float, drawn: float, retries: int, shape: Any
) -> None:
    """Whatever the settings: never negative, never above max_delay, never not a number."""
    rule = backoff(
        base_delay=base_delay,
        max_delay=max_delay,
        factor=factor,
        jitter=jitter,
        drawn=drawn,
        shape="exponential" if jitter == "decorrelated" else shape,
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


def test_constant_waits_are_all_the_base_delay() -> None:
    """backoff="constant" does not grow, whatever the factor is."""
    rule = backoff(base_delay=0.5, factor=3.0, shape="constant")
    assert [rule.delay(n, 0.0) for n in range(4)] == [0.5] * 4


def test_linear_waits_grow_by_the_base_delay() -> None:
    """backoff="linear": once, twice, three times the base delay, up to the cap."""
    rule = backoff(base_delay=2.0, max_delay=7.0, shape="linear")
    assert [rule.delay(n, 0.0) for n in range(5)] == [2.0, 4.0, 6.0, 7.0, 7.0]


def test_last_of_a_sequence_is_for_all_that_follow() -> None:
    """A sequence does not end the retries: max_retries does."""
    rule = backoff(max_delay=4.0, shape=(0.1, 1.0, 5.0, 3.0))
    assert [rule.delay(n, 0.0) for n in range(6)] == [0.1, 1.0, 4.0, 3.0, 3.0, 3.0]


def test_a_function_is_told_the_retry_and_the_error() -> None:
    """It counts retries from 1, and may look at what went wrong."""
    told: list[tuple[int, Exception | None]] = []

    def waits(retry: int, error: Exception | None) -> float:
        told.append((retry, error))
        return 10.0 * retry

    error = ConnectionError("no")
    rule = backoff(max_delay=25.0, shape=waits)
    assert [rule.delay(0, 0.0, error), rule.delay(1, 10.0), rule.delay(2, 20.0, error)] == [10.0, 20.0, 25.0]
    assert told == [(1, error), (2, None), (3, error)]


@pytest.mark.parametrize("shape", ["linear", "constant", (3.0, 9.0), lambda retry, error: 3.0 * retry])
@pytest.mark.parametrize(("jitter", "low", "high"), [("full", 0.0, 1.0), ("equal", 0.5, 1.0)])
def test_jitter_is_drawn_from_the_capped_wait_of_any_shape(
    shape: Any, jitter: Jitter, low: float, high: float
) -> None:
    """Cap first, then jitter, also where the waits are the user's own."""
    for n in range(4):
        plain = backoff(base_delay=3.0, max_delay=5.0, shape=shape).delay(n, 0.0)
        assert plain <= 5.0
        for drawn in (0.0, 0.25, 0.999):
            rule = backoff(base_delay=3.0, max_delay=5.0, shape=shape, jitter=jitter, drawn=drawn)
            assert rule.delay(n, 0.0) == pytest.approx(plain * (low + (high - low) * drawn))


def _raises(retry: int, error: Exception | None) -> float:
    raise ZeroDivisionError("the function's own")


@pytest.mark.parametrize(
    "function",
    [
        _raises,
        lambda retry, error: float("nan"),
        lambda retry, error: -1.0,
        lambda retry, error: timedelta(seconds=-1),
        lambda retry, error: None,
        lambda retry, error: "1.0",
        lambda retry, error: True,
        lambda: 1.0,
    ],
)
def test_a_function_that_fails_is_logged_and_the_exponential_wait_is_taken(
    function: BackoffFunction, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own failure ends no call and hides no error."""
    rule = backoff(shape=function)
    with caplog.at_level(logging.ERROR, logger="shockproof"):
        assert [rule.delay(n, 0.0) for n in range(3)] == [1.0, 2.0, 4.0]
    assert len(caplog.records) == 3


def test_what_a_function_gave_in_place_of_seconds_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Or what it raised: whoever wrote it has to find it."""
    assert backoff(shape=lambda retry, error: -2.5).delay(0, 0.0) == 1.0
    assert "backoff gave -2.5 instead of seconds" in caplog.text
    assert backoff(shape=_raises).delay(0, 0.0) == 1.0
    assert "backoff failed" in caplog.text
    assert "the function's own" in caplog.text


def test_a_function_may_give_a_timedelta_and_infinity_is_the_cap() -> None:
    """What can be understood is taken, no wait at all included."""
    assert backoff(shape=lambda retry, error: 0.0).delay(0, 0.0) == 0.0
    assert backoff(shape=lambda retry, error: timedelta(milliseconds=250)).delay(0, 0.0) == 0.25
    assert backoff(shape=lambda retry, error: float("inf")).delay(0, 0.0) == 60.0


@pytest.mark.parametrize("shape", ["linear", "constant", (1.0, 2.0), _raises])
def test_decorrelated_jitter_beside_another_shape_is_refused(shape: Any) -> None:
    """It draws from the wait before: the shape would count for nothing."""
    with pytest.raises(ValueError, match="decorrelated waits are drawn from the wait before"):
        backoff(jitter="decorrelated", shape=shape)


def test_a_base_delay_of_the_moment_stands_in_for_the_usual_one() -> None:
    """A kind of error may have its own; the cap stays."""
    assert [backoff().delay(n, 0.0, base_delay=20.0) for n in range(3)] == [20.0, 40.0, 60.0]
    assert backoff(shape="linear").delay(1, 0.0, base_delay=5.0) == 10.0
    assert backoff(jitter="decorrelated", drawn=0.0).delay(0, 0.0, base_delay=5.0) == 5.0


@pytest.mark.parametrize(
    ("given_as", "parsed"),
    [
        ("exponential", "exponential"),
        ("linear", "linear"),
        ("constant", "constant"),
        ([1, timedelta(seconds=2), 0], (1.0, 2.0, 0.0)),
        (range(1, 4), (1.0, 2.0, 3.0)),
        (_raises, _raises),
        (max, max),
    ],
)
def test_a_backoff_is_read_in_each_of_its_forms(given_as: object, parsed: object) -> None:
    """The name of a shape, a sequence of seconds, or a function."""
    assert parse_backoff("backoff", given_as) == parsed


async def _asynchronous(retry: int, error: Exception | None) -> float:
    return 1.0


class _Asynchronous:
    async def __call__(self, retry: int, error: Exception | None) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ("quadratic", ValueError, "'quadratic'"),
        ("", ValueError, "'exponential', 'linear', 'constant'"),
        (
            b"linear",
            ValueError,
            r"backoff must be .*5\.0\), or a function \(retry, error\) -> seconds, got b'linear'",
        ),
        ((), ValueError, "backoff is empty"),
        ((1.0, -1.0), ValueError, r"backoff\[1\] must be seconds"),
        ((float("nan"),), ValueError, r"backoff\[0\] must be seconds"),
        ((float("inf"),), ValueError, r"backoff\[0\] must be seconds"),
        (("1",), TypeError, r"backoff\[0\] must be seconds"),
        (1.0, TypeError, "backoff must be"),
        (None, TypeError, "backoff must be"),
        ({1.0, 2.0}, TypeError, "backoff must be"),
        (_asynchronous, TypeError, "it runs on the loop"),
        (_Asynchronous(), TypeError, "it runs on the loop"),
        (lambda: 1.0, TypeError, r"backoff is called as backoff\(retry, error\), which .*<lambda>"),
        (lambda retry: 1.0, TypeError, r"backoff is called as backoff\(retry, error\)"),
        (lambda retry, error, more: 1.0, TypeError, r"backoff is called as backoff\(retry, error\)"),
    ],
)
def test_a_backoff_that_means_nothing_is_refused(value: object, kind: type[Exception], text: str) -> None:
    """The message names the argument, its value, and what is allowed."""
    with pytest.raises(kind, match=text):
        parse_backoff("backoff", value)


def test_delays_of_repaired_decorrelated_jitter_spread_over_what_is_below_the_cap() -> None:
    """The claim beside the published form, which clips: there most delays are the cap itself, here none is."""
    cap, rng = 4.0, random.Random(3)
    rule = Backoff(base_delay=1.0, max_delay=cap, factor=2.0, jitter="decorrelated", rng=rng)
    repaired, published = [1.0], [1.0]
    for n in range(5_000):
        repaired.append(rule.delay(n, repaired[-1]))
        published.append(min(cap, 1.0 + (3 * published[-1] - 1.0) * rng.random()))
    assert sum(delay == cap for delay in published) > 0.5 * len(published)
    assert sum(delay == cap for delay in repaired) == 0
    assert max(repaired) > 0.95 * cap

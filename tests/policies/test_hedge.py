"""When a second request is sent."""

from __future__ import annotations

import math
import random
import threading

import pytest

from shockproof.policies.hedge import HedgeRule, hedge_budget, parse_hedge_after
from shockproof.policies.latency_quantile import LatencyQuantile


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.95])
def test_quantile_is_followed_and_follows_a_change(quantile: float) -> None:
    """Of latencies between 0 and 1 s, and between 2 and 4 s afterwards."""
    rng, latencies = random.Random(5), LatencyQuantile(quantile)
    for _ in range(3_000):
        latencies.add(rng.random())
    assert latencies.value == pytest.approx(quantile, abs=0.12)
    for _ in range(3_000):
        latencies.add(2 + 2 * rng.random())
    assert latencies.value == pytest.approx(2 + 2 * quantile, abs=0.25)


def test_quantile_is_unknown_before_enough_is_known() -> None:
    """Twenty samples are the least to tell a tail from."""
    latencies = LatencyQuantile(0.95)
    for _ in range(19):
        latencies.add(0.1)
    assert latencies.value is None
    latencies.add(0.1)
    assert latencies.value == pytest.approx(0.1)


def test_equal_latencies_keep_the_estimate() -> None:
    """Nothing drifts away when nothing changes."""
    latencies = LatencyQuantile(0.95)
    for _ in range(10_000):
        latencies.add(0.25)

    assert latencies.value == 0.25


@pytest.mark.parametrize(("latency", "moved_by"), [(20.0, 9.0), (9.0, -1.0)])
def test_a_step_follows_the_spread_and_not_the_size_of_the_latencies(latency: float, moved_by: float) -> None:
    """A hundredth of the deviation; upwards so many times that, that the steps cancel out at the quantile."""
    latencies = LatencyQuantile(0.9)
    for _ in range(20):
        latencies.add(10.0)
    latencies.add(latency)
    spread = math.sqrt(0.95 * 0.05) * abs(latency - 10.0)  # a new sample counts a twentieth

    assert latencies.value == pytest.approx(10.0 + moved_by * 0.01 * spread, rel=1e-9)
    for _ in range(200):
        latencies.add(latency)
    before = latencies.value
    assert before is not None
    latencies.add(latency + 1.0)  # the mean has followed: the old level counts no more
    assert latencies.value == pytest.approx(before + 9.0 * 0.01 * math.sqrt(0.95 * 0.05), rel=1e-4)


def test_a_single_outlier_does_not_move_the_mean_to_where_it_was() -> None:
    """Else the next usual latency would look as far away as the outlier did, and count in the spread again."""
    latencies = LatencyQuantile(0.5)
    for _ in range(20):
        latencies.add(10.0)
    latencies.add(20.0)
    before = latencies.value
    assert before is not None
    latencies.add(10.0)  # half a second from the mean, which is 10.5 now
    spread = math.sqrt(0.95 * (0.95 * 0.05 * 10.0**2 + 0.05 * 0.5**2))

    assert latencies.value == pytest.approx(before - 0.01 * spread, rel=1e-9)


def test_an_estimate_never_falls_below_nothing() -> None:
    """No time is negative, however the steps fall."""
    latencies = LatencyQuantile(0.5, enough=2)
    for latency in (0.001, 0.001, 100.0):
        latencies.add(latency)
    assert latencies.value is not None
    assert latencies.value > 0.0
    for _ in range(10):
        latencies.add(0.0)

    assert latencies.value == 0.0


def test_a_fixed_wait_is_known_from_the_start() -> None:
    """Seconds need no samples."""
    assert HedgeRule(hedge_after=0.05, max_hedges=1).wait == 0.05


@pytest.mark.parametrize(("quantile", "expected"), [("p50", 11.0), ("p95", 20.0)])
def test_a_quantile_is_that_of_the_latencies_answered(quantile: str, expected: float) -> None:
    """Unknown, and so no hedge, until there are twenty of them."""
    rule = HedgeRule(hedge_after=quantile, max_hedges=2)
    for latency in range(1, 21):
        assert rule.wait is None
        rule.answered(float(latency))

    assert rule.wait == expected
    assert rule.most == 2


def test_a_wait_is_never_shorter_than_a_millisecond() -> None:
    """An answer that comes at once is not worth a second request."""
    rule = HedgeRule(hedge_after="p95", max_hedges=1)
    for _ in range(20):
        rule.answered(0.000_01)

    assert rule.wait == 0.001


def test_hedges_are_paid_by_answers() -> None:
    """Ten to begin with, then one for twenty answers: nineteen are too few."""
    budget = hedge_budget()
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(19):
        budget.succeeded()
    assert not budget.take()
    for _ in range(2):  # 20 times 0.05 is a little less than 1
        budget.succeeded()
    assert budget.take()
    for _ in range(1_000):
        budget.succeeded()
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]


def test_a_rule_that_threads_share_learns_its_quantile() -> None:
    """Two threads at the end of the first samples do not make it unknown for ever."""
    for _ in range(50):
        rule = HedgeRule(hedge_after="p95", max_hedges=1)
        start = threading.Barrier(4)

        def answer(rule: HedgeRule = rule, start: threading.Barrier = start) -> None:
            start.wait()
            for _ in range(10):
                rule.answered(0.25)

        threads = [threading.Thread(target=answer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert rule.wait == pytest.approx(0.25, rel=0.01)


@pytest.mark.parametrize("value", ["p100", "p5", "95", "p49", 0, -1.0])
def test_what_is_no_wait_is_refused(value: object) -> None:
    """The message names the option and what is allowed."""
    with pytest.raises(ValueError, match="hedge_after must be"):
        parse_hedge_after("hedge_after", value)


@pytest.mark.parametrize(("value", "parsed"), [("p50", "p50"), ("p99", "p99"), (0.5, 0.5), (2, 2.0)])
def test_what_is_a_wait_is_taken(value: object, parsed: float | str) -> None:
    """Seconds, or a quantile between the half and all but one in a hundred."""
    assert parse_hedge_after("hedge_after", value) == parsed

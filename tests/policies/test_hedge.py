"""When a second request is sent."""

from __future__ import annotations

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

    assert latencies.value == pytest.approx(0.25, rel=0.01)


def test_a_fixed_wait_is_known_from_the_start() -> None:
    """Seconds need no samples."""
    assert HedgeRule(hedge_after=0.05, max_hedges=1).wait == 0.05


def test_hedges_are_paid_by_answers() -> None:
    """Ten to begin with, then one for twenty answers."""
    budget = hedge_budget()
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(20):
        budget.succeeded()

    assert budget.take()


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

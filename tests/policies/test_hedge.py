"""When a second request is sent."""

from __future__ import annotations

import random

import pytest

from shockproof.policies.hedge import HedgeRule, parse_hedge_after
from shockproof.policies.latency_quantile import LatencyQuantile
from shockproof.policies.retry_budget import RetryBudget


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
    rule = HedgeRule(hedge_after=0.05, max_hedges=1)
    assert [rule.take(None) for _ in range(11)] == [True] * 10 + [False]
    for _ in range(20):
        rule.answered(0.01)

    assert rule.take(None)


def test_a_services_own_budget_pays_in_its_place() -> None:
    """Retries and hedges of one dependency share what they may cost it."""
    rule, shared = HedgeRule(hedge_after=0.05, max_hedges=1), RetryBudget(capacity=1)

    assert [rule.take(shared) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("value", ["p100", "p5", "95", "p49", 0, -1.0])
def test_what_is_no_wait_is_refused(value: object) -> None:
    """The message names the option and what is allowed."""
    with pytest.raises(ValueError, match="hedge_after must be"):
        parse_hedge_after("hedge_after", value)

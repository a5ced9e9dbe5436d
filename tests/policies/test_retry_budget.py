"""Retries are paid for by successes."""

from __future__ import annotations

import pytest

from shockproof.policies.retry_budget import RetryBudget


def test_an_empty_budget_allows_no_retry() -> None:
    """What is there is spent one by one, and then there is nothing."""
    budget = RetryBudget(capacity=2)

    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_successes_fill_it_up_again() -> None:
    """Ten successes pay for one retry."""
    budget = RetryBudget(capacity=1, per_success=0.125)
    budget.take()
    for _ in range(8):
        assert not budget.take()
        budget.succeeded()

    assert budget.take()


def test_it_never_holds_more_than_its_capacity() -> None:
    """A long good time saves up for one bad moment, not for a storm."""
    budget = RetryBudget(capacity=3)
    for _ in range(1000):
        budget.succeeded()

    assert budget.tokens == 3
    assert budget.is_full


def test_what_a_retry_held_comes_back_when_it_succeeds() -> None:
    """A retry that was worth it costs nothing."""
    budget = RetryBudget(capacity=2)
    budget.take()
    budget.give_back()

    assert budget.is_full


@pytest.mark.parametrize("options", [{"capacity": 0.5}, {"per_success": -0.1}])
def test_impossible_sizes_are_refused(options: dict[str, float]) -> None:
    """A budget that could never pay for a retry is no budget."""
    with pytest.raises(ValueError, match="must be a number of at least"):
        RetryBudget(**options)

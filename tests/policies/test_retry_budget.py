"""Retries are paid for by successes."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from shockproof import BudgetExhaustedError, BulkheadFullError, CallRejectedError, RetryBudget


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


def test_a_budget_pays_for_ten_retries_and_then_for_one_in_ten() -> None:
    """Unless somebody says otherwise; exactly, although ten times 0.1 is a little less than 1."""
    budget = RetryBudget()
    assert (budget.tokens, budget.capacity, budget.is_full) == (10.0, 10.0, True)
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    assert not budget.is_full
    for _ in range(9):
        budget.succeeded()
    assert not budget.take()
    budget.succeeded()
    assert budget.take()
    assert budget.tokens == 0.0


def test_what_is_taken_is_what_is_given_back() -> None:
    """A retry of another kind costs another number."""
    budget = RetryBudget(capacity=10)
    assert budget.take(4.0)
    assert budget.tokens == 6.0
    budget.give_back(1.5)
    assert budget.tokens == 7.5
    assert not budget.take(8.0)
    budget.give_back()
    assert budget.tokens == 8.5
    assert budget.take()
    assert repr(budget) == "<RetryBudget 7.5 of 10>"


def test_what_a_kind_costs_is_what_was_said_about_it() -> None:
    """Else what is usual for it, and never more than there can be: a dear kind is not forbidden."""
    budget = RetryBudget(capacity=3, costs={"timeout": 2.0, "server": 50.0, "throttled": 0})
    assert budget.cost("timeout") == 2.0
    assert budget.cost("server") == 3
    assert budget.cost("throttled") == 0
    assert budget.cost("other") == 1.0
    assert budget.cost("connection", 0.5) == 0.5
    assert dict(budget.costs) == {"timeout": 2.0, "server": 50.0, "throttled": 0}
    assert RetryBudget().costs == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"capacity": 0.5}, "^capacity must be a number of at least 1"),
        ({"per_success": -0.1}, "^per_success must be a number of at least 0"),
        ({"costs": {"timeout": -1.0}}, r"^costs\['timeout'\] must be a number of at least 0"),
        ({"costs": {"slow": 1.0}}, "^costs knows no 'slow'; there are throttled, timeout, server"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, Any], says: str) -> None:
    """A budget that could never pay for a retry is no budget; the message says which number it is."""
    with pytest.raises(ValueError, match=says):
        RetryBudget(**options)


def test_costs_that_are_no_mapping_are_refused() -> None:
    """A bare number does not say for what kind."""
    costs: Any = 2.0
    with pytest.raises(TypeError, match=r"^costs must be a mapping such as \{\"timeout\": 2.0\}, got 2.0"):
        RetryBudget(costs=costs)


def test_the_smallest_sizes_are_allowed() -> None:
    """One retry, and no funds: then only what a retry gives back counts."""
    budget = RetryBudget(capacity=1, per_success=0)
    assert budget.take()
    budget.succeeded()
    assert not budget.take()


def test_a_repetition_by_hand_that_is_not_paid_for_does_not_run() -> None:
    """The error is one of ours, so layers around it take it for a refusal."""
    budget, ran = RetryBudget(capacity=1), False
    budget.take()
    says = "service 'reconnect': the retry budget is exhausted"
    with pytest.raises(BudgetExhaustedError, match=says) as raised, budget.repetition("reconnect"):
        ran = True

    error = pickle.loads(pickle.dumps(raised.value))
    assert not ran
    assert isinstance(error, CallRejectedError)
    assert (error.service_name, error.policy, error.retry_after, error.last_error) == (
        "reconnect",
        "retry_budget",
        None,
        None,
    )


def test_a_repetition_by_hand_that_succeeds_costs_nothing_and_pays() -> None:
    """As a retry of ours does; inside it the cost is held."""
    budget = RetryBudget(capacity=4, per_success=0.5)
    budget.take(2.0)
    with budget.repetition("reconnect", cost=1.5):
        assert budget.tokens == 0.5

    assert budget.tokens == 2.5


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (ConnectionError("down"), 3.0),
        (ExceptionGroup("both", [BulkheadFullError("x", "bulkhead"), ConnectionError("down")]), 3.0),
        (asyncio.CancelledError(), 4.0),
        (BulkheadFullError("x", "bulkhead"), 4.0),
        (KeyboardInterrupt(), 4.0),
    ],
)
def test_only_a_repetition_by_hand_that_failed_is_spent(error: BaseException, left: float) -> None:
    """A cancellation and a refusal inside say nothing of the other side; the error passes as it is."""
    budget = RetryBudget(capacity=4)
    with pytest.raises(type(error)) as raised, budget.repetition("reconnect"):
        raise error

    assert raised.value is error
    assert budget.tokens == left


def test_a_repetition_by_hand_that_costs_more_than_there_can_be_takes_all() -> None:
    """As with the cost of a kind of error: it would never run otherwise."""
    budget = RetryBudget(capacity=2)
    with pytest.raises(ConnectionError), budget.repetition("reconnect", cost=5):
        raise ConnectionError("down")

    assert budget.tokens == 0.0


def test_a_repetition_by_hand_with_wrong_arguments_is_refused_and_costs_nothing() -> None:
    """The error names the argument."""
    budget = RetryBudget(capacity=2)
    with pytest.raises(TypeError, match="service_name"), budget.repetition(3):  # type: ignore[arg-type]  # on purpose
        pass
    with pytest.raises(ValueError, match="cost"), budget.repetition("reconnect", cost=-1):
        pass

    assert budget.is_full

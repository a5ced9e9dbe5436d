"""Whether a failed attempt is repeated, and after how many seconds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.backoff import Backoff
from shockproof.policies.retry import Decision, RetryOn, RetryRule, leaves


def rule(*, max_retries: int = 3, max_delay: float = 60.0, retry_on: RetryOn = Exception) -> RetryRule:
    backoff = Backoff(base_delay=1.0, max_delay=max_delay, factor=2.0, jitter="none", rng=random.Random(1))
    return RetryRule(max_retries=max_retries, backoff=backoff, retry_on=retry_on)


def after(
    this: RetryRule,
    error: Exception | None,
    *,
    retries: int = 0,
    retry_after: float | None = None,
    remaining: float | None = None,
) -> Decision:
    return this.after_failure(
        error, retries=retries, previous_delay=0.0, retry_after=retry_after, remaining=remaining
    )


def test_three_retries_mean_four_calls() -> None:
    """max_retries counts the calls after the first one."""
    delays = [after(rule(), ValueError(), retries=n).delay for n in range(4)]
    assert delays == [1.0, 2.0, 4.0, None]


def test_delays_go_on_as_they_began_however_many_retries_there_are() -> None:
    """The first are worked out beforehand, the others when they are due; the cap holds for all."""
    many = rule(max_retries=12, max_delay=600.0)
    delays = [after(many, ValueError(), retries=n).delay for n in range(13)]
    assert delays == [*(2.0**n for n in range(10)), 600.0, 600.0, None]


def test_what_was_decided_beforehand_gives_way_to_what_this_failure_says() -> None:
    """A Retry-After and a deadline are of one call only."""
    assert after(rule(), ValueError(), retry_after=7.0).delay == 7.0
    assert after(rule(), ValueError(), retry_after=7.0, remaining=9.0).delay == 7.0
    assert after(rule(), ValueError(), remaining=0.5).delay is None


def test_no_retries_mean_one_call() -> None:
    """max_retries=0 never repeats."""
    assert after(rule(max_retries=0), ValueError()).delay is None


def test_only_the_named_types_are_repeated() -> None:
    """retry_on narrows what is repeated, subclasses included."""
    narrow = rule(retry_on=(ConnectionError, KeyError))
    assert after(narrow, ConnectionResetError()).delay == 1.0
    assert after(narrow, KeyError()).delay == 1.0
    refused = after(narrow, ValueError())
    assert refused.delay is None
    assert "ValueError" in refused.reason


def test_a_predicate_decides() -> None:
    """retry_on may be a function of the error."""
    only_503 = rule(retry_on=lambda error: error.args == (503,))
    assert after(only_503, RuntimeError(503)).delay == 1.0
    assert after(only_503, RuntimeError(400)).delay is None


def test_a_predicate_that_raises_means_no() -> None:
    """Its own failure is not raised in place of the call's."""

    def broken(error: Exception) -> bool:
        raise ZeroDivisionError

    assert after(rule(retry_on=broken), ValueError()).delay is None


@pytest.mark.parametrize(
    ("group", "wanted"),
    [
        (ExceptionGroup("", [KeyError(), KeyError()]), True),
        (ExceptionGroup("", [KeyError(), ExceptionGroup("", [KeyError()])]), True),
        (ExceptionGroup("", [KeyError(), ValueError()]), False),
        (ExceptionGroup("", [ExceptionGroup("", [KeyError(), ValueError()])]), False),
    ],
)
def test_a_group_is_repeated_when_each_leaf_would_be(group: Exception, wanted: bool) -> None:
    """An ExceptionGroup is judged by its leaves, however deep they are."""
    assert rule(retry_on=KeyError).wants(group) is wanted


def test_leaves_of_a_group_are_the_errors_inside() -> None:
    """Groups in groups are looked through; an ordinary error is its own only leaf."""
    a, b, c = KeyError("a"), ValueError("b"), asyncio.CancelledError()
    group = BaseExceptionGroup("", [a, BaseExceptionGroup("", [b, c])])
    assert list(leaves(group)) == [a, b, c]
    assert list(leaves(a)) == [a]


def test_a_wait_the_other_side_asked_for_replaces_a_shorter_one() -> None:
    """Retry-After is honoured; a shorter one does not shorten the backoff."""
    assert after(rule(), ValueError(), retry_after=7.5).delay == 7.5
    assert after(rule(), ValueError(), retry_after=0.2).delay == 1.0


def test_a_wait_above_max_delay_is_honoured_within_the_deadline() -> None:
    """With a deadline it is the deadline that bounds what the other side may ask for."""
    assert after(rule(max_delay=10.0), ValueError(), retry_after=30.0, remaining=40.0).delay == 30.0


def test_a_wait_above_max_delay_is_not_begun_without_a_deadline() -> None:
    """Without one, the error is raised at once."""
    decision = after(rule(max_delay=10.0), ValueError(), retry_after=30.0)
    assert decision.delay is None
    assert "30" in decision.reason


@pytest.mark.parametrize("remaining", [0.0, 0.5, 1.0])
def test_a_wait_that_would_use_up_the_deadline_is_not_begun(remaining: float) -> None:
    """No sleep that cannot end in an attempt."""
    assert after(rule(), ValueError(), remaining=remaining).delay is None


def test_a_wait_that_leaves_time_for_an_attempt_is_begun() -> None:
    """What remains after the wait is for the attempt."""
    assert after(rule(), ValueError(), remaining=1.25).delay == 1.0


def test_a_result_that_was_judged_a_failure_is_repeated_whatever_types_are_named() -> None:
    """retry_on speaks of errors; an unwanted result is none."""
    assert after(rule(retry_on=KeyError), None).delay == 1.0


def test_a_wait_that_is_exactly_the_cap_is_begun() -> None:
    """Only a longer one asks for a pause of the whole service, and only where no deadline bounds it."""
    this = rule(max_delay=10.0)
    assert after(this, ValueError(), retry_after=10.0).delay == 10.0
    assert not this.asks_for_a_pause(10.0, None)
    assert this.asks_for_a_pause(10.5, None)
    assert not this.asks_for_a_pause(10.5, 3.0)
    assert not this.asks_for_a_pause(None, None)


def test_the_backoff_is_told_what_it_needs() -> None:
    """The retry, the error, the wait before, and the base delay of the moment."""
    told: list[tuple[int, Exception | None]] = []

    def function(retry: int, error: Exception | None) -> float:
        told.append((retry, error))
        return 1.0

    error = ValueError()
    backoff = Backoff(
        base_delay=1.0, max_delay=60.0, factor=2.0, jitter="none", rng=random.Random(1), shape=function
    )
    after(RetryRule(max_retries=3, backoff=backoff, retry_on=Exception), error, retries=1)
    assert told == [(2, error)]

    class Most(random.Random):
        def random(self) -> float:
            return 1.0

    decorrelated = Backoff(base_delay=1.0, max_delay=60.0, factor=2.0, jitter="decorrelated", rng=Most())
    decision = RetryRule(max_retries=3, backoff=decorrelated, retry_on=Exception).after_failure(
        error, retries=1, previous_delay=4.0, retry_after=None, remaining=None
    )
    assert decision.delay == 12.0  # three times the wait before
    decision = rule().after_failure(
        error, retries=1, previous_delay=1.0, retry_after=None, remaining=None, base_delay=3.0
    )
    assert decision.delay == 6.0


@pytest.mark.parametrize(
    ("this", "asked", "reason"),
    [
        (rule(max_retries=0), {}, "retries are off"),
        (rule(max_retries=1), {"retries": 1}, "no retries left"),
        (rule(retry_on=KeyError), {}, "ValueError is not retried"),
        (rule(max_delay=10.0), {"retry_after": 30.0}, "the other side asked to wait 30 s"),
        (rule(), {"remaining": 1.0}, "the deadline would pass before another attempt"),
        (rule(), {}, ""),
    ],
)
def test_the_reason_says_why_there_is_no_retry(this: RetryRule, asked: dict[str, Any], reason: str) -> None:
    """The log tells it to whoever wonders, and nothing where there is one."""
    assert after(this, ValueError(), **asked).reason == reason


def _yes(error: Exception) -> bool:
    return True


@given(
    max_retries=st.integers(0, 5),
    retries=st.integers(0, 7),
    retry_after=st.none() | st.floats(0, 1e4),
    remaining=st.none() | st.floats(-10, 1e4),
    retry_on=st.sampled_from([Exception, KeyError, _yes]),
    error=st.sampled_from([None, KeyError(), ValueError(), ExceptionGroup("", [KeyError()])]),
)
def test_a_decision_never_goes_past_what_is_left(
    max_retries: int,
    retries: int,
    retry_after: float | None,
    remaining: float | None,
    retry_on: type[Exception] | Callable[[Exception], bool],
    error: Exception | None,
) -> None:
    """A delay ends before the deadline, is at least what was asked for, and has a reason if there is none."""
    decision = after(
        rule(max_retries=max_retries, retry_on=retry_on),
        error,
        retries=retries,
        retry_after=retry_after,
        remaining=remaining,
    )
    if decision.delay is None:
        assert decision.reason
        return
    assert retries < max_retries
    assert decision.delay >= (retry_after or 0.0)
    assert remaining is None or decision.delay < remaining
    assert remaining is not None or decision.delay <= 60.0

"""One classification per handle: what an error or a result means for all its policies."""

from __future__ import annotations

import logging
import socket
from datetime import timedelta
from typing import Any

import pytest

from shockproof import (
    AttemptTimeoutError,
    CallInfo,
    CallRejectedError,
    CircuitOpenError,
    DeadlineExceededError,
    Outcome,
    Verdict,
)
from shockproof.policies.classification import Classifier, Classify, ResultCheck
from shockproof.testing import VirtualClock
from shockproof.vocabulary.outcomes import CallEffect

CALL = CallInfo("market_data", "fetch", 1, "read")


def classifier(
    effect: CallEffect = "read", *, classify: Classify | None = None, unwanted: ResultCheck | None = None
) -> Classifier:
    return Classifier(effect=effect, classify=classify, retry_if_result=unwanted)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("any"),
        TimeoutError(),
        AttemptTimeoutError("market_data", 1.0),
        DeadlineExceededError("market_data", 1.0),
        ExceptionGroup("", [ValueError(), CircuitOpenError("other")]),
    ],
)
def test_any_error_is_a_failure(error: Exception) -> None:
    """Also our own timeouts, and a group with one failure among its leaves."""
    assert classifier().of_error(error, CALL).outcome is Outcome.FAILURE


def asking_to_wait(error: Exception) -> Exception:
    """The same error, by which the other side wants to be left alone for three seconds."""
    error.retry_after = 3.0  # type: ignore[attr-defined]  # as the errors of many clients have it
    return error


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectionError(), Verdict(Outcome.FAILURE, None, "unknown")),
        (ConnectionRefusedError(), Verdict(Outcome.FAILURE, None, "none")),
        (asking_to_wait(ConnectionError()), Verdict(Outcome.FAILURE, 3.0, "unknown")),
        (asking_to_wait(ConnectionRefusedError()), Verdict(Outcome.FAILURE, 3.0, "none")),
        (ExceptionGroup("", [ConnectionError()]), Verdict(Outcome.FAILURE, None, "unknown")),
        (asking_to_wait(ExceptionGroup("", [ConnectionError()])), Verdict(Outcome.FAILURE, 3.0, "unknown")),
        (
            asking_to_wait(ExceptionGroup("", [ConnectionRefusedError()])),
            Verdict(Outcome.FAILURE, 3.0, "none"),
        ),
    ],
    ids=repr,
)
def test_error_says_how_long_to_wait_and_whether_anything_happened(
    error: Exception, verdict: Verdict
) -> None:
    """Alone or in a group; only what proves that the request never left says that nothing happened."""
    assert classifier().of_error(error, CALL) == verdict


@pytest.mark.parametrize(
    "error",
    [
        CircuitOpenError("other"),
        CallRejectedError("other", "bulkhead"),
        ExceptionGroup("", [CircuitOpenError("a"), ExceptionGroup("", [CircuitOpenError("b")])]),
    ],
)
@pytest.mark.parametrize(
    ("effect", "outcome"),
    [("read", Outcome.NEUTRAL), ("idempotent", Outcome.NEUTRAL), ("unsafe", Outcome.UNKNOWN)],
)
def test_refusals_from_inside_are_neutral_and_no_proof(
    error: Exception, effect: CallEffect, outcome: Outcome
) -> None:
    """What another service's policy refused says nothing about this one, nor of what was sent before that."""
    assert classifier(effect).of_error(error, CALL).outcome is outcome


def test_group_with_a_refusal_and_a_proof_is_no_proof() -> None:
    """The function ran, and one part of it was refused at its own end."""
    error = ExceptionGroup("", [ConnectionRefusedError(), CircuitOpenError("other")])
    assert classifier("unsafe").of_error(error, CALL).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "error", [ValueError(), ConnectionResetError(), AttemptTimeoutError("s", 1.0), TimeoutError()]
)
def test_an_unsafe_call_that_failed_may_have_happened(error: Exception) -> None:
    """effect="unsafe": unknown, unless the error proves that nothing happened."""
    assert classifier("unsafe").of_error(error, CALL).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("error", [ConnectionRefusedError(), socket.gaierror()])
def test_an_unsafe_call_that_never_left_is_a_plain_failure(error: Exception) -> None:
    """Nobody was there to do anything: it may be repeated."""
    assert classifier("unsafe").of_error(error, CALL).outcome is Outcome.FAILURE


def test_a_group_of_an_unsafe_call_proves_nothing_unless_each_leaf_does() -> None:
    """One leaf that may have happened makes the whole unknown."""
    mixed = ExceptionGroup("", [ConnectionRefusedError(), ConnectionResetError()])
    assert classifier("unsafe").of_error(mixed, CALL).outcome is Outcome.UNKNOWN
    proven = ExceptionGroup("", [ConnectionRefusedError(), ConnectionRefusedError()])
    assert classifier("unsafe").of_error(proven, CALL).outcome is Outcome.FAILURE


def test_classify_is_asked_first() -> None:
    """The user's verdict wins over the rules, its retry_after included."""
    wanted = Verdict(Outcome.NEUTRAL, retry_after=3.0)
    asked: list[tuple[object, CallInfo]] = []

    def classify(value: object, call: CallInfo) -> Verdict | None:
        asked.append((value, call))
        return wanted

    error = ValueError()
    assert classifier(classify=classify).of_error(error, CALL) == wanted
    assert asked == [(error, CALL)]


def test_classify_is_asked_about_results_too() -> None:
    """It sees the result and the call; a success needs no verdict, and everything else is taken as it says."""
    asked: list[tuple[object, CallInfo]] = []
    busy = Verdict(Outcome.NEUTRAL, retry_after=3.0)

    def classify(value: object, call: CallInfo) -> Verdict | None:
        asked.append((value, call))
        return busy if value == "busy" else Verdict(Outcome.SUCCESS)

    this = classifier(classify=classify, unwanted=lambda result: True)
    assert this.of_result("done", CALL) is None
    assert this.of_result("busy", CALL) == busy
    assert asked == [("done", CALL), ("busy", CALL)]


def test_what_becomes_unknown_keeps_what_else_was_said() -> None:
    """The wait that the other side asked for, and what is known of the effect."""
    said = Verdict(Outcome.FAILURE, retry_after=3.0, effect="unknown")
    this = classifier("unsafe", classify=lambda value, call: said)

    assert this.of_error(ValueError(), CALL) == Verdict(Outcome.UNKNOWN, 3.0, "unknown")


def test_the_rules_say_whether_an_error_proves_that_nothing_happened() -> None:
    """In the verdict, for a call of any effect: whoever repeats it elsewhere has to know."""
    assert classifier().of_error(ConnectionRefusedError(), CALL) == Verdict(Outcome.FAILURE, effect="none")
    assert classifier().of_error(ConnectionResetError(), CALL) == Verdict(Outcome.FAILURE, effect="unknown")


def test_classify_may_leave_it_to_the_rules() -> None:
    """None means: no opinion."""
    this = classifier(classify=lambda value, call: None)
    assert this.of_error(ValueError(), CALL).outcome is Outcome.FAILURE
    assert this.of_error(CircuitOpenError("other"), CALL).outcome is Outcome.NEUTRAL
    assert this.of_result(1, CALL) is None


def test_classify_can_prove_that_an_unsafe_call_did_nothing() -> None:
    """A broker's "rejected, not booked" may be repeated."""
    this = classifier("unsafe", classify=lambda value, call: Verdict(Outcome.FAILURE, effect="none"))
    assert this.of_error(ValueError(), CALL).outcome is Outcome.FAILURE


def test_classify_that_raises_has_no_opinion(caplog: pytest.LogCaptureFixture) -> None:
    """Its own failure is logged, and the rules decide."""

    def broken(value: object, call: CallInfo) -> Verdict | None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "shockproof"):
        assert classifier(classify=broken).of_error(ValueError(), CALL).outcome is Outcome.FAILURE
        assert classifier(classify=broken).of_result(1, CALL) is None
    assert "classify failed" in caplog.text


def test_classify_that_returns_something_else_has_no_opinion(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong return type is logged with the value."""

    def wrong(value: object, call: CallInfo) -> Verdict | None:
        return "failure"  # type: ignore[return-value]  # the mistake under test

    assert classifier(classify=wrong).of_error(ValueError(), CALL).outcome is Outcome.FAILURE
    assert "'failure'" in caplog.text


def test_a_result_is_a_success_unless_somebody_says_otherwise() -> None:
    """The common case costs nothing: no classify, no check, no look."""
    assert classifier().looks_at_results is False
    assert classifier().of_result(None, CALL) is None


def test_an_unwanted_result_is_a_failure() -> None:
    """retry_if_result is true for what counts as a failure."""
    this = classifier(unwanted=lambda result: result == "pending")
    assert this.looks_at_results is True
    verdict = this.of_result("pending", CALL)
    assert verdict is not None
    assert verdict.outcome is Outcome.FAILURE
    assert this.of_result("done", CALL) is None


def test_a_result_check_that_raises_takes_the_result_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Its own failure is logged and changes nothing."""
    this = classifier(unwanted=lambda result: bool(1 / 0))
    assert this.of_result("anything", CALL) is None
    assert "retry_if_result failed" in caplog.text


@pytest.mark.parametrize("how", ["classify", "retry_if_result"])
def test_an_unwanted_result_of_an_unsafe_call_proves_nothing(how: str) -> None:
    """An answer that was judged a failure is no proof that nothing happened: it is not repeated blindly."""
    if how == "classify":
        this = classifier("unsafe", classify=lambda value, call: Verdict(Outcome.FAILURE))
    else:
        this = classifier("unsafe", unwanted=lambda result: True)
    verdict = this.of_result("pending", CALL)
    assert verdict is not None
    assert verdict.outcome is Outcome.UNKNOWN


def test_what_the_error_asks_for_is_in_the_verdict() -> None:
    """An attribute retry_after of the error is honoured."""
    error = ValueError()
    error.retry_after = 4.0  # type: ignore[attr-defined]  # as HTTP clients' errors have it
    assert classifier().of_error(error, CALL).retry_after == 4.0


class BusyError(Exception):
    """What a client raises that was asked to come again later."""

    def __init__(self, seconds: float) -> None:
        super().__init__("busy")
        self.retry_after = seconds


@pytest.mark.parametrize(
    ("group", "wanted"),
    [
        (ExceptionGroup("all", [BusyError(4.0), ValueError(), ExceptionGroup("in", [BusyError(9.0)])]), 9.0),
        (ExceptionGroup("all", [ValueError(), KeyError()]), None),
        (ExceptionGroup("all", [ValueError(), CircuitOpenError("other", retry_after=60.0)]), None),
    ],
)
def test_the_longest_wait_that_an_error_of_a_group_asks_for_is_in_the_verdict(
    group: ExceptionGroup[Exception], wanted: float | None
) -> None:
    """A task group hides no Retry-After; how long a circuit of ours stays open is none."""
    assert classifier().of_error(group, CALL).retry_after == wanted


def test_a_moment_that_the_other_side_names_is_counted_on_the_clock_of_the_service() -> None:
    """On virtual time, too: a date of its own today is not one of some other year."""
    clock = VirtualClock(wall=1_700_000_000.0)
    error = ValueError("IP banned until 1700000090500")
    call = CallInfo("market_data", "fetch", 1, "read", clock)
    assert classifier().of_error(error, call).retry_after == 90.5


def test_a_verdict_is_made_of_what_stands_for_its_parts() -> None:
    """The value of an outcome, and a timedelta, as everywhere."""
    verdict = Verdict("neutral", timedelta(seconds=3), "none")  # type: ignore[arg-type]  # as one without a type checker writes
    assert verdict == Verdict(Outcome.NEUTRAL, 3.0, "none")
    assert verdict.outcome is Outcome.NEUTRAL
    assert type(Verdict(Outcome.FAILURE, 3).retry_after) is float


@pytest.mark.parametrize(
    ("parts", "error", "says"),
    [
        ({"outcome": "failed"}, ValueError, "outcome must be one of 'success', .*'unknown', got 'failed'"),
        ({"outcome": None}, ValueError, "outcome must be .*got None"),
        ({"outcome": Outcome.FAILURE, "retry_after": -1}, ValueError, "retry_after must be seconds .*got -1"),
        ({"outcome": Outcome.FAILURE, "retry_after": "3"}, TypeError, "retry_after must be .*got '3'"),
        ({"outcome": Outcome.FAILURE, "retry_after": float("nan")}, ValueError, "retry_after must be .*nan"),
        (
            {"outcome": Outcome.FAILURE, "effect": "no"},
            ValueError,
            "effect must be one of 'none', .*got 'no'",
        ),
    ],
)
def test_a_verdict_of_something_else_is_refused_where_it_is_made(
    parts: dict[str, Any], error: type[Exception], says: str
) -> None:
    """Inside of `classify`, whose failure masks nothing: not where the call waits by it."""
    with pytest.raises(error, match=says):
        Verdict(**parts)


def test_a_predicate_whose_answer_is_neither_true_nor_false_takes_the_result_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Such as a comparison of arrays, which refuses to be one truth: that hides no result."""

    class Array:
        def __bool__(self) -> bool:
            raise ValueError("the truth value of an array is ambiguous")

    this = classifier(unwanted=lambda result: Array())  # type: ignore[arg-type,return-value]  # the mistake under test
    with caplog.at_level(logging.ERROR, "shockproof"):
        assert this.of_result([1, 2], CALL) is None
    assert "retry_if_result failed" in caplog.text

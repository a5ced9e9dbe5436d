"""The attempts on the error that ends a call: as data, and as notes."""

from __future__ import annotations

import copy
import pickle

from hypothesis import given
from hypothesis import strategies as st

from shockproof import Attempt, attempts_of
from shockproof.calls.history_of_attempts import attach, describe


def attempts(count: int, text: str = "no") -> list[Attempt]:
    return [
        Attempt(n, "ValueError", text, 1_000.0 + n, 0.5, None if n == count else 1.0)
        for n in range(1, count + 1)
    ]


def test_what_was_attached_is_what_is_told() -> None:
    """First to last."""
    error, history = ValueError(), attempts(3)
    attach(error, "api", history, "no retries left")
    assert attempts_of(error) == tuple(history)


def test_a_single_attempt_leaves_no_notes_without_a_reason() -> None:
    """A first failure that nobody repeats looks as it always did."""
    error = ValueError()
    attach(error, "api", attempts(1), "")
    assert not hasattr(error, "__notes__")


def test_the_notes_name_the_service_and_the_attempts() -> None:
    """Each earlier attempt with its duration, type, text and wait, then why there was no other."""
    error = ValueError()
    attach(error, "api", attempts(3), "no retries left")
    assert error.__notes__ == [
        "shockproof api: attempt 1 failed after 0.5 s with ValueError: no, then waited 1 s",
        "shockproof api: attempt 2 failed after 0.5 s with ValueError: no, then waited 1 s",
        "shockproof api: not repeated: no retries left",
    ]


@given(st.lists(st.tuples(st.sampled_from(["api", "other"]), st.integers(1, 30)), min_size=1, max_size=6))
def test_however_often_an_object_is_raised_again_no_note_is_there_twice(calls: list[tuple[str, int]]) -> None:
    """Each service's notes are those of its last call; the user's own stay."""
    error = ValueError()
    error.add_note("the user's")
    for service, count in calls:
        attach(error, service, attempts(count), "no retries left")
    assert error.__notes__.count("the user's") == 1
    assert len(set(error.__notes__)) == len(error.__notes__)
    assert len(error.__notes__) <= 1 + 2 * 12


def test_an_outer_single_attempt_does_not_cover_an_inner_history() -> None:
    """And a later call of the same service does replace it."""
    error = ValueError()
    attach(error, "inner", attempts(3), "no retries left")
    attach(error, "outer", attempts(1), "")
    assert len(attempts_of(error)) == 3
    attach(error, "outer", attempts(2), "no retries left")
    assert len(attempts_of(error)) == 2


def test_a_long_text_is_cut() -> None:
    """What is kept is bounded, whatever the error says."""
    kind, text = describe(ValueError("x" * 100_000))
    assert kind == "ValueError"
    assert len(text) < 600


def test_a_text_that_cannot_be_made_is_said_to_be_so() -> None:
    """The call's error is not replaced by that of its __str__."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    kind, text = describe(MuteError())
    assert kind == "MuteError"
    assert "ZeroDivisionError" in text


def test_an_error_with_attempts_can_be_copied_and_pickled() -> None:
    """As from a worker process, or into a queue."""
    error = ValueError("no")
    attach(error, "api", attempts(3), "no retries left")
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert attempts_of(other) == attempts_of(error)
        assert other.__notes__ == error.__notes__


def test_foreign_data_under_the_same_name_is_not_believed() -> None:
    """attempts_of never raises."""
    for kept in (5, "x", (1, 2), ("api", [1]), None):
        error = ValueError()
        error.__shockproof_attempts__ = kept  # type: ignore[attr-defined]  # the foreign data
        assert attempts_of(error) == ()

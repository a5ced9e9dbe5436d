"""When to ask what became of something, and what an answer proves."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.confirmation import Confirmation, window_left
from shockproof.vocabulary.look_up import NOT_FOUND, UNKNOWN, Found, LookUp


def play(answers: list[LookUp[object]], *, closes_at: float, settle: float) -> tuple[str, list[float]]:
    """The verdict, and when it asked; the last answer is given for ever, each at once."""
    questions = Confirmation(closes_at=closes_at, settle=settle)
    now, asked = 0.0, []
    while True:
        questions.asks(now)
        asked.append(now)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        step = questions.answered(answer, now)
        if isinstance(step, str):
            return step, asked
        now += step


def test_found_is_proof_at_any_time() -> None:
    """Also within the window, and at the first question."""
    assert play([Found("order")], closes_at=30.0, settle=30.0) == ("found", [0.0])


def test_not_found_is_proof_only_behind_the_window() -> None:
    """An order may still be on its way; right behind the window somebody asks."""
    verdict, asked = play([NOT_FOUND], closes_at=30.0, settle=30.0)

    assert verdict == "absent"
    assert asked[-1] == 30.0
    assert asked[:4] == [0.0, 0.05, pytest.approx(0.15), pytest.approx(0.35)]


def test_question_that_began_within_the_window_proves_nothing_when_its_answer_comes_behind_it() -> None:
    """The other side may have looked before the order came."""
    questions = Confirmation(closes_at=30.0, settle=30.0)
    questions.asks(29.0)

    assert questions.answered(NOT_FOUND, 31.0) not in {"absent", "unproven"}


def test_it_never_gives_up_before_it_asked_behind_the_window() -> None:
    """The answer to an early question comes when the time is up already: it is asked once more, at once."""
    questions = Confirmation(closes_at=30.0, settle=30.0)
    questions.asks(29.0)
    assert questions.answered(UNKNOWN, 61.0) == 0.0
    questions.asks(61.0)
    assert questions.answered(UNKNOWN, 62.0) == "unproven"


def test_unknown_for_ever_ends_unproven() -> None:
    """A settle time after the window, and not before."""
    verdict, asked = play([UNKNOWN], closes_at=30.0, settle=30.0)

    assert verdict == "unproven"
    assert asked[-1] == pytest.approx(60.0)


def test_order_that_appears_late_is_found() -> None:
    """Between two questions that did not know it."""
    assert play([NOT_FOUND, UNKNOWN, Found(1)], closes_at=30.0, settle=30.0)[0] == "found"


def test_what_is_still_under_way_is_not_absent() -> None:
    """A thread that was left behind may send it yet: the window begins when that has ended."""
    questions = Confirmation(closes_at=10.0, settle=10.0)
    questions.still_under_way(22.0)
    questions.asks(12.0)
    assert questions.answered(NOT_FOUND, 12.0) == pytest.approx(0.05)
    questions.asks(19.0)
    assert questions.answered(NOT_FOUND, 20.0) == "unproven"
    questions.asks(22.0)
    assert questions.answered(NOT_FOUND, 22.0) == "absent"


def test_without_a_window_the_first_answer_counts() -> None:
    """``settle=0`` is for venues that show an order in the moment they accept it."""
    assert play([NOT_FOUND], closes_at=0.0, settle=0.0) == ("absent", [0.0])
    verdict, asked = play([UNKNOWN], closes_at=0.0, settle=0.0)
    assert verdict == "unproven"
    assert asked[-1] == pytest.approx(2.0)


@given(
    closes_at=st.floats(0, 100),
    settle=st.floats(0, 100),
    answers=st.lists(st.sampled_from([NOT_FOUND, UNKNOWN]), min_size=1, max_size=20),
)
def test_it_always_ends_and_never_takes_an_early_no_for_proof(
    closes_at: float, settle: float, answers: list[LookUp[object]]
) -> None:
    """Whatever is answered; waits are bounded, and absence is proven behind the window only."""
    verdict, asked = play(answers, closes_at=closes_at, settle=settle)

    assert verdict in {"absent", "unproven"}
    assert asked[-1] >= closes_at
    assert asked[-1] <= closes_at + max(settle, 2.0) + 0.001
    assert all(later - earlier <= 2.001 for earlier, later in pairwise(asked))


@pytest.mark.parametrize(
    ("passed", "left"),
    [
        (0.0, 30.0),
        (10.0, 20.0),
        (400.0, 0.0),
        (-15.0, 30.0),  # the attempt would have gone on, and the program that made it has died
    ],
)
def test_window_counts_from_the_last_send_and_is_never_longer(passed: float, left: float) -> None:
    """And is not begun anew by a restart."""
    assert window_left(30.0, passed=passed) == left

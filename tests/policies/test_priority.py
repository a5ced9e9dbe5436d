"""Who goes first where calls wait."""

from __future__ import annotations

import pytest

from shockproof.policies.priority import RISK_REDUCING, Line, Priority, rank_of

HIGH, NORMAL, LOW = 1, 2, 3


def line_of(*waiters: tuple[str, int]) -> Line[str]:
    line: Line[str] = Line()
    for waiter, rank in waiters:
        line.join(waiter, rank)
    return line


@pytest.mark.parametrize(("priority", "rank"), [("high", HIGH), ("normal", NORMAL), ("low", LOW)])
def test_ranks_follow_the_priorities_and_cancels_go_before_all(priority: Priority, rank: int) -> None:
    """A call that reduces risk is first whatever else it says."""
    assert rank_of(priority, risk_reducing=False) == rank
    assert rank_of(priority, risk_reducing=True) == RISK_REDUCING == 0


def test_the_most_important_is_first_and_among_equals_who_came_first() -> None:
    """However they came."""
    line = line_of(("low", LOW), ("second", HIGH), ("third", HIGH), ("cancel", RISK_REDUCING))
    served = []
    while (first := line.first()) is not None:
        served.append(first)
        line.leave(first)

    assert served == ["cancel", "second", "third", "low"]
    assert len(line) == 0


def test_whoever_is_not_here_may_leave_nevertheless() -> None:
    """A waiter that was served may leave once more when its loop is collected."""
    line = line_of(("one", NORMAL))

    line.leave("other")
    assert line.first() == "one"
    line.leave("one")
    line.leave("one")
    assert line.first() is None


def test_risk_reducing_ones_are_not_counted_among_the_bounded() -> None:
    """There is always room for them."""
    line = line_of(("a", RISK_REDUCING), ("b", RISK_REDUCING), ("c", HIGH), ("d", LOW))

    assert (len(line), line.bounded) == (4, 2)


def test_a_newcomer_stands_behind_its_equals_and_its_betters() -> None:
    """The first of these is the one it waits for; behind the others nobody waits."""
    line = line_of(("low", LOW), ("normal", NORMAL), ("late", NORMAL))

    assert line.first_before(RISK_REDUCING) is None
    assert line.first_before(HIGH) is None
    assert line.first_before(NORMAL) == "normal"
    assert line.first_before(LOW) == "normal"
    line.join("cancel", RISK_REDUCING)
    assert line.first_before(RISK_REDUCING) == "cancel"


def test_the_least_important_who_came_last_goes_first() -> None:
    """Nobody goes for an equal."""
    line = line_of(("normal", NORMAL), ("low", LOW), ("last", LOW))

    assert line.last_behind(LOW) is None
    assert line.last_behind(NORMAL) == "last"
    assert line.last_behind(RISK_REDUCING) == "last"
    line.leave("last")
    line.leave("low")
    assert line.last_behind(HIGH) == "normal"
    assert line.last_behind(NORMAL) is None

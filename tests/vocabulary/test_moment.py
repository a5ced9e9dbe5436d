"""How long ago something was, as far as another life can tell."""

from __future__ import annotations

import json

import pytest

from shockproof.vocabulary.moment import Moment

SENT = Moment(wall=1_000_000.0, running=500.0, boot="this start")


@pytest.mark.parametrize("step", [0.0, 3600.0, -3600.0])
def test_clock_that_nobody_sets_tells_within_one_start(step: float) -> None:
    """Whatever was done to the other one."""
    assert Moment(1_000_010.0 + step, 510.0, "this start").since(SENT) == 10.0


def test_other_start_tells_nothing() -> None:
    """It may be another machine, and its clock not be set yet."""
    assert Moment(1_000_010.0, 3.0, "other start").since(SENT) is None
    assert Moment(1_000_010.0, 510.0, None).since(SENT) is None


@pytest.mark.parametrize(
    ("wall", "running", "passed"), [(10.5, 10.0, 10.0), (3610.0, 10.0, None), (10.0, -490.0, None)]
)
def test_both_clocks_must_agree_where_starts_have_no_name(
    wall: float, running: float, passed: float | None
) -> None:
    """One was set, or the machine was started again: the two cannot be told apart."""
    sent = SENT._replace(boot=None)

    assert Moment(sent.wall + wall, sent.running + running, None).since(sent) == passed


@pytest.mark.parametrize(
    ("later", "passed"),
    [
        (Moment(1_003_600.0, 510.0, "this start"), 10.0),
        (Moment(1_003_600.0, 3.0, "other start"), 3600.0),
        (Moment(996_400.0, 3.0, "other start"), -3600.0),
    ],
)
def test_clock_on_the_wall_is_believed_where_nothing_better_tells(later: Moment, passed: float) -> None:
    """What is counted by it is bounded anyway."""
    assert later.passed_since(SENT) == passed


def test_moment_comes_back_from_json() -> None:
    """The journal keeps it so."""
    for moment in (SENT, SENT._replace(boot=None), SENT.later(5.0)):
        assert Moment.from_dict(json.loads(json.dumps(moment.as_dict()))) == moment


@pytest.mark.parametrize(
    "damaged",
    [None, [], {}, {"wall": "1", "running": 2.0, "boot": None}, {"wall": 1, "running": 2, "boot": 3}],
)
def test_anything_else_is_no_moment(damaged: object) -> None:
    """A record that makes no sense tells nothing, and stops nobody."""
    assert Moment.from_dict(damaged) is None

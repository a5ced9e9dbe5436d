"""Which line held a loop, from looks at frames that the test hands in."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from shockproof.calls.sightings import Sightings

THE_LOOP = 1


def ceiling(inner: Callable[[], FrameType]) -> FrameType:
    """Stands for the code that runs what the loop runs."""
    return inner()


def strategy() -> FrameType:
    return sys._getframe()


def risk() -> FrameType:
    return sys._getframe()


def test_the_line_that_was_seen_most_often_is_named_with_the_way_there() -> None:
    """A stall of several lines is that of the longest."""
    sightings = Sightings(ceiling.__code__)
    for inner in (risk, strategy, strategy):
        sightings.look(THE_LOOP, {THE_LOOP: ceiling(inner)}, 0.0)
    found = sightings.finding(0.5)
    assert found.where is not None
    assert found.where.startswith(f"{__file__}:")
    assert found.where.endswith(" in strategy")
    assert (found.stack, found.cause) == ((found.where,), "blocked")


def test_a_line_of_the_standard_library_is_told_by_the_line_that_called_it() -> None:
    """Nobody can do anything about functools.py, and much about who calls it."""
    innermost: list[FrameType] = []

    class Cached:
        @functools.cached_property
        def value(self) -> int:
            innermost.append(sys._getframe(1))  # a line of functools.py
            return 1

    def caller() -> FrameType:
        assert Cached().value == 1
        return innermost[0]

    sightings = Sightings(ceiling.__code__)

    def looked_at() -> FrameType:
        return caller()

    sightings.look(THE_LOOP, {THE_LOOP: ceiling(looked_at)}, 0.0)
    found = sightings.finding(0.5)
    assert "functools.py" in found.stack[-1]
    assert found.where is not None
    assert found.where.endswith("caller")


@pytest.mark.parametrize(("late", "cause"), [(0.2, "blocked"), (0.3, "interpreter lock")])
def test_looks_that_came_late_themselves_say_that_nobody_else_could_run(late: float, cause: str) -> None:
    """A C call that holds the interpreter lock holds the one that looks, too; its line is seen right behind it."""
    sightings = Sightings(ceiling.__code__)
    sightings.look(THE_LOOP, {THE_LOOP: ceiling(strategy)}, late)
    assert sightings.finding(0.6).cause == cause


def test_a_loop_that_runs_nothing_is_not_blamed() -> None:
    """The process was stopped, or another thread held the lock: no line of the loop's is to blame."""
    sightings = Sightings(ceiling.__code__)
    sightings.look(THE_LOOP, {THE_LOOP: ceiling(strategy)}, 0.0)
    for frames in ({THE_LOOP: strategy()}, {}, {THE_LOOP: strategy()}):  # nowhere below what runs callbacks
        sightings.look(THE_LOOP, frames, 0.5)
    assert sightings.finding(0.6) == (None, (), "not the loop")


def test_what_nobody_saw_is_told_so() -> None:
    """No line is better than a wrong one."""
    assert Sightings(None).finding(0.5) == (None, (), "unseen")


def test_what_is_remembered_of_a_long_stall_is_bounded() -> None:
    """Hours of looks at generated code keep no more than some places, and no frame."""
    sightings = Sightings(ceiling.__code__)
    for number in range(500):
        names: dict[str, Callable[[], FrameType]] = {}
        exec(compile(f"import sys\ndef f{number}():\n    return sys._getframe()", "made", "exec"), names)
        sightings.look(THE_LOOP, {THE_LOOP: ceiling(names[f"f{number}"])}, 0.0)
    assert len(sightings._seen) == 64
    assert sightings.finding(0.5).where == "made:3 in f0"


def test_a_recursion_keeps_its_innermost_lines() -> None:
    """The whole stack would be a page."""

    def deep(depth: int) -> FrameType:
        return deep(depth - 1) if depth else sys._getframe()

    sightings = Sightings(ceiling.__code__)
    sightings.look(THE_LOOP, {THE_LOOP: ceiling(lambda: deep(200))}, 0.0)
    found = sightings.finding(0.5)
    assert len(found.stack) == 30
    assert found.where == found.stack[-1]

"""Which part of what was recorded the pictures show, and in which columns."""

from __future__ import annotations

import pytest

from shockproof.views.status_window import window_for


@pytest.mark.parametrize(
    ("recorded", "minutes", "columns"), [(0, 1, 12), (60, 1, 12), (61, 5, 60), (9e9, 15, 60)]
)
def test_a_young_program_fills_its_pictures(recorded: float, minutes: int, columns: int) -> None:
    """The first minute would be a line at the right edge of a quarter of an hour."""
    window = window_for(recorded)
    assert (window.minutes, window.columns, window.column * window.columns) == (
        minutes,
        columns,
        minutes * 60,
    )


def test_columns_wander_and_do_not_change_on_the_way() -> None:
    """What stood together stands together a step later, and only the newest column grows."""
    window = window_for(900.0)
    steps = list(range(1_000))
    before = window.grouped(steps[:899], 898)
    later = window.grouped(steps[:901], 900)
    assert len(before) == len(later) == 60
    assert before[-1] == [897, 898]
    assert later[-2:] == [[897, 898, 899], [900]]
    assert later[:-2] == before[1:-1]


def test_what_was_not_recorded_is_no_column() -> None:
    """The first step that there is may stand in the middle of one."""
    assert window_for(900.0).grouped(["b", "c", "d"], 3) == [["b", "c"], ["d"]]

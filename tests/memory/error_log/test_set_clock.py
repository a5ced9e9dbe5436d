"""Whether the wall clock is believed, by what it showed before."""

from __future__ import annotations

from shockproof.memory.error_log.set_clock import SetClock

HOUR = 3600.0
DAY = 24 * HOUR


def test_a_clock_that_nobody_sets_is_believed() -> None:
    """From the first look on, over years, and also where it is corrected by a little."""
    clock = SetClock()

    assert all(clock.is_believed(1e9 + day * DAY + day * 60, day * DAY) for day in range(1_000))


def test_a_clock_that_was_set_is_believed_after_an_hour() -> None:
    """Forward and back; and then it is the right one."""
    for jump in (365 * DAY, -365 * DAY, DAY):
        clock = SetClock()
        assert clock.is_believed(1e9, 0.0)
        assert not clock.is_believed(1e9 + jump + 1, 1.0)
        assert not clock.is_believed(1e9 + jump + HOUR, HOUR)
        assert clock.is_believed(1e9 + jump + HOUR + 1, HOUR + 1)
        assert clock.is_believed(1e9 + jump + HOUR + 2, HOUR + 2)


def test_a_clock_that_was_put_right_is_believed_at_once() -> None:
    """And set wrong once more, for an hour from then on."""
    clock = SetClock()
    assert clock.is_believed(1e9, 0.0)
    assert not clock.is_believed(1e9 + 365 * DAY, 0.0)

    assert clock.is_believed(1e9 + 50 * 60, 50 * 60)
    assert not clock.is_believed(1e9 + 365 * DAY + 50 * 60, 50 * 60)
    assert not clock.is_believed(1e9 + 365 * DAY + 70 * 60, 70 * 60)


def test_the_hour_begins_anew_whenever_a_clock_is_set() -> None:
    """One that jumps about is never believed."""
    clock = SetClock()
    assert clock.is_believed(1e9, 0.0)

    assert not any(
        clock.is_believed(1e9 + turn * 40 * 60 + (turn % 2 + 1) * 365 * DAY, turn * 40 * 60)
        for turn in range(1, 9)
    )

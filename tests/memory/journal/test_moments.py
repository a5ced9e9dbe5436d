"""Where the journal's moments come from."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest

from shockproof.memory.journal.moments import moment_of
from shockproof.testing import VirtualClock
from shockproof.vocabulary.clock import SystemClock, as_clock


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a name for a start of the machine")
def test_two_moments_of_the_real_time_are_of_one_start() -> None:
    """So that another life of the program on this machine can tell how long ago something was."""
    earlier, later = moment_of(SystemClock()), moment_of(SystemClock())

    assert earlier.boot is not None
    passed = later.since(earlier)
    assert passed is not None
    assert 0.0 <= passed < timedelta(minutes=5).total_seconds()


def test_clock_of_the_users_own_says_itself_which_start_it_counts_from() -> None:
    """A virtual one is a start of its own, and a bare function has no name for it."""
    clock = VirtualClock()
    earlier = moment_of(clock)
    clock.advance(5.0)

    assert moment_of(clock).since(earlier) == 5.0
    assert moment_of(VirtualClock()).since(earlier) is None
    assert moment_of(as_clock(lambda: 7.0))[1:] == (7.0, None)

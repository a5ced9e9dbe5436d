"""When a loop that comes too late is too late."""

from __future__ import annotations

from shockproof.policies.loop_health import LoopHealth


def test_one_great_lateness_degrades_it_until_there_was_none_for_long_enough() -> None:
    """A person sees it in time, and it does not flicker."""
    health = LoopHealth(degraded_above=0.5, recovers_after=30.0)
    health.came_late(100.0, 0.49)
    assert not health.is_degraded(100.0)
    health.came_late(110.0, 0.5)
    health.came_late(111.0, 0.0)
    assert health.is_degraded(139.9)
    assert not health.is_degraded(140.0)


def test_what_has_not_come_yet_degrades_it_as_long_as_that_lasts() -> None:
    """Whoever asks from another thread does not have to wait for the loop."""
    health = LoopHealth(degraded_above=0.5, recovers_after=30.0)
    assert health.is_degraded(100.0, 0.5)
    assert not health.is_degraded(100.0, 0.49)

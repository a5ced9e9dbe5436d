"""
Whether an event loop keeps up, told from how late it comes to what is due.

     ok ──(late by degraded_above or more)──> degraded ──(recovers_after without that)──> ok
"""

from __future__ import annotations

import math

__all__ = ["LoopHealth"]


class LoopHealth:
    """
    One verdict for all loops that one monitor watches. Time is monotonic seconds.

    Args:
        degraded_above: seconds of lateness that are too many, more than 0.
        recovers_after: seconds without such a lateness until it is well again, at least 0.
    """

    __slots__ = ("_bad_until", "degraded_above", "recovers_after")

    def __init__(self, degraded_above: float, recovers_after: float) -> None:
        self.degraded_above = degraded_above
        self.recovers_after = recovers_after
        self._bad_until = -math.inf

    def came_late(self, now: float, late: float) -> None:
        """Something that was due came *late* seconds after its time."""
        if late >= self.degraded_above:
            self._bad_until = now + self.recovers_after

    def is_degraded(self, now: float, late_now: float = 0.0) -> bool:
        """Whether it is; *late_now*: seconds by which something is late that has not come yet."""
        return late_now >= self.degraded_above or now < self._bad_until

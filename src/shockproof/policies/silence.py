"""
When a feed has been silent for too long.

Only the time counts in which somebody waited for an item and our own loop could have heard it.

     nobody waits <──(an item)─── waits ───(stale_after without an item)──> a last look ──> silent
          └──────(asked for one)────^  └──(our loop stood still: anew)──┘      (one turn of the loop)
"""

from __future__ import annotations

import math

from shockproof.policies.stall import STALL_SHARE, was_stalled

__all__ = ["Silence"]


class Silence:
    """
    One connection's silence. `waits_since` belongs to the reader, and `look` is asked as often as it says.

    A reader that waits sets the time, and None when it waits no longer: two assignments for an item.

    Args:
        stale_after: seconds without an item that are too long, more than 0.
        now: the time of the first look that is due at once.
    """

    __slots__ = ("_deaf_until", "_next_look", "_suspected", "stale_after", "waits_since")

    def __init__(self, stale_after: float, now: float) -> None:
        self.stale_after = stale_after
        self.waits_since: float | None = None
        self._deaf_until = -math.inf
        self._next_look = now
        self._suspected: float | None = None

    def look(self, now: float) -> float | None:
        """Seconds until the next look, at most a quarter of the limit; None: it has been silent for too long."""
        if was_stalled(now - self._next_look, self.stale_after):
            self._deaf_until = now
        wait = self._wait(now)
        if wait is not None:
            self._next_look = now + wait
        return wait

    def _wait(self, now: float) -> float | None:
        wait, since = STALL_SHARE * self.stale_after, self.waits_since
        if since is None:
            return wait
        left = max(since, self._deaf_until) + self.stale_after - now
        if left > 0:
            return min(wait, left)
        if self._suspected != since:
            # What arrived in this very turn of the loop is on its way to the reader: it comes first.
            self._suspected = since
            return 0.0
        return None

"""
How long a circuit stays open: longer each time in a row, and not equally long for everybody.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["OpenTime"]


class OpenTime(NamedTuple):
    """
    The open time grows by `factor` with each opening in a row, up to `longest` seconds.

    With n = 0 for the first opening, e(n) = min(max(longest, timeout), timeout * factor**n), and the
    circuit stays open for a time between (1 - jitter) * e(n) and e(n). The cap comes first and the
    jitter second, as for the waits of a retry; it only shortens, so that nothing is ever longer than
    the cap. It keeps many processes from sending their probes in the same moment.
    """

    factor: float = 1.0
    longest: float = 600.0
    jitter: float = 0.0

    def seconds(self, timeout: float, opening: int, draw: float) -> float:
        """The open time of the *opening*-th in a row, counted from 0; *draw* is a number in [0, 1)."""
        try:
            grown = timeout * self.factor**opening
        except OverflowError:
            grown = float("inf")
        return min(max(self.longest, timeout), grown) * (1.0 - self.jitter * draw)

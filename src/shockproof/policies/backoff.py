"""
How long to wait before an attempt is repeated.

Formulas: with n = 0 before the first retry, e(n) = min(max_delay, base_delay * backoff_factor**n).
The cap comes first and the jitter second, so that delays at the cap still differ ("Exponential
Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

__all__ = ["JITTERS", "Backoff", "Jitter", "Randomness"]

Jitter = Literal["none", "full", "equal", "decorrelated"]
JITTERS: Final[tuple[Jitter, ...]] = ("none", "full", "equal", "decorrelated")


class Randomness(Protocol):
    """What jitter needs of a random source; ``random.Random(seed)`` is one."""

    def random(self) -> float:
        """A float in [0, 1)."""
        ...


class Backoff:
    """
    Seconds to wait before each retry. Stateless: one serves any number of calls and threads.

    * ``none``: e(n), exact.
    * ``full``: uniform in [0, e(n)].
    * ``equal``: uniform in [e(n)/2, e(n)].
    * ``decorrelated``: uniform in [base_delay, min(max_delay, 3 * previous delay)]. The published
      form clips after drawing, which lets most delays pile up at the cap; this one does not.
    """

    __slots__ = ("_jitter", "_rng", "base_delay", "factor", "max_delay")

    def __init__(
        self, *, base_delay: float, max_delay: float, factor: float, jitter: Jitter, rng: Randomness
    ) -> None:
        self.base_delay = base_delay
        self.max_delay = max_delay
        self.factor = factor
        self._jitter: Jitter = jitter
        self._rng = rng

    def delay(self, retry: int, previous: float) -> float:
        """Seconds before retry number *retry* (0 is the first), *previous* being the delay before."""
        try:
            capped = min(self.max_delay, self.base_delay * self.factor**retry)
        except OverflowError:  # a float power past 1e308: long past any cap, unless nothing grows
            capped = self.max_delay if self.base_delay else 0.0
        match self._jitter:
            case "none":
                return capped
            case "full":
                return capped * self._rng.random()
            case "equal":
                return capped * (1 + self._rng.random()) / 2
            case "decorrelated":
                low = min(self.base_delay, self.max_delay)
                high = max(low, min(self.max_delay, 3 * previous)) if previous else low
                return low + (high - low) * self._rng.random()

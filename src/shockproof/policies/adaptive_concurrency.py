"""
How many calls may be in flight at once, found out from how the other side answers.

The estimate is that of TCP Vegas (Brakmo and Peterson, 1994), which Netflix's concurrency-limits applies to
requests: a latency of *n* times the unloaded one says that of the calls in flight one in *n* is being
worked on, and the others wait in a queue of our own making. What is known to go wrong with it is mended:

* The unloaded latency is not learnt from our own queue: now and then the limit is halved until that makes
  answers no faster, and what is measured there is it (as BBR does for round trips, Cardwell and others, 2016).
  It rises, too, where the limit had been halved because of slow answers, and they came no faster.
* Timeouts and answers that say "too much" are no latencies but drops. They shrink the limit by a tenth, at
  most once for each round trip, as in TCP. Without that, constant timeouts let it grow without end.
* Drops that half the calls did not make fewer have nothing to do with how many there are: they are put up
  with, unless they are the most.
* It grows only when it was reached, and only calls count that began after it was last changed.
* A slow stretch has to be confirmed by calls that began after it: a pause of our own program makes all calls
  in flight slow, and is over by then.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Final

from shockproof.vocabulary.arguments import whole_number

__all__ = ["AdaptiveConcurrency", "AdaptiveLimit"]

_FEWEST: Final = 16
_MOST: Final = 100
"""Calls that make up a window: twice the limit, and between these."""

_SLOW: Final = 1.5
"""How many times the unloaded latency is put up with; calls alone vary by a good part of it."""

_QUEUE: Final = 3.0
"""So many waiting calls are put up with as well: of a few in flight, chance alone makes some look queued."""

_FASTER: Final = 0.75
"""Halving the limit helped, if answers take only this share of the time; with a full queue it is a half."""

_NOT_FASTER: Final = 0.8
"""It did not help, if they still take more than this share."""

_FLOOR: Final = 4
"""With so few in flight there is hardly a queue of ours: no probe goes below."""

_LEARN: Final = 0.3
"""What the last window counts in averages."""

_LONGEST_QUIET: Final = 32
"""Full windows between two probes, when the last ones found nothing new."""
_SHORTEST_QUIET: Final = 8
"""The same after one that did."""

_DROPS: Final = 0.1
"""The share of drops that is always put up with."""
_MOSTLY: Final = 0.5
"""Above this share drops are never put up with."""
_AFTER_DROPS: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveConcurrency:
    """
    A limit for `max_concurrent` that finds itself: ``max_concurrent=AdaptiveConcurrency(maximum=50)``.

    Args:
        initial: where it begins. Default 10.
        minimum: it never becomes less, at least 1. Default 1.
        maximum: it never becomes more. Default 200.

    Raises:
        TypeError, ValueError: they are no whole numbers, or not in this order: minimum, initial, maximum.
    """

    initial: int = 10
    minimum: int = 1
    maximum: int = 200

    def __post_init__(self) -> None:
        whole_number("minimum", self.minimum, minimum=1)
        whole_number("initial", self.initial, minimum=1)
        whole_number("maximum", self.maximum, minimum=1)
        if not self.minimum <= self.initial <= self.maximum:
            raise ValueError(
                f"initial={self.initial} must be between minimum={self.minimum} and maximum={self.maximum}"
            )


class AdaptiveLimit:
    """
    The limit as it is now, and what moves it. Safe to share between threads.

    Told of each call that was answered or dropped; neutral ends and failures that say nothing about load
    are not its business. Calls are collected into windows, and the limit may move at the end of each.
    """

    __slots__ = (
        "_answered",
        "_drop_trial",
        "_dropped",
        "_drops",
        "_is_full",
        "_limit",
        "_lock",
        "_probe",
        "_quiet",
        "_since",
        "_slow_since",
        "_slow_trial",
        "_smoothed",
        "_tolerated",
        "_total",
        "_unloaded",
        "_until_probe",
        "bounds",
    )

    def __init__(self, bounds: AdaptiveConcurrency) -> None:
        self.bounds = bounds
        self._limit = float(bounds.initial)
        self._since = -math.inf
        """Only calls that began later count: they show what the limit of now does."""
        self._unloaded: float | None = None
        self._smoothed: float | None = None
        self._quiet = self._until_probe = 1
        self._probe: tuple[float, float, float] | None = None
        """While the limit is lowered to measure: what it was, the latency then, and that of the last step."""
        self._slow_since: float | None = None
        self._slow_trial: tuple[float, float] | None = None
        """Limit and latency at which slow answers began to lower it."""
        self._drops = 0.0
        self._tolerated = 0.0
        self._drop_trial: tuple[float, float] | None = None
        """Limit and share of drops at which they began to lower it."""
        self._answered = self._dropped = 0
        self._total = 0.0
        self._is_full = False
        self._lock = threading.Lock()

    @property
    def limit(self) -> int:
        """How many calls may be in flight."""
        return int(self._limit)

    def ended(self, now: float, seconds: float, *, dropped: bool, is_full: bool) -> bool:
        """
        A call that took *seconds* ended at *now*; whether the limit moved.

        *dropped*: it ran into a time limit, or was told that it was too much. *is_full*: whether as many as
        allowed were in flight since the last call that ended.
        """
        with self._lock:
            if now - seconds < self._since:
                return False
            self._is_full = self._is_full or is_full
            if dropped:
                self._dropped += 1
            else:
                self._answered += 1
                self._total += seconds
            if self._answered + self._dropped < min(_MOST, max(_FEWEST, 2 * self.limit)):
                return False
            before = self.limit
            self._limit = min(max(self._next(now), self.bounds.minimum), self.bounds.maximum)
            self._begin_window()
            if self.limit != before:
                self._since = now
            return self.limit != before

    def _begin_window(self) -> None:
        self._answered = self._dropped = 0
        self._total = 0.0
        self._is_full = False

    def _next(self, now: float) -> float:
        share = self._dropped / (self._answered + self._dropped)
        self._drops = self._drops + 0.4 * (share - self._drops) if self._dropped else 0.0
        if self._drops > min(max(_DROPS, 2 * self._tolerated), _MOSTLY):
            return self._after_drops()
        if self._drop_trial is not None and self._limit >= self._drop_trial[0]:
            self._drop_trial = None
        if self._tolerated:
            self._tolerated += 0.2 * (self._drops - self._tolerated)
        if not self._answered:
            return self._limit
        latency = self._total / self._answered
        if self._unloaded is None and self._since == -math.inf:
            self._since = now  # the burst at the very start: the queue was not yet as long as it becomes
            return self._limit
        if self._probe is not None:
            return self._after_probe(latency, *self._probe)
        if not self._is_full:  # the limit held nobody back, so the queue, if there is one, is not ours
            self._learn(latency, 0.1)
            return self._limit
        self._learn(latency, _LEARN if self._limit <= _FLOOR else 0.0)
        return self._after_full_window(now, latency)

    def _after_drops(self) -> float:
        self._probe = self._slow_trial = None
        if self._drop_trial is None:
            self._drop_trial = (self._limit, self._drops)
        limit, drops = self._drop_trial
        if self._limit <= max(limit / 2, self.bounds.minimum):
            if drops / 2 < self._drops < _MOSTLY:
                self._tolerated, self._drop_trial = self._drops, None
                return self._limit
            self._drop_trial = (self._limit, self._drops)
        return self._limit * _AFTER_DROPS

    def _after_full_window(self, now: float, latency: float) -> float:
        unloaded = latency if self._unloaded is None else self._unloaded
        queue = self._limit * (1 - unloaded / latency) if latency > 0 else 0.0
        if latency <= _SLOW * unloaded or queue <= _QUEUE:
            self._slow_trial = self._slow_since = None
            self._until_probe -= 1
            if self._until_probe <= 0 and self._may_halve:
                self._probe = (self._limit, latency, latency)
                return self._limit / 2
            return self._limit + max(1.0, math.sqrt(self._limit) / 2)
        if self._slow_since is None:
            self._slow_since = self._since = now
            return self._limit
        if self._slow_trial is None:
            self._slow_trial = (self._limit, latency)
        limit, before = self._slow_trial
        if self._limit <= max(limit / 2, self.bounds.minimum):
            if latency > _NOT_FASTER * before:
                self._unloaded = self._smoothed = latency
                self._slow_trial = None
                return self._limit
            self._slow_trial = (self._limit, latency)
        return self._limit * max(0.5, _SLOW * unloaded / latency)

    def _after_probe(self, latency: float, limit: float, latency_there: float, last: float) -> float:
        if not self._is_full:
            self._probe = None
            return limit
        if latency < _FASTER * last and self._may_halve:
            self._probe = (limit, latency_there, latency)
            return self._limit / 2
        self._probe, self._smoothed = None, None
        known = latency if self._unloaded is None else self._unloaded
        if _FASTER * known <= latency <= known / _FASTER:
            self._quiet = min(_LONGEST_QUIET, 2 * self._quiet)
        else:
            self._quiet = _SHORTEST_QUIET
        self._until_probe = self._quiet
        self._unloaded = latency if latency < _FASTER * known else known + _LEARN * (latency - known)
        if latency_there <= _SLOW * self._unloaded:  # also where no call takes any time
            return limit
        return max(self._limit, limit * _SLOW * self._unloaded / latency_there)

    @property
    def _may_halve(self) -> bool:
        return self._limit / 2 >= max(_FLOOR, self.bounds.minimum)

    def _learn(self, latency: float, rise: float) -> None:
        """Follow the unloaded latency down at once, and up by the share *rise*."""
        if self._smoothed is None or self._unloaded is None:
            self._smoothed = latency
            self._unloaded = latency if self._unloaded is None else self._unloaded
        else:
            self._smoothed += _LEARN * (latency - self._smoothed)
        if self._smoothed < self._unloaded:
            self._unloaded = self._smoothed
        else:
            self._unloaded += rise * (latency - self._unloaded)

    def __repr__(self) -> str:
        unloaded = "unknown" if self._unloaded is None else f"{self._unloaded:.3g} s"
        return f"<AdaptiveLimit {self.limit}, unloaded latency {unloaded}>"

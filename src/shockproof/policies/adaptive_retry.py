"""
Retries that follow the pattern of the errors: what ``adaptive=True`` adds to a service.

Throttling answers slow the rate down at which the client sends, first attempts included; every kind of
error has a base delay and a cost of its own; and all of it is paid from a budget that successes fund,
so that a storm stops retrying by itself.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Final

from shockproof.policies.error_kinds import ErrorKind
from shockproof.policies.retry_budget import RetryBudget

__all__ = ["AdaptiveRetry", "SendRate"]

_BASE_DELAYS: Final[dict[ErrorKind, float]] = {"connection": 0.5, "timeout": 2.0, "throttled": 2.0}
_COSTS: Final[dict[ErrorKind, float]] = {"timeout": 2.0, "throttled": 0.5}

_BETA: Final = 0.7
_SCALE: Final = 0.4
_SMOOTHING: Final = 0.8
_BUCKET: Final = 0.5
"""Seconds over which the measured rate is taken."""
_ROUNDING: Final = 1e-6
"""Sends: so little is missing when a wait has ended that a clock cannot show it, and none must wait for that."""
_LEAST: Final = 0.5
"""Sends a second that are always allowed."""
_FORGOTTEN_AFTER: Final = 60.0
"""Seconds without a throttling answer after which the rate is free again."""


class SendRate:
    """
    How fast a client sends: freely, until the other side throttles it.

    The rate of the AWS SDKs' adaptive mode, which is that of TCP CUBIC (RFC 9438). With r the rate at
    the throttling answer, the smaller of the measured and the allowed one:

    * at the answer the rate is 0.7 r;
    * t seconds later, at each other answer, it is 0.4 (t - k)**3 + r with k = cbrt(0.3 r / 0.4), so that
      it is back at r after k seconds, lingers there, and then goes on;
    * it is never set to more than twice the measured rate, and never to less than 0.5 a second.

    The measured rate counts answers in half seconds, smoothed by 0.8. Sends are taken from a bucket that
    holds what the rate gives in one second, and at least one.

    Two things are ours. A throttling answer to what was sent before the last slow-down does not slow down
    again: it tells of the old rate, and fifty of them at once would stop the client. And after 60 s without
    a throttling answer the rate is free again, so that one of last night limits no burst this morning.

    Nobody waits here: a caller takes a place, asks how long, and asks again when it is told that the answer has
    changed. A rate that rises and a place that is given back are told to the first in line, who tells the next
    by going; a rate that falls, to all: some of them may have no time for that. Safe to share between tasks,
    threads and loops; time is monotonic seconds.
    """

    __slots__ = (
        "_answers",
        "_bucket_began",
        "_filled",
        "_given_back",
        "_k",
        "_lock",
        "_rate_then",
        "_refilled_at",
        "_smoothed",
        "_taken",
        "_throttled_at",
        "_watching",
        "limit",
        "measured",
    )

    def __init__(self) -> None:
        self.limit: float | None = None
        """Sends a second that are allowed now; None: any number."""
        self.measured = 0.0
        """Answers a second, lately."""
        self._answers, self._smoothed = 0, 0.0
        self._bucket_began: float | None = None
        self._rate_then = self._k = self._throttled_at = 0.0
        # Places are counted from the start of time: the one with number n may go when n were filled. Those that
        # were given back are remembered as long as others wait behind them, who have moved up by as many.
        self._filled = self._refilled_at = 0.0
        self._taken = 0
        self._given_back: list[int] = []
        self._watching: dict[int, Callable[[], bool]] = {}
        # Reentrant: a garbage collection inside it may end a call of a dead loop.
        self._lock = threading.RLock()

    def take(self, now: float) -> int | None:
        """A place in the order of sending, to be asked about with `wait`; None while the rate is free."""
        with self._lock:
            if self.limit is None:
                return None
            self._refill(now, self.limit)
            self._taken += 1
            return self._taken

    def wait(self, place: int | None, now: float) -> float:
        """
        Seconds until the *place* may be used, at the rate of now; 0 when it may be used at once.

        The rate may change meanwhile: whoever waits has to `watch`.
        """
        with self._lock:
            if place is None or self.limit is None:
                return 0.0
            self._refill(now, self.limit)
            missing = place - bisect_left(self._given_back, place) - self._filled
            return missing / self.limit if missing > _ROUNDING else 0.0

    def give_back(self, place: int | None) -> None:
        """What the *place* was for is not sent after all: those behind it move up."""
        if place is not None:
            with self._lock:
                insort(self._given_back, place)
                self._forget_those_in_front()
            self._wake_first()

    def watch(self, place: int, wake: Callable[[], bool]) -> None:
        """Call *wake* when *place* may have another wait, until it leaves. False: nobody is there any more."""
        with self._lock:
            self._watching[place] = wake

    def leave(self, place: int) -> None:
        """Whoever waited for *place* does not any longer: the turn has come, or is not wanted."""
        with self._lock:
            was_first = next(iter(self._watching), None) == place
            self._watching.pop(place, None)
        if was_first:
            self._wake_first()

    def _wake_first(self) -> None:
        while True:
            with self._lock:
                first = next(iter(self._watching.items()), None)
            if first is None or first[1]():
                return
            with self._lock:
                self._watching.pop(first[0], None)

    def answered(self, now: float, *, sent_at: float, throttled: bool) -> None:
        """What was sent at *sent_at* has been answered, with a throttling answer or any other."""
        with self._lock:
            before = self.limit
            self._follow(now, sent_at=sent_at, throttled=throttled)
            after = self.limit
            falls = before is not None and after is not None and after < before
            all_of_them = list(self._watching.values()) if falls or after is None else []
        for wake in all_of_them:
            wake()
        if not all_of_them and after != before:
            self._wake_first()

    def _follow(self, now: float, *, sent_at: float, throttled: bool) -> None:
        self._measure(now)
        if throttled:
            if self.limit is not None and sent_at < self._throttled_at:
                return
            rate = self.measured if self.limit is None else min(self.measured, self.limit)
            self._rate_then, self._throttled_at = rate, now
            self._k = math.cbrt(rate * (1 - _BETA) / _SCALE)
            rate *= _BETA
        elif self.limit is None:
            return
        elif now - self._throttled_at >= _FORGOTTEN_AFTER:
            self.limit = None
            return
        else:
            rate = _SCALE * (now - self._throttled_at - self._k) ** 3 + self._rate_then
        if self.limit is None:
            self._given_back.clear()
            self._filled, self._refilled_at = self._taken, now
        else:
            self._refill(now, self.limit)
        self.limit = max(_LEAST, min(rate, 2 * self.measured))
        self._refill(now, self.limit)

    def _measure(self, now: float) -> None:
        bucket = math.floor(now / _BUCKET) * _BUCKET
        self._answers += 1
        if self._bucket_began is None:
            self._bucket_began = bucket
        elif bucket > self._bucket_began:
            rate = self._answers / (bucket - self._bucket_began)
            self._smoothed = rate * _SMOOTHING + self._smoothed * (1 - _SMOOTHING)
            self._answers, self._bucket_began = 0, bucket
        # In the first half second of all there is only what was counted so far.
        self.measured = self._smoothed or self._answers / _BUCKET

    def _refill(self, now: float, limit: float) -> None:
        filled = self._filled + limit * max(0.0, now - self._refilled_at)
        self._filled = min(filled, self._taken - len(self._given_back) + max(1.0, limit))
        self._refilled_at = now
        self._forget_those_in_front()

    def _forget_those_in_front(self) -> None:
        # A place that could have been used by now is one filled place more for all behind it.
        while self._given_back and self._given_back[0] <= self._filled:
            del self._given_back[0]
            self._filled += 1

    def __repr__(self) -> str:
        allowed = "free" if self.limit is None else f"{self.limit:.3g}/s allowed"
        return f"<SendRate {allowed}, {self.measured:.3g}/s measured>"


class AdaptiveRetry:
    """
    What all adaptive handles of one service share. Safe to share between tasks, threads and loops.

    Of each kind of error: what its base delay is multiplied by, and what its retry costs.

    ============  =====  ====
    kind          delay  cost
    ============  =====  ====
    throttled     2      0.5
    timeout       2      2
    server        1      1
    connection    0.5    1
    other         1      1
    ============  =====  ====

    A connection that was refused costs the other side nothing and may be back in a moment; a timeout
    may mean that it still works on the call; a throttling answer is cheap to give, and the send rate
    sees to the rest.
    """

    __slots__ = ("budget", "send_rate")

    def __init__(self) -> None:
        self.send_rate = SendRate()
        self.budget = RetryBudget()
        """Pays for the retries of a service that has no budget of its own."""

    def base_delay(self, kind: ErrorKind, usual: float) -> float:
        """Seconds, for an error of this *kind* where *usual* seconds are the handle's."""
        return usual * _BASE_DELAYS.get(kind, 1.0)

    def cost(self, kind: ErrorKind) -> float:
        """What a retry after an error of this *kind* costs, unless the budget says otherwise."""
        return _COSTS.get(kind, 1.0)

    def answered(self, now: float, *, sent_at: float, kind: ErrorKind | None) -> None:
        """An attempt that was sent at *sent_at* failed with an error of this *kind*, or succeeded: None."""
        self.send_rate.answered(now, sent_at=sent_at, throttled=kind == "throttled")
        if kind is None:
            self.budget.succeeded()

    def __repr__(self) -> str:
        return f"<AdaptiveRetry {self.send_rate!r}, {self.budget!r}>"

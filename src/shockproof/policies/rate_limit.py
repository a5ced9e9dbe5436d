"""
How much may be sent in any stretch of time, over several windows at once.

Exact rolling windows: whatever stretch of a window's length one looks at, no more than the limit was
sent in it. A token bucket with a burst of N lets almost 2N through in one second, and a fixed window
2N at its edge; for a venue that bans, only this is safe.
"""

from __future__ import annotations

import math
import re
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["Rate", "RollingWindows", "Sent", "parse_rates"]

_UNITS: Final = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0}
_UNITS_LONG: Final = {"h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}
_FORM: Final = re.compile(r"\s*(\d+)\s*/\s*(\d+(?:\.\d+)?)?\s*([a-z]+)\s*")


class Rate(NamedTuple):
    """At most *limit* of weight in any *seconds*."""

    limit: int
    seconds: float


def parse_rates(name: str, value: object) -> tuple[Rate, ...]:
    """
    Rates as users write them: ``"10/s"``, ``"1200/min"``, ``"100/10s"``, or several in a tuple.

    Raises:
        TypeError, ValueError: it is none, named with what is allowed.
    """
    texts = value if isinstance(value, tuple | list) else (value,)
    allowed = 'rates such as "10/s", "1200/min" or ("10/s", "1200/min")'
    rates: list[Rate] = []
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be {allowed}, got {value!r}")
        form = _FORM.fullmatch(text)
        unit = None if form is None else (_UNITS | _UNITS_LONG).get(form[3])
        if form is None or unit is None:
            raise ValueError(f"{name} must be {allowed}, got {text!r}")
        rate = Rate(int(form[1]), float(form[2] or 1) * unit)
        if rate.limit < 1 or rate.seconds <= 0:
            raise ValueError(f"{name} must be {allowed}, at least 1 in a time that passes, got {text!r}")
        rates.append(rate)
    if not rates:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return tuple(rates)


class Sent:
    """Something that was admitted, and may be given back as long as it was not really sent."""

    __slots__ = ("at", "weight")

    def __init__(self, at: float, weight: int) -> None:
        self.at = at
        self.weight = weight


class _Window:
    """What was sent within one window, oldest first, and its sum."""

    __slots__ = ("log", "rate", "used")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.log: deque[Sent] = deque()
        self.used = 0

    def turn_to(self, now: float) -> None:
        horizon = now - self.rate.seconds
        while self.log and self.log[0].at <= horizon:
            self.used -= self.log.popleft().weight

    def wait(self, now: float, weight: int) -> float:
        """Seconds until enough of the oldest has left for *weight* to fit in."""
        excess = self.used + weight - self.rate.limit
        for sent in self.log:
            if excess <= 0:
                break
            excess -= sent.weight
            leaves_at = sent.at + self.rate.seconds
            if excess <= 0:
                return leaves_at - now
        return 0.0


class RollingWindows:
    """
    What was sent in the last seconds, against one or several limits at once.

    Memory: one small object for each thing sent within the longest window. Safe to share between
    threads. Time is handed in and monotonic; a thread that is a little behind is counted as of now.
    """

    __slots__ = ("_lock", "_now", "_paused_until", "_windows", "rates")

    def __init__(self, rates: Sequence[Rate]) -> None:
        self.rates = tuple(rates)
        self._windows = [_Window(rate) for rate in rates]
        self._now = -math.inf
        self._paused_until = -math.inf
        self._lock = threading.Lock()

    @property
    def largest_weight(self) -> int:
        """The heaviest call that can ever be admitted."""
        return min(rate.limit for rate in self.rates)

    def admit(self, now: float, weight: int) -> Sent | float:
        """Take *weight* in all windows, or in none: then it is the seconds until it may be tried again."""
        with self._lock:
            self._turn_to(now)
            wait = self._wait(weight)
            if wait > 0:
                return wait
            sent = Sent(self._now, weight)
            for window in self._windows:
                window.log.append(sent)
                window.used += weight
            return sent

    def wait(self, now: float, weight: int) -> float:
        """Seconds until *weight* would fit, 0 if it does now; nothing is taken."""
        with self._lock:
            self._turn_to(now)
            return max(0.0, self._wait(weight))

    def give_back(self, sent: Sent) -> None:
        """It was not sent after all."""
        with self._lock:
            for window in self._windows:
                if sent in window.log:
                    window.log.remove(sent)
                    window.used -= sent.weight

    def pause_until(self, moment: float) -> None:
        """Admit nothing before *moment*: the other side said so."""
        with self._lock:
            self._paused_until = max(self._paused_until, moment)

    def used(self, now: float) -> tuple[int, ...]:
        """The weight in each window."""
        with self._lock:
            self._turn_to(now)
            return tuple(window.used for window in self._windows)

    def _wait(self, weight: int) -> float:
        fits_in = max(window.wait(self._now, weight) for window in self._windows)
        return max(fits_in, self._paused_until - self._now)

    def _turn_to(self, now: float) -> None:
        self._now = max(self._now, now)
        for window in self._windows:
            window.turn_to(self._now)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{window.used} of {window.rate.limit} in {window.rate.seconds:g} s" for window in self._windows
        )
        return f"<RollingWindows {shown}>"

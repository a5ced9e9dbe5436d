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
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from shockproof.policies.reserved_sends import Ahead, ReservedSends

__all__ = ["WEIGHT", "Rate", "RollingWindows", "Sent", "SentEarlier", "Weight", "parse_rates", "parse_window"]

_UNITS: Final = {
    **dict.fromkeys(("s", "sec", "second"), 1.0),
    **dict.fromkeys(("m", "min", "minute"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}
# Twenty digits are more than anybody counts, and less than what an int or a float cannot be made of.
_FORM: Final = r"\s*(\d{1,20})\s*([a-z_]\w*)?\s*/\s*(\d{1,20}(?:\.\d+)?)?\s*([a-z]+)\s*"
_WINDOW: Final = r"\s*(\d{1,20}(?:\.\d+)?)?\s*([a-z]+)\s*"

WEIGHT: Final = "weight"
"""What a rate counts when it names nothing else."""

Weight = int | Mapping[str, int]
"""What one call counts: a number of `WEIGHT` and one of everything else, or so much of what is named."""

_LONGEST_PAUSE: Final = 7 * 86_400.0
"""Seconds: what is asked for beyond that is a mistake, of the other side's or of a wall clock."""

_SHARE_COMES_IN: Final = 0.01
"""Seconds: at the least, what a share takes that has to be fetched from others."""

_LOW: Final = 40
"""A share runs low when this part of the limit is left of it: half of what is leased at a time."""

_KEPT_MOMENTS: Final = 500
"""An export keeps about so many moments of the longest window apart."""


class Rate(NamedTuple):
    """At most *limit* in any *seconds*, of what is named."""

    limit: int
    seconds: float
    name: str = WEIGHT


def parse_rates(name: str, value: object) -> tuple[Rate, ...]:
    """
    Rates as users write them: ``"10/s"``, ``"1200/min"``, ``"10 orders/s"``, or several in a tuple.

    Raises:
        TypeError, ValueError: it is none, named with what is allowed.
    """
    texts = value if isinstance(value, tuple | list) else (value,)
    allowed = 'rates such as "10/s", "100/10s" or ("10 orders/s", "1200 weight/min")'
    rates: list[Rate] = []
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be {allowed}, got {value!r}")
        form = re.fullmatch(_FORM, text)
        unit = None if form is None else _UNITS.get(form[4])
        if form is None or unit is None:
            raise ValueError(f"{name} must be {allowed}, got {text!r}")
        rate = Rate(int(form[1]), float(form[3] or 1) * unit, form[2] or WEIGHT)
        if rate.limit < 1 or rate.seconds <= 0:
            raise ValueError(f"{name} must be {allowed}, at least 1 in a time that passes, got {text!r}")
        rates.append(rate)
    if not rates:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return tuple(rates)


def parse_window(name: str, value: object) -> float:
    """
    The seconds of a window as users write it: ``"1m"``, ``"10s"``, ``"min"``, ``"1d"``.

    Raises:
        TypeError, ValueError: it is none, named with what is allowed.
    """
    allowed = 'a window such as "10s", "1m" or "1d"'
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    form = re.fullmatch(_WINDOW, value.lower())  # venues write 1M for a minute
    unit = None if form is None else _UNITS.get(form[2])
    if form is None or unit is None or float(form[1] or 1) <= 0:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return float(form[1] or 1) * unit


class Sent:
    """Something that was admitted, and may be given back as long as it was not really sent."""

    __slots__ = ("at", "weight")

    def __init__(self, at: float, weight: Weight) -> None:
        self.at = at
        self.weight = weight


class SentEarlier(NamedTuple):
    """What an earlier life has sent at one moment."""

    at: float
    """Monotonic seconds, by the clock of this life."""
    weight: Weight
    """Of each."""
    times: int = 1


def _sent_at(sent: Sent) -> float:
    return sent.at


def _length_of(seconds: Any) -> float:  # Any: JSON
    length = float(seconds)
    if not 0.0 <= length < math.inf:
        raise ValueError(f"{seconds!r} is no length of time")
    return length


def _count_of(count: Any) -> int:  # Any: JSON
    whole = int(count)
    if whole < 0:
        raise ValueError(f"{count!r} is no count")
    return whole


class _Window:
    """
    What was sent within one window, oldest first, and its sum; and what others sent, as far as was told.

    The other side counts everybody who uses the same key. What it reports beyond our own count is
    somebody else's, or an earlier life's. Of the reports of the last window the highest counts: an
    answer that comes late, or our own calls still on their way, make a single one too low.
    """

    __slots__ = ("limit", "log", "own", "rate", "reports", "share")

    def __init__(self, rate: Rate, share: float = math.inf) -> None:
        self.rate = rate
        self.limit = rate.limit
        """What may be sent at most: less than the rate says where others keep to less."""
        self.share = share
        """What of the limit this process may use, where others use it, too."""
        self.log: deque[Sent] = deque()
        self.own = 0
        self.reports: deque[tuple[float, int]] = deque()
        """Until when, and how much: later ones are smaller."""

    def part(self, weight: Weight) -> int:
        """What of *weight* counts here."""
        if isinstance(weight, int):
            return weight if self.rate.name == WEIGHT else 1
        return weight.get(self.rate.name, 0)

    @property
    def used(self) -> int:
        return self.own + (self.reports[0][1] if self.reports else 0)

    def add(self, sent: Sent) -> None:
        part = self.part(sent.weight)
        if part:
            self.log.append(sent)
            self.own += part

    def remove(self, sent: Sent) -> None:
        at = bisect_right(self.log, sent.at, key=_sent_at) - 1
        while at >= 0 and self.log[at].at == sent.at:
            if self.log[at] is sent:
                del self.log[at]
                self.own -= self.part(sent.weight)
                return
            at -= 1

    def turn_to(self, now: float) -> None:
        horizon = now - self.rate.seconds
        while self.log and self.log[0].at <= horizon:
            self.own -= self.part(self.log.popleft().weight)
        while self.reports and self.reports[0][0] <= now:
            self.reports.popleft()

    def report(self, until: float, used: int) -> None:
        others = used - self.own
        if others <= 0:
            return
        if self.reports:
            until = max(until, self.reports[-1][0])
        while self.reports and self.reports[-1][1] <= others:
            self.reports.pop()
        self.reports.append((until, others))

    def wait(self, now: float, weight: Weight, *, of_the_limit: bool = False) -> float:
        """Seconds until enough has left for *weight* to fit in, *of_the_limit*: if all shares were here; infinite: never."""
        part = self.part(weight)
        if not part:
            return 0.0
        room = self.limit - part
        if room < 0:
            return math.inf
        own_room = math.inf if of_the_limit else self.share - part
        if self.used <= room and self.own <= own_room:
            return 0.0
        if own_room < 0:  # it has to come from others; how long that takes is not known
            return _SHARE_COMES_IN
        own, moment = self.own, now
        log, reports = iter(self.log), iter((*self.reports, (math.inf, 0)))
        oldest = next(log, None)
        until, others = next(reports)
        while own + others > room or own > own_room:
            leaves_at = math.inf if oldest is None else oldest.at + self.rate.seconds
            if oldest is not None and leaves_at < until:
                moment, own = leaves_at, own - self.part(oldest.weight)
                oldest = next(log, None)
            else:
                moment = until
                until, others = next(reports)
        return moment - now


def _length(window: _Window) -> float:
    return window.rate.seconds


class RollingWindows:
    """
    What was sent in the last seconds, against one or several limits at once.

    Memory: one small object for each thing sent within the longest window. Safe to share between
    threads. Time is handed in and monotonic; a thread that is a little behind is counted as of now.
    """

    __slots__ = (
        "_cut",
        "_lock",
        "_marks",
        "_now",
        "_paused_until",
        "_shares",
        "_windows",
        "rates",
        "reserved",
    )

    def __init__(self, rates: Sequence[Rate]) -> None:
        self.rates = tuple(rates)
        self._windows = [_Window(rate) for rate in rates]
        self._now = -math.inf
        self._paused_until = -math.inf
        self._shares: Mapping[Rate, int] | None = None
        self._cut = -math.inf
        self._marks: tuple[tuple[float, float], ...] = ()
        """Of what the disk tells, and of what is being written: when it was, by the wall clock, and up to which moment here."""
        self.reserved: ReservedSends | None = None
        """What may be sent before the disk has to be told; None: nobody tells it."""
        # Reentrant: a garbage collection inside it may end a call of a dead loop.
        self._lock = threading.RLock()

    def check(self, weight: Weight) -> None:
        """
        Refuse a weight that would wait for ever, or that counts in no rate by that name.

        Raises:
            ValueError: says which and why.
        """
        if not isinstance(weight, int):
            names = sorted({rate.name for rate in self.rates})
            for name in weight:
                if name not in names:
                    raise ValueError(
                        f"weight={weight!r} counts {name!r}, and there are only rates of {', '.join(names)}"
                    )
        for window in self._windows:
            if window.part(weight) > window.rate.limit:
                raise ValueError(
                    f"weight={weight!r} can never be sent: only {window.rate.limit} {window.rate.name} "
                    f"in {window.rate.seconds:g} s are allowed"
                )

    def admit(self, now: float, weight: Weight) -> Sent | float:
        """Take *weight* in all windows, or in none: then it is the seconds until it may be tried again."""
        with self._lock:
            self._turn_to(now)
            wait = self._wait(weight)
            if wait > 0:
                return wait
            sent = Sent(self._now, weight)
            for window in self._windows:
                window.add(sent)
            if self.reserved is not None:
                self.reserved.sent(weight)
            return sent

    def wait(self, now: float, weight: Weight) -> float:
        """Seconds until *weight* would fit, 0 if it does now; nothing is taken. Infinite: never."""
        with self._lock:
            self._turn_to(now)
            return max(0.0, self._wait(weight))

    def wait_for_share(self, now: float, weight: Weight) -> float:
        """Seconds until *weight* would fit if a larger share came in soon: at the least what that takes."""
        with self._lock:
            self._turn_to(now)
            fits_in = [window.wait(self._now, weight, of_the_limit=True) for window in self._windows]
            return max(*fits_in, self._paused_until - self._now, _SHARE_COMES_IN)

    def give_back(self, sent: Sent) -> None:
        """It was not sent after all."""
        with self._lock:
            for window in self._windows:
                window.remove(sent)
            if self.reserved is not None:
                self.reserved.given_back(sent.weight)

    def pause(self, now: float, seconds: float) -> bool:
        """
        Admit nothing for *seconds*, a week at most: the other side said so. Whether that is news.

        A pause that is on already becomes no shorter.
        """
        with self._lock:
            until = max(self._now, now) + min(seconds, _LONGEST_PAUSE)
            is_news = until > self._paused_until
            self._paused_until = max(self._paused_until, until)
            if is_news and self.reserved is not None:
                self.reserved.has_news()
            return is_news

    def report(
        self, now: float, seconds: float, used: int, *, names: Iterable[str], resets_in: float | None = None
    ) -> bool:
        """
        The other side counts *used* in its window of *seconds*; whether there is such a window here.

        What that is more than our own count holds for a window from now on, or until it *resets_in*
        so many seconds; that is believed for a week, or a longer window. A number below our own count changes nothing: we know better what we sent.

        Args:
            now: the time, monotonic.
            seconds: the length of the window.
            used: what it counts there, our own calls included.
            names: which rates it may be about; the first that exists is meant.
            resets_in: seconds until the other side forgets it all.
        """
        with self._lock:
            self._turn_to(now)
            for name in names:
                found = [one for one in self._windows if one.rate[1:] == (seconds, name)]
                for window in found:
                    lasts = seconds if resets_in is None else min(resets_in, max(seconds, _LONGEST_PAUSE))
                    window.report(self._now + lasts, used)
                    if self.reserved is not None and window.reports:
                        self.reserved.heard(window.rate, window.reports[0][1])
                if found:
                    return True
            return False

    def report_left(
        self, now: float, remaining: int, *, limit: int | None = None, resets_in: float | None = None
    ) -> bool:
        """
        The other side has *remaining* left of its *limit*; whether it is known which window that is.

        The one with this very limit, or the only one there is.
        """
        rates = self.rates if len(self.rates) == 1 else [one for one in self.rates if one.limit == limit]
        if len(rates) != 1:
            return False
        used = max(0, (rates[0].limit if limit is None else limit) - remaining)
        return self.report(now, rates[0].seconds, used, names=[rates[0].name], resets_in=resets_in)

    def paused_for(self, now: float) -> float:
        """Seconds for which nothing is admitted because the other side said so."""
        if self._paused_until <= now:  # almost always, and then nobody has to be kept out
            return 0.0
        with self._lock:
            return max(0.0, self._paused_until - max(self._now, now))

    def change(self, now: float, rates: Sequence[Rate]) -> None:
        """
        Other rates from now on; what was sent counts in them, as far as the old windows remember it.
        """
        with self._lock:
            self._turn_to(now)
            sent = {id(one): one for window in self._windows for one in window.log}
            reports = {window.rate[1:]: window.reports for window in self._windows}
            self.rates = tuple(rates)
            self._windows = [_Window(rate, self._share_of(rate)) for rate in rates]
            for window in self._windows:
                for one in sorted(sent.values(), key=_sent_at):
                    window.add(one)
                window.reports = deque(reports.get(window.rate[1:], ()))

    def reserve(self) -> None:
        """From now on count what may be sent before the disk has to be told of more; what was sent so far it is told anyway."""
        from shockproof.policies.reserved_sends import ReservedSends

        with self._lock:
            self.reserved = ReservedSends(self.rates)

    def ahead(self, *, is_last: bool) -> Ahead | None:
        """What the disk is to tell of it before it tells `export`; None: nothing. See `ReservedSends.ahead`."""
        with self._lock:
            self._cut = self._now
            return None if self.reserved is None else self.reserved.ahead(is_last=is_last)

    def marked(self, written_at: float) -> None:
        """What is written since `ahead` bears this wall time: `export` keeps apart what is sent after it, also if it fails."""
        with self._lock:
            self._marks = (*self._marks[:1], (written_at, self._cut))

    def told(self, ahead: Ahead) -> None:
        """The disk tells it now."""
        with self._lock:
            self._marks = self._marks[-1:]
            if self.reserved is not None:
                self.reserved.durable(ahead)

    def share(self, shares: Mapping[Rate, int]) -> None:
        """
        Use no more than so much of each rate from now on, because others use the rest; nothing of what is not named.

        A weight that does not fit into a share waits for a larger one.
        """
        with self._lock:
            self._shares = shares
            for window in self._windows:
                window.share = self._share_of(window.rate)

    def bound(self, limits: Mapping[Rate, int]) -> None:
        """Of these rates everybody together sends no more than this, which may be less than the rate says; else what it says."""
        with self._lock:
            for window in self._windows:
                window.limit = min(window.rate.limit, limits.get(window.rate, window.rate.limit))

    def lacks_share(self, weight: Weight) -> bool:
        """Whether *weight* has to wait for a larger share, and not for time to pass."""
        with self._lock:
            return any(window.part(weight) > window.share for window in self._windows)

    def runs_low(self) -> bool:
        """Whether so little of a share is left that more is worth fetching ahead of need."""
        with self._lock:
            return any(
                window.own + window.rate.limit / _LOW > min(window.share, window.rate.limit)
                and window.share < window.rate.limit
                for window in self._windows
            )

    @property
    def shares(self) -> tuple[int, ...] | None:
        """What of each rate may be used; None: all of it, nobody else uses them."""
        shares = self._shares
        return None if shares is None else tuple(shares.get(rate, 0) for rate in self.rates)

    def own(self, now: float) -> dict[Rate, int]:
        """What was sent here and counts in each window, without what was reported of others."""
        with self._lock:
            self._turn_to(now)
            return {window.rate: window.own for window in self._windows}

    def parts(self, weight: Weight) -> dict[Rate, int]:
        """What of *weight* counts in each window."""
        with self._lock:
            return {window.rate: window.part(weight) for window in self._windows}

    def _share_of(self, rate: Rate) -> float:
        return math.inf if self._shares is None else self._shares.get(rate, 0)

    def used(self, now: float) -> tuple[int, ...]:
        """What counts in each window, also what was reported of others."""
        with self._lock:
            self._turn_to(now)
            return tuple([window.used for window in self._windows])

    def is_untouched(self, now: float) -> bool:
        """Whether there is nothing that the next life would have to know."""
        with self._lock:
            self._turn_to(now)
            return self._paused_until <= self._now and not any(
                one.log or one.reports for one in self._windows
            )

    def export(self, now: float, *, is_marked: bool = False) -> dict[str, Any]:  # Any: JSON
        """
        What was sent and for how long it is paused, so that a restart need not forget it.

        JSON-ready. Times are lengths and not moments, so that no clock of one process is read in another. About
        500 moments are kept apart; what falls together counts as sent at the last. *is_marked*: tell under ``kept``
        what the disk tells of it (`marked`) and how long ago that was; what was sent before and after falls not together.
        """
        with self._lock:
            self._turn_to(now)
            now = self._now
            longest = {window.rate.name: window for window in sorted(self._windows, key=_length)}
            logs = {name: list(window.log) for name, window in longest.items()}
            others = [
                [window.rate.seconds, window.rate.name, until - now, count]
                for window in self._windows
                for until, count in window.reports
            ]
            paused_for = max(0.0, self._paused_until - now)
            rates = [list(rate) for rate in self.rates]
            marks = self._marks if is_marked else ()
            longest_seconds = max((rate.seconds for rate in self.rates), default=0.0)
        # Outside the lock: there may be ten thousand of them.
        slice_seconds = longest_seconds / _KEPT_MOMENTS
        kept: dict[tuple[int, int], list[Any]] = {}  # Any: a moment and counts by name
        for name, log in logs.items():
            part = longest[name].part
            for one in log:
                of_slice = int(one.at // slice_seconds), sum([one.at > cut for _, cut in marks])
                moment = kept.get(of_slice)
                if moment is None:
                    moment = kept[of_slice] = [one.at, dict.fromkeys(logs, 0)]
                elif one.at > moment[0]:
                    moment[0] = one.at
                moment[1][name] += part(one.weight)
        return {
            "rates": rates,
            "sent": [[now - at, counts] for _, (at, counts) in sorted(kept.items())],
            "others": others,
            "paused_for": paused_for,
            **({"kept": [[at, now - cut] for at, cut in marks if cut > -math.inf]} if marks else {}),
        }

    @classmethod
    def from_export(cls, now: float, elapsed: float, exported: Any) -> RollingWindows:  # Any: JSON
        """
        The windows as `export` has seen them, *elapsed* seconds later.

        Raises:
            ValueError: it is no export, says why.
        """
        try:
            rates = [
                Rate(int(limit), float(seconds), str(name)) for limit, seconds, name in exported["rates"]
            ]
            if not all(rate.limit >= 1 and 0 < rate.seconds < math.inf for rate in rates):
                raise ValueError(f"its rates are {exported['rates']!r}")
            windows = cls(rates)
            windows.restore(now, elapsed, exported)
        except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return windows

    def count(self, now: float, sends: Iterable[SentEarlier]) -> None:
        """Count what was sent earlier and is not known here. Nothing is refused for it."""
        with self._lock:
            self._turn_to(now)
            old = [
                Sent(min(self._now, one.at), one.weight if one.times == 1 else self._sum_of(one))
                for one in sends
            ]
            for window in self._windows:
                before, window.log, window.own = window.log, deque(), 0
                for one in sorted((*before, *old), key=_sent_at):
                    window.add(one)
            self._turn_to(now)

    def _sum_of(self, sends: SentEarlier) -> Weight:
        return {window.rate.name: sends.times * window.part(sends.weight) for window in self._windows}

    def restore(self, now: float, elapsed: float, exported: Mapping[str, Any]) -> None:  # Any: JSON
        """
        Count what an earlier life has sent, beside what this one has: once, at its start.

        *elapsed* is how many seconds ago it was exported. Less than 0, from a wall clock that was set back
        meanwhile, counts as no time at all, so that nothing lasts longer than it did; one that was set forward lets
        it go early. A pause is believed for a week.

        Raises:
            TypeError, ValueError, KeyError, AttributeError, ArithmeticError: it is no export; nothing was counted.
        """
        with self._lock:
            self._turn_to(now)
            then = self._now - max(0.0, elapsed)
            old = [
                Sent(
                    then - _length_of(ago),
                    {str(name): _count_of(count) for name, count in counts.items()},
                )
                for ago, counts in exported["sent"]
            ]
            others = [
                (float(seconds), str(name), then + _length_of(left), _count_of(count))
                for seconds, name, left, count in exported["others"]
            ]
            paused_for = min(_length_of(exported["paused_for"]), _LONGEST_PAUSE)
            if paused_for:
                self._paused_until = max(self._paused_until, then + paused_for)
            for window in self._windows:
                before, window.log, window.own = window.log, deque(), 0
                for one in sorted((*before, *old), key=_sent_at):
                    window.add(one)
                for seconds, name, until, count in others:
                    if (seconds, name) == window.rate[1:]:
                        window.report(min(until, self._now + seconds), window.own + count)
            self._turn_to(now)

    def _wait(self, weight: Weight) -> float:
        fits_in = max((window.wait(self._now, weight) for window in self._windows), default=0.0)
        return max(fits_in, self._paused_until - self._now)

    def _turn_to(self, now: float) -> None:
        self._now = max(self._now, now)
        for window in self._windows:
            window.turn_to(self._now)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{window.used} of {window.rate.limit} {window.rate.name} in {window.rate.seconds:g} s"
            for window in self._windows
        )
        return f"<RollingWindows {shown}>"

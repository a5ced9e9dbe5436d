"""
The limits of one service, and the waiting for them: rate limit first, bulkhead second.

What is taken is given back exactly once: a token of the rate limit when the call was not sent after
all, a place in the bulkhead when the call has really ended, which for an abandoned one is later.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shockproof.calls.limits_around import time_left_around
from shockproof.calls.waiting import Waiting
from shockproof.policies.bulkhead import Places, Waiter
from shockproof.policies.rate_limit import Rate, RollingWindows, Sent, SentEarlier, Weight
from shockproof.policies.rate_limit_headers import Left, Used, answer_of, read_headers
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import BulkheadFullError, RateLimitedError

if TYPE_CHECKING:
    from shockproof.calls.rate_queue import RateQueue
    from shockproof.memory.fleet.shared_limit import SharedLimit
    from shockproof.policies.adaptive_concurrency import AdaptiveConcurrency, AdaptiveLimit

__all__ = ["Held", "Limits", "attend", "give_back"]


def attend(places: Places) -> None:
    """A place was given back that is awaited."""
    _wake(places, places.attend())


def give_back(places: Places) -> None:
    """A call has ended."""
    places.free.append(None)
    if places.watched:
        attend(places)


def _wake(places: Places, woken: Sequence[Waiter]) -> None:
    """Wake those who were granted a place; that of one whose loop has ended goes to the next."""
    left = list(woken)
    while left:
        waiter = left.pop(0)
        assert isinstance(waiter, Waiting)
        if not waiter.wake():
            left += places.leave(waiter)


class Held:
    """What one attempt holds of the limits; it gives back to where it took from."""

    __slots__ = ("_kept", "_places", "_rate", "_sent", "has_waited")

    def __init__(
        self, rate: RateQueue | None, sent: Sent | None, places: Places | None, *, has_waited: bool
    ) -> None:
        self._rate = rate
        self._sent = sent
        self._places = places
        self._kept = False
        self.has_waited = has_waited

    def not_sent(self) -> None:
        """The attempt was never made: everything goes back."""
        if self._rate is not None and self._sent is not None:
            self._rate.give_back(self._sent)
        self.really_ended()

    def ended(self) -> None:
        """The attempt is over: its place goes back, unless something of it runs on."""
        if not self._kept:
            self.really_ended()

    def keep(self) -> None:
        """Something of the attempt runs on after its end."""
        self._kept = True

    def really_ended(self) -> None:
        """Now that has ended, too; called from any thread."""
        if self._places is not None:
            give_back(self._places)


class Limits:
    """The rate limit and the bulkhead of one service; both optional."""

    def __init__(
        self,
        service_name: str,
        clock: Clock,
        on_pause: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._name = service_name
        self._clock = clock
        self._on_pause = on_pause
        self._declared: dict[str, Any] = {}  # Any: each option has a type of its own
        self._changed: dict[str, Any] = {}  # Any: as above
        self._in_force: dict[str, Any] = {}  # Any: as above
        self._rate: RateQueue | None = None
        self._places: Places | None = None
        self._adaptive: AdaptiveLimit | None = None
        self._max_wait: float | None = None
        self._earlier: RollingWindows | None = None
        """What an earlier life has sent, until there is a rate limit that it counts in."""
        self._earlier_sends: list[SentEarlier] = []
        """What its journal tells of beside that."""
        self._shared: SharedLimit | None = None
        self._on_low: Callable[[], None] | None = None
        """Has the disk told what may be sent; None: nobody tells it."""
        self.lane: Places | None = None
        """
        The places for the healthy path, while it may take one without asking further; None sends a call the
        long way: nobody has prepared the service, or there is more to ask than whether a place is free.
        """
        self._lane_is_open = False
        self._lock = threading.Lock()

    def open_lane(self, *, is_open: bool) -> None:
        """Whether healthy calls may take the short way."""
        with self._lock:
            self._lane_is_open = is_open
            self._choose_lane()

    def _choose_lane(self) -> None:
        is_plain = self._rate is None and self._adaptive is None
        self.lane = self._places if self._lane_is_open and is_plain else None

    def declare(self, options: Mapping[str, Any]) -> None:  # Any: each option has a type of its own
        """
        Hold from now on, except where somebody has changed it since.

        *options*: ``rate_limit`` (parsed), ``max_concurrent``, ``max_queue``, ``max_wait``, as far as given.
        """
        with self._lock:
            if options != self._declared:
                self._declared = dict(options)
                self._put_in_force()

    def change(self, options: Mapping[str, Any]) -> None:  # Any: each option has a type of its own
        """Hold from now on, whatever is declared. What is in flight or waiting stays where it is."""
        with self._lock:
            self._changed |= options
            self._put_in_force()

    def _put_in_force(self) -> None:
        options = {**self._declared, **self._changed}
        before, self._in_force = self._in_force, options
        rates: Sequence[Rate] = options.get("rate_limit") or ()
        if self._rate is None:
            if rates:
                from shockproof.calls.rate_queue import RateQueue

                self._rate = RateQueue(rates, self._clock)
                self._count_earlier()
                self._share_the_rate()
                if self._on_low is not None:
                    self._rate.keep(self._on_low)
        elif rates != (before.get("rate_limit") or ()):
            self._rate.change(rates)
            self._share_the_rate()
        most: int | AdaptiveConcurrency | None = options.get("max_concurrent")
        if most is None or isinstance(most, int):
            self._adaptive = None
        else:
            from shockproof.policies.adaptive_concurrency import AdaptiveLimit

            if self._adaptive is None or self._adaptive.bounds != most:
                self._adaptive = AdaptiveLimit(most)
            most = self._adaptive.limit
        limit, max_queue = math.inf if most is None else most, options.get("max_queue", 0)
        if self._places is not None:
            _wake(self._places, self._places.resize(limit, max_queue))
        elif most is not None:
            self._places = Places(limit, max_queue)
        self._max_wait = options.get("max_wait")
        self._choose_lane()

    @property
    def in_flight(self) -> int | None:
        """Calls in the bulkhead; None without one."""
        return None if self._places is None else self._places.in_use

    @property
    def max_concurrent(self) -> int | None:
        """How many there may be; None: any number."""
        limit = math.inf if self._places is None else self._places.limit
        return None if limit == math.inf else int(limit)

    @property
    def queued(self) -> int:
        """Calls that wait for either."""
        rate = 0 if self._rate is None else self._rate.queued
        return rate + (0 if self._places is None else self._places.queued)

    @property
    def rates(self) -> tuple[Rate, ...]:
        """Those in force."""
        return () if self._rate is None else self._rate.windows.rates

    def usage(self, now: float) -> list[dict[str, Any]]:  # Any: JSON
        """What counts in each rate at *now*."""
        if self._rate is None:
            return []
        windows = self._rate.windows
        used, shares = windows.used(now), windows.shares
        shown: list[dict[str, Any]] = [  # Any: as above
            {"limit": rate.limit, "seconds": rate.seconds, "name": rate.name, "used": count}
            for rate, count in zip(windows.rates, used, strict=False)
        ]
        if shares is not None:
            for one, share in zip(shown, shares, strict=False):
                one["share"] = share
        return shown

    def paused_for(self, now: float) -> float:
        """Seconds from *now* for which nothing is sent because the other side said so."""
        return 0.0 if self._rate is None else self._rate.windows.paused_for(now)

    def ended(self, seconds: float, *, dropped: bool) -> None:
        """
        An attempt of so many *seconds* was answered, or dropped because there was too much to do.

        What says nothing about load is not told.
        """
        adaptive, places = self._adaptive, self._places
        if adaptive is None or places is None:
            return
        now = self._clock.monotonic()
        if adaptive.ended(now, seconds, dropped=dropped, is_full=places.was_reached()):
            with self._lock:
                if adaptive is self._adaptive:  # else somebody has changed it meanwhile
                    _wake(places, places.resize(adaptive.limit, places.max_queue))

    # -- what the other side says ------------------------------------------------------------------

    def answered(self, answer: object, retry_after: float | None = None) -> None:
        """
        A result or an error came back; *retry_after* is what it asked for, where that is known.

        What its headers say about the rate limit is taken over, if it is an HTTP client's.
        """
        if self._rate is None:
            return
        if retry_after is not None:
            self.pause(retry_after)
        found = answer_of(answer)
        if found is not None:
            self.read_headers(found.headers, may_pause=found.is_ban and not isinstance(answer, Exception))

    def read_headers(self, headers: Iterable[tuple[str, str]], *, may_pause: bool = True) -> None:
        """Take over what the headers of an answer say."""
        said = read_headers(headers, self._clock.time())
        for one in said.usage:
            if isinstance(one, Used):
                self.report(one.seconds, one.used, names=one.names)
            else:
                self._report_left(one)
        if may_pause and said.wait is not None:
            self.pause(said.wait)

    def report(
        self, seconds: float, used: int, *, names: Sequence[str], resets_in: float | None = None
    ) -> bool:
        """The other side counts so much in its window of *seconds*; whether there is such a rate."""
        return self._rate is not None and self._rate.heard(
            lambda windows, now: windows.report(now, seconds, used, names=names, resets_in=resets_in)
        )

    def _report_left(self, left: Left) -> None:
        if self._rate is not None:
            self._rate.heard(
                lambda windows, now: windows.report_left(
                    now, left.remaining, limit=left.limit, resets_in=left.resets_in
                )
            )

    def pause(self, seconds: float) -> None:
        """Send nothing for *seconds*."""
        if self._rate is not None and self._rate.heard(lambda windows, now: windows.pause(now, seconds)):
            self._on_pause(seconds)

    @property
    def windows(self) -> RollingWindows | None:
        """What was sent, in this life and the one before; None where nothing counts it."""
        return self._earlier if self._rate is None else self._rate.windows

    def export(self) -> dict[str, Any]:  # Any: JSON
        """What was sent, for `restore`."""
        assert self._rate is not None
        usage = self._rate.windows.export(self._clock.monotonic())
        return {"exported_at": self._clock.time(), **usage}

    def restore(self, exported: Mapping[str, Any]) -> None:  # Any: JSON
        """Count what an earlier life has sent."""
        assert self._rate is not None
        elapsed = self._clock.time() - float(exported["exported_at"])
        self._rate.windows.restore(self._clock.monotonic(), elapsed, exported)
        if self._on_low is not None:
            self._rate.keep(self._on_low)

    def take_over(self, earlier: RollingWindows) -> None:
        """Count what an earlier life has sent, as soon as there is a rate limit."""
        with self._lock:
            self._earlier = earlier
            if self._rate is not None:
                self._count_earlier()

    def count_earlier(self, sends: Iterable[SentEarlier]) -> None:
        """As `take_over`, of what its journal tells of beside that."""
        with self._lock:
            self._earlier_sends += sends
            if self._rate is not None:
                self._count_earlier()

    def _count_earlier(self) -> None:
        if self._rate is None:
            return
        earlier, self._earlier = self._earlier, None
        sends, self._earlier_sends = self._earlier_sends, []
        now = self._clock.monotonic()
        if earlier is not None:
            self._rate.windows.restore(now, 0.0, earlier.export(now))
        if sends:
            self._rate.windows.count(now, sends)

    def keep(self, on_low: Callable[[], None]) -> None:
        """What may be sent is told to the disk from now on, see `RateQueue.keep`."""
        with self._lock:
            self._on_low = on_low
            if self._rate is not None:
                self._rate.keep(on_low)

    def share(self, shared: SharedLimit) -> None:
        """The rate limit is one with those of other processes, as soon as there is one."""
        with self._lock:
            if shared is not self._shared:
                self._shared = shared
                self._share_the_rate()

    def _share_the_rate(self) -> None:
        if self._rate is not None and self._shared is not None:
            self._rate.share(self._shared)
            self._shared.divide(self._rate, self._rate.windows.rates)

    def check_weight(self, weight: Weight) -> None:
        """
        Refuse a weight that would wait for ever.

        Raises:
            ValueError: it is more than one of the rates ever allows, or counts what no rate is about.
        """
        if self._rate is not None:
            self._rate.windows.check(weight)

    async def enter(self, *, weight: Weight, rank: int, until: float | None, persists: bool = False) -> Held:
        """
        Wait for a token and a place, at most until the monotonic time *until*.

        The lower the *rank*, the earlier in both queues. A wait that a limit of a call around this one is
        known to cut is not begun, unless the call *persists*. Cancelled, it leaves its queue with nothing.

        Raises:
            RateLimitedError, BulkheadFullError: refused at once, turned away, or not granted in time.
        """
        if self._max_wait is not None:
            limit = self._clock.monotonic() + self._max_wait
            until = limit if until is None else min(limit, until)
        rate, places = self._rate, self._places
        sent, waited_for_rate = (
            (None, False) if rate is None else await self._token(rate, weight, rank, until, persists=persists)
        )
        try:
            waited_for_place = (
                False if places is None else await self._place(places, rank, until, persists=persists)
            )
        except BaseException:
            if rate is not None and sent is not None:
                rate.give_back(sent)
            raise
        return Held(rate, sent, places, has_waited=waited_for_rate or waited_for_place)

    async def _token(
        self, rate: RateQueue, weight: Weight, rank: int, until: float | None, *, persists: bool
    ) -> tuple[Sent | None, bool]:
        answer = rate.take(weight, rank)
        if isinstance(answer, Sent):
            return answer, False
        left = self._left(until)
        if answer == math.inf:  # the rates were changed below its weight
            raise RateLimitedError(self._name, "rate_limit", None)
        if left is not None and answer > left:  # it could not be sent in time: refuse now, not later
            raise RateLimitedError(self._name, "rate_limit", answer)
        around = None if persists else time_left_around()
        if around is not None and answer >= around:
            raise RateLimitedError(self._name, "rate_limit", answer)
        waiting = Waiting(weight, rank)
        rate.join(waiting)
        try:
            granted = await waiting.wait(left)
        except BaseException:
            rate.leave(waiting)
            raise
        if not granted:
            rate.leave(waiting)
            raise RateLimitedError(self._name, "rate_limit", None)
        return waiting.sent, True

    async def _place(self, places: Places, rank: int, until: float | None, *, persists: bool) -> bool:
        if places.take():
            return False
        left = self._left(until)
        if left == 0 or (not persists and time_left_around() == 0):  # how long it would take is not known
            raise BulkheadFullError(self._name, "bulkhead")
        waiting = Waiting(1, rank)
        turned_away = places.join(waiting, rank)
        if turned_away is waiting:
            raise BulkheadFullError(self._name, "bulkhead")
        if isinstance(turned_away, Waiting):
            turned_away.wake()
        try:
            granted = await waiting.wait(left)
        except BaseException:
            _wake(places, places.leave(waiting))
            raise
        if not granted:
            _wake(places, places.leave(waiting))
            raise BulkheadFullError(self._name, "bulkhead")
        return True

    def _left(self, until: float | None) -> float | None:
        return None if until is None else max(0.0, until - self._clock.monotonic())

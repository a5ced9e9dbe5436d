"""
The limits of one service, and the waiting for them: rate limit first, bulkhead second.

What is taken is given back exactly once: a token of the rate limit when the call was not sent after
all, a place in the bulkhead when the call has really ended, which for an abandoned one is later.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from shockproof.policies.bulkhead import Places, Waiter
from shockproof.policies.rate_limit import Rate, RollingWindows, Sent
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import BulkheadFullError, RateLimitedError

__all__ = ["Held", "Limits"]


class _Waiting:
    """One call in a queue, on its own loop."""

    __slots__ = ("_woken", "granted", "loop", "sent", "weight")

    def __init__(self, weight: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self.loop.create_future()
        self.granted = False
        self.sent: Sent | None = None
        self.weight = weight

    def wake(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            pass  # that loop has ended, and the call with it

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, seconds: float | None) -> bool:
        """Wait until granted, at most *seconds*."""
        if not self.granted:
            await asyncio.wait({self._woken}, timeout=seconds)
        return self.granted


def _wake_all(woken: Sequence[Waiter]) -> None:
    for waiter in woken:
        assert isinstance(waiter, _Waiting)
        waiter.wake()


class _RateQueue:
    """
    The queue in front of rolling windows: the head is admitted exactly when there is room for it.

    One timer, for the head; nothing polls. A heavy call at the head is not overtaken by light ones.
    """

    def __init__(self, rates: Sequence[Rate], clock: Clock) -> None:
        self.windows = RollingWindows(rates)
        self._clock = clock
        self._urgent: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
        self._lock = threading.Lock()

    @property
    def queued(self) -> int:
        return len(self._urgent) + len(self._others)

    def take(self, weight: int, *, urgent: bool) -> Sent | float:
        """A token now, or the seconds the call would wait at the least."""
        with self._lock:
            if self._urgent or (self._others and not urgent):
                head = (self._urgent or self._others)[0]
                return self.windows.wait(self._clock.monotonic(), head.weight)
            return self.windows.admit(self._clock.monotonic(), weight)

    def join(self, waiting: _Waiting, *, urgent: bool) -> None:
        with self._lock:
            (self._urgent if urgent else self._others).append(waiting)
            self._admit_heads()

    def leave(self, waiting: _Waiting) -> None:
        """It waits no longer; a token that was granted meanwhile goes back."""
        with self._lock:
            if waiting.sent is not None:
                self.windows.give_back(waiting.sent)
            else:
                for queue in (self._urgent, self._others):
                    if waiting in queue:
                        queue.remove(waiting)
            self._admit_heads()

    def give_back(self, sent: Sent) -> None:
        """The call was not sent after all."""
        with self._lock:
            self.windows.give_back(sent)
            self._admit_heads()

    def _admit_heads(self) -> None:
        while queue := self._urgent or self._others:
            head = queue[0]
            if head.loop.is_closed():
                queue.popleft()
                continue
            answer = self.windows.admit(self._clock.monotonic(), head.weight)
            if not isinstance(answer, Sent):
                self._arm(head.loop, answer)
                return
            queue.popleft()
            head.sent, head.granted = answer, True
            head.wake()

    def _arm(self, loop: asyncio.AbstractEventLoop, wait: float) -> None:
        # The head may live on another loop than the one that runs here.
        try:
            loop.call_soon_threadsafe(self._arm_here, loop, wait)
        except RuntimeError:
            pass  # it has just ended; whoever comes next looks again

    def _arm_here(self, loop: asyncio.AbstractEventLoop, wait: float) -> None:
        with self._lock:
            if self._timer is not None and self._timer[0] is loop:
                self._timer[1].cancel()
            self._timer = (loop, loop.call_later(wait, self._due))

    def _due(self) -> None:
        with self._lock:
            self._timer = None
            self._admit_heads()


class Held:
    """What one attempt holds of the limits."""

    __slots__ = ("_kept", "_limits", "_sent", "has_waited")

    def __init__(self, limits: Limits, sent: Sent | None, *, has_waited: bool) -> None:
        self._limits = limits
        self._sent = sent
        self._kept = False
        self.has_waited = has_waited

    def not_sent(self) -> None:
        """The attempt was never made: everything goes back."""
        self._limits.give_back_token(self._sent)
        self._limits.give_back_place()

    def ended(self) -> None:
        """The attempt is over: its place goes back, unless something of it runs on."""
        if not self._kept:
            self._limits.give_back_place()

    def keep(self) -> None:
        """Something of the attempt runs on after its end."""
        self._kept = True

    def really_ended(self) -> None:
        """Now that has ended, too; called from any thread."""
        self._limits.give_back_place()


class Limits:
    """The rate limit and the bulkhead of one service; both optional."""

    def __init__(self, service_name: str, clock: Clock) -> None:
        self._name = service_name
        self._clock = clock
        self._set_to: dict[str, Any] = {}  # Any: each option has a type of its own
        self._rate: _RateQueue | None = None
        self._places: Places | None = None
        self._max_wait: float | None = None

    def set_to(self, options: Mapping[str, Any]) -> bool:  # Any: each option has a type of its own
        """
        Hold from now on; whether that is new. What is in flight or waiting stays where it is.

        *options*: ``rate_limit`` (parsed), ``max_concurrent``, ``max_queue``, ``max_wait``, as far as given.
        """
        if options == self._set_to:
            return False
        self._set_to = dict(options)
        rates: Sequence[Rate] | None = options.get("rate_limit")
        if rates is not None and self._rate is None:
            self._rate = _RateQueue(rates, self._clock)
        max_concurrent: int | None = options.get("max_concurrent")
        if max_concurrent is not None:
            max_queue: int = options.get("max_queue", 0)
            if self._places is None:
                self._places = Places(max_concurrent, max_queue)
            else:
                _wake_all(self._places.resize(max_concurrent, max_queue))
        self._max_wait = options.get("max_wait")
        return True

    @property
    def in_flight(self) -> int | None:
        """Calls in the bulkhead; None without one."""
        return None if self._places is None else self._places.in_use

    @property
    def queued(self) -> int:
        """Calls that wait for either."""
        rate = 0 if self._rate is None else self._rate.queued
        return rate + (0 if self._places is None else self._places.queued)

    def check_weight(self, weight: int) -> None:
        """
        Refuse a weight that would wait for ever.

        Raises:
            ValueError: it is more than one of the rates ever allows.
        """
        if self._rate is not None and weight > self._rate.windows.largest_weight:
            raise ValueError(
                f"weight={weight} can never be sent: the rate limit of service {self._name!r} allows "
                f"{self._rate.windows.largest_weight} at most"
            )

    async def enter(self, *, weight: int, urgent: bool, until: float | None) -> Held:
        """
        Wait for a token and a place, at most until the monotonic time *until*.

        Urgent calls go first in both queues. Cancelled, the call leaves its queue with nothing.

        Raises:
            RateLimitedError, BulkheadFullError: refused at once, or not granted in time.
        """
        if self._max_wait is not None:
            limit = self._clock.monotonic() + self._max_wait
            until = limit if until is None else min(limit, until)
        sent, waited_for_rate = await self._token(weight, urgent, until)
        try:
            waited_for_place = await self._place(urgent, until)
        except BaseException:
            self.give_back_token(sent)
            raise
        return Held(self, sent, has_waited=waited_for_rate or waited_for_place)

    def give_back_token(self, sent: Sent | None) -> None:
        """A call was not sent after all."""
        if self._rate is not None and sent is not None:
            self._rate.give_back(sent)

    def give_back_place(self) -> None:
        """A call has ended."""
        if self._places is not None:
            _wake_all(self._places.give_back())

    async def _token(self, weight: int, urgent: bool, until: float | None) -> tuple[Sent | None, bool]:
        rate = self._rate
        if rate is None:
            return None, False
        answer = rate.take(weight, urgent=urgent)
        if isinstance(answer, Sent):
            return answer, False
        left = self._left(until)
        if left is not None and answer > left:  # it could not be sent in time: refuse now, not later
            raise RateLimitedError(self._name, "rate_limit", answer)
        waiting = _Waiting(weight)
        rate.join(waiting, urgent=urgent)
        try:
            granted = await waiting.wait(left)
        except BaseException:
            rate.leave(waiting)
            raise
        if not granted:
            rate.leave(waiting)
            raise RateLimitedError(self._name, "rate_limit", None)
        return waiting.sent, True

    async def _place(self, urgent: bool, until: float | None) -> bool:
        places = self._places
        if places is None or places.take():
            return False
        left = self._left(until)
        waiting = _Waiting(1)
        if (left is not None and left <= 0) or not places.join(waiting, urgent=urgent):
            raise BulkheadFullError(self._name, "bulkhead")
        try:
            granted = await waiting.wait(left)
        except BaseException:
            _wake_all(places.leave(waiting))
            raise
        if not granted:
            _wake_all(places.leave(waiting))
            raise BulkheadFullError(self._name, "bulkhead")
        return True

    def _left(self, until: float | None) -> float | None:
        return None if until is None else max(0.0, until - self._clock.monotonic())

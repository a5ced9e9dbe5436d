"""
The queue of calls that wait for a rate limit.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from shockproof.calls.waiting import Waiting
from shockproof.policies.priority import Line
from shockproof.policies.rate_limit import Rate, RollingWindows, Sent, Weight
from shockproof.vocabulary.clock import Clock

if TYPE_CHECKING:
    from shockproof.memory.fleet.shared_limit import SharedLimit

__all__ = ["RateQueue"]

_SHORTEST_TIMER: Final = 1e-6
"""Seconds: rounding may leave less than that of a wait, and a virtual clock would never get over it."""
_REFUSED_COUNTS_FOR: Final = 5.0
"""Seconds for which a call that was refused is taken for one that comes back."""


class RateQueue:
    """
    The queue in front of rolling windows: the head is admitted exactly when there is room for it.

    One timer, for the head; nothing polls. A heavy call at the head is not overtaken by those behind it.
    """

    def __init__(self, rates: Sequence[Rate], clock: Clock) -> None:
        self.windows = RollingWindows(rates)
        self._clock = clock
        self._line: Line[Waiting] = Line()
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
        self._shared: SharedLimit | None = None
        self._refused: tuple[float, Weight] | None = None
        """When something did not fit in last, and what it was: it may come back."""
        self._has_sent = False
        self._on_low: Callable[[], None] | None = None
        """Has the disk told what may be sent; None: nobody tells it."""
        # Reentrant: a garbage collection inside it may end a call of a dead loop.
        self._lock = threading.RLock()

    @property
    def queued(self) -> int:
        return len(self._line)

    def take(self, weight: Weight, rank: int) -> Sent | float:
        """A token now, or the seconds the call would wait at the least."""
        now = self._clock.monotonic()
        with self._lock:
            ahead = self._line.first_before(rank)
            if self._shared is not None:
                return self._take_of_the_share(self._shared, now, weight, ahead)
            if ahead is None:
                answer = self.windows.admit(now, weight)
                if self._on_low is not None:
                    self._tell_the_disk(self._on_low)
                return answer
            own = self.windows.wait(now, weight)
            return max(own, self.windows.wait(now, ahead.weight))

    def _take_of_the_share(
        self, shared: SharedLimit, now: float, weight: Weight, ahead: Waiting | None
    ) -> Sent | float:
        if not shared.is_certain:
            self.windows.share({})
        answer = self.windows.admit(now, weight) if ahead is None else None
        if isinstance(answer, Sent):
            self._has_sent, self._refused = True, None
            if self.windows.runs_low():
                shared.is_short()
            else:
                shared.sent()
            return answer
        wait = self.windows.wait_for_share if shared.may_grow else self.windows.wait
        self._refused = now, weight
        shared.is_short()
        return wait(now, weight) if ahead is None else max(wait(now, weight), wait(now, ahead.weight))

    # -- over a restart ----------------------------------------------------------------------------------

    def keep(self, on_low: Callable[[], None]) -> None:
        """
        From now on *on_low* is called, from any thread, when the disk has to be told what may be sent, and must be quick.

        Where others use the limit, too, what they share it in knows of it.
        """
        with self._lock:
            if self._shared is None:
                self._on_low = on_low
                self.windows.reserve()
                on_low()

    def _tell_the_disk(self, on_low: Callable[[], None]) -> None:
        if self.windows.reserved is not None and self.windows.reserved.is_low:
            on_low()

    # -- one limit for several processes -----------------------------------------------------------------

    def share(self, shared: SharedLimit) -> None:
        """From now on others use the limit, too: nothing is sent but of the own share."""
        with self._lock:
            self._shared, self._on_low, self.windows.reserved = shared, None, None
            self.windows.share({})

    def allow(self, shares: Mapping[Rate, int], limits: Mapping[Rate, int]) -> None:
        """The own share is this from now on, and *limits* what all together may send, where that is less than was said."""
        with self._lock:
            self.windows.share(shares)
            self.windows.bound(limits)
            self._look(is_told=False)

    def demand(self) -> tuple[dict[Rate, int], dict[Rate, int], int, bool]:
        """What was sent, what the next call needs, how many wait, and whether anything was sent since the last time."""
        now = self._clock.monotonic()
        with self._lock:
            head, has_sent, self._has_sent = self._line.first(), self._has_sent, False
            weight = None if head is None else head.weight
            if head is None and self._refused is not None:
                if now - self._refused[0] < _REFUSED_COUNTS_FOR:
                    weight = self._refused[1]
                else:
                    self._refused = None
            needs = {} if weight is None else self.windows.parts(weight)
            return self.windows.own(now), needs, len(self._line), has_sent

    def orphaned(self) -> None:
        """The loop that kept up the share has ended: that of the head does so from now on."""
        with self._lock:
            head, shared = self._line.first(), self._shared
        if head is None or shared is None or head.loop is asyncio.get_running_loop():
            return
        try:
            head.loop.call_soon_threadsafe(shared.ensure)
        except RuntimeError:
            pass  # it has ended, too; whoever comes next starts it

    def join(self, waiting: Waiting) -> None:
        with self._lock:
            self._line.join(waiting, waiting.rank)
            if self._line.first() is waiting:  # else it changes nothing for the head
                self._look()

    def leave(self, waiting: Waiting) -> None:
        """It waits no longer; a token that was granted meanwhile goes back."""
        with self._lock:
            if waiting.sent is not None:
                self.windows.give_back(waiting.sent)
                waiting.sent = None
            else:
                was_first = self._line.first() is waiting
                self._line.leave(waiting)
                if not was_first:
                    return
            self._look()

    def give_back(self, sent: Sent) -> None:
        """The call was not sent after all."""
        with self._lock:
            self.windows.give_back(sent)
            self._look()

    def heard(self, told: Callable[[RollingWindows, float], bool]) -> bool:
        """The other side said something; *told* says it to the windows, and whether they could use it."""
        with self._lock:
            answer = told(self.windows, self._clock.monotonic())
            self._look()
            if self._on_low is not None:
                self._tell_the_disk(self._on_low)
            return answer

    def change(self, rates: Sequence[Rate]) -> None:
        """Other rates from now on; what was sent counts in them, and who waits keeps its turn."""
        with self._lock:
            self.windows.change(self._clock.monotonic(), rates)
            if self._on_low is not None:
                self.keep(self._on_low)
            self._look()

    def _look(self, *, is_told: bool = True) -> None:
        """Admit from the head as many as there is room for; the lock is held."""
        if self._shared is not None and not self._shared.is_certain:
            self.windows.share({})
        while (head := self._line.first()) is not None:
            answer = self.windows.admit(self._clock.monotonic(), head.weight)
            if isinstance(answer, Sent):
                self._line.leave(head)
                head.sent, head.granted = answer, True
                self._has_sent = True
                if self._on_low is not None:
                    self._tell_the_disk(self._on_low)
                if not head.wake():
                    self.windows.give_back(answer)
                    head.sent, head.granted = None, False
            elif answer == math.inf or head.loop.is_closed():  # the rates were changed below its weight
                self._line.leave(head)
                head.wake()
            elif self._shared is not None and self.windows.lacks_share(head.weight):
                if is_told:
                    self._shared.is_short()
                return  # it looks here when it has got more
            else:
                self._arm(head.loop, answer)
                return

    def _arm(self, loop: asyncio.AbstractEventLoop, wait: float) -> None:
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if loop is not running:  # the head lives on another loop than the one that runs here
            try:
                loop.call_soon_threadsafe(self._look_again)
            except RuntimeError:
                pass  # it has just ended; whoever comes next looks again
            return
        if self._timer is not None and self._timer[0] is loop:
            self._timer[1].cancel()
        self._timer = (loop, loop.call_later(max(wait, _SHORTEST_TIMER), self._look_again))

    def _look_again(self) -> None:
        with self._lock:
            self._look()

"""
How many calls may be in flight at once, and who waits for a place.
"""

from __future__ import annotations

import threading
from typing import Protocol

from shockproof.policies.priority import RISK_REDUCING, Line

__all__ = ["Places", "Waiter"]


class Waiter(Protocol):
    """Somebody in a queue. `granted` is set by the queue; waking is the executor's business."""

    granted: bool


class Places:
    """
    A number of places, and a bounded queue for them: the most important first, then who came first.

    Safe to share between threads. Every method that frees places returns who got them and is to be
    woken. A place belongs to a waiter from the moment it is granted: one that leaves the queue at that
    very moment hands it on, so that none is ever lost.

    The bound of the queue is not for risk-reducing calls: they find room always, and take none away.

    The healthy path takes no lock: it pops a place off `free` and appends it again, which CPython does in
    one step each, and attends to the queue if it is `watched`. Whoever joins the queue sets that flag
    before looking for a free place, and whoever gives one back reads it after: one of them sees the other.
    """

    __slots__ = ("_line", "_lock", "_made", "_reached", "free", "limit", "max_queue", "watched")

    def __init__(self, limit: float, max_queue: int) -> None:
        self.limit = limit
        """Whole, or infinite."""
        self.max_queue = max_queue
        self.free: list[None] = []
        """Places that were in use and are not now. The others are made when they are needed first."""
        self.watched = False
        """Whether a place that is given back is awaited: by somebody, or by a limit that was lowered."""
        self._made = 0
        self._reached = False
        self._line: Line[Waiter] = Line()
        # Reentrant: a garbage collection inside it may end a call of a dead loop.
        self._lock = threading.RLock()

    @property
    def in_use(self) -> int:
        """How many are taken."""
        return self._made - len(self.free)

    @property
    def queued(self) -> int:
        """How many are waiting."""
        return len(self._line)

    def take(self) -> bool:
        """Take a place if there is one and nobody waits for it."""
        try:
            self.free.pop()
        except IndexError:
            with self._lock:
                return not self._line and self._make()
        return True

    def was_reached(self) -> bool:
        """Whether every place is taken, or was when somebody wanted one since this was last asked."""
        with self._lock:
            reached, self._reached = self._reached, False
            return reached or self.in_use >= self.limit

    def join(self, waiter: Waiter, rank: int) -> Waiter | None:
        """
        Wait in the queue; whoever has to go for it, or None.

        That is *waiter* itself when the queue is full of those who are as important; else the least
        important one that came last: it has lost the least by waiting, and was to be served last.
        """
        with self._lock:
            self.watched = True
            turned_away: Waiter | None = None
            if not self._line and (self._pop() or self._make()):  # freed since `take` was asked
                waiter.granted = True
            elif rank != RISK_REDUCING and self._line.bounded >= self.max_queue:
                turned_away = self._line.last_behind(rank)
                if turned_away is None:
                    turned_away = waiter
                else:
                    self._line.leave(turned_away)
                    self._line.join(waiter, rank)
            else:
                self._line.join(waiter, rank)
            self._watch()
            return turned_away

    def leave(self, waiter: Waiter) -> list[Waiter]:
        """Wait no longer; a place that was granted meanwhile goes to the next."""
        with self._lock:
            if waiter.granted:
                waiter.granted = False  # it may leave twice: a dead loop's calls are collected later
                self.free.append(None)
            else:
                self._line.leave(waiter)
            return self._grant()

    def give_back(self) -> list[Waiter]:
        """A call has ended."""
        self.free.append(None)
        return self.attend() if self.watched else []

    def attend(self) -> list[Waiter]:
        """Give what is free to those who wait, or take it away where the limit was lowered."""
        with self._lock:
            return self._grant()

    def resize(self, limit: float, max_queue: int) -> list[Waiter]:
        """Other bounds from now on; what is in flight or waits beyond them drains."""
        with self._lock:
            self.limit, self.max_queue = limit, max_queue
            return self._grant()

    def _grant(self) -> list[Waiter]:
        self.watched = True
        while self._made > self.limit and self._pop():
            self._made -= 1
        woken: list[Waiter] = []
        while (waiter := self._line.first()) is not None and (self._pop() or self._make()):
            self._line.leave(waiter)
            waiter.granted = True
            woken.append(waiter)
        self._watch()
        return woken

    def _watch(self) -> None:
        self.watched = bool(self._line) or self._made > self.limit

    def _pop(self) -> bool:
        try:
            self.free.pop()
        except IndexError:  # another thread was faster, or there was none
            return False
        return True

    def _make(self) -> bool:
        """A place that was never in use, or was given up: taken."""
        if self._made >= self.limit:
            self._reached = True
            return False
        self._made += 1
        return True

    def __repr__(self) -> str:
        return f"<Places {self.in_use} of {self.limit} in use, {self.queued} of {self.max_queue} waiting>"

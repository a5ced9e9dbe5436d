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
    """

    __slots__ = ("_line", "_lock", "_reached", "in_use", "limit", "max_queue")

    def __init__(self, limit: float, max_queue: int) -> None:
        self.limit = limit
        """Whole, or infinite."""
        self.max_queue = max_queue
        self.in_use = 0
        self._reached = False
        self._line: Line[Waiter] = Line()
        self._lock = threading.Lock()

    @property
    def queued(self) -> int:
        """How many are waiting."""
        return len(self._line)

    def take(self) -> bool:
        """Take a place if there is one and nobody waits for it."""
        with self._lock:
            if self.in_use >= self.limit or self._line:
                return False
            self.in_use += 1
            if self.in_use >= self.limit:
                self._reached = True
            return True

    def was_reached(self) -> bool:
        """Whether every place was taken at some moment since this was last asked."""
        with self._lock:
            reached, self._reached = self._reached, self.in_use >= self.limit
            return reached

    def join(self, waiter: Waiter, rank: int) -> Waiter | None:
        """
        Wait in the queue; whoever has to go for it, or None.

        That is *waiter* itself when the queue is full of those who are as important; else the least
        important one that came last: it has lost the least by waiting, and was to be served last.
        """
        with self._lock:
            if self.in_use < self.limit:  # freed since `take` was asked
                self.in_use += 1
                self._reached = self._reached or self.in_use >= self.limit
                waiter.granted = True
                return None
            turned_away: Waiter | None = None
            if rank != RISK_REDUCING and self._line.bounded >= self.max_queue:
                turned_away = self._line.last_behind(rank)
                if turned_away is None:
                    return waiter
                self._line.leave(turned_away)
            self._line.join(waiter, rank)
            return turned_away

    def leave(self, waiter: Waiter) -> list[Waiter]:
        """Wait no longer; a place that was granted meanwhile goes to the next."""
        with self._lock:
            if waiter.granted:
                waiter.granted = False  # it may leave twice: a dead loop's calls are collected later
                self.in_use -= 1
                return self._grant()
            self._line.leave(waiter)
            return []

    def give_back(self) -> list[Waiter]:
        """A call has ended."""
        with self._lock:
            self.in_use -= 1
            return self._grant()

    def resize(self, limit: float, max_queue: int) -> list[Waiter]:
        """Other bounds from now on; what is in flight or waits beyond them drains."""
        with self._lock:
            self.limit, self.max_queue = limit, max_queue
            return self._grant()

    def _grant(self) -> list[Waiter]:
        woken: list[Waiter] = []
        while self.in_use < self.limit:
            waiter = self._line.first()
            if waiter is None:
                break
            self._line.leave(waiter)
            waiter.granted = True
            self.in_use += 1
            woken.append(waiter)
        return woken

    def __repr__(self) -> str:
        return f"<Places {self.in_use} of {self.limit} in use, {self.queued} of {self.max_queue} waiting>"

"""
How many calls may be in flight at once, and who waits for a place.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

__all__ = ["Places", "Waiter"]


class Waiter(Protocol):
    """Somebody in a queue. `granted` is set by the queue; waking is the executor's business."""

    granted: bool


class Places:
    """
    A number of places, and a bounded queue for them: first in, first out, the urgent ones first.

    Safe to share between threads. Every method that frees places returns who got them and is to be
    woken. A place belongs to a waiter from the moment it is granted: one that leaves the queue at that
    very moment hands it on, so that none is ever lost.
    """

    __slots__ = ("_lock", "_urgent", "_waiting", "in_use", "limit", "max_queue")

    def __init__(self, limit: int, max_queue: int) -> None:
        self.limit = limit
        self.max_queue = max_queue
        self.in_use = 0
        self._urgent: deque[Waiter] = deque()
        self._waiting: deque[Waiter] = deque()
        self._lock = threading.Lock()

    @property
    def queued(self) -> int:
        """How many are waiting."""
        return len(self._urgent) + len(self._waiting)

    def take(self) -> bool:
        """Take a place if there is one and nobody waits for it."""
        with self._lock:
            if self.in_use >= self.limit or self._urgent or self._waiting:
                return False
            self.in_use += 1
            return True

    def join(self, waiter: Waiter, *, urgent: bool) -> bool:
        """Wait in the queue; False when it is full. Urgent ones always find room, and go first."""
        with self._lock:
            if self.in_use < self.limit:  # freed since `take` was asked
                self.in_use += 1
                waiter.granted = True
                return True
            if not urgent and self.queued >= self.max_queue:
                return False
            (self._urgent if urgent else self._waiting).append(waiter)
            return True

    def leave(self, waiter: Waiter) -> list[Waiter]:
        """Wait no longer; a place that was granted meanwhile goes to the next."""
        with self._lock:
            if waiter.granted:
                self.in_use -= 1
                return self._grant()
            for queue in (self._urgent, self._waiting):
                if waiter in queue:
                    queue.remove(waiter)
            return []

    def give_back(self) -> list[Waiter]:
        """A call has ended."""
        with self._lock:
            self.in_use -= 1
            return self._grant()

    def resize(self, limit: int, max_queue: int) -> list[Waiter]:
        """Other bounds from now on; what is in flight beyond them drains."""
        with self._lock:
            self.limit, self.max_queue = limit, max_queue
            return self._grant()

    def _grant(self) -> list[Waiter]:
        woken: list[Waiter] = []
        while self.in_use < self.limit and (self._urgent or self._waiting):
            waiter = (self._urgent or self._waiting).popleft()
            waiter.granted = True
            self.in_use += 1
            woken.append(waiter)
        return woken

    def __repr__(self) -> str:
        return f"<Places {self.in_use} of {self.limit} in use, {self.queued} of {self.max_queue} waiting>"

"""
How many retries a dependency may get, funded by its successes.

A budget funded by requests can itself hold an outage up: while nothing succeeds it goes on paying
for retries. One funded by successes runs dry then ("Fixing retries with token buckets and circuit
breakers", M. Brooker, 2022).
"""

from __future__ import annotations

import threading

from shockproof.vocabulary.arguments import at_least

__all__ = ["RetryBudget"]


class RetryBudget:
    """
    A bucket of retries, shared by all that repeats a call to one dependency.

    One retry costs 1. It is taken before the wait and held through it, so that retries still waiting
    count as well; a retried call that succeeds gets its cost back. Safe to share between services,
    tasks, threads and loops; full at first.

    Args:
        capacity: the most it holds, at least 1. Default 10.0.
        per_success: what each success adds, at least 0. Default 0.1, so that at most one call in ten
            is repeated for long.
    """

    __slots__ = ("_lock", "capacity", "per_success", "tokens")

    def __init__(self, *, capacity: float = 10.0, per_success: float = 0.1) -> None:
        self.capacity = at_least("capacity", capacity, 1)
        self.per_success = at_least("per_success", per_success, 0)
        self.tokens = self.capacity
        """What it holds now."""
        self._lock = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether a success would add nothing."""
        return self.tokens >= self.capacity

    def take(self, cost: float = 1.0) -> bool:
        """Take the *cost* of one retry, if it is there."""
        with self._lock:
            if self.tokens < cost:
                return False
            self.tokens -= cost
            return True

    def give_back(self, cost: float = 1.0) -> None:
        """The retried call succeeded, or the retry was never made."""
        with self._lock:
            self.tokens = min(self.capacity, self.tokens + cost)

    def succeeded(self) -> None:
        """A call succeeded."""
        self.give_back(self.per_success)

    def __repr__(self) -> str:
        return f"<RetryBudget {self.tokens:g} of {self.capacity:g}>"

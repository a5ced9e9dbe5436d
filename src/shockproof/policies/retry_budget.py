"""
How many retries a dependency may get, funded by its successes.

A budget funded by requests can itself hold an outage up: while nothing succeeds it goes on paying
for retries. One funded by successes runs dry then ("Fixing retries with token buckets and circuit
breakers", M. Brooker, 2022).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from shockproof.policies.error_kinds import ERROR_KINDS, ErrorKind
from shockproof.vocabulary.arguments import at_least

__all__ = ["RetryBudget"]

_ROUNDING: Final = 1e-9
"""Ten successes of 0.1 have to pay for a retry, although their sum as floats is a little less than 1."""


class RetryBudget:
    """
    A bucket of retries, shared by all that repeats a call to one dependency.

    One retry costs 1, unless `costs` says otherwise. It is taken before the wait and held through it,
    so that retries still waiting count as well; a retried call that succeeds gets its cost back. A hedge
    costs 1, and is spent once it was sent. Safe to share between services, tasks, threads and loops;
    full at first.

    Args:
        capacity: the most it holds, at least 1. Default 10.0.
        per_success: what each success adds, at least 0. Default 0.1, so that at most one call in ten
            is repeated for long.
        costs: what a retry costs after an error of a kind, at least 0, for ``"throttled"``,
            ``"timeout"``, ``"server"``, ``"connection"`` and ``"other"``; ``{"timeout": 2.0}`` makes
            those dear that may have left work behind at the other side. More than the capacity is all
            of it. Default: 1 each; for ``adaptive=True`` 2 for a timeout and 0.5 for a throttled call.

    Raises:
        TypeError, ValueError: a number out of range, or a kind that does not exist.
    """

    __slots__ = ("_lock", "capacity", "costs", "per_success", "tokens")

    def __init__(
        self,
        *,
        capacity: float = 10.0,
        per_success: float = 0.1,
        costs: Mapping[ErrorKind, float] | None = None,
    ) -> None:
        self.capacity = at_least("capacity", capacity, 1)
        self.per_success = at_least("per_success", per_success, 0)
        if costs is not None and not isinstance(costs, Mapping):
            raise TypeError(f'costs must be a mapping such as {{"timeout": 2.0}}, got {costs!r}')
        for kind in costs or {}:
            if kind not in ERROR_KINDS:
                raise ValueError(f"costs knows no {kind!r}; there are {', '.join(ERROR_KINDS)}")
        self.costs: Mapping[ErrorKind, float] = MappingProxyType(
            {kind: at_least(f"costs[{kind!r}]", cost, 0) for kind, cost in (costs or {}).items()}
        )
        """What was said about the kinds of errors."""
        self.tokens = self.capacity
        """What it holds now."""
        # Reentrant: a garbage collection inside it may end a call of a dead loop.
        self._lock = threading.RLock()

    @property
    def is_full(self) -> bool:
        """Whether a success would add nothing."""
        return self.tokens >= self.capacity

    def cost(self, kind: ErrorKind, usual: float = 1.0) -> float:
        """What a retry after an error of this *kind* costs; *usual* where nothing was said about it."""
        return min(self.capacity, self.costs.get(kind, usual))

    def take(self, cost: float = 1.0) -> bool:
        """Take the *cost* of one retry, if it is there."""
        with self._lock:
            if self.tokens + _ROUNDING < cost:
                return False
            self.tokens = max(0.0, self.tokens - cost)
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

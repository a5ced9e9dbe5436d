"""
How many retries a dependency may get, funded by its successes.

A budget funded by requests can itself hold an outage up: while nothing succeeds it goes on paying
for retries. One funded by successes runs dry then ("Fixing retries with token buckets and circuit
breakers", M. Brooker, 2022).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from shockproof.policies.classification import is_refusal
from shockproof.policies.error_kinds import ERROR_KINDS, ErrorKind
from shockproof.vocabulary.arguments import a_name, at_least
from shockproof.vocabulary.errors import BudgetExhaustedError

if TYPE_CHECKING:
    from shockproof.policies.fleet_budget import InHand

__all__ = ["RetryBudget"]

_ROUNDING: Final = 1e-9
"""Ten successes of 0.1 have to pay for a retry, although their sum as floats is a little less than 1."""
_LOW: Final = 1.0
"""With less than that in hand more is fetched: the next retry could not be paid for."""


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
        name: under which the services that are ``shared=True`` have it in common with those of the other processes,
            such as ``"account 7"``. Default: none; a service alone has it under its own name.

    Raises:
        TypeError, ValueError: a number out of range, a kind that does not exist, or a name that is none.
    """

    __slots__ = (
        "_earned",
        "_elsewhere",
        "_is_short",
        "_lock",
        "_most",
        "_refused",
        "_spent",
        "capacity",
        "costs",
        "name",
        "per_success",
        "tokens",
    )

    def __init__(
        self,
        *,
        capacity: float = 10.0,
        per_success: float = 0.1,
        costs: Mapping[ErrorKind, float] | None = None,
        name: str | None = None,
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
        self.name = None if name is None else a_name("name", name, "account 7")
        """As what processes share it."""
        self.tokens = self.capacity
        """What it holds now; of one that processes share, what this one has in hand."""
        self._most = self.capacity
        """What it may hold."""
        self._is_short: Callable[[], None] | None = None
        """Told when it runs low and is shared; None: it is not."""
        self._elsewhere = 0.0
        """What other processes have of it, and nobody yet, as far as is known."""
        self._earned = 0.0
        """What does not fit into the hand of this process, and others may be short of."""
        self._refused = 0.0
        self._spent = 0.0
        # Reentrant: a garbage collection inside it may end a call of a dead loop.
        self._lock = threading.RLock()

    @property
    def left(self) -> float:
        """What it holds now, of one that processes share with what the others hold."""
        return min(self.capacity, self.tokens + self._elsewhere)

    @property
    def is_full(self) -> bool:
        """Whether a success would add nothing."""
        return self.tokens >= self._most and (self._is_short is None or self._earned >= self.capacity)

    def cost(self, kind: ErrorKind, usual: float = 1.0) -> float:
        """What a retry after an error of this *kind* costs; *usual* where nothing was said about it."""
        return min(self.capacity, self.costs.get(kind, usual))

    def take(self, cost: float = 1.0) -> bool:
        """Take the *cost* of one retry, if it is there."""
        with self._lock:
            is_there = self.tokens + _ROUNDING >= cost
            if is_there:
                self.tokens = max(0.0, self.tokens - cost)
                self._spent += cost
            else:
                self._refused = cost
            is_short = self._is_short if self.tokens < _LOW else None
        if is_short is not None:
            is_short()
        return is_there

    def give_back(self, cost: float = 1.0) -> None:
        """The retried call succeeded, or the retry was never made."""
        with self._lock:
            tokens = self.tokens + cost
            self.tokens = max(0.0, min(self._most, tokens))
            if self._is_short is None:
                return
            self._earned = min(self.capacity, self._earned + tokens - self.tokens)
            is_short = self._is_short if self.tokens < _LOW <= self._earned else None
        if is_short is not None:
            is_short()

    def succeeded(self) -> None:
        """A call succeeded."""
        self.give_back(self.per_success)

    @contextmanager
    def repetition(self, service_name: str, *, cost: float = 1.0) -> Generator[None]:
        """
        A block that repeats something by hand, and is paid for like a retry.

        It holds the *cost* from its begin, so a wait before the repetition belongs inside. When it succeeds it
        gives the cost back and funds the budget. When it was cancelled, or refused inside, it gives the cost back
        alone. After any other error the cost is spent.

        Args:
            service_name: what is repeated, for the error's text.
            cost: of this repetition, at least 0; more than the capacity is all of it. Default 1.0.

        Raises:
            BudgetExhaustedError: it is not paid for. The block does not run.
            TypeError, ValueError: a name that is none, or a cost out of range.
        """
        a_name("service_name", service_name, "reconnect")
        cost = min(self.capacity, at_least("cost", cost, 0))
        if not self.take(cost):
            raise BudgetExhaustedError(service_name)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception) or is_refusal(error):
                self.give_back(cost)
            raise
        self.give_back(cost)
        self.succeeded()

    # -- one budget for several processes ----------------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        """Whether processes share it."""
        return self._is_short is not None

    def _share(self, is_short: Callable[[], None]) -> None:
        """
        From now on others have it, too: nothing is in hand but what `_receive` brings.

        *is_short* is told, from any thread, when more is worth fetching.
        """
        with self._lock:
            self._is_short = is_short
            self.tokens = self._most = self._earned = self._refused = self._spent = self._elsewhere = 0.0

    def _in_the_child(self) -> None:
        """After a fork: what the parent has in hand it goes on spending, and another thread may have held its lock."""
        self._lock = threading.RLock()
        if self._is_short is not None:
            self._share(self._is_short)

    def _in_hand(self) -> InHand:
        """What is there, what was earned beyond it, and what was refused and spent since this was asked last."""
        from shockproof.policies.fleet_budget import InHand  # loaded by who shares it

        with self._lock:
            hand = InHand(self.tokens, self._earned, self._refused, self._spent)
            self._refused = self._spent = 0.0
            return hand

    def _hand_over(self, tokens: float, earned: float) -> bool:
        """Take so much out for the others; False: it is not there any more, and nothing was taken."""
        with self._lock:
            if self.tokens + _ROUNDING < tokens or self._earned + _ROUNDING < earned:
                return False
            self.tokens = max(0.0, self.tokens - tokens)
            self._earned = max(0.0, self._earned - earned)
            return True

    def _receive(self, tokens: float, earned: float, most: float) -> None:
        """So much has come from the others, or back from where it did not arrive; the hand may hold *most* from now on."""
        with self._lock:
            self._most = most
            held = self.tokens + tokens
            self.tokens = min(most, held)
            self._earned = min(self.capacity, self._earned + earned + held - self.tokens)

    def __repr__(self) -> str:
        return f"<RetryBudget {self.tokens:g} of {self.capacity:g}>"

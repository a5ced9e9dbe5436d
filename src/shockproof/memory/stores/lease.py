"""
The right to be the only one for some seconds: a value that expires, and that only the first could put.

The store's clock decides when it is over. Whoever has it counts by its own clock from before it asked, and
stops earlier: it may be late in knowing that it has the lease, and never in knowing that it has not.
"""

from __future__ import annotations

import json
import time
from typing import Final

from shockproof.memory.stores.own_name import own_name
from shockproof.memory.stores.state_store import Guard, StateStore
from shockproof.vocabulary.arguments import Seconds, a_name, seconds
from shockproof.vocabulary.clock import Clock, SystemClock, as_clock
from shockproof.vocabulary.errors import StoreConflictError

__all__ = ["LEASE_MARGIN", "Lease", "holder_of", "take_lease"]

_PREFIX: Final = "lease/"
LEASE_MARGIN: Final = 0.1
"""Of the lease's length: for clocks that run at different speeds, and for what is sent at its last moment."""

_RUNNING: Final = getattr(time, "CLOCK_BOOTTIME", None)
"""Goes on while the machine sleeps, as the store's does; of Linux."""


def _running(clock: Clock) -> float:
    if _RUNNING is not None and type(clock) is SystemClock:
        return time.clock_gettime(_RUNNING)
    return clock.monotonic()


class Lease:
    """
    What `take_lease` gives. It is held until it is released, or until its time is over without a `renew`.

    Let `is_held` be asked right before each thing that only the owner may do, and renew it in good time: every third
    of its length is enough. What is put in the same store goes with ``guard=lease.guard``; what is sent elsewhere
    carries the `token` where the other side can compare it: it refuses lower ones than it has seen.
    """

    def __init__(
        self, store: StateStore, name: str, holder: str, length: float, clock: Clock, token: int, until: float
    ) -> None:
        self._store = store
        self._clock = clock
        self._until = until
        self.name = name
        self.holder = holder
        """Who has it, to be shown."""
        self.seconds = length
        """Its length."""
        self.token = token
        """Higher than that of everybody who had the lease before."""

    @property
    def is_held(self) -> bool:
        """Whether it is certain that nobody else has it, by the clock of this process."""
        return self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds for which that is certain without another `renew`; at least 0."""
        return max(0.0, self._until - _running(self._clock))

    @property
    def guard(self) -> Guard:
        """For ``guard=`` of a put or delete: refused once somebody else has the lease, or nobody."""
        return _PREFIX + self.name, self.token

    async def renew(self) -> bool:
        """
        Have it for its whole length again; False: it is lost, and so it is from now on.

        Raises:
            StoreUnavailableError: the store did not answer; it is held for as long as `remaining` says.
        """
        asked_at = _running(self._clock)
        if await self._store.renew(*self.guard):
            self._until = max(self._until, asked_at + self.seconds * (1 - LEASE_MARGIN))
            return True
        self._until = 0.0
        return False

    async def release(self) -> None:
        """
        Give it back, so that the next one need not wait; not held from the call on.

        Raises:
            StoreUnavailableError: the store did not answer; it ends by itself.
        """
        self._until = 0.0
        key, token = self.guard
        try:
            await self._store.delete(key, expect=token)
        except StoreConflictError:
            pass  # somebody else has it already

    def __repr__(self) -> str:
        return f"<Lease {self.name!r} of {self.holder!r}, token {self.token}, {self.remaining:.3f} s left>"


async def take_lease(
    store: StateStore,
    name: str,
    *,
    length: Seconds = 15.0,
    holder: str | None = None,
    clock: Clock | None = None,
    guard: Guard | None = None,
) -> Lease | None:
    """
    The lease *name*, if nobody has it; never waits for the one who does.

    Args:
        store: where it is kept.
        name: what is to be owned, such as ``"journal of account 7"``.
        length: seconds that it is held without a renewal, more than 0, by the store's clock. Default 15.
        holder: who takes it, to be shown. Default: host, process number and eight digits.
        clock: by what its holder counts. Default: the real time.
        guard: another key, and the version that has to be there. Default: none.

    Returns:
        The lease; None: somebody else has it, or the guard has changed.

    Raises:
        StoreUnavailableError: the store did not answer. Whether it gave the lease is unknown; it would end by itself.
        TypeError, ValueError: a value that is not allowed.

    Cancelled while the store is asked, it may have been given, and ends by itself.
    """
    a_name("name", name, "journal of account 7")
    count = seconds("length", length, more_than=0)
    who = own_name() if holder is None else a_name("holder", holder, "bot-1")
    count_by = as_clock(clock)
    asked_at = _running(count_by)
    value = json.dumps({"holder": who}).encode()
    try:
        token = await store.put(_PREFIX + name, value, expect=0, expires_after=count, guard=guard)
    except StoreConflictError:
        return None
    return Lease(store, name, who, count, count_by, token, asked_at + count * (1 - LEASE_MARGIN))


async def holder_of(store: StateStore, name: str) -> str | None:
    """
    Who has the lease *name*, as it told to be shown; None: nobody, or something that told no name.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    entry = await store.get(_PREFIX + name)
    try:
        holder = None if entry is None else json.loads(entry.value)["holder"]
    except (ValueError, TypeError, KeyError):
        return None
    return holder if isinstance(holder, str) else None

"""
Who alone may write for something that several processes could write for, such as one account.

The owner has a lease and renews it. It stops by its own clock before the store can give the lease to another, and
begins, where the store may have forgotten an earlier owner, only when that one has stopped for certain.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from shockproof.memory.disk.writer import after_fork
from shockproof.memory.services.waiters import wake_all
from shockproof.memory.stores.lease import Lease, take_lease
from shockproof.memory.stores.state_store import StateStore
from shockproof.vocabulary.clock import Clock

__all__ = ["Ownership"]

_LENGTH: Final = 15.0
"""Seconds of the lease: after which another process may have it when its owner has died."""
_REMEMBERED: Final = "owned/"


class Ownership:
    """
    Of *name*, for the process *holder*. `is_held` is asked right before each thing that only the owner may do.

    What waits for it is in `waiting`, and woken when it is here.
    """

    def __init__(self, name: str, holder: str, clock: Clock) -> None:
        self.name = name
        self._holder = holder
        self._clock = clock
        self._lease: Lease | None = None
        self._begins_at = 0.0
        self._is_remembered = False
        self._since: float | None = None
        self.waiting: set[asyncio.Future[None]] = set()
        after_fork(self._in_the_child)

    def _in_the_child(self) -> None:
        # What the parent owns it goes on owning, and the child never does beside it.
        self._lease, self._since = None, None
        self.waiting = set()

    @property
    def is_held(self) -> bool:
        """Whether it is certain that nobody else owns it."""
        lease = self._lease
        return lease is not None and lease.is_held and self._clock.monotonic() >= self._begins_at

    @property
    def lease(self) -> Lease | None:
        """The lease, while it is held: for ``guard=`` and its token."""
        return self._lease if self.is_held else None

    @property
    def missing(self) -> str | None:
        """Why nothing may be written now; None: it may."""
        if self.is_held:
            return None
        return f"this process does not own {self.name!r}, or cannot be certain of it; recovery.owned() waits for that"

    @property
    def health(self) -> dict[str, Any]:  # Any: JSON
        """What is owned, whether it is, and since when."""
        lease = self.lease
        return {
            "name": self.name,
            "is_owner": lease is not None,
            "since": None
            if lease is None or self._since is None
            else datetime.fromtimestamp(self._since, UTC).isoformat(),
            "token": None if lease is None else lease.token,
        }

    async def keep(self, store: StateStore) -> float:
        """
        Renew the lease, or take it if nobody has it; seconds after which to do so again.

        Raises:
            StoreUnavailableError: the store did not answer; what is held is held for its time.
        """
        lease, owned_until = self._lease, 0.0
        if lease is not None:
            if self.is_held:
                owned_until = self._clock.monotonic() + lease.remaining
            if not await lease.renew():
                lease = None  # somebody has it, or the store has lost it
        if lease is None:
            lease = await self._take(store, owned_until)
        if lease is None:
            self._lease, self._since = None, None
            return _LENGTH / 4
        if self._lease is not lease:
            self._lease, self._since = lease, self._clock.time()
        left = self._begins_at - self._clock.monotonic()
        if left > 0:
            return min(left, _LENGTH / 3)
        if not self._is_remembered:
            # Not before it may write: whoever comes next must not begin sooner because this one has waited.
            await store.put(_REMEMBERED + self.name, self._holder.encode())
            self._is_remembered = True
        wake_all(self.waiting)
        return _LENGTH / 3

    async def _take(self, store: StateStore, owned_until: float) -> Lease | None:
        asked_at = self._clock.monotonic()
        # That there was an owner ever is kept apart from the lease, and never expires: where it is gone, the store has
        # lost its data, and a lease with it of which its owner does not know yet.
        remembered = await store.get(_REMEMBERED + self.name)
        lease = await take_lease(
            store,
            f"owner of {self.name}",
            length=_LENGTH,
            holder=self._holder,
            clock=self._clock,
            guard=None if remembered is None else (remembered.key, remembered.version),
        )
        if lease is None:
            return None
        self._is_remembered = remembered is not None
        # Who owned it all the time until now is itself the one that might not know.
        if remembered is None and owned_until <= self._clock.monotonic():
            self._begins_at = asked_at + _LENGTH
        return lease

    async def give_back(self) -> None:
        """
        Own it no longer, so that the next one need not wait.

        Raises:
            StoreUnavailableError: the store did not answer; it ends by itself.
        """
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.release()

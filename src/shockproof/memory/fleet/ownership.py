"""
Who alone may write for something that several processes could write for, such as one account.

The owner has a lease and renews it. It stops by its own clock before the store can give the lease to another, and
begins, where the store may have forgotten an earlier owner, only when that one has stopped for certain.
"""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from shockproof.memory.disk.writer import after_fork
from shockproof.memory.fleet.marked import marked, unmarked
from shockproof.memory.services.listeners import Listeners
from shockproof.memory.services.waiters import wake_all
from shockproof.memory.stores.lease import Lease, holder_of, take_lease
from shockproof.memory.stores.own_name import own_name
from shockproof.memory.stores.state_store import NONSENSE, StateStore
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import StoreConflictError, StoreUnavailableError

__all__ = ["OwnersFiles", "Ownership"]

_LENGTH: Final = 15.0
"""Seconds of the lease: after which another process may have it when its owner has died."""
_REMEMBERED: Final = "owned/"
_LEAST_WAIT: Final = 0.1
"""Seconds after which a lease is asked for again that was lost in between."""
_LOOK_APART: Final = 0.5
"""Seconds between two looks whether what was left behind has ended."""
_UNKNOWN: Final = ""
"""In place of the identity of a journal of which nobody can tell whose it is."""

_log = logging.getLogger("shockproof")


class OwnersFiles(Protocol):
    """What of the state directory is the owner's alone. Only `take_over` and `seen` wait for a disk, and not for long."""

    def before_owning(self) -> None:
        """The account is about to be this process's."""

    async def take_over(self, account: str, former: str | None) -> str | None:
        """
        Which journal the account has from now on: its identity, once all is durable that has to be before this process sends.

        *former* is that of the owner before, ``""`` if nobody can tell which, None if there was none. None where the disk does not
        take it in time: it is asked again.
        """

    async def seen(self, account: str, owner: str) -> None:
        """Another process owns the account, with the journal of this identity. What the disk does not take is forgotten."""

    def while_owning(self) -> None:
        """The account is this process's still."""

    def no_longer(self) -> None:
        """The account is another one's."""

    @property
    def may_still_send(self) -> bool:
        """Whether something that was begun here may still be on its way."""
        ...

    @property
    def hindrance(self) -> str | None:
        """Why the owner cannot send all the same; None: it can, as far as is known."""


class Ownership:
    """
    Of *name*, for the process *holder*, None: by its `own_name`. `is_held` is asked right before each thing that only the owner may do.
    With it go *files*.

    What waits for it is in `waiting`, and woken when it is here.
    """

    def __init__(
        self, name: str, holder: str | None, files: OwnersFiles, clock: Clock, listeners: Listeners
    ) -> None:
        self.name = name
        self._files = files
        self._listeners = listeners
        self._holder = own_name() if holder is None else holder
        self._clock = clock
        self._lease: Lease | None = None
        self._begins_at = 0.0
        self._former: str | None = None
        """The identity of the journal that the owner before had, as the store told when the lease was taken."""
        self._journal: str | None = None
        """That of this process's, once it is known to be the account's."""
        self._standing: str | None = None
        """That which stands in the store, in its era; None: none does."""
        self._may_send = False
        """Whether the store does not say any more that it is another journal."""
        self._seen: bytes | None = None
        """What stood there when another process was found to be the owner."""
        self._era = ""
        """That of the store, when it was asked first on this connection."""
        self._since: float | None = None
        self._other: str | None = None
        """Who had it when the store was asked last."""
        self._was_held = False
        """As last told in the log."""
        self._told_hindrance: str | None = None
        self.store_error: str | None = "the store has not answered yet"
        """Why the store cannot be asked; None: it can."""
        self.waiting: set[asyncio.Future[None]] = set()
        after_fork(self._in_the_child)

    def _in_the_child(self) -> None:
        # What the parent owns it goes on owning, and the child never does beside it.
        self._lease, self._since, self._other, self._was_held = None, None, None, False
        self._journal, self._may_send, self._seen = None, False, None
        self.store_error = "this process was forked, and the store has not answered it yet"
        self.waiting = set()

    @property
    def is_held(self) -> bool:
        """Whether it is certain that nobody else owns it."""
        lease = self._lease
        return (
            lease is not None
            and lease.is_held
            and self._may_send
            and self._clock.monotonic() >= self._begins_at
        )

    @property
    def lease(self) -> Lease | None:
        """The lease, while it is held: for ``guard=`` and its token."""
        return self._lease if self.is_held else None

    @property
    def missing(self) -> str | None:
        """Why nothing may be written now; None: it may."""
        if self.is_held:
            return None
        state, name = self.state, f"this process does not own {self.name!r}"
        if state == "waiting":
            left = self._begins_at - self._clock.monotonic()
            why = (
                f"{name} yet, and waits another {left:.0f} s: the store is new or has lost its data, and an earlier "
                "owner may not know"
                if left > 0
                else f"{name} yet: that is being told to the store"
            )
        elif state == "standby":
            who = repr(self._other)
            why = f"{name}, {who} does" + (
                ", which is its own name: an earlier life, or another process so named"
                if self._other == self._holder
                else ""
            )
        else:
            why = f"{name}, or cannot be certain of it"
            if self.store_error is not None:
                why += f": {self.store_error}"
        return f"{why}; recovery.owned() waits for that"

    @property
    def hindrance(self) -> str | None:
        """Why its owner cannot send all the same; None: it can, or does not own it."""
        why = self._files.hindrance if self.is_held else None
        return None if why is None else f"this process owns {self.name!r} and cannot send: {why}"

    @property
    def may_still_send(self) -> bool:
        """Whether it has the lease, and something that was begun under it may still be on its way: then nobody else must have it."""
        return self._lease is not None and self._files.may_still_send

    @property
    def state(self) -> Literal["owner", "standby", "waiting", "uncertain"]:
        """Whether it is owned, another one has it, it will be soon, or nobody can tell."""
        if self.is_held:
            return "owner"
        if self._lease is not None and self._lease.is_held:
            return "waiting"
        return "standby" if self._other is not None and self.store_error is None else "uncertain"

    @property
    def remaining(self) -> float:
        """Seconds for which it is owned without the store; 0: it is not."""
        lease = self.lease
        return 0.0 if lease is None else lease.remaining

    @property
    def health(self) -> dict[str, Any]:  # Any: JSON
        """What is owned, whether it is and by whom, and since when."""
        lease, state = self.lease, self.state
        return {
            "name": self.name,
            "is_owner": lease is not None,
            "state": state,
            "holder": self._holder if lease is not None else self._other if state == "standby" else None,
            "since": None
            if lease is None or self._since is None
            else datetime.fromtimestamp(self._since, UTC).isoformat(),
            "token": None if lease is None else lease.token,
        }

    def is_asked_again(self, era: str) -> None:
        """The store answers, and is in that era."""
        self.store_error = None
        if era != self._era:
            self._era, self._standing = era, None

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
            self._lease, self._since, self._journal, self._may_send = None, None, None, False
            self.tell()
            self._other = await holder_of(store, self._lease_name)
            return _LENGTH / 4
        self._other = None
        left = self._begins_at - self._clock.monotonic()
        if self._lease is not lease:
            self._files.before_owning()
            self._lease, self._since = lease, self._clock.time() + max(0.0, left)
            if left > 0:
                _log.info(
                    "the store knows of no owner of %r: this process waits %.0f s before it writes, for an earlier one "
                    "may not know that it is over",
                    self.name,
                    left,
                )
        self.tell()
        if left > 0:
            return min(left, _LENGTH / 3)
        # Not before it may write: whoever comes next must not begin sooner because this one has waited.
        if not await self._stand(store, lease):
            return _LEAST_WAIT
        self.tell()
        self._files.while_owning()
        self._tell_hindrance()
        wake_all(self.waiting)
        return _LENGTH / 3

    async def _stand(self, store: StateStore, lease: Lease) -> bool:
        """Let the store say, before anything is sent, which journal knows of it from now on; False: the lease is lost."""
        if self._journal is None:
            self._journal = await self._files.take_over(self.name, self._former)
        told = _UNKNOWN if self._journal is None else self._journal
        if self._standing != told:
            value = json.dumps({"holder": self._holder, "journal": told}).encode()
            try:
                await store.put(_REMEMBERED + self.name, marked(value, self._era), guard=lease.guard)
            except StoreConflictError:
                self._may_send = False
                return False
            self._standing = told
        self._may_send = True
        return True

    @property
    def _lease_name(self) -> str:
        return f"owner of {self.name}"

    def tell(self) -> None:
        """Log, and tell those who listen, whether it was taken or lost since this was called last."""
        is_held = self.is_held
        if is_held == self._was_held:
            return
        self._was_held = is_held
        self._publish(
            "" if is_held else self.store_error or "the store has given it to another process, or lost it"
        )
        if is_held:
            _log.info("this process owns %r from now on", self.name)
        else:
            self._files.no_longer()
            _log.warning(
                "this process has lost %r and writes nothing for it%s",
                self.name,
                "" if self.store_error is None else f": {self.store_error}",
            )

    def _tell_hindrance(self) -> None:
        hindrance = self.hindrance
        if hindrance == self._told_hindrance:
            return
        self._told_hindrance = hindrance
        if hindrance is None:
            _log.info("this process can send for %r now", self.name)
        else:
            _log.warning("%s", hindrance)

    def _publish(self, lost_because: str) -> None:
        if not self._listeners:
            return
        from shockproof.vocabulary.events import OwnershipLost, OwnershipTaken

        at = self._clock.time()
        self._listeners.publish(
            OwnershipLost(service_name="", at=at, owns=self.name, reason=lost_because)
            if lost_because
            else OwnershipTaken(service_name="", at=at, owns=self.name)
        )

    async def _take(self, store: StateStore, owned_until: float) -> Lease | None:
        asked_at = self._clock.monotonic()
        # That there was an owner ever is kept apart from the lease, and never expires: where it is gone, or of an earlier era,
        # the store has lost its data, and a lease with it of which its owner does not know yet.
        remembered = await store.get(_REMEMBERED + self.name)
        lease = await take_lease(
            store,
            self._lease_name,
            length=_LENGTH,
            holder=self._holder,
            clock=self._clock,
            guard=None if remembered is None else (remembered.key, remembered.version),
        )
        if lease is None:
            if remembered is not None and remembered.value != self._seen:
                await self._saw(remembered.value)
            return None
        if remembered is None and await store.get(_REMEMBERED + self.name) is not None:
            # Somebody was the first owner since that was read, for however long this process stood still: nothing is known of
            # what they sent. From here on nobody else can write there.
            await lease.release()
            return None
        told = None if remembered is None else unmarked(remembered.value, self._era)
        self._standing = None if told is None else _journal_of(told)
        # Who owned it all the time until now is itself the one that might not know, and no other one has sent anything.
        if owned_until > self._clock.monotonic() and self._standing in {None, self._journal}:
            return lease
        self._former = _UNKNOWN if remembered is not None and told is None else self._standing
        self._journal, self._may_send = None, False
        if told is None:
            self._begins_at = asked_at + _LENGTH
        return lease

    async def _saw(self, value: bytes) -> None:
        told = unmarked(value, self._era)
        if told is not None and _journal_of(told):
            await self._files.seen(self.name, _journal_of(told))
        self._seen = value

    async def outlast(self, store: StateStore) -> None:
        """Renew the lease until nothing that was begun under it may still be on its way, or it is lost; it is not given back."""
        _log.warning(
            "this process keeps %r: an order that is under way, or was left behind, may still be sent; it is given back when that, "
            "or this process, has ended",
            self.name,
        )
        renew_at = self._clock.monotonic()
        while self.may_still_send and (lease := self._lease) is not None:
            if self._clock.monotonic() >= renew_at:
                try:
                    if not await lease.renew():
                        self._lease, self._journal, self._may_send = None, None, False
                    renew_at, self.store_error = self._clock.monotonic() + _LENGTH / 3, None
                except StoreUnavailableError as error:
                    self.store_error = str(error)
                except Exception as error:  # noqa: BLE001 - nothing may end it: whatever it is, it is told and tried again
                    self.store_error = f"{type(error).__name__}: {error}"
                self.tell()
            await self._clock.sleep(_LOOK_APART)

    def drop(self, why: str) -> None:
        """Own it no longer, without a word to the store: it ends there by itself. *why* is told."""
        self._lease, self._journal, self._may_send = None, None, False
        if self._was_held:
            self._was_held = False
            self._publish(f"not given back: {why}")
            _log.warning(
                "this process begins nothing for %r any more, and has not given it back, for %s: the next one has it when the lease ends",
                self.name,
                why,
            )

    async def give_back(self) -> None:
        """
        Own it no longer, so that the next one need not wait.

        Raises:
            StoreUnavailableError: the store did not answer; it ends by itself.
        """
        lease, self._lease = self._lease, None
        self._journal, self._may_send = None, False
        if self._was_held:
            self._was_held = False
            self._publish("given back")
            _log.info("this process has given %r back", self.name)
        if lease is not None:
            await lease.release()


def _journal_of(told: bytes) -> str:
    """The identity in what stands in the store; ``""``: none that can be told, as an older shockproof leaves it."""
    try:
        identity = json.loads(told)["journal"]
    except NONSENSE:
        return _UNKNOWN
    return identity if isinstance(identity, str) else _UNKNOWN

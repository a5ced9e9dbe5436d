"""
What several processes share: values under keys, each with a version, and news of their changes.

Everything else that processes agree on is made of this: who owns something is a value that expires and that only
the first could put there (`Lease`), what nobody may overwrite unseen is put with the version that was read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple, Protocol

from shockproof.vocabulary.arguments import Seconds, seconds, whole_number

__all__ = [
    "NONSENSE",
    "Guard",
    "StateStore",
    "StoreChange",
    "StoreEntry",
    "check_expected",
    "check_guard",
    "check_key",
    "check_lifetime",
    "check_value",
]

Guard = tuple[str, int]
"""A key, and the version that it has to have: what `Lease.guard` gives."""


NONSENSE: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What taking apart raises that which is no answer of a store."""


class StoreEntry(NamedTuple):
    """A value as it is in the store."""

    key: str
    value: bytes
    version: int
    """Given by the store: each put anywhere in it has a higher one than all before, also after a delete."""


class StoreChange(NamedTuple):
    """A value that was put or deleted."""

    key: str
    value: bytes | None
    """None: it was deleted, or its time was over."""
    version: int
    """That of the put, or of the delete."""


class StateStore(Protocol):
    """
    What several processes share. Each method is one step: others see it whole or not at all.

    Time is the store's own: no clock of those who ask is compared with another. Every method but `watch` and `aclose`
    raises `StoreUnavailableError` when the store has not answered in time, refused, or answered nonsense; whether
    a put or delete was done is unknown then. Cancelled, too: the cancellation passes at once.
    """

    async def get(self, key: str) -> StoreEntry | None:
        """What is under *key* now; None: nothing, or its time is over."""
        ...

    async def entries(self, prefix: str) -> list[StoreEntry]:
        """Everything whose key begins with *prefix*, by key."""
        ...

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expect: int | None = None,
        expires_after: Seconds | None = None,
        guard: Guard | None = None,
    ) -> int:
        """
        Put *value* under *key*, and return its version.

        Args:
            key: what is not empty.
            value: any bytes.
            expect: the version that *key* has to have; 0: nothing may be there. None: whatever is there.
            expires_after: seconds after which it is gone unless it is renewed, more than 0, by the store's clock; a
                store may keep it somewhat longer, and never shorter. None: it stays.
            guard: another key, and the version that has to be there: with that of a lease, what a former owner
                puts is refused.

        Raises:
            StoreConflictError: *key* or the guard's key has another version; nothing was changed.
        """
        ...

    async def renew(self, key: str, version: int) -> bool:
        """
        Begin the time of what was put with `expires_after` anew; False: it is gone, or has another version.

        The version stays, and nobody is told.
        """
        ...

    async def delete(self, key: str, *, expect: int | None = None, guard: Guard | None = None) -> bool:
        """
        Remove *key*; False: nothing was there.

        Raises:
            StoreConflictError: *key* is there with another version than *expect*, or the guard's key has another
                version; nothing was changed.
        """
        ...

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[StoreChange]]:
        """
        Be told of what changes under *prefix*: ``async with store.watch("a/") as changes: async for change in changes``.

        Every put and delete from the entry of the block on is told; of several that quickly follow each other under one key
        perhaps only the last. That something's time is over need not be told. A connection that was lost raises
        StoreUnavailableError, from the entry or the iteration; enter again, then read `entries`. A network may lose one
        without a word: whoever must know looks at `entries` now and then, too.
        """
        ...

    async def era(self) -> str:
        """
        In which life of the store this is, in one line: in another one than before, the last of what was put may be missing, and
        older values may be in its place. It may stay the same where nothing that was acknowledged is lost, but all at once.
        """
        ...

    async def aclose(self) -> None:
        """Give connections back, those in use as soon as they are not. The store can be used again afterwards."""
        ...


def check_key(argument: str, key: object) -> str:
    """*key* as one that can be put."""
    if not isinstance(key, str):
        raise TypeError(f"{argument} must be a string, got {key!r}")
    if not key:
        raise ValueError(f"{argument} must not be empty")
    return key


def check_value(value: object) -> bytes:
    """*value* as what can be put: it may be a secret, and is never shown."""
    if not isinstance(value, bytes):
        raise TypeError(f"value must be bytes, got a value of type {type(value).__name__}")
    return value


def check_expected(expect: object) -> int | None:
    """*expect* as a version, 0 or None."""
    return None if expect is None else whole_number("expect", expect, minimum=0)


def check_lifetime(expires_after: object) -> float | None:
    """*expires_after* in seconds, or None."""
    return None if expires_after is None else seconds("expires_after", expires_after, more_than=0)


def check_guard(guard: object) -> Guard | None:
    """*guard* as a key with its version, or None."""
    if guard is None:
        return None
    if not isinstance(guard, tuple) or len(guard) != 2:
        raise TypeError(f"guard must be a key and its version, as Lease.guard gives them, got {guard!r}")
    return check_key("the key of guard", guard[0]), whole_number("the version of guard", guard[1], minimum=1)

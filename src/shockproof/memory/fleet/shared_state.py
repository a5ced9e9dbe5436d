"""
The state of what only one process may write for, kept in the store: whoever owns it next goes on from there.

It is put in the background, after it is durable on the own disk, with the version that was seen and the lease of the owner: so
a process that is the owner no longer overwrites nothing, and nobody overwrites what it has not restored. Small states are one
value. Larger ones stand in parts, in one of two slots in turn: the other one stays whole until the head names this one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from shockproof.memory.disk.writer import after_fork
from shockproof.memory.fleet import background_task
from shockproof.memory.fleet.ownership import Ownership
from shockproof.memory.stores.lease import Lease
from shockproof.memory.stores.state_store import StateStore
from shockproof.policies.backoff import Backoff, Randomness
from shockproof.policies.state_publication import Lineage, Save, StateHead, follows
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import StoreConflictError, StoreUnavailableError

__all__ = ["MOST_BYTES", "SharedState", "StoredState"]

_PART: Final = 512 * 1024
"""Bytes: etcd takes 1.5 MiB at a time."""
MOST_BYTES: Final = 8 * 1024 * 1024
"""Compressed: etcd keeps every version until it is compacted."""
_READ_WITHIN: Final = 10.0
"""Seconds."""
_TRIES: Final = 5
"""So often it is read again where it was replaced meanwhile."""

_log = logging.getLogger("shockproof")


class StoredState(NamedTuple):
    """A state as it was read."""

    head: StateHead
    version: int
    data: bytes


class _Publication(NamedTuple):
    save: Save
    at: float
    data: bytes


class SharedState:
    """
    Of what *ownership* is about. `publish` may be called from any thread.

    Args:
        store: where it is kept.
        ownership: who may put it.
        complete: what comes to what was published, right before it is put.
        clock: by what this process counts.
        rng: what spreads attempts.
    """

    def __init__(
        self,
        store: StateStore,
        ownership: Ownership,
        *,
        complete: Callable[[bytes], Awaitable[bytes]],
        clock: Clock,
        rng: Randomness,
    ) -> None:
        self._store = store
        self._ownership = ownership
        self._complete = complete
        self._key = f"state/{ownership.name}"
        self._clock = clock
        self._backoff = Backoff(base_delay=0.1, max_delay=5.0, factor=2.0, jitter="full", rng=rng)
        self._pending: _Publication | None = None
        self._seen: int | None = None
        """The version of the head that this process has restored or put; 0: there was none; None: it has not looked."""
        self._head: StateHead | None = None
        """That head."""
        self._own: set[int] = set()
        """The tokens in the lineages of what this process has saved as an owner."""
        self._later_than = 0
        """What is saved from now on has a higher token."""
        self._tenure: int | None = None
        """The lease by which it has saved last."""
        self._looked: int | None = None
        """The lease that it had when it began to read."""
        self._knows: int | None = None
        """The lease since whose beginning it has restored what is in the store, or has put it: nobody else can replace that."""
        self._after = Lineage(0, 0)
        """The latest that what is saved from now on takes into account."""
        self._saved = Lineage(0, 0)
        """What was saved last, or is about to be."""
        self._too_large: str | None = None
        self._unseen: str | None = None
        self._last_error: str | None = None
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the store has not done what it was asked for."""
        self._last: _Publication | None = None
        """What was put last: it is put again when the store may have lost it."""
        self._era: str | None = None
        """That of the store, when it was asked last; None: it was not yet."""
        self._is_of_earlier_era = False
        """Whether what it has restored or put last was so in an earlier era: versions of then say nothing now."""
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        after_fork(self._in_the_child)

    def _in_the_child(self) -> None:
        # What the parent has seen and put, it goes on from; the child owns nothing.
        self._task, self._pending, self._seen, self._own = None, None, None, set()
        self._tenure, self._knows, self._last = None, None, None

    @property
    def name(self) -> str:
        """What it is the state of."""
        return self._ownership.name

    def next_save(self) -> Save:
        """
        For a save that begins now: by the lease that this process has, or had last.

        One that begins before it knows what the owner before has left takes only into account what it knew until then:
        although its token is the higher one, it is not newer.
        """
        lease = self._ownership.lease
        if lease is not None:
            # A store that has lost its data may give lower ones than before.
            self._own.add(max(lease.token, self._later_than + 1))
            self._tenure = lease.token
        self._saved = Lineage(max(self._own, default=0), self._saved.save + 1)
        if self._tenure is None:
            return Save(self._saved, Lineage(0, 0))
        if self._knows == self._tenure:
            self._after = self._saved
        return Save(self._saved, self._after)

    def goes_on_from(self, lineage: Lineage) -> None:
        """That state was restored: what is saved from now on is later."""
        self._later_than = max(self._later_than, lineage.token)
        self._after = max(self._after, lineage)

    @property
    def trouble(self) -> str | None:
        """Why what is saved does not come into the store, although it is there; None: it does."""
        return self._too_large or self._unseen or self._last_error

    @property
    def health(self) -> dict[str, Any]:  # Any: JSON
        """When what is in the store was saved, how large it is, and whether something newer is not there yet."""
        head = self._head
        return {
            "saved_at": None if head is None else datetime.fromtimestamp(head.at, UTC).isoformat(),
            "bytes": None if head is None else head.size,
            "is_behind": self._saved.token > 0 and (head is None or self._saved > head.lineage),
            "trouble": self.trouble,
        }

    # -- told by the writer's thread ---------------------------------------------------------------------

    def publish(self, save: Save, at: float, data: bytes) -> None:
        """Put *data* in the store as soon as possible, in place of what was to be put before."""
        if len(data) > MOST_BYTES:
            self.failed(
                f"compressed it has more than the {MOST_BYTES:,} bytes that it may have; keep less in it, and what is large "
                "where it can be fetched again"
            )
            return
        self._pending, self._too_large = _Publication(save, at, data), None
        self._wake()

    def failed(self, why: str) -> None:
        """What was saved could not be made into something to put."""
        self._pending = None
        told = f"the state of {self.name!r} is not in the store: {why}"
        if self._too_large != told:
            _log.warning("%s", told)
        self._too_large = told

    def is_asked_again(self, era: str) -> None:
        """The store answers, and is in that era. In another one than before it may have lost what was put last: it is put again."""
        before, self._era = self._era, era
        if before is None or before == era:
            return
        if self._seen is not None:
            self._head, self._seen, self._is_of_earlier_era = None, None, True
        if self._pending is None:
            self._pending = self._last
        self._wake()

    def _wake(self) -> None:
        if self._task is not None:
            background_task.wake(self._task, self._woken)

    # -- reading -----------------------------------------------------------------------------------------

    async def read(self) -> StoredState | None:
        """
        What is in the store; None: nothing. It may be replaced when `saw` was told that this process goes on from it.

        Raises:
            StoreUnavailableError: the store did not answer within 10 seconds, or what is there is damaged.
        """
        lease = self._ownership.lease
        self._looked = None if lease is None else lease.token
        try:
            async with asyncio.timeout(_READ_WITHIN):
                for _ in range(_TRIES):
                    found = await self._read_head()
                    if found is None:
                        return None
                    head, version, data = found
                    parts = [data]
                    for number in range(head.parts):
                        entry = await self._store.get(self._part(head.slot, number))
                        parts.append(b"" if entry is None else entry.value)
                    data = b"".join(parts)
                    if hashlib.sha256(data).hexdigest() == head.digest:
                        return StoredState(head, version, data)
        except TimeoutError:
            raise StoreUnavailableError(
                f"{self._store!r} has not given the state of {self.name!r} within {_READ_WITHIN:g} s"
            ) from None
        raise StoreUnavailableError(f"the state of {self.name!r} in {self._store!r} is damaged")

    async def _read_head(self) -> tuple[StateHead, int, bytes] | None:
        entry = await self._store.get(self._key)
        if entry is None:
            return None
        try:
            head, data = StateHead.from_bytes(entry.value)
        except ValueError as error:
            raise StoreUnavailableError(
                f"what stands under {self._key!r} in {self._store!r} is no state: {error}"
            ) from None
        return head, entry.version, data

    def saw(self, stored: StoredState | None) -> None:
        """Go on from that, or from something newer: it may be replaced."""
        self._head, self._seen = (None, 0) if stored is None else (stored.head, stored.version)
        self._unseen, self._knows, self._is_of_earlier_era = None, self._looked, False
        if self._last is not None and stored is not None and stored.head.lineage > self._last.save.lineage:
            self._last = None
        self._wake()

    def _part(self, slot: int, number: int) -> str:
        return f"{self._key}/{slot}/{number}"

    # -- putting -----------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Put what is published on the current loop, unless a living one does already."""
        with background_task.beginning:
            if background_task.is_alive(self._task):
                return
            self._woken = asyncio.Event()
            self._woken.set()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="shockproof shared state")

    async def aclose(self) -> None:
        """Put what is still to be put, once, and end."""
        task, self._task = self._task, None
        if task is not None and background_task.is_alive(task):
            await background_task.end_where_it_runs(task, self._put_the_last)

    async def _put_the_last(self) -> None:
        try:
            await self._put_pending()
        except StoreUnavailableError as error:
            self._last_error = str(error)
        if self._pending is not None and self._pending.save.lineage.token:
            _log.warning("the last state of %r did not come into the store: %s", self.name, self.trouble)

    async def _run(self) -> None:
        failures = 0
        while True:
            if self._pending is None or self._unseen is not None:
                await self._woken.wait()
            self._woken.clear()
            try:
                await self._until_owned()
                await self._put_pending()
                failures, self._last_error = 0, None
            except StoreUnavailableError as error:
                self._last_error = str(error)
                self.on_failure()
            except Exception as error:  # noqa: BLE001 - nothing may end the task: whatever it is, it is told and tried again
                if self._last_error != (told := f"{type(error).__name__}: {error}"):
                    self._last_error = told
                    _log.exception(
                        "the state of %r could not be put in the store; it is tried again", self.name
                    )
            if self._last_error is not None:
                failures += 1
                await self._clock.sleep(self._backoff.delay(failures, 0.0))

    async def _until_owned(self) -> None:
        while not self._ownership.is_held:
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._ownership.waiting.add(told)
            try:
                if not self._ownership.is_held:
                    await told
            finally:
                self._ownership.waiting.discard(told)

    async def _put_pending(self) -> None:
        """
        Put the newest state, as long as there is a newer one than was put.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        may_have_changed = False
        while (pending := self._pending) is not None and (lease := self._ownership.lease) is not None:
            head, version = self._head, self._seen
            if version is None or self._unseen is not None or may_have_changed:
                found = await self._read_head()
                head, version = (None, 0) if found is None else found[:2]
            # What is there after the store went back is older than what this process knows, or is known by its higher token.
            was_seen = version == self._seen or self._is_of_earlier_era
            verdict = follows(pending.save, head, was_seen=was_seen, own=self._own)
            if verdict == "unseen":
                if self._unseen is None:
                    self._unseen = (
                        f"the state of {self.name!r} that another process has left in the store was not restored, and is not "
                        "overwritten: await recovery.restore_state() after recovery.owned()"
                    )
                    _log.warning("%s", self._unseen)
                return
            self._unseen = None
            if verdict == "yes":
                whole = pending._replace(data=await self._complete(pending.data))
                if not await self._put(whole, head, version, lease):
                    # Somebody has put another one, which may have been restored here meanwhile, or the lease is over.
                    may_have_changed = True
                    if not await lease.renew():
                        return
                    continue
            elif head is not None and head.lineage.token in self._own:
                # A put of which nobody had heard that it was done.
                self._head, self._seen, self._is_of_earlier_era = head, version, False
            elif self._saved == pending.save.lineage:
                self._saved = Lineage(
                    0, self._saved.save
                )  # what was restored since is newer: it is not missing there
            if verdict == "yes" or (head is not None and head.lineage == pending.save.lineage):
                self._last = pending
            if self._pending is pending:
                self._pending = None

    async def _put(self, one: _Publication, before: StateHead | None, version: int, lease: Lease) -> bool:
        era, is_small = self._era, len(one.data) <= _PART
        slot = 0 if is_small or before is None else 1 - before.slot
        parts = [] if is_small else [one.data[at : at + _PART] for at in range(0, len(one.data), _PART)]
        digest = hashlib.sha256(one.data).hexdigest()
        head = StateHead(one.save.lineage, one.at, len(one.data), digest, slot, len(parts))
        try:
            for number, part in enumerate(parts):
                # With its version: what is late of an earlier save, and was given up, is refused.
                there = await self._store.get(self._part(slot, number))
                await self._store.put(
                    self._part(slot, number),
                    part,
                    expect=0 if there is None else there.version,
                    guard=lease.guard,
                )
            seen = await self._store.put(
                self._key, head.to_bytes(one.data if is_small else b""), expect=version, guard=lease.guard
            )
        except StoreConflictError:
            return False
        if self._era != era:
            return False  # it may have been lost since
        self._head, self._seen, self._knows, self._is_of_earlier_era = head, seen, lease.token, False
        self._after = max(self._after, head.lineage)
        return True

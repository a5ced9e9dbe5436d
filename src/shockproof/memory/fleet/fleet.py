"""
The background task that keeps the services of this process and those of others at one knowledge.

Nothing on a call's path waits for it. It listens to the store, tells it what was decided here, fetches leases ahead of
need, and when the store is away says so and comes back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from shockproof.memory.disk.writer import after_fork
from shockproof.memory.fleet import background_task
from shockproof.memory.fleet.ownership import Ownership
from shockproof.memory.fleet.shared_budget import BUDGETS, SharedBudget
from shockproof.memory.fleet.shared_circuit import SharedCircuit, longest_lead
from shockproof.memory.fleet.shared_limit import LIMITS, SharedLimit
from shockproof.memory.fleet.shared_record import SharedRecord
from shockproof.memory.fleet.shared_watch import SharedWatch
from shockproof.memory.services.service_state import ServiceState
from shockproof.memory.stores.lease import Lease, take_lease
from shockproof.memory.stores.own_name import own_machine, own_name
from shockproof.memory.stores.state_store import StateStore, StoreChange, StoreEntry
from shockproof.policies.backoff import Backoff, Randomness
from shockproof.policies.circuit_breaker import CircuitState
from shockproof.policies.fleet_circuit import FleetRecord, Vote, Wanted
from shockproof.policies.retry_budget import RetryBudget
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import StoreConflictError, StoreUnavailableError
from shockproof.vocabulary.shared_lock import shared_lock

if TYPE_CHECKING:
    from shockproof.memory.fleet.shared_state import SharedState

__all__ = ["Fleet"]

_CIRCUITS: Final = "circuits/"
_PROBES: Final = "probes/"
"""Where it is said to the holder of the lease for probing that another one wants it."""
_TRIAL: Final = "trial"
"""What is put to find out whether anything can be: a store that is full still answers whoever reads and renews."""
_TRIAL_LASTS: Final = 60.0
"""Seconds that it stays there."""
_LOOK_EVERY: Final = 10.0
"""Seconds between two looks at all records: a network may drop a connection without a word."""
_TOLD_WITHIN: Final = 5.0
"""Seconds in which a watch tells of what a look has found, or it is taken for dead."""
_CONFLICT_APART: Final = 0.002
"""Seconds, multiplied and at random, by which those who write at the same moment get out of each other's way."""
_AT_ONCE: Final = 16
"""Circuits whose news is on its way at a time: a venue that goes down may open the circuits of hundreds."""
_LEAST_WAIT: Final = 0.001
"""Seconds: whatever is due, the loop belongs to others in between."""

_in_use: weakref.WeakSet[Fleet] = weakref.WeakSet()
_in_use_lock = shared_lock()

_log = logging.getLogger("shockproof")


class Fleet:
    """
    The own process among those that share *store*. Made anywhere; it runs on the loop where it was last needed.

    Args:
        store: what they share.
        name: of this process, in votes and leases; None: its `own_name`.
        machine: on which it runs, in votes; None: by `own_machine`.
        clock: where time comes from; no other process's is ever compared with it.
        rng: what spreads the requests of many.
        ownership: what this process alone may write for, or wants to; None: nothing.
        state: of that, kept in the store for whoever owns it next; None: it is not.
        on_loop_end: called when the task has ended with its loop, so that the next loop starts another.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        name: str | None,
        machine: str | None,
        clock: Clock,
        rng: Randomness,
        on_loop_end: Callable[[], None],
        ownership: Ownership | None = None,
        state: SharedState | None = None,
    ) -> None:
        self._store = store
        self.name = own_name() if name is None else name
        self._machine = own_machine() if machine is None else machine
        self._clock = clock
        self._rng = rng
        self._on_loop_end = on_loop_end
        self._ownership = ownership
        self.state = state
        """What is kept in the store for the next owner."""
        self._own_at = 0.0
        self._backoff = Backoff(base_delay=0.1, max_delay=5.0, factor=2.0, jitter="full", rng=rng)
        self._circuits: dict[str, SharedCircuit] = {}
        self._watches = {kind: SharedWatch(store, kind) for kind in (LIMITS, BUDGETS)}
        self._limits: dict[str, SharedLimit] = {}
        self._budgets: dict[str, SharedBudget] = {}
        self._payers: dict[str, str] = {}
        """By service, under which name it shares the budget that pays for its retries."""
        self._known: dict[str, StoreEntry] = {}
        """The records as last told, also of services that nobody here has declared yet."""
        self._task: asyncio.Task[None] | None = None
        self._is_outlasting = False
        """Whether the task only keeps what is owned, for what was begun before this was closed."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where it may have connections of the store."""
        self._woken = asyncio.Event()
        self._was_looked_at = asyncio.Event()
        self._was_told = False
        """Whether the watch has told of anything since a look found what it had not told of."""
        self._state: Literal["unused", "reachable", "away"] = "unused"
        self._since: float | None = None
        self._last_error: str | None = None
        self._is_doubted = False
        """Whether something could not be put in the store since that was found out last."""
        self._passed_over: dict[str, int] = {}
        """By service, the version of what is no record, as last told in the log."""
        if state is not None:
            state.on_failure = self._doubt
        after_fork(self._in_the_child)

    def _in_the_child(self) -> None:
        # The task and the leases are the parent's; the child's first call starts a task of its own.
        self._task, self._state, self._since = None, "unused", None
        self._is_outlasting = False
        for shared in self._circuits.values():
            shared.in_the_child()
        for record in self._records:
            record.in_the_child()

    @property
    def _records(self) -> list[SharedRecord]:
        return [*self._limits.values(), *self._budgets.values()]

    def share(self, state: ServiceState, quorum: int) -> None:
        """
        From now on the circuit of this service is one with those of the others, and so are its rate limit and retry budget.

        Raises:
            ValueError: which processes have the budget in common cannot be told, or it is another one's.
        """
        if state.retry_budget is not None:
            self._share_budget(state, state.retry_budget)
        limit = self._limits.get(state.name)
        if limit is None:
            limit = self._limits[state.name] = SharedLimit(
                self._store,
                state.name,
                self.name,
                clock=self._clock,
                rng=self._rng,
                watch=self._watches[LIMITS],
            )
            limit.on_failure = self._doubt
        state.shared_limit = limit
        if state.limits is not None:
            state.limits.share(limit)
        if state.name in self._circuits:
            return
        shared = self._circuits[state.name] = SharedCircuit(
            state, Vote(self.name, self._machine), quorum, self._wake
        )
        shared.reach(is_reachable=self._state == "reachable")
        if self._state == "reachable":
            self._learned(shared, self._known.get(state.name))

    def _share_budget(self, state: ServiceState, budget: RetryBudget) -> None:
        name = state.name if budget.name is None else budget.name
        mine = next((one for one in self._budgets.values() if one.budget is budget), None)
        if mine is not None:
            if budget.name is None and self._budgets.get(name) is not mine:
                raise ValueError(
                    f"service {state.name!r}: retry_budget={budget!r} pays for another shared service, too, and processes "
                    'would not know it by the same name: give it one, such as RetryBudget(name="account 7")'
                )
        elif name in self._budgets:
            raise ValueError(
                f"service {state.name!r}: another RetryBudget is shared as {name!r} already: give both services the same one"
            )
        elif budget.is_shared:
            raise ValueError(
                f"service {state.name!r}: retry_budget={budget!r} is that of another recovery service: each needs one of its own"
            )
        else:
            mine = self._budgets[name] = SharedBudget(
                self._store,
                budget,
                name,
                self.name,
                clock=self._clock,
                rng=self._rng,
                watch=self._watches[BUDGETS],
            )
            mine.on_failure = self._doubt
        self._payers[state.name] = name

    def forget(self, name: str) -> None:
        """The service *name* is not used any more."""
        payer = self._payers.pop(name, None)
        if payer is not None and payer not in self._payers.values():
            self._budgets[payer].pause()
        limit = self._limits.get(name)
        if limit is not None:
            limit.pause()
        shared = self._circuits.pop(name, None)
        if shared is not None:
            shared.state.circuit.may_probe = None
            shared.state.circuit.suspected_at = None

    def transitioned(self, state: ServiceState, to: CircuitState) -> None:
        """A circuit of this process has changed; from any thread."""
        shared = self._circuits.get(state.name)
        if shared is not None:
            shared.transitioned(to)

    @property
    def health(self) -> dict[str, Any]:  # Any: JSON
        """Whether the store answers, since when, why not; and what the fleet has opened."""
        circuits = list(self._circuits.items())
        return {
            "state": self._state,
            "since": None if self._since is None else datetime.fromtimestamp(self._since, UTC).isoformat(),
            "last_error": self._last_error,
            "machine": self._machine,
            "open_for_all": [name for name, one in circuits if one.open_for == "all"],
            "open_for_machine": [name for name, one in circuits if one.open_for == "machine"],
            "owns": None if self._ownership is None else self._ownership.health,
            "saved_state": None if self.state is None else self.state.health,
            "limits": {name: one.health for name, one in list(self._limits.items()) if one.is_used},
            "budgets": {name: one.health for name, one in list(self._budgets.items())},
            "trouble": self._trouble,
            "votes": {name: sorted(vote.name for vote in one.votes) for name, one in circuits if one.votes},
            "voting_machines": {
                name: sorted({vote.machine for vote in one.votes}) for name, one in circuits if one.votes
            },
        }

    @property
    def _trouble(self) -> str | None:
        """What is not as it should be; None: nothing."""
        owned = self._ownership
        if owned is not None and (missing := owned.missing or owned.hindrance) is not None:
            return missing
        if self._state != "away":
            told = [f"{one.what}: {one.mismatch}" for one in self._records if one.mismatch is not None]
            if self.state is not None and self.state.trouble is not None:
                told.insert(0, self.state.trouble)
            return "; ".join(told) or None
        return f"the store is away, {self._until_back}: {self._last_error}"

    @property
    def _until_back(self) -> str:
        """What holds while the store is away."""
        ownership = self._ownership
        if ownership is None:
            return "each process decides by itself"
        if ownership.is_held:
            left = f"for another {ownership.remaining:.0f} s"
            return f"this process may write for {ownership.name!r} {left}, then nobody may unless the lease was renewed"
        return f"nobody may begin to write for {ownership.name!r}"

    # -- starting and ending -----------------------------------------------------------------------------

    def ensure(self) -> None:
        """Run on the current loop, unless it runs on a living one already."""
        if self._loop is None or self._loop.is_closed():
            self._is_used_on(asyncio.get_running_loop())
        for record in self._records:
            record.ensure()
        if self.state is not None:
            self.state.ensure()
        with background_task.beginning:
            if self._is_outlasting:
                # Nothing is lost by that: the next task renews the same lease.
                self._is_outlasting = False
                outlasting, self._task = self._task, None
                background_task.end(outlasting)
            is_idle = not self._circuits and self._ownership is None
            if is_idle or background_task.is_alive(self._task):
                return
            self._woken, self._was_looked_at = asyncio.Event(), asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="shockproof fleet")

    async def looked(self) -> None:
        """Return when the store was asked for the first time, whether it answered or not."""
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():
            await self._was_looked_at.wait()
        for record in self._records:
            await record.looked()

    async def aclose(self) -> None:
        """
        End the task, give leases back, and the store's connections; what is needed again starts again.

        As long as an order that was begun here may still be sent, what this process owns stays its own, and a task keeps it.
        """
        if self.state is not None:
            await self.state.aclose()  # while this process owns what it is of
        for record in self._records:
            await record.aclose()
        task, self._task = self._task, None
        if task is None or not background_task.is_alive(task):
            await self._close_the_store()
        elif not await background_task.end_where_it_runs(task, self._leave):
            if self._ownership is not None:
                self._ownership.drop("the loop that kept it stands still")
            self._is_used_on(None)
        self._state, self._since, self._last_error = "unused", None, None

    async def _leave(self) -> None:
        ownership = self._ownership
        outlasts = ownership is not None and ownership.may_still_send
        try:
            if ownership is not None and not outlasts:
                await ownership.give_back()
            for shared in self._circuits.values():
                shared.is_over = shared.lease is not None
                await self._give_back(shared)
        except StoreUnavailableError:
            pass  # leases end by themselves
        if ownership is not None and outlasts:
            self._begin_to_outlast(ownership)
        else:
            await self._close_the_store()

    def abandon(self) -> None:
        """
        As `aclose`, but never waits: whatever this process holds in the store ends there by itself.

        Called on a running loop, where what is owned is kept if it has to be.
        """
        for record in self._records:
            record.pause()
        task, self._task = self._task, None
        background_task.end(task)
        if self._ownership is not None and self._ownership.may_still_send:
            self._begin_to_outlast(self._ownership)
            return
        if self._ownership is not None:
            self._ownership.drop("not everything could be flushed")
        self._is_used_on(None)

    def _begin_to_outlast(self, ownership: Ownership) -> None:
        self._is_outlasting = True
        self._task = asyncio.get_running_loop().create_task(
            self._outlast(ownership), name="shockproof fleet keeps what it owns"
        )

    async def _outlast(self, ownership: Ownership) -> None:
        """Keep what is owned until nothing that was begun here may be sent any more, and then hand it over."""
        try:
            await ownership.outlast(self._store)
            try:
                await ownership.give_back()
            except StoreUnavailableError:
                pass  # the lease ends by itself
            await self._close_the_store()
        except asyncio.CancelledError:
            if self._task is asyncio.current_task():  # nobody here goes on with it: the loop ends
                ownership.drop("its loop has ended, and an order that was begun here may still be sent")
            raise

    def _is_used_on(self, loop: asyncio.AbstractEventLoop | None) -> None:
        with _in_use_lock:
            self._loop = loop
            if loop is None:
                _in_use.discard(self)
            else:
                _in_use.add(self)

    async def _close_the_store(self) -> None:
        """Unless another service uses the same object on this loop: it would lose its connections."""
        loop = asyncio.get_running_loop()
        self._is_used_on(None)
        with _in_use_lock:
            is_used = any(one._store is self._store and one._loop is loop for one in _in_use)
        if not is_used:
            await self._store.aclose()

    def _wake(self) -> None:
        if self._task is not None:
            background_task.wake(self._task, self._woken)

    # -- the task --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        try:
            while True:
                began = self._clock.monotonic()
                try:
                    await self._session()
                except StoreUnavailableError as error:
                    self._is_away(str(error))
                except Exception as error:  # noqa: BLE001 - nothing may end the task: whatever it is, it is told and tried again
                    if self._state != "away":
                        _log.exception("sharing with other processes failed; it is tried again")
                    self._is_away(f"{type(error).__name__}: {error}")
                self._was_looked_at.set()
                failures = 0 if self._clock.monotonic() - began > _LOOK_EVERY else failures + 1
                await self._rest(self._backoff.delay(failures, 0.0))
        finally:
            for shared in self._circuits.values():
                shared.reach(is_reachable=False)
            self._was_looked_at.set()
            self._on_loop_end()

    async def _rest(self, seconds: float) -> None:
        """Wait until the store is worth asking again, and tell when what is owned runs out meanwhile."""
        if self._ownership is not None and 0 < (left := self._ownership.remaining) < seconds:
            await self._clock.sleep(left + _LEAST_WAIT)  # a timer may be early by what a clock cannot tell
            self._ownership.tell()
            seconds -= left
        await self._clock.sleep(seconds)

    async def _session(self) -> None:
        """Listen and tell, until the store does not answer, or tells nothing of what is there."""
        async with self._store.watch(_CIRCUITS) as changes:
            await self._look()
            if self._ownership is not None:
                era = await self._store.era()
                self._ownership.is_asked_again(era)
                if self.state is not None:
                    self.state.is_asked_again(era)
            await self._own()
            self._is_doubted = False
            if self._state == "away":
                await self._try_to_put()
            self._is_there()
            self._was_looked_at.set()
            beside = [asyncio.create_task(self._listen(changes), name="shockproof fleet listens")]
            if self._ownership is not None:
                # Whatever the circuits have to tell, and however long the store takes for it, the lease is renewed in time.
                beside.append(asyncio.create_task(self._keep_owning(), name="shockproof fleet owns"))
            for task in beside:
                task.add_done_callback(lambda _: self._woken.set())
            try:
                await self._work(*beside)
            finally:
                await _end_all(beside)

    async def _listen(self, changes: AsyncIterator[StoreChange]) -> None:
        async for change in changes:
            self._was_told = True
            name = change.key.removeprefix(_CIRCUITS)
            if change.value is None:
                self._known.pop(name, None)
            else:
                self._known[name] = StoreEntry(change.key, change.value, change.version)
            shared = self._circuits.get(name)
            if shared is not None:
                self._learned(shared, self._known.get(name))
                self._woken.set()

    async def _look(self) -> bool:
        """Read all records: at first, and now and then. Whether one is newer than anything that was told."""
        entries = await self._store.entries(_CIRCUITS)
        before, self._known = self._known, {entry.key.removeprefix(_CIRCUITS): entry for entry in entries}
        is_new = any(
            name not in before or entry.version > before[name].version for name, entry in self._known.items()
        )
        for name, shared in list(self._circuits.items()):
            self._learned(shared, self._known.get(name))
        return is_new

    async def _work(self, *beside: asyncio.Task[None]) -> None:
        look_at, is_late = self._clock.monotonic() + self._spread(_LOOK_EVERY), False
        while True:
            self._woken.clear()
            for task in beside:
                if task.done():
                    await task
                    raise StoreUnavailableError(f"{self._store!r} has ended the watch")
            if self._is_doubted:
                self._is_doubted = False
                await self._try_to_put()
            due = min(look_at, await self._attend_to_circuits())
            now = self._clock.monotonic()
            if now >= look_at:
                if is_late and not self._was_told:
                    _log.info("a watch of %r tells nothing any more, and is begun anew", self._store)
                    return
                is_late = await self._look()
                if is_late:
                    self._was_told = False
                look_at = self._clock.monotonic() + (_TOLD_WITHIN if is_late else self._spread(_LOOK_EVERY))
                continue
            await background_task.rest(self._clock, max(due - now, _LEAST_WAIT), self._woken)

    def _doubt(self) -> None:
        """Something could not be put: whether anything can be is found out once for all, and told once."""
        self._is_doubted = True
        self._wake()

    async def _try_to_put(self) -> None:
        await self._store.put(_TRIAL, b"", expires_after=_TRIAL_LASTS)

    async def _own(self) -> None:
        """Keep what is owned, or try to, until when it is time to do so again."""
        if self._ownership is not None:
            self._own_at = self._clock.monotonic() + await self._ownership.keep(self._store)

    async def _keep_owning(self) -> None:
        while True:
            await self._clock.sleep(max(self._own_at - self._clock.monotonic(), _LEAST_WAIT))
            await self._own()

    async def _attend_to_circuits(self) -> float:
        """Do what they want done in the store, some side by side; when it is worth looking again."""
        left, dues = iter(list(self._circuits.values())), [float("inf")]

        async def attend() -> None:
            for shared in left:
                await self._tell(shared)
                await self._give_back(shared)
                dues.append(await self._ask_for_the_probe(shared))

        tasks = [asyncio.create_task(attend()) for _ in range(min(_AT_ONCE, len(self._circuits)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            await _end_all(tasks)
        return min(dues)

    async def _tell(self, shared: SharedCircuit) -> None:
        key, conflicts = _CIRCUITS + shared.state.name, 0
        while (what := shared.to_tell(self._clock.monotonic())) is not None:
            try:
                version = await self._store.put(
                    key, what.record.to_bytes(), expect=what.expect, expires_after=what.record.life
                )
            except StoreConflictError:
                # Somebody was faster: what was to be told is told again, if it is still true by what he said.
                shared.tell_again()
                self._learned(shared, await self._store.get(key))
                await self._clock.sleep(_CONFLICT_APART * conflicts * self._rng.random())
                conflicts += 1
            except BaseException:
                shared.tell_again()
                raise
            else:
                shared.told(what, version, self._clock.monotonic())

    async def _ask_for_the_probe(self, shared: SharedCircuit) -> float:
        """Fetch the lease if it is wanted now, and keep it until a call has used it or somebody else wants it; when to look again."""
        now = self._clock.monotonic()
        lead = longest_lead(shared.state.circuit.timeout) * self._rng.random()
        soon = shared.probes_soon(now, lead)
        length = shared.permit.length_to_ask_for(now)
        if (lease := shared.lease) is not None:
            if shared.state.circuit.probing:
                return now + lease.remaining
            if length is None or lease.seconds >= length:
                return await self._keep_for_the_probe(shared, lease, is_wanted=length is not None)
            # It was fetched ahead, before anybody knew how long a probe would take: however often it is renewed, it is too short.
            shared.lease = None
            await lease.release()
        if length is None:
            later = [at for at in (soon, shared.permit.ask_from) if at is not None and at > now]
            return min(later, default=float("inf"))
        length += lead
        lease = await take_lease(
            self._store,
            f"probe of {shared.state.name}",
            length=length,
            holder=self.name,
            clock=self._clock,
        )
        now = self._clock.monotonic()
        if lease is None:
            wanted = shared.refused(now, length, self._spread(1.0))
            if wanted is not None:
                await self._want(shared, wanted)
            return shared.permit.ask_from
        shared.lease = lease
        shared.permit.granted(now + lease.remaining)
        shared.permit.looked(now, lease.seconds, None)
        return shared.permit.looks_at

    async def _keep_for_the_probe(self, shared: SharedCircuit, lease: Lease, *, is_wanted: bool) -> float:
        permit = shared.permit
        if self._clock.monotonic() >= permit.looks_at:
            said = await self._store.get(_PROBES + shared.state.name)
            if permit.looked(self._clock.monotonic(), lease.seconds, self._asked_in(shared, said)):
                # In another thread a call may have used it at the last moment: then it ends with that.
                if not shared.state.circuit.probing:
                    shared.lease = None
                    await lease.release()
                return permit.ask_from
        elif not is_wanted:
            return permit.looks_at
        if await lease.renew():
            permit.granted(self._clock.monotonic() + lease.remaining)
        else:
            permit.lost()
        return permit.looks_at

    async def _want(self, shared: SharedCircuit, wanted: Wanted) -> None:
        # Who stands back says nothing where another one wants it sooner.
        expect = None if shared.stands_back is None else 0
        with contextlib.suppress(StoreConflictError):
            await self._store.put(
                _PROBES + shared.state.name, wanted.to_bytes(), expect=expect, expires_after=wanted.life
            )

    def _asked_in(self, shared: SharedCircuit, said: StoreEntry | None) -> float | None:
        """Seconds after which another one asks for the lease; None: none has said so."""
        if said is None:
            return None
        try:
            wanted = Wanted.from_bytes(said.value)
        except ValueError as error:
            _log.debug("what stands under %r is none: %s", said.key, error)
            return None
        return None if wanted.by == shared.life else wanted.asks_in

    async def _give_back(self, shared: SharedCircuit) -> None:
        lease = shared.lease
        if lease is None or (lease.is_held and not shared.is_over and shared.may_need_a_probe):
            return
        shared.lease, shared.is_over = None, False
        shared.permit.lost()
        await lease.release()

    def _learned(self, shared: SharedCircuit, entry: StoreEntry | None) -> None:
        record = None
        if entry is not None:
            try:
                record = FleetRecord.from_bytes(entry.value)
            except ValueError as error:
                name = shared.state.name
                if self._passed_over.get(name) != entry.version:
                    self._passed_over[name] = entry.version
                    _log.warning(
                        "what stands under %r in %r is no circuit: %s", entry.key, self._store, error
                    )
        shared.learned(record, 0 if entry is None else entry.version, self._clock.monotonic())

    def _spread(self, seconds: float) -> float:
        return seconds * (0.75 + self._rng.random() / 2)

    # -- what is known of the store ----------------------------------------------------------------------

    def _is_there(self) -> None:
        if self._state == "away":
            _log.info("the store of the fleet is back: %r", self._store)
        self._changed("reachable", None)
        for shared in self._circuits.values():
            shared.reach(is_reachable=True)
            shared.back()

    def _is_away(self, error: str) -> None:
        if self._state != "away":
            _log.warning("the store of the fleet is away, %s: %s", self._until_back, error)
        if self._ownership is not None:
            self._ownership.store_error = error
            self._ownership.tell()
        self._changed("away", error)
        for shared in self._circuits.values():
            shared.reach(is_reachable=False)

    def _changed(self, state: Literal["reachable", "away"], error: str | None) -> None:
        if state != self._state:
            self._state, self._since = state, self._clock.time()
        self._last_error = error

    def __repr__(self) -> str:
        return f"<Fleet {self.name!r}, {self._store!r} {self._state}>"


async def _end_all(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

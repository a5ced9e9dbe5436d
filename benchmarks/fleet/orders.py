"""
Orders of one account that eight processes could send: the one that owns the account is killed or stopped in the middle of
them, another one takes over, looks up what is unknown, and goes on; or the store that says who it is stands still, or comes
back empty. The demo's venue counts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import statistics
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from orders import AT_ONCE, IMPORTED, PROCESSES, SETTLE, Ccxt, keep_venue

from shockproof import (
    ErrorRecoveryService,
    Event,
    FileStore,
    HaltedError,
    JournalLockedError,
    JournalUnavailableError,
    OperationCompletedError,
    OutcomeUnknownError,
    OwnershipTaken,
    StateStore,
)

FLEET = 8
ACCOUNT = "account 7"
LEASE = 15.0
"""Seconds of the owner's lease."""
STORE_STANDS = 2.0
"""How many times as long the store stands still: no owner of before may send any more."""
STORE_AWAY = 0.3
"""How many times as long the store is away before it comes back empty: whoever owned the account still does."""
STOPPED = 40.0
"""Seconds for which an owner is stopped at the most: twice as long as it takes until another one owns the account."""
PATIENCE = 120.0
"""Seconds: whatever is waited for has happened long before on a machine that works."""


class NoOwnerError(Exception):
    """A call was ended with its own last error because this process owns the account no longer."""


NOT_THE_OWNER = (HaltedError, JournalLockedError, JournalUnavailableError, NoOwnerError)

# Of the others the parent imports nothing: a life begins within milliseconds.
NOT_NEEDED = ("alpaca", "tenacity", "shockproof.integrations.alpaca")
PRELOADED = [
    *(name for name in IMPORTED if not name.startswith(NOT_NEEDED)),
    "fleet.orders",
    "shockproof.integrations.redis",
]


@dataclass(frozen=True)
class Task:
    """What is done in one run."""

    intents: int
    kills: int
    stops: int
    seed: int
    lease: float | None = None
    """Seconds of the owner's lease; None: as it is."""
    troubles: int = 0
    """How often something befalls the store: it stands still, or comes back empty, by turns."""


@dataclass
class Outcome:
    """What came of it."""

    task: Task
    kills: int = 0
    stops: int = 0
    stood: int = 0
    """How often the store stood still."""
    emptied: int = 0
    """How often it was killed and came back empty."""
    faults: int = 0
    owners: int = 0
    """How often a process became the owner."""
    doubled: int = 0
    lost: int = 0
    why: list[str] = field(default_factory=list)
    """What was said of those that are lost."""
    wrong: int = 0
    """Orders of which a process said something else than the ledger."""
    pending: int = 0
    hand_overs: list[float] = field(default_factory=list)
    """Seconds from a death until another process was the owner."""
    gaps: list[float] = field(default_factory=list)
    """Seconds from when the store was there again until orders went on."""
    seconds: float = 0.0

    @property
    def is_as_promised(self) -> bool:
        return not (self.doubled or self.lost or self.wrong or self.pending)


def printed(outcome: Outcome) -> str:
    task, took = outcome.task, sorted(outcome.hand_overs) or [0.0]
    lines = [
        (
            f"orders: {task.intents} intents of one account, {FLEET} processes, {outcome.kills} owners killed and {outcome.stops} stopped, "
            f"{outcome.owners} owners in all, {outcome.faults} orders met a fault, {outcome.seconds:.0f} s"
        ),
        f"  doubled {outcome.doubled}, lost {outcome.lost}, wrong words {outcome.wrong}, left pending {outcome.pending}",
        *(f"  lost, and said of it: {why}" for why in outcome.why),
        f"  until another one was the owner: median {statistics.median(took):.1f} s, at most {took[-1]:.1f} s",
        (
            f"  the store stood still {outcome.stood} times and came back empty {outcome.emptied} times; until orders went on: "
            f"at most {max(outcome.gaps, default=0.0):.1f} s"
        ),
    ]
    return "\n".join(lines)


# -- a process -------------------------------------------------------------------------------------------------------


def trade(task: Task, name: str, url: str, store: str, place: str, wire: Connection) -> None:
    """Stand by, and trade while it owns the account; reports each intent as it knows of it."""
    warnings.simplefilter("ignore")
    logging.disable()
    if task.lease is not None:
        from shockproof.memory.fleet import ownership

        ownership._LENGTH = task.lease  # type: ignore[misc]  # so that a test need not wait for fifteen seconds
    asyncio.run(_trade(task, name, url, store, Path(place), wire))


def _store(where: str) -> StateStore:
    if not where.startswith("redis://"):
        return FileStore(where)
    from shockproof.integrations.redis import RedisStore

    return RedisStore(where)


async def _trade(task: Task, name: str, url: str, store: str, place: Path, wire: Connection) -> None:
    client = Ccxt()
    await client.open(url, own_retries=False)
    is_through = False
    while not is_through:
        async with ErrorRecoveryService(
            place / "state", place / "errors", store=_store(store), owns=ACCOUNT, process_name=name
        ) as recovery:
            is_through = await _while_owner(task, client, recovery, wire)
    await client.close()
    wire.send(None)


async def _while_owner(task: Task, client: Ccxt, recovery: ErrorRecoveryService, wire: Connection) -> bool:
    """Whether everything is done; False: it is the owner no longer, and stands by again."""
    orders = recovery.service(
        client.service,
        classify=client.guard(recovery),
        timeout=client.timeout,
        max_retries=8,
        base_delay=0.01,
        circuit_threshold=None,
    )
    orders.once(confirm=client.find, settle=SETTLE)  # says how orders are looked up

    async def one(key: str) -> None:
        once = orders.once(key, confirm=client.find, settle=SETTLE)
        word = ""
        while not word:
            try:
                await once.call(client.submit, key)
                word = "placed"
            except OperationCompletedError:  # by an earlier owner
                word = "placed"
            except OutcomeUnknownError:  # the next call looks it up again, before anything is sent
                continue
            except NOT_THE_OWNER:
                raise
            except Exception as error:
                if not recovery.get_health_status()["shared"]["owns"]["is_owner"]:
                    raise NoOwnerError from error  # it would have been sent again
                word = f"failed: {type(error).__name__}: {error}"
        wire.send((key, word))

    keys = iter([f"i{task.seed}-{number}" for number in range(task.intents)])

    async def in_turn() -> None:
        for key in keys:
            await one(key)

    async def tell(event: Event) -> None:
        # Each time: one that loses the account while it waits to reconcile has it again later, and is never refused.
        if isinstance(event, OwnershipTaken) and recovery.get_health_status()["shared"]["owns"]["is_owner"]:
            wire.send(("", f"owner {time.monotonic()}"))

    recovery.on_event(tell)
    is_lost = False
    try:
        await recovery.reconcile()  # as the owner, and when no former one has the journal any more
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(in_turn())
    except* NOT_THE_OWNER:
        is_lost = True
    if is_lost:
        return False
    state = await recovery.restore_state()
    for operation in [] if state is None else state.active_operations:
        wire.send((operation["key"], "pending"))
    return True


# -- the run ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Member:
    """A process as its parent knows it."""

    name: str
    process: BaseProcess
    wire: Connection
    is_dead: bool = False


class Fleet:
    """Eight processes, of which those that die are replaced."""

    def __init__(self, task: Task, url: str, store: str, place: Path) -> None:
        self._task = task
        self._words = (url, store, str(place))
        self._started = 0
        self.members: dict[Connection, Member] = {}
        self.told: dict[str, str] = {}
        self.pending: set[str] = set()
        self.owner: Member | None = None
        self._owned_at = 0.0
        self.owners = 0

    def start_one(self) -> None:
        self._started += 1
        name = f"trader-{self._started}"
        reader, writer = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=trade, args=(self._task, name, *self._words, writer), daemon=True)
        process.start()
        writer.close()
        self.members[reader] = Member(name, process, reader)

    def listen(self, until: float) -> Member | None:
        """
        Take what is said until the monotonic time *until*, or until somebody becomes the owner or is through; who did.

        Raises:
            RuntimeError: a process failed.
        """
        while (left := until - time.monotonic()) > 0:
            for wire in wait(list(self.members), left):
                assert isinstance(wire, Connection)
                member = self.members[wire]
                try:
                    said = wire.recv()
                except EOFError:
                    member.process.join()
                    del self.members[wire]
                    wire.close()
                    if not member.is_dead:
                        raise RuntimeError(
                            f"{member.name} failed with exit code {member.process.exitcode}"
                        ) from None
                    continue
                if said is None:
                    member.is_dead = True
                    return member
                key, word = said
                if word.startswith("owner "):
                    self.owners += 1
                    self.pending.clear()
                    # Two pipes are read in any order: who owned it last, owns it.
                    if (at := float(word.removeprefix("owner "))) > self._owned_at:
                        self.owner, self._owned_at = member, at
                        return member
                    continue
                if word == "pending":
                    self.pending.add(key)
                else:
                    self.told[key] = word
        return None

    def next_owner(self) -> Member:
        """Wait until somebody becomes the owner, or is through; as long as orders go on, too."""
        known = -1
        while known < len(self.told):
            known = len(self.told)
            member = self.listen(time.monotonic() + PATIENCE)
            if member is not None:
                return member
        raise RuntimeError(f"nobody became the owner, and no order went on, within {PATIENCE:g} s")

    def end(self) -> None:
        for member in self.members.values():
            member.is_dead = True
            member.process.kill()
            member.process.join()
            member.wire.close()


def measure(task: Task, *, in_a_file: bool) -> Outcome:
    """With a Redis of its own, or a file, which nothing befalls."""
    PROCESSES.set_forkserver_preload(PRELOADED)
    if in_a_file:
        return _run(replace(task, troubles=0), None)
    from tests.integrations import store_servers

    store_servers.HOST = (
        "127.0.0.1"  # where the others were measured before, it may be in a network of its own
    )
    with tempfile.TemporaryDirectory() as folder, store_servers.redis_server(Path(folder) / "data") as server:
        return _run(task, server)


def _run(
    task: Task, server: Any
) -> Outcome:  # Any: a server of the tests, which the benchmarks' checks do not see
    begun, outcome = time.monotonic(), Outcome(task)
    wire, end = PROCESSES.Pipe()
    venue = PROCESSES.Process(target=keep_venue, args=(task.seed, end), daemon=True)
    venue.start()
    end.close()
    url = wire.recv()
    with tempfile.TemporaryDirectory() as place:
        store = f"{place}/shared.db" if server is None else f"redis://{server.address}"
        fleet = Fleet(task, url, store, Path(place))
        try:
            for _ in range(FLEET):
                fleet.start_one()
            _kill_and_stop(task, fleet, server, outcome)
        finally:
            fleet.end()
    wire.send("end")
    booked, outcome.faults = wire.recv()
    venue.join()
    _count(outcome, fleet, booked)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _kill_and_stop(task: Task, fleet: Fleet, server: Any, outcome: Outcome) -> None:  # Any: as above
    rng = random.Random(task.seed)
    troubles = [("stands", "is emptied")[number % 2] for number in range(task.troubles)]
    deaths = ["kill"] * task.kills + ["stop"] * task.stops + troubles
    rng.shuffle(deaths)
    owner = fleet.next_owner()
    while True:
        if not deaths:
            if fleet.next_owner().is_dead:  # it is through
                return
            continue
        # In the middle of its orders, of which it has eight at a time; or so early that it still reconciles.
        words = len(fleet.told) + rng.randint(
            0, max(1, 2 * (task.intents - len(fleet.told)) // (len(deaths) + 2))
        )
        moment = rng.uniform(0.0, 0.05)
        other = _until(fleet, owner, words)
        if other is not None:
            if other.is_dead:
                return
            owner = other
            continue
        time.sleep(moment)
        death = deaths.pop()
        if death in troubles:
            owner = _trouble(task, fleet, server, owner, death, outcome)
            if owner.is_dead:
                return
            continue
        died = time.monotonic()
        if death == "kill":
            owner.is_dead = True
            owner.process.kill()
            outcome.kills += 1
            fleet.start_one()
            owner = fleet.next_owner()
        else:
            stopped, owner = owner, _stop(fleet, owner, rng)
            outcome.stops += 1
            assert stopped is not owner
        outcome.hand_overs.append(time.monotonic() - died)
        if owner.is_dead:
            return


def _until(fleet: Fleet, owner: Member, words: int) -> Member | None:
    """Listen until so many orders are known; who became the owner, or was through, before."""
    gives_up = time.monotonic() + PATIENCE
    while len(fleet.told) < words and time.monotonic() < gives_up:
        other = fleet.listen(time.monotonic() + 0.01)
        if other is not None:
            return other
    return None


def _stop(fleet: Fleet, owner: Member, rng: random.Random) -> Member:
    """Stop it as a debugger does, until another one owns the account, and for a moment more; who that is."""
    assert owner.process.pid is not None
    os.kill(owner.process.pid, signal.SIGSTOP)
    try:
        other = fleet.listen(time.monotonic() + STOPPED)
        time.sleep(rng.uniform(0.0, 0.2))
    finally:
        os.kill(owner.process.pid, signal.SIGCONT)
    return fleet.next_owner() if other is None else other


def _trouble(
    task: Task,
    fleet: Fleet,
    server: Any,  # Any: as above
    owner: Member,
    what: str,
    outcome: Outcome,
) -> Member:
    """Something befalls the store, and orders go on behind that; whose they are."""
    lease = LEASE if task.lease is None else task.lease
    if what == "stands":
        outcome.stood += 1
        with server.paused():
            owner = _listen_for(fleet, STORE_STANDS * lease, owner)
    else:
        outcome.emptied += 1
        server.kill()
        owner = _listen_for(fleet, STORE_AWAY * lease, owner)
        server.start()
    over, known = time.monotonic(), len(fleet.told)
    while len(fleet.told) == known and not owner.is_dead:
        if time.monotonic() - over > PATIENCE:
            raise RuntimeError(f"no order went on within {PATIENCE:g} s of the store")
        owner = _listen_for(fleet, 0.05, owner)
    outcome.gaps.append(time.monotonic() - over)
    return owner


def _listen_for(fleet: Fleet, seconds: float, owner: Member) -> Member:
    """Who owned the account last, or is through."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not owner.is_dead:
        owner = fleet.listen(until) or owner
    return owner


def _count(outcome: Outcome, fleet: Fleet, booked: Counter[str]) -> None:
    keys = [f"i{outcome.task.seed}-{number}" for number in range(outcome.task.intents)]
    outcome.owners = fleet.owners
    outcome.pending = len(fleet.pending)
    outcome.doubled = sum(booked[key] > 1 for key in keys)
    lost = [key for key in keys if not booked[key]]
    outcome.lost, outcome.why = len(lost), [fleet.told.get(key, "nothing") for key in lost]
    outcome.wrong = sum((fleet.told.get(key) == "placed") != (booked[key] > 0) for key in keys)

"""
Orders of one account that eight processes could send: the one that owns the account is killed or stopped in the middle of
them, or cut off from the store with half of the others, another one takes over, looks up what is unknown, and goes on; or the
store that says who it is stands still, or comes back empty. The demo's venue counts, and notes when each request comes in.

Orders go on until all of that has happened: a run in which something of it missed is not as promised.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import signal
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from orders import AT_ONCE, IMPORTED, PROCESSES, SETTLE, Ccxt, weather

from fleet.network import OnAThread, enter_one_of_its_own, network
from fleet.venue import MARGIN, WINDOW, counts_in
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
LIMIT = 150
"""Orders that the venue allows in any `WINDOW`: fewer than one process would send, eight at a time."""
RATE = f"{LIMIT}/{WINDOW + MARGIN:g}s"
LEASE = 15.0
"""Seconds of the owner's lease."""
STORE_STANDS = 2.0
"""How many times as long the store stands still: no owner of before may send any more."""
STORE_AWAY = 0.3
"""How many times as long the store is away before it comes back empty: whoever owned the account still does."""
STOPPED = 40.0
"""Seconds for which an owner is stopped or cut off at the most: twice as long as it takes until another one owns the account."""
BEHIND_A_CUT = 5 * AT_ONCE
"""Orders of the next owner, before those that were cut off have the store again."""
MOST = 20
"""How many times as many orders as were asked for are sent at the most, until everything has happened."""
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
    cuts: int = 0
    """How often half of the processes are cut off from it, the owner among them."""
    in_a_file: bool = False
    """Share through a file, which nothing befalls, and without a rate limit: a new store makes everybody wait for that."""
    is_of_machines: bool = False
    """Whether each process has a journal of its own, as on a machine of its own, and knows nothing of what others have sent."""


@dataclass
class Outcome:
    """What came of it. Of what befell somebody only that is counted which hit a living process, while orders were left."""

    task: Task
    network: str = ""
    """How processes were cut off."""
    orders: int = 0
    """As many as were asked for, or more: until everything had happened."""
    kills: int = 0
    stops: int = 0
    stood: int = 0
    """How often the store stood still."""
    emptied: int = 0
    """How often it was killed and came back empty."""
    cuts: int = 0
    sent_in_cuts: int = 0
    """Orders that somebody knew the end of while half of the processes were cut off."""
    requests: Sequence[float] = ()
    """When the venue was asked to place an order."""
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
    def most_in_a_window(self) -> int:
        return max(counts_in(self.requests, WINDOW), default=0)

    @property
    def windows_above(self) -> int:
        """Of those that end with a request; without a limit there are none."""
        return 0 if self.task.in_a_file else sum(one > LIMIT for one in counts_in(self.requests, WINDOW))

    @property
    def complaints(self) -> list[str]:
        """What is not as promised."""
        task, store = self.task, self.stood + self.emptied
        befell = [
            f"only {there} of {wanted} {what}"
            for there, wanted, what in (
                (self.kills, task.kills, "owners were killed in the middle of orders"),
                (
                    self.stops,
                    task.stops,
                    "owners were stopped in the middle of orders, until another one was the owner",
                ),
                (store, task.troubles, "troubles befell the store in the middle of orders"),
                (
                    self.cuts,
                    task.cuts,
                    "cuts separated the owner and half of the others, and orders went on meanwhile",
                ),
            )
            if there < wanted
        ]
        came = [
            f"{what}: {count}"
            for what, count in (
                ("doubled", self.doubled),
                ("lost", self.lost),
                ("of which somebody said what the venue's ledger does not", self.wrong),
                ("left pending", self.pending),
                (f"windows of {WINDOW:g} s with more than {LIMIT} of them", self.windows_above),
            )
            if count
        ]
        return [f"orders: {what}" for what in befell + came]


def printed(outcome: Outcome) -> str:
    took = sorted(outcome.hand_overs) or [0.0]
    lines = [
        (
            f"orders: {outcome.orders} intents of one account, {FLEET} {'machines' if outcome.task.is_of_machines else 'processes'}, {outcome.kills} owners killed and {outcome.stops} stopped, "
            f"{outcome.owners} owners in all, {outcome.faults} orders met a fault, {outcome.seconds:.0f} s"
        ),
        f"  doubled {outcome.doubled}, lost {outcome.lost}, wrong words {outcome.wrong}, left pending {outcome.pending}",
        *(f"  lost, and said of it: {why}" for why in outcome.why),
        f"  until another one was the owner: median {statistics.median(took):.1f} s, at most {took[-1]:.1f} s",
        (
            f"  the store stood still {outcome.stood} times and came back empty {outcome.emptied} times; until orders went on: "
            f"at most {max(outcome.gaps, default=0.0):.1f} s"
        ),
        (
            f"  half of the processes cut off {outcome.cuts} times{outcome.network and f' by {outcome.network}'}, "
            f"{outcome.sent_in_cuts} orders meanwhile"
        ),
        (
            f"  {len(outcome.requests)} requests, at most {outcome.most_in_a_window} in {WINDOW:g} s"
            + ("" if outcome.task.in_a_file else f", of {LIMIT}; windows above: {outcome.windows_above}")
        ),
    ]
    return "\n".join(lines)


# -- a process -------------------------------------------------------------------------------------------------------


def trade(task: Task, name: str, place: str, wire: Connection) -> None:
    """Stand by, and trade while it owns the account; told where the venue and the store are, it reports each intent as it knows of it."""
    warnings.simplefilter("ignore")
    logging.disable()
    if not task.in_a_file:
        enter_one_of_its_own()
    url, store = wire.recv()
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
    place = place / name if task.is_of_machines else place
    is_through = False
    while not is_through:
        async with ErrorRecoveryService(
            place / "state", place / "errors", store=_store(store), owns=ACCOUNT, process_name=name
        ) as recovery:
            is_through = await _while_owner(task, client, recovery, place, wire)
    await client.close()
    wire.send(None)


async def _while_owner(
    task: Task, client: Ccxt, recovery: ErrorRecoveryService, place: Path, wire: Connection
) -> bool:
    """Whether everything is done; False: it is the owner no longer, and stands by again."""
    orders = recovery.service(
        client.service,
        classify=client.guard(recovery),
        timeout=client.timeout,
        max_retries=8,
        base_delay=0.01,
        circuit_threshold=None,
        **({} if task.in_a_file else {"shared": True, "rate_limit": RATE}),
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

    numbers = itertools.count()

    async def in_turn() -> None:
        while (number := next(numbers)) < _wanted(task, place):
            await one(key_of(task, number))

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


def key_of(task: Task, number: int) -> str:
    return f"i{task.seed}-{number}"


def _enough(place: Path) -> Path:
    """Holds how many orders there are in all, once everything has happened."""
    return place / "enough"


def _wanted(task: Task, place: Path) -> float:
    try:
        return int(_enough(place).read_text())
    except FileNotFoundError:
        return MOST * task.intents


# -- the venue -------------------------------------------------------------------------------------------------------


def keep_venue(seed: int, host: str, wire: Connection) -> None:
    """The venue's process: says where it listens, and tells its ledger when it is asked to end."""
    logging.disable()  # a client that is killed breaks off in the middle of its request
    asyncio.run(_venue(seed, host, wire))


async def _venue(seed: int, host: str, wire: Connection) -> None:
    from shockproof.demo.venue import server as venue
    from shockproof.demo.venue.fault_injector import Fault, FaultInjector
    from shockproof.demo.venue.fault_plan import Endpoint

    requests: list[float] = []

    class Noting(FaultInjector):
        def decide(self, endpoint: Endpoint, elapsed: float) -> Fault | None:
            if endpoint is Endpoint.PLACE_ORDER:
                requests.append(time.monotonic())
            return super().decide(endpoint, elapsed)

    venue.HOST = host  # type: ignore[misc]  # so that processes in other networks can call it
    plan = weather(seed)
    async with venue.VenueServer(plan, first_day=1000, tick=0.5) as server:
        server.exchange.faults = Noting(plan)
        server.exchange.clock.begin()
        wire.send(server.base_url)
        await asyncio.to_thread(wire.recv)
        ledger = Counter(order.client_order_id for order in server.exchange.ledger.orders)
        hit = [fault for fault in server.exchange.faults.log if fault.endpoint is Endpoint.PLACE_ORDER]
        wire.send((ledger, len(hit), requests))


# -- the run ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Member:
    """A process as its parent knows it."""

    number: int
    process: BaseProcess
    wire: Connection
    is_dead: bool = False

    @property
    def name(self) -> str:
        return f"trader-{self.number}"


class Ways:
    """From each process to the venue, which stays, and to the store, which can be cut."""

    def __init__(self) -> None:
        self._loop = OnAThread()
        self._to_store, self._to_venue = network(), network()
        self.name, self.of_store, self.of_venue = (
            self._to_store.name,
            self._to_store.host,
            self._to_venue.host,
        )
        self._ports = 0, 0

    def lead_to(self, venue: int, store: int) -> None:
        """These ports."""
        self._ports = venue, store

    def connect(self, member: Member) -> tuple[str, str]:
        """Venue and store, as it sees them."""
        pid = member.process.pid
        assert pid is not None
        venue, store = (
            self._loop.run(way.connect(member.number, pid, port))
            for way, port in zip((self._to_venue, self._to_store), self._ports, strict=True)
        )
        return f"http://{venue}", f"redis://{store}"

    def cut(self, member: Member) -> None:
        self._loop.do(self._to_store.cut, member.number)

    def mend(self, member: Member) -> None:
        self._loop.do(self._to_store.mend, member.number)

    def end(self) -> None:
        for way in (self._to_store, self._to_venue):
            self._loop.run(way.aclose())
        self._loop.end()


class Direct:
    """To a venue on loopback, and a file."""

    name, of_venue = "", "127.0.0.1"

    def __init__(self, file: str) -> None:
        self._file = file
        self._venue = 0

    def lead_to(self, venue: int, store: int) -> None:
        del store
        self._venue = venue

    def connect(self, member: Member) -> tuple[str, str]:
        del member
        return f"http://{self.of_venue}:{self._venue}", self._file

    def end(self) -> None:
        pass


class Fleet:
    """Eight processes, of which those that die are replaced."""

    def __init__(self, task: Task, ways: Ways | Direct, place: Path) -> None:
        self._task = task
        self._ways = ways
        self._place = place
        self._started = 0
        self.members: dict[Connection, Member] = {}
        self.told: dict[str, str] = {}
        self.pending: set[str] = set()
        self.owner: Member | None = None
        self._owned_at = 0.0
        self.owners = 0

    def start_one(self) -> None:
        self._started += 1
        ours, theirs = PROCESSES.Pipe()
        words = (self._task, f"trader-{self._started}", str(self._place), theirs)
        process = PROCESSES.Process(target=trade, args=words, daemon=True)
        process.start()
        theirs.close()
        member = self.members[ours] = Member(self._started, process, ours)
        ours.send(self._ways.connect(member))

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
                except (EOFError, ConnectionResetError):
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


def measure(task: Task) -> Outcome:
    """With a Redis of its own, or a file, which nothing befalls."""
    PROCESSES.set_forkserver_preload(PRELOADED)
    if task.in_a_file:
        with tempfile.TemporaryDirectory() as folder:
            return _run(replace(task, troubles=0, cuts=0), Direct(f"{folder}/shared.db"), None)
    from tests.integrations import store_servers

    ways = Ways()
    store_servers.HOST = ways.of_store
    with (
        tempfile.TemporaryDirectory() as folder,
        store_servers.redis_server(Path(folder) / "data", "--protected-mode", "no") as server,
    ):
        return _run(task, ways, server)


def _run(
    task: Task, ways: Ways | Direct, server: Any
) -> Outcome:  # Any: a server of the tests, which the benchmarks' checks do not see
    begun, outcome = time.monotonic(), Outcome(task, ways.name)
    wire, end = PROCESSES.Pipe()
    venue = PROCESSES.Process(target=keep_venue, args=(task.seed, ways.of_venue, end), daemon=True)
    venue.start()
    end.close()
    ways.lead_to(int(wire.recv().rpartition(":")[2]), 0 if server is None else server.port)
    with tempfile.TemporaryDirectory() as place:
        fleet = Fleet(task, ways, Path(place))
        try:
            for _ in range(FLEET):
                fleet.start_one()
            Befalling(task, fleet, ways, server, outcome).everything(Path(place))
        finally:
            fleet.end()
    wire.send("end")
    booked, outcome.faults, outcome.requests = wire.recv()
    venue.join()
    ways.end()
    _count(outcome, fleet, booked)
    outcome.seconds = time.monotonic() - begun
    return outcome


class Befalling:
    """What befalls the fleet and its store, one thing after the other, in the middle of orders."""

    def __init__(
        self,
        task: Task,
        fleet: Fleet,
        ways: Ways | Direct,
        server: Any,  # Any: as above
        outcome: Outcome,
    ) -> None:
        self._task = task
        self._fleet = fleet
        self._ways = ways
        self._server = server
        self._outcome = outcome
        self._rng = random.Random(task.seed)
        self._lease = LEASE if task.lease is None else task.lease

    def everything(self, place: Path) -> None:
        """
        Until all has happened, and all orders are through.

        Raises:
            RuntimeError: a process failed, or orders did not go on.
        """
        task, fleet, outcome = self._task, self._fleet, self._outcome
        troubles = [(self._stands, self._is_emptied)[number % 2] for number in range(task.troubles)]
        deaths = [self._kill] * task.kills + [self._stop] * task.stops + troubles + [self._cut] * task.cuts
        self._rng.shuffle(deaths)
        apart = 2 * task.intents // (len(deaths) + 2)
        owner = fleet.next_owner()
        while deaths and not owner.is_dead:
            # In the middle of its orders, of which it has eight at a time; or so early that it still reconciles.
            words = len(fleet.told) + self._rng.randint(0, apart)
            moment = self._rng.uniform(0.0, 0.05)
            other = self._until(words)
            if other is not None:
                owner = other
                continue
            time.sleep(moment)
            owner = deaths.pop()(owner)
        # None that somebody may have begun is left out.
        known = max((int(key.rpartition("-")[2]) for key in fleet.told), default=0)
        outcome.orders = min(max(task.intents, known + 1 + 2 * AT_ONCE), MOST * task.intents)
        written = _enough(place).with_suffix(".new")
        written.write_text(str(outcome.orders))
        written.replace(_enough(place))
        while not owner.is_dead:
            owner = fleet.next_owner()

    def _until(self, words: int) -> Member | None:
        """Listen until so many orders are known; who became the owner, or was through, before."""
        gives_up = time.monotonic() + PATIENCE
        while len(self._fleet.told) < words:
            if time.monotonic() > gives_up:
                raise RuntimeError(f"fewer than {words} orders went on within {PATIENCE:g} s")
            other = self._fleet.listen(time.monotonic() + 0.01)
            if other is not None:
                return other
        return None

    def _kill(self, owner: Member) -> Member:
        died = time.monotonic()
        owner.is_dead = True
        owner.process.kill()
        owner.process.join()
        self._outcome.kills += owner.process.exitcode == -signal.SIGKILL
        self._fleet.start_one()
        other = self._fleet.next_owner()
        self._outcome.hand_overs.append(time.monotonic() - died)
        return other

    def _stop(self, owner: Member) -> Member:
        """Stop it as a debugger does, until another one owns the account, and for a moment more; who that is."""
        died, pid = time.monotonic(), owner.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            stands = _stands_still(pid)
            other = self._fleet.listen(time.monotonic() + STOPPED)
            self._outcome.stops += stands and other not in {None, owner}
            time.sleep(self._rng.uniform(0.0, 0.2))
        finally:
            os.kill(pid, signal.SIGCONT)
        if other is None:
            other = self._fleet.next_owner()
        self._outcome.hand_overs.append(time.monotonic() - died)
        return other

    def _stands(self, owner: Member) -> Member:
        with self._server.paused():
            self._outcome.stood += _stands_still(self._server._process.pid)
            owner = self._listen_for(STORE_STANDS * self._lease, owner)
        return self._behind_it(owner)

    def _is_emptied(self, owner: Member) -> Member:
        self._outcome.emptied += self._server._process.poll() is None
        self._server.kill()
        owner = self._listen_for(STORE_AWAY * self._lease, owner)
        self._server.start()
        return self._behind_it(owner)

    def _behind_it(self, owner: Member) -> Member:
        """Orders go on; whose they are."""
        over, known = time.monotonic(), len(self._fleet.told)
        while len(self._fleet.told) == known and not owner.is_dead:
            if time.monotonic() - over > PATIENCE:
                raise RuntimeError(f"no order went on within {PATIENCE:g} s of the store")
            owner = self._listen_for(0.05, owner)
        self._outcome.gaps.append(time.monotonic() - over)
        return owner

    def _cut(self, owner: Member) -> Member:
        """The owner and half of the processes in all, until another one has sent orders meanwhile; who that is."""
        assert isinstance(self._ways, Ways)
        others = [member for member in self._fleet.members.values() if member is not owner]
        half, begun, known = [owner, *others[: FLEET // 2 - 1]], time.monotonic(), len(self._fleet.told)
        for member in half:
            self._ways.cut(member)
        try:
            other = self._fleet.listen(time.monotonic() + STOPPED)
            if other is not None:
                self._outcome.hand_overs.append(time.monotonic() - begun)
                behind = len(self._fleet.told) + BEHIND_A_CUT
                while len(self._fleet.told) < behind and other not in half and not other.is_dead:
                    other = self._until(behind) or other
                self._outcome.cuts += other not in half
                self._outcome.sent_in_cuts += len(self._fleet.told) - known
        finally:
            for member in half:
                self._ways.mend(member)
        return self._fleet.next_owner() if other is None else other

    def _listen_for(self, seconds: float, owner: Member) -> Member:
        """Who owned the account last, or is through."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not owner.is_dead:
            owner = self._fleet.listen(until) or owner
        return owner


def _stands_still(pid: int) -> bool:
    """Whether a process that was sent SIGSTOP lives, and does nothing any more."""
    gives_up = time.monotonic() + PATIENCE
    while time.monotonic() < gives_up:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "TZX":
            return state == "T"
        time.sleep(0.001)
    return False


def _count(outcome: Outcome, fleet: Fleet, booked: Counter[str]) -> None:
    keys = [key_of(outcome.task, number) for number in range(outcome.orders)]
    outcome.owners = fleet.owners
    outcome.pending = len(fleet.pending)
    outcome.doubled = sum(count > 1 for count in booked.values())
    lost = [key for key in keys if not booked[key]]
    outcome.lost, outcome.why = len(lost), [fleet.told.get(key, "nothing") for key in lost]
    outcome.wrong = sum((fleet.told.get(key) == "placed") != (booked[key] > 0) for key in keys)

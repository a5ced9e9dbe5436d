"""What a process divides with others, where it forks, and where it has several loops in several threads. On real time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shockproof import (
    DeadlineExceededError,
    ErrorRecoveryService,
    FileStore,
    HaltedError,
    JournalLockedError,
    LookUp,
    MemoryStore,
    OperationCompletedError,
    RateLimitedError,
    RetryBudget,
    StateStore,
    StoreUnavailableError,
)
from shockproof.memory.disk import fork_barrier
from shockproof.memory.disk.file_layer import SYSTEM_FILES
from shockproof.memory.disk.fork_barrier import ForkBarrier
from shockproof.memory.fleet import background_task, ownership
from shockproof.memory.fleet.marked import marked
from shockproof.memory.journal.identity import identity_with
from shockproof.policies.fleet_budget import BudgetRecord
from shockproof.policies.fleet_limit import LimitRecord
from tests.forked_child import ForkedChild

PATIENCE = 60.0
LIMIT = 40
CAPACITY = 6.0


async def seeded(store: StateStore) -> None:
    """It knows of an earlier fleet, which has sent nothing for long."""
    await store.put("limits/venue", LimitRecord({}).to_bytes())
    await store.put("budgets/venue", BudgetRecord({}, CAPACITY).to_bytes())


def bot(path: Path, store: StateStore, name: str) -> ErrorRecoveryService:
    recovery = ErrorRecoveryService(path / "state", path / "errors", store=store, process_name=name)
    recovery.service(
        "venue",
        shared=True,
        rate_limit=f"{LIMIT}/h",
        max_wait=PATIENCE,
        retry_budget=RetryBudget(capacity=CAPACITY, per_success=0.0),
        circuit_threshold=None,
    )
    return recovery


async def sends(recovery: ErrorRecoveryService, times: int) -> int:
    """So many, however long each has to wait for its share."""

    async def send() -> None: ...

    for _ in range(times):
        await recovery.service("venue", max_retries=0).call(send)
    return times


async def sends_what_is_there(recovery: ErrorRecoveryService) -> int:
    """All that need not wait for long."""

    async def send() -> None: ...

    sent = 0
    while True:
        try:
            await recovery.service("venue", max_retries=0, deadline=0.5).call(send)
        except (RateLimitedError, DeadlineExceededError):  # this machine may stand still for that long
            return sent
        sent += 1


async def retries(recovery: ErrorRecoveryService, tries: int, until: float = CAPACITY) -> int:
    """How many of so many are paid for, tried until there are so many."""
    budget = recovery.service("venue").plan.state.retry_budget
    assert budget is not None
    paid = 0
    for _ in range(tries):
        paid += budget.take()
        if paid >= until:
            break
        await asyncio.sleep(0.005)
    return paid


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_uses_nothing_of_what_its_parent_has_and_both_keep_to_the_limit(
    tmp_path: Path,
) -> None:
    """In the middle of sending: the child is another process from then on, with a life and a share of its own."""
    store = FileStore(tmp_path / "shared.db", timeout=PATIENCE, poll_every=0.01)
    recovery = bot(tmp_path, store, "bot")

    async def before() -> tuple[int, int]:
        await seeded(store)
        await recovery.start()
        sent, paid = await sends(recovery, 5), await retries(recovery, 10_000, until=1)
        async with asyncio.timeout(PATIENCE):
            while recovery.get_health_status()["services"]["venue"]["retry_budget"] < 1:  # noqa: ASYNC110 - it comes from the store
                await asyncio.sleep(0.005)
        return sent, paid

    async def after() -> tuple[int, int]:
        # There is enough for both: neither waits for what the other one would have to give.
        return await sends(recovery, 10), await retries(recovery, 60)

    sent, paid = asyncio.run(before())
    assert (sent, paid) == (5, 1)

    def in_the_child() -> tuple[float, int, int]:
        budget = recovery.service("venue").plan.state.retry_budget
        assert budget is not None
        return budget.tokens, *asyncio.run(after())

    child = ForkedChild(in_the_child)
    own_sent, own_paid = asyncio.run(after())
    in_hand, child_sent, child_paid = child.answer()
    assert in_hand == 0.0
    assert (own_sent, child_sent) == (10, 10)
    rest = asyncio.run(sends_what_is_there(recovery))
    assert sent + own_sent + child_sent + rest <= LIMIT
    assert paid + own_paid + child_paid <= CAPACITY

    async def members() -> tuple[int, int]:
        limit, budget = await store.get("limits/venue"), await store.get("budgets/venue")
        assert limit is not None
        assert budget is not None
        await recovery.aclose()
        return len(LimitRecord.from_bytes(limit.value).members), len(
            BudgetRecord.from_bytes(budget.value).members
        )

    assert asyncio.run(members()) == (2, 2), "two processes, two lives"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_neither_owns_the_account_nor_has_the_journal_until_its_parent_gives_both_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it goes on from the same journal: it knows what its parent has sent, and has to look up nothing."""
    monkeypatch.setattr(ownership, "_LENGTH", 3600.0)  # however long this machine stands still meanwhile
    store = FileStore(tmp_path / "shared.db", timeout=PATIENCE, poll_every=0.01)
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", store=store, owns="account 7")
    venue, given_back = tmp_path / "venue", os.pipe()

    async def submit(key: str) -> str:
        with venue.open("a") as ledger:
            ledger.write(f"{key}\n")
        return f"placed {key}"

    async def find(key: str) -> LookUp[str]:
        raise AssertionError(f"{key} was looked up")

    async def order(key: str) -> str:
        orders = recovery.service("orders", effect="unsafe", max_retries=0)
        return await orders.once(key, confirm=find, key_argument="key").call(submit)

    async def beside_its_parent() -> list[str]:
        await recovery.start()
        refused = list[str]()
        for step in (order("K-2"), recovery._journal.take()):
            try:
                await step
            except (HaltedError, JournalLockedError) as error:
                refused.append(str(error))
        return refused

    async def after_its_parent() -> list[str]:
        await recovery.owned()
        with pytest.raises(OperationCompletedError) as known:
            await order("K-1")
        placed = [known.value.result, await order("K-2")]
        await recovery.aclose()
        return placed

    def after_a_word() -> list[str]:
        os.read(given_back[0], 1)
        return asyncio.run(after_its_parent())

    identity = identity_with(SYSTEM_FILES, tmp_path / "state" / "journal", "account 7")

    async def session() -> tuple[list[str], list[str], str]:
        known = json.dumps({"holder": "an earlier life", "journal": identity}).encode()
        await store.put("owned/account 7", known)
        await recovery.owned()
        await order("K-1")
        child, next_owner = ForkedChild(lambda: asyncio.run(beside_its_parent())), ForkedChild(after_a_word)
        refused = await asyncio.to_thread(child.answer)
        await order("K-0")
        await recovery.aclose()
        os.write(given_back[1], b"!")
        placed = await asyncio.to_thread(next_owner.answer)
        last = await store.get("owned/account 7")
        assert last is not None
        return refused, placed, json.loads(last.value)["journal"]

    refused, placed, journal = asyncio.run(session())
    for end in given_back:
        os.close(end)
    assert len(refused) == 2, "neither its parent's orders nor its parent's journal are the child's"
    assert "does not own 'account 7'" in refused[0]
    assert f"belongs to process {os.getpid()}" in refused[1]
    assert placed == ["placed K-1", "placed K-2"]
    assert venue.read_text().split() == ["K-1", "K-0", "K-2"]
    assert journal == identity, "it is the same one"


def test_a_fork_waits_for_the_end_of_a_step_of_the_file_store(tmp_path: Path) -> None:
    """Or the child would find the file locked for ever, by a thread that it does not have."""
    program = """
        import asyncio, os, sys, threading
        from shockproof import FileStore
        store = FileStore(sys.argv[1], timeout=60)
        asyncio.run(store.put("key", b"value"))
        begun, goes_on = threading.Event(), threading.Event()

        def step(database):
            begun.set()
            assert goes_on.wait(60)

        store._writer.submit(store._step, step)
        assert begun.wait(60)
        os.register_at_fork(before=goes_on.set)  # called before the library's own
        child = os.fork()
        if child == 0:
            print(asyncio.run(store.get("key")).value, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), str(tmp_path / "shared.db")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "b'value'\n", "")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_was_forked_in_the_middle_of_a_step_that_hangs_is_told_so_and_its_parent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs does not hold a fork up for ever; the child does not wait for what never comes."""
    monkeypatch.setattr(fork_barrier, "_PATIENCE", 0.0)
    store = FileStore(tmp_path / "shared.db", timeout=PATIENCE)
    asyncio.run(store.put("key", b"value"))
    begun, goes_on = threading.Event(), threading.Event()

    def step(_database: object) -> bool:
        begun.set()
        return goes_on.wait(PATIENCE)

    def in_the_child() -> str:
        with pytest.raises(StoreUnavailableError) as refused:
            asyncio.run(store.get("key"))
        return str(refused.value)

    hangs = store._writer.submit(store._step, step)
    assert begun.wait(PATIENCE)
    child = ForkedChild(in_the_child)
    goes_on.set()

    assert "this process was forked while" in child.answer()
    assert hangs.result(PATIENCE)
    assert asyncio.run(store.get("key")) is not None


def test_nobody_enters_what_a_fork_waits_for() -> None:
    """Else many threads that take turns would keep it waiting."""
    barrier, happened = ForkBarrier(), list[str]()

    def forks() -> None:
        barrier._before()
        happened.append("forked")
        barrier._in_the_parent()

    def enters() -> None:
        with barrier:
            happened.append("entered")

    with ThreadPoolExecutor(2) as threads:
        with barrier:
            fork = threads.submit(forks)
            while not barrier._forks:
                time.sleep(0)
            entrance = threads.submit(enters)
            while len(barrier._changed._waiters) < 2 and not happened:  # type: ignore[attr-defined]  # those who wait
                time.sleep(0)
        fork.result(PATIENCE)
        entrance.result(PATIENCE)
    assert happened == ["forked", "entered"]


def test_loops_in_several_threads_are_one_process_and_go_on_when_the_first_loop_has_ended(
    tmp_path: Path,
) -> None:
    """One lease, one share, whichever loop asks; the task that keeps them moves to a loop that lives."""
    store = MemoryStore()
    recovery = bot(tmp_path, store, "bot")
    both_run, first_is_over = threading.Barrier(2, timeout=PATIENCE), threading.Event()

    async def members() -> tuple[int, int]:
        limit, budget = await store.get("limits/venue"), await store.get("budgets/venue")
        assert limit is not None
        assert budget is not None
        return len(LimitRecord.from_bytes(limit.value).members), len(
            BudgetRecord.from_bytes(budget.value).members
        )

    async def first() -> None:
        await recovery.start()
        both_run.wait()
        await sends(recovery, 10)

    async def second() -> tuple[int, tuple[int, int]]:
        both_run.wait()
        await sends(recovery, 5)
        await asyncio.to_thread(first_is_over.wait, PATIENCE)
        await sends(recovery, LIMIT - 15)
        with pytest.raises((RateLimitedError, DeadlineExceededError)):
            await recovery.service("venue", max_retries=0, deadline=0.5).call(asyncio.sleep, 0)
        paid = await retries(recovery, 10_000)
        assert await retries(recovery, 20) == 0
        alive = await members()
        await recovery.aclose()
        return paid, alive

    asyncio.run(seeded(store))
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.submit(asyncio.run, first()), threads.submit(asyncio.run, second())
        one.result(PATIENCE)
        first_is_over.set()
        paid, alive = other.result(PATIENCE)
    assert paid == CAPACITY
    assert alive == (1, 1)


def test_a_call_that_waits_on_another_loop_is_not_forgotten_when_the_loop_that_asks_for_it_ends(
    tmp_path: Path,
) -> None:
    """Its own loop asks from then on: else it would wait for ever for a share that nobody fetches."""
    store = MemoryStore()  # of which nothing is to be had for an hour: it is new
    recovery = bot(tmp_path, store, "bot")
    has_started, waits = threading.Event(), threading.Event()

    async def first() -> None:
        await recovery.start()
        has_started.set()
        await asyncio.to_thread(waits.wait, PATIENCE)

    async def second() -> None:
        assert recovery._fleet is not None
        shared = recovery._fleet._limits["venue"]
        waiting = asyncio.create_task(sends(recovery, 1))
        async with asyncio.timeout(PATIENCE):
            while not recovery.get_health_status()["services"]["venue"]["queued"]:  # noqa: ASYNC110 - one moment
                await asyncio.sleep(0)
            assert shared._task is not None
            assert shared._task.get_loop() is not asyncio.get_running_loop()
            waits.set()
            while shared._task is None or shared._task.get_loop() is not asyncio.get_running_loop():  # noqa: ASYNC110 - another thread's
                await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await recovery.aclose()

    with ThreadPoolExecutor(1) as threads:
        one = threads.submit(asyncio.run, first())
        assert has_started.wait(PATIENCE)
        asyncio.run(second())
        one.result(PATIENCE)


def test_a_loop_that_closes_what_another_loop_runs_has_it_ended_there_and_given_back(tmp_path: Path) -> None:
    """The owner of an account runs in a thread, and the program ends in another: the account is free at once."""
    store = MemoryStore()
    recovery = ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", store=store, owns="account 7", process_name="bot"
    )
    recovery.service("venue", shared=True, rate_limit=f"{LIMIT}/h", circuit_threshold=None)
    owns, is_over = threading.Event(), threading.Event()

    async def runs() -> None:
        await store.put(
            "owned/account 7", marked(b'{"journal": ""}', await store.era())
        )  # or the first one waits
        await recovery.start()
        await recovery.owned()
        owns.set()
        await asyncio.to_thread(is_over.wait, PATIENCE)
        assert not [one for one in asyncio.all_tasks() if one.get_name().startswith("shockproof")]

    async def ends() -> None:
        assert await store.get("lease/owner of account 7") is not None
        await recovery.aclose()
        assert await store.get("lease/owner of account 7") is None
        assert not await store.entries("lease/limits/venue/bot/")

    with ThreadPoolExecutor(1) as threads:
        one = threads.submit(asyncio.run, runs())
        try:
            assert owns.wait(PATIENCE)
            asyncio.run(ends())
        finally:
            is_over.set()
        one.result(PATIENCE)


def test_two_loops_that_need_the_same_task_at_the_same_moment_begin_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them would renew two leases, and count one process twice."""
    recovery = bot(tmp_path, MemoryStore(), "bot")
    assert recovery._fleet is not None
    shared = recovery._fleet._limits["venue"]
    has_looked, second_begins = threading.Event(), threading.Event()
    is_alive = background_task.is_alive

    def looks(task: asyncio.Task[None] | None) -> bool:
        found = is_alive(task)
        if not has_looked.is_set():
            has_looked.set()
            second_begins.wait(0.3)  # it does only where nothing keeps it from that
        return found

    monkeypatch.setattr(background_task, "is_alive", looks)

    async def first() -> object:
        shared.ensure()
        task = shared._task
        await asyncio.to_thread(second_begins.wait, PATIENCE)
        return task

    async def second() -> object:
        assert has_looked.wait(PATIENCE)
        shared.ensure()
        task = shared._task
        second_begins.set()
        return task

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.submit(asyncio.run, first()), threads.submit(asyncio.run, second())
        assert one.result(PATIENCE) is other.result(PATIENCE)

"""A retry budget that several processes share: every retry was paid for, on virtual time, through whatever befalls the store."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shockproof import ErrorRecoveryService, MemoryStore, RetryBudget
from shockproof.memory.fleet.marked import marked, unmarked
from shockproof.memory.fleet.shared_budget import SharedBudget
from shockproof.policies.fleet_budget import BudgetRecord
from shockproof.testing import VirtualClock
from tests.memory.fleet.lossy_store import LossyStore, Server

FORGOTTEN_AFTER = 17.0
"""Seconds after which a new store's budget is there: the lease for those that it has forgotten, and then a round."""


class Bot:
    """One process: it is told what its calls come to."""

    def __init__(
        self, desk: Desk, name: str, store: LossyStore, seed: int, capacity: float, per_success: float
    ) -> None:
        self.desk = desk
        self.store = store
        self.budget = RetryBudget(capacity=capacity, per_success=per_success)
        self.shared = SharedBudget(
            store, self.budget, "venue", name, clock=desk.clock, rng=random.Random(seed)
        )
        self.shared.ensure()

    def retries(self, times: int = 1, cost: float = 1.0) -> int:
        """How many of so many retries are paid for."""
        paid = sum(self.budget.take(cost) for _ in range(times))
        self.desk.spent += paid * cost
        return paid

    def succeeds(self, times: int = 1) -> None:
        for _ in range(times):
            self.budget.succeeded()
        self.desk.earned += times * self.budget.per_success

    async def retries_for(self, seconds: float, apart: float = 0.1) -> int:
        paid = 0
        for _ in range(round(seconds / apart)):
            paid += self.retries()
            await asyncio.sleep(apart)
        return paid

    def crash(self) -> None:
        """Without a word to anybody."""
        self.shared.pause()
        self.budget._receive(0.0, 0.0, 0.0)


class Desk:
    """Bots on one store, and the books about all of them."""

    def __init__(self, clock: VirtualClock, capacity: float = 10.0) -> None:
        self.clock = clock
        self.capacity = capacity
        self.server = Server(clock)
        self.spent = 0.0
        self.earned = 0.0
        self.begun = 1
        """How often a budget began: with the first store, and with each that had lost its data."""
        self.bots: list[Bot] = []

    async def is_full(self) -> Desk:
        inner = self.server.inner
        record = BudgetRecord({}, self.capacity).to_bytes()
        await inner.put("budgets/venue", marked(record, await inner.era()))
        return self

    def join(
        self,
        *,
        capacity: float | None = None,
        per_success: float = 0.1,
        delay: float = 0.0,
        loss: float = 0.0,
    ) -> Bot:
        number = len(self.bots)
        store = LossyStore(self.server, number, delay=delay, loss=loss)
        told = self.capacity if capacity is None else capacity
        self.bots.append(Bot(self, f"bot-{number}", store, number, told, per_success))
        return self.bots[-1]

    @property
    def in_hand(self) -> float:
        return sum(bot.budget.tokens for bot in self.bots)

    @property
    def is_paid_for(self) -> bool:
        return self.spent <= self.capacity * self.begun + self.earned + 1e-6

    async def close(self) -> None:
        for bot in self.bots:
            await bot.shared.aclose()


@pytest.mark.asyncio
async def test_a_fleet_has_one_budget_and_the_one_that_needs_it_gets_what_the_others_do_not(
    clock: VirtualClock,
) -> None:
    """What is spent in one process is not there in another; what idle ones had ahead of need comes to the busy one."""
    desk = await Desk(clock).is_full()
    bots = [desk.join(delay=0.005) for _ in range(10)]
    await asyncio.sleep(1.0)
    assert desk.in_hand == pytest.approx(10.0), "one ahead of need for each"
    assert await bots[0].retries_for(20.0) >= 9
    assert desk.spent <= 10.0
    assert await bots[1].retries_for(10.0) + await bots[2].retries_for(10.0) <= 10.0 - desk.spent + 2
    assert desk.is_paid_for
    await desk.close()


@pytest.mark.asyncio
async def test_successes_in_one_process_pay_for_retries_in_another(clock: VirtualClock) -> None:
    """One budget for the account: the dependency's successes fund it, whoever made the calls."""
    desk = await Desk(clock).is_full()
    healthy, failing = desk.join(), desk.join()
    await asyncio.sleep(1.0)
    await failing.retries_for(20.0)
    before = desk.spent
    assert await failing.retries_for(10.0) == 0
    healthy.succeeds(50)
    assert await failing.retries_for(10.0) >= 4
    assert desk.spent - before <= 5.0 + 1e-6
    await desk.close()


@pytest.mark.asyncio
async def test_a_process_with_its_own_successes_asks_nobody_and_nothing_grows_beyond_the_capacity(
    clock: VirtualClock,
) -> None:
    """In calm the store is asked for renewals, and not for calls."""
    desk = await Desk(clock).is_full()
    bots = [desk.join() for _ in range(3)]
    await asyncio.sleep(30.0)
    before = sum(bot.store.steps for bot in bots)
    for _ in range(600):
        for bot in bots:
            bot.succeeds(100)
        await asyncio.sleep(0.1)
    assert sum(bot.store.steps for bot in bots) - before <= 3 * 13 * 3
    entry = await desk.server.inner.get("budgets/venue")
    assert entry is not None
    record = unmarked(entry.value, await desk.server.inner.era())
    assert record is not None
    assert BudgetRecord.from_bytes(record).tokens + desk.in_hand <= 10.0 + 1e-6
    await desk.close()


@pytest.mark.asyncio
async def test_without_the_store_each_spends_what_it_has_and_earns_no_more_than_that_again(
    clock: VirtualClock,
) -> None:
    """Conservative, and still alive; afterwards all is one again."""
    desk = await Desk(clock).is_full()
    bots = [desk.join() for _ in range(2)]
    await asyncio.sleep(1.0)
    desk.server.is_down = True
    desk.server.cut_off()
    assert await bots[0].retries_for(30.0) == 1
    bots[0].succeeds(100)
    assert bots[0].budget.tokens == 1.0
    assert await bots[0].retries_for(30.0) == 1
    desk.server.is_down = False
    await asyncio.sleep(20.0)
    assert await bots[0].retries_for(20.0) > 8
    assert desk.is_paid_for
    await desk.close()


@pytest.mark.asyncio
async def test_a_store_that_is_new_or_came_back_empty_gives_nothing_until_all_must_have_come_again(
    clock: VirtualClock,
) -> None:
    """Those who were there keep what they have; the rest of the budget is there when nobody can be missing any more."""
    desk = Desk(clock)
    bot = desk.join()
    await asyncio.sleep(1.0)
    assert bot.retries() == 0
    await asyncio.sleep(FORGOTTEN_AFTER + 5.0)
    assert bot.retries() == 1
    await asyncio.sleep(5.0)
    had = bot.budget.tokens
    assert had >= 1.0
    desk.server.restart()
    late = desk.join()
    await asyncio.sleep(3.0)
    assert bot.budget.tokens == had
    assert late.retries() == 0
    await asyncio.sleep(FORGOTTEN_AFTER)
    assert late.retries() == 1
    await desk.close()


@pytest.mark.asyncio
async def test_what_a_process_had_is_there_for_the_others_when_it_ends_and_lost_when_it_dies(
    clock: VirtualClock,
) -> None:
    """Nobody knows whether the dead one has spent it: a process that crashes again and again does not pay for retries."""
    desk = await Desk(clock).is_full()
    peaceful, dead, other = [desk.join() for _ in range(3)]
    await asyncio.sleep(1.0)
    await peaceful.shared.aclose()
    assert peaceful.retries() == 0
    dead.crash()
    await asyncio.sleep(60.0)
    assert await other.retries_for(60.0) == 9
    await desk.close()


@pytest.mark.asyncio
async def test_of_two_capacities_the_lower_one_holds_and_health_says_so(clock: VirtualClock) -> None:
    """Until who was told it has gone."""
    desk = await Desk(clock).is_full()
    high, low = desk.join(), desk.join(capacity=4.0)
    await asyncio.sleep(30.0)
    assert (
        high.shared.mismatch
        == "'bot-1' was told a capacity of 4 and this process 10: the lower one holds until both are given the same"
    )
    assert "a capacity of 10 and this process 4" in str(low.shared.health["mismatch"])
    assert await high.retries_for(60.0) <= 4
    await low.shared.aclose()
    await asyncio.sleep(10.0)
    assert high.shared.mismatch is None
    await desk.close()


@pytest.mark.asyncio
async def test_what_is_no_budget_is_told_and_replaced(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else's value under the key stops nothing."""
    desk = Desk(clock)
    for wrong in (
        b"[]",
        b'{"tokens": -1, "earlier": null, "members": {}}',
        b'{"tokens": 1, "earlier": 7, "members": {}}',
    ):
        with pytest.raises(ValueError, match=r"^(TypeError: |-1 is no amount|7 is no lease)"):
            BudgetRecord.from_bytes(wrong)
    inner = desk.server.inner
    await inner.put("budgets/venue", marked(b"nonsense", await inner.era()))
    bot = desk.join()
    await asyncio.sleep(FORGOTTEN_AFTER + 5.0)
    assert "what stands under 'budgets/venue'" in caplog.text
    assert bot.retries() == 1
    await desk.close()


@pytest.mark.asyncio
async def test_services_of_two_processes_have_one_budget_by_its_name(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """Several services of each, one object; health and the saved state know that it is not the process's own."""
    store = MemoryStore(clock=clock)
    await store.put("budgets/account 7", BudgetRecord({}, 3.0).to_bytes())
    bots = []
    for name in ("a", "b"):
        budget = RetryBudget(capacity=3.0, name="account 7")
        recovery = ErrorRecoveryService(
            tmp_path / name / "state", tmp_path / name / "errors", store=store, process_name=name, clock=clock
        )
        for service in ("orders", "market"):
            recovery.service(service, shared=True, retry_budget=budget, circuit_threshold=None)
        await recovery.start()
        bots.append(recovery)
    attempts = 0

    async def fails() -> None:
        nonlocal attempts
        attempts += 1
        raise ConnectionError("reset")

    for _ in range(5):
        for recovery in bots:
            for service in ("orders", "market"):
                with pytest.raises(ConnectionError):
                    await recovery.service(service, max_retries=5, base_delay=0.1).call(fails)
    assert attempts == 20 + 3
    await asyncio.sleep(20.0)  # until what was spent is known
    health = bots[0].get_health_status()
    assert health["shared"]["budgets"] == {
        "account 7": {"processes": 2, "in_hand": 0.0, "left": 0.0, "mismatch": None}
    }
    assert health["services"]["orders"]["retry_budget"] == 0.0
    await bots[0].save_state(force=True)
    assert "retry_budgets" not in (tmp_path / "a" / "state" / "system_state.json").read_text()
    assert bots[0].retire_service("orders")
    assert bots[0].retire_service("market")
    for recovery in bots:
        await recovery.aclose()


def test_a_budget_that_nobody_could_know_by_the_same_name_is_refused(tmp_path: Path) -> None:
    """With the way out."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", store=MemoryStore())
    budget = RetryBudget()
    recovery.service("orders", shared=True, retry_budget=budget)
    recovery.service("orders", shared=True, retry_budget=budget)
    with pytest.raises(
        ValueError, match=r'pays for another shared service, too.*RetryBudget\(name="account 7"\)'
    ):
        recovery.service("market", shared=True, retry_budget=budget)
    with pytest.raises(ValueError, match="another RetryBudget is shared as 'orders' already"):
        recovery.service("history", shared=True, retry_budget=RetryBudget(name="orders"))
    other = ErrorRecoveryService(tmp_path / "state2", tmp_path / "errors2", store=MemoryStore())
    with pytest.raises(ValueError, match="that of another recovery service"):
        other.service("orders", shared=True, retry_budget=budget)
    with pytest.raises(ValueError, match="name must"):
        RetryBudget(name="")


EVENTS = st.lists(
    st.tuples(
        st.floats(0.0, 10.0),
        st.sampled_from(
            [
                "join",
                "crash",
                "close",
                "restart",
                "writes down",
                "goes back",
                "down",
                "up",
                "spend",
                "spend",
                "earn",
                "cut",
            ]
        ),
        st.integers(0, 5),
    ),
    max_size=15,
)


@settings(max_examples=40, deadline=None)
@given(
    capacity=st.sampled_from([2.0, 10.0, 60.0]),
    count=st.integers(1, 4),
    delay=st.sampled_from([0.0, 0.05, 0.8]),
    loss=st.sampled_from([0.0, 0.1, 0.4]),
    events=EVENTS,
)
def test_whatever_happens_every_retry_was_paid_for(
    capacity: float, count: int, delay: float, loss: float, events: list[tuple[float, str, int]]
) -> None:
    """Late and lost answers, crashes, joins, a store that is down or comes back empty: the books decide."""
    clock = VirtualClock()

    async def history() -> None:
        desk = await Desk(clock, capacity).is_full()
        for _ in range(count):
            desk.join(delay=delay, loss=loss)
        for after, what, number in [*events, (40.0, "spend", 0)]:
            await asyncio.sleep(after)
            bot = desk.bots[number % len(desk.bots)]
            weather: dict[str, Any] = {"delay": delay, "loss": loss}
            if what == "join":
                desk.join(**weather)
            elif what == "crash":
                bot.crash()
            elif what == "close":
                await bot.shared.aclose()
            elif what == "restart":
                desk.server.restart()
                desk.begun += 1
            elif what == "writes down":
                await desk.server.inner.writes_down()
            elif what == "goes back":
                await desk.server.goes_back()
                desk.begun += 1
            elif what in {"down", "up"}:
                desk.server.is_down = what == "down"
            elif what == "cut":
                desk.server.cut_off()
            elif what == "spend":
                for _ in range(20):
                    bot.retries(2)
                    await asyncio.sleep(0.05)
            else:
                for _ in range(10):
                    bot.succeeds(20)
                    await asyncio.sleep(0.05)
            assert desk.is_paid_for
        desk.server.is_down = False
        await asyncio.sleep(60.0)
        for bot in desk.bots:
            bot.retries(100)
        assert desk.is_paid_for
        for bot in desk.bots:
            bot.shared.pause()

    clock.run(history())

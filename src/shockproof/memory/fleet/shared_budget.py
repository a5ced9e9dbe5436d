"""
One retry budget for all processes that share a store: fetched ahead, never waited for.

What this process has in hand it may spend whether the store answers or not, and what it earns goes on filling its hand up
to that. Nothing of it is ever in two hands: who does not know whether the store has done something counts on the less.
"""

from __future__ import annotations

from typing import Any, Final

from shockproof.memory.fleet.shared_record import (
    CONFLICT_APART,
    LIFE,
    ROUND,
    SharedRecord,
    process_of,
)
from shockproof.memory.fleet.shared_watch import SharedWatch
from shockproof.memory.stores.lease import LEASE_MARGIN
from shockproof.memory.stores.state_store import StateStore
from shockproof.policies.backoff import Randomness
from shockproof.policies.fleet_budget import BudgetPlan, BudgetRecord, FleetBudget, InHand, Settled
from shockproof.policies.retry_budget import RetryBudget
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import StoreConflictError

__all__ = ["BUDGETS", "SharedBudget"]

BUDGETS: Final = "budgets/"
_NEEDED_FOR: Final = 5.0
"""Seconds for which a retry that was refused is taken for one of many."""
_NEWS_APART: Final = 0.1
"""Seconds, at random, in which those who could help look at who is short: nobody waits, and one of them may be enough."""


class SharedBudget(SharedRecord):
    """
    What this process has in hand of *budget*. Until the store has been asked for the first time it is nothing.

    Args:
        store: what the processes share.
        budget: what pays for retries here.
        name: under which the others have it, too.
        process: the name of this one, to be shown.
        clock: by what this process counts.
        rng: what spreads the requests of many.
        watch: as of every shared record.
    """

    def __init__(
        self,
        store: StateStore,
        budget: RetryBudget,
        name: str,
        process: str,
        *,
        clock: Clock,
        rng: Randomness,
        watch: SharedWatch | None = None,
    ) -> None:
        what = f"the shared retry budget {name!r}"
        super().__init__(store, BUDGETS + name, what, process, clock=clock, rng=rng, watch=watch)
        self.budget = budget
        self._fleet: FleetBudget | None = None
        self._refused, self._refused_at = 0.0, 0.0
        self._spent, self._spent_before = 0.0, 0.0
        budget._share(self.is_short)

    @property
    def is_used(self) -> bool:
        """Always: there is a budget."""
        return True

    @property
    def health(self) -> dict[str, Any]:  # Any: JSON
        """How many processes share the budget, what this one has in hand, and what all have, as far as is known."""
        fleet = self._fleet
        members = {} if fleet is None else fleet.record.members
        return {
            "processes": len(members.keys() - self._dead),
            "in_hand": round(self.budget.tokens, 3),
            "left": round(self.budget.left, 3),
            "mismatch": self.mismatch,
        }

    # -- the record --------------------------------------------------------------------------------------

    @property
    def _version(self) -> int | None:
        return None if self._fleet is None else self._fleet.version

    @property
    def _length(self) -> float:
        return LIFE / (1 - LEASE_MARGIN)

    def in_the_child(self) -> None:
        """What the parent has in hand it goes on spending; the child begins with nothing."""
        super().in_the_child()
        self.budget._in_the_child()

    def _orphaned(self) -> None:
        """Nobody waits for a retry; the next call starts the task again."""

    def _forget(self) -> None:
        self._lease, self._fleet = None, None

    async def _leave(self) -> None:
        lease, fleet = self._lease, self._fleet
        self._forget()
        hand = self.budget._in_hand()
        self.budget._share(self.is_short)
        if lease is None or fleet is None:
            return
        await self._put(fleet.leaving(hand), fleet.version, lease)
        await lease.release()

    async def _turn(self) -> float:
        lease, fleet, is_round = self._lease, self._fleet, False
        if lease is None or fleet is None:
            lease = await self._join()
            fleet = FleetBudget(lease.name, self.budget.capacity)
            self._lease, self._fleet = lease, fleet
            is_round = True
        elif self._clock.monotonic() >= self._round_at:
            is_round = True
            if not await lease.renew():
                return self._lost()
            self._round_at = self._clock.monotonic() + ROUND
            self._spent_before, self._spent = self._spent, 0.0
        if self._has_news and not is_round:
            await self._clock.sleep(_NEWS_APART * self._rng.random())
        if is_round or self._has_news:
            await self._look(fleet)
        if is_round:
            known = {*fleet.record.members}
            if fleet.record.earlier is not None:
                known.add(fleet.record.earlier)
            await self._look_for_the_dead(known, lease)
        while (plan := self._plan(fleet, is_round=is_round)) is not None:
            record = plan.record
            assert record is not None
            read = fleet.version
            fleet.putting(plan)
            self._settle(fleet, Settled())
            try:
                version = await self._put(record, read, lease)
            except StoreConflictError:
                self._settle(fleet, fleet.refused(plan))
                await self._clock.sleep(CONFLICT_APART * self._rng.random())
                await self._look(fleet)
                if fleet.version == read and not await lease.renew():
                    return self._lost()
            else:
                self._settle(fleet, fleet.put(plan, version))
                is_round = False
        return self._round_at

    def _plan(self, fleet: FleetBudget, *, is_round: bool) -> BudgetPlan | None:
        """What is to be put, with what it takes out of the hand taken; None: nothing."""
        fleet.capacity = self.budget.capacity
        while True:
            plan = fleet.plan(self._hand(), self._dead, is_round=is_round)
            if plan.record is None or self.budget._hand_over(plan.out, plan.brought):
                break
        self._differs(
            None
            if plan.other is None
            else f"{process_of(plan.other.member)!r} was told a capacity of {plan.other.theirs:g} and this process "
            f"{self.budget.capacity:g}: the lower one holds until both are given the same"
        )
        return None if plan.record is None else plan

    def _hand(self) -> InHand:
        now, hand = self._clock.monotonic(), self.budget._in_hand()
        if hand.refused:
            self._refused, self._refused_at = hand.refused, now
        elif now - self._refused_at >= _NEEDED_FOR:
            self._refused = 0.0
        self._spent += hand.spent
        return hand._replace(refused=self._refused, spent=self._spent + self._spent_before)

    def _settle(self, fleet: FleetBudget, settled: Settled) -> None:
        self.budget._receive(settled.gain, settled.back, fleet.most)
        self.budget._elsewhere = fleet.elsewhere(self._dead)

    def _lost(self) -> float:
        """The store knows the lease no more: what is in hand is brought along into the next life."""
        self._forget()
        return self._clock.monotonic()

    async def _look(self, fleet: FleetBudget) -> None:
        """Read the record; where there is none, begin one that has nothing to give before those that are forgotten are over."""
        read = await self._read(BudgetRecord.from_bytes, lambda earlier: BudgetRecord({}, earlier=earlier))
        self._settle(fleet, fleet.learned(*read))

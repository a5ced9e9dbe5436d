"""
One service's rate limit, divided among the processes that share a store: fetched ahead, never waited for.

Each life of a process has a lease in the store that outlasts the longest window. Its holder sends only as long as the
lease holds for a whole window more, by its own clock from before it asked; when the store has let the lease go, nothing that
its holder sent is in any window any more, and its share is free. Where the record is missing, a lease that nobody renews
stands for those whom the store has forgotten, and has all of the limit until it is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

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
from shockproof.policies.fleet_limit import (
    Demand,
    FleetLimit,
    LimitMember,
    LimitRecord,
    OtherRate,
    Plan,
    key_of,
)
from shockproof.policies.rate_limit import Rate
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import StoreConflictError

__all__ = ["LIMITS", "Divided", "SharedLimit"]

LIMITS: Final = "limits/"
_LEAVES_EVERY: Final = 50
"""In so many parts of a window it is looked whether enough has left it for a share to go to others."""


class Divided(Protocol):
    """What is divided: the rolling windows of one service, and the queue in front of them. From any thread."""

    def allow(self, shares: Mapping[Rate, int], limits: Mapping[Rate, int]) -> None:
        """
        Send no more than this from now on, and wake who fits in.

        *limits*: what all processes together may send at most, where that is less than what this one was told.
        """
        ...

    def demand(self) -> tuple[dict[Rate, int], dict[Rate, int], int, bool]:
        """What was sent, what the next call needs, how many wait, and whether anything was sent since."""
        ...

    def orphaned(self) -> None:
        """Nobody keeps up the share any more: have the loop of the call that waits do it, if there is one."""
        ...


class SharedLimit(SharedRecord):
    """
    The share of this process. Until the store has been asked, and where it cannot be, nothing is sent.

    Args:
        store: what the processes share.
        service: whose rate limit it is.
        process: the name of this one, to be shown.
        clock: by what this process counts.
        rng: what spreads the requests of many.
        watch: as of every shared record.
    """

    def __init__(
        self,
        store: StateStore,
        service: str,
        process: str,
        *,
        clock: Clock,
        rng: Randomness,
        watch: SharedWatch | None = None,
    ) -> None:
        what = f"the shared rate limit of {service!r}"
        super().__init__(store, LIMITS + service, what, process, clock=clock, rng=rng, watch=watch)
        self._divided: Divided | None = None
        self._rates: tuple[Rate, ...] = ()
        self._limits: dict[str, int] = {}
        self._longest = 0.0
        self._fleet: FleetLimit | None = None
        self._has_sent = False
        self._is_contested = False
        self.may_grow = True
        """Whether a larger share is to be had soon, as far as is known: then it is worth waiting for."""

    # -- told by the queue, from any thread --------------------------------------------------------------

    def divide(self, divided: Divided, rates: tuple[Rate, ...]) -> None:
        """These are the rates, and who waits for them, from now on."""
        self._divided = divided
        # Of several that count the same in the same time the lowest decides.
        self._limits = {key_of(rate): rate.limit for rate in sorted(rates, reverse=True)}
        self._longest = max([self._longest, *(rate.seconds for rate in rates)])
        self._rates = rates
        self._wake()

    @property
    def is_certain(self) -> bool:
        """Whether everything that is sent now will have left every window before the lease is over."""
        lease = self._lease
        return lease is not None and lease.remaining > self._longest

    @property
    def _length(self) -> float:
        return (LIFE + self._longest) / (1 - LEASE_MARGIN)

    def sent(self) -> None:
        """Something was sent: where others are short, that is news to them."""
        if self._is_contested:
            self.is_short()

    @property
    def is_used(self) -> bool:
        """Whether the service has a rate limit."""
        return self._divided is not None

    @property
    def health(self) -> dict[str, Any]:  # Any: JSON
        """How many processes share the limit, as far as is known, and whether this one may send of its share."""
        fleet = self._fleet
        members = {} if fleet is None else fleet.record.members
        living = [name for name, one in members.items() if one.wants and name not in self._dead]
        return {"processes": len(living), "is_certain": self.is_certain, "mismatch": self.mismatch}

    # -- the record --------------------------------------------------------------------------------------

    @property
    def _version(self) -> int | None:
        return None if self._fleet is None else self._fleet.version

    async def _leave(self) -> None:
        divided, lease, fleet = self._divided, self._lease, self._fleet
        self._forget()
        if divided is None or lease is None or fleet is None:
            return
        divided.allow({}, {})
        left = fleet.leaving(self._by_key(divided.demand()[0]))
        await self._put(left, fleet.version, lease)
        if fleet.me not in left.members:
            await lease.release()

    async def _turn(self) -> float:
        divided = self._divided
        assert divided is not None
        lease, fleet, is_round = self._lease, self._fleet, False
        # A lease of before a longer window came would be over before what is sent now has left that.
        if lease is None or fleet is None or lease.seconds < self._length:
            lease = await self._join()
            fleet = FleetLimit(lease.name, self._limits)
            self._lease, self._fleet = lease, fleet
            is_round = True
        elif self._clock.monotonic() >= self._round_at:
            is_round = True
            if not await lease.renew():
                return self._lost(divided)
            self._round_at = self._clock.monotonic() + ROUND
        if is_round or self._has_news:
            await self._look(fleet)
        if is_round:
            await self._look_for_the_dead(fleet.record.members.keys(), lease)
        while (plan := self._plan(fleet, divided, is_round=is_round)).record is not None:
            fleet.putting(plan)
            known = fleet.version
            try:
                version = await self._put(plan.record, known, lease)
            except StoreConflictError:
                await self._clock.sleep(CONFLICT_APART * self._rng.random())
                await self._look(fleet)
                if fleet.version == known and not await lease.renew():
                    return self._lost(divided)
            else:
                fleet.put(plan, version)
                is_round = False
        if not plan.gives_later:
            return self._round_at
        shortest = min(rate.seconds for rate in self._rates)
        return min(self._round_at, self._clock.monotonic() + min(1.0, shortest / _LEAVES_EVERY))

    def _plan(self, fleet: FleetLimit, divided: Divided, *, is_round: bool) -> Plan:
        fleet.limits, rates = self._limits, self._rates
        sent, needs, waiting, has_sent = divided.demand()
        while True:
            self._has_sent |= has_sent
            needed = self._by_key(needs)
            every = {key: count * waiting for key, count in needed.items()}
            plan = fleet.plan(
                Demand(self._by_key(sent), needed, every, self._has_sent), self._dead, is_round=is_round
            )
            self._is_contested, self.may_grow = plan.is_contested, plan.may_grow
            divided.allow(
                {rate: plan.allowed.get(key_of(rate), 0) for rate in rates},
                {rate: plan.limits[key_of(rate)] for rate in rates if key_of(rate) in plan.limits},
            )
            # Somebody may have sent in between, from another thread or because it was allowed to.
            before = sent, needs, waiting
            sent, needs, waiting, has_sent = divided.demand()
            if (sent, needs, waiting) == before and not has_sent:
                break
        if plan.record is not None:
            self._has_sent = False
        self._differs(None if plan.other is None else _told(plan.other))
        return plan

    def _lost(self, divided: Divided) -> float:
        """The store knows the lease no more: whoever comes next may count on nothing being sent here."""
        self._forget()
        divided.allow({}, {})
        return self._clock.monotonic()

    def _forget(self) -> None:
        self._lease, self._fleet = None, None

    def _orphaned(self) -> None:
        if self._divided is not None:
            self._divided.orphaned()

    async def _look(self, fleet: FleetLimit) -> None:
        """Read the record; where there is none, begin one in which those that are forgotten have everything."""
        fleet.learned(
            *await self._read(
                LimitRecord.from_bytes,
                lambda earlier: LimitRecord({earlier: LimitMember(0, self._limits)}),
            )
        )

    def _by_key(self, amounts: Mapping[Rate, int]) -> dict[str, int]:
        return {key_of(rate): count for rate, count in amounts.items()}


def _told(other: OtherRate) -> str:
    name, _, seconds = other.key.rpartition("/")
    who, theirs = repr(process_of(other.member)), other.theirs
    if theirs is None:
        return f"{who} was not told of {other.ours} {name} in {seconds} s, which this process keeps to"
    if other.ours is None:
        return f"{who} was told of {theirs} {name} in {seconds} s, which this process does not know: give both the same rates"
    return (
        f"{who} was told {theirs} {name} in {seconds} s and this process {other.ours}: "
        f"the lower one holds until both are given the same"
    )

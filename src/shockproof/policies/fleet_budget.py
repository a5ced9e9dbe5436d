"""
How the processes that call one dependency share the retries that its successes pay for.

What nobody has yet is in the record; what a process has in hand it takes out of there ahead of need, a block at a time, and
what its calls earn beyond that it brings in. All together never have more than the capacity, and each retry was paid for: by
a success somewhere, or by what the budget began with.

Who finds too little says how much it lacks. The others then bring in what they have, as far as they do not need it
themselves: an outage is where one process retries, and others do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

__all__ = ["BudgetMember", "BudgetPlan", "BudgetRecord", "FleetBudget", "InHand", "OtherCapacity", "Settled"]

_BLOCKS: Final = 20
_ROUNDING: Final = 1e-9
_LEAST: Final = 1.0
"""What is worth a step between two rounds: a retry."""


class BudgetMember(NamedTuple):
    """What stands in the record about one life of one process."""

    has: float = 0.0
    """The most that it may have in hand."""
    lacks: float = 0.0
    """How much more it needs, since a retry was refused."""
    capacity: float = 0.0
    """What it was told that all may have together."""
    turn: int = 0
    """The number of its last put: so it knows which of those whose answer was lost was done."""


class BudgetRecord(NamedTuple):
    """What stands in the store about one budget."""

    members: Mapping[str, BudgetMember]
    tokens: float = 0.0
    """What nobody has in hand."""
    earlier: str | None = None
    """The lease for those that the store has forgotten; when it is over, what none of the members has is there for all."""

    def to_bytes(self) -> bytes:
        """As JSON; `from_bytes` reads it."""
        members = {name: list(one) for name, one in self.members.items()}
        return json.dumps({"tokens": self.tokens, "earlier": self.earlier, "members": members}).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> BudgetRecord:
        """
        What `to_bytes` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            fields = json.loads(value)
            members = {
                str(name): BudgetMember(_amount(has), _amount(lacks), _amount(capacity), _whole(turn))
                for name, (has, lacks, capacity, turn) in fields["members"].items()
            }
            earlier = fields["earlier"]
            if earlier is not None and not isinstance(earlier, str):
                raise ValueError(f"{earlier!r} is no lease")
            return cls(members, _amount(fields["tokens"]), earlier)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def _amount(value: Any) -> float:  # Any: JSON
    if type(value) not in {int, float} or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is no amount")
    return float(value)


def _whole(value: Any) -> int:  # Any: JSON
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


class InHand(NamedTuple):
    """What a process has."""

    tokens: float
    """What it may spend."""
    earned: float = 0.0
    """What its successes have earned beyond that; it is good for nothing before it was brought in."""
    refused: float = 0.0
    """The cost of a retry that was refused lately; 0: none was."""
    spent: float = 0.0
    """What was spent in the last round."""


class OtherCapacity(NamedTuple):
    """A process that was told another capacity."""

    member: str
    theirs: float


class BudgetPlan(NamedTuple):
    """What is to be done: take *out* of the hand at once, and put *record*, if it is not None, with the known version."""

    record: BudgetRecord | None
    out: float
    """Of what may be spent."""
    brought: float
    """Of what was earned."""
    gain: float
    """What may be spent in addition as soon as the record is known to be put."""
    capacity: float
    """What all may have together: the least that anybody was told."""
    other: OtherCapacity | None
    """Who was told another one; None: nobody."""


class Settled(NamedTuple):
    """What became of puts: so much may be spent in addition, and so much was not brought in after all."""

    gain: float = 0.0
    back: float = 0.0


@dataclass(slots=True)
class FleetBudget:
    """
    One process's view of the record: told what stands there and what it has in hand, it answers what to do.

    *me* is the name of this life of the process: no other life ever has the same. *capacity*: what all may have together.
    """

    me: str
    capacity: float
    record: BudgetRecord = field(default_factory=lambda: BudgetRecord({}))
    version: int = 0
    _unsure: dict[int, tuple[int, float, BudgetPlan]] = field(default_factory=dict)
    """By turn, puts of which nobody knows whether they were done: the version that they follow, what they say, and the plan."""
    _turns: int = 0

    @property
    def most(self) -> float:
        """What this process may have in hand, as far as is certain."""
        has = self._own.has
        return min([has, *(said for _, said, _ in self._unsure.values())])

    def elsewhere(self, dead: Collection[str] = ()) -> float:
        """What the others have at most, and nobody yet."""
        members = self.record.members.items()
        theirs = sum(one.has for name, one in members if name != self.me and name not in dead)
        return self.record.tokens + theirs

    @property
    def _own(self) -> BudgetMember:
        return self.record.members.get(self.me, BudgetMember())

    def learned(self, record: BudgetRecord, version: int) -> Settled:
        """The record as it stands, read after all puts of this process whose end is known: what became of the others."""
        self.record, self.version = record, version
        gain = back = 0.0
        for turn, (known, _, plan) in list(self._unsure.items()):
            if self._own.turn == turn:
                gain += plan.gain
            elif known != version or self._own.turn > turn:
                back += plan.out + plan.brought  # somebody else was faster: it will never be done
            else:
                continue  # it may be on its way still
            del self._unsure[turn]
        return Settled(gain, back)

    def putting(self, plan: BudgetPlan) -> None:
        """The record of *plan* is on its way: until its end is known, the less of both holds."""
        assert plan.record is not None
        member = plan.record.members[self.me]
        self._turns = member.turn
        self._unsure[member.turn] = (self.version, member.has, plan)

    def put(self, plan: BudgetPlan, version: int) -> Settled:
        """The store has taken it."""
        assert plan.record is not None
        return self.learned(plan.record, version)

    def refused(self, plan: BudgetPlan) -> Settled:
        """The store has refused it: for certain nothing was done."""
        assert plan.record is not None
        del self._unsure[plan.record.members[self.me].turn]
        return Settled(back=plan.out + plan.brought)

    def plan(self, hand: InHand, dead: Collection[str] = (), *, is_round: bool = False) -> BudgetPlan:
        """
        What to do, when *dead* are the members, and forgotten ones, who never do anything any more.

        *is_round*: whether this is one of the rounds, every few seconds, in which what is not needed is brought in.
        """
        others = {
            name: one for name, one in self.record.members.items() if name not in dead and name != self.me
        }
        own = self._own
        capacity, other = self._agreed(others)
        theirs = sum(one.has for one in others.values())
        earlier, tokens = self.record.earlier, min(self.record.tokens, max(0.0, capacity - theirs))
        if earlier is not None and earlier in dead:
            earlier, tokens = None, max(0.0, capacity - theirs - own.has)
        lacked = sum(one.lacks for one in others.values())
        lacking = max(0.0, lacked - tokens)
        block = max(1.0, capacity / _BLOCKS)
        needs = min(hand.refused, capacity)
        wants = min(capacity, max(block + hand.spent, needs))
        room = max(0.0, capacity - theirs - tokens)
        is_worth_it = is_round or hand.earned >= _LEAST or hand.tokens < needs <= hand.tokens + hand.earned
        have = min(hand.tokens + (hand.earned if is_worth_it else 0.0), room)
        if have + _ROUNDING < needs:
            keeps = have + min(tokens, wants - have)
        elif lacking > 0:
            # Who retries, too, keeps as much as is fetched ahead.
            keeps = max(min(have, block if hand.spent else 0.0), have - lacking)
        elif have < wants / 2 or (is_round and have < wants):
            keeps = have + max(0.0, min(tokens - lacked, wants - have))
        else:
            keeps = min(have, wants) if is_round else have
        short = needs - have if have + _ROUNDING < needs else lacking
        if abs(have - keeps) + _ROUNDING < min(_LEAST, short or _LEAST) and not is_round:
            keeps = have  # so little is not worth a step
        tokens = max(0.0, tokens + have - keeps)
        lacks = needs - keeps if keeps + _ROUNDING < needs else 0.0
        out, gain = max(0.0, hand.tokens - keeps), max(0.0, keeps - hand.tokens)
        brought = max(0.0, have - hand.tokens)
        is_news = (
            abs(tokens - self.record.tokens) > _ROUNDING
            or brought > _ROUNDING
            or lacks > own.lacks
            or (not lacks and bool(own.lacks))
            or self.capacity != own.capacity
            or earlier != self.record.earlier
            or self.me not in self.record.members
            or (is_round and (abs(keeps - own.has) > _ROUNDING or len(others) < len(self.record.members) - 1))
        )
        if not is_news:
            return BudgetPlan(None, 0.0, 0.0, 0.0, capacity, other)
        member = BudgetMember(keeps, lacks, self.capacity, max(self._turns, own.turn) + 1)
        record = BudgetRecord({**others, self.me: member}, tokens, earlier)
        return BudgetPlan(record, out, brought, gain, capacity, other)

    def leaving(self, hand: InHand) -> BudgetRecord:
        """What is to be put when this process retries nothing any more: what it has in hand is there for the others."""
        members = {name: one for name, one in self.record.members.items() if name != self.me}
        theirs = sum(one.has for one in members.values())
        room = max(0.0, self._agreed(members)[0] - theirs - self.record.tokens)
        brought = 0.0 if self._unsure else min(hand.tokens + hand.earned, room)
        return self.record._replace(members=members, tokens=self.record.tokens + brought)

    def _agreed(self, others: Mapping[str, BudgetMember]) -> tuple[float, OtherCapacity | None]:
        """The capacity that holds, and somebody who was told another one."""
        told = {name: one.capacity for name, one in sorted(others.items()) if one.capacity}
        other = next((OtherCapacity(name, one) for name, one in told.items() if one != self.capacity), None)
        return min([self.capacity, *told.values()]), other

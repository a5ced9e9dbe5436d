"""
How the processes that call one service divide its rate limit among themselves.

What is leased is not a token but a share of the limit: who has 30 of 100 a minute sends at most 30 in any minute. As long as
all shares together are no more than the limit, so is what they send, in every rolling window; and a share renews itself,
so that nobody asks for anything while everybody has enough. A share is lowered to no less than what its holder has sent
within the window, and is another's only then. Who has died keeps its share until what it sent has left every window.

Who has too little says so in the record, in the order of coming. First everybody gets what one call of it needs, in that order;
the rest is split evenly, as far as it is wanted.

Each says with what limits it was told. Where they differ the lowest holds for all, until who was told it has gone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from shockproof.policies.rate_limit import Rate

__all__ = [
    "Demand",
    "FleetLimit",
    "LimitMember",
    "LimitRecord",
    "OtherRate",
    "Plan",
    "block_of",
    "key_of",
]

Amounts = Mapping[str, int]
"""So much of each rate, by `key_of`."""

_NOTHING: Final[Amounts] = {}
_BLOCKS: Final = 20


def key_of(rate: Rate) -> str:
    """What a rate is called in the record: what it counts, and in how many seconds."""
    return f"{rate.name}/{rate.seconds:g}"


def block_of(limit: int) -> int:
    """How much of a limit is leased ahead of need at a time: a twentieth of it, 1 at least."""
    return max(1, limit // _BLOCKS)


class LimitMember(NamedTuple):
    """What stands in the record about one life of one process."""

    ticket: int = 0
    """Its place among those who need something: the lower, the earlier."""
    shares: Amounts = _NOTHING
    """What it may have sent in any window."""
    needs: Amounts = _NOTHING
    """What the call that waits for it needs; nothing where none waits."""
    wants: Amounts = _NOTHING
    """What it would like to have."""
    limits: Amounts = _NOTHING
    """What it was told; nothing of one that has left, or stands for others."""


class OtherRate(NamedTuple):
    """A rate of which another process was told something else."""

    member: str
    key: str
    theirs: int | None
    ours: int | None


class LimitRecord(NamedTuple):
    """What stands in the store about one rate limit."""

    members: Mapping[str, LimitMember]
    next_ticket: int = 1

    def to_bytes(self) -> bytes:
        """As JSON; `from_bytes` reads it."""
        members = {name: list(one) for name, one in self.members.items()}
        return json.dumps({"next_ticket": self.next_ticket, "members": members}).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> LimitRecord:
        """
        What `to_bytes` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            fields = json.loads(value)
            members = {
                str(name): LimitMember(
                    _whole(ticket), *(_amounts(one) for one in (shares, needs, wants, limits))
                )
                for name, (ticket, shares, needs, wants, limits) in fields["members"].items()
            }
            return cls(members, _whole(fields["next_ticket"]))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def _whole(value: Any) -> int:  # Any: JSON
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _amounts(value: Any) -> Amounts:  # Any: JSON
    return {str(key): _whole(count) for key, count in value.items()}


class Demand(NamedTuple):
    """What a process has sent and would like to send, by rate."""

    used: Amounts
    """What it has sent within each window."""
    needs: Amounts
    """What the first call that waits, or was refused just now, counts; nothing where there is none."""
    waiting: Amounts
    """What all that wait count."""
    has_sent: bool = False
    """Whether anything was sent since the last time."""


class Plan(NamedTuple):
    """What is to be done: hold to *allowed* at once, and put *record*, if it is not None, with the known version."""

    allowed: Amounts
    record: LimitRecord | None
    gives_later: bool
    """Whether something goes to others as soon as what was sent here has left its window."""
    may_grow: bool
    """Whether more is to be had, or to come from others."""
    is_contested: bool
    """Whether others are short of something, so that who has been served stands behind them."""
    limits: Amounts
    """What all together may send in any window: the lowest that anybody was told."""
    other: OtherRate | None
    """In what others were told something else; None: in nothing."""


@dataclass(slots=True)
class FleetLimit:
    """
    One process's view of the record: told what stands there and what is wanted here, it answers what to do.

    *me* is the name of this life of the process: no other life ever has the same.
    """

    me: str
    limits: Amounts
    record: LimitRecord = field(default_factory=lambda: LimitRecord({}))
    version: int = 0
    _unsure: tuple[int, Amounts] | None = None
    """Of a put of which nobody knows whether it was done, or still will be: what it follows, and the shares."""
    _granted: dict[str, int] = field(default_factory=dict)

    def learned(self, record: LimitRecord, version: int) -> None:
        """The record as it stands, read after all puts of this process whose end is known."""
        self.record, self.version = record, version
        if self._unsure is not None and self._unsure[0] != version:
            self._unsure = None  # done, as the record says, or never any more
        self._granted = dict(self._own.shares)
        if self._unsure is not None:
            pending = self._unsure[1]
            self._granted = {key: min(count, pending.get(key, 0)) for key, count in self._granted.items()}

    @property
    def granted(self) -> Amounts:
        """What this process may have sent in any window, as far as is certain."""
        return self._granted

    @property
    def _own(self) -> LimitMember:
        return self.record.members.get(self.me, LimitMember())

    def putting(self, plan: Plan) -> None:
        """The record of *plan* is on its way: until its end is known, the lower of both shares holds."""
        assert plan.record is not None
        shares = plan.record.members[self.me].shares
        before = self._unsure
        if before is not None and before[0] == self.version:  # that may still be done in place of this one
            shares = {key: min(count, before[1].get(key, 0)) for key, count in shares.items()}
        self._unsure = (self.version, shares)
        self._granted = {key: min(count, shares.get(key, 0)) for key, count in self._granted.items()}

    def put(self, plan: Plan, version: int) -> None:
        """The store has taken it."""
        assert plan.record is not None
        self._unsure = None
        self.learned(plan.record, version)

    def plan(self, demand: Demand, dead: Collection[str] = (), *, is_round: bool = False) -> Plan:
        """
        What to do, when *dead* are those of whom nothing that they sent is in any window any more.

        *is_round*: whether this is one of the rounds, every few seconds, in which what is not needed is given back.
        """
        others = {
            name: one for name, one in self.record.members.items() if name not in dead and name != self.me
        }
        own = self._own
        limits, other = self._agreed(others)
        wants = {key: self._want(key, limits[key], demand) for key in self.limits}
        needs = {key: count for key, count in demand.needs.items() if count and key in self.limits}
        is_contested, gives_later, may_grow = False, False, True
        shares: dict[str, int] = {}
        allowed: dict[str, int] = {}
        everybody = {**others, self.me: LimitMember(own.ticket or self.record.next_ticket, {}, needs, wants)}
        for key, limit in limits.items():
            fair = _fair(key, limit, everybody)
            has, used, target = self._granted.get(key, 0), demand.used.get(key, 0), fair[self.me]
            recorded = own.shares.get(key, 0)
            taken = sum(one.shares.get(key, 0) for one in others.values())
            is_wanted = any(one.shares.get(key, 0) < fair[name] for name, one in others.items())
            is_contested |= is_wanted or any(
                one.shares.get(key, 0) < min(limit, one.needs.get(key, 0)) for one in others.values()
            )
            if has < min(target, wants[key]):
                may = max(has, min(target, limit - taken))
            elif is_wanted or taken + recorded > limit:
                may = min(has, target)
            elif is_round and has >= 2 * wants[key]:
                may = wants[key]
            else:
                may = has
            allowed[key] = min(has, may)
            # More than is granted may stand there: what has been sent under it has to leave first.
            shares[key] = may if may > recorded else min(recorded, max(may, used))
            gives_later |= may < shares[key]
            may_grow &= has < target or taken + recorded < limit or has >= limit
        ticket, next_ticket = own.ticket, self.record.next_ticket
        asks_anew = bool(needs) and (not own.needs or (demand.has_sent and is_contested))
        if asks_anew or not ticket:
            ticket, next_ticket = next_ticket, next_ticket + 1
        is_short = any(shares[key] < count for key, count in wants.items())
        # Less than was said is told in the rounds: a queue that fills and empties is not news each time.
        grew = any(count > own.needs.get(key, 0) for key, count in needs.items()) or any(
            count > own.wants.get(key, 0) for key, count in wants.items()
        )
        is_other = (needs, wants) != (dict(own.needs), dict(own.wants))
        says = (is_short and grew) or (is_round and is_other)
        is_news = (
            shares != dict(own.shares)
            or (asks_anew and is_contested)
            or says
            or self.me not in self.record.members
            or dict(own.limits) != dict(self.limits)
        )
        record = None
        if is_news:
            members = {**others, self.me: LimitMember(ticket, shares, needs, wants, self.limits)}
            record = LimitRecord(members, next_ticket)
        return Plan(allowed, record, gives_later, may_grow, is_contested, limits, other)

    def _agreed(self, others: Mapping[str, LimitMember]) -> tuple[dict[str, int], OtherRate | None]:
        """The limits that hold, and the first in which somebody was told another one."""
        limits, differing = dict(self.limits), list[OtherRate]()
        for name, one in sorted(others.items()):
            if not one.limits:
                continue
            for key in sorted({*self.limits, *one.limits}):
                theirs, ours = one.limits.get(key), self.limits.get(key)
                if theirs == ours:
                    continue
                differing.append(OtherRate(name, key, theirs, ours))
                if theirs is not None and ours is not None:
                    limits[key] = min(limits[key], theirs)
        return limits, differing[0] if differing else None

    def leaving(self, used: Amounts) -> LimitRecord:
        """What is to be put when this process sends nothing any more: it keeps what is still in a window."""
        members = {name: one for name, one in self.record.members.items() if name != self.me}
        kept = {key: min(count, used.get(key, 0)) for key, count in self._own.shares.items()}
        if any(kept.values()):
            members[self.me] = LimitMember(self._own.ticket, kept)
        return self.record._replace(members=members)

    def _want(self, key: str, limit: int, demand: Demand) -> int:
        block = block_of(limit)
        sought = demand.used.get(key, 0) + demand.waiting.get(key, 0) + block
        # In whole blocks, so that not every call is news.
        return min(limit, max(-(-sought // block) * block, demand.needs.get(key, 0)))


def _fair(key: str, limit: int, members: Mapping[str, LimitMember]) -> dict[str, int]:
    """What each is to have of one rate."""
    given = dict.fromkeys(members, 0)
    left = limit
    in_need = [(one.ticket, name) for name, one in members.items() if one.needs.get(key)]
    for _, name in sorted(in_need):
        need = min(limit, members[name].needs[key])
        if need > left:
            return given  # it is not overtaken: what is left waits for it
        given[name] = need
        left -= need
    return _split(left, given, {name: min(limit, one.wants.get(key, 0)) for name, one in members.items()})


def _split(left: int, given: dict[str, int], wants: Amounts) -> dict[str, int]:
    open_wants: Sequence[tuple[int, str]] = sorted((wants[name] - had, name) for name, had in given.items())
    for place, (more, name) in enumerate(open_wants):
        part = max(0, min(more, left // (len(open_wants) - place)))
        given[name] += part
        left -= part
    return given

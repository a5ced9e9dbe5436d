"""
What the processes that call one service agree on about its circuit.

Each decides by its own rules, for itself and at once. Who opens its circuit gives a vote. One vote is a suspicion: it opens
nobody's circuit, but where no call was well since it is known, the second failure in a row does, in place of the usual number.
Votes from as many machines as the quorum open all; as many votes from one machine open those of that machine. Then there is one
probe, whose verdict is that of all who were opened. The machine that voted first, or whose probe failed last, lets the others ask
for it before: what it sees is known. So a process whose own network is bad keeps nobody from calling, a bad machine keeps no other
machine from it, and an outage that all see is one after a few failures of the fleet.

Where a record cannot be read or written, everything stays as each process decides by itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from shockproof.policies.saved_circuit import SavedCircuit

__all__ = ["Announcement", "FleetCircuit", "FleetRecord", "OpenFor", "ProbePermit", "Vote", "Wanted"]

_MOST_VOTES: Final = 64
"""More are not kept: they tell nothing new, and a record has to stay small."""
_LONGEST_TEXT: Final = 300
_REMEMBERED_FOR: Final = 60.0
"""Seconds that the store keeps a record for longer than the circuit is open."""
_SOON: Final = 2.0
"""Seconds, at most, after which the lease for probing is asked for again at first, and looked after where it is not used."""
_SOON_TIMES: Final = 2


class Vote(NamedTuple):
    """One process, as it counts."""

    name: str
    machine: str
    """On which it runs: what all processes there have in common may be what is bad."""


class FleetRecord(NamedTuple):
    """What stands in the store about one service."""

    is_open: bool = False
    """Whether it is open for all."""
    votes: tuple[Vote, ...] = ()
    """Who has opened its circuit by its own rules since. The first one's machine, where all are open, has had its say."""
    circuit: SavedCircuit = SavedCircuit()
    """That of the last one who voted."""
    told_to_wait: tuple[str, ...] = ()
    """The machines of those who voted because the other side asked them to wait."""

    @property
    def life(self) -> float:
        """Seconds after which it means nothing any more; by then every circuit that it opened has probed."""
        return 2 * self.circuit.remaining + _REMEMBERED_FOR

    def to_bytes(self) -> bytes:
        """As JSON; `from_bytes` reads it."""
        last_error = self.circuit.last_error
        circuit = self.circuit._replace(last_error=None if last_error is None else last_error[:_LONGEST_TEXT])
        fields = {
            "is_open": self.is_open,
            "votes": [vote.name for vote in self.votes],
            "machines": [vote.machine for vote in self.votes],
            "circuit": circuit.to_dict(),
            "told_to_wait": self.told_to_wait,
        }
        return json.dumps(fields).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> FleetRecord:
        """
        What `to_bytes` gave; names it does not know are passed over. Where it names no machines, each vote counts as that of
        another one.

        Raises:
            ValueError: it is something else.
        """
        try:
            fields = json.loads(value)
            names = _texts("votes", fields["votes"])
            machines = _texts("machines", fields.get("machines", names))
            votes = tuple(map(Vote, names, machines))
            if len(names) != len(machines):
                raise ValueError(f"{len(names)} votes are of {len(machines)} machines")
            told_to_wait = tuple(_texts("told_to_wait", fields.get("told_to_wait", [])))
            return cls(
                fields["is_open"] is True, votes, SavedCircuit.from_dict(fields["circuit"]), told_to_wait
            )
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def _texts(what: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"its {what} are {value!r}")
    return value


NOTHING_KNOWN: Final = FleetRecord()
"""Nobody has voted: what is put when the circuit has closed for all."""

Verdict = Literal["open", "close", "nothing"]
OpenFor = Literal["all", "machine", "nobody"]
"""Whose circuits a record opens, as one process sees it: those of all, or of its own machine, or none."""


class Announcement(NamedTuple):
    """What one process has to tell."""

    record: FleetRecord
    expect: int
    """The version of the record that it follows; 0: there was none."""


@dataclass(slots=True)
class FleetCircuit:
    """
    One process's view of the record, and what it has to tell: told what happened, it answers what to do.

    *me* is its vote; *quorum* is how many machines open it for all, and how many processes of one machine for that.
    """

    me: Vote
    quorum: int
    record: FleetRecord = NOTHING_KNOWN
    version: int = 0
    _was_open_for: OpenFor = "nobody"
    """By the last record that there was, even if the store keeps that no longer."""

    def learned(self, record: FleetRecord | None, version: int) -> Verdict:
        """
        The record is this one by now, or there is none: what the own circuit is to do.

        A record that is known already changes nothing: it may be told again at any time.
        """
        was_open_for, is_new = self._was_open_for, version != self.version
        self.record, self.version = NOTHING_KNOWN if record is None else record, version
        if record is None or not is_new:
            return "nothing"  # what the store has forgotten nobody has decided
        self._was_open_for = self.open_for
        if self._was_open_for != "nobody":
            return "open"
        # Votes that follow a closing at once do not close: who missed that waits for its own probe.
        votes = record.votes if was_open_for == "all" else self._of_my_machine(record.votes)
        return "close" if was_open_for != "nobody" and not votes else "nothing"

    @property
    def open_for(self) -> OpenFor:
        """Whose circuits the record opens, that of this process among them."""
        if self.record.is_open:
            return "all"
        return "machine" if len(self._of_my_machine(self.record.votes)) >= self.quorum else "nobody"

    @property
    def to_follow(self) -> SavedCircuit:
        """
        The circuit of the record, as this process follows it.

        How long the other side asked one machine to wait is not for the others, who have another address: they follow for no longer than
        any circuit, until as many machines as the quorum were told so.
        """
        circuit, told = self.record.circuit, self.record.told_to_wait
        is_meant = self.me.machine in told or len(told) >= self.quorum
        return circuit if is_meant else circuit._replace(is_paused=False)

    @property
    def lets_others_probe(self) -> bool:
        """Whether it is open for all, and this machine was the first to vote or the last whose probe has failed."""
        votes = self.record.votes
        return self.record.is_open and bool(votes) and votes[0].machine == self.me.machine

    def _of_my_machine(self, votes: tuple[Vote, ...]) -> tuple[Vote, ...]:
        return tuple(vote for vote in votes if vote.machine == self.me.machine)

    @property
    def suspicious(self) -> frozenset[str]:
        """The machines on which others have voted, while it is open for nobody."""
        if self.open_for != "nobody":
            return frozenset()
        return frozenset(vote.machine for vote in self.record.votes if vote.name != self.me.name)

    def opened(
        self, circuit: SavedCircuit, *, by_a_probe: bool, gone: Collection[str] = ()
    ) -> Announcement | None:
        """
        The own circuit has opened by its own rules, and is as *circuit*; None: that tells nobody anything new.

        The votes of *gone* count no longer: earlier lives of what calls now, perhaps, and so the same one again.
        """
        known, open_for = self.record, self.open_for
        if open_for != "nobody" and not by_a_probe:
            return None
        votes = known.votes
        if open_for != "machine":  # else it is these votes that keep it open
            votes = tuple(vote for vote in votes if vote.name not in gone)
        if all(vote.name != self.me.name for vote in votes):
            votes = (*votes, self.me)[-_MOST_VOTES:]
        if known.is_open and by_a_probe:
            votes = (self.me, *(vote for vote in votes if vote.name != self.me.name))
        is_open = known.is_open or len({vote.machine for vote in votes}) >= self.quorum
        waiting = {self.me.machine} if circuit.is_paused else set()
        told_to_wait = tuple(sorted({*known.told_to_wait, *waiting} & {vote.machine for vote in votes}))
        return Announcement(FleetRecord(is_open, votes, circuit, told_to_wait), self.version)

    def closed(self) -> Announcement | None:
        """The own circuit has closed, by a probe or by hand; None: nobody else's depends on it."""
        known, was_open_for = self.record, self._was_open_for
        if was_open_for == "all":
            return Announcement(NOTHING_KNOWN, self.version)
        if was_open_for == "machine":
            votes = tuple(vote for vote in known.votes if vote.machine != self.me.machine)
        else:
            votes = tuple(vote for vote in known.votes if vote.name != self.me.name)
            if votes == known.votes:
                return None
        return Announcement(known._replace(votes=votes), self.version)

    def announced(self, announcement: Announcement, version: int) -> None:
        """The store has taken it."""
        self.record, self.version = announcement.record, version
        self._was_open_for = self.open_for


@dataclass(slots=True)
class ProbePermit:
    """
    Whether this process may probe: it holds the fleet's lease for that, or nobody can be asked.

    The lease is fetched in the background. A call that comes before it is refused, and that is how it is known that one
    is wanted.
    """

    is_alone: bool = True
    """Whether the store cannot be asked: then each process has its own limit of probes."""
    until: float = 0.0
    """Until when the lease is surely held, by this process's own clock."""
    wanted_for: float | None = None
    """Seconds of the probe that was refused; None: none was."""
    ask_from: float = 0.0
    """When it is worth asking again: somebody else has the lease until about then."""
    refusals: int = 0
    """How often somebody else had the lease, since the round began or this process had it last."""
    refused_calls: int = 0
    """How many probes were refused since then for want of the lease."""
    looks_at: float = 0.0
    """When it is looked whether somebody else wants the lease that is here."""
    gives_way_at: float = math.inf
    """When that lease is somebody else's, unless a call has used it here by then."""

    def may_probe(self, now: float, lease: float) -> bool:
        """Whether a probe may begin that is over after *lease* seconds at the latest."""
        if self.is_alone or now + lease <= self.until:
            return True
        self.wanted_for = lease
        self.refused_calls += 1
        return False

    def length_to_ask_for(self, now: float) -> float | None:
        """Seconds of a lease that are worth asking for now; None: nobody wants one, or it is too early."""
        if self.wanted_for is None or now < self.ask_from:
            return None
        # Half of it is for the probe to begin, so that it is over before somebody else's can begin.
        return 2 * self.wanted_for + 1.0

    def granted(self, until: float) -> None:
        """The lease is here."""
        self.until, self.wanted_for, self.refusals, self.refused_calls = until, None, 0, 0

    def lost(self) -> None:
        """The lease is here no longer."""
        self.until = 0.0

    def looked(self, now: float, length: float, asks_in: float | None) -> bool:
        """
        The lease of *length* seconds is here and not in use, and somebody else asks for it in *asks_in* seconds, None: nobody does.

        True: it is to be given away now. It is wanted again when another call is refused here, and not before then.
        """
        apart = min(_SOON, length / 4)
        if asks_in is not None:
            self.gives_way_at = min(self.gives_way_at, now + asks_in - apart)
        if now < self.gives_way_at:
            self.looks_at = min(now + apart, self.gives_way_at)
            return False
        self.over()
        self.ask_from = now + 2 * apart
        return True

    def lets_others_ask(self, until: float) -> None:
        """They come first: what this process would find out is known."""
        self.ask_from = until

    def refused(
        self, now: float, length: float, spread: float, stands_back: float | None = None
    ) -> float | None:
        """
        Somebody else has it, and it was asked for for *length* seconds; seconds until it is asked for again, if its holder is to know.

        At first it is asked for soon: perhaps it is in use. Who refuses a second call says that he wants it: one that calls more
        rarely than its holder would take it from him in vain. So does at once who *stands_back* for so many seconds. *spread* is by
        what many get out of each other's way.
        """
        soon = length / 2 if self.refusals >= _SOON_TIMES else min(_SOON, length / 2)
        again_in = spread * (soon if stands_back is None else stands_back)
        self.refusals += 1
        self.ask_from = now + again_in
        return again_in if self.refused_calls > 1 or stands_back is not None else None

    def over(self) -> None:
        """The round has ended, here or elsewhere: nobody wants to probe now, and whoever does next may ask."""
        self.until, self.wanted_for, self.ask_from = 0.0, None, 0.0
        self.refusals, self.refused_calls = 0, 0
        self.looks_at, self.gives_way_at = 0.0, math.inf


class Wanted(NamedTuple):
    """Said to the holder of the lease for probing: if no call uses it there, one may somewhere else."""

    by: str
    """Whose word it is, so that nobody gives way to himself."""
    asks_in: float
    """Seconds after which the lease is asked for again."""

    @property
    def life(self) -> float:
        """Seconds after which it means nothing any more; by then the holder has looked."""
        return self.asks_in + _SOON

    def to_bytes(self) -> bytes:
        """As JSON; `from_bytes` reads it."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> Wanted:
        """
        What `to_bytes` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            fields = json.loads(value)
            return cls(str(fields["by"]), float(fields["asks_in"]))
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

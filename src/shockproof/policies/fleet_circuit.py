"""
What the processes that call one service agree on about its circuit.

Each decides by its own rules, for itself and at once. Who opens its circuit gives a vote. One vote is a suspicion: it
opens nobody's circuit, but where it is known the next failure does, in place of the usual number. As many votes as the quorum
open all. Then the fleet has one probe, whose verdict is everybody's. So a process whose own network is bad
keeps nobody from calling, and an outage that all see is one after a few failures of the fleet.

Where a record cannot be read or written, everything stays as each process decides by itself.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from shockproof.policies.saved_circuit import SavedCircuit

__all__ = ["Announcement", "FleetCircuit", "FleetRecord", "ProbePermit"]

_MOST_VOTES: Final = 64
"""More are not kept: they tell nothing new, and a record has to stay small."""
_LONGEST_TEXT: Final = 300
_REMEMBERED_FOR: Final = 60.0
"""Seconds that the store keeps a record for longer than the circuit is open."""


class FleetRecord(NamedTuple):
    """What stands in the store about one service."""

    is_open: bool = False
    """Whether it is open for all."""
    votes: tuple[str, ...] = ()
    """Who has opened its circuit by its own rules since."""
    circuit: SavedCircuit = SavedCircuit()
    """That of the last one who voted."""

    @property
    def life(self) -> float:
        """Seconds after which it means nothing any more; by then every circuit that it opened has probed."""
        return 2 * self.circuit.remaining + _REMEMBERED_FOR

    def to_bytes(self) -> bytes:
        """As JSON; `from_bytes` reads it."""
        last_error = self.circuit.last_error
        circuit = self.circuit._replace(last_error=None if last_error is None else last_error[:_LONGEST_TEXT])
        fields = {"is_open": self.is_open, "votes": self.votes, "circuit": circuit.to_dict()}
        return json.dumps(fields).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> FleetRecord:
        """
        What `to_bytes` gave; names it does not know are passed over.

        Raises:
            ValueError: it is something else.
        """
        try:
            fields = json.loads(value)
            votes = fields["votes"]
            if not isinstance(votes, list) or not all(isinstance(vote, str) for vote in votes):
                raise ValueError(f"its votes are {votes!r}")
            return cls(fields["is_open"] is True, tuple(votes), SavedCircuit.from_dict(fields["circuit"]))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


NOTHING_KNOWN: Final = FleetRecord()
"""Nobody has voted: what is put when the circuit has closed for all."""

Verdict = Literal["open", "close", "nothing"]


class Announcement(NamedTuple):
    """What one process has to tell."""

    record: FleetRecord
    expect: int
    """The version of the record that it follows; 0: there was none."""


@dataclass(slots=True)
class FleetCircuit:
    """
    One process's view of the record, and what it has to tell: told what happened, it answers what to do.

    *name* is what it votes as; *quorum* is how many votes open it for all.
    """

    name: str
    quorum: int
    record: FleetRecord = NOTHING_KNOWN
    version: int = 0
    _was_open: bool = False
    """Whether it was open for all by the last record that there was, even if the store keeps that no longer."""

    def learned(self, record: FleetRecord | None, version: int) -> Verdict:
        """
        The record is this one by now, or there is none: what the own circuit is to do.

        A record that is known already changes nothing: it may be told again at any time.
        """
        was_open, is_new = self._was_open, version != self.version
        self.record, self.version = NOTHING_KNOWN if record is None else record, version
        if record is None or not is_new:
            return "nothing"  # what the store has forgotten nobody has decided
        self._was_open = record.is_open
        if record.is_open:
            return "open"
        return "close" if was_open and not record.votes else "nothing"

    @property
    def is_suspected(self) -> bool:
        """Whether somebody else has voted, and it is not open for all."""
        return not self.record.is_open and any(vote != self.name for vote in self.record.votes)

    def opened(
        self, circuit: SavedCircuit, *, by_a_probe: bool, gone: Collection[str] = ()
    ) -> Announcement | None:
        """
        The own circuit has opened by its own rules, and is as *circuit*; None: that tells nobody anything new.

        The votes of *gone* count no longer: earlier lives of what calls now, perhaps, and so the same one again.
        """
        known = self.record
        if known.is_open and not by_a_probe:
            return None
        votes = tuple(vote for vote in known.votes if vote not in gone)
        if self.name not in votes:
            votes = (*votes, self.name)[-_MOST_VOTES:]
        is_open = known.is_open or len(votes) >= self.quorum
        return Announcement(FleetRecord(is_open, votes, circuit), self.version)

    def closed(self) -> Announcement | None:
        """The own circuit has closed, by a probe or by hand; None: nobody else's depends on it."""
        known = self.record
        if self._was_open:
            return Announcement(NOTHING_KNOWN, self.version)
        if self.name not in known.votes:
            return None
        votes = tuple(vote for vote in known.votes if vote != self.name)
        return Announcement(known._replace(votes=votes), self.version)

    def announced(self, announcement: Announcement, version: int) -> None:
        """The store has taken it."""
        self.record, self.version = announcement.record, version
        self._was_open = announcement.record.is_open


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

    def may_probe(self, now: float, lease: float) -> bool:
        """Whether a probe may begin that is over after *lease* seconds at the latest."""
        if self.is_alone or now + lease <= self.until:
            return True
        self.wanted_for = lease
        return False

    def length_to_ask_for(self, now: float) -> float | None:
        """Seconds of a lease that are worth asking for now; None: nobody wants one, or it is too early."""
        if self.wanted_for is None or now < self.ask_from:
            return None
        # Half of it is for the probe to begin, so that it is over before somebody else's can begin.
        return 2 * self.wanted_for + 1.0

    def granted(self, until: float) -> None:
        """The lease is here."""
        self.until, self.wanted_for = until, None

    def refused(self, now: float, length: float) -> None:
        """Somebody else has it, for about *length* seconds."""
        self.ask_from = now + length / 2

    def over(self) -> None:
        """The round has ended, here or elsewhere: nobody wants to probe now, and whoever does next may ask."""
        self.until, self.wanted_for, self.ask_from = 0.0, None, 0.0

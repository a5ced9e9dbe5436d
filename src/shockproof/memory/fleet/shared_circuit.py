"""
One service's circuit, and what the fleet knows of it: brought together without waiting for anything.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Final, Literal

from shockproof.memory.services.service_state import ServiceState
from shockproof.memory.stores import own_name
from shockproof.memory.stores.lease import Lease
from shockproof.policies.circuit_breaker import CircuitState
from shockproof.policies.fleet_circuit import (
    Announcement,
    FleetCircuit,
    FleetRecord,
    OpenFor,
    ProbePermit,
    Vote,
    Wanted,
)

__all__ = ["SharedCircuit", "longest_lead"]

_LONGEST_LEAD: Final = 1.0
"""Seconds before a circuit is half-open in which leases for probing are asked for, each process at another moment."""


def longest_lead(timeout: float) -> float:
    """The most of those seconds, for a circuit that is open for *timeout*."""
    return min(_LONGEST_LEAD, timeout / 10)


Untold = Literal["opened", "opened by a probe", "closed"]


class SharedCircuit:
    """
    Told by the circuit what happened there, by the background task what the store says, from any threads.

    *wake* is called, perhaps while the circuit's lock is held, when there is something for the background task.
    """

    def __init__(self, state: ServiceState, me: Vote, quorum: int, wake: Callable[[], None]) -> None:
        self.state = state
        self.lease: Lease | None = None
        """The fleet's lease for probing, if this process has it."""
        self.permit = ProbePermit()
        self._fleet = FleetCircuit(me, quorum)
        self._wake = wake
        self._lock = threading.Lock()
        self._suspicious: frozenset[str] = frozenset()
        self._untold: Untold | None = None
        self._telling: Announcement | None = None
        self._was: CircuitState = "closed"
        self._following_in: int | None = None  # the thread in which the circuit does as the fleet does
        self.life = secrets.token_hex(8)
        """Whom nobody else is, in what is said to the holder of the lease."""
        self._refused_before = 0
        self._is_called = False
        """Whether calls were refused in an earlier round of this outage."""
        self._asks_late = False
        """Whether the lease of this round is still to be asked for because of them."""
        self.is_over = False
        """Whether the round for which the lease was taken has ended."""
        state.circuit.may_probe = self._may_probe

    # -- told by the circuit -----------------------------------------------------------------------------

    def _may_probe(self, now: float, lease: float) -> bool:
        if self.permit.may_probe(now, lease):
            return True
        self._wake()
        return False

    def transitioned(self, to: CircuitState) -> None:
        """The own circuit has changed."""
        with self._lock:
            was, self._was = self._was, to
            if to == "open":
                was_refused = self.state.rejections != self._refused_before
                self._asks_late = self._is_called = was != "closed" and (self._is_called or was_refused)
                self._refused_before = self.state.rejections
            if to == "half-open" or self._following_in == threading.get_ident():
                return
            if to == "open":
                self._untold = "opened by a probe" if was == "half-open" else "opened"
            else:
                self._untold = "closed"
            self._end_round()
        self._wake()

    def probes_soon(self, now: float, ahead: float) -> float | None:
        """
        When the open circuit, at which somebody was refused, is worth asking for the lease; None: it is not.

        *ahead*: how many seconds before it is half-open. Who was refused in an earlier round only lets those of this one ask before.
        """
        circuit = self.state.circuit
        if not self.may_need_a_probe or self.lease is not None:
            return None
        is_late = self.state.rejections == self._refused_before
        if not self._asks_late if is_late else circuit.state(now) == "half-open":
            return None
        at = now + max(0.0, circuit.open_for(now) - (0.0 if is_late else ahead))
        if at <= now:
            self._asks_late = False
            if self.permit.wanted_for is None:
                self.permit.wanted_for = (
                    circuit.timeout if self.state.probe_lease is None else self.state.probe_lease
                )
        return at

    @property
    def may_need_a_probe(self) -> bool:
        """Whether the circuit is not closed, nor in somebody's hands."""
        circuit = self.state.circuit
        return circuit.closed is None and circuit.mode == "normal"

    def refused(self, now: float, length: float, spread: float) -> Wanted | None:
        """Somebody else has the lease, asked for for *length* seconds; what to say to him, None: nothing yet."""
        stands_back = self.stands_back
        asks_in = self.permit.refused(now, length, spread, stands_back)
        return None if asks_in is None else Wanted(self.life, asks_in)

    @property
    def stands_back(self) -> float | None:
        """Seconds for which the lease is left to whoever has it; None: it is not."""
        return self.state.circuit.timeout if self._fleet.lets_others_probe else None

    # -- told by the background task -----------------------------------------------------------------------

    def in_the_child(self) -> None:
        """The lease is the parent's, who is another one from now on."""
        self.lease, self.life = None, secrets.token_hex(8)
        self.permit.over()
        self.reach(is_reachable=False)

    def reach(self, *, is_reachable: bool) -> None:
        """The store answers, or does not."""
        self.permit.is_alone = not is_reachable

    def learned(self, record: FleetRecord | None, version: int, now: float) -> None:
        """The record as it is by now; None: there is none, or none that can be read."""
        circuit = self.state.circuit
        with self._lock:
            if self._telling is not None and record == self._telling.record:
                # The own announcement, told by the store before it has answered.
                self._fleet.announced(self._telling, version)
                self._let_others_ask(now)
                return
            verdict = self._fleet.learned(record, version)
            self._suspect()
            if verdict == "nothing":
                return
            self._following_in = threading.get_ident()
            # What was decided here before that is overtaken.
            self._untold = None
            self._end_round()
        try:
            if verdict == "open" and record is not None:
                circuit.follow(self._fleet.to_follow, now)
                self._let_others_ask(now)
            elif verdict == "close":
                circuit.follow_closing(now)
        finally:
            with self._lock:
                self._following_in = None

    def back(self) -> None:
        """The store is there again: what was decided meanwhile is told, as far as it still holds."""
        circuit = self.state.circuit
        with self._lock:
            is_own = self.may_need_a_probe and not circuit.is_following
            if is_own and self._untold is None:
                self._untold = "opened"

    def to_tell(self, now: float) -> Announcement | None:
        """What the fleet does not know yet; None: nothing."""
        with self._lock:
            untold, self._untold = self._untold, None
            self._telling = None if untold is None else self._announcement(untold, now)
            return self._telling

    def _announcement(self, untold: Untold, now: float) -> Announcement | None:
        circuit = self.state.circuit
        if untold == "closed":
            return self._fleet.closed() if circuit.closed is not None else None
        saved = circuit.export(now)
        if saved is None or saved.is_forced_open:
            return None
        gone = own_name.gone(vote.name for vote in self._fleet.record.votes)
        return self._fleet.opened(saved, by_a_probe=untold == "opened by a probe", gone=gone)

    def tell_again(self) -> None:
        """It was not told: the store was away, or somebody else was faster."""
        with self._lock:
            telling, self._telling = self._telling, None
            if self._untold is None and telling is not None:
                self._untold = "opened" if self.state.circuit.closed is None else "closed"

    def told(self, announcement: Announcement, version: int, now: float) -> None:
        """The store has taken it."""
        with self._lock:
            self._telling = None
            self._fleet.announced(announcement, version)
            self._let_others_ask(now)
            self._suspect()

    @property
    def open_for(self) -> OpenFor:
        """Whether the fleet has opened it, or this machine's part of it, as far as is known."""
        return self._fleet.open_for

    @property
    def votes(self) -> tuple[Vote, ...]:
        """Who has opened its circuit by its own rules, as far as is known."""
        return self._fleet.record.votes

    def _suspect(self) -> None:
        # What is told again of a machine that is known to be bad is no news: what was well here since still counts.
        before, self._suspicious = self._suspicious, self._fleet.suspicious
        circuit = self.state.circuit
        if not self._suspicious:
            circuit.suspected_at = None
        elif not self._suspicious <= before:
            circuit.suspected_at = circuit.entrance.successes

    def _let_others_ask(self, now: float) -> None:
        # A bad machine that has the lease again and again would keep all others from calling.
        if self.stands_back is not None:
            circuit = self.state.circuit
            self.permit.lets_others_ask(now + circuit.open_for(now) + longest_lead(circuit.timeout))

    def _end_round(self) -> None:
        self.permit.over()
        self.is_over = self.lease is not None

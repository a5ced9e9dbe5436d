"""
Whether a service may be called: closed, open, half-open.

Every admission is a ticket, and what became of the call is told to the ticket. A ticket of an
earlier period writes to an object nobody reads any more, so a late answer decides nothing.

    closed ──(a trip rule is met)──────────> open ──(timeout passed)──> half-open
      ^                                        ^                          │    │
      │                                        └─────(one failure)────────┘    │
      └───────────────────(probes successes)────────────────────────────────────┘
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from shockproof.policies.window import Counts, Window

__all__ = ["Circuit", "CircuitState", "Rates", "Ticket"]

CircuitState = Literal["closed", "open", "half-open"]


_LONGEST_PAUSE: Final = 7 * 86_400.0
"""Seconds: what a header asks for beyond that is a mistake of the other side's."""


class Ticket(Protocol):
    """One admission. Exactly one of its verbs is called, once, when the call is over."""

    def succeeded(self, now: float, duration: float = 0.0) -> None:
        """The call was a success and took *duration* seconds."""
        ...

    def failed(self, now: float, cause: str, duration: float = 0.0) -> None:
        """The call was a failure; *cause* is kept to be shown, as text."""
        ...

    def released(self) -> None:
        """The call ended without a verdict: what was taken is given back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """
    Trip rules over a time window, beside the failures in a row.

    The circuit opens when, of at least `min_calls` calls in the last `window` seconds, a share of at
    least `failure_rate` failed, or a share of at least `slow_call_rate` took longer than
    `slow_call_after` seconds. None switches a rule off.
    """

    failure_rate: float | None = None
    slow_call_after: float | None = None
    slow_call_rate: float | None = None
    window: float = 10.0
    min_calls: int = 10

    @property
    def are_on(self) -> bool:
        """Whether there is any rule at all."""
        return self.failure_rate is not None or self.slow_call_rate is not None

    def is_slow(self, duration: float) -> bool:
        """Whether a call of *duration* seconds counts as slow."""
        return self.slow_call_after is not None and duration > self.slow_call_after

    def trip(self, counts: Counts) -> bool:
        """Whether *counts* meet one of the rules; a share that is reached is enough."""
        if counts.calls < self.min_calls:
            return False
        if self.failure_rate is not None and counts.failures >= self.failure_rate * counts.calls:
            return True
        return self.slow_call_rate is not None and counts.slow >= self.slow_call_rate * counts.calls


class Circuit:
    """
    The breaker of one service.

    Safe to share between tasks, threads and loops: transitions happen under a lock of its own that
    is never held while anything else runs. The healthy path takes no lock: it reads `lane`.

    `threshold` failures in a row open it (None: never), or one of the `rates`. Open for `timeout`
    seconds, it then lets at most `probes` calls in at a time; that many successes close it and one
    failure opens it again.
    """

    __slots__ = (
        "_lane_is_open",
        "_lock",
        "_open_until",
        "_opened_at",
        "_probing",
        "_round",
        "closed",
        "lane",
        "last_error",
        "on_transition",
        "probes",
        "rates",
        "threshold",
        "timeout",
        "trips",
    )

    def __init__(self, *, threshold: int | None, timeout: float, probes: int = 1) -> None:
        self.threshold = threshold
        self.timeout = timeout
        self.probes = probes
        self.rates = Rates()
        self.closed: Closed | None = Closed(self)
        """The admission of everybody while the circuit is closed; None while it is not."""
        self.lane: Closed | None = None
        """The same for the healthy path, while its lane is open; None sends a call the long way."""
        self._lane_is_open = False
        self.last_error: str | None = None
        self.trips = 0
        self.on_transition: Callable[[CircuitState, float], None] | None = None
        self._opened_at = 0.0
        self._open_until: float | None = None  # None: `timeout` after it opened, whatever that is by then
        self._round: HalfOpen | None = None
        self._probing: set[Probe] = set()
        self._lock = threading.Lock()

    def open_lane(self, *, is_open: bool) -> None:
        """Whether healthy calls may take the short way, past everything that is only asked for in trouble."""
        with self._lock:
            self._lane_is_open = is_open
            self.lane = self.closed if is_open else None

    def admit(self, now: float, *, lease: float | None = None) -> Ticket | None:
        """
        A ticket, or None when the circuit refuses.

        A probe that has not come back after *lease* seconds (None: `timeout`) loses its place.
        """
        closed = self.closed
        if closed is not None:
            return closed
        with self._lock:
            if self.closed is not None:
                return self.closed
            begun = False
            if self._round is None:
                if now < self._admits_from():
                    return None
                self._round, begun = HalfOpen(self), True
            probe = self._round.admit(now, self.timeout if lease is None else lease)
        if begun:
            self._told("half-open", now)
        return probe

    def state(self, now: float) -> CircuitState:
        """The state at *now*; half-open as soon as the open time is over, without needing a call."""
        if self.closed is not None:
            return "closed"
        if self._round is None and now < self._admits_from():
            return "open"
        return "half-open"

    def _admits_from(self) -> float:
        return self._opened_at + self.timeout if self._open_until is None else self._open_until

    def open_for(self, now: float) -> float:
        """Seconds for which everybody is still refused; 0 when one may come, or as soon as a probe is back."""
        if self.closed is not None or self._round is not None:
            return 0.0
        return max(0.0, self._admits_from() - now)

    def pause(self, now: float, seconds: float, cause: str) -> None:
        """
        Open it for *seconds*, a week at most: the other side said how long it wants to be left alone.

        One that is open already stays so for at least as long. One that is switched off (no threshold
        and no rates) stays closed.
        """
        if self.threshold is None and not self.rates.are_on:
            return
        with self._lock:
            opens = self.closed is not None or self._round is not None
            until = max(now + min(seconds, _LONGEST_PAUSE), 0.0 if opens else self._admits_from())
            if opens:
                self._open(now, cause)
            self._open_until = until
        if opens:
            self._told("open", now)

    def reset(self, now: float) -> bool:
        """Close it, and forget what was counted; True when it was not closed before."""
        with self._lock:
            was_closed = self.closed is not None
            self._close()
        if not was_closed:
            self._told("closed", now)
        return not was_closed

    def watch(self, rates: Rates) -> None:
        """Apply other rates from now on; what was counted for the old ones is forgotten."""
        with self._lock:
            self.rates = rates
            if self.closed is not None:
                self._begin_closed()

    def _close(self) -> None:
        self._round, self.last_error = None, None
        self._begin_closed()

    def _begin_closed(self) -> None:
        self.closed = Closed(self)
        self.lane = self.closed if self._lane_is_open else None

    def _open(self, now: float, cause: str) -> None:
        # The times first: those who read without the lock would see it half-open for a moment.
        self._opened_at, self._open_until, self.last_error = now, None, cause
        self.closed, self.lane, self._round = None, None, None
        self.trips += 1

    def _told(self, state: CircuitState, now: float) -> None:
        if self.on_transition is not None:
            self.on_transition(state, now)

    def __repr__(self) -> str:
        if self.closed is not None:
            return f"<Circuit closed, {self.closed.streak} of {self.threshold} failures in a row>"
        if self._round is not None:
            return f"<Circuit half-open, {self._round!r}>"
        return f"<Circuit open since {self._opened_at:.3f} for {self._admits_from() - self._opened_at:g} s>"


class Closed:
    """One closed period: the ticket of everyone in it, and the count that may end it."""

    __slots__ = ("_circuit", "_window", "streak")

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._window = Window(circuit.rates.window) if circuit.rates.are_on else None
        self.streak = 0

    def succeeded(self, now: float, duration: float = 0.0) -> None:
        circuit = self._circuit
        with circuit._lock:
            self.streak = 0
            tripped = self._counted(now, duration, failed=False) and circuit.closed is self
            if tripped:
                circuit._open(now, "too many calls were slow")
        if tripped:
            circuit._told("open", now)

    def failed(self, now: float, cause: str, duration: float = 0.0) -> None:
        circuit = self._circuit
        with circuit._lock:
            self.streak += 1
            in_a_row = circuit.threshold is not None and self.streak >= circuit.threshold
            tripped = (self._counted(now, duration, failed=True) or in_a_row) and circuit.closed is self
            if tripped:
                circuit._open(now, cause)
        if tripped:
            circuit._told("open", now)

    def _counted(self, now: float, duration: float, *, failed: bool) -> bool:
        """Count the call, and tell whether a rate is reached."""
        if self._window is None:
            return False
        rates = self._circuit.rates
        return rates.trip(self._window.add(now, failed=failed, slow=rates.is_slow(duration)))

    def released(self) -> None:
        pass


class HalfOpen:
    """One half-open period: how many of its probes have succeeded."""

    __slots__ = ("circuit", "successes")

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.successes = 0

    def admit(self, now: float, lease: float) -> Probe | None:
        # Places are the circuit's: a probe of an earlier period that is still out takes one of them.
        probing = self.circuit._probing
        for lost in [probe for probe in probing if probe.leased_until <= now]:
            probing.discard(lost)
        if len(probing) >= self.circuit.probes:
            return None
        probe = Probe(self, now + lease)
        probing.add(probe)
        return probe

    def __repr__(self) -> str:
        circuit = self.circuit
        return f"{len(circuit._probing)} probing, {self.successes} of {circuit.probes} succeeded"


class Probe:
    """
    The ticket of one call through a half-open circuit.

    It takes one of the circuit's places until it ends or its lease does. Its verdict is its period's:
    it decides nothing when that is over, or when the lease was lost.
    """

    __slots__ = ("_round", "leased_until")

    def __init__(self, half_open: HalfOpen, leased_until: float) -> None:
        self._round = half_open
        self.leased_until = leased_until

    def succeeded(self, now: float, duration: float = 0.0) -> None:
        half_open, circuit = self._round, self._round.circuit
        closed = False
        with circuit._lock:
            if self._counts(now):
                half_open.successes += 1
                closed = half_open.successes >= circuit.probes
                if closed:
                    circuit._close()
        if closed:
            circuit._told("closed", now)

    def failed(self, now: float, cause: str, duration: float = 0.0) -> None:
        circuit = self._round.circuit
        with circuit._lock:
            counts = self._counts(now)
            if counts:
                circuit._open(now, cause)
        if counts:
            circuit._told("open", now)

    def released(self) -> None:
        with self._round.circuit._lock:
            self._round.circuit._probing.discard(self)

    def _counts(self, now: float) -> bool:
        circuit = self._round.circuit
        held = self in circuit._probing
        circuit._probing.discard(self)
        # An expired lease is no verdict, even while nobody has taken the place yet.
        return held and now < self.leased_until and circuit._round is self._round

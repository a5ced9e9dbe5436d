"""
Whether a service may be called: closed, open, half-open.

Every admission is a ticket, and what became of the call is told to the ticket. A ticket of an
earlier period writes to an object nobody reads any more, so a late answer decides nothing.

    closed ──(a trip rule is met)──────────> open ──(open time passed)──> half-open
      ^                                        ^                            │    │
      │                                        └──────(one failure)─────────┘    │
      └───────────────────(probes successes)──────────────────────────────────────┘

By hand it may be held open, switched off, or made to watch only: see `Circuit.set_mode`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal, Protocol

from shockproof.policies.backoff import Randomness
from shockproof.policies.open_time import OpenTime
from shockproof.policies.saved_circuit import SavedCircuit
from shockproof.policies.trip_rates import NO_RATES, Rates
from shockproof.vocabulary.shared_lock import shared_lock
from shockproof.vocabulary.statuses import CircuitMode

__all__ = [
    "PASS_THROUGH",
    "Admission",
    "Circuit",
    "CircuitObserver",
    "CircuitState",
    "Entrance",
    "Ticket",
]

CircuitState = Literal["closed", "open", "half-open"]


_ENOUGH_UNDER_SUSPICION: Final = 2
"""Failures in a row that open a circuit where another process has opened its own, and no call was well here since."""
_LONGEST_PAUSE: Final = 7 * 86_400.0
"""Seconds: what a header asks for beyond that is a mistake of the other side's."""


class Ticket(Protocol):
    """What a call has to tell. Exactly one of the verbs is called, once, when it is over."""

    def succeeded(self, now: float, duration: float = 0.0) -> None:
        """The call was a success and took *duration* seconds."""
        ...

    def failed(self, now: float, cause: object, duration: float = 0.0) -> None:
        """The call was a failure; if that opens the circuit, the text of *cause* is kept to be shown."""
        ...

    def released(self) -> None:
        """The call ended without a verdict: what was taken is given back."""
        ...


class Admission(Ticket, Protocol):
    """A ticket as the circuit gives it out: it may also hear of a call that does not end."""

    def overdue(self, now: float, cause: object, age: float) -> None:
        """
        The call has been in flight for *age* seconds and counts as a failure now.

        What it took it still has: when it ends at last, `released` is called.
        """
        ...


class CircuitObserver(Protocol):
    """Is told what becomes of a circuit; neither method may raise, and no lock is held."""

    def circuit_moved(self, to: CircuitState, now: float) -> None:
        """It went to another state."""
        ...

    def circuit_would_open(self, now: float) -> None:
        """It would have opened, if it did not only watch."""
        ...


class _PassThrough:
    """The ticket of a call that the circuit does not count: it decides nothing."""

    def succeeded(self, now: float, duration: float = 0.0) -> None:
        pass

    def failed(self, now: float, cause: object, duration: float = 0.0) -> None:
        pass

    def released(self) -> None:
        pass

    def overdue(self, now: float, cause: object, age: float) -> None:
        pass

    def __repr__(self) -> str:
        return "<ticket that decides nothing>"


PASS_THROUGH: Final = _PassThrough()


_ITS_TIMEOUT: Final = OpenTime()


_lock: Final = shared_lock()


class Entrance:
    """
    All that a healthy call touches of a service.

    Among a hundred thousand services a call mostly waits for memory, once for each object that it reads. So the admission that
    most circuits give for all their life, that of their first closed period, is the entrance itself.
    """

    __slots__ = ("lane", "stirred", "successes")

    lane: Closed | _PassThrough | None
    """The admission of everybody while the circuit is closed and its lane is open; None sends a call the long way."""
    stirred: bool | Literal["only timed"]
    """Whether a success is news to anybody: see `ServiceState`."""
    successes: int

    def __init__(self) -> None:
        self.lane = None
        self.stirred = False
        self.successes = 0


class _Outage:
    """What a circuit remembers of having been open: made when it first opens, which most never do."""

    __slots__ = (
        "calm_from",
        "draw",
        "open_until",
        "opened_at",
        "openings",
        "probing",
        "restored_for",
        "round",
        "told_to_wait_until",
        "trips",
    )

    def __init__(self) -> None:
        self.opened_at = 0.0
        self.open_until: float | None = None
        """None: as long as `Circuit.timeout` and `Circuit.open_time` say by then."""
        self.restored_for = math.inf
        """Seconds that an earlier process had left of its open time."""
        self.openings = 0
        """How often it opened in a row; 0 again when it has stayed closed for long enough."""
        self.calm_from = 0.0
        self.draw = 0.0
        self.round: HalfOpen | None = None
        self.probing: set[Probe] | None = None
        """Made by the first round."""
        self.told_to_wait_until = 0.0
        """Until when the other side has asked this process itself to wait."""
        self.trips = 0


_NO_OUTAGE: Final = _Outage()
"""That of all circuits that have never opened; nobody writes to it: see `Circuit._own_outage`."""


class _WhatEveryRefusalReads:
    # A class's slots lie in memory behind those of its base: next to each other, among thousands of circuits.
    __slots__ = ("closed", "plain_since", "timeout")


class Circuit(_WhatEveryRefusalReads):
    """
    The breaker of one service.

    Safe to share between tasks, threads and loops: transitions happen under a lock that is never held
    while anything else runs. The healthy path takes no lock: it reads the lane of the `entrance`.

    `threshold` failures in a row open it (None: never), or one of the `rates`. Open for `timeout`
    seconds, or as long as `open_time` makes of that, it then lets at most `probes` calls in at a time;
    that many successes close it and one failure opens it again, whatever the other probes say.

    Args:
        threshold: failures in a row that open it; None: that rule is off.
        timeout: seconds it stays open.
        probes: most probes in flight, and the successes that close it.
        rng: what the jitter of `open_time` draws from; None: it is not spread.
    """

    __slots__ = (
        "__dict__",
        "_lane_is_open",
        "_outage",
        "entrance",
        "last_error",
        "observer",
        "rates",
        "suspected_at",
        "threshold",
    )

    # What hardly any circuit has: the class's until it is its own. Slots for these would be a third of a circuit.
    probes: int = 1
    open_time: OpenTime = _ITS_TIMEOUT
    rng: Randomness | None = None
    """What the jitter of `open_time` draws from; None: it is not spread."""
    mode: CircuitMode = "normal"
    mode_reason: str | None = None
    """What whoever set the mode said."""
    mode_is_by_hand: bool = False
    shadow_trips: int = 0
    """How often it would have opened, since it only watches."""
    shadow_refusals: int = 0
    """How many calls it would have refused, since it only watches."""
    is_following: bool = False
    """Whether it is open because those of other processes are, and not by its own rules."""
    may_probe: Callable[[float, float], bool] | None = None
    """
    Asked with now and the seconds of its lease whether a probe may begin, where several processes share them; None:
    that is nobody else's business. Called while the lock is held, and must only look and remember.
    """

    def __init__(
        self, *, threshold: int | None, timeout: float, probes: int = 1, rng: Randomness | None = None
    ) -> None:
        self.threshold = threshold
        self.timeout = timeout
        if probes != 1:
            self.probes = probes
        self.rates = NO_RATES
        first = Closed(self)
        self.closed: Closed | _PassThrough | None = first
        """The admission of everybody while the circuit is closed; None while it is not."""
        self.entrance: Entrance = first
        self._lane_is_open = False
        self.last_error: str | None = None
        self.suspected_at: int | None = None
        """
        How many successes there had been here when another machine was found to have opened its circuit to the same service; None:
        none has. As long as there are no more, the second failure in a row opens this one.
        """
        self.observer: CircuitObserver | None = None
        if rng is not None:
            self.rng = rng
        self._outage = _NO_OUTAGE
        self.plain_since: float | None = None
        """When it opened, where it is open for its timeout and nothing else: what most refusals ask for."""

    def open_lane(self, *, is_open: bool) -> None:
        """Whether healthy calls may take the short way, past everything that is only asked for in trouble."""
        with _lock:
            self._lane_is_open = is_open
            self.entrance.lane = self.closed if is_open else None

    @property
    def trips(self) -> int:
        """How often it opened."""
        return self._outage.trips

    def admit(self, now: float, *, lease: float | None = None) -> Admission | None:
        """
        A ticket, or None when the circuit refuses.

        A probe that has not come back after *lease* seconds (None: `timeout`) loses its place.
        """
        closed = self.closed
        if closed is not None:
            return closed
        ticket: Admission | None = None
        with _lock:
            if self.closed is not None:
                return self.closed
            begun, outage = False, self._own_outage()
            if outage.round is None and self.mode != "forced-open" and now >= self._admits_from():
                self.plain_since, outage.round, begun = None, HalfOpen(self), True
            if outage.round is not None:
                ticket = outage.round.admit(now, self.timeout if lease is None else lease)
            if ticket is None and self.mode == "shadow":
                self.shadow_refusals += 1
                ticket = PASS_THROUGH
        if begun:
            self._told("half-open", now)
        return ticket

    def state(self, now: float) -> CircuitState:
        """
        The state at *now*; half-open as soon as the open time is over, without needing a call.

        One that is forced open is ``"open"``; one that is switched off or only watches, ``"closed"``.
        """
        if self.closed is not None or self.mode == "shadow":
            return "closed"
        return self.state_by_rules(now)

    def state_by_rules(self, now: float) -> CircuitState:
        """The same, but for one that only watches: the state it would have."""
        if self.closed is not None:
            return "closed"
        if self.mode == "forced-open" or (self._outage.round is None and now < self._admits_from()):
            return "open"
        return "half-open"

    def open_for(self, now: float) -> float:
        """
        Seconds for which everybody is still refused; 0 when one may come, or as soon as a probe is back.

        Infinite while it is forced open.
        """
        return 0.0 if self.mode == "shadow" else self.open_by_rules_for(now)

    def open_by_rules_for(self, now: float) -> float:
        """The same, but for one that only watches: the seconds for which it would refuse everybody."""
        if self.closed is not None:
            return 0.0
        if self.mode == "forced-open":
            return math.inf
        return 0.0 if self._outage.round is not None else max(0.0, self._admits_from() - now)

    def pause(self, now: float, seconds: float, cause: str) -> None:
        """
        Open it for *seconds*, a week at most: the other side said how long it wants to be left alone.

        One that is open already stays so for at least as long. One that is switched off (no threshold
        and no rates, or disabled) stays closed, and one that is forced open is not touched.
        """
        if not self._has_rules or self.mode in {"disabled", "forced-open"}:
            return
        with _lock:
            opens = self.closed is not None or self._outage.round is not None
            until = max(now + min(seconds, _LONGEST_PAUSE), 0.0 if opens else self._admits_from())
            if opens:
                self._open(now, cause)
            self.plain_since, self._own_outage().open_until = None, until
            self._outage.told_to_wait_until = until
        if opens:
            self._told("open", now)

    @property
    def _has_rules(self) -> bool:
        return self.threshold is not None or self.rates.are_on

    def reset(self, now: float) -> bool:
        """
        Close it, and forget what was counted; True when it was not closed before.

        The mode stays: what somebody forced open, only `set_mode` lets go.
        """
        with _lock:
            self._forget_openings()
            if self.mode == "forced-open":
                return False
            was_closed = self.closed is not None
            self._close(now)
        if not was_closed:
            self._told("closed", now)
        return not was_closed

    def set_mode(
        self, mode: CircuitMode, reason: str | None = None, *, by_hand: bool = True
    ) -> CircuitMode | None:
        """
        Hold it open, switch it off, make it watch only, or let it work as ever.

        * ``"normal"``: it works by its rules.
        * ``"forced-open"``: it refuses everybody, until another mode is set.
        * ``"disabled"``: everybody passes, and nothing is counted.
        * ``"shadow"``: it works by its rules, but whoever it would refuse passes nevertheless.

        Each change begins a new closed period: what was counted is forgotten, and calls that are in
        flight decide nothing. What is set *by_hand* is what `export` remembers.

        Returns:
            The mode before, or None when it had this one already.
        """
        with _lock:
            self.mode_reason = reason
            self.mode_is_by_hand = by_hand
            previous = self.mode
            if mode == previous:
                return None
            self.shadow_trips = self.shadow_refusals = 0
            self._forget_openings()
            # Those who read without the lock must see neither an open circuit on the way to another
            # mode, nor the rest of an old open time.
            if mode == "forced-open":
                self.plain_since, self.mode = None, mode
                self.closed = self.entrance.lane = self.last_error = None
            else:
                self._begin_closed(is_counting=mode != "disabled")
                self.mode, self.last_error = mode, None
            self._end_round()
        return previous

    def watch(self, rates: Rates) -> None:
        """Apply other rates from now on; what was counted for the old ones is forgotten."""
        with _lock:
            self.rates = rates
            if self.closed is not None:
                self._begin_closed(is_counting=self.mode != "disabled")

    # -- in a fleet --------------------------------------------------------------------------------

    def follow(self, other: SavedCircuit, now: float) -> bool:
        """
        Open as the circuit of another process is; True when that is news.

        For no longer than its own options allow. One that is open already, without being half-open, stays so for at
        least as long, so that all probe in the same round; one that has no rules, or another mode, stays as it is.
        """
        if not self._has_rules:
            return False
        with _lock:
            is_open = self.closed is None and self._outage.round is None and now < self._admits_from()
            if self.mode != "normal":
                return False
            if is_open:
                self._stay_open(other, now)
                return False
            self._open(now, other.last_error)
            self._reopen(other, other.remaining, now)
            self.is_following = True
        self._told("open", now)
        return True

    def follow_closing(self, now: float) -> bool:
        """
        Close, because a probe of another process was well; True when that is news.

        One that the other side has itself asked to wait stays open for that time.
        """
        with _lock:
            if self.closed is not None or self.mode != "normal" or self._is_told_to_wait(now):
                return False
            self._close(now)
        self._told("closed", now)
        return True

    # -- over a restart --------------------------------------------------------------------------

    @property
    def probing(self) -> int:
        """How many probes are in flight."""
        return len(self._outage.probing or ())

    def export(self, now: float) -> SavedCircuit | None:
        """What should outlive the process: that it is open and for how long; None when there is nothing."""
        with _lock:
            if self.mode != "normal":
                is_kept = self.mode == "forced-open" and self.mode_is_by_hand
                return SavedCircuit(is_forced_open=True, reason=self.mode_reason) if is_kept else None
            if self.closed is not None:
                return None
            outage = self._outage
            return SavedCircuit(
                remaining=0.0 if outage.round is not None else max(0.0, self._admits_from() - now),
                openings=outage.openings,
                is_paused=outage.round is None and outage.open_until is not None,
                last_error=self.last_error,
            )

    def restore(self, saved: SavedCircuit, now: float, elapsed: float) -> bool:
        """
        Open again as an earlier process left it, *elapsed* seconds ago; True when that is so now.

        Never for longer than it had left, nor than its own options allow by now (a pause: a week);
        a clock that was set back in between makes *elapsed* negative, and counts as no time at all.
        When the time is over it is half-open. One that has opened in this process, or that has no
        rules or another mode, stays as it is.
        """
        if not self._has_rules:
            return False
        with _lock:
            if self.mode != "normal" or self.closed is None or self.trips:
                return False
            left = max(0.0, saved.remaining - max(0.0, elapsed))
            self._open(now, saved.last_error)
            self._own_outage().trips = 0  # it is the other process's
            self._reopen(saved, left, now)
            self._outage.told_to_wait_until = self._outage.open_until or 0.0
        self._told("open", now)
        return True

    # -- inside: the lock is held ------------------------------------------------------------------

    def _own_outage(self) -> _Outage:
        if self._outage is _NO_OUTAGE:
            self._outage = _Outage()
        return self._outage

    def _forget_openings(self) -> None:
        if self._outage is not _NO_OUTAGE:
            self._outage.openings = 0

    def _end_round(self) -> None:
        if self._outage is not _NO_OUTAGE:
            self._outage.round = None

    def _admits_from(self) -> float:
        outage = self._outage
        if outage.open_until is not None:
            return outage.open_until
        return outage.opened_at + min(outage.restored_for, self._seconds_open())

    def _is_told_to_wait(self, now: float) -> bool:
        return now < self._outage.told_to_wait_until

    def _seconds_open(self) -> float:
        outage = self._outage
        return self.open_time.seconds(self.timeout, max(0, outage.openings - 1), outage.draw)

    def _close(self, now: float) -> None:
        if self._outage is not _NO_OUTAGE:
            # A service that fails again before it was well for as long as it was away has not recovered.
            self._outage.calm_from = now + self._seconds_open()
            self._outage.told_to_wait_until = 0.0
        self._end_round()
        self.last_error = None
        self._begin_closed(is_counting=self.mode != "disabled")

    def _begin_closed(self, *, is_counting: bool) -> None:
        self.plain_since = None
        self.closed = Closed(self) if is_counting else PASS_THROUGH
        self.entrance.lane = self.closed if self._lane_is_open else None

    def _open_by_rule(self, now: float, cause: object) -> None:
        outage = self._own_outage()
        if outage.round is None and now >= outage.calm_from:
            outage.openings = 0
        outage.openings += 1
        outage.draw = self.rng.random() if self.rng is not None and self.open_time.jitter else 0.0
        self._open(now, cause)
        if self.mode == "normal" and outage.openings == 1 and not outage.draw:
            self.plain_since = now

    def _stay_open(self, other: SavedCircuit, now: float) -> None:
        outage, seconds = self._own_outage(), other.remaining
        seconds = min(seconds, _LONGEST_PAUSE if other.is_paused else self._seconds_open())
        if now + seconds <= self._admits_from():
            return
        if outage.open_until is None and not other.is_paused:
            outage.opened_at, outage.restored_for = now, seconds
        else:
            outage.open_until = now + seconds
        self.plain_since = None

    def _reopen(self, other: SavedCircuit, seconds: float, now: float) -> None:
        """It was opened now, and stays so for the *seconds* that another process had left."""
        outage = self._own_outage()
        outage.openings, outage.draw = max(1, other.openings), 0.0
        if other.is_paused:
            outage.open_until = now + min(seconds, _LONGEST_PAUSE)
        else:
            outage.restored_for = seconds

    def _open(self, now: float, cause: object) -> None:
        # The times first: those who read without the lock would see it half-open for a moment.
        outage = self._own_outage()
        outage.opened_at, outage.open_until, outage.restored_for = now, None, math.inf
        self.plain_since = None
        self.last_error = None if cause is None else str(cause)
        self.closed, self.entrance.lane, outage.round = None, None, None
        if self.is_following:
            self.is_following = False
        if self.mode == "shadow":
            self.shadow_trips += 1
        else:
            outage.trips += 1

    # -- outside the lock ----------------------------------------------------------------------------

    def _told(self, state: CircuitState, now: float) -> None:
        if self.observer is None:
            return
        if self.mode != "shadow":
            self.observer.circuit_moved(state, now)
        elif state == "open":
            self.observer.circuit_would_open(now)

    def __repr__(self) -> str:
        mode = "" if self.mode == "normal" else f" {self.mode}"
        closed, half_open = self.closed, self._outage.round
        if isinstance(closed, Closed):
            return f"<Circuit{mode} closed, {closed.streak} of {self.threshold} failures in a row>"
        if closed is not None or self.mode == "forced-open":
            return f"<Circuit{mode}>"
        if half_open is not None:
            return f"<Circuit{mode} half-open, {half_open!r}>"
        opened_at = self._outage.opened_at
        return f"<Circuit{mode} open since {opened_at:.3f} for {self._admits_from() - opened_at:g} s>"


class Closed(Entrance):
    """
    One closed period: the ticket of everyone in it, and the count that may end it.

    The first of a circuit is its entrance for good; of the later ones nobody uses what they have of one.
    """

    __slots__ = ("_circuit", "_window", "streak")

    def __init__(self, circuit: Circuit) -> None:
        super().__init__()
        self._circuit = circuit
        self._window = circuit.rates.new_window() if circuit.rates.are_on else None
        self.streak = 0

    def succeeded(self, now: float, duration: float = 0.0) -> None:
        if self._window is None:  # nearly always; one assignment needs no lock
            self.streak = 0
            return
        circuit = self._circuit
        with _lock:
            self.streak = 0
            tripped = self._counted(now, duration, failed=False) and circuit.closed is self
            if tripped:
                circuit._open_by_rule(now, "too many calls were slow")
        if tripped:
            circuit._told("open", now)

    def failed(self, now: float, cause: object, duration: float = 0.0) -> None:
        circuit = self._circuit
        threshold = circuit.threshold
        self.streak += 1  # no call stands between its load and its store: see `ServiceState`
        in_a_row = threshold is not None and self.streak >= threshold
        # Who is answered knows better than who suspects: a bad machine does not make two stray failures an outage.
        is_suspected = circuit.suspected_at == circuit.entrance.successes
        is_confirmed = is_suspected and self.streak >= _ENOUGH_UNDER_SUSPICION
        if self._window is None and not (in_a_row or is_confirmed):
            return  # nearly always; the lock would take as long as all the rest
        with _lock:
            in_a_row = in_a_row or (is_confirmed and circuit._has_rules)
            tripped = (self._counted(now, duration, failed=True) or in_a_row) and circuit.closed is self
            if tripped:
                circuit._open_by_rule(now, cause)
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

    def overdue(self, now: float, cause: object, age: float) -> None:
        self.failed(now, cause, age)


class HalfOpen:
    """One half-open period: how many of its probes have succeeded."""

    __slots__ = ("circuit", "successes")

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.successes = 0

    def admit(self, now: float, lease: float) -> Probe | None:
        # Places are the circuit's: a probe of an earlier period that is still out takes one of them.
        outage = self.circuit._own_outage()
        probing = outage.probing
        if probing is None:
            probing = outage.probing = set()
        for lost in [probe for probe in tuple(probing) if probe.leased_until <= now]:
            probing.discard(lost)
        if len(probing) >= self.circuit.probes:
            return None
        if self.circuit.may_probe is not None and not self.circuit.may_probe(now, lease):
            return None
        probe = Probe(self, now + lease)
        probing.add(probe)
        return probe

    def __repr__(self) -> str:
        circuit = self.circuit
        return f"{circuit.probing} probing, {self.successes} of {circuit.probes} succeeded"


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
        with _lock:
            if self._counts(now, is_over=True):
                half_open.successes += 1
                closed = half_open.successes >= circuit.probes
                if closed:
                    circuit._close(now)
        if closed:
            circuit._told("closed", now)

    def failed(self, now: float, cause: object, duration: float = 0.0) -> None:
        self._failed(now, cause, is_over=True)

    def overdue(self, now: float, cause: object, age: float) -> None:
        self._failed(now, cause, is_over=False)

    def _failed(self, now: float, cause: object, *, is_over: bool) -> None:
        circuit = self._round.circuit
        with _lock:
            counts = self._counts(now, is_over=is_over)
            if counts:
                circuit._open_by_rule(now, cause)
        if counts:
            circuit._told("open", now)

    def released(self) -> None:
        with _lock:
            self._places().discard(self)

    def _places(self) -> set[Probe]:
        return self._round.circuit._outage.probing or set()

    def _counts(self, now: float, *, is_over: bool) -> bool:
        circuit = self._round.circuit
        held = self in self._places()
        if is_over:  # one that is overdue is in flight, and has its place until it ends
            self._places().discard(self)
        # An expired lease is no verdict, even while nobody has taken the place yet.
        return held and now < self.leased_until and circuit._outage.round is self._round

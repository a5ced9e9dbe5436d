"""Any history of a circuit, of all its modes and rules: it does what the simplest model of it does."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from shockproof.policies.circuit_breaker import Admission, Circuit
from shockproof.policies.open_time import OpenTime
from shockproof.policies.saved_circuit import SavedCircuit
from shockproof.policies.trip_rates import Rates
from shockproof.vocabulary.statuses import CIRCUIT_MODES, CircuitMode

CAUSE = "ValueError: no"
DRAW = 0.5


class HalfWay:
    """A source of randomness without a surprise."""

    def random(self) -> float:
        return DRAW


@dataclass(frozen=True)
class Options:
    """What a circuit is made with."""

    threshold: int | None
    timeout: float
    probes: int
    rates: Rates
    open_time: OpenTime


@dataclass(eq=False)
class Given:
    """What the model remembers of a ticket."""

    period: int
    is_probe: bool = False
    leased_until: float = math.inf
    is_overdue: bool = False
    counts: bool = True
    """False for one that passed although the rules refused it."""


@dataclass
class Model:
    """The contract's circuit, written as simply as it can be: one number tells periods apart."""

    options: Options
    mode: CircuitMode = "normal"
    by_hand: bool = False
    phase: str = "closed"
    period: int = 0
    streak: int = 0
    ended: list[tuple[float, bool, bool]] = field(default_factory=list)
    """When, whether it failed, and whether it was slow: of the closed period."""
    opened_at: float = 0.0
    opened_for: float | None = None
    """A length somebody else said: the other side, with a header."""
    left_over: float = math.inf
    """What an earlier process had left."""
    openings: int = 0
    draw: float = 0.0
    calm_from: float = 0.0
    successes: int = 0
    out: list[Given] = field(default_factory=list)
    """Probes in flight, of whatever round, that have their lease."""
    trips: int = 0
    shadow_trips: int = 0
    shadow_refusals: int = 0

    @property
    def has_rules(self) -> bool:
        return self.options.threshold is not None or self.options.rates.are_on

    # -- how long ----------------------------------------------------------------------------------

    def open_seconds(self) -> float:
        times, timeout = self.options.open_time, self.options.timeout
        grown = timeout
        for _ in range(self.openings - 1):
            grown = grown * times.factor
        return min(grown, max(timeout, times.longest)) * (1 - times.jitter * self.draw)

    def opens_until(self) -> float:
        if self.opened_for is not None:
            return self.opened_at + self.opened_for
        return self.opened_at + min(self.left_over, self.open_seconds())

    def by_rules(self, now: float) -> str:
        if self.mode == "forced-open":
            return "open"
        return "half-open" if self.phase == "open" and now >= self.opens_until() else self.phase

    def state(self, now: float) -> str:
        return "closed" if self.mode == "shadow" else self.by_rules(now)

    # -- transitions ---------------------------------------------------------------------------------

    def begin(self, phase: str) -> None:
        self.phase, self.period = phase, self.period + 1
        self.streak, self.successes, self.ended = 0, 0, []

    def close(self, now: float) -> None:
        self.calm_from = now + self.open_seconds()
        self.begin("closed")

    def open(self, now: float) -> None:
        self.opened_at, self.opened_for, self.left_over = now, None, math.inf
        if self.mode == "shadow":
            self.shadow_trips += 1
        else:
            self.trips += 1
        self.begin("open")

    def trip(self, now: float) -> None:
        if self.phase == "closed" and now >= self.calm_from:
            self.openings = 0
        self.openings += 1
        self.draw = DRAW if self.options.open_time.jitter else 0.0
        self.open(now)

    def pause(self, now: float, seconds: float) -> None:
        if not self.has_rules or self.mode in {"disabled", "forced-open"}:
            return
        until = now + seconds
        if self.phase == "open":
            until = max(until, self.opens_until())
        else:
            self.open(now)
        self.opened_for = until - self.opened_at

    def set_mode(self, mode: CircuitMode) -> None:
        self.by_hand = True
        if mode != self.mode:
            self.mode, self.openings = mode, 0
            self.shadow_trips = self.shadow_refusals = 0
            self.begin("closed")

    def reset(self, now: float) -> None:
        self.openings = 0
        if self.mode != "forced-open":
            self.close(now)

    # -- calls -----------------------------------------------------------------------------------------

    def admit(self, now: float, lease: float | None) -> Given | None:
        if self.mode == "forced-open":
            return None
        if self.phase == "closed":
            return Given(self.period, counts=self.mode != "disabled")
        given = self.admit_probe(now, lease) if self.by_rules(now) == "half-open" else None
        if given is None and self.mode == "shadow":
            self.shadow_refusals += 1
            return Given(self.period, counts=False)
        return given

    def admit_probe(self, now: float, lease: float | None) -> Given | None:
        if self.phase == "open":
            self.begin("half-open")
        self.out = [probe for probe in self.out if probe.leased_until > now]
        if len(self.out) >= self.options.probes:
            return None
        until = now + (self.options.timeout if lease is None else lease)
        probe = Given(self.period, is_probe=True, leased_until=until)
        self.out.append(probe)
        return probe

    def end(self, given: Given, now: float, outcome: str, duration: float) -> None:
        has_place = given in self.out
        self.out = [probe for probe in self.out if probe is not given]
        self.judge(given, now, outcome, duration, has_place=has_place)

    def judge(self, given: Given, now: float, outcome: str, duration: float, *, has_place: bool) -> None:
        is_late = given.period != self.period or (given.is_probe and not has_place)
        if outcome == "released" or is_late or not given.counts or now >= given.leased_until:
            return
        if given.is_probe:
            if outcome == "failed":
                self.trip(now)
                return
            self.successes += 1
            if self.successes >= self.options.probes:
                self.close(now)
            return
        self.streak = self.streak + 1 if outcome == "failed" else 0
        slow_after = self.options.rates.slow_call_after
        self.ended.append((now, outcome == "failed", slow_after is not None and duration > slow_after))
        threshold = self.options.threshold
        if (threshold is not None and self.streak >= threshold) or self.is_rate_reached(now):
            self.trip(now)

    def is_rate_reached(self, now: float) -> bool:
        rates = self.options.rates
        held = self.ended
        if rates.window_calls is not None:
            held = held[-rates.window_calls :]
            if rates.window is not None:
                held = [one for one in held if now - one[0] < rates.window]
        else:
            piece = (rates.window or 10.0) / 10
            held = [one for one in held if one[0] // piece > now // piece - 10]
        if len(held) < rates.min_calls:
            return False
        failed, slow = sum(one[1] for one in held), sum(one[2] for one in held)
        return (rates.failure_rate is not None and failed >= rates.failure_rate * len(held)) or (
            rates.slow_call_rate is not None and slow >= rates.slow_call_rate * len(held)
        )

    # -- over a restart ----------------------------------------------------------------------------------

    def restart(self, now: float, elapsed: float) -> Model:
        fresh = Model(self.options, period=self.period + 1)
        if self.mode == "forced-open" and self.by_hand:
            fresh.mode, fresh.by_hand = "forced-open", True
        elif self.mode == "normal" and self.phase != "closed" and self.has_rules:
            left = max(0.0, self.opens_until() - now) if self.phase == "open" else 0.0
            left = max(0.0, left - max(0.0, elapsed))
            fresh.begin("open")
            fresh.opened_at, fresh.openings = now, max(1, self.openings)
            if self.phase == "open" and self.opened_for is not None:
                fresh.opened_for = left
            else:
                fresh.left_over = left
        return fresh


RATES = (
    Rates(),
    Rates(failure_rate=0.5, min_calls=3),
    Rates(failure_rate=0.5, min_calls=2, window_calls=4),
    Rates(failure_rate=0.5, min_calls=2, window_calls=4, window=5.0),
    Rates(slow_call_after=1.0, slow_call_rate=0.5, min_calls=3, window=20.0),
    Rates(slow_call_after=1.0, slow_call_rate=1.0, failure_rate=1.0, min_calls=2, window_calls=2),
)


class CircuitAgainstModel(RuleBasedStateMachine):
    """Calls, answers, hung calls, lost leases, pauses, modes, resets, restarts and waits, in any order."""

    tickets = Bundle("tickets")

    @initialize(
        threshold=st.sampled_from([None, 1, 2, 3]),
        timeout=st.sampled_from([1.0, 16.0]),
        probes=st.integers(1, 3),
        rates=st.sampled_from(RATES),
        open_time=st.sampled_from(
            [OpenTime(), OpenTime(factor=2.0, longest=64.0), OpenTime(factor=4.0, longest=64.0, jitter=0.5)]
        ),
    )
    def start(
        self, threshold: int | None, timeout: float, probes: int, rates: Rates, open_time: OpenTime
    ) -> None:
        self.now = 1_024.0
        self.options = Options(threshold, timeout, probes, rates, open_time)
        self.circuit = self.made()
        self.model = Model(self.options)

    def made(self) -> Circuit:
        options = self.options
        circuit = Circuit(
            threshold=options.threshold, timeout=options.timeout, probes=options.probes, rng=HalfWay()
        )
        circuit.open_time = options.open_time
        circuit.watch(options.rates)
        return circuit

    @rule(
        target=tickets, lease=st.sampled_from([None, 0.5, 3.0, 1_000.0]), callers=st.sampled_from([1, 1, 4])
    )
    def call(self, lease: float | None, callers: int) -> object:
        pairs: list[tuple[Admission, Given]] = []
        for _ in range(callers):
            ticket, given = self.circuit.admit(self.now, lease=lease), self.model.admit(self.now, lease)
            assert (ticket is None) is (given is None)
            if ticket is not None and given is not None:
                pairs.append((ticket, given))
        return multiple(*pairs)

    @rule(
        pair=consumes(tickets),
        outcome=st.sampled_from(["succeeded", "failed", "released"]),
        duration=st.sampled_from([0.5, 1.0, 1.5]),
    )
    def end(self, pair: tuple[Admission, Given], outcome: str, duration: float) -> None:
        ticket, given = pair
        if given.is_overdue or outcome == "released":
            outcome = "released"
            ticket.released()
        elif outcome == "succeeded":
            ticket.succeeded(self.now, duration)
        else:
            ticket.failed(self.now, CAUSE, duration)
        self.model.end(given, self.now, outcome, duration)

    @rule(pair=tickets)
    def hang(self, pair: tuple[Admission, Given]) -> None:
        """It has been in flight for too long, and still is."""
        ticket, given = pair
        if not given.is_overdue:
            given.is_overdue = True
            ticket.overdue(self.now, CAUSE, 5.0)
            self.model.judge(given, self.now, "failed", 5.0, has_place=given in self.model.out)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.5, 16.0, 64.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(outcomes=st.lists(st.booleans(), min_size=1, max_size=6))
    def answers(self, outcomes: list[bool]) -> None:
        """The way to the interesting states: a run of calls that end at once."""
        for is_good in outcomes:
            ticket, given = self.circuit.admit(self.now), self.model.admit(self.now, None)
            assert (ticket is None) is (given is None)
            if ticket is not None and given is not None:
                if is_good:
                    ticket.succeeded(self.now)
                else:
                    ticket.failed(self.now, CAUSE)
                self.model.end(given, self.now, "succeeded" if is_good else "failed", 0.0)

    @rule()
    def open_time_passes(self) -> None:
        if self.model.phase == "open":
            self.now = max(self.now, self.model.opens_until())

    @rule(seconds=st.sampled_from([0.5, 32.0]))
    def pause(self, seconds: float) -> None:
        self.circuit.pause(self.now, seconds, "429")
        self.model.pause(self.now, seconds)

    @rule(dice=st.integers(0, 4), mode=st.sampled_from(CIRCUIT_MODES))
    def set_mode(self, dice: int, mode: CircuitMode) -> None:
        if dice == 0:
            previous = self.model.mode
            assert self.circuit.set_mode(mode) == (None if mode == previous else previous)
            self.model.set_mode(mode)

    @rule(dice=st.integers(0, 4))
    def reset(self, dice: int) -> None:
        if dice == 0:
            self.circuit.reset(self.now)
            self.model.reset(self.now)

    @rule(dice=st.integers(0, 4), elapsed=st.sampled_from([-1e6, 0.0, 4.0, 1e6]))
    def restart(self, dice: int, elapsed: float) -> None:
        """Another process goes on; the tickets of this one are told to an object nobody asks any more."""
        if dice != 0:
            return
        saved = self.circuit.export(self.now)
        self.circuit = self.made()
        if saved is not None:
            saved = SavedCircuit.from_dict(json.loads(json.dumps(saved.to_dict())))
            if saved.is_forced_open:
                self.circuit.set_mode("forced-open", saved.reason)
            else:
                self.circuit.restore(saved, self.now, elapsed)
        self.model = self.model.restart(self.now, elapsed)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "circuit"):
            return
        circuit, model = self.circuit, self.model
        assert circuit.state(self.now) == model.state(self.now)
        assert circuit.state_by_rules(self.now) == model.by_rules(self.now)
        assert (circuit.trips, circuit.shadow_trips) == (model.trips, model.shadow_trips)
        assert circuit.shadow_refusals == model.shadow_refusals
        assert circuit.mode == model.mode
        left = model.opens_until() - self.now if model.by_rules(self.now) == "open" else 0.0
        left = math.inf if model.mode == "forced-open" else left
        assert circuit.open_by_rules_for(self.now) == left
        assert circuit.open_for(self.now) == (0.0 if model.mode == "shadow" else left)
        assert (circuit.closed is None) is (model.phase != "closed" or model.mode == "forced-open")
        # What refusals read in place of all this.
        is_plain = (
            (model.mode, model.phase, model.openings) == ("normal", "open", 1)
            and (model.opened_for, model.left_over) == (None, math.inf)
            and not self.options.open_time.jitter
        )
        assert (circuit.plain_since is not None) is is_plain
        if circuit.plain_since is not None:
            assert max(0.0, circuit.plain_since + circuit.timeout - self.now) == left


TestCircuitAgainstModel = CircuitAgainstModel.TestCase

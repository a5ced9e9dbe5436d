"""A limit that finds itself, with real places behind it: laws that hold in any sequence that Hypothesis makes up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shockproof.policies.adaptive_concurrency import AdaptiveConcurrency, AdaptiveLimit
from shockproof.policies.bulkhead import Places

PROMPT = [1.0, 1.1, 1.25]
"""Seconds, so near to each other that none is slow beside another, nor worth halving the limit for."""
SLOW = [2.0, 4.0, 20.0]


@dataclass
class Told:
    """What the limit was told since it last moved, of calls that began after that."""

    calls: int = 0
    drops: int = 0
    slow: int = 0
    full: int = 0


class CallsUnderALimit(RuleBasedStateMachine):
    """
    Calls that begin, as many as there are places for, and end in every way.

    The model knows who is in flight, what was told since the limit last moved, and from where it last fell. It does
    not know windows: that a whole one must be seen before each move is one of the laws.
    """

    @initialize(minimum=st.integers(1, 6), more=st.integers(0, 30), most=st.integers(0, 60))
    def begin(self, minimum: int, more: int, most: int) -> None:
        initial = minimum + more
        self.minimum, self.maximum = minimum, initial + most
        bounds = AdaptiveConcurrency(initial=initial, minimum=minimum, maximum=self.maximum)
        self.adaptive = AdaptiveLimit(bounds)
        self.places = Places(self.adaptive.limit, 0)
        self.limit = initial
        self.now, self.moved_at = 1000.0, -math.inf
        self.in_flight: list[float] = []
        self.was_reached = False
        self.told = Told()
        self.falls: list[int] = []
        """The limits of the run of falls that it is in, or has just ended."""
        self.was_ever_dropped = self.is_slow = False

    # -- the model ---------------------------------------------------------------------------------

    def take(self) -> bool:
        has_room = len(self.in_flight) < self.limit
        assert self.places.take() == has_room
        if has_room:
            self.in_flight.append(self.now)
        else:
            self.was_reached = True
        return has_room

    def leave(self, which: int) -> float:
        """The end of a call, which may be any of those in flight; when it began."""
        self.places.give_back()
        return self.in_flight.pop(which % len(self.in_flight))

    def end(self, which: int, *, dropped: bool = False) -> None:
        began = self.in_flight[which % len(self.in_flight)]
        seconds, before = self.now - began, self.limit
        is_full = self.places.was_reached()
        assert is_full == (self.was_reached or len(self.in_flight) >= self.limit)
        self.was_reached = False
        counts = began >= self.moved_at
        self.was_ever_dropped |= dropped
        if counts:
            self.told.calls += 1
            self.told.drops += dropped
            self.told.slow += not dropped and seconds > max(PROMPT)
            self.told.full += is_full
        self.is_slow |= not dropped and seconds > max(PROMPT)
        has_moved = self.adaptive.ended(self.now, seconds, dropped=dropped, is_full=is_full)
        after = self.adaptive.limit
        assert has_moved == (after != before)
        if has_moved:
            assert counts
            self.moved(before, after)
        self.leave(which)
        self.places.resize(after, 0)

    def moved(self, before: int, after: int) -> None:
        told = self.told
        assert told.calls >= min(100, max(16, 2 * before))
        if after > before:
            assert told.drops < told.calls
            if after not in self.falls:  # else it is back where it was before a probe
                assert told.full
                root = math.sqrt(before + 1) / 2
                assert after <= max([before + 1 + max(1.0, root), *self.falls])
            self.falls = []
        else:
            assert after >= before // 2
            if not told.full or told.drops == told.calls:
                assert told.drops
                assert after >= math.floor(0.9 * before)
            if not told.drops and not self.is_slow:
                assert after == before // 2  # a probe, and nothing else
                assert after >= 4
            self.falls.append(before)
        self.limit, self.moved_at, self.told = after, self.now, Told()

    # -- what happens ------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([*PROMPT, *SLOW]), count=st.integers(0, 40))
    def calls_begin(self, seconds: float, count: int) -> None:
        self.now += seconds
        for _ in range(count):
            self.take()

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 50), seconds=st.sampled_from([0.0, *PROMPT]), dropped=st.booleans())
    def one_ends(self, which: int, seconds: float, dropped: bool) -> None:
        self.now += seconds
        self.end(which, dropped=dropped)

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 50))
    def one_ends_that_says_nothing(self, which: int) -> None:
        # A wrong request, or one that was cancelled: its place is free, and the limit is not told.
        self.leave(which)

    @rule(
        rounds=st.integers(1, 8),
        seconds=st.sampled_from([*PROMPT, *SLOW]),
        drops=st.sampled_from([0, 0, 0, 1, 5, 10]),
    )
    def a_crowd_keeps_it_full(self, rounds: int, seconds: float, drops: int) -> None:
        self.crowd(rounds, seconds, drops=drops)

    def crowd(self, rounds: int, seconds: float, *, drops: int = 0, most: float = math.inf) -> None:
        """So many round trips of up to *most* calls at a time; of ten calls *drops* are dropped."""
        for _ in range(rounds):
            while len(self.in_flight) < most and self.take():
                pass
            self.now += seconds
            for number in range(len(self.in_flight)):
                self.end(0, dropped=number % 10 < drops)

    @rule(seconds=st.sampled_from([*PROMPT, *SLOW]))
    def few_callers_never_reach_it(self, seconds: float) -> None:
        self.everybody_leaves()
        self.was_reached = False
        self.places.was_reached()
        before, falls = self.limit, list(self.falls)
        most = before // 2 - 1
        if most < 1:
            return
        # Past the window that was begun, and the one after it: nothing moves it now but the end of a probe.
        self.crowd(math.ceil(200 / most), seconds, most=most)
        settled = self.limit
        self.crowd(math.ceil(200 / most), seconds, most=most)
        assert self.limit == settled
        assert settled <= max([before, *falls]) or before < self.maximum

    @precondition(lambda self: not self.was_ever_dropped)
    @rule()
    def nothing_gets_through(self) -> None:
        # Drops that were never put up with: each window of them is one step down, by a tenth.
        self.everybody_leaves()
        self.moved_at = max(self.moved_at, self.now)
        before = self.limit
        for _ in range(200):
            self.take()
            self.now += 1.0
            self.end(0, dropped=True)
            if self.limit != before:
                break
        if before == self.minimum:
            assert self.limit == before
        else:
            assert max(self.minimum, math.floor(0.9 * before)) <= self.limit
            assert self.limit <= max(self.minimum, math.ceil(0.9 * (before + 1)) - 1)

    @rule()
    def all_is_well_for_a_while(self) -> None:
        # Four windows at least, whatever was begun before: a slow stretch is over after that.
        self.everybody_leaves()
        for _ in range(5):
            self.crowd(math.ceil(100 / self.limit) + 1, 1.0)
        self.is_slow = False

    def everybody_leaves(self) -> None:
        while self.in_flight:
            self.leave(0)

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def places_are_conserved(self) -> None:
        if hasattr(self, "limit"):
            assert self.places.in_use == len(self.in_flight)
            assert self.places.limit == self.adaptive.limit == self.limit

    @invariant()
    def it_stays_within_its_bounds(self) -> None:
        if hasattr(self, "limit"):
            assert self.minimum <= self.adaptive.limit <= self.maximum

    def teardown(self) -> None:
        if hasattr(self, "limit"):
            self.everybody_leaves()
            assert self.places.in_use == 0
            assert sum(self.places.take() for _ in range(self.limit + 1)) == self.limit


TestCallsUnderALimit = CallsUnderALimit.TestCase
TestCallsUnderALimit.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

"""The send rate against a plain token bucket and the cubic formula, in sequences that Hypothesis makes up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shockproof.policies.adaptive_retry import SendRate

LEAST, FORGOTTEN_AFTER = 0.5, 60.0
# Multiples of 1/64 s: what is added up and compared is exact.
SECONDS = st.integers(0, 200).map(lambda n: n / 64) | st.sampled_from([10.0, 59.0, 60.0])


def measured(answers: list[float]) -> float:
    """Answers a second, from the times of all there ever were: by half seconds, the last one weighs 0.8."""
    smoothed, counted, began = 0.0, 0, int(answers[0] * 2)
    for at in answers:
        counted += 1
        half_second = int(at * 2)
        if half_second > began:
            smoothed = 0.8 * counted / ((half_second - began) / 2) + 0.2 * smoothed
            counted, began = 0, half_second
    return smoothed or counted * 2.0


@dataclass(eq=False)
class Turn:
    """One that was taken."""

    place: float | None
    sent_at: float | None = None
    """None while it waits."""


class SendingAtARate(RuleBasedStateMachine):
    """
    Senders that queue, go, are answered, throttled and cancelled.

    The model is a bucket that may be owed to: whoever takes a turn takes one from it, and goes when the bucket
    holds nothing less than what those behind have taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate, self.now = SendRate(), 1000.0
        self.limit: float | None = None
        self.bucket = 0.0
        self.line: list[Turn] = []
        """All that took from the bucket, in this order."""
        self.in_flight: list[Turn] = []
        self.answers: list[float] = []
        self.slowed_at = self.rate_then = 0.0
        self.gave, self.sent = 0.0, 0
        """Since the rate was limited: what came into the bucket, and who went and was not given back."""

    # -- the model ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[Turn]:
        return [turn for turn in self.line if turn.sent_at is None]

    def cut(self) -> None:
        if self.limit is not None:
            self.bucket = min(self.bucket, max(1.0, self.limit))

    def limit_after(self, *, sent_at: float, throttled: bool) -> float | None:
        lately = measured(self.answers)
        if throttled:
            if self.limit is not None and sent_at < self.slowed_at:
                return self.limit
            self.rate_then = lately if self.limit is None else min(lately, self.limit)
            self.slowed_at = self.now
            wanted = 0.7 * self.rate_then
        elif self.limit is None or self.now - self.slowed_at >= FORGOTTEN_AFTER:
            return None
        else:
            back_after = math.cbrt(0.3 * self.rate_then / 0.4)
            wanted = 0.4 * (self.now - self.slowed_at - back_after) ** 3 + self.rate_then
        return max(LEAST, min(wanted, 2 * lately))

    def wait(self, turn: Turn) -> float:
        if self.limit is None or turn.place is None:
            return 0.0
        behind = len(self.line) - 1 - self.line.index(turn)
        return max(0.0, -self.bucket - behind) / self.limit

    # -- what happens ------------------------------------------------------------------------------

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.limit is not None:
            self.cut()
            self.gave += self.limit * seconds
            self.bucket += self.limit * seconds
            self.cut()

    @rule(is_urgent=st.booleans())
    def a_turn_is_taken(self, is_urgent: bool) -> None:
        self.cut()
        turn = Turn(self.rate.take(self.now))
        assert (turn.place is None) == (self.limit is None)
        if self.limit is None:
            turn.sent_at = self.now
            self.in_flight.append(turn)
            return
        self.bucket -= 1
        self.line.append(turn)
        if is_urgent:  # it asks for no wait, and those behind wait the longer
            self.gave += 1
            self.go(turn)

    def go(self, turn: Turn) -> None:
        turn.sent_at = self.now
        self.in_flight.append(turn)
        self.sent += 1

    @rule()
    def those_go_whose_turn_has_come(self) -> None:
        for turn in self.waiting:
            if self.rate.wait(turn.place, self.now) == 0.0:
                self.go(turn)

    @precondition(lambda self: self.waiting)
    @rule()
    def the_first_one_waits_as_long_as_it_was_told(self) -> None:
        first = self.waiting[0]
        self.time_passes(math.ceil(64 * self.rate.wait(first.place, self.now)) / 64)
        assert self.rate.wait(first.place, self.now) == 0.0

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, 50))
    def a_turn_is_given_back(self, which: int) -> None:
        # Cancelled in the queue, or refused by something behind it: whoever waits behind it moves up.
        turn = self.line.pop(-1 - which % len(self.line))
        self.rate.give_back(turn.place)
        self.bucket += 1
        self.cut()
        if turn.sent_at is not None:
            self.sent -= 1
            if turn in self.in_flight:
                self.in_flight.remove(turn)

    @rule()
    def nothing_is_given_back_of_a_free_turn(self) -> None:
        self.rate.give_back(None)

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 50), throttled=st.booleans())
    def an_answer_comes(self, which: int, throttled: bool) -> None:
        sent_at = self.in_flight.pop(which % len(self.in_flight)).sent_at
        assert sent_at is not None
        self.answered(sent_at, throttled=throttled)

    @rule(count=st.integers(1, 30), apart=st.sampled_from([0.0, 1 / 64, 1 / 16, 0.5]))
    def others_are_answered(self, count: int, apart: float) -> None:
        for _ in range(count):
            self.time_passes(apart)
            self.answered(self.now, throttled=False)

    @rule(age=st.sampled_from([0.0, 1 / 64, 1.0, 30.0]))
    def another_is_throttled(self, age: float) -> None:
        self.answered(self.now - age, throttled=True)

    def answered(self, sent_at: float, *, throttled: bool) -> None:
        self.answers.append(self.now)
        was_free = self.limit is None
        self.limit = self.limit_after(sent_at=sent_at, throttled=throttled)
        self.rate.answered(self.now, sent_at=sent_at, throttled=throttled)
        if was_free:
            self.bucket, self.gave, self.sent = 0.0, 0.0, 0
            self.line.clear()
        elif self.limit is None:
            for turn in self.waiting:
                assert self.rate.wait(turn.place, self.now) == 0.0
                self.go(turn)
            self.line.clear()
        self.cut()

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def it_allows_what_the_formula_allows(self) -> None:
        if self.answers:
            assert self.rate.measured == pytest.approx(measured(self.answers))
        if self.limit is None:
            assert self.rate.limit is None
            return
        assert self.rate.limit == pytest.approx(self.limit, rel=1e-6, abs=1e-6)
        assert self.rate.limit >= LEAST

    @invariant()
    def each_waits_as_long_as_the_bucket_says(self) -> None:
        for turn in self.waiting:
            assert self.rate.wait(turn.place, self.now) == pytest.approx(self.wait(turn), rel=1e-5, abs=1e-5)

    @invariant()
    def a_newcomer_would_find_what_the_bucket_holds(self) -> None:
        # A turn that is taken and given back at once leaves everything as it was.
        if self.limit is not None:
            place = self.rate.take(self.now)
            expected = max(0.0, 1 - self.bucket) / self.limit
            assert self.rate.wait(place, self.now) == pytest.approx(expected, rel=1e-5, abs=1e-5)
            self.rate.give_back(place)

    @invariant()
    def no_more_has_gone_than_the_rate_gave(self) -> None:
        if self.limit is not None:
            assert self.sent <= self.gave + 1e-4


TestSendingAtARate = SendingAtARate.TestCase
TestSendingAtARate.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

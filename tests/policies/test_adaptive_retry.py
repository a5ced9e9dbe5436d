"""The send rate of adaptive retries, the base delays and the costs: decided on numbers that are handed in."""

from __future__ import annotations

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.adaptive_retry import AdaptiveRetry, SendRate


def ran(rate: SendRate, *, per_second: float, seconds: float, begin: float = 1000.0) -> float:
    """*rate* after so many good answers, evenly spread; the time when the last one came."""
    now = begin
    for n in range(1, round(per_second * seconds) + 1):
        now = begin + n / per_second
        rate.answered(now, sent_at=now - 0.01, throttled=False)
    return now


def throttle(rate: SendRate, now: float) -> None:
    rate.answered(now, sent_at=now - 0.01, throttled=True)


def test_the_rate_is_free_until_the_other_side_throttles() -> None:
    """Nothing is taken and nobody waits."""
    rate = SendRate()
    now = ran(rate, per_second=50, seconds=4)
    assert rate.limit is None
    assert rate.take(now) is None
    assert rate.wait(None, now) == 0.0


def test_a_throttling_answer_slows_down_to_seven_tenths_of_what_was_measured() -> None:
    """The beta of CUBIC, of the measured rate at first."""
    rate = SendRate()
    now = ran(rate, per_second=50, seconds=10)
    throttle(rate, now + 0.01)
    assert rate.measured == pytest.approx(50, rel=0.05)
    assert rate.limit == pytest.approx(0.7 * rate.measured)


def test_the_rate_is_back_after_the_time_that_cubic_gives_it_and_goes_on_from_there() -> None:
    """0.4 (t - k)**3 + r, with k the third root of 0.3 r / 0.4; in between it never falls."""
    rate = SendRate()
    throttled_at = ran(rate, per_second=40, seconds=10)
    throttle(rate, throttled_at)
    r = rate.measured
    k = math.cbrt(0.3 * r / 0.4)
    seen = []
    for n in range(1, 1000):
        now = throttled_at + n / 40
        rate.answered(now, sent_at=now, throttled=False)
        expected = 0.4 * (now - throttled_at - k) ** 3 + r
        assert rate.limit == pytest.approx(max(0.5, min(expected, 2 * rate.measured)))
        seen.append(rate.limit)
    assert seen[round(k * 40)] == pytest.approx(r, rel=0.02)
    assert seen[-1] == pytest.approx(80, rel=0.05)  # twice the measured rate


def test_answers_to_what_was_sent_before_the_slow_down_do_not_slow_down_again() -> None:
    """Fifty requests in flight that are all throttled tell of one rate, and not of fifty."""
    rate = SendRate()
    now = ran(rate, per_second=50, seconds=10)
    throttle(rate, now)
    once = rate.limit
    for n in range(50):
        rate.answered(now + 0.001 * n, sent_at=now - 0.5, throttled=True)
    assert rate.limit == once
    throttle(rate, now + 1.0)
    assert rate.limit is not None
    assert once is not None
    assert rate.limit < once


def test_a_throttled_client_still_sends_every_other_second() -> None:
    """However long it is throttled, it finds out when that is over."""
    rate, now = SendRate(), 1000.0
    for _ in range(200):
        now += 1.0
        throttle(rate, now)
    assert rate.limit == 0.5


def test_what_was_sent_in_the_moment_of_the_slow_down_tells_of_the_new_rate() -> None:
    """Only what was sent before it is passed over."""
    rate = SendRate()
    now = ran(rate, per_second=50, seconds=10)
    throttle(rate, now)
    once = rate.limit
    rate.answered(now + 0.2, sent_at=now, throttled=True)
    assert once is not None
    assert rate.limit == pytest.approx(0.7 * once, rel=0.05)


def test_a_slow_client_is_measured_as_exactly_as_a_fast_one() -> None:
    """Each answer counts in one half second: two a second are two, and not four."""
    rate = SendRate()
    ran(rate, per_second=2, seconds=20)
    assert rate.measured == pytest.approx(2.0, rel=0.01)


def test_a_client_at_the_least_rate_saves_up_for_one_send() -> None:
    """After a long pause one may go at once, and the next two seconds later."""
    rate, now = SendRate(), 1000.0
    for _ in range(200):
        now += 1.0
        throttle(rate, now)
    now += 30.0
    assert [rate.wait(rate.take(now), now) for _ in range(3)] == [0.0, 2.0, 4.0]


def test_a_first_answer_that_is_throttled_slows_down_to_what_was_counted_so_far() -> None:
    """Before the first half second is full there is no measured rate, but there is a count."""
    rate = SendRate()
    for _ in range(20):
        rate.answered(1000.2, sent_at=1000.1, throttled=False)
    throttle(rate, 1000.3)
    assert rate.limit == pytest.approx(0.7 * 21 / 0.5)


def test_a_rate_that_was_not_throttled_for_a_minute_is_free_again() -> None:
    """Last night's throttling limits no burst this morning."""
    rate = SendRate()
    throttle(rate, 1000.0)
    rate.answered(1059.9, sent_at=1059.8, throttled=False)
    assert rate.limit is not None
    rate.answered(1060.0, sent_at=1059.9, throttled=False)
    assert rate.limit is None


def test_those_who_wait_go_one_after_the_other_at_the_rate() -> None:
    """The first place is due after one interval, the next after two."""
    rate = SendRate()
    throttle(rate, 1000.0)
    limit = rate.limit
    assert limit is not None
    places = [rate.take(1000.0) for _ in range(3)]
    assert [rate.wait(place, 1000.0) for place in places] == pytest.approx([n / limit for n in (1, 2, 3)])
    assert rate.wait(places[0], 1000.0 + 1 / limit) == pytest.approx(0.0)


def test_a_place_that_is_given_back_lets_the_next_one_in_earlier() -> None:
    """Whoever was cancelled pays nothing."""
    rate = SendRate()
    throttle(rate, 1000.0)
    first = rate.take(1000.0)
    rate.give_back(first)
    assert rate.limit is not None
    assert rate.wait(rate.take(1000.0), 1000.0) == pytest.approx(1 / rate.limit)


def test_a_pause_saves_up_for_one_second_and_no_more() -> None:
    """A bucket of one second's sends, or of one."""
    rate = SendRate()
    now = ran(rate, per_second=50, seconds=10)
    throttle(rate, now)
    assert rate.limit is not None
    free = 0
    while rate.wait(rate.take(now + 30.0), now + 30.0) == 0.0:
        free += 1
    assert free == round(rate.limit)


def test_who_waits_when_the_rate_becomes_free_may_go() -> None:
    """Places of a limit that has been lifted hold nobody."""
    rate = SendRate()
    throttle(rate, 1000.0)
    places = [rate.take(1000.0) for _ in range(1000)]
    rate.answered(1061.0, sent_at=1060.9, throttled=False)
    assert {rate.wait(place, 1061.0) for place in places} == {0.0}
    rate.give_back(places[0])
    throttle(rate, 1062.0)
    assert rate.limit is not None
    assert rate.wait(rate.take(1062.0), 1062.0) == pytest.approx(1 / rate.limit)


def test_a_clock_that_stands_still_gives_nothing() -> None:
    """No time, no sends: also not by asking again and again."""
    rate = SendRate()
    throttle(rate, 1000.0)
    place = rate.take(1000.0)
    waits = {rate.wait(place, 1000.0) for _ in range(100)}
    assert len(waits) == 1


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["good", "throttled", "take", "give back"]), st.floats(0, 3)), max_size=200
    )
)
def test_in_any_stretch_no_more_is_sent_than_the_rate_gave(steps: list[tuple[str, float]]) -> None:
    """Against a model: what was let go is at most what was filled, by the largest rate of each step, and a second's worth."""
    rate, now = SendRate(), 1000.0
    waiting: list[float | None] = []
    gave, sent = 0.0, 0
    for step, passed in steps:
        if rate.limit is None:
            gave, sent = 0.0, 0
        else:
            gave += rate.limit * passed
        now += passed
        before = rate.limit
        if step == "take":
            waiting.append(rate.take(now))
        elif step == "give back" and waiting:
            rate.give_back(waiting.pop())
        else:
            rate.answered(now, sent_at=now, throttled=step == "throttled")
        if before is None or rate.limit is None:
            waiting, gave, sent = [], 0.0, 0
            continue
        assert rate.limit >= 0.5
        assert rate.limit <= max(0.5, 2 * rate.measured) + 1e-9
        go = [place for place in waiting if rate.wait(place, now) == 0.0]
        waiting = [place for place in waiting if rate.wait(place, now) > 0.0]
        sent += len(go)
        assert sent <= gave + 1e-6


def test_each_kind_of_error_has_its_own_base_delay_and_cost() -> None:
    """A refused connection is cheap and soon tried again; a timeout may have left work behind."""
    adaptive = AdaptiveRetry()
    assert [
        (adaptive.base_delay(kind, 1.0), adaptive.cost(kind))
        for kind in ("throttled", "timeout", "server", "connection", "other")
    ] == [(2.0, 0.5), (2.0, 2.0), (1.0, 1.0), (0.5, 1.0), (1.0, 1.0)]


def test_successes_fund_its_own_budget() -> None:
    """And nothing else does: a storm runs it dry."""
    adaptive = AdaptiveRetry()
    while adaptive.budget.take():
        pass
    for kind in ("throttled", "timeout", "server"):
        adaptive.answered(1000.0, sent_at=999.0, kind=kind)  # type: ignore[arg-type]  # the three are kinds
    assert adaptive.budget.tokens == 0.0
    adaptive.answered(1001.0, sent_at=1000.5, kind=None)
    assert adaptive.budget.tokens == pytest.approx(0.1)


def test_only_throttling_answers_slow_it_down() -> None:
    """And those to what was sent before the last slow-down do not, as for the rate alone."""
    adaptive = AdaptiveRetry()
    for kind in ("timeout", "server", "connection", "other", None):
        adaptive.answered(1000.0, sent_at=999.0, kind=kind)  # type: ignore[arg-type]  # they are kinds
    assert adaptive.send_rate.limit is None
    adaptive.answered(1001.0, sent_at=1000.5, kind="throttled")
    once = adaptive.send_rate.limit
    assert once is not None
    adaptive.answered(1001.0, sent_at=1000.6, kind="throttled")
    assert adaptive.send_rate.limit == once
    adaptive.answered(1001.4, sent_at=1001.2, kind="throttled")
    assert adaptive.send_rate.limit < once


def test_its_repr_shows_what_holds_now() -> None:
    """For the person debugging at night."""
    adaptive = AdaptiveRetry()
    assert repr(adaptive) == "<AdaptiveRetry <SendRate free, 0/s measured>, <RetryBudget 10 of 10>>"
    throttle(adaptive.send_rate, 1000.0)
    assert repr(adaptive.send_rate) == "<SendRate 1.4/s allowed, 2/s measured>"


def test_those_behind_move_up_when_places_are_given_back_in_front_of_them() -> None:
    """Else the last of six, four of whom left, would wait for a place that no refill ever reaches."""
    rate = SendRate()
    rate.answered(1000.0, sent_at=999.9, throttled=True)
    assert rate.limit is not None
    second = 1 / rate.limit
    places = [rate.take(1000.0) for _ in range(6)]
    assert rate.wait(places[5], 1000.0) == pytest.approx(6 * second)
    for place in places[:4]:
        rate.give_back(place)
    assert rate.wait(places[4], 1000.0) == pytest.approx(1 * second)
    assert rate.wait(places[5], 1000.0) == pytest.approx(2 * second)
    assert rate.wait(places[5], 1000.0 + 2 * second) == 0.0


def test_those_in_front_do_not_move_up_when_one_behind_them_leaves() -> None:
    """Who gives up at the end of the line makes nobody else faster, and the next comer takes that place."""
    rate = SendRate()
    rate.answered(1000.0, sent_at=999.9, throttled=True)
    assert rate.limit is not None
    places = [rate.take(1000.0) for _ in range(3)]
    before = rate.wait(places[1], 1000.0), rate.wait(places[2], 1000.0)
    rate.give_back(places[2])
    assert rate.wait(places[1], 1000.0) == before[0]
    assert rate.wait(rate.take(1000.0), 1000.0) == before[1]


def test_turns_that_were_given_back_in_the_queue_leave_no_more_room_for_a_burst() -> None:
    """The bucket holds a second's worth after any pause, also when the last in line had left."""
    rate = SendRate()
    rate.answered(0.0, sent_at=0.0, throttled=True)
    assert rate.limit == pytest.approx(1.4)
    places = [rate.take(0.0) for _ in range(5)]
    rate.give_back(places[3])
    rate.give_back(places[4])
    first, second = rate.take(30.0), rate.take(30.0)
    assert rate.wait(first, 30.0) == 0.0
    assert rate.wait(second, 30.0) == pytest.approx(0.6 / 1.4)


class Line:
    """Three who wait for their turns at a rate that is limited, and who of them was told to ask again."""

    def __init__(self, *, dead: str = "") -> None:
        self.rate = SendRate()
        self.rate.answered(0.0, sent_at=0.0, throttled=True)
        self.told: list[str] = []
        self.places: dict[str, int] = {}
        for name in "abc":
            place = self.rate.take(0.0)
            assert place is not None
            self.places[name] = place
            self.rate.watch(place, partial(self.tell, name, is_there=name not in dead))

    def tell(self, name: str, *, is_there: bool) -> bool:
        self.told.append(name)
        return is_there

    def leave(self, name: str) -> None:
        self.rate.leave(self.places[name])


def test_a_rate_that_rises_is_told_to_the_first_in_line_who_tells_the_next_by_going() -> None:
    """Nobody looks again by himself, and an answer wakes one caller, not all of them."""
    line = Line()
    line.rate.answered(1.0, sent_at=0.5, throttled=False)
    assert line.told == ["a"]
    line.leave("a")
    assert line.told == ["a", "b"]
    line.leave("c")
    assert line.told == ["a", "b"]
    line.leave("b")
    line.rate.answered(1.5, sent_at=1.0, throttled=False)
    assert line.told == ["a", "b"]


@pytest.mark.parametrize(("now", "throttled"), [(1.0, True), (61.0, False)], ids=["it falls", "it is free"])
def test_a_rate_that_falls_or_is_free_is_told_to_all(now: float, throttled: bool) -> None:
    """Some have no time for the longer wait; and where there is no line, nobody goes before anybody."""
    line = Line()
    line.rate.answered(now, sent_at=now, throttled=throttled)
    assert line.told == ["a", "b", "c"]


def test_an_answer_that_changes_nothing_is_told_to_nobody() -> None:
    """Such as a throttling answer to what was sent before the last slow-down."""
    line = Line()
    line.rate.answered(0.25, sent_at=-1.0, throttled=True)
    assert line.told == []


def test_a_place_that_is_given_back_is_told_to_the_first_who_is_still_there() -> None:
    """The loop of one has ended: the next is told in its place."""
    line = Line(dead="a")
    line.rate.give_back(line.places["b"])
    assert line.told == ["a", "b"]
    line.rate.give_back(line.places["c"])
    assert line.told == ["a", "b", "b"]


def test_one_whose_loop_has_ended_may_leave_later_or_at_that_very_moment() -> None:
    """Its call is collected at some time; nobody else is harmed."""
    line = Line(dead="a")

    def is_collected() -> bool:
        line.leave("b")
        return False

    line.rate.watch(line.places["b"], is_collected)
    line.rate.answered(1.0, sent_at=0.5, throttled=False)
    assert line.told == ["a", "c", "c"]
    for name in "acba":
        line.leave(name)
    assert line.told == ["a", "c", "c"]

"""A limit that finds itself, against servers of every kind: it converges, and nothing traps it."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shockproof.policies.adaptive_concurrency import AdaptiveConcurrency, AdaptiveLimit

Draw = Callable[[random.Random], float]

SERVICE_TIMES: dict[str, Draw] = {
    "steady": lambda rng: 0.1 * rng.uniform(0.9, 1.1),
    "exponential": lambda rng: rng.expovariate(10.0),
    "heavy tail": lambda rng: rng.lognormvariate(math.log(0.1) - 0.5, 1.0),
}
every_service_time = pytest.mark.parametrize("draw", SERVICE_TIMES.values(), ids=list(SERVICE_TIMES))


@dataclass
class Server:
    """
    Works on so many calls at once, first in first out, and on those that nobody waits for any more; clients
    that always want more send as many as the limit allows.
    """

    draw: Draw
    capacity: Callable[[float], float] = lambda now: 50
    slower: Callable[[float], float] = lambda now: 1.0
    """How many times the work takes as long."""
    behind: Callable[[float], float] = lambda now: 0.0
    """Seconds that pass behind it, whatever the load."""
    hangs: Callable[[float], float] = lambda now: 0.0
    """The share of calls that are never answered."""
    wanted: float = math.inf
    timeout: float = math.inf
    bounds: AdaptiveConcurrency = field(default_factory=AdaptiveConcurrency)
    seed: int = 1

    def run(self, seconds: float) -> tuple[list[int], list[int]]:
        """The limit at the end of each second, and how many calls were answered in it."""
        rng, limit = random.Random(self.seed), AdaptiveLimit(self.bounds)
        events: list[tuple[float, int, str, float]] = []
        order, queue, over = itertools.count(), deque[int](), set[int]()
        began: dict[int, float] = {}
        now, busy, in_flight = 0.0, 0, 0
        limits, answered = [limit.limit], [0]

        def later(wait: float, what: str, number: float) -> None:
            heapq.heappush(events, (now + wait, next(order), what, number))

        def send() -> None:
            nonlocal in_flight, busy
            while in_flight < min(limit.limit, self.wanted):
                in_flight += 1
                number = len(began)
                began[number] = now
                if self.timeout < math.inf:
                    later(self.timeout, "timeout", number)
                if rng.random() >= self.hangs(now):
                    queue.append(number)
            while queue and busy < self.capacity(now):
                busy += 1
                later(self.draw(rng) * self.slower(now), "worked", queue.popleft())

        later(1.0, "second", 0)
        send()
        while now < seconds:
            now, _, what, number = heapq.heappop(events)
            if what == "second":
                limits.append(limit.limit)
                answered.append(0)
                later(1.0, "second", 0)
            elif what == "worked":
                busy -= 1
                later(self.behind(now), "answered", number)
            elif number not in over:
                over.add(int(number))
                took, is_full = now - began[int(number)], in_flight >= limit.limit
                limit.ended(now, took, dropped=what == "timeout", is_full=is_full)
                in_flight -= 1
                answered[-1] += what == "answered"
            send()
        return limits[1:], answered[:-1]


def mean(values: list[int]) -> float:
    return sum(values) / len(values)


@every_service_time
@pytest.mark.parametrize("capacity", [5, 20, 50])
def test_it_settles_a_little_above_what_the_server_works_on_at_once(draw: Draw, capacity: int) -> None:
    """Everything that can be answered is, with a queue that is shorter than the work in progress."""
    limits, answered = Server(draw, capacity=lambda now: capacity).run(120)

    assert mean(answered[30:]) > 0.85 * capacity / 0.1
    assert 0.8 * capacity < mean(limits[30:]) < 2 * capacity


@every_service_time
def test_limit_that_begins_far_too_high_is_not_taken_for_normal(draw: Draw) -> None:
    """All it ever saw was its own queue: twenty times the work it takes."""
    limits, answered = Server(draw, capacity=lambda now: 10, bounds=AdaptiveConcurrency(initial=200)).run(120)

    assert mean(limits[60:]) < 25
    assert mean(answered[60:]) > 80


@every_service_time
def test_it_follows_a_capacity_that_drops_and_comes_back(draw: Draw) -> None:
    """Half of the servers are gone for a minute."""
    limits, answered = Server(draw, capacity=lambda now: 25 if 40 <= now < 100 else 50).run(180)

    assert mean(limits[70:100]) < 50
    assert mean(answered[70:100]) > 200
    assert mean(answered[140:]) > 425


@every_service_time
def test_constant_timeouts_neither_let_it_grow_nor_keep_it_down(draw: Draw) -> None:
    """For a minute nothing is answered at all; half a minute later everything is as before."""
    limits, answered = Server(draw, hangs=lambda now: 1.0 if 40 <= now < 100 else 0.0, timeout=1.0).run(180)

    assert max(limits[45:100]) <= max(limits[:41])
    assert limits[99] < 30
    assert mean(answered[130:]) > 425


@every_service_time
def test_timeouts_that_have_nothing_to_do_with_load_are_put_up_with(draw: Draw) -> None:
    """One call in five is never answered, whatever we do: fewer calls would only mean fewer answers."""
    _, answered = Server(draw, hangs=lambda now: 0.2, timeout=1.0).run(240)

    assert mean(answered[150:]) > 300


@every_service_time
def test_dependency_that_becomes_slower_by_itself_is_not_starved(draw: Draw) -> None:
    """It takes five times as long and has room for all: after a while its latency is the new normal."""
    limits, _ = Server(
        draw,
        capacity=lambda now: math.inf,
        behind=lambda now: 0.4 if now >= 40 else 0.0,
        bounds=AdaptiveConcurrency(maximum=50),
    ).run(200)

    assert mean(limits[150:]) > 40


@every_service_time
def test_stretch_of_slow_work_is_not_remembered_as_normal(draw: Draw) -> None:
    """A minute later the limit is where it was: the queue of that time taught it nothing."""
    limits, answered = Server(draw, slower=lambda now: 5.0 if 40 <= now < 70 else 1.0).run(240)

    assert mean(limits[150:]) < 100
    assert mean(answered[150:]) > 425


@every_service_time
def test_overload_of_our_own_that_ends_in_timeouts_is_left(draw: Draw) -> None:
    """The server works on what nobody waits for: only far fewer calls get it out of that."""
    _, answered = Server(
        draw, capacity=lambda now: 20, timeout=0.3, bounds=AdaptiveConcurrency(initial=200)
    ).run(150)

    assert mean(answered[60:]) > 130


@every_service_time
def test_it_does_not_grow_while_it_is_not_reached(draw: Draw) -> None:
    """Five callers say nothing about what fifty would do."""
    limits, _ = Server(draw, wanted=5).run(60)

    assert set(limits) == {10}


def fed(
    limit: AdaptiveLimit, *, windows: int, seconds: float, now: float = 0.0, dropped: bool = False
) -> float:
    """So many windows of calls that all take so long, one after another; the time at their end."""
    for _ in range(windows * 200):
        now += seconds
        limit.ended(now, seconds, dropped=dropped, is_full=True)
    return now


def test_pause_of_our_own_program_does_not_shrink_it() -> None:
    """All calls in flight look slow at once; those that began after it do not."""
    limit = AdaptiveLimit(AdaptiveConcurrency(initial=40, maximum=40))
    now, before = fed(limit, windows=20, seconds=0.1), limit.limit
    for _ in range(300):  # a whole crowd that was in flight when the program stood still
        limit.ended(now + 5.0, 5.1, dropped=False, is_full=True)
    fed(limit, windows=1, seconds=0.1, now=now + 5.0)

    assert before == limit.limit == 40


def test_drops_shrink_it_once_for_a_round_trip() -> None:
    """A crowd that times out together is one event, as a burst of lost packets is for TCP."""
    limit = AdaptiveLimit(AdaptiveConcurrency(initial=100))
    for _ in range(500):
        limit.ended(10.0, 5.0, dropped=True, is_full=True)

    assert limit.limit == 90


@pytest.mark.parametrize("name", ["minimum", "initial", "maximum"])
@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (2.5, TypeError), (True, TypeError)])
def test_a_bound_that_is_no_number_of_calls_is_refused_by_its_name(
    name: str, value: object, kind: type[Exception]
) -> None:
    """Three numbers side by side: the message says which one."""
    bounds: dict[str, Any] = {name: value}
    with pytest.raises(kind, match=f"^{name} must be .*{value!r}"):
        AdaptiveConcurrency(**bounds)


@pytest.mark.parametrize("bounds", [{"minimum": 20}, {"initial": 300}, {"minimum": 0}, {"maximum": 5}])
def test_bounds_out_of_order_are_refused(bounds: dict[str, int]) -> None:
    """The message names them."""
    with pytest.raises(ValueError, match="minimum"):
        AdaptiveConcurrency(**bounds)


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.floats(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=400
    ),
    st.integers(1, 5),
    st.integers(6, 50),
)
@settings(max_examples=50)
def test_it_stays_within_its_bounds_whatever_it_is_told(
    calls: list[tuple[float, float, bool, bool]], minimum: int, maximum: int
) -> None:
    """Nothing divides by zero either: a call may take no time at all."""
    limit = AdaptiveLimit(AdaptiveConcurrency(initial=minimum, minimum=minimum, maximum=maximum))
    now = 0.0
    for gap, seconds, dropped, is_full in calls:
        now += gap
        before = limit.limit
        assert limit.ended(now, seconds, dropped=dropped, is_full=is_full) == (limit.limit != before)
        assert minimum <= limit.limit <= maximum


def test_threads_may_tell_it_at_the_same_time() -> None:
    """No window is counted twice, and none is lost: sixteen calls make the first."""
    limit = AdaptiveLimit(AdaptiveConcurrency(initial=8, minimum=8))
    told = threading.Barrier(4)

    def tell() -> None:
        told.wait()
        for _ in range(4):
            limit.ended(1.0, 0.5, dropped=True, is_full=True)

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert limit._answered + limit._dropped == 0


# -- step by step: the same latency for all calls of a window, and what becomes of the limit after each ------


class Steps:
    """A limit that is told of whole windows: 2 calls for each place, at least 16 and at most 100."""

    def __init__(self, initial: int, *, minimum: int = 1, maximum: int = 200) -> None:
        self.limit = AdaptiveLimit(AdaptiveConcurrency(initial=initial, minimum=minimum, maximum=maximum))
        self.now = 0.0

    def window(self, latency: float = 1.0, *, drops: int = 0, is_full: bool = True) -> int:
        """The limit after one window, each call of which began when the one before had ended."""
        before = self.limit.limit
        calls = min(100, max(16, 2 * before))
        moved = []
        for number in range(calls):
            self.now += latency
            moved.append(
                self.limit.ended(self.now, latency, dropped=number < drops, is_full=is_full and number == 0)
            )
        assert moved == [False] * (calls - 1) + [self.limit.limit != before]
        return self.limit.limit

    def windows(self, *latencies: float) -> list[int]:
        return [self.window(latency) for latency in latencies]

    def known(self, latency: float = 1.0, *, windows: int = 4) -> Steps:
        """The same after so many windows of one latency: what it takes unloaded is known then."""
        for _ in range(windows):
            self.window(latency)
        return self

    @property
    def unloaded(self) -> str:
        return repr(self.limit).partition("unloaded latency ")[2].rstrip(">")


def test_limit_grows_by_half_its_root_and_probes_ever_less_often() -> None:
    """After 1, 2, 4, 8, 16, 32 and then always 32 windows that found nothing new; the first window counts not."""
    steps = Steps(20, maximum=24)
    limits = [steps.window() for _ in range(110)]

    assert limits[:12] == [20, 10, 20, 22, 11, 22, 24, 24, 24, 12, 24, 24]
    probes = [number for number, limit in enumerate(limits) if limit < 20]
    assert probes == [1, 4, 9, 18, 35, 68, 101]
    assert steps.unloaded == "1 s"


def test_small_limit_grows_by_one_and_is_not_halved_below_four() -> None:
    """With three in flight there is no queue to empty."""
    assert Steps(2).windows(*[1.0] * 8) == [2, 3, 4, 5, 6, 7, 8, 4]
    assert Steps(9, minimum=5).windows(*[1.0] * 4) == [9, 10, 5, 10]


def test_burst_at_the_very_start_is_not_the_unloaded_latency() -> None:
    """What is learnt begins with the calls that began after it."""
    steps = Steps(20)
    steps.window(9.0)
    assert steps.unloaded == "unknown"
    steps.window(1.0)
    assert steps.unloaded == "1 s"


def test_calls_that_began_before_the_limit_moved_are_not_counted() -> None:
    """They show what the old limit did; one that began at that very moment shows the new one."""
    steps = Steps(20).known(windows=2)
    assert steps.limit.limit == 10
    for _ in range(1_000):
        assert not steps.limit.ended(steps.now, 0.001, dropped=True, is_full=True)
    assert steps.window() == 20


@pytest.mark.parametrize(("is_full", "limit"), [(True, 22), (False, 20)])
def test_one_moment_at_the_limit_makes_a_window_full(is_full: bool, limit: int) -> None:
    """Only then it held somebody back; else nothing is known about more."""
    assert Steps(20).known(windows=3).window(is_full=is_full) == limit


def test_slow_window_has_to_be_confirmed_and_then_shrinks_in_proportion() -> None:
    """To 1.5 times the unloaded share; when half of it is no faster, that latency is the new normal."""
    steps = Steps(40, maximum=40).known()

    assert steps.windows(2.0) == [40]
    assert steps.windows(2.0, 2.0, 2.0) == [30, 22, 16]  # 40, 22.5 and 16.875: three quarters each
    assert steps.unloaded == "1 s"
    assert steps.windows(2.0) == [16]
    assert steps.unloaded == "2 s"


def test_slow_window_never_more_than_halves_the_limit() -> None:
    """However slow it was: a queue that is eight times too long is left in steps."""
    steps = Steps(40, maximum=40).known()

    assert steps.windows(8.0, 8.0, 8.0) == [40, 20, 20]
    assert steps.unloaded == "8 s"


def test_half_the_calls_that_are_faster_go_on_being_halved() -> None:
    """At three quarters of the latency it helped, and is tried again from there."""
    steps = Steps(40, maximum=40).known()

    assert steps.windows(4.0, 4.0, 3.0) == [40, 20, 10]
    assert steps.unloaded == "1 s"
    assert steps.windows(2.5) == [10]  # more than 0.8 of 3: no faster than before
    assert steps.unloaded == "2.5 s"


def test_four_fifths_of_the_latency_are_faster() -> None:
    """Only what takes longer than that is the new normal."""
    steps = Steps(40, maximum=40).known()

    assert steps.windows(2.5, 2.5, 2.5, 2.0) == [40, 24, 14, 10]
    assert steps.unloaded == "1 s"


def test_single_slow_window_is_forgotten() -> None:
    """The next slow one has to be confirmed again, and is measured from there."""
    steps = Steps(40, maximum=40).known(windows=6)

    assert steps.windows(4.0, 1.0, 4.0, 4.0) == [40, 40, 40, 20]


@pytest.mark.parametrize(
    ("limit", "latency", "slow"), [(40, 1.5, False), (40, 1.51, True), (6, 2.0, False), (7, 2.0, True)]
)
def test_what_is_slow(limit: int, latency: float, slow: bool) -> None:
    """More than 1.5 times the unloaded latency, and more than three calls that wait."""
    steps = Steps(limit, maximum=limit).known(windows=3)
    steps.windows(latency, latency)
    unslowed = Steps(limit, maximum=limit).known(windows=3)
    unslowed.windows(1.0, 1.0)

    assert (steps.limit.limit != unslowed.limit.limit) is slow


def test_probe_goes_on_as_long_as_half_the_calls_are_faster() -> None:
    """The queue was our own: what is found at its end is the unloaded latency, and the limit follows from it."""
    steps = Steps(64)

    assert steps.windows(1.0, 1.0, 0.5, 0.25) == [64, 32, 16, 8]
    assert steps.windows(0.25) == [24]  # 64 * 1.5 * 0.25 / 1.0
    assert steps.unloaded == "0.25 s"
    steps = Steps(64)
    assert steps.windows(2.0, 2.0, 1.0, 0.5, 0.5) == [64, 32, 16, 8, 24]  # 64 * 1.5 * 0.5 / 2.0


def test_probe_that_is_not_reached_says_nothing() -> None:
    """The limit is what it was, and it is tried again after the same time."""
    steps = Steps(64).known(windows=2)

    assert steps.window(0.5, is_full=False) == 64
    assert steps.unloaded == "1 s"
    assert steps.windows(1.0) == [32]


@pytest.mark.parametrize(
    ("found", "unloaded", "next_probe"),
    [(1.0, "1 s", 2), (1.25, "1.07 s", 2), (1.5, "1.15 s", 8), (0.8, "0.94 s", 2), (0.75, "0.925 s", 2)],
)
def test_what_a_probe_finds_is_learnt(found: float, unloaded: str, next_probe: int) -> None:
    """Three tenths of the difference; something new makes it look again after eight windows."""
    steps = Steps(20, maximum=20).known(windows=2)
    assert steps.window(found) == 20
    assert steps.unloaded == unloaded
    limits = [steps.window() for _ in range(next_probe)]

    assert limits == [20] * (next_probe - 1) + [10]


def test_idle_windows_raise_the_unloaded_latency_slowly_and_lower_it_at_once() -> None:
    """As long as the limit holds nobody back, no queue is of our own making."""
    steps = Steps(20)
    for latency, unloaded in [
        (1.0, "unknown"),
        (1.0, "1 s"),
        (2.0, "1.1 s"),
        (2.0, "1.19 s"),
        (0.1, "1.09 s"),
    ]:
        assert steps.window(latency, is_full=False) == 20
        assert steps.unloaded == unloaded


def test_few_calls_in_flight_raise_the_unloaded_latency_too() -> None:
    """Four have no queue; of five it might be."""
    steps = Steps(4, maximum=4).known(windows=2)
    steps.window(2.0)
    assert steps.unloaded == "1.3 s"
    steps = Steps(5, maximum=5).known(windows=2)
    steps.window(2.0)
    assert steps.unloaded == "1 s"


def test_calls_that_take_no_time_are_no_trouble() -> None:
    """On a virtual clock all do: the limit grows and probes as ever."""
    steps = Steps(20)

    assert [steps.window(0.0) for _ in range(6)] == [20, 10, 20, 22, 11, 22]


def test_drops_shrink_it_by_a_tenth_as_long_as_they_last() -> None:
    """Down to its least, when nothing gets through."""
    steps = Steps(100, minimum=60, maximum=100)

    assert [steps.window(drops=100) for _ in range(6)] == [90, 81, 72, 65, 60, 60]


def test_share_of_drops_is_an_average_that_one_good_window_ends() -> None:
    """A fifth of the calls is too much from the second window on: 0.4 of what is new counts."""
    steps = Steps(100, maximum=100)

    assert [steps.window(drops=20) for _ in range(3)] == [100, 90, 81]
    assert steps.window() == 40  # the probe that was due
    assert [steps.window(drops=16) for _ in range(2)] == [81, 72]


def test_drops_that_half_the_calls_did_not_make_fewer_are_put_up_with() -> None:
    """They are none of our business; it grows and probes again, and shrinks only when they more than double."""
    steps = Steps(100, maximum=100)
    limits = [steps.window(drops=20) for _ in range(11)]
    assert limits == [100, 90, 81, 72, 65, 59, 53, 47, 47, 23, 47]

    assert steps.window(drops=40) == 51
    assert steps.window(drops=100) == 46


def test_drops_that_more_than_double_are_fought_although_some_were_put_up_with() -> None:
    """From 22 to 48 of a hundred, in one window."""
    steps = Steps(100, maximum=100)
    for _ in range(11):
        steps.window(drops=20)
    assert steps.limit.limit == 47
    assert steps.window(drops=70) == 43


@pytest.mark.parametrize(("windows_without", "put_up_with_at"), [(1, 22), (7, 47)])
def test_a_stretch_of_drops_is_over_when_the_limit_is_back_where_it_began(
    windows_without: int, put_up_with_at: int
) -> None:
    """Until then what half the calls did to the drops is measured from its beginning: there were more."""
    steps = Steps(100, maximum=100)
    steps.window(drops=100)
    for _ in range(windows_without):
        steps.window()
    limits = [steps.window(drops=round(0.16 * min(100, max(16, 2 * steps.limit.limit)))) for _ in range(18)]
    put_up_with = next(now for before, now in itertools.pairwise(limits) if before == now)
    assert put_up_with == put_up_with_at


def test_drops_that_were_put_up_with_are_fought_again_when_they_had_been_gone_for_long() -> None:
    """What it has got used to follows the drops by a fifth for each window: one good window changes little."""

    def used_to_drops(*, windows_without: int) -> tuple[int, int]:
        steps = Steps(100, maximum=100)
        for _ in range(11):
            steps.window(drops=20)
        for _ in range(windows_without):
            before = steps.window()
        return before, steps.window(drops=round(0.36 * min(100, max(16, 2 * before))))

    assert used_to_drops(windows_without=1) == (51, 25)  # not fought: the probe that was due
    before, after = used_to_drops(windows_without=30)
    assert after == int(0.9 * before)


def test_drops_that_became_fewer_by_more_than_half_are_fought_on() -> None:
    """It helped: from four tenths to 0.16; only where the next half does not help they are put up with."""
    steps = Steps(100)
    limits = [steps.window(drops=100)]
    for _ in range(16):
        calls = min(100, max(16, 2 * steps.limit.limit))
        limits.append(steps.window(drops=round(0.155 * calls)))

    assert limits == [90, 81, 72, 65, 59, 53, 47, 43, 38, 34, 31, 28, 25, 22, 22, 11, 22]


def test_drops_at_the_least_limit_are_put_up_with_too() -> None:
    """It cannot shrink any further, and need not stay there for ever."""
    steps = Steps(20, minimum=15)

    assert [steps.window(drops=12) for _ in range(5)] == [18, 16, 15, 15, 16]


def test_most_calls_dropped_are_never_put_up_with() -> None:
    """Half of the limit or not: it goes on shrinking."""
    steps = Steps(100)
    limits = [steps.window(drops=100) for _ in range(9)]

    assert limits == [90, 81, 72, 65, 59, 53, 47, 43, 38]


def test_drops_end_what_was_tried_because_of_slow_answers() -> None:
    """A probe under way is over, and a slow stretch begins anew."""
    steps = Steps(20).known(windows=2)
    assert steps.window(drops=20) == 9
    assert steps.windows(1.0, 1.0) == [4, 9]


def test_drops_that_become_the_most_are_not_put_up_with_because_many_were() -> None:
    """A limit that has got used to 45 % of drops would grow to its maximum while 85 % of the calls are dropped."""
    limit = AdaptiveLimit(AdaptiveConcurrency(initial=100, maximum=200))
    now = 0.0

    def window(share: float) -> None:
        nonlocal now
        calls = int(min(100, max(16, 2 * limit.limit)))
        for number in range(calls):
            now += 1.0
            limit.ended(now, 1.0, dropped=number < round(share * calls), is_full=True)

    for _ in range(25):
        window(0.45)
    used_to = limit.limit
    for _ in range(60):
        window(0.85)
    assert limit.limit < used_to / 2

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

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shockproof.policies.adaptive_concurrency import AdaptiveConcurrency, AdaptiveLimit, says_too_much

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


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


class LibraryError(Exception):
    """Has its status on its response, as httpx has it."""

    class Response:
        status_code = 429

    response = Response()


@pytest.mark.parametrize(
    ("answer", "retry_after", "too_much"),
    [
        (TimeoutError(), None, True),
        (ExceptionGroup("legs", [ValueError(), TimeoutError()]), None, True),
        (ValueError(), 2.0, True),
        (HttpError(503), None, True),
        (HttpError(400), None, False),
        (LibraryError(), None, True),
        (ConnectionResetError(), None, False),
        ({"error": "nothing"}, None, False),
    ],
)
def test_what_says_that_there_was_too_much(answer: object, retry_after: float | None, too_much: bool) -> None:
    """A wrong request, or a broken connection, says nothing about load."""
    assert says_too_much(answer, retry_after) is too_much


def test_answer_whose_property_raises_says_nothing() -> None:
    """A foreign object's property may raise anything."""

    class Hostile:
        @property
        def status(self) -> int:
            raise ZeroDivisionError

    assert not says_too_much(Hostile(), None)


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

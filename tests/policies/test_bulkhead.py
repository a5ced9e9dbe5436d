"""Places, and the queue for them."""

from __future__ import annotations

import threading
from typing import SupportsIndex

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from shockproof.policies.bulkhead import Places, Waiter
from shockproof.policies.priority import RISK_REDUCING

HIGH, NORMAL, LOW = 1, 2, 3


class Someone:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.granted = False

    def __repr__(self) -> str:
        return self.name


def test_a_full_bulkhead_without_a_queue_refuses() -> None:
    """max_queue=0 means: now or never."""
    places = Places(1, 0)

    assert places.take()
    assert not places.take()
    newcomer = Someone()
    assert places.join(newcomer, NORMAL) is newcomer


def test_waiters_are_served_in_the_order_they_came() -> None:
    """First in, first out."""
    places, first, second = Places(1, 2), Someone("first"), Someone("second")
    places.take()
    places.join(first, NORMAL)
    places.join(second, NORMAL)

    assert places.give_back() == [first]
    assert places.give_back() == [second]


def test_urgent_ones_go_first_and_always_find_room() -> None:
    """A cancel overtakes new orders, and a full queue does not stop it."""
    places, order, cancel = Places(1, 1), Someone("order"), Someone("cancel")
    places.take()
    places.join(order, NORMAL)

    assert places.join(cancel, RISK_REDUCING) is None
    assert places.give_back() == [cancel]


def test_places_are_watched_only_while_somebody_waits_or_there_are_too_many() -> None:
    """Else a call that ends looks at no queue."""
    places = Places(2, 1)
    assert places.watched is False
    places.take()
    places.take()
    assert not places.watched
    places.join(Someone(), NORMAL)
    assert places.watched
    places.give_back()
    assert not places.watched
    assert places.in_use == 2
    places.resize(1, 1)
    assert places.watched
    places.give_back()
    assert not places.watched


def test_newcomers_do_not_overtake_those_who_wait() -> None:
    """A free place belongs to the head of the queue."""
    places, waiting = Places(1, 1), Someone()
    places.take()
    places.join(waiting, NORMAL)
    places.give_back()

    assert waiting.granted
    assert not places.take()


def test_a_place_that_was_granted_to_one_who_leaves_goes_to_the_next() -> None:
    """The grant and the cancellation meet: no place is lost."""
    places, leaver, next_one = Places(1, 2), Someone("leaver"), Someone("next")
    places.take()
    places.join(leaver, NORMAL)
    places.join(next_one, NORMAL)
    places.give_back()

    assert places.leave(leaver) == [next_one]
    assert places.in_use == 1


def test_growing_wakes_those_who_wait() -> None:
    """More places at run time are used at once."""
    places, waiting = Places(1, 1), Someone()
    places.take()
    places.join(waiting, NORMAL)

    assert places.resize(2, 1) == [waiting]


def test_shrinking_lets_the_excess_drain() -> None:
    """Nobody is thrown out; the next place is free when enough have left."""
    places = Places(2, 0)
    places.take()
    places.take()
    places.resize(1, 0)
    places.give_back()

    assert not places.take()
    places.give_back()
    assert places.take()


def test_important_ones_overtake_and_equals_keep_their_order() -> None:
    """Cancels, then orders, then market data, each in the order they came."""
    places = Places(1, 9)
    places.take()
    everybody = [Someone(name) for name in ("low", "normal", "high", "second high", "cancel")]
    for someone, rank in zip(everybody, (LOW, NORMAL, HIGH, HIGH, RISK_REDUCING), strict=True):
        places.join(someone, rank)

    served = [places.give_back()[0] for _ in everybody]

    assert [str(someone) for someone in served] == ["cancel", "high", "second high", "normal", "low"]


def test_full_queue_turns_away_the_least_important_that_came_last() -> None:
    """An order finds room before market data; the quote that has waited longest keeps its place."""
    places, first_quote, last_quote = Places(1, 3), Someone("first quote"), Someone("last quote")
    places.take()
    places.join(Someone("order"), NORMAL)
    places.join(first_quote, LOW)
    places.join(last_quote, LOW)

    assert places.join(Someone("second order"), NORMAL) is last_quote
    assert places.queued == 3
    assert places.leave(last_quote) == []


def test_full_queue_of_equals_turns_the_newcomer_away() -> None:
    """Nobody is displaced by who is no more important."""
    places, newcomer = Places(1, 1), Someone()
    places.take()
    places.join(Someone(), NORMAL)

    assert places.join(newcomer, NORMAL) is newcomer


def test_cancels_in_the_queue_take_no_room_from_the_others() -> None:
    """The bound is for the rest."""
    places = Places(1, 1)
    places.take()
    places.join(Someone(), RISK_REDUCING)
    places.join(Someone(), RISK_REDUCING)

    assert places.join(Someone(), LOW) is None


def test_one_who_leaves_twice_gives_back_once() -> None:
    """The call of a dead loop is given up at once, and collected later."""
    places, waiting = Places(1, 1), Someone()
    places.take()
    places.join(waiting, NORMAL)
    places.give_back()
    places.leave(waiting)
    assert waiting.granted is False
    places.leave(waiting)

    assert places.in_use == 0


def test_limit_was_reached_when_all_places_are_taken_or_one_was_missing() -> None:
    """What adapts the limit has to know whether it held anybody back."""
    places = Places(2, 0)
    places.take()
    assert places.was_reached() is False
    places.take()
    assert places.was_reached()
    places.take()
    places.give_back()
    assert places.was_reached()
    assert not places.was_reached()


class Attended(Places):
    """Counts who looks at the queue."""

    __slots__ = ("is_told", "looks")

    def __init__(self, limit: float, max_queue: int) -> None:
        super().__init__(limit, max_queue)
        self.looks = 0
        self.is_told = threading.Event()

    def attend(self) -> list[Waiter]:
        self.looks += 1
        self.is_told.set()
        return super().attend()


def test_a_call_that_ends_looks_at_the_queue_only_when_somebody_may_be_there() -> None:
    """The look takes a lock, and the healthy path takes none."""
    places = Attended(1, 1)
    places.take()
    assert places.give_back() == []
    assert places.looks == 0
    places.take()
    places.join(Someone(), NORMAL)
    places.give_back()
    assert places.looks == 1


def test_places_stay_at_hand_when_a_queue_has_been_served() -> None:
    """They are popped off a list again: after a rush the healthy path is as short as before."""
    places, waiting = Places(2, 1), Someone()
    places.take()
    places.take()
    places.join(waiting, NORMAL)
    places.leave(waiting)
    places.give_back()
    places.attend()
    assert len(places.free) == 1
    places.give_back()
    places.attend()
    assert len(places.free) == 2


class GivenBackMeanwhile(list[None]):
    """Free places, of which another thread gives one back just after there was found to be none."""

    def __init__(self, places: Attended) -> None:
        super().__init__()
        self.places = places
        self.other = threading.Thread(target=self.give_back)

    def pop(self, index: SupportsIndex = -1, /) -> None:
        try:
            super().pop(index)
        except IndexError:
            if self.other.ident is None:
                self.other.start()
                assert self.places.is_told.wait(60.0)
            raise

    def give_back(self) -> None:
        self.places.give_back()
        self.places.is_told.set()  # also when it has looked at nothing


def test_a_place_that_comes_back_while_somebody_joins_is_not_overlooked() -> None:
    """Another thread's call ends between the look for a free place and the place in the queue."""
    places, waiting = Attended(1, 1), Someone()
    places.take()
    places.free = meanwhile = GivenBackMeanwhile(places)
    assert places.join(waiting, NORMAL) is None
    meanwhile.other.join(60.0)
    assert waiting.granted


def test_a_place_that_comes_back_while_the_limit_is_lowered_is_taken_away() -> None:
    """Another thread's call ends between the look for places to take away and the end of the change."""
    places = Attended(2, 0)
    places.take()
    places.take()
    places.free = meanwhile = GivenBackMeanwhile(places)
    places.resize(1, 0)
    meanwhile.other.join(60.0)
    assert not places.take()
    assert places.in_use == 1


class PlacesAgainstModel(RuleBasedStateMachine):
    """Whatever happens in whatever order: a list that is sorted at each step says who is served and who goes."""

    inside = Bundle("inside")
    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.places = Places(2, 3)
        self.limit, self.max_queue, self.holding, self.arrivals = 2, 3, 0, 0
        self.queue: list[tuple[int, int, Someone]] = []

    def expected(self) -> list[Someone]:
        """Those whose turn it is now, by the model."""
        self.queue.sort(key=lambda one: one[:2])
        free = max(0, self.limit - self.holding)
        served, self.queue = self.queue[:free], self.queue[free:]
        self.holding += len(served)
        return [someone for _, _, someone in served]

    @rule(target=inside)
    def enter(self) -> bool:
        taken = self.places.take()
        assert taken == (self.holding < self.limit)
        self.holding += taken
        return taken

    @rule(target=waiting, rank=st.integers(0, 3))
    def queue_up(self, rank: int) -> Someone:
        someone, self.arrivals = Someone(), self.arrivals + 1
        turned_away = self.places.join(someone, rank)
        if self.holding < self.limit:
            assert turned_away is None
            assert someone.granted
            self.holding += 1
            return someone
        bounded = [one for one in self.queue if one[0] != RISK_REDUCING]
        self.queue.append((rank, self.arrivals, someone))
        if rank != RISK_REDUCING and len(bounded) >= self.max_queue:
            worst = max(one for one in (*bounded, self.queue[-1]))
            if worst[0] == rank:
                worst = self.queue[-1]
            assert turned_away is worst[2]
            self.queue.remove(worst)
        else:
            assert turned_away is None
        return someone

    @rule(taken=consumes(inside))
    def end(self, taken: bool) -> None:
        if taken:
            self.holding -= 1
            assert self.places.give_back() == self.expected()

    @rule(someone=consumes(waiting), twice=st.booleans())
    def leave_or_end(self, someone: Someone, twice: bool) -> None:
        self.holding -= someone.granted
        self.queue = [one for one in self.queue if one[2] is not someone]
        assert self.places.leave(someone) == self.expected()
        if twice:
            assert self.places.leave(someone) == []

    @rule(limit=st.integers(1, 4), max_queue=st.integers(0, 4))
    def resize(self, limit: int, max_queue: int) -> None:
        self.limit, self.max_queue = limit, max_queue
        woken: list[Waiter] = self.places.resize(limit, max_queue)
        assert woken == self.expected()

    @invariant()
    def places_are_conserved(self) -> None:
        assert self.places.in_use == self.holding
        assert self.places.queued == len(self.queue)


TestPlacesAgainstModel = PlacesAgainstModel.TestCase
TestPlacesAgainstModel.settings = settings(max_examples=200, stateful_step_count=40)


def test_place_may_come_back_while_another_is_being_granted() -> None:
    """Garbage collection may end a call of a dead loop at any moment, in the very thread that grants."""
    places = Places(2, 2)
    places.take()
    places.take()
    woken: list[Waiter] = []

    class Interrupted(Someone):
        @property
        def granted(self) -> bool:
            return self._granted

        @granted.setter
        def granted(self, value: bool) -> None:
            self._granted = value
            if value:
                woken.extend(places.give_back())

    first, second = Interrupted("first"), Someone("second")
    places.join(first, NORMAL)
    places.join(second, NORMAL)
    granting = threading.Thread(target=lambda: woken.extend(places.give_back()), daemon=True)
    granting.start()
    granting.join(60.0)

    assert not granting.is_alive(), "it waits for itself"
    assert sorted(map(repr, woken)) == ["first", "second"]
    assert (places.in_use, places.queued) == (2, 0)

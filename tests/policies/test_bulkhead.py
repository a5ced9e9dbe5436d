"""Places, and the queue for them."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from shockproof.policies.bulkhead import Places


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
    assert not places.join(Someone(), urgent=False)


def test_waiters_are_served_in_the_order_they_came() -> None:
    """First in, first out."""
    places, first, second = Places(1, 2), Someone("first"), Someone("second")
    places.take()
    places.join(first, urgent=False)
    places.join(second, urgent=False)

    assert places.give_back() == [first]
    assert places.give_back() == [second]


def test_urgent_ones_go_first_and_always_find_room() -> None:
    """A cancel overtakes new orders, and a full queue does not stop it."""
    places, order, cancel = Places(1, 1), Someone("order"), Someone("cancel")
    places.take()
    places.join(order, urgent=False)

    assert places.join(cancel, urgent=True)
    assert places.give_back() == [cancel]


def test_newcomers_do_not_overtake_those_who_wait() -> None:
    """A free place belongs to the head of the queue."""
    places, waiting = Places(1, 1), Someone()
    places.take()
    places.join(waiting, urgent=False)
    places.give_back()

    assert waiting.granted
    assert not places.take()


def test_a_place_that_was_granted_to_one_who_leaves_goes_to_the_next() -> None:
    """The grant and the cancellation meet: no place is lost."""
    places, leaver, next_one = Places(1, 2), Someone("leaver"), Someone("next")
    places.take()
    places.join(leaver, urgent=False)
    places.join(next_one, urgent=False)
    places.give_back()

    assert places.leave(leaver) == [next_one]
    assert places.in_use == 1


def test_growing_wakes_those_who_wait() -> None:
    """More places at run time are used at once."""
    places, waiting = Places(1, 1), Someone()
    places.take()
    places.join(waiting, urgent=False)

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


class PlacesAgainstModel(RuleBasedStateMachine):
    """Whatever happens in whatever order, places are conserved and nobody is forgotten."""

    inside = Bundle("inside")
    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.places = Places(2, 3)
        self.holding = 0
        self.queue: list[Someone] = []

    @rule(target=inside)
    def enter(self) -> object:
        if self.places.take():
            self.holding += 1
            return "place"
        return None

    @rule(target=waiting, urgent=st.booleans())
    def queue_up(self, urgent: bool) -> Someone:
        someone = Someone()
        if self.places.join(someone, urgent=urgent):
            if someone.granted:
                self.holding += 1
            else:
                self.queue.append(someone)
        return someone

    def note(self, woken: list[object]) -> None:
        for someone in woken:
            assert isinstance(someone, Someone)
            self.queue.remove(someone)
            self.holding += 1

    @rule(place=consumes(inside))
    def end(self, place: object) -> None:
        if place is not None:
            self.holding -= 1
            self.note(list(self.places.give_back()))

    @rule(someone=consumes(waiting))
    def leave_or_end(self, someone: Someone) -> None:
        if someone in self.queue:
            self.queue.remove(someone)
        elif someone.granted:
            self.holding -= 1
        else:
            return  # was refused
        self.note(list(self.places.leave(someone)))

    @rule(limit=st.integers(1, 4))
    def resize(self, limit: int) -> None:
        self.note(list(self.places.resize(limit, 3)))

    @invariant()
    def places_are_conserved(self) -> None:
        assert self.places.in_use == self.holding
        assert self.places.queued == len(self.queue)

    @invariant()
    def nobody_waits_while_a_place_is_free(self) -> None:
        assert not self.queue or self.holding >= self.places.limit


TestPlacesAgainstModel = PlacesAgainstModel.TestCase
TestPlacesAgainstModel.settings = settings(max_examples=100, stateful_step_count=40)

"""What may stand in for a failed call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shockproof.policies.fallback import LastAnswers, LastGood, OnError, Remembered


def fetch(symbol: str) -> str:
    return symbol


def other(symbol: str) -> str:
    return symbol


# -- by the type of the error ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "error", "fits"),
    [
        (TimeoutError, TimeoutError(), True),
        (OSError, ConnectionResetError(), True),  # subclasses, too
        (ConnectionResetError, OSError(), False),
        ((KeyError, OSError), ConnectionError(), True),
        ((KeyError, OSError), ValueError(), False),
        (OSError, ExceptionGroup("", [ConnectionError(), TimeoutError()]), True),
        (OSError, ExceptionGroup("", [ConnectionError(), ValueError()]), False),
        (OSError, ExceptionGroup("", [ExceptionGroup("", [ConnectionError()])]), True),
        (ExceptionGroup, ExceptionGroup("", [ValueError()]), True),
        (lambda error: "busy" in str(error), RuntimeError("server busy"), True),
        (lambda error: "busy" in str(error), RuntimeError("no"), False),
        (lambda error: 1 / 0, RuntimeError(), False),
        (Exception, None, False),
    ],
)
def test_an_entry_fits_the_errors_it_names(errors: object, error: Exception | None, fits: bool) -> None:
    """Types with their subclasses, groups by their leaves, predicates; a raising one means no."""
    entry = OnError(errors, 1)  # type: ignore[arg-type]  # of every kind
    assert entry.fits(error) is fits
    assert (entry.errors, entry.answer) == (errors, 1)


def test_a_predicate_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Else nobody would learn why the second source was never asked."""
    assert not OnError(lambda error: bool(1 / 0), 1).fits(RuntimeError())
    assert "predicate of an OnError failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "errors", [KeyboardInterrupt, BaseException, (OSError, SystemExit), (), "OSError", None]
)
def test_what_nobody_may_answer_for_is_refused(errors: object) -> None:
    """An exit and a cancellation, and what is no error at all, with the value."""
    with pytest.raises(TypeError, match="errors must be an Exception type"):
        OnError(errors, 1)  # type: ignore[arg-type]  # wrong on purpose


async def answers_later(*args: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("errors", lambda: OnError(answers_later, 1)),  # type: ignore[arg-type]  # wrong on purpose
        ("key", lambda: LastGood(max_age=60, key=answers_later)),  # type: ignore[arg-type]  # wrong on purpose
        ("mark", lambda: LastGood(max_age=60, mark=answers_later)),
    ],
)
def test_what_answers_at_once_is_no_coroutine_function(name: str, make: Callable[[], object]) -> None:
    """Its coroutine would be true, or the key, or the answer, and never run."""
    with pytest.raises(
        TypeError, match=f"^{name} is .* must be a plain function, got <function answers_later"
    ):
        make()


def test_an_entry_inside_an_entry_is_refused() -> None:
    """It would be answered with, not asked."""
    with pytest.raises(TypeError, match="an OnError in an OnError"):
        OnError(OSError, OnError(TimeoutError, 1))


def test_an_entry_shows_what_it_is_for() -> None:
    """In a handle's own repr."""
    assert repr(OnError((OSError, KeyError), 5)) == "OnError((OSError, KeyError), 5)"
    assert repr(OnError(OSError, 5)) == "OnError(OSError, 5)"
    assert repr(OnError(answers_at_once, 5)) == "OnError(answers_at_once, 5)"
    nameless = partial(answers_at_once, 1)
    assert repr(OnError(nameless, 5)) == f"OnError({nameless!r}, 5)"


def answers_at_once(*args: object) -> bool:
    return True


# -- the last good answer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_age": 0}, "max_age must be seconds .* more than 0, got 0"),
        ({"max_age": "60"}, "max_age must be seconds"),
        ({"max_age": 60, "max_entries": 0}, "max_entries must be a whole number of at least 1, got 0"),
        ({"max_age": 60, "key": 5}, "key must be a function or None, got 5"),
        ({"max_age": 60, "mark": 5}, "mark must be a function or None, got 5"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], says: str) -> None:
    """With the name, the value and what is allowed."""
    with pytest.raises((TypeError, ValueError), match=says):
        LastGood(**options)  # type: ignore[arg-type]  # wrong on purpose


def answers(max_age: float = 60.0, most: int = 3) -> LastAnswers:
    return LastAnswers(max_age=max_age, most=most, key=None)


def test_the_longer_age_of_two_clocks_counts() -> None:
    """A machine that slept has a monotonic clock that did not move; one whose wall clock went back has the other."""
    known = answers()
    known.remember("AAPL", 150.0, now=0.0, wall=1000.0)
    assert known.recall("AAPL", now=60.0, wall=1060.0) is not None
    assert known.recall("AAPL", now=1.0, wall=1061.0) is None
    assert known.recall("AAPL", now=61.0, wall=500.0) is None


@pytest.mark.parametrize(
    ("now", "wall", "age"), [(0.25, 1000.25, 0.25), (0.25, 900.0, 0.25), (-1.0, 999.0, 0.0)]
)
def test_an_answer_is_never_younger_than_nothing(now: float, wall: float, age: float) -> None:
    """A clock that went back, or another thread's that is a little behind, makes no negative age."""
    assert Remembered("answer", 0.0, 1000.0).age(now, wall) == age


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (((fetch, ("A",), {})), (fetch, ("A",), {}), True),
        ((fetch, ("A",), {}), (other, ("A",), {}), False),
        ((fetch, ("A",), {}), (fetch, ("B",), {}), False),
        ((fetch, (), {"a": 1, "b": 2}), (fetch, (), {"b": 2, "a": 1}), True),
        ((fetch, (), {"a": 1, "b": "x"}), (fetch, (), {"b": "x", "a": 1}), True),
        ((fetch, (1,), {}), (fetch, (True,), {}), False),
        ((fetch, (1,), {}), (fetch, (1.0,), {}), False),
        ((fetch, (), {"qty": 1}), (fetch, (), {"qty": True}), False),
        ((partial(fetch, "A"), (), {}), (partial(fetch, "A"), (), {}), True),
        ((partial(fetch, "A"), (), {}), (fetch, ("A",), {}), True),
        ((partial(fetch, "A"), (), {}), (partial(fetch, "B"), (), {}), False),
        (("A".join, (), {}), ("A".join, (), {}), True),
    ],
)
def test_a_call_is_known_by_its_function_and_arguments(first: object, second: object, same: bool) -> None:
    """Nothing is ever answered for a call that is not the same."""
    known = answers()
    keys = [known.key_of("api", *one) for one in (first, second)]  # type: ignore[misc]  # of every kind
    assert (keys[0] == keys[1]) is same
    assert None not in keys


def test_the_service_is_part_of_it() -> None:
    """One object may serve two venues."""
    known = answers()
    assert known.key_of("binance", fetch, ("A",), {}) != known.key_of("kraken", fetch, ("A",), {})


def test_the_service_is_part_of_the_users_own_key_too() -> None:
    """And so is the function."""
    known = LastAnswers(max_age=60.0, most=3, key=lambda symbol: symbol)
    keys = {known.key_of(name, fn, ("A",), {}) for name in ("binance", "kraken") for fn in (fetch, other)}
    assert len(keys) == 4


def test_the_users_own_key_is_made_of_all_arguments() -> None:
    """Of those that were named, too."""
    good = LastGood(max_age=60.0, key=lambda symbol, depth=1: (symbol, depth))
    shallow, deep, same = (
        good.answers.key_of("api", fetch, ("A",), named) for named in ({"depth": 1}, {"depth": 2}, {})
    )
    assert shallow == same != deep


def test_a_thousand_answers_and_a_few_more_are_kept_and_marked_as_is_said() -> None:
    """Unless somebody says how many."""
    good, few = LastGood(max_age=60.0, mark=str), LastGood(max_age=60.0, max_entries=2)
    for number in range(2_000):
        good.answers.remember(number, number, now=0.0, wall=0.0)
        few.answers.remember(number, number, now=0.0, wall=0.0)
    assert (len(good), len(few)) == (1_024, 2)
    assert (good.mark, few.mark) == (str, None)
    good.clear()
    assert len(good) == 0


def test_the_oldest_answer_goes_first() -> None:
    """Not the one that was asked for first: an answer that comes again is young again."""
    known = answers(most=2)
    for number, symbol in enumerate(["A", "B", "A", "C"]):
        known.remember(symbol, number, now=0.0, wall=0.0)
    assert [known.recall(symbol, now=0.0, wall=0.0) is None for symbol in "ABC"] == [False, True, False]


class Hostile:
    """An argument that cannot be hashed, in the worst way."""

    def __hash__(self) -> int:
        raise ZeroDivisionError


class NeverEqual:
    """One that can be hashed, but not compared."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


@pytest.mark.parametrize("argument", [[1], {"a": 1}, Hostile()])
def test_arguments_that_cannot_be_hashed_are_not_remembered(argument: object) -> None:
    """Known from the key being None."""
    assert answers().key_of("api", fetch, (argument,), {}) is None


def test_a_key_function_makes_something_of_them() -> None:
    """And one that raises, or gives something unhashable, gives none."""

    def key(symbols: list[str]) -> tuple[str, ...]:
        return tuple(symbols)

    known = LastAnswers(max_age=60.0, most=3, key=key)
    assert known.key_of("api", fetch, (["A", "B"],), {}) == known.key_of("api", fetch, (["A", "B"],), {})
    assert known.key_of("api", fetch, (["A"],), {}) is not None
    assert known.key_of("api", fetch, (5,), {}) is None
    assert known.key_of("api", fetch, ([[1]],), {}) is None


def test_keys_that_cannot_be_compared_hurt_nobody() -> None:
    """They are not remembered twice, and not recalled."""
    known = answers()
    for number in range(5):
        known.remember(NeverEqual(), number, now=0.0, wall=0.0)
    assert known.recall(NeverEqual(), now=0.0, wall=0.0) is None
    assert len(known) <= 3


class RememberingMachine(RuleBasedStateMachine):
    """Against a plain list of what was told, newest last."""

    def __init__(self) -> None:
        super().__init__()
        self.known = answers(max_age=10.0, most=3)
        self.told: list[tuple[str, int, float]] = []
        self.now = 100.0

    @rule(key=st.sampled_from("abcde"), value=st.integers())
    def remember(self, key: str, value: int) -> None:
        self.known.remember(key, value, now=self.now, wall=self.now)
        self.told = [one for one in self.told if one[0] != key] + [(key, value, self.now)]
        self.told = self.told[-3:]

    @rule(seconds=st.floats(0, 8, allow_nan=False))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def clear(self) -> None:
        self.known.clear()
        self.told = []

    @rule(key=st.sampled_from("abcde"))
    def recall(self, key: str) -> None:
        expected = [value for name, value, at in self.told if name == key and self.now - at <= 10.0]
        found = self.known.recall(key, now=self.now, wall=self.now)
        assert ([] if found is None else [found.value]) == expected

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.known) <= 3


TestRemembering = RememberingMachine.TestCase


@given(st.lists(st.floats(0, 100, allow_nan=False), max_size=20))
def test_what_is_too_old_takes_no_memory_for_long(waits: list[float]) -> None:
    """The next answer makes room."""
    known, now = LastAnswers(max_age=10.0, most=1000, key=None), 0.0
    for number, wait in enumerate(waits):
        now += wait
        known.remember(number, number, now=now, wall=now)
        assert all(
            known.recall(other, now=now, wall=now) for other in range(number + 1 - len(known), number + 1)
        )

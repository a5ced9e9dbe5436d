"""Values on their way to plain JSON values and back."""

from __future__ import annotations

import collections
import enum
import json
import math
import sys
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from shockproof.memory.state.codec import (
    MalformedValueError,
    UnknownTypeError,
    UnsavableValueError,
    freeze,
    freeze_steps,
    thaw,
)
from shockproof.memory.state.registered_types import register_type
from shockproof.vocabulary.errors import StateNotSavedError
from shockproof.vocabulary.models import ErrorRecord
from shockproof.vocabulary.outcomes import Attempt
from shockproof.vocabulary.statuses import ErrorSeverity, ServiceStatus


@register_type
class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


@register_type
class Permission(enum.Flag):
    READ = 1
    TRADE = 2


@register_type
class Rank(enum.IntEnum):
    FIRST = 1


@register_type
@dataclass
class Quote:
    symbol: str
    fee: object = None
    tags: list[str] = field(default_factory=list)


@register_type
@dataclass(frozen=True, slots=True)
class Fill:
    price: Decimal
    parts: tuple[int, ...] = ()


@register_type
class Level(NamedTuple):
    price: float
    size: Decimal


@register_type
class Position(BaseModel):
    model_config = ConfigDict(extra="allow")

    symbol: str = Field(alias="sym")
    quantity: Decimal = Decimal(0)
    opened: datetime | None = None


@register_type(name="tests:old-order")
@dataclass
class Order:
    client_id: str
    venue: str = "spot"


class Unregistered(enum.Enum):
    ONE = 1


def there_and_back(value: object) -> Any:
    frozen = freeze(value)
    text = json.dumps(frozen, allow_nan=False)
    return thaw(json.loads(text))


def same(one: object, other: object) -> bool:
    """Equal, of the same types all the way down; NaN equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(
            same(a, b) and same(one[a], other[b]) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, list | tuple | collections.deque) and isinstance(
        other, list | tuple | collections.deque
    ):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, datetime | time) and isinstance(other, datetime | time):
        return repr(one) == repr(other)
    if isinstance(one, Quote | Fill) and isinstance(other, Quote | Fill):
        return all(same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        return str(one) == str(other)
    return one == other


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.text(alphabet=st.characters()),
    st.binary(max_size=40),
    st.binary(max_size=10).map(bytearray),
    st.complex_numbers(allow_nan=False),
    st.decimals(),
    st.uuids(),
    st.dates(),
    st.times(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.datetimes(timezones=st.timezones(), allow_imaginary=False),
    st.timedeltas(),
    st.timezones(),
    st.sampled_from([*Side, *ServiceStatus, *ErrorSeverity, Permission.READ | Permission.TRADE, Rank.FIRST]),
)
HASHABLE = SCALARS.filter(
    lambda value: type(value) is not bytearray and str(value).lower() not in ("nan", "-nan", "snan", "-snan")
)
KEYS = st.one_of(st.text(), st.just("$"), st.integers(), st.tuples(st.text(), st.integers()), HASHABLE)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.sets(HASHABLE, max_size=3),
        st.frozensets(HASHABLE, max_size=3),
        st.lists(inner, max_size=3).map(lambda items: collections.deque(items, 5)),
        st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict),
        st.builds(Quote, st.text(), inner, st.lists(st.text(), max_size=2)),
        st.builds(Fill, st.decimals(allow_nan=False)),
    ),
    max_leaves=15,
)


@given(VALUES)
def test_whatever_is_frozen_comes_back_as_it_was(value: object) -> None:
    """Through the text of a JSON file, types and values included."""
    assert same(there_and_back(value), value)


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1.10"),
        Decimal("sNaN"),
        datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York")),
        datetime(2026, 11, 25, 12, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datetime(1883, 1, 1, 12, tzinfo=ZoneInfo("Europe/Amsterdam")),
        time(1, 2, 3, 4, tzinfo=UTC),
        date.max,
        timedelta(microseconds=-1),
        uuid.UUID(int=1),
        b"\x00\xff",
        {1: "one", "1": "text"},
        {1: "int", (2, "a"): {"$": 1}},
        {"$": "decimal", "v": "1"},
        {"$": {"$": "map", "v": [[1, 2]]}},
        float("inf"),
        float("-inf"),
        -0.0,
        1 << 5000,
        "\ud800 lone",
        {"\udfff": 1},
        (),
        (1, (2, [3])),
        {1, 2},
        frozenset({(1, frozenset({2}))}),
        collections.Counter("hello"),
        collections.defaultdict(list, {"a": [1]}),
        collections.deque([1, 2], maxlen=2),
        collections.OrderedDict([("b", 1), ("a", 2)]),
        Side.BUY,
        Permission.READ | Permission.TRADE,
        Rank.FIRST,
        Quote("AAPL", Decimal("0.1"), ["x"]),
        Fill(Decimal("1.0"), (1, 2)),
        Level(1.5, Decimal(2)),
        ServiceStatus.DEGRADED,
        Attempt(1, "ValueError", "no", 1.0, 0.1, None),
        ZoneInfo("Asia/Tokyo"),
        UTC,
        complex(1, -2),
    ],
    ids=repr,
)
def test_type_that_json_lacks_survives(value: object) -> None:
    """Each of them by itself, inside a list and as a dict's value."""
    for wrapped in (value, [value], {"k": value}, {"$": value}, (value,)):
        assert same(there_and_back(wrapped), wrapped)


def test_time_zone_keeps_its_name_and_its_fold() -> None:
    """An hour that occurs twice comes back as the one it was."""
    moment = datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York"))

    restored = there_and_back(moment)

    assert restored.tzinfo.key == "America/New_York"
    assert restored.utcoffset() == timedelta(hours=-5)


def test_model_keeps_alias_extras_and_nested_types() -> None:
    """A pydantic model comes back equal without its validators being run again."""
    position = Position.model_validate({"sym": "AAPL", "quantity": "1.50", "note": {"why": Decimal(1)}})

    restored = there_and_back({"AAPL": position})["AAPL"]

    assert restored == position
    assert str(restored.quantity) == "1.50"


def test_own_records_are_registered_without_being_asked() -> None:
    """An ErrorRecord may be cached like any value."""
    record = ErrorRecord(
        error_type="ValueError",
        error_message="no",
        severity=ErrorSeverity.HIGH,
        service_name="market",
        function_name="fetch",
    )

    assert there_and_back([record]) == [record]


def test_plain_json_stays_as_it_is() -> None:
    """What JSON has is not touched, and so stays readable."""
    value = {"a": [1, 2.5, "x", None, True, {"b": {}}, []], "": "é"}

    assert freeze(value) == value


def test_frozen_value_shares_nothing_changeable() -> None:
    """What happens to the value afterwards does not reach the copy."""
    inner: list[object] = [1]
    quote = Quote("AAPL", inner)
    value = {"list": inner, "set": {1}, "quote": quote}

    frozen = freeze(value)
    before = json.dumps(frozen)
    inner.append(2)
    value["set"].add(2)  # type: ignore[attr-defined]  # it is a set
    quote.symbol = "MSFT"

    assert json.dumps(frozen) == before


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"X": Quote("X", fee=Fraction(1, 2))}, r'cached_data\["X"\]\.fee'),
        ({"X": [0, {1: object()}]}, r'cached_data\["X"\]\[1\]\[1\]'),
        ({"x": {Fraction(1): 1}}, r"cached_data\.x\[<Fraction>\] \(the key\)"),
        ({"X": {object()}}, r'cached_data\["X"\]\[0\]'),
        ({"X": Unregistered.ONE}, r'cached_data\["X"\]'),
        ({"X": type("Text", (str,), {})("x")}, r"convert it with str\(\.\.\.\)"),
        ({"X": collections.defaultdict(lambda: 1)}, "its factory"),
        ({"X": test_plain_json_stays_as_it_is}, "register_type"),
    ],
)
def test_type_that_could_not_come_back_is_refused_with_its_path(value: object, path: str) -> None:
    """The refusal names the place and what to do; it is a StateNotSavedError and a TypeError."""
    with pytest.raises(UnsavableValueError, match=path) as refused:
        freeze(value, name="cached_data")

    assert isinstance(refused.value, StateNotSavedError)
    assert isinstance(refused.value, TypeError)


def test_other_time_zone_classes_are_refused() -> None:
    """A tzinfo that is no ZoneInfo has no name to come back by."""

    class Zone(timezone.__base__):  # type: ignore[misc,name-defined]  # it is tzinfo
        def utcoffset(self, moment: datetime | None) -> timedelta:
            return timedelta(0)

    with pytest.raises(UnsavableValueError, match="use zoneinfo"):
        freeze(datetime(2026, 1, 1, tzinfo=Zone()))


def test_value_that_contains_itself_is_refused() -> None:
    """A cycle is found and named, through any kind of container."""
    loop: dict[str, object] = {"a": []}
    loop["a"].append((1, {"back": loop}))  # type: ignore[attr-defined]  # it is a list

    with pytest.raises(UnsavableValueError, match=r"value\.a\[0\]\[1\]\.back contains itself"):
        freeze(loop)


def test_value_shared_twice_is_no_cycle() -> None:
    """The same list in two places is saved twice."""
    shared = [1]

    assert there_and_back([shared, shared]) == [[1], [1]]


def test_hundred_levels_pass_and_more_are_refused() -> None:
    """Depth is bounded, so that nothing on the way runs out of stack."""
    deep: object = "bottom"
    for _ in range(99):
        deep = [{1: deep}] if sys.getrecursionlimit() < 0 else [deep]
    assert there_and_back(deep) == deep

    for _ in range(5):
        deep = [deep]
    with pytest.raises(UnsavableValueError, match="nested deeper than 100 levels"):
        freeze(deep)


def test_hundred_thousand_levels_are_refused_and_not_a_crash() -> None:
    """Freezing does not recurse."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(UnsavableValueError, match="nested deeper"):
        freeze(deep)


def test_deepest_maps_come_back() -> None:
    """The form on disk is deeper than the value; it is still read."""
    deep: object = "bottom"
    for _ in range(48):
        deep = {1: deep}

    assert there_and_back(deep) == deep


def test_large_value_is_frozen_in_steps_and_entries_stay_whole() -> None:
    """Between two steps others may run; what an entry holds belongs to one moment."""
    entries = {str(number): {"a": 0, "b": 0} for number in range(20_000)}
    into: dict[str, Any] = {}
    steps = 0
    for _ in freeze_steps({"cached_data": entries}, into=into):
        steps += 1
        for entry in entries.values():
            entry["a"] += 1
            entry["b"] += 1

    assert steps >= 10
    assert all(entry["a"] == entry["b"] for entry in into["cached_data"].values())


def test_small_value_is_frozen_in_one_step() -> None:
    """A state of up to 2,000 values is a picture of one moment."""
    into: dict[str, Any] = {}

    assert list(freeze_steps({"a": list(range(1_900)), "b": {"c": 1}}, into=into)) == []
    assert into["b"] == {"c": 1}


def test_dict_that_changes_between_two_steps_does_no_harm() -> None:
    """Whoever adds keys meanwhile neither breaks the copy nor gets into it."""
    entries = {str(number): [0] * 10 for number in range(2_000)}
    into: dict[str, Any] = {}
    for step, _ in enumerate(freeze_steps({"cached_data": entries}, into=into)):
        entries[f"new {step}"] = []

    assert list(into["cached_data"]) == [str(number) for number in range(2_000)]


@pytest.mark.parametrize(
    "frozen",
    [
        {"$": "unknown"},
        {"$": []},
        {"$": "decimal"},
        {"$": "decimal", "v": "abc"},
        {"$": "decimal", "v": [0, [1], 0]},
        {"$": "datetime", "v": "yesterday"},
        {"$": "datetime", "v": "2026-01-01T00:00:00", "zone": "../../etc/passwd"},
        {"$": "set", "v": [[1]]},
        {"$": "set", "v": 5},
        {"$": "map", "v": [[1]]},
        {"$": "map", "v": [["a", 1], "xyz"]},
        {"$": "bytes", "v": "!"},
        {"$": "defaultdict", "factory": "eval", "v": []},
        {"$": "object", "v": {}},
        {"$": "int", "v": "zz"},
        {"$": "secret", "v": 1},
    ],
    ids=repr,
)
def test_malformed_value_is_an_error_of_ours(frozen: Any) -> None:
    """Whatever is in a damaged file, there is one kind of error for it."""
    with pytest.raises(MalformedValueError):
        thaw(["x", {"y": frozen}])


@given(st.recursive(st.none() | st.integers() | st.text(max_size=6), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["$", "v", "zone", "type", "a"]), inner | st.sampled_from(["decimal", "map", "set", "enum", "object", "datetime", "timedelta", "secret", "deque", "tests:old-order"])), max_leaves=8))  # fmt: skip
def test_any_json_value_is_read_or_refused(frozen: Any) -> None:
    """No value that JSON can hold makes any other error."""
    try:
        thaw(frozen)
    except (MalformedValueError, UnknownTypeError):
        pass


def test_unknown_class_is_told_apart_from_damage() -> None:
    """A class that is not registered here is the program's matter, not the disk's."""
    with pytest.raises(UnknownTypeError, match="'bot:Quote', which is not registered"):
        thaw({"$": "object", "type": "bot:Quote", "v": {}})


def test_time_zone_not_known_here_says_what_to_install() -> None:
    """Machines without time zone data exist."""
    with pytest.raises(UnknownTypeError, match=r"'Mars/Olympus'.*pip install tzdata"):
        thaw({"$": "datetime", "v": "2026-01-01T00:00:00", "zone": "Mars/Olympus"})


def test_field_gained_since_gets_its_default() -> None:
    """A class may grow between two runs."""
    restored = thaw({"$": "object", "type": "tests:old-order", "v": {"client_id": "c1"}})

    assert restored == Order("c1", "spot")


def test_field_lost_since_is_named() -> None:
    """What was saved under it would be lost, so this is no silent matter."""
    with pytest.raises(UnknownTypeError, match="Order has no field 'price' any more"):
        thaw({"$": "object", "type": "tests:old-order", "v": {"client_id": "c1", "price": 1}})


def test_field_that_was_not_saved_and_has_no_default_is_named() -> None:
    """A dataclass without one of its fields would break much later."""
    with pytest.raises(UnknownTypeError, match="Order needs a value for 'client_id'"):
        thaw({"$": "object", "type": "tests:old-order", "v": {}})
    with pytest.raises(UnknownTypeError, match="Position needs a value for 'symbol'"):
        thaw(freeze(Position.model_construct(quantity=Decimal(1))))


def test_only_classes_that_can_be_taken_apart_are_registered() -> None:
    """Anything else is refused when it is registered, not when it is saved."""
    with pytest.raises(
        TypeError, match="a dataclass, a pydantic model or a NamedTuple, got <class 'object'>"
    ):
        register_type(object)
    with pytest.raises(TypeError, match="takes a class, got 5"):
        register_type(5)  # type: ignore[type-var,call-overload]  # the point


def test_name_of_another_class_is_refused() -> None:
    """Two classes under one name would be mixed up on disk."""
    with pytest.raises(ValueError, match=r"'tests:old-order' belongs to .*Order"):
        register_type(Quote, name="tests:old-order")


def test_object_without_one_of_its_fields_is_refused_with_its_path() -> None:
    """A dataclass object that was never finished cannot be saved."""
    broken = object.__new__(Order)

    with pytest.raises(UnsavableValueError, match=r"value\[0\].*incomplete"):
        freeze([broken])


def test_refusal_under_a_number_without_digits_names_its_type() -> None:
    """Python writes no number of more than 4300 digits."""
    with pytest.raises(UnsavableValueError, match=r"value\[<int>\] is of type builtins\.object"):
        freeze({10**6000: object()})

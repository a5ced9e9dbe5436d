"""What is told of an order's arguments: equal where the values are, and nothing to read."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from shockproof.memory.journal.fingerprint import ANYTHING, differing, fingerprint


def told(**arguments: object) -> dict[str, str]:
    return fingerprint(
        arguments,
        salt="orders\0mine",
        is_secret=lambda name: name == "api_key",
        redact=lambda text: text.replace("hunter2", "***"),
    )


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


class Request(BaseModel):
    symbol: str
    qty: float | None = None
    side: Side = Side.BUY


@dataclass(frozen=True)
class Leg:
    symbol: str
    qty: Decimal


@dataclass
class Written:
    """The client writes its own number into it."""

    number: int


class Session:
    """A client of this life."""


class Hostile(list[Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (10, 10.0),
        (10, Decimal("10.00")),
        (0.1, Decimal("0.1")),
        (0, Decimal("-0.0")),
        (-1500, Decimal("-1.5E+3")),
        (10**18, Decimal("1E+18")),
        (1e20, 10**20),
        (Decimal("1E+400"), 10**400),
        ([1, 2], (1.0, 2.0)),
        ({"a": 1, "b": None}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}),
        ({1, 2, 3}, frozenset([3, 2, 1])),
        (Side.BUY, "buy"),
        (
            datetime(2026, 1, 1, 12, tzinfo=UTC),
            datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2))),
        ),
        (Leg("AAPL", Decimal(1)), Leg("AAPL", Decimal("1.0"))),
        (Request(symbol="AAPL", qty=1), Request(symbol="AAPL", qty=1.0)),
        (Session(), Session()),
        ([Session(), 1], [Session(), 1]),
        (Written(1), Written(2)),
        (float("nan"), Decimal("nan")),
    ],
)
def test_what_is_the_same_by_value_is_the_same(one: object, other: object) -> None:
    """However it is written, in whatever life; a client and what it writes to are never compared."""
    assert differing(told(a=one), told(a=other)) == ()
    assert differing(told(a={"x": {"y": one}}), told(a={"x": {"y": other}})) == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (10, 11),
        (10, 100),
        (10, -10),
        (1, True),
        ("10", 10),
        (0.1, Decimal("0.10000000000000001")),
        ([1, 2], [2, 1]),
        ([[1], 2], [[1, 2]]),
        (["a,b"], ["a", "b"]),
        (["a", ""], ["", "a"]),
        ("AAPL", "MSFT"),
        (b"a", b"b"),
        (Side.BUY, Side.SELL),
        (date(2026, 1, 1), date(2026, 1, 2)),
        (time(1), time(2)),
        (timedelta(1), timedelta(2)),
        (UUID(int=1), UUID(int=2)),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=UTC)),
        ([Session(), 1], [Session(), 2]),
        ([Leg("AAPL", Decimal(1))], [Leg("AAPL", Decimal(2))]),
        (float("inf"), float("-inf")),
    ],
)
def test_what_is_another_value_differs(one: object, other: object) -> None:
    """Alone, and inside of something."""
    assert differing(told(a=one), told(a=other)) == ("a",)
    assert differing(told(a=[0, one]), told(a=[0, other])) == ("a",)


def test_parts_of_a_dict_and_of_a_model_are_told_by_themselves() -> None:
    """So that the error says what differs, and not that something does."""
    one = told(
        params={"price": 1, "tif": "day"}, order=Request(symbol="AAPL", qty=1), leg=Leg("A", Decimal(1))
    )
    other = told(
        params={"price": 2, "tif": "day"}, order=Request(symbol="AAPL", qty=2), leg=Leg("B", Decimal(1))
    )

    assert differing(one, other) == ("leg.symbol", "order.qty", "params.price")
    assert differing(one, other, only=("leg", "order.qty")) == ("leg.symbol", "order.qty")


def test_what_is_there_in_one_of_them_only_is_not_compared() -> None:
    """The function may have got a parameter since; None is as good as not there, and so is what an older program did not tell."""
    assert differing(told(qty=1), told(qty=2, price=2)) == ("qty",)
    assert differing(told(qty=1, price=2), told(qty=1)) == ()
    assert told(qty=1, price=None) == told(qty=1)
    assert differing(None, told(qty=1)) == ()
    assert differing(told(qty=1), None) == ()


def test_secrets_leave_no_trace() -> None:
    """Not even of their digest: one could be guessed by trying."""
    one = told(api_key="a", note="hunter2 is it", params={"api_key": 1, "q": 2}, deep=[{"api_key": 1}])
    other = told(api_key="b", note="another text", params={"api_key": 9, "q": 2}, deep=[{"api_key": 9}])

    assert (one["api_key"], one["note"], one["params.api_key"]) == (ANYTHING,) * 3
    assert differing(one, other) == ()
    assert list(told(hunter2=1)) == ["***"]


def test_digests_are_short_and_of_this_order_only() -> None:
    """Nobody sees from two journals that two orders were for the same amount."""
    assert {len(digest) for digest in told(a=1, b="x" * 100_000).values()} == {12}
    other = fingerprint({"a": 1}, salt="orders\0other", is_secret=lambda name: False, redact=str)
    assert told(a=1) != other


def test_digests_stay_what_they_are() -> None:
    """They stand in journals: another form would take every order for another one after an update."""
    assert told(
        symbol="AAPL",
        qty=10,
        price=Decimal("1.50"),
        side=Side.BUY,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        day=date(2026, 1, 2),
        wait=timedelta(seconds=1),
        id=UUID(int=7),
        raw=b"x",
        live=True,
        tags=["a", 1, None],
        some={3, 1},
        params={"a": {"b": 1}},
        order=Request(symbol="AAPL", qty=1),
        session=Session(),
    ) == {
        "symbol": "e7ce53be9819",
        "qty": "9441f189e9a7",
        "price": "7ddad90e3f4f",
        "side": "aa3c743adab8",
        "at": "58273c04a8a2",
        "day": "014b28e23231",
        "wait": "8447bd012fb9",
        "id": "e9a2e839aec8",
        "raw": "f8803fa69e72",
        "live": "2b7aa0f0cf0c",
        "tags": "c720b18ec566",
        "some": "2d39c88f689f",
        "params.a": "c6c9753df6aa",
        "order.symbol": "c2076477f41d",
        "order.qty": "6b0e755a9fcb",
        "order.side": "5be346dc3631",
        "session": ANYTHING,
    }


def test_what_is_too_large_too_deep_or_broken_is_not_compared() -> None:
    """An order does not fail, nor wait, for what it carries along."""
    endless: list[object] = []
    endless.append(endless)
    assert told(a=Hostile([1]))["a"] == ANYTHING
    assert differing(told(a=endless), told(a=endless)) == ()
    assert differing(told(a=[*range(2000)]), told(a=[*range(1999), 0])) == ()
    many = told(**{f"a{number}": number for number in range(100)})
    assert list(many) == ["arguments"]
    assert differing(many, told(**{f"a{number}": number for number in range(1, 101)})) == ("arguments",)


numbers = st.integers() | st.decimals(allow_nan=False) | st.floats(allow_nan=False)


@given(numbers, numbers)
def test_numbers_differ_exactly_where_they_are_not_equal(one: Any, other: Any) -> None:
    """By value, as they are written: a float is taken for the shortest number that gives it."""

    def exact(value: Any) -> Decimal:
        return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)

    assert (told(a=one) == told(a=other)) == (exact(one) == exact(other))

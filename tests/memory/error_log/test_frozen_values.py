"""What users hand in as context becomes plain, bounded JSON at once."""

from __future__ import annotations

import json
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import PurePosixPath
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from shockproof.memory.error_log.frozen_values import clean_text, freeze, safe_repr, shortened


class Side(StrEnum):
    BUY = "buy"


class Kind(Enum):
    LIMIT = 1


class Login(NamedTuple):
    user: str
    api_key: str


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Fickle(dict[str, object]):
    def items(self) -> object:  # type: ignore[override]  # it misbehaves on purpose
        raise RuntimeError("changed meanwhile")


def test_plain_values_are_copied_and_no_longer_shared() -> None:
    """What the caller changes later is not in the record."""
    tags = ["a"]
    context = {
        "symbol": "AAPL",
        "qty": 10,
        "price": 1.5,
        "live": True,
        "none": None,
        "tags": tags,
        "t": (1, 2),
    }

    frozen, size = freeze(context)
    tags.append("b")

    assert frozen == {
        "symbol": "AAPL", "qty": 10, "price": 1.5, "live": True, "none": None, "tags": ["a"], "t": [1, 2]
    }  # fmt: skip
    assert size >= len(json.dumps(frozen)) * 0.7


def test_everything_else_becomes_text() -> None:
    """Live objects, numbers that JSON does not know, and objects that refuse."""
    frozen, _ = freeze(
        {
            "side": Side.BUY,
            "kind": Kind.LIMIT,
            "price": Decimal("1.10"),
            "path": PurePosixPath("/x"),
            "bytes": b"\xff",
            "nan": float("nan"),
            "infinite": float("-inf"),
            "huge": 10**10_000,
            "set": {1},
            "login": Login("bob", "x"),
            "hostile": Hostile(),
            "fickle": Fickle(),
            3: "number",  # type: ignore[dict-item]  # a key that is no text is the case
        }
    )

    assert frozen == {
        "side": "buy",
        "kind": "<Kind.LIMIT: 1>",
        "price": "Decimal('1.10')",
        "path": "PurePosixPath('/x')",
        "bytes": "b'\\xff'",
        "nan": "nan",
        "infinite": "-inf",
        "huge": "<int of 33220 bits>",
        "set": [1],
        "login": {"user": "bob", "api_key": "x"},
        "hostile": "<Hostile whose repr raised RuntimeError>",
        "fickle": "<Fickle that could not be copied: RuntimeError>",
        "3": "number",
    }
    json.dumps(frozen, allow_nan=False)


def test_a_value_that_contains_itself_ends() -> None:
    """At a depth that nobody reads any more."""
    loop: dict[str, object] = {}
    loop["again"] = loop

    frozen, _ = freeze(loop)

    assert "too deep" in json.dumps(frozen)


def test_large_values_are_cut_and_say_so() -> None:
    """By number, by length, and altogether."""
    many, _ = freeze({"many": list(range(10_000))})
    wide, size = freeze({str(number): "x" * 3_000 for number in range(1_000)})

    assert isinstance(many["many"], list)
    assert many["many"][-1] == "... 9701 more"
    assert size < 50_000
    assert wide["..."].endswith(" more")  # type: ignore[attr-defined]  # the value is a text here
    assert len(safe_repr("x" * 10_000)) < 600


def test_a_cut_text_ends_at_a_blank_and_tells_the_rest() -> None:
    """So that no half of a secret is left, which nobody would recognise."""
    assert shortened("one two secret", 10) == "one two... (7 more characters)"
    assert shortened("a-long-word-only", 6) == "a-long... (10 more characters)"
    assert shortened("short", 5) == "short"


def test_half_a_character_becomes_an_escape() -> None:
    """A lone surrogate, as in odd file names, could be written by nobody."""
    assert clean_text("file \udcff €", 100) == "file \\udcff €"


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters()), json_like))
def test_whatever_comes_in_valid_json_comes_out(context: dict[str, object]) -> None:
    """Encodable by the strictest encoder, as UTF-8."""
    frozen, _ = freeze(context)

    json.dumps(frozen, allow_nan=False, ensure_ascii=False).encode()

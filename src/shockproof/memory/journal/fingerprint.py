"""
What an order was sent with, told so that it can be compared and not read: a short digest of each plain argument.

Whoever uses a key for another order by mistake is told so, and what differs; as payment services do with their
idempotency keys. What a program holds anew in each life, its clients and sessions, is not compared.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from typing import Any, Final

__all__ = ["Fingerprint", "differing", "fingerprint"]

Fingerprint = dict[str, str]
"""The digest of each argument by its name."""

ANYTHING: Final = "?"
"""Stands for what is not compared: an object, a secret, or what is too large."""

_BYTES: Final = 6
"""Of a digest: one in 3e14 others is taken for the same."""
_NO_FIELDS: Final = frozenset((str, int, float, bool))
_BIG: Final = 10**18
_MOST_VALUES: Final = 1000
_DEEPEST: Final = 8
_MOST_PARTS: Final = 50
"""Parts that one argument, and digests that one order has at most; what has more is compared as a whole."""


def fingerprint(
    arguments: Mapping[str, object],
    *,
    salt: str,
    is_secret: Callable[[str], bool],
    redact: Callable[[str], str],
) -> Fingerprint:
    """
    The digests of *arguments*; never waits, and never raises for what they hold.

    Compared are texts, numbers, times, UUIDs, bytes, enums, and what lists, dicts, frozen dataclasses and pydantic models hold of
    these; 10, 10.0 and Decimal("10.00") are one value, and so are a time and the same one in another zone. None is as
    good as not there. Other objects, and whatever stands under the name of a secret or holds one, match everything.

    Args:
        arguments: by name. The parts of a dict or a model are told by themselves, as ``order.qty``.
        salt: goes into each digest, so that those of two orders cannot be compared.
        is_secret: whether what stands under this name is one.
        redact: takes the secrets out of a text.
    """
    text = _Text(is_secret, redact)
    parts: dict[str, str] = {}
    for name, value in arguments.items():
        if value is None:
            continue
        try:
            parts |= text.parts(name, value)
        except Exception:  # noqa: BLE001  the user's own values: an order does not fail for them
            parts[redact(name)] = ANYTHING
    if len(parts) > _MOST_PARTS:
        parts = {"arguments": repr(sorted(parts.items()))}
    return {name: part if part == ANYTHING else _digest(salt, name, part) for name, part in parts.items()}


def differing(
    then: object, now: Fingerprint | None, *, only: Collection[str] | None = None
) -> tuple[str, ...]:
    """
    The names under which an order was sent with something else.

    What one of the two does not name is not compared: the function may have got, or lost, a parameter or a wrapper since.

    Args:
        then: what the journal says.
        now: what it is to be sent with.
        only: the arguments that count. None: all.
    """
    if now is None or not isinstance(then, dict):
        return ()
    return tuple(
        name
        for name in sorted(then.keys() & now.keys())
        if (only is None or name in only or name.partition(".")[0] in only)
        and then[name] != now[name]
        and ANYTHING not in {then[name], now[name]}
    )


def _digest(salt: str, name: str, text: str) -> str:
    data = f"{salt}\0{name}\0{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=_BYTES).hexdigest()


class _Text:
    """Values as texts that are equal where the values are; `ANYTHING` for what is not compared."""

    def __init__(self, is_secret: Callable[[str], bool], redact: Callable[[str], str]) -> None:
        self._is_secret = is_secret
        self._redact = redact
        self._left = _MOST_VALUES

    def parts(self, name: str, value: object) -> dict[str, str]:
        shown = self._redact(name)
        if shown != name or self._is_secret(name):
            return {shown: ANYTHING}
        fields = None if type(value) in _NO_FIELDS else _fields(value)
        if fields is None or len(fields) > _MOST_PARTS or not all(type(field) is str for field in fields):
            return {name: self._of(value, 0)}
        return {
            f"{name}.{self._redact(field)}": self._under(field, part, 1)
            for field, part in fields.items()
            if part is not None
        }

    def _under(self, name: str, value: object, depth: int) -> str:
        return ANYTHING if self._is_secret(name) else self._of(value, depth)

    def _of(self, value: object, depth: int) -> str:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            return ANYTHING
        if type(value) is int and -_BIG < value < _BIG:  # a quantity, nearly always
            return _decimal(value < 0, str(abs(value)), 0)
        if isinstance(value, Enum):
            inner = self._of(value.value, depth)
            return f"e{value.name}" if inner == ANYTHING else inner
        if isinstance(value, str):
            text = str.__str__(value)
            return f"s{len(text)}:{text}" if self._redact(text) == text else ANYTHING
        if value is None or isinstance(value, bool):
            return repr(value)
        plain = _number(value) or _other_plain(value)
        if plain is not None:
            return plain
        fields = _fields(value)
        if fields is not None:
            named = ((name, part) for name, part in fields.items() if part is not None)
            told = [
                (self._of(name, depth + 1), self._under(name if type(name) is str else "", part, depth + 1))
                for name, part in named
            ]
            return f"{{{','.join(f'{name}={part}' for name, part in sorted(told))}}}"
        if isinstance(value, set | frozenset):
            return f"<{','.join(sorted(self._of(one, depth + 1) for one in value))}>"
        if isinstance(value, list | tuple):
            return f"[{','.join(self._of(one, depth + 1) for one in value)}]"
        return ANYTHING


def _number(value: object) -> str | None:
    from decimal import Decimal  # at the first order: it takes longer to load than the whole journal

    if isinstance(value, float):
        value = Decimal(float.__repr__(value))  # as it is written, and not as it is kept
    elif isinstance(value, int):
        value = Decimal(int(value))
    if not isinstance(value, Decimal):
        return None
    if not value.is_finite():
        return f"n{value}"
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # it is finite
    return _decimal(bool(sign), "".join(map(str, digits)), exponent)


def _decimal(is_negative: bool, digits: str, exponent: int) -> str:
    written = digits.lstrip("0")
    short = written.rstrip("0")
    return f"n{'-' if is_negative and short else ''}{short}e{exponent + len(written) - len(short) if short else 0}"


def _other_plain(value: object) -> str | None:
    if isinstance(value, datetime):
        return f"t{(value if value.tzinfo is None else value.astimezone(UTC)).isoformat()}"
    if isinstance(value, date | time):
        return f"t{value.isoformat()}"
    if isinstance(value, timedelta):
        return f"d{value // timedelta(microseconds=1)}"
    if "uuid" in sys.modules:  # else nothing is one
        from uuid import UUID

        if isinstance(value, UUID):
            return f"u{value.hex}"
    if isinstance(value, bytes | bytearray):
        return f"x{value.hex()}"
    return None


def _fields(value: object) -> Mapping[Any, object] | None:  # Any: the keys of the user's dict
    """What a dict, a frozen dataclass or a pydantic model holds; others may be written to by whoever sends them."""
    if isinstance(value, dict):
        return value
    settings = getattr(type(value), "__dataclass_params__", None)
    if getattr(settings, "frozen", False):
        return {name: getattr(value, name) for name in getattr(type(value), "__dataclass_fields__", {})}
    model = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)  # not loaded: nothing is made of it
    if model is not None and isinstance(value, model):
        held: Any = value  # Any: its class is not known here
        return {**dict(held), **(held.model_extra or {})}
    return None

"""
What users hand in as context, turned into plain JSON values at once: bounded, and never a live object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from shockproof.memory.error_log.redaction import REDACTED, Redactor

__all__ = ["clean_text", "freeze", "safe_repr", "shortened"]

_DEEPEST: Final = 6
_MOST_VALUES: Final = 300
_LONGEST_TEXT: Final = 4_000
_LONGEST_REPR: Final = 500
_MOST_TEXT: Final = 32_000
_LONGEST_WORD: Final = 500
_LARGEST_INT: Final = 2**512


def shortened(text: str, longest: int, redactor: Redactor | None = None) -> str:
    """
    The text, cut at ``longest`` characters with a word about the rest.

    A registered secret that stands there is taken out, whole: *redactor* would not know half of it later.
    """
    if len(text) <= longest:
        return text
    # Back to the last blank: nor would it know the half of what it tells from its looks.
    blank = text.rfind(" ", max(0, longest - _LONGEST_WORD), longest)
    cut = blank if blank > 0 else longest
    begin = cut if redactor is None else redactor.cut_before(text, cut)
    return f"{text[:begin]}{REDACTED if begin < cut else ''}... ({len(text) - begin} more characters)"


def clean_text(text: object, longest: int, redactor: Redactor | None = None) -> str:
    """A bounded text that UTF-8 can carry: lone surrogates, as in odd file names, become escapes. Cut as `shortened` does."""
    if type(text) is not str:
        text = str(text) if isinstance(text, str) else safe_repr(text, redactor)
    text = shortened(text, longest, redactor)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-8", "backslashreplace").decode()
    return text


def safe_repr(value: object, redactor: Redactor | None = None) -> str:
    """A bounded ``repr``, whatever the object does. Cut as `shortened` does."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  it is the user's code
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return clean_text(text, _LONGEST_REPR, redactor)


def freeze(context: Mapping[str, object], redactor: Redactor | None = None) -> tuple[dict[str, object], int]:
    """
    A deep copy in plain JSON values, and about how many bytes of JSON it makes.

    Containers are copied within bounds of depth, number and length, which leave a word about the
    rest. Numbers that JSON does not know (NaN, infinity) and everything else become text. What *redactor* hides is
    hidden where a text is cut, and left in all others for it.
    """
    freezer = _Freezer(redactor)
    frozen = freezer.mapping(context, 0)
    return frozen, freezer.size


class _Freezer:
    """One run's budget."""

    def __init__(self, redactor: Redactor | None) -> None:
        self.size = 2
        self._redactor = redactor
        self._values = 0

    def mapping(self, value: Mapping[object, object] | Mapping[str, object], depth: int) -> dict[str, object]:
        copy: dict[str, object] = {}
        for key, item in list(value.items()):
            if self._is_spent():
                copy["..."] = f"{len(value) - len(copy)} more"
                break
            name = clean_text(key, 200, self._redactor)
            self.size += len(name) + 6
            copy[name] = self._value(item, depth + 1)
        return copy

    def _is_spent(self) -> bool:
        return self._values >= _MOST_VALUES or self.size >= _MOST_TEXT

    def _value(self, value: object, depth: int) -> object:
        self._values += 1
        kind = type(value)
        if value is None or kind is bool:
            self.size += 5
            return value
        if kind is str:
            return self._text(value)
        if kind is int:
            return self._int(value)
        if kind is float:
            return self._float(value)
        try:
            return self._other(value, depth)
        except Exception as error:  # noqa: BLE001  a dict that changes meanwhile, a subclass with ideas
            return self._text(f"<{kind.__name__} that could not be copied: {type(error).__name__}>")

    def _text(self, value: object) -> str:
        text = clean_text(value, _LONGEST_TEXT, self._redactor)
        self.size += len(text) + 2
        return text

    def _int(self, value: object) -> object:
        assert isinstance(value, int)  # the caller looked
        if -_LARGEST_INT < value < _LARGEST_INT:
            self.size += 8
            return int(value)
        return self._text(f"<int of {value.bit_length()} bits>")  # its digits are refused or take long

    def _float(self, value: object) -> object:
        assert isinstance(value, float)  # the caller looked
        self.size += 18
        return float(value) if math.isfinite(value) else repr(float(value))

    def _other(self, value: object, depth: int) -> object:
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, bool | int):
            return self._int(value)
        if isinstance(value, float):
            return self._float(value)
        if isinstance(value, dict | list | tuple | set | frozenset):
            if depth >= _DEEPEST:
                return self._text(f"<{type(value).__name__} of {len(value)}, too deep>")
            if isinstance(value, dict):
                return self.mapping(value, depth)
            names = getattr(value, "_fields", None)
            if isinstance(value, tuple) and isinstance(names, tuple) and len(names) == len(value):
                # A named tuple: by its names a secret in it is known.
                return self.mapping(dict(zip(names, value, strict=True)), depth)
            copy: list[object] = []
            for item in list(value):
                if self._is_spent():
                    copy.append(f"... {len(value) - len(copy)} more")
                    break
                copy.append(self._value(item, depth + 1))
            return copy
        return self._text(safe_repr(value, self._redactor))

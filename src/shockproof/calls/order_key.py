"""
The key of an order: made here where nobody gives one, and in the form that its venue takes.
"""

from __future__ import annotations

import base64
import os
import random
import re
import string
from typing import Final

__all__ = ["check_key", "make_key"]


_LOWER, _UPPER, _DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
_OTHER_FORMS: Final = (
    *((alphabet, length) for alphabet in (_LOWER + _DIGITS, _UPPER + _DIGITS) for length in (18, 12, 8)),
    *((alphabet, length) for alphabet in (_LOWER, _UPPER) for length in (18, 12, 9)),
    *((_DIGITS, length) for length in (18, 15, 12)),
)
"""Alphabet and length, each of at least 39 random bits: of ten thousand orders in a day, two have one key once in fifty years."""
_SAMPLES: Final = 16
"""Keys of a form that all match, or the form is not taken: what matches by chance would be refused another time."""


def make_key(pattern: str | re.Pattern[str] | None = None) -> str:
    """
    18 lower-case letters and digits, 80 bits of them random: what every venue we know takes as an order's id.

    Where that does not match *pattern*, which is for the whole key: capitals, fewer characters, letters or digits alone, or a
    UUID, the first that does.

    Raises:
        ValueError: none of these does, or *pattern* is no regular expression.
    """
    key = "sp" + base64.b32encode(os.urandom(10)).decode("ascii").lower()
    if pattern is None:
        return key
    matches = _compiled(pattern).fullmatch
    if matches(key):
        return key
    if matches(other := _uuid()) or matches(other := other.replace("-", "")):
        return other
    for alphabet, length in _OTHER_FORMS:
        samples = [_of(alphabet, length) for _ in range(_SAMPLES)]
        if all(map(matches, samples)):
            return samples[0]
    raise ValueError(
        f"key_pattern is {pattern!r}, and none of the keys that once() makes by itself matches it, such as {key!r}: give it "
        "a key of your own, another one for each order"
    )


def _of(alphabet: str, length: int) -> str:
    # Many venues want a letter first, and a number does not begin with 0.
    first = alphabet.removesuffix(_DIGITS) or _DIGITS[1:]
    choice = random.SystemRandom().choice
    return choice(first) + "".join(choice(alphabet) for _ in range(length - 1))


def _uuid() -> str:
    """A random one: version 4. Python's own module for it takes longer to load than an order may wait."""
    made = bytearray(os.urandom(16))
    made[6], made[8] = made[6] & 0x0F | 0x40, made[8] & 0x3F | 0x80
    text = made.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def check_key(key: str, pattern: str | re.Pattern[str]) -> None:
    """
    Refuse a key that its venue would not take as it is.

    Raises:
        ValueError: the whole key does not match *pattern*, or that is no regular expression.
    """
    form = _compiled(pattern)
    if form.fullmatch(key) is None:
        raise ValueError(
            f"key {key!r} does not match key_pattern {form.pattern!r}: the venue would refuse it, or change it so that "
            "it is never found. Nothing was sent"
        )


def _compiled(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (TypeError, re.error) as error:
        raise ValueError(f"key_pattern must be a regular expression, got {pattern!r}: {error}") from None

"""
The key of an order: made here where nobody gives one, and in the form that its venue takes.
"""

from __future__ import annotations

import base64
import os
import re

__all__ = ["check_key", "make_key"]


def make_key() -> str:
    """18 lower-case letters and digits, 80 bits of them random: what every venue we know takes as an order's id."""
    return "sp" + base64.b32encode(os.urandom(10)).decode("ascii").lower()


def check_key(key: str, pattern: str | re.Pattern[str]) -> None:
    """
    Refuse a key that its venue would not take as it is.

    Raises:
        ValueError: the whole key does not match *pattern*, or that is no regular expression.
    """
    try:
        form = re.compile(pattern)
    except (TypeError, re.error) as error:
        raise ValueError(f"key_pattern must be a regular expression, got {pattern!r}: {error}") from None
    if form.fullmatch(key) is None:
        raise ValueError(
            f"key {key!r} does not match key_pattern {form.pattern!r}: the venue would refuse it, or change it so that "
            "it is never found. Nothing was sent"
        )

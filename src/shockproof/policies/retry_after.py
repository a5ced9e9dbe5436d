"""
How long the other side asked us to wait.

Read from an attribute ``retry_after`` of the error, which wins; else the longest of what is said by the
headers of the error or of its ``response``, Retry-After or the reset of a rate limit of which nothing is
left (`rate_limit_headers`), and of "banned until <milliseconds since 1970>" in its text, as Binance puts it.
A response itself will do, too.
"""

from __future__ import annotations

import builtins
import math
import re
from datetime import timedelta
from typing import Final

from shockproof.policies.rate_limit_headers import Left, read_headers
from shockproof.vocabulary.clock import Clock

__all__ = ["BUILT_IN", "asked_to_wait"]

BUILT_IN: Final = frozenset(
    kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""Errors that have a text, and nothing else unless somebody gives it to them."""
_BAN: Final = r"\bbanned until (\d{13})\b"


def asked_to_wait(error: object, clock: Clock) -> float | None:
    """Seconds the other side asked for, a moment that it named as *clock* counts; whatever cannot be understood is None."""
    try:
        if type(error) in BUILT_IN and not error.__dict__:
            return _ban(error, clock) if "banned" in str(error) else None
        said = _seconds(getattr(error, "retry_after", None))
        if said is not None:
            return said
        found = [_ban(error, clock)]
        for holder in (error, getattr(error, "response", None)):
            headers = getattr(holder, "headers", None)
            # What HTTP clients use is not always a Mapping; a Mock, which has every attribute, has no items.
            if headers is not None and hasattr(type(headers), "__getitem__"):
                told = read_headers([(str(name), str(headers[name])) for name in headers], clock.time())
                found.append(told.wait)
                found += [one.resets_in for one in told.usage if isinstance(one, Left) and one.remaining == 0]
    except Exception:  # noqa: BLE001 - a foreign object's property may raise anything
        return None
    return max((wait for wait in found if wait is not None), default=None)


def _seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _ban(error: object, clock: Clock) -> float | None:
    text = str(error) if isinstance(error, BaseException) else ""
    until = re.search(_BAN, text) if "banned" in text else None
    return None if until is None else max(0.0, int(until[1]) / 1000 - clock.time())

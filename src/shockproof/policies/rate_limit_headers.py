"""
What the other side says in its headers about how much of its rate limit is used.

    X-MBX-USED-WEIGHT-1M, X-MBX-ORDER-COUNT-10S      used, in a window of so long (Binance)
    RateLimit-Limit, -Remaining, -Reset              what is left (IETF draft-ietf-httpapi-ratelimit-headers,
    RateLimit: limit=100, remaining=5, reset=2       in its older,
    RateLimit: "default";r=5;t=2                     and its newer forms)
    X-RateLimit-Limit, -Remaining, -Reset            the same, with a moment or seconds for its reset
    X-Bapi-Limit, -Status, -Reset-Timestamp          the same (Bybit)
    Retry-After                                      how long it wants to be left alone (RFC 9110, 10.2.3)
    Retry-After-Ms, X-Ms-Retry-After-Ms              the same in milliseconds (Azure)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC
from typing import Final, NamedTuple

from shockproof.policies.rate_limit import WEIGHT, parse_window

__all__ = ["Answer", "Left", "Said", "Used", "answer_of", "read_headers"]

_USED: Final = r"(?:.*-)?(used-(?:ip-|uid-)?weight|order-count)-(\d+[smhd])"
_NAMES: Final = {"order-count": ("orders", WEIGHT)}
_FAMILIES: Final = (
    ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
    ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    ("x-bapi-limit", "x-bapi-limit-status", "x-bapi-limit-reset-timestamp"),
)
_PARAMETER: Final = r"\b(limit|remaining|reset|r|t)=(\d+)"
_A_MOMENT: Final = 1e8
"""Seconds above which a reset is a moment since 1970, not a time from now; a thousand times that: milliseconds."""
_BANS: Final = frozenset({418, 429})


class Used(NamedTuple):
    """So much is used in its window of so many seconds."""

    seconds: float
    used: int
    names: tuple[str, ...]
    """Which rates it may be about; the first that is declared is meant."""


class Left(NamedTuple):
    """So much is left in the window with this limit, which begins anew in so many seconds."""

    remaining: int
    limit: int | None
    resets_in: float | None


class Said(NamedTuple):
    """All that some headers say."""

    usage: list[Used | Left]
    wait: float | None
    """Seconds it wants to be left alone."""


class Answer(NamedTuple):
    """What an HTTP client's response or error has of headers."""

    headers: Iterable[tuple[str, str]]
    is_ban: bool
    """Whether its status says that too much was sent."""


def answer_of(answer: object) -> Answer | None:
    """
    The headers of a response, or of an error that has some or has a response that does; else None.

    A response is what has ``headers`` and a number as ``status`` or ``status_code``: other results are not
    looked at any further.
    """
    try:
        holders = (answer, getattr(answer, "response", None)) if isinstance(answer, Exception) else (answer,)
        for holder in holders:
            headers = getattr(holder, "headers", None)
            if headers is None:
                continue
            status = getattr(holder, "status", getattr(holder, "status_code", None))
            if isinstance(status, int) or isinstance(answer, Exception):
                return Answer([(str(name), str(value)) for name, value in headers.items()], status in _BANS)
    except Exception:  # noqa: BLE001 - a foreign object's property may raise anything
        return None
    return None


def read_headers(headers: Iterable[tuple[str, str]], wall: float) -> Said:
    """
    What *headers* say; what is not understood is passed over.

    *wall*: seconds since 1970, for those that name a moment.
    """
    found = {str(name).lower(): str(value) for name, value in headers}
    usage: list[Used | Left] = []
    used = re.compile(_USED)
    for name, value in found.items():
        form = used.fullmatch(name)
        if form is not None and value.strip().isdecimal():
            names = _NAMES.get(form[1], (WEIGHT,))
            try:
                usage.append(Used(parse_window("window", form[2]), int(value), names))
            except ValueError:  # a window of no length, or more digits than Python reads
                continue
    for limit, remaining, reset in _FAMILIES:
        if remaining in found:
            usage += _left(found[remaining], found.get(limit), found.get(reset), wall)
    if "ratelimit" in found:
        said = dict(re.findall(_PARAMETER, found["ratelimit"]))
        left = said.get("remaining", said.get("r"))
        if left is not None:
            usage += _left(left, said.get("limit"), said.get("reset", said.get("t")), wall)
    waits = [_number(found.get(name)) for name in ("retry-after-ms", "x-ms-retry-after-ms")]
    waits = [None if wait is None else wait / 1000 for wait in waits]
    if "retry-after" in found:
        try:
            waits.append(_retry_after(found["retry-after"], wall))
        except (TypeError, ValueError, OverflowError):  # it is no number, and no date
            pass
    return Said(usage, max((wait for wait in waits if wait is not None), default=None))


def _retry_after(text: str, wall: float) -> float | None:
    try:
        wait = float(text)
    except ValueError:
        from email.utils import parsedate_to_datetime

        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        wait = max(0.0, moment.timestamp() - wall)
    return wait if math.isfinite(wait) and wait >= 0 else None


def _left(remaining: str, limit: str | None, reset: str | None, wall: float) -> list[Left]:
    left, most, resets_in = _number(remaining), _number(limit), _number(reset)
    if left is None:
        return []
    if resets_in is not None and resets_in > _A_MOMENT:
        resets_in = max(0.0, resets_in / (1000 if resets_in > _A_MOMENT * 1000 else 1) - wall)
    return [Left(int(left), None if most is None else int(most), resets_in)]


def _number(text: str | None) -> float | None:
    # "100, 100;w=60": the number comes first, what follows describes the window.
    form = None if text is None else re.match(r"\s*(\d+(?:\.\d+)?)", text)
    number = math.inf if form is None else float(form[1])
    return number if number < math.inf else None  # so many digits are no number of anything

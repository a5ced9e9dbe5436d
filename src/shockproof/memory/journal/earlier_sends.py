"""
What was sent once by earlier lives, as their journal tells it: for the rate limits that it counts in.

Each attempt of an order has a record of its own, made before it was sent. So what a killed program has sent since its
last save is not forgotten, as far as it was journalled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from shockproof.memory.journal.record import Kind

__all__ = ["EarlierSend", "sends_carried_along", "sent_under_a_limit"]


class EarlierSend(NamedTuple):
    """One attempt, or several that fall together."""

    service_name: str
    at: float
    """Wall time, seconds since 1970 UTC; of several, the last one's."""
    weight: int | dict[str, int]
    """Of each."""
    counts_for: float | None = None
    """Seconds: the longest window that it counted in when it was sent. None: an older shockproof did not say."""
    times: int = 1


def sent_under_a_limit(kind: int, body: dict[str, Any]) -> EarlierSend | None:  # Any: frozen values
    """The attempt that a record tells of, or the last one of an operation; None: it was under no rate limit, or is none."""
    if "weight" not in body:
        return None
    if kind == Kind.SEND:
        at = body.get("at")
    elif kind == Kind.OPERATION:
        at = body.get("attempt_at", body.get("sent_at"))
    else:
        return None
    return _send(body.get("service"), at, body["weight"], body.get("counts_for"), 1)


def sends_carried_along(body: dict[str, Any]) -> Iterator[EarlierSend]:  # Any: as above
    """What a SENT record tells of; what does not fit is passed over."""
    sent = body.get("sent")
    for one in sent if isinstance(sent, list) else ():
        if isinstance(one, list) and len(one) == 3:
            at, weight, times = one
            send = _send(body.get("service"), at, weight, body.get("counts_for"), times)
            if send is not None:
                yield send


def _send(
    service: object, at: object, weight: object, counts_for: object, times: object
) -> EarlierSend | None:
    when, lasts, weighs = _finite(at), _finite(counts_for), _weight_of(weight)
    if not isinstance(service, str) or not service or when is None or weighs is None:
        return None
    if not isinstance(times, int) or not _is_count(times):
        return None
    return EarlierSend(service, when, weighs, lasts if lasts is not None and lasts > 0.0 else None, times)


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _weight_of(value: object) -> int | dict[str, int] | None:
    if isinstance(value, dict):
        return value if all(_is_count(count) for count in value.values()) else None
    return value if isinstance(value, int) and _is_count(value) else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

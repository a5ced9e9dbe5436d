"""
What was sent once by earlier lives, as their journal tells it: for the rate limits that it counts in.

Each attempt of an order has a record of its own, made before it was sent. So what a killed program has sent since its
last save is not forgotten, as far as it was journalled.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from shockproof.memory.journal.record import Kind

__all__ = ["MOST_SENDS", "EarlierSend", "sent_under_a_limit"]

MOST_SENDS: Final = 10_000
"""So many are looked at, the latest."""


class EarlierSend(NamedTuple):
    """One attempt."""

    service_name: str
    at: float
    """Wall time, seconds since 1970 UTC."""
    weight: int | dict[str, int]


def sent_under_a_limit(kind: int, body: dict[str, Any]) -> EarlierSend | None:  # Any: frozen values
    """The attempt that a record tells of, or the last one of an operation; None: it was under no rate limit, or is none."""
    if kind == Kind.SEND:
        at = body.get("at")
    elif kind == Kind.OPERATION:
        at = body.get("attempt_at", body.get("sent_at"))
    else:
        return None
    weight, service = _weight_of(body.get("weight")), body.get("service")
    if weight is None or not isinstance(service, str) or not service or not isinstance(at, int | float):
        return None
    return EarlierSend(service, float(at), weight)


def _weight_of(value: object) -> int | dict[str, int] | None:
    if isinstance(value, dict):
        return value if all(_is_count(count) for count in value.values()) else None
    return value if isinstance(value, int) and _is_count(value) else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

"""
How long the other side asked us to wait.

Read from an attribute ``retry_after`` of the error, or from a Retry-After header (RFC 9110, section
10.2.3) of the error or of its ``response``: seconds, or a date. A response itself will do, too.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, timedelta

__all__ = ["asked_to_wait", "wait_in_header"]


def asked_to_wait(error: object) -> float | None:
    """Seconds the other side asked for, or None; whatever cannot be understood is None."""
    try:
        said = _seconds(getattr(error, "retry_after", None))
        if said is not None:
            return said
        for holder in (error, getattr(error, "response", None)):
            headers = getattr(holder, "headers", None)
            # What HTTP clients use is not always a Mapping; a Mock, which has every attribute, fails below.
            if headers is not None and hasattr(type(headers), "__getitem__"):
                for name in ("Retry-After", "retry-after"):
                    if name in headers:
                        return wait_in_header(str(headers[name]))
    except Exception:  # noqa: BLE001 - a foreign object's property may raise anything
        return None
    return None


def _seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def wait_in_header(text: str) -> float | None:
    """
    The seconds that a Retry-After header asks for.

    Raises:
        ValueError: it is neither a number nor a date.
    """
    try:
        return _seconds(float(text))
    except ValueError:
        from email.utils import parsedate_to_datetime

        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - time.time())

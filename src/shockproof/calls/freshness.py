"""
Whether an order is still to be sent: it may have been decided too long ago, or not be wanted any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from shockproof.calls.callables import is_async
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import CallRejectedError

__all__ = ["Freshness"]

_log = logging.getLogger("shockproof")


class Freshness:
    """
    Of one order. `valid_until` is judged by both clocks, so that neither a step of the one nor a sleep of the machine
    makes an order younger.

    Args:
        service_name: whose order it is.
        clock: tells the time.
        valid_until: from when on it is not sent; a naive one is local time. None: no end.
        still_wanted: a plain function; where it gives False, or raises, the order is not sent.

    Raises:
        TypeError, ValueError: a value that is not allowed.
    """

    def __init__(
        self,
        service_name: str,
        clock: Clock,
        valid_until: datetime | None,
        still_wanted: Callable[[], bool] | None,
    ) -> None:
        if valid_until is not None and not isinstance(valid_until, datetime):
            raise TypeError(
                f"valid_until must be a datetime (a naive one is local time) or None, got {valid_until!r}"
            )
        if still_wanted is not None and not callable(still_wanted):
            raise TypeError(f"still_wanted must be a function without arguments, got {still_wanted!r}")
        if still_wanted is not None and is_async(still_wanted):
            raise TypeError(
                f"still_wanted must be a plain function, got the async {still_wanted!r}: a coroutine always counts "
                "as true. It is asked between the disk and the venue, where nothing may wait"
            )
        self._service_name = service_name
        self._clock = clock
        self._still_wanted = still_wanted
        self._ends_at = None if valid_until is None else _seconds_at(valid_until)
        self._ends_after = None if self._ends_at is None else self._ends_at - clock.time()
        self._made_at = 0.0 if valid_until is None else clock.monotonic()

    def refusal(self, *, asks: bool = True) -> CallRejectedError | None:
        """Why it is not sent any more, if it is not; without *asks*, by the clock alone."""
        if self._ends_at is None and self._still_wanted is None:  # nearly always
            return None
        if self._is_too_old():
            return CallRejectedError(self._service_name, "valid_until")
        if not asks or self._still_wanted is None:
            return None
        try:
            is_wanted = bool(self._still_wanted())
        except Exception:  # noqa: BLE001  the user's predicate; what is not known to be wanted is not sent
            _log.exception("still_wanted failed; the order is not sent")
            is_wanted = False
        if not is_wanted:
            return CallRejectedError(self._service_name, "still_wanted")
        # The predicate may have taken its time.
        return CallRejectedError(self._service_name, "valid_until") if self._is_too_old() else None

    def _is_too_old(self) -> bool:
        if self._ends_at is None or self._ends_after is None:
            return False
        waited = self._clock.monotonic() - self._made_at
        return waited >= self._ends_after or self._clock.time() >= self._ends_at


def _seconds_at(valid_until: datetime) -> float:
    try:
        return valid_until.timestamp()
    except (ValueError, OverflowError, OSError):  # a naive one at either end of time, when it is local time
        raise ValueError(
            f"valid_until is out of range as local time, got {valid_until!r}: give it a time zone, or None for no end"
        ) from None

"""When each request of the account came in: what its rate limits are counted by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from shockproof.demo.venue.fault_plan import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Arrivals"]

_COUNTED: Final = {
    Endpoint.PLACE_ORDER: "orders",
    Endpoint.CANCEL_ORDER: "orders",
    Endpoint.QUERY_ORDER: "reads",
    Endpoint.LIST_ORDERS: "reads",
    Endpoint.ACCOUNT: "reads",
    Endpoint.EXCHANGE_INFO: "reads",
}
"""By which of two limits; market data counts for nobody."""


class Arrivals:
    """Told of every request as it comes in, whatever becomes of it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._moments: dict[str, list[float]] = {name: [] for name in _COUNTED.values()}

    def note(self, endpoint: Endpoint) -> None:
        name = _COUNTED.get(endpoint)
        if name is not None:
            self._moments[name].append(self._monotonic())

    def to_dict(self) -> dict[str, list[float]]:
        """Monotonic seconds by limit: ``orders`` and ``reads``."""
        return {name: list(moments) for name, moments in self._moments.items()}

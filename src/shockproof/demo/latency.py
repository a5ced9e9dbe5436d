"""How long the other side takes to answer, seen from the HTTP client and sorted by service."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING

from aiohttp import TraceConfig

if TYPE_CHECKING:
    from aiohttp import (
        ClientSession,
        TraceRequestEndParams,
        TraceRequestExceptionParams,
        TraceRequestStartParams,
    )

__all__ = ["Latency"]

_LAST = 40


class Latency:
    """Told by aiohttp about every request, answered or not, through ``trace_configs=[latency.trace()]``."""

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = {}

    def median_ms(self) -> dict[str, float]:
        """Of the last 40 requests to each service, in milliseconds."""
        return {
            service: round(1000 * sorted(seconds)[len(seconds) // 2], 1)
            for service, seconds in self._seconds.items()
        }

    def trace(self) -> TraceConfig:
        trace = TraceConfig()
        trace.on_request_start.append(self._began)
        trace.on_request_end.append(self._ended)
        trace.on_request_exception.append(self._ended)
        return trace

    @staticmethod
    async def _began(_: ClientSession, context: SimpleNamespace, __: TraceRequestStartParams) -> None:
        context.began = time.perf_counter()

    async def _ended(
        self,
        _: ClientSession,
        context: SimpleNamespace,
        params: TraceRequestEndParams | TraceRequestExceptionParams,
    ) -> None:
        service = _service(params.method, params.url.path)
        seconds = self._seconds.setdefault(service, deque(maxlen=_LAST))
        seconds.append(time.perf_counter() - context.began)


def _service(method: str, path: str) -> str:
    match path.rpartition("/")[2]:
        case "order" if method != "GET":
            return "trading"
        case "order" | "allOrders":
            return "order_lookup"
        case "24hr" | "bookTicker" | "price":
            return "market_data"
        case "account":
            return "account"
        case "latest":
            return "reference_rates"
        case "stream":
            return "price_stream"
        case _:
            return "venue_setup"

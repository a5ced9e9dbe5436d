"""Prices as they change, through a WebSocket that is opened again whenever it ends."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from aiohttp import WSMsgType

from shockproof import ErrorRecoveryService
from shockproof.demo.quotes import Quote, QuoteCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiohttp import ClientSession

    from shockproof.demo.timing import Timing

__all__ = ["PriceFeed"]


class PriceFeed:
    """Keeps a `QuoteCache` fresh; `run` it as a task."""

    def __init__(
        self,
        recovery: ErrorRecoveryService,
        http: ClientSession,
        stream_url: str,
        symbols: Sequence[str],
        cache: QuoteCache,
        timing: Timing,
    ) -> None:
        self._http = http
        self._symbols = {symbol.replace("/", ""): symbol for symbol in symbols}
        streams = "/".join(f"{name.lower()}@bookTicker" for name in self._symbols)
        self._url = f"{stream_url}/stream?streams={streams}"
        self._cache = cache
        # No circuit: a feed has one caller, who has nothing better to do than to try again.
        service = recovery.service(
            "price_stream",
            base_delay=0.1,
            max_delay=timing.timeout,
            jitter="full",
            circuit_threshold=None,
        )
        self._quotes = service.stream(self._connect, stale_after=4 * timing.timeout)
        self.ticks = 0
        self.connects = 0

    async def run(self) -> None:
        """Follow the prices until cancelled."""
        async with self._quotes as quotes:
            async for quote in quotes:
                self._cache.put(quote)
                self.ticks += 1

    async def _connect(self) -> AsyncIterator[Quote]:
        async with self._http.ws_connect(self._url, heartbeat=5.0) as socket:
            self.connects += 1
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    raise ConnectionError(f"the price stream sent {message.type.name}")
                tick = json.loads(message.data)["data"]
                price = (float(tick["b"]) + float(tick["a"])) / 2
                yield Quote(self._symbols[tick["s"]], price, "stream", time.monotonic())

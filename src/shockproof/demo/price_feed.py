"""Prices as they change, through a WebSocket that is opened again whenever it ends."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from aiohttp import WSMsgType

from shockproof import ErrorRecoveryService
from shockproof.demo.quotes import Quote, QuoteCache

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        self._silence = 4 * timing.timeout
        # No circuit, and practically no end: a feed has one caller, who has nothing better to do.
        self._stream = recovery.service(
            "price_stream",
            max_retries=100_000,
            base_delay=0.1,
            max_delay=timing.timeout,
            jitter="full",
            circuit_threshold=None,
        )
        self.ticks = 0
        self.connects = 0

    async def run(self) -> None:
        """Follow the prices until cancelled."""
        async for attempt in self._stream.attempts():
            async with attempt:
                await self._follow()

    async def _follow(self) -> None:
        async with self._http.ws_connect(self._url, heartbeat=5.0) as socket:
            self.connects += 1
            while True:
                message = await socket.receive(timeout=self._silence)
                if message.type is not WSMsgType.TEXT:
                    raise ConnectionError(f"the price stream ended: {message.type.name}")
                tick = json.loads(message.data)["data"]
                symbol = self._symbols[tick["s"]]
                price = (float(tick["b"]) + float(tick["a"])) / 2
                self._cache.put(Quote(symbol, price, "stream", time.monotonic()))
                self.ticks += 1

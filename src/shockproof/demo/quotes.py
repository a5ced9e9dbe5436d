"""
Prices from three places: the venue, a second source, and what was last heard.

`price_source` gives one coroutine function that asks them in this order; the strategy does not see
which one answered unless it looks.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shockproof import ErrorRecoveryService, with_error_recovery
from shockproof.integrations.ccxt import classify_for

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from ccxt.async_support import binance

    from shockproof.demo.timing import Timing

__all__ = ["Quote", "QuoteCache", "StaleQuoteError", "price_source"]


@dataclass(frozen=True, slots=True)
class Quote:
    """A price, where it comes from, and when it was heard (monotonic seconds)."""

    symbol: str
    price: float
    source: str
    heard_at: float

    @property
    def is_tradable(self) -> bool:
        """Whether it is the venue's own: on a stand-in's price one watches, and does not trade."""
        return self.source == "venue"


class StaleQuoteError(Exception):
    """There is no quote, or it is too old to be of any use."""


class QuoteCache:
    """The last quote of each symbol, from wherever it came."""

    def __init__(self, max_age: float, now: Callable[[], float] = time.monotonic) -> None:
        self._quotes: dict[str, Quote] = {}
        self._max_age = max_age
        self._now = now

    def put(self, quote: Quote) -> None:
        self._quotes[quote.symbol] = quote

    def get(self, symbol: str) -> Quote:
        """Raises StaleQuoteError for one that is missing or older than ``max_age`` seconds."""
        quote = self._quotes.get(symbol)
        if quote is None:
            raise StaleQuoteError(f"no quote of {symbol} so far")
        age = self._now() - quote.heard_at
        if age > self._max_age:
            raise StaleQuoteError(
                f"the last quote of {symbol} is {age:.1f} s old, more than {self._max_age:g} s"
            )
        return Quote(symbol, quote.price, "cache", quote.heard_at)

    def prices(self) -> dict[str, float]:
        """The newest price of each symbol, whatever its age."""
        return {symbol: quote.price for symbol, quote in self._quotes.items()}

    def to_state(self) -> dict[str, dict[str, float]]:
        """For a restart: with the wall time, since the monotonic clock begins anew."""
        offset = time.time() - self._now()
        return {
            symbol: {"price": quote.price, "heard_at": quote.heard_at + offset}
            for symbol, quote in self._quotes.items()
        }

    def restore(self, saved: Mapping[str, Mapping[str, float]]) -> None:
        """What `to_state` gave, as old as it is by now."""
        offset = self._now() - time.time()
        for symbol, quote in saved.items():
            # Never from the future, should the clock have been set back.
            heard_at = min(quote["heard_at"] + offset, self._now())
            self.put(Quote(symbol, quote["price"], "cache", heard_at))


@with_error_recovery("reference_rates", max_retries=1, base_delay=0.05, timeout=1.0)
async def fetch_reference_rate(http: ClientSession, url: str, currency: str) -> float:
    """US dollars for one unit, as published for the day."""
    async with http.get(f"{url}/latest", params={"base": currency}) as answer:
        answer.raise_for_status()
        return float((await answer.json())["rate"])


def price_source(
    recovery: ErrorRecoveryService,
    exchange: binance,
    http: ClientSession,
    reference_url: str,
    cache: QuoteCache,
    timing: Timing,
) -> Callable[[str], Awaitable[Quote]]:
    """A coroutine function from a symbol such as ``"EUR/USDT"`` to its newest quote."""

    async def from_reference(symbol: str) -> Quote:
        rate = await fetch_reference_rate(http, reference_url, symbol.partition("/")[0])
        return Quote(symbol, rate, "reference", time.monotonic())

    market = recovery.service(
        "market_data",
        timeout=timing.timeout,
        max_retries=2,
        base_delay=0.05,
        classify=classify_for(exchange),
        circuit_threshold=4,
        circuit_timeout=timing.circuit_timeout,
        fallback=[from_reference, cache.get],
    )

    @market
    async def fetch_quote(symbol: str) -> Quote:
        ticker = await exchange.fetch_ticker(symbol)
        if not ticker["bid"] or not ticker["ask"]:
            raise StaleQuoteError(f"nobody quotes {symbol} at the moment")
        price = (float(ticker["bid"]) + float(ticker["ask"])) / 2
        quote = Quote(symbol, price, "venue", time.monotonic())
        cache.put(quote)
        return quote

    return fetch_quote

"""The broker's own client, unmodified, pointed at the venue by its public options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shockproof.demo.venue.signature import DEMO_KEY, DEMO_SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ccxt.async_support import binance

__all__ = ["connect_ccxt"]


def connect_ccxt(
    base_url: str,
    *,
    timeout: float = 2.0,
    options: Mapping[str, Any] | None = None,  # Any: ccxt's options are free-form
) -> binance:
    """
    A new ``ccxt.async_support.binance`` that talks to the venue at *base_url*.

    Importing ccxt takes about a second: do it before the loop is busy. Close it with
    ``await exchange.close()``. Its own retries stay off; so does its throttle, which would only
    slow a demo down on loopback.

    Args:
        base_url: the venue's, for example ``http://127.0.0.1:8080``.
        timeout: seconds until ccxt gives up on an answer.
        options: more of ccxt's own options.
    """
    import ccxt.async_support as ccxt

    exchange = ccxt.binance(
        {
            "apiKey": DEMO_KEY,
            "secret": DEMO_SECRET,
            "timeout": round(timeout * 1000),
            "enableRateLimit": False,
            "options": {
                "fetchMarkets": {"types": ["spot"]},
                "fetchCurrencies": False,
                "fetchMargins": False,
                "warnOnFetchOpenOrdersWithoutSymbol": False,
                "maxRetriesOnFailure": 0,
                **(options or {}),
            },
        }
    )
    api = exchange.urls["api"]
    for name in ("public", "private", "v1"):
        api[name] = f"{base_url}/api/{'v1' if name == 'v1' else 'v3'}"
    # Every other section would leave this machine: without an address ccxt refuses to call it.
    for name in set(api) - {"public", "private", "v1"}:
        del api[name]
    return exchange

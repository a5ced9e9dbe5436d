"""A second, independent source of prices: the published rates of the replayed day, nothing in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from shockproof.demo.prices.reference_rates import CURRENCIES
from shockproof.demo.venue.fault_plan import Endpoint

if TYPE_CHECKING:
    from shockproof.demo.venue.exchange import Exchange

__all__ = ["reference_app"]


def reference_app(exchange: Exchange) -> web.Application:
    """``GET /latest?base=EUR``: US dollars for one unit, with the day of publication. Without *base*: all."""

    def rate(currency: str) -> dict[str, str]:
        day, usd = exchange.replay.published(currency, exchange.clock.elapsed())
        return {
            "base": currency,
            "quote": "USD",
            "date": day,
            "rate": str(usd),
            "source": "European Central Bank",
        }

    async def latest(request: web.Request) -> web.Response:
        elapsed = exchange.clock.elapsed()
        fault = exchange.faults.decide(Endpoint.REFERENCE, elapsed) if exchange.clock.has_begun else None
        if fault is not None:
            exchange.faults.record(fault.kind, Endpoint.REFERENCE, elapsed)
            return web.json_response({"error": "maintenance"}, status=fault.status)
        base = request.query.get("base")
        if base is None:
            return web.json_response({"rates": [rate(currency) for currency in CURRENCIES]})
        if base not in CURRENCIES:
            return web.json_response(
                {"error": f"base must be one of {', '.join(CURRENCIES)}, got {base!r}"}, status=404
            )
        return web.json_response(rate(base))

    app = web.Application()
    app.router.add_get("/latest", latest)
    return app

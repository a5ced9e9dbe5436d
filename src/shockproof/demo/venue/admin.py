"""The ground truth for whoever checks the session; faults never touch it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from shockproof.demo.venue.exchange import Exchange
    from shockproof.demo.venue.rest import RestInterface

__all__ = ["admin_app"]


def admin_app(exchange: Exchange, rest: RestInterface) -> web.Application:
    """``/ledger``, ``/faults``, ``/faults/log``, ``/session`` and ``POST /session/begin``."""

    async def ledger(_request: web.Request) -> web.Response:
        return web.json_response(exchange.ledger_report())

    def active() -> list[str]:
        if not exchange.clock.has_begun:
            return []
        return [window.kind.value for window in exchange.faults.plan.active(exchange.clock.elapsed())]

    async def faults(_request: web.Request) -> web.Response:
        return web.json_response(
            {
                "elapsed": exchange.clock.elapsed(),
                "active": active(),
                "plan": exchange.faults.plan.to_dict(),
            }
        )

    async def fault_log(_request: web.Request) -> web.Response:
        return web.json_response(exchange.faults.to_dict())

    async def session(_request: web.Request) -> web.Response:
        return web.json_response(
            {
                "begun": exchange.clock.has_begun,
                "elapsed": exchange.clock.elapsed(),
                "seconds": exchange.faults.plan.seconds,
                "active": active(),
                "requests": rest.requests,
                "orders": len(exchange.ledger.orders),
                "faults": dict(exchange.faults.counts()),
            }
        )

    async def begin(request: web.Request) -> web.Response:
        exchange.clock.begin()
        return await session(request)

    app = web.Application()
    app.router.add_get("/ledger", ledger)
    app.router.add_get("/faults", faults)
    app.router.add_get("/faults/log", fault_log)
    app.router.add_get("/session", session)
    app.router.add_post("/session/begin", begin)
    return app

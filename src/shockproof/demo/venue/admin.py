"""The ground truth for whoever checks the session; faults never touch it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from shockproof.demo.venue.exchange import Exchange
    from shockproof.demo.venue.rest import RestInterface

__all__ = ["admin_app"]


def admin_app(exchange: Exchange, rest: RestInterface) -> web.Application:
    """``/ledger``, ``/arrivals``, ``/faults``, ``/faults/log``, ``/session``, ``POST /session/begin`` and ``/silence``."""

    async def ledger(_request: web.Request) -> web.Response:
        return web.json_response(exchange.ledger_report())

    async def arrivals(_request: web.Request) -> web.Response:
        return web.json_response(rest.arrivals.to_dict())

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

    async def arm_silence(_request: web.Request) -> web.Response:
        exchange.silence.arm()
        return web.json_response({})

    async def silence(_request: web.Request) -> web.Response:
        try:
            return web.json_response({"client_order_id": await exchange.silence.fell()})
        except RuntimeError as error:
            raise web.HTTPConflict(text=str(error)) from None

    async def end_silence(_request: web.Request) -> web.Response:
        exchange.silence.end()
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/ledger", ledger)
    app.router.add_get("/arrivals", arrivals)
    app.router.add_get("/faults", faults)
    app.router.add_get("/faults/log", fault_log)
    app.router.add_get("/session", session)
    app.router.add_post("/session/begin", begin)
    app.router.add_post("/silence", arm_silence)
    app.router.add_get("/silence", silence)
    app.router.add_delete("/silence", end_silence)
    return app

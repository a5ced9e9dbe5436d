"""The exchange's REST interface, faults included."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from aiohttp import web

from shockproof.demo.venue import signature
from shockproof.demo.venue.arrivals import Arrivals
from shockproof.demo.venue.connection_reset import reset
from shockproof.demo.venue.dialect import milliseconds
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind
from shockproof.demo.venue.rejections import RejectedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shockproof.demo.venue.exchange import Exchange
    from shockproof.demo.venue.fault_injector import Fault
    from shockproof.demo.venue.spot_api import Parameters

__all__ = ["Answer", "RestInterface", "Route"]

_UNKNOWN_OUTCOME = {
    503: (-1006, "An unexpected response was received from the message bus. Execution status unknown."),
    504: (
        -1007,
        "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
    ),
}
_NOT_EXECUTED = {
    502: "<html><head><title>502 Bad Gateway</title></head></html>",
    503: "Service Unavailable.",
}


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    endpoint: Endpoint
    answer: Callable[[Parameters, float], object]
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: object

    @property
    def is_success(self) -> bool:
        return self.status == 200


class RestInterface:
    """
    Answers Binance spot requests under ``/api/v3``, or does to them what the fault plan says.

    The exchange itself is asked synchronously: whatever a cut or a cancelled connection does to
    the answer, an order is booked whole or not at all.
    """

    prefix = "/api/v3"

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._requests = 0
        self.arrivals = Arrivals()
        self._later: dict[asyncio.TimerHandle, Callable[[], None]] = {}

    @property
    def requests(self) -> int:
        """How many requests came in, faulty ones included."""
        return self._requests

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        for route in self._routes():
            app.router.add_route(route.method, self.prefix + route.path, self._handler(route))

    def close(self) -> None:
        """What was to be booked later is not booked any more."""
        for timer in self._later:
            timer.cancel()
        self._later.clear()

    def _routes(self) -> list[Route]:
        api = self._exchange.api
        return [
            Route("GET", "/ping", Endpoint.PING, lambda _parameters, _now: {}),
            Route("GET", "/time", Endpoint.PING, lambda _parameters, now: {"serverTime": milliseconds(now)}),
            Route("GET", "/exchangeInfo", Endpoint.EXCHANGE_INFO, api.exchange_info),
            Route("GET", "/ticker/24hr", Endpoint.TICKER, api.ticker_24hr),
            Route("GET", "/ticker/price", Endpoint.TICKER, api.ticker_price),
            Route("GET", "/ticker/bookTicker", Endpoint.TICKER, api.book_ticker),
            Route("GET", "/depth", Endpoint.DEPTH, api.depth),
            Route("GET", "/trades", Endpoint.DEPTH, api.trades),
            Route("GET", "/aggTrades", Endpoint.DEPTH, api.aggregate_trades),
            Route("POST", "/order", Endpoint.PLACE_ORDER, api.place_order, signed=True),
            Route("GET", "/order", Endpoint.QUERY_ORDER, api.query_order, signed=True),
            Route("DELETE", "/order", Endpoint.CANCEL_ORDER, api.cancel_order, signed=True),
            Route("GET", "/openOrders", Endpoint.LIST_ORDERS, api.open_orders, signed=True),
            Route("GET", "/allOrders", Endpoint.LIST_ORDERS, api.all_orders, signed=True),
            Route("GET", "/myTrades", Endpoint.LIST_ORDERS, api.my_trades, signed=True),
            Route("GET", "/account", Endpoint.ACCOUNT, api.account, signed=True),
        ]

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            self._requests += 1
            self.arrivals.note(route.endpoint)
            self._exchange.clock.begin()
            elapsed = self._exchange.clock.elapsed()
            fault = self._exchange.faults.decide(route.endpoint, elapsed)
            body = (await request.read()).decode("utf-8", "replace")
            self._execute_what_is_due()
            silence = self._exchange.silence
            if silence.is_armed and route.endpoint is Endpoint.PLACE_ORDER:
                fault = None
            if fault is None:
                answer = self._execute(route, request, body)
                if silence.is_armed and route.endpoint is Endpoint.PLACE_ORDER and answer.is_success:
                    silence.fall(self._client_order_id(self._parameters(request, body)) or "")
                response = self._honest(answer)
            else:
                response = await self._misbehave(fault, route, request, body)
            await silence.pass_by()
            return response

        return handle

    # -- honest answers -----------------------------------------------------------------------------

    def _execute(self, route: Route, request: web.Request, body: str) -> Answer:
        now = self._exchange.wall()
        try:
            parameters = self._parameters(request, body)
            if route.signed:
                self._check(request, body, parameters, now)
            return Answer(200, route.answer(parameters, now))
        except RejectedError as rejection:
            return self._rejected(rejection)

    def _check(self, request: web.Request, body: str, parameters: Parameters, now: float) -> None:
        """Whether the request comes from the customer. Raises RejectedError."""
        signature.check_key(request.headers.get("X-MBX-APIKEY"))
        signature.check_signature(request.rel_url.raw_query_string, body)
        signature.check_time(parameters, now)

    def _rejected(self, rejection: RejectedError) -> Answer:
        return Answer(rejection.status, {"code": rejection.code, "msg": rejection.message})

    @staticmethod
    def _parameters(request: web.Request, body: str) -> Parameters:
        sent = [*request.query.items(), *parse_qsl(body, keep_blank_values=True)]
        parameters = dict(sent)
        if len(parameters) != len(sent):
            raise RejectedError(-1101, "Too many parameters; duplicate values detected.")
        return parameters

    def _honest(self, answer: Answer) -> web.Response:
        return self._json(answer.status, answer.body)

    def _json(self, status: int, body: object, headers: dict[str, str] | None = None) -> web.Response:
        return web.Response(
            status=status,
            text=json.dumps(body, separators=(",", ":")),
            content_type="application/json",
            headers={"X-MBX-USED-WEIGHT-1M": str(self._requests), **(headers or {})},
        )

    # -- faults -------------------------------------------------------------------------------------

    async def _misbehave(self, fault: Fault, route: Route, request: web.Request, body: str) -> web.Response:
        match fault.kind:
            case FaultKind.LATENCY:
                self._log(fault, route, request, body, booked=None)
                await asyncio.sleep(fault.delay)
                return self._honest(self._execute(route, request, body))
            case FaultKind.LATE:
                answer = self._execute(route, request, body)
                self._log(fault, route, request, body, booked=answer.is_success)
                await asyncio.sleep(fault.delay)
                return self._honest(answer)
            case FaultKind.ERROR_AFTER:
                answer = self._execute(route, request, body)
                self._log(fault, route, request, body, booked=answer.is_success)
                return self._unknown_outcome(fault.status)
            case FaultKind.CUT_AFTER:
                answer = self._execute(route, request, body)
                self._log(fault, route, request, body, booked=answer.is_success)
                return self._cut(request)
            case FaultKind.BOOKED_LATER:
                self._execute_later(fault, route, request, body)
                return self._unknown_outcome(fault.status) if fault.status else self._cut(request)
            case FaultKind.RATE_LIMIT:
                self._log(fault, route, request, body, booked=False)
                return self._json(
                    429,
                    {
                        "code": -1003,
                        "msg": "Too many requests; please use WebSocket Streams for live updates.",
                    },
                    {"Retry-After": str(fault.retry_after)},
                )
            case FaultKind.ERROR_BEFORE:
                self._log(fault, route, request, body, booked=False)
                return web.Response(
                    status=fault.status, text=_NOT_EXECUTED[fault.status], content_type="text/html"
                )
            case _:
                self._log(fault, route, request, body, booked=False)
                return self._cut(request)

    def _execute_later(self, fault: Fault, route: Route, request: web.Request, body: str) -> None:
        def book() -> None:
            del self._later[timer]
            answer = self._execute(route, request, body)
            self._log(fault, route, request, body, booked=answer.is_success)

        timer = asyncio.get_running_loop().call_later(fault.delay, book)
        self._later[timer] = book

    def _execute_what_is_due(self) -> None:
        # Also where the loop is behind its timers: who asks when the time is over finds the order.
        now = asyncio.get_running_loop().time()
        for timer, book in list(self._later.items()):
            if timer.when() <= now:
                timer.cancel()
                book()

    def _unknown_outcome(self, status: int) -> web.Response:
        code, message = _UNKNOWN_OUTCOME[status]
        return self._json(status, {"code": code, "msg": message})

    @staticmethod
    def _cut(request: web.Request) -> web.Response:
        reset(request.transport)
        return web.Response()  # for the framework: there is nobody left to read it

    @staticmethod
    def _client_order_id(parameters: Parameters) -> str | None:
        return parameters.get("newClientOrderId") or parameters.get("origClientOrderId")

    def _log(
        self, fault: Fault, route: Route, request: web.Request, body: str, *, booked: bool | None
    ) -> None:
        is_order = route.endpoint in (Endpoint.PLACE_ORDER, Endpoint.CANCEL_ORDER)
        client_order_id: str | None = None
        if is_order:
            try:
                parameters = self._parameters(request, body)
            except RejectedError:
                parameters = {}
            client_order_id = self._client_order_id(parameters)
        self._exchange.faults.record(
            fault.kind,
            route.endpoint,
            self._exchange.clock.elapsed(),
            client_order_id=client_order_id,
            booked=booked if is_order else None,
        )

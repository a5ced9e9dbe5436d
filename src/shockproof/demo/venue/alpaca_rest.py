"""The same market, account and faults in the dialect of Alpaca's trading API, as far as its own client needs it."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shockproof.demo.venue.dialect import number
from shockproof.demo.venue.fault_plan import Endpoint
from shockproof.demo.venue.orders import OrderStatus, OrderType
from shockproof.demo.venue.rejections import RejectedError
from shockproof.demo.venue.rest import Answer, RestInterface, Route
from shockproof.demo.venue.signature import DEMO_KEY, DEMO_SECRET

if TYPE_CHECKING:
    from aiohttp import web

    from shockproof.demo.venue.dialect import JsonObject
    from shockproof.demo.venue.orders import Order
    from shockproof.demo.venue.spot_api import Parameters

__all__ = ["AlpacaInterface"]

_STATUSES = {
    OrderStatus.NEW: "new",
    OrderStatus.PARTIALLY_FILLED: "partially_filled",
    OrderStatus.FILLED: "filled",
    OrderStatus.CANCELED: "canceled",
    OrderStatus.EXPIRED: "expired",
}
_NOT_FOUND = RejectedError(40410000, "order not found", 404)
_CLIENT_ORDER_ID = re.compile(r"[ -~]{1,128}")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _order(order: Order) -> JsonObject:
    kind = "market" if order.type is OrderType.MARKET else "limit"
    return {
        "id": str(uuid.UUID(int=order.order_id)),
        "client_order_id": order.client_order_id,
        "created_at": _moment(order.accepted_at),
        "updated_at": _moment(order.updated_at),
        "submitted_at": _moment(order.accepted_at),
        "symbol": order.symbol,
        "asset_class": "crypto",
        "qty": number(order.quantity),
        "filled_qty": number(order.executed),
        "filled_avg_price": number(order.executed_quote / order.executed) if order.executed else None,
        "order_class": "simple",
        "order_type": kind,
        "type": kind,
        "side": order.side.lower(),
        "time_in_force": order.time_in_force.lower(),
        "limit_price": None if order.price is None else number(order.price),
        "status": _STATUSES[order.status],
        "extended_hours": False,
    }


class AlpacaInterface(RestInterface):
    """
    Orders and the clock under ``/v2``, for the one customer.

    Unlike Binance, Alpaca refuses a client order id that any earlier order of the account had.
    """

    prefix = "/v2"

    def _routes(self) -> list[Route]:
        return [
            Route("GET", "/clock", Endpoint.PING, self._clock, signed=True),
            Route("POST", "/orders", Endpoint.PLACE_ORDER, self._place, signed=True),
            Route("GET", "/orders", Endpoint.LIST_ORDERS, self._list, signed=True),
            Route("GET", "/orders:by_client_order_id", Endpoint.QUERY_ORDER, self._by_client_id, signed=True),
            Route("GET", "/orders/{order_id}", Endpoint.QUERY_ORDER, self._by_id, signed=True),
            Route("DELETE", "/orders/{order_id}", Endpoint.CANCEL_ORDER, self._cancel, signed=True),
        ]

    # -- endpoints --------------------------------------------------------------------------------------

    def _clock(self, parameters: Parameters, now: float) -> JsonObject:
        del parameters
        return {
            "timestamp": _moment(now),
            "is_open": True,
            "next_open": _moment(now + 86_400),
            "next_close": _moment(now + 3_600),
        }

    def _place(self, parameters: Parameters, now: float) -> JsonObject:
        if any(order.client_order_id == parameters.get("client_order_id") for order in self._orders()):
            raise RejectedError(40010001, "client_order_id must be unique", 422)
        wanted = {
            "symbol": parameters.get("symbol", ""),
            "side": parameters.get("side", "").upper(),
            "type": parameters.get("type", "").upper(),
            "quantity": parameters.get("qty", ""),
        }
        if "limit_price" in parameters:
            wanted |= {
                "price": parameters["limit_price"],
                "timeInForce": parameters.get("time_in_force", "").upper(),
            }
        if "client_order_id" in parameters:
            if not _CLIENT_ORDER_ID.fullmatch(parameters["client_order_id"]):
                raise RejectedError(40010001, "client_order_id must be at most 128 characters", 422)
            wanted["newClientOrderId"] = parameters["client_order_id"]
        exchange = self._exchange
        return _order(exchange.engine.place(exchange.api.read_order(wanted), now))

    def _list(self, parameters: Parameters, now: float) -> object:
        del now
        status = parameters.get("status", "open")
        return [
            _order(order)
            for order in reversed(self._orders())
            if status == "all" or order.status.is_open is (status == "open")
        ]

    def _by_client_id(self, parameters: Parameters, now: float) -> JsonObject:
        del now
        return _order(self._find(client_order_id=parameters.get("client_order_id")))

    def _by_id(self, parameters: Parameters, now: float) -> JsonObject:
        del now
        return _order(self._find(order_id=parameters["order_id"]))

    def _cancel(self, parameters: Parameters, now: float) -> object:
        order = self._find(order_id=parameters["order_id"])
        if not order.status.is_open:
            raise RejectedError(42210000, f"order is already in {_STATUSES[order.status]!r} state", 422)
        self._exchange.engine.cancel(order, now)
        return None

    def _orders(self) -> list[Order]:
        return self._exchange.engine.orders(self._exchange.TRADER)

    def _find(self, *, order_id: str | None = None, client_order_id: str | None = None) -> Order:
        try:
            number = None if order_id is None else uuid.UUID(order_id).int
        except ValueError:
            raise _NOT_FOUND from None
        for order in self._orders():
            if client_order_id == order.client_order_id or number == order.order_id:
                return order
        raise _NOT_FOUND

    # -- the form -----------------------------------------------------------------------------------------

    def _check(self, request: web.Request, body: str, parameters: Parameters, now: float) -> None:
        del body, parameters, now
        sent = request.headers.get("APCA-API-KEY-ID"), request.headers.get("APCA-API-SECRET-KEY")
        if sent != (DEMO_KEY, DEMO_SECRET):
            raise RejectedError(40110000, "access key verification failed", 401)

    def _rejected(self, rejection: RejectedError) -> Answer:
        if rejection.code > 0:
            return Answer(rejection.status, {"code": rejection.code, "message": rejection.message})
        # The engine's own, which are Binance's.
        is_funds = "insufficient balance" in rejection.message
        status, code = (403, 40310000) if is_funds else (422, 42210000)
        return Answer(status, {"code": code, "message": rejection.message})

    @staticmethod
    def _parameters(request: web.Request, body: str) -> Parameters:
        sent = {**request.query, **request.match_info}
        if body:
            try:
                sent |= {name: str(value) for name, value in json.loads(body).items()}
            except (ValueError, AttributeError):
                raise RejectedError(40010000, "request body format is invalid") from None
        return sent

    @staticmethod
    def _client_order_id(parameters: Parameters) -> str | None:
        return parameters.get("client_order_id")

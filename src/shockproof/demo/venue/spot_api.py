"""The exchange's API without the network: parameters in, JSON objects out."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

from shockproof.demo.venue import dialect
from shockproof.demo.venue.orders import NewOrder, OrderType, Side, TimeInForce
from shockproof.demo.venue.rejections import RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

    from shockproof.demo.venue.dialect import JsonObject
    from shockproof.demo.venue.market_statistics import MarketStatistics, Trade
    from shockproof.demo.venue.matching import MatchingEngine
    from shockproof.demo.venue.orders import Order

__all__ = ["Parameters", "SpotApi"]

Parameters = dict[str, str]
"""Query and form parameters of one request."""

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_CLIENT_ORDER_ID = re.compile(r"[a-zA-Z0-9\-_]{1,36}")
_MOST_ROWS = 1000

_Choice = TypeVar("_Choice", bound="StrEnum")


class SpotApi:
    """
    One account's view of the engine, in the dialect of Binance spot.

    Each method is one endpoint; it raises ``RejectedError`` for a definite no. *now* is wall time.
    """

    def __init__(
        self, engine: MatchingEngine, statistics: MarketStatistics, *, account: str, opened_at: float
    ) -> None:
        self._engine = engine
        self._statistics = statistics
        self._account = account
        self._opened_at = opened_at
        self._cancels = 0
        self._made_ids = 0

    # -- market data ------------------------------------------------------------------------------

    def exchange_info(self, parameters: Parameters, now: float) -> JsonObject:
        symbol = parameters.get("symbol")
        if symbol is not None:
            return dialect.exchange_info([self._engine.instrument(symbol)], now)
        return dialect.exchange_info(self._engine.instruments.values(), now)

    def ticker_24hr(self, parameters: Parameters, now: float) -> object:
        return self._one_or_all(
            parameters,
            lambda symbol: dialect.ticker_24hr(
                symbol, self._engine.book(symbol), self._statistics.of(symbol), self._opened_at, now
            ),
        )

    def ticker_price(self, parameters: Parameters, now: float) -> object:
        def price(symbol: str) -> JsonObject:
            ticker = dialect.ticker_24hr(
                symbol, self._engine.book(symbol), self._statistics.of(symbol), self._opened_at, now
            )
            return {"symbol": symbol, "price": ticker["lastPrice"]}

        return self._one_or_all(parameters, price)

    def book_ticker(self, parameters: Parameters, now: float) -> object:
        del now
        return self._one_or_all(
            parameters, lambda symbol: dialect.book_ticker(symbol, self._engine.book(symbol))
        )

    def depth(self, parameters: Parameters, now: float) -> JsonObject:
        symbol = self._required(parameters, "symbol")
        return dialect.depth(
            self._engine.book(symbol), self._limit(parameters, 100), dialect.milliseconds(now)
        )

    def trades(self, parameters: Parameters, now: float) -> object:
        del now
        return [dialect.public_trade(trade) for trade in self._trades(parameters)]

    def aggregate_trades(self, parameters: Parameters, now: float) -> object:
        del now
        return [dialect.aggregate_trade(trade) for trade in self._trades(parameters)]

    def _trades(self, parameters: Parameters) -> list[Trade]:
        symbol = self._required(parameters, "symbol")
        self._engine.instrument(symbol)
        return list(self._statistics.of(symbol).trades)[-self._limit(parameters, 500) :]

    # -- orders -------------------------------------------------------------------------------------

    def read_order(self, parameters: Parameters) -> NewOrder:
        """Check the form of a new order, without booking it."""
        symbol = self._required(parameters, "symbol")
        self._engine.instrument(symbol)
        side = self._choice(parameters, "side", Side, RejectedError(-1117, "Invalid side."))
        order_type = self._choice(parameters, "type", OrderType, RejectedError(-1116, "Invalid orderType."))
        quantity = self._decimal(parameters, "quantity")
        price = self._decimal(parameters, "price")
        quote_quantity = self._decimal(parameters, "quoteOrderQty")
        if order_type is OrderType.MARKET:
            if price is not None:
                raise RejectedError(-1106, "Parameter 'price' sent when not required.")
            if (quantity is None) == (quote_quantity is None):
                if quantity is None:
                    raise RejectedError.missing("quantity")
                raise RejectedError(-1128, "Combination of optional parameters invalid.")
        else:
            self._required(parameters, "quantity")
            self._required(parameters, "price")
        time_in_force = TimeInForce.GTC
        if order_type is OrderType.LIMIT:
            time_in_force = self._choice(
                parameters, "timeInForce", TimeInForce, RejectedError(-1115, "Invalid timeInForce.")
            )
        return NewOrder(
            account=self._account,
            symbol=symbol,
            side=side,
            type=order_type,
            client_order_id=self._client_order_id(parameters),
            quantity=quantity,
            price=price,
            quote_quantity=quote_quantity,
            time_in_force=time_in_force,
        )

    def place_order(self, parameters: Parameters, now: float) -> JsonObject:
        new = self.read_order(parameters)
        default = "FULL" if new.type is not OrderType.LIMIT_MAKER else "ACK"
        response_type = parameters.get("newOrderRespType", default)
        if response_type not in ("ACK", "RESULT", "FULL"):
            raise RejectedError.illegal("newOrderRespType", "ACK, RESULT, FULL")
        return dialect.order_placed(self._engine.place(new, now), response_type)

    def query_order(self, parameters: Parameters, now: float) -> JsonObject:
        del now
        order = self._find(parameters)
        if order is None:
            raise RejectedError.no_such_order()
        return dialect.order_status(order)

    def cancel_order(self, parameters: Parameters, now: float) -> JsonObject:
        order = self._find(parameters)
        if order is None:
            raise RejectedError.unknown_order()
        self._engine.cancel(order, now)
        self._cancels += 1
        return dialect.order_cancelled(order, f"cancel-{self._cancels}")

    def open_orders(self, parameters: Parameters, now: float) -> object:
        del now
        symbol = parameters.get("symbol")
        if symbol is not None:
            self._engine.instrument(symbol)
        return [dialect.order_status(order) for order in self._engine.open_orders(self._account, symbol)]

    def all_orders(self, parameters: Parameters, now: float) -> object:
        del now
        symbol = self._required(parameters, "symbol")
        self._engine.instrument(symbol)
        orders = self._engine.orders(self._account, symbol)
        first = self._integer(parameters, "orderId")
        since = self._integer(parameters, "startTime")
        if first is not None:
            orders = [order for order in orders if order.order_id >= first]
        if since is not None:
            orders = [order for order in orders if dialect.milliseconds(order.accepted_at) >= since]
        limit = self._limit(parameters, 500)
        return [
            dialect.order_status(order)
            for order in (orders[-limit:] if first is None and since is None else orders[:limit])
        ]

    def my_trades(self, parameters: Parameters, now: float) -> object:
        del now
        symbol = self._required(parameters, "symbol")
        self._engine.instrument(symbol)
        order_id = self._integer(parameters, "orderId")
        since = self._integer(parameters, "startTime")
        first = self._integer(parameters, "fromId")
        trades = sorted(
            (
                (order, fill)
                for order in self._engine.orders(self._account, symbol)
                if order_id is None or order.order_id == order_id
                for fill in order.fills
                if (since is None or dialect.milliseconds(fill.at) >= since)
                and (first is None or fill.trade_id >= first)
            ),
            key=lambda pair: (pair[1].trade_id, pair[1].order_id),
        )
        limit = self._limit(parameters, 500)
        return [
            dialect.my_trade(order, fill)
            for order, fill in (trades[-limit:] if first is None and since is None else trades[:limit])
        ]

    def account(self, parameters: Parameters, now: float) -> JsonObject:
        del parameters
        return dialect.account(self._engine.accounts[self._account], now)

    # -- parameters -----------------------------------------------------------------------------------

    def _one_or_all(self, parameters: Parameters, render: Callable[[str], JsonObject]) -> object:
        symbol = parameters.get("symbol")
        if symbol is None:
            wanted = list(self._engine.instruments)
            if "symbols" in parameters:
                wanted = re.findall(r"[A-Z0-9]+", parameters["symbols"])
            return [render(self._engine.instrument(name).symbol) for name in wanted]
        self._engine.instrument(symbol)
        return render(symbol)

    def _find(self, parameters: Parameters) -> Order | None:
        symbol = self._required(parameters, "symbol")
        self._engine.instrument(symbol)
        order_id = self._integer(parameters, "orderId")
        client_order_id = parameters.get("origClientOrderId")
        if order_id is None and not client_order_id:
            raise RejectedError(
                -1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!"
            )
        return self._engine.find(self._account, symbol, order_id=order_id, client_order_id=client_order_id)

    @staticmethod
    def _required(parameters: Parameters, name: str) -> str:
        value = parameters.get(name)
        if not value:
            raise RejectedError.missing(name)
        return value

    def _choice(
        self, parameters: Parameters, name: str, choices: type[_Choice], refusal: RejectedError
    ) -> _Choice:
        value = self._required(parameters, name)
        try:
            return choices(value)
        except ValueError:
            raise refusal from None

    @staticmethod
    def _decimal(parameters: Parameters, name: str) -> Decimal | None:
        value = parameters.get(name)
        if value is None:
            return None
        if not _NUMBER.fullmatch(value):
            raise RejectedError.illegal(name, r"^([0-9]{1,20})(\.[0-9]{1,20})?$")
        return Decimal(value)

    @staticmethod
    def _integer(parameters: Parameters, name: str) -> int | None:
        value = parameters.get(name)
        if value is None:
            return None
        if not value.isascii() or not value.isdigit() or len(value) > 20:
            raise RejectedError.illegal(name, "^[0-9]{1,20}$")
        return int(value)

    def _limit(self, parameters: Parameters, default: int) -> int:
        limit = self._integer(parameters, "limit")
        return default if not limit else min(limit, _MOST_ROWS)

    def _client_order_id(self, parameters: Parameters) -> str:
        value = parameters.get("newClientOrderId")
        if value is None:
            self._made_ids += 1
            return f"venue-{self._made_ids}"
        if not _CLIENT_ORDER_ID.fullmatch(value):
            raise RejectedError.illegal("newClientOrderId", r"^[a-zA-Z0-9-_]{1,36}$")
        return value

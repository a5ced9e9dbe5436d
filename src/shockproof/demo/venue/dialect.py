"""How Binance's spot API writes things: numbers as strings with eight places, times in milliseconds."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from shockproof.demo.venue.orders import OrderType, Side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shockproof.demo.venue.accounts import Account
    from shockproof.demo.venue.instruments import Instrument
    from shockproof.demo.venue.market_statistics import SymbolStatistics, Trade
    from shockproof.demo.venue.order_book import OrderBook
    from shockproof.demo.venue.orders import Fill, Order

JsonObject = dict[str, object]
"""A JSON object about to be written."""

_ZERO = Decimal(0)


def number(value: Decimal) -> str:
    return f"{value:.8f}"


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def exchange_info(instruments: Iterable[Instrument], now: float) -> JsonObject:
    return {
        "timezone": "UTC",
        "serverTime": milliseconds(now),
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
        ],
        "exchangeFilters": [],
        "symbols": [_symbol(instrument) for instrument in instruments],
    }


def _symbol(instrument: Instrument) -> JsonObject:
    return {
        "symbol": instrument.symbol,
        "status": "TRADING",
        "baseAsset": instrument.base,
        "baseAssetPrecision": 8,
        "quoteAsset": instrument.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": [order_type.value for order_type in OrderType],
        "icebergAllowed": False,
        "ocoAllowed": False,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": number(instrument.min_price),
                "maxPrice": number(instrument.max_price),
                "tickSize": number(instrument.tick),
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": number(instrument.min_quantity),
                "maxQty": number(instrument.max_quantity),
                "stepSize": number(instrument.step),
            },
            {
                "filterType": "NOTIONAL",
                "minNotional": number(instrument.min_notional),
                "applyMinToMarket": True,
                "maxNotional": "9000000.00000000",
                "applyMaxToMarket": False,
                "avgPriceMins": 0,
            },
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": instrument.max_open_orders},
        ],
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


def ticker_24hr(
    symbol: str, book: OrderBook, statistics: SymbolStatistics, opened_at: float, now: float
) -> JsonObject:
    bid, ask = _top(book, Side.BUY), _top(book, Side.SELL)
    first = statistics.first_price or (bid[0] + ask[0]) / 2
    last = statistics.last_price or first
    average = statistics.quote_volume / statistics.volume if statistics.volume else last
    return {
        "symbol": symbol,
        "priceChange": number(last - first),
        "priceChangePercent": f"{(last - first) / first * 100:.3f}" if first else "0.000",
        "weightedAvgPrice": number(average),
        "prevClosePrice": number(first),
        "lastPrice": number(last),
        "lastQty": number(statistics.last_quantity),
        "bidPrice": number(bid[0]),
        "bidQty": number(bid[1]),
        "askPrice": number(ask[0]),
        "askQty": number(ask[1]),
        "openPrice": number(first),
        "highPrice": number(statistics.high or last),
        "lowPrice": number(statistics.low or last),
        "volume": number(statistics.volume),
        "quoteVolume": number(statistics.quote_volume),
        "openTime": milliseconds(opened_at),
        "closeTime": milliseconds(now),
        "firstId": statistics.first_id,
        "lastId": statistics.last_id,
        "count": statistics.count,
    }


def book_ticker(symbol: str, book: OrderBook) -> JsonObject:
    bid, ask = _top(book, Side.BUY), _top(book, Side.SELL)
    return {
        "symbol": symbol,
        "bidPrice": number(bid[0]),
        "bidQty": number(bid[1]),
        "askPrice": number(ask[0]),
        "askQty": number(ask[1]),
    }


def book_ticker_event(symbol: str, book: OrderBook, update_id: int) -> JsonObject:
    """The stream's short form of ``book_ticker``."""
    bid, ask = _top(book, Side.BUY), _top(book, Side.SELL)
    return {
        "u": update_id,
        "s": symbol,
        "b": number(bid[0]),
        "B": number(bid[1]),
        "a": number(ask[0]),
        "A": number(ask[1]),
    }


def trade_event(trade: Trade, now: float) -> JsonObject:
    return {
        "e": "trade",
        "E": milliseconds(now),
        "s": trade.symbol,
        "t": trade.trade_id,
        "p": number(trade.price),
        "q": number(trade.quantity),
        "T": milliseconds(trade.at),
        "m": trade.buyer_is_maker,
        "M": True,
    }


def public_trade(trade: Trade) -> JsonObject:
    return {
        "id": trade.trade_id,
        "price": number(trade.price),
        "qty": number(trade.quantity),
        "quoteQty": number(trade.price * trade.quantity),
        "time": milliseconds(trade.at),
        "isBuyerMaker": trade.buyer_is_maker,
        "isBestMatch": True,
    }


def aggregate_trade(trade: Trade) -> JsonObject:
    """Here every trade is an aggregate of its own."""
    return {
        "a": trade.trade_id,
        "p": number(trade.price),
        "q": number(trade.quantity),
        "f": trade.trade_id,
        "l": trade.trade_id,
        "T": milliseconds(trade.at),
        "m": trade.buyer_is_maker,
        "M": True,
    }


def depth(book: OrderBook, limit: int, update_id: int) -> JsonObject:
    return {
        "lastUpdateId": update_id,
        "bids": [[number(price), number(quantity)] for price, quantity in book.depth(Side.BUY, limit)],
        "asks": [[number(price), number(quantity)] for price, quantity in book.depth(Side.SELL, limit)],
    }


def _top(book: OrderBook, side: Side) -> tuple[Decimal, Decimal]:
    levels = book.depth(side, 1)
    return levels[0] if levels else (_ZERO, _ZERO)


def _order_core(order: Order) -> JsonObject:
    return {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.client_order_id,
        "price": number(order.price or _ZERO),
        "origQty": number(order.quantity),
        "executedQty": number(order.executed),
        "cummulativeQuoteQty": number(order.executed_quote),  # the exchange spells it so
        "origQuoteOrderQty": number(order.quote_quantity or _ZERO),
        "status": order.status.value,
        "timeInForce": order.time_in_force.value,
        "type": order.type.value,
        "side": order.side.value,
        "selfTradePreventionMode": "NONE",
    }


def order_placed(order: Order, response_type: str) -> JsonObject:
    """The answer to a new order: ``ACK``, ``RESULT`` or ``FULL``."""
    at = milliseconds(order.updated_at)
    if response_type == "ACK":
        return {
            "symbol": order.symbol,
            "orderId": order.order_id,
            "orderListId": -1,
            "clientOrderId": order.client_order_id,
            "transactTime": at,
        }
    answer = _order_core(order) | {"transactTime": at, "workingTime": milliseconds(order.accepted_at)}
    if response_type == "FULL":
        answer["fills"] = [
            {
                "price": number(fill.price),
                "qty": number(fill.quantity),
                "commission": number(fill.fee),
                "commissionAsset": fill.fee_asset,
                "tradeId": fill.trade_id,
            }
            for fill in order.fills
        ]
    return answer


def order_status(order: Order) -> JsonObject:
    """The answer to a look-up, and one line of a list of orders."""
    return _order_core(order) | {
        "stopPrice": number(_ZERO),
        "icebergQty": number(_ZERO),
        "time": milliseconds(order.accepted_at),
        "updateTime": milliseconds(order.updated_at),
        "isWorking": True,
        "workingTime": milliseconds(order.accepted_at),
    }


def order_cancelled(order: Order, cancel_id: str) -> JsonObject:
    """The answer to a cancel, which has a client id of its own."""
    return _order_core(order) | {
        "origClientOrderId": order.client_order_id,
        "clientOrderId": cancel_id,
        "transactTime": milliseconds(order.updated_at),
    }


def my_trade(order: Order, fill: Fill) -> JsonObject:
    return {
        "symbol": order.symbol,
        "id": fill.trade_id,
        "orderId": order.order_id,
        "orderListId": -1,
        "price": number(fill.price),
        "qty": number(fill.quantity),
        "quoteQty": number(fill.price * fill.quantity),
        "commission": number(fill.fee),
        "commissionAsset": fill.fee_asset,
        "time": milliseconds(fill.at),
        "isBuyer": order.side is Side.BUY,
        "isMaker": fill.is_maker,
        "isBestMatch": True,
    }


def account(holder: Account, now: float) -> JsonObject:
    rate = number(holder.fee_rate)
    return {
        "makerCommission": int(holder.fee_rate * 10_000),
        "takerCommission": int(holder.fee_rate * 10_000),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {"maker": rate, "taker": rate, "buyer": number(_ZERO), "seller": number(_ZERO)},
        "canTrade": True,
        "canWithdraw": False,
        "canDeposit": False,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": milliseconds(now),
        "accountType": "SPOT",
        "balances": [
            {"asset": asset, "free": number(holder.free[asset]), "locked": number(holder.locked[asset])}
            for asset in holder.totals()
        ],
        "permissions": ["SPOT"],
    }

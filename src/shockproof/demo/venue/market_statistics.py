"""The tape: trades as everybody sees them, and what tickers say of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from shockproof.demo.venue.orders import Side

if TYPE_CHECKING:
    from collections.abc import Callable

    from shockproof.demo.venue.orders import Fill, Order

__all__ = ["MarketStatistics", "SymbolStatistics", "Trade"]

_REMEMBERED = 500


@dataclass(frozen=True, slots=True)
class Trade:
    symbol: str
    trade_id: int
    price: Decimal
    quantity: Decimal
    at: float
    buyer_is_maker: bool


@dataclass(slots=True, eq=False)
class SymbolStatistics:
    """One market since the session began; None until it first traded."""

    first_price: Decimal | None = None
    last_price: Decimal | None = None
    last_quantity: Decimal = Decimal(0)
    high: Decimal = Decimal(0)
    low: Decimal = Decimal(0)
    volume: Decimal = Decimal(0)
    quote_volume: Decimal = Decimal(0)
    count: int = 0
    first_id: int = -1
    last_id: int = -1
    trades: deque[Trade] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def add(self, trade: Trade) -> None:
        if self.first_price is None:
            self.first_price = self.high = self.low = trade.price
            self.first_id = trade.trade_id
        self.last_price = trade.price
        self.last_quantity = trade.quantity
        self.last_id = trade.trade_id
        self.high = max(self.high, trade.price)
        self.low = min(self.low, trade.price)
        self.volume += trade.quantity
        self.quote_volume += trade.quantity * trade.price
        self.count += 1
        self.trades.append(trade)


class MarketStatistics:
    """A bookkeeper of the engine that keeps the tape of every market, and tells *on_trade* of each trade."""

    def __init__(self, on_trade: Callable[[Trade], None] | None = None) -> None:
        self._by_symbol: dict[str, SymbolStatistics] = {}
        self._on_trade = on_trade

    def of(self, symbol: str) -> SymbolStatistics:
        found = self._by_symbol.get(symbol)
        if found is None:
            found = self._by_symbol[symbol] = SymbolStatistics()
        return found

    def accepted(self, order: Order) -> None:
        """Orders are nobody's business before they trade."""

    def closed(self, order: Order) -> None:
        """Nor is their end."""

    def filled(self, order: Order, fill: Fill) -> None:
        if fill.is_maker:
            return  # each trade has two sides: the taker's tells it
        trade = Trade(
            symbol=order.symbol,
            trade_id=fill.trade_id,
            price=fill.price,
            quantity=fill.quantity,
            at=fill.at,
            buyer_is_maker=order.side is Side.SELL,
        )
        self.of(order.symbol).add(trade)
        if self._on_trade is not None:
            self._on_trade(trade)

"""Orders and fills, as the engine keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

__all__ = ["Fill", "NewOrder", "Order", "OrderStatus", "OrderType", "Side", "TimeInForce"]


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    LIMIT = "LIMIT"
    LIMIT_MAKER = "LIMIT_MAKER"
    """Refused instead of taking liquidity."""
    MARKET = "MARKET"


class TimeInForce(StrEnum):
    GTC = "GTC"
    """Rests in the book until it is filled or cancelled."""
    IOC = "IOC"
    """Fills what it can at once; the rest expires."""
    FOK = "FOK"
    """Fills whole at once, or expires whole."""


class OrderStatus(StrEnum):
    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"

    @property
    def is_open(self) -> bool:
        return self in (OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED)


@dataclass(frozen=True, slots=True)
class NewOrder:
    """
    What a client asks for.

    ``price`` belongs to limit orders; a market order has either ``quantity`` or ``quote_quantity``
    (how much of the quote currency to spend or to receive).
    """

    account: str
    symbol: str
    side: Side
    type: OrderType
    client_order_id: str
    quantity: Decimal | None = None
    price: Decimal | None = None
    quote_quantity: Decimal | None = None
    time_in_force: TimeInForce = TimeInForce.GTC


@dataclass(frozen=True, slots=True)
class Fill:
    """One side of one trade."""

    trade_id: int
    order_id: int
    price: Decimal
    quantity: Decimal
    fee: Decimal
    """In ``fee_asset``: the asset that this side received."""
    fee_asset: str
    is_maker: bool
    at: float
    """Wall time in seconds."""


@dataclass(slots=True, eq=False)
class Order:
    """
    An accepted order. Only the engine changes it.

    ``locked`` is what the account has set aside for the unfilled part: quote currency for a buy,
    base currency for a sell.
    """

    order_id: int
    account: str
    client_order_id: str
    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    quantity: Decimal
    price: Decimal | None
    accepted_at: float
    updated_at: float
    status: OrderStatus = OrderStatus.NEW
    executed: Decimal = Decimal(0)
    executed_quote: Decimal = Decimal(0)
    locked: Decimal = Decimal(0)
    quote_quantity: Decimal | None = None
    fills: list[Fill] = field(default_factory=list)

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.executed

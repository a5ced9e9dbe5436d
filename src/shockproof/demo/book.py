"""
The trader's own account of its orders: what it wanted, what it sent, and what became of it.

Plain data and rules, without a clock and without I/O. An order enters the book before it is sent, and
stays *pending* until somebody knows better; only the venue's own words, or the proof that the venue
does not have it, take it out of that state.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

__all__ = [
    "OPERATION",
    "Book",
    "Order",
    "OrderState",
    "Report",
    "Side",
    "name_of",
    "new_client_id",
    "symbol_of",
]

OPERATION = "order"
"""What the journal calls an order that is under way; its key is the client order id."""

Side = Literal["buy", "sell"]


class OrderState(StrEnum):
    PENDING = "pending"
    """About to be sent, on its way, or without an answer: nobody knows."""
    OPEN = "open"
    """In the venue's book, perhaps filled in part."""
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    """The venue said no."""
    NOT_SENT = "not sent"
    """Given up, and proven: the venue does not have it."""

    @property
    def is_settled(self) -> bool:
        """Nothing will change any more."""
        return self not in (OrderState.PENDING, OrderState.OPEN)

    @property
    def is_at_venue(self) -> bool:
        """The venue has it in its ledger."""
        return self in (OrderState.OPEN, OrderState.FILLED, OrderState.CANCELED, OrderState.EXPIRED)


@dataclass(frozen=True, slots=True)
class Report:
    """What the venue says about one order."""

    client_id: str
    state: OrderState
    executed: Decimal
    executed_quote: Decimal

    @classmethod
    def from_ccxt(cls, order: Mapping[str, Any]) -> Report:  # Any: ccxt's unified order
        """
        From a unified order. Exact amounts are taken from the venue's own words in ``info``: the
        unified ones are floats.
        """
        said = order["info"]
        return cls(
            # A cancel's answer carries an id of its own, and the order's under another name.
            client_id=str(said.get("origClientOrderId") or said["clientOrderId"]),
            state=_STATE_OF[str(said["status"])],
            executed=Decimal(said["executedQty"]),
            executed_quote=Decimal(said["cummulativeQuoteQty"]),
        )


_STATE_OF = {
    "NEW": OrderState.OPEN,
    "PARTIALLY_FILLED": OrderState.OPEN,
    "FILLED": OrderState.FILLED,
    "CANCELED": OrderState.CANCELED,
    "REJECTED": OrderState.REJECTED,
    "EXPIRED": OrderState.EXPIRED,
}


def new_client_id(number: int, symbol: str) -> str:
    """
    An id that no other order has: ``sp-0007-EUR-5f1c09ab``.

    It says which symbol it is for, so that the order can be looked up by its id alone, as after a crash.
    """
    return f"sp-{number:04d}-{symbol.partition('/')[0]}-{secrets.token_hex(4)}"


def symbol_of(client_id: str) -> str:
    """The symbol of an order by its id; everything is traded for USDT."""
    return f"{client_id.split('-')[2]}/USDT"


def name_of(client_id: str) -> str:
    """Short, for people: the client id without the part that makes it unique."""
    return client_id.rpartition("-")[0] or client_id


@dataclass(slots=True)
class Order:
    """One order; quantities in the base currency, money in the quote currency."""

    client_id: str
    symbol: str
    side: Side
    type: Literal["market", "limit"]
    quantity: Decimal
    price: Decimal | None = None
    """The limit; None for a market order."""
    valid_until: float = 0.0
    """Wall time; later its price is old, and it is not sent any more."""
    state: OrderState = OrderState.PENDING
    executed: Decimal = Decimal(0)
    executed_quote: Decimal = Decimal(0)

    @property
    def name(self) -> str:
        """Short, for people."""
        return name_of(self.client_id)

    def to_dict(self) -> dict[str, Any]:  # Any: JSON
        return {
            "client_id": self.client_id,
            "symbol": self.symbol,
            "side": self.side,
            "type": self.type,
            "quantity": str(self.quantity),
            "price": None if self.price is None else str(self.price),
            "valid_until": self.valid_until,
            "state": self.state.value,
            "executed": str(self.executed),
            "executed_quote": str(self.executed_quote),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Order:  # Any: JSON
        return cls(
            client_id=data["client_id"],
            symbol=data["symbol"],
            side=data["side"],
            type=data["type"],
            quantity=Decimal(data["quantity"]),
            price=None if data["price"] is None else Decimal(data["price"]),
            valid_until=float(data["valid_until"]),
            state=OrderState(data["state"]),
            executed=Decimal(data["executed"]),
            executed_quote=Decimal(data["executed_quote"]),
        )


@dataclass(slots=True)
class Book:
    """
    All orders by client id.

    ``to_state`` and ``from_state`` are the two ends of a restart, for the orders that are settled. What is under
    way stands in the journal, each order as an operation that ends only when the saved book has its end: so
    none is ever in no place.
    """

    orders: dict[str, Order] = field(default_factory=dict[str, Order])

    def add(self, order: Order) -> None:
        """A new order, before it is sent. An id that was used before is refused."""
        if order.client_id in self.orders:
            raise ValueError(f"client id {order.client_id!r} is in the book already: make a fresh one")
        self.orders[order.client_id] = order

    def note(self, report: Report) -> None:
        """
        The venue's words about an order. Late ones change nothing: fills only grow, and what is
        settled stays settled.
        """
        order = self.orders[report.client_id]
        if order.state.is_settled or report.executed < order.executed:
            return
        order.state = report.state
        order.executed, order.executed_quote = report.executed, report.executed_quote

    def note_rejected(self, client_id: str) -> None:
        """The venue refused it, so that nothing was booked."""
        self._close(client_id, OrderState.REJECTED)

    def note_not_sent(self, client_id: str) -> None:
        """It is proven that the venue does not have it."""
        self._close(client_id, OrderState.NOT_SENT)

    def _close(self, client_id: str, state: OrderState) -> None:
        order = self.orders[client_id]
        if order.state is OrderState.PENDING:
            order.state = state

    def in_state(self, *states: OrderState) -> list[Order]:
        """Those orders, oldest first."""
        return [order for order in self.orders.values() if order.state in states]

    def counts(self) -> dict[str, int]:
        """How many are in each state; states without orders are left out."""
        counted = Counter(order.state for order in self.orders.values())
        return {state.value: counted[state] for state in OrderState if counted[state]}

    def position(self, symbol: str) -> Decimal:
        """What the fills so far bought and sold, in the base currency, before fees."""
        return sum((_signed(order) for order in self if order.symbol == symbol), Decimal(0))

    def at_work(self, symbol: str) -> bool:
        """Whether an order for that symbol is not settled yet."""
        return any(not order.state.is_settled and order.symbol == symbol for order in self)

    def __iter__(self) -> Iterator[Order]:
        return iter(self.orders.values())

    def __len__(self) -> int:
        return len(self.orders)

    # -- a restart ---------------------------------------------------------------------------------

    def to_state(self) -> list[dict[str, Any]]:  # Any: JSON
        """What is settled."""
        return [order.to_dict() for order in self if order.state.is_settled]

    @classmethod
    def from_state(cls, settled: Iterable[Mapping[str, Any]]) -> Book:  # Any: JSON
        """The book of the orders that `to_state` gave."""
        book = cls()
        for data in settled:
            book.add(Order.from_dict(data))
        return book


def _signed(order: Order) -> Decimal:
    return order.executed if order.side == "buy" else -order.executed

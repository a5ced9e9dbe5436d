"""The venue's own truth: everything that was ever booked, append-only."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from shockproof.demo.venue.orders import OrderStatus, Side

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shockproof.demo.venue.orders import Fill, Order

__all__ = ["Ledger", "LedgerOrder", "plain"]


def plain(value: Decimal) -> str:
    """The shortest exact way to write it, without an exponent: equal amounts give equal texts."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(slots=True)
class LedgerOrder:
    """One order as the ledger's entries tell it, kept apart from the engine's own object."""

    number: int
    """1, 2, 3, ... in the order of acceptance."""
    order_id: int
    client_order_id: str
    symbol: str
    side: Side
    type: str
    quantity: Decimal
    price: Decimal | None
    accepted_at: float
    fills: list[Fill]
    closed_as: OrderStatus | None = None
    """How it ended without being filled whole."""

    @property
    def executed(self) -> Decimal:
        return sum((fill.quantity for fill in self.fills), Decimal(0))

    @property
    def executed_quote(self) -> Decimal:
        return sum((fill.quantity * fill.price for fill in self.fills), Decimal(0))

    @property
    def status(self) -> OrderStatus:
        if self.closed_as is not None:
            return self.closed_as
        executed = self.executed
        if executed >= self.quantity:
            return OrderStatus.FILLED
        return OrderStatus.PARTIALLY_FILLED if executed else OrderStatus.NEW

    def to_dict(self) -> dict[str, Any]:  # Any: a JSON object with values of several types
        return {
            "number": self.number,
            "order_id": self.order_id,
            "client_order_id": self.client_order_id,
            "symbol": self.symbol,
            "side": self.side.value,
            "type": self.type,
            "quantity": plain(self.quantity),
            "price": None if self.price is None else plain(self.price),
            "status": self.status.value,
            "executed": plain(self.executed),
            "executed_quote": plain(self.executed_quote),
            "accepted_at": self.accepted_at,
            "fills": [
                {
                    "trade_id": fill.trade_id,
                    "price": plain(fill.price),
                    "quantity": plain(fill.quantity),
                    "fee": plain(fill.fee),
                    "fee_asset": fill.fee_asset,
                    "is_maker": fill.is_maker,
                    "at": fill.at,
                }
                for fill in self.fills
            ],
        }


class Ledger:
    """
    Ground truth about one account.

    It is told what was booked (accepted, filled, closed) and derives status and balances from
    these entries alone, so that it can contradict the engine. Client order ids may repeat, as on
    the real exchange: each accepted order is an entry of its own, and ``duplicates`` names them.

    Args:
        account: whose orders are kept; entries of others are ignored.
        opening: what the account held at first.
        assets: base and quote asset of each symbol.
    """

    def __init__(
        self, account: str, opening: Mapping[str, Decimal], assets: Mapping[str, tuple[str, str]]
    ) -> None:
        self.account = account
        self._opening = dict(opening)
        self._assets = dict(assets)
        self._orders: dict[int, LedgerOrder] = {}

    def accepted(self, order: Order) -> None:
        if order.account != self.account:
            return
        self._orders[order.order_id] = LedgerOrder(
            number=len(self._orders) + 1,
            order_id=order.order_id,
            client_order_id=order.client_order_id,
            symbol=order.symbol,
            side=order.side,
            type=order.type.value,
            quantity=order.quantity,
            price=order.price,
            accepted_at=order.accepted_at,
            fills=[],
        )

    def filled(self, order: Order, fill: Fill) -> None:
        if order.account == self.account:
            self._orders[order.order_id].fills.append(fill)

    def closed(self, order: Order) -> None:
        """The order ended as ``CANCELED`` or ``EXPIRED``."""
        if order.account == self.account:
            self._orders[order.order_id].closed_as = order.status

    @property
    def orders(self) -> tuple[LedgerOrder, ...]:
        """Every order ever accepted, oldest first."""
        return tuple(self._orders.values())

    def duplicates(self) -> dict[str, int]:
        """Client order ids that were accepted more than once, with how often."""
        counts: dict[str, int] = {}
        for order in self._orders.values():
            counts[order.client_order_id] = counts.get(order.client_order_id, 0) + 1
        return {client_order_id: count for client_order_id, count in counts.items() if count > 1}

    def balances(self) -> dict[str, Decimal]:
        """What the account must hold: the opening balances, and every fill since."""
        totals = dict(self._opening)
        for order in self._orders.values():
            base, quote = self._assets[order.symbol]
            sign = 1 if order.side is Side.BUY else -1
            for fill in order.fills:
                totals[base] = totals.get(base, Decimal(0)) + sign * fill.quantity
                totals[quote] = totals.get(quote, Decimal(0)) - sign * fill.quantity * fill.price
                totals[fill.fee_asset] = totals.get(fill.fee_asset, Decimal(0)) - fill.fee
        return dict(sorted(totals.items()))

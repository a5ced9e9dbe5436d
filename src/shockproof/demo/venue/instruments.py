"""What can be traded, and in which sizes."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from shockproof.demo.venue.rejections import RejectedError

__all__ = ["INSTRUMENTS", "Instrument"]


@dataclass(frozen=True, slots=True)
class Instrument:
    """One market and its filters."""

    symbol: str
    base: str
    quote: str
    tick: Decimal = Decimal("0.0001")
    step: Decimal = Decimal("0.1")
    min_price: Decimal = Decimal("0.0001")
    max_price: Decimal = Decimal(1000)
    min_quantity: Decimal = Decimal("0.1")
    max_quantity: Decimal = Decimal(900000)
    min_notional: Decimal = Decimal(5)
    max_open_orders: int = 200

    def check_price(self, price: Decimal) -> None:
        """Raises ``RejectedError`` unless the price lies on the grid and within bounds."""
        if not self.min_price <= price <= self.max_price or price % self.tick:
            raise RejectedError.filter_failure("PRICE_FILTER")

    def check_quantity(self, quantity: Decimal) -> None:
        """Raises ``RejectedError`` unless the quantity lies on the grid and within bounds."""
        if not self.min_quantity <= quantity <= self.max_quantity or quantity % self.step:
            raise RejectedError.filter_failure("LOT_SIZE")

    def check_notional(self, notional: Decimal) -> None:
        """Raises ``RejectedError`` when the order is worth too little."""
        if notional < self.min_notional:
            raise RejectedError.filter_failure("NOTIONAL")

    def to_tick(self, price: float) -> Decimal:
        """The nearest price on the grid."""
        return (Decimal(repr(price)) / self.tick).quantize(Decimal(1)) * self.tick


INSTRUMENTS = tuple(
    Instrument(symbol=f"{base}USDT", base=base, quote="USDT") for base in ("EUR", "GBP", "CHF", "AUD")
)

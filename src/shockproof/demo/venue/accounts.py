"""What each account holds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from shockproof.demo.venue.rejections import RejectedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Account"]

_ZERO = Decimal(0)


@dataclass(slots=True, eq=False)
class Account:
    """
    Balances of one account: free to use, and locked by its open orders.

    ``fee_rate`` is taken from what the account receives in a trade.
    """

    name: str
    fee_rate: Decimal = _ZERO
    free: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    locked: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))

    def lock(self, asset: str, amount: Decimal) -> None:
        """Set *amount* aside. Raises ``RejectedError`` when less than that is free, and changes nothing then."""
        if amount > self.free[asset]:
            raise RejectedError.insufficient_balance()
        self.free[asset] -= amount
        self.locked[asset] += amount

    def unlock(self, asset: str, amount: Decimal) -> None:
        self.locked[asset] -= amount
        self.free[asset] += amount

    def totals(self) -> Mapping[str, Decimal]:
        """Free and locked together, for every asset ever held."""
        return {asset: self.free[asset] + self.locked[asset] for asset in sorted({*self.free, *self.locked})}

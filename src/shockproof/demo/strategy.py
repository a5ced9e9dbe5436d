"""
A simple strategy: hold more of what has been rising, less of what has been falling.

Two moving averages tilt a target around a neutral position, and the difference to what is held
becomes an order. It is there to trade a lot, not to earn anything.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from shockproof.demo.book import Side

__all__ = ["Rebalancing", "Wish"]

_FAST, _SLOW = 4, 12
"""How many prices the two averages run over."""
_TILT = 160.0
"""How strongly their distance moves the target: 0.5 % apart moves it by 80 %."""
_MOST = 0.8
_NEUTRAL = Decimal(2000)
_SMALLEST, _LARGEST = Decimal(40), Decimal(1200)
_STEP = Decimal("0.1")
_TICK = Decimal("0.0001")
_FAT_FINGER = Decimal(400_000)
"""Worth more than the whole account."""


@dataclass(frozen=True, slots=True)
class Wish:
    """An order that the strategy would like to have."""

    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal | None
    """The limit; None for a market order."""


class Rebalancing:
    """
    Told prices, it says what to trade. No clock, no I/O; the same prices and seed give the same wishes.

    Every fifth order is a limit order just behind the market, which may or may not be filled, and
    every twenty-third has three zeros too many: the venue has to refuse something, too.
    """

    def __init__(self, seed: int) -> None:
        self._prices: dict[str, deque[float]] = {}
        self._rng = random.Random(seed)
        self._wishes = 0

    def price(self, symbol: str, price: float) -> None:
        """The newest price."""
        self._prices.setdefault(symbol, deque(maxlen=_SLOW)).append(price)

    def target(self, symbol: str) -> Decimal:
        """How much to hold on top of what was there when the session began; 0 before the first price."""
        prices = list(self._prices.get(symbol, ()))
        if not prices:
            return Decimal(0)
        newest = prices[-_FAST:]
        fast, slow = sum(newest) / len(newest), sum(prices) / len(prices)
        tilt = max(-_MOST, min(_MOST, _TILT * (fast / slow - 1)))
        return (_NEUTRAL * Decimal(1 + tilt)).quantize(_STEP, rounding=ROUND_DOWN)

    def wish(self, symbol: str, held: Decimal) -> Wish | None:
        """An order that leads from *held* towards the target, or None when it is near enough."""
        prices = self._prices.get(symbol)
        difference = self.target(symbol) - held
        if not prices or abs(difference) < _SMALLEST:
            return None
        side: Side = "buy" if difference > 0 else "sell"
        quantity = min(abs(difference), _LARGEST)
        self._wishes += 1
        if self._wishes % 23 == 0:
            return Wish(symbol, side, _FAT_FINGER, Decimal(prices[-1]).quantize(_TICK))
        if self._wishes % 5 == 0:
            distance = self._rng.uniform(0.0002, 0.0012) * prices[-1]
            price = prices[-1] + (-distance if side == "buy" else distance)
            return Wish(symbol, side, quantity, Decimal(price).quantize(_TICK))
        return Wish(symbol, side, quantity, None)

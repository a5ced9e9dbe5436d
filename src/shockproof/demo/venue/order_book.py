"""One market's resting orders, best price first, oldest first."""

from __future__ import annotations

from bisect import bisect_left, insort
from decimal import Decimal
from typing import TYPE_CHECKING

from shockproof.demo.venue.orders import Order, Side

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OrderBook"]


class OrderBook:
    """Keeps price-time priority. It does not match: it only says who is next."""

    def __init__(self) -> None:
        # Levels keep insertion order, which is time priority: a dict finds and removes in constant time.
        self._levels: dict[Side, dict[Decimal, dict[int, Order]]] = {Side.BUY: {}, Side.SELL: {}}
        self._prices: dict[Side, list[Decimal]] = {Side.BUY: [], Side.SELL: []}  # ascending

    def add(self, order: Order) -> None:
        price = self._price_of(order)
        level = self._levels[order.side].get(price)
        if level is None:
            level = self._levels[order.side][price] = {}
            insort(self._prices[order.side], price)
        level[order.order_id] = order

    def remove(self, order: Order) -> None:
        price = self._price_of(order)
        level = self._levels[order.side][price]
        del level[order.order_id]
        if not level:
            del self._levels[order.side][price]
            prices = self._prices[order.side]
            del prices[bisect_left(prices, price)]

    def best(self, side: Side) -> Decimal | None:
        """The best resting price of that side: the highest bid or the lowest ask."""
        prices = self._prices[side]
        if not prices:
            return None
        return prices[-1] if side is Side.BUY else prices[0]

    def first(self, side: Side) -> Order | None:
        """The resting order of that side that trades next."""
        price = self.best(side)
        return None if price is None else next(iter(self._levels[side][price].values()))

    def in_priority(self, side: Side) -> Iterator[Order]:
        """All resting orders of that side in the order in which they would trade."""
        prices = self._prices[side]
        for price in reversed(prices) if side is Side.BUY else prices:
            yield from self._levels[side][price].values()

    def depth(self, side: Side, limit: int) -> list[tuple[Decimal, Decimal]]:
        """Price and open quantity of the best *limit* levels."""
        prices = self._prices[side]
        best_first = prices[: -limit - 1 : -1] if side is Side.BUY else prices[:limit]
        return [
            (price, sum((order.remaining for order in self._levels[side][price].values()), Decimal(0)))
            for price in best_first
        ]

    def matchable(self, side: Side, limit_price: Decimal | None) -> Iterator[Order]:
        """
        The resting orders that an incoming order of *side* could trade with, in priority.

        *limit_price* None means any price.
        """
        for order in self.in_priority(side.opposite):
            if not self.crosses(side, limit_price, self._price_of(order)):
                return
            yield order

    @staticmethod
    def crosses(side: Side, limit_price: Decimal | None, resting_price: Decimal) -> bool:
        """Whether an incoming order of *side* accepts *resting_price*."""
        if limit_price is None:
            return True
        return resting_price <= limit_price if side is Side.BUY else resting_price >= limit_price

    @staticmethod
    def _price_of(order: Order) -> Decimal:
        if order.price is None:
            raise ValueError(f"order {order.order_id} has no price: only limit orders rest in a book")
        return order.price

"""The other side of the demo's trades: quotes around the replayed price, and a crowd that trades with them."""

from __future__ import annotations

import random
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING

from shockproof.demo.venue.orders import NewOrder, OrderType, Side
from shockproof.demo.venue.rejections import RejectedError

if TYPE_CHECKING:
    from shockproof.demo.prices.replay import PriceReplay
    from shockproof.demo.venue.instruments import Instrument
    from shockproof.demo.venue.matching import MatchingEngine

__all__ = ["Liquidity"]

_LEVELS = 6
_CROWD_TRADES = 0.25  # how likely the crowd trades in one market at one tick


class Liquidity:
    """
    Keeps both sides of every book filled, as two accounts of the engine.

    ``house`` quotes six levels on each side and moves them when the replayed price has moved;
    ``crowd`` now and then takes some of them, so that the tape and the queues are alive. Levels
    are small enough that a larger order fills in several parts.
    """

    HOUSE = "house"
    CROWD = "crowd"

    def __init__(self, engine: MatchingEngine, replay: PriceReplay, *, seed: int) -> None:
        self._engine = engine
        self._replay = replay
        self._seed = seed
        self._ticks = 0
        self._quoted: dict[str, Decimal] = {}
        for name in (self.HOUSE, self.CROWD):
            account = engine.open_account(name, forget_closed=True)
            account.free["USDT"] = Decimal(1_000_000_000)
            for instrument in engine.instruments.values():
                account.free[instrument.base] = Decimal(1_000_000_000)

    def tick(self, elapsed: float, now: float) -> None:
        """Move the market to where it is *elapsed* seconds into the session; *now* is wall time for the records."""
        self._ticks += 1
        for instrument in self._engine.instruments.values():
            rng = random.Random(f"{self._seed}/{instrument.symbol}/{self._ticks}")
            middle = instrument.to_tick(self._replay.price(instrument.base, elapsed))
            if self._needs_quotes(instrument, middle):
                self._quote(instrument, middle, rng, now)
            if rng.random() < _CROWD_TRADES:
                self._trade(instrument, rng, now)

    def _needs_quotes(self, instrument: Instrument, middle: Decimal) -> bool:
        if self._quoted.get(instrument.symbol) != middle:
            return True
        return len(self._engine.open_orders(self.HOUSE, instrument.symbol)) < 2 * _LEVELS

    def _quote(self, instrument: Instrument, middle: Decimal, rng: random.Random, now: float) -> None:
        for order in self._engine.open_orders(self.HOUSE, instrument.symbol):
            self._engine.cancel(order, now)
        for level in range(_LEVELS):
            for side, sign in ((Side.BUY, -1), (Side.SELL, 1)):
                self._place(
                    instrument,
                    self.HOUSE,
                    side,
                    Decimal(rng.randint(3_000, 20_000) * (level + 1)) / 10,
                    now,
                    price=middle + sign * (level + 1) * instrument.tick,
                    client_order_id=f"house-{self._ticks}-{side.value}-{level}",
                )
        self._quoted[instrument.symbol] = middle

    def _trade(self, instrument: Instrument, rng: random.Random, now: float) -> None:
        side = rng.choice((Side.BUY, Side.SELL))
        quantity = Decimal(rng.randint(500, 5_000)) / 10
        self._place(instrument, self.CROWD, side, quantity, now, client_order_id=f"crowd-{self._ticks}")

    def _place(
        self,
        instrument: Instrument,
        account: str,
        side: Side,
        quantity: Decimal,
        now: float,
        *,
        client_order_id: str,
        price: Decimal | None = None,
    ) -> None:
        # In a very long session one of them may run out of money: then this side is thinner, no more.
        with suppress(RejectedError):
            self._engine.place(
                NewOrder(
                    account=account,
                    symbol=instrument.symbol,
                    side=side,
                    type=OrderType.MARKET if price is None else OrderType.LIMIT,
                    client_order_id=client_order_id,
                    quantity=quantity,
                    price=price,
                ),
                now,
            )

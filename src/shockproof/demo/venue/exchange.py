"""Everything the venue is, without a network: market, account, API, ledger and fault plan put together."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from shockproof.demo.venue.fault_injector import FaultInjector
from shockproof.demo.venue.instruments import INSTRUMENTS
from shockproof.demo.venue.ledger import Ledger, plain
from shockproof.demo.venue.liquidity import Liquidity
from shockproof.demo.venue.market_statistics import MarketStatistics
from shockproof.demo.venue.matching import MatchingEngine
from shockproof.demo.venue.silence import Silence
from shockproof.demo.venue.spot_api import SpotApi

if TYPE_CHECKING:
    from collections.abc import Callable

    from shockproof.demo.prices.replay import PriceReplay
    from shockproof.demo.venue.fault_plan import FaultPlan
    from shockproof.demo.venue.market_statistics import Trade

__all__ = ["Exchange", "SessionClock"]

FEE_RATE = Decimal("0.001")
OPENING_BALANCES = {
    "USDT": Decimal(50_000),
    "EUR": Decimal(10_000),
    "GBP": Decimal(10_000),
    "CHF": Decimal(10_000),
    "AUD": Decimal(10_000),
}


class SessionClock:
    """Seconds since the session began: it begins with the first request, so that a slow start costs no faults."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._began: float | None = None

    def begin(self) -> None:
        """Begin now, unless it has begun."""
        if self._began is None:
            self._began = self._monotonic()

    @property
    def has_begun(self) -> bool:
        return self._began is not None

    def elapsed(self) -> float:
        """0 until it has begun."""
        return 0.0 if self._began is None else self._monotonic() - self._began


class Exchange:
    """
    One market with one customer.

    Args:
        replay: where prices come from.
        plan: what goes wrong, and when.
        clock: the session's.
        wall: wall time in seconds.
        on_trade: told of every trade, for the stream.
    """

    TRADER = "trader"

    def __init__(
        self,
        replay: PriceReplay,
        plan: FaultPlan,
        *,
        clock: SessionClock,
        wall: Callable[[], float] = time.time,
        on_trade: Callable[[Trade], None] | None = None,
    ) -> None:
        self.replay = replay
        self.clock = clock
        self.wall = wall
        self.faults = FaultInjector(plan)
        self.silence = Silence()
        self.engine = MatchingEngine(INSTRUMENTS, first_order_id=1_000_001)
        self.statistics = MarketStatistics(on_trade)
        self.ledger = Ledger(
            self.TRADER,
            OPENING_BALANCES,
            {instrument.symbol: (instrument.base, instrument.quote) for instrument in INSTRUMENTS},
        )
        self.engine.tell(self.ledger)
        self.engine.tell(self.statistics)
        account = self.engine.open_account(self.TRADER, fee_rate=FEE_RATE)
        account.free.update(OPENING_BALANCES)
        self._liquidity = Liquidity(self.engine, replay, seed=plan.seed)
        self.api = SpotApi(self.engine, self.statistics, account=self.TRADER, opened_at=wall())
        self.tick()

    def tick(self) -> None:
        """Let the market move to the present."""
        self._liquidity.tick(self.clock.elapsed(), self.wall())

    def ledger_report(self) -> dict[str, Any]:  # Any: a JSON object with values of several types
        """
        The ground truth, with the account beside it.

        ``agrees`` is False if the engine's balances ever differ from what the ledger's entries give.
        """
        account = self.engine.accounts[self.TRADER]
        by_entries = self.ledger.balances()
        held = account.totals()
        return {
            "account": self.TRADER,
            "orders": [order.to_dict() for order in self.ledger.orders],
            "duplicates": self.ledger.duplicates(),
            "opening_balances": {asset: plain(amount) for asset, amount in sorted(OPENING_BALANCES.items())},
            "balances": {asset: plain(amount) for asset, amount in by_entries.items()},
            "locked": {asset: plain(amount) for asset, amount in sorted(account.locked.items()) if amount},
            "agrees": all(held.get(asset, Decimal(0)) == amount for asset, amount in by_entries.items()),
        }

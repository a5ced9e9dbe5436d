"""A price at any moment of a session, made from published days that pass quickly."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shockproof.demo.prices.reference_rates import DailyRates

__all__ = ["PriceReplay"]

_WAVES = 5
_AMPLITUDE = 0.0012  # of the price, for the slowest wave: about a quarter of an ordinary day's move


class PriceReplay:
    """
    Replays published days, one every *day_seconds*.

    At the end of each replayed day the price is exactly the published one; in between it follows
    a bridge made of a few waves whose heights come from *seed*, the currency and the day. It is a
    pure function of the time handed in: asking twice, in any order, gives the same price. Behind
    the last published day it walks back through the series, so that a session never runs out.

    Args:
        rates: at least two published days, oldest first.
        seed: picks the day to begin with and the shape of the bridges.
        day_seconds: seconds of session time for one published day; more than 0.
        first_day: index of the day to begin with; by default the seed picks one.
    """

    def __init__(
        self,
        rates: Sequence[DailyRates],
        *,
        seed: int,
        day_seconds: float = 0.5,
        first_day: int | None = None,
    ) -> None:
        if len(rates) < 2:
            raise ValueError(f"rates must hold at least 2 days to go from one to the next, got {len(rates)}")
        if not day_seconds > 0:
            raise ValueError(f"day_seconds must be more than 0, got {day_seconds!r}")
        if first_day is not None and not 0 <= first_day < len(rates):
            raise ValueError(f"first_day must be from 0 to {len(rates) - 1}, got {first_day!r}")
        self._rates = rates
        self._seed = seed
        self._day_seconds = day_seconds
        self._first_day = (
            random.Random(f"{seed}/first day").randrange(len(rates)) if first_day is None else first_day
        )
        self._waves = lru_cache(maxsize=256)(self._make_waves)

    def price(self, currency: str, elapsed: float) -> float:
        """US dollars for one unit of *currency*, *elapsed* seconds into the session."""
        step, fraction = self._position(elapsed)
        before = float(self._on(step).usd_per[currency])
        after = float(self._on(step + 1).usd_per[currency])
        waves = sum(
            height * math.sin(math.pi * number * fraction)
            for number, height in enumerate(self._waves(currency, step), start=1)
        )
        return before * math.pow(after / before, fraction) * math.exp(waves)

    def published(self, currency: str, elapsed: float) -> tuple[str, Decimal]:
        """The newest published day (ISO 8601) at that moment and its rate: what a slow second source knows."""
        rates = self._on(self._position(elapsed)[0])
        return rates.day.isoformat(), rates.usd_per[currency]

    def _position(self, elapsed: float) -> tuple[int, float]:
        days = max(0.0, elapsed) / self._day_seconds
        step = int(days)
        return step, days - step

    def _on(self, step: int) -> DailyRates:
        last = len(self._rates) - 1
        index = (self._first_day + step) % (2 * last)
        return self._rates[index if index <= last else 2 * last - index]

    def _make_waves(self, currency: str, step: int) -> tuple[float, ...]:
        rng = random.Random(f"{self._seed}/{currency}/{step}")
        return tuple(rng.gauss(0.0, _AMPLITUDE) / number for number in range(1, _WAVES + 1))

"""The European Central Bank's reference rates, as published, turned into US dollars per unit."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CURRENCIES", "DailyRates", "load_reference_rates"]

CURRENCIES = ("EUR", "GBP", "CHF", "AUD")
"""What can be had in US dollars."""

_SIX_PLACES = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class DailyRates:
    """What was published on one working day."""

    day: date
    usd_per: Mapping[str, Decimal]
    """US dollars for one unit of each of ``CURRENCIES``, to six places."""


def load_reference_rates() -> tuple[DailyRates, ...]:
    """
    All published days that ship with the demo, oldest first.

    Reads a small file (about 120 kB, some milliseconds): call it at start-up, not on a busy loop.
    """
    text = resources.files("shockproof.demo.prices").joinpath("eurofxref.csv").read_text(encoding="utf-8")
    days: list[DailyRates] = []
    for row in csv.DictReader(text.splitlines()):
        dollars_per_euro = Decimal(row["USD"])
        usd_per = {
            currency: (dollars_per_euro / Decimal(row.get(currency, "1"))).quantize(_SIX_PLACES)
            for currency in CURRENCIES
        }
        days.append(DailyRates(day=date.fromisoformat(row["Date"]), usd_per=usd_per))
    return tuple(days)

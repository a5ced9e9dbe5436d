"""Published rates and their replay."""

from __future__ import annotations

from decimal import Decimal
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.demo.prices.reference_rates import CURRENCIES, load_reference_rates
from shockproof.demo.prices.replay import PriceReplay

RATES = load_reference_rates()


def test_the_rates_are_the_published_ones() -> None:
    """Two known days: the first as published, and a quotient of two published rates."""
    first = RATES[0]
    assert (first.day.isoformat(), first.usd_per["EUR"]) == ("2015-01-02", Decimal("1.204300"))
    assert first.usd_per["GBP"] == (Decimal("1.2043") / Decimal("0.78")).quantize(Decimal("0.000001"))


def test_the_days_are_in_order_and_complete() -> None:
    """Oldest first, no day twice, a rate for every currency."""
    days = [rates.day for rates in RATES]
    assert days == sorted(set(days))
    assert all(set(rates.usd_per) == set(CURRENCIES) for rates in RATES)


def test_the_file_is_small_and_its_source_stands_beside_it() -> None:
    """What ships with the package has to be small, and its licence known."""
    folder = resources.files("shockproof.demo.prices")
    assert len(folder.joinpath("eurofxref.csv").read_bytes()) < 200_000
    source = folder.joinpath("SOURCE.md").read_text(encoding="utf-8")
    assert "European Central Bank" in source
    assert "free of charge" in source


@given(seed=st.integers(), day=st.integers(0, 200), currency=st.sampled_from(CURRENCIES))
def test_at_the_turn_of_a_day_the_price_is_the_published_one(seed: int, day: int, currency: str) -> None:
    """The bridge between two days is invented; its ends are not."""
    replay = PriceReplay(RATES, seed=seed, day_seconds=0.5, first_day=100)
    published = float(RATES[100 + day].usd_per[currency])
    assert replay.price(currency, day * 0.5) == pytest.approx(published, rel=1e-12)


@given(elapsed=st.floats(0, 5000), currency=st.sampled_from(CURRENCIES))
def test_the_price_is_a_function_of_seed_and_time(elapsed: float, currency: str) -> None:
    """Asked again, in any order, by another object: the same."""
    one, other = PriceReplay(RATES, seed=4), PriceReplay(RATES, seed=4)
    other.price(currency, elapsed / 2)
    assert one.price(currency, elapsed) == other.price(currency, elapsed) > 0


def test_another_seed_begins_on_another_day() -> None:
    """So that sessions differ."""
    days = {PriceReplay(RATES, seed=seed).published("EUR", 0.0)[0] for seed in range(5)}
    assert len(days) == 5


def test_behind_the_last_day_the_series_is_walked_back() -> None:
    """A session never runs out of prices, and never jumps."""
    last = len(RATES) - 1
    replay = PriceReplay(RATES, seed=1, day_seconds=1.0, first_day=last)
    assert replay.published("EUR", 0.0)[0] == RATES[last].day.isoformat()
    assert replay.published("EUR", 1.0)[0] == RATES[last - 1].day.isoformat()
    assert replay.published("EUR", 2.0 * last + 1.0)[0] == RATES[last - 1].day.isoformat()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"day_seconds": 0.0}, r"day_seconds must be more than 0, got 0\.0"),
        ({"day_seconds": float("nan")}, "day_seconds must be more than 0, got nan"),
        ({"first_day": -1}, "first_day must be from 0 to"),
        ({"first_day": 10**6}, "first_day must be from 0 to"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, float], complaint: str) -> None:
    """Before anything is replayed."""
    with pytest.raises(ValueError, match=complaint):
        PriceReplay(RATES, seed=1, **options)  # type: ignore[arg-type]  # bad options on purpose
    with pytest.raises(ValueError, match="rates must hold at least 2 days"):
        PriceReplay(RATES[:1], seed=1)

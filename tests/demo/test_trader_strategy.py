"""The strategy: pure, repeatable, and never far from what it wants."""

from __future__ import annotations

from decimal import Decimal

from shockproof.demo.strategy import Rebalancing

EUR = "EUR/USDT"


def test_without_a_price_nothing_is_wished() -> None:
    """There is no order without a price."""
    assert Rebalancing(1).wish(EUR, Decimal(0)) is None


def test_a_rising_price_makes_it_hold_more_than_a_falling_one() -> None:
    """The fast average above the slow one tilts the target up."""
    rising, falling = Rebalancing(1), Rebalancing(1)
    for step in range(12):
        rising.price(EUR, 1.0 + step / 1000)
        falling.price(EUR, 1.0 - step / 1000)
    assert rising.target(EUR) > Decimal(2000) > falling.target(EUR) >= 0


def test_near_the_target_it_leaves_things_alone() -> None:
    """A difference that is too small is not worth an order."""
    strategy = Rebalancing(1)
    strategy.price(EUR, 1.1)
    assert strategy.wish(EUR, strategy.target(EUR) - 1) is None


def test_orders_lead_towards_the_target_and_fit_the_venues_grid() -> None:
    """Side, size and steps, for market and limit orders alike."""
    strategy = Rebalancing(1)
    held = Decimal(0)
    kinds = set()
    for step in range(60):
        strategy.price(EUR, 1.1 + (step % 9) / 500)
        wish = strategy.wish(EUR, held)
        if wish is None:
            continue
        assert wish.quantity % Decimal("0.1") == 0
        assert wish.price is None or wish.price % Decimal("0.0001") == 0
        assert (wish.side == "buy") == (strategy.target(EUR) > held)
        kinds.add("fat finger" if wish.quantity > 10_000 else "market" if wish.price is None else "limit")
        if wish.quantity <= 10_000:
            held += wish.quantity if wish.side == "buy" else -wish.quantity
    assert kinds == {"market", "limit", "fat finger"}


def test_the_same_seed_and_prices_give_the_same_wishes() -> None:
    """A session repeats by its seed."""

    def wishes() -> list[object]:
        strategy = Rebalancing(7)
        made = []
        for step in range(40):
            strategy.price(EUR, 1.1 + (step % 7) / 300)
            made.append(strategy.wish(EUR, Decimal(step * 10)))
        return made

    assert wishes() == wishes()

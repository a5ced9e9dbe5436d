"""The ledger: what was booked, and nothing else."""

from __future__ import annotations

from decimal import Decimal

from shockproof.demo.venue.instruments import Instrument
from shockproof.demo.venue.ledger import Ledger, plain
from shockproof.demo.venue.matching import MatchingEngine
from shockproof.demo.venue.orders import NewOrder, Order, OrderType, Side

EUR = Instrument(symbol="EURUSDT", base="EUR", quote="USDT")
OPENING = {"EUR": Decimal(0), "USDT": Decimal(100)}


def make() -> tuple[MatchingEngine, Ledger]:
    engine = MatchingEngine([EUR])
    engine.open_account("trader", fee_rate=Decimal("0.001")).free.update(OPENING)
    engine.open_account("house").free.update({"EUR": Decimal(1000), "USDT": Decimal(1000)})
    ledger = Ledger("trader", OPENING, {"EURUSDT": ("EUR", "USDT")})
    engine.tell(ledger)
    return engine, ledger


def place(
    engine: MatchingEngine, account: str, side: Side, quantity: int, price: str | None, client: str
) -> Order:
    return engine.place(
        NewOrder(
            account=account,
            symbol="EURUSDT",
            side=side,
            type=OrderType.MARKET if price is None else OrderType.LIMIT,
            client_order_id=client,
            quantity=Decimal(quantity),
            price=None if price is None else Decimal(price),
        ),
        now=1.0,
    )


def test_two_orders_with_one_client_id_are_two_entries_and_a_duplicate() -> None:
    """A blind second send shows up here."""
    engine, ledger = make()
    place(engine, "house", Side.SELL, 100, "1", "house-1")
    for _ in range(2):
        place(engine, "trader", Side.BUY, 10, None, "same")
    assert [order.client_order_id for order in ledger.orders] == ["same", "same"]
    assert ledger.duplicates() == {"same": 2}


def test_the_balances_follow_from_the_entries_alone() -> None:
    """Opening balances and fills give what the account holds, fees included."""
    engine, ledger = make()
    place(engine, "house", Side.SELL, 100, "1.1", "house-1")
    place(engine, "trader", Side.BUY, 10, None, "a")
    assert ledger.balances() == {"EUR": Decimal("9.99"), "USDT": Decimal(89)}
    assert ledger.balances() == engine.accounts["trader"].totals()


def test_orders_of_others_are_no_entries() -> None:
    """The house's quotes are not the trader's business."""
    engine, ledger = make()
    place(engine, "house", Side.SELL, 100, "1.1", "house-1")
    assert ledger.orders == ()


def test_an_entry_shows_how_far_its_order_has_come() -> None:
    """New, partially filled, cancelled: from the events, not from the engine's object."""
    engine, ledger = make()
    order = place(engine, "trader", Side.BUY, 10, "1", "a")
    entry = ledger.orders[0]
    assert entry.to_dict()["status"] == "NEW"
    place(engine, "house", Side.SELL, 6, "1", "h")
    assert (entry.to_dict()["status"], entry.to_dict()["executed"]) == ("PARTIALLY_FILLED", "6")
    engine.cancel(order, now=2.0)
    assert (entry.to_dict()["status"], entry.to_dict()["executed_quote"]) == ("CANCELED", "6")


def test_equal_amounts_are_written_alike() -> None:
    """Whoever compares texts must not stumble over trailing zeros."""
    assert [plain(Decimal(text)) for text in ("10.00", "1E+1", "10", "0.0", "0.10")] == [
        "10",
        "10",
        "10",
        "0",
        "0.1",
    ]

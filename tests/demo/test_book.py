"""The trader's book: what it believes, from whom, and what survives a restart."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from shockproof.demo.book import Book, Order, OrderState, Report, name_of, new_client_id, symbol_of

QUANTITY = Decimal(100)


def an_order(client_id: str = "sp-0001-ab", **changes: Any) -> Order:
    fields: dict[str, Any] = {"symbol": "EUR/USDT", "side": "buy", "type": "market", "quantity": QUANTITY}
    return Order(client_id, **(fields | changes))


def a_report(state: OrderState, executed: str, quote: str = "0", client_id: str = "sp-0001-ab") -> Report:
    return Report(client_id, state, Decimal(executed), Decimal(quote))


@pytest.fixture
def book() -> Book:
    book = Book()
    book.add(an_order())
    return book


def test_a_client_id_used_twice_is_refused(book: Book) -> None:
    """Two orders under one id could never be told apart again."""
    with pytest.raises(ValueError, match="sp-0001-ab"):
        book.add(an_order())


def test_a_late_answer_does_not_undo_fills(book: Book) -> None:
    """An answer that was overtaken by a newer one tells of fewer fills, and is dropped."""
    book.note(a_report(OrderState.OPEN, "60", "66"))
    book.note(a_report(OrderState.OPEN, "20", "22"))
    assert book.orders["sp-0001-ab"].executed == 60


@pytest.mark.parametrize("settled", [state for state in OrderState if state.is_settled])
def test_what_is_settled_stays_settled(settled: OrderState) -> None:
    """Whatever comes later, an order that has ended does not begin again."""
    book = Book()
    book.add(an_order(state=settled))
    book.note(a_report(OrderState.OPEN, "100", "110"))
    book.note_rejected("sp-0001-ab")
    book.note_not_sent("sp-0001-ab")
    assert book.orders["sp-0001-ab"].state is settled
    assert book.orders["sp-0001-ab"].executed == 0


def test_an_order_at_the_venue_cannot_become_not_sent(book: Book) -> None:
    """Only a pending order can turn out never to have been sent."""
    book.note(a_report(OrderState.OPEN, "0"))
    book.note_not_sent("sp-0001-ab")
    assert book.orders["sp-0001-ab"].state is OrderState.OPEN


def test_positions_come_from_fills_of_all_states(book: Book) -> None:
    """A cancelled order that was filled in part counts with what was filled."""
    book.note(a_report(OrderState.CANCELED, "30", "33"))
    book.add(an_order("sp-0002-cd", side="sell"))
    book.note(a_report(OrderState.FILLED, "100", "110", "sp-0002-cd"))
    book.add(an_order("sp-0003-ef", symbol="GBP/USDT", state=OrderState.FILLED, executed=Decimal(7)))
    assert book.position("EUR/USDT") == -70


def test_a_restart_finds_every_settled_order_as_it_was(book: Book) -> None:
    """What is under way is the journal's."""
    book.add(an_order("sp-0002-cd", type="limit", price=Decimal("1.0861"), state=OrderState.OPEN))
    filled = an_order(
        "sp-0003-ef",
        state=OrderState.FILLED,
        executed=QUANTITY,
        executed_quote=Decimal("108.6"),
        valid_until=1.5,
    )
    book.add(filled)
    assert Book.from_state(book.to_state()).orders == {"sp-0003-ef": filled}


def test_an_order_is_the_same_after_its_way_through_the_journal() -> None:
    """Whatever it is begun with, the next life goes on with."""
    order = an_order(type="limit", price=Decimal("1.0861"), valid_until=12.5)
    assert Order.from_dict(order.to_dict()) == order


def test_an_orders_id_says_which_symbol_it_is_for() -> None:
    """After a crash the id is all there is to look it up by."""
    client_id = new_client_id(7, "GBP/USDT")
    assert symbol_of(client_id) == "GBP/USDT"
    assert name_of(client_id) == "sp-0007-GBP"
    assert new_client_id(7, "GBP/USDT") != client_id


def test_counts_name_only_what_there_is(book: Book) -> None:
    """States without orders are left out."""
    assert book.counts() == {"pending": 1}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("NEW", OrderState.OPEN),
        ("PARTIALLY_FILLED", OrderState.OPEN),
        ("FILLED", OrderState.FILLED),
        ("CANCELED", OrderState.CANCELED),
        ("EXPIRED", OrderState.EXPIRED),
    ],
)
def test_a_report_takes_exact_amounts_from_the_venues_own_words(status: str, state: OrderState) -> None:
    """The client's unified amounts are floats; the texts beside them are exact."""
    info = {
        "clientOrderId": "sp-1",
        "status": status,
        "executedQty": "0.30000000",
        "cummulativeQuoteQty": "0.33333333",
    }
    report = Report.from_ccxt({"filled": 0.1 + 0.2, "info": info})
    assert report == Report("sp-1", state, Decimal("0.3"), Decimal("0.33333333"))


def test_a_cancels_answer_is_about_the_order_and_not_about_the_cancel() -> None:
    """The answer to a cancel carries an id of its own beside the order's."""
    info = {
        "clientOrderId": "cancel-1",
        "origClientOrderId": "sp-1",
        "status": "CANCELED",
        "executedQty": "0",
        "cummulativeQuoteQty": "0",
    }
    assert Report.from_ccxt({"info": info}).client_id == "sp-1"

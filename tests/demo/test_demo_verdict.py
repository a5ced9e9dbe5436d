"""The reckoning at the end: each kind of difference is found, and nothing else."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from shockproof.demo.account import Allowed
from shockproof.demo.book import Book, Order, OrderState
from shockproof.demo.verdict import Life, compare_ledger, compare_limits, compare_log, count_lines, most_in


def a_book(*orders: Order) -> Book:
    book = Book()
    for order in orders:
        book.add(order)
    return book


def an_order(state: OrderState, executed: str = "10", quote: str = "11", client_id: str = "sp-1") -> Order:
    order = Order(client_id, "EUR/USDT", "buy", "market", Decimal(10), state=state)
    order.executed, order.executed_quote = Decimal(executed), Decimal(quote)
    return order


def an_entry(
    status: str = "FILLED", executed: str = "10", quote: str = "11", client_id: str = "sp-1"
) -> dict[str, Any]:
    return {
        "client_order_id": client_id,
        "status": status,
        "executed": executed,
        "executed_quote": quote,
        "fills": [{}],
    }


def a_ledger(*entries: dict[str, Any], agrees: bool = True) -> dict[str, Any]:
    ids = [entry["client_order_id"] for entry in entries]
    duplicates = {one: ids.count(one) for one in ids if ids.count(one) > 1}
    return {"orders": list(entries), "duplicates": duplicates, "agrees": agrees}


@pytest.mark.parametrize(
    ("state", "entry"),
    [
        (OrderState.FILLED, an_entry()),
        (OrderState.CANCELED, an_entry("CANCELED")),
        (OrderState.EXPIRED, an_entry("EXPIRED")),
    ],
)
def test_equal_orders_agree(state: OrderState, entry: dict[str, Any]) -> None:
    """The same end and the same amounts on both sides."""
    assert compare_ledger(a_ledger(entry), a_book(an_order(state))).agrees


@pytest.mark.parametrize("state", [OrderState.REJECTED, OrderState.NOT_SENT])
def test_what_never_was_booked_is_in_the_book_only(state: OrderState) -> None:
    """A refused or never sent order has no place in the ledger."""
    order = an_order(state, "0", "0")
    assert compare_ledger(a_ledger(), a_book(order)).agrees
    assert compare_ledger(a_ledger(an_entry()), a_book(order)).differences == (
        f"sp-1: {state.value} in the book, and in the ledger",
    )


@pytest.mark.parametrize(
    ("ledger", "book", "difference"),
    [
        (a_ledger(an_entry()), a_book(), "sp-1: in the ledger (FILLED), and not in the book"),
        (a_ledger(), a_book(an_order(OrderState.FILLED)), "sp-1: filled in the book, and not in the ledger"),
        (
            a_ledger(an_entry(), an_entry()),
            a_book(an_order(OrderState.FILLED)),
            "sp-1: booked more than once",
        ),
        (a_ledger(an_entry(executed="9")), a_book(an_order(OrderState.FILLED)), "executed quantity 10"),
        (a_ledger(an_entry(quote="12")), a_book(an_order(OrderState.FILLED)), "executed money 11"),
        (a_ledger(an_entry("CANCELED")), a_book(an_order(OrderState.FILLED)), "CANCELED in the ledger"),
        (a_ledger(an_entry()), a_book(an_order(OrderState.PENDING)), "sp-1: still pending in the book"),
        (a_ledger(agrees=False), a_book(), "its own balances disagree"),
    ],
)
def test_each_kind_of_difference_is_found_and_named(
    ledger: dict[str, Any], book: Book, difference: str
) -> None:
    """One difference, said in one line."""
    verdict = compare_ledger(ledger, book)
    assert len(verdict.differences) == 1
    assert difference in verdict.differences[0]


def test_doubled_and_lost_orders_are_counted() -> None:
    """Two of one id, one that the book does not know, and one that the ledger does not."""
    ledger = a_ledger(an_entry(), an_entry(), an_entry(client_id="sp-2"))
    book = a_book(an_order(OrderState.FILLED), an_order(OrderState.FILLED, client_id="sp-3"))
    verdict = compare_ledger(ledger, book)
    assert (verdict.doubled, verdict.lost) == (1, 2)


def test_after_a_session_cut_short_pending_orders_are_no_difference() -> None:
    """They are in the journal, and the next start reconciles them, wherever they really are."""
    verdict = compare_ledger(a_ledger(an_entry()), a_book(), ["sp-1", "sp-2"], may_be_pending=True)
    assert verdict.agrees
    assert verdict.pending == 2


def test_after_a_whole_session_pending_orders_are_a_difference() -> None:
    """Everything has to come to an end."""
    verdict = compare_ledger(a_ledger(an_entry()), a_book(), ["sp-1", "sp-2"])
    assert verdict.differences == ("sp-1: still pending", "sp-2: still pending")


def test_what_the_book_has_settled_is_not_pending() -> None:
    """A death between the saved book and the end in the journal leaves an order in both."""
    verdict = compare_ledger(a_ledger(an_entry()), a_book(an_order(OrderState.FILLED)), ["sp-1"])
    assert verdict.agrees
    assert verdict.pending == 0


def test_even_then_an_order_that_nobody_knows_is_a_difference() -> None:
    """Nothing may be sent before it is in the journal."""
    assert not compare_ledger(a_ledger(an_entry()), a_book(), may_be_pending=True).agrees


def line(life: int | None) -> bytes:
    return json.dumps({"error_type": "X", "context": None if life is None else {"life": life}}).encode()


def test_lines_are_counted_by_life_and_torn_ones_apart() -> None:
    """Empty lines are nothing; what cannot be read is counted by itself."""
    counted = count_lines([line(1), line(1), b"", line(2), b'{"error_ty', b"[1]", line(None)])
    assert (counted.by_life, counted.unreadable) == ({1: 2, 2: 1, 0: 1}, 2)


@pytest.mark.parametrize(
    ("on_disk", "lives", "agrees"),
    [
        ([1, 1, 2], [Life(1, 2, was_killed=True), Life(2, 1, was_killed=False)], True),
        ([1, 1, 1, 2], [Life(1, 2, was_killed=True), Life(2, 1, was_killed=False)], True),
        ([1, 2], [Life(1, 2, was_killed=True), Life(2, 1, was_killed=False)], False),
        ([1], [Life(1, 2, was_killed=False)], False),
        ([1, 1, 1], [Life(1, 2, was_killed=False)], False),
    ],
)
def test_no_line_that_was_reported_written_may_be_missing(
    on_disk: list[int], lives: list[Life], *, agrees: bool
) -> None:
    """A killed life may have written more than it could report, one that ended in order exactly that."""
    assert compare_log(count_lines(line(life) for life in on_disk), lives).agrees is agrees


@pytest.mark.parametrize(("killed", "agrees"), [(True, True), (False, False)])
def test_only_a_death_explains_a_torn_line(*, killed: bool, agrees: bool) -> None:
    """One SIGKILL tears at most the line that was being written."""
    counted = count_lines([line(1), b'{"torn'])
    assert compare_log(counted, [Life(1, 1, was_killed=killed)]).agrees is agrees


def test_a_window_that_holds_more_than_its_limit_is_a_difference() -> None:
    """Whatever stretch one looks at, also one that begins between two ticks of a clock."""
    moments = [0.0, 0.9, 1.0, 1.8, 1.9]
    assert most_in(moments, 1.0) == 4  # from 0.9 up to 1.9, without its end
    allowed = {"orders": Allowed(4, 1.0), "reads": Allowed(3, 1.0)}
    verdict = compare_limits({"orders": moments, "reads": moments}, allowed)
    assert verdict.compared == "5 orders, at most 4 of 4 in any 1 s; 5 reads, at most 4 of 3 in any 1 s"
    assert verdict.differences == ("reads: 4 came in within 1 s, and 3 are allowed",)
    assert compare_limits({"orders": [], "reads": []}, allowed).agrees

"""
Whether everything adds up at the end: the venue's ledger with the trader's book, and the error log
on disk with what was reported written.

Pure: it is handed what others fetched and read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from shockproof.demo.book import Book, OrderState

__all__ = ["ErrorLines", "Life", "Verdict", "compare_ledger", "compare_log", "count_lines"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was compared, in one line, and every difference that was found."""

    compared: str
    differences: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        return not self.differences


def compare_ledger(
    ledger: Mapping[str, Any],  # Any: the ledger's JSON
    book: Book,
    *,
    may_be_pending: bool = False,
) -> Verdict:
    """
    The venue's ledger, order by order, with the trader's book.

    With *may_be_pending*, after a session that was cut short, the book may say of an order that it
    does not know its end yet: then it only must not claim anything false.
    """
    differences: list[str] = []
    booked: dict[str, Mapping[str, Any]] = {}  # Any: JSON
    for entry in ledger["orders"]:
        client_id = entry["client_order_id"]
        if client_id in booked:
            differences.append(f"{client_id}: booked more than once")
        booked[client_id] = entry
        if client_id not in book.orders:
            differences.append(f"{client_id}: in the ledger ({entry['status']}), and not in the book")
    for client_id, count in ledger["duplicates"].items():
        if count > 1 and f"{client_id}: booked more than once" not in differences:
            differences.append(f"{client_id}: booked {count} times")
    if not ledger["agrees"]:
        differences.append("the venue's ledger and its own balances disagree")
    unsettled = 0
    for order in book:
        entry_or_none = booked.get(order.client_id)
        if not order.state.is_settled:
            unsettled += 1
            if not may_be_pending:
                differences.append(f"{order.client_id}: still {order.state.value} in the book")
                continue
        if order.state is OrderState.PENDING:
            continue
        if entry_or_none is None:
            if order.state.is_at_venue:
                differences.append(
                    f"{order.client_id}: {order.state.value} in the book, and not in the ledger"
                )
        elif not order.state.is_at_venue:
            differences.append(f"{order.client_id}: {order.state.value} in the book, and in the ledger")
        else:
            differences += _unequal(
                order.client_id, order.state, order.executed, order.executed_quote, entry_or_none
            )
    fills = sum(len(entry["fills"]) for entry in booked.values())
    compared = f"{len(booked)} orders with {fills} fills in the ledger, {len(book)} orders in the book"
    if unsettled and may_be_pending:
        compared += f", {unsettled} of them still to be looked up"
    return Verdict(compared, tuple(differences))


def _unequal(
    client_id: str,
    state: OrderState,
    executed: Decimal,
    executed_quote: Decimal,
    entry: Mapping[str, Any],  # Any: JSON
) -> list[str]:
    if state is OrderState.OPEN:
        return []  # only after a session that was cut short: fills may have come since
    differences: list[str] = []
    if state.value.upper() != entry["status"]:
        differences.append(f"{client_id}: {state.value} in the book, {entry['status']} in the ledger")
    for name, mine, theirs in (
        ("quantity", executed, Decimal(entry["executed"])),
        ("money", executed_quote, Decimal(entry["executed_quote"])),
    ):
        if mine != theirs:
            differences.append(f"{client_id}: executed {name} {mine} in the book, {theirs} in the ledger")
    return differences


# -- the error log ------------------------------------------------------------------------------------


@dataclass(slots=True)
class ErrorLines:
    """The lines of the error log's files."""

    by_life: dict[int, int] = field(default_factory=dict[int, int])
    unreadable: int = 0

    @property
    def total(self) -> int:
        return sum(self.by_life.values())


@dataclass(frozen=True, slots=True)
class Life:
    """What one life of the trader reported last about its error log."""

    number: int
    written: int
    was_killed: bool


def count_lines(lines: Iterable[bytes]) -> ErrorLines:
    """Count them by the life of the trader, which every record has in its context."""
    counted = ErrorLines()
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            life = int((record.get("context") or {}).get("life", 0))
        except (ValueError, AttributeError, TypeError):
            counted.unreadable += 1
        else:
            counted.by_life[life] = counted.by_life.get(life, 0) + 1
    return counted


def compare_log(lines: ErrorLines, lives: Iterable[Life]) -> Verdict:
    """
    What is on disk with what was reported written.

    A life that was killed may have written more after its last report, and may have torn its last line; one
    that ended in order has exactly what it said.
    """
    differences: list[str] = []
    deaths = reported = 0
    for life in lives:
        reported += life.written
        deaths += life.was_killed
        found = lines.by_life.get(life.number, 0)
        if found < life.written:
            differences.append(
                f"life {life.number} reported {life.written} error records written, and {found} are on disk"
            )
        elif found > life.written and not life.was_killed:
            differences.append(
                f"life {life.number} wrote {life.written} error records, and {found} are on disk"
            )
    if lines.unreadable > deaths:
        differences.append(f"{lines.unreadable} lines of the error log cannot be read")
    return Verdict(f"{lines.total} lines in the error log, {reported} reported written", tuple(differences))

"""
Whether everything adds up at the end: the venue's ledger with the trader's book, and the error log
on disk with what was reported written.

Pure: it is handed what others fetched and read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from shockproof.demo.account import Allowed
from shockproof.demo.book import Book, OrderState

__all__ = [
    "ErrorLines",
    "LedgerVerdict",
    "Life",
    "Verdict",
    "compare_ledger",
    "compare_limits",
    "compare_log",
    "count_lines",
    "most_in",
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was compared, in one line, and every difference that was found."""

    compared: str
    differences: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        return not self.differences


@dataclass(frozen=True, slots=True)
class LedgerVerdict(Verdict):
    """The same of the orders."""

    doubled: int = 0
    """Orders that the venue booked more than once."""
    lost: int = 0
    """Orders that one side has and the other does not."""
    pending: int = 0
    """Orders of which the trader says that it does not know their end yet."""


def compare_ledger(
    ledger: Mapping[str, Any],  # Any: the ledger's JSON
    book: Book,
    pending: Collection[str] = (),
    *,
    may_be_pending: bool = False,
) -> LedgerVerdict:
    """
    The venue's ledger, order by order, with the trader's book.

    *pending* are the ids of orders that are still under way by the trader's journal. With *may_be_pending*,
    after a session that was cut short, that is no difference: wherever they are, the next start finds out.
    """
    differences: list[str] = []
    booked: dict[str, Mapping[str, Any]] = {}  # Any: JSON
    doubled: set[str] = set()
    lost: set[str] = set()
    # The book is saved before the journal forgets an order.
    pending = [client_id for client_id in pending if client_id not in book.orders]
    for entry in ledger["orders"]:
        client_id = entry["client_order_id"]
        if client_id in booked:
            doubled.add(client_id)
            differences.append(f"{client_id}: booked more than once")
        booked[client_id] = entry
        if client_id not in book.orders and client_id not in pending:
            lost.add(client_id)
            differences.append(f"{client_id}: in the ledger ({entry['status']}), and not in the book")
    for client_id, count in ledger["duplicates"].items():
        if count > 1 and client_id not in doubled:
            doubled.add(client_id)
            differences.append(f"{client_id}: booked {count} times")
    if not ledger["agrees"]:
        differences.append("the venue's ledger and its own balances disagree")
    if not may_be_pending:
        differences += [f"{client_id}: still pending" for client_id in pending]
    for order in book:
        entry_or_none = booked.get(order.client_id)
        if not order.state.is_settled:
            differences.append(f"{order.client_id}: still {order.state.value} in the book")
        elif (entry_or_none is not None) is not order.state.is_at_venue:
            lost.add(order.client_id)
            where = "not in the ledger" if entry_or_none is None else "in the ledger"
            differences.append(f"{order.client_id}: {order.state.value} in the book, and {where}")
        elif entry_or_none is not None:
            differences += _unequal(
                order.client_id, order.state, order.executed, order.executed_quote, entry_or_none
            )
    fills = sum(len(entry["fills"]) for entry in booked.values())
    compared = f"{len(booked)} orders with {fills} fills in the ledger, {len(book)} orders in the book"
    if pending:
        compared += f", {len(pending)} still under way"
    return LedgerVerdict(compared, tuple(differences), len(doubled), len(lost), len(pending))


def _unequal(
    client_id: str,
    state: OrderState,
    executed: Decimal,
    executed_quote: Decimal,
    entry: Mapping[str, Any],  # Any: JSON
) -> list[str]:
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


# -- the rate limits ----------------------------------------------------------------------------------


def most_in(moments: Iterable[float], seconds: float) -> int:
    """The most of the *moments* that lie within any stretch of so many seconds."""
    ordered = sorted(moments)
    first = most = 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def compare_limits(arrivals: Mapping[str, Collection[float]], allowed: Mapping[str, Allowed]) -> Verdict:
    """What came in at the venue, and when, with what it allows."""
    compared: list[str] = []
    differences: list[str] = []
    for name, (limit, seconds) in allowed.items():
        moments = arrivals[name]
        most = most_in(moments, seconds)
        compared.append(f"{len(moments)} {name}, at most {most} of {limit} in any {seconds:g} s")
        if most > limit:
            differences.append(f"{name}: {most} came in within {seconds:g} s, and {limit} are allowed")
    return Verdict("; ".join(compared), tuple(differences))


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

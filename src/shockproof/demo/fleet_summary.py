"""What came of a session with several traders, in figures and in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shockproof.demo.book import Book
from shockproof.demo.fleet_board import FleetBoard
from shockproof.demo.reckoning import Reckoning, counts_in_words, number_in_words
from shockproof.demo.verdict import ErrorLines, LedgerVerdict, Verdict

__all__ = ["FleetSummary"]


@dataclass(frozen=True, slots=True)
class FleetSummary(Reckoning):
    """The figures of a whole session, over all lives of all traders."""

    traders: int
    calls: int
    failures_survived: int
    retries: int
    refused_by_open_circuits: int
    circuit_trips: int
    timeouts: int
    errors_logged: int
    records_dropped: int
    deaths: int
    losses: int
    hand_over: float | None
    """Seconds from the death of the owner until another one had the account."""
    pending_at_take_over: int
    unknown_outcomes: int
    settled_by_look_up: int
    settled_by_reconcile: int
    orders_doubled: int
    orders_lost: int
    worst_loop_lag_ms: float
    orders: dict[str, int]
    faults_injected: dict[str, int]

    @classmethod
    def make(
        cls,
        board: FleetBoard,
        book: Book,
        lines: ErrorLines,
        faults: Mapping[str, int],
        *,
        deaths: int,
        losses: int,
        hand_over: float | None,
        by_ledger: LedgerVerdict,
        by_limits: Verdict,
        by_log: Verdict,
    ) -> FleetSummary:
        return cls(
            seconds=round(board.elapsed, 1),
            verdicts=(by_ledger, by_limits, by_log),
            traders=len(board.members),
            calls=board.calls,
            failures_survived=board.sum_of("failures"),
            retries=board.sum_of("retries"),
            refused_by_open_circuits=board.sum_of("rejections"),
            circuit_trips=board.sum_of("circuit_trips"),
            timeouts=board.sum_of("timeouts"),
            errors_logged=lines.total,
            records_dropped=board.dropped,
            deaths=deaths,
            losses=losses,
            hand_over=None if hand_over is None else round(hand_over, 1),
            pending_at_take_over=board.pending_at_take_over,
            unknown_outcomes=len(board.outcomes),
            settled_by_look_up=board.settled("look-up"),
            settled_by_reconcile=board.settled("reconcile"),
            orders_doubled=by_ledger.doubled,
            orders_lost=by_ledger.lost,
            worst_loop_lag_ms=round(1000 * board.worst_lag, 1),
            orders=book.counts() | ({"pending": by_ledger.pending} if by_ledger.pending else {}),
            faults_injected=dict(sorted(faults.items())) | ({"kill": deaths} if deaths else {}),
        )

    def rows(self) -> list[tuple[str, str]]:
        """Name and text, one row per fact."""
        taken_over = "no owner died"
        if self.hand_over is not None:
            taken_over = (
                f"{self.hand_over:g} s after the SIGKILL, with "
                f"{number_in_words(self.pending_at_take_over, 'pending order')}"
            )
        elif self.deaths:
            taken_over = "by nobody"
        if self.losses:
            taken_over += f"; {self.losses} times it was lost, as the machine stood still"
        return [
            ("traders", f"{self.traders} lives, of one account"),
            ("taken over", taken_over),
            (
                "orders",
                f"{counts_in_words(self.orders)}; {self.orders_doubled} doubled, {self.orders_lost} lost",
            ),
            (
                "unknown outcomes",
                (
                    f"{self.unknown_outcomes}: {self.settled_by_look_up} settled by look-up, "
                    f"{self.settled_by_reconcile} by reconcile"
                ),
            ),
            ("calls", f"{self.calls}, of them {self.refused_by_open_circuits} refused by open circuits"),
            ("failures survived", f"{self.failures_survived}, {self.timeouts} of them timeouts"),
            ("circuit trips", str(self.circuit_trips)),
            ("errors logged", f"{self.errors_logged}, {self.records_dropped} dropped"),
            ("worst loop lag", f"{self.worst_loop_lag_ms:g} ms"),
            ("faults injected", counts_in_words(self.faults_injected)),
        ]

    def conclusion(self) -> str:
        """One sentence."""
        if not self.agrees:
            return "Something does not add up: see above."
        pending = self.orders.get("pending", 0)
        if pending:
            return f"Nothing contradicts the ledger; {number_in_words(pending, 'order')} would be reconciled at the next start."
        return "The venue's ledger and the traders' book agree, its rate limits were kept, and no error record is missing."

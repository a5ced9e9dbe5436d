"""What came of a session, in figures and in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shockproof.demo.book import Book
from shockproof.demo.reckoning import Reckoning, counts_in_words, number_in_words
from shockproof.demo.scoreboard import Scoreboard
from shockproof.demo.verdict import ErrorLines, LedgerVerdict, Verdict

__all__ = ["Summary"]


@dataclass(frozen=True, slots=True)
class Summary(Reckoning):
    """The figures of a whole session, over all lives of the trader."""

    calls: int
    """Attempts made, and calls refused by an open circuit."""
    failures_survived: int
    retries: int
    fallbacks: int
    refused_by_open_circuits: int
    circuit_trips: int
    timeouts: int
    errors_logged: int
    records_dropped: int
    deaths: int
    states_restored: int
    pending_at_restore: int
    unknown_outcomes: int
    settled_by_look_up: int
    settled_by_reconcile: int
    orders_doubled: int
    orders_lost: int
    worst_loop_lag_ms: float
    worst_loop_lag_while_disk_slow_ms: float
    disk_delays: int
    orders: dict[str, int]
    priced_by: dict[str, int]
    faults_injected: dict[str, int]

    @classmethod
    def make(
        cls,
        board: Scoreboard,
        book: Book,
        lines: ErrorLines,
        faults: Mapping[str, int],
        deaths: int,
        by_ledger: LedgerVerdict,
        by_log: Verdict,
    ) -> Summary:
        injected = dict(sorted(faults.items()))
        if board.total("disk_delays"):
            injected["slow_disk"] = board.total("disk_delays")
        if deaths:
            injected["kill"] = deaths
        return cls(
            seconds=round(board.elapsed, 1),
            calls=sum(row.calls for row in board.services().values()),
            failures_survived=board.sum_of("failures"),
            retries=board.sum_of("retries"),
            fallbacks=board.sum_of("fallbacks"),
            refused_by_open_circuits=board.sum_of("rejections"),
            circuit_trips=board.sum_of("circuit_trips"),
            timeouts=board.sum_of("timeouts"),
            errors_logged=lines.total,
            records_dropped=board.dropped,
            deaths=deaths,
            states_restored=len(board.restored),
            pending_at_restore=sum(line["pending"] for line in board.restored),
            unknown_outcomes=len(board.outcomes),
            settled_by_look_up=board.settled("look-up"),
            settled_by_reconcile=board.settled("reconcile"),
            orders_doubled=by_ledger.doubled,
            orders_lost=by_ledger.lost,
            worst_loop_lag_ms=round(1000 * board.worst_lag, 1),
            worst_loop_lag_while_disk_slow_ms=round(1000 * board.worst_lag_while_disk_slow, 1),
            disk_delays=board.total("disk_delays"),
            orders=book.counts() | ({"pending": by_ledger.pending} if by_ledger.pending else {}),
            priced_by=board.priced_by(),
            faults_injected=injected,
            verdicts=(by_ledger, by_log),
        )

    def rows(self) -> list[tuple[str, str]]:
        """Name and text, one row per fact."""
        lag = f"{self.worst_loop_lag_ms:g} ms"
        if self.disk_delays:
            lag += f"; {self.worst_loop_lag_while_disk_slow_ms:g} ms while {self.disk_delays} disk accesses were slow"
        restored = "not needed"
        if self.deaths:
            restored = (
                f"{self.states_restored} of {self.deaths} times after SIGKILL, with "
                f"{number_in_words(self.pending_at_restore, 'pending order')}"
            )
        return [
            ("calls", f"{self.calls}, of them {self.refused_by_open_circuits} refused by open circuits"),
            ("failures survived", f"{self.failures_survived}, {self.timeouts} of them timeouts"),
            ("retries", str(self.retries)),
            ("fallbacks", f"{self.fallbacks} answers; prices from {counts_in_words(self.priced_by)}"),
            ("circuit trips", str(self.circuit_trips)),
            (
                "orders",
                f"{counts_in_words(self.orders)}; {self.orders_doubled} doubled, {self.orders_lost} lost",
            ),
            ("unknown outcomes", self._unknown_outcomes()),
            ("errors logged", f"{self.errors_logged}, {self.records_dropped} dropped"),
            ("state restored", restored),
            ("worst loop lag", lag),
            ("faults injected", counts_in_words(self.faults_injected)),
        ]

    def _unknown_outcomes(self) -> str:
        if not self.unknown_outcomes:
            return "none"
        text = (
            f"{self.unknown_outcomes}: {self.settled_by_look_up} settled by look-up, "
            f"{self.settled_by_reconcile} by reconcile"
        )
        left = self.unknown_outcomes - self.settled_by_look_up - self.settled_by_reconcile
        return text + (f", {left} still unknown" if left else "")

    def conclusion(self) -> str:
        """One sentence."""
        if not self.agrees:
            return "Something does not add up: see above."
        pending = self.orders.get("pending", 0)
        if pending:
            return f"Nothing contradicts the ledger; {number_in_words(pending, 'order')} would be reconciled at the next start."
        return "The venue's ledger and the trader's book agree, and no error record is missing."

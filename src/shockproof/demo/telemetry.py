"""What the trader tells whoever watches it. Nothing here matters to trading, and nothing here waits."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING

from shockproof import CircuitClosed, CircuitHalfOpened, CircuitOpened, ErrorRecoveryService, Event
from shockproof.demo.book import Book
from shockproof.demo.latency import Latency
from shockproof.demo.loop_lag import LoopLag
from shockproof.demo.reports import Reports

if TYPE_CHECKING:
    from shockproof.demo.price_feed import PriceFeed
    from shockproof.demo.slow_disk import SlowDisk

__all__ = ["Telemetry"]

_BETWEEN_SNAPSHOTS = 0.25
_SHOWN_OF_AN_ERROR = ("timestamp", "service_name", "error_type", "error_message")


class Telemetry:
    """Snapshots four times a second, circuits as they change, and lines for people."""

    def __init__(self, recovery: ErrorRecoveryService, reports: Reports) -> None:
        self._recovery = recovery
        self._reports = reports
        self.latency = Latency()
        self.lag = LoopLag()
        self.priced_by: Counter[str] = Counter()
        """How often each source gave the price."""
        self.equity: float | None = None
        recovery.on_event(self._on_event)

    def tell(self, text: str) -> None:
        """A line for people."""
        self._reports.send("note", text=text)

    def outcome(self, order: str, how: str) -> None:
        """The outcome of an order is unknown, or was: how it was found out."""
        self._reports.send("outcome", order=order, how=how)

    def up(self, life: int, begun: float, book: Book, *, pending: int, restored: bool) -> None:
        """A life of the trader begins, with that many orders *pending* in the journal."""
        self._reports.send(
            "up",
            life=life,
            pid=os.getpid(),
            begun=begun,
            restored=restored,
            orders=len(book) + pending,
            pending=pending,
        )

    def ending(self) -> None:
        """Nothing new is begun."""
        self._reports.send("ending")

    def end(self, life: int, book: Book) -> None:
        """It ends, in order: this is exactly what it leaves behind."""
        log = self._recovery.get_health_status()["error_log"]
        self._reports.send("end", life=life, error_log=log, orders=book.counts())

    async def run(self, life: int, book: Book, feed: PriceFeed, disk: SlowDisk) -> None:
        """Send snapshots until cancelled, and the last one then."""
        try:
            while True:
                self._snapshot(life, book, feed, disk)
                await asyncio.sleep(_BETWEEN_SNAPSHOTS)
        finally:
            self._snapshot(life, book, feed, disk)

    def _snapshot(self, life: int, book: Book, feed: PriceFeed, disk: SlowDisk) -> None:
        health = self._recovery.get_health_status()
        errors = self._recovery.get_error_summary()["recent_errors"]
        self._reports.send(
            "snapshot",
            life=life,
            services=health["services"],
            error_log=health["error_log"],
            latency_ms=self.latency.median_ms(),
            lag=self.lag.take(),
            worst_lag=self.lag.worst,
            worst_lag_while_disk_slow=disk.worst_lag,
            orders=book.counts(),
            priced_by=dict(self.priced_by),
            ticks=feed.ticks,
            disk_delays=disk.delayed,
            equity=self.equity,
            shared=health["shared"],
            recent_errors=[{name: error[name] for name in _SHOWN_OF_AN_ERROR} for error in errors],
            reports_dropped=self._reports.dropped,
        )

    async def _on_event(self, event: Event) -> None:
        match event:
            case CircuitOpened():
                why = (event.last_error or "").partition(":")[0]
                self._reports.send(
                    "circuit", service=event.service_name, state="open", why=why, seconds=event.retry_after
                )
            case CircuitHalfOpened():
                self._reports.send("circuit", service=event.service_name, state="half-open")
            case CircuitClosed():
                self._reports.send("circuit", service=event.service_name, state="closed")
            case _:
                pass

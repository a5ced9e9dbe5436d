"""
What is known about the session: made from the trader's reports, read by the views and the summary.

A trader that is killed takes its counts with it; what it reported last is kept, and the next life's are
added to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shockproof.demo.verdict import Life

__all__ = ["Happening", "Scoreboard", "ServiceRow"]

COUNTS = ("successes", "failures", "retries", "fallbacks", "rejections", "circuit_trips", "timeouts")


@dataclass(slots=True)
class ServiceRow:
    """One service over all lives of the trader."""

    status: str = "operational"
    circuit: str = "closed"
    retry_after: float = 0.0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    @property
    def calls(self) -> int:
        """Attempts that were made, and calls that an open circuit refused."""
        return self.counts["successes"] + self.counts["failures"] + self.counts["rejections"]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something worth a line."""

    elapsed: float
    text: str
    tone: str = "plain"
    """``plain``, ``good``, ``bad``, or ``weather`` for what is done to the trader."""


class Scoreboard:
    """Told by `report` and `happened`; the rest is for reading."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.elapsed = 0.0
        self.phase = "starting the venue"
        self.weather: tuple[str, ...] = ()
        """The faults that are going on by the plan."""
        self.happenings: deque[Happening] = deque(maxlen=500)
        self.snapshot: dict[str, Any] = {}  # Any: the trader's JSON
        self.lag_history: deque[float] = deque(maxlen=120)
        self.errors: deque[dict[str, Any]] = deque(maxlen=50)  # Any: the trader's JSON
        """The last errors, oldest first."""
        self.lives: dict[int, Life] = {}
        self.restored: list[dict[str, Any]] = []  # Any: the trader's JSON
        self.outcomes: dict[str, str] = {}
        """Of each order whose outcome was ever unknown, how it was settled; or ``"unknown"``."""
        self.worst_lag = 0.0
        self.worst_lag_while_disk_slow = 0.0
        self._earlier: dict[str, dict[str, int]] = {}
        self._earlier_sums: dict[str, int] = {}
        self._earlier_priced_by: dict[str, int] = {}

    # -- telling -------------------------------------------------------------------------------------

    def happened(self, text: str, tone: str = "plain") -> Happening:
        happening = Happening(self.elapsed, text, tone)
        self.happenings.append(happening)
        return happening

    def report(self, line: Mapping[str, Any]) -> Happening | None:  # Any: the trader's JSON
        """One line from the trader; what it means for people, if anything."""
        match line.get("kind"):
            case "up":
                return self._up(line)
            case "snapshot":
                self._take(line)
            case "end":
                self.lives[line["life"]] = Life(line["life"], line["error_log"]["written"], was_killed=False)
            case "outcome":
                self.outcomes[line["order"]] = line["how"]
            case "circuit":
                return self._circuit(line)
            case "note":
                return self.happened(str(line["text"]))
            case _:
                pass
        return None

    def life_ended(self, *, was_killed: bool) -> None:
        """Nothing more comes from this life: keep its counts, the next one begins at zero."""
        if not self.snapshot:
            return
        number, written = self.snapshot["life"], self.snapshot["error_log"]["written"]
        if number not in self.lives or was_killed:
            self.lives[number] = Life(number, written, was_killed)
        for name, service in self.snapshot["services"].items():
            sums = self._earlier.setdefault(name, dict.fromkeys(COUNTS, 0))
            for count in COUNTS:
                sums[count] += service[count]
        for name in ("disk_delays", "ticks"):
            self._earlier_sums[name] = self._earlier_sums.get(name, 0) + self.snapshot[name]
        self._earlier_sums["dropped"] = self.dropped
        for name, count in self.snapshot["priced_by"].items():
            self._earlier_priced_by[name] = self._earlier_priced_by.get(name, 0) + count
        self.snapshot = self.snapshot | {
            "services": {
                name: service | dict.fromkeys(COUNTS, 0)
                for name, service in self.snapshot["services"].items()
            },
            **dict.fromkeys(("disk_delays", "ticks"), 0),
            "priced_by": {},
            "error_log": self.snapshot["error_log"] | {"written": 0, "queued": 0, "dropped": 0},
        }

    def _up(self, line: Mapping[str, Any]) -> Happening:  # Any: the trader's JSON
        if not line["restored"]:
            return self.happened("the trader is up, with nothing to restore", "good")
        self.restored.append(dict(line))
        return self.happened(
            f"the trader is up again, state restored: {line['orders']} orders, "
            f"{line['pending']} of them pending",
            "good",
        )

    def _circuit(self, line: Mapping[str, Any]) -> Happening:  # Any: the trader's JSON
        name = line["service"]
        if line["state"] == "open":
            # As restored after a kill it may be open without any time left.
            is_over = line["seconds"] < 0.05
            how = "is open, and the next call may try" if is_over else f"opened for {line['seconds']:.1f} s"
            return self.happened(f"circuit {name} {how} ({line['why']})", "bad")
        if line["state"] == "half-open":
            return self.happened(f"circuit {name} half-open: one call may try")
        return self.happened(f"circuit {name} closed again", "good")

    def _take(self, line: Mapping[str, Any]) -> None:  # Any: the trader's JSON
        self.snapshot = dict(line)
        self.lag_history.append(line["lag"])
        newest = self.errors[-1]["timestamp"] if self.errors else ""
        self.errors += [error for error in line["recent_errors"] if error["timestamp"] > newest]
        self.worst_lag = max(self.worst_lag, line["worst_lag"])
        self.worst_lag_while_disk_slow = max(
            self.worst_lag_while_disk_slow, line["worst_lag_while_disk_slow"]
        )

    # -- reading -------------------------------------------------------------------------------------

    def services(self) -> dict[str, ServiceRow]:
        """Every service ever seen, by name; counts over all lives."""
        now: Mapping[str, Any] = self.snapshot.get("services", {})  # Any: the trader's JSON
        rows: dict[str, ServiceRow] = {}
        for name in sorted({*now, *self._earlier}):
            row = rows[name] = ServiceRow()
            seen = now.get(name)
            if seen is not None:
                row.status, row.circuit = seen["status"], seen["circuit"]
                row.retry_after = seen["retry_after"]
            for count in COUNTS:
                row.counts[count] = self._earlier.get(name, {}).get(count, 0)
                row.counts[count] += 0 if seen is None else seen[count]
        return rows

    def sum_of(self, count: str) -> int:
        """One of the services' counts over all of them."""
        return sum(row.counts[count] for row in self.services().values())

    def total(self, name: str) -> int:
        """``disk_delays`` or ``ticks`` over all lives."""
        return self._earlier_sums.get(name, 0) + int(self.snapshot.get(name, 0))

    def settled(self, *ways: str) -> int:
        """How many orders of unknown outcome were settled, by these *ways*: ``look-up``, ``reconcile``."""
        return sum(how in ways for how in self.outcomes.values())

    @property
    def dropped(self) -> int:
        """Error records lost because the queue was full."""
        return self._earlier_sums.get("dropped", 0) + int(self.error_log.get("dropped", 0))

    @property
    def error_log(self) -> Mapping[str, Any]:  # Any: the trader's JSON
        log: Mapping[str, Any] = self.snapshot.get("error_log", {})  # Any: the trader's JSON
        return log

    @property
    def written(self) -> int:
        """Error records reported written, over all lives."""
        number = self.snapshot.get("life")
        earlier = sum(life.written for life in self.lives.values() if life.number != number)
        if number in self.lives:
            return earlier + self.lives[number].written
        return earlier + int(self.error_log.get("written", 0))

    def priced_by(self) -> dict[str, int]:
        """How often each source gave the price."""
        counts = dict(self._earlier_priced_by)
        for name, count in self.snapshot.get("priced_by", {}).items():
            counts[name] = counts.get(name, 0) + count
        return counts

    def orders(self) -> dict[str, int]:
        """Orders by state."""
        return dict(self.snapshot.get("orders", {}))

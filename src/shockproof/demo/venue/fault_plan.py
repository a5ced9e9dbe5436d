"""What will go wrong, and when: plain data, made from a seed, the same every time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["FAULT_LEVELS", "Endpoint", "FaultKind", "FaultPlan", "FaultWindow", "parse_faults"]


class Endpoint(StrEnum):
    """What a request is for; the fault plan filters by these names."""

    PING = "ping"
    EXCHANGE_INFO = "exchange_info"
    TICKER = "ticker"
    DEPTH = "depth"
    PLACE_ORDER = "order.place"
    CANCEL_ORDER = "order.cancel"
    QUERY_ORDER = "order.query"
    LIST_ORDERS = "orders.list"
    ACCOUNT = "account"
    STREAM = "stream"
    REFERENCE = "reference"
    """The second, independent source of rates."""


class FaultKind(StrEnum):
    """Each one is a different thing to survive."""

    LATENCY = "latency"
    """The answer is right, and slow, but within the client's timeout."""
    RATE_LIMIT = "rate_limit"
    """Every request in the window: 429 with Retry-After. Nothing is booked."""
    ERROR_BEFORE = "error_before"
    """502 or 503 before anything was booked."""
    ERROR_AFTER = "error_after"
    """503 or 504 although the order was booked."""
    CUT_BEFORE = "cut_before"
    """The connection is reset before anything was booked."""
    CUT_AFTER = "cut_after"
    """The connection is reset although the order was booked."""
    LATE = "late"
    """Booked, and answered only after the client's timeout."""
    BOOKED_LATER = "booked_later"
    """504 or a reset at once; the order is booked up to ``BOOKED_WITHIN`` seconds after that."""
    OUTAGE = "outage"
    """The whole exchange is away, streams included: connections are reset, then refused."""
    STREAM_CUT = "stream_cut"
    """Every open WebSocket is reset, once."""
    REFERENCE_OUTAGE = "reference_outage"
    """The second source answers 503."""
    SLOW_DISK = "slow_disk"
    """The trader's disk is slow: carried out by the trader."""
    KILL = "kill"
    """Behind that moment, whoever runs the trader kills it with its next order in flight, and starts it again."""

    @property
    def is_venues(self) -> bool:
        """Whether the venue carries it out; the others stand in the plan for the trader's side."""
        return self not in (FaultKind.SLOW_DISK, FaultKind.KILL)

    @property
    def may_book(self) -> bool:
        """Whether an order may be booked although its answer says nothing of it."""
        return self in (FaultKind.ERROR_AFTER, FaultKind.CUT_AFTER, FaultKind.LATE, FaultKind.BOOKED_LATER)


TRADING = frozenset(Endpoint) - {Endpoint.REFERENCE, Endpoint.STREAM}
ORDERS = frozenset({Endpoint.PLACE_ORDER, Endpoint.CANCEL_ORDER})

BOOKED_WITHIN = 0.25
"""Seconds after the answer within which a ``BOOKED_LATER`` order is in the book."""


@dataclass(frozen=True, slots=True)
class FaultWindow:
    """One stretch of bad weather. Times are seconds since the session began."""

    kind: FaultKind
    start: float
    end: float
    endpoints: frozenset[Endpoint]
    rate: float
    """Part of the requests that it hits, more than 0 and at most 1. The first one is always hit."""

    def is_active(self, elapsed: float) -> bool:
        return self.start <= elapsed < self.end

    def to_dict(self) -> dict[str, Any]:  # Any: a JSON object with values of several types
        return {
            "kind": self.kind.value,
            "start": self.start,
            "end": self.end,
            "endpoints": sorted(endpoint.value for endpoint in self.endpoints),
            "rate": self.rate,
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any]
    ) -> FaultWindow:  # Any: parsed JSON, checked by the conversions
        return cls(
            kind=FaultKind(data["kind"]),
            start=float(data["start"]),
            end=float(data["end"]),
            endpoints=frozenset(Endpoint(name) for name in data["endpoints"]),
            rate=float(data["rate"]),
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the timetable; times are parts of a cycle."""

    kind: FaultKind
    start: float
    end: float
    endpoints: frozenset[Endpoint]
    rate: float


# The shape of a session: quiet at both ends, faults before booking first, one long outage, then the
# answers that leave an order's outcome open, with the trader's death among them.
_TIMETABLE = (
    _Row(FaultKind.LATENCY, 0.08, 0.20, TRADING, 0.35),
    _Row(FaultKind.ERROR_BEFORE, 0.13, 0.22, TRADING, 0.35),
    _Row(FaultKind.RATE_LIMIT, 0.23, 0.27, TRADING, 1.0),
    _Row(FaultKind.STREAM_CUT, 0.28, 0.28, frozenset({Endpoint.STREAM}), 1.0),
    _Row(FaultKind.CUT_BEFORE, 0.28, 0.35, TRADING, 0.35),
    _Row(FaultKind.OUTAGE, 0.37, 0.53, TRADING | {Endpoint.STREAM}, 1.0),
    _Row(FaultKind.REFERENCE_OUTAGE, 0.45, 0.51, frozenset({Endpoint.REFERENCE}), 1.0),
    _Row(FaultKind.ERROR_AFTER, 0.56, 0.68, ORDERS, 0.45),
    _Row(FaultKind.SLOW_DISK, 0.58, 0.70, frozenset(), 1.0),
    _Row(FaultKind.KILL, 0.64, 0.64, frozenset(), 1.0),
    _Row(FaultKind.BOOKED_LATER, 0.60, 0.72, ORDERS, 0.25),
    _Row(FaultKind.CUT_AFTER, 0.64, 0.76, ORDERS, 0.45),
    _Row(FaultKind.LATE, 0.72, 0.82, ORDERS, 0.4),
)
_MORE_WHEN_HEAVY = (
    _Row(FaultKind.LATENCY, 0.28, 0.36, TRADING, 0.4),
    _Row(FaultKind.RATE_LIMIT, 0.57, 0.60, TRADING, 1.0),
    _Row(FaultKind.CUT_AFTER, 0.15, 0.25, ORDERS, 0.4),
    _Row(FaultKind.LATENCY, 0.60, 0.80, TRADING, 0.3),
    _Row(FaultKind.STREAM_CUT, 0.75, 0.75, frozenset({Endpoint.STREAM}), 1.0),
    _Row(FaultKind.ERROR_BEFORE, 0.76, 0.84, TRADING, 0.4),
)

FAULT_LEVELS: Mapping[str, frozenset[FaultKind]] = {
    "none": frozenset(),
    "light": frozenset(
        {
            FaultKind.LATENCY,
            FaultKind.ERROR_BEFORE,
            FaultKind.RATE_LIMIT,
            FaultKind.CUT_BEFORE,
            FaultKind.STREAM_CUT,
        }
    ),
    "normal": frozenset(FaultKind) - {FaultKind.BOOKED_LATER},
    "heavy": frozenset(FaultKind),
    "all": frozenset(FaultKind),
}
"""What each level contains. ``heavy`` is ``all`` with higher rates and more windows."""

_CYCLE = 60.0  # the longest stretch of one timetable: a longer session goes through it again
_SHORTEST_OUTAGE = 3.0  # seconds, unless that were half of the session
_LONGEST_OUTAGE = 10.0


def parse_faults(text: str) -> tuple[str, frozenset[FaultKind]]:
    """
    A level, or a list of kinds separated by commas, as given on a command line.

    Returns the level (``"custom"`` for a list) and the kinds. Raises ValueError that names the
    value and what is allowed.
    """
    name = text.strip().lower()
    if name in FAULT_LEVELS:
        return name, FAULT_LEVELS[name]
    kinds: set[FaultKind] = set()
    for part in name.split(","):
        try:
            kinds.add(FaultKind(part.strip()))
        except ValueError:
            raise ValueError(
                f"faults must be one of {', '.join(FAULT_LEVELS)}, or kinds separated by commas"
                f" ({', '.join(kind.value for kind in FaultKind)}); got {part.strip()!r}"
            ) from None
    return "custom", frozenset(kinds)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """
    All windows of a session.

    ``make`` builds it from a seed; the same arguments always give the same plan, so that the
    trader's side can build it too instead of asking the venue.
    """

    seed: int
    seconds: float
    client_timeout: float
    windows: tuple[FaultWindow, ...]

    @classmethod
    def make(
        cls, faults: str = "normal", *, seconds: float = 30.0, seed: int = 1, client_timeout: float = 2.0
    ) -> FaultPlan:
        """
        A plan for a session.

        Args:
            faults: a level (``none``, ``light``, ``normal``, ``heavy``, ``all``) or kinds separated by commas.
            seconds: length of the session, more than 0. Beyond a minute the timetable repeats.
            seed: moves the windows a little, and decides which requests they hit.
            client_timeout: seconds after which the client gives up; slow answers stay below, late ones go beyond.

        Raises:
            ValueError: for an unknown kind, or a number out of range.
        """
        level, kinds = parse_faults(faults)
        for name, value in (("seconds", seconds), ("client_timeout", client_timeout)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a number of seconds greater than 0, got {value!r}")
        rows = [row for row in _TIMETABLE if row.kind in kinds]
        if level == "heavy":
            rows += _MORE_WHEN_HEAVY
        cycles = max(1, round(seconds / _CYCLE))
        windows = sorted(
            cls._windows(rows, seconds / cycles, cycles, seed, 1.6 if level == "heavy" else 1.0),
            key=lambda window: (window.start, window.kind.value),
        )
        return cls(seed=seed, seconds=seconds, client_timeout=client_timeout, windows=tuple(windows))

    @staticmethod
    def _windows(
        rows: list[_Row], length: float, cycles: int, seed: int, severity: float
    ) -> Iterator[FaultWindow]:
        for cycle in range(cycles):
            for number, row in enumerate(rows):
                if row.kind is FaultKind.KILL and cycle != cycles // 2:
                    continue  # one death, in the middle of the session
                rng = random.Random(f"{seed}/{cycle}/{number}/{row.kind.value}")
                start = (cycle + row.start + rng.uniform(-0.01, 0.01)) * length
                duration = (row.end - row.start) * length
                if row.kind is FaultKind.OUTAGE:
                    # It grows and shrinks at its beginning: what comes after it needs its own time.
                    end = start + duration
                    duration = min(max(duration, _SHORTEST_OUTAGE), _LONGEST_OUTAGE, 0.45 * length)
                    start = end - duration
                rate = (
                    row.rate if row.rate == 1.0 else min(0.9, row.rate * severity * rng.uniform(0.85, 1.15))
                )
                yield FaultWindow(
                    row.kind, round(start, 3), round(start + duration, 3), row.endpoints, round(rate, 3)
                )

    def active(self, elapsed: float) -> tuple[FaultWindow, ...]:
        """The windows in force at that moment."""
        return tuple(window for window in self.windows if window.is_active(elapsed))

    def of_kind(self, kind: FaultKind) -> tuple[FaultWindow, ...]:
        """All windows of that kind, in the order of time."""
        return tuple(window for window in self.windows if window.kind is kind)

    def to_dict(self) -> dict[str, Any]:  # Any: a JSON object with values of several types
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "client_timeout": self.client_timeout,
            "windows": [window.to_dict() for window in self.windows],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FaultPlan:  # Any: parsed JSON, checked by the conversions
        return cls(
            seed=int(data["seed"]),
            seconds=float(data["seconds"]),
            client_timeout=float(data["client_timeout"]),
            windows=tuple(FaultWindow.from_dict(window) for window in data["windows"]),
        )

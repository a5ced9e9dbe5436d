"""Records of the error log, counted for pictures: over time, by what they are about, the most frequent ones."""

from __future__ import annotations

import re
from collections import Counter, deque
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from shockproof.memory.error_log.folding import times
from shockproof.vocabulary.statuses import ErrorSeverity

if TYPE_CHECKING:
    from shockproof.vocabulary.models import ErrorRecord

__all__ = ["SEVERITIES", "ErrorCounts", "Repeated", "Timeline"]

SEVERITIES: Final = tuple(severity.value for severity in ErrorSeverity)
"""The least severe first."""

_WIDTHS: Final = (1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 86_400, 604_800)
"""Seconds that a bar of a picture may stand for."""
_MOST_CELLS: Final = 100_000
_MOST_DIFFERENT: Final = 5_000
_NUMBERS: Final = re.compile(r"\d+(?:[.,:]\d+)*|\b[0-9a-f]{8,}\b")


class Repeated(NamedTuple):
    """Errors that say the same, but for numbers."""

    service_name: str
    error_type: str
    message: str
    """Of the last one."""
    times: int
    last: datetime


class Timeline(NamedTuple):
    """Counts over time, in steps of the same length."""

    begin: float
    """Wall time, seconds since 1970 UTC."""
    step: int
    """Seconds."""
    by_severity: dict[str, list[int]]
    by_service: dict[str, list[int]]
    """The services with the most errors first."""


class ErrorCounts:
    """
    Counts what it is told; takes memory in the order of what is different, and not of what there is.

    ``latest`` is how many of the last records are kept as they are.
    """

    def __init__(self, latest: int = 50) -> None:
        self.is_whole = True
        """Whether all that was to be counted could be read; for whoever reads to say."""
        self.total = 0
        self.by_severity: Counter[str] = Counter()
        self.by_service: Counter[str] = Counter()
        self.by_type: Counter[str] = Counter()
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.latest: deque[ErrorRecord] = deque(maxlen=latest)
        self._cells: Counter[tuple[int, str, str]] = Counter()
        self._cell = _WIDTHS[0]
        self._repeated: dict[tuple[str, str, str], Repeated] = {}

    def add(self, record: ErrorRecord) -> None:
        """Count one more, or as many as it stands for; in any order of time."""
        severity = record.severity.value
        number = times(record)
        self.total += number
        self.by_severity[severity] += number
        self.by_service[record.service_name] += number
        self.by_type[record.error_type] += number
        self.first = record.timestamp if self.first is None else min(self.first, record.timestamp)
        self.last = record.timestamp if self.last is None else max(self.last, record.timestamp)
        self.latest.append(record)
        self._cells[int(record.timestamp.timestamp() // self._cell), severity, record.service_name] += number
        if len(self._cells) > _MOST_CELLS and self._cell != _WIDTHS[-1]:
            self._coarsen()
        self._repeat(record, number)

    def _coarsen(self) -> None:
        before, self._cell = (
            self._cell,
            next(width for width in _WIDTHS if width > self._cell and width % self._cell == 0),
        )
        cells: Counter[tuple[int, str, str]] = Counter()
        for (at, severity, service), count in self._cells.items():
            cells[at * before // self._cell, severity, service] += count
        self._cells = cells

    def _repeat(self, record: ErrorRecord, number: int) -> None:
        key = record.service_name, record.error_type, _NUMBERS.sub("#", record.error_message)
        known = self._repeated.get(key)
        if known is None and len(self._repeated) >= _MOST_DIFFERENT:
            return
        self._repeated[key] = Repeated(
            record.service_name,
            record.error_type,
            record.error_message,
            number if known is None else known.times + number,
            record.timestamp if known is None else max(known.last, record.timestamp),
        )

    def most_repeated(self, at_most: int) -> list[Repeated]:
        """What was said most often, the most frequent first."""
        return sorted(self._repeated.values(), key=lambda one: (-one.times, one.service_name, one.message))[
            :at_most
        ]

    def timeline(
        self, *, since: datetime | None = None, until: datetime | None = None, at_most: int = 60
    ) -> Timeline | None:
        """
        Everything over time, in at most so many steps; None when there is nothing.

        It goes from *since* to *until*, or from the first to the last error.
        """
        if self.first is None or self.last is None:
            return None
        begin = (self.first if since is None else min(since, self.first)).timestamp()
        end = (self.last if until is None else max(until, self.last)).timestamp()
        step = next(
            (width for width in _WIDTHS if width % self._cell == 0 and (end - begin) / width < at_most - 1),
            _WIDTHS[-1],
        )
        first = int(begin // step)
        length = int(end // step) - first + 1
        services = [name for name, _ in self.by_service.most_common()]
        timeline = Timeline(
            float(first * step),
            step,
            {severity: [0] * length for severity in SEVERITIES},
            {service: [0] * length for service in services},
        )
        for (at, severity, service), count in self._cells.items():
            place = at * self._cell // step - first
            timeline.by_severity[severity][place] += count
            timeline.by_service[service][place] += count
        return timeline

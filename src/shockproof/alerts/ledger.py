"""
What one target was told, and so what it has to be told next. No I/O, time handed in.

It compares what is open with what was told, instead of keeping messages: what could not be delivered is
due again as long as it is true, and what began and ended meanwhile is not told at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from shockproof.alerts.incident import SEVERITIES, Incident, Kind, Notice

__all__ = ["Ledger"]

_MINUTE: Final = 60.0


class Ledger:
    """
    The books of one target.

    Args:
        source: which program tells.
        max_per_minute: most notices in any 60 seconds, at least 1.
    """

    def __init__(self, *, source: str, max_per_minute: int) -> None:
        self._source = source
        self._max_per_minute = max_per_minute
        self._told: dict[str, Incident] = {}
        """Incidents whose beginning was told, or may have been: an attempt that failed may have arrived."""
        self._is_certain: set[str] = set()
        """Those of them whose beginning was taken."""
        self._sent_at: deque[float] = deque()

    def due(self, incidents: Mapping[str, Incident], now: float, wall: float) -> list[Notice]:
        """
        What to tell at *now* (monotonic seconds), the worst first, as much as the limit allows; the last of them says
        how many wait.

        *incidents* are those that are open, by key; *wall* is the wall time of the notices.
        """
        for key in [key for key in self._told if key not in incidents and not self._told[key].resolves]:
            self._forget(key)
        while self._sent_at and now - self._sent_at[0] >= _MINUTE:
            self._sent_at.popleft()
        untold = self.untold(incidents, now, wall)
        due = untold[: max(0, self._max_per_minute - len(self._sent_at))]
        if due:
            due[-1] = replace(due[-1], waiting=len(untold) - len(due))
        return due

    def untold(self, incidents: Mapping[str, Incident], now: float, wall: float) -> list[Notice]:
        """The same without the limit."""
        opened = [one for key, one in incidents.items() if key not in self._is_certain]
        opened.sort(key=lambda one: (SEVERITIES.index(one.severity), one.opened_at))
        over = [one for key, one in self._told.items() if key not in incidents and one.resolves]
        return [
            *(self._notice("opened", one, now, wall) for one in opened),
            *(self._notice("resolved", one, now, wall) for one in over),
        ]

    def sending(self, notices: Sequence[Notice], now: float) -> None:
        """*notices*, which were due, are about to be sent at *now*."""
        for notice in notices:
            self._sent_at.append(now)
            if notice.kind == "opened":
                self._told.setdefault(notice.incident.key, notice.incident)

    def delivered(self, notices: Sequence[Notice]) -> None:
        """The target took *notices*."""
        for notice in notices:
            key = notice.incident.key
            if notice.kind == "opened":
                self._is_certain.add(key)
            else:
                self._forget(key)

    def _notice(self, kind: Kind, incident: Incident, now: float, wall: float) -> Notice:
        return Notice(kind=kind, incident=incident, source=self._source, at=wall, lasted=now - incident.began)

    def _forget(self, key: str) -> None:
        self._told.pop(key, None)
        self._is_certain.discard(key)

"""
How often something happened, by the type of the error it happened with.
"""

from __future__ import annotations

from typing import Final

from shockproof.vocabulary.shared_lock import shared_lock

__all__ = ["MOST_TYPES", "NOT_COUNTED", "OTHER_TYPES", "CountsByType"]

_NOTHING: Final = dict[str, int]()
"""Nobody writes to it: the counts of all that have none."""

MOST_TYPES: Final = 50
"""Types that are told apart: a program that makes classes as it runs must not fill memory or a metrics store."""

OTHER_TYPES: Final = "other"
"""What stands for all types beyond them."""


class CountsByType:
    """Counts for each name of a type, at most `MOST_TYPES` of them; safe to share between threads."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = _NOTHING  # most services never fail

    def add(self, type_name: str) -> None:
        """It happened once more."""
        counts = self._counts
        try:
            counts[type_name] += 1  # no call stands between its load and its store: see `ServiceState`
        except KeyError:
            self._add_first(type_name)

    def _add_first(self, type_name: str) -> None:
        with _lock:
            if self._counts is _NOTHING:
                self._counts = {}
            counts = self._counts
            if type_name not in counts and len(counts) >= MOST_TYPES:
                type_name = OTHER_TYPES
            counts[type_name] = counts.get(type_name, 0) + 1

    def to_dict(self) -> dict[str, int]:
        """The counts so far, by type, in the order of first sight."""
        with _lock:
            return dict(self._counts)

    def __repr__(self) -> str:
        return f"<CountsByType {self.to_dict()}>"


_lock: Final = shared_lock()
NOT_COUNTED: Final = CountsByType()
"""Nobody adds to it: what all services have that have never failed."""

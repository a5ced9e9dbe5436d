"""
Who belongs to something, for as long as they live; safe to ask while other threads join.
"""

from __future__ import annotations

import threading
from typing import Final, Generic, TypeVar
from weakref import ref

__all__ = ["Members"]

T = TypeVar("T")

_FIRST_ROOM: Final = 64


class Members(Generic[T]):
    """Weak references with a lock: a weak set may not be iterated while another thread adds to it, and is twice as large."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: list[ref[T]] = []
        self._room = _FIRST_ROOM

    def add(self, member: T) -> None:
        """Belong to it from now on."""
        with self._lock:
            self._members.append(ref(member))
            if len(self._members) > self._room:
                self._members = [one for one in self._members if one() is not None]
                self._room = max(_FIRST_ROOM, 2 * len(self._members))

    def all(self) -> list[T]:
        """Those who live now."""
        with self._lock:
            return [member for one in self._members if (member := one()) is not None]

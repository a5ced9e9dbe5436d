"""
Who belongs to something, for as long as they live; safe to ask while other threads join.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar
from weakref import WeakSet

__all__ = ["Members"]

T = TypeVar("T")


class Members(Generic[T]):
    """A weak set with a lock: a plain one may not be iterated while another thread adds to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: WeakSet[T] = WeakSet()

    def add(self, member: T) -> None:
        """Belong to it from now on."""
        with self._lock:
            self._members.add(member)

    def all(self) -> list[T]:
        """Those who live now."""
        with self._lock:
            return list(self._members)

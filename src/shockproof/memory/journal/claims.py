"""
Who of this process runs or sends what: known at once and in every thread, whatever the disk does.
"""

from __future__ import annotations

import threading
import weakref

from shockproof.memory.journal.name import Name

__all__ = ["Claims"]


class Claims:
    """One holder for each name. Whoever is forgotten holds nothing any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held for a look at the dictionary, and never across anything that waits."""
        self._holders: weakref.WeakValueDictionary[Name, object] = weakref.WeakValueDictionary()

    def take(self, name: Name, holder: object, *, instead_of: object = None) -> object | None:
        """Let *holder* hold *name*; or, if somebody else than *instead_of* does so, tell who it is."""
        with self._lock:
            current = self._holders.get(name)
            if current is None or current is holder or current is instead_of:
                self._holders[name] = holder
                return None
            return current

    def holder_of(self, name: Name) -> object | None:
        """Who holds it."""
        return self._holders.get(name)

    def give_back(self, name: Name, holder: object) -> bool:
        """Let go of *name*; whether *holder* held it."""
        with self._lock:
            if self._holders.get(name) is not holder:
                return False
            del self._holders[name]
            return True

    def names(self) -> list[Name]:
        """What is held."""
        with self._lock:
            return list(self._holders)

    def __len__(self) -> int:
        return len(self._holders)

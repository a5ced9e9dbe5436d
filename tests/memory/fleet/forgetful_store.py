"""A store whose server is started again, with all that it had, or with what it had written down long before."""

from __future__ import annotations

from shockproof import MemoryStore, StoreEntry
from shockproof.testing import VirtualClock


class Forgetful(MemoryStore):
    """Whoever watches it while it is started again has to be cut off by the test."""

    def __init__(self, clock: VirtualClock, starts: int = 0) -> None:
        super().__init__(clock=clock)
        self.starts = starts
        self._snapshot: list[StoreEntry] = []

    async def era(self) -> str:
        return f"start {self.starts}"

    async def writes_down(self) -> None:
        """All but what expires: when it is read again that is over."""
        self._snapshot = [entry for entry in await self.entries("") if not entry.key.startswith("lease/")]

    async def starts_again(self, *, with_everything: bool = False) -> None:
        self.starts += 1
        if not with_everything:
            for entry in await self.entries(""):
                await self.delete(entry.key)
            for entry in self._snapshot:
                await self.put(entry.key, entry.value)

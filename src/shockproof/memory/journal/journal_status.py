"""
How the journal is doing; for the health.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

__all__ = ["UNOPENED", "JournalStatus"]


class JournalStatus(NamedTuple):
    """How the journal is doing."""

    state: Literal["closed", "open", "locked", "no space", "failed"]
    """Locked: another process had it when it was last asked for."""
    pending: int
    """Operations that began and did not end; of a journal that is not open, as it was when it was last read."""
    last_error: str | None
    incomplete: str | None = None
    """What of it is known to be missing, as long as nobody has said that it does not matter; None: nothing."""
    owned_elsewhere: str | None = None
    """Why a key that it does not know may have been sent although nothing is missing; None: it cannot. It is no trouble."""


UNOPENED: Final = JournalStatus("closed", 0, None)
"""Of one that nobody has used in this process."""

"""
What reduces risk goes on without the journal: a disk that is full, broken or hung keeps nobody from closing a position.
"""

from __future__ import annotations

from typing import Final

from shockproof.vocabulary.errors import JournalLockedError, JournalUnavailableError, StateVersionError

__all__ = ["NO_JOURNAL", "PATIENCE"]

PATIENCE: Final = 1.0
"""Seconds that it waits for a disk that does not answer."""

NO_JOURNAL: Final = (JournalUnavailableError, JournalLockedError, StateVersionError, TimeoutError)
"""Why it goes on without; the last one is an end of patience."""

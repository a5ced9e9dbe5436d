"""Reading an error log that may be long, with a progress bar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from shockproof.command_line.progress import Advance
from shockproof.memory.error_log.error_reading import ErrorReading

if TYPE_CHECKING:
    from shockproof.vocabulary.models import ErrorRecord

__all__ = ["nothing_first", "with_progress"]

_EVERY: Final = 500


async def with_progress(reading: ErrorReading, advance: Advance) -> AsyncIterator[ErrorRecord]:
    """The records of *reading*, while the bar is told how far it is."""
    number = 0
    async for record in reading:
        number += 1
        if number % _EVERY == 0:
            advance(reading.bytes_read, reading.bytes_to_read)
        yield record


async def nothing_first() -> None:
    """Nothing of this process has to be written before the log is read."""

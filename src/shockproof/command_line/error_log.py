"""The error log as commands read it: what could not be read is said, and a service that is nowhere in it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shockproof.command_line.outcome import ExitCode
from shockproof.command_line.progress import progress
from shockproof.command_line.reading import nothing_first, with_progress
from shockproof.memory.disk.writer import writer_for
from shockproof.memory.error_log.error_reading import ErrorReading, Wanted

__all__ = ["ended", "reading_of", "unread"]


def reading_of(given: argparse.Namespace, wanted: Wanted) -> ErrorReading:
    """What is *wanted* of the log that was given."""
    return ErrorReading(given.error_log_dir, wanted, writer_for(given.error_log_dir), first=nothing_first)


def _not_read(reading: ErrorReading) -> list[str]:
    said = []
    if reading.skipped:
        said.append(f"{reading.skipped} lines are no records: torn by a crash, or somebody else's")
    if reading.damaged:
        said.append(unread(reading.damaged))
    return said


def unread(files: Sequence[Path]) -> str:
    """That these could not be read, or not to their end."""
    return f"could not be read to the end, damaged or forbidden: {', '.join(file.name for file in files)}"


async def ended(
    given: argparse.Namespace, reading: ErrorReading, *, found: bool
) -> tuple[list[str], ExitCode]:
    """
    What has to be said of a reading that is over, and the exit code.

    Where nothing was *found* of the service that was asked for, and no file is of it at all, that is told with those that there
    are: a name is mistyped easily.
    """
    code = ExitCode.WRONG if reading.damaged else ExitCode.FINE
    if given.service is None or found:
        return _not_read(reading), code
    names: set[str] = set()
    everything = reading_of(given, Wanted(since=None, until=None, service_name=None, min_severity=None))
    with progress("reading") as advance:
        async for record in with_progress(everything, advance):
            names.add(record.service_name)
    if given.service in names:
        return _not_read(reading), code
    there = ", ".join(sorted(names)) or "none"
    nowhere = f"no record in {given.error_log_dir} is of service {given.service!r}; there are: {there}"
    # It may be in what cannot be read.
    return [*_not_read(everything), nowhere], ExitCode.WRONG if everything.damaged else ExitCode.NOT_THERE

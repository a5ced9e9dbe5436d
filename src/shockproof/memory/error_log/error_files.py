"""
The names of the error log's files: one day each, perhaps in parts, perhaps compressed.

``errors_20261125.jsonl`` comes first, then the parts ``errors_20261125_1.jsonl``, ``_2``, ...; a
closed day may be ``errors_20261125.jsonl.gz``. Nothing else in a directory is ours.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["ErrorFile", "day_in", "error_files", "file_name", "is_packed_copy", "parse_name"]

_NAME: Final = re.compile(r"errors_([0-9]{4})([0-9]{2})([0-9]{2})(?:_([1-9][0-9]{0,8}))?\.jsonl(\.gz)?")
_EPOCH: Final = date(1970, 1, 1)
_LAST_DAY: Final = (date.max - _EPOCH).days


class ErrorFile(NamedTuple):
    """One file of the log; in sorted order they are in the order of writing."""

    day: date
    part: int
    """0 for the first file of the day, which has no number in its name."""
    is_plain: bool
    """False when it is compressed."""
    path: Path
    size: int


def file_name(day: date, part: int = 0) -> str:
    """The name of a day's file, or of one of its parts."""
    number = f"_{part}" if part else ""
    return f"errors_{day.year:04}{day.month:02}{day.day:02}{number}.jsonl"


def parse_name(name: str) -> tuple[date, int, bool] | None:
    """Day, part and whether it is plain; None for a name that is not ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    year, month, day, part, compressed = found.groups()
    try:
        return date(int(year), int(month), int(day)), int(part or 0), compressed is None
    except ValueError:
        return None


def error_files(
    directory: Path, *, first: date | None = None, last: date | None = None, follow_links: bool = True
) -> list[ErrorFile]:
    """
    Our regular files in a directory, in order; of all days, or of those from ``first`` to ``last``.

    Reads the directory, so not for an event loop. A directory that is not there is empty.
    """
    found: list[ErrorFile] = []
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return found
    for entry in entries:
        parsed = parse_name(entry.name)
        if parsed is None:
            continue
        day, part, is_plain = parsed
        if (first is not None and day < first) or (last is not None and day > last):
            continue
        try:
            status = entry.stat(follow_symlinks=follow_links)
        except OSError:  # gone meanwhile, or a link to nowhere
            continue
        if stat.S_ISREG(status.st_mode):
            found.append(ErrorFile(day, part, is_plain, directory / entry.name, status.st_size))
    return sorted(found)


def is_packed_copy(packed: Path, size: int, checksum: int) -> bool:
    """Whether a ``.gz`` file ends in what has this size and CRC-32: its last member's own words."""
    try:
        with packed.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            return file.read(8) == checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")
    except OSError:
        return False


def day_in(zone: tzinfo | None) -> Callable[[float], date]:
    """
    A function from wall seconds to the day whose file the record belongs to.

    The day is UTC's, or the zone's: then decided by the calendar, never by adding 86,400 seconds, so
    that days of 23, 24.5 or 25 hours come out right.
    """
    if zone is None:

        def day_of(timestamp: float) -> date:
            try:
                number = int(timestamp // 86_400)
            except (OverflowError, ValueError):  # infinite, or not a number
                number = 0 if math.isnan(timestamp) or timestamp < 0 else _LAST_DAY
            return _EPOCH + timedelta(days=min(max(number, 0), _LAST_DAY))

        return day_of

    def day_there(timestamp: float) -> date:
        try:
            return datetime.fromtimestamp(timestamp, UTC).astimezone(zone).date()
        except (OverflowError, ValueError, OSError):
            return _EPOCH

    return day_there

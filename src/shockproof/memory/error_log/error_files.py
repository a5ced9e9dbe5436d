"""
The names of the error log's files: one day each, perhaps in parts, perhaps compressed.

``errors_20261125.jsonl`` comes first, then the parts ``errors_20261125_1.jsonl``, ``_2``, ...; a
closed day may be ``errors_20261125.jsonl.gz``. Nothing else in a directory is ours.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Final, NamedTuple

from shockproof.memory.disk.file_layer import SYSTEM_FILES, FileLayer

__all__ = ["ErrorFile", "PackedBefore", "day_in", "error_files", "file_name", "parse_name"]

_NAME: Final = r"errors_([0-9]{4})([0-9]{2})([0-9]{2})(?:_([1-9][0-9]{0,8}))?\.jsonl(\.gz)?"
_EPOCH: Final = date(1970, 1, 1)
_MOST_KNOWN: Final = 64
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
    found = re.fullmatch(_NAME, name)
    if found is None:
        return None
    year, month, day, part, compressed = found.groups()
    try:
        return date(int(year), int(month), int(day)), int(part or 0), compressed is None
    except ValueError:
        return None


def error_files(
    directory: Path,
    *,
    first: date | None = None,
    last: date | None = None,
    follow_links: bool = True,
    layer: FileLayer = SYSTEM_FILES,
) -> list[ErrorFile]:
    """
    Our regular files in a directory, in order; of all days, or of those from ``first`` to ``last``.

    Reads the directory, so not for an event loop. A directory that is not there is empty.
    """
    found: list[ErrorFile] = []
    try:
        names = layer.list_directory(directory)
    except FileNotFoundError:
        return found
    for name in names:
        parsed = parse_name(name)
        if parsed is None:
            continue
        day, part, is_plain = parsed
        if (first is not None and day < first) or (last is not None and day > last):
            continue
        try:
            size = layer.stamp(directory / name, follow_links=follow_links).size
        except OSError:  # no file, gone meanwhile, or a link to nowhere
            continue
        found.append(ErrorFile(day, part, is_plain, directory / name, size))
    return sorted(found)


class PackedBefore:
    """
    How much of a plain file, from its beginning, is what a ``.gz`` file ends in: a crash came between compressing and deleting.

    The last member's own words tell: its CRC-32, and its size modulo 4 GiB. *blocks* of the plain file are taken one after the other.
    """

    def __init__(self, packed: Path, layer: FileLayer = SYSTEM_FILES) -> None:
        self.bytes = 0
        """So much of the plain file is in the compressed one."""
        self.size = 0
        """Of the plain file, so far."""
        self._checksum = 0
        self._member: tuple[int, int] | None = None
        with contextlib.suppress(OSError), layer.open_to_read(packed) as file:
            file.seek(-8, os.SEEK_END)
            words = file.read(8)
            self._member = int.from_bytes(words[:4], "little"), int.from_bytes(words[4:], "little")

    @property
    def is_possible(self) -> bool:
        """Whether there is a compressed file at all."""
        return self._member is not None

    def take(self, block: bytes) -> None:
        """The next piece of the plain file."""
        if self._member is not None:
            checksum, size = self._member
            rest = (size - self.size - 1) % 2**32 + 1
            if rest <= len(block) and zlib.crc32(block[:rest], self._checksum) == checksum:
                self.bytes = self.size + rest
            self._checksum = zlib.crc32(block, self._checksum)
        self.size += len(block)


def day_in(zone: tzinfo | None) -> Callable[[float], date]:
    """
    A function from wall seconds to the day whose file the record belongs to.

    The day is UTC's, or the zone's: then decided by the calendar, never by adding 86,400 seconds, so
    that days of 23, 24.5 or 25 hours come out right.
    """
    if zone is None:
        known: dict[int, date] = {}

        def day_of(timestamp: float) -> date:
            try:
                number = int(timestamp // 86_400)
            except (OverflowError, ValueError):  # infinite, or not a number
                number = 0 if math.isnan(timestamp) or timestamp < 0 else _LAST_DAY
            day = known.get(number)
            if day is None:
                if len(known) >= _MOST_KNOWN:
                    known.clear()
                day = known[number] = _EPOCH + timedelta(days=min(max(number, 0), _LAST_DAY))
            return day

        return day_of

    def day_there(timestamp: float) -> date:
        try:
            return datetime.fromtimestamp(timestamp, UTC).astimezone(zone).date()
        except (OverflowError, ValueError, OSError):
            return _EPOCH

    return day_there

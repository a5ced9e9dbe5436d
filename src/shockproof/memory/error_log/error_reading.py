"""Reading the error log back: all files, torn lines skipped, never in the way of the loop."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from shockproof.memory.disk import writer as background
from shockproof.memory.disk.file_layer import SYSTEM_FILES, FileLayer
from shockproof.memory.disk.pacing import Pace
from shockproof.memory.disk.writer import Writer
from shockproof.memory.error_log.error_files import ErrorFile, PackedBefore, error_files
from shockproof.vocabulary.statuses import ErrorSeverity

if TYPE_CHECKING:
    from shockproof.vocabulary.models import ErrorRecord

__all__ = ["ErrorReading", "Wanted", "lines_of", "record_in"]

_LINES_PER_SLICE: Final = 200
_LONGEST_LINE: Final = 4 * 2**20
_BLOCK: Final = 256 * 1024
# A file's day may be UTC's, a zone's, or the local one of the original program.
_DAY: Final = timedelta(days=1)


class Wanted(NamedTuple):
    """Which records somebody asked for."""

    since: float | None
    """Wall seconds, inclusive."""
    until: float | None
    """Wall seconds, exclusive."""
    service_name: str | None
    min_severity: ErrorSeverity | None

    @classmethod
    def of(
        cls,
        *,
        since: datetime | float | None,
        until: datetime | float | None,
        service_name: str | None,
        min_severity: ErrorSeverity | None,
    ) -> Self:
        """From a user's arguments: a naive datetime is local time."""
        return cls(_seconds(since), _seconds(until), service_name, min_severity)

    def files(self, directory: Path, layer: FileLayer = SYSTEM_FILES) -> list[ErrorFile]:
        """The files that can hold such records."""
        first = None if self.since is None else datetime.fromtimestamp(self.since, UTC).date() - _DAY
        last = None if self.until is None else datetime.fromtimestamp(self.until, UTC).date() + _DAY
        return error_files(directory, first=first, last=last, layer=layer)

    def includes(self, record: ErrorRecord) -> bool:
        """Whether the record is one of them."""
        if self.service_name is not None and record.service_name != self.service_name:
            return False
        if self.min_severity is not None and record.severity.rank < self.min_severity.rank:
            return False
        if self.since is None and self.until is None:
            return True
        moment = record.timestamp.timestamp()
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)


class ErrorReading(AsyncIterator["ErrorRecord"]):
    """An async iterator over records; `aclose` it, or leave it, when it is not read to the end."""

    def __init__(
        self,
        directory: Path,
        wanted: Wanted,
        writer: Writer,
        *,
        first: Callable[[], Awaitable[object]],
        layer: FileLayer = SYSTEM_FILES,
    ) -> None:
        self.skipped = 0
        """Lines so far that are no records: torn by a crash, or somebody else's."""
        self.damaged: list[Path] = []
        """Files so far that could not be read, or not to their end; what was read of them is there."""
        self.bytes_to_read = 0
        """The size of all files that are looked at; 0 before the first record."""
        self.bytes_read = 0
        """So far; a compressed file counts when it is done."""
        self._first: Callable[[], Awaitable[object]] | None = first
        self._directory = directory
        self._writer = writer
        self._layer = layer
        self._slices = self._read(directory, wanted)
        self._ready: list[ErrorRecord] = []  # last first
        self._is_over = False

    def __repr__(self) -> str:
        return f"<ErrorReading of {str(self._directory)!r}, {self.skipped} lines skipped, {len(self.damaged)} files damaged>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ErrorRecord:
        if self._first is not None:
            first, self._first = self._first, None
            await first()
        while not self._ready:
            if self._is_over:
                raise StopAsyncIteration
            found = await self._writer.run(partial(next, self._slices, None))
            if found is None:
                self._is_over = True
            else:
                self._ready = found[::-1]
        return self._ready.pop()

    async def aclose(self) -> None:
        """Stop reading and close the file that is open."""
        self._is_over = True
        self._ready = []
        await self._writer.run(self._slices.close)

    def _read(self, directory: Path, wanted: Wanted) -> Generator[list[ErrorRecord], None, None]:
        # Runs in the disk's thread, which also is the first to import pydantic if nobody did.
        with background.imports:
            from shockproof.vocabulary.models import ErrorRecord

        pace = Pace()
        found: list[ErrorRecord] = []
        files = wanted.files(directory, self._layer)
        self.bytes_to_read = sum(file.size for file in files)
        done = 0
        for file in files:
            for number, line in enumerate(lines_of(file, self._layer, self.damaged), 1):
                record = _record_in(line, ErrorRecord)
                if file.is_plain:
                    self.bytes_read += len(line)
                if record is not None and wanted.includes(record):
                    found.append(record)
                elif record is None and line.strip():
                    self.skipped += 1
                pace.keep()
                if number % _LINES_PER_SLICE == 0:
                    yield found
                    found = []
            done += file.size
            self.bytes_read = done
        yield found


def record_in(line: bytes) -> ErrorRecord | None:
    """The record that a line of an error file holds; None when it is none. Imports pydantic at first."""
    with background.imports:
        from shockproof.vocabulary.models import ErrorRecord

    return _record_in(line, ErrorRecord)


def _record_in(line: bytes, model: type[ErrorRecord]) -> ErrorRecord | None:
    try:
        fields = json.loads(line)
        return model.model_validate(fields) if isinstance(fields, dict) else None
    except (ValueError, RecursionError):  # pydantic's ValidationError is a ValueError too
        return None


def lines_of(
    file: ErrorFile, layer: FileLayer = SYSTEM_FILES, damaged: list[Path] | None = None
) -> Iterator[bytes]:
    """
    The lines of an error file, also of one that was compressed or deleted a moment ago.

    One that cannot be read, or not to its end, is added to ``damaged``. A line that is too long is its beginning, and ``b""``
    for each further part of it.
    """
    packed = file.path.with_name(file.path.name + ".gz")
    try:
        path, opened = file.path, layer.open_to_read(file.path)
    except FileNotFoundError:  # compressed since the directory was read, or deleted
        try:
            path, opened = packed, layer.open_to_read(packed)
        except FileNotFoundError:
            return
        except OSError:
            _note(damaged, packed)
            return
    except OSError:
        _note(damaged, file.path)
        return
    with opened as source:
        try:
            if file.is_plain and path != packed:
                source.seek(_packed_bytes(source, packed, layer))
            unpacked = source if path.suffix != ".gz" else _unpacked(source)
            is_rest = False
            while line := unpacked.readline(_LONGEST_LINE):
                yield b"" if is_rest else line
                is_rest = not line.endswith(b"\n")
        except (OSError, EOFError, zlib.error):
            _note(damaged, path)


def _unpacked(source: BufferedIOBase) -> BufferedIOBase:
    # Only where a day was compressed; and in the disk's thread, not where the iterator is made.
    with background.imports:
        import gzip

    return gzip.GzipFile(fileobj=source, mode="rb")


def _note(damaged: list[Path] | None, path: Path) -> None:
    if damaged is not None:
        damaged.append(path)


def _packed_bytes(source: BufferedIOBase, packed: Path, layer: FileLayer) -> int:
    before = PackedBefore(packed, layer)
    if before.is_possible:
        while block := source.read(_BLOCK):
            before.take(block)
    return before.bytes


def _seconds(moment: datetime | float | None) -> float | None:
    return moment.timestamp() if isinstance(moment, datetime) else moment

"""The error log while it is written: each record once, as soon as its line is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shockproof.memory.error_log.error_files import ErrorFile
from shockproof.memory.error_log.error_reading import Wanted, lines_of, record_in

if TYPE_CHECKING:
    from shockproof.vocabulary.models import ErrorRecord

__all__ = ["Following"]

_BLOCK: Final = 1 << 20
_TAIL: Final = 256
_RECENT: Final = timedelta(days=2)
"""Files of days before that are not looked at again: nobody writes to them any more."""


class Following:
    """
    New records of an error log, whenever `new_records` is asked.

    The first time it gives what is there: since ``wanted.since``, or else of the newest file.
    """

    def __init__(self, directory: Path, wanted: Wanted) -> None:
        self._directory = directory
        self._wanted = wanted
        self._read_to: dict[tuple[int, int], tuple[int, bytes]] = {}
        """
        By device and inode, as a name may belong to another file tomorrow: how far, and the bytes before that place. Others
        there: the file was emptied and has been filled again.
        """
        self._is_first = True
        self.damaged: list[Path] = []
        """Compressed files that could not be read to their end."""

    def new_records(self) -> Iterator[ErrorRecord]:
        """Those that were written since the last time, in the order of the files."""
        for line in self._new_lines():
            record = record_in(line)
            if record is not None and self._wanted.includes(record):
                yield record

    def _new_lines(self) -> Iterator[bytes]:
        is_first, self._is_first = self._is_first, False
        if not is_first:
            recent = self._wanted._replace(since=(datetime.now(UTC) - _RECENT).timestamp())
            for file in recent.files(self._directory):
                yield from self._rest_of(file)
            return
        files = self._wanted.files(self._directory)
        for file in files:
            if self._wanted.since is None and file is not files[-1]:
                self._skip(file)
            elif file.is_plain:
                yield from self._rest_of(file)
            else:
                yield from lines_of(file, damaged=self.damaged)

    def _skip(self, file: ErrorFile) -> None:
        try:
            source = file.path.open("rb")
        except OSError:
            return
        with source:
            status = os.fstat(source.fileno())
            source.seek(max(0, status.st_size - _TAIL))
            tail = source.read(min(_TAIL, status.st_size))
            self._read_to[status.st_dev, status.st_ino] = status.st_size, tail

    def _rest_of(self, file: ErrorFile) -> Iterator[bytes]:
        if not file.is_plain:
            return  # its records were given while it was plain
        try:
            source = file.path.open("rb")
        except FileNotFoundError:
            return  # compressed or deleted since the directory was read
        with source:
            status = os.fstat(source.fileno())
            which = status.st_dev, status.st_ino
            begin, tail = self._read_to.get(which, (0, b""))
            source.seek(begin - len(tail))
            if source.read(len(tail)) != tail:
                begin, tail = 0, b""
            source.seek(begin)
            rest = b""
            while block := source.read(_BLOCK):
                read = rest + block
                end = read.rfind(b"\n") + 1
                whole, rest = read[:end], read[end:]
                begin, tail = begin + end, (tail + whole[-_TAIL:])[-_TAIL:]
                self._read_to[which] = begin, tail
                yield from whole.split(b"\n")[:-1]

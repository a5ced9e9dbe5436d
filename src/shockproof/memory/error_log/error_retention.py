"""Old error files are compressed or deleted, in small steps that let the writing go on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import zlib
from collections.abc import Generator, Iterable, Iterator
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from shockproof.memory.disk.file_layer import SYSTEM_FILES, FileLayer, write_all
from shockproof.memory.disk.writer import Writer
from shockproof.memory.error_log.error_files import ErrorFile, PackedBefore, error_files
from shockproof.memory.error_log.set_clock import SetClock

__all__ = ["Retention"]

_SLICE: Final = 256 * 1024
_PAUSE: Final = 0.005
_GZIP: Final = 16 + zlib.MAX_WBITS


class Retention:
    """
    What happens to the files of closed days.

    ``keep_days``: files of days more than so many before today are deleted; 0 keeps today only.
    ``keep_bytes``: files are deleted, the oldest part of the oldest day first, until the rest is no larger.
    ``compress``: files of days before yesterday become ``.gz``; yesterday's may still be written to
    by another process or get late records.

    Only regular files with our names are counted and touched, never today's, and never links.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_days: int | None = None,
        keep_bytes: int | None = None,
        compress: bool = False,
        layer: FileLayer = SYSTEM_FILES,
    ) -> None:
        self.directory = directory
        self._layer = layer
        self.keep_days = keep_days
        self.keep_bytes = keep_bytes
        self.compress = compress
        self.set_clock = SetClock()
        """Whether today is today; to be asked before each `tidy`, and often."""

    async def tidy(self, today: date, writer: Writer) -> None:
        """Do it, on the writer's loop. An error ends it until the next day; the log itself goes on."""
        loop = asyncio.get_running_loop()
        steps = self.steps(today)
        try:
            while True:
                if not await loop.run_in_executor(writer.disk, partial(next, steps, False)):
                    break
                await asyncio.sleep(_PAUSE)
        except (OSError, zlib.error):
            return
        finally:
            writer.submit(steps.close)

    def steps(self, today: date) -> Generator[bool, None, None]:
        """The work in steps of some milliseconds; every one yields True."""
        for file in self.too_old(today):
            with contextlib.suppress(FileNotFoundError):
                self._layer.unlink(file.path)
            yield True
        for file in self.to_compress(today):
            yield from _compress(file.path, self._layer)

    def to_compress(self, today: date) -> list[ErrorFile]:
        """The files that are there and would be compressed."""
        if not self.compress:
            return []
        files = self._files(last=today - timedelta(days=2))
        return [file for file in files if file.is_plain]

    def too_old(self, today: date) -> list[ErrorFile]:
        """The files that are there and would be deleted."""
        closed = self._files(last=today - timedelta(days=1))
        old: list[ErrorFile] = []
        if self.keep_days is not None:
            kept_from = today - timedelta(days=min(self.keep_days, (today - date.min).days))
            old = [file for file in closed if file.day < kept_from]
        if self.keep_bytes is not None:
            everything = self._files(first=today) + closed
            total = sum(file.size for file in everything) - sum(file.size for file in old)
            remaining = [file for file in closed if file not in old]
            # Part by part: a storm that made yesterday larger than all of this shall not take its own end along.
            for day, part in sorted({(file.day, file.part) for file in remaining}):
                if total <= self.keep_bytes:
                    break
                going = [file for file in remaining if (file.day, file.part) == (day, part)]
                total -= sum(file.size for file in going)
                old += going
        return old

    def _files(self, first: date | None = None, last: date | None = None) -> list[ErrorFile]:
        return error_files(self.directory, first=first, last=last, follow_links=False, layer=self._layer)


def _compress(plain: Path, layer: FileLayer) -> Generator[bool, None, None]:
    """
    Replace a file by its ``.gz``, so that a crash at any moment leaves at least one of them whole.

    Late records make a plain file beside the compressed one: it is added as a second member. A crash
    between adding and deleting is recognised by the last member's checksum and length, also when more
    records were written behind what it has packed: these are then made a file of their own first.
    """
    packed = plain.with_name(plain.name + ".gz")
    before = PackedBefore(packed, layer)
    with layer.open_to_read(plain) as source:
        while block := source.read(_SLICE):
            before.take(block)
            yield True
    if 0 < before.bytes < before.size:
        if (yield from _replace(plain, _pieces(plain, layer, before.bytes), before.size, layer)):
            yield from _compress(plain, layer)
        return
    if before.bytes < before.size or not before.is_possible:
        old = _pieces(packed, layer) if before.is_possible else iter(())
        pieces = itertools.chain(old, _packed(_pieces(plain, layer)))
        if not (yield from _replace(packed, pieces, before.size, layer, plain)):
            return
    # Also when an earlier life has packed it: it may not have come to that.
    layer.fsync_directory(plain.parent)
    if layer.stamp(plain).size == before.size:
        layer.unlink(plain)


def _replace(
    target: Path, content: Iterable[bytes], size: int, layer: FileLayer, plain: Path | None = None
) -> Generator[bool, None, bool]:
    """Give *target* another content, unless the *plain* file (or it) has no longer this size; whether it was done."""
    # Of this process: another one, or a person, may be at the same file.
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):  # of an earlier life with the same number
        layer.unlink(temporary)
    try:
        handle = layer.create(temporary)
        try:
            for piece in content:
                write_all(layer, handle, piece)
                yield True
            layer.fsync(handle)
        finally:
            layer.close(handle)
        if layer.stamp(plain or target).size != size:  # somebody still writes to it: another time
            return False
        layer.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            layer.unlink(temporary)
    layer.fsync_directory(target.parent)
    yield True
    return True


def _pieces(path: Path, layer: FileLayer, begin: int = 0) -> Iterator[bytes]:
    with layer.open_to_read(path) as source:
        source.seek(begin)
        while block := source.read(_SLICE):
            yield block


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()

"""Old error files are compressed or deleted, in small steps that let the writing go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import zlib
from collections.abc import Generator
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from shockproof.memory.disk.writer import Writer
from shockproof.memory.error_log.error_files import ErrorFile, error_files, is_packed_copy

__all__ = ["Retention"]

_SLICE: Final = 256 * 1024
_PAUSE: Final = 0.005
_GZIP: Final = 16 + zlib.MAX_WBITS


class Retention:
    """
    What happens to the files of closed days.

    ``keep_days``: files of days more than so many before today are deleted; 0 keeps today only.
    ``keep_bytes``: whole days are deleted, the oldest first, until the rest is no larger.
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
    ) -> None:
        self.directory = directory
        self.keep_days = keep_days
        self.keep_bytes = keep_bytes
        self.compress = compress

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
                file.path.unlink()
            yield True
        for file in self.to_compress(today):
            yield from _compress(file.path)

    def to_compress(self, today: date) -> list[ErrorFile]:
        """The files that are there and would be compressed."""
        if not self.compress:
            return []
        files = error_files(self.directory, last=today - timedelta(days=2), follow_links=False)
        return [file for file in files if file.is_plain]

    def too_old(self, today: date) -> list[ErrorFile]:
        """The files that are there and would be deleted."""
        closed = error_files(self.directory, last=today - timedelta(days=1), follow_links=False)
        old: list[ErrorFile] = []
        if self.keep_days is not None:
            kept_from = today - timedelta(days=min(self.keep_days, (today - date.min).days))
            old = [file for file in closed if file.day < kept_from]
        if self.keep_bytes is not None:
            everything = error_files(self.directory, first=today, follow_links=False) + closed
            total = sum(file.size for file in everything) - sum(file.size for file in old)
            remaining = [file for file in closed if file not in old]
            for day in sorted({file.day for file in remaining}):
                if total <= self.keep_bytes:
                    break
                going = [file for file in remaining if file.day == day]
                total -= sum(file.size for file in going)
                old += going
        return old


def _compress(plain: Path) -> Generator[bool, None, None]:
    """
    Replace a file by its ``.gz``, so that a crash at any moment leaves at least one of them whole.

    Late records make a plain file beside the compressed one: it is added as a second member. A crash
    between adding and deleting is recognised by the last member's checksum and length.
    """
    packed = plain.with_name(plain.name + ".gz")
    # Of this process: another one, or a person, may be at the same file.
    temporary = plain.with_name(f"{plain.name}.gz.{os.getpid()}.tmp")
    checksum, size = 0, 0
    with plain.open("rb") as source:
        while block := source.read(_SLICE):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
            yield True
    if not is_packed_copy(packed, size, checksum):
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
                with contextlib.suppress(FileNotFoundError), packed.open("rb") as before:
                    while block := before.read(_SLICE):
                        target.write(block)
                        yield True
                packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
                packed_size = 0
                with plain.open("rb") as source:
                    while block := source.read(_SLICE):
                        target.write(packer.compress(block))
                        packed_size += len(block)
                        yield True
                target.write(packer.flush())
                target.flush()
                os.fsync(target.fileno())
            if packed_size != size:  # somebody still writes to it: another time
                return
            temporary.replace(packed)
            _sync_directory(plain.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        yield True
    if plain.stat().st_size == size:
        plain.unlink()


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""
One segment of the journal: a file with a head, everything known when it was begun, then what happened since.

The head has 64 bytes: the magic ``SHOCKJNL``, u16 format version, u48 bytes that the file had when it got its name
(0: not known), u64 segment number, 16 random bytes that begin the checksums of its records (so that no record of
another file is taken for one of its own), u32 checksum (CRC-32) of these 40 bytes, zeros.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

from shockproof.memory.journal.record import Record, record_at

__all__ = [
    "FORMAT_VERSION",
    "HEAD_BYTES",
    "NewerSegmentError",
    "SegmentContent",
    "name_of",
    "number_in",
    "read_segment",
    "seed_of",
    "segment_head",
]

FORMAT_VERSION = 1
"""The version that this program writes, and the newest that it reads."""

HEAD_BYTES = 64

_HEAD = struct.Struct("<8sH6sQ16s")
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"SHOCKJNL"
_NAME = re.compile(r"journal-([0-9]{16,18})\.wal")


class NewerSegmentError(Exception):
    """A newer program wrote the segment; holds its version."""


class SegmentContent(NamedTuple):
    """What was found in a segment."""

    number: int
    records: tuple[Record, ...]
    """The valid ones, in order."""
    tail: bytes = b""
    """What follows the last record of the unbroken chain, if it is no zeros."""
    damage: str | None = None
    """What is wrong with data that was acknowledged as durable; a torn tail is nothing wrong."""
    chain_end: int = HEAD_BYTES
    """Where the unbroken chain of records ends, in bytes from the beginning of the file."""
    made_as: int = 0
    """Its number when it was made, which differs where somebody has renamed the file; 0: nobody can tell."""


def name_of(number: int) -> str:
    """The file's name."""
    return f"journal-{number:016d}.wal"


def number_in(name: str) -> int | None:
    """The segment's number, or None when the name is no segment's."""
    found = _NAME.fullmatch(name)
    return None if found is None else int(found[1])


def segment_head(number: int, identity: bytes, size: int = 0) -> bytes:
    """The head of segment *number* with space for *size* bytes (0: not known); *identity* are its 16 random bytes."""
    head = _HEAD.pack(_MAGIC, FORMAT_VERSION, size.to_bytes(6, "little"), number, identity)
    return (head + _CHECKSUM.pack(zlib.crc32(head))).ljust(HEAD_BYTES, b"\0")


def seed_of(identity: bytes) -> int:
    """What the checksums of a segment's records begin with."""
    return zlib.crc32(identity)


def read_segment(number: int, data: bytes) -> SegmentContent:
    """
    Everything valid in a segment's file.

    The first record that is not valid ends the unbroken chain. Either a crash tore what was being written,
    and nobody was told that it is durable; or the disk damaged what had been acknowledged. It is the latter
    if a later valid record says that the missing number was durable when it was written, or if the file is
    shorter than it was made: no crash takes space that was synced before it got its name. Valid records
    behind the break are taken in both cases: each of them tells something that happened. So do those of a file that somebody
    has renamed; where it belongs, its head tells.

    Raises:
        NewerSegmentError: a newer program wrote it.
    """
    if len(data) < HEAD_BYTES:
        return SegmentContent(number, (), data, "it is shorter than its head")
    head = data[: _HEAD.size]
    magic, version, made_with, found_number, identity = _HEAD.unpack(head)
    if _CHECKSUM.unpack_from(data, _HEAD.size)[0] != zlib.crc32(head) or magic != _MAGIC:
        return SegmentContent(number, (), data.rstrip(b"\0"), "its head is damaged")
    if version > FORMAT_VERSION:
        raise NewerSegmentError(version)
    renamed = None if found_number == number else f"its head says it is segment {found_number}"
    seed = seed_of(identity)
    records: list[Record] = []
    offset, previous = HEAD_BYTES, 0
    while (record := record_at(data, offset, seed)) is not None:
        if record.previous != previous or (records and record.sequence != records[-1].sequence + 1):
            break
        records.append(record)
        offset, previous = record.end, record.checksum
    tail = data[offset:].rstrip(b"\0")
    size = int.from_bytes(made_with, "little")
    cut_off = f"only {len(data):,} of its {size:,} bytes are left" if len(data) < size else None
    wrong = renamed or cut_off
    if not tail:
        return SegmentContent(number, tuple(records), b"", wrong, offset, found_number)
    later = _records_in(data, offset, offset + len(tail), seed)
    missing = records[-1].sequence + 1 if records else later[0].sequence - 1 if later else 0
    damaged = any(record.durable >= missing for record in later)
    return SegmentContent(
        number,
        (*records, *later),
        tail,
        f"record {missing} is damaged, and it had been acknowledged as durable" if damaged else wrong,
        offset,
        found_number,
    )


def _records_in(data: bytes, begin: int, end: int, seed: int) -> list[Record]:
    found: list[Record] = []
    offset = begin
    while offset < end:
        record = record_at(data, offset, seed)
        if record is None:
            offset += 8
        else:
            found.append(record)
            offset = record.end
    return found

"""
One record of the journal: a short head and a JSON object, with a checksum, chained to the one before.

    offset  0  u32  length of the body
            4  u32  checksum (CRC-32) of length, everything below and the body, begun with the segment's seed
            8  u32  checksum of the record before
           12  u64  sequence number: 1, 2, 3, ... over all segments
           20  u64  the highest sequence number that was durable when this one was written
           28  u8   kind
           29       the body, in ASCII, filled up with zeros to a multiple of 8

All numbers are little endian. A length of 0 is the end.
"""

from __future__ import annotations

import functools
import struct
import zlib
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from json import JSONEncoder

__all__ = [
    "MAX_BODY",
    "MAX_WHOLE",
    "Kind",
    "Record",
    "decode_body",
    "encode",
    "encode_body",
    "encode_value",
    "record_at",
    "size_of",
]

MAX_BODY = 1 << 20
"""Bytes of what one request may record."""

MAX_WHOLE = 4 << 20
"""
Bytes; a longer body is no record. An OPERATION record holds what several others told: what it was begun with,
and the last checkpoint or the result, each of them no longer than the above.
"""

_HEAD = struct.Struct("<IIIQQB")
_AFTER_CHECKSUM = struct.Struct("<IQQB")
_LENGTH = struct.Struct("<I")
_ALIGNMENT = 8


class Kind(IntEnum):
    """What a record tells."""

    OPERATION = 1
    """All that is known of one operation: the beginning of a segment has one for each."""
    COMPLETE = 2
    """Every operation that is known stands before this."""
    BEGIN = 3
    """An operation begins, or begins again after an interruption."""
    CHECKPOINT = 4
    INTERRUPT = 5
    """It stopped without an end, and why."""
    END = 6
    SEND = 7
    """Something that is sent once may be under way from now on."""
    SEEN = 8
    """A later life saw that it is pending, and nobody can tell how long ago it was sent: its window counts from here."""
    SENT = 9
    """What one service has sent under its rate limits and still counts there. The beginning of a segment has all of these first."""


class Record(NamedTuple):
    """One record as read."""

    kind: int
    sequence: int
    durable: int
    previous: int
    checksum: int
    body: bytes
    end: int
    """Where the next one begins."""


def encode_body(body: dict[str, Any]) -> bytes:  # Any: frozen values
    """The body as bytes. It is ASCII, so that nothing in it looks like a head, whose numbers hold zeros."""
    return encode_value(body)


def encode_value(value: Any) -> bytes:  # Any: as above
    """One value of a body as bytes."""
    return _encoder().encode(value).encode("ascii")


@functools.cache
def _encoder() -> JSONEncoder:
    from json import JSONEncoder

    return JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"))


def decode_body(body: bytes) -> dict[str, Any] | None:  # Any: as above
    """The body of a valid record, or None when it is no JSON object (a program with a bug wrote it)."""
    from json import loads

    try:
        value = loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def encode(
    kind: Kind, body: bytes, *, sequence: int, durable: int, previous: int, seed: int
) -> tuple[bytes, int]:
    """A record as bytes, and its checksum for the next one."""
    length = _LENGTH.pack(len(body))
    rest = _AFTER_CHECKSUM.pack(previous, sequence, durable, kind)
    checksum = zlib.crc32(body, zlib.crc32(rest, zlib.crc32(length, seed)))
    padding = bytes(-(_HEAD.size + len(body)) % _ALIGNMENT)
    return b"".join((length, _LENGTH.pack(checksum), rest, body, padding)), checksum


def size_of(body: bytes) -> int:
    """How many bytes the record with that body takes."""
    size = _HEAD.size + len(body)
    return size + -size % _ALIGNMENT


def record_at(data: bytes, offset: int, seed: int) -> Record | None:
    """The record that begins at *offset*, or None when no valid one does."""
    if offset + _HEAD.size > len(data):
        return None
    length, checksum, previous, sequence, durable, kind = _HEAD.unpack_from(data, offset)
    begin = offset + _HEAD.size
    if not 0 < length <= MAX_WHOLE or begin + length > len(data):
        return None
    body = data[begin : begin + length]
    found = zlib.crc32(data[offset : offset + 4], seed)
    found = zlib.crc32(body, zlib.crc32(data[offset + 8 : begin], found))
    if found != checksum:
        return None
    return Record(kind, sequence, durable, previous, checksum, body, offset + size_of(body))

"""Records and segments: what a file holds comes back, and what is wrong with it is told apart."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from shockproof.memory.journal.record import Kind, decode_body, encode, encode_body, record_at, size_of
from shockproof.memory.journal.segment import (
    HEAD_BYTES,
    NewerSegmentError,
    SegmentContent,
    name_of,
    number_in,
    read_segment,
    seed_of,
    segment_head,
)

IDENTITY = b"0123456789abcdef"


def segment(batches: Iterable[Iterable[dict[str, object]]], *, number: int = 3, first: int = 1) -> bytes:
    """A segment whose batches were synced one after the other, with room behind."""
    data = segment_head(number, IDENTITY)
    sequence, checksum = first - 1, 0
    for batch in batches:
        durable = sequence
        for body in batch:
            sequence += 1
            piece, checksum = encode(
                Kind.BEGIN,
                encode_body(body),
                sequence=sequence,
                durable=durable,
                previous=checksum,
                seed=seed_of(IDENTITY),
            )
            data += piece
    return data + bytes(256)


def bodies(content: SegmentContent) -> list[object]:
    return [decode_body(record.body) for record in content.records]


BATCHES = [[{"n": 1}], [{"n": 2}, {"n": "zwei \u20ac \0"}], [{"n": [1.5, None]}]]


def test_what_is_written_comes_back_in_order() -> None:
    """Text of any kind and numbers, in several batches."""
    content = read_segment(3, segment(BATCHES))

    assert bodies(content) == [{"n": 1}, {"n": 2}, {"n": "zwei \u20ac \0"}, {"n": [1.5, None]}]
    assert [record.sequence for record in content.records] == [1, 2, 3, 4]
    assert [record.durable for record in content.records] == [0, 1, 1, 3]
    assert (content.tail, content.damage) == (b"", None)


def test_a_record_takes_the_bytes_that_it_says() -> None:
    """Else there would be no room where some was counted on."""
    for length in range(2, 40):
        body = json.dumps("x" * (length - 2)).encode()
        piece, _ = encode(Kind.END, body, sequence=1, durable=0, previous=0, seed=0)
        assert len(piece) == size_of(body) == record_at(piece, 0, 0).end  # type: ignore[union-attr]  # it is one
        assert len(piece) % 8 == 0


def test_a_torn_end_is_no_damage() -> None:
    """Nobody was told that the last batch is durable: cut anywhere, the others are there and nothing is wrong."""
    whole = segment(BATCHES)
    begin = len(whole) - 256 - size_of(encode_body(BATCHES[-1][-1]))
    for cut in range(begin, len(whole.rstrip(b"\0"))):
        content = read_segment(3, whole[:cut] + bytes(300))
        assert len(content.records) == 3
        assert content.damage is None


@pytest.mark.parametrize("size", [0, 100])
def test_a_file_of_unknown_or_larger_size_is_not_cut_off(size: int) -> None:
    """Those before the size was recorded tell none, and a file may grow as it is written."""
    data = segment_head(3, IDENTITY, size).ljust(120, b"\0")

    assert read_segment(3, data) == SegmentContent(3, (), made_as=3)
    assert read_segment(3, data[:100]).damage is None


def test_a_lost_record_that_had_been_acknowledged_is_damage() -> None:
    """A later record says that it was durable; what is behind it is still read."""
    whole = segment(BATCHES)
    begin = HEAD_BYTES + size_of(encode_body(BATCHES[0][0]))
    broken = whole[:begin] + bytes(size_of(encode_body(BATCHES[1][0]))) + whole[begin:][40:]

    content = read_segment(3, broken[: len(whole)])

    assert content.damage is not None
    assert "record 2 " in content.damage
    assert {"n": 1} in bodies(content)
    assert {"n": [1.5, None]} in bodies(content)


def test_a_lost_record_that_nobody_acknowledged_is_none() -> None:
    """Of two writes without a sync between them, a power cut may keep the second only."""
    whole = segment([BATCHES[0], BATCHES[1]])
    begin = HEAD_BYTES + size_of(encode_body(BATCHES[0][0]))
    size = size_of(encode_body(BATCHES[1][0]))
    content = read_segment(3, whole[:begin] + bytes(size) + whole[begin + size :])

    assert content.damage is None
    assert bodies(content) == [{"n": 1}, BATCHES[1][1]]


def test_every_flipped_bit_is_noticed_or_harmless() -> None:
    """Never an error that is not ours, never a wrong value; in what was acknowledged, always damage."""
    whole = segment(BATCHES, first=7)
    true = bodies(read_segment(3, whole))
    acknowledged = HEAD_BYTES + sum(size_of(encode_body(body)) for batch in BATCHES[:2] for body in batch)
    for position in range(len(whole) - 256):
        for bit in range(8):
            broken = bytearray(whole)
            broken[position] ^= 1 << bit
            try:
                content = read_segment(3, bytes(broken))
            except NewerSegmentError:
                pytest.fail("a flipped bit is no newer program")
            found = bodies(content)
            assert all(body in true for body in found)
            if found != true:
                assert content.tail
                assert content.damage is not None or position >= acknowledged


def test_a_record_of_another_file_is_not_taken_for_its_own() -> None:
    """What a reused block of the disk holds from an earlier life stays dead."""
    stale = segment([[{"n": "stale"}]])[HEAD_BYTES:]
    fresh = segment_head(3, b"another identity")

    content = read_segment(3, fresh + stale)

    assert content.records == ()
    assert content.tail


def test_a_newer_program_s_segment_is_refused() -> None:
    """Whatever it means by its records, we do not know it."""
    import struct
    import zlib

    head = bytearray(segment_head(3, IDENTITY)[:40])
    struct.pack_into("<H", head, 8, 2)
    whole = bytes(head) + struct.pack("<I", zlib.crc32(head)) + bytes(100)

    with pytest.raises(NewerSegmentError, match="2"):
        read_segment(3, whole)


@pytest.mark.parametrize(
    ("data", "damage"),
    [
        (b"", "shorter than its head"),
        (b"x" * 200, "head is damaged"),
        (segment([], number=4), "segment 4"),
    ],
)
def test_a_damaged_head_is_damage(data: bytes, damage: str) -> None:
    """A segment gets its name only after it was synced."""
    content = read_segment(3, data)

    assert content.damage is not None
    assert damage in content.damage
    assert content.records == ()


def test_names_of_segments_are_told_from_other_names() -> None:
    """What a user keeps there is not ours."""
    assert number_in(name_of(12)) == 12
    for other in ("journal-12.wal", ".journal-0000000000000012.wal.tmp", "reserve.wal", "journal.txt"):
        assert number_in(other) is None

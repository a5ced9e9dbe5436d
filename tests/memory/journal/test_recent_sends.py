"""What was sent under rate limits goes from segment to segment until it counts nowhere any more, and never twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.earlier_sends import EarlierSend, sends_carried_along
from shockproof.memory.journal.journal_files import JournalFiles, read_journal
from shockproof.memory.journal.operation_table import OperationTable
from shockproof.memory.journal.recent_sends import MOST_SENDS, RecentSends
from shockproof.memory.journal.record import MAX_WHOLE, Kind, decode_body, encode_body

LAYER = SystemFiles()


def send_of(key: str, at: float, **more: object) -> dict[str, Any]:
    known = {"operation": "venue.once", "key": key, "service": "venue", "at": at, "sent_at": at + 5.0}
    return {**known, "weight": 1, "counts_for": 60.0, **more}


def life(home: Path, *records: tuple[Kind, dict[str, Any]], segments: int = 0) -> tuple[EarlierSend, ...]:
    """One that records this, begins so many segments more, and is killed; gives what it found."""
    files = JournalFiles(home, layer=LAYER, segment_bytes=4096)
    found = files.open()
    for kind, body in records:
        files.table.apply(kind, body)
        files.append([(kind, encode_body(body))])
        files.sync()
    for _ in range(segments):
        files.begin_segment()
    files.close()
    return found.sends


def told(sends: RecentSends) -> list[EarlierSend]:
    """What a later segment makes of them."""
    return [one for body in sends.snapshot() for one in sends_carried_along(decode_body(body) or {})]


def times(sends: tuple[EarlierSend, ...]) -> int:
    return sum(one.times for one in sends)


@pytest.mark.parametrize("segments", [0, 3])
@pytest.mark.parametrize(
    "end",
    [
        (Kind.END, {"status": "abandoned"}),
        (Kind.END, {"status": "completed", "result": None, "at": 1_003.0}),
        (Kind.INTERRUPT, {"why": "cancelled", "at": 1_003.0, "sent_at": 1_003.0}),
    ],
)
def test_each_attempt_counts_once_in_all_later_lives_whatever_became_of_the_order(
    tmp_path: Path, end: tuple[Kind, dict[str, Any]], segments: int
) -> None:
    """Of an order of two attempts, only the last stands with the order, and with one that was not placed nothing does."""
    kind, body = end
    records = (
        (Kind.SEND, send_of("a", 1_000.0)),
        (Kind.SEND, send_of("a", 1_001.0, weight={"orders": 1})),
        (kind, {"operation": "venue.once", "key": "a", **body}),
    )
    assert life(tmp_path, *records, segments=segments) == ()
    expected = (
        EarlierSend("venue", 1_000.0, 1, 60.0),
        EarlierSend("venue", 1_001.0, {"orders": 1}, 60.0),
    )
    assert life(tmp_path) == expected
    assert life(tmp_path, segments=2) == expected
    assert read_journal(LAYER, tmp_path).sends == expected


def test_what_a_later_life_sends_comes_behind_what_was_carried_along(tmp_path: Path) -> None:
    """And what has left the longest window of its service is carried no further."""
    life(tmp_path, (Kind.SEND, send_of("a", 1_000.0)))
    life(tmp_path, (Kind.SEND, send_of("b", 1_030.0)))
    assert [one.at for one in life(tmp_path)] == [1_000.0, 1_030.0]
    life(tmp_path, (Kind.SEND, send_of("c", 1_060.0)))
    life(tmp_path, segments=1)
    assert [one.at for one in read_journal(LAYER, tmp_path).sends] == [1_030.0, 1_060.0]


def test_journal_of_an_older_shockproof_is_counted_by_its_operations(tmp_path: Path) -> None:
    """It carried none along: the last attempt of what still stands is all there is, believed for a day."""
    body = {**send_of("a", 1_000.0), "status": "pending", "attempt_at": 1_001.0}
    del body["counts_for"]
    table = OperationTable()
    for kind, one in [(Kind.OPERATION, body), (Kind.COMPLETE, {"operations": 1})]:
        table.apply(kind, one)
    assert list(table.sends) == [EarlierSend("venue", 1_001.0, 1, None)]
    table.apply(Kind.SEND, send_of("b", 1_001.0 + 86_399.0))
    assert len(told(table.sends)) == 2
    table.apply(Kind.SEND, send_of("b", 1_001.0 + 86_400.0))
    assert [one.counts_for for one in told(table.sends)] == [60.0, 60.0]


def test_damaged_segment_and_the_one_before_count_what_both_tell_once(tmp_path: Path) -> None:
    """A crash has left the older one, and the disk has damaged what the newer one recorded later."""
    life(tmp_path, (Kind.SEND, send_of("a", 1_000.0)))
    (older,) = tmp_path.glob("journal-*")
    name, content = older.name, older.read_bytes()
    files = JournalFiles(tmp_path, layer=LAYER, segment_bytes=4096)
    files.open()
    for key in "bc":
        files.append([(Kind.SEND, encode_body(send_of(key, 1_010.0)))])
        files.sync()
    files.close()
    (newer,) = tmp_path.glob("journal-*")
    newer.write_bytes(newer.read_bytes().replace(b'"key":"b"', b'"key":"?"'))
    (tmp_path / name).write_bytes(content)

    recovered = read_journal(LAYER, tmp_path)
    assert recovered.damage is not None
    assert [one.at for one in recovered.sends] == [1_000.0, 1_010.0]


def test_orders_without_a_rate_limit_cost_nothing(tmp_path: Path) -> None:
    """Not a byte of a later segment."""
    unlimited = send_of("a", 1_000.0)
    del unlimited["weight"], unlimited["counts_for"]
    life(tmp_path, (Kind.SEND, unlimited))
    assert life(tmp_path) == ()
    (segment,) = tmp_path.glob("journal-*")
    assert b'"sent":' not in segment.read_bytes()


def test_send_that_is_taken_back_does_not_count() -> None:
    """The disk has refused it, and so it was not sent."""
    table = OperationTable()
    table.apply(Kind.SEND, send_of("a", 1_000.0))
    take_back = table.apply(Kind.SEND, send_of("b", 1_001.0))
    table.apply(Kind.SEND, send_of("c", 1_002.0))
    take_back()
    take_back()
    assert [one.at for one in table.sends] == [1_000.0, 1_002.0]


def test_many_are_carried_along_as_some_hundred_moments_that_count_as_much() -> None:
    """What falls together counts as sent at the last; to thin out again changes nothing."""
    sends = RecentSends()
    for number in range(100_000):
        sends.add(EarlierSend("venue", 1_000.0 + number * 0.0005, 1 + number % 2, 60.0))
        assert len(sends) < 3 * 1024
    carried = told(sends)
    assert times(tuple(carried)) == 100_000
    assert 2 * 416 <= len(carried) <= 2 * 418
    assert carried[-1].at == 1_000.0 + 99_999 * 0.0005
    again = RecentSends()
    for one in carried:
        again.add(one)
    assert told(again) == carried


@pytest.mark.parametrize("services", [1, 100])
def test_memory_is_bounded_whatever_is_sent(services: int) -> None:
    """Each with a weight of its own, so that none falls together with another: the latest stay."""
    sends = RecentSends()
    for number in range(3 * MOST_SENDS):
        sends.add(EarlierSend(f"venue {number % services}", 1_000.0, number, 60.0))
        assert len(sends) <= 2 * MOST_SENDS
    carried = told(sends)
    assert len(carried) == MOST_SENDS
    assert max(one.weight for one in carried if isinstance(one.weight, int)) == 3 * MOST_SENDS - 1


def test_ten_thousand_sends_take_little_time_and_little_disk(tmp_path: Path) -> None:
    """By the processor's time, a hundredfold above what it takes."""
    sends = RecentSends()
    began = time.thread_time()
    for number in range(10_000):
        sends.add(EarlierSend("venue", 1_000.0 + number / 200, 1, 60.0))
    size = sum(map(len, sends.snapshot()))
    assert time.thread_time() - began < 5.0
    assert size < 20_000


def test_large_weights_make_more_records_and_none_that_is_too_large() -> None:
    """A record that nobody can read would hide all that is behind it."""
    sends = RecentSends()
    weight = {f"endpoint {number}": 1 for number in range(3_000)}
    for number in range(120):
        sends.add(EarlierSend("venue", 1_000.0 + number, {**weight, "n": number}, 600.0))
    bodies = list(sends.snapshot())
    assert len(bodies) > 50
    assert max(map(len, bodies)) < MAX_WHOLE / 10
    assert len(told(sends)) == 120


def test_clock_that_was_set_back_forgets_nothing() -> None:
    """What seems to come from the future stays until the clock is there again, and each stands in its order."""
    sends = RecentSends()
    for at in (5_000.0, 5_001.0, 1_000.0, 1_070.0):
        sends.add(EarlierSend("venue", at, 1, 60.0))
    assert [one.at for one in told(sends)] == [5_000.0, 5_001.0, 1_070.0]
    sends.add(EarlierSend("venue", 5_060.5, 1, 60.0))
    assert [one.at for one in told(sends)] == [5_001.0, 5_060.5]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"service": "venue", "counts_for": 60.0, "sent": 7},
        {"service": "venue", "counts_for": 60.0, "sent": [7, [1.0], [1.0, 1, 1, 1], [None, 1, 1]]},
        {"service": "venue", "counts_for": 60.0, "sent": [[1e999, 1, 1], [10**400, 1, 1], [1.0, -1, 1]]},
        {
            "service": "venue",
            "counts_for": 60.0,
            "sent": [[1.0, {"a": "b"}, 1], [1.0, 1, True], [1.0, 1, -1]],
        },
        {"service": 7, "counts_for": 60.0, "sent": [[1.0, 1, 1]]},
    ],
)
def test_record_that_does_not_fit_counts_nothing(body: dict[str, Any]) -> None:
    """A program with a bug wrote it."""
    table = OperationTable()
    table.apply(Kind.SENT, body)
    assert list(table.sends) == []


@pytest.mark.parametrize("counts_for", [None, "long", -1.0, 0, float("inf")])
def test_window_that_nobody_can_read_counts_as_not_said(counts_for: object) -> None:
    """For a day, then."""
    table = OperationTable()
    table.apply(Kind.SENT, {"service": "venue", "counts_for": counts_for, "sent": [[1.0, 2, 3]]})
    assert list(table.sends) == [EarlierSend("venue", 1.0, 2, None, 3)]

"""What each record makes of what is known."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from shockproof.memory.journal import operation_table
from shockproof.memory.journal.name import Name
from shockproof.memory.journal.operation_table import OperationTable
from shockproof.memory.journal.record import Kind, decode_body

A = Name("fetch", "a")


def record(name: Name = A, **more: object) -> dict[str, Any]:
    return {"operation": name.operation, "key": name.key, **more}


def known(table: OperationTable, name: Name = A) -> dict[str, Any]:
    entry = table.get(name)
    assert entry is not None
    return entry.body


def begun(name: Name = A) -> OperationTable:
    table = OperationTable()
    table.apply(Kind.BEGIN, record(name, details={"size": 1}, at=10.0))
    return table


def test_an_operation_that_began_is_pending() -> None:
    """With what it was begun with, and no progress."""
    table = begun()

    assert [entry.name for entry in table.pending()] == [A]
    assert known(table)["progress"] == {}
    assert known(table)["details"] == {"size": 1}


def test_a_checkpoint_takes_the_place_of_the_one_before() -> None:
    """Nothing of the old one stays."""
    table = begun()
    table.apply(Kind.CHECKPOINT, record(progress={"index": 1, "old": True}))
    table.apply(Kind.CHECKPOINT, record(progress={"index": 2}))

    assert known(table)["progress"] == {"index": 2}


def test_the_time_of_an_operation_is_that_of_its_first_beginning() -> None:
    """Neither a checkpoint nor a second beginning moves it; a checkpoint alone has no other time than its own."""
    table = begun()
    table.apply(Kind.CHECKPOINT, record(progress={"index": 1}, at=11.0))
    table.apply(Kind.INTERRUPT, record(why="cancelled", at=12.0))
    table.apply(Kind.BEGIN, record(at=13.0))
    table.apply(Kind.CHECKPOINT, record(progress={"index": 2}, at=14.0))

    assert known(table)["at"] == 10.0

    lost = OperationTable()
    lost.apply(Kind.CHECKPOINT, record(progress={"index": 2}, at=14.0))
    assert known(lost)["at"] == 14.0


def test_an_operation_that_begins_again_keeps_its_progress_and_what_it_was_begun_with() -> None:
    """It is the same operation; that it was interrupted is over."""
    table = begun()
    table.apply(Kind.CHECKPOINT, record(progress={"index": 1}))
    table.apply(Kind.INTERRUPT, record(why="cancelled"))
    assert known(table)["interrupted"] == "cancelled"

    table.apply(Kind.BEGIN, record(details={"size": 2}))

    assert known(table)["progress"] == {"index": 1}
    assert known(table)["details"] == {"size": 1}
    assert known(table)["begun"] == 2
    assert known(table)["interrupted"] is None


def test_a_completed_operation_is_remembered_with_its_result() -> None:
    """And nothing else of it, which would only take space."""
    table = begun()
    table.apply(Kind.END, record(status="completed", result=[1], at=20.0))

    assert list(table.pending()) == []
    assert known(table)["result"] == [1]
    assert "details" not in known(table)


def test_a_completed_operation_without_a_key_leaves_nothing() -> None:
    """It may begin again."""
    table = begun(Name("fetch", None))
    table.apply(Kind.END, record(Name("fetch", None), status="completed"))

    assert len(table) == 0


def test_an_abandoned_operation_leaves_nothing() -> None:
    """It may begin again, from nothing."""
    table = begun()
    table.apply(Kind.END, record(status="abandoned"))

    assert len(table) == 0


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Kind.BEGIN, {}),
        (Kind.CHECKPOINT, {"progress": {"index": 2}}),
        (Kind.INTERRUPT, {"why": "x"}),
        (Kind.END, {"status": "completed"}),
        (Kind.END, {"status": "abandoned"}),
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_change_can_be_taken_back(kind: Kind, more: dict[str, Any], is_known: bool) -> None:
    """As if its record had never been."""
    table = begun() if is_known else OperationTable()
    table.apply(Kind.BEGIN, record(Name("other", None)))
    before = {entry.name: dict(entry.body) for entry in table.pending()}

    table.apply(kind, record(**more))()

    assert {entry.name: entry.body for entry in table.pending()} == before
    assert len(table) == len(before)


def test_a_checkpoint_tells_of_an_operation_whose_beginning_is_lost() -> None:
    """After damage: better an operation that is looked at than one that is forgotten."""
    table = OperationTable()
    table.apply(Kind.CHECKPOINT, record(progress={"index": 3}))

    assert known(table)["progress"] == {"index": 3}
    assert [entry.name for entry in table.pending()] == [A]


@pytest.mark.parametrize("kind", [0, 2, 77])
def test_a_record_of_another_kind_changes_nothing(kind: int) -> None:
    """Nor does one without a name."""
    table = begun()
    table.apply(kind, record(progress={"index": 3}))
    table.apply(Kind.CHECKPOINT, {"progress": {"index": 3}})
    table.replay(Kind.CHECKPOINT, b"[1, 2]")
    table.replay(Kind.CHECKPOINT, b"no json")

    assert known(table)["progress"] == {}


def test_a_snapshot_makes_the_same_table() -> None:
    """What a segment begins with is all there is to know, in the same order."""
    table = begun()
    table.apply(Kind.BEGIN, record(Name("b", None)))
    table.apply(Kind.CHECKPOINT, record(progress={"index": 3}))
    table.apply(Kind.BEGIN, record(Name("c", "1")))
    table.apply(Kind.END, record(Name("c", "1"), status="completed", result="r", at=1.0))
    other = OperationTable()
    for body in table.snapshot():
        other.replay(Kind.OPERATION, body)

    assert [decode_body(body) for body in other.snapshot()] == [
        decode_body(body) for body in table.snapshot()
    ]
    assert [entry.name for entry in other.pending()] == [A, Name("b", None)]


def test_completed_keys_are_forgotten_when_they_are_old_and_many_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both: the last ones are kept, whenever they ended."""
    monkeypatch.setattr(operation_table, "REMEMBERED_COUNT", 3)
    table = begun()
    week = operation_table.REMEMBERED_SECONDS
    for number, ended in enumerate([0.0, 5.0, week + 2.0, week + 3.0, week + 4.0]):
        table.apply(Kind.END, record(Name("done", str(number)), status="completed", at=ended))

    table.forget_old()

    keys = [key for key in "01234" if table.get(Name("done", key)) is not None]
    assert keys == ["1", "2", "3", "4"]
    assert table.get(A) is not None


@pytest.mark.parametrize("ahead", [2, 3, 4])
def test_end_while_the_clock_is_days_ahead_makes_no_other_key_old(
    monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """All are of today: the key of an order of this morning that is forgotten would be sent again."""
    monkeypatch.setattr(operation_table, "REMEMBERED_COUNT", 3)
    table = OperationTable()
    day = 86_400.0
    for number in range(5):
        ended = number + (8 * day if number == ahead else 0.0)
        table.apply(Kind.END, record(Name("done", str(number)), status="completed", at=ended))

    table.forget_old()

    assert [key for key in "01234" if table.get(Name("done", key)) is not None] == list("01234")


@pytest.mark.parametrize(
    "name", [Name('a"b', "\\ü\n"), Name("1 a", "2 b"), Name("", "11 a"), Name("x" * 12, "")]
)
@pytest.mark.parametrize("result", [None, 0, {"$": "decimal", "v": "1.10"}, "ü"])
def test_a_completed_operation_is_the_same_in_the_next_segment(name: Name, result: object) -> None:
    """It is kept packed, and written without being taken apart: whatever its name and its result."""
    table = begun(name)
    table.apply(Kind.END, record(name, status="completed", result=result, at=20.25))
    (body,) = table.snapshot()

    again = OperationTable()
    again.replay(Kind.OPERATION, body)

    assert known(again, name) == known(table, name)
    assert known(again, name)["result"] == result
    assert known(again, name)["ended"] == 20.25
    assert list(again.snapshot()) == [body]


def test_a_completed_key_takes_little_memory() -> None:
    """There may be a hundred thousand, for a week."""
    count = 2000
    table = OperationTable()
    tracemalloc.start()
    for number in range(count):
        name = Name("orders.once", f"sp{number:016d}")
        table.apply(Kind.SEND, record(name, at=10.0, sent_at=15.0, service="orders"))
        table.apply(Kind.END, record(name, status="completed", result=None, at=20.0))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(table) == count
    assert taken / count < 450  # it is 270, and was 1800 as objects


@pytest.mark.parametrize("status", ["completed", "abandoned"])
def test_what_is_taken_back_takes_no_end_with_it(status: str) -> None:
    """The refused record came before it, and an end that has happened stays one."""
    table = OperationTable()
    refused = [
        table.apply(Kind.SEND, record(at=1.0)),
        table.apply(Kind.CHECKPOINT, record(progress={"index": 1})),
    ]
    table.apply(Kind.END, record(status=status, result="filled", at=2.0))

    for take_back in reversed(refused):
        take_back()

    entry = table.get(A)
    assert (None if entry is None else entry.body["result"]) == ("filled" if status == "completed" else None)
    assert not table.pending()


def test_what_is_taken_back_leaves_what_happened_before_it() -> None:
    """One after the other, the last first: an end, then two records that the disk refused."""
    table = begun()
    table.apply(Kind.INTERRUPT, record(why="cancelled"))
    before = known(table)
    refused = [
        table.apply(Kind.BEGIN, record()),
        table.apply(Kind.CHECKPOINT, record(progress={"index": 1})),
    ]

    for take_back in reversed(refused):
        take_back()

    assert known(table) == before

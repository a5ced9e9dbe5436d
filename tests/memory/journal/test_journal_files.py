"""The directory: what a damaged disk does to it, and what stays of what could not be read."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.journal_files import JournalFiles, read_journal
from shockproof.memory.journal.name import Name
from shockproof.memory.journal.record import Kind, encode_body


def files_in(directory: Path, layer: SystemFiles | None = None) -> JournalFiles:
    return JournalFiles(directory, layer=layer or SystemFiles(), segment_bytes=4096)


def write(files: JournalFiles, names: Iterable[str]) -> None:
    """A batch for each name."""
    for name in names:
        body = {"operation": name, "key": None}
        files.table.apply(Kind.BEGIN, body)
        files.append([(Kind.BEGIN, encode_body(body))])
        files.sync()


def a_journal(directory: Path, names: str) -> Path:
    """One of an earlier life; gives its segment."""
    files = files_in(directory)
    files.open()
    write(files, names)
    files.close()
    return next(directory.glob("journal-*"))


def pending(files: JournalFiles) -> str:
    return "".join(entry.name.operation for entry in files.table.pending())


def damage(path: Path, text: bytes) -> None:
    data = path.read_bytes()
    assert text in data
    path.write_bytes(data.replace(text, text[::-1]))


def test_a_journal_that_is_no_directory_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """A pipe has its name: the error tells which, and what to do."""
    journal = tmp_path / "journal"
    os.mkfifo(journal)
    with pytest.raises(NotADirectoryError, match="move what has its name away") as caught:
        read_journal(SystemFiles(), journal)
    assert caught.value.filename == str(journal)


def test_every_life_begins_a_segment_and_leaves_one(tmp_path: Path) -> None:
    """With everything known; nothing is appended to a file that was found."""
    first = a_journal(tmp_path, "ABC")
    files = files_in(tmp_path)
    recovered = files.open()

    assert pending(files) == "ABC"
    assert recovered.damage is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "journal-0000000000000002.wal",
        "lock",
        "reserve.wal",
    ]
    assert first.name == "journal-0000000000000001.wal"
    files.close()


def test_damage_to_what_was_acknowledged_is_loud_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What can be read is used, the file is set aside, and somebody is told."""
    path = a_journal(tmp_path, "ABC")
    damage(path, b'"operation":"B"')
    as_it_was = path.read_bytes()
    files = files_in(tmp_path)
    with caplog.at_level(logging.ERROR):
        recovered = files.open()

    assert recovered.damage is not None
    assert pending(files) == "AC"
    assert "damaged after it had been acknowledged" in caplog.text
    kept = tmp_path / "damaged" / f"{path.name}.whole"
    assert kept.read_bytes() == as_it_was.rstrip(b"\0")
    files.close()
    assert files_in(tmp_path).open().damage is None  # it is over


def test_damage_at_the_end_is_taken_for_a_torn_tail_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing says that the last batch was acknowledged; it is kept for whoever wants to know."""
    path = a_journal(tmp_path, "ABC")
    damage(path, b'"operation":"C"')
    files = files_in(tmp_path)
    with caplog.at_level(logging.WARNING):
        recovered = files.open()

    assert recovered.damage is None
    assert pending(files) == "AB"
    assert "torn by a crash" in caplog.text
    assert b'"operation":"C"'[::-1] in (tmp_path / "damaged" / f"{path.name}.tail").read_bytes()
    files.close()


@pytest.mark.parametrize("left", [64, 300, 4095])
def test_a_file_that_was_cut_off_is_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    """Its space was synced before it got its name: no crash takes it, whatever was written there."""
    path = a_journal(tmp_path, "ABC")
    os.truncate(path, left)
    files = files_in(tmp_path)
    with caplog.at_level(logging.ERROR):
        recovered = files.open()

    assert f"{left:,} of its 4,096 bytes" in (recovered.damage or "")
    assert "damaged after it had been acknowledged" in caplog.text
    assert (tmp_path / "damaged" / f"{path.name}.whole").exists()
    files.close()
    assert files_in(tmp_path).open().damage is None


def test_damage_that_cannot_be_copied_stays_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk is no reason to lose the only copy."""
    path = a_journal(tmp_path, "ABC")
    damage(path, b'"operation":"B"')

    class NoPlaceAside(SystemFiles):
        def make_directory(self, path: Path) -> None:
            if path.name == "damaged":
                raise OSError(errno.ENOSPC, "full")
            super().make_directory(path)

    files = files_in(tmp_path, NoPlaceAside())
    files.open()

    assert path.exists()
    assert pending(files) == "AC"
    files.close()


def test_a_damaged_beginning_falls_back_to_the_segment_before(tmp_path: Path) -> None:
    """If a crash left that one."""
    first = a_journal(tmp_path, "AB")
    old = first.read_bytes()
    second = a_journal(tmp_path, "C")
    first.write_bytes(old)
    damage(second, b'"operation":"A"')
    files = files_in(tmp_path)

    assert files.open().damage is not None
    assert set(pending(files)) == {"A", "B", "C"}
    files.close()


def test_an_older_segment_that_a_crash_left_changes_nothing(tmp_path: Path) -> None:
    """The newest holds everything."""
    first = a_journal(tmp_path, "AB")
    old = first.read_bytes()
    files = files_in(tmp_path)
    files.open()
    body = {"operation": "A", "key": None, "status": "abandoned"}
    files.table.apply(Kind.END, body)
    files.append([(Kind.END, encode_body(body))])
    files.close()
    first.write_bytes(old)

    files = files_in(tmp_path)
    files.open()

    assert pending(files) == "B"
    assert not first.exists()
    files.close()


def test_a_segment_grows_with_what_is_known(tmp_path: Path) -> None:
    """However much is pending, a segment has room for as much again."""
    files = files_in(tmp_path)
    files.open()
    for number in range(300):
        files.table.apply(Kind.BEGIN, {"operation": f"operation {number}", "key": None, "details": "x" * 100})
    files.begin_segment()

    assert files.room_for([b"x" * 20_000])
    assert len(read_journal(SystemFiles(), tmp_path).table) == 300
    files.close()


def test_reading_survives_a_segment_that_vanishes(tmp_path: Path) -> None:
    """Its owner has begun another one meanwhile."""
    a_journal(tmp_path, "A")

    class Hurried(SystemFiles):
        left = 3

        def read(self, path: Path, limit: int) -> bytes:
            if self.left:
                self.left -= 1
                raise FileNotFoundError(path)
            return super().read(path, limit)

    assert read_journal(Hurried(), tmp_path).table.get(Name("A", None)) is not None


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """Only what has our names is ours."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".journal-0000000000000009.wal.tmp").write_text("left by a crash")
    files = files_in(tmp_path)
    files.open()
    files.close()

    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / ".journal-0000000000000009.wal.tmp").exists()


class FullDisk(SystemFiles):
    """Nothing can be allocated any more; what is allocated can be written."""

    is_full = False

    def preallocate(self, handle: int, size: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().preallocate(handle, size)

    def write(self, handle: int, data: memoryview) -> int:
        if self.is_full and os.lseek(handle, 0, os.SEEK_CUR) + len(data) > os.fstat(handle).st_size:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(handle, data)


def learn(files: JournalFiles, first: int, last: int) -> None:
    for number in range(first, last):
        files.table.apply(Kind.BEGIN, {"operation": f"operation {number}", "key": None, "details": "x" * 100})


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is allocated in advance")
@pytest.mark.parametrize("life", ["the same life", "the next life"])
def test_reserve_grows_with_the_segments(tmp_path: Path, life: str) -> None:
    """On a full disk it takes everything that is known, and not only what was known when the journal was young."""
    disk = FullDisk()
    files = files_in(tmp_path, disk)
    files.open()
    if life == "the next life":
        files.close()
        files = files_in(tmp_path, disk)
        files.open()
    learn(files, 0, 300)
    files.begin_segment()
    segment = next(tmp_path.glob("journal-*"))
    assert (tmp_path / "reserve.wal").stat().st_size == segment.stat().st_size

    disk.is_full = True
    learn(files, 300, 320)
    files.begin_segment()

    assert not files.has_reserve
    assert len(read_journal(disk, tmp_path).table) == 320
    disk.is_full = False
    assert files.make_reserve()
    files.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is allocated in advance")
def test_reserve_that_is_too_small_does_not_count_and_is_kept_until_less_is_pending(tmp_path: Path) -> None:
    """The disk is full before it could grow: nothing new begins, and what there is stays for outcomes."""
    disk = FullDisk()
    files = files_in(tmp_path, disk)
    files.open()
    small = (tmp_path / "reserve.wal").stat().st_size
    disk.is_full = True
    files._size = 10 * small

    assert not files.make_reserve()
    assert (tmp_path / "reserve.wal").stat().st_size == small
    assert not (tmp_path / ".reserve.wal.tmp").exists()

    learn(files, 0, 300)
    with pytest.raises(OSError, match="No space left"):
        files.begin_segment()
    assert (tmp_path / "reserve.wal").stat().st_size == small
    for number in range(290):
        files.table.apply(Kind.END, {"operation": f"operation {number}", "key": None, "status": "abandoned"})
    files.begin_segment()
    recovered = read_journal(disk, tmp_path)
    assert len(recovered.table) == 10
    assert recovered.segments[-1].tail == b""
    files.close()


def test_directories_with_our_names_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody's, by accident: the journal is read, written and told apart from them."""
    a_journal(tmp_path, "AB")
    for name in ("journal-0000000000000099.wal", ".mine.tmp"):
        (tmp_path / name).mkdir()

    for life in ("ABC", "ABCD"):
        files = files_in(tmp_path)
        files.open()
        write(files, life[-1])
        files.close()
        assert pending(files) == life

    for name in ("journal-0000000000000099.wal", ".mine.tmp"):
        assert (tmp_path / name).is_dir()
        assert str(tmp_path / name) in caplog.text


def test_numbers_go_on_behind_the_largest_of_sixteen_digits(tmp_path: Path) -> None:
    """A segment that somebody has given the last of them hides none that is written later."""
    segment = a_journal(tmp_path, "A")
    segment.rename(tmp_path / "journal-9999999999999999.wal")
    a_journal(tmp_path, "B")
    files = files_in(tmp_path)
    files.open()

    assert pending(files) == "AB"
    files.close()


def test_renamed_segment_is_read_and_counts_as_damage(tmp_path: Path) -> None:
    """What is in it happened; what is missing beside it nobody can tell, now and in later lives."""
    a_journal(tmp_path, "AB").rename(tmp_path / "journal-0000000000000042.wal")
    files = files_in(tmp_path)
    recovered = files.open()
    files.close()

    assert pending(files_in_again(tmp_path)) == "AB"
    assert recovered.damage == "journal-0000000000000042.wal: its head says it is segment 1"
    later = read_journal(SystemFiles(), tmp_path)
    assert later.damage is None
    assert later.incomplete == recovered.damage
    assert later.has_lost_something


def files_in_again(directory: Path) -> JournalFiles:
    files = files_in(directory)
    files.open()
    files.close()
    return files


def test_older_segment_under_a_newer_name_hides_nothing(tmp_path: Path) -> None:
    """A copy that somebody kept, with the highest number: the newer one holds what happened since."""
    first = a_journal(tmp_path, "A")
    kept = first.read_bytes()
    a_journal(tmp_path, "B")
    (tmp_path / "journal-0000000000000050.wal").write_bytes(kept)

    recovered = read_journal(SystemFiles(), tmp_path)
    assert [content.made_as for content in recovered.segments] == [1, 2]
    assert pending(files_in_again(tmp_path)) == "AB"


def test_segment_that_is_gone_is_a_hole(tmp_path: Path) -> None:
    """Renamed to what is no segment's name: the reserve beside it tells that there was one."""
    a_journal(tmp_path, "AB").rename(tmp_path / "journal.bak")
    assert read_journal(SystemFiles(), tmp_path).damage == "its segment was removed or renamed"
    files_in_again(tmp_path)
    later = read_journal(SystemFiles(), tmp_path)
    assert (later.damage, later.incomplete) == (None, "its segment was removed or renamed")

    (tmp_path / "new").mkdir()
    assert not read_journal(SystemFiles(), tmp_path / "new").has_lost_something


def test_mark_that_cannot_be_written_leaves_the_damage_for_the_next_life(tmp_path: Path) -> None:
    """A full disk: what tells that something is missing must not be removed."""
    path = a_journal(tmp_path, "ABC")
    damage(path, b'"operation":"B"')

    class NoMark(SystemFiles):
        def create(self, path: Path) -> int:
            if "incomplete" in path.name:
                raise OSError(errno.ENOSPC, "full")
            return super().create(path)

    files = files_in(tmp_path, NoMark())
    files.open()
    files.close()
    assert path.exists()
    assert read_journal(SystemFiles(), tmp_path).has_lost_something
    files_in_again(tmp_path)
    assert not path.exists()
    assert "record 3 is damaged" in str(read_journal(SystemFiles(), tmp_path).incomplete)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"reason": 7}'])
def test_mark_counts_whatever_stands_in_it(tmp_path: Path, content: bytes) -> None:
    """Also an empty one, which a person has made."""
    a_journal(tmp_path, "A")
    (tmp_path / "incomplete.json").write_bytes(content)
    assert files_in(tmp_path).open().has_lost_something
    assert read_journal(SystemFiles(), tmp_path).incomplete


@pytest.mark.parametrize("number", [10**18 - 1, 10**18 - 2])
def test_numbers_that_have_come_to_their_end_are_refused_with_a_way_out(tmp_path: Path, number: int) -> None:
    """Nobody gets there by use; a number more would be a name that no later life reads."""
    a_journal(tmp_path, "A").rename(tmp_path / f"journal-{number}.wal")
    with pytest.raises(OSError, match="have come to their end"):
        files_in(tmp_path).open()
    assert sorted(path.name for path in tmp_path.glob("*.wal")) == [f"journal-{number}.wal", "reserve.wal"]

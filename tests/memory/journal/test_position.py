"""What stands beside the journal tells of one that is gone, was cut short, or was exchanged; and of nothing else."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from pathlib import Path

import pytest

from shockproof.memory.disk.file_layer import FileLayer, FileStamp, SystemFiles
from shockproof.memory.journal.journal_files import JournalFiles, Recovered, read_journal
from shockproof.memory.journal.position import Position, position_path, read_position, write_position
from shockproof.memory.journal.record import Kind, encode_body
from shockproof.memory.journal.segment import number_in, read_segment

LAYER = SystemFiles()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


def live(home: Path, names: str, *, is_orderly: bool = True, layer: FileLayer = LAYER) -> Recovered:
    """A life that begins these operations; gives what it found."""
    files = JournalFiles(home, layer=layer, segment_bytes=4096)
    found = files.open()
    for name in names:
        body = {"operation": name, "key": None}
        files.table.apply(Kind.BEGIN, body)
        files.append([(Kind.BEGIN, encode_body(body))])
        files.sync()
    if is_orderly:
        files.tell_position()
    files.close()
    return found


def segment_of(home: Path) -> Path:
    (segment,) = home.glob("journal-*")
    return segment


def test_zeros_from_any_record_on_are_told_from_an_end(home: Path) -> None:
    """The space behind the records is zeros, too: only what stands beside it tells that there was more."""
    live(home, "ABC")
    segment = segment_of(home)
    whole = segment.read_bytes()
    number = number_in(segment.name)
    assert number is not None
    records = read_segment(number, whole).records
    ends = [record.end for record in records if record.kind in {Kind.BEGIN, Kind.COMPLETE}]
    assert len(ends) == 4
    for end in ends[:-1]:
        segment.write_bytes(whole[:end].ljust(len(whole), b"\0"))
        found = read_journal(LAYER, home)
        assert found.behind is not None
        assert f"and {records[-1].sequence} had been acknowledged" in found.behind
        assert found.damage == found.behind
    segment.write_bytes(whole)
    assert not read_journal(LAYER, home).has_lost_something


def test_journal_that_was_removed_is_missed_in_this_life_and_later(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty place is no first start where there was a journal. The next life knows it by the mark."""
    live(home, "AB", is_orderly=False)
    shutil.rmtree(home)
    assert read_journal(LAYER, home).behind == "its segment 1 is gone, with all records up to 1"
    found = live(home, "C")

    assert found.behind is not None
    assert "its segment 1 is gone" in caplog.text
    later = read_journal(LAYER, home)
    assert (later.damage, later.incomplete) == (None, found.behind)
    assert segment_of(home).name == "journal-0000000000000002.wal"  # ahead of the one that is gone


def test_older_copy_of_the_journal_alone_is_noticed(home: Path, tmp_path: Path) -> None:
    """A backup of the journal, put back beside a position that is newer."""
    live(home, "A")
    shutil.copytree(home, tmp_path / "backup")
    live(home, "B")
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "backup", home)

    found = live(home, "")
    assert "an older copy was put in its place" in str(found.behind)
    assert read_journal(LAYER, home).incomplete == found.behind


def test_copy_of_the_whole_is_warned_of_once_and_marked_never(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A backup that was put back, or a copy beside the original: nobody can tell which, and most moves are meant."""
    live(home, "A")
    shutil.copytree(home.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / "journal"
    assert read_journal(LAYER, copy).is_elsewhere

    found = live(copy, "B")
    assert not found.has_lost_something
    assert "is a copy, or was put back from one" in caplog.text
    caplog.clear()
    live(copy, "C")
    live(home, "D")
    assert caplog.text == ""


def test_directory_that_was_moved_is_no_copy(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are the same ones under another name."""
    live(home, "A")
    home.parent.rename(tmp_path / "moved")
    assert not live(tmp_path / "moved" / "journal", "B").is_elsewhere
    assert caplog.text == ""


def test_backup_whose_lock_got_the_number_of_the_removed_one_is_warned_of(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """File systems give the number of a removed file to the next one at once; but that one is younger."""

    class NumbersAgain(SystemFiles):
        born = 1

        def stamp(self, path: Path, *, follow_links: bool = True) -> FileStamp:
            return super().stamp(path, follow_links=follow_links)._replace(number=7)

        def born_at(self, path: Path) -> int | None:
            return self.born

    files = NumbersAgain()
    live(home, "A", layer=files)
    shutil.copytree(home.parent, tmp_path / "backup")
    live(home, "B", layer=files)
    assert caplog.text == ""
    shutil.rmtree(home.parent)
    shutil.copytree(tmp_path / "backup", home.parent)
    files.born = 2

    found = live(home, "", layer=files)
    assert found.is_elsewhere
    assert not found.has_lost_something
    assert "is a copy, or was put back from one" in caplog.text


def copy_over(backup: Path, state: Path) -> None:
    """As ``cp -a backup/. state/``: into the files that are there, which stay the same ones."""
    for path in backup.rglob("*"):
        if path.is_file():
            (state / path.relative_to(backup)).write_bytes(path.read_bytes())


class BirthsOfPositions(SystemFiles):
    """As on a file system that tells when a file was made: each position is made anew, and the lock never."""

    made = 0

    def __init__(self) -> None:
        self.born: dict[int, int] = {}

    def create(self, path: Path) -> int:
        handle = super().create(path)
        BirthsOfPositions.made += 1
        self.born[path.stat().st_ino] = BirthsOfPositions.made
        return handle

    def born_at(self, path: Path) -> int | None:
        return self.born.get(path.stat().st_ino, 7) if path.exists() else None


@pytest.mark.parametrize("removes", [True, False], ids=["newer segments removed", "newer segments left"])
def test_backup_that_was_put_over_the_original_is_told_from_it(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, removes: bool
) -> None:
    """The lock is the same file, and what tells the position is not the one that it was written to."""
    files = BirthsOfPositions()
    live(home, "A", layer=files)
    shutil.copytree(home.parent, tmp_path / "backup")
    live(home, "B", layer=files)
    assert caplog.text == ""
    if removes:
        segment_of(home).unlink()
    copy_over(tmp_path / "backup", home.parent)

    found = live(home, "", layer=files)
    assert found.is_elsewhere
    assert found.has_lost_something == removes
    if removes:
        assert "an older copy was put over it" in str(found.behind)
        assert read_journal(files, home).incomplete == found.behind
    else:
        assert "is a copy, or was put back from one" in caplog.text
    caplog.clear()
    assert live(home, "C", layer=files).behind is None
    assert caplog.text == ""


def test_backup_put_over_the_original_is_warned_of_where_no_births_are_told(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers alone prove nothing: some file systems give out others each time."""

    class Numbers(SystemFiles):
        position = 1

        def stamp(self, path: Path, *, follow_links: bool = True) -> FileStamp:
            number = self.position if "position" in path.name else 7
            return super().stamp(path, follow_links=follow_links)._replace(number=number)

        def born_at(self, path: Path) -> int | None:
            return None

    files = Numbers()
    live(home, "A", layer=files)
    assert caplog.text == ""
    files.position = 2
    found = live(home, "", layer=files)
    assert found.is_elsewhere
    assert not found.has_lost_something
    assert "is a copy, or was put back from one" in caplog.text


def test_position_that_is_replaced_while_it_is_read_is_no_copy(home: Path) -> None:
    """Its owner tells the next one at that moment."""
    live(home, "A")

    class Replaced(SystemFiles):
        left = 3

        def read(self, path: Path, limit: int) -> bytes:
            if path == position_path(home) and self.left:
                self.left -= 1
                write_position(LAYER, home, Position(1, 1))
            return super().read(path, limit)

    files = Replaced()
    position = read_position(files, home)
    assert position is not None
    assert files.left == 0
    assert not position.is_copied


def test_file_system_that_tells_no_birth_is_asked_for_the_number_alone(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So it is where it told one before, and beside the position of an older shockproof."""

    class NoBirth(SystemFiles):
        def born_at(self, path: Path) -> int | None:
            return None

    live(home, "A")
    assert not live(home, "B", layer=NoBirth()).is_elsewhere
    assert not live(home, "C").is_elsewhere
    assert caplog.text == ""


@pytest.mark.parametrize(
    "content", [None, b"", b"[]", b'{"segment": 9}', b'{"format_version": 1, "segment": 9, "sequence": 99, "lock": 1}']
)  # fmt: skip
def test_nothing_is_missed_without_a_position_that_can_be_read(home: Path, content: bytes | None) -> None:
    """An older shockproof wrote none; one that is damaged proves nothing."""
    live(home, "A")
    if content is None:
        position_path(home).unlink()
    else:
        position_path(home).write_bytes(content)
    found = live(home, "B")
    assert not found.has_lost_something
    assert not found.is_elsewhere
    assert read_position(LAYER, home) is not None


def test_position_of_a_newer_program_proves_nothing(home: Path) -> None:
    """Nobody knows here what it means."""
    live(home, "A")
    content = json.loads(position_path(home).read_bytes())
    assert content.pop("checksum")
    position_path(home).write_text(json.dumps({**content, "format_version": 2, "checksum": 0}))
    assert read_position(LAYER, home) is None


def test_journal_goes_on_where_its_position_cannot_be_written(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It protects less then; and no order waits for it."""

    class NoPosition(SystemFiles):
        def create(self, path: Path) -> int:
            if "position" in path.name:
                raise OSError(errno.ENOSPC, "full")
            return super().create(path)

    files = JournalFiles(home, layer=NoPosition(), segment_bytes=4096)
    with caplog.at_level(logging.WARNING):
        files.open()
    assert files.is_usable
    assert "could not be written beside it" in caplog.text
    files.close()


def test_what_a_crash_left_of_a_position_is_in_nobodys_way(home: Path) -> None:
    """Under its temporary name."""
    live(home, "A")
    path = position_path(home)
    path.with_name(f".{path.name}.tmp").write_bytes(b"half")
    write_position(LAYER, home, Position(7, 70))
    assert read_position(LAYER, home) == Position(7, 70)
    assert sorted(one.name for one in home.parent.iterdir()) == ["journal", "journal_position.json"]

"""Replacing files durably, on a real file system and on one that refuses."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from shockproof.memory.disk.durable_file import Replacement, replace_durably
from shockproof.memory.disk.file_layer import SystemFiles


class FailingFiles(SystemFiles):
    """The real file system; the call named *at* fails from its *nth* time on."""

    def __init__(self, at: str, code: int, nth: int = 1) -> None:
        super().__init__()
        self.at = at
        self.code = code
        self.left = nth - 1
        self.calls = 0

    def _maybe(self, name: str) -> None:
        if name == self.at:
            self.calls += 1
            if self.left == 0:
                raise OSError(self.code, os.strerror(self.code))
            self.left -= 1

    def write(self, handle: int, data: memoryview) -> int:
        self._maybe("write")
        return super().write(handle, data[:70_000])

    def fsync(self, handle: int) -> None:
        self._maybe("fsync")
        super().fsync(handle)

    def close(self, handle: int) -> None:
        super().close(handle)
        self._maybe("close")

    def link(self, existing: Path, new: Path) -> None:
        self._maybe("link")
        super().link(existing, new)

    def replace(self, source: Path, target: Path) -> None:
        self._maybe("replace")
        super().replace(source, target)

    def fsync_directory(self, path: Path) -> None:
        self._maybe("fsync_directory")
        super().fsync_directory(path)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_replacement_keeps_the_previous_generation(tmp_path: Path) -> None:
    """After the second replacement the first content is under the previous name."""
    for content in (b"one", b"two", b"three"):
        replace_durably(SystemFiles(), tmp_path, [Replacement("file", [content], previous="file.prev")])

    assert (tmp_path / "file").read_bytes() == b"three"
    assert (tmp_path / "file.prev").read_bytes() == b"two"
    assert names(tmp_path) == ["file", "file.prev"]


def test_replaced_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """A state may hold what is nobody else's business."""
    replace_durably(SystemFiles(), tmp_path, [Replacement("file", [b"x"])])

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_content_comes_in_pieces_and_short_writes(tmp_path: Path) -> None:
    """A disk that takes less than it was given gets the rest."""
    pieces = [bytes([number]) * 100_000 for number in range(20)]

    replace_durably(FailingFiles("never", 0), tmp_path, [Replacement("file", pieces)])

    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("at", ["write", "fsync", "close", "replace"])
def test_disk_that_refuses_leaves_the_old_file_and_no_other(tmp_path: Path, at: str) -> None:
    """ENOSPC or EIO anywhere before the names change: nothing has changed."""
    (tmp_path / "file").write_bytes(b"old")

    with pytest.raises(OSError, match="No space left"):
        replace_durably(
            FailingFiles(at, errno.ENOSPC), tmp_path, [Replacement("file", [b"new"], previous="file.prev")]
        )

    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_second_file_that_fails_keeps_the_first_unchanged(tmp_path: Path) -> None:
    """No name changes before all new files are durable."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"old")

    with pytest.raises(OSError, match="Input/output"):
        replace_durably(
            FailingFiles("fsync", errno.EIO, nth=2), tmp_path, [Replacement(name, [b"new"]) for name in "ab"]
        )

    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == [b"old", b"old"]


def test_failed_fsync_is_not_tried_again(tmp_path: Path) -> None:
    """A second fsync may say that all is well after the kernel has dropped the data."""
    layer = FailingFiles("fsync", errno.EIO)

    with pytest.raises(OSError, match="Input/output"):
        replace_durably(layer, tmp_path, [Replacement("file", [b"new"])])

    assert layer.calls == 1


def test_failed_directory_fsync_is_reported(tmp_path: Path) -> None:
    """The file is there, but nobody may be told that it survives a power cut."""
    with pytest.raises(OSError, match="Input/output"):
        replace_durably(FailingFiles("fsync_directory", errno.EIO), tmp_path, [Replacement("file", [b"new"])])


def test_file_system_without_hard_links_keeps_the_previous_generation_too(tmp_path: Path) -> None:
    """There the old file is renamed instead."""
    layer = FailingFiles("link", errno.EPERM)
    for content in (b"one", b"two"):
        replace_durably(layer, tmp_path, [Replacement("file", [content], previous="file.prev")])

    assert (tmp_path / "file").read_bytes() == b"two"
    assert (tmp_path / "file.prev").read_bytes() == b"one"


def test_crash_between_keeping_and_replacing_leaves_nothing_for_the_next_save(tmp_path: Path) -> None:
    """Then both names are of one file, and renaming one of its names to another does nothing."""
    (tmp_path / "file").write_bytes(b"one")
    (tmp_path / "file.prev").hardlink_to(tmp_path / "file")

    replace_durably(SystemFiles(), tmp_path, [Replacement("file", [b"two"], previous="file.prev")])

    assert names(tmp_path) == ["file", "file.prev"]
    assert (tmp_path / "file.prev").read_bytes() == b"one"


def test_leftovers_of_a_crash_are_removed_and_other_files_are_not(tmp_path: Path) -> None:
    """Only what looks like a temporary file of ours goes."""
    kept = {".hidden.tmp", "notes.tmp", ".file.tmp", "file.1.2.tmp"}
    for name in {*kept, ".file.4711.1.tmp", ".system_state.prev.json.12.34.tmp"}:
        (tmp_path / name).write_bytes(b"x")

    replace_durably(SystemFiles(), tmp_path, [])

    assert set(names(tmp_path)) == kept


def test_content_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """An error while the content is made passes through and leaves no temporary file."""

    def content() -> object:
        yield b"half"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replace_durably(SystemFiles(), tmp_path, [Replacement("file", content())])  # type: ignore[arg-type]  # it is an iterator

    assert names(tmp_path) == []


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """A link in the file's place is replaced; what it points to stays as it is."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / "file").symlink_to(outside)

    replace_durably(SystemFiles(), directory, [Replacement("file", [b"new"])])

    assert outside.read_bytes() == b"mine"
    assert not (directory / "file").is_symlink()


def test_directory_locked_by_another_writer_is_refused_in_the_end(tmp_path: Path) -> None:
    """Two writers in one directory take turns; one that never gets its turn says so."""
    entered = threading.Event()
    leave = threading.Event()

    def hold() -> None:
        with SystemFiles().locked(tmp_path):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    try:
        with (
            pytest.raises(BlockingIOError, match="another writer"),
            SystemFiles(lock_timeout=0).locked(tmp_path),
        ):
            pass
    finally:
        leave.set()
        thread.join()
    with SystemFiles(lock_timeout=0).locked(tmp_path):
        pass

"""Whole lines at the end of a file, whatever happens to the file."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import AsyncIterator, Callable
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from shockproof.memory.disk.append_file import AppendFile
from shockproof.memory.disk.file_layer import SYSTEM_FILES, SystemFiles
from shockproof.memory.disk.line_file import LineFile
from shockproof.memory.disk.writer import DiskThread

T = TypeVar("T")


@pytest_asyncio.fixture
async def file(tmp_path: Path) -> AsyncIterator[AppendFile]:
    file = AppendFile(tmp_path / "new" / "deeper" / "errors_20261125.jsonl", DiskThread("test"))
    yield file
    await file.close()


async def run(file: AppendFile, job: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(file._disk, job)


async def append(file: AppendFile, lines: bytes) -> None:
    await file.prepare()
    assert await file.append(lines) == (len(lines), None)


@pytest.mark.asyncio
async def test_a_new_file_is_its_owners_only(file: AppendFile) -> None:
    """With its directories; messages of errors are nobody else's business."""
    await append(file, b"one\n")
    await append(file, b"two\n")

    assert file.path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.size == 8


@pytest.mark.asyncio
async def test_a_torn_last_line_is_ended_before_the_first_append(file: AppendFile) -> None:
    """The next record must not stick to what a crash has left."""
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(b'whole\n{"torn')
    await append(file, b"one\n")
    await append(file, b"two\n")

    assert file.path.read_bytes() == b'whole\n{"torn\none\ntwo\n'


@pytest.mark.asyncio
async def test_a_line_that_another_process_is_writing_is_waited_for(
    file: AppendFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of an append may show before the rest; a newline after it would make an empty line. The disk's thread serves others meanwhile."""
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(b'{"half')

    def write_the_rest() -> None:
        with file.path.open("ab") as other:
            other.write(b'": 1}\n')

    async def go_on(_: float) -> None:
        await asyncio.get_running_loop().run_in_executor(file._disk, write_the_rest)

    monkeypatch.setattr(asyncio, "sleep", go_on)
    await append(file, b"one\n")

    assert file.path.read_bytes() == b'{"half": 1}\none\n'


@pytest.mark.asyncio
async def test_a_vanished_or_replaced_file_is_made_again(file: AppendFile) -> None:
    """A clean-up script, a log rotation, a directory that was removed with everything in it."""
    await append(file, b"one\n")
    file.path.unlink()
    await append(file, b"two\n")
    after_unlink = file.path.read_bytes()
    file.path.rename(file.path.with_suffix(".old"))
    file.path.write_bytes(b"other\n")
    await append(file, b"three\n")
    after_rename = file.path.read_bytes()
    for path in file.path.parent.iterdir():
        path.unlink()
    file.path.parent.rmdir()
    await append(file, b"four\n")

    assert (after_unlink, after_rename) == (b"two\n", b"other\nthree\n")
    assert file.path.read_bytes() == b"four\n"


@pytest.mark.asyncio
async def test_a_full_disk_is_told_with_how_far_it_went(tmp_path: Path) -> None:
    """Nothing, on a device that is always full."""
    (tmp_path / "full").symlink_to("/dev/full")
    file = AppendFile(tmp_path / "full", DiskThread("test"))
    await file.prepare()
    done, error = await file.append(b"one\n")
    await file.close()

    assert done == 0
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC


class SmallFile(FileIO):
    """On a disk that has room for so many bytes, and takes four at most at once."""

    room = 0
    meanwhile: Callable[[], object] | None = None
    """What another process does when the disk is full, before anybody hears of it."""

    def write(self, data: Any, /) -> int:  # Any: whatever a file takes
        if not self.room:
            if self.meanwhile is not None:
                self.meanwhile()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = super().write(data[: min(self.room, 4)])
        self.room -= done
        return done


class SmallDisk(SystemFiles):
    """Of which one file is opened."""

    file: SmallFile

    def open_to_append(self, path: Path) -> FileIO:
        super().open_to_append(path).close()
        self.file = SmallFile(path, "a+")
        self.file.room = 1_000
        return self.file


@pytest.fixture
def small_disk() -> SmallDisk:
    return SmallDisk()


@pytest_asyncio.fixture
async def small(tmp_path: Path, small_disk: SmallDisk) -> AsyncIterator[AppendFile]:
    file = AppendFile(tmp_path / "errors_20261125.jsonl", DiskThread("test"), small_disk)
    await append(file, b"before\n")
    yield file
    await file.close()


@pytest.mark.asyncio
async def test_a_line_that_fitted_in_part_is_taken_back(small: AppendFile, small_disk: SmallDisk) -> None:
    """What other processes append must not end up in the middle of it. The system may also take less than it could."""
    small_disk.file.room = 9
    done, error = await small.append(b"one\ntwo\nthree\n")
    left = small.path.read_bytes()
    small_disk.file.room = 100
    await append(small, b"three\n")

    assert done == 8
    assert error is not None
    assert left == b"before\none\ntwo\n"
    assert small.path.read_bytes() == b"before\none\ntwo\nthree\n"


@pytest.mark.asyncio
async def test_a_fragment_that_others_have_built_on_is_left(small: AppendFile, small_disk: SmallDisk) -> None:
    """Only our own bytes at the very end are taken back; else a newline ends what stands there."""

    def build_on_it() -> None:
        with small.path.open("ab") as other:  # which asks for no lock
            other.write(b"other")

    small_disk.file.room, small_disk.file.meanwhile = 2, build_on_it
    done, _ = await small.append(b"two\n")
    small_disk.file.room = 100
    await append(small, b"two\n")

    assert done == 0
    assert small.path.read_bytes() == b"before\ntwother\ntwo\n"


def test_nobody_appends_between_a_fragment_and_its_taking_back(tmp_path: Path, small_disk: SmallDisk) -> None:
    """Another process has its turn when the full disk was dealt with: its line is whole, and is not cut off."""
    path = tmp_path / "errors_20261125.jsonl"
    with LineFile(path, small_disk) as one, LineFile(path, SYSTEM_FILES) as other:
        one.open()
        meanwhile: list[int] = []
        small_disk.file.room = 2
        small_disk.file.meanwhile = lambda: meanwhile.append(other.write(b"other\n"))
        done = one.write(b"two\n")
        afterwards = other.write(b"other\n")

    assert (done, one.stopped_by is not None) == (0, True)
    assert (meanwhile, other.stopped_by, afterwards) == ([0], None, 6)
    assert path.read_bytes() == b"other\n"


@pytest.mark.asyncio
async def test_the_torn_append_of_a_killed_process_is_ended_by_the_next_of_another(file: AppendFile) -> None:
    """Of one that has had the file open all the time, and has looked at its ending long ago."""
    await append(file, b"one\n")
    with file.path.open("ab") as killed:
        killed.write(b'{"torn')
    await append(file, b"two\n")
    await append(file, b"three\n")

    assert file.path.read_bytes() == b'one\n{"torn\ntwo\nthree\n'


@pytest.mark.asyncio
async def test_a_lock_that_is_never_let_go_is_waited_for_once(
    file: AppendFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner may be stopped: the records are written all the same, and each later batch tries for a moment only."""
    await append(file, b"one\n")
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", wait)
    stopped = await run(file, partial(SYSTEM_FILES.open_to_append, file.path))
    assert await run(file, partial(SYSTEM_FILES.hold, stopped.fileno()))
    await append(file, b"two\n")
    first = sum(waits)
    await append(file, b"three\n")
    again = sum(waits) - first
    stopped.close()
    await append(file, b"four\n")

    assert (round(first, 3), round(again, 3)) == (0.5, 0.02)
    assert sum(waits) == first + again
    assert file.path.read_bytes() == b"one\ntwo\nthree\nfour\n"


@pytest.mark.asyncio
async def test_where_there_are_no_locks_nobody_is_waited_for(
    small: AppendFile, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none: all is done as with one."""
    refusals: list[int] = []

    def refuse(_: int, operation: int) -> None:
        refusals.append(operation)
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    small_disk.file.room = 6
    done, _ = await small.append(b"one\ntwo\n")

    assert refusals == [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN]
    assert done == 4
    assert small.path.read_bytes() == b"before\none\n"


@pytest.mark.asyncio
async def test_without_the_lock_nothing_is_cut_off(small: AppendFile, small_disk: SmallDisk) -> None:
    """What another process has appended by then would go as well: the fragment stays, and is ended."""
    small_disk.hold = lambda handle: False  # type: ignore[method-assign]  # a stopped process has it
    small_disk.file.room = 2
    done, _ = await small.append(b"two\n")
    small_disk.file.room = 100
    await append(small, b"two\n")

    assert done == 0
    assert small.path.read_bytes() == b"before\ntw\ntwo\n"


@pytest.mark.asyncio
async def test_a_closed_file_opens_again(file: AppendFile) -> None:
    """Closing twice, syncing a closed one: nothing happens."""
    await file.close()
    await file.sync()
    await append(file, b"one\n")
    await file.sync()
    await file.close()
    await append(file, b"two\n")

    assert file.path.read_bytes() == b"one\ntwo\n"


def test_a_directory_in_its_place_is_an_error(tmp_path: Path) -> None:
    """Told by prepare, which the log tries again."""
    file = AppendFile(tmp_path, DiskThread("test"))

    with pytest.raises(IsADirectoryError):
        asyncio.run(file.prepare())

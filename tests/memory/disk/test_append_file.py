"""Whole lines at the end of a file, whatever happens to the file."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from shockproof.memory.disk.append_file import AppendFile
from shockproof.memory.disk.writer import DiskThread


@pytest_asyncio.fixture
async def file(tmp_path: Path) -> AsyncIterator[AppendFile]:
    file = AppendFile(tmp_path / "new" / "deeper" / "errors_20261125.jsonl", DiskThread("test"))
    yield file
    await file.close()


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


@pytest.mark.asyncio
async def test_a_line_that_fitted_in_part_is_taken_back(
    file: AppendFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other processes append must not end up in the middle of it."""
    await append(file, b"before\n")
    inner = file._file
    assert inner is not None
    real, room = inner.write, 9

    async def write(data: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = data[: min(room, 4)]  # the system may also take less than it could
        room -= len(taken)
        return await real(taken)

    monkeypatch.setattr(inner, "write", write)
    done, error = await file.append(b"one\ntwo\nthree\n")
    left = file.path.read_bytes()
    room = 100
    await append(file, b"three\n")

    assert done == 8
    assert error is not None
    assert left == b"before\none\ntwo\n"
    assert file.path.read_bytes() == b"before\none\ntwo\nthree\n"


@pytest.mark.asyncio
async def test_a_fragment_that_others_have_built_on_is_left(
    file: AppendFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only our own bytes at the very end are taken back; else a newline ends what stands there."""
    await append(file, b"before\n")
    inner = file._file
    assert inner is not None
    real = inner.write

    async def write(data: memoryview) -> int:
        if len(data) < 4:
            with file.path.open("ab") as other:
                other.write(b"other")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return await real(data[:2])

    monkeypatch.setattr(inner, "write", write)
    done, _ = await file.append(b"two\n")
    monkeypatch.setattr(inner, "write", real)
    await append(file, b"two\n")

    assert done == 0
    assert file.path.read_bytes() == b"before\ntwother\ntwo\n"


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

"""Disks that are full, read-only or gone, and good again: what was acknowledged is there, and what reduces risk goes out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shockproof import (
    NOT_FOUND,
    ErrorRecoveryService,
    JournalUnavailableError,
    StateNotSavedError,
)
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal import journal as journals
from shockproof.memory.journal.journal import Journal
from shockproof.memory.journal.journal_files import read_journal
from shockproof.memory.journal.name import Name

SCRIPT = Path(__file__).with_name("small_disk_user.py")

# ---- file systems of their own


def in_a_namespace(directory: Path, *command: object) -> list[str]:
    """What the command says, with mounts that nobody else sees; skips where that may not be had."""
    said = ""
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if shutil.which("unshare") is None:
            pytest.skip("there is no unshare, of util-linux, here")
        probe = [*unshare, "mount", "-t", "tmpfs", "tmpfs", directory]
        asked = subprocess.run(probe, capture_output=True, text=True, check=False)
        if asked.returncode:
            said = asked.stderr.strip()
            continue
        done = subprocess.run(
            [*unshare, *map(str, command)], capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
    pytest.skip(f"this machine lets nobody mount a file system, not even for itself: {said}")


def test_full_disk_refuses_what_begins_and_takes_what_ends(tmp_path: Path) -> None:
    """64 KiB of tmpfs, filled to the last byte, and then not; the program is killed at the end."""
    said = in_a_namespace(tmp_path, sys.executable, SCRIPT, "full", tmp_path)

    counts = [line.rpartition(" ")[2] for line in said if line.startswith("fillers")]
    assert counts[0] == counts[1]
    assert [line for line in said if not line.startswith("fillers")] == [
        "mounted",
        "save 1 done",
        "order o-1 sent",
        "operation open begun",
        "save 2 refused: ENOSPC",
        "operations refused after some: True",
        "journal: no space",
        "order o-2 refused",
        "cancel c-1 sent",
        "operation open completed",
        "error log: degraded",
        "save 3 done",
        "operation after begun",
        "order o-3 sent",
        "restored: 3 damaged: 0",
        "pending: after damage: None",
        "completed: c-1 o-1 o-3 open",
        "errors: before " + 12 * "full " + "after",
    ]


def test_disk_that_is_too_small_for_a_journal_sends_what_reduces_risk_only(tmp_path: Path) -> None:
    """64 KiB of tmpfs, and a segment of the usual 4 MiB; state and error log are not concerned."""
    assert in_a_namespace(tmp_path, sys.executable, SCRIPT, "too-small", tmp_path) == [
        "mounted",
        "save 1 done",
        "operation 1 refused",
        "order o-1 refused",
        "cancel c-1 sent",
        "at the end: c-1 is not journalled",
        "restored: 1 damaged: 0",
        "fillers found: 0",
        "pending: damage: None",
        "completed:",
        "errors: one",
    ]


def test_disk_that_is_read_only_for_a_while_is_written_to_again(tmp_path: Path) -> None:
    """The directories turn read-only under the program, as file systems do after an error, and back; the cancel is known then."""
    assert in_a_namespace(tmp_path, sys.executable, SCRIPT, "read-only", tmp_path) == [
        "mounted",
        "save 1 done",
        "operation 1 begun",
        "save 2 refused: EROFS",
        "operation 2 refused",
        "order o-1 refused",
        "cancel c-1 sent",
        "error log: degraded",
        "save 3 done",
        "operation 3 begun",
        "restored: 3 damaged: 0",
        "fillers found: 0",
        "pending: 1 3 damage: None",
        "completed: c-1",
        "errors: read-only after",
    ]


# ---- on the disk that is there


class DevFull(SystemFiles):
    """The real disk, whose new files are `/dev/full` while it is."""

    is_full = False

    def create(self, path: Path) -> int:
        handle = super().create(path)
        if not self.is_full:
            return handle
        os.close(handle)
        return os.open("/dev/full", os.O_WRONLY)

    def preallocate(self, handle: int, size: int) -> None:
        if not self.is_full:
            super().preallocate(handle, size)


async def order(recovery: ErrorRecoveryService, key: str, *, is_cancel: bool = False) -> str:
    async def send(*, key: str) -> str:
        return key

    async def find(_key: str) -> object:
        return NOT_FOUND

    venue = recovery.service("venue", effect="unsafe", max_retries=0).using(risk_reducing=is_cancel)
    return await venue.once(key=key, confirm=find, key_argument="key").call(send)


async def orders_until_refused(recovery: ErrorRecoveryService) -> None:
    for number in range(100):  # a segment has some room left
        await order(recovery, f"o-2-{number}")


async def fail(recovery: ErrorRecoveryService, text: str) -> None:
    async def failing() -> None:
        raise ConnectionError(text)

    with contextlib.suppress(ConnectionError):
        await recovery.retry_with_backoff(failing, service_name="feed", max_retries=0)


async def refused(error: type[Exception], call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(error):
        await call()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that failed is tried again with the next request, and not a second later."""
    monkeypatch.setattr(journals, "_AGAIN_AFTER", 0.0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.asyncio
async def test_dev_full_refuses_saves_and_orders_and_stops_no_cancel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write says ENOSPC: the old files stay, and the new ones are written when it has space again."""
    disk = DevFull()
    path = tmp_path / "state" / "journal"
    small = Journal(path, layer=disk, segment_bytes=2048)
    monkeypatch.setitem(journals._journals, str(path), small)
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    recovery._saver._files._layer = disk
    recovery._halt._layer = disk
    await recovery.save_state(cached_data={"number": 1}, force=True)
    await order(recovery, "o-1")
    disk.is_full = True

    await refused(StateNotSavedError, lambda: recovery.save_state(cached_data={"number": 2}, force=True))
    await refused(JournalUnavailableError, lambda: orders_until_refused(recovery))
    assert await order(recovery, "c-1", is_cancel=True) == "c-1"
    await refused(StateNotSavedError, lambda: _awaited(recovery.halt("a full disk")))
    assert recovery.get_health_status()["halted"]
    state = await ErrorRecoveryService(tmp_path / "state", tmp_path / "errors").restore_state()
    assert state is not None
    assert state.cached_data == {"number": 1}

    disk.is_full = False
    await recovery.resume()
    await order(recovery, "o-3")
    assert await recovery.save_state(cached_data={"number": 3}, force=True)
    await recovery.aclose(60.0)
    table = (await asyncio.to_thread(read_journal, SystemFiles(), path)).table
    assert [key for key in ("o-1", "o-2-0", "o-3") if table.get(Name("venue.once", key)) is None] == []
    state = await ErrorRecoveryService(tmp_path / "state", tmp_path / "errors").restore_state()
    assert state is not None
    assert state.cached_data == {"number": 3}


async def _awaited(durable: Awaitable[None]) -> None:
    await durable


@pytest.mark.usefixtures("at_once")
@pytest.mark.asyncio
async def test_directories_that_vanish_come_back_with_all_that_is_known(tmp_path: Path) -> None:
    """Somebody removes them under the running program: what it does next is refused once at most."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    await recovery.save_state(cached_data={"number": 1}, force=True)
    await order(recovery, "o-1")
    await fail(recovery, "before")
    assert await recovery._error_log.flush(60.0)
    async with recovery.operation("job", key="1") as op:
        await op.checkpoint(index=1)
        shutil.rmtree(tmp_path / "state")
        shutil.rmtree(tmp_path / "errors")

        assert await recovery.save_state(cached_data={"number": 2}, force=True)
        with contextlib.suppress(JournalUnavailableError):
            await op.checkpoint(index=2)
        await op.checkpoint(index=3)
        assert await order(recovery, "c-1", is_cancel=True) == "c-1"
        await order(recovery, "o-2")
        await fail(recovery, "after")
        table = (await asyncio.to_thread(read_journal, SystemFiles(), tmp_path / "state" / "journal")).table
        known = table.get(Name("job", "1"))
        assert known is not None
        assert known.body["progress"] == {"index": 3}
        assert all(table.get(Name("venue.once", key)) is not None for key in ("o-1", "c-1", "o-2"))
    await recovery.aclose(60.0)

    state = await ErrorRecoveryService(tmp_path / "state", tmp_path / "errors").restore_state()
    assert state is not None
    assert state.cached_data == {"number": 2}
    written = "".join(path.read_text() for path in (tmp_path / "errors").iterdir())
    assert "after" in written
    assert "before" not in written

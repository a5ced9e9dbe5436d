"""Group commit: who waits, who is refused, and how a journal that failed comes back."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.disk.writer import writer_for
from shockproof.memory.journal.journal import Journal, RecordTooLargeError, Session, journal_for
from shockproof.memory.journal.journal_files import read_journal
from shockproof.memory.journal.name import Name
from shockproof.memory.journal.record import MAX_BODY, Kind, decode_body
from shockproof.vocabulary.errors import JournalLockedError, JournalUnavailableError, StateVersionError


class WatchedDisk(SystemFiles):
    """The real disk, which tells what was asked of it, holds a sync back, and refuses when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0
        self.synced = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.at_the_gate = threading.Event()
        self.refuses: dict[str, int] = {}

    def refuse(self, what: str) -> None:
        if what in self.refuses:
            raise OSError(self.refuses[what], os.strerror(self.refuses[what]))

    def create(self, path: Path) -> int:
        self.refuse("create")
        return super().create(path)

    def preallocate(self, handle: int, size: int) -> None:
        self.refuse("preallocate")
        super().preallocate(handle, size)

    def write(self, handle: int, data: memoryview) -> int:
        self.refuse("write")
        return super().write(handle, data)

    def sync_data(self, handle: int) -> None:
        self.at_the_gate.set()
        assert self.gate.wait(60)
        self.refuse("sync_data")
        self.syncs += 1
        super().sync_data(handle)
        self.synced.set()


class Bench:
    """A journal with its disk and its clock in reach."""

    def __init__(self, directory: Path, **more: Any) -> None:
        self.disk = WatchedDisk()
        self.now = 1000.0
        self.journal = Journal(directory, layer=self.disk, monotonic=lambda: self.now, **more)

    def on_disk(self) -> dict[Name, dict[str, Any]]:
        with ThreadPoolExecutor(1) as elsewhere:  # a loop touches no file, not even a test's
            table = elsewhere.submit(read_journal, SystemFiles(), self.journal.directory).result().table
        known = [decode_body(body) or {} for body in table.snapshot()]
        return {Name(body["operation"], body["key"]): body for body in known}


def begin(name: str, **more: object) -> Callable[[Session], str]:
    def act(session: Session) -> str:
        session.require(Kind.BEGIN, {"operation": name, "key": "k", **more})
        return name

    return act


def end(name: str) -> Callable[[Session], None]:
    return lambda session: session.tell(Kind.END, {"operation": name, "key": "k", "status": "completed"})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "journal")


@pytest.mark.asyncio
async def test_what_was_answered_is_on_the_disk(bench: Bench) -> None:
    """Synced, before anybody goes on."""
    assert await bench.journal.ask(begin("A")) == "A"

    assert bench.on_disk()[Name("A", "k")]["status"] == "pending"
    assert bench.disk.syncs == 1
    await bench.journal.aclose()


@pytest.mark.asyncio
async def test_requests_made_while_the_disk_works_share_its_next_turn(bench: Bench) -> None:
    """A thousand at a time cost one sync, not a thousand."""
    await bench.journal.ask(begin("first"))
    bench.disk.gate.clear()
    bench.disk.at_the_gate.clear()
    slow = asyncio.ensure_future(bench.journal.ask(begin("slow")))
    await asyncio.to_thread(bench.disk.at_the_gate.wait, 60)
    before = bench.disk.syncs
    others = [asyncio.ensure_future(bench.journal.ask(begin(f"{n}"))) for n in range(500)]
    await asyncio.sleep(0)
    bench.disk.gate.set()

    assert await asyncio.gather(slow, *others) == ["slow", *(f"{n}" for n in range(500))]
    assert bench.disk.syncs == before + 2
    await bench.journal.aclose()


@pytest.mark.asyncio
async def test_an_outcome_becomes_durable_by_itself(bench: Bench) -> None:
    """Soon, also when nothing follows that it could ride along with."""
    await bench.journal.ask(begin("A"))
    bench.disk.synced.clear()

    bench.journal.tell(end("A"))

    assert await asyncio.to_thread(bench.disk.synced.wait, 60)
    assert bench.on_disk()[Name("A", "k")]["status"] == "completed"
    await bench.journal.aclose()


@pytest.mark.asyncio
async def test_an_error_of_one_request_is_no_error_of_its_neighbours(bench: Bench) -> None:
    """Each gets its own answer."""

    def fails(session: Session) -> None:
        raise LookupError("of one")

    answers = await asyncio.gather(
        bench.journal.ask(begin("A")), bench.journal.ask(fails), return_exceptions=True
    )

    assert answers[0] == "A"
    assert isinstance(answers[1], LookupError)
    await bench.journal.aclose()


@pytest.mark.asyncio
async def test_a_record_that_is_too_large_is_refused(bench: Bench) -> None:
    """With the way out; the journal goes on."""
    with pytest.raises(RecordTooLargeError, match=r"1,200,0\d\d bytes .* save_state"):
        await bench.journal.ask(begin("A", details="x" * 1_200_000))

    assert await bench.journal.ask(begin("B")) == "B"
    assert Name("A", "k") not in bench.on_disk()
    await bench.journal.aclose()


@pytest.mark.asyncio
async def test_a_journal_whose_sync_failed_refuses_and_never_syncs_that_file_again(bench: Bench) -> None:
    """The kernel would say that all is well. A second later another segment is begun, with everything known."""
    journal, disk = bench.journal, bench.disk
    await journal.ask(begin("A"))
    disk.refuses["sync_data"] = errno.EIO
    with pytest.raises(JournalUnavailableError, match="Input/output error"):
        await journal.ask(begin("B"))
    assert journal.status().state == "failed"

    disk.refuses.clear()
    with pytest.raises(JournalUnavailableError):
        await journal.ask(begin("B"))
    assert disk.syncs == 1
    bench.now += 1.5
    await journal.ask(begin("C"))

    assert journal.status() == ("open", 2, None, None, None)
    assert set(bench.on_disk()) == {Name("A", "k"), Name("C", "k")}
    assert [path.name for path in journal.directory.glob("journal-*")] == ["journal-0000000000000002.wal"]
    await journal.aclose()


@pytest.mark.asyncio
async def test_a_failed_journal_with_nothing_to_write_is_flushed(bench: Bench) -> None:
    """What was refused is nobody's to wait for: closing a service does not fail by it."""
    bench.disk.refuses["create"] = errno.EIO
    refused = [asyncio.ensure_future(bench.journal.ask(begin(f"{n}"))) for n in range(3)]
    await asyncio.sleep(0)
    bench.journal.tell(lambda session: None)

    await bench.journal.aclose()

    results = await asyncio.gather(*refused, return_exceptions=True)
    assert all(isinstance(result, JournalUnavailableError) for result in results)


@pytest.mark.asyncio
async def test_an_outcome_that_the_disk_refused_is_kept_and_written_later(bench: Bench) -> None:
    """What has happened has happened, whatever the disk says."""
    journal, disk = bench.journal, bench.disk
    await journal.ask(begin("A"))
    disk.refuses["write"] = errno.EIO
    journal.tell(end("A"))
    with pytest.raises(JournalUnavailableError):
        await journal.flush()

    disk.refuses.clear()
    await journal.aclose()

    assert bench.on_disk()[Name("A", "k")]["status"] == "completed"
    assert journal.status().state == "closed"


@pytest.mark.asyncio
async def test_an_outcome_survives_the_refusal_of_what_came_before_it_in_its_batch(bench: Bench) -> None:
    """Only what was refused is taken back: who gave up waiting for a checkpoint and came to an end has ended."""
    journal, disk = bench.journal, bench.disk
    await journal.ask(begin("A"))
    disk.at_the_gate.clear()
    disk.gate.clear()
    busy = asyncio.ensure_future(journal.ask(begin("B")))
    await asyncio.to_thread(disk.at_the_gate.wait, 30)
    step = {"operation": "A", "key": "k", "progress": {"index": 1}}
    refused = asyncio.ensure_future(journal.ask(lambda session: session.require(Kind.CHECKPOINT, step)))
    await asyncio.sleep(0)
    journal.tell(end("A"))
    disk.refuses["sync_data"] = errno.EIO
    disk.gate.set()
    results = await asyncio.gather(busy, refused, return_exceptions=True)
    assert all(isinstance(result, JournalUnavailableError) for result in results)

    disk.refuses.clear()
    await journal.aclose()

    assert {name: body["status"] for name, body in bench.on_disk().items()} == {Name("A", "k"): "completed"}


@pytest.mark.asyncio
async def test_a_full_disk_stops_what_begins_and_no_outcome(tmp_path: Path) -> None:
    """The space for that was set aside before; when there is space again, all goes on."""
    bench = Bench(tmp_path / "journal", segment_bytes=2048)
    journal, disk = bench.journal, bench.disk
    await journal.ask(begin("A", details="x" * 600))
    disk.refuses["preallocate"] = errno.ENOSPC

    async def begin_many() -> None:
        for number in range(60):
            await journal.ask(begin(f"{number}"))

    with pytest.raises(JournalUnavailableError, match=r"the disk is full.* nothing was done"):
        await begin_many()
    assert journal.status().state == "no space"

    journal.tell(end("A"))
    await journal.flush()
    assert bench.on_disk()[Name("A", "k")]["status"] == "completed"

    disk.refuses.clear()
    bench.now += 1.5
    await journal.ask(begin("late"))
    assert journal.status().state == "open"
    await journal.aclose()


@pytest.mark.asyncio
async def test_a_closed_journal_belongs_to_whoever_asks_next(bench: Bench, tmp_path: Path) -> None:
    """In the meantime another process could have owned it."""
    await bench.journal.ask(begin("A"))
    await bench.journal.aclose()
    other = Bench(tmp_path / "journal")

    await other.journal.ask(begin("B"))

    with pytest.raises(JournalLockedError) as caught:
        await bench.journal.ask(begin("C"))
    assert caught.value.pid == os.getpid()
    assert str(os.getpid()) in str(caught.value)
    await other.journal.aclose()
    await bench.journal.ask(begin("C"))
    assert set(bench.on_disk()) == {Name(name, "k") for name in "ABC"}
    await bench.journal.aclose()


@pytest.mark.asyncio
async def test_a_journal_is_not_closed_while_something_runs(bench: Bench) -> None:
    """Another process would think that it died."""

    class Runner:
        """Somebody who runs an operation."""

    runners = [Runner()]

    def run(session: Session) -> None:
        session.claims.take(Name("A", "k"), runners[0])

    await bench.journal.ask(run)
    await bench.journal.aclose()
    assert bench.journal.status().state == "open"

    runners.clear()
    await bench.journal.aclose()
    assert bench.journal.status().state == "closed"


@pytest.mark.asyncio
async def test_what_arrives_while_a_journal_is_closed_is_written_behind_what_is_known(bench: Bench) -> None:
    """The close, an outcome and a beginning of one turn: none of them forgets the operations of before."""
    journal = bench.journal
    await journal.ask(begin("A"))
    gate = threading.Event()
    writer_for(journal.directory).submit(gate.wait, 60)  # all that follows is one turn
    closing = asyncio.ensure_future(journal.aclose())
    await asyncio.sleep(0)
    journal.tell(
        lambda session: session.tell(Kind.INTERRUPT, {"operation": "A", "key": "k", "why": "cancelled"})
    )
    beginning = asyncio.ensure_future(journal.ask(begin("B")))
    await asyncio.sleep(0)
    gate.set()

    await asyncio.gather(closing, beginning)

    on_disk = bench.on_disk()
    assert set(on_disk) == {Name("A", "k"), Name("B", "k")}
    assert on_disk[Name("A", "k")]["interrupted"] == "cancelled"
    assert journal.status().state == "closed"


@pytest.mark.asyncio
async def test_what_several_large_records_told_survives_the_next_segment(bench: Bench) -> None:
    """What it was begun with and its checkpoint are one record there, longer than each of them may be."""
    half = "x" * (MAX_BODY * 9 // 10)

    def checkpoint(session: Session) -> None:
        session.require(Kind.CHECKPOINT, {"operation": "A", "key": "k", "progress": half})

    await bench.journal.ask(begin("A", details=half))
    await bench.journal.ask(checkpoint)
    await bench.journal.aclose()
    await bench.journal.ask(begin("B"))
    await bench.journal.aclose()

    body = bench.on_disk()[Name("A", "k")]
    assert (body["details"], body["progress"]) == (half, half)


@pytest.mark.asyncio
@pytest.mark.parametrize("gone", ["removed", "moved", "replaced"])
async def test_a_directory_that_is_gone_is_made_again_with_what_is_known(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture, gone: str
) -> None:
    """A file that nobody finds takes what is written, and gives it to nobody. It is noticed before that."""
    journal = bench.journal
    await journal.ask(begin("A"))
    if gone == "removed":
        shutil.rmtree(journal.directory)
    else:
        journal.directory.rename(tmp_path / "elsewhere")
    if gone == "replaced":
        shutil.copytree(tmp_path / "elsewhere", journal.directory)

    await journal.ask(begin("B"))

    assert set(bench.on_disk()) == {Name("A", "k"), Name("B", "k")}
    assert "not in" in caplog.text
    with pytest.raises(JournalLockedError):
        await Bench(tmp_path / "journal").journal.ask(begin("C"))
    await journal.aclose()


@pytest.mark.asyncio
async def test_a_directory_that_is_removed_while_it_is_written_is_made_again_with_what_is_known(
    bench: Bench, tmp_path: Path
) -> None:
    """What was synced into a file without a name is not durable."""
    journal, disk = bench.journal, bench.disk
    await journal.ask(begin("A"))
    disk.at_the_gate.clear()
    disk.gate.clear()
    asked = asyncio.ensure_future(journal.ask(begin("B")))
    await asyncio.to_thread(disk.at_the_gate.wait, 30)
    shutil.rmtree(journal.directory)
    disk.gate.set()

    with pytest.raises(JournalUnavailableError, match="removed"):
        await asked
    bench.now += 1.0
    await journal.ask(begin("C"))

    assert set(bench.on_disk()) == {Name("A", "k"), Name("C", "k")}
    with pytest.raises(JournalLockedError):
        await Bench(tmp_path / "journal").journal.ask(begin("D"))
    await journal.aclose()


@pytest.mark.asyncio
async def test_a_directory_that_another_took_while_it_was_gone_stays_that_ones(
    bench: Bench, tmp_path: Path
) -> None:
    """Two owners would remove each other's segments."""
    await bench.journal.ask(begin("A"))
    shutil.rmtree(bench.journal.directory)
    other = Bench(tmp_path / "journal")
    await other.journal.ask(begin("B"))
    (tmp_path / "journal" / "lock").write_text("1\n")  # as if it were another process

    for _ in range(2):
        with pytest.raises((JournalUnavailableError, JournalLockedError)):
            await bench.journal.ask(begin("C"))
        bench.now += 1.0

    assert set(other.on_disk()) == {Name("B", "k")}
    await other.journal.aclose()


def test_loops_one_after_the_other_share_a_journal(bench: Bench) -> None:
    """It belongs to none of them; an answer for a loop that is gone hurts nobody."""

    async def leave() -> None:
        bench.disk.gate.clear()
        bench.disk.at_the_gate.clear()
        task = asyncio.ensure_future(bench.journal.ask(begin("left")))
        await asyncio.to_thread(bench.disk.at_the_gate.wait, 60)
        task.cancel()

    asyncio.run(_ask(bench, "A"))
    asyncio.run(leave())
    bench.disk.gate.set()
    asyncio.run(_ask(bench, "B"))
    assert set(bench.on_disk()) == {Name("A", "k"), Name("left", "k"), Name("B", "k")}
    asyncio.run(bench.journal.aclose())


async def _ask(bench: Bench, name: str) -> None:
    await bench.journal.ask(begin(name))


def test_one_process_has_one_journal_for_a_directory(tmp_path: Path) -> None:
    """Two services over one state directory do not lock each other out."""
    assert journal_for(tmp_path / "a" / ".." / "b") is journal_for(tmp_path / "b")
    assert journal_for(tmp_path / "a") is not journal_for(tmp_path / "b")


@pytest.mark.asyncio
async def test_another_process_is_told_who_owns_the_journal(bench: Bench) -> None:
    """Two bots over one directory would answer for each other's orders."""
    await bench.journal.ask(begin("A"))
    program = (
        "import asyncio, sys\n"
        "from shockproof import ErrorRecoveryService, JournalLockedError\n"
        "async def main():\n"
        "    recovery = ErrorRecoveryService(sys.argv[1], sys.argv[1] + '/errors')\n"
        "    print((await recovery.restore_state()).active_operations)\n"
        "    try:\n"
        "        async with recovery.operation('B'): pass\n"
        "    except JournalLockedError as error:\n"
        "        print(error.pid)\n"
        "asyncio.run(main())\n"
    )
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, str(bench.journal.directory.parent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.splitlines() == [
        "[{'operation': 'A', 'key': 'k', 'status': 'pending'}]",
        str(os.getpid()),
    ]
    await bench.journal.aclose()


def test_a_forked_child_never_writes_into_the_parents_journal(tmp_path: Path) -> None:
    """It is told that its parent owns it, and does not keep the lock when the parent is gone."""
    program = """
import asyncio, os, sys
from pathlib import Path
from shockproof import ErrorRecoveryService, JournalLockedError, JournalUnavailableError
recovery = ErrorRecoveryService(sys.argv[1], sys.argv[2])
operation = recovery.operation("A")

async def enter():
    await operation.__aenter__()
    await operation.checkpoint(index=1)

async def in_the_child():
    try:
        await operation.checkpoint(index=2)
    except JournalUnavailableError as error:
        print("forked from" in str(error), flush=True)
    try:
        async with recovery.operation("B"): pass
    except JournalLockedError as error:
        print(error.pid == os.getppid(), flush=True)
    await operation.__aexit__(KeyError, KeyError("x"), None)

asyncio.run(enter())
child = os.fork()
if child == 0:
    asyncio.run(in_the_child())
    os._exit(0)
os.waitpid(child, 0)

async def leave():
    await operation.checkpoint(index=3)
    print((await recovery.restore_state()).active_operations)
    await operation.__aexit__(None, None, None)
    await recovery.aclose()

asyncio.run(leave())
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "state"), str(tmp_path / "errors")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "True",
        "True",
        "[{'operation': 'A', 'key': None, 'status': 'pending', 'index': 3}]",
    ]


@pytest.mark.parametrize("way", ["raise SystemExit", "raise ValueError('x')", "pass"])
def test_what_was_told_is_durable_when_the_program_ends(tmp_path: Path, way: str) -> None:
    """Nobody has to close anything."""
    program = f"""
import asyncio, sys
from shockproof import ErrorRecoveryService
recovery = ErrorRecoveryService(sys.argv[1], sys.argv[2])

async def main():
    try:
        async with recovery.operation("A", key="1") as op:
            raise KeyError("inside")
    except KeyError:
        pass
    {way}

asyncio.run(main())
"""
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state"), str(tmp_path / "errors")],
        capture_output=True,
        timeout=60,
        check=False,
    )
    table = read_journal(SystemFiles(), tmp_path / "state" / "journal").table
    assert [entry.body["interrupted"] for entry in table.pending()] == ["KeyError: 'inside'"]


@pytest.mark.asyncio
async def test_a_newer_program_s_journal_is_left_alone(bench: Bench) -> None:
    """Nothing is moved, and nothing begins."""
    await bench.journal.ask(begin("A"))
    await bench.journal.aclose()
    path = next(bench.journal.directory.glob("journal-*"))
    import struct
    import zlib

    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 8, 9)
    struct.pack_into("<I", data, 40, zlib.crc32(data[:40]))
    path.write_bytes(data)

    with pytest.raises(StateVersionError, match="format version 9"):
        await bench.journal.ask(begin("B"))
    with pytest.raises(StateVersionError):
        await bench.journal.pending(lambda entry: entry.name)
    assert path.read_bytes() == bytes(data)

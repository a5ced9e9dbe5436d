"""The error log: whole lines on disk, exact counts, and a loop that never waits."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Callable
from datetime import date, timedelta, timezone
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.disk import append_file
from shockproof.memory.disk import writer as background
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.error_log import error_log
from shockproof.memory.error_log.bounded_queue import Gap, WhenFull
from shockproof.memory.error_log.capture import CapturedError, capture
from shockproof.memory.error_log.error_log import ErrorLog
from shockproof.memory.error_log.redaction import Redactor
from shockproof.testing.virtual_time import VirtualClock, VirtualTimeLoop
from shockproof.vocabulary.statuses import ErrorSeverity

MORNING = 1_795_593_600.0  # 2026-11-25 08:00 UTC
FILE = "errors_20261125.jsonl"
PATIENCE = 30.0

LOW, MEDIUM, HIGH, CRITICAL = ErrorSeverity


def error(
    message: object = "bad",
    *,
    at: float = MORNING,
    severity: ErrorSeverity = MEDIUM,
    stack_trace: str | None = None,
    context: dict[str, object] | None = None,
) -> CapturedError:
    return CapturedError(
        timestamp=at,
        error_type="ValueError",
        error_message=str(message),
        severity=severity,
        service_name="market",
        function_name="fetch",
        stack_trace=stack_trace,
        context=context,
    )


def lines(path: Path) -> list[dict[str, object]]:
    """The lines of a file, every one of which has to be a whole JSON object."""
    text = path.read_bytes()
    assert not text or text.endswith(b"\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def messages(path: Path) -> list[object]:
    return [line["error_message"] for line in lines(path)]


class RefusingDisk(SystemFiles):
    """Opening a file fails for as long as it is told to, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.error: OSError | None = None
        self.refused = threading.Event()

    def open_to_append(self, path: Path) -> FileIO:
        if self.error is not None:
            self.refused.set()
            raise self.error
        return super().open_to_append(path)


@pytest.fixture
def disk() -> RefusingDisk:
    return RefusingDisk()


class HangingFile:
    """A pipe in the place of the day's file: writing to it blocks as soon as it is full."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        os.mkfifo(self.path)
        self._reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.text = b""

    def drain_until(self, is_over: Callable[[], bool]) -> list[dict[str, object]]:
        """Read what is written until it is said to be enough."""
        while not is_over():
            try:
                self.text += os.read(self._reader, 2**20)
            except BlockingIOError:
                os.sched_yield()
        with os.fdopen(self._reader, "rb") as rest:
            os.set_blocking(self._reader, False)
            self.text += rest.read() or b""
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def hanging(tmp_path: Path) -> HangingFile:
    return HangingFile(tmp_path)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def adds_up(log: ErrorLog) -> bool:
    now = log.statistics()
    return now.submitted == now.written + now.queued + now.dropped


# What is written


@pytest.mark.asyncio
async def test_a_record_becomes_one_line_with_the_nine_fields(tmp_path: Path) -> None:
    """The same that a summary shows, in the day's file."""
    log = ErrorLog(tmp_path / "data" / "errors")
    try:
        raise ValueError("bad\nnews €", {"api_key": "hidden"})
    except ValueError as caught:
        captured = capture(
            caught,
            severity=HIGH,
            service_name="market",
            function_name="fetch",
            retry_count=2,
            timestamp=MORNING,
            context={"symbol": "AAPL", "token": "hidden"},
            redactor=Redactor(),
        )
    log.put(captured)

    assert await log.flush()
    (line,) = lines(tmp_path / "data" / "errors" / FILE)
    assert line == captured.to_fields()
    assert str(line["stack_trace"]).startswith("Traceback (most recent call last):\n")
    assert "raise ValueError" in str(line["stack_trace"])
    assert "hidden" not in str(line)
    assert await log.aclose()


@pytest.mark.asyncio
async def test_nothing_is_made_before_the_first_record(tmp_path: Path) -> None:
    """Neither a directory nor a thread, by making, flushing or closing a log."""
    threads = set(threading.enumerate())
    log = ErrorLog(tmp_path / "errors")

    assert await log.flush()
    assert await log.aclose()
    assert not (tmp_path / "errors").exists()
    assert set(threading.enumerate()) <= threads  # one of an earlier test may end just now
    assert log.statistics().state == "closed"


@pytest.mark.asyncio
async def test_every_record_goes_to_the_file_of_its_own_day(tmp_path: Path) -> None:
    """Also over midnight within one batch, and late ones; the order within a day is kept."""
    log = ErrorLog(tmp_path)
    for number, day in enumerate((0, 0, 1, 0, 1, -30, 400)):
        log.put(error(number, at=MORNING + 86_400 * day))
    await log.aclose()

    assert {name: messages(tmp_path / name) for name in names_in(tmp_path)} == {
        "errors_20261125.jsonl": ["0", "1", "3"],
        "errors_20261126.jsonl": ["2", "4"],
        "errors_20261026.jsonl": ["5"],
        "errors_20271230.jsonl": ["6"],
    }


@pytest.mark.asyncio
async def test_with_a_zone_the_days_are_its_own(tmp_path: Path) -> None:
    """The times in the lines stay UTC, with their offset."""
    log = ErrorLog(tmp_path, zone=timezone(timedelta(hours=-9)))
    log.put(error(at=MORNING))
    await log.aclose()

    (line,) = lines(tmp_path / "errors_20261124.jsonl")
    assert line["timestamp"] == "2026-11-25T08:00:00.000000+00:00"


@pytest.mark.asyncio
async def test_odd_values_neither_break_a_line_nor_lose_a_record(tmp_path: Path) -> None:
    """Whatever somebody who makes records by hand puts into them."""
    log = ErrorLog(tmp_path)
    loop: dict[str, object] = {}
    loop["again"] = loop
    odd: list[dict[str, object]] = [
        {"nan": float("nan")},
        {"bytes": b"\xff"},
        {"set": {1}},
        {"o": object()},
        loop,
    ]
    for number, context in enumerate(odd):
        log.put(error(number, context=context))
    log.put(error("half a character: \ud800"))
    broken = error("with broken fields")
    broken.retry_count = None  # type: ignore[assignment]  # a broken record is the case
    log.put(broken)
    await log.aclose()

    assert messages(tmp_path / FILE) == [
        *map(str, range(5)),
        "half a character: \ud800",
        "<this record could not be encoded: TypeError>",
    ]
    assert log.statistics().written == 7


@pytest.mark.asyncio
async def test_a_batch_is_one_append_of_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand records do not make a thousand system calls."""
    appended: list[bytes] = []
    real = append_file.AppendFile.append

    async def spy(self: append_file.AppendFile, lines: bytes) -> tuple[int, OSError | None]:
        appended.append(lines)
        return await real(self, lines)

    monkeypatch.setattr(append_file.AppendFile, "append", spy)
    log, all_are_there = ErrorLog(tmp_path), threading.Event()
    log._writer.call_soon(all_are_there.wait)  # before it writes: else it takes what there is by then
    for number in range(1_000):
        log.put(error(number))
    all_are_there.set()
    await log.aclose()

    assert len(appended) < 10
    assert all(batch.endswith(b"\n") for batch in appended)
    assert messages(tmp_path / FILE) == list(map(str, range(1_000)))


@pytest.mark.asyncio
async def test_a_large_file_goes_on_in_the_next_part(tmp_path: Path) -> None:
    """No file is renamed, a restart goes on where the last one was, and all is read in order."""
    for start in (0, 30):
        log = ErrorLog(tmp_path, max_file_bytes=2_000)
        for number in range(start, start + 30):
            log.put(error(number))
            await log.flush()
        await log.aclose()
    names = names_in(tmp_path)

    assert FILE in names
    assert "errors_20261125_1.jsonl" in names
    assert len(names) > 5
    assert max((tmp_path / name).stat().st_size for name in names) <= 2_000
    assert [record.error_message async for record in ErrorLog(tmp_path).read()] == list(map(str, range(60)))


@pytest.mark.asyncio
async def test_old_files_go_when_a_record_opens_a_new_day(tmp_path: Path) -> None:
    """Once a day, in the background; off by default."""
    clock = VirtualClock(wall=MORNING)
    for day in (20, 24):
        (tmp_path / f"errors_202611{day}.jsonl").write_text("{}\n")
    keeping = ErrorLog(tmp_path, clock=clock)
    keeping.put(error())
    await keeping.aclose()
    kept = names_in(tmp_path)
    log = ErrorLog(tmp_path, clock=clock, keep_days=3, compress=True)
    log.put(error())
    await log.flush()
    await background.writer_for(tmp_path).run(lambda: None)
    while (tmp_path / "errors_20261120.jsonl").exists():  # the task is on its way in another thread
        await background.writer_for(tmp_path).run(lambda: None)
    await log.aclose()

    assert kept == ["errors_20261120.jsonl", "errors_20261124.jsonl", FILE]
    assert names_in(tmp_path) == ["errors_20261124.jsonl", FILE]


@pytest.mark.asyncio
async def test_old_files_go_when_a_day_grows_by_a_part(tmp_path: Path) -> None:
    """The disk does not fill up until midnight; what is today's stays, however much it is."""
    clock = VirtualClock(wall=MORNING)
    old = tmp_path / "errors_20261120.jsonl"
    old.write_text("{}\n" * 1_000)
    log = ErrorLog(tmp_path, clock=clock, keep_bytes=10_000, max_file_bytes=2_000)
    log.put(error())
    await log.flush()
    while log._tidying is None or not log._tidying.done():
        await background.writer_for(tmp_path).run(lambda: None)
    was_kept = old.exists()
    count = 1
    while old.exists():  # each time in another thread, which may be busy with the last time
        for _ in range(20):
            log.put(error("x" * 100))
        count += 20
        assert await log.flush()
    await log.aclose()

    assert was_kept
    assert len([record async for record in log.read()]) == count > 20
    assert FILE in names_in(tmp_path)


@pytest.mark.asyncio
async def test_records_are_written_without_anybody_flushing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon, and again after the writer has gone to sleep."""
    written, asleep = threading.Event(), threading.Event()
    real_append, real_rest = append_file.AppendFile.append, ErrorLog._rings_within

    async def append(self: append_file.AppendFile, lines: bytes) -> tuple[int, OSError | None]:
        result = await real_append(self, lines)
        written.set()
        return result

    async def rest(self: ErrorLog, seconds: float) -> bool:
        if seconds > 1:
            asleep.set()
        return await real_rest(self, seconds)

    monkeypatch.setattr(append_file.AppendFile, "append", append)
    monkeypatch.setattr(ErrorLog, "_rings_within", rest)
    monkeypatch.setattr(error_log, "_IDLE", 1000.0)  # it looks by itself only when this test has long failed
    log = ErrorLog(tmp_path)
    for number in range(3):
        written.clear()
        asleep.clear()
        log.put(error(number))
        assert await asyncio.to_thread(written.wait, PATIENCE)
        assert await asyncio.to_thread(asleep.wait, PATIENCE)

    assert messages(tmp_path / FILE) == ["0", "1", "2"]
    await log.aclose()


# Loops and threads


def test_a_log_outlives_loops_and_needs_none(tmp_path: Path) -> None:
    """Made outside of any, used in two runs, in threads of their own and without."""
    log = ErrorLog(tmp_path)

    async def main(first: int) -> None:
        for number in range(first, first + 100):
            log.put(error(number))
        assert await log.flush()

    asyncio.run(main(0))
    threads = [
        threading.Thread(target=lambda first=first: asyncio.run(main(first))) for first in (100, 200, 300)
    ]  # type: ignore[misc]  # the default binds the loop's value
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.put(error(400))
    assert log.flush_blocking()
    assert log.close_blocking()

    assert sorted(map(int, map(str, messages(tmp_path / FILE)))) == list(range(401))
    assert log.statistics().written == 401


def test_time_stands_still_on_a_virtual_loop_while_it_flushes(tmp_path: Path) -> None:
    """A flush is real work, and takes none of the test's hours."""
    log = ErrorLog(tmp_path)

    async def main() -> tuple[bool, float, int]:
        loop = asyncio.get_running_loop()
        loop.call_later(3_600, lambda: None)
        before = loop.time()
        log.put(error())
        flushed = await log.flush()
        read = [record async for record in log.read()]
        return flushed, loop.time() - before, len(read)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == (True, 0.0, 1)
    log.close_blocking()


@pytest.mark.asyncio
async def test_a_closed_log_opens_again_for_a_late_record(tmp_path: Path) -> None:
    """A call that was in flight when the service was closed still leaves its error."""
    log = ErrorLog(tmp_path)
    log.put(error("first"))
    assert await log.aclose()
    closed = log.statistics().state
    log.put(error("late"))
    opened = log.statistics().state
    assert await log.aclose()

    assert (closed, opened) == ("closed", "ok")
    assert messages(tmp_path / FILE) == ["first", "late"]


@pytest.mark.asyncio
async def test_flushing_many_times_at_once_is_fine(tmp_path: Path) -> None:
    """Also a flush whose task is cancelled, and closing beside them."""
    log = ErrorLog(tmp_path)
    log.put(error())
    cancelled = asyncio.create_task(log.flush())
    others = [asyncio.create_task(log.flush()) for _ in range(20)] + [asyncio.create_task(log.aclose())]
    await asyncio.sleep(0)
    cancelled.cancel()

    assert await asyncio.gather(*others) == [True] * 21
    assert len(lines(tmp_path / FILE)) == 1


@pytest.mark.asyncio
async def test_fsync_is_done_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By flush and by aclose, and never otherwise."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for fsync in (False, True):
        log = ErrorLog(tmp_path, fsync=fsync)
        log.put(error())
        assert await log.flush()
        assert bool(synced) is fsync
        assert await log.aclose()


@pytest.mark.asyncio
async def test_a_failed_fsync_is_a_failed_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not durable must not be called so."""

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    log = ErrorLog(tmp_path, fsync=True)
    log.put(error())
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        assert not await log.flush()
        assert "broken" in str(log.statistics().last_error)
    log.put(error())
    assert await log.aclose()


# Bad disks


@pytest.mark.asyncio
async def test_a_refusing_disk_degrades_and_what_waits_is_written_when_it_is_back(
    tmp_path: Path, disk: RefusingDisk
) -> None:
    """Whatever it says: full, broken, read-only, forbidden."""
    log = ErrorLog(tmp_path, layer=disk)
    for code in (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES):
        disk.error = OSError(code, os.strerror(code))
        disk.refused.clear()
        log.put(error(code))
        assert await asyncio.to_thread(disk.refused.wait, PATIENCE)
        async with asyncio.timeout(PATIENCE):
            while log.statistics().state == "ok":  # noqa: ASYNC110 - it hears of it on a loop of its own
                await asyncio.sleep(0.001)
        assert not await log.flush(0.0)
        bad = log.statistics()
        disk.error = None
        assert await log.flush(PATIENCE)
        good = log.statistics()
        await log.aclose()

        assert (bad.state, bad.queued, bad.dropped) == ("degraded", 1, 0)
        assert os.strerror(code) in str(bad.last_error)
        assert (good.state, good.queued, good.last_error) == ("ok", 0, None)

    assert len(lines(tmp_path / FILE)) == 4


@pytest.mark.asyncio
async def test_a_full_device_then_a_good_one(tmp_path: Path) -> None:
    """A real ENOSPC, and the file is looked for anew at every attempt."""
    (tmp_path / FILE).symlink_to("/dev/full")
    log = ErrorLog(tmp_path)
    log.put(error())
    while log.statistics().state != "degraded":
        await log.flush(0.0)
    (tmp_path / FILE).unlink()

    assert await log.flush(PATIENCE)
    assert len(lines(tmp_path / FILE)) == 1
    await log.aclose()


@pytest.mark.asyncio
async def test_a_removed_directory_comes_back(tmp_path: Path) -> None:
    """A file in its place is waited out."""
    directory = tmp_path / "errors"
    log = ErrorLog(directory)
    log.put(error("one"))
    assert await log.flush()
    (directory / FILE).unlink()
    directory.rmdir()
    log.put(error("two"))
    assert await log.flush()
    first = messages(directory / FILE)
    (directory / FILE).unlink()
    directory.rmdir()
    directory.write_text("in the way")
    log.put(error("three"))
    while log.statistics().state != "degraded":
        await log.flush(0.0)
    directory.unlink()

    assert await log.flush(PATIENCE)
    assert first == ["two"]
    assert messages(directory / FILE) == ["three"]
    await log.aclose()


@pytest.mark.asyncio
async def test_a_hanging_disk_hangs_nobody(tmp_path: Path, hanging: HangingFile) -> None:
    """Producers go on, memory is bounded, every count adds up, and the gap stands in the log."""
    log = ErrorLog(tmp_path, max_records=500, max_bytes=2**20)
    stack = "Traceback (most recent call last):\n" + "x" * 2_000
    for number in range(5_000):
        log.put(
            error(
                number,
                at=MORNING + number / 1_000,
                stack_trace=stack,
                severity=MEDIUM if number % 20 else HIGH,
            )
        )
        assert adds_up(log)
    hung = log.statistics()
    flushed = await log.flush(0.0)
    flushing = asyncio.create_task(log.flush(PATIENCE))
    written = await asyncio.to_thread(hanging.drain_until, flushing.done)
    after = log.statistics()

    assert not flushed
    assert hung.queued <= 500
    assert hung.queued_bytes <= 2**20
    assert hung.dropped >= 4_000
    assert await flushing
    records = [line for line in written if line["error_type"] == "ValueError"]
    gaps = [line for line in written if line["error_type"] == "RecordsDropped"]
    numbers = [int(str(line["error_message"])) for line in records]
    told: dict[str, int] = {}
    for gap in gaps:
        context = gap["context"]
        assert isinstance(context, dict)
        assert gap["timestamp"] == context["from"] <= context["to"]
        for severity, count in context["dropped"].items():
            told[severity] = told.get(severity, 0) + count
    assert (after.submitted, after.queued, after.written) == (5_000, 0, len(records))
    assert after.dropped == 5_000 - len(records) == sum(told.values())
    assert told == after.dropped_by_severity
    assert numbers == sorted(numbers)
    assert max(numbers) == 4_999
    # What is worse is kept longer.
    assert "high" not in after.dropped_by_severity
    for gap in gaps:
        before = [str(line["timestamp"]) for line in written[: written.index(gap)]]
        assert all(moment <= str(gap["timestamp"]) for moment in before)
    (tmp_path / FILE).unlink()
    await log.aclose()


@pytest.mark.asyncio
async def test_a_disk_that_does_not_answer_is_told_in_the_statistics(tmp_path: Path) -> None:
    """Nothing has failed, and still somebody should look."""
    asked, released = threading.Event(), threading.Event()

    class Hanging(SystemFiles):
        def open_to_append(self, path: Path) -> FileIO:
            if not released.is_set():
                asked.set()
                assert released.wait(PATIENCE)
                raise OSError(errno.EIO, "broken")
            return super().open_to_append(path)

    log = ErrorLog(tmp_path, layer=Hanging())
    log.put(error())
    assert await asyncio.to_thread(asked.wait, PATIENCE)
    fresh = log.statistics()
    since = log._asked_disk_at
    assert since is not None
    log._asked_disk_at = since - 5
    stale = log.statistics()
    released.set()

    assert fresh.state == "ok"
    assert stale.state == "degraded"
    assert "has not answered for 5" in str(stale.last_error)
    assert await log.aclose(PATIENCE)


@pytest.mark.asyncio
@pytest.mark.parametrize("when_full", ["drop_lowest", "drop_oldest", "drop_new"])
async def test_the_policy_decides_who_is_lost(
    tmp_path: Path, disk: RefusingDisk, when_full: WhenFull
) -> None:
    """And the gap is a line that readers understand, at its place."""
    disk.error = OSError(errno.ENOSPC, "full")
    log = ErrorLog(tmp_path, max_records=3, when_full=when_full, layer=disk)
    log.put(error("first", severity=LOW))
    assert await asyncio.to_thread(disk.refused.wait, PATIENCE)
    for name, severity in (("high", HIGH), ("low", LOW), ("worst", CRITICAL), ("last", LOW)):
        log.put(error(name, severity=severity))
    disk.error = None
    await log.aclose(PATIENCE)
    read = [(record.error_type, record.error_message) async for record in log.read()]
    names = [text if kind == "ValueError" else "gap" for kind, text in read]

    assert (
        names
        == {
            "drop_lowest": ["first", "high", "gap", "worst"],
            "drop_oldest": ["first", "gap", "worst", "last"],
            "drop_new": ["first", "high", "low", "gap"],
        }[when_full]
    )
    assert log.statistics().dropped == 2


@pytest.mark.asyncio
async def test_a_batch_at_a_bad_disk_leaves_room_for_what_is_worse(
    tmp_path: Path, disk: RefusingDisk
) -> None:
    """It holds a quarter of the queue at most, and cannot be dropped any more."""
    disk.error = OSError(errno.ENOSPC, "full")
    log = ErrorLog(tmp_path, max_records=8, layer=disk)
    for number in range(8):
        log.put(error(number))
    assert await asyncio.to_thread(disk.refused.wait, PATIENCE)
    for _ in range(6):
        log.put(error("worse", severity=CRITICAL))
    disk.error = None
    await log.aclose(PATIENCE)

    assert messages(tmp_path / FILE).count("worse") == 6


@pytest.mark.asyncio
@pytest.mark.parametrize("fails", [False, True], ids=["well", "and fails at first"])
async def test_while_the_disk_writes_one_batch_the_next_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """The disk need not wait for lines; they stay in order, none twice, and the counts add up."""
    may_open, is_writing, is_made, may_write = (threading.Event() for _ in range(4))
    begun = 0

    class SlowFile(FileIO):
        def write(self, lines: Any, /) -> int:  # Any: whatever a file takes
            is_writing.set()
            assert may_write.wait(PATIENCE)
            return super().write(lines)

    class Slow(SystemFiles):
        def open_to_append(self, path: Path) -> FileIO:
            assert may_open.wait(PATIENCE)
            super().open_to_append(path).close()
            return SlowFile(path, "a+b")

    log = ErrorLog(tmp_path, layer=Slow())
    make = log._encoded

    def made(batch: list[CapturedError | Gap]) -> list[error_log._Lines]:
        nonlocal begun
        begun += 1
        if begun == 2:
            assert is_writing.wait(PATIENCE)  # the disk's thread has it
            if fails:
                is_made.set()
                raise MemoryError
        groups = make(batch)
        if begun == 2:
            is_made.set()
        return groups

    monkeypatch.setattr(log, "_encoded", made)
    for number in range(400):
        log.put(error(number, stack_trace="x" * 10_000))
    may_open.set()
    assert await asyncio.to_thread(is_made.wait, PATIENCE)
    assert log.statistics().written == 0
    assert adds_up(log)
    may_write.set()

    assert await log.aclose(PATIENCE)
    assert messages(tmp_path / FILE) == [str(number) for number in range(400)]
    assert (log.statistics().written, log.statistics().dropped) == (400, 0)


@pytest.mark.parametrize(("is_alive", "least", "most"), [(True, 400, 500), (False, 5, 30)])
def test_a_flood_gives_way_to_the_writer_for_as_long_as_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_alive: bool, least: int, most: int
) -> None:
    """Every half millisecond, once the queue is half full; rarely when the disk hangs and nothing helps."""
    naps: list[float] = []
    now = 100.0

    class FakeTime:
        monotonic = staticmethod(time.monotonic)  # for logs of earlier tests that close idle files just now

        def perf_counter(self) -> float:
            return now

        def sleep(self, seconds: float) -> None:
            naps.append(now)

    log = ErrorLog(tmp_path, max_records=1_000)
    monkeypatch.setattr(log, "_wake", lambda: setattr(log, "_is_asleep", False))  # it never gets to run
    monkeypatch.setattr(error_log, "time", FakeTime())
    for number in range(1_000):
        now += 0.0006
        log._beats += is_alive
        log.put(error(number))

    assert naps[0] >= 100.0 + 500 * 0.0006
    assert least <= len(naps) <= most


@pytest.mark.asyncio
async def test_a_bug_on_the_way_to_the_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised there counts as a bad disk."""
    failed = threading.Event()

    async def fail(*_: object) -> None:
        failed.set()
        raise ZeroDivisionError("a bug")

    log = ErrorLog(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(append_file.AppendFile, "prepare", fail)
        log.put(error())
        assert await asyncio.to_thread(failed.wait, PATIENCE)
        assert not await log.flush(0.0)
        assert "a bug" in str(log.statistics().last_error)

    assert await log.aclose(PATIENCE)
    assert len(lines(tmp_path / FILE)) == 1


@pytest.mark.asyncio
async def test_put_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without threads keeps the records until it has one."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    log = ErrorLog(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        log.put(error("one"))
        assert not await log.flush()
        degraded = log.statistics()
    log.put(error("two"))

    assert await log.aclose()
    assert degraded.state == "degraded"
    assert "new thread" in str(degraded.last_error)
    assert messages(tmp_path / FILE) == ["one", "two"]


@pytest.mark.asyncio
async def test_counts_add_up_while_threads_and_the_writer_race(tmp_path: Path) -> None:
    """Four threads, a small queue, and somebody who asks all the time."""
    log = ErrorLog(tmp_path, max_records=50)
    over = threading.Event()
    right: list[bool] = []

    def produce() -> None:
        for number in range(1_000):
            log.put(error(number))

    def ask() -> None:
        while not over.is_set():
            right.append(adds_up(log))

    asking = asyncio.create_task(asyncio.to_thread(ask))
    await asyncio.gather(*(asyncio.to_thread(produce) for _ in range(4)))
    await log.aclose()
    over.set()
    await asking
    after = log.statistics()
    written = [line for line in lines(tmp_path / FILE) if line["error_type"] == "ValueError"]

    assert all(right)
    assert (after.submitted, after.queued) == (4_000, 0)
    assert after.written == len(written) == 4_000 - after.dropped


# Directories


@pytest.mark.asyncio
async def test_prepare_makes_the_directory(tmp_path: Path) -> None:
    """With its parents, and as often as one likes."""
    log = ErrorLog(tmp_path / "a" / "b")
    await log.prepare()
    await log.prepare()

    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.asyncio
async def test_prepare_refuses_what_cannot_be_a_directory(tmp_path: Path) -> None:
    """With the setting, the value and the way out."""
    (tmp_path / "file").write_text("")

    for directory, kind in (
        (tmp_path / "file", FileExistsError),
        (tmp_path / "file" / "x", NotADirectoryError),
    ):
        with pytest.raises(
            kind, match=r"error_log_dir='.*file.*' cannot be used: .*; .* pass another error_log_dir="
        ):
            await ErrorLog(directory).prepare()


def test_a_date_is_what_the_file_name_says() -> None:
    """The constants of this file fit together."""
    assert date.fromtimestamp(MORNING) in {date(2026, 11, 25), date(2026, 11, 24)}

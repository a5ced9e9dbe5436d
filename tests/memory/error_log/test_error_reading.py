"""Reading back all that was written, by whomever, torn lines skipped and counted."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import threading
from datetime import UTC, datetime
from io import BufferedIOBase
from pathlib import Path

import pytest

from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.error_log.error_log import ErrorLog
from shockproof.memory.error_log.error_reading import ErrorReading
from shockproof.vocabulary.models import ErrorRecord
from shockproof.vocabulary.statuses import ErrorSeverity

ORIGINAL = Path(__file__).parents[2] / "data" / "original-errors" / "errors_20260212.jsonl"


def line(
    moment: str, message: str, *, service: str = "market", severity: str = "medium", **more: object
) -> str:
    fields: dict[str, object] = {
        "timestamp": moment,
        "error_type": "ValueError",
        "error_message": message,
        "severity": severity,
        "service_name": service,
        "function_name": "fetch",
    }
    return json.dumps(fields | more) + "\n"


async def messages(reading: ErrorReading) -> list[str]:
    return [record.error_message async for record in reading]


@pytest.mark.asyncio
async def test_what_the_original_program_wrote_can_be_read(tmp_path: Path) -> None:
    """Its naive times are local ones."""
    shutil.copy(ORIGINAL, tmp_path)
    records = [record async for record in ErrorLog(tmp_path).read()]

    assert [(record.error_message, record.severity.value, record.retry_count) for record in records] == [
        ("Fail", "medium", 0),
        ("Fail", "medium", 1),
        ("Always fails", "medium", 0),
        ("Always fails", "high", 1),
    ]
    assert records[0].timestamp == datetime(2026, 2, 12, 11, 54, 36, 550692).astimezone()
    assert records[0].stack_trace is not None
    assert isinstance(records[0], ErrorRecord)


@pytest.mark.asyncio
async def test_files_are_read_in_the_order_of_writing(tmp_path: Path) -> None:
    """Days, parts, and compressed days, with the members of a file that was compressed twice."""
    (tmp_path / "errors_20261125_1.jsonl").write_text(line("2026-11-25T09:00:00+00:00", "part 1"))
    (tmp_path / "errors_20261125.jsonl").write_text(line("2026-11-25T08:00:00+00:00", "part 0"))
    (tmp_path / "errors_20261124.jsonl.gz").write_bytes(
        gzip.compress(line("2026-11-24T08:00:00+00:00", "packed").encode())
        + gzip.compress(line("2026-11-24T09:00:00+00:00", "late").encode())
    )
    (tmp_path / "errors_20261124.jsonl").write_text(line("2026-11-24T10:00:00+00:00", "later"))
    (tmp_path / "notes.jsonl").write_text(line("2026-11-24T10:00:00+00:00", "not ours"))

    assert await messages(ErrorLog(tmp_path).read()) == ["packed", "late", "later", "part 0", "part 1"]


@pytest.mark.asyncio
async def test_a_day_that_is_there_twice_is_read_once(tmp_path: Path) -> None:
    """A crash came between compressing it and deleting it."""
    text = line("2026-11-24T08:00:00+00:00", "once")
    (tmp_path / "errors_20261124.jsonl").write_text(text)
    (tmp_path / "errors_20261124.jsonl.gz").write_bytes(gzip.compress(text.encode()))

    assert await messages(ErrorLog(tmp_path).read()) == ["once"]


@pytest.mark.asyncio
async def test_lines_that_are_no_records_are_skipped_and_counted(tmp_path: Path) -> None:
    """Torn ones, other people's, impossible ones; blank ones are nothing; the rest is read."""
    good = line("2026-11-25T08:00:00+00:00", "good")
    lines = [
        good,
        '{"timestamp": "2026-11-25T0\n',
        "[1, 2]\n",
        '{"level": "info"}\n',
        line("2026-11-25T08:00:00+00:00", "x", severity="dreadful"),
        "\n",
        "\x00\x00\n",
        "[" * 100_000 + "\n",
        "x" * 9_000_000 + "\n",
        good,
        good[:-20],
    ]
    (tmp_path / "errors_20261125.jsonl").write_bytes("".join(lines).encode() + b"\xff\xfe")
    (tmp_path / "errors_20261126.jsonl.gz").write_bytes(gzip.compress(good.encode() * 50)[:-12])
    (tmp_path / "errors_20261127.jsonl.gz").write_bytes(b"no gzip at all")
    reading = ErrorLog(tmp_path).read()

    assert set(await messages(reading)) == {"good"}
    assert reading.skipped == 8
    assert [path.name for path in reading.damaged] == ["errors_20261126.jsonl.gz", "errors_20261127.jsonl.gz"]


@pytest.mark.asyncio
async def test_a_reading_can_be_narrowed(tmp_path: Path) -> None:
    """By time (from, and before), by service, by severity; a number is seconds since 1970."""
    (tmp_path / "errors_20261125.jsonl").write_text(
        line("2026-11-25T08:00:00+00:00", "a", severity="low")
        + line("2026-11-25T09:00:00+00:00", "b", service="orders", severity="critical")
        + line("2026-11-25T10:00:00+01:00", "c", severity="high")
        + line("2026-11-25T10:00:00+00:00", "d")
    )
    log = ErrorLog(tmp_path)
    nine = datetime(2026, 11, 25, 9, tzinfo=UTC)

    assert await messages(log.read(since=nine)) == ["b", "c", "d"]
    assert await messages(log.read(since=nine.astimezone().replace(tzinfo=None))) == ["b", "c", "d"]
    assert await messages(log.read(since=nine.timestamp() + 1)) == ["d"]
    assert await messages(log.read(until=nine)) == ["a"]
    assert await messages(log.read(service_name="orders")) == ["b"]
    assert await messages(log.read(min_severity=ErrorSeverity.HIGH)) == ["b", "c"]
    assert await messages(log.read(min_severity=ErrorSeverity.HIGH, service_name="market", since=nine)) == [
        "c"
    ]


@pytest.mark.asyncio
async def test_only_files_of_days_that_can_matter_are_opened(tmp_path: Path) -> None:
    """A day more on both sides, because a file's day may be that of another zone."""
    for day in range(20, 29):
        (tmp_path / f"errors_202611{day}.jsonl").write_text(line(f"2026-11-{day}T12:00:00+00:00", str(day)))
    opened: list[str] = []

    class Spied(SystemFiles):
        def open_to_read(self, path: Path) -> BufferedIOBase:
            if path.suffix != ".gz":
                opened.append(path.name[13:15])
            return super().open_to_read(path)

    reading = ErrorLog(tmp_path, layer=Spied()).read(
        since=datetime(2026, 11, 23, tzinfo=UTC), until=datetime(2026, 11, 25, tzinfo=UTC)
    )

    assert await messages(reading) == ["23", "24"]
    assert opened == ["22", "23", "24", "25", "26"]


@pytest.mark.asyncio
async def test_a_reading_left_early_is_closed_and_the_loop_never_read_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of records come in slices, from the disk's thread."""
    text = "".join(line("2026-11-25T08:00:00+00:00", str(number)) for number in range(2_000))
    (tmp_path / "errors_20261125.jsonl").write_text(text)
    threads: set[threading.Thread] = set()
    real = json.loads

    def spy(text: bytes) -> object:
        threads.add(threading.current_thread())
        return real(text)

    monkeypatch.setattr(json, "loads", spy)
    reading = ErrorLog(tmp_path).read()
    first = [(await anext(reading)).error_message for _ in range(300)]
    await reading.aclose()

    assert first == [str(number) for number in range(300)]
    assert threading.current_thread() not in threads
    with pytest.raises(StopAsyncIteration):
        await anext(reading)


@pytest.mark.asyncio
async def test_a_cancelled_reading_leaves_the_log_usable(tmp_path: Path) -> None:
    """The slice that was being read is read to its end, by nobody."""
    (tmp_path / "errors_20261125.jsonl").write_text(line("2026-11-25T08:00:00+00:00", "good"))
    log = ErrorLog(tmp_path)
    task = asyncio.create_task(messages(log.read()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert await messages(log.read()) == ["good"]


@pytest.mark.asyncio
async def test_an_empty_or_missing_directory_has_no_records(tmp_path: Path) -> None:
    """Nothing was ever written."""
    assert await messages(ErrorLog(tmp_path / "missing").read()) == []
    assert not (tmp_path / "missing").exists()

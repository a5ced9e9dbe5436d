"""Every state in which a power cut can leave the error log's directory, over two lives; and every call of the disk that can fail."""

from __future__ import annotations

import asyncio
import errno
import functools
import threading
from collections.abc import Callable
from datetime import date
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import pytest

from shockproof.memory.disk import line_file
from shockproof.memory.disk.append_file import AppendFile
from shockproof.memory.disk.file_layer import write_all
from shockproof.memory.disk.line_file import LineFile
from shockproof.memory.error_log import error_log
from shockproof.memory.error_log.capture import CapturedError
from shockproof.memory.error_log.error_files import PackedBefore, error_files
from shockproof.memory.error_log.error_log import ErrorLog
from shockproof.memory.error_log.error_reading import lines_of, record_in
from shockproof.memory.error_log.error_retention import Retention
from shockproof.vocabulary.statuses import ErrorSeverity
from tests.memory.disk.crash_histories import Findings, Known, Subject, crash_everywhere
from tests.memory.disk.simulated_disk import Files, SimulatedDisk
from tests.memory.disk.wrong_disks import (
    WRONG_DISKS,
    CopiesInsteadOfRenaming,
    ForgetsToSyncMadeDirectories,
    OverwritesTheTarget,
    RemovesTheTargetFirst,
    RenamesBeforeTheSync,
    SyncsDirectoriesAfterTheAnswer,
    SyncsTheDirectoryBeforeItRenames,
)

HOME = Path("/data/errors")
MORNING = 1_795_593_600.0  # 2026-11-25 08:00 UTC
FILE = HOME / "errors_20261125.jsonl"
PATIENCE = 60.0


def error(message: str) -> CapturedError:
    return CapturedError(
        timestamp=MORNING,
        error_type="ValueError",
        error_message=message,
        severity=ErrorSeverity.HIGH,
        service_name="market",
        function_name="fetch",
    )


def messages(disk: SimulatedDisk) -> list[str]:
    """Of the records that whoever reads the log finds; lines that are none are passed over."""
    lines = [line for file in error_files(HOME, layer=disk) for line in lines_of(file, disk)]
    return [message for line in lines if (message := message_in(line)) is not None]


@functools.cache
def message_in(line: bytes) -> str | None:
    record = record_in(line)
    return None if record is None else record.error_message


class Facts(NamedTuple):
    """What a program knows of its records."""

    durable: frozenset[str] = frozenset()
    """What must be there."""
    given: frozenset[str] = frozenset()
    """What may be there."""


class Logged(Subject[Facts]):
    """A program that logs, and has it made durable now and then."""

    at_first = Facts()

    def live(self, disk: SimulatedDisk, facts: Facts, life: int) -> Known[Facts]:
        known = Known(disk, facts)

        async def log_some() -> None:
            log = ErrorLog(HOME, fsync=True, layer=disk)
            for batch in range(2):
                given = {f"{life}.{batch}.{number}" for number in range(2)}
                known.now(known.facts._replace(given=known.facts.given | given))
                for message in sorted(given):
                    log.put(error(message))
                assert await log.flush(PATIENCE)
                known.now(known.facts._replace(durable=known.facts.durable | given))
            assert await log.aclose(PATIENCE)

        asyncio.run(log_some())
        return known

    def complaint(self, disk: SimulatedDisk, facts: Facts) -> str | None:
        found = messages(disk)
        if len(found) != len(set(found)):
            return f"something is there twice: {found}"
        if not facts.durable <= set(found) <= facts.given:
            return f"found {found}, and not {facts}"
        return None


def crashes(
    kind: Callable[..., SimulatedDisk],
    subject: Subject[Facts],
    *,
    second_life_each: int,
    most: int | None = None,
) -> Findings:
    def make_disk(files: Files) -> SimulatedDisk:
        return kind(files, takes=120)

    return crash_everywhere(subject, make_disk, second_life_each=second_life_each, most=most)


def test_whatever_a_crash_leaves_what_was_flushed_is_there_in_whole_lines() -> None:
    """And what the next life logs is whole too, behind whatever was torn."""
    findings = crashes(SimulatedDisk, Logged(), second_life_each=26)
    print(f"error log: {findings}")

    assert findings.wrong == []
    assert findings.states > 20_000
    assert findings.second_crashes > 15_000


RENAMING = (
    RenamesBeforeTheSync,
    SyncsTheDirectoryBeforeItRenames,
    RemovesTheTargetFirst,
    OverwritesTheTarget,
    CopiesInsteadOfRenaming,
)
"""What is appended to changes no name."""


LOGGING_DISKS = [kind for kind in WRONG_DISKS if kind not in RENAMING]


@pytest.mark.parametrize("kind", LOGGING_DISKS)
def test_step_left_out_of_logging_is_caught(kind: type[SimulatedDisk]) -> None:
    """The test above would notice."""
    assert crashes(kind, Logged(), second_life_each=1_000_000, most=1).wrong


def appends_to_a_torn_line(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(line_file, "_ends_whole", lambda raw, size: True)


def syncs_the_content_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LineFile, "sync", lambda self: self._layer.fsync(self._raw.fileno()))


def answers_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    async def later(self: AppendFile) -> None:
        """Some time."""

    patch.setattr(AppendFile, "sync", later)


def syncs_the_first_batch_only(patch: pytest.MonkeyPatch) -> None:
    sync = LineFile.sync

    def once(self: LineFile) -> None:
        if not self._has_durable_name:
            sync(self)

    patch.setattr(LineFile, "sync", once)


def begins_the_file_anew(patch: pytest.MonkeyPatch) -> None:
    opened = LineFile._opened

    def emptied(self: LineFile) -> FileIO:
        raw = opened(self)
        raw.truncate(0)
        return raw

    patch.setattr(LineFile, "_opened", emptied)


WRONG_WAYS_OF_LOGGING = (
    appends_to_a_torn_line,
    syncs_the_content_only,
    answers_before_the_sync,
    syncs_the_first_batch_only,
    begins_the_file_anew,
)


@pytest.mark.parametrize("mutate", WRONG_WAYS_OF_LOGGING)
def test_wrong_way_of_logging_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above."""
    mutate(monkeypatch)
    assert crashes(SimulatedDisk, Logged(), second_life_each=25, most=1).wrong


# ---- closed days are compressed

OLD = HOME / "errors_20261120.jsonl"
TODAY = date(2026, 11, 25)


def lines(*names: str) -> bytes:
    text = (
        '{"timestamp": "2026-11-20T08:00:00+00:00", "error_type": "E", "error_message": "%s", "severity": "high", '
        '"service_name": "s", "function_name": "f", "retry_count": 0}\n'
    )
    return "".join(text % name for name in names).encode()


class Packed(Logged):
    """A directory whose closed day is compressed, gets a late record, and is compressed again."""

    def live(self, disk: SimulatedDisk, facts: Facts, life: int) -> Known[Facts]:
        known = Known(disk, facts)
        for batch in ("early", "late") if life == 1 else ("latest",):
            names = [f"{batch} {number}" for number in range(2)]
            known.now(known.facts._replace(given=known.facts.given | set(names)))
            if not disk.is_directory(HOME):
                for directory in (HOME.parent, HOME):
                    disk.make_directory(directory)
                    SimulatedDisk.fsync_directory(disk, directory.parent)
            before = disk.names[OLD].data if OLD in disk.names else b""
            with disk.open_to_append(OLD) as file:
                newline = b"" if before.endswith(b"\n") or not before else b"\n"
                write_all(disk, file.fileno(), newline + lines(*names))
                SimulatedDisk.fsync(disk, file.fileno())
            SimulatedDisk.fsync_directory(disk, HOME)
            known.now(known.facts._replace(durable=known.facts.durable | set(names)))
            for _ in Retention(HOME, compress=True, layer=disk).steps(TODAY):
                pass
        return known


def test_whatever_a_crash_leaves_of_compressing_every_line_is_there_once() -> None:
    """In the plain file or in the compressed one."""
    findings = crashes(SimulatedDisk, Packed(), second_life_each=9)
    print(f"compressed days: {findings}")

    assert findings.wrong == []
    assert findings.states > 20_000
    assert findings.second_crashes > 15_000


HARMLESS_HERE = (
    ForgetsToSyncMadeDirectories,
    SyncsDirectoriesAfterTheAnswer,
    SyncsTheDirectoryBeforeItRenames,
)
"""Nothing here makes a directory; and that a name is durable before the next change is all that is asked."""


COMPRESSING_DISKS = [kind for kind in WRONG_DISKS if kind not in HARMLESS_HERE]


@pytest.mark.parametrize("kind", COMPRESSING_DISKS)
def test_step_left_out_of_compressing_is_caught(kind: type[SimulatedDisk]) -> None:
    """The test above would notice."""
    assert crashes(kind, Packed(), second_life_each=1_000_000, most=1).wrong


def deletes_before_the_name_is_durable(patch: pytest.MonkeyPatch) -> None:
    def later(disk: SimulatedDisk, path: Path) -> None:
        """Not before the plain one is deleted."""

    patch.setattr(SimulatedDisk, "fsync_directory", later)


def adds_what_is_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PackedBefore, "take", lambda self, block: setattr(self, "size", self.size + len(block)))


def replaces_what_was_compressed_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PackedBefore, "is_possible", property(lambda _: False))


WRONG_WAYS_OF_COMPRESSING = (
    deletes_before_the_name_is_durable,
    adds_what_is_there,
    replaces_what_was_compressed_before,
)


@pytest.mark.parametrize("mutate", WRONG_WAYS_OF_COMPRESSING)
def test_wrong_way_of_compressing_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above."""
    mutate(monkeypatch)
    assert crashes(SimulatedDisk, Packed(), second_life_each=100, most=1).wrong


def test_at_least_twelve_mistakes_are_tried_with_each() -> None:
    """What catches two or three may do so by luck."""
    assert len(LOGGING_DISKS) + len(WRONG_WAYS_OF_LOGGING) >= 12
    assert len(COMPRESSING_DISKS) + len(WRONG_WAYS_OF_COMPRESSING) >= 12


# ---- calls that fail


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses is asked again at once."""
    monkeypatch.setattr(error_log, "_FIRST_RETRY", 0.001)
    monkeypatch.setattr(error_log, "_LAST_RETRY", 0.001)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110  the log tells nobody when it becomes degraded
            await asyncio.sleep(0.001)


class FailingDisk(SimulatedDisk):
    """Refuses its Nth call, or all from that on until it is healed."""

    def __init__(self, number: int, failure: int, *, is_lasting: bool) -> None:
        super().__init__(takes=180)
        self.failure = failure
        self.refused = threading.Event()
        self.is_healed = False

        def refuses(call: int, what: str) -> bool:
            does = not self.is_healed and (call >= number if is_lasting else call == number)
            if does:
                self.refused.set()
            return does

        self.fails = refuses


async def log_on(disk: FailingDisk, *, is_lasting: bool) -> bool:
    """Whether the disk refused anything; what it has done to the log is looked at."""
    log = ErrorLog(HOME, fsync=True, max_records=5, layer=disk)
    given = [f"record {number}" for number in range(4)]
    for message in given[:3]:
        log.put(error(message))
    flushed = asyncio.ensure_future(log.flush(PATIENCE))
    if is_lasting:
        await until(lambda: disk.refused.is_set() or flushed.done())
        if disk.refused.is_set():
            await until(lambda: log.statistics().state == "degraded")
            for number in range(10):  # more than there is room for
                log.put(error(f"more {number}"))
            given += [f"more {number}" for number in range(10)]
        disk.is_healed = True
    await flushed
    log.put(error(given[3]))
    assert await log.flush(PATIENCE) or await log.flush(PATIENCE)  # the call that fails may be this one's
    now = log.statistics()
    assert await log.aclose(PATIENCE) or await log.aclose(PATIENCE)

    refused, disk.is_healed = disk.refused.is_set(), True
    found = [message for message in messages(disk) if message in given]
    assert now.state == "ok"
    assert (now.submitted, now.queued) == (len(given), 0)
    assert now.written + now.dropped == now.submitted
    assert len(set(found)) == now.written
    # A line of which only its end was refused, and then that it is taken back, is there a second time.
    assert len(found) <= now.written + is_lasting
    assert disk.files()[FILE].endswith(b"\n")
    return refused


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "for a while"])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_whichever_call_fails_the_log_is_degraded_and_goes_on(failure: int, is_lasting: bool) -> None:
    """The Nth call for every N, until it is not reached any more: written + dropped = submitted, each line once."""

    async def fail_everywhere() -> int:
        number = 1
        while await log_on(FailingDisk(number, failure, is_lasting=is_lasting), is_lasting=is_lasting):
            number += 1
        return number - 1

    assert asyncio.run(fail_everywhere()) > 10


def test_torn_line_whose_end_cannot_be_read_is_ended() -> None:
    """A disk that refuses to tell how the file ends: an empty line at worst, and no two records in one line."""
    disk = SimulatedDisk({FILE: b'{"torn'})
    disk.fails = lambda call, what: what == "read"

    async def log_one() -> None:
        log = ErrorLog(HOME, layer=disk)
        log.put(error("whole"))
        assert await log.aclose(PATIENCE)

    asyncio.run(log_one())
    assert messages(disk) == ["whole"]

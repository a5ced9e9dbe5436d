"""`recovery.operation(risk_reducing=True)`: it runs whatever the disk does, and is known when the disk is there again."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    ErrorRecoveryService,
    JournalLockedError,
    JournalUnavailableError,
    OperationBusyError,
    OperationCompletedError,
)
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal import journal as journals
from shockproof.memory.journal import operation as operations


class Disk:
    """The real one, which hangs or breaks when it is told to."""

    def __init__(self) -> None:
        self.is_broken = False
        self.is_asked, self.answers, self.took_it = threading.Event(), threading.Event(), threading.Event()
        self.answers.set()

    def hangs(self) -> None:
        operations.PATIENCE = 0.01  # type: ignore[misc]  # a test waits for no second
        self.is_asked.clear()
        self.answers.clear()

    def comes_back(self) -> None:
        operations.PATIENCE = 60.0  # type: ignore[misc]  # it works: nothing depends on how fast
        self.took_it.clear()
        self.is_broken = False
        self.answers.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk()
    real = {name: getattr(SystemFiles, name) for name in ("sync_data", "fsync")}

    def held_back(name: str) -> Any:
        def sync(files: SystemFiles, handle: int) -> None:
            made.is_asked.set()
            assert made.answers.wait(60)
            if made.is_broken:
                raise OSError(errno.EIO, "broken")
            real[name](files, handle)
            made.took_it.set()

        return sync

    for name in real:
        monkeypatch.setattr(SystemFiles, name, held_back(name))
    monkeypatch.setattr(operations, "PATIENCE", 60.0)
    monkeypatch.setattr(journals, "_AGAIN_AFTER", 0.0)
    yield made
    made.comes_back()


@pytest.fixture
def service(tmp_path: Path, disk: Disk) -> ErrorRecoveryService:
    return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")


async def next_life(recovery: ErrorRecoveryService) -> ErrorRecoveryService:
    await recovery.aclose()
    return ErrorRecoveryService(recovery.state_dir, recovery.error_log_dir)


async def warmed_up(recovery: ErrorRecoveryService) -> None:
    async with recovery.operation("before", key="0"):
        pass


def criticals(recovery: ErrorRecoveryService) -> int:
    by_severity: dict[str, int] = recovery.get_error_summary()["errors_by_severity"]
    return by_severity.get("critical", 0)


async def flatten(
    recovery: ErrorRecoveryService, key: str = "1", *, until: int = 3, risk_reducing: bool = True
) -> list[int]:
    """Closes three positions, and fails before the one that is *until*."""
    closed: list[int] = []
    async with recovery.operation("flatten", key=key, risk_reducing=risk_reducing, account="A1") as op:
        for index in range(op.progress.get("index", 0), 3):
            if index == until:
                raise KeyError(index)
            closed.append(index)
            await op.checkpoint(index=index + 1)
        op.result = "flat"
    return closed


@pytest.mark.asyncio
@pytest.mark.parametrize("the_disk", ["works", "is full", "is broken", "hangs"])
async def test_what_reduces_risk_runs_and_is_known_in_the_next_life(
    service: ErrorRecoveryService, disk: Disk, the_disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, with its result; that it went without the journal is on record, once for each block."""
    await warmed_up(service)
    if the_disk == "is full":
        monkeypatch.setattr(service._journal._files, "has_reserve", False)
        monkeypatch.setattr(service._journal._files, "make_reserve", lambda: False)
        with pytest.raises(JournalUnavailableError, match="full"):
            async with service.operation("open", key="1"):
                pytest.fail("it does not run")
    disk.is_broken = the_disk == "is broken"
    if the_disk == "hangs":
        disk.hangs()

    assert await flatten(service) == [0, 1, 2]

    with pytest.raises(OperationCompletedError) as completed:
        await flatten(service)
    assert completed.value.result == "flat"
    assert criticals(service) == (1 if the_disk in {"is broken", "hangs"} else 0)
    disk.comes_back()
    reborn = await next_life(service)
    assert await reborn.restore_state() is None
    with pytest.raises(OperationCompletedError) as completed:
        await flatten(reborn)
    assert completed.value.result == "flat"
    await reborn.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("the_disk", ["works", "is broken", "hangs"])
async def test_what_was_interrupted_goes_on_from_what_this_process_knows(
    service: ErrorRecoveryService, disk: Disk, the_disk: str
) -> None:
    """No disk is needed for that; and the next life knows it, too."""
    await warmed_up(service)
    disk.is_broken = the_disk == "is broken"
    if the_disk == "hangs":
        disk.hangs()
    for until in (1, 2):
        with pytest.raises(KeyError):
            await flatten(service, until=until)
    op = service.operation("flatten", key="1", risk_reducing=True)
    await op.__aenter__()
    assert (op.resumed, op.progress, op.details) == (True, {"index": 2}, {"account": "A1"})
    with pytest.raises(OperationBusyError):
        await flatten(service)
    await op.__aexit__(KeyError, KeyError(), None)
    disk.comes_back()

    reborn = await next_life(service)
    state = await reborn.restore_state()
    assert state is not None
    assert state.active_operations == [{"operation": "flatten", "key": "1", "status": "pending", "index": 2}]
    assert await flatten(reborn) == [2]
    await reborn.aclose()


@pytest.mark.asyncio
async def test_what_was_known_before_the_disk_failed_is_gone_on_from(
    service: ErrorRecoveryService, disk: Disk
) -> None:
    """By an operation that reduces no risk, for example."""
    with pytest.raises(KeyError):
        await flatten(service, until=2, risk_reducing=False)
    async with service.operation("flatten", key="2"):
        pass
    disk.hangs()

    assert await flatten(service) == [2]
    with pytest.raises(OperationCompletedError):
        await flatten(service, "2")


@pytest.mark.asyncio
async def test_abandoned_without_the_disk_it_may_begin_again_from_nothing(
    service: ErrorRecoveryService, disk: Disk
) -> None:
    """As with it."""
    await warmed_up(service)
    disk.hangs()
    async with service.operation("flatten", key="1", risk_reducing=True) as op:
        await op.checkpoint(index=2)
        op.abandon()

    assert await flatten(service) == [0, 1, 2]


@pytest.mark.asyncio
async def test_disk_that_hangs_is_waited_for_once(
    service: ErrorRecoveryService, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred checkpoints do not take a hundred seconds; when it is there again, it is asked again."""
    await warmed_up(service)
    disk.hangs()
    asked = 0
    ask = service._journal.ask

    async def counted(act: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        return await ask(act, **options)

    monkeypatch.setattr(service._journal, "ask", counted)
    async with service.operation("flatten", key="1", risk_reducing=True) as op:
        for index in range(100):
            await op.checkpoint(index=index)
        assert asked == 1
        disk.comes_back()
        await service._journal.flush()
        await op.checkpoint(index=100)
        assert asked == 3
        progress = await ask(lambda session: [one.body["progress"] for one in session.table.pending()])
    assert progress == [{"index": 100}]


@pytest.mark.asyncio
async def test_progress_without_the_disk_is_a_copy(service: ErrorRecoveryService, disk: Disk) -> None:
    """What the program changes afterwards is no progress."""
    await warmed_up(service)
    disk.hangs()
    positions = ["AAPL"]
    async with service.operation("flatten", key="1", risk_reducing=True) as op:
        await op.checkpoint(left=positions)
        positions.clear()
        assert op.progress == {"left": ["AAPL"]}


@pytest.mark.asyncio
async def test_journal_that_could_not_be_opened_hears_of_it_when_it_can(tmp_path: Path) -> None:
    """A file was in the way of the directory all the time; what ran is completed, what failed is pending."""
    (tmp_path / "state").write_text("a file in the way")
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    await flatten(recovery)
    with pytest.raises(KeyError):
        await flatten(recovery, "2", until=1)
    with pytest.raises(OperationCompletedError):
        await flatten(recovery)
    assert criticals(recovery) == 2
    with pytest.raises(JournalUnavailableError):
        await recovery.aclose()
    (tmp_path / "state").unlink()

    reborn = await next_life(recovery)
    state = await reborn.restore_state()

    assert state is not None
    assert [(one["key"], one["index"]) for one in state.active_operations] == [("2", 1)]
    with pytest.raises(OperationCompletedError):
        await flatten(reborn)
    await reborn.aclose()


@pytest.mark.asyncio
async def test_who_is_cancelled_in_between_forgets_nothing_of_what_went_without_the_journal(
    service: ErrorRecoveryService, disk: Disk
) -> None:
    """The next one goes on from where the first one was interrupted, also in the next life."""
    service.state_dir.parent.mkdir(exist_ok=True)
    service.state_dir.write_text("a file in the way")
    with pytest.raises(KeyError):
        await flatten(service, until=2)
    task = asyncio.ensure_future(flatten(service))
    await asyncio.sleep(0)  # it waits for the disk
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()

    assert await flatten(service) == [2]

    service.state_dir.unlink()
    reborn = await next_life(service)
    with pytest.raises(OperationCompletedError):
        await flatten(reborn)
    await reborn.aclose()


@pytest.mark.asyncio
async def test_disk_that_is_there_again_is_told_although_nobody_asks(
    service: ErrorRecoveryService, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next order may be hours away, and the program may die before it."""
    monkeypatch.setattr(journals, "_BY_ITSELF_AFTER", 0.01)
    monkeypatch.setattr(journals, "_BY_ITSELF_AT_MOST", 0.01)
    await warmed_up(service)
    service._journal._by_itself_after = 0.01
    disk.is_broken = True
    await flatten(service)

    disk.comes_back()

    assert await asyncio.to_thread(disk.took_it.wait, 60)
    assert await asyncio.to_thread(_is_written, service)
    segment = max((service.state_dir / "journal").glob("journal-*.wal")).read_bytes()
    assert b'"operation":"flatten","key":"1","status":"completed"' in segment


def _is_written(service: ErrorRecoveryService) -> bool:
    return service._journal._working.acquire(timeout=60)  # its thread has nothing more to do


@pytest.mark.asyncio
async def test_directory_of_another_process_is_not_taken_for_what_went_without_it(tmp_path: Path) -> None:
    """A tool that closes positions beside the running bot ends well, and leaves the journal to the bot."""
    theirs = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    await warmed_up(theirs)
    tool = ErrorRecoveryService(tmp_path / "other", tmp_path / "errors")
    tool._journal._files.directory = tool._journal.directory = theirs._journal.directory
    with pytest.raises(JournalLockedError):
        async with tool.operation("open", key="1"):
            pass

    assert await flatten(tool) == [0, 1, 2]

    with pytest.raises(OperationCompletedError):
        await flatten(tool)
    await tool.aclose()
    await theirs.aclose()


@pytest.mark.asyncio
async def test_cancelled_while_it_waits_for_the_disk_it_leaves_nothing(
    service: ErrorRecoveryService, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one begins at once."""
    await warmed_up(service)
    disk.hangs()
    with monkeypatch.context() as patched:
        patched.setattr(operations, "PATIENCE", 60.0)
        task = asyncio.ensure_future(flatten(service))
        assert await asyncio.to_thread(disk.is_asked.wait, 60)
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled()

    assert await flatten(service) == [0, 1, 2]

    disk.comes_back()
    reborn = await next_life(service)
    assert await reborn.restore_state() is None
    await reborn.aclose()


@pytest.mark.asyncio
async def test_cancelled_before_the_disk_refuses_it_leaves_what_an_earlier_life_has_left(
    service: ErrorRecoveryService, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not begin again, and what was begun before is not given up: it goes on from there."""
    with pytest.raises(KeyError):
        await flatten(service, until=2)
    reborn = await next_life(service)
    await warmed_up(reborn)
    disk.hangs()
    disk.is_broken = True
    with monkeypatch.context() as patched:
        patched.setattr(operations, "PATIENCE", 60.0)
        task = asyncio.ensure_future(flatten(reborn))
        assert await asyncio.to_thread(disk.is_asked.wait, 60)
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled()
    disk.answers.set()
    async with asyncio.timeout(60):
        while reborn._journal.status().state != "failed":  # noqa: ASYNC110 - the event is in its thread
            await asyncio.sleep(0.001)
    disk.comes_back()
    await reborn._journal.flush()

    reborn = await next_life(reborn)
    assert await flatten(reborn) == [2]
    await reborn.aclose()


@pytest.mark.asyncio
async def test_block_that_was_entered_and_refused_leaves_no_claim(
    service: ErrorRecoveryService,
) -> None:
    """A completed key is refused as often as it is asked for, by the one and by the other."""
    await flatten(service)
    for _ in range(2):
        with pytest.raises(OperationCompletedError):
            await flatten(service)
        with pytest.raises(OperationCompletedError):
            async with service.operation("flatten", key="1"):
                pass
    with pytest.raises(TypeError, match="risk_reducing"):
        service.operation("flatten", risk_reducing="yes")  # type: ignore[arg-type]  # that is the mistake


@pytest.mark.asyncio
async def test_without_a_thread_for_the_journal_only_what_reduces_risk_runs_and_nothing_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has its limit of threads: what was refused there must not be pending when there are some again."""
    service = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    await service.start()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        with pytest.raises(JournalUnavailableError, match="no thread to write in: can't start new thread"):
            async with service.operation("open", key="1"):
                pytest.fail("it does not run")
        assert await flatten(service) == [0, 1, 2]
    state = await service.restore_state()
    assert state is None or state.active_operations == []
    with pytest.raises(OperationCompletedError):
        await flatten(service)
    async with service.operation("open", key="1") as op:
        assert not op.resumed
    await service.aclose()

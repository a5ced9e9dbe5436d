"""The background writer: two daemon threads that come when needed and go when idle."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from shockproof.memory.disk import writer as background
from shockproof.memory.disk.writer import DiskThread, Writer, wait_on_this_loop, writer_for
from shockproof.testing.virtual_time import VirtualTimeLoop

PATIENCE = 30.0  # seconds after which something that should happen never will


class Latch:
    """A blocking call that starts, says so, and ends when told."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.released = threading.Event()

    def __call__(self) -> str:
        self.started.set()
        assert self.released.wait(PATIENCE)
        return "done"


def ended(thread: threading.Thread) -> bool:
    thread.join(PATIENCE)
    return not thread.is_alive()


def test_nothing_starts_before_it_is_needed(tmp_path: Path) -> None:
    """A service that never fails has no thread."""
    before = set(threading.enumerate())
    Writer(tmp_path)

    assert set(threading.enumerate()) <= before  # one of an earlier test may end just now


def test_jobs_run_one_after_the_other_in_their_order(tmp_path: Path) -> None:
    """In one thread, which is a daemon."""
    writer = Writer(tmp_path)
    seen: list[int] = []
    futures = [writer.submit(seen.append, number) for number in range(100)]
    thread = writer.submit(threading.current_thread).result(PATIENCE)

    assert all(future.result(PATIENCE) is None for future in futures)
    assert seen == list(range(100))
    assert thread.daemon


def test_an_error_goes_to_the_one_who_asked(tmp_path: Path) -> None:
    """And the thread goes on."""
    writer = Writer(tmp_path)

    with pytest.raises(ZeroDivisionError):
        writer.submit(lambda: 1 / 0).result(PATIENCE)
    assert writer.submit(lambda: 5).result(PATIENCE) == 5


@pytest.mark.asyncio
async def test_run_waits_for_the_result_without_stopping_the_loop(tmp_path: Path) -> None:
    """The loop goes on while the disk takes its time."""
    writer, latch = Writer(tmp_path), Latch()
    waiting = asyncio.create_task(writer.run(latch))
    await asyncio.to_thread(latch.started.wait, PATIENCE)
    assert not waiting.done()
    latch.released.set()

    assert await waiting == "done"


@pytest.mark.asyncio
async def test_a_job_cancelled_before_its_turn_does_not_run(tmp_path: Path) -> None:
    """One that has begun runs to its end, unobserved."""
    writer, latch = Writer(tmp_path), Latch()
    seen: list[str] = []
    first = asyncio.create_task(writer.run(latch))
    second = asyncio.create_task(writer.run(seen.append, "second"))
    await asyncio.to_thread(latch.started.wait, PATIENCE)
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    latch.released.set()
    await writer.run(seen.append, "third")

    assert seen == ["third"]


def test_a_loop_with_virtual_time_stands_still_while_it_waits(tmp_path: Path) -> None:
    """Or an hour would pass while the disk writes."""
    writer, latch = Writer(tmp_path), Latch()

    async def main() -> tuple[str, bool]:
        loop = asyncio.get_running_loop()
        timer = loop.create_future()
        loop.call_later(3_600, timer.set_result, None)
        loop.call_soon(latch.released.set)
        return await wait_on_this_loop(writer.submit(latch)), timer.done()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == ("done", False)


def test_callbacks_run_in_order_on_a_private_loop(tmp_path: Path) -> None:
    """Whichever threads and loops they come from."""
    writer = Writer(tmp_path)
    seen: list[int] = []
    loops: list[asyncio.AbstractEventLoop] = []
    over = threading.Event()

    async def main() -> None:
        for number in range(50):
            writer.call_soon(lambda number=number: seen.append(number))  # type: ignore[misc]  # the default binds the loop's value
        loops.append(asyncio.get_running_loop())

    asyncio.run(main())
    writer.call_soon(lambda: loops.append(asyncio.get_running_loop()))
    writer.call_soon(over.set)

    assert over.wait(PATIENCE)
    assert seen == list(range(50))
    assert loops[0] is not loops[1]


def test_a_bad_callback_does_not_take_the_next_one_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the loop goes on."""
    writer, over = Writer(tmp_path), threading.Event()
    writer.call_soon(lambda: 1 / 0)
    writer.call_soon(over.set)

    assert over.wait(PATIENCE)
    assert "background writer failed" in caplog.text


def test_idle_threads_end_and_come_back(tmp_path: Path) -> None:
    """Thousands of services leave no thread behind, and the next error finds one."""
    writer = Writer(tmp_path, idle_after=0.0)
    for _ in range(20):
        found: list[threading.Thread] = []
        over = threading.Event()
        writer.call_soon(lambda found=found: found.append(threading.current_thread()))  # type: ignore[misc]  # the default binds the loop's value
        writer.call_soon(over.set)
        disk = writer.submit(threading.current_thread).result(PATIENCE)
        assert over.wait(PATIENCE)
        assert ended(found[0])
        assert ended(disk)


def test_calls_from_many_threads_meet_an_idle_end_and_none_is_lost(tmp_path: Path) -> None:
    """The race between the last look and the end of a thread."""
    writer = Writer(tmp_path, idle_after=0.0)
    lock, counts = threading.Lock(), {"calls": 0, "jobs": 0}
    over = threading.Event()

    def count(kind: str) -> None:
        with lock:
            counts[kind] += 1
            if counts == {"calls": 2_000, "jobs": 2_000}:
                over.set()

    def produce() -> None:
        for _ in range(500):
            writer.call_soon(lambda: count("calls"))
            writer.submit(count, "jobs")

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert over.wait(PATIENCE), counts


def test_a_job_that_comes_while_the_thread_makes_up_its_mind_is_run() -> None:
    """Between its last look and its word that it is gone."""
    disk = DiskThread("test")
    late: list[Future[str]] = []
    came = threading.Event()

    class LastMoment:
        def __init__(self) -> None:
            self.jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

        def put(self, job: Callable[[], None]) -> None:
            self.jobs.put(job)

        def empty(self) -> bool:
            return self.jobs.empty()

        def get(self, timeout: float) -> Callable[[], None]:
            if late or not self.jobs.empty():
                return self.jobs.get(timeout=timeout)
            late.append(disk.submit(lambda: "run"))
            came.set()
            raise queue.Empty

    disk._jobs = LastMoment()  # type: ignore[assignment]  # stands in for the real queue
    assert disk.submit(lambda: "first").result(PATIENCE) == "first"
    assert came.wait(PATIENCE)

    assert late[0].result(PATIENCE) == "run"


def test_a_system_without_threads_is_said_and_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The callback is kept, and called as soon as there is a thread."""
    writer, over = Writer(tmp_path), threading.Event()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            writer.call_soon(over.set)
        with pytest.raises(RuntimeError):
            writer.submit(over.is_set)
    writer.call_soon(lambda: None)

    assert over.wait(PATIENCE)
    assert writer.submit(over.is_set).result(PATIENCE)


def test_one_directory_has_one_writer_for_as_long_as_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is spelled."""
    monkeypatch.chdir(tmp_path)
    writer = writer_for(tmp_path / "errors")

    assert writer_for("errors") is writer
    assert writer_for("errors/../errors") is writer
    assert writer_for(tmp_path / "state") is not writer

    gone = weakref.ref(writer)
    del writer
    gc.collect()
    assert gone() is None


def test_a_disk_thread_is_an_executor_for_any_loop() -> None:
    """Both asyncio and aiofiles take it as they take a thread pool."""
    disk = DiskThread("test")

    async def main() -> str:
        return await asyncio.get_running_loop().run_in_executor(disk, lambda: threading.current_thread().name)

    assert asyncio.run(main()) == "test"
    assert asyncio.run(main()) == "test"


class Drain:
    """Something to be saved at exit."""

    def __init__(self, answer: Callable[[float], str | None]) -> None:
        self.answer = answer

    def drain(self, timeout: float) -> str | None:
        return self.answer(timeout)


def test_every_drain_gets_its_turn_and_says_what_it_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after one that fails; all share one limit; those whose object is gone are forgotten."""
    monkeypatch.setattr(background, "_drains", [])
    monkeypatch.setattr(background, "_exiting_in", None)
    monkeypatch.setattr(background, "EXIT_TIMEOUT", PATIENCE)
    limits: list[float] = []

    def saved(timeout: float) -> None:
        limits.append(timeout)

    drains = [Drain(saved), Drain(lambda _: "3 records left"), Drain(lambda _: str(1 / 0)), Drain(saved)]
    for drain in drains:
        background.at_exit(drain.drain)
        background.at_exit(drain.drain)
    background.at_exit(Drain(lambda _: "gone").drain)
    background._drain_all()

    assert len(limits) == 2
    assert 0 < limits[1] <= limits[0] <= background.EXIT_TIMEOUT
    assert capsys.readouterr().err == (
        "shockproof: 3 records left\nshockproof: saving at exit failed: ZeroDivisionError: division by zero\n"
    )


def test_a_drain_that_hangs_holds_nobody_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They run side by side: here the first even waits for the last."""
    monkeypatch.setattr(background, "_drains", [])
    monkeypatch.setattr(background, "_exiting_in", None)
    monkeypatch.setattr(background, "EXIT_TIMEOUT", PATIENCE)
    saved, ended = threading.Event(), threading.Event()

    def waits(timeout: float) -> str | None:
        return "saved meanwhile" if saved.wait(timeout) else "held the other back"

    def saves(_: float) -> None:
        saved.set()

    drains = [Drain(waits), Drain(saves)]
    for drain in drains:
        background.at_exit(drain.drain)
    background._drain_all()
    assert capsys.readouterr().err == "shockproof: saved meanwhile\n"

    def hangs(_: float) -> None:
        ended.wait(60)

    monkeypatch.setattr(background, "_drains", [])
    monkeypatch.setattr(background, "EXIT_TIMEOUT", 0.0)
    monkeypatch.setattr(background, "_LAST_WORDS", 0.0)
    hanging = Drain(hangs)
    background.at_exit(hanging.drain)
    background._drain_all()
    ended.set()
    assert capsys.readouterr().err == "shockproof: saving at exit did not end within 0 s\n"


def test_drains_run_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some interpreters refuse new threads at exit."""
    monkeypatch.setattr(background, "_drains", [])
    monkeypatch.setattr(background, "_exiting_in", None)

    def refuse(_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    drains = [Drain(lambda _: "one"), Drain(lambda _: "two")]
    for drain in drains:
        background.at_exit(drain.drain)
    background._drain_all()

    assert capsys.readouterr().err == "shockproof: one\nshockproof: two\n"

"""When the state is written: intervals, coalescing, failures, cancellation, several loops."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.state.codec import UnsavableValueError
from shockproof.memory.state.secrets import SecretNotSavedWarning
from shockproof.memory.state.state_files import StateFiles
from shockproof.memory.state.state_saver import SaveSchedule, StateSaver, flush_all_blocking
from shockproof.testing.virtual_time import VirtualClock
from shockproof.vocabulary.clock import SystemClock
from shockproof.vocabulary.errors import StateNotSavedError, StateVersionError

pytestmark = pytest.mark.plays_the_disk

T = TypeVar("T")


class ByHand:
    """A writer's thread that works when the test says so; counts what it was asked to do."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Future[Any]]] = []
        self.submitted = 0

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((job, future))
        self.submitted += 1
        return future

    def work(self) -> None:
        """Do everything that was submitted."""
        while self.jobs:
            job, future = self.jobs.pop(0)
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001  as a thread pool does
                future.set_exception(error)


class Immediately(ByHand):
    """A writer's thread that is done before anybody looks."""

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        future = super().submit(job)
        self.work()
        return future


class CountingFiles(StateFiles):
    """Remembers what was written; fails as often as it is told to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.written: list[Any] = []
        self.failures: list[BaseException] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def write(self, captured: Any) -> int:
        cached = captured.fields["cached_data"]
        if isinstance(cached, dict):
            self.written.append(cached["n"])
        self.meanwhile()
        if self.failures:
            raise self.failures.pop(0)
        return super().write(captured)


def state(number: int) -> dict[str, object]:
    return {"cached_data": {"n": number}}


def on_disk(directory: Path) -> int | None:
    restored = StateFiles(directory).load().state
    return None if restored is None else restored.cached_data["n"]


async def until_blocked() -> None:
    """Let every task run until it waits for something."""
    for _ in range(10):
        await asyncio.sleep(0)


class Bench:
    """A saver with all its parts in reach."""

    def __init__(self, directory: Path, writer: ByHand, interval: float = 60.0) -> None:
        self.clock = VirtualClock()
        self.files = CountingFiles(directory)
        self.writer = writer
        self.saver = StateSaver(self.files, clock=self.clock, interval=interval, submit=writer.submit)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self.clock.run(main)


# ---- the schedule


def test_first_save_is_never_skipped() -> None:
    """Whatever the clock reads."""
    assert SaveSchedule(60.0).wait(0.0, force=False) == 0.0


def test_save_within_the_interval_waits_for_the_rest_of_it() -> None:
    """Counted from the last write."""
    schedule = SaveSchedule(60.0, last_write=1000.0)

    assert schedule.wait(1015.0, force=False) == 45.0
    assert schedule.wait(1015.0, force=True) == 0.0
    assert schedule.wait(1060.0, force=False) == 0.0


def test_clock_of_another_loop_that_is_behind_begins_the_interval_anew() -> None:
    """And does not hold saves back for ever."""
    schedule = SaveSchedule(60.0, last_write=1_000_000.0)

    assert schedule.wait(5.0, force=False) == 60.0
    assert schedule.wait(65.0, force=False) == 0.0


# ---- saving


def test_true_means_durable_and_false_means_kept(tmp_path: Path) -> None:
    """The first save is written, the second kept, a forced one written."""
    bench = Bench(tmp_path, Immediately())

    async def main() -> None:
        assert await bench.saver.save(state(1)) is True
        assert on_disk(tmp_path) == 1
        assert await bench.saver.save(state(2)) is False
        assert on_disk(tmp_path) == 1
        assert bench.saver.pending
        assert await bench.saver.save(state(3), force=True) is True
        assert on_disk(tmp_path) == 3
        assert not bench.saver.pending

    bench.run(main())


def test_kept_state_is_written_when_the_interval_ends(tmp_path: Path) -> None:
    """The latest of several, once, without anybody calling."""
    bench = Bench(tmp_path, Immediately())

    async def main() -> None:
        await bench.saver.save(state(1))
        for number in (2, 3, 4):
            await asyncio.sleep(10)
            assert not await bench.saver.save(state(number))
        await asyncio.sleep(29)
        assert bench.files.written == [1]
        await asyncio.sleep(2)
        assert bench.files.written == [1, 4]
        await asyncio.sleep(1000)

    bench.run(main())
    assert bench.files.written == [1, 4]


def test_kept_state_is_written_by_flush(tmp_path: Path) -> None:
    """From a loop or, when the program ends, without one; and only when there is something."""
    bench = Bench(tmp_path, Immediately())
    bench.run(bench.saver.flush())
    assert bench.writer.submitted == 0

    for number, flush in enumerate(
        (lambda: bench.run(bench.saver.flush()), lambda: bench.saver.flush_blocking(5.0))
    ):
        bench.run(bench.saver.save(state(1), force=True))
        bench.run(bench.saver.save(state(10 + number)))
        flush()
        assert on_disk(tmp_path) == 10 + number
        assert not bench.saver.pending
    bench.saver.flush_blocking(5.0)
    assert bench.files.written == [1, 10, 1, 11]


def test_kept_state_survives_its_loop(tmp_path: Path) -> None:
    """A loop that ended takes its timer with it; the next save after the interval writes."""
    bench = Bench(tmp_path, Immediately())
    bench.run(bench.saver.save(state(1)))
    assert not bench.run(bench.saver.save(state(2)))

    async def later() -> None:
        assert not await bench.saver.save(state(3))
        await asyncio.sleep(61)

    bench.run(later())
    assert bench.files.written == [1, 3]


def test_shorter_interval_counts_at_once(tmp_path: Path) -> None:
    """`configure` while a state waits for the end of its interval."""
    bench = Bench(tmp_path, Immediately())

    async def main() -> None:
        await bench.saver.save(state(1))
        await bench.saver.save(state(2))
        bench.saver.interval = 5.0
        await asyncio.sleep(6)
        assert bench.files.written == [1, 2]

    bench.run(main())
    assert bench.saver.interval == 5.0
    bench.saver.interval = 60.0


def test_state_is_saved_as_it_was_at_the_call(tmp_path: Path) -> None:
    """What the program does to its dicts while the writer has not come to it yet is not in the file."""
    bench = Bench(tmp_path, ByHand())
    live: dict[str, Any] = {"n": 1, "quotes": [1.5]}

    async def main() -> None:
        saving = asyncio.create_task(bench.saver.save({"cached_data": live}))
        await until_blocked()
        live["n"] = 2
        live["quotes"].append(2.5)
        bench.writer.work()
        assert await saving

    bench.run(main())
    restored = StateFiles(tmp_path).load().state
    assert restored is not None
    assert restored.cached_data == {"n": 1, "quotes": [1.5]}


def test_saves_during_a_write_become_one_more_write(tmp_path: Path) -> None:
    """Never two writes at once; whoever waits gets its own data or newer."""
    bench = Bench(tmp_path, ByHand())
    more: list[asyncio.Task[bool]] = []

    async def main() -> None:
        first = asyncio.create_task(bench.saver.save(state(1), force=True))
        await until_blocked()
        loop = asyncio.get_running_loop()
        arrived = threading.Event()

        async def add() -> None:
            more.extend(asyncio.create_task(bench.saver.save(state(n), force=True)) for n in (2, 3, 4))
            await until_blocked()
            arrived.set()

        def meanwhile() -> None:
            bench.files.meanwhile = lambda: None
            asyncio.run_coroutine_threadsafe(add(), loop)
            assert arrived.wait(60)

        bench.files.meanwhile = meanwhile
        with ThreadPoolExecutor(1) as pool:
            await loop.run_in_executor(pool, bench.writer.work)
        assert await first
        assert await asyncio.gather(*more) == [True, True, True]

    bench.run(main())
    assert bench.files.written == [1, 4]
    assert bench.writer.submitted == 1
    assert on_disk(tmp_path) == 4


def test_save_that_finds_newer_data_durable_is_done(tmp_path: Path) -> None:
    """A large state takes a while to copy; one that was saved later and is smaller may overtake it."""
    bench = Bench(tmp_path, Immediately())
    large = {"cached_data": {"n": 1, **{str(n): {"a": n} for n in range(10_000)}}}

    async def main() -> None:
        slow = asyncio.create_task(bench.saver.save(large, force=True))
        await asyncio.sleep(0)
        assert not slow.done()
        assert await bench.saver.save(state(2), force=True)
        assert await slow

    bench.run(main())
    assert bench.files.written == [2]


def test_kept_state_is_not_replaced_by_an_older_one(tmp_path: Path) -> None:
    """Which of two is the latest is told by the calls, not by how long the copying took."""
    bench = Bench(tmp_path, Immediately())
    large = {"cached_data": {"n": 1, **{str(n): {"a": n} for n in range(10_000)}}}

    async def main() -> None:
        await bench.saver.save(state(0))
        slow = asyncio.create_task(bench.saver.save(large))
        await asyncio.sleep(0)
        assert not slow.done()
        assert not await bench.saver.save(state(2))
        assert not await slow
        await bench.saver.flush()

    bench.run(main())
    assert bench.files.written == [0, 2]


def test_entries_changed_while_a_large_state_is_copied_belong_to_the_next_save(tmp_path: Path) -> None:
    """Which entries there are is fixed by the call, in every section."""
    bench = Bench(tmp_path, Immediately())
    configuration: dict[str, object] = {"mode": "paper"}
    large = {"n": 1, **{str(n): {"a": n} for n in range(10_000)}}

    async def main() -> None:
        saving = asyncio.create_task(bench.saver.save({"cached_data": large, "configuration": configuration}))
        await asyncio.sleep(0)
        assert not saving.done()
        configuration["mode"] = "live"
        large["new"] = {}
        await saving

    bench.run(main())
    restored = StateFiles(tmp_path).load().state
    assert restored is not None
    assert restored.configuration == {"mode": "paper"}
    assert "new" not in restored.cached_data


def test_large_copy_that_a_newer_one_replaces_is_freed_in_the_writers_thread(tmp_path: Path) -> None:
    """Freeing a hundred thousand entries would hold the loop up; small ones are not worth a job."""
    bench = Bench(tmp_path, ByHand())

    async def main() -> None:
        first = asyncio.create_task(bench.saver.save(state(0)))
        await until_blocked()
        bench.writer.work()
        assert await first
        for count, jobs in ((1, 1), (1, 1), (1_000, 1), (1_000, 2), (1, 3), (1, 3)):
            large = {f"key {n}": [n, count] for n in range(count)}
            assert await bench.saver.save({"cached_data": {"n": 1, **large}}) is False
            assert bench.writer.submitted == jobs
        bench.writer.work()

    bench.run(main())


def test_interval_that_ends_during_a_write_is_followed_by_another_write(tmp_path: Path) -> None:
    """A write that takes longer than the interval does not swallow what came meanwhile."""
    bench = Bench(tmp_path, ByHand(), interval=5.0)

    async def main() -> None:
        first = asyncio.create_task(bench.saver.save(state(1)))
        await until_blocked()

        def meanwhile() -> None:
            bench.files.meanwhile = lambda: None
            with pytest.raises(StopIteration) as kept:
                bench.saver.save(state(2)).send(None)
            assert kept.value.value is False
            bench.clock.advance(6.0)
            bench.saver._interval_ended()

        bench.files.meanwhile = meanwhile
        bench.writer.work()
        assert await first
        assert bench.files.written == [1, 2]
        assert not bench.saver.pending

    bench.run(main())


# ---- what goes wrong


def test_disk_that_refuses_is_an_error_with_cause_place_and_way_out(tmp_path: Path) -> None:
    """And the state is kept: written when the interval ends, if the disk has come back."""
    bench = Bench(tmp_path, Immediately())
    bench.files.failures = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]

    async def main() -> None:
        with pytest.raises(
            StateNotSavedError, match=rf"{tmp_path}: .*No space left.*free the disk"
        ) as refused:
            await bench.saver.save(state(1))
        assert isinstance(refused.value.__cause__, OSError)
        assert bench.saver.pending
        await asyncio.sleep(61)
        assert on_disk(tmp_path) == 1
        assert not bench.saver.pending

    bench.run(main())


def test_each_waiter_of_a_failed_write_gets_an_error_of_its_own(tmp_path: Path) -> None:
    """A traceback belongs to one task; and those who came during the write get another try."""
    bench = Bench(tmp_path, ByHand())
    bench.files.failures = [OSError(errno.EIO, os.strerror(errno.EIO))]

    async def main() -> None:
        saves = [asyncio.create_task(bench.saver.save(state(n), force=True)) for n in (1, 2)]
        await until_blocked()
        bench.writer.work()
        errors = await asyncio.gather(*saves, return_exceptions=True)
        assert [type(error) for error in errors] == [StateNotSavedError, StateNotSavedError]
        assert errors[0] is not errors[1]
        again = asyncio.create_task(bench.saver.flush())
        await until_blocked()
        bench.writer.work()
        await again

    bench.run(main())
    assert on_disk(tmp_path) == 2


def test_write_that_nobody_waits_for_is_tried_again_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of the interval meets a disk that refuses, twice."""
    bench = Bench(tmp_path, Immediately(), interval=0.5)

    async def main() -> None:
        await bench.saver.save(state(1))
        await bench.saver.save(state(2))
        bench.files.failures = [OSError(errno.EIO, "bad disk"), OSError(errno.EIO, "bad disk")]
        await asyncio.sleep(10)
        assert on_disk(tmp_path) == 2

    bench.run(main())
    assert bench.files.written == [1, 2, 2, 2]
    assert caplog.text.count("was not saved") == 2


@pytest.mark.parametrize("how", ["refused", "cancelled"])
def test_writer_that_is_closed_is_an_error_and_not_a_hang(tmp_path: Path, how: str) -> None:
    """Whoever waits is told, and a later save with a working writer goes through."""
    bench = Bench(tmp_path, ByHand())

    def closed(job: Callable[[], Any]) -> Future[Any]:
        if how == "refused":
            raise RuntimeError("the writer is closed")
        future: Future[Any] = Future()
        future.cancel()
        return future

    saver = StateSaver(bench.files, clock=bench.clock, interval=60.0, submit=closed)

    async def main() -> None:
        with pytest.raises(StateNotSavedError, match="writer"):
            await saver.save(state(1))
        assert saver.pending
        saver._submit = Immediately().submit
        await saver.flush()

    bench.run(main())
    assert on_disk(tmp_path) == 1


def test_writer_that_hangs_does_not_hang_the_end_of_the_program(tmp_path: Path) -> None:
    """`flush_blocking` gives up after its time."""
    bench = Bench(tmp_path, Immediately())
    bench.run(bench.saver.save(state(1)))
    bench.run(bench.saver.save(state(2)))
    bench.saver._submit = ByHand().submit

    with pytest.raises(StateNotSavedError, match="not within 0 s"):
        bench.saver.flush_blocking(0.0)


def test_disk_that_hangs_does_not_take_the_time_of_the_others(tmp_path: Path) -> None:
    """At the end of the program all are started before any is waited for."""
    hangs, works, refuses = (tmp_path / name for name in ("hangs", "works", "refuses"))
    benches = [Bench(hangs, ByHand()), Bench(works, Immediately()), Bench(refuses, Immediately())]
    for bench in benches:
        writer, bench.writer = bench.writer, Immediately()
        bench.saver._submit = bench.writer.submit
        assert bench.run(bench.saver.save(state(1)))
        assert not bench.run(bench.saver.save(state(2)))
        bench.saver._submit = writer.submit
    benches[2].files.failures = [OSError(errno.ENOSPC, "disk full")]

    left_behind = flush_all_blocking([bench.saver for bench in benches], 0.0)

    assert [on_disk(path) for path in (hangs, works, refuses)] == [1, 2, 1]
    assert ["not within 0 s" in left_behind[0], "disk full" in left_behind[1]] == [True, True]
    assert [bench.saver.pending for bench in benches] == [True, False, True]


def test_newer_state_files_are_refused_as_what_they_are(tmp_path: Path) -> None:
    """A StateVersionError passes through to each who waits."""
    bench = Bench(tmp_path, Immediately())
    (tmp_path / "system_state.json").write_text('{"format_version": 99}')

    async def main() -> None:
        with pytest.raises(StateVersionError, match="format version 99"):
            await bench.saver.save(state(1))
        with pytest.raises(StateVersionError, match="format version 99"):
            await bench.saver.load()

    bench.run(main())


def test_value_that_cannot_be_saved_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """It is refused with its path; what is kept from before is still kept."""
    bench = Bench(tmp_path, Immediately())

    async def main() -> None:
        with pytest.raises(UnsavableValueError, match=r"cached_data\.x"):
            await bench.saver.save({"cached_data": {"x": object()}})
        assert not bench.saver.pending
        assert await bench.saver.save(state(1)), "a refused save is not the first one"
        await bench.saver.save(state(2))
        with pytest.raises(UnsavableValueError):
            await bench.saver.save({"cached_data": {"x": object()}}, force=True)
        await bench.saver.flush()

    bench.run(main())
    assert on_disk(tmp_path) == 2


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("active_operations", {"operation": "x"}),
        ("active_operations", "x"),
        ("active_operations", 5),
        ("active_operations", [1]),
        ("cached_data", [1]),
        ("configuration", "x"),
        ("checksum", 1),
        ("timestamp", 1),
    ],
)
def test_section_of_the_wrong_kind_is_refused_by_name(tmp_path: Path, section: str, value: object) -> None:
    """Before anything is kept."""
    bench = Bench(tmp_path, Immediately())

    with pytest.raises(TypeError, match=section):
        bench.run(bench.saver.save({section: value}))
    assert not bench.saver.pending


def test_secret_without_a_key_warns_with_its_path(tmp_path: Path) -> None:
    """One warning for all of them, at the line that saves; made an error, it stops the save."""
    bench = Bench(tmp_path, Immediately())
    sections = {"configuration": {"api_key": "K-1", "venue": {"secret": "K-2"}}, "cached_data": {"n": 1}}

    with pytest.warns(
        SecretNotSavedWarning, match=r"configuration\.api_key, configuration\.venue\.secret; configure a key"
    ):
        assert bench.run(bench.saver.save(sections))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SecretNotSavedWarning):
            bench.run(bench.saver.save(sections, force=True))
    assert bench.files.written == [1]


# ---- cancellation, threads


def test_cancelled_save_ends_at_once_and_the_write_goes_on(tmp_path: Path) -> None:
    """Nothing half-done: the writer finishes what it was given."""
    bench = Bench(tmp_path, ByHand())

    async def main() -> None:
        saving = asyncio.create_task(bench.saver.save(state(1), force=True))
        await until_blocked()
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        bench.writer.work()
        assert on_disk(tmp_path) == 1
        saving = asyncio.create_task(bench.saver.save(state(2), force=True))
        await until_blocked()
        bench.writer.work()
        assert await saving

    bench.run(main())
    assert on_disk(tmp_path) == 2


def test_save_cancelled_while_it_copies_leaves_nothing(tmp_path: Path) -> None:
    """A large state is copied in steps; cancelled in between, it was never saved."""
    bench = Bench(tmp_path, Immediately())

    async def main() -> None:
        saving = asyncio.create_task(bench.saver.save({"cached_data": {str(n): [n] for n in range(10_000)}}))
        await asyncio.sleep(0)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving

    bench.run(main())
    assert not bench.saver.pending
    assert bench.files.written == []


def test_cancelled_flush_leaves_the_state_to_the_writer(tmp_path: Path) -> None:
    """As with a save."""
    bench = Bench(tmp_path, Immediately())

    async def main() -> None:
        await bench.saver.save(state(1))
        await bench.saver.save(state(2))
        writer = ByHand()
        bench.saver._submit = writer.submit
        flushing = asyncio.create_task(bench.saver.flush())
        await until_blocked()
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        assert bench.saver.pending
        writer.work()
        assert not bench.saver.pending

    bench.run(main())
    assert on_disk(tmp_path) == 2


def test_several_loops_in_threads_share_one_saver(tmp_path: Path) -> None:
    """Every forced save is durable when it returns, whoever wrote it."""
    with ThreadPoolExecutor(1) as pool:
        saver = StateSaver(StateFiles(tmp_path), clock=SystemClock(), interval=0.0, submit=pool.submit)
        results: list[bool] = []

        async def save_some() -> None:
            for number in range(10):
                results.append(await saver.save(state(number), force=number % 2 == 0))
                assert on_disk(tmp_path) is not None

        threads = [threading.Thread(target=lambda: asyncio.run(save_some())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(results) == 40
    assert all(results)
    assert not saver.pending


def test_forked_child_forgets_what_its_parent_was_writing(tmp_path: Path) -> None:
    """Its own saves go through, and the parent's pending state stays the parent's."""
    bench = Bench(tmp_path, ByHand())

    async def begin() -> None:
        saving = asyncio.create_task(bench.saver.save(state(1), force=True))
        await until_blocked()
        saving.cancel()

    bench.run(begin())
    bench.saver._lock.acquire()

    bench.saver.after_fork()

    assert not bench.saver.pending
    bench.saver._submit = Immediately().submit
    assert bench.run(bench.saver.save(state(2), force=True))
    assert on_disk(tmp_path) == 2


def test_load_happens_in_the_writers_thread(tmp_path: Path) -> None:
    """No file is touched on the loop's thread, by a save or by a load."""
    threads: set[int] = set()

    class Watched(SystemFiles):
        def read(self, path: Path, limit: int) -> bytes:
            threads.add(threading.get_ident())
            return super().read(path, limit)

        def list_directory(self, path: Path) -> list[str]:
            threads.add(threading.get_ident())
            return super().list_directory(path)

    with ThreadPoolExecutor(1) as pool:
        saver = StateSaver(
            StateFiles(tmp_path, layer=Watched()),
            clock=SystemClock(),
            interval=0,
            submit=pool.submit,
        )

        async def main() -> None:
            await saver.save(state(1))
            restored = (await saver.load()).state
            assert restored is not None
            assert restored.cached_data == {"n": 1}

        asyncio.run(main())

    assert threads
    assert threading.get_ident() not in threads


def test_repr_tells_what_is_going_on(tmp_path: Path) -> None:
    """Good for the person who debugs at night."""
    bench = Bench(tmp_path, ByHand())

    async def main() -> None:
        assert repr(bench.saver) == f"<StateSaver {str(tmp_path)!r} saved>"
        saving = asyncio.create_task(bench.saver.save(state(1)))
        await until_blocked()
        assert repr(bench.saver).endswith("writing>")
        bench.writer.work()
        await saving
        await bench.saver.save(state(2))
        assert repr(bench.saver).endswith("pending>")

    bench.run(main())

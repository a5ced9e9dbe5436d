"""The loop monitor: lateness counted, the line named, the health degraded and well again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from shockproof import AdaptiveConcurrency, ErrorRecoveryService, Event, Handle, LoopStalled
from shockproof.calls import loop_monitor
from shockproof.calls.stall_watcher import StallWatcher, Watched
from shockproof.testing import VirtualClock, VirtualTimeLoop
from tests.forked_child import ForkedChild

TICK = 0.05
PATIENCE = 60.0


class Looks:
    """Stands for the thread that looks: the test says when, and how late."""

    def __init__(self) -> None:
        self.watched: list[Watched] = []

    def add(self, watched: Watched) -> None:
        self.watched.append(watched)

    def remove(self, watched: Watched) -> None:
        if watched in self.watched:
            self.watched.remove(watched)

    def look(self, *, late: float = 0.0) -> None:
        frames = {**sys._current_frames(), threading.get_ident(): sys._getframe(1)}
        for watched in list(self.watched):
            watched.look(lambda: frames, late)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    made = Looks()
    original = loop_monitor.LoopMonitor.__init__

    def with_looks(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs, watcher=made)  # type: ignore[arg-type]  # it is none, and has the same methods

    monkeypatch.setattr(loop_monitor.LoopMonitor, "__init__", with_looks)
    return made


@pytest.fixture
def watched(tmp_path: Path, clock: VirtualClock, looks: Looks) -> ErrorRecoveryService:
    return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock, loop_monitor=True)


def loop_of(recovery: ErrorRecoveryService) -> dict[str, Any]:
    found: dict[str, Any] = recovery.get_health_status()["loop"]
    return found


# -- what is measured ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_beats_are_counted_by_how_late_they_came(
    watched: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """In buckets that are the same for every loop and process, so that counts add up."""
    await watched.start()
    await clock.sleep(1.0)
    clock.advance(0.3)
    await clock.sleep(1.0)
    lag = loop_of(watched)["lag"]
    assert lag["count"] >= 30
    assert lag["up_to"]["0.1"] == lag["count"] - 1
    assert lag["up_to"]["0.5"] == lag["up_to"]["inf"] == lag["count"]
    assert 0.25 <= lag["max"] <= 0.3
    assert json.loads(json.dumps(lag)) == lag
    await watched.aclose()


@pytest.mark.asyncio
async def test_a_stall_is_told_when_it_is_over_with_the_line_that_held_the_loop(
    watched: ErrorRecoveryService, clock: VirtualClock, looks: Looks, caplog: pytest.LogCaptureFixture
) -> None:
    """As an event, in the health, and in the program's own log."""
    told: list[Event] = []

    async def listener(event: Event) -> None:
        told.append(event)

    watched.on_event(listener)

    def pricing() -> None:
        clock.advance(0.2)
        looks.look()  # from a thread of its own, if this were not the test's
        clock.advance(0.2)

    await watched.start()
    await clock.sleep(2 * TICK)
    pricing()
    await clock.sleep(2 * TICK)
    with caplog.at_level(logging.WARNING, "shockproof"):
        looks.look()
    await clock.sleep(2 * TICK)
    [stall] = told
    assert isinstance(stall, LoopStalled)
    assert stall.where is not None
    assert stall.where.startswith(f"{__file__}:")
    assert "pricing" in stall.where
    assert (stall.cause, stall.service_name) == ("blocked", "")
    assert 0.35 - TICK <= stall.duration <= 0.4
    task = asyncio.current_task()
    assert task is not None
    assert stall.task == task.get_name()
    health = loop_of(watched)
    assert health["stalls"] == 1
    assert health["recent_stalls"][0]["where"] == stall.where
    assert stall.where in caplog.text
    await watched.aclose()


@pytest.mark.asyncio
async def test_of_two_stalls_in_a_row_each_has_its_line(
    watched: ErrorRecoveryService, clock: VirtualClock, looks: Looks
) -> None:
    """The second one is there before anybody has told of the first."""

    def pricing() -> None:
        clock.advance(0.2)
        looks.look()
        clock.advance(0.2)

    def hedging() -> None:
        clock.advance(0.3)
        looks.look()
        clock.advance(0.3)

    await watched.start()
    await clock.sleep(2 * TICK)
    pricing()
    await clock.sleep(2 * TICK)
    hedging()
    await clock.sleep(2 * TICK)
    looks.look()
    stalls = loop_of(watched)["recent_stalls"]
    assert ["pricing" in stall["where"] for stall in stalls] == [True, False]
    assert ["hedging" in stall["where"] for stall in stalls] == [False, True]
    await watched.aclose()


@pytest.mark.asyncio
async def test_a_stall_that_nobody_saw_is_told_without_a_line(
    watched: ErrorRecoveryService, clock: VirtualClock, looks: Looks
) -> None:
    """And the line of an earlier stall is not taken for it."""
    await watched.start()
    await clock.sleep(2 * TICK)
    clock.advance(0.3)
    looks.look()
    await clock.sleep(2 * TICK)
    clock.advance(0.3)
    await clock.sleep(2 * TICK)
    looks.look()
    causes = [(one["cause"], one["where"] is None) for one in loop_of(watched)["recent_stalls"]]
    assert causes == [("blocked", False), ("unseen", True)]
    await watched.aclose()


@pytest.mark.asyncio
async def test_the_health_is_degraded_by_a_late_loop_and_well_again_after_a_while(
    watched: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Also while it is late, for whoever asks from another thread."""
    await watched.start()
    await clock.sleep(TICK)
    clock.advance(0.4)
    await clock.sleep(TICK)
    assert watched.get_health_status()["overall_health"] == "healthy"
    clock.advance(0.6)
    assert watched.get_health_status()["overall_health"] == "degraded"
    assert loop_of(watched)["stalled_for"] >= 0.5
    await clock.sleep(29.0)
    assert loop_of(watched)["state"] == "degraded"
    await clock.sleep(2.0)
    assert watched.get_health_status()["overall_health"] == "healthy"
    await watched.aclose()


@pytest.mark.asyncio
async def test_without_a_monitor_nothing_runs(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Off costs nothing: no task, no thread, no entry."""
    before = asyncio.all_tasks()
    await recovery.start()
    await recovery.service("api").call(clock.sleep, 1.0)
    assert asyncio.all_tasks() == before
    assert (recovery.loop_monitor, loop_of(recovery)) == (None, None)


def test_without_a_monitor_its_code_is_not_even_loaded(tmp_path: Path) -> None:
    """What is optional is imported when it is first used."""
    code = (
        "import sys; from shockproof import ErrorRecoveryService as E; E('s', 'e'); "
        "print([name for name in sys.modules if name.startswith('shockproof') and ('monitor' in name or 'stall_w' in name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"tick": 0}, ValueError, r"loop_monitor\['tick'\] must be seconds"),
        ({"stall_after": "long"}, TypeError, r"loop_monitor\['stall_after'\]"),
        (
            {"stalls_after": 1},
            TypeError,
            "loop_monitor knows no 'stalls_after'; did you mean stall_after\\? there are",
        ),
        (0.1, TypeError, "loop_monitor must be True, False or a dict"),
    ],
)
def test_bad_options_are_refused_by_name(
    tmp_path: Path, given: Any, error: type[Exception], told: str
) -> None:
    """When the service is made, and not when the first stall is there."""
    with pytest.raises(error, match=told):
        ErrorRecoveryService(tmp_path, tmp_path, loop_monitor=given)


def test_options_are_completed_and_can_be_read(tmp_path: Path) -> None:
    """As all settings."""
    service = ErrorRecoveryService(tmp_path, tmp_path, loop_monitor={"stall_after": 1})
    assert service.loop_monitor == {
        "tick": 0.05,
        "stall_after": 1.0,
        "degraded_above": 0.5,
        "recovers_after": 30.0,
    }


# -- loops that come and go ----------------------------------------------------------------------------


def test_a_loop_that_nobody_runs_has_not_stalled(
    watched: ErrorRecoveryService, clock: VirtualClock, looks: Looks
) -> None:
    """A program that runs its loop piece by piece does other things between."""
    loop = VirtualTimeLoop(clock)
    loop.run_until_complete(watched.start())
    loop.run_until_complete(clock.sleep(1.0))
    clock.advance(3600.0)
    looks.look()
    assert watched._loop_monitor is not None
    assert watched._loop_monitor.stalled_for() is None
    loop.run_until_complete(clock.sleep(1.0))
    assert loop_of(watched)["stalls"] == 0
    loop.run_until_complete(watched.aclose())
    loop.run_until_complete(clock.sleep(0.0))
    loop.close()
    assert looks.watched == []


def test_the_next_loop_is_watched_from_its_first_call_on(
    watched: ErrorRecoveryService, clock: VirtualClock, looks: Looks
) -> None:
    """A service outlives its loop, and so does the monitor; each loop is left when it ends."""
    api = watched.service("api")

    async def main() -> None:
        await api.call(clock.sleep, 1.0)
        assert loop_of(watched)["loops"] == len(looks.watched) == 1

    for _ in range(2):
        clock.run(main())
        assert looks.watched == []
    assert loop_of(watched)["lag"]["count"] >= 2 * 15


def test_a_stall_that_ends_the_loop_is_told_too(
    watched: ErrorRecoveryService, clock: VirtualClock, looks: Looks
) -> None:
    """The last thing a program did may be what held it."""

    async def main() -> None:
        await watched.start()
        await clock.sleep(1.0)
        clock.advance(5.0)
        looks.look()

    clock.run(main())
    [stall] = loop_of(watched)["recent_stalls"]
    assert "main" in stall["where"]


class Looked:
    """The real frames, as the thread that looks sees them; the test can wait for a look."""

    def __init__(self) -> None:
        self._looks = threading.Semaphore(0)

    def frames(self) -> Mapping[int, FrameType]:
        found = sys._current_frames()
        self._looks.release()
        return found

    def wait_here(self) -> None:
        """Block this thread until it was looked at often enough to be a stall."""
        while self._looks.acquire(blocking=False):
            pass
        for _ in range(5):
            assert self._looks.acquire(timeout=PATIENCE)


def with_looked(tmp_path: Path) -> tuple[ErrorRecoveryService, Looked, StallWatcher]:
    recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", loop_monitor=True)
    looked = Looked()
    watcher = StallWatcher(looked.frames)
    assert recovery._loop_monitor is not None
    recovery._loop_monitor.watcher = watcher
    return recovery, looked, watcher


async def a_beat(recovery: ErrorRecoveryService) -> None:
    """Wait until a watched loop, whichever it is, has beaten."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    assert recovery._loop_monitor is not None

    def told(late: float) -> None:
        with contextlib.suppress(RuntimeError):  # another loop tells it when this one has just ended
            loop.call_soon_threadsafe(came.set)

    stop = recovery._loop_monitor.subscribe(told)
    await asyncio.wait_for(came.wait(), PATIENCE)
    stop()


def test_each_of_several_loops_is_watched_that_started_the_service(tmp_path: Path) -> None:
    """The one that stands still is named, by a line of its own thread, while the other one runs."""
    recovery, looked, watcher = with_looked(tmp_path)
    started, counted, told = threading.Barrier(2), threading.Barrier(2), threading.Event()

    def listener(event: Event) -> None:
        assert isinstance(event, LoopStalled)
        if any("one_that_blocks" in line for line in event.stack):
            told.set()

    recovery.on_event(listener)

    async def one_that_blocks() -> None:
        await recovery.start()
        started.wait(PATIENCE)
        counted.wait(PATIENCE)
        while not told.is_set():
            await a_beat(recovery)
            looked.wait_here()

    async def one_that_runs() -> None:
        await recovery.start()
        started.wait(PATIENCE)
        assert loop_of(recovery)["loops"] == 2
        counted.wait(PATIENCE)  # else the other one may have ended before
        while not told.is_set():
            await a_beat(recovery)

    with ThreadPoolExecutor(2) as pool:
        for end in [pool.submit(asyncio.run, main()) for main in (one_that_blocks, one_that_runs)]:
            end.result(PATIENCE)
    assert told.is_set()
    ends(watcher)


def ends(watcher: StallWatcher) -> None:
    """Its thread goes when there is nothing left to watch."""
    thread = watcher.thread
    if thread is not None:
        thread.join(PATIENCE)
    assert watcher.thread is None


# -- a real stall --------------------------------------------------------------------------------------


def new_loop(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if kind != "uvloop":
        return asyncio.new_event_loop
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


@pytest.mark.parametrize("kind", ["asyncio", "asyncio in debug mode", "uvloop"])
def test_a_real_stall_is_seen_by_another_thread(tmp_path: Path, kind: str) -> None:
    """The loop's thread blocks until it was looked at; whatever loop it is, the line is that of this test."""
    recovery, looked, watcher = with_looked(tmp_path)

    def block() -> None:
        looked.wait_here()

    async def main() -> LoopStalled:
        stalls: asyncio.Queue[LoopStalled] = asyncio.Queue()

        async def listener(event: Event) -> None:
            assert isinstance(event, LoopStalled)
            stalls.put_nowait(event)

        recovery.on_event(listener)
        async with recovery:
            while True:
                await a_beat(recovery)
                block()
                stall = await asyncio.wait_for(stalls.get(), PATIENCE)
                if any("block" in line for line in stall.stack):  # else the machine had other things to do
                    return stall

    with asyncio.Runner(loop_factory=new_loop(kind), debug="debug" in kind) as runner:
        stall = runner.run(main())
    assert stall.where is not None
    assert stall.where.startswith(f"{__file__}:")
    assert stall.task is not None
    ends(watcher)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # 3.12 warns of forks with threads
def test_a_forked_child_watches_its_own_loop_and_counts_anew(tmp_path: Path) -> None:
    """The thread that looks is gone there, and so is the loop of the parent."""
    recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", loop_monitor=True)
    api = recovery.service("api")

    async def calls() -> dict[str, Any]:
        await api.call(asyncio.sleep, 0)
        await a_beat(recovery)
        return loop_of(recovery)

    assert asyncio.run(calls())["loops"] == 1
    counted = loop_of(recovery)["lag"]["count"]
    assert counted > 0

    def in_the_child() -> dict[str, Any]:
        begun = loop_of(recovery)["lag"]["count"]
        return {"begun": begun, **asyncio.run(calls())}

    told = ForkedChild(in_the_child).answer()
    assert (told["begun"], told["loops"]) == (0, 1)
    assert told["lag"]["count"] > 0
    assert loop_of(recovery)["lag"]["count"] == counted


# -- what is spared because it was our own doing ---------------------------------------------------------


class _GatewayError(Exception):
    status = 504


async def own_limit(clock: VirtualClock, before: float, stall: float) -> None:
    await clock.sleep(before)
    async with asyncio.timeout(1.0):
        clock.advance(stall)
        await clock.sleep(3600)


@pytest.mark.asyncio
@pytest.mark.parametrize("before", [0.0, 20.0])
@pytest.mark.parametrize(("stall", "is_open"), [(0.9, False), (0.1, True)])
async def test_a_time_limit_of_the_functions_own_opens_no_circuit_after_our_stall(
    watched: ErrorRecoveryService, clock: VirtualClock, before: float, stall: float, is_open: bool
) -> None:
    """An HTTP client's timeout knows nothing of our loop; the monitor does, also where it is that of the last of many steps."""
    api = watched.service("api", max_retries=0, circuit_threshold=1)
    await watched.start()
    await clock.sleep(TICK)
    with pytest.raises(TimeoutError):
        await api.call(own_limit, clock, before, stall)
    assert watched.is_circuit_open("api") is is_open
    await watched.aclose()


@pytest.mark.asyncio
async def test_an_error_of_the_other_side_is_none_of_our_stall(
    watched: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A gateway that says 504 has said so, however late we read it."""
    api = watched.service("api", max_retries=0, circuit_threshold=1)

    async def answers() -> None:
        clock.advance(2.0)
        raise _GatewayError

    await watched.start()
    await clock.sleep(TICK)
    with pytest.raises(_GatewayError):
        await api.call(answers)
    assert watched.is_circuit_open("api")
    await watched.aclose()


@pytest.mark.asyncio
async def test_a_success_that_our_stall_made_slow_is_not_slow(
    watched: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Neither for a circuit that counts slow calls, nor for a limit that follows latencies."""
    options: dict[str, Any] = {
        "slow_call_after": 1.0,
        "slow_call_rate": 0.5,
        "min_calls": 2,
        "max_concurrent": AdaptiveConcurrency(),
    }
    api = watched.service("api", **options)
    told: list[float] = []
    spy_on_limit(api, told)

    async def answers(stall: float) -> None:
        await clock.sleep(0.2)
        clock.advance(stall)

    await watched.start()
    await clock.sleep(TICK)
    for _ in range(4):
        await api.call(answers, 2.0)
    assert not watched.is_circuit_open("api")
    assert [round(seconds, 1) <= 0.3 for seconds in told] == [True] * 4
    for _ in range(4):
        await clock.sleep(TICK)
        if watched.is_circuit_open("api"):
            break
        await api.call(clock.sleep, 2.0)
    assert watched.is_circuit_open("api")
    await watched.aclose()


def spy_on_limit(handle: Handle, told: list[float]) -> None:
    """Each duration that the limit of *handle* is told goes to *told*."""
    limits = handle.plan.state.limits
    tell = limits._adaptive.ended

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(adaptive, name)

        def ended(self, now: float, seconds: float, *, dropped: bool, is_full: bool) -> object:
            told.append(seconds)
            return tell(now, seconds, dropped=dropped, is_full=is_full)

    adaptive, limits._adaptive = limits._adaptive, Spy()

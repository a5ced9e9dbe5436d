"""Worker threads: their number, their order, and what becomes of one that is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shockproof import AttemptTimeoutError, CircuitOpenError, ErrorRecoveryService
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


class Gate:
    """Lets the loop know when a thread has come to it, and the thread wait until it is opened."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._opened = threading.Event()
        self._came: asyncio.Queue[int] = asyncio.Queue()

    def pass_through(self) -> None:
        self._loop.call_soon_threadsafe(self._came.put_nowait, threading.get_ident())
        self._opened.wait(60)

    async def somebody_came(self) -> int:
        return await self._came.get()

    def open(self) -> None:
        self._opened.set()


def small(tmp_path: Path, clock: VirtualClock, threads: int, **options: Any) -> ErrorRecoveryService:
    return ErrorRecoveryService(tmp_path / "s", tmp_path / "e", max_threads=threads, clock=clock, **options)


def left_behind(recovery: ErrorRecoveryService) -> int:
    count: int = recovery.get_health_status()["services"]["api"]["abandoned_threads"]
    return count


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_service_uses_no_more_threads_than_its_limit(clock: VirtualClock, tmp_path: Path) -> None:
    """Ten calls, two threads: two run, eight wait their turn."""
    api = small(tmp_path, clock, 2).service("api")
    gate = Gate()
    calls = [asyncio.create_task(api.call(gate.pass_through)) for _ in range(10)]
    first, second = await gate.somebody_came(), await gate.somebody_came()
    await turns()
    try:
        assert gate._came.empty()
    finally:
        gate.open()
    await asyncio.gather(*calls)
    threads = {first, second}
    while not gate._came.empty():
        threads.add(await gate.somebody_came())
    assert len(threads) == 2


async def test_waiting_calls_are_served_in_the_order_they_came(clock: VirtualClock, tmp_path: Path) -> None:
    """First in, first out."""
    api = small(tmp_path, clock, 1).service("api")
    gate, served = Gate(), list[int]()
    blocking = asyncio.create_task(api.call(gate.pass_through))
    await gate.somebody_came()
    waiting = []
    for number in range(20):
        waiting.append(asyncio.create_task(api.call(served.append, number)))
        await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(blocking, *waiting)
    assert served == list(range(20))


async def test_a_thread_is_used_again(clock: VirtualClock, tmp_path: Path) -> None:
    """An idle one takes the next call; one that has just told its result is not idle yet."""
    api = small(tmp_path, clock, 1000).service("api")
    threads = set[threading.Thread]()  # kept: numbers are given again
    for _ in range(200):
        threads.add(await api.call(threading.current_thread))
        while not api.plan.runtime.threads(api.plan.state)._idle:  # noqa: ASYNC110  it sets no event
            await asyncio.sleep(0)
    assert len(threads) == 1


async def test_threads_do_not_keep_the_program_alive(clock: VirtualClock, tmp_path: Path) -> None:
    """They are daemons: a hung broker call does not hold the exit."""
    thread = await small(tmp_path, clock, 1).service("api").call(threading.current_thread)
    assert thread.daemon


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_whatever_a_thread_raises_comes_out_unchanged(
    clock: VirtualClock, tmp_path: Path, error: BaseException
) -> None:
    """The same object; what is no Exception is neither retried nor recorded, and the thread lives on."""
    recovery = small(tmp_path, clock, 1)
    api = recovery.service("api", max_retries=0)

    def raises() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await api.call(raises)
    assert raised.value is error
    assert recovery.get_error_summary()["total_errors"] == isinstance(error, Exception)
    assert await api.call(lambda: "answer") == "answer"


async def test_a_timeout_leaves_the_thread_behind(clock: VirtualClock, tmp_path: Path) -> None:
    """The call ends at its timeout, a failure; the thread is counted until it ends, and its result is lost."""
    recovery = small(tmp_path, clock, 1)
    api = recovery.service("api", timeout=2.0, max_retries=0)
    gate = Gate()
    call = asyncio.create_task(api.call(gate.pass_through))
    await gate.somebody_came()
    clock.advance(2.0)  # time stands still while threads work: it is moved by hand
    try:
        with pytest.raises(AttemptTimeoutError):
            await call
        assert left_behind(recovery) == 1
        assert recovery.get_error_summary()["total_errors"] == 1
    finally:
        gate.open()
    assert await api.using(timeout=None).call(lambda: "answer") == "answer"
    assert left_behind(recovery) == 0


async def test_the_late_answer_of_a_thread_left_behind_decides_nothing(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """Neither its success nor its error is heard by the circuit."""
    recovery = small(tmp_path, clock, 2)
    api = recovery.service("api", timeout=2.0, max_retries=0, circuit_threshold=1)
    gate = Gate()
    call = asyncio.create_task(api.call(gate.pass_through))
    await gate.somebody_came()
    for _ in range(8):  # in steps: one jump would be a loop of ours that stood still
        clock.advance(0.25)
        await turns()
    with pytest.raises(AttemptTimeoutError):
        await call
    assert recovery.is_circuit_open("api")
    gate.open()
    await turns()
    assert recovery.is_circuit_open("api")
    with pytest.raises(CircuitOpenError):
        await api.call(lambda: "answer")


async def test_a_coroutine_that_a_thread_left_behind_returns_is_closed(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """Its result is thrown away; Python does not complain that it was never awaited."""
    recovery = small(tmp_path, clock, 1)
    api = recovery.service("api")
    gate, made = Gate(), list[Any]()

    async def fetch() -> str:
        raise AssertionError("must not run")

    def late() -> Any:
        gate.pass_through()
        made.append(fetch())
        return made[0]

    call = asyncio.create_task(api.call(late))
    await gate.somebody_came()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    gate.open()
    await api.call(lambda: None)  # the only thread has come back
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coroutine = made.pop()
        assert coroutine.cr_frame is None, "it was not closed"
        del coroutine
        gc.collect()


async def test_a_result_is_not_kept_alive_by_an_idle_thread(clock: VirtualClock, tmp_path: Path) -> None:
    """What was returned belongs to the caller alone."""
    import weakref

    class Quote:
        pass

    api = small(tmp_path, clock, 1).service("api")
    quote = await api.call(Quote)
    await api.call(lambda: None)
    reference = weakref.ref(quote)
    del quote
    assert reference() is None


async def test_a_loop_that_ends_before_its_thread_does_no_harm(tmp_path: Path, clock: VirtualClock) -> None:
    """The answer finds nobody; the thread goes on with the next loop's work."""
    recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", max_threads=1)
    opened = threading.Event()
    problems: list[BaseException] = []

    async def first() -> None:
        loop, came = asyncio.get_running_loop(), asyncio.Event()

        def hang() -> str:
            loop.call_soon_threadsafe(came.set)
            opened.wait(60)
            return "late"

        call = asyncio.create_task(recovery.retry_with_backoff(hang, service_name="api"))
        await came.wait()
        call.cancel()

    async def second() -> None:
        call = asyncio.create_task(recovery.retry_with_backoff(lambda: "answer", service_name="api"))
        await asyncio.sleep(0)
        opened.set()
        assert await call == "answer"

    def run(*mains: Callable[[], Any]) -> None:
        try:
            for main in mains:
                asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            problems.append(error)

    other = threading.Thread(target=run, args=(first, second))
    other.start()
    other.join()
    assert problems == []
    assert left_behind(recovery) == 0

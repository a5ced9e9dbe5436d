"""Hostile errors, callables, tasks and threads against the calls."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

from shockproof import AttemptTimeoutError, ErrorRecoveryService, Event
from shockproof.calls import timer
from tests.forked_child import ForkedChild


@pytest.fixture
def recovery(tmp_path: Path) -> ErrorRecoveryService:
    """A service that repeats at once."""
    return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.0)


def plain(number: int = 2) -> int:
    """An ordinary function."""
    return number


async def fails() -> None:
    """An ordinary failure."""
    raise OSError("down")


def deep_group() -> ExceptionGroup[Exception]:
    """A group inside a group, deeper than Python's stack."""
    error: Exception = ValueError("leaf")
    for _ in range(1500):
        error = ExceptionGroup("group", [error])
    assert isinstance(error, ExceptionGroup)
    return error


@pytest.mark.asyncio
async def test_a_loop_of_attempts_that_is_left_by_break_does_not_switch_later_retries_off(
    recovery: ErrorRecoveryService,
) -> None:
    """Breaking out between two attempts ends that retry, and the task's later calls repeat as ever."""
    async for attempt in recovery.service("first").attempts():
        async with attempt:
            raise ValueError("once")
        break
    calls = 0

    async def counted() -> None:
        nonlocal calls
        calls += 1
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        await recovery.service("second", max_retries=3).call(counted)
    assert calls == 4


@pytest.mark.asyncio
async def test_a_group_nested_very_deeply_is_raised_unchanged_and_counted(
    recovery: ErrorRecoveryService,
) -> None:
    """Judging the leaves of a group needs no recursion: the call's own error arrives, and is recorded."""
    group = deep_group()

    async def raises() -> None:
        raise group

    with pytest.raises(ExceptionGroup) as caught:
        await recovery.service("deep", max_retries=0, circuit_threshold=1).call(raises)
    assert caught.value is group
    assert recovery.is_circuit_open("deep")
    assert recovery.get_error_summary()["total_errors"] == 1


@pytest.mark.parametrize("hook", ["__getattr__", "__setattr__"])
@pytest.mark.asyncio
async def test_an_error_with_hostile_attributes_is_raised_unchanged(
    recovery: ErrorRecoveryService, hook: str
) -> None:
    """Whatever an exception's own attribute access raises, the caller gets that exception."""

    def refuse(self: object, *arguments: object) -> None:
        raise RuntimeError("hostile")

    error = type("HostileError", (Exception,), {hook: refuse})("down")

    async def raises() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await recovery.service("hostile", max_retries=1).call(raises)
    assert caught.value is error


@pytest.mark.parametrize("mock", [Mock, MagicMock])
@pytest.mark.asyncio
async def test_a_mock_with_a_plain_functions_spec_is_called(
    recovery: ErrorRecoveryService, mock: type[Mock]
) -> None:
    """Mocks work, also those that imitate a function's code object."""
    assert await recovery.service("mock").call(mock(spec=plain, return_value=5)) == 5


@pytest.mark.asyncio
async def test_a_task_factory_may_use_the_service_while_a_listener_is_told(
    recovery: ErrorRecoveryService,
) -> None:
    """No lock is held while a listener's task is made: eager tasks run it right there."""
    stuck: list[bool] = []

    async def listener(event: Event) -> None:
        del event

    recovery.on_event(listener)

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:  # Any: asyncio's
        thread = threading.Thread(target=recovery.on_event, args=(lambda event: None,), daemon=True)
        thread.start()
        thread.join(30.0)
        stuck.append(thread.is_alive())
        return asyncio.Task(coro, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)
    with pytest.raises(OSError, match="down"):
        await recovery.service("told", max_retries=0).call(fails)
    asyncio.get_running_loop().set_task_factory(None)
    assert stuck
    assert not any(stuck)


@pytest.mark.parametrize("limit", [0.1, 0.081])
@pytest.mark.asyncio
async def test_a_loop_that_stood_still_for_a_whole_limit_opens_no_circuit(
    recovery: ErrorRecoveryService, limit: float
) -> None:
    """A timeout during which our own loop did not run says nothing about the other side."""
    market = recovery.service("market", max_retries=0, timeout=limit, circuit_threshold=1)
    answered = asyncio.Event()

    async def waits() -> None:
        asyncio.get_running_loop().call_later(0.001, answered.set)
        await asyncio.Event().wait()

    call = asyncio.ensure_future(market.call(waits))
    await asyncio.sleep(0)
    busy_until = time.monotonic() + 0.1
    while time.monotonic() < busy_until:  # the loop stands still
        pass
    with pytest.raises(AttemptTimeoutError):
        await call
    assert not recovery.is_circuit_open("market")


@pytest.mark.asyncio
async def test_time_limits_of_many_values_leave_nothing_behind(recovery: ErrorRecoveryService) -> None:
    """A limit computed anew for each call costs no memory once it is idle."""
    market = recovery.service("market")

    async def quick() -> None:
        pass

    for number in range(50):
        await market.using(timeout=0.001 + number * 1e-7).call(quick)
    for _ in range(200):
        await asyncio.sleep(0.001)
        if not any(0.001 <= seconds < 0.00101 for seconds in timer._limits):
            break
    assert not any(0.001 <= seconds < 0.00101 for seconds in timer._limits)


def test_a_forked_child_runs_plain_functions(recovery: ErrorRecoveryService) -> None:
    """The parent's idle threads are not in the child: it starts its own."""
    market = recovery.service("market")

    async def calls() -> None:
        assert await market.call(plain) == 2

    asyncio.run(calls())
    ForkedChild(lambda: asyncio.run(calls())).answer()


def test_a_forked_child_saves_while_a_write_of_the_parent_is_in_flight(
    recovery: ErrorRecoveryService,
) -> None:
    """What was being written at the fork is the parent's; the child's own save does not wait for it."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        leave.wait()

    async def child_saves() -> None:
        assert await recovery.save_state(cached_data={"of": "child"}, force=True)

    async def parent_saves() -> None:
        assert await recovery.save_state(cached_data={"of": "parent"}, force=True)

    recovery._state_writer.submit(hold)
    parent = threading.Thread(target=lambda: asyncio.run(parent_saves()))
    parent.start()
    assert entered.wait(60.0)
    while not recovery._saver.pending:
        time.sleep(0)
    try:
        ForkedChild(lambda: asyncio.run(child_saves())).answer()
    finally:
        leave.set()
        parent.join()

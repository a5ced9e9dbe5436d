"""
Fixtures for pytest: a recovery service on virtual time, its events, faults and storms, all from one seed.

Load it in a conftest: ``pytest_plugins = ["shockproof.testing.pytest_plugin"]``. Coroutine tests run with
pytest-asyncio, or with anyio's own plugin on the backend that `VirtualClock.anyio_backend` gives.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shockproof.service import ErrorRecoveryService
from shockproof.testing.blocking_files import BlockingFileCall
from shockproof.testing.blocking_files import no_blocking_files as _no_blocking_files
from shockproof.testing.fault_injector import FaultInjector
from shockproof.testing.recorded_events import RecordedEvents, record_events
from shockproof.testing.seed import SEED_VARIABLE, seed_from
from shockproof.testing.storm import Storm
from shockproof.testing.virtual_time import VirtualClock, VirtualTimeLoop

if TYPE_CHECKING:
    from pytest_asyncio import fixture as _async_fixture
else:
    try:
        from pytest_asyncio import fixture as _async_fixture
    except ImportError:  # whoever runs coroutine tests with anyio needs no second plugin for them
        _async_fixture = pytest.fixture

__all__ = [
    "clock",
    "events",
    "faults",
    "no_blocking_files",
    "nothing_left",
    "recovery",
    "rng",
    "shockproof_seed",
    "storm",
]

_SEED = pytest.StashKey[int]()
_EVENTS = pytest.StashKey[RecordedEvents]()
_TURNS_TO_END = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--shockproof-seed``."""
    parser.getgroup("shockproof").addoption(
        "--shockproof-seed",
        metavar="SEED",
        help=f"whole number from which tests draw, or 'random' for a fresh one; else {SEED_VARIABLE}, else 7",
    )


def pytest_configure(config: pytest.Config) -> None:
    """One seed for the session, so that 'random' is the same for all of its tests."""
    try:
        config.stash[_SEED] = seed_from(config.getoption("--shockproof-seed", default=None))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(trylast=True, optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests that ask for `clock`, themselves or through a fixture, run on a loop with virtual time, others on a real one."""
    names: list[str] = getattr(item, "fixturenames", [])
    if "clock" in names:
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test says from which seed it drew and what had happened."""
    report = yield
    if report.failed:
        if _SEED in item.stash:
            seed = item.stash[_SEED]
            report.sections.append(("shockproof seed", f"repeat it with --shockproof-seed={seed}"))
        if _EVENTS in item.stash:
            report.sections.append(("shockproof events", str(item.stash[_EVENTS])))
    return report


@pytest.fixture
def shockproof_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this session; a test that used it says so when it fails."""
    seed = request.node.stash[_SEED] = request.config.stash[_SEED]
    return int(seed)


@pytest.fixture
def rng(shockproof_seed: int) -> random.Random:
    """A source of random numbers that repeats."""
    return random.Random(shockproof_seed)


def _has_loop(request: pytest.FixtureRequest) -> bool:
    """Whether pytest-asyncio has made a loop for this test; anyio makes its own, a plain test none."""
    if "anyio_backend" in request.fixturenames:
        return False
    test = request.node.obj  # the mark says nothing: that of a whole file is on its plain tests as well
    return inspect.iscoroutinefunction(getattr(getattr(test, "hypothesis", None), "inner_test", test))


@_async_fixture
async def _clock_of_the_loop() -> VirtualClock:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop.clock


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> VirtualClock:
    """The virtual clock of the loop this test runs on; in a plain test one to ``run`` things with."""
    if not _has_loop(request):
        return VirtualClock()
    found: VirtualClock = request.getfixturevalue("_clock_of_the_loop")
    return found


@pytest.fixture
def _recovery_without_loop(
    clock: VirtualClock, tmp_path: Path, shockproof_seed: int
) -> Iterator[ErrorRecoveryService]:
    service = _service(clock, tmp_path, shockproof_seed)
    yield service
    clock.run(service.aclose())


@_async_fixture
async def _recovery_of_the_loop(
    clock: VirtualClock, tmp_path: Path, shockproof_seed: int
) -> AsyncIterator[ErrorRecoveryService]:
    service = _service(clock, tmp_path, shockproof_seed)
    yield service
    await service.aclose()


def _service(clock: VirtualClock, tmp_path: Path, seed: int) -> ErrorRecoveryService:
    return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock, rng=random.Random(seed))


@pytest.fixture
def recovery(request: pytest.FixtureRequest, clock: VirtualClock) -> ErrorRecoveryService:
    """A recovery service on virtual time with directories of its own; closed after the test."""
    name = "_recovery_of_the_loop" if _has_loop(request) else "_recovery_without_loop"
    service: ErrorRecoveryService = request.getfixturevalue(name)
    return service


@pytest.fixture
def events(request: pytest.FixtureRequest, recovery: ErrorRecoveryService) -> Iterator[RecordedEvents]:
    """The events of `recovery`; a test that fails shows them."""
    with record_events(recovery) as recorded:
        request.node.stash[_EVENTS] = recorded
        yield recorded


@pytest.fixture
def faults(recovery: ErrorRecoveryService, shockproof_seed: int) -> FaultInjector:
    """Puts faults on the services of `recovery`."""
    return FaultInjector(recovery, rng=random.Random(f"{shockproof_seed}/faults"))


@pytest.fixture
def storm(shockproof_seed: int) -> Callable[..., Storm]:
    """``storm(capacity=100, ...)``: a `Storm` drawn from the seed of the session."""
    return partial(Storm, seed=shockproof_seed)


@_async_fixture
async def _no_task_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(_TURNS_TO_END):  # what was cancelled at the end of the test may clean up
        await asyncio.sleep(0)
    current = asyncio.current_task()
    left = [
        str(task)
        for task in asyncio.all_tasks() - before
        # What a service runs by itself ends when it is closed, which comes after this.
        if task is not current and not task.get_name().startswith("shockproof ")
    ]
    assert not left, f"left running at the end of the test: {'; '.join(left)}"


@pytest.fixture
def nothing_left(request: pytest.FixtureRequest, recovery: ErrorRecoveryService) -> Iterator[None]:
    """
    Fails a test that leaves a task running, or a call of `recovery` that still holds something.

    For all tests of a file: ``pytestmark = pytest.mark.usefixtures("nothing_left")``. Under anyio's
    plugin it does not look at tasks: their loop has ended by then.
    """
    if _has_loop(request):
        request.getfixturevalue("_no_task_left")
    yield
    left = left_behind(recovery)
    assert not left, f"left at the end of the test: {'; '.join(left)}"


@pytest.fixture
def no_blocking_files() -> Iterator[list[BlockingFileCall]]:
    """
    Fails a test in which any code touches a file on a running event loop; see `shockproof.testing.no_blocking_files`.

    For all tests of a file: ``pytestmark = pytest.mark.usefixtures("no_blocking_files")``.
    """
    with _no_blocking_files() as found:
        yield found


def left_behind(recovery: ErrorRecoveryService) -> list[str]:
    """What calls of *recovery* still hold, in words; empty when nothing is under way."""
    left: list[str] = []
    for state in recovery._registry.all():
        counts = {
            "abandoned attempts": state.abandoned_attempts,
            "abandoned threads": state.abandoned_threads,
            "retries that wait": len(state.waiting or ()),
            "probes": state.circuit.probing,
            "places of max_concurrent": 0 if state.limits is None else state.limits.in_flight or 0,
            "calls in a queue": 0 if state.limits is None else state.limits.queued or 0,
            "faults that are on": 0 if state.faults is None else len(state.faults.active),
        }
        left += [f"service {state.name!r}: {count} {what}" for what, count in counts.items() if count]
    return left

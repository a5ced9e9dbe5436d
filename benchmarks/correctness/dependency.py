"""
The other side, which does as the scenario says: `works`, `fails`, `hangs`, or waits at a `Gate`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest import mock

from correctness.library import Call, Library

Action = Callable[[], Awaitable[Any]]

OPEN_FOR = 0.03
PAST_IT = 0.045  # the circuit has been open for long enough


async def works() -> str:
    return "fine"


async def fails() -> None:
    raise ConnectionError("refused")


async def says_no() -> None:
    raise ValueError("no such symbol")


async def hangs() -> None:
    await asyncio.Event().wait()


class Gate:
    """Calls wait here until the scenario lets them go on."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def works(self) -> str:
        await self._open.wait()
        return "fine"

    async def fails(self) -> None:
        await self._open.wait()
        raise ConnectionError("refused, late")


class Dependency:
    """A coroutine function that counts its calls; each is told what to do."""

    def __init__(self) -> None:
        self.calls = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.begun: list[float] = []

        async def dependency(action: Action = works) -> Any:
            self.calls += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.begun.append(time.monotonic())
            try:
                return await action()
            finally:
                self.in_flight -= 1

        self.function = dependency


def script(*actions: Action) -> Action:
    """Each call does the next thing; the last one is repeated."""
    left = list(actions)

    async def next_one() -> Any:
        return await (left.pop(0) if len(left) > 1 else left[0])()

    return next_one


async def settle() -> None:
    """Everything that is ready runs."""
    for _ in range(20):
        await asyncio.sleep(0)


async def start(call: Call, action: Action = hangs) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(call(action))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is looked at
    await settle()
    return task


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=1.0)


async def error_of(awaitable: Awaitable[Any]) -> BaseException | None:
    try:
        await awaitable
    except Exception as error:  # noqa: BLE001 - whatever it is, the scenario looks at it
        return error
    return None


async def trip(call: Call, failures: int = 3) -> None:
    for _ in range(failures):
        await error_of(call(fails))


async def is_refused(library: Library, dependency: Dependency, call: Call) -> bool:
    before = dependency.calls
    error = await error_of(call(works))
    return isinstance(error, library.circuit_open) and dependency.calls == before


@contextlib.contextmanager
def seconds() -> Iterator[Callable[[], float]]:
    begun = time.monotonic()
    yield lambda: time.monotonic() - begun


@contextlib.contextmanager
def time_zone(name: str) -> Iterator[None]:
    """The local time of this process."""
    with mock.patch.dict(os.environ, TZ=name):
        time.tzset()
        try:
            yield
        finally:
            os.environ.pop("TZ")
            time.tzset()


@contextlib.contextmanager
def wall_clock_set_back(package: str, by: float) -> Iterator[None]:
    """As after a correction by the time server: `time.time` and `datetime.now` step, monotonic does not."""
    real = time.time
    shift = datetime.timedelta(seconds=by)

    def stepped() -> float:
        return real() - by

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.now(tz) - shift

        @classmethod
        def utcnow(cls) -> Any:
            return datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - shift

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("time.time", new=stepped))
        for name, module in list(sys.modules.items()):
            if (
                package
                and name.split(".")[0] == package
                and vars(module).get("datetime") is datetime.datetime
            ):
                stack.enter_context(mock.patch.object(module, "datetime", Shifted))
        yield

"""What users have in their variables and callbacks is looked past, whatever it is, and is nobody's order for that."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

from shockproof import NOT_FOUND, ErrorRecoveryService, LookUp
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


class Gone:
    """Something that a proxy stood for."""


class Lazy:
    """As a framework's lazy object that cannot be made here."""

    @property
    def __class__(self) -> Any:  # type: ignore[misc]  # a lie is what is wanted; Any: it never says
        raise RuntimeError("not now")


class Closed(list[object]):
    """As the rows of a database that is closed."""

    def __len__(self) -> int:
        raise RuntimeError("closed")

    def __iter__(self) -> Iterator[object]:
        raise RuntimeError("closed")


class Evasive:
    """Raises what nobody expects of an attribute."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


def dead_proxy() -> object:
    return weakref.proxy(Gone())


STRANGERS: dict[str, Callable[[], object]] = {
    "dead proxy": dead_proxy,
    "lazy object": Lazy,
    "closed rows": Closed,
    "evasive object": Evasive,
    "mock of a task": lambda: Mock(spec=asyncio.Task),
    "mock of anything": MagicMock,
    "dead proxy in a list": lambda: [dead_proxy()],
}


@pytest.fixture
def recovery(tmp_path: Path, clock: VirtualClock) -> ErrorRecoveryService:
    return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.0, clock=clock)


class Desk:
    """Places orders at a venue that takes its time."""

    def __init__(self, recovery: ErrorRecoveryService) -> None:
        self.trading = recovery.service("trading", max_retries=0)
        self.booked: list[str] = []
        self.answers = asyncio.Event()
        self.is_asked = asyncio.Event()

    async def find(self, _key: str) -> LookUp[str]:
        return NOT_FOUND

    async def submit(self, key: str) -> str:
        self.booked.append(key)
        self.is_asked.set()
        await self.answers.wait()
        return key

    async def place(self) -> str:
        return await self.trading.once(confirm=self.find, key_argument="key").call(self.submit)


@pytest.mark.parametrize("kind", STRANGERS)
async def test_a_failed_call_is_repeated_whatever_its_variables_hold(
    recovery: ErrorRecoveryService, kind: str
) -> None:
    """Its own error is the one that is raised, beside an order in the same program as well."""
    desk, calls = Desk(recovery), []
    order = asyncio.create_task(desk.place())
    await desk.is_asked.wait()

    async def quote() -> object:
        stranger = STRANGERS[kind]()
        calls.append(stranger)
        await asyncio.sleep(0)
        raise ConnectionResetError("quote")

    with pytest.raises(ConnectionResetError, match="quote"):
        await recovery.service("market", max_retries=2).call(quote)
    desk.answers.set()
    await order
    assert len(calls) == 3


@pytest.mark.parametrize("kind", STRANGERS)
async def test_an_order_is_placed_whatever_the_callbacks_of_its_task_hold(
    recovery: ErrorRecoveryService, kind: str
) -> None:
    """It is looked through them for who waits, and nothing that stands there can fail the order."""
    desk, stranger, told = Desk(recovery), STRANGERS[kind](), []
    desk.answers.set()
    order = asyncio.create_task(desk.place())
    order.add_done_callback(lambda _: told.append(id(stranger)))
    assert await order in desk.booked
    await asyncio.sleep(0)
    assert told == [id(stranger)]


@pytest.mark.parametrize("is_sent", [False, True])
async def test_an_order_of_somebody_else_is_not_refused_by_a_call_that_has_its_task_at_hand(
    recovery: ErrorRecoveryService, *, is_sent: bool
) -> None:
    """A call that is declared to read goes on being repeated beside it, too."""
    desk, orders, calls = Desk(recovery), set[asyncio.Task[str]](), []

    async def quote() -> None:
        pending = orders
        if not pending:
            pending.add(asyncio.create_task(desk.place()))
        if is_sent:
            await desk.is_asked.wait()
        calls.append(len(pending))
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await recovery.service("market", max_retries=2, effect="read").call(quote)
    desk.answers.set()
    (order,) = orders
    assert await order in desk.booked
    assert len(calls) == 3


class Place(asyncio.Semaphore):
    """One that has been taken."""

    def __init__(self) -> None:
        super().__init__(0)

    def let_go(self) -> None:
        self.release()

    async def wait(self) -> bool:
        return await self.acquire()


class Bell(asyncio.Event):
    """Rings at each change of anything."""

    def let_go(self) -> None:
        self.set()


class News(asyncio.Queue[str]):
    """Of whatever has ended."""

    def let_go(self) -> None:
        self.put_nowait("an order")

    async def wait(self) -> bool:
        return bool(await self.get())


@pytest.mark.parametrize("kind", [Place, Bell, News])
async def test_who_waits_for_what_the_end_of_an_order_lets_go_on_is_not_around_it(
    recovery: ErrorRecoveryService, kind: type[Place | Bell | News]
) -> None:
    """Others let it go on as well, and it is repeated like any other call."""
    desk, shared, calls = Desk(recovery), kind(), list[int]()
    order = asyncio.create_task(desk.place())
    order.add_done_callback(lambda _: shared.let_go())

    async def quote() -> None:
        calls.append(len(calls))
        waiting = asyncio.create_task(shared.wait())
        await desk.is_asked.wait()
        waiting.cancel()
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await recovery.service("market", max_retries=2).call(quote)
    desk.answers.set()
    assert await order in desk.booked
    assert len(calls) == 3


async def test_what_a_thread_that_waits_for_an_order_has_dropped_is_freed(
    recovery: ErrorRecoveryService,
) -> None:
    """Its frame is looked at, and what stood there is not kept by that."""
    desk, loop, dropped, is_looked_at = Desk(recovery), asyncio.get_running_loop(), asyncio.Event(), Event()
    refs = list[weakref.ref[Gone]]()
    desk.answers.set()

    def works() -> None:
        held = Gone()
        refs.append(weakref.ref(held))
        asyncio.run_coroutine_threadsafe(desk.place(), loop).result(60)
        del held
        loop.call_soon_threadsafe(dropped.set)
        assert is_looked_at.wait(60)

    working = asyncio.create_task(asyncio.to_thread(works))
    try:
        await dropped.wait()
        assert refs[0]() is None
    finally:
        is_looked_at.set()
    await working

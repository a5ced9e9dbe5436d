"""What users have in their variables and callbacks is looked past, whatever it is, and is nobody's order for that."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
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


async def test_who_waits_for_the_place_of_an_order_is_not_around_it(recovery: ErrorRecoveryService) -> None:
    """It waits for the semaphore that bounds both, and is repeated like any other call."""
    desk, places, calls = Desk(recovery), asyncio.Semaphore(1), list[int]()
    await places.acquire()
    order = asyncio.create_task(desk.place())
    order.add_done_callback(lambda _: places.release())

    async def quote() -> None:
        calls.append(len(calls))
        waiting = asyncio.ensure_future(places.acquire())
        await desk.is_asked.wait()
        waiting.cancel()
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await recovery.service("market", max_retries=2).call(quote)
    desk.answers.set()
    assert await order in desk.booked
    assert len(calls) == 3

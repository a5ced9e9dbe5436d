"""A key that is used again for another order is noticed, and the order that has it is not mistaken for that one."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    ErrorRecoveryService,
    Found,
    KeyReusedError,
    OperationCompletedError,
    OutcomeUnknownError,
)
from shockproof.calls.named_arguments import named_arguments
from shockproof.testing import VirtualClock


class Venue:
    """Books what it is sent, and may lose the answer, or the order."""

    def __init__(self) -> None:
        self.orders: dict[str, Any] = {}
        self.mood = "well"
        self.is_blind = False
        self.sent = 0

    async def submit(
        self, symbol: str, qty: Any, tif: str = "day", *, client_order_id: str, **params: Any
    ) -> Any:
        self.sent += 1
        if self.mood != "lost":
            self.orders[client_order_id] = (symbol, qty)
        if self.mood != "well":
            raise ConnectionResetError
        return client_order_id

    async def find(self, key: str) -> Any:
        if self.is_blind:
            return UNKNOWN
        return Found(self.orders[key]) if key in self.orders else NOT_FOUND


class Desk:
    """Places orders, in one life after the other."""

    def __init__(self, tmp_path: Path, clock: VirtualClock) -> None:
        self.tmp_path, self.clock = tmp_path, clock
        self.venue = Venue()
        self.recovery = self._service()

    def _service(self) -> ErrorRecoveryService:
        return ErrorRecoveryService(self.tmp_path / "state", self.tmp_path / "errors", clock=self.clock)

    async def restart(self) -> None:
        await self.recovery.aclose()
        self.recovery = self._service()

    async def place(
        self, *args: Any, options: dict[str, Any] | None = None, risk_reducing: bool = False, **kwargs: Any
    ) -> Any:
        handle = self.recovery.service("orders", max_retries=0).using(risk_reducing=risk_reducing)
        once = handle.once(
            "mine", confirm=self.venue.find, key_argument="client_order_id", settle=1.0, **(options or {})
        )
        return await once.call(self.venue.submit, *args, **kwargs)


class SameOrder(AbstractContextManager[None]):
    """Expects that the order is known as it is; a `KeyReusedError` is an `OperationCompletedError`, too."""

    value: OperationCompletedError

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert type(error) is OperationCompletedError
        self.value = error
        return True


@pytest_asyncio.fixture
async def desk(tmp_path: Path, clock: VirtualClock) -> AsyncIterator[Desk]:
    made = Desk(tmp_path, clock)
    yield made
    await made.recovery.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("risk_reducing", [False, True])
async def test_key_of_an_order_that_is_there_is_refused_for_another_order(
    desk: Desk, is_restarted: bool, risk_reducing: bool
) -> None:
    """Its error names the key and what differs, and no value; the same order is told as ever."""
    await desk.place("AAPL", 10, risk_reducing=risk_reducing)
    if is_restarted:
        await desk.restart()

    with pytest.raises(KeyReusedError) as caught:
        await desk.place("MSFT", 99, risk_reducing=risk_reducing)

    assert (caught.value.key, caught.value.service_name) == ("mine", "orders")
    assert (caught.value.differs, caught.value.result) == (("qty", "symbol"), "mine")
    assert "'mine'" in str(caught.value)
    assert "'qty', 'symbol'" in str(caught.value)
    assert "99" not in str(caught.value)
    same = SameOrder()
    with same:
        await desk.place("AAPL", Decimal("10.0"), risk_reducing=risk_reducing)
    assert same.value.result == "mine"
    assert desk.venue.sent == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("risk_reducing", [False, True])
async def test_pending_order_that_is_found_is_not_taken_for_another_order(
    desk: Desk, is_restarted: bool, risk_reducing: bool
) -> None:
    """It is settled by the look-up, and whoever asked for something else is told."""
    desk.venue.mood, desk.venue.is_blind = "answer lost", True
    with pytest.raises(OutcomeUnknownError):
        await desk.place("AAPL", 10, risk_reducing=risk_reducing)
    if is_restarted:
        await desk.restart()
        desk.recovery.service("orders").once(confirm=desk.venue.find, settle=1.0)
    desk.venue.is_blind = False

    with pytest.raises(KeyReusedError) as caught:
        await desk.place("AAPL", 11, risk_reducing=risk_reducing)

    assert (caught.value.differs, caught.value.result) == (("qty",), ("AAPL", 10))
    with pytest.raises(KeyReusedError):
        await desk.place("AAPL", 11, risk_reducing=risk_reducing)
    with SameOrder():
        await desk.place("AAPL", 10, risk_reducing=risk_reducing)
    assert desk.venue.sent == 1
    assert await desk.recovery.reconcile() == []


@pytest.mark.asyncio
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_key_of_an_order_that_never_arrived_is_free_for_another_one(
    desk: Desk, is_restarted: bool
) -> None:
    """A price that is made anew after a crash; from then on the key is that one's."""
    desk.venue.mood, desk.venue.is_blind = "lost", True
    with pytest.raises(OutcomeUnknownError):
        await desk.place("AAPL", 10)
    if is_restarted:
        await desk.restart()
    desk.venue.mood, desk.venue.is_blind = "well", False

    assert await desk.place("AAPL", 11) == "mine"

    with SameOrder():
        await desk.place("AAPL", 11)
    with pytest.raises(KeyReusedError):
        await desk.place("AAPL", 10)
    assert desk.venue.orders == {"mine": ("AAPL", 11)}


@pytest.mark.asyncio
async def test_order_that_nobody_can_tell_of_stays_so_whatever_is_asked_for(desk: Desk) -> None:
    """The question whether it is there comes first."""
    desk.venue.mood, desk.venue.is_blind = "answer lost", True
    for qty in (10, 11):
        with pytest.raises(OutcomeUnknownError):
            await desk.place("AAPL", qty)
    assert desk.venue.sent == 1


@pytest.mark.asyncio
async def test_defaults_and_order_of_arguments_make_no_difference(desk: Desk) -> None:
    """By position or by name, said or left to the function."""
    await desk.place("AAPL", qty=10, tag="a")

    for same in (("AAPL", 10, "day"), ("AAPL", 10)):
        with SameOrder():
            await desk.place(*same, tag="a")
    with pytest.raises(KeyReusedError) as caught:
        await desk.place("AAPL", 10, "gtc", tag="b")
    assert caught.value.differs == ("tag", "tif")


@pytest.mark.asyncio
async def test_arguments_that_only_one_of_the_two_has_are_not_compared(desk: Desk) -> None:
    """The program was changed between two lives, or what places the order was wrapped: it is the same order."""
    await desk.place("AAPL", qty=10, tag="a")
    await desk.restart()
    submit = desk.venue.submit

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        return await submit(*args, **kwargs)

    desk.venue.submit = wrapped  # type: ignore[method-assign]  # as a tracing library would
    with SameOrder():
        await desk.place("AAPL", 10, limit_price=1.0)


@pytest.mark.asyncio
async def test_arguments_that_may_change_are_left_out(desk: Desk) -> None:
    """All of them, or all but those that tell orders apart; a wrong name is refused before anything is journalled."""
    await desk.place("AAPL", 10)

    for compare in (False, ("symbol",), ("symbol", "tif")):
        with SameOrder():
            await desk.place("AAPL", 99, options={"compare_arguments": compare})
    with pytest.raises(KeyReusedError) as caught:
        await desk.place("MSFT", 99, options={"compare_arguments": ["symbol"]})
    assert caught.value.differs == ("symbol",)
    for wrong in ("symbol", 7, [3], [""]):
        with pytest.raises((TypeError, ValueError), match="compare_arguments"):
            await desk.place("AAPL", 10, options={"compare_arguments": wrong})

    async def submit(symbol: str, *, client_order_id: str) -> None:
        """Takes no quantity."""

    once = desk.recovery.service("orders").once(
        "other", confirm=desk.venue.find, key_argument="client_order_id", compare_arguments=("symbol", "qty")
    )
    with pytest.raises(TypeError, match="compare_arguments='qty'"):
        await once.call(submit, "AAPL")


@pytest.mark.asyncio
async def test_order_that_opted_out_is_never_compared(desk: Desk) -> None:
    """Nothing is known of what it was sent with, also when a later program compares again."""
    await desk.place("AAPL", 10, options={"compare_arguments": False})
    await desk.restart()

    with SameOrder():
        await desk.place("MSFT", 99)
    segment = next((desk.recovery.state_dir / "journal").glob("journal-*.wal")).read_bytes()
    assert b'"arguments"' not in segment


@pytest.mark.asyncio
async def test_no_argument_stands_in_the_journal(desk: Desk) -> None:
    """Only its name and a digest; of a secret not even that."""
    await desk.place("VERYSECRET", 10, api_key="SK-LIVE-42")
    await desk.recovery.aclose()

    segment = next((desk.recovery.state_dir / "journal").glob("journal-*.wal")).read_bytes()
    assert b'"arguments":{"symbol":"' in segment
    assert b"VERYSECRET" not in segment
    assert b"SK-LIVE-42" not in segment
    assert b'"api_key":"?"' in segment


@pytest.mark.asyncio
async def test_once_that_is_used_for_two_orders_says_so(desk: Desk) -> None:
    """One is for one order: who makes it outside of the loop finds out at the second."""
    once = desk.recovery.service("orders").once(confirm=desk.venue.find, key_argument="client_order_id")
    await once.call(desk.venue.submit, "AAPL", 1)

    with pytest.raises(KeyReusedError):
        await once.call(desk.venue.submit, "MSFT", 1)


@pytest.mark.asyncio
async def test_order_with_other_arguments_waits_for_nobody_that_is_sending(desk: Desk) -> None:
    """It is busy, as for the same order."""
    sent, gate = asyncio.Event(), asyncio.Event()

    async def submit(symbol: str, *, client_order_id: str) -> str:
        sent.set()
        await gate.wait()
        return symbol

    def once() -> Any:
        return desk.recovery.service("orders").once(
            "mine", confirm=desk.venue.find, key_argument="client_order_id"
        )

    first = asyncio.ensure_future(once().call(submit, "AAPL"))
    await sent.wait()
    with pytest.raises(Exception, match="running already"):
        await once().call(submit, "MSFT")
    gate.set()
    assert await first == "AAPL"


async def client_call(session: object, /, symbol: str, *legs: int, qty: int = 1, **params: int) -> None: ...


@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (client_call, (None, "AAPL", 1, 2), {"a": 3}),
        (functools.partial(client_call, None, "AAPL", a=3), (1, 2), {}),
        (functools.partial(functools.partial(client_call, None), "AAPL", 1, a=9), (2,), {"a": 3}),
    ],
)
def test_arguments_have_the_names_that_the_function_gives_them(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Whatever is bound to it before."""
    assert named_arguments(fn, args, kwargs) == {
        "session": None,
        "symbol": "AAPL",
        "legs": (1, 2),
        "qty": 1,
        "a": 3,
    }


def test_arguments_of_what_has_no_signature_have_their_places() -> None:
    """Some built-ins are like that."""
    assert named_arguments(dict, ([1],), {"a": 2}) == {"0": [1], "a": 2}

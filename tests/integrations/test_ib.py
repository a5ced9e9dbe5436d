"""ib_async against a gateway of a few lines that speaks its protocol over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

pytest.importorskip("ib_async", reason="the ib extra is not installed")

from ib_async import (
    IB,
    Execution,
    Fill,
    LimitOrder,
    MarketOrder,
    OrderStatus,
    StartupFetchNONE,
    Stock,
    StopOrder,
    Trade,
)

import shockproof.integrations.ib
from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    AttemptTimeoutError,
    ErrorRecoveryService,
    Found,
    Outcome,
    attempts_of,
)
from shockproof.demo.venue.ib_gateway import IbGateway
from shockproof.integrations.ib import (
    OrderBookedTwiceError,
    OrderNotConfirmedError,
    OrderRejectedError,
    find_order,
    meaning_of,
)
from shockproof.integrations.outcome_table import Meaning

if TYPE_CHECKING:
    from shockproof.integrations.ib import ProtectedIB

pytestmark = pytest.mark.asyncio

HOST = "127.0.0.1"
AAPL = Stock("AAPL", "SMART", "USD", conId=265598)


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[IbGateway]:
    async with IbGateway() as gateway:
        yield gateway


async def connect(ib: IB, gateway: IbGateway) -> None:
    await ib.connectAsync(HOST, gateway.port, clientId=1, fetchFields=StartupFetchNONE)


@pytest_asyncio.fixture
async def bare(gateway: IbGateway) -> AsyncIterator[IB]:
    ib = IB()
    await connect(ib, gateway)
    yield ib
    ib.disconnect()


@pytest.fixture
def venue(bare: IB, recovery: ErrorRecoveryService) -> ProtectedIB:
    return shockproof.integrations.ib.protect(bare, recovery, orders={"max_retries": 2})


async def test_a_bare_order_whose_connection_broke_says_nothing(bare: IB, gateway: IbGateway) -> None:
    """Why there is an adapter: no error, and pending for ever, though IB has it."""
    gateway.manner = "cut"
    lost = asyncio.ensure_future(bare.disconnectedEvent)
    trade = bare.placeOrder(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    await lost
    assert trade.orderStatus.status == "PendingSubmit"
    assert gateway.orders == {1: "bot-1"}


async def test_an_order_is_awaited_until_it_is_confirmed(venue: ProtectedIB, gateway: IbGateway) -> None:
    """Filled, or resting at the exchange; the order has a reference either way."""
    order = MarketOrder("BUY", 10)
    trade = await venue.placeOrderAsync(AAPL, order)
    assert trade.orderStatus.status == "Filled"
    assert order.orderRef.startswith("sp-")
    gateway.manner = "rest"
    trade = await venue.placeOrderAsync(AAPL, order=LimitOrder("BUY", 10, 140.0, orderRef="bot-2"))
    assert trade.orderStatus.status == "Submitted"
    assert list(gateway.orders.values()) == [order.orderRef, "bot-2"]


async def test_a_cancel_is_awaited_until_it_is_done(venue: ProtectedIB, gateway: IbGateway) -> None:
    """Asking for it is not having it."""
    gateway.manner = "rest"
    trade = await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0))
    cancelled = await venue.cancelOrderAsync(trade.order)
    assert cancelled is trade
    assert trade.orderStatus.status == "Cancelled"
    assert await venue.cancelOrderAsync(LimitOrder("BUY", 10, 140.0, orderId=77)) is None


async def test_an_order_whose_connection_broke_is_unknown_and_sent_once(
    venue: ProtectedIB, gateway: IbGateway
) -> None:
    """IB may have it, and has."""
    gateway.manner = "cut"
    with pytest.raises(OrderNotConfirmedError, match="before order 'bot-1' was confirmed") as caught:
        await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    assert meaning_of(caught.value) is Meaning.UNKNOWN
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert gateway.orders == {1: "bot-1"}


async def test_an_order_that_ib_never_speaks_of_is_unknown(
    bare: IB, gateway: IbGateway, recovery: ErrorRecoveryService
) -> None:
    """ib_async would wait for ever."""
    gateway.manner = "silent"
    venue = shockproof.integrations.ib.protect(bare, recovery, orders={"timeout": 0.05})
    with pytest.raises(AttemptTimeoutError) as caught:
        await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10))
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert len(gateway.orders) == 1


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (201, Meaning.REFUSED),
        (10999, Meaning.REFUSED),
        (103, Meaning.DONE),
        (100, Meaning.TURNED_AWAY),
        (1100, Meaning.UNKNOWN),
    ],
)
async def test_an_order_that_was_refused_raises(
    venue: ProtectedIB, gateway: IbGateway, code: int, meaning: Meaning
) -> None:
    """An error that names a new order is a refusal, but for the few codes that say something else."""
    gateway.manner, gateway.code = "reject", code
    with pytest.raises(OrderRejectedError, match="Order rejected") as caught:
        await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10))
    assert caught.value.code == code
    assert meaning_of(caught.value) is meaning
    assert gateway.orders == {}


async def test_an_order_without_a_connection_was_not_sent(
    bare: IB, venue: ProtectedIB, recovery: ErrorRecoveryService
) -> None:
    """ib_async says so before it sends: tried again, as often as there are retries."""
    bare.disconnect()
    with pytest.raises(ConnectionError, match="Not connected") as caught:
        await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10))
    assert meaning_of(caught.value) is Meaning.NOT_SENT
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.FAILURE] * 3


async def test_a_gateway_that_is_not_there_was_sent_nothing(nobody: str) -> None:
    """Refused at the door."""
    with pytest.raises(ConnectionRefusedError) as caught:
        await IB().connectAsync(HOST, int(nobody.rpartition(":")[2]))
    assert meaning_of(caught.value) is Meaning.NOT_SENT


@pytest.mark.parametrize(("code", "calls"), [(200, 1), (162, 3)])
async def test_a_read_that_fails_raises_and_is_repeated_if_that_may_help(
    bare: IB, gateway: IbGateway, recovery: ErrorRecoveryService, code: int, calls: int
) -> None:
    """By default ib_async gives an empty list for a contract that does not exist."""
    gateway.code = code
    assert await bare.reqContractDetailsAsync(AAPL) == []
    venue = shockproof.integrations.ib.protect(bare, recovery, reads={"max_retries": 2})
    with pytest.raises(Exception, match="No security definition") as caught:
        await venue.reqContractDetailsAsync(AAPL)
    assert meaning_of(caught.value) is (Meaning.REFUSED if code == 200 else Meaning.UNKNOWN)
    assert gateway.asked.count(9) == 1 + calls


async def test_the_connection_feeds_the_health(bare: IB, gateway: IbGateway, venue: ProtectedIB) -> None:
    """Lost behind the gateway, back again, and the gateway itself gone."""
    check = (
        object.__getattribute__(venue, "_shockproof")
        .handles[shockproof.integrations.protected_client.Does.READ]
        .plan.state.health_check
    )
    assert check()
    for code, is_up in ((1100, False), (1102, True), (1100, False), (1101, True)):
        told = asyncio.ensure_future(bare.errorEvent)
        gateway.complain(-1, code, "Connectivity")
        await told
        assert check() is is_up
    lost = asyncio.ensure_future(bare.disconnectedEvent)
    gateway.cut()
    await lost
    assert not check()
    await connect(bare, gateway)
    assert check()


async def test_everything_else_is_the_clients_own(venue: ProtectedIB, bare: IB) -> None:
    """Plain methods, events, connecting."""
    assert isinstance(venue, IB)
    assert venue.placeOrder == bare.placeOrder
    assert venue.connectAsync == bare.connectAsync
    assert venue.orderStatusEvent is bare.orderStatusEvent
    assert venue.isConnected()


async def test_what_cannot_be_protected_is_refused(venue: Any, recovery: ErrorRecoveryService) -> None:
    """Each with what is wanted instead."""
    with pytest.raises(TypeError, match="protected already"):
        shockproof.integrations.ib.protect(venue, recovery)
    with pytest.raises(TypeError, match=r"must be an ib_async.IB, got 'ib'"):
        shockproof.integrations.ib.protect("ib", recovery)


async def test_an_order_is_found_by_its_reference_or_is_not_there(venue: ProtectedIB) -> None:
    """Not by what ib_async itself remembers: IB is asked."""
    await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    found = await find_order(venue, "bot-1")
    assert isinstance(found, Found)
    assert found.value.execution.orderRef == "bot-1"
    assert await find_order(venue, "bot-2") is NOT_FOUND


async def test_an_order_that_only_ib_async_remembers_is_not_found(
    bare: IB, gateway: IbGateway, venue: ProtectedIB
) -> None:
    """Its own memory holds what was never received."""
    gateway.manner = "reject"
    with pytest.raises(OrderRejectedError):
        await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    gateway.manner = "fill"
    assert [trade.order.orderRef for trade in bare.trades()] == ["bot-1"]
    assert await find_order(venue, "bot-1") is NOT_FOUND


async def test_a_look_up_that_failed_says_nothing(bare: IB, venue: ProtectedIB) -> None:
    """No connection is no proof."""
    bare.disconnect()
    assert await find_order(venue, "bot-1") is UNKNOWN


async def test_order_that_a_person_has_given_another_reference_is_found_by_its_perm_id(
    bare: IB, gateway: IbGateway, venue: ProtectedIB
) -> None:
    """Also after the connection has broken, and come back."""
    await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    gateway.orders[1] = "by hand"
    lost = asyncio.ensure_future(bare.disconnectedEvent)
    gateway.cut()
    await lost
    await connect(bare, gateway)
    found = await find_order(venue, "bot-1")
    assert isinstance(found, Found)
    assert (found.value.execution.permId, found.value.execution.orderRef) == (901, "by hand")
    assert await find_order(bare, "bot-1") is NOT_FOUND


async def test_order_that_was_booked_twice_is_found_and_on_record_once(
    bare: IB, gateway: IbGateway, venue: ProtectedIB, recovery: ErrorRecoveryService
) -> None:
    """However often it is looked up: its two permIds are what a person has to look for."""
    gateway.manner = "silent"
    for _ in range(2):  # sent again, by whatever is not protected
        bare.placeOrder(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    bare.placeOrder(AAPL, MarketOrder("BUY", 10, orderRef="bot-2"))
    for _ in range(2):
        found = await find_order(venue, "bot-1")
        assert isinstance(found, Found)
        assert found.value.execution.permId == 901
    (record,) = recovery.get_error_summary()["recent_errors"]
    assert (record["severity"], record["error_type"]) == ("critical", "OrderBookedTwiceError")
    assert (record["service_name"], record["function_name"]) == ("ib.orders", "find_order")
    assert "'bot-1' 2 times: permIds 901, 902" in record["error_message"]


async def test_client_without_protection_tells_of_an_order_booked_twice_in_the_log(
    bare: IB, gateway: IbGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no error log to put it into."""
    gateway.manner = "silent"
    for _ in range(2):
        bare.placeOrder(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    assert isinstance(await find_order(bare, "bot-1"), Found)
    assert "'bot-1' 2 times: permIds 901, 902" in caplog.text


class Answers:
    """What IB answers to the three questions."""

    def __init__(self, *found: Trade | Fill, fails: bool = False) -> None:
        self.trades = [one for one in found if isinstance(one, Trade)]
        self.fills = [one for one in found if isinstance(one, Fill)]
        self.fails = fails

    async def reqAllOpenOrdersAsync(self) -> list[Trade]:  # noqa: N802 - ib_async's name
        return self.trades

    async def reqCompletedOrdersAsync(self, api_only: bool) -> list[Trade]:  # noqa: N802 - as above
        return []

    async def reqExecutionsAsync(self) -> list[Fill]:  # noqa: N802 - as above
        if self.fails:
            raise ConnectionError("Not connected")
        return self.fills


def a_trade(perm_id: int, status: str = "Submitted", **order: Any) -> Trade:
    return Trade(
        AAPL, StopOrder("SELL", 10, 140.0, orderRef="a", permId=perm_id, **order), OrderStatus(status=status)
    )


def a_fill(perm_id: int) -> Fill:
    execution = Execution(permId=perm_id, orderRef="a")
    return Fill(AAPL, execution, commissionReport=None, time=None)  # type: ignore[arg-type]  # not looked at


@pytest.mark.parametrize(
    ("answers", "perm_ids"),
    [
        ([a_trade(1), a_fill(1), a_fill(1)], None),  # filled in part, twice
        ([a_trade(1), a_trade(2)], (1, 2)),
        ([a_trade(1), a_fill(2), a_fill(3)], (1, 2, 3)),
        ([a_trade(1), a_trade(2, parentId=7), a_trade(3, parentPermId=1), a_fill(2)], None),  # a bracket
        ([a_trade(1, "Inactive"), a_trade(2, "Cancelled", filledQuantity=0.0), a_trade(3)], None),
        ([a_trade(1, "Cancelled", filledQuantity=4.0), a_trade(2)], (1, 2)),
        ([a_trade(1, "Inactive"), a_fill(1), a_fill(2)], (1, 2)),
    ],
)
async def test_only_what_is_or_was_in_the_market_counts_as_booked(
    answers: list[Trade | Fill], perm_ids: tuple[int, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one that was refused before, nor the stop that hangs on the order."""
    found = await find_order(Answers(*answers), "a")  # type: ignore[arg-type]  # all that it asks
    assert found == Found(answers[0])
    told = [one.msg.perm_ids for one in caplog.records if isinstance(one.msg, OrderBookedTwiceError)]
    assert told == ([] if perm_ids is None else [perm_ids])


async def test_order_that_was_found_is_found_though_the_last_question_failed() -> None:
    """Only what is not found needs all answers."""
    trade = a_trade(1)
    assert await find_order(Answers(trade, fails=True), "a") == Found(trade)  # type: ignore[arg-type]  # as above
    assert await find_order(Answers(trade, fails=True), "b") is UNKNOWN  # type: ignore[arg-type]  # as above

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
    OrderState,
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
    OrderIsThereError,
    OrderNotCancelledError,
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
PATIENT = 60.0
AAPL = Stock("AAPL", "SMART", "USD", conId=265598)


class Gateway(IbGateway):
    """Tells of a new order what it is told to, in one burst; and which ids were sent, with which reference."""

    def __init__(self) -> None:
        super().__init__()
        self.tells: list[int | tuple[str, int] | tuple[str, int, str]] = []
        """Codes of errors, and statuses with what is filled, and why it is held."""
        self.placed: list[tuple[int, str]] = []
        self.tells_of_cancel: list[int | tuple[str, int]] = []
        """As `tells`."""

    def _cancel(self, order_id: int) -> None:
        if not self.tells_of_cancel:
            super()._cancel(order_id)
        for one in self.tells_of_cancel:
            if isinstance(one, int):
                self.complain(order_id, one, "as told")
            else:
                self._status(order_id, *one)

    def _place(self, order_id: int, order_ref: str) -> None:
        self.placed.append((order_id, order_ref))
        if self.manner == "lost":  # before it has read it
            self.cut()
        elif not self.tells:
            super()._place(order_id, order_ref)
        for one in self.tells:
            if isinstance(one, int):
                self.complain(order_id, one, "as told")
            else:
                self.orders[order_id] = order_ref
                self._status(order_id, *one)


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway() as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def says_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, what IB says of an order is heard to its end."""
    monkeypatch.setattr(shockproof.integrations.ib, "_SAYS_MORE_WITHIN", 30.0)


@pytest.fixture
def says_no_more(says_all: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is known that nothing comes any more."""
    monkeypatch.setattr(shockproof.integrations.ib, "_SAYS_MORE_WITHIN", 0.05)


async def connect(ib: IB, gateway: Gateway) -> None:
    await ib.connectAsync(HOST, gateway.port, clientId=1, timeout=PATIENT, fetchFields=StartupFetchNONE)


async def have_come(gateway: Gateway, count: int) -> None:
    """So many orders have come to it: whoever gave up waiting for its word may have done so before."""
    async with asyncio.timeout(PATIENT):
        while len(gateway.placed) < count:  # noqa: ASYNC110 - sockets are at it
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def bare(gateway: Gateway) -> AsyncIterator[IB]:
    ib = IB()
    await connect(ib, gateway)
    yield ib
    ib.disconnect()


@pytest.fixture
def venue(bare: IB, recovery: ErrorRecoveryService) -> ProtectedIB:
    return shockproof.integrations.ib.protect(bare, recovery, orders={"max_retries": 2})


async def test_a_bare_order_whose_connection_broke_says_nothing(bare: IB, gateway: Gateway) -> None:
    """Why there is an adapter: no error, and pending for ever, though IB has it."""
    gateway.manner = "cut"
    lost = asyncio.ensure_future(bare.disconnectedEvent)
    trade = bare.placeOrder(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    await lost
    assert trade.orderStatus.status == "PendingSubmit"
    assert gateway.orders == {1: "bot-1"}


async def test_an_order_is_awaited_until_it_is_confirmed(venue: ProtectedIB, gateway: Gateway) -> None:
    """Filled, or resting at the exchange; the order has a reference either way."""
    order = MarketOrder("BUY", 10)
    trade = await venue.placeOrderAsync(AAPL, order)
    assert trade.orderStatus.status == "Filled"
    assert order.orderRef.startswith("sp-")
    gateway.manner = "rest"
    trade = await venue.placeOrderAsync(AAPL, order=LimitOrder("BUY", 10, 140.0, orderRef="bot-2"))
    assert trade.orderStatus.status == "Submitted"
    assert list(gateway.orders.values()) == [order.orderRef, "bot-2"]


async def test_a_cancel_is_awaited_until_it_is_done(venue: ProtectedIB, gateway: Gateway) -> None:
    """Asking for it is not having it."""
    gateway.manner = "rest"
    trade = await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0))
    cancelled = await venue.cancelOrderAsync(trade.order)
    assert cancelled is trade
    assert trade.orderStatus.status == "Cancelled"
    assert await venue.cancelOrderAsync(LimitOrder("BUY", 10, 140.0, orderId=77)) is None


@pytest.mark.parametrize("code", [161, 10147, 10148, 321])
async def test_cancel_that_ib_refuses_raises_and_the_order_lives(
    venue: ProtectedIB, gateway: Gateway, code: int
) -> None:
    """ib_async calls an order cancelled for any error that names it; then the next cancel would look done at once."""
    gateway.manner = "rest"
    trade = await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0))
    gateway.tells_of_cancel = [code]
    with pytest.raises(OrderNotCancelledError, match="as told") as caught:
        await venue.cancelOrderAsync(trade.order)
    assert caught.value.trade is trade
    assert (caught.value.code, trade.orderStatus.status) == (code, "Submitted")
    assert gateway.asked.count(4) == (1 if code == 321 else 3)
    gateway.tells_of_cancel = []
    assert await venue.cancelOrderAsync(trade.order) is trade
    assert trade.orderStatus.status == "Cancelled"


@pytest.mark.parametrize(
    ("tells", "status"),
    [
        ([202], "Cancelled"),
        ([202, ("Cancelled", 4)], "Cancelled"),
        ([("Filled", 10), 161], "Filled"),
        ([161, ("Filled", 10)], "Filled"),
        ([10148, ("Cancelled", 4)], "Cancelled"),
    ],
)
async def test_cancelled_order_is_done_whatever_else_ib_says(
    venue: ProtectedIB, gateway: Gateway, tells: Any, status: str
) -> None:
    """202 is IB's word for it; a word on the status counts more than an error before or after it."""
    gateway.manner = "rest"
    trade = await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0))
    gateway.tells_of_cancel = tells
    assert await venue.cancelOrderAsync(trade.order) is trade
    assert trade.orderStatus.status == status


async def test_an_order_whose_connection_broke_is_unknown_and_sent_once(
    venue: ProtectedIB, gateway: Gateway
) -> None:
    """IB may have it, and has."""
    gateway.manner = "cut"
    with pytest.raises(OrderNotConfirmedError, match="order 'bot-1': the connection to IB broke") as caught:
        await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    assert meaning_of(caught.value) is Meaning.UNKNOWN
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert gateway.orders == {1: "bot-1"}


async def test_an_order_that_ib_never_speaks_of_is_unknown(
    bare: IB, gateway: Gateway, recovery: ErrorRecoveryService
) -> None:
    """ib_async would wait for ever."""
    gateway.manner = "silent"
    venue = shockproof.integrations.ib.protect(bare, recovery, orders={"timeout": 0.05})
    with pytest.raises(AttemptTimeoutError) as caught:
        await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10))
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    await have_come(gateway, 1)
    assert len(gateway.orders) == 1


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (201, Meaning.REFUSED),  # for want of margin, most often
        (110, Meaning.REFUSED),  # its price
        (200, Meaning.REFUSED),
        (203, Meaning.REFUSED),
        (321, Meaning.REFUSED),
        (355, Meaning.REFUSED),  # its size
        (387, Meaning.REFUSED),
        (388, Meaning.REFUSED),
        (434, Meaning.REFUSED),
        (460, Meaning.REFUSED),  # no permission to trade it
        (10243, Meaning.REFUSED),
        (10268, Meaning.REFUSED),
        (103, Meaning.UNKNOWN),
        (100, Meaning.TURNED_AWAY),
        (1100, Meaning.UNKNOWN),
    ],
)
async def test_an_order_that_was_refused_raises(
    venue: ProtectedIB, gateway: Gateway, code: int, meaning: Meaning
) -> None:
    """The ordinary noes cost no look-up; a few codes say something else."""
    gateway.manner, gateway.code = "reject", code
    with pytest.raises(OrderRejectedError, match="Order rejected") as caught:
        await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10))
    assert caught.value.code == code
    assert meaning_of(caught.value) is meaning
    assert gateway.orders == {}


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (321, Meaning.REFUSED),  # the gateway is read-only
        (434, Meaning.REFUSED),
        (110, Meaning.REFUSED),
        (103, Meaning.UNKNOWN),  # of another order that has the id
        (105, Meaning.UNKNOWN),
        (161, Meaning.UNKNOWN),
    ],
)
async def test_order_refused_with_what_ib_async_takes_for_a_warning_is_not_placed(
    venue: ProtectedIB, gateway: Gateway, code: int, meaning: Meaning
) -> None:
    """ib_async says that it lives, and it is nowhere; its next attempt is a new order, and not a change of this one."""
    gateway.tells = [code]
    order = MarketOrder("BUY", 10, orderRef="bot-1")
    with pytest.raises(OrderRejectedError, match="as told") as caught:
        await venue.placeOrderAsync(AAPL, order)
    assert meaning_of(caught.value) is meaning
    gateway.tells = []
    assert (await venue.placeOrderAsync(AAPL, order)).orderStatus.status == "Filled"
    (first, _), (second, _) = gateway.placed
    assert first != second


@pytest.mark.parametrize(
    ("tells", "status", "filled"),
    [
        ([399, ("Submitted", 0)], "Submitted", 0),  # "will not be placed at the exchange until 09:30"
        ([("PreSubmitted", 0), 399], "ValidationError", 0),
        ([("Submitted", 4), 202, ("Cancelled", 4)], "Cancelled", 4),
        ([202, ("Cancelled", 4)], "Cancelled", 4),
        ([("Submitted", 0), 201], "Cancelled", 0),  # rested, and then its margin was gone
        ([("Cancelled", 4)], "Cancelled", 4),
        ([202], "Cancelled", 0),
    ],
)
async def test_order_that_ib_has_booked_is_placed_whatever_became_of_it(
    venue: ProtectedIB, gateway: Gateway, tells: Any, status: str, filled: int
) -> None:
    """Refused would free its key: the order is, or was, in the market, and a part may be filled."""
    gateway.tells = tells
    trade = await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10, tif="IOC"))
    assert (trade.orderStatus.status, trade.orderStatus.filled) == (status, filled)


@pytest.mark.parametrize(
    ("tells", "status"),
    [
        ([10349, ("Submitted", 0)], "Submitted"),
        ([10349, ("PreSubmitted", 0), ("Submitted", 0)], "Submitted"),
        ([("Submitted", 0), 10349], "ValidationError"),  # as with 399
        ([481, ("Submitted", 0)], "Submitted"),  # a smaller size
        ([10999, ("Submitted", 0)], "Submitted"),  # a code of tomorrow
        ([("PreSubmitted", 0), 10999, ("Submitted", 0)], "Submitted"),
        ([10349, ("Filled", 10)], "Filled"),
        ([404, ("Inactive", 0, "locate")], "Inactive"),  # shares are located for a short sale
    ],
)
async def test_order_of_which_ib_has_changed_something_is_placed(
    venue: ProtectedIB, gateway: Gateway, tells: Any, status: str
) -> None:
    """10349, "Order TIF was set to DAY based on order preset", is of an order that lives: ib_async calls it cancelled."""
    gateway.tells = tells
    trade = await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0))
    assert trade.orderStatus.status == status
    assert gateway.asked.count(3) == 1


@pytest.mark.parametrize(
    ("tells", "why", "is_over"),
    [
        ([10999], r"not known to be a refusal \(Error 10999, reqId 1: as told\)", False),
        ([109], "not known to be a refusal", False),  # TWS may hold it back for its user
        ([10999, ("Inactive", 0)], "not known to be a refusal", True),
        ([("Inactive", 0), 10999], "not known to be a refusal", True),
        ([10999, ("Cancelled", 0)], "not known to be a refusal", True),
        ([("Inactive", 0)], "IB calls it Inactive and does not say why", True),
    ],
)
async def test_order_of_which_ib_says_nothing_clear_is_unknown(
    venue: ProtectedIB, gateway: Gateway, says_no_more: None, tells: Any, why: str, *, is_over: bool
) -> None:
    """It may be in the market, so that its key is not free; and it is asked after as any that lives, unless IB says that it is over."""
    gateway.tells = tells
    order = LimitOrder("BUY", 10, 140.0, orderRef="bot-1")
    with pytest.raises(OrderNotConfirmedError, match=why) as caught:
        await venue.placeOrderAsync(AAPL, order)
    assert meaning_of(caught.value) is Meaning.UNKNOWN
    assert caught.value.trade.isDone() is is_over
    gateway.tells = [("Submitted", 0)]
    await venue.placeOrderAsync(AAPL, order)
    (first, _), (second, _) = gateway.placed
    assert (first == second) is not is_over


@pytest.mark.parametrize(
    "tells",
    [
        [("Inactive", 0), 201],
        [201, ("Inactive", 0)],
        [("Cancelled", 0), 201],
        [("Inactive", 0), 399, 201],
        [10349, ("Inactive", 0), 201],
        [10999, 201],
    ],
)
async def test_order_that_ib_calls_inactive_and_refuses_is_not_placed(
    venue: ProtectedIB, gateway: Gateway, tells: Any
) -> None:
    """For want of margin IB says both, in either order; ib_async drops an error of what is Inactive."""
    gateway.tells = tells
    with pytest.raises(OrderRejectedError, match="as told") as caught:
        await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0))
    assert caught.value.code == 201
    assert meaning_of(caught.value) is Meaning.REFUSED
    assert 201 in [entry.errorCode for entry in caught.value.trade.log]


async def test_order_whose_refusal_comes_later_than_inactive_is_not_placed(
    venue: ProtectedIB, gateway: Gateway
) -> None:
    """In two messages, each read by itself."""
    gateway.tells = [("Inactive", 0)]
    placing = asyncio.ensure_future(venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0)))
    trade = await asyncio.ensure_future(venue.orderStatusEvent)
    assert trade.orderStatus.status == "Inactive"
    gateway.complain(trade.order.orderId, 201, "as told")
    with pytest.raises(OrderRejectedError, match="as told"):
        await placing


async def test_order_that_ib_calls_cancelled_and_says_no_more_is_placed(
    venue: ProtectedIB, gateway: Gateway, says_no_more: None
) -> None:
    """It was there, as an order that is filled at once or not at all; what it was refused for would have come with it."""
    gateway.tells = [("Cancelled", 0)]
    trade = await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0, tif="FOK"))
    assert trade.orderStatus.status == "Cancelled"


async def test_order_that_nobody_has_asked_to_transmit_is_placed_when_it_is_inactive(
    venue: ProtectedIB, gateway: Gateway
) -> None:
    """TWS holds the first orders of a bracket, until its last one comes; unless it refuses them."""
    gateway.tells = [("Inactive", 0)]
    held = await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0, transmit=False))
    assert held.orderStatus.status == "Inactive"
    gateway.tells = [("Inactive", 0), 201]
    with pytest.raises(OrderRejectedError):
        await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0, transmit=False))


@pytest.mark.parametrize("tells", [[10349], [399]])
async def test_order_of_which_ib_says_only_a_warning_is_unknown(
    bare: IB, gateway: Gateway, recovery: ErrorRecoveryService, tells: Any
) -> None:
    """It is no word about the order itself."""
    gateway.tells = tells
    venue = shockproof.integrations.ib.protect(bare, recovery, orders={"timeout": 0.05})
    with pytest.raises(AttemptTimeoutError) as caught:
        await venue.placeOrderAsync(AAPL, MarketOrder("BUY", 10))
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]


async def test_order_that_is_sent_again_over_the_same_connection_keeps_its_id(
    bare: IB, gateway: Gateway, recovery: ErrorRecoveryService
) -> None:
    """IB then takes both for one. What it says against the second proves nothing about the first."""
    venue = shockproof.integrations.ib.protect(bare, recovery, orders={"timeout": 0.05})
    order = MarketOrder("BUY", 10, orderRef="bot-1")
    gateway.manner = "silent"
    with pytest.raises(AttemptTimeoutError):
        await venue.placeOrderAsync(AAPL, order)
    await have_come(gateway, 1)
    gateway.tells = [201]
    recovery.service("ib.orders", timeout=PATIENT)
    with pytest.raises(
        OrderNotConfirmedError, match=r"refused a second copy .*as told.* not spoken of the first"
    ) as caught:
        await venue.placeOrderAsync(AAPL, order)
    assert meaning_of(caught.value) is Meaning.UNKNOWN
    assert gateway.placed == [(1, "bot-1")] * 2


async def test_order_that_is_sent_again_over_another_connection_gets_another_id(
    bare: IB, gateway: Gateway, venue: ProtectedIB
) -> None:
    """The gateway hands its ids out again: with the old one the order of somebody else is changed into this one."""
    gateway.manner = "lost"
    mine = LimitOrder("BUY", 10, 140.0, orderRef="mine")
    with pytest.raises(OrderNotConfirmedError):
        await venue.placeOrderAsync(AAPL, mine)
    await connect(bare, gateway)
    gateway.manner = "rest"
    other = await venue.placeOrderAsync(AAPL, LimitOrder("SELL", 7, 300.0, orderRef="other"))
    trade = await venue.placeOrderAsync(AAPL, mine)
    assert trade.order.orderRef == "mine"
    assert trade is not other
    assert len(set(gateway.placed)) == 3
    assert sorted(gateway.orders.values()) == ["mine", "other"]


async def test_order_that_is_sent_again_without_an_order_of_its_id_gets_another_one_too(
    bare: IB, gateway: Gateway, venue: ProtectedIB
) -> None:
    """ib_async forgets its orders with the connection; the gateway does not, and another client of ours may have the id."""
    gateway.manner = "lost"
    mine = LimitOrder("BUY", 10, 140.0, orderRef="mine")
    with pytest.raises(OrderNotConfirmedError):
        await venue.placeOrderAsync(AAPL, mine)
    await connect(bare, gateway)
    gateway.manner = "rest"
    bare.client.updateReqId(7)
    await venue.placeOrderAsync(AAPL, mine)
    assert gateway.placed == [(1, "mine"), (7, "mine")]


async def test_ids_that_were_reserved_for_a_bracket_are_kept(
    bare: IB, gateway: Gateway, venue: ProtectedIB
) -> None:
    """The stop and the target hang on the id of their parent."""
    gateway.manner = "rest"
    for order in bare.bracketOrder("BUY", 10, 140.0, 150.0, 130.0):
        await venue.placeOrderAsync(AAPL, order)
    assert [order_id for order_id, _ in gateway.placed] == [1, 2, 3]


@pytest.mark.parametrize("connected_again", [False, True])
@pytest.mark.parametrize("manner", ["rest", "fill"])
async def test_order_that_ib_has_booked_is_not_sent_again(
    bare: IB, gateway: Gateway, venue: ProtectedIB, manner: str, *, connected_again: bool
) -> None:
    """A change is not awaited here, and would look placed at once; over a new connection it would be a second order."""
    gateway.manner = manner
    order = LimitOrder("BUY", 10, 140.0, orderRef="mine")
    await venue.placeOrderAsync(AAPL, order)
    if connected_again:
        lost = asyncio.ensure_future(bare.disconnectedEvent)
        gateway.cut()
        await lost
        await connect(bare, gateway)
    order.lmtPrice = 141.0
    with pytest.raises(
        OrderIsThereError, match=r"booked order 'mine' \(id 1\) already, so that nothing was sent"
    ) as caught:
        await venue.placeOrderAsync(AAPL, order)
    assert meaning_of(caught.value) is Meaning.DONE
    assert len(gateway.placed) == 1


async def test_cancel_over_another_connection_does_not_hit_the_order_that_has_the_id_now(
    bare: IB, gateway: Gateway, venue: ProtectedIB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked which id the order has now; one that is not open is not cancelled, and no other is."""
    gateway.manner = "lost"
    mine = LimitOrder("BUY", 10, 140.0, orderRef="mine")
    with pytest.raises(OrderNotConfirmedError):
        await venue.placeOrderAsync(AAPL, mine)
    await connect(bare, gateway)
    assert await venue.cancelOrderAsync(mine) is None
    gateway.manner = "rest"
    other = await venue.placeOrderAsync(AAPL, LimitOrder("SELL", 7, 300.0, orderRef="other"))
    assert await venue.cancelOrderAsync(mine) is None
    assert other.orderStatus.status == "Submitted"
    listed = await venue.placeOrderAsync(AAPL, LimitOrder("BUY", 10, 140.0, orderRef="mine"))
    foreign = Trade(AAPL, LimitOrder("BUY", 10, 140.0, orderRef="mine", orderId=1, clientId=2))

    async def open_ones() -> list[Trade]:
        return [foreign, other, listed]

    monkeypatch.setattr(bare, "reqAllOpenOrdersAsync", open_ones)
    assert await venue.cancelOrderAsync(mine) is listed
    assert (listed.orderStatus.status, other.orderStatus.status) == ("Cancelled", "Submitted")


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
    bare: IB, gateway: Gateway, recovery: ErrorRecoveryService, code: int, calls: int
) -> None:
    """By default ib_async gives an empty list for a contract that does not exist."""
    gateway.code = code
    assert await bare.reqContractDetailsAsync(AAPL) == []
    venue = shockproof.integrations.ib.protect(bare, recovery, reads={"max_retries": 2})
    with pytest.raises(Exception, match="No security definition") as caught:
        await venue.reqContractDetailsAsync(AAPL)
    assert meaning_of(caught.value) is (Meaning.REFUSED if code == 200 else Meaning.UNKNOWN)
    assert gateway.asked.count(9) == 1 + calls


async def test_the_connection_feeds_the_health(bare: IB, gateway: Gateway, venue: ProtectedIB) -> None:
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
    bare: IB, gateway: Gateway, venue: ProtectedIB
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
    bare: IB, gateway: Gateway, venue: ProtectedIB
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
    bare: IB, gateway: Gateway, venue: ProtectedIB, recovery: ErrorRecoveryService
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
    bare: IB, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no error log to put it into."""
    gateway.manner = "silent"
    for _ in range(2):
        bare.placeOrder(AAPL, MarketOrder("BUY", 10, orderRef="bot-1"))
    assert isinstance(await find_order(bare, "bot-1"), Found)
    assert "'bot-1' 2 times: permIds 901, 902" in caplog.text


class Tws:
    """Answers after open orders as TWS does: all in order, message by message, whether somebody waits for them or not."""

    def __init__(self, ib: IB) -> None:
        self._wrapper = ib.wrapper
        self._asked = asyncio.Semaphore(0)
        ib.client.reqAllOpenOrders = self._note
        ib.client.reqCompletedOrders = self._have_none

    def _note(self) -> None:
        self._asked.release()

    def _have_none(self, _api_only: bool) -> None:
        asyncio.get_running_loop().call_soon(self._wrapper.completedOrdersEnd)

    async def was_asked(self, times: int = 1) -> None:
        for _ in range(times):
            await self._asked.acquire()

    def tells_of(self, *order_refs: str) -> None:
        for ref in order_refs:
            number = int(ref.removeprefix("bot-"))
            order = LimitOrder("BUY", 10, 140.0, orderId=number, permId=900 + number, orderRef=ref)
            self._wrapper.openOrder(number, AAPL, order, OrderState(status="Submitted"))

    def is_done(self) -> None:
        self._wrapper.openOrderEnd()


@pytest.fixture(params=["protected", "bare"])
def asked(request: pytest.FixtureRequest, bare: IB, recovery: ErrorRecoveryService) -> Any:
    return bare if request.param == "bare" else shockproof.integrations.ib.protect(bare, recovery)


async def test_look_ups_side_by_side_get_an_answer_each(bare: IB, asked: Any) -> None:
    """Else the second has the rest of the first one's answer, and an order that is open would be sent again."""
    tws = Tws(bare)
    first = asyncio.ensure_future(find_order(asked, "bot-2"))
    await tws.was_asked()
    tws.tells_of("bot-1")
    others = [asyncio.ensure_future(find_order(asked, key)) for key in ("bot-1", "bot-3")]
    await tws.was_asked(2)
    tws.tells_of("bot-2")
    tws.is_done()
    assert isinstance(await first, Found)
    assert not any(one.done() for one in others)
    for _ in others:
        tws.tells_of("bot-1", "bot-2")
        tws.is_done()
    found, missing = await asyncio.gather(*others)
    assert isinstance(found, Found)
    assert missing is NOT_FOUND


async def test_answer_to_a_look_up_that_was_given_up_is_not_the_next_ones(bare: IB, asked: Any) -> None:
    """TWS goes on with it, and its end is that of a list that began before the next one was asked for."""
    tws = Tws(bare)
    given_up = asyncio.ensure_future(find_order(asked, "bot-2"))
    await tws.was_asked()
    tws.tells_of("bot-1")
    given_up.cancel()
    await asyncio.wait({given_up})
    looking = asyncio.ensure_future(find_order(asked, "bot-1"))
    await tws.was_asked()
    tws.tells_of("bot-2")
    tws.is_done()
    tws.tells_of("bot-1", "bot-2")
    tws.is_done()
    assert isinstance(await looking, Found)


async def test_look_ups_that_wait_for_their_answer_end_with_the_connection(
    bare: IB, gateway: Gateway, recovery: ErrorRecoveryService
) -> None:
    """All of them, at once; and over the next one nothing is owed."""
    tws = Tws(bare)
    venue = shockproof.integrations.ib.protect(bare, recovery, reads={"max_retries": 0})
    looking = [asyncio.ensure_future(find_order(venue, "bot-1")) for _ in range(3)]
    await tws.was_asked(3)
    gateway.cut()
    assert await asyncio.gather(*looking) == [UNKNOWN] * 3
    await connect(bare, gateway)
    again = asyncio.ensure_future(find_order(venue, "bot-1"))
    await tws.was_asked()
    tws.tells_of("bot-1")
    tws.is_done()
    assert isinstance(await again, Found)


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

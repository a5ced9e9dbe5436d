"""An order from the wish to its end, at a venue that loses answers; on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

aiohttp = pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")
ccxt = pytest.importorskip("ccxt", reason="the demo extra is not installed: no ccxt")

from shockproof import ErrorRecoveryService, StateNotSavedError  # noqa: E402  after the importorskip
from shockproof.demo.book import Book, Order, OrderState  # noqa: E402  after the importorskip
from shockproof.demo.order_desk import OrderDesk  # noqa: E402  after the importorskip
from shockproof.demo.strategy import Wish  # noqa: E402  after the importorskip
from shockproof.demo.timing import Timing  # noqa: E402  after the importorskip
from shockproof.testing import VirtualClock  # noqa: E402  after the importorskip

pytestmark = pytest.mark.asyncio

TIMING = Timing(timeout=1.0)
MARKET = Wish("EUR/USDT", "buy", Decimal(100), None)
LIMIT = Wish("EUR/USDT", "buy", Decimal(100), Decimal("1.08"))

Step = Callable[["Venue", str], Any]


class Venue:
    """What the desk needs of ccxt's client. Each send takes the next of *steps*; without one it is booked."""

    last_response_headers: dict[str, str] | None = None

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.booked: dict[str, dict[str, Any]] = {}
        self.sends: list[str] = []
        self.look_ups = 0
        self.cannot_look_up = 0
        self.hides_from_single_look_ups = False
        self.cancels = 0
        self.refuses_cancels = False

    def book(self, client_id: str, status: str = "FILLED") -> dict[str, Any]:
        assert client_id not in self.booked, "booked twice"
        executed = "100" if status == "FILLED" else "0"
        info = {
            "clientOrderId": client_id,
            "status": status,
            "executedQty": executed,
            "cummulativeQuoteQty": executed,
        }
        self.booked[client_id] = {"clientOrderId": client_id, "info": info}
        return self.booked[client_id]

    async def create_order(
        self, symbol: str, kind: str, side: str, amount: float, price: float | None, params: dict[str, str]
    ) -> dict[str, Any]:
        client_id = params["newClientOrderId"]
        self.sends.append(client_id)
        if self.steps:
            answer = self.steps.pop(0)(self, client_id)
            if asyncio.iscoroutine(answer):
                answer = await answer
            return answer
        return self.book(client_id)

    def _may_look(self) -> None:
        self.look_ups += 1
        if self.cannot_look_up:
            self.cannot_look_up -= 1
            raise ccxt.ExchangeNotAvailable("away")

    async def fetch_order(self, _id: str, symbol: str, params: dict[str, str]) -> dict[str, Any]:
        self._may_look()
        found = self.booked.get(params["origClientOrderId"])
        if found is None or self.hides_from_single_look_ups:
            raise ccxt.OrderNotFound("-2013")
        return found

    async def fetch_orders(self, symbol: str) -> list[dict[str, Any]]:
        self._may_look()
        return list(self.booked.values())

    async def cancel_order(self, _id: str, symbol: str, params: dict[str, str]) -> dict[str, Any]:
        self.cancels += 1
        order = self.booked[params["origClientOrderId"]]
        if self.refuses_cancels:
            order["info"] |= {"status": "FILLED", "executedQty": "100", "cummulativeQuoteQty": "100"}
            raise ccxt.OrderNotFound("-2011")
        order["info"] |= {"status": "CANCELED"}
        return order


def fails(error: Exception, *, after_booking: str | None = None) -> Step:
    def step(venue: Venue, client_id: str) -> Any:
        if after_booking is not None:
            venue.book(client_id, after_booking)
        raise error

    return step


def rests(venue: Venue, client_id: str) -> Any:
    return venue.book(client_id, "NEW")


class Desk:
    """A desk at a venue, with what it saved and said."""

    def __init__(self, recovery: ErrorRecoveryService, clock: VirtualClock, venue: Venue) -> None:
        self.venue = venue
        self.book = Book()
        self.saved: list[list[dict[str, Any]]] = []
        self.saving: Callable[[], Any] | None = None
        self.said: list[str] = []
        self.desk = OrderDesk(
            recovery,
            venue,  # type: ignore[arg-type]  # as much of ccxt's client as is used
            self.book,
            save=self.save,
            tell=self.said.append,
            timing=TIMING,
            clock=clock,
        )

    async def save(self) -> None:
        if self.saving is not None:
            await self.saving()
        under_way, settled = self.book.to_state()
        self.saved.append([*under_way, *settled])


@pytest.fixture
def at(recovery: ErrorRecoveryService, clock: VirtualClock) -> Callable[[Venue], Desk]:
    """A desk at the given venue."""
    return lambda venue: Desk(recovery, clock, venue)


async def test_an_order_is_durable_before_it_is_sent(
    at: Callable[[Venue], Desk], clock: VirtualClock
) -> None:
    """When the request leaves, the book on disk has it as pending, and until when it may be booked."""
    durable: list[tuple[str, float]] = []
    intended_at = clock.time()

    def look(venue: Venue, client_id: str) -> Any:
        durable.extend(
            (entry["state"], entry["settled_after"])
            for entry in desk.saved[-1]
            if entry["client_id"] == client_id
        )
        return venue.book(client_id)

    desk = at(Venue(look))
    order = await desk.desk.carry_out(MARKET)
    assert durable == [("pending", intended_at + TIMING.until_settled)]
    assert order.state is OrderState.FILLED


@pytest.mark.parametrize(
    "error",
    [
        ccxt.ExchangeNotAvailable("503"),
        ccxt.RequestTimeout("-1007"),
        ccxt.OperationFailed("-1006"),
        KeyError("answer that ccxt could not parse"),
    ],
    ids=repr,
)
async def test_an_unknown_answer_to_a_booked_order_is_looked_up_and_not_sent_again(
    at: Callable[[Venue], Desk], error: Exception
) -> None:
    """The order is found at the venue; one send, one order."""
    desk = at(Venue(fails(error, after_booking="FILLED")))
    order = await desk.desk.carry_out(MARKET)
    assert (order.state, order.executed) == (OrderState.FILLED, 100)
    assert len(desk.venue.sends) == 1


async def test_a_late_answer_is_an_unknown_one(at: Callable[[Venue], Desk]) -> None:
    """Shockproof's own time limit proves nothing about the venue."""

    async def late(venue: Venue, client_id: str) -> Any:
        venue.book(client_id)
        await asyncio.sleep(60)

    desk = at(Venue(late))
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.FILLED
    assert len(desk.venue.sends) == 1


async def test_not_found_counts_only_when_asked_after_the_settle_window(
    at: Callable[[Venue], Desk], clock: VirtualClock
) -> None:
    """An order that is booked a moment after its 504 is not sent a second time."""
    loop = asyncio.get_running_loop()

    def booked_later(venue: Venue, client_id: str) -> Any:
        loop.call_later(TIMING.settle - 0.05, venue.book, client_id)
        raise ccxt.RequestTimeout("504")

    desk = at(Venue(booked_later))
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.FILLED
    assert len(desk.venue.sends) == 1


async def test_an_order_proven_absent_is_sent_again_under_the_same_id(at: Callable[[Venue], Desk]) -> None:
    """The first send never arrived; the second one is the same order."""
    desk = at(Venue(fails(ccxt.ExchangeNotAvailable("cut"))))
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.FILLED
    assert desk.venue.sends == [order.client_id] * 2
    assert order.sends == 2


async def test_an_order_lost_twice_is_given_up(at: Callable[[Venue], Desk]) -> None:
    """Two sends are enough; the book says that the venue has never seen it."""
    desk = at(Venue(*[fails(ccxt.ExchangeNotAvailable("cut"))] * 2))
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.NOT_SENT
    assert len(desk.venue.sends) == 2
    assert desk.venue.booked == {}


async def test_a_look_up_that_fails_is_no_proof_of_absence(at: Callable[[Venue], Desk]) -> None:
    """An outage of the look-ups outlasts the settle window, and the order is still found afterwards."""
    desk = at(Venue(fails(ccxt.RequestTimeout("504"), after_booking="FILLED")))
    desk.venue.cannot_look_up = 12
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.FILLED
    assert len(desk.venue.sends) == 1


async def test_the_list_of_all_orders_is_a_second_opinion(at: Callable[[Venue], Desk]) -> None:
    """An order that the single look-up does not find is found in the list."""
    desk = at(Venue(fails(ccxt.RequestTimeout("504"), after_booking="FILLED")))
    desk.venue.hides_from_single_look_ups = True
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.FILLED
    assert len(desk.venue.sends) == 1


@pytest.mark.parametrize("error", [ccxt.InsufficientFunds("-2010"), ccxt.InvalidOrder("-1013")], ids=repr)
async def test_a_refused_order_is_neither_repeated_nor_looked_up(
    at: Callable[[Venue], Desk], recovery: ErrorRecoveryService, error: Exception
) -> None:
    """The venue said no: that is final, and no failure of the venue."""
    desk = at(Venue(fails(error)))
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.REJECTED
    assert (len(desk.venue.sends), desk.venue.look_ups) == (1, 0)
    assert recovery.get_service_status("trading").value == "operational"


async def test_a_duplicate_answer_is_looked_up_and_not_taken_for_a_refusal(
    at: Callable[[Venue], Desk],
) -> None:
    """The order that it is a duplicate of is ours."""
    desk = at(Venue(fails(ccxt.InvalidOrder("-2010 Duplicate order sent."), after_booking="NEW")))
    order = await desk.desk.carry_out(LIMIT)
    assert order.state is OrderState.CANCELED
    assert len(desk.venue.sends) == 1


async def test_what_provably_did_not_happen_is_repeated_at_once(at: Callable[[Venue], Desk]) -> None:
    """Turned away by a rate limit: the same request again, without a look-up."""
    desk = at(Venue(fails(ccxt.DDoSProtection("429"))))
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.FILLED
    assert (len(desk.venue.sends), desk.venue.look_ups) == (2, 0)


async def test_at_an_open_circuit_the_order_does_not_leave_the_house(
    at: Callable[[Venue], Desk], recovery: ErrorRecoveryService
) -> None:
    """Nothing was sent, so there is nothing to look up."""
    failing = recovery.service("trading", max_retries=0)

    async def fail() -> None:
        raise ConnectionError("down")

    desk = at(Venue())
    while not recovery.is_circuit_open("trading"):
        with pytest.raises(ConnectionError):
            await failing.call(fail)
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.NOT_SENT
    assert (desk.venue.sends, desk.venue.look_ups) == ([], 0)


async def test_without_a_durable_intent_nothing_is_sent(at: Callable[[Venue], Desk]) -> None:
    """A disk that refuses stops the order, not the trader."""

    async def refuse() -> None:
        raise StateNotSavedError("disk full")

    desk = at(Venue())
    desk.saving = refuse
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.NOT_SENT
    assert desk.venue.sends == []


async def test_an_intent_that_took_too_long_to_save_is_not_sent(at: Callable[[Venue], Desk]) -> None:
    """What is on disk bounds the moment of the send; and the price is old by then."""
    desk = at(Venue())
    desk.saving = lambda: asyncio.sleep(TIMING.send_within + 0.01)
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.NOT_SENT
    assert desk.venue.sends == []


async def test_cancelled_in_flight_the_order_stays_pending(at: Callable[[Venue], Desk]) -> None:
    """The trader's own cancellation proves nothing about the venue."""

    async def never(venue: Venue, client_id: str) -> Any:
        venue.book(client_id)
        sent.set()
        await asyncio.Event().wait()

    sent = asyncio.Event()
    desk = at(Venue(never))
    task = asyncio.create_task(desk.desk.carry_out(MARKET))
    await sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [order.state for order in desk.book] == [OrderState.PENDING]


async def test_a_limit_order_that_rests_is_cancelled_after_a_while(
    at: Callable[[Venue], Desk], clock: VirtualClock
) -> None:
    """It gets its time, and ends as the venue says."""
    begun = clock.monotonic()
    desk = at(Venue(rests))
    order = await desk.desk.carry_out(LIMIT)
    assert order.state is OrderState.CANCELED
    assert clock.monotonic() - begun == pytest.approx(TIMING.rest)


async def test_an_order_filled_before_its_cancel_ends_as_filled(at: Callable[[Venue], Desk]) -> None:
    """The venue refuses the cancel; the look-up tells why."""
    desk = at(Venue(rests))
    desk.venue.refuses_cancels = True
    order = await desk.desk.carry_out(LIMIT)
    assert (order.state, order.executed) == (OrderState.FILLED, 100)


async def test_a_closing_desk_cancels_what_rests_at_once(
    at: Callable[[Venue], Desk], clock: VirtualClock
) -> None:
    """At the end of a session nobody waits for a fill."""
    begun = clock.monotonic()
    desk = at(Venue(rests))
    desk.desk.close()
    order = await desk.desk.carry_out(LIMIT)
    assert order.state is OrderState.CANCELED
    assert clock.monotonic() == begun


def left_behind(clock: VirtualClock) -> Order:
    """An order whose intent an earlier life made durable just before it died."""
    order = Order("sp-0001-ab", "EUR/USDT", "buy", "market", Decimal(100), sends=1)
    order.settled_after = clock.time() + TIMING.until_settled
    return order


async def test_an_earlier_lifes_order_is_found_and_not_sent(
    at: Callable[[Venue], Desk], clock: VirtualClock
) -> None:
    """It had been booked before the trader died."""
    desk = at(Venue())
    desk.book.add(order := left_behind(clock))
    desk.venue.book(order.client_id)
    await desk.desk.take_over(order)
    assert order.state is OrderState.FILLED
    assert desk.venue.sends == []


async def test_an_earlier_lifes_order_still_on_its_way_is_waited_for(
    at: Callable[[Venue], Desk], clock: VirtualClock
) -> None:
    """Until the last moment at which it can be booked, "not found" proves nothing."""
    desk = at(Venue())
    desk.book.add(order := left_behind(clock))
    asyncio.get_running_loop().call_later(TIMING.until_settled - 0.05, desk.venue.book, order.client_id)
    await desk.desk.take_over(order)
    assert order.state is OrderState.FILLED


async def test_an_earlier_lifes_order_that_was_never_sent_is_not_sent_now(
    at: Callable[[Venue], Desk], clock: VirtualClock
) -> None:
    """Its price is that of another life."""
    desk = at(Venue())
    desk.book.add(order := left_behind(clock))
    await desk.desk.take_over(order)
    assert order.state is OrderState.NOT_SENT
    assert desk.venue.sends == []


async def test_a_clock_set_back_does_not_make_the_wait_endless(
    at: Callable[[Venue], Desk], clock: VirtualClock
) -> None:
    """The wait for certainty is never longer than it would be for an order intended now."""
    desk = at(Venue())
    desk.book.add(order := left_behind(clock))
    clock.step_wall(-86_400)
    begun = clock.monotonic()
    await desk.desk.take_over(order)
    assert order.state is OrderState.NOT_SENT
    assert clock.monotonic() - begun < 2 * TIMING.until_settled

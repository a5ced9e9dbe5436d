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
from shockproof.demo.book import OPERATION, Book, OrderState  # noqa: E402  after the importorskip
from shockproof.demo.order_desk import ORDERS, OrderDesk  # noqa: E402  after the importorskip
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
        self.id, self.has = "binance", {"fetchOrders": True, "fetchOpenOrders": True}
        self.steps = list(steps)
        self.booked: dict[str, dict[str, Any]] = {}
        self.sends: list[str] = []
        self.look_ups = 0
        self.cannot_look_up = 0
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
        found = self.booked.get(params["clientOrderId"])
        if found is None:
            raise ccxt.OrderNotFound("-2013")
        return found

    def feature_value(self, symbol: str, ability: str, name: str) -> int:
        return 1_000

    async def fetch_orders(
        self, symbol: str, since: None, limit: int, params: dict[str, str]
    ) -> list[dict[str, Any]]:
        self._may_look()
        return list(self.booked.values())

    async def fetch_open_orders(
        self, symbol: str, since: None, limit: int, params: dict[str, str]
    ) -> list[dict[str, Any]]:
        return []  # what was booked is filled, or is among all orders

    async def cancel_order(self, _id: str, symbol: str, params: dict[str, str]) -> dict[str, Any]:
        self.cancels += 1
        order = self.booked[params["clientOrderId"]]
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
        self.recovery = recovery
        self.venue = venue
        self.book = Book()
        self.saved: list[dict[str, Any]] = []
        self.cannot_save = False
        self.said: list[str] = []
        self.outcomes: list[str] = []
        self.desk = OrderDesk(
            recovery,
            venue,  # type: ignore[arg-type]  # as much of ccxt's client as is used
            venue,  # type: ignore[arg-type]  # as above
            self.book,
            save=self.save,
            tell=self.said.append,
            outcome=lambda _order, how: self.outcomes.append(how),
            timing=TIMING,
            clock=clock,
        )

    async def save(self) -> None:
        if self.cannot_save:
            raise StateNotSavedError("disk full")
        self.saved = self.book.to_state()

    async def pending(self) -> list[tuple[str, str]]:
        """What the journal has under way."""
        state = await self.recovery.restore_state()
        return [] if state is None else [(one["operation"], one["key"]) for one in state.active_operations]

    async def dies(self) -> str:
        """Carry an order out, and be cancelled with it in flight; its id."""
        sent = asyncio.Event()

        async def never(_venue: Venue, _client_id: str) -> Any:
            sent.set()
            await asyncio.Event().wait()

        self.venue.steps.insert(0, never)
        task = asyncio.create_task(self.desk.carry_out(MARKET))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return self.venue.sends[-1]


@pytest.fixture
def at(recovery: ErrorRecoveryService, clock: VirtualClock) -> Callable[[Venue], Desk]:
    """A desk at the given venue."""
    return lambda venue: Desk(recovery, clock, venue)


async def test_an_order_is_durable_before_it_is_sent_and_until_the_book_is(
    at: Callable[[Venue], Desk],
) -> None:
    """When the request leaves, the journal has it; it forgets the order once the saved book has its end."""
    durable: list[tuple[str, str]] = []

    async def look(venue: Venue, client_id: str) -> Any:
        durable.extend(await desk.pending())
        return venue.book(client_id)

    desk = at(Venue(look))
    order = await desk.desk.carry_out(MARKET)
    assert durable == [(OPERATION, order.client_id), (f"{ORDERS}.once", order.client_id)]
    assert [(entry["client_id"], entry["state"]) for entry in desk.saved] == [(order.client_id, "filled")]
    assert await desk.pending() == []


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
    """The order is found at the venue; one send, one order, and the session hears of it."""
    desk = at(Venue(fails(error, after_booking="FILLED")))
    order = await desk.desk.carry_out(MARKET)
    assert (order.state, order.executed) == (OrderState.FILLED, 100)
    assert len(desk.venue.sends) == 1
    assert desk.outcomes == ["unknown", "look-up"]


async def test_a_late_answer_is_an_unknown_one(at: Callable[[Venue], Desk]) -> None:
    """Shockproof's own time limit proves nothing about the venue."""

    async def late(venue: Venue, client_id: str) -> Any:
        venue.book(client_id)
        await asyncio.sleep(60)

    desk = at(Venue(late))
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.FILLED
    assert len(desk.venue.sends) == 1


async def test_not_found_counts_only_when_asked_after_the_settle_window(at: Callable[[Venue], Desk]) -> None:
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


async def test_an_order_lost_again_and_again_is_given_up(at: Callable[[Venue], Desk]) -> None:
    """Three sends are enough; the book says that the venue does not have it."""
    desk = at(Venue(*[fails(ccxt.ExchangeNotAvailable("cut"))] * 9))
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.NOT_SENT
    assert len(desk.venue.sends) == 3
    assert desk.venue.booked == {}
    assert await desk.pending() == []


@pytest.mark.parametrize(("failures", "settled_by"), [(6, "look-up"), (60, "reconcile")])
async def test_a_look_up_that_fails_is_no_proof_of_absence(
    at: Callable[[Venue], Desk], failures: int, settled_by: str
) -> None:
    """However long the venue cannot be asked, the order is found afterwards, and not sent again."""
    desk = at(Venue(fails(ccxt.RequestTimeout("504"), after_booking="FILLED")))
    desk.venue.cannot_look_up = failures
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.FILLED
    assert len(desk.venue.sends) == 1
    assert desk.venue.look_ups == failures + 1
    assert desk.outcomes == ["unknown", settled_by]


async def test_a_halt_does_not_make_an_unknown_order_one_that_is_not_there(
    at: Callable[[Venue], Desk], recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """What is refused while everything is halted says nothing of what was sent before."""

    async def halts(venue: Venue, client_id: str) -> Any:
        venue.book(client_id)
        await recovery.halt("test")
        raise ccxt.RequestTimeout("504")

    desk = at(Venue(halts))
    desk.venue.cannot_look_up = 60
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.FILLED


async def test_an_order_that_is_found_absent_too_late_is_not_sent_again(at: Callable[[Venue], Desk]) -> None:
    """Its price is old by then."""
    desk = at(Venue(fails(ccxt.RequestTimeout("504"))))
    desk.venue.cannot_look_up = 60
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.NOT_SENT
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
    assert recovery.get_service_status(ORDERS).value == "operational"


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
    assert (len(desk.venue.sends), desk.venue.look_ups, desk.outcomes) == (2, 0, [])


async def test_at_an_open_circuit_the_order_does_not_leave_the_house(
    at: Callable[[Venue], Desk], recovery: ErrorRecoveryService
) -> None:
    """Nothing was sent, so there is nothing to look up."""
    failing = recovery.service(ORDERS, max_retries=0)

    async def fail() -> None:
        raise ConnectionError("down")

    desk = at(Venue())
    while not recovery.is_circuit_open(ORDERS):
        with pytest.raises(ConnectionError):
            await failing.call(fail)
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.NOT_SENT
    assert (desk.venue.sends, desk.venue.look_ups) == ([], 0)


async def test_without_a_journal_nothing_is_sent(
    at: Callable[[Venue], Desk], recovery: ErrorRecoveryService
) -> None:
    """A disk that refuses stops the order, not the trader."""
    recovery.state_dir.mkdir(parents=True)
    (recovery.state_dir / "journal").write_text("no directory")
    desk = at(Venue())
    order = await desk.desk.carry_out(MARKET)
    assert order.state is OrderState.NOT_SENT
    await desk.desk.go_on_with("sp-0007-EUR-5f1c09ab")  # nor does it hurt that an earlier order cannot go on
    assert desk.venue.sends == []


@pytest.mark.parametrize(("extra", "look_ups"), [({}, 0), ({"odd": object()}, 1)], ids=["kept", "not kept"])
async def test_an_order_whose_end_cannot_be_saved_ends_in_the_next_life(
    at: Callable[[Venue], Desk], extra: dict[str, object], look_ups: int
) -> None:
    """The journal has it until the saved book does, with the venue's answer; one that it could not keep is asked for."""

    def answers(venue: Venue, client_id: str) -> Any:
        answer = venue.book(client_id)
        return {**answer, **extra}

    before = at(Venue(answers))
    before.cannot_save = True
    order = await before.desk.carry_out(MARKET)
    assert await before.pending() == [(OPERATION, order.client_id)]

    after = at(before.venue)
    await after.desk.reconcile()
    await after.desk.go_on_with(order.client_id)
    assert [(entry["client_id"], entry["state"]) for entry in after.saved] == [(order.client_id, "filled")]
    assert (len(after.venue.sends), after.venue.look_ups) == (1, look_ups)
    assert await after.pending() == []


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


async def test_a_closing_desk_cancels_what_rests_at_once_and_sends_nothing(
    at: Callable[[Venue], Desk], clock: VirtualClock
) -> None:
    """At the end of a session nobody waits for a fill, and what comes too late stays at home."""

    async def closes(venue: Venue, client_id: str) -> Any:
        desk.desk.close()
        return venue.book(client_id, "NEW")

    begun = clock.monotonic()
    desk = at(Venue(closes))
    assert (await desk.desk.carry_out(LIMIT)).state is OrderState.CANCELED
    assert clock.monotonic() == begun
    assert (await desk.desk.carry_out(LIMIT)).state is OrderState.NOT_SENT
    assert len(desk.venue.sends) == 1


async def test_cancelled_in_flight_the_order_stays_pending(at: Callable[[Venue], Desk]) -> None:
    """The trader's own cancellation proves nothing about the venue."""
    desk = at(Venue())
    client_id = await desk.dies()
    assert [order.state for order in desk.book] == [OrderState.PENDING]
    assert {key for _, key in await desk.pending()} == {client_id}


async def test_an_earlier_lifes_order_is_found_and_not_sent(at: Callable[[Venue], Desk]) -> None:
    """It had been booked before the trader died; the book is made whole from the journal and the venue."""
    before = at(Venue())
    client_id = await before.dies()
    before.venue.book(client_id)

    after = at(before.venue)
    await after.desk.reconcile()
    await after.desk.go_on_with(client_id)
    order = after.book.orders[client_id]
    assert (order.state, order.executed, order.symbol) == (OrderState.FILLED, 100, "EUR/USDT")
    assert len(after.venue.sends) == 1
    assert after.outcomes == ["unknown", "reconcile"]
    assert await after.pending() == []


async def test_an_earlier_lifes_order_still_on_its_way_is_waited_for(at: Callable[[Venue], Desk]) -> None:
    """Until the last moment at which it can be booked, "not found" proves nothing."""
    before = at(Venue())
    client_id = await before.dies()
    asyncio.get_running_loop().call_later(TIMING.settle - 0.05, before.venue.book, client_id)

    after = at(before.venue)
    await after.desk.reconcile()
    await after.desk.go_on_with(client_id)
    assert after.book.orders[client_id].state is OrderState.FILLED
    assert len(after.venue.sends) == 1


@pytest.mark.parametrize(("pause", "state"), [(0.0, OrderState.FILLED), (60.0, OrderState.NOT_SENT)])
async def test_an_earlier_lifes_order_that_never_arrived_is_sent_only_while_it_is_wanted(
    at: Callable[[Venue], Desk], clock: VirtualClock, pause: float, state: OrderState
) -> None:
    """Proven absent, it goes on as if nothing had been; but not at the price of long ago."""
    before = at(Venue())
    client_id = await before.dies()
    await clock.sleep(pause)

    after = at(before.venue)
    await after.desk.reconcile()
    await after.desk.go_on_with(client_id)
    assert after.book.orders[client_id].state is state
    assert after.venue.sends == [client_id] * (2 if state is OrderState.FILLED else 1)
    assert await after.pending() == []


async def test_while_halted_nothing_is_sent_and_what_was_sent_stays_pending(
    at: Callable[[Venue], Desk], recovery: ErrorRecoveryService
) -> None:
    """A refused order of an earlier life may be there all the same: it goes on when it may."""
    before = at(Venue())
    client_id = await before.dies()
    before.venue.book(client_id)
    await recovery.halt("test")

    halted = at(before.venue)
    await halted.desk.reconcile()
    await halted.desk.go_on_with(client_id)
    order = await halted.desk.carry_out(MARKET)
    assert {order.state for order in halted.book} == {OrderState.PENDING}
    assert halted.venue.sends == [client_id]
    assert await halted.pending() == [(OPERATION, client_id), (OPERATION, order.client_id)]

    await recovery.resume()
    after = at(before.venue)
    await after.desk.go_on_with(client_id)
    assert after.book.orders[client_id].state is OrderState.FILLED
    assert after.venue.sends == [client_id]


async def test_reconciling_waits_for_a_venue_that_is_away(at: Callable[[Venue], Desk]) -> None:
    """It comes back with certainty, however long the look-ups fail."""
    before = at(Venue())
    client_id = await before.dies()
    before.venue.book(client_id)
    before.venue.cannot_look_up = 60

    after = at(before.venue)
    await after.desk.reconcile()
    assert after.outcomes == ["unknown", "reconcile"]

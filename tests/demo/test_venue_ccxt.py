"""The broker's own client, unmodified, against the venue's real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import pytest_asyncio

aiohttp = pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")
ccxt = pytest.importorskip("ccxt.async_support", reason="the demo extra is not installed: no ccxt")

from shockproof.demo.venue import fault_injector, rest  # noqa: E402  only when the extra is there
from shockproof.demo.venue.client import connect_ccxt  # noqa: E402  only when the extra is there
from shockproof.demo.venue.exchange import SessionClock  # noqa: E402  after the importorskip
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind, FaultPlan, FaultWindow  # noqa: E402  after the importorskip
from shockproof.demo.venue.server import VenueServer  # noqa: E402  after the importorskip

pytestmark = pytest.mark.asyncio

PLACE = frozenset({Endpoint.PLACE_ORDER})
PATIENT = 60.0
IMPATIENT = 0.2


class Hands:
    """A session clock moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Venue:
    """A server whose time stands still until it is moved."""

    def __init__(self, server: VenueServer, hands: Hands, exchange: ccxt.binance) -> None:
        self.server = server
        self.hands = hands
        self.ccxt = exchange

    async def at(self, seconds: float) -> None:
        """Move the session to that moment, and let the plan's outages begin or end."""
        self.hands.now = seconds
        await self.server.step()

    @property
    def orders(self) -> list[str]:
        return [order.client_order_id for order in self.server.exchange.ledger.orders]

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.server.exchange.faults.counts())

    async def buy(self, client_order_id: str = "mine", quantity: float = 50) -> dict[str, object]:
        parameters = {"newClientOrderId": client_order_id}
        return await self.ccxt.create_order("EUR/USDT", "market", "buy", quantity, None, parameters)


@asynccontextmanager
async def venue_with(*windows: FaultWindow, client_timeout: float = PATIENT) -> AsyncIterator[Venue]:
    hands = Hands()
    plan = FaultPlan(seed=1, seconds=100.0, client_timeout=client_timeout, windows=windows)
    async with VenueServer(plan, first_day=1000, clock=SessionClock(hands), tick=None) as server:
        exchange = connect_ccxt(server.base_url, timeout=client_timeout)
        try:
            await exchange.load_markets()
            yield Venue(server, hands, exchange)
        finally:
            await exchange.close()


def window(kind: FaultKind, endpoints: frozenset[Endpoint] = PLACE, end: float = 20.0) -> FaultWindow:
    return FaultWindow(kind, 10.0, end, endpoints, 1.0)


async def catches_up(venue: Venue) -> None:
    """What came in before this is done when it is answered."""
    async with aiohttp.ClientSession() as session, session.get(venue.server.admin_url + "/session") as answer:
        await answer.read()


@pytest_asyncio.fixture
async def venue() -> AsyncIterator[Venue]:
    async with venue_with() as honest:
        yield honest


async def test_ccxt_reads_the_market(venue: Venue) -> None:
    """Markets, tickers, depth and trades parse, and say the same."""
    assert set(venue.ccxt.markets) == {"EUR/USDT", "GBP/USDT", "CHF/USDT", "AUD/USDT"}
    market = venue.ccxt.market("EUR/USDT")
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.0001, 0.1)
    assert market["limits"]["cost"]["min"] == 5
    ticker = await venue.ccxt.fetch_ticker("EUR/USDT")
    tops = (await venue.ccxt.fetch_bids_asks(["EUR/USDT"]))["EUR/USDT"]
    depth = await venue.ccxt.fetch_order_book("EUR/USDT", 5)
    assert ticker["bid"] == tops["bid"] == depth["bids"][0][0] < depth["asks"][0][0]
    assert len(await venue.ccxt.fetch_tickers()) == 4
    assert isinstance(await venue.ccxt.fetch_time(), int)
    await venue.buy()
    trades = await venue.ccxt.fetch_trades("EUR/USDT")
    assert trades[-1]["price"] == ticker["ask"]


async def test_ccxt_trades_a_market_order(venue: Venue) -> None:
    """Filled in parts, paid with a fee, and shown in balance, trades and ledger."""
    before = await venue.ccxt.fetch_balance()
    order = await venue.buy("big-one", 9000)
    assert (order["status"], order["filled"], order["clientOrderId"]) == ("closed", 9000, "big-one")
    after = await venue.ccxt.fetch_balance()
    assert after["EUR"]["total"] == pytest.approx(before["EUR"]["total"] + 9000 * 0.999)
    assert after["USDT"]["total"] == pytest.approx(before["USDT"]["total"] - order["cost"])
    trades = await venue.ccxt.fetch_my_trades("EUR/USDT")
    assert len(trades) > 1
    assert sum(trade["amount"] for trade in trades) == pytest.approx(9000)
    (entry,) = venue.server.exchange.ledger.orders
    assert (entry.client_order_id, float(entry.executed)) == ("big-one", 9000)
    assert venue.server.exchange.ledger_report()["agrees"] is True


async def test_ccxt_follows_a_limit_order_to_its_cancel(venue: Venue) -> None:
    """Placed, found by client id and by id, listed as open, cancelled, not found again."""
    order = await venue.ccxt.create_order("EUR/USDT", "limit", "buy", 10, 0.9, {"newClientOrderId": "rest"})
    assert order["status"] == "open"
    found = await venue.ccxt.fetch_order(None, "EUR/USDT", {"origClientOrderId": "rest"})
    assert (found["id"], found["status"]) == (order["id"], "open")
    assert [each["id"] for each in await venue.ccxt.fetch_open_orders("EUR/USDT")] == [order["id"]]
    assert (await venue.ccxt.fetch_balance())["USDT"]["used"] == pytest.approx(9.0)
    cancelled = await venue.ccxt.cancel_order(order["id"], "EUR/USDT")
    assert cancelled["status"] == "canceled"
    assert await venue.ccxt.fetch_open_orders() == []
    with pytest.raises(ccxt.OrderNotFound):
        await venue.ccxt.cancel_order(order["id"], "EUR/USDT")
    assert [each["status"] for each in await venue.ccxt.fetch_orders("EUR/USDT")] == ["canceled"]


async def test_ccxt_recognises_the_venues_refusals(venue: Venue) -> None:
    """Each no arrives as the class that ccxt has for it on the real exchange."""
    with pytest.raises(ccxt.OrderNotFound):
        await venue.ccxt.fetch_order(None, "EUR/USDT", {"origClientOrderId": "nobody"})
    with pytest.raises(ccxt.InsufficientFunds):
        await venue.ccxt.create_order("EUR/USDT", "limit", "buy", 100_000, 1.0)
    with pytest.raises(ccxt.InvalidOrder):
        await venue.ccxt.create_order("EUR/USDT", "limit", "buy", 100, 5000)
    with pytest.raises(ccxt.BadRequest):
        await venue.ccxt.create_order("EUR/USDT", "limit", "buy", 1, 1.0)
    with pytest.raises(ccxt.OrderImmediatelyFillable):
        await venue.ccxt.create_order("EUR/USDT", "limit", "buy", 100, 9.0, {"postOnly": True})
    venue.ccxt.secret = "guessed"
    with pytest.raises(ccxt.AuthenticationError):
        await venue.ccxt.fetch_balance()
    assert venue.orders == []


async def test_a_blind_second_send_is_a_second_order(venue: Venue) -> None:
    """The client order id protects open orders only: a filled market order can be doubled."""
    await venue.buy("same")
    await venue.buy("same")
    assert venue.server.exchange.ledger.duplicates() == {"same": 2}
    resting = {"newClientOrderId": "resting"}
    await venue.ccxt.create_order("EUR/USDT", "limit", "buy", 10, 0.9, resting)
    with pytest.raises(ccxt.InvalidOrder, match="Duplicate order sent"):
        await venue.ccxt.create_order("EUR/USDT", "limit", "buy", 10, 0.9, resting)


@pytest.mark.parametrize(
    ("kind", "raised", "is_booked"),
    [
        (FaultKind.RATE_LIMIT, "DDoSProtection", False),
        (FaultKind.ERROR_BEFORE, "ExchangeNotAvailable", False),
        (FaultKind.CUT_BEFORE, "ExchangeNotAvailable", False),
        (FaultKind.CUT_AFTER, "ExchangeNotAvailable", True),
        (FaultKind.ERROR_AFTER, "OperationFailed", True),
    ],
)
async def test_a_fault_reaches_ccxt_and_the_ledger_knows_the_truth(
    kind: FaultKind, raised: str, *, is_booked: bool
) -> None:
    """The same error before and after booking: only the ledger tells them apart."""
    async with venue_with(window(kind)) as venue:
        await venue.at(15.0)
        with pytest.raises(getattr(ccxt, raised)):
            await venue.buy()
        assert venue.orders == (["mine"] if is_booked else [])
        (entry,) = venue.server.exchange.faults.log
        assert (entry.kind, entry.client_order_id, entry.booked) == (kind, "mine", is_booked)
        await venue.at(20.0)
        assert (await venue.buy("after"))["status"] == "closed"


async def test_an_answer_later_than_the_timeout_leaves_an_order_behind() -> None:
    """The client gives up, the order is booked."""
    async with venue_with(window(FaultKind.LATE)) as venue:  # the answer comes much later than this test ends
        await venue.at(15.0)
        venue.ccxt.timeout = 1000 * IMPATIENT
        while not venue.orders:  # a machine that stands still gives up before it has sent anything
            with pytest.raises(ccxt.RequestTimeout):
                await venue.buy()
            await catches_up(venue)
        assert venue.orders == ["mine"]


async def test_a_slow_answer_is_still_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A latency spike stays below the client's timeout, and is the right answer."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with venue_with(window(FaultKind.LATENCY)) as venue:
        await venue.at(15.0)
        quick = SimpleNamespace(sleep=sleep, get_running_loop=asyncio.get_running_loop)
        monkeypatch.setattr(rest, "asyncio", quick)
        assert (await venue.buy())["status"] == "closed"
        assert venue.counts == {"latency": 1}
    assert [0.1 * PATIENT < seconds < 0.75 * PATIENT for seconds in slept] == [True]


async def test_an_order_may_be_booked_after_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up at once finds nothing; when its time has come the order is there. The answer is a 504 or a reset."""
    monkeypatch.setattr(fault_injector, "BOOKED_WITHIN", 3600.0)  # until the test says so
    async with venue_with(window(FaultKind.BOOKED_LATER)) as venue:
        await venue.at(15.0)
        answers = set()
        for number in range(8):
            with pytest.raises(ccxt.NetworkError) as caught:
                await venue.buy(f"mine-{number}")
            answers.add(type(caught.value))
        assert answers == {ccxt.RequestTimeout, ccxt.ExchangeNotAvailable}
        with pytest.raises(ccxt.OrderNotFound):
            await venue.ccxt.fetch_order(None, "EUR/USDT", {"origClientOrderId": "mine-0"})
        for book in list(venue.server._rest._later.values()):
            book()
        found = await venue.ccxt.fetch_order(None, "EUR/USDT", {"origClientOrderId": "mine-0"})
        assert found["status"] == "closed"
        assert len(venue.orders) == 8


async def test_what_is_due_is_booked_before_a_look_up_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the venue's loop is behind its timers: what it promises of its lateness holds on a slow machine."""
    monkeypatch.setattr(fault_injector, "BOOKED_WITHIN", 3600.0)
    async with venue_with(window(FaultKind.BOOKED_LATER)) as venue:
        await venue.at(15.0)
        with pytest.raises(ccxt.NetworkError):
            await venue.buy()
        later = venue.server._rest._later
        timer, book = later.popitem()
        assert not later
        timer.cancel()
        timer._when = 0.0  # its time is over, and the loop has not got to it; this changes its hash, too
        later[timer] = book
        found = await venue.ccxt.fetch_order(None, "EUR/USDT", {"origClientOrderId": "mine"})
        assert found["status"] == "closed"


async def test_in_an_outage_connections_are_reset_first_and_refused_then() -> None:
    """Only a refused connection proves that nothing was sent."""
    everything = frozenset(Endpoint) - {Endpoint.REFERENCE}
    async with venue_with(window(FaultKind.OUTAGE, everything)) as venue:
        await venue.at(12.0)
        for _ in range(2):  # over the connection that was open, and over a new one
            with pytest.raises(ccxt.ExchangeNotAvailable) as reset:
                await venue.buy()
            assert not isinstance(reset.value.__cause__, aiohttp.ClientConnectorError)
        await venue.at(16.0)
        with pytest.raises(ccxt.ExchangeNotAvailable) as refused:
            await venue.buy()
        assert isinstance(refused.value.__cause__, aiohttp.ClientConnectorError)
        async with aiohttp.ClientSession() as session:
            for address in (venue.server.admin_url + "/ledger", venue.server.reference_url + "/latest"):
                async with session.get(address) as answer:
                    assert answer.status == 200
        await venue.at(20.0)
        assert (await venue.buy("after"))["status"] == "closed"
        assert venue.orders == ["after"]


async def test_too_many_requests_say_how_long_to_wait() -> None:
    """The header is there, though ccxt hides it."""
    async with venue_with(window(FaultKind.RATE_LIMIT, frozenset({Endpoint.TICKER}))) as venue:
        await venue.at(18.5)
        async with (
            aiohttp.ClientSession() as session,
            session.get(venue.server.base_url + "/api/v3/ticker/price") as answer,
        ):
            assert (answer.status, answer.headers["Retry-After"]) == (429, "2")


async def test_the_second_source_has_the_published_rate_and_an_outage_of_its_own() -> None:
    """Independent of the exchange: another port, another price, another fault."""
    reference = frozenset({Endpoint.REFERENCE})
    async with (
        venue_with(window(FaultKind.REFERENCE_OUTAGE, reference)) as venue,
        aiohttp.ClientSession() as session,
    ):

        async def ask(base: str) -> tuple[int, dict[str, str]]:
            async with session.get(venue.server.reference_url + "/latest", params={"base": base}) as answer:
                return answer.status, await answer.json()

        status, rate = await ask("EUR")
        published = venue.server.exchange.replay.published("EUR", 0.0)
        assert (status, (rate["date"], rate["rate"])) == (200, (published[0], str(published[1])))
        assert (await ask("XYZ"))[0] == 404
        await venue.at(15.0)
        assert (await ask("EUR"))[0] == 503
        await venue.ccxt.fetch_ticker("EUR/USDT")


async def test_the_admin_side_tells_plan_log_and_ledger() -> None:
    """What the summary of a session is checked against."""
    async with venue_with(window(FaultKind.CUT_AFTER)) as venue, aiohttp.ClientSession() as session:

        async def ask(path: str) -> dict[str, object]:
            async with session.get(venue.server.admin_url + path) as answer:
                assert answer.status == 200
                body: dict[str, object] = await answer.json()
                return body

        await venue.at(15.0)
        with pytest.raises(ccxt.ExchangeNotAvailable):
            await venue.buy()
        faults = await ask("/faults")
        assert (faults["elapsed"], faults["active"]) == (15.0, ["cut_after"])
        assert FaultPlan.from_dict(faults["plan"]) == venue.server.exchange.faults.plan  # type: ignore[arg-type]  # decoded JSON
        assert (await ask("/faults/log"))["counts"] == {"cut_after": 1}
        ledger = await ask("/ledger")
        assert [order["client_order_id"] for order in ledger["orders"]] == ["mine"]  # type: ignore[attr-defined]  # decoded JSON
        session_ = await ask("/session")
        assert (session_["begun"], session_["orders"], session_["faults"]) == (True, 1, {"cut_after": 1})


async def test_the_session_begins_with_the_first_request_or_when_told() -> None:
    """A trader that is slow to start misses no part of the plan."""
    hands = Hands()
    plan = FaultPlan.make("normal")
    async with VenueServer(plan, clock=SessionClock(hands)) as server, aiohttp.ClientSession() as session:
        hands.now = 100.0
        async with session.get(server.admin_url + "/session") as answer:
            assert (await answer.json())["begun"] is False
        async with session.post(server.admin_url + "/session/begin") as answer:
            assert (await answer.json())["elapsed"] == 0.0
        hands.now = 103.0
        assert server.exchange.clock.elapsed() == 3.0


@pytest.mark.parametrize("path", ["/api/v3/order", "/api/v3/account", "/api/v3/openOrders"])
async def test_private_requests_need_a_key(path: str, venue: Venue) -> None:
    """401 with the exchange's code, not a stack trace."""
    async with aiohttp.ClientSession() as session, session.get(venue.server.base_url + path) as answer:
        assert (answer.status, (await answer.json())["code"]) == (401, -2014)


async def test_the_same_parameter_twice_is_refused(venue: Venue) -> None:
    """Which of the two was meant is nobody's guess."""
    url = venue.server.base_url + "/api/v3/ticker/price?symbol=EURUSDT&symbol=GBPUSDT"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, -1101)


async def test_the_venue_ends_at_once_although_answers_and_streams_are_open() -> None:
    """A late answer is not waited for: whoever waits for it sees a cut."""
    everything = frozenset(Endpoint)
    async with aiohttp.ClientSession() as session:
        async with venue_with(window(FaultKind.LATENCY, everything), client_timeout=1000.0) as venue:
            socket = await session.ws_connect(venue.server.stream_url + "/ws/eurusdt@bookTicker")
            await venue.at(15.0)
            waiting = asyncio.create_task(session.get(venue.server.base_url + "/api/v3/ping"))
            while not venue.counts:  # until the request has arrived, seen over the third port
                async with session.get(venue.server.admin_url + "/session") as answer:
                    await answer.read()
        with pytest.raises(aiohttp.ClientError):
            await waiting
        async for _message in socket:
            pass
        assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE


async def test_a_port_in_use_is_refused_by_number() -> None:
    """Before anything is served, and without leaving a socket behind."""
    loop = asyncio.get_running_loop()
    taken = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    try:
        with pytest.raises(OSError, match=f"cannot use port {port} on 127.0.0.1"):
            async with VenueServer(FaultPlan.make("none"), port=port):
                pass
    finally:
        taken.close()
        await taken.wait_closed()


async def read_until(
    socket: aiohttp.ClientWebSocketResponse, wanted: Callable[[dict[str, object]], bool]
) -> object:
    while True:
        message = await socket.receive_json()
        if wanted(message):
            return message


async def test_the_stream_shows_the_same_prices_as_rest(venue: Venue) -> None:
    """A new reader gets the present best prices at once, and each change after it."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(venue.server.stream_url + "/ws/eurusdt@bookTicker") as socket,
    ):
        for moment in (0.0, 4.0, 9.0):
            await venue.at(moment)
            ticker = await venue.ccxt.fetch_bids_asks(["EUR/USDT"])
            top = ticker["EUR/USDT"]
            await read_until(
                socket,
                lambda event, top=top: (float(event["b"]), float(event["a"])) == (top["bid"], top["ask"]),
            )


async def test_a_combined_stream_names_the_stream_and_carries_trades(venue: Venue) -> None:
    """Own trades are on the tape too."""
    streams = "/stream?streams=eurusdt@trade/gbpusdt@bookTicker"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(venue.server.stream_url + streams) as socket,
    ):
        order = await venue.buy(quantity=12.3)
        message = await read_until(
            socket, lambda event: event["stream"] == "eurusdt@trade" and event["data"]["q"] == "12.30000000"
        )
        assert float(message["data"]["p"]) == order["average"]


async def test_a_reader_can_subscribe_and_unsubscribe_later(venue: Venue) -> None:
    """The commands of the real stream, and a clear no for what does not exist."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(venue.server.stream_url + "/ws") as socket,
    ):
        await socket.send_json({"method": "SUBSCRIBE", "params": ["eurusdt@bookTicker"], "id": 1})
        assert await read_until(socket, lambda event: event.get("id") == 1) == {"result": None, "id": 1}
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        listed = await read_until(socket, lambda event: event.get("id") == 2)
        assert listed == {"result": ["eurusdt@bookTicker"], "id": 2}
        await socket.send_json({"method": "UNSUBSCRIBE", "params": ["eurusdt@bookTicker"], "id": 3})
        await read_until(socket, lambda event: event.get("id") == 3)
        for bad in (
            "no json",
            "[]",
            '{"method": "SUBSCRIBE", "params": ["btcusdt@trade"]}',
            '{"method": "X"}',
        ):
            await socket.send_str(bad)
            assert "error" in await socket.receive_json()


async def test_an_unknown_stream_is_refused_before_the_handshake(venue: Venue) -> None:
    """HTTP 400 with the list of what exists."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(venue.server.base_url + "/ws/btcusdt@bookTicker") as answer,
    ):
        assert answer.status == 400
        assert "eurusdt" in await answer.text()


async def test_a_cut_resets_every_stream_once_and_readers_may_come_back() -> None:
    """The connection ends abnormally; the next one works."""
    async with (
        venue_with(FaultWindow(FaultKind.STREAM_CUT, 10.0, 10.0, frozenset({Endpoint.STREAM}), 1.0)) as venue,
        aiohttp.ClientSession() as session,
    ):
        address = venue.server.stream_url + "/ws/eurusdt@bookTicker"
        async with session.ws_connect(address) as socket:
            await socket.receive_json()
            await venue.at(10.0)
            async for _message in socket:
                pass
            assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
        assert venue.counts == {"stream_cut": 1}
        await venue.at(11.0)
        async with session.ws_connect(address) as socket:
            assert (await socket.receive_json())["s"] == "EURUSDT"


async def test_in_an_outage_the_stream_is_away_too() -> None:
    """Reset while it is open, reset when it is opened again, and back at the end."""
    everything = frozenset(Endpoint) - {Endpoint.REFERENCE}
    async with venue_with(window(FaultKind.OUTAGE, everything)) as venue, aiohttp.ClientSession() as session:
        address = venue.server.stream_url + "/ws/eurusdt@bookTicker"
        async with session.ws_connect(address) as socket:
            await socket.receive_json()
            await venue.at(11.0)
            async for _message in socket:
                pass
            assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
        with pytest.raises(aiohttp.ClientError):
            await session.ws_connect(address)
        await venue.at(20.0)
        async with session.ws_connect(address) as socket:
            assert (await socket.receive_json())["s"] == "EURUSDT"

"""ccxt's errors raised over real sockets, and the protected exchange against the venue."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

ccxt = pytest.importorskip("ccxt.async_support", reason="the ccxt extra is not installed")

import aiohttp  # noqa: E402  it comes with ccxt

import shockproof.integrations.ccxt  # noqa: E402  after the importorskip
from shockproof import (  # noqa: E402  after the importorskip
    CallInfo,
    CircuitOpenError,
    ErrorRecoveryService,
    HaltedError,
    Outcome,
    attempts_of,
)
from shockproof.demo.venue.client import connect_ccxt  # noqa: E402  after the importorskip
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind  # noqa: E402  as above
from shockproof.integrations.ccxt import find_order, meaning_of  # noqa: E402  after the importorskip
from shockproof.integrations.outcome_table import Meaning  # noqa: E402  after the importorskip
from shockproof.vocabulary.look_up import NOT_FOUND, UNKNOWN, Found  # noqa: E402  after the importorskip

if TYPE_CHECKING:
    from tests.integrations.conftest import Misbehaving, Weather

pytestmark = pytest.mark.asyncio

PATIENT = 60.0
IMPATIENT = 0.1


# -- what its errors mean, raised over real sockets --------------------------------------------------------


@functools.cache
def one_exchange() -> Any:
    return connect_ccxt("http://127.0.0.1")  # making one takes long


@asynccontextmanager
async def connected(url: str, timeout: float = PATIENT) -> AsyncIterator[Any]:
    exchange = one_exchange()
    exchange.urls["api"]["private"] = f"{url}/api/v3"
    exchange.timeout = 1000 * timeout
    async with aiohttp.ClientSession() as session:
        exchange.session, exchange.own_session = session, False
        yield exchange
        exchange.session = None


async def error_of(url: str, timeout: float = PATIENT) -> Exception:
    async with connected(url, timeout) as exchange:
        with pytest.raises(ccxt.BaseError) as caught:
            await exchange.private_post_order({"symbol": "EURUSDT"})
    return caught.value


async def test_a_connection_that_never_stood_sent_nothing(nobody: str) -> None:
    """Ccxt says network error, as for an order that was booked; its cause tells."""
    error = await error_of(nobody)
    assert type(error) is ccxt.ExchangeNotAvailable
    assert meaning_of(error) is Meaning.NOT_SENT


async def test_a_redirect_to_where_nobody_is_proves_nothing_about_the_order_before_it(
    server: Misbehaving, nobody: str
) -> None:
    """Ccxt follows it; the order was booked."""
    server.answers(303, b"", Location=f"{nobody}/orders/1")
    assert meaning_of(await error_of(server.url)) is Meaning.UNKNOWN
    assert len(server.requests) == 1


async def test_a_connection_that_takes_too_long_leaves_it_open(unreachable: str) -> None:
    """Ccxt has one timer for connecting and answering: when it ends, nobody knows what it ended."""
    error = await error_of(unreachable, IMPATIENT)
    assert type(error) is ccxt.RequestTimeout
    assert meaning_of(error) is Meaning.UNKNOWN


@pytest.mark.parametrize(
    ("manner", "raised"),
    [
        ("reset", "ExchangeNotAvailable"),
        ("close", "ExchangeNotAvailable"),
        ("silent", "RequestTimeout"),
        ("half", "ExchangeError"),
        ("garbage", "ExchangeError"),
    ],
)
async def test_an_answer_that_did_not_come_leaves_it_open(
    manner: str, raised: str, server: Misbehaving
) -> None:
    """The same classes as for a connection that never stood, and the request had arrived."""
    server.manner = manner
    while True:  # its one timer may end before anything is sent, on a machine that stands still
        error = await error_of(server.url, IMPATIENT if manner == "silent" else PATIENT)
        assert type(error).__name__ == raised
        assert meaning_of(error) is Meaning.UNKNOWN
        if await server.has_heard():
            break
    assert len(server.requests) == 1


HTML = b"<html></html>"


@pytest.mark.parametrize(
    ("status", "body", "raised", "meaning"),
    [
        (400, HTML, "ExchangeNotAvailable", Meaning.REFUSED),
        (403, HTML, "ExchangeNotAvailable", Meaning.REFUSED),
        (404, HTML, "ExchangeNotAvailable", Meaning.REFUSED),
        (422, HTML, "ExchangeError", Meaning.REFUSED),
        (401, HTML, "AuthenticationError", Meaning.REFUSED),
        (408, HTML, "RequestTimeout", Meaning.UNKNOWN),
        (409, HTML, "ExchangeNotAvailable", Meaning.UNKNOWN),
        (418, HTML, "DDoSProtection", Meaning.TURNED_AWAY),
        (429, HTML, "DDoSProtection", Meaning.TURNED_AWAY),
        (500, HTML, "ExchangeNotAvailable", Meaning.UNKNOWN),
        (502, HTML, "ExchangeNotAvailable", Meaning.UNKNOWN),
        (503, HTML, "ExchangeNotAvailable", Meaning.UNKNOWN),
        (504, HTML, "RequestTimeout", Meaning.UNKNOWN),
        (400, -1013, "BadRequest", Meaning.REFUSED),
        (400, -1121, "BadSymbol", Meaning.REFUSED),
        (400, -2013, "OrderNotFound", Meaning.REFUSED),
        (400, -2015, "AuthenticationError", Meaning.REFUSED),
        (400, -1021, "InvalidNonce", Meaning.TURNED_AWAY),
        (429, -1003, "DDoSProtection", Meaning.TURNED_AWAY),
        (429, -1015, "DDoSProtection", Meaning.TURNED_AWAY),
        (503, -1006, "OperationFailed", Meaning.UNKNOWN),
        (504, -1007, "RequestTimeout", Meaning.UNKNOWN),
        (400, -9999, "ExchangeError", Meaning.UNKNOWN),
    ],
)
async def test_an_answer_means_what_it_proves(
    status: int, body: bytes | int, raised: str, meaning: Meaning, server: Misbehaving
) -> None:
    """Ccxt's class does not decide: its network errors hold a 403 page as well as a lost answer."""
    server.answers(
        status, body if isinstance(body, bytes) else json.dumps({"code": body, "msg": "no"}).encode()
    )
    error = await error_of(server.url)
    assert type(error).__name__ == raised
    assert meaning_of(error) is meaning


@pytest.mark.parametrize(
    ("code", "words"), [(-2010, "Duplicate order sent."), (-4116, "ClientOrderId is duplicated.")]
)
async def test_a_duplicate_id_says_that_the_order_is_there(
    code: int, words: str, server: Misbehaving
) -> None:
    """It is no refusal: the first order stands, and is to be looked up."""
    server.answers(400, json.dumps({"code": code, "msg": words}).encode())
    meaning = meaning_of(await error_of(server.url))
    assert meaning is Meaning.DONE
    assert (meaning.effect, meaning.advice) == ("done", "do not retry")


async def test_a_duplicate_by_its_class_says_the_same() -> None:
    """Other exchanges have a code of their own for it."""
    assert meaning_of(ccxt.DuplicateOrderId("okx 51016")) is Meaning.DONE


async def test_order_whose_second_copy_is_a_duplicate_is_the_first_one(
    recovery: ErrorRecoveryService,
) -> None:
    """Its answer was lost, it was looked up too early, and sent again: the key is not free, and the order is found."""
    answers = [
        ccxt.RequestTimeout("okx"),
        ccxt.InvalidOrder(
            'okx {"data":[{"clOrdId":"bot-1","sCode":"51016","sMsg":"Client order ID already exists."}]}'
        ),
    ]
    looks = [NOT_FOUND, Found("the first")]
    trading = recovery.service("trading", classify=shockproof.integrations.ccxt.classify, max_retries=3)

    async def send() -> str:
        raise answers.pop(0)

    async def find(_key: str) -> Any:
        return looks.pop(0)

    assert await trading.once("bot-1", confirm=find, settle=0.0).call(send) == "the first"
    assert answers == looks == []


async def test_what_is_not_ccxts_is_left_to_the_rules() -> None:
    """Answers and foreign errors get no verdict here."""
    assert [meaning_of(value) for value in (None, {"id": "1"}, KeyError("x"), TimeoutError())] == [None] * 4


async def test_a_ban_says_until_when(server: Misbehaving) -> None:
    """The end of a ban stands in the words, not in a header."""
    until = round(time.time() + 3600) * 1000
    text = json.dumps({"code": -1003, "msg": f"Way too much; IP(1.2.3.4) banned until {until}. Be good."})
    server.answers(418, text.encode())
    verdict = shockproof.integrations.ccxt.classify(await error_of(server.url), CallInfo("v", "f", 1, "read"))
    assert verdict is not None
    assert verdict.effect == "none"
    assert verdict.retry_after is not None
    assert 3500 < verdict.retry_after <= 3601


async def test_retry_after_is_that_of_the_very_answer(
    server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """Ccxt keeps headers for the whole client; with many requests in flight each error finds its own."""
    waits: dict[str, float | None] = {}
    async with connected(server.url) as exchange:
        classify = shockproof.integrations.ccxt.classify_for(exchange)

        def note(value: object, call: CallInfo) -> Any:
            verdict = classify(value, call)
            if isinstance(value, Exception) and verdict is not None:
                waits[str(value).rpartition(" ")[2]] = verdict.retry_after
            return verdict

        venue = recovery.service("venue", classify=note, max_retries=0, circuit_threshold=None)

        async def ask(number: int) -> None:
            with pytest.raises(ccxt.DDoSProtection):
                await venue.call(exchange.fetch, f"{server.url}/{number}")

        server.by_path = True
        await asyncio.gather(*(ask(number) for number in range(1, 30)))
    assert waits == {str(number): float(number) for number in range(1, 30)}


# -- the protected exchange against the venue -----------------------------------------------------------


class Venue:
    """The venue and the protected exchange."""

    def __init__(self, weather: Weather, exchange: Any, protected: Any) -> None:
        self.weather, self.exchange, self.protected = weather, exchange, protected
        self.befall, self.calm = weather.befall, weather.calm

    async def buy(self, client: Any = None, key: str = "mine", **parameters: Any) -> dict[str, Any]:
        by = self.protected if client is None else client
        return await by.create_order(
            "EUR/USDT", "market", "buy", 50, None, {"newClientOrderId": key, **parameters}
        )

    @property
    def orders(self) -> list[str]:
        return self.weather.orders


@pytest_asyncio.fixture
async def venue(recovery: ErrorRecoveryService, weather: Weather) -> AsyncIterator[Venue]:
    exchange = connect_ccxt(weather.server.base_url, timeout=PATIENT)
    protected = shockproof.integrations.ccxt.protect(
        exchange, recovery, orders={"max_retries": 2}, reads={"max_retries": 2}
    )
    async with protected:
        await protected.load_markets()
        yield Venue(weather, exchange, protected)


async def test_a_protected_exchange_is_an_exchange(venue: Venue) -> None:
    """Everything else is the exchange's own: attributes, plain methods, isinstance, setting."""
    protected = venue.protected
    assert isinstance(protected, ccxt.Exchange)
    assert isinstance(protected, ccxt.binance)
    assert protected.markets is venue.exchange.markets
    assert protected.amount_to_precision("EUR/USDT", 1.234) == "1.2"
    protected.timeout = 1234
    assert venue.exchange.timeout == 1234
    assert "create_order" in dir(protected)
    assert repr(protected) == "<ccxt.async_support.binance(), protected by shockproof>"
    assert protected.create_order is protected.create_order
    assert protected.create_order.__name__ == "create_order"
    assert protected.fetch == venue.exchange.fetch
    with pytest.raises(AttributeError, match="nonsense"):
        _ = protected.nonsense


async def test_a_protected_exchange_trades(venue: Venue, recovery: ErrorRecoveryService) -> None:
    """Orders, cancels and reads go through, under two services of the exchange's name."""
    await venue.buy(key="one")
    parameters = {"newClientOrderId": "two"}
    resting = await venue.protected.create_limit_buy_order("EUR/USDT", 10, 0.9, parameters)
    assert (await venue.protected.cancel_order(resting["id"], "EUR/USDT"))["status"] == "canceled"
    assert (await venue.protected.fetchBalance())["EUR"]["total"] > 10_000
    services = recovery.get_health_status()["services"]
    assert {name: service["successes"] for name, service in services.items()} == {
        "binance.orders": 3,
        "binance.reads": 2,
    }
    assert venue.orders == ["one", "two"]


@pytest.mark.parametrize(
    "kind", [FaultKind.ERROR_BEFORE, FaultKind.CUT_BEFORE, FaultKind.ERROR_AFTER, FaultKind.CUT_AFTER]
)
async def test_an_order_whose_answer_was_lost_is_sent_once(venue: Venue, kind: FaultKind) -> None:
    """The same error before and after booking: it is never sent again, and its outcome is unknown."""
    venue.befall(kind)
    with pytest.raises(ccxt.BaseError) as caught:
        await venue.buy()
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert len(venue.weather.hit()) == 1
    assert venue.orders == (["mine"] if kind.may_book else [])


async def test_the_exchanges_own_retry_would_have_doubled_it(
    venue: Venue, caplog: pytest.LogCaptureFixture, recovery: ErrorRecoveryService
) -> None:
    """Unprotected one call books three orders; protecting switches it off and says so."""
    options = venue.exchange.options
    options["maxRetriesOnFailure"] = 2
    venue.befall(FaultKind.CUT_AFTER)
    with pytest.raises(ccxt.ExchangeNotAvailable):
        await venue.buy(venue.exchange, "bare")
    assert venue.orders == ["bare"] * 3
    options["order"] = {"maxRetriesOnFailure": 4}
    with caplog.at_level(logging.WARNING, "shockproof"):
        again = shockproof.integrations.ccxt.protect(venue.exchange, recovery, name="again")
    assert [record.getMessage() for record in caplog.records] == [
        "binance: its own retries (maxRetriesOnFailure=2) are switched off: they send an order again that may be there",
        "binance: its own retries (maxRetriesOnFailure=4) are switched off: they send an order again that may be there",
    ]
    with pytest.raises(ccxt.ExchangeNotAvailable):
        await venue.buy(again, "guarded")
    assert venue.orders == ["bare"] * 3 + ["guarded"]


@pytest.mark.parametrize("where", [None, "order"])
async def test_its_own_retries_that_are_switched_on_later_are_switched_off_too(
    venue: Venue, caplog: pytest.LogCaptureFixture, where: str | None
) -> None:
    """By the protected client, or by the exchange itself, in new options as well."""
    venue.befall(FaultKind.CUT_AFTER)
    on = {"maxRetriesOnFailure": 3}
    venue.protected.options = {**venue.exchange.options, **(on if where is None else {where: on})}
    with pytest.raises(ccxt.ExchangeNotAvailable):
        await venue.buy(key="mine")
    assert venue.orders == ["mine"]
    assert "its own retries (maxRetriesOnFailure=3) are switched off" in caplog.text


async def test_order_that_goes_by_get_is_sent_once(venue: Venue, server: Misbehaving) -> None:
    """Some exchanges place orders so, and aiohttp would send them again; a session that is opened later is no other."""
    server.manner = "close"
    for sent in (1, 2):
        with pytest.raises(ccxt.ExchangeNotAvailable):
            await venue.exchange.fetch(f"{server.url}/buy", "GET")
        assert len(server.requests) == sent
        await venue.exchange.close()
        venue.exchange.open()


async def test_its_own_retry_is_refused_in_the_parameters_of_a_write(venue: Venue) -> None:
    """Whoever asks for it there would get two orders; nothing is sent, and nothing is counted."""
    for arguments in ((None, {"maxRetriesOnFailure": 2}), (None,)):
        named = {} if len(arguments) == 2 else {"params": {"maxRetriesOnFailure": 2}}
        with pytest.raises(ValueError, match=r"params must not hold maxRetriesOnFailure=2: .* orders="):
            await venue.protected.create_order("EUR/USDT", "market", "buy", 50, *arguments, **named)
    await venue.protected.fetch_ticker("EUR/USDT", {"maxRetriesOnFailure": 2})
    assert venue.orders == []


async def test_the_id_of_an_order_is_in_its_error_record(
    venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """What is looked up in the morning is found by it; an order without one has none."""
    venue.befall(FaultKind.CUT_AFTER)
    with pytest.raises(ccxt.ExchangeNotAvailable) as caught:
        await venue.buy(key="known")
    with pytest.raises(ccxt.ExchangeNotAvailable):
        await venue.protected.create_order("EUR/USDT", "market", "buy", 50)
    assert caught.value.__notes__[-1] == "client order id: known"
    contexts = [record["context"] for record in recovery.get_error_summary()["recent_errors"]]
    assert contexts == [{"client_order_id": "known"}, None]


async def test_an_order_turned_away_waits_as_long_as_it_was_told(
    venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """429 proves that nothing was booked; Retry-After is more than the deadline leaves, so that it ends."""
    hasty = shockproof.integrations.ccxt.protect(
        venue.exchange, recovery, name="hasty", orders={"max_retries": 1, "deadline": 3.0}
    )
    venue.befall(FaultKind.RATE_LIMIT)
    with pytest.raises(ccxt.DDoSProtection) as caught:
        await venue.buy(hasty)
    (attempt,) = attempts_of(caught.value)
    assert attempt.outcome is Outcome.FAILURE
    assert any("the deadline would pass" in note for note in caught.value.__notes__)
    assert (venue.weather.hit(), venue.orders) == ([False], [])


async def test_reads_are_repeated(venue: Venue) -> None:
    """A read that was cut is asked again, as often as there are retries."""
    venue.befall(FaultKind.CUT_BEFORE, Endpoint.TICKER)
    with pytest.raises(ccxt.ExchangeNotAvailable) as caught:
        await venue.protected.fetch_ticker("EUR/USDT")
    assert len(attempts_of(caught.value)) == 3


async def test_a_refusal_opens_no_circuit(venue: Venue, recovery: ErrorRecoveryService) -> None:
    """Nonsense is ours: the venue is well, and is not asked twice."""
    for _ in range(6):
        with pytest.raises(ccxt.InsufficientFunds):
            await venue.protected.create_order("EUR/USDT", "limit", "buy", 100_000, 1.0)
    assert not recovery.is_circuit_open("binance.orders")
    assert venue.orders == []


async def test_a_cancel_passes_an_open_circuit(venue: Venue, recovery: ErrorRecoveryService) -> None:
    """No new risk through an open circuit; what reduces risk gets through, and look-ups do."""
    resting = await venue.protected.create_limit_buy_order("EUR/USDT", 10, 0.9, {"newClientOrderId": "rest"})
    venue.befall(FaultKind.CUT_BEFORE)
    for _ in range(5):
        with pytest.raises(ccxt.ExchangeNotAvailable):
            await venue.buy()
    venue.calm()
    with pytest.raises(CircuitOpenError):
        await venue.buy()
    assert await find_order(venue.protected, "rest", "EUR/USDT") != UNKNOWN
    assert (await venue.protected.cancel_order(resting["id"], "EUR/USDT"))["status"] == "canceled"
    assert venue.orders == ["rest"]


@pytest.mark.parametrize("says", [{"reduceOnly": True}, {"closePosition": True}, {"reduceOnly": "true"}])
async def test_an_order_that_can_only_close_passes_a_halt(
    venue: Venue, recovery: ErrorRecoveryService, says: dict[str, Any]
) -> None:
    """It reduces risk, as closing a position does; an order that does not say so is refused, and so is a false one."""
    sent: list[dict[str, Any]] = []

    async def create_order(*_: object, params: dict[str, Any]) -> dict[str, Any]:
        sent.append(params)
        return {}

    venue.exchange.create_order = create_order
    await recovery.halt("enough")
    for params in ({}, dict.fromkeys(says, False), dict.fromkeys(says, "false"), {"reduceOnly": None}):
        with pytest.raises(HaltedError):
            await venue.protected.create_order("EUR/USDT", "market", "sell", 50, params=params)
    await venue.protected.create_order("EUR/USDT", "market", "sell", 50, params=says)
    assert sent == [says]


async def test_an_order_that_can_only_close_is_never_repeated_blindly(venue: Venue) -> None:
    """Its answer was lost: it is sent once, and its id is known, as for any order."""
    calls: list[object] = []

    async def create_order(*arguments: object) -> None:
        calls.append(arguments)
        raise ccxt.RequestTimeout("late")

    venue.exchange.create_order = create_order
    with pytest.raises(ccxt.RequestTimeout) as caught:
        await venue.buy(reduceOnly=True)
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert caught.value.__notes__[-1] == "client order id: mine"
    assert len(calls) == 1


async def test_a_cancel_whose_answer_was_lost_is_repeated(venue: Venue) -> None:
    """Cancelling twice does no harm; the later answers are that it is gone already."""
    resting = await venue.protected.create_limit_buy_order("EUR/USDT", 10, 0.9)
    venue.befall(FaultKind.CUT_AFTER, Endpoint.CANCEL_ORDER)
    with pytest.raises(ccxt.BaseError) as caught:
        await venue.protected.cancel_order(resting["id"], "EUR/USDT")
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.FAILURE] * 3
    assert venue.weather.hit(Endpoint.CANCEL_ORDER).count(True) == 1


@pytest.mark.parametrize("option", ["effect", "classify", "risk_reducing"])
async def test_what_the_adapter_settles_is_no_option(
    venue: Venue, recovery: ErrorRecoveryService, option: str
) -> None:
    """A write that is declared a read by mistake would be repeated."""
    with pytest.raises(TypeError, match=f"orders must not hold '{option}'"):
        shockproof.integrations.ccxt.protect(venue.exchange, recovery, orders={option: None})


async def test_what_cannot_be_protected_is_refused(recovery: ErrorRecoveryService, venue: Venue) -> None:
    """Twice would be retries inside retries; a synchronous exchange would hold the loop."""
    with pytest.raises(TypeError, match="protected already"):
        shockproof.integrations.ccxt.protect(venue.protected, recovery)
    import ccxt as synchronous

    with pytest.raises(
        TypeError, match=r"must be one of ccxt.async_support or ccxt.pro, got ccxt.binance\(\)"
    ):
        shockproof.integrations.ccxt.protect(synchronous.binance(), recovery)


class SlowMarkets(ccxt.kraken):  # type: ignore[misc]  # ccxt's classes are Any
    """An exchange whose markets take as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.is_loading, self.may_end = asyncio.Event(), asyncio.Event()

    async def fetch_currencies(self, *_: object) -> dict[str, Any]:
        return {}

    async def fetch_markets(self, *_: object) -> list[Any]:
        self.loads += 1
        self.is_loading.set()
        await self.may_end.wait()
        return []

    async def fetch_ticker(self, symbol: str, *_: object) -> str:
        await self.load_markets()
        return symbol

    async def create_order(self, symbol: str, *_: object) -> str:
        await self.load_markets()
        return symbol


@pytest.mark.parametrize("reload", [False, True])
async def test_call_that_is_cut_off_while_the_markets_load_takes_no_other_with_it(
    recovery: ErrorRecoveryService, *, reload: bool
) -> None:
    """All await one task of ccxt's, and nobody has cancelled the others."""
    exchange: Any = SlowMarkets()
    venue = shockproof.integrations.ccxt.protect(exchange, recovery)
    if reload:
        exchange.may_end.set()
        await venue.load_markets()
        exchange.may_end.clear()
        exchange.is_loading.clear()
    began = asyncio.ensure_future(exchange.load_markets(reload))
    await exchange.is_loading.wait()
    others = [
        asyncio.ensure_future(waiting)
        for waiting in (
            venue.fetch_ticker("A"),
            venue.create_order("B", "market", "buy", 1),
            exchange.fetch_ticker("C"),
        )
    ]
    await asyncio.sleep(0)
    began.cancel()
    with pytest.raises(asyncio.CancelledError):
        await began
    exchange.may_end.set()
    assert await asyncio.gather(*others) == ["A", "B", "C"]
    assert exchange.loads == (2 if reload else 1)
    await exchange.close()


class Two(ccxt.kraken):  # type: ignore[misc]  # ccxt's classes are Any
    """An exchange whose change of an order is a cancel and a new order, which fails."""

    edit_order = ccxt.Exchange.edit_order

    async def edit_order_by_itself(self, *args: Any, **kwargs: Any) -> Any:
        return await ccxt.Exchange.edit_order(self, *args, **kwargs)

    def __init__(self, fails: type[Exception]) -> None:
        super().__init__()
        self.has = {**self.has, "editOrder": "emulated"}
        self.fails = fails
        self.done: list[str] = []

    async def cancel_order(self, *_: object, **__: object) -> dict[str, Any]:
        self.done.append("cancel")
        return {}

    async def create_order(self, *_: object, **__: object) -> dict[str, Any]:
        self.done.append("create")
        raise self.fails("kraken no")


@pytest.mark.parametrize("fails", [ccxt.InsufficientFunds, ccxt.RateLimitExceeded])
@pytest.mark.parametrize("emulated", [True, False])
async def test_change_of_an_order_that_is_two_requests_is_unknown_whichever_failed(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch, fails: type[Exception], *, emulated: bool
) -> None:
    """The cancel was done; repeated, it would be told that there is no such order, and that is no proof of anything."""
    exchange: Any = Two(fails)
    if not emulated:  # what it does by itself is its own business
        exchange.has["editOrder"] = True
        monkeypatch.setattr(Two, "edit_order", Two.edit_order_by_itself)
    venue = shockproof.integrations.ccxt.protect(exchange, recovery, orders={"max_retries": 1})
    with pytest.raises(fails) as caught:
        await venue.edit_order("1", "BTC/USD", "limit", "buy", 1, 100)
    if emulated:
        assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
        assert exchange.done == ["cancel", "create"]
    else:
        assert Outcome.UNKNOWN not in [attempt.outcome for attempt in attempts_of(caught.value)]
    await exchange.close()


# -- looking orders up -------------------------------------------------------------------------------------


async def test_an_order_is_found_by_its_id_or_proven_not_to_be_listed(venue: Venue) -> None:
    """Filled orders are found, too; what was never sent is not found."""
    await venue.buy(key="mine")
    found = await find_order(venue.protected, "mine", "EUR/USDT")
    assert isinstance(found, Found)
    assert (found.value["clientOrderId"], found.value["status"]) == ("mine", "closed")
    assert await find_order(venue.protected, "other", "EUR/USDT") is NOT_FOUND


@pytest.mark.parametrize("endpoint", [Endpoint.QUERY_ORDER, Endpoint.LIST_ORDERS])
async def test_a_look_up_that_failed_says_nothing(venue: Venue, endpoint: Endpoint) -> None:
    """Whichever of its two questions failed: not found would be a guess."""
    venue.befall(FaultKind.ERROR_BEFORE, endpoint)
    assert await find_order(venue.protected, "mine", "EUR/USDT") is UNKNOWN


async def test_an_answer_about_another_order_is_no_proof(venue: Venue) -> None:
    """An exchange that does not know the parameter may answer with whatever it likes."""
    await venue.buy(key="mine")

    async def other(*_: object) -> dict[str, Any]:
        return await type(venue.exchange).fetch_order(
            venue.exchange, "", "EUR/USDT", {"origClientOrderId": "mine"}
        )

    venue.exchange.fetch_order = other
    assert await find_order(venue.exchange, "another", "EUR/USDT") is UNKNOWN


@pytest.mark.parametrize(("key", "known"), [("resting", True), ("filled", True), ("other", False)])
async def test_an_exchange_that_cannot_list_all_is_asked_for_open_and_closed_ones(
    venue: Venue, key: str, *, known: bool
) -> None:
    """Absence needs every list the venue has."""
    await venue.buy(key="filled")
    await venue.protected.create_limit_buy_order("EUR/USDT", 10, 0.9, {"newClientOrderId": "resting"})
    asked = []

    async def not_by_id(*_: object) -> dict[str, Any]:
        raise ccxt.OrderNotFound("by id")

    async def closed(symbol: str, *page: object) -> list[dict[str, Any]]:
        asked.append(symbol)
        return [one for one in await venue.exchange.fetch_orders(symbol, *page) if one["status"] == "closed"]

    venue.exchange.fetch_order = not_by_id
    venue.exchange.fetch_closed_orders = closed
    venue.exchange.has = {**venue.exchange.has, "fetchOrders": False, "fetchClosedOrders": True}
    found = await find_order(venue.exchange, key, "EUR/USDT")
    assert isinstance(found, Found) is known
    assert asked == ([] if key == "resting" else ["EUR/USDT"])


@pytest.mark.parametrize("lacks", ["fetchOpenOrders", "fetchClosedOrders"])
@pytest.mark.parametrize("how", [None, False, "emulated"])
async def test_an_exchange_that_cannot_list_all_proves_no_absence(
    venue: Venue, lacks: str, how: str | bool | None
) -> None:
    """A filled order is in none of the lists that it has; one that is in them is found all the same."""

    async def nothing(*_: object) -> list[dict[str, Any]]:
        return []

    venue.exchange.fetch_open_orders = venue.exchange.fetch_closed_orders = nothing
    has = {**venue.exchange.has, "fetchOrders": how, "fetchOpenOrders": True, "fetchClosedOrders": True}
    venue.exchange.has = {**has, lacks: how}
    assert await find_order(venue.exchange, "mine", "EUR/USDT") is UNKNOWN
    venue.exchange.has = has
    assert await find_order(venue.exchange, "mine", "EUR/USDT") is NOT_FOUND


@pytest.mark.parametrize("known", [True, False])
async def test_a_page_that_is_full_proves_no_absence(venue: Venue, *, known: bool) -> None:
    """As many orders as were asked for: there may be more. Where ccxt names no limit, few are asked for."""
    asked: list[int] = []
    lacking = [0]

    async def page(_symbol: str, _since: None, limit: int, _params: object) -> list[dict[str, Any]]:
        asked.append(limit)
        return [{"clientOrderId": str(number)} for number in range(limit - lacking[0])]

    venue.exchange.fetch_orders = page
    if not known:
        venue.exchange.features = None
    assert await find_order(venue.exchange, "mine", "EUR/USDT") is UNKNOWN
    assert asked == [1000 if known else 20]
    assert isinstance(await find_order(venue.exchange, "1", "EUR/USDT"), Found)
    lacking[0] = 1
    assert await find_order(venue.exchange, "mine", "EUR/USDT") is NOT_FOUND


class TwoKinds:
    """An exchange that lists its trigger orders apart, as OKX and Binance's futures; Bybit's wants a promise to be asked by id."""

    def __init__(self, *, plain: list[str], trigger: list[str], by_id: type[Exception] | None = None) -> None:
        self.id = "okx" if by_id is None else "bybit"
        self.ids = {False: plain, True: trigger}
        self.by_id = by_id
        self.has = {"fetchOpenOrders": True, "fetchClosedOrders": True, "fetchCanceledAndClosedOrders": True}
        self.asked: list[tuple[str, bool]] = []

    def feature_value(self, _symbol: str, ability: str, what: str) -> object:
        return ability != "fetchOrders" if what == "trigger" else None

    async def fetch_order(self, _id: str, _symbol: str, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(("by id", params.get("trigger", False)))
        key = params["clientOrderId"]
        if self.by_id is None and key in self.ids[params.get("trigger", False)]:
            return {"clientOrderId": key}
        raise (self.by_id or ccxt.OrderNotFound)(key)

    async def fetch_open_orders(self, *_: object) -> list[dict[str, Any]]:
        return []

    async def fetch_closed_orders(self, *_: object) -> list[dict[str, Any]]:
        return []  # the filled ones, and these were cancelled

    async def fetch_canceled_orders(self, *_: object) -> list[dict[str, Any]]:
        return []

    async def fetch_canceled_and_closed_orders(
        self, _symbol: str, _since: None, _limit: int, params: dict[str, Any]
    ) -> list[dict[str, Any]]:
        self.asked.append(("listed", params.get("trigger", False)))
        return [{"clientOrderId": one} for one in self.ids[params.get("trigger", False)]]


@pytest.mark.parametrize("by_id", [None, ccxt.ArgumentsRequired, ccxt.NotSupported, ccxt.BadRequest])
async def test_trigger_order_is_found_where_the_exchange_lists_it(by_id: type[Exception] | None) -> None:
    """Not found among the others, a second stop would be sent; with the lists alone, too, where it cannot be asked by id."""
    exchange: Any = TwoKinds(plain=["plain"], trigger=["stop"], by_id=by_id)
    for key in ("plain", "stop"):
        assert await find_order(exchange, key, "BTC/USDT") == Found({"clientOrderId": key})
    assert await find_order(exchange, "other", "BTC/USDT") is NOT_FOUND
    assert exchange.asked[-4:] == [("by id", False), ("listed", False), ("by id", True), ("listed", True)]


async def test_trigger_orders_are_not_asked_after_where_it_is_none() -> None:
    """It spares two questions, and a trigger list that is always full."""
    exchange: Any = TwoKinds(plain=[], trigger=["stop"])
    assert await find_order(exchange, "other", "BTC/USDT", trigger=False) is NOT_FOUND
    assert {kind for _, kind in exchange.asked} == {False}


@pytest.mark.parametrize("full", [False, True])
async def test_one_kind_of_which_nothing_is_known_proves_no_absence(*, full: bool) -> None:
    """A full list of the one, and nothing in the other; what is in the other is found all the same."""
    exchange: Any = TwoKinds(plain=[str(number) for number in range(20)], trigger=["stop"])
    if full:
        exchange.ids = {True: exchange.ids[False], False: ["stop"]}
    assert await find_order(exchange, "other", "BTC/USDT") is UNKNOWN
    assert isinstance(await find_order(exchange, "stop", "BTC/USDT"), Found)


async def test_exchange_that_cannot_be_asked_by_id_and_lists_filled_ones_only_proves_no_absence() -> None:
    """One that was cancelled, and filled in part before, is in none of its lists."""
    exchange: Any = TwoKinds(plain=[], trigger=[], by_id=ccxt.ArgumentsRequired)
    exchange.has["fetchCanceledAndClosedOrders"] = "emulated"
    assert await find_order(exchange, "other", "BTC/USDT") is UNKNOWN
    exchange.has["fetchCanceledOrders"] = True
    assert await find_order(exchange, "other", "BTC/USDT") is NOT_FOUND
    del exchange.has["fetchCanceledOrders"]
    exchange.id, exchange.by_id = "okx", None
    assert await find_order(exchange, "other", "BTC/USDT") is NOT_FOUND


class Lists:
    """An exchange that has lists; what it calls all orders is what it likes."""

    def __init__(self, exchange_id: str, by_id: type[Exception], **listed: list[str] | None) -> None:
        self.id = exchange_id
        self.by_id = by_id
        self.listed = listed
        self.has = {ability: ids is not None for ability, ids in listed.items()}
        self.asked: list[str] = []

    def feature_value(self, *_: object) -> None:
        return None

    async def fetch_order(self, *_: object) -> dict[str, Any]:
        raise self.by_id("by id")

    def __getattr__(self, name: str) -> Any:
        ability = re.sub(r"_(\w)", lambda letter: letter[1].upper(), name)

        async def fetch(*_: object) -> list[dict[str, Any]]:
            self.asked.append(ability)
            return [{"clientOrderId": one} for one in self.listed[ability] or ()]

        return fetch


ENDED: dict[str, list[str] | None] = {"fetchClosedOrders": [], "fetchCanceledOrders": []}


@pytest.mark.parametrize("by_id", [ccxt.OrderNotFound, ccxt.ExchangeError, ccxt.RequestTimeout])
@pytest.mark.parametrize("exchange_id", ["krakenfutures", "upbit", "revolutx", "kraken"])
async def test_exchange_that_does_not_know_client_ids_and_finds_nothing_says_nothing(
    exchange_id: str, by_id: type[Exception]
) -> None:
    """It was asked after an empty id of its own, and nobody knows what its lists leave out; what is in one of them is found."""
    lists: dict[str, list[str] | None] = {"fetchOpenOrders": [], "fetchOrders": [], **ENDED}
    for has in (lists, {**lists, "fetchOrders": None}, {**lists, "fetchCanceledAndClosedOrders": []}):
        exchange: Any = Lists(exchange_id, by_id, **has)
        assert await find_order(exchange, "mine", "BTC/USD", trigger=False) is UNKNOWN
    for ability in lists:
        exchange = Lists(exchange_id, by_id, **{**lists, ability: ["mine"]})
        assert await find_order(exchange, "mine", "BTC/USD", trigger=False) == Found(
            {"clientOrderId": "mine"}
        )


@pytest.mark.parametrize("exchange_id", ["paradex", "alpaca"])
async def test_open_orders_are_asked_for_beside_what_is_called_all(exchange_id: str) -> None:
    """At many venues that is a history: a resting order is in none of it."""
    exchange: Any = Lists(exchange_id, ccxt.OrderNotFound, fetchOrders=[], fetchOpenOrders=["mine"])
    assert isinstance(await find_order(exchange, "mine", "BTC/USD", trigger=False), Found)
    assert await find_order(exchange, "other", "BTC/USD", trigger=False) is NOT_FOUND
    exchange = Lists(exchange_id, ccxt.OrderNotFound, fetchOrders=[], fetchOpenOrders=None)
    assert await find_order(exchange, "other", "BTC/USD", trigger=False) is UNKNOWN


@pytest.mark.parametrize("exchange_id", ["mexc", "htx", "hashkey"])
@pytest.mark.parametrize("spot", [True, False])
async def test_exchange_that_is_asked_by_the_id_for_spot_orders_alone_proves_nothing_of_others(
    exchange_id: str, *, spot: bool
) -> None:
    """Of swaps it is asked after an empty id."""
    exchange: Any = Lists(exchange_id, ccxt.OrderNotFound, fetchOpenOrders=[], **ENDED)
    exchange.market = lambda _symbol: {"spot": spot}
    assert await find_order(exchange, "mine", "BTC/USDT", trigger=False) is (NOT_FOUND if spot else UNKNOWN)


@pytest.mark.parametrize("exchange_id", ["bitget", "htx", "weex"])
async def test_trigger_orders_that_are_not_all_listed_prove_nothing(exchange_id: str) -> None:
    """Some keep stop-losses apart from the triggers that ccxt asks for, or ccxt asks for plain ones in their place."""
    exchange: Any = TwoKinds(plain=[], trigger=[])
    exchange.id, exchange.has["fetchCanceledOrders"] = exchange_id, True
    exchange.market = lambda _symbol: {"spot": True}
    triggers = exchange.feature_value
    exchange.feature_value = lambda symbol, ability, what: (
        ability != "fetchOrder" and triggers(symbol, ability, what)
    )
    assert await find_order(exchange, "other", "BTC/USDT") is UNKNOWN
    assert await find_order(exchange, "other", "BTC/USDT", trigger=False) is NOT_FOUND


async def test_exchange_that_knows_client_ids_and_fails_to_answer_says_nothing() -> None:
    """Its lists may be of before the order was booked."""
    exchange: Any = Lists("okx", ccxt.RequestTimeout, fetchOrders=[], fetchOpenOrders=[])
    assert await find_order(exchange, "mine", "BTC/USDT", trigger=False) is UNKNOWN
    assert exchange.asked == []


async def test_exchanges_that_are_asked_by_a_client_id_ask_by_it() -> None:
    """In the source of the installed ccxt: a name more on the list would make "not found" a proof of nothing."""
    for name in shockproof.integrations.ccxt._KNOW_CLIENT_IDS:
        kind = getattr(ccxt, name)
        source = inspect.getsource(kind.fetch_order)
        for inner in re.findall(r"self\.(fetch_\w+)\(", source):
            source += inspect.getsource(getattr(kind, inner)) if inner != "fetch_order" else ""
        assert "'clientOrderId'" in re.sub(r'"""[\s\S]*?"""', "", source), name


def lists(exchange: Any, *ids: str | None) -> Any:
    """The same exchange, where no order is found by its id, and these are all."""

    async def not_by_id(*_: object) -> dict[str, Any]:
        raise ccxt.OrderNotFound("by id")

    async def listed(*_: object) -> list[dict[str, Any]]:
        return [{"clientOrderId": one} for one in ids]

    async def nothing(*_: object) -> list[dict[str, Any]]:
        return []

    exchange.has = {**exchange.has, "fetchOrders": True}
    exchange.fetch_order, exchange.fetch_orders, exchange.fetch_open_orders = not_by_id, listed, nothing
    return exchange


@pytest.mark.parametrize("listed", ["t-bot-1", "x-ab12_Bot-1", "BOT-1"])
async def test_an_id_that_may_have_been_made_of_the_key_proves_no_absence(venue: Venue, listed: str) -> None:
    """Brokers' ids before it, other letters: it may be the order, and sending again would double it."""
    lists(venue.exchange, "other", listed)
    assert await find_order(venue.exchange, "bot-1", "EUR/USDT") is UNKNOWN


async def test_an_id_that_went_through_a_number_proves_no_absence(venue: Venue) -> None:
    """Ccxt sends some exchanges an integer."""
    lists(venue.exchange, "7")
    assert await find_order(venue.exchange, "007", "EUR/USDT") is UNKNOWN
    assert await find_order(venue.exchange, "17", "EUR/USDT") is NOT_FOUND


async def test_an_id_that_only_ends_in_the_same_letters_is_another(venue: Venue) -> None:
    """Without a separator it is no prefix: counting from 1 to 11 stays possible."""
    lists(venue.exchange, "bot-11", "robot-1", "bot-1-a")
    assert await find_order(venue.exchange, "bot-1", "EUR/USDT") is NOT_FOUND


async def test_orders_that_are_listed_without_their_ids_prove_no_absence(venue: Venue) -> None:
    """An exchange that lists no ids cannot tell; one order without, placed by hand among others, says nothing."""
    lists(venue.exchange, None, None)
    assert await find_order(venue.exchange, "bot-1", "EUR/USDT") is UNKNOWN
    lists(venue.exchange, None, "other")
    assert await find_order(venue.exchange, "bot-1", "EUR/USDT") is NOT_FOUND


async def test_gates_own_prefix_is_known() -> None:
    """Ccxt sends ``t-bot-1``, and lists it so; an id that begins with a t is sent as it is."""
    exchange = lists(ccxt.gate(), "t-bot-1", "tick-1")
    exchange.feature_value = lambda *_: None  # it has not loaded its markets
    assert isinstance(await find_order(exchange, "bot-1", "BTC/USDT"), Found)
    assert isinstance(await find_order(exchange, "tick-1", "BTC/USDT"), Found)
    assert await find_order(exchange, "bot-2", "BTC/USDT") is NOT_FOUND


async def test_a_look_up_that_is_cancelled_ends(venue: Venue) -> None:
    """Cancellation is no failure of the look-up."""
    venue.befall(FaultKind.LATE, Endpoint.QUERY_ORDER)
    looking = asyncio.ensure_future(find_order(venue.protected, "mine", "EUR/USDT"))
    while not venue.weather.server.exchange.faults.log:  # noqa: ASYNC110 - the venue tells nobody
        await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking


@pytest.mark.parametrize(
    ("statuses", "meaning"),
    [
        (
            [{"resting": {"oid": 1}}, {"error": "Insufficient margin to place order. asset=4"}],
            Meaning.UNKNOWN,
        ),
        (
            [{"filled": {"totalSz": "1", "oid": 1}}, {"error": "Order must have minimum value of $10."}],
            Meaning.UNKNOWN,
        ),
        (["waitingForFill", {"error": "Order must have minimum value of $10."}], Meaning.UNKNOWN),
        ([{"error": "Insufficient margin to place order. asset=4"}], Meaning.REFUSED),
        (
            [{"error": "Order must have minimum value of $10."}, {"error": "Order has zero size."}],
            Meaning.REFUSED,
        ),
    ],
)
async def test_refusal_of_one_order_is_no_proof_about_those_beside_it(
    statuses: list[Any], meaning: Meaning
) -> None:
    """Hyperliquid answers for all at once, and ccxt's own code raises the first refusal."""
    exchange = ccxt.hyperliquid()
    answer = {"status": "ok", "response": {"type": "order", "data": {"statuses": statuses}}}
    with pytest.raises(ccxt.BaseError) as caught:
        exchange.handle_errors(200, "OK", "https://venue", "POST", {}, json.dumps(answer), answer, {}, None)
    await exchange.close()
    assert meaning_of(caught.value) is meaning

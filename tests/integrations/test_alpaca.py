"""alpaca-py's errors raised over real sockets, and the protected client against the venue."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("alpaca", reason="the alpaca extra is not installed")

import requests
from alpaca.broker.client import BrokerClient
from alpaca.common.exceptions import APIError
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderSide, TimeInForce
from alpaca.trading.requests import LimitOrderRequest, MarketOrderRequest
from requests.adapters import HTTPAdapter
from urllib3 import Retry

import shockproof.integrations.alpaca
from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    CallInfo,
    CircuitOpenError,
    ErrorRecoveryService,
    Found,
    Outcome,
    attempts_of,
)
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind
from shockproof.demo.venue.signature import DEMO_KEY, DEMO_SECRET
from shockproof.integrations.alpaca import classify, find_order, meaning_of
from shockproof.integrations.outcome_table import Meaning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shockproof.integrations.alpaca import ProtectedTradingClient
    from tests.integrations.conftest import Misbehaving, Weather

pytestmark = pytest.mark.asyncio

PATIENT = 60.0
CALL = CallInfo("alpaca.orders", "submit_order", 1, "unsafe")


def client_of(url: str) -> TradingClient:
    return TradingClient(DEMO_KEY, DEMO_SECRET, url_override=url)


def buy(key: str | None = None) -> MarketOrderRequest:
    return MarketOrderRequest(
        symbol="EURUSDT", qty=50, side=OrderSide.BUY, time_in_force=TimeInForce.GTC, client_order_id=key
    )


def rest(key: str | None = None) -> LimitOrderRequest:
    return LimitOrderRequest(
        symbol="EURUSDT",
        qty=10,
        limit_price=0.9,
        side=OrderSide.BUY,
        time_in_force=TimeInForce.GTC,
        client_order_id=key,
    )


# -- what its errors mean, raised over real sockets -----------------------------------------------------------


async def error_of(url: str, recovery: ErrorRecoveryService, **limits: float) -> Exception:
    venue = shockproof.integrations.alpaca.protect(
        client_of(url), recovery, orders={"max_retries": 0}, **limits
    )
    with pytest.raises(Exception) as caught:
        await venue.submit_order(buy())
    return caught.value


@pytest.mark.parametrize("where", ["nobody", "unreachable"])
async def test_a_connection_that_never_stood_sent_nothing(
    where: str, request: pytest.FixtureRequest, recovery: ErrorRecoveryService
) -> None:
    """The connect timeout, which alpaca-py does not have by itself, is a proof."""
    error = await error_of(request.getfixturevalue(where), recovery, connect_timeout=0.05)
    assert meaning_of(error) is Meaning.NOT_SENT


@pytest.mark.parametrize("manner", ["reset", "close", "silent", "half", "garbage"])
async def test_an_answer_that_did_not_come_leaves_it_open(
    manner: str, server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """The request had arrived; without the read timeout a silent broker would hold the thread for ever."""
    server.manner = manner
    read_timeout = 0.05 if manner == "silent" else PATIENT
    error = await error_of(server.url, recovery, connect_timeout=PATIENT, read_timeout=read_timeout)
    assert meaning_of(error) is Meaning.UNKNOWN
    assert await server.has_heard()
    assert len(server.requests) == 1


async def test_a_redirect_is_not_followed(
    server: Misbehaving, nobody: str, recovery: ErrorRecoveryService
) -> None:
    """Alpaca-py switches it off by itself: the order is sent once, and its outcome is unknown."""
    server.answers(303, b"", Location=f"{nobody}/orders/1")
    venue = shockproof.integrations.alpaca.protect(client_of(server.url), recovery)
    with pytest.raises(Exception) as caught:
        await venue.submit_order(buy())
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert meaning_of(caught.value) is not Meaning.NOT_SENT
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (403, {"code": 40310000, "message": "insufficient buying power"}, Meaning.REFUSED),
        (422, {"code": 42210000, "message": "qty must be > 0"}, Meaning.REFUSED),
        (422, {"code": 40010001, "message": "client_order_id must be unique"}, Meaning.DONE),
        (
            422,
            {"code": 42210000, "message": "an order with this client_order_id already exists"},
            Meaning.DONE,
        ),
        (422, {"code": 42210000, "message": "duplicate request"}, Meaning.UNKNOWN),
        (403, {"code": 40310000, "message": "opposite side market/stop order exists"}, Meaning.REFUSED),
        (403, {"code": 40310000, "message": "insufficient qty available for order"}, Meaning.REFUSED),
        (422, {"code": 42210000, "message": "limit price must be limited to 2 decimals"}, Meaning.REFUSED),
        (422, {"code": 42210000, "message": "request timed out"}, Meaning.UNKNOWN),
        (400, {"code": 40010000, "message": "internal server error occurred"}, Meaning.UNKNOWN),
        (408, {"code": 40810000, "message": "no"}, Meaning.UNKNOWN),
        (409, {"code": 40910000, "message": "no"}, Meaning.UNKNOWN),
        (422, {"code": 40010001, "message": "request parameter is malformed"}, Meaning.REFUSED),
        (401, {"code": 40110000, "message": "request is not authorized"}, Meaning.REFUSED),
        (404, {"code": 40410000, "message": "order not found"}, Meaning.REFUSED),
        (429, {"code": 42910000, "message": "rate limit exceeded"}, Meaning.TURNED_AWAY),
        (500, {"code": 50010000, "message": "internal server error"}, Meaning.UNKNOWN),
        (502, "<html>Bad Gateway</html>", Meaning.UNKNOWN),
        (504, "<html>Gateway Timeout</html>", Meaning.UNKNOWN),
        (403, "<html>WAF</html>", Meaning.REFUSED),
        (422, ["no", "object"], Meaning.REFUSED),
    ],
)
async def test_an_answer_means_what_it_proves(
    status: int, body: object, meaning: Meaning, server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """alpaca-py has one error for all of them, and it fails when asked for the code of a page of HTML."""
    server.answers(status, body.encode() if isinstance(body, str) else json.dumps(body).encode())
    error = await error_of(server.url, recovery)
    assert type(error) is APIError
    assert meaning_of(error) is meaning


async def test_an_answer_that_nobody_can_read_leaves_it_open(
    server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """200 and no order in it: requests or pydantic complains, and the order may be there."""
    for body in (b"<html>", b'{"id": "strange"}'):
        server.answers(200, body)
        error = await error_of(server.url, recovery)
        assert [attempt.outcome for attempt in attempts_of(error)] == [Outcome.UNKNOWN]


@pytest.mark.parametrize("header", ["Retry_After", "X_RateLimit_Reset"])
async def test_how_long_to_wait_is_taken_from_the_headers(
    header: str, server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """Alpaca says at which second its window begins anew."""
    seconds = 3600 if header == "Retry_After" else round(time.time()) + 3600
    server.answers(429, **{header: str(seconds)})
    verdict = classify(await error_of(server.url, recovery), CALL)
    assert verdict is not None
    assert verdict.retry_after is not None
    assert 3500 < verdict.retry_after <= 3601


# -- the protected client against the venue ---------------------------------------------------------------------


@pytest.fixture
def venue(recovery: ErrorRecoveryService, weather: Weather) -> Iterator[ProtectedTradingClient]:
    client = client_of(weather.server.base_url)
    yield shockproof.integrations.alpaca.protect(client, recovery, orders={"max_retries": 2})
    client._session.close()


async def test_a_protected_client_trades(
    venue: ProtectedTradingClient, weather: Weather, recovery: ErrorRecoveryService
) -> None:
    """Every method is awaited; what they return is alpaca-py's own."""
    assert isinstance(venue, TradingClient)
    order = await venue.submit_order(buy("one"))
    assert (order.client_order_id, order.status.value) == ("one", "filled")
    resting = await venue.submit_order(order_data=rest("two"))
    assert [one.client_order_id for one in await venue.get_orders()] == ["two"]
    await venue.cancel_order_by_id(resting.id)
    assert (await venue.get_order_by_id(resting.id)).status.value == "canceled"
    assert (await venue.get_clock()).is_open
    services = recovery.get_health_status()["services"]
    counts = {name: service["successes"] for name, service in services.items()}
    assert counts == {"alpaca.orders": 3, "alpaca.reads": 3}
    assert weather.orders == ["one", "two"]


async def test_the_event_loop_goes_on_while_the_broker_is_slow(
    venue: ProtectedTradingClient, weather: Weather
) -> None:
    """alpaca-py would hold it for as long as the answer takes."""
    weather.befall(FaultKind.LATENCY)
    placing = asyncio.ensure_future(venue.submit_order(buy()))
    turns = 0
    while not placing.done():
        turns += 1
        await asyncio.sleep(0)
    assert (await placing).status.value == "filled"
    assert turns > 10


async def test_alpacas_own_retry_would_have_sent_it_four_times(
    server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """Bare, one call makes four requests after a 504; protected one."""
    client = client_of(server.url)
    client._retry_wait = 0
    server.answers(504)
    with pytest.raises(APIError):
        await asyncio.to_thread(client.submit_order, buy("bare"))
    assert len(server.requests) == 4
    await asyncio.get_running_loop().shutdown_default_executor()
    venue = shockproof.integrations.alpaca.protect(client, recovery)
    with pytest.raises(APIError):
        await venue.submit_order(buy("guarded"))
    assert len(server.requests) == 5


async def test_retries_of_the_session_are_switched_off(
    server: Misbehaving, recovery: ErrorRecoveryService, caplog: pytest.LogCaptureFixture
) -> None:
    """urllib3 repeats below alpaca-py, if somebody told it to."""
    client = client_of(server.url)
    client._session.mount("http://", HTTPAdapter(max_retries=3))
    with caplog.at_level(logging.WARNING, "shockproof"):
        venue = shockproof.integrations.alpaca.protect(client, recovery, orders={"max_retries": 0})
    (record,) = caplog.records
    assert record.getMessage().startswith("alpaca: the retries of its session (Retry(total=3,")
    server.manner = "close"
    with pytest.raises(requests.ConnectionError):
        await venue.submit_order(buy())
    assert len(server.requests) == 1

    # What is mounted behind that is found when something is sent.
    client._session.mount("http://", HTTPAdapter(max_retries=Retry(total=None, read=2, allowed_methods=None)))
    with pytest.raises(requests.ConnectionError):
        await venue.submit_order(buy())
    assert len(server.requests) == 2


async def test_retries_that_cannot_be_switched_off_are_refused(
    server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """A later alpaca-py may keep them elsewhere: better no adapter than one that sends four orders."""
    client = client_of(server.url)
    del client._retry
    with pytest.raises(RuntimeError, match="cannot be switched off"):
        shockproof.integrations.alpaca.protect(client, recovery)


@pytest.mark.parametrize(
    "kind", [FaultKind.ERROR_BEFORE, FaultKind.CUT_BEFORE, FaultKind.ERROR_AFTER, FaultKind.CUT_AFTER]
)
async def test_an_order_whose_answer_was_lost_is_sent_once_and_can_be_found(
    venue: ProtectedTradingClient, weather: Weather, kind: FaultKind
) -> None:
    """It had no id; the adapter gave it one, and tells it."""
    weather.befall(kind)
    order = buy()
    with pytest.raises(Exception) as caught:
        await venue.submit_order(order)
    assert order.client_order_id is None
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert weather.hit() == [kind.may_book]
    key = next(note.rpartition(" ")[2] for note in caught.value.__notes__ if "client order id" in note)
    weather.calm()
    found = await find_order(venue, key)
    assert isinstance(found, Found) is kind.may_book
    if isinstance(found, Found):
        assert found.value.client_order_id == key


@pytest.mark.parametrize("named", [False, True])
async def test_order_for_an_account_gets_an_id_too(recovery: ErrorRecoveryService, *, named: bool) -> None:
    """A broker's client sends it by another name; one that has an id keeps it."""
    client = BrokerClient("key", "secret", url_override="http://127.0.0.1")
    sent: list[dict[str, Any]] = []

    def post(_path: str, data: dict[str, Any]) -> None:
        sent.append(data)
        raise requests.ConnectionError("cut")

    client.post = post
    broker: Any = shockproof.integrations.alpaca.protect(client, recovery, name="broker")
    account = "11111111-2222-3333-4444-555555555555"
    for key in (None, "mine"):
        order = MarketOrderRequest(
            symbol="EURUSDT", qty=1, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, client_order_id=key
        )
        args, kwargs = ((), {"account_id": account, "order_data": order}) if named else ((account, order), {})
        with pytest.raises(requests.ConnectionError) as caught:
            await broker.submit_order_for_account(*args, **kwargs)
        made = sent.pop()["client_order_id"]
        assert made == key or (key is None and made.startswith("sp-"))
        assert f"client order id: {made}" in caught.value.__notes__
    assert sent == []


async def test_a_second_order_of_the_same_id_is_told_that_the_first_is_there(
    venue: ProtectedTradingClient, weather: Weather
) -> None:
    """Alpaca knows the id of filled orders, too: no second order, and no refusal of the first."""
    await venue.submit_order(buy("same"))
    with pytest.raises(APIError) as caught:
        await venue.submit_order(buy("same"))
    assert meaning_of(caught.value) is Meaning.DONE
    assert weather.orders == ["same"]


async def test_a_cancel_passes_an_open_circuit(
    venue: ProtectedTradingClient, weather: Weather, recovery: ErrorRecoveryService
) -> None:
    """No new risk through an open circuit; what reduces risk gets through."""
    resting = await venue.submit_order(rest())
    weather.befall(FaultKind.CUT_BEFORE)
    for _ in range(5):
        with pytest.raises(requests.ConnectionError):
            await venue.submit_order(buy())
    weather.calm()
    with pytest.raises(CircuitOpenError):
        await venue.submit_order(buy())
    await venue.cancel_order_by_id(resting.id)
    assert (await venue.get_order_by_id(resting.id)).status.value == "canceled"


@pytest.mark.parametrize(
    ("method", "effect", "reduces_risk"),
    [
        ("get_account", "read", False),
        ("get", "read", False),
        ("cancel_orders", "idempotent", True),
        ("close_position", "unsafe", True),
        ("close_all_positions", "unsafe", True),
        ("set_account_configurations", "idempotent", False),
        ("replace_order_by_id", "unsafe", False),
        ("exercise_options_position", "unsafe", False),
        ("post", "unsafe", False),
    ],
)
async def test_each_method_declares_what_it_does(
    venue: Any, method: str, effect: str, *, reduces_risk: bool
) -> None:
    """By its name; one that says nothing of itself is guarded as a write."""
    assert hasattr(venue, method)
    protection = object.__getattribute__(venue, "_shockproof")
    plan = protection.handles[protection.does(method)].plan
    assert (plan.effect, plan.risk_reducing) == (effect, reduces_risk)


async def test_what_cannot_be_protected_is_refused(
    venue: ProtectedTradingClient, recovery: ErrorRecoveryService, server: Misbehaving
) -> None:
    """Each with what is wanted instead."""
    with pytest.raises(TypeError, match="protected already"):
        shockproof.integrations.alpaca.protect(venue, recovery)
    with pytest.raises(TypeError, match="must be one of alpaca-py's, such as a TradingClient, got 'key'"):
        shockproof.integrations.alpaca.protect("key", recovery)
    with pytest.raises(ValueError, match=r"read_timeout must be seconds .* more than 0, got 0"):
        shockproof.integrations.alpaca.protect(client_of(server.url), recovery, read_timeout=0)


# -- looking orders up ------------------------------------------------------------------------------------------


async def test_an_order_is_found_by_its_id_or_is_not_there(venue: ProtectedTradingClient) -> None:
    """Filled orders are found, too."""
    await venue.submit_order(buy("mine"))
    found = await find_order(venue, "mine")
    assert isinstance(found, Found)
    assert found.value.client_order_id == "mine"
    assert await find_order(venue, "other") is NOT_FOUND


async def test_a_look_up_that_failed_says_nothing(venue: ProtectedTradingClient, weather: Weather) -> None:
    """An error is no proof of absence."""
    weather.befall(FaultKind.ERROR_BEFORE, Endpoint.QUERY_ORDER)
    assert await find_order(venue, "mine") is UNKNOWN


async def test_a_404_that_speaks_of_no_order_proves_nothing(
    server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """A wrong address answers 404 as well."""
    server.answers(404, b"<html>no such page</html>")
    venue = shockproof.integrations.alpaca.protect(client_of(server.url), recovery)
    assert await find_order(venue, "mine") is UNKNOWN

"""python-binance's errors raised over real sockets, and the protected client against the venue."""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

pytest.importorskip("binance", reason="the binance extra is not installed")

from binance import AsyncClient
from binance.exceptions import BinanceAPIException

import shockproof.integrations.binance
from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    CallInfo,
    CircuitOpenError,
    ErrorRecoveryService,
    Found,
    HaltedError,
    Outcome,
    attempts_of,
)
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind
from shockproof.demo.venue.signature import DEMO_KEY, DEMO_SECRET
from shockproof.integrations.binance import KEY_PATTERN, classify, find_order, meaning_of
from shockproof.integrations.outcome_table import Meaning
from shockproof.integrations.protected_client import Does

if TYPE_CHECKING:
    from tests.integrations.conftest import Misbehaving, Weather

pytestmark = pytest.mark.asyncio

ORDER = {"symbol": "EURUSDT", "side": "BUY", "type": "MARKET", "quantity": 50}


@asynccontextmanager
async def connected(url: str, **requests_params: Any) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(DEMO_KEY, DEMO_SECRET, requests_params=requests_params)
    client.API_URL = f"{url}/api"
    try:
        yield client
    finally:
        await client.close_connection()


async def error_of(url: str, **requests_params: Any) -> Exception:
    async with connected(url, **requests_params) as client:
        with pytest.raises(Exception) as caught:
            await client.create_order(**ORDER)
    return caught.value


# -- what its errors mean, raised over real sockets ----------------------------------------------------------


async def test_a_connection_that_never_stood_sent_nothing(nobody: str) -> None:
    """Aiohttp's own error comes through, and is known."""
    assert meaning_of(await error_of(nobody)) is Meaning.NOT_SENT


@pytest.mark.parametrize("manner", ["reset", "close", "silent", "half", "garbage"])
async def test_an_answer_that_did_not_come_leaves_it_open(manner: str, server: Misbehaving) -> None:
    """The request had arrived."""
    server.manner = manner
    while True:  # its one timer may end before anything is sent, on a machine that stands still
        error = await error_of(server.url, timeout=0.05 if manner == "silent" else 60.0)
        assert meaning_of(error) is Meaning.UNKNOWN
        if await server.has_heard():
            break
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "words", "meaning"),
    [
        (400, -2010, "Account has insufficient balance for requested action.", Meaning.REFUSED),
        (400, -1013, "Filter failure: LOT_SIZE", Meaning.REFUSED),
        (401, -2015, "Invalid API-key, IP, or permissions for action.", Meaning.REFUSED),
        (400, -2010, "Duplicate order sent.", Meaning.DONE),
        (400, -4116, "ClientOrderId is duplicated.", Meaning.DONE),
        (400, -4115, "clientTranId is duplicated", Meaning.DONE),
        (400, -20132, "no", Meaning.DONE),
        (400, -2010, "The client order id is already in use.", Meaning.DONE),
        (400, -1000, "Duplicate request", Meaning.UNKNOWN),
        (400, -9999, "Duplicate request", Meaning.UNKNOWN),
        (400, -1021, "Timestamp for this request is outside of the recvWindow.", Meaning.TURNED_AWAY),
        (429, -1003, "Too many requests", Meaning.TURNED_AWAY),
        (429, -1015, "Too many new orders", Meaning.TURNED_AWAY),
        (400, -1000, "An unknown error occurred while processing the request.", Meaning.UNKNOWN),
        (400, -1001, "Internal error", Meaning.UNKNOWN),
        (503, -1006, "Execution status unknown.", Meaning.UNKNOWN),
        (400, -1007, "Timeout; execution status unknown.", Meaning.UNKNOWN),
        (500, -1008, "Server is currently overloaded", Meaning.UNKNOWN),
        (400, -3000, "Internal server error", Meaning.UNKNOWN),
        (400, -3044, "System busy.", Meaning.UNKNOWN),
        (400, -9999, "Timeout waiting for response from backend server.", Meaning.UNKNOWN),
        (400, -2013, "Order does not exist.", Meaning.REFUSED),  # to a question, or a change
        (400, -2011, "Unknown order sent.", Meaning.REFUSED),
        (400, -2019, "Margin is insufficient.", Meaning.REFUSED),
        (400, -2022, "ReduceOnly Order is rejected.", Meaning.REFUSED),
        (400, -4164, "Order's notional must be no smaller than 5.0", Meaning.REFUSED),
        (400, -1103, "An unknown parameter was sent.", Meaning.REFUSED),
        (403, None, "<html>WAF</html>", Meaning.REFUSED),
        (502, None, "<html>Bad Gateway</html>", Meaning.UNKNOWN),
        (200, None, "<html>hello</html>", Meaning.UNKNOWN),
    ],
)
async def test_an_answer_means_what_it_proves(
    status: int, code: int | None, words: str, meaning: Meaning, server: Misbehaving
) -> None:
    """The code says more than the status: a 400 may carry an unknown outcome."""
    body = words if code is None else json.dumps({"code": code, "msg": words})
    server.answers(status, body.encode())
    assert meaning_of(await error_of(server.url)) is meaning


async def test_a_redirect_to_where_nobody_is_proves_nothing_about_the_order_before_it(
    server: Misbehaving, nobody: str, recovery: ErrorRecoveryService
) -> None:
    """A bare client follows it; a protected one does not, and the order is sent once by both."""
    server.answers(303, b"", Location=f"{nobody}/orders/1")
    assert meaning_of(await error_of(server.url)) is Meaning.UNKNOWN
    async with connected(server.url, timeout=60.0) as client:
        venue = shockproof.integrations.binance.protect(client, recovery)
        with pytest.raises(BinanceAPIException) as caught:
            await venue.create_order(**ORDER)
    assert caught.value.status_code == 303
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert len(server.requests) == 2


async def test_change_of_an_order_is_sent_once(server: Misbehaving, recovery: ErrorRecoveryService) -> None:
    """It is a PUT, and aiohttp would send it again by itself."""
    server.manner = "close"
    async with connected(server.url) as client:
        client.FUTURES_URL = f"{server.url}/fapi"
        venue = shockproof.integrations.binance.protect(client, recovery)
        with pytest.raises(Exception) as caught:
            await venue.futures_modify_order(symbol="EURUSDT", orderId=1, side="BUY", quantity=1, price=1)
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert len(server.requests) == 1


async def test_how_long_to_wait_is_taken_from_the_header_or_the_words(server: Misbehaving) -> None:
    """A 429 has a header; a ban says in words until when."""
    call = CallInfo("venue", "create_order", 1, "unsafe")
    server.answers(429, b'{"code": -1003, "msg": "Too many requests"}', Retry_After="7")
    verdict = classify(await error_of(server.url), call)
    assert verdict is not None
    assert verdict.retry_after == 7
    until = round(time.time() + 3600) * 1000
    text = f"Way too much request weight used; IP banned until {until}. Please use WebSocket."
    server.answers(418, json.dumps({"code": -1003, "msg": text}).encode())
    verdict = classify(await error_of(server.url), call)
    assert verdict is not None
    assert verdict.retry_after is not None
    assert 3500 < verdict.retry_after <= 3601


# -- the protected client against the venue -------------------------------------------------------------------


@pytest_asyncio.fixture
async def venue(recovery: ErrorRecoveryService, weather: Weather) -> AsyncIterator[AsyncClient]:
    async with connected(weather.server.base_url) as client:
        yield shockproof.integrations.binance.protect(client, recovery, orders={"max_retries": 2})


async def test_a_protected_client_trades(
    venue: AsyncClient, weather: Weather, recovery: ErrorRecoveryService
) -> None:
    """Orders, cancels and reads go through, under two services."""
    assert isinstance(venue, AsyncClient)
    await venue.order_market_buy(symbol="EURUSDT", quantity=50, newClientOrderId="one")
    resting = await venue.order_limit_buy(symbol="EURUSDT", quantity=10, price="0.9", newClientOrderId="two")
    cancelled = await venue.cancel_order(symbol="EURUSDT", orderId=resting["orderId"])
    assert cancelled["status"] == "CANCELED"
    assert (await venue.get_account())["canTrade"]
    await venue.ping()
    services = recovery.get_health_status()["services"]
    counts = {name: service["successes"] for name, service in services.items()}
    assert counts == {"binance.orders": 3, "binance.reads": 2}
    assert weather.orders == ["one", "two"]


@pytest.mark.parametrize(
    "kind", [FaultKind.ERROR_BEFORE, FaultKind.CUT_BEFORE, FaultKind.ERROR_AFTER, FaultKind.CUT_AFTER]
)
async def test_an_order_whose_answer_was_lost_is_sent_once(
    venue: AsyncClient, weather: Weather, kind: FaultKind
) -> None:
    """It is never sent again; its outcome is unknown, and its id is known."""
    weather.befall(kind)
    with pytest.raises(Exception) as caught:
        await venue.create_order(**ORDER)
    assert [attempt.outcome for attempt in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert weather.hit() == [kind.may_book]
    key = next(note.rpartition(" ")[2] for note in caught.value.__notes__ if "client order id" in note)
    weather.calm()
    found = await find_order(venue, key, "EURUSDT")
    assert isinstance(found, Found) is kind.may_book


async def test_every_attempt_sends_the_same_client_order_id(
    recovery: ErrorRecoveryService, server: Misbehaving
) -> None:
    """python-binance makes a new id each time; made outside the retries, a late first one is recognised."""
    server.answers(429, Retry_After="0")
    async with connected(server.url) as client:
        venue = shockproof.integrations.binance.protect(client, recovery, orders={"max_retries": 2})
        with pytest.raises(Exception, match="APIError"):
            await venue.order_market_buy(symbol="EURUSDT", quantity=50)
    keys = {body.partition("newClientOrderId=")[2].partition("&")[0] for body in server.bodies}
    assert len(server.bodies) == 3
    assert len(keys) == 1
    assert keys.pop().startswith("sp-")


async def test_the_id_of_an_order_is_in_its_error_record(
    venue: AsyncClient, weather: Weather, recovery: ErrorRecoveryService
) -> None:
    """What is looked up in the morning is found by it."""
    weather.befall(FaultKind.CUT_AFTER)
    with pytest.raises(Exception):  # noqa: B017 - its own, or aiohttp's
        await venue.create_order(**ORDER, newClientOrderId="known")
    (record,) = recovery.get_error_summary()["recent_errors"]
    assert record["context"] == {"client_order_id": "known"}
    assert record["severity"] == "critical"


async def test_a_cancel_passes_an_open_circuit(
    venue: AsyncClient, weather: Weather, recovery: ErrorRecoveryService
) -> None:
    """No new risk through an open circuit; what reduces risk gets through."""
    resting = await venue.order_limit_buy(symbol="EURUSDT", quantity=10, price="0.9")
    weather.befall(FaultKind.CUT_BEFORE)
    for _ in range(5):
        with pytest.raises(Exception):  # noqa: B017 - its own, or aiohttp's
            await venue.create_order(**ORDER)
    weather.calm()
    with pytest.raises(CircuitOpenError):
        await venue.create_order(**ORDER)
    assert (await venue.cancel_order(symbol="EURUSDT", orderId=resting["orderId"]))["status"] == "CANCELED"


@pytest.mark.parametrize("says", [{"reduceOnly": True}, {"reduceOnly": "true"}, {"closePosition": "TRUE"}])
async def test_an_order_that_can_only_close_passes_a_halt(
    recovery: ErrorRecoveryService, server: Misbehaving, says: dict[str, Any]
) -> None:
    """It reduces risk, as a cancel does, and has a key, as every order; Binance takes "false" for false."""
    server.answers(200, b'{"orderId": 1}')
    await recovery.halt("enough")
    async with connected(server.url) as client:
        client.FUTURES_URL = f"{server.url}/fapi"
        venue = shockproof.integrations.binance.protect(client, recovery)
        for without in ({}, dict.fromkeys(says, "false"), dict.fromkeys(says, False)):
            with pytest.raises(HaltedError):
                await venue.futures_create_order(**ORDER, **without)
        await venue.futures_create_order(**ORDER, **says)
    (body,) = server.bodies
    assert "newClientOrderId=sp-" in body


async def test_every_attempt_of_a_conditional_order_sends_the_same_id(
    recovery: ErrorRecoveryService, server: Misbehaving
) -> None:
    """python-binance drops the newClientOrderId of these, and makes a new clientAlgoId each time."""
    server.answers(429, Retry_After="0")
    stop = {**ORDER, "type": "STOP_MARKET", "stopPrice": "0.9"}
    async with connected(server.url) as client:
        client.FUTURES_URL = f"{server.url}/fapi"
        venue = shockproof.integrations.binance.protect(
            client, recovery, orders={"max_retries": 2, "circuit_threshold": None}
        )
        for given in ({}, {"newClientOrderId": "mine"}, {"clientAlgoId": "mine"}):
            with pytest.raises(BinanceAPIException):
                await venue.futures_create_order(**stop, **given)
    keys = [body.partition("clientAlgoId=")[2].partition("&")[0] for body in server.bodies]
    assert len(keys) == 9
    assert keys[0].startswith("sp-")
    assert keys == [keys[0]] * 3 + ["mine"] * 6


@pytest.mark.parametrize(
    ("method", "effect", "reduces_risk"),
    [
        ("get_order", "read", False),
        ("futures_get_order", "read", False),
        ("futures_klines", "read", False),
        ("futures_position_information", "read", False),
        ("cancel_order", "idempotent", True),
        ("futures_cancel_all_open_orders", "idempotent", True),
        ("cancel_replace_order", "unsafe", False),
        ("futures_change_leverage", "idempotent", False),
        ("stream_keepalive", "idempotent", False),
        ("futures_create_order", "unsafe", False),
        ("order_oco_sell", "unsafe", False),
        ("margin_v1_post_algo_spot_new_order_twap", "unsafe", False),
        ("universal_transfer", "unsafe", False),
        ("withdraw", "unsafe", False),
        ("papi_get_margin_repay_debt", "unsafe", False),
        ("new_transfer_history", "unsafe", False),
    ],
)
async def test_each_method_declares_what_it_does(
    venue: AsyncClient, method: str, effect: str, *, reduces_risk: bool
) -> None:
    """By its name; one that says nothing of itself is guarded as a write."""
    assert hasattr(venue, method)
    protection = object.__getattribute__(venue, "_shockproof")
    plan = protection.handles[protection.does(method)].plan
    assert (plan.effect, plan.risk_reducing) == (effect, reduces_risk)


async def test_no_method_that_posts_counts_as_a_read_but_those_that_were_looked_at(
    venue: AsyncClient,
) -> None:
    """One with an odd name would be sent again after a lost answer, and move money twice."""
    does = object.__getattribute__(venue, "_shockproof").does
    posts = re.compile(r"""["'](post|put|delete)["']|_(post|put|delete)\(""")
    reads_that_post = {
        name
        for name, method in inspect.getmembers(AsyncClient, inspect.iscoroutinefunction)
        if not name.startswith("_") and does(name) is Does.READ and posts.search(inspect.getsource(method))
    }
    # Queries by POST, and keys of feeds, which are the same one each time.
    assert {name for name in reads_that_post if not name.endswith("stream_get_listen_key")} == {
        "get_dust_assets",
        "get_user_asset",
    }


async def test_what_cannot_be_protected_is_refused(
    venue: AsyncClient, recovery: ErrorRecoveryService
) -> None:
    """Twice would be retries inside retries."""
    with pytest.raises(TypeError, match="protected already"):
        shockproof.integrations.binance.protect(venue, recovery)
    with pytest.raises(TypeError, match=r"must be a binance.AsyncClient, got 'key'"):
        shockproof.integrations.binance.protect("key", recovery)


# -- looking orders up ----------------------------------------------------------------------------------------


async def test_an_order_is_found_by_its_id_or_proven_not_to_be_listed(venue: AsyncClient) -> None:
    """Filled orders are found, too."""
    await venue.create_order(**ORDER, newClientOrderId="mine")
    found = await find_order(venue, "mine", "EURUSDT")
    assert isinstance(found, Found)
    assert (found.value["clientOrderId"], found.value["status"]) == ("mine", "FILLED")
    assert await find_order(venue, "other", "EURUSDT") is NOT_FOUND


@pytest.mark.parametrize("endpoint", [Endpoint.QUERY_ORDER, Endpoint.LIST_ORDERS])
async def test_a_look_up_that_failed_says_nothing(
    venue: AsyncClient, weather: Weather, endpoint: Endpoint
) -> None:
    """Whichever of its two questions failed."""
    weather.befall(FaultKind.ERROR_BEFORE, endpoint)
    assert await find_order(venue, "mine", "EURUSDT") is UNKNOWN


@pytest.mark.parametrize(
    ("market", "asks"),
    [
        ("spot", ["/api/v3/order", "/api/v3/allOrders"]),
        ("margin", ["/sapi/v1/margin/order", "/sapi/v1/margin/allOrders"]),
        ("isolated_margin", ["/sapi/v1/margin/order", "/sapi/v1/margin/allOrders"]),
        (
            "futures",
            ["/fapi/v1/order", "/fapi/v1/allOrders", "/fapi/v1/algoOrder", "/fapi/v1/allAlgoOrders"],
        ),
        ("coin_futures", ["/dapi/v1/order", "/dapi/v1/allOrders"]),
    ],
)
async def test_an_order_is_looked_up_in_its_own_market(
    market: Any, asks: list[str], server: Misbehaving
) -> None:
    """And absence is proven there alone, by every list that it may be in."""
    absent = b'{"code": -2013, "msg": "Order does not exist."}'
    async with connected(server.url) as client:
        client.FUTURES_URL, client.FUTURES_COIN_URL = f"{server.url}/fapi", f"{server.url}/dapi"
        client.MARGIN_API_URL = f"{server.url}/sapi"
        server.by_path_ends = {"rder": (400, absent), "rders": (200, b"[]")}
        assert await find_order(client, "mine", "EURUSDT", market=market) is NOT_FOUND
        assert [line.split()[1].partition("?")[0] for line in server.requests] == asks
        assert all(("isIsolated=TRUE" in line) is (market == "isolated_margin") for line in server.requests)
        server.by_path_ends["rders"] = (200, b'[{"clientOrderId": "mine"}]')
        assert isinstance(await find_order(client, "mine", "EURUSDT", market=market), Found)
        server.by_path_ends["rders"] = (500, b"{}")
        assert await find_order(client, "mine", "EURUSDT", market=market) is UNKNOWN


@pytest.mark.parametrize(
    ("orders", "seconds", "answer"),
    [(1000, 599, UNKNOWN), (1000, 600, NOT_FOUND), (999, 1, NOT_FOUND), (1000, None, UNKNOWN)],
)
async def test_a_list_that_is_full_and_young_proves_nothing(
    server: Misbehaving, orders: int, seconds: int | None, answer: object
) -> None:
    """Behind it may stand what the venue does not find by its id yet; on a busy account every list is full."""
    absent = b'{"code": -2013, "msg": "Order does not exist."}'
    times = [None if seconds is None else 1000 * seconds * (number == 0) for number in range(orders)]
    listed = [{"clientOrderId": f"other-{number}", "time": time} for number, time in enumerate(times)]
    async with connected(server.url) as client:
        server.by_path_ends = {"rder": (400, absent), "rders": (200, json.dumps(listed).encode())}
        assert await find_order(client, "mine", "EURUSDT") is answer
    assert "limit=1000" in server.requests[-1]


async def test_a_conditional_order_is_found_by_its_own_id(server: Misbehaving) -> None:
    """Its list is another one, and its id has another name."""
    absent = b'{"code": -2013, "msg": "Order does not exist."}'
    async with connected(server.url) as client:
        client.FUTURES_URL = f"{server.url}/fapi"
        server.by_path_ends = {
            "rder": (400, absent),
            "allOrders": (200, b"[]"),
            "allAlgoOrders": (200, b'[{"clientAlgoId": "mine"}]'),
        }
        found = await find_order(client, "mine", "EURUSDT", market="futures")
    assert isinstance(found, Found)
    assert found.value == {"clientAlgoId": "mine"}


async def test_a_market_that_is_none_is_refused(venue: AsyncClient) -> None:
    """A look-up in the wrong market would prove nothing."""
    market: Any = "swap"
    with pytest.raises(ValueError, match=r"market must be one of spot, margin, .* got 'swap'"):
        await find_order(venue, "mine", "EURUSDT", market=market)


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["x" * 37, "a b", "ä"])
async def test_a_key_that_the_venue_would_not_take_is_refused_before_anything_is_sent(
    recovery: ErrorRecoveryService, key: str
) -> None:
    """The one that is made by itself is taken."""

    async def find(key: str) -> Any:
        raise AssertionError(key)

    orders = recovery.service("binance.orders")
    with pytest.raises(ValueError, match="key_pattern"):
        orders.once(key, confirm=find, key_pattern=KEY_PATTERN)
    orders.once(confirm=find, key_pattern=KEY_PATTERN)

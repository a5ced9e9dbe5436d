"""No secret of a request gets into the error log by way of a client's own, real errors."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

for name in ("aiohttp", "ccxt", "httpx", "requests"):
    pytest.importorskip(name, reason=f"{name} is not installed")

import aiohttp  # noqa: E402  after the importorskip
import httpx  # noqa: E402  after the importorskip
import requests  # noqa: E402  after the importorskip

from shockproof import ErrorRecoveryService  # noqa: E402  after the importorskip
from shockproof.demo.venue.client import connect_ccxt  # noqa: E402  after the importorskip
from shockproof.demo.venue.signature import DEMO_KEY, DEMO_SECRET  # noqa: E402  as above
from shockproof.integrations.logging import ErrorLogHandler  # noqa: E402  as above

if TYPE_CHECKING:
    from tests.integrations.conftest import Misbehaving, Weather

pytestmark = pytest.mark.asyncio

SECRETS = {
    "signature": "5f3a9c0e11d24b7788aa99bb66cc55dd",
    "apiKey": "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zv",
    "token": "tok/en+with=odd&characters",
    "password": "hunter2-hunter2",
    "bearer": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib3QifQ.c2lnbmF0dXJl",
    "cookie": "sid-81d0f1f6a5",
}
QUERY = (
    f"?symbol=AAPL&signature={SECRETS['signature']}&apiKey={SECRETS['apiKey']}"
    f"&token={quote(SECRETS['token'], safe='')}"
)
HEADERS = {
    "Authorization": f"Bearer {SECRETS['bearer']}",
    "X-MBX-APIKEY": SECRETS["apiKey"],
    "Cookie": f"session={SECRETS['cookie']}",
}
PATIENT = 30.0
IMPATIENT = 0.05

Get = Callable[..., Awaitable[object]]


async def get_by_aiohttp(url: str, timeout: float, headers: dict[str, str], proxy: str | None) -> object:
    limits = aiohttp.ClientTimeout(sock_connect=timeout, sock_read=timeout)
    async with (
        aiohttp.ClientSession(timeout=limits) as session,
        session.get(url, headers=headers, proxy=proxy) as answer,
    ):
        answer.raise_for_status()
        return await answer.json()


async def get_by_httpx(url: str, timeout: float, headers: dict[str, str], proxy: str | None) -> object:
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=True, proxy=proxy) as client:
        answer = await client.get(url, headers=headers)
        answer.raise_for_status()
        return answer.json()


async def get_by_requests(url: str, timeout: float, headers: dict[str, str], proxy: str | None) -> object:
    def get() -> object:
        proxies = {"http": proxy, "https": proxy} if proxy else None
        answer = requests.get(url, timeout=timeout, headers=headers, proxies=proxies)
        answer.raise_for_status()
        return answer.json()

    return await asyncio.to_thread(get)


CLIENTS: dict[str, Get] = {
    "aiohttp": get_by_aiohttp,
    "httpx": get_by_httpx,
    "requests": get_by_requests,
}
KEY = SECRETS["apiKey"]
ECHO = f'{{"code": -1022, "msg": "bad", "apiKey": "{KEY}", "headers": "X-MBX-APIKEY: {KEY}"}}'.encode()


def behave(server: Misbehaving, failure: str) -> None:
    match failure:
        case "401" | "500":
            server.answers(int(failure), ECHO, Set_Cookie=f"sid={SECRETS['cookie']}")
        case "no json":
            server.answers(200, b"<html>" + ECHO)
        case "redirects":
            server.answers(302, b"", Location=f"{server.url}/again{QUERY}")
        case "to a bad address":
            server.answers(302, b"", Location=f"http://user:{SECRETS['password']}@{QUERY}")
        case "reset" | "close" | "half" | "garbage" | "silent":
            server.manner = failure


FAILURES = (
    "401",
    "500",
    "no json",
    "redirects",
    "to a bad address",
    "reset",
    "close",
    "half",
    "garbage",
    "silent",
    "nobody listens",
    "no such host",
    "untrusted certificate",
    "no such protocol",
    "bad port",
    "proxy refuses",
    "bad header",
)


@pytest.fixture
def logger(recovery: ErrorRecoveryService) -> logging.Logger:
    logger = logging.Logger("desk")  # noqa: LOG001  in no tree on purpose
    logger.addHandler(ErrorLogHandler(recovery))
    return logger


@pytest.fixture
def url_of(server: Misbehaving, nobody: str, untrusted: str) -> Callable[[str], str]:
    def url_of(failure: str) -> str:
        base = {
            "nobody listens": nobody,
            "no such host": "http://nobody.invalid",
            "untrusted certificate": untrusted,
            "no such protocol": "ftq://nobody.invalid",
            "bad port": "http://nobody.invalid:port",
        }.get(failure, server.url)
        protocol, _, host = base.partition("://")
        return f"{protocol}://bot:{SECRETS['password']}@{host}/v3/account{QUERY}"

    return url_of


async def all_that_is_said(recovery: ErrorRecoveryService) -> str:
    """Every byte of the log's files, and what the summary in memory shows."""
    shown = str(recovery.get_error_summary())
    await recovery.aclose()
    return shown + "".join(path.read_text() for path in recovery.error_log_dir.iterdir())


def leaked(text: str) -> Iterator[str]:
    for kind, secret in SECRETS.items():
        for form in {secret, quote(secret, safe=""), quote(secret)}:
            if form in text:
                yield f"{kind}: ...{text[max(0, text.find(form) - 60) : text.find(form) + len(form)]}"


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("client", CLIENTS)
async def test_no_secret_of_a_request_is_in_the_log_of_its_error(
    client: str,
    failure: str,
    server: Misbehaving,
    url_of: Callable[[str], str],
    recovery: ErrorRecoveryService,
    logger: logging.Logger,
) -> None:
    """Not from the URL, its user, the headers or the answer; not from the message, the causes or the repr."""
    behave(server, failure)
    headers = HEADERS | ({"X-Secret": SECRETS["bearer"] + "\nbroken"} if failure == "bad header" else {})
    proxy = None
    if failure == "proxy refuses":
        server.answers(407, ECHO)
        proxy = f"http://bot:{SECRETS['password']}@{server.url.removeprefix('http://')}"
    seen: list[Exception] = []

    async def ask(url: str, timeout: float) -> object:
        try:
            return await CLIENTS[client](url, timeout, headers, proxy)
        except Exception as error:
            seen.append(error)
            raise

    with recovery.context(url=url_of(failure), headers=headers), pytest.raises(Exception) as caught:
        await recovery.retry_with_backoff(
            ask,
            url_of(failure),
            IMPATIENT if failure == "silent" else PATIENT,
            service_name="venue",
            max_retries=0,
        )
    logger.error(
        "failed: %s",
        caught.value,
        exc_info=caught.value,
        extra={"error": caught.value, "args_of": caught.value.args},
    )

    said = await all_that_is_said(recovery)

    assert type(seen[0]).__name__ in said
    assert list(leaked(said)) == []


SIGNED = re.compile(r"signature=([0-9a-f]{16,})")


async def through_ccxt(
    recovery: ErrorRecoveryService, logger: logging.Logger, base_url: str, *, timeout: float = PATIENT
) -> str:
    """A signed GET and a signed POST, each with its error, and all that the log says of them."""
    exchange = connect_ccxt(base_url, timeout=timeout)
    calls = {
        "account": exchange.privateGetAccount,
        "order": lambda: exchange.privatePostOrder(
            {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"}
        ),
    }
    try:
        for name, call in calls.items():
            with pytest.raises(Exception) as caught:
                await recovery.retry_with_backoff(call, service_name=name, max_retries=0)
            logger.error(
                "failed",
                exc_info=caught.value,
                extra={"error": caught.value, "request": exchange.last_request_headers},
            )
    finally:
        await exchange.close()
    return await all_that_is_said(recovery)


@pytest.mark.parametrize(
    "failure",
    ["401", "500", "reset", "close", "half", "garbage", "silent", "nobody listens"],
)
async def test_no_signature_and_no_key_of_ccxt_is_in_the_log(
    failure: str, server: Misbehaving, nobody: str, recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """The library puts the whole signed URL into its messages, and the venue's answer, which may echo the key."""
    behave(server, failure)
    url = nobody if failure == "nobody listens" else server.url

    said = await through_ccxt(recovery, logger, url, timeout=IMPATIENT if failure == "silent" else PATIENT)

    sent = SIGNED.findall(" ".join(server.requests + server.bodies))
    if failure not in {"nobody listens", "silent"}:  # a silent one may be too slow to connect to
        assert len(sent) >= 2  # aiohttp repeats a GET of its own accord
    assert [signature for signature in sent if signature in said] == []
    assert SIGNED.search(said) is None
    assert DEMO_KEY not in said
    assert DEMO_SECRET not in said
    assert list(leaked(said)) == []


async def test_what_the_embedded_venue_refuses_shows_no_signature_either(
    weather: Weather, recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """The same with a venue that knows the key, and refuses for reasons of its own."""
    said = await through_ccxt(recovery, logger, weather.server.base_url + "/nowhere")

    assert "signature=***" in said
    assert SIGNED.search(said) is None
    assert DEMO_KEY not in said


async def test_a_secret_without_a_name_is_hidden_once_it_is_registered(
    server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """A token that is a part of the path, as Telegram's, has no name to know it by."""
    recovery.register_secret("8437291:AAHk-x1y2z3")
    server.answers(404, b"{}")

    async def ask() -> object:
        return await get_by_aiohttp(f"{server.url}/bot8437291:AAHk-x1y2z3/sendMessage", PATIENT, {}, None)

    with pytest.raises(aiohttp.ClientResponseError):
        await recovery.retry_with_backoff(ask, service_name="chat", max_retries=0)

    said = await all_that_is_said(recovery)
    assert "AAHk" not in said
    assert "/bot***/sendMessage" in said

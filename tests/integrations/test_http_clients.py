"""What the real errors of HTTP clients, raised over real sockets, mean for the request."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

for name in ("aiohttp", "httpx", "httpx2", "requests"):
    pytest.importorskip(name, reason=f"{name} is not installed")

import aiohttp  # noqa: E402  after the importorskip
import httpx  # noqa: E402  after the importorskip
import httpx2  # noqa: E402  after the importorskip
import requests  # noqa: E402  after the importorskip
import urllib3.exceptions as urllib3  # noqa: E402  it comes with requests
from requests.adapters import HTTPAdapter  # noqa: E402  as above
from urllib3 import Retry  # noqa: E402  it comes with requests

import shockproof.integrations.aiohttp  # noqa: E402  after the importorskip
import shockproof.integrations.httpx  # noqa: E402  after the importorskip
import shockproof.integrations.httpx2  # noqa: E402  after the importorskip
import shockproof.integrations.requests  # noqa: E402  after the importorskip
from shockproof import (  # noqa: E402  after the importorskip
    NOT_FOUND,
    ErrorRecoveryService,
    Found,
    LookUp,
    OperationCompletedError,
    Outcome,
    attempts_of,
)
from shockproof.demo.venue.signature import DEMO_KEY, DEMO_SECRET  # noqa: E402  after the importorskip
from shockproof.integrations.outcome_table import Meaning, OutcomeTable  # noqa: E402  after the importorskip
from tests.integrations.conftest import HOST, Misbehaving, Weather  # noqa: E402  as above

pytestmark = pytest.mark.asyncio

PATIENT = 30.0
IMPATIENT = 0.05

Post = Callable[..., Awaitable[object]]


async def post_by_aiohttp(
    url: str,
    *,
    connect: float = PATIENT,
    read: float = PATIENT,
    proxy: str | None = None,
    verify: bool = True,
    follow: bool = True,
) -> object:
    limits = aiohttp.ClientTimeout(sock_connect=connect, sock_read=read)
    async with (
        aiohttp.ClientSession(timeout=limits) as session,
        session.post(url, data=b"an order", proxy=proxy, ssl=verify, allow_redirects=follow) as answer,
    ):
        answer.raise_for_status()
        return await answer.json()


def post_by(module: ModuleType) -> Post:
    async def post(
        url: str,
        *,
        connect: float = PATIENT,
        read: float = PATIENT,
        proxy: str | None = None,
        verify: bool = True,
        follow: bool = True,
    ) -> object:
        limits = module.Timeout(PATIENT, connect=connect, read=read)
        async with module.AsyncClient(
            timeout=limits, proxy=proxy, verify=verify, follow_redirects=follow
        ) as client:
            answer = await client.post(url, content=b"an order")
            answer.raise_for_status()
            return answer.json()

    return post


def post_by_requests(
    url: str,
    *,
    connect: float = PATIENT,
    read: float = PATIENT,
    proxy: str | None = None,
    verify: bool = True,
    follow: bool = True,
) -> object:
    proxies = {"http": proxy, "https": proxy} if proxy else None
    limits = (connect, read)
    answer = requests.post(
        url, data=b"an order", timeout=limits, proxies=proxies, verify=verify, allow_redirects=follow
    )
    answer.raise_for_status()
    return answer.json()


CLIENTS: dict[str, tuple[Any, OutcomeTable]] = {
    "aiohttp": (post_by_aiohttp, shockproof.integrations.aiohttp.TABLE),
    "httpx": (post_by(httpx), shockproof.integrations.httpx.TABLE),
    "httpx2": (post_by(httpx2), shockproof.integrations.httpx2.TABLE),
    "requests": (post_by_requests, shockproof.integrations.requests.TABLE),
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return request.param


class Tried:
    """What one call through an unsafe handle ended with."""

    def __init__(self, error: Exception, table: OutcomeTable) -> None:
        self.error = error
        found = table.rule_for(error)
        assert found is not None, f"no rule for {error!r}"
        self.rule, self.meaning = found[0].name, found[1]
        self.outcomes = [attempt.outcome for attempt in attempts_of(error)]


@pytest.fixture
def attempt(recovery: ErrorRecoveryService, client: str) -> Callable[..., Awaitable[Tried]]:
    """Post once through an unsafe handle; a second attempt is made only where it is allowed."""
    post, table = CLIENTS[client]
    venue = recovery.service(
        "venue",
        effect="unsafe",
        classify=table.classify,
        max_retries=1,
        base_delay=0.0,
        circuit_threshold=None,
    )

    async def attempt(url: str, **options: Any) -> Tried:
        with pytest.raises(Exception) as caught:
            await venue.call(functools.partial(post, url, **options))
        return Tried(caught.value, table)

    return attempt


Attempt = Callable[..., Awaitable[Tried]]
TWICE = [Outcome.FAILURE, Outcome.FAILURE]


@pytest.mark.parametrize("where", ["nobody", "unreachable", "http://nobody.invalid"])
async def test_a_connection_that_never_stood_sent_nothing(
    where: str, attempt: Attempt, server: Misbehaving, request: pytest.FixtureRequest
) -> None:
    """Refused, too slow to connect, no such host: sent again, even when unsafe."""
    url = where if where.startswith("http") else request.getfixturevalue(where)
    tried = await attempt(url, connect=IMPATIENT if where == "unreachable" else PATIENT)
    assert tried.meaning is Meaning.NOT_SENT
    assert tried.outcomes == TWICE
    assert server.requests == []


async def test_a_certificate_that_is_not_trusted_ends_it_before_anything_is_sent(
    attempt: Attempt, server: Misbehaving, untrusted: str
) -> None:
    """The request comes after the handshake."""
    tried = await attempt(untrusted)
    assert tried.meaning is Meaning.NOT_SENT
    assert server.requests == []


async def test_a_proxy_that_is_not_there_sent_nothing(
    attempt: Attempt, server: Misbehaving, nobody: str
) -> None:
    """The way to the venue ends at the first step."""
    tried = await attempt(server.url, proxy=nobody)
    assert tried.meaning is Meaning.NOT_SENT
    assert server.requests == []


async def test_a_tunnel_that_the_proxy_refuses_is_no_order(attempt: Attempt, server: Misbehaving) -> None:
    """The proxy answered, and the venue never heard of it."""
    server.answers(502)
    tried = await attempt("https://venue.invalid/orders", proxy=server.url)
    assert tried.meaning is Meaning.NOT_SENT
    assert all(line.startswith("CONNECT venue.invalid:443") for line in server.requests)


@pytest.mark.parametrize("manner", ["reset", "close"])
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_order_that_was_cut_behind_a_proxy_is_unknown(
    scheme: str, manner: str, attempt: Attempt, server: Misbehaving, certificate: Path
) -> None:
    """Forwarded or through a tunnel: it had arrived, though urllib3 calls it a proxy that is not there."""
    server.tunnels = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tunnels.load_cert_chain(certificate)
    server.manner = manner
    tried = await attempt(f"{scheme}://venue.invalid/orders", proxy=server.url, verify=False)
    assert tried.meaning is Meaning.UNKNOWN
    assert tried.outcomes == [Outcome.UNKNOWN]
    assert server.bodies.count("an order") == 1


async def test_a_proxy_error_that_nobody_understands_is_unknown() -> None:
    """What urllib3 wraps, and how, may change: only what is known proves something."""
    pool: Any = None
    reasons: list[Exception | None] = [
        None,
        urllib3.ProxyError("no", OSError("Tunnel of another kind")),
        urllib3.ProxyError("no", ConnectionResetError("Tunnel connection failed: 502")),
    ]
    errors = [requests.exceptions.ProxyError(urllib3.MaxRetryError(pool, "/", reason)) for reason in reasons]
    for error in [requests.exceptions.ProxyError(), requests.exceptions.ProxyError("x"), *errors]:
        assert shockproof.integrations.requests.meaning_of(error) is Meaning.UNKNOWN


@pytest.mark.parametrize(
    ("status", "where"),
    [(303, "nobody"), (307, "nobody"), (303, "http://nobody.invalid"), (303, "unreachable")],
)
async def test_a_redirect_to_where_nobody_is_proves_nothing_about_the_order_before_it(
    status: int, where: str, attempt: Attempt, server: Misbehaving, request: pytest.FixtureRequest
) -> None:
    """The order was booked; only what came after it was not sent."""
    url = where if where.startswith("http") else request.getfixturevalue(where)
    server.answers(status, b"", Location=f"{url}/orders/1")
    tried = await attempt(server.url, connect=1.0 if where == "unreachable" else PATIENT)
    assert tried.meaning is Meaning.UNKNOWN
    assert tried.outcomes == [Outcome.UNKNOWN]
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
async def test_order_that_aiohttp_has_sent_twice_is_unknown_though_the_second_connection_was_refused(
    method: str,
) -> None:
    """The first was booked, the venue restarts, and aiohttp's own second sending finds nobody."""
    arrived: list[bytes] = []

    async def book_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(await reader.readuntil(b"\r\n\r\n"))
        listening.close()
        writer.transport.abort()

    listening = await asyncio.start_server(book_and_go, HOST, 0)
    url = f"http://{HOST}:{listening.sockets[0].getsockname()[1]}/orders/1"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.request(method, url)
    assert shockproof.integrations.aiohttp.meaning_of(caught.value) is Meaning.UNKNOWN
    assert len(arrived) == 1


async def test_put_that_never_found_anybody_was_not_sent(nobody: str) -> None:
    """Only a second sending takes the proof away."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.put(nobody)
    assert shockproof.integrations.aiohttp.meaning_of(caught.value) is Meaning.NOT_SENT


async def test_session_of_aiohttp_whose_retries_are_off_sends_once(server: Misbehaving) -> None:
    """A PUT by itself goes out twice; and once it is off, a connection that is refused is a proof again."""
    server.manner = "close"
    async with aiohttp.ClientSession() as session:
        for sent in (2, 3):
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await session.put(server.url)
            assert len(server.requests) == sent
            shockproof.integrations.aiohttp.switch_off_retries(session)
    with pytest.raises(TypeError, match=r"session must be an aiohttp.ClientSession, got 'x'"):
        shockproof.integrations.aiohttp.switch_off_retries("x")


async def test_session_of_aiohttp_without_the_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version may keep it elsewhere: silence would be a second order."""
    monkeypatch.setattr(shockproof.integrations.aiohttp, "_SWITCH", "_gone")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(RuntimeError, match="keeps its retries elsewhere"):
            shockproof.integrations.aiohttp.switch_off_retries(session)


@pytest.mark.parametrize("status", [404, 429])
async def test_a_no_after_a_redirect_is_no_answer_to_the_order_before_it(
    status: int, attempt: Attempt, server: Misbehaving
) -> None:
    """It was about another request."""
    server.redirects_first(status)
    tried = await attempt(server.url)
    assert tried.meaning is Meaning.UNKNOWN
    assert tried.outcomes == [Outcome.UNKNOWN]
    assert [line.split()[0] for line in server.requests] == ["POST", "GET"]


async def test_a_no_after_the_redirect_of_a_read_is_a_no(server: Misbehaving) -> None:
    """Nothing came before it that could have been booked."""
    server.redirects_first(404)
    answer = await asyncio.to_thread(requests.get, server.url, timeout=PATIENT)
    assert shockproof.integrations.requests.meaning_of(answer) is Meaning.REFUSED
    for preset, module in ((shockproof.integrations.httpx, httpx), (shockproof.integrations.httpx2, httpx2)):
        server.redirects_first(404)
        async with module.AsyncClient(follow_redirects=True) as client:
            assert preset.meaning_of(await client.get(server.url)) is Meaning.REFUSED
    server.redirects_first(404)
    async with aiohttp.ClientSession() as session, session.get(server.url) as response:
        assert shockproof.integrations.aiohttp.meaning_of(response) is Meaning.REFUSED


async def test_a_redirect_that_is_not_followed_is_no_answer(
    client: str, server: Misbehaving, nobody: str, recovery: ErrorRecoveryService
) -> None:
    """As the how-to says: nothing goes to the other host, and an unsafe call is not repeated."""
    server.answers(303, b"see there", Location=nobody)
    post, table = CLIENTS[client]
    venue = recovery.service("venue", effect="unsafe", classify=table.classify, max_retries=1)
    with pytest.raises(Exception) as caught:
        await venue.call(functools.partial(post, server.url, follow=False))
    assert [one.outcome for one in attempts_of(caught.value)] == [Outcome.UNKNOWN]
    assert len(server.requests) == 1


@pytest.mark.parametrize("manner", ["reset", "close", "silent", "half", "garbage"])
async def test_an_answer_that_did_not_come_leaves_it_open(
    manner: str, attempt: Attempt, server: Misbehaving
) -> None:
    """The request arrived and nobody knows what came of it: an unsafe call is not repeated."""
    server.manner = manner
    tried = await attempt(server.url, read=IMPATIENT if manner == "silent" else PATIENT)
    assert tried.meaning is Meaning.UNKNOWN
    assert tried.outcomes == [Outcome.UNKNOWN]
    assert await server.has_heard()
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 409, 412, 460, 499, 500, 502, 503, 504])
async def test_an_answer_from_in_between_leaves_it_open(
    status: int, attempt: Attempt, server: Misbehaving
) -> None:
    """A 5xx may come after the order was booked."""
    server.answers(status)
    tried = await attempt(server.url)
    assert tried.meaning is Meaning.UNKNOWN
    assert tried.outcomes == [Outcome.UNKNOWN]
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422, 451])
async def test_a_clear_no_is_no_failure_of_the_venue(
    status: int, attempt: Attempt, server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """It looked and refused: nothing is repeated, nothing is unknown, and its circuit counts a success."""
    server.answers(status)
    tried = await attempt(server.url)
    assert tried.meaning is Meaning.REFUSED
    assert tried.outcomes == []
    assert len(server.requests) == 1
    services = recovery.get_health_status()["services"]
    assert (services["venue"]["successes"], services["venue"]["failures"]) == (1, 0)


@pytest.mark.parametrize("status", [418, 429])
async def test_a_request_turned_away_is_sent_again_after_the_wait_it_was_told(
    status: int, attempt: Attempt, server: Misbehaving
) -> None:
    """Nothing was looked at; Retry-After is honoured."""
    server.answers(status, Retry_After="0.01")
    tried = await attempt(server.url)
    assert tried.meaning is Meaning.TURNED_AWAY
    assert [one.delay for one in attempts_of(tried.error)] == [0.01, None]
    assert len(server.requests) == 2


async def test_an_answer_that_is_no_json_is_never_a_no(
    client: str, server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """It answered 200 and nobody can read it: unknown, whether the client's own error says so or json's."""
    server.answers(200, b"<html>", Content_Type="text/html")
    post, table = CLIENTS[client]
    venue = recovery.service("venue", effect="unsafe", classify=table.classify, max_retries=1)
    with pytest.raises(Exception) as caught:
        await venue.call(functools.partial(post, server.url))
    assert [one.outcome for one in attempts_of(caught.value)] == [Outcome.UNKNOWN]


@pytest.mark.parametrize("client", ["httpx", "httpx2", "requests"])
@pytest.mark.parametrize(
    ("status", "meaning"),
    [(200, None), (302, None), (400, Meaning.REFUSED), (429, Meaning.TURNED_AWAY), (503, Meaning.UNKNOWN)],
)
async def test_a_response_means_what_its_status_means(
    client: str, status: int, meaning: Meaning | None, server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """These clients return a 503 without a word: the result is judged as the error would be."""
    server.answers(status)
    table = CLIENTS[client][1]

    async def by_httpx() -> object:
        async with {"httpx": httpx, "httpx2": httpx2}[client].AsyncClient() as made:
            return await made.post(server.url)

    def by_requests() -> object:
        return requests.post(server.url, timeout=PATIENT, allow_redirects=False)

    venue = recovery.service("venue", effect="unsafe", classify=table.classify, max_retries=1, base_delay=0.0)
    answer = await venue.call(by_requests if client == "requests" else by_httpx)
    assert table.meaning_of(answer) is meaning
    assert len(server.requests) == (2 if meaning is Meaning.TURNED_AWAY else 1)


@pytest.mark.parametrize("client", ["httpx", "httpx2"])
async def test_order_that_a_returned_answer_refuses_is_not_placed(
    client: str, server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """Nobody raises for the 400: the caller gets it, and the key may be placed again."""
    venue = recovery.service("venue", classify=CLIENTS[client][1].classify)

    async def find(_key: str) -> LookUp[object]:
        return NOT_FOUND

    async with {"httpx": httpx, "httpx2": httpx2}[client].AsyncClient() as made:
        for status in (400, 200):
            server.answers(status)
            answer: Any = await venue.once("mine", confirm=find, settle=0.0).call(
                made.post, server.url, content="mine"
            )
            assert answer.status_code == status
        with pytest.raises(OperationCompletedError):
            await venue.once("mine", confirm=find, settle=0.0).call(made.post, server.url, content="mine")
    assert len(server.requests) == 2


CLASSIFY = {
    "aiohttp": shockproof.integrations.aiohttp.classify,
    "httpx": shockproof.integrations.httpx.classify,
    "httpx2": shockproof.integrations.httpx2.classify,
    "requests": shockproof.integrations.requests.classify,
}


async def post_to(url: str, client: str, key: str = "other") -> Any:
    """One POST, whose redirect is returned, by each client as it is without `raise_for_status`."""
    if client == "aiohttp":
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=key, allow_redirects=False) as answer,
        ):
            return answer
    if client == "requests":
        return await asyncio.to_thread(requests.post, url, data=key, allow_redirects=False)
    async with {"httpx": httpx, "httpx2": httpx2}[client].AsyncClient(verify=False) as session:
        return await session.post(url, content=key)


@pytest.mark.parametrize("client", CLIENTS)
async def test_order_that_is_answered_with_a_redirect_is_looked_up(
    client: str, server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """It may have been booked or not: it is no yes, and no failure of the service."""
    venue = recovery.service("venue", classify=CLASSIFY[client], circuit_threshold=1)
    answers: list[LookUp[object]] = [NOT_FOUND, Found("there")]
    asked: list[str] = []

    async def find(key: str) -> LookUp[object]:
        asked.append(key)
        return answers.pop(0)

    server.answers(307, b"", Location="/elsewhere")
    once = venue.using(max_retries=0).once
    for expected in (307, "there"):
        answer = await once("mine", confirm=find, settle=0.0).call(post_to, server.url, client, "mine")
        assert getattr(answer, "status_code", getattr(answer, "status", answer)) == expected
    assert asked == ["mine"] * 2
    assert len(server.requests) == 2


@pytest.mark.parametrize("client", CLIENTS)
async def test_redirect_that_is_returned_to_another_call_is_its_answer(
    client: str, server: Misbehaving, recovery: ErrorRecoveryService
) -> None:
    """A form that is answered with "see other" has not failed: nothing is repeated, and no circuit opens."""
    venue = recovery.service("venue", classify=CLASSIFY[client], max_retries=2, circuit_threshold=1)
    server.answers(303, b"", Location="/elsewhere")
    for handle in (venue.using(effect="unsafe"), venue.using(effect="idempotent")):
        answer = await handle.call(post_to, server.url, client)
        assert getattr(answer, "status_code", getattr(answer, "status", None)) == 303
    assert len(server.requests) == 2


@pytest.mark.parametrize("client", CLIENTS)
async def test_order_that_the_venue_refuses_without_an_error_is_placed_under_the_same_key_when_it_is_mended(
    client: str, weather: Weather, recovery: ErrorRecoveryService
) -> None:
    """At the embedded venue, by each client as it is without `raise_for_status`; the call around it is repeated."""
    url = f"{weather.server.base_url}/v2/orders"
    headers = {"APCA-API-KEY-ID": DEMO_KEY, "APCA-API-SECRET-KEY": DEMO_SECRET}
    order = {"symbol": "NOBODY", "side": "buy", "qty": "10", "type": "market", "time_in_force": "gtc"}
    order["client_order_id"] = "mine"

    async def by_aiohttp() -> object:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=order, headers=headers) as answer,
        ):
            return answer

    async def by_httpx(module: ModuleType) -> object:
        async with module.AsyncClient() as session:
            return await session.post(url, json=order, headers=headers)

    posts: dict[str, Any] = {
        "aiohttp": by_aiohttp,
        "httpx": functools.partial(by_httpx, httpx),
        "httpx2": functools.partial(by_httpx, httpx2),
        "requests": functools.partial(requests.post, url, json=order, headers=headers),
    }

    async def find(_key: str) -> LookUp[object]:
        return NOT_FOUND

    statuses: list[int] = []
    once = recovery.service("venue", classify=CLIENTS[client][1].classify).once(
        "mine", confirm=find, settle=0.0
    )

    async def strategy() -> None:
        answer: Any = await once.call(posts[client])
        statuses.append(getattr(answer, "status", None) or answer.status_code)
        if statuses[-1] >= 400:
            order["symbol"] = "EURUSDT"
            raise ValueError("the symbol was wrong")

    await recovery.service("strategy", max_retries=1).call(strategy)

    assert statuses == [422, 200]
    assert weather.orders == ["mine"]
    with pytest.raises(OperationCompletedError):
        await once.call(posts[client])


async def test_a_response_of_aiohttp_means_what_its_status_means(server: Misbehaving) -> None:
    """Aiohttp hands out the response before its body is read."""
    server.answers(503)
    async with aiohttp.ClientSession() as session, session.post(server.url) as answer:
        assert shockproof.integrations.aiohttp.meaning_of(answer) is Meaning.UNKNOWN


async def test_what_is_not_the_clients_is_left_to_the_rules(client: str) -> None:
    """Good answers and foreign errors get no verdict here; for an unsafe call that means unknown."""
    table = CLIENTS[client][1]
    assert [table.meaning_of(value) for value in (None, {"id": 1}, KeyError("x"))] == [None] * 3


# ---- a session of requests that repeats by itself


def repeating(total: int | None = 2, **more: Any) -> requests.Session:
    session = requests.Session()
    retries = Retry(total=total, allowed_methods=None, status_forcelist=[503], **more)
    session.mount("http://", HTTPAdapter(max_retries=retries))
    return session


class OnlyOnce(Misbehaving):
    """Takes one request, and nobody listens any more while it is cut."""

    listening: asyncio.Server | None = None

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        assert self.listening is not None
        self.listening.close()
        return await super()._one(reader, writer)


async def test_nothing_is_proven_by_the_last_of_several_requests_that_a_session_has_sent(
    server: Misbehaving, nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One may have been booked, and the next was refused. Attempts that never got a connection prove what they prove."""
    meaning_of = shockproof.integrations.requests.meaning_of
    shockproof.integrations.requests._warn_of_retries.cache_clear()
    once = OnlyOnce()
    once.manner = "close"
    once.listening = await asyncio.start_server(once.serve, HOST, 0)
    once.port = once.listening.sockets[0].getsockname()[1]
    with pytest.raises(requests.ConnectionError, match="refused") as caught:
        await asyncio.to_thread(repeating().post, once.url, timeout=PATIENT)
    assert len(once.requests) == 1
    assert meaning_of(caught.value) is Meaning.UNKNOWN
    assert "switch_off_retries(session)" in caplog.text

    with pytest.raises(requests.ConnectionError) as caught:
        await asyncio.to_thread(repeating().post, nobody, timeout=PATIENT)
    assert meaning_of(caught.value) is Meaning.NOT_SENT

    server.answers(503)
    server._then = 400
    answer = await asyncio.to_thread(repeating().post, server.url, timeout=PATIENT)
    assert (answer.status_code, len(server.requests)) == (400, 2)
    assert meaning_of(answer) is Meaning.UNKNOWN


@pytest.mark.parametrize(
    "asked",
    [{"total": 2}, {"total": None, "read": 1}, {"total": None, "status": 1, "connect": 0, "read": 0, "other": 0}, {"total": None}],
    ids=str,
)  # fmt: skip
async def test_retries_of_a_session_are_switched_off(server: Misbehaving, asked: dict[str, Any]) -> None:
    """Each request is sent once then; what was switched off is told."""
    session = repeating(**asked)
    (found,) = shockproof.integrations.requests.switch_off_retries(session)
    assert found.total == asked["total"]
    assert shockproof.integrations.requests.switch_off_retries(session) == []
    server.answers(503)
    assert (await asyncio.to_thread(session.post, server.url, timeout=PATIENT)).status_code == 503
    server.manner = "close"
    with pytest.raises(requests.ConnectionError):
        await asyncio.to_thread(session.post, server.url, timeout=PATIENT)
    assert len(server.requests) == 2


async def test_only_a_session_has_retries_to_switch_off() -> None:
    """By its name."""
    with pytest.raises(TypeError, match=r"session must be a requests\.Session, got <module"):
        shockproof.integrations.requests.switch_off_retries(requests)  # type: ignore[arg-type]  # on purpose
    plain = requests.Session()
    assert shockproof.integrations.requests.switch_off_retries(plain) == []

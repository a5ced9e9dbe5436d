"""Requests of aiohttp, httpx and httpx2 through services: what is repeated, what is kept, and what is closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

for name in ("aiohttp", "httpx", "httpx2"):
    pytest.importorskip(name, reason=f"{name} is not installed")

import aiohttp  # noqa: E402  after the importorskip
import httpx  # noqa: E402  after the importorskip
import httpx2  # noqa: E402  after the importorskip

import shockproof.integrations.aiohttp  # noqa: E402  after the importorskip
import shockproof.integrations.httpx  # noqa: E402  after the importorskip
import shockproof.integrations.httpx2  # noqa: E402  after the importorskip
from shockproof import (  # noqa: E402  after the importorskip
    AttemptTimeoutError,
    CircuitOpenError,
    ErrorRecoveryService,
    ErrorSeverity,
    HaltedError,
    ServiceStatus,
    attempts_of,
)
from shockproof.integrations.httpx import StatusError  # noqa: E402  after the importorskip
from shockproof.integrations.service_per_host import ServicePerHost  # noqa: E402  after the importorskip

pytestmark = pytest.mark.asyncio

HOST = "127.0.0.1"
PATIENT = 60.0
"""Seconds: for what comes at once, on a machine that is slow."""
LONG = b"x" * 1_000_000


class Step(NamedTuple):
    """What is answered to one request; None never answers."""

    status: int | None = 200
    body: bytes = b"fine"
    headers: tuple[str, ...] = ()


class Venue:
    """Answers one request after the other as it is told, and the last way for ever."""

    def __init__(self) -> None:
        self.steps: list[Step] = [Step()]
        self.requests: list[tuple[str, bytes]] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.url = ""
        self.host = ""
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = [line for line in head.splitlines() if line.startswith("content-length:")]
                body = await reader.readexactly(int(length[0].partition(":")[2])) if length else b""
                if "transfer-encoding: chunked" in head:
                    body = await reader.readuntil(b"0\r\n\r\n")
                self.requests.append((head.partition(" ")[0].upper(), body))
                self.arrived.set()
                step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
                if step.status is None:
                    await reader.read()  # until the client goes away
                    return
                lines = [
                    f"HTTP/1.1 {step.status} As Told",
                    f"Content-Length: {len(step.body)}",
                    *step.headers,
                ]
                writer.write("\r\n".join([*lines, "", ""]).encode() + step.body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def end(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@contextlib.asynccontextmanager
async def a_venue() -> AsyncIterator[Venue]:
    venue = Venue()
    listening = await asyncio.start_server(venue.serve, HOST, 0)
    venue.host = f"{HOST}:{listening.sockets[0].getsockname()[1]}"
    venue.url = f"http://{venue.host}"
    async with listening:
        yield venue
        listening.close()
        await venue.end()


@pytest_asyncio.fixture
async def venue() -> AsyncIterator[Venue]:
    async with a_venue() as venue:
        yield venue


Send = Callable[..., Awaitable[tuple[int, bytes]]]


@contextlib.asynccontextmanager
async def by_aiohttp(services: Any, **says: Any) -> AsyncIterator[Send]:
    guarded = shockproof.integrations.aiohttp.GuardMiddleware(services, **says)
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector, middlewares=(guarded,)) as session:

        async def send(method: str, url: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            async with session.request(method, url, data=body, headers=named) as answer:
                return answer.status, await answer.read()

        yield send


def by(client: ModuleType, integration: Any) -> Any:
    @contextlib.asynccontextmanager
    async def opened(services: Any, **says: Any) -> AsyncIterator[Send]:
        sending = client.AsyncHTTPTransport(verify=False, limits=client.Limits(max_connections=1))
        transport = integration.GuardedTransport(services, sending, **says)
        async with client.AsyncClient(transport=transport, timeout=PATIENT) as session:

            async def send(method: str, url: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
                named = {name.replace("_", "-"): text for name, text in headers.items()}
                answer = await session.request(method, url, content=body, headers=named)
                return answer.status_code, answer.content

            yield send

    return opened


CLIENTS: dict[str, Any] = {
    "aiohttp": by_aiohttp,
    "httpx": by(httpx, shockproof.integrations.httpx),
    "httpx2": by(httpx2, shockproof.integrations.httpx2),
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Any:
    return CLIENTS[request.param]


BUSY = Step(503, b"come back")


@pytest.mark.parametrize("page", [b"come back", LONG], ids=["short", "long"])
async def test_a_read_is_repeated_until_it_is_answered_and_what_is_discarded_frees_its_connection(
    client: Any, venue: Venue, recovery: ErrorRecoveryService, page: bytes
) -> None:
    """The pool has one connection: an answer that nobody reads and nobody closes would hold it for ever."""
    venue.steps = [Step(503, page), Step(500, page), Step(200, b"quote")]
    async with asyncio.timeout(PATIENT), client(recovery.service("venue")) as send:
        assert await send("GET", f"{venue.url}/quote?key=abc") == (200, b"quote")
    assert [method for method, _ in venue.requests] == ["GET"] * 3
    told = recovery.get_error_summary()["recent_errors"]
    assert [one["error_message"] for one in told] == [
        f"GET {venue.url}/quote was answered with 503 Service Unavailable",
        f"GET {venue.url}/quote was answered with 500 Internal Server Error",
    ]
    assert {(one["error_type"], one["function_name"]) for one in told} == {("StatusError", "GET")}


async def test_after_short_pages_the_connection_is_kept(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """A venue in trouble is not asked for a new connection with each attempt."""
    venue.steps = [BUSY, BUSY, Step()]
    async with asyncio.timeout(PATIENT), client(recovery.service("venue")) as send:
        assert await send("GET", venue.url) == (200, b"fine")
    assert (len(venue.requests), venue.connections) == (3, 1)


async def test_a_write_whose_outcome_is_unknown_is_sent_once_and_its_answer_comes_whole(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """A 503 behind an order proves nothing: the caller sees it, and a person is told."""
    venue.steps = [BUSY]
    async with asyncio.timeout(PATIENT), client(recovery.service("venue")) as send:
        assert await send("POST", f"{venue.url}/orders", b"buy") == (503, b"come back")
    assert venue.requests == [("POST", b"buy")]
    (told,) = recovery.get_error_summary(min_severity=ErrorSeverity.CRITICAL)["recent_errors"]
    assert told["error_message"].endswith("/orders was answered with 503 Service Unavailable")


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("PUT", {}, 503),
        ("DELETE", {}, 503),
        ("POST", {"Idempotency_Key": "bot-5"}, 503),
        ("POST", {}, 429),  # turned away before anything was looked at
    ],
)
async def test_a_write_that_may_come_twice_or_did_not_come_at_all_is_repeated(
    client: Any,
    venue: Venue,
    recovery: ErrorRecoveryService,
    method: str,
    headers: dict[str, str],
    status: int,
) -> None:
    """By its method, by its key, or by what the answer proves; and with its body."""
    venue.steps = [Step(status, b"", ("Retry-After: 0",)), Step()]
    async with asyncio.timeout(PATIENT), client(recovery.service("venue")) as send:
        assert await send(method, venue.url, b"buy", **headers) == (200, b"fine")
    assert venue.requests == [(method, b"buy")] * 2


async def test_a_write_that_was_never_sent_is_repeated(
    client: Any, nobody: str, recovery: ErrorRecoveryService
) -> None:
    """A connection that was refused has booked no order."""
    async with asyncio.timeout(PATIENT), client(recovery.service("venue", max_retries=2)) as send:
        with pytest.raises((aiohttp.ClientConnectorError, httpx.ConnectError, httpx2.ConnectError)) as caught:
            await send("POST", nobody, b"buy")
    assert len(attempts_of(caught.value)) == 3


async def test_what_a_request_does_can_be_said(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """Some venues are asked by POST; the user knows, and None leaves it to the method."""
    venue.steps = [BUSY, Step(), BUSY, Step()]

    def effect_of(request: Any) -> Any:
        return "read" if str(request.url).endswith("/info") else None

    async with asyncio.timeout(PATIENT), client(recovery.service("venue"), effect_of=effect_of) as send:
        assert (await send("POST", f"{venue.url}/info", b"{}"))[0] == 200
        assert (await send("POST", f"{venue.url}/orders", b"{}"))[0] == 503


async def test_what_reduces_risk_passes_a_halt_and_an_open_circuit(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """Orders are stopped, and those that are at the venue can still be cancelled."""
    venue.steps = [Step(), BUSY, Step()]
    service = recovery.service("venue", circuit_threshold=1, max_retries=0)

    def cancels(request: Any) -> bool:
        return bool(request.method == "DELETE")

    async with asyncio.timeout(PATIENT), client(service, risk_reducing_if=cancels) as send:
        await recovery.halt("lost the risk feed")
        with pytest.raises(HaltedError):
            await send("PUT", venue.url)
        assert await send("DELETE", venue.url) == (200, b"fine")
        assert (await send("GET", venue.url))[0] == 503
        with pytest.raises(CircuitOpenError):
            await send("GET", venue.url)
        assert await send("DELETE", venue.url) == (200, b"fine")
    assert [method for method, _ in venue.requests] == ["DELETE", "GET", "DELETE"]


async def test_a_body_that_is_there_once_is_sent_once(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """The second time a generator would be empty, and the venue would book nothing, or half of it."""
    venue.steps = [BUSY]

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a lot"

    async with asyncio.timeout(PATIENT), client(recovery.service("venue")) as send:
        assert await send("PUT", venue.url, pieces()) == (503, b"come back")
    assert len(venue.requests) == 1


async def test_a_long_retry_after_is_told_at_once_and_the_service_pauses(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """An hour is for the caller to wait, or not; who calls meanwhile does not disturb the venue."""
    venue.steps = [Step(429, b"later", ("Retry-After: 3600",))]
    async with asyncio.timeout(PATIENT), client(recovery.service("venue")) as send:
        assert await send("GET", venue.url) == (429, b"later")
        with pytest.raises(CircuitOpenError) as refused:
            await send("GET", venue.url)
    assert len(venue.requests) == 1
    assert 3000 < (refused.value.retry_after or 0) <= 3600


async def test_a_clear_no_is_an_answer_like_any_other(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """Asking for what is not there opens no circuit."""
    venue.steps = [Step(404, b"no such order")]
    async with (
        asyncio.timeout(PATIENT),
        client(recovery.service("venue", circuit_threshold=1)) as send,
    ):
        for _ in range(2):
            assert await send("GET", venue.url) == (404, b"no such order")
    assert recovery.get_service_status("venue") is ServiceStatus.OPERATIONAL
    assert recovery.get_error_summary()["total_errors"] == 0


@pytest.mark.parametrize("kind", ["aiohttp", "httpx2"])
async def test_an_attempt_that_takes_too_long_leaves_the_only_connection_free(
    kind: str, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """The timeout cancels the client in the middle of a request; the next attempt finds a connection. Not of httpx: httpcore#1093."""
    venue.steps = [Step(None), Step()]
    # Many attempts, as a slow machine may be late with one that is answered.
    service = recovery.service("venue", timeout=0.2, max_retries=100, circuit_threshold=None)
    async with asyncio.timeout(PATIENT), CLIENTS[kind](service) as send:
        assert await send("GET", venue.url) == (200, b"fine")
    assert len(venue.requests) >= 2


async def test_a_request_that_is_cancelled_leaves_the_only_connection_free_and_counts_nowhere(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """The caller's cancellation passes at once, and what it took is back."""
    venue.steps = [Step(None), Step()]
    service = recovery.service("venue", max_concurrent=1)
    async with asyncio.timeout(PATIENT), client(service) as send:
        task = asyncio.create_task(send("GET", venue.url))  # type: ignore[arg-type]  # a coroutine
        await venue.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await send("GET", venue.url) == (200, b"fine")
    assert len(venue.requests) == 2
    assert recovery.get_error_summary()["total_errors"] == 0


async def test_an_open_circuit_sends_nothing(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """The refusal comes out of the client as it is, with the time to wait."""
    venue.steps = [BUSY]
    service = recovery.service("venue", circuit_threshold=1)
    async with asyncio.timeout(PATIENT), client(service) as send:
        assert (await send("GET", venue.url))[0] == 503
        with pytest.raises(CircuitOpenError):
            await send("GET", venue.url)
    assert len(venue.requests) == 1


async def test_each_host_has_a_service_and_there_is_an_end_to_them(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """One venue's outage is not the other's, and a client that is sent around makes no endless number of them."""
    services = ServicePerHost(recovery, prefix="http/", most=1, circuit_threshold=1, max_retries=0)
    venue.steps = [BUSY]
    async with asyncio.timeout(PATIENT), a_venue() as second, a_venue() as third, client(services) as send:
        assert [(await send("GET", one.url))[0] for one in (venue, second, third)] == [503, 200, 200]
        with pytest.raises(CircuitOpenError, match=f"http/{venue.host}"):
            await send("GET", venue.url)
    assert recovery.get_all_service_statuses().keys() == {f"http/{venue.host}", "http/other hosts"}


async def test_the_users_own_word_on_an_answer_comes_first(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """A classify of the service sees answers, and the client's rules decide where it has no opinion."""
    from shockproof import CallInfo, Outcome, Verdict

    def maintenance_is_no_failure(value: object, call: CallInfo) -> Verdict | None:
        status = getattr(value, "status_code", getattr(value, "status", None))
        return Verdict(Outcome.SUCCESS) if status == 503 else None

    venue.steps = [Step(500, b""), BUSY]
    async with (
        asyncio.timeout(PATIENT),
        client(recovery.service("venue", classify=maintenance_is_no_failure)) as send,
    ):
        assert await send("GET", venue.url) == (503, b"come back")
    assert len(venue.requests) == 2


async def test_what_is_repeated_can_be_narrowed_by_the_status(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """A status is an error of its own for retry_on."""
    venue.steps = [Step(502, b""), Step(599, b"whatever")]

    def retry_on(error: Exception) -> bool:
        return isinstance(error, StatusError) and error.status == 502

    async with asyncio.timeout(PATIENT), client(recovery.service("venue", retry_on=retry_on)) as send:
        assert await send("GET", venue.url) == (599, b"whatever")
    assert len(venue.requests) == 2
    last = recovery.get_error_summary()["recent_errors"][-1]["error_message"]
    assert last.endswith(" was answered with 599")


@pytest.mark.parametrize("kind", ["httpx", "httpx2"])
async def test_a_hedged_read_takes_the_first_answer_and_closes_the_other(
    kind: str, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """The loser is on its way when the winner answers; the client ends with nothing open."""
    venue.steps = [Step(None), Step(200, b"first")]
    client = {"httpx": httpx, "httpx2": httpx2}[kind]
    integration: Any = {"httpx": shockproof.integrations.httpx, "httpx2": shockproof.integrations.httpx2}[
        kind
    ]
    hedging = recovery.service("venue", hedge_after=0.05)
    transport = integration.GuardedTransport(hedging, client.AsyncHTTPTransport(verify=False))
    async with asyncio.timeout(PATIENT), client.AsyncClient(transport=transport, timeout=PATIENT) as session:
        answer = await session.get(venue.url)
    assert (answer.status_code, answer.content) == (200, b"first")
    assert len(venue.requests) == 2


async def test_a_fallback_answers_in_place_of_the_venue(venue: Venue, recovery: ErrorRecoveryService) -> None:
    """It gives a response of the client's; that of the venue is closed."""
    venue.steps = [Step(503, LONG)]
    service = recovery.service(
        "venue", max_retries=0, fallback=lambda: httpx.Response(200, text="of yesterday")
    )
    async with asyncio.timeout(PATIENT), by(httpx, shockproof.integrations.httpx)(service) as send:
        for _ in range(2):  # the pool has one connection
            assert await send("GET", venue.url) == (200, b"of yesterday")


@pytest.mark.parametrize("kind", ["httpx", "httpx2"])
async def test_a_body_is_streamed_through(kind: str, recovery: ErrorRecoveryService) -> None:
    """What goes on for ever is read as it comes, and no attempt waits for its end."""
    client = {"httpx": httpx, "httpx2": httpx2}[kind]
    integration: Any = {"httpx": shockproof.integrations.httpx, "httpx2": shockproof.integrations.httpx2}[
        kind
    ]
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none")
        await writer.drain()
        await go_on.wait()
        writer.write(b"two")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, HOST, 0)
    url = f"http://{HOST}:{listening.sockets[0].getsockname()[1]}"
    transport = integration.GuardedTransport(
        recovery.service("venue"), client.AsyncHTTPTransport(verify=False)
    )
    async with (
        listening,
        asyncio.timeout(PATIENT),
        client.AsyncClient(transport=transport, timeout=PATIENT) as session,
        session.stream("GET", url) as answer,
    ):
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"one"
        go_on.set()
        assert b"".join([piece async for piece in pieces]) == b"two"


async def test_an_attempt_timeout_says_whose_it_was(
    client: Any, venue: Venue, recovery: ErrorRecoveryService
) -> None:
    """The last error comes out of the client unchanged."""
    venue.steps = [Step(None)]
    service = recovery.service("venue", timeout=0.05, max_retries=1)
    async with asyncio.timeout(PATIENT), client(service) as send:
        with pytest.raises(AttemptTimeoutError, match="'venue'"):
            await send("GET", venue.url)


async def test_what_is_no_service_is_refused_where_it_is_given(client: Any) -> None:
    """The service itself in place of a handle is the likely slip."""
    with pytest.raises(TypeError, match="services must be a handle"):
        async with client(ErrorRecoveryService()):
            pass

"""A server over real sockets that misbehaves as it is told, and what came through to it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shockproof import ErrorRecoveryService
from shockproof.demo.venue.connection_reset import reset
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind, FaultPlan, FaultWindow
from tests.integrations.store_servers import Server, etcd_server, redis_server

HOST = "127.0.0.1"


class Misbehaving:
    """
    Reads each request whole, and then does what `manner` says.

    ``answer`` answers with `status`, `headers` and `body`; ``reset`` resets the connection; ``close`` ends
    it without an answer; ``silent`` never answers; ``half`` sends a part of the promised body and ends the
    connection; ``garbage`` answers in another language.
    """

    def __init__(self) -> None:
        self.manner = "answer"
        self.status = 200
        self.headers: dict[str, str] = {"Content-Type": "application/json"}
        self.body = b"{}"
        self.requests: list[str] = []
        """First lines of all requests that came through whole."""
        self.bodies: list[str] = []
        self.port = 0
        self._then: int | None = None
        self.by_path = False
        """Turn every request away, each with the number in its path as Retry-After, and as its body."""
        self.by_path_ends: dict[str, tuple[int, bytes]] = {}
        """Status and body of the answer by how the path ends."""
        self.tunnels: ssl.SSLContext | None = None
        """Open the tunnel that a CONNECT asks for, and be the venue at its other end, with this certificate."""
        self._serving: set[asyncio.Task[None]] = set()

    def answers(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        self.manner, self.status, self.body = "answer", status, body
        self.headers = {"Content-Type": "application/json"}
        self.headers |= {name.replace("_", "-"): text for name, text in headers.items()}

    def redirects_first(self, status: int) -> None:
        """Answer the next request with a redirect to here, and those after it with *status*."""
        self.answers(303, b"", Location=f"{self.url}/elsewhere")
        self._then = status

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):  # the client went away; OSError: in the middle of TLS
            pass
        finally:
            self._serving.discard(task)
            writer.transport.abort() if self.manner == "silent" else writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
        body = await reader.readexactly(int(length[0].partition(":")[2])) if length else b""
        self.bodies.append(body.decode())
        self.requests.append(head.partition("\r\n")[0])
        if head.startswith("CONNECT ") and self.tunnels is not None:
            writer.write(b"HTTP/1.1 200 Go Ahead\r\n\r\n")
            await writer.drain()
            await writer.start_tls(self.tunnels)
            return True
        if self.by_path:
            number = head.split()[1].strip("/")
            self.answers(429, number.encode(), Retry_After=number)
        path = head.split()[1].partition("?")[0]
        for end, (status, text) in self.by_path_ends.items():
            if path.endswith(end):
                self.answers(status, text)
        match self.manner:
            case "reset":
                reset(writer.transport)
                return False
            case "close":
                return False
            case "silent":
                await reader.read()  # until the client goes away
                return False
            case "garbage":
                writer.write(b"whatever this is, it is no HTTP\r\n\r\n")
                await writer.drain()
                return False
            case "half":
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
                )
                await writer.drain()
                return False
            case _:
                lines = [f"HTTP/1.1 {self.status} As Told", f"Content-Length: {len(self.body)}"]
                lines += [f"{name}: {text}" for name, text in self.headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + self.body)
                await writer.drain()
                if self._then is not None:
                    self.answers(self._then)
                    self._then = None
                return True

    async def has_heard(self) -> bool:
        """Whether a request has come through, of all that was sent before this: whoever sent it may have given up since."""
        for _ in range(50):  # looks at the sockets, of which each takes some
            await asyncio.sleep(0)
        return bool(self.requests)

    async def end(self) -> None:
        """Drop what is still open."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@pytest_asyncio.fixture
async def recovery(tmp_path: Path) -> AsyncIterator[ErrorRecoveryService]:
    """A recovery service on real time: sockets know no other."""
    async with ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.0) as service:
        yield service


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Misbehaving]:
    """A server that misbehaves as it is told."""
    misbehaving = Misbehaving()
    listening = await asyncio.start_server(misbehaving.serve, HOST, 0)
    misbehaving.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield misbehaving
        listening.close()
        await misbehaving.end()


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL where nobody listens, and nobody else will: the port is taken, without listening."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield f"http://{HOST}:{taken.getsockname()[1]}"


@pytest.fixture
def unreachable() -> Iterator[str]:
    """A URL where connecting never ends: the queue of connections that nobody accepts is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind((HOST, 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listening.getsockname())
        yield f"http://{HOST}:{listening.getsockname()[1]}"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate that nobody trusts, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "untrusted.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest_asyncio.fixture
async def untrusted(server: Misbehaving, certificate: Path) -> AsyncIterator[str]:
    """The URL of the same server behind TLS, with a certificate that nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listening = await asyncio.start_server(server.serve, HOST, 0, ssl=context)
    async with listening:
        yield f"https://{HOST}:{listening.sockets[0].getsockname()[1]}"
        listening.close()
        await server.end()


class Weather:
    """The embedded venue: well until something `befall`s it."""

    def __init__(self, server: Any, now: list[float]) -> None:
        self.server = server
        self._now = now

    def befall(self, kind: FaultKind, *endpoints: Endpoint) -> None:
        """From now on every request to the endpoints (placing orders) meets this fault."""
        window = FaultWindow(kind, 10.0, 20.0, frozenset(endpoints or {Endpoint.PLACE_ORDER}), 1.0)
        self.server.exchange.faults.plan = FaultPlan(1, 100.0, 0.5, (window,))
        self._now[0] = 15.0

    def calm(self) -> None:
        """It is over."""
        self._now[0] = 50.0

    @property
    def orders(self) -> list[str]:
        """The client order ids that were booked."""
        return [order.client_order_id for order in self.server.exchange.ledger.orders]

    def hit(self, endpoint: Endpoint = Endpoint.PLACE_ORDER) -> list[bool | None]:
        """For each request to the endpoint that met a fault, whether it was booked."""
        return [one.booked for one in self.server.exchange.faults.log if one.endpoint is endpoint]


@pytest_asyncio.fixture
async def weather() -> AsyncIterator[Weather]:
    """The embedded venue over real sockets, whose time stands still until something befalls it."""
    from shockproof.demo.venue.exchange import SessionClock
    from shockproof.demo.venue.server import VenueServer

    now = [0.0]
    plan = FaultPlan(seed=1, seconds=100.0, client_timeout=5.0, windows=())
    clock = SessionClock(lambda: now[0])
    clock.begin()
    async with VenueServer(plan, first_day=1000, clock=clock, tick=None) as server:
        yield Weather(server, now)


@pytest.fixture(scope="session")
def redis_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis for all tests that do it no harm."""
    with redis_server(tmp_path_factory.mktemp("redis") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def etcd_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An etcd for all tests that do it no harm."""
    with etcd_server(tmp_path_factory.mktemp("etcd") / "data") as server:
        yield server


@pytest.fixture(scope="module", params=["redis", "etcd"])
def server_of_its_own(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A Redis, and then an etcd, that the tests of a module may do harm to."""
    folder = tmp_path_factory.mktemp("own") / "data"
    with redis_server(folder) if request.param == "redis" else etcd_server(folder) as server:
        yield server

"""The server over real sockets: real clients, and those that are slow, greedy or gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from shockproof import ErrorRecoveryService
from shockproof.endpoints import serve
from shockproof.endpoints.exchange import Answer
from shockproof.endpoints.http1 import MOST_HEAD, BadRequestError
from shockproof.endpoints.routes import Routes
from shockproof.endpoints.server import Bounds, Server
from shockproof.testing import VirtualClock

TOKEN = "correct-horse-battery-staple"
PATIENT = 60.0
"""Real seconds; only a hang takes that long."""
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: bot\r\n\r\n"


def on_real_time(main: Callable[[], Awaitable[None]]) -> None:
    """Run *main* on an ordinary event loop; one that hangs fails."""

    async def patiently() -> None:
        await asyncio.wait_for(main(), PATIENT)
        # A connection that a client has closed ends in its own time.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=PATIENT)

    with asyncio.Runner(loop_factory=LateLoop) as runner:
        runner.run(patiently())


class LateLoop(asyncio.SelectorEventLoop):
    """An ordinary event loop whose time can be set forward, for what ends by its time."""

    skew = 0.0

    def time(self) -> float:
        return super().time() + self.skew


def let_pass(seconds: float) -> None:
    """Now, for all that waits on the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LateLoop)
    loop.skew += seconds


class Connection:
    """A client that speaks by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], str]:
        """The next answer, read by its length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, body.decode()

    async def rest(self) -> bytes:
        """Everything until the server ends the connection, however it does."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def bounded(recovery: ErrorRecoveryService, **bounds: Any) -> AsyncIterator[tuple[Server, str]]:
    """A server whose bounds a test can wait for, and its address."""
    server = Server(Routes(recovery, TOKEN, None), Bounds(**bounds))
    url = await server.listen("127.0.0.1", 0)
    try:
        yield server, url
    finally:
        await server.close()


def test_real_clients_are_answered(recovery: ErrorRecoveryService) -> None:
    """All pages, and a change with its token, by two clients that have never heard of this server."""
    recovery.service("venue")

    async def main() -> None:
        async with serve(recovery, token=TOKEN) as url:
            assert url.startswith("http://127.0.0.1:")
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENT) as client:
                assert (await client.get("/livez")).text == "ok\n"
                assert (await client.head("/livez")).headers["content-length"] == "3"
                assert "[+]services/venue ok" in (await client.get("/readyz", params={"verbose": ""})).text
                assert (await client.get("/health")).json()["status"] == "pass"
                assert "shockproof_calls_total" in (await client.get("/metrics")).text
                assert (await client.post("/services/venue/force-open", content="tests")).status_code == 401
                client.headers["Authorization"] = f"Bearer {TOKEN}"
                forced = await client.post("/services/venue/force-open", content="tests")
                assert (forced.status_code, forced.text) == (200, "forced open\n")
            assert recovery.is_circuit_open("venue")
            limit = aiohttp.ClientTimeout(total=PATIENT)
            async with aiohttp.ClientSession(url, timeout=limit) as session:
                for _ in range(3):  # on one connection
                    async with session.get("/health") as response:
                        assert (await response.json())["checks"]["venue:breaker"][0][
                            "observedValue"
                        ] == "open"
                headers = {"Authorization": f"Bearer {TOKEN}"}
                async with session.post("/services/venue/release", headers=headers) as response:
                    assert response.status == 200
            assert not recovery.is_circuit_open("venue")

    on_real_time(main)


def test_two_requests_on_one_connection_are_answered_in_their_order(recovery: ErrorRecoveryService) -> None:
    """Also when the second is there before the first is answered; "close" ends it."""

    async def main() -> None:
        async with serve(recovery) as url, connected(url) as client:
            client.send(LIVEZ + LIVEZ.replace(b"/livez", b"/no"))
            assert [(await client.answer())[0], (await client.answer())[0]] == [200, 404]
            client.send(LIVEZ.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            status, headers, text = await client.answer()
            assert (status, headers["connection"], text) == (200, "close", "ok\n")
            assert await client.rest() == b""

    on_real_time(main)


def test_a_body_is_read_when_it_comes_in_pieces_and_asks_to_go_ahead(recovery: ErrorRecoveryService) -> None:
    """The next request begins behind it."""

    async def main() -> None:
        async with serve(recovery, token=TOKEN) as url, connected(url) as client:
            head = f"POST /halt HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {TOKEN}\r\n"
            client.send(f"{head}Content-Length: 13\r\nExpect: 100-continue\r\n\r\n".encode())
            assert (await client.answer())[0] == 100
            client.send(b"lost the")
            client.send(b" feed" + LIVEZ)
            assert (await client.answer())[::2] == (200, "halted\n")
            assert (await client.answer())[0] == 200
            assert recovery.get_health_status()["halt"]["reason"] == "lost the feed"

    on_real_time(main)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: b\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: b\r\nA: " + b"a" * 400_000, 431),
        (b"POST /halt HTTP/1.1\r\nHost: b\r\nContent-Length: 400000\r\n\r\n" + b"x" * 400_000, 413),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n", 400),
    ],
)
def test_a_request_that_is_too_large_or_none_is_refused_and_the_refusal_arrives(
    recovery: ErrorRecoveryService, sent: bytes, status: int
) -> None:
    """Also where the client sends on; the next client is answered."""

    async def main() -> None:
        async with bounded(recovery, linger_seconds=PATIENT) as (_, url):
            async with connected(url) as client:
                client.send(sent)
                found, headers, _ = await client.answer()
                assert (found, headers["connection"]) == (status, "close")
                assert await client.rest() == b""
            async with connected(url) as client:
                client.send(LIVEZ)
                assert (await client.answer())[0] == 200

    on_real_time(main)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /livez HT", 408),
        (b"POST /halt HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nlos", 408),
        (b"", None),
    ],
)
def test_a_connection_that_is_slow_or_idle_is_ended(
    recovery: ErrorRecoveryService, sent: bytes, status: int | None
) -> None:
    """Half a request is told; silence is ended silently, as an answer would be taken for that to the next request."""

    async def main() -> None:
        async with serve(recovery) as url, connected(url) as client:
            client.send(LIVEZ + sent)  # in one piece: with the first answer the rest is there
            assert (await client.answer())[0] == 200
            let_pass(11.0)
            if status is not None:
                assert (await client.answer())[0] == status
            assert await client.rest() == b""

    on_real_time(main)


@pytest.mark.asyncio
async def test_bytes_that_trickle_do_not_lengthen_the_time(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The limit is for the whole request, however often another byte comes."""
    reader: Any = asyncio.StreamReader(limit=MOST_HEAD)
    writer: Any = object()

    async def trickle() -> None:
        reader.feed_data(b"GET /livez HTTP/1.1\r\nHost: b\r\n")
        while True:
            reader.feed_data(b"a")
            await asyncio.sleep(0.3)

    trickling = asyncio.create_task(trickle())
    began = clock.monotonic()
    with pytest.raises(BadRequestError) as refused:
        await Server(Routes(recovery, None, None))._read(reader, writer)
    assert (refused.value.status, clock.monotonic() - began) == (408, 10.0)
    trickling.cancel()
    await asyncio.wait([trickling])


def test_an_answer_that_nobody_takes_is_given_up(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks and does not read holds nothing for ever."""

    async def large(self: Routes, request: object) -> Answer:
        return Answer(200, b"x" * 50_000_000)  # more than the sockets take

    monkeypatch.setattr(Routes, "answer", large)

    async def main() -> None:
        async with bounded(recovery, request_seconds=1e6) as (server, url):
            loop = asyncio.get_running_loop()
            host, _, port = url.removeprefix("http://").rpartition(":")
            with socket.socket() as client:
                client.setblocking(False)
                await loop.sock_connect(client, (host, int(port)))
                await loop.sock_sendall(client, LIVEZ)
                assert await loop.sock_recv(client, 4) == b"HTTP"  # so it is on its way
                connections = set(server._connections)
                assert len(connections) == 1
                let_pass(11.0)
                await asyncio.wait(connections)

    on_real_time(main)


def test_idle_connections_make_room_for_those_that_ask(recovery: ErrorRecoveryService) -> None:
    """However many are opened and held, a probe is answered; the one that is idle for longest goes."""

    async def main() -> None:
        async with bounded(recovery, connections=3) as (_, url), contextlib.AsyncExitStack() as stack:
            idle = []
            for _ in range(3):
                client = await stack.enter_async_context(connected(url))
                client.send(LIVEZ)
                assert (await client.answer())[0] == 200
                idle.append(client)
            client = await stack.enter_async_context(connected(url))
            client.send(LIVEZ)
            assert (await client.answer())[0] == 200
            assert await idle[0].rest() == b""
            for one in (idle[1], idle[2], client):
                one.send(LIVEZ)
                assert (await one.answer())[0] == 200

    on_real_time(main)


def test_the_end_of_the_block_ends_open_connections(
    recovery: ErrorRecoveryService,
) -> None:
    """Whether they are idle, half sent or never used; nothing listens any more, and asyncio has nothing to complain of."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        async with contextlib.AsyncExitStack() as stack:
            async with bounded(recovery) as (server, url):
                assert server._server is not None
                listening = server._server.sockets
                clients = [await stack.enter_async_context(connected(url)) for _ in range(3)]
                clients[0].send(LIVEZ)
                assert (await clients[0].answer())[0] == 200
                clients[1].send(b"GET /li")
            assert [one.fileno() for one in listening] == [-1]
            for client in clients:
                assert await client.rest() == b""

    on_real_time(main)
    assert complaints == []


def test_a_cancellation_ends_the_server(recovery: ErrorRecoveryService) -> None:
    """It is neither swallowed nor delayed by a connection that is open."""

    async def main() -> None:
        urls: asyncio.Queue[str] = asyncio.Queue()

        async def program() -> None:
            async with serve(recovery) as url:
                urls.put_nowait(url)
                await asyncio.Event().wait()

        task = asyncio.create_task(program())
        url = await urls.get()
        async with connected(url) as client:
            client.send(b"GET /li")
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert await client.rest() == b""

    on_real_time(main)


def test_an_answer_that_fails_is_logged_and_the_connection_goes_on(
    recovery: ErrorRecoveryService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told no more than that."""

    async def broken(self: Routes, request: object) -> None:
        raise RuntimeError("a collector of somebody else")

    async def main() -> None:
        async with serve(recovery) as url, connected(url) as client:
            with monkeypatch.context() as patched:
                patched.setattr(Routes, "answer", broken)
                client.send(LIVEZ)
                status, _, text = await client.answer()
                assert (status, text) == (500, "an error, which the program has logged\n")
            client.send(LIVEZ)
            assert (await client.answer())[0] == 200

    with caplog.at_level(logging.ERROR, "shockproof"):
        on_real_time(main)
    assert "a collector of somebody else" in caplog.text


def test_a_port_that_is_taken_is_named(recovery: ErrorRecoveryService) -> None:
    """With the way out."""

    async def main() -> None:
        async with serve(recovery) as url:
            port = int(url.rpartition(":")[2])
            with pytest.raises(OSError, match=f"port {port}: the port is taken.*port=0"):
                async with serve(recovery, port=port):
                    pass

    on_real_time(main)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"host": ""}, ValueError),
        ({"host": None}, TypeError),
        ({"port": -1}, ValueError),
        ({"port": 65536}, ValueError),
        ({"port": "80"}, TypeError),
        ({"host": "192.0.2.1"}, OSError),  # a network for examples
        ({"token": "short"}, ValueError),
    ],
)
def test_an_argument_that_is_none_is_refused_before_it_listens(
    recovery: ErrorRecoveryService, options: dict[str, Any], error: type[Exception]
) -> None:
    """By name."""

    async def main() -> None:
        with pytest.raises(error, match=next(iter(options))):
            async with serve(recovery, **options):
                pass

    on_real_time(main)


def test_metrics_without_the_library_say_how_to_install_it(tmp_path: Path) -> None:
    """Everything else works without: nothing but the three dependencies is there."""
    program = """
import sys
sys.modules.update(dict.fromkeys(("prometheus_client", "aiohttp", "httpx", "starlette", "uvicorn"), None))
import asyncio, urllib.request
from shockproof import ErrorRecoveryService
from shockproof.endpoints import serve
from shockproof.endpoints.exchange import Answer
from shockproof.endpoints.http1 import MOST_HEAD, BadRequestError

def get(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()

async def main():
    async with serve(ErrorRecoveryService("state", "errors")) as url:
        for page in ("/readyz", "/metrics"):
            print(*await asyncio.to_thread(get, url + page))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        cwd=tmp_path,
    )
    ready, metrics = done.stdout.strip().split("\n\n")
    assert ready == "200 ok"
    assert metrics.startswith("501 ")
    assert "pip install 'shockproof[prometheus]'" in metrics

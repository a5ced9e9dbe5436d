"""Streams over real sockets: readers that leave, stop reading, or are there when the server ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from shockproof import ErrorRecoveryService
from shockproof.endpoints import serve
from shockproof.endpoints.exchange import Stream
from shockproof.endpoints.relaying import relay
from shockproof.endpoints.routes import Routes
from shockproof.endpoints.server import Bounds, Server
from shockproof.testing import cancel_at_each_await

PATIENT = 60.0
"""Real seconds; only a hang takes that long."""
EVENTS = b"GET /status/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class LateLoop(asyncio.SelectorEventLoop):
    """An ordinary event loop whose time can be set forward, for what ends by its time."""

    skew = 0.0

    def time(self) -> float:
        return super().time() + self.skew


def on_real_time(main: Callable[[], Awaitable[None]]) -> None:
    """Run *main* on an ordinary event loop; one that hangs fails."""
    with asyncio.Runner(loop_factory=LateLoop) as runner:
        runner.run(asyncio.wait_for(main(), PATIENT))


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class Pieces(Routes):
    """Answers everything with a stream of one's own, and knows how it ended."""

    def __init__(self, recovery: ErrorRecoveryService, pieces: Callable[[], AsyncGenerator[bytes]]) -> None:
        super().__init__(recovery, None, None)
        self._pieces = pieces
        self.ended = asyncio.Event()

    async def answer(self, request: object) -> Stream:
        async def told() -> AsyncGenerator[bytes]:
            try:
                async for piece in self._pieces():
                    yield piece
            finally:
                self.ended.set()

        return Stream(told())


@contextlib.asynccontextmanager
async def serving(routes: Routes, **bounds: Any) -> AsyncIterator[tuple[Server, str]]:
    server = Server(routes, Bounds(**bounds))
    url = await server.listen("127.0.0.1", 0)
    try:
        yield server, url
    finally:
        await server.close()


async def one_and_silence() -> AsyncGenerator[bytes]:
    yield b"one\n"
    await asyncio.Event().wait()


def test_the_page_is_live_over_a_real_connection(recovery: ErrorRecoveryService) -> None:
    """The head says what it is, and what happens comes as it happens."""

    async def main() -> None:
        real = ErrorRecoveryService(recovery.state_dir, recovery.error_log_dir)
        real.service("venue")
        async with serve(real, status_page=True) as url, connected(url) as (reader, writer):
            writer.write(EVENTS)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 200 OK\r\n")
            assert "content-type: text/event-stream\r\n" in head
            assert "connection: close\r\n" in head
            assert "content-length" not in head
            await reader.readuntil(b'"whole":true}\n\n')
            real.set_circuit_mode("venue", "forced-open", "tests")
            while b"held open" not in await reader.readuntil(b"\n\n"):
                pass
        assert real._listeners.active == ()  # nothing is recorded behind the block
        await real.aclose()

    on_real_time(main)


@pytest.mark.parametrize(
    ("host", "name", "status"),
    [
        ("127.0.0.1", "127.0.0.1:9090", 200),
        ("127.0.0.1", "localhost:9090", 200),
        ("localhost", "LOCALHOST", 200),
        ("127.0.0.1", "[::1]:9090", 200),
        ("127.0.0.1", "10.0.0.7", 200),
        ("127.0.0.1", "evil.example:9090", 421),
        ("127.0.0.1", "127.0.0.1.evil.example", 421),
        ("localhost", "evil.example", 421),
        ("0.0.0.0", "bot.example", 200),
    ],
)
def test_a_page_for_this_machine_is_not_read_by_a_name_of_somebody_else(
    recovery: ErrorRecoveryService, host: str, name: str, status: int
) -> None:
    """A site may say that its name is 127.0.0.1, and read what is answered as its own; probes are answered all the same."""

    async def main() -> None:
        async with serve(recovery, host=host, status_page=True) as url:
            for path, expected in (("/status", status), ("/status.json", status), ("/livez", 200)):
                async with connected(url.replace("0.0.0.0", "127.0.0.1")) as (reader, writer):
                    writer.write(f"GET {path} HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
                    assert (await reader.readline()).split()[1] == str(expected).encode()

    on_real_time(main)


def test_a_reader_that_leaves_ends_its_stream_at_once(recovery: ErrorRecoveryService) -> None:
    """Also while nothing is there to be sent, and whether it says goodbye or not."""

    async def main() -> None:
        for is_rude in (False, True):
            routes = Pieces(recovery, one_and_silence)
            async with serving(routes) as (_, url), connected(url) as (reader, writer):
                writer.write(EVENTS)
                await reader.readuntil(b"one\n")
                assert not routes.ended.is_set()
                if is_rude:
                    writer.transport.abort()
                else:
                    writer.close()
                await routes.ended.wait()

    on_real_time(main)


def test_a_reader_that_does_not_read_is_given_up_and_holds_one_piece_at_most(
    recovery: ErrorRecoveryService,
) -> None:
    """The next piece is made when the one before has left: nothing piles up for whoever is slow."""
    made: asyncio.Queue[int] = asyncio.Queue()

    async def large() -> AsyncGenerator[bytes]:
        while True:
            made.put_nowait(1)
            yield b"x" * 20_000_000  # more than the sockets take

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LateLoop)
        routes = Pieces(recovery, large)
        async with serving(routes) as (_, url):
            host, _, port = url.removeprefix("http://").rpartition(":")
            with socket.socket() as client:
                client.setblocking(False)
                await loop.sock_connect(client, (host, int(port)))
                await loop.sock_sendall(client, EVENTS)
                await made.get()
                assert await loop.sock_recv(client, 4) == b"HTTP"
                loop.skew += 11.0
                await routes.ended.wait()
        assert made.empty()

    on_real_time(main)


def test_the_end_of_the_server_ends_the_streams(recovery: ErrorRecoveryService) -> None:
    """It does not wait for readers, who would stay for ever."""

    async def main() -> None:
        routes = Pieces(recovery, one_and_silence)
        async with contextlib.AsyncExitStack() as stack:
            async with serving(routes) as (_, url):
                reader, writer = await stack.enter_async_context(connected(url))
                writer.write(EVENTS)
                await reader.readuntil(b"one\n")
            assert routes.ended.is_set()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""

    on_real_time(main)


@pytest.mark.asyncio
async def test_a_relay_that_is_cancelled_anywhere_closes_its_stream() -> None:
    """At each of its awaits in turn: the cancellation comes out, and the stream is closed once."""
    begun = closed = 0

    async def pieces() -> AsyncGenerator[bytes]:
        nonlocal begun, closed
        begun += 1
        try:
            for _ in range(3):
                await asyncio.sleep(0)
                yield b"x"
        finally:
            closed += 1

    async def once() -> None:
        async def write(piece: bytes) -> None:
            await asyncio.sleep(0)

        await relay(pieces(), write, asyncio.Event().wait())

    async for run in cancel_at_each_await(once):
        assert run.error is None or isinstance(run.error, asyncio.CancelledError), run
    assert begun == closed > 3


@pytest.mark.asyncio
async def test_what_a_stream_or_a_write_raises_comes_out() -> None:
    """A broken connection is told to whoever has it to end."""

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"x"

    async def write(piece: bytes) -> None:
        raise TimeoutError("not taken")

    with pytest.raises(TimeoutError, match="not taken"):
        await relay(pieces(), write, asyncio.Event().wait())

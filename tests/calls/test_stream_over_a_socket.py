"""A feed over a real WebSocket: cut, silent, closed in good order, and back each time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from shockproof import ErrorRecoveryService

aiohttp = pytest.importorskip("aiohttp")
web = pytest.importorskip("aiohttp.web")

pytestmark = pytest.mark.asyncio


class Venue:
    """Sends 0, 1, 2 ...; each of its first three connections ends in another way."""

    def __init__(self) -> None:
        self.sent = 0
        self.connections = 0
        self.open_now = 0
        self.all_are_closed = asyncio.Event()
        self.url = ""

    async def handle(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        self.connections += 1
        ending = self.connections
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        self.open_now += 1
        self.all_are_closed.clear()
        try:
            for _ in range(3):
                await ws.send_str(str(self.sent))
                self.sent += 1
            if ending == 1:
                assert request.transport is not None
                request.transport.abort()
            elif ending == 2:
                await ws.receive()  # silence, until the other side goes
            elif ending == 3:
                await ws.close()
            else:
                await ws.receive()
        finally:
            self.open_now -= 1
            if not self.open_now:
                self.all_are_closed.set()
        return ws

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/prices", self.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        try:
            await web.SockSite(runner, listening).start()
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/prices"
            yield
        finally:
            await runner.cleanup()


Connect = Callable[[], AbstractAsyncContextManager[AsyncIterator[int]]]


def connecting(session: aiohttp.ClientSession, venue: Venue) -> Connect:
    @asynccontextmanager
    async def connect() -> AsyncIterator[AsyncIterator[int]]:
        async with session.ws_connect(venue.url) as ws:
            yield (int(message.data) async for message in ws)

    return connect


@pytest.mark.parametrize("grace", [None, 1.0])
async def test_a_feed_over_a_websocket_comes_back_each_time(tmp_path: Path, grace: float | None) -> None:
    """Every item that was sent is received once and in order; each loss is a gap; every socket is closed."""
    venue = Venue()
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.01)
    feed = recovery.service("prices", circuit_threshold=None, grace=grace)
    received: list[int] = []
    gaps: list[str] = []
    async with recovery, venue.running(), aiohttp.ClientSession() as session:
        async with feed.stream(connecting(session, venue), stale_after=0.25) as ticks:
            async for tick in ticks:
                received.append(tick)
                if ticks.gap is not None:
                    gaps.append(ticks.gap.error_type)
                if tick == 11:
                    break
        # The server hears of the last close by the network.
        await asyncio.wait_for(venue.all_are_closed.wait(), 60.0)
    assert received == list(range(12))
    # aiohttp ends the iteration when the connection is reset, and when it is closed.
    assert gaps == ["StreamEndedError", "StreamSilentError", "StreamEndedError"]
    assert venue.connections == 4


async def test_the_connection_of_a_library_can_be_given_as_it_is(tmp_path: Path) -> None:
    """What ws_connect gives is to be awaited or entered: it is entered, read, and closed."""
    venue = Venue()
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.01)
    feed = recovery.service("prices", circuit_threshold=None)
    received: list[str] = []
    async with recovery, venue.running(), aiohttp.ClientSession() as session:
        messages = feed.stream(lambda: session.ws_connect(venue.url), stale_after=5.0)
        async for message in messages:
            received.append(message.data)
            if len(received) == 5:
                break
        await messages.aclose()
    assert received == ["0", "1", "2", "3", "4"]

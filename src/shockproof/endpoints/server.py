"""A server for the endpoints and nothing else, where no web framework is there anyway."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from shockproof.endpoints.access import is_this_machine
from shockproof.endpoints.exchange import Answer, Request, Stream, plain
from shockproof.endpoints.http1 import MOST_HEAD, BadRequestError, bytes_of, head_of, head_of_stream
from shockproof.endpoints.relaying import relay
from shockproof.endpoints.routes import Routes
from shockproof.vocabulary.arguments import names_the_nearest, whole_number

if TYPE_CHECKING:
    from shockproof.integrations.prometheus import CollectorRegistry
    from shockproof.service import ErrorRecoveryService

__all__ = ["Bounds", "Server", "serve"]

_MOST_LEFT: Final = 1 << 20
"""Bytes of a refused request that are read and thrown away, so that its sender reads the refusal."""

_log = logging.getLogger("shockproof")


class Bounds(NamedTuple):
    """What one client may take from the others."""

    request_seconds: float = 10.0
    """For a request to be there as a whole; as long, a connection may be idle."""
    answer_seconds: float = 10.0
    """For an answer to be taken, or one piece of a stream."""
    linger_seconds: float = 2.0
    """For the rest of a request that was refused."""
    connections: int = 64
    """At a time. One more ends the one that has waited longest for its next request."""


@names_the_nearest
@asynccontextmanager
async def serve(
    recovery: ErrorRecoveryService,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    registry: CollectorRegistry | None = None,
    status_page: bool = False,
) -> AsyncGenerator[str]:
    """
    The endpoints of `health_app` by a small HTTP/1.1 server of their own, as long as the block lasts.

    ``async with serve(recovery, port=9090) as url:`` gives its address, such as ``http://127.0.0.1:9090``. It runs on
    the event loop of the program: a loop that stands still does not answer, and that is what ``/livez`` is for.
    A request has 10 seconds to arrive and its answer 10 seconds to be taken; its head has at most 16 KiB, its body
    4 KiB; 64 connections are open at most, and one more ends the one that has been idle for longest.

    Args:
        recovery: whose health.
        host: where to listen, an address or a name. Default: only this machine. ``"0.0.0.0"`` is every network: it
            is needed for probes of Kubernetes, and who can reach it reads the health. A name that has several addresses is
            listened on at each, with port 0 at ports that differ; the URL is that of the first.
        port: 0 to 65535. Default: 0, one that is free.
        token: as in `health_app`. It goes over the network as it is: beyond this machine, put TLS in front.
        registry: as in `health_app`.
        status_page: as in `health_app`; what it draws is recorded as long as the block lasts.

    Raises:
        TypeError, ValueError: an argument that is none.
        OSError: it cannot listen there: the port is taken, or the host is not this machine's.

    At the end of the block, also by a cancellation, it listens no more, and connections that are open are ended.
    """
    if not isinstance(host, str):
        raise TypeError(f'host must be a string such as "127.0.0.1", got {host!r}')
    if not host:  # which would be every network
        raise ValueError(f'host must be an address or a name such as "127.0.0.1", got {host!r}')
    if whole_number("port", port, minimum=0) > 65535:
        raise ValueError(f"port must be 0 to 65535, got {port!r}")
    routes = Routes(
        recovery, token, registry, status_page=status_page, for_this_machine=is_this_machine(host)
    )
    server = Server(routes)
    try:
        yield await server.listen(host, port)
    finally:
        routes.close()
        await server.close()


class Server:
    """Listens, and answers by *routes*."""

    def __init__(self, routes: Routes, bounds: Bounds | None = None) -> None:
        self._routes = routes
        self._bounds = Bounds() if bounds is None else bounds
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.StreamWriter, None] = {}  # by when they began to wait
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> str:
        """Begin; the address, as a URL."""
        try:
            # Twice the limit is what a connection may have in memory.
            self._server = await asyncio.start_server(self._connected, host, port, limit=MOST_HEAD)
        except OSError as error:
            raise _cannot_listen(error, host, port) from error
        address, number = self._server.sockets[0].getsockname()[:2]
        return f"http://{f'[{address}]' if ':' in address else address}:{number}"

    async def listen_on(self, bound: socket.socket) -> None:
        """Begin on a Unix socket that has its name already."""
        self._server = await asyncio.start_unix_server(self._connected, sock=bound, limit=MOST_HEAD)

    async def close(self) -> None:
        """Listen no more, and end the connections; an answer that is under way is not waited for."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not self._has_room():
            writer.transport.abort()
            return

        def ended(task: asyncio.Task[None]) -> None:
            self._connections.discard(task)
            if task.cancelled():  # maybe before its first step
                writer.transport.abort()

        # A task of our own: that of a coroutine function is asyncio's, which on Python 3.11 raises when it was cancelled.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # what is drained has left: nothing is there to close for
        try:
            while await self._exchange(reader, writer):
                pass
            writer.close()
        except (OSError, EOFError):  # gone; or it took too long with reading, which is a TimeoutError
            writer.transport.abort()
        except BaseException:
            writer.transport.abort()
            raise
        finally:
            self._waiting.pop(writer, None)

    def _has_room(self) -> bool:
        if len(self._connections) < self._bounds.connections:
            return True
        for idle in self._waiting:
            del self._waiting[idle]
            idle.transport.abort()
            return True
        return False  # all are being answered

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection stays open for the next one."""
        try:
            request, keeps_open = await self._read(reader, writer)
        except BadRequestError as bad:
            await self._write(writer, plain(bad.status, str(bad)), with_body=True, keeps_open=False)
            await self._read_what_is_left(reader, writer)
            return False
        try:
            answer: Answer | Stream = await self._routes.answer(request)
        except Exception:  # noqa: BLE001 - whatever a collector raises, the next request is answered
            _log.exception("no answer to %s %r", request.method, request.path)
            answer = plain(500, "an error, which the program has logged")
        if isinstance(answer, Stream):
            await self._put(writer, head_of_stream(answer))
            await relay(answer.pieces, lambda piece: self._put(writer, piece), reader.read(1))
            return False
        await self._write(writer, answer, with_body=request.method != "HEAD", keeps_open=keeps_open)
        return keeps_open

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Request, bool]:
        has_begun = False
        self._waiting[writer] = None
        try:
            async with asyncio.timeout(self._bounds.request_seconds):
                first = await reader.readexactly(1)
                has_begun = True
                head = head_of(first + await reader.readuntil(b"\r\n\r\n"))
                if head.awaits_go_ahead and head.length:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(head.length)
        except asyncio.LimitOverrunError:
            raise BadRequestError(431, f"the head must be at most {MOST_HEAD} bytes") from None
        except TimeoutError:
            if not has_begun:
                raise  # who is idle would read an answer as that to his next request
            raise BadRequestError(408, "the request took too long to arrive") from None
        finally:
            self._waiting.pop(writer, None)
        return Request(head.method, head.path, head.query, head.headers, body), head.keeps_open

    async def _write(
        self, writer: asyncio.StreamWriter, answer: Answer, *, with_body: bool, keeps_open: bool
    ) -> None:
        await self._put(writer, bytes_of(answer, with_body=with_body, keeps_open=keeps_open))

    async def _put(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        async with asyncio.timeout(self._bounds.answer_seconds):
            await writer.drain()

    async def _read_what_is_left(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A socket that is closed with bytes in it resets the connection, and the refusal is lost with it.
        if writer.can_write_eof():
            writer.write_eof()
        left = _MOST_LEFT
        async with asyncio.timeout(self._bounds.linger_seconds):
            while left > 0 and (piece := await reader.read(MOST_HEAD)):
                left -= len(piece)


def _cannot_listen(error: OSError, host: str, port: int) -> OSError:
    if error.errno == errno.EADDRINUSE:
        why = (
            "the port is taken: end what listens there, or choose another one; port=0 takes one that is free"
        )
    elif error.errno == errno.EACCES:
        why = "the system does not allow it: choose a port above 1023"
    else:
        why = f"{error.strerror or error}: host must be an address of this machine"
    return type(error)(error.errno, f"cannot listen on host {host!r}, port {port}: {why}")

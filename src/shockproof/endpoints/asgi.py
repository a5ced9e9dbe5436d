"""The endpoints as an ASGI app, to be mounted in whatever speaks it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from shockproof.endpoints.exchange import MOST_BODY, Answer, Request, Stream, plain
from shockproof.endpoints.relaying import relay
from shockproof.endpoints.routes import Routes

if TYPE_CHECKING:
    from shockproof.integrations.prometheus import CollectorRegistry
    from shockproof.service import ErrorRecoveryService

__all__ = ["AsgiApp", "health_app"]

_PIECE_SECONDS: Final = 10.0
"""For a piece of a stream to be taken, as by the server of our own: who does not read keeps nobody from reading."""

Message = MutableMapping[str, Any]  # Any: what ASGI 3.0 says of each key
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]


def health_app(
    recovery: ErrorRecoveryService,
    *,
    token: str | None = None,
    registry: CollectorRegistry | None = None,
    status_page: bool = False,
) -> AsgiApp:
    """
    An ASGI app with ``/livez``, ``/readyz``, ``/health`` and ``/metrics``, and what changes something.

    Mount it in FastAPI or Starlette with ``app.mount("/shockproof", health_app(recovery))``, in Litestar with
    ``asgi("/shockproof", is_mount=True)(health_app(recovery))``. It needs no lifespan.

    Args:
        recovery: whose health.
        token: what ``Authorization: Bearer ...`` must hold to change something, at least 16 characters.
            Default: None, and then nothing can be changed. Reading needs none.
        registry: what ``/metrics`` shows, a registry of prometheus_client. It is read in a thread, one scrape at a time.
            Default: one of its own, with a `ShockproofCollector` without options.
        status_page: also ``/status``, a page for people that moves with the program, and ``/status.json``. What it draws
            is recorded from now on, as long as *recovery* lives: each success is counted a second time, and something small
            happens on the loop four times a second. It shows texts of errors to whoever can read it. Default: False.

    Raises:
        TypeError, ValueError: a token that is none; when called.

    A request that is cancelled changes its circuit or halts, or has not begun to.
    """
    routes = Routes(recovery, token, registry, status_page=status_page)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await _answer(routes, scope, receive, send)
        elif kind == "lifespan":
            await _live(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise ValueError(f"health_app speaks http, got a scope of type {kind!r}")

    return app


async def _answer(routes: Routes, scope: Message, receive: Receive, send: Send) -> None:
    body = await _body(receive)
    if body is None:
        return  # whoever asked is gone
    answer: Answer | Stream
    if len(body) > MOST_BODY:
        answer = plain(413, f"the body must be at most {MOST_BODY} bytes")
    else:
        answer = await routes.answer(
            Request(
                scope["method"], _path(scope), scope.get("query_string", b""), tuple(scope["headers"]), body
            )
        )
    if isinstance(answer, Stream):
        await _relay(answer, receive, send)
    else:
        await _send(answer, send, with_body=scope["method"] != "HEAD")


async def _body(receive: Receive) -> bytes | None:
    """The body, or as much of it as shows that it is too long; None if the client went away."""
    body = b""
    while len(body) <= MOST_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return body


def _path(scope: Message) -> str:
    """The path below where it is mounted: frameworks give the whole of it with `root_path`, or what is left."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    if path.endswith("/") and not (scope.get("raw_path") or b"/").endswith(b"/"):
        path = path[:-1]  # Litestar adds it below a mount, and relative ways are those of what was asked for
    # A proxy may have cut off where the framework believes to be, and Starlette says how much of it that is.
    for front in (root, root.removeprefix(str(scope.get("app_root_path", "")).rstrip("/"))):
        if front and (path == front or path.startswith(f"{front}/")):
            return path[len(front) :]
    return path


async def _relay(stream: Stream, receive: Receive, send: Send) -> None:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def write(piece: bytes) -> None:
        async with asyncio.timeout(_PIECE_SECONDS):
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    await send({"type": "http.response.start", "status": 200, "headers": _headers(stream)})
    try:
        await relay(stream.pieces, write, gone())
    except OSError:
        return  # the reader has gone, as servers say it by ASGI 2.4, or does not read
    await send({"type": "http.response.body", "body": b""})


def _headers(answer: Answer | Stream) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]


async def _send(answer: Answer, send: Send, *, with_body: bool) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": _headers(answer)})
    await send({"type": "http.response.body", "body": answer.body if with_body else b""})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return

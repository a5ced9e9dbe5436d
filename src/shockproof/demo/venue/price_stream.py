"""Prices by WebSocket, in the dialect of Binance's streams."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from shockproof.demo.venue import dialect
from shockproof.demo.venue.connection_reset import reset
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shockproof.demo.venue.exchange import Exchange
    from shockproof.demo.venue.market_statistics import Trade

__all__ = ["PriceStream"]

_KINDS = ("bookTicker", "trade")
_BACKLOG = 500  # trades kept for a slow reader: older ones are skipped, as on the exchange


class _Subscriber:
    """One connection: what it wants, and what waits for it."""

    def __init__(self, transport: asyncio.BaseTransport | None, *, combined: bool) -> None:
        self.transport = transport
        self.combined = combined
        self.streams: set[str] = set()
        self.books: dict[str, dialect.JsonObject] = {}  # the newest of each: a slow reader skips, never lags
        self.events: deque[tuple[str, dialect.JsonObject]] = deque(maxlen=_BACKLOG)
        self.replies: list[dialect.JsonObject] = []
        self.something = asyncio.Event()

    def take(self) -> list[str]:
        """Everything that waits, as text, and nothing waits any more."""
        messages = [json.dumps(reply) for reply in self.replies]
        for stream, event in [*self.books.items(), *self.events]:
            messages.append(json.dumps({"stream": stream, "data": event} if self.combined else event))
        self.books.clear()
        self.events.clear()
        self.replies.clear()
        self.something.clear()
        return messages


class PriceStream:
    """
    ``/ws/<stream>``, ``/stream?streams=<stream>/<stream>`` and SUBSCRIBE messages.

    Streams are ``<symbol>@bookTicker`` and ``<symbol>@trade``, symbols in lower case. A reader
    that is slow gets the newest quotes and the last 500 trades; it never holds up the market.
    """

    def __init__(self) -> None:
        self._subscribers: set[_Subscriber] = set()
        self._exchange: Exchange | None = None
        self._last_sent: dict[str, dialect.JsonObject] = {}
        self._updates = 0

    def add_to(self, app: web.Application, exchange: Exchange) -> None:
        """Register the routes for that exchange."""
        self._exchange = exchange
        app.router.add_get("/ws", self._handle)
        app.router.add_get("/ws/{stream}", self._handle)
        app.router.add_get("/stream", self._handle)

    def on_trade(self, trade: Trade) -> None:
        """A trade for everybody who wants it."""
        stream = f"{trade.symbol.lower()}@trade"
        for subscriber in self._subscribers:
            if stream in subscriber.streams:
                subscriber.events.append((stream, dialect.trade_event(trade, trade.at)))
                subscriber.something.set()

    def publish_books(self) -> None:
        """The best prices, where they have changed."""
        exchange = self._exchange
        if exchange is None:
            return
        for symbol in exchange.engine.instruments:
            event = dialect.book_ticker_event(symbol, exchange.engine.book(symbol), 0)
            if self._last_sent.get(symbol) == event:
                continue
            self._last_sent[symbol] = event
            self._updates += 1
            stream = f"{symbol.lower()}@bookTicker"
            for subscriber in self._subscribers:
                if stream in subscriber.streams:
                    subscriber.books[stream] = event | {"u": self._updates}
                    subscriber.something.set()

    def cut_all(self) -> int:
        """Reset every connection. Returns how many there were."""
        cut = len(self._subscribers)
        for subscriber in self._subscribers:
            reset(subscriber.transport)
        return cut

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        exchange = self._exchange
        if exchange is None:
            raise web.HTTPServiceUnavailable
        if exchange.clock.has_begun:
            elapsed = exchange.clock.elapsed()
            fault = exchange.faults.decide(Endpoint.STREAM, elapsed)
            if fault is not None and fault.kind is FaultKind.OUTAGE:
                exchange.faults.record(fault.kind, Endpoint.STREAM, elapsed)
                reset(request.transport)
                return web.Response()
        subscriber = _Subscriber(request.transport, combined=request.path == "/stream")
        wanted = [request.match_info["stream"]] if "stream" in request.match_info else []
        if subscriber.combined:
            wanted = [name for name in request.query.get("streams", "").split("/") if name]
        complaint = self._subscribe(subscriber, wanted)
        if complaint is not None:
            raise web.HTTPBadRequest(text=complaint)
        # No compression: cheap to run, and a cut in the middle of a frame stays a plain cut.
        socket = web.WebSocketResponse(heartbeat=30.0, compress=False)
        await socket.prepare(request)
        self._subscribers.add(subscriber)
        sender = asyncio.create_task(self._send(socket, subscriber), name="price stream sender")
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._command(subscriber, message.data)
        finally:
            self._subscribers.discard(subscriber)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return socket

    async def _send(self, socket: web.WebSocketResponse, subscriber: _Subscriber) -> None:
        while True:
            await subscriber.something.wait()
            for message in subscriber.take():
                try:
                    await socket.send_str(message)
                except ConnectionError:
                    return  # the reading side ends by itself

    def _subscribe(self, subscriber: _Subscriber, streams: Iterable[str]) -> str | None:
        exchange = self._exchange
        known = [] if exchange is None else [symbol.lower() for symbol in exchange.engine.instruments]
        for stream in streams:
            symbol, _, kind = stream.partition("@")
            if symbol not in known or kind not in _KINDS:
                return f"stream must be one of {', '.join(known)} followed by @bookTicker or @trade, got {stream!r}"
            subscriber.streams.add(stream)
            if kind == "bookTicker" and exchange is not None:
                # The present price at once: a new reader does not wait for the next move.
                book = exchange.engine.book(symbol.upper())
                subscriber.books[stream] = dialect.book_ticker_event(symbol.upper(), book, self._updates)
                subscriber.something.set()
        return None

    def _command(self, subscriber: _Subscriber, text: str) -> None:
        try:
            command = json.loads(text)
            method, streams, number = command["method"], list(command.get("params", [])), command.get("id")
        except (ValueError, TypeError, KeyError, AttributeError):
            reply: dialect.JsonObject = {"error": {"code": 2, "msg": "Invalid request: not a command"}}
        else:
            complaint: str | None = None
            result: object = None
            if method == "SUBSCRIBE":
                complaint = self._subscribe(subscriber, [str(stream) for stream in streams])
            elif method == "UNSUBSCRIBE":
                subscriber.streams.difference_update(str(stream) for stream in streams)
            elif method == "LIST_SUBSCRIPTIONS":
                result = sorted(subscriber.streams)
            else:
                complaint = f"unknown method {method!r}"
            reply = {"result": result, "id": number}
            if complaint is not None:
                reply = {"error": {"code": 2, "msg": f"Invalid request: {complaint}"}, "id": number}
        subscriber.replies.append(reply)
        subscriber.something.set()

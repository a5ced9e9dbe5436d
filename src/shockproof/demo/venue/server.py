"""The venue's sockets: trading, reference rates and admin, each on a port of its own."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Self

from aiohttp import web

from shockproof.demo.prices.reference_rates import load_reference_rates
from shockproof.demo.prices.replay import PriceReplay
from shockproof.demo.venue.admin import admin_app
from shockproof.demo.venue.alpaca_rest import AlpacaInterface
from shockproof.demo.venue.connection_reset import reset
from shockproof.demo.venue.exchange import Exchange, SessionClock
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind
from shockproof.demo.venue.price_stream import PriceStream
from shockproof.demo.venue.reference_service import reference_app
from shockproof.demo.venue.rest import RestInterface

if TYPE_CHECKING:
    from types import TracebackType

    from shockproof.demo.venue.fault_plan import FaultPlan

__all__ = ["VenueServer"]

HOST = "127.0.0.1"
_GRACE = 0.05  # seconds for answers under way when the venue ends: their connections are reset anyway


class _Port:
    """
    One listening port that can be closed and opened again.

    A second socket is bound to the same port without listening: while the port is closed nobody
    else can be given it, and who connects is refused.
    """

    def __init__(self, app: web.Application, port: int) -> None:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE)
        self._wanted = port
        self._placeholder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self.number = port

    @property
    def is_open(self) -> bool:
        return self._server is not None

    async def set_up(self) -> None:
        await self._runner.setup()
        self._placeholder = self._bind(self._wanted)
        self.number = self._placeholder.getsockname()[1]
        if not self._can_share():
            self._placeholder.close()
            self._placeholder = None
        await self.open()

    async def open(self) -> None:
        if self._server is None and self._runner.server is not None:
            self._server = await asyncio.get_running_loop().create_server(
                self._runner.server, sock=self._bind(self.number), backlog=128
            )

    def close(self) -> None:
        """Stop listening. Open connections stay: ``reset_connections`` ends them."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def reset_connections(self) -> None:
        if self._runner.server is not None:
            for connection in self._runner.server.connections:
                reset(connection.transport)

    async def tear_down(self) -> None:
        self.close()
        await self._runner.cleanup()
        if self._placeholder is not None:
            self._placeholder.close()

    @staticmethod
    def _can_share() -> bool:
        return hasattr(socket, "SO_REUSEPORT")

    def _bind(self, port: int) -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._can_share():
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind((HOST, port))
        except OSError as error:
            bound.close()
            raise OSError(
                error.errno, f"cannot use port {port} on {HOST}: {error.strerror}; choose another"
            ) from error
        return bound


class VenueServer:
    """
    The whole venue in one event loop, as an async context manager.

    Args:
        plan: what goes wrong, and when.
        day_seconds: seconds of session time for one published day of prices.
        first_day: index of the published day to begin with; by default the seed picks one.
        port, reference_port, admin_port: 0 for a free one.
        clock: the session's, for tests.
        tick: seconds between two moves of the market; None: it moves only by ``step``, for tests.

    Raises:
        OSError: on entering, when a port cannot be used.
    """

    def __init__(
        self,
        plan: FaultPlan,
        *,
        day_seconds: float = 0.5,
        first_day: int | None = None,
        port: int = 0,
        reference_port: int = 0,
        admin_port: int = 0,
        clock: SessionClock | None = None,
        tick: float | None = 0.05,
    ) -> None:
        self._tick = tick
        self._stream = PriceStream()
        self.exchange = Exchange(
            PriceReplay(load_reference_rates(), seed=plan.seed, day_seconds=day_seconds, first_day=first_day),
            plan,
            clock=SessionClock() if clock is None else clock,
            on_trade=self._stream.on_trade,
        )
        self._rest = RestInterface(self.exchange)
        trading = web.Application()
        self._rest.add_to(trading)
        self._alpaca = AlpacaInterface(self.exchange)
        self._alpaca.add_to(trading)
        self._stream.add_to(trading, self.exchange)
        self._trading = _Port(trading, port)
        self._reference = _Port(reference_app(self.exchange), reference_port)
        self._admin = _Port(admin_app(self.exchange, self._rest), admin_port)
        self._ticker: asyncio.Task[None] | None = None
        self._done: set[int] = set()

    @property
    def base_url(self) -> str:
        """REST: ``/api/v3/...`` in Binance's dialect, ``/v2/...`` in Alpaca's."""
        return f"http://{HOST}:{self._trading.number}"

    @property
    def stream_url(self) -> str:
        """WebSocket: ``/ws/...`` and ``/stream?streams=...``."""
        return f"ws://{HOST}:{self._trading.number}"

    @property
    def reference_url(self) -> str:
        return f"http://{HOST}:{self._reference.number}"

    @property
    def admin_url(self) -> str:
        return f"http://{HOST}:{self._admin.number}"

    async def __aenter__(self) -> Self:
        try:
            for port in (self._admin, self._reference, self._trading):
                await port.set_up()
        except BaseException:
            await self._tear_down()
            raise
        if self._tick is not None:
            self._ticker = asyncio.create_task(self._run(self._tick), name="venue market")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
        await self._tear_down()

    async def _tear_down(self) -> None:
        self._rest.close()
        self._alpaca.close()
        for port in (self._trading, self._reference, self._admin):
            # Whatever hangs in a slow answer is not waited for: the venue ends when it is told to.
            port.close()
            port.reset_connections()
            await port.tear_down()

    async def _run(self, tick: float) -> None:
        while True:
            await self.step()
            await asyncio.sleep(tick)

    @property
    def failure(self) -> BaseException | None:
        """What stopped the market, or None while it moves: a standing market must not pass for a calm one."""
        if self._ticker is None or not self._ticker.done() or self._ticker.cancelled():
            return None
        return self._ticker.exception()

    async def step(self) -> None:
        """One tick: the market moves, and the plan's outages and cuts begin or end."""
        self.exchange.tick()
        self._stream.publish_books()
        if not self.exchange.clock.has_begun:
            return
        elapsed = self.exchange.clock.elapsed()
        refused = False
        for index, window in enumerate(self.exchange.faults.plan.windows):
            if window.kind not in (FaultKind.OUTAGE, FaultKind.STREAM_CUT) or elapsed < window.start:
                continue
            if index not in self._done:
                self._done.add(index)
                self._begin(window.kind, elapsed)
            # First the connections are reset, then nobody listens any more.
            if window.kind is FaultKind.OUTAGE and (window.start + window.end) / 2 <= elapsed < window.end:
                refused = True
        if refused and self._trading.is_open:
            self._trading.close()
            self._trading.reset_connections()
        elif not refused and not self._trading.is_open:
            await self._trading.open()

    def _begin(self, kind: FaultKind, elapsed: float) -> None:
        for _ in range(self._stream.cut_all()):
            self.exchange.faults.record(kind, Endpoint.STREAM, elapsed)
        if kind is FaultKind.OUTAGE:
            self._trading.reset_connections()

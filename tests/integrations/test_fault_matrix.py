"""
What goes wrong at a venue, times what a call does there, times the client that makes it.

Each case is one call of an unmodified client, over real sockets, to the embedded venue. Between them runs a wire that
does one thing to the first request of the case. The judge is the venue's ledger, which knows nothing of shockproof.
Sockets and clients live in real time; what shockproof waits for by itself (backoffs, settle windows) passes at once, on a
clock that leaps, and a venue that books late goes by the same clock.

All cases that pytest collected are played side by side, since most of their time is waiting; each test looks at one.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import itertools
import json
import socket
import ssl
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

for name in ("aiohttp", "alpaca", "binance", "ccxt", "httpx"):
    pytest.importorskip(name, reason=f"{name} is not installed")

import aiohttp  # noqa: E402  after the importorskip
import httpx  # noqa: E402  as above
from alpaca.trading.client import TradingClient  # noqa: E402  as above
from alpaca.trading.enums import OrderSide, TimeInForce  # noqa: E402  as above
from alpaca.trading.requests import LimitOrderRequest, MarketOrderRequest  # noqa: E402  as above
from binance import AsyncClient  # noqa: E402  as above

import shockproof.integrations.aiohttp  # noqa: E402  as above
import shockproof.integrations.alpaca  # noqa: E402  as above
import shockproof.integrations.binance  # noqa: E402  as above
import shockproof.integrations.ccxt  # noqa: E402  as above
import shockproof.integrations.httpx  # noqa: E402  as above
from shockproof import (  # noqa: E402  as above
    NOT_FOUND,
    CallInfo,
    ErrorRecoveryService,
    Found,
    Outcome,
    Verdict,
    attempts_of,
)
from shockproof.demo.venue.client import connect_ccxt  # noqa: E402  as above
from shockproof.demo.venue.connection_reset import reset  # noqa: E402  as above
from shockproof.demo.venue.exchange import SessionClock  # noqa: E402  as above
from shockproof.demo.venue.fault_plan import BOOKED_WITHIN, FaultPlan  # noqa: E402  as above
from shockproof.demo.venue.orders import NewOrder, OrderStatus, OrderType, Side  # noqa: E402  as above
from shockproof.demo.venue.server import VenueServer  # noqa: E402  as above
from shockproof.demo.venue.signature import DEMO_KEY, DEMO_SECRET  # noqa: E402  as above
from shockproof.vocabulary.clock import SystemClock  # noqa: E402  as above

if TYPE_CHECKING:
    from shockproof.vocabulary.look_up import LookUp

pytestmark = pytest.mark.timeout(300)  # the first test that asks plays all of them

HOST = "127.0.0.1"
PATIENT = 30.0
IMPATIENT = 5.0
"""Seconds until a client gives up on a venue that stays silent."""
SETTLE = 10.0
AT_ONCE = 32

Effect = Literal["none", "unknown", "done"]
EFFECTS = ("read", "idempotent", "keyed", "unsafe")


# -- what goes wrong -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What becomes of the first request."""

    name: str
    proves: Effect
    """What its error proves, looked at with everything that the client lets through."""
    nowhere: Literal["", "refused", "dns", "tls"] = ""
    """The request does not reach the wire: there is no connection to begin with."""
    books: Literal["not", "first", "late", "twice"] = "not"
    """Whether the venue gets it: not at all, before the answer, `BOOKED_WITHIN` behind it, or before it and once more."""
    answers: Literal["status", "reset", "close", "half", "garbage", "silence", "venue", "cancel"] = "status"
    """``silence`` lasts until the client gives up, ``cancel`` until the caller does; ``venue`` is the venue's own word."""
    status: int = 0
    body: str = "<html>no</html>"
    retry_after: int | None = None
    ends_it: bool = False
    """A clear no: it is not worth another try."""
    only: tuple[str, ...] = ()
    """The clients that it is for; all of them by default."""

    def is_for(self, client: str, effect: str) -> bool:
        if self.books == "twice" and effect not in {"keyed", "unsafe"}:
            return False  # only an order has an id of its own
        if effect == "read" and self.books != "not" and self.answers not in {"half", "garbage", "silence"}:
            return False  # nothing to book: the same as its twin without booking
        return not self.only or client in self.only


TIMED_OUT = json.dumps({"code": -1007, "msg": "Timeout waiting for response; execution status unknown."})

FAULTS = (
    Fault("nobody listens", "none", nowhere="refused"),
    Fault("no such host", "none", nowhere="dns"),
    Fault("a certificate that nobody trusts", "none", nowhere="tls"),
    Fault("reset before it was booked", "unknown", answers="reset"),
    Fault("reset after it was booked", "unknown", answers="reset", books="first"),
    Fault("reset, and booked later", "unknown", answers="reset", books="late"),
    Fault("closed before it was booked", "unknown", answers="close"),
    Fault("closed after it was booked", "unknown", answers="close", books="first"),
    Fault("closed, and booked later", "unknown", answers="close", books="late"),
    Fault("half an answer", "unknown", answers="half", books="first"),
    Fault("garbage for an answer", "unknown", answers="garbage", books="first"),
    Fault("no answer in time", "unknown", answers="silence", books="first"),
    Fault("504, and booked later", "unknown", status=504, books="late"),
    Fault("400", "none", status=400, ends_it=True),
    Fault("403 of a firewall", "none", status=403, ends_it=True),
    Fault("408", "unknown", status=408),
    Fault("409", "unknown", status=409),
    Fault("418 with a time to wait", "none", status=418, retry_after=1),
    Fault("429 with a time to wait", "none", status=429, retry_after=1),
    *(
        Fault(f"{status} {when} it was booked", "unknown", status=status, books=books)
        for status in (500, 502, 503, 504)
        for when, books in (("before", "not"), ("after", "first"))
    ),
    Fault("400 with code -1007, and booked", "unknown", status=400, body=TIMED_OUT, books="first",
          only=("ccxt", "python-binance")),
    Fault("sent twice on the way", "done", answers="venue", books="twice"),
    Fault("cancelled before it was booked", "unknown", answers="cancel"),
    Fault("cancelled after it was booked", "unknown", answers="cancel", books="first"),
)  # fmt: skip


class LeapingClock(SystemClock):
    """The real time, which leaps ahead as soon as somebody waits."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead

    def time(self) -> float:
        return super().time() + self._ahead

    async def sleep(self, seconds: float) -> None:
        self._ahead += seconds
        await asyncio.sleep(0)


class Wire:
    """
    A port of its own in front of the venue. The first request with the method that it waits for meets the fault.

    What is booked late is at the venue before any request is passed on that came in behind its time.
    """

    def __init__(self, venue_port: int, fault: Fault, method: str, clock: LeapingClock) -> None:
        self.port = 0
        self.arrivals: list[float] = []
        """When the requests came in that the fault is for, the honest ones behind it included."""
        self.is_struck = asyncio.Event()
        """The fault has been done."""
        self.is_over = asyncio.Event()
        """The caller is gone, and whoever still waits for an answer is let go."""
        self._venue_port = venue_port
        self._fault = fault
        self._method = method
        self._clock = clock
        self._late: list[tuple[float, bytes]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @contextlib.asynccontextmanager
    async def open(self) -> Any:
        listening = await asyncio.start_server(self._serve, HOST, 0)
        self.port = listening.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.is_over.set()
            listening.close()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.gather(*self._serving)

    async def book_late(self, until: float = inf) -> None:
        """Book what is due."""
        due = [late for late in self._late if late[0] <= until]
        self._late = [late for late in self._late if late[0] > until]
        for _, request in due:
            await self._pass_on(request)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is through, or gone
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._writers.discard(writer)
            self._serving.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await _message(reader)
        now = self._clock.monotonic()
        is_awaited = request.startswith(self._method.encode())
        if is_awaited:
            self.arrivals.append(now)
            if len(self.arrivals) == 1 and not self._fault.nowhere:
                return await self._strike(request, reader, writer)
        await self.book_late(now)
        writer.write(await self._pass_on(request))
        await writer.drain()
        return True

    async def _pass_on(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, self._venue_port)
        try:
            writer.write(request)
            return await _message(reader)
        finally:
            writer.close()

    async def _strike(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        fault = self._fault
        answer = b""
        if fault.books in {"first", "twice"}:
            answer = await self._pass_on(request)
        if fault.books == "twice":
            answer = await self._pass_on(request)
        if fault.books == "late":
            self._late.append((self._clock.monotonic() + BOOKED_WITHIN, request))
        self.is_struck.set()
        match fault.answers:
            case "reset":
                reset(writer.transport)
            case "close":
                pass
            case "half":
                head, _, body = answer.partition(b"\r\n\r\n")
                writer.write(head + b"\r\n\r\n" + body[: len(body) // 2])
            case "garbage":
                writer.write(b"whatever this is, it is no HTTP\r\n\r\n")
            case "silence":
                await reader.read()
            case "cancel":
                await self.is_over.wait()
            case "venue":
                writer.write(answer)
            case "status":
                lines = [f"HTTP/1.1 {fault.status} As Told", f"Content-Length: {len(fault.body)}"]
                lines += [
                    "Content-Type: application/json" if fault.body[0] == "{" else "Content-Type: text/html"
                ]
                lines += [] if fault.retry_after is None else [f"Retry-After: {fault.retry_after}"]
                writer.write("\r\n".join([*lines, "", fault.body]).encode())
        if fault.answers in {"status", "venue", "half", "garbage"}:
            await writer.drain()
        return fault.answers in {"status", "venue"}


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One request or answer of HTTP, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().splitlines():
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head


# -- the clients -----------------------------------------------------------------------------------------------


class Desk:
    """One client, and shockproof around it. `attempts` holds what the calls in question ended with."""

    def __init__(self, stage: Stage, recovery: ErrorRecoveryService, *, effect: str, timeout: float) -> None:
        self.stage, self.recovery, self.effect, self.timeout = stage, recovery, effect, timeout
        self.attempts: list[BaseException | None] = []
        self.mended: Callable[[], None] = lambda: None
        """Called when the first attempt has failed."""

    async def open(self, url: str) -> None: ...
    async def close(self) -> None: ...
    def point_at(self, url: str) -> None: ...

    async def read(self, key: str) -> str:
        """Ask for an order; gives the id in the answer."""
        raise NotImplementedError

    async def cancel(self, key: str, number: int) -> None:
        raise NotImplementedError

    async def place(self, key: str, *, is_resting: bool) -> str:
        """Send an order, unsafe; gives the id in the answer."""
        raise NotImplementedError

    async def place_once(self, key: str, *, is_resting: bool) -> str:
        """The same with `once`."""
        raise NotImplementedError

    def says_how_to_look_up(self) -> None:
        """For `ErrorRecoveryService.reconcile` after a restart."""
        raise NotImplementedError

    def classify(self, error: object, call: CallInfo) -> Verdict | None:
        raise NotImplementedError

    def verdict(self, error: BaseException) -> Effect:
        """What shockproof makes of an attempt of a write that ended with *error*."""
        verdict = self.classify(error, CallInfo("orders", "place", 1, "unsafe"))
        return verdict.effect or "unknown" if verdict is not None else "unknown"

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The client's own method, which remembers what it ended with."""

        @contextlib.contextmanager
        def watching() -> Iterator[None]:
            try:
                yield
            except BaseException as error:
                self.attempts.append(error)
                self.mended()
                raise
            self.attempts.append(None)

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with watching():
                return await function(*args, **kwargs)

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with watching():
                return function(*args, **kwargs)

        return awaited if inspect.iscoroutinefunction(function) else called


class Ccxt(Desk):
    async def open(self, url: str) -> None:
        self.exchange = copy.copy(self.stage.ccxt)
        self.exchange.urls = {**self.exchange.urls, "api": dict(self.exchange.urls["api"])}
        self.exchange.timeout = 1000 * self.timeout
        self.exchange.session, self.exchange.own_session = aiohttp.ClientSession(), False
        self.point_at(url)
        method = {"read": "fetch_order", "idempotent": "cancel_order"}.get(self.effect, "create_order")
        setattr(self.exchange, method, self.watched(getattr(self.exchange, method)))
        self.protected = shockproof.integrations.ccxt.protect(self.exchange, self.recovery, **OPTIONS)

    async def close(self) -> None:
        await self.exchange.session.close()
        self.exchange.session = None

    def point_at(self, url: str) -> None:
        self.exchange.urls["api"]["private"] = f"{url}/api/v3"

    async def read(self, key: str) -> str:
        return (await self.protected.fetch_order("", "EUR/USDT", {"clientOrderId": key}))["clientOrderId"]

    async def cancel(self, key: str, number: int) -> None:
        await self.protected.cancel_order(str(number), "EUR/USDT")

    @staticmethod
    def order(key: str, is_resting: bool) -> tuple[Any, ...]:
        kind, price = ("limit", 0.9) if is_resting else ("market", None)
        return "EUR/USDT", kind, "buy", 10, price, {"newClientOrderId": key}

    async def place(self, key: str, *, is_resting: bool) -> str:
        return (await self.protected.create_order(*self.order(key, is_resting)))["clientOrderId"]

    def orders(self) -> Any:
        classify = shockproof.integrations.ccxt.classify_for(self.exchange)
        return self.recovery.service("binance.orders", classify=classify, **OPTIONS["orders"])

    def once(self, key: str | None = None) -> Any:
        async def find(key: str) -> LookUp[Any]:
            return await shockproof.integrations.ccxt.find_order(self.exchange, key, "EUR/USDT")

        return self.orders().once(key, confirm=find, settle=SETTLE)

    async def place_once(self, key: str, *, is_resting: bool) -> str:
        answer = await self.once(key).call(self.exchange.create_order, *self.order(key, is_resting))
        return answer["clientOrderId"]

    def says_how_to_look_up(self) -> None:
        self.once()

    def classify(self, error: object, call: CallInfo) -> Verdict | None:
        return shockproof.integrations.ccxt.classify(error, call)


class PythonBinance(Desk):
    async def open(self, url: str) -> None:
        self.client = AsyncClient(DEMO_KEY, DEMO_SECRET, requests_params={"timeout": self.timeout})
        self.point_at(url)
        method = {"read": "get_order", "idempotent": "cancel_order"}.get(self.effect, "create_order")
        setattr(self.client, method, self.watched(getattr(self.client, method)))
        self.protected = shockproof.integrations.binance.protect(self.client, self.recovery, **OPTIONS)

    async def close(self) -> None:
        await self.client.close_connection()

    def point_at(self, url: str) -> None:
        self.client.API_URL = f"{url}/api"

    async def read(self, key: str) -> str:
        return (await self.protected.get_order(symbol="EURUSDT", origClientOrderId=key))["clientOrderId"]

    async def cancel(self, key: str, number: int) -> None:
        await self.protected.cancel_order(symbol="EURUSDT", orderId=number)

    @staticmethod
    def order(is_resting: bool) -> dict[str, Any]:
        more = {"type": "LIMIT", "price": "0.9", "timeInForce": "GTC"} if is_resting else {"type": "MARKET"}
        return {"symbol": "EURUSDT", "side": "BUY", "quantity": 10, **more}

    async def place(self, key: str, *, is_resting: bool) -> str:
        return (await self.protected.create_order(**self.order(is_resting), newClientOrderId=key))[
            "clientOrderId"
        ]

    def once(self, key: str | None = None) -> Any:
        async def find(key: str) -> LookUp[Any]:
            return await shockproof.integrations.binance.find_order(self.client, key, "EURUSDT")

        orders = self.recovery.service("binance.orders", classify=self.classify, **OPTIONS["orders"])
        return orders.once(key, confirm=find, settle=SETTLE, key_argument="newClientOrderId")

    async def place_once(self, key: str, *, is_resting: bool) -> str:
        answer = await self.once(key).call(self.client.create_order, **self.order(is_resting))
        return answer["clientOrderId"]

    def says_how_to_look_up(self) -> None:
        self.once()

    def classify(self, error: object, call: CallInfo) -> Verdict | None:
        return shockproof.integrations.binance.classify(error, call)


class AlpacaPy(Desk):
    async def open(self, url: str) -> None:
        self.client = TradingClient(DEMO_KEY, DEMO_SECRET, url_override=url)
        method = {"read": "get_order_by_client_id", "idempotent": "cancel_order_by_id"}.get(
            self.effect, "submit_order"
        )
        setattr(self.client, method, self.watched(getattr(self.client, method)))
        self.protected = shockproof.integrations.alpaca.protect(
            self.client, self.recovery, read_timeout=self.timeout, **OPTIONS
        )

    async def close(self) -> None:
        self.client._session.close()

    def point_at(self, url: str) -> None:
        self.client._base_url = url

    async def read(self, key: str) -> str:
        return (await self.protected.get_order_by_client_id(key)).client_order_id

    async def cancel(self, key: str, number: int) -> None:
        await self.protected.cancel_order_by_id(str(uuid.UUID(int=number)))

    @staticmethod
    def order(key: str, is_resting: bool) -> Any:
        common: dict[str, Any] = {
            "side": OrderSide.BUY,
            "time_in_force": TimeInForce.GTC,
            "client_order_id": key,
        }
        if is_resting:
            return LimitOrderRequest(symbol="EURUSDT", qty=10, limit_price=0.9, **common)
        return MarketOrderRequest(symbol="EURUSDT", qty=10, **common)

    async def place(self, key: str, *, is_resting: bool) -> str:
        return (await self.protected.submit_order(self.order(key, is_resting))).client_order_id

    def once(self, key: str | None = None) -> Any:
        async def find(key: str) -> LookUp[Any]:
            return await shockproof.integrations.alpaca.find_order(self.protected, key)

        orders = self.recovery.service("alpaca.orders", classify=self.classify, **OPTIONS["orders"])
        return orders.once(key, confirm=find, settle=SETTLE)

    async def place_once(self, key: str, *, is_resting: bool) -> str:
        return (
            await self.once(key).call(self.client.submit_order, self.order(key, is_resting))
        ).client_order_id

    def says_how_to_look_up(self) -> None:
        self.once()

    def classify(self, error: object, call: CallInfo) -> Verdict | None:
        return shockproof.integrations.alpaca.classify(error, call)


class DuplicateIdError(Exception):
    """What the raw clients' own code makes of the venue's 422: no preset can know the words of a venue."""


class Raw(Desk):
    """An HTTP client with a few lines of one's own around it, in the dialect of Alpaca."""

    preset: Any

    async def open(self, url: str) -> None:
        self.url = url
        self.headers = {"APCA-API-KEY-ID": DEMO_KEY, "APCA-API-SECRET-KEY": DEMO_SECRET}
        self.ask = self.watched(self.request)
        self.handle = self.recovery.service("orders", classify=self.classify, **OPTIONS["orders"])

    def point_at(self, url: str) -> None:
        self.url = url

    async def request(self, method: str, path: str, order: Any = None) -> Any:
        raise NotImplementedError

    async def read(self, key: str) -> str:
        path = f"/v2/orders:by_client_order_id?client_order_id={key}"
        return (await self.handle.call(self.ask, "GET", path))["client_order_id"]

    async def cancel(self, key: str, number: int) -> None:
        path = f"/v2/orders/{uuid.UUID(int=number)}"
        await self.handle.using(effect="idempotent", risk_reducing=True).call(self.ask, "DELETE", path)

    @staticmethod
    def order(key: str, is_resting: bool) -> dict[str, str]:
        more = {"type": "limit", "limit_price": "0.9"} if is_resting else {"type": "market"}
        return {
            "symbol": "EURUSDT",
            "side": "buy",
            "qty": "10",
            "time_in_force": "gtc",
            "client_order_id": key,
            **more,
        }

    async def place(self, key: str, *, is_resting: bool) -> str:
        unsafe = self.handle.using(effect="unsafe")
        return (await unsafe.call(self.ask, "POST", "/v2/orders", self.order(key, is_resting)))[
            "client_order_id"
        ]

    async def find(self, key: str) -> LookUp[Any]:
        order = await self.request("GET", f"/v2/orders:by_client_order_id?client_order_id={key}")
        return NOT_FOUND if order is None else Found(order)

    async def place_once(self, key: str, *, is_resting: bool) -> str:
        once = self.handle.once(key, confirm=self.find, settle=SETTLE)
        return (await once.call(self.ask, "POST", "/v2/orders", self.order(key, is_resting)))[
            "client_order_id"
        ]

    def says_how_to_look_up(self) -> None:
        self.handle.once(confirm=self.find, settle=SETTLE)

    def classify(self, error: object, call: CallInfo) -> Verdict | None:
        if isinstance(error, DuplicateIdError):
            return Verdict(Outcome.UNKNOWN, effect="done")
        return self.preset.classify(error, call)


class Aiohttp(Raw):
    preset = shockproof.integrations.aiohttp

    async def open(self, url: str) -> None:
        await super().open(url)
        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.timeout), headers=self.headers
        )

    async def close(self) -> None:
        await self.session.close()

    async def request(self, method: str, path: str, order: Any = None) -> Any:
        async with self.session.request(method, self.url + path, json=order) as answer:
            if answer.status == 422 and "must be unique" in await answer.text():
                raise DuplicateIdError
            if answer.status == 404:
                return None
            answer.raise_for_status()
            return await answer.json()


class Httpx(Raw):
    preset = shockproof.integrations.httpx

    async def open(self, url: str) -> None:
        await super().open(url)
        self.client = httpx.AsyncClient(timeout=self.timeout, headers=self.headers, verify=self.stage.trust)

    async def close(self) -> None:
        await self.client.aclose()

    async def request(self, method: str, path: str, order: Any = None) -> Any:
        answer = await self.client.request(method, self.url + path, json=order)
        if answer.status_code == 422 and "must be unique" in answer.text:
            raise DuplicateIdError
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return answer.json()


CLIENTS: dict[str, type[Desk]] = {
    "ccxt": Ccxt,
    "alpaca-py": AlpacaPy,
    "python-binance": PythonBinance,
    "aiohttp": Aiohttp,
    "httpx": Httpx,
}
OPTIONS: dict[str, Any] = {
    "orders": {"max_retries": 2, "base_delay": 0.0},
    "reads": {"max_retries": 2, "base_delay": 0.0},
}


# -- the cases, and how one is played --------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    client: str
    effect: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.client}: {self.fault.name}"

    @property
    def is_sent_again_below_us(self) -> bool:
        """A GET and a DELETE of aiohttp are sent a second time when the connection broke; adapters of what stands on it switch that off."""
        return (
            self.client == "aiohttp"
            and self.effect in {"read", "idempotent"}
            and self.fault.answers in {"reset", "close"}
        )


CASES = [
    Case(client, effect, fault)
    for client, effect, fault in itertools.product(CLIENTS, EFFECTS, FAULTS)
    if fault.is_for(client, effect)
]


def cases_of(effect: str) -> Any:
    return pytest.mark.parametrize("case", [case for case in CASES if case.effect == effect], ids=str)


@dataclass
class Ended:
    """What became of a case: what the caller, the wire and the ledger say."""

    key: str
    answer: str | None = None
    error: BaseException | None = None
    attempts: list[BaseException | None] = field(default_factory=list)
    verdicts: list[Effect | None] = field(default_factory=list)
    """What shockproof made of each attempt's error; None for an answer."""
    arrivals: list[float] = field(default_factory=list)
    booked_by_first: bool = False
    """The ledger had it when the first request had met its fault, or was about to have it."""
    orders: int = 0
    is_cancelled_there: bool = False
    pending: list[str] = field(default_factory=list)
    settled: list[object] = field(default_factory=list)
    """After a cancellation, and a restart: what reconcile found."""

    @property
    def outcomes(self) -> list[Outcome]:
        assert isinstance(self.error, Exception)
        return [attempt.outcome for attempt in attempts_of(self.error)]


class Stage:
    """The venue, and what all cases share."""

    def __init__(self, place: Path, certificate: Path) -> None:
        self.place = place
        self.certificate = certificate
        self.trust = ssl.create_default_context()
        clock = SessionClock(lambda: 0.0)
        clock.begin()
        self.venue = VenueServer(FaultPlan(1, 1.0, PATIENT, ()), first_day=1000, clock=clock, tick=None)

    async def play(self, cases: list[Case]) -> dict[Case, Ended | BaseException]:
        # What waits longest begins first.
        order = sorted(cases, key=lambda case: case.fault.answers != "silence" and not case.fault.retry_after)
        turn = asyncio.Semaphore(AT_ONCE)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.venue)
            self.nowhere = {"dns": "http://nobody.invalid"}
            self.nowhere["refused"] = f"http://{HOST}:{stack.enter_context(_taken_port())}"
            self.nowhere["tls"] = await stack.enter_async_context(self._untrusted())
            self.ccxt = connect_ccxt(self.venue.base_url, timeout=PATIENT)
            async with aiohttp.ClientSession() as session:
                self.ccxt.session, self.ccxt.own_session = session, False
                await self.ccxt.load_markets()
                self.ccxt.session = None

            async def one(case: Case) -> Ended:
                async with turn, asyncio.timeout(4 * PATIENT):
                    return await self._one(case)

            ended = await asyncio.gather(*map(one, order), return_exceptions=True)
        return dict(zip(order, ended, strict=True))

    @contextlib.asynccontextmanager
    async def _untrusted(self) -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)

        async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(hang_up, HOST, 0, ssl=context) as listening:
            yield f"https://{HOST}:{listening.sockets[0].getsockname()[1]}"

    async def _one(self, case: Case) -> Ended:
        fault = case.fault
        number = 1 + CASES.index(case)
        ended = Ended(f"case-{number}")
        method = {"read": "GET", "idempotent": "DELETE"}.get(case.effect, "POST")
        clock = LeapingClock()
        wire = Wire(int(self.venue.base_url.rpartition(":")[2]), fault, method, clock)
        directory = self.place / f"{number}"
        is_cancelled = fault.answers == "cancel"
        timeout = IMPATIENT if fault.answers == "silence" else PATIENT

        async def open_desk(url: str) -> Desk:
            recovery = ErrorRecoveryService(directory / "state", directory / "errors", clock=clock)
            desk = CLIENTS[case.client](self, recovery, effect=case.effect, timeout=timeout)
            await desk.open(url)
            return desk

        async with wire.open():
            resting = self._book(ended.key) if case.effect in {"read", "idempotent"} else 0
            desk = await open_desk(self.nowhere.get(fault.nowhere, wire.url))
            desk.mended = functools.partial(desk.point_at, wire.url)
            call = asyncio.create_task(self._call(case, desk, ended.key, resting))
            if is_cancelled:
                await wire.is_struck.wait()
                call.cancel()
            try:
                ended.answer = await call
            except BaseException as error:  # noqa: BLE001  it is what the caller got
                ended.error = error
            wire.is_over.set()
            recovery = desk.recovery
            if is_cancelled and case.effect == "keyed":
                await recovery.aclose()
                again = await open_desk(wire.url)
                recovery = again.recovery
                again.says_how_to_look_up()
                ended.settled = [one.outcome for one in await recovery.reconcile()]
                await again.close()
            state = await recovery.restore_state()
            ended.pending = [
                one["key"] for one in (state.active_operations if state else []) if one["key"] == ended.key
            ]
            ended.booked_by_first = fault.books != "not" and bool(wire.arrivals) and not fault.nowhere
            ended.arrivals = wire.arrivals
            ended.attempts = desk.attempts
            ended.verdicts = [None if error is None else desk.verdict(error) for error in desk.attempts]
            await recovery.aclose()
            await desk.close()
            await wire.book_late()
        orders = [order for order in self.venue.exchange.ledger.orders if order.client_order_id == ended.key]
        ended.orders = len(orders)
        ended.is_cancelled_there = [order.closed_as for order in orders] == [OrderStatus.CANCELED]
        self._cancel(ended.key)
        return ended

    async def _call(self, case: Case, desk: Desk, key: str, number: int) -> str | None:
        is_resting = case.fault.books == "twice"  # Binance knows the ids of open orders only
        if case.effect == "read":
            return await desk.read(key)
        if case.effect == "idempotent":
            await desk.cancel(key, number)
            return None
        if case.effect == "unsafe":
            return await desk.place(key, is_resting=is_resting)
        return await desk.place_once(key, is_resting=is_resting)

    def _book(self, key: str) -> int:
        """An order that rests, behind the back of all clients."""
        exchange = self.venue.exchange
        new = NewOrder(
            exchange.TRADER, "EURUSDT", Side.BUY, OrderType.LIMIT, key, Decimal(10), Decimal("0.9")
        )
        return exchange.engine.place(new, exchange.wall()).order_id

    def _cancel(self, key: str) -> None:
        exchange = self.venue.exchange
        for order in exchange.engine.open_orders(exchange.TRADER):
            if order.client_order_id == key:
                exchange.engine.cancel(order, exchange.wall())


@contextlib.contextmanager
def _taken_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else will."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield taken.getsockname()[1]


Play = Callable[[Case], Ended]


@pytest.fixture(scope="module")
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Play:
    """What became of a case. The first one asked for has all of them played that were collected."""

    @functools.cache
    def played() -> dict[Case, Ended | BaseException]:
        here = [item for item in request.session.items if item.path == request.path]
        cases = [item.callspec.params["case"] for item in here if hasattr(item, "callspec")]
        return asyncio.run(Stage(tmp_path_factory.mktemp("matrix"), certificate).play(cases))

    def ended(case: Case) -> Ended:
        result = played()[case]
        if isinstance(result, BaseException):
            raise result
        return result

    return ended


# -- what must hold --------------------------------------------------------------------------------------------


def test_the_matrix_is_whole() -> None:
    """At least 300 cases, none twice, and each client meets each effect."""
    assert len(CASES) >= 300
    assert len(set(CASES)) == len(CASES)
    assert min(Counter((case.client, case.effect) for case in CASES).values()) >= 15


def check_verdicts(case: Case, ended: Ended) -> None:
    """The first attempt was judged as what its error proves, and never against the ledger; a second one was answered."""
    assert ended.attempts
    assert isinstance(ended.attempts[0], BaseException)
    assert ended.verdicts[0] == case.fault.proves
    if ended.booked_by_first:
        assert ended.verdicts[0] != "none"
    assert all(not isinstance(error, asyncio.CancelledError) for error in ended.attempts[1:])


@cases_of("read")
def test_read_is_repeated_until_it_is_answered(case: Case, play: Play) -> None:
    """Whatever the error proves: asking again does no harm."""
    ended = play(case)
    if case.fault.answers == "cancel":
        assert isinstance(ended.error, asyncio.CancelledError)
        assert len(ended.arrivals) == 1
        return
    if case.is_sent_again_below_us:
        assert ended.attempts == [None]
        assert len(ended.arrivals) == 2
        return
    check_verdicts(case, ended)
    if case.fault.ends_it:
        assert ended.error is ended.attempts[0]
        assert len(ended.attempts) == 1
    else:
        assert ended.answer == ended.key
        assert [error is None for error in ended.attempts] == [False, True]


@cases_of("idempotent")
def test_cancel_is_repeated_and_done_once(case: Case, play: Play) -> None:
    """Its second attempt finds the order cancelled already, or does it: the order is cancelled either way."""
    ended = play(case)
    if case.fault.answers == "cancel":
        assert isinstance(ended.error, asyncio.CancelledError)
        assert len(ended.arrivals) == 1
        assert ended.is_cancelled_there is (case.fault.books == "first")
        return
    if case.fault.ends_it:
        check_verdicts(case, ended)
        assert ended.error is ended.attempts[0]
        assert len(ended.attempts) == 1
        assert not ended.is_cancelled_there
        return
    assert ended.is_cancelled_there
    if case.is_sent_again_below_us:
        assert len(ended.attempts) == 1
        assert len(ended.arrivals) == 2
    else:
        check_verdicts(case, ended)
        assert len(ended.attempts) == 2
    assert ended.error is ended.attempts[-1]
    if case.fault.books == "first":
        assert ended.error is not None
    if case.fault.books == "not":
        assert ended.error is None
    if ended.error is not None:
        assert ended.verdicts[-1] == "none"  # a clear no: there is nothing to cancel any more


@cases_of("keyed")
def test_order_with_a_key_is_there_once_and_the_caller_knows(case: Case, play: Play) -> None:
    """No order twice, none lost, no wrong word about it; and nothing is pending that can be proven."""
    ended = play(case)
    assert ended.pending == [], ended
    if case.fault.answers == "cancel":
        assert isinstance(ended.error, asyncio.CancelledError)
        assert len(ended.arrivals) == 1
        assert ended.orders == ended.booked_by_first
        (settled,) = ended.settled
        assert isinstance(settled, Found) if ended.orders else settled is NOT_FOUND
        return
    check_verdicts(case, ended)
    if case.fault.ends_it:
        assert ended.orders == 0
        assert ended.error is ended.attempts[0]
        assert len(ended.attempts) == 1
        return
    assert ended.orders == 1
    assert ended.error is None
    assert ended.answer == ended.key
    assert len(ended.attempts) == (1 if ended.booked_by_first else 2)
    if len(ended.arrivals) == 2:
        first, second = ended.arrivals
        assert second - first >= (
            case.fault.retry_after or (SETTLE if case.fault.proves == "unknown" else 0.0)
        )


@cases_of("unsafe")
def test_unsafe_order_is_sent_again_only_where_its_error_proves_something(case: Case, play: Play) -> None:
    """What was booked is never sent twice, and what nobody knows is told as such."""
    ended = play(case)
    assert ended.orders <= 1
    if case.fault.answers == "cancel":
        assert isinstance(ended.error, asyncio.CancelledError)
        assert len(ended.arrivals) == 1
        assert ended.orders == ended.booked_by_first
        return
    check_verdicts(case, ended)
    if case.fault.proves == "none" and not case.fault.ends_it:
        assert ended.answer == ended.key
        assert ended.orders == 1
        assert len(ended.attempts) == 2
        return
    assert len(ended.attempts) == 1
    assert ended.error is ended.attempts[0]
    assert ended.orders == ended.booked_by_first
    expected = {"unknown": [Outcome.UNKNOWN], "done": [Outcome.UNKNOWN]}
    assert case.fault.ends_it or ended.outcomes == expected[case.fault.proves]

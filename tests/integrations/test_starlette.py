"""Starlette and FastAPI: what becomes of our errors there, and of the service, when the app lives and dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest

for name in ("starlette", "fastapi", "httpx"):
    pytest.importorskip(name, reason=f"{name} is not installed")

import httpx  # noqa: E402  after the importorskip
from fastapi import Depends, FastAPI  # noqa: E402  after the importorskip
from starlette.applications import Starlette  # noqa: E402  after the importorskip
from starlette.requests import Request  # noqa: E402  after the importorskip
from starlette.responses import JSONResponse, PlainTextResponse  # noqa: E402  after the importorskip
from starlette.routing import Mount, Route, WebSocketRoute  # noqa: E402  after the importorskip

from shockproof import (  # noqa: E402  after the importorskip
    AttemptTimeoutError,
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorRecoveryService,
    HaltedError,
    OutcomeUnknownError,
    RateLimitedError,
)
from shockproof.endpoints import health_app  # noqa: E402  after the importorskip
from shockproof.integrations.starlette import (  # noqa: E402  after the importorskip
    answer_refusals,
    lifespan_of,
    recovery_of,
)

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

pytestmark = pytest.mark.asyncio


@contextlib.asynccontextmanager
async def running(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The app with its lifespan, as a server runs it, and a client that asks it."""
    to_app, from_app = asyncio.Queue[Any](), asyncio.Queue[Any]()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    lifespan = asyncio.create_task(app(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://app") as client:
        yield client
    await to_app.put({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await lifespan


def raising(error: Exception) -> Any:
    async def endpoint(request: Request) -> PlainTextResponse:
        raise error

    return endpoint


@pytest.mark.parametrize(
    ("error", "status", "wait"),
    [
        (CircuitOpenError("venue", retry_after=11.2, last_error="PasswordError: s3cret"), 503, "12"),
        (CircuitOpenError("venue", forced="by ann"), 503, None),
        (CircuitOpenError("venue", retry_after=0.0), 503, "1"),
        (CircuitOpenError("venue", retry_after=float("inf")), 503, None),
        (BulkheadFullError("venue", "bulkhead"), 503, None),
        (RateLimitedError("venue", "rate_limit", 3.0), 429, "3"),
        (HaltedError("venue", reason="by ann"), 503, None),
        (AttemptTimeoutError("venue", 2.0), 504, None),
        (DeadlineExceededError("venue", 2.0), 504, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_a_refusal_is_answered_with_its_status_and_the_time_to_wait(
    framework: Any, error: Exception, status: int, wait: str | None
) -> None:
    """Whoever asks learns when to come again, and nothing of what is inside."""
    app = framework()
    app.router.routes.append(Route("/", raising(error)))
    answer_refusals(app)
    async with running(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, wait)
    assert answer.json().keys() == {"detail"}
    assert not {"venue", "s3cret", "ann"} & set(answer.text.replace('"', " ").split())


@pytest.mark.parametrize("error", [OutcomeUnknownError("bot-5"), ConnectionResetError("reset")])
async def test_what_is_no_refusal_is_left_alone(error: Exception) -> None:
    """An order that may be at the venue is nothing to come again with."""
    app = Starlette(routes=[Route("/", raising(error))])
    answer_refusals(app)
    with pytest.raises(type(error)):
        async with running(app) as client:
            await client.get("/")


@pytest.mark.parametrize(
    ("errors", "status", "wait"),
    [
        ((CircuitOpenError("venue", retry_after=3.0), CircuitOpenError("news", retry_after=8.5)), 503, "9"),
        ((RateLimitedError("venue", "rate_limit", 3.0), BulkheadFullError("venue", "bulkhead")), 503, "3"),
        ((CircuitOpenError("venue"), AttemptTimeoutError("news", 1.0)), 504, None),
    ],
)
async def test_a_task_group_of_refusals_is_a_refusal(
    errors: tuple[Exception, ...], status: int, wait: str | None
) -> None:
    """Handlers ask several venues at a time; of several answers the most careful one is given."""
    group = ExceptionGroup("two venues", [ExceptionGroup("inside", errors[:1]), *errors[1:]])
    app = Starlette(routes=[Route("/", raising(group))])
    answer_refusals(app)
    async with running(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, wait)


async def test_a_task_group_with_another_error_is_left_alone() -> None:
    """What went wrong in it is for the log, and for a person."""
    group = ExceptionGroup("two venues", [CircuitOpenError("venue"), KeyError("price")])
    app = Starlette(routes=[Route("/", raising(group))])
    answer_refusals(app)
    with pytest.raises(ExceptionGroup) as caught:
        async with running(app) as client:
            await client.get("/")
    assert caught.value is group


async def test_a_websocket_is_told_to_come_again_later() -> None:
    """Its handshake is over, so that there is no status to give."""

    async def feed(socket: WebSocket) -> None:
        await socket.accept()
        raise CircuitOpenError("venue", retry_after=3.0)

    app = Starlette(routes=[WebSocketRoute("/feed", feed)])
    answer_refusals(app)
    received = [{"type": "websocket.connect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return received.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/feed", "headers": [], "query_string": b"", "subprotocols": []}
    await app(scope, receive, send)
    assert [one["type"] for one in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 1013


async def test_the_service_lives_as_long_as_the_app(tmp_path: Path) -> None:
    """It is started before the first request and closed after the last, inside the app's own lifespan."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", max_retries=0)
    lived: list[str] = []

    @contextlib.asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
        lived.append("begins")
        yield {"desk": "eu"}
        lived.append("ends")
        assert list((tmp_path / "errors").glob("*.jsonl"))  # was written when ours ended

    async def fails() -> None:
        raise ConnectionResetError("reset")

    async def endpoint(request: Request) -> JSONResponse:
        lived.append(request.state.desk)
        try:
            await recovery_of(request).service("venue").call(fails)
        except ConnectionResetError:
            return JSONResponse(recovery_of(request).get_error_summary()["total_errors"])
        raise AssertionError("it fails")

    app = Starlette(routes=[Route("/", endpoint)], lifespan=lifespan_of(recovery, own))
    async with running(app) as client:
        assert (await client.get("/")).json() == 1
    assert lived == ["begins", "eu", "ends"]


async def test_fastapi_takes_it_as_a_dependency(tmp_path: Path) -> None:
    """By the type of its parameter, with nothing of FastAPI's in the integration."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    app = FastAPI(lifespan=lifespan_of(recovery))

    @app.get("/circuits")
    async def circuits(found: Annotated[Any, Depends(recovery_of)]) -> bool:
        return found is recovery

    async with running(app) as client:
        assert (await client.get("/circuits")).json() is True


async def test_an_app_without_the_lifespan_says_what_is_missing() -> None:
    """The way out stands in the error."""
    with pytest.raises(RuntimeError, match=r"lifespan=lifespan_of\(recovery\)"):
        recovery_of(Request({"type": "http"}))


async def test_what_is_no_app_is_refused() -> None:
    """One of another framework has other handlers."""
    with pytest.raises(TypeError, match="app must be one of Starlette's"):
        answer_refusals(health_app(ErrorRecoveryService()))  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
@pytest.mark.parametrize("below", ["", "/inner"])
async def test_the_health_pages_are_mounted(
    framework: Any, below: str, recovery: ErrorRecoveryService
) -> None:
    """Below a path, and below an app that is mounted itself: Starlette hands the whole path on, and where it stands."""
    recovery.service("venue")
    app = framework()
    app.mount("/shockproof", health_app(recovery))
    if below:
        app = Starlette(routes=[Mount(below, app=app)])
    async with running(app) as client:
        ready = await client.get(f"{below}/shockproof/readyz/services/venue")
        health = await client.get(f"{below}/shockproof/health")
        nothing = await client.get(f"{below}/shockproof/nothing")
    assert (ready.status_code, ready.text) == (200, "ok\n")
    assert health.json()["status"] == "pass"
    assert nothing.status_code == 404

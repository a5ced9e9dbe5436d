"""
Starlette, and FastAPI, which stands on it: refusals as 503 and 429 with Retry-After, and the service as a dependency.

```python
from starlette.applications import Starlette
from shockproof import ErrorRecoveryService
from shockproof.integrations.starlette import answer_refusals, lifespan_of

recovery = ErrorRecoveryService()
app = Starlette(lifespan=lifespan_of(recovery))
answer_refusals(app)
```
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from shockproof.integrations.optional import missing
from shockproof.policies.retry import leaves
from shockproof.service import ErrorRecoveryService, check_recovery
from shockproof.vocabulary.errors import (
    AttemptTimeoutError,
    CallRejectedError,
    DeadlineExceededError,
    RateLimitedError,
)

try:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request  # noqa: TC002 - FastAPI reads the types of a dependency
    from starlette.responses import JSONResponse, Response
    from starlette.websockets import WebSocket
except ImportError as error:
    raise missing("starlette", "starlette", error) from error

__all__ = ["answer_refusals", "lifespan_of", "recovery_of"]

_NAME: Final = "shockproof"
"""Under which the service stands in the state of the lifespan."""
_OURS: Final = (CallRejectedError, AttemptTimeoutError, DeadlineExceededError)
_TRY_AGAIN_LATER: Final = 1013
"""The code that closes a WebSocket, of the registry of RFC 6455."""

# Starlette takes a lifespan that yields a state or one that yields None, and none that may do either.
Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]  # Any: the app, and its state
AnyLifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]  # Any: as above


def lifespan_of(recovery: ErrorRecoveryService, around: AnyLifespan | None = None) -> Lifespan:
    """
    A lifespan for ``Starlette(lifespan=...)`` or ``FastAPI(lifespan=...)``: *recovery* starts before the first request,
    and is closed, with everything written, after the last.

    Args:
        recovery: what `recovery_of` gives to the handlers.
        around: a lifespan of your own, which begins first and ends last. What it yields is kept. Default: none.

    Raises:
        TypeError: *recovery* is no `ErrorRecoveryService`; at once.
        Exception: what `ErrorRecoveryService.start` raises; the app does not start then.
    """
    check_recovery(recovery)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Mapping[str, Any]]:  # Any: the app, and its state
        if around is None:
            async with recovery:
                yield {_NAME: recovery}
        else:
            async with around(app) as state, recovery:
                yield {**(state or {}), _NAME: recovery}

    return lifespan


def recovery_of(connection: HTTPConnection) -> ErrorRecoveryService:
    """
    The service of the app: call it with the request or the WebSocket; for FastAPI, ``Depends(recovery_of)``.

    Raises:
        RuntimeError: the app has another lifespan, or the request is none of a running app.
    """
    recovery = connection.scope.get("state", {}).get(_NAME)
    if not isinstance(recovery, ErrorRecoveryService):
        raise RuntimeError(  # noqa: TRY004 - it is the app that is wrong, and no argument
            "this app has no recovery service: make it with lifespan=lifespan_of(recovery), and run its lifespan"
        )
    return recovery


def answer_refusals(app: Starlette) -> None:
    """
    Let *app*, of Starlette or FastAPI, answer our own errors where a handler raises them.

    A `RateLimitedError` is 429, every other refusal 503, and a timeout or deadline that passed 504. ``Retry-After`` is
    what the error knows of it, in whole seconds, rounded up, at least 1; without it there is no such header. The body is
    ``{"detail": ...}`` as FastAPI writes it, and says nothing of what is inside: no service, no last error. A WebSocket is
    closed with 1013, try again later.

    What happened at the other side is no refusal, and is left alone: the last error of a call, and `OutcomeUnknownError`. An
    ``ExceptionGroup``, of a task group for example, is answered if it holds nothing else than these errors.

    Raises:
        TypeError: *app* is none of Starlette's.
    """
    if not isinstance(app, Starlette):
        raise TypeError(f"app must be one of Starlette's or FastAPI's, got {app!r}")
    for kind in (*_OURS, ExceptionGroup):
        app.add_exception_handler(kind, _answer)  # type: ignore[arg-type]  # it is for requests and for WebSockets alike


async def _answer(connection: Request | WebSocket, error: Exception) -> Response | None:
    ours = [one for one in leaves(error) if isinstance(one, _OURS)]
    if len(ours) < len(list(leaves(error))):
        raise error  # a group of which we are a part only
    status, detail = max(map(_told, ours))
    if isinstance(connection, WebSocket):
        await connection.close(_TRY_AGAIN_LATER, detail)
        return None
    waits = [one.retry_after for one in ours if isinstance(one, CallRejectedError)]
    known = [wait for wait in waits if wait is not None and math.isfinite(wait)]
    headers = {"Retry-After": str(max(1, math.ceil(max(known))))} if known else None
    return JSONResponse({"detail": detail}, status, headers)


def _told(error: Exception) -> tuple[int, str]:
    if isinstance(error, RateLimitedError):
        return 429, "too many requests"
    if isinstance(error, CallRejectedError):
        return 503, "not available at the moment"
    return 504, "took too long"

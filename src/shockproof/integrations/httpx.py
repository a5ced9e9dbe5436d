"""
httpx: what its errors and responses say about the request.

```python
import shockproof.integrations.httpx
from shockproof import ErrorRecoveryService

recovery = ErrorRecoveryService()
orders = recovery.service("orders", effect="unsafe", classify=shockproof.integrations.httpx.classify)
```

Or with a transport that sends every request of a client through the service of its host:

```python
import httpx
from shockproof.integrations.httpx import GuardedTransport, ServicePerHost

client = httpx.AsyncClient(transport=GuardedTransport(ServicePerHost(recovery, timeout=5.0)))
```
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from shockproof.calls.handle import Handle
from shockproof.integrations.guarded_requests import StatusError
from shockproof.integrations.httpx_outcomes import table_of
from shockproof.integrations.httpx_transport import HttpxRequests
from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning
from shockproof.integrations.redirects import of_a_returned_redirect
from shockproof.integrations.service_per_host import ServicePerHost
from shockproof.vocabulary.outcomes import CallEffect, CallInfo, Verdict

try:
    import httpx
except ImportError as error:
    raise missing("httpx", "httpx", error) from error

__all__ = ["TABLE", "GuardedTransport", "ServicePerHost", "StatusError", "classify", "meaning_of"]

TABLE: Final = table_of(httpx)
"""The rules, in order."""


def meaning_of(value: object) -> Meaning | None:
    """What an error or a response of httpx means; None for what is not its own, and for good answers."""
    return TABLE.meaning_of(value)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """
    For ``recovery.service(..., classify=...)``. Retry-After is taken from the answer's headers.

    Of an unsafe call that was answered with a redirect nobody knows what became: it is returned, and an order is looked up.
    """
    if isinstance(value, httpx.Response):
        redirected = of_a_returned_redirect(value.status_code, call)
        if redirected is not None:
            return redirected
    return TABLE.classify(value, call)


class GuardedTransport(httpx.AsyncBaseTransport):
    """
    Sends each request of a client through a service: ``httpx.AsyncClient(transport=GuardedTransport(venue))``.

    A status from 500 on, 408, 409, 412, 418, 429, 460 and 499 count as failures, and Retry-After is heeded; the client gets the last
    answer as any other. What is repeated follows from the method: GET, HEAD, OPTIONS, PUT and DELETE, and whatever carries
    an ``Idempotency-Key``, after every failure; everything else only where it is proven that nothing happened. A body
    that is a generator or files is there once, and never sent again. An attempt ends when the head of its answer is
    there: ``timeout`` and the limits do not count the body, which is streamed through. Each redirect is a request.

    Args:
        services: a handle, or a `ServicePerHost`. Its ``effect`` is not looked at; its ``classify`` is asked first, with
            an error or an answer.
        transport: what sends. Default: an ``AsyncHTTPTransport()``. The client's own arguments ``verify``, ``http2``,
            ``limits`` and ``proxy`` are the transport's, and have no effect beside one that is given.
        effect_of: what a request does, ``"read"`` of a POST that only asks for example; None leaves it to the method.
            Called once for each request, on the loop.
        risk_reducing_if: whether a request cancels or closes something: it passes an open circuit and a halt, and goes first
            in every queue. Called as above. Default: what the handle says.

    Raises:
        TypeError: it is no service, or no transport.

    A request that is cancelled ends as it does without it, and gives back what it has taken. Of httpx 0.28 the pool may keep
    a place for good then (httpcore issue 1093); httpx2's does not.
    """

    def __init__(
        self,
        services: Handle | ServicePerHost,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        effect_of: Callable[[httpx.Request], CallEffect | None] | None = None,
        risk_reducing_if: Callable[[httpx.Request], bool] | None = None,
    ) -> None:
        self._requests = HttpxRequests(httpx, TABLE, services, transport, effect_of, risk_reducing_if)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        What the client calls, once for each request and each redirect.

        Raises:
            CallRejectedError: a policy refuses, and nothing was sent.
            Exception: the last attempt's own.
        """
        answer: httpx.Response = await self._requests.send(request)
        return answer

    async def __aenter__(self) -> Self:
        await self._requests.transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._requests.transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the transport that sends."""
        await self._requests.transport.aclose()

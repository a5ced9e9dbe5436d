"""
aiohttp: what its errors and responses say about the request.

```python
import shockproof.integrations.aiohttp
from shockproof import ErrorRecoveryService

recovery = ErrorRecoveryService()
orders = recovery.service("orders", effect="unsafe", classify=shockproof.integrations.aiohttp.classify)
```

Or with a middleware that sends every request of a session through the service of its host:

```python
import aiohttp
from shockproof.integrations.aiohttp import GuardMiddleware, ServicePerHost


async def main() -> None:
    guarded = GuardMiddleware(ServicePerHost(recovery, timeout=5.0))
    async with aiohttp.ClientSession(middlewares=(guarded,)) as session:
        ...
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from shockproof.calls.handle import Handle
from shockproof.integrations.guarded_requests import Asked, GuardedRequests, StatusError
from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.redirects import (
    meaning_of_last_status,
    not_sent_unless,
    of_a_returned_redirect,
    raised_within,
)
from shockproof.integrations.service_per_host import ServicePerHost
from shockproof.vocabulary.outcomes import CallEffect, CallInfo, Verdict

try:
    import aiohttp
except ImportError as error:
    raise missing("aiohttp", "aiohttp", error) from error

if TYPE_CHECKING:
    from aiohttp.client_middlewares import ClientHandlerType

__all__ = [
    "TABLE",
    "GuardMiddleware",
    "ServicePerHost",
    "StatusError",
    "classify",
    "meaning_of",
    "switch_off_retries",
    "was_sent_before",
]

_FOLLOWING: Final = (aiohttp.ClientSession._request.__code__,)
_SENT_AGAIN: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_SWITCH: Final = "_retry_connection"


def was_sent_before(error: BaseException) -> bool:
    """
    Whether *error*, one of aiohttp or below it, is that of a request which followed another one.

    After a redirect, or after aiohttp has sent a GET, PUT or DELETE a second time by itself because the connection was cut.
    """
    return raised_within(error, _FOLLOWING, lambda frame: _is_not_the_first(frame.f_locals))


def _is_not_the_first(known: Mapping[str, Any]) -> bool:  # Any: what aiohttp's own function holds
    # Its list of the answers so far; a version that has none by this name is not believed, and so below.
    if known.get("history", True):
        return True
    if str(known.get("method")).upper() not in _SENT_AGAIN or not getattr(known.get("self"), _SWITCH, True):
        return False
    return not known.get("retry_persistent_connection", False)


def switch_off_retries(session: aiohttp.ClientSession) -> None:
    """
    From here on *session* sends each request once: GET, PUT and DELETE, too, when a connection turns out to be cut.

    `GuardMiddleware` and the handles repeat what may be repeated; what aiohttp repeats below them they cannot see.

    Raises:
        TypeError: it is no session of aiohttp.
        RuntimeError: this version of aiohttp has no such switch.
    """
    if not isinstance(session, aiohttp.ClientSession):
        raise TypeError(f"session must be an aiohttp.ClientSession, got {session!r}")
    if not hasattr(session, _SWITCH):
        raise RuntimeError(
            "this version of aiohttp keeps its retries elsewhere than shockproof knows, so that they cannot be switched off, and may send "
            "an order twice: use another version, or place orders with POST"
        )
    setattr(session, _SWITCH, False)  # there is no other way


_never_stood: Final = not_sent_unless(was_sent_before)


def _first_method(history: tuple[aiohttp.ClientResponse, ...]) -> str | None:
    return history[0].method if history else None


def _of_response_error(error: aiohttp.ClientResponseError) -> Meaning:
    # An answer that is no HTTP is reported with a status of 400 that nobody sent, and without headers.
    if error.headers is None:
        return Meaning.UNKNOWN
    # Below 400: an endless redirect, or a body of another kind than asked for.
    return meaning_of_last_status(error.status, _first_method(error.history)) or Meaning.UNKNOWN


TABLE: Final = OutcomeTable(
    # Before its parent ClientOSError, which is also a connection that was cut. Refused, no such host, TLS,
    # a proxy that is not there.
    Rule("no connection", (aiohttp.ClientConnectorError,), _never_stood),
    Rule("too late to connect", (aiohttp.ConnectionTimeoutError,), _never_stood),
    Rule("the proxy refused the tunnel", (aiohttp.ClientHttpProxyError,), _never_stood),
    Rule("a status, raised", (aiohttp.ClientResponseError,), _of_response_error),
    Rule(
        "a status, returned",
        (aiohttp.ClientResponse,),
        lambda answer: meaning_of_last_status(answer.status, _first_method(answer.history)),
    ),
    Rule("cut, late or unreadable", (aiohttp.ClientError, TimeoutError), Meaning.UNKNOWN),
)
"""The rules, in order."""


def meaning_of(value: object) -> Meaning | None:
    """What an error or a response of aiohttp means; None for what is not aiohttp's, and for good answers."""
    return TABLE.meaning_of(value)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """
    For ``recovery.service(..., classify=...)``. Retry-After is taken from the answer's headers.

    Of an unsafe call that was answered with a redirect nobody knows what became: it is returned, and an order is looked up.
    """
    if isinstance(value, aiohttp.ClientResponse):
        redirected = of_a_returned_redirect(value.status, call)
        if redirected is not None:
            return redirected
    return TABLE.classify(value, call)


class GuardMiddleware:
    """
    Sends each request of a session through a service: ``aiohttp.ClientSession(middlewares=(GuardMiddleware(venue),))``.

    A status from 500 on, 408, 409, 412, 418, 429, 460 and 499 count as failures, and Retry-After is heeded; the caller gets the last
    answer as any other. What is repeated follows from the method: GET, HEAD, OPTIONS, PUT and DELETE, and whatever carries
    an ``Idempotency-Key``, after every failure; everything else only where it is proven that nothing happened. A body
    that is not bytes, text, JSON or a plain form is there once, and never sent again. An attempt ends when the head of its answer
    is there: ``timeout`` and the limits do not count the body, which is streamed through. Each redirect is a request.

    aiohttp's own ``ClientTimeout(total=...)`` counts everything, waits included; ``sock_connect`` and ``sock_read`` count
    for each attempt. A service that hedges does not hedge here: aiohttp has one request for all attempts.

    Args:
        services: a handle, or a `ServicePerHost`. Its ``effect`` is not looked at; its ``classify`` is asked first, with
            an error or an answer.
        effect_of: what a request does, ``"read"`` of a POST that only asks for example; None leaves it to the method.
            Called once for each request, on the loop.
        risk_reducing_if: whether a request cancels or closes something: it passes an open circuit and a halt, and goes first
            in every queue. Called as above. Default: what the handle says.

    Raises:
        TypeError: it is no service.

    A request that is cancelled ends as it does without it, and gives back what it has taken.
    """

    def __init__(
        self,
        services: Handle | ServicePerHost,
        *,
        effect_of: Callable[[aiohttp.ClientRequest], CallEffect | None] | None = None,
        risk_reducing_if: Callable[[aiohttp.ClientRequest], bool] | None = None,
    ) -> None:
        self._guarded = GuardedRequests[aiohttp.ClientResponse](
            services, TABLE, status_of=lambda answer: answer.status, close=_close, hedges=False
        )
        self._effect_of = effect_of
        self._risk_reducing_if = risk_reducing_if

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """
        What the session calls, once for each request and each redirect.

        Raises:
            CallRejectedError: a policy refuses, and nothing was sent.
            Exception: the last attempt's own.
        """
        url = request.url.with_user(None).with_query(None).with_fragment(None)
        asked = Asked(
            request.method.upper(),
            url.host_port_subcomponent or "",
            str(url),
            "Idempotency-Key" in request.headers,
            request.body == b"" or isinstance(request.body, aiohttp.BytesPayload),
        )
        effect = None if self._effect_of is None else self._effect_of(request)
        reduces_risk = self._risk_reducing_if is not None and self._risk_reducing_if(request)

        async def once() -> aiohttp.ClientResponse:
            return await handler(request)

        return await self._guarded.send(asked, once, effect=effect, reduces_risk=reduces_risk)


async def _close(answer: aiohttp.ClientResponse) -> None:
    answer.close()

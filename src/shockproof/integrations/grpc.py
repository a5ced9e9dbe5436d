"""
grpc.aio: what its errors say about the call, and interceptors that send each call through a service.

```python
import grpc
import shockproof.integrations.grpc
from shockproof import ErrorRecoveryService

recovery = ErrorRecoveryService()


async def main() -> None:
    venue = recovery.service("venue", timeout=2.0)
    guarded = shockproof.integrations.grpc.interceptors(venue)
    async with grpc.aio.insecure_channel("localhost:50051", interceptors=guarded) as channel:
        ...
```
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, Self

from shockproof.calls.handle import Handle
from shockproof.calls.limits_around import time_left_around
from shockproof.calls.options import HandleOptions
from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.retry_info import asked_by_server
from shockproof.policies.classification import Classify
from shockproof.vocabulary.arguments import one_of
from shockproof.vocabulary.outcomes import CallEffect, CallInfo, Verdict

try:
    import grpc
    import grpc.aio
except ImportError as error:
    raise missing("grpcio", "grpc", error) from error

__all__ = ["TABLE", "classify", "interceptors", "meaning_of"]

_Code: Final = grpc.StatusCode
_EFFECTS: Final = ("read", "idempotent", "unsafe")
_BEHIND: Final = 0.05
"""Seconds by which the server's timeout comes after our own, which then is the one that the caller is told of."""
# ALREADY_EXISTS and ABORTED are missing as 409 is for HTTP: what is in the way may be the first copy of this very call.
_REFUSED: Final = frozenset(
    {
        _Code.INVALID_ARGUMENT,
        _Code.NOT_FOUND,
        _Code.PERMISSION_DENIED,
        _Code.UNAUTHENTICATED,
        _Code.FAILED_PRECONDITION,
        _Code.OUT_OF_RANGE,
        _Code.UNIMPLEMENTED,
    }
)


def _trailers(error: grpc.aio.AioRpcError) -> list[tuple[str, Any]]:  # Any: str or bytes
    return list(error.trailing_metadata() or ())


def _asked_to_wait(error: object) -> float | None:
    asked = asked_by_server(_trailers(error)) if isinstance(error, grpc.aio.AioRpcError) else None
    return None if asked is None or asked.is_final else asked.seconds


def _if_server_said(error: grpc.aio.AioRpcError) -> Meaning | None:
    asked = asked_by_server(_trailers(error))
    if asked is not None and asked.is_final:
        return Meaning.REFUSED
    # Without a word on when to come again it may be ours: an answer larger than this client takes is called so, too.
    if error.code() is _Code.RESOURCE_EXHAUSTED and asked is not None:
        return Meaning.TURNED_AWAY
    return None


TABLE: Final = OutcomeTable(
    Rule("the server says when to come again, or never", (grpc.aio.AioRpcError,), _if_server_said),
    Rule(
        "a clear no",
        (grpc.aio.AioRpcError,),
        lambda error: Meaning.REFUSED if error.code() in _REFUSED else None,
    ),
    Rule("cut, late, or nobody knows", (grpc.aio.AioRpcError,), Meaning.UNKNOWN),
    asked_to_wait=_asked_to_wait,
)
"""The rules, in order."""


def meaning_of(value: object) -> Meaning | None:
    """What an error of grpc.aio means; None for what is none."""
    return TABLE.meaning_of(value)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """For ``recovery.service(..., classify=...)``. RetryInfo and ``grpc-retry-pushback-ms`` are heeded."""
    return TABLE.classify(value, call)


def interceptors(
    service: Handle,
    *,
    effect_of: Callable[[str], CallEffect | None] | None = None,
    risk_reducing_if: Callable[[str], bool] | None = None,
) -> list[grpc.aio.ClientInterceptor]:
    """
    Interceptors for ``grpc.aio.insecure_channel(target, interceptors=...)`` that send each call through *service*.

    A call with one answer is repeated as the handle repeats. A stream of answers is opened as the handle repeats, until its
    first message is there; what comes later is the caller's. To open it again then, give it to `Handle.stream`. What the
    time limits of the handle, and of calls around it, leave of a call's own timeout goes to the server with it; a stream
    keeps its own. Calls with a stream of requests pass untouched: there is no second copy of what was sent.

    Args:
        service: a handle. What a call does is its ``effect``, ``"read"`` by default; its ``classify`` is asked first.
        effect_of: what a method such as ``"/shop.Orders/Place"`` does, ``"unsafe"`` for example; None leaves it to the
            handle. Called once for each call, on the loop.
        risk_reducing_if: whether a method cancels or closes something: it passes an open circuit and a halt, and goes first in
            every queue. Called as above. Default: what the handle says.

    Raises:
        TypeError: it is no handle.

    A call that is cancelled is cancelled at the server, and gives back what it has taken.
    """
    if not isinstance(service, Handle):
        raise TypeError(f'service must be a handle, such as recovery.service("venue"), got {service!r}')
    guarded = _GuardedCalls(service, effect_of, risk_reducing_if)
    return [_UnaryUnary(guarded), _UnaryStream(guarded)]


class _GuardedCalls:
    """What the interceptors of one channel share."""

    def __init__(
        self,
        service: Handle,
        effect_of: Callable[[str], CallEffect | None] | None,
        risk_reducing_if: Callable[[str], bool] | None,
    ) -> None:
        self._service = service
        self._effect_of = effect_of
        self._risk_reducing_if = risk_reducing_if
        self._ways: dict[tuple[CallEffect, bool, bool], Handle] = {}

    async def call(
        self,
        details: grpc.aio.ClientCallDetails,
        send: Callable[[], Coroutine[Any, Any, Any]],  # Any: grpc has no types
        *,
        hedges: bool,
    ) -> Any:  # Any: as above
        """What *send* gives, which sends the call once."""
        method = details.method.decode() if isinstance(details.method, bytes) else str(details.method)
        send.__name__ = method  # what the error log calls it
        effect = None if self._effect_of is None else self._effect_of(method)
        reduces_risk = self._risk_reducing_if is not None and self._risk_reducing_if(method)
        return await self._way(effect, hedges=hedges, reduces_risk=reduces_risk).call(send)

    def _way(self, effect: CallEffect | None, *, hedges: bool, reduces_risk: bool) -> Handle:
        """The service's own handle, with what is known of the method."""
        plan = self._service.plan
        does: CallEffect = plan.effect if effect is None else one_of("effect", effect, _EFFECTS)
        hedges = hedges and does == "read"
        way = self._ways.get((does, hedges, reduces_risk))
        if way is None:
            own: Classify | None = plan.options.get("classify")
            options: HandleOptions = {"effect": does, "classify": _classify_after(own)}
            if reduces_risk:
                options["risk_reducing"] = True
            if not hedges:
                options["hedge_after"] = None
            way = self._ways[does, hedges, reduces_risk] = self._service.using(**options)
        return way


def _classify_after(own: Classify | None) -> Classify:
    """The user's word on an error, and else the table's."""

    def classify_call(value: object, call: CallInfo) -> Verdict | None:
        verdict = None if own is None else own(value, call)
        return TABLE.classify(value, call) if verdict is None else verdict

    return classify_call


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self, guarded: _GuardedCalls) -> None:
        self._guarded = guarded

    async def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],  # Any: grpc has no types
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,  # Any: whatever the method takes
    ) -> Any:  # Any: as above
        async def send() -> Any:  # Any: as above
            call = await continuation(_within_limits(client_call_details), request)
            await call  # and the caller, to whom it has its metadata, once more
            return call

        return await self._guarded.call(client_call_details, send, hedges=True)


def _within_limits(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    """The same call with what is left of the time limits around it, if that is shorter than its own timeout."""
    left = time_left_around()
    if left is None or (details.timeout is not None and details.timeout <= left):
        return details
    return grpc.aio.ClientCallDetails(
        details.method, left + _BEHIND, details.metadata, details.credentials, details.wait_for_ready
    )


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self, guarded: _GuardedCalls) -> None:
        self._guarded = guarded

    async def intercept_unary_stream(
        self,
        continuation: Callable[..., Any],  # Any: grpc has no types
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,  # Any: whatever the method takes
    ) -> AsyncIterator[Any]:  # Any: whatever the method gives
        async def send() -> _Messages:
            messages = aiter(await continuation(client_call_details, request))
            try:
                return _Messages([await anext(messages)], messages)
            except StopAsyncIteration:
                return _Messages([], messages)

        # Not hedged: grpc takes the metadata from the call that was begun last, whichever answers.
        opened: _Messages = await self._guarded.call(client_call_details, send, hedges=False)
        return opened


class _Messages:
    """A stream whose first message was taken already."""

    def __init__(self, first: list[Any], rest: AsyncIterator[Any]) -> None:  # Any: whatever the method gives
        self._first = first
        self._rest = rest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:  # Any: as above
        return self._first.pop() if self._first else await anext(self._rest)

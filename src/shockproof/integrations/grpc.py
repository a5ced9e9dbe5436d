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

import asyncio
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
from shockproof.vocabulary.clock import Clock
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


def _asked_to_wait(error: object, _clock: Clock) -> float | None:
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
    keeps its own. A call with a stream of requests is made once, whatever the handle says of retries and hedges: there is no
    second copy of what was sent. Breaker, limits, health and error log apply; with one answer, the time limits of the
    handle become the call's timeout, and it counts when it ends; with a stream of answers, it counts when the first one is
    read, or when it ends before.

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
    return [_UnaryUnary(guarded), _UnaryStream(guarded), _StreamUnary(guarded), _StreamStream(guarded)]


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
        self._ways: dict[tuple[CallEffect, bool, bool, bool], Handle] = {}
        self._under_way: set[asyncio.Task[Any]] = set()  # Any: grpc has no types

    @property
    def seconds(self) -> float | None:
        """What the handle leaves for a call that is made once."""
        limits = (self._service.plan.timeout, self._service.plan.deadline)
        return min((one for one in limits if one is not None), default=None)

    async def call(
        self,
        details: grpc.aio.ClientCallDetails,
        send: Callable[[], Coroutine[Any, Any, Any]],  # Any: grpc has no types
        *,
        hedges: bool,
    ) -> Any:  # Any: as above
        """What *send* gives, which sends the call once."""
        method = _method_of(details)
        send.__name__ = method  # what the error log calls it
        return await self._way(method, hedges=hedges).call(send)

    async def once(
        self,
        details: grpc.aio.ClientCallDetails,
        begin: Callable[[], Coroutine[Any, Any, Any]],  # Any: grpc has no types
        has_answered: asyncio.Event | None,
    ) -> Any:  # Any: as above
        """
        The call that *begin* begins, as soon as it has begun; how it ends is the service's when it does.

        Whoever writes its requests one by one has to have it for that, so that nobody can wait here for its answer.
        *has_answered*: an answer counts as its end.
        """
        method = _method_of(details)
        begun = asyncio.get_running_loop().create_future()

        async def send() -> Any:  # Any: as above
            call = await begin()
            if not begun.done():
                begun.set_result(call)
            await _end_of(call, has_answered)
            return call

        send.__name__ = method
        running = asyncio.create_task(self._way(method, is_once=True).call(send), name=f"shockproof {method}")
        self._under_way.add(running)
        running.add_done_callback(self._under_way.discard)
        running.add_done_callback(_look_at)
        try:
            await asyncio.wait({running, begun}, return_when=asyncio.FIRST_COMPLETED)
            if begun.done():
                return begun.result()
            return await running  # refused
        except asyncio.CancelledError:
            running.cancel()
            raise

    def _way(self, method: str, *, hedges: bool = False, is_once: bool = False) -> Handle:
        """The service's own handle, with what is known of the method."""
        plan = self._service.plan
        effect = None if self._effect_of is None else self._effect_of(method)
        reduces_risk = self._risk_reducing_if is not None and self._risk_reducing_if(method)
        does: CallEffect = plan.effect if effect is None else one_of("effect", effect, _EFFECTS)
        hedges = hedges and does == "read"
        way = self._ways.get((does, hedges, is_once, reduces_risk))
        if way is None:
            own: Classify | None = plan.options.get("classify")
            options: HandleOptions = {"effect": does, "classify": _classify_after(own)}
            if reduces_risk:
                options["risk_reducing"] = True
            if not hedges:
                options["hedge_after"] = None
            if is_once:
                # The time limits are gRPC's then: ended by ours, it would look as if its caller had cancelled it.
                options |= {"max_retries": 0, "timeout": None, "deadline": None, "fallback": None}
            way = self._ways[does, hedges, is_once, reduces_risk] = self._service.using(**options)
        return way


def _method_of(details: grpc.aio.ClientCallDetails) -> str:
    return details.method.decode() if isinstance(details.method, bytes) else str(details.method)


async def _end_of(call: Any, has_answered: asyncio.Event | None) -> None:  # Any: grpc has no types
    """
    Wait until *call* has ended well, or *has_answered*.

    Raises:
        grpc.aio.AioRpcError: it has ended in another way.
        asyncio.CancelledError: its caller has cancelled it.
    """
    ended = asyncio.ensure_future(call.code())
    waits = {ended} if has_answered is None else {ended, asyncio.ensure_future(has_answered.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        call.cancel()
        raise
    finally:
        for wait in waits:
            wait.cancel()
    if not ended.done() or ended.result() is _Code.OK:
        return
    if call.cancelled():
        raise asyncio.CancelledError
    raise grpc.aio.AioRpcError(
        ended.result(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        await call.details(),
        await call.debug_error_string(),
    )


def _look_at(task: asyncio.Task[Any]) -> None:  # Any: as above
    """Its error is the caller's by the call itself: here nobody waits for it."""
    if not task.cancelled():
        task.exception()


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
    return details if left is None else _within(details, left, behind=_BEHIND)


def _within(
    details: grpc.aio.ClientCallDetails, seconds: float, *, behind: float = 0.0
) -> grpc.aio.ClientCallDetails:
    if details.timeout is not None and details.timeout <= seconds:
        return details
    return grpc.aio.ClientCallDetails(
        details.method, seconds + behind, details.metadata, details.credentials, details.wait_for_ready
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


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self, guarded: _GuardedCalls) -> None:
        self._guarded = guarded

    async def intercept_stream_unary(
        self,
        continuation: Callable[..., Any],  # Any: grpc has no types
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,  # Any: whatever the method takes
    ) -> Any:  # Any: as above
        around = time_left_around()

        async def begin() -> Any:  # Any: as above
            limits = [one for one in (self._guarded.seconds, around) if one is not None]
            details = _within(client_call_details, min(limits)) if limits else client_call_details
            return await continuation(details, request_iterator)

        return await self._guarded.once(client_call_details, begin, None)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self, guarded: _GuardedCalls) -> None:
        self._guarded = guarded

    async def intercept_stream_stream(
        self,
        continuation: Callable[..., Any],  # Any: grpc has no types
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,  # Any: whatever the method takes
    ) -> AsyncIterator[Any]:  # Any: whatever the method gives
        has_answered = asyncio.Event()

        async def begin() -> Any:  # Any: as above
            return await continuation(client_call_details, request_iterator)

        call = await self._guarded.once(client_call_details, begin, has_answered)
        return _Noticed(aiter(call), has_answered)


class _Noticed:
    """A stream of which is told that its first message is there."""

    def __init__(self, messages: AsyncIterator[Any], has_answered: asyncio.Event) -> None:  # Any: as above
        self._messages = messages
        self._has_answered = has_answered

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:  # Any: as above
        message = await anext(self._messages)
        self._has_answered.set()
        return message

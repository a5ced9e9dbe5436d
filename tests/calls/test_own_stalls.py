"""A time limit that passed because our own loop stood still: no verdict on the other side, on whatever way it was called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from shockproof import AdaptiveConcurrency, ErrorRecoveryService, Handle
from shockproof.calls.limits import Limits
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Body = Callable[[], Awaitable[None]]


async def by_call(handle: Handle, body: Body) -> None:
    await handle.call(body)


async def decorated(handle: Handle, body: Body) -> None:
    @handle
    async def fetch() -> None:
        await body()

    await fetch()


async def guarded(handle: Handle, body: Body) -> None:
    async with handle.guard():
        await body()


async def by_attempts(handle: Handle, body: Body) -> None:
    async for attempt in handle.attempts():
        async with attempt:
            await body()


async def streamed(handle: Handle, body: Body) -> None:
    async def connect() -> AsyncIterator[int]:
        await body()
        yield 1

    async with asyncio.timeout(5.0):  # it would be opened again and again
        async for _ in handle.stream(connect, stale_after=1.0):
            pass


WAYS: dict[str, tuple[Callable[[Handle, Body], Awaitable[None]], dict[str, Any]]] = {
    "call": (by_call, {"timeout": 1.0}),
    "call, by a deadline": (by_call, {"deadline": 1.0}),
    "call, with grace": (by_call, {"timeout": 1.0, "grace": 0.5}),
    "call, hedged": (by_call, {"timeout": 1.0, "hedge_after": 0.9, "max_retries": 0}),
    "call, that is retried": (by_call, {"timeout": 1.0, "max_retries": 1, "base_delay": 0.1}),
    "call, adaptive": (by_call, {"timeout": 1.0, "adaptive": True}),
    "call, with a largest age": (by_call, {"timeout": 1.0, "max_call_age": 1.5}),
    "decorated": (decorated, {"timeout": 1.0}),
    "guard": (guarded, {"timeout": 1.0}),
    "attempts": (by_attempts, {"timeout": 1.0}),
    "stream": (streamed, {"timeout": 1.0}),
}


@pytest.fixture
def drops(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each attempt that a limit was told of as dropped: what makes it shrink."""
    found: list[float] = []
    ended = Limits.ended

    def spy(limits: Limits, seconds: float, *, dropped: bool) -> None:
        if dropped:
            found.append(seconds)
        ended(limits, seconds, dropped=dropped)

    monkeypatch.setattr(Limits, "ended", spy)
    return found


@pytest.mark.parametrize("places", [True, False], ids=["places that find themselves", "no places"])
@pytest.mark.parametrize("stall", [30.0, 0.0])
@pytest.mark.parametrize("way", WAYS)
async def test_our_own_stall_neither_opens_a_circuit_nor_shrinks_a_limit(
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    drops: list[float],
    *,
    way: str,
    stall: float,
    places: bool,
) -> None:
    """The answer may have been waiting in the socket; and the same without the stall is a failure like any."""
    run, options = WAYS[way]
    limits: dict[str, Any] = {"max_concurrent": AdaptiveConcurrency()} if places else {}
    api = recovery.service("api", **{"max_retries": 0, **options}, **limits, circuit_threshold=1)

    async def body() -> None:
        await asyncio.sleep(0)
        clock.advance(stall)  # as a long computation on the loop would
        await clock.sleep(3600)

    with suppress(TimeoutError):
        await run(api, body)
    assert recovery.is_circuit_open("api") is (stall == 0.0)
    if stall:
        assert drops == []
    elif places and way != "stream":  # a feed says nothing about load
        assert drops


@pytest.mark.parametrize("stall", [30.0, 0.0])
async def test_an_error_into_which_a_callee_turns_our_cancellation_is_no_verdict_after_a_stall(
    recovery: ErrorRecoveryService, clock: VirtualClock, stall: float
) -> None:
    """Clients that clean up raise errors of their own; without our stall it counts like any."""
    api = recovery.service("api", timeout=1.0, max_retries=0, circuit_threshold=1)

    async def client() -> None:
        try:
            await asyncio.sleep(0)
            clock.advance(stall)
            await clock.sleep(3600)
        except asyncio.CancelledError:
            raise ConnectionAbortedError("cut") from None

    with pytest.raises(ConnectionAbortedError):
        await api.call(client)
    assert recovery.is_circuit_open("api") is (stall == 0.0)

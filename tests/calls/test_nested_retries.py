"""Layers of retries do not multiply: inside a running retry an inner one makes one attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, Handle, attempts_of
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


def layers(recovery: ErrorRecoveryService, *names: str, **options: Any) -> list[Handle]:
    wanted = {"max_retries": 2, "base_delay": 0.5, "circuit_threshold": None, **options}
    return [recovery.service(name, **wanted) for name in names]


async def test_three_layers_of_three_attempts_do_not_become_twenty_seven_calls(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The innermost retries first; every retry of a layer around it is one attempt inside."""
    outer, middle, inner = layers(recovery, "outer", "middle", "inner")
    fetch = script(ConnectionError("no"))
    with pytest.raises(ConnectionError):
        await outer.call(middle.call, inner.call, fetch)
    assert fetch.calls == 7


async def test_it_holds_for_decorators_and_blocks(recovery: ErrorRecoveryService, script: Script) -> None:
    """Whatever form the layers have."""
    outer, middle, inner = layers(recovery, "outer", "middle", "inner")
    fetch = script(ConnectionError("no"))

    @outer
    async def whole() -> None:
        async for attempt in middle.attempts():
            async with attempt:
                await inner.call(fetch)

    with pytest.raises(ConnectionError):
        await whole()
    assert fetch.calls == 7


async def test_it_holds_for_plain_functions_in_threads(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The mark of a running retry goes along into the thread and its awaitable result."""
    outer, inner = layers(recovery, "outer", "inner")
    fetch = script(ConnectionError("no"))
    with pytest.raises(ConnectionError):
        await outer.call(lambda name: inner.call(fetch), "AAPL")
    assert fetch.calls == 5  # three of the inner one's own, and two retries of the outer one


async def test_an_inner_call_outside_a_running_retry_has_its_own_retries(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """After the outer call has ended nothing is left of it."""
    outer, inner = layers(recovery, "outer", "inner")
    with pytest.raises(ConnectionError):
        await outer.call(script(ConnectionError("no")))
    fetch = script(ConnectionError("no"))
    with pytest.raises(ConnectionError):
        await inner.call(fetch)
    assert fetch.calls == 3


async def test_a_task_that_outlives_a_retried_attempt_retries_again(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """A task started inside a retried attempt inherits the mark, and loses it when the retry has ended."""
    outer, inner = layers(recovery, "outer", "inner")
    fetch = script(ConnectionError("no"))
    started: list[asyncio.Task[Any]] = []

    async def later() -> None:
        await clock.sleep(100)
        await inner.call(fetch)

    async def second_time_lucky() -> None:
        started.append(asyncio.create_task(later()))
        if len(started) < 2:
            raise ConnectionError("first")

    await outer.call(second_time_lucky)
    results = await asyncio.gather(*started, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError] * 2
    assert fetch.calls == 6


async def test_a_sibling_task_is_not_affected(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """While one task retries, another has all its own retries."""
    outer, inner = layers(recovery, "outer", "inner", base_delay=10.0)
    running = asyncio.create_task(outer.call(script(ConnectionError("no"))))
    await clock.sleep(1)
    fetch = script(ConnectionError("no"))
    with pytest.raises(ConnectionError):
        await inner.using(base_delay=0.5).call(fetch)
    assert fetch.calls == 3
    await asyncio.gather(running, return_exceptions=True)


async def test_why_the_inner_one_did_not_repeat_is_on_the_error(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """The history that the outer one tells is that of its own attempts."""
    outer, inner = layers(recovery, "outer", "inner")
    with pytest.raises(ConnectionError) as raised:
        await outer.call(inner.call, script(ConnectionError("no")))
    assert len(attempts_of(raised.value)) == 3
    assert any("layers do not multiply" in note for note in raised.value.__notes__)


async def test_an_outer_layer_without_retries_does_not_hide_the_inner_history(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """A single attempt around three tells less than the three."""
    (inner,) = layers(recovery, "inner")
    outer = recovery.service("outer", max_retries=0)
    with pytest.raises(ConnectionError) as raised:
        await outer.call(inner.call, script(ConnectionError("no")))
    assert len(attempts_of(raised.value)) == 3


async def test_an_inner_refusal_is_neutral_for_the_outer_layer(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """An open circuit inside does not open the one around it, however often it refuses."""
    inner = recovery.service("inner", circuit_threshold=1, max_retries=0)
    outer = recovery.service("outer", circuit_threshold=1)
    with pytest.raises(ConnectionError):
        await inner.call(script(ConnectionError("no")))
    fetch = script("answer")
    for _ in range(5):
        with pytest.raises(Exception, match="circuit is open"):
            await outer.call(inner.call, fetch)
    assert fetch.calls == 0
    assert not recovery.is_circuit_open("outer")
    assert recovery.get_error_summary()["errors_by_service"] == {"inner": 1}


async def test_an_inner_refusal_is_answered_by_the_outer_fallback(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """It proves that nothing happened: a stand-in may answer."""
    inner = recovery.service("inner", circuit_threshold=1, max_retries=0)
    with pytest.raises(ConnectionError):
        await inner.call(script(ConnectionError("no")))
    outer = recovery.service("outer", fallback="cached")
    assert await outer.call(inner.call, script("answer")) == "cached"

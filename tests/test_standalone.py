"""The policies one at a time, without a recovery service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from shockproof import CircuitBreaker, CircuitOpenError, Fallback, Retry, Timeout
from shockproof.testing import VirtualClock


@pytest.mark.asyncio
async def test_retry_repeats_with_growing_waits(clock: VirtualClock) -> None:
    """Two failures, then a success: 1 s and 2 s are waited."""
    begun, calls = clock.monotonic(), 0

    @Retry(max_retries=2)
    async def fetch() -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionError("down")
        return calls

    assert await fetch() == 3
    assert clock.monotonic() - begun == 3.0


@pytest.mark.asyncio
async def test_breaker_opens_refuses_and_lets_a_probe_close_it(clock: VirtualClock) -> None:
    """One breaker serves many blocks, and goes through its three states."""
    breaker = CircuitBreaker(circuit_threshold=2, circuit_timeout=5.0, clock=clock)
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            async with breaker:
                raise OSError("down")

    with pytest.raises(CircuitOpenError):
        async with breaker:
            pytest.fail("the block ran although the circuit is open")

    await asyncio.sleep(5.0)
    assert breaker.state == "half-open"
    async with breaker:
        pass
    assert breaker.state == "closed"


@pytest.mark.asyncio
async def test_breaker_is_a_block_in_many_tasks_at_once(clock: VirtualClock) -> None:
    """Entries of different tasks do not get into each other's way."""
    breaker = CircuitBreaker(circuit_threshold=3, clock=clock)

    async def fail(after: float) -> None:
        async with breaker:
            await asyncio.sleep(after)
            raise OSError("down")

    results = await asyncio.gather(*(fail(x) for x in (3, 1, 2)), return_exceptions=True)

    assert [type(result) for result in results] == [OSError] * 3
    assert breaker.state == "open"


@pytest.mark.asyncio
async def test_reset_closes_a_breaker(clock: VirtualClock) -> None:
    """A person who knows better need not wait."""
    breaker = CircuitBreaker(circuit_threshold=1, clock=clock)
    with pytest.raises(OSError, match="down"):
        async with breaker:
            raise OSError("down")
    breaker.reset()

    assert breaker.state == "closed"


@pytest.mark.asyncio
async def test_timeout_ends_a_block_that_takes_too_long(clock: VirtualClock) -> None:
    """It raises a TimeoutError after exactly its seconds."""
    begun = clock.monotonic()
    with pytest.raises(TimeoutError):
        async with Timeout(timeout=2.0):
            await asyncio.sleep(60)

    assert clock.monotonic() - begun == 2.0


@pytest.mark.asyncio
async def test_fallback_answers_with_the_calls_arguments() -> None:
    """A stand-in gets what the call got."""

    @Fallback(fallback=lambda symbol: f"cached {symbol}")
    async def quote(symbol: str) -> str:
        raise ConnectionError(symbol)

    assert await quote("EUR") == "cached EUR"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Timeout, "needs timeout"),
        (Fallback, "needs fallback"),
        (lambda: Retry(timeout=1.0), "Retry knows no 'timeout'"),
        (lambda: CircuitBreaker(max_retries=1), "CircuitBreaker knows no 'max_retries'"),
        (lambda: Retry(retries=1), "Retry knows no 'retries'; did you mean max_retries"),  # type: ignore[call-arg]  # what it refuses is the point
    ],
)
def test_an_option_of_another_policy_is_refused(make: Callable[[], object], says: str) -> None:
    """The message names the policy, the option, and what there is."""
    with pytest.raises(TypeError, match=says):
        make()


def test_an_option_without_its_name_is_refused_with_the_way_to_write_it() -> None:
    """Also where the policy is put above a function without its brackets."""
    with pytest.raises(
        TypeError, match=r"Timeout takes its options by name: Timeout\(timeout=\.\.\.\), .*; got 2\.0"
    ):
        Timeout(2.0)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match=r"or @Retry\(max_retries=\.\.\.\) above a function; got <function"):

        @Retry  # type: ignore[arg-type]  # the mistake
        async def quote() -> float:
            return 150.25


@pytest.mark.asyncio
async def test_a_stream_of_a_policy_alone_is_opened_again_only_by_retry(clock: VirtualClock) -> None:
    """Everything else is switched off, so the others open it once."""
    opened = 0

    async def connect() -> AsyncIterator[int]:
        nonlocal opened
        opened += 1
        yield opened
        raise ConnectionError

    async with Retry(clock=clock).stream(connect) as ticks:
        assert [await anext(ticks), await anext(ticks)] == [1, 2]
    ticks = Timeout(timeout=5.0, clock=clock).stream(connect)
    assert await anext(ticks) == 3
    with pytest.raises(ConnectionError):
        await anext(ticks)

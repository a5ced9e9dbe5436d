from __future__ import annotations

import asyncio

from correctness.dependency import Dependency, error_of, fails, start, works
from correctness.library import Library, expect
from correctness.scenarios import scenario


@scenario("App-vNext/Polly FallbackResilienceStrategy.cs")
async def answers(library: Library) -> None:
    """When the call fails, the fallback answers."""
    call = library.fallback(Dependency().function, lambda: "cached")
    expect(await call(fails) == "cached", "it did not answer")


@scenario("Netflix/Hystrix#1588")
async def once(library: Library) -> None:
    """The fallback runs once for a failure, and not at all for a success."""
    runs: list[int] = []

    def count() -> str:
        runs.append(1)
        return "cached"

    call = library.fallback(Dependency().function, count)
    expect(await call(works) == "fine", "the result was replaced")
    expect(not runs, "it ran although the call worked")
    await call(fails)
    expect(len(runs) == 1, f"it ran {len(runs)} times")


@scenario("failsafe-go/failsafe-go test/fallback_test.go; ferro-labs/ai-gateway#137")
async def not_for_a_cancellation(library: Library) -> None:
    """A cancelled call gets no fallback."""
    runs: list[int] = []
    call = library.fallback(Dependency().function, lambda: runs.append(1))
    task = await start(call)
    task.cancel()
    await asyncio.wait((task,), timeout=0.1)
    expect(task.cancelled(), "the cancellation was swallowed")
    expect(not runs, "it ran")


@scenario("PEP 3134, exception chaining")
async def own_failure(library: Library) -> None:
    """When the fallback fails too, the first error can still be seen."""

    def breaks() -> None:
        raise KeyError("not in the cache")

    error = await error_of(library.fallback(Dependency().function, breaks)(fails))
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    expect(any(isinstance(one, ConnectionError) for one in seen), f"the caller only sees {seen}")


@scenario("App-vNext/Polly FallbackStrategyOptions.TResult.cs, FallbackAction")
async def coroutine_function(library: Library) -> None:
    """The fallback may be a coroutine function."""

    async def cached() -> str:
        await asyncio.sleep(0)
        return "cached"

    expect(
        await library.async_fallback(Dependency().function, cached)(fails) == "cached", "it was not awaited"
    )


@scenario("zhayujie/CowAgent#3125")
async def chain(library: Library) -> None:
    """A fallback that fails is followed by the next one."""

    def breaks() -> None:
        raise KeyError("not in the cache")

    call = library.fallback_chain(Dependency().function, breaks, lambda: "default")
    expect(await call(fails) == "default", "the second one did not answer")

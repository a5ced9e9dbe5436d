from __future__ import annotations

import asyncio

from correctness.dependency import Dependency, error_of, fails, says_no, script, start, works
from correctness.library import Differs, Library, expect
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


@scenario("failsafe-lib/failsafe#155; microprofile/microprofile-fault-tolerance fallback.asciidoc, applyOn")
async def by_the_error(library: Library) -> None:
    """It stands in for the errors it is meant for; others reach the caller as they are."""
    call = library.fallback_for(Dependency().function, ConnectionError, lambda: "cached")
    expect(await call(fails) == "cached", "it did not answer")
    error = await error_of(call(says_no))
    expect(isinstance(error, ValueError), f"the caller got {error!r}")


@scenario("RFC 5861, stale-if-error; codeinthehole/django-cacheback#74")
async def last_good_answer(library: Library) -> None:
    """The last good answer stands in for a failed call, until it is too old."""
    dependency = Dependency()
    call, action = library.last_good(dependency.function, max_age=0.06), script(works, fails)
    await call(action)
    await asyncio.sleep(0.02)
    value, _ = library.read_answer(await call(action))
    expect(value == "fine", f"the answer was {value!r}")
    expect(dependency.calls == 2, "the dependency was not asked")
    await asyncio.sleep(0.07)
    error = await error_of(call(action))
    expect(isinstance(error, ConnectionError), f"after its time the caller got {error!r}")


@scenario("marc-shade/world-intel-mcp#4; RFC 9111, Age")
async def old_answer_says_so(library: Library) -> None:
    """The caller can tell such an answer from a fresh one, and how old it is."""
    call, action = library.last_good(Dependency().function, max_age=10.0), script(works, fails)
    await call(action)
    await asyncio.sleep(0.02)
    _, age = library.read_answer(await call(action))
    if age is None:
        raise Differs("it looks like a fresh one")
    expect(0.015 < age < 1.0, f"20 ms old, it says {age}")


@scenario("zhayujie/CowAgent#3125")
async def chain(library: Library) -> None:
    """A fallback that fails is followed by the next one."""

    def breaks() -> None:
        raise KeyError("not in the cache")

    call = library.fallback_chain(Dependency().function, breaks, lambda: "default")
    expect(await call(fails) == "default", "the second one did not answer")

from __future__ import annotations

import asyncio
import contextvars

from correctness.dependency import Dependency, error_of, hangs, seconds, start, works
from correctness.library import Differs, Library, expect
from correctness.scenarios import scenario


@scenario("Python documentation, asyncio.timeout")
async def ends_in_time(library: Library) -> None:
    """A call that hangs is ended after the time."""
    dependency = Dependency()
    call = library.timeout(dependency.function, 0.02)
    with seconds() as passed:
        error = await error_of(call(hangs))
        expect(0.015 < passed() < 0.2, f"it took {passed() * 1000:.0f} ms")
    expect(isinstance(error, library.timed_out), f"the caller got {error!r}")
    expect(dependency.in_flight == 0, "the call goes on")


@scenario("pnpnpn/timeout-decorator#49")
async def kind_of_error(library: Library) -> None:
    """What it raises is a TimeoutError."""
    error = await error_of(library.timeout(Dependency().function, 0.01)(hangs))
    if not isinstance(error, TimeoutError):
        raise Differs(f"it is a {type(error).__name__}")


@scenario("aio-libs-abandoned/async-timeout#16")
async def timeout_error_of_the_call(library: Library) -> None:
    """A TimeoutError of the call itself is not taken for the policy's."""
    own = TimeoutError("the socket said so")

    async def raises() -> None:
        raise own

    error = await error_of(library.timeout(Dependency().function, 10.0)(raises))
    expect(error is own, f"after no time at all the caller got {error!r}")


@scenario("App-vNext/Polly#3086")
async def cancelled_by_the_caller(library: Library) -> None:
    """A cancellation by the caller stays a cancellation."""
    task = await start(library.timeout(Dependency().function, 10.0))
    task.cancel()
    await asyncio.wait((task,), timeout=0.1)
    expect(task.cancelled(), "it became something else")


@scenario("Python documentation, asyncio.timeout: can be safely nested")
async def outer_timeout_first(library: Library) -> None:
    """An asyncio.timeout around it that ends first is the one that is told."""
    call = library.timeout(Dependency().function, 10.0)
    try:
        async with asyncio.timeout(0.02) as scope:
            await call(hangs)
    except TimeoutError:
        expect(scope.expired(), "the inner one was told")
    else:
        expect(False, "nothing was told")


@scenario("python/cpython#102815; Python documentation, Task.uncancel")
async def inner_timeout_first(library: Library) -> None:
    """When it ends first, the task around it is not left half cancelled."""
    call = library.timeout(Dependency().function, 0.01)
    async with asyncio.timeout(10.0) as scope:
        error = await error_of(call(hangs))
        await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    expect(isinstance(error, library.timed_out), f"the caller got {error!r}")
    expect(not scope.expired() and task.cancelling() == 0, "the task is still being cancelled")


@scenario("python/cpython#7216")
async def clean_up(library: Library) -> None:
    """The call has cleaned up before the caller goes on."""
    clean = False

    async def careful() -> None:
        nonlocal clean
        try:
            await hangs()
        finally:
            await asyncio.sleep(0.005)
            clean = True

    await error_of(library.timeout(Dependency().function, 0.01)(careful))
    expect(clean, "it was still at it")


@scenario("failsafe-lib/failsafe#263")
async def call_that_ignores_it(library: Library) -> None:
    """A call that ignores its cancellation does not hold the caller."""
    released = asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    call = library.hard_timeout(Dependency().function, 0.01, grace=0.01)
    task = await start(call, stubborn)
    await asyncio.wait((task,), timeout=0.1)
    held = not task.done()
    released.set()
    error = await error_of(task)
    expect(not held, "it holds the caller")
    expect(isinstance(error, library.timed_out), f"the caller got {error!r}")


@scenario("python/cpython#102123")
async def context_variables(library: Library) -> None:
    """A context variable that the call sets is seen by the caller, as without a timeout."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="old")

    async def sets_it() -> None:
        variable.set("new")

    await library.timeout(Dependency().function, 10.0)(sets_it)
    if variable.get() != "new":
        raise Differs("the call runs in a task of its own")


@scenario("RazerM/ratelimiter#2, there for a rate limit")
async def made_before_the_loop(library: Library) -> None:
    """It decorates a function of a module, before there is a loop."""

    def on_its_own() -> object:
        call = library.timeout(Dependency().function, 10.0)

        async def main() -> object:
            return await call(works)

        return asyncio.run(main())

    expect(await asyncio.to_thread(on_its_own) == "fine", "it has no result")

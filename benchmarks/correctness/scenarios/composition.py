from __future__ import annotations

import asyncio
import inspect

from correctness.dependency import (
    Dependency,
    cancel,
    error_of,
    fails,
    hangs,
    is_refused,
    script,
    seconds,
    start,
    trip,
    works,
)
from correctness.library import Differs, Library, NotOffered, expect
from correctness.scenarios import scenario


@scenario(
    "resilience4j/resilience4j#1065; redis-rb/redis-client#228; interlock guide, Retries and circuit breakers"
)
async def retry_behind_an_open_circuit(library: Library) -> None:
    """When the circuit opens, a retried call ends; it does not wait for ten seconds."""
    dependency = Dependency()
    call = library.stack(dependency.function, attempts=6, failures=2, open_for=10.0)
    task = await start(call, fails)
    await asyncio.wait((task,), timeout=0.2)
    waiting = not task.done()
    await cancel(task)
    expect(dependency.calls == 2, f"{dependency.calls} calls were made")
    if waiting:
        raise Differs("it waits for the circuit, as documented")


@scenario("failsafe-lib/failsafe#119; jd/tenacity#24")
async def error_behind_an_open_circuit(library: Library) -> None:
    """The caller whose attempts opened the circuit gets the real error, not the refusal."""
    call = library.stack(Dependency().function, attempts=6, failures=2, open_for=10.0)
    task = await start(call, fails)
    await asyncio.wait((task,), timeout=0.2)
    if not task.done():
        await cancel(task)
        raise Differs("it waits for the circuit, as documented")
    error = task.exception()
    if not isinstance(error, ConnectionError):
        raise Differs(f"the caller gets {type(error).__name__}")


@scenario("resilience4j/resilience4j#1656; resilience4j/resilience4j#989")
async def own_refusals(library: Library) -> None:
    """Calls that a full bulkhead refuses do not open the circuit of a healthy dependency."""
    dependency = Dependency()
    call = library.stack(dependency.function, failures=3, limit=1)
    inside = await start(call)
    for _ in range(6):
        await error_of(call(works))
    await cancel(inside)
    refused = await is_refused(library, dependency, call)
    if refused and library.names_what_counts:
        raise Differs("they count, unless the breaker is told to ignore them")
    expect(not refused, "it is open, and nothing failed")


@scenario("MervinPraison/PraisonAI#4969; erpc/erpc#1130")
async def timeouts_count(library: Library) -> None:
    """Calls that run into their timeout open the circuit."""
    dependency = Dependency()
    call = library.stack(dependency.function, failures=3, timeout=0.01)
    for _ in range(3):
        await error_of(call(hangs))
    expect(await is_refused(library, dependency, call), "three timeouts did not open it")


@scenario("confident-ai/deepeval#2146; moul/retry#3")
async def timeout_of_an_attempt(library: Library) -> None:
    """An attempt that hangs is ended, and the next one gives the result."""
    call = library.stack(Dependency().function, attempts=3, timeout=0.02)
    with seconds() as passed:
        task = await start(call, script(hangs, works))
        await asyncio.wait((task,), timeout=1.5)
        expect(task.done(), "it still hangs")
        expect(await task == "fine", "it has no result")
        if passed() > 0.5:
            raise Differs(f"after {passed():.1f} s: the wait cannot be made shorter")


@scenario("resilience4j/resilience4j#1740")
async def fallback_behind_an_open_circuit(library: Library) -> None:
    """Behind an open circuit the fallback answers, and the dependency is left alone."""
    dependency = Dependency()
    call = library.stack(dependency.function, fallback=lambda: "cached", failures=3)
    await trip(call)
    expect(dependency.calls == 3, f"{dependency.calls} calls were made")
    expect(await call(works) == "cached", "it did not answer")
    expect(dependency.calls == 3, "the dependency was called")


@scenario("apache/curator#346; HKUDS/nanobot#2760")
async def retries_inside_retries(library: Library) -> None:
    """Three layers with three attempts each do not make 27 calls."""
    dependency = Dependency()

    def layer(inner: object) -> object:
        retried = library.retry(inner, attempts=3)

        async def calls_it(action: object) -> object:
            return await retried(action)

        return calls_it

    call = layer(layer(layer(dependency.function)))
    await error_of(call(fails))
    if dependency.calls == 27:
        raise Differs("27 calls")
    expect(dependency.calls <= 9, f"{dependency.calls} calls")


@scenario("thomhurst/Kevlar#506; gRPC guide, Deadlines, Deadline Propagation")
async def deadline_of_an_outer_call(library: Library) -> None:
    """A retry inside an outer call with a deadline does not wait past it."""
    call = library.nested_deadline(Dependency().function, attempts=5, delay=0.3, deadline=0.05)
    with seconds() as passed:
        error = await error_of(call(fails))
        expect(passed() < 0.12, f"it took {passed() * 1000:.0f} ms")
    if not isinstance(error, ConnectionError):
        raise Differs(f"in time, but the caller gets {type(error).__name__} in place of the real error")


@scenario("jd/tenacity#263; micheles/decorator#41")
async def still_a_coroutine_function(library: Library) -> None:
    """What is decorated is still a coroutine function with its name."""

    async def fetch_quote(symbol: str) -> str:
        """The last price."""
        return symbol

    wrapped = 0
    for decorate in (
        lambda: library.retry(fetch_quote, attempts=3),
        lambda: library.breaker(fetch_quote).call,
    ):
        try:
            call = decorate()
        except Exception as missing:
            if type(missing).__name__ != "NotOffered":
                raise
            continue
        wrapped += 1
        expect(inspect.iscoroutinefunction(call), "it is no coroutine function any more")
        expect(getattr(call, "__name__", "") == "fetch_quote", "it has lost its name")
        expect(call.__doc__ == "The last price.", "it has lost its documentation")
    expect(wrapped, "nothing to decorate")


@scenario("J. Dean and L. A. Barroso, The Tail at Scale, 2013; joshrotenberg/tower-resilience#393")
async def hedged_call(library: Library) -> None:
    """A second call starts when the first is slow; the winner's answer counts, the loser is cancelled."""
    dependency = Dependency()
    call = library.hedge(dependency.function, after=0.01)
    with seconds() as passed:
        expect(await call(script(hangs, works)) == "fine", "it has no result")
        expect(passed() < 0.2, f"it took {passed():.1f} s")
    await asyncio.sleep(0.01)
    expect(dependency.in_flight == 0, "the loser goes on")


@scenario("cristalhq/hedgedhttp#61")
async def hedged_order(library: Library) -> None:
    """What must not happen twice is not hedged: it is refused, or made once."""
    dependency = Dependency()
    try:
        call = library.hedge_unsafe(dependency.function, after=0.01)
    except NotOffered:
        raise
    except Exception:  # noqa: BLE001 - refused, in the library's own words
        return
    task = await start(call)
    await asyncio.sleep(0.04)
    await cancel(task)
    expect(dependency.calls == 1, f"it was made {dependency.calls} times")


@scenario("ccxt/ccxt#2599; yubing744/trading-gpt#94")
async def order_without_an_answer(library: Library) -> None:
    """An order whose answer was lost is not sent a second time."""
    dependency = Dependency()
    call = library.send_once(dependency.function, attempts=3, timeout=0.01)
    await error_of(call(hangs))
    expect(dependency.calls == 1, f"it was sent {dependency.calls} times")

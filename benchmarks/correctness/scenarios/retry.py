from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

from correctness.dependency import (
    Dependency,
    cancel,
    error_of,
    fails,
    hangs,
    says_no,
    script,
    seconds,
    start,
    works,
)
from correctness.library import Differs, Library, NotOffered, expect
from correctness.scenarios import scenario


class BusyError(ConnectionError):
    """What a server says that wants to be left alone for a while."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


@scenario("microprofile/microprofile-fault-tolerance retry.asciidoc")
async def until_it_works(library: Library) -> None:
    """A call that fails twice and then works gives its result."""
    dependency = Dependency()
    call = library.retry(dependency.function, attempts=3)
    expect(await call(script(fails, fails, works)) == "fine", "it has no result")
    expect(dependency.calls == 3, f"{dependency.calls} attempts")


@scenario("microprofile/microprofile-fault-tolerance retry.asciidoc, maxRetries")
async def number_of_attempts(library: Library) -> None:
    """A call that never works is made as often as was asked for."""
    dependency = Dependency()
    await error_of(library.retry(dependency.function, attempts=3)(fails))
    expect(dependency.calls == 3, f"{dependency.calls} attempts instead of 3")


@scenario("resilience4j/resilience4j RetryImpl.java, exceptionPredicate")
async def other_errors(library: Library) -> None:
    """An error that is not to be retried is raised at once, as it is."""
    dependency = Dependency()
    call = library.retry(dependency.function, attempts=3, on=ConnectionError)
    error = await error_of(call(says_no))
    expect(isinstance(error, ValueError), f"the caller got {error!r}")
    expect(dependency.calls == 1, f"{dependency.calls} attempts")


@scenario("jd/tenacity#24; austind/retryhttp#16")
async def last_error(library: Library) -> None:
    """The last error reaches the caller as itself."""
    raised: list[ConnectionError] = []

    async def fails_anew() -> None:
        raised.append(ConnectionError(f"attempt {len(raised) + 1}"))
        raise raised[-1]

    error = await error_of(library.retry(Dependency().function, attempts=3)(fails_anew))
    if not isinstance(error, ConnectionError):
        raise Differs(f"the caller gets {type(error).__name__}")
    expect(error is raised[-1], f"the caller got {error!r}")


@scenario("jd/tenacity#701")
async def own_history(library: Library) -> None:
    """Calls that run at the same time each tell their own number of attempts."""
    call = library.retry(Dependency().function, attempts=3, on=ConnectionError)

    async def three_times() -> None:
        await asyncio.sleep(0.002)
        raise ConnectionError("refused")

    async def only_once() -> None:
        await asyncio.sleep(0.003)
        raise ValueError("no")

    async def told(action: Any) -> int:
        try:
            await call(action)
        except Exception as error:  # noqa: BLE001 - of any kind
            return library.attempts_told(call, error)
        return 0

    numbers = await asyncio.gather(told(three_times), told(only_once), told(three_times))
    expect(numbers == [3, 1, 3], f"3, 1 and 3 attempts were made, they tell {numbers}")


@scenario("jd/tenacity#529")
async def cancelled_attempt(library: Library) -> None:
    """ "Retry everything but this": a cancelled call ends, and is not made again."""
    dependency = Dependency()
    call = library.retry_everything_but(dependency.function, ValueError, attempts=3)
    task = await start(call)
    task.cancel()
    await asyncio.wait((task,), timeout=0.1)
    ended = task.cancelled()
    if not task.done():
        await cancel(task)
    expect(dependency.calls == 1, f"it was made {dependency.calls} times")
    expect(ended, "the cancellation was swallowed")


@scenario("App-vNext/Polly RetryResilienceStrategy.cs, ThrowIfCancellationRequested; jd/tenacity#186")
async def cancelled_backoff(library: Library) -> None:
    """A call that is cancelled between two attempts ends at once."""
    dependency = Dependency()
    task = await start(library.retry(dependency.function, attempts=3, delay=10.0), fails)
    task.cancel()
    await asyncio.wait((task,), timeout=0.1)
    expect(task.cancelled(), "it went on waiting")
    expect(dependency.calls == 1, f"it was made {dependency.calls} times")


@scenario("jd/tenacity#529; jd/tenacity#186")
async def timeout_around_it(library: Library) -> None:
    """asyncio.timeout around a retried call ends it."""
    dependency = Dependency()
    call = library.retry(dependency.function, attempts=3)
    with seconds() as passed:
        try:
            async with asyncio.timeout(0.02):
                await call(hangs)
        except TimeoutError:
            pass
        expect(passed() < 0.2, f"it took {passed():.1f} s")
    expect(dependency.calls == 1, f"it was made {dependency.calls} times")


@scenario("jd/tenacity#423; litl/backoff#196")
async def total_time(library: Library) -> None:
    """A limit of 50 ms on all attempts is not passed by a wait of 200 ms."""
    call = library.retry_within(Dependency().function, attempts=10, delay=0.2, deadline=0.05)
    with seconds() as passed:
        await error_of(call(fails))
        expect(passed() < 0.12, f"it took {passed() * 1000:.0f} ms")


@scenario("thomhurst/Kevlar#506; jd/tenacity#423")
async def no_useless_wait(library: Library) -> None:
    """When no attempt can follow in time, the real error is raised without a wait."""
    call = library.retry_within(Dependency().function, attempts=10, delay=0.2, deadline=0.05)
    with seconds() as passed:
        error = await error_of(call(fails))
        expect(passed() < 0.03, f"it waited {passed() * 1000:.0f} ms, for nothing")
    expect(isinstance(error, ConnectionError), f"the caller got {error!r}")


@scenario("grpc/proposal A6-client-retries.md, deadline across all attempts; jd/tenacity#373")
async def deadline_in_an_attempt(library: Library) -> None:
    """A deadline ends an attempt that hangs."""
    call = library.retry_cut_at(Dependency().function, attempts=3, deadline=0.03)
    with seconds() as passed:
        error = await error_of(call(hangs))
        expect(passed() < 0.15, f"it took {passed():.1f} s")
    expect(isinstance(error, (TimeoutError, *library.timed_out)), f"the caller got {error!r}")


@scenario("RFC 9110, Retry-After; Xuanwo/backon#150")
async def asked_to_wait(library: Library) -> None:
    """An error that asks for 40 ms is not followed by an attempt before."""

    async def busy() -> None:
        raise BusyError(0.04)

    dependency = Dependency()
    call = library.retry_after(dependency.function, attempts=3)
    expect(await call(script(busy, works)) == "fine", "it has no result")
    waited = dependency.begun[1] - dependency.begun[0]
    expect(waited > 0.039, f"it came back after {waited * 1000:.0f} ms")


@scenario("safe-global/safe-eth-py#1171; austind/retryhttp#11")
async def asked_to_wait_an_hour(library: Library) -> None:
    """An error that asks for an hour does not hold a caller who has 50 ms."""

    async def busy() -> None:
        raise BusyError(3600.0)

    call = library.retry_after(Dependency().function, attempts=3, deadline=0.05)
    task = await start(call, busy)
    await asyncio.wait((task,), timeout=0.15)
    held = not task.done()
    await cancel(task)
    expect(not held, "it goes on waiting")


@scenario("channable/opnieuw#10")
async def wait_by_kind(library: Library) -> None:
    """An overloaded server is left alone for 40 ms; after a broken connection the next attempt follows at once."""

    async def busy() -> None:
        raise BusyError(0.0)

    async def broken() -> None:
        raise ConnectionResetError("reset")

    dependency = Dependency()
    call = library.retry_by_kind(
        dependency.function, {BusyError: 0.04, ConnectionResetError: 0.0}, attempts=3
    )
    expect(await call(script(busy, broken, works)) == "fine", "it has no result")
    first, second = (after - before for before, after in pairwise(dependency.begun))
    expect(first > 0.039, f"it came back to the overloaded server after {first * 1000:.0f} ms")
    expect(second < 0.03, f"it came back to the broken connection after {second * 1000:.0f} ms")


@scenario("aws-samples/aws-arch-backoff-simulator backoff_simulator.py, expo")
async def growing_waits(library: Library) -> None:
    """Exponential backoff waits 1, 2 and 4 ms."""
    async with library.waits() as waits:
        await error_of(
            library.retry_growing(Dependency().function, attempts=4, base=0.001, cap=1.0, jitter=False)(fails)
        )
    expect([round(wait, 6) for wait in waits] == [0.001, 0.002, 0.004], f"it waits {waits}")


@scenario("UKGovernmentBEIS/inspect_k8s_sandbox#182")
async def growing_waits_of_two(library: Library) -> None:
    """Two calls at once: each has its own backoff."""
    async with library.waits() as waits:
        call = library.retry_growing(Dependency().function, attempts=4, base=0.001, cap=1.0, jitter=False)
        await asyncio.gather(error_of(call(fails)), error_of(call(fails)))
    seen = sorted(round(wait, 6) for wait in waits)
    expect(seen == [0.001, 0.001, 0.002, 0.002, 0.004, 0.004], f"they wait {seen}")


@scenario(
    "agenda/agenda#1748; aws-samples/aws-arch-backoff-simulator backoff_simulator.py, ExpoBackoffFullJitter"
)
async def cap(library: Library) -> None:
    """No wait is longer than the cap, jitter included."""
    async with library.waits() as waits:
        call = library.retry_growing(Dependency().function, attempts=12, base=0.0005, cap=0.002, jitter=True)
        await error_of(call(fails))
    expect(len(waits) >= 9, f"{len(waits)} waits")
    expect(max(waits) <= 0.002 * 1.0001, f"it waits {max(waits) * 1000:.1f} ms")


@scenario(
    "ferd/backoff#8; aws-samples/aws-arch-backoff-simulator backoff_simulator.py, ExpoBackoffFullJitter"
)
async def jitter_at_the_cap(library: Library) -> None:
    """Waits that have reached the cap are still spread by jitter."""
    async with library.waits() as waits:
        call = library.retry_growing(Dependency().function, attempts=20, base=0.001, cap=0.002, jitter=True)
        await error_of(call(fails))
    late = waits[-12:]
    expect(
        len(set(late)) > len(late) // 2, f"{late.count(max(late))} of {len(late)} waits are the cap itself"
    )


@scenario("App-vNext/Polly#2163; hynek/stamina#104")
async def many_attempts(library: Library) -> None:
    """After 1200 attempts the exponent has overflowed nothing."""
    dependency = Dependency()
    async with library.waits():
        call = library.retry_growing(dependency.function, attempts=1200, base=1e-6, cap=1e-5, jitter=False)
        await error_of(call(fails))
    expect(dependency.calls == 1200, f"it ended after {dependency.calls} attempts")


@scenario("resilience4j/resilience4j RetryConfig.java, retryOnResult")
async def unwanted_result(library: Library) -> None:
    """A result that is not wanted is asked for again."""

    async def nothing() -> None:
        return None

    call = library.retry_result(Dependency().function, lambda result: result is None, attempts=3)
    expect(await call(script(nothing, nothing, works)) == "fine", "the unwanted result was returned")


@scenario("jd/tenacity#501; PEP 654")
async def group_of_errors(library: Library) -> None:
    """An ExceptionGroup of retryable errors, as a TaskGroup raises it, is retried."""

    async def both_fail() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(fails())

    dependency = Dependency()
    call = library.retry(dependency.function, attempts=3, on=ConnectionError)
    error = await error_of(call(script(both_fail, works)))
    if error is not None:
        raise Differs("groups are not looked into")


@scenario("jd/tenacity#138; jd/tenacity#63")
async def stream_that_does_not_open(library: Library) -> None:
    """An async generator that fails before its first item is retried, or refused."""
    opened = 0

    async def stream() -> AsyncIterator[int]:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise ConnectionError("refused")
        yield 1

    library.retry(Dependency().function, attempts=3)
    try:
        items: Any = library.retry(stream, attempts=3)()
        got = [item async for item in items]
    except ConnectionError:
        expect(False, "it was accepted, and not retried")
    except Exception:  # noqa: BLE001 - refused, in the library's own words
        return
    expect(got == [1], f"the consumer got {got}")


@scenario("jd/tenacity#63; jd/tenacity#64")
async def stream_that_breaks(library: Library) -> None:
    """An async generator that fails in the middle repeats no item."""

    async def stream() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("reset")

    got: list[int] = []
    try:
        library.retry(Dependency().function, attempts=3)
        items: Any = library.retry(stream, attempts=3)()
        async for item in items:
            got.append(item)  # noqa: PERF401 - what came before the error counts
    except Exception as error:
        if not got and isinstance(error, ConnectionError):
            raise
    if len(got) > 1:
        raise Differs("the items come again, as documented")


@scenario("alpacahq/alpaca-py#740; QuantConnect/Lean.Brokerages.Tastytrade#31")
async def feed_that_falls_silent(library: Library) -> None:
    """A feed that falls silent after its first item is noticed: opened again, or an error."""
    opened = 0

    async def connect() -> AsyncIterator[int]:
        nonlocal opened
        opened += 1
        yield opened
        await hangs()

    async def follow() -> None:
        async for item in library.feed(connect, stale_after=0.03):
            if item > 1:
                break

    task = asyncio.ensure_future(error_of(follow()))
    await asyncio.wait((task,), timeout=0.4)
    noticed = task.done()
    await cancel(task)
    expect(noticed, "it waits for ever")
    missing = task.result()
    if isinstance(missing, NotOffered):
        raise missing


@scenario("alpacahq/alpaca-py#740; QuantConnect/Lean.Brokerages.Tastytrade#31")
async def feed_opened_again(library: Library) -> None:
    """A feed that breaks after its first items goes on with the next connection, and repeats none."""
    connections = iter([(1, 2), (3,)])

    async def connect() -> AsyncIterator[int]:
        for item in next(connections):
            yield item
        raise ConnectionError("reset")

    got: list[int] = []
    try:
        async for item in library.feed(connect, stale_after=1.0):
            got.append(item)
            if len(got) == 3:
                break
    except ConnectionError:
        raise Differs("after the first item its error is the consumer's, as documented") from None
    expect(got == [1, 2, 3], f"the consumer got {got}")


@scenario("jd/tenacity doc/source/index.rst, Retrying code block")
async def block(library: Library) -> None:
    """A block is retried."""
    tries = 0
    async for attempt in library.retry_block(attempts=3):
        async with library.attempt(attempt):
            tries += 1
            if tries < 3:
                raise ConnectionError("refused")
    expect(tries == 3, f"{tries} attempts")


@scenario("agronholm/mqttproto#31; jd/tenacity#387")
async def plain_for(library: Library) -> None:
    """A plain "for" over a retry block in a coroutine is refused."""
    try:
        iter(library.retry_block(attempts=3))
    except TypeError:
        return
    raise Differs("it serves plain code too, and its waits then block the loop")


@scenario("jd/tenacity#657; modelcontextprotocol/python-sdk#568")
async def callables(library: Library) -> None:
    """Partial functions and objects with an async __call__ are retried like functions."""

    class Client:
        async def __call__(self, action: Any) -> Any:
            return await action()

    bound = functools.partial(Dependency().function)
    for callee in (bound, Client()):
        call = library.retry(callee, attempts=3)
        error = await error_of(call(script(fails, works)))
        expect(error is None, f"{type(callee).__name__}: accepted, and not retried")


@scenario("roma-glushko/hyx#83; envoyproxy/envoy#30205")
async def budget(library: Library) -> None:
    """Fifty calls fail at once: with a budget of ten retries there are not 150 more."""
    dependency = Dependency()
    call = library.retry_budget(attempts=4, retries=10)(dependency.function)

    async def slowly() -> None:
        await asyncio.sleep(0.002)
        raise ConnectionError("refused")

    await asyncio.gather(*(error_of(call(slowly)) for _ in range(50)))
    expect(dependency.calls >= 51, "no retry at all")
    expect(dependency.calls <= 70, f"{dependency.calls - 50} retries")


@scenario(
    "N. Bronson et al., Metastable Failures in Distributed Systems, HotOS 2021; "
    "M. Brooker, Fixing retries with token buckets and circuit breakers, 2022"
)
async def budget_in_an_outage(library: Library) -> None:
    """While nothing succeeds, a spent budget pays for no more retries."""
    dependency = Dependency()
    call = library.retry_budget(attempts=4, retries=10)(dependency.function)
    await asyncio.gather(*(error_of(call(fails)) for _ in range(50)))
    before = dependency.calls
    await asyncio.gather(*(error_of(call(fails)) for _ in range(200)))
    retries = dependency.calls - before - 200
    if retries > 5:
        raise Differs(f"{retries} retries for 200 failed calls: funded by requests, as Finagle's")

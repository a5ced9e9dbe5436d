from __future__ import annotations

import asyncio

from correctness.dependency import Dependency, Gate, cancel, error_of, hangs, seconds, settle, start, works
from correctness.library import Call, Library, expect
from correctness.scenarios import scenario


async def _has_room(call: Call) -> bool:
    task = asyncio.ensure_future(error_of(call(works)))
    await asyncio.wait((task,), timeout=0.1)
    if not task.done():
        await cancel(task)
        return False
    return task.result() is None


@scenario("microprofile/microprofile-fault-tolerance bulkhead.asciidoc, semaphore style")
async def refuses(library: Library) -> None:
    """Two places: the third call is refused, and not made."""
    dependency = Dependency()
    call = library.bulkhead(dependency.function, limit=2)
    inside = [await start(call) for _ in range(2)]
    error = await error_of(call(works))
    made = dependency.calls
    await cancel(*inside)
    expect(isinstance(error, library.bulkhead_full), f"the caller got {error!r}")
    expect(made == 2, "it was made")


@scenario("microprofile/microprofile-fault-tolerance bulkhead.asciidoc, waiting queue")
async def queues(library: Library) -> None:
    """Two places and a queue: six calls are all made, never more than two at once."""
    dependency, gate = Dependency(), Gate()
    call = library.queueing_bulkhead(dependency.function, limit=2)
    callers = [await start(call, gate.works) for _ in range(6)]
    gate.open()
    results = await asyncio.gather(*callers)
    expect(results == ["fine"] * 6, f"the results are {results}")
    expect(dependency.most_in_flight == 2, f"{dependency.most_in_flight} at once")


@scenario("resilience4j/resilience4j SemaphoreBulkhead.java, isFairCallHandlingEnabled; python/cpython#93222")
async def in_turn(library: Library) -> None:
    """Who waits longest is next."""
    order: list[int] = []
    gate = Gate()
    call = library.queueing_bulkhead(Dependency().function, limit=1)
    callers = [await start(call, gate.works)]
    for number in range(5):

        async def noted(number: int = number) -> None:
            order.append(number)

        callers.append(await start(call, noted))
    expect(not order, "nobody waits")
    gate.open()
    await asyncio.gather(*callers)
    expect(order == [0, 1, 2, 3, 4], f"the order is {order}")


@scenario("resilience4j/resilience4j#332")
async def cancelled_call(library: Library) -> None:
    """A cancelled call gives its place back."""
    call = library.bulkhead(Dependency().function, limit=1)
    await cancel(await start(call))
    expect(await _has_room(call), "the place is lost")


@scenario("python/cpython#93222")
async def cancelled_waiter(library: Library) -> None:
    """A cancelled waiter takes no place with it, and does not block those behind."""
    dependency, gate = Dependency(), Gate()
    call = library.queueing_bulkhead(dependency.function, limit=1)
    inside = await start(call, gate.works)
    await cancel(*[await start(call) for _ in range(3)])
    expect(dependency.calls == 1, "nobody waits")
    gate.open()
    await inside
    expect(await _has_room(call), "the place is lost")


@scenario("failsafe-lib/failsafe#393")
async def waiters_that_give_up(library: Library) -> None:
    """Waiters whose time is over are refused, and take no place with them."""
    gate = Gate()
    call = library.waiting_bulkhead(Dependency().function, limit=1, max_wait=0.02)
    inside = await start(call, gate.works)
    with seconds() as passed:
        errors = await asyncio.gather(*(error_of(call(hangs)) for _ in range(3)))
        expect(0.015 < passed() < 0.2, f"they were refused after {passed() * 1000:.0f} ms")
    expect(all(isinstance(error, library.bulkhead_full) for error in errors), f"they got {errors}")
    gate.open()
    await inside
    expect(await _has_room(call), "the place is lost")


@scenario("python/asyncio#270; python/cpython#90155")
async def cancelled_as_its_turn_comes(library: Library) -> None:
    """A waiter that is cancelled in the moment its turn comes loses no place."""
    for turns in range(8):
        dependency, gate = Dependency(), Gate()
        call = library.queueing_bulkhead(dependency.function, limit=1)
        inside = await start(call, gate.works)
        waiter = await start(call, hangs)
        expect(dependency.calls == 1, "nobody waits")
        gate.open()
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel(waiter)
        await settle()
        await inside
        expect(await _has_room(call), f"cancelled {turns} turn(s) of the loop later, the place is lost")


@scenario("ccxt/ccxt#4589; suenot/profitmaker#7")
async def important_ones_first(library: Library) -> None:
    """An important call that waits goes before others that came earlier."""
    order: list[str] = []
    gate = Gate()
    important, other = library.priority_bulkhead(Dependency().function, limit=1)

    async def cancels_an_order() -> None:
        order.append("cancel")

    async def fetches_a_quote() -> None:
        order.append("quote")

    callers = [await start(other, gate.works)]
    callers += [await start(other, fetches_a_quote) for _ in range(2)]
    callers += [await start(important, cancels_an_order)]
    gate.open()
    await asyncio.gather(*callers)
    expect(order == ["cancel", "quote", "quote"], f"the order is {order}")


@scenario("agronholm/anyio#73; resilience4j/resilience4j SemaphoreBulkhead.java, changeConfig")
async def another_limit(library: Library) -> None:
    """A higher limit lets those in who wait; a lower one holds for those who come."""
    dependency, gate = Dependency(), Gate()
    call, resize = library.resizable_bulkhead(dependency.function, limit=1)
    callers = [await start(call, gate.works) for _ in range(3)]
    expect(dependency.in_flight == 1, f"{dependency.in_flight} at once")
    resize(2)
    await settle()
    expect(dependency.in_flight == 2, f"two places, {dependency.in_flight} at once")
    resize(1)
    callers += [await start(call, works)]
    await cancel(callers[0])
    await settle()
    expect(dependency.in_flight == 1, f"one place again, {dependency.in_flight} at once")
    gate.open()
    await asyncio.gather(*callers[1:])


@scenario("Netflix/concurrency-limits#137")
async def limit_under_timeouts(library: Library) -> None:
    """A limit that finds itself shrinks while every call runs into the same time limit."""
    call, limit = library.adaptive_bulkhead(Dependency().function, first=20, most=100, timeout=0.01)
    for _ in range(12):
        await asyncio.gather(*(error_of(call(hangs)) for _ in range(20)))
    expect(limit() < 15, f"it was 20, it is {limit():.0f}")


@scenario("SolaceLabs/solace-agent-mesh#1591")
async def used_on_two_loops(library: Library) -> None:
    """Made before there is a loop, it queues on one loop and then on another."""
    dependency = Dependency()

    async def crowd(call: Call) -> None:
        async def slowly() -> None:
            await asyncio.sleep(0.002)

        await asyncio.gather(*(call(slowly) for _ in range(4)))

    def on_its_own() -> None:
        call = library.queueing_bulkhead(dependency.function, limit=1)
        asyncio.run(crowd(call))
        asyncio.run(crowd(call))

    await asyncio.to_thread(on_its_own)
    expect(dependency.most_in_flight == 1, f"{dependency.most_in_flight} at once")
    expect(dependency.calls == 8, f"{dependency.calls} calls were made")

from __future__ import annotations

import asyncio
import time
from typing import Any

from correctness.dependency import Dependency, cancel, error_of, seconds, start, works
from correctness.library import Differs, Library, expect
from correctness.scenarios import scenario


def _most_within(times: list[float], period: float) -> int:
    return max(sum(first <= other < first + period for other in times) for first in times)


@scenario("failsafe-lib/failsafe RateLimiter.java, burstyBuilder")
async def one_too_many(library: Library) -> None:
    """Five calls go at once; the sixth waits, or is refused."""
    dependency = Dependency()
    call = library.rate_limit(dependency.function, calls=5, per=10.0)
    for _ in range(5):
        await call(works)
    sixth = await start(call, works)
    made = dependency.calls
    await cancel(sixth)
    expect(made == 5, "the sixth went too")


@scenario("mjpieters/aiolimiter#298; boinkor-net/governor#219")
async def rolling_window(library: Library) -> None:
    """Ten in 100 ms: there is no stretch of 100 ms with more."""
    dependency = Dependency()
    call = library.rate_limit(dependency.function, calls=10, per=0.1)
    ends = time.monotonic() + 0.25

    async def again_and_again() -> None:
        while time.monotonic() < ends:
            await error_of(call(works))
            await asyncio.sleep(0.001)

    callers = [asyncio.ensure_future(again_and_again()) for _ in range(3)]
    await asyncio.wait(callers, timeout=0.25)
    await cancel(*callers)
    most = _most_within(dependency.begun, 0.099)
    if most > 10 and library.token_bucket:
        raise Differs("a token bucket, as documented: up to 19 of 10, for it is refilled as it is emptied")
    expect(most <= 10, f"{most} in one stretch")


@scenario("resilience4j/resilience4j#314; world-federation-of-advertisers/cross-media-measurement#4444")
async def cancelled_waiter(library: Library) -> None:
    """A cancelled waiter leaves its turn to the next."""
    dependency = Dependency()
    call = library.waiting_rate_limit(dependency.function, calls=1, per=0.06)
    await call(works)
    gone = [await start(call, works) for _ in range(3)]
    expect(dependency.calls == 1, "nobody waits")
    await cancel(*gone)
    with seconds() as passed:
        await call(works)
        expect(passed() < 0.09, f"the next waited {passed() * 1000:.0f} ms of 60")


@scenario("resilience4j/resilience4j#336")
async def in_turn(library: Library) -> None:
    """Who waits longest is next."""
    order: list[int] = []
    call = library.waiting_rate_limit(Dependency().function, calls=1, per=0.02)
    await call(works)
    callers = []
    for number in range(4):

        async def noted(number: int = number) -> None:
            order.append(number)

        callers.append(await start(call, noted))
    expect(not order, "nobody waits")
    await asyncio.gather(*callers)
    expect(order == [0, 1, 2, 3], f"the order is {order}")


@scenario("mjpieters/aiolimiter#290")
async def waits_without_polling(library: Library) -> None:
    """Who waits 100 ms does not wake up again and again to look."""
    call = library.waiting_rate_limit(Dependency().function, calls=1, per=0.1)
    await call(works)
    loop = asyncio.get_running_loop()
    timers = 0
    real = loop.call_at

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal timers
        timers += 1
        return real(*given, **named)

    loop.call_at = counted
    try:
        with seconds() as passed:
            await call(works)
            expect(passed() > 0.05, "nobody waits")
    finally:
        loop.call_at = real
    expect(timers <= 3, f"{timers} timers")


@scenario("resilience4j/resilience4j#1283")
async def refuses_at_once(library: Library) -> None:
    """A call that could not go in time is refused at once, not after the wait."""
    dependency = Dependency()
    call = library.bounded_rate_limit(dependency.function, calls=1, per=10.0, max_wait=0.04)
    await call(works)
    with seconds() as passed:
        error = await error_of(call(works))
        took = passed()
    expect(isinstance(error, library.rate_limited), f"the caller got {error!r}")
    if took > 0.03:
        raise Differs("it waits first, and is refused then")


@scenario("ccxt/ccxt#2810; pelikan-io/rustcommon#129")
async def weights(library: Library) -> None:
    """A heavy call counts as several, and is not starved by light ones."""
    dependency = Dependency()
    of_weight = library.weighted_rate_limit(dependency.function, units=4, per=0.04)
    order: list[str] = []

    async def heavy() -> None:
        order.append("heavy")

    async def light() -> None:
        order.append("light")

    await of_weight(3)(works)
    callers = [await start(of_weight(4), heavy)]
    callers += [await start(of_weight(1), light) for _ in range(3)]
    expect("heavy" not in order, "nobody waits")
    await asyncio.gather(*callers)
    expect(order[0] == "heavy", f"the order is {order}")


@scenario("Oaklight/zerodep#127; binance/binance-spot-api-docs rest-api.md, rateLimits")
async def two_limits(library: Library) -> None:
    """Ten a second and fifteen a minute hold at the same time."""
    dependency = Dependency()
    call = library.two_rate_limits(dependency.function, (10, 0.03), (15, 10.0))
    callers = [await start(call, works) for _ in range(30)]
    await asyncio.sleep(0.045)
    await asyncio.sleep(0.045)
    made = dependency.calls
    await cancel(*callers)
    expect(made == 15, f"{made} calls were made")


@scenario("env0/terraform-provider-env0#1127; lostb1t/remux#399")
async def pause_for_all(library: Library) -> None:
    """One call is told to come back in 60 ms: no other is sent meanwhile."""

    async def too_many() -> None:
        error = ConnectionError("429")
        error.retry_after = 0.06
        raise error

    dependency = Dependency()
    call = library.pausing_rate_limit(dependency.function)
    await error_of(call(too_many))
    error = await error_of(call(works))
    if dependency.calls == 1:
        expect(isinstance(error, library.rate_limited), f"the caller got {error!r}")
        return
    waited = dependency.begun[1] - dependency.begun[0]
    expect(waited > 0.055, f"the next was sent after {waited * 1000:.0f} ms")


@scenario("RazerM/ratelimiter#2")
async def made_before_the_loop(library: Library) -> None:
    """It decorates a function of a module, before there is a loop."""

    def on_its_own() -> object:
        call = library.rate_limit(Dependency().function, calls=5, per=10.0)

        async def main() -> object:
            return await call(works)

        return asyncio.run(main())

    expect(await asyncio.to_thread(on_its_own) == "fine", "it has no result")

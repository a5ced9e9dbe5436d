"""Orders in tasks that an attempt has made, whether anybody waits for them or not: none is sent a second time by a repetition."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shockproof import NOT_FOUND, CallRejectedError, ErrorRecoveryService, Found, Handle, LookUp
from shockproof.calls import descent
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Step = Callable[[], Coroutine[Any, Any, None]]


class Strategy:
    """Orders that take a second, and what it does beside them."""

    def __init__(self, recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
        self.clock = clock
        self.trading = recovery.service("trading", max_retries=0)
        self.booked: list[str] = []
        self.refused: list[str] = []
        self.made: list[asyncio.Task[None]] = []

    async def submit(self, client_order_id: str) -> None:
        await self.clock.sleep(1.0)
        self.booked.append(client_order_id)

    async def find(self, key: str) -> LookUp[None]:
        return Found(None) if key in self.booked else NOT_FOUND

    async def order(self) -> None:
        once = self.trading.once(confirm=self.find, key_argument="client_order_id", settle=1.0)
        try:
            await once.call(self.submit)
        except CallRejectedError as refused:
            self.refused.append(refused.policy)

    def begins(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.order())
        self.made.append(task)
        return task

    async def price(self) -> None:
        await self.clock.sleep(2.0)


async def never_waited_for(strategy: Strategy) -> None:
    _ = strategy.begins()
    await strategy.price()


async def awaited_when_done(strategy: Strategy) -> None:
    task = strategy.begins()
    await strategy.price()
    await task


async def gathered_when_done(strategy: Strategy) -> None:
    task = strategy.begins()
    await strategy.price()
    await asyncio.gather(task)


async def shielded_when_done(strategy: Strategy) -> None:
    task = strategy.begins()
    await strategy.price()
    await asyncio.shield(task)


async def waited_for_behind_another(strategy: Strategy) -> None:
    task, price = strategy.begins(), asyncio.create_task(strategy.price())
    await asyncio.wait({price})
    await asyncio.wait({task})


async def by_a_task_that_has_ended(strategy: Strategy) -> None:
    async def begins() -> None:
        _ = strategy.begins()

    await asyncio.create_task(begins())
    await strategy.price()


async def under_way_still(strategy: Strategy) -> None:
    _ = strategy.begins()
    await strategy.clock.sleep(0.5)


WAYS: dict[str, Callable[[Strategy], Awaitable[None]]] = {
    way.__name__: way
    for way in (
        never_waited_for,
        awaited_when_done,
        gathered_when_done,
        shielded_when_done,
        waited_for_behind_another,
        by_a_task_that_has_ended,
        under_way_still,
    )
}


async def called(handle: Handle, step: Step) -> None:
    await handle.call(step)


async def in_attempts(handle: Handle, step: Step) -> None:
    async for attempt in handle.attempts():
        async with attempt:
            await step()


async def with_a_fallback(handle: Handle, step: Step) -> None:
    await handle.using(max_retries=0, fallback=step).call(step)


@pytest.fixture
def recovery(tmp_path: Path, clock: VirtualClock) -> ErrorRecoveryService:
    return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.0, clock=clock)


@pytest_asyncio.fixture
async def strategy(recovery: ErrorRecoveryService, clock: VirtualClock) -> Strategy:
    await recovery.reconcile()
    return Strategy(recovery, clock)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("around", [called, in_attempts, with_a_fallback])
async def test_an_order_of_a_task_that_the_attempt_has_made_ends_the_call(
    recovery: ErrorRecoveryService,
    strategy: Strategy,
    around: Callable[[Handle, Step], Awaitable[None]],
    way: str,
) -> None:
    """Nobody waited for it when it was sent, and the helper that made it has returned: a repetition would send another one."""

    async def step() -> None:
        await WAYS[way](strategy)
        raise ConnectionError("the next request")

    with pytest.raises(ConnectionError):
        await around(recovery.service("strategy", max_retries=3), step)
    await asyncio.gather(*strategy.made)
    assert len(strategy.booked) == 1


async def test_an_order_that_is_not_sent_yet_is_withdrawn_by_the_repetition(
    recovery: ErrorRecoveryService, strategy: Strategy
) -> None:
    """It is wanted still, as are those of the tasks that the repetitions make: only the last one is sent."""
    tries = 0

    async def step() -> None:
        nonlocal tries
        tries += 1
        await strategy.clock.sleep(0.1)
        _ = strategy.begins()
        await asyncio.sleep(0)
        if tries < 3:
            raise ConnectionError

    await recovery.service("strategy", max_retries=3).call(step)
    await asyncio.gather(*strategy.made)
    assert (len(strategy.booked), strategy.refused) == (1, ["repetition", "repetition"])


async def test_orders_of_a_task_that_was_made_before_the_attempt_do_not_end_its_call(
    recovery: ErrorRecoveryService, strategy: Strategy, clock: VirtualClock
) -> None:
    """A strategy that main has started goes on beside what main does: another attempt of that sends none of its orders."""
    tries = 0

    async def trades() -> None:
        for _ in range(5):
            await strategy.order()

    async def read() -> None:
        nonlocal tries
        tries += 1
        await clock.sleep(1.5)
        if tries < 3:
            raise ConnectionError

    trading = asyncio.create_task(trades())
    await clock.sleep(1e-6)
    await recovery.service("market", max_retries=3).call(read)
    assert tries == 3
    await trading
    assert len(strategy.booked) == 5


async def test_the_first_order_of_a_program_is_seen_without_reconcile(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """`once` that is made before its task is, is early enough."""
    strategy = Strategy(recovery, clock)

    async def step() -> None:
        once = strategy.trading.once(confirm=strategy.find, key_argument="client_order_id", settle=1.0)
        strategy.made.append(asyncio.create_task(once.call(strategy.submit)))
        await strategy.price()
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await recovery.service("strategy", max_retries=3).call(step)
    assert len(strategy.booked) == 1


async def test_an_order_of_the_first_moment_of_an_attempt_is_inside_of_it(tmp_path: Path) -> None:
    """However long this process stands still while the attempt that has failed is timed: here for a second, at each reading."""
    has_failed, now = False, 100.0

    def clock() -> float:
        nonlocal now
        now += 1.0 if has_failed else 1e-6
        return now

    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.0, clock=clock)
    booked = list[str]()

    async def submit(client_order_id: str) -> None:
        booked.append(client_order_id)

    async def find(key: str) -> LookUp[None]:
        return Found(None) if key in booked else NOT_FOUND

    trading = recovery.service("trading", max_retries=0)

    async def step() -> None:
        nonlocal has_failed
        await trading.once(confirm=find, key_argument="client_order_id", settle=0.0).call(submit)
        has_failed = True
        raise ConnectionError

    for _ in range(2):
        booked.clear()
        has_failed = False
        with pytest.raises(ConnectionError):
            await recovery.service("strategy", max_retries=3).call(step)
        assert len(booked) == 1
    await recovery.aclose()


async def test_an_order_whose_library_is_not_loaded_yet_is_withdrawn_by_a_repetition(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The first one of a process waits for that; who gives up on it meanwhile, does not let it go out behind."""
    await recovery.reconcile()
    loads = asyncio.Event()
    sent_once = recovery._runtime.sent_once
    assert sent_once is not None
    is_loaded = sent_once.loaded

    async def loaded() -> None:
        await loads.wait()
        await is_loaded()

    recovery._runtime.sent_once = sent_once._replace(loaded=loaded)  # takes as long as a slow disk
    strategy = Strategy(recovery, clock)
    tries = 0

    async def step() -> None:
        nonlocal tries
        tries += 1
        await clock.sleep(0.1)
        task = strategy.begins()
        if tries == 1:
            await clock.sleep(0.01)
            raise ConnectionError
        loads.set()
        await task

    await recovery.service("strategy", max_retries=1).call(step)
    await asyncio.gather(*strategy.made)
    assert (len(strategy.booked), strategy.refused) == (1, ["repetition"])


async def test_a_task_factory_of_the_program_goes_on_making_its_tasks(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It is asked with what asyncio was asked with, and one that is set later is kept as well."""
    loop, asked = asyncio.get_running_loop(), list[tuple[str, dict[str, Any]]]()

    def makes(name: str) -> Callable[..., asyncio.Task[Any]]:
        def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            asked.append((name, options))
            return asyncio.Task(coro, loop=loop, **options)

        return make

    context = contextvars.copy_context()
    loop.set_task_factory(makes("first"))
    await recovery.reconcile()
    strategy = Strategy(recovery, clock)
    del asked[:]
    await asyncio.create_task(strategy.order(), context=context)
    assert ("first", {"context": context}) in [
        (name, {"context": options.get("context")}) for name, options in asked
    ]
    loop.set_task_factory(makes("second"))
    await strategy.order()
    del asked[:]
    await asyncio.create_task(strategy.order())
    assert {name for name, _ in asked} == {"second"}
    assert len(strategy.booked) == 3


async def test_a_loop_without_orders_keeps_its_task_factory(recovery: ErrorRecoveryService) -> None:
    """Calls alone change nothing on it."""

    async def read() -> None: ...

    await recovery.service("market").call(read)
    assert asyncio.get_running_loop().get_task_factory() is None


async def test_tasks_that_make_their_successors_leave_nothing_behind(
    strategy: Strategy, clock: VirtualClock
) -> None:
    """Of a thousand generations only those are known that run, and the one that all come from."""
    lines = list[int]()
    done = asyncio.get_running_loop().create_future()

    async def generation(left: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        lines.append(sum(1 for _ in descent.makers_of(task)))
        known = descent._made.get(task)
        depth = 0
        while known is not None:
            depth, known = depth + 1, known.before
        assert depth <= 3
        await asyncio.sleep(0)
        if left:
            latest.append(weakref.ref(asyncio.create_task(generation(left - 1))))
        else:
            done.set_result(None)

    latest = list[weakref.ref[asyncio.Task[None]]]()
    first = asyncio.create_task(generation(1000))
    await done
    await first
    await asyncio.sleep(0)
    assert max(lines) <= 2
    gc.collect()
    assert sum(1 for task in latest if task() is not None) <= 1

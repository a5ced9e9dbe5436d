"""A failed call leaves no reference cycle: its frames and arguments are gone as soon as it is."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from types import CoroutineType, FrameType, TracebackType
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracerProvider

from shockproof import (
    NOT_FOUND,
    CallInfo,
    CircuitOpenError,
    ErrorRecoveryService,
    Handle,
    LastGood,
    LookUp,
    OnError,
    Outcome,
    Verdict,
)
from shockproof.calls.flight import Flight
from shockproof.calls.ongoing_call import Failure, OngoingCall
from shockproof.calls.timer import Timer
from shockproof.calls.witness import Witness
from shockproof.integrations.opentelemetry import trace_calls
from shockproof.memory.journal.sending import Sending

pytestmark = pytest.mark.asyncio

Call = Callable[[Handle], Awaitable[object]]


async def bad() -> None:
    raise ValueError("bad")


def plain_bad() -> None:
    raise ValueError("bad")


async def hangs() -> None:
    await asyncio.sleep(50)


async def guarded(handle: Handle) -> None:
    async with handle.guard():
        await bad()


async def guarded_and_late(handle: Handle) -> None:
    async with handle.using(timeout=0.5).guard():
        await hangs()


async def repeated(handle: Handle) -> None:
    async for attempt in handle.attempts():
        async with attempt:
            await bad()


async def cancelled(handle: Handle) -> None:
    task = asyncio.create_task(handle.call(hangs))
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


async def cancelled_in_its_backoff(handle: Handle) -> None:
    task = asyncio.create_task(handle.call(bad))
    await asyncio.sleep(0.25)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


async def refused_call(handle: Handle) -> None:
    await handle.call(bad)


async def refused_decorated(handle: Handle) -> None:
    await handle(bad)()


async def refused_block(handle: Handle) -> None:
    async with handle.guard():
        raise AssertionError("must not be entered")


async def refused_with_fallback(handle: Handle) -> None:
    await handle.using(fallback=1).call(bad)


async def under_the_limit_of_a_block(handle: Handle) -> None:
    async with handle.using(timeout=5.0).guard():
        await handle.using(base_delay=60.0).call(bad)


CASES: dict[str, Call] = {
    "call": lambda handle: handle.call(bad),
    "call without retries": lambda handle: handle.using(max_retries=0).call(bad),
    "decorated": lambda handle: handle(bad)(),
    "timeout": lambda handle: handle.using(timeout=0.5).call(hangs),
    "deadline": lambda handle: handle.using(deadline=0.5).call(hangs),
    "own task": lambda handle: handle.using(timeout=0.5, grace=0.5).call(hangs),
    "own task that fails": lambda handle: handle.using(grace=0.5).call(bad),
    "fallback": lambda handle: handle.using(fallback=lambda: 1).call(bad),
    "decorrelated": lambda handle: handle.using(jitter="decorrelated").call(bad),
    "fallback that fails": lambda handle: handle.using(fallback=bad).call(bad),
    "plain": lambda handle: handle.call(plain_bad),
    "plain with wrong arguments": lambda handle: handle.call(plain_bad, 1),  # type: ignore[call-arg]  # wrong on purpose
    "wrong arguments": lambda handle: handle.call(bad, 1),  # type: ignore[call-arg]  # wrong on purpose
    "unwanted results": lambda handle: handle.using(retry_if_result=lambda _: True).call(asyncio.sleep, 0),
    "guard": guarded,
    "guard that is late": guarded_and_late,
    "attempts": repeated,
    "hedged": lambda handle: handle.using(hedge_after=0.5).call(bad),
    "hedged with wrong arguments": lambda handle: handle.using(hedge_after=0.5).call(bad, 1),  # type: ignore[call-arg]  # wrong on purpose
    "hedged and late": lambda handle: handle.using(hedge_after=0.25, timeout=0.5).call(hangs),
    "fallback for other errors": lambda handle: handle.using(fallback=OnError(KeyError, 1)).call(bad),
    "nothing last good": lambda handle: handle.using(fallback=LastGood(max_age=60)).call(bad),
    "under a limit": lambda handle: handle.using(timeout=5.0).call(handle.using(base_delay=60.0).call, bad),
    "under a limit, decorated": lambda handle: handle.using(timeout=5.0)(
        handle.using(base_delay=60.0)(bad)
    )(),
    "under the limit of a block": under_the_limit_of_a_block,
    "cancelled": cancelled,
    "cancelled in its backoff": cancelled_in_its_backoff,
}


TRACED = ("call", "own task", "unwanted results", "guard", "attempts", "hedged", "cancelled")


_OF_CALLS = (
    BaseException,
    FrameType,
    TracebackType,
    CoroutineType,
    asyncio.Future,
    Failure,
    OngoingCall,
    Flight,
    Witness,
    Sending,
    Timer,
)


def garbage_of_calls() -> int:
    """
    Things of calls among those that only the collector finds.

    No others: whole services of earlier tests are dropped when their background threads go to rest, and
    that may be now.
    """
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
    finally:
        gc.set_debug(0)
    found = sum(issubclass(type(one), _OF_CALLS) for one in gc.garbage)
    gc.garbage.clear()
    gc.collect()
    return found


async def garbage_of(work: Callable[[], Awaitable[None]]) -> int:
    """
    Objects that the collector finds after *work*.

    The least of three times: a background thread of an earlier test may leave something meanwhile, but
    what the calls leave is there each time.
    """
    found: list[int] = []
    for _ in range(3):
        gc.collect()
        await work()
        found.append(garbage_of_calls())
        if not found[-1]:
            break
    return min(found)


@pytest.fixture
def _no_automatic_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_automatic_collection")
@pytest.mark.parametrize(
    ("case", "is_traced"),
    [
        *(pytest.param(case, False, id=name) for name, case in CASES.items()),
        *(pytest.param(CASES[name], True, id=f"{name}, traced") for name in TRACED),
    ],
)
async def test_a_failed_call_leaves_no_cycle(
    recovery: ErrorRecoveryService, case: Call, is_traced: bool
) -> None:
    """Ten calls, and the collector finds nothing."""
    if is_traced:
        trace_calls(recovery, tracer_provider=NoOpTracerProvider())
    handle = recovery.service("api", circuit_threshold=None, max_retries=1, base_delay=0.5)

    async def once() -> None:
        try:
            await case(handle)
        except Exception:  # noqa: BLE001 - whatever it is: what it leaves behind is the question
            return

    for _ in range(3):
        await once()
    await asyncio.sleep(5)
    gc.collect()
    # A cycle of ours is there every time; what another thread happens to throw away is not.
    found: list[int] = []
    for _ in range(3):
        for _ in range(10):
            await once()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found.append(garbage_of_calls())
    assert min(found) == 0


@pytest.mark.usefixtures("_no_automatic_collection")
@pytest.mark.parametrize("form", [refused_call, refused_decorated, refused_block, refused_with_fallback])
async def test_a_refused_call_leaves_no_cycle(recovery: ErrorRecoveryService, form: Call) -> None:
    """A storm of refusals gives the collector nothing to do."""
    api = recovery.service("api", circuit_threshold=1, max_retries=0)
    with pytest.raises(ValueError, match="bad"):
        await api.call(bad)
    refused = 0

    async def once() -> None:
        nonlocal refused
        try:
            await form(api)
        except CircuitOpenError:
            refused += 1

    async def hundred_times() -> None:
        for _ in range(100):
            await once()

    await once()
    assert await garbage_of(hundred_times) == 0
    assert refused >= (0 if form is refused_with_fallback else 101)


async def test_a_history_keeps_no_object_of_the_call_alive(recovery: ErrorRecoveryService) -> None:
    """Records hold names and numbers: neither the exception, nor its frames, nor the arguments."""
    import weakref

    class Order:
        pass

    class RejectedError(ValueError):
        pass

    order = Order()

    async def submit(what: Any) -> None:
        raise RejectedError("no")

    try:
        await recovery.retry_with_backoff(submit, order, max_retries=1)
    except ValueError as error:
        references = [weakref.ref(error), weakref.ref(order)]
    del order
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert recovery.get_error_summary()["total_errors"] == 2


@pytest.mark.usefixtures("_no_automatic_collection")
@pytest.mark.parametrize("is_taken", [True, False], ids=["placed", "refused by the venue"])
async def test_an_order_leaves_no_cycle(recovery: ErrorRecoveryService, is_taken: bool) -> None:
    """A burst of orders gives the collector nothing to do, which would hold up the orders behind them."""
    orders = recovery.service("orders", circuit_threshold=None, classify=refuses_for_good)

    async def find(key: str) -> LookUp[str]:
        return NOT_FOUND

    async def submit(*, key: str) -> str:
        if not is_taken:
            raise ValueError("no")
        return key

    async def some_orders() -> None:
        for _ in range(20):
            once = orders.once(confirm=find, key_argument="key")
            try:
                await once.call(submit)
            except ValueError:
                continue

    await some_orders()
    await recovery.aclose()  # whatever the journal's thread still has in hand is not garbage
    assert await garbage_of(some_orders) == 0


def refuses_for_good(error: object, call: CallInfo) -> Verdict | None:
    return Verdict(Outcome.NEUTRAL, effect="none") if isinstance(error, ValueError) else None

"""One service on several loops in several threads at once: nothing lost, nothing twice, nothing held."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from shockproof import CircuitOpenError, ErrorRecoveryService, RetryBudget
from shockproof.testing import VirtualClock, VirtualTimeLoop

pytestmark = pytest.mark.usefixtures("_eager_switching")


def in_threads(count: int, main: Callable[[int], Coroutine[Any, Any, object]]) -> list[object]:
    """Run main(0) ... main(count - 1), each on a loop and in a thread of its own, begun together."""
    results: list[object] = [None] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = asyncio.run(main(number))
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def service(tmp_path: Path, **options: Any) -> ErrorRecoveryService:
    return ErrorRecoveryService(tmp_path / "s", tmp_path / "e", base_delay=0.0, **options)


def test_every_call_is_counted_once(tmp_path: Path) -> None:
    """Three threads, calls that fail, recover, time out and are cancelled: the sums agree."""
    recovery = service(tmp_path, circuit_threshold=None, max_retries=1)
    api = recovery.service("api", timeout=30.0)

    async def main(number: int) -> dict[str, int]:
        rng = random.Random(number)
        made = {"ok": 0, "failed": 0, "retried": 0, "cancelled": 0}

        async def fetch(failures: list[None]) -> None:
            await asyncio.sleep(0)
            if failures:
                failures.pop()
                raise ConnectionError("no")

        async def one() -> None:
            kind = rng.choice(["good", "once", "twice", "cancelled"])
            if kind == "cancelled":
                task = asyncio.create_task(api.call(asyncio.sleep, 3_600))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                made["cancelled"] += 1
                return
            failures: list[None] = [None] * {"good": 0, "once": 1, "twice": 2}[kind]
            count = len(failures)
            try:
                await api.call(fetch, failures)
            except ConnectionError:
                assert kind == "twice"
            else:
                assert kind != "twice"
                made["ok"] += 1
            made["failed"] += count
            made["retried"] += min(count, 1)

        await asyncio.gather(*(one() for _ in range(400)))
        return made

    sums = [0, 0, 0]
    for made in in_threads(3, main):
        assert isinstance(made, dict)
        for index, key in enumerate(("ok", "failed", "retried")):
            sums[index] += made[key]
    counts = recovery.get_health_status()["services"]["api"]
    assert [counts["successes"], counts["failures"], counts["retries"]] == sums
    assert counts["timeouts"] == counts["rejections"] == 0


def test_however_many_callers_of_however_many_threads_arrive_no_more_probes_are_in_flight(
    tmp_path: Path,
) -> None:
    """Three threads with twenty callers each rush at a half-open circuit, round after round: two get in."""
    clock = VirtualClock()
    recovery = service(tmp_path, clock=clock, max_retries=0)
    api = recovery.service("api", circuit_threshold=1, half_open_probes=2)
    threads, callers, rounds = 3, 20, 25
    barrier = threading.Barrier(threads)
    lock = threading.Lock()
    probing, refused = [0] * rounds, [0] * rounds

    async def fails() -> None:
        raise ConnectionError("no")

    async def main(number: int) -> None:
        for turn in range(rounds):
            if number == 0:
                recovery.reset_circuit_breaker("api")
                with pytest.raises(ConnectionError):
                    await api.call(fails)
                clock.advance(60)
            barrier.wait()

            async def probe(turn: int = turn) -> None:
                with lock:
                    probing[turn] += 1
                while probing[turn] + refused[turn] < threads * callers:  # noqa: ASYNC110 - other threads' work
                    await asyncio.sleep(0)

            async def call(turn: int = turn) -> None:
                try:
                    await api.call(probe)
                except CircuitOpenError:
                    with lock:
                        refused[turn] += 1

            await asyncio.gather(*(call() for _ in range(callers)))
            barrier.wait()
            assert recovery.get_health_status()["circuit_breakers"]["api"] == "closed"
            barrier.wait()

    in_threads(threads, main)
    assert probing == [2] * rounds


def test_a_hung_probe_of_one_thread_does_not_wedge_the_others(tmp_path: Path) -> None:
    """Its lease is the same for all."""
    clock = VirtualClock()
    recovery = service(tmp_path, clock=clock)
    api = recovery.service("api", circuit_threshold=1, max_retries=0, probe_lease=5.0)

    async def fails() -> None:
        raise ConnectionError("no")

    async def hang_for_ever() -> None:
        with pytest.raises(ConnectionError):
            await api.call(fails)
        await clock.sleep(60)
        task = asyncio.create_task(api.call(asyncio.Event().wait))
        await asyncio.sleep(0)
        assert recovery.get_health_status()["circuit_breakers"]["api"] == "half-open"
        task.get_name()  # it is left hanging when this loop ends without cancelling it
        hanging.append(task)

    hanging: list[asyncio.Task[Any]] = []
    loop = VirtualTimeLoop(clock)
    first = threading.Thread(target=lambda: loop.run_until_complete(hang_for_ever()))
    first.start()
    first.join()

    async def other() -> str:
        with pytest.raises(CircuitOpenError):
            await api.call(asyncio.sleep, 0)
        await clock.sleep(5)
        await api.call(asyncio.sleep, 0)
        return recovery.get_health_status()["circuit_breakers"]["api"]

    assert clock.run(other()) == "closed"
    hanging[0].cancel()
    loop.run_until_complete(asyncio.gather(*hanging, return_exceptions=True))
    loop.close()
    assert recovery.get_health_status()["circuit_breakers"]["api"] == "closed"


def test_time_limits_work_on_every_loop_of_a_thread_in_turn(tmp_path: Path) -> None:
    """The timers of a loop that has ended are none of the next one's."""
    clock = VirtualClock()
    recovery = service(tmp_path, clock=clock, circuit_threshold=None, max_retries=0)
    api = recovery.service("api", timeout=2.0)

    async def late() -> float:
        began = clock.monotonic()
        with pytest.raises(TimeoutError):
            await api.call(clock.sleep, 50)
        await api.call(clock.sleep, 1)
        return clock.monotonic() - began

    assert [clock.run(late()) for _ in range(4)] == [3.0] * 4


def test_two_loops_of_one_thread_may_take_turns(tmp_path: Path) -> None:
    """A call of the one that waits is not ended by the other's timers, and has its own time."""
    clock = VirtualClock()
    recovery = service(tmp_path, clock=clock, circuit_threshold=None, max_retries=0)
    api = recovery.service("api", timeout=10.0)
    first, second = VirtualTimeLoop(clock), VirtualTimeLoop(clock)

    async def call(seconds: float) -> str:
        await api.call(clock.sleep, seconds)
        return "in time"

    waiting = first.create_task(call(5))
    first.run_until_complete(asyncio.sleep(1))
    assert second.run_until_complete(call(1)) == "in time"
    assert first.run_until_complete(waiting) == "in time"
    late = second.create_task(call(50))
    second.run_until_complete(asyncio.sleep(1))
    assert first.run_until_complete(call(1)) == "in time"
    with pytest.raises(TimeoutError):
        second.run_until_complete(late)
    first.close()
    second.close()


def test_settings_may_change_while_other_threads_make_handles_and_calls(tmp_path: Path) -> None:
    """configure, service, using and with_fallback at once: no error, and the last setting holds for all."""
    recovery = service(tmp_path, circuit_threshold=None)

    async def fetch(number: int) -> int:
        await asyncio.sleep(0)
        return number

    async def main(number: int) -> None:
        for step in range(150):
            if number == 0:
                recovery.configure(max_retries=step % 7, circuit_timeout=60.0 + step)
            handle = recovery.service(f"service {step % 10}").using(max_retries=1)
            assert await handle.call(fetch, step) == step
            assert await recovery.with_fallback(fetch, None, step, service_name="other") == step
            recovery.get_health_status()
            recovery.get_error_summary()

    in_threads(3, main)
    assert recovery.max_retries == 149 % 7
    assert recovery.circuit_timeout == 209.0


def test_a_circuit_that_opens_in_one_thread_ends_the_waits_in_another(tmp_path: Path) -> None:
    """At once: the loop that waits for its backoff is woken across the threads."""
    recovery = ErrorRecoveryService(tmp_path / "s", tmp_path / "e", base_delay=3_600.0, max_delay=3_600.0)
    api = recovery.service("api", circuit_threshold=2)
    is_waiting = threading.Event()

    async def fails() -> None:
        raise ConnectionError("real")

    async def main(number: int) -> str:
        if number == 0:
            call = asyncio.create_task(api.call(fails))
            for _ in range(5):
                await asyncio.sleep(0)
            is_waiting.set()
            with pytest.raises(ConnectionError):
                await call
            return "woken"
        is_waiting.wait(60)
        with pytest.raises(ConnectionError):
            await api.using(max_retries=0).call(fails)
        return "opened"

    assert in_threads(2, main) == ["woken", "opened"]


def test_loops_in_two_threads_each_watch_their_own_calls(tmp_path: Path) -> None:
    """A call that hangs on one loop is noticed there, whatever the other does; both count in one circuit."""
    clocks = [VirtualClock(), VirtualClock()]
    recovery = service(tmp_path, clock=clocks[0])
    venue = recovery.service("venue", circuit_threshold=200, max_retries=0, max_call_age=5.0)
    barrier = threading.Barrier(2)

    def run(clock: VirtualClock) -> None:
        async def main() -> None:
            barrier.wait()
            tasks = [
                asyncio.create_task(venue.call(clock.sleep, 100.0 if n % 2 else 1.0)) for n in range(100)
            ]
            await clock.sleep(5.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        loop = VirtualTimeLoop(clock)
        loop.run_until_complete(main())
        loop.close()

    threads = [threading.Thread(target=run, args=(clock,)) for clock in clocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = recovery.get_health_status()["services"]["venue"]
    assert counts["overdue"] == 100
    assert counts["successes"] == 100
    ages = recovery._registry.get_or_create("venue").call_ages
    assert all(queue.in_flight == {} for queue in ages._queues.values())


def test_limits_of_loops_in_two_threads_each_end_their_own_calls(tmp_path: Path) -> None:
    """At their own time, whatever the other does; both share the one limit of so many seconds."""
    clocks = [VirtualClock(), VirtualClock()]
    recovery = service(tmp_path, clock=clocks[0])
    venue = recovery.service("venue", circuit_threshold=None, max_retries=0, timeout=5.0)
    barrier = threading.Barrier(2)
    found = list[list[tuple[str, float]]]()

    def run(clock: VirtualClock) -> None:
        ends = list[tuple[str, float]]()

        async def call(number: int) -> None:
            began = clock.monotonic()
            try:
                await venue.call(clock.sleep, (2.0, 100.0, 100.0)[number % 3])
            except TimeoutError:
                ends.append(("late", clock.monotonic() - began))
            except asyncio.CancelledError:
                ends.append(("cancelled", clock.monotonic() - began))
                raise
            else:
                ends.append(("answered", clock.monotonic() - began))

        async def main() -> None:
            barrier.wait()
            tasks = list[asyncio.Task[None]]()
            for number in range(150):
                tasks.append(asyncio.create_task(call(number)))
                await clock.sleep(0.125)
                if number % 3 == 2:
                    tasks[-1].cancel()
            await asyncio.wait(tasks)

        loop = VirtualTimeLoop(clock)
        loop.run_until_complete(main())
        loop.close()
        found.append(ends)

    threads = [threading.Thread(target=run, args=(clock,)) for clock in clocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    one = {("answered", 2.0): 50, ("late", 5.0): 50, ("cancelled", 0.125): 50}
    assert [Counter(ends) for ends in found] == [one, one]
    assert recovery.get_health_status()["services"]["venue"]["timeouts"] == 100


def test_retries_of_loops_in_two_threads_are_paid_from_one_budget(tmp_path: Path) -> None:
    """What is gone is what failed retries have cost: a success and a cancellation give theirs back."""
    recovery = service(tmp_path, max_retries=1, circuit_threshold=None)
    budget = RetryBudget(capacity=100.0, per_success=0.0)
    api = recovery.service("api", retry_budget=budget)

    async def main(number: int) -> tuple[int, int]:
        failed = refused = 0

        async def fetch(kind: int, sent: list[int], hangs: asyncio.Future[None]) -> str:
            nonlocal failed
            sent.append(1)
            await asyncio.sleep(0)
            if len(sent) == 1:
                raise ConnectionError("at first")
            if kind == 2:
                hangs.set_result(None)
                await asyncio.sleep(3600)
            if kind == 1:
                failed += 1
                raise ConnectionError("again")
            return "answer"

        async def call(kind: int) -> None:
            nonlocal refused
            sent: list[int] = []
            hangs: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(api.call(fetch, kind, sent, hangs))
            await asyncio.wait({task, hangs}, return_when=asyncio.FIRST_COMPLETED)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            refused += len(sent) == 1

        for step in range(60):
            await asyncio.gather(*(call(kind) for kind in (0, 1, 2)))
            assert budget.tokens <= budget.capacity, f"round {step} of loop {number}"
        return failed, refused

    results = in_threads(2, main)
    failed = sum(one[0] for one in results if isinstance(one, tuple))
    refused = sum(one[1] for one in results if isinstance(one, tuple))
    assert budget.tokens == budget.capacity - failed
    assert failed > 50
    assert refused > 0


def test_queues_of_loops_that_have_ended_are_forgotten(tmp_path: Path) -> None:
    """A program that runs one loop after the other keeps one of them."""
    clock = VirtualClock()
    recovery = service(tmp_path, clock=clock)
    venue = recovery.service("venue", max_retries=0, max_call_age=5.0)
    for _ in range(3):
        clock.run(venue.call(clock.sleep, 1.0))
    assert len(recovery._registry.get_or_create("venue").call_ages._queues) == 1


def test_places_of_blocks_come_back_from_loops_that_were_closed_with_them(tmp_path: Path) -> None:
    """Nobody ends the tasks of such a loop; the next one that is under the same limit lets them go."""
    clock = VirtualClock()
    recovery = service(tmp_path, clock=clock, max_retries=0)
    api = recovery.service("api", max_concurrent=1)
    limited = recovery.service("limited", timeout=5.0)

    async def hold() -> None:
        async with limited.guard():
            await api.call(clock.sleep, 50)

    loop = VirtualTimeLoop(clock)
    loop.create_task(hold())
    loop.run_until_complete(asyncio.sleep(1))
    loop.close()
    del loop

    async def nothing() -> None:
        async with limited.guard():
            pass

    clock.run(nothing())
    gc.collect()
    clock.run(api.call(clock.sleep, 1))
    assert recovery.get_health_status()["services"]["api"]["in_flight"] == 0


@pytest.mark.parametrize("form", ["call", "decorated", "guard"])
def test_probe_comes_back_from_a_loop_that_was_closed_when_its_time_was_just_over(
    tmp_path: Path, form: str
) -> None:
    """It is collected where no loop runs, with a cancellation of ours that it never saw: no verdict."""
    clock = VirtualClock()
    recovery = service(tmp_path, clock=clock, max_retries=0, circuit_threshold=1, circuit_timeout=30.0)
    api = recovery.service("api", timeout=1.0)

    async def fail() -> None:
        raise OSError

    async def probe() -> None:
        await clock.sleep(50)

    async def guarded() -> None:
        async with api.guard():
            await probe()

    run = {"call": lambda: api.call(probe), "decorated": api(probe), "guard": guarded}[form]
    with pytest.raises(OSError):
        clock.run(api.call(fail))
    clock.advance(30.0)
    loop = VirtualTimeLoop(clock)
    task = loop.create_task(run())
    loop.call_later(1.0, loop.stop)  # in the very turn in which the time is over
    loop.run_forever()
    assert task.cancelling()
    loop.close()
    del loop, task
    clock.run(recovery.service("other", timeout=1.0).call(clock.sleep, 0.5))  # the next one under the limit
    gc.collect()

    clock.run(api.call(clock.sleep, 0.5))
    assert not api.plan.state.circuit.probing
    assert recovery.get_health_status()["circuit_breakers"]["api"] == "closed"

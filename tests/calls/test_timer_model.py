"""Time limits of every kind nested in one another, and cancellations in between, against a model of a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from shockproof import AttemptTimeoutError, DeadlineExceededError, Timeout
from shockproof.calls.timer import start_single_timer, time_limit
from shockproof.testing import VirtualClock, VirtualTimeLoop

Log = list[tuple[int, str, float]]
Inside = Callable[[], Awaitable[None]]

# -- nested in one task ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """A limit around what comes after it, with a wait before and after that. Seconds are eighths: exact floats."""

    kind: str
    limit: int
    before: int
    after: int


OURS = ("timer", "single timer", "call", "decorated", "guard", "deadline", "own task")
FOREIGN = ("asyncio", "anyio", "group", "nothing")

scopes = st.lists(
    st.builds(
        Scope, st.sampled_from(OURS + FOREIGN), st.integers(1, 24), st.integers(0, 12), st.integers(0, 12)
    ),
    min_size=1,
    max_size=5,
)


class EndedError(Exception):
    """What is under way is ended: by the scope of that number, or by the user, who is -1."""

    def __init__(self, number: int) -> None:
        self.number = number


class Model:
    """What should happen, in plain arithmetic."""

    def __init__(self, nested: list[Scope], cancel_at: int | None) -> None:
        self.nested, self.now, self.log = nested, 0, Log()
        self.due = {} if cancel_at is None else {-1: cancel_at}
        try:
            self.run(0)
        except EndedError:
            self.is_cancelled = True
        else:
            self.is_cancelled = False

    def sleep(self, eighths: int) -> None:
        if not eighths:
            return
        end = self.now + eighths
        first = min(self.due.values(), default=end + 1)
        assume(first != end)  # either may come first
        if first > end:
            self.now = end
            return
        together = [number for number, when in self.due.items() if when == first]
        if len(together) > 1:  # ours know who is the outer one; others may not, and tasks are told one by one
            assume(all(scope.kind in OURS and scope.kind != "own task" for scope in self.nested))
        self.now = first
        raise EndedError(min(together))

    def run(self, number: int) -> None:
        if number == len(self.nested):
            return
        scope = self.nested[number]
        if scope.kind not in {"group", "nothing"}:
            self.due[number] = self.now + scope.limit
        try:
            self.sleep(scope.before)
            self.run(number + 1)
            self.sleep(scope.after)
        except EndedError as ended:
            self.note(number, "timeout" if ended.number == number else "passed")
            if ended.number != number:
                raise
        else:
            self.note(number, "ended")
        finally:
            self.due.pop(number, None)

    def note(self, number: int, verdict: str) -> None:
        self.log.append((number, verdict, self.now / 8))


async def under(kind: str, limit: float, inside: Inside) -> bool:
    """Run *inside* under one limit; whether that limit ended it."""
    match kind:
        case "timer" | "single timer":
            timer = time_limit(limit).start() if kind == "timer" else start_single_timer(limit)
            try:
                await inside()
            except asyncio.CancelledError:
                if not timer.stop():
                    raise
                return True
            assert not timer.stop()
        case "call" | "decorated" | "own task" | "deadline":
            handle = Timeout(timeout=limit, grace=50.0 if kind == "own task" else None)
            if kind == "deadline":
                handle = handle.using(timeout=None, deadline=limit)
            expected = DeadlineExceededError if kind == "deadline" else AttemptTimeoutError
            try:
                await (handle(inside)() if kind == "decorated" else handle.call(inside))
            except expected:
                return True
        case "guard":
            try:
                async with Timeout(timeout=limit):
                    await inside()
            except AttemptTimeoutError:
                return True
        case "asyncio":
            try:
                async with asyncio.timeout(limit):
                    await inside()
            except TimeoutError:
                return True
        case "anyio":
            with anyio.move_on_after(limit) as scope:
                await inside()
            return scope.cancelled_caught
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(inside())  # type: ignore[arg-type]  # a coroutine
        case _:
            await inside()
    return False


async def really(nested: list[Scope], cancel_at: int | None, is_cleanup: bool) -> tuple[Log, bool]:
    loop, log = asyncio.get_running_loop(), Log()
    began = loop.time()
    cancelled_before = int(is_cleanup)

    async def main() -> None:
        if is_cleanup:  # as in the finally of a task that was cancelled
            main_task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        await run(0)

    async def run(number: int) -> None:
        if number == len(nested):
            return
        scope = nested[number]

        async def inside() -> None:
            if scope.before:
                await asyncio.sleep(scope.before / 8)
            await run(number + 1)
            if scope.after:
                await asyncio.sleep(scope.after / 8)

        try:
            is_late = await under(scope.kind, scope.limit / 8, inside)
        except asyncio.CancelledError:
            log.append((number, "passed", loop.time() - began))
            raise
        log.append((number, "timeout" if is_late else "ended", loop.time() - began))
        task = asyncio.current_task()
        assert task is not None
        expected = cancelled_before if task is main_task else 0
        assert task.cancelling() == expected, "the task is left half-cancelled"

    main_task = loop.create_task(main())
    if cancel_at is not None:
        loop.call_at(began + cancel_at / 8, main_task.cancel)
    await asyncio.wait({main_task})
    if not main_task.cancelled():
        main_task.result()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left behind"
    return log, main_task.cancelled()


@settings(max_examples=600)
@given(scopes, st.none() | st.integers(1, 40), st.booleans())
@example([Scope("call", 8, 0, 0), Scope("call", 8, 0, 20)], None, False)
@example([Scope("guard", 8, 0, 0), Scope("timer", 4, 0, 20)], 4, False)
@example([Scope("anyio", 9, 0, 0), Scope("call", 16, 0, 0), Scope("anyio", 7, 0, 20)], None, False)
@example([Scope("call", 8, 0, 20)], None, True)
def test_whose_limit_it_was_is_known_at_any_nesting(
    nested: list[Scope], cancel_at: int | None, is_cleanup: bool
) -> None:
    """Each scope says the same as the model, at the same moment; the task is as it was before."""
    kinds = [scope.kind for scope in nested]
    # anyio cancels anew in each turn, and that ends the wait for a task which needs a second one to end, as it should.
    assume("anyio" not in kinds or kinds[kinds.index("anyio") :].count("own task") < 2)
    model = Model(nested, cancel_at)
    # Only ours are told apart there: asyncio's task group of 3.11 is not.
    is_cleanup = is_cleanup and all(scope.kind in OURS for scope in nested)
    log, is_cancelled = VirtualClock().run(really(nested, cancel_at, is_cleanup))
    assert log == model.log
    assert is_cancelled == model.is_cancelled


# -- many calls under a few limits -------------------------------------------------------------------


@dataclass(eq=False)
class Call:
    """One call under a limit, as the machine knows it."""

    task: asyncio.Task[str]
    release: asyncio.Event
    due: float
    expected: str = ""


class ManyCalls(RuleBasedStateMachine):
    """Calls come, end, are cancelled and time out; a queue for each limit, one loop, and time."""

    calls: Bundle[Call] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.policies = {limit: Timeout(timeout=limit) for limit in (0.5, 2.0)}
        self.known: list[Call] = []

    @rule(target=calls, limit=st.sampled_from([0.5, 2.0]))
    def begin(self, limit: float) -> Call:
        release = asyncio.Event()

        async def work() -> str:
            await release.wait()
            return "answer"

        async def call() -> str:
            try:
                return await self.policies[limit].call(work)
            except AttemptTimeoutError:
                return "timeout"

        one = Call(self.loop.create_task(call()), release, self.loop.time() + limit)
        self.known.append(one)
        self.turn()
        return one

    @rule(one=consumes(calls))
    def answer(self, one: Call) -> None:
        one.release.set()
        one.expected = one.expected or "answer"
        self.turn()

    @rule(one=consumes(calls))
    def cancel(self, one: Call) -> None:
        one.task.cancel()
        one.expected = one.expected or "cancelled"
        self.turn()

    @rule(eighths=st.integers(1, 20))
    def wait(self, eighths: int) -> None:
        self.loop.run_until_complete(
            asyncio.sleep(eighths / 8 + 1 / 64)
        )  # never at the very moment of a limit
        for one in self.known:
            if not one.expected and one.due <= self.loop.time():
                one.expected = "timeout"

    def turn(self) -> None:
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))

    @invariant()
    def each_has_ended_as_expected(self) -> None:
        for one in self.known:
            assert one.task.done() == bool(one.expected)
            if one.expected:
                assert ("cancelled" if one.task.cancelled() else one.task.result()) == one.expected

    def teardown(self) -> None:
        try:
            for one in self.known:
                one.task.cancel()
            self.turn()
            # Nobody is under a limit any more, and after a whole limit of silence there is no timer.
            self.loop.run_until_complete(asyncio.sleep(10))
            limits: Any = [policy.plan.first_limit for policy in self.policies.values()]
            # Limits of so many seconds are shared with whoever has them, on other loops.
            queues = [queue for limit in limits for queue in limit.queues.values()]
            assert [queue for queue in queues if queue.loop is self.loop] == []
        finally:
            self.loop.close()


TestManyCalls = ManyCalls.TestCase
TestManyCalls.settings = settings(max_examples=60, stateful_step_count=40)

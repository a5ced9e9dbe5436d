"""
Cancel a call wherever it can be cancelled: at each place where it waits, one after the other.

A call is run again and again. Each time it is cancelled one wait later, until a run has no more of
them. Waits of tasks that the call starts count, too. Most races of a cancellation need a second way
to cancel: not while the call waits, but when what it waited for is there and the call has not yet
seen it. So each wait is cancelled both ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import CoroutineType, GeneratorType
from typing import Any, Final, Generic, Literal, TypeVar

__all__ = ["CancelMoment", "CancelledRun", "cancel_at_await", "cancel_at_each_await"]

T = TypeVar("T")

CancelMoment = Literal["waiting", "woken"]
"""``"waiting"``: as soon as it waits. ``"woken"``: what it waited for is there, and it has not seen it."""

_TURNS_TO_END: Final = 20
"""Turns of the loop that tasks have to end in after the call: what was cancelled may clean up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledRun(Generic[T]):
    """One run of a call that was cancelled at a chosen wait, or ended by itself before that."""

    number: int
    """Which wait was chosen; 1 is the first."""
    moment: CancelMoment
    was_cancelled: bool
    """Whether it came to that; False when the call ended with fewer waits."""
    waits: int
    """How often the call and its tasks waited, also after the cancellation."""
    where: str
    """Where it waited when it was cancelled, innermost place first; empty when it was not."""
    delay: float
    """Seconds of the loop's time between the cancellation and the end of the call."""
    result: T | None
    """What the call returned, if it did."""
    error: BaseException | None
    """What it raised, if it did; after a cancellation that should be ``CancelledError``."""

    def __str__(self) -> str:
        if not self.was_cancelled:
            return f"not cancelled: it ended after {self.waits} waits, before number {self.number}"
        return f"cancelled at wait number {self.number} ({self.moment}), {self.where}"


async def cancel_at_await(
    call: Awaitable[T],
    number: int,
    *,
    moment: CancelMoment = "waiting",
    must_raise: bool = True,
    may_leave_tasks: bool = False,
) -> CancelledRun[T]:
    """
    Run *call* in a task of its own and cancel it at its wait with this *number*.

    Args:
        call: what to run, once.
        number: 1 is the first wait, of the call itself or of a task that it started; a number larger
            than there are waits lets it end by itself.
        moment: ``"waiting"`` cancels as soon as it waits; ``"woken"`` when what it waited for has
            come, before the call sees it.
        must_raise: after a cancellation the call must raise ``CancelledError``. False: it may answer.
        may_leave_tasks: False: tasks that it started must have ended soon after it.

    Raises:
        AssertionError: it swallowed the cancellation, or left a task behind.
        TypeError, ValueError: *number* is no whole number of at least 1, or *moment* is unknown.

    What the call itself returns or raises is in the result, and is not raised. A cancellation of the
    caller ends the call and passes.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"number must be a whole number, 1 for the first wait, got {number!r}")
    if number < 1:
        raise ValueError(f"number must be at least 1, which is the first wait, got {number!r}")
    if moment not in {"waiting", "woken"}:
        raise ValueError(f"moment must be one of 'waiting', 'woken', got {moment!r}")
    run: _Run[T] = _Run(number, moment)
    before = asyncio.all_tasks()
    with run.watching(asyncio.get_running_loop()):
        task = asyncio.get_running_loop().create_task(_awaited(call))
        run.begins(task)
        try:
            await asyncio.wait({task})
        except BaseException:
            task.cancel()
            raise
        ended = run.ended(task)
        left = await _tasks_left(before)
    if left and not may_leave_tasks:
        raise AssertionError(f"{ended}: left running: {', '.join(map(str, left))}")
    if must_raise and ended.was_cancelled and not isinstance(ended.error, asyncio.CancelledError):
        became = f"returned {ended.result!r}" if ended.error is None else f"raised {ended.error!r}"
        raise AssertionError(f"{ended}: swallowed, the call {became}") from ended.error
    return ended


async def cancel_at_each_await(
    make_call: Callable[[], Awaitable[T]],
    *,
    most: int = 1_000,
    must_raise: bool = True,
    may_leave_tasks: bool = False,
) -> AsyncIterator[CancelledRun[T]]:
    """
    Run a fresh call again and again, cancelled at each of its waits in turn, until one has no more.

    ``async for run in cancel_at_each_await(lambda: handle.call(fetch)): ...``: the body looks after
    each run at what must hold. The last run was not cancelled. What a call starts for good on its
    first use, such as a health check, counts as left behind: call once before.

    Args:
        make_call: gives a call to run, each time a fresh one; what it does before that is not cancelled.
        most: waits after which the call is taken for endless.
        must_raise: see `cancel_at_await`.
        may_leave_tasks: see `cancel_at_await`.

    Raises:
        AssertionError: a run swallowed its cancellation, left a task behind, or has more than *most* waits.
    """
    for number in range(1, most + 1):
        for moment in ("waiting", "woken"):
            run = await cancel_at_await(
                make_call(), number, moment=moment, must_raise=must_raise, may_leave_tasks=may_leave_tasks
            )
            yield run
            if run.waits < number:
                return
    raise AssertionError(f"the call still waits after {most} waits: it never ends by itself, or raise most")


async def _awaited(call: Awaitable[T]) -> T:
    return await call


async def _tasks_left(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:  # Any: whatever they return
    for _ in range(_TURNS_TO_END):
        if not asyncio.all_tasks() - before:
            break
        await asyncio.sleep(0)
    return asyncio.all_tasks() - before


# Any: whatever the call returns
_current_run: ContextVar[_Run[Any] | None] = ContextVar("shockproof_cancelled_run", default=None)


class _Run(Generic[T]):
    """Counts the waits of one call, and cancels it at the chosen one."""

    def __init__(self, number: int, moment: CancelMoment) -> None:
        self._task: asyncio.Task[T] | None = None
        self._is_due = False
        self._number = number
        self._moment: CancelMoment = moment
        self._waits = 0
        self._where = ""
        self._cancelled_at: float | None = None
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def watching(self, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Until the end of the block, tasks that belong to this run are watched."""
        factory = loop.get_task_factory()

        def make(
            loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
        ) -> Any:  # Any: what every task factory takes
            if _current_run.get() is self:
                coroutine = _Watched(coroutine, self)
            if factory is None:
                return asyncio.Task(coroutine, loop=loop, **options)
            return factory(loop, coroutine, **options)

        loop.set_task_factory(make)
        token = _current_run.set(self)
        try:
            yield
        finally:
            _current_run.reset(token)
            loop.set_task_factory(factory)

    def waits(self, coroutine: object, awaited: object) -> None:
        """One of the run's tasks begins to wait, for *awaited*."""
        if self._task is not None and self._task.done():
            return  # what still runs is cleaning up
        self._waits += 1
        if self._waits != self._number:
            return
        self._where = _place_of(coroutine)
        if self._moment == "woken" and isinstance(awaited, asyncio.Future):
            awaited.add_done_callback(lambda _: self._cancel())
        else:
            self._cancel()

    def begins(self, task: asyncio.Task[T]) -> None:
        """*task* runs the call; an eager one has waited already."""
        self._task = task
        if self._is_due:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is None:
            self._is_due = True
        elif self._task.cancel():
            self._cancelled_at = self._loop.time()

    def ended(self, task: asyncio.Task[T]) -> CancelledRun[T]:
        """What became of it."""
        error: BaseException | None
        try:
            error = task.exception()
        except asyncio.CancelledError as cancelled:
            error = cancelled
        at = self._cancelled_at
        return CancelledRun(
            number=self._number,
            moment=self._moment,
            was_cancelled=at is not None,
            waits=self._waits,
            where=self._where if at is not None else "",
            delay=0.0 if at is None else self._loop.time() - at,
            result=task.result() if error is None else None,
            error=error,
        )


class _Watched(Coroutine[Any, Any, Any]):  # Any: whatever coroutines send, yield and return
    """A coroutine that tells its run whenever it begins to wait."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], run: _Run[Any]) -> None:  # Any: as above
        self._coroutine = coroutine
        self._run = run

    def __await__(self) -> Generator[Any, Any, Any]:  # Any: as above
        return self._coroutine.__await__()

    def send(self, value: Any, /) -> Any:  # Any: as above
        awaited = self._coroutine.send(value)
        self._run.waits(self._coroutine, awaited)
        return awaited

    def throw(self, *error: Any) -> Any:  # Any: the three forms in which Python throws
        awaited = self._coroutine.throw(*error)
        self._run.waits(self._coroutine, awaited)
        return awaited

    def close(self) -> None:
        self._coroutine.close()


def _place_of(coroutine: object) -> str:
    """The lines in which *coroutine* waits, the innermost first, at most five."""
    places: list[str] = []
    while True:
        if isinstance(coroutine, CoroutineType):
            frame, inner = coroutine.cr_frame, coroutine.cr_await
        elif isinstance(coroutine, GeneratorType):
            frame, inner = coroutine.gi_frame, coroutine.gi_yieldfrom
        else:
            return " < ".join(reversed(places[-5:])) or "an unknown place"
        if frame is not None:
            places.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        coroutine = inner

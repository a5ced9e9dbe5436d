"""
Which task has made which, and when: an order is inside the attempt that its task was made in, whether anybody waits for it or not.

asyncio does not say it, and a mark around each attempt would be paid for by every healthy call. So the event loop's task factory
writes it down, on loops that have had an order to send, in front of the factory that is there. Other loops are left alone.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, Final, NamedTuple

from shockproof.calls.timer import running_task
from shockproof.vocabulary.clock import Clock

__all__ = ["Made", "makers_of", "note_makers_here"]

_Task = asyncio.Task[Any]  # Any: whatever it returns
_Coroutine = Coroutine[Any, Any, Any] | Generator[Any, None, Any]  # Any: as asyncio has it


class Made(NamedTuple):
    """That a task was made."""

    by: weakref.ref[_Task]
    at: float
    """Seconds, by `clock`."""
    clock: Clock
    before: Made | None
    """That its maker was."""

    @property
    def maker(self) -> _Task | None:
        """The task that it was made by; None: it has ended, and nothing that runs in it can be repeated."""
        task = self.by()
        return None if task is None or task.done() else task


_made: Final = weakref.WeakKeyDictionary[_Task, Made]()


def makers_of(task: _Task) -> Iterator[tuple[_Task, Made]]:
    """The tasks by which *task* was made, and those by which they were, with what of theirs it comes from."""
    made = _made.get(task)
    while made is not None:
        maker = made.maker
        if maker is not None:
            yield maker, made
        made = made.before


def note_makers_here(clock: Clock) -> None:
    """Write down from now on which task makes which on the running loop, if there is one, and when by *clock*."""
    loop = asyncio._get_running_loop()
    if loop is None:
        return
    try:
        factory = loop.get_task_factory()
        if not isinstance(factory, _Factory):
            loop.set_task_factory(_Factory(factory, clock))
    except NotImplementedError:  # a loop that has none; who waits for whom is known all the same
        pass


class _Factory:
    """Makes tasks as *inner* does, None: as the loop does, and notes who wanted them."""

    __slots__ = ("_clock", "_inner")

    def __init__(
        self, inner: Callable[..., Any] | None, clock: Clock
    ) -> None:  # Any: it takes what Python's version gives
        self._inner = inner
        self._clock = clock

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: _Coroutine,
        **options: Any,  # Any: as above
    ) -> Any:  # Any: a future, if it is the user's
        inner = self._inner
        task = asyncio.Task(coro, loop=loop, **options) if inner is None else inner(loop, coro, **options)
        maker = running_task()
        if maker is not None and isinstance(task, asyncio.Task):
            before = _made.get(maker)
            # Else a task that makes its successor and ends, again and again, would leave ever more behind.
            while before is not None and before.maker is None:
                before = before.before
            _made[task] = Made(weakref.ref(maker), self._clock.monotonic(), self._clock, before)
        return task

"""
What goes on where an attempt of an order was cut off, or failed beside it, and may send all the same.

Cancelled, a coroutine stops waiting for its threads, and for what it has protected by ``asyncio.shield`` or only looked at by
``asyncio.wait``. What a thread is at is known by the context that it was given, whoever has begun it: it holds the mark of the
attempt. One by ``run_in_executor`` is given none: it is known where the coroutine awaits it itself.

asyncio says nowhere in public what a future stands for. That is read with care in private places: where something is not as
expected, nothing is known to go on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextvars import Context
from types import CoroutineType, FrameType, FunctionType
from typing import Any, Final

from shockproof.calls.frames import frames_in, locals_of
from shockproof.calls.running_around import is_inside_the_attempt_here, leave_to
from shockproof.calls.strangers import enclosed_by, held_by, is_really
from shockproof.calls.threads_at_work import work_of_other_threads
from shockproof.calls.who_waits import GATHERING

__all__ = ["GoesOn", "seen_when_cut_off"]

GoesOn = asyncio.Future[Any] | concurrent.futures.Future[Any]  # Any: nobody asks for the result

_DEEPEST: Final = 16
"""How many tasks may wait for each other."""
_LOOK_UPS: Final = ("getaddrinfo", "getnameinfo")
_WAIT_FOR_HAS_TASKS: Final = sys.version_info < (3, 12)
"""From then on it waits for a coroutine in the running task."""
_WAIT: Final[object] = held_by(held_by(asyncio.tasks, "_wait"), "__code__")
_THEIRS: Final = (asyncio.futures.__name__, asyncio.tasks.__name__)


def seen_when_cut_off(
    awaitable: Awaitable[Any],  # Any: whatever it returns
    tell: Callable[[list[GoesOn]], None],
    *,
    result_may_refuse: bool = False,
) -> Awaitable[Any]:  # Any: as above
    """
    The same to be awaited, of which *tell* hears when it ends with an error: what is still a part of it, and goes on.

    Also when it ends with a result, if that may prove as much as an error. To be awaited where its attempt is marked.
    """
    coroutine = awaitable if isinstance(awaitable, CoroutineType) else _awaited(awaitable)
    assert isinstance(coroutine, CoroutineType)  # as every one of Python's own
    return _Steps(coroutine, tell, result_may_refuse=result_may_refuse)


async def _awaited(awaitable: Awaitable[Any]) -> Any:  # Any: as above
    return await awaitable


class _Steps:
    """Those of a coroutine, one after the other. Whoever looks for its frames sees through it."""

    __slots__ = ("_coroutine", "_cut_off_from", "_limited", "_protected", "_result_may_refuse", "_tell")

    def __init__(
        self,
        coroutine: CoroutineType[Any, Any, Any],  # Any: what it awaits and returns
        tell: Callable[[list[GoesOn]], None],
        *,
        result_may_refuse: bool,
    ) -> None:
        self._coroutine = coroutine
        self._tell = tell
        self._result_may_refuse = result_may_refuse
        self._protected: list[GoesOn] = []
        """What stands behind that which it awaits now."""
        self._limited: asyncio.Future[Any] | None = None  # Any: nobody asks for the result
        """What `wait_for` waits for now."""
        self._cut_off_from: list[GoesOn] = []

    def __await__(self) -> Generator[Any, Any, Any]:  # Any: as above
        return self

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:  # Any: as above
        return self.send(None)

    def send(self, value: Any) -> Any:  # Any: as above
        return self._step(self._coroutine.send, value)

    def throw(self, *raised: Any) -> Any:  # Any: as above
        try:
            if isinstance(raised[0], asyncio.CancelledError):
                self._cut_off_from += self._protected
                self._cut_off_from += _left_by_wait(self._coroutine)
            return self._step(self._coroutine.throw, *raised)
        finally:
            del raised  # its traceback holds this frame: no cycle

    def close(self) -> None:
        self._coroutine.close()

    @property
    def cr_frame(self) -> FrameType | None:
        return self._coroutine.cr_frame

    @property
    def cr_await(self) -> Any:  # Any: as above
        return self._coroutine.cr_await

    def _step(self, step: Callable[..., Any], *of: Any) -> Any:  # Any: as above
        if self._limited is not None and not self._limited.done():  # its time is up, or it is cancelled
            self._cut_off_from += _behind_all(self._limited)
        try:
            awaited = step(*of)
        except StopIteration:
            if self._result_may_refuse:
                self._tell(self._going_on())
            raise
        except BaseException:
            self._tell(self._going_on())
            raise
        finally:
            del of  # as above
        self._note(awaited)
        return awaited

    def _note(self, awaited: object) -> None:
        found = list(_behind_all(awaited)) if type(awaited) is GATHERING else _behind(awaited)
        self._protected = [] if found and _is_asking_for_a_name(self._coroutine) else found
        if _WAIT_FOR_HAS_TASKS:
            self._limited = _limited_in(self._coroutine)

    def _going_on(self) -> list[GoesOn]:
        seen = [one for one in self._cut_off_from if not one.done() and not _asks_for_a_name(one)]
        for one in seen:
            leave_to(one)
        threads = [work.end() for work in work_of_other_threads() if is_inside_the_attempt_here(work.context)]
        return list(dict.fromkeys((*seen, *threads)))


def _gathered(awaited: object) -> Iterator[object]:
    """What `gather` waits for in its place; anything else alone."""
    if is_really(awaited, GATHERING):
        for child in held_by(awaited, "_children") or ():
            yield from _gathered(child)
    else:
        yield awaited


def _limited_in(coroutine: object) -> asyncio.Future[Any] | None:  # Any: nobody asks for the result
    """What `wait_for` waits for in the place of *coroutine*."""
    innermost: CoroutineType[Any, Any, Any] | _Steps | None = None  # Any: as above
    while type(coroutine) is CoroutineType or type(coroutine) is _Steps:
        innermost, coroutine = coroutine, coroutine.cr_await
    frame = None if innermost is None or not _WAIT_FOR_HAS_TASKS else innermost.cr_frame
    if frame is None or frame.f_code is not asyncio.wait_for.__code__:
        return None
    (limited,) = locals_of(frame, "fut")
    return limited if is_really(limited, asyncio.Future) else None


def _behind_all(future: object, depth: int = 0) -> Iterator[GoesOn]:
    """What goes on when *future* is cancelled, also behind the tasks that are cancelled with it."""
    for one in _gathered(future):
        if not is_really(one, asyncio.Task):
            yield from _behind(one)
        elif depth < _DEEPEST and not _is_asking_for_a_name(one.get_coro()):
            awaited = _limited_in(one.get_coro()) or held_by(one, "_fut_waiter")
            yield from _behind_all(awaited, depth + 1)


def _left_by_wait(coroutine: object) -> Iterator[GoesOn]:
    for frame in frames_in(coroutine):
        if frame.f_code is _WAIT:
            for future in locals_of(frame, "fs")[0] or ():
                if not is_really(future, asyncio.Task):
                    yield from _behind_all(future)
                # Not one that was there before the attempt, such as that which ends with a connection.
                elif (context := _context_of(future)) is None or is_inside_the_attempt_here(context):
                    yield future


def _context_of(task: asyncio.Task[Any]) -> Context | None:  # Any: whatever it returns
    """That it runs in; None: before Python 3.12 nobody knows, while it waits for nothing."""
    if sys.version_info >= (3, 12):
        return task.get_context()
    for callback, context in held_by(held_by(task, "_fut_waiter"), "_callbacks") or ():
        if held_by(callback, "__self__") is task and is_really(context, Context):
            return context
    return None


def _asks_for_a_name(going_on: GoesOn) -> bool:
    return isinstance(going_on, asyncio.Task) and _is_asking_for_a_name(going_on.get_coro())


def _is_asking_for_a_name(coroutine: object) -> bool:
    # Each connection begins with that, in a thread of asyncio's, and it sends nothing to the venue.
    return any(
        frame.f_code.co_name in _LOOK_UPS and frame.f_globals.get("__name__") == asyncio.base_events.__name__
        for frame in frames_in(coroutine)
    )


def _behind(awaited: object) -> list[GoesOn]:
    """What goes on when *awaited* is cancelled, if it has begun: what it was chained to, or shields."""
    found: list[GoesOn] = []
    for callback, _ in getattr(awaited, "_callbacks", None) or ():
        if isinstance(callback, FunctionType) and callback.__module__ in _THEIRS:
            found += [
                held
                for held in enclosed_by(callback)
                if held is not awaited and isinstance(held, asyncio.Future | concurrent.futures.Future)
            ]
    return found

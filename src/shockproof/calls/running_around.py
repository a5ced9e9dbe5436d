"""
The fuse: what runs around a call, and repeats it by itself.

Inside a running retry a call makes one attempt, for layers do not multiply. Inside an attempt of an order it does, too,
and is neither hedged nor answered for: only `once` may send again what has the order's key, for only it is journalled
and looks it up first. What is declared to do no harm twice is let through an order.

It is a context variable, so that tasks and threads started inside inherit it; read only where something is about
to be repeated. A thread by ``run_in_executor`` inherits nothing: it is known by who waits for it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, Token
from typing import Any, Final

from shockproof.calls.threads_at_work import work_of_this_thread
from shockproof.calls.who_waits import contexts_around

__all__ = [
    "IN_AN_ORDER",
    "ORDERS",
    "RunningAround",
    "a_retry_runs",
    "an_order_failed_around",
    "an_order_runs",
    "awaited_in_order",
    "begin_retry",
    "end_retry",
    "in_order",
    "is_inside_the_attempt_here",
    "leave_to",
    "may_be_inside",
    "on_its_own",
    "orders_around",
]

IN_AN_ORDER: Final = "an order runs around it, which only once() sends again; declare effect='read' or 'idempotent' for what may be repeated"
"""Why a call is not repeated there."""


class _AnyOrders:
    """Whether this process has wanted to send an order at all."""

    __slots__ = ("exist",)

    def __init__(self) -> None:
        self.exist = False


ORDERS: Final = _AnyOrders()
"""As long as there was none, nobody is asked whether he runs in one, or what was sent inside of him."""


class RunningAround:
    """Marks everything inside a repeated attempt, or an attempt of an order; `ended` for tasks that outlive it."""

    __slots__ = ("ended", "failed_at", "order", "outer")

    def __init__(self, outer: RunningAround | None, order: object = None) -> None:
        self.ended = False
        self.failed_at: float | None = None
        """When an attempt of an order was cut off, or failed."""
        self.order = order
        """None: it is a retry."""
        self.outer = outer


_innermost: ContextVar[RunningAround | None] = ContextVar("shockproof_running_around", default=None)
_left_to: Final = weakref.WeakKeyDictionary[object, RunningAround | None]()
"""The attempts that were cut off from what a thread is at, by its future."""


def may_be_inside() -> bool:
    """Whether there is anything to ask about what runs around the running code: of nearly every call there is not."""
    return _innermost.get() is not None or (ORDERS.exist and _is_in_a_thread())


def _is_in_a_thread() -> bool:
    return threading.get_ident() != threading.main_thread().ident


def _running() -> RunningAround | None:
    """The innermost that has not ended."""
    mark = _innermost.get()
    while mark is not None and mark.ended:
        mark = mark.outer
    return mark


def a_retry_runs(but: RunningAround | None) -> bool:
    """Whether a retry, other than *but*, runs around the running code."""
    mark = _innermost.get()
    while mark is not None and (mark.ended or mark.order is not None or mark is but):
        mark = mark.outer
    return mark is not None


def orders_around() -> Iterator[object]:
    """The orders of whose attempts the running code is a part, innermost first."""
    mark = _innermost.get()
    while mark is not None:
        if mark.order is not None and not mark.ended:
            yield mark.order
        mark = mark.outer


def an_order_runs() -> bool:
    """Whether there is any, also around a thread that was given no context."""
    return ORDERS.exist and (_runs(_innermost.get()) or any(map(_runs, _around_this_thread())))


def an_order_failed_around(began: float) -> bool:
    """
    Whether what began then was a part of an order's attempt, and outlives it.

    The attempt was cut off, or failed: only `once` may send again what has the order's key. What begins later is free, such as
    the calls of a reader whose connection that attempt had opened.
    """
    return ORDERS.exist and (
        _failed(_innermost.get(), began) or any(_failed(mark, began) for mark in _around_this_thread())
    )


def _runs(mark: RunningAround | None) -> bool:
    while mark is not None and (mark.ended or mark.order is None):
        mark = mark.outer
    return mark is not None


def _failed(mark: RunningAround | None, began: float) -> bool:
    while mark is not None and (mark.failed_at is None or mark.failed_at < began):
        mark = mark.outer
    return mark is not None


def _around_this_thread() -> Iterator[RunningAround | None]:
    """Around what the running thread was handed, as by ``run_in_executor``, where it was given no context."""
    if not _is_in_a_thread():  # nobody hands it anything
        return
    for work in work_of_this_thread():
        if work.future is None:
            continue
        yield _left_to.get(work.future)
        for context in contexts_around(work.future):
            yield context.get(_innermost)


def leave_to(thread: object) -> None:
    """The attempt here is cut off from *thread*, a future of one that goes on with a part of it."""
    _left_to[thread] = _innermost.get()


def is_inside_the_attempt_here(context: Context | None) -> bool:
    """Whether what runs in *context* has begun in the attempt of an order that the running code is directly in."""
    here = _innermost.get()
    mark = None if context is None else context.get(_innermost)
    while mark is not None and mark is not here:
        mark = mark.outer
    return mark is not None


def begin_retry() -> tuple[RunningAround, Token[RunningAround | None]]:
    """From now on a retry inside this one makes a single attempt; to be handed to `end_retry`."""
    mark = RunningAround(None if _innermost.get() is None else _running())
    return mark, _innermost.set(mark)


def end_retry(mark: RunningAround, token: Token[RunningAround | None]) -> None:
    """The repeated attempts are over, in whatever task."""
    mark.ended = True
    try:
        _innermost.reset(token)
    except ValueError:
        pass  # a block that is left in another task than it was entered in


class in_order:  # noqa: N801 - it stands where a context manager made of a generator would, which takes three times as long
    """What runs inside is an attempt of *order*, whose clock says *now*."""

    __slots__ = ("_mark", "_now", "_token")

    _mark: RunningAround
    _token: Token[RunningAround | None]

    def __init__(self, order: object, now: Callable[[], float]) -> None:
        ORDERS.exist = True
        self._mark = RunningAround(_running(), order)
        self._now = now

    def __enter__(self) -> None:
        self._token = _innermost.set(self._mark)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._mark.failed_at = self._now()
        self._mark.ended = True
        _innermost.reset(self._token)


async def awaited_in_order(
    order: object,
    now: Callable[[], float],
    awaitable: Awaitable[Any],  # Any: whatever the user's function returns
) -> Any:  # Any: as above
    """What a plain function gave to await is a part of its attempt."""
    with in_order(order, now):
        return await awaitable


@contextmanager
def on_its_own() -> Generator[None]:
    """What runs inside is no part of what runs around it: it is looked up what became of an order, and that may be repeated."""
    token = _innermost.set(None)
    try:
        yield
    finally:
        _innermost.reset(token)

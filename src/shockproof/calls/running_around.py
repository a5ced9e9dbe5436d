"""
The fuse: what runs around a call, and repeats it by itself.

Inside a running retry a call makes one attempt, for layers do not multiply. Inside an attempt of an order it does, too,
and is neither hedged nor answered for: only `once` may send again what has the order's key, for only it is journalled
and looks it up first. What is declared to do no harm twice is let through an order.

It is a context variable, so that tasks and threads started inside inherit it; read only where something is about
to be repeated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Final

__all__ = [
    "IN_AN_ORDER",
    "RunningAround",
    "a_retry_runs",
    "an_order_failed_around",
    "an_order_runs",
    "awaited_in_order",
    "begin_retry",
    "end_retry",
    "in_order",
    "innermost",
    "on_its_own",
    "orders_around",
]

IN_AN_ORDER: Final = "an order runs around it, which only once() sends again; declare effect='read' or 'idempotent' for what may be repeated"
"""Why a call is not repeated there."""


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


innermost: Final = _innermost.get
"""What runs around the running code, or has; None: there is nothing to ask about it, which is so for nearly every call."""


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
    """Whether there is any."""
    mark = (
        _innermost.get()
    )  # asked of every failure and of every stand-in: a generator would cost more than the answer
    while mark is not None and (mark.ended or mark.order is None):
        mark = mark.outer
    return mark is not None


def an_order_failed_around(began: float) -> bool:
    """
    Whether what began then was a part of an order's attempt, and outlives it.

    The attempt was cut off, or failed: only `once` may send again what has the order's key. What begins later is free, such as
    the calls of a reader whose connection that attempt had opened.
    """
    mark = _innermost.get()
    while mark is not None and (mark.failed_at is None or mark.failed_at < began):
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


@contextmanager
def in_order(order: object, now: Callable[[], float]) -> Generator[None]:
    """What runs inside is an attempt of *order*, whose clock says *now*."""
    mark = RunningAround(_running(), order)
    token = _innermost.set(mark)
    try:
        yield
    except BaseException:
        mark.failed_at = now()
        raise
    finally:
        mark.ended = True
        _innermost.reset(token)


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

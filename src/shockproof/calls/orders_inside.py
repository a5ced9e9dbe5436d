"""
Orders that were sent inside of a call: what makes its failure final for whoever would repeat it, or send it elsewhere.

Whatever the function around an order makes of its end, an error of its own or a time limit's, a repetition would send
another order, with another key. So each sending is written down for the task that it runs in, and for those that wait
for that task. A call looks there when an attempt of its own has failed, and never while all is well.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator
from contextvars import Context, ContextVar
from typing import Any, Final

from shockproof.calls.running_around import orders_around
from shockproof.calls.who_waits import tasks_told_by
from shockproof.vocabulary.clock import Clock, SystemClock
from shockproof.vocabulary.errors import OutcomeUnknownError

__all__ = ["OrderInside", "begin_thread_for", "name_unknown_order", "order_sent_within"]

_SAME_MOMENT: Final = 1e-6
"""Seconds: less than any order takes, and more than is lost in rounding."""
_LONGEST_CHAIN: Final = 16


class OrderInside:
    """
    One order on its way, as the calls around it see it.

    Under way or unknown, it is final for each of them. Once it is there, it is so only where its key was made by us:
    a repetition makes another one, while a key of the user's is known to be used.
    """

    __slots__ = ("_at", "_clock", "_ended_at", "_is_key_ours", "_seen_by", "is_there", "key", "service_name")

    def __init__(self, key: str, service_name: str, clock: Clock, *, is_key_ours: bool) -> None:
        self.key = key
        self.service_name = service_name
        self.is_there = False
        self._clock = clock
        self._is_key_ours = is_key_ours
        self._at: float | None = None
        self._ended_at: float | None = None
        """When it was there; None: it is not known to be."""
        self._seen_by: set[_Orders] = set()

    def begins(self) -> None:
        """It is about to be sent, perhaps again."""
        self._at = self._clock.monotonic()
        self._show()

    def ends(self, *, may_be_there: bool) -> None:
        """What is known of it when nobody waits for it any more; *may_be_there* where it is not known to be."""
        if self.is_there:
            self._ended_at = self._clock.monotonic()
        if self._at is not None:
            self._show()  # whoever did not wait for it yet when it was sent, may do so now
        for orders in self._seen_by:
            orders.under_way.discard(self)
            if self.is_there and self._is_key_ours:
                orders.there = self
            elif may_be_there and not self.is_there:
                orders.unknown = self
        self._seen_by.clear()

    @property
    def reason(self) -> str:
        """Why a call around it is not repeated."""
        what = "was placed" if self.is_there else "may have been placed"
        return f"order {self.key!r} of service {self.service_name!r} inside it {what}, and it would send another one"

    def was_sent_since(self, moment: float, clock: Clock) -> bool:
        """Whether it was sent then, or later; of a clock with another time nothing can be said."""
        is_comparable = clock is self._clock or (type(clock) is SystemClock is type(self._clock))
        if self._at is None or not is_comparable:
            return False
        if self._ended_at is not None and self._ended_at - moment < _SAME_MOMENT:
            return False  # where no time has passed at all, as in a simulation, one that is there was before
        return self._at - moment > -_SAME_MOMENT

    def _show(self) -> None:
        for task in _tasks_around():
            orders = _seen.get(task)
            if orders is None:
                orders = _seen.setdefault(task, _Orders())
            orders.under_way.add(self)
            self._seen_by.add(orders)


class _Orders:
    """Those of one task, and of tasks that it waited for."""

    __slots__ = ("there", "under_way", "unknown")

    def __init__(self) -> None:
        self.under_way: set[OrderInside] = set()
        self.unknown: OrderInside | None = None
        """The latest of which nobody knows."""
        self.there: OrderInside | None = None
        """The latest that is there, of those with a key of ours."""

    def __iter__(self) -> Iterator[OrderInside]:
        yield from list(self.under_way)
        for order in (self.unknown, self.there):
            if order is not None:
                yield order


_seen: Final = weakref.WeakKeyDictionary["asyncio.Task[Any]", _Orders]()  # Any: whatever they return
_thread_of: ContextVar[asyncio.Future[None] | None] = ContextVar("shockproof_thread_of", default=None)


def order_sent_within(duration: float, clock: Clock, *, but: OrderInside | None = None) -> OrderInside | None:
    """The order, other than *but*, that was sent inside of what runs here since *duration* seconds, and makes it final."""
    if not _seen:
        return None
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    orders = None if task is None else _seen.get(task)
    if orders is None:
        return None
    began, around = clock.monotonic() - duration, set(orders_around())
    for order in orders:
        if order is not but and order not in around and order.was_sent_since(began, clock):
            return order
    return None


def begin_thread_for(done: asyncio.Future[None], context: Context) -> None:
    """What runs in *context*, in a thread, is a part of what waits for *done*."""
    context.run(_thread_of.set, done)


def name_unknown_order(error: BaseException, order: OrderInside) -> None:
    """Let the causes of *error* end with the error that names the order, unless they do already."""
    for _ in range(_LONGEST_CHAIN):
        if isinstance(error, OutcomeUnknownError):
            return
        if error.__cause__ is None:
            error.__cause__ = OutcomeUnknownError(order.key, order.service_name)
            return
        error = error.__cause__


def _tasks_around() -> set[asyncio.Task[Any]]:  # Any: whatever they return
    """The running task and those that wait for it, also those that are not cancelled with it, or wait for its thread."""
    found = set[asyncio.Task[Any]]()  # Any: as above
    here = asyncio.current_task()
    thread = _thread_of.get()
    inside = [] if here is None else [here]
    if thread is not None:
        inside.extend(tasks_told_by(thread))
    while inside:
        task = inside.pop()
        if task not in found:
            found.add(task)
            inside.extend(tasks_told_by(task))
    return found

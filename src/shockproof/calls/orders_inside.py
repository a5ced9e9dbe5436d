"""
Orders that were sent inside of a call: what makes its failure final for whoever would repeat it, or send it elsewhere.

Whatever the function around an order makes of its end, an error of its own or a time limit's, a repetition would send
another order, with another key. So each sending is written down for the task that it runs in, for those that wait
for that task, and for those that have made it. A call looks there when an attempt of its own has failed, and never while all is well.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Final

from shockproof.calls.descent import makers_of, note_makers_here
from shockproof.calls.running_around import ORDERS, orders_around
from shockproof.calls.strangers import held_by
from shockproof.calls.tasks_at_hand import tasks_at_hand
from shockproof.calls.timer import running_task
from shockproof.calls.who_waits import group_of, tasks_told_by, tasks_told_by_this_thread
from shockproof.vocabulary.clock import Clock, SystemClock
from shockproof.vocabulary.errors import OutcomeUnknownError

if TYPE_CHECKING:
    from shockproof.calls.flight import Flight

__all__ = [
    "OrderInside",
    "began_before",
    "begin_part_of",
    "begin_thread_for",
    "name_unknown_order",
    "order_placed_since",
    "order_sent_since",
    "take_over_orders",
    "withdraw_orders",
]

_SAME_MOMENT: Final = 1e-5
"""Seconds: less than any order takes, and more than is lost in rounding."""
_ROUNDING: Final = 1e-9
"""Seconds. A task that is made right before an attempt begins is no part of it: for tasks the tolerance is no more than that."""
_LONGEST_CHAIN: Final = 16

_Task = weakref.ref["asyncio.Task[Any]"]  # Any: whatever it returns


class OrderInside:
    """
    One order on its way, as the calls around it see it.

    Under way or unknown, it is final for each of them. Once it is there, it is so only where its key was made by us:
    a repetition makes another one, while a key of the user's is known to be used. Not sent yet, it never will be where one
    of them is repeated without having waited for it.
    """

    __slots__ = (
        "_came_at",
        "_clock",
        "_is_key_ours",
        "_seen_by",
        "_sent_at",
        "_shown_to",
        "_there_at",
        "flight",
        "is_withdrawn",
        "key",
        "service_name",
    )

    def __init__(self, key: str, service_name: str, clock: Clock, *, is_key_ours: bool) -> None:
        """It is wanted from here on, and shall be sent soon."""
        ORDERS.exist = True
        self.key = key
        self.service_name = service_name
        self.flight: Flight | None = None
        """Says whether it may be under way."""
        self.is_withdrawn = False
        """Another one takes its place: it must not be sent."""
        self._clock = clock
        self._is_key_ours = is_key_ours
        self._came_at = clock.monotonic()
        self._sent_at: float | None = None
        self._there_at: float | None = None
        self._seen_by: set[_Orders] = set()
        self._shown_to: dict[asyncio.Task[Any], Tie] = {}  # Any: whatever they return
        """When it was shown last, for as long as it is on its way."""
        note_makers_here(clock)
        self._show()

    def begins(self) -> None:
        """It is about to be sent, perhaps again."""
        self._sent_at = self._clock.monotonic()
        self._show()

    def is_there(self) -> None:
        """It was placed, for certain."""
        self._there_at = self._clock.monotonic()

    @property
    def was_sent(self) -> bool:
        """Whether an attempt of it has begun, whatever came of it."""
        return self._sent_at is not None

    @property
    def is_placed(self) -> bool:
        """Whether that is known."""
        return self._there_at is not None

    @property
    def is_nowhere(self) -> bool:
        """Whether it is certain that there is none, so far."""
        return not self.is_placed and (self.flight is None or not self.flight.is_open)

    def ends(self) -> None:
        """Nobody waits for it any more; what is known of it now, stays."""
        if not self.is_nowhere:
            self._show()  # whoever did not wait for it yet when it was sent, may do so now
        for orders in self._seen_by:
            tie = orders.on_their_way.pop(self, None)
            if self.is_placed:
                _keep(orders.placed if self._is_key_ours else orders.known, self, tie)
            elif not self.is_nowhere:
                _keep(orders.unknown, self, tie)
        self._seen_by.clear()
        self._shown_to = {}

    @property
    def reason(self) -> str:
        """Why a call around it is not repeated."""
        what = "was placed" if self.is_placed else "may have been placed"
        return f"order {self.key!r} of service {self.service_name!r} inside it {what}, and it would send another one"

    def was_sent_since(self, moment: float, clock: Clock) -> bool:
        """Whether it was sent then, or later; of a clock with another time nothing can be said."""
        if self._sent_at is None or self.is_nowhere or not self._goes_by(clock):
            return False
        if self._there_at is not None and self._there_at - moment < _SAME_MOMENT:
            return False  # where no time has passed at all, as in a simulation, one that is there was before
        return self._sent_at - moment > -_SAME_MOMENT

    def came_since(self, moment: float, clock: Clock) -> bool:
        """The same of when it was wanted, whatever has become of it."""
        return self._goes_by(clock) and self._came_at - moment > -_SAME_MOMENT

    def _goes_by(self, clock: Clock) -> bool:
        return clock is self._clock or (type(clock) is SystemClock is type(self._clock))

    def is_seen_by(self, orders: _Orders) -> None:
        """They are told of its end."""
        self._seen_by.add(orders)

    def _show(self) -> None:
        around = _tasks_around()
        for task in tuple(around):
            for maker, made in makers_of(task):
                known = around.setdefault(maker, made.at)
                if isinstance(known, float) and known < made.at and self._goes_by(made.clock):
                    around[maker] = made.at
        if around == self._shown_to:  # nearly always, and all that follows is done
            return
        self._shown_to = around
        for task, tie in around.items():
            orders = _orders_kept_for(task)
            if isinstance(tie, float):  # who has waited for it at some time, has more to do with it
                orders.on_their_way.setdefault(self, tie)
            else:
                orders.on_their_way[self] = tie
            self._seen_by.add(orders)


Tie = asyncio.TaskGroup | float | None
"""
What an order has to do with a task. None: it runs there, or the task waits for it. A group: it runs in that, beside the body of a
block that the task is in. A time: that is when the task has made the one that it comes from, waiting for it or not.
"""


_Ended = dict[type, tuple["OrderInside", "Tie"]]
"""By the kind of their ties, the latest; of those that come from a task made there, the one that comes from the latest."""


class _Orders:
    """Those of one task, and of the tasks that it has made or waits for, at the end of a group at the latest."""

    __slots__ = ("__weakref__", "known", "on_their_way", "placed", "unknown")

    def __init__(self) -> None:
        self.on_their_way: dict[OrderInside, Tie] = {}
        self.unknown: _Ended = {}
        """Of which nobody knows."""
        self.placed: _Ended = {}
        """That are there, of those with a key of ours."""
        self.known: _Ended = {}
        """The same of those with a key of the user's, which a repetition sends no second time."""

    def inside(self, began: float) -> Iterator[OrderInside]:
        """Those inside of what began then, if they are later than that."""
        return self._of(began - _ROUNDING, self.unknown, self.placed)

    def surely_inside(self, began: float) -> Iterator[OrderInside]:
        """Without those of a task that was made at that very moment: it may have been before."""
        return self._of(began + _ROUNDING, self.unknown, self.placed)

    def those_there(self, began: float) -> Iterator[OrderInside]:
        """Those of them that are known to be there, whosever key they have."""
        return (order for order in self._of(began - _ROUNDING, self.placed, self.known) if order.is_placed)

    def _of(self, earliest: float, *ended: _Ended) -> Iterator[OrderInside]:
        for order, tie in (*self.on_their_way.items(), *(one for kind in ended for one in kind.values())):
            if isinstance(tie, float):
                # What was made before goes on beside it.
                if tie >= earliest:
                    yield order
            # A call in the body of a block does not contain what runs beside it. One around the block does.
            elif tie is None or getattr(tie, "_exiting", True):
                yield order

    def take_over(self, others: _Orders, began: float, clock: Clock) -> None:
        """Those of *others* that were sent since *began* are inside of this task as well."""
        for order, _ in tuple(others.on_their_way.items()):
            # Not one that is still to be sent: whose it is, is a guess here, and it would be withdrawn.
            if order.came_since(began, clock) and order.was_sent:
                self.on_their_way.setdefault(order, None)
                order.is_seen_by(self)
        for theirs, ours in (
            (others.unknown, self.unknown),
            (others.placed, self.placed),
            (others.known, self.known),
        ):
            for order, _ in tuple(theirs.values()):
                if order.came_since(began, clock):
                    _keep(ours, order, None)


def _keep(ended: _Ended, order: OrderInside, tie: Tie) -> None:
    _, latest = ended.get(type(tie), (None, None))
    if not (isinstance(tie, float) and isinstance(latest, float) and latest > tie):
        ended[type(tie)] = order, tie


_ATTRIBUTE: Final = "_shockproof_orders"
"""
Of a task: its `_Orders`. They lead back to it, by what waits for it or by a group; so whatever else held them, if only under a weak
reference to the task, would hold both for ever where its loop is closed before they end.
"""
_seen: Final = weakref.WeakKeyDictionary[
    "asyncio.Task[Any]", "weakref.ref[_Orders]"
]()  # Any: whatever they return
"""The tasks that have any."""


def _orders_of(task: asyncio.Task[Any]) -> _Orders | None:  # Any: as above
    orders: _Orders | None = getattr(task, _ATTRIBUTE, None)
    return orders


def _orders_kept_for(task: asyncio.Task[Any]) -> _Orders:  # Any: as above
    orders = _orders_of(task)
    if orders is None:
        made = _Orders()
        # A thread that it waits for may be here at this moment, too: the first is the one for both.
        orders = _seen.setdefault(task, weakref.ref(made))() or made
        setattr(task, _ATTRIBUTE, orders)
    return orders


_thread_of: ContextVar[asyncio.Future[None] | None] = ContextVar("shockproof_thread_of", default=None)
_parts: ContextVar[tuple[tuple[_Task, _Task], ...]] = ContextVar("shockproof_parts", default=())
"""Tasks of ours and the tasks that they are parts of, around the running code."""


def began_before(now: float, duration: float) -> float | None:
    """When what has taken *duration* seconds until *now* began; None: there are no orders that it matters for."""
    return now - duration if _seen else None


def order_sent_since(
    began: float | None, clock: Clock, *, but: OrderInside | None = None
) -> OrderInside | None:
    """The order, other than *but*, that was sent inside of what runs here since *began*, and makes it final."""
    if began is not None:
        for order in _inside_of_what_runs(but, lambda orders: orders.inside(began)):
            if order.was_sent_since(began, clock):
                return order
    return None


def order_placed_since(
    began: float | None, clock: Clock, *, but: OrderInside | None = None
) -> OrderInside | None:
    """The order, other than *but*, that is there, and was sent inside of what runs here since *began*: nobody sends it elsewhere."""
    task = None if began is None else running_task()
    orders = None if task is None else _orders_of(task)
    if began is not None and orders is not None:
        for order in orders.those_there(began):
            if order is not but and order.was_sent_since(began, clock):
                return order
    return None


def take_over_orders(error: BaseException, began: float | None, clock: Clock) -> None:
    """
    The attempt that *error* has ended began then: orders in tasks that its functions had at hand are inside of it.

    They may have waited for them by ways that nobody else can see: an event, a queue, or looking again and again.
    """
    here = None if began is None else running_task()
    if began is None or here is None:
        return
    for task in tasks_at_hand(error):
        others = _orders_of(task)
        if others is not None and task is not here:
            _orders_kept_for(here).take_over(others, began, clock)


def withdraw_orders(began: float | None, clock: Clock, *, but: OrderInside | None = None) -> None:
    """What runs here since *began* is about to be repeated: what was not sent yet inside of it, never will be."""
    if began is not None:
        for order in _inside_of_what_runs(but, lambda orders: orders.surely_inside(began)):
            if order.is_nowhere and order.came_since(began, clock):
                order.is_withdrawn = True


def _inside_of_what_runs(
    but: OrderInside | None, those_inside: Callable[[_Orders], Iterator[OrderInside]]
) -> Iterator[OrderInside]:
    task = running_task()
    orders = None if task is None else _orders_of(task)
    if orders is None:
        return
    around = set(orders_around())
    for order in those_inside(orders):
        if order is not but and order not in around:
            yield order


def begin_thread_for(done: asyncio.Future[None], context: Context) -> None:
    """What runs in *context*, in a thread, is a part of what waits for *done*."""
    context.run(_thread_of.set, done)


def begin_part_of(whole: asyncio.Task[Any] | None) -> None:  # Any: whatever it returns
    """The running task, which shockproof has started, is a part of *whole*, also while that has turned to something else."""
    part = asyncio.current_task()
    if part is not None and whole is not None:
        _parts.set((*_running_parts(), (weakref.ref(part), weakref.ref(whole))))


def _running_parts() -> Iterator[tuple[_Task, _Task]]:
    for part, whole in _parts.get():
        task = part()
        if task is not None and not task.done():
            yield part, whole


def name_unknown_order(error: BaseException, order: OrderInside) -> None:
    """Let the causes of *error* end with the error that names the order, unless they do already."""
    for _ in range(_LONGEST_CHAIN):
        if isinstance(error, OutcomeUnknownError):
            return
        if error.__cause__ is None:
            error.__cause__ = OutcomeUnknownError(order.key, order.service_name)
            return
        error = error.__cause__


def _tasks_around() -> dict[asyncio.Task[Any], Tie]:  # Any: whatever they return
    """The running task and those that wait for it, also those that are not cancelled with it, or wait for its thread."""
    found: dict[asyncio.Task[Any], Tie] = {}  # Any: as above
    here, thread = running_task(), _thread_of.get()
    inside: list[tuple[asyncio.Task[Any], Tie]] = [] if here is None else [(here, None)]  # Any: as above
    if thread is not None:
        inside += [(task, None) for task in tasks_told_by(thread)]
    if threading.get_ident() != threading.main_thread().ident:  # which nobody hands anything
        inside += [(task, None) for task in tasks_told_by_this_thread()]
    if _parts.get():
        inside += [(task, None) for _, whole in _running_parts() if (task := whole()) is not None]
    while inside:
        task, group = inside.pop()
        if task not in found:
            found[task] = group
            for other in tasks_told_by(task):
                inside.append((other, group))
            group = group_of(task)
            if group is not None and isinstance(parent := held_by(group, "_parent_task"), asyncio.Task):
                inside.append((parent, group))
    return found

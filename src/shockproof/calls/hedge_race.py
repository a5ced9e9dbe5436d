"""
Which of the requests of a hedged call may send an order: the first that comes to it.

Two of them would send two orders, with two keys.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Final, NamedTuple
from weakref import WeakSet, ref

from shockproof.calls.orders_inside import OrderInside, begin_part_of

__all__ = ["HedgeRace", "Lane", "lanes_around"]


class HedgeRace:
    """The requests of one call, of which at most one may send orders as long as another runs."""

    def __init__(self, call: asyncio.Task[Any] | None) -> None:  # Any: whatever it returns
        self._call = None if call is None else ref(call)
        self._runs: WeakSet[asyncio.Task[Any]] = WeakSet()  # Any: whatever they return
        self._first: object = None
        self._orders = set[OrderInside]()
        self._wanted = dict[OrderInside, object]()

    @property
    def has_order(self) -> bool:
        """Whether an order was sent, and is not known to be nowhere."""
        return bool(self._orders)

    def enter(self, request: object) -> None:
        """The running task is this request."""
        task = asyncio.current_task()
        assert task is not None
        self._runs.add(task)
        begin_part_of(None if self._call is None else self._call())
        _lane.set(Lane(self, request, _lane.get()))

    def is_free_for(self, request: object) -> bool:
        """Whether this request may send an order now."""
        return not self._orders or self._first is request or all(task.done() for task in self._runs)

    def comes(self, request: object, order: OrderInside) -> None:
        """*order* is wanted by this request."""
        self._wanted[order] = request

    def takes(self, request: object, order: OrderInside) -> None:
        """*order* is sent by this request."""
        self._first = request
        self._orders.add(order)

    def fails(self, request: object) -> None:
        """It has ended, and another may take its place: what it has not sent yet, in a task of its own, never will be."""
        for order, wanted_by in self._wanted.items():
            if wanted_by is request and order.is_nowhere:
                order.is_withdrawn = True

    def ends(self, order: OrderInside) -> None:
        """Nobody waits for it any more."""
        self._wanted.pop(order, None)
        if order.is_nowhere:
            self._orders.discard(order)


class Lane(NamedTuple):
    """One request in one race."""

    race: HedgeRace
    request: object
    outer: Lane | None
    """That of a hedged call around it."""

    @property
    def is_free(self) -> bool:
        """Whether an order may be sent in it."""
        return self.race.is_free_for(self.request)


_lane: Final[ContextVar[Lane | None]] = ContextVar("shockproof_hedge_race", default=None)


def lanes_around() -> list[Lane]:
    """Those in which the running code is, innermost first."""
    lane, found = _lane.get(), list[Lane]()
    while lane is not None:
        found.append(lane)
        lane = lane.outer
    return found

"""
Calls that are in flight for too long, told to the circuit before they end.

A call that hangs says nothing to a circuit that only counts what has ended, and a venue that has
stopped answering hangs all of them. Here each call has a largest age: past it, it counts as a failure
once, and its end, whenever that comes, decides nothing any more.
"""

from __future__ import annotations

import asyncio
import threading
from itertools import islice
from typing import Final

from shockproof.memory.services.listeners import Listeners
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import Admission, Ticket
from shockproof.policies.stall import was_stalled
from shockproof.vocabulary.clock import Clock

__all__ = ["CallAges"]

_LOOKS: Final = 4
"""Looks in the time of one largest age, to see whether our own loop stood still meanwhile."""
_AT_ONCE: Final = 32
"""How many calls are told of in one turn of the loop: more of them would hold it for milliseconds."""


class CallAges:
    """
    The calls of one service that are in flight, one queue for each loop.

    An age is the time a call has been in flight, without waits in our own queues and without the time
    in which our own loop stood still: its answer may have been waiting in the socket all along.
    """

    __slots__ = ("_lock", "_queues", "clock", "listeners", "seconds", "state")

    def __init__(self, state: ServiceState, seconds: float, clock: Clock, listeners: Listeners) -> None:
        self.state = state
        self.seconds = seconds
        self.clock = clock
        self.listeners = listeners
        self._queues: dict[asyncio.AbstractEventLoop, _Queue] = {}
        self._lock = threading.Lock()

    def begin(self, ticket: Admission, function_name: str) -> Ticket:
        """A call begins now on the running loop: a ticket in place of *ticket* that knows its age."""
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            with self._lock:
                for known in [known for known in self._queues if known.is_closed()]:
                    del self._queues[known]
                queue = self._queues[loop] = _Queue(self, loop)
        return queue.begin(ticket, function_name)


class _Ageing:
    """
    The ticket of a call that has a largest age.

    Whoever takes it out of its queue speaks for it: the call that has ended, or the look that found
    it overdue. Taking it out is one step, also between threads, so that only one of them does.
    """

    __slots__ = ("_queue", "function_name", "ticket")

    def __init__(self, queue: _Queue, ticket: Admission, function_name: str) -> None:
        self._queue = queue
        self.ticket = ticket
        self.function_name = function_name

    def _is_in_time(self) -> bool:
        return self._queue.in_flight.pop(self, None) is not None

    def succeeded(self, now: float, duration: float = 0.0) -> None:
        if self._is_in_time():
            self.ticket.succeeded(now, duration)
        else:
            self.ticket.released()

    def failed(self, now: float, cause: object, duration: float = 0.0) -> None:
        if self._is_in_time():
            self.ticket.failed(now, cause, duration)
        else:
            self.ticket.released()

    def released(self) -> None:
        self._is_in_time()
        self.ticket.released()


class _Queue:
    """The calls in flight on one loop, oldest first, and the timer that looks at them while there are any."""

    __slots__ = ("_ages", "_is_looking", "_loop", "_next_look", "_stood_still", "in_flight")

    def __init__(self, ages: CallAges, loop: asyncio.AbstractEventLoop) -> None:
        self._ages = ages
        self._loop = loop
        self.in_flight: dict[_Ageing, float] = {}
        """When each began, by the loop's time without what it stood still."""
        self._stood_still = 0.0
        self._is_looking = False
        self._next_look = 0.0

    def begin(self, ticket: Admission, function_name: str) -> _Ageing:
        ageing = _Ageing(self, ticket, function_name)
        self.in_flight[ageing] = self._loop.time() - self._stood_still
        if not self._is_looking:
            self._is_looking = True
            self._look_in(self._ages.seconds / _LOOKS)
        return ageing

    def _look_in(self, wait: float) -> None:
        self._next_look = self._loop.time() + wait
        self._loop.call_later(wait, self._look)

    def _look(self) -> None:
        ages = self._ages
        late = self._loop.time() - self._next_look
        if was_stalled(late, ages.seconds):
            self._stood_still += late
        now = self._loop.time() - self._stood_still
        wait = ages.seconds / _LOOKS
        try:
            oldest = list(islice(self.in_flight.items(), _AT_ONCE))
        except RuntimeError:  # a block was left in another thread at this very moment
            self._look_in(0.0)
            return
        for told, (ageing, began) in enumerate(oldest, 1):
            left = began + ages.seconds - now
            if left > 0:
                wait = min(wait, left)
                break
            self._tell(ageing)
            if told == _AT_ONCE:
                wait = 0.0
        if self.in_flight:
            self._look_in(wait)
        else:
            self._is_looking = False

    def _tell(self, ageing: _Ageing) -> None:
        ages, state = self._ages, self._ages.state
        if self.in_flight.pop(ageing, None) is None:
            return
        state.overdue += 1
        cause = f"a call has been in flight for {ages.seconds:g} s"
        ageing.ticket.overdue(ages.clock.monotonic(), cause, ages.seconds)
        if ages.listeners:
            from shockproof.vocabulary.events import CallOverdue

            ages.listeners.publish(
                CallOverdue(
                    service_name=state.name,
                    at=ages.clock.time(),
                    function_name=ageing.function_name,
                    age=ages.seconds,
                )
            )

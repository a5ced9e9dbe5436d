"""
Time limits around attempts, told apart from the caller's own cancellation.

A timer of the event loop for each call would cost more than all policies together. Calls under the
same limit on the same loop are therefore kept in one queue, oldest first, with one timer of the loop
for the oldest: a call that ends in time costs an insertion and a deletion, and one that does not is
ended exactly when it is due.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Final
from weakref import WeakValueDictionary

from shockproof.policies.stall import STALL_SHARE, was_stalled
from shockproof.vocabulary.clock import goes_by_real_time

__all__ = [
    "BLOCKS",
    "CURRENT_TASK",
    "HERE",
    "UNNOTICED",
    "Block",
    "LimitQueue",
    "TimeLimit",
    "Timer",
    "Waits",
    "clock_of",
    "limits_exist",
    "no_task",
    "queues_here",
    "running_task",
    "start_single_timer",
    "take_over",
    "time_limit",
]

_SHORTEST_WAIT: Final = 1e-6
"""Seconds: rounding may leave less than that of a limit, and a virtual clock would never get over it."""

_AT_ONCE: Final = 16
"""
How many calls are cancelled in one turn of the loop, half a millisecond of errors. Whoever waits for a moment beside them
waits for three turns: one in which the moment passes, one to notice, and one to go on.
"""


class _Unnoticed:
    """How many calls a limit has ended that have not noticed yet; one that never will, because its loop is dead, stays in."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


UNNOTICED: Final = _Unnoticed()
"""Asking it is an eighth of asking for the running task, which many a failure need not do then."""


class Timer:
    """
    One call under a limit: what ends it, unless it is stopped before.

    The task's count of cancellation requests is taken when the timer is set: taken at expiry it
    would swallow a cancellation that the caller makes in the same turn of the loop. When two of our
    timers fire in one turn, the outer one wins and the inner passes the cancellation on.
    """

    __slots__ = ("_cancels", "_key", "_queue", "_task", "stalled", "started")

    def __init__(
        self,
        queue: LimitQueue,
        task: asyncio.Task[Any],  # Any: whatever the task returns
        started: float,
        *,
        waits_as: tuple[object, int] | None = None,
    ) -> None:
        """With *waits_as* it takes over a call that waits already: its key, and the count of requests."""
        self._queue = queue
        self._task = task
        self.started = started
        self.stalled = False
        """Whether our own loop stood still while it ran; known once it has fired and is stopped."""
        if waits_as is None:
            self._key: object = None  # itself: said like this it is no cycle
            self._cancels = task.cancelling()
            queue.waiting[self] = (task, started)
        else:
            self._key, self._cancels = waits_as

    @property
    def seconds(self) -> float:
        """The limit."""
        return self._queue.seconds

    @property
    def task(self) -> asyncio.Task[Any]:  # Any: whatever the task returns
        """The task whose block it ends."""
        return self._task

    @property
    def limit(self) -> tuple[LimitQueue, object]:
        """Its queue, and what it waits there as."""
        return self._queue, self if self._key is None else self._key

    def elapsed(self) -> float:
        """Seconds since it was set, by the loop's own time."""
        return self._queue.clock() - self.started

    def has_ended_it(self) -> bool:
        """Whether the cancellation that is being handled is this timer's, and nobody else's."""
        key = self if self._key is None else self._key
        return key in self._queue.fired and self._task.cancelling() - 1 <= self._cancels

    def stop(self) -> bool:
        """
        The block is over. True when it was ended by this timer and by nobody else.

        A cancellation of ours that the callee swallowed is taken back as well; otherwise the task
        would stay half-cancelled and the next timeout around it would misjudge.
        """
        queue = self._queue
        key = self if self._key is None else self._key
        if queue.waiting.pop(key, None) is not None:
            if queue.is_single:
                queue.dismiss()
            return False
        stalled = queue.fired.pop(key, None)
        if stalled is not None:
            self.stalled = stalled
            UNNOTICED.calls -= 1
        if running_task() is not self._task:
            return False  # left in another task than it was entered in: only disarmed
        return self._task.uncancel() <= self._cancels


class LimitQueue:
    """
    The calls under one limit on one loop, oldest first; without a *home*, a single call.

    It looks when the oldest is due, and in between often enough to see whether the loop stood still.
    """

    __slots__ = (
        "_handle",
        "_home",
        "_idle_since",
        "_next_look",
        "_stalled_until",
        "clock",
        "fired",
        "is_single",
        "loop",
        "seconds",
        "waiting",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, home: TimeLimit | None = None
    ) -> None:
        self.is_single = home is None
        self.loop = loop
        self.seconds = seconds
        self.clock = clock_of(loop)
        # Any: whatever the task returns
        self.waiting: dict[object, tuple[asyncio.Task[Any], float]] = {}
        """What each call waits as, its task, and when it started: a dict for its order and cheap deletion."""
        self.fired: dict[object, bool] = {}
        """The calls that were ended and have not noticed yet, and whether the loop had stood still."""
        self._home = home
        self._idle_since: float | None = None
        self._stalled_until = -math.inf
        self._handle: asyncio.Handle | None = None
        self._next_look = 0.0
        self._look_in(seconds * STALL_SHARE)

    def _look_in(self, wait: float) -> None:
        if wait:
            wait = max(wait, _SHORTEST_WAIT)
        self._next_look = self.clock() + wait
        self._handle = self.loop.call_later(wait, self._look) if wait else self.loop.call_soon(self._look)

    def _look(self) -> None:
        self._handle = None  # it and this queue would keep each other alive
        now = self.clock()
        if was_stalled(now - self._next_look, self.seconds):
            self._stalled_until = now
        wait = self.seconds * STALL_SHARE
        try:
            oldest = list(islice(self.waiting.items(), _AT_ONCE))
        except RuntimeError:  # a block was left in another thread at this very moment
            self._look_in(0.0)
            return
        ended = 0
        for key, (task, started) in oldest:
            left = started + self.seconds - now
            if left > 0:
                wait = min(wait, left)
                break
            if self.waiting.pop(key, None) is not None:
                self.fired[key] = self._stalled_until > started
                UNNOTICED.calls += 1
                task.cancel()
            ended += 1
        if ended == _AT_ONCE:
            wait = 0.0
        if self.is_single and not self.waiting:
            return
        if self.waiting or ended:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= self.seconds and self._home is not None:
            self._home.forget(self)  # nobody came for a whole limit: an idle program has no timer
            return
        # A call that starts right after this is due after the next look, never before it.
        self._look_in(wait)

    def left(self, key: object) -> float | None:
        """Seconds until the call *key* is ended; 0 when it has been and has not noticed; None when it is over."""
        waiting = self.waiting.get(key)
        if waiting is not None:
            return max(0.0, waiting[1] + self.seconds - self.clock())
        return 0.0 if key in self.fired else None

    def is_of(self, key: object, task: asyncio.Task[Any] | None) -> bool:  # Any: whatever the task returns
        """Whether the call *key* is made by *task*, as far as is known: of one that was ended it is not."""
        waiting = self.waiting.get(key)
        return waiting is None or waiting[0] is task

    def dismiss(self) -> None:
        """The single call has ended."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


Block = tuple[LimitQueue, object, Any]  # Any: the same again or None, of the block around it
"""A block with a limit: its queue, and what it waits there as."""

BLOCKS: Final = dict[asyncio.Task[Any], Block]()  # Any: whatever the task returns
"""
The innermost block with a limit that each task is in, of those that do not wait as the task itself. A context variable
would cost twice as much.
"""

Waits = tuple[LimitQueue, asyncio.Task[Any], int]  # Any: whatever the task returns
"""A call that waits in a queue without a timer of its own: the queue, its task, and the count of requests."""


def take_over(waits: Waits, started: float, key: object) -> Timer:
    """The timer of a call that waits as *key* since *started*, now that there is something to ask it."""
    queue, task, cancels = waits
    return Timer(queue, task, started, waits_as=(key, cancels))


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """What reads the loop's own time, the cheapest way: asking an ordinary loop for it takes three times as long."""
    return time.monotonic if goes_by_real_time(loop) else loop.time


if sys.version_info >= (3, 12):
    HERE: Final[Callable[[], object]] = asyncio.get_running_loop
    """What a loop's queue is found by."""
    # Any: whatever the task returns
    CURRENT_TASK: Final[Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None]] = (
        asyncio.current_task
    )
    _task_in = CURRENT_TASK
else:
    # On 3.11 get_running_loop and current_task ask the system for the process id each time: 300 ns.
    # The thread's last queue is remembered instead, and the private table of current tasks tells the
    # task and, by having an entry at all, that this very loop is the one that runs now.
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]  # private: see above
    from threading import get_ident

    HERE: Final[Callable[[], object]] = get_ident
    # Any: whatever the task returns
    CURRENT_TASK: Final[Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None]] = (
        _current_tasks.__getitem__  # Any: the same
    )
    _task_in = _current_tasks.get


class TimeLimit:
    """One limit and its queues, one for each loop (on 3.11: for each thread); shared by all who have it."""

    __slots__ = ("__weakref__", "_lock", "queues", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.queues: dict[object, LimitQueue] = {}
        self._lock = threading.Lock()

    def start(self) -> Timer:
        """
        A timer that ends the current task's block after `seconds`.

        Raises:
            RuntimeError: no asyncio task is running here.
        """
        try:
            queue = self.queues[HERE()]
            task = CURRENT_TASK(queue.loop)
        except KeyError:
            queue, task = self.attach()
        if task is None:
            raise no_task()
        return Timer(queue, task, queue.clock())

    def attach(self) -> tuple[LimitQueue, asyncio.Task[Any]]:  # Any: whatever the task returns
        """
        A new queue on the running loop, and the current task.

        Raises:
            RuntimeError: no asyncio task is running here.
        """
        loop = asyncio.get_running_loop()
        task = _task_on(loop)
        with self._lock:
            for key, queue in list(self.queues.items()):
                if queue.loop.is_closed():
                    del self.queues[key]
            queue = self.queues[HERE()] = LimitQueue(loop, self.seconds, self)
        for known in list(BLOCKS):  # kept here, the task of a dead loop would keep all that its block holds
            if known.get_loop().is_closed():
                BLOCKS.pop(known, None)
        return queue, task

    def forget(self, queue: LimitQueue) -> None:
        """Nobody uses it any more."""
        with self._lock:
            for key, known in list(self.queues.items()):
                if known is queue:
                    del self.queues[key]


_limits: WeakValueDictionary[float, TimeLimit] = WeakValueDictionary()
_limits_lock = threading.Lock()


def time_limit(seconds: float) -> TimeLimit:
    """The one limit of so many seconds, for as long as somebody has it."""
    with _limits_lock:
        limit = _limits.get(seconds)
        if limit is None:
            limit = _limits[seconds] = TimeLimit(seconds)
        return limit


def queues_here() -> list[LimitQueue]:
    """The queues of all limits on the running loop; on 3.11 also one of a loop that ran in this thread before."""
    here = HERE()
    found = [limit.queues.get(here) for limit in list(_limits.values())]
    return [queue for queue in found if queue is not None]


def start_single_timer(seconds: float) -> Timer:
    """
    A timer for a limit that no other call is likely to have, such as what is left of a deadline.

    Raises:
        RuntimeError: no asyncio task is running here.
    """
    global _single_ones_exist
    _single_ones_exist = True
    loop = asyncio.get_running_loop()
    queue = LimitQueue(loop, seconds)
    return Timer(queue, _task_on(loop), queue.clock())


def limits_exist() -> bool:
    """Whether anything in this process may be under a limit of ours at all."""
    return _single_ones_exist or len(_limits) > 0


_single_ones_exist = False


def running_task() -> asyncio.Task[Any] | None:  # Any: whatever the task returns
    """The task that runs here; None where no loop does, as when the call of a dead one is collected."""
    loop = asyncio._get_running_loop()
    return None if loop is None else _task_in(loop)


def _task_on(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any]:  # Any: whatever the task returns
    task = asyncio.current_task(loop)
    if task is None:
        raise no_task()
    return task


def no_task() -> RuntimeError:
    """The error of a time limit that has no task to end."""
    return RuntimeError("a time limit needs a running asyncio task around it")

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
from typing import Final

__all__ = ["Timer", "start_single_timer", "start_timer", "was_stalled"]

# A loop that stood still for this share of a limit says more about us than about the other side: the
# answer may have been waiting in the socket all along. Shorter gaps than the seconds are everyday life.
_STALL_SHARE: Final = 0.25
_STALL_SECONDS: Final = 0.02

_AT_ONCE: Final = 32
"""How many calls are cancelled in one turn of the loop: more of them would hold it for milliseconds."""


def was_stalled(late: float, limit: float) -> bool:
    """Whether a limit that was noticed *late* seconds after its time says that our own loop stood still."""
    return late > max(_STALL_SECONDS, _STALL_SHARE * limit)


class Timer:
    """
    Cancels a task after *seconds*, unless stopped before; made by `start_timer`.

    The task's count of cancellation requests is taken when the timer is set: taken at expiry it
    would swallow a cancellation that the caller makes in the same turn of the loop. When two of our
    timers fire in one turn, the outer one wins and the inner passes the cancellation on.
    """

    __slots__ = ("_cancels", "_queue", "_task", "fired", "stalled", "started")

    def __init__(self, queue: _Queue, task: asyncio.Task[object], started: float) -> None:
        self._queue = queue
        self._task = task
        self._cancels = task.cancelling()
        self.started = started
        self.fired = False
        self.stalled = False
        """Whether our own loop stood still while it ran."""
        queue.waiting[self] = None

    @property
    def seconds(self) -> float:
        """The limit."""
        return self._queue.seconds

    def fire(self, *, stalled: bool) -> None:
        """The time is up; for the queue."""
        self.fired = True
        self.stalled = stalled
        self._task.cancel()

    def stop(self) -> bool:
        """
        The block is over. True when it was ended by this timer and by nobody else.

        A cancellation of ours that the callee swallowed is taken back as well; otherwise the task
        would stay half-cancelled and the next timeout around it would misjudge.
        """
        if not self.fired:
            queue = self._queue
            del queue.waiting[self]
            if queue.is_single:
                queue.dismiss()
            return False
        if asyncio.current_task() is not self._task:
            return False  # left in another task than it was entered in: only disarmed
        return self._task.uncancel() <= self._cancels


class _Queue:
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
        "is_single",
        "loop",
        "seconds",
        "waiting",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, home: dict[object, _Queue] | None = None
    ) -> None:
        self.is_single = home is None
        self.loop = loop
        self.seconds = seconds
        self.clock = _clock_of(loop)
        self.waiting: dict[Timer, None] = {}
        """A dict for its order and its cheap deletion."""
        self._home = home
        self._idle_since: float | None = None
        self._stalled_until = -math.inf
        self._handle: asyncio.Handle | None = None
        self._next_look = 0.0
        self._look_in(seconds * _STALL_SHARE)

    def _look_in(self, wait: float) -> None:
        self._next_look = self.clock() + wait
        self._handle = self.loop.call_later(wait, self._look) if wait else self.loop.call_soon(self._look)

    def _look(self) -> None:
        self._handle = None  # it and this queue would keep each other alive
        now = self.clock()
        if was_stalled(now - self._next_look, self.seconds):
            self._stalled_until = now
        expired: list[Timer] = []
        wait = self.seconds * _STALL_SHARE
        try:
            oldest = list(islice(self.waiting, _AT_ONCE + 1))
        except RuntimeError:  # a block was left in another thread at this very moment
            self._look_in(0.0)
            return
        for timer in oldest:
            left = timer.started + self.seconds - now
            if left > 0:
                wait = min(wait, left)
                break
            expired.append(timer)
            if len(expired) == _AT_ONCE:
                wait = 0.0
                break
        for timer in expired:
            self.waiting.pop(timer, None)
            timer.fire(stalled=self._stalled_until > timer.started)
        if self.is_single and not self.waiting:
            return
        if self.waiting or expired:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= self.seconds:
            self._leave()  # nobody came for a whole limit: an idle program has no timer
            return
        # A call that starts right after this is due after the next look, never before it.
        self._look_in(wait)

    def dismiss(self) -> None:
        """The single call has ended."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _leave(self) -> None:
        home = self._home or {}
        with _lock:
            for key, queue in list(home.items()):
                if queue is self:
                    del home[key]
            if not home and _queues.get(self.seconds) is home:
                del _queues[self.seconds]


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    # time.monotonic is what ordinary loops read, for a third of the price.
    if getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time:
        return time.monotonic
    return loop.time


_queues: dict[float, dict[object, _Queue]] = {}
"""By limit, then by loop (by thread on 3.11). Limits are settings: there are few."""
_lock = threading.Lock()


def _new_queue(seconds: float, key: object, loop: asyncio.AbstractEventLoop) -> _Queue:
    with _lock:
        home = _queues.setdefault(seconds, {})
        for other, queue in list(home.items()):
            if queue.loop.is_closed():
                del home[other]
        queue = home[key] = _Queue(loop, seconds, home)
        return queue


if sys.version_info >= (3, 12):

    def start_timer(seconds: float) -> Timer:
        """
        A timer that ends the current task's block after *seconds*.

        Raises:
            RuntimeError: no asyncio task is running here.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise _no_task()
        home = _queues.get(seconds)
        queue = None if home is None else home.get(loop)
        if queue is None:
            queue = _new_queue(seconds, loop, loop)
        return Timer(queue, task, queue.clock())

else:
    # On 3.11 get_running_loop and current_task ask the system for the process id each time: 300 ns.
    # The thread's last queue is remembered instead, and the private table of current tasks tells the
    # task and, by having an entry at all, that this very loop is the one that runs now.
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]  # private: see above
    from threading import get_ident

    def start_timer(seconds: float) -> Timer:
        """
        A timer that ends the current task's block after *seconds*.

        Raises:
            RuntimeError: no asyncio task is running here.
        """
        try:
            queue = _queues[seconds][get_ident()]
            task = _current_tasks[queue.loop]
        except KeyError:
            loop = asyncio.get_running_loop()
            current = asyncio.current_task(loop)
            if current is None:
                raise _no_task() from None
            task, queue = current, _new_queue(seconds, get_ident(), loop)
        return Timer(queue, task, queue.clock())


def start_single_timer(seconds: float) -> Timer:
    """
    As `start_timer`, for a limit that no other call is likely to have, such as what is left of a deadline.

    Raises:
        RuntimeError: no asyncio task is running here.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task(loop)
    if task is None:
        raise _no_task()
    queue = _Queue(loop, seconds)
    return Timer(queue, task, queue.clock())


def _no_task() -> RuntimeError:
    return RuntimeError("a time limit needs a running asyncio task around it")

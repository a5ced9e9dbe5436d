"""
Who is told what happened, off the call's path.

Plain listeners run one after another in a thread of their own, so that a slow one never holds the
event loop; coroutine listeners run as tasks on the loop where the event arose. Each has a bounded
queue: a listener that cannot follow loses the newest events, and the loss is counted.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from shockproof.memory.writer import after_fork
from shockproof.vocabulary.events import Event

__all__ = ["Listener", "Listeners"]

Listener = Callable[[Event], None] | Callable[[Event], Awaitable[None]]

_QUEUE_LENGTH = 1_000
_log = logging.getLogger("shockproof")


class Listeners:
    """The subscribers of one recovery service. `publish` never waits and never raises."""

    def __init__(self) -> None:
        self.active: tuple[_Subscription, ...] = ()
        """Empty when nobody listens: then no event is even built."""
        self.dropped = 0
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        # Also in a forked child: what waits belongs to the parent, and so do its thread and its locks.
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[Event], object], Event]] = deque()
        self._wake = threading.Condition(self._lock)
        self._busy = False
        self._thread: threading.Thread | None = None

    def __bool__(self) -> bool:
        return bool(self.active)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell *listener* of every event from now on; call what is returned to stop that."""
        if not callable(listener):
            raise TypeError(f"listener must be a callable that takes one event, got {listener!r}")
        subscription = _Subscription(listener)
        with self._lock:
            self.active = (*self.active, subscription)

        def unsubscribe() -> None:
            with self._lock:
                self.active = tuple(other for other in self.active if other is not subscription)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Queue *event* for everybody who listens."""
        for subscription in self.active:
            if subscription.is_async:
                self._start_task(subscription, event)
            else:
                self._queue(subscription.listener, event)

    def _queue(self, listener: Callable[[Event], object], event: Event) -> None:
        with self._lock:
            if len(self._waiting) >= _QUEUE_LENGTH:
                self.dropped += 1
                return
            self._waiting.append((listener, event))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="shockproof-listeners", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._busy = False
                if not self._waiting:
                    self._wake.notify_all()
                    if not self._wake.wait_for(lambda: bool(self._waiting), timeout=5.0):
                        self._thread = None  # idle: the next event starts a thread again
                        return
                listener, event = self._waiting.popleft()
                self._busy = True
            try:
                result = listener(event)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError("the listener returned a coroutine: make it an async def")
            except BaseException:  # noqa: BLE001 - also sys.exit: this thread is everybody's
                _log.exception("a listener failed; the call it was told about is not affected")

    def _start_task(self, subscription: _Subscription, event: Event) -> None:
        loop = asyncio._get_running_loop()  # None outside a loop, where get_running_loop would raise
        with self._lock:
            if len(subscription.waiting) >= _QUEUE_LENGTH:
                self.dropped += 1
                return
            subscription.waiting.append(event)
            if loop is None or (subscription.loop is not None and not subscription.loop.is_closed()):
                return  # the running task takes it, or the next one that is started on a loop
            subscription.loop = loop
        # Not under the lock: an eager task factory runs the task, and so the user's code, right here.
        subscription.task = loop.create_task(subscription.tell_all(self._lock))

    async def drain(self) -> None:
        """Wait until everything published so far was told, or until cancelled."""
        here = asyncio.get_running_loop()
        while self._waiting or self._busy or any(one.loop is here for one in self.active):  # noqa: ASYNC110 - a thread works it off, and this is no hot path
            await asyncio.sleep(0.001)


class _Subscription:
    __slots__ = ("is_async", "listener", "loop", "task", "waiting")

    def __init__(self, listener: Callable[[Event], Any]) -> None:  # Any: None or an awaitable
        self.listener = listener
        self.is_async = inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(
            getattr(listener, "__call__", None)  # noqa: B004 - the bound method is wanted, not the answer
        )
        self.waiting: deque[Event] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where a task is telling the listener; None when none is."""
        self.task: asyncio.Task[None] | None = None

    async def tell_all(self, lock: threading.Lock) -> None:
        try:
            while True:
                with lock:
                    if not self.waiting:
                        self.loop = None
                        return
                    event = self.waiting.popleft()
                try:
                    await self.listener(event)
                except Exception:  # noqa: BLE001 - a listener is foreign code; its failure is its own
                    _log.exception("a listener failed; the call it was told about is not affected")
        except BaseException:
            self.loop = None  # cancelled at the end of its loop: the next event starts another
            raise

"""
Who is told what happened, off the call's path.

Each plain listener has a thread of its own, so that a slow one holds neither the event loop nor the
others; each coroutine listener has a task, on the loop where it was first needed. Each has a bounded
queue and is told in order: one that cannot follow loses the newest events, and the loss is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from shockproof.memory.disk.writer import after_fork

if TYPE_CHECKING:
    from shockproof.vocabulary.events import Event

__all__ = ["Listener", "Listeners", "Subscription"]

Listener: TypeAlias = "Callable[[Event], None] | Callable[[Event], Awaitable[None]]"

_QUEUE_LENGTH = 1_000
_IDLE_SECONDS = 5.0
_log = logging.getLogger("shockproof")


class Subscription(Protocol):
    """One who listens: told where the event happens, so that it may neither wait nor raise."""

    dropped: int

    def tell(self, event: Event) -> None:
        """Take note of *event*."""
        ...

    def is_busy(self) -> bool:
        """Whether something it was told is still being worked on."""
        ...


class Listeners:
    """The subscribers of one recovery service. `publish` never waits and never raises."""

    def __init__(self) -> None:
        self.active: tuple[Subscription, ...] = ()
        """Empty when nobody listens: then no event is even built."""
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self.active)

    @property
    def dropped(self) -> int:
        """Events that those who listen now could not follow."""
        return sum(subscription.dropped for subscription in self.active)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell *listener* of every event from now on; what is returned stops that, also for those that wait."""
        if not callable(listener):
            raise TypeError(f"listener must be a callable that takes one event, got {listener!r}")
        called = listener if inspect.isfunction(listener) else getattr(listener, "__call__", listener)  # noqa: B004 - the bound method is wanted
        is_async = inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(called)
        subscription = _InTask(listener) if is_async else _InThread(listener)
        leave = self.add(subscription)

        def unsubscribe() -> None:
            leave()
            subscription.stop()

        return unsubscribe

    def add(self, subscription: Subscription) -> Callable[[], None]:
        """Tell *subscription* of every event from now on, right where it happens; see `subscribe`."""
        # Whoever publishes one imports it there and then, on a loop: it has to be here by that time. As long as nobody
        # listens nobody needs them, and making so many classes takes longer than importing all policies.
        import_module("shockproof.vocabulary.events")

        with self._lock:
            self.active = (*self.active, subscription)

        def unsubscribe() -> None:
            with self._lock:
                self.active = tuple(other for other in self.active if other is not subscription)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Queue *event* for everybody who listens."""
        for subscription in self.active:
            subscription.tell(event)

    async def drain(self) -> None:
        """Wait until everything published so far was told, or until cancelled."""
        while any(subscription.is_busy() for subscription in self.active):  # noqa: ASYNC110 - threads work it off, and this is no hot path
            await asyncio.sleep(0.001)


class _StoodStill:
    """
    The loops with virtual time that wait for a thread.

    They would jump over the time that a listener takes, and a test would never know whether it was told yet.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[asyncio.AbstractEventLoop, AbstractContextManager[object]] = {}

    def hold(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the time of *loop*, which runs here, stand still, if it is virtual."""
        hold_time: Callable[[], AbstractContextManager[object]] | None = getattr(loop, "hold_time", None)
        if hold_time is not None and loop not in self._held:
            self._held[loop] = hold = hold_time()
            hold.__enter__()

    def release(self) -> None:
        """From any thread: time goes on."""
        while self._held:
            loop, hold = self._held.popitem()
            with contextlib.suppress(RuntimeError):  # it was closed
                loop.call_soon_threadsafe(hold.__exit__, None, None, None)


class _InThread:
    """A plain listener: its queue, and the thread that works it off and ends when it is idle."""

    def __init__(self, listener: Callable[[Event], object]) -> None:
        self._listener = listener
        self._is_stopped = False
        self.dropped = 0
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        # Also in a forked child: what waits belongs to the parent, and so do its thread and its locks.
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: deque[Event] = deque()
        self._is_telling = False
        self._stood_still = _StoodStill()
        self._thread: threading.Thread | None = None

    def tell(self, event: Event) -> None:
        loop = asyncio._get_running_loop()  # None outside a loop, where get_running_loop would raise
        with self._lock:
            if self._is_stopped:  # it has left while this event was handed out
                return
            if len(self._waiting) >= _QUEUE_LENGTH:
                self.dropped += 1
                return
            self._waiting.append(event)
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="shockproof-listener", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads: the next event tries again
                    return
                self._thread = thread
            else:
                self._wake.notify()
            if loop is not None:
                self._stood_still.hold(loop)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            self._waiting.clear()
            self._stood_still.release()

    def is_busy(self) -> bool:
        return self._is_telling or bool(self._waiting)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._is_telling = False
                if not self._waiting:
                    self._stood_still.release()
                if not self._waiting and not self._wake.wait_for(lambda: bool(self._waiting), _IDLE_SECONDS):
                    self._thread = None
                    return
                event = self._waiting.popleft()
                self._is_telling = True
            try:
                result = self._listener(event)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError("the listener returned a coroutine: make it an async def")
            except BaseException:  # noqa: BLE001 - also sys.exit: it is no business of the program's
                _log.exception("a listener failed; the call it was told about is not affected")


class _InTask:
    """A coroutine listener: its queue, and the task that works it off and ends when it is empty."""

    def __init__(self, listener: Callable[[Event], Any]) -> None:  # Any: an awaitable
        self._listener = listener
        self._is_stopped = False
        self.dropped = 0
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def tell(self, event: Event) -> None:
        loop = asyncio._get_running_loop()  # None outside a loop, where get_running_loop would raise
        with self._lock:
            if self._is_stopped:  # it has left while this event was handed out
                return
            if len(self._waiting) >= _QUEUE_LENGTH:
                self.dropped += 1
                return
            self._waiting.append(event)
            if loop is None or (self._loop is not None and not self._loop.is_closed()):
                return  # the running task takes it, or the next one that is started on a loop
            self._loop = loop
        # Not under the lock: an eager task factory runs the task, and so the user's code, right here.
        task = loop.create_task(self._work())
        self._task = task
        task.add_done_callback(self._ended)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            self._waiting.clear()

    def is_busy(self) -> bool:
        return self._loop is asyncio.get_running_loop()

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Also when it was cancelled before its first step, as shutdown code does, or its listener exits.
        if task.cancelled() or task.exception() is not None:
            self._loop = None

    async def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._loop = None
                    return
                event = self._waiting.popleft()
            try:
                await self._listener(event)
            except Exception:  # noqa: BLE001 - a listener is foreign code; its failure is its own
                _log.exception("a listener failed; the call it was told about is not affected")

"""
Plain functions, run in threads of our own so that they cannot hold the event loop.

Not asyncio's default executor: it is shared with DNS look-ups and joined at exit, so one hung
broker call would hold both. These threads are daemons, and a busy thread *is* the permit: a call
that was cancelled keeps its place until its thread really ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Final

from shockproof.calls.limits import Held
from shockproof.calls.orders_inside import begin_thread_for
from shockproof.memory.disk.writer import after_fork
from shockproof.memory.services.service_state import ServiceState
from shockproof.vocabulary.errors import BulkheadFullError, CallRejectedError

__all__ = [
    "MAY_BE_MARKED",
    "NotStartedError",
    "WorkerThreads",
    "mark_never_began",
    "never_began",
    "take_never_began",
]

_IDLE_SECONDS = 10.0


_NEVER_BEGAN = "_shockproof_never_began"
MAY_BE_MARKED: Final = (asyncio.CancelledError, CallRejectedError)
"""What ends an attempt that had no thread yet."""


def mark_never_began(end: BaseException) -> None:
    """Nothing of the attempt that *end* ended ever ran."""
    setattr(end, _NEVER_BEGAN, True)


def never_began(end: BaseException) -> bool:
    """Whether *end* came before anything of the attempt ran: it was still waiting for a thread, or refused one."""
    try:
        return getattr(end, _NEVER_BEGAN, False) is True
    except Exception:  # noqa: BLE001  the user's error, whose attributes may be anything
        return False


def take_never_began(end: BaseException) -> bool:
    """The same, and the mark is gone: a call around this one, whose function did run, must not take it for its own."""
    if not isinstance(end, MAY_BE_MARKED):
        return False
    marked = never_began(end)
    if marked:
        delattr(end, _NEVER_BEGAN)
    return marked


class NotStartedError(Exception):
    """The function refused its arguments, and nothing of it ran."""

    def __init__(self, error: TypeError) -> None:
        super().__init__()
        self._error: TypeError | None = error

    def take(self) -> TypeError:
        """The function's own error; once, so that the two do not keep each other alive."""
        error, self._error = self._error, None
        assert error is not None
        return error


class WorkerThreads:
    """At most *limit* threads for one service; calls beyond that wait their turn, first in first out."""

    def __init__(self, state: ServiceState, limit: int) -> None:
        self.limit = limit
        self._state = state
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        # Also in a forked child: the threads and the calls that wait for them are the parent's.
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: deque[_Job] = deque()
        self._idle = 0
        self._threads = 0

    async def run(
        self,
        fn: Callable[..., Any],  # Any: the function's own arguments and result
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        held: Held | None = None,
        *,
        refusal: Callable[[], Exception | None] = lambda: None,
    ) -> Any:
        """
        What *fn* returns, or raises; what *refusal* gives when there is a thread for it, is raised in its place.

        Cancelled while it waits, it leaves the queue; cancelled while it runs, its thread is left
        behind, counted in ``abandoned_threads``; it keeps what is *held* until it ends, and its result
        is thrown away.

        Raises:
            NotStartedError: the arguments do not fit the function.
            BulkheadFullError: the system has no thread left for it.
        """
        loop = asyncio.get_running_loop()
        job = _Job(fn, args, kwargs, loop, refusal)
        with self._lock:
            self._waiting.append(job)
            if self._idle >= len(self._waiting):
                self._wake.notify()
            elif self._threads < self.limit:
                self._start_thread(job)
        hold_time = getattr(loop, "hold_time", nullcontext)  # a loop with virtual time waits for threads
        try:
            with hold_time():
                await job.done
        except asyncio.CancelledError as cancelled:
            with self._lock:
                if job in self._waiting:
                    self._waiting.remove(job)
                    mark_never_began(cancelled)
                elif not job.ended:
                    job.abandoned, job.held = True, held
                    if held is not None:
                        held.keep()
                    self._state.abandon_thread()
            raise
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # the traceback holds this frame: no cycle
        return job.result

    def _start_thread(self, job: _Job) -> None:
        self._threads += 1
        thread = threading.Thread(target=self._work, name=f"shockproof-{self._state.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more: whoever has a thread will take the job
            self._threads -= 1
            if not self._threads:
                self._waiting.remove(job)
                refusal = BulkheadFullError(self._state.name, "threads", None, str(error))
                mark_never_began(refusal)
                raise refusal from error

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._idle += 1
                    woken = self._wake.wait_for(lambda: bool(self._waiting), timeout=_IDLE_SECONDS)
                    self._idle -= 1
                    if not woken:
                        self._threads -= 1
                        return
                job = self._waiting.popleft()
            job.run()
            with self._lock:
                job.ended = True
                abandoned = job.abandoned
            if abandoned:
                self._state.thread_came_back()
                if job.held is not None:
                    job.held.really_ended()
                if inspect.iscoroutine(job.result):
                    job.result.close()  # nobody is left to await it
            else:
                job.deliver()
            del job  # an idle thread keeps no result alive


def _ran(error: TypeError) -> bool:
    trace = error.__traceback__
    return trace is not None and trace.tb_next is not None


class _Job:
    __slots__ = (
        "abandoned",
        "args",
        "context",
        "done",
        "ended",
        "error",
        "fn",
        "held",
        "kwargs",
        "loop",
        "refusal",
        "result",
    )

    def __init__(
        self,
        fn: Callable[..., Any],  # Any: the user's function
        args: tuple[Any, ...],  # Any: its arguments
        kwargs: Mapping[str, Any],  # Any: its arguments
        loop: asyncio.AbstractEventLoop,
        refusal: Callable[[], Exception | None],
    ) -> None:
        self.refusal = refusal
        self.fn, self.args, self.kwargs, self.loop = fn, args, kwargs, loop
        self.context = contextvars.copy_context()
        self.done: asyncio.Future[None] = loop.create_future()
        begin_thread_for(self.done, self.context)
        self.result: Any = None  # Any: what the function returned
        self.error: BaseException | None = None
        self.ended = False
        self.abandoned = False
        self.held: Held | None = None

    def run(self) -> None:
        self.error = self.refusal()
        if self.error is not None:
            mark_never_began(self.error)
            return
        try:
            self.result = self.context.run(self.fn, *self.args, **self.kwargs)
        except TypeError as error:
            # With no frame below this one nothing of the function ran: the arguments do not fit.
            self.error = error if _ran(error) else NotStartedError(error)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's task
            self.error = error

    def deliver(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._finish)
        except RuntimeError:
            pass  # the loop has ended, and the caller with it

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

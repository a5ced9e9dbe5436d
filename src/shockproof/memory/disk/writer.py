"""
The background writer: the only place from which shockproof touches a disk while a program runs.

Two daemon threads, started at the first need and ended again after some idle seconds: one runs a
private event loop, on which everything around files is an ordinary coroutine, and one is the
executor that aiofiles gets, and blocks in the system's calls. They belong to no user's loop, so that
a service works without a loop, over several `asyncio.run` calls and from several threads; and they
are not a `ThreadPoolExecutor`, whose threads the interpreter joins at exit however long the disk hangs.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

__all__ = ["DiskThread", "Writer", "after_fork", "at_exit", "is_exiting", "wait_on_this_loop", "writer_for"]

T = TypeVar("T")
P = ParamSpec("P")

_IDLE: Final = 5.0
"""Seconds without work after which a thread ends; the next job starts another."""

EXIT_TIMEOUT: Final = 5.0
"""Seconds that all writers of a process together may take when the program ends."""
_LAST_WORDS: Final = 1.0


class DiskThread(Executor):
    """
    An executor of one daemon thread: jobs run one after the other, in the order of their submission.

    `submit` never waits for a job, may be called from any thread, and starts the thread when there
    is none. A job that hangs holds back the jobs behind it, and nothing else.
    """

    def __init__(self, name: str, *, idle_after: float = _IDLE) -> None:
        self._name = name
        self._idle_after = idle_after
        self._forget_threads()
        after_fork(self._forget_threads)

    def _forget_threads(self) -> None:
        # SimpleQueue, because its put is re-entrant: a signal handler or a finalizer may submit.
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._starting = threading.RLock()
        self._alive = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """
        Run ``fn`` in the disk's thread; the future tells its result or its error.

        Raises:
            RuntimeError: the system refuses another thread.
        """
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  whatever it is belongs to the one who waits
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        if not self._alive:
            try:
                self.start()
            except BaseException:
                future.cancel()  # or the next one's thread would run it, of which nobody knows any more
                raise
        return future

    def start(self) -> None:
        """Start the thread now, if there is none. Raises RuntimeError as `submit` does."""
        with self._starting:
            if self._alive:
                return
            self._alive = True
            try:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            except BaseException as error:
                self._alive = False
                if not (isinstance(error, RuntimeError) and is_exiting()):
                    raise
                self._work_here()

    def _work_here(self) -> None:
        # Some interpreters start no thread any more once exit handlers run (3.12.0 and 3.12.1).
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()()

    def _work(self) -> None:
        jobs = self._jobs
        while True:
            try:
                job = jobs.get(timeout=self._idle_after)
            except queue.Empty:
                # Say so first and look again: a job put before that is seen here, one put after
                # that starts another thread.
                self._alive = False
                with self._starting:
                    if self._alive or jobs.empty():
                        return
                    self._alive = True
                continue
            job()
            del job  # or the last job's arguments would live until the next one


class Writer:
    """
    A private event loop in a daemon thread, and the executor that its coroutines give to aiofiles.

    `submit` and `run` are for blocking functions; `call_soon` and `start_task` for what lives on
    the private loop. Nothing starts before one of them is called. Any thread and any loop may.
    """

    def __init__(self, directory: Path, *, idle_after: float = _IDLE) -> None:
        self.directory = directory
        """What it writes to, for names and messages only."""
        self.disk = DiskThread(f"shockproof-disk {directory}", idle_after=idle_after)
        """The executor for blocking calls."""
        self._idle_after = idle_after
        self._forget_threads()
        after_fork(self._forget_threads)

    def __repr__(self) -> str:
        state = "asleep" if self._loop is None else f"running {len(self._tasks)} tasks"
        return f"<Writer {str(self.directory)!r} {state}>"

    @property
    def is_running_here(self) -> bool:
        """Whether the private loop is the one that runs in this thread."""
        return self._loop is not None and asyncio._get_running_loop() is self._loop

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """
        Run a blocking function in the disk's thread, after what was submitted before.

        Returns at once; raises RuntimeError if the system refuses another thread.
        """
        return self.disk.submit(fn, *args, **kwargs)

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run a blocking function in the disk's thread and wait for its result, on any loop.

        Cancelled before its turn it does not run; cancelled later it runs to its end unobserved.
        Its errors pass unchanged.
        """
        return await wait_on_this_loop(self.disk.submit(fn, *args, **kwargs))

    def call_soon(self, callback: Callable[[], object]) -> None:
        """
        Call ``callback`` on the private loop, soon and in order; returns at once.

        Raises:
            RuntimeError: the system refuses another thread; the callback is kept and called as
                soon as a later call gets one.
        """
        self._calls.append(callback)
        if not self._awake:
            self._wake()

    def start_task(self, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a coroutine on the private loop; to be called there. It keeps the thread alive."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _forget_threads(self) -> None:
        # In a forked child the threads are gone. Their loop must not be closed there: it shares the
        # parent's epoll object. So it is kept, unused, and with it what its finalizer would close.
        loop = getattr(self, "_loop", None)
        if loop is not None:
            _left_to_the_parent.append((loop, self._tasks))
        self._calls: deque[Callable[[], object]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Re-entrant: a signal handler or a finalizer may come here while this thread holds it.
        self._lifecycle = threading.RLock()
        self._awake = False
        self._used_at = 0.0

    def _wake(self) -> None:
        self._awake = True
        try:
            with self._lifecycle:
                if self._loop is not None:
                    self._loop.call_soon_threadsafe(self._run_calls)
                    return
                loop = self._loop = _private_loop()
                loop.call_soon(self._run_calls)
                thread = threading.Thread(
                    target=self._work, args=(loop,), name=f"shockproof-writer {self.directory}", daemon=True
                )
                try:
                    thread.start()
                except BaseException:
                    self._loop = None
                    loop.close()
                    raise
        except BaseException as error:
            self._awake = False
            if not (isinstance(error, RuntimeError) and is_exiting()):  # then wait_blocking does it
                raise

    def wait_blocking(self, future: Future[T], timeout: float) -> T:
        """
        Wait in a thread without a loop for what the private loop will answer.

        At exit, if there can be no thread any more, the private loop's work is done here.

        Raises:
            concurrent.futures.TimeoutError: it took longer than ``timeout`` seconds.
        """
        if is_exiting() and self._loop is None and not future.done():
            loop = self._loop = _private_loop()
            loop.call_soon(self._run_calls)
            try:
                with contextlib.suppress(TimeoutError):
                    loop.run_until_complete(asyncio.wait_for(asyncio.wrap_future(future, loop=loop), timeout))
            finally:
                self._loop = None
                loop.close()
            timeout = 0.0
        return future.result(timeout)

    def _run_calls(self) -> None:
        self._awake = False  # first: what is added from here on wakes the loop again
        calls = self._calls
        while calls:
            try:
                calls.popleft()()
            except Exception as error:  # noqa: BLE001  one bad callback must not take the others along
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "shockproof's background writer failed", "exception": error}
                )
        self._used_at = time.monotonic()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with contextlib.suppress(RuntimeError):  # not here and now, then: it is tried again
                self.disk.start()
            loop.call_later(self._idle_after, self._stop_if_idle, loop)
            loop.run_forever()
        finally:
            with self._lifecycle:
                self._loop = None
            self._awake = False  # from here on a call starts another thread
            if self._calls:  # one that came while this thread made up its mind
                with contextlib.suppress(RuntimeError):
                    self._wake()
            loop.close()

    def _stop_if_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        idle = time.monotonic() - self._used_at
        if self._tasks or self._calls or idle < self._idle_after:
            loop.call_later(max(self._idle_after - idle, 0.01), self._stop_if_idle, loop)
        else:
            loop.stop()


def _private_loop() -> asyncio.AbstractEventLoop:
    # Never by the policy of the user, who may have installed another kind of loop; and never in debug
    # mode, which would tell the user about our own bursts.
    loop = asyncio.SelectorEventLoop()
    loop.set_debug(False)
    return loop


async def wait_on_this_loop(future: Future[T]) -> T:
    """
    Wait for a thread's future on the running loop.

    A loop with virtual time, which would otherwise jump ahead because nothing is ready on it, is
    asked to stand still for as long (``loop.hold_time()``, a context manager).
    """
    loop = asyncio.get_running_loop()
    hold: Callable[[], AbstractContextManager[object]] = getattr(loop, "hold_time", contextlib.nullcontext)
    with hold():
        return await asyncio.wrap_future(future, loop=loop)


_writers: weakref.WeakValueDictionary[str, Writer] = weakref.WeakValueDictionary()
_writers_lock = threading.Lock()


def writer_for(directory: Path | str) -> Writer:
    """The one writer of this process for a directory; made when there is none, started later."""
    path = Path(os.path.abspath(directory))  # resolve() would ask the disk
    with _writers_lock:
        writer = _writers.get(str(path))
        if writer is None:
            writer = _writers[str(path)] = Writer(path)
        return writer


# Forks

_left_to_the_parent: list[object] = []
_fork_listeners: list[weakref.WeakMethod[Callable[[], None]]] = []


def after_fork(forget: Callable[[], None]) -> None:
    """Call a bound method in every forked child, for as long as its object lives."""
    if len(_fork_listeners) % 256 == 255:
        _fork_listeners[:] = [known for known in _fork_listeners if known() is not None]
    _fork_listeners.append(weakref.WeakMethod(forget))


imports = threading.RLock()
"""
Held by our threads around an import: a fork waits for it.

A child that is forked while another thread imports a module can never import that module: the module's
lock is held for ever by a thread that the child does not have.
"""

_FORK_PATIENCE: Final = 1.0
_fork_holds_imports = False


def _before_a_fork() -> None:
    global _fork_holds_imports
    # Not for ever: the importing thread may in turn wait for a module that the forking one is importing.
    _fork_holds_imports = imports.acquire(timeout=_FORK_PATIENCE)


def _in_the_parent() -> None:
    if _fork_holds_imports:
        imports.release()


def _in_the_child() -> None:
    global _writers_lock, imports
    imports = threading.RLock()
    _writers_lock = threading.Lock()  # another thread may have held it when the process forked
    for known in list(_fork_listeners):
        forget = known()
        if forget is not None:
            forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_a_fork, after_in_parent=_in_the_parent, after_in_child=_in_the_child)


# The end of the program

_drains: list[weakref.WeakMethod[Callable[[float], str | None]]] = []
_registered_in: int | None = None
_exiting_in: int | None = None


def at_exit(drain: Callable[[float], str | None]) -> None:
    """
    Call a bound method when the program ends in an orderly way, for as long as its object lives.

    It is called in a thread of its own, beside the others, with the seconds that are left, and answers
    None or one line about what it had to leave behind, which goes to stderr. Orderly is: the last statement, an uncaught exception,
    ``sys.exit``, Ctrl-C. Not orderly are ``os._exit``, SIGKILL, and any signal that nobody handles:
    by default that is true of SIGTERM, so a program that gets one should handle it.
    """
    global _registered_in
    _drains[:] = [known for known in _drains if known() is not None]
    known = weakref.WeakMethod(drain)
    if known not in _drains:
        _drains.append(known)
    if _registered_in == os.getpid():
        return
    _registered_in = os.getpid()
    # threading joins its non-daemon threads before atexit, so what they record is still saved, and
    # our daemon threads live until after it.
    atexit.unregister(_drain_all)
    atexit.register(_drain_all)
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import parent_process, util

        if parent_process() is not None:
            # A forked worker of multiprocessing ends by os._exit: only these finalizers are run.
            util.Finalize(None, _drain_all, exitpriority=0)


def is_exiting() -> bool:
    """Whether the drains were called already: what is recorded now has to be saved at once."""
    return _exiting_in == os.getpid()


def _drain_all() -> None:
    global _exiting_in
    _exiting_in = os.getpid()
    until = time.monotonic() + EXIT_TIMEOUT
    drains = [drain for known in list(_drains) if (drain := known()) is not None]
    # Side by side: a disk that hangs uses up its own time, and not that of the others.
    answers = [Future[str | None]() for _ in drains]
    for drain, answer in zip(drains, answers, strict=True):
        _in_a_thread(_drain, drain, answer, until)
    for answer in answers:
        try:
            # It ends by itself when the time is up; the rest is for what it then has to say.
            error = answer.exception(max(0.0, until - time.monotonic()) + _LAST_WORDS)
        except TimeoutError:
            left_behind: str | None = f"saving at exit did not end within {EXIT_TIMEOUT:g} s"
        else:
            left_behind = (
                answer.result()
                if error is None
                else f"saving at exit failed: {type(error).__name__}: {error}"
            )
        if left_behind is not None and sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"shockproof: {left_behind}\n")


def _in_a_thread(function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    thread = threading.Thread(target=function, args=args, kwargs=kwargs, name="shockproof-exit", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # see _work_here
        function(*args, **kwargs)


def _drain(drain: Callable[[float], str | None], answer: Future[str | None], until: float) -> None:
    try:
        answer.set_result(drain(max(0.0, until - time.monotonic())))
    except BaseException as error:  # noqa: BLE001  whatever it is, it is told
        answer.set_exception(error)

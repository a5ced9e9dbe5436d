"""
A disk that takes its time: the part of the fault plan that hits the trader's own machine.

The library's writer does everything with a file in one thread per directory; here that thread
sleeps before each job, as it would in a system call to a busy disk. Whatever is written behind it
waits, and the event loop does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import ParamSpec, TypeVar

from shockproof.demo.loop_lag import LoopLag
from shockproof.demo.venue.fault_plan import FaultWindow
from shockproof.memory.disk.writer import DiskThread, Writer, writer_for

__all__ = ["SlowDisk"]

P = ParamSpec("P")
T = TypeVar("T")


class _SlowThread(DiskThread):
    delay = 0.0
    jobs_delayed = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        def slowly() -> T:
            if self.delay > 0:
                self.jobs_delayed += 1
                time.sleep(self.delay)
            return fn(*args, **kwargs)

        return super().submit(slowly)


class SlowDisk:
    """
    Takes the place of the disk under some directories.

    To be made before the service that writes there: it is the one writer of each directory that is
    given the slow thread. Not slow until told so.
    """

    def __init__(self, *directories: Path) -> None:
        self._threads: list[_SlowThread] = []
        self._writers: list[Writer] = []  # known to the library only for as long as somebody holds them
        self.worst_lag = 0.0
        """How late the event loop was at most while the disk was slow, in seconds."""
        for directory in directories:
            writer, thread = writer_for(directory), _SlowThread(f"shockproof-disk {directory}")
            writer.disk = thread
            self._writers.append(writer)
            self._threads.append(thread)

    def set_delay(self, seconds: float) -> None:
        """Seconds that every access takes longer from now on; 0 for a good disk."""
        for thread in self._threads:
            thread.delay = seconds

    @property
    def delayed(self) -> int:
        """How many accesses were made to wait."""
        return sum(thread.jobs_delayed for thread in self._threads)

    async def follow(
        self,
        windows: Iterable[FaultWindow],
        *,
        begun: float,
        delay: float,
        lag: LoopLag,
        tell: Callable[[str], None],
    ) -> None:
        """
        Be slow in these *windows* of a session that began at *begun* (wall time), by *delay* seconds.

        What *lag* measures meanwhile is kept in `worst_lag`; *tell* is told it in words.
        """
        for window in windows:
            await asyncio.sleep(max(0.0, begun + window.start - time.time()))
            left = begun + window.end - time.time()
            if left <= 0:
                continue  # it passed while nobody was alive
            self.set_delay(delay)
            lag.on_lag = self._measured
            try:
                await asyncio.sleep(left)
            finally:
                self.set_delay(0)
                lag.on_lag = None
            tell(
                f"the disk is well again; meanwhile the loop was at most {1000 * self.worst_lag:.0f} ms late"
            )

    def _measured(self, lag: float) -> None:
        self.worst_lag = max(self.worst_lag, lag)

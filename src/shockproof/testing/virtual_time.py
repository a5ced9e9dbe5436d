"""
Virtual time: an event loop that never waits for a timer, and the clock it carries along.

When nothing is ready to run, the loop jumps to its next timer at once, so that an hour of outage
passes in milliseconds, in the same order every time. Sockets and threads stay real: while one of
shockproof's threads works on something, or tells a listener, time stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import uuid
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

__all__ = ["VirtualClock", "VirtualTimeLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_EPOCH: Final = 1_767_225_600.0  # 2026-01-01 00:00 UTC: far from today, so that a mix-up shows
_PATIENCE: Final = 5.0
"""Real seconds a working thread may hold virtual time; a hung one must not stop the test for ever."""


class VirtualClock:
    """
    A clock for ``ErrorRecoveryService(clock=...)`` that moves only when told to.

    Use it together with a `VirtualTimeLoop`, which moves it by itself: ``clock.run(main())``. Without
    such a loop, move it with `advance`.

    Args:
        wall: what `time` reads at the start, in seconds since 1970 UTC. Default: 2026-01-01.
    """

    def __init__(self, wall: float = _EPOCH) -> None:
        self._elapsed = 0.0
        self._wall = wall
        self.boot: str | None = f"virtual-{uuid.uuid4()}"
        """
        Which start of the machine it counts from; another clock is another start. Set it, and the machine was started
        again: what the journal knows of the time before has to be proven anew.
        """

    def monotonic(self) -> float:
        """Virtual seconds since the start, plus 1000, so that no test gets by with 0 meaning never."""
        return 1000.0 + self._elapsed

    def time(self) -> float:
        """The wall time that belongs to `monotonic`."""
        return self._wall + self._elapsed

    async def sleep(self, seconds: float) -> None:
        """``asyncio.sleep``: on a `VirtualTimeLoop` it takes no real time."""
        await asyncio.sleep(seconds)

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass (at least 0)."""
        if not seconds >= 0:
            raise ValueError(f"seconds must be at least 0: time does not run backwards, got {seconds!r}")
        self._elapsed += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does; `monotonic` stays."""
        self._wall += seconds

    def run(self, main: Coroutine[Any, Any, T]) -> T:  # Any: what coroutines send and yield
        """Run *main* to its end on a fresh `VirtualTimeLoop` with this clock."""
        with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(self)) as runner:
            return runner.run(main)

    @property
    def anyio_backend(self) -> tuple[str, dict[str, Callable[[], asyncio.AbstractEventLoop]]]:
        """The backend for anyio's pytest plugin: what a fixture ``anyio_backend(clock)`` returns."""
        return "asyncio", {"loop_factory": lambda: VirtualTimeLoop(self)}

    def __repr__(self) -> str:
        return f"<VirtualClock {self._elapsed:g} s after its start>"


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on a `VirtualClock`: ``asyncio.Runner(loop_factory=VirtualTimeLoop)``."""

    def __init__(self, clock: VirtualClock | None = None) -> None:
        self.clock = VirtualClock() if clock is None else clock
        self._held = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """The clock's monotonic time."""
        return self.clock.monotonic()

    @contextlib.contextmanager
    def hold_time(self) -> Generator[None]:
        """Time stands still for this block: something outside the loop is at work."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @property
    def is_held(self) -> bool:
        """Whether something outside the loop is at work."""
        return self._held > 0

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As ever, but time stands still until the job is done."""
        future = super().run_in_executor(executor, func, *args)
        self._held += 1
        future.add_done_callback(lambda _: self._release())
        return future

    async def shutdown_default_executor(self, *limit: float | None) -> None:
        """As ever, but time stands still until its threads have ended: asyncio waits for them up to a *limit* since Python 3.12."""
        with self.hold_time():
            await super().shutdown_default_executor(*limit)

    def _release(self) -> None:
        self._held -= 1


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)  # None: nothing is due ever, so only the outside can wake us
        ready = super().select(_PATIENCE if self._loop.is_held else 0)
        if not ready:
            self._loop.clock.advance(timeout)
        return ready

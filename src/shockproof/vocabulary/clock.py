"""
Where time comes from.

Decisions (open circuits, deadlines, intervals) use the monotonic reading; what people read uses wall
time. Time limits are timers of the event loop; a clock and the loop it is used on must agree.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["Clock", "SystemClock", "as_clock", "goes_by_real_time", "other_times"]


_ORDINARY_TIME: Final = asyncio.BaseEventLoop.time
_AS_OF_THIS_TURN: Final = frozenset({"uvloop.loop", "winloop.loop"})
"""Modules whose loops go by the real time, and tell that of the beginning of their turn, in whole milliseconds."""
_running_loop = asyncio._get_running_loop  # None outside a loop, where get_running_loop would raise


class _OtherTimes:
    """Whether this process has seen an event loop that does not go by ``time.monotonic``."""

    __slots__ = ("exist",)

    def __init__(self) -> None:
        self.exist = False


other_times: Final = _OtherTimes()
"""Asking the loop costs several times what ``time.monotonic`` does; as long as none has another time, nobody need."""


def goes_by_real_time(loop: asyncio.AbstractEventLoop) -> bool:
    """
    Whether *loop* has no other time than ``time.monotonic``, which then tells it, and exactly.

    What uvloop tells is late by as much as its turn takes already: by that, what came later may seem to have come first.
    """
    # A test may have given other times to the class, or to this very loop.
    tells = getattr(type(loop), "time", None)
    if tells is _ORDINARY_TIME:  # nearly always
        return "time" not in loop.__dict__
    return getattr(tells, "__module__", None) in _AS_OF_THIS_TURN and "time" not in getattr(
        loop, "__dict__", ()
    )


class Clock(Protocol):
    """Two readings and a wait, in seconds. Hand one in as ``clock=`` to test an hour in a millisecond."""

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        ...

    def time(self) -> float:
        """Seconds since 1970-01-01 UTC, as a wall clock shows them."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; ends at once when cancelled."""
        ...


class SystemClock:
    """
    The real time.

    Inside a running event loop the monotonic reading is the loop's own, so that a loop with
    virtual time carries circuits and deadlines along; for an ordinary loop it is
    ``time.monotonic`` anyway.
    """

    def monotonic(self) -> float:
        """The running loop's time, or ``time.monotonic()`` outside a loop."""
        loop = _running_loop()
        if loop is None or goes_by_real_time(loop):
            return time.monotonic()
        other_times.exist = True
        return loop.time()

    def time(self) -> float:
        """``time.time()``."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """``asyncio.sleep(seconds)``."""
        await asyncio.sleep(seconds)

    def __repr__(self) -> str:
        return "SystemClock()"


class _CallableClock(SystemClock):
    """A bare function of monotonic seconds, such as a test hands in, completed by the real rest."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic

    def monotonic(self) -> float:
        return self._monotonic()

    def __repr__(self) -> str:
        return f"clock of {self._monotonic!r}"


def as_clock(clock: Clock | Callable[[], float] | None) -> Clock:
    """
    *clock* as a `Clock`: None is the real time, a function is taken for its monotonic reading.

    Raises:
        TypeError: it is neither.
    """
    if clock is None:
        return SystemClock()
    if isinstance(clock, type):
        raise TypeError(f"clock must be an object, got the class {clock!r}: write {clock.__name__}()")
    if all(callable(getattr(clock, name, None)) for name in ("monotonic", "time", "sleep")):
        return clock  # type: ignore[return-value]  # just checked
    if callable(clock):
        return _CallableClock(clock)
    raise TypeError(f"clock must have monotonic(), time() and sleep(), or be a function, got {clock!r}")

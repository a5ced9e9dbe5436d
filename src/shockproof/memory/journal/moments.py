"""
Where the journal's moments come from.
"""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path
from typing import Final

from shockproof.memory.disk.boot import this_boot
from shockproof.vocabulary.clock import Clock, SystemClock
from shockproof.vocabulary.moment import Moment

__all__ = ["moment_of", "running_seconds"]

_CLOCKS: Final = Path("/proc/self/ns/time")
"""Containers may see a clock that is set otherwise than the machine's."""
# It goes on while the machine sleeps, and so do those to whom something was sent.
_RUNNING: Final = getattr(time, "CLOCK_BOOTTIME", None)


def moment_of(clock: Clock) -> Moment:
    """
    What *clock* reads now.

    Of the real time it is Linux's boot id and the seconds since; other systems have no name for a start. A clock of
    the user's own may have an attribute ``boot``.
    """
    if type(clock) is not SystemClock:
        return Moment(clock.time(), clock.monotonic(), getattr(clock, "boot", None))
    if _RUNNING is None:
        return Moment(time.time(), time.monotonic(), None)
    return Moment(time.time(), time.clock_gettime(_RUNNING), _boot())


def running_seconds(clock: Clock) -> float:
    """The seconds of `moment_of` that nobody sets, where they are all that is asked for."""
    if type(clock) is not SystemClock:
        return clock.monotonic()
    return time.monotonic() if _RUNNING is None else time.clock_gettime(_RUNNING)


@functools.cache
def _boot() -> str | None:
    boot = this_boot()
    if boot is None:
        return None
    with contextlib.suppress(OSError):  # a kernel without namespaces of time
        boot += f" {_CLOCKS.readlink()}"
    return boot

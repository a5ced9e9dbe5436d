"""
Watches event loops: how late they come to what is due, which line held them, and whether that is too much.

On each loop a small task wakes every `tick` seconds and sees how late that is. While it is overdue,
the process's watching thread looks where the loop's thread is. What is told of a stall that is over
is told by that thread, as long as the loop runs: it has lost time enough.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import CodeType
from typing import Any, Final, NamedTuple

from shockproof.calls.loop_lag import BOUNDS
from shockproof.calls.sightings import Sightings
from shockproof.calls.stall_watcher import WATCHER, Frames, StallWatcher
from shockproof.calls.timer import clock_of
from shockproof.memory.disk.writer import after_fork
from shockproof.memory.services.durations import Durations, Histogram
from shockproof.memory.services.listeners import Listeners
from shockproof.policies.loop_health import LoopHealth
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.events import LoopStalled
from shockproof.vocabulary.outcomes import Outcome

__all__ = ["LoopMonitor"]

_log = logging.getLogger("shockproof")

_LOOKS: Final = 2
"""Looks in the time of the shortest stall that is told: from half of it on there is something to see."""
_REMEMBERED: Final = 0.02
"""Seconds of lateness from which on it is kept when that was: shorter ones are everyday life."""
_KEPT: Final = 256
_RECENT: Final = 10


class _Over(NamedTuple):
    """A stall that has ended and was not told yet."""

    beat: int
    duration: float
    at: float


class LoopMonitor:
    """
    The monitor of one recovery service, for all loops on which `ensure` was called.

    Args:
        clock: of the service; lateness is measured by the time of each loop.
        listeners: who is told of stalls.
        on_loop_end: called when a loop that was watched has ended.
        tick: seconds between two beats.
        stall_after: seconds of lateness that are told as a stall.
        health: the verdict.
        watcher: who looks; None: nobody does, and no line is named.
    """

    def __init__(
        self,
        clock: Clock,
        listeners: Listeners,
        on_loop_end: Callable[[], None],
        *,
        tick: float,
        stall_after: float,
        health: LoopHealth,
        watcher: StallWatcher | None = WATCHER,
    ) -> None:
        self.clock = clock
        self.listeners = listeners
        self.on_loop_end = on_loop_end
        self.tick = tick
        self.stall_after = stall_after
        self.health = health
        self.watcher = watcher
        self.bounds = BOUNDS
        self._told: tuple[Callable[[float], None], ...] = ()
        self._begin()
        after_fork(self._after_fork)

    def _begin(self) -> None:
        self._pulses: dict[asyncio.AbstractEventLoop, _Pulse] = {}
        self._late = Durations(BOUNDS)
        self._worst = 0.0
        self.stalls = 0
        self._recent: deque[LoopStalled] = deque(maxlen=_RECENT)

    def _after_fork(self) -> None:
        self._begin()  # the parent's loops are not run here, and what it has counted is the parent's
        self.on_loop_end()

    def ensure(self) -> None:
        """Watch the running loop from now on, if it is not watched already."""
        loop = asyncio.get_running_loop()
        known = self._pulses.get(loop)
        if known is not None and known.is_beating:
            return
        pulse = self._pulses[loop] = _Pulse(self, loop)
        pulse.task = loop.create_task(pulse.beat(), name="shockproof watch over the loop")
        if self.watcher is not None:
            self.watcher.add(pulse)

    def pause(self) -> None:
        """Watch nothing until the next `ensure`."""
        for pulse in list(self._pulses.values()):
            pulse.stop()

    def subscribe(self, told: Callable[[float], None]) -> Callable[[], None]:
        """Tell *told*, on the loop, each lateness in seconds; it must not raise. What is returned stops that."""
        self._told = (*self._told, told)

        def stop() -> None:
            self._told = tuple(other for other in self._told if other is not told)

        return stop

    # -- told by the pulses ------------------------------------------------------------------------

    def came(self, late: float) -> None:
        """A beat came *late* seconds after its time."""
        self._late.add(Outcome.SUCCESS, late)
        self._worst = max(self._worst, late)
        self.health.came_late(self.clock.monotonic(), late)
        for told in self._told:
            told(late)

    def ended(self, pulse: _Pulse) -> None:
        """A loop is watched no more."""
        if self._pulses.get(pulse.loop) is pulse:
            del self._pulses[pulse.loop]
        if self.watcher is not None:
            self.watcher.remove(pulse)
        self.on_loop_end()

    def stall_is_over(self, loop: asyncio.AbstractEventLoop, stall: LoopStalled) -> None:
        """Count it and tell it; called by the watching thread."""
        self._recent.append(stall)
        place = "" if stall.where is None else f" at {stall.where}"
        _log.warning("the event loop stood still for %.3g s%s (%s)", stall.duration, place, stall.cause)
        if self.listeners:
            try:
                # There, because that is where a coroutine listener gets its task.
                loop.call_soon_threadsafe(self.listeners.publish, stall)
            except RuntimeError:  # it has been closed meanwhile
                self.listeners.publish(stall)

    # -- asked -------------------------------------------------------------------------------------

    def stood_still(self, seconds: float) -> float:
        """For how long of the last *seconds* the running loop stood still; 0.0 where none is watched."""
        loop = asyncio._get_running_loop()  # None outside a loop, where get_running_loop would raise
        pulse = None if loop is None else self._pulses.get(loop)
        return 0.0 if pulse is None else pulse.stood_still(seconds)

    def histogram(self) -> Histogram:
        """How late the beats were, of all loops together."""
        nothing = Histogram((0,) * (len(BOUNDS) + 1), 0.0)
        return self._late.histograms().get(Outcome.SUCCESS, nothing)

    def stalled_for(self) -> float | None:
        """Seconds by which the next beat of the loop that is worst off is late now; None where none runs."""
        late = [pulse.overdue() for pulse in list(self._pulses.values()) if pulse.loop.is_running()]
        return max(late, default=None)

    @property
    def is_degraded(self) -> bool:
        """Whether a loop is, or lately was, too late."""
        return self.health.is_degraded(self.clock.monotonic(), self.stalled_for() or 0.0)

    def report(self) -> dict[str, Any]:  # Any: text and numbers
        """The entry ``loop`` of the health: plain and ready for JSON."""
        histogram = self.histogram()
        bounds = [*(f"{bound:g}" for bound in BOUNDS), "inf"]
        return {
            "state": "degraded" if self.is_degraded else "ok",
            "loops": len(self._pulses),
            "stalled_for": round(self.stalled_for() or 0.0, 3),
            "stalls": self.stalls,
            "recent_stalls": [_as_dict(stall) for stall in list(self._recent)],
            "lag": {
                "count": histogram.up_to[-1],
                "sum": round(histogram.total, 6),
                "max": round(self._worst, 6),
                "up_to": dict(zip(bounds, histogram.up_to, strict=True)),
            },
        }


def _as_dict(stall: LoopStalled) -> dict[str, Any]:  # Any: text and numbers
    return {
        "at": datetime.fromtimestamp(stall.at, UTC).isoformat(),
        "duration": round(stall.duration, 3),
        "cause": stall.cause,
        "where": stall.where,
        "task": stall.task,
        "stack": list(stall.stack),
    }


class _Pulse:
    """One loop that is watched: its beats, and what is seen while one is overdue."""

    def __init__(self, monitor: LoopMonitor, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.look_every = monitor.stall_after / _LOOKS
        self.task: asyncio.Task[None] | None = None
        self._monitor = monitor
        self._clock = clock_of(loop)
        self._thread = threading.get_ident()
        self._ceiling: CodeType | None = None
        self._due = math.inf
        self._beats = 0
        self._was_stopped = False
        self._lates: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        """When something came late, and by how much: the newest ones."""
        self._over: deque[_Over] = deque(maxlen=_KEPT)
        self._sightings: tuple[int, Sightings, str | None] | None = None

    @property
    def is_beating(self) -> bool:
        """Whether its task is there."""
        return self.task is not None and not self.task.done() and not self.loop.is_closed()

    async def beat(self) -> None:
        """Beat until cancelled, as at the end of the loop."""
        tick = self._monitor.tick
        try:
            while True:
                self._due = self._clock() + tick
                await asyncio.sleep(tick)
                if self._ceiling is None:
                    self._ceiling = sys._getframe(1).f_code  # what runs this runs everything on this loop
                self._came(max(0.0, self._clock() - self._due))
        finally:
            if self.overdue() >= self._monitor.stall_after:
                self._came(self.overdue())  # the loop ends with a stall
            self._due = math.inf
            self._monitor.ended(self)
            self._tell()

    def _came(self, late: float) -> None:
        monitor, beat = self._monitor, self._beats
        self._beats += 1
        self._thread = threading.get_ident()
        if self._was_stopped:  # nobody ran the loop meanwhile, which is no stall
            self._was_stopped = False
            return
        monitor.came(late)
        if late >= _REMEMBERED:
            self._lates.append((self._clock(), late))
        if late >= monitor.stall_after:
            monitor.stalls += 1
            self._over.append(_Over(beat, late, monitor.clock.time()))

    def stop(self) -> None:
        """Beat no more; may be called from anywhere."""
        if not self.is_beating or self.task is None:
            return
        if self.loop is asyncio._get_running_loop():
            self.task.cancel()
        else:
            with suppress(RuntimeError):  # that loop has just ended, and the task with it
                self.loop.call_soon_threadsafe(self.task.cancel)

    def overdue(self) -> float:
        """Seconds by which the next beat is late now."""
        return max(0.0, self._clock() - self._due)

    def stood_still(self, seconds: float) -> float:
        """For how long of the last *seconds* it stood still; asked on the loop itself."""
        now = self._clock()
        since, overdue = now - seconds, self.overdue()
        total = min(seconds, overdue) if overdue >= _REMEMBERED else 0.0
        for end, late in reversed(self._lates):
            if end <= since:
                break
            total += end - max(since, end - late)
        return min(total, seconds)

    def look(self, frames: Frames, late: float) -> None:
        """Called by the watching thread."""
        if self.loop.is_closed():
            self._monitor.ended(self)
            return
        if not self.loop.is_running():
            self._was_stopped = True
            return
        self._tell()  # of the stall before, while what was seen of it is there: stalls come in rows
        beat = self._beats
        if self.overdue() >= self._monitor.stall_after / 2 and not self._was_stopped:
            known = self._sightings
            if known is None or known[0] != beat:
                known = (beat, Sightings(self._ceiling), _name_of_task(self.loop))
            known[1].look(self._thread, frames(), late)
            if beat == self._beats:  # else it went on while this thread looked
                self._sightings = known
        self._tell()

    def _tell(self) -> None:
        while True:
            try:
                over = self._over.popleft()
            except IndexError:
                return
            self._tell_of(over)

    def _tell_of(self, over: _Over) -> None:
        known = self._sightings
        sightings, task = Sightings(None), None
        if known is not None and known[0] == over.beat:
            _, sightings, task = known
        finding = sightings.finding(over.duration)
        self._monitor.stall_is_over(
            self.loop,
            LoopStalled(
                service_name="",
                at=over.at,
                duration=over.duration,
                where=finding.where,
                stack=finding.stack,
                task=task,
                cause=finding.cause,
            ),
        )


def _name_of_task(loop: asyncio.AbstractEventLoop) -> str | None:
    task = asyncio.current_task(loop)
    return None if task is None else task.get_name()

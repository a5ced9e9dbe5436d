"""
The last quarter of an hour of one recovery service, for pictures: circuits, how long calls took, how late the loop was.

It is bounded, and costs those nothing who do not ask for it: each success is counted a second time while it records, and no
third time, however many pages are made of it.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakKeyDictionary, ref

from shockproof.vocabulary.events import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitModeChanged,
    CircuitOpened,
    CircuitWouldOpen,
    Event,
    Halted,
    LoopStalled,
    OwnershipLost,
    OwnershipTaken,
    RateLimitPaused,
    Resumed,
    StreamGap,
    StreamLost,
)
from shockproof.vocabulary.outcomes import Outcome

if TYPE_CHECKING:
    from shockproof.service import ErrorRecoveryService

__all__ = ["BOUNDS", "STEP", "STEPS", "WINDOW", "Happening", "StatusHistory", "Step", "Stretch", "quantile"]

STEP: Final = 5.0
"""Seconds in which all calls, and the lateness of the loop, are counted together."""
STEPS: Final = 180
WINDOW: Final = STEP * STEPS
"""Seconds that are remembered."""

BOUNDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds: a bucket of calls ends at each, and one more holds what took longer."""

_WIDTH: Final = len(BOUNDS) + 2
"""The buckets, and behind them how many of the calls failed."""
_MINUTE: Final = 60.0
_MINUTES: Final = int(WINDOW / _MINUTE)
_MOST_CHANGES: Final = 64
"""Changes of one circuit that are remembered: one that flaps keeps its newest."""
_MOST_HAPPENINGS: Final = 100


class Stretch(NamedTuple):
    """How a circuit was for a while; None: nobody looked."""

    state: str | None
    seconds: float


class Happening(NamedTuple):
    """One thing that changed, in words."""

    at: float
    """Wall time, seconds since 1970 UTC."""
    service_name: str
    """"" for what concerns all of them."""
    what: str
    detail: str


class Step(NamedTuple):
    """All calls that ended in one step, and how late the loop was then."""

    counts: Sequence[int]
    """One for each bucket, and behind them the failed ones."""
    worst_lag: float | None
    """Seconds; None: the loop was not watched."""


class _Change(NamedTuple):
    at: float
    """Monotonic."""
    state: str
    until: float = math.inf
    """When an open one lets probes in by itself."""


class StatusHistory:
    """
    Records from its making until `close`; read and written from any thread, nobody waits. `of` has one for each service, however
    many pages are made of it: each that recorded by itself would count every success once more.

    On CPython with its interpreter lock each count is atomic, as in `ServiceState`.
    """

    dropped = 0

    def __init__(self, recovery: ErrorRecoveryService) -> None:
        self._clock, self._registry = recovery._clock, recovery._registry
        self._holders = 1
        now = self._clock.monotonic()
        self._began = self._step_began = self._minute_began = now
        self._lock = threading.Lock()
        self._step = [0] * _WIDTH
        self.step_number = 0
        """Of the step that is under way: 0 is the first one that was recorded."""
        self._lag: float | None = None
        self._steps: deque[Step] = deque(maxlen=STEPS - 1)
        self._minute: dict[str, list[int]] = {}
        self._minutes: deque[dict[str, list[int]]] = deque(maxlen=_MINUTES - 1)
        self._changes: dict[str, deque[_Change]] = {}
        self.happenings: deque[Happening] = deque(maxlen=_MOST_HAPPENINGS)
        """What changed, oldest first."""
        _, stop_watching = recovery._watch_loop(self._beat)
        self._undo: list[Callable[[], None]] = [
            recovery._listeners.add(self),
            recovery._registry.time_calls(self._call_ended),
            stop_watching,
        ]

    @classmethod
    def of(cls, recovery: ErrorRecoveryService) -> StatusHistory:
        """The one that records *recovery* already, or a new one; each that is given out is closed once."""
        with _giving_out:
            known = _recording.get(recovery)
            history = None if known is None else known()
            if history is None or not history._holders:
                history = cls(recovery)
                _recording[recovery] = ref(history)
            else:
                history._holders += 1
            return history

    def close(self) -> None:
        """Record no more, when the last one who holds it says so."""
        with _giving_out:
            self._holders = max(0, self._holders - 1)
            if self._holders:
                return
        while self._undo:
            self._undo.pop()()

    # -- told where it happens -------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Take note of *event*; a subscription's."""
        told = _in_words(event)
        if told is None:
            return
        self.happenings.append(Happening(event.at, event.service_name, *told))
        state = _state_after(event)
        if state is None:
            return
        now = self._clock.monotonic()
        until = now + event.retry_after if isinstance(event, CircuitOpened) else math.inf
        changes = self._changes.get(event.service_name)
        if changes is None:
            changes = self._changes.setdefault(event.service_name, deque(maxlen=_MOST_CHANGES))
        changes.append(_Change(now, state, until))

    def is_busy(self) -> bool:
        """Never: it works nothing off."""
        return False

    def _call_ended(self, service_name: str, outcome: Outcome, seconds: float) -> None:
        counts, step = self._minute.get(service_name), self._step
        if counts is None:
            counts = self._minute.setdefault(service_name, [0] * _WIDTH)
        bucket = bisect_left(BOUNDS, seconds)
        counts[bucket] += 1
        step[bucket] += 1
        if outcome is not Outcome.SUCCESS:
            counts[-1] += 1
            step[-1] += 1

    def _beat(self, late: float) -> None:
        with self._lock:
            self._turn(self._clock.monotonic(), late)
            self._lag = late if self._lag is None else max(self._lag, late)

    def _turn(self, now: float, late: float = 0.0) -> None:
        """Begin new steps and minutes where it is time; the lock is held."""
        passed = int((now - self._step_began) / STEP)
        if passed > 0:
            # A loop that stood still for several steps was late in each of them.
            stood_still = late if late >= STEP else None
            for number in range(min(passed, STEPS)):
                self._steps.append(Step(self._step, self._lag if number == 0 else stood_still))
                self._step = [0] * _WIDTH
            self._step_began += passed * STEP
            self.step_number += passed
            self._lag = None
        passed = int((now - self._minute_began) / _MINUTE)
        if passed > 0:
            for _ in range(min(passed, _MINUTES)):
                self._minutes.append(self._minute)
                self._minute = {}
            self._minute_began += passed * _MINUTE
            for name in [name for name in list(self._changes) if self._registry.get(name) is None]:
                self._changes.pop(name, None)  # retired

    # -- read ------------------------------------------------------------------------------------------

    def recorded_for(self, now: float) -> float:
        """Seconds of the window that are recorded."""
        return min(WINDOW, max(0.0, now - self._began))

    def steps(self, now: float) -> list[Step]:
        """At most `STEPS` of them, oldest first; the last one is under way."""
        with self._lock:
            self._turn(now)
            return [*self._steps, Step(list(self._step), self._lag)]

    def under_way(self, now: float) -> float:
        """Seconds since the last step began."""
        return min(STEP, max(0.0, now - self._step_began))

    def minutes(self, service_name: str, now: float) -> list[Sequence[int]]:
        """The same of one service, a minute each; its last one is under way."""
        with self._lock:
            self._turn(now)
            nothing = (0,) * _WIDTH
            return [minute.get(service_name, nothing) for minute in (*self._minutes, self._minute)]

    def per_second(self, minutes: Sequence[Sequence[int]], now: float) -> float:
        """How many calls a second there were in the last minute, by what `minutes` gave."""
        gone = min(1.0, max(0.0, (now - self._minute_began) / _MINUTE))
        calls = float(sum(minutes[-1][:-1]))
        if len(minutes) > 1:
            return (calls + sum(minutes[-2][:-1]) * (1.0 - gone)) / _MINUTE
        return calls / max(1.0, now - self._began)

    def circuit(self, service_name: str, state: str, now: float) -> list[Stretch]:
        """How a circuit whose state is *state* was in the window, oldest first: `WINDOW` seconds together."""
        begin = now - WINDOW
        changes = list(self._changes.get(service_name, ()))
        is_whole = len(changes) < _MOST_CHANGES
        marks: list[tuple[float, str | None]] = [(-math.inf, None)]
        if is_whole:  # what nobody heard of did not change
            marks.append((self._began, _before(changes[0].state) if changes else state))
        for change in changes:
            marks.append((change.at, change.state))
            if change.state == "open" and change.until < now:
                marks.append((change.until, "half-open"))
        marks = sorted(marks, key=lambda mark: mark[0])
        if marks[-1][1] != state:  # restored, paused for longer, or changed without a word
            marks[-1] = (marks[-1][0], state)
        stretches: list[Stretch] = []
        for (at, shown), (end, _) in zip(marks, [*marks[1:], (now, None)], strict=True):
            length = min(end, now) - max(at, begin)
            if length <= 0:
                continue
            if stretches and stretches[-1].state == shown:
                length += stretches.pop().seconds
            stretches.append(Stretch(shown, length))
        return stretches


_giving_out = threading.Lock()
# Weak on both sides: who holds a history is its page, and a history holds its service.
_recording: WeakKeyDictionary[ErrorRecoveryService, ref[StatusHistory]] = WeakKeyDictionary()


def quantile(counts: Sequence[int], share: float) -> float | None:
    """
    Seconds that *share* of the calls took at most, by their buckets; None where there were none.

    Within a bucket durations are taken to be spread evenly, as Prometheus' ``histogram_quantile`` does; what is
    longer than the last bound is given as that bound.
    """
    up_to = list(accumulate(counts[: len(BOUNDS) + 1]))
    if not up_to[-1]:
        return None
    wanted = share * up_to[-1]
    bucket = next(place for place, count in enumerate(up_to) if count >= wanted)
    if bucket == len(BOUNDS):
        return BOUNDS[-1]
    low = BOUNDS[bucket - 1] if bucket else 0.0
    before = up_to[bucket - 1] if bucket else 0
    return low + (BOUNDS[bucket] - low) * (wanted - before) / max(1, up_to[bucket] - before)


_BY_HAND: Final = {
    "forced-open": "forced-open",
    "disabled": "disabled",
    "shadow": "shadow",
    "normal": "closed",
}


def _state_after(event: Event) -> str | None:
    if isinstance(event, CircuitOpened):
        return "open"
    if isinstance(event, CircuitHalfOpened):
        return "half-open"
    if isinstance(event, CircuitClosed):
        return "closed"
    return _BY_HAND[event.mode] if isinstance(event, CircuitModeChanged) else None


def _before(state: str) -> str:
    """What a circuit was before its first change that was recorded."""
    return {"half-open": "open", "closed": "half-open"}.get(state, "closed")


def _in_words(event: Event) -> tuple[str, str] | None:
    """What happened, and more about it; None for what happens with every call."""
    if isinstance(event, CircuitOpened):
        return "circuit opened", event.last_error or ""
    if isinstance(event, CircuitHalfOpened):
        return "circuit half-open", "a probe is on its way"
    if isinstance(event, CircuitClosed):
        return "circuit closed", ""
    if isinstance(event, CircuitWouldOpen):
        return "circuit would open", event.last_error or ""
    if isinstance(event, CircuitModeChanged):
        return f"circuit {'back to its rules' if event.mode == 'normal' else event.mode}", event.reason or ""
    if isinstance(event, Halted):
        return "halted", event.reason
    if isinstance(event, Resumed):
        return "resumed", ""
    if isinstance(event, OwnershipTaken):
        return f"owns {event.owns} from now on", ""
    if isinstance(event, OwnershipLost):
        return f"owns {event.owns} no longer", event.reason
    if isinstance(event, LoopStalled):
        return "loop stood still", f"for {event.duration:.2g} s: {event.where or event.cause}"
    if isinstance(event, RateLimitPaused):
        return "paused", f"the other side asked for {event.seconds:.1f} s"
    if isinstance(event, StreamLost):
        return "feed lost", f"{event.function_name}: {event.error_type}: {event.error_message}"
    if isinstance(event, StreamGap):
        return "feed back", f"{event.function_name}: a gap of {event.duration:.1f} s"
    return None

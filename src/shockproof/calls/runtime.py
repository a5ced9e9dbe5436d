"""
What all calls of one recovery service share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from shockproof.calls.threads import WorkerThreads
from shockproof.memory.listeners import Listeners
from shockproof.memory.recorder import Recording
from shockproof.memory.registry import Registry
from shockproof.memory.service_state import ServiceState
from shockproof.policies.backoff import Randomness
from shockproof.vocabulary.clock import Clock, SystemClock

__all__ = ["Runtime"]


@dataclass(slots=True, kw_only=True, weakref_slot=True)
class Runtime:
    """Clock, randomness, registry and recorder, and the defaults a handle falls back to."""

    clock: Clock
    rng: Randomness
    registry: Registry
    recorder: Recording
    listeners: Listeners
    defaults: dict[str, Any]  # Any: each option has a type of its own
    max_threads: int
    on_first_call: Callable[[], None]
    """Called on a loop before the first call of each handle there."""
    plans: WeakSet[Any] = field(default_factory=WeakSet)  # Any: Plan, which imports this module
    _threads: dict[str, WorkerThreads] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def stopwatch(self) -> Callable[[], float]:
        """The cheapest clock that durations can be taken with."""
        return time.monotonic if type(self.clock) is SystemClock else self.clock.monotonic

    def threads(self, state: ServiceState) -> WorkerThreads:
        """The worker threads of one service, made at first need."""
        with self._lock:
            pool = self._threads.get(state.name)
            if pool is None:
                pool = self._threads[state.name] = WorkerThreads(state, self.max_threads)
            return pool

"""
What tests of programs that use shockproof need: virtual time, faults, recorded events, cancellation, storms.

The fixtures for pytest are in `shockproof.testing.pytest_plugin`.
"""

from shockproof.testing.blocking_files import BlockingFileCall, no_blocking_files
from shockproof.testing.cancellation import (
    CancelledRun,
    CancelMoment,
    cancel_at_await,
    cancel_at_each_await,
)
from shockproof.testing.fault_injector import FaultInjector, InjectedFaults
from shockproof.testing.faults import Answers, Delays, Fails, FaultyCall, Hangs
from shockproof.testing.recorded_events import RecordedEvents, record_events
from shockproof.testing.storm import Storm, StormResult, StormSecond, compare_storms
from shockproof.testing.virtual_time import VirtualClock, VirtualTimeLoop

__all__ = [
    "Answers",
    "BlockingFileCall",
    "CancelMoment",
    "CancelledRun",
    "Delays",
    "Fails",
    "FaultInjector",
    "FaultyCall",
    "Hangs",
    "InjectedFaults",
    "RecordedEvents",
    "Storm",
    "StormResult",
    "StormSecond",
    "VirtualClock",
    "VirtualTimeLoop",
    "cancel_at_await",
    "cancel_at_each_await",
    "compare_storms",
    "no_blocking_files",
    "record_events",
]

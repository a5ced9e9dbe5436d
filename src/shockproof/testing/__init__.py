"""
What tests of programs that use shockproof need: time that passes when you say so, and cancellation everywhere.
"""

from shockproof.testing.cancellation import (
    CancelledRun,
    CancelMoment,
    cancel_at_await,
    cancel_at_each_await,
)
from shockproof.testing.virtual_time import VirtualClock, VirtualTimeLoop

__all__ = [
    "CancelMoment",
    "CancelledRun",
    "VirtualClock",
    "VirtualTimeLoop",
    "cancel_at_await",
    "cancel_at_each_await",
]

"""
What listeners are told: one frozen record per thing that happened.

An event is built only when somebody listens. `at` is wall time, seconds since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shockproof.vocabulary.outcomes import Outcome
from shockproof.vocabulary.statuses import CircuitMode

__all__ = [
    "AttemptFailed",
    "CallFailed",
    "CallHedged",
    "CallOverdue",
    "CallRejected",
    "CircuitClosed",
    "CircuitHalfOpened",
    "CircuitModeChanged",
    "CircuitOpened",
    "CircuitWouldOpen",
    "Event",
    "FallbackAnswered",
    "Halted",
    "LoopStalled",
    "OwnershipLost",
    "OwnershipTaken",
    "RateLimitPaused",
    "Resumed",
    "RetryScheduled",
    "StallCause",
    "StreamGap",
    "StreamLost",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have."""

    service_name: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """One attempt failed; `outcome` is FAILURE or UNKNOWN."""

    function_name: str
    attempt: int
    error_type: str
    error_message: str
    outcome: Outcome
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """Another attempt follows in `delay` seconds."""

    function_name: str
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailed(Event):
    """
    No other attempt follows; `reason` says why in words.

    `outcome` is FAILURE, or UNKNOWN: nobody knows what the call did. Of an order sent with `Handle.once` it is told when
    it was looked up: not at all if it was found.
    """

    function_name: str
    attempts: int
    error_type: str
    reason: str
    outcome: Outcome = Outcome.FAILURE


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHedged(Event):
    """Attempt no. `attempt` took long, or failed, and is made a second time beside itself."""

    function_name: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRejected(Event):
    """A policy refused the call; the function did not run."""

    policy: str
    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOverdue(Event):
    """A call has been in flight for `age` seconds, and counts as a failure before it ends."""

    function_name: str
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitOpened(Event):
    """The circuit refuses calls from now on, for `retry_after` seconds."""

    last_error: str | None
    retry_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitHalfOpened(Event):
    """The first probe is on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitClosed(Event):
    """Calls pass again: the probes succeeded, or somebody reset the circuit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitWouldOpen(Event):
    """The circuit only watches: by its rules it would refuse calls from now on, for `retry_after` seconds."""

    last_error: str | None
    retry_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitModeChanged(Event):
    """Somebody forced the circuit open, switched it off, made it watch only, or let it work again."""

    mode: CircuitMode
    previous: CircuitMode
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackAnswered(Event):
    """A fallback answered in place of the service."""

    function_name: str
    error_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Halted(Event):
    """Nothing is sent any more but reads and what reduces risk; of all services, so `service_name` is ``""``."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """Everything is sent again; of all services, so `service_name` is ``""``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipTaken(Event):
    """From now on this process alone may write for what ``owns=`` names; of all services, so `service_name` is ``""``."""

    owns: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipLost(Event):
    """
    From now on this process may not write any more for what ``owns=`` names; of all services, so `service_name` is ``""``.

    `reason`: why in words, such as that it was given back by `aclose`.
    """

    owns: str
    reason: str


StallCause = Literal["blocked", "interpreter lock", "not the loop", "unseen"]
"""
``blocked``: a line on the loop's thread waited, or computed. ``interpreter lock``: the same, and no other thread could run
meanwhile: most likely the line called C code that does not let go of the lock. ``not the loop``: the loop had nothing to
run: the process was stopped or had no processor, or another thread held the lock. ``unseen``: nobody could look in time.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStalled(Event):
    """
    An event loop stood still and goes on again; of all services, so `service_name` is ``""``. `at` is the end.

    Told where the service has a ``loop_monitor``.
    """

    duration: float
    """Seconds."""
    where: str | None
    """
    ``file:line in function``: the innermost line outside of the standard library at which the thread was seen most often.

    None where the cause is ``not the loop`` or ``unseen``.
    """
    stack: tuple[str, ...]
    """The lines that led there, outermost first, at most 30."""
    task: str | None
    """The name of the task that ran; None for a callback."""
    cause: StallCause


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitPaused(Event):
    """The other side asked to be left alone: nothing is sent for `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLost(Event):
    """A feed that was there is gone: its connection failed, ended, or fell silent. It is opened again."""

    function_name: str
    items: int
    """Items that this connection gave."""
    duration: float
    """Seconds it lasted."""
    error_type: str
    error_message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamGap(Event):
    """
    A feed is there again, and what it sent meanwhile is lost; `at` is the end of the gap.

    Also in the consumer's hands, as `Stream.gap`, together with the first item after it.
    """

    function_name: str
    number: int
    """1 for the first gap of the stream."""
    began_at: float
    """When the last item before it came; wall time, seconds since 1970 UTC."""
    duration: float
    """Seconds from the last item before it to the feed being there again."""
    attempts: int
    """How often it was opened until it was there again, at least 1."""
    error_type: str
    """What ended the connection before it."""
    error_message: str

"""
What became of an attempt. One classification per handle decides for all its policies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, get_args

from shockproof.vocabulary.arguments import one_of, seconds
from shockproof.vocabulary.clock import Clock, SystemClock

__all__ = ["Attempt", "CallEffect", "CallInfo", "Effect", "Outcome", "Verdict"]

Effect = Literal["none", "unknown", "done"]
"""Whether the other side did something: surely not, nobody knows, or surely."""

CallEffect = Literal["read", "idempotent", "unsafe"]
"""What a call does: it only reads, may be repeated without harm, or must never be repeated blindly."""

_REAL_TIME: Final[Clock] = SystemClock()
_EFFECTS: Final = get_args(Effect)


class Outcome(Enum):
    """The four things that can become of an attempt."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"
    """Counts nowhere and gives back what was taken: the caller's cancellation, our own refusals."""
    UNKNOWN = "unknown"
    """It may or may not have happened at the other side: never repeated blindly."""


_OUTCOMES: Final = tuple(outcome.value for outcome in Outcome)


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What a ``classify`` function says about an error or a result; None leaves it to the rules.

    Raises:
        TypeError, ValueError: *outcome* is none, *retry_after* no seconds, or *effect* no effect.
    """

    outcome: Outcome
    """What became of it; its value will do, such as ``"neutral"``."""
    retry_after: float | None = None
    """Seconds the other side asked us to wait, or None. A timedelta becomes seconds."""
    effect: Effect | None = None
    """For a call with ``effect="unsafe"``: "none" proves that it may be repeated."""

    def __post_init__(self) -> None:
        if type(self.outcome) is not Outcome:
            object.__setattr__(self, "outcome", Outcome(one_of("outcome", self.outcome, _OUTCOMES)))
        if self.retry_after is not None:
            object.__setattr__(self, "retry_after", seconds("retry_after", self.retry_after))
        if self.effect is not None:
            one_of("effect", self.effect, _EFFECTS)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failed attempt in numbers and text: no exception objects, so nothing is kept alive."""

    number: int
    """1 for the first."""
    error_type: str
    error_message: str
    started_at: float
    """Wall time, seconds since 1970 UTC."""
    duration: float
    """Seconds the attempt ran."""
    delay: float | None
    """Seconds waited after it, or None when no attempt followed."""
    outcome: Outcome = Outcome.FAILURE
    """FAILURE, or UNKNOWN when it may have happened at the other side all the same."""
    is_hedge: bool = False
    """Whether it was sent while the attempt of the same number was in flight."""


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What a ``classify`` function is told about the call."""

    service_name: str
    function_name: str
    attempt: int
    """1 for the first."""
    effect: CallEffect
    clock: Clock = field(default=_REAL_TIME, compare=False, repr=False)
    """The service's: what a moment that the other side has named is counted from."""

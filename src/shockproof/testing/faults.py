"""
What a fault does to a call: it fails, takes longer, never returns, or is answered by something else.

Each happens before the function is called, so that nothing was sent; with ``sent=True`` after it, so
that everything was sent and its answer is lost. For an order that is the difference.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shockproof.vocabulary.arguments import NOT_GIVEN, NotGiven, Seconds, seconds
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.outcomes import CallEffect

__all__ = ["Answers", "Delays", "Fails", "FaultyCall", "Hangs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyCall:
    """The attempt that a fault is about to hit, for conditions and factories to look at."""

    service_name: str
    function_name: str
    """For a block: the function that holds it."""
    attempt: int
    """1 for the first attempt of a call."""
    effect: CallEffect
    args: tuple[Any, ...]  # Any: the call's arguments
    kwargs: Mapping[str, Any]  # Any: the call's arguments
    context: Mapping[str, Any]  # Any: the user's own values
    """What `ErrorRecoveryService.context` has put in force; empty when nothing is."""
    is_block: bool
    """Whether it is the body of ``guard()`` or ``attempts()``, which has no arguments and no result."""


ErrorFactory = Callable[[FaultyCall], Exception]


@dataclass(frozen=True, slots=True)
class Fails:
    """
    The attempt fails.

    Args:
        error: an exception type, an exception, or a function of the `FaultyCall` that gives one. A
            type is made with a text that says it was injected.
        sent: False: before the function is called; True: after it succeeded, so that what it did is
            done. When it fails by itself, its own error stays.

    Raises:
        TypeError: *error* is none of these, is no ``Exception``, or is a type that one text does not make.
    """

    error: type[Exception] | Exception | ErrorFactory
    sent: bool = False

    def __post_init__(self) -> None:
        error = self.error
        if isinstance(error, type):
            if not issubclass(error, Exception):
                raise TypeError(f"error must be an Exception type, got {error!r}; cancel the task instead")
            try:
                error("injected fault")
            except Exception as refused:  # noqa: BLE001 - a constructor may refuse in any way
                raise TypeError(
                    f"error={error.__name__} cannot be made from one text ({refused}): hand in an instance, "
                    f"or a function such as lambda call: {error.__name__}(...)"
                ) from None
        elif isinstance(error, BaseException):
            if not isinstance(error, Exception):
                raise TypeError(f"error must be an Exception, got {error!r}; cancel the task instead")
        elif not callable(error):
            raise TypeError(
                f"error must be an exception, its type, or a function (call) -> exception, got {error!r}"
            )

    def _made(self, call: FaultyCall) -> Exception:
        """The error for this attempt."""
        error = self.error
        if isinstance(error, Exception):
            return error
        if isinstance(error, type):
            injected: Exception = error(f"injected fault on service {call.service_name!r}")
            return injected
        made: object = error(call)  # whatever the user's function gives
        if not isinstance(made, Exception):
            raise TypeError(f"the function for Fails must return an Exception, got {made!r}")
        return made


@dataclass(frozen=True, slots=True)
class Delays:
    """
    The attempt takes longer.

    Args:
        seconds: a number of seconds, a pair ``(least, most)`` between which each is drawn evenly, or a
            function of a ``random.Random`` such as ``lambda rng: rng.expovariate(5)``.
        sent: False: before the function is called; True: after it, on the way back.

    Raises:
        TypeError, ValueError: *seconds* is none of these, or out of range.
    """

    seconds: Seconds | tuple[Seconds, Seconds] | Callable[[random.Random], float]
    sent: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.seconds, tuple):
            if len(self.seconds) != _PAIR:
                raise ValueError(f"seconds must be a pair (least, most), got {self.seconds!r}")
            least, most = (seconds("seconds", end) for end in self.seconds)
            if least > most:
                raise ValueError(f"seconds must be a pair (least, most) in this order, got {self.seconds!r}")
        elif not callable(self.seconds):
            seconds("seconds", self.seconds)

    def _drawn(self, rng: random.Random) -> float:
        """The seconds for one attempt."""
        if isinstance(self.seconds, tuple):
            least, most = (seconds("seconds", end) for end in self.seconds)
            return rng.uniform(least, most)
        if callable(self.seconds):
            return seconds("what the function for Delays returns", self.seconds(rng))
        return seconds("seconds", self.seconds)


_PAIR: Final = 2


@dataclass(frozen=True, slots=True)
class Hangs:
    """
    The attempt never returns, until it is cancelled.

    A call without ``timeout`` or ``deadline`` then hangs, too: that is what it shows.

    Args:
        sent: False: before the function is called; True: after it succeeded.
    """

    sent: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """
    The attempt returns something else. Not for blocks, which have no result.

    Args:
        value: what it returns.
        sent: False: the function is not called; True: it is, and its answer replaced.
        make: in place of *value*, a function of the `FaultyCall` that gives the answer.

    Raises:
        TypeError: both or none of *value* and *make* are given.
    """

    value: object = NOT_GIVEN
    sent: bool = False
    make: Callable[[FaultyCall], object] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.value, NotGiven) == (self.make is None):
            raise TypeError("Answers needs a value or make=..., and not both")

    def _made(self, call: FaultyCall) -> object:
        """The answer for this attempt."""
        return self.value if self.make is None else self.make(call)


Part = Fails | Delays | Hangs | Answers

FaultStep = Part | type[Exception] | Exception | tuple[Part, ...] | None
"""One fault, several one after the other, an error for ``Fails(error)``, or None: nothing is injected."""

Step = tuple[Part, ...] | None


def as_step(argument: str, value: object) -> Step:
    """
    *value* in the form in which it is played.

    Raises:
        TypeError: it is no fault.
        ValueError: a part of it can never happen.
    """
    if value is None:
        return None
    if isinstance(value, type) and issubclass(value, Part):
        raise TypeError(f"{argument} got the class {value.__name__}: write {value.__name__}(...)")
    if isinstance(value, BaseException | type):
        return (Fails(value),)  # type: ignore[arg-type]  # Fails refuses what is no Exception
    parts: list[Part] = []
    for part in value if isinstance(value, tuple) else (value,):
        if not isinstance(part, Part):
            raise TypeError(
                f"{argument} must be Fails, Delays, Hangs or Answers, a tuple of them, an exception, "
                f"or None for an attempt without a fault, got {part!r}"
            )
        parts.append(part)
    if not parts:
        raise ValueError(f"{argument} is an empty tuple: say None for an attempt without a fault")
    for earlier, later in itertools.pairwise(parts):
        if isinstance(earlier, Fails | Hangs) or (isinstance(earlier, Answers) and not earlier.sent):
            raise ValueError(f"{argument}: {later!r} can never happen after {earlier!r}")
        if earlier.sent and not later.sent:
            raise ValueError(
                f"{argument}: {later!r} comes before the call, and {earlier!r} after it: put it first"
            )
    return tuple(parts)


async def play(part: Fails | Delays | Hangs, call: FaultyCall, clock: Clock, rng: random.Random) -> None:
    """Do what *part* does; the caller's cancellation passes at once."""
    match part:
        case Delays():
            await clock.sleep(part._drawn(rng))
        case Hangs():
            await asyncio.get_running_loop().create_future()
        case Fails():
            error = part._made(call)
            if _NOTE not in getattr(error, "__notes__", ()):
                error.add_note(_NOTE)
            raise error


def answer_of(part: Answers, call: FaultyCall) -> object:
    """What *part* answers to this attempt."""
    return part._made(call)


_NOTE: Final = "injected by shockproof.testing"


def check_share(name: str, value: object) -> float:
    """
    *value* as a probability.

    Raises:
        TypeError, ValueError: it is no number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number from 0 to 1, got {value!r}")
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must be from 0 to 1, got {value!r}")
    return float(value)

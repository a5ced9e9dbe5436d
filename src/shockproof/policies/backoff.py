"""
How long to wait before an attempt is repeated.

Formulas: with n = 0 before the first retry, e(n) is what the shape says, at most `max_delay`:
``exponential`` base_delay * backoff_factor**n, ``linear`` base_delay * (n + 1), ``constant`` base_delay.
The cap comes first and the jitter second, so that delays at the cap still differ ("Exponential
Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Literal, Protocol, cast, get_args

from shockproof.vocabulary.arguments import Seconds, seconds, takes

__all__ = [
    "JITTERS",
    "Backoff",
    "BackoffFunction",
    "BackoffOption",
    "Jitter",
    "Randomness",
    "checked_randomness",
    "parse_backoff",
]

Jitter = Literal["none", "full", "equal", "decorrelated"]
JITTERS: Final[tuple[Jitter, ...]] = get_args(Jitter)

Shape = Literal["exponential", "linear", "constant"]
_SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)

BackoffFunction = Callable[[int, Exception | None], Seconds]
"""``(retry, error) -> seconds``: retry 1 is the first; error is None for a result that was judged a failure."""

BackoffOption = Shape | Sequence[Seconds] | BackoffFunction
"""How waits grow, as users may write it."""

_log = logging.getLogger("shockproof")


class Randomness(Protocol):
    """What jitter needs of a random source; ``random.Random(seed)`` is one."""

    def random(self) -> float:
        """A float in [0, 1)."""
        ...


def checked_randomness(rng: Randomness) -> Randomness:
    """
    *rng*, which can be drawn from.

    Raises:
        TypeError: it cannot.
    """
    if isinstance(rng, type) or not callable(getattr(rng, "random", None)):
        raise TypeError(f"rng must have random(), such as random.Random(7), got {rng!r}")
    return rng


def parse_backoff(name: str, value: object) -> Shape | tuple[float, ...] | BackoffFunction:
    """
    The name of a shape, a sequence of seconds as floats, or a function of the retry and the error.

    Raises:
        TypeError, ValueError: it is none of them, or a part of it is out of range.
    """
    allowed = (
        f"{', '.join(map(repr, _SHAPES))}, a sequence of seconds such as (0.1, 1.0, 5.0), "
        "or a function (retry, error) -> seconds"
    )
    if isinstance(value, str | bytes):
        for shape in _SHAPES:
            if value == shape:
                return shape
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    if isinstance(value, Sequence):
        if not value:
            raise ValueError(
                f"{name} is empty: say backoff=(0.0,) for no waits, or max_retries=0 for no retries"
            )
        return tuple(seconds(f"{name}[{n}]", wait) for n, wait in enumerate(value))
    if callable(value):
        if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
            raise TypeError(
                f"{name} must answer at once: it runs on the loop, so write `def`, not `async def`"
            )
        takes(name, value, "retry", "error")
        return cast("BackoffFunction", value)  # what it really gives is looked at each time
    raise TypeError(f"{name} must be {allowed}, got {value!r}")


class Backoff:
    """
    Seconds to wait before each retry. Stateless: one serves any number of calls and threads.

    Args:
        base_delay, max_delay, factor: seconds, seconds, and a number of at least 1.
        shape: how e(n) grows. Of a sequence the last is for all that follow. What a function says is
            capped as well; one that raises, or gives anything but seconds of at least 0, is logged, and
            the exponential wait is taken: its own failure never hides the call's. Infinity is the cap.
        jitter: with e(n) capped,

            * ``none``: e(n), exact.
            * ``full``: uniform in [0, e(n)].
            * ``equal``: uniform in [e(n)/2, e(n)].
            * ``decorrelated``: uniform in [base_delay, min(max_delay, 3 * previous delay)]; a shape of
              its own, so that it goes with none but the exponential one. The published form clips after
              drawing, which lets most delays pile up at the cap; this one does not.
        rng: where jitter comes from.

    Raises:
        ValueError: decorrelated jitter, which is drawn from the wait before, beside another shape.
    """

    __slots__ = ("_jitter", "_rng", "_shape", "base_delay", "factor", "max_delay")

    def __init__(
        self,
        *,
        base_delay: float,
        max_delay: float,
        factor: float,
        jitter: Jitter,
        rng: Randomness,
        shape: Shape | tuple[float, ...] | BackoffFunction = "exponential",
    ) -> None:
        if jitter == "decorrelated" and shape != "exponential":
            raise ValueError(
                f"backoff={shape!r} with jitter='decorrelated' would count for nothing: decorrelated waits are "
                "drawn from the wait before; say jitter='full' or 'equal', or leave backoff out"
            )
        self.base_delay = base_delay
        self.max_delay = max_delay
        self.factor = factor
        self._jitter: Jitter = jitter
        self._rng = rng
        self._shape = shape

    @property
    def is_exact(self) -> bool:
        """Whether the wait before a retry depends on its number alone."""
        return self._jitter == "none" and isinstance(self._shape, str | tuple)

    def delay(
        self, retry: int, previous: float, error: Exception | None = None, *, base_delay: float | None = None
    ) -> float:
        """
        Seconds before retry number *retry* (0 is the first).

        *previous* is the delay before, *error* what a function is told, and *base_delay* stands in for
        the usual one.
        """
        base = self.base_delay if base_delay is None else base_delay
        jitter = self._jitter
        if jitter == "decorrelated":
            low = min(base, self.max_delay)
            high = max(low, min(self.max_delay, 3 * previous)) if previous else low
            return low + (high - low) * self._rng.random()
        if self._shape == "exponential":
            uncapped = self._exponential(retry, base)
        else:
            uncapped = self._uncapped(retry, base, error)
        capped = uncapped if uncapped < self.max_delay else self.max_delay  # noqa: FURB136 - min() takes as long as all the rest
        if jitter == "none":
            return capped
        if jitter == "full":
            return capped * self._rng.random()
        return capped * (1 + self._rng.random()) / 2

    def _uncapped(self, retry: int, base: float, error: Exception | None) -> float:
        shape = self._shape
        if shape == "linear":
            return base * (retry + 1)
        if shape == "constant":
            return base
        if isinstance(shape, tuple):
            return shape[min(retry, len(shape) - 1)]
        assert not isinstance(shape, str)
        said = _what_it_says(shape, retry + 1, error)
        return self._exponential(retry, base) if said is None else said

    def _exponential(self, retry: int, base: float) -> float:
        try:
            return base * self.factor**retry
        except OverflowError:  # a float power past 1e308: long past any cap, unless nothing grows
            return math.inf if base else 0.0


def _what_it_says(function: BackoffFunction, retry: int, error: Exception | None) -> float | None:
    try:
        said: object = function(retry, error)
    except Exception:  # noqa: BLE001 - foreign code; its failure is its own
        _log.exception("backoff failed; the exponential wait is taken instead")
        return None
    if isinstance(said, timedelta):
        said = said.total_seconds()
    if isinstance(said, bool) or not isinstance(said, int | float) or not said >= 0:
        _log.error("backoff gave %r instead of seconds of at least 0; the exponential wait is taken", said)
        return None
    return said

"""
What may stand in for a call that failed: for which errors, and how old an answer of earlier may be.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from shockproof.policies.retry import RetryOn, leaves
from shockproof.vocabulary.arguments import Seconds, seconds, whole_number

__all__ = ["LastAnswers", "LastGood", "OnError", "Remembered", "Stale"]

T = TypeVar("T")

_log = logging.getLogger("shockproof")


def _check_plain(name: str, function: object) -> None:
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{name} is asked on the loop and answers at once: it must be a plain function, got {function!r}"
        )


class OnError:
    """
    An entry of a fallback chain that stands in for some errors only.

    ``fallback=[OnError(TimeoutError, cached_quote), OnError(OSError, second_source), 0.0]``. The chain is
    asked in its order; an entry whose errors do not fit is passed over, and when none fits, the call's own
    error is raised as if there were no fallback. Subclasses fit. A group fits when its own type does, or
    each of its leaves. A result that was judged a failure is no error, and fits nowhere.

    Args:
        errors: an exception type, a tuple of them, or a predicate, which runs on the loop. One that
            raises means no.
        answer: what a chain may hold: a function, a `LastGood`, or a value.

    Raises:
        TypeError: *errors* is something else, or names a type that is no ``Exception``: a cancellation and
            an exit are answered by nobody.
    """

    __slots__ = ("_types", "_wants", "answer", "errors")

    def __init__(self, errors: RetryOn, answer: object) -> None:
        if isinstance(answer, OnError):
            raise TypeError("answer must be a function, a LastGood or a value, got an OnError in an OnError")
        self.errors = errors
        self.answer = answer
        self._types: tuple[type[Exception], ...] = ()
        self._wants: Callable[[Exception], bool] | None = None
        kinds = errors if isinstance(errors, tuple) else (errors,)
        if kinds and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            self._types = tuple(kind for kind in kinds if isinstance(kind, type))
        elif callable(errors) and not isinstance(errors, type):
            _check_plain("errors", errors)
            self._wants = errors
        else:
            raise TypeError(
                "errors must be an Exception type, a tuple of them, or a predicate (error) -> bool, "
                f"got {errors!r}; a cancellation and an exit are answered by nobody"
            )

    def fits(self, error: Exception | None) -> bool:
        """Whether it stands in for *error*; None is a result that was judged a failure."""
        if error is None:
            return False
        if self._wants is None:
            return isinstance(error, self._types) or all(
                isinstance(leaf, self._types) for leaf in leaves(error)
            )
        try:
            return all(isinstance(leaf, Exception) and self._wants(leaf) for leaf in leaves(error))
        except Exception:  # noqa: BLE001 - a predicate is foreign code; its failure is its own
            _log.exception("the predicate of an OnError failed; it does not stand in")
            return False

    def __repr__(self) -> str:
        kinds = self._types or (self.errors,)
        shown = ", ".join(getattr(kind, "__name__", repr(kind)) for kind in kinds)
        return f"OnError({shown if len(kinds) == 1 else f'({shown})'}, {self.answer!r})"


@dataclass(frozen=True, slots=True)
class Stale(Generic[T]):
    """An answer of earlier, marked as such so that nobody takes it for a fresh one."""

    value: T
    age: float
    """Seconds since the service gave it."""
    at: float
    """When it gave it: wall time, seconds since 1970 UTC."""
    service_name: str
    reason: str
    """What it stands in for: type and text of the error."""


class Remembered(NamedTuple):
    """One answer, and when it was given."""

    value: Any  # Any: whatever the function returned
    monotonic: float
    wall: float

    def age(self, now: float, wall: float) -> float:
        """Seconds since then, by the clock that says more."""
        return max(0.0, now - self.monotonic, wall - self.wall)


class LastAnswers:
    """
    The last answer of each call, for *max_age* seconds, the oldest first to go above *most*.

    Without a lock, which must not be held while the keys' own code hashes and compares them: each step
    is one of the dictionary's own.
    """

    __slots__ = ("_answers", "_key", "max_age", "most")

    def __init__(self, *, max_age: float, most: int, key: Callable[..., Hashable] | None) -> None:
        self.max_age = max_age
        self.most = most
        self._key = key
        self._answers: dict[Hashable, Remembered] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def clear(self) -> None:
        """Forget everything."""
        self._answers.clear()

    def key_of(
        self,
        service_name: str,
        fn: Callable[..., Any],  # Any: the user's function
        args: tuple[Any, ...],  # Any: its arguments
        kwargs: Mapping[str, Any],  # Any: its arguments
    ) -> Hashable | None:
        """What a call is remembered under; None when it cannot be."""
        while isinstance(fn, functools.partial):  # made anew for each call, it would never be the same
            args, kwargs, fn = (*fn.args, *args), {**fn.keywords, **kwargs}, fn.func
        try:
            if self._key is not None:
                key: Hashable = (service_name, fn, self._key(*args, **kwargs))
            else:
                named = tuple(sorted(kwargs.items(), key=itemgetter(0)))
                kinds = (*map(type, args), *(type(value) for _, value in named))
                key = (service_name, fn, args, named, kinds)
            hash(key)
        except Exception:  # noqa: BLE001 - foreign code, or nothing that can be hashed
            return None
        return key

    def remember(self, key: Hashable, value: object, *, now: float, wall: float) -> None:
        """The call *key* was answered at *now* (monotonic seconds) and *wall* (since 1970 UTC)."""
        try:
            self._answers.pop(key, None)  # so that it goes to the end: their order is that of their age
            self._answers[key] = Remembered(value, now, wall)
            while True:
                oldest = next(iter(self._answers))
                is_old = self._answers[oldest].age(now, wall) > self.max_age
                if len(self._answers) <= self.most and not is_old:
                    return
                del self._answers[oldest]
        except Exception:  # noqa: BLE001 - another thread was at it, or a key that cannot be compared
            return

    def recall(self, key: Hashable, *, now: float, wall: float) -> Remembered | None:
        """The last answer to the call *key*, or None when there is none that is young enough."""
        try:
            answer = self._answers.get(key)
        except Exception:  # noqa: BLE001 - comparing keys is the user's code
            return None
        return None if answer is None or answer.age(now, wall) > self.max_age else answer


class LastGood:
    """
    A fallback that answers with what the same call gave last, if that is not too old.

    ``fallback=[second_source, LastGood(max_age=60.0)]``. What the service answers is remembered for the
    function and its arguments; when a call fails, what was remembered comes back as a `Stale`. Nothing
    remembered, or only something older: the next entry is asked. Answers of fallbacks are not remembered.

    A handle remembers under the name of its service, so that one object may serve several. It keeps the
    answer itself, not a copy, and its function and arguments. Only for calls that read: with another
    ``effect`` it is refused. Safe to share between tasks, threads and loops.

    Arguments that cannot be hashed, such as a list, are not remembered and not answered for, unless
    *key* makes something of them. ``f("AAPL")`` and ``f(symbol="AAPL")`` are two calls for `Handle.call`
    and one for a decorated function. ``1``, ``1.0`` and ``True`` are told apart.

    Args:
        max_age: seconds an answer may be old, more than 0. The longer of what the monotonic and the wall
            clock say counts, so that a machine that slept does not give out yesterday's price.
        key: gives something hashable for the call's arguments. Default: the arguments themselves. One
            that raises means that this call is not remembered.
        mark: makes of a `Stale` what the caller gets, for example the user's own type with a flag set.
            Default: the `Stale` itself. One that raises is a fallback that failed.
        max_entries: how many answers are kept at most, at least 1; the oldest goes first. Default 1024.
    """

    __slots__ = ("answers", "mark")

    def __init__(
        self,
        *,
        max_age: Seconds,
        key: Callable[..., Hashable] | None = None,
        mark: Callable[[Stale[Any]], object] | None = None,  # Any: whatever the function returns
        max_entries: int = 1024,
    ) -> None:
        for name, function in (("key", key), ("mark", mark)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function or None, got {function!r}")
            _check_plain(name, function)
        self.mark = mark
        self.answers = LastAnswers(
            max_age=seconds("max_age", max_age, more_than=0),
            most=whole_number("max_entries", max_entries, minimum=1),
            key=key,
        )

    def clear(self) -> None:
        """Forget everything."""
        self.answers.clear()

    def __len__(self) -> int:
        """How many answers are remembered now."""
        return len(self.answers)

    def __repr__(self) -> str:
        return f"<LastGood max_age={self.answers.max_age:g}, {len(self)} of {self.answers.most} answers>"

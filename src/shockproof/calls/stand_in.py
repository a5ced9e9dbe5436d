"""
An entry of a fallback chain, as the executor reads it, and what none of them answers for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from shockproof.calls.callables import check_callable, has_coroutine_code, name_of
from shockproof.calls.hedge_race import lanes_around
from shockproof.policies.retry import leaves
from shockproof.vocabulary.errors import (
    CallRejectedError,
    HaltedError,
    OperationBusyError,
    OperationCompletedError,
)

__all__ = ["StandIn", "answers_for_itself", "chain_of"]


class StandIn:
    """
    One stand-in: a callable that gets the call's arguments if it can bind them, the last good answer, or a
    value.
    """

    __slots__ = ("_fitting", "_only_on", "_signature", "answers_at_once", "fn", "last_good", "name", "value")

    def __init__(self, entry: object) -> None:
        from shockproof.policies.fallback import LastGood, OnError

        if isinstance(entry, type) and issubclass(entry, LastGood | OnError):
            arguments = "max_age=60.0" if issubclass(entry, LastGood) else "TimeoutError, answer"
            raise TypeError(f"fallback got the class {entry.__name__}: write {entry.__name__}({arguments})")
        self._only_on = entry if isinstance(entry, OnError) else None
        stand_in = entry.answer if isinstance(entry, OnError) else entry
        self.last_good = stand_in if isinstance(stand_in, LastGood) else None
        self.value = stand_in
        self.fn: Callable[..., Any] | None = None  # Any: any signature
        self._signature: inspect.Signature | None = None
        self._fitting: dict[tuple[int, tuple[str, ...]], bool] = {}
        """Whether a call with so many arguments and these names fits: asking the signature takes microseconds."""
        self.name = "value" if self.last_good is None else "LastGood"
        if inspect.iscoroutine(stand_in) or callable(stand_in):
            check_callable(stand_in)
        if callable(stand_in):
            self.fn = stand_in
            self.name = name_of(stand_in)
        self.answers_at_once = (
            self._only_on is None
            and self.last_good is None
            and (self.fn is None or has_coroutine_code(self.fn))
        )
        """Whether it is for every error, and there is no more to it than to await a coroutine, if anything."""

    @property
    def always_answers(self) -> bool:
        """Whether nothing behind it in a chain is ever asked."""
        return self._only_on is None and self.last_good is None and self.fn is None

    def fits(self, error: Exception | None) -> bool:
        """Whether it stands in for *error*; None is a result that was judged a failure."""
        return self._only_on is None or self._only_on.fits(error)

    def arguments(
        self,
        args: tuple[Any, ...],  # Any: the call's arguments
        kwargs: dict[str, Any],  # Any: the call's arguments
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:  # Any: the call's arguments
        """The call's arguments, or none if they do not fit."""
        assert self.fn is not None
        shape = (len(args), tuple(kwargs))
        fits = self._fitting.get(shape)
        if fits is None:
            fits = self._binds(args, kwargs)
            if len(self._fitting) < _MOST_SHAPES:
                self._fitting[shape] = fits
        return (args, kwargs) if fits else ((), {})

    def _binds(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:  # Any: the call's arguments
        assert self.fn is not None
        try:
            if self._signature is None:  # only now: a healthy call with a stand-in never needs it
                self._signature = inspect.signature(self.fn)
        except (TypeError, ValueError):  # some built-ins have none
            return True
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True


_MOST_SHAPES: Final = 100


def chain_of(fallback: object) -> tuple[StandIn, ...]:
    """The entries of the option ``fallback``, in their order."""
    if fallback is None:
        return ()
    entries = fallback if isinstance(fallback, list | tuple) else [fallback]
    return tuple(StandIn(entry) for entry in entries)


_LONGEST_CHAIN: Final = 16
_IS_ELSEWHERE: Final = (OperationCompletedError, OperationBusyError)
_MAY_SAY_SO: Final = (CallRejectedError, *_IS_ELSEWHERE, BaseExceptionGroup)
_MUST_NOT_BE: Final = {"valid_until", "still_wanted", "repetition"}


def answers_for_itself(error: BaseException | None, around: BaseException | None) -> bool:
    """
    Whether *error*, or what it was made of since *around* was raised, says of an order or an operation that there must be no other one in its place.

    It is there already, is under way, gives way to another one, or must not be sent any more: nobody stands in for that.
    """
    left = _LONGEST_CHAIN
    while error is not None and error is not around and left:
        if isinstance(error, _MAY_SAY_SO) and any(_allows_no_other(leaf) for leaf in leaves(error)):
            return True
        error = error.__cause__ or error.__context__
        left -= 1
    return False


def _allows_no_other(error: BaseException) -> bool:
    if not isinstance(error, CallRejectedError):
        return isinstance(error, _IS_ELSEWHERE)
    if error.policy == "hedge":  # of a race that is over, another request may be repeated
        return not all(lane.is_free for lane in lanes_around())
    return isinstance(error, HaltedError) or error.policy in _MUST_NOT_BE

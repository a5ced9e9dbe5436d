"""
An entry of a fallback chain, as the executor reads it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from shockproof.calls.callables import check_callable, name_of
from shockproof.policies.fallback import LastGood, OnError

__all__ = ["StandIn", "chain_of"]


class StandIn:
    """
    One stand-in: a callable that gets the call's arguments if it can bind them, the last good answer, or a
    value.
    """

    __slots__ = ("_only_on", "_signature", "fn", "last_good", "name", "value")

    def __init__(self, entry: object) -> None:
        if isinstance(entry, type) and issubclass(entry, LastGood | OnError):
            arguments = "max_age=60.0" if issubclass(entry, LastGood) else "TimeoutError, answer"
            raise TypeError(f"fallback got the class {entry.__name__}: write {entry.__name__}({arguments})")
        self._only_on = entry if isinstance(entry, OnError) else None
        stand_in = entry.answer if isinstance(entry, OnError) else entry
        self.last_good = stand_in if isinstance(stand_in, LastGood) else None
        self.value = stand_in
        self.fn: Callable[..., Any] | None = None  # Any: any signature
        self._signature: inspect.Signature | None = None
        self.name = "value" if self.last_good is None else "LastGood"
        if inspect.iscoroutine(stand_in) or callable(stand_in):
            check_callable(stand_in)
        if callable(stand_in):
            self.fn = stand_in
            self.name = name_of(stand_in)

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
        if self._signature is None:  # only now: a healthy call with a stand-in never needs it
            try:
                self._signature = inspect.signature(self.fn)
            except (TypeError, ValueError):  # some built-ins have none
                return args, kwargs
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError:
            return (), {}
        return args, kwargs


def chain_of(fallback: object) -> tuple[StandIn, ...]:
    """The entries of the option ``fallback``, in their order."""
    if fallback is None:
        return ()
    entries = fallback if isinstance(fallback, list | tuple) else [fallback]
    return tuple(StandIn(entry) for entry in entries)

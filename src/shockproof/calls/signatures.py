"""
What functions take, each found out once: that takes longer than most of what is done with it.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Final, TypeVar

__all__ = ["Plain", "found_out_once", "plain_parameters", "signature_of"]

T = TypeVar("T")


def found_out_once(
    find_out: Callable[[Callable[..., Any]], T],  # Any: whatever it takes
) -> Callable[[Callable[..., Any]], T]:
    """
    As *find_out*, which is asked once of each function, and of each that is bound as a method.

    Of everything else nobody knows whether it stays the same: there it is asked each time, and where it raises.
    """
    known: Final = weakref.WeakKeyDictionary[FunctionType, dict[bool, T]]()

    def found_out(fn: Callable[..., Any]) -> T:  # Any: as above
        is_bound = type(fn) is MethodType
        function = fn.__func__ if is_bound else fn  # type: ignore[attr-defined]  # of a method
        if type(function) is not FunctionType:
            return find_out(fn)
        of_function = known.get(function)
        if of_function is None:
            of_function = known.setdefault(function, {})
        if is_bound not in of_function:
            of_function[is_bound] = find_out(fn)
        return of_function[is_bound]

    return found_out


@found_out_once
def signature_of(fn: Callable[..., Any]) -> inspect.Signature:  # Any: as above
    """
    As ``inspect.signature``.

    Raises:
        TypeError, ValueError: it has none.
    """
    return inspect.signature(fn)


class Plain:
    """The parameters of a function all of which have names to give them by, and stand for one argument each."""

    __slots__ = ("_places", "defaults")

    def __init__(self, signature: inspect.Signature) -> None:
        self.defaults = {name: one.default for name, one in signature.parameters.items()}
        """By name, in their order; ``Parameter.empty`` where there is none."""
        self._places = [
            name
            for name, one in signature.parameters.items()
            if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        ]

    def named(
        self,
        args: tuple[Any, ...],  # Any: the function's own arguments
        kwargs: dict[str, Any],
    ) -> dict[str, Any] | None:
        """All arguments by name, defaults included, in the order of the parameters; None: they do not fit."""
        if len(args) > len(self._places):
            return None
        given = dict(zip(self._places, args, strict=False))
        if not given.keys().isdisjoint(kwargs):
            return None
        given |= kwargs
        if not given.keys() <= self.defaults.keys():
            return None
        named = {name: given.get(name, default) for name, default in self.defaults.items()}
        is_one_missing = len(given) < len(named) and any(
            named[name] is inspect.Parameter.empty and name not in given for name in named
        )
        return None if is_one_missing else named


@found_out_once
def plain_parameters(fn: Callable[..., Any]) -> Plain | None:  # Any: as above
    """The parameters of *fn* where they are plain ones; None where they are not, or it says nothing true of itself."""
    if type(fn) is not FunctionType and type(fn) is not MethodType:
        return None
    try:
        signature = signature_of(fn)
    except (TypeError, ValueError):
        return None
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return Plain(signature) if all(one.kind in plain for one in signature.parameters.values()) else None

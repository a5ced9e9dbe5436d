"""
Checks of what a user hands in: each refusal names the argument, its value and what is allowed.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any, Final, ParamSpec, TypeVar

__all__ = [
    "NOT_GIVEN",
    "NotGiven",
    "Seconds",
    "a_name",
    "at_least",
    "names_the_nearest",
    "one_of",
    "out_of",
    "seconds",
    "takes",
    "whole_number",
]

Seconds = float | timedelta
"""A duration as users may write it."""


class NotGiven:
    """The type of `NOT_GIVEN`: told apart from every value, None included."""

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN: Final = NotGiven()
"""The default of arguments where an explicit default must still beat the environment."""


def _refuse(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"{name} must be {allowed}, got {value!r}")


def out_of(name: str, known: Collection[str]) -> str:
    """What stands behind "knows no *name*": the nearest of the *known* names, if any is near, and all of them."""
    import difflib  # only for those who have to be told

    near = [one for one in known if name in one] or difflib.get_close_matches(name, known, 2)
    perhaps = f"did you mean {' or '.join(near[:3])}? " if near else ""
    return f"{perhaps}there are {', '.join(known)}"


P = ParamSpec("P")
R = TypeVar("R")


def names_the_nearest(function: Callable[P, R]) -> Callable[P, R]:
    """*function*, whose refusal of a keyword that it does not know names the nearest one that it does."""
    known = [
        one.name
        for one in inspect.signature(function).parameters.values()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name != "self"
    ]
    called = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{called} knows no {name!r}; {out_of(name, known)}")
        return function(*args, **kwargs)

    return checked


def takes(name: str, function: Callable[..., object], *parameters: str) -> None:
    """
    Whether *function* can be called with what it will be called with; a wrong one would fail at each call.

    Raises:
        TypeError: it takes more, or fewer.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some built-ins have none
    try:
        signature.bind(*parameters)
    except TypeError as error:
        shown = ", ".join(parameters)
        raise TypeError(
            f"{name} is called as {name}({shown}), which {function!r} cannot be: {error}"
        ) from None


def seconds(name: str, value: object, *, more_than: float | None = None) -> float:
    """
    *value* as seconds: a number or a timedelta, finite, at least 0 or *more_than* the bound given.

    Raises:
        TypeError: it is no duration at all (a bool is none).
        ValueError: it is out of range.
    """
    allowed = "seconds (a number or a timedelta), at least 0"
    if more_than is not None:
        allowed = f"seconds (a number or a timedelta), more than {more_than:g}"
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    if not _is_finite(value) or value < 0 or (more_than is not None and value <= more_than):
        raise _refuse(name, value, allowed)
    return float(value)


def at_least(name: str, value: object, minimum: float) -> float:
    """*value* as a finite number that is at least *minimum*."""
    allowed = f"a number of at least {minimum:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    if not _is_finite(value) or value < minimum:
        raise _refuse(name, value, allowed)
    return float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that is larger than any float
        return False


def whole_number(name: str, value: object, *, minimum: int) -> int:
    """*value* as an int of at least *minimum*; bools and floats are refused."""
    allowed = f"a whole number of at least {minimum}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    if value < minimum:
        raise _refuse(name, value, allowed)
    return value


def one_of(name: str, value: object, allowed: Collection[object]) -> Any:  # Any: one of those
    """*value*, if it is one of *allowed*."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def a_name(argument: str, value: object, example: str = "market_data") -> str:
    """*value* as a service's name, or another one: a string with something in it, *example* for instance."""
    allowed = f'{argument} must be a string such as "{example}"'
    if not isinstance(value, str):
        raise TypeError(f"{allowed}, got {value!r}")
    if not value:
        raise ValueError(f"{allowed}, got an empty one")
    return value


Check = Callable[[str, object], object]

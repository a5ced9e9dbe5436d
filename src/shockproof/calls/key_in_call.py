"""
Whether an order is sent with its key: under another id it would never be found, and sent twice.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final
from uuid import UUID

from shockproof.calls.callables import name_of
from shockproof.calls.options import outside_level

__all__ = ["require_key"]

_MOST: Final = 1000
"""Values that are looked at, at most; what holds more is left out, and is no order."""
_DEEPEST: Final = 3
_HOLDS_NOTHING: Final = (bool, float, complex, Decimal, date, time, timedelta, Enum, type(None))


def require_key(
    fn: Callable[..., Any],  # Any: the function's own arguments
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    key: str,
    owner: object,
    is_known: bool,
) -> None:
    """
    Refuse a call that sends an order under an id that is not *key*; warn where that is only likely.

    A call is in order if the key, or *owner*, which has it, is among the arguments, in what they hold, in what is bound
    to the function, in the object whose method it is, or in a variable of its module or context. A closure, a
    callable object and what can be looked into no further may know it, and a function that is given nothing at all says by
    itself what it sends: nothing is said.

    With *is_known* the key was made, or read, outside, and may have come to the function by another way.

    Raises:
        ValueError: nobody can know the key but us.
    """
    if _holds((*args, *kwargs.values()), key, unsure=True):
        return
    inner, bound, objects = _taken_apart(fn)
    if type(inner) is not FunctionType or inner.__closure__ or not (args or kwargs or bound):
        return
    bound += [*(inner.__defaults__ or ()), *(inner.__kwdefaults__ or {}).values()]
    around = (*inner.__globals__.values(), *contextvars.copy_context().values())
    if (
        any(one is owner or (isinstance(one, str) and one == key) for one in around)
        or _holds(bound, key, unsure=True)
        or _holds(objects, key, unsure=False)
    ):
        return
    left_out = _left_out(fn, args, kwargs)
    perhaps = f", perhaps {' or '.join(map(repr, left_out))}" if left_out else ""
    what = (
        f"{name_of(fn)}() does not get the order's key: once() would look for an order that has another id, not find "
        f"it, and send it twice. Say once(key_argument=...), the name under which it takes the key{perhaps}; or give it "
        "once.key among its arguments"
    )
    if not is_known:
        raise ValueError(what)
    warnings.warn(f"{what}. If it has the key from elsewhere, pass it on openly", stacklevel=outside_level())


def _taken_apart(fn: Any) -> tuple[Any, list[object], list[object]]:  # Any: a callable
    bound: list[object] = []
    objects: list[object] = []
    while True:
        if isinstance(fn, functools.partial):
            bound += [*fn.args, *fn.keywords.values()]
            fn = fn.func
        elif isinstance(fn, MethodType):
            objects.append(fn.__self__)
            fn = fn.__func__
        else:
            return fn, bound, objects


def _left_out(
    fn: Callable[..., Any],  # Any: as above
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> list[str]:
    """The parameters that a call does not fill."""
    try:
        signature = inspect.signature(fn)
        given = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return []  # it says nothing true of itself
    return [name for name in signature.parameters if name not in given]


def _holds(values: Iterable[object], key: str, *, unsure: bool) -> bool:
    """Whether *key* is in *values*; *unsure* where they cannot be looked through."""
    line = [(value, 0) for value in values]
    seen: set[int] = set()
    for value, depth in line:
        if isinstance(value, str):
            if key in value:
                return True
        elif isinstance(value, bytes | bytearray):
            if key.encode("utf-8", "surrogatepass") in value:
                return True
        elif isinstance(value, int | UUID) and not isinstance(value, bool):
            if key in {str(value), getattr(value, "hex", None)}:
                return True
        elif unsure and callable(value):
            return True
        elif not isinstance(value, _HOLDS_NOTHING) and id(value) not in seen:
            inside = None if depth == _DEEPEST else _inside(value)
            if inside is not None and len(line) + len(inside) <= _MOST:
                seen.add(id(value))
                line += [(one, depth + 1) for one in inside]
            elif unsure:
                return True
    return False


def _inside(value: object) -> Collection[object] | None:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, Mapping | Iterator | type | ModuleType | FunctionType | MethodType):
        return None
    try:
        fields = [*(getattr(value, "__dict__", None) or {}).values()]
        for cls in type(value).__mro__:
            fields += [getattr(value, name) for name in _slots_of(cls) if hasattr(value, name)]
    except Exception:  # noqa: BLE001  the user's own attributes: an order does not fail for them
        return None
    return fields or None


def _slots_of(cls: type) -> list[str]:
    slots = cls.__dict__.get("__slots__", ())
    names = [slots] if isinstance(slots, str) else [*slots]
    own = f"_{cls.__name__.lstrip('_')}"
    return [own + name if name.startswith("__") else name for name in names if not name.endswith("__")]

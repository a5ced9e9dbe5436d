"""
What kind of callable a user hands in, and what it is called.
"""

from __future__ import annotations

import asyncio.coroutines
import functools
import inspect
from collections.abc import Awaitable, Callable
from types import FunctionType, MethodType
from typing import Any, TypeGuard

__all__ = ["check_callable", "has_coroutine_code", "is_async", "name_of"]

_CO_COROUTINE = inspect.CO_COROUTINE
_GENERATES = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
# What unittest.mock and older libraries mark their coroutine-returning callables with.
_MARK = getattr(asyncio.coroutines, "_is_coroutine", None)


def is_async(fn: Callable[..., Any]) -> TypeGuard[Callable[..., Awaitable[Any]]]:  # Any: any signature
    """Whether calling *fn* at once gives a coroutine, so that it needs no thread."""
    if has_coroutine_code(fn):
        return True
    fn = _innermost(fn)
    if has_coroutine_code(fn):
        return True
    if type(fn) is FunctionType:
        return inspect.iscoroutinefunction(fn)  # marked as one
    if _MARK is not None and getattr(fn, "_is_coroutine", None) is _MARK:
        return True
    return _flags_of(type(fn).__call__) & _CO_COROUTINE != 0


def has_coroutine_code(fn: Callable[..., Any]) -> bool:  # Any: any signature
    """
    Whether *fn* is, beyond doubt and at a glance, a coroutine function or a bound method of one.

    False says nothing: `is_async` looks closer, and takes five times as long.
    """
    try:
        flags = fn.__code__.co_flags
    except AttributeError:
        return False
    # A Mock with the spec of a function has Mocks in place of its flags.
    return type(flags) is int and flags & _CO_COROUTINE != 0


def check_callable(fn: object) -> None:
    """
    Refuse what cannot be guarded, with the way out.

    Raises:
        TypeError: for coroutine objects, generators of both kinds, classmethod objects, and
            whatever cannot be called.
    """
    if type(fn) is FunctionType and not fn.__code__.co_flags & _GENERATES:  # nearly always
        return
    if inspect.iscoroutine(fn):
        fn.close()  # it will never run: without this Python warns that it was never awaited
        raise TypeError(
            f"got the coroutine object {fn.__qualname__}(...): pass the function and its arguments, "
            f"for example call({fn.__name__}, ...), so that it can be called again"
        )
    if isinstance(fn, classmethod):
        raise TypeError("got a classmethod object: put the decorator below @classmethod, next to the def")
    if not callable(fn):
        raise TypeError(f"got {fn!r}, which cannot be called: pass a function and its arguments")
    inner = _innermost(fn)
    flags = _flags_of(inner if isinstance(inner, FunctionType) else type(inner).__call__)
    if flags & inspect.CO_ASYNC_GENERATOR:
        raise TypeError(
            f"{name_of(fn)} is an async generator: it returns before anything can fail. "
            "Give a feed to stream(), guard the coroutine that fetches, or put the loop into attempts()"
        )
    if flags & inspect.CO_GENERATOR:
        raise TypeError(
            f"{name_of(fn)} is a generator: it returns before anything can fail. "
            "Guard a function that returns the finished result"
        )


def _flags_of(fn: object) -> int:
    # Not inspect's questions: a Mock with the spec of a function answers yes to all of them.
    flags = getattr(getattr(fn, "__code__", None), "co_flags", 0)
    return flags if type(flags) is int else 0


def name_of(fn: Callable[..., Any]) -> str:  # Any: any signature
    """The name a person knows *fn* by; partials and bound methods show what they wrap."""
    if type(fn) is FunctionType:  # nearly always
        return fn.__name__
    name = getattr(_innermost(fn), "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__


def _innermost(fn: Any) -> Any:  # Any: whatever a partial or a bound method wraps
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        else:
            return fn

"""
The signatures of functions, each found out once: that takes longer than most of what is done with it.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Final

__all__ = ["signature_of"]

_known: Final = weakref.WeakKeyDictionary[FunctionType, dict[bool, inspect.Signature]]()
"""Of functions, and of those that are bound as methods; of everything else nobody knows whether it stays the same."""


def signature_of(fn: Callable[..., Any]) -> inspect.Signature:  # Any: whatever it takes
    """
    As ``inspect.signature``.

    Raises:
        TypeError, ValueError: it has none.
    """
    is_bound = type(fn) is MethodType
    function = fn.__func__ if is_bound else fn  # type: ignore[attr-defined]  # of a method
    if type(function) is not FunctionType:
        return inspect.signature(fn)
    known = _known.get(function)
    if known is None:
        known = _known.setdefault(function, {})
    signature = known.get(is_bound)
    if signature is None:
        signature = known[is_bound] = inspect.signature(fn)
    return signature

"""
What a call gives to its function: whether it fits, and what is given under which name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

from shockproof.calls.callables import name_of
from shockproof.calls.signatures import plain_parameters, signature_of
from shockproof.vocabulary.arguments import out_of

__all__ = ["check_takes", "named_arguments"]


def named_arguments(
    fn: Callable[..., Any],  # Any: the function's own arguments
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """
    What *fn* is called with, by name, what is bound to it and its defaults included.

    Raises:
        TypeError: the arguments do not fit.
    """
    plain = plain_parameters(fn)
    at_once = None if plain is None else plain.named(args, kwargs)
    if at_once is not None:
        return at_once
    signature, bound = _signature(fn), None
    if signature is not None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name_of(fn)}() {error}") from None
    inner: Any = fn  # Any: of which mypy takes away what a partial has
    while isinstance(inner, functools.partial):
        inner, args, kwargs = inner.func, (*inner.args, *args), {**inner.keywords, **kwargs}
    if inner is not fn:
        signature = _signature(inner)
        bound = None if signature is None else signature.bind(*args, **kwargs)
    if signature is None or bound is None:
        return {**{str(place): value for place, value in enumerate(args)}, **kwargs}
    bound.apply_defaults()
    named: dict[str, Any] = {}  # Any: as above
    for name, value in bound.arguments.items():
        named |= value if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return named


def check_takes(fn: Callable[..., Any], argument: str, names: Collection[str]) -> None:  # Any: as above
    """
    Whether *fn* takes something under each of *names*; *argument* is where they were given.

    Raises:
        TypeError: it does not.
    """
    plain = plain_parameters(fn) if names else None
    if plain is not None and all(name in plain.defaults for name in names):
        return
    signature = _signature(fn) if names else None
    parameters = () if signature is None else signature.parameters.values()
    if signature is None or any(one.kind is one.VAR_KEYWORD for one in parameters):
        return
    takes = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    for name in names:
        if name not in takes:
            known = out_of(name, takes) if takes else "it takes none by name"
            raise TypeError(f"{argument}={name!r}: {name_of(fn)}() has no such argument; {known}")


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:  # Any: as above
    try:
        return signature_of(fn)
    except (TypeError, ValueError):
        return None  # some built-ins have none

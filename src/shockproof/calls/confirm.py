"""
What a ``confirm`` is asked with: the key, and the details that the order was journalled with if it takes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

from shockproof.calls.signatures import found_out_once, signature_of
from shockproof.vocabulary.look_up import LookUp

__all__ = ["Confirm", "DetailedConfirm", "asked_of", "with_details"]

R = TypeVar("R")

Confirm = Callable[[str], Awaitable[LookUp[R]]]
DetailedConfirm = Callable[[str, Mapping[str, Any]], Awaitable[LookUp[R]]]  # Any: the user's own values


def with_details(confirm: Confirm[R] | DetailedConfirm[R]) -> DetailedConfirm[R]:
    """
    *confirm* as one that takes both; whether it does is decided here, by its signature.

    It does where it has a second positional parameter that has no default or is called ``details``. One with a default and
    another name is the user's own business.

    Raises:
        TypeError: it is no function of the key, nor of the key and the details.
    """
    if not callable(confirm):
        raise TypeError(f"confirm must be an async function of the key, got {confirm!r}")
    if _takes_details(confirm):
        return cast("DetailedConfirm[R]", confirm)
    return _with_the_key_alone(cast("Confirm[R]", confirm))


@found_out_once
def _takes_details(confirm: Callable[..., Any]) -> bool:  # Any: the user's own
    try:
        signature = signature_of(confirm)
    except (TypeError, ValueError):  # of some that are written in C
        return False
    places = [one for one in signature.parameters.values() if one.kind in _POSITIONAL]
    takes_details = len(places) > 1 and (
        places[1].default is inspect.Parameter.empty or places[1].name == "details"
    )
    try:
        signature.bind("key", {}) if takes_details else signature.bind("key")
    except TypeError as error:
        raise TypeError(
            f"confirm must be an async function of the key, or of the key and the details, got {confirm!r} with the "
            f"parameters {signature}: {error}"
        ) from None
    return takes_details


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _with_the_key_alone(confirm: Confirm[R]) -> DetailedConfirm[R]:
    return lambda key, details: confirm(key)


def asked_of(confirm: DetailedConfirm[R], details: Mapping[str, Any]) -> Confirm[R]:  # Any: as above
    """Ask about an order that was journalled with these *details*."""
    return lambda key: confirm(key, details)

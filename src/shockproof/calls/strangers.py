"""
Looking at objects of which nothing is known: those in a user's variables and callbacks.

They may be proxies whose object is gone, stand-ins of tests, or lists of a kind of their own. What they raise concerns
nobody who only looks past them, and what they pretend to be is not believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any, TypeGuard, TypeVar

__all__ = ["enclosed_by", "held_by", "is_really"]

T = TypeVar("T")


def is_really(one: object, kind: type[T]) -> TypeGuard[T]:
    """Whether *one* is a *kind* by its own type; unlike ``isinstance``, which asks the object itself."""
    return issubclass(type(one), kind)


def held_by(one: object, name: str) -> Any:  # Any: whatever stands there
    """Its attribute of that *name*; None where there is none, or asking for it raises."""
    try:
        return getattr(one, name, None)
    except Exception:  # noqa: BLE001  it is somebody else's
        return None


def enclosed_by(callback: object) -> Iterator[object]:
    """What a function has at hand of the functions around it; nothing where *callback* is none."""
    if is_really(callback, FunctionType):
        for cell in callback.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            yield held

"""
Parts of an object that are made, and imported, when somebody first asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

__all__ = ["made_at_first_use"]

T = TypeVar("T")


class made_at_first_use(Generic[T]):  # noqa: N801 - it stands where `property` would
    """
    Decorates a method that makes a part: the attribute of its name, made when it is first read.

    There is one for all threads: of those that read it at the same moment each makes one, and the first is kept. So
    making it must have no effect of its own. No lock is held meanwhile, for making it may import modules.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:  # Any: whatever the method belongs to
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: object, kind: type) -> T: ...
    def __get__(self, owner: object, kind: type) -> Self | T:
        if owner is None:
            return self
        made: T = vars(owner).setdefault(self._name, self._make(owner))
        return made

"""
Details of an order that were journalled and cannot be read here.

An empty dict in their place would have the order looked up in the wrong place, and what is not found there sent again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

__all__ = ["ELSEWHERE", "LostDetails"]

ELSEWHERE: Final = "in the journal of another machine"
"""Stands in the journal for details that did not come along with the key."""


class LostDetails(Mapping[str, Any]):  # Any: the user's own values
    """
    Whoever reads them gets a RuntimeError that says why they are lost.

    So a ``confirm`` that needs them has proven nothing, and one that does not goes on.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def __repr__(self) -> str:
        return f"<details that are lost: {self._why}>"

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> NoReturn:
        raise self._error()

    def __iter__(self) -> Iterator[str]:
        raise self._error()

    def __len__(self) -> NoReturn:
        raise self._error()

    def _error(self) -> RuntimeError:
        return RuntimeError(
            f"the details of this order cannot be read: {self._why}. Give the order's key to once() with its details"
        )

"""What a look-up of an order may answer: found, not found, or nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, Literal, TypeVar

__all__ = ["NOT_FOUND", "UNKNOWN", "Found", "LookUp"]

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Found(Generic[T_co]):
    """It is there; `value` is what the other side says about it."""

    value: T_co


class _Without(Enum):
    """What a look-up answers that found nothing: `NOT_FOUND` or `UNKNOWN`."""

    NOT_FOUND = "not found"
    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return self.name


NOT_FOUND: Final = _Without.NOT_FOUND
"""Every source was asked, and none of them has it. Proof of absence only after the venue had time to book it."""

UNKNOWN: Final = _Without.UNKNOWN
"""The look-up failed: it says nothing, whatever the failure."""

LookUp = Found[T_co] | Literal[_Without.NOT_FOUND, _Without.UNKNOWN]
"""What a look-up answers, and the type of a ``confirm``: ``async def find_order(key: str) -> LookUp[Order]``."""

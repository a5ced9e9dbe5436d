"""
Who goes first where calls wait: cancels, then orders, then market data.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Literal, TypeVar

__all__ = ["PRIORITIES", "RISK_REDUCING", "Line", "Priority", "rank_of"]

Priority = Literal["high", "normal", "low"]
"""How important a call is among those that wait for the same thing."""

PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")

RISK_REDUCING: Final = 0
"""The rank of cancels and closes: before everybody else."""

T = TypeVar("T")


def rank_of(priority: Priority, *, risk_reducing: bool) -> int:
    """The rank of a call: the lower, the earlier its turn comes."""
    return RISK_REDUCING if risk_reducing else 1 + PRIORITIES.index(priority)


class Line(Generic[T]):
    """
    Those who wait, the most important first; among equals, whoever came first.

    Strictly so: as long as somebody of a lower rank waits, nobody of a higher one has a turn. What
    would age into importance would one day stand before a cancel. Joining, leaving and looking at the
    first take the same time however long the line is. Not safe to share by itself.
    """

    __slots__ = ("_ranks",)

    def __init__(self) -> None:
        self._ranks: tuple[OrderedDict[T, None], ...] = tuple(
            OrderedDict() for _ in range(len(PRIORITIES) + 1)
        )

    def __len__(self) -> int:
        return sum(map(len, self._ranks)) if any(self._ranks) else 0  # almost always nobody waits

    @property
    def bounded(self) -> int:
        """How many wait, without the risk-reducing ones, for whom there is always room."""
        return len(self) - len(self._ranks[RISK_REDUCING])

    def join(self, waiter: T, rank: int) -> None:
        """Stand behind everybody of this rank."""
        self._ranks[rank][waiter] = None

    def leave(self, waiter: T) -> None:
        """Wait no longer; one that does not wait is passed over."""
        for waiting in self._ranks:
            waiting.pop(waiter, None)

    def first(self) -> T | None:
        """Whose turn is next."""
        for waiting in self._ranks:
            if waiting:
                return next(iter(waiting))
        return None

    def first_before(self, rank: int) -> T | None:
        """The first of those a newcomer of this *rank* would stand behind."""
        for waiting in self._ranks[: rank + 1]:
            if waiting:
                return next(iter(waiting))
        return None

    def last_behind(self, rank: int) -> T | None:
        """Of those less important than *rank*, the least important, and of these who came last."""
        for waiting in reversed(self._ranks[rank + 1 :]):
            if waiting:
                return next(reversed(waiting))
        return None

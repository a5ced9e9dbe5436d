"""How much of what was recorded the pictures of the status page show, and how many steps stand in one column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from shockproof.views.status_history import STEP

__all__ = ["PictureWindow", "window_for"]

T = TypeVar("T")


class PictureWindow(NamedTuple):
    """The last so many minutes."""

    minutes: int
    together: int
    """Steps in one column."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.minutes * 60.0

    @property
    def column(self) -> float:
        """Seconds of one column."""
        return STEP * self.together

    @property
    def columns(self) -> int:
        """How many there are."""
        return round(self.seconds / self.column)

    def grouped(self, steps: Sequence[T], number: int) -> list[Sequence[T]]:
        """
        *steps*, whose last one is the one with this *number*, by columns, oldest first; those that are older are left out.

        Which steps stand together depends on their numbers only: columns wander to the left, and do not change on the way.
        """
        newest = number // self.together
        groups: list[list[T]] = []
        before = None
        for place, step in enumerate(steps, number - len(steps) + 1):
            column = place // self.together
            if column <= newest - self.columns:
                continue
            if column != before:
                groups.append([])
                before = column
            groups[-1].append(step)
        return list(groups)


_WINDOWS: Final = (PictureWindow(1, 1), PictureWindow(5, 1), PictureWindow(15, 3))


def window_for(recorded: float) -> PictureWindow:
    """The shortest one that shows all of the *recorded* seconds, or the longest: a program that is young fills it, too."""
    return next((window for window in _WINDOWS if recorded <= window.seconds), _WINDOWS[-1])

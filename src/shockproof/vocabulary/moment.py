"""
When something was, so that another life of the program can tell how long ago that is.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Self

__all__ = ["Moment"]

_SAME_START: Final = 1.0
"""Seconds by which two lives may disagree about when the machine was started, and still mean the same start."""


class Moment(NamedTuple):
    """One instant, by the clock that people set and by the one that nobody sets."""

    wall: float
    """Seconds since 1970 UTC; wrong whenever somebody sets the clock."""
    running: float
    """Seconds that only mean something beside others of the same start of the machine."""
    boot: str | None
    """Which start of the machine that is; None where the system does not say."""

    def later(self, seconds: float) -> Moment:
        """The moment *seconds* behind this one."""
        return Moment(self.wall + seconds, self.running + seconds, self.boot)

    def since(self, earlier: Moment) -> float | None:
        """
        Seconds that have passed since *earlier*, of this life or another one; None when nobody can tell.

        Within one start of the machine the clock that nobody sets tells, wherever the other one was set to. Where
        the system has no name for its starts, both clocks must agree. Otherwise the wall clock is all there is, and
        it proves nothing: another machine, a clock that is not set yet.
        """
        passed = self.running - earlier.running
        if self.boot != earlier.boot:
            return None
        if self.boot is None and abs(self.wall - earlier.wall - passed) > _SAME_START:
            return None
        return passed

    def passed_since(self, earlier: Moment) -> float:
        """`since`, and where nobody can tell, what the wall clocks say: a guess, and below 0 if one was set back."""
        passed = self.since(earlier)
        return self.wall - earlier.wall if passed is None else passed

    def as_dict(self) -> dict[str, Any]:  # Any: numbers, a text, None
        """For JSON."""
        return self._asdict()

    @classmethod
    def from_dict(cls, value: object) -> Self | None:
        """What `as_dict` gave; None for anything else."""
        if not isinstance(value, dict):
            return None
        wall, running, boot = (value.get(name) for name in cls._fields)
        if not (isinstance(wall, int | float) and isinstance(running, int | float)):
            return None
        return cls(float(wall), float(running), boot) if boot is None or isinstance(boot, str) else None

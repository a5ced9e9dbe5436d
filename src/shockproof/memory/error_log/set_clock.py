"""Whether the wall clock can be believed when old files are to be deleted: somebody may just have set it."""

from __future__ import annotations

from typing import Final

__all__ = ["SetClock"]

_SET: Final = 6 * 3600.0
"""Seconds that the wall clock gains or loses at once, against the monotonic one, when somebody has set it."""
_STANDS: Final = 3600.0
"""Seconds after which what it was set to is believed."""


class SetClock:
    """
    Watches how far the wall clock is ahead of the monotonic one.

    That does not change while nobody sets it. A clock that was wrong from the start cannot be told from a right one.
    A machine that was suspended looks the same as one whose clock was set: on Linux the monotonic clock stood still.
    """

    def __init__(self) -> None:
        self._believed: float | None = None
        self._doubted = 0.0
        self._doubted_since: float | None = None

    def is_believed(self, wall: float, monotonic: float) -> bool:
        """
        Whether the wall clock shows what it showed before, and the time that has passed since; to be asked often.

        Where it was set by some hours or more, not before it has stood so for an hour, or was set back.
        """
        ahead = wall - monotonic
        if self._believed is None or abs(ahead - self._believed) < _SET:
            self._believed, self._doubted_since = ahead, None
            return True
        if self._doubted_since is None or abs(ahead - self._doubted) >= _SET:
            self._doubted_since = monotonic
        self._doubted = ahead
        if monotonic - self._doubted_since < _STANDS:
            return False
        self._believed, self._doubted_since = ahead, None
        return True

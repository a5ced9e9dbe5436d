"""What of a circuit outlives its process."""

from __future__ import annotations

import sys
from typing import Any, Final, NamedTuple

__all__ = ["SavedCircuit"]


class SavedCircuit(NamedTuple):
    """
    What of a circuit outlives its process. Counts do not: they are what that process saw.

    Times are lengths and not moments, so that no clock of one process is read in another.
    """

    remaining: float = 0.0
    """Seconds it would still be open; 0 for one that is half-open."""
    openings: int = 0
    """How often it opened in a row."""
    is_paused: bool = False
    """Whether the other side asked for the time."""
    last_error: str | None = None
    is_forced_open: bool = False
    """Whether somebody forced it open by hand; then the rest means nothing."""
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:  # Any: text and numbers
        """As plain values; `from_dict` reads it."""
        return self._asdict()

    @classmethod
    def from_dict(cls, saved: object) -> SavedCircuit:
        """
        What `to_dict` gave; names it does not know are passed over.

        Raises:
            ValueError: it is something else, says what.
        """
        if not isinstance(saved, dict):
            raise ValueError(f"it is no object but {type(saved).__name__}")  # noqa: TRY004 - bad data, no bad call
        fields = {name: saved[name] for name in cls._fields if name in saved}
        for name, value in fields.items():
            if type(value) not in _KINDS[name] or (
                isinstance(value, float | int) and not 0 <= value <= sys.float_info.max
            ):
                raise ValueError(f"its {name} is {value!r}")
        return cls(**fields)


_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "remaining": (float, int),
    "openings": (int,),
    "is_paused": (bool,),
    "last_error": (str, type(None)),
    "is_forced_open": (bool,),
    "reason": (str, type(None)),
}

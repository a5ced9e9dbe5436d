"""
Whether the silence of the other side was ours: an event loop that stood still hears nothing.
"""

from __future__ import annotations

from typing import Final

__all__ = ["STALL_SHARE", "was_stalled"]

# A loop that stood still for this share of a limit says more about us than about the other side: the
# answer may have been waiting in the socket all along. Shorter gaps than the seconds are everyday life.
STALL_SHARE: Final = 0.25
_STALL_SECONDS: Final = 0.02


def was_stalled(late: float, limit: float) -> bool:
    """Whether a limit that was noticed *late* seconds after its time says that our own loop stood still."""
    return late > max(_STALL_SECONDS, STALL_SHARE * limit)

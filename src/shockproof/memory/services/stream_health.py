"""
What the health tells of one feed.
"""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["StreamHealth", "StreamPhase"]

StreamPhase = Literal["connecting", "live", "lost"]
"""Never there so far; there; was there, or failed to come, and is opened again."""


class StreamHealth:
    """One feed, from its first item to its end; written by the loop it runs on, read from anywhere."""

    __slots__ = ("__weakref__", "function_name", "gaps", "items", "last_item_at", "phase", "stale_after")

    def __init__(self, function_name: str, stale_after: float | None) -> None:
        self.function_name = function_name
        self.stale_after = stale_after
        self.phase: StreamPhase = "connecting"
        self.items = 0
        self.gaps = 0
        self.last_item_at: float | None = None
        """Monotonic time of the last item; None: there was none."""

    def last_item_age(self, now: float) -> float | None:
        """Seconds since the last item, or None when there was none."""
        last = self.last_item_at
        return None if last is None else max(0.0, now - last)

    def report(self, now: float) -> dict[str, Any]:  # Any: JSON
        """The same as a JSON-ready dict."""
        age = self.last_item_age(now)
        return {
            "function_name": self.function_name,
            "phase": self.phase,
            "last_item_age": None if age is None else round(age, 3),
            "stale_after": self.stale_after,
            "items": self.items,
            "gaps": self.gaps,
        }

"""Times, sizes and texts as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

__all__ = ["ago", "local_time", "printable", "size_text"]


def printable(text: str) -> str:
    """*text* with control characters written out, on one line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def local_time(moment: datetime | float | None) -> str:
    """A moment as people here write it, with its offset; "" for None."""
    if moment is None:
        return ""
    if not isinstance(moment, datetime):
        try:
            moment = datetime.fromtimestamp(moment, UTC)
        except (OverflowError, ValueError, OSError):
            return f"{moment!r} s after 1970"
    return moment.astimezone().isoformat(sep=" ", timespec="seconds")


def ago(seconds: float) -> str:
    """How long that is, roughly: "12 s", "3 min", "5 h", "2 days"."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds // size))} {unit}"
    return f"{int(seconds // 86_400)} days"


def size_text(size: int) -> str:
    """A number of bytes, for people."""
    amount: Any = size  # Any: int first, float once divided
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"

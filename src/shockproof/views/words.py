"""Times, sizes and texts as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import Any

from shockproof.memory.error_log.history import ERRORS_KEPT

__all__ = [
    "ago",
    "clock_time",
    "duration_text",
    "error_count",
    "local_time",
    "markup",
    "not_called_since",
    "printable",
    "size_text",
]


def printable(text: str) -> str:
    """*text* with control characters written out, on one line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def markup(text: str) -> str:
    """*text*, whoever wrote it, as it may stand in a page: between tags, or in a quoted attribute."""
    return escape(printable(text))


def duration_text(seconds: float) -> str:
    """A length of time as people write it: "0.4 ms", "12 ms", "1.2 s", "3 min 20 s"."""
    if seconds < 0.9995:
        milliseconds = seconds * 1000
        return f"{milliseconds:.1f} ms" if 0 < milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 and seconds != int(seconds) else f"{seconds:.0f} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left} s" if left else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def clock_time(wall: float) -> str:
    """The time of the day here, to the second; the whole moment where it is no time at all."""
    return local_time(wall)[11:19] if 0 <= wall < 1e11 else local_time(wall)


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


def error_count(number: int) -> str:
    """How many errors there were lately: "1,000+" where there may have been more than the memory holds."""
    return f"{number:,}{'+' if number >= ERRORS_KEPT else ''}"


def not_called_since(status: str) -> str:
    """Of a service that only a restored state tells of, with the *status* that it had there."""
    before = "" if status == "operational" else f", {status} before it"
    return f"not called since the restart{before}"


def size_text(size: int) -> str:
    """A number of bytes, for people."""
    amount: Any = size  # Any: int first, float once divided
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"

"""
Values that hold only in the era of the store in which they were put: in another one it may have lost what followed them.
"""

from __future__ import annotations

__all__ = ["marked", "unmarked"]


def marked(value: bytes, era: str) -> bytes:
    """*value*, as `unmarked` reads it; it begins with no line of its own."""
    return value if not era else f"{era}\n".encode() + value


def unmarked(value: bytes, era: str) -> bytes | None:
    """What was put in *era*; None: it was put in another one."""
    first, newline, rest = value.partition(b"\n")
    if not newline:
        first, rest = b"", value
    return rest if first == era.encode() else None

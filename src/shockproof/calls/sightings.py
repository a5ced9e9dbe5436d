"""
What another thread sees of a loop that stands still: which line its thread is at, look after look.

A look walks frames and reads numbers: no source line is read, and no frame is kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, NamedTuple

from shockproof.vocabulary.events import StallCause

__all__ = ["Finding", "Sightings", "is_of_the_library", "line_of"]

_MOST_PLACES: Final = 64
_MOST_FRAMES: Final = 30
_DEEPEST: Final = 2_000
_LIBRARY: Final = str(Path(os.__file__).parent)
_LOCK_SHARE: Final = 0.5
"""The share of a stall by which the looks themselves came late that says: nobody else could run."""


class Finding(NamedTuple):
    """What a stall was, as far as it was seen."""

    where: str | None
    """``file:line in function``: the innermost line outside of the standard library that was seen most often."""
    stack: tuple[str, ...]
    """How it came there, outermost first."""
    cause: StallCause


class Sightings:
    """
    The looks at one thread while one stall lasts.

    Args:
        ceiling: the code that runs what the loop runs: beyond it is the loop itself. A thread that is
            there, or nowhere below it, runs nothing for the loop.
    """

    def __init__(self, ceiling: CodeType | None) -> None:
        self._ceiling = ceiling
        self._seen: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._idle = self._looks = 0
        self._late = 0.0

    def look(self, thread: int, frames: Mapping[int, FrameType], late: float) -> None:
        """See where *thread* is, by the *frames* of all; the look itself comes *late* seconds after its time."""
        self._looks += 1
        self._late = max(self._late, late)
        frame = frames.get(thread)
        stack = [] if frame is None else _own_stack(frame, self._ceiling)
        if stack:
            _count(self._seen, stack)
        else:
            self._idle += 1

    def finding(self, duration: float) -> Finding:
        """What a stall of *duration* seconds was, now that it is over."""
        if not self._looks:
            return Finding(None, (), "unseen")
        if self._idle * 2 > self._looks:
            return Finding(None, (), "not the loop")
        where, stack = _most_often(self._seen)
        nobody_else_ran = self._late >= _LOCK_SHARE * duration
        return Finding(where, stack, "interpreter lock" if nobody_else_ran else "blocked")


def _count(seen: dict[str, tuple[int, tuple[str, ...]]], stack: list[FrameType]) -> None:
    lines = tuple(line_of(frame) for frame in reversed(stack[:_MOST_FRAMES]))
    where = next((line_of(frame) for frame in stack if not is_of_the_library(frame)), lines[-1])
    if where in seen or len(seen) < _MOST_PLACES:
        count, first = seen.get(where, (0, lines))
        seen[where] = (count + 1, first)


def _most_often(seen: dict[str, tuple[int, tuple[str, ...]]]) -> tuple[str | None, tuple[str, ...]]:
    if not seen:
        return None, ()
    where = max(seen, key=lambda place: seen[place][0])
    return where, seen[where][1]


def _own_stack(frame: FrameType, ceiling: CodeType | None) -> list[FrameType]:
    """The frames below the loop's own, innermost first; empty when it runs nothing."""
    stack: list[FrameType] = []
    at: FrameType | None = frame
    while at is not None and len(stack) < _DEEPEST:
        if at.f_code is ceiling:
            return stack
        stack.append(at)
        at = at.f_back
    # Nowhere below the code that runs callbacks: it waits in the selector, or is on the way there. Too
    # deep to tell, it is a recursion of somebody's.
    return stack if at is not None else []


def is_of_the_library(frame: FrameType) -> bool:
    """Whether it is a line of the standard library."""
    name = frame.f_code.co_filename
    return name.startswith("<frozen") or (name.startswith(_LIBRARY) and "-packages" not in name)


def line_of(frame: FrameType) -> str:
    """``file:line in function``."""
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno or code.co_firstlineno} in {code.co_qualname}"

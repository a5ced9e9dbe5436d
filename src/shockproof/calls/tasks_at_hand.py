"""
The tasks that the functions of a failed attempt had at hand: what they have begun, and perhaps waited for.

Looked for in their frames, to which the error's traceback leads, and only when an attempt has failed.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Final

from shockproof.calls.strangers import is_really

__all__ = ["tasks_at_hand"]

_LONGEST_CHAIN: Final = 16
_COLLECTIONS: Final = (list, tuple, set, frozenset, dict)
_MOST: Final = 1000
"""Members of a list or a set that are looked at."""


def tasks_at_hand(
    error: BaseException,
) -> Iterator[asyncio.Task[Any]]:  # Any: whatever they return
    """
    Those in local variables of the frames that *error* came through, and the errors that it was made of.

    What came from around the attempt was not begun by it: a parameter of its outermost function, a closure, and what stands in the
    frame that caught the error. That is ours, or the one around a block, of which nobody knows what it held before.
    """
    inside = set[FrameType]()
    one: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if one is None:
            return
        frames = list(_frames_of(one.__traceback__))
        if inside and not (frames and frames[0] in inside):
            return  # it was raised around the attempt, and is being handled there
        for position, frame in enumerate(frames):
            if frame in inside:
                continue
            inside.add(frame)
            if position > 0:
                yield from _tasks_in(frame, with_parameters=position > 1 or one is not error)
        one = one.__cause__ or one.__context__


def _frames_of(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _tasks_in(frame: FrameType, *, with_parameters: bool) -> Iterator[asyncio.Task[Any]]:  # Any: as above
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED:
        return  # a module's, whose variables are everybody's
    here = asyncio.current_task()
    values = frame.f_locals
    given = code.co_argcount + code.co_kwonlyargcount
    given += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    names = code.co_varnames if with_parameters else code.co_varnames[given:]
    for name in dict.fromkeys((*names, *code.co_cellvars)):
        value: Any = values.get(name)  # Any: the user's
        if is_really(value, asyncio.Task):
            yield value
        elif type(value) in _COLLECTIONS and len(value) <= _MOST:
            members = tuple(value.values() if type(value) is dict else value)
            # Where this task is among them, they are all that run, and not what it has begun.
            if not any(member is here for member in members):
                yield from (member for member in members if is_really(member, asyncio.Task))

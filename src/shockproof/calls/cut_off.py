"""
What goes on where a coroutine was cut off: a thread that it has waited for, or what it has protected by ``asyncio.shield``.

Cancelled, it stops waiting for them, and they may send all the same. asyncio says nowhere in public what a future stands
for. That is read with care in private places: where something is not as expected, nothing is known to go on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Generator
from types import CoroutineType, FrameType, FunctionType
from typing import Any, Final

from shockproof.calls.who_waits import frames_in

__all__ = ["GoesOn", "seen_when_cut_off"]

GoesOn = asyncio.Future[Any] | concurrent.futures.Future[Any]  # Any: nobody asks for the result

_LOOK_UPS: Final = ("getaddrinfo", "getnameinfo")
_THEIRS: Final = (asyncio.futures.__name__, asyncio.tasks.__name__)


def seen_when_cut_off(
    awaitable: Awaitable[Any],  # Any: whatever it returns
    tell: Callable[[list[GoesOn]], None],
) -> Awaitable[Any]:  # Any: as above
    """
    The same to be awaited, of which *tell* hears when it ends with an error: what it was cut off from, and goes on.

    Only what it awaits itself is known, and not what a task that it waits for was cut off from.
    """
    return _Steps(awaitable, tell) if isinstance(awaitable, CoroutineType) else awaitable


class _Steps:
    """Those of a coroutine, one after the other. Whoever looks for its frames sees through it."""

    __slots__ = ("_coroutine", "_cut_off_from", "_protected", "_tell")

    def __init__(
        self,
        coroutine: CoroutineType[Any, Any, Any],  # Any: what it awaits and returns
        tell: Callable[[list[GoesOn]], None],
    ) -> None:
        self._coroutine = coroutine
        self._tell = tell
        self._protected: list[GoesOn] = []
        """What stands behind that which it awaits now."""
        self._cut_off_from: list[GoesOn] = []

    def __await__(self) -> Generator[Any, Any, Any]:  # Any: as above
        return self

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:  # Any: as above
        return self.send(None)

    def send(self, value: Any) -> Any:  # Any: as above
        return self._step(self._coroutine.send, value)

    def throw(self, *raised: Any) -> Any:  # Any: as above
        try:
            if isinstance(raised[0], asyncio.CancelledError):
                self._cut_off_from += self._protected
            return self._step(self._coroutine.throw, *raised)
        finally:
            del raised  # its traceback holds this frame: no cycle

    def close(self) -> None:
        self._coroutine.close()

    @property
    def cr_frame(self) -> FrameType | None:
        return self._coroutine.cr_frame

    @property
    def cr_await(self) -> Any:  # Any: as above
        return self._coroutine.cr_await

    def _step(self, step: Callable[..., Any], *of: Any) -> Any:  # Any: as above
        try:
            awaited = step(*of)
        except StopIteration:
            raise
        except BaseException:
            self._tell([one for one in self._cut_off_from if not one.done() and not _asks_for_a_name(one)])
            raise
        finally:
            del of  # as above
        found = _behind(awaited)
        self._protected = [] if found and _is_asking_for_a_name(self._coroutine) else found
        return awaited


def _asks_for_a_name(going_on: GoesOn) -> bool:
    return isinstance(going_on, asyncio.Task) and _is_asking_for_a_name(going_on.get_coro())


def _is_asking_for_a_name(coroutine: object) -> bool:
    # Each connection begins with that, in a thread of asyncio's, and it sends nothing to the venue.
    return any(
        frame.f_code.co_name in _LOOK_UPS and frame.f_globals.get("__name__") == asyncio.base_events.__name__
        for frame in frames_in(coroutine)
    )


def _behind(awaited: object) -> list[GoesOn]:
    """What goes on when *awaited* is cancelled, if it has begun: what it was chained to, or shields."""
    found: list[GoesOn] = []
    for callback, _ in getattr(awaited, "_callbacks", None) or ():
        if isinstance(callback, FunctionType) and callback.__module__ in _THEIRS:
            for cell in callback.__closure__ or ():
                try:
                    held = cell.cell_contents
                except ValueError:  # not bound yet
                    continue
                if held is not awaited and isinstance(held, asyncio.Future | concurrent.futures.Future):
                    found.append(held)
    return found

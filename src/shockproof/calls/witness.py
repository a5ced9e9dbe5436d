"""
How one attempt ends, seen from inside of it: that may be long after everybody has stopped waiting for it.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from shockproof.calls.callables import is_async, name_of
from shockproof.calls.cut_off import GoesOn, seen_when_cut_off
from shockproof.calls.running_around import awaited_in_order, in_order
from shockproof.vocabulary.look_up import Found

__all__ = ["Witness", "witnessed"]

LateEnd = Callable[["Found[Any] | None", "BaseException | None"], None]  # Any: what the function returned


class Witness:
    """
    Of one attempt, in whatever thread or task it runs.

    Its end is told to exactly one: to the caller, who still waits; to `give_up`, where it had just ended; or else,
    whenever it comes, to *late*: with what the function returned, or with the error that it ended with.
    """

    __slots__ = ("_found", "_going_on", "_is_given_up", "_is_running", "_late", "_lock", "was_cut_off")

    def __init__(self, late: LateEnd) -> None:
        self._late = late
        self._lock = threading.Lock()
        self._is_running = False
        self._is_given_up = False
        self._found: Found[Any] | None = None  # Any: as above
        self._going_on = 0
        self.was_cut_off = False
        """It has ended, and what it was cut off from has not: what that does, neither its error nor its result tells."""

    def begins(self) -> None:
        """From here on it runs by itself, and the caller may leave it behind."""
        with self._lock:
            self._is_running = True

    def returns(self, result: object) -> None:
        """It has ended; where it was cut off, of that nothing is kept, as of an error."""
        if self.was_cut_off:
            return
        # What still has to be awaited is awaited by the caller.
        found = None if inspect.isawaitable(result) else Found(result)
        with self._lock:
            self._is_running, self._found = False, found
            is_late = self._is_given_up
        if is_late:
            self._late(found, None)

    def raises(self, error: BaseException) -> None:
        """It has ended with an error, of which nothing is kept."""
        if not self.was_cut_off:
            self._ends(error)

    def cut_off_from(self, going_on: list[GoesOn]) -> None:
        """It ends, and really only when all that is *going_on* has ended."""
        if not going_on:
            return
        with self._lock:
            self._is_running = self.was_cut_off = True
            self._going_on = len(going_on)
        for one in going_on:
            one.add_done_callback(self._one_has_ended)

    def _one_has_ended(self, _: GoesOn) -> None:
        with self._lock:
            self._going_on -= 1
            is_last = self._going_on == 0
        if is_last:
            self._ends(asyncio.CancelledError())  # whatever it was, nobody has seen the answer

    def _ends(self, error: BaseException) -> None:
        with self._lock:
            self._is_running = False
            is_late = self._is_given_up
        if is_late:
            self._late(None, error)

    def give_up(
        self, leave: Callable[[], None]
    ) -> Found[Any] | Literal["left behind", "over"]:  # Any: as above
        """
        Nobody waits for it any more. What it returned, if it did before that.

        If it goes on, *leave* is called before *late* can be.
        """
        with self._lock:
            if not self._is_running:
                return "over" if self._found is None else self._found
            self._is_given_up = True
            leave()
            return "left behind"

    def dismiss(self) -> None:
        """The call has ended: where it was not given up, nobody is to hear of it any more, nor kept alive for that."""
        with self._lock:
            if not self._is_given_up:
                self._late = _nobody


def _nobody(found: Found[Any] | None, error: BaseException | None) -> None:  # Any: as above
    """Hears of the end."""


def witnessed(
    fn: Callable[..., Any],  # Any: the function's own arguments and result
    by: Callable[[], Witness],
    *,
    order: object,
    now: Callable[[], float],
    refusal: Callable[[], Exception | None],
    has_own_task: bool,
    result_may_refuse: bool,
) -> Callable[..., Any]:  # Any: as above
    """
    *fn*, each attempt of which is seen by what *by* gives at its beginning.

    It may have waited for its thread or task, and its program may have stood still: what *refusal* gives in its first step,
    is raised in its place.

    A coroutine without a task of its own cannot be left behind, but for what it was cut off from: that is looked for when it
    ends with an error, and also with a result if *result_may_refuse*, which is what a classification may read in it. Whatever form it has,
    what is called inside knows that it is a part of *order*, whose clock says *now*, for as long as the attempt really runs.
    """
    seen = partial(seen_when_cut_off, result_may_refuse=result_may_refuse)
    if is_async(fn) and not has_own_task:

        async def in_place(*args: Any, **kwargs: Any) -> Any:  # Any: as above
            _raise_if_refused(refusal)
            with in_order(order, now):
                return _awaited_to_the_end(fn, await seen(fn(*args, **kwargs), by().cut_off_from))

        in_place.__name__ = name_of(fn)
        return in_place

    async def awaited(*args: Any, **kwargs: Any) -> Any:  # Any: as above
        witness = by()
        witness.begins()
        try:
            _raise_if_refused(refusal)
            with in_order(order, now):
                result = _awaited_to_the_end(fn, await seen(fn(*args, **kwargs), witness.cut_off_from))
        except BaseException as error:
            witness.raises(error)
            raise
        witness.returns(result)
        return result

    def called(*args: Any, **kwargs: Any) -> Any:  # Any: as above
        witness = by()
        witness.begins()
        try:
            _raise_if_refused(refusal)
            with in_order(order, now):
                result = fn(*args, **kwargs)
        except BaseException as error:
            witness.raises(error)
            raise
        witness.returns(result)
        if not inspect.isawaitable(result):
            return result
        return awaited_in_order(order, now, seen(result, witness.cut_off_from))

    watched: Callable[..., Any] = awaited if is_async(fn) else called  # Any: as above
    watched.__name__ = name_of(fn)
    return watched


def _awaited_to_the_end(fn: Callable[..., Any], result: Any) -> Any:  # Any: as above
    """*result*, unless it is what an ``await`` that was forgotten leaves: no order, and journalled as placed for good."""
    if not inspect.iscoroutine(result):
        return result
    result.close()
    raise TypeError(
        f"{name_of(fn)} gave the coroutine {result.__qualname__}(...), which nobody has awaited, so that it was never run: "
        "await it in there"
    )


def _raise_if_refused(refusal: Callable[[], Exception | None]) -> None:
    error = refusal()
    if error is None:
        return
    try:
        raise error
    finally:
        del error  # its traceback holds this frame: no cycle

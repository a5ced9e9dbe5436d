"""
A connection in a task of its own, so that a source which ignores its cancellation cannot hold the reader.

The task reads an item only when it is asked for one: nothing is buffered. It opens, reads and closes, so
that a source may count on being in one and the same task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from shockproof.calls.limits import Held
from shockproof.calls.orders_inside import begin_part_of
from shockproof.calls.source import Source
from shockproof.memory.services.service_state import ServiceState

__all__ = ["SourceInOwnTask"]

T = TypeVar("T")

# What was abandoned must be referenced by somebody until it ends: the loop itself does not.
_abandoned: set[asyncio.Task[None]] = set()


class SourceInOwnTask(Generic[T]):
    """A `Source` behind a task: whoever waits for it can leave at once."""

    __slots__ = (
        "_answer",
        "_asked",
        "_grace",
        "_held",
        "_is_closing",
        "_reason",
        "_source",
        "_state",
        "_task",
    )

    def __init__(self, source: Source[T], state: ServiceState, grace: float, held: Held | None) -> None:
        self._source = source
        self._state = state
        self._grace = grace
        self._held = held
        self._task: asyncio.Task[None] | None = None
        self._asked: asyncio.Future[None] | None = None
        self._answer: asyncio.Future[Any] | None = None  # Any: an item, or nothing when it was opened
        self._is_closing = False
        self._reason: BaseException | None = None

    @property
    def is_opened_by_hand(self) -> bool:
        """See `Connection`."""
        return self._source.is_opened_by_hand

    @property
    def read(self) -> Callable[[], Awaitable[T]]:
        """See `Connection`."""
        return self._next

    async def open(self) -> None:
        """See `Connection`."""
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._task = loop.create_task(self._serve(asyncio.current_task()))
        await self._answer

    async def _next(self) -> T:
        assert self._asked is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._asked.set_result(None)
        item: T = await self._answer
        return item

    async def _serve(self, reader: asyncio.Task[Any] | None) -> None:  # Any: whatever it returns
        begin_part_of(reader)
        error: BaseException | None = None
        item: T | None = None
        try:
            await self._source.open()
            while True:
                self._asked = asyncio.get_running_loop().create_future()
                if self._answer is not None and not self._answer.done():  # else nobody waits any more
                    self._answer.set_result(item)
                await self._asked
                item = await self._source.read()
        except asyncio.CancelledError as cancelled:
            error = cancelled
            raise
        except BaseException as failure:  # noqa: BLE001 - it is the reader's
            error = failure
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(failure)
        finally:
            self._is_closing = True
            try:
                await self._source.close(self._reason or error)
            finally:
                self._reason = error = None  # its traceback holds this frame: no cycle

    async def close(self, error: BaseException | None) -> None:
        """
        Close it within the grace; one that takes longer is left behind.

        It is counted in ``abandoned_attempts`` until it really ends, and keeps so long what is held. Another
        cancellation ends even that wait.
        """
        task, self._task = self._task, None
        if task is None:
            return
        if not self._is_closing:
            self._reason = error
            task.cancel()
        try:
            await asyncio.wait({task}, timeout=self._grace)
        finally:
            self._answer = self._asked = None
            if task.done():
                _look_at(task)
            else:
                task.cancel()
                self._state.abandon_attempt()
                _abandoned.add(task)
                if self._held is not None:
                    self._held.keep()
                task.add_done_callback(self._came_back)

    def _came_back(self, task: asyncio.Task[None]) -> None:
        _abandoned.discard(task)
        self._state.attempt_came_back()
        if self._held is not None:
            self._held.really_ended()
        _look_at(task)


def _look_at(task: asyncio.Task[None]) -> None:
    # An error nobody looks at is reported when the task is collected; this one has no reader left.
    if not task.cancelled():
        task.exception()

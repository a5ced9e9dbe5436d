"""
One connection of a feed: opened, read an item at a time, closed.

Libraries give their connections in different forms; here they are all one.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar

from shockproof.calls.callables import is_async, name_of

__all__ = ["Connect", "Connection", "Source", "UnusableSourceError", "check_connect"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Any: what `connect` gives is looked at when it is there
Connect = Callable[[], Any]
"""Gives an async iterable, an async context manager of one, or an awaitable of either."""

_log = logging.getLogger("shockproof")


class UnusableSourceError(Exception):
    """Carries a mistake of the caller's out of the attempt: it is no verdict on the service."""

    def __init__(self, mistake: Exception) -> None:
        super().__init__(mistake)
        self.mistake = mistake


def check_connect(connect: object) -> None:
    """
    Refuse what cannot be opened again, with the way out.

    Raises:
        TypeError: it is no function.
    """
    if callable(connect):
        return
    shown = repr(connect)
    if inspect.iscoroutine(connect) or inspect.isasyncgen(connect):
        shown = f"{connect.__qualname__}(...)"
    if inspect.iscoroutine(connect):
        connect.close()  # it will never run: without this Python warns that it was never awaited
    raise TypeError(
        f"connect must be a function that opens the feed, so that it can be opened again; got {shown}: "
        "pass the function itself, or a lambda"
    )


class Connection(Protocol[T_co]):
    """What a stream reads from: a `Source`, in the reader's task or in one of its own."""

    @property
    def is_opened_by_hand(self) -> bool:
        """Whether `open` has connected; a plain iterator connects when its first item is asked for."""
        ...

    @property
    def read(self) -> Callable[[], Awaitable[T_co]]:
        """Gives the next item; ends with StopAsyncIteration."""
        ...

    async def open(self) -> None:
        """
        Call `connect`, await and enter what it gives, and get its iterator.

        Raises:
            UnusableSourceError: it cannot be called so, or gives nothing that can be read.
            Exception: the connection's own error.
        """
        ...

    async def close(self, error: BaseException | None) -> None:
        """Close what was opened; *error* is why. A failure in that is logged: the feed is gone anyway."""
        ...


class Source(Generic[T]):
    """A connection in the task that reads it."""

    __slots__ = ("_connect", "_iterator", "_manager", "_source", "is_opened_by_hand")

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._manager: AbstractAsyncContextManager[Any] | None = None  # Any: what it gives is looked at
        self._source: Any = None  # Any: as above
        self._iterator: AsyncIterator[T] | None = None
        self.is_opened_by_hand = False

    @property
    def read(self) -> Callable[[], Awaitable[T]]:
        """See `Connection`."""
        assert self._iterator is not None
        return self._iterator.__anext__

    async def open(self) -> None:
        """See `Connection`."""
        try:
            source = self._connect()
        except TypeError as mistake:
            if is_async(self._connect) or inspect.isasyncgenfunction(self._connect):
                raise UnusableSourceError(mistake) from None  # its arguments: nothing of it has run
            raise
        if not _is_manager(source) and inspect.isawaitable(source):
            source = await source
            self.is_opened_by_hand = True
        if _is_manager(source):
            self._manager = source
            try:
                source = await source.__aenter__()
            except BaseException:
                self._manager = None  # what failed to open closes itself
                raise
            self.is_opened_by_hand = True
        self._source = source
        if not isinstance(source, AsyncIterable):
            raise UnusableSourceError(
                TypeError(
                    f"{name_of(self._connect)} gave {source!r}, which cannot be read with `async for`: give an "
                    "async iterator, an async context manager of one, or await one"
                )
            )
        self._iterator = source.__aiter__()

    async def close(self, error: BaseException | None) -> None:
        """The iterator first, then what it came from. Safe to call twice, also when it was cancelled half-way."""
        iterator, source, manager = self._iterator, self._source, self._manager
        self._iterator = self._source = self._manager = None
        try:
            # A generator that a context manager has given is nobody else's.
            if iterator is not None and (iterator is not source or inspect.isasyncgen(iterator)):
                await _close(iterator)
        finally:
            if manager is not None:
                try:
                    await manager.__aexit__(
                        None if error is None else type(error),
                        error,
                        None if error is None else error.__traceback__,
                    )
                except Exception as failure:  # noqa: BLE001 - see above
                    if failure is not error:
                        _log.warning("a feed could not be closed", exc_info=failure)
            elif source is not None:
                await _close(source)


async def _close(source: Any) -> None:  # Any: whatever can be read
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    if close is None:
        return
    try:
        closing = close()
        if inspect.isawaitable(closing):
            await closing
    except Exception as failure:  # noqa: BLE001 - the feed is gone anyway
        _log.warning("a feed could not be closed", exc_info=failure)


def _is_manager(source: object) -> bool:
    kind = type(source)
    return hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__")

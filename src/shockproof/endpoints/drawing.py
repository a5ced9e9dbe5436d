"""
Pages that grow with the number of services, made in a thread: nobody who reads holds the loop.

The thread is our own, as the default executor's are shared with DNS look-ups; it is there while it has something to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, TypeVar

from shockproof.memory.disk.writer import after_fork, wait_on_this_loop

__all__ = ["MOST_WAITING", "Drawing"]

MOST_WAITING: Final = 4
"""Pages that have not been begun, each for any number of readers."""

T = TypeVar("T")


class _Page(NamedTuple):
    make: Callable[[], object]
    readers: list[Future[Any]]  # Any: what this page is made of


class Drawing:
    """Makes one page at a time, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        # Also in a forked child: the thread and those who wait for it are the parent's.
        self._lock = threading.Lock()
        self._waiting: dict[str, _Page] = {}
        """By key, those that have not been begun."""
        self._is_at_work = False

    async def made(self, key: str, make: Callable[[], T]) -> T | None:
        """
        What *make* returns, or raises, in the thread. Whoever asks for *key* before it was begun, gets the same one.

        None: as many others as `MOST_WAITING` are there already. Cancelled, it is not begun, unless somebody else waits for it.
        """
        reader = Future[T]()
        with self._lock:
            page = self._waiting.get(key)
            if page is None:
                if len(self._waiting) >= MOST_WAITING:
                    return None
                if not self._is_at_work:
                    # It comes to the lock after this block.
                    threading.Thread(target=self._work, name="shockproof-endpoints", daemon=True).start()
                    self._is_at_work = True
                page = self._waiting[key] = _Page(make, [])
            page.readers.append(reader)
        return await wait_on_this_loop(reader)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_at_work = False
                    return
                page = self._waiting.pop(next(iter(self._waiting)))
            _make(page)


def _make(page: _Page) -> None:
    readers = [reader for reader in page.readers if reader.set_running_or_notify_cancel()]
    if not readers:
        return
    try:
        made = page.make()
    except BaseException as error:  # noqa: BLE001 - it is raised again where somebody waits for it
        for reader in readers:
            reader.set_exception(error)
    else:
        for reader in readers:
            reader.set_result(made)

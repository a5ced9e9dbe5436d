"""
What was sent under rate limits, kept for a life that follows a kill: ``rate_limits.json``, written ahead of what is sent.

The file tells what was sent until it was written, and how much more may be sent until it is written again. So it is never less
than what the other side counts, as long as it is written before a block is used up: when half of one is used, that is
asked for, and no call waits for it. It is replaced in a thread of its own, for a large state holds the disk's for seconds.

It is written from `begin` on, when this life knows what the one before has left: else that would be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import math
import os
import threading
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from shockproof.memory.disk.damaged_files import set_aside
from shockproof.memory.disk.directory import DurableDirectory
from shockproof.memory.disk.file_layer import PATIENCE, FileLayer, SystemFiles, write_all
from shockproof.memory.disk.writer import DiskThread, after_fork, at_exit, wait_on_this_loop
from shockproof.memory.services.registry import Registry
from shockproof.memory.services.service_state import ServiceState
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.moment import Moment

__all__ = ["FILE_NAME", "EarlierSends", "KeptSends"]

FILE_NAME: Final = "rate_limits.json"
_LEFTOVER: Final = f".{FILE_NAME}."
_TEMPORARY: Final = ".tmp"
_FORMAT_VERSION: Final = 1
_MOST_BYTES: Final = 1 << 26
_AGAIN_AFTER: Final = 1.0
"""Seconds for which a disk that has refused is left alone."""

_log = logging.getLogger("shockproof")
_numbers = itertools.count(1)


class EarlierSends(NamedTuple):
    """What an earlier life has left."""

    at: Moment
    """When it was told."""
    services: Mapping[str, Any]  # Any: JSON
    """Of each what `RollingWindows.export` gave, and under ``reserved`` how much more of each name may have been sent."""


class KeptSends:
    """
    The file of one recovery service; what it writes, *registry* tells.

    *moment* reads what another life can tell the time by. *submit* runs a function in the thread that writes, one after the other. Default: one of its own.
    """

    def __init__(
        self,
        directory: Path,
        *,
        registry: Registry,
        clock: Clock,
        moment: Callable[[], Moment],
        submit: Callable[[Callable[[], None]], Future[None]] | None = None,
        layer: FileLayer | None = None,
    ) -> None:
        self._directory = directory
        self._registry = registry
        self._clock = clock
        self._moment = moment
        self._submit = DiskThread(f"shockproof-sends {directory}").submit if submit is None else submit
        self._layer: FileLayer = SystemFiles() if layer is None else layer
        self._durable_directory = DurableDirectory(self._layer, directory)
        self._names: set[str] = set()
        """The services that have or had a rate limit: there may be many others."""
        self._is_there = False
        """Whether there is a file, as far as is known."""
        self._damage: str | None = None
        """Why the file that is there cannot be read."""
        self._has_tidied_up = False
        self._is_over = True
        """Whether it tells of nothing that is still to be sent."""
        self._rests_until = -math.inf
        self.last_error: str | None = None
        """Why it could not be written."""
        self._in_the_child()
        after_fork(self._in_the_child)

    def _in_the_child(self) -> None:
        # The file is the parent's there.
        self.is_on = False
        self._is_asked = False
        self._lock = threading.Lock()
        self._unanswered: dict[Future[None], float] = {}
        """What was asked of the disk, and when: monotonic."""

    # -- what an earlier life has left ---------------------------------------------------------------

    async def earlier(self) -> EarlierSends | None:
        """
        What the file tells, before `begin`; None: there is none that can be read, which is logged.

        The disk is only read here: one that hangs as soon as something is written has told it. Cancelled, only the waiting ends.
        """
        found: list[EarlierSends | None] = []
        try:
            await wait_on_this_loop(self._submit(lambda: found.append(self._read())))
        except RuntimeError as error:  # the system has no thread left
            _log.warning("what was sent under rate limits cannot be read: %s", error)
        return found[0] if found else None

    def _read(self) -> EarlierSends | None:
        path = self._directory / FILE_NAME
        try:
            content = self._layer.read(path, _MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _log.warning("what was sent under rate limits cannot be read from %s: %s", path, error)
            return None
        self._is_there = True
        try:
            return _decoded(content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._damage = f"{type(error).__name__}: {error}"
            _log.warning(
                "what was sent under rate limits is not known: %s is damaged (%s)", path, self._damage
            )
            return None

    # -- what this one sends -------------------------------------------------------------------------

    async def begin(self) -> None:
        """
        From now on the file is never less than what was sent; returns when it tells of all services that are there.

        A disk that refuses, or has not answered within `PATIENCE`, is logged, and asked again at the next call. Cancelled, only
        the waiting ends.
        """
        self.is_on = True
        at_exit(self._write_at_exit)
        for state in self._registry.all():
            if state.windows is not None:
                self.watch(state)
        if not (self._names or self._is_there):
            return
        self._is_over = False
        try:
            async with asyncio.timeout(PATIENCE):
                await self._written(is_last=False)
        except TimeoutError:
            _log.warning(
                "what is sent under rate limits would be forgotten after a kill, as long as %s is not written: the disk has not "
                "answered within %g s",
                self._directory / FILE_NAME,
                PATIENCE,
            )

    def watch(self, state: ServiceState) -> None:
        """*state* has a rate limit, or may get one."""
        self._names.add(state.name)
        if state.limits is not None:
            state.limits.keep(self.soon)

    def soon(self) -> None:
        """Have it written soon, from any thread; those who ask meanwhile are answered with it."""
        if not self.is_on:
            return
        now = (
            self._clock.monotonic()
        )  # here: a loop may have a time of its own, which the thread does not know
        if now < self._rests_until:
            return
        with self._lock:
            was_asked, self._is_asked = self._is_asked, True
        if was_asked:
            return
        self._is_over = False
        try:
            self._ask(lambda: self._write_if_low(now), now)
        except RuntimeError:  # the system has no thread left: the next call asks again
            self._is_asked = False

    async def end(self) -> None:
        """Return when the file tells what was sent and nothing more; a disk that refuses is logged, and what it tells is enough."""
        if self.is_on and not self._is_over:
            await self._written(is_last=True)

    async def _written(self, *, is_last: bool) -> None:
        now = self._clock.monotonic()
        with contextlib.suppress(Exception):  # logged; without a thread the next call asks again
            await wait_on_this_loop(self._ask(lambda: self._write(now, is_last=is_last), now))

    def _ask(self, job: Callable[[], None], now: float) -> Future[None]:
        asked = self._submit(job)
        self._unanswered[asked] = now
        asked.add_done_callback(self._answered)
        return asked

    def _answered(self, asked: Future[None]) -> None:
        self._unanswered.pop(asked, None)

    def report(self, now: float) -> dict[str, Any]:  # Any: texts, and nothing
        """For the health, at *now* (monotonic): whether what is sent is kept, and why not."""
        waits = round(now - min(list(self._unanswered.values()), default=now), 3)
        why = f"the disk has not answered for {waits:.0f} s" if waits >= PATIENCE else self.last_error
        return {
            "state": "closed" if not self.is_on else "ok" if why is None else "degraded",
            "last_error": why,
        }

    def _write_at_exit(self, timeout: float) -> str | None:
        if not self.is_on or self._is_over:
            return None
        now = self._clock.monotonic()
        try:
            self._submit(lambda: self._write(now, is_last=True)).result(timeout)
        except Exception:  # noqa: BLE001  told here, whatever it is
            return f"{self._directory / FILE_NAME} tells of more than was sent under rate limits: {self.last_error}"
        return None

    # -- in the thread that writes -------------------------------------------------------------------

    def _write_if_low(self, now: float) -> None:
        self._is_asked = False  # first: who asks from here on is answered by another one
        if any(windows.reserved is not None and windows.reserved.is_low for _, windows in self._windows()):
            with contextlib.suppress(Exception):  # logged
                self._write(now, is_last=False)

    def _windows(self) -> list[tuple[str, Any]]:  # Any: RollingWindows
        found = []
        for name in list(self._names):
            state = self._registry.get(name)
            # What processes share knows of what each has sent.
            if state is not None and state.shared_limit is None and state.windows is not None:
                found.append((name, state.windows))
        return found

    def _write(self, now: float, *, is_last: bool) -> None:
        try:
            told = self._tell(now, is_last=is_last)
        except Exception as error:
            self._rests_until = now + _AGAIN_AFTER
            if self.last_error is None:
                _log.warning(
                    "what is sent under rate limits from now on would be forgotten after a kill: %s cannot be written: %s",
                    self._directory / FILE_NAME,
                    error,
                    exc_info=None if isinstance(error, OSError) else error,  # else it is a mistake of ours
                )
            self.last_error = f"{type(error).__name__}: {error}"
            raise
        self._is_there, self._is_over, self.last_error = True, is_last, None
        for windows, ahead in told:
            windows.told(ahead)

    def _tell(
        self, now: float, *, is_last: bool
    ) -> list[tuple[Any, Any]]:  # Any: RollingWindows and its Ahead
        # It was asked for at *now*; what is counted from there until it is written only seems to be younger than it is.
        told, services = [], {}
        for name, windows in self._windows():
            ahead = windows.ahead(
                is_last=is_last
            )  # before: what is sent in between counts twice rather than not at all
            reserved = {} if ahead is None else {one: count for one, count in ahead.reserved.items() if count}
            if reserved or not windows.is_untouched(now):
                services[name] = {**windows.export(now), "reserved": reserved}
            if ahead is not None:
                told.append((windows, ahead))
        at = self._moment()
        content = {
            "format_version": _FORMAT_VERSION,
            "written_at": at.wall,
            "running": at.running,
            "boot": at.boot,
            "services": services,
        }
        for windows, _ in told:
            windows.marked(at.wall)
        self._durable_directory.make()
        self._tidy_up()
        self._replace(_encoded(content))
        return told

    def _tidy_up(self) -> None:
        """What the life before has left beside it, once in a life."""
        if self._damage is not None:
            at = datetime.fromtimestamp(self._clock.time(), UTC)
            damaged = set_aside(self._layer, self._directory, FILE_NAME, self._damage, at)
            self._damage = None  # where that is refused, it is replaced
            if damaged.moved_to is not None:
                _log.warning("%s was set aside as %s", damaged.path, damaged.moved_to)
        if self._has_tidied_up:
            return
        for name in self._layer.list_directory(self._directory):
            if name.startswith(_LEFTOVER) and name.endswith(_TEMPORARY):
                with contextlib.suppress(OSError):
                    self._layer.unlink(self._directory / name)
        self._has_tidied_up = True

    def _replace(self, content: bytes) -> None:
        # Not `replace_durably`, which needs the lock of the directory: a large state holds it for seconds.
        temporary = self._directory / f"{_LEFTOVER}{os.getpid()}-{next(_numbers)}{_TEMPORARY}"
        handle = self._layer.create(temporary)
        try:
            try:
                write_all(self._layer, handle, content)
                self._layer.fsync(handle)
            finally:
                self._layer.close(handle)
            self._layer.replace(temporary, self._directory / FILE_NAME)
        except BaseException:
            with contextlib.suppress(OSError):
                self._layer.unlink(temporary)
            raise
        self._layer.fsync_directory(self._directory)


def _encoded(content: dict[str, Any]) -> bytes:  # Any: JSON
    # What json.dumps makes of it with sorted keys, service by service: it holds the interpreter to its end.
    services = ", ".join(
        f"{json.dumps(name)}: {json.dumps(one, sort_keys=True)}"
        for name, one in sorted(content["services"].items())
    )
    around = json.dumps({**content, "services": 0}, sort_keys=True)
    text = around.replace('"services": 0', f'"services": {{{services}}}', 1)
    return f'{text[:-1]}, "checksum": {zlib.crc32(text.encode())}}}\n'.encode()


def _decoded(read: bytes) -> EarlierSends:
    content = json.loads(read)
    checksum = content.pop("checksum")
    if checksum != zlib.crc32(json.dumps(content, sort_keys=True).encode()):
        raise ValueError("its checksum is wrong")
    if content["format_version"] != _FORMAT_VERSION:
        raise ValueError("a newer shockproof has written it")
    at = Moment.from_dict(
        {"wall": content["written_at"], "running": content["running"], "boot": content["boot"]}
    )
    if at is None:
        raise ValueError("it does not say when it was written")
    return EarlierSends(at, dict(content["services"]))

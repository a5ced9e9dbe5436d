"""
The kill switch of one recovery service: whether anything but reads and what reduces risk may be sent.

In memory it acts at once. The mark on the disk, ``halted.json``, is what the next life finds: it is read
before the first write of a life can go out, and as long as nobody has read it, nothing is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from shockproof.memory.disk.directory import make_durable
from shockproof.memory.disk.durable_file import Replacement, replace_durably
from shockproof.memory.disk.file_layer import FileLayer, NotAFileError, SystemFiles
from shockproof.memory.disk.writer import after_fork, at_exit, wait_on_this_loop
from shockproof.memory.services.waiters import wake_all
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import StateNotSavedError

__all__ = ["FILE_NAME", "Halt", "Mark", "read_mark"]

FILE_NAME: Final = "halted.json"
_ASIDE: Final = "damaged"

_FORMAT_VERSION: Final = 1
_MOST_BYTES: Final = 1 << 20

_log = logging.getLogger("shockproof")


class Mark(NamedTuple):
    """Why it was halted, and when: wall time, seconds since 1970 UTC."""

    reason: str
    since: float


class _Durable(Awaitable[None]):
    """What `Halt.halt` and `Halt.resume` give: to be awaited by who wants to know that it is durable."""

    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, Any, None]:  # Any: what the loop and the future tell each other
        return wait_on_this_loop(self._future).__await__()


class Halt:
    """
    Halted or not, for all services of one recovery service, their threads and loops.

    *submit* runs a function in the disk's thread, one after the other. *on_change* is called, in whatever
    thread, after each change of `closes_the_lane`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        submit: Callable[[Callable[[], None]], object],
        on_change: Callable[[], None],
        layer: FileLayer | None = None,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._submit = submit
        self._on_change = on_change
        self._layer: FileLayer = SystemFiles() if layer is None else layer
        self.mark: Mark | None = None
        """Halted since when, and why; None while it is not, as far as is known."""
        self.missing: Callable[[], str | None] | None = None
        """Asked for what is missing to write, where only one process may; None: any may."""
        self.is_known = False
        """Whether the disk was asked, or somebody has decided since."""
        self.last_error: str | None = None
        """Why what was decided last is not durable."""
        self.waiting: set[asyncio.Future[None]] = set()
        """Retry loops of writes that wait between attempts: woken when it is halted."""
        self._decisions = 0
        self._forget_threads()
        after_fork(self._in_the_child)

    def _forget_threads(self) -> None:
        # Also in a forked child: what is under way is the parent's, and so is what is not durable yet.
        self._lock = threading.RLock()
        self._reading: Future[None] | None = None
        self._durable = self._decisions

    def _in_the_child(self) -> None:
        self._forget_threads()
        # Without a word to others, whose locks another thread may have held: orders ask by themselves.
        self.is_known = self.mark is not None

    def forget(self) -> None:
        """
        Ask the disk again before the next write: the directory was given up, or is the parent's, and others may have halted.

        What is halted stays so until the disk has told otherwise.
        """
        with self._lock:
            if not self.is_known or not self.is_durable or self.mark is not None:
                return
            self.is_known, self._reading = False, None
        self._on_change()

    def look_again(self) -> None:
        """`forget`, and ask the disk without waiting for it."""
        self.forget()
        with self._lock:
            if self.is_known or self._reading is not None:
                return
            with contextlib.suppress(RuntimeError):  # the system has no thread left: the next write asks
                self._reading = self._in_the_disks_thread(self._read)

    @property
    def closes_the_lane(self) -> bool:
        """Whether a write has to ask before it goes out."""
        return self.mark is not None or not self.is_known or self.missing is not None

    @property
    def reason(self) -> str | None:
        """Why nothing may be written now: it is halted, or this process is not the one that may; None: it may."""
        mark = self.mark
        if mark is not None:
            return mark.reason
        return None if self.missing is None else self.missing()

    @property
    def is_durable(self) -> bool:
        """Whether the next life would find it as it is now."""
        return self._durable == self._decisions

    # -- by hand -------------------------------------------------------------------------------------

    def halt(self, reason: str) -> Awaitable[None]:
        """From now on nothing is sent that is no read and does not reduce risk; again, and the reason changes."""
        with self._lock:
            since = self._clock.time() if self.mark is None else self.mark.since
            durable = self._decide(Mark(reason, since))
        self._on_change()
        wake_all(self.waiting)
        return durable

    def resume(self) -> Awaitable[None]:
        """Everything may be sent again."""
        with self._lock:
            durable = self._decide(None)
        self._on_change()
        return durable

    def _decide(self, mark: Mark | None) -> _Durable:
        self.mark, self.is_known = mark, True
        self._decisions += 1
        at_exit(self._write_at_exit)
        try:
            return _Durable(self._in_the_disks_thread(self._write))
        except RuntimeError as error:  # the system has no thread left
            self.last_error = f"{FILE_NAME} was not written: {error}"
            _log.critical(self.last_error)
            refused: Future[None] = Future()
            refused.set_exception(StateNotSavedError(self.last_error))
            return _Durable(refused)

    async def flush(self) -> None:
        """
        Return when what was decided is durable; one that the disk has refused is tried once more.

        Raises:
            StateNotSavedError: the disk refuses.
        """
        if not self.is_durable:
            await wait_on_this_loop(self._in_the_disks_thread(self._write))

    def _write_at_exit(self, timeout: float) -> str | None:
        if self.is_durable:
            return None
        try:
            self._in_the_disks_thread(self._write).result(timeout)
        except (StateNotSavedError, TimeoutError, RuntimeError) as error:
            what = "resume()" if self.mark is None else "halt()"
            return f"{what} is not durable: {str(error) or 'the disk did not answer in time'}"
        return None

    # -- what an earlier life left -------------------------------------------------------------------

    async def learn(self) -> None:
        """
        Return when it is known whether an earlier life left it halted; the disk is asked once.

        Raises:
            RuntimeError: the system has no thread left for asking; the next one asks again.

        Cancelled, only the waiting ends.
        """
        with self._lock:
            if self.is_known:
                return
            if self._reading is None:
                self._reading = self._in_the_disks_thread(self._read)
            reading = self._reading
        await wait_on_this_loop(reading)

    def _read(self) -> None:
        mark: Mark | None
        try:
            mark = _mark_of(self._layer.read(self._directory / FILE_NAME, _MOST_BYTES), self._clock.time())
        except (FileNotFoundError, NotADirectoryError):
            mark = None
        except OSError as error:
            # Who cannot know that it is safe to trade does not trade.
            why = f"{type(error).__name__}: {error.strerror or error}"
            mark = Mark(
                f"whether it was halted cannot be read ({why}); resume() lifts this", self._clock.time()
            )
        with self._lock:
            self._reading = None  # it holds those who have waited for it, and their loops
            if self.is_known:
                return  # somebody has decided meanwhile
            self.mark, self.is_known = mark, True
        if mark is not None:
            _log.warning("halted, as an earlier life left it: %s", mark.reason)
        self._on_change()

    # -- in the disk's thread ------------------------------------------------------------------------

    def _in_the_disks_thread(self, work: Callable[[], None]) -> Future[None]:
        told: Future[None] = Future()
        told.set_running_or_notify_cancel()  # whoever stops waiting only stops waiting

        def job() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  whatever it is belongs to the one who waits
                told.set_exception(error)
            else:
                told.set_result(None)

        self._submit(job)
        return told

    def _write(self) -> None:
        with self._lock:
            mark, number = self.mark, self._decisions
        try:
            if mark is None:
                self._remove()
            else:
                make_durable(self._layer, self._directory)
                with self._layer.locked(self._directory):
                    if self._is_no_file():
                        # It halts the next life as well, and could only be replaced with an instant between.
                        _log.warning("%s is no file, and halts as well", self._directory / FILE_NAME)
                        self._layer.fsync_directory(self._directory)
                    else:
                        replace_durably(
                            self._layer, self._directory, [Replacement(FILE_NAME, [_content(mark)])]
                        )
        except Exception as error:
            what = "resumed" if mark is None else "halted"
            text = (
                f"{what} in memory, but {self._directory / FILE_NAME} could not be "
                f"{'removed' if mark is None else 'written'}: {type(error).__name__}: {error}. "
                f"After a restart it would {'still' if mark is None else 'not'} be halted"
            )
            self.last_error = text
            _log.critical(text)
            raise StateNotSavedError(text) from error
        with self._lock:
            self._durable, self.last_error = max(self._durable, number), None

    def _remove(self) -> None:
        try:
            with self._layer.locked(self._directory):
                if self._is_no_file():
                    self._set_aside()
                with contextlib.suppress(FileNotFoundError):
                    self._layer.unlink(self._directory / FILE_NAME)
                self._layer.fsync_directory(self._directory)
        except (FileNotFoundError, NotADirectoryError):
            pass  # no directory, and so no mark

    def _is_no_file(self) -> bool:
        try:
            self._layer.stamp(self._directory / FILE_NAME)
        except NotAFileError:
            return True
        except OSError:
            return False  # nothing is there; or what follows says what is wrong
        return False

    def _set_aside(self) -> None:
        path, aside = self._directory / FILE_NAME, self._directory / _ASIDE
        make_durable(self._layer, aside)
        taken, name = set(self._layer.list_directory(aside)), FILE_NAME
        while name in taken:
            name += "_"
        self._layer.replace(path, aside / name)
        self._layer.fsync_directory(aside)
        _log.warning("%s is no file, and was set aside as %s", path, aside / name)


def read_mark(directory: Path, *, now: float) -> Mark | None:
    """
    What is on the disk, for who only looks; None: not halted. *now* stands in for a time that cannot be read.

    Raises:
        OSError: it cannot be read, and so counts as halted.
    """
    try:
        return _mark_of(SystemFiles().read(directory / FILE_NAME, _MOST_BYTES), now)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _content(mark: Mark) -> bytes:
    since = datetime.fromtimestamp(mark.since, UTC).isoformat()
    fields = {"format_version": _FORMAT_VERSION, "reason": mark.reason, "since": since}
    return (json.dumps(fields, indent=2) + "\n").encode()


def _mark_of(content: bytes, now: float) -> Mark:
    # That the file is there is what counts: whatever stands in it, it is halted.
    if not content.strip():
        return Mark(f"by hand, no reason given: {FILE_NAME} is empty", now)
    try:
        fields = json.loads(content)
        since = datetime.fromisoformat(fields["since"])
        if not 1 < since.year < 9999:
            raise ValueError("that moment does not exist in every time zone")
        return Mark(str(fields["reason"]), since.timestamp())
    except (ValueError, TypeError, KeyError, RecursionError):
        return Mark(f"for a reason that cannot be read: {FILE_NAME} is damaged", now)

"""
Finds calls that touch a file on an event loop, where a slow disk would hold up everything.

The interpreter tells of most such calls itself (`sys.audit`); those of which it does not are replaced in
`os` while somebody watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import stat
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, Final, NamedTuple

from shockproof.calls.sightings import is_of_the_library, line_of

__all__ = ["BlockingFileCall", "no_blocking_files"]

_TOLD: Final = frozenset(
    {
        "open",
        "fcntl.flock",
        "fcntl.lockf",
        "mmap.__new__",
        "os.chmod",
        "os.chown",
        "os.link",
        "os.listdir",
        "os.lockf",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.symlink",
        "os.truncate",
        "os.utime",
        "sqlite3.connect",
    }
)
"""What the interpreter tells of."""

_NOT_TOLD: Final = (
    "access",
    "fdatasync",
    "fsync",
    "lstat",
    "pread",
    "pwrite",
    "read",
    "readv",
    "stat",
    "statvfs",
    "write",
    "writev",
)
"""Functions of `os` of which it does not."""

_RUNS_CALLBACKS: Final = asyncio.events.Handle._run.__code__
_NOT_OURS: Final = ("importlib", "logging")
"""Parts of the standard library that read files for reasons of their own: imports, handlers of the program."""
_IN_DEBUG_MODE: Final = (*_NOT_OURS, "traceback.py")
"""The same on a loop in debug mode: each future and each callback takes down where it was made."""
_DEEPEST: Final = 2_000


class BlockingFileCall(NamedTuple):
    """One call that touched a file on a loop."""

    call: str
    """Such as ``open`` or ``os.fsync``."""
    about: str
    """The path or the file descriptor."""
    where: str
    """``file:line in function``: the innermost line outside of the standard library."""

    def __str__(self) -> str:
        return f"{self.call}({self.about}) at {self.where}"


class _Watch:
    def __init__(self, only: tuple[str, ...]) -> None:
        self.only = only
        self.found: list[BlockingFileCall] = []


_watches: tuple[_Watch, ...] = ()
_is_hooked = False
_lock = threading.Lock()


@contextlib.contextmanager
def no_blocking_files(*only: str | os.PathLike[str]) -> Generator[list[BlockingFileCall]]:
    """
    A block in which nothing may touch a file in a thread whose event loop is running.

    Opening, listing, renaming, deleting, asking for the status, locking, writing and reading with `os`,
    `os.fsync` and ``sqlite3.connect`` are seen, also from inside of C code; what is written to a file
    object that was opened elsewhere is not. Pipes, sockets and devices are no files. Imports, asyncio's debug mode, handlers of `logging` and the threads of shockproof
    itself do not count. The calls are made as ever: nothing is raised where they are.

    Args:
        *only: directories or files: calls made by code elsewhere do not count. Code of the standard library counts as
            the code that called it. Default: none, all code.

    Returns:
        What was found so far, to be looked at in the block.

    Raises:
        AssertionError: at the end of a block that raised nothing itself: all that was found, with its line.
    """
    global _watches
    watch = _Watch(tuple(os.path.abspath(place) for place in only))
    with _lock:
        _hook()
        _watches = (*_watches, watch)
        if len(_watches) == 1:
            _replace()
    try:
        yield watch.found
    finally:
        with _lock:
            _watches = tuple(other for other in _watches if other is not watch)
            if not _watches:
                _put_back()
    if watch.found:
        told = "\n".join(f"  {call}" for call in dict.fromkeys(watch.found))
        raise AssertionError(f"files were touched on a running event loop:\n{told}")


def _hook() -> None:
    global _is_hooked
    if not _is_hooked:
        sys.addaudithook(_audited)  # for ever: there is no way to take it back
        _is_hooked = True


def _audited(event: str, args: tuple[Any, ...]) -> None:  # Any: whatever the event has
    if _watches and event in _TOLD and asyncio._get_running_loop() is not None:
        about = args[0] if args else ""
        if not _is_no_file(about):
            _note(event, about)


_originals: Final[dict[str, Callable[..., Any]]] = {}  # Any: whatever the function takes and gives


def _replace() -> None:
    for name in _NOT_TOLD:
        original = getattr(os, name, None)
        if original is not None:
            _originals[name] = original
            setattr(os, name, _noting(name, original))


def _put_back() -> None:
    for name, original in _originals.items():
        setattr(os, name, original)
    _originals.clear()


def _noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:  # Any: as above
    @functools.wraps(original)
    def noting(*args: Any, **kwargs: Any) -> Any:  # Any: as above
        if asyncio._get_running_loop() is not None and args and not _is_no_file(args[0]):
            _note(f"os.{name}", args[0])
        return original(*args, **kwargs)

    return noting


def _is_no_file(about: object) -> bool:
    """Whether it is a pipe, a socket or a device: what a subprocess is started with, for one."""
    if isinstance(about, int):
        try:
            return not stat.S_ISREG(os.fstat(about).st_mode)
        except OSError:
            return True
    return isinstance(about, str) and about.startswith(("/dev/", "/proc/"))


def _note(call: str, about: object) -> None:
    if threading.current_thread().name.startswith(
        "shockproof-"
    ):  # the writer's private loop is there to wait
        return
    loop = asyncio._get_running_loop()
    frame = _who(sys._getframe(1), _IN_DEBUG_MODE if loop is not None and loop.get_debug() else _NOT_OURS)
    if frame is None:
        return
    name = frame.f_code.co_filename
    found = BlockingFileCall(call, repr(about)[:200], line_of(frame))
    for watch in _watches:
        if not watch.only or any(name == one or name.startswith(f"{one}{os.sep}") for one in watch.only):
            watch.found.append(found)


def _who(frame: FrameType | None, not_ours: tuple[str, ...]) -> FrameType | None:
    """The innermost frame outside of the standard library; None where it is the loop itself, or does not count."""
    found: FrameType | None = None
    for _ in range(_DEEPEST):
        if frame is None or frame.f_code is _RUNS_CALLBACKS:
            break
        name = frame.f_code.co_filename
        if is_of_the_library(frame):
            if any(part in name for part in not_ours):
                return None
        elif found is None and name != __file__:
            found = frame
        frame = frame.f_back
    return found

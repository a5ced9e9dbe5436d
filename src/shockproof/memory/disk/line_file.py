"""
Whole lines at the end of a file that other processes append to as well.
"""

from __future__ import annotations

import contextlib
from io import BufferedIOBase, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shockproof.memory.disk.directory import make_durable
from shockproof.memory.disk.file_layer import FileLayer

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["LineFile"]

_LOOKS: Final = 10
"""How often a line without an end is looked at before it is ended, in case somebody who takes no lock is writing it."""
_TRIES: Final = 250
"""How often the lock is tried, half a second in all; it is held while one batch is written."""
_TRIES_AGAIN: Final = 10
"""As above, where the last one was never let go: its owner is stopped, or on a disk that hangs."""


class LineFile(BufferedIOBase):
    """
    The end of one file, for a thread that may block: `write` is all of an append, in one go.

    Between the look at how the file ends, the append, and taking back what did not fit, no other process that does
    the same gets its turn: the file is locked. Opened unbuffered with O_APPEND, so that what goes past the lock also
    goes to the end, wherever that is by then.
    """

    def __init__(self, path: Path, layer: FileLayer) -> None:
        self.path = path
        self.size = 0
        """Of the file when last looked at, plus what was written since."""
        self.stopped_by: OSError | None = None
        """What ended the last `write` before its end."""
        self._layer = layer
        self._raw: FileIO | None = None
        self._has_durable_name = False
        self._left_at: int | None = None
        self._looks = 0
        self._tries = 0
        self._most_tries = _TRIES

    def __del__(self) -> None:
        """Not what its class does, which closes it: that nobody did is said by the open file itself."""

    def open(self) -> None:
        """
        Open the file that has the path now, and make it and its directories where they are missing.

        Raises:
            OSError: the disk refuses.
        """
        if self._raw is None:
            self._raw = raw = self._opened()
            self.size = self._layer.size(raw.fileno())
            self._left_at, self._has_durable_name = None, False

    def write(self, lines: ReadableBuffer, /) -> int:
        """
        Append whole lines to the file that has the path now, at the beginning of a line.

        Returns how many bytes of whole lines are in the file now. 0 without `stopped_by`: another process is in
        the middle of an append; to be asked again in some milliseconds, and not for ever: it may be dead, or stopped.

        A line that only fitted in part is taken back, so that what others append does not end up in it; if that
        fails too, the next `write` ends it by a newline.
        """
        self.stopped_by = None
        try:
            raw = self._current()
            handle = raw.fileno()
            is_held = self._layer.hold(handle)
            if not is_held and self._tries < self._most_tries:
                self._tries += 1
                return 0
            self._tries, self._most_tries = 0, _TRIES if is_held else _TRIES_AGAIN
            try:
                return self._append(raw, memoryview(lines), may_take_back=is_held)
            finally:
                if is_held:
                    self._layer.let_go(handle)
        except OSError as error:
            self.stopped_by = error
            return 0

    def sync(self) -> None:
        """Have the disk make durable what was appended, and the name of the file."""
        if self._raw is None:
            return
        self._layer.fsync(self._raw.fileno())
        if not self._has_durable_name:
            make_durable(self._layer, self.path.parent)
            self._layer.fsync_directory(self.path.parent)
            self._has_durable_name = True

    def close(self) -> None:
        """Close the file. A later `open` or `write` would open it again."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()

    def _opened(self) -> FileIO:
        try:
            return self._layer.open_to_append(self.path)
        except FileNotFoundError:
            make_durable(self._layer, self.path.parent)
            return self._layer.open_to_append(self.path)

    def _current(self) -> FileIO:
        if self._raw is not None and not self._is_current(self._raw):
            with contextlib.suppress(OSError):  # what was appended has left our hands long ago
                self.close()
        self.open()
        assert self._raw is not None  # just opened
        return self._raw

    def _is_current(self, raw: FileIO) -> bool:
        try:
            return self._layer.leads_to(self.path, raw.fileno())
        except OSError:
            return False

    def _append(self, raw: FileIO, lines: memoryview, *, may_take_back: bool) -> int:
        size = self._layer.size(raw.fileno())
        is_torn = size != self._left_at and size > 0 and not _ends_whole(raw, size)
        if is_torn and self._looks < _LOOKS:
            self._looks += 1
            return 0
        self._looks = 0
        self._left_at = None  # not known before all is there
        rest = lines
        try:
            if is_torn:
                size += raw.write(b"\n")
            while rest:
                rest = rest[raw.write(rest) :]
        except OSError as error:
            self.stopped_by = error
            done = bytes(lines[: len(lines) - len(rest)])
            whole = done.rfind(b"\n") + 1
            if whole < len(done) and may_take_back:
                with contextlib.suppress(OSError):
                    _take_back(raw, self._layer.size(raw.fileno()), done[whole:])
            self.size = size + whole
            return whole
        self.size = self._left_at = size + len(lines)
        return len(lines)


def _ends_whole(raw: FileIO, size: int) -> bool:
    try:
        raw.seek(size - 1)
        return raw.read(1) == b"\n"
    except OSError:
        return False  # an empty line hurts nobody, one torn by two records loses both


def _take_back(raw: FileIO, size: int, fragment: bytes) -> None:
    # Only what is still the end: somebody who takes no lock may have built on it.
    raw.seek(max(size - len(fragment), 0))
    if raw.read(len(fragment)) == fragment:
        raw.truncate(size - len(fragment))

"""
What the trader tells whoever watches it: one JSON object per line, through a pipe, never waiting.

A reader that is slow must not slow the trader down. What does not fit into the pipe waits here, up
to a bound; beyond it, whole lines are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections import deque
from typing import Any

__all__ = ["Reports"]

_MOST_WAITING = 2_000


class Reports:
    """Writes lines to a file descriptor. `send` never waits and never raises."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._is_watching = False
        self.dropped = 0
        self.is_broken = False
        """The reader is gone."""
        # Only a pipe of our own: a terminal shares this switch with the shell.
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.set_blocking(descriptor, False)

    def send(self, kind: str, **fields: Any) -> None:  # Any: JSON
        """One line: ``{"kind": ..., **fields}``."""
        if self.is_broken:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(json.dumps({"kind": kind, **fields}).encode() + b"\n")
        if not self._is_watching:
            self._write()

    def _write(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            try:
                written = os.write(self._descriptor, line)
            except BlockingIOError:
                self._watch(True)
                return
            except OSError:
                self.is_broken = True
                self._waiting.clear()
                break
            if written < len(line):
                self._waiting[0] = line[written:]
            else:
                self._waiting.popleft()
        self._watch(False)

    def _watch(self, wanted: bool) -> None:
        if wanted == self._is_watching:
            return
        loop = asyncio.get_running_loop()
        if wanted:
            loop.add_writer(self._descriptor, self._write)
        else:
            loop.remove_writer(self._descriptor)
        self._is_watching = wanted

    async def flush(self, seconds: float) -> None:
        """Wait up to *seconds* until everything was taken."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._waiting:  # noqa: ASYNC110 - once, at the end: not worth an event of its own
                    await asyncio.sleep(0.01)

    def close(self) -> None:
        """Stop watching the descriptor; what was not taken is lost."""
        self._watch(False)

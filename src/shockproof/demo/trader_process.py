"""The trader as a process: started, listened to, stopped, killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["TRADER", "TraderProcess"]

TRADER = (sys.executable, "-m", "shockproof.demo.trader")


class TraderProcess:
    """
    One life of the trader. Make it with `start`.

    It is in a session of its own, so that Ctrl-C on the terminal reaches only its supervisor, and it ends
    by itself when its standard input closes, which happens however the supervisor ends.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        tell: Callable[[dict[str, Any]], None],  # Any: the trader's JSON
    ) -> None:
        self._process = process
        self._tell = tell
        self.said: deque[str] = deque(maxlen=30)
        """The last lines of its error output."""
        self.was_killed = False
        self._listening = (
            asyncio.create_task(self._listen(), name="trader's reports"),
            asyncio.create_task(self._listen_to_errors(), name="trader's error output"),
        )

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        tell: Callable[[dict[str, Any]], None],  # Any: the trader's JSON
    ) -> TraderProcess:
        """Start it; *tell* gets each of its reports."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=2**22,
        )
        return cls(process, tell)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    def stop(self) -> None:
        """Ask it to end in order."""
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(b"stop\n")

    def kill(self) -> None:
        """SIGKILL: it cannot know, and cannot tidy up."""
        if self.is_running:
            self.was_killed = True
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def wait(self) -> int:
        """Its exit code, negative for a signal, after its last report was told."""
        code = await self._process.wait()
        await asyncio.gather(*self._listening)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    async def _listen(self) -> None:
        assert self._process.stdout is not None  # a pipe was asked for
        async for line in self._process.stdout:
            try:
                report = json.loads(line)
            except ValueError:  # the last line of one that was killed may be torn
                continue
            if isinstance(report, dict):
                self._tell(report)

    async def _listen_to_errors(self) -> None:
        assert self._process.stderr is not None  # a pipe was asked for
        async for line in self._process.stderr:
            self.said.append(line.decode(errors="replace").rstrip())

"""
A venue that writes down when each request of an account came in, and nothing else: a process of its own, at a socket in the
file system, which no network namespace hides.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

LIMIT, WINDOW = 200, 5.0
"""What the venue allows: so many requests of all processes together in any so many seconds."""
MARGIN = 0.5
"""Seconds that a request may be on its way: the processes are told of a window that is so much longer."""
RATE = f"{LIMIT}/{WINDOW + MARGIN:g}s"


async def keep(socket: str) -> None:
    """Serve until standard input ends, then print the ledger."""
    ledger: list[tuple[float, float]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                ledger.append((time.monotonic(), float(line)))
                writer.write(b"booked\n")
        except (OSError, asyncio.CancelledError):
            pass  # it was killed in the middle, or this is the end
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, socket)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    print(json.dumps(ledger), flush=True)


class Account:
    """One connection of a process to the venue."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def request(self) -> None:
        self._writer.write(f"{time.monotonic()}\n".encode())
        if not await self._reader.readline():
            raise ConnectionError("the venue has gone")


def counts_in(moments: Iterable[float], seconds: float) -> list[int]:
    """For each of the *moments*, how many lie in the stretch of so many seconds that ends with it."""
    ordered, counts, first = sorted(moments), list[int](), 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= seconds:
            first += 1
        counts.append(last - first + 1)
    return counts


class Ledger(NamedTuple):
    """What the venue has written down."""

    requests: Sequence[tuple[float, float]]
    """When each came in, and when it was sent: by the one monotonic clock of the machine."""

    def most_in(self, seconds: float) -> int:
        """The most that came in within any stretch of so many seconds."""
        return max(self._ending_with_each(seconds), default=0)

    def above(self, limit: int, seconds: float) -> int:
        """How many such stretches, of those that end with a request, hold more than *limit*."""
        return sum(count > limit for count in self._ending_with_each(seconds))

    def _ending_with_each(self, seconds: float) -> list[int]:
        return counts_in([arrived for arrived, _ in self.requests], seconds)

    def between(self, begun: float, ended: float) -> int:
        return sum(begun <= at < ended for at, _ in self.requests)

    @property
    def slowest(self) -> float:
        """Seconds that a request was on its way at most."""
        return max((arrived - sent for arrived, sent in self.requests), default=0.0)


class VenueProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ledger: Ledger | None = None

    @classmethod
    async def start(cls, socket: Path) -> VenueProcess:
        script = Path(__file__).parents[1] / "fleet.py"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(script), "--keep-venue", str(socket)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )
        assert process.stdout is not None
        await process.stdout.readline()
        return cls(process)

    async def end(self) -> Ledger:
        """End it, if it runs; what it has written down."""
        if self._ledger is None:
            told, _ = await self._process.communicate(b"")
            self._ledger = Ledger([(arrived, sent) for arrived, sent in json.loads(told or b"[]")])
        return self._ledger

"""Start the venue as a process of its own, and end it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["VenueProcess", "VenueStartError"]


class VenueStartError(RuntimeError):
    """The venue did not come up; the text holds what it said."""


class VenueProcess:
    """
    A running venue, seen from the program that started it.

    Use ``VenueProcess.start``. The process is in a session of its own, so that Ctrl-C on the
    terminal reaches the program and not the venue: it ends when its standard input closes, which
    happens however the program ends.
    """

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:  # Any: JSON
        self._process = process
        self.pid: int = process.pid
        self.base_url: str = ready["base_url"]
        """REST, for ``connect_ccxt``."""
        self.stream_url: str = ready["stream_url"]
        """WebSocket: ``/ws/eurusdt@bookTicker``, ``/stream?streams=...``."""
        self.reference_url: str = ready["reference_url"]
        """The second source: ``/latest?base=EUR``."""
        self.admin_url: str = ready["admin_url"]
        """Ledger and fault log."""

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def ledger(self) -> dict[str, Any]:  # Any: a JSON object with values of several types
        """The ground truth: every order ever accepted, duplicates, balances."""
        return await self._ask("/ledger")

    async def arrivals(self) -> dict[str, list[float]]:
        """When each request of the account came in, by the limit that it counts for."""
        return await self._ask("/arrivals")

    async def fault_log(self) -> dict[str, Any]:  # Any: as above
        """What was done to whom, with counts by kind."""
        return await self._ask("/faults/log")

    async def session(self) -> dict[str, Any]:  # Any: as above
        """How far the session has come, and what is in force."""
        return await self._ask("/session")

    async def fall_silent_behind_the_next_order(self) -> None:
        """The next order is booked, and from then on nothing is answered; until `speak_again`, for at most 10 s."""
        await self._ask("/silence", "POST")

    async def order_in_flight(self) -> str:
        """Wait for that order; its client order id."""
        return str((await self._ask("/silence", within=None))["client_order_id"])

    async def speak_again(self) -> None:
        """Answer everything again."""
        await self._ask("/silence", "DELETE")

    async def _ask(
        self, path: str, method: str = "GET", *, within: float | None = 10.0
    ) -> dict[str, Any]:  # Any: parsed JSON
        import aiohttp

        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within)) as session,
                session.request(method, self.admin_url + path, raise_for_status=True) as answer,
            ):
                body: dict[str, Any] = await answer.json()  # Any: as above
                return body
        except aiohttp.ClientError as error:
            raise ConnectionError(f"the venue does not answer: {type(error).__name__}") from error

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        *,
        seconds: float = 30.0,
        seed: int = 1,
        faults: str = "normal",
        client_timeout: float = 2.0,
        day_ms: float = 500.0,
        start_timeout: float = 15.0,
    ) -> AsyncGenerator[VenueProcess]:
        """
        Start a venue, wait until it is ready, and end it when the block is left.

        Args:
            seconds: length of the fault plan.
            seed: of prices and faults.
            faults: ``none``, ``light``, ``normal``, ``heavy``, ``all``, or kinds separated by commas.
            client_timeout: seconds after which the client gives up.
            day_ms: milliseconds for one published day of prices.
            start_timeout: seconds until a venue that says nothing counts as failed.

        Raises:
            VenueStartError: when it does not come up in time, with what it wrote to its error output.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "shockproof.demo.venue",
            f"--seconds={seconds}",
            f"--seed={seed}",
            f"--faults={faults}",
            f"--client-timeout={client_timeout}",
            f"--day-ms={day_ms}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        said: deque[str] = deque(maxlen=50)
        listener = asyncio.create_task(cls._listen(process, said), name="venue error output")
        try:
            yield cls(process, await cls._ready(process, said, listener, start_timeout))
        finally:
            await cls._end(process)
            await listener

    @staticmethod
    async def _ready(
        process: asyncio.subprocess.Process,
        said: deque[str],
        listener: asyncio.Task[None],
        start_timeout: float,
    ) -> dict[str, Any]:  # Any: parsed JSON
        assert process.stdout is not None  # a pipe was asked for
        try:
            async with asyncio.timeout(start_timeout):
                line = await process.stdout.readline()
                if not line:
                    await listener
        except TimeoutError:
            raise VenueStartError(
                f"the venue said nothing for {start_timeout:g} s" + "".join(f"\n  {text}" for text in said)
            ) from None
        try:
            ready: dict[str, Any] = json.loads(line)  # Any: parsed JSON
        except ValueError:
            raise VenueStartError(
                "the venue ended before it was ready" + "".join(f"\n  {text}" for text in said)
            ) from None
        return ready

    @staticmethod
    async def _listen(process: asyncio.subprocess.Process, said: deque[str]) -> None:
        assert process.stderr is not None  # a pipe was asked for
        with contextlib.suppress(ValueError):  # a line longer than the reader's limit ends the listening
            async for line in process.stderr:
                said.append(line.decode(errors="replace").rstrip())

    @staticmethod
    async def _end(process: asyncio.subprocess.Process) -> None:
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(3.0):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

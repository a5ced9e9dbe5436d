"""A process of the fleet: one that shares a circuit and a rate limit, and the end of it that whoever started it holds."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fleet.network import Network
from fleet.venue import Account
from shockproof import CircuitOpened, CircuitOpenError, ErrorRecoveryService, StateStore
from shockproof.integrations.etcd import EtcdStore
from shockproof.integrations.redis import RedisStore

CIRCUIT_TIMEOUT = 600.0
"""Seconds a circuit is open: rounds are ended by hand."""
PATIENCE = 60.0
"""Seconds: a process that works answers within milliseconds."""
SENDERS = 4
"""Calls of each process that want to be sent at any time."""


def store_at(url: str, timeout: float = 0.5) -> StateStore:
    return RedisStore(url, timeout=timeout) if url.startswith("redis") else EtcdStore(url, timeout=timeout)


async def live(name: str, rate: str, venue: str) -> None:
    """Calls all the time; told on stdin what to do, tells on stdout what it sees. Its first line is the store's URL."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    url = (await reader.readline()).decode().strip()
    with tempfile.TemporaryDirectory() as folder:
        recovery = ErrorRecoveryService(
            Path(folder) / "state",
            Path(folder) / "errors",
            store=store_at(url),
            process_name=name,
            machine_name=name,
        )
        await Bot(name, recovery, rate, venue).run(reader)


class Bot:
    def __init__(self, name: str, recovery: ErrorRecoveryService, rate: str, venue: str) -> None:
        self.name = name
        self.recovery = recovery
        self.counts: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0
        self.took: list[float] = []
        """Seconds of each call that was answered, since somebody asked."""
        self.is_down = False
        self.is_sending = asyncio.Event()
        self.data = recovery.service(
            "data", shared=True, max_retries=0, circuit_threshold=3, circuit_timeout=CIRCUIT_TIMEOUT
        )
        self.account = recovery.service("account", shared=True, max_retries=0, rate_limit=rate)
        self.venue = venue

    def tell(self, **what: Any) -> None:
        print(json.dumps({"name": self.name, "at": time.monotonic(), **what}), flush=True)

    async def run(self, reader: asyncio.StreamReader) -> None:
        self.recovery.on_event(self.listen)
        await self.recovery.start()
        work = [
            asyncio.create_task(self.call_all_the_time()),
            *(asyncio.create_task(self.send_all_the_time()) for _ in range(SENDERS)),
        ]
        self.tell(ready=True)
        while line := (await reader.readline()).decode().strip():
            match line:
                case "down" | "up":
                    self.is_down = line == "down"
                case "send":
                    self.is_sending.set()
                case "rest":
                    self.is_sending.clear()
                case "reset":
                    self.recovery.reset_circuit_breaker("data")
                case _:
                    pass
            health = self.recovery.get_health_status()
            self.tell(
                done=line,
                store=health["shared"]["state"],
                votes=len(health["shared"]["votes"].get("data", ())),
                circuit=health["circuit_breakers"]["data"],
                may_send=health["shared"]["limits"]["account"]["is_certain"]
                and health["services"]["account"]["rate_limit"][0]["share"] > 0,
                counts=dict(self.counts),
                slowest=self.slowest,
                took=self.quantiles() if line == "took" else None,
            )
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self.recovery.aclose()

    def quantiles(self) -> tuple[float, float] | None:
        """Median and 99th percentile of the calls since the last time."""
        took, self.took = sorted(self.took), []
        return (took[len(took) // 2], took[len(took) * 99 // 100]) if took else None

    def listen(self, event: object) -> None:
        if isinstance(event, CircuitOpened) and event.service_name == "data":
            self.tell(opened=True)

    async def call_all_the_time(self) -> None:
        while True:
            begun, came = time.thread_time(), time.perf_counter()
            try:
                await self.data.call(self.answer)
                self.took.append(time.perf_counter() - came)
                self.counts["fine"] += 1
            except CircuitOpenError:
                self.counts["refused"] += 1
            except ConnectionError:
                self.counts["failed"] += 1
            except Exception as error:  # noqa: BLE001 - whatever comes from sharing is what is looked for
                self.counts[f"unexpected {type(error).__name__}"] += 1
            self.slowest = max(self.slowest, time.thread_time() - begun)
            await asyncio.sleep(0.002)

    async def answer(self) -> None:
        if self.is_down:
            raise ConnectionError("reset")

    async def send_all_the_time(self) -> None:
        async with Account(self.venue) as account:
            while True:
                await self.is_sending.wait()
                try:
                    await self.account.call(account.request)
                    self.counts["sent"] += 1
                except Exception as error:  # noqa: BLE001 - as above
                    self.counts[f"unexpected {type(error).__name__}"] += 1
                    await asyncio.sleep(0.01)


class Process:
    """A process of the fleet, and what it has told."""

    def __init__(self, number: int, process: asyncio.subprocess.Process) -> None:
        self.number = number
        self._process = process
        self.opened_at: float | None = None
        self.has_opened = asyncio.Event()
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, number: int, scheme: str, port: int, rate: str, venue: str, network: Network
    ) -> Process:
        script = Path(__file__).parents[1] / "fleet.py"
        process = await asyncio.create_subprocess_exec(
            *network.before,
            *(sys.executable, str(script), "--bot", f"bot-{number}", "--rate", rate, "--venue", venue),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        where = await network.connect(number, process.pid, port)
        started = cls(number, process)
        started._say(f"{scheme}://{where}")
        await started._answers.get()
        return started

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "opened" in told:
                self.opened_at = told["at"]
                self.has_opened.set()
            else:
                self._answers.put_nowait(told)

    async def ask(self, what: str = "tell") -> dict[str, Any]:
        self._say(what)
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._answers.get()
        except TimeoutError:
            raise RuntimeError(f"bot {self.number} does not answer {what!r}") from None

    async def until(self, key: str, wanted: object) -> None:
        while (await self.ask())[key] != wanted:
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10.0):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._reading

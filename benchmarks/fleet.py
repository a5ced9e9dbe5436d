"""
What sharing a circuit costs and how fast a fleet knows, with real processes and a real store; and how load on the store grows.

    ./run sh python benchmarks/fleet.py                    # Redis: 8 processes, then etcd, then the cost of a call
    ./run sh python benchmarks/fleet.py --simulate         # 10 to 10,000 processes on virtual time

Needs redis-server and etcd (Debian: redis-server, etcd-server). Times are of one machine's monotonic clock, which its
processes share. "Knows" is when a process is told of its own open circuit, after the second vote was told to its process.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from shockproof import (
    CircuitOpened,
    CircuitOpenError,
    ErrorRecoveryService,
    MemoryStore,
    StateStore,
    take_lease,
)
from shockproof.integrations.etcd import EtcdStore
from shockproof.integrations.redis import RedisStore
from shockproof.memory.fleet.fleet import Fleet
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import Circuit
from shockproof.testing import VirtualClock

PROCESSES = 8
TIMEOUT = 600.0
"""Seconds a circuit is open: rounds are ended by hand."""


def store_at(url: str) -> StateStore:
    return RedisStore(url, timeout=0.5) if url.startswith("redis") else EtcdStore(url, timeout=0.5)


# -- one process ---------------------------------------------------------------------------------------------


async def child(name: str, url: str) -> None:
    """Calls all the time; told on stdin what to do, tells on stdout what it sees."""
    folder = Path(tempfile.mkdtemp())
    recovery = ErrorRecoveryService(
        folder / "state", folder / "errors", store=store_at(url), process_name=name
    )
    venue = recovery.service(
        "venue", shared=True, max_retries=0, circuit_threshold=3, circuit_timeout=TIMEOUT
    )
    counts: collections.Counter[str] = collections.Counter()
    is_down, slowest = False, 0.0

    def tell(**what: Any) -> None:
        print(json.dumps({"name": name, "at": time.monotonic(), **what}), flush=True)

    def listen(event: object) -> None:
        if isinstance(event, CircuitOpened):
            tell(opened=True)

    async def answer() -> None:
        if is_down:
            raise ConnectionError("reset")

    async def call_all_the_time() -> None:
        nonlocal slowest
        while True:
            begun = time.thread_time()
            try:
                await venue.call(answer)
                counts["fine"] += 1
            except CircuitOpenError:
                counts["refused"] += 1
            except ConnectionError:
                counts["failed"] += 1
            except Exception as error:  # noqa: BLE001 - whatever comes from sharing is what is looked for
                counts[f"unexpected {type(error).__name__}"] += 1
            slowest = max(slowest, time.thread_time() - begun)
            await asyncio.sleep(0.002)

    recovery.on_event(listen)
    await recovery.start()
    calling = asyncio.create_task(call_all_the_time())
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    tell(ready=True)
    while line := (await reader.readline()).decode().strip():
        if line in {"down", "up"}:
            is_down = line == "down"
        elif line == "reset":
            recovery.reset_circuit_breaker("venue")
        shared = recovery.get_health_status()["shared"]
        tell(
            done=line,
            store=shared["state"],
            votes=len(shared["votes"].get("venue", ())),
            circuit=recovery.get_health_status()["circuit_breakers"]["venue"],
            counts=dict(counts),
            slowest=slowest,
        )
    calling.cancel()
    await recovery.aclose()


class Process:
    """A child, and what it has told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.opened_at: float | None = None
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())
        self.has_opened = asyncio.Event()

    @classmethod
    async def start(cls, name: str, url: str) -> Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--child", name, "--url", url, stdin=pipe, stdout=pipe
        )
        started = cls(process)
        await started._answers.get()
        return started

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "opened" in told:
                self.opened_at = told["at"]
                self.has_opened.set()
            else:
                self._answers.put_nowait(told)

    async def ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())
        return await self._answers.get()

    async def until(self, key: str, wanted: object) -> None:
        while (await self.ask("tell"))[key] != wanted:
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading


# -- the fleet -----------------------------------------------------------------------------------------------


async def knows(fleet: list[Process], rounds: int) -> list[float]:
    """Seconds from the moment the second process has opened to that in which each other one is told that it has."""
    took: list[float] = []
    for number in range(rounds):
        for process in fleet:
            process.has_opened.clear()
        voters = [fleet[number % len(fleet)], fleet[(number + 1) % len(fleet)]]
        for process in voters:
            await process.ask("down")
        await asyncio.gather(*(process.has_opened.wait() for process in fleet))
        second = max(process.opened_at or 0.0 for process in voters)
        took += [max(0.0, (process.opened_at or 0.0) - second) for process in fleet if process not in voters]
        for process in voters:
            await process.ask("up")
        await fleet[0].ask("reset")
        for process in fleet:
            await process.until("circuit", "closed")
            await process.until("votes", 0)
    return took


async def trouble(fleet: list[Process], server: Any) -> dict[str, float]:
    """Seconds until all have reached the store again, after each thing that befalls it."""
    back: dict[str, float] = {}

    async def all_are(state: str) -> None:
        for process in fleet:
            await process.until("store", state)

    with server.paused():
        await fleet[0].ask("down")  # it has something to tell, and so notices
        await fleet[0].until("circuit", "open")
        await fleet[0].until("store", "away")
        await fleet[0].ask("up")
        await fleet[0].ask("reset")
    begun = time.monotonic()
    await all_are("reachable")
    back["paused (SIGSTOP)"] = time.monotonic() - begun
    server.kill()
    await all_are("away")
    server.start()
    begun = time.monotonic()
    await all_are("reachable")
    back["killed, restarted empty"] = time.monotonic() - begun
    return back


async def measure(kind: str, rounds: int) -> None:
    from tests.integrations.store_servers import etcd_server, redis_server

    with tempfile.TemporaryDirectory() as folder:
        make = redis_server if kind == "redis" else etcd_server
        with make(Path(folder) / "data") as server:
            url = f"{'redis' if kind == 'redis' else 'http'}://{server.address}"
            fleet = await asyncio.gather(*(Process.start(f"p{number}", url) for number in range(PROCESSES)))
            try:
                took = sorted(await knows(fleet, rounds))
                back = await trouble(fleet, server)
                last = [await process.ask("tell") for process in fleet]
            finally:
                await asyncio.gather(*(process.end() for process in fleet))
            store = RedisStore(url, timeout=30.0) if kind == "redis" else EtcdStore(url, timeout=30.0)
            await steps(store, server)
            await store.aclose()
    counts = sum((collections.Counter(one["counts"]) for one in last), collections.Counter[str]())
    unexpected = {name: count for name, count in counts.items() if name.startswith("unexpected")}
    print(f"{kind}, {PROCESSES} processes, {rounds} outages")
    print(f"  until another process knows: p50 {1000 * statistics.median(took):.1f} ms, ", end="")
    print(f"p99 {1000 * took[int(len(took) * 0.99)]:.1f} ms, worst {1000 * took[-1]:.1f} ms")
    for what, seconds in back.items():
        print(f"  until all have it again, {what}: {seconds:.2f} s")
    print(f"  calls: {dict(counts)}; failed because of the store: {unexpected or 0}")


def cpu_of(server: Any) -> float:
    """Seconds of processor that a server has used."""
    fields = Path(f"/proc/{server._process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def steps(store: StateStore, server: Any, count: int = 2_000) -> None:
    """Processor time of the server for what a large fleet asks most: all records, and a lease that another one has."""
    await take_lease(store, "taken", length=600.0)

    async def look(times: int) -> None:
        for _ in range(times):
            await store.entries("circuits/")

    async def ask(times: int) -> None:
        for _ in range(times):
            await take_lease(store, "taken", length=600.0)

    for name, work in (("reading all records", look), ("asking for a lease that is taken", ask)):
        await work(20)
        before = cpu_of(server)
        await asyncio.gather(*(work(count // 10) for _ in range(10)))
        print(f"  {name}: {1e6 * (cpu_of(server) - before) / count:.0f} us of the server's processor")


# -- what a call costs ---------------------------------------------------------------------------------------


async def cost(rounds: int = 15, calls: int = 20_000) -> None:
    """A healthy call of a shared service, as a ratio to one that is not."""
    from tests.integrations.store_servers import redis_server

    async def answer() -> None: ...

    async def timed(handle: Any) -> float:
        begun = time.thread_time()
        for _ in range(calls):
            await handle.call(answer)
        return time.thread_time() - begun

    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder) / "data") as server:
        async with ErrorRecoveryService(
            Path(folder) / "state", Path(folder) / "errors", store=store_at(f"redis://{server.address}")
        ) as recovery:
            shared, alone = recovery.service("shared", shared=True), recovery.service("alone")
            ratios = []
            for number in range(rounds):
                if number % 2:
                    with_, without = await timed(shared), await timed(alone)
                else:
                    without, with_ = await timed(alone), await timed(shared)
                ratios.append(with_ / without)
    print(
        f"a healthy call, shared to not shared: {statistics.median(ratios):.3f} (median of {rounds} ratios)"
    )


# -- ten thousand ------------------------------------------------------------------------------------------


class Counting(MemoryStore):
    """Counts its steps by the second."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self._now = clock.monotonic
        self.by_second: collections.Counter[int] = collections.Counter()
        self.news = 0

    def _count(self) -> None:
        self.by_second[int(self._now())] += 1

    async def entries(self, prefix: str) -> Any:
        self._count()
        return await super().entries(prefix)

    async def get(self, key: str) -> Any:
        self._count()
        return await super().get(key)

    async def put(self, key: str, value: bytes, **options: Any) -> int:
        self._count()
        version = await super().put(key, value, **options)
        self.news += len(self._watchers) if key.startswith("circuits/") else 0
        return version

    async def renew(self, key: str, version: int) -> bool:
        self._count()
        return await super().renew(key, version)

    async def delete(self, key: str, **options: Any) -> bool:
        self._count()
        return await super().delete(key, **options)


async def an_outage(processes: int, clock: VirtualClock) -> None:
    """A minute of calm, then all fail within a second, then three failed probes and a good one."""
    store, rng = Counting(clock), random.Random(7)
    states: list[ServiceState] = []
    fleets: list[Fleet] = []
    for number in range(processes):
        state = ServiceState("venue", Circuit(threshold=3, timeout=30.0))
        fleet = Fleet(store, name=f"p{number}", clock=clock, rng=rng, on_loop_end=lambda: None)
        state.circuit.on_transition = lambda to, now, fleet=fleet, state=state: fleet.transitioned(state, to)  # type: ignore[misc]  # bound early
        fleet.share(state, 2)
        fleet.ensure()
        states.append(state)
        fleets.append(fleet)
    sent, is_down = 0, False

    def call(state: ServiceState) -> None:
        nonlocal sent
        now = clock.monotonic()
        ticket = state.circuit.admit(now, lease=2.0)
        if ticket is None:
            state.rejections += 1
        else:
            sent += is_down
            ticket.failed(now, "down") if is_down else ticket.succeeded(now)

    async def calls(seconds: float, each: int) -> None:
        for _ in range(round(seconds)):
            for state in states:
                for _ in range(each):
                    call(state)
            await asyncio.sleep(1.0)

    await calls(60.0, 1)
    calm = sum(store.by_second[int(clock.monotonic()) - back] for back in range(1, 31)) / 30
    store.by_second.clear()
    store.news, is_down = 0, True
    for state in states:  # their failures come one after the other, within a second
        for _ in range(3):
            call(state)
        await asyncio.sleep(1.0 / processes)
    await calls(95.0, 1)
    is_down = False
    await calls(40.0, 1)
    closed = sum(state.circuit.state(clock.monotonic()) == "closed" for state in states)
    peak = max(store.by_second.values())
    whole = sum(store.by_second.values()) / 136 - calm
    print(
        f"| {processes:,} | {calm:,.1f} | {peak:,} | {max(0.0, whole):,.1f} | {store.news:,} | {sent:,} | {closed:,} |",
        flush=True,
    )
    for fleet in fleets:
        await fleet.aclose()


def simulate(largest: int) -> None:
    print(
        "| processes | steps/s in calm | most steps in a second of the outage | more steps/s during it | news told | calls that met the outage | closed after it |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for processes in (10, 100, 1_000, 10_000):
        if processes <= largest:
            clock = VirtualClock()
            clock.run(an_outage(processes, clock))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--largest", type=int, default=10_000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the servers are started as in the tests
    logging.getLogger("shockproof").setLevel(logging.CRITICAL)
    if chosen.child:
        asyncio.run(child(chosen.child, chosen.url))
    elif chosen.simulate:
        simulate(chosen.largest)
    else:
        for kind in ("redis", "etcd"):
            asyncio.run(measure(kind, chosen.rounds))
        asyncio.run(cost())


if __name__ == "__main__":
    main()

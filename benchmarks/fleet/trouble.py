"""Eight processes on a real store: how fast they know, and what of it all goes on while the store is in trouble."""

from __future__ import annotations

import asyncio
import collections
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.bots import Process, store_at
from fleet.network import Network, network
from fleet.venue import LIMIT, MARGIN, RATE, WINDOW, Ledger, VenueProcess
from shockproof import StateStore, take_lease

PROCESSES = 8
CALM = 3 * (WINDOW + MARGIN)
PAUSE = 25.0
"""Seconds for which the store is stopped: longer than a share lasts without it."""
AWAY = 5.0
"""Seconds between its death and its return."""
CUT = 35.0
"""Seconds for which half of the processes are cut off: longer than it takes until their shares are the others'."""
STEPS = 2_000
"""Of each kind, to find out what one costs the server."""


@dataclass
class Trouble:
    """What befell the store."""

    name: str
    begun: float
    ended: float
    back: float
    """Seconds behind its end, until every process had the store again."""
    sends: float
    """Seconds behind its end, until every process might send of its share again."""
    call: tuple[float, float]
    """Seconds of a call meanwhile: p50 and p99, the medians of all processes."""


@dataclass
class Outcome:
    """What came of one store."""

    kind: str
    network: str
    knew: Sequence[float] = ()
    """Seconds until another process knew, shortest first."""
    calm: tuple[float, float] = (0.0, 1.0)
    call_in_calm: tuple[float, float] = (0.0, 0.0)
    """As that of a trouble."""
    troubles: list[Trouble] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Calls of all processes by their end."""
    slowest: float = 0.0
    """Seconds of the loop's processor that a call took at most."""
    ledger: Ledger = field(default_factory=lambda: Ledger([]))
    steps: dict[str, float] = field(default_factory=dict)
    """Seconds of the server's processor that one step of each kind takes."""

    @property
    def name(self) -> str:
        return {"redis": "Redis"}.get(self.kind, self.kind)

    @property
    def p50(self) -> float:
        return statistics.median(self.knew)

    @property
    def p99(self) -> float:
        return self.knew[int(len(self.knew) * 0.99)]

    @property
    def calls(self) -> int:
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """Calls that ended with an error that is not their own: whatever it is, the store is to blame."""
        return sum(count for name, count in self.counts.items() if name.startswith("unexpected"))

    @property
    def windows_above(self) -> int:
        return self.ledger.above(LIMIT, WINDOW)

    @property
    def used_in_calm(self) -> float:
        """The part of the limit, as the processes know it, that was used while nothing befell the store."""
        begun, ended = self.calm
        return self.ledger.between(begun, ended) / (ended - begun) * (WINDOW + MARGIN) / LIMIT

    def sent_during(self, trouble: Trouble) -> int:
        return self.ledger.between(trouble.begun, trouble.ended)

    @property
    def complaints(self) -> list[str]:
        """What is not as promised. That the store was in trouble is certain: all processes have said so, or it would have gone on for ever."""
        told = []
        if self.failed:
            told.append(f"{self.failed} calls failed because of the store")
        if self.windows_above:
            told.append(f"{self.windows_above} windows of {WINDOW:g} s held more than {LIMIT} requests")
        if self.ledger.slowest > MARGIN:
            told.append(
                f"a request was on its way for {self.ledger.slowest:.2f} s, and {MARGIN:g} are allowed for"
            )
        if not all(self.sent_during(one) for one in self.troubles):
            told.append("nothing was sent in one of the troubles")
        return [f"{self.name}: {what}" for what in told]


def in_us(call: tuple[float, float]) -> str:
    """Its p50 and p99, to be read."""
    return f"{1e6 * call[0]:.0f} us, {1e6 * call[1]:.0f} us"


def printed(outcome: Outcome) -> str:
    ledger = outcome.ledger
    lines = [
        f"{outcome.kind}, {PROCESSES} processes, cut by {outcome.network}",
        f"  until another process knows: p50 {1000 * outcome.p50:.1f} ms, p99 {1000 * outcome.p99:.1f} ms ({len(outcome.knew)} times)",
        *(
            f"  {one.name}: {outcome.sent_during(one)} sent in these {one.ended - one.begun:.0f} s; "
            f"all have the store {one.back:.2f} s after it, all may send {one.sends:.1f} s after it; a call {in_us(one.call)}"
            for one in outcome.troubles
        ),
        (
            f"  calls: {outcome.counts}; failed because of the store: {outcome.failed}; "
            f"one took at most {1000 * outcome.slowest:.1f} ms of the processor"
        ),
        (
            f"  the venue: {len(ledger.requests)} requests, at most {ledger.most_in(WINDOW)} of {LIMIT} in {WINDOW:g} s, "
            f"windows above: {outcome.windows_above}; {100 * outcome.used_in_calm:.0f} % used in calm"
        ),
        f"  a call in calm, p50, p99: {in_us(outcome.call_in_calm)}",
        f"  a request was on its way for at most {1000 * ledger.slowest:.0f} ms, {1000 * MARGIN:.0f} are allowed for",
        *(f"  {name}: {1e6 * cost:.0f} us of the server's processor" for name, cost in outcome.steps.items()),
    ]
    return "\n".join(lines)


async def measure(kind: str, rounds: int) -> Outcome:
    """All of it with one kind of store."""
    from tests.integrations import store_servers

    ways = network()
    store_servers.HOST = ways.host
    outcome = Outcome(kind, ways.name)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if kind == "redis":
            server = store_servers.redis_server(place / "data", "--protected-mode", "no")
        else:
            server = store_servers.etcd_server(place / "data")
        with server:
            scheme = "redis" if kind == "redis" else "http"
            async with _fleet(scheme, server.port, place / "venue", ways) as (fleet, venue):
                outcome.knew = sorted(await _knows(fleet, rounds))
                await _troubles(fleet, server, ways, outcome)
                last = [await process.ask("rest") for process in fleet]
                outcome.slowest = max(one["slowest"] for one in last)
                counts = (collections.Counter[str](one["counts"]) for one in last)
                outcome.counts = dict(sum(counts, collections.Counter[str]()))
                outcome.ledger = await venue.end()
            store = store_at(f"{scheme}://{server.address}", timeout=30.0)
            outcome.steps = await _steps(store, server)
            await store.aclose()
        await ways.aclose()
    return outcome


@asynccontextmanager
async def _fleet(
    scheme: str, port: int, socket: Path, ways: Network
) -> AsyncIterator[tuple[list[Process], VenueProcess]]:
    venue = await VenueProcess.start(socket)
    fleet = await asyncio.gather(
        *(Process.start(number, scheme, port, RATE, str(socket), ways) for number in range(PROCESSES))
    )
    try:
        yield fleet, venue
    finally:
        await asyncio.gather(*(process.end() for process in fleet))
        await venue.end()


async def _knows(fleet: list[Process], rounds: int) -> list[float]:
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


async def _troubles(fleet: list[Process], server: Any, ways: Network, outcome: Outcome) -> None:
    async def all_are(key: str, wanted: object, which: Sequence[Process] = fleet) -> None:
        for process in which:
            await process.until(key, wanted)

    async def calls() -> tuple[float, float]:
        """What they took since the last time."""
        took = [one for process in fleet if (one := (await process.ask("took"))["took"]) is not None]
        return statistics.median(one[0] for one in took), statistics.median(one[1] for one in took)

    async def over(name: str, begun: float, ended: float, call: tuple[float, float]) -> None:
        await all_are("store", "reachable")
        back = time.monotonic() - ended
        await all_are("may_send", True)
        outcome.troubles.append(Trouble(name, begun, ended, back, time.monotonic() - ended, call))
        await asyncio.sleep(WINDOW)
        await calls()

    async def one_opens(process: Process) -> None:
        """By its own rules, and then closes again: it has something to tell, and so notices that the store is away."""
        await process.ask("down")
        await process.until("circuit", "open")
        await process.until("store", "away")
        await process.ask("up")
        await process.ask("reset")

    await all_are("may_send", True)
    for process in fleet:
        await process.ask("send")
    await asyncio.sleep(WINDOW)
    await calls()
    begun = time.monotonic()
    await asyncio.sleep(CALM)
    outcome.calm = begun, time.monotonic()
    outcome.call_in_calm = await calls()

    begun = time.monotonic()
    with server.paused():
        await one_opens(fleet[0])
        await asyncio.sleep(max(0.0, begun + PAUSE - time.monotonic()))
        call = await calls()
    await over("paused (SIGSTOP)", begun, time.monotonic(), call)

    begun = time.monotonic()
    server.kill()
    await all_are("store", "away")
    await asyncio.sleep(max(0.0, begun + AWAY - time.monotonic()))
    call = await calls()
    server.start()
    await over("killed, restarted empty", begun, time.monotonic(), call)

    begun = time.monotonic()
    cut_off = fleet[: PROCESSES // 2]
    for process in cut_off:
        ways.cut(process.number)
    await one_opens(fleet[0])
    await all_are("store", "away", cut_off)
    await asyncio.sleep(max(0.0, begun + CUT - time.monotonic()))
    call = await calls()
    for process in cut_off:
        ways.mend(process.number)
    await over("half of them cut off", begun, time.monotonic(), call)


# -- what a step costs the server ------------------------------------------------------------------------------------


def _cpu_of(server: Any) -> float:
    """Seconds of processor that a server has used."""
    fields = Path(f"/proc/{server._process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


ONE, HUNDRED, LARGE = "reading one value", "reading a hundred values", "reading a value of 100 kB"
LARGE_BYTES = 100_000
PUT, RENEW, TAKEN = "putting a value", "renewing a lease", "asking for a lease that is taken"


async def _steps(store: StateStore, server: Any) -> dict[str, float]:
    """Processor time of the server for each kind of step, ten at a time."""
    lease = await take_lease(store, "taken", length=600.0)
    assert lease is not None
    for number in range(100):
        await store.put(f"many/{number}", b"x" * 100)
    await store.put("large", b"x" * LARGE_BYTES)
    numbers = iter(range(10 * STEPS))

    async def one() -> None:
        await store.get("many/7")

    async def hundred() -> None:
        await store.entries("many/")

    async def large() -> None:
        await store.get("large")

    async def put() -> None:
        await store.put(f"some/{next(numbers) % 100}", b"x" * 100)

    async def renew() -> None:
        await lease.renew()

    async def ask() -> None:
        await take_lease(store, "taken", length=600.0)

    async def some(step: Any, times: int) -> None:
        for _ in range(times):
            await step()

    costs: dict[str, float] = {}
    for name, step in (
        (ONE, one),
        (HUNDRED, hundred),
        (LARGE, large),
        (PUT, put),
        (RENEW, renew),
        (TAKEN, ask),
    ):
        await some(step, 20)
        before = _cpu_of(server)
        await asyncio.gather(*(some(step, STEPS // 10) for _ in range(10)))
        costs[name] = (_cpu_of(server) - before) / STEPS
    return costs

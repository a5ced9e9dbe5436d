"""
Orders under kill -9: how many are placed twice, how many are lost, and of how many the trader believes what is not so.

    ./run sh python benchmarks/orders.py        # a small run of shockproof alone
    ./run bench orders                          # a large one of all ways, into docs/explanation/orders.md: a quarter of an hour

A venue in a process of its own (the demo's) takes orders over HTTP. One order in eight meets a fault: 502 or 503 before it was
booked, 503 or 504 behind it, a reset before or behind it, a 504 or a reset and the order in the book up to 250 ms later, an
answer that comes after the client's time limit. One look-up in fifty fails. Traders, processes of their own with a journal
each, place their intents, eight at a time, through a real client. Each is killed with SIGKILL at random moments, also
while it still reconciles, and started again, until it is through.

Venues:

    binance     an id may come again once its order is filled: nothing protects from duplicates; the client is ccxt
    alpaca      an id that any earlier order had is refused; the client is alpaca-py

Ways to send. All send a client order id that stays the same, and after a restart all go on with what they have not reported:

    once        handle.once and recovery.reconcile: journalled, and looked up behind a settle window
    no-window   the same with settle=0: the first "not found" is taken for proof
    tenacity    the client in a tenacity retry of five attempts, its own retries off
    client      the client with its own retries: maxRetriesOnFailure=3 of ccxt, the defaults of alpaca-py

It prints a line for each, and ends with 1 if `once` placed an order twice, lost one, or was wrong about one.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import logging
import math
import multiprocessing
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

from published import SECTIONS

from shockproof import (
    NOT_FOUND,
    ErrorRecoveryService,
    Found,
    OperationCompletedError,
    OutcomeUnknownError,
)
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind, FaultPlan, FaultWindow
from shockproof.policies.classification import Classify
from shockproof.vocabulary.look_up import LookUp

SETTLE = 0.5  # twice as long as the venue takes at most
CLIENT_TIMEOUT = 1.0
AT_ONCE = 8
ALWAYS = 1e9
VENUES = ("binance", "alpaca")
WAYS = ("once", "no-window", "tenacity", "client")

# A new life is forked from a process that has everything imported: it begins within milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
Say = Callable[[str, str], None]
IMPORTED = (
    "aiohttp",
    "alpaca.trading.client",
    "alpaca.trading.requests",
    "ccxt.async_support",
    "shockproof.calls.once",
    "shockproof.demo.venue.client",
    "shockproof.demo.venue.server",
    "shockproof.integrations.alpaca",
    "shockproof.integrations.ccxt",
    "shockproof.service",
    "tenacity",
)


# -- the venue ---------------------------------------------------------------------------------------------------


def weather(seed: int) -> FaultPlan:
    on_orders = {
        FaultKind.ERROR_BEFORE: 0.015,
        FaultKind.CUT_BEFORE: 0.02,
        FaultKind.ERROR_AFTER: 0.025,
        FaultKind.CUT_AFTER: 0.025,
        FaultKind.BOOKED_LATER: 0.03,
        FaultKind.LATE: 0.01,
    }
    orders, look_ups = frozenset({Endpoint.PLACE_ORDER}), frozenset({Endpoint.QUERY_ORDER})
    windows = [FaultWindow(kind, 0.0, ALWAYS, orders, rate) for kind, rate in on_orders.items()]
    windows.append(FaultWindow(FaultKind.ERROR_BEFORE, 0.0, ALWAYS, look_ups, 0.02))
    return FaultPlan(seed, ALWAYS, CLIENT_TIMEOUT, tuple(windows))


def keep_venue(seed: int, wire: Connection) -> None:
    """The venue's process: says where it listens, and tells its ledger when it is asked to end."""
    logging.disable()  # a client that is killed breaks off in the middle of its request
    asyncio.run(_venue(seed, wire))


async def _venue(seed: int, wire: Connection) -> None:
    from shockproof.demo.venue.server import VenueServer

    async with VenueServer(weather(seed), first_day=1000, tick=0.5) as server:
        server.exchange.clock.begin()
        wire.send(server.base_url)
        await asyncio.to_thread(wire.recv)
        ledger = Counter(order.client_order_id for order in server.exchange.ledger.orders)
        hit = [fault for fault in server.exchange.faults.log if fault.endpoint is Endpoint.PLACE_ORDER]
        wire.send((ledger, len(hit)))


# -- the clients -------------------------------------------------------------------------------------------------


class Ccxt:
    """ccxt, at a venue that does not know the ids of filled orders."""

    service = "binance.orders"
    timeout = CLIENT_TIMEOUT

    async def open(self, url: str, *, own_retries: bool) -> None:
        from shockproof.demo.venue.client import connect_ccxt

        self.exchange = connect_ccxt(url, timeout=CLIENT_TIMEOUT)
        self.exchange.timeout = 60_000
        await self.exchange.load_markets()
        self.exchange.timeout = 1000 * CLIENT_TIMEOUT
        self.exchange.options["maxRetriesOnFailure"] = 3 if own_retries else 0

    async def close(self) -> None:
        await self.exchange.close()

    def guard(self, _recovery: ErrorRecoveryService) -> Classify:
        from shockproof.integrations.ccxt import classify_for

        return classify_for(self.exchange)

    async def submit(self, key: str) -> object:
        order = ("EUR/USDT", "market", side_of(key), 6, None, {"newClientOrderId": key})
        return (await self.exchange.create_order(*order))["id"]

    async def find(self, key: str) -> LookUp[object]:
        from ccxt import OrderNotFound

        try:
            return Found((await self.exchange.fetch_order("", "EUR/USDT", {"clientOrderId": key}))["id"])
        except OrderNotFound:
            return NOT_FOUND


class AlpacaPy:
    """alpaca-py, at a venue that refuses every id that it has seen."""

    service = "alpaca.orders"
    timeout = 3 * CLIENT_TIMEOUT  # of the attempt in its thread; the request has limits of its own

    async def open(self, url: str, *, own_retries: bool) -> None:
        from alpaca.trading.client import TradingClient

        from shockproof.demo.venue.signature import DEMO_KEY, DEMO_SECRET

        self.client = TradingClient(DEMO_KEY, DEMO_SECRET, url_override=url)
        if not own_retries:
            self.client._retry = 0
        session = self.client._session
        session.request = functools.partial(session.request, timeout=CLIENT_TIMEOUT)

    async def close(self) -> None:
        self.client._session.close()

    def guard(self, recovery: ErrorRecoveryService) -> Classify:
        from shockproof.integrations.alpaca import classify, protect

        self.protected = protect(
            self.client, recovery, connect_timeout=CLIENT_TIMEOUT, read_timeout=CLIENT_TIMEOUT
        )
        return classify

    def submit(self, key: str) -> object:
        from alpaca.trading.enums import OrderSide, TimeInForce
        from alpaca.trading.requests import MarketOrderRequest

        order = MarketOrderRequest(
            symbol="EURUSDT",
            qty=6,
            side=OrderSide(side_of(key)),
            time_in_force=TimeInForce.GTC,
            client_order_id=key,
        )
        return str(self.client.submit_order(order).id)

    async def find(self, key: str) -> LookUp[object]:
        from shockproof.integrations.alpaca import find_order

        found = await find_order(self.protected, key)
        return Found(str(found.value.id)) if isinstance(found, Found) else found


CLIENTS: dict[str, type[Ccxt | AlpacaPy]] = {"binance": Ccxt, "alpaca": AlpacaPy}


def side_of(key: str) -> str:
    return "buy" if int(key.rpartition("-")[2]) % 2 else "sell"  # in turn, so that the money lasts


# -- the trader --------------------------------------------------------------------------------------------------


def trade(task: Task, url: str, place: str, left: list[str], wire: Connection) -> None:
    """The trader's process: reports each intent as it knows of it, ``placed`` or ``failed``."""
    warnings.simplefilter("ignore")
    logging.disable()
    asyncio.run(_trade(task, url, Path(place), left, wire))


async def _trade(task: Task, url: str, place: Path, left: list[str], wire: Connection) -> None:
    client = CLIENTS[task.venue]()
    await client.open(url, own_retries=task.way == "client")

    def say(key: str, word: str) -> None:
        wire.send((key, word))

    if task.way in {"once", "no-window"}:
        await _trade_with_shockproof(task, client, place, left, say)
    else:
        await _trade_with_retries(task, client, left, say)
    await client.close()
    wire.send(None)


async def _trade_with_shockproof(
    task: Task, client: Ccxt | AlpacaPy, place: Path, left: list[str], say: Say
) -> None:
    async with ErrorRecoveryService(place / "state", place / "errors") as recovery:
        orders = recovery.service(
            client.service,
            classify=client.guard(recovery),
            timeout=client.timeout,
            max_retries=8,
            base_delay=0.01,
            circuit_threshold=None,
        )
        settle = SETTLE if task.way == "once" else 0.0
        orders.once(confirm=client.find, settle=settle)  # says how orders are looked up
        known = {one.key for one in await recovery.reconcile() if isinstance(one.outcome, Found)}
        for key in known:
            say(key, "placed")

        async def one(key: str) -> None:
            once = orders.once(key, confirm=client.find, settle=settle)
            word = ""
            while not word:
                try:
                    await once.call(client.submit, key)
                    word = "placed"
                except OperationCompletedError:  # placed, and killed before it could say so
                    word = "placed"
                except OutcomeUnknownError:  # the next call looks it up again, before anything is sent
                    continue
                except Exception:  # noqa: BLE001  it is certain that it is not there
                    word = "failed"
            say(key, word)

        await eight_at_a_time(one, [key for key in left if key not in known])
        state = await recovery.restore_state()
        for operation in [] if state is None else state.active_operations:
            say(operation["key"], "pending")


async def _trade_with_retries(task: Task, client: Ccxt | AlpacaPy, left: list[str], say: Say) -> None:
    async def send(key: str) -> object:
        if asyncio.iscoroutinefunction(client.submit):
            return await client.submit(key)
        return await asyncio.to_thread(client.submit, key)

    if task.way == "tenacity":
        import tenacity

        send = tenacity.retry(
            stop=tenacity.stop_after_attempt(5),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=0.5),
        )(send)

    async def one(key: str) -> None:
        try:
            await send(key)
        except Exception:  # noqa: BLE001  whatever it is, the retry has given up
            say(key, "failed")
        else:
            say(key, "placed")

    await eight_at_a_time(one, left)


async def eight_at_a_time(one: Callable[[str], Coroutine[Any, Any, None]], keys: list[str]) -> None:
    queue = iter(keys)

    async def worker() -> None:
        for key in queue:
            await one(key)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


# -- the run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What is measured in one run."""

    way: str
    venue: str
    intents: int
    kills: int
    traders: int
    seed: int


@dataclass
class Told:
    """What the traders have said, and how often they were killed."""

    words: dict[str, str] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    kills: int = 0


def keep_killing(task: Task, number: int, url: str, place: Path) -> Told:
    """One trader until it is through, in as many lives as it takes."""
    rng = random.Random(f"{task.seed}/{task.way}/{task.venue}/{number}")
    intents = [f"i{task.seed}-{index}" for index in range(number, task.intents, task.traders)]
    kills = len(range(number, task.kills, task.traders))
    told = Told()
    is_through = False
    while not is_through:
        told.pending.clear()
        left = [key for key in intents if key not in told.words]
        reader, writer = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=trade, args=(task, url, str(place), left, writer), daemon=True)
        process.start()
        writer.close()
        words, after = 0, math.inf
        if told.kills < kills:
            # After some words and a moment, so that it is in the middle of others; or so early that it still reconciles.
            words = rng.randint(1, max(1, round(1.6 * len(left) / (kills - told.kills + 1))))
            after = rng.uniform(0.0, 1.2) if rng.random() < 0.3 else math.inf
        is_through = live(process, reader, told, words=words, moment=rng.uniform(0.0, 0.05), after=after)
    return told


def live(
    process: BaseProcess, reader: Connection, told: Told, *, words: int, moment: float, after: float
) -> bool:
    """One life: killed *moment* seconds behind its last word of *words*, or *after* seconds; whether it came to its end."""
    dies_at = time.monotonic() + after
    is_killed = False
    while True:
        if not is_killed:
            left = dies_at - time.monotonic()
            if left <= 0 or not reader.poll(None if left == math.inf else left):
                process.kill()
                is_killed = True
        try:
            word = reader.recv()
        except EOFError:
            break
        if word is None:
            process.join()
            reader.close()
            return True
        key, what = word
        if what == "pending":
            told.pending.add(key)
        else:
            told.words[key] = what
        words -= 1
        if words == 0:
            dies_at = min(dies_at, time.monotonic() + moment)
    process.join()
    reader.close()
    if not is_killed:
        raise RuntimeError(f"the trader failed with exit code {process.exitcode}")
    told.kills += 1
    return False


@dataclass
class Result:
    """One line of the table."""

    task: Task
    kills: int
    faults: int
    duplicated: int
    lost: int
    wrong: int
    pending: int
    seconds: float

    HEAD: ClassVar = (
        "| venue | way | intents | kills | orders that met a fault | duplicated | lost | wrong verdicts | left pending | s |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )

    def __str__(self) -> str:
        numbers = (
            self.task.intents, self.kills, self.faults, self.duplicated, self.lost, self.wrong, self.pending, round(self.seconds),
        )  # fmt: skip
        return (
            f"| {self.task.venue} | `{self.task.way}` | {' | '.join(f'{number:,}' for number in numbers)} |"
        )

    @property
    def is_clean(self) -> bool:
        return not (self.duplicated or self.lost or self.wrong or self.pending)


def run(task: Task) -> Result:
    began = time.monotonic()
    wire, end = PROCESSES.Pipe()
    venue = PROCESSES.Process(target=keep_venue, args=(task.seed, end), daemon=True)
    venue.start()
    end.close()
    url = wire.recv()
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(task.traders) as threads:
        traders = [
            threads.submit(keep_killing, task, number, url, Path(place) / f"trader-{number}")
            for number in range(task.traders)
        ]
        told = [trader.result() for trader in traders]
    wire.send("end")
    booked, faults = wire.recv()
    venue.join()
    words = {key: word for one in told for key, word in one.words.items()}
    keys = [f"i{task.seed}-{index}" for index in range(task.intents)]
    return Result(
        task,
        kills=sum(one.kills for one in told),
        faults=faults,
        duplicated=sum(booked[key] > 1 for key in keys),
        lost=sum(booked[key] == 0 for key in keys),
        wrong=sum((words[key] == "placed") != (booked[key] > 0) for key in keys),
        pending=sum(len(one.pending) for one in told),
        seconds=time.monotonic() - began,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--intents", type=int, default=400)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--traders", type=int, default=8, help="side by side, each with a journal of its own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--way", nargs="+", choices=WAYS, default=["once"])
    parser.add_argument("--venue", nargs="+", choices=VENUES, default=list(VENUES))
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"rewrite the table of {SECTIONS['orders'].page}: all ways, each as large as said",
    )
    options = parser.parse_args()
    PROCESSES.set_forkserver_preload(list(IMPORTED))
    print(f"seed {options.seed}\n\n{Result.HEAD}", flush=True)
    is_clean, results = True, list[Result]()
    ways = ["once", *(way for way in WAYS if way != "once")] if options.write else options.way
    for way, venue in itertools.product(ways, options.venue):
        result = run(Task(way, venue, options.intents, options.kills, options.traders, options.seed))
        print(result, flush=True)
        results.append(result)
        is_clean = is_clean and (way != "once" or result.is_clean)
    if options.write and is_clean:
        SECTIONS["orders"].write(
            "\n".join([Result.HEAD, *map(str, results)]),
            method=f"Seed {options.seed}, {options.traders} traders side by side.",
            versions=("ccxt", "alpaca-py", "tenacity"),
        )
    return int(not is_clean)


if __name__ == "__main__":
    sys.exit(main())

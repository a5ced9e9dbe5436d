"""
Orders under kill -9: how many are placed twice, how many are lost.

    ./run sh python benchmarks/orders.py [--intents 2000] [--kills 200] [--seed 1] [--way once|no-window|retry]

A venue in this process takes orders over TCP and keeps no two apart: the same id twice is two orders. It answers; or books and
cuts the connection; or books 50 ms after cutting it; or cuts it without booking. A trader in a process of its own places
its intents, eight at a time, and is killed at random moments and started again, until it is through. Ways to send:

    once        handle.once: journalled, and looked up behind a settle window
    no-window   the same with settle=0: the first "not found" is taken for proof
    retry       whatever fails is sent again, and what is not known to be done is begun again after a restart

It prints one line, and ends with 1 if an order was placed twice or lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from shockproof import NOT_FOUND, ErrorRecoveryService, Found, OperationCompletedError
from shockproof.vocabulary.look_up import LookUp

LATE = 0.05
SETTLE = 0.5
AT_ONCE = 8


class Venue:
    """Books what it gets."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.booked: Counter[str] = Counter()
        self.visible_at: dict[str, float] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            if not line.endswith(b"\n"):
                return
            what, key = line.decode().split()
            if what == "find":
                found = time.monotonic() >= self.visible_at.get(key, float("inf"))
                writer.write(json.dumps({"found": found}).encode() + b"\n")
            else:
                mood = self.rng.random()
                if mood < 0.90:
                    self.book(key, 0.0)
                    writer.write(b'{"booked": true}\n')
                elif mood < 0.94:
                    self.book(key, 0.0)
                elif mood < 0.97:
                    self.book(key, LATE)
            await writer.drain()
        except (OSError, ValueError):
            pass
        finally:
            writer.close()

    def book(self, key: str, late: float) -> None:
        self.booked[key] += 1
        self.visible_at.setdefault(key, time.monotonic() + late)


async def ask(port: int, what: str, key: str) -> dict[str, bool]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{what} {key}\n".encode())
        line = await reader.readline()
        if not line:
            raise ConnectionResetError("cut")
        answer: dict[str, bool] = json.loads(line)
        return answer
    finally:
        writer.close()


async def trade(port: int, place: Path, intents: list[str], way: str) -> None:
    """The trader: says on standard output what is done."""
    recovery = ErrorRecoveryService(place / "state", place / "errors")
    orders = recovery.service("orders", max_retries=5, base_delay=0.01, timeout=5.0, circuit_threshold=None)
    settle = SETTLE if way == "once" else 0.0

    async def submit(client_order_id: str) -> dict[str, bool]:
        return await ask(port, "order", client_order_id)

    async def find(key: str) -> LookUp[Any]:
        return Found(key) if (await ask(port, "find", key))["found"] else NOT_FOUND

    async def one(key: str) -> None:
        if way == "retry":
            await orders.call(submit, key)
        else:
            once = orders.once(key, confirm=find, key_argument="client_order_id", settle=settle)
            with contextlib.suppress(OperationCompletedError):  # done, and killed before it could say so
                await once.call(submit)
        print(key, flush=True)

    orders.once(confirm=find, settle=settle)  # says how orders are looked up
    settled = [] if way == "retry" else await recovery.reconcile()
    there = {one.key for one in settled if isinstance(one.outcome, Found)}
    for key in there:
        print(key, flush=True)
    left = iter([key for key in intents if key not in there])

    async def worker() -> None:
        for key in left:
            await one(key)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    await recovery.aclose()


async def run(arguments: argparse.Namespace) -> int:
    rng = random.Random(arguments.seed)
    venue = Venue(rng)
    server = await asyncio.start_server(venue.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    intents = [f"intent-{number}" for number in range(arguments.intents)]
    done: set[str] = set()
    kills = lives = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        while len(done) < len(intents):
            lives += 1
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore", __file__, "--trader", str(port), place, arguments.way,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n".join(key for key in intents if key not in done).encode())
            process.stdin.close()
            lives_for = 0
            if kills < arguments.kills:
                lives_for = rng.randrange(1, 2 * max(1, len(intents) // (arguments.kills + 1)) + 2)
            told = 0
            while line := await process.stdout.readline():
                done.add(line.decode().strip())
                told += 1
                if told == lives_for:
                    process.kill()
                    kills += 1
            if await process.wait() not in (0, -9):
                print("the trader failed", file=sys.stderr)
                return 2
    server.close()
    twice = sum(1 for key in intents if venue.booked[key] > 1)
    lost = sum(1 for key in intents if venue.booked[key] == 0)
    print(
        f"{arguments.way}: {len(intents)} intents, {kills} kills, seed {arguments.seed}: "
        f"{twice} placed twice, {lost} lost ({time.monotonic() - begun:.0f} s)"
    )
    return int(bool(twice or lost))


def main() -> int:
    if sys.argv[1:2] == ["--trader"]:
        port, place, way = sys.argv[2:]
        asyncio.run(trade(int(port), Path(place), sys.stdin.read().split(), way))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--intents", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--way", choices=("once", "no-window", "retry"), default="once")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())

"""
What processes that share a store know of each other and what it costs them, with real processes, real stores and a real venue;
and how load on the store grows with their number.

    ./run sh python benchmarks/fleet.py                      # everything: a quarter of an hour
    ./run sh python benchmarks/fleet.py trouble --only redis # one store: killed, stopped, emptied, cut off in the middle
    ./run sh python benchmarks/fleet.py orders               # the owner of an account killed, stopped and cut off, and the store in trouble, in the middle of its orders
    ./run sh python benchmarks/fleet.py cost                 # a call with sharing on, to one with sharing off
    ./run sh python benchmarks/fleet.py load --largest 1000  # the load on the store, on virtual time
    ./run bench fleet                                        # everything, into docs/explanation/fleet.md

Needs redis-server and etcd (Debian: redis-server, etcd-server). Processes are in network namespaces of their own where the
machine permits that (as root, or where users may have namespaces), else behind proxies on loopback. Times are of one machine's
monotonic clock, which its processes share. "Knows" is when a process is told of its own open circuit, after the second vote was
told to its process. It says what is not as promised, and ends with 1, if a call failed because of the store, a window held more than
its limit, an order was doubled or lost, or a circuit of the simulation stayed open; and if something that was to befall the processes
or the store did not hit a living one in the middle of its work.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from fleet import bots, cost, load, network, orders, published_page, trouble, venue

PARTS = ("trouble", "orders", "cost", "load")
STORES = ("redis", "etcd")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", help=f"some of {', '.join(PARTS)}; none: all")
    parser.add_argument("--only", choices=STORES, help="of trouble: this store")
    parser.add_argument("--rounds", type=int, default=15, help="of trouble: outages until all know")
    parser.add_argument("--intents", type=int, default=1_000, help="of orders, at least")
    parser.add_argument("--kills", type=int, default=4, help="of orders: owners that die")
    parser.add_argument(
        "--troubles",
        type=int,
        default=2,
        help="of orders: how often the store stands still, or comes back empty",
    )
    parser.add_argument(
        "--stops", type=int, default=1, help="of orders: owners that are stopped for longer than their lease"
    )
    parser.add_argument(
        "--cuts",
        type=int,
        default=1,
        help="of orders: how often half of the processes are cut off from the store, the owner among them",
    )
    parser.add_argument("--seed", type=int, default=1, help="of orders")
    parser.add_argument(
        "--lease", type=float, help="of orders: seconds of the owner's lease, to be faster than in earnest"
    )
    parser.add_argument(
        "--file", action="store_true", help="of orders: share through a file, and not through Redis"
    )
    parser.add_argument(
        "--machines",
        action="store_true",
        help="of orders: a journal of its own for each process, as on machines of their own; with --stops 0, for one that is stopped "
        "in the middle of its bytes sends them when it goes on",
    )
    parser.add_argument("--largest", type=int, default=10_000, help="of load: processes")
    parser.add_argument(
        "--living",
        type=int,
        default=load.LIVE,
        help="of load: so many processes share a rate limit of which there is enough, and stand for all",
    )
    parser.add_argument("--write", action="store_true", help=f"everything, into {published_page.PAGE}")
    for name in ("--bot", "--rate", "--venue", "--keep-venue"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the servers are started as in the tests
    logging.getLogger("shockproof").setLevel(logging.CRITICAL)
    if chosen.bot:
        asyncio.run(bots.live(chosen.bot, chosen.rate, chosen.venue))
        return 0
    if chosen.keep_venue:
        asyncio.run(venue.keep(chosen.keep_venue))
        return 0
    unknown = set(chosen.part) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {min(unknown)!r}; there are {', '.join(PARTS)}")
    if chosen.write and (chosen.part or chosen.only):
        parser.error("--write writes the whole page: name no part of it")
    parts = chosen.part or PARTS
    found = published_page.Found()
    if "trouble" in parts or ("orders" in parts and not chosen.file):
        network.enter_a_namespace()
    if "trouble" in parts:
        for kind in STORES if chosen.only is None else (chosen.only,):
            found.troubles.append(asyncio.run(trouble.measure(kind, chosen.rounds)))
            print(trouble.printed(found.troubles[-1]), flush=True)
    if "orders" in parts:
        found.orders = orders.measure(
            orders.Task(
                chosen.intents,
                chosen.kills,
                chosen.stops,
                chosen.seed,
                chosen.lease,
                chosen.troubles,
                chosen.cuts,
                chosen.file,
                chosen.machines,
            )
        )
        print(orders.printed(found.orders), flush=True)
    if "cost" in parts:
        found.cost = asyncio.run(cost.cost())
        print(
            "a healthy call, shared to not shared:",
            ", ".join(f"{name} {ratio:.3f}" for name, ratio in found.cost.items()),
        )
    if "load" in parts:
        for line in published_page.load_lines(found, chosen.largest, chosen.living):
            print(line, flush=True)
    for what in found.complaints:
        print(f"not as promised: {what}", file=sys.stderr)
    if chosen.write and not found.complaints:
        published_page.write(found, chosen.rounds)
    return int(bool(found.complaints))


if __name__ == "__main__":
    sys.exit(main())

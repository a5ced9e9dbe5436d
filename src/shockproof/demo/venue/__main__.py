"""Run the venue as a process of its own: ``python -m shockproof.demo.venue``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import stat
import sys
from typing import TYPE_CHECKING

from shockproof.demo.venue.fault_plan import FaultPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

_STDIN = 0
_PARENT_CHECK = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, serve until told to end, and return the exit code: 0, or 2 for bad options."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        plan = FaultPlan.make(
            options.faults, seconds=options.seconds, seed=options.seed, client_timeout=options.client_timeout
        )
        for name in ("port", "reference_port", "admin_port"):
            if not 0 <= getattr(options, name) <= 65535:
                raise ValueError(
                    f"--{name.replace('_', '-')} must be from 0 to 65535, got {getattr(options, name)}"
                )
        if not options.day_ms > 0:
            raise ValueError(f"--day-ms must be more than 0, got {options.day_ms}")
    except ValueError as error:
        parser.error(str(error))
    try:
        asyncio.run(_serve(plan, options))
    except OSError as error:
        print(f"venue: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shockproof.demo.venue",
        description="An exchange on loopback that speaks Binance spot and misbehaves on purpose.",
        epilog="When it is ready it prints one JSON line with its addresses. It ends on SIGTERM, on SIGINT, when"
        " its standard input (if that is a pipe) is closed, and when its parent process ends.",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="for trading (REST and WebSocket); 0: any free one"
    )
    parser.add_argument(
        "--reference-port", type=int, default=0, help="for the second source of rates; 0: any"
    )
    parser.add_argument("--admin-port", type=int, default=0, help="for ledger and fault log; 0: any")
    parser.add_argument("--seed", type=int, default=1, help="for prices and faults; default 1")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the fault plan; default 30")
    parser.add_argument(
        "--faults", default="normal", help="none, light, normal, heavy, all, or kinds separated by commas"
    )
    parser.add_argument(
        "--client-timeout", type=float, default=2.0, help="seconds after which the client gives up; default 2"
    )
    parser.add_argument(
        "--day-ms",
        type=float,
        default=500.0,
        help="milliseconds for one published day of prices; default 500",
    )
    return parser


async def _serve(plan: FaultPlan, options: argparse.Namespace) -> None:
    from shockproof.demo.venue.server import (
        VenueServer,
    )  # needs the demo extra: --help and bad options do not

    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    if _is_pipe(_STDIN):
        loop.add_reader(_STDIN, _on_stdin, loop, end)
    parent = os.getppid()
    async with VenueServer(
        plan,
        day_seconds=options.day_ms / 1000,
        port=options.port,
        reference_port=options.reference_port,
        admin_port=options.admin_port,
    ) as server:
        print(
            json.dumps(
                {
                    "ready": True,
                    "pid": os.getpid(),
                    "base_url": server.base_url,
                    "stream_url": server.stream_url,
                    "reference_url": server.reference_url,
                    "admin_url": server.admin_url,
                }
            ),
            flush=True,
        )
        while not end.is_set() and os.getppid() == parent:
            if server.failure is not None:
                raise server.failure
            try:
                async with asyncio.timeout(_PARENT_CHECK):
                    await end.wait()
            except TimeoutError:
                continue
    loop.remove_reader(_STDIN)


def _is_pipe(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False  # started with its standard input closed
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _on_stdin(loop: asyncio.AbstractEventLoop, end: asyncio.Event) -> None:
    if not os.read(_STDIN, 4096):
        loop.remove_reader(_STDIN)
        end.set()


if __name__ == "__main__":
    sys.exit(main())

"""
The trader in a row of lives, each but the last killed with SIGKILL at its N-th step. Run by test_trader_killed.

``mortal_trader.py file:N,request:N,...`` and the trader's own arguments. A ``file`` step is a call of the system for a
file; a ``request`` step, a request about an order, and then its answer. Everything is imported once: a life is a fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ccxt.async_support.base.exchange import Exchange

from shockproof.demo import trader
from shockproof.demo.timing import Timing
from shockproof.memory.disk.file_layer import SystemFiles

CLIENT_TIMEOUT = 0.5


class Steps:
    """Counts those of one kind, and ends it all at a given number."""

    def __init__(self, death: str) -> None:
        self._kind, _, number = death.partition(":")
        self._left = int(number or 0)

    def step(self, kind: str, what: str) -> None:
        if kind != self._kind:
            return
        self._left -= 1
        if self._left <= 0:  # several threads count: one may step over the number
            os.write(2, f"killed at {what}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def count_files(steps: Steps) -> None:
    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            steps.step("file", f"{name} {next((str(word) for word in args[1:2]), '')}")
            return method(*args, **kwargs)

        return call

    for name, method in list(vars(SystemFiles).items()):
        if callable(method) and not name.startswith("_"):
            setattr(SystemFiles, name, counted(name, method))


def count_requests(steps: Steps) -> None:
    send = Exchange.fetch

    async def fetch(self: Any, url: str, method: str = "GET", *args: Any, **kwargs: Any) -> Any:
        if "rder" not in url:
            return await send(self, url, method, *args, **kwargs)
        steps.step("request", f"{method}, before it is sent")
        answer = await send(self, url, method, *args, **kwargs)
        steps.step("request", f"{method}, before its answer is known")
        return answer

    Exchange.fetch = fetch


def main() -> int:
    deaths, words = sys.argv[1].split(","), sys.argv[2:]
    # However slow the machine is, what is under way at the end is seen through.
    trader._HURRY = 60.0
    trader._BETWEEN_PRICES = 0.02
    setattr(Timing, "for_session", lambda _seconds: Timing(CLIENT_TIMEOUT))  # noqa: B010 - for mypy
    for life, death in enumerate([*deaths, ""], 1):
        os.set_blocking(1, True)  # the life before has switched it
        # A line of its own, even behind one that was torn.
        os.write(1, b"\n" + json.dumps({"kind": "life", "number": life}).encode() + b"\n")
        child = os.fork()
        if child == 0:
            steps = Steps(death)
            count_files(steps)
            count_requests(steps)
            os._exit(trader.main(words))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != (-signal.SIGKILL if death else 0):
            os.write(2, f"life {life} ended with {status}\n".encode())
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

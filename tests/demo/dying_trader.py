"""
The trader, which kills itself with SIGKILL at a fixed point of its first life. Run by test_demo_session.

``dying_trader.py POINT NUMBER`` and the trader's own arguments: at the NUMBER-th time of POINT.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import ccxt.async_support as ccxt

from shockproof.demo import trader
from shockproof.memory.disk.file_layer import SystemFiles


def main() -> int:
    point, number, *words = sys.argv[1:]
    state_dir = Path(next(word.partition("=")[2] for word in words if word.startswith("--state-dir=")))
    if not state_dir.exists():
        PLACES[point](Countdown(int(number)))
    return trader.main(words)


class Countdown:
    def __init__(self, left: int) -> None:
        self._left = left

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def before_the_send(tick: Countdown) -> None:
    """The intent is durable, and the request does not leave any more."""
    send = ccxt.binance.create_order

    async def create_order(self: Any, *args: Any, **kwargs: Any) -> Any:
        tick()
        return await send(self, *args, **kwargs)

    ccxt.binance.create_order = create_order


def before_the_answer(tick: Countdown) -> None:
    """The venue has booked the order, and the trader never learns of it."""
    send = ccxt.binance.create_order

    async def create_order(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = await send(self, *args, **kwargs)
        tick()
        return answer

    ccxt.binance.create_order = create_order


def in_the_middle_of_a_save(tick: Countdown) -> None:
    """The new state is written, and has not taken the place of the old one."""
    replace = SystemFiles.replace

    def dying_replace(self: SystemFiles, source: Path, target: Path) -> None:
        tick()
        replace(self, source, target)

    SystemFiles.replace = dying_replace  # type: ignore[method-assign]  # that is the point of it


PLACES = {
    "before_the_send": before_the_send,
    "before_the_answer": before_the_answer,
    "in_the_middle_of_a_save": in_the_middle_of_a_save,
}

if __name__ == "__main__":
    sys.exit(main())

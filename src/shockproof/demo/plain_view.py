"""The session in plain lines, for pipes, files and plain terminals: what happens, and a status each second."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from shockproof.demo.scoreboard import Happening, Scoreboard

__all__ = ["PlainView", "status_line"]

_MARKS = {"plain": " ", "good": "+", "bad": "!", "weather": "~"}


class PlainView:
    """Writes lines to *out*; *on_broken* is called once when nobody reads them any more."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._next_status = 1
        self._is_broken = False
        self.on_broken: Callable[[], None] | None = None

    def line(self, text: str, tone: str = "plain") -> None:
        """One line, at once."""
        del tone  # there are no colours here
        if self._is_broken:
            return
        try:
            print(text, file=self._out, flush=True)
        except OSError:
            self._is_broken = True
            if self.on_broken is not None:
                self.on_broken()

    def shown(self, seconds: float) -> AbstractContextManager[object]:
        """For the time of the session."""
        del seconds
        return nullcontext()

    def happened(self, happening: Happening) -> None:
        self.line(f"{happening.elapsed:6.1f} s {_MARKS[happening.tone]} {happening.text}")

    def refresh(self, board: Scoreboard) -> None:
        if board.snapshot:
            self.status(board.elapsed, status_line(board))

    def status(self, elapsed: float, text: str) -> None:
        """How everything stands; shown once a second."""
        if elapsed >= self._next_status:
            self._next_status = int(elapsed) + 1
            self.line(f"{elapsed:6.1f} s = {text}")


def status_line(board: Scoreboard) -> str:
    """How everything stands, in one line."""
    orders = ", ".join(f"{count} {state}" for state, count in board.orders().items()) or "none yet"
    troubled = [
        f"{name} {row.status}" + ("" if row.circuit == "closed" else f"/{row.circuit}")
        for name, row in board.services().items()
        if row.status != "operational" or row.circuit != "closed"
    ]
    calls = sum(row.calls for row in board.services().values())
    lag = 1000 * (board.lag_history[-1] if board.lag_history else 0.0)
    return (
        f"orders: {orders} | calls {calls}, failed {board.sum_of('failures')}, retried {board.sum_of('retries')}, "
        f"fallbacks {board.sum_of('fallbacks')} | lag {lag:.0f} ms | {', '.join(troubled) or 'all services operational'}"
    )

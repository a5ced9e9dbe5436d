"""The time limits of a trading session, and what follows from them for an order of unknown outcome."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Timing"]

_CLOCK_MARGIN = 0.3
"""Seconds on top of what the venue promises: clocks differ, and it may book a little after it answers."""


@dataclass(frozen=True, slots=True)
class Timing:
    """
    Seconds throughout, all in proportion to one: how long the trader waits for an answer.

    What makes "not found" a proof: an attempt ends within `timeout`, and the journal knows when it began; the
    venue refuses a request that reaches it more than `receive_window` after it was signed. So `settle` after the
    end of the last attempt nothing can be booked any more, even if the trader died in between.
    """

    timeout: float

    @classmethod
    def for_session(cls, seconds: float) -> Timing:
        """Short sessions get short limits, so that the same things fit into them."""
        return cls(timeout=min(1.5, max(0.5, seconds / 20)))

    @property
    def valid_for(self) -> float:
        """How long an order is wanted: later its price is old."""
        return 4 * self.timeout

    @property
    def receive_window(self) -> float:
        """Binance's recvWindow, sent along with every signed request."""
        return self.timeout

    @property
    def settle(self) -> float:
        """After the last attempt has ended: the wait before "not found" is believed."""
        return self.receive_window + _CLOCK_MARGIN

    @property
    def until_settled(self) -> float:
        """From the wish to certainty, with a venue that answers."""
        return self.valid_for + self.timeout + self.settle

    @property
    def circuit_timeout(self) -> float:
        return self.timeout

    @property
    def rest(self) -> float:
        """How long a limit order may stand before it is cancelled."""
        return 1.5 * self.timeout

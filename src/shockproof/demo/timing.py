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

    The chain that makes "not found" a proof: the intent is on disk at some moment; the request leaves
    at most `send_within` later, or never; repeated attempts end within `deadline`; the venue refuses
    a request that reaches it more than `receive_window` after it was signed. So `until_settled` after
    the intent nothing can be booked any more, even if the trader died in between.
    """

    timeout: float

    @classmethod
    def for_session(cls, seconds: float) -> Timing:
        """Short sessions get short limits, so that the same things fit into them."""
        return cls(timeout=min(1.5, max(0.5, seconds / 20)))

    @property
    def send_within(self) -> float:
        """The longest time from the intent to the request: later its price is old."""
        return 0.75 * self.timeout

    @property
    def deadline(self) -> float:
        """For all attempts of one order together."""
        return 1.2 * self.timeout

    @property
    def receive_window(self) -> float:
        """Binance's recvWindow, sent along with every signed request."""
        return self.timeout

    @property
    def settle(self) -> float:
        """After the last request has ended: the wait before "not found" is believed."""
        return self.receive_window + _CLOCK_MARGIN

    @property
    def until_settled(self) -> float:
        """The same, counted from the intent, whatever happened since."""
        return self.send_within + self.deadline + self.settle

    @property
    def circuit_timeout(self) -> float:
        return self.timeout

    @property
    def rest(self) -> float:
        """How long a limit order may stand before it is cancelled."""
        return 1.5 * self.timeout

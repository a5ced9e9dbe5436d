"""
The wait for the turn to send, while the other side throttles the client.
"""

from __future__ import annotations

from typing import Final

from shockproof.policies.adaptive_retry import SendRate
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import RateLimitedError

__all__ = ["Turn", "wait_for_turn"]

_LOOK_AGAIN: Final = 1.0
"""Seconds: the rate changes with every answer, and who waits must neither oversleep its rise nor miss its fall."""


class Turn:
    """What one attempt has taken of the send rate; nothing while the rate is free."""

    __slots__ = ("_place", "_rate", "has_waited")

    def __init__(self, rate: SendRate, place: int | None) -> None:
        self._rate = rate
        self._place = place
        self.has_waited = False

    def not_sent(self) -> None:
        """The attempt was never made."""
        self._rate.give_back(self._place)
        self._place = None


async def wait_for_turn(
    rate: SendRate, clock: Clock, *, service_name: str, urgent: bool, until: float | None
) -> Turn:
    """
    Wait until *rate* allows one more send, at most until the monotonic time *until*.

    What is *urgent* takes its turn at once, and the others wait the longer. Cancelled or refused, it leaves
    with nothing.

    Raises:
        RateLimitedError: its turn would not come in time: at once, or when the rate has fallen meanwhile.
    """
    place = rate.take(clock.monotonic())
    turn = Turn(rate, place)
    if urgent:
        return turn
    try:
        while (wait := rate.wait(place, now := clock.monotonic())) > 0:
            if until is not None and now + wait > until:
                raise RateLimitedError(service_name, "adaptive_retry", wait)
            turn.has_waited = True
            await clock.sleep(min(wait, _LOOK_AGAIN))
    except BaseException:
        turn.not_sent()
        raise
    return turn

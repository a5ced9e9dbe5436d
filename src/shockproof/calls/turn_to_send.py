"""
The wait for the turn to send, while the other side throttles the client.
"""

from __future__ import annotations

import asyncio

from shockproof.memory.services.waiters import wake
from shockproof.policies.adaptive_retry import SendRate
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import RateLimitedError

__all__ = ["Turn", "wait_for_turn"]


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


class _Sleeper:
    """Sleeps until its time is over, or until it is woken because its time has changed; from any thread."""

    __slots__ = ("_loop", "_woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> bool:
        """Whether there is anybody to be woken: its loop may have ended, and its call with it."""
        return wake(self._woken)  # that of a moment ago: who was just woken looks at the new time anyway

    async def sleep(self, clock: Clock, seconds: float) -> None:
        sleeping = asyncio.ensure_future(clock.sleep(seconds))
        try:
            await asyncio.wait({sleeping, self._woken}, return_when=asyncio.FIRST_COMPLETED)
            if self._woken.done():
                self._woken = self._loop.create_future()
            else:
                await sleeping
        finally:
            sleeping.cancel()


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
    if urgent or place is None:
        return turn
    sleeper = _Sleeper()
    rate.watch(place, sleeper.wake)
    try:
        while (wait := rate.wait(place, now := clock.monotonic())) > 0:
            if until is not None and now + wait > until:
                raise RateLimitedError(service_name, "adaptive_retry", wait)
            turn.has_waited = True
            await sleeper.sleep(clock, wait)
    except BaseException:
        turn.not_sent()
        raise
    finally:
        rate.leave(place)
    return turn

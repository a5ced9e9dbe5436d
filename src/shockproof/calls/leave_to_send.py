"""
Whether an attempt of an order may begin: no halt, still wanted, no other one in its place, and on the disk before that.
"""

from __future__ import annotations

import asyncio
from typing import Final

from shockproof.calls.flight import Flight, refused_at_last
from shockproof.calls.hedge_race import lanes_around
from shockproof.calls.orders_inside import OrderInside
from shockproof.calls.patience_with_the_journal import (
    patience,
    record_that_it_goes_without,
    why_it_was_not_sent,
)
from shockproof.calls.plan import Plan
from shockproof.calls.wanted_order import WantedOrder
from shockproof.memory.journal.moments import running_seconds
from shockproof.memory.journal.risk_reducing import NO_JOURNAL
from shockproof.memory.journal.sending import NotFreshError, Sending
from shockproof.vocabulary.errors import CallRejectedError, HaltedError

__all__ = ["LeaveToSend", "require_no_halt"]

_OVERTAKEN: Final = (
    "another process may have owned the account since it was known that this order is not there; the same key, given again, "
    "is looked up first"
)

_SPARE: Final = 2.0
"""
Seconds by which the journal says more than an attempt may take.

Half of them are for the disk, and for the loop's next turn: an attempt that would begin later is journalled anew. The
other half stays for a loop that is late to end it.
"""


def require_no_halt(plan: Plan) -> None:
    """
    Count and tell that a call is refused, if the kill switch does.

    Raises:
        HaltedError: it does.
    """
    reason = plan.halt_reason
    if reason is not None:
        raise plan.halted(reason)


class LeaveToSend:
    """
    Of all attempts of one call.

    Args:
        wanted: the order.
        order: the same, as the calls around it see it.
        sending: tells the journal.
        flight: learns when an attempt begins.
        ends_at: of the call's deadline, monotonic seconds; None: it has none.
    """

    __slots__ = ("_ends_at", "_flight", "_order", "_plan", "_sending", "_wanted")

    def __init__(
        self,
        wanted: WantedOrder,
        order: OrderInside,
        sending: Sending,
        flight: Flight,
        ends_at: float | None,
    ) -> None:
        self._wanted = wanted
        self._plan = wanted.plan
        self._order = order
        self._sending = sending
        self._flight = flight
        self._ends_at = ends_at

    async def before_attempt(self) -> None:
        """
        Have it on the disk, and let *flight* and *order* know that it begins.

        Raises:
            HaltedError, CallRejectedError: it must not be sent; that is counted.
            NotFreshError: its key is known, and was not claimed.
            JournalUnavailableError, JournalLockedError, StateVersionError: it cannot be journalled.
        """
        self._require_wanted()
        self._require_the_only_one()
        self._flight.begins_by = None
        try:
            limit = patience(self._wanted, self._time_left())
            if limit is None:
                await self._journalled()
            else:
                async with asyncio.timeout(limit):
                    await self._journalled()
        except NO_JOURNAL as error:
            if not self._plan.risk_reducing:
                raise why_it_was_not_sent(self._wanted, error) from None
            if self._sending.is_news:
                raise NotFreshError from None  # it was read in the meantime
            record_that_it_goes_without(self._wanted, error)
            self._require_wanted()
            # The disk may write what it was asked to only later, and nobody waits for it: nobody knows until when.
            self._sending.sends_all_the_same(at_most_for=None)
        self._require_the_only_one()
        self._order.begins()
        self._flight.begins()

    def refusal_at_last(self, *, has_waited: bool) -> CallRejectedError | None:
        """
        Why it must not run, in its first step; in its thread, if it has one.

        Behind ``begins_by`` a later life would count from too early. The user's predicate is asked again only where it
        *has_waited* since `before_attempt`.
        """
        reason, name = self._plan.halt_reason or self._overtaken, self._wanted.service_name
        refusal: CallRejectedError | None = None if reason is None else HaltedError(name, reason=reason)
        if refusal is None:
            refusal = self._wanted.freshness.refusal(asks=has_waited)
        begins_by = self._flight.begins_by
        is_too_late = begins_by is not None and running_seconds(self._wanted.clock) > begins_by
        if refusal is None and is_too_late:
            refusal = CallRejectedError(name, "timeout")
        return None if refusal is None else refused_at_last(refusal)

    def _require_wanted(self) -> None:
        require_no_halt(self._plan)
        if (overtaken := self._overtaken) is not None:
            raise self._plan.halted(overtaken)
        refusal = self._wanted.freshness.refusal()
        if refusal is not None:
            self._plan.rejected(refusal)
            raise refusal

    @property
    def _overtaken(self) -> str | None:
        """Why somebody else may have sent it meanwhile; None: nobody can have."""
        return _OVERTAKEN if self._plan.is_haltable and self._sending.is_overtaken else None

    def _require_the_only_one(self) -> None:
        """No other one takes its place: of a repetition of a call around it, or of another request of a hedged one."""
        order, lanes = self._order, lanes_around()
        if not lanes and not order.is_withdrawn:  # nearly always
            return
        if not order.is_withdrawn and all(lane.is_free for lane in lanes):
            for lane in lanes:
                lane.race.takes(lane.request, order)
            return
        refusal = CallRejectedError(
            self._wanted.service_name, "repetition" if order.is_withdrawn else "hedge"
        )
        self._plan.rejected(refusal)
        raise refusal

    async def _journalled(self) -> None:
        """Have it on the disk until when the attempt that begins right behind this may be under way."""
        flight, clock = self._flight, self._wanted.clock
        spare, is_told_again = _SPARE, False
        while True:
            asked_at = running_seconds(clock)
            longest = self._longest_attempt() if flight.can_be_ended else None
            until = await self._sending.about_to_send(
                at_most_for=None if longest is None else longest + spare,
                even_without_space=self._plan.risk_reducing,
                is_told_again=is_told_again,
            )
            is_told_again = True
            self._require_wanted()  # the disk may have taken its time, and so may the user's predicate
            longest = self._longest_attempt()
            if until is None or longest is None:
                return
            now = running_seconds(clock)
            flight.begins_by = until.running - longest
            if now <= flight.begins_by - _SPARE / 2:
                return
            spare = 2 * (now - asked_at) + _SPARE

    def _longest_attempt(self) -> float | None:
        """Seconds an attempt that begins now may be under way; None: nothing ends it."""
        limits = [limit for limit in (self._plan.limit, self._time_left()) if limit is not None]
        return min(limits) + (self._plan.grace or 0.0) if limits else None

    def _time_left(self) -> float | None:
        """Seconds until the call's deadline, 0 behind it; None: it has none."""
        return None if self._ends_at is None else max(0.0, self._ends_at - self._wanted.clock.monotonic())

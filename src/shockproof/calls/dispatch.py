"""
Sending an order through all policies of its handle, again where that is safe, until what became of it is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from shockproof.calls.bad_end import end_badly
from shockproof.calls.callables import is_async
from shockproof.calls.executor import execute
from shockproof.calls.flight import Flight
from shockproof.calls.history_of_attempts import describe
from shockproof.calls.leave_to_send import LeaveToSend
from shockproof.calls.left_behind import LeftBehind, how_it_ended
from shockproof.calls.ongoing_call import NOBODY_KNOWS, UnwantedResultError
from shockproof.calls.order_look_up import answered_by_look_up, found_by_look_up
from shockproof.calls.orders_inside import order_sent_since, withdraw_orders
from shockproof.calls.plan import OrderPlan, Plan
from shockproof.calls.wanted_order import CallOfOrder, WantedOrder
from shockproof.calls.witness import witnessed
from shockproof.memory.journal.sending import Sending
from shockproof.policies.classification import is_refusal, leaves_an_order
from shockproof.vocabulary.errors import CallRejectedError
from shockproof.vocabulary.look_up import Found, LookUp
from shockproof.vocabulary.outcomes import Outcome

__all__ = ["Dispatch"]


class Dispatch:
    """One order on its way, whose key is claimed, or is believed to be fresh."""

    __slots__ = (
        "_call",
        "_ends_at",
        "_flight",
        "_leave",
        "_left_behind",
        "_plan",
        "_resends",
        "_sending",
        "_wanted",
    )

    def __init__(self, wanted: WantedOrder, call: CallOfOrder, sending: Sending) -> None:
        self._wanted = wanted
        self._call = call
        self._sending = sending
        deadline = wanted.plan.deadline
        self._ends_at = None if deadline is None else wanted.clock.monotonic() + deadline
        self._left_behind = LeftBehind(wanted, sending, call.function_name)
        self._flight = call.order.flight = Flight(
            wanted.plan.classifier,
            self._left_behind.ends,
            call.began,
            refused=wanted.plan.rejected,
            can_be_ended=is_async(call.fn),
            trace=call.trace,
        )
        self._leave = LeaveToSend(wanted, call.order, sending, self._flight, self._ends_at)
        self._resends = 0
        self._plan = self._plan_like(wanted.plan)

    async def until_known(self) -> Any:  # Any: what the function returned
        """
        What the function returned, or what was found.

        Raises:
            NotFreshError: its key is known, and was not claimed; nothing was sent.
            Exception, OutcomeUnknownError: see `Once.call`.
        """
        flight, sending, left_behind = self._flight, self._sending, self._left_behind
        fn = self._watched()
        while True:
            result: Any = None  # Any: as above
            failed: Exception | None = None
            try:
                result = await execute(self._plan, fn, self._call.args, self._call.kwargs)
            except Exception as error:  # noqa: BLE001  it is judged below, and raised again unless the order is there
                failed = error
            except BaseException as end:
                if flight.is_open:
                    left_behind.give_up(flight, how_it_ended(end))
                else:
                    sending.is_not_there()
                raise
            was_open = flight.is_open
            try:
                if failed is None and not flight.was_judged:
                    if flight.was_refused:
                        sending.is_not_there()
                    else:
                        sending.is_there(result)
                        self._call.order.is_there()
                    return result
                if flight.is_open:
                    if not flight.was_judged and failed is not None:
                        # The callee has made an error of the caller's cancellation: no time is left to look anything up.
                        left_behind.give_up(flight, "cancelled")
                        raise failed
                    found = await self._found(failed)
                    if found is not None:
                        self._call.order.is_there()
                        if flight.outcome is not Outcome.SUCCESS:
                            answered_by_look_up(self._wanted, self._call)
                        return found.value
                    flight.is_open = False
                    if self._is_sent_again(failed):
                        continue
                    if failed is not None:
                        failed.add_note(
                            f"shockproof {self._wanted.service_name}: looked up: it is certain that nothing was placed"
                        )
                sending.is_not_there()
                # One that may not be sent again because a policy refuses is counted as refused.
                if flight.outcome is Outcome.UNKNOWN and (
                    was_open or not isinstance(failed, CallRejectedError)
                ):
                    self._ends_badly(failed, Outcome.FAILURE, "nothing was placed")
                if failed is not None:
                    raise failed
                return result
            finally:
                failed = None  # the traceback holds this frame: no cycle

    def ends(self) -> None:
        """The call has ended, however; what was left behind goes on."""
        self._flight.witness.dismiss()  # it leads back to the flight: no cycle

    def _watched(self) -> Callable[..., Any]:  # Any: as above
        """The function, each attempt of which is seen to its end, and is refused in its first step where it comes too late."""
        has_own_task = self._plan.grace is not None
        # One in the caller's own task follows the last question without a wait.
        has_waited = has_own_task or not self._flight.can_be_ended
        return witnessed(
            self._call.fn,
            lambda: self._flight.witness,
            order=self._call.order,
            now=self._wanted.clock.monotonic,
            refusal=lambda: self._leave.refusal_at_last(has_waited=has_waited),
            has_own_task=has_own_task,
            result_may_refuse=self._flight.looks_at_results,
        )

    def _plan_like(self, plan: Plan) -> OrderPlan:
        """*plan*, by which nothing is sent that is not on the disk and wanted, and the flight knows what came of it."""
        return OrderPlan(
            plan,
            classifier=self._flight,
            before_attempt=self._leave.before_attempt,
            own_order=self._call.order,
            whole_began=self._call.began,
            whole_trace=self._call.trace,
        )

    async def _found(self, failed: Exception | None) -> Found[Any] | None:  # Any: as above
        """
        What the attempt placed, that ended with *failed* or an unwanted result, and may be under way; None: nothing.

        It is counted where nobody knows.
        """
        flight = self._flight
        found = self._left_behind.give_up(flight, how_it_ended(failed))
        if found is not None:
            return found
        settle = self._wanted.settle
        try:
            return await found_by_look_up(
                self._wanted,
                self._sending,
                self._answer,
                closes_at=self._wanted.clock.monotonic() + settle,
                settle=settle,
                failed=failed,
                is_known_there=flight.is_known_there,
            )
        except BaseException:  # the caller's cancellation as well: nobody knows what it did
            if flight.outcome is not Outcome.SUCCESS:  # that is counted
                self._ends_badly(failed, Outcome.UNKNOWN, NOBODY_KNOWS)
            raise

    def _answer(self, key: str) -> Awaitable[LookUp[Any]]:  # Any: as above
        """``confirm``, or the attempt that was left behind, which knows best when it has ended."""
        late = self._flight.late_answer
        return self._wanted.confirm(key) if late is None else _at_once(late)

    def _is_sent_again(self, failed: Exception | None) -> bool:
        """Whether it is, after it is certain that nothing was placed; then its next turn has the time that is left."""
        left = None if self._ends_at is None else self._ends_at - self._wanted.clock.monotonic()
        began, clock, order = self._call.began, self._wanted.clock, self._call.order
        # Whatever was said of the attempt itself: another one would send what was sent inside of it again.
        if order_sent_since(began, clock, but=order) or not self._may_be_sent_again(failed, left):
            return False
        withdraw_orders(began, clock, but=order)
        self._resends += 1
        if left is not None:
            plan = Plan({**self._wanted.plan.options, "deadline": left})
            self._plan = self._plan_like(plan.bind(self._plan.runtime, self._plan.state))
        return True

    def _may_be_sent_again(self, failed: Exception | None, left: float | None) -> bool:
        if self._plan.halt_reason is not None:
            return False
        if failed is not None and (is_refusal(failed) or leaves_an_order(failed)):
            return False  # of a service inside the function: it is not repeated, here as anywhere
        # Only whether, and not when: the settle window was wait enough.
        again = self._plan.retry.after_failure(
            failed, retries=self._resends, previous_delay=0.0, retry_after=None, remaining=left
        )
        return again.delay is not None

    def _ends_badly(self, failed: Exception | None, outcome: Outcome, reason: str) -> None:
        flight = self._flight
        if flight.trace is not None:
            flight.trace.judged(outcome)
        end_badly(
            self._wanted.plan,
            self._call.function_name,
            outcome,
            began=flight.began,
            attempts=flight.attempts,
            error_type=UnwantedResultError.__name__ if failed is None else describe(failed)[0],
            reason=reason,
        )


async def _at_once(found: Found[Any]) -> LookUp[Any]:  # Any: as above
    return found

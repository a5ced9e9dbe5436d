"""
Placing an order: its key is claimed, what was left of it looked up, and only where there is nothing is it sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shockproof.calls.bad_end import end_badly
from shockproof.calls.claim import claim, claim_in_memory
from shockproof.calls.dispatch import Dispatch
from shockproof.calls.ongoing_call import NOBODY_KNOWS
from shockproof.calls.order_look_up import answered_by_look_up, found_by_look_up
from shockproof.calls.running_around import on_its_own
from shockproof.calls.wanted_order import CallOfOrder, WantedOrder
from shockproof.memory.journal.risk_reducing import NO_JOURNAL
from shockproof.memory.journal.sending import Earlier, NotFreshError, Sending
from shockproof.policies.confirmation import window_left
from shockproof.vocabulary.look_up import Found
from shockproof.vocabulary.outcomes import Outcome

__all__ = ["place"]


async def place(
    wanted: WantedOrder, call: CallOfOrder, arguments: Mapping[str, object]
) -> Any:  # Any: what the function returned, or what was found
    """
    What the function returned, or what was found.

    Args:
        wanted: the order.
        call: this call that shall place it.
        arguments: those of the function by their names, which tell orders with one key apart.

    Raises:
        Exception: see `Once.call`.
    """
    reduces_risk = wanted.plan.risk_reducing
    sending = wanted.sending(arguments, was_sent=call.was_sent)
    refusal: Exception | None = None
    earlier: Earlier | None = None
    dispatch: Dispatch | None = None
    try:
        if reduces_risk:
            earlier = await claim_in_memory(wanted, sending)
        if earlier is None and (reduces_risk or wanted.reconciliation.are_settled(wanted.service_name)):
            # Most keys are fresh: one turn of the disk claims it and has it durable.
            try:
                dispatch = Dispatch(wanted, call, sending)
                return await dispatch.until_known()
            except NO_JOURNAL:
                raise
            except Exception as error:
                is_known = isinstance(error, NotFreshError)
                if sending.was_about_to_send and not is_known:
                    raise
                # Or it was refused before anybody looked whether it was sent earlier, and that comes first.
                refusal = None if is_known else error
        if earlier is None:
            earlier = await claim(wanted, sending)
        claimed_at = wanted.clock.monotonic()
        if not reduces_risk:
            with on_its_own():
                await wanted.reconciliation.earlier_are_settled(wanted.service_name, but=wanted.key)
        if earlier is not None:
            found = await _found_of_earlier(
                wanted, call, sending, earlier, claimed_at=claimed_at, is_counted=refusal is not None
            )
            if found is not None:
                return found.value
        if refusal is not None:
            raise refusal
        if dispatch is not None:
            dispatch.ends()
        dispatch = Dispatch(wanted, call, sending)
        return await dispatch.until_known()
    finally:
        if dispatch is not None:
            dispatch.ends()
        refusal = None  # its traceback holds this frame: no cycle
        sending.release()


async def _found_of_earlier(
    wanted: WantedOrder,
    call: CallOfOrder,
    sending: Sending,
    earlier: Earlier,
    *,
    claimed_at: float,
    is_counted: bool,
) -> Found[Any] | None:  # Any: what was found is the user's
    """
    What became of what an earlier life or call left; None: it is certain that there is nothing.

    It ends the call, which is counted unless it *is_counted* as refused.
    """
    settle = max(wanted.settle, earlier.settle)
    try:
        found = await found_by_look_up(
            wanted,
            sending,
            wanted.confirm_with(earlier.details) if earlier.details else wanted.confirm,
            closes_at=claimed_at + window_left(settle, passed=earlier.passed),
            settle=settle,
            failed=None,
            is_known_there=earlier.is_there,
        )
    except Exception as error:
        if not is_counted:
            end_badly(
                wanted.plan,
                call.function_name,
                Outcome.UNKNOWN,
                began=call.began,
                attempts=0,
                error_type=type(error).__name__,
                reason=NOBODY_KNOWS,
            )
        raise
    if found is None:
        return None
    if earlier.differs:
        raise sending.reused(earlier.differs, found.value)
    if not is_counted:
        answered_by_look_up(wanted, call)
    return found

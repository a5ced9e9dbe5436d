"""
What the look-up of an order says: it is there, or it is certain that there is none, or nobody knows.
"""

from __future__ import annotations

from typing import Any

from shockproof.calls.confirm import Confirm
from shockproof.calls.history_of_attempts import describe
from shockproof.calls.reconciliation import look_up, warn_of_contradiction
from shockproof.calls.running_around import on_its_own
from shockproof.calls.wanted_order import CallOfOrder, WantedOrder
from shockproof.memory.journal.sending import Sending
from shockproof.vocabulary.errors import OutcomeUnknownError
from shockproof.vocabulary.look_up import NOT_FOUND, Found
from shockproof.vocabulary.outcomes import Outcome

__all__ = ["answered_by_look_up", "found_by_look_up"]


async def found_by_look_up(
    wanted: WantedOrder,
    sending: Sending,
    confirm: Confirm[Any],  # Any, here and below: what it finds is the user's
    *,
    closes_at: float,
    settle: float,
    failed: Exception | None,
    is_known_there: bool,
) -> Found[Any] | None:
    """
    What was found; None: it is certain that there is nothing.

    Args:
        wanted: the order.
        sending: is told that it is there.
        confirm: asked for it.
        closes_at: when its settle window closes, if nobody still sends it: monotonic seconds.
        settle: seconds of that window, from the end of whoever does.
        failed: what the last attempt ended with.
        is_known_there: the other side said that it has the key. Not found, nobody knows.

    Raises:
        OutcomeUnknownError: nothing was proven.
        TypeError: *confirm* gave what is no answer.
    """
    with on_its_own():
        outcome = await look_up(
            confirm,
            wanted.key,
            closes_at=closes_at,
            settle=settle,
            clock=wanted.clock,
            is_under_way=lambda: sending.is_left_behind or wanted.is_under_way(),
        )
    if isinstance(outcome, Found):
        sending.is_there(outcome.value)
        return outcome
    if outcome is NOT_FOUND and not is_known_there:
        return None
    if outcome is NOT_FOUND:
        warn_of_contradiction(wanted.service_name, wanted.key)
    last_error = None if failed is None else wanted.plan.runtime.redact(": ".join(describe(failed)))
    raise OutcomeUnknownError(wanted.key, wanted.service_name, last_error) from failed


def answered_by_look_up(wanted: WantedOrder, call: CallOfOrder) -> None:
    """The call is over, and well: what was found is its answer."""
    wanted.plan.state.answered_by_look_up(wanted.clock.monotonic() - call.began)
    if call.trace is not None:
        call.trace.judged(Outcome.SUCCESS)

"""
A call that has ended, and not well: counted, timed, told, and the service is unavailable unless somebody stands in.
"""

from __future__ import annotations

from shockproof.calls.plan import Plan
from shockproof.vocabulary.outcomes import Outcome

__all__ = ["end_badly"]


def end_badly(
    plan: Plan,
    function_name: str,
    outcome: Outcome,
    *,
    began: float | None,
    attempts: int,
    error_type: str,
    reason: str,
    may_have_a_stand_in: bool = False,
) -> None:
    """
    The call is over.

    Args:
        plan: how it was made, of which service.
        function_name: what was called.
        outcome: UNKNOWN when nobody knows what it did, else FAILURE.
        began: monotonic seconds; None: nobody wants to know how long it took.
        attempts: how often it was sent.
        error_type: of its last attempt.
        reason: why there is no other attempt, in words.
        may_have_a_stand_in: whether the status is for others to decide.
    """
    state = plan.state
    if outcome is Outcome.UNKNOWN:
        state.unknown_calls += 1
    else:
        state.failed_calls += 1
    if began is not None:
        state.call_ended(outcome, plan.runtime.clock.monotonic() - began)
    if not may_have_a_stand_in:
        state.failed_for_good(is_unknown=outcome is Outcome.UNKNOWN)
    if plan.runtime.listeners:
        from shockproof.vocabulary.events import CallFailed

        plan.runtime.listeners.publish(
            CallFailed(
                service_name=state.name,
                at=plan.runtime.clock.time(),
                function_name=function_name,
                attempts=attempts,
                error_type=error_type,
                reason=reason,
                outcome=outcome,
            )
        )

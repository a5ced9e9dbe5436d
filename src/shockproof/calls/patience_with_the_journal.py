"""
How long an order waits for its journal, and what becomes of it when that does not take it.
"""

from __future__ import annotations

from shockproof.calls.wanted_order import WantedOrder
from shockproof.memory.journal.risk_reducing import PATIENCE
from shockproof.vocabulary.errors import JournalUnavailableError
from shockproof.vocabulary.statuses import ErrorSeverity

__all__ = ["patience", "record_that_it_goes_without", "why_it_was_not_sent"]


def patience(wanted: WantedOrder, left: float | None) -> float | None:
    """
    Seconds that one question to the disk may take, which does not say so when it hangs; None: as long as it takes.

    What reduces risk waits for `PATIENCE`; nothing else does so for longer than the seconds *left* to it, if they end.
    """
    return PATIENCE if wanted.plan.risk_reducing else left


def why_it_was_not_sent(wanted: WantedOrder, error: Exception) -> Exception:
    """The error for the caller, where the question ended with *error*."""
    if not isinstance(error, TimeoutError):
        return error
    return JournalUnavailableError(
        f"the disk did not answer within the deadline of {wanted.plan.deadline} s: order {wanted.key!r} was not sent"
    )


def record_that_it_goes_without(wanted: WantedOrder, error: Exception) -> None:
    """Nobody must be kept from closing a position by a full disk. It is on record where that still works."""
    runtime = wanted.plan.runtime
    runtime.recorder.record(
        error,
        severity=ErrorSeverity.CRITICAL,
        service_name=wanted.service_name,
        function_name="once",
        retry_count=0,
        now=runtime.clock.monotonic(),
    )

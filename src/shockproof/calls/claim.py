"""
Claiming an order's key: to be the only place of this process that sends it, and to learn what was left of it.
"""

from __future__ import annotations

import asyncio

from shockproof.calls.patience_with_the_journal import (
    patience,
    record_that_it_goes_without,
    why_it_was_not_sent,
)
from shockproof.calls.wanted_order import WantedOrder
from shockproof.memory.journal.risk_reducing import NO_JOURNAL
from shockproof.memory.journal.sending import Earlier, Sending
from shockproof.vocabulary.errors import OperationBusyError

__all__ = ["claim", "claim_in_memory"]


async def claim(wanted: WantedOrder, sending: Sending) -> Earlier | None:
    """
    What an earlier life, or an earlier call, left of it; None: nothing, or it goes on without the journal.

    Waits for somebody who only looks the key up.

    Raises:
        OperationCompletedError, KeyReusedError: it was sent, and is there.
        OperationBusyError: it is being sent at another place.
        JournalUnavailableError, JournalLockedError, StateVersionError: the journal cannot tell.
    """
    while True:
        try:
            # What reduces risk has little patience with the disk, and none is needed for what stands in memory.
            if wanted.plan.risk_reducing:
                earlier = sending.claim_at_once(is_under_way=wanted.is_under_way)
                if earlier is not None:
                    return earlier
            return await _claim_on_the_disk(wanted, sending)
        except OperationBusyError:
            if not await _look_up_is_over(wanted):
                raise


async def claim_in_memory(wanted: WantedOrder, sending: Sending) -> Earlier | None:
    """As `claim`, without the disk; None also where only that knows more."""
    while True:
        try:
            return sending.claim_at_once(is_under_way=wanted.is_under_way)
        except OperationBusyError:
            if not await _look_up_is_over(wanted):
                raise


async def _claim_on_the_disk(wanted: WantedOrder, sending: Sending) -> Earlier | None:
    try:
        async with asyncio.timeout(patience(wanted, wanted.plan.deadline)):
            return await sending.claim(is_under_way=wanted.is_under_way)
    except NO_JOURNAL as error:
        if not wanted.plan.risk_reducing:
            raise why_it_was_not_sent(wanted, error) from None
        record_that_it_goes_without(wanted, error)
        return None


async def _look_up_is_over(wanted: WantedOrder) -> bool:
    return await wanted.reconciliation.is_over(wanted.service_name, wanted.key)

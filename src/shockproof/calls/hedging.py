"""
An attempt that is sent a second time when it takes long: the first answer wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from shockproof.calls.ongoing_call import Failure, OngoingCall
from shockproof.policies.hedge import HedgeRule
from shockproof.vocabulary.errors import CallRejectedError

__all__ = ["hedged"]

Leg = tuple[Any, Failure | None]  # Any: whatever the function returns

# Losers are cancelled at once and end when they end: somebody must refer to them until then.
_losers: set[asyncio.Task[Leg]] = set()


async def hedged(call: OngoingCall, rule: HedgeRule, attempt: Callable[[], Awaitable[Leg]]) -> Leg:
    """
    What the first *attempt* to succeed gives; when all fail, the first one's failure.

    The next is started when the rule's wait has passed without an answer, or at once when one fails.
    The winner is returned at once; the others are cancelled, and give back what they hold by themselves.
    """
    clock = call.plan.runtime.clock
    primary = _start(attempt)
    legs, hedges = {primary}, 0
    began, first_failure = clock.monotonic(), None
    try:
        while True:
            wait = rule.wait if hedges < rule.most else None
            done, _ = await asyncio.wait(legs, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            failed = False
            for leg in done:
                legs.discard(leg)
                try:
                    result, failure = leg.result()
                except CallRejectedError:
                    if leg is primary and not legs:
                        raise
                    continue  # a hedge that no policy lets through is just not made
                if failure is None:
                    rule.answered(clock.monotonic() - began)
                    return result, None
                failed = True
                if leg is primary:
                    first_failure = failure
                else:
                    call.note(failure)
            if hedges < rule.most and (failed or not done) and call.may_hedge(rule):
                legs.add(_start(attempt))
                hedges += 1
                call.plan.state.hedges += 1
            elif not done:
                hedges = rule.most  # it may not: only wait from now on
            if not legs:
                return None, first_failure
    finally:
        for leg in legs:
            leg.cancel()
            _losers.add(leg)
            leg.add_done_callback(_ended)
        first_failure = None  # the error's traceback may hold this frame: no cycle


def _start(attempt: Callable[[], Awaitable[Leg]]) -> asyncio.Task[Leg]:
    async def leg() -> Leg:
        return await attempt()

    return asyncio.get_running_loop().create_task(leg())


def _ended(leg: asyncio.Task[Leg]) -> None:
    _losers.discard(leg)
    if leg.cancelled() or leg.exception() is not None:
        return
    _, failure = leg.result()
    if failure is not None:
        failure.ticket.released()  # too late for a verdict

"""
An attempt that is sent a second time when it takes long: the first answer wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from shockproof.calls.hedge_race import HedgeRace
from shockproof.calls.limits_around import Limit, carry, limits_around
from shockproof.calls.ongoing_call import Failure, OngoingCall
from shockproof.policies.hedge import HedgeRule
from shockproof.vocabulary.errors import CallRejectedError

__all__ = ["Leg", "hedged"]

Leg = tuple[Any, Failure | None]  # Any: whatever the function returns


class _Request:
    """One of the requests of a call, in a task of its own."""

    __slots__ = ("_ended_with", "sent", "task")

    def __init__(self, attempt: Callable[[Callable[[], None]], Awaitable[Leg]], race: HedgeRace) -> None:
        loop = asyncio.get_running_loop()
        self.sent = loop.create_future()
        # Not the task's result: an error's traceback holds the timer, that the task, and it the error.
        self._ended_with: list[Leg] = []
        when_sent = partial(_mark, self.sent)
        enter = partial(race.enter, self.sent)
        self.task = loop.create_task(
            _run(partial(attempt, when_sent), self._ended_with, limits_around(), enter)
        )

    @property
    def has_answered(self) -> bool:
        return bool(self._ended_with) and self._ended_with[0][1] is None

    def take(self) -> Leg:
        """What became of it, once; it has not raised."""
        return self._ended_with.pop()

    def thrown_away(self, _: asyncio.Task[None]) -> None:
        """It has ended too late for a verdict."""
        if self._ended_with:
            _, failure = self._ended_with.pop()
            if failure is not None:
                failure.ticket.released()
        elif not self.task.cancelled():
            self.task.exception()  # one that nobody looks at is reported when the task is collected


def _mark(sent: asyncio.Future[None]) -> None:
    if not sent.done():
        sent.set_result(None)


async def _run(
    attempt: Callable[[], Awaitable[Leg]],
    ended_with: list[Leg],
    limits: tuple[Limit, ...],
    enter: Callable[[], None],
) -> None:
    carry(limits)
    enter()
    ended_with.append(await attempt())


async def hedged(
    call: OngoingCall,
    rule: HedgeRule,
    attempt: Callable[[Callable[[], None]], Awaitable[Leg]],
    hedge: Callable[[Callable[[], None]], Awaitable[Leg]],
) -> Leg:
    """
    What the first to answer gives, the *attempt* or a *hedge* of it; when all fail, the attempt's failure.

    A hedge is sent when the rule's wait has passed without an answer, or at once when one has failed in a
    way that is worth a repetition. Both are handed a function to call when they are sent: what an attempt
    waits for before that is our own queue, and a second request would only stand behind it; a hedge that
    still waits there when the call ends costs nothing. Once one of them has sent an order, there is no further one, and
    no other sends an order. The winner is returned at once; the others are
    cancelled, and give back what they hold by themselves.
    """
    clock = call.plan.runtime.clock
    race = HedgeRace(asyncio.current_task())
    requests, hedges = [_Request(attempt, race)], 0  # in the order they were sent
    primary: _Request | None = requests[0]
    tasks, ended = list[asyncio.Task[None]](), list[_Request]()
    first_failure: Failure | None = None
    one: _Request | None = None
    try:
        await asyncio.wait({requests[0].task, requests[0].sent}, return_when=asyncio.FIRST_COMPLETED)
        began = clock.monotonic()
        while True:
            wait = rule.wait if hedges < rule.most else None
            tasks = [request.task for request in requests]
            await asyncio.wait(tasks, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            ended = [request for request in requests if request.task.done()]
            is_time = not ended
            # An answer is the answer, whatever else has come in the same turn.
            for one in sorted(ended, key=_has_not_answered):
                try:
                    one.task.result()
                except CallRejectedError:
                    if one is primary:
                        raise
                    requests.remove(one)  # a hedge that no policy lets through is just not made
                    call.give_back_hedge()
                    continue
                requests.remove(one)
                result, failure = one.take()
                if failure is None:
                    call.hedge_answered(rule, clock.monotonic() - began)
                    if first_failure is not None:
                        failure, first_failure = first_failure, None
                        call.note(failure, is_hedge=False)
                    return result, None
                goes_on = call.goes_on_after(failure)
                if goes_on is None:
                    return result, failure
                if goes_on:
                    is_time = True
                    race.fails(one.sent)
                else:
                    hedges = rule.most  # nobody knows what it did, or it was refused: send no more
                if one is primary:
                    first_failure = failure
                else:
                    call.note(failure, is_hedge=True)
            if is_time and hedges < rule.most:
                if not race.has_order and call.may_hedge(began):
                    requests.append(_Request(hedge, race))
                    hedges += 1
                else:
                    hedges = rule.most  # not now, and so not later: only wait from now on
            if not requests:
                failure, first_failure = first_failure, None
                assert failure is not None
                return failure.result, failure
    finally:
        while requests:
            loser = requests.pop()
            if loser is not primary and not loser.sent.done():
                call.give_back_hedge()
            call.plan.runtime.losers.add(loser.task, call.plan.state, call.function_name)
            loser.task.add_done_callback(loser.thrown_away)
            del loser
        if first_failure is not None:
            first_failure.ticket.released()  # the call ends in another way: no verdict
        # An error's traceback may hold this frame, and a task the error: no cycle.
        first_failure = failure = one = primary = None
        tasks.clear()
        ended.clear()


def _has_not_answered(request: _Request) -> bool:
    return not request.has_answered

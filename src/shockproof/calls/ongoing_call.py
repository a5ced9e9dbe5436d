"""
One call on its way: the attempts so far, what is left of the deadline, and what follows a failure.

All decisions are synchronous: the executor and the blocks ask, and then wait as they are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Token
from functools import partial
from typing import Any, Final

from shockproof.calls.bad_end import end_badly
from shockproof.calls.call_ages import CallAges
from shockproof.calls.faults import Faults
from shockproof.calls.history_of_attempts import LONGEST_TEXT, attach, describe
from shockproof.calls.limits import Held, Limits
from shockproof.calls.limits_around import time_left_around
from shockproof.calls.orders_inside import (
    OrderInside,
    name_unknown_order,
    withdraw_orders,
)
from shockproof.calls.plan import Plan
from shockproof.calls.running_around import (
    IN_AN_ORDER,
    RunningAround,
    a_retry_runs,
    begin_retry,
    end_retry,
    may_be_inside,
)
from shockproof.calls.timer import UNNOTICED, Timer, running_task, start_single_timer
from shockproof.calls.tracing import AttemptTrace, CallTrace
from shockproof.calls.turn_to_send import Turn, wait_for_turn
from shockproof.memory.services.counts_by_type import NOT_COUNTED
from shockproof.policies.adaptive_retry import AdaptiveRetry, SendRate
from shockproof.policies.circuit_breaker import PASS_THROUGH, Admission, Ticket
from shockproof.policies.classification import is_refusal
from shockproof.policies.error_kinds import ErrorKind, kind_of, says_too_much, status_of
from shockproof.policies.hedge import HedgeRule
from shockproof.policies.retry import Decision
from shockproof.policies.retry_budget import RetryBudget
from shockproof.policies.stall import was_stalled
from shockproof.vocabulary.errors import (
    AttemptTimeoutError,
    CallRejectedError,
    CircuitOpenError,
    DeadlineExceededError,
    HaltedError,
)
from shockproof.vocabulary.outcomes import Attempt, CallInfo, Outcome, Verdict
from shockproof.vocabulary.statuses import ErrorSeverity

__all__ = ["NOBODY_KNOWS", "Failure", "OngoingCall", "UnwantedResultError", "timeout_error"]


NOBODY_KNOWS: Final = "its outcome is unknown: it may have happened at the other side"
"""Why an attempt is not repeated."""
_KEPT_ATTEMPTS: Final = 10_000
"""Failed attempts that are remembered; an endless retry has more."""
_AT_ONCE: Final = 8
"""Attempts without a wait between them after which the event loop has its turn; a turn costs half of a failed attempt."""


_LONGEST_PAUSE: Final = 86_400.0
"""Seconds: who persists asks again at least once a day, whatever a header says."""


# On 3.11 asking an enum for a member takes as long as calling a function.
_LAST_STEP: Final = 1.0
"""Seconds at the end of an attempt, in which a time limit of its own may have begun and passed."""
_SUCCESS: Final = Outcome.SUCCESS
_NEUTRAL: Final = Outcome.NEUTRAL
_UNKNOWN: Final = Outcome.UNKNOWN
_MEDIUM: Final = ErrorSeverity.MEDIUM


class UnwantedResultError(Exception):
    """Stands for a result that was judged a failure, in the records and inside; no caller ever sees it."""

    def __init__(self, result: object) -> None:
        super().__init__(f"a result of type {type(result).__name__} was judged a failure")
        self.result = result


class Failure:
    """How one attempt ended, if not well: with an error, or with a result that may be unwanted."""

    __slots__ = (
        "began",
        "duration",
        "error",
        "error_type",
        "judged",
        "message",
        "order",
        "redact",
        "result",
        "stalled",
        "ticket",
        "verdict",
    )

    error_type: str
    message: str
    """Not redacted: most are never shown to anybody. It and the type are taken down when it is counted."""
    redact: Callable[[str], str]

    def __init__(self, ticket: Ticket, duration: float) -> None:
        self.ticket = ticket
        self.duration = duration
        self.began: float | None = None
        """When it began, where orders were sent that may be inside of it."""
        self.order: OrderInside | None = None
        """One that was sent inside of the attempt, so that another attempt would send another."""
        self.error: Exception | None = None
        self.result: object = None
        self.verdict: Verdict | None = None
        """What was known about it at once; None leaves it to the classification."""
        self.judged: Verdict | None = None
        """What the classification says, once it was asked: never twice."""
        self.stalled = False

    def began_at(self, now: float) -> float:
        """When it began, if it is over *now*."""
        return now - self.duration if self.began is None else self.began

    def __str__(self) -> str:
        """Type and text without secrets, once it is counted: what a circuit that it opens shows as the reason."""
        return f"{self.error_type}: {self.redact(self.message)}"


_Told = tuple[int, str, str, float, float, float | None, Outcome, bool]
"""
The fields of an `Attempt`, its text not redacted: it is made only when somebody will see it, because that takes longer
than most of the rest.
"""


def timeout_error(plan: Plan, limit: float) -> Exception:
    """The error that stands for an attempt which was ended after *limit* seconds."""
    plan.state.timeouts += 1
    if plan.deadline is not None and (plan.timeout is None or limit < plan.timeout):
        return DeadlineExceededError(plan.state.name, plan.deadline)
    return AttemptTimeoutError(plan.state.name, limit)


def _is_cancelled() -> bool:
    """Whether somebody has cancelled the running task, which has not noticed yet."""
    task = running_task()
    return task is not None and task.cancelling() > 0


def _halted(reason: str) -> str:
    return f"it was halted: {reason}"


def _nothing_ran(failure: Failure) -> bool:
    """Whether a neutral end means that the call was refused, or that its time was up in a queue."""
    error = failure.error
    return error is not None and (failure.verdict is not None or is_refusal(error))


class OngoingCall:
    """The bookkeeping of one call from its first attempt to its end."""

    __slots__ = (
        "_attempts",
        "_began",
        "_budget",
        "_cost",
        "_deadline_at",
        "_failed",
        "_last_error",
        "_mark",
        "_previous_delay",
        "attempt_trace",
        "came_at",
        "can_fall_back",
        "falls_back",
        "function_name",
        "persists",
        "plan",
        "repeats",
        "trace",
    )

    def __init__(
        self,
        plan: Plan,
        function_name: str,
        elapsed: float = 0.0,
        *,
        repeats: bool = True,
        falls_back: bool = True,
        persists: bool = False,
    ) -> None:
        self.plan = plan
        self.function_name = function_name
        self.repeats = repeats
        """Whether this way of calling repeats attempts at all; a guard does not."""
        self.falls_back = falls_back and plan.fallbacks != ()
        """Whether somebody answers for it when it fails; a block has nobody."""
        self.persists = persists
        """Whether it waits where a call ends: for an open circuit, a dry budget, a long Retry-After."""
        self.can_fall_back = False
        """Whether the call ended in a way that a stand-in may answer for."""
        self.came_at: float | None = None
        """When it came, before it waited for anything; None: nothing has failed, and nothing had to be waited for."""
        state = plan.state
        # What `is_waited_for` says, without its call.
        if state.limits is not None or plan.adaptive is not None:
            self.came_at = plan.runtime.clock.monotonic() - elapsed
        self._failed = 0
        self._attempts: list[_Told] = []
        self._budget: RetryBudget | None = None
        """What has paid for the retry that is due or in flight."""
        self._cost = 1.0
        self._previous_delay = 0.0
        self._last_error: Exception | None = None
        self._mark: tuple[RunningAround, Token[RunningAround | None]] | None = None
        self.trace: CallTrace | None = None
        self.attempt_trace: AttemptTrace | None = None
        """That of a block; the executor holds its own, of which there may be several at a time."""
        self._began: float | None = None
        """When it began, where somebody wants to know how long calls take; a feed has no such time."""
        if state.call_timers and not persists:
            whole_began = plan.whole_began
            self._began = plan.runtime.clock.monotonic() - elapsed if whole_began is None else whole_began
        self._deadline_at: float | None = None
        if plan.deadline is not None:
            self._deadline_at = plan.runtime.clock.monotonic() - elapsed + plan.deadline

    @property
    def number(self) -> int:
        """The number of the attempt that is due or in flight; 1 for the first."""
        return self._failed + 1

    @property
    def deadline_at(self) -> float | None:
        """The monotonic time of the deadline, or None without one."""
        return self._deadline_at

    def info(self) -> CallInfo:
        """What `classify` is told about the attempt in flight."""
        plan = self.plan
        return CallInfo(plan.state.name, self.function_name, self.number, plan.effect, plan.runtime.clock)

    def has_to_give_way(self) -> bool:
        """Whether so many attempts were made without a wait that the event loop must have its turn."""
        return self._failed % _AT_ONCE == 0

    # -- before an attempt ---------------------------------------------------------------------

    def lane(self) -> Admission | None:
        """The admission of an attempt of which nobody has to be asked anything; None sends it the long way."""
        plan = self.plan
        lane = plan.entrance.lane
        if lane is None or not plan.is_simple or plan.before_attempt is not None or self.trace is not None:
            return None
        if self._deadline_at is not None and plan.runtime.clock.monotonic() >= self._deadline_at:
            return None
        return lane

    def admit(self) -> Admission:
        """
        A ticket for the next attempt.

        Raises:
            CircuitOpenError, HaltedError: the circuit or the kill switch refuses, and there was no attempt yet.
            Exception: one of them refuses, or the deadline passed: the last attempt's own error.
        """
        plan = self.plan
        lane = plan.entrance.lane
        if lane is not None and self._last_error is None:
            return lane
        if plan.needs_preparing:
            plan.prepare()
        self._require_no_halt()
        now = plan.runtime.clock.monotonic()
        circuit = plan.state.circuit
        last = self._last_error
        if last is not None and self._deadline_at is not None and now >= self._deadline_at:
            raise self._ended_while_waiting(last, "the deadline passed before another attempt")
        ticket = circuit.admit(now, lease=self.lease())
        if ticket is not None:
            return ticket
        if plan.risk_reducing:
            return PASS_THROUGH
        if last is not None:
            raise self._ended_while_waiting(last, "the circuit opened")
        self.can_fall_back = True
        raise plan.refused(circuit.open_for(now))

    def _require_no_halt(self) -> None:
        reason = self.plan.halt_reason
        if reason is None:
            return
        last = self._last_error
        if last is not None:
            raise self._ended_while_waiting(last, _halted(reason))
        raise self.plan.halted(reason)

    def begin_anew(self) -> None:
        """Something was there in between: the deadline counts from now."""
        if self.plan.deadline is not None:
            self._deadline_at = self.plan.runtime.clock.monotonic() + self.plan.deadline

    def give_up(self, refusal: CallRejectedError) -> Exception:
        """What to raise when there is no time left to be let in: the last attempt's own error, if there was one."""
        last = self._last_error
        return refusal if last is None else self._ended_while_waiting(last, str(refusal))

    async def wait(self, delay: float) -> None:
        """
        Wait *delay* seconds before the next attempt.

        Raises:
            Exception: the circuit opened meanwhile, or a write was halted: the last attempt's own error, at once.
        """
        plan, state = self.plan, self.plan.state
        if delay <= 0:
            if self.has_to_give_way():
                await asyncio.sleep(0)  # a retry loop without waits must not starve the event loop
            return
        if plan.risk_reducing:
            await plan.runtime.clock.sleep(delay)
            return
        sleeping = asyncio.ensure_future(plan.runtime.clock.sleep(delay))
        opened = asyncio.get_running_loop().create_future()
        state.wait_for_opening(opened)
        waits_for = {sleeping, opened}
        halt, halted = state.halt if plan.is_haltable else None, None
        if halt is not None:
            halted = asyncio.get_running_loop().create_future()
            waits_for.add(halted)
            halt.waiting.add(halted)
        try:
            # Look again: another thread may have opened it before this wait could be woken.
            if self._last_error is not None and state.circuit.state(plan.runtime.clock.monotonic()) == "open":
                raise self._ended_while_waiting(self._last_error, "the circuit opened")
            if self._last_error is not None:
                self._require_no_halt()
            await asyncio.wait(waits_for, return_when=asyncio.FIRST_COMPLETED)
            if halted is not None and halted.done() and self._last_error is not None:
                # Also when it was resumed since: what is sent after that is for somebody to decide.
                raise self._ended_while_waiting(self._last_error, _halted(plan.halt_reason or "for a moment"))
            if opened.done() and self._last_error is not None:
                raise self._ended_while_waiting(self._last_error, "the circuit opened")
            await sleeping
        finally:
            state.stop_waiting(opened)
            if halt is not None and halted is not None:
                halt.waiting.discard(halted)
            sleeping.cancel()

    def _ended_while_waiting(self, last: Exception, reason: str) -> Exception:
        self.can_fall_back = True
        self._end(None if isinstance(last, UnwantedResultError) else last, reason)
        return last

    def lease(self) -> float | None:
        """Seconds a probe of this call may be silent; None: the circuit's timeout."""
        declared: float | None = self.plan.state.probe_lease
        limit = self.plan.limit
        if declared is not None or limit is None:
            return declared
        # Our own time limit ends the probe, and that is a verdict: the lease is for what never comes
        # back, so it has to outlast the limit, the grace, and a loop that is a little late.
        longest: float = limit + (self.plan.grace or 0.0) + max(1.0, limit / 4)
        return longest

    async def enter_limits(self, ticket: Admission) -> tuple[Admission, Held | None]:
        """
        Its turn to send and what it needs of the service's limits, after a wait if need be, and a valid ticket.

        Whatever goes wrong, the ticket and everything taken are given back.

        Raises:
            RateLimitedError, BulkheadFullError: refused, and there was no attempt yet.
            CircuitOpenError, HaltedError: the circuit opened, or a write was halted, during the wait, and there was no
                attempt yet.
            Exception: either, and there was one: the last attempt's own error.
        """
        plan = self.plan
        limits: Limits | None = plan.state.limits
        turn, held = None, None
        try:
            if plan.adaptive is not None:
                turn = await self._turn(plan.adaptive.send_rate)
            if limits is not None:
                held = await limits.enter(weight=plan.weight, rank=plan.rank, until=self._deadline_at)
        except CallRejectedError as refusal:
            ticket.released()
            if turn is not None:
                turn.not_sent()
            raise self._rejected(refusal) from None
        except BaseException:
            ticket.released()
            if turn is not None:
                turn.not_sent()
            raise
        has_waited = (turn is not None and turn.has_waited) or (held is not None and held.has_waited)
        if has_waited and (ticket is not plan.state.circuit.closed or plan.halt_reason is not None):
            # The circuit may have changed meanwhile: the place in the queue is kept, the ticket is not.
            ticket.released()
            try:
                ticket = self.admit()
            except BaseException:
                if turn is not None:
                    turn.not_sent()
                if held is not None:
                    held.not_sent()
                raise
        return ticket, held

    def begins(self, ticket: Admission) -> Ticket:
        """The attempt that *ticket* admitted is about to run: from here on its age counts, if any does."""
        ages: CallAges | None = self.plan.state.call_ages
        return ticket if ages is None else ages.begin(ticket, self.function_name)

    async def _turn(self, rate: SendRate) -> Turn:
        plan = self.plan
        clock, now = plan.runtime.clock, plan.runtime.clock.monotonic()
        around, most = time_left_around(), plan.state.set_by_hand.get("max_wait")
        bounds = [self._deadline_at, None if around is None else now + around]
        if isinstance(most, float):
            bounds.append(now + most)
        until = min((bound for bound in bounds if bound is not None), default=None)
        return await wait_for_turn(
            rate, clock, service_name=plan.state.name, urgent=plan.risk_reducing, until=until
        )

    def _rejected(self, refusal: CallRejectedError) -> Exception:
        last = self._last_error
        if last is not None:
            return self._ended_while_waiting(last, str(refusal))
        self.can_fall_back = True
        self.plan.rejected(refusal)
        return refusal

    def admit_hedge(self) -> Admission:
        """
        A ticket for a hedge, which is no probe: only a closed circuit lets it through.

        Raises:
            CircuitOpenError, HaltedError: it is not closed, or a write was halted. Counted nowhere: the call itself
                goes on.
        """
        reason = self.plan.halt_reason
        if reason is not None:
            raise HaltedError(self.plan.state.name, reason=reason)
        circuit = self.plan.state.circuit
        if circuit.closed is not None:
            return circuit.closed
        if circuit.state(self.plan.runtime.clock.monotonic()) != "closed":
            raise CircuitOpenError(self.plan.state.name)
        return PASS_THROUGH

    async def enter_limits_as_hedge(self) -> tuple[Admission, Held]:
        """
        What a hedge needs of the service's limits, and a ticket; whatever goes wrong, everything is given back.

        Raises:
            CallRejectedError: refused, or the circuit opened meanwhile. Counted nowhere, as above.
        """
        plan = self.plan
        held: Held = await plan.state.limits.enter(
            weight=plan.weight, rank=plan.rank, until=self._deadline_at
        )
        try:
            return self.admit_hedge(), held
        except CallRejectedError:
            held.not_sent()
            raise

    def time_limit(self) -> float | None:
        """Seconds the next attempt may take, or None for no limit."""
        limit = self.plan.timeout
        if self._deadline_at is not None:
            left = max(0.0, self._deadline_at - self.plan.runtime.clock.monotonic())
            limit = left if limit is None else min(limit, left)
        return limit

    def start_timer(self) -> Timer | None:
        """The timer of the next attempt, set; None when it has no limit."""
        limit = None if self.plan.limit is None else self.time_limit()
        if limit is None:
            return None
        first = self.plan.first_limit
        return first.start() if first is not None and limit == first.seconds else start_single_timer(limit)

    def awaitable(
        self,
        fn: Callable[..., Any],  # Any: the user's function
        args: tuple[Any, ...],  # Any: its arguments
        kwargs: dict[str, Any],  # Any: its arguments
        held: Held | None,
    ) -> Any:  # Any: something to await
        """What to await for the next attempt: the function's own, or what a fault makes of it."""
        faults: Faults | None = self.plan.state.faults
        if faults is None:
            return self.plan.awaitable(fn, args, kwargs, held)
        return faults.around(self.info(), args, kwargs, partial(self.plan.awaitable, fn, args, kwargs, held))

    # -- after an attempt ----------------------------------------------------------------------

    def succeeded(self, ticket: Ticket, duration: float) -> None:
        """The attempt succeeded, after *duration* seconds."""
        plan = self.plan
        if self.trace is not None:
            self.trace.judged(Outcome.SUCCESS)
        if self._budget is not None:
            self.return_budget()  # a retry that was worth it costs nothing
        if plan.adaptive is not None:
            self._answered(plan.adaptive, plan.runtime.clock.monotonic(), duration, None)
        entrance = plan.state.entrance
        entrance.successes += 1
        if plan.state.limits is not None:
            plan.state.limits.ended(plan.state.own_time(duration), dropped=False)
        # A probe's success is news by itself; in a closed circuit only what is stirred needs care.
        if entrance.stirred or ticket is not plan.state.circuit.closed:
            now = plan.now() if self._failed else plan.runtime.clock.monotonic()
            plan.state.settle(ticket, now, duration, None if self._began is None else now - self._began)

    def after(self, failure: Failure) -> float | None:
        """
        Judge how an attempt ended: seconds until the next one, or None when there is none.

        Told to the circuit, recorded, and attached to the error here and nowhere else.
        """
        plan, state = self.plan, self.plan.state
        error = failure.error
        verdict = self._verdict_of(failure)
        if self.trace is not None:
            self.trace.judged(verdict.outcome)
        if state.limits is not None:
            state.limits.answered(failure.result if error is None else error, verdict.retry_after)
        outcome = verdict.outcome
        if outcome is _NEUTRAL:
            failure.ticket.released()
            nothing_ran = _nothing_ran(failure)
            if nothing_ran and self._last_error is not None:
                raise self._ended_while_waiting(self._last_error, f"the next attempt was refused: {error}")
            self.can_fall_back = nothing_ran
            if nothing_ran and self.falls_back:
                if self.came_at is None:
                    self.came_at = failure.began_at(plan.runtime.clock.monotonic())
                self._withdraw_orders(failure)
            return None
        if outcome is _SUCCESS:  # the user's classify knows better
            self.succeeded(failure.ticket, failure.duration)
            return None
        now = plan.runtime.clock.monotonic()
        shown, kind = self._count(failure, verdict, now)
        self._budget = None  # spent
        came_at = self.came_at
        if came_at is None:
            came_at = self.came_at = failure.began_at(now)
        decision = self._decide(error, verdict, now, kind, came_at)
        if failure.order is not None and outcome is _UNKNOWN:
            decision = Decision(None, failure.order.reason)
        delay = decision.delay
        if verdict.retry_after is not None and plan.retry.asks_for_a_pause(
            verdict.retry_after, self.remaining(now)
        ):
            # A circuit that is switched off stays so.
            state.circuit.pause(now, verdict.retry_after, str(failure))
        at = plan.runtime.clock.time()
        self._record(shown, failure.message, outcome, delay, now, at)
        self._remember(failure, outcome, delay, at)
        self._failed += 1
        if plan.runtime.listeners.active:
            self._tell(decision, outcome, failure.duration, at)
        if delay is None:
            self.can_fall_back = outcome is not _UNKNOWN
            if self.can_fall_back and self.falls_back:
                self._withdraw_orders(failure)
            self._end(error, decision.reason, outcome)
            return None
        if failure.began is not None:
            self._withdraw_orders(failure)
        state.retries += 1
        state.retries_by_type.add(failure.error_type)
        self._previous_delay = delay
        self._last_error = shown
        return delay

    def _withdraw_orders(self, failure: Failure) -> None:
        withdraw_orders(failure.began, self.plan.runtime.clock, but=self.plan.own_order)

    def _count(self, failure: Failure, verdict: Verdict, now: float) -> tuple[Exception, ErrorKind]:
        """The service is told of a failure: what stands for it in the records, and what kind of error it is."""
        plan, state = self.plan, self.plan.state
        if state.stood_still is not None and not failure.stalled:
            failure.stalled = self._came_of_our_stall(failure, state.stood_still)
        if state.limits is not None:
            self._tell_load(failure, verdict)
        error = failure.error
        shown = UnwantedResultError(failure.result) if error is None else error
        failure.error_type, failure.message = describe(shown)
        failure.redact = plan.runtime.redact
        state.failures += 1
        if state.failures_by_type is NOT_COUNTED:
            state.begin_to_count_types()
        state.failures_by_type.add(failure.error_type)
        kind: ErrorKind = "other"
        adaptive = plan.adaptive
        if adaptive is not None or state.retry_budget is not None:
            kind = kind_of(error, verdict.retry_after)
        if adaptive is not None:
            self._answered(adaptive, now, failure.duration, kind)
        if failure.stalled:
            failure.ticket.released()  # our own loop stood still: no verdict on the other side
        else:
            failure.ticket.failed(now, failure, failure.duration)
        state.entrance.stirred = True
        return shown, kind

    def _remember(
        self, failure: Failure, outcome: Outcome, delay: float | None, at: float, *, is_hedge: bool = False
    ) -> None:
        attempts, took = self._attempts, failure.duration
        attempts.append(
            (
                self._failed + 1,
                failure.error_type,
                failure.message,
                at - took,
                took,
                delay,
                outcome,
                is_hedge,
            )
        )
        if len(attempts) > _KEPT_ATTEMPTS:
            del attempts[0]

    def _shown(self, told: _Told) -> Attempt:
        number, kind, message, at, took, delay, outcome, is_hedge = told
        return Attempt(number, kind, self.plan.runtime.redact(message), at, took, delay, outcome, is_hedge)

    def _tell_load(self, failure: Failure, verdict: Verdict) -> None:
        """A failure that says that there was too much to do; our own loop standing still says nothing."""
        plan = self.plan
        if failure.stalled:
            return
        answer = failure.result if failure.error is None else failure.error
        # What was left of a deadline may be far too little for anybody: that is no news of the other side.
        cut_short = isinstance(answer, DeadlineExceededError) and failure.duration < 0.9 * (plan.limit or 0.0)
        if says_too_much(answer, verdict.retry_after) and not cut_short:
            plan.state.limits.ended(failure.duration, dropped=True)

    def _came_of_our_stall(self, failure: Failure, stood_still: Callable[[float], float]) -> bool:
        """Whether a time limit of the function's own passed while our loop stood still."""
        error = failure.error
        if error is None or status_of(error) is not None or kind_of(error) != "timeout":
            return False
        if was_stalled(stood_still(failure.duration), failure.duration):
            return True
        # Nobody knows how long that limit was: it may be that of the last of many steps.
        last = min(failure.duration, _LAST_STEP)
        return was_stalled(stood_still(last), last)

    def _verdict_of(self, failure: Failure) -> Verdict:
        verdict = failure.verdict or failure.judged
        if verdict is None:
            assert failure.error is not None
            try:
                classifier = self.plan.classifier
                info = self.info() if classifier.asks_the_user else self.plan.runtime.nobody_asks
                verdict = failure.judged = classifier.of_error(failure.error, info)
            except BaseException:  # the user's code wants to end the program: no verdict
                failure.ticket.released()
                raise
        order = failure.order
        if order is not None and (
            verdict.outcome is Outcome.FAILURE or self._would_fall_back(failure, verdict)
        ):
            verdict = failure.verdict = self.plan.classifier.of_order_inside()
            if failure.error is not None and not order.is_placed:
                name_unknown_order(failure.error, order)
        return verdict

    def _would_fall_back(self, failure: Failure, verdict: Verdict) -> bool:
        return verdict.outcome is Outcome.NEUTRAL and _nothing_ran(failure)

    # -- hedges --------------------------------------------------------------------------------

    def may_hedge(self, began: float) -> bool:
        """Pay for a hedge of what began then; only while the circuit is closed, for a hedge is no probe."""
        state = self.plan.state
        adaptive, budget = self.plan.adaptive, self.plan.retry_budget or state.hedge_budget
        if adaptive is not None and adaptive.send_rate.limit is not None:
            return False  # throttled: not the moment to send more
        if self.plan.halt_reason is not None or self.plan.is_part_of_an_order(
            began if self.came_at is None else self.came_at
        ):
            return False
        is_closed = state.circuit.state(self.plan.runtime.clock.monotonic()) == "closed"
        if not is_closed or budget is None or not budget.take():
            return False
        if self.plan.runtime.listeners:
            from shockproof.vocabulary.events import CallHedged

            self.plan.runtime.listeners.publish(
                CallHedged(
                    service_name=state.name,
                    at=self.plan.runtime.clock.time(),
                    function_name=self.function_name,
                    attempt=self.number,
                )
            )
        return True

    def give_back_hedge(self) -> None:
        """A hedge that was paid for was not sent after all."""
        budget = self.plan.retry_budget or self.plan.state.hedge_budget
        if budget is not None:
            budget.give_back()

    def hedge_answered(self, rule: HedgeRule, latency: float) -> None:
        """The call was answered, by whichever request, *latency* seconds after the first was sent."""
        rule.answered(latency)
        if self.plan.state.hedge_budget is not None:
            self.plan.state.hedge_budget.succeeded()

    def goes_on_after(self, failure: Failure) -> bool | None:
        """
        Whether another request is worth sending at once; None when the call is over.

        It is over when the same would come again: for an error that is not retried, or one that the
        user's classification takes for an answer.
        """
        verdict = self._verdict_of(failure)
        if verdict.outcome is Outcome.UNKNOWN or self._would_fall_back(failure, verdict):
            return False
        if verdict.outcome is not Outcome.FAILURE:
            return None
        if failure.error is None:
            return True
        try:
            return True if self.plan.retry.wants(failure.error) else None
        except BaseException:  # the user's code wants to end the program: no verdict
            failure.ticket.released()
            raise

    def note(self, failure: Failure, *, is_hedge: bool) -> None:
        """
        One of several requests failed, and others decide what becomes of the call.

        It is told to the circuit, recorded, and remembered as one of the attempts.
        """
        plan, state, error = self.plan, self.plan.state, failure.error
        verdict = self._verdict_of(failure)
        if state.limits is not None:
            state.limits.answered(failure.result if error is None else error, verdict.retry_after)
        if verdict.outcome not in {Outcome.FAILURE, Outcome.UNKNOWN}:
            failure.ticket.released()
            return
        now, at = plan.runtime.clock.monotonic(), plan.runtime.clock.time()
        shown, _ = self._count(failure, verdict, now)
        self._record(shown, failure.message, verdict.outcome, 0.0, now, at)
        self._remember(failure, verdict.outcome, None, at, is_hedge=is_hedge)
        if plan.runtime.listeners.active:
            self._tell(Decision(None, ""), verdict.outcome, failure.duration, at)

    def remaining(self, now: float) -> float | None:
        """Seconds left of the deadline, or None without one."""
        return None if self._deadline_at is None else self._deadline_at - now

    def _answered(self, adaptive: AdaptiveRetry, now: float, duration: float, kind: ErrorKind | None) -> None:
        adaptive.answered(now, sent_at=now - duration, kind=kind)

    def _decide(
        self, error: Exception | None, verdict: Verdict, now: float, kind: ErrorKind, came_at: float
    ) -> Decision:
        plan, adaptive = self.plan, self.plan.adaptive
        if verdict.outcome is _UNKNOWN:
            return Decision(None, NOBODY_KNOWS)
        if not self.repeats:
            return Decision(None, "")
        retry_after, pause = verdict.retry_after, 0.0
        if self.persists and plan.retry.asks_for_a_pause(retry_after, self.remaining(now)):
            retry_after, pause = None, min(verdict.retry_after or 0.0, _LONGEST_PAUSE)
        remaining = None if self._deadline_at is None else self._deadline_at - now
        base_delay = None if adaptive is None else adaptive.base_delay(kind, plan.backoff.base_delay)
        decision = plan.retry.after_failure(
            error, self._failed, self._previous_delay, retry_after, remaining, base_delay
        )
        delay = decision.delay
        if delay is None:
            return decision
        halted = plan.halt_reason if plan.is_haltable else None
        if halted is not None and not self.persists:  # one that persists is a feed, and a feed is read
            return Decision(None, _halted(halted))
        if pause > delay:
            delay, decision = pause, Decision(pause, "")
        if may_be_inside():
            if a_retry_runs(but=None if self._mark is None else self._mark[0]):
                return Decision(None, "a retry around it is already running, and layers do not multiply")
            if plan.is_part_of_an_order(came_at) and not self.persists:
                return Decision(None, IN_AN_ORDER)
        circuit = plan.state.circuit
        if (
            circuit.closed is None
            and not (self.persists or plan.risk_reducing)
            and circuit.state(now) == "open"
        ):
            return Decision(None, "the circuit opened")
        # A retry without a wait is too late for a limit around it only if that has just ended it.
        if not self.persists and (delay > 0 or (UNNOTICED.calls and _is_cancelled())):
            left = time_left_around()
            if left is not None and delay >= left:
                return Decision(None, "the time limit of a call around it would pass before another attempt")
        budget = plan.state.retry_budget if adaptive is None else plan.retry_budget
        if budget is not None:
            self._cost = budget.cost(kind, 1.0 if adaptive is None else adaptive.cost(kind))
            if budget.take(self._cost):
                self._budget = budget
            elif self.persists:
                return Decision(max(delay, plan.backoff.max_delay), "")
            else:
                return Decision(None, "the retry budget is exhausted")
        return decision

    def take_budget_again(self) -> None:
        """
        Between two blocks nothing is held; now the wait for the next one begins.

        Raises:
            Exception: the budget has run dry meanwhile: the last attempt's own error.
        """
        budget = self.plan.retry_budget
        if budget is None or self._budget is not None or self._last_error is None:
            return
        if not budget.take(self._cost):
            raise self._ended_while_waiting(self._last_error, "the retry budget is exhausted")
        self._budget = budget

    def return_budget(self) -> None:
        """Give back what was taken for a retry that has no verdict."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.give_back(self._cost)

    def _record(
        self, shown: Exception, message: str, outcome: Outcome, delay: float | None, now: float, at: float
    ) -> None:
        plan = self.plan
        state = plan.state
        if outcome is _UNKNOWN or state.critical:
            severity = ErrorSeverity.CRITICAL
        else:
            severity = _MEDIUM if delay is not None else ErrorSeverity.HIGH
        text = message if len(message) <= LONGEST_TEXT else None  # what was cut is asked for once more
        plan.runtime.recorder.record(
            shown, severity, state.name, self.function_name, self._failed, now, at, text
        )

    def _tell(self, decision: Decision, outcome: Outcome, duration: float, at: float) -> None:
        from shockproof.vocabulary.events import AttemptFailed, RetryScheduled

        publish, name = self.plan.runtime.listeners.publish, self.plan.state.name
        last = self._shown(self._attempts[-1])
        publish(
            AttemptFailed(
                service_name=name,
                at=at,
                function_name=self.function_name,
                attempt=last.number,
                error_type=last.error_type,
                error_message=last.error_message,
                outcome=outcome,
                duration=duration,
            )
        )
        if decision.delay is not None:
            publish(
                RetryScheduled(
                    service_name=name,
                    at=at,
                    function_name=self.function_name,
                    attempt=last.number + 1,
                    delay=decision.delay,
                )
            )

    def _end(self, error: Exception | None, reason: str, outcome: Outcome = Outcome.FAILURE) -> None:
        plan = self.plan
        if error is not None:
            attach(error, plan.state.name, [self._shown(told) for told in self._attempts], reason)
        if outcome is Outcome.UNKNOWN and plan.whole_began is not None:
            return  # it is looked up, and then it is known how it ended
        end_badly(
            plan,
            self.function_name,
            outcome,
            began=self._began,
            attempts=self._failed,
            error_type=self._attempts[-1][1],
            reason=reason,
            may_have_a_stand_in=self.falls_back and self.can_fall_back,
        )

    # -- traces --------------------------------------------------------------------------------

    def trace_from_here(self) -> None:
        """Begin the trace of the call, or be current again; only where somebody traces. That of a whole is current already."""
        if self.plan.whole_trace is not None:
            self.trace = self.plan.whole_trace
            return
        if self.trace is None:
            self.trace = self.plan.state.tracer.call(self.plan.state.name, self.function_name)
        if self.trace is not None:
            self.trace.enter()

    def trace_block(self) -> None:
        """The body of a block begins."""
        if self.trace is not None:
            self.attempt_trace = self.trace.attempt(self.number, is_hedge=False)

    def block_ended(self, error: BaseException | None) -> None:
        """It ended."""
        attempt, self.attempt_trace = self.attempt_trace, None
        if attempt is not None:
            attempt.ended(error)

    def raises(self, error: BaseException) -> None:
        """The caller gets *error*."""
        if self.trace is not None and self.plan.whole_trace is None:
            self.trace.raises(error)

    # -- the fuse: retries inside retries --------------------------------------------------------

    def begin_repeating(self) -> None:
        """From now on a retry inside this one makes a single attempt."""
        if self._mark is None:
            self._mark = begin_retry()

    def close(self) -> None:
        """The call is over, however it ended."""
        if self._budget is not None:
            self.return_budget()  # cancelled before its retry had a verdict
        self._last_error = None  # its traceback leads back here: no cycle
        self.end_repeating()
        if self.trace is not None:
            trace, self.trace = self.trace, None
            if self.plan.whole_trace is None:
                trace.ended()

    def end_repeating(self) -> None:
        """The repeated attempts are over, or the user's code goes on between two of them."""
        if self.trace is not None and self.plan.whole_trace is None:
            self.trace.leave()
        if self._mark is not None:
            mark, token = self._mark  # with a star the call would take twice as long
            end_retry(mark, token)
            self._mark = None

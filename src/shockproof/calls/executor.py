"""
The one place that awaits: it runs attempts, waits between them, and asks the stand-ins.

The order, outermost first: fallback, deadline, retry, circuit breaker, rate limit, bulkhead, attempt
timeout, the call.
A healthy call does not come here at all; its first failure does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from shockproof.calls.callables import has_coroutine_code, name_of
from shockproof.calls.hedging import Leg, hedged
from shockproof.calls.history_of_attempts import describe
from shockproof.calls.limits import Held, give_back
from shockproof.calls.limits_around import holds_timer
from shockproof.calls.ongoing_call import Failure, OngoingCall, UnwantedResultError, timeout_error
from shockproof.calls.orders_inside import (
    began_before,
    order_placed_since,
    order_sent_since,
    take_over_orders,
)
from shockproof.calls.own_task import run_in_own_task
from shockproof.calls.plan import Plan
from shockproof.calls.running_around import ORDERS
from shockproof.calls.stand_in import StandIn, answers_for_itself
from shockproof.calls.threads import MAY_BE_MARKED, NotStartedError, take_never_began
from shockproof.calls.timer import Timer, running_task
from shockproof.calls.tracing import CallTrace
from shockproof.policies.bulkhead import Places
from shockproof.policies.circuit_breaker import Admission, Ticket
from shockproof.policies.classification import leaves_an_order
from shockproof.vocabulary.errors import CallRejectedError, CircuitOpenError
from shockproof.vocabulary.outcomes import Outcome, Verdict
from shockproof.vocabulary.statuses import ErrorSeverity

if TYPE_CHECKING:
    from shockproof.policies.fallback import LastGood, Stale

__all__ = ["elapsed", "execute", "failure_of", "hides_cancellation", "in_place", "substitute"]


def failure_of(
    plan: Plan, error: BaseException, ticket: Ticket, started: float, timer: Timer | None
) -> Failure | None:
    """
    What *error* means for the attempt it ended; None when it must pass untouched.

    That is the caller's cancellation, an error into which the callee has turned it, and whatever else
    is no ``Exception``: the ticket is given back, and nothing is counted.
    """
    if ORDERS.exist:
        failure = _with_its_orders(plan, error, ticket, started, timer)
    else:
        failure = Failure(ticket, elapsed(plan, started, timer))
    # Here and below what nearly every error passes is asked first, without a call.
    ended_by_us = is_cancelled = False
    if isinstance(error, MAY_BE_MARKED):
        is_cancelled = isinstance(error, asyncio.CancelledError)
        if take_never_began(error):
            # It waited for a thread all the time, or was refused one.
            plan.classifier.never_began()
            failure.verdict = Verdict(Outcome.NEUTRAL)
    if timer is not None:
        ended_by_us = timer.stop()
        failure.stalled = ended_by_us and timer.stalled
    if is_cancelled:
        if not ended_by_us or timer is None:
            ticket.released()
            return None
        failure.error = timeout_error(plan, timer.seconds)
        failure.error.__cause__ = error  # its traceback shows where the attempt hung
    elif isinstance(error, Exception) and (
        ended_by_us or error.__context__ is error.__cause__ is None or not hides_cancellation(error)
    ):
        failure.error = error
    else:
        ticket.released()
        return None
    return failure


def _with_its_orders(
    plan: Plan, error: BaseException | None, ticket: Ticket, started: float, timer: Timer | None
) -> Failure:
    clock = plan.runtime.clock
    # Read before the duration is: the attempt began then, or later, and an order of its first moment is inside of it.
    now = clock.monotonic()
    failure = Failure(ticket, elapsed(plan, started, timer))
    failure.began = began_before(now, failure.duration)
    if failure.began is not None:
        if error is not None and plan.options.get("effect") not in ("read", "idempotent"):
            take_over_orders(
                error, failure.began, clock
            )  # a guess: who declares that nothing is sent, knows better
        failure.order = order_sent_since(failure.began, clock, but=plan.own_order)
    return failure


def hides_cancellation(error: Exception) -> bool:
    """
    Whether the callee caught the caller's cancellation and raised *error* instead.

    Then a cancellation stands in the error's history that was caught in a frame of the callee. One
    that is being handled further out, by cleanup code that makes this very call, does not count.
    """
    task = running_task()
    if task is None or not task.cancelling():
        return False
    frames = set[FrameType]()
    trace = error.__traceback__
    while trace is not None:
        frames.add(trace.tb_frame)
        trace = trace.tb_next
    earlier: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        earlier = None if earlier is None else earlier.__cause__ or earlier.__context__
        if isinstance(earlier, asyncio.CancelledError):
            caught = earlier.__traceback__
            return caught is not None and caught.tb_frame in frames
    return False


_LONGEST_CHAIN = 16


async def execute(
    plan: Plan,
    fn: Callable[..., Any],  # Any: the user's function
    args: tuple[Any, ...],  # Any: its arguments
    kwargs: dict[str, Any],  # Any: its arguments
    failure: Failure | None = None,
) -> Any:  # Any: its result
    """
    A call through all policies; with *failure*, one whose first attempt has just failed.

    Raises the last error unchanged, or the last stand-in's with the call's own as its cause. The
    caller's cancellation passes at once, at every await.
    """
    if not (plan.is_bound and plan.state.prepared):
        plan.prepare()
    if plan.is_haltable and plan.has_to_learn_of_halt:
        await plan.learn_of_halt()
    if failure is None and plan.is_simple and has_coroutine_code(fn):
        way = plan.short_way()
        if way is not None:
            return await in_place(plan, fn, args, kwargs, *way)
    call = OngoingCall(plan, name_of(fn), 0.0 if failure is None else failure.duration)
    primary: Exception | None = None
    result: Any = None  # Any: whatever the function returns
    try:
        if failure is None and plan.state.tracer is not None:  # else it began before anybody traced
            call.trace_from_here()
        try:
            result, failed = await _attempts(call, fn, args, kwargs, failure)
        except Exception as error:
            if not (call.falls_back and call.can_fall_back):
                raise
            primary = error
        else:
            if not failed and plan.memories:
                plan.remember(fn, args, kwargs, result)
            if not (failed and call.falls_back and call.can_fall_back):
                return result
        return await _stand_in(call, fn, args, kwargs, primary, result)
    except BaseException as error:
        call.raises(error)
        raise
    finally:
        call.close()
        primary = failure = None  # the traceback holds this frame: no cycle


@holds_timer
async def in_place(
    plan: Plan,
    fn: Callable[..., Any],  # Any: the user's function
    args: tuple[Any, ...],  # Any: its arguments
    kwargs: dict[str, Any],  # Any: its arguments
    ticket: Ticket,
    places: Places,
) -> Any:  # Any: its result
    """
    The same healthy path as in wrap.py for a call that has taken one of the *places*, which it gives back.

    Raises and returns what `execute` does.
    """
    try:
        coroutine = fn(*args, **kwargs)
        if plan.first_limit is None:
            timer, started = None, plan.stopwatch()
        else:
            timer = plan.first_limit.start()
            started = timer.started
        try:
            result = await coroutine
        except BaseException as error:
            failure = failure_of(plan, error, ticket, started, timer)
            if failure is None:
                raise
        else:
            if timer is not None:
                timer.stop()
            entrance = plan.state.entrance
            entrance.successes += 1
            if entrance.stirred:
                plan.state.settle(ticket, plan.runtime.clock.monotonic(), elapsed(plan, started, timer))
            return result
    finally:
        give_back(places)
    try:
        return await execute(plan, fn, args, kwargs, failure)
    finally:
        failure = None  # the traceback holds this frame: no cycle


@holds_timer
async def _attempts(
    call: OngoingCall,
    fn: Callable[..., Any],  # Any: the user's function
    args: tuple[Any, ...],  # Any: its arguments
    kwargs: dict[str, Any],  # Any: its arguments
    failure: Failure | None,
) -> tuple[Any, bool]:  # Any: its result; and whether that was judged a failure
    plan = call.plan
    # The first attempt was made by the short way, which only takes what gives something to await.
    is_direct = failure is not None
    try:
        while True:
            if failure is None:
                lane = call.lane()
                if lane is not None and is_direct:  # what `_run` does for such a one, without its frame
                    coroutine = fn(*args, **kwargs) if kwargs else fn(*args)
                    timer = None if plan.limit is None else call.start_timer()
                    started = plan.stopwatch() if timer is None else timer.started
                    try:
                        result = await coroutine
                    except BaseException as error:
                        result, failure = None, failure_of(plan, error, lane, started, timer)
                        if failure is None:
                            raise
                    else:
                        if timer is not None:
                            timer.stop()
                        call.succeeded(lane, elapsed(plan, started, timer))
                elif lane is not None:
                    result, failure = await _run(call, plan.awaitable(fn, args, kwargs), lane, None)
                elif plan.hedge is None:
                    result, failure = await _attempt(call, fn, args, kwargs)
                else:
                    began = plan.runtime.clock.monotonic()
                    result, failure = await hedged(
                        call,
                        plan.hedge,
                        partial(_attempt, call, fn, args, kwargs),
                        partial(_hedge, call, fn, args, kwargs),
                    )
                    if failure is not None:  # another request may have sent an order
                        failure.began = began
                        failure.order = failure.order or order_sent_since(began, plan.runtime.clock)
                if failure is None:
                    return result, False
            delay = call.after(failure)
            if delay is None:
                if failure.error is not None:
                    raise failure.error
                return failure.result, True
            failure = None
            call.begin_repeating()
            if delay > 0 or call.has_to_give_way():
                await call.wait(delay)
    except UnwantedResultError as unwanted:
        return unwanted.result, True
    finally:
        failure = None  # the traceback holds this frame: no cycle


async def _attempt(
    call: OngoingCall,
    fn: Callable[..., Any],  # Any: the user's function
    args: tuple[Any, ...],  # Any: its arguments
    kwargs: dict[str, Any],  # Any: its arguments
    when_sent: Callable[[], object] | None = None,
) -> Leg:
    admission, held = call.admit(), None
    if call.plan.is_waited_for:
        admission, held = await call.enter_limits(admission)
    if when_sent is not None:
        when_sent()
    return await _sent(call, fn, args, kwargs, admission, held)


async def _hedge(
    call: OngoingCall,
    fn: Callable[..., Any],  # Any: the user's function
    args: tuple[Any, ...],  # Any: its arguments
    kwargs: dict[str, Any],  # Any: its arguments
    when_sent: Callable[[], object],
) -> Leg:
    admission, held = call.admit_hedge(), None
    if call.plan.state.limits is not None:
        admission, held = await call.enter_limits_as_hedge()
    when_sent()
    call.plan.state.hedges += 1
    return await _sent(call, fn, args, kwargs, admission, held, is_hedge=True)


async def _sent(
    call: OngoingCall,
    fn: Callable[..., Any],  # Any: the user's function
    args: tuple[Any, ...],  # Any: its arguments
    kwargs: dict[str, Any],  # Any: its arguments
    admission: Admission,
    held: Held | None,
    *,
    is_hedge: bool = False,
) -> Leg:
    ticket = call.begins(admission)
    try:
        if call.plan.before_attempt is not None:
            try:
                await call.plan.before_attempt()
            except BaseException:  # nothing was sent
                ticket.released()
                if held is not None:
                    held.not_sent()
                    held = None
                raise
        try:
            awaitable = call.awaitable(fn, args, kwargs, held)
        except BaseException:  # wrong arguments: raised at once, and no verdict on the service
            ticket.released()
            raise
        if call.trace is not None:
            return await _run_traced(call.trace, call, awaitable, ticket, held, is_hedge=is_hedge)
        return await _run(call, awaitable, ticket, held)
    finally:
        if held is not None:
            held.ended()


async def _run_traced(
    trace: CallTrace,
    call: OngoingCall,
    awaitable: Any,  # Any: what the user's function gave
    ticket: Ticket,
    held: Held | None,
    *,
    is_hedge: bool,
) -> Leg:
    attempt = trace.attempt(call.number, is_hedge=is_hedge)
    error: BaseException | None = None
    failure: Failure | None = None
    try:
        result, failure = await _run(call, awaitable, ticket, held)
        if failure is not None:
            error = UnwantedResultError(result) if failure.error is None else failure.error
        return result, failure
    except BaseException as raised:
        error = raised
        raise
    finally:
        if attempt is not None:
            attempt.ended(error)
        error = failure = None  # the traceback holds this frame: no cycle


@holds_timer
async def _run(
    call: OngoingCall,
    awaitable: Any,  # Any: what the user's function gave
    ticket: Ticket,
    held: Held | None,
) -> tuple[Any, Failure | None]:  # Any: its result
    plan = call.plan
    failure: Failure | None
    timer = call.start_timer()
    started = plan.stopwatch() if timer is None else timer.started
    try:
        if plan.grace is None:
            result = await awaitable
        else:
            result = await run_in_own_task(plan.state, awaitable, plan.grace, timer, held)
    except NotStartedError as refused:
        if timer is not None:
            timer.stop()
        ticket.released()
        raise refused.take() from None
    except BaseException as error:
        failure = failure_of(plan, error, ticket, started, timer)
        if failure is None:
            raise
        try:
            return None, failure
        finally:
            del failure  # the error's traceback holds this frame: no cycle
    if timer is not None:
        timer.stop()
    if plan.judges_results:
        try:
            verdict = plan.classifier.of_result(result, call.info())
        except BaseException:  # the user's code wants to end the program: no verdict
            ticket.released()
            raise
        if verdict is not None:
            if ORDERS.exist:
                failure = _with_its_orders(plan, None, ticket, started, timer)
            else:
                failure = Failure(ticket, elapsed(plan, started, timer))
            failure.result, failure.verdict = result, verdict
            return None, failure
    call.succeeded(ticket, elapsed(plan, started, timer))
    if plan.state.limits is not None:
        plan.state.limits.answered(result)
    return result, None


def elapsed(plan: Plan, started: float, timer: Timer | None) -> float:
    """Seconds an attempt has run; with a timer by the loop's time, which is what the timer goes by."""
    if timer is not None:
        return timer.elapsed()
    seconds = plan.stopwatch() - started
    return seconds if seconds > 0.0 else 0.0  # noqa: FURB136 - max() takes as long as a call of ours


async def substitute(
    plan: Plan,
    stand_in: StandIn,
    args: tuple[Any, ...],  # Any: the call's arguments
    kwargs: dict[str, Any],  # Any: the call's arguments
) -> Any:  # Any: what the stand-in returns
    """
    What the only fallback answers in place of an open circuit.

    Raises:
        Exception: its own, with the refusal as the cause.
    """
    try:
        if stand_in.fn is None:
            result = stand_in.value
        else:
            fitting, named = stand_in.arguments(args, kwargs)
            result = await stand_in.fn(*fitting, **named)
    except Exception as error:
        if hides_cancellation(error):
            raise
        _stand_in_failed(plan, stand_in, error)
        plan.state.failed_for_good()
        circuit = plan.state.circuit
        left = circuit.open_for(plan.runtime.clock.monotonic())
        raise error from CircuitOpenError(plan.state.name, "circuit_breaker", left, circuit.last_error)
    plan.state.answered_by_fallback()
    return result


async def _stand_in(
    call: OngoingCall,
    fn: Callable[..., Any],  # Any: the user's function
    args: tuple[Any, ...],  # Any: the call's arguments
    kwargs: dict[str, Any],  # Any: the call's arguments
    primary: Exception | None,
    unwanted: Any,  # Any: the result that was judged a failure, when there was no error
) -> Any:  # Any: what the stand-in returns
    plan, state = call.plan, call.plan.state
    last: Exception | None = None
    # What is being handled around the call has nothing to do with it, and stands behind each error that is raised here.
    around = sys.exception()
    # A value is no order, nor is what was answered before.
    takes_no_other = plan.options.get("effect") not in ("read", "idempotent") and (
        answers_for_itself(primary, around)
        or (
            ORDERS.exist
            and order_placed_since(call.came_at, plan.runtime.clock, but=plan.own_order) is not None
        )
    )
    try:
        for fallback in plan.fallbacks:
            if plan.halt_reason is not None or not plan.is_answered_for(call.came_at):
                break  # a write that was halted is not sent elsewhere, nor is a part of an order
            if not fallback.fits(primary) or (fallback.fn is not None and takes_no_other):
                continue
            began = plan.runtime.clock.monotonic()
            try:
                if fallback.last_good is not None:
                    stale = _last_good(call, fallback.last_good, fn, args, kwargs, primary, unwanted)
                    if stale is None:
                        continue
                    mark = fallback.last_good.mark
                    result = stale if mark is None else mark(stale)
                elif fallback.fn is not None:
                    fitting, named = fallback.arguments(args, kwargs)
                    awaitable = plan.awaitable(fallback.fn, fitting, named)
                    result = await awaitable
                else:
                    result = fallback.value
            except BaseException as error:  # a stand-in may fail in any way; the next one is asked
                take_never_began(error)  # that is the stand-in's, and the call itself did run
                if not isinstance(error, Exception) or hides_cancellation(error):
                    raise
                last = error.take() if isinstance(error, NotStartedError) else error
                _stand_in_failed(plan, fallback, last)
                if (
                    leaves_an_order(last)
                    or answers_for_itself(last, around)
                    or order_sent_since(began, plan.runtime.clock) is not None
                ):
                    break  # the next one would send another order
                continue
            state.answered_by_fallback()
            if plan.runtime.listeners:
                from shockproof.vocabulary.events import FallbackAnswered

                plan.runtime.listeners.publish(
                    FallbackAnswered(
                        service_name=state.name,
                        at=plan.runtime.clock.time(),
                        function_name=fallback.name,
                        error_type="UnwantedResultError" if primary is None else type(primary).__name__,
                    )
                )
            return result
        state.failed_for_good()
        if last is None:  # nobody stands in for this one
            if primary is None:
                return unwanted
            raise primary
        if last is primary:
            raise last
        raise last from primary
    finally:
        last = primary = None  # the traceback holds this frame: no cycle


def _stand_in_failed(plan: Plan, stand_in: StandIn, error: Exception) -> None:
    if isinstance(error, CallRejectedError):  # it did not run, so it did not fail
        return
    plan.runtime.recorder.record(
        error,
        severity=ErrorSeverity.CRITICAL if plan.state.critical else ErrorSeverity.HIGH,
        service_name=plan.state.name,
        function_name=stand_in.name,
        retry_count=0,
        now=plan.runtime.clock.monotonic(),
    )


def _last_good(
    call: OngoingCall,
    last_good: LastGood,
    fn: Callable[..., Any],  # Any: the user's function
    args: tuple[Any, ...],  # Any: the call's arguments
    kwargs: dict[str, Any],  # Any: the call's arguments
    primary: Exception | None,
    unwanted: object,
) -> Stale[Any] | None:  # Any: whatever the function returned
    plan = call.plan
    now, wall = plan.runtime.clock.monotonic(), plan.runtime.clock.time()
    key = last_good.answers.key_of(plan.state.name, fn, args, kwargs)
    answer = None if key is None else last_good.answers.recall(key, now=now, wall=wall)
    if answer is None:
        return None
    from shockproof.policies.fallback import Stale  # loaded with the stand-in

    kind, message = describe(UnwantedResultError(unwanted) if primary is None else primary)
    return Stale(
        value=answer.value,
        age=answer.age(now, wall),
        at=answer.wall,
        service_name=plan.state.name,
        reason=plan.runtime.redact(f"{kind}: {message}"),
    )

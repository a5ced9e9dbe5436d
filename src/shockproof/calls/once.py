"""
An order that is never blindly sent twice: journalled before it is sent, looked up when its outcome is unknown.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final, Generic, ParamSpec, TypeVar, overload

from shockproof.calls.bad_end import end_badly
from shockproof.calls.callables import check_callable, is_async, name_of
from shockproof.calls.confirm import Confirm, DetailedConfirm, asked_of, with_details
from shockproof.calls.executor import execute
from shockproof.calls.flight import Flight, is_proof_of_nothing, refused_at_last
from shockproof.calls.freshness import Freshness
from shockproof.calls.hedge_race import lanes_around
from shockproof.calls.history_of_attempts import describe
from shockproof.calls.key_in_call import require_key
from shockproof.calls.named_arguments import check_takes, named_arguments
from shockproof.calls.ongoing_call import NOBODY_KNOWS, UnwantedResultError
from shockproof.calls.orders_inside import OrderInside
from shockproof.calls.plan import Plan
from shockproof.calls.reconciliation import Way, look_up, warn_of_contradiction
from shockproof.calls.running_around import on_its_own
from shockproof.calls.tracing import CallTrace, Tracer
from shockproof.calls.witness import witnessed
from shockproof.memory.journal.moments import moment_of
from shockproof.memory.journal.risk_reducing import NO_JOURNAL, PATIENCE
from shockproof.memory.journal.sending import Earlier, NotFreshError, Sending
from shockproof.policies.classification import is_refusal, leaves_an_order
from shockproof.policies.confirmation import window_left
from shockproof.vocabulary.arguments import Seconds, a_name, seconds
from shockproof.vocabulary.errors import (
    CallRejectedError,
    HaltedError,
    JournalUnavailableError,
    OperationBusyError,
    OutcomeUnknownError,
)
from shockproof.vocabulary.look_up import NOT_FOUND, Found, LookUp
from shockproof.vocabulary.moment import Moment
from shockproof.vocabulary.outcomes import CallInfo, Outcome
from shockproof.vocabulary.statuses import ErrorSeverity

__all__ = ["KeyedOnce", "Once"]

P = ParamSpec("P")
R = TypeVar("R")


_SPARE: Final = 2.0
"""
Seconds by which the journal says more than an attempt may take.

Half of them are for the disk, and for the loop's next turn: an attempt that would begin later is journalled anew. The
other half stays for a loop that is late to end it.
"""


def make_key() -> str:
    """18 lower-case letters and digits, 80 bits of them random: what every venue we know takes as an order's id."""
    return "sp" + base64.b32encode(secrets.token_bytes(10)).decode("ascii").lower()


class Once(Generic[R]):
    """
    ``once = trading.once(confirm=find_order)``: one order, however often it is sent.

    Made by `Handle.once`; one for each order that is wanted. The function gets `key` from you:
    ``await once.call(submit, symbol="AAPL", client_order_id=once.key)``.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        key: str | None,
        confirm: Confirm[R] | DetailedConfirm[R],
        details: Mapping[str, object] | None,
        key_pattern: str | re.Pattern[str] | None,
        settle: Seconds,
        valid_until: datetime | None,
        still_wanted: Callable[[], bool] | None,
        compare_arguments: bool | Collection[str],
    ) -> None:
        if plan.fallbacks:
            raise ValueError(
                "once() and fallback= do not go together: an order at another venue needs a key of its own and "
                "its own way to look it up. Catch the error, and place it with once() of that venue's service"
            )
        if plan.runtime.sendings is None:
            raise ValueError(
                "once() needs the journal of a recovery service: use ErrorRecoveryService(...).service(name)"
            )
        detailed = with_details(confirm)
        self._key = make_key() if key is None else a_name("key", key, "bot-1")
        self._is_key_known = key is not None
        """Outside of this object."""
        if key_pattern is not None:
            _check_key(self._key, key_pattern)
        self._is_new = key is None
        self._compares = compare_arguments is not False
        self._compared = _names_compared(compare_arguments)
        self._settle = seconds("settle", settle)
        self._reconciliation = plan.runtime.sendings
        self._details = None if details is None else self._reconciliation.details(_checked(details))
        self._confirm = asked_of(detailed, {} if self._details is None else self._details.values)
        self._clock = plan.runtime.clock
        self._freshness = Freshness(plan.state.name, self._clock, valid_until, still_wanted)
        # Whatever the handle declares: what is looked up by its key is never repeated blindly.
        self._plan = Plan({**plan.options, "effect": "unsafe"}).bind(plan.runtime, plan.state)
        self._way = Way(detailed, self._settle)
        self._ways = self._reconciliation.ways(
            plan.state.name, self._is_under_way, found=plan.state.found_later
        )
        self._number: int | None = None
        """As long as nobody has learned the key that was made here, this is no order: it says how all are looked up."""
        if key is None:
            self._number = self._ways.for_all(self._way)
        else:
            self._ways.for_one(key, self._way)

    @property
    def key(self) -> str:
        """Made once; pass it to the venue, or let ``key_argument`` do it."""
        self._is_key_known = True
        self._is_an_order()
        return self._key

    def _require_a_way_to_look_up(self) -> None:
        """
        Before anything is sent: what ``confirm`` gives can be awaited.

        A coroutine function's can, and a plain one is asked for it. A coroutine that it gives is never begun.
        """
        if is_async(self._confirm):
            return
        try:
            question: object = self._confirm(self._key)
        except Exception:  # noqa: BLE001  it proves nothing, here as anywhere, and is told when it matters
            return
        if not inspect.isawaitable(question):
            raise TypeError(
                f"confirm must be an async function of the key, and {name_of(self._confirm)} gave a "
                f"{type(question).__name__} at once: write `async def`. Nothing was sent"
            )
        if inspect.iscoroutine(question):
            question.close()

    def _is_an_order(self) -> None:
        if self._number is not None:
            self._ways.withdraw(self._number)
            self._number = None
        self._ways.for_one(self._key, self._way)

    def __repr__(self) -> str:
        return f"<Once {self._key!r} of service {self._plan.state.name!r}>"

    @overload
    async def call(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def call(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:  # Any: see the overloads
        """
        Send it through all policies of the handle, and return when its outcome is known.

        It is on the disk before it is sent, each time. An attempt is repeated, with the same key, where the error
        proves that nothing happened. Otherwise ``confirm`` is asked: found, and that is the answer; not found by a question
        asked ``settle`` seconds after the last attempt ended, and it may be sent again; neither, and it stays pending.
        Orders that an earlier life left pending on this service are looked up first.

        Returns:
            What *fn* returned, or what ``confirm`` found.

        Raises:
            OutcomeUnknownError: it was sent, and nothing can be proven; it stays pending, and
                `ErrorRecoveryService.reconcile` or another call with the same key settles it.
            OperationCompletedError: it was sent in an earlier call, and is there.
            KeyReusedError: as above, and it was sent with other arguments (`Handle.once`): this one is another order.
            OperationBusyError: it is being sent at another place.
            JournalUnavailableError, JournalLockedError: it could not be journalled; it was not sent.
            HaltedError: `ErrorRecoveryService.halt` is in force; it was not sent. Nobody asked what came of an earlier
                call with this key: `ErrorRecoveryService.reconcile` does.
            CallRejectedError: it is not wanted any more (``policy`` is ``"valid_until"`` or ``"still_wanted"``), another request
                of a hedged call around it has sent an order (``"hedge"``), a call around it is repeated without having waited for it
                (``"repetition"``), the event
                loop stood still before its task had a turn (``"timeout"``; with ``grace`` only), or a limit or the open
                circuit refused it; it was not sent.
            Exception: *fn*'s own error; it is certain that nothing happened.
            TypeError: ``confirm`` is a plain function that gives nothing to await; it was not sent. Or it gave neither Found(...),
                NOT_FOUND nor UNKNOWN; it stays pending.
            ValueError: *fn* cannot know the key: there is no ``key_argument``, nobody has read `key`, and *fn* is a plain
                function or method. Where the key was given to `Handle.once`, that is a warning.

        Cancelled in flight it stays pending, and the cancellation passes at once.
        """
        self._is_an_order()
        check_callable(fn)
        arguments = named_arguments(fn, args, kwargs)
        check_takes(fn, "compare_arguments", [name for name in self._compared or () if name not in arguments])
        require_key(fn, args, kwargs, key=self._key, owner=self, is_known=self._is_key_known)
        self._require_a_way_to_look_up()
        order = OrderInside(self._key, self._plan.state.name, self._clock, is_key_ours=self._is_new)
        lanes = lanes_around()
        for lane in lanes:
            lane.race.comes(lane.request, order)
        try:
            return await self._called(order, fn, args, kwargs, arguments)
        finally:
            order.ends()
            for lane in lanes:
                lane.race.ends(order)

    async def _called(
        self,
        order: OrderInside,
        fn: Callable[..., Any],  # Any, here and below: the function's own arguments and result
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        arguments: dict[str, Any],
    ) -> Any:
        await self._plan.learn_of_halt()
        self._require_no_halt()
        tracer: Tracer | None = self._plan.state.tracer
        trace = None if tracer is None else tracer.call(self._plan.state.name, name_of(fn))
        if trace is None:
            placed = await self._placed(order, fn, args, kwargs, arguments, None)
            self._ways.forget(self._key, self._way)
            return placed
        # The whole of it is one call: what is looked up belongs to it, and how it ends is known behind that.
        trace.enter()
        try:
            placed = await self._placed(order, fn, args, kwargs, arguments, trace)
            self._ways.forget(self._key, self._way)
            return placed
        except BaseException as error:
            if isinstance(error, OutcomeUnknownError):
                trace.judged(Outcome.UNKNOWN)
            trace.raises(error)
            raise
        finally:
            trace.leave()
            trace.ended()

    async def _placed(
        self,
        order: OrderInside,
        fn: Callable[..., Any],  # Any: as above
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        arguments: dict[str, Any],
        trace: CallTrace | None,
    ) -> Any:
        began = self._clock.monotonic()
        plan, reconciliation = self._plan, self._reconciliation
        sending = reconciliation.sending(
            plan.state.name,
            self._key,
            arguments=arguments if self._compares else None,
            compared=self._compared,
            settle=self._settle,
            weight=plan.weight if plan.state.has_rate_limit else None,
            details=self._details,
        )
        sending.is_new = self._is_new
        refusal: Exception | None = None
        earlier: Earlier | None = None
        try:
            if plan.risk_reducing:
                earlier = await self._claim(sending, asks_the_disk=False)
            if earlier is None and (plan.risk_reducing or reconciliation.are_settled(plan.state.name)):
                # Most keys are fresh: one turn of the disk claims it and has it durable.
                try:
                    return await self._send(sending, order, fn, args, kwargs, began, trace)
                except NO_JOURNAL:
                    raise
                except Exception as error:
                    is_known = isinstance(error, NotFreshError)
                    if sending.was_about_to_send and not is_known:
                        raise
                    # Or it was refused before anybody looked whether it was sent earlier, and that comes first.
                    refusal = None if is_known else error
            if earlier is None:
                earlier = await self._claim(sending)
            claimed_at = self._clock.monotonic()
            if not plan.risk_reducing:
                with on_its_own():
                    await reconciliation.earlier_are_settled(plan.state.name, but=self._key)
            if earlier is not None:
                settle = max(self._settle, earlier.settle)
                closes_at = claimed_at + window_left(settle, passed=earlier.passed)
                try:
                    found = await self._found(
                        sending,
                        asked_of(self._way.confirm, earlier.details) if earlier.details else self._confirm,
                        closes_at,
                        None,
                        is_known_there=earlier.is_there,
                        settle=settle,
                    )
                except Exception as error:
                    if refusal is None:  # else it is counted as refused
                        self._ends_badly(fn, Outcome.UNKNOWN, type(error).__name__, NOBODY_KNOWS, began)
                    raise
                if found is not None and earlier.differs:
                    raise sending.reused(earlier.differs, found.value)
                if found is not None:
                    if refusal is None:
                        self._answered_by_look_up(began, trace)
                    return found.value
            if refusal is not None:
                raise refusal
            return await self._send(sending, order, fn, args, kwargs, began, trace)
        finally:
            refusal = None  # its traceback holds this frame: no cycle
            sending.release()

    async def _claim(self, sending: Sending, *, asks_the_disk: bool = True) -> Earlier | None:
        while True:
            try:
                # What reduces risk has little patience with the disk, and none is needed for what stands in memory.
                if self._plan.risk_reducing:
                    earlier = sending.claim_at_once(is_under_way=self._is_under_way)
                    if earlier is not None or not asks_the_disk:
                        return earlier
                return await self._claim_now(sending)
            except OperationBusyError:
                if not await self._reconciliation.is_over(self._plan.state.name, self._key):
                    raise

    async def _claim_now(self, sending: Sending) -> Earlier | None:
        try:
            async with self._patience(self._plan.deadline):
                return await sending.claim(is_under_way=self._is_under_way)
        except NO_JOURNAL as error:
            if not self._plan.risk_reducing:
                raise self._unavailable(error) from None
            self._goes_on_without_the_journal(error)
            return None

    def _patience(self, left: float | None) -> asyncio.Timeout:
        # A disk that hangs does not say so. What reduces risk does not wait for it; nothing else does so for longer
        # than its deadline.
        return asyncio.timeout(PATIENCE if self._plan.risk_reducing else left)

    def _unavailable(self, error: Exception) -> Exception:
        if not isinstance(error, TimeoutError):
            return error
        return JournalUnavailableError(
            f"the disk did not answer within the deadline of {self._plan.deadline} s: order {self._key!r} was not sent"
        )

    async def _send(
        self,
        sending: Sending,
        order: OrderInside,
        fn: Callable[..., Any],  # Any: the function's own arguments and result
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        began: float,
        trace: CallTrace | None,
    ) -> Any:
        deadline = self._plan.deadline
        ends_at = None if deadline is None else self._clock.monotonic() + deadline
        plan = Plan(self._plan.options).bind(self._plan.runtime, self._plan.state)
        flight = self._flight(plan, sending, fn, began, trace)
        order.flight = flight
        has_own_task = plan.grace is not None
        fn = witnessed(
            fn,
            lambda: flight.witness,
            order=order,
            # One in the caller's own task follows the last question without a wait.
            refusal=lambda: self._refusal_at_last(flight, has_waited=has_own_task or not flight.can_be_ended),
            has_own_task=has_own_task,
        )
        self._is_asked_before(plan, sending, flight, order, ends_at)
        resends = 0
        while True:
            result: Any = None  # Any: as above
            failed: Exception | None = None
            try:
                result = await execute(plan, fn, args, kwargs)
            except Exception as error:  # noqa: BLE001  it is judged below, and raised again unless the order is there
                failed = error
            except BaseException as end:
                if flight.is_open:
                    self._give_up(sending, flight, fn, _told(end))
                else:
                    sending.is_not_there()
                raise
            was_open = flight.is_open
            try:
                if failed is None and not flight.was_judged:
                    sending.is_there(result)
                    order.is_there()
                    return result
                if flight.is_open:
                    if not flight.was_judged and failed is not None:
                        # The callee has made an error of the caller's cancellation: no time is left to look anything up.
                        self._give_up(sending, flight, fn, "cancelled")
                        raise failed
                    found = self._give_up(sending, flight, fn, _told(failed))
                    if found is None:
                        closes_at = self._clock.monotonic() + self._settle
                        try:
                            found = await self._found(
                                sending,
                                self._asking(flight),
                                closes_at,
                                failed,
                                is_known_there=flight.is_known_there,
                                settle=self._settle,
                            )
                        except BaseException:  # the caller's cancellation as well: nobody knows what it did
                            if flight.outcome is not Outcome.SUCCESS:  # that is counted
                                self._flight_ends_badly(fn, flight, failed, Outcome.UNKNOWN, NOBODY_KNOWS)
                            raise
                    if found is not None:
                        order.is_there()
                        if flight.outcome is not Outcome.SUCCESS:
                            self._answered_by_look_up(flight.began, flight.trace)
                        return found.value
                    flight.is_open = False
                    left = None if ends_at is None else ends_at - self._clock.monotonic()
                    if not flight.has_order_inside and self._may_be_sent_again(plan, failed, resends, left):
                        resends += 1
                        if left is not None:
                            plan = Plan({**self._plan.options, "deadline": left}).bind(
                                plan.runtime, plan.state
                            )
                            self._is_asked_before(plan, sending, flight, order, ends_at)
                        continue
                    if failed is not None:
                        failed.add_note(
                            f"shockproof {plan.state.name}: looked up: it is certain that nothing was placed"
                        )
                sending.is_not_there()
                # One that may not be sent again because a policy refuses is counted as refused.
                if flight.outcome is Outcome.UNKNOWN and (
                    was_open or not isinstance(failed, CallRejectedError)
                ):
                    self._flight_ends_badly(fn, flight, failed, Outcome.FAILURE, "nothing was placed")
                if failed is not None:
                    raise failed
                return result
            finally:
                failed = None  # the traceback holds this frame: no cycle

    def _flight(
        self,
        plan: Plan,
        sending: Sending,
        fn: Callable[..., Any],  # Any: as above
        began: float,
        trace: CallTrace | None,
    ) -> Flight:
        loop = asyncio.get_running_loop()
        info = CallInfo(plan.state.name, name_of(fn), 1, "unsafe")

        def late(
            flight: Flight, found: Found[Any] | None, error: BaseException | None
        ) -> None:  # Any: as above
            if found is not None and not flight.looks_at_results:
                flight.late_answer = found
                sending.is_there_late(found.value)
                return
            ended_at = moment_of(self._clock)
            sending.ended_late(_told(error), ended_at)
            if found is not None or isinstance(error, Exception):
                # If the loop has ended, it stays pending, and is looked up.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(judge, flight, found, error, ended_at)

        def judge(
            flight: Flight,
            found: Found[Any] | None,  # Any: as above
            error: BaseException | None,
            ended_at: Moment,
        ) -> None:
            if found is not None and self._is_answer(flight, found, info):
                flight.late_answer = found
                sending.is_there_late(found.value)
            elif isinstance(error, Exception):
                if flight.takes_refusal_at_last(error):
                    sending.is_not_there_late()
                    return
                verdict = flight.rules.of_error(error, info)
                if is_proof_of_nothing(verdict):
                    sending.is_not_there_late()
                elif verdict.effect == "done":
                    sending.ended_late(_told(error), ended_at, is_there=True)

        return Flight(
            plan.classifier, late, began, refused=self._plan.rejected, can_be_ended=is_async(fn), trace=trace
        )

    def _flight_ends_badly(
        self,
        fn: Callable[..., Any],  # Any: as above
        flight: Flight,
        failed: Exception | None,
        outcome: Outcome,
        reason: str,
    ) -> None:
        if flight.trace is not None:
            flight.trace.judged(outcome)
        error_type = UnwantedResultError.__name__ if failed is None else describe(failed)[0]
        self._ends_badly(fn, outcome, error_type, reason, flight.began, flight.attempts)

    def _ends_badly(
        self,
        fn: Callable[..., Any],  # Any: as above
        outcome: Outcome,
        error_type: str,
        reason: str,
        began: float,
        attempts: int = 0,
    ) -> None:
        end_badly(
            self._plan,
            name_of(fn),
            outcome,
            began=began,
            attempts=attempts,
            error_type=error_type,
            reason=reason,
        )

    def _give_up(
        self,
        sending: Sending,
        flight: Flight,
        fn: Callable[..., Any],  # Any: as above
        why: str,
    ) -> Found[Any] | None:  # Any: as above
        """
        The attempt is over for us, or was left behind: let the journal know which.

        What it returned, if it did before anybody noticed.
        """
        now = moment_of(self._clock)

        def leave() -> None:
            sending.leave_behind()
            sending.outcome_unknown(why, now, is_over=False)

        end = flight.witness.give_up(leave)
        if isinstance(end, Found) and self._is_answer(
            flight, end, CallInfo(self._plan.state.name, name_of(fn), 1, "unsafe")
        ):
            sending.is_there(end.value)
            return end
        if end != "left behind":
            # Or somebody else's attempt on this service was, which may be a part of this one.
            sending.outcome_unknown(
                why, now, is_over=not self._is_under_way(), is_there=flight.is_known_there
            )
        return None

    def _is_answer(self, flight: Flight, found: Found[Any], info: CallInfo) -> bool:  # Any: as above
        return not flight.looks_at_results or flight.rules.of_result(found.value, info) is None

    def _asking(self, flight: Flight) -> Confirm[R]:
        """``confirm``, or the attempt that was left behind, which knows best when it has ended."""

        def ask(key: str) -> Awaitable[LookUp[R]]:
            late = flight.late_answer
            return self._confirm(key) if late is None else _at_once(late)

        return ask

    def _is_asked_before(
        self, plan: Plan, sending: Sending, flight: Flight, order: OrderInside, ends_at: float | None
    ) -> None:
        """Let nothing be sent by *plan* that is not on the disk and wanted, and let *flight* know what came of it."""
        plan.classifier = flight
        plan.own_order = order
        plan.whole_began, plan.whole_trace = flight.began, flight.trace
        plan.before_attempt = lambda: self._before_attempt(sending, flight, order, ends_at)
        plan.is_simple = False  # the short way asks nobody before it sends

    def _may_be_sent_again(
        self, plan: Plan, failed: Exception | None, resends: int, left: float | None
    ) -> bool:
        if plan.halt_reason is not None:
            return False
        if failed is not None and (is_refusal(failed) or leaves_an_order(failed)):
            return False  # of a service inside the function: it is not repeated, here as anywhere
        # Only whether, and not when: the settle window was wait enough.
        again = plan.retry.after_failure(
            failed, retries=resends, previous_delay=0.0, retry_after=None, remaining=left
        )
        return again.delay is not None

    async def _before_attempt(
        self, sending: Sending, flight: Flight, order: OrderInside, ends_at: float | None
    ) -> None:
        self._require_wanted()
        self._require_the_only_one(order)
        left = None if ends_at is None else max(0.0, ends_at - self._clock.monotonic())
        flight.begins_by = None
        try:
            async with self._patience(left):
                await self._journalled(sending, flight, ends_at)
        except NO_JOURNAL as error:
            if not self._plan.risk_reducing:
                raise self._unavailable(error) from None
            if sending.is_news:
                raise NotFreshError from None  # it was read in the meantime
            self._goes_on_without_the_journal(error)
            self._require_wanted()
            # The disk may write what it was asked to only later, and nobody waits for it: nobody knows until when.
            sending.sends_all_the_same(at_most_for=None)
        self._require_the_only_one(order)
        order.begins()
        flight.begins()

    def _require_the_only_one(self, order: OrderInside) -> None:
        """No other one takes its place: of a repetition of a call around it, or of another request of a hedged one."""
        lanes = lanes_around()
        if not order.is_withdrawn and all(lane.is_free for lane in lanes):
            for lane in lanes:
                lane.race.takes(lane.request, order)
            return
        refusal = CallRejectedError(self._plan.state.name, "repetition" if order.is_withdrawn else "hedge")
        self._plan.rejected(refusal)
        raise refusal

    async def _journalled(self, sending: Sending, flight: Flight, ends_at: float | None) -> None:
        """Have it on the disk until when the attempt that begins right behind this may be under way."""
        spare = _SPARE
        while True:
            asked_at = moment_of(self._clock)
            longest = self._longest_attempt(ends_at) if flight.can_be_ended else None
            until = await sending.about_to_send(
                at_most_for=None if longest is None else longest + spare,
                even_without_space=self._plan.risk_reducing,
            )
            self._require_wanted()  # the disk may have taken its time, and so may the user's predicate
            longest = self._longest_attempt(ends_at)
            if until is None or longest is None:
                return
            now = moment_of(self._clock)
            flight.begins_by = until.running - longest
            if now.running <= flight.begins_by - _SPARE / 2:
                return
            spare = 2 * (now.running - asked_at.running) + _SPARE

    def _longest_attempt(self, ends_at: float | None) -> float | None:
        """Seconds an attempt that begins now may be under way; None: nothing ends it."""
        left = None if ends_at is None else max(0.0, ends_at - self._clock.monotonic())
        limits = [limit for limit in (self._plan.limit, left) if limit is not None]
        return min(limits) + (self._plan.grace or 0.0) if limits else None

    def _require_no_halt(self) -> None:
        reason = self._plan.halt_reason
        if reason is not None:
            raise self._plan.halted(reason)

    def _require_wanted(self) -> None:
        self._require_no_halt()
        refusal = self._freshness.refusal()
        if refusal is not None:
            self._plan.rejected(refusal)
            raise refusal

    def _refusal_at_last(self, flight: Flight, *, has_waited: bool) -> CallRejectedError | None:
        """
        Why it must not run, in its first step; in its thread, if it has one.

        Behind ``begins_by`` a later life would count from too early.
        """
        reason, name = self._plan.halt_reason, self._plan.state.name
        refusal: CallRejectedError | None = None if reason is None else HaltedError(name, reason=reason)
        if refusal is None:
            refusal = self._freshness.refusal(asks=has_waited)
        is_too_late = flight.begins_by is not None and moment_of(self._clock).running > flight.begins_by
        if refusal is None and is_too_late:
            refusal = CallRejectedError(name, "timeout")
        return None if refusal is None else refused_at_last(refusal)

    def _answered_by_look_up(self, began: float, trace: CallTrace | None) -> None:
        self._plan.state.answered_by_look_up(self._clock.monotonic() - began)
        if trace is not None:
            trace.judged(Outcome.SUCCESS)

    async def _found(
        self,
        sending: Sending,
        confirm: Confirm[R],
        closes_at: float,
        failed: Exception | None,
        *,
        is_known_there: bool,
        settle: float,
    ) -> Found[R] | None:
        """What was found; None: it is certain that there is nothing."""
        with on_its_own():
            outcome = await look_up(
                confirm,
                self._key,
                closes_at=closes_at,
                settle=settle,
                clock=self._clock,
                is_under_way=lambda: sending.is_left_behind or self._is_under_way(),
            )
        if isinstance(outcome, Found):
            sending.is_there(outcome.value)
            return outcome
        if outcome is NOT_FOUND and not is_known_there:
            return None
        if outcome is NOT_FOUND:
            warn_of_contradiction(self._plan.state.name, self._key)
        last_error = None if failed is None else self._plan.runtime.redact(": ".join(describe(failed)))
        raise OutcomeUnknownError(self._key, self._plan.state.name, last_error) from failed

    def _is_under_way(self) -> bool:
        # A thread that was left behind, or an attempt that ignored its cancellation, may not have sent it yet.
        state = self._plan.state
        return state.abandoned_threads > 0 or state.abandoned_attempts > 0

    def _goes_on_without_the_journal(self, error: Exception) -> None:
        # Nobody must be kept from closing a position by a full disk. It is on record where that still works.
        runtime = self._plan.runtime
        runtime.recorder.record(
            error,
            severity=ErrorSeverity.CRITICAL,
            service_name=self._plan.state.name,
            function_name="once",
            retry_count=0,
            now=runtime.clock.monotonic(),
        )


class KeyedOnce(Once[R]):
    """
    ``once = trading.once(confirm=find_order, key_argument="client_order_id")``: an `Once` that passes its key.

    No type takes a keyword out of a signature. So type checkers know what `call` returns, and not which arguments are
    left: those are checked when it is called, before anything is journalled. Where they are to be known, leave
    ``key_argument`` out.
    """

    def __init__(
        self,
        plan: Plan,
        key_argument: str,
        *,
        key: str | None,
        confirm: Confirm[R] | DetailedConfirm[R],
        details: Mapping[str, object] | None,
        key_pattern: str | re.Pattern[str] | None,
        settle: Seconds,
        valid_until: datetime | None,
        still_wanted: Callable[[], bool] | None,
        compare_arguments: bool | Collection[str],
    ) -> None:
        self._key_argument = a_name("key_argument", key_argument, "client_order_id")
        super().__init__(
            plan,
            key=key,
            confirm=confirm,
            details=details,
            key_pattern=key_pattern,
            settle=settle,
            valid_until=valid_until,
            still_wanted=still_wanted,
            compare_arguments=compare_arguments,
        )

    @overload
    async def call(
        self,
        fn: Callable[..., Awaitable[R]],
        /,
        *args: Any,  # Any, here and below: the key is added to them, under a name that no type says
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def call(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,  # Any: as above
        **kwargs: Any,
    ) -> R: ...
    async def call(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:  # Any: see the overloads
        """See `Once.call`; *fn* is called with the key as well."""
        name = self._key_argument
        if kwargs.get(name, self._key) != self._key:
            raise ValueError(
                f"{name}={kwargs[name]!r} is given to call(), and once() has the key {self._key!r}: leave it out, "
                "or give it to once(key=...)"
            )
        check_callable(fn)
        check_takes(fn, "key_argument", (name,))
        return await super().call(fn, *args, **{**kwargs, name: self._key})


def _checked(details: object) -> Mapping[str, object]:
    if not isinstance(details, Mapping) or not all(isinstance(name, str) for name in details):
        raise TypeError(
            f'details must be a dict of what the order is looked up by, such as {{"symbol": "AAPL"}}, got {details!r}'
        )
    return details


def _names_compared(compare_arguments: bool | Collection[str]) -> tuple[str, ...] | None:
    if isinstance(compare_arguments, bool):
        return None
    if isinstance(compare_arguments, str) or not isinstance(compare_arguments, Collection):
        raise TypeError(
            "compare_arguments must be True, False or the names of those that tell orders apart, such as "
            f'("symbol", "qty"), got {compare_arguments!r}'
        )
    return tuple(a_name("each of compare_arguments", name, "symbol") for name in compare_arguments)


def _check_key(key: str, pattern: str | re.Pattern[str]) -> None:
    try:
        form = re.compile(pattern)
    except (TypeError, re.error) as error:
        raise ValueError(f"key_pattern must be a regular expression, got {pattern!r}: {error}") from None
    if form.fullmatch(key) is None:
        raise ValueError(
            f"key {key!r} does not match key_pattern {form.pattern!r}: the venue would refuse it, or change it so that "
            "it is never found. Nothing was sent"
        )


async def _at_once(found: Found[R]) -> LookUp[R]:
    return found


def _told(end: BaseException | None) -> str:
    if end is None:
        return "its result was judged a failure"
    return "cancelled" if isinstance(end, asyncio.CancelledError) else type(end).__name__

"""
The policies around a block: once (`Guard`), or repeated (`Attempts`).

A block may be entered in one task and left in another; its timer belongs to the task that entered,
and left elsewhere it is only disarmed.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, NoReturn, Self

from shockproof.calls.executor import elapsed, failure_of
from shockproof.calls.faults import BlockFault, Faults
from shockproof.calls.limits import Held
from shockproof.calls.limits_around import begin_block, end_block
from shockproof.calls.ongoing_call import OngoingCall
from shockproof.calls.options import calling_frame
from shockproof.calls.plan import Plan
from shockproof.calls.timer import CURRENT_TASK, HERE, LimitQueue, Timer, no_task, take_over
from shockproof.policies.circuit_breaker import Ticket

__all__ = ["AttemptBlock", "Attempts", "Guard"]


class _Block:
    """
    One attempt, written as a block: what is taken at the entry is given back at the exit.

    The bookkeeping of a call is made when something needs it: a healthy block has none.
    """

    __slots__ = ("_call", "_fault", "_held", "_plan", "_started", "_ticket", "_timer")

    _plan: Plan
    _call: OngoingCall | None
    _ticket: Ticket | None
    _held: Held | None
    _timer: Timer | None
    _fault: BlockFault | None
    _started: float

    def _ongoing(self, elapsed_so_far: float = 0.0) -> OngoingCall:
        raise NotImplementedError

    async def _enter(self) -> float | None:
        """
        Take what the attempt needs.

        None: the body may run. A number of seconds: a fault was in its way, and it is repeated after them.
        """
        plan = self._plan
        lane: Ticket | None = plan.entrance.lane
        held: Held | None = None
        if lane is None and self._call is None and plan.state.limits is not None:
            way = plan.short_way()
            if way is not None:
                lane, held = way[0], Held(None, None, way[1], has_waited=False)
        if lane is not None and self._call is None:  # the short way, as in wrap.py
            if plan.first_limit is None:
                self._started = plan.stopwatch()
            else:
                try:
                    self._timer = plan.first_limit.start()
                except BaseException:
                    if held is not None:
                        held.not_sent()
                    raise
                self._started = self._timer.started
                begin_block(self._timer.task, *self._timer.limit)
            self._ticket, self._held = lane, held
            return None
        if plan.is_haltable:
            if plan.needs_preparing:
                plan.prepare()
            await plan.learn_of_halt()
        call = self._call = self._call or self._ongoing()
        if plan.state.tracer is not None:
            call.function_name = call.function_name or calling_frame().f_code.co_name
            call.trace_from_here()
        admission = call.admit()
        if plan.is_waited_for:
            admission, held = await call.enter_limits(admission)
        ticket = call.begins(admission)
        try:
            self._timer = timer = call.start_timer()
            self._started = plan.stopwatch() if timer is None else timer.started
        except BaseException:
            ticket.released()
            if held is not None:
                held.not_sent()
            raise
        if timer is not None:
            begin_block(timer.task, *timer.limit)
        self._ticket, self._held = ticket, held
        call.trace_block()
        return None if plan.state.faults is None else await self._meet_fault(call, plan.state.faults)

    async def _meet_fault(self, call: OngoingCall, faults: Faults) -> float | None:
        """
        The fault that is on for this block, if any, begins; see `_enter`.

        Raises:
            BaseException: what the fault raised, or the cancellation that came meanwhile; the block is over.
        """
        if not call.function_name:
            call.function_name = calling_frame().f_code.co_name
        try:
            self._fault = faults.of_block(call.info())
        except BaseException:  # the condition of the fault is broken: no verdict on the service
            self._give_back()
            raise
        if self._fault is None:
            return None
        try:
            await self._fault.enter()
        except BaseException as error:
            delay = self._leave(error)
            if delay is None:
                raise
            return delay
        return None

    def _give_back(self) -> None:
        """The body will not run, and nobody is to blame."""
        ticket, timer, held = self._ticket, self._timer, self._held
        self._ticket = self._timer = self._held = None
        if timer is not None:
            end_block(timer.task, timer.limit[1])
            timer.stop()
        if ticket is not None:
            ticket.released()
        if held is not None:
            held.not_sent()
        if self._call is not None:
            self._call.block_ended(None)

    async def _leave_by_fault(self, error: BaseException | None) -> float | None:
        """The block ended, and its fault may take the answer of a body that raised nothing; see `_leave`."""
        fault, self._fault = self._fault, None
        if error is None and fault is not None:
            try:
                await fault.leave()
            except BaseException as lost:
                delay = self._leave(lost)
                if delay is None:
                    raise
                return delay
        return self._leave(error)

    def _leave(self, error: BaseException | None) -> float | None:
        """
        The block ended: seconds until it is repeated, or None when it is over.

        Raises:
            AttemptTimeoutError, DeadlineExceededError: in place of the cancellation that ended it.
        """
        ticket, timer, held, plan = self._ticket, self._timer, self._held, self._plan
        if ticket is None:
            raise RuntimeError("this block was never entered, or is left a second time")
        self._ticket = self._timer = self._held = None
        if timer is not None:
            end_block(timer.task, timer.limit[1])
        if held is not None:
            held.ended()
        if error is None:
            if timer is not None:
                timer.stop()
            if self._call is not None:
                self._call.block_ended(None)
                self._call.succeeded(ticket, elapsed(plan, self._started, timer))
                return None
            entrance = plan.state.entrance
            entrance.successes += 1
            if entrance.stirred:
                plan.state.settle(ticket, plan.runtime.clock.monotonic(), elapsed(plan, self._started, timer))
            return None
        failure = failure_of(plan, error, ticket, self._started, timer)
        if failure is None:
            if self._call is not None:
                self._call.block_ended(error)
                self._call.raises(error)
            return None
        call = self._call = self._call or self._ongoing(failure.duration)
        call.block_ended(failure.error)
        if not call.function_name:
            call.function_name = _name_of_block(error)
        try:
            delay = call.after(failure)
            if delay is None and failure.error is not None:
                call.raises(failure.error)
                if failure.error is not error:
                    raise failure.error
            return delay
        except BaseException as raised:
            call.raises(raised)
            raise
        finally:
            failure = None  # the traceback holds this frame: no cycle


class Guard(_Block):
    """The policies of a handle around one block, except retry and fallback."""

    __slots__ = ("_cancels", "_entered", "_key", "_queue", "_task")

    _cancels: int
    _key: object
    """What it waits as: its task, and the block itself where another one does that already."""
    _task: asyncio.Task[Any]  # Any: whatever the task returns

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._call = self._fault = self._held = self._ticket = self._timer = None
        self._entered = False
        self._queue: LimitQueue | None = None

    def _ongoing(self, elapsed_so_far: float = 0.0) -> OngoingCall:
        return OngoingCall(self._plan, "", elapsed=elapsed_so_far, repeats=False, falls_back=False)

    async def __aenter__(self) -> Self:
        """
        Enter the block.

        Raises:
            CircuitOpenError, RateLimitedError, BulkheadFullError: a policy refuses.
            RuntimeError: this guard was entered before; make a fresh one with ``guard()``.
        """
        if self._entered:
            raise RuntimeError("a guard is for one block: call guard() anew for each entry")
        self._entered = True
        plan = self._plan
        lane = plan.entrance.lane
        if lane is None:
            try:
                await self._enter()
            except BaseException as error:
                if self._call is not None:
                    self._call.raises(error)
                    self._call.close()
                raise
            return self
        limit = plan.first_limit  # the short way, as in wrap.py
        if limit is None:
            self._started = plan.stopwatch()
        else:
            try:
                queue = limit.queues[HERE()]
                task = CURRENT_TASK(queue.loop)
            except KeyError:
                queue, task = limit.attach()
            if task is None:
                raise no_task()
            self._task = self._key = task
            self._cancels = task.cancelling()
            self._started = started = queue.clock()
            self._queue = queue
            waits = (task, started)
            # Waiting as its task it is found by whoever asks for the task's limits, and is written down nowhere else.
            if queue.fired or queue.waiting.setdefault(task, waits) is not waits:
                self._key = self
                queue.waiting[self] = waits
                begin_block(task, queue, self)
        self._ticket = lane
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ticket, queue = self._ticket, self._queue
        if queue is not None:
            self._queue = None
            key = self._key
            if key is self:
                end_block(self._task, self)
            ended_by_itself = error is None
            if ended_by_itself:
                try:
                    del queue.waiting[key]
                except KeyError:  # its time was over
                    ended_by_itself = False
            if not ended_by_itself:
                self._timer = take_over((queue, self._task, self._cancels), self._started, key)
        plain = self._call is None and self._timer is None and self._held is None
        if error is None and plain and ticket is not None:
            self._ticket = None
            plan = self._plan
            state = plan.state
            entrance = state.entrance
            entrance.successes += 1
            if entrance.stirred:
                now = plan.stopwatch() if queue is None else queue.clock()
                state.settle(ticket, plan.runtime.clock.monotonic(), now - self._started)
            return
        try:
            if self._fault is None:
                self._leave(error)
            else:
                await self._leave_by_fault(error)
        finally:
            if self._call is not None:
                self._call.close()


class Attempts:
    """
    The repetitions of one block: ``async for attempt in ...: async with attempt: ...``.

    A block that ends without an error ends the loop; so does ``break``, ``return``, or an error
    that is not repeated, which is raised unchanged.
    """

    __slots__ = ("_current", "_delay", "_over", "_plan")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._current: AttemptBlock | None = None
        self._delay: float | None = None
        self._over = False

    def __aiter__(self) -> Self:
        if self._current is not None:
            raise RuntimeError("this loop has run before: call attempts() anew for each loop")
        return self

    async def __anext__(self) -> AttemptBlock:
        """
        The next attempt, after the wait that is due before it.

        Raises:
            Exception: a policy refuses a later attempt: the last attempt's own error.
        """
        if self._current is None:
            self._current = AttemptBlock(self._plan, None, self)
            return self._current
        if not self._current._was_left:
            raise RuntimeError("each attempt must be entered: `async with attempt:` inside the loop")
        call = self._current._call
        if self._over or self._delay is None or call is None:
            raise StopAsyncIteration
        try:
            call.take_budget_again()
            await call.wait(self._delay)
        except BaseException as error:
            call.raises(error)
            call.close()
            raise
        self._current = AttemptBlock(self._plan, call, self)
        return self._current

    def __iter__(self) -> NoReturn:
        raise TypeError("attempts() waits between attempts: write `async for attempt in ...attempts():`")

    def _ended(self, delay: float | None) -> None:
        """Told by a block that it is over, and whether another follows."""
        self._delay = delay
        self._over = delay is None


class AttemptBlock(_Block):
    """One attempt of `Attempts`."""

    __slots__ = ("_loop", "_number", "_was_left")

    def __init__(self, plan: Plan, call: OngoingCall | None, loop: Attempts) -> None:
        self._plan = plan
        self._call = call
        self._fault = self._held = self._ticket = self._timer = None
        self._loop: Attempts | None = loop
        self._was_left = False
        self._number = 1 if call is None else call.number

    @property
    def number(self) -> int:
        """1 for the first attempt."""
        return self._number

    def _ongoing(self, elapsed_so_far: float = 0.0) -> OngoingCall:
        return OngoingCall(self._plan, "", elapsed=elapsed_so_far, falls_back=False)

    async def __aenter__(self) -> Self:
        """
        Enter the attempt.

        Raises:
            CircuitOpenError, RateLimitedError, BulkheadFullError: a policy refuses the first attempt.
            Exception: it refuses a later one: the last attempt's own error.
        """
        if self._was_left or self._ticket is not None:
            raise RuntimeError("an attempt is entered once; the loop gives the next one")
        plan = self._plan
        lane = plan.entrance.lane
        if (
            lane is not None and self._call is None and plan.first_limit is None
        ):  # the short way, as in wrap.py
            self._started = plan.stopwatch()
            self._ticket = lane
            return self
        try:
            while True:
                if self._number > 1 and self._call is not None:
                    # Only inside the block: between two of them the user may leave the loop without a word.
                    self._call.begin_repeating()
                delay = await self._enter()
                if delay is None or self._call is None:
                    return self
                # A body cannot be skipped: the attempt that met a fault on its way in is repeated here.
                await self._call.wait(delay)
                self._number = self._call.number
        except BaseException as error:
            if self._call is not None:
                self._call.raises(error)
                self._call.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._was_left = True
        delay: float | None = None
        try:
            delay = self._leave(error) if self._fault is None else await self._leave_by_fault(error)
        finally:
            loop, self._loop = self._loop, None  # each knows the other only while it runs: no cycle
            if loop is not None:
                loop._ended(delay)
            call = self._call
            if call is not None:
                call.end_repeating()
                call.return_budget()  # held again from the wait on: the user may leave the loop here
                if delay is None:
                    call.close()
        return delay is not None


def _name_of_block(error: BaseException) -> str:
    """The function that holds the block: the outermost frame of the error's traceback."""
    trace = error.__traceback__
    return trace.tb_frame.f_code.co_name if trace is not None else "block"

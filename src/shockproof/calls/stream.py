"""
A feed that is opened again when it is lost, and knows when it went silent.

Nothing reads in the background: an item is taken from the source when the consumer asks for one, and
handed over. So nothing is buffered and nothing repeated; what the other side sends while no connection
is there is lost, and that is a gap, which the consumer is told of together with the first item after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Final, Generic, NamedTuple, Self, TypeVar

from shockproof.calls.callables import name_of
from shockproof.calls.executor import elapsed, hides_cancellation
from shockproof.calls.faults import BlockFault, Faults
from shockproof.calls.history_of_attempts import describe
from shockproof.calls.limits import Held, Limits
from shockproof.calls.ongoing_call import Failure, OngoingCall, timeout_error
from shockproof.calls.orders_inside import order_sent_since
from shockproof.calls.plan import Plan
from shockproof.calls.silence_watch import SilenceWatch
from shockproof.calls.source import Connect, Connection, Source, UnusableSourceError, check_connect
from shockproof.calls.source_in_own_task import SourceInOwnTask
from shockproof.calls.timer import CURRENT_TASK, Timer, clock_of, start_single_timer
from shockproof.memory.services.service_state import ServiceState
from shockproof.memory.services.stream_health import StreamHealth
from shockproof.policies.circuit_breaker import PASS_THROUGH, Admission, Ticket
from shockproof.policies.retry import RetryOn, leaves
from shockproof.vocabulary.arguments import Seconds, seconds
from shockproof.vocabulary.clock import SystemClock
from shockproof.vocabulary.errors import (
    AttemptTimeoutError,
    CallRejectedError,
    StreamEndedError,
    StreamSilentError,
)
from shockproof.vocabulary.events import StreamGap, StreamLost

__all__ = ["Stream"]

T = TypeVar("T")

_FOR_EVER: Final = 2**62
"""Retries of a feed that nobody has limited."""

_SHORTEST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 3600.0
"""Seconds between two questions whether the feed may be opened."""

_log = logging.getLogger("shockproof")

_OURS = (StreamSilentError, StreamEndedError, AttemptTimeoutError)
"""What we say about a feed; opening it again is what it was said for."""


def _plan_of_a_stream(plan: Plan) -> Plan:
    """
    The policies of *plan* as they hold for a feed: retries without end unless the handle has a number.

    Raises:
        ValueError: the handle's effect forbids to repeat anything.
    """
    if plan.effect == "unsafe":
        raise ValueError(
            "effect='unsafe' forbids to repeat, and a feed is opened again and again: "
            "use a handle that reads, such as handle.using(effect='read')"
        )
    options = dict(plan.options)
    wanted: RetryOn = options.get("retry_on", Exception)

    def is_wanted(error: Exception) -> bool:
        if isinstance(error, _OURS):
            return True
        return isinstance(error, wanted) if isinstance(wanted, type | tuple) else wanted(error)

    if options.get("max_retries") is None:
        options["max_retries"] = _FOR_EVER
    options |= {"retry_on": is_wanted, "retry_if_result": None, "hedge_after": None, "fallback": None}
    return Plan(options).bind(plan.runtime, plan.state)


class Stream(Generic[T]):
    """
    The items of a feed: ``async for item in handle.stream(connect, stale_after=5.0): ...``.

    Made by `Handle.stream`. Opened when the first item is asked for. Read by one task at a time; it may be
    entered in one task and read in another. A cancelled wait for an item ends it, as with any async generator.
    """

    __slots__ = ("_feed", "_items")

    def __init__(
        self,
        plan: Plan,
        connect: Connect,
        *,
        stale_after: Seconds | None,
        stable_after: Seconds,
        may_end: bool,
    ) -> None:
        check_connect(connect)
        if not isinstance(may_end, bool):
            raise TypeError(f"may_end must be True or False, got {may_end!r}")
        self._feed = _Feed[T](
            _plan_of_a_stream(plan),
            connect,
            stale_after=None if stale_after is None else seconds("stale_after", stale_after, more_than=0),
            stable_after=seconds("stable_after", stable_after),
            may_end=may_end,
        )
        self._items = self._feed.items()

    @property
    def gap(self) -> StreamGap | None:
        """What was missed directly before the item in hand, or None: resynchronise before you use the item."""
        return self._feed.gap

    @property
    def gaps(self) -> int:
        """Gaps so far."""
        return self._feed.health.gaps

    @property
    def last_item_age(self) -> float | None:
        """Seconds since the last item, or None when there was none; for whoever uses what the consumer keeps."""
        return self._feed.health.last_item_age(self._feed.plan.runtime.clock.monotonic())

    def __aiter__(self) -> AsyncIterator[T]:
        # The generator itself: an item costs no frame more.
        return self._items

    async def __anext__(self) -> T:
        """The next item."""
        return await self._items.__anext__()

    async def aclose(self) -> None:
        """Close the connection; the stream is over. What waits for an item must have been cancelled before."""
        await self._items.aclose()

    async def __aenter__(self) -> Self:
        """Nothing happens yet; on exit the connection is closed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        health = self._feed.health
        return f"<Stream of {self._feed.plan.state.name!r} {health.phase}, {health.items} items, {health.gaps} gaps>"


class _Loss:
    """The ticket of a connection that had its success already: one failure more for a closed circuit."""

    __slots__ = ("_state",)

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    def succeeded(self, now: float, duration: float = 0.0) -> None:
        pass

    def failed(self, now: float, cause: object, duration: float = 0.0) -> None:
        closed = self._state.circuit.closed
        if closed is not None:
            closed.failed(now, cause)  # how long it was there does not make it slow

    def released(self) -> None:
        pass


class _Feed(Generic[T]):
    """
    What a stream does. It must not know the generator that runs `items`, nor the `Stream`: so that a loop
    which is left drops the generator, and Python closes it.
    """

    def __init__(
        self,
        plan: Plan,
        connect: Connect,
        *,
        stale_after: float | None,
        stable_after: float,
        may_end: bool,
    ) -> None:
        self.plan = plan
        self.gap: StreamGap | None = None
        self.health = StreamHealth(name_of(connect), stale_after)
        self._connect = connect
        self._stale_after = stale_after
        self._stable_after = stable_after
        self._may_end = may_end
        self._call: OngoingCall
        self._refusals = 0
        self._was_there = False
        self._there_at = 0.0
        self._items_before = 0
        self._gap_began = _GapBegan(0.0, 0.0, "", "")
        self._tries = 0

    # -- reading -------------------------------------------------------------------------------------

    async def items(self) -> AsyncGenerator[T, None]:
        """The items of one connection after the other; a consumer's own error never comes in here."""
        plan, health = self.plan, self.health
        if plan.needs_preparing:
            plan.prepare()
        loop = asyncio.get_running_loop()
        clock = clock_of(loop)
        # The real time inside a loop is the loop's own, as for the health.
        now = clock if type(plan.runtime.clock) is SystemClock else plan.runtime.clock.monotonic
        self._call = self._new_call()
        plan.state.add_stream(health)
        try:
            while True:
                opened = await self._open()
                if opened is None:
                    return
                connection, held, first = opened
                error: BaseException | None = None
                failure: Failure | None = None
                watch = None if self._stale_after is None else SilenceWatch(loop, self._stale_after)
                silence = None if watch is None else watch.silence
                try:
                    read = connection.read
                    while True:
                        if first:
                            (item,), first = first, ()
                        else:
                            try:
                                if watch is None or silence is None:
                                    item = await read()
                                else:
                                    task = watch.task = CURRENT_TASK(loop)
                                    watch.cancels = task.cancelling()  # type: ignore[union-attr]  # it runs us
                                    silence.waits_since = clock()
                                    item = await read()
                                    silence.waits_since = None
                                    if watch.has_fired:
                                        watch.go_on()
                            except BaseException as ended:  # noqa: BLE001 - judged below
                                error = ended
                                break
                            health.last_item_at = now()
                            health.items += 1
                        yield item
                        if self.gap is not None:
                            self.gap = None
                    failure = self._judged(error, watch, _Loss(plan.state), now() - self._there_at)
                    if failure is None:
                        return  # it may end
                    delay = self._lost(failure)
                except BaseException as reason:
                    error = reason
                    raise
                finally:
                    if watch is not None:
                        watch.stop()
                    try:
                        await self._close(connection, held, error)
                    finally:
                        opened = error = failure = None  # the traceback holds this frame: no cycle
                        del connection
                await self._wait(delay)
        finally:
            plan.state.remove_stream(health)
            self._call.close()

    # -- opening -------------------------------------------------------------------------------------

    async def _open(self) -> tuple[Connection[T], Held | None, tuple[T] | tuple[()]] | None:
        """
        A connection that is there, with its first item if that is the proof; None: it may end, and did.

        Raises:
            Exception: it is not opened again: the last attempt's own error, or a refusal.
        """
        while True:
            admission, held = await self._admitted()
            call = self._call
            ticket = call.begins(admission)
            connection, is_there = self._connection(held), False
            first: tuple[T] | tuple[()] = ()
            error: BaseException | None = None
            failure: Failure | None = None
            self._tries += 1
            began = self.plan.runtime.clock.monotonic()
            try:
                try:
                    timer = self._start_timer()
                    started = self.plan.stopwatch() if timer is None else timer.started
                except BaseException:
                    ticket.released()
                    raise
                if call.number > 1:
                    call.begin_repeating()
                try:
                    fault = self._fault()
                    if fault is not None:
                        await fault.enter()
                    await connection.open()
                    if self._stale_after is not None or not connection.is_opened_by_hand:
                        first = (await connection.read(),)
                    if fault is not None:
                        await fault.leave()
                except BaseException as ended:  # noqa: BLE001 - judged below
                    error = ended
                finally:
                    call.end_repeating()  # the consumer's code is no part of it
                duration = elapsed(self.plan, started, timer)
                if error is None:
                    if timer is not None:
                        timer.stop()
                    call.succeeded(ticket, duration)
                    self._is_there(first)
                    is_there = True
                    return connection, held, first
                failure = self._judged(error, timer, ticket, duration)
                if failure is None:
                    call.succeeded(ticket, duration)
                    return None
                self.health.phase = "lost"
                # The consumer, whose orders are its own affair, has no turn while it is opened.
                failure.began = began
                failure.order = order_sent_since(began, self.plan.runtime.clock)
                delay = self._after(failure)
            except BaseException as reason:
                error = reason
                raise
            finally:
                try:
                    if not is_there:
                        await self._close(connection, held, error)
                finally:
                    error = failure = None  # the traceback holds this frame: no cycle
            await self._wait(delay)

    async def _admitted(self) -> tuple[Admission, Held | None]:
        """
        Wait until the circuit and the limits let the feed in: it has nothing better to do.

        Raises:
            Exception: the deadline leaves no time for that: the last attempt's own error, or the refusal.
        """
        plan, state, call = self.plan, self.plan.state, self._call
        while True:
            if plan.needs_preparing:
                plan.prepare()
            ticket = self._ticket()
            if ticket is None:
                refusal = plan.refused(state.circuit.open_for(plan.runtime.clock.monotonic()))
                await self._wait_for_the_circuit(self._after_refusal(refusal))
                continue
            limits: Limits | None = state.limits
            if limits is None:
                return ticket, None
            try:
                held = await limits.enter(
                    weight=plan.weight, rank=plan.rank, until=call.deadline_at, persists=True
                )
            except CallRejectedError as refused:
                ticket.released()
                plan.rejected(refused)
                delay = self._after_refusal(refused)
            except BaseException:
                ticket.released()
                raise
            else:
                if not held.has_waited or ticket is state.circuit.closed:
                    return ticket, held
                # The circuit may have changed meanwhile.
                ticket.released()
                ticket = self._ticket()
                if ticket is not None:
                    return ticket, held
                held.not_sent()
                continue
            await self._wait(delay)

    def _ticket(self) -> Admission | None:
        plan, lease = self.plan, self._call.lease()
        if lease is None and self._stale_after is not None:
            lease = self._stale_after + max(
                1.0, self._stale_after / 4
            )  # the silence that ends it is its verdict
        ticket = plan.state.circuit.admit(plan.runtime.clock.monotonic(), lease=lease)
        return PASS_THROUGH if ticket is None and plan.risk_reducing else ticket

    def _connection(self, held: Held | None) -> Connection[T]:
        source = Source[T](self._connect)
        if self.plan.grace is None:
            return source
        return SourceInOwnTask(source, self.plan.state, self.plan.grace, held)

    def _fault(self) -> BlockFault | None:
        """The fault that a test has put in the way of this connection, if any."""
        faults: Faults | None = self.plan.state.faults
        if faults is None:
            return None
        try:
            return faults.of_block(self._call.info())
        except Exception as mistake:  # noqa: BLE001 - the condition of the fault is broken: no verdict on the service
            raise UnusableSourceError(mistake) from None

    def _start_timer(self) -> Timer | None:
        """What ends the opening, up to the first item: its timeout, else its silence, and the deadline."""
        limit = self._opening_limit
        left = self._call.remaining(self.plan.runtime.clock.monotonic())
        if left is not None:
            limit = max(0.0, left) if limit is None else min(limit, max(0.0, left))
        return None if limit is None else start_single_timer(limit)

    @property
    def _opening_limit(self) -> float | None:
        return self._stale_after if self.plan.timeout is None else self.plan.timeout

    async def _close(self, connection: Connection[T], held: Held | None, error: BaseException | None) -> None:
        """Close it, within the time it had for opening: the other side may be dead."""
        limit = self._opening_limit
        timed = limit is not None and asyncio.current_task() is not None
        timer = start_single_timer(limit) if limit is not None and timed else None
        try:
            await connection.close(error)
        except asyncio.CancelledError:
            is_ours = timer is not None and timer.stop()
            timer = None
            if not is_ours:
                raise
            _log.warning("the feed of %r did not close within %g s", self.plan.state.name, limit)
        finally:
            if timer is not None:
                timer.stop()
            if held is not None:
                held.ended()

    def _is_there(self, first: tuple[T] | tuple[()]) -> None:
        health, now = self.health, self.plan.runtime.clock.monotonic()
        health.phase = "live"
        self._there_at = now
        self._items_before = health.items
        self._refusals = 0
        if first:
            health.last_item_at = now
            health.items += 1
        if not self._was_there:
            self._was_there = True
            return
        if self.gap is None:  # else nobody has seen that one yet, and now it is longer
            health.gaps += 1
        self.gap = StreamGap(
            service_name=self.plan.state.name,
            at=self.plan.runtime.clock.time(),
            function_name=health.function_name,
            number=health.gaps,
            began_at=self._gap_began.wall,
            duration=max(0.0, now - self._gap_began.monotonic),
            attempts=self._tries,
            error_type=self._gap_began.error_type,
            error_message=self._gap_began.error_message,
        )
        if self.plan.runtime.listeners:
            self.plan.runtime.listeners.publish(self.gap)

    # -- losing --------------------------------------------------------------------------------------

    def _judged(
        self,
        error: BaseException | None,
        limit: Timer | SilenceWatch | None,
        ticket: Ticket,
        duration: float,
    ) -> Failure | None:
        """
        The failure that *error* is; None for an end of the source that may end.

        Raises:
            BaseException: it is none, and passes untouched: the caller's cancellation, a mistake in `connect`.
        """
        assert error is not None
        ended_by_us = limit is not None and limit.stop()
        failure = Failure(ticket, duration)
        failure.stalled = ended_by_us and limit is not None and limit.stalled
        if isinstance(error, StopAsyncIteration):
            if self._may_end:
                return None
            failure.error = StreamEndedError(self.plan.state.name)
        elif isinstance(error, asyncio.CancelledError) and ended_by_us and limit is not None:
            failure.error = self._too_late(limit)
            failure.error.__cause__ = error  # its traceback shows where the feed hung
        elif (
            isinstance(error, Exception)
            and not isinstance(error, UnusableSourceError)
            and (ended_by_us or not hides_cancellation(error))
        ):
            failure.error = error
        else:
            ticket.released()
            if isinstance(error, UnusableSourceError):
                raise error.mistake from None
            raise error
        return failure

    def _too_late(self, limit: Timer | SilenceWatch) -> Exception:
        plan, usual = self.plan, self._opening_limit
        is_silence = isinstance(limit, SilenceWatch) or (
            plan.timeout is None and usual is not None and limit.seconds >= usual
        )
        if not is_silence:
            return timeout_error(plan, limit.seconds)
        plan.state.timeouts += 1
        return StreamSilentError(plan.state.name, limit.seconds)

    def _lost(self, failure: Failure) -> float:
        """A connection that was there is gone: seconds until it is opened again."""
        health, error, clock = self.health, failure.error, self.plan.runtime.clock
        assert error is not None
        health.phase = "lost"
        now = clock.monotonic()
        last = self._there_at if health.last_item_at is None else max(self._there_at, health.last_item_at)
        was_there_for = (last if isinstance(error, StreamSilentError) else now) - self._there_at
        if was_there_for >= self._stable_after:
            self._call.close()
            self._call = self._new_call()
        else:
            self._call.begin_anew()
        error_type, message = describe(error)
        message = self.plan.runtime.redact(message)
        if self.gap is None:  # else that one goes on
            self._gap_began = _GapBegan(last, clock.time() - (now - last), error_type, message)
            self._tries = 0
        if self.plan.runtime.listeners:
            self.plan.runtime.listeners.publish(
                StreamLost(
                    service_name=self.plan.state.name,
                    at=clock.time(),
                    function_name=health.function_name,
                    items=health.items - self._items_before,
                    duration=failure.duration,
                    error_type=error_type,
                    error_message=message,
                )
            )
        return self._after(failure)

    def _after(self, failure: Failure) -> float:
        """
        Seconds until it is opened again.

        Raises:
            Exception: it is not: its own error.
        """
        error = failure.error
        assert error is not None
        try:
            refusals = [leaf for leaf in leaves(error) if isinstance(leaf, CallRejectedError)]
            if refusals and len(refusals) == len(list(leaves(error))):
                failure.ticket.released()  # another guarded call, inside `connect`, was refused
                return self._after_refusal(refusals[0])
            delay = self._call.after(failure)
            if delay is None:
                raise error
            return delay
        finally:
            del error  # the traceback holds this frame: no cycle

    def _after_refusal(self, refusal: CallRejectedError) -> float:
        """Seconds until it is asked again whether the feed may be opened."""
        plan = self.plan
        delay = refusal.retry_after
        if not delay:
            delay = max(plan.backoff.delay(self._refusals, 0.0), _SHORTEST_WAIT)
        self._refusals += 1
        left = self._call.remaining(plan.runtime.clock.monotonic())
        if left is not None and delay >= left:
            raise self._call.give_up(refusal)
        return min(delay, _LONGEST_WAIT)

    # -- waiting -------------------------------------------------------------------------------------

    async def _wait(self, delay: float) -> None:
        if delay > 0:
            await self.plan.runtime.clock.sleep(delay)
        else:
            await asyncio.sleep(0)  # a feed without waits must not starve the event loop

    async def _wait_for_the_circuit(self, delay: float) -> None:
        """Wait *delay* seconds, or until the circuit closes."""
        plan, state = self.plan, self.plan.state
        sleeping = asyncio.ensure_future(plan.runtime.clock.sleep(delay))
        closed = asyncio.get_running_loop().create_future()
        state.wait_for_closing(closed)
        try:
            if state.circuit.closed is None:  # else it was closed before this wait could be woken
                await asyncio.wait({sleeping, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            state.stop_waiting(closed)
            sleeping.cancel()

    def _new_call(self) -> OngoingCall:
        return OngoingCall(self.plan, self.health.function_name, falls_back=False, persists=True)


class _GapBegan(NamedTuple):
    """When the last item before a gap came, and why there was no other."""

    monotonic: float
    wall: float
    error_type: str
    error_message: str

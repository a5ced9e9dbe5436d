"""
A handle: one service with the options of one way to use it.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from inspect import CO_COROUTINE
from types import FunctionType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from shockproof.calls.blocks import Attempts, Guard
from shockproof.calls.callables import check_callable
from shockproof.calls.combinations import add_layer, check_layers, warn_of_useless
from shockproof.calls.executor import execute, failure_of, in_place, substitute
from shockproof.calls.limits_around import holds_timer
from shockproof.calls.options import HandleOptions, LimitOptions, check_options
from shockproof.calls.plan import Plan, new_refusal
from shockproof.calls.rate_limit_feedback import RateLimitFeedback
from shockproof.calls.timer import CURRENT_TASK, HERE, no_task, take_over
from shockproof.calls.wrap import wrap
from shockproof.memory.services.registry import LIMIT_OPTIONS
from shockproof.vocabulary.arguments import Seconds
from shockproof.vocabulary.errors import CircuitOpenError
from shockproof.vocabulary.statuses import ServiceStatus

if TYPE_CHECKING:
    import re

    from shockproof.calls.confirm import Confirm, DetailedConfirm
    from shockproof.calls.once import KeyedOnce, Once
    from shockproof.calls.stream import Stream

__all__ = ["Handle"]

P = ParamSpec("P")
R = TypeVar("R")


class Handle:
    """
    Calls one service, as an awaited call, a decorator, or a block.

    Safe to share between tasks, threads and loops. Several handles on one name share the circuit,
    the health and the counts; retry, time limits and fallback are each handle's own.
    """

    __slots__ = ("plan",)

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @property
    def service_name(self) -> str:
        """The name of the service."""
        return self.plan.state.name

    @property
    def status(self) -> ServiceStatus:
        """How the service is doing now."""
        return self.plan.state.status_at(self.plan.runtime.clock.monotonic())

    @property
    def rate_limit(self) -> RateLimitFeedback:
        """The rate limit of the service, to be told what the other side counts."""
        return RateLimitFeedback(self.plan)

    @overload
    async def call(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @holds_timer
    async def call(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:  # Any: see the overloads
        """
        Call *fn* with the arguments, through all policies of this handle.

        A plain function runs in a thread of the service's own; an awaitable result is awaited.

        Raises:
            CircuitOpenError: the circuit is open, and no fallback answered.
            AttemptTimeoutError, DeadlineExceededError: it took too long.
            Exception: the last attempt's own error, unchanged; see `attempts_of`.

        The caller's cancellation passes at once and counts nowhere.
        """
        # The same healthy path as in wrap.py: a shared body would cost every call one more frame.
        plan = self.plan
        entrance = plan.entrance
        ticket = entrance.lane
        if ticket is None or fn is not plan.known:
            # One with a closure is not remembered: that would keep alive what it holds.
            is_coroutine = fn is plan.known or (
                fn.__code__.co_flags & CO_COROUTINE
                if type(fn) is FunctionType and fn.__closure__ is not None
                else plan.gets_to_know(fn)
            )
            if not is_coroutine:
                check_callable(fn)
            if ticket is None or not plan.is_simple or not is_coroutine:
                if plan.state.circuit.closed is None:
                    if plan.stand_in is not None:
                        stand_in = plan.substitute()
                        if stand_in is not None:
                            return await substitute(plan, stand_in, args, kwargs)
                    else:
                        left = plan.refuses()
                        if left is not None:
                            state = plan.state
                            last_error = state.circuit.last_error
                            raise new_refusal(
                                CircuitOpenError, state.name, "circuit_breaker", left, last_error
                            )
                        refusal = plan.refusal()
                        if refusal is not None:
                            try:
                                raise refusal
                            finally:
                                del refusal  # its traceback holds this frame: no cycle
                elif is_coroutine and plan.is_simple:
                    way = plan.short_way()
                    if way is not None:
                        return await in_place(plan, fn, args, kwargs, *way)
                return await execute(plan, fn, args, kwargs)
        coroutine = fn(*args, **kwargs) if kwargs else fn(*args)
        limit = plan.first_limit
        if limit is None:
            stopwatch = (
                plan.stopwatch
            )  # a name first: 3.11 is slow to call what stands in a slot like a method
            started = stopwatch()
            try:
                result = await coroutine
            except BaseException as error:
                failure = failure_of(plan, error, ticket, started, None)
                if failure is None:
                    raise
            else:
                entrance.successes += 1
                if entrance.stirred:
                    plan.state.settle(ticket, plan.runtime.clock.monotonic(), stopwatch() - started)
                return result
        else:  # what `TimeLimit.start` and `Timer.stop` do, without their frames
            try:
                queue = limit.queues[HERE()]
                task = CURRENT_TASK(queue.loop)
            except KeyError:
                queue, task = limit.attach()
            if task is None:
                raise no_task()
            clock = queue.clock
            cancels, started = task.cancelling(), clock()
            queue.waiting[coroutine] = (task, started)
            try:
                result = await coroutine
            except BaseException as error:
                timer = take_over((queue, task, cancels), started, coroutine)
                failure = failure_of(plan, error, ticket, started, timer)
                if failure is None:
                    raise
            else:
                if queue.waiting.pop(coroutine, None) is None:  # it answered although it was cancelled
                    take_over((queue, task, cancels), started, coroutine).stop()
                entrance.successes += 1
                if entrance.stirred:
                    plan.state.settle(ticket, plan.runtime.clock.monotonic(), clock() - started)
                return result
        try:
            return await execute(plan, fn, args, kwargs, failure)
        finally:
            failure = None  # the traceback holds this frame: no cycle

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __call__(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        **options: object,
    ) -> Callable[..., Coroutine[Any, Any, Any]]:  # Any: see the overloads
        """
        Decorate *fn*: its signature, name and docstring stay; a plain function becomes a coroutine function.

        Raises:
            TypeError: *fn* cannot be guarded: a coroutine object, a generator, a classmethod object; or there is none.
            ValueError: *fn* was decorated as unsafe, and this handle would repeat it all the same.
        """
        if fn is None or options:
            raise TypeError(
                "a handle decorates without parentheses: @market; with options for this function alone it is "
                f"@market.using({', '.join(f'{name}={value!r}' for name, value in options.items()) or 'timeout=2.0'})"
            )
        layer = self.plan.layer
        check_layers(fn, layer)
        wrapped = wrap(self.plan, fn)
        add_layer(wrapped, fn, layer)
        return wrapped

    def using(self, **options: Unpack[HandleOptions]) -> Handle:
        """
        A handle on the same service with other options; what is not named stays as it is here.

        Raises:
            TypeError, ValueError: an unknown option, or a value that is not allowed.
        """
        checked, _ = check_options(options, handle_only=True)
        merged = {**self.plan.options, **checked}
        plan = Plan(merged)
        warn_of_useless(checked, {**merged, **self.plan.state.set_by_hand})
        if not {"hedge_after", "max_hedges"} & checked.keys():
            plan.hedge = self.plan.hedge  # with the latencies it has learnt
        return Handle(plan.bind(self.plan.runtime, self.plan.state))

    def configure(self, **changes: Unpack[LimitOptions]) -> None:
        """
        Change limits of the service while it runs: for all its handles, at once.

        What is in flight or waits beyond a lower limit drains; a higher one wakes those who wait. What was
        sent counts in the new rates. A wait that has begun keeps its ``max_wait``. Where the service is
        declared with its first values again, the change stays.

        Args:
            **changes: ``max_concurrent``, ``max_queue``, ``max_wait``, ``rate_limit``, as for a service.

        Raises:
            TypeError, ValueError: an unknown option, a value that is not allowed, or rates under which a
                handle in use could never be sent.
        """
        unknown = [name for name in changes if name not in LIMIT_OPTIONS]
        if unknown:
            raise TypeError(f"configure takes {', '.join(LIMIT_OPTIONS)}, not {unknown[0]!r}")
        _, checked = check_options(changes)
        self.plan.runtime.change_limits(self.plan.state, checked)

    def guard(self) -> Guard:
        """
        A block under the breaker, the time limits, the health and the error log; nothing is repeated, and no fallback answers.

        ``async with handle.guard(): ...``; each entry needs a fresh ``guard()``.
        """
        return Guard(self.plan)

    def attempts(self) -> Attempts:
        """
        A block that is repeated: ``async for attempt in handle.attempts(): async with attempt: ...``.

        Everything but the fallback applies.
        """
        return Attempts(self.plan)

    @overload
    def stream(
        self,
        connect: Callable[[], AbstractAsyncContextManager[AsyncIterable[R]]],
        /,
        *,
        stale_after: Seconds | None = ...,
        stable_after: Seconds = ...,
        may_end: bool = ...,
    ) -> Stream[R]: ...
    @overload
    def stream(
        self,
        connect: Callable[[], Awaitable[AbstractAsyncContextManager[AsyncIterable[R]]]],
        /,
        *,
        stale_after: Seconds | None = ...,
        stable_after: Seconds = ...,
        may_end: bool = ...,
    ) -> Stream[R]: ...
    @overload
    def stream(
        self,
        connect: Callable[[], Awaitable[AsyncIterable[R]]],
        /,
        *,
        stale_after: Seconds | None = ...,
        stable_after: Seconds = ...,
        may_end: bool = ...,
    ) -> Stream[R]: ...
    @overload
    def stream(
        self,
        connect: Callable[[], AsyncIterable[R]],
        /,
        *,
        stale_after: Seconds | None = ...,
        stable_after: Seconds = ...,
        may_end: bool = ...,
    ) -> Stream[R]: ...
    def stream(
        self,
        connect: Callable[[], Any],  # Any: see the overloads
        /,
        *,
        stale_after: Seconds | None = None,
        stable_after: Seconds = 5.0,
        may_end: bool = False,
    ) -> Stream[Any]:
        """
        The items of a feed that is opened again when it is lost: ``async for tick in handle.stream(connect): ...``.

        Opened when the first item is asked for. When it fails, ends or falls silent it is closed, and opened
        again after a backoff, for ever unless this handle was given ``max_retries``: then after that many in a
        row its own error is raised. Nothing is repeated and nothing is buffered: what was missed is a gap,
        which is an event and, with the first item after it, `Stream.gap`. An open circuit, a limit without
        room or an empty retry budget are waited for. ``timeout`` is for the time up to the first item,
        ``deadline`` for the longest time without a connection. Everything else applies but hedge and fallback.

        Args:
            connect: opens the feed; called on the loop, without arguments, once for each connection. It gives
                an async iterator (an async generator function is one that does), an async context manager of
                one, or an awaitable of either.
            stale_after: seconds of waiting for an item after which the feed is lost, more than 0. Default:
                None, it may be silent for ever.
            stable_after: seconds a connection must last for its loss to be the first in a row again, at
                least 0. Default: 5.0.
            may_end: whether an end of the source ends the stream. Default: False, it is a failure.

        Raises:
            TypeError, ValueError: at once, for an argument that is not allowed, or a handle with
                ``effect="unsafe"``. While it is read: whatever is not opened again, its own error.

        A cancellation passes at once, closes the connection and counts nowhere. A loop that is left closes it
        soon after; ``async with handle.stream(...) as ticks:`` closes it before the block is left.
        """
        from shockproof.calls.stream import Stream

        return Stream(self.plan, connect, stale_after=stale_after, stable_after=stable_after, may_end=may_end)

    @overload
    def once(
        self,
        key: str | None = None,
        *,
        confirm: Confirm[R],
        details: Mapping[str, object] | None = None,
        key_argument: None = None,
        key_pattern: str | re.Pattern[str] | None = None,
        settle: Seconds = 30.0,
        valid_until: datetime | None = None,
        still_wanted: Callable[[], bool] | None = None,
        compare_arguments: bool | Collection[str] = True,
    ) -> Once[R]: ...
    @overload
    def once(
        self,
        key: str | None = None,
        *,
        confirm: Confirm[R],
        details: Mapping[str, object] | None = None,
        key_argument: str,
        key_pattern: str | re.Pattern[str] | None = None,
        settle: Seconds = 30.0,
        valid_until: datetime | None = None,
        still_wanted: Callable[[], bool] | None = None,
        compare_arguments: bool | Collection[str] = True,
    ) -> KeyedOnce[R]: ...
    @overload
    def once(
        self,
        key: str | None = None,
        *,
        confirm: DetailedConfirm[R],
        details: Mapping[str, object] | None = None,
        key_argument: None = None,
        key_pattern: str | re.Pattern[str] | None = None,
        settle: Seconds = 30.0,
        valid_until: datetime | None = None,
        still_wanted: Callable[[], bool] | None = None,
        compare_arguments: bool | Collection[str] = True,
    ) -> Once[R]: ...
    @overload
    def once(
        self,
        key: str | None = None,
        *,
        confirm: DetailedConfirm[R],
        details: Mapping[str, object] | None = None,
        key_argument: str,
        key_pattern: str | re.Pattern[str] | None = None,
        settle: Seconds = 30.0,
        valid_until: datetime | None = None,
        still_wanted: Callable[[], bool] | None = None,
        compare_arguments: bool | Collection[str] = True,
    ) -> KeyedOnce[R]: ...
    def once(
        self,
        key: str | None = None,
        *,
        confirm: Confirm[R] | DetailedConfirm[R],
        details: Mapping[str, object] | None = None,
        key_argument: str | None = None,
        key_pattern: str | re.Pattern[str] | None = None,
        settle: Seconds = 30.0,
        valid_until: datetime | None = None,
        still_wanted: Callable[[], bool] | None = None,
        compare_arguments: bool | Collection[str] = True,
    ) -> Once[R]:
        """
        One order, which is never blindly sent twice: ``await handle.once(confirm=find_order).call(submit, ...)``.

        Args:
            key: its id at the venue, where you make your own. Default: 18 random lower-case letters and digits, made
                here and now.
            confirm: ``async (key) -> Found(value) | NOT_FOUND | UNKNOWN``; looks it up at the venue. It may say of this order
                that it is not there, and of other orders only what it finds. Given alone, or with ``settle``, to an `Once` that is neither
                called nor asked for its key, it is good for all orders of the service (`ErrorRecoveryService.reconcile`). With
                ``key_argument`` that may be an order in the making: it is good for those keys that no other was given for, unless another
                such one is given. With any other argument it is one, and with a partial or a lambda. An exception counts as UNKNOWN. Guard it with a handle of another service, so that an open circuit does not close its eyes.
                With a second parameter, ``async (key, details)``, it also gets what the order was journalled with; one that has a
                default counts only if it is called ``details``.
            details: what the order is journalled with, to look it up by in this life and later ones: ``{"symbol": "AAPL"}``. Copied
                now. Secrets by their name are encrypted, or come back as `Redacted`. Default: nothing, and ``confirm`` gets an empty dict.
            key_argument: the name under which the function takes the key, for example ``"client_order_id"``; type checkers
                then do not know the other arguments. Default: it is not passed, and you give ``once.key`` to the function;
                a call that cannot have it is refused, or warned about (`Once.call`).
            key_pattern: a regular expression that the whole key must match: the alphabet and the length that the venue
                allows, ``r"[0-9A-Za-z_-]{1,36}"`` for example; ``KEY_PATTERN`` of Binance's and Alpaca's adapters. A key that is made here
                is made so: at least 8 letters and digits, 9 letters or 12 digits, or a UUID. Default: not checked.
            settle: seconds that the venue may take to show an order that was sent. Journalled with it: whoever looks it up in a
                later life waits for as long at least. Default: 30.0.
            valid_until: checked before every attempt, as ``still_wanted`` is; afterwards it is not sent any more. A naive time is local time.
            still_wanted: a plain function, asked before every attempt, and once more where that has a thread or a task of its
                own: there. Where it gives False or raises, it is not sent any more.
            compare_arguments: what has to be the same where this key is known already; else `KeyReusedError`. True: each argument
                that is a plain value (a text, a number, a time, an enum), and what dicts, lists, frozen dataclasses and pydantic
                models hold of these. False: nothing. Names: these arguments, ``("symbol", "qty")`` for example. Default: True.

        Raises:
            TypeError, ValueError: a value that is not allowed; a handle with a fallback or a hedge, or without a journal.
        """
        from shockproof.calls.once import KeyedOnce, Once

        if key_argument is not None:
            return KeyedOnce(
                self.plan,
                key_argument,
                key=key,
                confirm=confirm,
                details=details,
                key_pattern=key_pattern,
                settle=settle,
                valid_until=valid_until,
                still_wanted=still_wanted,
                compare_arguments=compare_arguments,
            )
        return Once(
            self.plan,
            key=key,
            confirm=confirm,
            details=details,
            key_pattern=key_pattern,
            settle=settle,
            valid_until=valid_until,
            still_wanted=still_wanted,
            compare_arguments=compare_arguments,
        )

    def __repr__(self) -> str:
        shown = "".join(f", {name}={value!r}" for name, value in self.plan.options.items())
        return f"<Handle on {self.service_name!r}{shown}>"

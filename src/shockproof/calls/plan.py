"""
The policies of one handle, as the executor reads them.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from inspect import CO_COROUTINE
from time import monotonic
from types import FunctionType, MethodType
from typing import Any, Final, Self, get_args

from shockproof.calls.callables import has_coroutine_code, is_async, name_of
from shockproof.calls.combinations import Layer, refuse_harmful
from shockproof.calls.limits import Held, Limits
from shockproof.calls.orders_inside import OrderInside
from shockproof.calls.running_around import an_order_failed_around, an_order_runs
from shockproof.calls.runtime import Runtime
from shockproof.calls.stand_in import StandIn, chain_of
from shockproof.calls.threads import NotStartedError
from shockproof.calls.timer import time_limit
from shockproof.calls.tracing import CallTrace
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.adaptive_retry import AdaptiveRetry
from shockproof.policies.backoff import Backoff
from shockproof.policies.bulkhead import Places
from shockproof.policies.circuit_breaker import Circuit, Entrance, Ticket
from shockproof.policies.classification import Classifier, Classify, ResultCheck
from shockproof.policies.hedge import HedgeRule, hedge_budget
from shockproof.policies.priority import rank_of
from shockproof.policies.rate_limit import Weight
from shockproof.policies.retry_budget import RetryBudget
from shockproof.vocabulary.clock import SystemClock, other_times
from shockproof.vocabulary.errors import CallRejectedError, CircuitOpenError, HaltedError
from shockproof.vocabulary.event_loop import require_running_loop
from shockproof.vocabulary.outcomes import CallEffect

__all__ = ["OrderPlan", "Plan", "new_refusal"]

_NOBODY: Final = object()
_NO_OPTIONS: Final = dict[str, Any]()  # Any: each option has a type of its own
"""Nobody writes to them."""
new_refusal: Final = CircuitOpenError.__new__
"""Without its __init__, which only puts names to the arguments: that is a quarter of the price of a refusal."""

_PATIENCE: Final = 5.0
"""Seconds the first write of a life waits for the disk to say whether an earlier life was halted."""

# The service of a plan that does not know its own yet: its first call takes the long way and is told.
_UNKNOWN: Final = ServiceState("unknown", Circuit(threshold=None, timeout=0.0))


class _ByTheLongWay:
    """A circuit that gives no admission in passing: each call of the plan goes through the executor, also while all is well."""

    __slots__ = ()

    entrance: Final = Entrance()
    closed: Final = None


_BY_THE_LONG_WAY: Final = _ByTheLongWay()


def _classifier(effect: CallEffect, classify: Classify | None, unwanted: ResultCheck | None) -> Classifier:
    if classify is None and unwanted is None:
        return _BY_THE_RULES[effect]
    return Classifier(effect=effect, classify=classify, retry_if_result=unwanted)


_BY_THE_RULES: Final[dict[CallEffect, Classifier]] = {
    effect: Classifier(effect=effect, classify=None, retry_if_result=None) for effect in get_args(CallEffect)
}
"""They have no state: one for all."""


def _hedge_of(options: Mapping[str, Any]) -> HedgeRule | None:  # Any: each option has a type of its own
    hedge_after = options.get("hedge_after")
    if hedge_after is None:
        return None
    return HedgeRule(hedge_after=hedge_after, max_hedges=options.get("max_hedges", 1))


class _WhatEveryCallReads:
    # A class's slots lie in memory behind those of its base: among thousands of plans these are one or two lines of
    # the processor's cache, and all over the plan they would be five.
    __slots__ = ("entrance", "first_limit", "is_simple", "known", "state", "stopwatch")


class Plan(_WhatEveryCallReads):
    """
    The policies of one handle in the form the executor reads: plain attributes.

    Refreshed in place when the service is configured, so that functions decorated long ago follow.
    """

    __slots__ = (
        "__weakref__",
        "adaptive",
        "circuit",
        "classifier",
        "deadline",
        "fallbacks",
        "for_orders",
        "grace",
        "hedge",
        "is_bound",
        "is_for_the_executor",
        "is_haltable",
        "judges_results",
        "keeps_real_time",
        "limit",
        "memories",
        "options",
        "retry",
        "risk_reducing",
        "runtime",
        "stand_in",
        "timeout",
    )

    circuit: Circuit | _ByTheLongWay
    runtime: Runtime
    state: ServiceState
    stopwatch: Callable[[], float]
    keeps_real_time: bool
    is_fixed: bool = True
    """Whether its service stays the same once it is bound."""

    # What only the plan of an order has, see `OrderPlan`.
    before_attempt: Callable[[], Awaitable[None]] | None = None
    """Awaited behind all limits, before each attempt that the executor makes; what it raises ends the call."""
    own_order: OrderInside | None = None
    """What its attempts send."""
    whole_began: float | None = None
    """
    When the call began of which this is a part; None: it is all of it.

    What a part leaves unknown is not its end: whoever has the whole looks it up, and ends it.
    """
    whole_trace: CallTrace | None = None
    """The trace of the call of which this is a part, which ends it; None: it is all of it, or nobody traces."""

    def __init__(self, options: dict[str, Any]) -> None:  # Any: each option has a type of its own
        self.options = options or _NO_OPTIONS
        if options:
            refuse_harmful(options)
        self.fallbacks = chain_of(options.get("fallback"))
        self.memories = tuple(one.last_good for one in self.fallbacks if one.last_good is not None)
        """What has to be told of every answer."""
        self.timeout: float | None = options.get("timeout")
        self.deadline: float | None = options.get("deadline")
        self.grace: float | None = options.get("grace")
        self.limit = min((x for x in (self.timeout, self.deadline) if x is not None), default=None)
        """Seconds the first attempt may take."""
        self.first_limit = None if self.limit is None else time_limit(self.limit)
        effect = self.effect
        self.risk_reducing: bool = options.get("risk_reducing", False)
        self.is_for_the_executor = bool(self.fallbacks) or self.risk_reducing
        only = self.fallbacks[0] if len(self.fallbacks) == 1 else None
        is_read = effect == "read" and not self.risk_reducing
        self.stand_in = only if is_read and only is not None and only.answers_at_once else None
        """The fallback that can answer for an open circuit in passing; None where there is more to ask."""
        """Whether an open circuit is not the last word."""
        self.is_haltable = effect != "read" and not self.risk_reducing
        """Whether the kill switch refuses it."""
        self.classifier = _classifier(effect, options.get("classify"), options.get("retry_if_result"))
        self.judges_results = self.classifier.looks_at_results
        self.hedge = _hedge_of(options)
        self.is_simple = not (
            self.judges_results or self.memories or self.grace is not None or self.hedge is not None
        )
        """Whether the healthy path written out in wrap.py and handle.py is all there is to a success."""
        self.known: object = _NOBODY
        """The function last called through it, if that may take the healthy path: looking closer would take longer than all other tests."""
        self.adaptive: AdaptiveRetry | None = None
        self.for_orders: Plan | None = None
        """See `of_orders`."""
        self.state = _UNKNOWN
        self.unbind()

    def unbind(self) -> None:
        """Belong to nobody: the next call finds out. Calls in flight end where they began."""
        self.is_bound = False
        self.circuit = _UNKNOWN.circuit
        self.entrance = self.circuit.entrance

    def bind(self, runtime: Runtime, state: ServiceState) -> Self:
        """Belong to *runtime* from now on, as a way to call the service of *state*."""
        self.runtime = runtime
        self.state = state
        self.stopwatch = runtime.stopwatch
        self.keeps_real_time = type(runtime.clock) is SystemClock
        self.adaptive = state.adapt() if self.options.get("adaptive") else None
        self.circuit = state.circuit if self.adaptive is None else _BY_THE_LONG_WAY
        self.entrance = self.circuit.entrance
        self.is_bound = True
        if self.is_haltable:
            state.will_write()
        if state.limits is not None:
            state.limits.check_weight(self.weight)
        if self.hedge is not None and state.hedge_budget is None:
            state.hedge_budget = hedge_budget()
        runtime.plans.add(self)
        self.refresh()
        return self

    def of_orders(self) -> Plan:
        """
        The same for orders, whatever it declares: what is looked up by its key is never repeated blindly. Made once.

        Raises:
            ValueError: it would be hedged.
        """
        plan = self.for_orders
        if plan is None:
            plan = self if self.effect == "unsafe" else Plan({**self.options, "effect": "unsafe"})
            if plan is not self:
                plan.bind(self.runtime, self.state)
                self.for_orders = plan
        return plan

    def refresh(self) -> None:
        """Take over the defaults of the recovery service as they are now."""
        self.retry = self.runtime.rule(self.options)

    @property
    def backoff(self) -> Backoff:
        """How long it waits before a retry."""
        return self.retry.backoff

    @property
    def effect(self) -> CallEffect:
        """What its calls do."""
        effect: CallEffect = self.options.get("effect", "read")
        return effect

    @property
    def weight(self) -> Weight:
        """What one of its calls counts under a rate limit."""
        weight: Weight = self.options.get("weight", 1)
        return weight

    @property
    def rank(self) -> int:
        """How early its turn comes where calls wait; the lower, the earlier."""
        return rank_of(self.options.get("priority", "normal"), risk_reducing=self.risk_reducing)

    @property
    def layer(self) -> Layer:
        """What a decorator with this plan does with the calls of its function."""
        own = {"max_retries": self.retry.max_retries, "circuit_threshold": self.state.circuit.threshold}
        return Layer(self.state.name, self.state, {**self.state.set_by_hand, **self.options, **own})

    @property
    def halt_reason(self) -> str | None:
        """Why the kill switch refuses its calls now, or that another process is to make them; None when nothing does."""
        if not self.is_haltable or self.state.halt is None:
            return None
        return self.state.halt.reason

    @property
    def has_to_learn_of_halt(self) -> bool:
        """Whether `learn_of_halt` has anything to wait for."""
        halt = self.state.halt
        return halt is not None and not halt.is_known and self.is_haltable

    async def learn_of_halt(self) -> None:
        """
        Before a write goes out: know whether an earlier life left everything halted.

        Raises:
            HaltedError: the disk does not say in time.
        """
        halt = self.state.halt
        if halt is None or not self.has_to_learn_of_halt:
            return
        reason = "the disk has not told in time whether it was"
        try:
            async with asyncio.timeout(min(_PATIENCE, self.deadline or _PATIENCE)):
                await halt.learn()
        except TimeoutError:
            raise self.halted(reason) from None
        except RuntimeError as error:
            raise self.halted(f"the disk could not be asked whether it was ({error})") from error

    def _halted_meanwhile(self) -> HaltedError | None:
        """The error of a write that has a thread at last, when it was halted before that."""
        reason = self.halt_reason
        return None if reason is None else HaltedError(self.state.name, reason=reason)

    def halted(self, reason: str) -> HaltedError:
        """Count and tell that the kill switch refuses a call, and give the error that says so."""
        refusal = HaltedError(self.state.name, reason=reason)
        self.rejected(refusal)
        return refusal

    def is_part_of_an_order(self, began: float) -> bool:
        """
        Whether what began then is called inside an order, and may be what sends it: then only the order's `once` may repeat it.

        Not what is declared to do no harm twice, nor an order of its own, which sees to itself.
        """
        return (
            ("effect" not in self.options or self.effect == "unsafe")
            and self.before_attempt is None
            and (an_order_runs() or an_order_failed_around(began))
        )

    def is_answered_for(self, came_at: float | None = None) -> bool:
        """Whether its fallbacks may answer: inside an order, or what came in one, only for what is declared to be read."""
        return self.options.get("effect") == "read" or not (
            an_order_runs() or (came_at is not None and an_order_failed_around(came_at))
        )

    @property
    def is_waited_for(self) -> bool:
        """Whether an attempt may have to wait before it is sent: for a limit, or for its turn to send."""
        return self.state.limits is not None or self.adaptive is not None

    @property
    def retry_budget(self) -> RetryBudget | None:
        """What pays for its retries and hedges; None: nothing has to."""
        return self.state.retry_budget if self.adaptive is None else self.state.paying_budget

    @property
    def needs_preparing(self) -> bool:
        """Whether no call of the service was seen on the current loop, or it does not know its service."""
        return not (self.is_bound and self.state.prepared)

    def prepare(self) -> None:
        """
        The first call on a loop: make sure that it is asyncio's, and start what runs beside calls.

        Raises:
            RuntimeError: no asyncio event loop is running here.
        """
        require_running_loop()
        state = self.state  # another thread may bind this plan anew at any moment
        self.runtime.on_first_call()
        state.prepare(is_prepared=True)
        # Last: whoever retires it meanwhile closes the short way after that.
        self.runtime.registry.readmit(state)

    def gets_to_know(self, fn: Callable[..., Any]) -> bool:  # Any: any signature
        """Whether *fn* is, at a glance, a coroutine function or a method of one; remembered unless it has a closure."""
        function: object = fn.__func__ if isinstance(fn, MethodType) else fn
        if function is self.known:
            return True
        if type(function) is not FunctionType:
            return has_coroutine_code(fn)
        if not function.__code__.co_flags & CO_COROUTINE:
            return False
        if self.is_simple and function.__closure__ is None:
            self.known = function
        return True

    def now(self) -> float:
        """The clock's monotonic reading, the cheapest way; for calls during which it was read before."""
        if self.keeps_real_time and not other_times.exist:
            return monotonic()
        return self.runtime.clock.monotonic()

    def short_way(self) -> tuple[Ticket, Places] | None:
        """
        Of a service with limits: its closed circuit's ticket and a place, taken, if there is no more to ask.

        None sends the attempt the long way, where the same is asked again and waited for.
        """
        limits: Limits | None = self.state.limits
        ticket, places = self.circuit.closed, None if limits is None else limits.lane
        if ticket is None or places is None:
            return None
        try:
            places.free.pop()
        except IndexError:
            return None
        return ticket, places

    def refuses(self) -> float | None:
        """
        Seconds for which an open circuit goes on to refuse a call, which is counted; None when there is more to ask.

        Whoever asks makes the error where it is raised. Nothing else may hold it: its traceback holds the frame, and
        letting go of a name again takes longer than asking.
        """
        state = self.state
        if self.is_for_the_executor or not state.prepared:
            return None
        circuit = state.circuit
        since = circuit.plain_since
        if since is None or self.runtime.listeners.active:
            return None
        if self.keeps_real_time and not other_times.exist:  # what `now` does, without its frame
            retry_after = since + circuit.timeout - monotonic()
        else:
            retry_after = since + circuit.timeout - self.runtime.clock.monotonic()
        if retry_after <= 0.0:
            return None
        state.rejections += 1
        return retry_after

    def refusal(self) -> CircuitOpenError | None:
        """
        After `refuses`: the error of a call that is refused all the same, counted and told; None when it may go on.

        A call that has somebody to answer for it, or that reduces risk, is for the executor.
        """
        state = self.state
        if self.is_for_the_executor or not state.prepared or state.tracer is not None:
            return None  # with a tracer the executor refuses it, with a trace
        wait = state.circuit.open_for(self.runtime.clock.monotonic())
        return self.refused(wait) if wait else None

    def substitute(self) -> StandIn | None:
        """The fallback that answers in place of an open circuit, the refusal counted; None when there is more to ask."""
        state, stand_in = self.state, self.stand_in
        since = state.circuit.plain_since
        if stand_in is None or since is None or not state.prepared or self.runtime.listeners.active:
            return None
        if an_order_runs() and not self.is_answered_for():  # the first alone in nearly all calls
            return None
        if self.keeps_real_time and not other_times.exist:  # as above
            now = monotonic()
        else:
            now = self.runtime.clock.monotonic()
        if since + state.circuit.timeout <= now:
            return None
        state.rejections += 1
        return stand_in

    def refused(self, retry_after: float) -> CircuitOpenError:
        """Count and tell that the circuit refuses a call, and give the error that says so."""
        state = self.state
        if retry_after == math.inf:
            refusal = CircuitOpenError(state.name, forced=state.circuit.mode_reason or "")
        else:
            refusal = CircuitOpenError(state.name, "circuit_breaker", retry_after, state.circuit.last_error)
        if self.runtime.listeners.active:
            self.rejected(refusal)
        else:
            state.rejections += 1
        return refusal

    def rejected(self, refusal: CallRejectedError) -> None:
        """Count and tell that a call was refused."""
        self.state.rejections += 1
        if refusal.policy != "circuit_breaker":
            self.state.refused(refusal.policy)
        if self.runtime.listeners.active:
            from shockproof.vocabulary.events import CallRejected

            self.runtime.listeners.publish(
                CallRejected(
                    service_name=self.state.name,
                    at=self.runtime.clock.time(),
                    policy=refusal.policy,
                    retry_after=refusal.retry_after,
                )
            )

    def remember(
        self,
        fn: Callable[..., Any],  # Any: the user's function
        args: tuple[Any, ...],  # Any: its arguments
        kwargs: dict[str, Any],  # Any: its arguments
        result: object,
    ) -> None:
        """The service answered a call: the fallbacks that give out what was last good are told."""
        from shockproof.policies.fallback import Stale  # loaded with the stand-in

        if isinstance(result, Stale):  # of a service inside this one: it would come out as a fresh one
            return
        clock = self.runtime.clock
        for memory in self.memories:
            key = memory.answers.key_of(self.state.name, fn, args, kwargs)
            if key is not None:
                memory.answers.remember(key, result, now=clock.monotonic(), wall=clock.time())

    async def start(
        self,
        fn: Callable[..., Any],  # Any: the function's own arguments and result
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        held: Held | None,
    ) -> Any:
        """Run a plain *fn* in a thread of the service's own; what it returns is awaited if it can be."""
        result = await self.runtime.threads(self.state).run(
            fn, args, kwargs, held, refusal=self._halted_meanwhile
        )
        if inspect.isawaitable(result):
            return await result
        if inspect.isasyncgen(result) or inspect.isgenerator(result):
            raise NotStartedError(
                TypeError(
                    f"{name_of(fn)} returned a generator: it would run unguarded. "
                    "Return a finished result, or put the loop into attempts()"
                )
            )
        return result

    def awaitable(
        self,
        fn: Callable[..., Any],  # Any: the function's own arguments and result
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        held: Held | None = None,
    ) -> Any:
        """
        Something to await that runs *fn* once; wrong arguments of a coroutine function raise here.

        A thread that is left behind keeps what is *held* until it ends.
        """
        return fn(*args, **kwargs) if is_async(fn) else self.start(fn, args, kwargs, held)


class OrderPlan(Plan):
    """
    The plan of one order: its attempts ask before they send, and are parts of a call that looks up what came of them.

    Args:
        like: all of it but for what follows.
        classifier: what judges its attempts.
        before_attempt, own_order, whole_began, whole_trace: see `Plan`.
    """

    __slots__ = ("before_attempt", "own_order", "whole_began", "whole_trace")

    def __init__(
        self,
        like: Plan,
        *,
        classifier: Classifier,
        before_attempt: Callable[[], Awaitable[None]],
        own_order: OrderInside,
        whole_began: float,
        whole_trace: CallTrace | None,
    ) -> None:
        # To work all of it out anew would take several times as long, for each order.
        for name in _SAME_FOR_ORDERS:
            setattr(self, name, getattr(like, name))
        self.classifier = classifier
        self.is_simple = False  # the short way asks nobody before it sends
        self.for_orders = None
        self.before_attempt = before_attempt
        self.own_order = own_order
        self.whole_began = whole_began
        self.whole_trace = whole_trace
        self.runtime.plans.add(self)


_SAME_FOR_ORDERS: Final = tuple(
    name
    for name in (*_WhatEveryCallReads.__slots__, *Plan.__slots__)
    if name not in {"__weakref__", "classifier", "for_orders", "is_simple"}
)

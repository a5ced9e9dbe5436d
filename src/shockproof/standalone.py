"""
The policies one at a time, without a recovery service: nothing is recorded and nothing is written.

Each is a handle with everything else switched off, so that there is one implementation of each idea.
They decorate, have an awaitable `call`, and nest freely.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Never, Self, Unpack
from weakref import WeakKeyDictionary, ref

from shockproof.calls.blocks import Guard
from shockproof.calls.combinations import warn_of_useless
from shockproof.calls.handle import Handle
from shockproof.calls.options import ServiceOptions, calling_place, check_options
from shockproof.calls.plan import Plan
from shockproof.calls.runtime import Runtime
from shockproof.memory.error_log.recorder import NoRecorder
from shockproof.memory.services.listeners import Listeners
from shockproof.memory.services.registry import CIRCUIT_OPTIONS, Registry
from shockproof.policies.backoff import Randomness, checked_randomness
from shockproof.policies.circuit_breaker import CircuitState
from shockproof.settings import DEFAULTS
from shockproof.vocabulary.arguments import a_name, one_of, out_of
from shockproof.vocabulary.clock import Clock, as_clock
from shockproof.vocabulary.statuses import CIRCUIT_MODES, CircuitMode

__all__ = ["Bulkhead", "CircuitBreaker", "Fallback", "Hedge", "RateLimit", "Retry", "Timeout"]

_MEANING = ("classify", "effect")


class _Alone(Handle):
    _takes: ClassVar[tuple[str, ...]]
    _needs: ClassVar[str | None] = None
    _defaults: ClassVar[dict[str, object]] = {"circuit_threshold": None}

    def __init__(
        self,
        *unnamed: Never,
        name: str | None = None,
        clock: Clock | Callable[[], float] | None = None,
        rng: Randomness | None = None,
        **options: Unpack[ServiceOptions],
    ) -> None:
        kind = type(self).__name__
        if unnamed:
            first = f"{kind}({self._needs or self._takes[0]}=...)"
            raise TypeError(
                f"{kind} takes its options by name: {first}, or @{first} above a function; got {unnamed[0]!r}"
            )
        for option in options:
            if option not in self._takes:
                raise TypeError(f"{kind} knows no {option!r}; {out_of(option, self._takes)}")
        if self._needs is not None and self._needs not in options:
            raise TypeError(f"{kind} needs {self._needs}=..., else it would do nothing")
        handle_options, service_options = check_options(options)
        defaults = {**DEFAULTS, "jitter": "none", **self._defaults}
        threshold: Any = defaults["circuit_threshold"]  # Any: the defaults hold all types
        timeout: Any = defaults["circuit_timeout"]  # Any: as above
        randomness = random.Random() if rng is None else checked_randomness(rng)  # noqa: S311 - jitter is no secret
        registry = Registry(
            circuit_threshold=threshold,
            circuit_timeout=timeout,
            on_transition=lambda state, to, now: None,
            rng=randomness,
        )
        runtime = Runtime(
            clock=as_clock(clock),
            rng=randomness,
            registry=registry,
            recorder=NoRecorder(),
            listeners=Listeners(),
            defaults=defaults,
            redact=lambda text: text,
            max_threads=16,
            on_first_call=lambda: None,
        )
        shown = a_name("name", kind.lower() if name is None else name)
        state = runtime.declare(shown, service_options, calling_place())
        once = {} if "max_retries" in self._takes else {"max_retries": 0}
        super().__init__(Plan({**once, **handle_options}).bind(runtime, state))
        warn_of_useless(options, {**handle_options, **service_options})


class _AsBlock(_Alone):
    """A policy that is a block by itself: ``async with policy: ...``, in any number of tasks at once."""

    def __init__(
        self,
        *unnamed: Never,
        name: str | None = None,
        clock: Clock | Callable[[], float] | None = None,
        rng: Randomness | None = None,
        **options: Unpack[ServiceOptions],
    ) -> None:
        super().__init__(*unnamed, name=name, clock=clock, rng=rng, **options)
        # Any: whatever the task returns. Tasks weakly: those of a loop that was dropped must be collected.
        self._entered: dict[Guard, ref[asyncio.Task[Any]]] = {}
        # Any: as above
        self._inside: WeakKeyDictionary[asyncio.Task[Any], list[Guard]] = WeakKeyDictionary()
        # Reentrant: a garbage collection inside it may collect the task of a dropped loop, and leave its block.
        self._lock = threading.RLock()

    async def __aenter__(self) -> Self:
        guard = await self.guard().__aenter__()
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            self._entered[guard] = ref(task)
            self._inside.setdefault(task, []).append(guard)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._left().__aexit__(kind, error, trace)

    def _left(self) -> Guard:
        """The block that is left here: the innermost of this task, else one that another task has entered."""
        try:
            task = asyncio.current_task()
        except RuntimeError:  # the task of a loop that was dropped is collected, and so left
            task = None
        with self._lock:
            while True:
                own = None if task is None else self._inside.get(task)
                guard = own.pop() if own else self._of_another_task()
                owner = self._entered.pop(guard, None)
                if owner is not None:  # else it was left while it was looked for: see the lock
                    break
            others = self._inside.get(one) if (one := owner()) is not None else None
            if others and guard in others:
                others.remove(guard)
        return guard

    def _of_another_task(self) -> Guard:
        entered = self._entered.copy()  # in one step: see the lock
        owners = {guard: task() for guard, task in entered.items()}
        for guard, owner in owners.items():
            # Those of tasks that have ended are alike: each gives back what it took, and ends nobody.
            if owner is None or owner.done():
                return guard
        if len({id(owner) for owner in owners.values()}) == 1:
            return next(reversed(owners))
        raise RuntimeError(
            "this block was entered in another task, and which one is not known: "
            "use `async with policy.guard():`, which is a block of its own"
        )


class Retry(_Alone):
    """
    Repeats a failed call, with growing waits between.

    Args:
        max_retries: retries after the first call. Default 3.
        base_delay, max_delay, backoff_factor, jitter: the waits. Defaults 1.0 s, 60.0 s, 2.0, "none".
        backoff: how they grow. Default "exponential".
        retry_on: which errors are repeated. Default: every ``Exception``.
        retry_if_result: a result for which this is true is repeated too.
        adaptive: whether retries follow the kind of error, and throttling answers slow the sending down.
            Default False.
        deadline: seconds for all attempts and waits. Default: no limit.
        retry_budget: what pays for retries. Default: none is needed.
        classify, effect: what an error means, as for a service.
        name: what messages call it. Default "retry".
        clock, rng: where time and jitter come from.
    """

    _takes = (
        "max_retries",
        "base_delay",
        "max_delay",
        "backoff_factor",
        "backoff",
        "jitter",
        "retry_on",
        "retry_if_result",
        "adaptive",
        "deadline",
        "retry_budget",
        *_MEANING,
    )


class CircuitBreaker(_AsBlock):
    """
    Refuses calls to what keeps failing, and lets probes find out when it is well again.

    Args:
        circuit_threshold: failures in a row that open it; None: only the rates do. Default 5.
        circuit_timeout: seconds it stays open. Default 60.0.
        circuit_timeout_factor, max_circuit_timeout, circuit_jitter: how that grows with each opening in
            a row, and is spread. Defaults 1.0, 600.0 s, 0.0.
        failure_rate, window, window_calls, min_calls, slow_call_after, slow_call_rate: rates that open
            it too.
        max_call_age: seconds in flight after which a call counts as a failure before it ends.
        half_open_probes, probe_lease: how it closes again. Defaults 1, `circuit_timeout`.
        circuit_mode: ``"normal"``, ``"forced-open"``, ``"disabled"`` or ``"shadow"``.
        risk_reducing: calls pass an open circuit.
        classify, effect: what an error means, as for a service.
        name: what messages call it. Default "circuitbreaker".
        clock, rng: where time and jitter come from.
    """

    _takes = (*CIRCUIT_OPTIONS, "risk_reducing", *_MEANING)
    _defaults: ClassVar[dict[str, object]] = {}

    @property
    def state(self) -> CircuitState:
        """``"closed"``, ``"open"`` or ``"half-open"``, as it is now."""
        return self.plan.state.circuit.state(self.plan.runtime.clock.monotonic())

    def reset(self) -> None:
        """Close it and forget what was counted; one that is forced open stays so."""
        self.plan.state.reset(self.plan.runtime.clock.monotonic())

    @property
    def mode(self) -> CircuitMode:
        """``"normal"``, ``"forced-open"``, ``"disabled"`` or ``"shadow"``."""
        return self.plan.state.circuit.mode

    def set_mode(self, mode: CircuitMode, reason: str | None = None) -> None:
        """
        Hold it open, switch it off, make it watch only, or let it work: see `set_circuit_mode`.

        Raises:
            ValueError: there is no such mode.
        """
        self.plan.state.set_circuit_mode(one_of("mode", mode, CIRCUIT_MODES), reason)


class Timeout(_AsBlock):
    """
    Ends a call that takes too long with `AttemptTimeoutError`, which is a ``TimeoutError``.

    Args:
        timeout: seconds the call may take; needed.
        grace: seconds a cancelled callee may take to end before it is left behind. Default: it is
            waited for.
        name: what messages call it. Default "timeout".
        clock: where time comes from; the limit itself is a timer of the loop.
    """

    _takes = ("timeout", "grace", *_MEANING)
    _needs = "timeout"


class Fallback(_Alone):
    """
    Answers in place of a call that failed.

    Args:
        fallback: a function, which gets the call's arguments if it can bind them; a value; an `OnError`
            for some errors only; a `LastGood` for the last answer; or a list that makes a chain. Needed.
        classify, effect: what an error means, as for a service.
        name: what messages call it. Default "fallback".
    """

    _takes = ("fallback", *_MEANING)
    _needs = "fallback"


class Bulkhead(_AsBlock):
    """
    Lets only so many calls in at once; the others wait in a bounded queue, or are refused.

    Args:
        max_concurrent: most calls in flight, at least 1, or an `AdaptiveConcurrency`; needed.
        max_queue: most calls that wait for a place. Default 0: nobody waits.
        max_wait: seconds a call may wait. Default: no limit.
        risk_reducing: calls go first in the queue, and always find room in it.
        priority: whose turn comes first, ``"high"``, ``"normal"`` or ``"low"``; mostly given with
            `using`. Default "normal".
        name: what messages call it. Default "bulkhead".
        clock: where time comes from.
    """

    _takes = ("max_concurrent", "max_queue", "max_wait", "risk_reducing", "priority", *_MEANING)
    _needs = "max_concurrent"


class RateLimit(_AsBlock):
    """
    Sends no more than a rate allows, in any stretch of time; the others wait their turn.

    Args:
        rate_limit: ``"10/s"``, or several at once: ``("10 orders/s", "1200 weight/min")``; needed.
        max_wait: seconds a call may wait. Default: no limit.
        weight: what one call counts. Default 1.
        risk_reducing: calls go first in the queue.
        priority: as for a `Bulkhead`. Default "normal".
        name: what messages call it. Default "ratelimit".
        clock: where time comes from.
    """

    _takes = ("rate_limit", "max_wait", "weight", "risk_reducing", "priority", *_MEANING)
    _needs = "rate_limit"


class Hedge(_Alone):
    """
    Makes a call a second time when it takes long; the first answer wins, the other call is cancelled.

    Only for what may be done twice: with ``effect="unsafe"`` it is refused.

    Args:
        hedge_after: seconds without an answer, or ``"p95"`` of its own latencies; needed.
        max_hedges: how many such calls beside the first. Default 1.
        classify, effect: what an error means, as for a service.
        name: what messages call it. Default "hedge".
        clock: where time comes from; the wait itself is a timer of the loop.
    """

    _takes = ("hedge_after", "max_hedges", *_MEANING)
    _needs = "hedge_after"

"""
What all calls of one recovery service share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shockproof.calls.call_ages import CallAges
from shockproof.calls.limits import Limits
from shockproof.calls.losers import Losers
from shockproof.calls.members import Members
from shockproof.calls.threads import WorkerThreads
from shockproof.memory.error_log.recorder import Recording
from shockproof.memory.services.listeners import Listeners
from shockproof.memory.services.registry import LIMIT_OPTIONS, Registry
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.backoff import Backoff, Randomness
from shockproof.policies.rate_limit import RollingWindows
from shockproof.policies.retry import RetryRule
from shockproof.vocabulary.clock import Clock, SystemClock
from shockproof.vocabulary.outcomes import CallInfo

if TYPE_CHECKING:
    from shockproof.calls.reconciliation import Reconciliation
    from shockproof.calls.ways import WaysOfServices
    from shockproof.memory.services.kept_sends import KeptSends

__all__ = ["Runtime", "SentOnce"]

_IN_RULE: Final = frozenset(
    (
        "base_delay",
        "max_delay",
        "backoff_factor",
        "jitter",
        "backoff",
        "max_retries",
        "retry_on",
        "hedge_after",
    )
)
"""The options of a handle that its rule is made of."""


class SentOnce(NamedTuple):
    """What is sent once, of one recovery service; each part is made when it is first asked for."""

    ways: Callable[[], WaysOfServices]
    """How orders are looked up."""
    reconciliation: Callable[[], Reconciliation]
    """What the journal knows of them."""
    loaded: Callable[[], Awaitable[None]]
    """Returns when the journal can be asked for without an import on the loop."""
    times_taken_over: Callable[[], int]
    """How often its journal has taken over from another owner's; 0 as long as nobody has asked for it."""


class Runtime:
    """Clock, randomness, registry and recorder, and the defaults a handle falls back to."""

    __slots__ = (
        "__weakref__",
        "_lock",
        "_threads",
        "_usual_rule",
        "clock",
        "defaults",
        "kept_sends",
        "listeners",
        "losers",
        "max_threads",
        "nobody_asks",
        "on_first_call",
        "plans",
        "recorder",
        "redact",
        "registry",
        "rng",
        "sent_once",
    )

    def __init__(
        self,
        *,
        clock: Clock,
        rng: Randomness,
        registry: Registry,
        recorder: Recording,
        listeners: Listeners,
        defaults: dict[str, Any],  # Any: each option has a type of its own
        redact: Callable[[str], str],
        max_threads: int,
        on_first_call: Callable[[], None],
        sent_once: SentOnce | None = None,
    ) -> None:
        self.clock = clock
        self.nobody_asks = CallInfo("", "", 1, "read", clock)
        """Where only the rules judge, which look at no call: to make one for each failure would cost more than the rest."""
        self.rng = rng
        self.registry = registry
        self.recorder = recorder
        self.listeners = listeners
        self.defaults = defaults
        self.redact = redact
        """Takes secrets out of the texts of errors that are shown: refusals, attempts, events."""
        self.max_threads = max_threads
        self.on_first_call = on_first_call
        """Called on a loop before the first call of each handle there."""
        self.sent_once = sent_once
        """None where there is no journal."""
        self.kept_sends: KeptSends | None = None
        """Told of each service that gets a rate limit; None: what is sent is not kept for the next life."""
        self.plans = Members[Any]()  # Any: Plan, which imports this module
        """Every plan that is bound to it."""
        self.losers = Losers()
        """Hedged requests that were cancelled and have not ended."""
        self._usual_rule: RetryRule | None = None
        self._threads: dict[str, WorkerThreads] = {}
        self._lock = threading.Lock()

    @property
    def stopwatch(self) -> Callable[[], float]:
        """The cheapest clock that durations can be taken with."""
        return time.monotonic if type(self.clock) is SystemClock else self.clock.monotonic

    def rule(self, own: Mapping[str, Any]) -> RetryRule:  # Any: each option has a type of its own
        """How a handle with these options of its *own* repeats, and how long it waits; one for all that have none."""
        if not own.keys().isdisjoint(_IN_RULE):
            return self._new_rule(own)
        with self._lock:
            if self._usual_rule is None:
                self._usual_rule = self._new_rule({})
            return self._usual_rule

    def _new_rule(self, own: Mapping[str, Any]) -> RetryRule:  # Any: as above
        options = {**self.defaults, **{name: value for name, value in own.items() if value is not None}}
        backoff = Backoff(
            base_delay=options["base_delay"],
            max_delay=options["max_delay"],
            factor=options["backoff_factor"],
            jitter=options["jitter"],
            rng=self.rng,
            shape=options.get("backoff", "exponential"),
        )
        # A hedge replaces the retry, unless both are asked for.
        is_replaced = options.get("hedge_after") is not None and own.get("max_retries") is None
        return RetryRule(
            max_retries=0 if is_replaced else options["max_retries"],
            backoff=backoff,
            retry_on=options.get("retry_on", Exception),
        )

    def change_defaults(self, changes: Mapping[str, Any]) -> None:  # Any: as above
        """Other defaults from now on, for the handles that exist as well."""
        with self._lock:
            self.defaults.update(changes)
            self._usual_rule = None
        for plan in self.plans.all():
            plan.refresh()

    def declare(
        self,
        name: str,
        options: Mapping[str, Any],  # Any: each option has a type of its own
        place: str,
    ) -> ServiceState:
        """
        The service *name* with the options that belong to it.

        Raises:
            ValueError: another place has declared a different value for the same name.
        """
        state = self.registry.declare(name, options, place)
        if not options:
            return state
        if any(option in LIMIT_OPTIONS and state.set_by_hand[option] is not None for option in options):
            self._limit(state)
        if options.get("max_call_age") is not None and state.call_ages is None:
            state.call_ages = CallAges(state, options["max_call_age"], self.clock, self.listeners)
            state.prepare(is_prepared=state.prepared)  # closes the short way
        return state

    def _limit(self, state: ServiceState) -> None:
        given = {option: value for option, value in state.set_by_hand.items() if option in LIMIT_OPTIONS}
        self.limits(state).declare(given)

    def limits(self, state: ServiceState) -> Limits:
        """The limits of one service, made at first need; from then on its calls take the long way."""
        with self._lock:
            if state.limits is None:
                state.limits = Limits(state.name, self.clock, lambda seconds: self._paused(state, seconds))
                state.prepare(is_prepared=state.prepared)  # closes the short way
                state.limits_are_there()
                if self.kept_sends is not None:
                    self.kept_sends.watch(state)
            if state.shared_limit is not None:
                state.limits.share(state.shared_limit)
            limits: Limits = state.limits
            return limits

    def _paused(self, state: ServiceState, seconds: float) -> None:
        if self.listeners:
            from shockproof.vocabulary.events import RateLimitPaused

            self.listeners.publish(
                RateLimitPaused(service_name=state.name, at=self.clock.time(), seconds=seconds)
            )

    def change_limits(self, state: ServiceState, changes: Mapping[str, Any]) -> None:  # Any: as above
        """
        Other limits for a service that runs.

        Raises:
            ValueError: a handle of it that is in use could never be sent under the new rates.
        """
        rates = changes.get("rate_limit")
        if rates is not None:
            new = RollingWindows(rates)
            for plan in self.plans.all():
                if plan.state is state:
                    new.check(plan.weight)
        self.limits(state).change(changes)

    def retire(self, name: str) -> ServiceState | None:
        """Forget the service *name* until it is used again, and let its idle threads go."""
        with self._lock:
            self._threads.pop(name, None)
        return self.registry.retire(name)

    def threads(self, state: ServiceState) -> WorkerThreads:
        """The worker threads of one service, made at first need."""
        with self._lock:
            pool = self._threads.get(state.name)
            if pool is None:
                pool = self._threads[state.name] = WorkerThreads(state, self.max_threads)
            return pool

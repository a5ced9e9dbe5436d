"""
What is known about one service: its circuit, its status, its counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol
from weakref import WeakSet

from shockproof.memory.services.counts_by_type import NOT_COUNTED, CountsByType
from shockproof.memory.services.halt import Halt
from shockproof.memory.services.stream_health import StreamHealth
from shockproof.memory.services.waiters import wake_all
from shockproof.policies.adaptive_retry import AdaptiveRetry
from shockproof.policies.circuit_breaker import Circuit, CircuitState, Ticket
from shockproof.policies.rate_limit import RollingWindows, SentEarlier
from shockproof.policies.retry_budget import RetryBudget
from shockproof.policies.trip_rates import NO_RATES
from shockproof.vocabulary.outcomes import Outcome
from shockproof.vocabulary.shared_lock import shared_lock
from shockproof.vocabulary.statuses import CircuitMode, ServiceStatus

__all__ = ["CallTimer", "ServiceState"]

CallTimer = Callable[[str, Outcome, float], None]
"""Told how each call of a service ended, and after how many seconds, right where it ends; it must not raise."""

Stirred = bool | Literal["only timed"]


_lock: Final = shared_lock()
_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})  # Any: it is empty
"""What most services have of most things; replaced by the first of them."""


_Transitions = tuple[CircuitState, Mapping[tuple[CircuitState, CircuitState], int]]
_NO_TRANSITION: Final[_Transitions] = "closed", _NOTHING
"""The state that was told last, and how often it went from one to another."""


class Watcher(Protocol):
    """Is told what becomes of the circuits of many services."""

    def circuit_moved(self, state: ServiceState, to: CircuitState, now: float) -> None:
        """The circuit of *state* went to another state."""
        ...

    def circuit_would_open(self, state: ServiceState, now: float) -> None:
        """The circuit of *state* would have opened, if it did not only watch."""
        ...


class ServiceState:
    """
    The shared state of one service, used by all its handles, tasks, threads and loops.

    The healthy path does two things at its `entrance`: ``successes += 1`` and a test of `stirred`. On
    CPython with its interpreter lock ``x.n += 1`` on a slot is atomic as long as no call stands between
    its load and its store (evaluation breaks only at calls and backward jumps).

    `stirred` is set by whatever needs attention at the next success (a streak, a status). A
    failure writes its trace first and the flag second; settling clears the flag first and the
    trace second: so no interleaving of threads loses a failure.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_told",
        "call_timers",
        "circuit",
        "critical",
        "declared_at",
        "entrance",
        "failed_calls",
        "failures",
        "failures_by_type",
        "fallbacks",
        "halt",
        "limits",
        "name",
        "prepared",
        "rejections",
        "retries",
        "retries_by_type",
        "retry_budget",
        "set_by_hand",
        "status",
        "stood_still",
        "timeouts",
        "tracer",
        "waiting",
        "watcher",
    )

    # What most services never have, or never do: the class's until it is the service's own. Slots for these would be a
    # sixth of a service, and there may be a hundred thousand.
    shared: bool = False
    """Whether its circuit is one with those of the other processes of the fleet."""
    shared_limit: Any = None  # Any: `SharedLimit` of the fleet, which knows this class
    """None: nobody shares it."""
    circuit_quorum: int = 2
    probe_lease: float | None = None
    health_check: Callable[[], Any] | None = None  # Any: a value, or something to await
    check_every: float = 30.0
    has_writes: bool = False
    """Whether a handle of it does anything that the kill switch would refuse."""
    faults: Any = None  # Any: `Faults` of the layer above, which waits; None unless a test put some on
    call_ages: Any = None  # Any: `CallAges` of the layer above; None where no call may be overdue
    earlier_sends: RollingWindows | None = None
    """What an earlier life has sent, as long as there are no limits that it counts in."""
    earlier_orders: tuple[SentEarlier, ...] = ()
    """What was sent after that by its journal, as long as there are no limits."""
    earlier_tokens: float | None = None
    """What an earlier life has left in its retry budget, as long as there is none."""
    restored_status: ServiceStatus | None = None
    """What the state of an earlier life says of it; None: nothing. No verdict of this one, in which it may never be called."""
    is_only_restored: bool = False
    """Whether that is all that is known of it: nobody has used its name in this life."""
    hedge_budget: RetryBudget | None = None
    """What pays for hedges when there is no `retry_budget`; None as long as nothing is hedged."""
    adaptive: AdaptiveRetry | None = None
    """What its adaptive handles share; None as long as there are none."""
    unknown_calls: int = 0
    """Calls of which nobody knows what they did."""
    ended_unknown: bool = False
    """Whether the last call that failed for good did so because nobody knew what it did."""
    overdue: int = 0
    hedges: int = 0
    refused_by: Mapping[str, int] = _NOTHING
    """Rejections by policy, without those by the circuit: they are the rest."""
    abandoned_attempts: int = 0
    abandoned_threads: int = 0
    waiting_for_the_circuit: set[asyncio.Future[None]] | None = None
    """Feeds that an open circuit keeps from being opened: woken when it closes."""
    _streams: WeakSet[StreamHealth] | None = None

    def __init__(self, name: str, circuit: Circuit, halt: Halt | None = None) -> None:
        self.name = name
        self.circuit = circuit
        self.entrance = circuit.entrance
        self.halt = halt
        """The kill switch of its recovery service; None where there is none."""
        self.watcher: Watcher | None = None
        self.prepared = False
        """Whether a call on the current loop has been seen."""
        self.critical = False
        self.limits: Any = None  # Any: `Limits` of the layer above, which waits; None without limits
        self.tracer: Any = None  # Any: `Tracer` of the layer above; None where nobody traces calls
        self.stood_still: Callable[[float], float] | None = None
        """For how long of the last so many seconds the running loop stood still; None where nobody watches it."""
        self.retry_budget: RetryBudget | None = None
        self.status = ServiceStatus.OPERATIONAL
        """The verdict of the last call; `status_at` adds what the circuit says."""
        self.failures = 0
        """Attempts that failed."""
        self.failures_by_type = NOT_COUNTED
        self.failed_calls = 0
        """Calls that ended with a failed attempt, whatever a fallback made of that."""
        self.retries = 0
        self.retries_by_type = NOT_COUNTED
        self.timeouts = 0
        self.fallbacks = 0
        self.rejections = 0
        self._told: _Transitions = _NO_TRANSITION
        self.call_timers: tuple[CallTimer, ...] = ()
        """Empty as long as nobody wants to know how long calls take."""
        self.set_by_hand: Mapping[str, object] = _NOTHING
        """The options somebody declared for this name, to tell a second, different value."""
        self.declared_at: Mapping[str, str] = _NOTHING
        """Where each of them was declared, as file:line."""
        self.waiting: set[asyncio.Future[None]] | None = None
        """Retry loops that wait between attempts, on whatever loop: woken when the circuit opens."""

    @property
    def transitions(self) -> Mapping[tuple[CircuitState, CircuitState], int]:
        """How often the circuit went from one state to another."""
        return self._told[1]

    @property
    def successes(self) -> int:
        """Calls, and attempts at them, that were answered."""
        return self.entrance.successes

    def prepare(self, *, is_prepared: bool) -> None:
        """From now on healthy calls take the short way, or the next call of anybody prepares again."""
        with _lock:  # whoever closes the way sets its reason first: no other thread may open it again
            self.prepared = is_prepared
            self._choose_lane()

    def reconsider(self) -> None:
        """The kill switch was thrown, or the first write is here: healthy calls may have to go the other way."""
        with _lock:
            self._choose_lane()

    def _choose_lane(self) -> None:
        # Faults are played, ages are watched and calls are traced by the executor, which also asks whether a
        # write may go out.
        is_open = self.prepared and self.faults is None and self.call_ages is None and self.tracer is None
        if self.has_writes and self.halt is not None and self.halt.closes_the_lane:
            is_open = False
        # Limits may be waited for, and that is the executor's business, too: they have a lane of their own.
        self.circuit.open_lane(is_open=is_open and self.limits is None)
        if self.limits is not None:
            self.limits.open_lane(is_open=is_open)

    def trace_calls(self, tracer: object) -> None:
        """From now on *tracer* is told of each call; None: nobody is."""
        with _lock:
            self.tracer = tracer
            self._choose_lane()

    def will_write(self) -> None:
        """A handle of it does what the kill switch would refuse."""
        if not self.has_writes:
            self.has_writes = True
            self.reconsider()

    def adapt(self) -> AdaptiveRetry:
        """What its adaptive handles share, made for the first of them."""
        with _lock:
            if self.adaptive is None:
                self.adaptive = AdaptiveRetry()
                self.budget_is_there()
            return self.adaptive

    @property
    def paying_budget(self) -> RetryBudget | None:
        """What pays for the retries of its adaptive handles, and for those of all if it was declared."""
        if self.retry_budget is not None or self.adaptive is None:
            return self.retry_budget
        return self.adaptive.budget

    @property
    def was_called(self) -> bool:
        """Whether there is anything that its status could be the verdict of."""
        return bool(self.successes or self.failures or self.rejections or self.fallbacks)

    @property
    def windows(self) -> RollingWindows | None:
        """What was sent under its rate limit, in this life and the one before; None where nothing counts it."""
        if self.limits is None:
            return self.earlier_sends
        windows: RollingWindows | None = self.limits.windows
        return windows

    def take_over_sends(self, earlier: RollingWindows) -> None:
        """Count what an earlier life has sent, as soon as there is a rate limit."""
        with _lock:
            self.earlier_sends = earlier
        self.limits_are_there()

    def limits_are_there(self) -> None:
        """Its limits get what an earlier life has sent."""
        with _lock:
            if self.limits is None:
                return
            earlier, orders = self.earlier_sends, self.earlier_orders
            if earlier is not None:
                self.earlier_sends = None
            if orders:
                self.earlier_orders = ()
        if earlier is not None:
            self.limits.take_over(earlier)
        if orders:
            self.limits.count_earlier(orders)

    def count_orders(self, orders: Iterable[SentEarlier]) -> None:
        """Count what was sent by the journal of an earlier life, as soon as there is a rate limit."""
        with _lock:
            self.earlier_orders = (*self.earlier_orders, *orders)
        self.limits_are_there()

    @property
    def longest_window(self) -> float | None:
        """Seconds for which what is sent counts under its rate limit; None: it counts nowhere."""
        rates = None if self.limits is None else self.limits.rates
        return max(rate.seconds for rate in rates) if rates else None

    def lower_budget(self, tokens: float) -> None:
        """Its retry budget holds no more than *tokens*, which an earlier life has left, also one that it gets later."""
        with _lock:
            self.earlier_tokens = tokens
            self.budget_is_there()

    def budget_is_there(self) -> None:
        """It holds no more than an earlier life has left."""
        with _lock:
            budget, earlier = self.paying_budget, self.earlier_tokens
            if budget is not None and earlier is not None and not budget.is_shared:
                self.earlier_tokens = None
                budget.take(max(0.0, budget.tokens - earlier))

    @property
    def _calm(self) -> Stirred:
        """What `stirred` is while nothing is wrong: whether every success is news, or its duration."""
        rates = self.circuit.rates
        if (rates is not NO_RATES and rates.are_on) or self.retry_budget is not None:
            return True  # a window counts it, a budget lives on it
        return "only timed" if self.call_timers else False

    def settle(self, ticket: Ticket, now: float, duration: float = 0.0, whole: float | None = None) -> None:
        """
        A call succeeded, after *duration* seconds, while something needed attention.

        *whole*: seconds from its beginning, with the attempts and waits before this one; None: the same.
        """
        if self.call_timers and self.entrance.stirred == "only timed" and ticket is self.circuit.closed:
            self.call_ended(Outcome.SUCCESS, duration if whole is None else whole)
            return
        # A late answer of an earlier period resets nothing of this one: the flag stays for whoever can.
        if ticket is self.circuit.closed:
            self.entrance.stirred = self._calm
        self.status = ServiceStatus.OPERATIONAL
        if self.retry_budget is not None and not self.retry_budget.is_full:
            self.retry_budget.succeeded()
        ticket.succeeded(now, duration if self.stood_still is None else self.own_time(duration))
        if self.call_timers:
            self.call_ended(Outcome.SUCCESS, duration if whole is None else whole)

    def own_time(self, duration: float) -> float:
        """What of *duration*, which ends now, was not our own loop standing still, where it is watched."""
        return duration if self.stood_still is None else duration - self.stood_still(duration)

    def call_ended(self, outcome: Outcome, seconds: float) -> None:
        """Tell those who want to know how long a call took."""
        for timer in self.call_timers:
            timer(self.name, outcome, seconds)

    def time_calls(self, timers: tuple[CallTimer, ...]) -> None:
        """From now on *timers* are told how long calls take; empty: nobody is."""
        self.call_timers = timers
        if timers:
            self.entrance.stirred = True

    def refused(self, policy: str) -> None:
        """A policy other than the circuit refused a call."""
        with _lock:
            self.refused_by = {**self.refused_by, policy: self.refused_by.get(policy, 0) + 1}

    def answered_by_fallback(self) -> None:
        """A fallback answered in place of the service."""
        self.status = ServiceStatus.DEGRADED
        self.entrance.stirred = True
        self.fallbacks += 1

    def answered_by_look_up(self, whole: float) -> None:
        """
        A call whose answer did not come was looked up and found, *whole* seconds after its beginning: it ended well.

        The circuit, which was told of the attempt, is told nothing: its streak ends with an answer.
        """
        self.status = ServiceStatus.OPERATIONAL
        self.entrance.successes += 1
        if self.call_timers:
            self.call_ended(Outcome.SUCCESS, whole)

    def failed_for_good(self, *, is_unknown: bool = False) -> None:
        """No other attempt follows and no fallback answered; with *is_unknown* nobody knows what it did."""
        self.status = ServiceStatus.UNAVAILABLE
        self.entrance.stirred = True
        if self.ended_unknown is not is_unknown:
            self.ended_unknown = is_unknown

    def found_later(self) -> None:
        """
        What ended unknown was found at the other side, which did its part: if that was the last of the service, it is well.

        The call has ended, and stays counted as it did.
        """
        if self.ended_unknown and self.status is ServiceStatus.UNAVAILABLE:
            self.status = ServiceStatus.OPERATIONAL
        self.ended_unknown = False

    def begin_to_count_types(self) -> None:
        """The first attempt failed: from now on it is counted what with."""
        with _lock:
            if self.failures_by_type is NOT_COUNTED:
                self.retries_by_type, self.failures_by_type = CountsByType(), CountsByType()

    def circuit_changed(self, to: CircuitState) -> None:
        """Count a change of the circuit's state."""
        with _lock:
            before, transitions = self._told
            if to != before:
                self._told = to, {**transitions, (before, to): transitions.get((before, to), 0) + 1}

    def circuit_moved(self, to: CircuitState, now: float) -> None:
        """The circuit went to another state."""
        self.circuit_changed(to)
        if to == "open":
            self.circuit_opened()
        elif to == "closed":
            self.circuit_closed()
        if self.watcher is not None:
            self.watcher.circuit_moved(self, to, now)

    def circuit_would_open(self, now: float) -> None:
        """The circuit would have opened, if it did not only watch."""
        if self.watcher is not None:
            self.watcher.circuit_would_open(self, now)

    def circuit_opened(self) -> None:
        """From now on calls are refused; a fallback that answers makes it DEGRADED again."""
        self.status = ServiceStatus.UNAVAILABLE
        self.entrance.stirred = True
        wake_all(self.waiting or ())

    def circuit_closed(self) -> None:
        """From now on calls pass again."""
        wake_all(self.waiting_for_the_circuit or ())

    def wait_for_opening(self, waiter: asyncio.Future[None]) -> None:
        """Wake *waiter* when the circuit opens, until `stop_waiting`."""
        with _lock:
            if self.waiting is None:
                self.waiting = set()
            self.waiting.add(waiter)

    def wait_for_closing(self, waiter: asyncio.Future[None]) -> None:
        """Wake *waiter* when the circuit closes, until `stop_waiting`."""
        with _lock:
            if self.waiting_for_the_circuit is None:
                self.waiting_for_the_circuit = set()
            self.waiting_for_the_circuit.add(waiter)

    def stop_waiting(self, waiter: asyncio.Future[None]) -> None:
        """Whatever it waited for has come, or does not matter any more."""
        with _lock:
            for waiters in (self.waiting, self.waiting_for_the_circuit):
                if waiters is not None:
                    waiters.discard(waiter)

    def add_stream(self, stream: StreamHealth) -> None:
        """A feed of the service begins; one that nobody holds any more is forgotten by itself."""
        with _lock:
            if self._streams is None:
                self._streams = WeakSet()
            self._streams.add(stream)

    def remove_stream(self, stream: StreamHealth) -> None:
        """It has ended."""
        with _lock:
            if self._streams is not None:
                self._streams.discard(stream)

    @property
    def streams(self) -> list[StreamHealth]:
        """The feeds that somebody reads now."""
        if not self._streams:
            return []
        with _lock:
            return sorted(self._streams, key=lambda stream: stream.function_name)

    def reset(self, now: float) -> None:
        """Close the circuit and forget the last verdict."""
        self.entrance.stirred = self._calm
        self.circuit.reset(now)
        self.status = ServiceStatus.OPERATIONAL

    def set_circuit_mode(
        self, mode: CircuitMode, reason: str | None, *, by_hand: bool = True
    ) -> CircuitMode | None:
        """Hold the circuit open, switch it off and so on, see `Circuit.set_mode`; the mode before, if it is news."""
        previous = self.circuit.set_mode(mode, reason, by_hand=by_hand)
        if previous is None:
            return None
        if mode == "forced-open":
            self.circuit_changed("open")
            self.circuit_opened()
        else:
            self.circuit_changed("closed")
            self.entrance.stirred = self._calm
            self.status = ServiceStatus.OPERATIONAL
            self.circuit_closed()
        return previous

    def abandon_attempt(self) -> None:
        """An attempt ignored its cancellation beyond its grace, and was left behind."""
        with _lock:
            self.abandoned_attempts += 1

    def attempt_came_back(self) -> None:
        """An attempt that had been left behind has ended."""
        with _lock:
            self.abandoned_attempts -= 1

    def abandon_thread(self) -> None:
        """A call was cancelled while its thread ran on."""
        with _lock:
            self.abandoned_threads += 1

    def thread_came_back(self) -> None:
        """A thread that had been left behind has ended."""
        with _lock:
            self.abandoned_threads -= 1

    def status_at(self, now: float) -> ServiceStatus:
        """The status a person should see at *now*."""
        circuit = self.circuit.state(now)
        if circuit == "half-open":
            return ServiceStatus.DEGRADED
        if circuit == "open" and self.status is not ServiceStatus.DEGRADED:
            return ServiceStatus.UNAVAILABLE
        # Almost none has a feed, and this is asked of thousands at a time.
        if self._streams and self.status is ServiceStatus.OPERATIONAL:
            return ServiceStatus.DEGRADED if any(one.phase == "lost" for one in self.streams) else self.status
        return self.status

    def __repr__(self) -> str:
        return (
            f"<ServiceState {self.name!r} {self.status.value}, {self.circuit!r}, "
            f"{self.successes} successes, {self.failures} failures>"
        )

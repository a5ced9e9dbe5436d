"""
A storm: what a dependency and its callers do to each other when it loses capacity for a while.

Many callers ask one server, first in first out, which works off what nobody waits for any more. For a
stretch of time it has less capacity. Whether it recovers afterwards is up to the callers: retries can
keep it overloaded for ever ("Metastable Failures in the Wild", Huang et al., OSDI 2022). All of it
passes on virtual time and from one seed, so that two sets of policies meet the very same storm.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shockproof.calls.handle import Handle
from shockproof.calls.options import calling_place, check_options
from shockproof.calls.plan import Plan
from shockproof.calls.runtime import Runtime
from shockproof.memory.error_log.recorder import NoRecorder
from shockproof.memory.services.listeners import Listeners
from shockproof.memory.services.registry import Registry
from shockproof.policies.retry_budget import RetryBudget
from shockproof.settings import DEFAULTS
from shockproof.testing.seed import DEFAULT_SEED
from shockproof.testing.virtual_time import VirtualClock, VirtualTimeLoop
from shockproof.vocabulary.arguments import at_least, whole_number
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import CallRejectedError

__all__ = ["Storm", "StormResult", "StormSecond", "compare_storms"]

Options = Mapping[str, Any] | Callable[[], Mapping[str, Any]]  # Any: each option has a type of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class StormSecond:
    """One second of a storm. A call belongs to the second in which it was begun."""

    second: int
    offered: int
    """Calls that were begun."""
    answered: int
    """Calls of these that were answered, sooner or later: the goodput."""
    refused: int
    """Calls of these that a policy refused, so that they ended without an answer."""
    attempts: int
    """Requests that reached the server in this second, retries included."""
    latencies: tuple[float, ...]
    """Seconds each answered call took, with its retries and waits, shortest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """
    A dependency, its load, and the outage it goes through.

    Args:
        capacity: calls the server works off in a second, more than 0.
        load: calls that are begun in a second, more than 0, by all clients together.
        clients: programs that call it, at least 1; each has policies of its own and an equal share
            of the load.
        latency: seconds on the way, there and back, at least 0, on top of the server's work.
        outage: from when to when the capacity is less, in seconds from the beginning.
        outage_capacity: the capacity meanwhile, at least 0; at 0 it refuses connections.
        seconds: how long the storm is watched, longer than the outage.
        seed: where arrivals, work and jitter are drawn from.

    Work and the pauses between calls are exponentially distributed, as they are when many independent
    callers ask.

    Raises:
        TypeError, ValueError: a value that is not allowed.
    """

    capacity: float = 100.0
    load: float = 80.0
    clients: int = 1
    latency: float = 0.0
    outage: tuple[float, float] = (10.0, 20.0)
    outage_capacity: float = 50.0
    seconds: int = 60
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        for name in ("capacity", "load"):
            if at_least(name, getattr(self, name), 0) == 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)!r}")
        for name in ("latency", "outage_capacity"):
            at_least(name, getattr(self, name), 0)
        whole_number("clients", self.clients, minimum=1)
        whole_number("seconds", self.seconds, minimum=1)
        outage: object = self.outage
        if not isinstance(outage, tuple) or len(outage) != _PAIR:
            raise TypeError(f"outage must be a pair of seconds (from, to) such as (10, 20), got {outage!r}")
        begins, ends = (at_least("outage", moment, 0) for moment in outage)
        if not begins <= ends <= self.seconds:
            raise ValueError(f"outage must be (from, to) within seconds={self.seconds}, got {self.outage!r}")

    def run(self, options: Options, *, name: str = "") -> StormResult:
        """
        Let the storm pass over clients with these *options*; it runs on a loop of its own.

        Args:
            options: what `ErrorRecoveryService.service` takes, or a function that gives them, called
                for each client: needed where they hold a `RetryBudget`, which would else be shared.
                ``timeout`` is how long a caller waits for an attempt.
            name: what the result is called.

        Raises:
            RuntimeError: called on a running event loop: ``await storm.simulate(...)`` there.
            TypeError, ValueError: an option that is unknown or not allowed.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "Storm.run starts a loop of its own: on a running one, `await storm.simulate(...)`"
            )
        return VirtualClock().run(self.simulate(options, name=name))

    async def simulate(self, options: Options, *, name: str = "") -> StormResult:
        """
        As `run`, on the running loop, which must be a `VirtualTimeLoop`.

        Raises:
            RuntimeError: it is not: a storm of a minute would take a minute.
            TypeError, ValueError: an option that is unknown or not allowed.

        Cancelled, it ends at once with everything that belongs to it.
        """
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualTimeLoop):
            raise RuntimeError(  # noqa: TRY004 - no argument has the wrong type, it is called in the wrong place
                "a storm needs virtual time: Storm.run(...) outside a loop, or a test with the `clock` fixture"
            )
        if isinstance(options, Mapping) and any(isinstance(value, RetryBudget) for value in options.values()):
            raise TypeError(
                "options hold a RetryBudget, which all clients and all runs would share: "
                "give a function, such as lambda: {'retry_budget': RetryBudget()}"
            )
        return await _Passing(self, options, loop.clock).result(name)


class _Passing:
    """One storm on its way."""

    def __init__(self, storm: Storm, options: Options, clock: VirtualClock) -> None:
        self._storm = storm
        self._clock = clock
        self._began = clock.monotonic()
        self._busy_until = self._began
        # Each has a source of its own: how often policies draw must not change what the storm does.
        self._arrivals, self._work, self._jitter = (
            random.Random(f"{storm.seed}/{name}") for name in ("arrivals", "work", "jitter")
        )
        self._clients = [
            _client(options() if callable(options) else options, clock, self._jitter)
            for _ in range(storm.clients)
        ]
        self._offered, self._answered, self._refused, self._attempts = (
            [0] * storm.seconds for _ in range(_COUNTED)
        )
        self._latencies: list[list[float]] = [[] for _ in range(storm.seconds)]

    def _second(self) -> int:
        return int(self._clock.monotonic() - self._began)

    async def _serve(self) -> None:
        storm, now = self._storm, self._clock.monotonic()
        second = self._second()
        if second < storm.seconds:
            self._attempts[second] += 1
        begins, ends = storm.outage
        is_out = begins <= now - self._began < ends
        capacity = storm.outage_capacity if is_out else storm.capacity
        work = self._work.expovariate(1.0)  # drawn in any case: the next call meets the same server
        if capacity == 0:
            raise ConnectionRefusedError("the server is down")
        self._busy_until = max(now, self._busy_until) + work / capacity
        await self._clock.sleep(self._busy_until - now + storm.latency)

    async def _call(self, client: Handle) -> None:
        began, second = self._clock.monotonic(), self._second()
        self._offered[second] += 1
        try:
            await client.call(self._serve)
        except CallRejectedError:
            self._refused[second] += 1
            return
        except Exception:  # noqa: BLE001 - whatever it was: it was not answered
            return
        self._answered[second] += 1
        self._latencies[second].append(self._clock.monotonic() - began)

    async def result(self, name: str) -> StormResult:
        calls: set[asyncio.Task[None]] = set()
        number = 0
        try:
            while True:
                await self._clock.sleep(self._arrivals.expovariate(self._storm.load))
                if self._second() >= self._storm.seconds:
                    break
                task = asyncio.create_task(self._call(self._clients[number % len(self._clients)]))
                number += 1
                calls.add(task)
                task.add_done_callback(calls.discard)
            # The last calls are heard out: they belong to the seconds in which they were begun.
            await asyncio.wait(calls, timeout=_LAST_ANSWERS) if calls else None
        finally:
            left = list(calls)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        return StormResult(
            name=name,
            storm=self._storm,
            seconds=tuple(
                StormSecond(
                    second=second,
                    offered=self._offered[second],
                    answered=self._answered[second],
                    refused=self._refused[second],
                    attempts=self._attempts[second],
                    latencies=tuple(sorted(self._latencies[second])),
                )
                for second in range(self._storm.seconds)
            ),
        )


def _client(
    options: Mapping[str, Any],  # Any: each option has a type of its own
    clock: Clock,
    rng: random.Random,
) -> Handle:
    """A handle as `ErrorRecoveryService.service` gives it, with the same defaults and nothing on a disk."""
    handle_options, service_options = check_options(options)
    defaults: dict[str, Any] = {**DEFAULTS, "jitter": "none"}  # Any: each has a type of its own
    registry = Registry(
        circuit_threshold=defaults["circuit_threshold"],
        circuit_timeout=defaults["circuit_timeout"],
        on_transition=lambda state, to, now: None,
    )
    runtime = Runtime(
        clock=clock,
        rng=rng,
        registry=registry,
        recorder=NoRecorder(),
        listeners=Listeners(),
        defaults=defaults,
        redact=lambda text: text,
        max_threads=1,
        on_first_call=lambda: None,
    )
    state = runtime.declare("dependency", service_options, calling_place())
    return Handle(Plan(handle_options).bind(runtime, state))


@dataclass(frozen=True, slots=True, kw_only=True)
class StormResult:
    """What came of a storm, second by second; its text is a small picture."""

    name: str
    storm: Storm
    seconds: tuple[StormSecond, ...]

    def goodput(self, begin: float = 0, end: float | None = None) -> float:
        """The share of the calls begun from second *begin* to before *end* that were answered, 0 to 1."""
        part = self._part(begin, end)
        return sum(one.answered for one in part) / max(1, sum(one.offered for one in part))

    def load(self, begin: float = 0, end: float | None = None) -> float:
        """Requests that reached the server in these seconds, for each call that was begun in them."""
        part = self._part(begin, end)
        return sum(one.attempts for one in part) / max(1, sum(one.offered for one in part))

    def latency(self, quantile: float, begin: float = 0, end: float | None = None) -> float:
        """
        Seconds within which a share of *quantile* of the answered calls of these seconds were answered.

        The smallest latency that at least that share does not exceed; infinite when none was answered.

        Raises:
            ValueError: *quantile* is not above 0 and at most 1.
        """
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile must be more than 0 and at most 1, such as 0.99, got {quantile!r}")
        latencies = sorted(x for one in self._part(begin, end) for x in one.latencies)
        return latencies[math.ceil(quantile * len(latencies)) - 1] if latencies else math.inf

    def recovered_after(self, goodput: float = 0.95, *, within: int = 5) -> float | None:
        """
        Seconds from the end of the outage until all is well, and stays so to the end; None if it never is.

        All is well when of every *within* seconds in a row a share of at least *goodput* is answered.
        """
        ends = math.ceil(self.storm.outage[1])
        first: int | None = None
        for begin in range(ends, len(self.seconds) - within + 1):
            if self.goodput(begin, begin + within) < goodput:
                first = None
            elif first is None:
                first = begin
        return None if first is None else first - self.storm.outage[1]

    def _part(self, begin: float, end: float | None) -> Sequence[StormSecond]:
        last = len(self.seconds) if end is None else end
        part = [one for one in self.seconds if begin <= one.second < last]
        if not part:
            raise ValueError(f"there is no second from {begin:g} to before {last:g} in this storm")
        return part

    def __str__(self) -> str:
        """Calls, answers and requests over time, each column as high as its second's count."""
        step = math.ceil(len(self.seconds) / _WIDTH)
        parts = [self.seconds[i : i + step] for i in range(0, len(self.seconds), step)]
        begins, ends = self.storm.outage
        outage = "".join(
            "x" if begins < part[-1].second + 1 and part[0].second < ends else " " for part in parts
        )
        rows = {
            "answered": [sum(one.answered for one in part) / len(part) for part in parts],
            "requests": [sum(one.attempts for one in part) / len(part) for part in parts],
        }
        lines = [self.name] if self.name else []
        lines.append(f"  outage    {outage.rstrip()}")
        for name, values in rows.items():
            most = max(self.storm.load, *values)
            lines.append(f"  {name:9} {_bars(values, most)}  (full height: {most:.0f}/s)")
        return "\n".join(line.rstrip() for line in lines)


def compare_storms(storm: Storm, policies: Mapping[str, Options]) -> str:
    """
    The same *storm* for each of these policies, as a table and a picture for each.

    Args:
        storm: what they go through.
        policies: a name for each and what `Storm.run` takes.

    Raises:
        RuntimeError, TypeError, ValueError: as `Storm.run`.
    """
    results = [storm.run(options, name=name) for name, options in policies.items()]
    width = max((len(result.name) for result in results), default=0)
    ends = storm.outage[1]
    lines = [f"{'':{width}}  goodput  requests/call  p50      p99      recovered after"]
    for result in results:
        after = result.recovered_after()
        if ends < storm.seconds:
            part = (
                result.goodput(ends),
                result.load(ends),
                result.latency(0.5, ends),
                result.latency(0.99, ends),
            )
        else:
            part = result.goodput(), result.load(), result.latency(0.5), result.latency(0.99)
        goodput, load, median, late = part
        lines.append(
            f"{result.name:{width}}  {goodput:6.1%}   {load:13.2f}  {_seconds(median):7}  {_seconds(late):7}  "
            f"{'never' if after is None else f'{after:.0f} s'}"
        )
    lines.append(f"(calls begun after the outage, to second {storm.seconds})")
    return "\n\n".join(["\n".join(lines), *map(str, results)])


def _seconds(value: float) -> str:
    return "-" if math.isinf(value) else f"{value:.3f} s"


def _bars(values: Sequence[float], most: float) -> str:
    heights = (min(len(_BARS) - 1, math.ceil(value / most * (len(_BARS) - 1))) for value in values)
    return "".join(_BARS[height] for height in heights)


_BARS: Final = " ▁▂▃▄▅▆▇█"
_WIDTH: Final = 60
_PAIR: Final = 2
_COUNTED: Final = 4
_LAST_ANSWERS: Final = 60.0
"""Seconds the last calls may take to end once no more are begun."""

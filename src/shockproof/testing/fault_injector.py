"""
Faults on any service, by its name, without a change of the code under test.

They stand where the service itself does, inside all policies: what they do is timed, counted, retried
and recorded as if the other side had done it. A service on which no fault is put is not touched.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import warnings
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from shockproof.calls.handle import Handle
from shockproof.calls.options import calling_place
from shockproof.calls.runtime import Runtime
from shockproof.calls.threads import NotStartedError
from shockproof.memory.error_log.context import current_context
from shockproof.memory.services.service_state import ServiceState
from shockproof.service import ErrorRecoveryService
from shockproof.testing.faults import (
    Answers,
    FaultStep,
    FaultyCall,
    Part,
    Step,
    answer_of,
    as_step,
    check_share,
    play,
)
from shockproof.testing.seed import DEFAULT_SEED
from shockproof.testing.virtual_time import VirtualTimeLoop
from shockproof.vocabulary.arguments import Seconds, seconds, whole_number
from shockproof.vocabulary.clock import SystemClock
from shockproof.vocabulary.outcomes import CallInfo

__all__ = ["FaultInjector", "InjectedFaults"]

_log = logging.getLogger("shockproof.testing")
_lock: Final = threading.Lock()
"""For what is on where, and how far each plan has come; never held while anything of the user's runs."""


class FaultInjector:
    """
    Puts faults on services: ``with faults.on("market_data", Fails(ConnectionError)): ...``.

    Args:
        recovery: whose services they are put on; a `Handle` for a policy that stands alone.
        rng: the source of rates and drawn delays. Default: ``random.Random`` with a fixed seed, so
            that a test repeats.
        real_time: True allows it on a service with the real clock, as in staging. Default: refused,
            so that no real call meets a fault by accident.

    Raises:
        TypeError: *recovery* is neither.
    """

    def __init__(
        self,
        recovery: ErrorRecoveryService | Handle,
        *,
        rng: random.Random | None = None,
        real_time: bool = False,
    ) -> None:
        if not isinstance(recovery, ErrorRecoveryService | Handle):
            raise TypeError(f"recovery must be an ErrorRecoveryService or a Handle, got {recovery!r}")
        self._recovery = recovery
        self._rng = random.Random(DEFAULT_SEED) if rng is None else rng
        self._real_time = real_time

    def on(
        self,
        service: str | Handle,
        fault: FaultStep = None,
        /,
        *,
        plan: Sequence[FaultStep] | None = None,
        repeat: bool = False,
        rate: float = 1.0,
        attempts: int | Collection[int] | None = None,
        during: tuple[Seconds, Seconds | None] | None = None,
        most: int | None = None,
        where: Callable[[FaultyCall], object] | None = None,
    ) -> InjectedFaults:
        """
        Faults on *service* for the length of a ``with`` block.

        Every attempt that meets all conditions meets the fault, or takes the next step of the plan.
        Of several blocks around a call the innermost that has a fault for it plays it.

        Args:
            service: its name, or a handle on it; it must have been declared or used before.
            fault: what happens: `Fails`, `Delays`, `Hangs`, `Answers`, a tuple of them one after the
                other, or an exception for ``Fails(exception)``.
            plan: in place of *fault*, what happens to one attempt after the other; None lets one
                pass. After its end all pass.
            repeat: after the end of the plan begin it again.
            rate: the share of attempts that meet it, from 0 to 1, drawn from the seeded source.
            attempts: only attempts with this number, or one of these; 1 is the first of a call.
            during: only from the first to before the second of these seconds, counted from the
                beginning of the block; None for the second: to its end.
            most: at most so many faults.
            where: only attempts for which this is true; it looks at the `FaultyCall`.

        Raises:
            ValueError: the service is unknown, or a value is out of range.
            TypeError: a value of the wrong type, or not exactly one of *fault* and *plan*.
            RuntimeError: the service runs on the real clock, and ``real_time=True`` was not said.
        """
        state, runtime = self._find(service)
        if (fault is None) == (plan is None):
            raise TypeError(
                "on() needs a fault or plan=..., and not both: "
                'on("market_data", Fails(ConnectionError)) or on("market_data", plan=[None, ConnectionError])'
            )
        given: object = plan
        if isinstance(given, str | bytes) or not isinstance(given, Sequence | None):
            raise TypeError(f"plan must be a sequence of faults, got {given!r}")
        if plan is not None and not plan:
            raise ValueError("plan is empty: it would inject nothing")
        if repeat and plan is None:
            raise TypeError("repeat=True is for a plan; a fault is repeated anyway")
        if where is not None and not callable(where):
            raise TypeError(f"where must be a function of the FaultyCall, got {where!r}")
        return InjectedFaults(
            state,
            runtime,
            steps=(as_step("fault", fault),)
            if plan is None
            else tuple(as_step(f"step {number} of plan", step) for number, step in enumerate(plan, 1)),
            repeat=repeat or plan is None,
            rng=self._rng,
            rate=check_share("rate", rate),
            attempts=_numbers(attempts),
            during=_window(during),
            most=None if most is None else whole_number("most", most, minimum=1),
            where=where,
            real_time=self._real_time,
        )

    def _find(self, service: object) -> tuple[ServiceState, Runtime]:
        if isinstance(service, Handle):
            return service.plan.state, service.plan.runtime
        if not isinstance(service, str):
            raise TypeError(f"service must be the name of one, or a handle on it, got {service!r}")
        runtime = (
            self._recovery.plan.runtime if isinstance(self._recovery, Handle) else self._recovery._runtime
        )
        state = runtime.registry.get(service)
        if state is None:
            known = ", ".join(repr(one.name) for one in runtime.registry.all()) or "none"
            raise ValueError(
                f"there is no service {service!r} (known: {known}): correct the name, or declare it first "
                f"with recovery.service({service!r})"
            )
        return state, runtime

    def __repr__(self) -> str:
        return f"<FaultInjector for {self._recovery!r}>"


class InjectedFaults:
    """
    Faults that are on for one service while its block lasts; `FaultInjector.on` makes it.

    Threads, loops and tasks share it: a plan is gone through by all of them together.
    """

    def __init__(
        self,
        state: ServiceState,
        runtime: Runtime,
        *,
        steps: tuple[Step, ...],
        repeat: bool,
        rng: random.Random,
        rate: float,
        attempts: frozenset[int] | None,
        during: tuple[float, float | None] | None,
        most: int | None,
        where: Callable[[FaultyCall], object] | None,
        real_time: bool,
    ) -> None:
        self._state = state
        self._runtime = runtime
        self._steps = steps
        self._repeat = repeat
        self._rng = rng
        self._rate = rate
        self._attempts = attempts
        self._during = during
        self._most = most
        self._where = where
        self._real_time = real_time
        self._place = calling_place()
        self._began: float | None = None
        self._taken = 0
        self._is_on = False
        self._is_real = False
        self.injected = 0
        """Attempts that met a fault."""
        self.passed = 0
        """Attempts that were let through while it was on: a condition did not hold, or the plan said so."""

    @property
    def service_name(self) -> str:
        """The service they are on."""
        return self._state.name

    @property
    def is_on(self) -> bool:
        """Whether the block lasts."""
        return self._is_on

    def __enter__(self) -> Self:
        """
        From now on the service meets them.

        Raises:
            RuntimeError: it was entered before, or the service runs on the real clock.
        """
        if self._began is not None:
            raise RuntimeError("faults are switched on once: call on() anew for each block")
        clock = self._runtime.clock
        is_real = type(clock) is SystemClock and not isinstance(asyncio._get_running_loop(), VirtualTimeLoop)
        if is_real and not self._real_time:
            self._began = 0.0
            raise RuntimeError(
                f"service {self.service_name!r} runs on the real clock, so that real calls might meet the "
                "faults: give the recovery service clock=VirtualClock() in a test, and say "
                "FaultInjector(recovery, real_time=True) where it is meant"
            )
        self._is_real = is_real
        if is_real:
            _log.warning("faults are on for service %r, from %s", self.service_name, self._place)
        self._began = clock.monotonic()
        self._is_on = True
        with _lock:
            faults = self._state.faults
            if faults is None:
                faults = self._state.faults = _FaultsOfService(self._state)
            faults.active = (self, *faults.active)
        self._state.prepare(is_prepared=self._state.prepared)  # closes the short way, past all faults
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_on = False
        with _lock:
            faults = self._state.faults
            faults.active = tuple(one for one in faults.active if one is not self)
            if not faults.active:
                self._state.faults = None
        self._state.prepare(is_prepared=self._state.prepared)
        if self._is_real:
            _log.warning("faults are off for service %r: %d injected", self.service_name, self.injected)

    def __del__(self) -> None:
        if self._began is None and not getattr(self, "_is_on", True):
            warnings.warn(
                f"faults on service {self.service_name!r} were never switched on ({self._place}): "
                "write `with faults.on(...):`",
                RuntimeWarning,
                stacklevel=1,
                source=self,
            )

    def _take(self, call: FaultyCall) -> Step:
        """The fault for this attempt, or None; a step of the plan is used up."""
        is_wanted = (
            (self._attempts is None or call.attempt in self._attempts)
            and self._is_time()
            and (self._where is None or bool(self._where(call)))  # the user's code: not under the lock
        )
        with _lock:
            step = self._next() if is_wanted else None
            if step is None:
                self.passed += 1
            else:
                self.injected += 1
            return step

    def _is_time(self) -> bool:
        if self._during is None or self._began is None:
            return True
        since = self._runtime.clock.monotonic() - self._began
        first, last = self._during
        return first <= since and (last is None or since < last)

    def _next(self) -> Step:
        if self._most is not None and self.injected >= self._most:
            return None
        if self._taken >= len(self._steps) and not self._repeat:
            return None
        if self._rate < 1.0 and self._rng.random() >= self._rate:
            return None
        self._taken += 1
        return self._steps[(self._taken - 1) % len(self._steps)]

    def _played(self, step: tuple[Part, ...], call: FaultyCall) -> _Played:
        """*step* for one attempt."""
        return _Played(step, call, self._runtime, self._rng)

    def __repr__(self) -> str:
        return (
            f"<faults on {self.service_name!r}: {self.injected} injected, {self.passed} passed, "
            f"{'on' if self._is_on else 'off'}>"
        )


class _FaultsOfService:
    """All that is on for one service, the innermost first; what `calls` asks, see its `Faults`."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self.active: tuple[InjectedFaults, ...] = ()

    def around(
        self,
        call: CallInfo,
        args: tuple[Any, ...],  # Any: the call's arguments
        kwargs: dict[str, Any],  # Any: the call's arguments
        make: Callable[[], Any],  # Any: something to await
    ) -> Any:  # Any: the same
        played = self._chosen(call, args, kwargs, is_block=False)
        return make() if played is None else played.run(make)

    def of_block(self, call: CallInfo) -> _Played | None:
        return self._chosen(call, (), {}, is_block=True)

    def _chosen(
        self, call: CallInfo, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, is_block: bool
    ) -> _Played | None:  # Any: the call's arguments
        faulty = FaultyCall(
            service_name=call.service_name,
            function_name=call.function_name,
            attempt=call.attempt,
            effect=call.effect,
            args=args,
            kwargs=kwargs,
            context=current_context() or {},
            is_block=is_block,
        )
        for injected in self.active:
            step = injected._take(faulty)
            if step is None:
                continue
            if is_block and any(isinstance(part, Answers) for part in step):
                raise TypeError(
                    f"a block on service {call.service_name!r} ({call.function_name}) met Answers: a block has "
                    "no result; use Fails, Delays or Hangs, or where=lambda call: not call.is_block"
                )
            return injected._played(step, faulty)
        return None


class _Played:
    """One fault on one attempt: what happens before the function or block, and what after it."""

    def __init__(
        self, step: tuple[Part, ...], call: FaultyCall, runtime: Runtime, rng: random.Random
    ) -> None:
        self._before = [part for part in step if not part.sent]
        self._after = [part for part in step if part.sent]
        self._call = call
        self._play = partial(play, call=call, clock=runtime.clock, rng=rng)

    async def run(self, make: Callable[[], Awaitable[Any]]) -> Any:  # Any: the function's result
        for part in self._before:
            if isinstance(part, Answers):
                return answer_of(part, self._call)
            await self._play(part)
        try:
            awaitable = make()
        except TypeError as error:  # wrong arguments: raised at once, and no verdict on the service
            raise NotStartedError(error) from None
        result = await awaitable
        for part in self._after:
            if isinstance(part, Answers):
                result = answer_of(part, self._call)
            else:
                await self._play(part)
        return result

    async def enter(self) -> None:
        await self._all(self._before)

    async def leave(self) -> None:
        await self._all(self._after)

    async def _all(self, parts: list[Part]) -> None:
        for part in parts:
            if not isinstance(part, Answers):  # refused for blocks when it was chosen
                await self._play(part)


def _numbers(attempts: object) -> frozenset[int] | None:
    if attempts is None:
        return None
    if isinstance(attempts, int):
        attempts = (attempts,)
    if isinstance(attempts, str) or not isinstance(attempts, Collection):
        raise TypeError(f"attempts must be a number or several, 1 for the first attempt, got {attempts!r}")
    numbers = frozenset(whole_number("attempts", number, minimum=1) for number in attempts)
    if not numbers:
        raise ValueError("attempts is empty: no attempt would ever meet the fault")
    return numbers


def _window(during: object) -> tuple[float, float | None] | None:
    if during is None:
        return None
    if not isinstance(during, tuple) or len(during) != _PAIR:
        raise TypeError(f"during must be a pair of seconds (from, to) such as (10, 20), got {during!r}")
    first = seconds("the first of during", during[0])
    last = None if during[1] is None else seconds("the second of during", during[1])
    if last is not None and last <= first:
        raise ValueError(f"during must be (from, to) with to after from, got {during!r}")
    return first, last


_PAIR: Final = 2

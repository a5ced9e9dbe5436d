"""
The recovery service: the seed's names, made asynchronous, over the parts that do the work.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import math
import os
import random
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack, overload

from shockproof.calls.combinations import warn_of_useless
from shockproof.calls.handle import Handle
from shockproof.calls.options import ServiceOptions, calling_place, check_options
from shockproof.calls.plan import Plan
from shockproof.calls.runtime import Runtime, SentOnce
from shockproof.memory.disk import writer as background
from shockproof.memory.disk.directory import make_writable
from shockproof.memory.disk.writer import Writer, after_fork, at_exit, writer_for
from shockproof.memory.error_log.context import error_context
from shockproof.memory.error_log.error_log import ErrorLog
from shockproof.memory.error_log.history import ErrorHistory
from shockproof.memory.error_log.recorder import Recorder
from shockproof.memory.error_log.redaction import DEFAULT_NAMES, Redactor
from shockproof.memory.services.halt import Halt
from shockproof.memory.services.listeners import Listener, Listeners
from shockproof.memory.services.registry import Registry
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.backoff import Jitter, Randomness, checked_randomness
from shockproof.policies.circuit_breaker import CircuitState
from shockproof.settings import (
    ErrorLogOptions,
    LoopMonitorOptions,
    check_change,
    check_error_log,
    check_loop_monitor,
    resolve,
)
from shockproof.vocabulary.arguments import (
    NOT_GIVEN,
    NotGiven,
    Seconds,
    a_name,
    names_the_nearest,
    one_of,
    seconds,
    whole_number,
)
from shockproof.vocabulary.clock import Clock, as_clock
from shockproof.vocabulary.errors import JournalLockedError
from shockproof.vocabulary.event_loop import require_running_loop
from shockproof.vocabulary.first_use import made_at_first_use
from shockproof.vocabulary.statuses import CIRCUIT_MODES, CircuitMode, ErrorSeverity, ServiceStatus

if TYPE_CHECKING:
    from shockproof.calls.loop_lag import LoopLag
    from shockproof.calls.loop_monitor import LoopMonitor
    from shockproof.calls.periodic import Periodic
    from shockproof.calls.reconciliation import Reconciled, Reconciliation
    from shockproof.calls.state_handover import StateHandover
    from shockproof.calls.ways import WaysOfServices
    from shockproof.memory.error_log.error_reading import ErrorReading
    from shockproof.memory.fleet.fleet import Fleet
    from shockproof.memory.fleet.ownership import Ownership
    from shockproof.memory.journal.earlier_sends import EarlierSend
    from shockproof.memory.journal.journal import Journal
    from shockproof.memory.journal.journal_status import JournalStatus
    from shockproof.memory.journal.journalled_values import JournalledValues
    from shockproof.memory.journal.name import Name
    from shockproof.memory.journal.operation import Operation
    from shockproof.memory.journal.pending_in_state import PendingInState
    from shockproof.memory.services.kept_sends import EarlierSends, KeptSends
    from shockproof.memory.state.schema import Migration, Schema
    from shockproof.memory.state.state_capture import StateSecrets
    from shockproof.memory.state.state_files import StateFiles
    from shockproof.memory.state.state_saver import StateSaver
    from shockproof.memory.stores.lease import Lease
    from shockproof.memory.stores.state_store import StateStore
    from shockproof.vocabulary.events import Event
    from shockproof.vocabulary.models import SystemState

__all__ = ["ErrorRecoveryService", "check_recovery"]

R = TypeVar("R")

_JOURNAL_AGAIN_AFTER: Final = 0.25
"""Seconds after which an owner asks again for the journal that a former one still has."""

_log = logging.getLogger("shockproof")


class _PendingSaves:
    """Savers with a state that waits for its interval: kept alive until the program ends."""

    def __init__(self) -> None:
        self._savers: set[StateSaver] = set()

    def keep(self, saver: StateSaver) -> None:
        """Write what *saver* holds when the program ends, if it is not written before."""
        at_exit(self._write)
        self._savers = {other for other in self._savers if other.pending} | {saver}

    def _write(self, timeout: float) -> str | None:
        from shockproof.memory.state.state_saver import flush_all_blocking

        return "; ".join(flush_all_blocking(self._savers, timeout)) or None


_pending_saves = _PendingSaves()


def _forwarded(setting: str) -> Any:  # Any: a property, whose type mypy would ask each class for
    def get(self: ErrorRecoveryService) -> object:
        return getattr(self, setting)

    def set_(self: ErrorRecoveryService, value: object) -> None:
        warnings.warn(
            f"setting a private attribute is deprecated: call configure({setting}={value!r})",
            DeprecationWarning,
            stacklevel=2,
        )
        self.configure(**{setting: value})

    return property(get, set_)


class ErrorRecoveryService:
    """
    Retries, falls back, stops at open circuits, remembers errors and state, and knows the health.

    Made anywhere, also outside a loop; nothing starts before it is needed; several threads and
    loops may share one. As an async context manager it starts on entry and flushes everything on
    exit. Not given arguments are looked up in the environment (``ERROR_RECOVERY_MAX_RETRIES`` and
    so on) when the service is made, then the default applies.

    Args:
        state_dir: where the state is kept. Made at first need.
        error_log_dir: where errors are logged, one JSON line each. Made at first need.
        max_retries: retries after the first call, at least 0. Default 3.
        base_delay: seconds before the first retry, at least 0. Default 1.0.
        max_delay: the longest wait in seconds, at least 0. Default 60.0.
        backoff_factor: what each wait is multiplied by, at least 1. Default 2.0.
        jitter: ``"none"`` (default: delays are exact), ``"full"`` (recommended), ``"equal"``,
            ``"decorrelated"``.
        circuit_threshold: failed attempts in a row that open a circuit, at least 1; None never
            opens one. Default 5.
        circuit_timeout: seconds a circuit stays open, more than 0. Default 60.0.
        state_save_interval: the least seconds between two saves that are not forced. Default 60.0.
        max_threads: most threads for plain functions, for each service. Default 16.
        error_log: how the error log keeps its files and its bounds, see `ErrorLogOptions`. Default:
            all files are kept, and 10,000 records or 8 MiB may wait for the disk.
        loop_monitor: True, or a dict of `LoopMonitorOptions`: watch how late the event loop is, name the line that holds it,
            and count a lateness above a threshold as degraded health. Default: False, which costs nothing.
        redact: the names under which strings are secret; ``()`` turns that off. Default: ``api_key``,
            ``secret``, ``password``, ``passphrase``, ``private_key``, and in the error log and the details of
            operations also ``token``, ``signature``, ``authorization``, ``cookie``.
        encryption_key: a Fernet key that encrypts secrets in the state (the extra ``crypto``), or
            several: the first encrypts, every one decrypts. Default: secrets are left out.
        state_migrations: functions that lead the state from one version of your program to the next, oldest first:
            each takes a dict of ``active_operations``, ``cached_data`` and ``configuration`` and returns one. With n of
            them states are saved as version n + 1, and older ones are migrated when they are restored, in the disk's
            thread. Default: none, and all states are of version 1.
        keep_daily_states: of how many days the last state is kept beside the newest one, for ``shockproof report --day``; at
            least 0. Default 0.
        store: what several processes share, such as ``RedisStore("redis://localhost:6379")``: services with
            ``shared=True`` then know what the others find out, and have one ``rate_limit`` and one
            ``retry_budget`` in common. It is asked in the background, never on a call's path, and
            closed by `aclose`. Default: none.
        owns: what only one process at a time may write for, such as ``"account 7"``: one of those with the same *store* owns
            it, and calls that are neither reads nor risk-reducing are refused with `HaltedError` in the others. See `owned`.
            Default: nothing.
        share_state: keep what `save_state` saves in the *store*, too, for whoever owns what *owns* names next: `restore_state` takes
            the newer one of both. It is put there in the background, up to 8 MiB compressed. Default: False.
        process_name: as what this process counts among them. Default: host,
            process number and eight digits, and one that is gone from this host counts no longer when another one of it does.
        machine_name: as what the machine counts on which it runs, for ``circuit_quorum``; machines whose fate is one, such as those
            behind one line, may have one name. Default: the host's name, which in a container is its own.
        clock: where time comes from, see `Clock`. Default: the real time.
        rng: the source of jitter, for example ``random.Random(7)``. Default: a fresh one.

    Raises:
        TypeError, ValueError: a value that is not allowed, with its name, the value and the range.
    """

    @names_the_nearest
    def __init__(
        self,
        state_dir: str | os.PathLike[str] | NotGiven = NOT_GIVEN,
        error_log_dir: str | os.PathLike[str] | NotGiven = NOT_GIVEN,
        max_retries: int | NotGiven = NOT_GIVEN,
        base_delay: Seconds | NotGiven = NOT_GIVEN,
        max_delay: Seconds | NotGiven = NOT_GIVEN,
        backoff_factor: float | NotGiven = NOT_GIVEN,
        *,
        circuit_threshold: int | NotGiven | None = NOT_GIVEN,
        circuit_timeout: Seconds | NotGiven = NOT_GIVEN,
        state_save_interval: Seconds | NotGiven = NOT_GIVEN,
        jitter: Jitter = "none",
        max_threads: int = 16,
        error_log: ErrorLogOptions | None = None,
        loop_monitor: bool | LoopMonitorOptions = False,
        redact: Iterable[str] | None = None,
        encryption_key: str | bytes | Sequence[str | bytes] | None = None,
        state_migrations: Sequence[Migration] = (),
        keep_daily_states: int = 0,
        store: StateStore | None = None,
        owns: str | None = None,
        share_state: bool = False,
        process_name: str | None = None,
        machine_name: str | None = None,
        clock: Clock | Callable[[], float] | None = None,
        rng: Randomness | None = None,
    ) -> None:
        _check_store(store)
        if not isinstance(share_state, bool):
            raise TypeError(f"share_state must be True or False, got {share_state!r}")
        self._settings = resolve(
            {
                "state_dir": state_dir,
                "error_log_dir": error_log_dir,
                "max_retries": max_retries,
                "base_delay": base_delay,
                "max_delay": max_delay,
                "backoff_factor": backoff_factor,
                "circuit_threshold": circuit_threshold,
                "circuit_timeout": circuit_timeout,
                "state_save_interval": state_save_interval,
            },
            os.environ,
        )
        handle_defaults, _ = check_options({"jitter": jitter})
        self._loop_options = check_loop_monitor(loop_monitor)
        self._clock = as_clock(clock)
        self._history = ErrorHistory()
        self._error_log = ErrorLog(
            self.error_log_dir, clock=self._clock, **check_error_log({} if error_log is None else error_log)
        )
        self._redact = None if redact is None else _names(redact)
        self._redactor = Redactor(DEFAULT_NAMES if self._redact is None else self._redact)
        self._listeners = Listeners()
        randomness = random.Random() if rng is None else checked_randomness(rng)  # noqa: S311 - jitter is no secret
        self._state_writer = writer_for(self.state_dir)
        self._halt = Halt(
            self.state_dir,
            clock=self._clock,
            submit=self._state_writer.submit,
            on_change=self._reconsider_lanes,
        )
        self._registry = Registry(
            circuit_threshold=self._settings["circuit_threshold"],
            circuit_timeout=self._settings["circuit_timeout"],
            on_transition=self._on_transition,
            on_would_open=self._on_would_open,
            rng=randomness,
            halt=self._halt,
        )
        self._loop_monitor = None if self._loop_options is None else self._monitor(**self._loop_options)
        self._registry.stood_still = None if self._loop_monitor is None else self._loop_monitor.stood_still
        self._runtime = Runtime(
            clock=self._clock,
            rng=randomness,
            registry=self._registry,
            recorder=Recorder(self._history, self._error_log, self._clock, self._redactor),
            listeners=self._listeners,
            defaults={**self._settings, **handle_defaults},
            redact=self._redactor.text,
            max_threads=whole_number("max_threads", max_threads, minimum=1),
            on_first_call=self._start_background,
            sent_once=SentOnce(
                ways=lambda: self._ways,
                reconciliation=lambda: self._sendings,
                loaded=partial(self._have_loaded_the_rest, _PATIENCE),
                times_taken_over=lambda: self._journal.times_taken_over if self._has_made("_journal") else 0,
            ),
        )
        self._encryption_key = encryption_key
        self._state_migrations = state_migrations
        self._keep_days = whole_number("keep_daily_states", keep_daily_states, minimum=0)
        if redact is not None or encryption_key is not None or state_migrations:
            _ = self._state_files  # checks them
        self._is_first_save_to_come = True
        self._pending_in_state: PendingInState | None = None
        """What the state that was restored or saved last names as pending, beside the journal."""
        self._restored_from_journal: set[Name] = set()
        if process_name is not None:
            a_name("process_name", process_name, "bot-1")
        if machine_name is not None:
            a_name("machine_name", machine_name, "host-1")
        self._ownership: Ownership | None = None
        if owns is not None:
            if store is None:
                raise ValueError(
                    f"owns={owns!r} needs where that is agreed on: "
                    'ErrorRecoveryService(store=RedisStore("redis://localhost:6379"), owns=...)'
                )
            from shockproof.calls.journal_and_halt import JournalAndHalt
            from shockproof.memory.fleet.ownership import Ownership

            ownership = self._ownership = Ownership(
                a_name("owns", owns, "account 7"),
                process_name,
                JournalAndHalt(
                    lambda: self._journal if self._has_made("_journal") else None,
                    self._loaded_journal,
                    self._halt,
                    self._clock,
                ),
                self._clock,
                self._listeners,
            )
            self._halt.missing = lambda: ownership.missing
        self._handover = self._hand_over_to(store, randomness) if share_state else None
        self._fleet: Fleet | None = None
        if store is not None:
            from shockproof.memory.fleet.fleet import Fleet

            self._fleet = Fleet(
                store,
                name=process_name,
                machine=machine_name,
                clock=self._clock,
                rng=randomness,
                on_loop_end=self._forget_loop,
                ownership=self._ownership,
                state=None if self._handover is None else self._handover.shared,
            )
        self._handles: dict[tuple[str, int | None], Handle] = {}
        self._periodic: dict[str, Periodic] = {}
        self._numbers = itertools.count(1)
        self._final_saves: dict[str, Callable[[], Awaitable[None]]] = {}

    # -- what outlives the process: imported and made at first use, or by `start` ------------------

    @made_at_first_use
    def _secrets(self) -> StateSecrets:
        from shockproof.memory.state.secrets import SECRET_NAMES, SecretCipher, SecretNames
        from shockproof.memory.state.state_capture import StateSecrets

        return StateSecrets(
            SecretNames(SECRET_NAMES if self._redact is None else self._redact),
            None if self._encryption_key is None else SecretCipher(_keys(self._encryption_key)),
        )

    @made_at_first_use
    def _journal(self) -> Journal:
        from shockproof.memory.journal.journal import journal_for

        return journal_for(self.state_dir / "journal")

    @made_at_first_use
    def _journalled_values(self) -> JournalledValues:
        from shockproof.memory.journal.journalled_values import JournalledValues
        from shockproof.memory.state.secrets import SECRET_NAMES, SecretNames

        names = (
            self._secrets.names if self._redact is not None else SecretNames((*SECRET_NAMES, *DEFAULT_NAMES))
        )
        return JournalledValues(self._secrets, names_in_details=names, redact=self._redactor.text)

    @made_at_first_use
    def _ways(self) -> WaysOfServices:
        from shockproof.calls.ways import WaysOfServices

        return WaysOfServices()

    @made_at_first_use
    def _sendings(self) -> Reconciliation:
        from shockproof.calls.reconciliation import Reconciliation

        return Reconciliation(self._journal, self._journalled_values, self._clock, self._ways)

    @made_at_first_use
    def _schema(self) -> Schema:
        from shockproof.memory.state.schema import Schema

        return Schema(self._state_migrations)

    @made_at_first_use
    def _state_files(self) -> StateFiles:
        from shockproof.memory.state.state_files import StateFiles

        return StateFiles(
            self.state_dir,
            secrets=self._secrets,
            schema=self._schema,
            now=lambda: datetime.fromtimestamp(self._clock.time(), UTC),
            keep_days=self._keep_days,
        )

    @made_at_first_use
    def _saver(self) -> StateSaver:
        from shockproof.memory.state.state_saver import StateSaver

        saver = StateSaver(
            self._state_files,
            clock=self._clock,
            interval=self.state_save_interval,
            submit=self._state_writer.submit,
        )
        after_fork(saver.after_fork)  # one that is not kept is forgotten with it
        return saver

    @made_at_first_use
    def _kept_sends(self) -> KeptSends:
        from shockproof.memory.journal.moments import moment_of
        from shockproof.memory.services.kept_sends import KeptSends

        moment = partial(moment_of, self._clock)
        return KeptSends(self.state_dir, registry=self._registry, clock=self._clock, moment=moment)

    def _has_made(self, part: str) -> bool:
        return part in vars(self)

    # -- calls -------------------------------------------------------------------------------------

    @overload
    async def retry_with_backoff(
        self,
        func: Callable[..., Awaitable[R]],
        /,
        *args: Any,  # Any: the function's own arguments and result
        service_name: str = ...,
        max_retries: int | None = ...,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def retry_with_backoff(
        self,
        func: Callable[..., R],
        /,
        *args: Any,  # Any: the function's own arguments and result
        service_name: str = ...,
        max_retries: int | None = ...,
        **kwargs: Any,
    ) -> R: ...
    async def retry_with_backoff(
        self,
        func: Callable[..., Any],  # Any: the function's own arguments and result
        /,
        *args: Any,
        service_name: str = "unknown",
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Call *func* with the arguments, and again after each failure, with growing waits between.

        Only *service_name* and *max_retries* are ours; every other keyword goes to *func*.

        Args:
            func: a coroutine function, or a plain function, which runs in a thread.
            *args: its arguments.
            service_name: whose circuit and health this call belongs to.
            max_retries: retries after the first call; None: the service's.
            **kwargs: its arguments.

        Returns:
            What *func* returned.

        Raises:
            CircuitOpenError: the circuit of the service is open; *func* did not run.
            Exception: the last attempt's own error, unchanged; `attempts_of` tells the earlier ones.

        A cancellation passes at once, counts nowhere and is never retried.
        """
        return await self._handle(service_name, max_retries).call(func, *args, **kwargs)

    @overload
    async def with_fallback(
        self,
        /,
        primary_func: Callable[..., Awaitable[R]],
        fallback_func: object,
        *args: Any,  # Any: the functions' own arguments
        service_name: str = ...,
        max_retries: int | None = ...,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def with_fallback(
        self,
        /,
        primary_func: Callable[..., R],
        fallback_func: object,
        *args: Any,  # Any: the functions' own arguments
        service_name: str = ...,
        max_retries: int | None = ...,
        **kwargs: Any,
    ) -> R: ...
    async def with_fallback(
        self,
        /,
        primary_func: Callable[..., Any],  # Any: the function's own arguments and result
        fallback_func: Any,
        *args: Any,
        service_name: str = "unknown",
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Call *primary_func* with retries; when it fails for good or its circuit is open, *fallback_func*.

        The fallback gets the arguments if it can bind them, else none; a value that is not callable
        is returned as it is. Its answer leaves the service DEGRADED.

        Raises:
            Exception: both failed: the fallback's error, with the primary's as its ``__cause__``.
        """
        options = {"max_retries": self._retries(max_retries), "fallback": [fallback_func]}
        state = self._registry.get_or_create(a_name("service_name", service_name))
        return await self._bound(state, options).call(primary_func, *args, **kwargs)

    def _handle(self, service_name: str, max_retries: int | None) -> Handle:
        key = (service_name, max_retries)
        handle = self._handles.get(key)
        if handle is None:
            state = self._registry.get_or_create(a_name("service_name", service_name))
            handle = self._bound(state, {"max_retries": self._retries(max_retries)})
            handle = self._handles.setdefault(key, handle)
        return handle

    def _bound(self, state: ServiceState, options: dict[str, Any]) -> Handle:  # Any: see options
        return Handle(Plan(options).bind(self._runtime, state))

    @staticmethod
    def _retries(max_retries: int | None) -> int | None:
        return None if max_retries is None else whole_number("max_retries", max_retries, minimum=0)

    def service(self, name: str, **options: Unpack[ServiceOptions]) -> Handle:
        """
        A handle on the service *name*: call it, decorate with it, or enter its blocks.

        What belongs to the service (circuit, probes, critical, health check) is one for its name.

        Raises:
            TypeError: an unknown option, or a value of the wrong type.
            ValueError: a value out of range, or a second, different value for what belongs to the
                service; both places are named.
        """
        handle_options, service_options = check_options(options)
        plan = Plan(handle_options)
        place = calling_place() if service_options else ""  # for what another place may declare differently
        self._bind(plan, a_name("name", name), service_options, place)
        if options:
            warn_of_useless(
                {**handle_options, **service_options}, {**handle_options, **plan.state.set_by_hand}
            )
        return Handle(plan)

    def _bind(
        self, plan: Plan, name: str, service_options: Mapping[str, Any], place: str
    ) -> None:  # Any: each option has a type of its own
        """Make *plan* a way to call the service *name*; for `service` and the decorator."""
        if service_options.get("shared") and self._fleet is None:
            raise ValueError(
                f"service {name!r}: shared=True needs what is shared in: "
                'ErrorRecoveryService(store=RedisStore("redis://localhost:6379"))'
            )
        state = self._runtime.declare(name, service_options, place)
        plan.bind(self._runtime, state)
        if state.shared and self._fleet is not None:
            self._fleet.share(state, state.circuit_quorum)
        if state.health_check is not None:
            self._check_by_itself(state)

    # -- circuits, statuses, health ---------------------------------------------------------------

    def is_circuit_open(self, service_name: str) -> bool:
        """Whether calls are refused now; False again as soon as the circuit's timeout has passed."""
        state = self._registry.get(service_name)
        return state is not None and state.circuit.state(self._clock.monotonic()) == "open"

    def reset_circuit_breaker(self, service_name: str) -> None:
        """
        Close the circuit and forget its failures; an unknown name does nothing.

        One that is forced open stays so, until `set_circuit_mode` lets it go.
        """
        state = self._registry.get(service_name)
        if state is not None:
            state.reset(self._clock.monotonic())

    def set_circuit_mode(self, service_name: str, mode: CircuitMode, reason: str | None = None) -> None:
        """
        Take the circuit of a service into your own hands, or give it back.

        * ``"forced-open"``: calls are refused until another mode is set, also after a restart, if the
          state is saved and restored. Calls with ``risk_reducing=True`` pass, and fallbacks answer.
        * ``"disabled"``: calls pass, and nothing is counted.
        * ``"shadow"``: calls pass, everything is counted, and `CircuitWouldOpen` tells when the circuit
          would have opened.
        * ``"normal"``: it works by its rules, beginning closed with nothing counted.

        Args:
            service_name: a service that was declared or called before.
            mode: one of the four.
            reason: why, for health, events and the error that refused calls get.

        Raises:
            TypeError, ValueError: no such mode, a reason that is no string, or no such service: a
                circuit that is to be held open and has another name would hold back nothing.
        """
        one_of("mode", mode, CIRCUIT_MODES)
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"reason must be a string or None, got {reason!r}")
        state = self._registry.get(service_name)
        if state is None:
            known = ", ".join(repr(state.name) for state in self._registry.all()) or "none yet"
            raise ValueError(
                f"there is no service {service_name!r}; there are {known}. Declare it first with "
                f"recovery.service({service_name!r})"
            )
        previous = state.set_circuit_mode(mode, reason)
        if previous is not None and self._listeners:
            from shockproof.vocabulary.events import CircuitModeChanged

            self._listeners.publish(
                CircuitModeChanged(
                    service_name=service_name,
                    at=self._clock.time(),
                    mode=mode,
                    previous=previous,
                    reason=reason,
                )
            )

    def retire_service(self, service_name: str) -> bool:
        """
        Forget a service that is not used any more: health, metrics and saved states are rid of it.

        For programs that make services as they go, for each symbol or account. A handle or a decorated
        function that is still there may call it again: then it is known again, with its circuit and its
        counts as they were. Its health check rests until it is declared again.

        Returns:
            Whether there was such a service.
        """
        state = self._runtime.retire(service_name)
        if state is None:
            return False
        if self._fleet is not None:
            self._fleet.forget(service_name)
        periodic = self._periodic.pop(_name_of_check(state), None)
        if periodic is not None:
            periodic.stop()
        for key in [key for key in list(self._handles) if key[0] == service_name]:
            self._handles.pop(key, None)
        return True

    # -- the kill switch ---------------------------------------------------------------------------

    def halt(self, reason: str) -> Awaitable[None]:
        """
        Stop everything but reads and what reduces risk, at once and over restarts, until `resume`.

        When this returns, calls with ``effect="idempotent"`` or ``"unsafe"`` are refused with `HaltedError`, and so
        is `Handle.once`, unless they are ``risk_reducing``; a call that waits for its turn is refused when it
        comes, one that is under way is neither repeated nor hedged nor sent elsewhere and ends with its own
        error. What was sent is not taken back. A call whose effect is not declared is a read, and passes; so
        do feeds, `operation` blocks, what is in them, and `reconcile`.

        It acts when called, from any thread, with or without a loop. Awaiting it is for knowing that it is
        durable; without that it is written all the same, at the latest when the program ends in an orderly way.
        Called again it changes the reason.

        It is for this recovery service. Another one that runs on the same ``state_dir`` goes on until it is halted, too, or
        begins anew.

        Args:
            reason: why, for the errors, the health, the next life and whoever resumes. It is kept as one line.

        Raises:
            TypeError, ValueError: the reason is no string, or empty.
            StateNotSavedError: when awaited: the disk refused. It is halted in memory nevertheless, and written
                again by `aclose`.

        Cancelled while awaited, it stays halted, and is written.
        """
        told = self._redactor.text(_one_line(a_name("reason", reason, "lost the risk feed")))
        durable = self._halt.halt(told)
        _log.warning("halted: %s", told)
        if self._listeners:
            from shockproof.vocabulary.events import Halted

            self._listeners.publish(Halted(service_name="", at=self._clock.time(), reason=told))
        return durable

    def resume(self) -> Awaitable[None]:
        """
        Lift `halt`, also that of an earlier life: everything may be sent again when this returns.

        Awaiting it is for knowing that the next life will find it so. What was refused is not sent by itself.

        Raises:
            StateNotSavedError: when awaited: the disk refused, and the next life would still be halted.

        Cancelled while awaited, it stays resumed, and is written.
        """
        was_halted = self._halt.closes_the_lane
        durable = self._halt.resume()
        if was_halted:
            _log.warning("resumed")
            if self._listeners:
                from shockproof.vocabulary.events import Resumed

                self._listeners.publish(Resumed(service_name="", at=self._clock.time()))
        return durable

    async def owned(self) -> Lease:
        """
        Return when this process owns what *owns* names, with its lease: how a second bot stands by for the first.

        It takes as long as another process is the owner: that one gives it up with `aclose`, and 15 seconds after it
        died it is free. So long, too, where the store has never known of an owner, or has lost its data: an earlier one may
        not know yet that it is over.

        Returns:
            The lease as it is now, for ``guard=lease.guard`` and ``lease.token``; it is renewed in the background.

        Raises:
            ValueError: this service was made without *owns*.

        Cancelled, only the waiting ends.
        """
        loop = require_running_loop()
        if self._ownership is None or self._fleet is None:
            raise ValueError('there is nothing to own: ErrorRecoveryService(store=..., owns="account 7")')
        self._fleet.ensure()
        while (lease := self._ownership.lease) is None:
            told: asyncio.Future[None] = loop.create_future()
            self._ownership.waiting.add(told)
            try:
                if not self._ownership.is_held:  # it may have come from another thread meanwhile
                    await told
            finally:
                self._ownership.waiting.discard(told)
        return lease

    def _reconsider_lanes(self) -> None:
        for state in self._registry.all():
            state.reconsider()

    def get_service_status(self, service_name: str) -> ServiceStatus:
        """The status of one service; OPERATIONAL for one that was never seen."""
        state = self._registry.get(service_name)
        if state is None:
            return ServiceStatus.OPERATIONAL
        return state.status_at(self._clock.monotonic())

    def get_all_service_statuses(self) -> dict[str, ServiceStatus]:
        """The status of every service seen so far."""
        now = self._clock.monotonic()
        return {state.name: state.status_at(now) for state in self._registry.all()}

    def get_health_status(self) -> dict[str, Any]:  # Any: JSON
        """
        How everything is doing, as a JSON-ready dict.

        ``overall_health``, ``service_statuses``, ``recent_error_count`` (the last 300 s),
        ``circuit_breakers``, ``services`` (counts), ``error_log`` (``state``, ``written``, ``queued``,
        ``dropped``), ``journal`` (``state``, ``pending``, ``last_error``, ``incomplete``), ``kept_sends`` (``state``, ``last_error``),
        ``halted``, ``halt``
        (``reason``, ``since``, ``is_known``, ``is_durable``, ``last_error``), ``loop`` (``state``, ``loops``, ``stalled_for``, ``stalls``,
        ``recent_stalls``, ``lag``; None without a ``loop_monitor``), ``shared`` (``state``, ``since``, ``last_error``,
        ``trouble``, ``owns``, ``open_for_all``, ``limits``, ``budgets``, ``votes``; None without a ``store``), ``timestamp``.
        """
        from shockproof.memory.services.health import RECENT_SECONDS, health_report

        now = self._clock.monotonic()
        return health_report(
            self._registry.all(),
            now=now,
            wall=self._clock.time(),
            recent_errors=self._history.recent_count(now, within=RECENT_SECONDS),
            error_log=self._error_log_report(),
            journal=self._journal_status()._asdict(),
            kept_sends=self._kept_sends_report(),
            halt=self._halt,
            loop=self._loop_report(),
            shared=self._shared_report(),
        )

    def _journal_status(self) -> JournalStatus:
        from shockproof.memory.journal.journal_status import UNOPENED

        # Whoever asks for the health loads no journal that nobody has used.
        has_been_loaded = "shockproof.memory.journal.journal" in sys.modules
        return self._journal.status() if has_been_loaded else UNOPENED

    def _kept_sends_report(self) -> dict[str, Any]:  # Any: texts, and nothing
        if not self._has_made("_kept_sends"):
            return {"state": "closed", "last_error": None}
        return self._kept_sends.report(self._clock.monotonic())

    def _shared_report(self) -> dict[str, Any] | None:  # Any: JSON
        return None if self._fleet is None else self._fleet.health

    def _loop_report(self) -> dict[str, Any] | None:  # Any: text and numbers
        return None if self._loop_monitor is None else self._loop_monitor.report()

    def _error_log_report(self) -> dict[str, Any]:  # Any: text and numbers
        statistics = self._error_log.statistics()
        return {
            "state": statistics.state,
            "written": statistics.written,
            "queued": statistics.queued,
            "dropped": statistics.dropped,
            "dropped_by_severity": dict(statistics.dropped_by_severity),
            "folded": statistics.folded,
            "last_error": statistics.last_error,
        }

    def get_error_summary(
        self,
        since: datetime | None = None,
        service_name: str | None = None,
        min_severity: ErrorSeverity | None = None,
    ) -> dict[str, Any]:  # Any: JSON
        """
        What went wrong lately (the last 1000 errors), as a JSON-ready dict.

        ``total_errors``, ``errors_by_service``, ``errors_by_type``, ``errors_by_severity``,
        ``recent_errors`` (the last 10, oldest first). A naive *since* is local time.
        """
        return self._history.summary(
            since=_moment("since", since),
            service_name=service_name,
            min_severity=_severity("min_severity", min_severity),
        )

    def clear_error_history(self) -> None:
        """Forget the errors in memory; the files stay."""
        self._history.clear()

    def read_errors(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        service_name: str | None = None,
        min_severity: ErrorSeverity | None = None,
    ) -> ErrorReading:
        """
        The errors on disk, oldest file first, also those the original program wrote: an async iterator.

        Parts and compressed days are read as well. Torn and foreign lines are skipped and counted in its ``skipped``;
        files that cannot be read to their end are in its ``damaged``. Naive times are local time.
        """
        return self._error_log.read(
            since=_moment("since", since),
            until=_moment("until", until),
            service_name=service_name,
            min_severity=_severity("min_severity", min_severity),
        )

    def register_secret(self, value: str) -> None:
        """Replace *value* by ``***`` wherever it stands in what is logged from now on."""
        self._redactor.register(value)

    def context(self, **data: Any) -> AbstractContextManager[None]:  # Any: the user's own values
        """``with recovery.context(order="A1"): ...``: data for `ErrorRecord.context` while in force."""
        return error_context(data)

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """
        Tell *listener* of every event from now on; what is returned stops that.

        A plain listener runs in a thread of its own, a coroutine function on the loop: neither is on
        the call's path, and one that fails or is slow hurts no call.
        """
        return self._listeners.subscribe(listener)

    def _on_transition(self, state: ServiceState, to: CircuitState, now: float) -> None:
        if self._fleet is not None:
            self._fleet.transitioned(state, to)
        if not self._listeners:
            return
        from shockproof.vocabulary.events import CircuitClosed, CircuitHalfOpened, CircuitOpened

        name, at, circuit = state.name, self._clock.time(), state.circuit
        if to == "open":
            retry_after = circuit.open_for(now)
            event: Event = CircuitOpened(
                service_name=name, at=at, last_error=circuit.last_error, retry_after=retry_after
            )
        elif to == "half-open":
            event = CircuitHalfOpened(service_name=name, at=at)
        else:
            event = CircuitClosed(service_name=name, at=at)
        self._listeners.publish(event)

    def _on_would_open(self, state: ServiceState, now: float) -> None:
        if self._listeners:
            from shockproof.vocabulary.events import CircuitWouldOpen

            self._listeners.publish(
                CircuitWouldOpen(
                    service_name=state.name,
                    at=self._clock.time(),
                    last_error=state.circuit.last_error,
                    retry_after=state.circuit.open_by_rules_for(now),
                )
            )

    # -- state ---------------------------------------------------------------------------------------

    async def save_state(
        self,
        active_operations: list[dict[str, Any]] | None = None,
        cached_data: dict[str, Any] | None = None,
        configuration: dict[str, Any] | None = None,
        force: bool = False,
    ) -> bool:
        """
        Save the state of the system; an argument left out is saved as empty.

        Args:
            active_operations: what is under way, one dict each.
            cached_data: what should be there again after a restart.
            configuration: the settings of the program. Strings under names like ``api_key`` are
                replaced, and restore as `Redacted`.
            force: save now, whatever the interval says.

        Returns:
            True: it is durable. False: the last save was less than ``state_save_interval`` seconds
            ago; it is kept in memory and written when the interval ends or at exit.

        Raises:
            StateNotSavedError: the disk refused, or a value cannot be saved (its path is named);
                what was saved before is still there.
            StateVersionError: what is there is a newer program's, or `restore_state` has refused it: it would be lost.
            TypeError: an argument of the wrong type.

        Cancelled while it waits for the disk, the write goes on and nothing is left half-done.
        """  # Any: the user's own values
        given = _state_arguments(active_operations, cached_data, configuration)
        return await self._save(given, force=force, automatic=False)

    async def _save(
        self, given: dict[str, Any], *, force: bool, automatic: bool
    ) -> bool:  # Any: the user's own values
        from shockproof.memory.journal.moments import moment_of
        from shockproof.memory.services.earlier_life import export_services, export_statuses

        require_running_loop()
        now = self._clock.monotonic()
        state = {"service_statuses": export_statuses(self._registry, now), **given}
        state |= export_services(self._registry, now, moment_of(self._clock))
        await self._have_loaded_the_rest()
        if self._handover is not None:
            state |= self._handover.sections()
        try:
            saved = await self._saver.save(state, force=force, automatic=automatic)
            self._is_first_save_to_come = self._is_first_save_to_come and not saved
            if saved:
                self._look_for_pending_in(given["active_operations"])
            return saved
        finally:
            if self._saver.pending:  # skipped, refused by the disk, or cancelled meanwhile
                _pending_saves.keep(self._saver)

    async def restore_state(self) -> SystemState | None:
        """
        The newest valid state on disk, also one the original program wrote; None when there is none.

        A damaged file is set aside, never deleted, and the next best is used. Operations of the journal that
        began and did not end follow the saved ones in ``active_operations``, oldest first, as
        ``{"operation": ..., "key": ..., "status": "pending"}`` with their last checkpoint; without a saved state
        they make one. Of an operation that was saved in this form and is in the journal, the journal's is given, and nothing if it
        has come to its end since.

        The services that it names are known again, and show in the health and wherever services do, with the status that they
        had as their ``restored_status``: they are OPERATIONAL until they are called. The next save tells only of those that
        this life declares or calls.

        Circuits that were open when it was saved are open again for the time that is left, never longer
        than it was then, whatever the clock did; those of services that were called already stay as
        they are. What the life before has sent under rate limits counts, also after a kill: from here on it is kept in the
        background, ahead of what is sent, whether the state is saved or not; for a disk that is read and does not answer when that is
        written, this waits 10 seconds, and the log and the health tell of it. Before the first save of a life, retry
        budgets hold no more than the one before has left (if that is less than 5 minutes ago).

        With *share_state*, the state of the last owner in the store is taken where it is newer than that on disk; it waits at most
        10 seconds for that, and takes what is on disk where the store does not answer. Do so after `owned`. Orders that
        it names as pending, and that the journal here does not know, are pending here from then on.

        Raises:
            StateVersionError: the file was written by a newer version of shockproof or of your program, holds a class
                that is not registered, or one of ``state_migrations`` failed. Nothing was moved.
            OSError, JournalUnavailableError: the journal is there and cannot be read.
        """
        require_running_loop()
        await self._have_loaded_the_rest()
        from shockproof.memory.journal.name import Name
        from shockproof.memory.journal.operation import pending_operation, saved_but_ended, with_pending

        state = (await self._saver.load()).state
        kept = None if self._kept_sends.is_on else await self._kept_sends.earlier()
        of_another = None if self._handover is None else await self._handover.newer_than(state)
        state = state if of_another is None else of_another
        values = self._journalled_values
        saved = [] if state is None else state.active_operations
        pending, ended = await self._journal.look(
            lambda table: (
                [pending_operation(entry, values) for entry in table.pending()],
                saved_but_ended(saved, table),
            )
        )
        self._restored_from_journal = {
            Name(name, key) for name, key in (*ended, *((one["operation"], one["key"]) for one in pending))
        }
        self._look_for_pending_in(saved)
        sends = self._journal.earlier_sends if self._is_first_save_to_come else ()
        if of_another is not None:
            await self._take_over_orders(of_another)
        begins = not self._kept_sends.is_on  # nobody else has restored meanwhile
        kept = kept if begins else None
        if state is not None or sends or kept is not None:
            self._restore_services(state, sends, kept, is_from_elsewhere=of_another is not None)
        if begins:
            self._runtime.kept_sends = self._kept_sends
            await self._kept_sends.begin()
        if not pending and not ended:
            return state
        if state is None:
            # Loaded already, or by the thread that looked for a state.
            from shockproof.vocabulary.models import SystemState

            state = SystemState(timestamp=datetime.fromtimestamp(self._clock.time(), UTC))
        state.active_operations = with_pending(saved, pending, ended)
        return state

    def _look_for_pending_in(
        self, active_operations: list[dict[str, Any]]
    ) -> None:  # Any: the user's own values
        from shockproof.memory.journal.pending_in_state import pending_in_state

        self._pending_in_state = pending_in_state(
            active_operations,
            lambda name: name in self._restored_from_journal or self._journal.known(name) is not None,
        )

    async def _take_over_orders(self, state: SystemState) -> None:
        from shockproof.memory.journal.moments import moment_of
        from shockproof.memory.journal.pending_elsewhere import orders_pending_in, take_over_orders

        orders = orders_pending_in(state.active_operations)
        if orders:
            await take_over_orders(self._journal, orders, moment_of(self._clock))

    def _restore_services(
        self,
        state: SystemState | None,
        sends: tuple[EarlierSend, ...],
        kept: EarlierSends | None,
        *,
        is_from_elsewhere: bool,
    ) -> None:
        from shockproof.memory.journal.moments import moment_of
        from shockproof.memory.services.earlier_life import (
            SavedAt,
            counted_from,
            restore_circuits,
            restore_kept_sends,
            restore_orders,
            restore_sends,
            restore_statuses,
            wall_not_set_forward,
        )

        now, moment = self._clock.monotonic(), moment_of(self._clock)
        saved_at = -math.inf if state is None else state.timestamp.timestamp()
        saved = {} if state is None else state.model_extra or {}
        # By the clock of another machine nobody could tell how long ago it was: then it was just now, and which of the
        # orders journalled here it knows of is as unknown: then none.
        measured = None if is_from_elsewhere else counted_from(saved)
        elapsed = moment.wall - saved_at if measured is None else moment.passed_since(measured)
        elapsed, since = (0.0, -math.inf) if is_from_elsewhere else (elapsed, saved_at)
        wall = wall_not_set_forward(moment, measured, None if kept is None else kept.at)
        restore_circuits(self._registry, saved, now, elapsed)
        # From the first save on the file tells of this life, whose own calls would count twice.
        is_of_this_life = not self._is_first_save_to_come
        counted: Collection[str] = ()
        if kept is not None:
            when = SavedAt(now, moment, wall, since, elapsed, is_from_elsewhere)
            counted = restore_kept_sends(self._registry, kept, {} if is_of_this_life else saved, sends, when)
        if not is_of_this_life:
            self._is_first_save_to_come = False
            restore_sends(self._registry, saved, now, elapsed, but=counted)
            restore_orders(self._registry, sends, now, wall, since=since, but=counted)
        if state is not None:
            restore_statuses(self._registry, state.service_statuses)

    def _hand_over_to(self, store: StateStore | None, randomness: Randomness) -> StateHandover:
        if store is None or self._ownership is None:
            raise ValueError(
                "share_state=True needs a name that one process at a time owns, for which the state is: "
                'ErrorRecoveryService(store=..., owns="account 7", share_state=True)'
            )
        # Few need it, and it takes long to import.
        from shockproof.calls.state_handover import StateHandover

        handover = StateHandover(
            store,
            self._ownership,
            secrets=self._secrets,
            schema=self._schema,
            journal=self._journal,
            values=self._journalled_values,
            writer=self._state_writer,
            clock=self._clock,
            rng=randomness,
        )
        self._saver.on_written = handover.written
        return handover

    def operation(
        self,
        name: str,
        *,
        key: str | None = None,
        service_name: str = "unknown",
        risk_reducing: bool = False,
        **details: Any,  # Any: the user's own values
    ) -> Operation:
        """
        A durable operation: ``async with recovery.operation("rebalance", key="2026-11-23") as op:``.

        It is on the disk before the block runs, and known after a crash (`restore_state`). The next
        operation with the same name and key goes on from the last `Operation.checkpoint`.

        Args:
            name: what is done.
            key: which one; once completed, an operation with this key is refused for the next 7 days, and
                as long as fewer than 10,000 others were completed. None: there is one of this name, and it may begin
                again as soon as it ended.
            service_name: whose operation it is, for those who read the journal.
            risk_reducing: whether it cancels or closes, and runs whatever the disk does: full, broken, or hung, which it
                waits for one second for. That is a CRITICAL record. It goes on from what this process knows of it, and what
                becomes of it is durable as soon as the disk takes it; a crash before that has never heard of it.
                Default: False, what cannot be made durable does not run.
            **details: what it is begun with, kept with it. Strings under names like ``api_key`` or ``token`` are
                encrypted or left out, and secrets inside of texts and URLs too; in checkpoints and results as in the state.

        Entering the block raises what `Operation.__aenter__` names.

        Raises:
            TypeError, ValueError: a value that is not allowed; a name that ends in ``.once``, with a key: orders are kept so.
        """
        from shockproof.memory.journal.name import is_name_of_sendings
        from shockproof.memory.journal.operation import Operation

        if not isinstance(risk_reducing, bool):
            raise TypeError(f"risk_reducing must be True or False, got {risk_reducing!r}")
        checked_service_name = a_name("service_name", service_name)
        checked_name = a_name("name", name, "rebalance")
        if key is not None and is_name_of_sendings(checked_name):
            raise ValueError(
                f"name is {name!r}, under which the journal keeps the orders of a service: with a key, an operation needs "
                f"another name, such as {name.replace('.', '_')!r}"
            )
        return Operation(
            self._opened_journal,
            checked_name,
            None if key is None else a_name("key", key, "2026-11-23"),
            checked_service_name,
            details,
            now=self._clock.time,
            redact=self._redactor.text,
            # Nobody must be kept from closing a position by a full disk. It is on record where that still works.
            goes_without=partial(self._record_critical, checked_service_name, "operation")
            if risk_reducing
            else None,
        )

    async def _opened_journal(self) -> tuple[Journal, JournalledValues]:
        return await self._loaded_journal(), self._journalled_values

    async def _loaded_journal(self) -> Journal:
        await self._have_loaded_the_rest(_PATIENCE)
        return self._journal

    def _record_critical(self, service_name: str, function_name: str, error: Exception) -> None:
        self._runtime.recorder.record(
            error,
            severity=ErrorSeverity.CRITICAL,
            service_name=service_name,
            function_name=function_name,
            retry_count=0,
            now=self._clock.monotonic(),
        )

    async def reconcile(self) -> list[Reconciled]:
        """
        Look up every order that was sent once and whose outcome nobody knows, from this life or an earlier one.

        Each by the ``confirm`` that its own key was last given with to `Handle.once` in this life, or by the one of a
        ``service(name).once(confirm=..., settle=...)`` that was made since, which is good for every key of the service
        (`Handle.once`): make one before. Where there is neither, by that of another order: what it finds is found, and what it does not find stays
        pending, for it may look in another place. The longer of the settle windows counts, its own and the order's. What is
        found is completed, what is certain not to be there may be sent again, and the rest stays pending. What is
        being sent right now is left alone. The first order of a service in a life does this for its service by itself.

        It is bounded however many there are: all settle windows run at the same time, with at most 8 questions at a time
        for each service. Where ``confirm`` gives no answer, it ends as unknown at the latest 10 seconds after twice the
        settle window; as long as answers come, everything that waits for its turn is asked after.

        A ``confirm`` that raises has proven nothing. One that gives neither Found(...), NOT_FOUND nor UNKNOWN is logged as an
        error with what it gave, and its order stays pending; the others are settled.

        Returns:
            What became of each, oldest first.

        Raises:
            JournalUnavailableError, JournalLockedError, StateVersionError, OSError: the journal cannot tell.

        Where this process has to own something to write (*owns*), it waits for that first, as `owned` does, and then until no
        former owner on this machine has the journal any more. One that is stopped has it until it is continued or killed,
        which is logged and stands in the health. Other processes' journals raise JournalLockedError only without *owns*.

        Cancelled, what was settled by then is settled.
        """
        require_running_loop()
        if self._ownership is not None:
            await self._own_the_journal()
        await self._have_loaded_the_rest()
        from shockproof.calls.descent import note_makers_here

        note_makers_here(self._clock)  # a program that reconciles, sends orders
        return await self._sendings.reconcile()

    async def _own_the_journal(self) -> None:
        # Until then whoever had it may go on, and what it sends in the meantime would not be looked up.
        await self._have_loaded_the_rest()
        while True:
            await self.owned()
            try:
                return await self._journal.take()
            except JournalLockedError:
                await self._clock.sleep(_JOURNAL_AGAIN_AFTER)

    def track_state(
        self,
        provider: Callable[[], Any],  # Any: the user's own values
        *,
        every: Seconds | None = None,
    ) -> Callable[[], None]:
        """
        Save by itself: every *every* seconds, and when the service is closed.

        One provider gives the whole: each save replaces all of the one before, so that of two the later one would win. A second
        one that is tracked before the first was stopped is warned of in the log.

        It begins when this life has restored the state of the one before, or has called `save_state`: until then a state that
        an earlier life has left is not overwritten, and the log says so. Where none is there, it begins at once.

        Args:
            provider: gives the three arguments of `save_state`, as a dict of them or a tuple; plain
                or async. It runs on the loop and must be quick. One that fails is logged and asked again the next
                time; when the service is closed, what it gave before stays saved.
            every: seconds between two saves, more than 0. Default: ``state_save_interval``.

        Returns:
            A function that stops it.
        """
        if not callable(provider):
            raise TypeError(f"provider must be a function that gives what save_state takes, got {provider!r}")
        fixed = None if every is None else seconds("every", every, more_than=0)
        by = getattr(provider, "__qualname__", provider)
        name = f"automatic saving no. {next(self._numbers)} by {by!s}"

        if self._final_saves:
            _log.warning(
                "%s begins beside %s, and each save replaces the whole state: let one provider give all of it, or stop the "
                "other one first",
                name,
                " and ".join(self._final_saves),
            )

        async def arguments() -> dict[str, Any]:  # Any: the user's own values
            given = provider()
            if inspect.isawaitable(given):
                given = await given
            return _state_arguments(**_as_keywords(given))

        async def save() -> None:
            await self._save(await arguments(), force=True, automatic=True)

        async def save_at_the_end() -> None:
            try:
                last = await arguments()
            except Exception:  # noqa: BLE001  whatever the user's function raises, it is logged
                _log.exception(
                    "%s failed while the service was closed; what it gave before stays saved", name
                )
                return
            await self._save(last, force=True, automatic=True)

        periodic = self._add_periodic(
            name, every=lambda: self._interval_or_a_second() if fixed is None else fixed, action=save
        )
        self._final_saves[name] = save_at_the_end

        def stop() -> None:
            periodic.stop()
            self._periodic.pop(name, None)
            self._final_saves.pop(name, None)

        return stop

    def _interval_or_a_second(self) -> float:
        # An interval of 0 means that no save is skipped, not that saving never rests.
        return self.state_save_interval or 1.0

    # -- settings ------------------------------------------------------------------------------------

    def configure(self, **changes: Any) -> None:
        """
        Change settings while running; open circuits, counts and decorated functions follow at once.

        All changes are checked before the first is made.

        Raises:
            TypeError, ValueError: an unknown setting, or a value that is not allowed.
        """  # Any: each setting has a type of its own
        checked = {name: check_change(name, value) for name, value in changes.items()}
        self._settings.update(checked)
        self._runtime.change_defaults(checked)
        if self._has_made("_saver"):
            self._saver.interval = self.state_save_interval
        self._registry.configure(
            circuit_threshold=self._settings["circuit_threshold"],
            circuit_timeout=self._settings["circuit_timeout"],
        )

    @property
    def state_dir(self) -> Path:
        """Where the state is kept; absolute."""
        return self._path("state_dir")

    @property
    def error_log_dir(self) -> Path:
        """Where errors are logged; absolute."""
        return self._path("error_log_dir")

    @property
    def max_retries(self) -> int:
        """Retries after the first call."""
        return int(self._settings["max_retries"])

    @property
    def base_delay(self) -> float:
        """Seconds before the first retry."""
        return float(self._settings["base_delay"])

    @property
    def max_delay(self) -> float:
        """The longest wait, in seconds."""
        return float(self._settings["max_delay"])

    @property
    def backoff_factor(self) -> float:
        """What each wait is multiplied by."""
        return float(self._settings["backoff_factor"])

    @property
    def circuit_threshold(self) -> int | None:
        """Failed attempts in a row that open a circuit."""
        value: int | None = self._settings["circuit_threshold"]
        return value

    @property
    def circuit_timeout(self) -> float:
        """Seconds a circuit stays open."""
        return float(self._settings["circuit_timeout"])

    @property
    def state_save_interval(self) -> float:
        """The least seconds between two saves that are not forced."""
        return float(self._settings["state_save_interval"])

    @property
    def jitter(self) -> Jitter:
        """How the waits are spread."""
        value: Jitter = self._runtime.defaults["jitter"]
        return value

    @property
    def loop_monitor(self) -> dict[str, float] | None:
        """How the event loop is watched, see `LoopMonitorOptions`; None: it is not."""
        return None if self._loop_options is None else dict(self._loop_options)

    def _path(self, name: str) -> Path:
        value: Path = self._settings[name]
        return value

    # The seed's text sets these three; they forward to `configure`.
    _circuit_breaker_threshold = _forwarded("circuit_threshold")
    _circuit_breaker_timeout = _forwarded("circuit_timeout")
    _state_save_interval = _forwarded("state_save_interval")

    # -- starting and ending ---------------------------------------------------------------------------

    async def start(self) -> None:
        """
        Make the directories, load what takes long to import, and start what runs by itself.

        Never needed: everything starts by itself at first need. It moves the waiting to where nobody
        trades yet, and refuses at once what would fail later.

        Raises:
            OSError: a directory cannot be made or written, with the setting, its value and the way out.
        """
        require_running_loop()
        await self._error_log.prepare()
        await self._state_writer.run(make_writable, self.state_dir, "state_dir")
        await self._state_writer.run(_import_the_rest)
        await self._state_writer.run(_import_what_is_long)
        await self._state_writer.run(self._state_files.prepare)
        await self._halt.learn()
        self._start_background()
        if self._fleet is not None:
            await self._fleet.looked()

    async def _have_loaded_the_rest(self, patience: float | None = None) -> None:
        if _is_the_rest_loaded():
            return
        try:
            async with asyncio.timeout(patience):
                await self._state_writer.run(_import_the_rest)
        except (RuntimeError, TimeoutError):
            # The system has no thread left, or the disk hangs, which keeps nobody from closing a position: here, then.
            _import_the_rest(nap=0.0)

    async def aclose(self, timeout: float = 5.0) -> None:
        """
        Stop what runs by itself, save what is tracked, end what is left of hedged calls, and flush the
        error log, the journal and the state.

        Returns after at most *timeout* seconds, also with a hung disk: what it owns is then not handed over, and free some
        15 seconds later. A hedged request that lost and has
        not ended by then nobody can end: the log names it, and it counts in ``abandoned_attempts`` until it
        really ends. While an order's thread or attempt that was left behind may still send, the log says so, and the
        journal stays this process's own until that has ended, and so does what it ``owns``: as long as the loop runs, which lets it go
        some 15 seconds after its end. The service can be used again afterwards: what it needs
        starts again.
        """
        require_running_loop()
        limit = seconds("timeout", timeout)
        for periodic in self._periodic.values():
            periodic.pause()
        if self._loop_monitor is not None:
            self._loop_monitor.pause()
        ending = asyncio.ensure_future(self._flush_everything(limit))
        done, _ = await asyncio.wait({ending}, timeout=limit)
        if not done:
            ending.cancel()
            await asyncio.wait({ending}, timeout=0)
            self._runtime.losers.leave_behind()
            if self._fleet is not None:
                self._fleet.abandon()  # or nobody else could ever own what this process does
            _log.warning("not everything could be flushed within %g s", limit)
        elif not ending.cancelled() and (error := ending.exception()) is not None:
            raise error

    async def _flush_everything(self, timeout: float) -> None:
        # Side by side: what hangs holds back nothing else. What is tracked comes before the last flush.
        results = await asyncio.gather(
            self._save_what_is_tracked(),
            self._error_log.flush(timeout),
            self._give_up_the_journal(),
            self._halt.flush(),
            self._end_of_the_sends(),
            self._listeners.drain(),
            self._runtime.losers.reap(),
            return_exceptions=True,
        )
        self._halt.forget()
        if self._handover is not None:
            await self._handover.settle()
        if self._fleet is not None:
            await self._fleet.aclose()  # last: what this process owns is another's from then on
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _end_of_the_sends(self) -> None:
        if self._has_made("_kept_sends"):
            await self._kept_sends.end()

    async def _give_up_the_journal(self) -> None:
        if self._has_made("_sendings"):
            await self._sendings.stop()
        if self._has_made("_journal"):
            await self._journal.aclose()

    async def _save_what_is_tracked(self) -> None:
        saves = [save() for save in list(self._final_saves.values())]
        results = await asyncio.gather(*saves, return_exceptions=True)
        if self._has_made("_saver"):
            await self._saver.flush()
            await self._saver.leave()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _add_periodic(
        self, name: str, *, every: Callable[[], float], action: Callable[[], Awaitable[object]]
    ) -> Periodic:
        from shockproof.calls.periodic import Periodic

        if name in self._periodic:
            self._periodic[name].stop()
        periodic = self._periodic[name] = Periodic(
            name,
            every=every,
            action=action,
            sleep=self._clock.sleep,
            on_loop_end=self._forget_loop,
        )
        if asyncio._get_running_loop() is not None:
            periodic.ensure()
        else:
            self._forget_loop()  # the next call, on whatever loop, starts it
        return periodic

    def _monitor(
        self, tick: float, stall_after: float, degraded_above: float, recovers_after: float
    ) -> LoopMonitor:
        # Here, so that a program without one does not load it.
        from shockproof.calls.loop_monitor import LoopMonitor
        from shockproof.policies.loop_health import LoopHealth

        return LoopMonitor(
            self._clock,
            self._listeners,
            self._forget_loop,
            tick=tick,
            stall_after=stall_after,
            health=LoopHealth(degraded_above, recovers_after),
        )

    def _watch_loop(
        self, told: Callable[[float], None] | None = None
    ) -> tuple[LoopLag | LoopMonitor, Callable[[], None]]:
        """Measure from now on how late the loop is, and tell each lag; what is returned besides stops that."""
        if self._loop_monitor is not None:  # it does so anyway
            return self._loop_monitor, self._loop_monitor.subscribe(told or (lambda _: None))
        from shockproof.calls.loop_lag import EVERY, LoopLag

        lag = LoopLag(self._clock, told)
        name = f"watch over the loop no. {next(self._numbers)}"
        periodic = self._add_periodic(name, every=lambda: EVERY, action=lag.beat)

        def stop() -> None:
            periodic.stop()
            self._periodic.pop(name, None)

        return lag, stop

    def _check_by_itself(self, state: ServiceState) -> None:
        name = _name_of_check(state)
        if name in self._periodic:
            return
        # One that hangs must not be the last: it is ended when the next is due, and left behind if need be.
        options = {
            "max_retries": 0,
            "retry_if_result": lambda result: result is False,
            "timeout": state.check_every,
            "grace": 1.0,
        }
        handle = self._bound(state, options)

        async def check() -> None:
            if self.is_circuit_open(state.name) or state.health_check is None:
                return  # it rests; half-open again, the check is the probe
            with suppress(Exception):  # recorded as an error of the service, like any call's
                await handle.call(state.health_check)

        self._add_periodic(name, every=lambda: state.check_every, action=check)

    def _start_background(self) -> None:
        _load_the_rest(self._state_writer)
        if self._loop_monitor is not None:
            self._loop_monitor.ensure()
        for periodic in list(self._periodic.values()):
            periodic.ensure()
        if self._fleet is not None:
            self._fleet.ensure()

    def _forget_loop(self) -> None:
        for state in self._registry.all():
            state.prepare(is_prepared=False)

    def __repr__(self) -> str:
        return f"<ErrorRecoveryService {len(self._registry.all())} services, state in {self.state_dir}>"


def _one_line(text: str) -> str:
    # It stands in logs and errors. Nothing is refused for that: the text of an error may be what trading stops for.
    return " ".join("".join(one if one.isprintable() else " " for one in text).split()) or repr(text)


_REST: Final = (
    "hashlib",
    "hmac",
    "secrets",
    "decimal",
    "uuid",
    "shockproof.memory.state.registered_types",
    "shockproof.memory.state.secrets",
    "shockproof.memory.state.codec",
    "shockproof.memory.state.packed",
    "shockproof.memory.state.state_capture",
    "shockproof.memory.state.state_changes",
    "shockproof.memory.state.daily_states",
    "shockproof.memory.disk.damaged_files",
    "shockproof.memory.state.state_file",
    "shockproof.memory.state.stored_states",
    "shockproof.memory.state.state_survey",
    "shockproof.memory.state.state_files",
    "shockproof.memory.state.state_saver",
    "shockproof.memory.services.kept_sends",
    "shockproof.memory.services.earlier_life",
    "shockproof.memory.services.health",
    "shockproof.memory.error_log.error_reading",
    "shockproof.calls.loop_lag",
    "shockproof.calls.periodic",
    "shockproof.policies.reserved_sends",
    "shockproof.calls.rate_queue",
    "shockproof.policies.fallback",
    "shockproof.memory.journal.recent_sends",
    "shockproof.memory.journal.operation_table",
    "shockproof.memory.journal.position",
    "shockproof.memory.journal.journal_files",
    "shockproof.memory.journal.journal",
    "shockproof.memory.journal.journalled_values",
    "shockproof.memory.journal.operation",
    "shockproof.memory.journal.sending",
    "shockproof.vocabulary.look_up",
    "shockproof.memory.journal.pending_in_state",
    "shockproof.calls.confirm",
    "shockproof.calls.reconciliation",
    "shockproof.calls.key_in_call",
    "shockproof.calls.wanted_order",
    "shockproof.calls.claim",
    "shockproof.calls.order_look_up",
    "shockproof.calls.left_behind",
    "shockproof.calls.dispatch",
    "shockproof.calls.placement",
    "shockproof.calls.portions",
    "shockproof.calls.once",
)
"""
What most programs do not use in their first seconds, or never, and then would load in the middle of trading.

What is imported by another one stands before it: between two of them the loop has its turn.
"""
_NAMES_OF_THE_REST: Final = frozenset(_REST)
_TURN: Final = 0.00005
"""Seconds: who lets go of the interpreter for a file only has it back before anybody wakes up; see `Pace`."""

_PATIENCE: Final = 1.0
"""Seconds that an operation or an order waits for it, behind what else the disk has to do."""

_is_loaded = False
"""Known to be: each order asks."""
_asked_in: int | None = None
"""The process that loads it, or has."""


def _is_the_rest_loaded() -> bool:
    global _is_loaded
    _is_loaded = _is_loaded or sys.modules.keys() >= _NAMES_OF_THE_REST
    return _is_loaded


def _load_the_rest(writer: Writer) -> None:
    """See that a program without `start` has it soon after its first call; waits for nobody."""
    global _asked_in
    if _asked_in != os.getpid() and not _is_the_rest_loaded():
        _asked_in = os.getpid()
        with suppress(RuntimeError):  # the system has no thread left: who uses it loads it
            writer.submit(_import_the_rest)


def _import_the_rest(nap: float = _TURN) -> None:
    for name in _REST:
        if name not in sys.modules:
            with background.imports:  # a fork waits for one of them
                import_module(name)
            time.sleep(nap)


_LONG: Final = (
    "shockproof.memory.error_log.json_line",
    "shockproof.memory.disk.append_file",
    "aiofiles.threadpool",
    "pickle",
    "gzip",
    "shockproof.memory.disk.birth_time",
    "shockproof.vocabulary.models",
    "shockproof.memory.state.safe_pickle",
    "shockproof.calls.stream",
)
"""
What holds the interpreter lock for long when it is loaded, or is other people's: not for a program that has no `start`.

The first error's way to the disk; what the journal asks the system; models, for which states that are restored and errors that are
read back need pydantic; feeds, and with them the events, which are many classes made in one go.
"""


def _import_what_is_long() -> None:
    for name in _LONG:
        with background.imports:
            import_module(name)


_STORE_METHODS = ("get", "entries", "put", "renew", "delete", "watch", "aclose")


def _check_store(store: object) -> None:
    if store is None or all(callable(getattr(store, name, None)) for name in _STORE_METHODS):
        return
    # Its value is not told: in a URL there may be a password.
    raise TypeError(
        'store must be a StateStore, such as RedisStore("redis://localhost:6379") of shockproof.integrations.redis, '
        'EtcdStore("http://localhost:2379") of shockproof.integrations.etcd, or FileStore("data/shared.db"), got a value '
        f"of type {type(store).__name__}"
    )


def check_recovery(recovery: object) -> ErrorRecoveryService:
    """
    *recovery*, where something is built on a service.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(recovery, ErrorRecoveryService):
        raise TypeError(f"recovery must be an ErrorRecoveryService, got {recovery!r}")
    return recovery


def _name_of_check(state: ServiceState) -> str:
    return f"health check of {state.name}"


def _moment(name: str, value: object) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    raise TypeError(f"{name} must be a datetime (a naive one is local time) or None, got {value!r}")


def _severity(name: str, value: object) -> ErrorSeverity | None:
    if value is None or isinstance(value, ErrorSeverity):
        return value
    raise TypeError(f"{name} must be an ErrorSeverity such as ErrorSeverity.HIGH, or None, got {value!r}")


def _names(redact: object) -> tuple[str, ...]:
    if isinstance(redact, str):
        raise TypeError(f"redact must be several names, got the string {redact!r}: write ({redact!r},)")
    names = tuple(redact) if isinstance(redact, Iterable) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise TypeError(f'redact must be several names such as ("api_key", "pin"), got {redact!r}')
    return names


def _keys(encryption_key: str | bytes | Sequence[str | bytes]) -> Sequence[str | bytes]:
    if isinstance(encryption_key, str | bytes):
        return (encryption_key,)
    if not isinstance(encryption_key, Iterable):  # never its value
        raise TypeError(
            f"encryption_key must be a Fernet key as str or bytes, or several, got {type(encryption_key).__name__}"
        )
    return tuple(encryption_key)


def _state_arguments(
    active_operations: object = None, cached_data: object = None, configuration: object = None
) -> dict[str, Any]:  # Any: the user's own values
    operations = [] if active_operations is None else active_operations
    if not isinstance(operations, list | tuple) or not all(isinstance(one, dict) for one in operations):
        raise TypeError(
            'active_operations must be a list of dicts such as [{"operation": "fetch"}], '
            f"got {active_operations!r}"
        )
    state: dict[str, Any] = {"active_operations": list(operations)}  # Any: the user's own values
    for name, value in (("cached_data", cached_data), ("configuration", configuration)):
        if value is not None and not isinstance(value, dict):
            raise TypeError(f'{name} must be a dict such as {{"AAPL": 150.0}}, got {value!r}')
        state[name] = {} if value is None else value
    return state


def _as_keywords(given: object) -> dict[str, Any]:  # Any: the user's own values
    names = ("active_operations", "cached_data", "configuration")
    if isinstance(given, Mapping):
        unknown = [str(name) for name in given if name not in names]
        if unknown:
            raise TypeError(f"provider gave {', '.join(unknown)}; save_state takes {', '.join(names)}")
        return dict(given)
    if isinstance(given, tuple) and len(given) == len(names):
        return dict(zip(names, given, strict=True))
    raise TypeError(f"provider must give a dict or a tuple of {', '.join(names)}, got {given!r}")

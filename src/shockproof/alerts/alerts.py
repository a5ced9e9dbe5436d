"""
Tells people what is wrong: looks every so often, and sends what is due through policies of our own.

Nothing of it is on a call's path. An event is folded into a few numbers where it happens; everything
else is done by tasks of `Alerts`, which look at the health, and call each target through a handle on a
service of its own: one that fails is retried, and rests behind its own circuit, and the others go on.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from shockproof.alerts.incident import Incident
from shockproof.alerts.ledger import Ledger
from shockproof.alerts.rules import AlertRules, Watch
from shockproof.alerts.target import Target, is_worth_repeating
from shockproof.calls.handle import Handle
from shockproof.calls.options import ServiceOptions
from shockproof.memory.services.health import halt_report, service_report
from shockproof.service import check_recovery
from shockproof.vocabulary.arguments import Seconds, a_name, seconds, whole_number
from shockproof.vocabulary.event_loop import require_running_loop
from shockproof.vocabulary.events import Event
from shockproof.vocabulary.statuses import ServiceStatus

if TYPE_CHECKING:
    from shockproof.service import ErrorRecoveryService

__all__ = ["Alerts"]

_log = logging.getLogger("shockproof")

_SHORTEST_SECRET: Final = 4

_AT_A_TIME: Final = 100
"""Services that are looked at before others have their turn on the loop."""

_MOST_NAMED: Final = 20
"""Notices in the log's line about those that could not be told."""

# No effect is declared: an alert has to leave while everything is halted.
_SENDING: Final = ServiceOptions(
    max_retries=4,
    base_delay=1.0,
    max_delay=60.0,
    backoff_factor=2.0,
    jitter="full",
    retry_on=is_worth_repeating,
    circuit_threshold=5,
    circuit_timeout=30.0,
    circuit_timeout_factor=2.0,
    max_circuit_timeout=600.0,
)


@dataclass(slots=True)
class _Desk:
    """One target, and what belongs to telling it."""

    target: Target
    handle: Handle
    ledger: Ledger
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class _Noted:
    """The subscription: it takes a lock for a few assignments."""

    dropped = 0

    def __init__(self, note: Callable[[Event], None]) -> None:
        self._note = note

    def tell(self, event: Event) -> None:
        self._note(event)

    def is_busy(self) -> bool:
        return False


class Alerts:
    """
    ``async with Alerts(recovery, [Slack(url), PagerDuty(routing_key)]):`` tells people what goes wrong.

    Each incident is told once when it opens, and once when it is over. What cannot be delivered is retried, and told
    later if it is still true. Texts are without secrets, as in the error log.

    Args:
        recovery: whose services are watched. Each target is called through the service ``alerts.`` and its name, whose
            failures are in the error log and the health like any other's, and are never told by alerts.
        targets: who is told, at least one: `Slack`, `PagerDuty`, `Webhook`, ``shockproof.integrations.apprise.Apprise``, or
            a `Target` of your own. They do not wait for each other.
        rules: what is told. Default: ``AlertRules()``.
        every: seconds between two looks, more than 0; what was found by one look is told together. Default 5.
        max_per_minute: most notices for each target in any 60 seconds, at least 1; the others wait, the worst go
            first, and what is over before its turn is not told. Default 20.
        source: which program this is, in every notice and in the keys by which PagerDuty knows an incident again.
            Default: the name of the host and ``state_dir``.
        sending: options of the services that send, over the defaults: 4 retries after 1, 2, 4 and 8 seconds with
            full jitter, and a circuit that opens for 30 s, growing to 10 minutes, after 5 failures in a row.

    Raises:
        TypeError, ValueError: a value that is not allowed, or two targets of one name.
    """

    def __init__(
        self,
        recovery: ErrorRecoveryService,
        targets: Sequence[Target],
        *,
        rules: AlertRules | None = None,
        every: Seconds = 5.0,
        max_per_minute: int = 20,
        source: str | None = None,
        sending: ServiceOptions | None = None,
    ) -> None:
        check_recovery(recovery)
        _check_targets(targets)
        names = [target.name for target in targets]
        if not names:
            raise ValueError("targets must be at least one, such as [Slack(url)], got none")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"targets must have different names, got {', '.join(map(repr, twice))} twice: give one a name=..."
            )
        if rules is not None and not isinstance(rules, AlertRules):
            raise TypeError(f"rules must be AlertRules(...), got {rules!r}")
        self._recovery = recovery
        self._clock = recovery._clock
        self._every = seconds("every", every, more_than=0)
        limit = whole_number("max_per_minute", max_per_minute, minimum=1)
        told_by = (
            f"{socket.gethostname()}:{recovery.state_dir}" if source is None else a_name("source", source)
        )
        self._watch = Watch(
            AlertRules() if rules is None else rules,
            ignored=[_service_name(target) for target in targets],
            redact=recovery._redactor.text,
        )
        self._lock = threading.Lock()
        self._open: dict[str, Incident] = {}
        self._is_closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._leave: Callable[[], None] | None = None
        self._desks = [
            self._desk(target, Ledger(source=told_by, max_per_minute=limit), sending) for target in targets
        ]

    def _desk(self, target: Target, ledger: Ledger, sending: ServiceOptions | None) -> _Desk:
        for secret in target.secrets:
            if len(secret) >= _SHORTEST_SECRET:
                self._recovery.register_secret(secret)
        options: ServiceOptions = {**_SENDING, "timeout": target.timeout, **(sending or {})}
        return _Desk(target, self._recovery.service(_service_name(target), **options), ledger)

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """What was open at the last look, oldest first."""
        return tuple(sorted(self._open.values(), key=lambda one: one.opened_at))

    async def start(self) -> None:
        """
        Begin to look, on the running loop.

        Raises:
            RuntimeError: it has begun already.
        """
        require_running_loop()
        if self._leave is not None:
            raise RuntimeError("these alerts have been started already")
        self._is_closing = False
        self._leave = leave = self._recovery._listeners.add(_Noted(self._note))
        try:
            await self._look()
        except BaseException:
            leave()
            self._leave = None
            raise
        self._tasks = [self._task(self._look_for_ever(), "alerts look")]
        for desk in self._desks:
            desk.wake = asyncio.Event()  # the last one may belong to a loop that has ended
            desk.wake.set()
            self._tasks.append(self._task(self._serve(desk), f"alerts to {desk.target.name}"))

    async def aclose(self, timeout: Seconds = 5.0) -> None:
        """
        Look a last time, tell what is due, and end, after at most *timeout* seconds.

        What could not be told by then is named in the log, at most 20 of it. Incidents that are open stay so at PagerDuty: the next life
        of the program that finds them open goes on with the same keys. Cancelled, it ends at once.
        """
        limit = seconds("timeout", timeout)
        if self._leave is None:
            return
        looking, *serving = self._tasks
        try:
            looking.cancel()
            await self._look()
            self._is_closing = True
            for desk in self._desks:
                desk.wake.set()
            await asyncio.wait(serving, timeout=limit)
        finally:
            self._leave()
            self._leave = None
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                task.cancel()
        await asyncio.wait(tasks, timeout=0)  # one that ignores its cancellation holds nobody up
        self._name_what_is_left()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @staticmethod
    def _task(main: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:  # Any: what the loop is told
        # In a context of its own: a retry that runs where it was started is none of an alert's.
        loop = asyncio.get_running_loop()
        return loop.create_task(main, name=f"shockproof {name}", context=contextvars.Context())

    def _note(self, event: Event) -> None:
        with self._lock:
            self._watch.note(event)

    async def _look_for_ever(self) -> None:
        while True:
            await self._clock.sleep(self._every)
            await self._look()

    async def _look(self) -> None:
        try:
            services = await self._services_to_look_at()
            recovery, now, wall = self._recovery, self._clock.monotonic(), self._clock.time()
            health = {
                "services": services,
                "error_log": recovery._error_log_report(),
                "journal": recovery._journal.status()._asdict(),
                "kept_sends": recovery._kept_sends_report(),
                "halt": halt_report(recovery._halt),
            }
            known = {state.name for state in recovery._registry.all()}
            with self._lock:
                self._open = self._watch.look(health, now, wall, known=known)
        except Exception:  # noqa: BLE001 - whatever it was, it is looked again
            _log.exception("looking for what to alert failed; it is tried again at its next time")
        for desk in self._desks:
            desk.wake.set()

    async def _services_to_look_at(self) -> dict[str, dict[str, Any]]:  # Any: JSON
        """What the health tells of the services that are not fine; a portion at a time, so that many hold nobody up."""
        services: dict[str, dict[str, Any]] = {}  # Any: JSON
        for number, state in enumerate(self._recovery._registry.all(), 1):
            now = self._clock.monotonic()
            status = state.status_at(now)
            if (
                status is not ServiceStatus.OPERATIONAL
                or state.circuit.state(now) != "closed"
                or self._watch.is_noted(state.name)
            ):
                services[state.name] = service_report(state, now, status)
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
        return services

    async def _serve(self, desk: _Desk) -> None:
        while not self._is_closing or desk.wake.is_set():
            await desk.wake.wait()
            desk.wake.clear()
            await self._send_what_is_due(desk)

    async def _send_what_is_due(self, desk: _Desk) -> None:
        target = desk.target
        if self._recovery.is_circuit_open(_service_name(target)):
            return
        due = desk.ledger.due(self._open, self._clock.monotonic(), self._clock.time())
        for first in range(0, len(due), target.at_once):
            message = due[first : first + target.at_once]
            desk.ledger.sending(message, self._clock.monotonic())
            try:
                await desk.handle.call(target.send, message)
            except Exception as error:  # noqa: BLE001 - a target is foreign code; it is due again at the next look
                why = self._recovery._redactor.text(f"{type(error).__name__}: {error}")
                _log.warning("alerts could not be told to %s: %s", target.name, why)
                return
            desk.ledger.delivered(message)

    def _name_what_is_left(self) -> None:
        for desk in self._desks:
            left = desk.ledger.untold(self._open, self._clock.monotonic(), self._clock.time())
            if left:
                named = [notice.text for notice in left[:_MOST_NAMED]]
                if len(left) > len(named):
                    named.append(f"and {len(left) - len(named)} more")
                _log.warning("not told to %s: %s", desk.target.name, "; ".join(named))


def _service_name(target: Target) -> str:
    return f"alerts.{target.name}"


def _check_targets(targets: object) -> None:
    if not isinstance(targets, Sequence) or isinstance(targets, str | bytes):
        raise TypeError(
            f"targets must be several, such as [Slack(url)], got one value of type {type(targets).__name__}: write [...]"
        )
    for target in targets:
        if not all(hasattr(target, one) for one in ("name", "timeout", "at_once", "secrets", "send")):
            # Its value is not told: the URL of a hook is a secret.
            raise TypeError(
                "targets must be Slack(url), PagerDuty(routing_key), Webhook(url) or a Target of your own, "
                f"got a value of type {type(target).__name__}"
            )

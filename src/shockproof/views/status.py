"""
How everything is doing at one moment, what is in trouble first: for the status page, for the JSON beside it, and for
whoever watches a running program.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from heapq import nsmallest
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from shockproof.memory.error_log.capture import CapturedError
from shockproof.memory.error_log.history import ERRORS_KEPT
from shockproof.memory.error_log.redaction import Redactor
from shockproof.memory.journal.operation_table import OperationEntry
from shockproof.memory.journal.sending import is_sending, sent_at, service_of
from shockproof.memory.services.health import (
    RECENT_SECONDS,
    halt_report,
    overall_health,
    service_report,
)
from shockproof.memory.services.service_state import ServiceState
from shockproof.views.shown_values import as_text, for_people, without_secrets
from shockproof.views.status_history import BOUNDS, STEP, STEPS, WINDOW, StatusHistory, quantile
from shockproof.vocabulary.statuses import ErrorSeverity, ServiceStatus

if TYPE_CHECKING:
    from shockproof.memory.journal.pending_in_state import PendingInState
    from shockproof.service import ErrorRecoveryService

__all__ = ["MOST_SERVICES", "error_by_id", "id_of", "named_by_id", "status_of", "status_on_loop"]

MOST_SERVICES: Final = 50
_MOST_ERRORS: Final = 50
_MOST_PENDING: Final = 50
_LONGEST: Final = 500
"""Characters of a text of others: an error, a checkpoint."""
_MOST_TEXTS: Final = 4_000
_MINUTES_OF_QUANTILES: Final = 5
_AT_A_TIME: Final = 100
"""Services that are looked at before others have their turn on the loop."""
_TOLD_AT_A_TIME: Final = 10
"""Those of which everything is told."""


def status_of(
    recovery: ErrorRecoveryService,
    history: StatusHistory | None = None,
    *,
    matching: str = "",
    most: int = MOST_SERVICES,
) -> dict[str, Any]:  # Any: JSON
    """
    The status as a JSON-ready dict without secrets; takes no lock for long, reads no file, and waits for nothing.

    Args:
        recovery: whose status.
        history: what was recorded of it; without it there are no pictures and no rates.
        matching: only services with this in their names, whatever its case.
        most: how many services, those in trouble first.
    """
    portions = _in_portions(recovery, history, matching=matching, most=most)
    while True:
        try:
            next(portions)
        except StopIteration as end:
            status: dict[str, Any] = end.value  # Any: JSON
            return status


async def status_on_loop(
    recovery: ErrorRecoveryService,
    history: StatusHistory | None = None,
    *,
    matching: str = "",
    most: int = MOST_SERVICES,
) -> dict[str, Any]:  # Any: JSON
    """What `status_of` gives, in portions between which others have their turn on the loop: many services hold nobody up."""
    portions = _in_portions(recovery, history, matching=matching, most=most)
    while True:
        try:
            next(portions)
        except StopIteration as end:
            status: dict[str, Any] = end.value  # Any: JSON
            return status
        await asyncio.sleep(0)


class _Seen(NamedTuple):
    """A service, and what decides on its place."""

    state: ServiceState
    status: ServiceStatus
    circuit: str


def _in_portions(
    recovery: ErrorRecoveryService, history: StatusHistory | None, *, matching: str, most: int
) -> Generator[None, None, dict[str, Any]]:  # Any: JSON
    """The status; what is yielded is a place where it may rest."""
    now, wall = recovery._clock.monotonic(), recovery._clock.time()
    wanted = matching.casefold()
    statuses: list[ServiceStatus] = []
    circuits: list[str] = []
    chosen: list[tuple[tuple[int, str, str], _Seen]] = []
    for number, state in enumerate(recovery._registry.all(), 1):
        seen = _Seen(state, state.status_at(now), state.circuit.state(now))
        statuses.append(seen.status)
        circuits.append(seen.circuit)
        if wanted in state.name.casefold():
            chosen.append((_trouble(seen), seen))
        if number % _AT_A_TIME == 0:
            yield
    matched = len(chosen)
    chosen = nsmallest(most, chosen, key=itemgetter(0))
    yield
    hide = _hiding(recovery._redactor)
    services: list[dict[str, Any]] = []  # Any: JSON
    for number, (_, seen) in enumerate(chosen, 1):
        told = hide(_service(seen, now))
        services.append(told if history is None else told | _of_history(history, seen.state, now))
        if number % _TOLD_AT_A_TIME == 0:
            yield
    errors = hide([_error(error) for error in recovery._history.latest(_MOST_ERRORS)])
    yield
    over_time = _errors_over_time(recovery._history.latest(ERRORS_KEPT), now)
    yield
    loop, shared = recovery._loop_report(), recovery._shared_report()
    journal, kept_sends = recovery._journal.status()._asdict(), recovery._kept_sends_report()
    return {
        "overall_health": overall_health(statuses, recovery._halt, loop, shared, journal, kept_sends),
        "halted": recovery._halt.mark is not None,
        "halt": hide(halt_report(recovery._halt)),
        "counts": {
            "services": len(statuses),
            "matching": matched,
            "shown": len(chosen),
            "unavailable": statuses.count(ServiceStatus.UNAVAILABLE),
            "degraded": statuses.count(ServiceStatus.DEGRADED),
            "circuits_open": circuits.count("open"),
            "circuits_half_open": circuits.count("half-open"),
        },
        "services": services,
        "recent_error_count": recovery._history.recent_count(now, within=RECENT_SECONDS),
        "errors": errors,
        "errors_over_time": over_time,
        "pending": hide([_pending(entry) for entry in recovery._journal.pending_now()[:_MOST_PENDING]]),
        "pending_in_state": hide(_in_state(recovery._pending_in_state)),
        "history": None
        if history is None
        else {**_recorded(history, now), "happenings": hide(_happenings(history))},
        "error_log": hide(recovery._error_log_report()),
        "loop": hide(loop),
        "shared": hide(shared),
        "journal": hide(journal),
        "kept_sends": hide(kept_sends),
        "saved_at": recovery._saver.saved_at,
        "pid": os.getpid(),
        "at": wall,
    }


def id_of(service_name: str) -> str:
    """What a service is called where a name may stand in no one's way: in links, and for the browser."""
    return hashlib.blake2s(service_name.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def named_by_id(recovery: ErrorRecoveryService, wanted: str) -> str | None:
    """The name of the service that `id_of` calls so; None: there is none."""
    return next((state.name for state in recovery._registry.all() if id_of(state.name) == wanted), None)


def error_by_id(recovery: ErrorRecoveryService, wanted: str) -> CapturedError | None:
    """The error in memory that the status calls so; None: it is not there any more."""
    return next((error for error in recovery._history.latest(ERRORS_KEPT) if _id_of(error) == wanted), None)


def _id_of(error: CapturedError) -> str:
    told = (error.captured_at, error.service_name, error.function_name, error.error_type, error.retry_count)
    return hashlib.blake2s(repr(told).encode("utf-8", "replace"), digest_size=8).hexdigest()


def _trouble(seen: _Seen) -> tuple[int, str, str]:
    state = seen.state
    if seen.circuit == "open":
        rank = 0 if state.critical else 1
    elif seen.status is ServiceStatus.UNAVAILABLE:
        rank = 2
    elif seen.status is ServiceStatus.DEGRADED:
        rank = 3
    else:
        rank = 4 if state.circuit.mode != "normal" else 5
    return rank, state.name.casefold(), state.name


def _service(seen: _Seen, now: float) -> dict[str, Any]:  # Any: JSON
    state = seen.state
    return {
        "id": id_of(state.name),
        "name": state.name,
        **service_report(state, now, seen.status),
        "failed_calls": state.failed_calls,
        "unknown_calls": state.unknown_calls,
        "last_error": None if state.circuit.last_error is None else _short(state.circuit.last_error),
    }


def _of_history(history: StatusHistory, state: ServiceState, now: float) -> dict[str, Any]:  # Any: JSON
    shown = state.circuit.state(now) if state.circuit.mode == "normal" else state.circuit.mode
    minutes = history.minutes(state.name, now)
    lately = [sum(column) for column in zip(*minutes[-_MINUTES_OF_QUANTILES:], strict=True)]
    return {
        "timeline": [
            {"state": stretch.state, "seconds": round(stretch.seconds, 3)}
            for stretch in history.circuit(state.name, shown, now)
        ],
        "calls": {
            "per_second": round(history.per_second(minutes, now), 3),
            "lately": sum(lately[:-1]),
            "failed_lately": lately[-1],
            **{f"p{share}": _rounded(quantile(lately, share / 100)) for share in (50, 95, 99)},
            "p95_by_minute": [_rounded(quantile(minute, 0.95)) for minute in minutes],
        },
    }


def _recorded(history: StatusHistory, now: float) -> dict[str, Any]:  # Any: JSON
    steps = history.steps(now)
    return {
        "seconds": WINDOW,
        "recorded": round(history.recorded_for(now), 3),
        "step": STEP,
        "number": history.step_number,
        "under_way": round(history.under_way(now), 3),
        "bounds": BOUNDS,
        "calls": [list(step.counts[:-1]) for step in steps],
        "failed": [step.counts[-1] for step in steps],
        "worst_lag": [_rounded(step.worst_lag) for step in steps],
    }


def _happenings(history: StatusHistory) -> list[dict[str, Any]]:  # Any: text and a number
    return [happening._asdict() for happening in reversed(list(history.happenings))]


def _error(error: CapturedError) -> dict[str, Any]:  # Any: text and numbers
    return {
        "id": _id_of(error),
        "at": error.timestamp,
        "service_name": error.service_name,
        "function_name": error.function_name,
        "error_type": error.error_type,
        "error_message": _short(error.error_message),
        "severity": error.severity.value,
        "retry_count": error.retry_count,
    }


def _errors_over_time(latest: Sequence[CapturedError], now: float) -> dict[str, Any]:  # Any: JSON
    """The errors in memory by the step in which they came; *covers*: seconds for which there are all of them."""
    rows = {severity.value: [0] * STEPS for severity in ErrorSeverity}
    # Steps end at multiples of their length, so that a column does not change while it wanders to the left.
    newest = int(now // STEP)
    for error in latest:
        place = STEPS - 1 - (newest - int(error.captured_at // STEP))
        if 0 <= place < STEPS:
            rows[error.severity.value][place] += 1
    is_cut = len(latest) >= ERRORS_KEPT
    covers = min(WINDOW, now - latest[-1].captured_at) if is_cut else WINDOW
    return {"step": STEP, "number": newest, "covers": round(covers, 3), "by_severity": rows}


def _pending(entry: OperationEntry) -> dict[str, Any]:  # Any: JSON
    body = entry.body
    is_order = is_sending(entry)
    at = sent_at(entry) if is_order else body.get("at")
    return {
        "operation": service_of(entry) if is_order else entry.name.operation,
        "key": entry.name.key,
        "kind": "order" if is_order else "operation",
        "since": at if isinstance(at, int | float) else None,
        "begun": entry.times_begun,
        "stopped_by": _short(as_text(without_secrets(body.get("interrupted") or ""))),
        "progress": "" if is_order else _progress(body.get("progress")),
    }


def _in_state(pending: PendingInState | None) -> dict[str, Any]:  # Any: JSON
    """What the state has as pending and the journal does not know, in the form of `_pending`."""
    count, first = (0, ()) if pending is None else pending
    return {
        "count": count,
        "first": [
            {
                "operation": _short(as_text(for_people(without_secrets(one.get("operation", "?"))))),
                "key": None
                if one.get("key") is None
                else _short(as_text(for_people(without_secrets(one["key"])))),
                "kind": "saved",
                "since": None,
                "begun": 1,
                "stopped_by": "",
                "progress": _progress({name: one[name] for name in one if name not in {"operation", "key"}}),
            }
            for one in first[:_MOST_PENDING]
        ],
    }


def _progress(progress: Any) -> str:  # Any: frozen values
    return _short(as_text(for_people(without_secrets(progress)))) if progress else ""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


_hidden: WeakKeyDictionary[Redactor, tuple[object, dict[str, str]]] = WeakKeyDictionary()
"""Texts as they are shown, by what was registered as secret then: most are the same a second later."""


def _hiding(redactor: Redactor) -> Callable[[Any], Any]:  # Any: JSON
    """What takes the secrets out of all texts inside of a value."""
    rules, texts = _hidden.get(redactor, (None, {}))
    if rules is not redactor._values or len(texts) > _MOST_TEXTS:
        texts = {}
        _hidden[redactor] = redactor._values, texts

    def hide(value: Any) -> Any:  # Any: JSON
        # Text by text, and not by the names of keys: a service may be named after a secret and be none.
        if isinstance(value, str):
            shown = texts.get(value)
            if shown is None:
                shown = texts[value] = redactor.text(value)
            return shown
        if isinstance(value, dict):
            return {key: hide(one) for key, one in value.items()}
        return [hide(one) for one in value] if isinstance(value, list | tuple) else value

    return hide

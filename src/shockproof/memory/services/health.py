"""
How everything is doing, as one plain JSON-ready dict.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from shockproof.memory.services.halt import Halt
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.circuit_breaker import Circuit
from shockproof.vocabulary.statuses import ServiceStatus

__all__ = ["RECENT_SECONDS", "halt_report", "health_report", "overall_health", "service_report"]

RECENT_SECONDS = 300.0
"""How far back `recent_error_count` looks."""


def health_report(
    services: Iterable[ServiceState],
    *,
    now: float,
    wall: float,
    recent_errors: int,
    error_log: dict[str, Any],  # Any: state is text, counts are numbers
    journal: dict[str, Any],  # Any: as above
    kept_sends: dict[str, Any],  # Any: as above
    halt: Halt,
    loop: dict[str, Any] | None,  # Any: as above
    shared: dict[str, Any] | None,  # Any: JSON
) -> dict[str, Any]:  # Any: JSON
    """
    The health at *now* (monotonic seconds) and *wall* (seconds since 1970 UTC).

    ``overall_health`` is ``"unhealthy"`` if any service is unavailable, else ``"degraded"`` if any is
    degraded, it is halted, something of the journal is missing, what is sent under rate limits is not kept, a watched loop
    was late, or what is shared is in trouble, else ``"healthy"``.
    """
    statuses: list[ServiceStatus] = []
    words: dict[str, str] = {}
    circuits: dict[str, str] = {}
    reports: dict[str, dict[str, Any]] = {}  # Any: as above
    for state in services:  # once: there may be thousands, and this is their loop
        status = state.status_at(now)
        statuses.append(status)
        name = state.name
        told = reports[name] = service_report(state, now, status)
        words[name], circuits[name] = told["status"], told["circuit"]
    return {
        "overall_health": overall_health(statuses, halt, loop, shared, journal, kept_sends),
        "service_statuses": words,
        "recent_error_count": recent_errors,
        "circuit_breakers": circuits,
        "services": reports,
        "error_log": error_log,
        "journal": journal,
        "kept_sends": kept_sends,
        "halted": halt.mark is not None,
        "halt": halt_report(halt),
        "loop": loop,
        "shared": shared,
        "timestamp": datetime.fromtimestamp(wall, UTC).isoformat(),
    }


def service_report(
    state: ServiceState, now: float, status: ServiceStatus
) -> dict[str, Any]:  # Any: text and numbers
    """What the health tells of one service, whose `ServiceState.status_at` is *status*."""
    # Of thousands of services almost all are well, and few have all there is: what one has not, nobody asks.
    circuit, limits, streams = state.circuit, state.limits, state.streams
    shown, budget, restored = circuit.state(now), state.paying_budget, state.restored_status
    return {
        "status": status._value_,
        "restored_status": None if restored is None or state.was_called else restored._value_,
        "circuit": shown,
        "circuit_mode": circuit.mode,
        "circuit_mode_reason": circuit.mode_reason,
        "circuit_shadow": _shadow(circuit, now) if circuit.mode == "shadow" else None,
        "retry_after": 0.0 if shown == "closed" else _retry_after(circuit, now),
        "critical": state.critical,
        "successes": state.entrance.successes,
        "failures": state.failures,
        "retries": state.retries,
        "timeouts": state.timeouts,
        "overdue": state.overdue,
        "fallbacks": state.fallbacks,
        "hedges": state.hedges,
        "rejections": state.rejections,
        "circuit_trips": circuit.trips,
        "in_flight": None if limits is None else limits.in_flight,
        "max_concurrent": None if limits is None else limits.max_concurrent,
        "send_rate": None if state.adaptive is None else _rounded(state.adaptive.send_rate.limit),
        "retry_budget": None if budget is None else round(budget.tokens, 3),
        "queued": 0 if limits is None else limits.queued,
        "rate_limit": [] if limits is None else limits.usage(now),
        "paused_for": 0.0 if limits is None else round(limits.paused_for(now), 3),
        "abandoned_attempts": state.abandoned_attempts,
        "abandoned_threads": state.abandoned_threads,
        "streams": [stream.report(now) for stream in streams] if streams else [],
    }


def overall_health(
    statuses: Collection[ServiceStatus],
    halt: Halt,
    loop: Mapping[str, Any] | None,  # Any: text and numbers
    shared: Mapping[str, Any] | None,  # Any: JSON
    journal: Mapping[str, Any],  # Any: as above
    kept_sends: Mapping[str, Any],  # Any: as above
) -> Literal["healthy", "degraded", "unhealthy"]:
    """The one word for all of them together; see `health_report`."""
    if ServiceStatus.UNAVAILABLE in statuses:
        return "unhealthy"
    if (
        ServiceStatus.DEGRADED in statuses
        or halt.mark is not None
        or halt.last_error is not None
        or journal["incomplete"] is not None
        or kept_sends["state"] == "degraded"
        or (loop is not None and loop["state"] == "degraded")
        or (shared is not None and shared["trouble"] is not None)
    ):
        return "degraded"
    return "healthy"


def halt_report(halt: Halt) -> dict[str, Any]:  # Any: text and truth values
    """What the health tells of the kill switch."""
    mark = halt.mark
    return {
        "reason": None if mark is None else mark.reason,
        "since": None if mark is None else datetime.fromtimestamp(mark.since, UTC).isoformat(),
        "is_known": halt.is_known,
        "is_durable": halt.is_durable,
        "last_error": halt.last_error,
    }


def _retry_after(circuit: Circuit, now: float) -> float | None:
    seconds = circuit.open_for(now)
    return None if seconds == math.inf else round(seconds, 3)


def _shadow(circuit: Circuit, now: float) -> dict[str, Any]:  # Any: text and numbers
    """What a circuit that only watches would have done."""
    return {
        "circuit": circuit.state_by_rules(now),
        "trips": circuit.shadow_trips,
        "refusals": circuit.shadow_refusals,
    }


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 3)

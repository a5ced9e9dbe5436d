"""
When an incident begins and when it is over: told events and health, it says which are open. No I/O.

An incident may have several conditions, such as the open circuit of a service and its being unavailable.
It opens when one of them has held for as long as its rule says, and is over when none was seen for
`AlertRules.resolve_after`: what flaps is one incident.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, NamedTuple

from shockproof.alerts.incident import Incident, Severity
from shockproof.vocabulary.arguments import Seconds, seconds
from shockproof.vocabulary.events import AttemptFailed, CallFailed, CircuitOpened, Event
from shockproof.vocabulary.outcomes import Outcome

__all__ = ["AlertRules", "Watch"]

_LONGEST_SUMMARY: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRules:
    """
    What is told. Each rule is the seconds for which it must hold, at least 0, or None: it is off. What happens at a
    moment (`critical_error`, `outcome_unknown`, `records_dropped`) has no duration, and is told at the next look.

    Args:
        circuit_opened: a circuit is open, by its rules or by hand. Default: 0.
        service_unavailable: a service is unavailable; with the open circuit of the same service, one incident.
            Default: 60.
        critical_error: a call to a service with ``critical=True`` failed for good; with an open circuit or unavailability of
            the same service, one incident. Default: 0.
        outcome_unknown: nobody knows what a call did, such as an order (of one sent with `Handle.once`: also not
            after it was looked up). A person has to look: no end is told, and the next one after `resolve_after` is a new
            incident. Default: 0.
        records_dropped: the error log lost records. Default: 0.
        disk_failing: the error log, the journal, what is kept of rate limits or the mark of a halt cannot be written. Default: 10.
        resolve_after: seconds for which nothing of an incident may be seen before it is over, at least 0.
            Default: 60.

    Raises:
        TypeError, ValueError: no such number.
    """

    circuit_opened: Seconds | None = 0.0
    service_unavailable: Seconds | None = 60.0
    critical_error: Seconds | None = 0.0
    outcome_unknown: Seconds | None = 0.0
    records_dropped: Seconds | None = 0.0
    disk_failing: Seconds | None = 10.0
    resolve_after: Seconds = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.name == "resolve_after":
                object.__setattr__(self, field.name, seconds(field.name, value))


class _Finding(NamedTuple):
    """A rule that fits at one look."""

    key: str
    rule: str
    service_name: str
    severity: Severity
    text: str
    opens: bool = True
    """Whether it may begin an incident, or only keep one that is there."""
    is_instant: bool = False
    """It happened, and has no duration: whatever its rule says, it does not go away before it is told."""


@dataclass(slots=True)
class _Trouble:
    incident: Incident
    seen: float
    """Monotonic seconds."""


class Watch:
    """
    The incidents of one recovery service.

    Args:
        rules: what is told.
        ignored: the services that send the alerts: their own failures are no incidents.
        redact: takes the secrets out of a text.
    """

    def __init__(
        self, rules: AlertRules, *, ignored: Collection[str] = (), redact: Callable[[str], str] = str
    ) -> None:
        self._rules = rules
        self._ignored = frozenset(ignored)
        self._redact = redact
        self._since: dict[tuple[str, str], float] = {}
        """Since when a condition holds: monotonic seconds, by incident and rule."""
        self._open: dict[str, _Trouble] = {}
        self._dropped: int | None = None
        self._last_error: dict[str, tuple[str, str]] = {}
        self._opened: set[str] = set()
        self._failed: dict[str, int] = {}
        self._unknown: dict[str, int] = {}

    def note(self, event: Event) -> None:
        """Remember *event* until the next look: a few assignments, in memory that is bounded by the services."""
        name = event.service_name
        if isinstance(event, AttemptFailed):
            self._last_error[name] = event.error_type, event.error_message
        elif isinstance(event, CallFailed):
            self._failed[name] = self._failed.get(name, 0) + 1
            if event.outcome is Outcome.UNKNOWN:
                self._unknown[name] = self._unknown.get(name, 0) + 1
        elif isinstance(event, CircuitOpened):
            self._opened.add(name)

    def is_noted(self, name: str) -> bool:
        """Whether something was noted of a service that the next look has to see."""
        return name in self._opened or name in self._failed or name in self._unknown

    def look(
        self,
        health: Mapping[str, Any],
        now: float,
        wall: float,
        *,
        known: Collection[str] | None = None,
    ) -> dict[str, Incident]:  # Any: JSON of `get_health_status`
        """
        The incidents that are open at *now* (monotonic seconds) and *wall* (seconds since 1970 UTC), by key.

        *health* is what `get_health_status` gives; of *known*, the names of all services, those may be missing that are fine:
        what is noted of them meanwhile is for the next look. Called with times that do not run backwards.
        """
        held: set[tuple[str, str]] = set()
        for found in self._findings(health):
            condition = found.key, found.rule
            held.add(condition)
            since = self._since.setdefault(condition, now)
            trouble = self._open.get(found.key)
            if trouble is not None:
                trouble.seen = now
            elif found.opens and (found.is_instant or now - since >= self._hold(found.rule)):
                self._open[found.key] = _Trouble(self._incident(found, now, wall), now)
        self._since = {condition: at for condition, at in self._since.items() if condition in held}
        self._forget_what_was_noted(health["services"], known)
        after = self._rules.resolve_after
        assert isinstance(after, float)
        for key, trouble in list(self._open.items()):
            if trouble.seen != now and now - trouble.seen >= after:
                del self._open[key]
        return {trouble.incident.key: trouble.incident for trouble in self._open.values()}

    def _hold(self, rule: str) -> float:
        value = getattr(self._rules, rule)
        assert isinstance(value, float)
        return value

    def _incident(self, found: _Finding, now: float, wall: float) -> Incident:
        place = f"{found.service_name}: " if found.service_name else ""
        # Redacted before it is cut: half a secret is not recognised any more.
        summary = self._redact(" ".join(f"{place}{found.text}".split()))[:_LONGEST_SUMMARY]
        incident = Incident(
            key=found.key,
            rule=found.rule,
            service_name=found.service_name,
            severity=found.severity,
            summary=summary,
            opened_at=wall,
            began=now,
        )
        if found.rule != "outcome_unknown":
            return incident
        # Nobody resolves it but a person: under the same key the next one would be taken for a repetition.
        return replace(incident, key=f"{found.key}:{wall:.3f}", resolves=False)

    def _forget_what_was_noted(self, looked_at: Collection[str], known: Collection[str] | None) -> None:
        there = looked_at if known is None else known
        for noted in (self._failed, self._unknown):
            for name in [name for name in noted if name in looked_at or name not in there]:
                del noted[name]
        self._opened = {name for name in self._opened if name not in looked_at and name in there}
        for name in [name for name in self._last_error if name not in there]:
            del self._last_error[name]

    def _findings(self, health: Mapping[str, Any]) -> Iterator[_Finding]:  # Any: as above
        for found in self._all_findings(health):
            if getattr(self._rules, found.rule) is not None:
                yield found

    def _all_findings(self, health: Mapping[str, Any]) -> Iterator[_Finding]:  # Any: as above
        for name, service in health["services"].items():
            if name not in self._ignored:
                yield from self._of_service(name, service)
        dropped = health["error_log"]["dropped"]
        lost, self._dropped = dropped - (dropped if self._dropped is None else self._dropped), dropped
        if lost > 0:
            yield _Finding(
                "records_dropped",
                "records_dropped",
                "",
                "warning",
                f"the error log lost {lost} records",
                is_instant=True,
            )
        failing = list(_failing(health))
        if failing:
            yield _Finding("disk_failing", "disk_failing", "", "critical", "; ".join(failing))

    def _of_service(self, name: str, service: Mapping[str, Any]) -> Iterator[_Finding]:  # Any: as above
        severity: Severity = "critical" if service["critical"] else "error"
        error = self._last_error.get(name)
        because = "" if error is None else f": {error[0]}: {error[1]}"
        key = f"service:{name}"
        circuit = service["circuit"]
        if circuit != "closed" or name in self._opened:
            text = f"circuit open{because}"
            if service["circuit_mode"] == "forced-open":
                text = f"circuit held open by hand: {service['circuit_mode_reason'] or 'no reason given'}"
            has_opened = circuit == "open" or name in self._opened
            yield _Finding(key, "circuit_opened", name, severity, text, opens=has_opened)
        if service["status"] == "unavailable":
            yield _Finding(key, "service_unavailable", name, severity, f"unavailable{because}")
        failed = self._failed.get(name, 0)
        if service["critical"] and (failed or circuit != "closed"):
            # Also without `circuit_opened` it lasts as long as the circuit: each probe that fails is no new outage.
            yield _Finding(
                key,
                "critical_error",
                name,
                "critical",
                f"{_calls(failed)} to a critical service failed for good{because}",
                opens=bool(failed),
                is_instant=True,
            )
        unknown = self._unknown.get(name, 0)
        if unknown:
            yield _Finding(
                f"outcome_unknown:{name}",
                "outcome_unknown",
                name,
                "critical",
                f"nobody knows what {_calls(unknown)} did{because}",
                is_instant=True,
            )


def _calls(number: int) -> str:
    return "a call" if number == 1 else f"{number} calls"


def _failing(health: Mapping[str, Any]) -> Iterator[str]:  # Any: as above
    for part, name, bad in (
        ("error_log", "error log", ("degraded",)),
        ("journal", "journal", ("locked", "no space", "failed")),
        ("kept_sends", "file of what is sent under rate limits", ("degraded",)),
    ):
        state = health[part]["state"]
        if state in bad:
            yield f"the {name} is not written ({state}): {health[part]['last_error'] or 'no reason given'}"
    if health["halt"]["last_error"] is not None:
        yield f"the halt is not written: {health['halt']['last_error']}"

"""
What a person is told of: an incident, and that it began or ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, Literal

__all__ = ["SEVERITIES", "Incident", "Kind", "Notice", "Severity"]

Severity = Literal["critical", "error", "warning"]
"""How bad it is, in PagerDuty's words."""

Kind = Literal["opened", "resolved"]
"""What a notice tells of an incident."""

SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "error", "warning")
"""The worst first."""

_LONGEST_KEY: Final = 255  # PagerDuty's, for a dedup_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that is wrong until it is over."""

    key: str
    """Which one: the same trouble of the same service has the same key again."""
    rule: str
    """The field of `AlertRules` that found it."""
    service_name: str
    """Whose it is; empty for what concerns the whole process."""
    severity: Severity
    summary: str
    """What is wrong, in one line without secrets."""
    opened_at: float
    """When it was first told of; wall time, seconds since 1970 UTC."""
    began: float
    """The same by the clock that nobody sets: monotonic seconds, of which only differences mean anything."""
    resolves: bool = True
    """Whether its end can be seen from here; if not, a person has to look, and no end is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """That an incident opened, or that it is over."""

    kind: Kind
    incident: Incident
    source: str
    """Which program tells it."""
    at: float
    """When this notice was made; wall time, seconds since 1970 UTC."""
    lasted: float
    """Seconds from the beginning of the incident to this notice."""
    waiting: int = 0
    """How many more notices `Alerts(max_per_minute=...)` holds back; said by the last one that it lets through."""

    @property
    def dedup_key(self) -> str:
        """The same for both notices of an incident, and in the next life of the program; at most 255 characters."""
        key = f"shockproof:{self.source}:{self.incident.key}"
        if len(key) <= _LONGEST_KEY:
            return key
        digest = sha256(key.encode()).hexdigest()
        return f"{key[: _LONGEST_KEY - len(digest) - 1]}:{digest}"

    @property
    def text(self) -> str:
        """The notice in one line."""
        others = f"; {self.waiting} more wait" if self.waiting else ""
        if self.kind == "opened":
            return f"{self.incident.severity}: {self.incident.summary}{others}"
        return f"resolved after {self.lasted:.0f} s: {self.incident.summary}{others}"

    def to_dict(self) -> dict[str, Any]:  # Any: text
        """JSON-ready; times are ISO 8601 in UTC."""
        return {
            "kind": self.kind,
            "rule": self.incident.rule,
            "service_name": self.incident.service_name,
            "severity": self.incident.severity,
            "summary": self.incident.summary,
            "dedup_key": self.dedup_key,
            "opened_at": _iso(self.incident.opened_at),
            "at": _iso(self.at),
            "lasted": round(self.lasted, 3),
            "waiting": self.waiting,
        }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()

"""
``/health`` in the form that monitoring knows: ``application/health+json``, as in draft-inadarei-api-health-check-06.

The same checks as behind ``/readyz``, in its words: ``pass`` and ``warn`` are answered 200, ``fail`` 503.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, Literal

from shockproof.endpoints.checks import Check, is_ready, readiness
from shockproof.endpoints.exchange import Answer

__all__ = ["health_json"]

_TYPE: Final = "application/health+json"
_Word = Literal["pass", "warn", "fail"]
_WORDS: Final[dict[str, _Word]] = {"ok": "pass", "warns": "warn", "failed": "fail"}
_Detail = tuple[str, dict[str, Any]]  # Any: JSON


def health_json(health: dict[str, Any], *, verbose: bool) -> Answer:  # Any: JSON
    """The answer, from what `get_health_status` says without secrets; *verbose*: with all of that under ``health``."""
    checks = readiness(health)
    troubles = [check for check in checks if check.verdict != "ok"]
    status: _Word = "pass" if not troubles else "warn" if is_ready(checks) else "fail"
    told: dict[str, Any] = {"status": status}  # Any: JSON
    worst = [check for check in troubles if check.verdict == "failed"] or troubles
    if worst:
        others = f", and {len(troubles) - 1} more" if len(troubles) > 1 else ""
        told["output"] = f"{worst[0].name}: {worst[0].why}{others}"
    details: dict[str, list[dict[str, Any]]] = {}  # Any: JSON
    for name, detail in _details(health, {check.name: check for check in checks}):
        # Without their secrets two names may be the same.
        details.setdefault(name, []).append({**detail, "time": health["timestamp"]})
    told["checks"] = details
    if verbose:
        told["health"] = health
    body = json.dumps(told, indent=2).encode("ascii")
    return Answer(503 if status == "fail" else 200, body, _TYPE)


def _details(health: dict[str, Any], checks: dict[str, Check]) -> Iterator[_Detail]:  # Any: JSON
    for name, service in health["services"].items():
        circuit = service["circuit"]
        worst: _Word = "fail" if service["critical"] and circuit == "open" else "warn"
        yield (
            f"{name}:breaker",
            {
                "componentType": "component",
                "observedValue": circuit,
                "status": "pass" if circuit == "closed" else worst,
                "critical": service["critical"],
            },
        )
        status = service["status"]
        yield (
            f"{name}:status",
            {
                "componentType": "component",
                "observedValue": status,
                "status": "pass" if status == "operational" else "warn",
            },
        )
    for part, kind, seen in (
        ("error_log", "datastore", health["error_log"]["state"]),
        ("journal", "datastore", health["journal"]["state"]),
        ("kept_sends", "datastore", health["kept_sends"]["state"]),
        ("halt", "component", "halted" if health["halted"] else "not halted"),
        ("shared", "datastore", None if health["shared"] is None else health["shared"]["state"]),
        ("event_loop", "system", None if health["loop"] is None else health["loop"]["state"]),
    ):
        check = checks.get(part)
        if check is None:
            continue
        detail = {"componentType": kind, "observedValue": seen, "status": _WORDS[check.verdict]}
        yield f"{part}:state", detail if not check.why else {**detail, "output": check.why}

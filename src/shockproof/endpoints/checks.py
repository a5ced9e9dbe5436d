"""
What of the health warns and what fails, in the words of the Kubernetes API server.

A circuit that is open is how a program gets over an outage: it warns. Only that of a service that is marked
``critical`` fails, as without it the program is of no use to whoever asks. A half-open one warns: it needs calls.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from shockproof.endpoints.exchange import Answer, plain

__all__ = ["Check", "is_ready", "readiness", "told"]

_SIGNS: Final = {"ok": "[+]", "warns": "[!]", "failed": "[-]"}


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    verdict: Literal["ok", "warns", "failed"]
    why: str = ""

    def __str__(self) -> str:
        # A name is the program's own text: it must not look like a line of its own.
        line = f"{self.name} {self.verdict}{': ' if self.why else ''}{self.why}"
        return _SIGNS[self.verdict] + "".join(one if one.isprintable() else "?" for one in line)


def readiness(health: dict[str, Any]) -> list[Check]:  # Any: JSON
    """The checks behind ``/readyz``, from what `ErrorRecoveryService.get_health_status` says."""
    services = [_service(name, service) for name, service in health["services"].items()]
    return [
        *services,
        _state("error_log", health["error_log"]["state"], fine=("ok", "closed")),
        _state("journal", health["journal"]["state"], fine=("open", "closed")),
        *_kept_sends(health["kept_sends"]["state"]),
        _halt(health),
        *_shared(health["shared"]),
        *_loop(health["loop"]),
    ]


def is_ready(checks: list[Check]) -> bool:
    """Whether none has failed."""
    return all(check.verdict != "failed" for check in checks)


def told(endpoint: str, checks: list[Check], *, verbose: bool) -> Answer:
    """``ok``, or line by line what was looked at: when asked to, and when something has failed."""
    passed = is_ready(checks)
    if passed and not verbose:
        return plain(200, "ok")
    last = f"{endpoint} check {'passed' if passed else 'failed'}"
    return plain(200 if passed else 503, "\n".join([*map(str, checks), last]))


def _service(name: str, health: dict[str, Any]) -> Check:  # Any: JSON
    full = f"services/{name}"
    status, circuit = health["status"], health["circuit"]
    troubles = [] if status == "operational" else [str(status)]
    if circuit != "closed":
        troubles.append(f"circuit {circuit}")
    if not troubles:
        return Check(full, "ok")
    if health["critical"] and circuit == "open":
        return Check(full, "failed", ", ".join(["critical", *troubles]))
    return Check(full, "warns", ", ".join(troubles))


def _state(name: str, state: str, *, fine: tuple[str, ...]) -> Check:
    return Check(name, "ok") if state in fine else Check(name, "warns", state)


def _kept_sends(state: str) -> list[Check]:
    # Most programs have no rate limit to keep anything of.
    return [] if state == "closed" else [_state("kept_sends", state, fine=("ok",))]


def _halt(health: dict[str, Any]) -> Check:  # Any: JSON
    halt = health["halt"]
    if health["halted"]:
        return Check("halt", "warns", f"halted: {halt['reason']}")
    return Check("halt", "ok") if halt["last_error"] is None else Check("halt", "warns", halt["last_error"])


def _shared(shared: dict[str, Any] | None) -> list[Check]:  # Any: JSON
    if shared is None:
        return []
    trouble = shared["trouble"]
    return [Check("shared", "ok") if trouble is None else Check("shared", "warns", trouble)]


def _loop(loop: dict[str, Any] | None) -> list[Check]:  # Any: JSON
    return [] if loop is None else [_state("event_loop", loop["state"], fine=("ok",))]

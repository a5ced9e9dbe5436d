"""How a running program is, in lines and tables: once for ``shockproof health``, again and again for ``top``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from shockproof.command_line.screen import Screen
from shockproof.views.words import ago, error_count, local_time, not_called_since, printable

__all__ = ["HEALTH_STYLES", "Counts", "show_errors", "show_head", "show_pending", "show_services"]

Status = dict[str, Any]  # Any: JSON, from a program that may be of another version, or none of ours
Counts = dict[str, tuple[float, float]]
"""By service: how many calls succeeded and how many attempts failed so far."""

HEALTH_STYLES: Final = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}
_STATUS_STYLES: Final = {"operational": None, "degraded": "yellow", "unavailable": "red"}
_SHORTEST_NAME: Final = 16
_SPARSE: Final = ("RETRIES", "REFUSED", "IN FLIGHT")
"""Columns in which most programs have little or nothing, what tells least first."""
_LEAST_FOR_ERROR: Final = 24
"""Characters of the last error for which a terminal leaves such columns out."""
_SEVERITY_STYLES: Final = {"critical": "red", "high": "red", "medium": "yellow", "low": "dim"}


def show_head(status: Status, name: str, screen: Screen) -> None:
    """One line on everything, and one for each thing beside the services that is not as it should be."""
    health = status["overall_health"]
    services, pid = status["services"], status.get("pid")
    counts = _dict(status.get("counts"))
    known = counts.get("services", len(services))
    errors = status.get("recent_error_count", 0)
    process = "" if pid is None else f"process {pid}, "
    in_words = (
        "1 error" if errors == 1 else f"{error_count(errors) if isinstance(errors, int) else errors} errors"
    )
    text = f"{health}: {_several(known, 'service')}, {in_words} in the last 5 min  ({process}{name})"
    screen.line(screen.cut(text), HEALTH_STYLES.get(health))
    halt = _dict(status.get("halt"))
    if status.get("halted"):
        screen.line(screen.cut(f"HALTED: {halt.get('reason')}"), "red")
    shared = _dict(status.get("shared"))
    owns = _dict(shared.get("owns"))
    if shared.get("trouble"):
        screen.line(screen.cut(f"shared: {shared['trouble']}"), "red" if owns else "yellow")
    elif owns.get("is_owner"):
        screen.line(screen.cut(f"shared: this process owns {owns.get('name')!r}"))
    log, journal = _dict(status.get("error_log")), _dict(status.get("journal"))
    for what, one, fine in (
        ("error log", log, ("ok", "closed")),
        ("journal", journal, ("open", "closed")),
        ("kept sends", _dict(status.get("kept_sends")), ("ok", "closed")),
    ):
        if one and one.get("state") not in fine:
            screen.line(screen.cut(f"{what}: {one.get('state')}: {one.get('last_error')}"), "red")
    if journal.get("incomplete"):
        screen.line(screen.cut(f"journal: something is missing: {journal['incomplete']}"), "red")
    if journal.get("owned_elsewhere"):
        screen.line(screen.cut(f"journal: {journal['owned_elsewhere']}"))
    if log.get("dropped"):
        screen.line(f"error log: {log['dropped']} records were dropped", "yellow")


def show_services(
    status: Status,
    screen: Screen,
    *,
    rates: Mapping[str, tuple[float, float]] | None = None,
    room: int | None = None,
) -> None:
    """
    A row for each service, those in trouble first; with *rates*, calls and failures a second in place of counts.

    With *room*, at most so many lines, and at least one service.
    """
    services: list[Status] = sorted(status["services"], key=_trouble)
    matching = _dict(status.get("counts")).get("matching", len(services))
    if room is not None:
        is_all = len(services) <= room - 1 and matching == len(services)
        services = services[: None if is_all else max(1, room - 2)]
    has_latencies = any(_latency(service) for service in services)
    heads = [
        "SERVICE",
        "STATUS",
        "CIRCUIT",
        *(("OK", "FAILED") if rates is None else ("CALLS/S", "FAILED/S")),
        "RETRIES",
        "REFUSED",
        "IN FLIGHT",
        *(["P95"] if has_latencies else []),
        "LAST ERROR",
    ]
    rows, styles = [], []
    for service in services:
        if rates is None:
            counts = [_count(service.get("successes")), _count(service.get("failures"))]
        else:
            counts = [f"{rate:.1f}" for rate in rates.get(service["name"], (0.0, 0.0))]
        in_flight, limit = service.get("in_flight"), service.get("max_concurrent")
        row = [
            _name(service, screen),
            str(service.get("status", "")),
            _circuit(service),
            *counts,
            _count(service.get("retries")),
            _count(service.get("rejections")),
            "" if in_flight is None else f"{in_flight}/{limit}",
            *([_latency(service)] if has_latencies else []),
            str(service.get("last_error") or _before(service)),
        ]
        rows.append(row)
        styles.append(_STATUS_STYLES.get(row[1]))
    if screen.width is not None:
        heads, rows = _fitting(heads, rows, screen.width)
    screen.table(heads, rows, styles=styles)
    if isinstance(matching, int) and matching > len(rows):
        screen.line(f"and {matching - len(rows)} more", "dim")


def _fitting(heads: list[str], rows: list[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """Without the columns that would push the last error off the edge: those that nobody has, then as many as it takes."""
    columns = [[head, *(row[place] for row in rows)] for place, head in enumerate(heads)]
    kept = [column for column in columns if column[0] not in _SPARSE or any(column[1:])]
    wanted = min(_LEAST_FOR_ERROR, max(map(len, columns[-1])))
    for sparse in _SPARSE:
        if sum(max(map(len, column)) + 2 for column in kept[:-1]) + wanted > width:
            kept = [column for column in kept if column[0] != sparse]
    head, *fitting = map(list, zip(*kept, strict=True))
    return head, fitting


def show_errors(status: Status, screen: Screen, most: int) -> None:
    """The newest errors, newest first, where it tells them."""
    errors = [error for error in _list(status.get("errors")) if isinstance(error, dict)][:most]
    if not errors:
        return
    screen.line()
    screen.line("NEWEST ERRORS", "bold")
    for error in errors:
        at = error.get("at")
        when = local_time(at)[11:19] if _is_finite(at) else ""
        text = (
            f"{when}  {str(error.get('severity', '')).upper():<8}  {error.get('service_name')}."
            f"{error.get('function_name')}  {error.get('error_type')}: {error.get('error_message')}"
        )
        screen.line(screen.cut(text), _SEVERITY_STYLES.get(str(error.get("severity"))))


def show_pending(status: Status, screen: Screen, most: int) -> None:
    """What began and has not ended, oldest first, where it tells it."""
    in_state = status.get("pending_in_state")
    of_the_state = _list(in_state.get("first")) if isinstance(in_state, dict) else []
    pending = [one for one in (*_list(status.get("pending")), *of_the_state) if isinstance(one, dict)]
    if not pending:
        return
    screen.line()
    rows = []
    for one in pending[:most]:
        since = one.get("since")
        age = f"{ago(time.time() - since)} ago" if _is_finite(since) else ""
        words = one.get("stopped_by") or one.get("progress") or ""
        rows.append(
            (str(one.get("key") or ""), str(one.get("operation")), str(one.get("kind")), age, str(words))
        )
    screen.table(("PENDING", "OPERATION", "KIND", "SINCE", ""), rows)
    if len(pending) > most:
        screen.line(f"and {len(pending) - most} more", "dim")


def _trouble(service: Status) -> tuple[int, str]:
    if service.get("circuit") == "open":
        rank = 0 if service.get("critical") else 1
    else:
        rank = {"unavailable": 2, "degraded": 3}.get(str(service.get("status")), 4)
    return rank, service["name"].casefold()


def _name(service: Status, screen: Screen) -> str:
    """On a terminal at most a third of it: one long name would push what is said of all services off its edge."""
    name, mark = printable(service["name"]), " !" if service.get("critical") else ""
    longest = None if screen.width is None else max(_SHORTEST_NAME, screen.width // 3)
    return f"{name if longest is None or len(name) <= longest else f'{name[: longest - 1]}…'}{mark}"


def _circuit(service: Status) -> str:
    mode, wait = service.get("circuit_mode"), service.get("retry_after")
    text = str(service.get("circuit", "")) if mode in (None, "normal") else str(mode)
    if text == "open" and _is_finite(wait) and wait > 0:
        text += f" {ago(wait)}"
    return text


def _before(service: Status) -> str:
    status = service.get("restored_status")
    return not_called_since(status) if isinstance(status, str) else ""


def _latency(service: Status) -> str:
    seconds = _dict(service.get("calls")).get("p95")
    return f"{seconds * 1000:,.0f} ms" if _is_finite(seconds) else ""


def _several(number: object, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and value else ""


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) < 1e15  # also what compares to nothing, NaN


def _dict(value: object) -> Status:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:  # Any: JSON
    return value if isinstance(value, list) else []

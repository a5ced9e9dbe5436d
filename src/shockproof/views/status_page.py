"""
The status page of a running program: HTML that is whole without a script, made of parts that a script may exchange.

It loads nothing from anywhere else, holds no style and no script of its own (the strictest policy allows it), follows the
reader's choice of dark and light, and is readable on a phone, by keyboard, and by ear. What others wrote is text and never
markup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from shockproof.views.pictures import stacked_bars
from shockproof.views.status_history import STEP, quantile
from shockproof.views.status_pictures import band, columns_of_lag, heat, spark
from shockproof.views.status_window import PictureWindow, window_for
from shockproof.views.words import (
    ago,
    clock_time,
    duration_text,
    error_count,
    local_time,
    markup,
    not_called_since,
)

__all__ = ["Part", "document", "page", "parts_of"]

_SEVERITIES: Final = ("low", "medium", "high", "critical")
_SIGNS: Final = {"good": "●", "warn": "▲", "bad": "■", "hand": "◆", "off": "○"}
"""A shape for each colour: some readers see no colours."""
_MOST_STALLS: Final = 3
_STEPS_OF_A_MINUTE: Final = round(60 / STEP)


class Part(NamedTuple):
    """An element of the page that is exchanged as a whole."""

    id: str
    markup: str
    within: str = ""
    """The id of the list it is a member of; "" for a part that has a place of its own."""


# ---- the whole


def document(title: str, body: str, *, root: str, head: str = "") -> str:
    """A page; *root* leads from its address to where the style lies: ``status/`` or ``""``."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="dark light">\n'
        f"<title>{markup(title)}</title>\n"
        f'<link rel="icon" href="{root}icon.svg" type="image/svg+xml">\n'
        f'<link rel="stylesheet" href="{root}style.css">\n{head}</head>\n<body>\n{body}\n</body>\n</html>\n'
    )


def page(parts: Mapping[str, Part], *, matching: str, most: int, version: str, can_change: bool) -> str:
    """The page of these parts; *version* is what the live view goes on from."""

    def part(name: str) -> str:
        return parts[name].markup

    def members(of: str) -> str:
        return "\n".join(one.markup for one in parts.values() if one.within == of)

    heads = "".join(
        f"""<th role="columnheader" scope="col"{f' class="{css}"' if css else ""}>{part("band-head") if name == _BAND else name}</th>"""
        for name, css in _COLUMNS
        if can_change or name != _ACTIONS
    )
    live = urlencode({"q": matching, "most": most})
    body = f"""<a class="skip" href="#services">To the services</a>
<header class="top">
<h1>{_LOGO}shockproof</h1>
{part("verdict")}
<div class="right">{part("halt-link")}<span id="live" data-state="off"><noscript>reloads every 10 s</noscript></span>{part("clock")}</div>
</header>
<main data-live="status/events?{markup(live)}" data-version="{markup(version)}">
{part("banner")}
{part("tiles")}
<div class="columns">
<div class="left">
<section id="services" aria-labelledby="services-h" tabindex="-1">
<div class="bar"><h2 id="services-h">Services</h2>{part("services-note")}
<form role="search" action="status" method="get"><label>Filter <input type="search" name="q" value="{markup(matching)}" maxlength="100" autocomplete="off" spellcheck="false" placeholder="name"></label><button>Show</button></form></div>
<table role="table" aria-labelledby="services-h" class="services{"" if can_change else " read-only"}"><thead role="rowgroup"><tr role="row">{heads}</tr></thead>
<tbody role="rowgroup" id="rows">
{members("rows")}
</tbody></table>
</section>
<div class="pair">
<section aria-labelledby="errors-h">
<div class="bar"><h2 id="errors-h">Errors</h2>{part("errors-note")}</div>
<ol class="stream" id="errors" tabindex="0" aria-labelledby="errors-h">
{members("errors")}
</ol>
</section>
<section aria-labelledby="happenings-h"><div class="bar"><h2 id="happenings-h">What changed</h2>{part("happenings-note")}</div>
<ol class="stream" id="happenings" tabindex="0" aria-labelledby="happenings-h">
{members("happenings")}
</ol></section>
</div>
</div>
<div class="right-column">
<section aria-labelledby="latency-h"><div class="bar"><h2 id="latency-h">Latency</h2>{part("latency-note")}</div>
<div class="with-axis"><div class="axis heat-axis" aria-hidden="true"><span></span><span>10 s</span><span>1 s</span><span>100 ms</span><span>10 ms</span><span>1 ms</span></div>{part("latency")}</div></section>
<section aria-labelledby="calls-h"><div class="bar"><h2 id="calls-h">Calls</h2>{part("calls-note")}</div>{part("calls")}</section>
<section aria-labelledby="lag-h"><div class="bar"><h2 id="lag-h">Event loop lag</h2>{part("lag-note")}</div>
<div class="with-axis"><div class="axis lag-axis" aria-hidden="true"><span></span><span>1 s</span><span>100 ms</span><span>10 ms</span></div>{part("lag")}</div>{part("stalls")}</section>
<section aria-labelledby="severities-h"><div class="bar"><h2 id="severities-h">Errors over time</h2>{part("severities-note")}</div>{part("severities")}</section>
<section aria-labelledby="pending-h"><div class="bar"><h2 id="pending-h">Pending operations</h2>{part("pending-note")}</div>
<ol class="stream" id="pending" tabindex="0" aria-labelledby="pending-h">
{members("pending")}
</ol></section>
</div>
</div>
</main>
<footer><p>{part("footer")}</p></footer>
<script src="status/live.js" defer></script>"""
    refresh = '<noscript><meta http-equiv="refresh" content="10"></noscript>\n'
    return document("shockproof: status", body, root="status/", head=refresh)


_ACTIONS: Final = "Change"
_BAND: Final = "Band"
_NOTE: Final = "Note"
_COLUMNS: Final = (
    ("Service", ""),
    ("Circuit", ""),
    (_BAND, "wide"),
    ("Calls/s", "n"),
    ("Failing", "n"),
    ("p50", "n"),
    ("p95", "n p95"),
    ("In flight", "n"),
    ("Refused", "n"),
    ("Retries", "n"),
    (_ACTIONS, "actions"),
    (_NOTE, "hidden"),
)
_LOGO: Final = '<svg class="logo" aria-hidden="true" viewBox="0 0 24 24"><path d="M2 13h4l2.5-8 4 14 3-9 1.5 3h5"/></svg>'


# ---- the parts


def parts_of(status: Mapping[str, Any], *, matching: str, can_change: bool) -> Iterator[Part]:  # Any: JSON
    """All of them; each that has not changed has the same markup as before."""
    yield _verdict(status)
    yield _halt_link(status, can_change=can_change)
    at = float(status["at"])
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    yield Part("clock", f'<time id="clock" datetime="{moment}">{markup(clock_time(at))}</time>')
    yield _banner(status)
    yield _tiles(status)
    yield _services_note(status, matching)
    window = window_for(status["history"]["recorded"])
    yield Part("band-head", f'<span id="band-head">{_band_label(window)}</span>')
    for service in status["services"]:
        yield _row(service, window, can_change=can_change)
    yield from _pictures(status, window)
    yield from _errors(status)
    yield from _pending(status)
    yield from _happenings(status)
    rest = "Times are those of the program's machine." if can_change else _READ_ONLY
    yield Part("footer", f'<span id="footer">Process {status["pid"]}. {markup(rest)}</span>')


_READ_ONLY: Final = (
    "Times are those of the program's machine. Nothing can be changed here, as no token is configured."
)


def _note(name: str, text: str) -> Part:
    return Part(f"{name}-note", f'<p class="note" id="{name}-note">{text}</p>')


def _verdict(status: Mapping[str, Any]) -> Part:  # Any: JSON
    """What a screen reader says when it changes: so no number that changes all the time."""
    counts = status["counts"]
    kind = {"healthy": "good", "degraded": "warn"}.get(status["overall_health"], "bad")
    said = []
    if status["halted"]:
        kind = "bad"
        said.append("halted")
    said += [
        f"{counts[key]} {words}"
        for key, words in (
            ("unavailable", "unavailable"),
            ("degraded", "degraded"),
            ("circuits_open", "circuit open" if counts["circuits_open"] == 1 else "circuits open"),
        )
        if counts[key]
    ]
    if status["loop"] is not None and status["loop"]["state"] == "degraded":
        said.append("the event loop was late")
    said += _of_the_fleet(status)
    text = f"{status['overall_health'].capitalize()}{': ' if said else ''}{', '.join(said)}"
    return Part(
        "verdict", f'<p id="verdict" role="status" class="pill {kind}">{_sign(kind)}{markup(text)}</p>'
    )


def _of_the_fleet(status: Mapping[str, Any]) -> list[str]:  # Any: JSON
    shared = status["shared"]
    if shared is None:
        return []
    owns = shared["owns"]
    if owns is not None and not owns["is_owner"]:
        return [f"{owns['state']}, not the owner"]
    return ["the store is away"] if shared["state"] == "away" else []


def _halt_link(status: Mapping[str, Any], *, can_change: bool) -> Part:  # Any: JSON
    link = ""
    if can_change:
        link = _change_link("resume", "Resume") if status["halted"] else _change_link("halt", "Halt all")
    return Part("halt-link", f'<span id="halt-link">{link}</span>')


def _banner(status: Mapping[str, Any]) -> Part:  # Any: JSON
    halt, log, journal = status["halt"], status["error_log"], status["journal"]
    said = []
    if status["halted"]:
        since = "" if halt["since"] is None else f" since {local_time(datetime.fromisoformat(halt['since']))}"
        said.append(f"Halted{since}: {halt['reason']}. Reads and what reduces risk still pass.")
    if halt["last_error"] is not None:
        said.append(f"The halt is not safe on the disk: {halt['last_error']}")
    if log["state"] not in ("ok", "closed"):
        said.append(f"The error log is {log['state']}: {log['last_error'] or ''}")
    if log["dropped"]:
        said.append(f"{log['dropped']:,} records of the error log were dropped.")
    shared = status["shared"]
    if shared is not None and shared["trouble"] is not None:
        said.append(f"{shared['trouble'][:1].upper()}{shared['trouble'][1:]}.")
    if journal["state"] not in ("open", "closed"):
        said.append(f"The journal is {journal['state']}: {journal['last_error'] or ''}")
    if journal["incomplete"] is not None:
        said.append(f"Something is missing from the journal: {journal['incomplete']}.")
    if status["kept_sends"]["state"] == "degraded":
        said.append(f"What is sent under rate limits is not kept: {status['kept_sends']['last_error']}.")
    lines = "".join(f"<p>{_sign('bad')}{markup(line)}</p>" for line in said)
    return Part("banner", f'<div id="banner" class="banner" role="alert">{lines}</div>')


def _tiles(status: Mapping[str, Any]) -> Part:  # Any: JSON
    counts, history = status["counts"], status["history"]
    trouble = counts["unavailable"] + counts["degraded"]
    tiles = [
        ("Services", f"{trouble:,} / {counts['services']:,}" if trouble else f"{counts['services']:,}",
         "in trouble" if trouble else "all operational",
         "bad" if counts["unavailable"] else "warn" if trouble else ""),
        ("Circuits open", f"{counts['circuits_open']:,}", f"{counts['circuits_half_open']:,} half-open",
         "bad" if counts["circuits_open"] else "warn" if counts["circuits_half_open"] else ""),
    ]  # fmt: skip
    columns = _sums(history["calls"][-_STEPS_OF_A_MINUTE:])
    calls, failed = sum(columns), sum(history["failed"][-_STEPS_OF_A_MINUTE:])
    whole = len(history["calls"][-_STEPS_OF_A_MINUTE:]) - 1
    seconds = max(1.0, whole * STEP + history["under_way"])
    share = failed / calls if calls else 0.0
    lags = [lag for lag in history["worst_lag"][-_STEPS_OF_A_MINUTE:] if lag is not None]
    worst = max(lags, default=None)
    p95 = quantile(columns, 0.95)
    tiles += [
        ("Calls", f"{_rate(calls / seconds)}/s", f"{_share(share)} failing",
         "bad" if share > 0.1 else "warn" if share > 0.01 else ""),
        ("p95", "none" if p95 is None else duration_text(p95), "of the last minute", ""),
        ("Loop lag", "none yet" if worst is None else duration_text(worst), "at worst, last minute",
         "" if worst is None or worst < 0.02 else "bad" if worst >= 0.1 else "warn"),
    ]  # fmt: skip
    errors, journal, log = status["recent_error_count"], status["journal"], status["error_log"]
    pending = journal["pending"] + status["pending_in_state"]["count"]
    tiles += [
        ("Errors", error_count(errors), "in 5 min", "warn" if errors else ""),
        ("Pending", f"{pending:,}", "operation" if pending == 1 else "operations", ""),
        ("Error log", log["state"], f"{log['written']:,} written, {log['queued']:,} waiting",
         "" if log["state"] in ("ok", "closed") else "bad"),
        ("Journal", journal["state"], _saved(status["saved_at"], status["at"]),
         "" if journal["state"] in ("open", "closed") else "bad"),
    ]  # fmt: skip
    shown = "".join(
        f'<div class="{kind}"><dt>{markup(name)}</dt><dd><b>{markup(value)}</b> <span>{markup(more)}</span></dd></div>'
        for name, value, more, kind in tiles
    )
    return Part("tiles", f'<dl id="tiles" class="tiles">{shown}</dl>')


def _saved(at: float | None, now: float) -> str:
    if at is None:
        return "no state saved yet"
    when = local_time(at)
    is_today = when[:10] == local_time(now)[:10]
    return f"state saved {clock_time(at) if is_today else when[:10]}"


def _services_note(status: Mapping[str, Any], matching: str) -> Part:  # Any: JSON
    counts = status["counts"]
    what = f"{counts['matching']:,} with “{markup(matching)}” of {counts['services']:,}" if matching else ""
    if counts["shown"] < counts["matching"]:
        query = markup(urlencode({"q": matching, "most": 200}))
        more = f'; <a href="status?{query}">show 200</a>' if counts["shown"] < 200 else ""
        what = f"{counts['shown']:,} of {what or format(counts['services'], ',')}, in trouble first{more}"
    back = ' <a href="status">all</a>' if matching else ""
    return _note("services", f"{what or format(counts['services'], ',')}{back}")


# ---- services


def _band_label(window: PictureWindow) -> str:
    return f"Last {window.minutes} min"


def _row(service: Mapping[str, Any], window: PictureWindow, *, can_change: bool) -> Part:  # Any: JSON
    name = service["name"]
    kind = _kind_of(service)
    badges = (
        '<span class="hidden">, </span><span class="badge">critical</span>' if service["critical"] else ""
    )
    why = service["circuit_mode_reason"] if service["circuit_mode"] != "normal" else service["last_error"]
    more = [] if not why else [str(why)]
    if service["paused_for"]:
        more.append(f"paused for {duration_text(service['paused_for'])}: the other side asked for it")
    if service["abandoned_attempts"] or service["abandoned_threads"]:
        more.append(
            f"{service['abandoned_attempts'] + service['abandoned_threads']} left behind, still running"
        )
    more += [_feed(stream) for stream in service["streams"]]
    if service["restored_status"] is not None:
        more.append(not_called_since(service["restored_status"]))
    if not more and kind in ("bad", "warn") and service["circuit"] == "closed":
        more.append("its last call failed" if kind == "bad" else "a fallback answered its last call")
    cells = [
        (
            "Service",
            "name",
            f'{_sign(kind)}<span class="hidden">{markup(service["status"])}: </span><b>{markup(name)}</b>{badges}',
        ),
        ("Circuit", "circuit", _circuit(service, kind)),
        (_band_label(window), "wide", band(service["timeline"], name=name, seconds=window.seconds)),
    ]
    cells += _numbers(service, window)
    if can_change:
        cells.append((_ACTIONS, "actions", _actions(service)))
    cells.append((_NOTE, "why", "<br>".join(map(markup, more))))
    of_the_row, *others = (
        (f'class="{css}" data-label="{markup(label)}"', content) for label, css, content in cells
    )
    row = f'<th role="rowheader" scope="row" {of_the_row[0]}>{of_the_row[1]}</th>' + "".join(
        f'<td role="cell" {attributes}>{content}</td>' for attributes, content in others
    )
    return Part(
        f"s-{service['id']}", f'<tr role="row" id="s-{service["id"]}" class="is-{kind}">{row}</tr>', "rows"
    )


def _kind_of(service: Mapping[str, Any]) -> str:  # Any: JSON
    if service["circuit_mode"] == "forced-open":
        return "hand"
    if service["status"] == "unavailable" or service["circuit"] == "open":
        return "bad"
    if service["status"] == "degraded":
        return "warn"
    return "off" if service["circuit_mode"] != "normal" else "good"


def _circuit(service: Mapping[str, Any], kind: str) -> str:  # Any: JSON
    mode, circuit, retry_after = service["circuit_mode"], service["circuit"], service["retry_after"]
    if mode != "normal":
        said = {"forced-open": "held open", "disabled": "switched off", "shadow": "only watching"}[mode]
        shadow = service["circuit_shadow"]
        more = f"would be {shadow['circuit']}" if shadow and shadow["circuit"] != "closed" else ""
    else:
        said = circuit
        more = f"{duration_text(retry_after)} left" if circuit == "open" and retry_after else ""
        if not more and service["circuit_trips"]:
            trips = service["circuit_trips"]
            more = f"opened {'once' if trips == 1 else f'{trips:,} times'}"
    return f'<span class="{kind}">{markup(said)}</span> <small>{markup(more)}</small>'


def _numbers(service: Mapping[str, Any], window: PictureWindow) -> list[tuple[str, str, str]]:  # Any: JSON
    calls, failing, p50, p95, in_flight = service["calls"], _NOTHING, _NOTHING, _NOTHING, _NOTHING
    if calls["lately"]:
        share = calls["failed_lately"] / calls["lately"]
        css = "bad" if share > 0.1 else "warn" if share else "dim"
        failing = f'<span class="{css}">{_share(share)}</span>'
        p50, p95 = markup(duration_text(calls["p50"])), markup(duration_text(calls["p95"]))
    if service["in_flight"] is not None:
        limit = service["max_concurrent"]
        in_flight = f"{service['in_flight']:,}" + ("" if limit is None else f"<small>/{limit:,}</small>")
        if service["queued"]:
            in_flight += f' <span class="warn">+{service["queued"]:,}</span>'
    return [
        ("Calls/s", "n", _rate(calls["per_second"])),
        ("Failing", "n", failing),
        ("p50", "n", p50),
        ("p95", "n", p95 + spark(calls["p95_by_minute"], columns=max(5, window.minutes))),
        ("In flight", "n", in_flight),
        ("Refused", "n", _count(service["rejections"])),
        ("Retries", "n", _count(service["retries"])),
    ]


def _feed(stream: Mapping[str, Any]) -> str:  # Any: JSON
    age = stream["last_item_age"]
    heard = "nothing yet" if age is None else f"last item {'now' if age < 1.0 else f'{ago(age)} ago'}"
    gaps = f", gaps: {stream['gaps']:,}" if stream["gaps"] else ""
    return f"feed {stream['function_name']} {stream['phase']}, {heard}{gaps}"


def _actions(service: Mapping[str, Any]) -> str:  # Any: JSON
    held = service["circuit_mode"] != "normal"
    second = ("release", "Release") if held else ("force-open", "Hold open")
    return " ".join(
        _change_link(what, said, service)
        for what, said in (("reset", "Reset"), second)
        if not (held and what == "reset")
    )


def _change_link(what: str, said: str, service: Mapping[str, Any] | None = None) -> str:  # Any: JSON
    query = {"what": what} if service is None else {"what": what, "service": service["id"]}
    whose = "" if service is None else f'<span class="hidden"> {markup(service["name"])}</span>'
    name = what if service is None else f"{what}-{service['id']}"
    return f'<a class="button {what}" id="{name}" href="status/change?{markup(urlencode(query))}">{said}{whose}</a>'


# ---- pictures


def _pictures(status: Mapping[str, Any], window: PictureWindow) -> Iterator[Part]:  # Any: JSON
    yield from _latency(status["history"], window)
    yield from _calls(status["history"], window)
    yield from _lag(status["history"], window)
    yield _stalls(status["loop"])
    yield from _severities(status["errors_over_time"], window)


def _latency(history: Mapping[str, Any], window: PictureWindow) -> Iterator[Part]:  # Any: JSON
    calls: Sequence[Sequence[int]] = history["calls"]
    lately = _sums(calls[-_STEPS_OF_A_MINUTE * 5 :])
    said = ", ".join(
        f"p{share} {duration_text(quantile(lately, share / 100) or 0.0)}" for share in (50, 95, 99)
    )
    if not sum(lately):
        said = "no calls in 5 min"
    yield _note("latency", markup(said))
    columns = [_sums(group) for group in window.grouped(calls, history["number"])]
    title = f"How long all calls took in the last {window.minutes} min; in the last 5: {said}"
    yield _figure("latency", heat(columns, columns=window.columns, title=title), window)


def _calls(history: Mapping[str, Any], window: PictureWindow) -> Iterator[Part]:  # Any: JSON
    number = history["number"]
    totals = [sum(map(sum, group)) for group in window.grouped(history["calls"], number)]
    failed = [sum(group) for group in window.grouped(history["failed"], number)]
    missing = [0] * (window.columns - len(totals))
    fine = [every - bad for every, bad in zip(totals, failed, strict=True)]
    highest = f"highest: {_rate(max(totals) / window.column)}/s"
    yield _note("calls", f"{_key('ok')}{sum(fine):,} ok {_key('failed')}{sum(failed):,} failed")
    title = f"Calls in the last {window.minutes} min: {sum(fine):,} ok, {sum(failed):,} failed, {highest}"
    series = {"ok": [*missing, *fine], "failed": [*missing, *failed]}
    yield _figure("calls", stacked_bars(series, _labels(window), title=title), window, highest)


def _lag(history: Mapping[str, Any], window: PictureWindow) -> Iterator[Part]:  # Any: JSON
    groups = window.grouped(history["worst_lag"], history["number"])
    worst = [max((lag for lag in group if lag is not None), default=None) for group in groups]
    measured = [lag for lag in worst if lag is not None]
    said = f"at worst {duration_text(max(measured))}" if measured else "not measured yet"
    yield _note("lag", markup(said))
    title = f"Lag of the event loop in the last {window.minutes} min: {said}"
    yield _figure("lag", columns_of_lag(worst, columns=window.columns, title=title), window)


def _stalls(loop: Mapping[str, Any] | None) -> Part:  # Any: JSON
    """What held the loop, where somebody looks: the newest first."""
    stalls = [] if loop is None else reversed(loop["recent_stalls"][-_MOST_STALLS:])
    rows = "".join(
        f'<li>{_time(datetime.fromisoformat(stall["at"]).timestamp())}<span class="what">'
        f"<b>{markup(duration_text(stall['duration']))}</b> {markup(stall['where'] or stall['cause'])} "
        f'<span class="said">{markup(_whose(stall))}</span></span></li>'
        for stall in stalls
    )
    return Part("stalls", f'<ol class="stream" id="stalls">{rows}</ol>')


def _whose(stall: Mapping[str, Any]) -> str:  # Any: JSON
    task = "" if stall["task"] is None else f"task {stall['task']}"
    cause = "" if stall["cause"] == "blocked" or stall["where"] is None else stall["cause"]
    return ", ".join(filter(None, (task, cause)))


def _severities(errors: Mapping[str, Any], window: PictureWindow) -> Iterator[Part]:  # Any: JSON
    shown = {
        name: [sum(group) for group in window.grouped(errors["by_severity"][name], errors["number"])]
        for name in _SEVERITIES
    }
    counted = [(name, f"{sum(shown[name]):,} {name}") for name in reversed(_SEVERITIES) if sum(shown[name])]
    covers = errors["covers"]
    cut = f"; only those of the last {duration_text(covers)} are in memory" if covers < window.seconds else ""
    yield _note("severities", " ".join(f"{_key(name)}{markup(said)}" for name, said in counted) + markup(cut))
    said = ", ".join(said for _, said in counted) or "none"
    top = max(map(sum, zip(*shown.values(), strict=True)))
    highest = f"highest: {top:,} in {window.column:g} s" if top else ""
    title = f"Errors in the last {window.minutes} min: {said}{cut}"
    yield _figure("severities", stacked_bars(shown, _labels(window), title=title), window, highest)


def _sums(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _figure(name: str, svg: str, window: PictureWindow, top: str = "") -> Part:
    """A picture with its axis of time; *top*: what its full height stands for."""
    middle = f"<span>{markup(top)}</span>" if top else ""
    axis = (
        f'<p class="time-axis" aria-hidden="true"><span>{window.minutes} min ago</span>{middle}'
        "<span>now</span></p>"
    )
    return Part(name, f'<div class="figure" id="{name}">{svg}{axis}</div>')


def _key(name: str) -> str:
    return f'<i class="key {name}"></i>'


def _labels(window: PictureWindow) -> list[str]:
    return [
        f"{duration_text((window.columns - place) * window.column)} ago" for place in range(window.columns)
    ]


# ---- lists


def _errors(status: Mapping[str, Any]) -> Iterator[Part]:  # Any: JSON
    errors = status["errors"]
    yield _note("errors", f"the last {len(errors)}, newest first" if errors else "none in memory")
    for name, error in _numbered("e", errors):
        retry = f", retry {error['retry_count']}" if error["retry_count"] else ""
        where = f"{error['service_name']}.{error['function_name']}"
        yield Part(
            name,
            f'<li id="{name}" class="{markup(error["severity"])}">{_time(error["at"])}'
            f'<span class="sev">{markup(error["severity"])}</span><span class="what"><b>{markup(where)}</b> '
            f'<a class="type" href="status/error?id={error["id"]}">{markup(error["error_type"])}</a>{markup(retry)} '
            f'<span class="said">{markup(error["error_message"])}</span></span></li>',
            "errors",
        )


def _pending(status: Mapping[str, Any]) -> Iterator[Part]:  # Any: JSON
    pending, journal = status["pending"], status["journal"]
    more = journal["pending"] - len(pending)
    if journal["state"] == "closed" and journal["pending"]:
        said = (
            f"{journal['pending']:,}; the journal is not open: <code>shockproof operations</code> shows them"
        )
    elif more > 0:
        said = f"the oldest {len(pending)} of {journal['pending']:,}"
    else:
        said = f"{len(pending):,}" if pending else "none"
    if count := status["pending_in_state"]["count"]:
        before = "" if said == "none" else f"{said}, and "
        said = f"{before}{count:,} of the saved state, which the journal does not know"
    if journal["owned_elsewhere"] is not None:
        said = f"{said}. Orders: {markup(journal['owned_elsewhere'])}."
    yield _note("pending", said)
    for name, one in _numbered("p", [*pending, *status["pending_in_state"]["first"]]):
        since = "" if one["since"] is None else _time(one["since"])
        times = f", begun {one['begun']} times" if one["begun"] > 1 else ""
        told = " ".join(
            filter(None, (one["progress"], one["stopped_by"] and f"stopped by {one['stopped_by']}"))
        )
        yield Part(
            name,
            f'<li id="{name}">{since}<span class="sev">{markup(one["kind"])}</span><span class="what">'
            f"<b>{markup(one['operation'])}</b> {markup(one['key'] or '')}{markup(times)} "
            f'<span class="said">{markup(told)}</span></span></li>',
            "pending",
        )


def _happenings(status: Mapping[str, Any]) -> Iterator[Part]:  # Any: JSON
    happenings = status["history"]["happenings"][:50]
    yield _note("happenings", f"the last {len(happenings)}" if happenings else "nothing has changed")
    for name, one in _numbered("h", happenings):
        kind = _HAPPENED.get(one["what"], "dim")
        yield Part(
            name,
            f'<li id="{name}">{_time(one["at"])}<span class="what"><b>{markup(one["service_name"] or "everything")}</b> '
            f'<span class="{kind}">{markup(one["what"])}</span> <span class="said">{markup(one["detail"][:300])}</span></span></li>',
            "happenings",
        )


_HAPPENED: Final = {
    "circuit opened": "bad",
    "circuit half-open": "warn",
    "circuit closed": "good",
    "circuit forced-open": "hand",
    "halted": "bad",
    "resumed": "good",
    "feed lost": "bad",
    "feed back": "good",
    "paused": "warn",
    "loop stood still": "bad",
}


def _numbered(
    letter: str, rows: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:  # Any: JSON
    """Each with an id that it keeps as long as it says the same; two that say the same have two."""
    seen: dict[str, int] = {}
    for row in reversed(list(rows)):
        digest = hashlib.blake2s(repr(row).encode("utf-8", "replace"), digest_size=6).hexdigest()
        seen[digest] = seen.get(digest, 0) + 1
    for row in rows:
        digest = hashlib.blake2s(repr(row).encode("utf-8", "replace"), digest_size=6).hexdigest()
        number, seen[digest] = seen[digest], seen[digest] - 1
        yield f"{letter}-{digest}-{number}", row


# ---- small things

_NOTHING: Final = '<span class="dim">&ndash;</span>'


def _sign(kind: str) -> str:
    return f'<span class="sign {kind}" aria-hidden="true">{_SIGNS[kind]}</span>'


def _time(at: float) -> str:
    return f'<time title="{markup(local_time(at))}">{markup(clock_time(at))}</time>'


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 99.5 else f"{per_second:.1f}" if per_second >= 0.05 else "0"


def _share(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.95 or percent == 0 else f"{percent:.1f} %"


def _count(number: int) -> str:
    return f"{number:,}" if number else '<span class="dim">0</span>'

"""
A report: one HTML file with pictures, of an error log and what is beside it on the disk.

It loads nothing from anywhere, runs no script, follows the reader's choice of dark and light, and is readable on a phone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.error_log.redaction import Redactor
from shockproof.memory.journal.journal_files import read_journal
from shockproof.memory.journal.operation_table import OperationEntry, OperationTable
from shockproof.memory.journal.sending import is_sending, sent_at
from shockproof.memory.services.halt import Mark, read_mark
from shockproof.memory.state.state_files import StateFiles
from shockproof.memory.state.state_survey import SurveyedFile
from shockproof.views.error_counts import SEVERITIES, ErrorCounts, Timeline
from shockproof.views.pictures import bar, stacked_bars, strip
from shockproof.views.saved_circuits import circuits_in_words
from shockproof.views.saved_operations import saved_as_pending
from shockproof.views.shown_values import as_text, for_people, without_secrets
from shockproof.views.state_of_day import state_before
from shockproof.views.words import ago, local_time, markup
from shockproof.vocabulary.errors import ShockproofError

__all__ = ["OnDisk", "look_at", "report", "write_whole"]

_MOST_ROWS: Final = 20
_MOST_OPERATIONS: Final = 100
_MOST_TRACE: Final = 6_000
_GOOD: Final = frozenset({"operational"})
_BAD: Final = frozenset({"unavailable"})


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What is in a state directory at one moment."""

    state_files: tuple[SurveyedFile, ...] = ()
    pending: tuple[OperationEntry, ...] = ()
    saved_as_pending: tuple[dict[str, Any], ...] = ()  # Any: frozen values
    """What the state has as pending, and the journal does not know."""
    mark: Mark | None = None
    complaints: tuple[str, ...] = field(default=())
    """What is damaged, or could not be read."""
    is_there: bool = True


def look_at(state_dir: Path, *, now: float, until: datetime | None = None) -> OnDisk:
    """
    Everything there, changing nothing and taking no lock; blocks.

    The state is the newest, or the last before *until*, where that was kept.
    """
    complaints: list[str] = []
    files: tuple[SurveyedFile, ...] = ()
    table: OperationTable | None = None
    mark: Mark | None = None
    try:
        files = StateFiles(state_dir).survey()
        if until is not None:
            files = state_before(until, files, state_dir)
        complaints += [
            f"{file.path.name} is {file.verdict}: {file.reason}" for file in files if file.verdict != "valid"
        ]
        mark = read_mark(state_dir, now=now)
    except OSError as error:
        complaints.append(f"{state_dir}: {error.strerror}")
    try:
        recovered = read_journal(SystemFiles(), state_dir / "journal")
        table = recovered.table
        if recovered.damage is not None:
            complaints.append(f"the journal is damaged: {recovered.damage}")
        elif recovered.incomplete is not None:
            complaints.append(f"something is missing from the journal: {recovered.incomplete}")
    except NotADirectoryError:
        pass  # told above
    except (OSError, ShockproofError) as error:
        complaints.append(f"the journal cannot be read: {error}")
    pending = () if table is None else tuple(table.pending())
    return OnDisk(
        files, pending, tuple(saved_as_pending(files, table)), mark, tuple(complaints), state_dir.is_dir()
    )


def report(
    counts: ErrorCounts,
    on_disk: OnDisk,
    *,
    title: str,
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
    words: Sequence[str] = (),
    summary: Sequence[tuple[str, str]] = (),
) -> str:
    """
    The page. *words* and *summary*, names and values, stand above what is read from the disk.

    Secrets are ``***``, and whatever others wrote is text and never markup.
    """
    sections = [
        _head(counts, on_disk, title, now, since, until, words),
        _summary(summary),
        _over_time(counts, since, until),
        _about(counts),
        _repeated(counts),
        _services(on_disk, until),
        _pending(on_disk, now),
        _latest(counts),
    ]
    return _PAGE.format(title=markup(title), style=_STYLE, body="\n".join(filter(None, sections)))


def write_whole(path: Path, page: str) -> None:
    """
    Write the page so that there is a whole one or none.

    Raises:
        OSError: the disk refuses; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise type(error)(
            error.errno, error.strerror, str(path)
        ) from error  # nobody knows the temporary name


# ---- the sections


def _head(
    counts: ErrorCounts,
    on_disk: OnDisk,
    title: str,
    now: datetime,
    since: datetime | None,
    until: datetime | None,
    words: Sequence[str],
) -> str:
    begin, end = since or counts.first, until or counts.last
    none = "no errors" if counts.is_whole else "no errors that could be read"
    period = none if begin is None else f"{local_time(begin)} to {local_time(end or now)}"
    serious = counts.by_severity["high"] + counts.by_severity["critical"]
    shown = [
        ("errors", f"{counts.total:,}"),
        ("high and critical", f"{serious:,}"),
        ("services with errors", f"{len(counts.by_service):,}"),
        ("pending operations", _how_many_pending(on_disk)),
    ]
    tiles = "".join(f"<div><dt>{markup(name)}</dt><dd>{markup(value)}</dd></div>" for name, value in shown)
    notices = (
        [f"Halted since {local_time(on_disk.mark.since)}: {on_disk.mark.reason}"] if on_disk.mark else []
    )
    notices += on_disk.complaints
    return (
        f"<header><h1>{markup(title)}</h1><p>{markup(period)}; made {markup(local_time(now))}</p></header>\n"
        + "".join(f'<p class="notice" role="alert">{markup(notice)}</p>' for notice in notices)
        + f'<dl class="tiles">{tiles}</dl>\n'
        + "".join(f"<p>{markup(line)}</p>" for line in words)
    )


def _how_many_pending(on_disk: OnDisk) -> str:
    if not on_disk.is_there:
        return "unknown"
    return f"{len(on_disk.pending) + len(on_disk.saved_as_pending):,}"


def _summary(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    return _section(
        "Summary",
        _table("Summary", ("figure", "value"), [(markup(name), markup(value)) for name, value in rows]),
    )


def _over_time(counts: ErrorCounts, since: datetime | None, until: datetime | None) -> str:
    timeline = counts.timeline(since=since, until=until)
    if timeline is None:
        none = "None." if counts.is_whole else "None that could be read."
        return _section("Errors over time", f"<p>{none}</p>")
    labels = _labels(timeline)
    most = max(map(sum, zip(*timeline.by_severity.values(), strict=True)))
    step = _step_text(timeline.step)
    axis = f'<p class="axis"><span>{markup(labels[0])}</span><span>{markup(labels[-1])}</span></p>'
    legend = "".join(
        f'<span><i class="{name}"></i>{name} {counts.by_severity[name]:,}</span>'
        for name in reversed(SEVERITIES)
        if counts.by_severity[name]
    )
    picture = stacked_bars(
        timeline.by_severity,
        labels,
        title=f"{counts.total} errors over time; the most in {step} were {most}",
    )
    darkest = max(max(values) for values in timeline.by_service.values())
    rows = [
        (
            markup(service),
            strip(values, labels, title=f"{service}: {sum(values)} errors over time", most=darkest),
            f"{sum(values):,}",
        )
        for service, values in list(timeline.by_service.items())[:_MOST_ROWS]
    ]
    return _section(
        "Errors over time",
        f'<p class="legend">{legend}</p>{picture}{axis}'
        f'<p class="small">Each bar is {step}; the highest is {most:,}.</p>'
        + _table("Errors over time by service", ("service", "when", "errors"), rows, wide=1, numbers=(2,)),
    )


def _about(counts: ErrorCounts) -> str:
    if not counts.total:
        return ""
    tables = [
        _table(
            f"Errors by {what}",
            (what, "", "errors"),
            [(markup(name), bar(count, counter.most_common(1)[0][1]), f"{count:,}") for name, count in top],
            wide=1,
            numbers=(2,),
        )
        for what, counter in (("type", counts.by_type), ("severity", counts.by_severity))
        if (top := counter.most_common(_MOST_ROWS))
    ]
    return _section("What they are", "".join(tables))


def _repeated(counts: ErrorCounts) -> str:
    redactor = Redactor()
    rows = [
        (
            f"{one.times:,}",
            markup(one.service_name),
            markup(f"{one.error_type}: {redactor.text(one.message)}"[:500]),
            markup(local_time(one.last)),
        )
        for one in counts.most_repeated(_MOST_ROWS)
    ]
    if not rows:
        return ""
    return _section(
        "Said most often",
        _table(
            "Said most often",
            ("times", "service", "error, but for its numbers", "last"),
            rows,
            numbers=(0,),
            text=2,
            named_by=2,
        ),
    )


def _services(on_disk: OnDisk, until: datetime | None) -> str:
    newest = next((file for file in on_disk.state_files if file.content is not None), None)
    if newest is None or newest.content is None:
        return _section("Saved state", "<p>None.</p>")
    content: dict[str, Any] = for_people(without_secrets(newest.content))  # Any: frozen values
    save = "by the original program" if newest.sequence is None else f"save {newest.sequence}"
    statuses: Mapping[str, object] = content.get("service_statuses") or {}
    circuits = circuits_in_words(content.get("circuit_breakers"))
    rows = [
        (markup(name), _status(str(status)), markup(as_text(circuits.get(name, ""))))
        for name, status in statuses.items()
    ]
    parts = [f"<p>{markup(newest.path.name)}, {markup(save)}, {markup(local_time(newest.timestamp))}</p>"]
    if (
        until is not None
        and newest.timestamp is not None
        and newest.timestamp.timestamp() >= until.timestamp()
    ):
        parts.append(
            "<p>It was saved after the time that this report is about. The state as it was then is in a backup, which "
            "<code>--state-dir</code> names; with <code>keep_daily_states</code> the program keeps that of each day.</p>"
        )
    if rows:
        parts.append(_table("Saved services", ("service", "status", "open circuit"), rows))
    for name, section in content.items():
        if name in {"timestamp", "service_statuses", "circuit_breakers"} or not section:
            continue
        parts.append(
            f"<details><summary>{markup(name)} ({_size(section)})</summary>{_values(name, section)}</details>"
        )
    return _section("Saved state", "".join(parts))


def _pending(on_disk: OnDisk, now: datetime) -> str:
    parts = []
    if on_disk.pending:
        parts.append(_in_the_journal(on_disk, now))
    if saved := on_disk.saved_as_pending:
        rows = [(markup(as_text(for_people(one))),) for one in saved[:_MOST_OPERATIONS]]
        what = "in the saved state, and not in the journal"
        parts.append(_table(f"Pending {what}", (what,), rows, text=0, named_by=None))
    return _section("Pending operations", "".join(parts)) if parts else ""


def _in_the_journal(on_disk: OnDisk, now: datetime) -> str:
    rows = [
        (
            markup(entry.name.key or "-"),
            markup(entry.name.operation),
            markup(_since(entry, now.timestamp())),
            markup(as_text(without_secrets(entry.body.get("interrupted") or ""))),
        )
        for entry in on_disk.pending[:_MOST_OPERATIONS]
    ]
    return (
        _table("Pending in the journal", ("key", "operation", "begun", "stopped by"), rows, text=3)
        + "<p><code>shockproof operations</code> shows and settles them.</p>"
    )


def _since(entry: OperationEntry, now: float) -> str:
    at = sent_at(entry) if is_sending(entry) else entry.body.get("at")
    return f"{ago(now - at)} ago" if isinstance(at, int | float) else ""


def _latest(counts: ErrorCounts) -> str:
    if not counts.latest:
        return ""
    redactor = Redactor()
    shown: list[str] = []
    for record in reversed(counts.latest):
        fields: Any = redactor.value(record.to_dict())  # Any: the record's fields
        head = f"{local_time(record.timestamp)} {fields['service_name']}.{fields['function_name']}"
        said = f"{fields['error_type']}: {fields['error_message']}"
        more = (fields["stack_trace"] or "")[-_MOST_TRACE:]
        if fields["context"]:
            more += f"\n{as_text(fields['context'])}"
        shown.append(
            f'<details class="{record.severity.value}"><summary><span class="small">{markup(head)}</span> '
            f"{markup(said[:300])}</summary><pre>{_lines(more) or 'no stack trace'}</pre></details>"
        )
    return _section(f"The last {len(shown)}", "".join(shown))


# ---- their parts


def _section(title: str, body: str) -> str:
    return f"<section><h2>{markup(title)}</h2>{body}</section>"


def _table(
    name: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    wide: int | None = None,
    numbers: Sequence[int] = (),
    text: int | None = None,
    named_by: int | None = 0,
) -> str:
    """
    Cells are markup already; *wide* is the column that takes the room, *numbers* those of numbers, *text* the only one
    that is broken where there is no space, and *named_by* the one that says which row it is. The *name* is for who hears it.
    """

    def of(column: int) -> str:
        kinds: dict[int | None, str] = {wide: "wide", text: "text", **dict.fromkeys(numbers, "number")}
        return f' class="{kinds[column]}"' if column in kinds else ""

    head = "".join(f'<th scope="col"{of(column)}>{markup(name)}</th>' for column, name in enumerate(heads))
    kinds = [
        ('th scope="row"', "th") if column == named_by else ("td", "td") for column, _ in enumerate(heads)
    ]
    body = "".join(
        "<tr>"
        + "".join(
            f"<{begin}{of(column)}>{cell}</{end}>"
            for column, (cell, (begin, end)) in enumerate(zip(row, kinds, strict=True))
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="table"><table aria-label="{markup(name)}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _values(section_name: str, section: object) -> str:
    if isinstance(section, Mapping):
        rows = [(markup(str(name)), markup(as_text(value))) for name, value in section.items()]
        return _table(section_name, ("name", "value"), rows[:_MOST_OPERATIONS], text=1)
    if isinstance(section, list):
        rows_of_one = [(markup(as_text(value)),) for value in section[:_MOST_OPERATIONS]]
        return _table(section_name, ("value",), rows_of_one, text=0, named_by=None)
    return f"<p>{markup(as_text(section))}</p>"


def _size(section: object) -> str:
    return f"{len(section):,}" if isinstance(section, Mapping | list) else "1"


def _status(status: str) -> str:
    kind = "good" if status in _GOOD else "bad" if status in _BAD else "middling"
    return f'<span class="{kind}">{markup(status)}</span>'


def _lines(text: str) -> str:
    return "\n".join(markup(line) for line in text.splitlines())


def _labels(timeline: Timeline) -> list[str]:
    length = len(next(iter(timeline.by_severity.values())))
    form: Callable[[datetime], str] = lambda moment: f"{moment:%Y-%m-%d %H:%M:%S}"  # noqa: E731  one of two forms
    if timeline.step >= 60:
        form = lambda moment: f"{moment:%Y-%m-%d %H:%M}"  # noqa: E731  the other one
    return [
        form(datetime.fromtimestamp(timeline.begin + place * timeline.step).astimezone())
        for place in range(length)
    ]


def _step_text(step: int) -> str:
    span = timedelta(seconds=step)
    if span >= timedelta(days=1):
        return "a day" if span.days == 1 else f"{span.days} days"
    if step >= 3600:
        return "an hour" if step == 3600 else f"{step // 3600} hours"
    if step >= 60:
        return "a minute" if step == 60 else f"{step // 60} minutes"
    return "a second" if step == 1 else f"{step} seconds"


_STYLE: Final = """
:root { color-scheme: light dark; --text: #1c2024; --dim: #5f6772; --page: #fbfbfc; --card: #fff; --line: #dfe3e8;
  --low: #7d8794; --medium: #c98a00; --high: #d1495b; --critical: #8c1c3a; --accent: #2f6fb2;
  --good: #1c7c4a; --middling: #8a5f00; --bad: #c03a4d; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ed; --dim: #9aa4b0; --page: #14171b; --card: #1c2025;
  --line: #333a43; --low: #8a94a1; --medium: #e0a93a; --high: #f0717f; --critical: #ff4d7d; --accent: #6fa8dc;
  --good: #5cc48d; --middling: #e0a93a; --bad: #f0717f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: .5rem 0 0; font-size: 1.5rem; } h2 { margin: 0 0 .75rem; font-size: 1.125rem; }
header p, .small, .axis { color: var(--dim); font-size: .875rem; } header p { margin: 0 0 1rem; }
section { margin: 1rem 0; padding: 1rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.notice { padding: .5rem .75rem; border-left: .25rem solid var(--high); background: var(--card); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tiles div { padding: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
dt { color: var(--dim); font-size: .875rem; } dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
svg { display: block; width: 100%; fill: var(--accent); }
.bars { height: 10rem; border-bottom: 1px solid var(--line); } .strip { height: 1.25rem; min-width: 8rem; }
.strip { background: var(--page); } .bar { height: .75rem; min-width: 6rem; } .bars .nothing { fill: transparent; }
.axis { display: flex; justify-content: space-between; margin: .25rem 0; }
.legend { display: flex; flex-wrap: wrap; gap: 1rem; margin: 0 0 .5rem; }
.legend i { display: inline-block; width: .75rem; height: .75rem; margin-right: .4rem; border-radius: .15rem; }
rect.low { fill: var(--low); } rect.medium { fill: var(--medium); } rect.high { fill: var(--high); }
rect.critical { fill: var(--critical); }
i.low { background: var(--low); } i.medium { background: var(--medium); } i.high { background: var(--high); }
i.critical { background: var(--critical); }
.table { overflow-x: auto; } .table + .table { margin-top: 1rem; } table { width: 100%; border-collapse: collapse; font-size: .9375rem; }
th { font-weight: inherit; text-align: left; } thead th { color: var(--dim); font-weight: 500; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: middle;
  overflow-wrap: break-word; }
.text { min-width: 12rem; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } .wide { width: 50%; }
.good { color: var(--good); } .bad { color: var(--bad); } .middling { color: var(--middling); }
details { padding: .35rem .5rem; border-left: .2rem solid var(--line); margin: .25rem 0; }
details.high { border-color: var(--high); } details.critical { border-color: var(--critical); }
details.medium { border-color: var(--medium); } summary { cursor: pointer; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .8125rem; }
@media (max-width: 40rem) {
  tr:has(> .text) { display: flex; flex-wrap: wrap; column-gap: .75rem; border-bottom: 1px solid var(--line); }
  tr:has(> .text) > * { padding-right: 0; border: 0; } tr > .text { order: 1; flex: 1 0 100%; min-width: 0; }
  .strip, .bar { min-width: 4rem; } .wide { width: auto; }
}
@media print { body { max-width: none; } section { break-inside: avoid; } }
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

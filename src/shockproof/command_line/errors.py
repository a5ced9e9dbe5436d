"""``shockproof errors``: the error log, filtered, followed, summed up."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from shockproof.command_line.error_log import ended, reading_of, unread
from shockproof.command_line.following import Following
from shockproof.command_line.offers import moments, offer, services
from shockproof.command_line.options import add_error_log_dir, add_json, existing, moment
from shockproof.command_line.outcome import CommandError
from shockproof.command_line.progress import progress
from shockproof.command_line.reading import with_progress
from shockproof.command_line.screen import Screen
from shockproof.memory.error_log.error_reading import Wanted
from shockproof.memory.error_log.folding import times
from shockproof.memory.error_log.redaction import Redactor
from shockproof.views.words import local_time
from shockproof.vocabulary.statuses import ErrorSeverity

if TYPE_CHECKING:
    from shockproof.memory.error_log.error_reading import ErrorReading
    from shockproof.vocabulary.models import ErrorRecord

__all__ = ["add_options"]

_SEVERITIES: Final = tuple(severity.value for severity in ErrorSeverity)
_STYLES: Final = {"critical": "red", "high": "red", "medium": "yellow", "low": "dim"}
_LOOK_EVERY: Final = 0.5
_LAST_BEFORE_FOLLOWING: Final = 10
_WIDEST_BAR: Final = 30

_redactor = Redactor()
"""For what the original program wrote, which redacted nothing."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "The errors on disk, the oldest first, also those that the original program wrote. Changes nothing, also "
        "while the program runs. Exit code 1: a file could not be read to its end; 3: there is no error log, or nothing "
        "of the service in it."
    )
    service = parser.add_argument("--service", metavar="NAME", help="only of this service")
    parser.add_argument("--severity", choices=_SEVERITIES, help="only of this severity and above")
    since = parser.add_argument(
        "--since",
        type=moment,
        metavar="WHEN",
        help="2026-11-25, 2026-11-25T14:30, yesterday, 2h (ago); inclusive",
    )
    until = parser.add_argument("--until", type=moment, metavar="WHEN", help="the same; exclusive")
    offer(service, services)
    offer(since, moments)
    offer(until, moments)
    parser.add_argument("-n", "--last", type=_count, metavar="N", help="only the last N")
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="the last ones, then each one as it is written, until Ctrl-C",
    )
    parser.add_argument(
        "--summary", action="store_true", help="how many, by hour, service, type and severity"
    )
    parser.add_argument("--traces", action="store_true", help="with stack traces and context")
    add_error_log_dir(parser)
    add_json(parser, "a JSON object on each line; with --summary one document")
    parser.set_defaults(run=_run)


def _count(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 999,999,999, got {text!r}")
    return int(text)


def _run(given: argparse.Namespace, screen: Screen) -> int:
    existing(given.error_log_dir, "--error-log-dir")
    if given.since is not None and given.until is not None and given.since >= given.until:
        raise CommandError(
            f"--since {given.since} is not before --until {given.until}: nothing is between them"
        )
    wanted = Wanted.of(
        since=given.since,
        until=given.until,
        service_name=given.service,
        min_severity=None if given.severity is None else ErrorSeverity(given.severity),
    )
    if given.follow:
        if given.summary or given.until is not None:
            raise CommandError("--follow goes on for ever: leave --summary and --until out")
        return _follow(given, wanted, screen)
    return asyncio.run(_read(given, wanted, screen))


async def _read(given: argparse.Namespace, wanted: Wanted, screen: Screen) -> int:
    reading = reading_of(given, wanted)
    found = False
    if given.summary:
        summary = Summary()
        with progress("reading") as advance:
            async for record in with_progress(reading, advance):
                summary.add(record)
        found = summary.by_severity.total() > 0
        summary.show(screen, reading, as_json=given.json)
    elif given.last is not None:
        last: deque[ErrorRecord] = deque(maxlen=given.last)
        with progress("reading") as advance:
            async for record in with_progress(reading, advance):
                last.append(record)
        found = bool(last)
        _show(last, given, screen)
    else:
        async for record in reading:
            found = True
            _show((record,), given, screen)
    said, code = await ended(given, reading, found=found)
    for line in said:
        screen.warn(line)
    return code


# ---- to follow


def _follow(given: argparse.Namespace, wanted: Wanted, screen: Screen) -> int:
    following = Following(given.error_log_dir, wanted)
    last = (
        given.last if given.last is not None else None if given.since is not None else _LAST_BEFORE_FOLLOWING
    )
    _show(deque(following.new_records(), maxlen=last), given, screen)
    if following.damaged:
        screen.warn(unread(following.damaged))
    while True:
        screen.flush()
        screen.rest(_LOOK_EVERY)
        _show(following.new_records(), given, screen)


# ---- to show


def _show(records: Iterable[ErrorRecord], given: argparse.Namespace, screen: Screen) -> None:
    for record in records:
        shown: Any = _redactor.value(record.to_dict())  # Any: the fields
        if given.json:
            screen.json(shown, indent=None)
            continue
        severity = shown["severity"]
        retry = f" (retry {shown['retry_count']})" if shown["retry_count"] else ""
        many = f" ({times(record)} times)" if times(record) > 1 else ""
        head = f"{local_time(record.timestamp)}  {severity.upper():<8}  "
        screen.line(
            f"{head}{shown['service_name']}.{shown['function_name']}  "
            f"{shown['error_type']}: {shown['error_message']}{retry}{many}",
            _STYLES[severity],
        )
        if given.traces:
            for line in (shown["stack_trace"] or "").splitlines():
                screen.line(f"    {line}", "dim")
            if shown["context"]:
                screen.fields([(f"    {name}", str(value)) for name, value in shown["context"].items()])


# ---- to sum up


class Summary:
    """Counts records by hour of local time, and by what they are about."""

    def __init__(self) -> None:
        self.by_hour: dict[str, Counter[str]] = {}
        self.by_service: Counter[str] = Counter()
        self.by_type: Counter[str] = Counter()
        self.by_severity: Counter[str] = Counter()

    def add(self, record: ErrorRecord) -> None:
        """Count one more, or as many as it stands for."""
        number = times(record)
        hour = record.timestamp.astimezone().replace(minute=0, second=0, microsecond=0)
        severity = record.severity.value
        self.by_hour.setdefault(hour.isoformat(sep=" ", timespec="minutes"), Counter())[severity] += number
        self.by_service[record.service_name] += number
        self.by_type[record.error_type] += number
        self.by_severity[severity] += number

    def show(self, screen: Screen, reading: ErrorReading, *, as_json: bool) -> None:
        """All counts of what was read, for people or as JSON."""
        total = self.by_severity.total()
        hours = sorted(self.by_hour.items())
        if as_json:
            screen.json(
                {
                    "total_errors": total,
                    "skipped_lines": reading.skipped,
                    "unread_files": [path.name for path in reading.damaged],
                    "errors_by_hour": [
                        {
                            "hour": hour.replace(" ", "T"),
                            "total": counts.total(),
                            "errors_by_severity": dict(counts),
                        }
                        for hour, counts in hours
                    ],
                    "errors_by_service": dict(self.by_service.most_common()),
                    "errors_by_type": dict(self.by_type.most_common()),
                    "errors_by_severity": {name: self.by_severity[name] for name in _SEVERITIES},
                }
            )
            return
        screen.line(f"{total:,} errors", "bold")
        if not total:
            return
        most = max(counts.total() for _, counts in hours)
        screen.line()
        screen.table(
            ("HOUR", *(name.upper() for name in _SEVERITIES), "TOTAL", ""),
            [
                (
                    hour,
                    *(f"{counts[name]:,}" if counts[name] else "" for name in _SEVERITIES),
                    f"{counts.total():,}",
                    "#" * max(1, round(_WIDEST_BAR * counts.total() / most)),
                )
                for hour, counts in hours
            ],
        )
        for title, counts in (("SERVICE", self.by_service), ("TYPE", self.by_type)):
            screen.line()
            screen.table((title, "TOTAL"), [(name, f"{count:,}") for name, count in counts.most_common(20)])

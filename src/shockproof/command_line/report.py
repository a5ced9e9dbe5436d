"""``shockproof report``: one HTML file with pictures."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from shockproof.command_line.error_log import ended, reading_of
from shockproof.command_line.offers import days_of_errors, moments, offer, services
from shockproof.command_line.options import (
    add_error_log_dir,
    add_state_dir,
    day,
    existing,
    moment,
    named_state_dir,
)
from shockproof.command_line.outcome import CommandError, ExitCode
from shockproof.command_line.progress import progress
from shockproof.command_line.reading import with_progress
from shockproof.command_line.screen import Screen
from shockproof.memory.error_log.error_reading import Wanted
from shockproof.views.error_counts import ErrorCounts
from shockproof.views.report import look_at, report, write_whole

__all__ = ["add_options"]

_STDOUT: Final = Path("-")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Writes one HTML file with pictures: the errors of a time, and what is saved and pending now. It loads nothing "
        "from anywhere and runs no script. Changes nothing but that file, also while the program runs. Exit code 1: it was "
        "made, and something could not be read or is damaged, which it says; 3: nothing is there, or nothing of the "
        "service."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("shockproof-report.html"),
        metavar="FILE",
        help="where to write it (default: %(default)s); - for stdout",
    )
    parser.add_argument("--title", default="shockproof report", metavar="TEXT", help="its heading")
    since = parser.add_argument(
        "--since", type=moment, metavar="WHEN", help="errors from 2026-11-25, yesterday, 2h (ago) on"
    )
    until = parser.add_argument("--until", type=moment, metavar="WHEN", help="the same; exclusive")
    of_day = parser.add_argument(
        "--day", type=day, metavar="DAY", help="the same as --since and --until: 2026-11-25, yesterday"
    )
    service = parser.add_argument("--service", metavar="NAME", help="only errors of this service")
    offer(since, moments)
    offer(until, moments)
    offer(of_day, days_of_errors)
    offer(service, services)
    add_state_dir(parser)
    add_error_log_dir(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace, screen: Screen) -> int:
    if given.day is not None:
        if given.since is not None or given.until is not None:
            raise CommandError("--day says from when and until when: leave --since and --until out")
        given.since, given.until = given.day
    has_state_dir = named_state_dir(given).is_dir()
    if not has_state_dir:
        existing(given.error_log_dir, "--error-log-dir")  # one of them has to be there
    if given.since is not None and given.until is not None and given.since >= given.until:
        raise CommandError(
            f"--since {given.since} is not before --until {given.until}: nothing is between them"
        )
    now = datetime.now().astimezone()
    on_disk = look_at(given.state_dir, now=now.timestamp(), until=given.until)
    counts, said, code = asyncio.run(_counted(given))
    if on_disk.complaints:
        code = ExitCode.WRONG
    if not given.error_log_dir.is_dir():  # a wrong name, or nothing was logged yet
        said.insert(0, f"there is no error log in {given.error_log_dir}")
    if not has_state_dir:
        said.insert(
            0, f"there is no state directory {given.state_dir}: nothing is known of what is saved and pending"
        )
    on_disk = replace(on_disk, complaints=(*said, *on_disk.complaints))
    page = report(
        counts,
        on_disk,
        title=given.title,
        now=now,
        since=given.since,
        until=given.until,
    )
    if given.output == _STDOUT:
        screen.raw(page.encode("ascii", "xmlcharrefreplace").decode())  # true in any encoding of stdout
    else:
        write_whole(given.output, page)
        screen.line(f"The report is {given.output.absolute()}")
    for complaint in on_disk.complaints:
        screen.warn(complaint)
    return code


async def _counted(given: argparse.Namespace) -> tuple[ErrorCounts, list[str], ExitCode]:
    wanted = Wanted.of(since=given.since, until=given.until, service_name=given.service, min_severity=None)
    reading = reading_of(given, wanted)
    counts = ErrorCounts()
    with progress("reading") as advance:
        async for record in with_progress(reading, advance):
            counts.add(record)
    counts.is_whole = not reading.damaged
    return counts, *await ended(given, reading, found=counts.total > 0)

"""``shockproof clean``: old error files are deleted or compressed, after they were shown."""

from __future__ import annotations

import argparse
from datetime import UTC, date, datetime, timedelta
from typing import Final

from shockproof.command_line.options import (
    add_error_log_dir,
    add_json,
    byte_count,
    day_count,
    existing,
    require_owner,
)
from shockproof.command_line.outcome import CommandError, ExitCode
from shockproof.command_line.progress import progress
from shockproof.command_line.screen import Screen
from shockproof.memory.error_log.error_files import ErrorFile, error_files
from shockproof.memory.error_log.error_retention import Retention
from shockproof.views.words import size_text

__all__ = ["add_options", "today_anywhere"]

_FURTHEST_WEST: Final = timedelta(hours=12)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Deletes or compresses old files of the error log: shows first which, and asks. Never touches the file of "
        "today, files with other names, links, and anything of the state and the journal."
    )
    parser.add_argument(
        "--keep-days",
        type=day_count,
        metavar="N",
        help="delete files of more than N days before today; 0 keeps today",
    )
    parser.add_argument(
        "--keep-size",
        type=byte_count,
        metavar="SIZE",
        help="delete the oldest files until the rest is no larger: 500M",
    )
    parser.add_argument(
        "--compress",
        action="store_true",
        help="make files of days before yesterday .gz; errors reads them all the same",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_error_log_dir(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace, screen: Screen) -> int:
    if given.keep_days is None and given.keep_size is None and not given.compress:
        raise CommandError("say what to do: --keep-days N, --keep-size SIZE, --compress, or several of them")
    directory = existing(given.error_log_dir, "--error-log-dir")
    retention = Retention(
        directory, keep_days=given.keep_days, keep_bytes=given.keep_size, compress=given.compress
    )
    today = today_anywhere(datetime.now(UTC))
    going = retention.too_old(today)
    packed = [file for file in retention.to_compress(today) if file not in going]
    before = sum(file.size for file in error_files(directory, follow_links=False))
    if not given.json:
        _show(going, packed, screen)
    is_done = False
    if (going or packed) and not given.dry_run:
        if packed:
            require_owner(directory)
        gone = f"{len(going)} deleted for ever, {len(packed)} compressed"
        if not screen.confirm(f"Do it ({gone})?", is_yes=given.yes):
            raise CommandError("nothing was changed")
        _do(retention, today, [*going, *packed])
        is_done = True
    after = sum(file.size for file in error_files(directory, follow_links=False))
    if given.json:
        screen.json(
            {
                "deleted": [file.path.name for file in going],
                "compressed": [file.path.name for file in packed],
                "bytes_before": before,
                "bytes_after": after,
                "is_done": is_done,
            }
        )
    elif is_done:
        screen.line(f"{size_text(before)} before, {size_text(after)} now.", "green")
    return ExitCode.FINE


def today_anywhere(now: datetime) -> date:
    """The day that has not ended anywhere on Earth: the program may keep the days of another zone."""
    return (now.astimezone(UTC) - _FURTHEST_WEST).date()


def _show(going: list[ErrorFile], packed: list[ErrorFile], screen: Screen) -> None:
    if not going and not packed:
        screen.line("Nothing to do.")
        return
    rows = [("delete", file) for file in going] + [("compress", file) for file in packed]
    screen.table(
        ("WHAT", "FILE", "SIZE"),
        [(what, file.path.name, size_text(file.size)) for what, file in rows],
        styles=["red" if what == "delete" else None for what, _ in rows],
    )


def _do(retention: Retention, today: date, files: list[ErrorFile]) -> None:
    total = sum(file.size for file in files)
    with progress("cleaning") as advance:
        for _ in retention.steps(today):
            advance(total - sum(file.size for file in files if file.path.exists()), total)

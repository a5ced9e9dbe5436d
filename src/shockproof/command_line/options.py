"""Options that several commands have, and what their values mean."""

from __future__ import annotations

import argparse
import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from shockproof.command_line.outcome import CommandError, ExitCode

__all__ = [
    "add_error_log_dir",
    "add_json",
    "add_state_dir",
    "byte_count",
    "day",
    "day_count",
    "existing",
    "journal_dir",
    "moment",
    "named_state_dir",
    "require_owner",
]

_STATE_DIR: Final = "data/state"
_ERROR_LOG_DIR: Final = "data/errors"
_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s?(s|min|m|h|d|w)(?: ago)?")
_BYTES: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)\s?([kmgt]?)(?:i?b)?", re.IGNORECASE)


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    """``--state-dir``, with the default of the service."""
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(_STATE_DIR),
        metavar="DIR",
        help="the state_dir of the program (default: %(default)s)",
    )


def add_error_log_dir(parser: argparse.ArgumentParser) -> None:
    """``--error-log-dir``, with the default of the service."""
    parser.add_argument(
        "--error-log-dir",
        type=Path,
        default=Path(_ERROR_LOG_DIR),
        metavar="DIR",
        help="the error_log_dir of the program (default: %(default)s)",
    )


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON document") -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help=f"print {what}, for scripts")


def existing(directory: Path, option: str) -> Path:
    """
    *directory*, if it is one.

    Raises:
        CommandError: it is not there.
    """
    if not directory.is_dir():
        what = "no directory" if directory.exists() else "not there"
        raise CommandError(f"{directory} is {what}: name the program's with {option} DIR", ExitCode.NOT_THERE)
    return directory


def named_state_dir(given: argparse.Namespace) -> Path:
    """
    The state directory that was given, which need not be there only where nobody named it.

    Raises:
        CommandError: it was named, and is not there: mistyped, it would look like one in which nothing is pending.
    """
    directory: Path = given.state_dir
    return directory if directory == Path(_STATE_DIR) else existing(directory, "--state-dir")


def journal_dir(state_dir: Path) -> Path:
    """Where the journal of a state directory is."""
    return existing(state_dir, "--state-dir") / "journal"


def require_owner(directory: Path) -> None:
    """
    See that what is written into *directory* will be the program's, too.

    Raises:
        CommandError: it belongs to another user, who could not read what this one makes there.
    """
    if not hasattr(os, "geteuid"):
        return
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise CommandError(
            f"{directory} belongs to user {_user_name(owner)}, who could not read what is written now: run this as "
            f"that user (sudo -u {_user_name(owner)} shockproof ...)"
        )


def _user_name(number: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):
        return f"#{number}"


def moment(text: str) -> datetime:
    """
    A moment as a person writes it: ``2026-11-25``, ``2026-11-25T14:30``, with an offset or in local time;
    ``today``, ``yesterday``; or how long ago, ``90s``, ``15min``, ``2h``, ``7d``.
    """
    now = datetime.now().astimezone()
    words = text.strip().lower()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if words in {"now", "today", "yesterday"}:
        naive = {"today": today, "yesterday": today - timedelta(days=1)}.get(words)
        return now if naive is None else naive.astimezone()
    past = _AGO.fullmatch(words)
    try:
        if past is not None:
            return now - timedelta(seconds=float(past[1]) * _UNITS[past[2]])
        # The offset is that of the moment, and not of now.
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"must be a moment such as 2026-11-25, 2026-11-25T14:30, yesterday or 2h (ago), got {text!r}"
        ) from None


def day(text: str) -> tuple[datetime, datetime]:
    """The beginning of that day here, and of the next one; a day may have 23 hours, or 25."""
    try:
        begin = moment(text).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        return begin.astimezone(), (begin + timedelta(days=1)).astimezone()
    except OverflowError:
        raise argparse.ArgumentTypeError(f"must be a day such as 2026-11-25, got {text!r}") from None


def byte_count(text: str) -> int:
    """A number of bytes: ``500000``, ``100M``, ``2GiB`` (powers of 1024)."""
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"must be a size such as 500000, 100M or 2G, got {text!r}")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " "))


def day_count(text: str) -> int:
    """A whole number of days."""
    if not re.fullmatch(r"[0-9]{1,6}", text.strip()):
        raise argparse.ArgumentTypeError(f"must be a whole number of days, got {text!r}")
    return int(text)

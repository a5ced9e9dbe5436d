"""``shockproof doctor``: whether everything around the program is as it should be."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.metadata
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple

from shockproof.command_line.journal_owner import owner_of
from shockproof.command_line.options import add_error_log_dir, add_json, add_state_dir
from shockproof.command_line.outcome import ExitCode
from shockproof.command_line.screen import Screen
from shockproof.command_line.state import files_set_aside
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.error_log.error_files import error_files
from shockproof.memory.error_log.error_reading import lines_of, record_in
from shockproof.memory.journal.incomplete import INCOMPLETE_NAME
from shockproof.memory.journal.journal_files import RESERVE_NAME, read_journal
from shockproof.memory.journal.position import position_path
from shockproof.memory.services.halt import read_mark
from shockproof.memory.state.state_files import StateFiles
from shockproof.settings import resolve
from shockproof.views.saved_operations import saved_as_pending
from shockproof.views.state_of_day import states_kept
from shockproof.views.words import ago, local_time, size_text
from shockproof.vocabulary.errors import ShockproofError

__all__ = ["add_options"]

_OLDEST_PYTHON: Final = (3, 11)
_ALMOST_FULL: Final = 64 << 20
_GETTING_FULL: Final = 1 << 30
_FEW_INODES: Final = 1_000
_FEW_FILES: Final = 256
_FUTURE: Final = 60.0
"""Seconds by which a file may be younger than now."""
_LINES_LOOKED_AT: Final = 10_000
_UNSYNCHRONISED: Final = 5  # TIME_ERROR of adjtimex
_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "red"}


class Finding(NamedTuple):
    """What one look has shown."""

    about: str
    verdict: Literal["ok", "warning", "problem"]
    text: str
    advice: str = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Checks versions, settings, directories, disk space, clock, error log, state, journal and kill switch. Changes nothing, "
        "also while the program runs. Exit code 1: there is a problem; warnings are none, unless with --strict."
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 for warnings, too")
    add_state_dir(parser)
    add_error_log_dir(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace, screen: Screen) -> int:
    state_dir, error_log_dir = given.state_dir.absolute(), given.error_log_dir.absolute()
    looks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("versions", _versions),
        ("settings", _settings),
        ("state_dir", lambda: _directory("state_dir", state_dir)),
        ("error_log_dir", lambda: _directory("error_log_dir", error_log_dir)),
        ("disk", lambda: _space(state_dir, error_log_dir)),
        ("limits", _limits),
        ("clock", lambda: _clock(state_dir, error_log_dir)),
        ("error log", lambda: _error_log(error_log_dir)),
        ("state", lambda: _state(state_dir)),
        ("journal", lambda: _journal(state_dir)),
        ("halt", lambda: _halt(state_dir)),
    )
    findings: list[Finding] = []
    for about, look in looks:
        try:
            findings += look()
        except OSError as error:
            findings.append(Finding(about, "problem", f"{error.filename or 'the disk'}: {error.strerror}"))
    if given.json:
        screen.json([finding._asdict() for finding in findings])
    else:
        width = max(len(finding.about) for finding in findings)
        for finding in findings:
            text = f"{finding.verdict:<8} {finding.about:<{width}}  {finding.text}"
            screen.line(text, _STYLES[finding.verdict])
            if finding.advice:
                screen.line(f"{'':<8} {'':<{width}}  {finding.advice}")
    bad = {"problem", "warning"} if given.strict else {"problem"}
    return ExitCode.WRONG if any(finding.verdict in bad for finding in findings) else ExitCode.FINE


def _versions() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _OLDEST_PYTHON:
        yield Finding("python", "problem", version, "Python 3.11 or newer is needed")
    else:
        yield Finding("python", "ok", f"{version} on {sys.platform}")
    try:
        required = importlib.metadata.requires("shockproof") or []
        yield Finding("shockproof", "ok", importlib.metadata.version("shockproof"))
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "shockproof", "warning", "not installed, only found", "pip install it, so that versions are known"
        )
        return
    for requirement in required:
        if ";" in requirement:
            continue  # an extra's
        name, _, least = requirement.partition(">=")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "problem", "not installed", f'pip install "{requirement}"')
            continue
        if _numbers(found) < _numbers(least):
            yield Finding(name, "problem", f"{found} is older than {least}", f'pip install "{requirement}"')
        else:
            yield Finding(name, "ok", found)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", version)[:3]]


def _settings() -> Iterator[Finding]:
    with warnings.catch_warnings(record=True, action="always") as told:
        try:
            resolve({}, os.environ)
        except (TypeError, ValueError) as error:
            yield Finding("settings", "problem", str(error), "a service made in this environment is refused")
            return
    for warning in told:
        yield Finding("settings", "warning", str(warning.message))
    names = sorted(name for name in os.environ if name.startswith("ERROR_RECOVERY_"))
    if not told:
        shown = ", ".join(f"{name}={os.environ[name]}" for name in names)
        yield Finding("settings", "ok", shown or "none in the environment")


def _directory(setting: str, directory: Path) -> Iterator[Finding]:
    if directory.exists() and not directory.is_dir():
        yield Finding(
            setting, "problem", f"{directory} is no directory", f"move it away, or set another {setting}"
        )
        return
    if not directory.exists():
        parent = next(parent for parent in directory.parents if parent.exists())
        if os.access(parent, os.W_OK | os.X_OK) and parent.is_dir():
            yield Finding(setting, "ok", f"{directory} is not there, and would be made")
        else:
            yield Finding(
                setting,
                "problem",
                f"{directory} is not there, and cannot be made",
                f"{parent} is not writable",
            )
        return
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(
            setting,
            "problem",
            f"{directory} may not be read and written by {_user()}",
            "change its owner or its mode, or run this as the program's user",
        )
        return
    status = directory.stat()
    if status.st_mode & 0o002 and not status.st_mode & 0o1000:
        yield Finding(setting, "warning", f"everybody may write to {directory}", f"chmod o-w {directory}")
        return
    foreign = [
        entry.name
        for entry in os.scandir(directory)
        if entry.is_file(follow_symlinks=False) and not os.access(entry.path, os.R_OK | os.W_OK)
    ]
    if foreign:
        names = ", ".join(foreign[:3])
        yield Finding(
            setting,
            "problem",
            f"{names} in {directory} may not be read and written by {_user()}",
            "chown them",
        )
        return
    yield Finding(setting, "ok", str(directory))


def _user() -> str:
    return f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"


def _space(*directories: Path) -> Iterator[Finding]:
    seen: set[int] = set()
    for directory in directories:
        place = next(place for place in (directory, *directory.parents) if place.exists())
        try:
            device, usage = place.stat().st_dev, shutil.disk_usage(place)
        except OSError as error:
            yield Finding("disk", "problem", f"{place}: {error.strerror}")
            continue
        if device in seen:
            continue
        seen.add(device)
        free = f"{size_text(usage.free)} free of {size_text(usage.total)} for {place}"
        if usage.free < _ALMOST_FULL:
            yield Finding("disk", "problem", free, "free some: the journal needs space for what is begun")
        elif usage.free < _GETTING_FULL:
            yield Finding("disk", "warning", free, "shockproof clean makes room in the error log")
        else:
            yield Finding("disk", "ok", free)
        if hasattr(os, "statvfs"):
            counts = os.statvfs(place)
            if counts.f_files and counts.f_favail < _FEW_INODES:
                yield Finding(
                    "disk", "problem", f"only {counts.f_favail} more files fit on the disk of {place}"
                )
            if counts.f_flag & os.ST_RDONLY:
                yield Finding("disk", "problem", f"the disk of {place} is mounted read-only")


def _limits() -> Iterator[Finding]:
    if os.name != "posix":
        return
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FEW_FILES:
        yield Finding("limits", "warning", f"only {soft} open files are allowed", "ulimit -n 4096")
    else:
        yield Finding("limits", "ok", f"{soft:,} open files")


def _clock(state_dir: Path, error_log_dir: Path) -> Iterator[Finding]:
    now = time.time()
    newest = max(_times_in(state_dir, error_log_dir), default=0.0)
    if newest > now + _FUTURE:
        yield Finding(
            "clock",
            "problem",
            f"it is {local_time(now)}, and files are from {local_time(newest)}, {ago(newest - now)} in the future",
            "set the clock: order windows, open circuits and what venues accept depend on it",
        )
    elif _is_unsynchronised():
        yield Finding(
            "clock",
            "warning",
            f"{local_time(now)}; the system says that it is not synchronised",
            "run an NTP client: venues refuse requests whose time is off",
        )
    else:
        yield Finding("clock", "ok", local_time(now))


def _times_in(*directories: Path) -> Iterator[float]:
    for directory in directories:
        for place in (directory, directory / "journal"):
            with contextlib.suppress(OSError):
                for entry in os.scandir(place):
                    yield entry.stat(follow_symlinks=False).st_mtime


def _is_unsynchronised() -> bool:
    """What the kernel knows of its clock's source; False where it does not tell."""
    if sys.platform != "linux":
        return False
    try:
        asked = ctypes.create_string_buffer(512)  # struct timex; modes = 0 changes nothing
        return bool(ctypes.CDLL(None).adjtimex(asked) == _UNSYNCHRONISED)
    except (OSError, AttributeError):
        return False


def _error_log(directory: Path) -> Iterator[Finding]:
    files = error_files(directory) if directory.is_dir() else []
    if not files:
        yield Finding("error log", "ok", "nothing was logged yet")
        return
    days = sorted({files[0].day.isoformat(), files[-1].day.isoformat()})
    size = size_text(sum(file.size for file in files))
    text = f"{len(files)} file{'' if len(files) == 1 else 's'} of {' to '.join(days)}, {size} in all"
    unread: list[Path] = []
    newest = [line for line in islice(lines_of(files[-1], damaged=unread), _LINES_LOOKED_AT) if line.strip()]
    if unread:
        yield Finding(
            "error log",
            "problem",
            f"{text}; {unread[0].name} cannot be read to its end: damaged or forbidden",
        )
        return
    bad = sum(record_in(line) is None for line in newest)
    if bad:
        name = files[-1].path.name
        advice = "a crash tears one, and every reader passes it over; more of them are somebody else's"
        yield Finding(
            "error log", "warning", f"{text}; {bad} of {len(newest)} lines in {name} are no records", advice
        )
    else:
        yield Finding("error log", "ok", text)


def _state(state_dir: Path) -> Iterator[Finding]:
    try:
        files = StateFiles(state_dir).survey()
        kept = [file for file in states_kept(state_dir, SystemFiles()) if file.verdict != "valid"]
    except OSError as error:
        yield Finding("state", "problem", f"{error.filename or state_dir}: {error.strerror}")
        return
    bad = [file for file in files if file.verdict != "valid"]
    for file in (*bad, *kept):
        yield Finding(
            "state",
            "problem",
            f"{file.path.relative_to(state_dir)} is {file.verdict}: {file.reason}",
            "shockproof state verify",
        )
    if files and len(bad) < len(files):
        newest = files[0]
        age = "" if newest.timestamp is None else f", {ago(time.time() - newest.timestamp.timestamp())} ago"
        saved = "saved" if newest.sequence is not None else "saved by the original program"
        yield Finding(
            "state",
            "ok",
            f"{newest.path.name} would be restored: {saved} {local_time(newest.timestamp)}{age}",
        )
        # It had no journal, in which they would show.
        pending = saved_as_pending(files, None) if newest.sequence is None else ()
        if pending:
            yield Finding(
                "state",
                "warning",
                f"{len(pending)} saved as pending by the original program",
                "restore_state() gives them to the program: shockproof state show active_operations",
            )
    elif not files:
        yield Finding("state", "ok", "nothing was saved yet")
    aside = files_set_aside(state_dir)
    if aside:
        yield Finding(
            "state", "warning", f"{len(aside)} damaged files were set aside in {state_dir / 'damaged'}"
        )


def _journal(state_dir: Path) -> Iterator[Finding]:
    journal = state_dir / "journal"
    if not journal.is_dir() and not position_path(journal).exists():
        yield Finding("journal", "ok", "none: no operation ever began")
        return
    try:
        recovered = read_journal(SystemFiles(), journal)
        names = SystemFiles().list_directory(journal) if journal.is_dir() else []
    except (OSError, ShockproofError) as error:
        yield Finding("journal", "problem", str(error))
        return
    owner = owner_of(journal)
    if recovered.behind is not None:
        yield Finding(
            "journal",
            "problem",
            f"something is missing from it: {recovered.behind}",
            "put the right one back, or shockproof journal trust, when all orders of before are settled",
        )
    elif recovered.damage is not None:
        yield Finding("journal", "problem", f"damaged: {recovered.damage}", "shockproof journal verify")
    else:
        yield Finding("journal", "ok", f"sound; its owner: {owner}")
    if recovered.incomplete is not None and recovered.damage is None:
        yield Finding(
            "journal",
            "warning",
            f"something is missing from it ({recovered.incomplete}): orders that it does not know are looked up first",
            "shockproof journal trust, when all orders of before are settled",
        )
    if recovered.owned_elsewhere is not None:
        yield Finding("journal", "ok", f"not all there is: {recovered.owned_elsewhere.why}")
    if recovered.is_elsewhere and recovered.damage is None:
        yield Finding(
            "journal",
            "warning",
            "it is a copy, or was put back from one: what was sent since is not in it, and the other one must not be used "
            "any more",
            f"touch {journal / INCOMPLETE_NAME}, if either may be so",
        )
    pending = len(recovered.table.pending())
    if pending and owner.is_owned is False:
        yield Finding(
            "journal",
            "warning",
            f"{pending} pending, and no process that this machine knows of owns the journal: a program that runs "
            "takes it with its first operation or order",
            "shockproof operations list",
        )
    elif pending:
        yield Finding("journal", "ok", f"{pending} pending")
    if recovered.segments and RESERVE_NAME not in names:
        yield Finding(
            "journal", "warning", "it has no reserve: a full disk would stop outcomes too", "free some space"
        )


def _halt(state_dir: Path) -> Iterator[Finding]:
    try:
        mark = read_mark(state_dir, now=time.time())
    except OSError as error:
        yield Finding(
            "halt", "problem", f"whether it is halted cannot be read: {error.strerror}", "it counts as halted"
        )
        return
    if mark is None:
        yield Finding("halt", "ok", "not halted")
    else:
        yield Finding(
            "halt",
            "warning",
            f"halted since {local_time(mark.since)}: {mark.reason}",
            "recovery.resume() lifts it",
        )

"""
What a shell may offer where a value is typed: names that are in the program's directories.

A Tab waits for it. So each looks at a bounded number of bytes, and at nothing that is not there: errors are nobody's
business in the middle of a line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from shockproof.memory.disk.file_layer import SYSTEM_FILES
from shockproof.memory.error_log.error_files import error_files
from shockproof.memory.error_log.error_reading import lines_of
from shockproof.memory.journal.journal_files import read_journal
from shockproof.memory.journal.operation_table import OperationEntry
from shockproof.memory.state.daily_states import days_kept
from shockproof.memory.state.state_files import StateFiles
from shockproof.memory.state.state_survey import SurveyedFile
from shockproof.views.state_of_day import states_kept
from shockproof.vocabulary.errors import ShockproofError

__all__ = [
    "COMPLETER",
    "days_of_errors",
    "days_of_states",
    "moments",
    "offer",
    "operations",
    "pending_keys",
    "recorded_keys",
    "sections",
    "services",
    "state_files",
]

COMPLETER: Final = "completer"
"""The attribute of an option in which argcomplete finds who knows its values."""

_MOST_BYTES: Final = 16 << 20
_MOST_NAMES: Final = 500
_FIELDS: Final = ("service_statuses", "active_operations", "cached_data", "configuration")

Given = argparse.Namespace
Offer = Callable[[Given, str], Iterable[str]]
"""From what was given before, and the beginning of the word."""


def offer(action: argparse.Action, of: Offer) -> None:
    """Let the shell offer for *action* what *of* gives."""

    def complete(*, prefix: str, parsed_args: Given, **_: object) -> list[str]:
        try:
            return list(of(parsed_args, prefix))[:_MOST_NAMES]
        except (OSError, ShockproofError):
            return []

    setattr(action, COMPLETER, complete)


# ---- from the error log


def services(given: Given, prefix: str) -> list[str]:
    """The services of the error log, by the newest files."""
    names: set[str] = set()
    left = _MOST_BYTES
    for file in reversed(error_files(given.error_log_dir)):
        for line in lines_of(file):
            left -= len(line)
            if left < 0:
                return sorted(names)
            try:
                name = json.loads(line)["service_name"]
            except (ValueError, RecursionError, TypeError, KeyError):
                continue  # torn, or somebody else's
            if isinstance(name, str) and name.startswith(prefix):
                names.add(name)
    return sorted(names)


def days_of_errors(given: Given, prefix: str) -> list[str]:
    """The days of its files, and words for two of them."""
    days = {file.day.isoformat() for file in error_files(given.error_log_dir)}
    return [*sorted(days), "today", "yesterday"]


def moments(given: Given, prefix: str) -> list[str]:
    """The same, and how long ago: what else is a moment, nobody could list."""
    return [*days_of_errors(given, prefix), "15min", "1h", "24h", "7d"]


# ---- from the state


def days_of_states(given: Given, prefix: str) -> list[str]:
    """The days of which a state is kept, and words for two of them."""
    return [*days_kept(SYSTEM_FILES, given.state_dir), "today", "yesterday"]


def sections(given: Given, prefix: str) -> list[str]:
    """The sections of the newest state, and what is in the one that *prefix* names."""
    newest = next((file for file in _surveyed(given.state_dir) if file.content is not None), None)
    if newest is None or newest.content is None:
        return list(_FIELDS)
    parent, dot, _ = prefix.rpartition(".")
    names = list(_names_in(newest.content, parent)) if dot else list(newest.content)
    # A section that is typed whole goes on with what is in it.
    return [*names, *(name for one in names if one == prefix for name in _names_in(newest.content, one))]


def _names_in(content: Any, path: str) -> Iterable[str]:  # Any: frozen values
    for name in path.split("."):
        if isinstance(content, dict):
            content = content.get(name)
        else:
            content = content[int(name)] if isinstance(content, list) and name in _places(content) else None
    if isinstance(content, dict | list):
        names = content if isinstance(content, dict) else _places(content)
        yield from (f"{path}.{name}" for name in names if "." not in name)


def _places(content: list[object]) -> list[str]:
    return [str(place) for place in range(min(len(content), _MOST_NAMES))]


def state_files(given: Given, prefix: str) -> list[str]:
    """The state files, also those of days."""
    names = [file.path.name for file in _surveyed(given.state_dir)]
    kept = [] if _is_large(given.state_dir / "days") else states_kept(given.state_dir, SYSTEM_FILES)
    return [*names, *(file.path.relative_to(given.state_dir).as_posix() for file in kept)]


def _surveyed(state_dir: Path) -> tuple[SurveyedFile, ...]:
    return () if _is_large(state_dir) else StateFiles(state_dir).survey()


def _is_large(directory: Path) -> bool:
    """Whether its files are too large to be read between two keys."""
    try:
        return sum(path.stat().st_size for path in directory.glob("*system_state*")) > _MOST_BYTES
    except OSError:  # gone meanwhile
        return True


# ---- from the journal


def pending_keys(given: Given, prefix: str) -> list[str]:
    """The keys of what began and did not end; of what has none, the operation's name."""
    return [entry.name.key or entry.name.operation for entry in _entries(given, also_ended=False)]


def recorded_keys(given: Given, prefix: str) -> list[str]:
    """The keys of all that the journal knows."""
    return [entry.name.key for entry in _entries(given, also_ended=True) if entry.name.key is not None]


def operations(given: Given, prefix: str) -> list[str]:
    """The names of all operations that it knows."""
    return sorted({entry.name.operation for entry in _entries(given, also_ended=True)})


def _entries(given: Given, *, also_ended: bool) -> list[OperationEntry]:
    table = read_journal(SYSTEM_FILES, given.state_dir / "journal").table
    return [*table.pending(), *(table.completed() if also_ended else ())]

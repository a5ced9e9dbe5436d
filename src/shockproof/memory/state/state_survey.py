"""
Every state file of a directory, for people who look: what it holds, and what is wrong with it.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from shockproof.memory.state.codec import Frozen, UnsavableValueError
from shockproof.memory.state.state_file import (
    Candidate,
    DamagedError,
    as_it_is,
    content_of,
    frozen_original,
    import_what_it_takes,
)
from shockproof.memory.state.stored_states import Changes, StoredStates, age
from shockproof.vocabulary.errors import StateVersionError

__all__ = ["SurveyedFile", "survey"]


class SurveyedFile(NamedTuple):
    """One of the state files as it was found, for people."""

    path: Path
    verdict: Literal["valid", "damaged", "unreadable", "newer"]
    """``newer``: a newer program wrote it."""
    reason: str | None
    """What is wrong with it; of a valid one, what this program lacks to restore it."""
    sequence: int | None
    """Which save it was; None for a file of the original program, and one that is not valid."""
    timestamp: datetime | None
    """When it was saved; None for one that is not valid."""
    size: int | None
    content: dict[str, Frozen] | None
    """What is in a valid one, in the form in which values stand in the file."""


def survey(stored: StoredStates) -> tuple[SurveyedFile, ...]:
    """What `StateFiles.survey` answers, of what is *stored*; raises OSError as that."""
    import_what_it_takes(to_restore=True)
    try:
        names = set(stored.layer.list_directory(stored.directory))
    except FileNotFoundError:
        names = set()
    changes, broken, unreadable = stored.examine_changes() if names else ({}, {}, {})
    found = [_surveyed_file(stored, *one, changes) for one in stored.examiners() if one[0] in names]
    wrong: list[tuple[str, Literal["damaged", "unreadable"], str]] = [
        *((name, "damaged", reason) for name, reason in broken.items()),
        *((name, "unreadable", str(error)) for name, error in unreadable.items()),
    ]
    for name, verdict, reason in wrong:
        path = stored.directory / name
        found.append(SurveyedFile(path, verdict, reason, None, None, _size_of(stored, path), None))
    valid = [file for file in found if file.verdict == "valid"]
    if any(file.sequence is None for file in valid):
        valid.sort(key=lambda file: age(file.path.name, file.sequence, file.timestamp), reverse=True)
    else:
        valid.sort(key=lambda file: file.sequence or 0, reverse=True)
    return (*valid, *(file for file in found if file.verdict != "valid"))


def _surveyed_file(
    stored: StoredStates, name: str, examine: Callable[[str, bytes], Candidate], changes: Changes
) -> SurveyedFile:
    path = stored.directory / name
    size = _size_of(stored, path)

    def unusable(verdict: Literal["damaged", "unreadable", "newer"], error: Exception) -> SurveyedFile:
        return SurveyedFile(path, verdict, str(error), None, None, size, None)

    try:
        candidate = stored.examine(name, examine)
        if candidate is None:
            raise FileNotFoundError(errno.ENOENT, "it was there a moment ago")
        candidate = stored.with_changes(candidate, changes)
        sections = copy.deepcopy(content_of(candidate, as_it_is))  # building uses its values up
        lacking = None
        try:
            timestamp = stored.build(candidate).timestamp
        except StateVersionError as error:
            lacking = str(error.__cause__ or error)
            timestamp = datetime.fromisoformat(sections["timestamp"])
        if not candidate.is_tagged:
            sections = frozen_original(sections)
    except (DamagedError, ValueError) as error:
        return unusable("damaged", error)
    except StateVersionError as error:
        return unusable("newer", error)
    except (OSError, UnsavableValueError) as error:
        return unusable("unreadable", error)
    return SurveyedFile(path, "valid", lacking, candidate.sequence, timestamp, size, sections)


def _size_of(stored: StoredStates, path: Path) -> int | None:
    try:
        return stored.layer.stamp(path).size
    except OSError:
        return None

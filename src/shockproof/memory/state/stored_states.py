"""
What a directory has to restore a state from: which files look valid, which changes belong to them, and what they make.

    system_state.json         for people: indented, one entry a line
    system_state.pkl          the same as a pickle of plain values, should the JSON be damaged
    system_state.prev.json    what system_state.json was before it was written last
    system_state.changes.N.json   what has changed since the save before, of a large state: save N

Moves nothing, and takes no lock.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shockproof.memory.disk.file_layer import FileLayer, NotAFileError
from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.codec import Frozen, MalformedValueError, UnknownTypeError, thaw
from shockproof.memory.state.schema import Schema
from shockproof.memory.state.state_capture import StateSecrets
from shockproof.memory.state.state_changes import apply_changes
from shockproof.memory.state.state_file import (
    FORMAT_VERSION,
    Candidate,
    DamagedError,
    Restore,
    as_it_is,
    content_of,
    examine_json,
    examine_pickle,
)
from shockproof.vocabulary.errors import StateVersionError

if TYPE_CHECKING:
    from shockproof.vocabulary.models import SystemState

__all__ = [
    "CHANGES_NAME",
    "JSON_NAME",
    "MAX_BYTES",
    "PICKLE_NAME",
    "PREVIOUS_NAME",
    "Changes",
    "StoredStates",
    "age",
    "of_another_save",
]

JSON_NAME = "system_state.json"
PICKLE_NAME = "system_state.pkl"
PREVIOUS_NAME = "system_state.prev.json"
CHANGES_NAME = r"system_state\.changes\.([0-9]{1,18})\.json"

MAX_BYTES = 2 << 30

_log = logging.getLogger("shockproof")

Changes = dict[tuple[str | None, int | None], Candidate]
"""By the series they belong to, and the save that they tell the changes from."""


class StoredStates:
    """
    The state files of one directory, as they are found. Everything blocks.

    Without a *schema* they are of every version, as they are. With a *prefix* only those whose names begin so.
    """

    def __init__(
        self, directory: Path, layer: FileLayer, secrets: StateSecrets, schema: Schema | None, prefix: str
    ) -> None:
        self.directory = directory
        self.layer = layer
        self._secrets = secrets
        self._schema = schema
        self._prefix = prefix
        self.last_sequence = 0
        """The highest number of a save that was seen so far."""

    # ---- what is there

    def look(self) -> tuple[list[Candidate], dict[str, str], dict[str, OSError]]:
        """The files that look valid, the damaged ones and those that cannot be read. Moves nothing."""
        valid: list[Candidate] = []
        damaged: dict[str, str] = {}
        unreadable: dict[str, OSError] = {}
        for name, examine in self.examiners():
            try:
                candidate = self.examine(name, examine)
                if candidate is not None:
                    valid.append(candidate)
            except DamagedError as error:
                damaged[name] = str(error)
            except OSError as error:
                unreadable[name] = error
        changes, broken, closed = self.examine_changes()
        damaged |= broken
        unreadable |= closed
        self.last_sequence = max([self.last_sequence, *(candidate.sequence or 0 for candidate in valid)])
        return [self.with_changes(candidate, changes) for candidate in valid], damaged, unreadable

    def examine_changes(self) -> tuple[Changes, dict[str, str], dict[str, OSError]]:
        """The changes that look valid, and which files of them are damaged or cannot be read."""
        changes: Changes = {}
        damaged: dict[str, str] = {}
        unreadable: dict[str, OSError] = {}
        for number, name in self.changes_names():
            try:
                candidate = self.examine(name, self._json)
                if candidate is None:
                    continue
                if candidate.sequence != number:
                    raise DamagedError(of_another_save(candidate.sequence))
                self.last_sequence = max(self.last_sequence, number)
                changes[candidate.series, candidate.since] = candidate
            except DamagedError as error:
                damaged[name] = str(error)
            except OSError as error:
                unreadable[name] = error
        return changes, damaged, unreadable

    def changes_names(self) -> list[tuple[int, str]]:
        """Files of changes, oldest first, each with its number."""
        pattern = re.compile(re.escape(self._prefix) + CHANGES_NAME)
        found = map(pattern.fullmatch, self.layer.list_directory(self.directory))
        return sorted((int(name[1]), name[0]) for name in found if name is not None)

    def with_changes(self, candidate: Candidate, changes: Changes) -> Candidate:
        """The same with those of *changes* that go on from it, one after the other; an edited one is taken as it stands."""
        if candidate.series is None:
            return candidate
        following: list[Candidate] = []
        last = candidate
        while (candidate.series, last.sequence) in changes:
            last = changes[candidate.series, last.sequence]
            following.append(last)
        if not following:
            return candidate
        if candidate.is_edited:
            _log.warning(
                "state file %s was edited, and is taken as it stands; what was saved after it is not applied: %s",
                self.directory / candidate.name,
                ", ".join(one.name for one in following),
            )
            return candidate._replace(sequence=last.sequence)

        def content(restore: Restore) -> dict[str, Any]:  # Any: the user's values, or frozen ones
            found, pace = candidate.content(restore), Pace()
            for one in following:
                found = apply_changes(found, one.content(as_it_is), restore, pace)
            return found

        return candidate._replace(sequence=last.sequence, content=content)

    def examiners(self) -> Iterable[tuple[str, Callable[[str, bytes], Candidate]]]:
        """The names of whole files, and what is asked of each."""
        # In this order one wins over the next that is as new: what a person edited comes first.
        return (
            (self._prefix + JSON_NAME, self._json),
            (self._prefix + PICKLE_NAME, self._pickle),
            (self._prefix + PREVIOUS_NAME, self._json),
        )

    def examine(self, name: str, examine: Callable[[str, bytes], Candidate]) -> Candidate | None:
        """
        What *examine* says of the file; None: nothing has that name.

        Raises:
            DamagedError: it cannot be used.
            OSError: it cannot be read.
            StateVersionError: see `refuse_newer`.
        """
        try:
            data = self.layer.read(self.directory / name, MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except NotAFileError as error:
            raise DamagedError(str(error.strerror)) from None
        if len(data) > MAX_BYTES:
            raise DamagedError(f"it is larger than {MAX_BYTES:,} bytes")
        return examine(name, data)

    def _json(self, name: str, data: bytes) -> Candidate:
        return examine_json(name, data, self.refuse_newer)

    def _pickle(self, name: str, data: bytes) -> Candidate:
        return examine_pickle(name, data, self.refuse_newer)

    def refuse_newer(self, name: str, version: object, schema: object) -> None:
        """
        See that this program knows the versions of the file.

        Raises:
            StateVersionError: it does not.
        """
        if type(version) is int and version > FORMAT_VERSION:
            raise StateVersionError(
                f"state file {self.directory / name} has format version {version}; this program knows versions "
                f"up to {FORMAT_VERSION}: use the newer shockproof that wrote it, or another state_dir. "
                "Nothing was moved"
            )
        if type(schema) is int and self._schema is not None:
            self._schema.refuse_newer(schema, self.directory / name)

    def build(self, candidate: Candidate) -> SystemState:
        """
        The state, restored and migrated.

        Raises:
            DamagedError: it cannot be used after all.
            StateVersionError: it holds what this program cannot restore, or could not be migrated.
        """
        import pydantic

        from shockproof.vocabulary.models import SystemState

        try:
            fields = content_of(candidate, self._thaw)
            if "timestamp" not in fields:
                raise DamagedError("it holds no timestamp")
            if self._schema is not None:
                fields = self._schema.migrate(fields, candidate.schema, self.directory / candidate.name)
            # A model copies what it checks, and a large dict for half as long as reading it took: of these there is
            # nothing to check but that they are dicts.
            large = {
                name: fields[name]
                for name in ("cached_data", "configuration")
                if type(fields.get(name)) is dict
            }
            state = SystemState.from_dict({**fields, **{name: {} for name in large}})
            for name, value in large.items():
                setattr(state, name, value)
            return state
        except MalformedValueError as error:
            raise DamagedError(str(error)) from None
        except UnknownTypeError as error:
            raise StateVersionError(
                f"state file {self.directory / candidate.name} cannot be restored: {error}. Nothing was moved"
            ) from error
        except pydantic.ValidationError as error:
            # Never the input: it may be a secret.
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise DamagedError(f"{where or 'it'}: {first['msg']}") from None

    def _thaw(self, value: Frozen) -> Any:  # Any: what was saved
        return thaw(value, open_secret=self._secrets.open)


def of_another_save(number: int | None) -> str:
    """What is wrong with a file of changes that holds save *number*, and not the one of its name."""
    return f"it holds {'no save' if number is None else f'save {number}'}, and its name says another"


def age(name: str, sequence: int | None, timestamp: datetime | None) -> tuple[bool, datetime, bool]:
    """What to compare where a file of the original program is among them, which has no number."""
    return (
        # One that has become the previous generation is older than our first save, whatever the clock says.
        name != PREVIOUS_NAME or sequence is not None,
        timestamp or datetime.min.replace(tzinfo=UTC),
        # Of two from the same moment its pickle is the richer one: its JSON turned all else into text.
        name == PICKLE_NAME,
    )

"""
The state in its directory: two files and the one before, each whole at any instant.

    system_state.json         for people: indented, one entry a line
    system_state.pkl          the same as a pickle of plain values, should the JSON be damaged
    system_state.prev.json    what system_state.json was before it was written last
    system_state.changes.N.json   what has changed since the save before, of a large state: save N
    days/                     the last state of each day, where that is asked for
    before-schema-N/          the files as they were before a program whose state has schema version N saved
    damaged/                  files that could not be read, set aside with the time; never deleted

The checksum of the JSON file, on its last line, covers every byte before that line. A file whose
checksum is wrong counts as damaged, for nobody can tell an edit from a broken disk; whoever edits it
writes ``"checksum": null``, and then it is read as it stands. Files of the original program have no
version, sequence or checksum and are read too.

A large state is not written whole every time: its changes come into files of their own, each of them whole at any
instant, and each telling which save it goes on from. They belong to the one series that began with a whole file;
that of the series before is kept, with its changes, as the previous generation.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import importlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from shockproof.memory.disk import writer
from shockproof.memory.disk.directory import DurableDirectory, make_durable
from shockproof.memory.disk.durable_file import Replacement, replace_durably
from shockproof.memory.disk.file_layer import FileLayer, FileStamp, NotAFileError, SystemFiles
from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.codec import (
    Frozen,
    MalformedValueError,
    UnknownTypeError,
    UnsavableValueError,
    freeze,
    thaw,
)
from shockproof.memory.state.collector import no_full_collections
from shockproof.memory.state.daily_states import DailyStates
from shockproof.memory.state.packed import Packed, let_go_packed
from shockproof.memory.state.pieces import json_pieces, pickle_pieces
from shockproof.memory.state.reading import OtherFormError, read_lines
from shockproof.memory.state.schema import Schema
from shockproof.memory.state.secrets import SecretNames
from shockproof.memory.state.state_capture import ENVELOPE, CapturedState, StateSecrets
from shockproof.memory.state.state_changes import apply_changes, changes_between
from shockproof.vocabulary.errors import StateVersionError

if TYPE_CHECKING:
    import hashlib

    from shockproof.vocabulary.models import SystemState

__all__ = ["FORMAT_VERSION", "DamagedFile", "RestoredState", "StateFiles", "SurveyedFile"]

FORMAT_VERSION = 2
"""The newest version of the files' form that this program reads."""
_WITHOUT_CHANGES = 1
"""The version of a file that has none beside it: programs that know of no changes can read it, too."""

JSON_NAME = "system_state.json"
PICKLE_NAME = "system_state.pkl"
PREVIOUS_NAME = "system_state.prev.json"
DAMAGED_DIRECTORY = "damaged"
_CHANGES_NAME = r"system_state\.changes\.([0-9]{1,18})\.json"

WHOLE_UP_TO = 1 << 20
"""Bytes of a state that is always written whole: that takes no longer than to find out what has changed."""
_MOST_CHANGES = 64
# Files: they are read one after the other when the state is restored.
_LARGEST_SHARE = 0.5
# What they may hold in comparison with the whole.

MAX_BYTES = 2 << 30
_MOST_UNPACKED = 1 << 30
_HEAD = 512

_log = logging.getLogger("shockproof")


class DamagedFile(NamedTuple):
    """A state file that could not be read."""

    path: Path
    reason: str
    moved_to: Path | None
    """Where it was set aside, or None when it could not be moved."""


class RestoredState(NamedTuple):
    """What was found in the directory."""

    state: SystemState | None
    """The newest valid state, or None when there is none."""
    source: Path | None = None
    """The file it came from."""
    sequence: int | None = None
    """Which save it was, counted from 1; None for a file of the original program."""
    damaged: tuple[DamagedFile, ...] = ()


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


_Restore = Callable[[Frozen], Any]  # Any: what was saved


class _Candidate(NamedTuple):
    """A file that passed every check that needs no decoding of values."""

    name: str
    sequence: int | None
    is_tagged: bool
    """Whether its values are frozen ones; those of the original program are plain."""
    content: Callable[[_Restore], dict[str, Any]]  # Any: the user's values, or frozen ones
    """Its sections, with what is frozen restored by what is handed in."""
    schema: int = 1
    """The version of what is in it."""
    series: str | None = None
    """What its changes, or those beside it, belong to."""
    since: int | None = None
    """The save that it tells the changes from, of a file of changes."""
    is_edited: bool = False


_Changes = dict[tuple[str | None, int | None], _Candidate]
"""By the series they belong to, and the save that they tell the changes from."""


class _Written(NamedTuple):
    """What this program has written last, and knows to be durable."""

    whole: int
    """The save that was written whole."""
    series: str
    sequence: int
    fields: dict[str, Frozen]
    size: int
    """Bytes of the whole."""
    stamp: FileStamp
    """Of the whole, as this program has left it."""
    files: int = 0
    """Of changes, since then."""
    bytes: int = 0
    """In them."""


class _DamagedError(Exception):
    """The file cannot be used; says why."""


class StateFiles:
    """
    Reads and writes the state files of one directory.

    Several of them may share a directory, in one process or many: writers take turns, and the last one
    to write wins. Everything blocks: call it in the writer's thread.

    Without a *schema* it reads states of every version, as they are: for people who look. With a *prefix* it reads files whose
    names begin so. *keep_days*: of so many days the last state is kept.
    """

    def __init__(
        self,
        directory: Path,
        *,
        secrets: StateSecrets | None = None,
        layer: FileLayer | None = None,
        schema: Schema | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        prefix: str = "",
        keep_days: int = 0,
    ) -> None:
        self.directory = directory
        self._prefix = prefix
        self._schema = Schema() if schema is None else schema
        self._takes_any_schema = schema is None
        self.secrets = StateSecrets(SecretNames()) if secrets is None else secrets
        self._layer: FileLayer = SystemFiles() if layer is None else layer
        self._place = DurableDirectory(self._layer, directory)
        self._daily = DailyStates(self._layer, directory, keep_days) if keep_days else None
        self._now = now
        self._surveyed = False
        self._last_sequence = 0
        self._last: _Written | None = None

    def __repr__(self) -> str:
        return f"StateFiles({str(self.directory)!r})"

    def prepare(self) -> None:
        """
        Make the directory and see that it can be written to.

        Raises:
            OSError: it cannot.
        """
        self._place.make()
        with self._layer.locked(self.directory):
            replace_durably(self._layer, self.directory, ())
            probe = self.directory / f".probe.{os.getpid()}.0.tmp"
            self._layer.close(self._layer.create(probe))
            self._layer.unlink(probe)

    def write(self, captured: CapturedState) -> int:
        """
        Make *captured* durable; returns its sequence number.

        Before the first save what is there is looked at: damaged files are set aside instead of being
        overwritten, and the numbers go on. What is no file, and so could not be replaced by one, is set
        aside before every save.

        Raises:
            OSError: the disk refused; the files hold the old state, or each of them the old or new one.
            StateVersionError: a newer program's files are there, or those of an older one that does not lead here;
                they are not touched.
        """
        _import_what_it_takes()
        if self.secrets.cipher is not None:
            captured.seal(self.secrets.cipher)
        self._place.make()
        with self._layer.locked(self.directory):
            head, changed_last = self._clear_the_way()
            if self._daily is not None:
                changes = [name for number, name in self._changes_names() if number > head.sequence]
                self._daily.keep(str(captured.fields["timestamp"]), changes)
            # Counted even when the write fails: half of it may have become visible.
            self._last_sequence += 1
            # After a failure nobody knows what the next one would go on from.
            last, self._last = self._last, None
            if last is not None and (head.sequence, head.series) != (last.whole, last.series):
                last = None  # another program has written since
            if last is not None and changed_last > last.sequence:
                last = None
            if last is not None and self._layer.stamp(self.directory / JSON_NAME) != last.stamp:
                # Changes would go on from what nobody can read any more, and be passed over with the next restore.
                _log.warning(
                    "state file %s was changed by somebody else while this program runs: what the program saves takes its "
                    "place, and the changed file is kept as %s until the whole is written again",
                    self.directory / JSON_NAME,
                    PREVIOUS_NAME,
                )
                last = None
            pace = Pace()
            self._last = self._write_changes(captured, last, pace) or self._write_whole(captured, head, pace)
        if last is not None:
            old: list[Packed] = [
                part for part in _packed_parts(last.fields) if part not in _packed_parts(captured.fields)
            ]
            del last
            let_go_packed(old, pace)
        return self._last_sequence

    def _write_whole(self, captured: CapturedState, before: _Head, pace: Pace) -> _Written | None:
        is_large = bool(captured.packed)
        series = os.urandom(8).hex() if is_large else None
        version = FORMAT_VERSION if is_large else _WITHOUT_CHANGES
        content = {**self._envelope(version, series), **captured.fields}
        size = _Size(_json_file(content, pace))
        replace_durably(
            self._layer,
            self.directory,
            (
                Replacement(JSON_NAME, size, previous=PREVIOUS_NAME),
                Replacement(PICKLE_NAME, _pickle_file(content, pace)),
            ),
        )
        # What leads from the previous whole to this one is what makes that a generation; what is older has had its day.
        for name in self._layer.list_directory(self.directory):
            changes = re.fullmatch(_CHANGES_NAME, name)
            if changes is not None and int(changes[1]) <= before.sequence:
                with contextlib.suppress(OSError):
                    self._layer.unlink(self.directory / name)
        if series is None or size.bytes <= WHOLE_UP_TO:
            return None
        try:
            stamp = self._layer.stamp(self.directory / JSON_NAME)
        except OSError:
            return None  # somebody is at work there: the next one is written whole, too
        return _Written(self._last_sequence, series, self._last_sequence, captured.fields, size.bytes, stamp)

    def _write_changes(self, captured: CapturedState, last: _Written | None, pace: Pace) -> _Written | None:
        """None where the whole has to be written."""
        if last is None or last.files >= _MOST_CHANGES or last.bytes > last.size * _LARGEST_SHARE:
            return None
        changes = changes_between(last.fields, captured.fields, pace)
        if changes is None:
            return None
        content = {**self._envelope(FORMAT_VERSION, last.series), "since": last.sequence, **changes}
        size = _Size(_json_file(content, pace, expand=4))
        name = f"system_state.changes.{self._last_sequence}.json"
        replace_durably(self._layer, self.directory, (Replacement(name, size),))
        return last._replace(
            sequence=self._last_sequence,
            fields=captured.fields,
            files=last.files + 1,
            bytes=last.bytes + size.bytes,
        )

    def _envelope(self, version: int, series: str | None) -> dict[str, Frozen]:
        envelope: dict[str, Frozen] = {"format_version": version, "sequence": self._last_sequence}
        if self._schema.version > 1:
            envelope["schema_version"] = self._schema.version
        if series is not None:
            envelope["series"] = series
        return envelope

    def hold_a_state(self) -> bool:
        """
        Whether a state was saved here, whatever it is worth; moves nothing, and takes no lock.

        Raises:
            OSError: the directory cannot be read.
        """
        try:
            names = self._layer.list_directory(self.directory)
        except FileNotFoundError:
            return False
        return not {JSON_NAME, PICKLE_NAME, PREVIOUS_NAME}.isdisjoint(names)

    def load(self) -> RestoredState:
        """
        The newest valid state among the JSON file, the pickle and the previous generation.

        Newer is the higher sequence number; where a file of the original program is among them, the
        later timestamp. Damaged files are set aside and reported.

        Raises:
            StateVersionError: a file was written by a newer program, holds what this one cannot restore (a
                class that is not registered), or could not be migrated; nothing was moved.
            OSError: no file is valid, and one could not be read at all.
        """
        _import_what_it_takes(to_restore=True)
        try:
            with self._layer.locked(self.directory), no_full_collections():
                return self._load()
        except FileNotFoundError:
            return RestoredState(None)

    def pack(self, captured: CapturedState, most: int) -> bytes:
        """
        What `write` has written, which has sealed its secrets, compressed and in one piece; `unpack` reads it.

        One that would be longer than *most* is given up there, a little longer than that.
        """
        content = {**self._envelope(_WITHOUT_CHANGES, None), **captured.fields}
        compressor, packed = zlib.compressobj(1), bytearray()
        for piece in _json_file(content, Pace()):
            packed += compressor.compress(piece)
            if len(packed) > most:
                return bytes(packed)
        return bytes(packed + compressor.flush())

    def unpack(self, data: bytes, name: str) -> SystemState:
        """
        The state that was packed.

        Raises:
            ValueError: it is damaged.
            StateVersionError: as `load`, with *name* as that of the file.
        """
        _import_what_it_takes(to_restore=True)
        unpacker = zlib.decompressobj()
        try:
            whole = unpacker.decompress(data, _MOST_UNPACKED)
            if not unpacker.eof:
                raise _DamagedError("it is cut off, or far too large")
            with no_full_collections():
                return self._build(self._examine_json(name, whole))
        except (zlib.error, _DamagedError) as error:
            raise ValueError(str(error)) from None

    def survey(self) -> tuple[SurveyedFile, ...]:
        """
        Every file that is there, what it holds and what is wrong with it, the one that `load` would take first.

        For people who look, maybe while a program saves: moves nothing, and takes no lock. Each file is whole
        for itself, and two of them may be of two saves. Changes that belong to a file are in what it holds; files of
        changes are named only if something is wrong with them. Needs none of the user's classes and no key.

        Raises:
            OSError: the directory cannot be read; one that is not there holds nothing.
        """
        _import_what_it_takes(to_restore=True)
        try:
            names = set(self._layer.list_directory(self.directory))
        except FileNotFoundError:
            names = set()
        changes, broken, unreadable = self._examine_changes() if names else ({}, {}, {})
        found = [self._surveyed_file(*one, changes) for one in self._examiners() if one[0] in names]
        wrong: list[tuple[str, Literal["damaged", "unreadable"], str]] = [
            *((name, "damaged", reason) for name, reason in broken.items()),
            *((name, "unreadable", str(error)) for name, error in unreadable.items()),
        ]
        for name, verdict, reason in wrong:
            path = self.directory / name
            found.append(SurveyedFile(path, verdict, reason, None, None, self._size_of(path), None))
        valid = [file for file in found if file.verdict == "valid"]
        if any(file.sequence is None for file in valid):
            valid.sort(key=lambda file: _age(file.path.name, file.sequence, file.timestamp), reverse=True)
        else:
            valid.sort(key=lambda file: file.sequence or 0, reverse=True)
        return (*valid, *(file for file in found if file.verdict != "valid"))

    def _surveyed_file(
        self, name: str, examine: Callable[[str, bytes], _Candidate], changes: _Changes
    ) -> SurveyedFile:
        path = self.directory / name
        size = self._size_of(path)

        def unusable(verdict: Literal["damaged", "unreadable", "newer"], error: Exception) -> SurveyedFile:
            return SurveyedFile(path, verdict, str(error), None, None, size, None)

        try:
            candidate = self._examine(name, examine)
            if candidate is None:
                raise FileNotFoundError(errno.ENOENT, "it was there a moment ago")
            candidate = self._with_changes(candidate, changes)
            sections = copy.deepcopy(_content_of(candidate, _as_it_is))  # building uses its values up
            lacking = None
            try:
                timestamp = self._build(candidate).timestamp
            except StateVersionError as error:
                lacking = str(error.__cause__ or error)
                timestamp = datetime.fromisoformat(sections["timestamp"])
            if not candidate.is_tagged:
                sections = _frozen_original(sections)
        except (_DamagedError, ValueError) as error:
            return unusable("damaged", error)
        except StateVersionError as error:
            return unusable("newer", error)
        except (OSError, UnsavableValueError) as error:
            return unusable("unreadable", error)
        return SurveyedFile(path, "valid", lacking, candidate.sequence, timestamp, size, sections)

    def _size_of(self, path: Path) -> int | None:
        try:
            return self._layer.stamp(path).size
        except OSError:
            return None

    # ---- reading

    def _load(self) -> RestoredState:
        valid, damaged, unreadable = self._look()
        best: _Candidate | None = None
        state: SystemState | None = None
        if any(candidate.sequence is None for candidate in valid):
            best, state = self._latest(valid, damaged)
        else:
            # What another candidate would give needs not be built: it is older, or the same. Nor is it kept: it is as
            # large, and freeing all of them at once takes 15 ms.
            valid = sorted(valid, key=lambda candidate: candidate.sequence or 0, reverse=True)
            pace = Pace()
            while valid and state is None:
                best = valid.pop(0)
                while valid:
                    del valid[-1]
                    pace.keep()
                try:
                    state = self._build(best)
                except _DamagedError as error:
                    damaged[best.name] = str(error)
                    best = None
                    valid, more, unreadable = self._look()
                    damaged |= more
                    valid = [candidate for candidate in valid if candidate.name not in damaged]
                    valid = sorted(valid, key=lambda candidate: candidate.sequence or 0, reverse=True)
        if state is None and unreadable:
            raise next(iter(unreadable.values()))
        files = self._report(damaged, unreadable)
        if best is None:
            return RestoredState(None, damaged=files)
        return RestoredState(state, self.directory / best.name, best.sequence, files)

    def _latest(
        self, candidates: list[_Candidate], damaged: dict[str, str]
    ) -> tuple[_Candidate | None, SystemState | None]:
        # The original program knows no numbers, and may have been at work after us: the times decide.
        built: list[tuple[_Candidate, SystemState]] = []
        for candidate in candidates:
            try:
                built.append((candidate, self._build(candidate)))
            except _DamagedError as error:
                damaged[candidate.name] = str(error)
        if not built:
            return None, None
        return max(built, key=lambda pair: _age(pair[0].name, pair[0].sequence, pair[1].timestamp))

    def _look(self) -> tuple[list[_Candidate], dict[str, str], dict[str, OSError]]:
        """The files that look valid, the damaged ones and those that cannot be read. Moves nothing."""
        valid: list[_Candidate] = []
        damaged: dict[str, str] = {}
        unreadable: dict[str, OSError] = {}
        for name, examine in self._examiners():
            try:
                candidate = self._examine(name, examine)
                if candidate is not None:
                    valid.append(candidate)
            except _DamagedError as error:
                damaged[name] = str(error)
            except OSError as error:
                unreadable[name] = error
        changes, broken, closed = self._examine_changes()
        damaged |= broken
        unreadable |= closed
        self._last_sequence = max([self._last_sequence, *(candidate.sequence or 0 for candidate in valid)])
        return [self._with_changes(candidate, changes) for candidate in valid], damaged, unreadable

    def _examine_changes(self) -> tuple[_Changes, dict[str, str], dict[str, OSError]]:
        """The changes that look valid, and which files of them are damaged or cannot be read."""
        changes: _Changes = {}
        damaged: dict[str, str] = {}
        unreadable: dict[str, OSError] = {}
        for number, name in self._changes_names():
            try:
                candidate = self._examine(name, self._examine_json)
                if candidate is None:
                    continue
                if candidate.sequence != number:
                    raise _DamagedError(_of_another_save(candidate.sequence))
                self._last_sequence = max(self._last_sequence, number)
                changes[candidate.series, candidate.since] = candidate
            except _DamagedError as error:
                damaged[name] = str(error)
            except OSError as error:
                unreadable[name] = error
        return changes, damaged, unreadable

    def _changes_names(self) -> list[tuple[int, str]]:
        """Files of changes, oldest first, each with its number."""
        pattern = re.compile(re.escape(self._prefix) + _CHANGES_NAME)
        found = map(pattern.fullmatch, self._layer.list_directory(self.directory))
        return sorted((int(name[1]), name[0]) for name in found if name is not None)

    def _with_changes(self, candidate: _Candidate, changes: _Changes) -> _Candidate:
        if candidate.series is None:
            return candidate
        following: list[_Candidate] = []
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

        def content(restore: _Restore) -> dict[str, Any]:  # Any: the user's values, or frozen ones
            found, pace = candidate.content(restore), Pace()
            for one in following:
                found = apply_changes(found, one.content(_as_it_is), restore, pace)
            return found

        return candidate._replace(sequence=last.sequence, content=content)

    def _thaw(self, value: Frozen) -> Any:  # Any: what was saved
        return thaw(value, open_secret=self.secrets.open)

    def _report(self, damaged: dict[str, str], unreadable: dict[str, OSError]) -> tuple[DamagedFile, ...]:
        files = [self._set_aside(name, reason) for name, reason in damaged.items()]
        files += [DamagedFile(self.directory / name, str(error), None) for name, error in unreadable.items()]
        for file in files:
            where = "it stays where it is" if file.moved_to is None else f"set aside as {file.moved_to}"
            _log.warning("state file %s is damaged: %s; %s", file.path, file.reason, where)
        self._surveyed = True
        return tuple(files)

    def _examiners(self) -> Iterable[tuple[str, Callable[[str, bytes], _Candidate]]]:
        # In this order one wins over the next that is as new: what a person edited comes first.
        return (
            (self._prefix + JSON_NAME, self._examine_json),
            (self._prefix + PICKLE_NAME, self._examine_pickle),
            (self._prefix + PREVIOUS_NAME, self._examine_json),
        )

    def _examine(self, name: str, examine: Callable[[str, bytes], _Candidate]) -> _Candidate | None:
        try:
            data = self._layer.read(self.directory / name, MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except NotAFileError as error:
            raise _DamagedError(str(error.strerror)) from None
        if len(data) > MAX_BYTES:
            raise _DamagedError(f"it is larger than {MAX_BYTES:,} bytes")
        return examine(name, data)

    def _examine_json(self, name: str, data: bytes) -> _Candidate:
        mark = re.compile(_CHECKSUM).search(data, max(0, len(data) - _HEAD))
        # First of all: what a damaged file says about its version and its origin is worth nothing.
        if mark is not None and _sha256(memoryview(data)[: mark.start()]).hexdigest() != mark[1].decode():
            raise _DamagedError(f"its checksum does not match{_EDITED}")
        head = _head_of(data)
        if head is not None:
            self._refuse_newer(name, head.version, head.schema)
        if mark is None or head is None:
            content = _parse(data)
            self._refuse_newer(name, content.get("format_version"), content.get("schema_version"))
            is_ours = "format_version" in content or "checksum" in content or _is_digest(content)
            if is_ours and "format_version" not in content:
                raise _DamagedError("its format version is missing")
            if is_ours and (content.get("checksum") is not None or _is_digest(content)):
                raise _DamagedError(f"its checksum is not where it was written{_EDITED}")
            return self._candidate(name, content, is_tagged=is_ours)._replace(is_edited=True)

        def sections(restore: _Restore) -> dict[str, Any]:  # Any: the user's values, or frozen ones
            try:
                content = read_lines(data, restore, Pace())
            except OtherFormError:
                return self._candidate(name, _parse(data), is_tagged=True).content(restore)
            return {key: value for key, value in content.items() if key not in ENVELOPE}

        return _Candidate(
            name,
            head.sequence,
            is_tagged=True,
            content=sections,
            schema=head.schema,
            series=head.series,
            since=head.since,
        )

    def _examine_pickle(self, name: str, data: bytes) -> _Candidate:
        trailer = re.compile(_PICKLE_TRAILER).search(data, max(0, len(data) - _HEAD))
        if trailer is None:
            return _Candidate(name, None, is_tagged=False, content=lambda _: _original_fields(data))
        if _sha256(memoryview(data)[: trailer.start("digest")]).hexdigest() != trailer["digest"].decode():
            raise _DamagedError("its checksum does not match")
        schema = int(trailer["schema"] or 1)
        self._refuse_newer(name, int(trailer["version"]), schema)

        def sections(restore: _Restore) -> dict[str, Any]:  # Any: the user's values, or frozen ones
            from shockproof.memory.state.safe_pickle import read_pickle

            content = read_pickle(data)
            if not isinstance(content, dict):
                raise _DamagedError("it holds no state")
            return self._candidate(name, content, is_tagged=True).content(restore)

        return _Candidate(
            name,
            int(trailer["sequence"]),
            is_tagged=True,
            content=sections,
            schema=schema,
            series=None if trailer["series"] is None else trailer["series"].decode(),
        )

    def _candidate(
        self, name: str, content: dict[str, Any], *, is_tagged: bool
    ) -> _Candidate:  # Any: as read
        version, sequence = (content["format_version"], content.get("sequence")) if is_tagged else (1, None)
        schema, series = (content.get("schema_version", 1), content.get("series")) if is_tagged else (1, None)
        if type(version) is not int or version < 1:
            raise _DamagedError(f"its format version is {version!r}")
        if sequence is not None and (type(sequence) is not int or sequence < 0):
            raise _DamagedError(f"its sequence number is {sequence!r}")
        if type(schema) is not int or schema < 1:
            raise _DamagedError(f"its schema version is {schema!r}")
        if series is not None and not isinstance(series, str):
            raise _DamagedError(f"its series is {series!r}")
        sections = {key: value for key, value in content.items() if not (is_tagged and key in ENVELOPE)}

        def restored(restore: _Restore) -> dict[str, Any]:  # Any: the user's values, or frozen ones
            return {key: restore(value) for key, value in sections.items()} if is_tagged else sections

        return _Candidate(name, sequence, is_tagged, restored, schema, series)

    def _build(self, candidate: _Candidate) -> SystemState:
        import pydantic

        from shockproof.vocabulary.models import SystemState

        try:
            fields = _content_of(candidate, self._thaw)
            if "timestamp" not in fields:
                raise _DamagedError("it holds no timestamp")
            if not self._takes_any_schema:
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
            raise _DamagedError(str(error)) from None
        except UnknownTypeError as error:
            raise StateVersionError(
                f"state file {self.directory / candidate.name} cannot be restored: {error}. Nothing was moved"
            ) from error
        except pydantic.ValidationError as error:
            # Never the input: it may be a secret.
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise _DamagedError(f"{where or 'it'}: {first['msg']}") from None

    def _clear_the_way(self) -> tuple[_Head, int]:
        """
        See to it that the next save harms nothing, and that nothing is in its way.

        Returns how the whole file begins, and the number of the last changes.
        """
        if not self._surveyed:
            self._survey()
        for name in (PICKLE_NAME, PREVIOUS_NAME):
            with contextlib.suppress(OSError):  # what cannot be read is only overwritten here
                self._head(name)
        # Another program may have written since.
        nothing = _Head(_WITHOUT_CHANGES, 0, self._schema.version, None, None)
        head = self._head(JSON_NAME) or nothing
        if head.version > FORMAT_VERSION or head.version < 1 or head.schema > self._schema.version:
            self._survey()  # it is damaged, or this refuses
            head = self._head(JSON_NAME) or nothing
        changed_last = self._changed_last()
        self._last_sequence = max(self._last_sequence, head.sequence, changed_last)
        if head.schema < self._schema.version:
            self._keep_unmigrated()
        return head, changed_last

    def _changed_last(self) -> int:
        """The number of the last changes; a file that holds another save than its name says is set aside."""
        last = 0
        for number, name in self._changes_names():
            if number > self._last_sequence:  # another program has written it, or nobody
                with contextlib.suppress(OSError):
                    head = self._head(name)
                    found = None if head is None else head.sequence
                    if found == number:
                        last = number
                    else:
                        self._report({name: _of_another_save(found)}, {})
            else:
                last = number
        return last

    def _keep_unmigrated(self) -> None:
        """Copy the files of the older schema once, so that whoever goes back to the older program finds them."""
        aside = self.directory / f"before-schema-{self._schema.version}"
        make_durable(self._layer, aside)
        if JSON_NAME in self._layer.list_directory(aside):
            return
        copies: list[Replacement] = []
        for name in (*(name for _, name in self._changes_names()), PICKLE_NAME, JSON_NAME):
            with contextlib.suppress(FileNotFoundError):
                copies.append(Replacement(name, [self._layer.read(self.directory / name, MAX_BYTES)]))
        replace_durably(self._layer, aside, copies)

    def _survey(self) -> None:
        _, damaged, unreadable = self._look()
        self._report(damaged, unreadable)

    def _head(self, name: str) -> _Head | None:
        try:
            return _head_of(self._layer.read(self.directory / name, _HEAD))
        except FileNotFoundError:
            return None
        except NotAFileError as error:
            self._report({name: str(error.strerror)}, {})
            return None

    def _refuse_newer(self, name: str, version: object, schema: object) -> None:
        if type(version) is int and version > FORMAT_VERSION:
            raise StateVersionError(
                f"state file {self.directory / name} has format version {version}; this program knows versions "
                f"up to {FORMAT_VERSION}: use the newer shockproof that wrote it, or another state_dir. "
                "Nothing was moved"
            )
        if type(schema) is int and not self._takes_any_schema:
            self._schema.refuse_newer(schema, self.directory / name)

    def _set_aside(self, name: str, reason: str) -> DamagedFile:
        source = self.directory / name
        try:
            aside = self.directory / DAMAGED_DIRECTORY
            make_durable(self._layer, aside)
            taken = set(self._layer.list_directory(aside))
            stem = f"{name}.{self._now().astimezone(UTC):%Y%m%dT%H%M%SZ}"
            unique = next(name for name in _numbered(stem) if name not in taken)
            self._layer.replace(source, aside / unique)
            self._layer.fsync_directory(aside)
            self._layer.fsync_directory(self.directory)
        except OSError:
            # A directory that may not be written to: what can be read is still worth having.
            return DamagedFile(source, reason, None)
        return DamagedFile(source, reason, aside / unique)


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}.{number}"
        number += 1


# ---- the form of the files

# Compiled at first use, in the disk's thread: that takes longer than importing the rest of this file.
_CHECKSUM = rb',\n  "checksum": "sha256:([0-9a-f]{64})"\n\}\s*\Z'
_DIGEST = "sha256:[0-9a-f]{64}"
_PICKLE_TRAILER = (
    rb"\nshockproof format_version=(?P<version>[0-9]{1,9}) sequence=(?P<sequence>[0-9]{1,18})"
    rb"(?: schema_version=(?P<schema>[0-9]{1,9}))?(?: series=(?P<series>[0-9a-f]{16}))? sha256=(?P<digest>[0-9a-f]{64})\n\Z"
)
_JSON_HEAD = (
    rb'\A\s*\{\s*"format_version":\s*([0-9]{1,9}),\s*"sequence":\s*([0-9]{1,18}),'
    rb'(?:\s*"schema_version":\s*([0-9]{1,9}),)?'
    rb'(?:\s*"series":\s*"([0-9a-f]{16})",)?(?:\s*"since":\s*([0-9]{1,18}),)?'
)
_EDITED = '; if it was edited on purpose, write "checksum": null in it and put it back'


def _json_file(content: dict[str, Frozen], pace: Pace, expand: int = 2) -> Iterator[bytes]:
    digest = _sha256(b"")
    last = b""
    for piece in json_pieces(content, pace=pace, expand=expand):
        digest.update(last)
        yield last
        last = piece
    # The last piece is the closing brace; the checksum goes in front of it.
    yield b',\n  "checksum": "sha256:%s"\n}\n' % digest.hexdigest().encode()


def _pickle_file(content: dict[str, Frozen], pace: Pace) -> Iterator[bytes]:
    digest = _sha256(b"")
    told = ("format_version", "sequence", "schema_version", "series")
    known = " ".join(f"{name}={content[name]}" for name in told if name in content)
    for pieces in (pickle_pieces(content, pace=pace), (f"\nshockproof {known} sha256=".encode(),)):
        for piece in pieces:
            digest.update(piece)
            yield piece
    yield digest.hexdigest().encode() + b"\n"


class _Size:
    """Counts what goes through."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.bytes = 0
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.bytes += len(piece)
            yield piece


def _packed_parts(fields: dict[str, Frozen]) -> list[Packed]:
    sections = [child for value in fields.values() if type(value) is dict for child in value.values()]
    return [part for part in (*fields.values(), *sections) if isinstance(part, Packed)]


def _of_another_save(number: int | None) -> str:
    return f"it holds {'no save' if number is None else f'save {number}'}, and its name says another"


def _as_it_is(value: Frozen) -> Frozen:
    return value


def _import_what_it_takes(*, to_restore: bool = False) -> None:
    modules = ["hashlib", "json", "pickle"]
    if to_restore:
        modules += [
            "shockproof.memory.state.safe_pickle",
            "shockproof.vocabulary.models",
        ]  # and with it pydantic
    # At once and not in the middle: a fork waits for it.
    with writer.imports:
        for module in modules:
            importlib.import_module(module)


def _sha256(data: bytes | memoryview) -> hashlib._Hash:
    import hashlib

    return hashlib.sha256(data)


class _Head(NamedTuple):
    """What a JSON file of ours begins with."""

    version: int
    sequence: int
    schema: int
    series: str | None
    since: int | None


def _head_of(data: bytes) -> _Head | None:
    head = re.match(_JSON_HEAD, data[:_HEAD])
    if head is None:
        return None
    series, since = head[4], head[5]
    return _Head(
        int(head[1]),
        int(head[2]),
        int(head[3] or 1),
        None if series is None else series.decode(),
        None if since is None else int(since),
    )


def _is_digest(content: dict[str, Any]) -> bool:  # Any: as read
    """Whether the last entry is a checksum, under a name that may be damaged."""
    last = next(reversed(content.values()), None)
    return isinstance(last, str) and re.fullmatch(_DIGEST, last) is not None


def _parse(data: bytes) -> dict[str, Any]:  # Any: as read
    import json

    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise _DamagedError(f"it is no valid JSON{where}") from None
    if not isinstance(content, dict):
        raise _DamagedError("it is no JSON object")
    return content


def _age(name: str, sequence: int | None, timestamp: datetime | None) -> tuple[bool, datetime, bool]:
    """What to compare where a file of the original program is among them, which has no number."""
    return (
        # One that has become the previous generation is older than our first save, whatever the clock says.
        name != PREVIOUS_NAME or sequence is not None,
        timestamp or datetime.min.replace(tzinfo=UTC),
        # Of two from the same moment its pickle is the richer one: its JSON turned all else into text.
        name == PICKLE_NAME,
    )


def _frozen_original(fields: dict[str, Any]) -> dict[str, Frozen]:  # Any: the user's values
    fields = dict(fields)
    statuses: dict[str, object] = fields.pop("service_statuses", {})
    moment = fields.pop("timestamp")
    return {
        "timestamp": moment.isoformat() if isinstance(moment, datetime) else moment,
        "service_statuses": {name: getattr(status, "value", status) for name, status in statuses.items()},
        **{name: freeze(value, name=name) for name, value in fields.items()},
    }


def _content_of(
    candidate: _Candidate, restore: _Restore
) -> dict[str, Any]:  # Any: the user's values, or frozen ones
    from shockproof.memory.state.safe_pickle import RefusedPickleError

    try:
        return candidate.content(restore)
    except RefusedPickleError as error:
        raise _DamagedError(f"as a pickle, it {error}") from None


def _original_fields(data: bytes) -> dict[str, Any]:  # Any: the user's values
    from shockproof.memory.state.safe_pickle import read_pickle

    value = read_pickle(data)
    if isinstance(value, dict):
        if "format_version" in value:
            raise _DamagedError("its end, with the checksum, is missing")
        return value
    from shockproof.vocabulary.models import SystemState

    if isinstance(value, SystemState):
        return {**value.__dict__, **(value.__pydantic_extra__ or {})}
    raise _DamagedError("it holds no state")

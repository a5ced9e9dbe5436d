"""
The state in its directory: two files and the one before, each whole at any instant.

    system_state.json         for people: indented, one entry a line
    system_state.pkl          the same as a pickle of plain values, should the JSON be damaged
    system_state.prev.json    what system_state.json was before it was written last
    system_state.changes.N.json   what has changed since the save before, of a large state: save N
    days/                     the last state of each day, where that is asked for
    before-schema-N/          the files as they were before a program whose state has schema version N saved
    damaged/                  files that could not be read, set aside with the time; never deleted

A large state is not written whole every time: its changes come into files of their own, each of them whole at any
instant, and each telling which save it goes on from. They belong to the one series that began with a whole file;
that of the series before is kept, with its changes, as the previous generation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shockproof.memory.disk.damaged_files import DamagedFile, set_aside
from shockproof.memory.disk.directory import DurableDirectory, make_durable
from shockproof.memory.disk.durable_file import Replacement, replace_durably
from shockproof.memory.disk.file_layer import FileLayer, FileStamp, NotAFileError, SystemFiles
from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.codec import Frozen
from shockproof.memory.state.collector import no_full_collections
from shockproof.memory.state.daily_states import DailyStates
from shockproof.memory.state.packed import Packed, let_go_packed, packed_in
from shockproof.memory.state.schema import Schema
from shockproof.memory.state.secrets import SecretNames
from shockproof.memory.state.state_capture import CapturedState, StateSecrets
from shockproof.memory.state.state_changes import changes_between
from shockproof.memory.state.state_file import (
    FORMAT_VERSION,
    HEAD_BYTES,
    WITHOUT_CHANGES,
    Candidate,
    DamagedError,
    Head,
    examine_json,
    head_of,
    import_what_it_takes,
    json_file,
    pickle_file,
)
from shockproof.memory.state.state_survey import SurveyedFile, survey
from shockproof.memory.state.stored_states import (
    CHANGES_NAME,
    JSON_NAME,
    MAX_BYTES,
    PICKLE_NAME,
    PREVIOUS_NAME,
    StoredStates,
    age,
    of_another_save,
)

if TYPE_CHECKING:
    from shockproof.vocabulary.models import SystemState

__all__ = ["RestoredState", "StateFiles"]

WHOLE_UP_TO = 1 << 20
"""Bytes of a state that is always written whole: that takes no longer than to find out what has changed."""
_MOST_CHANGES = 64
# Files: they are read one after the other when the state is restored.
_LARGEST_SHARE = 0.5
# What they may hold in comparison with the whole.

_MOST_UNPACKED = 1 << 30

_log = logging.getLogger("shockproof")


class RestoredState(NamedTuple):
    """What was found in the directory."""

    state: SystemState | None
    """The newest valid state, or None when there is none."""
    source: Path | None = None
    """The file it came from."""
    sequence: int | None = None
    """Which save it was, counted from 1; None for a file of the original program."""
    damaged: tuple[DamagedFile, ...] = ()


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
        self._schema = Schema() if schema is None else schema
        self.secrets = StateSecrets(SecretNames()) if secrets is None else secrets
        self._layer: FileLayer = SystemFiles() if layer is None else layer
        self._place = DurableDirectory(self._layer, directory)
        self._daily = DailyStates(self._layer, directory, keep_days) if keep_days else None
        self._now = now
        self._surveyed = False
        self._stored = StoredStates(directory, self._layer, self.secrets, schema, prefix)
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
        import_what_it_takes()
        if self.secrets.cipher is not None:
            captured.seal(self.secrets.cipher)
        self._place.make()
        with self._layer.locked(self.directory):
            head, changed_last = self._clear_the_way()
            if self._daily is not None:
                changes = [name for number, name in self._stored.changes_names() if number > head.sequence]
                self._daily.keep(str(captured.fields["timestamp"]), changes)
            # Counted even when the write fails: half of it may have become visible.
            self._stored.last_sequence += 1
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
            kept = packed_in(captured.fields)
            old: list[Packed] = [part for part in packed_in(last.fields) if part not in kept]
            del last
            let_go_packed(old, pace)
        return self._stored.last_sequence

    def _write_whole(self, captured: CapturedState, before: Head, pace: Pace) -> _Written | None:
        is_large = bool(captured.packed)
        series = os.urandom(8).hex() if is_large else None
        version = FORMAT_VERSION if is_large else WITHOUT_CHANGES
        content = {**self._envelope(version, series), **captured.fields}
        size = _Size(json_file(content, pace))
        replace_durably(
            self._layer,
            self.directory,
            (
                Replacement(JSON_NAME, size, previous=PREVIOUS_NAME),
                Replacement(PICKLE_NAME, pickle_file(content, pace)),
            ),
        )
        # What leads from the previous whole to this one is what makes that a generation; what is older has had its day.
        for name in self._layer.list_directory(self.directory):
            changes = re.fullmatch(CHANGES_NAME, name)
            if changes is not None and int(changes[1]) <= before.sequence:
                with contextlib.suppress(OSError):
                    self._layer.unlink(self.directory / name)
        if series is None or size.bytes <= WHOLE_UP_TO:
            return None
        try:
            stamp = self._layer.stamp(self.directory / JSON_NAME)
        except OSError:
            return None  # somebody is at work there: the next one is written whole, too
        return _Written(
            self._stored.last_sequence, series, self._stored.last_sequence, captured.fields, size.bytes, stamp
        )

    def _write_changes(self, captured: CapturedState, last: _Written | None, pace: Pace) -> _Written | None:
        """None where the whole has to be written."""
        if last is None or last.files >= _MOST_CHANGES or last.bytes > last.size * _LARGEST_SHARE:
            return None
        changes = changes_between(last.fields, captured.fields, pace)
        if changes is None:
            return None
        content = {**self._envelope(FORMAT_VERSION, last.series), "since": last.sequence, **changes}
        size = _Size(json_file(content, pace, expand=4))
        name = f"system_state.changes.{self._stored.last_sequence}.json"
        replace_durably(self._layer, self.directory, (Replacement(name, size),))
        return last._replace(
            sequence=self._stored.last_sequence,
            fields=captured.fields,
            files=last.files + 1,
            bytes=last.bytes + size.bytes,
        )

    def _envelope(self, version: int, series: str | None) -> dict[str, Frozen]:
        envelope: dict[str, Frozen] = {"format_version": version, "sequence": self._stored.last_sequence}
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

    def stamps(self) -> dict[str, FileStamp | None]:
        """
        What tells whether anybody has saved here since it was asked last; moves nothing, and takes no lock.

        Raises:
            OSError: the directory cannot be read.
        """
        stamps: dict[str, FileStamp | None] = {}
        for name in self._layer.list_directory(self.directory):
            if name in {JSON_NAME, PICKLE_NAME, PREVIOUS_NAME} or re.fullmatch(CHANGES_NAME, name):
                stamps[name] = None
                with contextlib.suppress(OSError):  # it is no file, or has gone meanwhile
                    stamps[name] = self._layer.stamp(self.directory / name)
        return stamps

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
        import_what_it_takes(to_restore=True)
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
        content = {**self._envelope(WITHOUT_CHANGES, None), **captured.fields}
        compressor, packed = zlib.compressobj(1), bytearray()
        for piece in json_file(content, Pace()):
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
        import_what_it_takes(to_restore=True)
        unpacker = zlib.decompressobj()
        try:
            whole = unpacker.decompress(data, _MOST_UNPACKED)
            if not unpacker.eof:
                raise DamagedError("it is cut off, or far too large")
            with no_full_collections():
                return self._stored.build(examine_json(name, whole, self._stored.refuse_newer))
        except (zlib.error, DamagedError) as error:
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
        return survey(self._stored)

    # ---- reading

    def _load(self) -> RestoredState:
        valid, damaged, unreadable = self._stored.look()
        best: Candidate | None = None
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
                    state = self._stored.build(best)
                except DamagedError as error:
                    damaged[best.name] = str(error)
                    best = None
                    valid, more, unreadable = self._stored.look()
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
        self, candidates: list[Candidate], damaged: dict[str, str]
    ) -> tuple[Candidate | None, SystemState | None]:
        # The original program knows no numbers, and may have been at work after us: the times decide.
        built: list[tuple[Candidate, SystemState]] = []
        for candidate in candidates:
            try:
                built.append((candidate, self._stored.build(candidate)))
            except DamagedError as error:
                damaged[candidate.name] = str(error)
        if not built:
            return None, None
        return max(built, key=lambda pair: age(pair[0].name, pair[0].sequence, pair[1].timestamp))

    def _report(self, damaged: dict[str, str], unreadable: dict[str, OSError]) -> tuple[DamagedFile, ...]:
        files = [
            set_aside(self._layer, self.directory, name, reason, self._now())
            for name, reason in damaged.items()
        ]
        files += [DamagedFile(self.directory / name, str(error), None) for name, error in unreadable.items()]
        for file in files:
            where = "it stays where it is" if file.moved_to is None else f"set aside as {file.moved_to}"
            _log.warning("state file %s is damaged: %s; %s", file.path, file.reason, where)
        self._surveyed = True
        return tuple(files)

    def _clear_the_way(self) -> tuple[Head, int]:
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
        nothing = Head(WITHOUT_CHANGES, 0, self._schema.version, None, None)
        head = self._head(JSON_NAME) or nothing
        if head.version > FORMAT_VERSION or head.version < 1 or head.schema > self._schema.version:
            self._survey()  # it is damaged, or this refuses
            head = self._head(JSON_NAME) or nothing
        changed_last = self._changed_last()
        self._stored.last_sequence = max(self._stored.last_sequence, head.sequence, changed_last)
        if head.schema < self._schema.version:
            self._keep_unmigrated()
        return head, changed_last

    def _changed_last(self) -> int:
        """The number of the last changes; a file that holds another save than its name says is set aside."""
        last = 0
        for number, name in self._stored.changes_names():
            if number > self._stored.last_sequence:  # another program has written it, or nobody
                with contextlib.suppress(OSError):
                    head = self._head(name)
                    found = None if head is None else head.sequence
                    if found == number:
                        last = number
                    else:
                        self._report({name: of_another_save(found)}, {})
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
        for name in (*(name for _, name in self._stored.changes_names()), PICKLE_NAME, JSON_NAME):
            with contextlib.suppress(FileNotFoundError):
                copies.append(Replacement(name, [self._layer.read(self.directory / name, MAX_BYTES)]))
        replace_durably(self._layer, aside, copies)

    def _survey(self) -> None:
        _, damaged, unreadable = self._stored.look()
        self._report(damaged, unreadable)

    def _head(self, name: str) -> Head | None:
        try:
            return head_of(self._layer.read(self.directory / name, HEAD_BYTES))
        except FileNotFoundError:
            return None
        except NotAFileError as error:
            self._report({name: str(error.strerror)}, {})
            return None


class _Size:
    """Counts what goes through."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.bytes = 0
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.bytes += len(piece)
            yield piece
